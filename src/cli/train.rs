//! `maskd train`: a folder of pictures in, a classifier out.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use clap::Args;
use image::{ImageFormat, RgbImage};
use indicatif::{ProgressBar, ProgressStyle};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::interrupt::Interrupt;
use super::{Failure, complain, print};
use crate::config::Config;
use crate::frame::PictureError;
use crate::onnx::{self, Classifier, FEATURES, HeadFile, ThreadPool};
use crate::platform::files;
use crate::training::augment::{self, Fill, Geometry, Robust};
use crate::training::dataset::{self, Dataset, DatasetError, Findings, Fingerprint, Picture};
use crate::training::recipe::{self, EmbedMode, Recipe, RecipeError, Worker, mix};
use crate::training::report::{self, HistoryPoint, PlotFormat, Report};
use crate::training::train::{
    EpochRecord, History, Metrics, TrainError, TrainOptions, Trainer, TrainerState,
};
use crate::vision::detect::{Detector, DetectorOptions};
use crate::vision::embed::{Backbone, Embedder};
use crate::vision::pipeline::{SHIPPED_CLASSIFIER, SHIPPED_DETECTOR};

/// Most memory for the features of a training, in bytes (2 GiB).
const MAX_FEATURE_BYTES: usize = 2 << 30;

/// Share of the pictures that are kept to check by, as in the tutorial.
const VALIDATION_SHARE: f64 = 0.2;

/// Pictures on a contact sheet.
const SHEET: usize = 48;

/// More than a head, a report, a plot or a contact sheet takes, in bytes; a
/// classifier takes a backbone more.
pub(super) const SMALL_FILE: usize = 2 << 20;

/// More than the state of an interrupted training takes, in bytes: eight digits
/// for each weight of two heads, with their running means and squares.
const STATE_FILE: usize = 10 << 20;

#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
pub(super) struct Train {
    /// Folder with one folder of pictures a class; their names become the labels
    #[arg(long, value_name = "DIR")]
    dataset: PathBuf,

    /// Pictures to check by, in the same form; without, a fifth of the data set
    #[arg(long, value_name = "DIR")]
    val: Option<PathBuf>,

    /// Write the classifier, backbone and head, to this ONNX file
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,

    /// Write the head alone to this ONNX file
    #[arg(long, value_name = "FILE")]
    head_only: Option<PathBuf>,

    /// Plot loss and accuracy over the epochs to this PNG or SVG file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Write the numbers of the plot too, to its name with .csv behind it
    #[arg(long, requires = "plot")]
    history: bool,

    /// Write the classification report to this JSON file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Write pictures as they are learned from to this PNG or JPEG file
    #[arg(long, value_name = "FILE")]
    show_augmented: Option<PathBuf>,

    /// How views of the pictures are made
    #[arg(long, value_enum, default_value_t = RecipeName::Robust)]
    recipe: RecipeName,

    /// Views of each picture, used over and over by the epochs; 0 is a fresh
    /// one for each epoch
    #[arg(long, value_name = "K", default_value_t = 8)]
    views: usize,

    /// Passes over the data set [default: tutorial 20, robust 60]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    epochs: Option<u32>,

    /// Pictures a step [default: tutorial 32, robust 64]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch_size: Option<u32>,

    /// Learning rate of the first step; it decays by Keras' time-based rule with
    /// INIT_LR / EPOCHS a step [default: tutorial 1e-4, robust 1.5e-4]
    #[arg(long, allow_negative_numbers = true)]
    init_lr: Option<f32>,

    /// The same seed, pictures and options give the same bytes
    #[arg(long, default_value_t = 42)]
    seed: u64,

    /// Rotate by up to so many degrees
    #[arg(long, default_value_t = 20.0, allow_negative_numbers = true)]
    rotation: f32,

    /// Zoom by up to this share, in and out
    #[arg(long, default_value_t = 0.15, allow_negative_numbers = true)]
    zoom: f32,

    /// Shift by up to this share of the width
    #[arg(long, default_value_t = 0.2, allow_negative_numbers = true)]
    width_shift: f32,

    /// Shift by up to this share of the height
    #[arg(long, default_value_t = 0.2, allow_negative_numbers = true)]
    height_shift: f32,

    /// Shear by up to so many degrees
    #[arg(long, default_value_t = 0.15, allow_negative_numbers = true)]
    shear: f32,

    /// Shift each color by up to so many levels
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    channel_shift: f32,

    /// Mirror half of the views
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    horizontal_flip: bool,

    /// What shows where a view reaches beyond the picture
    #[arg(long, value_enum, default_value_t = FillName::Nearest)]
    fill: FillName,

    /// Leave the machine to everybody else: lowest priority
    #[arg(long)]
    background: bool,

    /// Threads; 0 is one a core
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=64))]
    threads: u16,

    /// Go on with a training that was interrupted (exit code 75), with the same
    /// pictures and options
    #[arg(long)]
    resume: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum RecipeName {
    /// Exactly the well-known tutorial's
    Tutorial,
    /// Whole pictures and faces cut from them, in every light and sharpness:
    /// for cameras that it has not seen
    Robust,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum FillName {
    Nearest,
    Constant,
    Reflect,
    Wrap,
}

impl From<DatasetError> for Failure {
    fn from(error: DatasetError) -> Failure {
        let exit = match error {
            DatasetError::Missing { .. } | DatasetError::NotFolder { .. } => Failure::NO_INPUT,
            _ => Failure::DATA,
        };
        Failure::new(exit, error)
    }
}

impl From<TrainError> for Failure {
    fn from(error: TrainError) -> Failure {
        let exit = match error {
            TrainError::Options(_) => Failure::USAGE,
            TrainError::NotFinite { .. } => Failure::DATA,
            TrainError::Tensors(_) | TrainError::Batch(_) => Failure::INTERNAL,
        };
        Failure::new(exit, error)
    }
}

impl From<RecipeError> for Failure {
    fn from(error: RecipeError) -> Failure {
        match error {
            RecipeError::Model(error) => error.into(),
            RecipeError::Picture(_) => Failure::new(Failure::DATA, error),
        }
    }
}

/// A set of pictures with their features.
struct Samples {
    /// `[views, pictures, FEATURES]` is spread over the views; `[pictures,
    /// views, FEATURES]` row by row.
    features: Vec<f32>,
    views: usize,
    labels: Vec<usize>,
}

impl Samples {
    fn row(&self, picture: usize, view: usize) -> &[f32] {
        let start = (picture * self.views + view) * FEATURES;
        &self.features[start..start + FEATURES]
    }
}

/// A picture to learn from or to check by.
#[derive(Clone)]
pub(super) struct LabelledPicture {
    pub(super) path: PathBuf,
    pub(super) class: usize,
    /// SHA-256 of the file.
    file: [u8; 32],
}

/// What is read before anything is learned.
struct DataSplit {
    data: Dataset,
    /// Of the pictures of `data`, in their order.
    prints: Vec<Fingerprint>,
    train: Vec<LabelledPicture>,
    val: Vec<LabelledPicture>,
}

/// What `--resume` goes on from.
#[derive(Serialize, Deserialize)]
struct Checkpoint {
    /// See [`Train::digest`]: another training must not go on from here.
    digest: String,
    trainer: TrainerState,
    best: TrainerState,
    history: History,
}

impl Train {
    #[expect(
        clippy::too_many_lines,
        reason = "the steps of a training, in their order"
    )]
    pub(super) fn run(self, config: &Config) -> Result<(), Failure> {
        self.check()?;
        let state = self.state_file();
        let saved = if self.resume {
            Some(Checkpoint::read(&state)?)
        } else {
            None
        };
        if self.background {
            lowest_priority();
        }
        let interrupt = Interrupt::catch()?;
        let recipe = self.recipe();
        let threads = self.threads(config);

        let DataSplit {
            data,
            prints,
            train,
            val,
        } = self.sides(threads, &interrupt)?;
        let counts = data.counts();
        if let Some(note) = dataset::imbalance_note(&data.classes, &counts) {
            let what = match self.recipe {
                RecipeName::Tutorial => "the tutorial's recipe takes them as they come",
                RecipeName::Robust => "each class is weighted to count alike",
            };
            complain(&format!("{note}; {what}"));
        }
        complain(&format!(
            "{} pictures to learn from, {} to check by, labels {}",
            train.len(),
            val.len(),
            data.classes.join(", ")
        ));

        let Classifier {
            backbone,
            backbone_sha256,
            ..
        } = Classifier::parse("the shipped classifier", SHIPPED_CLASSIFIER)?;
        let weights = match self.recipe {
            RecipeName::Tutorial => vec![1.0; counts.len()],
            RecipeName::Robust => dataset::class_weights(&counts),
        };
        let options = TrainOptions {
            init_lr: self.init_lr(),
            decay: self.init_lr() / self.epochs() as f32,
            seed: self.seed,
            class_weights: weights.iter().map(|weight| *weight as f32).collect(),
            ..TrainOptions::default()
        };
        let detector = DetectorOptions {
            side: config.detect.side,
            threshold: config.detect.threshold,
        };
        let means = format!(
            "{recipe:?} {detector:?} {options:?} {:?} {}",
            data.classes,
            onnx::to_hex(&backbone_sha256)
        );
        let digest = self.digest(&means, &train, &val);
        if saved.as_ref().is_some_and(|saved| saved.digest != digest) {
            let state = state.display();
            let sentence = format!("{state} is of a training with other pictures or options");
            return Err(Failure::new(Failure::USAGE, sentence));
        }

        let mut workers = self.workers(&Backbone::new(backbone)?, detector, threads)?;
        if let Some(path) = &self.show_augmented {
            self.show(&mut workers[0], &recipe, &train, path)?;
            if self.first_output().is_none() {
                return Ok(());
            }
        }
        let make = EmbedMode::Views {
            recipe: &recipe,
            views: self.views(train.len())?,
            seed: self.seed,
        };
        let train = embed(&mut workers, &train, make, "learn from", &interrupt)?;
        let val = embed(&mut workers, &val, EmbedMode::Plain, "check by", &interrupt)?;
        drop(workers);

        let start = match saved {
            Some(saved) => saved,
            None => Checkpoint::start(digest, &Trainer::new(weights.len(), options)?),
        };
        let (trainer, history) = self.fit(&train, &val, start, &interrupt)?;
        let dataset_sha256 = onnx::to_hex(&data.digest(&prints));
        self.write(
            &recipe,
            &data,
            &dataset_sha256,
            backbone_sha256,
            &trainer,
            &history,
            &val,
        )?;
        let epochs = history.0.len();
        if epochs < self.epochs() as usize {
            return Err(Failure::new(
                Failure::TEMPORARY,
                format!(
                    "interrupted after epoch {epochs}: the best head so far is written; --resume goes on from {}",
                    state.display()
                ),
            ));
        }
        // It was there to get here only.
        let _ = std::fs::remove_file(&state);
        Ok(())
    }

    /// What is learned from and what is checked by.
    fn sides(&self, threads: usize, interrupt: &Interrupt) -> Result<DataSplit, Failure> {
        let data = Dataset::open(&self.dataset)?;
        let val = self
            .val
            .as_deref()
            .map(Dataset::open_to_judge)
            .transpose()?;
        if let Some(val) = &val {
            same_classes(&data, val)?;
        }
        let (data, prints) = readable(&data, threads, interrupt)?;
        let all = pictures(&data, &prints, &data.classes)?;
        let (train, val) = if let Some(val) = val {
            let (val, val_prints) = readable(&val, threads, interrupt)?;
            let val_all = pictures(&val, &val_prints, &data.classes)?;
            if let Some(note) = leak_note(&val, &prints, &val_prints) {
                complain(&note);
            }
            (all, val_all)
        } else {
            let looks: Vec<_> = prints.iter().map(|print| print.look).collect();
            let groups = dataset::near_duplicate_groups(&looks, dataset::NEAR);
            let split = data.split(&groups, VALIDATION_SHARE, self.seed)?;
            let side = |indices: &[usize]| -> Vec<LabelledPicture> {
                indices.iter().map(|index| all[*index].clone()).collect()
            };
            (side(&split.train), side(&split.val))
        };
        Ok(DataSplit {
            data,
            prints,
            train,
            val,
        })
    }

    /// Views of each picture, if the features of so many pictures can be kept.
    fn views(&self, pictures: usize) -> Result<usize, Failure> {
        let epochs = self.epochs() as usize;
        let views = match self.views {
            0 => epochs,
            views => views.min(epochs),
        };
        let bytes = pictures * views * FEATURES * 4;
        if bytes <= MAX_FEATURE_BYTES {
            return Ok(views);
        }
        Err(Failure::new(
            Failure::USAGE,
            format!(
                "the features of {pictures} pictures in {views} views take {} MB, more than {}: use fewer --views",
                bytes / 1_000_000,
                MAX_FEATURE_BYTES / 1_000_000
            ),
        ))
    }

    /// SHA-256 over everything that decides about the result, but the machine:
    /// `means` are the options as they work, in words.
    fn digest(&self, means: &str, train: &[LabelledPicture], val: &[LabelledPicture]) -> String {
        let version = env!("CARGO_PKG_VERSION");
        let mut hash = Sha256::new();
        hash.update(format!(
            "{version} {means} {} {} {}\n",
            self.views,
            self.epochs(),
            self.batch_size()
        ));
        for (side, pictures) in [("train", train), ("val", val)] {
            // In their order, which seeds the views.
            for LabelledPicture { class, file, .. } in pictures {
                hash.update(format!("{side} {class} {}\n", onnx::to_hex(file)));
            }
        }
        onnx::to_hex(&hash.finalize())
    }

    fn check(&self) -> Result<(), Failure> {
        let usage = |sentence: String| Err(Failure::new(Failure::USAGE, sentence));
        if !(self.init_lr() > 0.0 && self.init_lr() <= 1.0) {
            return usage(format!(
                "--init-lr is {}, allowed is above 0 up to 1",
                self.init_lr()
            ));
        }
        let ranges = [
            ("rotation", self.rotation, 180.0),
            ("zoom", self.zoom, 0.9),
            ("width-shift", self.width_shift, 1.0),
            ("height-shift", self.height_shift, 1.0),
            ("shear", self.shear, 80.0),
            ("channel-shift", self.channel_shift, 255.0),
        ];
        for (name, value, most) in ranges {
            if !(value >= 0.0 && value <= most) {
                return usage(format!("--{name} is {value}, allowed is 0 to {most}"));
            }
        }
        if let Some(plot) = &self.plot {
            PlotFormat::of(plot).map_err(|error| Failure::new(Failure::USAGE, error))?;
        }
        if let Some(sheet) = &self.show_augmented {
            sheet_format(sheet)?;
        }
        let outputs = self.outputs();
        if outputs.is_empty() {
            return usage("nothing to write: name at least --model FILE".to_owned());
        }
        for (number, (option, path, bytes)) in outputs.iter().enumerate() {
            can_write(path, *bytes)?;
            let mut before = outputs[..number].iter();
            if let Some((other, ..)) = before.find(|(_, other, _)| same_place(other, path)) {
                return usage(format!(
                    "{other} and {option} are the same file, {}",
                    path.display()
                ));
            }
        }
        Ok(())
    }

    /// All files that it may write: what each is, where, and more bytes than it
    /// has.
    fn outputs(&self) -> Vec<(&'static str, PathBuf, usize)> {
        let classifier = SHIPPED_CLASSIFIER.len() + SMALL_FILE;
        let plot = self.plot.as_ref();
        let csv = plot
            .filter(|_| self.history)
            .map(|plot| with_suffix(plot, ".csv"));
        let state = self.first_output().map(|_| self.state_file());
        let named = |path: &Option<PathBuf>| path.clone();
        [
            ("--model", named(&self.model), classifier),
            ("--head-only", named(&self.head_only), SMALL_FILE),
            ("--plot", named(&self.plot), SMALL_FILE),
            ("--history", csv, SMALL_FILE),
            ("--report", named(&self.report), SMALL_FILE),
            ("--show-augmented", named(&self.show_augmented), SMALL_FILE),
            ("what --resume needs", state, STATE_FILE),
        ]
        .into_iter()
        .filter_map(|(option, path, bytes)| Some((option, path?, bytes)))
        .collect()
    }

    /// The first file of those that need a training.
    fn first_output(&self) -> Option<&Path> {
        let outputs = [&self.model, &self.head_only, &self.plot, &self.report];
        outputs.into_iter().flatten().map(PathBuf::as_path).next()
    }

    /// Where the state of an interrupted training is kept.
    fn state_file(&self) -> PathBuf {
        with_suffix(self.first_output().unwrap_or(Path::new("")), ".resume")
    }

    fn threads(&self, config: &Config) -> usize {
        match usize::from(self.threads) {
            0 => config.classify.threads(0),
            threads => threads,
        }
    }

    fn epochs(&self) -> u32 {
        self.epochs.unwrap_or(match self.recipe {
            RecipeName::Tutorial => 20,
            RecipeName::Robust => 60,
        })
    }

    fn batch_size(&self) -> u32 {
        self.batch_size.unwrap_or(match self.recipe {
            RecipeName::Tutorial => 32,
            RecipeName::Robust => 64,
        })
    }

    fn init_lr(&self) -> f32 {
        self.init_lr.unwrap_or(match self.recipe {
            RecipeName::Tutorial => 1e-4,
            RecipeName::Robust => 1.5e-4,
        })
    }

    fn recipe(&self) -> Recipe {
        let geometry = Geometry {
            rotation: self.rotation,
            zoom: self.zoom,
            width_shift: self.width_shift,
            height_shift: self.height_shift,
            shear: self.shear,
            horizontal_flip: self.horizontal_flip,
            fill: match self.fill {
                FillName::Nearest => Fill::Nearest,
                FillName::Constant => Fill::Constant,
                FillName::Reflect => Fill::Reflect,
                FillName::Wrap => Fill::Wrap,
            },
            channel_shift: self.channel_shift,
        };
        match self.recipe {
            RecipeName::Tutorial => Recipe::Tutorial(geometry),
            RecipeName::Robust => Recipe::Robust(Robust {
                geometry,
                ..Robust::default()
            }),
        }
    }

    fn workers(
        &self,
        backbone: &Backbone,
        options: DetectorOptions,
        threads: usize,
    ) -> Result<Vec<Worker>, Failure> {
        let mut workers = Vec::new();
        for _ in 0..threads {
            let detector = match self.recipe {
                RecipeName::Tutorial => None,
                RecipeName::Robust => Some(Detector::new(
                    "the shipped face detector",
                    SHIPPED_DETECTOR,
                    options,
                    ThreadPool::alone(),
                )?),
            };
            workers.push(Worker::new(
                Embedder::new(backbone, 1, ThreadPool::alone())?,
                detector,
            ));
        }
        Ok(workers)
    }

    fn show(
        &self,
        worker: &mut Worker,
        recipe: &Recipe,
        train: &[LabelledPicture],
        path: &Path,
    ) -> Result<(), Failure> {
        let mut crops = Vec::new();
        let step = (train.len() / SHEET).max(1);
        for (index, listed) in train.iter().enumerate().step_by(step).take(SHEET) {
            let pixels = load(&listed.path).map_err(|error| Failure::new(Failure::DATA, error))?;
            let views = worker.views(recipe, &pixels, 2, mix(self.seed, index as u64))?;
            crops.extend(views.iter().map(|crop| crop.pixels().clone()));
        }
        let sheet = augment::contact_sheet(&crops, 12);
        let format = sheet_format(path)?;
        let mut bytes = std::io::Cursor::new(Vec::new());
        sheet.write_to(&mut bytes, format).map_err(|error| {
            Failure::new(
                Failure::USAGE,
                format!("cannot draw {}: {error}", path.display()),
            )
        })?;
        write(path, bytes.get_ref())
    }

    fn fit(
        &self,
        train: &Samples,
        val: &Samples,
        start: Checkpoint,
        interrupt: &Interrupt,
    ) -> Result<(Trainer, History), Failure> {
        let mut trainer = Trainer::from_state(start.trainer)?;
        let mut best = Trainer::from_state(start.best)?;
        let mut history = start.history;
        let progress = bar(
            u64::from(self.epochs()),
            "{wide_bar} epoch {pos}/{len} {msg}, {eta} left",
        );
        progress.set_position(history.0.len() as u64);
        let batch_size = self.batch_size() as usize;
        let mut batch = Vec::with_capacity(batch_size * FEATURES);
        while history.0.len() < self.epochs() as usize {
            let epoch = history.0.len();
            let mut order: Vec<usize> = (0..train.labels.len()).collect();
            order.shuffle(&mut ChaCha8Rng::seed_from_u64(mix(
                self.seed,
                u64::MAX - epoch as u64,
            )));
            let mut steps = Vec::new();
            for indices in order.chunks(batch_size) {
                batch.clear();
                for index in indices {
                    // Every picture begins with another of its views: an epoch
                    // has all kinds of them.
                    batch.extend_from_slice(train.row(*index, (epoch + index) % train.views));
                }
                let labels: Vec<usize> = indices.iter().map(|index| train.labels[*index]).collect();
                steps.push(trainer.step(&batch, &labels)?);
            }
            let seen = Metrics::of_epoch(&steps).unwrap_or(Metrics {
                loss: 0.0,
                accuracy: 0.0,
            });
            let checked = trainer.evaluate(&val.features, &val.labels)?;
            history.0.push(EpochRecord {
                epoch: epoch + 1,
                learning_rate: trainer.learning_rate(),
                loss: seen.loss,
                accuracy: seen.accuracy,
                val_loss: checked.loss,
                val_accuracy: checked.accuracy,
            });
            if history.best().is_some_and(|best| best.epoch == epoch + 1) {
                best = trainer.clone();
            }
            progress.set_message(format!(
                "loss {:.4}, accuracy {:.4}, checked {:.4}, {:.4}",
                seen.loss, seen.accuracy, checked.loss, checked.accuracy
            ));
            progress.inc(1);
            tracing::debug!(
                epoch = epoch + 1,
                loss = seen.loss,
                accuracy = seen.accuracy,
                val_loss = checked.loss,
                val_accuracy = checked.accuracy,
                "epoch done"
            );
            if interrupt.asked() && history.0.len() < self.epochs() as usize {
                progress.finish_and_clear();
                let saved = Checkpoint {
                    digest: start.digest,
                    trainer: trainer.state(),
                    best: best.state(),
                    history,
                };
                saved.write(&self.state_file())?;
                return Ok((best, saved.history));
            }
        }
        progress.finish_and_clear();
        // The last epoch as it comes, as in the tutorial: the best by the
        // pictures to check by would make their figures too good.
        Ok((trainer, history))
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "everything that a training leads to"
    )]
    fn write(
        &self,
        recipe: &Recipe,
        data: &Dataset,
        dataset_sha256: &str,
        backbone_sha256: [u8; 32],
        trainer: &Trainer,
        history: &History,
        val: &Samples,
    ) -> Result<(), Failure> {
        let probabilities = trainer.probabilities(&val.features)?;
        let report = Report::new(&val.labels, &probabilities, &data.classes, None)
            .map_err(|error| Failure::new(Failure::INTERNAL, error))?;
        let json = serde_json::to_string(&report)
            .map_err(|error| Failure::new(Failure::INTERNAL, error))?;
        let head = HeadFile {
            backbone_sha256,
            labels: data.classes.clone(),
            head: trainer.tensors(),
        };
        let metadata = [
            ("recipe", recipe.name().to_owned()),
            ("seed", self.seed.to_string()),
            ("dataset_sha256", dataset_sha256.to_owned()),
            ("scores", json.clone()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        if let Some(path) = &self.model {
            write(
                path,
                &onnx::write_classifier(SHIPPED_CLASSIFIER, &head, &metadata)?,
            )?;
        }
        if let Some(path) = &self.head_only {
            write(path, &onnx::write_head(&head, &metadata))?;
        }
        if let Some(path) = &self.report {
            write(path, (json + "\n").as_bytes())?;
        }
        if let Some(path) = &self.plot {
            let points: Vec<HistoryPoint> = history.0.iter().map(point).collect();
            let plot = PlotFormat::of(path)
                .and_then(|format| {
                    report::plot_history(&points, "Training loss and accuracy", format)
                })
                .map_err(|error| Failure::new(Failure::INTERNAL, error))?;
            write(path, &plot)?;
            if self.history {
                let csv = with_suffix(path, ".csv");
                write(&csv, report::history_csv(&points).as_bytes())?;
            }
        }
        print(format!("{}\n{}\n", report.table(), report.confusion_table()).as_bytes())?;
        let [low, high] = report.interval.map(|share| share * 100.0);
        print(
            format!(
                "accuracy {:.2} % (95 % interval {low:.2} to {high:.2}), calibration error {:.3}\n",
                report.accuracy * 100.0,
                report.calibration_error
            )
            .as_bytes(),
        )
    }
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

/// The data set without the pictures that cannot be learned from, which are
/// named, and what tells the others apart.
pub(super) fn readable(
    data: &Dataset,
    threads: usize,
    interrupt: &Interrupt,
) -> Result<(Dataset, Vec<Fingerprint>), Failure> {
    let progress = bar(
        data.pictures.len() as u64,
        "{wide_bar} {pos}/{len} pictures read, {eta} left",
    );
    let loaded = fingerprints(&data.pictures, threads, |count| {
        progress.set_position(count as u64);
        !interrupt.asked()
    });
    progress.finish_and_clear();
    let loaded = loaded.ok_or_else(interrupted_early)?;
    let findings = Findings::new(data, &loaded);
    for sentence in findings.sentences(data) {
        complain(&sentence);
    }
    let left_out = findings.left_out();
    let data = data.without(&left_out)?;
    let prints = dataset::without(loaded, &left_out);
    Ok((data, prints.into_iter().filter_map(Result::ok).collect()))
}

/// What [`dataset::load`] says of each picture, in their order. `done` is called
/// after each, with their number; when it gives false, `None` is the result.
fn fingerprints(
    pictures: &[Picture],
    threads: usize,
    mut done: impl FnMut(usize) -> bool,
) -> Option<Vec<Result<Fingerprint, String>>> {
    let mut all: Vec<_> = pictures.iter().map(|_| None).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (results, finished) = mpsc::channel();
        for _ in 0..threads {
            let (results, next) = (results.clone(), &next);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(picture) = pictures.get(index) else {
                        return;
                    };
                    let print = dataset::load(&picture.path).map(|(_, print)| print);
                    // Nobody listens any more once `done` has given false.
                    if results.send((index, print)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(results);
        for (count, (index, print)) in finished.into_iter().enumerate() {
            all[index] = Some(print);
            if !done(count + 1) {
                break;
            }
        }
    });
    all.into_iter().collect()
}

/// The pictures of a data set with the fingerprints `prints`, their classes
/// counted as those of `classes`.
pub(super) fn pictures(
    data: &Dataset,
    prints: &[Fingerprint],
    classes: &[String],
) -> Result<Vec<LabelledPicture>, Failure> {
    let mut all = Vec::new();
    for (picture, print) in data.pictures.iter().zip(prints) {
        let name = &data.classes[picture.class];
        let Some(class) = classes.iter().position(|class| class == name) else {
            return Err(unknown_class(data, name, classes));
        };
        all.push(LabelledPicture {
            path: picture.path.clone(),
            class,
            file: print.file,
        });
    }
    Ok(all)
}

fn unknown_class(data: &Dataset, name: &str, classes: &[String]) -> Failure {
    let sentence = format!(
        "{} has the class {name:?}, which is none of {}",
        data.folder.display(),
        classes.join(", ")
    );
    Failure::new(Failure::DATA, sentence)
}

/// A sentence if pictures to check by look like some to learn from.
fn leak_note(val: &Dataset, prints: &[Fingerprint], val_prints: &[Fingerprint]) -> Option<String> {
    let both = prints.iter().chain(val_prints);
    let looks: Vec<_> = both.map(|print| print.look).collect();
    let groups = dataset::near_duplicate_groups(&looks, dataset::NEAR);
    // A group is told by its first picture.
    let mut known =
        (0..val_prints.len()).filter(|index| groups[prints.len() + index] < prints.len());
    let first = known.next()?;
    Some(format!(
        "{} of the pictures to check by look like some to learn from, which flatters the scores: {} is the first",
        known.count() + 1,
        val.name(first)
    ))
}

/// A class that is not checked could be forgotten, and the scores would not tell.
fn same_classes(data: &Dataset, val: &Dataset) -> Result<(), Failure> {
    if let Some(name) = val.classes.iter().find(|name| !data.classes.contains(name)) {
        return Err(unknown_class(val, name, &data.classes));
    }
    let missing = data.classes.iter().find(|name| !val.classes.contains(name));
    missing.map_or(Ok(()), |name| {
        let sentence = format!(
            "{} has no class {name:?}: each class of {} needs pictures to check by",
            val.folder.display(),
            data.folder.display()
        );
        Err(Failure::new(Failure::DATA, sentence))
    })
}

fn load(path: &Path) -> Result<RgbImage, PictureError> {
    let bytes = crate::camera::pictures::read(path)
        .map_err(|error| PictureError::Decode(error.to_string()))?;
    crate::frame::decode(&bytes)
}

fn embed(
    workers: &mut [Worker],
    pictures: &[LabelledPicture],
    make: EmbedMode,
    what: &str,
    interrupt: &Interrupt,
) -> Result<Samples, Failure> {
    let views = match make {
        EmbedMode::Plain => 1,
        EmbedMode::Views { views, .. } => views,
    };
    let template = format!("{{wide_bar}} {{pos}}/{{len}} pictures to {what}, {{eta}} left");
    let progress = bar(pictures.len() as u64, &template);
    let done = |count: usize| {
        progress.set_position(count as u64);
        !interrupt.asked()
    };
    let features = recipe::features(
        workers,
        pictures.len(),
        |index| load(&pictures[index].path),
        make,
        done,
    )?;
    progress.finish_and_clear();
    let Some(features) = features else {
        return Err(interrupted_early());
    };
    let labels = pictures.iter().map(|listed| listed.class).collect();
    Ok(Samples {
        features,
        views,
        labels,
    })
}

/// The features of whole pictures, one a picture.
pub(super) fn embed_plain(
    workers: &mut [Worker],
    pictures: &[LabelledPicture],
    interrupt: &Interrupt,
) -> Result<Vec<f32>, Failure> {
    Ok(embed(workers, pictures, EmbedMode::Plain, "judge by", interrupt)?.features)
}

fn interrupted_early() -> Failure {
    Failure::new(
        Failure::TEMPORARY,
        "interrupted while pictures were read: nothing is written",
    )
}

impl Checkpoint {
    fn start(digest: String, trainer: &Trainer) -> Checkpoint {
        Checkpoint {
            digest,
            trainer: trainer.state(),
            best: trainer.state(),
            history: History::default(),
        }
    }

    /// A line with the SHA-256 of what follows, then JSON.
    fn write(&self, path: &Path) -> Result<(), Failure> {
        let json =
            serde_json::to_string(self).map_err(|error| Failure::new(Failure::INTERNAL, error))?;
        let hash = onnx::to_hex(&Sha256::digest(&json));
        write(path, format!("{hash}\n{json}").as_bytes())
    }

    fn read(path: &Path) -> Result<Checkpoint, Failure> {
        let shown = path.display();
        let text = std::fs::read(path).map_err(|error| {
            Failure::new(
                Failure::NO_INPUT,
                format!("there is no training to go on with: {shown}: {error}"),
            )
        })?;
        let json = str::from_utf8(&text)
            .ok()
            .and_then(|text| text.split_once('\n'))
            .filter(|(hash, json)| *hash == onnx::to_hex(&Sha256::digest(json)))
            .map(|(_, json)| json);
        let saved = json.and_then(|json| serde_json::from_str(json).ok());
        saved.ok_or_else(|| {
            Failure::new(
                Failure::DATA,
                format!("{shown} is damaged: delete it and start anew without --resume"),
            )
        })
    }
}

fn bar(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Whether a file of so many bytes could be written: found out before the work,
/// not after it.
pub(super) fn can_write(path: &Path, bytes: usize) -> Result<(), Failure> {
    let has_folder = path
        .parent()
        .is_none_or(|folder| folder.as_os_str().is_empty() || folder.is_dir());
    let problem = match path.metadata() {
        Ok(there) if there.is_dir() => "it is a folder".to_owned(),
        // A file put in the place of a device would be a disaster.
        Ok(there) if !there.is_file() => "it is not a regular file".to_owned(),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => error.to_string(),
        _ if !has_folder => "its folder does not exist".to_owned(),
        _ => match files::probe(path, bytes) {
            Ok(()) => return Ok(()),
            Err(error) => error.to_string(),
        },
    };
    let sentence = format!("cannot write {}: {problem}", path.display());
    Err(Failure::new(Failure::CANNOT_WRITE, sentence))
}

/// Whether two files are one; their folders exist.
fn same_place(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| {
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).canonicalize().ok();
        (folder, path.file_name().map(ToOwned::to_owned))
    };
    place(a) == place(b)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(suffix);
    name.into()
}

/// The format of a contact sheet, by its name.
fn sheet_format(path: &Path) -> Result<ImageFormat, Failure> {
    if let Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg)) = ImageFormat::from_path(path) {
        return Ok(format);
    }
    let path = path.display();
    let sentence = format!("--show-augmented {path} must end in .png, .jpg or .jpeg");
    Err(Failure::new(Failure::USAGE, sentence))
}

pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), Failure> {
    files::write(path, content).map_err(|error| {
        let path = path.display();
        Failure::new(
            Failure::CANNOT_WRITE,
            format!("cannot write {path}: {error}"),
        )
    })
}

/// Threads that are started from here on inherit it.
fn lowest_priority() {
    if let Err(error) = rustix::process::setpriority_process(None, 19) {
        complain(&format!("cannot take the lowest priority: {error}"));
    }
}
