//! Decides which crops from the camera are worth keeping.
//!
//! This module chooses crops and limits their number. It reads no clock: the caller passes the time
//! with each classification. The random numbers come from a seed. The module knows nothing about
//! files; the daemon writes the chosen crops to the store of samples.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::vision::embed::{Feature, cosine_distance};
use crate::vision::head::argmax;

/// Maximum number of tracks to remember. When there are more, the oldest track is
/// discarded.
const MAX_TRACKS: usize = 64;

/// Maximum number of recently chosen features that a new feature is compared
/// with.
const MAX_RECENT: usize = 64;

/// Fraction of the bad crops that are chosen although they are bad. A few are kept, so that
/// an owner notices a camera that takes only bad ones.
const BAD_SHARE: f32 = 0.1;

/// Options that determine which crops are chosen, and how many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CaptureOptions {
    /// A classification is uncertain if its highest probability is below this
    /// value, which is between 0 and 1.
    pub uncertain_below: f32,
    /// Fraction of the confidently classified crops that are chosen, between 0 and 1.
    pub confident_share: f32,
    /// Maximum number of crops per track.
    pub per_track: u32,
    /// Maximum number of crops within an hour.
    pub per_hour: usize,
    /// Limit of the cosine distance (1 minus the cosine), between 0 and 2. A crop shows nothing new
    /// if the distance from its feature to the feature of a recently chosen crop is at most this
    /// value.
    pub near: f32,
}

/// The reason why a crop is useful for training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The head is uncertain about the crop.
    Uncertain,
    /// The head predicts a different label than it did for the previous crop of
    /// the track.
    Changed,
    /// The crop was randomly drawn from the crops that the head is confident
    /// about, so that the samples represent these crops too.
    Sampled,
    /// An enrollment is active, so the label is known.
    Enrolled,
}

/// A crop that the policy chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The reason for the choice.
    pub reason: Reason,
    /// The track that the crop belongs to.
    pub track: u64,
    /// The number of the crop within the track, starting at 1. Numbers are
    /// never reused.
    pub number: u32,
}

/// Chooses which crops to keep.
#[derive(Debug)]
pub struct CapturePolicy {
    options: CaptureOptions,
    rng: ChaCha8Rng,
    tracks: BTreeMap<u64, TrackState>,
    /// The crops that were chosen within the last hour, each with the time when it was
    /// chosen.
    last_hour: VecDeque<(Instant, Choice)>,
    recent: VecDeque<(Choice, Feature)>,
}

#[derive(Debug, Default)]
struct TrackState {
    /// Number of the last crop that was chosen.
    number: u32,
    /// Number of crops that were chosen and not given back. `per_track` limits this
    /// number.
    chosen: u32,
    /// The most probable label of the last classification.
    last_label: Option<usize>,
}

impl CapturePolicy {
    /// Creates a policy that has not chosen any crops yet. The same `seed` and
    /// classifications give the same choices.
    #[must_use]
    pub fn new(options: CaptureOptions, seed: u64) -> CapturePolicy {
        CapturePolicy {
            options,
            rng: ChaCha8Rng::seed_from_u64(seed),
            tracks: BTreeMap::new(),
            last_hour: VecDeque::new(),
            recent: VecDeque::new(),
        }
    }

    /// Decides whether to keep this crop of a track. `probabilities` must come
    /// from this crop alone, because the combined probabilities of the track
    /// would hide that the head was uncertain about this crop.
    ///
    /// `is_bad` tells whether the picture is obviously useless. It is called only if the crop
    /// would be chosen otherwise, because measuring takes time. Of the bad crops, only a
    /// tenth are chosen.
    pub fn consider(
        &mut self,
        at: Instant,
        track: u64,
        probabilities: &[f32],
        feature: &Feature,
        is_bad: impl FnOnce() -> bool,
    ) -> Option<Choice> {
        // The random numbers are drawn for every crop, so that the limits do not
        // shift the sequence of random numbers.
        let is_sampled = self.rng.random::<f32>() < self.options.confident_share;
        let is_kept_if_bad = self.rng.random::<f32>() < BAD_SHARE;
        let label = argmax(probabilities)?;
        let state = self.track(track);
        let is_changed = state.last_label.is_some_and(|last| last != label);
        state.last_label = Some(label);
        let reason = if is_changed {
            Reason::Changed
        } else if probabilities[label] < self.options.uncertain_below {
            Reason::Uncertain
        } else if is_sampled {
            Reason::Sampled
        } else {
            return None;
        };
        while let Some((first, _)) = self.last_hour.front() {
            if at.saturating_duration_since(*first) < Duration::from_hours(1) {
                break;
            }
            self.last_hour.pop_front();
        }
        if self.last_hour.len() >= self.options.per_hour
            || self.track(track).chosen >= self.options.per_track
        {
            return None;
        }
        if !is_kept_if_bad && is_bad() {
            return None;
        }
        let choice = self.choose(reason, track, feature)?;
        self.last_hour.push_back((at, choice));
        Some(choice)
    }

    /// Like [`consider`](CapturePolicy::consider), but for a person who is being enrolled. Chooses
    /// every crop that shows something new, even a bad one, and ignores the limits. The
    /// person stands there on purpose, and in a dark room, all crops may be bad.
    pub fn enroll(&mut self, track: u64, feature: &Feature) -> Option<Choice> {
        self.choose(Reason::Enrolled, track, feature)
    }

    /// Takes back the choice of a crop that was dropped before it was stored.
    /// The limits and the comparison with recent crops then work as if the crop
    /// had never been chosen.
    pub fn give_back(&mut self, choice: Choice) {
        self.last_hour.retain(|(_, chosen)| *chosen != choice);
        self.recent.retain(|(chosen, _)| *chosen != choice);
        if let Some(state) = self.tracks.get_mut(&choice.track) {
            state.chosen = state.chosen.saturating_sub(1);
        }
    }

    /// Chooses a crop if it shows something new.
    fn choose(&mut self, reason: Reason, track: u64, feature: &Feature) -> Option<Choice> {
        let near = self.options.near;
        let is_near = |(_, recent): &(Choice, Feature)| {
            cosine_distance(recent.values(), feature.values()) <= near
        };
        if self.recent.iter().any(is_near) {
            return None;
        }
        if self.recent.len() == MAX_RECENT {
            self.recent.pop_front();
        }
        let state = self.track(track);
        state.number += 1;
        state.chosen += 1;
        let choice = Choice {
            reason,
            track,
            number: state.number,
        };
        self.recent.push_back((choice, feature.clone()));
        Some(choice)
    }

    fn track(&mut self, track: u64) -> &mut TrackState {
        while self.tracks.len() >= MAX_TRACKS && !self.tracks.contains_key(&track) {
            // Track numbers increase, so the smallest number is the oldest track.
            self.tracks.pop_first();
        }
        self.tracks.entry(track).or_default()
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests need an arbitrary start time"
)]
mod tests {
    use super::*;
    use crate::vision::embed::FEATURES;

    const OPTIONS: CaptureOptions = CaptureOptions {
        uncertain_below: 0.8,
        confident_share: 0.0,
        per_track: 3,
        per_hour: 5,
        near: 0.02,
    };
    const CERTAIN: [f32; 2] = [0.99, 0.01];
    const UNCERTAIN: [f32; 2] = [0.6, 0.4];

    /// Returns a feature. Features with different numbers are orthogonal to each other.
    fn feature(number: usize) -> Feature {
        let mut values = Box::new([0.0; FEATURES]);
        values[number] = 1.0;
        values.into()
    }

    fn choice(reason: Reason, track: u64, number: u32) -> Choice {
        Choice {
            reason,
            track,
            number,
        }
    }

    #[test]
    fn a_crop_that_is_given_back_uses_up_no_limit() {
        let at = Instant::now();
        let options = CaptureOptions {
            per_hour: 4,
            ..OPTIONS
        };
        let mut policy = CapturePolicy::new(options, 1);
        // The same face is chosen and given back repeatedly, as happens when the crops
        // cannot be written to disk. The face still counts as new.
        for number in 1..=20 {
            let chosen = policy.consider(at, 1, &UNCERTAIN, &feature(0), || false);
            assert_eq!(chosen, Some(choice(Reason::Uncertain, 1, number)));
            policy.give_back(chosen.unwrap());
        }
        let enrolled = policy.enroll(1, &feature(0)).unwrap();
        policy.give_back(enrolled);
        for look in 0..3 {
            assert!(
                policy
                    .consider(at, 1, &UNCERTAIN, &feature(look), || false)
                    .is_some()
            );
        }
        let of_track = policy.consider(at, 1, &UNCERTAIN, &feature(3), || false);
        assert_eq!(of_track, None, "three of a track");
        assert!(
            policy
                .consider(at, 2, &UNCERTAIN, &feature(4), || false)
                .is_some()
        );
        let of_hour = policy.consider(at, 3, &UNCERTAIN, &feature(5), || false);
        assert_eq!(of_hour, None, "four within an hour");
    }

    #[test]
    fn crops_that_teach_something_are_chosen() {
        let at = Instant::now();
        let mut policy = CapturePolicy::new(OPTIONS, 1);
        assert_eq!(
            policy.consider(at, 1, &CERTAIN, &feature(0), || false),
            None
        );
        let changed = policy.consider(at, 1, &[0.1, 0.9], &feature(1), || false);
        assert_eq!(changed, Some(choice(Reason::Changed, 1, 1)));
        let uncertain = policy.consider(at, 2, &UNCERTAIN, &feature(2), || false);
        assert_eq!(uncertain, Some(choice(Reason::Uncertain, 2, 1)));
        let near = policy.consider(at, 2, &UNCERTAIN, &feature(2), || false);
        assert_eq!(near, None);
        let again = policy.consider(at, 2, &UNCERTAIN, &feature(3), || false);
        assert_eq!(again, Some(choice(Reason::Uncertain, 2, 2)));
        assert_eq!(policy.consider(at, 2, &[], &feature(4), || false), None);
    }

    #[test]
    fn limits_hold_for_tracks_and_hours() {
        let at = Instant::now();
        let mut policy = CapturePolicy::new(OPTIONS, 1);
        let chosen = (0..20).filter(|number| {
            let track = *number as u64 / 5;
            let feature = feature(*number);
            policy
                .consider(at, track, &UNCERTAIN, &feature, || false)
                .is_some()
        });
        // Three crops come from the first track and two from the second.
        assert_eq!(chosen.count(), 5);
        let later = at + Duration::from_hours(1);
        let first = policy.consider(later, 9, &UNCERTAIN, &feature(30), || false);
        assert_eq!(first, Some(choice(Reason::Uncertain, 9, 1)));
        // If the time goes backward, no capacity is freed and no error occurs.
        let second = policy.consider(at, 9, &UNCERTAIN, &feature(31), || false);
        assert_eq!(second, Some(choice(Reason::Uncertain, 9, 2)));
        // An enrollment is not limited.
        let enrolled = (40..60).filter(|number| policy.enroll(9, &feature(*number)).is_some());
        assert_eq!(enrolled.count(), 20);
    }

    /// Returns how many of 1,000 different crops of a track the policy chooses.
    fn chosen_of_1000(policy: &mut CapturePolicy, probabilities: &[f32], is_bad: bool) -> usize {
        let at = Instant::now();
        let mut chooses = |number| {
            let chosen = policy.consider(at, 1, probabilities, &feature(number), || is_bad);
            chosen.is_some()
        };
        (0..1000).filter(|number| chooses(*number)).count()
    }

    #[test]
    fn a_share_of_the_confident_crops_is_chosen() {
        let options = CaptureOptions {
            confident_share: 0.1,
            per_track: 1000,
            per_hour: 1000,
            ..OPTIONS
        };
        let mut policy = CapturePolicy::new(options, 3);
        let chosen = chosen_of_1000(&mut policy, &CERTAIN, false);
        assert!((70..130).contains(&chosen), "{chosen} of 1000");
    }

    #[test]
    fn few_bad_crops_are_chosen_and_all_of_an_enrollment() {
        let options = CaptureOptions {
            per_track: 1000,
            per_hour: 1000,
            ..OPTIONS
        };
        let mut policy = CapturePolicy::new(options, 3);
        let chosen = chosen_of_1000(&mut policy, &UNCERTAIN, true);
        assert!((70..130).contains(&chosen), "{chosen} of 1000");
        assert!(policy.enroll(2, &feature(1100)).is_some());
        let not_measured = || panic!("a crop that is not chosen anyway is measured");
        let certain = policy.consider(Instant::now(), 1, &CERTAIN, &feature(1101), not_measured);
        assert_eq!(certain, None);
    }

    #[test]
    fn memory_is_bounded() {
        let at = Instant::now();
        let mut policy = CapturePolicy::new(OPTIONS, 1);
        for number in 0..1000 {
            policy.consider(at, number, &UNCERTAIN, &feature(number as usize), || false);
            policy.enroll(number, &feature(1000 + number as usize % 200));
        }
        assert_eq!(policy.tracks.len(), MAX_TRACKS);
        assert_eq!(policy.recent.len(), MAX_RECENT);
    }
}
