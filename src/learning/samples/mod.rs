//! Samples: captured and labelled crops on disk, and their features.
//!
//! Owns the folder `samples` of the state directory: what files mean there, how
//! they are added, labelled, exported and deleted. Knows nothing of cameras,
//! training or the clock; times are arguments.
//!
//! ```text
//! samples/unlabelled/20261124T101530.123Z-t000017-03.jpg   an unlabelled crop
//! samples/with_mask/20261124T101530.123Z-t000017-01.jpg    a labelled crop
//! samples/with_mask/holiday.png                            put there by a person
//! samples/with_mask/20261124T101712.004Z-t000018-00.feature  only features were kept
//! samples/.features/20261124T101530.123Z-t000017-01.feature  made from the crop
//! ```
//!
//! - **The folder is the label**: whoever moves a file labels it. The layout is
//!   that of a data set, so `maskd train --dataset` takes the folder as it is.
//!   What a folder may be called is the rule of [`Label`](crate::onnx::Label).
//! - A sample's **id** is its file name without the extension. The names of
//!   captures hold the time (UTC), the track and the number within it; any other
//!   name is allowed.
//! - **Features** are a cache, bound to the bytes of their picture and to the
//!   backbone. Damaged or outdated ones are computed again. Only if a sample
//!   consists of nothing but features are they not replaceable.
//! - **Deleting** a sample deletes its features, too. (A program cannot erase what
//!   the flash memory of a card keeps of a deleted file.)
//!
//! Files are written under a temporary name, synced and renamed, so a kill at any
//! moment leaves no partial ones; temporary files are deleted when the store is
//! next opened. One process at a time can change a store: it holds a lock. Readers,
//! and people who move files, need no lock.

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
    Count, Discarded, DuplicateId, LabelFilter, Labelled, Listing, NewSample, Removed, Sample,
    SampleKind, Stats,
};
pub use store::Store;
pub use transfer::{Exported, Imported};

/// The folder of features that were made from pictures.
const FEATURES_FOLDER: &str = ".features";
const FEATURE_EXTENSION: &str = "feature";
const PICTURE_EXTENSIONS: [&str; 5] = ["jpg", "jpeg", "png", "webp", "bmp"];
/// JPEG quality of stored crops, 1 to 100: high enough that features of the file
/// equal those of the crop.
const JPEG_QUALITY: u8 = 95;
/// Largest picture file that is read, in bytes.
const MAX_PICTURE_BYTES: u64 = 64 * 1024 * 1024;

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests;
