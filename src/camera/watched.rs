//! A device that is read in a thread of its own, since a read may never return.
//!
//! Owns the thread and the newest picture that it read. A driver that hangs
//! cannot be told to stop, and a thread that waits within the kernel cannot be
//! ended: so nobody waits for it. It is left behind, lets go of the device when
//! its read returns after all, and ends with the process at the latest.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::mjpeg::Splitter;
use super::{CameraOptions, STOP_CHECK, Source, SourceError, StreamFormat, now};
use crate::frame::{self, Frame};

/// What can be read picture by picture, each in one buffer.
pub(super) trait Device {
    /// The bytes of the next picture, and maybe others behind it. May block for
    /// ever.
    fn read(&mut self) -> Result<Vec<u8>, SourceError>;
}

/// A device that was opened, and what it gives.
pub(super) type Opened<D> = (D, StreamFormat);

/// A device, read in a thread of its own.
pub(super) struct Watched {
    name: String,
    shared: Arc<Shared>,
    format: StreamFormat,
    stall: Duration,
    max_frame_bytes: usize,
    stop: CancellationToken,
    /// Since the last picture that could be decoded.
    undecodable: u64,
    last_error: String,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    opened: Option<StreamFormat>,
    /// The newest picture that nobody has taken yet, when it came, its number.
    newest: Option<(Vec<u8>, Instant, u64)>,
    /// Why there will be no more.
    error: Option<SourceError>,
    /// Whether the thread has ended.
    ended: bool,
    /// Whether nobody wants pictures any more.
    left: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No invariant spans two of its fields.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

impl Watched {
    /// Opens a device by `open`, in the thread that will read it.
    ///
    /// # Errors
    /// What `open` says, or that it took longer than a stall may.
    pub(super) fn open<D: Device>(
        name: &str,
        open: impl FnOnce() -> Result<Opened<D>, SourceError> + Send + 'static,
        options: &CameraOptions,
        stop: CancellationToken,
    ) -> Result<Watched, SourceError> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        #[expect(
            clippy::disallowed_methods,
            reason = "a read that never returns must not hold up who waits for frames"
        )]
        let thread = std::thread::Builder::new()
            .name("webcam".to_owned())
            .spawn(move || read_all(&theirs, open));
        if let Err(error) = thread {
            let webcam = name.to_owned();
            return Err(SourceError::WebcamThread { webcam, error });
        }
        let mut watched = Watched {
            name: name.to_owned(),
            shared,
            format: StreamFormat::Mjpeg,
            stall: options.stall,
            max_frame_bytes: options.max_frame_bytes,
            stop,
            undecodable: 0,
            last_error: String::new(),
        };
        let instead = || "opening it takes that long".to_owned();
        // After a stop no format is needed any more.
        if let Some(format) = watched.wait(|state| state.opened, instead)? {
            watched.format = format;
        }
        Ok(watched)
    }

    /// Waits for what `take` finds; `None` if stop was asked.
    fn wait<T>(
        &self,
        mut take: impl FnMut(&mut State) -> Option<T>,
        instead: impl FnOnce() -> String,
    ) -> Result<Option<T>, SourceError> {
        let start = now();
        let mut state = self.shared.lock();
        loop {
            if self.stop.is_cancelled() {
                return Ok(None);
            }
            if let Some(found) = take(&mut state) {
                return Ok(Some(found));
            }
            if let Some(error) = state.error.take() {
                return Err(error);
            }
            if state.ended {
                return Err(SourceError::Webcam {
                    webcam: self.name.clone(),
                    why: "the thread that reads it has broken down".to_owned(),
                });
            }
            if now().duration_since(start) >= self.stall {
                return Err(SourceError::Stalled {
                    camera: self.name.clone(),
                    seconds: self.stall.as_secs_f32(),
                    instead: instead(),
                });
            }
            let waited = self.shared.changed.wait_timeout(state, STOP_CHECK);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn decode(&self, bytes: &[u8]) -> Result<image::RgbImage, String> {
        match self.format {
            StreamFormat::Raw(format) => format.decode(bytes).map_err(|error| error.to_string()),
            StreamFormat::Mjpeg => {
                // Behind the picture a buffer holds the ends of longer ones.
                let mut splitter = Splitter::new(self.max_frame_bytes);
                splitter.push(bytes);
                let picture = splitter
                    .next_frame()
                    .ok_or("it is no whole JPEG, or larger than camera.max-frame-kib allows")?;
                frame::decode(&picture).map_err(|error| error.to_string())
            }
        }
    }

    fn instead(&self) -> String {
        match self.undecodable {
            0 => "nothing came at all".to_owned(),
            count => format!(
                "{count} could not be decoded, of the last one: {}",
                self.last_error
            ),
        }
    }
}

impl Source for Watched {
    fn next(&mut self) -> Result<Option<Frame>, SourceError> {
        let start = now();
        loop {
            let taken = self.wait(|state| state.newest.take(), || self.instead())?;
            let Some((bytes, at, seq)) = taken else {
                return Ok(None);
            };
            match self.decode(&bytes) {
                Ok(pixels) => {
                    self.undecodable = 0;
                    return Ok(Some(Frame { pixels, at, seq }));
                }
                Err(error) => {
                    tracing::debug!(seq, error, "picture of the webcam skipped");
                    self.undecodable += 1;
                    self.last_error = error;
                }
            }
            if now().duration_since(start) >= self.stall {
                return Err(SourceError::Stalled {
                    camera: self.name.clone(),
                    seconds: self.stall.as_secs_f32(),
                    instead: self.instead(),
                });
            }
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.shared.change(|state| state.left = true);
    }
}

/// What the thread does.
fn read_all<D: Device>(shared: &Shared, open: impl FnOnce() -> Result<Opened<D>, SourceError>) {
    /// Tells the end even if a driver's library panics.
    struct Ending<'a>(&'a Shared);
    impl Drop for Ending<'_> {
        fn drop(&mut self) {
            self.0.change(|state| state.ended = true);
        }
    }
    let _ending = Ending(shared);
    if let Err(error) = read_until_left(shared, open) {
        shared.change(|state| state.error = Some(error));
    }
}

fn read_until_left<D: Device>(
    shared: &Shared,
    open: impl FnOnce() -> Result<Opened<D>, SourceError>,
) -> Result<(), SourceError> {
    let (mut device, format) = open()?;
    shared.change(|state| state.opened = Some(format));
    for seq in 0.. {
        let bytes = device.read()?;
        let at = now();
        if shared.lock().left {
            break;
        }
        shared.change(|state| state.newest = Some((bytes, at, seq)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::super::Video;
    use super::*;
    use crate::frame::yuv::{Layout, Range, YuvFormat};

    const LONG: Duration = Duration::from_mins(1);
    const SHORT: Duration = Duration::from_millis(200);

    /// Gives what is sent to it, and blocks until then.
    struct Fake(Receiver<Result<Vec<u8>, SourceError>>);

    impl Device for Fake {
        fn read(&mut self) -> Result<Vec<u8>, SourceError> {
            self.0.recv().unwrap_or_else(|_| Err(gone()))
        }
    }

    struct Broken;
    impl Device for Broken {
        fn read(&mut self) -> Result<Vec<u8>, SourceError> {
            panic!("as a driver's library does")
        }
    }

    fn gone() -> SourceError {
        SourceError::Webcam {
            webcam: "fake".to_owned(),
            why: "No such device (os error 19)".to_owned(),
        }
    }

    fn options(stall: Duration) -> CameraOptions {
        CameraOptions {
            rate: 1.0,
            repeat: false,
            stall,
            max_frame_bytes: 1 << 20,
            video: Video::default(),
        }
    }

    type Feed = Sender<Result<Vec<u8>, SourceError>>;

    fn watched(format: StreamFormat, stall: Duration) -> (Watched, Feed, CancellationToken) {
        let (feed, receiver) = channel();
        let stop = CancellationToken::new();
        let open = move || Ok((Fake(receiver), format));
        let watched = Watched::open("webcam:fake", open, &options(stall), stop.clone()).unwrap();
        (watched, feed, stop)
    }

    fn raw() -> StreamFormat {
        StreamFormat::Raw(YuvFormat::new(Layout::Yuyv, Range::Full, 2, 1).unwrap())
    }

    fn yuyv(gray: u8) -> Vec<u8> {
        vec![gray, 128, gray, 128, 77, 77]
    }

    #[test]
    fn newest_picture_is_taken_and_the_rest_is_numbered() {
        let (mut watched, feed, stop) = watched(raw(), LONG);
        for gray in 0..3 {
            feed.send(Ok(yuyv(gray))).unwrap();
        }
        let mut last = watched.next().unwrap().unwrap();
        while last.seq < 2 {
            last = watched.next().unwrap().unwrap();
        }
        assert_eq!(last.pixels.get_pixel(1, 0).0, [2; 3]);
        stop.cancel();
        assert!(watched.next().unwrap().is_none());
    }

    #[test]
    fn jpeg_is_found_in_front_of_what_an_older_one_left() {
        let mut picture = Vec::new();
        image::RgbImage::from_pixel(8, 8, image::Rgb([200; 3]))
            .write_with_encoder(image::codecs::jpeg::JpegEncoder::new(&mut picture))
            .unwrap();
        let (mut watched, feed, _stop) = watched(StreamFormat::Mjpeg, LONG);
        let older = [&picture[..], b"\xff\xd8 the end of an older one\xff\xd9"].concat();
        feed.send(Ok(older)).unwrap();
        let frame = watched.next().unwrap().unwrap();
        assert_eq!(frame.pixels.dimensions(), (8, 8));
    }

    #[test]
    fn device_that_blocks_is_a_stall_and_holds_up_nobody() {
        let (mut watched, feed, _stop) = watched(raw(), SHORT);
        let error = watched.next().unwrap_err().to_string();
        assert!(
            error.starts_with("no picture came from webcam:fake for 0.2 s: nothing came at all"),
            "{error}"
        );
        let shared = Arc::clone(&watched.shared);
        drop(watched);
        assert!(!shared.lock().ended, "its thread still waits");
        // The read returns after all: the thread lets go of the device.
        feed.send(Ok(yuyv(1))).unwrap();
        while !shared.lock().ended {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(feed.send(Ok(yuyv(2))).is_err());
    }

    #[test]
    fn stop_ends_the_wait_for_a_device_that_blocks() {
        let (mut watched, _feed, stop) = watched(raw(), LONG);
        let start = now();
        std::thread::scope(|scope| {
            scope.spawn(|| stop.cancel());
            assert!(watched.next().unwrap().is_none());
        });
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn loss_and_panic_are_told() {
        let (mut lost, feed, _stop) = watched(raw(), LONG);
        feed.send(Err(gone())).unwrap();
        let error = lost.next().unwrap_err().to_string();
        assert!(error.contains("No such device"), "{error}");

        let stop = CancellationToken::new();
        let open = || Ok((Broken, raw()));
        let mut broken = Watched::open("webcam", open, &options(LONG), stop).unwrap();
        let error = broken.next().unwrap_err().to_string();
        assert!(error.contains("has broken down"), "{error}");
    }

    #[test]
    fn opening_may_fail_or_hang() {
        let stop = CancellationToken::new;
        let open = || Err::<Opened<Fake>, _>(gone());
        let error = Watched::open("webcam", open, &options(LONG), stop()).err();
        assert!(error.unwrap().to_string().contains("No such device"));
        let (feed, receiver) = channel::<()>();
        let open = move || {
            let _ = receiver.recv();
            Err::<Opened<Fake>, _>(gone())
        };
        let error = Watched::open("webcam", open, &options(SHORT), stop()).err();
        let error = error.unwrap().to_string();
        assert!(error.contains("opening it takes that long"), "{error}");
        drop(feed);
    }

    #[test]
    fn pictures_that_cannot_be_decoded_are_skipped_and_told_of() {
        let (mut watched, feed, _stop) = watched(raw(), SHORT);
        feed.send(Ok(vec![1, 2, 3])).unwrap();
        let error = watched.next().unwrap_err().to_string();
        assert!(
            error.contains("1 could not be decoded, of the last one: it is cut off"),
            "{error}"
        );
    }
}
