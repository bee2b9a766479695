//! Measures training on the device with cameras that the head was not trained on. It
//! shows how much a few labeled crops help, how much the head forgets, and how many
//! heads the gate accepts when labels are wrong. It produced the tables in
//! `docs/LEARNING.md`.
//!
//! ```text
//! cargo run --release --example simulate_camera -- --preset dim faces/val sim/dim
//! cargo run --release --example refit_trials -- --camera dim=sim/dim --holdout faces/val \
//!     --replay models/replay.bin --cache cache [--head head.onnx] [--wrong 100]
//! ```
//!
//! The pictures from a camera are cropped to the detected face, or kept whole if no
//! face is detected. They are split into a pool, from which crops are drawn and
//! labeled, and a test set. Features are stored in the cache folder, because
//! computing them takes nearly all of the time.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Parser;
use image::RgbImage;
use maskd::frame::{Crop, Scaler};
use maskd::learning::MeasuredRecord;
use maskd::learning::refit::{
    self, FitOptions, GateOptions, Measurements, RefitInput, RefitOptions, Sample,
};
use maskd::learning::replay::{Replay, Rows};
use maskd::onnx::{
    Classifier, FEATURES, Graph, HeadFile, HeadTensors, ModelFile, ThreadPool, read_file,
};
use maskd::training::dataset::{self, Dataset};
use maskd::training::train::{TrainOptions, Trainer};
use maskd::vision::detect::{Detector, DetectorOptions};
use maskd::vision::embed::{Backbone, Embedder};
use maskd::vision::pipeline::{SHIPPED_CLASSIFIER, SHIPPED_DETECTOR};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Measures training on the device with cameras that the head was not trained on.
#[derive(Parser)]
struct Arguments {
    /// NAME=DIR: the pictures of a camera in one subfolder per class. Can be given
    /// several times.
    #[arg(long = "camera", required = true)]
    cameras: Vec<String>,
    /// Old pictures that must not be forgotten, in one subfolder per class.
    #[arg(long)]
    holdout: PathBuf,
    /// The replay set.
    #[arg(long)]
    replay: PathBuf,
    /// The initial head, which is a classifier or a head file [default: the built-in
    /// one].
    #[arg(long)]
    head: Option<PathBuf>,
    /// Cache folder for features.
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
    /// Also train without replay, without translation and without variants.
    #[arg(long)]
    arms: bool,
    /// Maximum number of steps of a fit.
    #[arg(long)]
    steps: Option<usize>,
    /// Learning rate of a fit.
    #[arg(long)]
    learning_rate: Option<f32>,
    /// Fraction of new samples in a batch.
    #[arg(long)]
    new_share: Option<f32>,
    /// Fraction of new and translated samples in a batch.
    #[arg(long)]
    device_share: Option<f32>,
    /// Fraction of the features that a step drops.
    #[arg(long)]
    feature_dropout: Option<f32>,
}

/// Number of pictures in a camera's pool. The others are its test set.
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
    /// Features `[variants + 1, FEATURES]` and the label of each crop in the pool.
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
    let shipped = Classifier::parse("the built-in model", SHIPPED_CLASSIFIER)?;
    let head = match &arguments.head {
        None => HeadFile {
            backbone_sha256: shipped.backbone_sha256,
            labels: shipped.labels.clone(),
            head: shipped.head.clone(),
        },
        Some(path) => match ModelFile::parse(&path.display().to_string(), &read_file(path)?)? {
            ModelFile::Head(file) => file,
            ModelFile::Classifier(classifier) => HeadFile {
                backbone_sha256: classifier.backbone_sha256,
                labels: classifier.labels,
                head: classifier.head,
            },
        },
    };
    let replay = Replay::parse(&fs::read(&arguments.replay)?)?;
    if head.backbone_sha256 != shipped.backbone_sha256
        || replay.backbone_sha256 != shipped.backbone_sha256
    {
        bail!("head and replay set must be made for the built-in backbone");
    }
    fs::create_dir_all(&arguments.cache)?;
    let mut features = FeatureCache::open(shipped.backbone)?;
    let old = features.rows(
        &arguments.cache.join("old"),
        &arguments.holdout,
        &head.labels,
        false,
    )?;
    let mut cameras = Vec::new();
    for camera in &arguments.cameras {
        let (name, folder) = camera.split_once('=').context("a camera is NAME=DIR")?;
        let all = features.rows(
            &arguments.cache.join(name),
            Path::new(folder),
            &head.labels,
            true,
        )?;
        cameras.push(Camera::split(name, &all, features.variants));
    }
    let defaults = FitOptions::default();
    let fit = FitOptions {
        steps: arguments.steps.unwrap_or(defaults.steps),
        learning_rate: arguments.learning_rate.unwrap_or(defaults.learning_rate),
        new_share: arguments.new_share.unwrap_or(defaults.new_share),
        device_share: arguments.device_share.unwrap_or(defaults.device_share),
        feature_dropout: arguments
            .feature_dropout
            .unwrap_or(defaults.feature_dropout),
        ..defaults
    };
    let options = RefitOptions {
        fit,
        ..RefitOptions::default()
    };
    let trials = Trials {
        arguments,
        head,
        replay,
        old,
        cameras,
        options,
    };
    if arguments.seeds > 0 {
        trials.learning()?;
    }
    if arguments.wrong > 0 {
        trials.wrong_labels()?;
    }
    trials.speed()?;
    Ok(())
}

/// Computes and caches the features of pictures.
struct FeatureCache {
    detector: Detector,
    embedder: Embedder,
    scaler: Scaler,
    /// Number of variants of each crop.
    variants: usize,
}

impl FeatureCache {
    fn open(backbone: Graph) -> anyhow::Result<FeatureCache> {
        let options = DetectorOptions {
            side: 320,
            threshold: 0.5,
        };
        Ok(FeatureCache {
            detector: Detector::new(
                "the built-in model",
                SHIPPED_DETECTOR,
                options,
                ThreadPool::alone(),
            )?,
            embedder: Embedder::new(&Backbone::new(backbone)?, 1, ThreadPool::alone())?,
            scaler: Scaler::default(),
            variants: refit::VARIANTS,
        })
    }

    /// Returns the rows for the pictures in a folder. Pictures are either whole, or
    /// cropped and followed by their variants. The cache file stores labels and
    /// features as 32-bit floats.
    fn rows(
        &mut self,
        cache: &Path,
        folder: &Path,
        labels: &[String],
        camera: bool,
    ) -> anyhow::Result<Rows> {
        if let Ok(bytes) = fs::read(cache) {
            let floats = bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes));
            let values: Vec<f32> = floats.collect();
            let mut rows = Rows::default();
            for row in values.as_chunks::<{ 1 + FEATURES }>().0 {
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
            let crop = self.crop(&pixels, camera)?;
            let mut crops = vec![crop];
            if camera {
                let variants = refit::variants(&crops[0], at as u64);
                crops.extend(variants);
            }
            for feature in self.embedder.embed(&crops)? {
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
        for (row, label) in rows
            .features
            .as_chunks::<FEATURES>()
            .0
            .iter()
            .zip(&rows.labels)
        {
            bytes.extend((*label as f32).to_le_bytes());
            bytes.extend(row.iter().flat_map(|value| value.to_le_bytes()));
        }
        maskd::platform::files::write(cache, &bytes)?;
        Ok(rows)
    }

    fn crop(&mut self, pixels: &RgbImage, cut: bool) -> anyhow::Result<Crop> {
        let whole = maskd::training::augment::whole(pixels).context("an empty picture")?;
        let (width, height) = pixels.dimensions();
        let faces = if cut {
            self.detector.detect(pixels)?
        } else {
            Vec::new()
        };
        let rects = faces.iter().map(|face| face.rect);
        let largest = rects.max_by(|a, b| a.area().total_cmp(&b.area()));
        let region = largest.and_then(|rect| rect.region(0.15, width, height));
        Ok(self.scaler.crop(pixels, region.unwrap_or(whole))?)
    }
}

impl Camera {
    /// Splits the pictures with a fixed seed, so that the split is the same for
    /// every trial.
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
            let features = &all.features[at * rows * FEATURES..][..rows * FEATURES];
            if place < POOL {
                camera.pool.push((features.to_vec(), label));
            } else {
                camera.test.push(&features[..FEATURES], label);
            }
        }
        camera
    }

    /// Draws `crops` crops of each class, each with its own track. A fraction
    /// `wrong` of them get wrong labels.
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
        let mut mislabelled: Vec<usize> = (0..samples.len()).collect();
        mislabelled.shuffle(&mut random);
        let count = (wrong * samples.len() as f64).round() as usize;
        for at in mislabelled.into_iter().take(count) {
            let other = random.random_range(1..classes);
            samples[at].label = (samples[at].label + other) % classes;
        }
        samples
    }
}

/// Logs the measurements from a trial, so that other gates can be tested on them.
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

/// Returns the options for a gate that accepts everything.
fn open_gate(options: &RefitOptions) -> RefitOptions {
    RefitOptions {
        gate: GateOptions {
            min_gain: -1e9,
            min_sigmas: -1e9,
            accuracy_tolerance: 1.0,
            replay_tolerance: 1.0,
            min_agreement: 0.0,
            agreement_sigmas: -1e9,
            max_suspects: 1.0,
        },
        ..options.clone()
    }
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
            champion: &self.head.head,
            base: &self.head.head,
            samples,
            base_labels: &self.head.labels,
            replay: Some(&self.replay),
        }
    }

    /// Trains a challenger, regardless of what the gate would decide, and returns it
    /// with the measurements for the gate.
    fn challenger(
        &self,
        samples: &[Sample],
    ) -> anyhow::Result<Option<(HeadTensors, Measurements)>> {
        let fit = refit::fit(&self.input(samples), &open_gate(&self.options), &|| false)?;
        Ok(fit.head.zip(fit.outcome.measured))
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
                "{}: {before:.1} % on the camera, {old:.1} % on old pictures",
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
                    let passes = refit::gate(&measured, &self.options.gate).is_none();
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

    /// Returns the samples and options for an arm of the experiment. Arm 0 uses
    /// everything, arm 1 omits replay, arm 2 omits translation, and arm 3 omits
    /// variants.
    fn arm(&self, arm: usize, samples: &[Sample]) -> (Vec<Sample>, RefitOptions) {
        let mut samples = samples.to_vec();
        let mut options = self.options.clone();
        match arm {
            1 => {
                options.fit.new_share = 1.0;
                options.fit.device_share = 1.0;
                options.fit.half_share_groups = 0.0;
            }
            2 => {
                options.fit.new_share = options.fit.device_share;
                options.fit.half_share_groups = 0.0;
            }
            3 => {
                for sample in &mut samples {
                    sample.features.truncate(FEATURES);
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

    /// Prints how many heads trained with wrong labels are accepted, and how much
    /// worse the worst of them is on the true labels.
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
                if refit::gate(&measured, &self.options.gate).is_none() {
                    accepted += 1;
                    harmful += usize::from(after < before - 2.0);
                    worst = worst.min(after - before);
                } else {
                    missed += usize::from(after >= before + 1.0);
                }
            }
            println!(
                "{:.0} % | {} | {accepted} | {harmful} | {worst:+.1} | {missed}",
                100.0 * wrong,
                self.arguments.wrong
            );
        }
        Ok(())
    }

    /// Prints the time for a fit on 1,000 samples, with 20 epochs and a batch size
    /// of 32.
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
                features: features[..FEATURES].to_vec(),
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
