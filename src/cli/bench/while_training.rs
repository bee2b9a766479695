//! `maskd bench --while-training`: what learning costs the camera path.
//!
//! Owns trainers that keep every core busy with what the daemon's trainer does,
//! and the comparison of frames at rest with frames beside them. Rounds of both
//! kinds take turns in one run, so that whatever else the machine does meets
//! both alike.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Serialize;

use super::{Spread, Times, measure, spread, tidy};
use crate::cli::{Failure, complain};
use crate::config::Config;
use crate::frame::{Crop, Scaler, decode};
use crate::learning::SHIPPED_REPLAY;
use crate::learning::refit::{self, RefitError, RefitInput, RefitOptions, Sample};
use crate::learning::replay::Replay;
use crate::onnx::{HeadTensors, ThreadPool};
use crate::platform::system;
use crate::training::augment::whole;
use crate::training::train::{TrainOptions, Trainer};
use crate::vision::embed::{Backbone, Embedder};
use crate::vision::pipeline::{self, Pipeline};

/// How long a round lasts, about, in milliseconds: short, so that a disturbance
/// meets both kinds of round.
const ROUND_MS: f64 = 2000.0;
/// First frames of a round, which do not count: caches and clocks settle.
const SETTLING: usize = 3;
/// Labelled crops of a refit: enough for every one of its stages, half of each
/// class.
const SAMPLES: usize = 40;

/// `while_training` of `maskd bench --json`. Ratios are training over at rest.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    /// Rounds of each kind.
    rounds: u16,
    /// Frames of each kind.
    frames: usize,
    /// Threads that learned, one a core.
    trainers: usize,
    /// Steps of Adam that they took meanwhile, all together.
    trainer_steps: u64,
    /// Crops that they embedded meanwhile, all together.
    trainer_crops: u64,
    at_rest_ms: Spread,
    training_ms: Spread,
    p50_ratio: f64,
    p99_ratio: f64,
    /// Of frames a second.
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
            "{:<14} {:>29.3}\n\n{} frames each in {} rounds; {} trainers took {} steps and embedded {} crops\n",
            "frames/s",
            self.throughput_ratio,
            self.frames,
            self.rounds,
            self.trainers,
            self.trainer_steps,
            self.trainer_crops,
        )
    }
}

/// Measures the pictures in so many pairs of rounds. They were measured before,
/// and all of them once take about `pass_ms`.
pub(super) fn compare(
    config: &Config,
    pipeline: &mut Pipeline,
    pictures: &[(String, Vec<u8>)],
    pass_ms: f64,
    rounds: u16,
) -> Result<Record, Failure> {
    // Whole passes: both kinds of round have the same frames.
    let passes = (ROUND_MS / pass_ms.max(1.0)).ceil() as usize;
    let lesson = Lesson::of(pictures)?;
    let (backbone, _) = pipeline::open_model(config)?;
    let backbone = Backbone::new(backbone)?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let mut learners = Vec::new();
    for number in 0..cores {
        learners.push(Learner {
            embedder: Embedder::new(&backbone, 1, ThreadPool::alone())?,
            is_fitting: number % 2 == 0,
        });
    }

    let progress = Progress::default();
    let mut at_rest = Vec::new();
    let mut training = Vec::new();
    for pair in 0..rounds {
        // By turns the first: whatever drifts is no advantage.
        for is_training in [pair % 2 == 1, pair % 2 == 0] {
            let mut round = || frames(pipeline, pictures, passes);
            if is_training {
                training.extend(beside(&mut learners, &lesson, &progress, round)?);
            } else {
                at_rest.extend(round()?);
            }
        }
    }

    let throughput_ratio = tidy(at_rest.iter().sum::<f64>() / training.iter().sum::<f64>());
    let count = training.len();
    let (at_rest_ms, training_ms) = (spread(at_rest), spread(training));
    Ok(Record {
        rounds,
        frames: count,
        trainers: cores,
        trainer_steps: progress.steps.into_inner(),
        trainer_crops: progress.crops.into_inner(),
        p50_ratio: tidy(training_ms.median / at_rest_ms.median),
        p99_ratio: tidy(training_ms.p99 / at_rest_ms.p99),
        throughput_ratio,
        at_rest_ms,
        training_ms,
    })
}

/// Time of each frame of a round, in milliseconds.
fn frames(
    pipeline: &mut Pipeline,
    pictures: &[(String, Vec<u8>)],
    passes: usize,
) -> Result<Vec<f64>, Failure> {
    let mut unused = Times::default();
    let mut all = Vec::new();
    let count = SETTLING + passes * pictures.len();
    for (_, bytes) in pictures.iter().cycle().take(count) {
        let (ms, _) = measure(pipeline, bytes, &mut unused)?;
        all.push(ms);
    }
    Ok(all.split_off(SETTLING))
}

/// A round while the learners learn; they have ended when this returns.
fn beside<T>(
    learners: &mut [Learner],
    lesson: &Lesson,
    progress: &Progress,
    round: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    progress.is_over.store(false, Ordering::Relaxed);
    std::thread::scope(|scope| {
        let end = End(&progress.is_over);
        let threads: Vec<_> = learners
            .iter_mut()
            .map(|learner| scope.spawn(move || learner.run(lesson, progress)))
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

/// What the learners share.
#[derive(Default)]
struct Progress {
    is_over: AtomicBool,
    steps: AtomicU64,
    crops: AtomicU64,
    told: OnceLock<()>,
}

impl Progress {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

/// Ends the learners' round, also in a panic: the scope waits for them.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What is learned over and over.
struct Lesson {
    crop: Crop,
    head: HeadTensors,
    samples: Vec<Sample>,
    replay: Replay,
}

impl Lesson {
    /// A crop of the first picture, and replayed features as if they were new.
    fn of(pictures: &[(String, Vec<u8>)]) -> Result<Lesson, Failure> {
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
        Ok(Lesson {
            crop,
            head,
            samples,
            replay,
        })
    }
}

/// A thread that does what the daemon's trainer does, without end.
struct Learner {
    embedder: Embedder,
    /// Whether it fits or embeds next: a refit takes longer than a round, and
    /// all begin anew each time.
    is_fitting: bool,
}

impl Learner {
    fn run(&mut self, lesson: &Lesson, progress: &Progress) -> Result<(), Failure> {
        if let Err(error) = system::idle() {
            progress.told.get_or_init(|| {
                complain(&format!("the trainers run at normal priority: {error}"));
            });
        }
        while !progress.is_over() {
            if self.is_fitting {
                fit(lesson, progress)?;
            } else {
                self.embed(lesson, progress)?;
            }
            self.is_fitting = !self.is_fitting;
        }
        Ok(())
    }

    /// Crops that got their labels: each and its variants.
    fn embed(&mut self, lesson: &Lesson, progress: &Progress) -> Result<(), Failure> {
        for seed in 0..SAMPLES as u64 {
            let variants = refit::variants(&lesson.crop, seed);
            for crop in std::iter::once(&lesson.crop).chain(&variants) {
                if progress.is_over() {
                    return Ok(());
                }
                self.embedder.embed(std::slice::from_ref(crop))?;
                progress.crops.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

fn fit(lesson: &Lesson, progress: &Progress) -> Result<(), Failure> {
    let input = RefitInput {
        labels: &lesson.replay.labels,
        champion: &lesson.head,
        base: &lesson.head,
        samples: &lesson.samples,
        base_labels: &lesson.replay.labels,
        replay: Some(&lesson.replay),
    };
    // Asked before every step.
    let is_over = || {
        progress.steps.fetch_add(1, Ordering::Relaxed);
        progress.is_over()
    };
    match refit::fit(&input, &RefitOptions::default(), &is_over) {
        Ok(_) | Err(RefitError::Cancelled) => Ok(()),
        Err(error) => Err(Failure::new(Failure::INTERNAL, error)),
    }
}
