//! `mode`: what the whole device is for.

use serde::{Deserialize, Serialize};

/// `mode`, which stands before the first section.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Shows decisions at a door, and does everything that the other keys turn on.
    #[default]
    Door,
    /// Statistics mode: only counts passages, and keeps and publishes nothing that could tell
    /// about a single person.
    Count,
}
