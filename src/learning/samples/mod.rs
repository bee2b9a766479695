//! Samples: captured and labeled crops on disk, and their features.
//!
//! This module owns the folder `samples` in the state directory. It defines what the
//! files there mean and how they are added, labeled, exported, and deleted. It knows
//! nothing about cameras, training, or the clock; times are passed as arguments.
//!
//! ```text
//! samples/unlabelled/20261124T101530.123Z-t000017-03.jpg   an unlabeled crop
//! samples/with_mask/20261124T101530.123Z-t000017-01.jpg    a labeled crop
//! samples/with_mask/holiday.png                            added by a person
//! samples/with_mask/20261124T101712.004Z-t000018-00.feature  only features were kept
//! samples/.features/20261124T101530.123Z-t000017-01.feature  made from the crop
//! samples/.trash/with_mask/20261124T101533.456Z-t000017-02.jpg  discarded, for a while
//! ```
//!
//! - **The folder is the label**: moving a file to another folder labels it. The folder
//!   has the layout of a data set, so `maskd train --dataset` accepts the folder
//!   without any changes. [`Label`](crate::onnx::Label) defines which folder names are
//!   allowed.
//! - A sample's **id** is its file name without the extension. The name of a
//!   capture contains the time (UTC), the track, and the number within the track; any
//!   other name is also allowed.
//! - The **quality** of a captured picture is stored in the comment of its file, so it
//!   stays with the picture. Other pictures are measured when their quality is needed.
//! - **Features** are cached. They are valid only for the exact bytes of their picture
//!   and for the backbone that computed them. Damaged or outdated features are computed
//!   again from the picture. If only the features were kept, they cannot be computed
//!   again.
//! - **Discarding** a sample moves its picture to the trash, from which it can be restored
//!   for a while. The trash is bounded, and never displaces other samples.
//! - **Deleting** a sample also deletes its features. (Traces of the deleted files may
//!   remain in the flash memory of a memory card, where no program can erase them.)
//!
//! Files are written under a temporary name, synced, and renamed, so a kill at any
//! moment leaves no partial samples. Temporary files are deleted the next time the
//! store is opened. Only one process at a time can change a store, because the process
//! must hold a lock. Readers, and people who move files, need no lock.

mod error;
mod feature;
mod listing;
mod name;
mod quality;
mod sample;
mod store;
mod transfer;
mod trash;
mod trash_limits;

use sha2::{Digest, Sha256};

use crate::onnx::UNLABELLED;

pub use error::StoreError;
pub use feature::{FeatureError, FeatureFile, MAX_ROWS, parse_features};
pub use listing::Reader;
pub use name::TrackKey;
pub(crate) use name::{is_day, is_own as is_complete_id};
pub use sample::{
    Added, Count, Discarded, DuplicateId, Expired, LabelFilter, Labelled, Listing, NewSample,
    Pruned, Removed, Restored, Sample, SampleKind, Stats,
};
pub use store::Store;
pub use transfer::{Exported, Imported};

/// The folder for features that were computed from pictures.
const FEATURES_FOLDER: &str = ".features";
/// The folder for discarded samples.
const TRASH_FOLDER: &str = ".trash";
const FEATURE_EXTENSION: &str = "feature";
/// JPEG quality of stored crops, 1 to 100. The quality is high enough that the stored
/// picture has the same features as the crop.
const JPEG_QUALITY: u8 = 95;
/// Maximum size of a picture file that is read, in bytes.
const MAX_PICTURE_BYTES: u64 = 64 * 1024 * 1024;

/// Maximum size of a file that counts toward the limit on disk space, in bytes. A crop
/// takes up at most a fifth of this size. A larger file is a photo that a person put
/// into a folder. Such photos must not use up the space for crops.
const MAX_COUNTED_BYTES: u64 = 1024 * 1024;

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests;
