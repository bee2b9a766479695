//! The heads that were rolled back on this device.
//!
//! This module owns the file `rejected.json` in the state directory. The file is a JSON
//! array with one digest per rejected head. The digests are kept because other devices
//! may offer a rejected head again at any time, even after the head's file has been
//! deleted on this device. The module knows nothing about rollbacks or offers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tracing::warn;

use crate::onnx::HeadFile;
use crate::platform::files;
use crate::platform::hex;

const FILE: &str = "rejected.json";
/// Maximum size of the file, in bytes, which is enough for 60,000 heads.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The digests of the rejected heads.
#[derive(Debug)]
pub(super) struct Rejected {
    path: PathBuf,
    digests: BTreeSet<String>,
}

impl Rejected {
    /// Reads the file in a state directory. If the file does not exist, no head is
    /// rejected.
    pub(super) fn open(state: &Path) -> Rejected {
        let path = state.join(FILE);
        let digests = match files::read_own(&path, MAX_BYTES) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                let path = path.display();
                warn!(%error, %path, "the list of rejected models is damaged; a new list is started");
                BTreeSet::new()
            }),
            Err(error) if error.is_missing() => BTreeSet::new(),
            Err(error) => {
                warn!(%error, "the list of rejected models is not used");
                BTreeSet::new()
            }
        };
        Rejected { path, digests }
    }

    /// Whether a head with exactly these weights is rejected.
    pub(super) fn contains(&self, head: &HeadFile) -> bool {
        self.digests.contains(&digest(head))
    }

    /// Rejects heads. If the file cannot be written, the heads stay rejected only until
    /// the process ends. A failure to write is not an error, because a user must be
    /// able to roll back even then.
    pub(super) fn add<'a>(&mut self, heads: impl Iterator<Item = &'a HeadFile>) {
        let before = self.digests.len();
        self.digests.extend(heads.map(digest));
        if self.digests.len() == before {
            return;
        }
        let json = serde_json::to_vec(&self.digests).unwrap_or_default();
        if let Err(error) = files::write(&self.path, &json) {
            warn!(%error, "cannot save which models were rejected");
        }
    }
}

/// Computes a digest of the weights and the labels. The digest excludes the metadata,
/// which differs when a device offers the same head again after an update.
fn digest(head: &HeadFile) -> String {
    let mut hash = Sha256::new();
    hash.update(head.backbone_sha256);
    for label in &head.labels {
        hash.update((label.len() as u64).to_le_bytes());
        hash.update(label);
    }
    let tensors = &head.head;
    for weights in [&tensors.w1, &tensors.b1, &tensors.w2, &tensors.b2] {
        hash.update((weights.len() as u64).to_le_bytes());
        for weight in weights {
            hash.update(weight.to_le_bytes());
        }
    }
    hex::encode(&<[u8; 32]>::from(hash.finalize()))
}
