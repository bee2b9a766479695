//! Determines when a series of frames is enough to change the decision to mask. This
//! change can open a door.
//!
//! This module owns the runs of frames that confirm each other. A single frame never
//! confirms a mask, because it may be the damaged first frame of a connection, or a hand
//! may cover a mouth for a moment. The module is pure, because the time is passed in with
//! each frame.

use std::time::{Duration, Instant};

use crate::frame::ConnectionId;
use crate::vision::head::HeadId;

/// Two frames with faces can confirm each other if they are at most this far apart, even
/// if the camera sends frames much faster.
const MIN_ALLOWED_GAP: Duration = Duration::from_millis(300);

/// Two frames with faces can also confirm each other if they are at most this many frame
/// intervals apart.
const ALLOWED_INTERVALS: u32 = 3;

/// The median of this many latest intervals is the frame interval.
const INTERVALS: usize = 5;

/// Returns the time between two instants, in either order.
///
/// A clock that steps backward must not make an old frame look recent.
pub(crate) fn apart(a: Instant, b: Instant) -> Duration {
    a.checked_duration_since(b)
        .unwrap_or_else(|| b.saturating_duration_since(a))
}

/// The properties that frames must have in common to confirm each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Basis {
    /// The connection to the camera.
    pub connection: ConnectionId,
    /// The head that classified the faces.
    pub head: HeadId,
    /// Number of faults before the frame; see [`Standing`].
    pub faults: u64,
}

/// The part of the decision's state that is needed to process frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// Number of faults since startup. Frames before a fault do not confirm frames
    /// after it.
    pub faults: u64,
    /// The basis on which the decision is currently mask, or `None` if the decision is
    /// not mask.
    pub mask: Option<Basis>,
}

/// The latest frames with faces that confirm each other. In each of these frames, all
/// faces were detected and classified without reusing earlier results, and all of them
/// are masked. Masked faces that the detector scores low do not matter here; see
/// [`sighting`](crate::decision::frame_result::sighting).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Number of frames, at least 1.
    frames: u32,
    /// Capture time of the first frame.
    first: Instant,
    /// Capture time of the latest frame.
    last: Instant,
    /// The longest time between two consecutive frames.
    longest_gap: Duration,
    /// Number of frames at the end of the run that have no gap longer than
    /// [`MIN_ALLOWED_GAP`] between them, and the capture time of the first of these
    /// frames.
    dense: (u32, Instant),
}

impl Run {
    fn starting_at(at: Instant) -> Run {
        Run {
            frames: 1,
            first: at,
            last: at,
            longest_gap: Duration::ZERO,
            dense: (1, at),
        }
    }

    /// Adds a frame. If two consecutive frames of the run are more than `allowed` apart,
    /// only the dense end of the run is kept.
    fn extended(self, at: Instant, allowed: Duration) -> Run {
        let gap = apart(at, self.last);
        let dense = if gap > MIN_ALLOWED_GAP {
            (1, at)
        } else {
            (self.dense.0.saturating_add(1), self.dense.1)
        };
        let longest_gap = self.longest_gap.max(gap);
        if longest_gap > allowed {
            return Run {
                frames: dense.0,
                first: dense.1,
                last: at,
                longest_gap: Duration::ZERO,
                dense,
            };
        }
        Run {
            frames: self.frames.saturating_add(1),
            last: at,
            longest_gap,
            dense,
            ..self
        }
    }

    /// Whether the run has at least `frames` frames and lasts at least as long as `span`.
    #[must_use]
    pub fn confirms(&self, frames: u32, span: Duration) -> bool {
        self.frames >= frames && self.last.saturating_duration_since(self.first) >= span
    }
}

/// What a frame contributes to the confirmation of a mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sighting {
    /// The frame shows no face, or only masked faces with low scores.
    Nobody,
    /// All faces were detected and classified in this frame, and each of them was found
    /// to be masked.
    MaskedAnew,
    /// All faces are considered masked, but this frame alone does not prove it. At least
    /// one face was either not detected and classified in this frame, or classified as
    /// not masked.
    Masked,
    /// At least one face is unmasked, or its verdict is unsure, or a masked face with a low
    /// score was classified as not masked in this frame alone.
    Other,
}

/// The extent to which the frames up to and including this one confirm a mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evidence {
    /// The basis of the frame.
    pub basis: Basis,
    /// The run that ends with this frame, or `None` if the frame is not
    /// [`Sighting::MaskedAnew`].
    pub run: Option<Run>,
    /// The time between frames, or zero while it is unknown.
    pub interval: Duration,
}

/// Follows the frames from a camera and determines which of them confirm each other.
///
/// The caller must report every frame that is processed.
#[derive(Debug, Default)]
pub struct Confirmation {
    basis: Basis,
    /// Capture time of the latest frame.
    last_frame: Option<Instant>,
    /// The latest times between frames, oldest first. Only the first `known` entries are
    /// valid.
    intervals: [Duration; INTERVALS],
    known: usize,
    run: Option<Run>,
    /// Capture time of the latest frame with faces, if all of its faces were considered
    /// masked, whether or not they were classified in that frame.
    said_mask: Option<Instant>,
}

impl Confirmation {
    /// Begins processing a frame that was captured at time `at`. Returns true if the
    /// caller must discard everything that is known from earlier frames, including tracks
    /// and their votes. This is the case after a reconnection, a change to another head,
    /// a fault, or a backward step of the clock.
    pub fn begin(&mut self, at: Instant, basis: Basis) -> bool {
        let is_new = basis != self.basis || self.last_frame.is_some_and(|last| at < last);
        if is_new {
            *self = Confirmation {
                basis,
                ..Confirmation::default()
            };
        }
        is_new
    }

    /// Whether a decision is waiting for confirmation. The faces in the next frame must
    /// then be detected and classified in that frame.
    #[must_use]
    pub fn is_awaited(&self, standing: Standing) -> bool {
        self.said_mask.is_some() && standing.mask != Some(self.basis)
    }

    /// Discards the current run, because faces are judged by different rules from now on.
    pub fn restart(&mut self) {
        self.run = None;
    }

    /// Ends the frame that was begun with [`begin`](Confirmation::begin).
    pub fn end(&mut self, at: Instant, sighting: Sighting) -> Evidence {
        if let Some(last) = self.last_frame.replace(at) {
            self.add_interval(apart(at, last));
        }
        let allowed = self.allowed_gap();
        match sighting {
            Sighting::MaskedAnew => {
                let run = self.run.map(|run| run.extended(at, allowed));
                self.run = Some(run.unwrap_or_else(|| Run::starting_at(at)));
                self.said_mask = Some(at);
            }
            Sighting::Masked => (self.run, self.said_mask) = (None, Some(at)),
            Sighting::Other => (self.run, self.said_mask) = (None, None),
            // The detector may miss a face in some frames, but only for a limited time.
            Sighting::Nobody => {
                self.said_mask = self.said_mask.filter(|said| apart(at, *said) <= allowed);
            }
        }
        Evidence {
            basis: self.basis,
            run: self.run.filter(|_| sighting == Sighting::MaskedAnew),
            interval: self.interval(),
        }
    }

    fn add_interval(&mut self, interval: Duration) {
        if self.known == INTERVALS {
            self.intervals.rotate_left(1);
            self.known -= 1;
        }
        self.intervals[self.known] = interval;
        self.known += 1;
    }

    /// Returns the median of the latest intervals. If there is an even number of
    /// intervals, this is the lower of the two middle values, so that a single long pause
    /// does not make a second one acceptable.
    fn interval(&self) -> Duration {
        let mut sorted = self.intervals;
        let sorted = &mut sorted[..self.known];
        sorted.sort_unstable();
        let middle = sorted.len().saturating_sub(1) / 2;
        sorted.get(middle).copied().unwrap_or_default()
    }

    fn allowed_gap(&self) -> Duration {
        let intervals = self.interval().saturating_mul(ALLOWED_INTERVALS);
        intervals.max(MIN_ALLOWED_GAP)
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests need an arbitrary start time"
)]
mod tests {
    use super::Sighting::{Masked, MaskedAnew, Nobody, Other};
    use super::*;

    const FRAMES: u32 = 3;
    const SPAN: Duration = Duration::from_millis(300);

    /// Returns, for each frame, whether it ends a run that confirms a mask. Each frame is
    /// given as its capture time in ms and its sighting.
    fn play(frames: &[(u64, Sighting)]) -> Vec<bool> {
        let start = Instant::now();
        let mut confirmation = Confirmation::default();
        let confirmed = frames.iter().map(|&(ms, sighting)| {
            let at = start + Duration::from_millis(ms);
            confirmation.begin(at, Basis::default());
            let evidence = confirmation.end(at, sighting);
            evidence.run.is_some_and(|run| run.confirms(FRAMES, SPAN))
        });
        confirmed.collect()
    }

    fn masked(times: &[u64]) -> Vec<(u64, Sighting)> {
        let frame = |ms: &u64| (*ms, MaskedAnew);
        times.iter().map(frame).collect()
    }

    #[test]
    fn enough_frames_over_enough_time_confirm_each_other() {
        let at = |times: &[u64]| play(&masked(times));
        assert_eq!(at(&[0, 100, 200, 299]), [false; 4], "the time is too short");
        assert_eq!(at(&[0, 100, 200, 300]), [false, false, false, true]);
        assert_eq!(at(&[0, 300]), [false; 2], "two frames are too few");
        assert_eq!(
            at(&[0, 1000, 2000]),
            [false, false, true],
            "a slow board processes one frame a second"
        );
    }

    #[test]
    fn a_frame_that_does_not_prove_a_mask_starts_the_run_anew() {
        for other in [Masked, Other] {
            let mut frames = masked(&[0, 100]);
            frames.push((200, other));
            frames.extend(masked(&[300, 400, 500, 600]));
            let expected = [false, false, false, false, false, false, true];
            assert_eq!(play(&frames), expected, "{other:?}");
        }
    }

    #[test]
    fn a_face_that_is_missed_in_some_frames_is_confirmed_if_it_is_not_missed_for_long() {
        let faces = |each: u64| {
            let frame = |index: u64| {
                let is_seen = index.is_multiple_of(each);
                (100 * index, if is_seen { MaskedAnew } else { Nobody })
            };
            play(&(0..30).map(frame).collect::<Vec<_>>())
        };
        assert!(faces(2)[4], "200 ms between the detections");
        assert!(faces(3)[6], "300 ms");
        assert!(!faces(4).contains(&true), "400 ms");
    }

    #[test]
    fn a_pause_does_not_count_as_a_frame_interval() {
        let mut times: Vec<u64> = (0..3).map(|index| 100 * index).collect();
        times.extend([600, 1100, 1200, 1300, 1400]);
        let confirmed = play(&masked(&times));
        assert_eq!(confirmed[..7], [false; 7], "the pauses restart the run");
        assert!(confirmed[7]);
        // After the second frame, the pause is the only known interval.
        let confirmed = play(&masked(&[0, 2000, 2100, 2200, 2300, 2400]));
        assert_eq!(confirmed, [false, false, false, false, true, true]);
        // A slow start does not delay a fast camera.
        let confirmed = play(&masked(&[0, 310, 410, 510, 610, 710]));
        assert_eq!(confirmed, [false, false, false, false, true, true]);
    }

    #[test]
    fn nothing_confirms_a_frame_of_another_basis_or_of_a_later_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let basis = Basis::default();
        let others = [
            Basis {
                connection: basis.connection.next(),
                ..basis
            },
            Basis {
                head: basis.head.next(),
                ..basis
            },
            Basis { faults: 1, ..basis },
        ];
        for other in others {
            let mut confirmation = Confirmation::default();
            for ms in [0, 100, 200] {
                assert!(!confirmation.begin(at(ms), basis));
                confirmation.end(at(ms), MaskedAnew);
            }
            assert!(confirmation.begin(at(300), other), "it is a new basis");
            let run = confirmation.end(at(300), MaskedAnew).run;
            assert!(!run.unwrap().confirms(2, Duration::ZERO), "{other:?}");
        }
        let mut confirmation = Confirmation::default();
        confirmation.begin(at(1000), basis);
        confirmation.end(at(1000), MaskedAnew);
        assert!(confirmation.begin(at(999), basis), "the clock stepped back");
    }

    #[test]
    fn a_frame_is_awaited_only_while_masks_are_seen_and_not_yet_decided() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let basis = Basis::default();
        let (other, decided) = (
            Standing::default(),
            Standing {
                faults: 0,
                mask: Some(basis),
            },
        );
        let mut confirmation = Confirmation::default();
        confirmation.begin(at(0), basis);
        assert!(!confirmation.is_awaited(other), "no face has been seen");
        confirmation.end(at(0), Masked);
        assert!(confirmation.is_awaited(other));
        assert!(!confirmation.is_awaited(decided));
        confirmation.end(at(300), Nobody);
        assert!(confirmation.is_awaited(other), "the face may be back");
        confirmation.end(at(301), Nobody);
        assert!(!confirmation.is_awaited(other), "the face has left");
        confirmation.end(at(400), MaskedAnew);
        confirmation.end(at(500), Other);
        assert!(!confirmation.is_awaited(other));
    }
}
