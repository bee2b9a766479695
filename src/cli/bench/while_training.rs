//! `maskd bench --while-training`, which measures how much training slows down frame
//! processing.
//!
//! Trainer threads keep every core busy with the same work that the daemon's refit thread
//! does. The benchmark compares the frame times with and without this load. Rounds with
//! the load alternate with rounds without it, so that other load on the machine affects
//! both kinds of rounds in the same way.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Serialize;

use super::timing::{Times, TimingStats, measure, rounded, stats};
use crate::cli::{Failure, complain};
use crate::config::Config;
use crate::frame::{Crop, Scaler, decode};
use crate::learning::SHIPPED_REPLAY;
use crate::learning::refit::{self, RefitError, RefitInput, RefitOptions, Sample};
use crate::learning::replay::Replay;
use crate::onnx::{HeadTensors, ThreadPool};
use crate::platform::system;
use crate::platform::text::counted;
use crate::training::augment::whole;
use crate::training::train::{TrainOptions, Trainer};
use crate::vision::embed::{Backbone, Embedder};
use crate::vision::pipeline::{self, Pipeline};

/// Approximate duration of a round in milliseconds. Rounds are short so that a
/// disturbance affects both kinds of rounds.
const ROUND_MS: f64 = 2000.0;
/// Number of frames at the start of each round that are not counted. During these frames,
/// the caches and the CPU frequency settle.
const WARM_UP: usize = 3;
/// Number of labeled crops in a refit. All classes have the same number of crops. With
/// this many crops, a refit runs all of its stages.
const SAMPLES: usize = 40;

/// The `while_training` object in the output of `maskd bench --json`. Each ratio divides
/// the value measured during training by the value measured at rest.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    /// Number of rounds at rest. The number of rounds during training is the same.
    rounds: u16,
    /// Number of frames measured at rest. The number measured during training is the
    /// same.
    frames: usize,
    /// Number of training threads, one per core.
    trainers: usize,
    /// Total number of training steps that all trainers took.
    trainer_steps: u64,
    /// Total number of crops that all trainers embedded.
    trainer_crops: u64,
    at_rest_ms: TimingStats,
    training_ms: TimingStats,
    p50_ratio: f64,
    p99_ratio: f64,
    /// Frames per second during training, divided by frames per second at rest.
    throughput_ratio: f64,
}

impl Record {
    pub(super) fn table(&self) -> String {
        let (rest, training) = (&self.at_rest_ms, &self.training_ms);
        let rows = [
            ("frame, median", rest.median, training.median),
            ("frame, p99", rest.p99, training.p99),
        ];
        let ratios = [self.p50_ratio, self.p99_ratio];
        let mut text = format!(
            "\n{:<14} {:>9} {:>9} {:>9}\n",
            "ms", "at rest", "training", "ratio"
        );
        for ((name, rest, training), ratio) in rows.into_iter().zip(ratios) {
            text += &format!("{name:<14} {rest:>9.3} {training:>9.3} {ratio:>9.3}\n");
        }
        text + &format!(
            "{:<14} {:>29.3}\n\n{} frames of each kind in {}; {} took {} steps and embedded {} face pictures\n",
            "frames/s",
            self.throughput_ratio,
            self.frames,
            counted(self.rounds, "round"),
            counted(self.trainers, "trainer"),
            self.trainer_steps,
            self.trainer_crops,
        )
    }
}

/// Measures the frame times of the pictures in `rounds` pairs of rounds, each with one
/// round at rest and one round during training. `pass_ms` is the measured duration of one
/// pass over all pictures, in milliseconds.
pub(super) fn compare(
    config: &Config,
    pipeline: &mut Pipeline,
    pictures: &[(String, Vec<u8>)],
    pass_ms: f64,
    rounds: u16,
) -> Result<Record, Failure> {
    // Each round consists of whole passes, so that both kinds of rounds process the
    // same frames.
    let passes = (ROUND_MS / pass_ms.max(1.0)).ceil() as usize;
    let job = TrainingJob::of(pictures)?;
    let (backbone, head) = pipeline::open_model(config.models.classifier.as_deref())?;
    let backbone = Backbone::new(backbone, head.features())?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let mut trainers = Vec::new();
    for number in 0..cores {
        trainers.push(BenchTrainer {
            embedder: Embedder::new(&backbone, 1, ThreadPool::alone())?,
            is_fitting: number % 2 == 0,
        });
    }

    let shared = Shared::default();
    let mut at_rest = Vec::new();
    let mut training = Vec::new();
    for pair in 0..rounds {
        // The two kinds of rounds take turns going first, so that a slow drift of the
        // machine's speed favors neither kind.
        for is_training in [pair % 2 == 1, pair % 2 == 0] {
            let mut round = || frames(pipeline, pictures, passes);
            if is_training {
                training.extend(while_training(&mut trainers, &job, &shared, round)?);
            } else {
                at_rest.extend(round()?);
            }
        }
    }

    let throughput_ratio = rounded(at_rest.iter().sum::<f64>() / training.iter().sum::<f64>());
    let count = training.len();
    let (at_rest_ms, training_ms) = (stats(at_rest), stats(training));
    Ok(Record {
        rounds,
        frames: count,
        trainers: cores,
        trainer_steps: shared.steps.into_inner(),
        trainer_crops: shared.crops.into_inner(),
        p50_ratio: rounded(training_ms.median / at_rest_ms.median),
        p99_ratio: rounded(training_ms.p99 / at_rest_ms.p99),
        throughput_ratio,
        at_rest_ms,
        training_ms,
    })
}

/// Returns the time of each frame in a round, in milliseconds.
fn frames(
    pipeline: &mut Pipeline,
    pictures: &[(String, Vec<u8>)],
    passes: usize,
) -> Result<Vec<f64>, Failure> {
    let mut unused = Times::default();
    let mut all = Vec::new();
    let count = WARM_UP + passes * pictures.len();
    for (_, bytes) in pictures.iter().cycle().take(count) {
        all.push(measure(pipeline, bytes, &mut unused)?.ms);
    }
    Ok(all.split_off(WARM_UP))
}

/// Runs a round while the trainers train. The trainers have stopped when this function
/// returns.
fn while_training<T>(
    trainers: &mut [BenchTrainer],
    job: &TrainingJob,
    shared: &Shared,
    round: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    shared.is_over.store(false, Ordering::Relaxed);
    std::thread::scope(|scope| {
        let end = EndOnDrop(&shared.is_over);
        let threads: Vec<_> = trainers
            .iter_mut()
            .map(|trainer| scope.spawn(move || trainer.run(job, shared)))
            .collect();
        let measured = round();
        drop(end);
        for thread in threads {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        measured
    })
}

/// State that the trainers share.
#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    steps: AtomicU64,
    crops: AtomicU64,
    priority_warning: OnceLock<()>,
}

impl Shared {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

/// Stops the trainers when this value is dropped, even during a panic. Otherwise, the
/// thread scope would wait for the trainers forever.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The data that the trainers embed and fit repeatedly.
struct TrainingJob {
    crop: Crop,
    head: HeadTensors,
    samples: Vec<Sample>,
    replay: Replay,
}

impl TrainingJob {
    /// Builds a job. The crop to embed is the whole first picture. The samples to fit are
    /// features from the built-in replay set.
    fn of(pictures: &[(String, Vec<u8>)]) -> Result<TrainingJob, Failure> {
        let data = |error: &dyn std::fmt::Display| Failure::new(Failure::DATA, error);
        let internal = |error: &dyn std::fmt::Display| Failure::new(Failure::INTERNAL, error);
        let bytes = pictures.first().map_or(&[][..], |(_, bytes)| bytes);
        let pixels = decode(bytes).map_err(|error| data(&error))?;
        let region = whole(&pixels).ok_or_else(|| data(&"the first picture is empty"))?;
        let crop = Scaler::default()
            .crop(&pixels, region)
            .map_err(|error| data(&error))?;

        let replay = Replay::parse(SHIPPED_REPLAY).map_err(|error| internal(&error))?;
        let classes = replay.labels.len();
        let head = Trainer::new(classes, TrainOptions::default())
            .map_err(|error| internal(&error))?
            .tensors();
        let mut samples = Vec::new();
        for label in 0..classes {
            let rows = (0..replay.train.len()).filter(|row| replay.train.labels[*row] == label);
            for row in rows.take(SAMPLES / classes) {
                let features = replay.train.row(row).unwrap_or_default();
                samples.push(Sample {
                    id: row.to_string(),
                    label,
                    track: row.to_string(),
                    day: String::new(),
                    features: features.repeat(1 + refit::VARIANTS),
                    seen: false,
                });
            }
        }
        Ok(TrainingJob {
            crop,
            head,
            samples,
            replay,
        })
    }
}

/// Repeats the work of the daemon's refit thread until the round is over.
struct BenchTrainer {
    embedder: Embedder,
    /// Whether the trainer fits a head next. If not, it embeds crops next. The tasks
    /// alternate even from one round to the next: fitting takes longer than a round, so a
    /// trainer that began every round with fitting would never embed.
    is_fitting: bool,
}

impl BenchTrainer {
    fn run(&mut self, job: &TrainingJob, shared: &Shared) -> Result<(), Failure> {
        if let Err(error) = system::idle() {
            shared.priority_warning.get_or_init(|| {
                complain(&format!(
                    "the trainers run at normal priority, so the times are too high: {error}"
                ));
            });
        }
        while !shared.is_over() {
            if self.is_fitting {
                fit(job, shared)?;
            } else {
                self.embed(job, shared)?;
            }
            self.is_fitting = !self.is_fitting;
        }
        Ok(())
    }

    /// Embeds crops and their variants, as a refit does for newly labeled crops.
    fn embed(&mut self, job: &TrainingJob, shared: &Shared) -> Result<(), Failure> {
        for seed in 0..SAMPLES as u64 {
            let variants = refit::variants(&job.crop, seed);
            for crop in std::iter::once(&job.crop).chain(&variants) {
                if shared.is_over() {
                    return Ok(());
                }
                self.embedder.embed(std::slice::from_ref(crop))?;
                shared.crops.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

fn fit(job: &TrainingJob, shared: &Shared) -> Result<(), Failure> {
    let input = RefitInput {
        labels: &job.replay.labels,
        masked_labels: &[],
        champion: &job.head,
        champion_labels: &job.replay.labels,
        base: &job.head,
        samples: &job.samples,
        base_labels: &job.replay.labels,
        replay: Some(&job.replay),
    };
    // The training loop calls this closure before every step.
    let is_over = || {
        shared.steps.fetch_add(1, Ordering::Relaxed);
        shared.is_over()
    };
    match refit::fit(&input, &RefitOptions::default(), &is_over) {
        Ok(_) | Err(RefitError::Cancelled) => Ok(()),
        Err(error) => Err(Failure::new(Failure::INTERNAL, error)),
    }
}
