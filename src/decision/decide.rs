//! Turns probabilities into verdicts, and verdicts over time into decisions.
//!
//! Owns the thresholds, the labels that count as masked, the hysteresis and the hold
//! time. Pure, because the time is passed in as an argument.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::frame::Face;

/// Options that determine the verdict on a face.
#[derive(Debug, Clone, PartialEq)]
pub struct VerdictOptions {
    /// The labels that count as masked; every other label counts as unmasked.
    pub masked_labels: Vec<String>,
    /// The verdict is masked if P(masked) is at least this value, between 0 and 1.
    pub mask_from: f32,
    /// The verdict is unmasked if P(masked) is at most this value, between 0 and
    /// `mask_from`. If P(masked) is between the two thresholds, the verdict is unsure.
    pub no_mask_to: f32,
    /// Minimum length of the shorter side of a face in pixels of the frame. The verdict on
    /// a smaller face is unsure.
    pub min_face: f32,
    /// Minimum detector score of a face. The verdict on a face with a lower score is unsure.
    pub min_score: f32,
}

/// The reason the verdict on a face is unsure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsureReason {
    /// The face is smaller than [`VerdictOptions::min_face`].
    TooSmall,
    /// The detector score is below [`VerdictOptions::min_score`].
    LowScore,
    /// P(masked) lies between the thresholds.
    Undecided,
}

/// The verdict on one face. The numbers are indices into the head's labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The face is masked, and this is its label.
    Masked(usize),
    /// The face is unmasked, or its mask is worn incorrectly, and this is its label.
    Unmasked(usize),
    /// There is no verdict, because a guess would be worse than none.
    Unsure(UnsureReason),
}

impl Verdict {
    /// The name of the verdict in logs and JSON, which is a label of the head or `unsure`.
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
    /// [`LabelError`] if the head does not have one of the masked labels, or if all or none
    /// of its labels count as masked.
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

    /// Creates a policy with the same options for a head with other labels.
    ///
    /// # Errors
    /// Same as [`VerdictPolicy::new`].
    pub fn with_labels(&self, labels: &[String]) -> Result<VerdictPolicy, LabelError> {
        VerdictPolicy::new(self.options.clone(), labels)
    }

    /// Replaces the thresholds; see [`VerdictOptions`].
    pub fn set_thresholds(&mut self, mask_from: f32, no_mask_to: f32) {
        self.options.mask_from = mask_from;
        self.options.no_mask_to = no_mask_to;
    }

    /// Returns the reason a face does not have to be classified because its verdict is
    /// unsure in any case. Returns `None` if the face must be classified.
    #[must_use]
    pub fn unsure_reason(&self, face: &Face) -> Option<UnsureReason> {
        if face.rect.short_side() < self.options.min_face {
            Some(UnsureReason::TooSmall)
        } else if face.score < self.options.min_score {
            Some(UnsureReason::LowScore)
        } else {
            None
        }
    }

    /// Returns the verdict on a face with these probabilities, one per label.
    #[must_use]
    pub fn verdict(&self, face: &Face, probabilities: &[f32]) -> Verdict {
        if let Some(reason) = self.unsure_reason(face) {
            return Verdict::Unsure(reason);
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
        let verdict = if p_masked >= self.options.mask_from {
            likeliest(true).map(Verdict::Masked)
        } else if p_masked <= self.options.no_mask_to {
            likeliest(false).map(Verdict::Unmasked)
        } else {
            None
        };
        verdict.unwrap_or(Verdict::Unsure(UnsureReason::Undecided))
    }
}

/// The decision that the lamps at the door show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// There is no face.
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
    /// Frames must contradict the decision for this long before it changes.
    pub confirm: Duration,
    /// The decision is held for this long after the last face has left.
    pub hold: Duration,
    /// If no fresh frame arrives for longer than this, the decision is [`Decision::Fault`].
    pub stale: Duration,
}

/// Turns the decisions for single frames into a stable decision.
#[derive(Debug)]
pub struct Decider {
    options: DeciderOptions,
    decision: Decision,
    /// Capture time of the latest frame.
    last_frame: Instant,
    /// Capture time of the latest frame with a face.
    last_face: Option<Instant>,
    /// The time since which frames with faces have contradicted the decision.
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
            last_frame: now,
            last_face: None,
            contradicted_since: None,
        }
    }

    /// Replaces the options.
    pub fn set_options(&mut self, options: DeciderOptions) {
        self.options = options;
    }

    /// Adds the decision for the frame captured at time `at`, and returns the decision at
    /// time `now`.
    ///
    /// A frame without a face is ignored until `hold` has passed since the last frame with
    /// a face. The reason is that the detector misses a face in some frames, and these
    /// frames must neither end a decision nor prolong it.
    pub fn observe(&mut self, now: Instant, at: Instant, frame: Decision) -> Decision {
        self.last_frame = self.last_frame.max(at);
        if self.is_stale(now) {
            return self.fault();
        }
        if self.decision == Decision::Fault {
            // Any fresh frame ends a fault immediately.
            self.decision = frame;
        }
        if frame == Decision::Idle {
            let held = |face| at.saturating_duration_since(face) < self.options.hold;
            if !self.last_face.is_some_and(held) {
                self.decision = Decision::Idle;
                self.contradicted_since = None;
            }
            return self.decision;
        }
        self.last_face = Some(at);
        if frame == self.decision {
            self.contradicted_since = None;
            return self.decision;
        }
        let since = *self.contradicted_since.get_or_insert(at);
        if at.saturating_duration_since(since) >= self.options.confirm {
            self.decision = frame;
            self.contradicted_since = None;
        }
        self.decision
    }

    /// Returns the decision at time `now` if no frame has arrived. It becomes a fault as
    /// soon as the latest frame is stale.
    pub fn tick(&mut self, now: Instant) -> Decision {
        if self.is_stale(now) {
            self.fault();
        }
        self.decision
    }

    fn is_stale(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_frame) > self.options.stale
    }

    /// Makes the decision a fault immediately. The caller uses this when the camera is
    /// lost.
    pub fn fault(&mut self) -> Decision {
        self.decision = Decision::Fault;
        self.contradicted_since = None;
        self.decision
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests need some instant to start from"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::Rect;

    fn policy() -> VerdictPolicy {
        let options = VerdictOptions {
            masked_labels: vec!["with_mask".into()],
            mask_from: 0.7,
            no_mask_to: 0.4,
            min_face: 30.0,
            min_score: 0.6,
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
        }
    }

    #[test]
    fn thresholds_divide_masked_unsure_and_unmasked() {
        let verdict = |p: [f32; 3]| policy().verdict(&face(50.0, 0.9), &p);
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
            policy().verdict(&face(29.0, 0.9), &certain),
            Verdict::Unsure(UnsureReason::TooSmall)
        );
        assert_eq!(
            policy().verdict(&face(30.0, 0.59), &certain),
            Verdict::Unsure(UnsureReason::LowScore)
        );
        assert_eq!(
            policy().verdict(&face(30.0, 0.6), &certain),
            Verdict::Masked(1)
        );
    }

    #[test]
    fn masked_labels_must_be_some_but_not_all_of_the_labels() {
        let policy = |masked: &[&str]| {
            let options = VerdictOptions {
                masked_labels: masked.iter().map(ToString::to_string).collect(),
                mask_from: 0.5,
                no_mask_to: 0.5,
                min_face: 0.0,
                min_score: 0.0,
            };
            VerdictPolicy::new(options, &labels())
        };
        assert!(policy(&["with_mask"]).is_ok());
        assert!(policy(&[]).is_err());
        assert!(policy(&["wit_mask"]).is_err());
        assert!(policy(&["worn_wrong", "with_mask", "without_mask"]).is_err());
    }

    const OPTIONS: DeciderOptions = DeciderOptions {
        confirm: Duration::from_millis(300),
        hold: Duration::from_millis(1500),
        stale: Duration::from_secs(5),
    };

    /// Returns the decision after each of these frames, given as (capture time in
    /// milliseconds, decision for the frame).
    fn play(frames: &[(u64, Decision)]) -> Vec<Decision> {
        let start = Instant::now();
        let mut decider = Decider::new(OPTIONS, start);
        let at = |ms: u64| start + Duration::from_millis(ms);
        frames
            .iter()
            .map(|&(ms, frame)| decider.observe(at(ms), at(ms), frame))
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
            (300, Mask),
            (400, NoMask),
            (500, Unsure),
            (700, NoMask),
        ]);
        assert_eq!(shown, [Idle, Mask, Mask, Mask, NoMask]);
    }

    #[test]
    fn the_decision_is_held_after_the_last_face_has_left() {
        let shown = play(&[
            (0, Mask),
            (300, Mask),
            (400, Idle),
            (1799, Idle),
            (1800, Idle),
        ]);
        assert_eq!(shown, [Idle, Mask, Mask, Mask, Idle]);
    }

    #[test]
    fn the_hold_of_one_person_does_not_shorten_the_confirmation_of_the_next() {
        let shown = play(&[
            (0, Mask),
            (300, Mask),
            (400, Idle),
            (1800, NoMask),
            (2100, NoMask),
        ]);
        assert_eq!(shown, [Idle, Mask, Mask, Mask, NoMask]);
    }

    #[test]
    fn missing_frames_become_a_fault_and_the_first_frame_ends_it() {
        let start = Instant::now();
        let mut decider = Decider::new(OPTIONS, start);
        assert_eq!(decider.tick(start + Duration::from_secs(5)), Idle);
        assert_eq!(decider.tick(start + Duration::from_millis(5001)), Fault);
        let later = start + Duration::from_millis(5100);
        assert_eq!(decider.observe(later, later, NoMask), NoMask);
        assert_eq!(decider.fault(), Fault);
    }

    #[test]
    fn frames_that_are_already_stale_do_not_end_a_fault() {
        let start = Instant::now();
        let mut decider = Decider::new(OPTIONS, start);
        let captured = start + Duration::from_secs(1);
        let now = start + Duration::from_secs(7);
        assert_eq!(decider.observe(now, captured, NoMask), Fault);
        assert_eq!(decider.tick(now), Fault);
    }

    #[test]
    fn a_face_that_is_missed_in_every_other_frame_still_counts() {
        let flicker = |decision| {
            (4..40).map(move |index| (100 * index, if index % 2 == 0 { decision } else { Idle }))
        };
        let mut frames = vec![(0, Mask), (300, Mask)];
        frames.extend(flicker(NoMask));
        assert_eq!(
            play(&frames)[2..8],
            [Mask, Mask, Mask, Mask, NoMask, NoMask]
        );
        // The same is true if there is no face at the start.
        let frames: Vec<_> = flicker(Mask).collect();
        assert_eq!(play(&frames)[..6], [Idle, Idle, Idle, Idle, Mask, Mask]);
    }

    proptest! {
        /// After any history, frames that have the same decision for as long as `confirm`
        /// change the decision, unless they have no face.
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
