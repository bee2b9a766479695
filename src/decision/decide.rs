//! Turns probabilities into verdicts, and verdicts over time into decisions.
//!
//! This module owns the thresholds, the labels that count as masked, the hysteresis, the hold time,
//! and the conditions for a mask and for a fault. It reads no clock: callers pass the time as an
//! argument.

use std::time::{Duration, Instant};

use serde::Serialize;
use utoipa::ToSchema;

use crate::decision::confirm::{Basis, Evidence, Standing, apart};
use crate::frame::Face;

/// Options that determine the verdict on a face.
#[derive(Debug, Clone, PartialEq)]
pub struct VerdictOptions {
    /// The labels that count as masked; every other label counts as unmasked.
    pub masked_labels: Vec<String>,
    /// Threshold between 0 and 1. The verdict is masked if P(masked) is at least this value.
    pub mask_from: f32,
    /// Threshold between 0 and `mask_from`. The verdict is unmasked if P(masked) is at most this
    /// value. If P(masked) is between the two thresholds, the verdict is unsure.
    pub no_mask_to: f32,
    /// Limit in pixels of the frame. A face is small if its shorter side is below this limit.
    pub small_face: f32,
    /// For a small face, each threshold is raised by this fraction of the difference between 1 and
    /// the threshold. The fraction is between 0 and 1. The mouth of a small face is blurred, and a
    /// blurred mouth looks like a mask.
    pub small_face_raise: f32,
    /// Minimum length of the shorter side of a face, in pixels of the frame. The verdict on a
    /// smaller face is unsure.
    pub min_face: f32,
    /// Minimum detector score of a face. The verdict on a face with a lower score is unsure, unless
    /// the face check accepted the face.
    pub min_score: f32,
    /// Limit between 0 and 1. The verdict is unsure if the probability that the crop shows a face
    /// is below this limit. With 0, no face is unfamiliar.
    pub unfamiliar_below: f32,
}

impl VerdictOptions {
    /// Returns the thresholds `mask_from` and `no_mask_to` for a face.
    fn thresholds(&self, face: &Face) -> (f32, f32) {
        let is_small = face.rect.short_side() < self.small_face;
        let raise = if is_small { self.small_face_raise } else { 0.0 };
        let raised = |threshold: f32| threshold + raise * (1.0 - threshold);
        (raised(self.mask_from), raised(self.no_mask_to))
    }
}

/// The reason the verdict on a face is unsure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnsureReason {
    /// The face is smaller than [`VerdictOptions::min_face`].
    TooSmall,
    /// The detector score is below [`VerdictOptions::min_score`].
    LowScore,
    /// The crop looks unlike the faces that the face check has learned: its probability of a face
    /// is below [`VerdictOptions::unfamiliar_below`].
    Unfamiliar,
    /// P(masked) lies between the thresholds.
    Undecided,
    /// The frame had so many faces that there was no time to classify this one.
    Overload,
}

/// The verdict on one face. Each number is the index of one of the head's labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The face is masked. Contains the likeliest of the labels that count as masked.
    Masked(usize),
    /// The face is unmasked, or its mask is worn incorrectly. Contains the likeliest of the labels
    /// that do not count as masked.
    Unmasked(usize),
    /// There is no verdict, because a guess would be worse than none. Contains the reason.
    Unsure(UnsureReason),
}

impl Verdict {
    /// The name of the verdict in logs and JSON: a label of the head, or `unsure`.
    #[must_use]
    pub fn name<'a>(&self, labels: &'a [String]) -> &'a str {
        match *self {
            Verdict::Masked(label) | Verdict::Unmasked(label) => {
                labels.get(label).map_or("unsure", String::as_str)
            }
            Verdict::Unsure(_) => "unsure",
        }
    }
}

/// Turns the probabilities of a face into a verdict.
#[derive(Debug, Clone)]
pub struct VerdictPolicy {
    options: VerdictOptions,
    /// Whether each label of the head counts as masked.
    masked: Vec<bool>,
}

/// The configured masked labels do not split the head's labels into two groups.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "classify.masked-labels = {masked:?} must name at least one and not all of the head's labels {labels:?}"
)]
pub struct LabelError {
    masked: Vec<String>,
    labels: Vec<String>,
}

impl VerdictPolicy {
    /// Creates a policy for a head with these labels.
    ///
    /// # Errors
    /// [`LabelError`] if a masked label is not among the head's labels, or if all or none of the
    /// head's labels count as masked.
    pub fn new(options: VerdictOptions, labels: &[String]) -> Result<VerdictPolicy, LabelError> {
        let masked: Vec<bool> = labels
            .iter()
            .map(|label| options.masked_labels.contains(label))
            .collect();
        let known = options
            .masked_labels
            .iter()
            .all(|label| labels.contains(label));
        if !known || !masked.contains(&true) || !masked.contains(&false) {
            return Err(LabelError {
                masked: options.masked_labels,
                labels: labels.to_vec(),
            });
        }
        Ok(VerdictPolicy { options, masked })
    }

    /// Creates a policy that has the same options, but is for a head with other labels.
    ///
    /// # Errors
    /// Returns the errors of [`VerdictPolicy::new`].
    pub fn with_labels(&self, labels: &[String]) -> Result<VerdictPolicy, LabelError> {
        VerdictPolicy::new(self.options.clone(), labels)
    }

    /// Replaces [`VerdictOptions::mask_from`] and [`VerdictOptions::no_mask_to`].
    pub fn set_thresholds(&mut self, mask_from: f32, no_mask_to: f32) {
        self.options.mask_from = mask_from;
        self.options.no_mask_to = no_mask_to;
    }

    /// If the verdict on a face is unsure regardless of its classification, returns the
    /// reason. Returns `None` if the face must be classified.
    #[must_use]
    pub fn unsure_reason(&self, face: &Face) -> Option<UnsureReason> {
        if face.rect.short_side() < self.options.min_face {
            Some(UnsureReason::TooSmall)
        } else if face.score < self.options.min_score && face.face_check.is_none() {
            Some(UnsureReason::LowScore)
        } else {
            None
        }
    }

    /// Returns the verdict on a face with these probabilities, one per label.
    /// `face_probability` is the probability that the crop shows a face, or `None` if there is no
    /// face check. Without it, no face is unfamiliar.
    #[must_use]
    pub fn verdict(
        &self,
        face: &Face,
        probabilities: &[f32],
        face_probability: Option<f32>,
    ) -> Verdict {
        if let Some(reason) = self.unsure_reason(face) {
            return Verdict::Unsure(reason);
        }
        if face_probability.is_some_and(|p| p < self.options.unfamiliar_below) {
            return Verdict::Unsure(UnsureReason::Unfamiliar);
        }
        let side = |masked: bool| {
            let of_side = self.masked.iter().zip(probabilities).enumerate();
            of_side
                .filter(move |(_, (side, _))| **side == masked)
                .map(|(index, (_, p))| (index, *p))
        };
        let p_masked: f32 = side(true).map(|(_, p)| p).sum();
        let likeliest = |masked: bool| {
            side(masked)
                .max_by(|a, b| a.1.total_cmp(&b.1))
                .map(|(index, _)| index)
        };
        let (mask_from, no_mask_to) = self.options.thresholds(face);
        let verdict = if p_masked >= mask_from {
            likeliest(true).map(Verdict::Masked)
        } else if p_masked <= no_mask_to {
            likeliest(false).map(Verdict::Unmasked)
        } else {
            None
        };
        verdict.unwrap_or(Verdict::Unsure(UnsureReason::Undecided))
    }
}

/// The decision that the LEDs at the door show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// There is no face, or there are only masked faces that the detector scores low.
    Idle,
    /// Everyone is wearing a mask.
    Mask,
    /// At least one person is not wearing a mask.
    NoMask,
    /// The verdict on at least one face is unsure, and no face is unmasked.
    Unsure,
    /// There are no recent frames.
    Fault,
}

impl Decision {
    /// All decisions.
    pub const ALL: [Decision; 5] = [
        Decision::Idle,
        Decision::Mask,
        Decision::NoMask,
        Decision::Unsure,
        Decision::Fault,
    ];

    /// The name of the decision in logs and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Decision::Idle => "idle",
            Decision::Mask => "mask",
            Decision::NoMask => "no_mask",
            Decision::Unsure => "unsure",
            Decision::Fault => "fault",
        }
    }

    /// Returns the decision for a single frame. One unmasked face outweighs any number of
    /// other faces, and one unsure face outweighs all masked faces.
    ///
    /// ```
    /// use maskd::decision::decide::{Decision, UnsureReason, Verdict};
    /// let both = [Verdict::Masked(0), Verdict::Unsure(UnsureReason::TooSmall)];
    /// assert_eq!(Decision::of_frame(&both), Decision::Unsure);
    /// assert_eq!(Decision::of_frame(&[]), Decision::Idle);
    /// ```
    #[must_use]
    pub fn of_frame(verdicts: &[Verdict]) -> Decision {
        let any = |kind: fn(&Verdict) -> bool| verdicts.iter().any(kind);
        if verdicts.is_empty() {
            Decision::Idle
        } else if any(|verdict| matches!(verdict, Verdict::Unmasked(_))) {
            Decision::NoMask
        } else if any(|verdict| matches!(verdict, Verdict::Unsure(_))) {
            Decision::Unsure
        } else {
            Decision::Mask
        }
    }
}

/// Options that determine how quickly decisions change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeciderOptions {
    /// The decision changes only after frames have contradicted it for this long.
    pub confirm: Duration,
    /// The decision becomes [`Decision::Mask`] only if at least this many consecutive
    /// frames confirm it.
    pub confirm_frames: u32,
    /// The decision is held for this long after the last face has left.
    pub hold: Duration,
    /// If no fresh frame arrives for longer than this, the decision is [`Decision::Fault`].
    pub stale: Duration,
}

/// Minimum time that a mask decision lasts without new frames, because a busy device may be
/// late with a frame. Applies only while the camera is not known to be lost.
const MIN_MASK_HOLD: Duration = Duration::from_secs(1);

/// Minimum number of frame intervals that a mask decision lasts without new frames. Applies only
/// while the camera is not known to be lost.
const HELD_INTERVALS: u32 = 3;

/// What one frame contributes to the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// Capture time of the frame.
    pub at: Instant,
    /// The decision for the frame alone.
    pub decision: Decision,
    /// The extent to which the frame confirms a mask.
    pub evidence: Evidence,
}

/// Whether new results can be expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The camera sends frames and they are being processed, although a result may take a
    /// long time.
    Working,
    /// The camera sends no frames, or the frames are not being processed.
    Stuck,
}

/// Why there are no frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The camera is being reconnected, which usually succeeds soon.
    Reconnecting,
    /// The camera is known to be unplugged.
    Unplugged,
}

/// Turns the decisions for single frames into a stable decision.
#[derive(Debug)]
pub struct Decider {
    options: DeciderOptions,
    decision: Decision,
    /// The basis of the mask decision, or `None` if the decision is not mask.
    mask: Option<Basis>,
    /// Number of faults so far.
    faults: u64,
    /// Whether the camera has been lost since the latest frame.
    is_lost: bool,
    /// Whether there has been a frame since startup.
    has_frames: bool,
    /// Capture time of the latest frame, or the start time if there is none.
    last_frame: Instant,
    /// The time between frames.
    interval: Duration,
    /// Capture time of the latest frame with a face. While the decision is mask, frames with
    /// another basis do not count.
    last_face: Option<Instant>,
    /// The time when frames with faces began to contradict the decision, or `None` if
    /// they do not contradict it.
    contradicted_since: Option<Instant>,
}

impl Decider {
    /// Creates a decider that starts at time `now` without a face. If no frames arrive,
    /// the decision becomes a fault after [`DeciderOptions::stale`].
    #[must_use]
    pub fn new(options: DeciderOptions, now: Instant) -> Decider {
        Decider {
            options,
            decision: Decision::Idle,
            mask: None,
            faults: 0,
            is_lost: false,
            has_frames: false,
            last_frame: now,
            interval: Duration::ZERO,
            last_face: None,
            contradicted_since: None,
        }
    }

    /// Replaces the options.
    pub fn set_options(&mut self, options: DeciderOptions) {
        self.options = options;
    }

    /// Returns the part of the decider's state that is needed to process the next frames.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            faults: self.faults,
            mask: self.mask,
        }
    }

    /// Adds a frame, and returns the decision at time `now`.
    ///
    /// The decision changes to mask only when a frame completes a run of frames that
    /// confirm each other. It changes to any other decision once frames have contradicted
    /// the current decision for long enough.
    ///
    /// A frame without a face is ignored until `hold` has passed since the last frame
    /// with a face, because the detector misses a face in some frames. Such frames must
    /// neither end a decision nor prolong it. The same is true for a frame that shows only
    /// masked faces with low scores.
    pub fn observe(&mut self, now: Instant, frame: Observation, progress: Progress) -> Decision {
        let Observation { at, evidence, .. } = frame;
        self.is_lost = false;
        self.has_frames = true;
        self.last_frame = at;
        self.interval = evidence.interval;
        if self.is_stale(now) {
            return self.without_results(progress);
        }
        if self.decision == Decision::Fault {
            // Any fresh frame ends a fault immediately, but a single frame cannot make
            // the decision mask.
            self.decision = match frame.decision {
                Decision::Mask => Decision::Idle,
                other => other,
            };
        }
        let is_mask_of_other_basis = self.mask.is_some_and(|basis| basis != evidence.basis);
        if (frame.decision == Decision::Idle || is_mask_of_other_basis) && !self.is_held(at) {
            self.become_idle();
        }
        if frame.decision == Decision::Idle {
            return self.decision;
        }
        if self.confirms_mask(frame) {
            self.become_mask(frame);
            return self.decision;
        }
        if self.mask.is_none_or(|basis| basis == evidence.basis) {
            self.last_face = Some(at);
        }
        self.contradict(frame);
        self.decision
    }

    /// Whether the frame ends a run of frames that changes the decision to mask.
    fn confirms_mask(&self, frame: Observation) -> bool {
        let Evidence { basis, run, .. } = frame.evidence;
        let DeciderOptions {
            confirm,
            confirm_frames,
            ..
        } = self.options;
        frame.decision == Decision::Mask
            && basis.faults == self.faults
            && run.is_some_and(|run| run.confirms(confirm_frames, confirm))
    }

    fn become_mask(&mut self, frame: Observation) {
        self.decision = Decision::Mask;
        self.mask = Some(frame.evidence.basis);
        self.last_face = Some(frame.at);
        self.contradicted_since = None;
    }

    fn become_idle(&mut self) {
        self.decision = Decision::Idle;
        self.mask = None;
        self.contradicted_since = None;
    }

    /// Adds a frame that contains a face but does not confirm a mask.
    fn contradict(&mut self, frame: Observation) {
        let Observation { at, evidence, .. } = frame;
        let is_same_mask = self.mask == Some(evidence.basis);
        // A mask that is not confirmed by a run of frames makes the decision unsure.
        let decision = match frame.decision {
            Decision::Mask if !is_same_mask && evidence.run.is_none() => Decision::Unsure,
            decision => decision,
        };
        if decision == self.decision {
            self.contradicted_since = None;
            return;
        }
        let since = *self.contradicted_since.get_or_insert(at);
        if decision != Decision::Mask && apart(at, since) >= self.options.confirm {
            self.decision = decision;
            self.mask = None;
            self.last_face = Some(at);
            self.contradicted_since = None;
        }
    }

    /// Returns the decision at time `now` if no frame has arrived.
    ///
    /// A mask ends after `hold`, because nothing shows that the person is still there. If the
    /// latest frame is stale, the decision is [`Decision::Unsure`] while frames are being
    /// processed, and [`Decision::Fault`] otherwise.
    pub fn tick(&mut self, now: Instant, progress: Progress) -> Decision {
        if self.is_stale(now) {
            return self.without_results(progress);
        }
        if self.decision == Decision::Mask && !self.is_mask_held(now) {
            self.become_idle();
        }
        self.decision
    }

    /// Notifies the decider that the camera is lost and is being reopened. The decision
    /// becomes a fault only when the latest frame is stale, because many network cameras
    /// occasionally drop their connections. A mask ends after `hold` at the latest. If
    /// the camera has not sent a frame yet, or if it is unplugged, the decision becomes a
    /// fault immediately.
    pub fn lose_camera(&mut self, now: Instant, loss: Loss) -> Decision {
        self.is_lost = true;
        if !self.has_frames || loss == Loss::Unplugged {
            return self.without_results(Progress::Stuck);
        }
        self.tick(now, Progress::Stuck)
    }

    fn is_stale(&self, now: Instant) -> bool {
        apart(now, self.last_frame) > self.options.stale
    }

    /// Whether the last face was seen recently enough for the decision to be held.
    fn is_held(&self, at: Instant) -> bool {
        self.last_face
            .is_some_and(|face| apart(at, face) < self.options.hold)
    }

    /// Like [`is_held`](Decider::is_held), but uses the hold time of a mask.
    fn is_mask_held(&self, now: Instant) -> bool {
        let hold = self.mask_hold();
        self.last_face.is_some_and(|face| apart(now, face) < hold)
    }

    /// Returns the time for which a mask decision lasts without a face. It is longer than for other
    /// decisions unless the camera is known to be lost, because the next frame may be late.
    pub(crate) fn mask_hold(&self) -> Duration {
        if self.is_lost {
            return self.options.hold;
        }
        let intervals = self.interval.saturating_mul(HELD_INTERVALS);
        self.options.hold.max(intervals).max(MIN_MASK_HOLD)
    }

    /// Sets the decision while there is no fresh frame.
    fn without_results(&mut self, progress: Progress) -> Decision {
        let decision = match progress {
            Progress::Working => Decision::Unsure,
            Progress::Stuck => Decision::Fault,
        };
        if decision == Decision::Fault && self.decision != Decision::Fault {
            self.faults += 1;
        }
        self.decision = decision;
        self.mask = None;
        self.last_face = None;
        self.contradicted_since = None;
        decision
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests need an arbitrary start time"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decision::confirm::{Confirmation, Sighting};
    use crate::frame::{ConnectionId, Rect};
    use crate::vision::head::HeadId;

    fn policy() -> VerdictPolicy {
        let options = VerdictOptions {
            masked_labels: vec!["with_mask".into()],
            mask_from: 0.7,
            no_mask_to: 0.4,
            small_face: 40.0,
            small_face_raise: 0.5,
            min_face: 30.0,
            min_score: 0.6,
            unfamiliar_below: 0.2,
        };
        VerdictPolicy::new(options, &labels()).expect("one label on each side")
    }

    fn labels() -> Vec<String> {
        ["worn_wrong", "with_mask", "without_mask"]
            .map(String::from)
            .to_vec()
    }

    fn face(side: f32, score: f32) -> Face {
        let rect = Rect {
            x: 0.0,
            y: 0.0,
            width: side,
            height: side + 5.0,
        };
        Face {
            rect,
            score,
            landmarks: [(0.0, 0.0); 5],
            face_check: None,
        }
    }

    #[test]
    fn thresholds_divide_masked_unsure_and_unmasked() {
        let verdict = |p: [f32; 3]| policy().verdict(&face(50.0, 0.9), &p, None);
        assert_eq!(verdict([0.1, 0.7, 0.2]), Verdict::Masked(1));
        assert_eq!(
            verdict([0.2, 0.69, 0.11]),
            Verdict::Unsure(UnsureReason::Undecided)
        );
        assert_eq!(verdict([0.4, 0.4, 0.2]), Verdict::Unmasked(0));
        assert_eq!(verdict([0.1, 0.1, 0.8]), Verdict::Unmasked(2));
        assert_eq!(verdict([0.1, 0.1, 0.8]).name(&labels()), "without_mask");
        assert_eq!(
            verdict([f32::NAN; 3]),
            Verdict::Unsure(UnsureReason::Undecided)
        );
    }

    #[test]
    fn small_and_low_scoring_faces_are_always_unsure() {
        let certain = [0.0, 1.0, 0.0];
        assert_eq!(
            policy().verdict(&face(29.0, 0.9), &certain, None),
            Verdict::Unsure(UnsureReason::TooSmall)
        );
        assert_eq!(
            policy().verdict(&face(30.0, 0.59), &certain, None),
            Verdict::Unsure(UnsureReason::LowScore)
        );
        assert_eq!(
            policy().verdict(&face(30.0, 0.6), &certain, None),
            Verdict::Masked(1)
        );
    }

    #[test]
    fn a_face_is_unfamiliar_if_the_crop_hardly_shows_a_face() {
        let certain = [0.0, 1.0, 0.0];
        let verdict = |side: f32, face_probability| {
            policy().verdict(&face(side, 0.9), &certain, face_probability)
        };
        let unfamiliar = Verdict::Unsure(UnsureReason::Unfamiliar);
        assert_eq!(verdict(50.0, Some(0.199)), unfamiliar);
        assert_eq!(verdict(50.0, Some(0.2)), Verdict::Masked(1));
        assert_eq!(verdict(50.0, None), Verdict::Masked(1));
        let too_small = Verdict::Unsure(UnsureReason::TooSmall);
        assert_eq!(verdict(29.0, Some(0.0)), too_small);
    }

    proptest! {
        #[test]
        fn a_higher_limit_or_a_less_likely_face_only_turns_verdicts_into_unsure(
            side in 10.0_f32..100.0,
            score in 0.0_f32..1.0,
            masked in 0.0_f32..=1.0,
            face_probability in prop::option::of(0.0_f32..=1.0),
            limit in 0.0_f32..=1.0,
            raise in 0.0_f32..=1.0,
            lowered in 0.0_f32..=1.0,
        ) {
            let verdict = |unfamiliar_below: f32, face_probability: Option<f32>| {
                let mut policy = policy();
                policy.options.unfamiliar_below = unfamiliar_below;
                let probabilities = [0.0, masked, 1.0 - masked];
                policy.verdict(&face(side, score), &probabilities, face_probability)
            };
            let off = verdict(0.0, face_probability);
            let before = verdict(limit, face_probability);
            prop_assert_eq!(off, verdict(1.0, None));
            let raised = verdict(limit + raise * (1.0 - limit), face_probability);
            let less_likely = verdict(limit, face_probability.map(|p| p * lowered));
            for (from, to) in [(off, before), (before, raised), (before, less_likely)] {
                let is_unfamiliar = to == Verdict::Unsure(UnsureReason::Unfamiliar);
                prop_assert!(to == from || is_unfamiliar, "{:?} became {:?}", from, to);
            }
        }
    }

    #[test]
    fn masked_labels_must_be_some_but_not_all_of_the_labels() {
        let policy = |masked: &[&str]| {
            let options = VerdictOptions {
                masked_labels: masked.iter().map(ToString::to_string).collect(),
                mask_from: 0.5,
                no_mask_to: 0.5,
                small_face: 0.0,
                small_face_raise: 0.0,
                min_face: 0.0,
                min_score: 0.0,
                unfamiliar_below: 0.0,
            };
            VerdictPolicy::new(options, &labels())
        };
        assert!(policy(&["with_mask"]).is_ok());
        assert!(policy(&[]).is_err());
        assert!(policy(&["wit_mask"]).is_err());
        assert!(policy(&["worn_wrong", "with_mask", "without_mask"]).is_err());
    }

    #[test]
    fn both_thresholds_are_higher_for_small_faces() {
        let policy = policy();
        let verdict = |side: f32, masked: f32| {
            let probabilities = [0.0, masked, 1.0 - masked];
            policy.verdict(&face(side, 0.9), &probabilities, Some(0.2))
        };
        // The thresholds are 0.7 and 0.4 for faces of at least 40 pixels, and 0.85 and 0.7 for
        // smaller faces.
        assert_eq!(verdict(40.0, 0.72), Verdict::Masked(1));
        assert_eq!(
            verdict(39.9, 0.72),
            Verdict::Unsure(UnsureReason::Undecided)
        );
        assert_eq!(verdict(39.9, 0.86), Verdict::Masked(1));
        assert_eq!(verdict(39.9, 0.69), Verdict::Unmasked(2));
        assert_eq!(
            verdict(40.0, 0.69),
            Verdict::Unsure(UnsureReason::Undecided)
        );
    }

    const OPTIONS: DeciderOptions = DeciderOptions {
        confirm: Duration::from_millis(300),
        confirm_frames: 3,
        hold: Duration::from_millis(1500),
        stale: Duration::from_secs(5),
    };

    /// A decider and the processing steps that precede it. Times are in milliseconds
    /// since the start.
    struct Chain {
        start: Instant,
        confirmation: Confirmation,
        decider: Decider,
        connection: ConnectionId,
        head: HeadId,
    }

    impl Chain {
        fn new() -> Chain {
            let start = Instant::now();
            Chain {
                start,
                confirmation: Confirmation::default(),
                decider: Decider::new(OPTIONS, start),
                connection: ConnectionId::default(),
                head: HeadId::default(),
            }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn reconnect(&mut self) {
            self.connection = self.connection.next();
        }

        /// Processes a frame in which every face is detected and classified.
        fn process(&mut self, ms: u64, decision: Decision) -> Observation {
            let sighting = match decision {
                Idle => Sighting::Nobody,
                Mask => Sighting::MaskedAnew,
                NoMask | Unsure | Fault => Sighting::Other,
            };
            self.process_as(ms, decision, sighting)
        }

        fn process_as(&mut self, ms: u64, decision: Decision, sighting: Sighting) -> Observation {
            let at = self.at(ms);
            let basis = Basis {
                connection: self.connection,
                head: self.head,
                faults: self.decider.standing().faults,
            };
            self.confirmation.begin(at, basis);
            let evidence = self.confirmation.end(at, sighting);
            Observation {
                at,
                decision,
                evidence,
            }
        }

        fn frame(&mut self, ms: u64, decision: Decision) -> Decision {
            let frame = self.process(ms, decision);
            self.decider.observe(frame.at, frame, Progress::Working)
        }

        fn frames(&mut self, decision: Decision, times: &[u64]) -> Vec<Decision> {
            times.iter().map(|ms| self.frame(*ms, decision)).collect()
        }

        fn tick(&mut self, ms: u64, progress: Progress) -> Decision {
            self.decider.tick(self.at(ms), progress)
        }

        fn lose_camera(&mut self, ms: u64) -> Decision {
            self.decider.lose_camera(self.at(ms), Loss::Reconnecting)
        }
    }

    /// Plays these frames, given as (capture time in milliseconds, decision for the frame). Returns
    /// the decision after each frame.
    fn play(frames: &[(u64, Decision)]) -> Vec<Decision> {
        let mut chain = Chain::new();
        frames
            .iter()
            .map(|&(ms, frame)| chain.frame(ms, frame))
            .collect()
    }

    use Decision::{Fault, Idle, Mask, NoMask, Unsure};

    #[test]
    fn a_decision_changes_once_frames_contradict_it_for_long_enough() {
        let shown = play(&[
            (0, Mask),
            (200, Mask),
            (300, Mask),
            (400, NoMask),
            (500, Mask),
        ]);
        assert_eq!(shown, [Idle, Idle, Mask, Mask, Mask]);
    }

    #[test]
    fn flicker_between_other_decisions_does_not_keep_the_old_one() {
        let shown = play(&[
            (0, Mask),
            (150, Mask),
            (300, Mask),
            (400, NoMask),
            (500, Unsure),
            (700, NoMask),
        ]);
        assert_eq!(shown, [Idle, Idle, Mask, Mask, Mask, NoMask]);
    }

    #[test]
    fn the_decision_is_held_after_the_last_face_has_left() {
        let shown = play(&[
            (0, Mask),
            (150, Mask),
            (300, Mask),
            (400, Idle),
            (1799, Idle),
            (1800, Idle),
        ]);
        assert_eq!(shown, [Idle, Idle, Mask, Mask, Mask, Idle]);
    }

    #[test]
    fn the_hold_of_one_person_does_not_shorten_the_confirmation_of_the_next() {
        let shown = play(&[
            (0, Mask),
            (150, Mask),
            (300, Mask),
            (400, Idle),
            (1800, NoMask),
            (2100, NoMask),
        ]);
        assert_eq!(shown, [Idle, Idle, Mask, Mask, Mask, NoMask]);
    }

    #[test]
    fn missing_frames_become_a_fault_and_the_first_frame_ends_it() {
        let mut chain = Chain::new();
        assert_eq!(chain.tick(5000, Progress::Stuck), Idle);
        assert_eq!(chain.tick(5001, Progress::Stuck), Fault);
        assert_eq!(chain.frame(5100, NoMask), NoMask);
    }

    #[test]
    fn one_frame_after_a_fault_is_no_mask_yet() {
        let mut chain = Chain::new();
        chain.frames(Mask, &[0, 100, 200, 300]);
        assert_eq!(chain.tick(5301, Progress::Stuck), Fault);
        let shown = chain.frames(Mask, &[5400, 5500, 5600, 5700]);
        assert_eq!(shown, [Idle, Idle, Idle, Mask]);
    }

    #[test]
    fn a_frame_that_was_processed_before_a_fault_confirms_nothing_after_it() {
        let mut chain = Chain::new();
        chain.frames(Mask, &[4000, 4100]);
        let late = chain.process(4300, Mask);
        assert_eq!(chain.tick(9200, Progress::Stuck), Fault);
        let now = chain.at(9250);
        assert_eq!(chain.decider.observe(now, late, Progress::Working), Idle);
    }

    #[test]
    fn frames_that_are_already_stale_do_not_end_a_fault() {
        let mut chain = Chain::new();
        let frame = chain.process(1000, NoMask);
        let now = chain.at(7000);
        let observed = chain.decider.observe(now, frame, Progress::Stuck);
        assert_eq!(observed, Fault);
        assert_eq!(chain.tick(7000, Progress::Stuck), Fault);
    }

    #[test]
    fn slow_work_on_frames_is_unsure_and_no_fault() {
        let mut chain = Chain::new();
        chain.frames(Mask, &[0, 100, 200, 300]);
        assert_eq!(chain.tick(5301, Progress::Working), Unsure);
        let frame = chain.process(400, Mask);
        let now = chain.at(8400);
        let observed = chain.decider.observe(now, frame, Progress::Working);
        assert_eq!(observed, Unsure, "the work on the frame took 8 s");
        assert_eq!(chain.tick(9000, Progress::Working), Unsure);
        assert_eq!(chain.tick(9050, Progress::Stuck), Fault, "it hangs");
    }

    #[test]
    fn a_lost_camera_is_a_fault_when_its_last_frame_is_stale() {
        let mut chain = Chain::new();
        chain.frames(NoMask, &[0, 100, 200, 300]);
        assert_eq!(chain.lose_camera(310), NoMask);
        assert_eq!(chain.lose_camera(5300), NoMask);
        assert_eq!(chain.lose_camera(5301), Fault);
    }

    #[test]
    fn a_camera_that_cannot_be_reached_at_the_start_is_a_fault_at_once() {
        let mut chain = Chain::new();
        assert_eq!(chain.lose_camera(10), Fault);
        assert_eq!(chain.frame(2000, NoMask), NoMask);
        assert_eq!(chain.lose_camera(2010), NoMask);
    }

    #[test]
    fn an_unplugged_camera_is_a_fault_at_once() {
        for before in [Mask, NoMask] {
            let mut chain = Chain::new();
            chain.frames(before, &[0, 100, 200, 300]);
            assert_eq!(chain.lose_camera(310), before);
            let now = chain.at(320);
            assert_eq!(chain.decider.lose_camera(now, Loss::Unplugged), Fault);
            assert_eq!(chain.decider.standing().mask, None);
            assert_eq!(chain.lose_camera(330), Fault, "it stays lost");
            assert_eq!(chain.frame(2000, NoMask), NoMask, "it is plugged in again");
        }
    }

    #[test]
    fn a_mask_ends_after_the_hold_time_while_the_camera_is_lost() {
        let mut chain = Chain::new();
        chain.frames(Mask, &[0, 100, 200, 300]);
        assert_eq!(chain.lose_camera(310), Mask);
        assert_eq!(chain.lose_camera(1799), Mask);
        assert_eq!(chain.lose_camera(1800), Idle);
        assert_eq!(chain.lose_camera(5300), Idle);
        assert_eq!(chain.lose_camera(5301), Fault);
    }

    #[test]
    fn a_mask_ends_after_the_hold_time_if_frames_do_not_come() {
        let mut chain = Chain::new();
        chain.frames(Mask, &[0, 100, 200, 300]);
        assert_eq!(chain.tick(1799, Progress::Working), Mask);
        assert_eq!(chain.tick(1800, Progress::Working), Idle);
        // A slow camera sends one frame per second.
        chain.reconnect();
        assert_eq!(chain.frames(Mask, &[2000, 3000, 4000]), [Idle, Idle, Mask]);
        assert_eq!(chain.tick(6999, Progress::Working), Mask);
        assert_eq!(chain.tick(7000, Progress::Working), Idle);
    }

    #[test]
    fn a_short_loss_does_not_change_a_mask_that_is_soon_confirmed_again() {
        let mut chain = Chain::new();
        chain.frames(Mask, &[0, 100, 200, 300]);
        assert_eq!(chain.lose_camera(310), Mask);
        chain.reconnect();
        let times: Vec<u64> = (13..40).map(|index| 100 * index).collect();
        assert_eq!(chain.frames(Mask, &times), vec![Mask; times.len()]);
    }

    #[test]
    fn frames_of_another_connection_or_head_do_not_extend_a_mask() {
        let changes: [fn(&mut Chain); 2] = [Chain::reconnect, |chain| {
            chain.head = chain.head.next();
        }];
        for change in changes {
            let mut chain = Chain::new();
            chain.frames(Mask, &[0, 100, 200, 300]);
            change(&mut chain);
            // No run of masked frames is long enough to confirm a mask.
            let mut shown = Vec::new();
            for ms in (1300..2600).step_by(400) {
                shown.extend(chain.frames(Mask, &[ms, ms + 100]));
                shown.extend(chain.frames(Unsure, &[ms + 200]));
            }
            assert_eq!(shown[..3], [Mask; 3]);
            assert!(!shown[4..].contains(&Mask), "{shown:?}");
        }
    }

    #[test]
    fn masks_that_nothing_confirms_are_unsure() {
        let mut chain = Chain::new();
        chain.frames(NoMask, &[0, 100, 200, 300]);
        let mut shown = Vec::new();
        for ms in (400..1000).step_by(100) {
            let frame = chain.process_as(ms, Mask, Sighting::Masked);
            shown.push(chain.decider.observe(frame.at, frame, Progress::Working));
        }
        assert_eq!(shown, [NoMask, NoMask, NoMask, Unsure, Unsure, Unsure]);
    }

    #[test]
    fn the_number_of_frames_can_change_while_they_are_counted() {
        let mut chain = Chain::new();
        chain.frames(Mask, &[0, 100, 200]);
        chain.decider.set_options(DeciderOptions {
            confirm_frames: 6,
            ..OPTIONS
        });
        assert_eq!(chain.frames(Mask, &[300, 400]), [Idle, Idle]);
        chain.decider.set_options(DeciderOptions {
            confirm_frames: 2,
            ..OPTIONS
        });
        assert_eq!(chain.frame(450, Mask), Mask);
    }

    #[test]
    fn a_clock_that_steps_backward_ends_a_mask() {
        let mut chain = Chain::new();
        chain.frames(Mask, &[100_000, 100_100, 100_200, 100_300]);
        assert_eq!(chain.decider.decision, Mask);
        assert_eq!(chain.tick(96_000, Progress::Working), Idle);
        assert_eq!(chain.tick(90_000, Progress::Stuck), Fault);
        let shown = chain.frames(Mask, &[90_100, 90_200, 90_300, 90_400]);
        assert_eq!(shown, [Idle, Idle, Idle, Mask]);
    }

    #[test]
    fn a_face_that_is_missed_in_every_other_frame_still_counts() {
        let flicker = |decision| {
            (4..40).map(move |index| (100 * index, if index % 2 == 0 { decision } else { Idle }))
        };
        let mut frames = vec![(0, Mask), (150, Mask), (300, Mask)];
        frames.extend(flicker(NoMask));
        assert_eq!(
            play(&frames)[3..9],
            [Mask, Mask, Mask, Mask, NoMask, NoMask]
        );
        // The same is true if there is no face at the start.
        let frames: Vec<_> = flicker(Mask).collect();
        assert_eq!(play(&frames)[..6], [Idle, Idle, Idle, Idle, Mask, Mask]);
    }

    proptest! {
        /// If all frames within a period of `confirm` show faces and have the same decision, the
        /// current decision becomes that decision. Earlier frames do not matter.
        #[test]
        fn steady_frames_always_win(history in prop::collection::vec((0_u64..400, 0_usize..4), 0..30), last in 1_usize..4) {
            let decisions = [Idle, Mask, NoMask, Unsure];
            let mut ms = 0;
            let mut frames = Vec::new();
            for (gap, index) in history {
                ms += gap;
                frames.push((ms, decisions[index]));
            }
            for step in 1..=4 {
                frames.push((ms + 100 * step, decisions[last]));
            }
            let shown = play(&frames);
            prop_assert_eq!(*shown.last().unwrap(), decisions[last]);
        }
    }
}
