//! `[detect]`: how faces are detected.

use serde::{Deserialize, Serialize};

use super::Check;

/// `[detect]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Detect {
    /// Longest side of the detector's input, in pixels; 64 to 1920.
    pub input_size: u32,
    /// Minimum score; detections with a lower score are discarded; 0.05 to 0.99.
    pub threshold: f32,
    /// Interval at which the detector runs while nothing moves, in ms; 0 to 60,000. 0 runs
    /// it on every frame.
    pub idle_interval_ms: u64,
}

impl Default for Detect {
    fn default() -> Detect {
        Detect {
            input_size: 320,
            threshold: 0.52,
            idle_interval_ms: 1000,
        }
    }
}

impl Detect {
    pub(super) fn check(&self, check: &mut Check) {
        check.within("detect.input-size", self.input_size, 64, 1920);
        check.within("detect.threshold", self.threshold, 0.05, 0.99);
        check.within("detect.idle-interval-ms", self.idle_interval_ms, 0, 60_000);
    }
}
