//! The patterns of the LEDs and the buzzer for each decision, and the patterns with which
//! the LEDs acknowledge a button press.
//!
//! The patterns are pure functions of the decision and the time since the decision was
//! made.

use std::time::Duration;

use crate::decision::decide::Decision;

/// The state of each output; true means on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Levels {
    /// Green LED.
    pub green: bool,
    /// Red LED.
    pub red: bool,
    /// Buzzer.
    pub buzzer: bool,
    /// Whether the relay of the door is energized, or `None` if there is no relay.
    pub relay: Option<bool>,
}

/// Returns the state of the outputs for a decision that was made `elapsed` ago.
/// [`Door`](super::Door) controls the relay, so this function leaves it out.
///
/// Each decision has another rhythm, so that people who cannot tell red from green
/// recognize it too.
///
/// | decision | green | red | buzzer |
/// |---|---|---|---|
/// | idle | off | off | off |
/// | mask | on | off | off |
/// | no mask | off | blinks, twice a second | three chirps of 150 ms, one every 500 ms |
/// | unsure | blinks, once a second | blinks, once a second | off |
/// | fault | off | blinks, 4 times a second | off |
#[must_use]
pub fn levels(decision: Decision, elapsed: Duration) -> Levels {
    let ms = elapsed.as_millis();
    let blink = |period: u128| ms % period < period / 2;
    let (green, red, buzzer) = match decision {
        Decision::Idle => (false, false, false),
        Decision::Mask => (true, false, false),
        Decision::NoMask => (false, blink(500), ms < 1500 && ms % 500 < 150),
        Decision::Unsure => (blink(1000), blink(1000), false),
        Decision::Fault => (false, blink(250), false),
    };
    Levels {
        green,
        red,
        buzzer,
        relay: None,
    }
}

/// Adds the warning that a door is held open to the state of the outputs. The warning began
/// `elapsed` ago. Once a second, the red LED and the buzzer are on for 200 ms. Between these
/// signals, the outputs show what they would show without the warning.
#[must_use]
pub fn warn_held_open(levels: Levels, elapsed: Duration) -> Levels {
    if elapsed.as_millis() % 1000 < 200 {
        Levels {
            green: false,
            red: true,
            buzzer: true,
            ..levels
        }
    } else {
        levels
    }
}

/// Duration of a test of the LEDs.
pub const LED_TEST: Duration = Duration::from_secs(5);

/// Returns the state of the outputs `elapsed` after a test of the LEDs began, or `None` once it
/// is over. The green LED is on for 2 s, then the red LED for 2 s, then the buzzer for 500 ms.
#[must_use]
pub fn led_test(elapsed: Duration) -> Option<Levels> {
    let ms = elapsed.as_millis();
    (elapsed < LED_TEST).then_some(Levels {
        green: ms < 2000,
        red: (2000..4000).contains(&ms),
        buzzer: (4000..4500).contains(&ms),
        relay: None,
    })
}

/// The response of the LEDs to a button press.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ButtonFeedback {
    /// The press was accepted, and crops are captured.
    Accepted,
    /// The press was refused, and no crops are captured.
    Refused,
}

impl ButtonFeedback {
    /// Returns the states of the green LED and of the red LED, `elapsed` after the press. These
    /// states replace those for the decision. Returns `None` once the feedback is over. The buzzer
    /// and the relay are not affected.
    ///
    /// | feedback | green | red |
    /// |---|---|---|
    /// | accepted | three flashes of 100 ms, one every 200 ms | off |
    /// | refused | off | on for 1 s |
    #[must_use]
    pub fn leds(self, elapsed: Duration) -> Option<(bool, bool)> {
        let ms = elapsed.as_millis();
        match self {
            ButtonFeedback::Accepted => (ms < 600).then_some((ms % 200 < 100, false)),
            ButtonFeedback::Refused => (ms < 1000).then_some((false, true)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(decision: Decision, ms: u64) -> Levels {
        levels(decision, Duration::from_millis(ms))
    }

    fn on(green: bool, red: bool, buzzer: bool) -> Levels {
        Levels {
            green,
            red,
            buzzer,
            relay: None,
        }
    }

    #[test]
    fn patterns_are_those_of_the_table() {
        assert_eq!(at(Decision::Idle, 10), Levels::default());
        assert_eq!(at(Decision::Mask, 99_999), on(true, false, false));
        assert_eq!(at(Decision::NoMask, 0), on(false, true, true));
        assert!(at(Decision::NoMask, 149).buzzer);
        assert_eq!(at(Decision::NoMask, 150), on(false, true, false));
        assert_eq!(at(Decision::NoMask, 250), Levels::default());
        assert_eq!(at(Decision::NoMask, 1149), on(false, true, true));
        assert!(
            !at(Decision::NoMask, 1500).buzzer,
            "the buzzer stops, the LED goes on"
        );
        assert!(at(Decision::NoMask, 60_000).red);
        assert_eq!(at(Decision::Unsure, 499), on(true, true, false));
        assert_eq!(at(Decision::Unsure, 500), Levels::default());
        assert_eq!(at(Decision::Fault, 0), on(false, true, false));
        assert_eq!(at(Decision::Fault, 130), Levels::default());
    }

    #[test]
    fn a_door_that_is_held_open_chirps_once_a_second_and_keeps_its_relay() {
        let shown = Levels {
            green: true,
            relay: Some(true),
            ..Levels::default()
        };
        let warning = Levels {
            relay: Some(true),
            ..on(false, true, true)
        };
        let at = |ms| warn_held_open(shown, Duration::from_millis(ms));
        assert_eq!([0, 199, 1000, 60_100].map(at), [warning; 4]);
        assert_eq!([200, 999, 1200].map(at), [shown; 3]);
    }

    #[test]
    fn feedback_is_that_of_the_table_and_ends() {
        let leds = |feedback: ButtonFeedback, ms| feedback.leds(Duration::from_millis(ms));
        assert_eq!(leds(ButtonFeedback::Accepted, 0), Some((true, false)));
        assert_eq!(leds(ButtonFeedback::Accepted, 100), Some((false, false)));
        assert_eq!(leds(ButtonFeedback::Accepted, 599), Some((false, false)));
        assert_eq!(leds(ButtonFeedback::Accepted, 600), None);
        assert_eq!(leds(ButtonFeedback::Refused, 999), Some((false, true)));
        assert_eq!(leds(ButtonFeedback::Refused, 1000), None);
    }

    #[test]
    fn each_decision_has_its_own_rhythm_without_color() {
        // How often any LED goes on in two seconds, and for how many milliseconds it is on.
        let rhythm = |decision| {
            let lit = |ms: u64| {
                let levels = at(decision, ms);
                levels.green || levels.red
            };
            let times = (2000..4000).filter(|ms| lit(*ms) && !lit(ms - 1)).count();
            (times, (2000..4000).filter(|ms| lit(*ms)).count())
        };
        assert_eq!(rhythm(Decision::Idle), (0, 0));
        assert_eq!(rhythm(Decision::Mask), (0, 2000));
        assert_eq!(rhythm(Decision::Unsure), (2, 1000));
        assert_eq!(rhythm(Decision::NoMask), (4, 1000));
        assert_eq!(rhythm(Decision::Fault), (8, 1000));
    }

    proptest! {
        #[test]
        fn green_alone_means_mask(ms in 0_u64..100_000) {
            for decision in [Decision::Idle, Decision::NoMask, Decision::Unsure, Decision::Fault] {
                let levels = at(decision, ms);
                prop_assert!(!levels.green || levels.red, "{decision:?} at {ms} ms: {levels:?}");
            }
        }
    }
}
