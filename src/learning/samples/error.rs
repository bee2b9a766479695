//! Errors of the sample store.

use super::feature::{FeatureError, MAX_ROWS};
use crate::frame::PictureError;
use crate::platform::files::FileError;
use crate::platform::text::counted;

/// Why an operation on the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process has the store open for changes.
    #[error("another maskd is changing {path}; let it do this, or stop it first")]
    Busy {
        /// The folder of the samples.
        path: String,
    },
    /// The caller canceled the operation. What was already done is kept.
    #[error("canceled; the face pictures that were already copied are kept")]
    Canceled,
    /// The sample was deleted in the meantime.
    #[error("the face picture {id} no longer exists")]
    Gone {
        /// Id of the sample.
        id: String,
    },
    /// Only the features of this sample were kept.
    #[error("there is no picture of the sample {id}: only its features were kept")]
    NoPicture {
        /// Id of the sample.
        id: String,
    },
    /// The picture cannot be decoded.
    #[error("the picture of the sample {id} cannot be used: {error}")]
    Picture {
        /// Id of the sample.
        id: String,
        /// What is wrong with the picture.
        error: PictureError,
    },
    /// The features cannot be used, and the sample has no picture.
    #[error("the features of the sample {id} cannot be used: {error}")]
    Features {
        /// Id of the sample.
        id: String,
        /// What is wrong with the features.
        error: FeatureError,
    },
    /// The number of rows is out of range, or a value is not finite.
    #[error(
        "features to store must have 1 to {MAX_ROWS} rows of finite numbers; these have {rows} rows"
    )]
    Rows {
        /// Number of rows passed by the caller.
        rows: usize,
    },
    /// Only some of the samples could be deleted.
    #[error("only {deleted} of {} face pictures could be deleted: {error}", deleted + left)]
    Partly {
        /// Number of samples that were deleted.
        deleted: usize,
        /// Number of samples that were not deleted.
        left: usize,
        /// Why the first of the remaining samples was not deleted.
        error: Box<StoreError>,
    },
    /// An import ended early.
    #[error("the import stopped after {}: {error}", counted(*added, "picture"))]
    Stopped {
        /// Number of pictures that were imported before the error.
        added: usize,
        /// Why the next picture was not imported.
        error: Box<StoreError>,
    },
    /// The JPEG encoder rejected a crop.
    #[error("a crop cannot be written as JPEG: {0}")]
    Encode(String),
    /// The source of an import or the target of an export is inside the store itself.
    #[error("{path} is inside the folder of the samples: name another folder")]
    Within {
        /// The folder passed by the caller.
        path: String,
    },
    /// The target of an export is inside a state directory.
    #[error("{path} is inside a state directory of maskd: name another folder")]
    WithinState {
        /// The folder passed by the caller.
        path: String,
    },
}

impl StoreError {
    /// Whether the disk is full. Capturing can resume once there is space again.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, StoreError::File(error) if error.is_no_space())
    }

    /// Whether writing is not allowed because the file system is read-only or the
    /// process lacks permission.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(self, StoreError::File(error) if error.is_read_only())
    }
}
