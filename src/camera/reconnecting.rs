//! Reads a camera, and reopens its source whenever the source is lost.
//!
//! This module opens sources, determines the backoff between attempts, numbers the frames
//! across reconnections, and assigns the connection IDs.

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

/// The wait before the first attempt to reopen a lost source. The wait doubles with each
/// attempt, up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(500);

/// Maximum wait before an attempt, without the jitter. With the maximum jitter that
/// [`backoff`] adds, the wait is 30 seconds.
const MAX_BACKOFF: Duration = Duration::from_secs(24);

/// A source that has yielded frames for longer than this has recovered: after the next
/// loss, the backoff starts over at [`MIN_BACKOFF`]. Some network cameras drop each
/// connection after a few seconds. If this time were longer, the backoff would grow with
/// each drop, until each drop caused a fault.
const RECOVERED_AFTER: Duration = Duration::from_secs(1);

/// An event that [`Camera::next`] returns.
#[derive(Debug)]
pub enum CameraEvent {
    /// A frame. If it follows [`CameraEvent::Lost`], the camera has reconnected.
    Frame(Frame),
    /// The source was lost. Each loss is reported once. The next call to [`Camera::next`]
    /// tries to reopen the source.
    Lost(SourceError),
    /// The lost source is an unplugged camera. This event is reported at most once for
    /// each loss. It is not reported if the error in [`CameraEvent::Lost`] already says
    /// that the camera is unplugged.
    Unplugged,
    /// A program ended before its first frame, and `repeat` is not set. A retry is
    /// therefore pointless. Every later call returns [`CameraEvent::End`].
    Failed(SourceError),
    /// The source ended, or a stop was requested. Every later call returns this event
    /// again.
    End,
}

/// What is known about the loss of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// The source was lost for a reason that may go away by itself.
    Other,
    /// The camera was reported as unplugged.
    Unplugged,
}

impl Loss {
    fn of(error: &SourceError) -> Loss {
        if error.is_unplugged() {
            Loss::Unplugged
        } else {
            Loss::Other
        }
    }
}

/// A source that is reopened whenever it is lost.
pub struct Camera {
    spec: Spec,
    options: CameraOptions,
    stop: CancellationToken,
    source: Option<Box<dyn Source>>,
    /// How the source was lost; `None` if it was not lost, or if a frame has been
    /// received since the loss.
    loss: Option<Loss>,
    /// Whether the source failed and must be reopened.
    failed: bool,
    ended: bool,
    /// Number of attempts to reopen the source since it last recovered.
    attempts: u32,
    /// The time at which the source was last opened.
    opened_at: Instant,
    restarts: u64,
    /// The number to add to the frame numbers of the current source.
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
    /// Returns an error if a retry cannot help, for example because a file or a program
    /// is missing, no picture is readable, or the URL is invalid.
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
            loss: None,
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

    /// Waits until the source yields a frame, is lost, or ends.
    ///
    /// After a loss, this function retries with a backoff of 0.5 to 30 seconds until it
    /// has a frame or a stop is requested. After a stop is requested, it returns within
    /// 100 ms. Frame numbers continue across losses and repeats. Each loss and each
    /// repeat begins a new connection, with one exception: if a program yields one
    /// picture and ends, it is run again for each picture, and all of its pictures belong
    /// to the same connection. This function blocks, so it must not be called from an
    /// asynchronous task.
    #[expect(
        clippy::should_implement_trait,
        reason = "it yields events, and the end is one of them"
    )]
    pub fn next(&mut self) -> CameraEvent {
        loop {
            if self.ended || self.stop.is_cancelled() {
                return self.end();
            }
            if self.failed {
                // The source is closed here and not when it fails, because the loss must
                // be reported immediately and a program may take a while to end.
                self.source = None;
                let wait = backoff(self.attempts, RandomState::new().hash_one(()));
                self.attempts = self.attempts.saturating_add(1);
                if !sleep_until(now() + wait, &self.stop) {
                    return self.end();
                }
                self.restarts += 1;
                self.connection = self.connection.next();
                if let Err(error) = self.reopen() {
                    if let Some(event) = self.still_lost(&error) {
                        return event;
                    }
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
            if self.loss.is_some() {
                if let Some(event) = self.still_lost(&error) {
                    return event;
                }
                continue;
            }
            self.loss = Some(Loss::of(&error));
            tracing::warn!(error = error.without_paths(), "camera lost");
            if error.is_missing_input() {
                // The path is logged only at the debug level.
                tracing::debug!(%error, "camera lost");
            }
            return CameraEvent::Lost(error);
        }
    }

    /// Number of attempts so far to reopen a lost source.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Handles a further failure of a source that is already lost. Returns an event if
    /// this failure is the first one to show that the camera is unplugged.
    fn still_lost(&mut self, error: &SourceError) -> Option<CameraEvent> {
        if error.is_unplugged() && self.loss != Some(Loss::Unplugged) {
            self.loss = Some(Loss::Unplugged);
            tracing::warn!(%error, "the lost camera is unplugged");
            return Some(CameraEvent::Unplugged);
        }
        tracing::debug!(%error, "camera is still lost");
        None
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
        if self.loss.take().is_some() {
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
            .field("loss", &self.loss)
            .field("restarts", &self.restarts)
            .finish_non_exhaustive()
    }
}

/// Reads the first frame of a source, without reconnecting. This is a test whether the source
/// works, so nothing is logged. Returns `None` if the source ends without a frame, or if a
/// stop is requested.
///
/// # Errors
/// Returns the reason that there is no frame.
pub fn read_frame(
    spec: &Spec,
    options: &CameraOptions,
    stop: &CancellationToken,
) -> Result<Option<Frame>, SourceError> {
    open_source(spec, options, stop)?.next()
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
/// exponentially. `random` determines a jitter, which adds up to a quarter of the wait.
/// The jitter keeps several devices from contacting the same camera at the same time
/// after a power cut.
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

    /// A source that fails with the given error.
    struct Fails(Option<SourceError>);

    impl Source for Fails {
        fn next(&mut self) -> Result<Option<Frame>, SourceError> {
            Err(self.0.take().unwrap())
        }
    }

    fn camera(error: SourceError) -> Camera {
        let stop = CancellationToken::new();
        let options = CameraOptions {
            rate: 100.0,
            repeat: true,
            stall: Duration::from_secs(5),
            max_frame_bytes: 1 << 20,
            max_frame_pixels: 9_000_000,
            video: crate::camera::VideoOptions::default(),
            tls: crate::camera::TlsTrust::default(),
        };
        let mut camera = Camera::open(Spec::Examples, options, stop).unwrap();
        camera.source = Some(Box::new(Fails(Some(error))));
        camera
    }

    fn unplugged() -> SourceError {
        SourceError::WebcamUnplugged {
            webcam: "fake".to_owned(),
            why: "No such device".to_owned(),
        }
    }

    #[test]
    fn an_unplugged_camera_is_reported_once_for_each_loss() {
        let mut first = camera(unplugged());
        assert!(matches!(first.next(), CameraEvent::Lost(error) if error.is_unplugged()));
        assert!(first.still_lost(&unplugged()).is_none(), "it is known");

        let webcam = "fake".to_owned();
        let why = "it sends nothing".to_owned();
        let mut second = camera(SourceError::Webcam { webcam, why });
        assert!(matches!(second.next(), CameraEvent::Lost(error) if !error.is_unplugged()));
        let missing = SourceError::WebcamMissing {
            wanted: "webcam".to_owned(),
            found: "none".to_owned(),
        };
        let event = second.still_lost(&missing);
        assert!(matches!(event, Some(CameraEvent::Unplugged)));
        assert!(second.still_lost(&missing).is_none(), "it is known");
        // After the camera has been plugged in again, the next loss does not count as
        // unplugged until an error says so.
        assert!(matches!(second.next(), CameraEvent::Frame(_)));
        let stalled = SourceError::Stalled {
            camera: "fake".to_owned(),
            seconds: 1.0,
            received: "nothing was received".to_owned(),
        };
        second.source = Some(Box::new(Fails(Some(stalled))));
        assert!(matches!(second.next(), CameraEvent::Lost(_)));
        assert!(matches!(
            second.still_lost(&missing),
            Some(CameraEvent::Unplugged)
        ));
    }

    #[test]
    fn the_backoff_starts_over_only_after_a_source_has_worked_for_a_while() {
        let mut camera = camera(unplugged());
        let frame = || Frame {
            pixels: image::RgbImage::new(1, 1),
            at: now(),
            seq: 0,
            connection: ConnectionId::default(),
        };
        camera.attempts = 5;
        camera.opened_at = now() + RECOVERED_AFTER;
        camera.frame(frame());
        assert_eq!(camera.attempts, 5, "the source has just been opened");
        camera.opened_at = now().checked_sub(2 * RECOVERED_AFTER).unwrap();
        camera.frame(frame());
        assert_eq!(camera.attempts, 0);
    }

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
