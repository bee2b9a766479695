//! `maskd train`, which trains a model on a folder of pictures.

mod args;

use std::path::Path;

use super::output::{SMALL_FILE, write};
use super::progress::TerminalProgress;
use super::{Failure, complain, print};
use crate::config::Config;
use crate::learning::replay::{Replay, Rows};
use crate::onnx::{self, BackboneFile, HeadFile, MAX_MODEL_BYTES, ModelFile};
use crate::platform::hex;
use crate::training::augment;
use crate::training::dataset;
use crate::training::recipe::{EmbedMode, Recipe, Worker, mix};
use crate::training::report::{self, HistoryPoint, PlotFormat, Report};
use crate::training::run::{
    Checkpoint, FeatureSet, LabelledPicture, ReplayFeatures, RunOptions, TrainedHead,
    TrainingPictures, decode_picture, embed, fit, workers,
};
use crate::training::train::{EpochRecord, TrainOptions, Trainer};
use crate::vision::detect::DetectorOptions;
use crate::vision::embed::Backbone;
use crate::vision::pipeline::SHIPPED_CLASSIFIER;

pub(super) use args::Train;
use args::{RecipeName, sheet_format};

/// Number of pictures on a contact sheet. Each picture is shown in two views.
const SHEET_PICTURES: usize = 48;
/// Maximum number of rows of a replay set. Files of backbones with many features have fewer
/// rows.
const REPLAY_ROWS: usize = 1500;
/// Number of views in a row of a contact sheet.
const SHEET_COLUMNS: usize = 12;

impl Train {
    pub(super) fn run(self, config: &Config) -> Result<(), Failure> {
        self.check()?;
        let checkpoint_file = self.checkpoint_file();
        let checkpoint = if self.resume {
            Some(Checkpoint::read(&checkpoint_file)?)
        } else {
            None
        };
        if self.background {
            lowest_priority();
        }
        let backbone = self.backbone()?;
        let mut progress = TerminalProgress::new()?;
        let threads = match usize::from(self.threads) {
            0 => config.classify.threads(0),
            threads => threads,
        };

        let (data, val) = (&self.dataset, self.val.as_deref());
        let pictures = TrainingPictures::read(data, val, self.seed, threads, &mut progress)?;
        self.describe(&pictures);

        let options = self.options(&pictures, config, backbone.features);
        let fingerprint = options.fingerprint(&pictures, &backbone.backbone_sha256);
        let checkpoint = match checkpoint {
            Some(checkpoint) if checkpoint.fingerprint == fingerprint => checkpoint,
            Some(_) => {
                let path = checkpoint_file.display();
                let sentence =
                    format!("{path} belongs to a training run with other pictures or options");
                return Err(Failure::new(Failure::USAGE, sentence));
            }
            None => {
                let classes = pictures.dataset.classes.len();
                let trainer = Trainer::new(classes, options.trainer.clone())?;
                Checkpoint::start(fingerprint, &trainer)
            }
        };

        let detector = match self.recipe {
            RecipeName::Tutorial => None,
            RecipeName::Robust => Some(options.detector),
        };
        let ready = Backbone::new(backbone.backbone.clone(), backbone.features)?;
        let mut workers = workers(&ready, detector, threads)?;
        if let Some(path) = &self.show_augmented {
            self.write_sheet(&mut workers[0], &options.recipe, &pictures.training, path)?;
        }
        if let Some(path) = &self.replay {
            let replay = self.replay_set(&backbone, &ready, &pictures, threads, &mut progress)?;
            write(path, &replay)?;
        }
        if self.first_output().is_none() {
            return Ok(());
        }
        let mode = EmbedMode::Views {
            recipe: &options.recipe,
            views: options.views(pictures.training.len())?,
            seed: self.seed,
        };
        let training = embed(&mut workers, &pictures.training, mode, &mut progress)?;
        let plain = EmbedMode::Plain;
        let validation = embed(&mut workers, &pictures.validation, plain, &mut progress)?;
        drop((workers, ready));

        let trained = fit(&options, &training, &validation, checkpoint, &mut progress)?;
        if let Some(checkpoint) = &trained.checkpoint {
            checkpoint.write(&checkpoint_file)?;
        }
        self.write(&options, &pictures, &backbone, &trained, &validation)?;
        if trained.checkpoint.is_some() {
            let sentence = format!(
                "interrupted after epoch {}: the best model so far is written; --resume continues from {}",
                trained.history.0.len(),
                checkpoint_file.display()
            );
            return Err(Failure::new(Failure::TEMPORARY, sentence));
        }
        // Training is complete, so the checkpoint is not needed anymore. Errors are
        // ignored because the checkpoint may never have existed.
        let _ = std::fs::remove_file(&checkpoint_file);
        Ok(())
    }

    /// Describes the training pictures on standard error.
    fn describe(&self, pictures: &TrainingPictures) {
        let TrainingPictures {
            dataset,
            training,
            validation,
            ..
        } = pictures;
        if let Some(note) = dataset::imbalance_note(&dataset.classes, &dataset.counts()) {
            let consequence = match self.recipe {
                RecipeName::Tutorial => "the tutorial's recipe does not correct for that",
                RecipeName::Robust => "the loss is weighted so that each class counts the same",
            };
            complain(&format!("{note}; {consequence}"));
        }
        complain(&format!(
            "{} training pictures, {} validation pictures, labels {}",
            training.len(),
            validation.len(),
            dataset.classes.join(", ")
        ));
    }

    /// Reads the backbone file. Without a file, returns the built-in backbone.
    fn backbone(&self) -> Result<BackboneFile, Failure> {
        let Some(path) = &self.backbone else {
            return Ok(BackboneFile::parse(
                "the built-in model",
                SHIPPED_CLASSIFIER,
            )?);
        };
        let bytes = onnx::read_file(path)?;
        if bytes.len() + SMALL_FILE > MAX_MODEL_BYTES as usize {
            let path = path.display();
            let sentence = format!(
                "the backbone {path} is too large: with a head, it would exceed {} MiB, the limit \
                 for models",
                MAX_MODEL_BYTES >> 20
            );
            return Err(Failure::new(Failure::DATA, sentence));
        }
        Ok(BackboneFile::parse(&path.display().to_string(), &bytes)?)
    }

    /// Embeds training pictures for a replay set, and returns the bytes of its file.
    fn replay_set(
        &self,
        file: &BackboneFile,
        backbone: &Backbone,
        pictures: &TrainingPictures,
        threads: usize,
        progress: &mut TerminalProgress,
    ) -> Result<Vec<u8>, Failure> {
        let labels = &pictures.dataset.classes;
        let max_rows = Replay::max_rows(labels, file.features).min(REPLAY_ROWS);
        let features = ReplayFeatures::embed(
            backbone,
            &pictures.training,
            labels,
            max_rows,
            self.seed,
            threads,
            progress,
        )?;
        let rows = |set: FeatureSet| Rows {
            features: set.features,
            labels: set.labels,
        };
        let replay = Replay {
            backbone_sha256: file.backbone_sha256,
            labels: labels.clone(),
            train: rows(features.train),
            holdout: rows(features.holdout),
        };
        replay
            .to_bytes()
            .map_err(|error| Failure::new(Failure::DATA, error))
    }

    fn options(&self, pictures: &TrainingPictures, config: &Config, features: usize) -> RunOptions {
        let counts = pictures.dataset.counts();
        let class_weights = match self.recipe {
            RecipeName::Tutorial => vec![1.0; counts.len()],
            RecipeName::Robust => dataset::class_weights(&counts),
        };
        RunOptions {
            recipe: self.recipe(),
            detector: DetectorOptions {
                side: config.detect.input_size,
                threshold: config.detect.threshold,
            },
            trainer: TrainOptions {
                features,
                init_lr: self.init_lr(),
                decay: self.init_lr() / self.epochs() as f32,
                seed: self.seed,
                class_weights: class_weights.iter().map(|weight| *weight as f32).collect(),
                ..TrainOptions::default()
            },
            views: self.views,
            epochs: self.epochs() as usize,
            batch_size: self.batch_size() as usize,
        }
    }

    /// Writes a contact sheet of training pictures, as augmented by the recipe.
    fn write_sheet(
        &self,
        worker: &mut Worker,
        recipe: &Recipe,
        training: &[LabelledPicture],
        path: &Path,
    ) -> Result<(), Failure> {
        let mut crops = Vec::new();
        let step = (training.len() / SHEET_PICTURES).max(1);
        let pictures = training.iter().enumerate().step_by(step);
        for (index, picture) in pictures.take(SHEET_PICTURES) {
            let pixels = decode_picture(&picture.path)
                .map_err(|error| Failure::new(Failure::DATA, error))?;
            let views = worker.views(recipe, &pixels, 2, mix(self.seed, index as u64))?;
            crops.extend(views.iter().map(|crop| crop.pixels().clone()));
        }
        let sheet = augment::contact_sheet(&crops, SHEET_COLUMNS);
        let mut bytes = std::io::Cursor::new(Vec::new());
        sheet
            .write_to(&mut bytes, sheet_format(path)?)
            .map_err(|error| {
                let sentence = format!("cannot draw {}: {error}", path.display());
                Failure::new(Failure::USAGE, sentence)
            })?;
        write(path, bytes.get_ref())
    }

    /// Writes the output files that the user requested, and prints the report.
    fn write(
        &self,
        options: &RunOptions,
        pictures: &TrainingPictures,
        backbone: &BackboneFile,
        trained: &TrainedHead,
        validation: &FeatureSet,
    ) -> Result<(), Failure> {
        let internal = |error: &dyn std::fmt::Display| Failure::new(Failure::INTERNAL, error);
        let classes = &pictures.dataset.classes;
        let probabilities = trained.trainer.probabilities(&validation.features)?;
        let report = Report::new(&validation.labels, &probabilities, classes, None)
            .map_err(|error| internal(&error))?;
        let json = serde_json::to_string(&report).map_err(|error| internal(&error))?;
        let head = HeadFile {
            backbone_sha256: backbone.backbone_sha256,
            labels: classes.clone(),
            head: trained.trainer.tensors(),
        };
        let metadata = [
            ("recipe", options.recipe.name().to_owned()),
            ("seed", self.seed.to_string()),
            ("dataset_sha256", hex::encode(&pictures.dataset_sha256)),
            ("scores", json.clone()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        if let Some(path) = &self.model {
            let model = onnx::write_classifier(&backbone.base, &head, &metadata)?;
            write_model(path, &model)?;
        }
        if let Some(path) = &self.head_only {
            write_model(path, &onnx::write_head(&head, &metadata))?;
        }
        if let Some(path) = &self.report {
            write(path, (json + "\n").as_bytes())?;
        }
        let points: Vec<HistoryPoint> = trained.history.0.iter().map(point).collect();
        if let Some(path) = &self.plot {
            let title = "Training loss and accuracy";
            let plot = PlotFormat::of(path)
                .and_then(|format| report::plot_history(&points, title, format))
                .map_err(|error| internal(&error))?;
            write(path, &plot)?;
        }
        if let Some(path) = self.history_file() {
            write(&path, report::history_csv(&points).as_bytes())?;
        }
        print(report.to_string())
    }
}

/// Writes a model or a head. The bytes are parsed before they replace a file, so that a
/// failed training run does not replace a working model.
fn write_model(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    ModelFile::parse("the trained model", bytes).map_err(|error| {
        let path = path.display();
        let sentence = format!("{path} is not written, because the training failed: {error}");
        Failure::new(Failure::DATA, sentence)
    })?;
    write(path, bytes)
}

fn point(epoch: &EpochRecord) -> HistoryPoint {
    HistoryPoint {
        epoch: epoch.epoch as u32,
        loss: f64::from(epoch.loss),
        accuracy: f64::from(epoch.accuracy),
        val_loss: f64::from(epoch.val_loss),
        val_accuracy: f64::from(epoch.val_accuracy),
    }
}

/// Lowers the priority of the current thread. Threads that the current thread starts
/// afterward inherit the priority.
fn lowest_priority() {
    if let Err(error) = rustix::process::setpriority_process(None, 19) {
        complain(&format!("cannot lower the priority: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::Classifier;

    #[test]
    fn a_model_that_cannot_be_opened_replaces_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        std::fs::write(&path, b"old").unwrap();
        let classifier = Classifier::parse("shipped", SHIPPED_CLASSIFIER).unwrap();
        let mut head = HeadFile {
            backbone_sha256: classifier.backbone_sha256,
            labels: classifier.labels.clone(),
            head: classifier.head.clone(),
        };
        let whole = onnx::write_classifier(SHIPPED_CLASSIFIER, &head, &[]).unwrap();
        head.head.b2[0] = f32::NAN;
        let broken = onnx::write_classifier(SHIPPED_CLASSIFIER, &head, &[]).unwrap();
        for bytes in [&broken, &onnx::write_head(&head, &[]), &b"cut off".to_vec()] {
            let failure = write_model(&path, bytes).unwrap_err();
            let sentence = failure.sentence;
            assert!(
                sentence.contains("because the training failed: "),
                "{sentence}"
            );
            assert_eq!(std::fs::read(&path).unwrap(), b"old");
        }
        write_model(&path, &whole).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }
}
