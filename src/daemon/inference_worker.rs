//! The inference thread, which takes the newest frame and gives a verdict on each of
//! its faces.
//!
//! It owns the vision pipeline, the tracker and the verdict policy, and knows nothing
//! about decisions and outputs. It skips and counts the frames that it has no time
//! for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::capture_worker::{ClassifiedFace, CropSampler};
use super::threads::timer_runtime;
use super::{DaemonError, Latest, now};
use crate::api::metrics::Metrics;
use crate::api::socket::Live;
use crate::api::web::AnnotatedFrame;
use crate::config::settings::Tuning;
use crate::decision::decide::VerdictPolicy;
use crate::decision::frame_result::{FaceResult, FrameResult};
use crate::frame::{Face, Frame};
use crate::vision::motion::MotionDetector;
use crate::vision::pipeline::{Classification, Pipeline, PipelineError, Stage};
use crate::vision::track::Tracker;

/// The state of the inference thread.
pub(super) struct InferenceWorker {
    pub(super) pipeline: Pipeline,
    pub(super) policy: VerdictPolicy,
    /// Labels of the head in use.
    pub(super) labels: Arc<[String]>,
    pub(super) tracker: Tracker,
    pub(super) motion_gate: MotionGate,
    /// `None` without a state directory.
    pub(super) sampler: Option<CropSampler>,
    pub(super) live: Arc<watch::Sender<Live>>,
    pub(super) tuning: watch::Receiver<Tuning>,
    /// Sends frames to the live view of the page.
    pub(super) annotated_frames: watch::Sender<Option<AnnotatedFrame>>,
    pub(super) fps_meter: FpsMeter,
    pub(super) metrics: Arc<Metrics>,
}

/// A face of the current frame with its track.
struct TrackedFace {
    face: Face,
    track: u64,
    /// The vote on the track, if it is settled and so needs no classification in this
    /// frame.
    settled: Option<Vec<f32>>,
    needs_classification: bool,
}

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
                Latest::Lost => {
                    self.live.send_modify(|live| live.camera.lost = true);
                    results.send_replace(Latest::Lost);
                }
                Latest::Newest(frame) => {
                    processed += 1;
                    skipped += frame.seq.saturating_sub(next_seq);
                    next_seq = frame.seq + 1;
                    self.take_new_head();
                    self.take_tuning();
                    let result = Arc::new(self.process(&frame)?);
                    self.publish(&result, processed, skipped);
                    results.send_replace(Latest::Newest(Arc::clone(&result)));
                    self.annotated_frames
                        .send_replace(Some(AnnotatedFrame { frame, result }));
                }
            }
        }
        info!(frames = processed, skipped, "no more frames");
        Ok(())
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

    /// Switches to a new head if there is one, and discards the votes that tracks
    /// collected with the previous head.
    fn take_new_head(&mut self) {
        let Some(in_use) = self.sampler.as_mut().and_then(CropSampler::new_head) else {
            return;
        };
        match self.policy.with_labels(in_use.head.labels()) {
            Ok(policy) => self.policy = policy,
            Err(error) => return warn!(%error, "the new model cannot be used"),
        }
        self.labels = in_use.head.labels().into();
        self.pipeline.set_head(Arc::clone(&in_use.head));
        self.tracker.forget_votes();
        self.live.send_modify(|live| {
            live.learning.head = in_use.number;
            live.learning.note.clone_from(&in_use.note);
            live.learning.labels = self.labels.to_vec();
        });
        if let Some(model) = in_use.number {
            info!(model, "model in use");
        } else {
            info!("the built-in model is in use");
        }
    }

    /// Applies settings that have changed since the last frame.
    fn take_tuning(&mut self) {
        if !self.tuning.has_changed().unwrap_or(false) {
            return;
        }
        let tuning = *self.tuning.borrow_and_update();
        self.policy
            .set_thresholds(tuning.masked_threshold, tuning.unmasked_threshold);
        if let Some(sampler) = &mut self.sampler {
            sampler.set_capture(tuning.capture);
        }
    }

    /// Processes one frame: detects and tracks the faces, classifies them, updates
    /// the votes, and gives the verdicts.
    fn process(&mut self, frame: &Frame) -> Result<FrameResult, PipelineError> {
        let faces = self.find_faces(frame)?;
        let tracked = self.track(frame.at, faces);
        let mut classifications = self.classify(frame, &tracked)?.into_iter();
        let mut results = Vec::with_capacity(tracked.len());
        let mut classified = Vec::new();
        for tracked_face in tracked {
            let TrackedFace { face, track, .. } = tracked_face;
            let classification = if tracked_face.needs_classification {
                classifications.next()
            } else {
                None
            };
            let probabilities = match classification {
                Some(classification) => {
                    let probabilities = &classification.probabilities;
                    let vote = self.tracker.vote(frame.at, track, probabilities);
                    classified.push(ClassifiedFace {
                        track,
                        area: face.rect.area(),
                        classification,
                    });
                    Some(vote)
                }
                // The vote on a settled face is not used once the face has become
                // too small, so it is unsure like any other small face.
                None => tracked_face
                    .settled
                    .filter(|_| self.policy.unsure_reason(&face).is_none()),
            };
            let verdict = self
                .policy
                .verdict(&face, probabilities.as_deref().unwrap_or_default());
            results.push(FaceResult {
                face,
                track: Some(track),
                probabilities,
                verdict,
            });
        }
        let latency = now().saturating_duration_since(frame.at);
        self.metrics.verdict(latency);
        if let Some(sampler) = &mut self.sampler {
            sampler.offer(frame.at, classified);
        }
        Ok(FrameResult {
            seq: frame.seq,
            at: frame.at,
            latency,
            labels: Arc::clone(&self.labels),
            faces: results,
        })
    }

    /// Returns the faces of a frame. If nothing has moved, these are the faces from
    /// the last detection.
    fn find_faces(&mut self, frame: &Frame) -> Result<Vec<Face>, PipelineError> {
        if let Some(faces) = self.motion_gate.unmoved_faces(frame) {
            return Ok(faces);
        }
        let start = now();
        let faces = self.pipeline.detect(&frame.pixels)?;
        let duration = now().saturating_duration_since(start);
        self.metrics.stage(Stage::Detect, duration);
        self.live.send_modify(|live| live.inference.detections += 1);
        self.motion_gate.record(frame, &faces);
        Ok(faces)
    }

    fn track(&mut self, at: Instant, faces: Vec<Face>) -> Vec<TrackedFace> {
        let tracks = self.tracker.assign(at, &faces);
        // An enrollment needs crops even if the vote on the track is settled.
        let is_enrolling = self.sampler.as_ref().is_some_and(CropSampler::is_enrolling);
        let tracked = faces.into_iter().zip(tracks).map(|(face, track)| {
            let settled = self.tracker.settled(at, track).filter(|_| !is_enrolling);
            TrackedFace {
                needs_classification: settled.is_none()
                    && self.policy.unsure_reason(&face).is_none(),
                face,
                track,
                settled,
            }
        });
        tracked.collect()
    }

    /// Classifies the faces that need it and keeps their order.
    fn classify(
        &mut self,
        frame: &Frame,
        tracked: &[TrackedFace],
    ) -> Result<Vec<Classification>, PipelineError> {
        let faces: Vec<Face> = tracked
            .iter()
            .filter(|tracked| tracked.needs_classification)
            .map(|tracked| tracked.face)
            .collect();
        self.live
            .send_modify(|live| live.inference.classified += faces.len() as u64);
        let mut last = now();
        let stage_done = |stage| {
            let at = now();
            self.metrics
                .stage(stage, at.saturating_duration_since(last));
            last = at;
        };
        self.pipeline
            .classify_by_stages(&frame.pixels, &faces, stage_done)
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
    /// Records a frame that was processed at `at`, and returns the frames per second.
    /// Returns 0 after the first frame.
    fn record(&mut self, at: Instant) -> f32 {
        if let Some(last) = self.last.replace(at) {
            let seconds = at.saturating_duration_since(last).as_secs_f32();
            // The interval is smoothed over about ten frames once there has been a
            // first interval.
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

/// Skips detection while nothing moves, and reuses the faces from the last frame that
/// the detector ran on.
pub(super) struct MotionGate {
    /// Time after which the detector runs again even if nothing has moved. Zero makes
    /// the detector run on every frame.
    max_age: Duration,
    motion: MotionDetector,
    /// The capture time of the last frame that the detector ran on, and the faces that
    /// it found.
    last: Option<(Instant, Vec<Face>)>,
}

impl MotionGate {
    pub(super) fn new(max_age: Duration) -> MotionGate {
        MotionGate {
            max_age,
            motion: MotionDetector::default(),
            last: None,
        }
    }

    /// Returns the faces from the last detection if nothing has moved since, or `None`
    /// if the detector has to run.
    fn unmoved_faces(&self, frame: &Frame) -> Option<Vec<Face>> {
        let (at, faces) = self.last.as_ref()?;
        let is_recent = frame.at.saturating_duration_since(*at) < self.max_age;
        (is_recent && !self.motion.moved(&frame.pixels)).then(|| faces.clone())
    }

    /// Remembers the faces that the detector found.
    fn record(&mut self, frame: &Frame, faces: &[Face]) {
        if !self.max_age.is_zero() {
            self.motion.set_reference(&frame.pixels);
            self.last = Some((frame.at, faces.to_vec()));
        }
    }
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;
    use crate::frame::Rect;

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
    fn two_frames_of_the_same_moment_are_no_infinite_rate() {
        let start = now();
        let mut meter = FpsMeter::default();
        meter.record(start);
        assert_eq!(meter.record(start), 0.0);
    }

    fn frame(at: Instant, shade: u8) -> Frame {
        Frame {
            seq: 0,
            at,
            pixels: RgbImage::from_pixel(64, 48, Rgb([shade; 3])),
        }
    }

    #[test]
    fn the_motion_gate_opens_for_motion_and_for_age() {
        let start = now();
        let face = Face {
            rect: Rect {
                x: 1.0,
                y: 2.0,
                width: 30.0,
                height: 30.0,
            },
            score: 0.9,
            landmarks: [(0.0, 0.0); 5],
        };
        let mut gate = MotionGate::new(Duration::from_millis(500));
        assert!(gate.unmoved_faces(&frame(start, 100)).is_none(), "first");
        gate.record(&frame(start, 100), &[face]);
        let still = gate.unmoved_faces(&frame(later(start, 499), 100));
        assert_eq!(still.unwrap(), [face]);
        assert!(gate.unmoved_faces(&frame(later(start, 10), 150)).is_none());
        assert!(gate.unmoved_faces(&frame(later(start, 500), 100)).is_none());
        gate.record(&frame(later(start, 500), 150), &[]);
        let still = gate.unmoved_faces(&frame(later(start, 600), 150));
        assert_eq!(still.unwrap(), [], "nobody is known too");
    }

    #[test]
    fn a_motion_gate_without_an_age_is_always_open() {
        let start = now();
        let mut gate = MotionGate::new(Duration::ZERO);
        gate.record(&frame(start, 100), &[]);
        assert!(gate.unmoved_faces(&frame(start, 100)).is_none());
    }
}
