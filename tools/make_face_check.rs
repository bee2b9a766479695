//! Creates the face check, and stores it in a classifier file. The face check
//! distinguishes faces from non-faces that the detector finds.
//!
//! ```text
//! cargo run --release --example make_face_check -- --dataset crowd \
//!     --classifier models/mask_classifier.onnx
//! ```
//!
//! The data set consists of photographs, each with a Pascal VOC file that holds the box
//! of each face. The detector runs on each photograph with a low threshold. A detected
//! box counts as a face if its intersection over union with a labeled box is at least
//! 0.4. It counts as a non-face if it hardly overlaps any labeled box. Boxes
//! between these two cases are left out. Boxes without a label but with a high score
//! are also left out, because they are probably faces that nobody labeled. The backbone
//! turns several views of each box into features. The face check is a logistic
//! regression on these features with an L2 penalty, and both classes have the same
//! total weight.
//!
//! Everything else in the classifier file stays unchanged. If another head is trained,
//! run this tool last. The same data set and models give the same bytes on CPUs of the
//! same kind, with any number of threads.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Parser;
use maskd::frame::{Crop, Face, Rect, Scaler, decode, decoding};
use maskd::onnx::{Classifier, FaceCheckTensors, ThreadPool, write_face_check};
use maskd::platform::files;
use maskd::training::augment::{self, Robust};
use maskd::training::dataset::read_voc;
use maskd::training::recipe::mix;
use maskd::vision::detect::{Detector, DetectorOptions};
use maskd::vision::embed::{Backbone, Embedder};
use maskd::vision::pipeline::SHIPPED_DETECTOR;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::json;

/// Creates the face check and stores it in a classifier file.
#[derive(Parser)]
struct Arguments {
    /// Folder of photographs, each with a Pascal VOC .xml of the same name.
    #[arg(long)]
    dataset: PathBuf,
    /// Classifier file whose backbone is used, and to which the face check is added.
    #[arg(long)]
    classifier: PathBuf,
    /// File to write. By default, the classifier file is replaced.
    #[arg(long)]
    out: Option<PathBuf>,
    /// The report counts the boxes that the face check accepts with at least this
    /// probability.
    #[arg(long, default_value_t = 0.8)]
    min_probability: f32,
    /// Seed for the views and for the split into training and held-out photographs.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Number of threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// Boxes with a lower score are not used, because the face check never sees such boxes.
const LOWEST_SCORE: f32 = 0.1;
/// The report counts only boxes with scores in this range, because these boxes need the
/// face check.
const REPORTED_SCORES: std::ops::Range<f32> = 0.2..0.55;
/// Minimum length of the shorter side of a box, in pixels. A smaller box shows too
/// little detail.
const MIN_SIDE: f32 = 18.0;
/// A box with at least this intersection over union with a labeled box is a face.
const FACE_IOU: f32 = 0.4;
/// A box is a non-face only if its overlap with each labeled box is small. The area
/// of the overlap must be at most this fraction of the area of the smaller box.
const OTHER_OVERLAP: f32 = 0.3;
/// A box with at least this score never counts as a non-face, because it may be a
/// face that nobody labeled.
const LABELED_FROM: f32 = 0.52;
/// Number of views of each box. The first view is the crop that the daemon would cut,
/// and the other views are random.
const VIEWS: usize = 4;
/// Range of the margin around the box in random views, as a fraction of the size of the
/// box.
const MARGIN: (f32, f32) = (0.1, 0.3);
/// Margin around the box that the daemon uses, as a fraction of the size of the box.
const USED_MARGIN: f32 = 0.2;
/// One in this many photographs is held out for the report.
const HOLDOUT: u64 = 5;
/// Strength of the L2 penalty on the weights of standardized features.
const PENALTY: f64 = 0.1;
/// Added to the standard deviation of each feature. Some features are almost constant,
/// so their standard deviations are almost 0.
const MIN_DEVIATION: f64 = 0.05;
/// Number of steps of the optimizer. More steps do not change the first three digits of the
/// held-out figures.
const STEPS: usize = 400;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("make_face_check: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let path = &arguments.classifier;
    let base = maskd::onnx::read_file(path)?;
    let classifier = Classifier::parse(&path.display().to_string(), &base)?;
    let mut boxes = Boxes::open(arguments, classifier)?;
    let pictures = decoding::list(&arguments.dataset)
        .with_context(|| format!("cannot read {}", arguments.dataset.display()))?;
    let mut samples = Samples::default();
    for (number, picture) in pictures.iter().enumerate() {
        boxes
            .add(picture, number as u64, &mut samples)
            .with_context(|| format!("cannot use {}", picture.display()))?;
        if number % 100 == 99 {
            eprintln!("{} of {} photographs", number + 1, pictures.len());
        }
    }
    let [others, faces] = samples.counts();
    ensure!(
        faces > 0 && others > 0,
        "the detector found {faces} faces and {others} other things, and needs both"
    );

    let is_training = |sample: &Sample| !sample.is_held_out;
    let check = fit(&samples.matching(is_training));
    let report = Report::new(&check, &samples, arguments.min_probability);
    println!("{report}");

    let check = fit(&samples.matching(|_| true));
    let description = json!({
        "photographs": pictures.len(),
        "faces": faces,
        "others": others,
        "held_out": report.to_json(),
    });
    let bytes = write_face_check(&base, &check, &description.to_string())?;
    let out = arguments.out.as_ref().unwrap_or(path);
    files::write(out, &bytes).with_context(|| format!("cannot write {}", out.display()))?;
    println!("{}: {} bytes", out.display(), bytes.len());
    Ok(())
}

/// A box of the detector, with the features of its views.
struct Sample {
    is_face: bool,
    is_held_out: bool,
    score: f32,
    /// Features of the views, `[VIEWS, features]`.
    views: Vec<f32>,
}

#[derive(Default)]
struct Samples(Vec<Sample>);

impl Samples {
    /// Returns the number of non-faces, followed by the number of faces.
    fn counts(&self) -> [usize; 2] {
        let faces = self.0.iter().filter(|sample| sample.is_face).count();
        [self.0.len() - faces, faces]
    }

    fn matching(&self, filter: impl Fn(&Sample) -> bool) -> Vec<&Sample> {
        self.0.iter().filter(|sample| filter(sample)).collect()
    }
}

/// Finds boxes in photographs and computes the features of their views.
struct Boxes {
    detector: Detector,
    embedder: Embedder,
    scaler: Scaler,
    robust: Robust,
    seed: u64,
}

impl Boxes {
    fn open(arguments: &Arguments, classifier: Classifier) -> anyhow::Result<Boxes> {
        let options = DetectorOptions {
            side: 320,
            threshold: LOWEST_SCORE,
        };
        let pool = ThreadPool::of(arguments.threads);
        let detector = Detector::new(
            "the built-in face detector",
            SHIPPED_DETECTOR,
            options,
            pool.clone(),
        )?;
        let backbone = Backbone::new(classifier.backbone, classifier.head.features())?;
        Ok(Boxes {
            detector,
            embedder: Embedder::new(&backbone, arguments.threads, pool)?,
            scaler: Scaler::default(),
            robust: Robust::default(),
            seed: arguments.seed,
        })
    }

    /// Adds the boxes in a photograph to the samples.
    fn add(&mut self, path: &Path, number: u64, samples: &mut Samples) -> anyhow::Result<()> {
        let annotation = path.with_extension("xml");
        let labeled = read_voc(&annotation)
            .map_err(anyhow::Error::msg)
            .with_context(|| annotation.display().to_string())?;
        let pixels = decode(&decoding::read(path)?)?;
        let (width, height) = pixels.dimensions();
        let mut rng = ChaCha8Rng::seed_from_u64(mix(self.seed, number));
        let is_held_out = mix(self.seed, number).is_multiple_of(HOLDOUT);
        let found = self.detector.detect(&pixels)?;
        for face in &found {
            let Some(is_face) = is_face(face, &labeled, &found) else {
                continue;
            };
            let region = |margin: f32| face.rect.region(margin, width, height);
            let used = region(USED_MARGIN).context("a box outside the photograph")?;
            let mut crops = vec![self.scaler.crop(&pixels, used)?];
            while crops.len() < VIEWS {
                let margin = augment::margin(MARGIN, &mut rng);
                let region = region(margin).unwrap_or(used);
                let view = self
                    .robust
                    .view(&mut self.scaler, &pixels, region, &mut rng);
                crops.push(Crop::from_image(view)?);
            }
            let features = self.embedder.embed(&crops)?;
            samples.0.push(Sample {
                is_face,
                is_held_out,
                score: face.score,
                views: features
                    .iter()
                    .flat_map(|feature| feature.values().iter().copied())
                    .collect(),
            });
        }
        Ok(())
    }
}

/// Returns whether a box is a face, or `None` if the box is not used. `found` are all boxes
/// in the photograph.
fn is_face(face: &Face, labeled: &[(String, Rect)], found: &[Face]) -> Option<bool> {
    if face.rect.short_side() < MIN_SIDE {
        return None;
    }
    if labeled
        .iter()
        .any(|(_, rect)| rect.iou(&face.rect) >= FACE_IOU)
    {
        return Some(true);
    }
    let is_apart = |rect: &Rect| {
        let smaller = rect.area().min(face.rect.area());
        rect.intersection(&face.rect) <= OTHER_OVERLAP * smaller
    };
    // A box that overlaps a box with a high score probably shows a part of a face, so
    // it is not used as a non-face example.
    let high = found.iter().filter(|other| other.score >= LABELED_FROM);
    let mut known = labeled
        .iter()
        .map(|(_, rect)| rect)
        .chain(high.map(|other| &other.rect));
    let is_other = face.score < LABELED_FROM && known.all(is_apart);
    is_other.then_some(false)
}

/// A logistic regression on standardized features.
struct Regression<'a> {
    /// Each view with its class and its weight. The weights sum to 1.
    rows: Vec<(&'a [f32], bool, f64)>,
    mean: Vec<f64>,
    deviation: Vec<f64>,
}

/// Fits the logistic regression, and folds the standardization into its weights.
fn fit(samples: &[&Sample]) -> FaceCheckTensors {
    let regression = Regression::new(samples);
    let solution = regression.minimize();
    let (weights, bias) = solution.split_at(regression.features());
    let scaled: Vec<f64> = weights
        .iter()
        .zip(&regression.deviation)
        .map(|(weight, deviation)| weight / deviation)
        .collect();
    let shift: f64 = scaled
        .iter()
        .zip(&regression.mean)
        .map(|(a, b)| a * b)
        .sum();
    FaceCheckTensors {
        weight: scaled.iter().map(|weight| *weight as f32).collect(),
        bias: (bias[0] - shift) as f32,
    }
}

impl<'a> Regression<'a> {
    fn new(samples: &[&'a Sample]) -> Regression<'a> {
        let faces = samples.iter().filter(|sample| sample.is_face).count();
        let share = |is_face: bool| {
            let count = if is_face {
                faces
            } else {
                samples.len() - faces
            };
            0.5 / (count * VIEWS).max(1) as f64
        };
        let rows: Vec<_> = samples
            .iter()
            .flat_map(|sample| {
                let features = sample.views.len() / VIEWS;
                let views = sample.views.chunks_exact(features.max(1));
                views.map(|view| (view, sample.is_face, share(sample.is_face)))
            })
            .collect();
        let features = rows.first().map_or(0, |(row, ..)| row.len());
        let mut mean = vec![0.0; features];
        let mut square = mean.clone();
        for (row, _, weight) in &rows {
            for (index, value) in row.iter().enumerate() {
                let value = f64::from(*value);
                mean[index] += weight * value;
                square[index] += weight * value * value;
            }
        }
        let deviation = mean
            .iter()
            .zip(&square)
            .map(|(mean, square)| (square - mean * mean).max(0.0).sqrt() + MIN_DEVIATION)
            .collect();
        Regression {
            rows,
            mean,
            deviation,
        }
    }

    fn features(&self) -> usize {
        self.mean.len()
    }

    /// For each standardized row, computes the product of the row and the vector `at`,
    /// passes the product to `factor`, and multiplies the row by the result. Returns
    /// the weighted sum of these rows. `at` and the returned vector have a value for each
    /// feature, and end with the bias.
    fn pass(&self, at: &[f64], factor: impl Fn(f64, bool) -> f64) -> Vec<f64> {
        let features = self.features();
        let scaled: Vec<f64> = at[..features]
            .iter()
            .zip(&self.deviation)
            .map(|(value, deviation)| value / deviation)
            .collect();
        let shift: f64 = scaled.iter().zip(&self.mean).map(|(a, b)| a * b).sum();
        let mut sum = vec![0.0; features];
        let mut total = 0.0;
        for (row, is_face, weight) in &self.rows {
            let product: f64 = row
                .iter()
                .zip(&scaled)
                .map(|(value, weight)| f64::from(*value) * weight)
                .sum();
            let factor = weight * factor(product - shift + at[features], *is_face);
            total += factor;
            for (sum, value) in sum.iter_mut().zip(*row) {
                *sum += factor * f64::from(*value);
            }
        }
        let mut result: Vec<f64> = sum
            .iter()
            .zip(&self.mean)
            .zip(&self.deviation)
            .map(|((sum, mean), deviation)| (sum - total * mean) / deviation)
            .collect();
        result.push(total);
        result
    }

    /// Minimizes the mean loss plus half the penalty times the sum of the squared weights,
    /// with Nesterov's accelerated gradient method.
    fn minimize(&self) -> Vec<f64> {
        // The second derivative of the loss with respect to the logit is at most 0.25.
        let step = 1.0 / (0.25 * self.largest_eigenvalue() + PENALTY);
        let root = (PENALTY * step).sqrt();
        let momentum = (1.0 - root) / (1.0 + root);
        let features = self.features();
        let mut solution = vec![0.0; features + 1];
        let mut ahead = solution.clone();
        for _ in 0..STEPS {
            let gradient = self.pass(&ahead, |logit, is_face| {
                1.0 / (1.0 + (-logit).exp()) - f64::from(u8::from(is_face))
            });
            for index in 0..=features {
                // The bias has no penalty.
                let penalty = if index < features { PENALTY } else { 0.0 };
                let next = ahead[index] - step * (gradient[index] + penalty * ahead[index]);
                ahead[index] = next + momentum * (next - solution[index]);
                solution[index] = next;
            }
        }
        solution
    }

    /// Returns an upper bound on the largest eigenvalue of the rows' second moments,
    /// found by power iteration. The bound includes a margin, because the iteration has
    /// not fully converged after these steps.
    fn largest_eigenvalue(&self) -> f64 {
        let mut vector = vec![1.0; self.features() + 1];
        let mut norm = 1.0;
        for _ in 0..15 {
            vector = self.pass(&vector, |product, _| product);
            norm = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
            for value in &mut vector {
                *value /= norm;
            }
        }
        1.2 * norm
    }
}

/// How well the face check separates held-out boxes whose scores are low.
struct Report {
    min_probability: f32,
    auroc: f64,
    /// Number of accepted boxes, followed by the number of all boxes.
    faces: (usize, usize),
    others: (usize, usize),
}

impl Report {
    fn new(check: &FaceCheckTensors, samples: &Samples, min_probability: f32) -> Report {
        let held_out = samples
            .matching(|sample| sample.is_held_out && REPORTED_SCORES.contains(&sample.score));
        let probabilities = |is_face: bool| -> Vec<f32> {
            let of_class = held_out.iter().filter(|sample| sample.is_face == is_face);
            let probability = |sample: &&Sample| {
                let products = check.weight.iter().zip(&sample.views).map(|(a, b)| a * b);
                1.0 / (1.0 + (-products.sum::<f32>() - check.bias).exp())
            };
            of_class.map(probability).collect()
        };
        let (faces, others) = (probabilities(true), probabilities(false));
        let kept = |all: &[f32]| {
            let kept = all.iter().filter(|value| **value >= min_probability);
            (kept.count(), all.len())
        };
        let wins: f64 = faces
            .iter()
            .flat_map(|face| others.iter().map(move |other| (face, other)))
            .map(|(face, other)| match face.total_cmp(other) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            })
            .sum();
        Report {
            min_probability,
            auroc: wins / (faces.len() * others.len()).max(1) as f64,
            faces: kept(&faces),
            others: kept(&others),
        }
    }

    fn to_json(&self) -> serde_json::Value {
        json!({
            "auroc": (self.auroc * 1e4).round() / 1e4,
            "min_probability": (f64::from(self.min_probability) * 1e4).round() / 1e4,
            "faces": self.faces.1,
            "faces_accepted": self.faces.0,
            "others": self.others.1,
            "others_accepted": self.others.0,
        })
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scores = REPORTED_SCORES;
        write!(
            f,
            "held-out boxes with scores from {} to {}: AUROC {:.3}; at a probability of {}, {} \
             of {} faces and {} of {} other things are accepted",
            scores.start,
            scores.end,
            self.auroc,
            self.min_probability,
            self.faces.0,
            self.faces.1,
            self.others.0,
            self.others.1
        )
    }
}
