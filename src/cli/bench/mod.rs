//! `maskd bench`: where the time of a frame goes.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use super::pictures::expand;
use super::{Failure, complain, print};

mod while_training;
use crate::config::Config;
use crate::frame::decode;
use crate::vision::pipeline::Pipeline;

#[derive(Debug, Args)]
pub(super) struct Bench {
    /// Pictures, or folders of pictures; without any, the built-in examples
    #[arg(value_name = "PICTURE")]
    pictures: Vec<PathBuf>,

    /// How often each picture is measured, after one round that is not
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// Threads that share the faces of a frame; 0 is one a core
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=64))]
    threads: u16,

    /// Measure the frames also while every core learns, in as many rounds of
    /// about two seconds by turns
    #[arg(long)]
    while_training: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What `maskd bench --json` prints; times in milliseconds, memory in MB of
/// 1,000,000 bytes.
#[derive(Debug, Serialize)]
struct Record {
    version: &'static str,
    threads: usize,
    rounds: u16,
    /// From nothing to models that are ready to run.
    load_ms: f64,
    /// Resident memory at the end; absent where the system does not tell.
    memory_mb: Option<f64>,
    /// Largest resident memory.
    peak_memory_mb: Option<f64>,
    frames: Vec<FrameRecord>,
    /// All stages of a frame.
    frame_ms: Spread,
    /// 1000 over the mean of all frames.
    frames_per_second: f64,
    stages: Stages,
    /// Only with `--while-training`.
    #[serde(skip_serializing_if = "Option::is_none")]
    while_training: Option<while_training::Record>,
}

#[derive(Debug, Serialize)]
struct FrameRecord {
    picture: String,
    width: u32,
    height: u32,
    faces: usize,
    /// Median over the rounds.
    ms: f64,
}

/// Every name says its unit, as in all records.
#[derive(Debug, Serialize)]
#[expect(
    clippy::struct_field_names,
    reason = "the unit is part of the contract"
)]
struct Stages {
    decode_ms: Spread,
    detect_ms: Spread,
    /// Crop and resize, a face.
    crop_ms: Spread,
    /// Backbone, a face.
    embed_ms: Spread,
    /// Head, a face.
    head_ms: Spread,
}

#[derive(Debug, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    min: f64,
    max: f64,
    pub(super) p99: f64,
}

/// Times of the stages over all frames and rounds, in milliseconds.
#[derive(Default)]
pub(super) struct Times {
    decode: Vec<f64>,
    detect: Vec<f64>,
    crop: Vec<f64>,
    embed: Vec<f64>,
    head: Vec<f64>,
}

impl Bench {
    pub(super) fn run(self, config: &Config) -> Result<(), Failure> {
        let mut pictures = Vec::new();
        for picture in expand(&self.pictures)? {
            match picture.bytes().and_then(|bytes| match decode(&bytes) {
                Ok(_) => Ok(bytes),
                Err(error) => Err(error.to_string()),
            }) {
                Ok(bytes) => pictures.push((picture.name(), bytes)),
                Err(problem) => complain(&format!("skipped {}: {problem}", picture.name())),
            }
        }
        if pictures.is_empty() {
            return Err(Failure::new(
                Failure::DATA,
                "none of the pictures can be read",
            ));
        }
        let threads = match usize::from(self.threads) {
            0 => config.classify.threads(0),
            threads => threads,
        };
        let start = Stopwatch::start();
        let mut pipeline = Pipeline::open(config, threads)?;
        let load_ms = start.ms();

        let mut times = Times::default();
        let mut frames = Vec::new();
        let mut all = Vec::new();
        for (name, bytes) in &pictures {
            let mut unused = Times::default();
            measure(&mut pipeline, bytes, &mut unused)?;
            let mut rounds = Vec::new();
            let mut shape = (0, 0, 0);
            for _ in 0..self.rounds {
                let (ms, found) = measure(&mut pipeline, bytes, &mut times)?;
                rounds.push(ms);
                shape = found;
            }
            let (width, height, faces) = shape;
            all.extend_from_slice(&rounds);
            let ms = spread(rounds).median;
            frames.push(FrameRecord {
                picture: name.clone(),
                width,
                height,
                faces,
                ms,
            });
        }
        let mut record = Record {
            version: env!("CARGO_PKG_VERSION"),
            threads,
            rounds: self.rounds,
            load_ms: tidy(load_ms),
            memory_mb: memory_mb("VmRSS"),
            peak_memory_mb: memory_mb("VmHWM"),
            frames,
            frames_per_second: tidy(1000.0 * all.len() as f64 / all.iter().sum::<f64>()),
            frame_ms: spread(all),
            stages: Stages {
                decode_ms: spread(times.decode),
                detect_ms: spread(times.detect),
                crop_ms: spread(times.crop),
                embed_ms: spread(times.embed),
                head_ms: spread(times.head),
            },
            while_training: None,
        };
        if self.while_training {
            let pass_ms = record.frames.iter().map(|frame| frame.ms).sum();
            record.while_training = Some(while_training::compare(
                config,
                &mut pipeline,
                &pictures,
                pass_ms,
                self.rounds,
            )?);
        }
        let text = if self.json {
            let line = serde_json::to_string(&record);
            line.map_err(|error| Failure::new(Failure::INTERNAL, error))? + "\n"
        } else {
            table(&record)
        };
        print(text.as_bytes())
    }
}

/// One frame through all stages: its time, and its width, height and faces.
pub(super) fn measure(
    pipeline: &mut Pipeline,
    bytes: &[u8],
    times: &mut Times,
) -> Result<(f64, (u32, u32, usize)), Failure> {
    let whole = Stopwatch::start();
    let stage = Stopwatch::start();
    let pixels = decode(bytes).map_err(|error| Failure::new(Failure::DATA, error))?;
    times.decode.push(stage.ms());

    let stage = Stopwatch::start();
    let faces = pipeline.detect(&pixels)?;
    times.detect.push(stage.ms());
    let per_face = faces.len() as f64;

    let stage = Stopwatch::start();
    let crops = pipeline.cut(&pixels, &faces)?;
    let crop_ms = stage.ms();

    let stage = Stopwatch::start();
    let features = pipeline.embed(&crops)?;
    let embed_ms = stage.ms();

    let stage = Stopwatch::start();
    let head = pipeline.head();
    let probabilities: Vec<_> = features
        .iter()
        .map(|feature| head.probabilities(feature))
        .collect();
    let head_ms = stage.ms();
    let ms = whole.ms();
    // Keeps the head's work from being optimized away.
    std::hint::black_box(probabilities);

    if !faces.is_empty() {
        times.crop.push(crop_ms / per_face);
        times.embed.push(embed_ms / per_face);
        times.head.push(head_ms / per_face);
    }
    Ok((ms, (pixels.width(), pixels.height(), faces.len())))
}

struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(
        clippy::disallowed_methods,
        reason = "measuring time is what this command is for"
    )]
    fn start() -> Stopwatch {
        Stopwatch(Instant::now())
    }

    fn ms(&self) -> f64 {
        self.0.elapsed().as_secs_f64() * 1000.0
    }
}

/// Of no values at all: zeros, as when no picture shows a face.
pub(super) fn spread(mut values: Vec<f64>) -> Spread {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (share * values.len() as f64).ceil() as usize;
        values
            .get(index.saturating_sub(1))
            .copied()
            .map_or(0.0, tidy)
    };
    Spread {
        median: at(0.5),
        min: at(0.0),
        max: at(1.0),
        p99: at(0.99),
    }
}

/// To three places: of milliseconds, to the microsecond.
pub(super) fn tidy(ms: f64) -> f64 {
    (ms * 1000.0).round() / 1000.0
}

/// A field of `/proc/self/status`, whose kB are 1024 bytes (proc(5)).
fn memory_mb(field: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(tidy(kib * 1024.0 / 1e6))
}

fn table(record: &Record) -> String {
    let stages = &record.stages;
    let rows = [
        ("decode", &stages.decode_ms),
        ("detect", &stages.detect_ms),
        ("crop, a face", &stages.crop_ms),
        ("embed, a face", &stages.embed_ms),
        ("head, a face", &stages.head_ms),
        ("frame", &record.frame_ms),
    ];
    let mut text = format!(
        "{:<14} {:>9} {:>9} {:>9} {:>9}\n",
        "ms", "median", "min", "max", "p99"
    );
    for (
        name,
        Spread {
            median,
            min,
            max,
            p99,
        },
    ) in rows
    {
        text += &format!("{name:<14} {median:>9.3} {min:>9.3} {max:>9.3} {p99:>9.3}\n");
    }
    let faces: usize = record.frames.iter().map(|frame| frame.faces).sum();
    text += &format!(
        "\n{} pictures with {faces} faces, {} rounds, {} threads: {:.1} frames/s, models loaded in {:.0} ms",
        record.frames.len(),
        record.rounds,
        record.threads,
        record.frames_per_second,
        record.load_ms,
    );
    if let (Some(now), Some(peak)) = (record.memory_mb, record.peak_memory_mb) {
        text += &format!(", memory {now:.0} MB (at most {peak:.0})");
    }
    text += "\n";
    if let Some(record) = &record.while_training {
        text += &record.table();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_takes_the_nearest_ranks() {
        let Spread {
            median,
            min,
            max,
            p99,
        } = spread((1..=100).rev().map(f64::from).collect());
        assert_eq!((median, min, max, p99), (50.0, 1.0, 100.0, 99.0));
        assert_eq!(spread(Vec::new()).max, 0.0);
    }
}
