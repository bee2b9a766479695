//! `[capture]`: which crops are kept for training.

use serde::{Deserialize, Serialize};

use super::Check;
use crate::learning::capture_policy::CaptureOptions;

/// `[capture]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Capture {
    /// Whether crops are kept. Off by default, because faces are personal data.
    pub enabled: bool,
    /// What is kept of each crop.
    pub keep: Keep,
    /// A crop is uncertain if the probability of its most likely label is below this
    /// value; 0 to 1. Uncertain crops are kept.
    pub uncertain_below: f32,
    /// Fraction of the other crops, which are not uncertain, that is also kept; 0 to 1.
    pub confident_share: f32,
    /// Maximum number of crops per track; 1 to 1000.
    pub max_per_track: u32,
    /// Maximum number of crops per hour; 1 to 10,000.
    pub max_per_hour: usize,
    /// A crop is not kept if the cosine distance between its feature and the feature of a
    /// recently kept crop is at most this value; 0 to 2.
    pub near_duplicate_distance: f32,
    /// Age at which crops are deleted, in days; 1 to 3650. Labeled crops are deleted only
    /// after an announcement.
    pub keep_days: u32,
    /// Maximum disk space for crops and features, in MiB; 1 to 100,000. Only unlabeled
    /// crops are deleted to make room.
    pub max_mib: u64,
}

/// What is kept of a crop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// The picture and its feature.
    Pictures,
    /// Only the feature, for places where pictures may not be stored.
    Features,
}

impl Default for Capture {
    fn default() -> Capture {
        Capture {
            enabled: false,
            keep: Keep::Pictures,
            uncertain_below: 0.9,
            confident_share: 0.01,
            max_per_track: 6,
            max_per_hour: 120,
            near_duplicate_distance: 0.03,
            keep_days: 30,
            max_mib: 256,
        }
    }
}

impl Capture {
    pub(super) fn check(&self, check: &mut Check) {
        check.within("capture.uncertain-below", self.uncertain_below, 0.0, 1.0);
        check.within("capture.confident-share", self.confident_share, 0.0, 1.0);
        check.within("capture.max-per-track", self.max_per_track, 1, 1000);
        check.within("capture.max-per-hour", self.max_per_hour, 1, 10_000);
        check.within(
            "capture.near-duplicate-distance",
            self.near_duplicate_distance,
            0.0,
            2.0,
        );
        check.within("capture.keep-days", self.keep_days, 1, 3650);
        check.within("capture.max-mib", self.max_mib, 1, 100_000);
    }

    /// Returns the options for [`crate::learning::capture_policy::CapturePolicy`].
    #[must_use]
    pub fn options(&self) -> CaptureOptions {
        CaptureOptions {
            uncertain_below: self.uncertain_below,
            confident_share: self.confident_share,
            per_track: self.max_per_track,
            per_hour: self.max_per_hour,
            near: self.near_duplicate_distance,
        }
    }
}
