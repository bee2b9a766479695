//! Maps each error that ends a command to its exit code.

use crate::api::socket::ControlError;
use crate::api::web::WebError;
use crate::camera::SourceError;
use crate::config::ConfigError;
use crate::daemon::DaemonError;
use crate::indicate::pins::PinError;
use crate::learning::{FailureKind, LearningError};
use crate::onnx::ModelError;
use crate::training::dataset::DatasetError;
use crate::training::recipe::RecipeError;
use crate::training::run::{CheckpointError, RunError};
use crate::training::train::TrainError;
use crate::vision::pipeline::PipelineError;

/// The reason why a command failed, as one sentence and an exit code from
/// `sysexits.h`.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: u8,
    pub(super) sentence: String,
}

impl Failure {
    pub(super) const USAGE: u8 = 64;
    pub(super) const DATA: u8 = 65;
    pub(super) const NO_INPUT: u8 = 66;
    pub(super) const UNAVAILABLE: u8 = 69;
    pub(super) const INTERNAL: u8 = 70;
    pub(super) const CANNOT_WRITE: u8 = 74;
    pub(super) const TEMPORARY: u8 = 75;
    pub(super) const CONFIG: u8 = 78;

    pub(super) fn new(exit: u8, sentence: impl std::fmt::Display) -> Failure {
        Failure {
            exit,
            sentence: sentence.to_string(),
        }
    }

    /// Creates the failure for a standard output that is closed or full. If the reader
    /// closed the pipe, the exit code is 0 and the sentence is empty. This is not an
    /// error, because a program such as `head` closes the pipe when it has read enough.
    pub(super) fn output(error: &std::io::Error) -> Failure {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Failure {
                exit: 0,
                sentence: String::new(),
            };
        }
        Failure::new(
            Self::CANNOT_WRITE,
            format!("cannot write to standard output: {error}"),
        )
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::new(Failure::CONFIG, error)
    }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Failure {
        let exit = match error {
            ModelError::Read { .. } => Failure::NO_INPUT,
            ModelError::Run { .. } => Failure::INTERNAL,
            ModelError::TooLarge { .. }
            | ModelError::NotOnnx { .. }
            | ModelError::Unexpected { .. } => Failure::DATA,
        };
        Failure::new(exit, error)
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Failure {
        let exit = match &error {
            SourceError::Spec(_) => Failure::CONFIG,
            error if error.is_missing_input() => Failure::NO_INPUT,
            _ => Failure::UNAVAILABLE,
        };
        Failure::new(exit, error)
    }
}

impl From<PipelineError> for Failure {
    fn from(error: PipelineError) -> Failure {
        match error {
            PipelineError::Model(error) => error.into(),
            PipelineError::Picture(_) => Failure::new(Failure::DATA, error),
        }
    }
}

impl From<PinError> for Failure {
    fn from(error: PinError) -> Failure {
        Failure::new(Failure::UNAVAILABLE, error)
    }
}

impl From<WebError> for Failure {
    fn from(error: WebError) -> Failure {
        let exit = match error {
            WebError::Random(_) => Failure::INTERNAL,
            WebError::Password(_) => Failure::USAGE,
            _ => Failure::CONFIG,
        };
        Failure::new(exit, error)
    }
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Failure {
        match error {
            DaemonError::Model(error) => error.into(),
            DaemonError::Source(error) => error.into(),
            DaemonError::Pipeline(error) => error.into(),
            DaemonError::Labels(_) => Failure::new(Failure::CONFIG, error),
            DaemonError::Pins(error) => error.into(),
            DaemonError::Web(error) => error.into(),
            DaemonError::Learning(ref problem) => {
                let exit = match problem {
                    LearningError::ReplayFile { .. } => Failure::DATA,
                    problem if problem.is_busy() => Failure::TEMPORARY,
                    _ => Failure::CANNOT_WRITE,
                };
                Failure::new(exit, error)
            }
            // A daemon that cannot show decisions has failed, even if the reason is that
            // the reader closed the pipe.
            DaemonError::Console(_) => Failure::new(Failure::CANNOT_WRITE, error),
            DaemonError::System(_) | DaemonError::Panicked(_) => {
                Failure::new(Failure::INTERNAL, error)
            }
        }
    }
}

impl From<FailureKind> for u8 {
    fn from(kind: FailureKind) -> u8 {
        match kind {
            FailureKind::Usage => Failure::USAGE,
            FailureKind::Data => Failure::DATA,
            FailureKind::Missing => Failure::NO_INPUT,
            FailureKind::NotNow => Failure::TEMPORARY,
            FailureKind::NoSpace | FailureKind::System => Failure::CANNOT_WRITE,
            FailureKind::Internal => Failure::INTERNAL,
            FailureKind::Unavailable => Failure::UNAVAILABLE,
        }
    }
}

impl From<LearningError> for Failure {
    fn from(error: LearningError) -> Failure {
        Failure::new(error.kind().into(), error)
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Failure {
        Failure::new(error.fault().into(), error)
    }
}

impl From<DatasetError> for Failure {
    fn from(error: DatasetError) -> Failure {
        let exit = match error {
            DatasetError::Missing { .. } | DatasetError::NotFolder { .. } => Failure::NO_INPUT,
            _ => Failure::DATA,
        };
        Failure::new(exit, error)
    }
}

impl From<TrainError> for Failure {
    fn from(error: TrainError) -> Failure {
        let exit = match error {
            TrainError::Options(_) => Failure::USAGE,
            TrainError::NotFinite { .. } => Failure::DATA,
            TrainError::Tensors(_) | TrainError::Batch(_) => Failure::INTERNAL,
        };
        Failure::new(exit, error)
    }
}

impl From<RecipeError> for Failure {
    fn from(error: RecipeError) -> Failure {
        match error {
            RecipeError::Model(error) => error.into(),
            RecipeError::Picture(_) => Failure::new(Failure::DATA, error),
        }
    }
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Failure {
        let exit = match error {
            CheckpointError::Read { .. } => Failure::NO_INPUT,
            CheckpointError::Damaged { .. } => Failure::DATA,
            CheckpointError::Write { .. } => Failure::CANNOT_WRITE,
        };
        Failure::new(exit, error)
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Failure {
        let exit = match error {
            RunError::Dataset(error) => return error.into(),
            RunError::Recipe(error) => return error.into(),
            RunError::Train(error) => return error.into(),
            RunError::UnknownClass { .. }
            | RunError::NotValidated { .. }
            | RunError::FewReplayPictures { .. } => Failure::DATA,
            RunError::TooManyFeatures { .. } => Failure::USAGE,
            RunError::Interrupted => Failure::TEMPORARY,
        };
        Failure::new(exit, error)
    }
}
