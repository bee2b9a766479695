//! Tracks faces from frame to frame, and averages the recent classifications of each
//! face.
//!
//! Pure, because the time is passed in with the frame.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::frame::{Face, Rect};
use crate::vision::head::argmax;

/// Options of the tracker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrackOptions {
    /// A face continues a track if its IoU with the track's last box is at least this
    /// value, between 0 and 1.
    pub min_iou: f32,
    /// A track is dropped if it has had no face for longer than this.
    pub keep: Duration,
    /// Number of classifications that the vote averages; 0 counts as 1.
    pub votes: usize,
    /// A track with a settled vote is not classified again until this much time has passed.
    /// If the duration is zero, the track is classified in every frame.
    pub settled: Duration,
}

/// A vote is settled when all its classifications have the same most likely class, and
/// the mean probability of that class is at least this value. The value is far from the
/// thresholds for verdicts.
const SETTLED_PROBABILITY: f32 = 0.9;

/// Tracks faces from frame to frame.
#[derive(Debug)]
pub struct Tracker {
    options: TrackOptions,
    tracks: Vec<Track>,
    next_id: u64,
}

#[derive(Debug)]
struct Track {
    id: u64,
    rect: Rect,
    /// Capture time of the latest frame with this face.
    last_seen: Instant,
    /// Probabilities from the latest classifications, oldest first.
    votes: VecDeque<Vec<f32>>,
    /// Capture time of the latest frame in which the face was classified.
    last_voted: Instant,
}

impl Tracker {
    /// Creates a tracker without tracks. New tracks are numbered from 1.
    #[must_use]
    pub fn new(options: TrackOptions) -> Tracker {
        Tracker {
            options,
            tracks: Vec::new(),
            next_id: 1,
        }
    }

    /// Assigns each face in a frame captured at time `at` to a track, and returns the ids of
    /// the tracks in the order of the faces. The pairs that overlap the most are matched
    /// first. A face without a match starts a new track.
    pub fn assign(&mut self, at: Instant, faces: &[Face]) -> Vec<u64> {
        let keep = self.options.keep;
        self.tracks
            .retain(|track| at.saturating_duration_since(track.last_seen) <= keep);

        let mut pairs: Vec<(f32, usize, usize)> = Vec::new();
        for (face_index, face) in faces.iter().enumerate() {
            for (track_index, track) in self.tracks.iter().enumerate() {
                let iou = face.rect.iou(&track.rect);
                if iou >= self.options.min_iou && iou > 0.0 {
                    pairs.push((iou, face_index, track_index));
                }
            }
        }
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0));

        let mut track_of: Vec<Option<usize>> = vec![None; faces.len()];
        let mut taken = vec![false; self.tracks.len()];
        for (_, face_index, track_index) in pairs {
            if track_of[face_index].is_none() && !taken[track_index] {
                track_of[face_index] = Some(track_index);
                taken[track_index] = true;
            }
        }

        let mut ids = Vec::with_capacity(faces.len());
        for (face, track_index) in faces.iter().zip(track_of) {
            if let Some(index) = track_index {
                let track = &mut self.tracks[index];
                track.rect = face.rect;
                track.last_seen = at;
                ids.push(track.id);
            } else {
                ids.push(self.start(at, face.rect));
            }
        }
        ids
    }

    fn start(&mut self, at: Instant, rect: Rect) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.tracks.push(Track {
            id,
            rect,
            last_seen: at,
            votes: VecDeque::new(),
            last_voted: at,
        });
        id
    }

    /// Ends all tracks. Their numbers are not used again.
    pub fn clear(&mut self) {
        self.tracks.clear();
    }

    /// Returns the vote of a track that does not have to be classified in a frame captured
    /// at time `at`, because the vote is settled and the last classification is recent.
    /// Returns `None` for any other track.
    #[must_use]
    pub fn settled(&self, at: Instant, track: u64) -> Option<Vec<f32>> {
        let track = self.tracks.iter().find(|known| known.id == track)?;
        let is_recent = at.saturating_duration_since(track.last_voted) < self.options.settled;
        if !is_recent || track.votes.len() < self.options.votes.max(1) {
            return None;
        }
        let mean = mean(&track.votes);
        let class = argmax(&mean)?;
        let agree = track.votes.iter().all(|vote| argmax(vote) == Some(class));
        (agree && mean[class] >= SETTLED_PROBABILITY).then_some(mean)
    }

    /// Adds the classification in a frame captured at time `at` to a track's vote, and
    /// returns the mean of the latest classifications, so that one blurred frame does not
    /// change a verdict.
    ///
    /// If the number of classes changes because the head was replaced, the vote starts
    /// over. For an unknown track, this function returns the probabilities unchanged.
    pub fn vote(&mut self, at: Instant, track: u64, probabilities: &[f32]) -> Vec<f32> {
        let Some(track) = self.tracks.iter_mut().find(|known| known.id == track) else {
            return probabilities.to_vec();
        };
        if track
            .votes
            .front()
            .is_some_and(|vote| vote.len() != probabilities.len())
        {
            track.votes.clear();
        }
        while track.votes.len() >= self.options.votes.max(1) {
            track.votes.pop_front();
        }
        track.votes.push_back(probabilities.to_vec());
        track.last_voted = at;
        mean(&track.votes)
    }
}

/// Computes the mean of the votes, which all have the same number of classes. The result
/// is empty if there are no votes.
fn mean(votes: &VecDeque<Vec<f32>>) -> Vec<f32> {
    let mut mean = vec![0.0; votes.front().map_or(0, Vec::len)];
    for vote in votes {
        for (sum, probability) in mean.iter_mut().zip(vote) {
            *sum += probability / votes.len() as f32;
        }
    }
    mean
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests need some instant to start from"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPTIONS: TrackOptions = TrackOptions {
        min_iou: 0.3,
        keep: Duration::from_secs(1),
        votes: 3,
        settled: Duration::from_millis(500),
    };

    fn face(x: f32, y: f32) -> Face {
        let rect = Rect {
            x,
            y,
            width: 40.0,
            height: 40.0,
        };
        Face {
            rect,
            score: 0.9,
            landmarks: [(0.0, 0.0); 5],
        }
    }

    #[test]
    fn a_face_that_moves_a_little_keeps_its_track() {
        let start = Instant::now();
        let mut tracker = Tracker::new(OPTIONS);
        assert_eq!(
            tracker.assign(start, &[face(0.0, 0.0), face(100.0, 0.0)]),
            [1, 2]
        );
        // The order of the detections changes from frame to frame.
        let later = start + Duration::from_millis(200);
        assert_eq!(
            tracker.assign(later, &[face(104.0, 3.0), face(6.0, 0.0)]),
            [2, 1]
        );
    }

    #[test]
    fn a_face_that_was_away_for_too_long_is_a_new_one() {
        let start = Instant::now();
        let mut tracker = Tracker::new(OPTIONS);
        assert_eq!(tracker.assign(start, &[face(0.0, 0.0)]), [1]);
        assert_eq!(
            tracker.assign(start + Duration::from_millis(900), &[face(0.0, 0.0)]),
            [1]
        );
        assert_eq!(
            tracker.assign(start + Duration::from_millis(1950), &[face(0.0, 0.0)]),
            [2]
        );
    }

    #[test]
    fn the_vote_is_the_mean_of_the_last_classifications() {
        let mut tracker = Tracker::new(OPTIONS);
        let now = Instant::now();
        let id = tracker.assign(now, &[face(0.0, 0.0)])[0];
        assert_eq!(tracker.vote(now, id, &[0.0, 1.0]), [0.0, 1.0]);
        assert_eq!(tracker.vote(now, id, &[1.0, 0.0]), [0.5, 0.5]);
        tracker.vote(now, id, &[1.0, 0.0]);
        let mean = tracker.vote(now, id, &[1.0, 0.0]);
        assert!(
            (mean[0] - 1.0).abs() < 1e-6,
            "the first one has left the vote: {mean:?}"
        );
        assert_eq!(tracker.vote(now, id, &[0.2, 0.3, 0.5]), [0.2, 0.3, 0.5]);
    }

    #[test]
    fn a_settled_track_is_classified_less_often() {
        let mut tracker = Tracker::new(OPTIONS);
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let id = tracker.assign(start, &[face(0.0, 0.0)])[0];
        tracker.vote(start, id, &[0.95, 0.05]);
        tracker.vote(after(100), id, &[0.95, 0.05]);
        assert_eq!(tracker.settled(after(101), id), None, "too few votes");
        tracker.vote(after(200), id, &[0.95, 0.05]);
        let vote = tracker.settled(after(699), id).unwrap();
        assert!((vote[0] - 0.95).abs() < 1e-6, "{vote:?}");
        assert_eq!(tracker.settled(after(700), id), None, "it was long ago");
        assert_eq!(tracker.settled(after(201), id + 1), None, "unknown");

        tracker.vote(after(700), id, &[0.8, 0.2]);
        assert!(tracker.settled(after(701), id).is_some(), "0.9 is enough");
        tracker.vote(after(702), id, &[0.8, 0.2]);
        assert_eq!(tracker.settled(after(703), id), None, "the mean is too low");
        for ms in [710, 720, 730] {
            tracker.vote(after(ms), id, &[1.0, 0.0]);
        }
        assert!(tracker.settled(after(731), id).is_some());
        tracker.vote(after(740), id, &[0.49, 0.51]);
        assert_eq!(tracker.settled(after(741), id), None, "a vote disagrees");

        for ms in [750, 760, 770] {
            tracker.vote(after(ms), id, &[1.0, 0.0]);
        }
        tracker.clear();
        assert_eq!(tracker.settled(after(771), id), None, "the track has ended");
        let new = tracker.assign(after(772), &[face(0.0, 0.0)]);
        assert_eq!(new, [id + 1], "no number is used twice");
    }

    /// Returns the time between the removal of a mask and the change of the vote in ms, at
    /// 15 frames per second, and the number of classifications up to the change.
    fn time_to_change(settled: Duration, ms_before: u64) -> (u64, usize) {
        let options = TrackOptions {
            settled,
            votes: 5,
            ..OPTIONS
        };
        let mut tracker = Tracker::new(options);
        let start = Instant::now();
        let mut classifications = 0;
        for ms in (0..10_000).step_by(66) {
            let at = start + Duration::from_millis(ms);
            let id = tracker.assign(at, &[face(0.0, 0.0)])[0];
            let vote = tracker.settled(at, id).unwrap_or_else(|| {
                classifications += 1;
                let masked = if ms < ms_before { 0.97 } else { 0.03 };
                tracker.vote(at, id, &[masked, 1.0 - masked])
            });
            if ms >= ms_before && vote[0] < 0.5 {
                return (ms - ms_before, classifications);
            }
        }
        panic!("the vote never changed");
    }

    proptest! {
        #[test]
        fn settling_delays_a_change_by_at_most_its_interval(
            settled in 0_u64..2000, ms_before in 1000_u64..5000
        ) {
            let (always, _) = time_to_change(Duration::ZERO, ms_before);
            let (later, classifications) = time_to_change(Duration::from_millis(settled), ms_before);
            prop_assert!(later >= always && later <= always + settled, "{always} {later}");
            // There is one classification per period before the change, and the vote needs
            // five classifications to settle and five to change.
            let max = 10 + ms_before / settled.max(66);
            prop_assert!(classifications as u64 <= max, "{classifications}, not {max}");
        }
    }

    proptest! {
        #[test]
        fn no_two_faces_share_a_track(frames in prop::collection::vec(
            prop::collection::vec((0.0_f32..200.0, 0.0_f32..200.0), 0..8), 1..10)
        ) {
            let start = Instant::now();
            let mut tracker = Tracker::new(OPTIONS);
            for (index, positions) in frames.iter().enumerate() {
                let faces: Vec<Face> = positions.iter().map(|&(x, y)| face(x, y)).collect();
                let mut ids = tracker.assign(start + Duration::from_millis(100 * index as u64), &faces);
                prop_assert_eq!(ids.len(), faces.len());
                ids.sort_unstable();
                ids.dedup();
                prop_assert_eq!(ids.len(), faces.len());
            }
        }
    }
}
