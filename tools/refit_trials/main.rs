//! Evaluates training on the device with cameras on which the head was not trained. The
//! results show how much a few labeled crops help, how much the head forgets, and how
//! many heads the gate accepts when labels are wrong. This tool produced the tables in
//! `docs/LEARNING.md`.
//!
//! ```text
//! cargo run --release --example simulate_camera -- --preset dim --per-folder cameras sim/dim
//! cargo run --release --example refit_trials -- --light as-is=cameras --light dim=sim/dim \
//!     --results trials.jsonl --holdout faces/val --replay models/replay.bin --cache cache
//!
//! cargo run --release --example simulate_camera -- --preset dim faces/val sim/val-dim
//! cargo run --release --example refit_trials -- --camera dim=sim/val-dim --holdout faces/val \
//!     --replay models/replay.bin --cache cache [--head head.onnx] [--wrong 100]
//! ```
//!
//! The first pair of commands runs the trials on real cameras (`cameras.rs`). They can be
//! interrupted and continue where they stopped. With `--mislabeled 30`, 30% of the labels are
//! wrong. The second pair runs the trials on pictures of many people from one simulated
//! camera.
//!
//! The pictures from a camera are cropped to the largest face. Faces are found and cropped as
//! the daemon does with the default config. If no face is found, a picture from a simulated
//! camera is kept whole, and a picture from a real camera is left out, because no device would
//! capture it. Features are stored in the cache folder, because computing them takes long.

mod cameras;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use image::RgbImage;
use maskd::config::Config;
use maskd::frame::{Crop, Scaler};
use maskd::learning::MeasuredRecord;
use maskd::learning::refit::{
    self, Adaptation, FitOptions, GateDecision, GateOptions, Measurements, RefitInput,
    RefitOptions, Sample,
};
use maskd::learning::replay::{Replay, Rows};
use maskd::onnx::{Classifier, HeadFile, HeadTensors, ModelFile, read_file};
use maskd::platform::hex;
use maskd::training::dataset::{self, Dataset};
use maskd::training::train::{TrainOptions, Trainer};
use maskd::vision::embed::Feature;
use maskd::vision::pipeline::{
    Pipeline, PipelineOptions, RecognizedFace, SHIPPED_CLASSIFIER, SHIPPED_DETECTOR,
};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use cameras::RealCamera;

/// Evaluates training on the device with cameras on which the head was not trained.
#[derive(Parser)]
struct Arguments {
    /// NAME=DIR: the pictures from a simulated camera, in one subfolder per class. Can be
    /// given several times.
    #[arg(long = "camera")]
    cameras: Vec<String>,
    /// NAME=DIR: real cameras in this light, in one subfolder per camera, which has one
    /// subfolder per class. Can be given several times.
    #[arg(long = "light", requires = "results")]
    lights: Vec<String>,
    /// The results on real cameras, one JSON object per line. Trials that are in this file are
    /// not repeated. Delete the file after a change of the recipe or the gate.
    #[arg(long)]
    results: Option<PathBuf>,
    /// Old pictures that must not be forgotten, in one subfolder per class.
    #[arg(long)]
    holdout: PathBuf,
    /// The replay set.
    #[arg(long)]
    replay: PathBuf,
    /// The initial head, which is a head file for the built-in backbone, or a classifier
    /// [default: the built-in one].
    #[arg(long)]
    head: Option<PathBuf>,
    /// Cache folder for features. It has a subfolder for each combination of models and
    /// settings on which features depend.
    #[arg(long)]
    cache: PathBuf,
    /// Number of draws for each combination of camera and number of crops.
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// Numbers of crops per class.
    #[arg(long = "crops", default_values_t = [1, 2, 5, 10, 20])]
    crops: Vec<usize>,
    /// Number of trials for each fraction of wrong labels.
    #[arg(long, default_value_t = 0)]
    wrong: u64,
    /// Fractions of wrong labels.
    #[arg(long = "wrong-share", default_values_t = [0.1, 0.3, 0.5])]
    shares: Vec<f64>,
    /// Percentages of the labels on real cameras that are wrong.
    #[arg(long = "mislabeled", default_values_t = [0], value_parser = clap::value_parser!(u32).range(..=100))]
    mislabeled: Vec<u32>,
    /// Also train without replay, without translation, and without variants.
    #[arg(long)]
    arms: bool,
    /// Adaptations to choose from [default: all of them].
    #[arg(long = "adaptation")]
    adaptations: Vec<AdaptationName>,
    /// Maximum number of steps in a fit.
    #[arg(long)]
    steps: Option<usize>,
    /// Learning rate for a fit.
    #[arg(long)]
    learning_rate: Option<f32>,
    /// Fraction of new samples in a batch.
    #[arg(long)]
    new_share: Option<f32>,
    /// Fraction of new and translated samples in a batch.
    #[arg(long)]
    device_share: Option<f32>,
    /// Fraction of the hidden units that are dropped in a step.
    #[arg(long)]
    dropout: Option<f32>,
    /// Fraction of the features that are dropped in a step.
    #[arg(long)]
    feature_dropout: Option<f32>,
    /// Share of the median distance between replay rows below which crops are near-duplicates;
    /// 0 for none.
    #[arg(long)]
    near_duplicate: Option<f32>,
}

impl Arguments {
    fn fit(&self) -> FitOptions {
        let defaults = FitOptions::default();
        FitOptions {
            adaptations: match self.adaptations.as_slice() {
                [] => defaults.adaptations,
                names => names.iter().map(|name| (*name).into()).collect(),
            },
            steps: self.steps.unwrap_or(defaults.steps),
            learning_rate: self.learning_rate.unwrap_or(defaults.learning_rate),
            new_share: self.new_share.unwrap_or(defaults.new_share),
            device_share: self.device_share.unwrap_or(defaults.device_share),
            dropout: self.dropout.unwrap_or(defaults.dropout),
            feature_dropout: self.feature_dropout.unwrap_or(defaults.feature_dropout),
            ..defaults
        }
    }
}

/// The name of an adaptation on the command line.
#[derive(Clone, Copy, ValueEnum)]
enum AdaptationName {
    PlainReplay,
    Logits,
    TranslatedReplay,
}

impl From<AdaptationName> for Adaptation {
    fn from(name: AdaptationName) -> Adaptation {
        match name {
            AdaptationName::PlainReplay => Adaptation::PlainReplay,
            AdaptationName::Logits => Adaptation::Logits,
            AdaptationName::TranslatedReplay => Adaptation::TranslatedReplay,
        }
    }
}

/// Number of pictures in the pool of a camera. The other pictures are the test set.
const POOL: usize = 220;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("refit_trials: {error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Camera {
    name: String,
    test: Rows,
    /// The features `[variants + 1, features]` and the label of each crop in the pool.
    pool: Vec<(Vec<f32>, usize)>,
}

struct Trials<'a> {
    arguments: &'a Arguments,
    head: HeadFile,
    replay: Replay,
    old: Rows,
    cameras: Vec<Camera>,
    options: RefitOptions,
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let head = initial_head(arguments)?;
    let replay = Replay::parse(&fs::read(&arguments.replay)?)?;
    if replay.backbone_sha256 != head.backbone_sha256 {
        bail!("the replay set must belong to the backbone of the head");
    }
    let mut features = FeatureCache::open(arguments, &head)?;
    let old = features.rows("old", &arguments.holdout, &head.labels, false)?;
    let mut real = Vec::new();
    for light in &arguments.lights {
        let (name, folder) = light
            .split_once('=')
            .context("a light must have the form NAME=DIR")?;
        let folder = Path::new(folder);
        real.extend(RealCamera::read_all(
            name,
            folder,
            &head.labels,
            &mut features,
        )?);
    }
    let mut cameras = Vec::new();
    for camera in &arguments.cameras {
        let (name, folder) = camera
            .split_once('=')
            .context("a camera must have the form NAME=DIR")?;
        let all = features.rows(name, Path::new(folder), &head.labels, true)?;
        cameras.push(Camera::split(name, &all, features.variants));
    }
    let fit = arguments.fit();
    let mut options = RefitOptions {
        fit,
        ..RefitOptions::default()
    };
    if let Some(near_duplicate) = arguments.near_duplicate {
        options.hold_out.near_duplicate = near_duplicate;
    }
    let trials = Trials {
        arguments,
        head,
        replay,
        old,
        cameras,
        options,
    };
    if let Some(results) = &arguments.results {
        cameras::run(&trials, &real, results)?;
    }
    if trials.cameras.is_empty() {
        return Ok(());
    }
    if arguments.seeds > 0 {
        trials.learning()?;
    }
    if arguments.wrong > 0 {
        trials.wrong_labels()?;
    }
    trials.speed()
}

/// Returns the head that every refit starts from.
fn initial_head(arguments: &Arguments) -> anyhow::Result<HeadFile> {
    let of_classifier = |classifier: Classifier| HeadFile {
        backbone_sha256: classifier.backbone_sha256,
        labels: classifier.labels,
        head: classifier.head,
    };
    let Some(path) = &arguments.head else {
        let shipped = Classifier::parse("the built-in model", SHIPPED_CLASSIFIER)?;
        return Ok(of_classifier(shipped));
    };
    Ok(
        match ModelFile::parse(&path.display().to_string(), &read_file(path)?)? {
            ModelFile::Classifier(classifier) => of_classifier(*classifier),
            ModelFile::Head(head) => head,
        },
    )
}

/// Reads the 32-bit floats in a file of the cache.
fn floats(bytes: &[u8]) -> Vec<f32> {
    let (chunks, _) = bytes.as_chunks::<4>();
    chunks.iter().copied().map(f32::from_le_bytes).collect()
}

/// Computes and caches the features of pictures.
struct FeatureCache {
    /// The daemon's pipeline with the default config.
    pipeline: Pipeline,
    scaler: Scaler,
    /// Folder of the cache for these models and settings.
    folder: PathBuf,
    /// Number of variants of each crop.
    variants: usize,
    /// Length of a feature vector.
    width: usize,
}

impl FeatureCache {
    fn open(arguments: &Arguments, head: &HeadFile) -> anyhow::Result<FeatureCache> {
        let options = PipelineOptions {
            classifier_file: arguments.head.clone(),
            ..Config::default().pipeline_options()
        };
        // Features that were computed with other models or settings must not be mixed with
        // these.
        let settings = format!(
            "{} {} {:?} {:?} {}",
            hex::encode(&head.backbone_sha256),
            hex::encode(&Sha256::digest(SHIPPED_DETECTOR)),
            options.detector,
            options.face_check,
            options.margin
        );
        let folder = hex::encode(&Sha256::digest(settings)[..8]);
        let folder = arguments.cache.join(folder);
        fs::create_dir_all(&folder)?;
        Ok(FeatureCache {
            pipeline: Pipeline::open(&options, 1)?,
            scaler: Scaler::default(),
            folder,
            variants: refit::VARIANTS,
            width: head.head.features(),
        })
    }

    /// Returns the rows for the pictures in a folder. If `camera` is true, crops each
    /// picture, and returns a row for the crop, followed by the rows for its variants.
    /// Otherwise, returns one row for each whole picture. The cache file `name` stores labels
    /// and features as 32-bit floats.
    fn rows(
        &mut self,
        name: &str,
        folder: &Path,
        labels: &[String],
        camera: bool,
    ) -> anyhow::Result<Rows> {
        let cache = self.folder.join(name);
        if let Ok(bytes) = fs::read(&cache) {
            let values = floats(&bytes);
            let mut rows = Rows::default();
            for row in values.chunks_exact(1 + self.width) {
                rows.push(&row[1..], row[0] as usize);
            }
            return Ok(rows);
        }
        let dataset = Dataset::open(folder)?;
        let mut rows = Rows::default();
        for (at, picture) in dataset.pictures.iter().enumerate() {
            let name = &dataset.classes[picture.class];
            let label = labels.iter().position(|label| label == name);
            let label = label.with_context(|| format!("the head has no label {name}"))?;
            let (pixels, _) = dataset::load(&picture.path).map_err(anyhow::Error::msg)?;
            let face = if camera { self.face(&pixels)? } else { None };
            let crop = match face {
                Some(crop) => crop,
                None => self.whole(&pixels)?,
            };
            let mut crops = vec![crop];
            if camera {
                let variants = refit::variants(&crops[0], at as u64);
                crops.extend(variants);
            }
            for feature in self.pipeline.embed(&crops)? {
                rows.push(feature.values(), label);
            }
            if at % 100 == 99 {
                eprintln!(
                    "{}: {} of {}",
                    folder.display(),
                    at + 1,
                    dataset.pictures.len()
                );
            }
        }
        let mut bytes = Vec::new();
        for (row, label) in rows.features.chunks_exact(self.width).zip(&rows.labels) {
            bytes.extend((*label as f32).to_le_bytes());
            bytes.extend(row.iter().flat_map(|value| value.to_le_bytes()));
        }
        maskd::platform::files::write(&cache, &bytes)?;
        Ok(rows)
    }

    /// Returns the whole picture as a crop.
    fn whole(&mut self, pixels: &RgbImage) -> anyhow::Result<Crop> {
        let whole = maskd::training::augment::whole(pixels).context("the picture is empty")?;
        Ok(self.scaler.crop(pixels, whole)?)
    }

    /// Returns the crop of the largest face, if there is one.
    fn face(&mut self, pixels: &RgbImage) -> anyhow::Result<Option<Crop>> {
        let area = |found: &RecognizedFace| found.face.rect.area();
        let faces = self.pipeline.recognize(pixels)?.into_iter();
        let largest = faces.max_by(|a, b| area(a).total_cmp(&area(b)));
        Ok(largest.map(|found| found.classification.crop))
    }

    /// Returns the features of the largest face and of its variants, or `None` if no face is
    /// found. With `is_crop`, the whole picture is the face.
    fn of_picture(&mut self, path: &Path, is_crop: bool) -> anyhow::Result<Option<Vec<f32>>> {
        let (pixels, _) = dataset::load(path).map_err(anyhow::Error::msg)?;
        let crop = if is_crop {
            Some(self.whole(&pixels)?)
        } else {
            self.face(&pixels)?
        };
        let Some(crop) = crop else {
            return Ok(None);
        };
        let mut crops = refit::variants(&crop, 0);
        crops.insert(0, crop);
        let features = self.pipeline.embed(&crops)?;
        let values = features.iter().flat_map(Feature::values);
        Ok(Some(values.copied().collect()))
    }
}

impl Camera {
    /// Splits the pictures into a pool and a test set. The seed is fixed, so that the split
    /// is the same for every trial.
    fn split(name: &str, all: &Rows, variants: usize) -> Camera {
        let rows = variants + 1;
        let mut order: Vec<usize> = (0..all.len() / rows).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(1));
        let mut camera = Camera {
            name: name.to_owned(),
            test: Rows::default(),
            pool: Vec::new(),
        };
        for (place, at) in order.into_iter().enumerate() {
            let label = all.labels[at * rows];
            let width = all.width();
            let features = &all.features[at * rows * width..][..rows * width];
            if place < POOL {
                camera.pool.push((features.to_vec(), label));
            } else {
                camera.test.push(&features[..width], label);
            }
        }
        camera
    }

    /// Draws `crops` crops of each class. Each crop has its own track. The fraction `wrong`
    /// of the crops get wrong labels.
    fn draw(&self, crops: usize, wrong: f64, classes: usize, seed: u64) -> Vec<Sample> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut order: Vec<usize> = (0..self.pool.len()).collect();
        order.shuffle(&mut random);
        let mut samples = Vec::new();
        for class in 0..classes {
            let of_class = order.iter().filter(|at| self.pool[**at].1 == class);
            for at in of_class.take(crops) {
                samples.push(Sample {
                    id: at.to_string(),
                    label: class,
                    track: at.to_string(),
                    day: String::new(),
                    features: self.pool[*at].0.clone(),
                    seen: false,
                });
            }
        }
        mislabel(&mut samples, wrong, classes, &mut random);
        samples
    }
}

/// Gives wrong labels to the fraction `share` of the samples.
fn mislabel(samples: &mut [Sample], share: f64, classes: usize, random: &mut ChaCha8Rng) {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.shuffle(random);
    let count = (share * samples.len() as f64).round() as usize;
    for at in order.into_iter().take(count) {
        let other = random.random_range(1..classes);
        samples[at].label = (samples[at].label + other) % classes;
    }
}

/// Logs the measurements from a trial, so that other gates can be evaluated on them.
fn log(
    kind: &str,
    camera: &Camera,
    crops: usize,
    seed: u64,
    (before, after, old, forgotten): (f64, f64, f64, f64),
    measured: &Measurements,
) {
    let line = serde_json::json!({
        "kind": kind, "camera": camera.name, "crops": crops, "seed": seed,
        "before": before, "after": after, "old": old, "forgotten": forgotten,
        "measured": MeasuredRecord::from(measured.clone()),
    });
    eprintln!("trial {line}");
}

/// Returns options with a gate that accepts every head.
fn open_gate(options: &RefitOptions) -> RefitOptions {
    RefitOptions {
        gate: GateOptions {
            min_gain: -1e9,
            min_sigmas: -1e9,
            recognized_tolerance: 1e9,
            accuracy_tolerance: 1.0,
            replay_tolerance: 1.0,
            min_agreement: 0.0,
            agreement_sigmas: -1e9,
            max_suspects: 1.0,
            perfect_gain: -1e9,
            perfect_sigmas: -1e9,
            ..options.gate.clone()
        },
        ..options.clone()
    }
}

/// Computes the logits of each row.
fn logits(head: &HeadTensors, rows: &Rows) -> anyhow::Result<Vec<Vec<f32>>> {
    let trainer = Trainer::from_head(head.clone(), TrainOptions::default())?;
    let logits = trainer.logits(&rows.features)?;
    Ok(logits.chunks(head.b2.len()).map(<[f32]>::to_vec).collect())
}

/// A challenger with the decision of the gate.
struct Judged {
    head: Option<HeadTensors>,
    decision: String,
    accepted: bool,
    nothing_to_gain: bool,
    adaptation: String,
    measured: serde_json::Value,
}

/// Computes the accuracy in percent.
fn accuracy(head: &HeadTensors, rows: &Rows) -> anyhow::Result<f64> {
    let trainer = Trainer::from_head(head.clone(), TrainOptions::default())?;
    let metrics = trainer.evaluate(&rows.features, &rows.labels)?;
    Ok(100.0 * f64::from(metrics.accuracy))
}

#[derive(Default)]
struct Mean(f64, f64);

impl Mean {
    fn add(&mut self, value: f64) {
        self.0 += value;
        self.1 += 1.0;
    }
}

impl fmt::Display for Mean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.1 > 0.0 {
            write!(f, "{:.2}", self.0 / self.1)
        } else {
            f.write_str("-")
        }
    }
}

impl Trials<'_> {
    fn input<'b>(&'b self, samples: &'b [Sample]) -> RefitInput<'b> {
        RefitInput {
            labels: &self.head.labels,
            masked_labels: &[],
            champion: &self.head.head,
            champion_labels: &self.head.labels,
            base: &self.head.head,
            samples,
            base_labels: &self.head.labels,
            replay: Some(&self.replay),
        }
    }

    /// Trains a challenger without applying the gate. Returns the challenger and the
    /// measurements for the gate.
    fn challenger(
        &self,
        samples: &[Sample],
    ) -> anyhow::Result<Option<(HeadTensors, Measurements)>> {
        let fit = refit::fit(&self.input(samples), &open_gate(&self.options), &|| false)?;
        Ok(fit.head.zip(fit.outcome.measured))
    }

    /// Trains a challenger. Returns it even if the gate refuses it.
    fn judged(&self, samples: &[Sample]) -> anyhow::Result<Judged> {
        let fit = refit::fit(&self.input(samples), &open_gate(&self.options), &|| false)?;
        let decision = match &fit.outcome.measured {
            Some(measured) => refit::gate(measured, &self.options.gate).decision,
            None => fit.outcome.decision.clone(),
        };
        let measured = fit.outcome.measured.map(MeasuredRecord::from);
        let adaptation = measured.as_ref().and_then(|measured| measured.adaptation);
        Ok(Judged {
            head: fit.head,
            accepted: decision == GateDecision::Accepted,
            nothing_to_gain: decision == GateDecision::NothingToGain,
            decision: match decision {
                GateDecision::Accepted => "accepted".to_owned(),
                GateDecision::NothingToGain => "nothing to gain".to_owned(),
                GateDecision::Refused(refusal) => refusal.to_string(),
            },
            adaptation: adaptation.map_or(String::new(), |adaptation| format!("{adaptation:?}")),
            measured: serde_json::to_value(measured)?,
        })
    }

    fn learned(&self, samples: &[Sample], options: &RefitOptions) -> anyhow::Result<HeadTensors> {
        let head = refit::learn(&self.input(samples), options, &|| false)?;
        head.context("nothing was learned")
    }

    /// Prints the table in `docs/LEARNING.md`.
    fn learning(&self) -> anyhow::Result<()> {
        let classes = self.head.labels.len();
        let old = accuracy(&self.head.head, &self.old)?;
        for camera in &self.cameras {
            let before = accuracy(&self.head.head, &camera.test)?;
            println!(
                "{}: {before:.1}% on the camera, {old:.1}% on old pictures",
                camera.name
            );
        }
        println!(
            "\ncrops per class | fitted and calibrated: camera, worst change, old | only fitted: camera, old | accepted, of those that gain 1 point | temperature"
        );
        for &crops in &self.arguments.crops {
            let mut all: [Mean; 3] = Default::default();
            let mut arms: [[Mean; 2]; 4] = Default::default();
            let (mut worst, mut accepted, mut better, mut better_accepted) =
                (f64::INFINITY, 0, 0, 0);
            for (camera, seed) in self.draws() {
                let samples = camera.draw(crops, 0.0, classes, seed);
                let before = accuracy(&self.head.head, &camera.test)?;
                for (arm, means) in arms.iter_mut().enumerate() {
                    if arm > 0 && !self.arguments.arms {
                        continue;
                    }
                    let (samples, options) = self.arm(arm, &samples);
                    let head = self.learned(&samples, &options)?;
                    means[0].add(accuracy(&head, &camera.test)?);
                    means[1].add(accuracy(&head, &self.old)?);
                }
                if let Some((head, measured)) = self.challenger(&samples)? {
                    let after = accuracy(&head, &camera.test)?;
                    let forgotten = accuracy(&head, &self.old)?;
                    all[0].add(after);
                    all[1].add(forgotten);
                    all[2].add(measured.calibration.temperature);
                    worst = worst.min(after - before);
                    let passes = refit::gate(&measured, &self.options.gate).decision
                        == GateDecision::Accepted;
                    accepted += usize::from(passes);
                    if after >= before + 1.0 {
                        better += 1;
                        better_accepted += usize::from(passes);
                    }
                    log(
                        "right",
                        camera,
                        crops,
                        seed,
                        (before, after, old, forgotten),
                        &measured,
                    );
                }
            }
            let [fitted, remembered, temperature] = &all;
            let [learned, learned_old] = &arms[0];
            let trials = self.draws().count();
            println!(
                "{crops:2} | {fitted}, {worst:+.1}, {remembered} | {learned}, {learned_old} | \
                 {accepted} of {trials}, {better_accepted} of {better} | {temperature}"
            );
            if self.arguments.arms {
                for (name, [camera, old]) in
                    ["without replay", "without translation", "without variants"]
                        .iter()
                        .zip(&arms[1..])
                {
                    println!("     {name}: {camera}, {old}");
                }
            }
        }
        Ok(())
    }

    /// Returns the samples and the options for an arm of the experiment. Arm 0 uses
    /// everything. Arm 1 omits replay, arm 2 omits translation, and arm 3 omits variants.
    fn arm(&self, arm: usize, samples: &[Sample]) -> (Vec<Sample>, RefitOptions) {
        let mut samples = samples.to_vec();
        let mut options = self.options.clone();
        options.fit.adaptations = vec![Adaptation::TranslatedReplay];
        match arm {
            1 => {
                options.fit.adaptations = vec![Adaptation::PlainReplay];
                options.fit.new_share = 1.0;
                options.fit.device_share = 1.0;
            }
            2 => options.fit.adaptations = vec![Adaptation::PlainReplay],
            3 => {
                for sample in &mut samples {
                    sample.features.truncate(self.head.head.features());
                }
            }
            _ => {}
        }
        (samples, options)
    }

    fn draws(&self) -> impl Iterator<Item = (&Camera, u64)> {
        let seeds = self.arguments.seeds;
        self.cameras
            .iter()
            .flat_map(move |camera| (0..seeds).map(move |seed| (camera, seed)))
    }

    /// Prints how many heads the gate accepts although they were trained with wrong
    /// labels, and how much accuracy the worst of these heads loses on the true labels.
    fn wrong_labels(&self) -> anyhow::Result<()> {
        let classes = self.head.labels.len();
        let old = accuracy(&self.head.head, &self.old)?;
        println!(
            "\nwrong labels | trials | accepted | worse by more than 2 points | worst change | better by 1 point and refused"
        );
        for &wrong in &self.arguments.shares {
            let (mut accepted, mut harmful, mut worst, mut missed) = (0, 0, f64::INFINITY, 0);
            for trial in 0..self.arguments.wrong {
                let camera = &self.cameras[trial as usize % self.cameras.len()];
                let crops = [5, 10, 20][trial as usize % 3];
                let samples = camera.draw(crops, wrong, classes, 1000 + trial);
                let before = accuracy(&self.head.head, &camera.test)?;
                let Some((head, measured)) = self.challenger(&samples)? else {
                    continue;
                };
                let after = accuracy(&head, &camera.test)?;
                let forgotten = accuracy(&head, &self.old)?;
                let kind = format!("wrong {wrong}");
                log(
                    &kind,
                    camera,
                    crops,
                    trial,
                    (before, after, old, forgotten),
                    &measured,
                );
                if refit::gate(&measured, &self.options.gate).decision == GateDecision::Accepted {
                    accepted += 1;
                    harmful += usize::from(after < before - 2.0);
                    worst = worst.min(after - before);
                } else {
                    missed += usize::from(after >= before + 1.0);
                }
            }
            println!(
                "{:.0}% | {} | {accepted} | {harmful} | {worst:+.1} | {missed}",
                100.0 * wrong,
                self.arguments.wrong
            );
        }
        Ok(())
    }

    /// Prints the time for a fit on 1,000 samples with 20 epochs and a batch size of 32.
    fn speed(&self) -> anyhow::Result<()> {
        let pool = self.cameras.iter().flat_map(|camera| &camera.pool).cycle();
        let samples: Vec<Sample> = pool
            .take(1000)
            .enumerate()
            .map(|(at, (features, label))| Sample {
                id: String::new(),
                label: *label,
                track: at.to_string(),
                day: String::new(),
                features: features[..self.head.head.features()].to_vec(),
                seen: false,
            })
            .collect();
        let mut options = self.options.clone();
        options.fit.steps = 20 * 1000_usize.div_ceil(32);
        options.fit.batch = 32;
        #[expect(clippy::disallowed_methods, reason = "this measures time")]
        let start = Instant::now();
        self.learned(&samples, &options)?;
        println!(
            "\n1,000 samples, {} steps of 32: {:.2} s",
            options.fit.steps,
            start.elapsed().as_secs_f64()
        );
        #[expect(clippy::disallowed_methods, reason = "this measures time")]
        let start = Instant::now();
        self.challenger(&samples)?;
        println!(
            "1,000 samples, a whole refit: {:.2} s",
            start.elapsed().as_secs_f64()
        );
        Ok(())
    }
}
