//! `[track]`: how faces are tracked from frame to frame.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Check;
use crate::vision::track::TrackOptions;

/// `[track]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Track {
    /// Minimum IoU between a face's box and a track's box for the face to continue the
    /// track; 0.05 to 0.95.
    pub min_iou: f32,
    /// If the face of a track is not seen for this long, the track ends; 0 to 60,000 ms.
    pub max_lost_ms: u64,
    /// Number of most recent frames whose classifications vote on the verdict; 1 to 100.
    pub vote_window: usize,
    /// Interval at which a face with a settled verdict is classified again, in ms; 0 to
    /// 60,000. With 0, the face is classified in every frame.
    pub reclassify_interval_ms: u64,
}

impl Default for Track {
    fn default() -> Track {
        Track {
            min_iou: 0.3,
            max_lost_ms: 1000,
            vote_window: 5,
            reclassify_interval_ms: 500,
        }
    }
}

impl Track {
    pub(super) fn check(&self, check: &mut Check) {
        check.within("track.min-iou", self.min_iou, 0.05, 0.95);
        check.within("track.max-lost-ms", self.max_lost_ms, 0, 60_000);
        check.within("track.vote-window", self.vote_window, 1, 100);
        check.within(
            "track.reclassify-interval-ms",
            self.reclassify_interval_ms,
            0,
            60_000,
        );
    }

    /// Returns the options for [`crate::vision::track::Tracker`].
    #[must_use]
    pub fn options(&self) -> TrackOptions {
        TrackOptions {
            min_iou: self.min_iou,
            keep: Duration::from_millis(self.max_lost_ms),
            votes: self.vote_window,
            settled: Duration::from_millis(self.reclassify_interval_ms),
        }
    }
}
