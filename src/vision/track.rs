//! Tracks faces from frame to frame, and averages the recent classifications of each
//! face.
//!
//! Boxes that the detector scores low continue tracks, but do not begin them, as in
//! ByteTrack (Zhang et al., ECCV 2022). This module is pure, because the time is passed in
//! with the frame.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::frame::{Face, Rect};
use crate::vision::face_check::FaceOpinion;
use crate::vision::head::argmax;

/// Options of the tracker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrackOptions {
    /// A box continues a track if its IoU with the track's last box is at least this
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
    /// The opinion of the face check in the latest classification.
    opinion: Option<FaceOpinion>,
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

    /// Assigns the boxes in a frame captured at time `at` to tracks, and returns the ids of
    /// the tracks of the faces and of the candidates, in their orders.
    ///
    /// The faces are matched with the tracks first. A face without a match starts a new
    /// track. The candidates, whose scores are low, are then matched with the tracks that no
    /// face has taken. A candidate without a match has no track.
    pub fn assign(
        &mut self,
        at: Instant,
        faces: &[Face],
        candidates: &[Face],
    ) -> (Vec<u64>, Vec<Option<u64>>) {
        let keep = self.options.keep;
        self.tracks
            .retain(|track| at.saturating_duration_since(track.last_seen) <= keep);
        let mut taken = vec![false; self.tracks.len()];
        let matched = self.continue_tracks(at, faces, &mut taken);
        let started = faces.iter().zip(matched);
        let started = started.map(|(face, id)| id.unwrap_or_else(|| self.start(at, face.rect)));
        let ids = started.collect();
        (ids, self.continue_tracks(at, candidates, &mut taken))
    }

    /// Continues tracks that are not yet taken with these boxes, takes these tracks, and
    /// returns their ids in the order of the boxes. The pairs that overlap the most are
    /// matched first. Tracks beyond the end of `taken` are new in this frame, so they are
    /// not continued.
    fn continue_tracks(
        &mut self,
        at: Instant,
        boxes: &[Face],
        taken: &mut [bool],
    ) -> Vec<Option<u64>> {
        let mut pairs: Vec<(f32, usize, usize)> = Vec::new();
        for (box_index, face) in boxes.iter().enumerate() {
            for (track_index, track) in self.tracks.iter().enumerate().take(taken.len()) {
                let iou = face.rect.iou(&track.rect);
                if iou >= self.options.min_iou && iou > 0.0 && !taken[track_index] {
                    pairs.push((iou, box_index, track_index));
                }
            }
        }
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0));

        let mut ids = vec![None; boxes.len()];
        for (_, box_index, track_index) in pairs {
            if ids[box_index].is_none() && !taken[track_index] {
                taken[track_index] = true;
                let track = &mut self.tracks[track_index];
                track.rect = boxes[box_index].rect;
                track.last_seen = at;
                ids[box_index] = Some(track.id);
            }
        }
        ids
    }

    /// Starts a track with a box in a frame captured at time `at`, and returns its id.
    pub fn start(&mut self, at: Instant, rect: Rect) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.tracks.push(Track {
            id,
            rect,
            last_seen: at,
            votes: VecDeque::new(),
            last_voted: at,
            opinion: None,
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

    /// The opinion of the face check in the latest classification of a track. Returns `None`
    /// if there is no face check, or if the track is unknown or has not been classified.
    #[must_use]
    pub fn opinion(&self, track: u64) -> Option<FaceOpinion> {
        let track = self.tracks.iter().find(|known| known.id == track)?;
        track.opinion
    }

    /// Adds the classification in a frame captured at time `at` to a track's vote, and
    /// returns the mean of the latest classifications, so that one blurred frame does not
    /// change a verdict.
    ///
    /// If the number of classes changes because the head was replaced, the vote starts
    /// over. For an unknown track, this function returns the probabilities unchanged.
    pub fn vote(
        &mut self,
        at: Instant,
        track: u64,
        probabilities: &[f32],
        opinion: Option<FaceOpinion>,
    ) -> Vec<f32> {
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
        track.opinion = opinion;
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
    reason = "tests need an arbitrary start time"
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
            face_check: None,
        }
    }

    fn assign(tracker: &mut Tracker, at: Instant, faces: &[Face]) -> Vec<u64> {
        tracker.assign(at, faces, &[]).0
    }

    fn cast_vote(
        tracker: &mut Tracker,
        at: Instant,
        track: u64,
        probabilities: &[f32],
    ) -> Vec<f32> {
        tracker.vote(at, track, probabilities, None)
    }

    #[test]
    fn a_face_that_moves_a_little_keeps_its_track() {
        let start = Instant::now();
        let mut tracker = Tracker::new(OPTIONS);
        assert_eq!(
            assign(&mut tracker, start, &[face(0.0, 0.0), face(100.0, 0.0)]),
            [1, 2]
        );
        // The order of the detections changes from frame to frame.
        let later = start + Duration::from_millis(200);
        assert_eq!(
            assign(&mut tracker, later, &[face(104.0, 3.0), face(6.0, 0.0)]),
            [2, 1]
        );
    }

    #[test]
    fn a_face_that_was_away_for_too_long_is_a_new_one() {
        let start = Instant::now();
        let mut tracker = Tracker::new(OPTIONS);
        assert_eq!(assign(&mut tracker, start, &[face(0.0, 0.0)]), [1]);
        assert_eq!(
            assign(
                &mut tracker,
                start + Duration::from_millis(900),
                &[face(0.0, 0.0)]
            ),
            [1]
        );
        assert_eq!(
            assign(
                &mut tracker,
                start + Duration::from_millis(1950),
                &[face(0.0, 0.0)]
            ),
            [2]
        );
    }

    #[test]
    fn a_box_of_low_score_continues_a_track_that_no_face_takes_and_starts_none() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut tracker = Tracker::new(OPTIONS);
        let faces = [face(0.0, 0.0), face(100.0, 0.0)];
        assert_eq!(assign(&mut tracker, start, &faces), [1, 2]);
        // The second candidate overlaps the first track more than the face does, but the
        // face comes first. The third candidate continues a track, and the fourth one is
        // somewhere else.
        let candidates = [
            face(300.0, 0.0),
            face(1.0, 0.0),
            face(104.0, 0.0),
            face(200.0, 0.0),
        ];
        let assigned = tracker.assign(after(900), &[face(10.0, 0.0)], &candidates);
        assert_eq!(assigned, (vec![1], vec![None, None, Some(2), None]));
        // The candidate has kept the track alive and moved it.
        let assigned = tracker.assign(after(1800), &[face(120.0, 0.0)], &[face(10.0, 0.0)]);
        assert_eq!(assigned, (vec![2], vec![Some(1)]));
        // A candidate does not continue a track that a face starts in the same frame.
        let assigned = tracker.assign(after(1900), &[face(400.0, 0.0)], &[face(400.0, 0.0)]);
        assert_eq!(assigned, (vec![3], vec![None]));
        // Two candidates do not share a track.
        let both = [face(414.0, 0.0), face(405.0, 0.0)];
        assert_eq!(tracker.assign(after(2000), &[], &both).1, [None, Some(3)]);
        assert_eq!(tracker.start(after(2000), face(200.0, 0.0).rect), 4);
        assert_eq!(
            tracker.assign(after(2100), &[], &[face(200.0, 0.0)]).1,
            [Some(4)]
        );
    }

    #[test]
    fn the_opinion_of_a_track_is_that_of_its_latest_classification() {
        let mut tracker = Tracker::new(OPTIONS);
        let now = Instant::now();
        let id = assign(&mut tracker, now, &[face(0.0, 0.0)])[0];
        assert_eq!(tracker.opinion(id), None);
        for probability in [0.9, 0.3] {
            let opinion = FaceOpinion {
                probability,
                is_face: probability >= 0.8,
            };
            tracker.vote(now, id, &[0.0, 1.0], Some(opinion));
            assert_eq!(tracker.opinion(id), Some(opinion));
        }
        assert_eq!(tracker.opinion(id + 1), None, "unknown");
    }

    #[test]
    fn the_vote_is_the_mean_of_the_last_classifications() {
        let mut tracker = Tracker::new(OPTIONS);
        let now = Instant::now();
        let id = assign(&mut tracker, now, &[face(0.0, 0.0)])[0];
        assert_eq!(cast_vote(&mut tracker, now, id, &[0.0, 1.0]), [0.0, 1.0]);
        assert_eq!(cast_vote(&mut tracker, now, id, &[1.0, 0.0]), [0.5, 0.5]);
        cast_vote(&mut tracker, now, id, &[1.0, 0.0]);
        let mean = cast_vote(&mut tracker, now, id, &[1.0, 0.0]);
        assert!(
            (mean[0] - 1.0).abs() < 1e-6,
            "the first one has left the vote: {mean:?}"
        );
        assert_eq!(
            cast_vote(&mut tracker, now, id, &[0.2, 0.3, 0.5]),
            [0.2, 0.3, 0.5]
        );
    }

    #[test]
    fn a_settled_track_is_classified_less_often() {
        let mut tracker = Tracker::new(OPTIONS);
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let id = assign(&mut tracker, start, &[face(0.0, 0.0)])[0];
        cast_vote(&mut tracker, start, id, &[0.95, 0.05]);
        cast_vote(&mut tracker, after(100), id, &[0.95, 0.05]);
        assert_eq!(tracker.settled(after(101), id), None, "too few votes");
        cast_vote(&mut tracker, after(200), id, &[0.95, 0.05]);
        let vote = tracker.settled(after(699), id).unwrap();
        assert!((vote[0] - 0.95).abs() < 1e-6, "{vote:?}");
        assert_eq!(tracker.settled(after(700), id), None, "it was long ago");
        assert_eq!(tracker.settled(after(201), id + 1), None, "unknown");

        cast_vote(&mut tracker, after(700), id, &[0.8, 0.2]);
        assert!(tracker.settled(after(701), id).is_some(), "0.9 is enough");
        cast_vote(&mut tracker, after(702), id, &[0.8, 0.2]);
        assert_eq!(tracker.settled(after(703), id), None, "the mean is too low");
        for ms in [710, 720, 730] {
            cast_vote(&mut tracker, after(ms), id, &[1.0, 0.0]);
        }
        assert!(tracker.settled(after(731), id).is_some());
        cast_vote(&mut tracker, after(740), id, &[0.49, 0.51]);
        assert_eq!(tracker.settled(after(741), id), None, "a vote disagrees");

        for ms in [750, 760, 770] {
            cast_vote(&mut tracker, after(ms), id, &[1.0, 0.0]);
        }
        tracker.clear();
        assert_eq!(tracker.settled(after(771), id), None, "the track has ended");
        let new = assign(&mut tracker, after(772), &[face(0.0, 0.0)]);
        assert_eq!(new, [id + 1], "no number is used twice");
    }

    /// Simulates the removal of a mask at 15 frames per second. Returns the time in ms
    /// until the vote changes, and the number of classifications up to that point.
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
            let id = assign(&mut tracker, at, &[face(0.0, 0.0)])[0];
            let vote = tracker.settled(at, id).unwrap_or_else(|| {
                classifications += 1;
                let masked = if ms < ms_before { 0.97 } else { 0.03 };
                cast_vote(&mut tracker, at, id, &[masked, 1.0 - masked])
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
            prop::collection::vec((0.0_f32..200.0, 0.0_f32..200.0, any::<bool>()), 0..8), 1..10)
        ) {
            let start = Instant::now();
            let mut tracker = Tracker::new(OPTIONS);
            for (index, positions) in frames.iter().enumerate() {
                let (mut faces, mut candidates) = (Vec::new(), Vec::new());
                for &(x, y, is_low) in positions {
                    let list = if is_low { &mut candidates } else { &mut faces };
                    list.push(face(x, y));
                }
                let at = start + Duration::from_millis(100 * index as u64);
                let (mut ids, continued) = tracker.assign(at, &faces, &candidates);
                prop_assert_eq!(ids.len(), faces.len());
                prop_assert_eq!(continued.len(), candidates.len());
                ids.extend(continued.into_iter().flatten());
                let count = ids.len();
                ids.sort_unstable();
                ids.dedup();
                prop_assert_eq!(ids.len(), count);
            }
        }
    }
}
