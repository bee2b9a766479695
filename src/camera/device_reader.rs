//! Reads a device in a separate thread, because a read may never return.
//!
//! Owns the thread and the latest picture that it read. A driver that hangs cannot be
//! stopped, and a thread that is blocked in the kernel cannot be ended. Therefore, no
//! other thread joins the reading thread. An abandoned thread closes the device as soon
//! as its read returns. If the read never returns, the thread ends with the process.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::error::SourceError;
use super::mjpeg::{Splitter, decode};
use super::options::{CameraOptions, StreamFormat};
use super::source::{STOP_CHECK, Source, now};
use crate::frame::{ConnectionId, Frame};
use crate::platform::text::counted;

/// A device that is read one picture at a time. Each picture fills one buffer.
pub(super) trait Device {
    /// Returns the bytes of the next picture. The remains of earlier pictures may follow
    /// these bytes. This function may block forever.
    fn read(&mut self) -> Result<Vec<u8>, SourceError>;
}

/// An open device and the format of its pictures.
pub(super) type OpenedDevice<D> = (D, StreamFormat);

/// A device that is read in a separate thread.
pub(super) struct DeviceReader {
    name: String,
    shared: Arc<Shared>,
    format: StreamFormat,
    stall: Duration,
    max_frame_bytes: usize,
    max_frame_pixels: u64,
    stop: CancellationToken,
    /// Number of pictures since the last picture that could be decoded.
    undecodable: u64,
    /// The reason the last of these pictures could not be decoded.
    last_error: String,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Format of the pictures; `None` until the device is open.
    format: Option<StreamFormat>,
    /// The latest picture that has not been taken yet, as its bytes, capture time, and
    /// number.
    latest: Option<(Vec<u8>, Instant, u64)>,
    /// The reason there will be no more pictures.
    error: Option<SourceError>,
    /// Whether the thread has ended.
    ended: bool,
    /// Whether the reader was dropped. In that case, the thread must end.
    abandoned: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is safe to use: a panic cannot break an invariant, because no
        // invariant spans two fields.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

impl DeviceReader {
    /// Opens a device by calling `open` in the thread that will read the device.
    ///
    /// # Errors
    /// Returns the error from `open`, or [`SourceError::Stalled`] if opening takes too
    /// long.
    pub(super) fn open<D: Device>(
        name: &str,
        open: impl FnOnce() -> Result<OpenedDevice<D>, SourceError> + Send + 'static,
        options: &CameraOptions,
        stop: CancellationToken,
    ) -> Result<DeviceReader, SourceError> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        #[expect(
            clippy::disallowed_methods,
            reason = "a read that never returns must not block the caller, which waits for frames"
        )]
        let thread = std::thread::Builder::new()
            .name("webcam".to_owned())
            .spawn(move || read_all(&of_thread, open));
        if let Err(error) = thread {
            let webcam = name.to_owned();
            return Err(SourceError::WebcamThread { webcam, error });
        }
        let mut reader = DeviceReader {
            name: name.to_owned(),
            shared,
            format: StreamFormat::Mjpeg,
            stall: options.stall,
            max_frame_bytes: options.max_frame_bytes,
            max_frame_pixels: options.max_frame_pixels,
            stop,
            undecodable: 0,
            last_error: String::new(),
        };
        let received = || "it did not finish opening".to_owned();
        // After a stop, the format does not matter.
        if let Some(format) = reader.wait(|state| state.format, received)? {
            reader.format = format;
        }
        Ok(reader)
    }

    /// Waits until `take` returns a value. Returns `None` after a stop.
    fn wait<T>(
        &self,
        mut take: impl FnMut(&mut State) -> Option<T>,
        received: impl FnOnce() -> String,
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
                    why: "the thread that reads it has crashed".to_owned(),
                });
            }
            if now().duration_since(start) >= self.stall {
                return Err(SourceError::Stalled {
                    camera: self.name.clone(),
                    seconds: self.stall.as_secs_f32(),
                    received: received(),
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
                // After this picture, the buffer may contain the remains of earlier,
                // longer pictures.
                let mut splitter = Splitter::new(self.max_frame_bytes);
                splitter.push(bytes);
                let picture = splitter.next_frame().or_else(|| splitter.finish()).ok_or(
                    "it is not a complete JPEG, or larger than camera.max-frame-kib allows",
                )?;
                decode(&picture, self.max_frame_pixels)
            }
        }
    }

    fn received(&self) -> String {
        match self.undecodable {
            0 => "nothing was received".to_owned(),
            count => format!(
                "{} could not be decoded (the last one: {})",
                counted(count, "picture"),
                self.last_error
            ),
        }
    }
}

impl Source for DeviceReader {
    fn next(&mut self) -> Result<Option<Frame>, SourceError> {
        let start = now();
        loop {
            let taken = self.wait(|state| state.latest.take(), || self.received())?;
            let Some((bytes, at, seq)) = taken else {
                return Ok(None);
            };
            match self.decode(&bytes) {
                Ok(pixels) => {
                    self.undecodable = 0;
                    return Ok(Some(Frame {
                        pixels,
                        at,
                        seq,
                        connection: ConnectionId::default(),
                    }));
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
                    received: self.received(),
                });
            }
        }
    }
}

impl Drop for DeviceReader {
    fn drop(&mut self) {
        self.shared.change(|state| state.abandoned = true);
    }
}

/// Opens and reads the device. This is the body of the thread.
fn read_all<D: Device>(
    shared: &Shared,
    open: impl FnOnce() -> Result<OpenedDevice<D>, SourceError>,
) {
    /// Reports the end of the thread even if a driver's library panics.
    struct EndOnDrop<'a>(&'a Shared);
    impl Drop for EndOnDrop<'_> {
        fn drop(&mut self) {
            self.0.change(|state| state.ended = true);
        }
    }
    let _end_on_drop = EndOnDrop(shared);
    if let Err(error) = read_until_abandoned(shared, open) {
        shared.change(|state| state.error = Some(error));
    }
}

fn read_until_abandoned<D: Device>(
    shared: &Shared,
    open: impl FnOnce() -> Result<OpenedDevice<D>, SourceError>,
) -> Result<(), SourceError> {
    let (mut device, format) = open()?;
    shared.change(|state| state.format = Some(format));
    for seq in 0.. {
        let bytes = device.read()?;
        let at = now();
        if shared.lock().abandoned {
            break;
        }
        shared.change(|state| state.latest = Some((bytes, at, seq)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::super::options::VideoOptions;
    use super::*;
    use crate::frame::yuv::{Layout, Range, YuvFormat};

    const LONG: Duration = Duration::from_mins(1);
    const SHORT: Duration = Duration::from_millis(200);

    /// A device that yields the results sent over a channel, and blocks while the channel
    /// is empty.
    struct ChannelDevice(Receiver<Result<Vec<u8>, SourceError>>);

    impl Device for ChannelDevice {
        fn read(&mut self) -> Result<Vec<u8>, SourceError> {
            self.0.recv().unwrap_or_else(|_| Err(gone()))
        }
    }

    struct PanickingDevice;
    impl Device for PanickingDevice {
        fn read(&mut self) -> Result<Vec<u8>, SourceError> {
            panic!("as a driver's library may")
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
            max_frame_pixels: 9_000_000,
            video: VideoOptions::default(),
            tls: crate::camera::TlsTrust::default(),
        }
    }

    type Feed = Sender<Result<Vec<u8>, SourceError>>;

    fn reader_of(format: StreamFormat, stall: Duration) -> (DeviceReader, Feed, CancellationToken) {
        let (feed, receiver) = channel();
        let stop = CancellationToken::new();
        let open = move || Ok((ChannelDevice(receiver), format));
        let reader =
            DeviceReader::open("webcam:fake", open, &options(stall), stop.clone()).unwrap();
        (reader, feed, stop)
    }

    fn raw() -> StreamFormat {
        StreamFormat::Raw(YuvFormat::new(Layout::Yuyv, Range::Full, 2, 1).unwrap())
    }

    fn yuyv(gray: u8) -> Vec<u8> {
        vec![gray, 128, gray, 128, 77, 77]
    }

    #[test]
    fn latest_picture_is_taken_and_skipped_ones_are_counted() {
        let (mut reader, feed, stop) = reader_of(raw(), LONG);
        for gray in 0..3 {
            feed.send(Ok(yuyv(gray))).unwrap();
        }
        let mut last = reader.next().unwrap().unwrap();
        while last.seq < 2 {
            last = reader.next().unwrap().unwrap();
        }
        assert_eq!(last.pixels.get_pixel(1, 0).0, [2; 3]);
        stop.cancel();
        assert!(reader.next().unwrap().is_none());
    }

    #[test]
    fn jpeg_is_found_before_the_remains_of_an_older_one() {
        let mut picture = Vec::new();
        image::RgbImage::from_pixel(8, 8, image::Rgb([200; 3]))
            .write_with_encoder(image::codecs::jpeg::JpegEncoder::new(&mut picture))
            .unwrap();
        let (mut reader, feed, _stop) = reader_of(StreamFormat::Mjpeg, LONG);
        let older = [&picture[..], b"\xff\xd8 the end of an older one\xff\xd9"].concat();
        feed.send(Ok(older)).unwrap();
        let frame = reader.next().unwrap().unwrap();
        assert_eq!(frame.pixels.dimensions(), (8, 8));
    }

    fn data(name: &str) -> Vec<u8> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/jpeg/");
        std::fs::read(format!("{folder}{name}.jpg")).unwrap()
    }

    #[test]
    fn whole_pictures_of_a_webcam_are_decoded_and_others_are_not() {
        let (mut reader, feed, _stop) = reader_of(StreamFormat::Mjpeg, LONG);
        let mut decoded = |bytes: &[u8]| {
            feed.send(Ok(bytes.to_vec())).unwrap();
            let frame = reader.next().unwrap().unwrap();
            frame.pixels.dimensions()
        };
        // USB video leaves out the Huffman tables, and some cameras also leave out the
        // end marker.
        let bare = data("no-huffman-tables");
        assert_eq!(decoded(&bare), (301, 400));
        assert_eq!(decoded(&bare[..bare.len() - 2]), (301, 400));
        let remains = [&bare[..bare.len() - 2], &[0; 99]].concat();
        assert_eq!(decoded(&remains), (301, 400));

        let (mut reader, feed, _stop) = reader_of(StreamFormat::Mjpeg, SHORT);
        feed.send(Ok(data("cut-short"))).unwrap();
        let error = reader.next().unwrap_err().to_string();
        assert!(
            error.contains("1 picture could not be decoded (the last one: it is damaged"),
            "{error}"
        );
    }

    #[test]
    fn device_that_blocks_is_a_stall_and_blocks_nobody() {
        let (mut reader, feed, _stop) = reader_of(raw(), SHORT);
        let error = reader.next().unwrap_err().to_string();
        assert!(
            error.starts_with(
                "no picture was received from webcam:fake for 0.2 s: nothing was received"
            ),
            "{error}"
        );
        let shared = Arc::clone(&reader.shared);
        drop(reader);
        assert!(!shared.lock().ended, "its thread still blocks");
        // When the read finally returns, the thread closes the device.
        feed.send(Ok(yuyv(1))).unwrap();
        while !shared.lock().ended {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(feed.send(Ok(yuyv(2))).is_err());
    }

    #[test]
    fn stop_ends_the_wait_for_a_device_that_blocks() {
        let (mut reader, _feed, stop) = reader_of(raw(), LONG);
        let start = now();
        std::thread::scope(|scope| {
            scope.spawn(|| stop.cancel());
            assert!(reader.next().unwrap().is_none());
        });
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn loss_and_panic_are_reported() {
        let (mut lost, feed, _stop) = reader_of(raw(), LONG);
        feed.send(Err(gone())).unwrap();
        let error = lost.next().unwrap_err().to_string();
        assert!(error.contains("No such device"), "{error}");

        let stop = CancellationToken::new();
        let open = || Ok((PanickingDevice, raw()));
        let mut broken = DeviceReader::open("webcam", open, &options(LONG), stop).unwrap();
        let error = broken.next().unwrap_err().to_string();
        assert!(error.contains("has crashed"), "{error}");
    }

    #[test]
    fn opening_may_fail_or_hang() {
        let stop = CancellationToken::new;
        let open = || Err::<OpenedDevice<ChannelDevice>, _>(gone());
        let error = DeviceReader::open("webcam", open, &options(LONG), stop()).err();
        assert!(error.unwrap().to_string().contains("No such device"));
        let (feed, receiver) = channel::<()>();
        let open = move || {
            let _ = receiver.recv();
            Err::<OpenedDevice<ChannelDevice>, _>(gone())
        };
        let error = DeviceReader::open("webcam", open, &options(SHORT), stop()).err();
        let error = error.unwrap().to_string();
        assert!(error.contains("it did not finish opening"), "{error}");
        drop(feed);
    }

    #[test]
    fn short_uncompressed_pictures_are_skipped_and_the_next_whole_one_is_taken() {
        for layout in [Layout::Yuyv, Layout::Nv12, Layout::I420] {
            let format = YuvFormat::new(layout, Range::Limited, 4, 2).unwrap();
            let whole = vec![128; format.frame_bytes()];
            let (mut reader, feed, _stop) = reader_of(StreamFormat::Raw(format), LONG);
            for seq in 0..whole.len() as u64 {
                let short = &whole[..whole.len() - 1 - seq as usize];
                feed.send(Ok(short.to_vec())).unwrap();
                feed.send(Ok(whole.clone())).unwrap();
                let frame = reader.next().unwrap().unwrap();
                assert_eq!(frame.seq, 2 * seq + 1, "{layout:?}");
                assert_eq!(frame.pixels.dimensions(), (4, 2));
            }
        }
    }

    #[test]
    fn undecodable_pictures_are_skipped_and_reported() {
        let (mut reader, feed, _stop) = reader_of(raw(), SHORT);
        feed.send(Ok(vec![1, 2, 3])).unwrap();
        let error = reader.next().unwrap_err().to_string();
        assert!(
            error.contains("1 picture could not be decoded (the last one: it is cut off"),
            "{error}"
        );
    }
}
