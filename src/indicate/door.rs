//! When the relay of a door has current.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::decision::decide::Decision;

/// What a door does without current.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relay {
    /// It is locked: the relay has current while the door is open.
    FailSecure,
    /// It is open: the relay has current while the door is locked, and none in a
    /// fault.
    FailSafe,
}

/// A door that opens for masks.
///
/// It is open while the decision is mask and for the hold time after it, unless
/// somebody without a mask or a fault comes.
#[derive(Debug, Clone)]
pub struct Door {
    relay: Relay,
    hold: Duration,
    /// When the decision was mask last.
    masked: Option<Instant>,
}

impl Door {
    /// A door that is locked.
    #[must_use]
    pub fn new(relay: Relay, hold: Duration) -> Door {
        Door {
            relay,
            hold,
            masked: None,
        }
    }

    /// Whether the relay has current now, at this decision. `at` must not go
    /// backwards.
    pub fn relay(&mut self, at: Instant, decision: Decision) -> bool {
        match decision {
            Decision::Mask => self.masked = Some(at),
            Decision::NoMask | Decision::Fault => self.masked = None,
            Decision::Idle | Decision::Unsure => {}
        }
        let held = |masked: Instant| at.saturating_duration_since(masked) < self.hold;
        let open = decision == Decision::Mask || self.masked.is_some_and(held);
        match self.relay {
            Relay::FailSecure => open,
            Relay::FailSafe => !open && decision != Decision::Fault,
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests need some instant to begin at"
)]
mod tests {
    use super::*;

    /// What the relay does at (ms, decision).
    fn run(relay: Relay, hold_ms: u64, steps: &[(u64, Decision)]) -> Vec<bool> {
        let start = Instant::now();
        let mut door = Door::new(relay, Duration::from_millis(hold_ms));
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut relay = |&(ms, decision): &(u64, Decision)| door.relay(at(ms), decision);
        steps.iter().map(&mut relay).collect()
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
        assert_eq!(run(Relay::FailSecure, 3000, &steps), open);
        assert_eq!(
            run(Relay::FailSafe, 3000, &steps),
            open.map(|open| !open),
            "the other way round"
        );
    }

    #[test]
    fn somebody_without_a_mask_closes_it_at_once() {
        let steps = [
            (0, Decision::Mask),
            (10, Decision::NoMask),
            (20, Decision::Idle),
        ];
        assert_eq!(run(Relay::FailSecure, 3000, &steps), [true, false, false]);
    }

    #[test]
    fn a_fault_is_as_without_current() {
        let steps = [
            (0, Decision::Mask),
            (10, Decision::Fault),
            (20, Decision::Idle),
        ];
        assert_eq!(run(Relay::FailSecure, 3000, &steps), [true, false, false]);
        assert_eq!(run(Relay::FailSafe, 3000, &steps), [false, false, true]);
    }

    #[test]
    fn without_a_hold_time_it_is_open_for_masks_alone() {
        let steps = [(0, Decision::Mask), (0, Decision::Idle)];
        assert_eq!(run(Relay::FailSecure, 0, &steps), [true, false]);
    }
}
