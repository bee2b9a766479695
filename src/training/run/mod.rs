//! A training run, which turns the pictures in a data set into a trained head.
//!
//! This module owns the epochs, the features that the epochs use ([`inputs`]), the
//! checkpoint of an interrupted run ([`checkpoint`]), and the fingerprint that
//! distinguishes one run from another ([`fingerprint`]). It knows nothing about the
//! command line, signals, or the terminal. The caller can observe and stop a run through
//! [`Progress`].

mod checkpoint;
mod fingerprint;
mod inputs;
mod replay;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

pub(crate) use checkpoint::{Checkpoint, CheckpointError};
pub(crate) use inputs::{
    FeatureSet, LabelledPicture, TrainingPictures, UsableDataset, decode_picture, embed, workers,
};
pub(crate) use replay::ReplayFeatures;

use crate::training::dataset::DatasetError;
use crate::training::recipe::{Recipe, RecipeError, mix};
use crate::training::train::{EpochRecord, History, Metrics, TrainError, TrainOptions, Trainer};
use crate::vision::detect::DetectorOptions;

/// Maximum memory for the features in a run, in bytes (2 GiB).
const MAX_FEATURE_BYTES: usize = 2 << 30;

/// Everything that affects the result of a run, except for its pictures and the backbone.
#[derive(Debug)]
pub(crate) struct RunOptions {
    pub(crate) recipe: Recipe,
    /// Options of the detector that finds the faces in the pictures.
    pub(crate) detector: DetectorOptions,
    /// Options of the trainer. The seed also determines the split, the views, and the
    /// order of samples.
    pub(crate) trainer: TrainOptions,
    /// Number of views of each picture, or 0 for a new view in each epoch.
    pub(crate) views: usize,
    /// Number of passes over the data set, at least 1.
    pub(crate) epochs: usize,
    /// Number of samples per step, at least 1.
    pub(crate) batch_size: usize,
}

/// A stage of a run that takes long enough to show its progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Pictures are decoded and compared.
    ReadPictures,
    /// The views of the training pictures are embedded.
    EmbedTraining,
    /// Training pictures are embedded for the replay set.
    EmbedReplay,
    /// Pictures for validation or evaluation are embedded.
    EmbedEvaluation,
    /// The head is trained. Each step of this stage is an epoch.
    Train,
}

/// Observes a run and can stop it.
pub(crate) trait Progress {
    /// Reports the start of a stage with `total` steps.
    fn start(&mut self, stage: Stage, total: usize);
    /// Reports that `done` steps of the stage are finished. Returning `false` stops
    /// the run.
    fn advance(&mut self, done: usize) -> bool;
    /// Reports the end of an epoch. [`Progress::advance`] is called next.
    fn epoch(&mut self, record: &EpochRecord);
    /// Reports the end of the stage, whether or not it is complete.
    fn finish(&mut self);
    /// Reports something that the user should know, in one sentence.
    fn warn(&mut self, sentence: &str);
}

/// The reason why a run did not produce a head.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The validation or evaluation pictures have a class that the model does not
    /// have.
    #[error("{folder} has the class {class:?}, which is none of {known}")]
    UnknownClass {
        folder: String,
        class: String,
        known: String,
    },
    /// A class has no validation pictures. The head could forget this class without any
    /// effect on the scores.
    #[error(
        "{validation} has no class {class:?}: each class of {training} needs validation pictures"
    )]
    NotValidated {
        validation: String,
        class: String,
        training: String,
    },
    #[error(
        "the features of {pictures} pictures in {views} views take {megabytes} MB, more than {max_megabytes}: use fewer --views",
        max_megabytes = MAX_FEATURE_BYTES / 1_000_000
    )]
    TooManyFeatures {
        pictures: usize,
        views: usize,
        megabytes: usize,
    },
    #[error(
        "a replay set needs {needed} training pictures of each class, and {class:?} has {pictures}"
    )]
    FewReplayPictures {
        class: String,
        pictures: usize,
        needed: usize,
    },
    /// [`Progress::advance`] returned `false` before the first epoch.
    #[error("interrupted while reading pictures: nothing was written")]
    Interrupted,
}

impl RunOptions {
    /// Returns the number of views per picture for a run with this number of
    /// pictures.
    ///
    /// # Errors
    /// [`RunError::TooManyFeatures`] if the features of these views do not fit in
    /// memory.
    pub(crate) fn views(&self, pictures: usize) -> Result<usize, RunError> {
        let views = match self.views {
            0 => self.epochs,
            views => views.min(self.epochs),
        };
        let bytes = pictures * views * self.trainer.features * size_of::<f32>();
        if bytes <= MAX_FEATURE_BYTES {
            return Ok(views);
        }
        Err(RunError::TooManyFeatures {
            pictures,
            views,
            megabytes: bytes / 1_000_000,
        })
    }

    /// Returns the order of the samples in an epoch. Epochs are counted from 0.
    fn order(&self, samples: usize, epoch: usize) -> Vec<usize> {
        let seed = mix(self.trainer.seed, u64::MAX - epoch as u64);
        let mut order: Vec<usize> = (0..samples).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        order
    }
}

/// The result of [`fit`].
#[derive(Debug)]
pub(crate) struct TrainedHead {
    /// The state after the last epoch or, for an interrupted run, after its best
    /// epoch.
    pub(crate) trainer: Trainer,
    pub(crate) history: History,
    /// The point at which to resume an interrupted run, or `None` if the run
    /// finished.
    pub(crate) checkpoint: Option<Checkpoint>,
}

/// Trains a head for the remaining epochs after `start`.
///
/// # Errors
/// [`TrainError`] if the features do not match the head, or the loss is no longer
/// finite.
pub(crate) fn fit(
    options: &RunOptions,
    training: &FeatureSet,
    validation: &FeatureSet,
    start: Checkpoint,
    progress: &mut impl Progress,
) -> Result<TrainedHead, TrainError> {
    let Checkpoint {
        fingerprint,
        trainer,
        best,
        mut history,
    } = start;
    let mut trainer = Trainer::from_state(trainer)?;
    let mut best = Trainer::from_state(best)?;
    progress.start(Stage::Train, options.epochs);
    progress.advance(history.0.len());
    while history.0.len() < options.epochs {
        let number = history.0.len() + 1;
        let record = epoch(options, training, validation, &mut trainer, number)?;
        history.0.push(record);
        if history.best().is_some_and(|best| best.epoch == number) {
            best = trainer.clone();
        }
        progress.epoch(&record);
        if !progress.advance(number) && number < options.epochs {
            progress.finish();
            return Ok(TrainedHead {
                checkpoint: Some(Checkpoint {
                    fingerprint,
                    trainer: trainer.state(),
                    best: best.state(),
                    history: history.clone(),
                }),
                trainer: best,
                history,
            });
        }
    }
    progress.finish();
    // As in the tutorial, this is the head after the last epoch. If the head with the
    // best validation scores were chosen instead, these scores would be too optimistic.
    Ok(TrainedHead {
        trainer,
        history,
        checkpoint: None,
    })
}

/// Runs one pass over the training pictures. `number` is the number of the epoch,
/// counted from 1.
fn epoch(
    options: &RunOptions,
    training: &FeatureSet,
    validation: &FeatureSet,
    trainer: &mut Trainer,
    number: usize,
) -> Result<EpochRecord, TrainError> {
    let epoch = number - 1;
    let mut features = Vec::with_capacity(options.batch_size * training.width);
    let mut steps = Vec::new();
    for indices in options
        .order(training.labels.len(), epoch)
        .chunks(options.batch_size)
    {
        features.clear();
        for index in indices {
            // Each picture starts with a different view, so that an epoch contains
            // all kinds of views.
            features.extend_from_slice(training.row(*index, (epoch + index) % training.views));
        }
        let labels: Vec<usize> = indices.iter().map(|i| training.labels[*i]).collect();
        steps.push(trainer.step(&features, &labels)?);
    }
    let seen = Metrics::of_epoch(&steps).unwrap_or(Metrics {
        loss: 0.0,
        accuracy: 0.0,
    });
    let validated = trainer.evaluate(&validation.features, &validation.labels)?;
    Ok(EpochRecord {
        epoch: number,
        learning_rate: trainer.learning_rate(),
        loss: seen.loss,
        accuracy: seen.accuracy,
        val_loss: validated.loss,
        val_accuracy: validated.accuracy,
    })
}
