//! Reads a camera, which is a source that is reopened whenever it is lost.
//!
//! Owns the opening of sources, the backoff between attempts, the numbering of frames
//! across reconnections, and the IDs of the connections.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::error::SourceError;
use super::options::CameraOptions;
use super::source::{Source, now, sleep_until};
use super::spec::Spec;
use super::{command, http, pictures};
#[cfg(feature = "camera")]
use super::{device_reader, v4l};
use crate::frame::{ConnectionId, Frame};

/// The wait before the first attempt to reopen a lost source. It doubles with each
/// attempt, up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(500);

/// Maximum wait without the jitter. With the maximum jitter that [`backoff`] adds, the
/// wait is 30 seconds.
const MAX_BACKOFF: Duration = Duration::from_secs(24);

/// A source that has yielded frames for this long has recovered, and the backoff starts
/// over at the next loss. Some network cameras drop each connection after a few seconds.
/// If this time were longer, the growing backoff would turn each drop into a fault.
const RECOVERED_AFTER: Duration = Duration::from_secs(1);

/// An event that [`Camera::next`] returns.
#[derive(Debug)]
pub enum CameraEvent {
    /// A frame. If it follows [`CameraEvent::Lost`], the camera has reconnected.
    Frame(Frame),
    /// The source was lost. Each loss is reported once. The next call tries to reopen the
    /// source.
    Lost(SourceError),
    /// A source that does not repeat failed before its first frame, so a retry is
    /// pointless. No event follows.
    Failed(SourceError),
    /// The source ended, or a stop was requested. No event follows.
    End,
}

/// A source that is reopened whenever it is lost.
pub struct Camera {
    spec: Spec,
    options: CameraOptions,
    stop: CancellationToken,
    source: Option<Box<dyn Source>>,
    /// Whether no frame has been received since the loss of the source.
    lost: bool,
    /// Whether the source failed and must be reopened.
    failed: bool,
    ended: bool,
    /// Number of attempts to reopen the source since it last recovered.
    attempts: u32,
    /// The time at which the source was last opened.
    opened_at: Instant,
    restarts: u64,
    /// The number that is added to the frame numbers of the current source.
    first_seq: u64,
    next_seq: u64,
    /// The current connection.
    connection: ConnectionId,
}

impl Camera {
    /// Opens the source. This function does not wait for frames. If a network camera is
    /// still turned off, this function succeeds, and [`Camera::next`] then returns
    /// [`CameraEvent::Lost`].
    ///
    /// # Errors
    /// An error that a retry cannot fix, such as a missing file, no readable picture, a
    /// missing program or an invalid URL.
    pub fn open(
        spec: Spec,
        options: CameraOptions,
        stop: CancellationToken,
    ) -> Result<Camera, SourceError> {
        let source = open_source(&spec, &options, &stop)?;
        Ok(Camera {
            spec,
            options,
            stop,
            source: Some(source),
            lost: false,
            failed: false,
            ended: false,
            attempts: 0,
            opened_at: now(),
            restarts: 0,
            first_seq: 0,
            next_seq: 0,
            connection: ConnectionId::default(),
        })
    }

    /// Waits for the next frame, for the loss of the source, or for its end.
    ///
    /// After a loss, this function retries with a backoff of 0.5 to 30 seconds until it
    /// has a frame or a stop is requested. It returns within 100 ms of a stop. Frame
    /// numbers continue across losses and repeats. Each loss and each repeat begins a new
    /// connection, with one exception: a program that yields one picture and ends is run
    /// again for each picture, and all its pictures count as one connection. This
    /// function blocks, so it must not be called from an asynchronous task.
    #[expect(
        clippy::should_implement_trait,
        reason = "it yields events, of which the end is one"
    )]
    pub fn next(&mut self) -> CameraEvent {
        loop {
            if self.ended || self.stop.is_cancelled() {
                return self.end();
            }
            if self.failed {
                // The source is not closed earlier, because a program may take a while to
                // end and the loss must be reported immediately.
                self.source = None;
                let wait = backoff(self.attempts, RandomState::new().hash_one(()));
                self.attempts = self.attempts.saturating_add(1);
                if !sleep_until(now() + wait, &self.stop) {
                    return self.end();
                }
                self.restarts += 1;
                self.connection = self.connection.next();
                if let Err(error) = self.reopen() {
                    tracing::debug!(%error, "camera is still lost");
                    continue;
                }
            }
            let Some(source) = &mut self.source else {
                return self.end();
            };
            let error = match source.next() {
                Ok(Some(frame)) => return self.frame(frame),
                Ok(None) if self.options.repeat && !self.stop.is_cancelled() => {
                    // Without this wait, a command that yields one picture and ends would
                    // be restarted in a busy loop.
                    sleep_until(self.opened_at + MIN_BACKOFF, &self.stop);
                    let was_one_picture = self.next_seq == self.first_seq + 1;
                    if !was_one_picture {
                        self.connection = self.connection.next();
                    }
                    match self.reopen() {
                        Ok(()) => continue,
                        Err(error) => error,
                    }
                }
                Ok(None) => return self.end(),
                Err(error) => error,
            };
            let ended = matches!(error, SourceError::CommandEnded { .. });
            if ended && !self.options.repeat && self.next_seq == 0 {
                self.ended = true;
                return CameraEvent::Failed(error);
            }
            self.failed = true;
            if self.lost {
                tracing::debug!(%error, "camera is still lost");
                continue;
            }
            self.lost = true;
            if error.is_missing_input() {
                // The path is logged only at the debug level, because pictures are often
                // named after the people in them.
                tracing::warn!(error = "its pictures cannot be used", "camera lost");
                tracing::debug!(%error, "camera lost");
            } else {
                tracing::warn!(%error, "camera lost");
            }
            return CameraEvent::Lost(error);
        }
    }

    /// Number of attempts so far to reopen a lost source.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    fn reopen(&mut self) -> Result<(), SourceError> {
        self.source = None;
        self.source = Some(open_source(&self.spec, &self.options, &self.stop)?);
        self.failed = false;
        self.opened_at = now();
        self.first_seq = self.next_seq;
        Ok(())
    }

    fn frame(&mut self, mut frame: Frame) -> CameraEvent {
        frame.seq += self.first_seq;
        frame.connection = self.connection;
        self.next_seq = frame.seq + 1;
        // A source that fails right after its first frame has not recovered.
        if now().saturating_duration_since(self.opened_at) > RECOVERED_AFTER {
            self.attempts = 0;
        }
        if self.lost {
            self.lost = false;
            tracing::info!(restarts = self.restarts, "camera reconnected");
        }
        CameraEvent::Frame(frame)
    }

    fn end(&mut self) -> CameraEvent {
        self.ended = true;
        CameraEvent::End
    }
}

impl fmt::Debug for Camera {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Camera")
            .field("spec", &self.spec)
            .field("lost", &self.lost)
            .field("restarts", &self.restarts)
            .finish_non_exhaustive()
    }
}

fn open_source(
    spec: &Spec,
    options: &CameraOptions,
    stop: &CancellationToken,
) -> Result<Box<dyn Source>, SourceError> {
    spec.check(&options.video)?;
    let stop = stop.clone();
    Ok(match spec {
        Spec::Examples => {
            let pictures = pictures::EXAMPLES.iter().map(|example| example.bytes);
            Box::new(pictures::PictureSource::from_memory(
                pictures, options, stop,
            )?)
        }
        Spec::Path(path) => Box::new(pictures::PictureSource::open(path, options, stop)?),
        Spec::Http(url) => Box::new(http::HttpSource::open(url, options, stop)?),
        #[cfg(feature = "camera")]
        Spec::Webcam(selector) => {
            let (selector, video) = (selector.clone(), options.video);
            let open = move || v4l::open(&selector, &video);
            Box::new(device_reader::DeviceReader::open(
                &spec.to_string(),
                open,
                options,
                stop,
            )?)
        }
        #[cfg(not(feature = "camera"))]
        Spec::Webcam(_) => return Err(SourceError::NoWebcamSupport),
        Spec::Rpicam => Box::new(command::CommandSource::rpicam(options, &stop)?),
        Spec::Command(words) => Box::new(command::CommandSource::start(words, options, stop)?),
    })
}

/// Returns the wait before attempt number `attempt`, counted from 0. The wait grows
/// exponentially. `random` determines a jitter of up to a quarter of the wait, so that
/// several devices do not contact the same camera at the same time after a power cut.
fn backoff(attempt: u32, random: u64) -> Duration {
    let wait = MIN_BACKOFF
        .saturating_mul(1 << attempt.min(16))
        .min(MAX_BACKOFF);
    let share = (random % 1024) as f32 / 1024.0;
    wait + wait.mul_f32(share / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_grows_within_its_bounds() {
        let milliseconds = [0, 1, 2, 5, 6].map(|attempt| backoff(attempt, 0).as_millis());
        assert_eq!(milliseconds, [500, 1000, 2000, 16_000, 24_000]);
        for attempt in (0..40).chain([u32::MAX]) {
            for random in [0, 1, 1023, u64::MAX] {
                let wait = backoff(attempt, random);
                assert!(wait >= MIN_BACKOFF && wait <= Duration::from_secs(30));
            }
        }
        assert!(backoff(3, 1023) > backoff(3, 0));
    }
}
