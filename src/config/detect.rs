//! `[detect]`: how faces are detected.

use serde::{Deserialize, Serialize};

use super::Check;

/// `[detect]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Detect {
    /// Longest side of the detector's input, in pixels; 64 to 1920.
    pub input_size: u32,
    /// A box with at least this score counts as a face, even without the face check; 0.05
    /// to 0.99.
    pub threshold: f32,
    /// A box with a score below `threshold` but of at least this value counts as a face
    /// if the face check accepts the box; 0.05 to 0.99. Such a face never opens a door. If
    /// this value is not below `threshold`, the face check is off.
    pub low_threshold: f32,
    /// The face check accepts a box if the probability that the box contains a face is at
    /// least this value; 0.01 to 1.
    pub face_check: f32,
    /// Interval at which the detector runs while nothing moves, in ms; 0 to 60,000. With
    /// 0, the detector runs on every frame.
    pub idle_interval_ms: u64,
}

impl Default for Detect {
    fn default() -> Detect {
        Detect {
            input_size: 320,
            threshold: 0.7,
            low_threshold: 0.5,
            face_check: 0.8,
            idle_interval_ms: 1000,
        }
    }
}

impl Detect {
    pub(super) fn check(&self, check: &mut Check) {
        check.within("detect.input-size", self.input_size, 64, 1920);
        check.within("detect.threshold", self.threshold, 0.05, 0.99);
        check.within("detect.low-threshold", self.low_threshold, 0.05, 0.99);
        check.within("detect.face-check", self.face_check, 0.01, 1.0);
        check.within("detect.idle-interval-ms", self.idle_interval_ms, 0, 60_000);
    }
}
