//! Checks the property that the safety of a door depends on: the relay opens only after
//! enough frames have confirmed each other. The input bytes choose frames with faces of
//! high and low scores, losses of the camera, reconnections, changes to the head and to
//! the settings, and steps of the clock. The oracle, `World::may_open`, looks only at the
//! list of frames.

use std::time::{Duration, Instant};

use maskd::decision::confirm::{Basis, Confirmation, Standing};
use maskd::decision::decide::{
    Decider, DeciderOptions, Decision, Loss, Observation, Progress, UnsureReason, Verdict,
};
use maskd::decision::frame_result::{FaceResult, decision as decision_of, sighting};
use maskd::frame::{ConnectionId, Face, Rect};
use maskd::indicate::{Door, DoorDecision, DoorOptions, DoorReadings, LockType, Opening};
use maskd::vision::head::HeadId;

/// The verdicts on a face in a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// The vote says masked, and so does the classification in this frame alone.
    MaskedAnew,
    /// The vote says masked, and the face was not classified in this frame.
    MaskedBefore,
    /// The vote says masked, but the classification in this frame alone does not.
    Doubtful,
    Unmasked,
    Unsure,
}

impl Look {
    /// Returns the result for a face with these verdicts. `is_low` is true if the
    /// detector gave the face a low score.
    fn result(self, is_low: bool) -> FaceResult {
        let (masked, unsure) = (Verdict::Masked(0), Verdict::Unsure(UnsureReason::Undecided));
        let (verdict, verdict_alone) = match self {
            Look::MaskedAnew => (masked, Some(masked)),
            Look::MaskedBefore => (masked, None),
            Look::Doubtful => (masked, Some(unsure)),
            Look::Unmasked => (Verdict::Unmasked(1), Some(masked)),
            Look::Unsure => (unsure, None),
        };
        FaceResult {
            face: Face {
                rect: Rect::default(),
                score: if is_low { 0.3 } else { 0.9 },
                landmarks: [(0.0, 0.0); 5],
                face_check: is_low.then_some(0.9),
            },
            track: Some(1),
            probabilities: None,
            verdict,
            verdict_alone,
        }
    }
}

/// A frame, as recorded for the oracle.
#[derive(Clone)]
struct Seen {
    at: Instant,
    connection: ConnectionId,
    head: HeadId,
    /// Number of faults that were shown before the frame was processed.
    faults: u64,
    /// The faces with high scores.
    high: Vec<Look>,
    /// The faces with low scores.
    low: Vec<Look>,
}

impl Seen {
    fn is_comparable(&self, later: &Seen) -> bool {
        (self.connection, self.head, self.faults) == (later.connection, later.head, later.faults)
            && self.at <= later.at
    }

    /// Whether the frame shows a face that extends or ends a run of frames. If all faces
    /// with low scores may be masked, they do neither.
    fn shows_face(&self) -> bool {
        !self.high.is_empty() || !self.low_may_be_masked()
    }

    /// Whether the decision for the frame depends on a face.
    fn counts(&self) -> bool {
        let is_masked = |look: &Look| !matches!(look, Look::Unmasked | Look::Unsure);
        !self.high.is_empty() || !self.low.iter().all(is_masked)
    }

    fn low_may_be_masked(&self) -> bool {
        let may_be_masked = |look: &Look| matches!(look, Look::MaskedAnew | Look::MaskedBefore);
        self.low.iter().all(may_be_masked)
    }

    fn proves_mask(&self) -> bool {
        let is_anew = |look: &Look| *look == Look::MaskedAnew;
        !self.high.is_empty() && self.high.iter().all(is_anew) && self.low_may_be_masked()
    }
}

/// A camera, the two threads behind it, and a door.
struct World {
    now: Instant,
    connection: ConnectionId,
    head: HeadId,
    confirmation: Confirmation,
    /// The state of the decision as last read by the inference thread.
    standing: Standing,
    /// The newest result, if the indicator thread has not taken it yet.
    result: Option<Observation>,
    loss: Option<Loss>,
    options: DeciderOptions,
    decider: Decider,
    decision: Decision,
    door: Door,
    is_open: bool,
    seen: Vec<Seen>,
    faults: u64,
}

const MS: Duration = Duration::from_millis(1);

impl World {
    fn new(now: Instant) -> World {
        let options = DeciderOptions {
            confirm: 300 * MS,
            confirm_frames: 3,
            hold: 1500 * MS,
            stale: 5000 * MS,
        };
        World {
            now,
            connection: ConnectionId::default(),
            head: HeadId::default(),
            confirmation: Confirmation::default(),
            standing: Standing::default(),
            result: None,
            loss: None,
            options,
            decider: Decider::new(options, now),
            decision: Decision::Idle,
            door: Door::new(DoorOptions::without_inputs(
                LockType::FailSecure,
                Opening::Hold(3000 * MS),
            )),
            is_open: false,
            seen: Vec::new(),
            faults: 0,
        }
    }

    /// Processes a frame as the inference thread does. Classifies the faces again in this
    /// frame if `confirmation` requires it.
    fn process(&mut self, mut high: Vec<Look>, mut low: Vec<Look>, age: Duration) {
        let at = self.now.checked_sub(age).unwrap_or(self.now);
        let basis = Basis {
            connection: self.connection,
            head: self.head,
            faults: self.standing.faults,
        };
        self.loss = None;
        let is_new = self.confirmation.begin(at, basis);
        let is_awaited = self.confirmation.is_awaited(self.standing);
        if is_new || is_awaited {
            // If there are no tracks yet, or while a decision awaits confirmation, the
            // faces must be classified in this frame.
            for look in high.iter_mut().chain(&mut low) {
                if *look == Look::MaskedBefore {
                    *look = Look::MaskedAnew;
                }
            }
        }
        let results = high.iter().map(|look| look.result(false));
        let results = results.chain(low.iter().map(|look| look.result(true)));
        let results: Vec<FaceResult> = results.collect();
        let evidence = self.confirmation.end(at, sighting(&results, true));
        let decision = decision_of(&results);
        self.result = Some(Observation {
            at,
            decision,
            evidence,
        });
        self.seen.push(Seen {
            at,
            connection: self.connection,
            head: self.head,
            faults: self.standing.faults,
            high,
            low,
        });
    }

    /// Does the work of the indicator thread: takes the newest result, if there is one,
    /// and sets the relay.
    fn indicate(&mut self, progress: Progress) {
        let before = self.decision;
        let result = self.result.take();
        self.decision = match (result, self.loss) {
            (Some(frame), _) => self.decider.observe(self.now, frame, progress),
            (None, Some(loss)) => self.decider.lose_camera(self.now, loss),
            (None, None) => self.decider.tick(self.now, progress),
        };
        if self.decision == Decision::Fault && before != Decision::Fault {
            self.faults += 1;
            let is_working =
                progress == Progress::Working && (result.is_some() || self.loss.is_none());
            assert!(!is_working, "a fault although the work goes on");
        }
        assert_eq!(self.decider.standing().faults, self.faults);
        let was_open = self.is_open;
        let decision = DoorDecision {
            decision: self.decision,
            mask_hold: self.options.hold,
            locks: true,
        };
        let state = self.door.step(self.now, decision, DoorReadings::default());
        self.is_open = state.is_energized;
        if self.is_open && !was_open {
            assert!(self.may_open(), "the relay opened without confirmation");
        }
        if self.decision == Decision::Mask && self.loss.is_some() && result.is_none() {
            assert!(self.is_held(), "a lost camera extended a mask");
        }
    }

    /// Whether the relay may open. In the latest frames that show a face, all faces must
    /// be masked according to a classification in the frame itself. Masked faces with low
    /// scores do not count as faces here. All of these frames must come from the same
    /// connection and the same head, and must be later than the latest fault. There must
    /// be enough of these frames, they must span enough time, and no gap between two of
    /// them may be too long.
    fn may_open(&self) -> bool {
        let allowed = self.allowed_gap();
        let faces = self.seen.iter().filter(|frame| frame.shows_face());
        let mut run: Vec<&Seen> = Vec::new();
        for frame in faces.rev() {
            let fits = match run.last() {
                None => frame.faults == self.faults,
                Some(later) => {
                    frame.is_comparable(later) && later.at.duration_since(frame.at) <= allowed
                }
            };
            if !fits || !frame.proves_mask() {
                break;
            }
            run.push(frame);
        }
        let (Some(last), Some(first)) = (run.first(), run.last()) else {
            return false;
        };
        run.len() >= self.options.confirm_frames as usize
            && last.at.duration_since(first.at) >= self.options.confirm
    }

    /// Returns 300 ms or three times the median of the latest five frame intervals,
    /// whichever is longer.
    fn allowed_gap(&self) -> Duration {
        let mut intervals: Vec<Duration> = self
            .seen
            .windows(2)
            .rev()
            .take_while(|pair| pair[0].is_comparable(&pair[1]))
            .take(5)
            .map(|pair| pair[1].at.duration_since(pair[0].at))
            .collect();
        intervals.sort();
        let median = match intervals.len() {
            0 => Duration::ZERO,
            count => intervals[(count - 1) / 2],
        };
        (3 * median).max(300 * MS)
    }

    /// Whether a face on which a decision depends was seen within the hold time, with the
    /// connection and the head on which the current `mask` decision is based.
    fn is_held(&self) -> bool {
        let Some(mask) = self.decider.standing().mask else {
            return false;
        };
        self.seen.iter().any(|frame| {
            let age = self.now.saturating_duration_since(frame.at);
            let ahead = frame.at.saturating_duration_since(self.now);
            frame.counts()
                && (frame.connection, frame.head) == (mask.connection, mask.head)
                && age.max(ahead) < self.options.hold
        })
    }
}

/// Simulates the sequence of events that the bytes encode. Checks after each event that
/// the relay opened only if it was allowed to.
pub fn decision(data: &[u8]) {
    // The start is far in the future, so that the clock can step back.
    let start = Instant::now() + Duration::from_hours(1000);
    let mut world = World::new(start);
    let mut bytes = data.iter().copied();
    while let (Some(event), Some(value)) = (bytes.next(), bytes.next()) {
        let progress = if event & 0x80 == 0 {
            Progress::Working
        } else {
            Progress::Stuck
        };
        match event & 0x0f {
            // Most events are frames, so that some runs of frames are long enough to open
            // the relay.
            kind @ 0..=7 => {
                world.now += MS * (u32::from(value) % 64) * if value < 192 { 3 } else { 40 };
                let high = match kind {
                    0..=2 => vec![Look::MaskedAnew],
                    3 => vec![Look::MaskedAnew, Look::MaskedAnew],
                    4 => vec![Look::MaskedBefore],
                    5 => vec![Look::Doubtful],
                    6 => vec![],
                    _ => vec![Look::Unmasked],
                };
                let low = match value % 16 {
                    0 | 2 | 3 => vec![Look::MaskedAnew],
                    4 => vec![Look::MaskedBefore],
                    5 => vec![Look::Doubtful],
                    6 => vec![Look::MaskedAnew, Look::Unmasked],
                    7 => vec![Look::Unsure],
                    _ => vec![],
                };
                world.process(high, low, MS * u32::from(event & 0x30));
                // The indicator thread occasionally misses a result.
                if event & 0x40 == 0 {
                    world.indicate(progress);
                }
            }
            8 => {
                world.now += MS * 50 * u32::from(value);
                world.indicate(progress);
            }
            9 => {
                world.loss = Some(match value % 4 {
                    0 => Loss::Unplugged,
                    _ => Loss::Reconnecting,
                });
                world.now += MS * 10 * u32::from(value);
                world.indicate(Progress::Stuck);
            }
            10 => world.connection = world.connection.next(),
            11 => world.head = world.head.next(),
            12 => world.now += MS * 100 * u32::from(value),
            13 => world.now -= MS * 100 * u32::from(value),
            14 => {
                world.options.confirm_frames = 2 + u32::from(value % 8);
                world.options.confirm = MS * 100 * u32::from(value / 32);
                world.options.hold = MS * 500 * u32::from(value % 4);
                world.decider.set_options(world.options);
            }
            _ => {
                world.standing = world.decider.standing();
                continue;
            }
        }
        // The inference thread has usually, but not always, read the latest decision.
        if value % 4 != 0 {
            world.standing = world.decider.standing();
        }
    }
}
