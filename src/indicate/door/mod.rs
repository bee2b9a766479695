//! Decides when the relay of a door is energized.
//!
//! The door is a state machine. Its inputs are the decision and the readings of the door contact,
//! the exit button, and the release line. It is pure, because the time is passed in with each step.
//! The test module `model` checks all states that the machine can reach.

mod inputs;
#[cfg(test)]
mod model;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::decision::confirm::apart;
use crate::decision::decide::Decision;

use inputs::Inputs;
pub use inputs::{Circuit, ContactType, DoorInput, DoorPosition, DoorReadings, Egress};

/// How a door's lock behaves without power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LockType {
    /// The lock closes without power, so the relay is energized while the door is unlocked.
    FailSecure,
    /// The lock opens without power, so the relay is energized while the door is locked,
    /// but not during a fault.
    FailSafe,
}

/// How long a door is unlocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Opening {
    /// While the decision is mask, and for this long afterward.
    Hold(Duration),
    /// For this long when the decision becomes mask.
    Pulse(Duration),
}

impl Opening {
    /// How long the door stays unlocked after its reason has ended.
    fn duration(self) -> Duration {
        match self {
            Opening::Hold(duration) | Opening::Pulse(duration) => duration,
        }
    }
}

/// The parts of a door and its times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DoorOptions {
    /// How the lock behaves without power.
    pub lock: LockType,
    /// How long the door is unlocked.
    pub opening: Opening,
    /// The wiring of the door contact, if there is one.
    pub contact: Option<ContactType>,
    /// The wiring of the exit button, if there is one.
    pub exit_button: Option<ContactType>,
    /// The wiring of the release line, if there is one.
    pub release: Option<ContactType>,
    /// How long the door may be open before a warning. `None` turns the warning off.
    pub held_open_after: Option<Duration>,
}

impl DoorOptions {
    /// Returns the options of a door that has no inputs.
    #[must_use]
    pub fn without_inputs(lock: LockType, opening: Opening) -> DoorOptions {
        DoorOptions {
            lock,
            opening,
            contact: None,
            exit_button: None,
            release: None,
            held_open_after: None,
        }
    }

    /// Returns the inputs that the door has.
    pub fn inputs(&self) -> impl Iterator<Item = DoorInput> {
        let inputs = [
            (DoorInput::Contact, self.contact),
            (DoorInput::ExitButton, self.exit_button),
            (DoorInput::Release, self.release),
        ];
        inputs
            .into_iter()
            .filter_map(|(input, contact)| contact.map(|_| input))
    }
}

/// The decision, as the door sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoorDecision {
    /// The decision.
    pub decision: Decision,
    /// A decision that has been mask for at least this long is based on a face that was seen within
    /// this time.
    pub mask_hold: Duration,
    /// Whether the door locks at this time. If not, it is unlocked for everybody.
    pub locks: bool,
}

/// Why a door is unlocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UnlockReason {
    /// A mask was seen.
    Mask,
    /// The exit button is pressed, or was until recently.
    ExitButton,
    /// The release line is active, or was until recently.
    Release,
    /// There are no fresh frames, and the lock is fail-safe.
    Fault,
    /// The door does not lock at this time.
    Schedule,
}

impl From<Egress> for UnlockReason {
    fn from(egress: Egress) -> UnlockReason {
        match egress {
            Egress::ExitButton => UnlockReason::ExitButton,
            Egress::Release => UnlockReason::Release,
        }
    }
}

/// The state of a door after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoorState {
    /// Whether the relay is energized.
    pub is_energized: bool,
    /// Why the door is unlocked, or `None` if it is locked.
    pub unlocked: Option<UnlockReason>,
    /// What demands now that people can leave.
    pub egress: Option<Egress>,
    /// The position of the door, or `None` if it has no contact.
    pub position: Option<DoorPosition>,
    /// When the door was found to be open for too long, or `None` if it is not. The time during a
    /// release and the time in which the door does not lock do not count.
    pub held_open_since: Option<Instant>,
}

/// A door that unlocks for people with masks and for people who leave.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Door {
    lock: LockType,
    opening: Opening,
    held_open_after: Option<Duration>,
    inputs: Inputs,
    phase: Phase,
    open_time: OpenTime,
}

/// Whether the lock is driven, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    /// The door is locked. A mask unlocks it.
    Locked,
    /// The door is locked, because the mask on which the decision is based has already been used.
    Used(UsedMask),
    /// The door is unlocked for a mask.
    Mask {
        /// When the mask was last seen. If the relay is pulsed, when the pulse began.
        since: Instant,
        passage: Passage,
    },
    /// The door is unlocked for people who leave.
    Egress {
        cause: Egress,
        /// When the cause was last active.
        last: Instant,
        passage: Passage,
    },
}

/// What happened after a mask unlocked the door. Another decision than mask ends this state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum UsedMask {
    /// The pulse is over, and nobody has passed yet.
    Pulsed(Passage),
    /// Somebody passed through the door.
    Passed { at: Instant },
}

/// How far somebody has passed through the unlocked door, according to the contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Passage {
    /// The door has not been opened yet.
    Awaited,
    /// The door is open.
    Begun,
}

impl Passage {
    /// Returns the passage when the door is in this position, or `None` if the door has been opened
    /// and closed again. A position that is unknown changes nothing.
    fn next(self, position: Option<DoorPosition>) -> Option<Passage> {
        match (self, position) {
            (_, Some(DoorPosition::Open)) => Some(Passage::Begun),
            (Passage::Begun, Some(DoorPosition::Closed)) => None,
            (passage, _) => Some(passage),
        }
    }

    /// Returns the passage of a door that is unlocked in this position.
    fn new(position: Option<DoorPosition>) -> Passage {
        match position {
            Some(DoorPosition::Open) => Passage::Begun,
            _ => Passage::Awaited,
        }
    }
}

/// How long the door has been open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum OpenTime {
    /// The door is closed, or its position is unknown.
    NotOpen,
    /// The door is open.
    Open { since: Instant },
    /// The door has been open for too long.
    HeldOpen { since: Instant },
}

impl Door {
    /// Creates a door that is initially locked.
    #[must_use]
    pub fn new(options: DoorOptions) -> Door {
        let DoorOptions {
            lock,
            opening,
            contact,
            exit_button,
            release,
            held_open_after,
        } = options;
        Door {
            lock,
            opening,
            held_open_after,
            inputs: Inputs::new(contact, exit_button, release),
            phase: Phase::Locked,
            open_time: OpenTime::NotOpen,
        }
    }

    /// Returns the state of the door at time `at`.
    pub fn step(
        &mut self,
        at: Instant,
        decision: DoorDecision,
        readings: DoorReadings,
    ) -> DoorState {
        let egress = self.inputs.sample(at, readings);
        let position = self.inputs.position();
        self.phase = match egress {
            Some(cause) => Phase::Egress {
                cause,
                last: at,
                passage: Passage::new(position),
            },
            None => self.next_phase(at, decision, position),
        };
        let may_stay_open = egress == Some(Egress::Release) || !decision.locks;
        self.open_time = self.next_open_time(at, may_stay_open, position);
        let unlocked = match self.phase {
            Phase::Mask { .. } => Some(UnlockReason::Mask),
            Phase::Egress { cause, .. } => Some(cause.into()),
            Phase::Locked | Phase::Used(_) => (self.lock == LockType::FailSafe
                && decision.decision == Decision::Fault)
                .then_some(UnlockReason::Fault),
        };
        let unlocked = unlocked.or((!decision.locks).then_some(UnlockReason::Schedule));
        DoorState {
            is_energized: match self.lock {
                LockType::FailSecure => unlocked.is_some(),
                LockType::FailSafe => unlocked.is_none(),
            },
            unlocked,
            egress,
            position,
            held_open_since: match self.open_time {
                OpenTime::HeldOpen { since } => Some(since),
                OpenTime::NotOpen | OpenTime::Open { .. } => None,
            },
        }
    }

    /// Returns the phase while nothing demands that people can leave.
    fn next_phase(
        &self,
        at: Instant,
        decision: DoorDecision,
        position: Option<DoorPosition>,
    ) -> Phase {
        let is_mask = decision.decision == Decision::Mask;
        // The door does not unlock again for the mask that has already unlocked it.
        let after_passage = if is_mask {
            Phase::Used(UsedMask::Passed { at })
        } else {
            Phase::Locked
        };
        let for_decision = if is_mask {
            Phase::Mask {
                since: at,
                passage: Passage::new(position),
            }
        } else {
            Phase::Locked
        };
        let is_within = |since| apart(at, since) < self.opening.duration();
        match self.phase {
            Phase::Locked => for_decision,
            Phase::Used(_) if !is_mask => Phase::Locked,
            Phase::Used(UsedMask::Pulsed(passage)) => match passage.next(position) {
                Some(passage) => Phase::Used(UsedMask::Pulsed(passage)),
                None => after_passage,
            },
            // The decision is based on a face that was seen after somebody passed.
            Phase::Used(UsedMask::Passed { at: passed })
                if apart(at, passed) >= decision.mask_hold =>
            {
                for_decision
            }
            Phase::Used(used) => Phase::Used(used),
            Phase::Mask { .. }
                if matches!(decision.decision, Decision::NoMask | Decision::Fault) =>
            {
                Phase::Locked
            }
            Phase::Mask { since, passage } => match (passage.next(position), self.opening) {
                (None, _) => after_passage,
                (Some(passage), Opening::Hold(_)) if is_mask => Phase::Mask { since: at, passage },
                (Some(passage), _) if is_within(since) => Phase::Mask { since, passage },
                (Some(passage), _) if is_mask => Phase::Used(UsedMask::Pulsed(passage)),
                (Some(_), _) => Phase::Locked,
            },
            Phase::Egress {
                cause,
                last,
                passage,
            } => match passage.next(position) {
                None => after_passage,
                Some(passage) if is_within(last) => Phase::Egress {
                    cause,
                    last,
                    passage,
                },
                Some(_) => for_decision,
            },
        }
    }

    fn next_open_time(
        &self,
        at: Instant,
        may_stay_open: bool,
        position: Option<DoorPosition>,
    ) -> OpenTime {
        let (Some(limit), Some(DoorPosition::Open)) = (self.held_open_after, position) else {
            return OpenTime::NotOpen;
        };
        match self.open_time {
            _ if may_stay_open => OpenTime::Open { since: at },
            OpenTime::NotOpen => OpenTime::Open { since: at },
            OpenTime::Open { since } if apart(at, since) >= limit => {
                OpenTime::HeldOpen { since: at }
            }
            unchanged => unchanged,
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests need an arbitrary start time"
)]
mod tests {
    use proptest::prelude::*;

    use super::model::is_active;
    use super::*;

    const MASK_HOLD: Duration = Duration::from_millis(1500);

    fn hold(ms: u64) -> Opening {
        Opening::Hold(Duration::from_millis(ms))
    }

    fn pulse(ms: u64) -> Opening {
        Opening::Pulse(Duration::from_millis(ms))
    }

    fn seen(decision: Decision) -> DoorDecision {
        DoorDecision {
            decision,
            mask_hold: MASK_HOLD,
            locks: true,
        }
    }

    #[test]
    fn it_is_unlocked_for_everybody_while_it_does_not_lock() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        for lock in [LockType::FailSecure, LockType::FailSafe] {
            let mut door = Door::new(DoorOptions::without_inputs(lock, hold(3000)));
            let mut step = |ms, decision, locks| {
                let decision = DoorDecision {
                    locks,
                    ..seen(decision)
                };
                let state = door.step(after(ms), decision, DoorReadings::default());
                let is_open = state.is_energized == (lock == LockType::FailSecure);
                assert_eq!(is_open, state.unlocked.is_some());
                state.unlocked
            };
            let schedule = Some(UnlockReason::Schedule);
            assert_eq!(step(0, Decision::NoMask, false), schedule);
            assert_eq!(step(50, Decision::NoMask, true), None);
            assert_eq!(step(100, Decision::Unsure, false), schedule);
            assert_eq!(step(150, Decision::Mask, false), Some(UnlockReason::Mask));
            assert_eq!(step(200, Decision::NoMask, false), schedule);
            assert_eq!(step(250, Decision::Idle, true), None);
        }
    }

    /// Returns, for each step, whether the relay of a door without inputs is energized. Each step
    /// is given as (time in ms, decision).
    fn run(lock: LockType, opening: Opening, steps: &[(u64, Decision)]) -> Vec<bool> {
        let start = Instant::now();
        let mut door = Door::new(DoorOptions::without_inputs(lock, opening));
        let mut step = |&(ms, decision): &(u64, Decision)| {
            let at = start + Duration::from_millis(ms);
            let state = door.step(at, seen(decision), DoorReadings::default());
            state.is_energized
        };
        steps.iter().map(&mut step).collect()
    }

    #[test]
    fn it_opens_for_a_mask_and_stays_open_for_the_hold_time() {
        let steps = [
            (0, Decision::Idle),
            (100, Decision::Mask),
            (5000, Decision::Mask),
            (5100, Decision::Idle),
            (7999, Decision::Unsure),
            (8000, Decision::Idle),
        ];
        let open = [false, true, true, true, true, false];
        assert_eq!(run(LockType::FailSecure, hold(3000), &steps), open);
        assert_eq!(
            run(LockType::FailSafe, hold(3000), &steps),
            open.map(|open| !open),
            "the inverse"
        );
    }

    #[test]
    fn a_step_of_the_clock_does_not_open_it() {
        let steps = [
            (10_000, Decision::Mask),
            (6000, Decision::Idle),
            (9000, Decision::Idle),
            (10_500, Decision::Unsure),
        ];
        assert_eq!(
            run(LockType::FailSecure, hold(3000), &steps),
            [true, false, false, false]
        );
    }

    #[test]
    fn no_mask_closes_it_at_once() {
        let steps = [
            (0, Decision::Mask),
            (10, Decision::NoMask),
            (20, Decision::Idle),
        ];
        for opening in [hold(3000), pulse(3000)] {
            assert_eq!(
                run(LockType::FailSecure, opening, &steps),
                [true, false, false]
            );
        }
    }

    #[test]
    fn the_relay_is_not_energized_in_a_fault() {
        let steps = [
            (0, Decision::Mask),
            (10, Decision::Fault),
            (20, Decision::Idle),
        ];
        assert_eq!(
            run(LockType::FailSecure, hold(3000), &steps),
            [true, false, false]
        );
        assert_eq!(
            run(LockType::FailSafe, hold(3000), &steps),
            [false, false, true]
        );
    }

    #[test]
    fn without_a_hold_time_it_is_open_only_during_mask() {
        let steps = [(0, Decision::Mask), (0, Decision::Idle)];
        assert_eq!(run(LockType::FailSecure, hold(0), &steps), [true, false]);
    }

    #[test]
    fn a_pulse_is_short_and_comes_once_for_each_mask() {
        let steps = [
            (0, Decision::Mask),
            (499, Decision::Mask),
            (500, Decision::Mask),
            (9000, Decision::Mask),
            (9100, Decision::Unsure),
            (9200, Decision::Mask),
            (9300, Decision::Idle),
            (9700, Decision::Idle),
        ];
        let on = [true, true, false, false, false, true, true, false];
        assert_eq!(run(LockType::FailSecure, pulse(500), &steps), on);
        assert_eq!(
            run(LockType::FailSafe, pulse(500), &steps),
            on.map(|on| !on)
        );
    }

    /// A door with all inputs. Its clock is moved forward in steps of 15 ms, as in the daemon.
    struct Scenario {
        door: Door,
        now: Instant,
        decision: Decision,
        readings: DoorReadings,
        state: DoorState,
    }

    impl Scenario {
        fn new(opening: Opening) -> Scenario {
            let mut door = Door::new(DoorOptions {
                lock: LockType::FailSecure,
                opening,
                contact: Some(ContactType::NormallyClosed),
                exit_button: Some(ContactType::NormallyOpen),
                release: Some(ContactType::NormallyClosed),
                held_open_after: Some(Duration::from_secs(30)),
            });
            let now = Instant::now();
            let readings = DoorReadings {
                contact: Circuit::Closed,
                exit_button: Circuit::Open,
                release: Circuit::Closed,
            };
            let state = door.step(now, seen(Decision::Idle), readings);
            let mut scenario = Scenario {
                door,
                now,
                decision: Decision::Idle,
                readings,
                state,
            };
            scenario.pass(100);
            assert_eq!(scenario.state.unlocked, None);
            assert_eq!(scenario.state.position, Some(DoorPosition::Closed));
            scenario
        }

        /// Lets at least this much time pass, in ms. Returns why the door is unlocked.
        fn pass(&mut self, ms: u64) -> Option<UnlockReason> {
            let end = self.now + Duration::from_millis(ms);
            while self.now < end {
                self.now += Duration::from_millis(15);
                let decision = seen(self.decision);
                self.state = self.door.step(self.now, decision, self.readings);
            }
            self.state.unlocked
        }

        /// Somebody opens the door, passes, and closes it. The contact bounces.
        fn pass_through(&mut self) {
            for circuit in [Circuit::Open, Circuit::Closed, Circuit::Open] {
                self.readings.contact = circuit;
                self.pass(1);
            }
            self.pass(500);
            for circuit in [Circuit::Closed, Circuit::Open, Circuit::Closed] {
                self.readings.contact = circuit;
                self.pass(1);
            }
            self.pass(60);
        }
    }

    const EXIT: Option<UnlockReason> = Some(UnlockReason::ExitButton);
    const RELEASE: Option<UnlockReason> = Some(UnlockReason::Release);
    const MASK: Option<UnlockReason> = Some(UnlockReason::Mask);

    #[test]
    fn it_locks_behind_the_person_who_passed() {
        for opening in [hold(10_000), pulse(300)] {
            let mut door = Scenario::new(opening);
            door.decision = Decision::Mask;
            assert_eq!(door.pass(100), MASK);
            door.pass_through();
            assert_eq!(door.state.unlocked, None, "the hold time is not over");
            assert_eq!(door.pass(1000), None, "the mask has been used");
            door.decision = Decision::Idle;
            door.pass(15);
            door.decision = Decision::Mask;
            assert_eq!(door.pass(15), MASK, "the next person");
        }
    }

    #[test]
    fn a_mask_that_is_still_seen_after_a_passage_belongs_to_somebody_else() {
        for opening in [hold(10_000), pulse(300)] {
            let mut door = Scenario::new(opening);
            door.decision = Decision::Mask;
            door.pass(100);
            door.pass_through();
            // Without a face, the decision ends before the next 1.5 s are over.
            assert_eq!(door.pass(1400), None);
            assert_eq!(door.pass(100), MASK);
        }
    }

    #[test]
    fn it_stays_unlocked_while_it_is_open_within_the_hold_time() {
        let mut door = Scenario::new(hold(3000));
        door.decision = Decision::Mask;
        door.pass(100);
        door.decision = Decision::Idle;
        door.readings.contact = Circuit::Open;
        assert_eq!(door.pass(2800), MASK);
        assert_eq!(door.pass(200), None, "the hold time is over");
    }

    #[test]
    fn the_exit_button_unlocks_whatever_the_decision_is() {
        for decision in Decision::ALL {
            let mut door = Scenario::new(hold(3000));
            door.decision = decision;
            door.readings.exit_button = Circuit::Closed;
            assert_eq!(door.pass(60), EXIT);
            assert_eq!(door.pass(60_000), EXIT, "while it is pressed");
            door.readings.exit_button = Circuit::Open;
            assert_eq!(door.pass(2900), EXIT);
            door.decision = Decision::NoMask;
            assert_eq!(door.pass(15), EXIT, "somebody else outside");
            assert_eq!(door.pass(200), None);
        }
    }

    #[test]
    fn it_locks_behind_the_person_who_left() {
        let mut door = Scenario::new(hold(10_000));
        door.readings.exit_button = Circuit::Closed;
        door.pass(200);
        door.readings.exit_button = Circuit::Open;
        assert_eq!(door.pass(200), EXIT);
        door.pass_through();
        assert_eq!(door.state.unlocked, None);
    }

    #[test]
    fn it_locks_behind_the_person_who_left_although_a_mask_is_seen_outside() {
        for opening in [hold(10_000), pulse(300)] {
            let mut door = Scenario::new(opening);
            door.decision = Decision::Mask;
            door.readings.exit_button = Circuit::Closed;
            assert_eq!(door.pass(200), EXIT);
            door.readings.exit_button = Circuit::Open;
            door.pass(45);
            door.readings.contact = Circuit::Open;
            door.pass(60);
            door.readings.contact = Circuit::Closed;
            door.pass(60);
            assert_eq!(door.state.unlocked, None);
            assert_eq!(door.pass(1300), None, "the decision may be older");
            assert_eq!(door.pass(300), MASK, "somebody else is outside");
        }
    }

    #[test]
    fn a_release_wins_over_a_fault_and_ends_in_the_normal_way() {
        let mut door = Scenario::new(pulse(500));
        door.decision = Decision::Fault;
        door.readings.release = Circuit::Open;
        assert_eq!(door.pass(15), RELEASE, "at the first reading");
        door.readings.exit_button = Circuit::Closed;
        assert_eq!(door.pass(60_000), RELEASE);
        door.readings.exit_button = Circuit::Open;
        door.pass_through();
        assert_eq!(door.state.unlocked, RELEASE, "it stays unlocked");
        door.readings.release = Circuit::Closed;
        assert_eq!(door.pass(450), RELEASE);
        assert_eq!(door.pass(100), None);
    }

    #[test]
    fn a_door_that_is_held_open_causes_one_warning_until_it_closes() {
        let mut door = Scenario::new(hold(3000));
        door.readings.contact = Circuit::Open;
        door.pass(29_900);
        assert_eq!(door.state.held_open_since, None);
        door.pass(300);
        let since = door.state.held_open_since.unwrap();
        door.pass(60_000);
        assert_eq!(door.state.held_open_since, Some(since));
        door.readings.release = Circuit::Open;
        door.pass(60_000);
        assert_eq!(door.state.held_open_since, None, "the door may be open");
        door.readings.release = Circuit::Closed;
        door.pass(29_900);
        assert_eq!(door.state.held_open_since, None);
        door.pass(300);
        assert!(door.state.held_open_since.is_some());
        door.readings.contact = Circuit::Unknown;
        door.pass(60);
        assert_eq!(door.state.held_open_since, None);
        assert_eq!(door.state.position, Some(DoorPosition::Unknown));
    }

    /// The door as it was before it had inputs.
    struct SimpleDoor {
        lock: LockType,
        hold: Duration,
        last_mask: Option<Instant>,
    }

    impl SimpleDoor {
        fn is_energized(&mut self, at: Instant, decision: Decision) -> bool {
            match decision {
                Decision::Mask => self.last_mask = Some(at),
                Decision::NoMask | Decision::Fault => self.last_mask = None,
                Decision::Idle | Decision::Unsure => {}
            }
            let is_held = |last| apart(at, last) < self.hold;
            let open = decision == Decision::Mask || self.last_mask.is_some_and(is_held);
            if !open {
                self.last_mask = None;
            }
            match self.lock {
                LockType::FailSecure => open,
                LockType::FailSafe => !open && decision != Decision::Fault,
            }
        }
    }

    fn decisions() -> impl Strategy<Value = Decision> {
        prop::sample::select(Decision::ALL.to_vec())
    }

    fn circuits() -> impl Strategy<Value = Circuit> {
        prop::sample::select(vec![Circuit::Unknown, Circuit::Open, Circuit::Closed])
    }

    fn options() -> impl Strategy<Value = DoorOptions> {
        let contact = || {
            prop::option::of(prop::sample::select(vec![
                ContactType::NormallyOpen,
                ContactType::NormallyClosed,
            ]))
        };
        let lock = prop::sample::select(vec![LockType::FailSecure, LockType::FailSafe]);
        let opening = (any::<bool>(), 0_u64..400)
            .prop_map(|(is_pulse, ms)| if is_pulse { pulse(ms) } else { hold(ms) });
        let held_open = prop::option::of((0_u64..500).prop_map(Duration::from_millis));
        let parts = (lock, opening, contact(), contact(), contact(), held_open);
        parts.prop_map(
            |(lock, opening, contact, exit_button, release, held_open_after)| DoorOptions {
                lock,
                opening,
                contact,
                exit_button,
                release,
                held_open_after,
            },
        )
    }

    proptest! {
        #[test]
        fn without_inputs_it_is_the_simple_door(
            is_fail_safe in any::<bool>(),
            hold_ms in 0_u64..200,
            steps in prop::collection::vec((-100_i64..100, decisions(), circuits()), 1..100),
        ) {
            let lock = if is_fail_safe { LockType::FailSafe } else { LockType::FailSecure };
            let mut door = Door::new(DoorOptions::without_inputs(lock, hold(hold_ms)));
            let mut simple = SimpleDoor { lock, hold: Duration::from_millis(hold_ms), last_mask: None };
            let start = Instant::now();
            let mut ms = 100_000;
            for (step, decision, circuit) in steps {
                ms += step;
                let at = start + Duration::from_millis(ms as u64);
                let readings = DoorReadings { contact: circuit, exit_button: circuit, release: circuit };
                let state = door.step(at, seen(decision), readings);
                prop_assert_eq!(state.is_energized, simple.is_energized(at, decision));
            }
        }

        /// The readings change rarely, so that inputs become stable. The time between two steps is
        /// at most 35 ms, as in a daemon that is not overloaded.
        #[test]
        fn it_is_never_locked_for_more_than_100_ms_while_people_must_be_able_to_leave(
            options in options(),
            steps in prop::collection::vec(
                (1_u64..=35, 0_u8..8, decisions(), circuits(), circuits(), circuits()), 1..300),
        ) {
            let mut door = Door::new(options);
            let mut at = Instant::now();
            let mut seen_readings = DoorReadings::default();
            let mut decision = Decision::Idle;
            // The time of the last step before the input became active.
            let (mut exit_since, mut release_since) = (None, None);
            for (ms, change, next, contact, exit_button, release) in steps {
                let before = at;
                at += Duration::from_millis(ms);
                match change {
                    0 => seen_readings.contact = contact,
                    1 => seen_readings.exit_button = exit_button,
                    2 => seen_readings.release = release,
                    3 => decision = next,
                    _ => {}
                }
                let state = door.step(at, seen(decision), seen_readings);
                let exits = is_active(options.exit_button, seen_readings.exit_button, false);
                exit_since = exits.then(|| exit_since.unwrap_or(before));
                let releases = is_active(options.release, seen_readings.release, true);
                release_since = releases.then(|| release_since.unwrap_or(before));
                let is_driven_locked = match options.lock {
                    LockType::FailSecure => !state.is_energized,
                    LockType::FailSafe => state.is_energized,
                };
                if release_since.is_some() {
                    prop_assert!(!is_driven_locked);
                }
                if exit_since.is_some_and(|since| at - since > Duration::from_millis(100)) {
                    prop_assert!(!is_driven_locked);
                }
            }
        }
    }
}
