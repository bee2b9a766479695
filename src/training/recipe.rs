//! From pictures to the features that a head learns from.
//!
//! Owns which views of a picture a recipe makes, and the workers that embed
//! them. Knows nothing of labels or of training.
//!
//! Each picture is read and decoded once, whatever the number of its views: all
//! of them are made and embedded while it is at hand, and only features are
//! kept (5 KB a view).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use image::RgbImage;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::frame::{Crop, Face, PictureError, Rect, Scaler};
use crate::onnx::{FEATURES, ModelError};
use crate::training::augment::{self, Geometry, Robust};
use crate::vision::detect::{DetectError, Detector};
use crate::vision::embed::Embedder;

/// How views of a picture are made.
#[derive(Debug, Clone, PartialEq)]
pub enum Recipe {
    /// The tutorial's: the whole picture, stretched to a crop and moved about.
    Tutorial(Geometry),
    /// Whole pictures and faces that the detector finds in them, by turns, in
    /// every light and sharpness.
    Robust(Robust),
}

impl Recipe {
    /// Its name in options and metadata.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Recipe::Tutorial(_) => "tutorial",
            Recipe::Robust(_) => "robust",
        }
    }
}

/// Why a picture has no features.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// A model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The picture cannot be scaled or cut.
    #[error("a picture cannot be used: {0}")]
    Picture(#[from] PictureError),
}

impl From<DetectError> for RecipeError {
    fn from(error: DetectError) -> RecipeError {
        match error {
            DetectError::Model(error) => error.into(),
            DetectError::Picture(error) => error.into(),
        }
    }
}

/// Makes views and their features; one a thread.
#[derive(Debug)]
pub struct Worker {
    embedder: Embedder,
    detector: Option<Detector>,
    scaler: Scaler,
}

impl Worker {
    /// A worker; only the robust recipe needs a detector.
    #[must_use]
    pub fn new(embedder: Embedder, detector: Option<Detector>) -> Worker {
        Worker {
            embedder,
            detector,
            scaler: Scaler::default(),
        }
    }

    /// The picture as it is judged: whole, stretched to a crop.
    ///
    /// # Errors
    /// [`RecipeError::Picture`] if it is empty.
    pub fn plain(&mut self, pixels: &RgbImage) -> Result<Crop, RecipeError> {
        let whole = augment::whole(pixels).ok_or(PictureError::Region)?;
        Ok(self.scaler.crop(pixels, whole)?)
    }

    /// `views` views of a picture. The same `seed` gives the same views.
    ///
    /// # Errors
    /// [`RecipeError`] if the detector gives up or the picture is empty.
    pub fn views(
        &mut self,
        recipe: &Recipe,
        pixels: &RgbImage,
        views: usize,
        seed: u64,
    ) -> Result<Vec<Crop>, RecipeError> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut crops = Vec::with_capacity(views);
        match recipe {
            Recipe::Tutorial(geometry) => {
                let plain = self.plain(pixels)?;
                for _ in 0..views {
                    let draw = geometry.draw(&mut rng);
                    let view = augment::warp(plain.pixels(), &draw, geometry.fill);
                    crops.push(Crop::from_image(view)?);
                }
            }
            Recipe::Robust(robust) => {
                let whole = augment::whole(pixels).ok_or(PictureError::Region)?;
                let face = match &mut self.detector {
                    Some(detector) => largest(&detector.detect(pixels)?),
                    None => None,
                };
                let (width, height) = pixels.dimensions();
                for kind in ROBUST_TURNS.iter().cycle().take(views) {
                    let margin = augment::margin(robust.margin, &mut rng);
                    let cut = face.and_then(|face| face.region(margin, width, height));
                    let scaler = &mut self.scaler;
                    let view = match kind {
                        RobustView::Cut => {
                            robust.view(scaler, pixels, cut.unwrap_or(whole), &mut rng)
                        }
                        RobustView::Whole => robust.view(scaler, pixels, whole, &mut rng),
                        RobustView::Plain => {
                            let draw = robust.geometry.draw(&mut rng);
                            augment::warp_region(scaler, pixels, whole, &draw, robust.geometry.fill)
                        }
                    };
                    crops.push(Crop::from_image(view)?);
                }
            }
        }
        Ok(crops)
    }
}

/// A view of the robust recipe.
#[derive(Debug, Clone, Copy)]
enum RobustView {
    /// The face as the detector cuts it, in any light and by any camera.
    Cut,
    /// The whole picture, the same way.
    Whole,
    /// The whole picture in its own light, only moved about.
    Plain,
}

/// What the views of a picture are by turns. Five of eight are cut, as all are
/// at the door; without the plain ones the head gets worse on good pictures.
const ROBUST_TURNS: [RobustView; 8] = [
    RobustView::Cut,
    RobustView::Plain,
    RobustView::Cut,
    RobustView::Cut,
    RobustView::Whole,
    RobustView::Cut,
    RobustView::Plain,
    RobustView::Cut,
];

/// A training picture shows the person whom its label is about largest.
fn largest(faces: &[Face]) -> Option<Rect> {
    let rects = faces.iter().map(|face| face.rect);
    rects.max_by(|a, b| a.area().total_cmp(&b.area()))
}

/// What is to be made of a list of pictures.
#[derive(Debug, Clone, Copy)]
pub enum EmbedMode<'a> {
    /// The features of the picture as it is judged.
    Plain,
    /// The features of so many views by a recipe.
    Views {
        /// The recipe.
        recipe: &'a Recipe,
        /// At least one.
        views: usize,
        /// Together with a picture's place in the list it seeds the views.
        seed: u64,
    },
}

/// The features of `count` pictures, which `load` gives by their index: for each
/// picture its views, one after the other, `[count, views, 1280]` row by row.
///
/// The workers share the pictures, in their order; the result does not depend
/// on how many there are. `done` is called after each picture, and between;
/// when it gives false, no more pictures are begun and `None` is the result.
///
/// # Errors
/// The first [`RecipeError`] in the order of the pictures.
pub fn features<L>(
    workers: &mut [Worker],
    count: usize,
    load: L,
    make: EmbedMode,
    mut done: impl FnMut(usize) -> bool,
) -> Result<Option<Vec<f32>>, RecipeError>
where
    L: Fn(usize) -> Result<RgbImage, PictureError> + Sync,
{
    let views = match make {
        EmbedMode::Plain => 1,
        EmbedMode::Views { views, .. } => views,
    };
    let row = views * FEATURES;
    let mut all = vec![0.0; count * row];
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let mut failure: Option<(usize, RecipeError)> = None;
    std::thread::scope(|scope| {
        let (results, finished) = mpsc::channel();
        for worker in workers {
            let (results, next, stop, load) = (results.clone(), &next, &stop, &load);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    let features = one(worker, load, make, index);
                    if results.send((index, features)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(results);
        let mut finished_count = 0;
        for (index, features) in finished {
            match features {
                Ok(features) => all[index * row..(index + 1) * row].copy_from_slice(&features),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    if failure.as_ref().is_none_or(|(first, _)| index < *first) {
                        failure = Some((index, error));
                    }
                }
            }
            finished_count += 1;
            if !done(finished_count) {
                stop.store(true, Ordering::Relaxed);
            }
        }
        match failure {
            Some((_, error)) => Err(error),
            None if finished_count == count => Ok(Some(all)),
            None => Ok(None),
        }
    })
}

fn one<L>(
    worker: &mut Worker,
    load: &L,
    make: EmbedMode,
    index: usize,
) -> Result<Vec<f32>, RecipeError>
where
    L: Fn(usize) -> Result<RgbImage, PictureError>,
{
    let pixels = load(index)?;
    let crops = match make {
        EmbedMode::Plain => vec![worker.plain(&pixels)?],
        EmbedMode::Views {
            recipe,
            views,
            seed,
        } => worker.views(recipe, &pixels, views, mix(seed, index as u64))?,
    };
    let features = worker.embedder.embed(&crops)?;
    Ok(features
        .iter()
        .flat_map(|feature| feature.values().iter().copied())
        .collect())
}

/// A seed for each picture, far from those of its neighbors: one step of
/// `SplitMix64` (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014).
#[must_use]
pub fn mix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
