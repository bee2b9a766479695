//! Turns the tracks of faces into passages, so that each person is counted once.
//!
//! A *visit* is what is known about one person who is in view: one track, or several tracks
//! that follow each other at the same place. A visit that has ended becomes a [`Passage`],
//! unless it was so short that it may not have been a person. This module is pure.
//! `docs/decisions/how-are-passages-counted.md` gives the reasons for its rules.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Outcome;
use crate::frame::Rect;

/// A face in a frame that belongs to a track.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sighting {
    /// Id of the track.
    pub track: u64,
    /// Position of the face, in pixels of the frame.
    pub rect: Rect,
    /// The verdict on the face, which is the vote of its track.
    pub outcome: Outcome,
}

/// A person who has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passage {
    /// What the passage counts as.
    pub outcome: Outcome,
    /// Capture time of the last frame with the person's face.
    pub last_seen: Instant,
}

/// A visit ends when its face has not been seen for longer than this, or for longer than a track
/// is kept if that is more. Until then, a new track at the same place continues the visit.
pub const REJOIN: Duration = Duration::from_secs(2);
/// A visit counts only if its face was seen in at least this many frames, because a false
/// detection seldom lasts so long.
pub const MIN_FRAMES: u32 = 3;
/// A new track continues a visit if its face is at most this far from where the visit's face
/// is expected, in lengths of a face's side.
const MAX_DISTANCE: f32 = 1.2;
/// A new track continues a visit only if the sides of both faces differ by at most this factor.
const MAX_GROWTH: f32 = 1.7;
/// A visit's face is expected to keep moving for this long after it was last seen.
const MAX_MOTION: Duration = Duration::from_secs(1);
/// Two visits meet if their faces are at most this far from each other, in lengths of a face's
/// side. The tracker may then take one of them for the other.
const MEETING: f32 = 2.0;
/// If two visits were exchanged when they met, the face is expected to keep moving for this long.
/// It is hidden behind the other one for longer than a face that is missed by itself.
const MAX_HIDDEN_MOTION: Duration = Duration::from_secs(2);
/// Time constant of the smoothed speed, in seconds. The position that the detector reports
/// varies by a few percent from frame to frame, which must not look like a movement.
const SPEED_MEMORY: f32 = 0.5;
/// Number of the latest frames with a verdict other than unsure that decide what a visit
/// counts as.
const VOTES: usize = 15;
/// Maximum number of visits at the same time. Further faces are not counted.
const MAX_VISITS: usize = 256;

/// Counts the people whose faces it is shown.
#[derive(Debug)]
pub struct PassageCounter {
    /// How long a visit lasts after its face was seen.
    rejoin: Duration,
    visits: Vec<Visit>,
}

/// Where a face was seen last, and how it moved.
#[derive(Debug, Clone, Copy)]
struct Motion {
    rect: Rect,
    /// Smoothed speed of the face's center, in pixels per second.
    speed: (f32, f32),
    last_seen: Instant,
}

/// How well a face fits a visit.
#[derive(Debug, Clone, Copy)]
struct Fit {
    /// Whether the face fits only if the visit was exchanged with the one that it met.
    is_exchanged: bool,
    /// The distance from the place where the face is expected, in lengths of a face's side.
    distance: f32,
}

#[derive(Debug)]
struct Visit {
    /// The track that continued the visit last.
    track: u64,
    motion: Motion,
    /// The motion of the nearest other visit when this visit was seen last, if the two met. The
    /// tracker gives the box of a face that hides another one to either of their tracks. The
    /// person who is still there then continues the wrong visit, and the person who comes out
    /// continues this one at the place where the other one is expected.
    met: Option<Motion>,
    /// Number of frames in which the face was seen.
    frames: u32,
    /// The latest outcomes other than unsure, oldest first.
    votes: VecDeque<Outcome>,
}

fn center(rect: &Rect) -> (f32, f32) {
    (rect.x + rect.width / 2.0, rect.y + rect.height / 2.0)
}

/// The side of a square with the same area.
fn side(rect: &Rect) -> f32 {
    (rect.width.max(0.0) * rect.height.max(0.0)).sqrt()
}

impl Motion {
    /// Adds the position of the face in a frame.
    fn see(&mut self, at: Instant, rect: Rect) {
        let elapsed = at.saturating_duration_since(self.last_seen).as_secs_f32();
        if elapsed > 0.0 {
            let (from, to) = (center(&self.rect), center(&rect));
            let weight = 1.0 - (-elapsed / SPEED_MEMORY).exp();
            let smooth =
                |old: f32, from: f32, to: f32| old + weight * ((to - from) / elapsed - old);
            self.speed = (
                smooth(self.speed.0, from.0, to.0),
                smooth(self.speed.1, from.1, to.1),
            );
        }
        self.rect = rect;
        self.last_seen = at;
    }

    /// The distance between the center of a face and the place where this face is expected, in
    /// pixels. The face is expected to keep moving for at most `max_motion`.
    fn distance(&self, at: Instant, rect: &Rect, max_motion: Duration) -> f32 {
        let moving = at.saturating_duration_since(self.last_seen);
        let moving = moving.min(max_motion).as_secs_f32();
        let (x, y) = center(&self.rect);
        let expected = (x + self.speed.0 * moving, y + self.speed.1 * moving);
        let (x, y) = center(rect);
        (x - expected.0).hypot(y - expected.1)
    }

    /// How far the two faces were from each other when they were last seen, in lengths of a
    /// face's side.
    fn apart(&self, other: &Motion) -> f32 {
        let ((x, y), (other_x, other_y)) = (center(&self.rect), center(&other.rect));
        let length = f32::midpoint(side(&self.rect), side(&other.rect));
        (x - other_x).hypot(y - other_y) / length
    }
}

impl Visit {
    fn new(at: Instant, sighting: &Sighting) -> Visit {
        let mut visit = Visit {
            track: sighting.track,
            motion: Motion {
                rect: sighting.rect,
                speed: (0.0, 0.0),
                last_seen: at,
            },
            met: None,
            frames: 0,
            votes: VecDeque::new(),
        };
        visit.see(at, sighting);
        visit
    }

    fn see(&mut self, at: Instant, sighting: &Sighting) {
        self.motion.see(at, sighting.rect);
        self.track = sighting.track;
        self.frames = self.frames.saturating_add(1);
        if sighting.outcome != Outcome::Unsure {
            if self.votes.len() == VOTES {
                self.votes.pop_front();
            }
            self.votes.push_back(sighting.outcome);
        }
    }

    /// How well a face fits this visit, or `None` if it is too far from where the visit's face is
    /// expected, or much larger or smaller.
    fn fit(&self, at: Instant, rect: &Rect) -> Option<Fit> {
        let (old, new) = (side(&self.motion.rect), side(rect));
        let is_alike = old > 0.0 && new > 0.0 && (old / new).max(new / old) <= MAX_GROWTH;
        if !is_alike {
            return None;
        }
        let fit = |motion: &Motion, max_motion, is_exchanged| {
            let distance = motion.distance(at, rect, max_motion) / f32::midpoint(old, new);
            (distance <= MAX_DISTANCE).then_some(Fit {
                is_exchanged,
                distance,
            })
        };
        let own = fit(&self.motion, MAX_MOTION, false);
        own.or_else(|| fit(self.met.as_ref()?, MAX_HIDDEN_MOTION, true))
    }

    /// The outcome of most of the latest votes. The newest vote decides a tie.
    fn outcome(&self) -> Outcome {
        let Some(newest) = self.votes.back() else {
            return Outcome::Unsure;
        };
        let masked = self.votes.iter().filter(|vote| **vote == Outcome::Masked);
        let (masked, all) = (masked.count(), self.votes.len());
        match (2 * masked).cmp(&all) {
            std::cmp::Ordering::Greater => Outcome::Masked,
            std::cmp::Ordering::Less => Outcome::Unmasked,
            std::cmp::Ordering::Equal => *newest,
        }
    }

    fn passage(&self) -> Option<Passage> {
        (self.frames >= MIN_FRAMES).then(|| Passage {
            outcome: self.outcome(),
            last_seen: self.motion.last_seen,
        })
    }
}

impl PassageCounter {
    /// Creates a counter without visits. `keep` is how long a track is kept without a face.
    #[must_use]
    pub fn new(keep: Duration) -> PassageCounter {
        PassageCounter {
            rejoin: keep.max(REJOIN),
            visits: Vec::new(),
        }
    }

    /// Takes the faces of a frame that was captured at time `at`, and returns the passages
    /// that have ended.
    pub fn observe(&mut self, at: Instant, sightings: &[Sighting]) -> Vec<Passage> {
        let rejoin = self.rejoin;
        let passages =
            self.end(|visit| at.saturating_duration_since(visit.motion.last_seen) > rejoin);
        let mut new = Vec::new();
        // A visit continues at most once in a frame.
        let mut is_seen = vec![false; self.visits.len()];
        for sighting in sightings {
            let known = self.visits.iter_mut().zip(&mut is_seen);
            let mut known = known.filter(|(visit, seen)| visit.track == sighting.track && !**seen);
            if let Some((visit, seen)) = known.next() {
                *seen = true;
                visit.see(at, sighting);
            } else {
                new.push(sighting);
            }
        }
        self.start(at, &new, &mut is_seen);
        self.note_meetings(at);
        passages
    }

    /// Notes which visits met, for the visits that were seen in the frame captured at time `at`.
    fn note_meetings(&mut self, at: Instant) {
        let motions: Vec<Motion> = self.visits.iter().map(|visit| visit.motion).collect();
        for (index, visit) in self.visits.iter_mut().enumerate() {
            if visit.motion.last_seen != at {
                continue;
            }
            let others = motions.iter().enumerate();
            let others = others.filter(|(other, _)| *other != index);
            let others = others.map(|(_, other)| (visit.motion.apart(other), other));
            let nearest = others.min_by(|a, b| a.0.total_cmp(&b.0));
            let met = nearest.filter(|(distance, _)| *distance <= MEETING);
            visit.met = met.map(|(_, motion)| *motion);
        }
    }

    /// Assigns faces with new tracks to the visits that are not seen in this frame. The
    /// nearest pairs are matched first, and those that fit only after an exchange last. The other
    /// faces begin visits.
    fn start(&mut self, at: Instant, new: &[&Sighting], is_seen: &mut [bool]) {
        let mut pairs: Vec<(Fit, usize, usize)> = Vec::new();
        for (face, sighting) in new.iter().enumerate() {
            for (index, visit) in self.visits.iter().enumerate() {
                let fit = visit.fit(at, &sighting.rect);
                if let Some(fit) = fit.filter(|_| !is_seen[index]) {
                    pairs.push((fit, face, index));
                }
            }
        }
        pairs.sort_by(|(a, ..), (b, ..)| {
            let by_distance = a.distance.total_cmp(&b.distance);
            a.is_exchanged.cmp(&b.is_exchanged).then(by_distance)
        });
        let mut is_assigned = vec![false; new.len()];
        for (_, face, index) in pairs {
            if !is_assigned[face] && !is_seen[index] {
                (is_assigned[face], is_seen[index]) = (true, true);
                self.visits[index].see(at, new[face]);
            }
        }
        for (sighting, is_assigned) in new.iter().zip(is_assigned) {
            if !is_assigned && self.visits.len() < MAX_VISITS {
                self.visits.push(Visit::new(at, sighting));
            }
        }
    }

    /// Ends all visits, because there will be no more frames, and returns their passages.
    pub fn finish(&mut self) -> Vec<Passage> {
        self.end(|_| true)
    }

    fn end(&mut self, is_over: impl Fn(&Visit) -> bool) -> Vec<Passage> {
        let mut passages = Vec::new();
        self.visits.retain(|visit| {
            let is_over = is_over(visit);
            if is_over {
                passages.extend(visit.passage());
            }
            !is_over
        });
        passages
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

    fn sighting(track: u64, x: f32, outcome: Outcome) -> Sighting {
        let rect = Rect {
            x,
            y: 50.0,
            width: 40.0,
            height: 40.0,
        };
        Sighting {
            track,
            rect,
            outcome,
        }
    }

    /// Frames at ten per second.
    struct Film {
        at: Instant,
        counter: PassageCounter,
        outcomes: Vec<Outcome>,
    }

    impl Film {
        fn new() -> Film {
            Film::keeping(Duration::ZERO)
        }

        fn keeping(keep: Duration) -> Film {
            Film {
                at: Instant::now(),
                counter: PassageCounter::new(keep),
                outcomes: Vec::new(),
            }
        }

        fn frame(&mut self, sightings: &[Sighting]) {
            let passages = self.counter.observe(self.at, sightings);
            self.outcomes
                .extend(passages.iter().map(|passage| passage.outcome));
            self.at += Duration::from_millis(100);
        }

        fn frames(&mut self, count: usize, sightings: &[Sighting]) {
            for _ in 0..count {
                self.frame(sightings);
            }
        }

        fn end(mut self) -> Vec<Outcome> {
            self.at += self.counter.rejoin;
            self.frames(2, &[]);
            assert!(self.counter.finish().is_empty(), "all visits are over");
            self.outcomes
        }
    }

    #[test]
    fn a_person_is_counted_once_with_the_verdict_of_most_frames() {
        let mut film = Film::new();
        film.frames(5, &[sighting(1, 0.0, Outcome::Unsure)]);
        film.frames(5, &[sighting(1, 0.0, Outcome::Masked)]);
        film.frames(2, &[sighting(1, 0.0, Outcome::Unmasked)]);
        film.frames(5, &[sighting(1, 0.0, Outcome::Unsure)]);
        assert!(film.outcomes.is_empty(), "it is still there");
        assert_eq!(film.end(), [Outcome::Masked]);

        let mut film = Film::new();
        film.frames(4, &[sighting(1, 0.0, Outcome::Unsure)]);
        assert_eq!(film.end(), [Outcome::Unsure]);
        // Somebody takes the mask off and stays.
        let mut film = Film::new();
        film.frames(50, &[sighting(1, 0.0, Outcome::Masked)]);
        film.frames(10, &[sighting(1, 0.0, Outcome::Unmasked)]);
        assert_eq!(film.end(), [Outcome::Unmasked]);
    }

    #[test]
    fn a_false_detection_is_too_short_to_count() {
        let mut film = Film::new();
        film.frames(2, &[sighting(1, 0.0, Outcome::Unmasked)]);
        assert_eq!(film.end(), []);
    }

    #[test]
    fn a_track_that_was_lost_for_a_moment_counts_once() {
        let mut film = Film::new();
        film.frames(5, &[sighting(1, 0.0, Outcome::Masked)]);
        film.frames(19, &[]);
        film.frames(5, &[sighting(2, 10.0, Outcome::Masked)]);
        assert_eq!(film.end(), [Outcome::Masked]);
        // The next person comes later.
        let mut film = Film::new();
        film.frames(5, &[sighting(1, 0.0, Outcome::Masked)]);
        film.frames(21, &[]);
        film.frames(5, &[sighting(2, 10.0, Outcome::Masked)]);
        assert_eq!(film.end(), [Outcome::Masked; 2]);
    }

    #[test]
    fn a_face_that_moves_is_found_where_it_is_expected() {
        // The face moves by three of its widths during the gap.
        let mut film = Film::new();
        for step in 0..10_u8 {
            film.frame(&[sighting(1, 12.0 * f32::from(step), Outcome::Masked)]);
        }
        film.frames(9, &[]);
        for step in 19..25_u8 {
            film.frame(&[sighting(2, 12.0 * f32::from(step), Outcome::Masked)]);
        }
        assert_eq!(film.end(), [Outcome::Masked]);
        // Somebody else appears where that face was last seen.
        let mut film = Film::new();
        for step in 0..10_u8 {
            film.frame(&[sighting(1, 12.0 * f32::from(step), Outcome::Masked)]);
        }
        film.frames(9, &[]);
        film.frames(5, &[sighting(2, 100.0, Outcome::Masked)]);
        assert_eq!(film.end(), [Outcome::Masked; 2]);
    }

    /// Two people walk toward each other, and one hides the other for a while. `exchanges` says
    /// whether the tracker then gives the visible face the track of the hidden one. Each person
    /// moves by a quarter of a face per frame.
    fn crossing(exchanges: bool) -> Vec<Outcome> {
        let mut film = Film::new();
        let mut tracks = (1, 2);
        for step in 0..40_u8 {
            let way = 10.0 * f32::from(step);
            let (hidden, visible) = (way, 400.0 - way);
            if step == 19 && exchanges {
                tracks = (3, 1);
            } else if step == 24 && !exchanges {
                tracks = (3, 2);
            }
            let mut sightings = vec![sighting(tracks.1, visible, Outcome::Unmasked)];
            if !(16..24).contains(&step) {
                sightings.push(sighting(tracks.0, hidden, Outcome::Masked));
            }
            film.frame(&sightings);
        }
        film.end()
    }

    #[test]
    fn people_who_hide_each_other_are_two_whatever_the_tracker_makes_of_them() {
        for exchanges in [false, true] {
            let outcomes = crossing(exchanges);
            assert_eq!(outcomes.len(), 2, "{exchanges}: {outcomes:?}");
        }
    }

    #[test]
    fn somebody_who_comes_out_far_from_a_meeting_is_new() {
        let mut film = Film::new();
        let both = [
            sighting(1, 100.0, Outcome::Masked),
            sighting(2, 150.0, Outcome::Masked),
        ];
        film.frames(5, &both);
        film.frames(5, &both[..1]);
        film.frames(5, &[both[0], sighting(3, 300.0, Outcome::Masked)]);
        assert_eq!(film.end().len(), 3);
    }

    #[test]
    fn two_people_at_the_same_time_are_two() {
        let mut film = Film::new();
        let both = [
            sighting(1, 0.0, Outcome::Masked),
            sighting(2, 45.0, Outcome::Unmasked),
        ];
        film.frames(5, &both);
        // Both tracks are lost, and the new ones come in another order.
        film.frames(5, &[]);
        let both = [
            sighting(3, 46.0, Outcome::Unmasked),
            sighting(4, 2.0, Outcome::Masked),
        ];
        film.frames(5, &both);
        assert_eq!(film.end(), [Outcome::Masked, Outcome::Unmasked]);
    }

    proptest! {
        /// Each person keeps to a place of their own, and is missed in some frames and given new
        /// tracks at random.
        #[test]
        fn everybody_is_counted_once(
            people in 1_usize..6,
            frames in 5_usize..60,
            misses in prop::collection::vec(0_u8..10, 400),
            restarts in prop::collection::vec(0_u8..10, 400),
        ) {
            let mut film = Film::new();
            let mut tracks: Vec<u64> = (0..people as u64).collect();
            let mut next = people as u64;
            for frame in 0..frames {
                let mut sightings = Vec::new();
                for (person, track) in tracks.iter_mut().enumerate() {
                    let draw = (frame * people + person) % 400;
                    // The first three frames are never missed, so that everybody counts.
                    if frame > 2 && misses[draw] < 4 && frame % 15 != 0 {
                        continue;
                    }
                    if restarts[draw] < 2 {
                        *track = next;
                        next += 1;
                    }
                    let x = 100.0 * person as f32 + f32::from(misses[draw]);
                    sightings.push(sighting(*track, x, Outcome::Masked));
                }
                film.frame(&sightings);
            }
            prop_assert_eq!(film.end().len(), people);
        }

        /// There are never more passages than tracks, whatever the frames show.
        #[test]
        fn a_track_never_counts_twice(
            frames in prop::collection::vec(
                prop::collection::vec((0_u64..8, -50_f32..600.0, 0_u8..3), 0..6), 1..60,
            ),
        ) {
            // The tracker keeps each of these tracks for as long as the film lasts.
            let mut film = Film::keeping(Duration::from_secs(10));
            let mut seen = std::collections::HashSet::new();
            for faces in frames {
                let mut in_frame = std::collections::HashSet::new();
                let sightings: Vec<Sighting> = faces
                    .iter()
                    .filter(|(track, ..)| in_frame.insert(*track))
                    .map(|(track, x, outcome)| {
                        seen.insert(*track);
                        let outcome = [Outcome::Masked, Outcome::Unmasked, Outcome::Unsure][usize::from(*outcome)];
                        sighting(*track, *x, outcome)
                    })
                    .collect();
                film.frame(&sightings);
            }
            prop_assert!(film.end().len() <= seen.len());
        }
    }
}
