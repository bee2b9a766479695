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
use crate::decision::frame_result::Scene;
use crate::frame::Frame;

/// Longest side of a picture of the live view; larger frames are scaled down.
const LONGEST: u32 = 960;
/// Quality of its JPEG.
const QUALITY: u8 = 75;

/// A frame and what was seen on it.
#[derive(Debug, Clone)]
pub struct Shot {
    /// The frame.
    pub frame: Arc<Frame>,
    /// What was seen.
    pub scene: Arc<Scene>,
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
pub struct Gallery {
    pub(super) shots: watch::Receiver<Option<Shot>>,
    pictures: watch::Sender<Option<Arc<Picture>>>,
    viewers: watch::Sender<usize>,
}

impl Gallery {
    /// One whose frames come from `shots`.
    #[must_use]
    pub fn new(shots: watch::Receiver<Option<Shot>>) -> Gallery {
        Gallery {
            shots,
            pictures: watch::Sender::new(None),
            viewers: watch::Sender::new(0),
        }
    }

    /// Somebody looks, until the value is dropped.
    pub(super) fn look(self: &Arc<Gallery>) -> Viewer {
        self.viewers.send_modify(|count| *count += 1);
        Viewer {
            pictures: self.pictures.subscribe(),
            gallery: Arc::clone(self),
        }
    }
}

/// Somebody who looks.
pub(super) struct Viewer {
    gallery: Arc<Gallery>,
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
        self.gallery.viewers.send_modify(|count| *count -= 1);
    }
}

/// Draws pictures while somebody looks, at most one in each `pause`, until
/// `over` or until no more frames come. For a thread of its own.
pub async fn draw(gallery: &Gallery, pause: Duration, over: &CancellationToken) {
    let drawing = async {
        let mut viewers = gallery.viewers.subscribe();
        let mut shots = gallery.shots.clone();
        let mut last: Option<(Instant, u64)> = None;
        loop {
            if *viewers.borrow() == 0 {
                // Whoever comes next must not see who was there last.
                gallery.pictures.send_replace(None);
                if viewers.wait_for(|count| *count > 0).await.is_err() {
                    return;
                }
            }
            let shot = shots.borrow_and_update().clone();
            let shown = gallery.pictures.borrow().as_ref().map(|picture| picture.at);
            match shot.filter(|shot| shown != Some(shot.frame.at)) {
                Some(shot) => {
                    let at = shot.frame.at;
                    let number = match last {
                        Some((before, number)) if before == at => number,
                        Some((_, number)) => number + 1,
                        None => 1,
                    };
                    last = Some((at, number));
                    if let Some(jpeg) = encode(&shot) {
                        let picture = Picture { number, at, jpeg };
                        gallery.pictures.send_replace(Some(Arc::new(picture)));
                    }
                    drop(shot);
                    tokio::time::sleep(pause).await;
                }
                None => {
                    if shots.changed().await.is_err() {
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
fn encode(shot: &Shot) -> Option<Bytes> {
    let mut pixels = shot.frame.pixels.clone();
    annotate::draw(&mut pixels, &shot.scene.faces, &shot.scene.labels).ok()?;
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

    fn shot(seq: u64, at: Instant) -> Shot {
        Shot {
            frame: Arc::new(Frame {
                pixels: RgbImage::new(1920, 1080),
                at,
                seq,
            }),
            scene: Arc::new(Scene {
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
        let (send, shots) = watch::channel(Some(shot(0, start)));
        let gallery = Arc::new(Gallery::new(shots));
        let over = CancellationToken::new();
        let looking = async {
            tokio::task::yield_now().await;
            assert!(gallery.pictures.borrow().is_none(), "nobody looks");
            let mut viewer = gallery.look();
            let first = viewer.newer(0).await.unwrap();
            let pixels = image::load_from_memory(&first.jpeg).unwrap();
            assert_eq!((pixels.width(), pixels.height()), (960, 540));
            send.send_replace(Some(shot(1, start + Duration::from_millis(1))));
            let second = viewer.newer(first.number).await.unwrap();
            assert_eq!((first.number, second.number), (1, 2));
            drop(viewer);
            while gallery.pictures.borrow().is_some() {
                send.send_modify(|_| {});
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let again = gallery.look().newer(0).await.unwrap();
            assert_eq!(again.number, 2, "the same frame has the same number");
            over.cancel();
        };
        runtime.block_on(async {
            tokio::join!(draw(&gallery, Duration::from_millis(1), &over), looking);
        });
    }
}
