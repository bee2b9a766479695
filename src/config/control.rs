//! `[control]`: the Unix socket that other programs use.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Check;

/// `[control]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Control {
    /// Path of the Unix socket for the daemon's HTTP API. If absent, the path is
    /// `control.sock` in the runtime directory that systemd provides, or else in the state
    /// directory.
    pub socket: Option<PathBuf>,
}

impl Control {
    pub(super) fn check(&self, check: &mut Check) {
        check.not_empty("control.socket", self.socket.as_deref());
    }
}
