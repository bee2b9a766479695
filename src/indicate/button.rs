//! Debounces the contacts of the push buttons, and detects presses.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// A change in the state of a contact counts only after the contact has been stable for
/// this long. The contacts of push buttons bounce for a few milliseconds, and nobody
/// presses a button for less than 50 ms.
pub(super) const DEBOUNCE: Duration = Duration::from_millis(30);

/// A button that labels the face in front of the camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Button {
    /// Labels the face as masked.
    WithMask,
    /// Labels the face as unmasked.
    WithoutMask,
}

impl Button {
    /// All buttons.
    pub const ALL: [Button; 2] = [Button::WithMask, Button::WithoutMask];
}

/// Detects button presses from the readings of a contact that bounces.
#[derive(Debug, Clone, Default)]
pub struct Debouncer {
    /// The latest reading (true means closed), and the time of the reading that changed to this
    /// state.
    reading: Option<(bool, Instant)>,
    /// Whether the contact is closed, after debouncing.
    closed: bool,
}

impl Debouncer {
    /// Adds a reading of the contact at time `at`, and returns whether this reading completes a
    /// press. If the contact is closed at the first reading, the contact must open before a press
    /// counts. `at` must not decrease from call to call.
    pub fn pressed(&mut self, at: Instant, closed: bool) -> bool {
        let Some((before, since)) = self.reading else {
            self.reading = Some((closed, at));
            self.closed = closed;
            return false;
        };
        if closed != before {
            self.reading = Some((closed, at));
            return false;
        }
        let is_stable = at.saturating_duration_since(since) >= DEBOUNCE;
        if !is_stable || closed == self.closed {
            return false;
        }
        self.closed = closed;
        closed
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

    /// Returns the times in ms of the readings that complete a press. Each reading is given
    /// as (time in ms, whether the contact is closed).
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
    fn a_press_counts_once_and_only_when_it_is_stable() {
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
    fn bouncing_and_short_pulses_are_not_presses() {
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
            "it was never open for long enough"
        );
    }

    #[test]
    fn a_contact_bounces_while_it_closes_and_opens_and_counts_once() {
        let bounce = [(0, true), (1, false), (2, true), (4, false), (6, true)];
        let mut readings = vec![(0, false), (40, false)];
        readings.extend(bounce.map(|(ms, closed)| (100 + ms, closed)));
        readings.extend([(121, true), (136, true), (151, true)]);
        readings.extend(bounce.map(|(ms, closed)| (300 + ms, !closed)));
        readings.extend([(321, false), (336, false), (351, false)]);
        assert_eq!(presses(&readings), [136], "30 ms after the last bounce");
    }

    #[test]
    fn each_press_after_a_release_counts() {
        let readings: Vec<_> = (0..60)
            .map(|index| (index * 15, index / 10 % 2 == 1))
            .collect();
        assert_eq!(presses(&readings), [180, 480, 780]);
    }

    #[test]
    fn a_contact_that_is_stuck_at_the_start_counts_after_it_has_opened() {
        let readings = [
            (0, true),
            (100, true),
            (200, false),
            (230, false),
            (300, true),
            (330, true),
        ];
        assert_eq!(presses(&readings), [330]);
    }

    #[test]
    fn the_press_of_one_button_does_not_touch_another() {
        let start = Instant::now();
        let mut contacts = Button::ALL.map(|button| (button, Debouncer::default()));
        let mut pressed = Vec::new();
        for ms in (0..200).step_by(15) {
            for (button, contact) in &mut contacts {
                let closed = *button == Button::WithoutMask && ms >= 60;
                if contact.pressed(start + Duration::from_millis(ms), closed) {
                    pressed.push((*button, ms));
                }
            }
        }
        assert_eq!(pressed, [(Button::WithoutMask, 90)]);
    }

    #[test]
    fn a_button_that_is_stuck_from_the_start_is_not_a_press() {
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
