//! The features of training pictures that a replay set contains.
//!
//! A replay set has the same number of pictures for each class, and one row per picture. The
//! seed determines the choice of pictures. There are five kinds of views, which are used in
//! turn, row by row: the whole picture, the whole picture with the tutorial's recipe, the
//! detected face, and the face and the whole picture with the robust recipe. Every fifth
//! picture in a class is held out. The light of held-out pictures is not changed.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{FeatureSet, LabelledPicture, Progress, RunError, embed, workers};
use crate::training::augment::{Geometry, Robust};
use crate::training::recipe::{EmbedMode, Recipe, RecipeError, SingleView, mix};
use crate::vision::detect::DetectorOptions;
use crate::vision::embed::Backbone;

/// One out of this many pictures of a class is held out.
const HOLDOUT: usize = 5;
const KINDS: usize = 5;
/// Number of kinds that do not change the light. They come first.
const GOOD_KINDS: usize = 3;
const DETECTOR: DetectorOptions = DetectorOptions {
    side: 320,
    threshold: 0.5,
};

/// The rows of a replay set.
#[derive(Debug)]
pub(crate) struct ReplayFeatures {
    pub(crate) train: FeatureSet,
    pub(crate) holdout: FeatureSet,
}

impl ReplayFeatures {
    /// Chooses at most `max_rows` of the pictures, and embeds one view of each.
    ///
    /// # Errors
    /// [`RunError::FewReplayPictures`] if a class has too few pictures, or the errors of
    /// [`embed`](super::embed).
    pub(crate) fn embed(
        backbone: &Backbone,
        pictures: &[LabelledPicture],
        classes: &[String],
        max_rows: usize,
        seed: u64,
        threads: usize,
        progress: &mut impl Progress,
    ) -> Result<ReplayFeatures, RunError> {
        let of_class = |class: usize| {
            let pictures = pictures
                .iter()
                .filter(move |picture| picture.class == class);
            pictures.cloned().collect::<Vec<LabelledPicture>>()
        };
        let by_class: Vec<Vec<LabelledPicture>> = (0..classes.len()).map(of_class).collect();
        let fewest = by_class
            .iter()
            .zip(classes)
            .min_by_key(|(all, _)| all.len());
        if let Some((all, class)) = fewest.filter(|(all, _)| all.len() < HOLDOUT) {
            return Err(RunError::FewReplayPictures {
                class: class.clone(),
                pictures: all.len(),
                needed: HOLDOUT,
            });
        }
        let fewest = fewest.map_or(0, |(all, _)| all.len());
        let share = fewest.min(max_rows / classes.len().max(1));
        let (mut train, mut holdout) = (RowPictures::default(), RowPictures::default());
        for (class, mut all) in by_class.into_iter().enumerate() {
            let mut random = ChaCha8Rng::seed_from_u64(mix(seed, class as u64));
            all.shuffle(&mut random);
            for (at, picture) in all.into_iter().take(share).enumerate() {
                // The held-out rows show whether a head forgets pictures in good light.
                let is_held_out = at.is_multiple_of(HOLDOUT);
                let turn = at / HOLDOUT;
                let (recipe, view) = kind(if is_held_out {
                    turn % GOOD_KINDS
                } else {
                    (turn + at) % KINDS
                });
                let chosen = if is_held_out {
                    &mut holdout
                } else {
                    &mut train
                };
                chosen.pictures.push(picture);
                chosen.views.push(SingleView {
                    recipe,
                    view,
                    seed: mix(seed, (class * share + at) as u64),
                });
            }
        }
        let mut workers = workers(backbone, Some(DETECTOR), threads).map_err(RecipeError::from)?;
        let mut embed = |chosen: &RowPictures| {
            let mode = EmbedMode::Single(&chosen.views);
            embed(&mut workers, &chosen.pictures, mode, progress)
        };
        Ok(ReplayFeatures {
            train: embed(&train)?,
            holdout: embed(&holdout)?,
        })
    }
}

/// The pictures of some rows, and the view of each picture.
#[derive(Default)]
struct RowPictures {
    pictures: Vec<LabelledPicture>,
    views: Vec<SingleView>,
}

/// Returns a recipe and the index of the view to use. In the robust recipe, the first
/// view shows the face, and the fifth view shows the whole picture.
fn kind(number: usize) -> (Recipe, usize) {
    let still = Geometry::default().still();
    match number {
        0 => (Recipe::Tutorial(still), 0),
        1 => (Recipe::Tutorial(Geometry::default()), 0),
        2 => {
            let mut plain = Robust {
                geometry: still,
                gray: 0.0,
                margin: (0.15, 0.15),
                ..Robust::default()
            };
            plain.light.probability = 0.0;
            plain.camera.probability = 0.0;
            plain.sharpness.probability = 0.0;
            (Recipe::Robust(plain), 0)
        }
        3 => (Recipe::Robust(Robust::default()), 0),
        _ => (Recipe::Robust(Robust::default()), 4),
    }
}
