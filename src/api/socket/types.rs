//! The JSON types of the API.
//!
//! They are a documented contract. `docs/openapi.json` describes the types that the page
//! also uses.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::board::BoardRecord;
use crate::learning::Enrollment;
use crate::learning::{
    CountRecord, FailureKind, LabelAction, LearningError, RefitRecord, SampleSelector,
};

/// The state of the daemon, its samples and its learning: a documented contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// The state directory of the daemon.
    #[schema(value_type = String)]
    pub state: PathBuf,
    /// What the daemon is doing.
    pub live: Live,
    /// Counts by label, those without one under `unlabelled`.
    pub samples: BTreeMap<String, CountRecord>,
    /// The enrollment that is going on, or the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enrollment: Option<Enrollment>,
    /// Labels since the last refit that came to a decision.
    pub new_labels: usize,
    /// The last refit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_refit: Option<RefitRecord>,
}

/// Asks for samples to be labelled, or deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelRequest {
    /// Which samples.
    pub chosen: SampleSelector,
    /// What to do with them.
    pub mark: LabelAction,
}

/// Names a folder for the daemon to read or write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FolderRequest {
    /// An absolute path.
    pub(crate) folder: PathBuf,
}

/// Names a file for the daemon to read or write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileRequest {
    /// An absolute path.
    pub(crate) path: PathBuf,
}

/// Asks for crops of the person before the camera, with a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrollRequest {
    /// The label that the crops get.
    pub label: String,
    /// How many crops to take; 1 to 1000.
    pub count: u32,
    /// The enrollment ends after this many seconds even if it is not complete, because
    /// the next face may be another person's; 1 to 65,535, and 30 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u16>,
    /// The enrollment also ends if nobody requests `/enroll/{id}` for this many seconds,
    /// as a client that has died; 1 to 65,535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_seconds: Option<u16>,
}

/// Asks for an earlier head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// How many times to go from a head to its parent.
    pub steps: u32,
}

/// Which head is in use: a documented contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeadInUse {
    /// Number of the head; absent for the built-in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<u32>,
}

/// Why a request was not done: a documented contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorRecord {
    /// One sentence.
    pub error: String,
    /// The kind of the failure.
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
    /// The current decision.
    pub decision: String,
    /// The camera.
    #[serde(flatten)]
    pub camera: LiveCamera,
    /// The inference thread.
    #[serde(flatten)]
    pub inference: LiveInference,
    /// The head in use, and training.
    #[serde(flatten)]
    pub learning: LiveLearning,
    /// The capture of crops.
    pub capture: LiveCapture,
    /// The limits on age and disk space; absent until they were applied for the first
    /// time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<LiveRetention>,
    /// The board.
    pub board: BoardRecord,
    /// What needs attention, as a sentence for each topic: `config`, `control`, `page` or
    /// `settings`. A problem stays here until it is solved.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub problems: BTreeMap<String, String>,
}

/// The camera, as part of [`Live`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiveCamera {
    /// Whether the camera is lost and is being reconnected.
    #[serde(rename = "camera_lost")]
    pub lost: bool,
    /// How often the camera was lost since the start.
    #[serde(rename = "camera_losses")]
    pub losses: u64,
}

/// The inference thread, as part of [`Live`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LiveInference {
    /// Frames that were processed since the start.
    pub frames: u64,
    /// Frames that were replaced by newer ones before they were processed.
    pub skipped: u64,
    /// Frames that the face detector ran on; in the others nothing moved.
    pub detections: u64,
    /// Faces that were classified; the others had a settled verdict or were
    /// unsure.
    pub classified: u64,
    /// Faces in the newest frame.
    pub faces: usize,
    /// Frames processed in a second, averaged over about ten frames.
    pub frames_per_second: f32,
    /// From the capture of the newest frame to its verdicts, in milliseconds.
    pub latency_ms: f32,
}

/// The head in use and training, as part of [`Live`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiveLearning {
    /// Number of the head in use; absent for the built-in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<u32>,
    /// Labels of the head in use.
    pub labels: Vec<String>,
    /// Whether a refit is running.
    pub refitting: bool,
    /// Why nothing is learned, while the state directory cannot be used.
    #[serde(rename = "learning_off", skip_serializing_if = "Option::is_none")]
    pub off_because: Option<String>,
    /// Why the head in use is not the one that should be, if it is not.
    #[serde(rename = "head_note", skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Why training waits, if it does.
    #[serde(rename = "learning_waits", skip_serializing_if = "Option::is_none")]
    pub waits_because: Option<String>,
}

/// The capture of crops: a documented contract.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiveCapture {
    /// Whether crops of faces are captured.
    pub on: bool,
    /// Whether pictures are stored, or only features.
    pub pictures: bool,
    /// Why no crops can be stored, whether the settings turn capture on or off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub off_because: Option<String>,
    /// Crops stored since the start.
    pub stored: u64,
    /// Crops dropped since the start, because the disk was too slow or refused.
    pub dropped: u64,
}

/// What the limits on age and disk space do: a documented contract.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiveRetention {
    /// Whether the clock is synchronized with a time server, and has not jumped within the
    /// last day. If not, the age of a face picture counts only the time that the daemon
    /// runs.
    pub clock_synchronized: bool,
    /// Labeled face pictures that will be deleted because they reach the age limit.
    pub labeled_ending: usize,
    /// Hours until the first of them is deleted, rounded up; absent if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_ends_in_hours: Option<u64>,
    /// Files that do not count toward the limit on disk space because they are too large
    /// to be face pictures from the camera.
    pub not_counted: usize,
}
