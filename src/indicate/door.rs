//! Decides when the relay of a door is energized.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::decision::confirm::apart;
use crate::decision::decide::Decision;

/// How a door's lock behaves without power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LockType {
    /// The lock closes without power, so the relay is energized while the door is open.
    FailSecure,
    /// The lock opens without power, so the relay is energized while the door is locked,
    /// but not during a fault.
    FailSafe,
}

/// A door that opens for people with masks.
///
/// The door is open while the decision is mask and for the hold time afterward. It closes earlier
/// if the decision becomes no mask or fault.
#[derive(Debug, Clone)]
pub struct Door {
    lock: LockType,
    hold: Duration,
    /// The last time at which the decision was mask.
    last_mask: Option<Instant>,
}

impl Door {
    /// Creates a door that is initially locked.
    #[must_use]
    pub fn new(lock: LockType, hold: Duration) -> Door {
        Door {
            lock,
            hold,
            last_mask: None,
        }
    }

    /// Whether the relay is energized at time `at` with this decision.
    pub fn is_energized(&mut self, at: Instant, decision: Decision) -> bool {
        match decision {
            Decision::Mask => self.last_mask = Some(at),
            Decision::NoMask | Decision::Fault => self.last_mask = None,
            Decision::Idle | Decision::Unsure => {}
        }
        let open = decision == Decision::Mask
            || self
                .last_mask
                .is_some_and(|last_mask| apart(at, last_mask) < self.hold);
        if !open {
            // A clock that steps back must not open the door a second time.
            self.last_mask = None;
        }
        match self.lock {
            LockType::FailSecure => open,
            LockType::FailSafe => !open && decision != Decision::Fault,
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests need an arbitrary start time"
)]
mod tests {
    use super::*;

    /// Returns, for each step, whether the relay is energized. Each step is given as
    /// (time in ms, decision).
    fn run(lock: LockType, hold_ms: u64, steps: &[(u64, Decision)]) -> Vec<bool> {
        let start = Instant::now();
        let mut door = Door::new(lock, Duration::from_millis(hold_ms));
        let at = |ms: u64| start + Duration::from_millis(ms);
        steps
            .iter()
            .map(|&(ms, decision)| door.is_energized(at(ms), decision))
            .collect()
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
        assert_eq!(run(LockType::FailSecure, 3000, &steps), open);
        assert_eq!(
            run(LockType::FailSafe, 3000, &steps),
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
            run(LockType::FailSecure, 3000, &steps),
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
        assert_eq!(
            run(LockType::FailSecure, 3000, &steps),
            [true, false, false]
        );
    }

    #[test]
    fn the_relay_is_not_energized_in_a_fault() {
        let steps = [
            (0, Decision::Mask),
            (10, Decision::Fault),
            (20, Decision::Idle),
        ];
        assert_eq!(
            run(LockType::FailSecure, 3000, &steps),
            [true, false, false]
        );
        assert_eq!(run(LockType::FailSafe, 3000, &steps), [false, false, true]);
    }

    #[test]
    fn without_a_hold_time_it_is_open_only_during_mask() {
        let steps = [(0, Decision::Mask), (0, Decision::Idle)];
        assert_eq!(run(LockType::FailSecure, 0, &steps), [true, false]);
    }
}
