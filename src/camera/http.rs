//! A network camera: an MJPEG stream over HTTP.
//!
//! Owns the connection and the runtime that drives it; callers see only frames.
//! TLS is not supported: a camera at a door is on the local network, and others
//! can be read through `ffmpeg`.

use std::error::Error;
use std::time::{Duration, Instant};

use reqwest::header::CONTENT_TYPE;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::error::SourceError;
use super::mjpeg::LatestJpeg;
use super::options::CameraOptions;
use super::redact::without_secrets;
use super::source::{Source, now};
use super::spec::check_url;
use crate::frame::Frame;

/// How long to keep reading after a complete picture, in case a newer one is
/// already in the socket. Sockets buffer megabytes: without this, a decoder
/// slower than the camera would fall behind by seconds.
const CATCH_UP: Duration = Duration::from_millis(20);

/// No bytes for this long means that the socket's buffer is empty.
const PAUSE: Duration = Duration::from_millis(1);

/// Maximum number of redirects, about the same as in browsers.
const MAX_REDIRECTS: usize = 10;

/// An MJPEG stream over HTTP.
pub struct HttpSource {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    stream: Stream,
}

impl HttpSource {
    /// Prepares to read the stream at `url`; the first [`Source::next`] connects.
    ///
    /// # Errors
    /// If `url` is invalid, or the system cannot provide a runtime or a client.
    pub fn open(
        url: &str,
        options: &CameraOptions,
        stop: CancellationToken,
    ) -> Result<HttpSource, SourceError> {
        check_url(url)?;
        let redacted = without_secrets(url);
        let failed = |why: String| SourceError::HttpClient {
            url: redacted.clone(),
            why,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let client = Client::builder()
            .no_proxy()
            .user_agent(concat!("maskd/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.stall)
            .read_timeout(options.stall)
            .redirect(redirects())
            .build()
            .map_err(|error| failed(reason(error)))?;
        let stream = Stream {
            url: url.to_owned(),
            redacted,
            client,
            response: None,
            failure: None,
            latest: LatestJpeg::new(options.max_frame_bytes),
            stall: options.stall,
            stop,
        };
        Ok(HttpSource {
            runtime: Some(runtime),
            stream,
        })
    }
}

impl Source for HttpSource {
    fn next(&mut self) -> Result<Option<Frame>, SourceError> {
        let Some(runtime) = &self.runtime else {
            return Ok(None);
        };
        let start = now();
        loop {
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
        // A DNS lookup cannot be canceled and may take many seconds, so do not
        // wait for it.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Stream {
    url: String,
    /// The URL, redacted.
    redacted: String,
    client: Client,
    /// `None` until connected.
    response: Option<Response>,
    /// Why the stream ended; reported after the pictures that came before it.
    failure: Option<SourceError>,
    latest: LatestJpeg,
    stall: Duration,
    stop: CancellationToken,
}

impl Stream {
    /// Reads until a complete picture is there; false if a stop came first.
    ///
    /// The stall timeout counts from `start`, across several calls.
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
        if self.response.is_none() {
            self.response = Some(self.connect().await?);
        }
        while !self.latest.is_waiting() {
            self.read().await?;
        }
        let complete = now();
        while now().duration_since(complete) < CATCH_UP {
            match tokio::time::timeout(PAUSE, self.read()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    self.failure = Some(error);
                    break;
                }
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Reads the next bytes. Cancel-safe: no bytes are lost if the future is
    /// dropped.
    async fn read(&mut self) -> Result<(), SourceError> {
        let chunk = match &mut self.response {
            Some(response) => response.chunk().await.map_err(|error| self.failed(error))?,
            None => None,
        };
        match chunk {
            Some(bytes) => {
                self.latest.push(&bytes, now());
                Ok(())
            }
            None => Err(SourceError::HttpEnded {
                url: self.redacted.clone(),
            }),
        }
    }

    async fn connect(&self) -> Result<Response, SourceError> {
        let url = self.redacted.clone();
        let response = self
            .client
            .get(&self.url)
            .send()
            .await
            .map_err(|error| self.failed(error))?;
        let status = response.status();
        match status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => {
                return Err(SourceError::HttpRefused {
                    url,
                    status: status.to_string(),
                });
            }
            _ => {
                return Err(SourceError::HttpStatus {
                    url,
                    status: status.to_string(),
                });
            }
        }
        let content_type = response.headers().get(CONTENT_TYPE);
        let content_type = content_type.map(|value| String::from_utf8_lossy(value.as_bytes()));
        match content_type {
            Some(text) if text.trim().to_ascii_lowercase().starts_with("text/") => {
                Err(SourceError::HttpText {
                    url,
                    content_type: text.chars().take(80).collect(),
                })
            }
            _ => Ok(response),
        }
    }

    fn failed(&self, error: reqwest::Error) -> SourceError {
        if error.is_timeout() {
            return self.stalled();
        }
        SourceError::Http {
            url: self.redacted.clone(),
            why: reason(error),
        }
    }

    fn stalled(&self) -> SourceError {
        let received = match self.response {
            Some(_) => self.latest.received(),
            None => "it did not answer".to_owned(),
        };
        SourceError::Stalled {
            camera: self.redacted.clone(),
            seconds: self.stall.as_secs_f32(),
            received,
        }
    }
}

/// Follows redirects within HTTP only.
fn redirects() -> Policy {
    Policy::custom(|attempt| {
        if attempt.url().scheme() != "http" {
            let scheme = attempt.url().scheme().to_owned();
            attempt.error(format!(
                "it redirects to {scheme}, and only http is supported (use exec: with ffmpeg)"
            ))
        } else if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("it redirects too often")
        } else {
            attempt.follow()
        }
    })
}

/// The innermost cause, without the URL, which may hold a password.
fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut innermost: &dyn Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::super::options::VideoOptions;
    use super::super::spec::SpecError;
    use super::*;

    #[test]
    fn invalid_url_is_refused_without_a_connection() {
        let options = CameraOptions {
            rate: 1.0,
            repeat: false,
            stall: Duration::from_secs(1),
            max_frame_bytes: 1 << 20,
            video: VideoOptions::default(),
        };
        let error = HttpSource::open("no url", &options, CancellationToken::new())
            .err()
            .unwrap();
        assert!(matches!(error, SourceError::Spec(SpecError::Url { .. })));
    }
}
