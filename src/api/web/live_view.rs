//! The pictures of the live view: drawn and encoded for all who look, while
//! somebody looks.

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

/// Longest side of a picture of the live view; larger frames are scaled down.
const LONGEST: u32 = 960;
/// Quality of its JPEG.
const QUALITY: u8 = 75;

/// A frame and what was seen on it.
#[derive(Debug, Clone)]
pub struct AnnotatedFrame {
    /// The frame.
    pub frame: Arc<Frame>,
    /// What was seen.
    pub scene: Arc<FrameResult>,
}

/// A picture that all who look are sent.
#[derive(Debug)]
pub(super) struct Picture {
    /// Rises by one with each frame that was drawn, from 1.
    pub(super) number: u64,
    /// When its frame was captured.
    at: Instant,
    pub(super) jpeg: Bytes,
}

/// Where the newest frame hangs, and who looks.
#[derive(Debug)]
pub struct LiveView {
    pub(super) annotated_frames: watch::Receiver<Option<AnnotatedFrame>>,
    pictures: watch::Sender<Option<Arc<Picture>>>,
    viewers: watch::Sender<usize>,
}

impl LiveView {
    /// One whose frames come from `annotated_frames`.
    #[must_use]
    pub fn new(annotated_frames: watch::Receiver<Option<AnnotatedFrame>>) -> LiveView {
        LiveView {
            annotated_frames,
            pictures: watch::Sender::new(None),
            viewers: watch::Sender::new(0),
        }
    }

    /// Somebody looks, until the value is dropped.
    pub(super) fn look(self: &Arc<LiveView>) -> Viewer {
        self.viewers.send_modify(|count| *count += 1);
        Viewer {
            pictures: self.pictures.subscribe(),
            live_view: Arc::clone(self),
        }
    }
}

/// Somebody who looks.
pub(super) struct Viewer {
    live_view: Arc<LiveView>,
    pictures: watch::Receiver<Option<Arc<Picture>>>,
}

impl Viewer {
    /// The newest picture, as soon as there is one with a higher number; `None`
    /// at the end of all.
    pub(super) async fn newer(&mut self, than: u64) -> Option<Arc<Picture>> {
        let is_newer = |picture: &Option<Arc<Picture>>| {
            let picture = picture.as_ref();
            picture.is_some_and(|picture| picture.number > than)
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

/// Draws pictures while somebody looks, at most one in each `pause`, until
/// `over` or until no more frames come. For a thread of its own.
pub async fn draw(live_view: &LiveView, pause: Duration, over: &CancellationToken) {
    let drawing = async {
        let mut viewers = live_view.viewers.subscribe();
        let mut annotated_frames = live_view.annotated_frames.clone();
        let mut last: Option<(Instant, u64)> = None;
        loop {
            if *viewers.borrow() == 0 {
                // Whoever comes next must not see who was there last.
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
                .map(|picture| picture.at);
            match annotated.filter(|annotated| shown != Some(annotated.frame.at)) {
                Some(annotated) => {
                    let at = annotated.frame.at;
                    let number = match last {
                        Some((before, number)) if before == at => number,
                        Some((_, number)) => number + 1,
                        None => 1,
                    };
                    last = Some((at, number));
                    if let Some(jpeg) = encode(&annotated) {
                        let picture = Picture { number, at, jpeg };
                        live_view.pictures.send_replace(Some(Arc::new(picture)));
                    }
                    drop(annotated);
                    tokio::time::sleep(pause).await;
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
        () = over.cancelled() => {}
        () = drawing => {}
    }
}

/// The picture of a shot with its boxes; `None` only for frames that no JPEG can
/// hold.
fn encode(annotated: &AnnotatedFrame) -> Option<Bytes> {
    let mut pixels = annotated.frame.pixels.clone();
    annotate::draw(&mut pixels, &annotated.scene.faces, &annotated.scene.labels).ok()?;
    let pixels = smaller(pixels);
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY)
        .encode_image(&pixels)
        .ok()?;
    Some(jpeg.into())
}

fn smaller(pixels: RgbImage) -> RgbImage {
    let (width, height) = pixels.dimensions();
    let longest = width.max(height);
    if longest <= LONGEST {
        return pixels;
    }
    let scaled = |side: u32| (u64::from(side) * u64::from(LONGEST) / u64::from(longest)).max(1);
    imageops::thumbnail(&pixels, scaled(width) as u32, scaled(height) as u32)
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests need some instant to start from"
)]
mod tests {
    use super::*;

    fn annotated(seq: u64, at: Instant) -> AnnotatedFrame {
        AnnotatedFrame {
            frame: Arc::new(Frame {
                pixels: RgbImage::new(1920, 1080),
                at,
                seq,
            }),
            scene: Arc::new(FrameResult {
                seq,
                at,
                latency: Duration::ZERO,
                labels: Vec::new().into(),
                faces: Vec::new(),
            }),
        }
    }

    #[test]
    fn pictures_are_drawn_for_those_who_look_and_forgotten_after() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let start = Instant::now();
        let (send, annotated_frames) = watch::channel(Some(annotated(0, start)));
        let live_view = Arc::new(LiveView::new(annotated_frames));
        let over = CancellationToken::new();
        let looking = async {
            tokio::task::yield_now().await;
            assert!(live_view.pictures.borrow().is_none(), "nobody looks");
            let mut viewer = live_view.look();
            let first = viewer.newer(0).await.unwrap();
            let pixels = image::load_from_memory(&first.jpeg).unwrap();
            assert_eq!((pixels.width(), pixels.height()), (960, 540));
            send.send_replace(Some(annotated(1, start + Duration::from_millis(1))));
            let second = viewer.newer(first.number).await.unwrap();
            assert_eq!((first.number, second.number), (1, 2));
            drop(viewer);
            while live_view.pictures.borrow().is_some() {
                send.send_modify(|_| {});
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let again = live_view.look().newer(0).await.unwrap();
            assert_eq!(again.number, 2, "the same frame has the same number");
            over.cancel();
        };
        runtime.block_on(async {
            tokio::join!(draw(&live_view, Duration::from_millis(1), &over), looking);
        });
    }
}
