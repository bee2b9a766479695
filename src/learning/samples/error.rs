//! Why the store of samples cannot do what it was asked.

use super::feature::{FeatureError, MAX_ROWS};
use crate::frame::PictureError;
use crate::platform::files::FileError;

/// Why the store cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process has the store open for changes.
    #[error("another maskd is changing {path}; let it do this, or stop it first")]
    Busy {
        /// The folder.
        path: String,
    },
    /// The sample was deleted meanwhile.
    #[error("the face picture {id} no longer exists")]
    Gone {
        /// Its id.
        id: String,
    },
    /// Of this sample only the features were kept.
    #[error("there is no picture of the sample {id}: only its features were kept")]
    NoPicture {
        /// Its id.
        id: String,
    },
    /// The picture cannot be decoded.
    #[error("the picture of the sample {id} cannot be used: {error}")]
    Picture {
        /// Its id.
        id: String,
        /// What is wrong with it.
        error: PictureError,
    },
    /// The features of a sample of which nothing else was kept.
    #[error("the features of the sample {id} cannot be used: {error}")]
    Features {
        /// Its id.
        id: String,
        /// What is wrong with them.
        error: FeatureError,
    },
    /// The number of rows, or a value, does not fit a feature file.
    #[error(
        "features to store must have 1 to {MAX_ROWS} rows of finite numbers; these have {rows} rows"
    )]
    Rows {
        /// Rows that were given.
        rows: usize,
    },
    /// The JPEG encoder refuses a crop.
    #[error("a crop cannot be written as JPEG: {0}")]
    Encode(String),
    /// An export into the store itself, or an import from it.
    #[error("{path} is inside the folder of the samples: name another folder")]
    Within {
        /// The folder that was named.
        path: String,
    },
}

impl StoreError {
    /// Whether the disk is full: capturing may go on once there is room.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, StoreError::File(error) if error.is_no_space())
    }

    /// Whether nothing may be written there: a read-only file system, or no
    /// permission.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(self, StoreError::File(error) if error.is_read_only())
    }
}
