//! The daemon's HTTP API on a Unix socket.
//!
//! Owns requests, answers, the routes and the client that the command line
//! uses. Knows what the daemon does only by what it is handed: a desk.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::capture::Enrolment;
use crate::learning::{InUse, Learning, RefitRecord};

/// What the daemon is doing: a documented contract.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Live {
    /// The decision that is shown.
    pub decision: String,
    /// Whether the camera is lost, and being opened anew.
    pub camera_lost: bool,
    /// Frames that were looked at.
    pub frames: u64,
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
    /// Whether a head is being learned.
    pub refitting: bool,
}

/// What is captured: a documented contract.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// Asks the trainer thread for a refit; the answer is its record, or a sentence.
pub type RefitCall = oneshot::Sender<Result<RefitRecord, String>>;

/// What the API works with.
#[derive(Debug, Clone)]
pub struct Desk {
    /// Samples and heads.
    pub learning: Arc<Learning>,
    /// What the daemon is doing.
    pub live: watch::Receiver<Live>,
    /// The head in use: whoever changes it by `learning` sends it here.
    pub head: Arc<watch::Sender<Arc<InUse>>>,
    /// The enrolment that is going on, or the last one.
    pub enrolment: Arc<Mutex<Option<Enrolment>>>,
    /// To the trainer thread.
    pub refit: mpsc::Sender<RefitCall>,
}
