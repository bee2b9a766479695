//! The daemon's HTTP API on a Unix socket.
//!
//! Owns requests, answers, the routes and the client that the command line
//! uses. Knows what the daemon does only by what it is handed: a desk.
//!
//! | under `/api/v1` | takes | gives |
//! |---|---|---|
//! | GET `/status` | | [`Status`] |
//! | GET `/samples`, `/samples?label=L` | | a list of [`SampleRecord`] |
//! | GET `/samples/stats` | | [`CountRecord`] by label |
//! | GET `/samples/{id}/picture` | | the bytes of the file |
//! | GET `/queue`, `/queue?groups=N` | | [`QueueRecord`] |
//! | POST `/samples/label` | [`LabelRequest`] | [`LabelResult`] |
//! | POST `/samples/import` | [`Folder`] | [`ImportRecord`] |
//! | POST `/samples/export` | [`Folder`] | [`ExportRecord`] |
//! | POST `/samples/purge` | [`Purge`] | [`RemovedRecord`] |
//! | POST `/enroll` | [`EnrollRequest`] | [`Enrollment`] |
//! | GET, DELETE `/enroll` | | [`Enrollment`] |
//! | POST `/refit` | | [`RefitRecord`], when it is done |
//! | GET `/heads` | | a list of [`HeadRecord`] |
//! | GET `/heads/{number}` | | [`HeadRecord`] |
//! | GET `/heads/{number}/file` | | the bytes of the file |
//! | GET, PATCH `/settings` | [`Change`] | [`SettingsRecord`] |
//! | POST `/heads/{number}/export` | [`File`] | [`HeadRecord`] |
//! | POST `/heads/import` | [`File`] | [`Switched`] |
//! | POST `/heads/rollback` | [`RollbackRequest`] | [`Switched`] |
//!
//! Bodies are JSON objects of at most 64 KiB. What fails is answered with an
//! [`ErrorRecord`] and a status that fits its fault. Whoever may write to the
//! socket (its user and group) may do everything: there is no other check.
//! Folders and files are read and written by the daemon itself, so they must be
//! absolute paths that its user may use. The requests that name them are of the
//! socket alone; all others are the page's too (`web`).
//!
//! Requests read and write files in place, on the thread of the runtime that
//! serves them. It must not be one that frames pass through.
//!
//! [`SampleRecord`]: crate::learning::SampleRecord
//! [`LabelResult`]: crate::learning::LabelResult
//! [`ImportRecord`]: crate::learning::ImportRecord
//! [`ExportRecord`]: crate::learning::ExportRecord
//! [`Purge`]: crate::learning::Purge
//! [`RemovedRecord`]: crate::learning::RemovedRecord
//! [`HeadRecord`]: crate::learning::HeadRecord
//! [`QueueRecord`]: crate::learning::QueueRecord
//! [`Change`]: crate::config::settings::Change
//! [`SettingsRecord`]: crate::config::settings::SettingsRecord

mod client;
mod server;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use utoipa::ToSchema;

use crate::learning::{
    CountRecord, Enrollment, FailureKind, InUse, LabelAction, Learning, LearningError, RefitRecord,
    SampleSelector,
};
use crate::platform::board::BoardStatus;

use crate::config::settings::Settings;
use crate::onnx::Label;

pub use client::Client;
pub use server::{MAX_BODY, Refused, Socket, bind, open_routes, serve};

/// Name of the socket, in the folder that it is in.
pub const SOCKET: &str = "control.sock";

/// Most crops of an enrollment.
pub const MAX_ENROLLED: u32 = 1000;

/// Why there is no answer, or no socket. Each message is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another daemon answers there.
    #[error("a daemon is already listening on {path}: stop it first")]
    InUse {
        /// The socket.
        path: String,
    },
    /// No system takes such a name.
    #[error(
        "the path of the socket {path} is too long for a socket (at most 107 bytes): \
         set control.socket in the config"
    )]
    TooLong {
        /// The socket.
        path: String,
    },
    /// Something else has the name.
    #[error("{path} is there and is no socket: remove it, or set control.socket in the config")]
    NoSocket {
        /// The file.
        path: String,
    },
    /// The system refuses.
    #[error("cannot {action} the socket {path}: {source}")]
    Io {
        /// "make", "reach" and so on.
        action: &'static str,
        /// The socket.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// What the daemon says to what it was asked.
    #[error("{sentence}")]
    Refused {
        /// Its sentence.
        sentence: String,
        /// What sort of failure it is.
        fault: FailureKind,
    },
    /// The daemon did not answer.
    #[error("the daemon at {path} does not answer: {why}")]
    Lost {
        /// Its socket.
        path: String,
        /// The reason.
        why: String,
    },
    /// The answer means nothing here.
    #[error("the daemon at {path} answers in a way that this version of maskd does not know")]
    Answer {
        /// Its socket.
        path: String,
    },
}

impl ControlError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ControlError {
        let path = path.display().to_string();
        move |source| ControlError::Io {
            action,
            path,
            source,
        }
    }

    /// What sort of failure it is.
    #[must_use]
    pub fn fault(&self) -> FailureKind {
        match self {
            ControlError::Refused { fault, .. } => *fault,
            ControlError::InUse { .. } => FailureKind::NotNow,
            ControlError::TooLong { .. } | ControlError::NoSocket { .. } => FailureKind::Usage,
            ControlError::Io { .. } | ControlError::Lost { .. } | ControlError::Answer { .. } => {
                FailureKind::Unavailable
            }
        }
    }
}

/// The socket of the daemon of a state directory: the configured one, else
/// `control.sock` in the runtime directory (systemd's `RUNTIME_DIRECTORY`, of
/// which the first counts), else in the state directory.
#[must_use]
pub fn socket_path(configured: Option<&Path>, runtime: Option<&OsStr>, state: &Path) -> PathBuf {
    if let Some(path) = configured {
        return path.to_owned();
    }
    let first = runtime.and_then(|folders| std::env::split_paths(folders).next());
    let folder = first.filter(|folder| !folder.as_os_str().is_empty());
    folder.as_deref().unwrap_or(state).join(SOCKET)
}

/// Hands the head that is in use by the state directory to the camera path.
///
/// Two of these may cross: each goes on until what it sent is what is on disk.
///
/// # Errors
/// As [`Learning::in_use`].
pub fn hand_over(
    learning: &Learning,
    head: &watch::Sender<Arc<InUse>>,
) -> Result<(), LearningError> {
    let mut in_use = learning.in_use()?;
    loop {
        let number = in_use.number;
        head.send_replace(Arc::new(in_use));
        in_use = learning.in_use()?;
        if in_use.number == number {
            return Ok(());
        }
    }
}

/// Everything at a glance: a documented contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Of the daemon.
    pub version: String,
    /// Its state directory.
    #[schema(value_type = String)]
    pub state: PathBuf,
    /// What it is doing.
    pub live: Live,
    /// Counts by label, those without one under `unlabelled`.
    pub samples: BTreeMap<String, CountRecord>,
    /// The enrollment that is going on, or the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enrollment: Option<Enrollment>,
    /// Labels that are new since the last refit.
    pub new_labels: usize,
    /// What came of the last refit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_refit: Option<RefitRecord>,
}

/// Asks for samples to be labelled, or deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelRequest {
    /// Which.
    pub chosen: SampleSelector,
    /// How.
    pub mark: LabelAction,
}

/// A folder that the daemon is to read or write, by an absolute path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Folder {
    /// The folder.
    pub folder: PathBuf,
}

/// A file that the daemon is to read or write, by an absolute path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The file.
    pub path: PathBuf,
}

/// Asks for crops of whoever stands there, with a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrollRequest {
    /// The label.
    pub label: String,
    /// How many; 1 to [`MAX_ENROLLED`].
    pub count: u32,
}

/// Asks for an earlier head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// From each head to its parent.
    pub steps: u32,
}

/// Another head is in use: a documented contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Switched {
    /// Its number; absent is the shipped one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<u32>,
}

/// Why a request was not done: a documented contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorRecord {
    /// One sentence.
    pub error: String,
    /// What sort of failure it is.
    pub fault: FailureKind,
}

impl From<LearningError> for ErrorRecord {
    fn from(error: LearningError) -> ErrorRecord {
        ErrorRecord {
            fault: error.kind(),
            error: error.to_string(),
        }
    }
}

/// What the daemon is doing: a documented contract.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Live {
    /// The decision that is shown.
    pub decision: String,
    /// Whether the camera is lost, and being opened anew.
    pub camera_lost: bool,
    /// How often it was lost since the start.
    pub camera_losses: u64,
    /// Frames that were looked at.
    pub frames: u64,
    /// Frames in which faces were looked for; in the others nothing moved.
    pub detections: u64,
    /// Faces that were classified; the others were settled, or in doubt.
    pub looks: u64,
    /// Frames that were overwritten by newer ones.
    pub skipped: u64,
    /// Faces in the newest frame.
    pub faces: usize,
    /// Number of the head in use; absent is the shipped one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<u32>,
    /// Labels of the head in use.
    pub labels: Vec<String>,
    /// What is captured.
    pub capture: LiveCapture,
    /// Frames that were looked at in a second, of late.
    pub frames_per_second: f32,
    /// From capture to verdicts, of the newest frame, in milliseconds.
    pub latency_ms: f32,
    /// Whether a head is being learned.
    pub refitting: bool,
    /// How the board is.
    pub board: BoardStatus,
    /// Why learning waits, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_waits: Option<String>,
}

/// What is captured: a documented contract.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiveCapture {
    /// Whether crops of faces are kept.
    pub on: bool,
    /// Whether their pictures are, or their features alone.
    pub pictures: bool,
    /// Why it is off, though the config turns it on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub off_because: Option<String>,
    /// Crops that were stored since the start.
    pub stored: u64,
    /// Crops that were dropped since the start, because the disk was too slow.
    pub dropped: u64,
}

/// Asks the trainer thread for a refit; the answer is its record, or why there is
/// none.
pub type RefitRequest = oneshot::Sender<Result<RefitRecord, ErrorRecord>>;

/// A head that another device has learned, for the trainer thread to judge. The
/// answer is the record of its ruling, or why there is none.
#[derive(Debug)]
pub struct JudgeRequest {
    /// What messages call it.
    pub name: String,
    /// The public key of the device, in hexadecimal.
    pub origin: String,
    /// The bytes of its file.
    pub head: Vec<u8>,
    /// To whoever asked.
    pub answer: RefitRequest,
}

/// What the API works with.
#[derive(Debug, Clone)]
pub struct DaemonHandle {
    /// Samples and heads.
    pub learning: Arc<Learning>,
    /// What the daemon is doing.
    pub live: watch::Receiver<Live>,
    /// The head in use: whoever changes it by `learning` sends it here.
    pub head: Arc<watch::Sender<Arc<InUse>>>,
    /// The enrollment that is going on, or the last one.
    pub enrollment: Arc<Mutex<Option<Enrollment>>>,
    /// To the trainer thread.
    pub refit: mpsc::Sender<RefitRequest>,
    /// What may be changed meanwhile.
    pub settings: Arc<Settings>,
    /// To the trainer thread, too.
    pub judge: mpsc::Sender<JudgeRequest>,
}

impl DaemonHandle {
    /// Has crops taken of whoever stands before the camera, with a label.
    ///
    /// # Errors
    /// If the label is none, the count is none, or an enrollment is going on.
    pub fn enroll(&self, label: &str, count: u32) -> Result<Enrollment, ErrorRecord> {
        let label = Label::new(label).map_err(LearningError::from)?;
        if !(1..=MAX_ENROLLED).contains(&count) {
            return Err(ErrorRecord {
                error: format!("{count} crops cannot be enrolled: take 1 to {MAX_ENROLLED}"),
                fault: FailureKind::Usage,
            });
        }
        let mut enrollment = self.enrollment();
        if let Some(going_on) = enrollment
            .as_ref()
            .filter(|enrollment| !enrollment.is_over())
        {
            let error = format!(
                "an enrollment of {} is going on: wait for its end, or end it",
                going_on.label
            );
            return Err(ErrorRecord {
                error,
                fault: FailureKind::NotNow,
            });
        }
        let new = Enrollment {
            label: label.to_string(),
            wanted: count,
            taken: 0,
            stored: 0,
        };
        *enrollment = Some(new.clone());
        Ok(new)
    }

    /// Ends the enrollment that is going on; crops that were taken are still
    /// stored. None if there has been no enrollment since the start.
    #[must_use]
    pub fn end_enrollment(&self) -> Option<Enrollment> {
        let mut enrollment = self.enrollment();
        let enrollment = enrollment.as_mut()?;
        enrollment.wanted = enrollment.wanted.min(enrollment.taken);
        Some(enrollment.clone())
    }

    /// The enrollment that is going on, or the last one.
    pub fn enrollment(&self) -> MutexGuard<'_, Option<Enrollment>> {
        // Counts that are written whole or not at all.
        let enrollment = self.enrollment.lock();
        enrollment.unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_where_it_is_configured_else_in_the_runtime_or_state_directory() {
        let state = Path::new("/state");
        let runtime = Some(OsStr::new("/run/maskd:/run/other"));
        let configured = Some(Path::new("/a.sock"));
        assert_eq!(
            socket_path(configured, runtime, state),
            Path::new("/a.sock")
        );
        assert_eq!(
            socket_path(None, runtime, state),
            Path::new("/run/maskd/control.sock")
        );
        for none in [None, Some(OsStr::new(""))] {
            assert_eq!(
                socket_path(None, none, state),
                Path::new("/state/control.sock")
            );
        }
    }
}
