//! Checks the property on which the safety of a door depends: its relay opens only after
//! enough frames that confirm each other. The input bytes choose frames, losses,
//! reconnections, changes of the head and of the settings, and steps of the clock. The
//! oracle looks only at the list of frames.

use std::time::{Duration, Instant};

use maskd::decision::confirm::{Basis, Confirmation, Sighting, Standing};
use maskd::decision::decide::{Decider, DeciderOptions, Decision, Observation, Progress};
use maskd::frame::ConnectionId;
use maskd::indicate::{Door, LockType};
use maskd::vision::head::HeadId;

/// A frame as it is recorded for the oracle.
#[derive(Clone, Copy)]
struct Seen {
    at: Instant,
    connection: ConnectionId,
    head: HeadId,
    /// Number of faults that were shown before the frame was processed.
    faults: u64,
    sighting: Sighting,
}

impl Seen {
    fn is_comparable(&self, later: &Seen) -> bool {
        (self.connection, self.head, self.faults) == (later.connection, later.head, later.faults)
            && self.at <= later.at
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
    /// The newest result that the indicator thread has not taken yet.
    result: Option<Observation>,
    is_lost: bool,
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
            is_lost: false,
            options,
            decider: Decider::new(options, now),
            decision: Decision::Idle,
            door: Door::new(LockType::FailSecure, 3000 * MS),
            is_open: false,
            seen: Vec::new(),
            faults: 0,
        }
    }

    /// Processes a frame as the inference thread does. The faces are classified in this
    /// frame if that is required.
    fn process(&mut self, sighting: Sighting, age: Duration) {
        let at = self.now.checked_sub(age).unwrap_or(self.now);
        let basis = Basis {
            connection: self.connection,
            head: self.head,
            faults: self.standing.faults,
        };
        self.is_lost = false;
        let is_new = self.confirmation.begin(at, basis);
        let is_awaited = self.confirmation.is_awaited(self.standing);
        let sighting = match sighting {
            // Without tracks, or while a decision is waiting, the faces must be
            // classified in this frame.
            Sighting::Masked if is_new || is_awaited => Sighting::MaskedAnew,
            sighting => sighting,
        };
        let evidence = self.confirmation.end(at, sighting);
        let decision = match sighting {
            Sighting::Nobody => Decision::Idle,
            Sighting::Masked | Sighting::MaskedAnew => Decision::Mask,
            Sighting::Other => Decision::NoMask,
        };
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
            sighting,
        });
    }

    /// Acts as the indicator thread, which takes the newest result, if there is one, and
    /// sets the relay.
    fn indicate(&mut self, progress: Progress) {
        let before = self.decision;
        let result = self.result.take();
        self.decision = match result {
            Some(frame) => self.decider.observe(self.now, frame, progress),
            None if self.is_lost => self.decider.lose_camera(self.now),
            None => self.decider.tick(self.now, progress),
        };
        if self.decision == Decision::Fault && before != Decision::Fault {
            self.faults += 1;
            let is_working = progress == Progress::Working && (result.is_some() || !self.is_lost);
            assert!(!is_working, "a fault although the work goes on");
        }
        assert_eq!(self.decider.standing().faults, self.faults);
        let was_open = self.is_open;
        self.is_open = self.door.is_energized(self.now, self.decision);
        if self.is_open && !was_open {
            assert!(self.may_open(), "the relay opened without confirmation");
        }
        if self.decision == Decision::Mask && self.is_lost && result.is_none() {
            assert!(self.is_held(), "a lost camera extended a mask");
        }
    }

    /// Whether the relay may open. The latest frames that show a face must all be masked,
    /// with all faces classified in the frame itself. They must come from one connection,
    /// from one head, and from the time after the latest fault. There must be enough of
    /// them over enough time, without a gap that is too long.
    fn may_open(&self) -> bool {
        let allowed = self.allowed_gap();
        let faces = self
            .seen
            .iter()
            .filter(|frame| frame.sighting != Sighting::Nobody);
        let mut run: Vec<&Seen> = Vec::new();
        for frame in faces.rev() {
            let fits = match run.last() {
                None => frame.faults == self.faults,
                Some(later) => {
                    frame.is_comparable(later) && later.at.duration_since(frame.at) <= allowed
                }
            };
            if !fits || frame.sighting != Sighting::MaskedAnew {
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

    /// Whether a face was seen within the hold time, through the same connection and by
    /// the same head as the mask.
    fn is_held(&self) -> bool {
        let Some(mask) = self.decider.standing().mask else {
            return false;
        };
        self.seen.iter().any(|frame| {
            let age = self.now.saturating_duration_since(frame.at);
            let ahead = frame.at.saturating_duration_since(self.now);
            frame.sighting != Sighting::Nobody
                && (frame.connection, frame.head) == (mask.connection, mask.head)
                && age.max(ahead) < self.options.hold
        })
    }
}

/// Plays any sequence of events, and checks after each event that the relay opened only
/// if it was allowed to.
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
            // Most events are frames, so that some runs are long enough.
            kind @ 0..=7 => {
                world.now += MS * (u32::from(value) % 64) * if value < 192 { 3 } else { 40 };
                let sighting = match kind {
                    0..=3 => Sighting::MaskedAnew,
                    4 | 5 => Sighting::Masked,
                    6 => Sighting::Nobody,
                    _ => Sighting::Other,
                };
                world.process(sighting, MS * u32::from(event & 0x30));
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
                world.is_lost = true;
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
        // The inference thread usually knows the decision, but not always.
        if value % 4 != 0 {
            world.standing = world.decider.standing();
        }
    }
}
