//! Recipes, which turn pictures into the features that a head is trained on.
//!
//! This module owns the views that a recipe makes of a picture, and the workers that
//! embed these views. It knows nothing about labels or training.
//!
//! Each picture is read and decoded only once, regardless of the number of its views.
//! All views are made and embedded while the picture is in memory, and only the
//! features are kept (5 KB per view with the built-in backbone).

use std::ops::ControlFlow;

use image::RgbImage;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::frame::{Crop, Face, PictureError, Rect, Scaler};
use crate::onnx::{ModelError, ThreadPool};
use crate::training::augment::{self, Geometry, Robust};
use crate::vision::detect::{DetectError, Detector};
use crate::vision::embed::Embedder;

/// How the views of a picture are made.
#[derive(Debug, Clone, PartialEq)]
pub enum Recipe {
    /// The tutorial's recipe, which stretches the whole picture to a crop and
    /// applies geometric changes.
    Tutorial(Geometry),
    /// Alternates between whole pictures and the faces that the detector finds in
    /// them, with varied light and sharpness.
    Robust(Robust),
}

impl Recipe {
    /// The name used in options and metadata.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Recipe::Tutorial(_) => "tutorial",
            Recipe::Robust(_) => "robust",
        }
    }
}

/// The reason why the features of a picture could not be computed.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// A model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The picture cannot be scaled or cropped.
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

/// Makes views and their features. Each thread has its own worker.
#[derive(Debug)]
pub struct Worker {
    embedder: Embedder,
    detector: Option<Detector>,
    scaler: Scaler,
}

impl Worker {
    /// Makes a worker. Only the robust recipe needs a detector.
    #[must_use]
    pub fn new(embedder: Embedder, detector: Option<Detector>) -> Worker {
        Worker {
            embedder,
            detector,
            scaler: Scaler::default(),
        }
    }

    /// Length of the feature vectors.
    #[must_use]
    pub fn features(&self) -> usize {
        self.embedder.features()
    }

    /// Makes the view for evaluation, which is the whole picture stretched to a
    /// crop.
    ///
    /// # Errors
    /// [`RecipeError::Picture`] if the picture is empty.
    pub fn plain(&mut self, pixels: &RgbImage) -> Result<Crop, RecipeError> {
        let whole = augment::whole(pixels).ok_or(PictureError::Region)?;
        Ok(self.scaler.crop(pixels, whole)?)
    }

    /// Makes `views` views of a picture. The same `seed` gives the same views.
    ///
    /// # Errors
    /// [`RecipeError`] if the detector fails or the picture is empty.
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
                for view in ROBUST_VIEWS.iter().cycle().take(views) {
                    let margin = augment::margin(robust.margin, &mut rng);
                    let cut = face.and_then(|face| face.region(margin, width, height));
                    let scaler = &mut self.scaler;
                    let view = match view {
                        RobustView::Face => {
                            robust.view(scaler, pixels, cut.unwrap_or(whole), &mut rng)
                        }
                        RobustView::Whole => robust.view(scaler, pixels, whole, &mut rng),
                        RobustView::Geometry => {
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

/// A kind of view in the robust recipe.
#[derive(Debug, Clone, Copy)]
enum RobustView {
    /// The detected face, with all changes.
    Face,
    /// The whole picture, with all changes.
    Whole,
    /// The whole picture, with only geometric changes.
    Geometry,
}

/// The kinds of views of a picture, repeated from the start as needed. Five of eight
/// views are faces, because every crop from the camera at the door is a face. Without the
/// views that have only geometric changes, the head would be less accurate on good
/// pictures.
const ROBUST_VIEWS: [RobustView; 8] = [
    RobustView::Face,
    RobustView::Geometry,
    RobustView::Face,
    RobustView::Face,
    RobustView::Whole,
    RobustView::Face,
    RobustView::Geometry,
    RobustView::Face,
];

/// Returns the largest face, to which the label of a training picture applies.
fn largest(faces: &[Face]) -> Option<Rect> {
    let rects = faces.iter().map(|face| face.rect);
    rects.max_by(|a, b| a.area().total_cmp(&b.area()))
}

/// Which views of the pictures to embed.
#[derive(Debug, Clone, Copy)]
pub enum EmbedMode<'a> {
    /// The view that [`Worker::plain`] makes.
    Plain,
    /// The views that [`Worker::views`] makes.
    Views {
        /// How the views are made.
        recipe: &'a Recipe,
        /// Number of views of each picture, at least one.
        views: usize,
        /// Seed of the views. It is combined with the index of each picture.
        seed: u64,
    },
    /// One view of each picture, in the order of the pictures.
    Single(&'a [SingleView]),
}

impl EmbedMode<'_> {
    /// Number of views of each picture.
    #[must_use]
    pub fn views(&self) -> usize {
        match self {
            EmbedMode::Plain | EmbedMode::Single(_) => 1,
            EmbedMode::Views { views, .. } => *views,
        }
    }
}

/// A view of a picture.
#[derive(Debug, Clone)]
pub struct SingleView {
    /// How the view is made.
    pub recipe: Recipe,
    /// Index of the view among the views that [`Worker::views`] makes.
    pub view: usize,
    /// Seed of the view.
    pub seed: u64,
}

/// Computes the features of `count` pictures, which `load` returns by index. The
/// result is `[count, views, features]`, row by row.
///
/// The workers share the pictures, and the result does not depend on the number of
/// workers. After each picture, `done` is called with the number of finished pictures. If
/// `done` returns `false`, no more pictures are started, and the result is `None`.
///
/// # Errors
/// The first [`RecipeError`], in the order of the pictures.
pub fn features<L>(
    workers: &mut [Worker],
    count: usize,
    load: L,
    mode: EmbedMode,
    mut done: impl FnMut(usize) -> bool,
) -> Result<Option<Vec<f32>>, RecipeError>
where
    L: Fn(usize) -> Result<RgbImage, PictureError> + Sync,
{
    let row = mode.views() * workers.first().map_or(0, Worker::features);
    let mut all = vec![0.0; count * row];
    let mut failure: Option<(usize, RecipeError)> = None;
    let mut finished_count = 0;
    ThreadPool::of(workers.len()).for_each(
        workers,
        count,
        |worker, index| embed_one(worker, &load, mode, index),
        |index, features| {
            finished_count += 1;
            let go_on = done(finished_count);
            match features {
                Ok(features) => all[index * row..(index + 1) * row].copy_from_slice(&features),
                Err(error) => {
                    if failure.as_ref().is_none_or(|(first, _)| index < *first) {
                        failure = Some((index, error));
                    }
                }
            }
            if go_on && failure.is_none() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        },
    );
    match failure {
        Some((_, error)) => Err(error),
        None if finished_count == count => Ok(Some(all)),
        None => Ok(None),
    }
}

fn embed_one<L>(
    worker: &mut Worker,
    load: &L,
    mode: EmbedMode,
    index: usize,
) -> Result<Vec<f32>, RecipeError>
where
    L: Fn(usize) -> Result<RgbImage, PictureError>,
{
    let pixels = load(index)?;
    let crops = match mode {
        EmbedMode::Plain => vec![worker.plain(&pixels)?],
        EmbedMode::Views {
            recipe,
            views,
            seed,
        } => worker.views(recipe, &pixels, views, mix(seed, index as u64))?,
        EmbedMode::Single(single) => {
            let SingleView { recipe, view, seed } = &single[index];
            worker
                .views(recipe, &pixels, view + 1, *seed)?
                .split_off(*view)
        }
    };
    let features = worker.embedder.embed(&crops)?;
    Ok(features
        .iter()
        .flat_map(|feature| feature.values().iter().copied())
        .collect())
}

/// Returns an independent seed for each index, using one step of `SplitMix64` (Steele,
/// Lea, and Flood, "Fast splittable pseudorandom number generators", 2014).
#[must_use]
pub fn mix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
