//! Measures how long each stage of processing a frame takes.

use std::time::Instant;

use serde::Serialize;

use crate::cli::Failure;
use crate::frame::decode;
use crate::vision::pipeline::Pipeline;

/// Statistics of measured times, in milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct TimingStats {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) p99: f64,
}

/// Measured times of each stage over all frames and rounds, in milliseconds. The times of
/// `crop`, `embed`, and `head` are per face.
#[derive(Default)]
pub(super) struct Times {
    pub(super) decode: Vec<f64>,
    pub(super) detect: Vec<f64>,
    pub(super) crop: Vec<f64>,
    pub(super) embed: Vec<f64>,
    pub(super) head: Vec<f64>,
}

/// A frame that went through all stages.
pub(super) struct MeasuredFrame {
    /// Total time of all stages, in milliseconds.
    pub(super) ms: f64,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) faces: usize,
}

/// Runs one frame through all stages and adds the time of each stage to `times`.
pub(super) fn measure(
    pipeline: &mut Pipeline,
    bytes: &[u8],
    times: &mut Times,
) -> Result<MeasuredFrame, Failure> {
    let whole = Stopwatch::start();
    let stage = Stopwatch::start();
    let pixels = decode(bytes).map_err(|error| Failure::new(Failure::DATA, error))?;
    times.decode.push(stage.ms());

    let stage = Stopwatch::start();
    let detections = pipeline.detect(&pixels)?;
    times.detect.push(stage.ms());
    let detected = detections.faces.len();
    let faces = detections.in_one_picture();
    let face_count = faces.len() as f64;

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
    // This keeps the compiler from optimizing the head's computation away.
    std::hint::black_box(probabilities);

    if !faces.is_empty() {
        times.crop.push(crop_ms / face_count);
        times.embed.push(embed_ms / face_count);
        times.head.push(head_ms / face_count);
    }
    Ok(MeasuredFrame {
        ms,
        width: pixels.width(),
        height: pixels.height(),
        faces: detected,
    })
}

pub(super) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(
        clippy::disallowed_methods,
        reason = "measuring time is what this command is for"
    )]
    pub(super) fn start() -> Stopwatch {
        Stopwatch(Instant::now())
    }

    pub(super) fn ms(&self) -> f64 {
        self.0.elapsed().as_secs_f64() * 1000.0
    }
}

/// Computes statistics of `values`. If there are no values, for example because no
/// picture shows a face, all statistics are zero.
pub(super) fn stats(mut values: Vec<f64>) -> TimingStats {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (share * values.len() as f64).ceil() as usize;
        values
            .get(index.saturating_sub(1))
            .copied()
            .map_or(0.0, rounded)
    };
    TimingStats {
        median: at(0.5),
        min: at(0.0),
        max: at(1.0),
        p99: at(0.99),
    }
}

/// Rounds milliseconds to three decimals, which are whole microseconds.
pub(super) fn rounded(ms: f64) -> f64 {
    (ms * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_take_the_nearest_ranks() {
        let TimingStats {
            median,
            min,
            max,
            p99,
        } = stats((1..=100).rev().map(f64::from).collect());
        assert_eq!((median, min, max, p99), (50.0, 1.0, 100.0, 99.0));
        assert_eq!(stats(Vec::new()).max, 0.0);
    }
}
