//! The pictures for the live view. Each picture is drawn and encoded once for all
//! viewers, and only while there are viewers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use image::imageops;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::decision::annotate;
use crate::decision::frame_result::FrameResult;
use crate::frame::Frame;

/// Longest side of a live view picture, in pixels; larger frames are scaled down.
const MAX_SIDE: u32 = 960;
/// JPEG quality of the pictures, 1 to 100.
const JPEG_QUALITY: u8 = 75;

/// A frame with its faces and verdicts.
#[derive(Debug, Clone)]
pub struct AnnotatedFrame {
    /// The frame as captured, without boxes.
    pub frame: Arc<Frame>,
    /// The faces found in the frame.
    pub result: Arc<FrameResult>,
}

/// A picture that is sent to all viewers.
#[derive(Debug)]
pub(super) struct Picture {
    /// Number of the drawn frame, counted from 1.
    pub(super) number: u64,
    /// When the frame was captured.
    captured_at: Instant,
    pub(super) jpeg: Bytes,
}

/// The newest picture and the number of viewers.
#[derive(Debug)]
pub struct LiveView {
    pub(super) annotated_frames: watch::Receiver<Option<AnnotatedFrame>>,
    pictures: watch::Sender<Option<Arc<Picture>>>,
    viewers: watch::Sender<usize>,
}

impl LiveView {
    /// Creates a live view of the frames in `annotated_frames`. It has no viewers yet.
    #[must_use]
    pub fn new(annotated_frames: watch::Receiver<Option<AnnotatedFrame>>) -> LiveView {
        LiveView {
            annotated_frames,
            pictures: watch::Sender::new(None),
            viewers: watch::Sender::new(0),
        }
    }

    /// Adds a viewer. Dropping the returned value removes the viewer.
    pub(super) fn watch(self: &Arc<LiveView>) -> Viewer {
        self.viewers.send_modify(|count| *count += 1);
        Viewer {
            pictures: self.pictures.subscribe(),
            live_view: Arc::clone(self),
        }
    }
}

/// One viewer of the live view.
pub(super) struct Viewer {
    live_view: Arc<LiveView>,
    pictures: watch::Receiver<Option<Arc<Picture>>>,
}

impl Viewer {
    /// Waits for a picture whose number is greater than `number`. Returns `None` if there
    /// will be no more pictures.
    pub(super) async fn newer_than(&mut self, number: u64) -> Option<Arc<Picture>> {
        let is_newer = |picture: &Option<Arc<Picture>>| {
            let picture = picture.as_ref();
            picture.is_some_and(|picture| picture.number > number)
        };
        let picture = self.pictures.wait_for(is_newer).await.ok()?;
        picture.clone()
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.live_view.viewers.send_modify(|count| *count -= 1);
    }
}

/// Draws pictures while there are viewers, at most one per `interval`, until `stop` is
/// triggered or the frames end. Runs on its own thread.
pub async fn draw(live_view: &LiveView, interval: Duration, stop: &CancellationToken) {
    let drawing = async {
        let mut viewers = live_view.viewers.subscribe();
        let mut annotated_frames = live_view.annotated_frames.clone();
        let mut last: Option<(Instant, u64)> = None;
        loop {
            if *viewers.borrow() == 0 {
                // The next viewer must not see a picture that was drawn before that
                // viewer connected.
                live_view.pictures.send_replace(None);
                if viewers.wait_for(|count| *count > 0).await.is_err() {
                    return;
                }
            }
            let annotated = annotated_frames.borrow_and_update().clone();
            let shown = live_view
                .pictures
                .borrow()
                .as_ref()
                .map(|picture| picture.captured_at);
            match annotated.filter(|annotated| shown != Some(annotated.frame.at)) {
                Some(annotated) => {
                    let captured_at = annotated.frame.at;
                    let number = match last {
                        Some((previous, number)) if previous == captured_at => number,
                        Some((_, number)) => number + 1,
                        None => 1,
                    };
                    last = Some((captured_at, number));
                    if let Some(jpeg) = encode(&annotated) {
                        let picture = Picture {
                            number,
                            captured_at,
                            jpeg,
                        };
                        live_view.pictures.send_replace(Some(Arc::new(picture)));
                    }
                    drop(annotated);
                    tokio::time::sleep(interval).await;
                }
                None => {
                    if annotated_frames.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = drawing => {}
    }
}

/// Returns the frame with its boxes as a JPEG, or `None` if JPEG cannot represent a frame
/// of this size.
fn encode(annotated: &AnnotatedFrame) -> Option<Bytes> {
    let mut pixels = annotated.frame.pixels.clone();
    annotate::draw(
        &mut pixels,
        &annotated.result.faces,
        &annotated.result.labels,
    )
    .ok()?;
    let pixels = scale_down(pixels);
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, JPEG_QUALITY)
        .encode_image(&pixels)
        .ok()?;
    Some(jpeg.into())
}

fn scale_down(pixels: RgbImage) -> RgbImage {
    let (width, height) = pixels.dimensions();
    let longest = width.max(height);
    if longest <= MAX_SIDE {
        return pixels;
    }
    let scaled = |side: u32| (u64::from(side) * u64::from(MAX_SIDE) / u64::from(longest)).max(1);
    imageops::thumbnail(&pixels, scaled(width) as u32, scaled(height) as u32)
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests need an arbitrary start time"
)]
mod tests {
    use super::*;
    use crate::decision::confirm::{Basis, Evidence};
    use crate::frame::ConnectionId;

    fn annotated(seq: u64, at: Instant) -> AnnotatedFrame {
        AnnotatedFrame {
            frame: Arc::new(Frame {
                pixels: RgbImage::new(1920, 1080),
                at,
                seq,
                connection: ConnectionId::default(),
            }),
            result: Arc::new(FrameResult {
                seq,
                at,
                latency: Duration::ZERO,
                labels: Vec::new().into(),
                faces: Vec::new(),
                evidence: Evidence {
                    basis: Basis::default(),
                    run: None,
                    interval: Duration::ZERO,
                },
            }),
        }
    }

    #[test]
    fn pictures_are_drawn_for_viewers_and_dropped_after_the_last() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let start = Instant::now();
        let (send, annotated_frames) = watch::channel(Some(annotated(0, start)));
        let live_view = Arc::new(LiveView::new(annotated_frames));
        let stop = CancellationToken::new();
        let watching = async {
            tokio::task::yield_now().await;
            assert!(live_view.pictures.borrow().is_none(), "nobody watches");
            let mut viewer = live_view.watch();
            let first = viewer.newer_than(0).await.unwrap();
            let pixels = image::load_from_memory(&first.jpeg).unwrap();
            assert_eq!((pixels.width(), pixels.height()), (960, 540));
            send.send_replace(Some(annotated(1, start + Duration::from_millis(1))));
            let second = viewer.newer_than(first.number).await.unwrap();
            assert_eq!((first.number, second.number), (1, 2));
            drop(viewer);
            while live_view.pictures.borrow().is_some() {
                send.send_modify(|_| {});
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let again = live_view.watch().newer_than(0).await.unwrap();
            assert_eq!(again.number, 2, "the same frame has the same number");
            stop.cancel();
        };
        runtime.block_on(async {
            tokio::join!(draw(&live_view, Duration::from_millis(1), &stop), watching);
        });
    }
}
