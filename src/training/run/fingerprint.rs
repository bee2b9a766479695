//! Computes the fingerprint that distinguishes one run from another.

use sha2::{Digest, Sha256};

use super::{RunOptions, TrainingPictures};

use crate::platform::hex;

impl RunOptions {
    /// Computes the SHA-256 of everything that affects the result of a run,
    /// except for the machine on which it runs.
    pub(crate) fn fingerprint(
        &self,
        pictures: &TrainingPictures,
        backbone_sha256: &[u8; 32],
    ) -> String {
        let RunOptions {
            recipe,
            detector,
            trainer,
            views,
            epochs,
            batch_size,
        } = self;
        let version = env!("CARGO_PKG_VERSION");
        let classes = &pictures.dataset.classes;
        let backbone = hex::encode(backbone_sha256);
        let mut hash = Sha256::new();
        hash.update(format!(
            "{version} {recipe:?} {detector:?} {trainer:?} {classes:?} {backbone} {views} {epochs} {batch_size}\n"
        ));
        let sides = [("train", &pictures.training), ("val", &pictures.validation)];
        for (side, pictures) in sides {
            // The order of the pictures matters, because the index of a picture seeds
            // its views.
            for picture in pictures {
                let file = hex::encode(&picture.file_sha256);
                hash.update(format!("{side} {} {file}\n", picture.class));
            }
        }
        hex::encode(&hash.finalize())
    }
}
