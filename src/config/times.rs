//! `[times]`: when the LEDs, the lock, capturing, and sounds are on.

use serde::{Deserialize, Serialize};

use super::{Check, Indicate};
use crate::indicate::{Holiday, LockType, Window};

/// Maximum number of windows of a key.
const MAX_WINDOWS: usize = 50;
/// Maximum number of holidays.
const MAX_HOLIDAYS: usize = 400;

/// `[times]`. A key without windows has no limit.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Times {
    /// When the LEDs show the decision; at most 50 windows.
    pub indicate: Vec<Window>,
    /// When the door locks. Outside of these windows, it is unlocked. At most 50 windows.
    pub lock: Vec<Window>,
    /// When crops are captured; at most 50 windows.
    pub capture: Vec<Window>,
    /// When the buzzer and sounds are on; at most 50 windows.
    pub sound: Vec<Window>,
    /// Dates on which no window starts; at most 400.
    pub holidays: Vec<Holiday>,
}

impl Times {
    /// Whether any windows are configured.
    #[must_use]
    pub fn has_windows(&self) -> bool {
        self.keys().iter().any(|(_, windows)| !windows.is_empty())
    }

    fn keys(&self) -> [(&'static str, &[Window]); 4] {
        [
            ("times.indicate", &self.indicate),
            ("times.lock", &self.lock),
            ("times.capture", &self.capture),
            ("times.sound", &self.sound),
        ]
    }

    pub(super) fn check(&self, indicate: &Indicate, check: &mut Check) {
        for (key, windows) in self.keys() {
            let count = windows.len();
            if count > MAX_WINDOWS {
                check.fail(
                    key,
                    format!("has {count} windows, allowed are {MAX_WINDOWS}"),
                );
            }
        }
        let count = self.holidays.len();
        if count > MAX_HOLIDAYS {
            let problem = format!("has {count} dates, allowed are {MAX_HOLIDAYS}");
            check.fail("times.holidays", problem);
        }
        if count > 0 && !self.has_windows() {
            let problem = "requires windows that do not start on these dates: set times.indicate, \
                           times.lock, times.capture, or times.sound, or remove holidays";
            check.fail("times.holidays", problem.to_owned());
        }
        if self.lock.is_empty() {
            return;
        }
        if indicate.relay_pin.is_none() {
            let problem = "requires the relay of a door: set indicate.relay-pin, or remove lock";
            check.fail("times.lock", problem.to_owned());
        }
        if indicate.relay_pulse_ms.is_some() && indicate.relay == LockType::FailSecure {
            let problem = "cannot be used with indicate.relay-pulse-ms and a fail-secure lock, \
                           because the relay would be energized for hours: remove one of them";
            check.fail("times.lock", problem.to_owned());
        }
    }
}
