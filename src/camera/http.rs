//! A network camera: an MJPEG stream over HTTP.
//!
//! Owns the connection and the runtime that it needs; nothing of either is seen
//! outside. TLS is not built in: a camera at a door is in the house, and what
//! is not can be read through `ffmpeg`.

use std::error::Error;
use std::time::{Duration, Instant};

use reqwest::header::CONTENT_TYPE;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::mjpeg::Newest;
use super::{CameraOptions, Source, SourceError, SpecError, now, without_secrets};
use crate::frame::Frame;

/// How long bytes are taken in after a whole picture has come, to see whether a
/// newer one is there already. Sockets hold megabytes: who decodes more slowly
/// than the camera sends would fall behind by seconds.
const CATCH_UP: Duration = Duration::from_millis(20);

/// A pause of this length means that all that was there has been read.
const PAUSE: Duration = Duration::from_millis(1);

/// Most redirects that are followed, as browsers do about it.
const MAX_REDIRECTS: usize = 10;

/// Refuses what is no usable URL.
pub(super) fn check(url: &str) -> Result<(), SpecError> {
    let invalid = |why: String| SpecError::Url {
        url: without_secrets(url),
        why,
    };
    let parsed = Url::parse(url).map_err(|error| invalid(error.to_string()))?;
    match parsed.scheme() {
        "http" if parsed.has_host() => Ok(()),
        _ => Err(invalid("it names no host to ask by http".to_owned())),
    }
}

/// An MJPEG stream that is read.
pub struct Http {
    /// None only while it is dropped.
    runtime: Option<Runtime>,
    stream: Stream,
}

impl Http {
    /// Prepares to read the stream at `url`. It is connected to by the first
    /// [`Source::next`].
    ///
    /// # Errors
    /// If `url` is no valid URL, or the system refuses what a connection needs.
    pub fn open(
        url: &str,
        options: &CameraOptions,
        stop: CancellationToken,
    ) -> Result<Http, SourceError> {
        check(url)?;
        let shown = without_secrets(url);
        let failed = |why: String| SourceError::HttpClient {
            url: shown.clone(),
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
            shown,
            client,
            response: None,
            failure: None,
            newest: Newest::new(options.max_frame_bytes),
            stall: options.stall,
            stop,
        };
        Ok(Http {
            runtime: Some(runtime),
            stream,
        })
    }
}

impl Source for Http {
    fn next(&mut self) -> Result<Option<Frame>, SourceError> {
        let Some(runtime) = &self.runtime else {
            return Ok(None);
        };
        let start = now();
        loop {
            if !runtime.block_on(self.stream.picture(start))? {
                return Ok(None);
            }
            if let Some(frame) = self.stream.newest.decode() {
                return Ok(Some(frame));
            }
        }
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        // Looking up a name cannot be broken off and may take many seconds; it
        // is not waited for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Stream {
    url: String,
    /// The URL without what is secret in it.
    shown: String,
    client: Client,
    /// None until it is connected.
    response: Option<Response>,
    /// Why there is nothing more to read, told when the pictures that came
    /// before it are given out.
    failure: Option<SourceError>,
    newest: Newest,
    stall: Duration,
    stop: CancellationToken,
}

impl Stream {
    /// Reads until a whole picture waits; false if stop was asked before.
    ///
    /// All waiting since `start`, over several calls, counts for the stall.
    async fn picture(&mut self, start: Instant) -> Result<bool, SourceError> {
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
        while !self.newest.is_waiting() {
            self.read().await?;
        }
        let whole = now();
        while now().duration_since(whole) < CATCH_UP {
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

    /// Reads the bytes that come next. May be dropped at any time without
    /// losing some.
    async fn read(&mut self) -> Result<(), SourceError> {
        let chunk = match &mut self.response {
            Some(response) => response.chunk().await.map_err(|error| self.failed(error))?,
            None => None,
        };
        match chunk {
            Some(bytes) => {
                self.newest.push(&bytes, now());
                Ok(())
            }
            None => Err(SourceError::HttpEnded {
                url: self.shown.clone(),
            }),
        }
    }

    async fn connect(&self) -> Result<Response, SourceError> {
        let url = self.shown.clone();
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
            url: self.shown.clone(),
            why: reason(error),
        }
    }

    fn stalled(&self) -> SourceError {
        let instead = match self.response {
            Some(_) => self.newest.instead(),
            None => "it did not answer".to_owned(),
        };
        SourceError::Stalled {
            camera: self.shown.clone(),
            seconds: self.stall.as_secs_f32(),
            instead,
        }
    }
}

/// Redirects are followed, but not to where this build cannot follow.
fn redirects() -> Policy {
    Policy::custom(|attempt| {
        if attempt.url().scheme() != "http" {
            let scheme = attempt.url().scheme().to_owned();
            attempt.error(format!(
                "it redirects to {scheme}, and this build has no TLS (use exec: with ffmpeg)"
            ))
        } else if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("it redirects too often")
        } else {
            attempt.follow()
        }
    })
}

/// The innermost reason, without a URL: that may hold a password.
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
    use super::*;

    #[test]
    fn urls_are_checked() {
        for good in [
            "http://cam/",
            "http://me:secret@[::1]:81/a?b",
            "http://10.0.0.7",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "http://",
            "http:///",
            "http://cam:99999/",
            "file:///x",
            "cam/video",
        ] {
            assert!(matches!(check(bad), Err(SpecError::Url { .. })), "{bad}");
        }
    }

    #[test]
    fn url_that_is_none_is_refused_before_anything_is_asked() {
        let options = CameraOptions {
            rate: 1.0,
            repeat: false,
            stall: Duration::from_secs(1),
            max_frame_bytes: 1 << 20,
            video: crate::camera::Video::default(),
        };
        let error = Http::open("no url", &options, CancellationToken::new())
            .err()
            .unwrap();
        assert!(matches!(error, SourceError::Spec(SpecError::Url { .. })));
    }
}
