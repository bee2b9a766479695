//! `[counts]`: counting the people who pass.

use serde::{Deserialize, Serialize};

use super::Check;

/// `[counts]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Counts {
    /// Whether passages are counted. With `mode = "count"`, they always are.
    pub enabled: bool,
    /// Age at which the numbers of a day are deleted, in days; 1 to 1095.
    pub keep_days: u32,
}

impl Default for Counts {
    fn default() -> Counts {
        Counts {
            enabled: false,
            keep_days: 365,
        }
    }
}

impl Counts {
    pub(super) fn check(&self, check: &mut Check) {
        check.within("counts.keep-days", self.keep_days, 1, 1095);
    }
}
