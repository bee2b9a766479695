//! `[decide]`: how quickly decisions change.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Check;
use crate::decision::decide::DeciderOptions;

/// `[decide]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Decide {
    /// How long frames must contradict the decision before the decision changes, in ms; 0
    /// to 60,000.
    pub confirm_ms: u64,
    /// Number of consecutive frames that must show only masked faces before the decision
    /// becomes `mask`; 2 to 100.
    pub confirm_frames: u32,
    /// How long the decision remains after the last face has left, in ms; 0 to 600,000.
    pub hold_ms: u64,
    /// If no new frame arrives for this long, the decision becomes a fault; 500 to
    /// 600,000 ms.
    pub stale_ms: u64,
}

impl Default for Decide {
    fn default() -> Decide {
        Decide {
            confirm_ms: 300,
            confirm_frames: 3,
            hold_ms: 1500,
            stale_ms: 5000,
        }
    }
}

impl Decide {
    pub(super) fn check(&self, check: &mut Check) {
        check.within("decide.confirm-ms", self.confirm_ms, 0, 60_000);
        check.within("decide.confirm-frames", self.confirm_frames, 2, 100);
        check.within("decide.hold-ms", self.hold_ms, 0, 600_000);
        check.within("decide.stale-ms", self.stale_ms, 500, 600_000);
    }

    /// Returns the options for [`crate::decision::decide::Decider`].
    #[must_use]
    pub fn options(&self) -> DeciderOptions {
        DeciderOptions {
            confirm: Duration::from_millis(self.confirm_ms),
            confirm_frames: self.confirm_frames,
            hold: Duration::from_millis(self.hold_ms),
            stale: Duration::from_millis(self.stale_ms),
        }
    }
}
