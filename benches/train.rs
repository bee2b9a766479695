//! Benchmarks the parts of training other than the backbone: `cargo bench --bench
//! train`.
//!
//! First, the benchmark prints the time and the memory for a large refit on one core.
//! Then, it prints the number of augmented views per second, and the number of training
//! samples that the head processes per second. It also prints the ratio of each rate to
//! the first rate. The rates depend on the machine and its load, so the ratios within one
//! run are more useful.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a measurement of known input, with the clock"
)]

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use image::imageops::{self, FilterType};
use maskd::frame::{Scaler, decode};
use maskd::learning::SHIPPED_REPLAY;
use maskd::learning::refit::{self, FitOptions, RefitInput, RefitOptions, Sample};
use maskd::learning::replay::Replay;
use maskd::onnx::FEATURES;
use maskd::training::augment::{Fill, Geometry, Robust, warp, whole};
use maskd::training::train::{TrainOptions, Trainer};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Number of rounds in each measurement. The fastest round counts, because other
/// load on the machine can only make a round slower.
const ROUNDS: usize = 5;

/// Duration of a round.
const ROUND: Duration = Duration::from_millis(300);

/// Prints rates and the ratio of each rate to the first one.
struct Rates {
    unit: &'static str,
    first: Option<f64>,
}

impl Rates {
    fn of(unit: &'static str) -> Rates {
        Rates { unit, first: None }
    }

    /// Measures `work`. Each call to it processes `count` units.
    fn measure(&mut self, name: &str, count: usize, mut work: impl FnMut()) {
        let mut best: f64 = 0.0;
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let mut made = 0;
            while start.elapsed() < ROUND {
                work();
                made += count;
            }
            best = best.max(made as f64 / start.elapsed().as_secs_f64());
        }
        let first = *self.first.get_or_insert(best);
        let (unit, ratio) = (self.unit, best / first);
        println!("{name:<28} {best:>8.0} {unit} per second {ratio:>6.2}");
    }
}

fn views() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/crops/mask_large.png");
    let crop = decode(&fs::read(path).unwrap()).unwrap();
    let large = imageops::resize(&crop, 384, 384, FilterType::Triangle);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut scaler = Scaler::default();
    let mut rates = Rates::of("views");
    let geometry = Geometry::default();
    for fill in [Fill::Nearest, Fill::Constant, Fill::Reflect, Fill::Wrap] {
        rates.measure(&format!("geometry, {fill:?}"), 1, || {
            black_box(warp(&crop, &geometry.draw(&mut rng), fill));
        });
    }
    let robust = Robust::default();
    rates.measure("light", 1, || {
        let mut view = crop.clone();
        robust.light.draw(&mut rng).apply(&mut view);
        black_box(view);
    });
    rates.measure("sharpness", 1, || {
        let draw = robust.sharpness.draw(&mut rng);
        black_box(draw.apply(&mut scaler, crop.clone()));
    });
    for (name, picture) in [("robust", &crop), ("robust from 384 x 384", &large)] {
        let region = whole(picture).unwrap();
        rates.measure(name, 1, || {
            black_box(robust.view(&mut scaler, picture, region, &mut rng));
        });
    }
}

fn steps() {
    let mut rates = Rates::of("samples");
    for batch in [1, 32, 256] {
        let features: Vec<f32> = (0..batch * FEATURES)
            .map(|index| (index % 97) as f32 / 97.0)
            .collect();
        let labels: Vec<usize> = (0..batch).map(|index| index % 2).collect();
        let mut trainer = Trainer::new(2, TrainOptions::default()).unwrap();
        rates.measure(&format!("head, batches of {batch}"), batch, || {
            trainer.step(&features, &labels).unwrap();
        });
    }
}

/// Number of new features in the refit.
const NEW: usize = 1000;
const EPOCHS: usize = 20;
const BATCH: usize = 32;

/// Reads a field from `/proc/self/status`, and converts it to MB of 1,000,000 bytes
/// (proc(5)).
fn memory_mb(field: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

/// Returns the CPU time of this thread in seconds, from Linux's `schedstat`.
fn core_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds: f64 = stat.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds / 1e9)
}

/// Runs all steps of one fit as in a refit, with a batch size of [`BATCH`]. The number
/// of steps corresponds to [`EPOCHS`] epochs over the new and the replayed features.
fn refit() {
    let replay = Replay::parse(SHIPPED_REPLAY).unwrap();
    let classes = replay.labels.len();
    let head = Trainer::new(classes, TrainOptions::default()).unwrap();
    let head = head.tensors();
    let samples: Vec<Sample> = (0..NEW)
        .map(|index| Sample {
            id: index.to_string(),
            label: index % classes,
            track: index.to_string(),
            day: String::new(),
            features: (0..FEATURES)
                .map(|at| ((index * 31 + at * 7) % 97) as f32 / 97.0)
                .collect(),
            seen: false,
        })
        .collect();
    let input = RefitInput {
        labels: &replay.labels,
        masked_labels: &[],
        champion: &head,
        champion_labels: &replay.labels,
        base: &head,
        samples: &samples,
        base_labels: &replay.labels,
        replay: Some(&replay),
    };
    let rows = NEW + replay.train.len();
    let options = RefitOptions {
        fit: FitOptions {
            steps: EPOCHS * rows.div_ceil(BATCH),
            batch: BATCH,
            ..FitOptions::default()
        },
        ..RefitOptions::default()
    };
    // This resets the peak memory if the system allows it (proc(5)).
    let _ = fs::write("/proc/self/clear_refs", "5");
    let (memory, core, start) = (memory_mb("VmRSS:"), core_seconds(), Instant::now());
    let learned = refit::learn(&input, &options, &|| false).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    assert!(black_box(learned).is_some(), "the refit makes a head");
    let steps = options.fit.steps;
    println!(
        "refit of {NEW} features and {} replayed, {EPOCHS} epochs of batches of {BATCH} ({steps} steps):",
        replay.train.len()
    );
    print!("{seconds:.2} s");
    if let (Some(before), Some(after)) = (core, core_seconds()) {
        print!(", {:.2} s of one core", after - before);
    }
    if let (Some(before), Some(peak)) = (memory, memory_mb("VmHWM:")) {
        print!(", peak {:.1} MB above {before:.1} MB", peak - before);
    }
    println!();
}

fn main() {
    refit();
    views();
    steps();
}
