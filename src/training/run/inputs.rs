//! The inputs of a run: the usable pictures, their split into training and validation,
//! and their features.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use image::RgbImage;

use super::{Progress, RunError, Stage};
use crate::frame::PictureError;
use crate::frame::decoding::{self, decode};
use crate::onnx::{ModelError, ThreadPool};
use crate::training::dataset::{self, Dataset, Fingerprint, Issues, Picture};
use crate::training::recipe::{self, EmbedMode, Worker};
use crate::vision::detect::{Detector, DetectorOptions};
use crate::vision::embed::{Backbone, Embedder};
use crate::vision::pipeline::SHIPPED_DETECTOR;

/// Fraction of the pictures used for validation if there are no separate validation
/// pictures, as in the tutorial.
const VALIDATION_SHARE: f64 = 0.2;

/// A picture with the class that the model should predict.
#[derive(Debug, Clone)]
pub(crate) struct LabelledPicture {
    pub(crate) path: PathBuf,
    /// Index of the class in the model.
    pub(crate) class: usize,
    pub(super) file_sha256: [u8; 32],
}

/// A data set without the pictures that cannot be used for training.
#[derive(Debug)]
pub(crate) struct UsableDataset {
    pub(crate) dataset: Dataset,
    /// Fingerprints of the pictures in `dataset`, in the same order.
    pub(crate) fingerprints: Vec<Fingerprint>,
}

impl UsableDataset {
    /// Reads and compares all pictures, and reports any issues as warnings.
    ///
    /// # Errors
    /// [`RunError::Interrupted`] if the run was stopped, and [`RunError::Dataset`] if too
    /// few pictures of a class are usable.
    pub(crate) fn read(
        listed: &Dataset,
        threads: usize,
        progress: &mut impl Progress,
    ) -> Result<UsableDataset, RunError> {
        progress.start(Stage::ReadPictures, listed.pictures.len());
        let read = fingerprints(&listed.pictures, threads, |done| progress.advance(done));
        progress.finish();
        let read = read.ok_or(RunError::Interrupted)?;
        let issues = Issues::new(listed, &read);
        let sentences = listed.unused().into_iter();
        for sentence in sentences.chain(issues.sentences(listed)) {
            progress.warn(&sentence);
        }
        let left_out = issues.left_out();
        let usable = dataset::without(read, &left_out);
        Ok(UsableDataset {
            dataset: listed.without(&left_out)?,
            fingerprints: usable.into_iter().filter_map(Result::ok).collect(),
        })
    }

    /// Returns the pictures, with each class given as its index in `classes`.
    ///
    /// # Errors
    /// [`RunError::UnknownClass`] if a class is not in `classes`.
    pub(crate) fn labelled(&self, classes: &[String]) -> Result<Vec<LabelledPicture>, RunError> {
        let UsableDataset {
            dataset,
            fingerprints,
        } = self;
        let labelled = |(picture, fingerprint): (&Picture, &Fingerprint)| {
            let name = &dataset.classes[picture.class];
            let class = classes.iter().position(|class| class == name);
            let class = class.ok_or_else(|| unknown_class(dataset, name, classes))?;
            Ok(LabelledPicture {
                path: picture.path.clone(),
                class,
                file_sha256: fingerprint.file,
            })
        };
        let pictures = dataset.pictures.iter().zip(fingerprints);
        pictures.map(labelled).collect()
    }
}

/// The pictures that a run uses.
#[derive(Debug)]
pub(crate) struct TrainingPictures {
    pub(crate) dataset: Dataset,
    pub(crate) dataset_sha256: [u8; 32],
    pub(crate) training: Vec<LabelledPicture>,
    pub(crate) validation: Vec<LabelledPicture>,
}

impl TrainingPictures {
    /// Reads the data set in `folder` and the data set in `validation`. Without
    /// `validation`, a fifth of the first data set is chosen for validation, based on
    /// `seed`.
    ///
    /// # Errors
    /// [`RunError`] if a folder is not a data set, or the two data sets do not
    /// match.
    pub(crate) fn read(
        folder: &Path,
        validation: Option<&Path>,
        seed: u64,
        threads: usize,
        progress: &mut impl Progress,
    ) -> Result<TrainingPictures, RunError> {
        let listed = Dataset::open(folder)?;
        let validation = validation.map(Dataset::open_for_evaluation).transpose()?;
        if let Some(validation) = &validation {
            check_same_classes(&listed, validation)?;
        }
        let usable = UsableDataset::read(&listed, threads, progress)?;
        let all = usable.labelled(&usable.dataset.classes)?;
        let (training, validation) = if let Some(validation) = validation {
            let validation = UsableDataset::read(&validation, threads, progress)?;
            let pictures = validation.labelled(&usable.dataset.classes)?;
            if let Some(note) = leak_note(&usable, &validation) {
                progress.warn(&note);
            }
            (all, pictures)
        } else {
            let hashes: Vec<_> = usable.fingerprints.iter().map(|print| print.hash).collect();
            let groups = dataset::near_duplicate_groups(&hashes, dataset::MAX_DUPLICATE_DISTANCE);
            let split = usable.dataset.split(&groups, VALIDATION_SHARE, seed)?;
            let side = |indices: &[usize]| -> Vec<LabelledPicture> {
                indices.iter().map(|index| all[*index].clone()).collect()
            };
            (side(&split.train), side(&split.val))
        };
        Ok(TrainingPictures {
            dataset_sha256: usable.dataset.digest(&usable.fingerprints),
            dataset: usable.dataset,
            training,
            validation,
        })
    }
}

/// The features of labeled pictures.
#[derive(Debug)]
pub(crate) struct FeatureSet {
    /// Features `[pictures, views, width]` in row-major order.
    pub(crate) features: Vec<f32>,
    /// Length of a feature vector.
    pub(crate) width: usize,
    /// Number of views of each picture.
    pub(crate) views: usize,
    /// The class of each picture.
    pub(crate) labels: Vec<usize>,
}

impl FeatureSet {
    pub(super) fn row(&self, picture: usize, view: usize) -> &[f32] {
        let start = (picture * self.views + view) * self.width;
        &self.features[start..start + self.width]
    }
}

/// Makes the views of pictures and embeds them.
///
/// # Errors
/// [`RunError::Interrupted`] if the run was stopped, and [`RunError::Recipe`] if a
/// picture cannot be used or a model fails.
pub(crate) fn embed(
    workers: &mut [Worker],
    pictures: &[LabelledPicture],
    mode: EmbedMode,
    progress: &mut impl Progress,
) -> Result<FeatureSet, RunError> {
    let stage = match mode {
        EmbedMode::Plain => Stage::EmbedEvaluation,
        EmbedMode::Views { .. } => Stage::EmbedTraining,
        EmbedMode::Single(_) => Stage::EmbedReplay,
    };
    let views = mode.views();
    progress.start(stage, pictures.len());
    let width = workers.first().map_or(0, Worker::features);
    let features = recipe::features(
        workers,
        pictures.len(),
        |index| decode_picture(&pictures[index].path),
        mode,
        |done| progress.advance(done),
    );
    progress.finish();
    Ok(FeatureSet {
        features: features?.ok_or(RunError::Interrupted)?,
        width,
        views,
        labels: pictures.iter().map(|picture| picture.class).collect(),
    })
}

/// Makes one worker for each thread. Only the robust recipe needs a `detector`.
///
/// # Errors
/// [`ModelError`] if a model cannot be prepared.
pub(crate) fn workers(
    backbone: &Backbone,
    detector: Option<DetectorOptions>,
    threads: usize,
) -> Result<Vec<Worker>, ModelError> {
    let worker = |_| {
        let detector = detector.map(|options| {
            let name = "the built-in face detector";
            Detector::new(name, SHIPPED_DETECTOR, options, ThreadPool::alone())
        });
        let embedder = Embedder::new(backbone, 1, ThreadPool::alone())?;
        Ok(Worker::new(embedder, detector.transpose()?))
    };
    (0..threads).map(worker).collect()
}

/// Reads and decodes a picture file.
///
/// # Errors
/// [`PictureError`] if the file cannot be read or is not a picture.
pub(crate) fn decode_picture(path: &Path) -> Result<RgbImage, PictureError> {
    let bytes = decoding::read(path).map_err(|error| PictureError::Decode(error.to_string()))?;
    decode(&bytes)
}

/// Returns the result of [`dataset::load`] for each picture, in order. After each
/// picture, `done` is called with the number of finished pictures. If `done` returns
/// `false`, the result is `None`.
fn fingerprints(
    pictures: &[Picture],
    threads: usize,
    mut done: impl FnMut(usize) -> bool,
) -> Option<Vec<Result<Fingerprint, String>>> {
    let mut all: Vec<_> = pictures.iter().map(|_| None).collect();
    let mut finished_count = 0;
    ThreadPool::of(threads).for_each(
        &mut vec![(); threads],
        pictures.len(),
        |(), index| dataset::load(&pictures[index].path).map(|(_, print)| print),
        |index, print| {
            all[index] = Some(print);
            finished_count += 1;
            if done(finished_count) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        },
    );
    all.into_iter().collect()
}

fn unknown_class(dataset: &Dataset, class: &str, known: &[String]) -> RunError {
    RunError::UnknownClass {
        folder: dataset.folder.display().to_string(),
        class: class.to_owned(),
        known: known.join(", "),
    }
}

fn check_same_classes(training: &Dataset, validation: &Dataset) -> Result<(), RunError> {
    let missing_in = |classes: &[String], other: &Dataset| {
        let missing = other.classes.iter().find(|name| !classes.contains(name));
        missing.cloned()
    };
    if let Some(class) = missing_in(&training.classes, validation) {
        return Err(unknown_class(validation, &class, &training.classes));
    }
    if let Some(class) = missing_in(&validation.classes, training) {
        return Err(RunError::NotValidated {
            validation: validation.folder.display().to_string(),
            class,
            training: training.folder.display().to_string(),
        });
    }
    Ok(())
}

/// Returns a warning if validation pictures look like training pictures.
fn leak_note(training: &UsableDataset, validation: &UsableDataset) -> Option<String> {
    let both = training.fingerprints.iter().chain(&validation.fingerprints);
    let hashes: Vec<_> = both.map(|print| print.hash).collect();
    let groups = dataset::near_duplicate_groups(&hashes, dataset::MAX_DUPLICATE_DISTANCE);
    // The index of the first picture in a group identifies the group.
    let count = training.fingerprints.len();
    let mut leaked =
        (0..validation.fingerprints.len()).filter(|index| groups[count + index] < count);
    let first = leaked.next()?;
    Some(format!(
        "some validation pictures ({}) look like training pictures, which makes the scores too good: the first is {}",
        leaked.count() + 1,
        validation.dataset.name(first)
    ))
}
