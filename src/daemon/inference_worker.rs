//! The inference thread, which takes the newest frame and gives a verdict on each of
//! its faces.
//!
//! It processes frames, and switches to new heads and settings between frames. It knows
//! nothing about outputs, and all it knows about the decision is what it needs to confirm
//! a mask. It skips and counts the frames that it has no time to process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::capture_worker::CropSampler;
use super::counts_worker::PassageSink;
use super::frame_processor::{FrameProcessor, Monitor, ProcessedFrame};
use super::threads::timer_runtime;
use super::times::Allowed;
use super::{DaemonError, Latest, now};
use crate::api::metrics::Metrics;
use crate::api::socket::Live;
use crate::api::web::AnnotatedFrame;
use crate::config::Mode;
use crate::config::settings::Tuning;
use crate::decision::confirm::Standing;
use crate::decision::frame_result::FrameResult;
use crate::frame::Frame;
use crate::vision::pipeline::{Pipeline, PipelineError, Stage};

/// The state of the inference thread.
pub(super) struct InferenceWorker {
    pub(super) processor: FrameProcessor<Pipeline>,
    /// The information about the decision that the indicator thread publishes.
    pub(super) standing: watch::Receiver<Standing>,
    /// The sampler of crops, or `None` if there is no state directory.
    pub(super) sampler: Option<CropSampler>,
    /// Counts the people who pass, or `None` if nothing is counted.
    pub(super) passages: Option<PassageSink>,
    /// In statistics mode, other threads get frames without faces, and statistics only once
    /// per hour.
    pub(super) mode: Mode,
    /// When the statistics of this thread were last published in statistics mode.
    pub(super) published_at: Option<Instant>,
    pub(super) live: Arc<watch::Sender<Live>>,
    pub(super) tuning: watch::Receiver<Tuning>,
    /// What the time of day allows.
    pub(super) allowed: watch::Receiver<Allowed>,
    /// Sends frames to the live view of the page.
    pub(super) annotated_frames: watch::Sender<Option<AnnotatedFrame>>,
    pub(super) fps_meter: FpsMeter,
    pub(super) monitor: LiveMonitor,
    /// The last time that some faces in a frame could not be classified within the time
    /// limit, or `None` if that was long ago.
    pub(super) overloaded_at: Option<Instant>,
}

/// How often statistics are published in statistics mode. A frame with faces takes longer, so
/// at a shorter interval the numbers would show when somebody passes.
const RARELY: Duration = Duration::from_hours(1);

/// An overload is over when it has not recurred for this long. Each overload is logged
/// only once.
const OVERLOAD_MEMORY: Duration = Duration::from_secs(10);

impl InferenceWorker {
    /// Works until the camera thread closes `frames`.
    pub(super) fn run(
        mut self,
        mut frames: watch::Receiver<Latest<Frame>>,
        results: &watch::Sender<Latest<FrameResult>>,
    ) -> Result<(), DaemonError> {
        let runtime = timer_runtime()?;
        let mut next_seq = 0;
        let (mut processed, mut skipped) = (0_u64, 0_u64);
        while runtime.block_on(frames.changed()).is_ok() {
            let latest = frames.borrow_and_update().clone();
            match latest {
                Latest::Waiting => {}
                Latest::Lost(loss) => {
                    self.live.send_modify(|live| live.camera.lost = true);
                    results.send_replace(Latest::Lost(loss));
                }
                Latest::Newest(frame) => {
                    processed += 1;
                    skipped += frame.seq.saturating_sub(next_seq);
                    next_seq = frame.seq + 1;
                    self.monitor.progress();
                    self.take_new_head();
                    self.take_tuning();
                    let result = self.process(&frame)?;
                    if let Some(passages) = &mut self.passages {
                        passages.observe(&result);
                    }
                    if self.mode == Mode::Count {
                        self.publish_rarely(processed, skipped);
                        results.send_replace(Latest::Newest(Arc::new(result.without_faces())));
                        continue;
                    }
                    let result = Arc::new(result);
                    self.publish(&result, processed, skipped);
                    results.send_replace(Latest::Newest(Arc::clone(&result)));
                    self.annotated_frames
                        .send_replace(Some(AnnotatedFrame { frame, result }));
                }
            }
        }
        if let Some(passages) = &mut self.passages {
            passages.finish();
        }
        info!(frames = processed, skipped, "no more frames");
        Ok(())
    }

    /// Updates the live status in statistics mode, at most once per hour and without anything
    /// about faces.
    fn publish_rarely(&mut self, processed: u64, skipped: u64) {
        let at = now();
        let is_due = |last: Instant| at.saturating_duration_since(last) >= RARELY;
        let is_due = self.published_at.is_none_or(is_due);
        self.live.send_if_modified(|live| {
            let was_lost = std::mem::replace(&mut live.camera.lost, false);
            if is_due {
                (live.inference.frames, live.inference.skipped) = (processed, skipped);
            }
            is_due || was_lost
        });
        if is_due {
            self.published_at = Some(at);
        }
    }

    /// Updates the live status after a frame.
    fn publish(&mut self, result: &FrameResult, processed: u64, skipped: u64) {
        let frames_per_second = self.fps_meter.record(now());
        debug!(
            seq = result.seq,
            faces = result.faces.len(),
            latency_ms = result.latency.as_millis() as u64,
            "frame"
        );
        self.live.send_modify(|live| {
            live.camera.lost = false;
            let inference = &mut live.inference;
            (inference.frames, inference.skipped) = (processed, skipped);
            inference.faces = result.faces.len();
            inference.frames_per_second = frames_per_second;
            inference.latency_ms = result.latency.as_secs_f32() * 1000.0;
        });
    }

    /// Switches to a new head if there is one. The next frame then starts without
    /// tracks and votes.
    fn take_new_head(&mut self) {
        let Some(in_use) = self.sampler.as_mut().and_then(CropSampler::new_head) else {
            return;
        };
        let processor = &mut self.processor;
        match processor.policy.with_labels(in_use.head.labels()) {
            Ok(policy) => processor.policy = policy,
            Err(error) => return warn!(%error, "the new model cannot be used"),
        }
        processor.labels = in_use.head.labels().into();
        processor.models.set_head(Arc::clone(&in_use.head));
        self.live.send_modify(|live| {
            live.learning.head = in_use.number;
            live.learning.note.clone_from(&in_use.note);
            live.learning.labels = in_use.head.labels().to_vec();
        });
        if let Some(model) = in_use.number {
            info!(model, "model in use");
        } else {
            info!("the built-in model is in use");
        }
    }

    /// Applies settings that have changed since the last frame, and the time of day.
    fn take_tuning(&mut self) {
        let has_changed = self.tuning.has_changed().unwrap_or(false);
        if !has_changed && !self.allowed.has_changed().unwrap_or(false) {
            return;
        }
        let allowed = self.allowed.borrow_and_update().at(now());
        let tuning = *self.tuning.borrow_and_update();
        self.processor
            .set_thresholds(tuning.masked_threshold, tuning.unmasked_threshold);
        if let Some(sampler) = &mut self.sampler {
            sampler.set_capture(tuning.capture && allowed.capture);
        }
    }

    /// Processes one frame, and passes the classified faces to the sampler.
    fn process(&mut self, frame: &Frame) -> Result<FrameResult, PipelineError> {
        // An enrollment needs crops even if the vote on the track is settled.
        let is_enrolling = self.sampler.as_ref().is_some_and(CropSampler::is_enrolling);
        let standing = *self.standing.borrow();
        let processed = self
            .processor
            .process(frame, standing, is_enrolling, &self.monitor)?;
        let ProcessedFrame {
            result,
            classified,
            is_detected,
            left_out,
        } = processed;
        if self.mode == Mode::Count {
            return Ok(result);
        }
        self.live.send_modify(|live| {
            live.inference.detections += u64::from(is_detected);
            live.inference.classified += classified.len() as u64;
        });
        self.log_overload(left_out);
        if let Some(metrics) = &self.monitor.metrics {
            metrics.verdict(result.latency);
        }
        if let Some(sampler) = &mut self.sampler {
            sampler.offer(frame.at, classified);
        }
        Ok(result)
    }

    /// Logs when frames start to show too many faces, and when this is over.
    fn log_overload(&mut self, left_out: usize) {
        let at = now();
        if left_out > 0 {
            if self.overloaded_at.replace(at).is_none() {
                warn!(
                    left_out,
                    "there is no time to classify all faces: the smaller ones are unsure"
                );
            }
            return;
        }
        let is_over = |last: Instant| at.saturating_duration_since(last) > OVERLOAD_MEMORY;
        if self.overloaded_at.is_some_and(is_over) {
            self.overloaded_at = None;
            info!("there is time to classify all faces again");
        }
    }
}

/// Records the progress of the work on frames.
pub(super) struct LiveMonitor {
    /// `None` in statistics mode, because the times of stages show when somebody passes.
    pub(super) metrics: Option<Arc<Metrics>>,
    /// Sends the time at which a part of the work was done.
    pub(super) progress: watch::Sender<Instant>,
}

impl Monitor for LiveMonitor {
    fn now(&self) -> Instant {
        now()
    }

    fn progress(&self) {
        self.progress.send_replace(now());
    }

    fn stage(&self, stage: Stage, duration: Duration) {
        if let Some(metrics) = &self.metrics {
            metrics.stage(stage, duration);
        }
    }
}

/// Measures how many frames per second are processed.
#[derive(Default)]
pub(super) struct FpsMeter {
    last: Option<Instant>,
    /// Smoothed time between two frames, in seconds.
    interval: f32,
}

impl FpsMeter {
    /// Records a frame that was processed at `at`, and returns the frames per second, or
    /// 0 after the first frame.
    fn record(&mut self, at: Instant) -> f32 {
        if let Some(last) = self.last.replace(at) {
            let seconds = at.saturating_duration_since(last).as_secs_f32();
            // The first interval is used as it is. After that, the interval is smoothed
            // over about ten frames.
            let weight = if self.interval > 0.0 { 0.9 } else { 0.0 };
            self.interval = weight * self.interval + (1.0 - weight) * seconds;
        }
        if self.interval > 0.0 {
            1.0 / self.interval
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn the_fps_meter_follows_the_frames_and_smooths() {
        let start = now();
        let mut meter = FpsMeter::default();
        assert_eq!(meter.record(start), 0.0, "one frame is no rate");
        assert!((meter.record(later(start, 100)) - 10.0).abs() < 1e-3);
        assert!((meter.record(later(start, 200)) - 10.0).abs() < 1e-3);
        let slower = meter.record(later(start, 1200));
        assert!((5.0..6.0).contains(&slower), "{slower}");
        let mut last = slower;
        for frame in 1..=50 {
            last = meter.record(later(start, 1200 + 1000 * frame));
        }
        assert!((last - 1.0).abs() < 0.05, "{last}");
    }

    #[test]
    fn progress_on_a_frame_is_sent_at_once() {
        let start = now();
        let (progress, worked) = watch::channel(start);
        let metrics = Some(Arc::new(Metrics::new()));
        let monitor = LiveMonitor { metrics, progress };
        monitor.progress();
        assert!(worked.has_changed().is_ok_and(|changed| changed));
        assert!(*worked.borrow() >= start);
    }

    #[test]
    fn two_frames_of_the_same_moment_are_no_infinite_rate() {
        let start = now();
        let mut meter = FpsMeter::default();
        meter.record(start);
        assert_eq!(meter.record(start), 0.0);
    }
}
