//! `maskd bench --line`, which prints one line about the board and its speed. An owner of a
//! board can paste this line into an issue.

use std::io::Cursor;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::imageops::{self, FilterType};

use super::timing::{Stopwatch, Times, measure, stats};
use super::{Stages, memory_mb};
use crate::camera::pictures::EXAMPLES;
use crate::cli::Failure;
use crate::config::Config;
use crate::frame::decode;
use crate::platform::board::{self, Board, BoardStatus};
use crate::platform::files;
use crate::platform::text::{counted, printable};
use crate::vision::pipeline::Pipeline;

/// Size and quality of the frame that is measured if no picture is given. `benches/arm` counts
/// the instructions for the same frame, so both describe the same work.
const FRAME_SIZE: (u32, u32) = (640, 480);
const JPEG_QUALITY: u8 = 85;

/// Returns the first built-in example, as a camera with 640 x 480 pixels would send it.
pub(super) fn camera_frame() -> Result<Vec<u8>, Failure> {
    let unusable = |error: String| Failure::new(Failure::DATA, error);
    let example = decode(EXAMPLES[0].bytes).map_err(|error| unusable(error.to_string()))?;
    let frame = imageops::resize(&example, FRAME_SIZE.0, FRAME_SIZE.1, FilterType::Triangle);
    let mut bytes = Cursor::new(Vec::new());
    JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
        .encode_image(&frame)
        .map_err(|error| unusable(error.to_string()))?;
    Ok(bytes.into_inner())
}

/// The measurements with one number of threads.
struct Measured {
    threads: usize,
    load_ms: f64,
    stages: Stages,
    frame_ms: f64,
}

/// Measures all pictures with one thread, and then with `threads` threads, and describes the
/// results and the board in one line.
pub(super) fn line(
    config: &Config,
    pictures: &[(String, Vec<u8>)],
    rounds: u16,
    threads: usize,
) -> Result<String, Failure> {
    let board = Board::find();
    let before = board.status();
    let alone = measured(config, pictures, rounds, 1)?;
    // The memory is read before the second measurement, which loads the models again.
    let memory = (memory_mb("VmRSS"), memory_mb("VmHWM"));
    let together = if threads > 1 {
        Some(measured(config, pictures, rounds, threads)?)
    } else {
        None
    };
    let mut text = machine();
    text += &format!("; {}; {}", size(pictures)?, times(&alone));
    if let Some(together) = together {
        let Measured {
            threads, frame_ms, ..
        } = together;
        text += &format!("; {threads} threads: frame {frame_ms:.1} ms");
    }
    text += &format!("; load {:.0} ms", alone.load_ms);
    if let (Some(now), Some(peak)) = memory {
        text += &format!("; memory {now:.0} MB, peak {peak:.0} MB");
    }
    text += &health(before, board.status());
    text.push('\n');
    Ok(text)
}

fn measured(
    config: &Config,
    pictures: &[(String, Vec<u8>)],
    rounds: u16,
    threads: usize,
) -> Result<Measured, Failure> {
    let start = Stopwatch::start();
    let mut pipeline = Pipeline::open(&config.pipeline_options(), threads)?;
    let load_ms = start.ms();
    let mut times = Times::default();
    let mut frames = Vec::new();
    for (_, bytes) in pictures {
        measure(&mut pipeline, bytes, &mut Times::default())?;
        for _ in 0..rounds {
            frames.push(measure(&mut pipeline, bytes, &mut times)?.ms);
        }
    }
    Ok(Measured {
        threads,
        load_ms,
        stages: Stages::of(times),
        frame_ms: stats(frames).median,
    })
}

/// The version of maskd, the board, its processor, and its kernel.
fn machine() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let commit = option_env!("MASKD_COMMIT").unwrap_or("unknown");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut text = format!(
        "maskd {version} (commit {commit}), {}, {}, {}",
        printable(&board::name()),
        std::env::consts::ARCH,
        counted(cores, "core"),
    );
    if let Some(mhz) = board::max_mhz() {
        text += &format!(" at up to {mhz} MHz");
    }
    let release = Path::new("/proc/sys/kernel/osrelease");
    if let Ok(release) = files::read_text(release, files::MAX_PROC_BYTES) {
        text += &format!(", Linux {}", printable(release.trim()));
    }
    text
}

/// The number of pictures, and the size of the first one.
fn size(pictures: &[(String, Vec<u8>)]) -> Result<String, Failure> {
    let Some((_, bytes)) = pictures.first() else {
        return Ok(counted(0, "picture"));
    };
    let pixels = decode(bytes).map_err(|error| Failure::new(Failure::DATA, error))?;
    let (width, height) = pixels.dimensions();
    let count = counted(pictures.len(), "picture");
    Ok(format!("{count} of {width}x{height}"))
}

/// The medians that correspond to the columns in `docs/COST.md`.
fn times(measured: &Measured) -> String {
    let stages = &measured.stages;
    let face = stages.crop_ms.median + stages.embed_ms.median + stages.head_ms.median;
    format!(
        "{}: decode {:.1} ms, detect {:.1} ms, a face {face:.1} ms, frame {:.1} ms",
        counted(measured.threads, "thread"),
        stages.decode_ms.median,
        stages.detect_ms.median,
        measured.frame_ms,
    )
}

/// The temperature before and after the measurement, and whether the board was slowed down.
fn health(before: BoardStatus, after: BoardStatus) -> String {
    let mut text = String::new();
    if let (Some(before), Some(after)) = (before.temperature_c, after.temperature_c) {
        text += &format!("; {before:.0} to {after:.0} °C");
    }
    let Some(flags) = after.throttling else {
        return text + "; throttling unknown";
    };
    let problems = [
        (flags.throttled || flags.frequency_capped, "throttled"),
        (
            flags.throttled_since_boot,
            "throttled at some time since boot",
        ),
        (flags.under_voltage, "voltage too low"),
        (
            flags.under_voltage_since_boot,
            "voltage too low at some time since boot",
        ),
    ];
    let found: Vec<&str> = problems
        .into_iter()
        .filter_map(|(is_true, problem)| is_true.then_some(problem))
        .collect();
    match found.as_slice() {
        [] => text + "; not throttled",
        some => text + "; " + &some.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::board::Throttling;

    #[test]
    fn the_frame_is_the_one_whose_instructions_are_counted() {
        let frame = decode(&camera_frame().unwrap()).unwrap();
        assert_eq!(frame.dimensions(), FRAME_SIZE);
    }

    #[test]
    fn health_names_what_slowed_the_board_down() {
        let cool = BoardStatus {
            temperature_c: Some(48.2),
            throttling: Some(Throttling::default()),
        };
        assert_eq!(health(cool, cool), "; 48 to 48 °C; not throttled");
        let hot = BoardStatus {
            temperature_c: Some(84.9),
            throttling: Some(Throttling {
                throttled: true,
                throttled_since_boot: true,
                under_voltage_since_boot: true,
                ..Throttling::default()
            }),
        };
        assert_eq!(
            health(cool, hot),
            "; 48 to 85 °C; throttled, throttled at some time since boot, voltage too low at \
             some time since boot"
        );
        let silent = BoardStatus::default();
        assert_eq!(health(silent, silent), "; throttling unknown");
    }
}
