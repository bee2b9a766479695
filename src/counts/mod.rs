//! Counting the people who pass, by verdict, hour, and day.
//!
//! This module owns the passages, the hours that they are counted in, the rule for what is
//! published in statistics mode, and the files with the numbers. It knows nothing about
//! pictures, threads, or clients. Only [`store`] accesses files, and nothing here reads a
//! clock: callers pass the time as an argument.
//!
//! - [`passages`] turns the faces of frames into passages, one for each person.
//! - [`ledger`] keeps the number of passages of each hour.
//! - [`rounding`] removes from these numbers what could tell about a single person.
//! - [`query`] selects hours or days, and turns them into JSON and CSV.
//! - [`store`] reads and writes the files.

pub mod ledger;
pub mod passages;
pub mod query;
pub mod rounding;
pub mod store;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::decision::decide::Verdict;

/// What a passage counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The person wore a mask.
    Masked,
    /// The person wore no mask, or wore it incorrectly.
    Unmasked,
    /// The verdict was unsure for the whole passage.
    Unsure,
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Outcome {
        match verdict {
            Verdict::Masked(_) => Outcome::Masked,
            Verdict::Unmasked(_) => Outcome::Unmasked,
            Verdict::Unsure(_) => Outcome::Unsure,
        }
    }
}

/// Number of passages by outcome. This format is stable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Passages {
    /// People with a mask.
    pub masked: u64,
    /// People without a mask, or with a mask that is worn incorrectly.
    pub unmasked: u64,
    /// People about whom the verdict was unsure.
    pub unsure: u64,
}

impl Passages {
    /// One passage.
    #[must_use]
    pub fn one(outcome: Outcome) -> Passages {
        let mut one = Passages::default();
        match outcome {
            Outcome::Masked => one.masked = 1,
            Outcome::Unmasked => one.unmasked = 1,
            Outcome::Unsure => one.unsure = 1,
        }
        one
    }

    /// The sum of both. A number that would not fit stays at its maximum.
    #[must_use]
    pub fn plus(self, other: Passages) -> Passages {
        Passages {
            masked: self.masked.saturating_add(other.masked),
            unmasked: self.unmasked.saturating_add(other.unmasked),
            unsure: self.unsure.saturating_add(other.unsure),
        }
    }

    /// Number of passages with any outcome.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Passages {
            masked,
            unmasked,
            unsure,
        } = *self;
        masked.saturating_add(unmasked).saturating_add(unsure)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total() == 0
    }

    /// The numbers with the names of their outcomes.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); 3] {
        [
            ("masked", self.masked),
            ("unmasked", self.unmasked),
            ("unsure", self.unsure),
        ]
    }
}

/// Writes the numbers for people, such as `3 masked, 1 unmasked, 0 unsure`.
impl std::fmt::Display for Passages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Passages {
            masked,
            unmasked,
            unsure,
        } = self;
        write!(f, "{masked} masked, {unmasked} unmasked, {unsure} unsure")
    }
}
