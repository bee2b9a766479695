//! Checks all states that the door can reach.
//!
//! The check is a breadth-first search. From each state, it makes a step with each combination of
//! decision, readings, time since the previous step, and whether the door locks at this time. Times are multiples of 15 ms, and ages
//! that are so long that the door treats them alike count as one. The properties are checked
//! after each step, so they hold for sequences of inputs of any length.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::*;

/// The times between two steps. The door is read every 15 ms, and a step may be late.
const STEPS: [Duration; 2] = [Duration::from_millis(15), Duration::from_millis(30)];
/// The duration of the hold time.
const HOLD: Duration = Duration::from_millis(90);
/// The duration of a pulse.
const PULSE: Duration = Duration::from_millis(45);
/// How long a mask decision lasts without a face.
const MASK_HOLD: Duration = Duration::from_millis(60);
/// How long the door may be open.
const HELD_OPEN: Duration = Duration::from_millis(75);
/// Ages from this one on count as one age. It is longer than all times above.
const MAX_AGE: Duration = Duration::from_millis(105);
/// The longest time for which the door may be locked while people must be able to leave.
const MAX_LOCKED: Duration = Duration::from_millis(100);

impl Door {
    /// Replaces each time by `f` of it.
    fn map_times(&mut self, f: impl Fn(Instant) -> Instant + Copy) {
        self.inputs.map_times(f);
        match &mut self.phase {
            Phase::Mask { since: at, .. }
            | Phase::Egress { last: at, .. }
            | Phase::Used(UsedMask::Passed { at }) => *at = f(*at),
            Phase::Locked | Phase::Used(UsedMask::Pulsed(_)) => {}
        }
        match &mut self.open_time {
            OpenTime::Open { since } | OpenTime::HeldOpen { since } => *since = f(*since),
            OpenTime::NotOpen => {}
        }
    }
}

/// A state of the search: the door, and what the properties need to know about the past. All times
/// are relative to the same instant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Node {
    door: Door,
    /// Why the door was unlocked in the previous step.
    unlocked: Option<UnlockReason>,
    /// The position of the door in the previous step.
    position: Option<DoorPosition>,
    /// Whether the door was open when its position was last known.
    was_open: bool,
    /// How long the exit button may have been pressed without unlocking the door.
    exit_ignored: Duration,
    /// The time since people last had to be able to leave, while this keeps the door unlocked.
    since_egress: Option<Duration>,
    /// How long the relay has been pulsed.
    pulsed: Duration,
}

/// The inputs of one step.
#[derive(Debug, Clone, Copy)]
struct Input {
    elapsed: Duration,
    decision: Decision,
    readings: DoorReadings,
    locks: bool,
}

fn circuits(input: Option<ContactType>) -> &'static [Circuit] {
    match input {
        Some(_) => &[Circuit::Unknown, Circuit::Open, Circuit::Closed],
        None => &[Circuit::Unknown],
    }
}

fn inputs(options: &DoorOptions) -> Vec<Input> {
    let mut all = Vec::new();
    for elapsed in STEPS {
        for decision in Decision::ALL {
            for &contact in circuits(options.contact) {
                for &exit_button in circuits(options.exit_button) {
                    for &release in circuits(options.release) {
                        let readings = DoorReadings {
                            contact,
                            exit_button,
                            release,
                        };
                        for locks in [true, false] {
                            all.push(Input {
                                elapsed,
                                decision,
                                readings,
                                locks,
                            });
                        }
                    }
                }
            }
        }
    }
    all
}

/// Whether the circuit differs from its normal state. `unknown` is the answer for a circuit that
/// cannot be read.
pub(super) fn is_active(input: Option<ContactType>, circuit: Circuit, unknown: bool) -> bool {
    match (input, circuit) {
        (None, _) => false,
        (Some(_), Circuit::Unknown) => unknown,
        (Some(ContactType::NormallyOpen), circuit) => circuit == Circuit::Closed,
        (Some(ContactType::NormallyClosed), circuit) => circuit == Circuit::Open,
    }
}

fn is_egress(unlocked: Option<UnlockReason>) -> bool {
    matches!(
        unlocked,
        Some(UnlockReason::ExitButton | UnlockReason::Release)
    )
}

struct Model {
    options: DoorOptions,
    origin: Instant,
}

impl Model {
    fn start(&self) -> Node {
        Node {
            door: Door::new(self.options),
            unlocked: None,
            position: None,
            was_open: false,
            exit_ignored: Duration::ZERO,
            since_egress: None,
            pulsed: Duration::ZERO,
        }
    }

    fn duration(&self) -> Duration {
        self.options.opening.duration()
    }

    /// Makes a step, and checks all properties of it.
    fn step(&self, node: &Node, input: Input) -> Node {
        let mut door = node.door.clone();
        let at = self.origin + input.elapsed;
        let decision = DoorDecision {
            decision: input.decision,
            mask_hold: MASK_HOLD,
            locks: input.locks,
        };
        let state = door.step(at, decision, input.readings);
        let is_driven_locked = match self.options.lock {
            LockType::FailSecure => !state.is_energized,
            LockType::FailSafe => state.is_energized,
        };
        assert_eq!(is_driven_locked, state.unlocked.is_none());
        assert!(
            input.locks || !is_driven_locked,
            "it does not lock at this time"
        );
        Self::check_schedule(node, at, input, &state);

        if is_active(self.options.release, input.readings.release, true) {
            assert!(!is_driven_locked, "a release unlocks at once");
            assert_eq!(state.egress, Some(Egress::Release));
        }
        let exit_button = input.readings.exit_button;
        let mut exit_ignored = if is_active(self.options.exit_button, exit_button, false) {
            MAX_AGE.min(node.exit_ignored + input.elapsed)
        } else {
            Duration::ZERO
        };
        assert!(!is_driven_locked || exit_ignored <= MAX_LOCKED);
        if state.egress.is_some() {
            assert!(!is_driven_locked, "it is unlocked while people may leave");
        }
        if state.egress == Some(Egress::ExitButton) {
            // From now on, the door must be unlocked until the button is released.
            exit_ignored = MAX_AGE;
        }

        let since_egress = match (state.egress, node.since_egress) {
            (Some(_), _) => Some(Duration::ZERO),
            (None, since) => since.map(|since| since + input.elapsed),
        };
        self.check_reason(node, input, &state, since_egress);
        let is_new = node.unlocked != Some(UnlockReason::Mask);
        let pulsed = match (self.options.opening, state.unlocked) {
            (Opening::Pulse(_), Some(UnlockReason::Mask)) if is_new => Duration::ZERO,
            (Opening::Pulse(pulse), Some(UnlockReason::Mask)) => {
                let pulsed = node.pulsed + input.elapsed;
                assert!(pulsed < pulse, "the pulse is over");
                pulsed
            }
            _ => Duration::ZERO,
        };
        if state.held_open_since.is_some() {
            assert_eq!(state.position, Some(DoorPosition::Open));
            assert_ne!(state.egress, Some(Egress::Release));
            assert!(input.locks);
        }

        // All times are moved so that the step happened at the origin.
        let origin = self.origin;
        door.map_times(|time| origin.checked_sub(MAX_AGE.min(at - time)).unwrap());
        Node {
            door,
            unlocked: state.unlocked,
            position: state.position,
            was_open: match state.position {
                Some(DoorPosition::Unknown) | None => node.was_open,
                Some(position) => position == DoorPosition::Open,
            },
            exit_ignored,
            since_egress: since_egress.filter(|_| is_egress(state.unlocked)),
            pulsed,
        }
    }

    /// Checks that the time in which the door does not lock changes nothing but the lock: the
    /// same step at a time in which it locks demands the same for people who leave, and has
    /// the same reason to unlock, if any.
    fn check_schedule(node: &Node, at: Instant, input: Input, state: &DoorState) {
        if input.locks {
            assert_ne!(state.unlocked, Some(UnlockReason::Schedule));
            return;
        }
        let decision = DoorDecision {
            decision: input.decision,
            mask_hold: MASK_HOLD,
            locks: true,
        };
        let locking = node.door.clone().step(at, decision, input.readings);
        assert_eq!(
            (state.egress, state.position),
            (locking.egress, locking.position)
        );
        let schedule = Some(UnlockReason::Schedule);
        assert_eq!(state.unlocked, locking.unlocked.or(schedule));
    }

    /// Checks that the door is unlocked or locked for a reason. `since_egress` is the time since
    /// people last had to be able to leave, if this kept the door unlocked in the previous step.
    fn check_reason(
        &self,
        node: &Node,
        input: Input,
        state: &DoorState,
        since_egress: Option<Duration>,
    ) {
        let has_closed = node.position == Some(DoorPosition::Open)
            && state.position == Some(DoorPosition::Closed);
        let has_passed = node.was_open && state.position == Some(DoorPosition::Closed);
        let was_left_alone = since_egress.is_some_and(|since| since >= self.duration());
        let is_egress_now = is_egress(state.unlocked);
        let is_locked = matches!(state.unlocked, None | Some(UnlockReason::Schedule));
        if is_egress(node.unlocked) && is_locked {
            assert!(was_left_alone || has_passed, "it locks in its normal way");
        }
        if was_left_alone {
            assert!(!is_egress_now, "it does not stay unlocked");
        }
        let is_fault = input.decision == Decision::Fault;
        match state.unlocked {
            Some(UnlockReason::Mask) if node.unlocked != Some(UnlockReason::Mask) => {
                assert_eq!(input.decision, Decision::Mask, "only a mask unlocks it");
            }
            Some(UnlockReason::Mask) => {
                assert!(!is_fault && input.decision != Decision::NoMask);
                assert!(!has_closed, "it locks behind the person who passed");
            }
            Some(UnlockReason::Fault) => {
                assert!(is_fault && self.options.lock == LockType::FailSafe);
            }
            Some(UnlockReason::ExitButton | UnlockReason::Release) => {
                assert!(since_egress.is_some());
            }
            Some(UnlockReason::Schedule) => assert!(!input.locks),
            None => assert!(!is_fault || self.options.lock == LockType::FailSecure),
        }
    }

    /// The readings of a door that is closed and that nobody wants to leave by.
    fn normal(&self) -> DoorReadings {
        let normal = |input| match input {
            Some(ContactType::NormallyOpen) => Circuit::Open,
            Some(ContactType::NormallyClosed) => Circuit::Closed,
            None => Circuit::Unknown,
        };
        DoorReadings {
            contact: normal(self.options.contact),
            exit_button: normal(self.options.exit_button),
            release: normal(self.options.release),
        }
    }

    /// Checks that the door is locked soon after everything has become normal.
    fn check_it_locks(&self, node: &Node) {
        let mut node = node.clone();
        let input = Input {
            elapsed: STEPS[0],
            decision: Decision::Idle,
            readings: self.normal(),
            locks: true,
        };
        // The debouncing takes up to 45 ms.
        let limit = Duration::from_millis(45) + self.duration();
        let mut passed = Duration::ZERO;
        while passed < limit {
            node = self.step(&node, input);
            passed += input.elapsed;
        }
        assert_eq!(node.unlocked, None, "it stays unlocked");
    }

    /// Visits all states that can be reached, and returns their number and the number of steps.
    fn search(&self) -> (usize, usize) {
        let inputs = inputs(&self.options);
        let mut seen = HashSet::from([self.start()]);
        let mut queue = VecDeque::from([self.start()]);
        let mut steps = 0;
        while let Some(node) = queue.pop_front() {
            self.check_it_locks(&node);
            for input in &inputs {
                let next = self.step(&node, *input);
                steps += 1;
                if !seen.contains(&next) {
                    seen.insert(next.clone());
                    queue.push_back(next);
                }
            }
        }
        (seen.len(), steps)
    }
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the model needs an arbitrary origin"
)]
fn all_reachable_states_let_people_leave() {
    use ContactType::{NormallyClosed, NormallyOpen};
    // The origin is so late that earlier times exist even right after the machine has started.
    let origin = Instant::now() + Duration::from_secs(1);
    let (mut states, mut steps) = (0, 0);
    for lock in [LockType::FailSecure, LockType::FailSafe] {
        for opening in [Opening::Hold(HOLD), Opening::Pulse(PULSE)] {
            for [contact, exit_button, release] in [
                [
                    Some(NormallyClosed),
                    Some(NormallyOpen),
                    Some(NormallyClosed),
                ],
                [None, Some(NormallyClosed), Some(NormallyOpen)],
                [Some(NormallyOpen), None, None],
            ] {
                let options = DoorOptions {
                    lock,
                    opening,
                    contact,
                    exit_button,
                    release,
                    held_open_after: contact.map(|_| HELD_OPEN),
                };
                let found = Model { options, origin }.search();
                println!("{options:?}: {} states, {} steps", found.0, found.1);
                states += found.0;
                steps += found.1;
            }
        }
    }
    println!("{states} states, {steps} steps");
    assert!(states > 10_000, "only {states} states");
}
