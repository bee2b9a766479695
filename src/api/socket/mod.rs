//! The control socket, which serves the daemon's HTTP API on a Unix socket.
//!
//! Owns the requests, the responses, the routes, and the client that the command line
//! uses. Knows the daemon only through a [`DaemonHandle`].
//!
//! | under `/api/v1` | request body | response |
//! |---|---|---|
//! | GET `/status` | | [`Status`] |
//! | GET `/device` | | [`DeviceRecord`] |
//! | POST `/device/led-test` | | [`LedTestRecord`] |
//! | GET `/events` | | a list of [`Event`], newest first |
//! | GET `/counts` | [`CountsQuery`] as a query | [`CountsRecord`], or CSV |
//! | GET `/samples`, `/samples?label=L` | [`SampleFilter`] as a query | a list of [`SampleRecord`] |
//! | GET `/samples/stats` | | [`CountRecord`] by label |
//! | GET `/samples/unused` | | a list of [`UnusedRecord`] |
//! | GET `/samples/{id}/picture` | | the bytes of the file |
//! | GET `/queue`, `/queue?groups=N` | | [`QueueRecord`] |
//! | POST `/samples/label` | [`LabelRequest`] | [`LabelResult`] |
//! | POST `/samples/undo` | [`UndoRequest`] | [`UndoRecord`] |
//! | POST `/samples/restore` | [`RestoreRequest`] | [`LabelResult`] |
//! | POST `/samples/upload` | a picture | [`UploadRecord`] |
//! | POST `/samples/import` | `FolderRequest` | [`ImportRecord`] |
//! | POST `/samples/export` | `FolderRequest` | [`ExportRecord`] |
//! | POST `/samples/purge` | [`Purge`] | [`RemovedRecord`] |
//! | POST `/enroll` | [`EnrollRequest`] | [`Enrollment`] |
//! | GET, DELETE `/enroll` | | [`Enrollment`], the current or last one |
//! | GET, DELETE `/enroll/{id}` | | [`Enrollment`], only the one with this ID |
//! | POST `/refit` | none, or [`TrainRequest`] | [`RefitRecord`], when the refit is done |
//! | POST `/classify` | a picture | [`PictureRecord`] |
//! | GET `/heads` | | a list of [`HeadRecord`] |
//! | GET `/heads/history` | | a list of [`SwitchRecord`], oldest first |
//! | GET `/heads/{number}` | | [`HeadRecord`] |
//! | GET `/heads/{number}/file` | | the bytes of the file |
//! | GET, PATCH `/settings` | [`Change`] | [`SettingsRecord`] |
//! | POST `/heads/{number}/export` | `FileRequest` | [`HeadRecord`] |
//! | POST `/heads/import` | `FileRequest` | [`HeadInUse`] |
//! | POST `/heads/{number}/use` | | [`HeadInUse`] |
//! | POST `/heads/rollback` | [`RollbackRequest`] | [`HeadInUse`] |
//!
//! Bodies are JSON objects of at most 64 KiB, or a picture of at most 8 MiB. The response to a failed request is an
//! [`ErrorRecord`] with an HTTP status that matches its `fault`. The user and the group
//! of the socket may send any request; there is no other check. The daemon itself reads
//! and writes the folders and files that a request names. Their paths must therefore be
//! absolute, and the daemon's user must have access to them. Requests that name a path
//! are accepted only on the socket. All other requests are also accepted on the page
//! (`web`).
//!
//! The file work of a request runs on a different thread than the one that serves
//! requests. A client that sends or reads nothing for ten seconds is disconnected. An
//! import or an export ends when its client disconnects, but the pictures that were
//! already copied are kept. If several clients request a refit before it starts, all of
//! them get the result of the same refit. The refit does not start if all of these
//! clients have disconnected.
//!
//! [`Event`]: crate::events::Event
//! [`CountsQuery`]: crate::counts::query::CountsQuery
//! [`CountsRecord`]: crate::counts::query::CountsRecord
//! [`SampleFilter`]: crate::learning::SampleFilter
//! [`SampleRecord`]: crate::learning::SampleRecord
//! [`CountRecord`]: crate::learning::CountRecord
//! [`RefitRecord`]: crate::learning::RefitRecord
//! [`Enrollment`]: crate::learning::Enrollment
//! [`LabelResult`]: crate::learning::LabelResult
//! [`UndoRecord`]: crate::learning::UndoRecord
//! [`ImportRecord`]: crate::learning::ImportRecord
//! [`ExportRecord`]: crate::learning::ExportRecord
//! [`Purge`]: crate::learning::Purge
//! [`RemovedRecord`]: crate::learning::RemovedRecord
//! [`UnusedRecord`]: crate::learning::UnusedRecord
//! [`SwitchRecord`]: crate::learning::SwitchRecord
//! [`HeadRecord`]: crate::learning::HeadRecord
//! [`PictureRecord`]: crate::decision::frame_result::PictureRecord
//! [`QueueRecord`]: crate::learning::QueueRecord
//! [`Change`]: crate::config::settings::Change
//! [`SettingsRecord`]: crate::config::settings::SettingsRecord

mod answer;
mod board;
mod classify;
mod client;
mod counts;
mod device;
mod device_routes;
mod handle;
mod listener;
mod page_url;
mod server;
mod types;
mod upload;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::learning::FailureKind;

pub use answer::ErrorResponse;
pub use board::{BoardRecord, ThrottlingRecord};
pub use client::Client;
pub use device::{
    BrokerConnection, BrokerRecord, DeviceAccess, DeviceFacts, DeviceRecord, DiskRecord,
    FleetRecord, LedTestRecord, LedTestRequest, PinRecord, PinsRecord,
};
pub(crate) use handle::{CLASSIFY_CHANNEL, PictureTask, lock_enrollments};
pub use handle::{
    ClassifyRequest, DaemonHandle, JudgeRequest, MAX_ENROLLED, RefitAnswer, RefitRequest,
};
pub use listener::{Socket, bind};
pub(crate) use page_url::PageUrl;
pub use server::{open_routes, serve};
pub(crate) use types::MAX_UPLOADED_FACES;
pub use types::{
    EnrollRequest, ErrorRecord, HeadInUse, LabelRequest, Live, LiveCamera, LiveCapture, LiveDoor,
    LiveInference, LiveLearning, LiveRetention, LiveTimes, LiveWindow, RefitProgress,
    RestoreRequest, RollbackRequest, Status, TrainRequest, UndoRequest, UploadRecord, UploadedFace,
};

/// File name of the socket.
pub const SOCKET: &str = "control.sock";

/// Why a request got no valid response, or why the socket cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another daemon listens on the socket.
    #[error("a daemon is already listening on {path}: stop it first")]
    InUse {
        /// Path of the socket.
        path: String,
    },
    /// The path is too long for a socket.
    #[error(
        "the path of the socket {path} is too long for a socket (at most 107 bytes): \
         set control.socket in the config"
    )]
    TooLong {
        /// Path of the socket.
        path: String,
    },
    /// Another program removed or replaced the socket's file.
    #[error("the socket {path} was removed or replaced by another program")]
    Removed {
        /// Path of the socket.
        path: String,
    },
    /// The path belongs to a file that is not a socket.
    #[error("{path} exists and is not a socket: remove it, or set control.socket in the config")]
    NoSocket {
        /// Path of the file.
        path: String,
    },
    /// The system refused the operation.
    #[error("cannot {action} the socket {path}: {source}")]
    Io {
        /// The operation as a verb, such as "create" or "connect to".
        action: &'static str,
        /// Path of the socket.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The daemon refused the request.
    #[error("{sentence}")]
    Refused {
        /// The daemon's error message, which is one sentence.
        sentence: String,
        /// The kind of the failure.
        fault: FailureKind,
    },
    /// The daemon did not respond.
    #[error("the daemon at {path} does not answer: {why}")]
    Lost {
        /// Path of the socket.
        path: String,
        /// The reason.
        why: String,
    },
    /// The daemon accepts connections but does not respond in time.
    #[error(
        "the daemon at {path} has not answered for {seconds} seconds: if it goes on, look at its \
         log and restart it"
    )]
    TimeOut {
        /// Path of the socket.
        path: String,
        /// The time limit.
        seconds: u64,
    },
    /// The daemon's response cannot be parsed.
    #[error(
        "the daemon at {path} sent an answer that this version of maskd does not understand: restart the daemon after an update"
    )]
    Answer {
        /// Path of the socket.
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

    /// The kind of the failure.
    #[must_use]
    pub fn fault(&self) -> FailureKind {
        match self {
            ControlError::Refused { fault, .. } => *fault,
            ControlError::InUse { .. } => FailureKind::NotNow,
            ControlError::TooLong { .. } | ControlError::NoSocket { .. } => FailureKind::Usage,
            ControlError::Io { .. }
            | ControlError::Removed { .. }
            | ControlError::Lost { .. }
            | ControlError::TimeOut { .. }
            | ControlError::Answer { .. } => FailureKind::Unavailable,
        }
    }
}

/// Returns the path of the daemon's socket. This is the configured path if there is one.
/// Otherwise, it is `control.sock` in the runtime directory, which is the first directory
/// in systemd's `RUNTIME_DIRECTORY`. Without a runtime directory, it is `control.sock` in
/// the state directory.
#[must_use]
pub fn socket_path(configured: Option<&Path>, runtime: Option<&OsStr>, state: &Path) -> PathBuf {
    if let Some(path) = configured {
        return path.to_owned();
    }
    let first = runtime.and_then(|folders| std::env::split_paths(folders).next());
    let folder = first.filter(|folder| !folder.as_os_str().is_empty());
    folder.as_deref().unwrap_or(state).join(SOCKET)
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
