//! Push buttons: which there are, and when one was pressed.

use std::time::{Duration, Instant};

/// For so long a contact must stay as it is. Contacts of push buttons bounce for
/// some milliseconds, and nobody presses one for less than 50 ms.
const STEADY: Duration = Duration::from_millis(30);

/// A button that labels whoever stands before the camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Button {
    /// As masked.
    WithMask,
    /// As unmasked.
    WithoutMask,
}

impl Button {
    /// All of them.
    pub const ALL: [Button; 2] = [Button::WithMask, Button::WithoutMask];
}

/// Presses of a contact that bounces.
#[derive(Debug, Clone, Default)]
pub struct Debouncer {
    /// What the contact was when it was read last, and since when.
    read: Option<(bool, Instant)>,
    /// What it is taken to be.
    closed: bool,
}

impl Debouncer {
    /// Takes what the contact is now; whether that makes a press. One that was
    /// closed from the start makes none before it has been opened. `at` must not
    /// go backwards.
    pub fn pressed(&mut self, at: Instant, closed: bool) -> bool {
        let Some((before, since)) = self.read else {
            self.read = Some((closed, at));
            self.closed = closed;
            return false;
        };
        if closed != before {
            self.read = Some((closed, at));
            return false;
        }
        let is_steady = at.saturating_duration_since(since) >= STEADY;
        if !is_steady || closed == self.closed {
            return false;
        }
        self.closed = closed;
        closed
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests need some instant to begin at"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The times in ms at which reading the contact at (ms, closed) made a press.
    fn presses(readings: &[(u64, bool)]) -> Vec<u64> {
        let start = Instant::now();
        let mut debouncer = Debouncer::default();
        let mut pressed = |&(ms, closed): &(u64, bool)| {
            let at = start + Duration::from_millis(ms);
            debouncer.pressed(at, closed).then_some(ms)
        };
        readings.iter().filter_map(&mut pressed).collect()
    }

    #[test]
    fn a_press_counts_once_and_when_it_is_steady() {
        let readings = [
            (0, false),
            (100, true),
            (110, true),
            (129, true),
            (130, true),
            (200, true),
            (5000, true),
            (5100, false),
            (5200, false),
            (6000, true),
            (6050, true),
        ];
        assert_eq!(presses(&readings), [130, 6050]);
    }

    #[test]
    fn bouncing_and_short_pulses_are_no_press() {
        let readings = [
            (0, false),
            (100, true),
            (105, false),
            (110, true),
            (139, true),
            (139, false),
            (200, false),
        ];
        assert_eq!(presses(&readings).len(), 0);
        let released_bouncing = [
            (0, false),
            (50, true),
            (100, true),
            (200, false),
            (205, true),
            (240, true),
            (300, false),
            (400, false),
        ];
        assert_eq!(
            presses(&released_bouncing),
            [100],
            "it was never open for long"
        );
    }

    #[test]
    fn a_button_that_hangs_from_the_start_is_no_press() {
        assert_eq!(presses(&[(0, true), (100, true), (9000, true)]).len(), 0);
    }

    proptest! {
        #[test]
        fn between_two_presses_it_was_open(readings in prop::collection::vec((0_u64..60, any::<bool>()), 0..200)) {
            let mut at = 0;
            let readings: Vec<_> = readings
                .into_iter()
                .map(|(step, closed)| { at += step; (at, closed) })
                .collect();
            for pair in presses(&readings).windows(2) {
                let open = readings.iter().filter(|(ms, closed)| (pair[0]..pair[1]).contains(ms) && !closed);
                prop_assert!(open.count() >= 2);
            }
        }
    }
}
