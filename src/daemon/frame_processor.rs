//! Processes each frame: detects, tracks, and classifies the faces, updates their votes,
//! determines the verdicts, and collects the evidence that is needed to confirm a mask.
//!
//! A *candidate* is a box that the detector scores so low that it is a face only if the face
//! check accepts it.
//!
//! This module owns the state that is kept from frame to frame and the rules for skipping
//! work. It knows nothing about channels or the system clock. The models and the clock
//! are accessed through traits, so that tests can run the rules on thousands of frames.

use std::sync::Arc;
use std::time::{Duration, Instant};

use image::RgbImage;

use super::capture_worker::ClassifiedFace;
use crate::decision::confirm::{Basis, Confirmation, Standing};
use crate::decision::decide::{UnsureReason, Verdict, VerdictPolicy};
use crate::decision::frame_result::{FaceResult, FrameResult, sighting};
use crate::frame::quality::Placement;
use crate::frame::{Face, Frame};
use crate::vision::face_check::{Detections, MAX_CANDIDATES, is_same_place};
use crate::vision::head::HeadId;
use crate::vision::motion::MotionDetector;
use crate::vision::pipeline::{Classification, Pipeline, PipelineError, Stage};
use crate::vision::refused::RefusedPlaces;
use crate::vision::track::Tracker;

/// The models that find and classify faces.
pub(super) trait Models {
    /// Detects the faces in a frame, and the boxes that may be faces.
    fn detect(&mut self, pixels: &RgbImage) -> Result<Detections, PipelineError>;

    /// Whether the score of a box is so low that its verdict depends on the face check.
    fn is_uncertain(&self, face: &Face) -> bool;

    /// Classifies the faces in the given order, and calls `done` at the end of each
    /// stage.
    fn classify(
        &mut self,
        pixels: &RgbImage,
        faces: &[Face],
        done: &mut dyn FnMut(Stage),
    ) -> Result<Vec<Classification>, PipelineError>;

    /// The id of the head that classifies the faces.
    fn head_id(&self) -> HeadId;

    /// Number of faces that are classified at the same time, at least 1.
    fn batch(&self) -> usize;
}

impl Models for Pipeline {
    fn detect(&mut self, pixels: &RgbImage) -> Result<Detections, PipelineError> {
        Pipeline::detect(self, pixels)
    }

    fn is_uncertain(&self, face: &Face) -> bool {
        Pipeline::is_uncertain(self, face)
    }

    fn classify(
        &mut self,
        pixels: &RgbImage,
        faces: &[Face],
        done: &mut dyn FnMut(Stage),
    ) -> Result<Vec<Classification>, PipelineError> {
        self.classify_by_stages(pixels, faces, done)
    }

    fn head_id(&self) -> HeadId {
        Pipeline::head_id(self)
    }

    fn batch(&self) -> usize {
        self.threads()
    }
}

/// Provides the time, and receives progress reports while a frame is processed.
pub(super) trait Monitor {
    fn now(&self) -> Instant;

    /// Called when one part of the work on a frame is done and the next part begins.
    fn progress(&self);

    /// Called with the time that a stage took for all faces of a frame together.
    fn stage(&self, stage: Stage, duration: Duration);
}

/// Processes frames one after another.
pub(super) struct FrameProcessor<M> {
    pub(super) models: M,
    pub(super) policy: VerdictPolicy,
    /// Labels of the head in use.
    pub(super) labels: Arc<[String]>,
    tracker: Tracker,
    motion_gate: MotionGate,
    refused: RefusedPlaces,
    confirmation: Confirmation,
    /// Once the work on a frame has taken this long, no more faces are classified.
    time_limit: Duration,
}

/// The results of processing a frame.
pub(super) struct ProcessedFrame {
    pub(super) result: FrameResult,
    /// The faces that were classified in this frame.
    pub(super) classified: Vec<ClassifiedFace>,
    /// Whether the detector ran.
    pub(super) is_detected: bool,
    /// Number of faces that were not classified because the time limit had passed.
    pub(super) left_out: usize,
}

/// A face or a candidate of the current frame with its track.
struct TrackedFace {
    face: Face,
    /// `None` for a candidate that begins a track only if the face check accepts it.
    track: Option<u64>,
    is_candidate: bool,
    state: FaceState,
}

/// How much of the work on a frame may be skipped.
#[derive(Clone, Copy)]
struct Effort {
    /// Whether the detector ran. If it did not, no candidate begins a track.
    is_detected: bool,
    /// Whether every face is classified, even if the vote on its track is settled.
    is_anew: bool,
}

/// What is known about a face before its verdict.
enum FaceState {
    /// The vote on the track is settled, so the face needs no classification.
    Settled(Vec<f32>),
    /// The verdict is unsure regardless of the classification.
    Unsure,
    /// The face needs to be classified but has not been classified yet.
    Unclassified,
    Classified(Classification),
}

impl<M: Models> FrameProcessor<M> {
    pub(super) fn new(
        models: M,
        (policy, labels): (VerdictPolicy, Arc<[String]>),
        tracker: Tracker,
        motion_gate: MotionGate,
        time_limit: Duration,
    ) -> FrameProcessor<M> {
        FrameProcessor {
            models,
            policy,
            labels,
            tracker,
            motion_gate,
            refused: RefusedPlaces::default(),
            confirmation: Confirmation::default(),
            time_limit,
        }
    }

    /// Replaces the thresholds for verdicts. Frames that were processed with the previous
    /// thresholds do not count toward confirming a mask.
    pub(super) fn set_thresholds(&mut self, mask_from: f32, no_mask_to: f32) {
        self.policy.set_thresholds(mask_from, no_mask_to);
        self.confirmation.restart();
    }

    /// Processes one frame: detects and tracks the faces, classifies them, updates the
    /// votes, and determines the verdicts. If `is_enrolling`, every face is classified.
    pub(super) fn process(
        &mut self,
        frame: &Frame,
        standing: Standing,
        is_enrolling: bool,
        monitor: &impl Monitor,
    ) -> Result<ProcessedFrame, PipelineError> {
        let start = monitor.now();
        let basis = Basis {
            connection: frame.connection,
            head: self.models.head_id(),
            faults: standing.faults,
        };
        if self.confirmation.begin(frame.at, basis) {
            self.tracker.clear();
            self.motion_gate.clear();
            self.refused.clear();
        }
        let is_awaited = self.confirmation.is_awaited(standing);
        let unmoved = if is_awaited {
            None
        } else {
            self.motion_gate.unmoved(frame)
        };
        let effort = Effort {
            is_detected: unmoved.is_none(),
            is_anew: is_awaited || is_enrolling,
        };
        let detections = match unmoved {
            Some(detections) => detections,
            None => self.detect(frame, monitor)?,
        };
        let mut tracked = self.track(frame, detections, effort);
        let left_out = self.classify(frame, &mut tracked, start, monitor)?;

        let mut results = Vec::with_capacity(tracked.len());
        let mut classified = Vec::new();
        for tracked_face in tracked {
            if let Some((face, track, state)) = self.check_face(frame, tracked_face, &results) {
                let (result, classification) = self.judge(frame, face, track, state);
                classified.extend(classification);
                results.push(result);
            }
        }
        let sighting = sighting(&results, effort.is_detected);
        let result = FrameResult {
            seq: frame.seq,
            at: frame.at,
            latency: monitor.now().saturating_duration_since(frame.at),
            labels: Arc::clone(&self.labels),
            faces: results,
            evidence: self.confirmation.end(frame.at, sighting),
        };
        Ok(ProcessedFrame {
            result,
            classified,
            is_detected: effort.is_detected,
            left_out,
        })
    }

    fn detect(
        &mut self,
        frame: &Frame,
        monitor: &impl Monitor,
    ) -> Result<Detections, PipelineError> {
        let start = monitor.now();
        let detections = self.models.detect(&frame.pixels)?;
        let duration = monitor.now().saturating_duration_since(start);
        monitor.stage(Stage::Detect, duration);
        monitor.progress();
        self.motion_gate.record(frame, &detections);
        Ok(detections)
    }

    /// Assigns the faces and the candidates to tracks. Candidates in places where the face
    /// check refused a box are left out. Up to [`MAX_CANDIDATES`] candidates without a track
    /// are included, because the face check may accept them.
    fn track(&mut self, frame: &Frame, detections: Detections, effort: Effort) -> Vec<TrackedFace> {
        let Detections {
            faces,
            mut candidates,
        } = detections;
        if !candidates.is_empty() || faces.iter().any(|face| self.models.is_uncertain(face)) {
            self.refused.update(frame.at, &frame.pixels);
            candidates.retain(|candidate| !self.refused.contains(candidate));
        }
        let (tracks, continued) = self.tracker.assign(frame.at, &faces, &candidates);
        let mut tracked = Vec::with_capacity(faces.len() + candidates.len());
        for (face, track) in faces.into_iter().zip(tracks) {
            let track = Some(track);
            tracked.push(self.prepare(frame.at, face, track, false, effort));
        }
        let continuing: Vec<Face> = candidates
            .iter()
            .zip(&continued)
            .filter_map(|(candidate, track)| track.map(|_| *candidate))
            .collect();
        let mut new = 0;
        for (candidate, track) in candidates.into_iter().zip(continued) {
            if track.is_none() {
                let is_part = |face: &Face| is_same_place(face, &candidate);
                let may_be_face = effort.is_detected && !continuing.iter().any(is_part);
                if !may_be_face || new == MAX_CANDIDATES {
                    continue;
                }
                new += 1;
            }
            tracked.push(self.prepare(frame.at, candidate, track, true, effort));
        }
        tracked
    }

    /// Determines whether a face or a candidate needs to be classified.
    fn prepare(
        &self,
        at: Instant,
        mut face: Face,
        track: Option<u64>,
        is_candidate: bool,
        effort: Effort,
    ) -> TrackedFace {
        let is_uncertain = self.models.is_uncertain(&face);
        let is_unsure = match self.policy.unsure_reason(&face) {
            // The face check may still accept the face.
            Some(UnsureReason::LowScore) => !is_uncertain,
            reason => reason.is_some(),
        };
        let opinion = track.and_then(|track| self.tracker.opinion(track));
        let accepted = opinion.filter(|opinion| opinion.is_face);
        // A settled vote stands for a box of low score only if the face check accepted the
        // latest picture of the track.
        let may_be_settled = !effort.is_anew && (!is_uncertain || accepted.is_some());
        let settled = track.filter(|_| may_be_settled);
        let settled = settled.and_then(|track| self.tracker.settled(at, track));
        let state = if is_unsure {
            // A settled vote is not used once the face has become too small, so the face is
            // unsure like any other small face.
            FaceState::Unsure
        } else if let Some(vote) = settled {
            if is_uncertain {
                face.face_check = accepted.map(|opinion| opinion.probability);
            }
            FaceState::Settled(vote)
        } else if is_uncertain && self.refused.contains(&face) {
            FaceState::Unsure
        } else {
            FaceState::Unclassified
        };
        TrackedFace {
            face,
            track,
            is_candidate,
            state,
        }
    }

    /// Classifies the faces that need it until the time limit has passed. The largest
    /// faces come first, because they are the nearest. Candidates without a track come last.
    /// Returns the number of faces that were left out.
    fn classify(
        &mut self,
        frame: &Frame,
        tracked: &mut [TrackedFace],
        start: Instant,
        monitor: &impl Monitor,
    ) -> Result<usize, PipelineError> {
        let mut waiting: Vec<usize> = (0..tracked.len())
            .filter(|index| matches!(tracked[*index].state, FaceState::Unclassified))
            .collect();
        let area = |index: &usize| tracked[*index].face.rect.area();
        let is_new = |index: &usize| tracked[*index].track.is_none();
        waiting.sort_by(|a, b| {
            let by_area = area(b).total_cmp(&area(a));
            is_new(a).cmp(&is_new(b)).then(by_area)
        });
        let known = waiting.partition_point(|index| !is_new(index));
        let mut durations = [Duration::ZERO; Stage::ALL.len()];
        let mut last = monitor.now();
        let mut done = 0;
        for batch in waiting.chunks(self.models.batch().max(1)) {
            let is_late = monitor.now().saturating_duration_since(start) >= self.time_limit;
            // The nearest faces are always classified, even if the time limit has passed.
            let is_optional = done > 0 || known == 0;
            if is_optional && is_late {
                break;
            }
            let faces: Vec<Face> = batch.iter().map(|index| tracked[*index].face).collect();
            let mut stage_done = |stage: Stage| {
                let at = monitor.now();
                durations[stage as usize] += at.saturating_duration_since(last);
                last = at;
            };
            let classifications = self
                .models
                .classify(&frame.pixels, &faces, &mut stage_done)?;
            for (index, classification) in batch.iter().zip(classifications) {
                tracked[*index].state = FaceState::Classified(classification);
            }
            done += batch.len();
            monitor.progress();
        }
        if done > 0 {
            for stage in [Stage::Crop, Stage::Embed, Stage::Head] {
                monitor.stage(stage, durations[stage as usize]);
            }
        }
        Ok(known.saturating_sub(done))
    }

    /// Applies the opinion of the face check to a box of low score. Returns the face
    /// with its track and its state, or `None` if the box is not a face. `results` are the
    /// faces in the frame so far.
    fn check_face(
        &mut self,
        frame: &Frame,
        tracked: TrackedFace,
        results: &[FaceResult],
    ) -> Option<(Face, u64, FaceState)> {
        let TrackedFace {
            mut face,
            track,
            is_candidate,
            mut state,
        } = tracked;
        if let FaceState::Classified(classification) = &state
            && self.models.is_uncertain(&face)
        {
            if let Some(opinion) = classification.face.filter(|opinion| opinion.is_face) {
                face.face_check = Some(opinion.probability);
            } else {
                self.refused.add(frame.at, &frame.pixels, &face);
                // A candidate is then what it was before: nothing. If it continues a track,
                // the track has moved there but gets no vote.
                if is_candidate {
                    return None;
                }
                state = FaceState::Unsure;
            }
        }
        if let Some(track) = track {
            return Some((face, track, state));
        }
        // The time limit may have passed before the face check saw the candidate.
        let is_accepted = face.face_check.is_some();
        let is_apart = |known: &FaceResult| !is_same_place(&known.face, &face);
        if !is_accepted || !results.iter().all(is_apart) {
            return None;
        }
        let track = self.tracker.start(frame.at, face.rect);
        Some((face, track, state))
    }

    /// Determines the verdict on a face from the vote of its track.
    fn judge(
        &mut self,
        frame: &Frame,
        face: Face,
        track: u64,
        state: FaceState,
    ) -> (FaceResult, Option<ClassifiedFace>) {
        let mut verdict_alone = None;
        let (probabilities, classified) = match state {
            FaceState::Settled(vote) => (Some(vote), None),
            FaceState::Unsure | FaceState::Unclassified => (None, None),
            FaceState::Classified(classification) => {
                let probabilities = &classification.probabilities;
                let opinion = classification.face;
                if classification.head == self.models.head_id() {
                    let face_probability = opinion.map(|opinion| opinion.probability);
                    let alone = self.policy.verdict(&face, probabilities, face_probability);
                    verdict_alone = Some(alone);
                }
                let vote = self.tracker.vote(frame.at, track, probabilities, opinion);
                let classified = ClassifiedFace {
                    track,
                    area: face.rect.area(),
                    placement: Placement::of(
                        &face.rect,
                        frame.pixels.width(),
                        frame.pixels.height(),
                    ),
                    classification,
                };
                (Some(vote), Some(classified))
            }
        };
        let opinion = self.tracker.opinion(track);
        let face_probability = opinion.map(|opinion| opinion.probability);
        let verdict = match (&probabilities, self.policy.unsure_reason(&face)) {
            (_, Some(reason)) => Verdict::Unsure(reason),
            (Some(vote), None) => self.policy.verdict(&face, vote, face_probability),
            (None, None) => Verdict::Unsure(UnsureReason::Overload),
        };
        let result = FaceResult {
            face,
            track: Some(track),
            probabilities,
            verdict,
            verdict_alone,
        };
        (result, classified)
    }
}

/// Skips detection while nothing moves, and reuses the detections from the last frame that
/// the detector ran on.
pub(super) struct MotionGate {
    /// Time after which the detector runs again even if nothing has moved. Zero makes
    /// the detector run on every frame.
    max_age: Duration,
    motion: MotionDetector,
    /// The capture time of the last frame that the detector ran on, and what it found.
    last: Option<(Instant, Detections)>,
}

impl MotionGate {
    pub(super) fn new(max_age: Duration) -> MotionGate {
        MotionGate {
            max_age,
            motion: MotionDetector::default(),
            last: None,
        }
    }

    /// Returns the last detections if nothing has moved since, or `None` if the detector has
    /// to run.
    fn unmoved(&self, frame: &Frame) -> Option<Detections> {
        let (at, detections) = self.last.as_ref()?;
        let is_recent = frame.at.saturating_duration_since(*at) < self.max_age;
        (is_recent && !self.motion.moved(&frame.pixels)).then(|| detections.clone())
    }

    /// Forgets the last detection, so that the detector runs on the next frame.
    fn clear(&mut self) {
        self.last = None;
    }

    /// Remembers what the detector found.
    fn record(&mut self, frame: &Frame, detections: &Detections) {
        if !self.max_age.is_zero() {
            self.motion.set_reference(&frame.pixels);
            self.last = Some((frame.at, detections.clone()));
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests need an arbitrary start time"
)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use image::Rgb;
    use proptest::prelude::*;

    use super::*;
    use crate::decision::decide::{Decider, DeciderOptions, Decision, Progress, VerdictOptions};
    use crate::frame::{CROP_SIDE, ConnectionId, Crop, Rect};
    use crate::indicate::{Door, DoorDecision, DoorOptions, DoorReadings, LockType, Opening};
    use crate::onnx::FEATURES;
    use crate::vision::face_check::{FaceCheckOptions, FaceOpinion};
    use crate::vision::track::TrackOptions;

    fn later(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    /// A clock that the models and the test move forward.
    #[derive(Clone)]
    struct Clock {
        now: Rc<Cell<Instant>>,
        /// Number of times that progress was reported.
        progress: Rc<Cell<usize>>,
    }

    impl Clock {
        fn new() -> Clock {
            // The start is much later than the earliest possible `Instant`, so that the
            // clock can step back.
            let start = Instant::now() + Duration::from_hours(1000);
            Clock {
                now: Rc::new(Cell::new(start)),
                progress: Rc::default(),
            }
        }

        fn pass(&self, millis: u64) {
            self.now.set(later(self.now.get(), millis));
        }
    }

    impl Monitor for Clock {
        fn now(&self) -> Instant {
            self.now.get()
        }

        fn progress(&self) {
            self.progress.set(self.progress.get() + 1);
        }

        fn stage(&self, _stage: Stage, _duration: Duration) {}
    }

    /// Boxes with at least this score are faces, and boxes with a lower score are candidates.
    const THRESHOLD: f32 = 0.5;

    const FACE_CHECK: FaceCheckOptions = FaceCheckOptions {
        low_threshold: 0.2,
        certain_from: 0.55,
        min_probability: 0.8,
        min_side: 24.0,
    };

    /// What the models see in one place.
    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Person {
        face: Face,
        /// The probability of a mask.
        masked: f32,
        /// Whether the face check accepts the face.
        is_face: bool,
    }

    /// Mock models that detect the people provided by the test and record all calls.
    struct Scene {
        clock: Clock,
        head: HeadId,
        people: Vec<Person>,
        /// The people who were present at the last detection.
        detected: Vec<Person>,
        has_detected: bool,
        /// The people who were classified.
        classified: Vec<Person>,
        ms_per_face: u64,
        ms_per_detection: u64,
    }

    impl Models for Scene {
        fn detect(&mut self, _pixels: &RgbImage) -> Result<Detections, PipelineError> {
            self.clock.pass(self.ms_per_detection);
            self.has_detected = true;
            self.detected.clone_from(&self.people);
            let mut found: Vec<Face> = self.people.iter().map(|person| person.face).collect();
            found.sort_by(|a, b| b.score.total_cmp(&a.score));
            Ok(Detections::new(found, THRESHOLD, Some(&FACE_CHECK)))
        }

        fn is_uncertain(&self, face: &Face) -> bool {
            face.score < FACE_CHECK.certain_from
        }

        fn classify(
            &mut self,
            _pixels: &RgbImage,
            faces: &[Face],
            done: &mut dyn FnMut(Stage),
        ) -> Result<Vec<Classification>, PipelineError> {
            let mut classifications = Vec::new();
            for face in faces {
                self.clock.pass(self.ms_per_face);
                let person = self.detected.iter().find(|known| known.face == *face);
                let person = *person.expect("the faces are those of the last detection");
                self.classified.push(person);
                let Person {
                    masked, is_face, ..
                } = person;
                classifications.push(Classification {
                    crop: Crop::from_image(RgbImage::new(CROP_SIDE, CROP_SIDE)).unwrap(),
                    feature: Box::new([0.0; FEATURES]).into(),
                    head: self.head,
                    probabilities: vec![masked, 1.0 - masked],
                    face: Some(FaceOpinion {
                        probability: if is_face { 0.95 } else { 0.3 },
                        is_face,
                    }),
                });
            }
            done(Stage::Embed);
            Ok(classifications)
        }

        fn head_id(&self) -> HeadId {
            self.head
        }

        fn batch(&self) -> usize {
            2
        }
    }

    /// Returns a person with a square face with a side of `side` pixels, at the position with
    /// the index `place`. The face check accepts the face.
    fn person(place: usize, side: f32, score: f32, masked: f32) -> Person {
        let face = Face {
            rect: Rect {
                x: 100.0 * place as f32,
                y: 0.0,
                width: side,
                height: side,
            },
            score,
            landmarks: [(0.0, 0.0); 5],
            face_check: None,
        };
        Person {
            face,
            masked,
            is_face: true,
        }
    }

    /// Returns an object that the detector scores low and that the face check refuses.
    fn coat(place: usize) -> Person {
        Person {
            is_face: false,
            ..person(place, 40.0, 0.3, 0.97)
        }
    }

    const LIMIT: Duration = Duration::from_secs(1);

    fn processor(clock: &Clock) -> FrameProcessor<Scene> {
        let labels = ["with_mask", "without_mask"].map(str::to_owned);
        let options = VerdictOptions {
            masked_labels: labels[..1].to_vec(),
            mask_from: 0.65,
            no_mask_to: 0.55,
            small_face: 0.0,
            small_face_raise: 0.0,
            min_face: 24.0,
            min_score: 0.55,
            unfamiliar_below: 0.4,
        };
        let track_options = TrackOptions {
            min_iou: 0.3,
            keep: Duration::from_secs(1),
            votes: 5,
            settled: Duration::from_millis(500),
        };
        let scene = Scene {
            clock: clock.clone(),
            head: HeadId::default(),
            people: Vec::new(),
            detected: Vec::new(),
            has_detected: false,
            classified: Vec::new(),
            ms_per_face: 0,
            ms_per_detection: 0,
        };
        FrameProcessor::new(
            scene,
            (
                VerdictPolicy::new(options, &labels).unwrap(),
                Arc::new(labels),
            ),
            Tracker::new(track_options),
            MotionGate::new(Duration::from_secs(1)),
            LIMIT,
        )
    }

    /// What the models did for a frame.
    #[derive(Clone, Copy)]
    struct Seen {
        at: Instant,
        /// The camera connection, the head, and the number of faults before the frame.
        origin: (ConnectionId, HeadId, u64),
        /// Whether the frame shows a face that is certain, or not masked.
        has_face: bool,
        /// Whether the detector ran, every face has the verdict masked, every certain face was
        /// classified in this frame, and no face was classified as unmasked in this frame.
        is_proven: bool,
    }

    /// The processing of frames, followed by the decision and the door.
    struct Chain {
        clock: Clock,
        processor: FrameProcessor<Scene>,
        connection: ConnectionId,
        /// The gray level of the frame, and that of its right edge, where nobody is.
        shade: u8,
        edge: u8,
        options: DeciderOptions,
        decider: Decider,
        decision: Decision,
        door: Door,
        is_open: bool,
        /// A result that the indicator thread has not taken yet.
        result: Option<FrameResult>,
        /// Number of crops of the latest frame that may be captured, and the number of faces
        /// for which there was no time.
        captured: usize,
        left_out: usize,
        seen: Vec<Seen>,
    }

    impl Chain {
        fn new() -> Chain {
            let clock = Clock::new();
            let options = DeciderOptions {
                confirm: Duration::from_millis(300),
                confirm_frames: 3,
                hold: Duration::from_millis(1500),
                stale: Duration::from_secs(5),
            };
            Chain {
                processor: processor(&clock),
                connection: ConnectionId::default(),
                shade: 0,
                edge: 0,
                options,
                decider: Decider::new(options, clock.now()),
                decision: Decision::Idle,
                door: Door::new(DoorOptions::without_inputs(
                    LockType::FailSecure,
                    Opening::Hold(Duration::from_secs(3)),
                )),
                is_open: false,
                result: None,
                captured: 0,
                left_out: 0,
                seen: Vec::new(),
                clock,
            }
        }

        /// Processes a frame of the scene.
        fn frame(&mut self) {
            let at = self.clock.now();
            let mut frame = Frame {
                connection: self.connection,
                ..frame(at, self.shade)
            };
            let pixels = &mut frame.pixels;
            for (x, y) in (0..20 * HEIGHT).map(|index| (index % 20, index / 20)) {
                pixels.put_pixel(WIDTH - 1 - x, y, Rgb([self.edge; 3]));
            }
            let models = &mut self.processor.models;
            models.has_detected = false;
            models.classified.clear();
            let standing = self.decider.standing();
            let processed = self.processor.process(&frame, standing, false, &self.clock);
            let processed = processed.unwrap();
            (self.captured, self.left_out) = (processed.classified.len(), processed.left_out);
            let result = processed.result;
            let models = &self.processor.models;
            // Whether a face was classified as masked in this frame, if it was classified.
            let masked = |face: &FaceResult| {
                let is_it = |person: &&Person| person.face.rect == face.face.rect;
                let classified = models.classified.iter().find(is_it);
                classified.map(|person| person.masked >= 0.65)
            };
            let is_certain = |face: &FaceResult| face.face.score >= 0.55;
            let may_be_masked = |face: &FaceResult| {
                matches!(face.verdict, Verdict::Masked(_)) && masked(face) != Some(false)
            };
            let faces = &result.faces;
            self.seen.push(Seen {
                at,
                origin: (self.connection, models.head, standing.faults),
                has_face: faces
                    .iter()
                    .any(|face| is_certain(face) || !may_be_masked(face)),
                is_proven: models.has_detected
                    && faces.iter().all(|face| {
                        may_be_masked(face) && (masked(face).is_some() || !is_certain(face))
                    }),
            });
            self.result = Some(result);
        }

        /// Does one step of the indicator thread's work.
        fn indicate(&mut self, progress: Progress) {
            let now = self.clock.now();
            self.decision = match self.result.take() {
                Some(result) => self.decider.observe(now, result.observation(), progress),
                None => self.decider.tick(now, progress),
            };
            let was_open = self.is_open;
            let decision = DoorDecision {
                decision: self.decision,
                mask_hold: self.decider.mask_hold(),
                locks: true,
            };
            let readings = DoorReadings::default();
            self.is_open = self.door.step(now, decision, readings).is_energized;
            assert!(was_open || !self.is_open || self.may_open(), "it opened");
        }

        /// Whether the door may open, according to an independent implementation of the
        /// conditions.
        fn may_open(&self) -> bool {
            let faults = self.decider.standing().faults;
            let newest = self.seen[self.seen.len() - 1];
            let first = self.seen.iter().rposition(|frame| {
                let (connection, head, _) = newest.origin;
                frame.origin != (connection, head, faults)
            });
            let same = &self.seen[first.map_or(0, |index| index + 1)..];
            let step_back = same.windows(2).rposition(|pair| pair[1].at < pair[0].at);
            let same = &same[step_back.map_or(0, |index| index + 1)..];
            let mut intervals: Vec<Duration> = same
                .windows(2)
                .map(|pair| pair[1].at - pair[0].at)
                .collect();
            intervals.drain(..intervals.len().saturating_sub(5));
            intervals.sort();
            let lower = intervals.len().saturating_sub(1) / 2;
            let median = intervals.get(lower).copied().unwrap_or_default();
            let allowed = (median * 3).max(Duration::from_millis(300));
            let faces: Vec<&Seen> = same.iter().filter(|frame| frame.has_face).collect();
            // Any run of the latest frames suffices if it has at least the configured
            // number of frames.
            (self.options.confirm_frames as usize..=faces.len()).any(|count| {
                let run = &faces[faces.len() - count..];
                let spans = run[count - 1].at - run[0].at;
                run.iter().all(|frame| frame.is_proven)
                    && run
                        .windows(2)
                        .all(|pair| pair[1].at - pair[0].at <= allowed)
                    && spans >= self.options.confirm
            })
        }
    }

    /// Something that happens at the door.
    #[derive(Debug, Clone)]
    enum Event {
        /// A number of frames, the time between them in ms, and whether the indicator
        /// thread misses some of them.
        Frames(u8, u64, bool),
        /// Different people are in front of the camera. For each person, the values are
        /// the probability of a mask, the detector's score, and whether the face check
        /// accepts the face.
        People(Vec<(f32, f32, bool)>),
        Motion,
        Pause(u64),
        StepBack(u64),
        Reconnect,
        NewHead,
        Options(u32, u64),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let masked =
            prop_oneof![6 => Just(0.97_f32), 1 => Just(0.6), 1 => Just(0.7), 1 => Just(0.05)];
        let score = prop_oneof![8 => Just(0.9_f32), 1 => Just(0.53), 3 => Just(0.3)];
        let person = (masked, score, prop::bool::weighted(0.8));
        let people = prop::collection::vec(person, 0..3);
        let millis = prop_oneof![Just(33_u64), Just(100), Just(125), Just(400), Just(1000)];
        let frames = (1_u8..12, millis, prop::bool::weighted(0.2));
        let event = prop_oneof![
            8 => frames.prop_map(|(count, ms, is_missed)| Event::Frames(count, ms, is_missed)),
            4 => people.prop_map(Event::People),
            1 => Just(Event::Motion),
            1 => (0_u64..7000).prop_map(Event::Pause),
            1 => (1_u64..7000).prop_map(Event::StepBack),
            1 => Just(Event::Reconnect),
            1 => Just(Event::NewHead),
            1 => (2_u32..6, 0_u64..1000).prop_map(|(frames, ms)| Event::Options(frames, ms)),
        ];
        prop::collection::vec(event, 1..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn a_door_opens_only_for_masks_that_were_classified_anew_in_enough_frames(events in events()) {
            let mut chain = Chain::new();
            for event in events {
                match event {
                    Event::Frames(count, ms, is_missed) => {
                        for index in 0..count {
                            chain.clock.pass(ms);
                            chain.frame();
                            if !is_missed || index % 3 == 2 {
                                chain.indicate(Progress::Working);
                            }
                        }
                    }
                    Event::People(people) => {
                        let people = people.into_iter().enumerate();
                        let people = people.map(|(place, (masked, score, is_face))| Person {
                            is_face,
                            ..person(place, 40.0, score, masked)
                        });
                        chain.processor.models.people = people.collect();
                        chain.shade = chain.shade.wrapping_add(50);
                    }
                    Event::Motion => chain.shade = chain.shade.wrapping_add(50),
                    Event::Pause(ms) => {
                        chain.clock.pass(ms);
                        chain.indicate(Progress::Stuck);
                    }
                    Event::StepBack(ms) => {
                        let now = chain.clock.now();
                        chain.clock.now.set(now.checked_sub(Duration::from_millis(ms)).unwrap());
                    }
                    Event::Reconnect => chain.connection = chain.connection.next(),
                    Event::NewHead => {
                        let models = &mut chain.processor.models;
                        models.head = models.head.next();
                    }
                    Event::Options(frames, ms) => {
                        chain.options.confirm_frames = frames;
                        chain.options.confirm = Duration::from_millis(ms);
                        chain.decider.set_options(chain.options);
                    }
                }
            }
        }
    }

    #[test]
    fn a_masked_person_who_stands_still_is_let_in_soon_and_then_costs_little() {
        for (interval, longest) in [(33, 363), (66, 330), (100, 300), (125, 375), (1000, 2000)] {
            let mut chain = Chain::new();
            chain.processor.models.people = vec![person(0, 40.0, 0.9, 0.97)];
            let start = chain.clock.now();
            while chain.decision != Decision::Mask {
                chain.frame();
                chain.indicate(Progress::Working);
                let waited = chain.clock.now() - start;
                assert!(waited <= Duration::from_millis(longest), "{interval} ms");
                chain.clock.pass(interval);
            }
            let mut classified = 0;
            for _ in 0..100 {
                chain.frame();
                classified += chain.processor.models.classified.len();
                chain.indicate(Progress::Working);
                assert_eq!(chain.decision, Decision::Mask);
                chain.clock.pass(interval);
            }
            // After the vote has settled, there is at most one classification per 500 ms
            // or per frame.
            let seconds = interval as usize * 100 / 1000;
            assert!(
                classified <= 5 + (2 * seconds).clamp(1, 100),
                "{classified}"
            );
        }
    }

    #[test]
    fn a_reconnect_ends_tracks_and_votes() {
        let mut chain = Chain::new();
        chain.processor.models.people = vec![person(0, 40.0, 0.9, 0.97)];
        let frame = |chain: &mut Chain| {
            chain.clock.pass(100);
            chain.frame();
            chain.result.take().unwrap().faces[0].clone()
        };
        let before = frame(&mut chain);
        chain.processor.models.people[0].masked = 0.77;
        let same = frame(&mut chain);
        assert_eq!(same.track, before.track);
        assert!((same.probabilities.unwrap()[0] - 0.87).abs() < 1e-3);
        chain.connection = chain.connection.next();
        let after = frame(&mut chain);
        assert!(after.track > before.track);
        assert_eq!(after.probabilities.unwrap()[0], 0.77, "a vote of its own");
        assert!(
            chain.processor.models.has_detected,
            "although nothing moved"
        );
    }

    #[test]
    fn frames_before_a_change_of_the_thresholds_do_not_confirm_later_ones() {
        let mut chain = Chain::new();
        chain.processor.models.people = vec![person(0, 40.0, 0.9, 0.97)];
        let frames = |chain: &mut Chain, count: u32| {
            for _ in 0..count {
                chain.clock.pass(100);
                chain.frame();
                chain.indicate(Progress::Working);
            }
        };
        frames(&mut chain, 3);
        assert_ne!(chain.decision, Decision::Mask, "they span only 200 ms");
        chain.processor.set_thresholds(0.9, 0.5);
        frames(&mut chain, 3);
        assert_ne!(chain.decision, Decision::Mask);
        frames(&mut chain, 1);
        assert_eq!(chain.decision, Decision::Mask);
    }

    impl Chain {
        /// Processes a frame with these people in it, 100 ms after the last one. Every
        /// part of the frame has changed.
        fn moved(&mut self, people: &[Person]) -> Vec<FaceResult> {
            self.shade = self.shade.wrapping_add(50);
            self.step(people)
        }

        /// Processes a frame with these people in it, 100 ms after the last one.
        fn step(&mut self, people: &[Person]) -> Vec<FaceResult> {
            self.processor.models.people = people.to_vec();
            self.clock.pass(100);
            self.frame();
            let faces = self.result.as_ref().unwrap().faces.clone();
            self.indicate(Progress::Working);
            faces
        }

        /// Number of faces and candidates that were classified in the latest frame.
        fn classified(&self) -> usize {
            self.processor.models.classified.len()
        }
    }

    #[test]
    fn a_person_who_tilts_the_head_keeps_the_track_and_neither_ends_nor_prolongs_a_mask() {
        for low in [0.53, 0.3] {
            let mut chain = Chain::new();
            for _ in 0..5 {
                chain.moved(&[person(0, 40.0, 0.9, 0.97)]);
            }
            assert_eq!(chain.decision, Decision::Mask);
            for frame in 1..=20 {
                let faces = chain.moved(&[person(0, 40.0, low, 0.97)]);
                assert_eq!(faces[0].track, Some(1), "{low}");
                assert_eq!(faces[0].verdict, Verdict::Masked(0));
                assert_eq!(faces[0].face.face_check, Some(0.95));
                let is_held = frame < 15;
                assert_eq!(chain.decision == Decision::Mask, is_held, "{low} {frame}");
            }
            assert_eq!(chain.decision, Decision::Idle);
            let faces = chain.moved(&[person(0, 40.0, 0.9, 0.97)]);
            assert_eq!(faces[0].track, Some(1));
            assert_eq!(faces[0].face.face_check, None);
        }
    }

    #[test]
    fn frames_of_low_score_between_others_do_not_delay_a_mask_and_do_not_count() {
        // The frames that count are 200 ms apart, so three of them take 400 ms.
        let mut chain = Chain::new();
        for index in 0..5 {
            assert_ne!(chain.decision, Decision::Mask, "{index}");
            let score = if index % 2 == 0 { 0.9 } else { 0.3 };
            chain.moved(&[person(0, 40.0, score, 0.97)]);
        }
        assert_eq!(chain.decision, Decision::Mask);
    }

    #[test]
    fn a_face_of_low_score_is_found_if_the_face_check_accepts_it_and_opens_no_door() {
        for (masked, verdict, decision) in [
            (0.97, Verdict::Masked(0), Decision::Idle),
            (0.05, Verdict::Unmasked(1), Decision::NoMask),
            (
                0.6,
                Verdict::Unsure(UnsureReason::Undecided),
                Decision::Unsure,
            ),
        ] {
            let mut chain = Chain::new();
            for frame in 0..20 {
                let faces = chain.moved(&[person(0, 40.0, 0.3, masked)]);
                assert_eq!(faces.len(), 1);
                assert_eq!((faces[0].track, faces[0].verdict), (Some(1), verdict));
                if frame > 4 {
                    assert_eq!(chain.decision, decision);
                }
            }
            assert!(!chain.is_open);
            // A masked person with a high score cannot open the door for this person.
            for _ in 0..20 {
                let both = [person(0, 40.0, 0.3, masked), person(1, 40.0, 0.9, 0.97)];
                assert_eq!(chain.moved(&both).len(), 2);
            }
            let is_mask = decision == Decision::Idle;
            assert_eq!(chain.decision == Decision::Mask, is_mask, "{masked}");
        }
    }

    #[test]
    fn a_settled_face_of_low_score_costs_as_little_as_any_other_face() {
        let mut chain = Chain::new();
        let mut classified = 0;
        for frame in 0..25 {
            let faces = chain.moved(&[person(0, 40.0, 0.3, 0.05)]);
            assert_eq!(faces[0].face.face_check, Some(0.95), "{frame}");
            classified += chain.classified();
        }
        // Five classifications settle the vote. After that, there are two per second.
        assert_eq!(classified, 5 + 4);
    }

    #[test]
    fn a_refused_box_is_no_face_and_is_not_checked_again_until_its_picture_changes() {
        let mut chain = Chain::new();
        assert_eq!(chain.step(&[coat(0)]), []);
        assert_eq!((chain.classified(), chain.captured), (1, 0));
        for index in 0..98 {
            // Something moves elsewhere in some frames, so the detector runs.
            chain.edge = chain.edge.wrapping_add(if index % 2 == 0 { 50 } else { 0 });
            assert_eq!(chain.step(&[coat(0)]), []);
            assert_eq!(chain.classified(), 0, "{index}");
        }
        assert_eq!(chain.decision, Decision::Idle);
        chain.step(&[coat(0)]);
        chain.edge = chain.edge.wrapping_add(50);
        chain.step(&[coat(0)]);
        assert_eq!(chain.classified(), 1, "ten seconds have passed");
        chain.moved(&[coat(0)]);
        assert_eq!(chain.classified(), 1, "the picture has changed");
        let faces = chain.moved(&[person(0, 40.0, 0.3, 0.05)]);
        assert_eq!(faces.len(), 1, "somebody stands there");
    }

    #[test]
    fn a_refused_box_continues_a_track_without_a_vote() {
        let mut chain = Chain::new();
        for _ in 0..3 {
            chain.moved(&[person(0, 40.0, 0.9, 0.05)]);
        }
        for _ in 0..12 {
            // The person turns, so that the head looks like a coat to the face check and
            // like a masked face to the classifier.
            assert_eq!(chain.moved(&[coat(0)]), []);
            assert_eq!((chain.classified(), chain.captured), (1, 0));
        }
        let faces = chain.moved(&[person(0, 40.0, 0.9, 0.05)]);
        assert_eq!(faces[0].track, Some(1));
        let probability = faces[0].probabilities.as_ref().unwrap()[0];
        assert!((probability - 0.05).abs() < 1e-6, "{probability}");
    }

    #[test]
    fn an_uncertain_face_that_the_face_check_refuses_is_unsure() {
        let mut chain = Chain::new();
        let refused = Person {
            is_face: false,
            ..person(0, 40.0, 0.53, 0.97)
        };
        for index in 0..10 {
            let faces = chain.step(&[refused]);
            assert_eq!(faces.len(), 1);
            assert_eq!(faces[0].verdict, Verdict::Unsure(UnsureReason::LowScore));
            assert_eq!(chain.captured, 0);
            assert_eq!(chain.classified(), usize::from(index == 0));
        }
        assert_eq!(chain.decision, Decision::Unsure);
    }

    #[test]
    fn a_box_of_high_score_that_is_unfamiliar_is_unsure_and_opens_no_door() {
        let mut chain = Chain::new();
        let unfamiliar = Verdict::Unsure(UnsureReason::Unfamiliar);
        let coat = Person {
            is_face: false,
            ..person(0, 40.0, 0.9, 0.97)
        };
        // The motionless coat is not classified in all of these frames.
        for _ in 0..10 {
            let faces = chain.step(&[coat]);
            assert_eq!(faces[0].verdict, unfamiliar);
            assert_eq!(
                chain.classified(),
                usize::from(faces[0].verdict_alone.is_some())
            );
            assert!(!chain.is_open);
        }
        assert_eq!(chain.decision, Decision::Unsure);
        // A masked person beside the coat does not open the door either.
        for _ in 0..5 {
            let faces = chain.moved(&[coat, person(1, 40.0, 0.9, 0.97)]);
            let verdicts: Vec<Verdict> = faces.iter().map(|face| face.verdict).collect();
            assert_eq!(verdicts, [unfamiliar, Verdict::Masked(0)]);
        }
        assert_eq!(chain.decision, Decision::Unsure);
        // A settled vote is used for 500 ms. The next classification decides, so a person who
        // turns to the camera soon gets a verdict.
        let verdicts = (0..10).map(|_| chain.moved(&[person(0, 40.0, 0.9, 0.97)])[0].verdict);
        assert_eq!(verdicts.last(), Some(Verdict::Masked(0)));
    }

    #[test]
    fn few_candidates_are_checked_in_a_frame_and_only_if_the_detector_ran() {
        let mut chain = Chain::new();
        let coats: Vec<Person> = (0..5)
            .map(|place| Person {
                face: Face {
                    rect: Rect {
                        x: 50.0 * place as f32,
                        ..coat(0).face.rect
                    },
                    ..coat(0).face
                },
                ..coat(0)
            })
            .collect();
        chain.step(&coats);
        assert_eq!(chain.classified(), MAX_CANDIDATES);
        chain.step(&coats);
        assert!(!chain.processor.models.has_detected, "nothing moved");
        assert_eq!(chain.classified(), 0);
        chain.edge = 50;
        chain.step(&coats);
        assert_eq!(chain.classified(), 2, "the others are known");
    }

    #[test]
    fn candidates_that_overlap_an_accepted_one_are_not_further_faces() {
        let mut chain = Chain::new();
        let part = person(0, 26.0, 0.25, 0.05);
        for classified in [2, 1] {
            let faces = chain.moved(&[person(0, 40.0, 0.3, 0.05), part]);
            assert_eq!(faces.len(), 1);
            assert_eq!(chain.classified(), classified);
        }
    }

    #[test]
    fn candidates_are_not_checked_after_the_time_limit() {
        let mut chain = Chain::new();
        chain.processor.models.ms_per_detection = 1000;
        let people = [coat(0), person(1, 40.0, 0.3, 0.05)];
        assert_eq!(chain.moved(&people), []);
        assert_eq!((chain.classified(), chain.left_out), (0, 0));
        // The nearest faces are classified even then. A batch has room for two.
        let people = [
            coat(0),
            person(1, 40.0, 0.9, 0.05),
            person(2, 50.0, 0.9, 0.05),
        ];
        assert_eq!(chain.moved(&people).len(), 2);
        assert_eq!((chain.classified(), chain.left_out), (2, 0));
    }

    #[test]
    fn too_many_faces_for_the_time_of_a_frame_are_unsure_and_the_nearest_are_classified() {
        for (ms_per_detection, ms_per_face, classified) in
            [(0, 100, 10), (0, 600, 2), (0, 7000, 2), (1200, 100, 2)]
        {
            let mut chain = Chain::new();
            chain.processor.models.ms_per_detection = ms_per_detection;
            chain.processor.models.ms_per_face = ms_per_face;
            let person = |place| person(place, 30.0 + place as f32, 0.9, 0.97);
            chain.processor.models.people = (0..80).map(person).collect();
            chain.frame();
            let result = chain.result.as_ref().unwrap();
            assert_eq!(result.faces.len(), 80);
            let is_unsure = |face: &FaceResult| {
                face.verdict == Verdict::Unsure(UnsureReason::Overload)
                    && face.probabilities.is_none()
            };
            let (unsure, known) = result.faces.split_at(80 - classified);
            assert!(unsure.iter().all(is_unsure), "{ms_per_face} ms per face");
            assert!(known.iter().all(|face| face.verdict == Verdict::Masked(0)));
            assert_eq!(result.decision(), Decision::Unsure);
            // Progress is reported once after the detection and once after each batch of
            // two faces.
            assert_eq!(chain.clock.progress.get(), 1 + classified / 2);
            for _ in 0..50 {
                chain.indicate(Progress::Working);
                assert!(matches!(chain.decision, Decision::Idle | Decision::Unsure));
                chain.frame();
            }
            assert_eq!(chain.decision, Decision::Unsure);
        }
    }

    /// Width and height of a frame in pixels. There is room for three people.
    const WIDTH: u32 = 320;
    const HEIGHT: u32 = 48;

    fn frame(at: Instant, shade: u8) -> Frame {
        Frame {
            seq: 0,
            at,
            pixels: RgbImage::from_pixel(WIDTH, HEIGHT, Rgb([shade; 3])),
            connection: ConnectionId::default(),
        }
    }

    #[test]
    fn the_motion_gate_opens_for_motion_and_for_age() {
        let start = Instant::now();
        let face = Face {
            rect: Rect {
                x: 1.0,
                y: 2.0,
                width: 30.0,
                height: 30.0,
            },
            score: 0.9,
            landmarks: [(0.0, 0.0); 5],
            face_check: None,
        };
        let detections = Detections {
            faces: vec![face],
            candidates: vec![person(1, 40.0, 0.3, 0.97).face],
        };
        let mut gate = MotionGate::new(Duration::from_millis(500));
        assert!(gate.unmoved(&frame(start, 100)).is_none(), "first");
        gate.record(&frame(start, 100), &detections);
        let still = gate.unmoved(&frame(later(start, 499), 100));
        assert_eq!(still, Some(detections));
        assert!(gate.unmoved(&frame(later(start, 10), 150)).is_none());
        assert!(gate.unmoved(&frame(later(start, 500), 100)).is_none());
        gate.record(&frame(later(start, 500), 150), &Detections::default());
        let still = gate.unmoved(&frame(later(start, 600), 150));
        assert_eq!(still.unwrap(), Detections::default(), "nobody is known too");
    }

    #[test]
    fn a_motion_gate_without_an_age_is_always_open() {
        let start = Instant::now();
        let mut gate = MotionGate::new(Duration::ZERO);
        gate.record(&frame(start, 100), &Detections::default());
        assert!(gate.unmoved(&frame(start, 100)).is_none());
    }
}
