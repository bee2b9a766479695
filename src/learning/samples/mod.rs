//! Samples: captured and labeled crops on disk, and their features.
//!
//! This module owns the folder `samples` in the state directory. It defines what the
//! files there mean and how they are added, labeled, exported and deleted. It knows
//! nothing about cameras, training or the clock; times are passed as arguments.
//!
//! ```text
//! samples/unlabelled/20261124T101530.123Z-t000017-03.jpg   an unlabeled crop
//! samples/with_mask/20261124T101530.123Z-t000017-01.jpg    a labeled crop
//! samples/with_mask/holiday.png                            added by a person
//! samples/with_mask/20261124T101712.004Z-t000018-00.feature  only features were kept
//! samples/.features/20261124T101530.123Z-t000017-01.feature  made from the crop
//! ```
//!
//! - **The folder is the label**: moving a file to another folder labels it. The
//!   layout is that of a data set, so `maskd train --dataset` accepts the folder as it
//!   is. [`Label`](crate::onnx::Label) defines which folder names are allowed.
//! - A sample's **id** is its file name without the extension. The name of a
//!   capture contains the time (UTC), the track and the number within the track; any
//!   other name is allowed, too.
//! - **Features** are a cache that is tied to the bytes of their picture and to the
//!   backbone. Damaged or outdated features are computed again. They cannot be
//!   replaced only if the sample consists of nothing but features.
//! - **Deleting** a sample also deletes its features. (A program cannot erase the
//!   traces of a deleted file that remain in the flash memory of a card.)
//!
//! Files are written under a temporary name, synced and renamed, so a kill at any
//! moment leaves no partial files; temporary files are deleted the next time the store
//! is opened. Only one process at a time can change a store, because it must hold a
//! lock. Readers, and people who move files, need no lock.

mod error;
mod feature;
mod listing;
mod name;
mod sample;
mod store;
mod transfer;

use sha2::{Digest, Sha256};

use crate::onnx::UNLABELLED;

pub use error::StoreError;
pub use feature::{FeatureError, FeatureFile, MAX_ROWS, parse_features};
pub use listing::Reader;
pub use name::TrackKey;
pub use sample::{
    Count, Discarded, DuplicateId, LabelFilter, Labelled, Listing, NewSample, Pruned, Removed,
    Sample, SampleKind, Stats,
};
pub use store::Store;
pub use transfer::{Exported, Imported};

/// The folder for features that were computed from pictures.
const FEATURES_FOLDER: &str = ".features";
const FEATURE_EXTENSION: &str = "feature";
/// JPEG quality of stored crops, 1 to 100. It is high enough that the features of the
/// file equal those of the crop.
const JPEG_QUALITY: u8 = 95;
/// Maximum size of a picture file that is read, in bytes.
const MAX_PICTURE_BYTES: u64 = 64 * 1024 * 1024;

/// Maximum size of a file that counts toward the limit on disk space, in bytes. A crop
/// has at most a fifth of it. A larger file is a photo that a person put into a folder:
/// it must not use up the space for crops.
const MAX_COUNTED_BYTES: u64 = 1024 * 1024;

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests;
