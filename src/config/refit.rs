//! `[refit]`: when and how the device trains on labeled crops.

use serde::{Deserialize, Serialize};

use super::Check;
use crate::learning::LearningOptions;
use crate::learning::refit::RefitOptions;

/// `[refit]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Refit {
    /// Whether the daemon starts a refit automatically when there are enough new labels.
    pub enabled: bool,
    /// Number of new labels that triggers a refit; 1 to 100,000.
    pub min_new_labels: usize,
    /// Number of heads that are kept for rollback; 2 to 1000.
    pub keep_heads: usize,
    /// Random seed. Training with the same seed and labels produces the same head.
    pub seed: u64,
    /// Maximum temperature of the processor for a refit, in degrees Celsius; 30 to 120.
    /// While the processor is hotter, a refit waits.
    pub max_temperature_c: f32,
}

impl Default for Refit {
    fn default() -> Refit {
        Refit {
            enabled: true,
            min_new_labels: 10,
            keep_heads: 10,
            seed: 42,
            max_temperature_c: 75.0,
        }
    }
}

impl Refit {
    /// Returns the options for [`crate::learning::Learning`].
    pub(super) fn options(&self) -> LearningOptions {
        LearningOptions {
            refit: RefitOptions {
                seed: self.seed,
                ..RefitOptions::default()
            },
            keep_heads: self.keep_heads,
            ..LearningOptions::default()
        }
    }

    pub(super) fn check(&self, check: &mut Check) {
        check.within("refit.min-new-labels", self.min_new_labels, 1, 100_000);
        check.within("refit.keep-heads", self.keep_heads, 2, 1000);
        check.within(
            "refit.max-temperature-c",
            self.max_temperature_c,
            30.0,
            120.0,
        );
    }
}
