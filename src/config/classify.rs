//! `[classify]`: how the verdict on a face (masked, unmasked or unsure) is determined.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

use super::Check;
use crate::decision::decide::VerdictOptions;

/// `[classify]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Classify {
    /// Margin of a crop around the face's box, as a fraction of the box; -0.25 to 1.
    pub margin: f32,
    /// Labels of the model that count as masked.
    pub masked_labels: Vec<String>,
    /// A face with at least this P(masked) is masked; 0.05 to 1.
    pub masked_threshold: f32,
    /// A face with at most this P(masked) is unmasked; 0 to `masked-threshold`.
    pub unmasked_threshold: f32,
    /// A face whose shorter side has fewer frame pixels is unsure; 0 to 1000.
    pub min_face_pixels: f32,
    /// A face with a lower detector score is unsure; 0 to 1.
    pub min_detector_score: f32,
    /// Number of threads that classify the faces in a frame; 0 to 64. 0 means one thread
    /// per core, minus one for the camera and the system.
    pub threads: usize,
    /// Maximum time for classifying the faces in one frame, in ms; 10 to 60,000. Faces that
    /// remain after this time are unsure.
    pub time_limit_ms: u64,
}

impl Default for Classify {
    fn default() -> Classify {
        Classify {
            margin: 0.2,
            masked_labels: vec!["with_mask".to_owned()],
            masked_threshold: 0.65,
            unmasked_threshold: 0.55,
            min_face_pixels: 24.0,
            min_detector_score: 0.55,
            threads: 0,
            time_limit_ms: 1000,
        }
    }
}

impl Classify {
    pub(super) fn check(&self, check: &mut Check) {
        check.within("classify.margin", self.margin, -0.25, 1.0);
        if self.masked_labels.is_empty() {
            let problem = "is empty: name at least one label";
            check.fail("classify.masked-labels", problem.to_owned());
        }
        check.within(
            "classify.masked-threshold",
            self.masked_threshold,
            0.05,
            1.0,
        );
        check.within(
            "classify.unmasked-threshold",
            self.unmasked_threshold,
            0.0,
            self.masked_threshold,
        );
        check.within(
            "classify.min-face-pixels",
            self.min_face_pixels,
            0.0,
            1000.0,
        );
        check.within(
            "classify.min-detector-score",
            self.min_detector_score,
            0.0,
            1.0,
        );
        check.within("classify.threads", self.threads, 0, 64);
        check.within("classify.time-limit-ms", self.time_limit_ms, 10, 60_000);
    }

    /// Number of threads that classify the faces in a frame; at least 1. If the config does
    /// not set it, `reserved` cores are left free for other work.
    #[must_use]
    pub fn threads(&self, reserved: usize) -> usize {
        if self.threads > 0 {
            return self.threads;
        }
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        cores.saturating_sub(reserved).max(1)
    }

    /// The options for [`crate::decision::decide::VerdictPolicy`].
    #[must_use]
    pub fn verdict_options(&self) -> VerdictOptions {
        VerdictOptions {
            masked_labels: self.masked_labels.clone(),
            mask_from: self.masked_threshold,
            no_mask_to: self.unmasked_threshold,
            min_face: self.min_face_pixels,
            min_score: self.min_detector_score,
        }
    }
}
