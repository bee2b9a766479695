//! The state that an interrupted run saves so that the run can resume later.
//!
//! This module owns the file format. A file consists of a line with a SHA-256, followed by
//! JSON. The SHA-256 covers the JSON.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::onnx::MAX_FEATURES;
use crate::platform::files;
use crate::platform::hex;
use crate::training::train::{History, Trainer, TrainerState};

/// The point at which a run was interrupted, which is always after a complete epoch.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// The [`RunOptions::fingerprint`](super::RunOptions::fingerprint) of the run. A run
    /// with a different fingerprint must not resume from this checkpoint.
    pub(crate) fingerprint: String,
    pub(super) trainer: TrainerState,
    /// The state after the epoch with the lowest validation loss.
    pub(super) best: TrainerState,
    pub(super) history: History,
}

/// The reason why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    #[error("there is no interrupted training to resume: cannot read {path}: {error}")]
    Read { path: String, error: std::io::Error },
    #[error("{path} is damaged: delete it and start again without --resume")]
    Damaged { path: String },
    #[error("cannot write {path}: {error}")]
    Write { path: String, error: std::io::Error },
}

impl Checkpoint {
    /// Maximum size of a checkpoint file in bytes.
    const MAX_BYTES: usize = Checkpoint::max_bytes(MAX_FEATURES);

    /// Returns the maximum size of a checkpoint file in bytes. Each weight, running mean, and
    /// running square of two heads takes at most ten digits and a comma. With 128 hidden units,
    /// this is less than 9 KiB for each feature. The rest is for the other weights and for the
    /// history.
    pub(crate) const fn max_bytes(features: usize) -> usize {
        (2 << 20) + features * (9 << 10)
    }

    /// Creates the checkpoint for the start of a run, before any epoch.
    pub(crate) fn start(fingerprint: String, trainer: &Trainer) -> Checkpoint {
        Checkpoint {
            fingerprint,
            trainer: trainer.state(),
            best: trainer.state(),
            history: History::default(),
        }
    }

    pub(crate) fn read(path: &Path) -> Result<Checkpoint, CheckpointError> {
        let bytes = files::read_own(path, Checkpoint::MAX_BYTES as u64);
        let bytes = bytes.map_err(|error| CheckpointError::Read {
            path: path.display().to_string(),
            error: error.source,
        })?;
        let json = str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.split_once('\n'))
            .filter(|(hash, json)| *hash == hex::encode(&Sha256::digest(json)))
            .map(|(_, json)| json);
        json.and_then(|json| serde_json::from_str(json).ok())
            .ok_or_else(|| CheckpointError::Damaged {
                path: path.display().to_string(),
            })
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), CheckpointError> {
        let failed = |error| CheckpointError::Write {
            path: path.display().to_string(),
            error,
        };
        let json = serde_json::to_string(self).map_err(|error| failed(error.into()))?;
        let hash = hex::encode(&Sha256::digest(&json));
        files::write(path, format!("{hash}\n{json}").as_bytes())
            .map_err(|error| failed(error.source))
    }
}
