//! The test of the LEDs at the indicator thread.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::info;

use crate::api::socket::{ErrorRecord, LedTestRequest};
use crate::indicate::{LED_TEST, Levels, led_test};
use crate::learning::FailureKind;

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

    /// Replaces the LEDs and the buzzer in `levels` while a test is in progress. `has_leds`
    /// tells whether there is something to test, and `is_unlocked` whether the door is unlocked: people
    /// rely on the LEDs then, so a test is refused, and one in progress ends.
    pub(super) fn step(
        &mut self,
        at: Instant,
        has_leds: bool,
        is_unlocked: bool,
        levels: Levels,
    ) -> Levels {
        if is_unlocked && self.since.take().is_some() {
            info!("the test of the LEDs ends, because the door is unlocked");
        }
        while let Ok(request) = self.requests.try_recv() {
            // A client that was told that the LEDs do not answer does not expect a test.
            if request.answer.is_closed() {
                continue;
            }
            let accepted = self.begin(at, has_leds, is_unlocked);
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
            ..test
        }
    }

    fn begin(
        &mut self,
        at: Instant,
        has_leds: bool,
        is_unlocked: bool,
    ) -> Result<Duration, ErrorRecord> {
        let refuse = |sentence: &str| Err(ErrorRecord::new(FailureKind::NotNow, sentence));
        if !has_leds {
            return refuse("no LED or buzzer is connected: set their pins in [indicate]");
        }
        if is_unlocked {
            return refuse(
                "the LEDs cannot be tested while the door is unlocked: try again when it is locked",
            );
        }
        if self.since.is_some() {
            return refuse("the LEDs are being tested");
        }
        info!("the LEDs are tested");
        self.since = Some(at);
        Ok(LED_TEST)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::daemon::now;

    const SHOWN: Levels = Levels {
        green: true,
        red: false,
        buzzer: false,
        relay: Some(false),
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
        fn request(&mut self, ms: u64, has_leds: bool, is_unlocked: bool) -> (Levels, bool) {
            let (answer, mut result) = oneshot::channel();
            self.requests.try_send(LedTestRequest { answer }).unwrap();
            let at = self.start + Duration::from_millis(ms);
            let levels = self.tester.step(at, has_leds, is_unlocked, SHOWN);
            (levels, result.try_recv().unwrap().is_ok())
        }

        fn levels(&mut self, ms: u64, is_unlocked: bool) -> Levels {
            let at = self.start + Duration::from_millis(ms);
            self.tester.step(at, true, is_unlocked, SHOWN)
        }
    }

    #[test]
    fn a_test_shows_each_led_and_ends_by_itself() {
        let mut rig = Rig::new();
        assert_eq!(rig.levels(0, false), SHOWN);
        let (levels, accepted) = rig.request(0, true, false);
        assert!(accepted && levels.green && !levels.red);
        let (_, accepted) = rig.request(100, true, false);
        assert!(!accepted, "only one at a time");
        let red = rig.levels(2500, false);
        assert!(red.red && !red.green && red.relay == Some(false));
        assert!(rig.levels(4200, false).buzzer);
        let over = LED_TEST.as_millis() as u64;
        assert_eq!(rig.levels(over, false), SHOWN);
        assert!(rig.request(over + 1, true, false).1, "the next one");
    }

    #[test]
    fn no_test_disturbs_an_unlocked_door() {
        let mut rig = Rig::new();
        assert_eq!(rig.request(0, true, true), (SHOWN, false));
        assert!(rig.request(10, true, false).1);
        assert_eq!(rig.levels(500, true), SHOWN, "the door was unlocked");
        assert_eq!(rig.levels(600, false), SHOWN, "the test does not go on");
    }

    #[test]
    fn an_abandoned_request_starts_no_test() {
        let mut rig = Rig::new();
        let (answer, result) = oneshot::channel();
        rig.requests.try_send(LedTestRequest { answer }).unwrap();
        drop(result);
        assert_eq!(rig.levels(0, false), SHOWN);
        assert!(rig.request(10, true, false).1, "the next one");
    }

    #[test]
    fn without_pins_there_is_nothing_to_test() {
        assert_eq!(Rig::new().request(0, false, false), (SHOWN, false));
    }
}
