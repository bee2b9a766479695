//! Reads a network camera, which sends an MJPEG stream or single JPEG pictures over HTTP
//! or HTTPS.
//!
//! This module owns the connection and the runtime that drives it. Callers see only
//! frames. This module contains its own HTTP client, because HTTP libraries reject the
//! responses of some cameras. See
//! docs/decisions/why-does-maskd-read-http-cameras-itself.md.
//!
//! | file | owns |
//! |---|---|
//! | `answer.rs` | the syntax and the maximum size of HTTP responses |
//! | `login.rs` | Basic and Digest authentication |
//! | `tls.rs` | which certificates are accepted |
//! | `connection.rs` | name resolution, TCP, the TLS handshake |
//! | `client.rs` | requests, redirects, logins, and the reuse of a connection |

pub mod answer;
mod client;
pub(crate) mod connection;
mod login;
pub(crate) mod tls;

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use self::client::{Answer, Client};
use super::address::CameraUrl;
use super::error::SourceError;
use super::mjpeg::LatestJpeg;
use super::options::CameraOptions;
use super::source::{Source, now};
use crate::frame::Frame;
use crate::platform::text::printable;

/// Maximum time to keep reading after a complete picture, in case a newer picture is
/// already in the socket's buffer. Socket buffers hold megabytes. Without this extra
/// reading, a decoder that is slower than the camera would fall behind by seconds.
const CATCH_UP: Duration = Duration::from_millis(20);

/// If no bytes arrive for this long, the socket's buffer is assumed to be empty.
const PAUSE: Duration = Duration::from_millis(1);

/// A network camera.
///
/// A response that is not multipart and ends after one picture is a snapshot. The next
/// snapshot is requested `1 / fps` seconds after the previous request, or when the
/// current response is complete, whichever is later. The wait between two snapshots does
/// not count as a loss of the source.
pub struct HttpSource {
    /// The runtime. It is `None` only while this value is being dropped.
    runtime: Option<Runtime>,
    stream: Stream,
}

impl HttpSource {
    /// Prepares to read the camera at `url`. The first call to [`Source::next`] connects
    /// to the camera.
    ///
    /// # Errors
    /// Returns an error if the Tokio runtime cannot be created.
    pub fn open(
        url: &CameraUrl,
        options: &CameraOptions,
        stop: CancellationToken,
    ) -> Result<HttpSource, SourceError> {
        let runtime = runtime(url)?;
        let stream = Stream {
            client: Client::new(url.clone(), options.tls.clone(), options.stall),
            answer: None,
            content_type: None,
            pictures_before: 0,
            requested_at: now(),
            next_request: None,
            failure: None,
            latest: LatestJpeg::new(options),
            interval: Duration::from_secs(1) / options.video.fps.max(1),
            stall: options.stall,
            stop,
        };
        Ok(HttpSource {
            runtime: Some(runtime),
            stream,
        })
    }
}

/// Connects to an `https` camera, and returns the SHA-256 of its certificate if the
/// certificate is accepted. This function takes at most `options.stall`.
///
/// # Errors
/// Returns the same errors as reading a frame from this camera.
pub fn probe_certificate(url: &CameraUrl, options: &CameraOptions) -> Result<String, SourceError> {
    let runtime = runtime(url)?;
    let mut client = Client::new(url.clone(), options.tls.clone(), options.stall);
    let found = runtime.block_on(async {
        let probe = tokio::time::timeout(options.stall, client.fingerprint());
        probe.await
    });
    runtime.shutdown_background();
    found.unwrap_or_else(|_| Err(client.failed("it does not answer")))
}

/// Requests one picture from a camera, and returns its width and height in pixels. This
/// function waits at most `options.stall` for new bytes.
///
/// # Errors
/// Returns the same errors as reading a frame from this camera.
pub fn probe_picture(url: &CameraUrl, options: &CameraOptions) -> Result<(u32, u32), SourceError> {
    let mut source = HttpSource::open(url, options, CancellationToken::new())?;
    match source.next()? {
        Some(frame) => Ok(frame.pixels.dimensions()),
        None => Err(source.stream.client.failed("it sent no picture")),
    }
}

fn runtime(url: &CameraUrl) -> Result<Runtime, SourceError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| SourceError::HttpClient {
            url: url.to_string(),
            why: error.to_string(),
        })
}

impl Source for HttpSource {
    fn next(&mut self) -> Result<Option<Frame>, SourceError> {
        let Some(runtime) = &self.runtime else {
            return Ok(None);
        };
        let mut start = now();
        loop {
            if let Some(due) = self.stream.next_request.take() {
                let before = now();
                if !runtime.block_on(self.stream.wait(due)) {
                    return Ok(None);
                }
                // The wait before a request does not count toward the stall timeout.
                start += now().saturating_duration_since(before);
            }
            if !runtime.block_on(self.stream.next_picture(start))? {
                return Ok(None);
            }
            if let Some(frame) = self.stream.latest.decode() {
                return Ok(Some(frame));
            }
        }
    }
}

impl Drop for HttpSource {
    fn drop(&mut self) {
        // A DNS lookup cannot be canceled and may take many seconds, so this function
        // does not wait for the lookup to finish.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Stream {
    client: Client,
    /// The response that is being read; `None` before the first request and between two
    /// snapshots.
    answer: Option<Answer>,
    /// The content type that the camera declares for its pictures. Only messages use this
    /// value.
    content_type: Option<String>,
    /// Number of pictures that were received before the current response.
    pictures_before: u64,
    requested_at: Instant,
    /// The time at which to request the next snapshot.
    next_request: Option<Instant>,
    /// The failure that ended the stream, if it has not been reported yet. A picture that
    /// was received before the failure is returned first.
    failure: Option<SourceError>,
    latest: LatestJpeg,
    /// The time between two snapshots.
    interval: Duration,
    stall: Duration,
    stop: CancellationToken,
}

impl Stream {
    /// Waits until `due`. Returns false if a stop is requested first.
    async fn wait(&self, due: Instant) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep_until(due.into()) => true,
        }
    }

    /// Reads until a complete picture is available or a response has ended without a
    /// picture. Returns false if a stop is requested first.
    ///
    /// The stall timeout starts at `start`. Several calls can share one timeout.
    async fn next_picture(&mut self, start: Instant) -> Result<bool, SourceError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let stop = self.stop.clone();
        let left = self.stall.saturating_sub(now().duration_since(start));
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(false),
            read = tokio::time::timeout(left, self.read_picture()) => match read {
                Ok(read) => read?,
                Err(_) => return Err(self.stalled()),
            },
        }
        Ok(true)
    }

    async fn read_picture(&mut self) -> Result<(), SourceError> {
        if self.answer.is_none() {
            self.requested_at = now();
            self.pictures_before = self.latest.pictures();
            self.answer = Some(self.client.get().await?);
            let taken = self.take_bytes();
            self.keep(taken)?;
        }
        while !self.latest.is_waiting() && self.answer.is_some() {
            let read = self.read().await;
            self.keep(read)?;
        }
        let complete = now();
        while self.answer.is_some()
            && self.failure.is_none()
            && now().duration_since(complete) < CATCH_UP
        {
            let Ok(read) = tokio::time::timeout(PAUSE, self.read()).await else {
                break;
            };
            self.keep(read)?;
        }
        Ok(())
    }

    /// Returns `result`. However, if `result` is a failure and a picture is waiting to be
    /// decoded, stores the failure for a later call and returns `Ok`.
    fn keep(&mut self, result: Result<(), SourceError>) -> Result<(), SourceError> {
        match result {
            Err(error) if self.latest.is_waiting() => {
                self.failure = Some(error);
                Ok(())
            }
            other => other,
        }
    }

    /// Reads the next bytes of the response. This function is cancel-safe: no bytes are
    /// lost if the future is dropped.
    async fn read(&mut self) -> Result<(), SourceError> {
        if let Some(answer) = &mut self.answer {
            let read = answer.read().await;
            read.map_err(|why| self.client.failed(&why))?;
            self.take_bytes()?;
        }
        Ok(())
    }

    /// Passes the received bytes to the splitter. If the response has ended, closes
    /// it and determines whether to request another snapshot.
    fn take_bytes(&mut self) -> Result<(), SourceError> {
        let Some(answer) = &mut self.answer else {
            return Ok(());
        };
        let bytes = answer.take_body();
        if self.content_type.is_none() {
            let head = answer.head();
            let declared = if head.is_multipart() {
                part_type(&bytes)
            } else {
                head.content_type.clone()
            };
            self.content_type = declared.map(|declared| self.client.redact(&declared));
        }
        self.latest.push(&bytes, now());
        if !answer.has_ended() {
            return Ok(());
        }
        self.latest.finish(now());
        let head = answer.head();
        let pictures = self.latest.pictures() - self.pictures_before;
        if pictures == 0 && answer.is_open() && !head.is_text() {
            // The response has reached its declared length without containing a picture.
            // The declared length is therefore wrong and is ignored.
            answer.ignore_length();
            return Ok(());
        }
        let answer = self.answer.take();
        if pictures == 1 && !head.is_multipart() {
            if let Some(answer) = answer {
                self.client.reuse(answer);
            }
            self.next_request = Some(self.requested_at + self.interval);
            return Ok(());
        }
        let url = self.client.shown();
        Err(match head.content_type {
            Some(content_type) if pictures == 0 && !content_type.starts_with("image/") => {
                let content_type: String = content_type.chars().take(80).collect();
                SourceError::HttpNoPicture {
                    url,
                    content_type: self.client.redact(&content_type),
                    received: self.latest.received(),
                }
            }
            _ => SourceError::HttpEnded {
                url,
                received: if pictures == 0 {
                    self.latest.received()
                } else {
                    "it had sent pictures before".to_owned()
                },
            },
        })
    }

    fn stalled(&self) -> SourceError {
        let received = match (&self.answer, &self.content_type) {
            (None, _) => "it did not answer".to_owned(),
            (Some(_), Some(kind)) if !kind.to_ascii_lowercase().contains("jp") => format!(
                "{} of the type {kind}, so set the camera to MJPEG, or read it with ffmpeg through \
                 exec:",
                self.latest.received()
            ),
            (Some(_), _) => self.latest.received(),
        };
        SourceError::Stalled {
            camera: self.client.shown(),
            seconds: self.stall.as_secs_f32(),
            received,
        }
    }
}

/// Returns the `Content-Type` of the first part of the multipart body in `bytes`.
fn part_type(bytes: &[u8]) -> Option<String> {
    let start = &bytes[..bytes.len().min(4096)];
    let lines = start.split(|byte| *byte == b'\n');
    lines.into_iter().find_map(|line| {
        let (name, value) = line.split_at_checked(b"content-type:".len())?;
        let is_type = name.eq_ignore_ascii_case(b"content-type:");
        let value = String::from_utf8_lossy(value.trim_ascii()).into_owned();
        is_type.then(|| printable(&value).chars().take(80).collect())
    })
}
