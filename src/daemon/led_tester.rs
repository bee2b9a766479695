//! The test of the LEDs at the indicator thread.

use std::time::Instant;

use tokio::sync::mpsc;
use tracing::info;

use crate::api::socket::{ErrorRecord, LedTestRecord, LedTestRequest};
use crate::indicate::{LED_TEST, Levels, led_test};
use crate::learning::FailureKind;

/// What a test of the LEDs depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct LedTestRules {
    /// Whether there is something to test.
    pub(super) has_leds: bool,
    /// Whether a buzzer is connected that the config silences at this time.
    pub(super) is_silenced: bool,
    /// Whether the door is unlocked. People rely on the LEDs then, so a test is refused, and one
    /// in progress ends.
    pub(super) is_unlocked: bool,
}

/// Accepts requests to test the LEDs, and remembers when the test in progress began.
pub(super) struct LedTester {
    requests: mpsc::Receiver<LedTestRequest>,
    since: Option<Instant>,
}

impl LedTester {
    pub(super) fn new(requests: mpsc::Receiver<LedTestRequest>) -> LedTester {
        LedTester {
            requests,
            since: None,
        }
    }

    /// Replaces the LEDs and the buzzer in `levels` while a test is in progress.
    pub(super) fn step(&mut self, at: Instant, rules: LedTestRules, levels: Levels) -> Levels {
        if rules.is_unlocked && self.since.take().is_some() {
            info!("the test of the LEDs ends, because the door is unlocked");
        }
        while let Ok(request) = self.requests.try_recv() {
            // A client that was told that the LEDs do not answer does not expect a test.
            if request.answer.is_closed() {
                continue;
            }
            let accepted = self.begin(at, rules);
            // The client may have disconnected in the meantime.
            let _ = request.answer.send(accepted);
        }
        let elapsed = self.since.map(|since| at.saturating_duration_since(since));
        let Some(test) = elapsed.and_then(led_test) else {
            self.since = None;
            return levels;
        };
        Levels {
            relay: levels.relay,
            buzzer: test.buzzer && !rules.is_silenced,
            ..test
        }
    }

    fn begin(&mut self, at: Instant, rules: LedTestRules) -> Result<LedTestRecord, ErrorRecord> {
        let refuse = |sentence: &str| Err(ErrorRecord::new(FailureKind::NotNow, sentence));
        if !rules.has_leds {
            return refuse("no LED or buzzer is connected: set their pins in [indicate]");
        }
        if rules.is_unlocked {
            return refuse(
                "the LEDs cannot be tested while the door is unlocked: try again when it is locked",
            );
        }
        if self.since.is_some() {
            return refuse("the LEDs are being tested");
        }
        info!("the LEDs are tested");
        self.since = Some(at);
        Ok(LedTestRecord {
            duration_ms: LED_TEST.as_millis() as u64,
            buzzer_silenced: rules.is_silenced,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;
    use crate::daemon::now;

    const SHOWN: Levels = Levels {
        green: true,
        red: false,
        buzzer: false,
        relay: Some(false),
    };

    const LOCKED: LedTestRules = LedTestRules {
        has_leds: true,
        is_silenced: false,
        is_unlocked: false,
    };
    const UNLOCKED: LedTestRules = LedTestRules {
        is_unlocked: true,
        ..LOCKED
    };
    const SILENCED: LedTestRules = LedTestRules {
        is_silenced: true,
        ..LOCKED
    };

    struct Rig {
        tester: LedTester,
        requests: mpsc::Sender<LedTestRequest>,
        start: Instant,
    }

    impl Rig {
        fn new() -> Rig {
            let (requests, requests_in) = mpsc::channel(1);
            Rig {
                tester: LedTester::new(requests_in),
                requests,
                start: now(),
            }
        }

        /// Requests a test at a time, and returns the levels and the answer.
        fn request(&mut self, ms: u64, rules: LedTestRules) -> (Levels, Option<LedTestRecord>) {
            let (answer, mut result) = oneshot::channel();
            self.requests.try_send(LedTestRequest { answer }).unwrap();
            let levels = self.levels(ms, rules);
            (levels, result.try_recv().unwrap().ok())
        }

        fn levels(&mut self, ms: u64, rules: LedTestRules) -> Levels {
            let at = self.start + Duration::from_millis(ms);
            self.tester.step(at, rules, SHOWN)
        }
    }

    #[test]
    fn a_test_shows_each_led_and_ends_by_itself() {
        let mut rig = Rig::new();
        assert_eq!(rig.levels(0, LOCKED), SHOWN);
        let (levels, test) = rig.request(0, LOCKED);
        assert!(!test.unwrap().buzzer_silenced && levels.green && !levels.red);
        let (_, test) = rig.request(100, LOCKED);
        assert!(test.is_none(), "only one at a time");
        let red = rig.levels(2500, LOCKED);
        assert!(red.red && !red.green && red.relay == Some(false));
        assert!(rig.levels(4200, LOCKED).buzzer);
        let over = LED_TEST.as_millis() as u64;
        assert_eq!(rig.levels(over, LOCKED), SHOWN);
        assert!(rig.request(over + 1, LOCKED).1.is_some(), "the next one");
    }

    #[test]
    fn a_silenced_buzzer_stays_silent() {
        let mut rig = Rig::new();
        let (levels, test) = rig.request(0, SILENCED);
        assert!(test.unwrap().buzzer_silenced && levels.green);
        assert!(!rig.levels(4200, SILENCED).buzzer);
        assert!(rig.levels(4300, LOCKED).buzzer, "the quiet hours are over");
    }

    #[test]
    fn no_test_disturbs_an_unlocked_door() {
        let mut rig = Rig::new();
        let (levels, test) = rig.request(0, UNLOCKED);
        assert!(levels == SHOWN && test.is_none());
        assert!(rig.request(10, LOCKED).1.is_some());
        assert_eq!(rig.levels(500, UNLOCKED), SHOWN, "the door was unlocked");
        assert_eq!(rig.levels(600, LOCKED), SHOWN, "the test does not go on");
    }

    #[test]
    fn an_abandoned_request_starts_no_test() {
        let mut rig = Rig::new();
        let (answer, result) = oneshot::channel();
        rig.requests.try_send(LedTestRequest { answer }).unwrap();
        drop(result);
        assert_eq!(rig.levels(0, LOCKED), SHOWN);
        assert!(rig.request(10, LOCKED).1.is_some(), "the next one");
    }

    #[test]
    fn without_pins_there_is_nothing_to_test() {
        let rules = LedTestRules {
            has_leds: false,
            ..LOCKED
        };
        let (levels, test) = Rig::new().request(0, rules);
        assert!(levels == SHOWN && test.is_none());
    }
}
