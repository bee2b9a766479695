//! Faces over time: which face of this frame is which of the last one, and what
//! the last few looks at it say together.
//!
//! Pure: time comes in with the frame.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::frame::{Face, Rect};

/// How faces are followed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrackOptions {
    /// A face continues a track if it overlaps the track's last box by at least
    /// this IoU, 0 to 1.
    pub min_iou: f32,
    /// A track that was not seen for this long is forgotten.
    pub keep: Duration,
    /// The vote is over this many looks, at least one.
    pub votes: usize,
}

/// Follows faces from frame to frame.
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
    seen: Instant,
    /// Probabilities of the last looks, oldest first.
    votes: VecDeque<Vec<f32>>,
}

impl Tracker {
    /// A tracker that has seen nothing; its tracks are numbered from 1.
    #[must_use]
    pub fn new(options: TrackOptions) -> Tracker {
        Tracker {
            options,
            tracks: Vec::new(),
            next_id: 1,
        }
    }

    /// The track of each face of a frame captured `at`, in the order of the
    /// faces. The pairs that overlap most are matched first; a face that
    /// matches no track starts one.
    pub fn assign(&mut self, at: Instant, faces: &[Face]) -> Vec<u64> {
        let keep = self.options.keep;
        self.tracks
            .retain(|track| at.saturating_duration_since(track.seen) <= keep);

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
                track.seen = at;
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
            seen: at,
            votes: VecDeque::new(),
        });
        id
    }

    /// Forgets all looks, and not the tracks: another head judges from now on.
    pub fn forget_votes(&mut self) {
        for track in &mut self.tracks {
            track.votes.clear();
        }
    }

    /// Adds a look at a track and gives the mean of its last looks: one
    /// blurred frame does not turn a verdict.
    ///
    /// A look with another number of classes than the ones before (the head
    /// was swapped) starts the vote anew; a track that is not followed has only
    /// this look.
    pub fn vote(&mut self, track: u64, probabilities: &[f32]) -> Vec<f32> {
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
        let mut mean = vec![0.0; probabilities.len()];
        for vote in &track.votes {
            for (sum, probability) in mean.iter_mut().zip(vote) {
                *sum += probability / track.votes.len() as f32;
            }
        }
        mean
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

    const OPTIONS: TrackOptions = TrackOptions {
        min_iou: 0.3,
        keep: Duration::from_secs(1),
        votes: 3,
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
        // The order of the finds changes from frame to frame.
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
    fn the_vote_is_the_mean_of_the_last_looks() {
        let mut tracker = Tracker::new(OPTIONS);
        let id = tracker.assign(Instant::now(), &[face(0.0, 0.0)])[0];
        assert_eq!(tracker.vote(id, &[0.0, 1.0]), [0.0, 1.0]);
        assert_eq!(tracker.vote(id, &[1.0, 0.0]), [0.5, 0.5]);
        tracker.vote(id, &[1.0, 0.0]);
        let mean = tracker.vote(id, &[1.0, 0.0]);
        assert!(
            (mean[0] - 1.0).abs() < 1e-6,
            "the first look has left the vote: {mean:?}"
        );
        assert_eq!(tracker.vote(id, &[0.2, 0.3, 0.5]), [0.2, 0.3, 0.5]);
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
