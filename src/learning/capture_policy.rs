//! Which crops of the camera path are worth keeping.
//!
//! Owns the choice and its limits; pure: time comes in with the look, random
//! numbers from a seed. Knows nothing of files: what is chosen goes to
//! `samples` by way of the daemon.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::vision::embed::Feature;

/// Tracks that are remembered; the oldest is forgotten first.
const TRACKS: usize = 64;

/// Features that a new one is compared with, the last that were chosen.
const RECENT: usize = 64;

/// What is chosen, and how much of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CaptureOptions {
    /// A look is uncertain if its likeliest label has less than this
    /// probability, 0 to 1.
    pub uncertain_below: f32,
    /// Share of the confident looks that are chosen all the same, 0 to 1.
    pub confident_share: f32,
    /// Most crops of one track.
    pub per_track: u32,
    /// Most crops within an hour.
    pub per_hour: usize,
    /// A crop whose feature is at most this cosine distance (1 minus the
    /// cosine) from a recent one shows nothing new; 0 to 2.
    pub near: f32,
}

/// Why a crop teaches something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The head is not sure of it.
    Uncertain,
    /// The head says another label than at the last look at this track.
    Changed,
    /// Drawn from the confident ones, so that they are not missing.
    Sampled,
    /// Somebody told the daemon what it sees.
    Enrolled,
}

/// Somebody stands before the camera to be learned: what the daemon sees is
/// labelled at once. A documented contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Enrollment {
    /// The label.
    pub label: String,
    /// Crops that are wanted.
    pub wanted: u32,
    /// Crops that were taken so far.
    pub taken: u32,
    /// Of those, crops that are on disk with their label.
    pub stored: u32,
}

impl Enrollment {
    /// Whether no more crops are wanted.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.taken >= self.wanted
    }
}

/// Chooses crops.
#[derive(Debug)]
pub struct CapturePolicy {
    options: CaptureOptions,
    rng: ChaCha8Rng,
    tracks: BTreeMap<u64, Seen>,
    /// When the last hour's were chosen.
    hour: VecDeque<Instant>,
    recent: VecDeque<Feature>,
}

#[derive(Debug, Default)]
struct Seen {
    chosen: u32,
    /// The likeliest label at the last look.
    last: Option<usize>,
}

impl CapturePolicy {
    /// One that has chosen nothing. The same `seed` and looks give the same
    /// choice.
    #[must_use]
    pub fn new(options: CaptureOptions, seed: u64) -> CapturePolicy {
        CapturePolicy {
            options,
            rng: ChaCha8Rng::seed_from_u64(seed),
            tracks: BTreeMap::new(),
            hour: VecDeque::new(),
            recent: VecDeque::new(),
        }
    }

    /// Whether to keep this look at a track, and its number within the track,
    /// from 1. `probabilities` are the look's own and not the track's vote: the
    /// vote hides what a single look was unsure of.
    pub fn consider(
        &mut self,
        at: Instant,
        track: u64,
        probabilities: &[f32],
        feature: &Feature,
    ) -> Option<(Reason, u32)> {
        // Drawn for every look, so that limits don't shift the draws.
        let sampled = self.rng.random::<f32>() < self.options.confident_share;
        let likeliest = (0..probabilities.len())
            .max_by(|a, b| probabilities[*a].total_cmp(&probabilities[*b]))?;
        let seen = self.seen(track);
        let changed = seen.last.is_some_and(|last| last != likeliest);
        seen.last = Some(likeliest);
        let reason = if changed {
            Reason::Changed
        } else if probabilities[likeliest] < self.options.uncertain_below {
            Reason::Uncertain
        } else if sampled {
            Reason::Sampled
        } else {
            return None;
        };
        while let Some(first) = self.hour.front() {
            if at.saturating_duration_since(*first) < Duration::from_hours(1) {
                break;
            }
            self.hour.pop_front();
        }
        if self.hour.len() >= self.options.per_hour
            || self.seen(track).chosen >= self.options.per_track
        {
            return None;
        }
        let number = self.keep(track, feature)?;
        self.hour.push_back(at);
        Some((reason, number))
    }

    /// As [`consider`](Chooser::consider) for somebody whom the label is known
    /// of: everything that shows something new, without the limits.
    pub fn enroll(&mut self, track: u64, feature: &Feature) -> Option<(Reason, u32)> {
        let number = self.keep(track, feature)?;
        Some((Reason::Enrolled, number))
    }

    /// Takes note of a crop, unless it shows nothing new.
    fn keep(&mut self, track: u64, feature: &Feature) -> Option<u32> {
        let near = self.options.near;
        if self
            .recent
            .iter()
            .any(|recent| distance(recent.values(), feature.values()) <= near)
        {
            return None;
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(feature.clone());
        let seen = self.seen(track);
        seen.chosen += 1;
        Some(seen.chosen)
    }

    fn seen(&mut self, track: u64) -> &mut Seen {
        while self.tracks.len() >= TRACKS && !self.tracks.contains_key(&track) {
            // Numbers rise: the smallest is the oldest.
            self.tracks.pop_first();
        }
        self.tracks.entry(track).or_default()
    }
}

/// 1 minus the cosine of the angle between two features, 0 to 2; 2 if one of
/// them is zero.
#[must_use]
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 {
        1.0 - dot(a, b) / lengths
    } else {
        2.0
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests need some instant to start from"
)]
mod tests {
    use super::*;
    use crate::onnx::FEATURES;

    const OPTIONS: CaptureOptions = CaptureOptions {
        uncertain_below: 0.8,
        confident_share: 0.0,
        per_track: 3,
        per_hour: 5,
        near: 0.02,
    };
    const SURE: [f32; 2] = [0.99, 0.01];
    const UNSURE: [f32; 2] = [0.6, 0.4];

    /// Features that are all at right angles.
    fn feature(number: usize) -> Feature {
        let mut values = Box::new([0.0; FEATURES]);
        values[number] = 1.0;
        values.into()
    }

    #[test]
    fn what_teaches_something_is_chosen() {
        let at = Instant::now();
        let mut capture_policy = CapturePolicy::new(OPTIONS, 1);
        assert_eq!(capture_policy.consider(at, 1, &SURE, &feature(0)), None);
        let changed = capture_policy.consider(at, 1, &[0.1, 0.9], &feature(1));
        assert_eq!(changed, Some((Reason::Changed, 1)));
        let unsure = capture_policy.consider(at, 2, &UNSURE, &feature(2));
        assert_eq!(unsure, Some((Reason::Uncertain, 1)));
        assert_eq!(
            capture_policy.consider(at, 2, &UNSURE, &feature(2)),
            None,
            "seen"
        );
        let again = capture_policy.consider(at, 2, &UNSURE, &feature(3));
        assert_eq!(again, Some((Reason::Uncertain, 2)));
        assert_eq!(capture_policy.consider(at, 2, &[], &feature(4)), None);
    }

    #[test]
    fn limits_hold_for_tracks_and_hours() {
        let at = Instant::now();
        let mut capture_policy = CapturePolicy::new(OPTIONS, 1);
        let mut chosen = 0;
        for look in 0..20 {
            let track = look as u64 / 5;
            chosen += usize::from(
                capture_policy
                    .consider(at, track, &UNSURE, &feature(look))
                    .is_some(),
            );
        }
        assert_eq!(chosen, 5, "three of the first track, two of the second");
        let later = at + Duration::from_hours(1);
        assert!(
            capture_policy
                .consider(later, 9, &UNSURE, &feature(30))
                .is_some()
        );
        // A clock that is behind frees nothing and breaks nothing.
        assert!(
            capture_policy
                .consider(at, 9, &UNSURE, &feature(31))
                .is_some()
        );
        // Somebody who stands there to be learned is not limited.
        let enrolled = (40..60).filter(|look| capture_policy.enroll(9, &feature(*look)).is_some());
        assert_eq!(enrolled.count(), 20);
    }

    #[test]
    fn a_share_of_the_confident_looks_is_chosen() {
        let options = CaptureOptions {
            confident_share: 0.1,
            per_track: 1000,
            per_hour: 1000,
            ..OPTIONS
        };
        let at = Instant::now();
        let mut capture_policy = CapturePolicy::new(options, 3);
        let chosen = (0..1000)
            .filter(|look| {
                capture_policy
                    .consider(at, 1, &SURE, &feature(*look))
                    .is_some()
            })
            .count();
        assert!((70..130).contains(&chosen), "{chosen} of 1000");
    }

    #[test]
    fn memory_is_bounded() {
        let at = Instant::now();
        let mut capture_policy = CapturePolicy::new(OPTIONS, 1);
        for look in 0..1000 {
            capture_policy.consider(at, look, &UNSURE, &feature(look as usize));
            capture_policy.enroll(look, &feature(1000 + look as usize % 200));
        }
        assert!(capture_policy.tracks.len() <= TRACKS && capture_policy.recent.len() <= RECENT);
    }
}
