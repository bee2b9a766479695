//! The errors that learning on the device can return, and the kind of failure that each
//! error represents.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::learning::heads::HeadsError;
use crate::learning::refit::RefitError;
use crate::learning::replay::ReplayError;
use crate::learning::samples::StoreError;
use crate::learning::state_format::StateFormatError;
use crate::onnx::{LabelError, ModelError};
use crate::platform::files::FileError;

/// The reason why a learning operation failed. Each message is a complete
/// sentence.
#[derive(Debug, thiserror::Error)]
pub enum LearningError {
    /// The store of samples reported an error.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store of heads reported an error.
    #[error(transparent)]
    Heads(#[from] HeadsError),
    /// A model cannot be read or run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A refit could not start or was canceled.
    #[error(transparent)]
    Refit(#[from] RefitError),
    /// The built-in replay set cannot be read.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The configured replay set cannot be used with the classifier.
    #[error("cannot use the replay set {path}: {problem}")]
    ReplayFile {
        /// Path of the file.
        path: String,
        /// Why the replay set cannot be used.
        problem: String,
    },
    /// A name cannot be a label.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// A file in the state directory cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The state directory was used by a newer maskd, or its format is unknown.
    #[error(transparent)]
    StateFormat(#[from] StateFormatError),
    /// A head in the state directory was made for another backbone.
    #[error(
        "model {number} in {state} was made for another backbone than the classifier in use: \
         use another model, or its classifier"
    )]
    OtherBackbone {
        /// Number of the head.
        number: u32,
        /// The state directory.
        state: String,
    },
    /// A head lacks labels of the built-in head or of the configured classifier.
    #[error(
        "model {number} has no class for {missing}, which the classifier in use has: use another \
         model, or the classifier that model {number} was trained for"
    )]
    MissingLabels {
        /// Number of the head.
        number: u32,
        /// The labels that the head lacks, separated by commas.
        missing: String,
    },
    /// The head in use was replaced while another head was being compared with it.
    #[error(
        "the model in use changed during the training, so the new model, which was compared with \
         the previous one, is not used: train again"
    )]
    HeadChanged,
    /// Another device offered a head that was in use on this device before.
    #[error(
        "this device has used the model before: to use it again, switch to it with \
         \"maskd heads use\", or import it"
    )]
    KnownHead,
    /// The daemon's state directory cannot be used at the moment.
    #[error("nothing is learned, because the state directory cannot be used: {0}")]
    Off(String),
    /// A track has no unlabeled samples.
    #[error("there are no unlabeled face pictures of track {0}")]
    NoTrack(u64),
    /// A text is not a day.
    #[error("{0:?} is not a day: write it as YYYY-MM-DD")]
    Day(String),
    /// There is no labeling action that can be taken back.
    #[error("there is no labeling that can be taken back")]
    NothingToUndo,
    /// No sample has this id.
    #[error("there is no sample {0}")]
    NoSample(String),
}

/// The kind of failure, for callers that report it as a number such as an exit
/// code or an HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The request is invalid.
    Usage,
    /// A file has invalid contents.
    Data,
    /// The requested object does not exist.
    Missing,
    /// The request may succeed later. Something else is using the resource, or
    /// the request was canceled.
    NotNow,
    /// The disk is full.
    NoSpace,
    /// The operating system reported an error.
    System,
    /// There is a bug in maskd. The caller cannot do anything about it.
    Internal,
    /// The daemon is not running, or the part of it that handles the request is
    /// not running.
    Unavailable,
}

impl LearningError {
    /// Returns the kind of failure.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            LearningError::Store(error) => of_store(error),
            LearningError::Heads(error) => of_heads(error),
            LearningError::Model(error) => of_model(error),
            LearningError::Refit(RefitError::Cancelled) | LearningError::HeadChanged => {
                FailureKind::NotNow
            }
            LearningError::Refit(_) | LearningError::Replay(_) => FailureKind::Internal,
            LearningError::Label(_) | LearningError::Day(_) => FailureKind::Usage,
            LearningError::StateFormat(StateFormatError::File(error))
            | LearningError::File(error) => of_file(error),
            LearningError::StateFormat(StateFormatError::NoFolder(_)) => FailureKind::System,
            LearningError::StateFormat(_)
            | LearningError::ReplayFile { .. }
            | LearningError::OtherBackbone { .. }
            | LearningError::MissingLabels { .. }
            | LearningError::KnownHead => FailureKind::Data,
            LearningError::Off(_) => FailureKind::Unavailable,
            LearningError::NoTrack(_)
            | LearningError::NoSample(_)
            | LearningError::NothingToUndo => FailureKind::Missing,
        }
    }

    /// Whether another process has the state directory open for changes.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(
            self,
            LearningError::Store(StoreError::Busy { .. })
                | LearningError::Heads(HeadsError::Busy { .. })
        )
    }
}

fn of_store(error: &StoreError) -> FailureKind {
    match error {
        StoreError::File(error) if error.is_missing() => FailureKind::Missing,
        StoreError::File(error) => of_file(error),
        StoreError::Busy { .. } | StoreError::Canceled => FailureKind::NotNow,
        StoreError::Gone { .. } | StoreError::NoPicture { .. } => FailureKind::Missing,
        StoreError::Picture { .. } | StoreError::Features { .. } => FailureKind::Data,
        StoreError::Within { .. } | StoreError::WithinState { .. } => FailureKind::Usage,
        StoreError::Partly { error, .. } | StoreError::Stopped { error, .. } => of_store(error),
        StoreError::Rows { .. } | StoreError::Encode(_) => FailureKind::Internal,
    }
}

fn of_heads(error: &HeadsError) -> FailureKind {
    match error {
        HeadsError::File(error) => of_file(error),
        HeadsError::Busy { .. } => FailureKind::NotNow,
        HeadsError::Missing { .. } => FailureKind::Missing,
        HeadsError::Damaged(error) => of_model(error),
        HeadsError::NoParent { .. } => FailureKind::Usage,
        HeadsError::OtherBackbone { .. } | HeadsError::OtherLabels { .. } => FailureKind::Data,
        HeadsError::Numbers { .. } => FailureKind::Internal,
    }
}

fn of_model(error: &ModelError) -> FailureKind {
    match error {
        ModelError::Read { .. } => FailureKind::Missing,
        ModelError::Run { .. } => FailureKind::Internal,
        ModelError::TooLarge { .. }
        | ModelError::NotOnnx { .. }
        | ModelError::Unexpected { .. } => FailureKind::Data,
    }
}

fn of_file(error: &FileError) -> FailureKind {
    if error.is_no_space() {
        FailureKind::NoSpace
    } else {
        FailureKind::System
    }
}
