//! `[classify]`: how the verdict on a face (masked, unmasked, or unsure) is determined.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

use super::Check;
use crate::decision::decide::VerdictOptions;

/// `[classify]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Classify {
    /// Margin of a crop around the face's box, as a fraction of the size of the box;
    /// -0.25 to 1.
    pub margin: f32,
    /// A face is classified a second time if the probability of its most likely label is
    /// below this value; 0 to 1. With 0, no face is classified a second time.
    pub second_look_below: f32,
    /// Margin of the crop for the second classification around the face's box, as a
    /// fraction of the box's size; -0.25 to 1.
    pub second_look_margin: f32,
    /// Labels of the model that count as masked.
    pub masked_labels: Vec<String>,
    /// A face is masked if P(masked), the probability that it is masked, is at least this
    /// value; 0.05 to 1.
    pub masked_threshold: f32,
    /// A face is unmasked if P(masked) is at most this value; 0 to `masked-threshold`.
    pub unmasked_threshold: f32,
    /// A face is small if the shorter side of its box is shorter than this value, in
    /// pixels of the frame; 0 to 1000.
    pub small_face_pixels: f32,
    /// For a small face, each of the two thresholds is raised by this fraction of the
    /// threshold's distance to 1; 0 to 1.
    pub small_face_raise: f32,
    /// Minimum length of the shorter side of a face's box, in pixels of the frame; 0
    /// to 1000. The verdict on a smaller face is unsure.
    pub min_face_pixels: f32,
    /// Minimum detector score of a face; 0 to 1. The verdict on a face with a lower score
    /// is unsure, unless the face check accepts the face.
    pub min_detector_score: f32,
    /// The verdict on a face is unsure if the probability of a face according to the face
    /// check is below this value; 0 to 1. With 0, or without a face check, no face is
    /// unfamiliar.
    pub unfamiliar_below: f32,
    /// Number of threads that classify the faces in a frame; 0 to 64. 0 means one thread
    /// per core, minus one for the camera and the system.
    pub threads: usize,
    /// Maximum time for classifying the faces in one frame, in ms; 10 to 60,000. The
    /// verdict on faces that have not been classified by then is unsure.
    pub time_limit_ms: u64,
}

impl Default for Classify {
    fn default() -> Classify {
        Classify {
            margin: 0.2,
            second_look_below: 0.95,
            second_look_margin: 0.05,
            masked_labels: vec!["with_mask".to_owned()],
            masked_threshold: 0.4,
            unmasked_threshold: 0.35,
            small_face_pixels: 48.0,
            small_face_raise: 0.4,
            min_face_pixels: 24.0,
            min_detector_score: 0.7,
            unfamiliar_below: 0.1,
            threads: 0,
            time_limit_ms: 1000,
        }
    }
}

impl Classify {
    /// If the config sets only one of the two thresholds, moves the other threshold if
    /// necessary, so that the unmasked threshold is not above the masked threshold. A
    /// config with only one threshold therefore stays valid when the defaults change.
    pub(super) fn fit_thresholds(&mut self, is_set: impl Fn(&str) -> bool) {
        match (is_set("masked-threshold"), is_set("unmasked-threshold")) {
            (false, true) if self.unmasked_threshold <= 1.0 => {
                self.masked_threshold = self.masked_threshold.max(self.unmasked_threshold);
            }
            (true, false) if self.masked_threshold >= 0.0 => {
                self.unmasked_threshold = self.unmasked_threshold.min(self.masked_threshold);
            }
            _ => {}
        }
    }

    pub(super) fn check(&self, check: &mut Check) {
        check.within("classify.margin", self.margin, -0.25, 1.0);
        check.within(
            "classify.second-look-below",
            self.second_look_below,
            0.0,
            1.0,
        );
        check.within(
            "classify.second-look-margin",
            self.second_look_margin,
            -0.25,
            1.0,
        );
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
            "classify.small-face-pixels",
            self.small_face_pixels,
            0.0,
            1000.0,
        );
        check.within("classify.small-face-raise", self.small_face_raise, 0.0, 1.0);
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
        check.within("classify.unfamiliar-below", self.unfamiliar_below, 0.0, 1.0);
        check.within("classify.threads", self.threads, 0, 64);
        check.within("classify.time-limit-ms", self.time_limit_ms, 10, 60_000);
    }

    /// Returns the number of threads that classify the faces in a frame; at least 1. If
    /// the config does not set this number, there is one thread per core, except for
    /// `reserved` cores that are left for other work.
    #[must_use]
    pub fn threads(&self, reserved: usize) -> usize {
        if self.threads > 0 {
            return self.threads;
        }
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        cores.saturating_sub(reserved).max(1)
    }

    /// Returns the options for [`crate::decision::decide::VerdictPolicy`].
    #[must_use]
    pub fn verdict_options(&self) -> VerdictOptions {
        VerdictOptions {
            masked_labels: self.masked_labels.clone(),
            mask_from: self.masked_threshold,
            no_mask_to: self.unmasked_threshold,
            small_face: self.small_face_pixels,
            small_face_raise: self.small_face_raise,
            min_face: self.min_face_pixels,
            min_score: self.min_detector_score,
            unfamiliar_below: self.unfamiliar_below,
        }
    }
}
