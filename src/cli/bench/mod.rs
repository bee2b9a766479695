//! `maskd bench`, which measures how long each stage of processing a frame takes.

mod line;
mod timing;
mod while_training;

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::pictures::expand;
use super::{Failure, complain, print, print_json};
use crate::config::Config;
use crate::frame::decode;
use crate::platform::files;
use crate::platform::text::counted;
use crate::vision::pipeline::Pipeline;
use timing::{Stopwatch, Times, TimingStats, measure, rounded, stats};

#[derive(Debug, Args)]
pub(super) struct Bench {
    /// Pictures or folders of pictures [default: the built-in examples]
    #[arg(value_name = "PICTURE")]
    pictures: Vec<PathBuf>,

    /// Number of times to measure each picture, after a first round that does not
    /// count
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// Number of threads that share the faces of a frame; 0 means one per core
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=64))]
    threads: u16,

    /// Also measure frames while every core trains, in alternating rounds of about
    /// two seconds
    #[arg(long)]
    while_training: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// Print one line about the board and its speed, for an issue [default picture: a frame
    /// of 640x480 pixels]
    #[arg(long, conflicts_with_all = ["json", "while_training"])]
    line: bool,
}

/// The object that `maskd bench --json` prints. Memory sizes are in MB (1 MB is 1,000,000
/// bytes).
#[derive(Debug, Serialize)]
struct Record {
    version: &'static str,
    threads: usize,
    rounds: u16,
    /// Time to load the models, in milliseconds.
    load_ms: f64,
    /// Resident memory at the end of the measurement, in MB; `null` if the system does
    /// not report it.
    memory_mb: Option<f64>,
    /// Maximum resident memory, in MB; `null` if the system does not report it.
    peak_memory_mb: Option<f64>,
    frames: Vec<FrameRecord>,
    /// Statistics of the total time for a frame, over all frames and rounds.
    frame_ms: TimingStats,
    /// 1000 divided by the mean time for a frame in milliseconds.
    frames_per_second: f64,
    stages: Stages,
    /// The results of `--while-training`. Absent without this option.
    #[serde(skip_serializing_if = "Option::is_none")]
    while_training: Option<while_training::Record>,
}

#[derive(Debug, Serialize)]
struct FrameRecord {
    picture: String,
    width: u32,
    height: u32,
    faces: usize,
    /// Median over the rounds of the total time for the frame, in milliseconds.
    ms: f64,
}

/// Statistics of the time that each stage takes.
#[derive(Debug, Serialize)]
#[expect(
    clippy::struct_field_names,
    reason = "the unit is part of the documented format"
)]
struct Stages {
    decode_ms: TimingStats,
    detect_ms: TimingStats,
    /// Time to crop and resize one face.
    crop_ms: TimingStats,
    /// Time of the backbone for one face.
    embed_ms: TimingStats,
    /// Time of the head for one face.
    head_ms: TimingStats,
}

impl Bench {
    pub(super) fn run(self, config: &Config) -> Result<(), Failure> {
        let pictures = if self.line && self.pictures.is_empty() {
            vec![(String::new(), line::camera_frame()?)]
        } else {
            readable(&self.pictures)?
        };
        let threads = match usize::from(self.threads) {
            0 => config.classify.threads(0),
            threads => threads,
        };
        if self.line {
            return print(line::line(config, &pictures, self.rounds, threads)?);
        }
        let start = Stopwatch::start();
        let mut pipeline = Pipeline::open(&config.pipeline_options(), threads)?;
        let load_ms = start.ms();

        let mut times = Times::default();
        let mut frames = Vec::new();
        let mut all = Vec::new();
        for (name, bytes) in &pictures {
            let warm_up = measure(&mut pipeline, bytes, &mut Times::default())?;
            let mut rounds = Vec::new();
            for _ in 0..self.rounds {
                rounds.push(measure(&mut pipeline, bytes, &mut times)?.ms);
            }
            all.extend_from_slice(&rounds);
            frames.push(FrameRecord {
                picture: name.clone(),
                width: warm_up.width,
                height: warm_up.height,
                faces: warm_up.faces,
                ms: stats(rounds).median,
            });
        }
        let mut record = Record {
            version: env!("CARGO_PKG_VERSION"),
            threads,
            rounds: self.rounds,
            load_ms: rounded(load_ms),
            memory_mb: memory_mb("VmRSS"),
            peak_memory_mb: memory_mb("VmHWM"),
            frames,
            frames_per_second: rounded(1000.0 * all.len() as f64 / all.iter().sum::<f64>()),
            frame_ms: stats(all),
            stages: Stages::of(times),
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
        if self.json {
            print_json(&record)
        } else {
            print(table(&record))
        }
    }
}

/// Returns the names and bytes of the pictures that can be decoded, and reports the
/// others.
fn readable(paths: &[PathBuf]) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let mut pictures = Vec::new();
    for picture in expand(paths)? {
        match picture.bytes().and_then(|bytes| match decode(&bytes) {
            Ok(_) => Ok(bytes),
            Err(error) => Err(error.to_string()),
        }) {
            Ok(bytes) => pictures.push((picture.name(), bytes)),
            Err(problem) => complain(&format!("skipped {}: {problem}", picture.name())),
        }
    }
    if pictures.is_empty() {
        let sentence = "none of the pictures can be read";
        return Err(Failure::new(Failure::DATA, sentence));
    }
    Ok(pictures)
}

impl Stages {
    fn of(times: Times) -> Stages {
        Stages {
            decode_ms: stats(times.decode),
            detect_ms: stats(times.detect),
            crop_ms: stats(times.crop),
            embed_ms: stats(times.embed),
            head_ms: stats(times.head),
        }
    }
}

/// Reads a memory size from `/proc/self/status` and converts it to MB. In that file, 1 kB
/// means 1024 bytes (proc(5)).
fn memory_mb(field: &str) -> Option<f64> {
    let status = files::read_text(Path::new("/proc/self/status"), files::MAX_PROC_BYTES).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(rounded(kib * 1024.0 / 1e6))
}

fn table(record: &Record) -> String {
    let stages = &record.stages;
    let rows = [
        ("decode", &stages.decode_ms),
        ("detect", &stages.detect_ms),
        ("crop, per face", &stages.crop_ms),
        ("embed, per face", &stages.embed_ms),
        ("head, per face", &stages.head_ms),
        ("frame", &record.frame_ms),
    ];
    let mut text = format!(
        "{:<16} {:>9} {:>9} {:>9} {:>9}\n",
        "ms", "median", "min", "max", "p99"
    );
    for (
        name,
        TimingStats {
            median,
            min,
            max,
            p99,
        },
    ) in rows
    {
        text += &format!("{name:<16} {median:>9.3} {min:>9.3} {max:>9.3} {p99:>9.3}\n");
    }
    let faces: usize = record.frames.iter().map(|frame| frame.faces).sum();
    text += &format!(
        "\n{} with {}, {}, {}: {:.1} frames/s, models loaded in {:.0} ms",
        counted(record.frames.len(), "picture"),
        counted(faces, "face"),
        counted(record.rounds, "round"),
        counted(record.threads, "thread"),
        record.frames_per_second,
        record.load_ms,
    );
    if let (Some(now), Some(peak)) = (record.memory_mb, record.peak_memory_mb) {
        text += &format!(", memory {now:.0} MB (peak {peak:.0} MB)");
    }
    text += "\n";
    if let Some(record) = &record.while_training {
        text += &record.table();
    }
    text
}
