//! Processes each frame: detects, tracks, and classifies the faces, lets the
//! classifications vote, determines the verdicts, and collects the evidence that is
//! required before a mask is confirmed.
//!
//! This module owns the state that is kept from frame to frame and the rules for skipping
//! work. It knows nothing about channels or the system clock. Traits provide the models
//! and the clock, so that the rules can be tested with thousands of frames.

use std::sync::Arc;
use std::time::{Duration, Instant};

use image::RgbImage;

use super::capture_worker::ClassifiedFace;
use crate::decision::confirm::{Basis, Confirmation, Sighting, Standing};
use crate::decision::decide::{Decision, UnsureReason, Verdict, VerdictPolicy};
use crate::decision::frame_result::{FaceResult, FrameResult};
use crate::frame::{Face, Frame};
use crate::vision::head::HeadId;
use crate::vision::motion::MotionDetector;
use crate::vision::pipeline::{Classification, Pipeline, PipelineError, Stage};
use crate::vision::track::Tracker;

/// The models that find and classify faces.
pub(super) trait Models {
    /// Detects the faces in a frame.
    fn detect(&mut self, pixels: &RgbImage) -> Result<Vec<Face>, PipelineError>;

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
    fn detect(&mut self, pixels: &RgbImage) -> Result<Vec<Face>, PipelineError> {
        Pipeline::detect(self, pixels)
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

/// Provides the time, and is notified of the progress of the work on a frame.
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
    confirmation: Confirmation,
    /// When the work on a frame has taken this long, no more faces are classified.
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

/// A face of the current frame with its track.
struct TrackedFace {
    face: Face,
    track: u64,
    state: FaceState,
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
        }
        let is_awaited = self.confirmation.is_awaited(standing);
        let unmoved = if is_awaited {
            None
        } else {
            self.motion_gate.unmoved_faces(frame)
        };
        let is_detected = unmoved.is_none();
        let faces = match unmoved {
            Some(faces) => faces,
            None => self.detect(frame, monitor)?,
        };
        let mut tracked = self.track(frame.at, faces, is_awaited || is_enrolling);
        let left_out = self.classify(frame, &mut tracked, start, monitor)?;

        let mut results = Vec::with_capacity(tracked.len());
        let mut classified = Vec::new();
        let mut is_proven = is_detected;
        for tracked_face in tracked {
            is_proven &= self.proves_mask(&tracked_face);
            let (result, classification) = self.judge(frame.at, tracked_face);
            classified.extend(classification);
            results.push(result);
        }
        let verdicts: Vec<Verdict> = results.iter().map(|face| face.verdict).collect();
        let sighting = match Decision::of_frame(&verdicts) {
            Decision::Idle => Sighting::Nobody,
            Decision::Mask if is_proven => Sighting::MaskedAnew,
            Decision::Mask => Sighting::Masked,
            Decision::NoMask | Decision::Unsure | Decision::Fault => Sighting::Other,
        };
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
            is_detected,
            left_out,
        })
    }

    fn detect(
        &mut self,
        frame: &Frame,
        monitor: &impl Monitor,
    ) -> Result<Vec<Face>, PipelineError> {
        let start = monitor.now();
        let faces = self.models.detect(&frame.pixels)?;
        let duration = monitor.now().saturating_duration_since(start);
        monitor.stage(Stage::Detect, duration);
        monitor.progress();
        self.motion_gate.record(frame, &faces);
        Ok(faces)
    }

    /// Assigns the faces to tracks. If `is_anew` is true, no face counts as settled.
    fn track(&mut self, at: Instant, faces: Vec<Face>, is_anew: bool) -> Vec<TrackedFace> {
        let tracks = self.tracker.assign(at, &faces);
        let tracked = faces.into_iter().zip(tracks).map(|(face, track)| {
            let settled = self.tracker.settled(at, track).filter(|_| !is_anew);
            let state = match settled {
                // A settled vote is not used once the face has become too small, so the
                // face is unsure like any other small face.
                _ if self.policy.unsure_reason(&face).is_some() => FaceState::Unsure,
                Some(vote) => FaceState::Settled(vote),
                None => FaceState::Unclassified,
            };
            TrackedFace { face, track, state }
        });
        tracked.collect()
    }

    /// Classifies the faces that need it, the largest ones first because they are the
    /// nearest ones, until the time limit has passed. Returns the number of faces that
    /// were left out.
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
        if waiting.is_empty() {
            return Ok(0);
        }
        let area = |index: &usize| tracked[*index].face.rect.area();
        waiting.sort_by(|a, b| area(b).total_cmp(&area(a)));
        let mut durations = [Duration::ZERO; Stage::ALL.len()];
        let mut last = monitor.now();
        let mut done = 0;
        for batch in waiting.chunks(self.models.batch().max(1)) {
            let is_late = monitor.now().saturating_duration_since(start) >= self.time_limit;
            // The nearest faces are always classified, even if the time limit has passed.
            if done > 0 && is_late {
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
        for stage in [Stage::Crop, Stage::Embed, Stage::Head] {
            monitor.stage(stage, durations[stage as usize]);
        }
        Ok(waiting.len() - done)
    }

    /// Whether this frame's classification of a face, without the votes of earlier
    /// frames, gives the verdict masked.
    fn proves_mask(&self, tracked: &TrackedFace) -> bool {
        let FaceState::Classified(classification) = &tracked.state else {
            return false;
        };
        let verdict = self
            .policy
            .verdict(&tracked.face, &classification.probabilities);
        classification.head == self.models.head_id() && matches!(verdict, Verdict::Masked(_))
    }

    /// Determines the verdict on a face from the vote of its track.
    fn judge(&mut self, at: Instant, tracked: TrackedFace) -> (FaceResult, Option<ClassifiedFace>) {
        let TrackedFace { face, track, state } = tracked;
        let (probabilities, classified) = match state {
            FaceState::Settled(vote) => (Some(vote), None),
            FaceState::Unsure | FaceState::Unclassified => (None, None),
            FaceState::Classified(classification) => {
                let vote = self.tracker.vote(at, track, &classification.probabilities);
                let classified = ClassifiedFace {
                    track,
                    area: face.rect.area(),
                    classification,
                };
                (Some(vote), Some(classified))
            }
        };
        let verdict = match (&probabilities, self.policy.unsure_reason(&face)) {
            (_, Some(reason)) => Verdict::Unsure(reason),
            (Some(vote), None) => self.policy.verdict(&face, vote),
            (None, None) => Verdict::Unsure(UnsureReason::Overload),
        };
        let result = FaceResult {
            face,
            track: Some(track),
            probabilities,
            verdict,
        };
        (result, classified)
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

    /// Forgets the last detection, so that the detector runs on the next frame.
    fn clear(&mut self) {
        self.last = None;
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
#[expect(
    clippy::disallowed_methods,
    reason = "tests need some instant to start from"
)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use image::Rgb;
    use proptest::prelude::*;

    use super::*;
    use crate::decision::decide::{Decider, DeciderOptions, Progress, VerdictOptions};
    use crate::frame::{CROP_SIDE, ConnectionId, Crop, Rect};
    use crate::indicate::{Door, LockType};
    use crate::onnx::FEATURES;
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
            // The start is far above the smallest possible `Instant`, so that the clock
            // can step back.
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

    /// Models that detect the faces that the test sets up, and record the calls that they
    /// receive.
    struct Scene {
        clock: Clock,
        head: HeadId,
        /// The faces, each with its probability of a mask.
        people: Vec<(Face, f32)>,
        /// The people who were present at the last detection.
        detected: Vec<(Face, f32)>,
        has_detected: bool,
        /// The faces that were classified, each with its probability of a mask.
        classified: Vec<(Face, f32)>,
        ms_per_face: u64,
    }

    impl Models for Scene {
        fn detect(&mut self, _pixels: &RgbImage) -> Result<Vec<Face>, PipelineError> {
            self.has_detected = true;
            self.detected.clone_from(&self.people);
            Ok(self.people.iter().map(|(face, _)| *face).collect())
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
                let person = self.detected.iter().find(|(known, _)| known == face);
                let (_, masked) = *person.expect("the faces are those of the last detection");
                self.classified.push((*face, masked));
                classifications.push(Classification {
                    crop: Crop::from_image(RgbImage::new(CROP_SIDE, CROP_SIDE)).unwrap(),
                    feature: Box::new([0.0; FEATURES]).into(),
                    head: self.head,
                    probabilities: vec![masked, 1.0 - masked],
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

    /// A face of the size `side` in one of several places.
    fn person(place: usize, side: f32, score: f32) -> Face {
        Face {
            rect: Rect {
                x: 100.0 * place as f32,
                y: 0.0,
                width: side,
                height: side,
            },
            score,
            landmarks: [(0.0, 0.0); 5],
        }
    }

    const LIMIT: Duration = Duration::from_secs(1);

    fn processor(clock: &Clock) -> FrameProcessor<Scene> {
        let labels = ["with_mask", "without_mask"].map(str::to_owned);
        let options = VerdictOptions {
            masked_labels: labels[..1].to_vec(),
            mask_from: 0.65,
            no_mask_to: 0.55,
            min_face: 24.0,
            min_score: 0.55,
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
        has_face: bool,
        /// Whether the detector ran, and every face was classified as masked.
        is_proven: bool,
    }

    /// The processing of frames, followed by the decision and the door.
    struct Chain {
        clock: Clock,
        processor: FrameProcessor<Scene>,
        connection: ConnectionId,
        shade: u8,
        options: DeciderOptions,
        decider: Decider,
        decision: Decision,
        door: Door,
        is_open: bool,
        /// A result that the indicator thread has not taken yet.
        result: Option<FrameResult>,
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
                options,
                decider: Decider::new(options, clock.now()),
                decision: Decision::Idle,
                door: Door::new(LockType::FailSecure, Duration::from_secs(3)),
                is_open: false,
                result: None,
                seen: Vec::new(),
                clock,
            }
        }

        /// Processes a frame of the scene.
        fn frame(&mut self) {
            let at = self.clock.now();
            let frame = Frame {
                connection: self.connection,
                ..frame(at, self.shade)
            };
            let models = &mut self.processor.models;
            models.has_detected = false;
            models.classified.clear();
            let standing = self.decider.standing();
            let processed = self.processor.process(&frame, standing, false, &self.clock);
            let result = processed.unwrap().result;
            let models = &self.processor.models;
            let is_masked = |face: &FaceResult| {
                let found = |(known, masked): &(Face, f32)| *known == face.face && *masked >= 0.65;
                models.classified.iter().any(found) && face.face.score >= 0.55
            };
            self.seen.push(Seen {
                at,
                origin: (self.connection, models.head, standing.faults),
                has_face: !result.faces.is_empty(),
                is_proven: models.has_detected && result.faces.iter().all(is_masked),
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
            self.is_open = self.door.is_energized(now, self.decision);
            assert!(was_open || !self.is_open || self.may_open(), "it opened");
        }

        /// Checks, with an independent implementation, the conditions that must hold when
        /// the relay opens.
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
        /// The people in front of the camera, each with a probability of a mask, and
        /// whether the detector is certain.
        People(Vec<(f32, bool)>),
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
        let people = prop::collection::vec((masked, prop::bool::weighted(0.9)), 0..3);
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
                        let people = people.map(|(place, (masked, is_certain))| {
                            (person(place, 40.0, if is_certain { 0.9 } else { 0.53 }), masked)
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
            chain.processor.models.people = vec![(person(0, 40.0, 0.9), 0.97)];
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
        chain.processor.models.people = vec![(person(0, 40.0, 0.9), 0.97)];
        let frame = |chain: &mut Chain| {
            chain.clock.pass(100);
            chain.frame();
            chain.result.take().unwrap().faces[0].clone()
        };
        let before = frame(&mut chain);
        chain.processor.models.people[0].1 = 0.77;
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
    fn a_box_of_low_score_continues_a_track_and_never_counts_toward_mask() {
        let mut chain = Chain::new();
        for index in 0..40 {
            let score = if index % 3 == 2 { 0.53 } else { 0.9 };
            chain.processor.models.people = vec![(person(0, 40.0, score), 0.97)];
            chain.shade = chain.shade.wrapping_add(50);
            chain.clock.pass(100);
            chain.frame();
            let faces = &chain.result.as_ref().unwrap().faces;
            assert_eq!(faces[0].track, Some(1));
            chain.indicate(Progress::Working);
            assert_ne!(chain.decision, Decision::Mask);
        }
    }

    #[test]
    fn too_many_faces_for_the_time_of_a_frame_are_unsure_and_the_nearest_are_classified() {
        for (ms_per_face, classified) in [(100, 10), (600, 2), (7000, 2)] {
            let mut chain = Chain::new();
            chain.processor.models.ms_per_face = ms_per_face;
            let face = |place| person(place, 30.0 + place as f32, 0.9);
            chain.processor.models.people = (0..80).map(|place| (face(place), 0.97)).collect();
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
            // The detection is one part of the work, and each batch of two faces is
            // another part.
            assert_eq!(chain.clock.progress.get(), 1 + classified / 2);
            for _ in 0..50 {
                chain.indicate(Progress::Working);
                assert!(matches!(chain.decision, Decision::Idle | Decision::Unsure));
                chain.frame();
            }
            assert_eq!(chain.decision, Decision::Unsure);
        }
    }

    fn frame(at: Instant, shade: u8) -> Frame {
        Frame {
            seq: 0,
            at,
            pixels: RgbImage::from_pixel(64, 48, Rgb([shade; 3])),
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
        let start = Instant::now();
        let mut gate = MotionGate::new(Duration::ZERO);
        gate.record(&frame(start, 100), &[]);
        assert!(gate.unmoved_faces(&frame(start, 100)).is_none());
    }
}
