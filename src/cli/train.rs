//! `maskd train`: a folder of pictures in, a classifier out.

use std::path::{Path, PathBuf};

use clap::Args;
use image::RgbImage;
use indicatif::{ProgressBar, ProgressStyle};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::interrupt::Interrupt;
use super::{Failure, complain, print};
use crate::augment::{self, Fill, Geometry, Robust};
use crate::config::Config;
use crate::dataset::{self, Dataset, DatasetError, Findings, Fingerprint};
use crate::detect::{Detector, DetectorOptions};
use crate::embed::Embedder;
use crate::files;
use crate::frame::PictureError;
use crate::onnx::{self, Classifier, FEATURES, HeadFile, Team};
use crate::pipeline::{SHIPPED_CLASSIFIER, SHIPPED_DETECTOR};
use crate::recipe::{self, Make, Recipe, RecipeError, Worker, mix};
use crate::report::{self, HistoryPoint, PlotFormat, Report};
use crate::train::{
    EpochRecord, History, Metrics, TrainError, TrainOptions, Trainer, TrainerState,
};

/// Most memory for the features of a training, in bytes (2 GiB).
const MAX_FEATURE_BYTES: usize = 2 << 30;

/// Share of the pictures that are kept to check by, as in the tutorial.
const VALIDATION_SHARE: f64 = 0.2;

/// Pictures on a contact sheet.
const SHEET: usize = 48;

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

    /// Shift each colour by up to so many levels
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

    /// Go on with a training that was interrupted, with the same options
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

/// What `--resume` goes on from.
#[derive(Serialize, Deserialize)]
struct Interrupted {
    /// Options and data set: another training must not go on from here.
    digest: String,
    trainer: TrainerState,
    best: TrainerState,
    history: History,
}

impl Train {
    pub(super) fn run(self, config: &Config) -> Result<(), Failure> {
        self.check()?;
        if self.background {
            lowest_priority();
        }
        let interrupt = Interrupt::catch()?;
        let recipe = self.recipe();

        let data = Dataset::open(&self.dataset)?;
        let (data, prints) = readable(&data)?;
        let (train, val) = match &self.val {
            None => {
                let looks: Vec<_> = prints.iter().map(|print| print.look).collect();
                let groups = dataset::near_duplicate_groups(&looks, dataset::NEAR);
                let split = data.split(&groups, VALIDATION_SHARE, self.seed)?;
                let list = |indices: &[usize]| -> Vec<(PathBuf, usize)> {
                    let pictures = indices.iter().map(|index| &data.pictures[*index]);
                    pictures
                        .map(|picture| (picture.path.clone(), picture.class))
                        .collect()
                };
                (list(&split.train), list(&split.val))
            }
            Some(folder) => {
                let val = Dataset::open_to_judge(folder)?;
                let (val, _) = readable(&val)?;
                (
                    pictures(&data, &data.classes)?,
                    pictures(&val, &data.classes)?,
                )
            }
        };
        let digest = onnx::to_hex(&data.digest(&prints));
        let counts = data.counts();
        if let Some(note) = dataset::imbalance_note(&data.classes, &counts) {
            complain(&note);
        }
        let say = |text: String| complain(&text);
        say(format!(
            "{} pictures to learn from, {} to check by, labels {}",
            train.len(),
            val.len(),
            data.classes.join(", ")
        ));

        let classifier = Classifier::parse("the shipped classifier", SHIPPED_CLASSIFIER)?;
        let mut workers = self.workers(&classifier, config)?;
        if let Some(path) = &self.show_augmented {
            self.show(&mut workers[0], &recipe, &train, path)?;
        }
        if self.model.is_none()
            && self.head_only.is_none()
            && self.plot.is_none()
            && self.report.is_none()
        {
            return if self.show_augmented.is_some() {
                Ok(())
            } else {
                Err(Failure::new(
                    Failure::USAGE,
                    "nothing to write: name at least --model FILE",
                ))
            };
        }

        let views = if self.views == 0 {
            self.epochs() as usize
        } else {
            self.views
        };
        let views = views.min(self.epochs() as usize);
        let bytes = train.len() * views * FEATURES * 4;
        if bytes > MAX_FEATURE_BYTES {
            return Err(Failure::new(
                Failure::USAGE,
                format!(
                    "the features of {} pictures in {views} views take {} MB, more than {}: use fewer --views",
                    train.len(),
                    bytes / 1_000_000,
                    MAX_FEATURE_BYTES / 1_000_000
                ),
            ));
        }
        let make = Make::Views {
            recipe: &recipe,
            views,
            seed: self.seed,
        };
        let train = embed(&mut workers, &train, make, "learn from", &interrupt)?;
        let val = embed(&mut workers, &val, Make::Plain, "check by", &interrupt)?;
        drop(workers);

        let weights = match self.recipe {
            // It takes the classes as they come.
            RecipeName::Tutorial => vec![1.0; counts.len()],
            RecipeName::Robust => dataset::class_weights(&counts),
        };
        let (trainer, history) = self.fit(&train, &val, &weights, &digest, &interrupt)?;
        self.write(
            &recipe,
            &data,
            &digest,
            &classifier,
            &trainer,
            &history,
            &val,
        )
    }

    fn check(&self) -> Result<(), Failure> {
        let usage = |sentence: String| Err(Failure::new(Failure::USAGE, sentence));
        let init_lr = self.init_lr();
        if !(init_lr > 0.0 && init_lr <= 1.0) {
            return usage(format!(
                "--init-lr is {init_lr}, allowed is above 0 up to 1"
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
        let outputs = [
            &self.model,
            &self.head_only,
            &self.plot,
            &self.report,
            &self.show_augmented,
        ];
        for path in outputs.into_iter().flatten() {
            can_write(path)?;
        }
        Ok(())
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

    fn workers(&self, classifier: &Classifier, config: &Config) -> Result<Vec<Worker>, Failure> {
        let threads = match usize::from(self.threads) {
            0 => config.classify.threads(0),
            threads => threads,
        };
        let options = DetectorOptions {
            side: config.detect.side,
            threshold: config.detect.threshold,
        };
        let mut workers = Vec::new();
        for _ in 0..threads {
            let detector = match self.recipe {
                RecipeName::Tutorial => None,
                RecipeName::Robust => Some(Detector::new(
                    "the shipped face detector",
                    SHIPPED_DETECTOR,
                    options,
                    Team::alone(),
                )?),
            };
            workers.push(Worker::new(
                Embedder::new(&classifier.backbone, 1, Team::alone())?,
                detector,
            ));
        }
        Ok(workers)
    }

    fn show(
        &self,
        worker: &mut Worker,
        recipe: &Recipe,
        train: &[(PathBuf, usize)],
        path: &Path,
    ) -> Result<(), Failure> {
        let mut crops = Vec::new();
        let step = (train.len() / SHEET).max(1);
        for (index, (picture, _)) in train.iter().enumerate().step_by(step).take(SHEET) {
            let pixels = load(picture).map_err(|error| Failure::new(Failure::DATA, error))?;
            let views = worker.views(recipe, &pixels, 2, mix(self.seed, index as u64))?;
            crops.extend(views.iter().map(|crop| crop.pixels().clone()));
        }
        let sheet = augment::contact_sheet(&crops, 12);
        let format = image::ImageFormat::from_path(path).unwrap_or(image::ImageFormat::Png);
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
        weights: &[f64],
        digest: &str,
        interrupt: &Interrupt,
    ) -> Result<(Trainer, History), Failure> {
        let options = TrainOptions {
            init_lr: self.init_lr(),
            decay: self.init_lr() / self.epochs() as f32,
            seed: self.seed,
            class_weights: weights.iter().map(|weight| *weight as f32).collect(),
            ..TrainOptions::default()
        };
        let digest = format!(
            "{digest} {:?} {options:?} {} {}",
            self.recipe,
            self.views,
            self.batch_size()
        );
        let state = self.state_file();
        let mut trainer = Trainer::new(weights.len(), options)?;
        let mut best = trainer.clone();
        let mut history = History::default();
        if self.resume {
            let saved = resume(&state, &digest)?;
            trainer = Trainer::from_state(saved.trainer)?;
            best = Trainer::from_state(saved.best)?;
            history = saved.history;
        }
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
            if interrupt.asked() && history.0.len() < self.epochs() as usize {
                progress.finish_and_clear();
                let saved = Interrupted {
                    digest,
                    trainer: trainer.state(),
                    best: best.state(),
                    history,
                };
                let text = serde_json::to_vec(&saved)
                    .map_err(|error| Failure::new(Failure::INTERNAL, error))?;
                write(&state, &text)?;
                complain(&format!(
                    "interrupted after epoch {}: the best head so far is written; --resume goes on from {}",
                    epoch + 1,
                    state.display()
                ));
                return Ok((best, saved.history));
            }
        }
        progress.finish_and_clear();
        // It was there to get here only.
        let _ = std::fs::remove_file(&state);
        // The last epoch as it comes, as in the tutorial: the best by the
        // pictures to check by would make their figures too good.
        Ok((trainer, history))
    }

    fn state_file(&self) -> PathBuf {
        let output = self
            .model
            .as_ref()
            .or(self.head_only.as_ref())
            .or(self.plot.as_ref());
        let mut name = output
            .cloned()
            .unwrap_or_else(|| "maskd-train".into())
            .into_os_string();
        name.push(".resume");
        name.into()
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "everything that a training leads to"
    )]
    fn write(
        &self,
        recipe: &Recipe,
        data: &Dataset,
        digest: &str,
        classifier: &Classifier,
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
            backbone_sha256: classifier.backbone_sha256,
            labels: data.classes.clone(),
            head: trainer.tensors(),
        };
        let metadata = [
            ("recipe", recipe.name().to_owned()),
            ("seed", self.seed.to_string()),
            ("dataset_sha256", digest.to_owned()),
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
                let mut csv = path.clone().into_os_string();
                csv.push(".csv");
                write(Path::new(&csv), report::history_csv(&points).as_bytes())?;
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
pub(super) fn readable(data: &Dataset) -> Result<(Dataset, Vec<Fingerprint>), Failure> {
    let progress = bar(
        data.pictures.len() as u64,
        "{wide_bar} {pos}/{len} pictures read, {eta} left",
    );
    let mut loaded = Vec::new();
    for picture in &data.pictures {
        loaded.push(dataset::load(&picture.path).map(|(_, print)| print));
        progress.inc(1);
    }
    progress.finish_and_clear();
    let findings = Findings::new(data, &loaded);
    for sentence in findings.sentences(data) {
        complain(&sentence);
    }
    let left_out = findings.left_out();
    let data = data.without(&left_out)?;
    let prints = dataset::without(loaded, &left_out);
    Ok((data, prints.into_iter().filter_map(Result::ok).collect()))
}

/// The pictures of a data set, their classes counted as those of `classes`.
pub(super) fn pictures(
    data: &Dataset,
    classes: &[String],
) -> Result<Vec<(PathBuf, usize)>, Failure> {
    let mut all = Vec::new();
    for picture in &data.pictures {
        let name = &data.classes[picture.class];
        let Some(class) = classes.iter().position(|class| class == name) else {
            let sentence = format!(
                "{} has the class {name:?}, which is none of {}",
                data.folder.display(),
                classes.join(", ")
            );
            return Err(Failure::new(Failure::DATA, sentence));
        };
        all.push((picture.path.clone(), class));
    }
    Ok(all)
}

fn load(path: &Path) -> Result<RgbImage, PictureError> {
    let bytes = crate::camera::pictures::read(path)
        .map_err(|error| PictureError::Decode(error.to_string()))?;
    crate::frame::decode(&bytes)
}

fn embed(
    workers: &mut [Worker],
    pictures: &[(PathBuf, usize)],
    make: Make,
    what: &str,
    interrupt: &Interrupt,
) -> Result<Samples, Failure> {
    let views = match make {
        Make::Plain => 1,
        Make::Views { views, .. } => views,
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
        |index| load(&pictures[index].0),
        make,
        done,
    )?;
    progress.finish_and_clear();
    let Some(features) = features else {
        return Err(Failure::new(
            Failure::TEMPORARY,
            "interrupted before the first epoch: nothing is written",
        ));
    };
    let labels = pictures.iter().map(|(_, class)| *class).collect();
    Ok(Samples {
        features,
        views,
        labels,
    })
}

/// The features of whole pictures, one a picture.
pub(super) fn embed_plain(
    workers: &mut [Worker],
    pictures: &[(PathBuf, usize)],
    interrupt: &Interrupt,
) -> Result<Vec<f32>, Failure> {
    Ok(embed(workers, pictures, Make::Plain, "judge by", interrupt)?.features)
}

fn resume(state: &Path, digest: &str) -> Result<Interrupted, Failure> {
    let shown = state.display();
    let text = std::fs::read(state).map_err(|error| {
        Failure::new(
            Failure::NO_INPUT,
            format!("there is no training to go on with: {shown}: {error}"),
        )
    })?;
    let saved: Interrupted = serde_json::from_slice(&text).map_err(|error| {
        Failure::new(
            Failure::DATA,
            format!("{shown} is damaged ({error}): delete it and start anew"),
        )
    })?;
    if saved.digest != digest {
        let sentence = format!("{shown} is of a training with other pictures or options");
        return Err(Failure::new(Failure::USAGE, sentence));
    }
    Ok(saved)
}

fn bar(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Found out before the work, not after it.
fn can_write(path: &Path) -> Result<(), Failure> {
    let problem = if path.is_dir() {
        "it is a folder"
    } else if !path
        .parent()
        .is_none_or(|folder| folder.as_os_str().is_empty() || folder.is_dir())
    {
        "its folder does not exist"
    } else {
        return Ok(());
    };
    let sentence = format!("cannot write {}: {problem}", path.display());
    Err(Failure::new(Failure::CANNOT_WRITE, sentence))
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
