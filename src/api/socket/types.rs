//! The JSON types of the API.
//!
//! Their format is stable. `docs/openapi.json` describes the types that the page also
//! uses.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::board::BoardRecord;
use crate::counts::Passages;
use crate::decision::frame_result::FaceRecord;
use crate::events::ReceiverRecord;
use crate::indicate::{DoorPosition, UnlockReason};
use crate::learning::Enrollment;
use crate::learning::{
    CountRecord, FailureKind, LabelAction, LearningError, ProgressRecord, RefitRecord,
    SampleSelector,
};
use crate::platform::text_code::TextCode;

/// The state of the daemon, its samples and its learning. This format is stable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// The state directory of the daemon.
    #[schema(value_type = String)]
    pub state: PathBuf,
    /// The address of the page; absent if there is no page, or if this machine has no address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
    /// What the daemon is doing.
    pub live: Live,
    /// Number of samples by label. Samples without a label are counted under
    /// `unlabelled`.
    pub samples: BTreeMap<String, CountRecord>,
    /// The current enrollment, or the last one if none is running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enrollment: Option<Enrollment>,
    /// Number of labels assigned since the last refit that was accepted or refused.
    pub new_labels: usize,
    /// The people that are labeled so far, for each label of the model that a refit would
    /// train. Empty while the state directory cannot be used.
    #[serde(default)]
    pub progress: Vec<ProgressRecord>,
    /// The result of the last refit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_refit: Option<RefitRecord>,
    /// The receivers of events, in the order of the config.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub receivers: Vec<ReceiverRecord>,
    /// The people who have passed today. In statistics mode, only hours that are over count.
    /// Absent if passages are not counted, or the date is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passages_today: Option<Passages>,
}

/// A request to label or delete samples.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelRequest {
    /// The samples to label or delete.
    pub chosen: SampleSelector,
    /// What to do with the samples.
    pub mark: LabelAction,
    /// Number of the action that this request continues. A client that labels more samples
    /// than fit into a request passes the number from the first response, so that all
    /// requests are taken back as one action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<u64>,
}

/// A request to take a labeling action back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UndoRequest {
    /// Number of the action, from the response to the labeling. The last action if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<u64>,
}

/// A request to restore discarded samples.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreRequest {
    /// Ids of the samples.
    pub ids: Vec<String>,
}

/// A request that names a folder for the daemon to read or write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FolderRequest {
    /// An absolute path.
    pub(crate) folder: PathBuf,
}

/// A request that names a file for the daemon to read or write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileRequest {
    /// An absolute path.
    pub(crate) path: PathBuf,
}

/// A request to take crops of the person in front of the camera and to label them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrollRequest {
    /// The label to assign to the crops.
    pub label: String,
    /// Number of crops to take, from 1 to 1000.
    pub count: u32,
    /// The enrollment ends after this many seconds even if it is not complete, because
    /// the next face may belong to another person. The value is between 1 and 65,535; the
    /// default is 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u16>,
    /// The enrollment also ends if no client requests `/enroll/{id}` for this many
    /// seconds, for example because the client has crashed. The value is between 1 and
    /// 65,535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_seconds: Option<u16>,
}

/// Maximum number of faces in an uploaded picture. A picture of a crowd is not useful, because
/// a person has to label each face.
pub(crate) const MAX_UPLOADED_FACES: usize = 16;

/// The faces in an uploaded picture. This format is stable.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(example = json!({
    "width": 800,
    "height": 600,
    "faces": [{
        "id": "import-3f0c9a1be27d5846",
        "new": true,
        "face": {
            "box": [310.2, 120.5, 142.0, 180.3],
            "score": 0.97,
            "landmarks": [[350.1, 190.2], [412.7, 188.9], [381.0, 225.4], [356.3, 261.8], [405.9, 260.2]],
            "probabilities": { "with_mask": 0.93, "without_mask": 0.07 },
            "verdict": "with_mask"
        }
    }]
}))]
pub struct UploadRecord {
    /// Width of the picture in pixels.
    pub width: u32,
    /// Height of the picture in pixels.
    pub height: u32,
    /// The faces that were found, the one with the best detector score first. Empty if no
    /// face was found; then nothing is stored.
    pub faces: Vec<UploadedFace>,
}

/// A face in an uploaded picture, and its sample. This format is stable.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct UploadedFace {
    /// Id of the sample, to label or discard it.
    pub id: String,
    /// Whether the sample is new. Otherwise, the same face picture was already there, and
    /// keeps its label.
    pub new: bool,
    /// The face, as the model in use sees it.
    pub face: FaceRecord,
}

/// A request to train on this device. A request without a body has the default values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainRequest {
    /// Whether the owner vouches for the labels. If the labels look wrong, the outcome then
    /// contains a warning, and the new model is not refused for that reason.
    #[serde(default)]
    pub labels_checked: bool,
}

/// A request to go back to an earlier head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// Number of steps to go back. Each step goes from a head to its parent.
    pub steps: u32,
}

/// The head in use. This format is stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeadInUse {
    /// Number of the head; absent for the built-in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<u32>,
}

/// Why a request failed. This format is stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorRecord {
    /// A one-sentence error message.
    pub error: String,
    /// The kind of the failure.
    pub fault: FailureKind,
    /// What is wrong with each field of the request, by the name of the field. Each text
    /// continues a sentence that begins with the name. Empty unless settings are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, String>,
}

impl ErrorRecord {
    /// Creates a record that names no field of the request.
    #[must_use]
    pub fn new(fault: FailureKind, error: impl Into<String>) -> ErrorRecord {
        ErrorRecord {
            error: error.into(),
            fault,
            fields: BTreeMap::new(),
        }
    }
}

impl From<LearningError> for ErrorRecord {
    fn from(error: LearningError) -> ErrorRecord {
        ErrorRecord::new(error.kind(), error.to_string())
    }
}

/// What the daemon is currently doing. This format is stable.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Live {
    /// The current decision. In statistics mode, it is `idle` or `fault`.
    pub decision: String,
    /// Whether maskd only counts passages. Nothing in the API then tells about a single
    /// person. Absent if it does not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub statistics_mode: bool,
    /// The state of the camera.
    #[serde(flatten)]
    pub camera: LiveCamera,
    /// Statistics of the inference thread.
    #[serde(flatten)]
    pub inference: LiveInference,
    /// The head in use and the state of training.
    #[serde(flatten)]
    pub learning: LiveLearning,
    /// The state of capturing.
    pub capture: LiveCapture,
    /// The state of the limits on age and disk space; absent until they have been applied
    /// for the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<LiveRetention>,
    /// The state of the door; absent if there is no relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub door: Option<LiveDoor>,
    /// What the time of day allows; absent if nothing in the config depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<LiveTimes>,
    /// The state of the board.
    pub board: BoardRecord,
    /// What needs attention, as a sentence for each topic: `config`, `control`, `events`,
    /// `mqtt`, `page`, `settings`, or `sound`. A problem stays here until it is solved.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub problems: BTreeMap<String, String>,
}

/// What `[times]` and the quiet hours allow, as part of [`Live`]. This format is stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiveTimes {
    /// Whether the clock is synchronized with a time server. If not, only the quiet hours
    /// apply.
    pub clock_synchronized: bool,
    /// Whether the device has a time zone. If not, only the quiet hours apply, in UTC.
    pub time_zone_known: bool,
    /// Whether the LEDs show the decision.
    pub indicate: LiveWindow,
    /// Whether the door locks.
    pub lock: LiveWindow,
    /// Whether face pictures may be captured. This does not depend on whether the settings
    /// turn capture on.
    pub capture: LiveWindow,
    /// Whether the buzzer and the sounds are on.
    pub sound: LiveWindow,
}

/// Whether an activity is on at this time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiveWindow {
    /// Whether the activity is on.
    pub on: bool,
    /// When this changes, in local time, such as `2026-11-30T19:00:00+01:00`; absent if not
    /// within two weeks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_change: Option<String>,
}

/// The door, as part of [`Live`]. This format is stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiveDoor {
    /// Whether the lock is unlocked.
    pub unlocked: bool,
    /// Why the lock is unlocked; absent if it is locked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlocked_by: Option<UnlockReason>,
    /// Whether the door is open; absent if it has no contact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<DoorPosition>,
    /// Whether the release line is active now or cannot be read.
    pub released: bool,
    /// Whether the door has been open for longer than `indicate.held-open-ms`.
    pub held_open: bool,
    /// Number of times that the door was held open since the daemon started.
    pub held_open_warnings: u64,
}

/// The camera, as part of [`Live`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiveCamera {
    /// Whether the camera is lost and is being reconnected.
    #[serde(rename = "camera_lost")]
    pub lost: bool,
    /// Number of times that the camera has been lost since the daemon started.
    #[serde(rename = "camera_losses")]
    pub losses: u64,
    /// Why the camera was lost the last time; absent if it was never lost.
    #[serde(
        rename = "camera_lost_because",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub lost_because: Option<String>,
    /// The machine-readable form of `camera_lost_because`; absent for rare reasons.
    #[serde(
        rename = "camera_lost_code",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub lost_code: Option<TextCode>,
}

/// The inference thread, as part of [`Live`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LiveInference {
    /// Number of frames processed since the daemon started.
    pub frames: u64,
    /// Number of frames that were replaced by newer ones before they were processed.
    pub skipped: u64,
    /// Number of frames on which the face detector ran. In the other frames, nothing
    /// moved.
    pub detections: u64,
    /// Number of faces that were classified. The other faces already had a settled
    /// verdict or were unsure.
    pub classified: u64,
    /// Number of faces in the newest frame.
    pub faces: usize,
    /// Number of frames processed per second, averaged over about ten frames.
    pub frames_per_second: f32,
    /// Time from the capture of the newest frame to its verdicts, in milliseconds.
    pub latency_ms: f32,
}

/// The head in use and the state of training, as part of [`Live`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiveLearning {
    /// Number of the head in use; absent for the built-in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<u32>,
    /// Labels of the head in use.
    pub labels: Vec<String>,
    /// Whether a refit is running.
    pub refitting: bool,
    /// How far the refit is; absent if none is running.
    #[serde(
        rename = "refit_progress",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub progress: Option<RefitProgress>,
    /// Why nothing is learned; absent if the state directory can be used.
    #[serde(rename = "learning_off", skip_serializing_if = "Option::is_none")]
    pub off_because: Option<String>,
    /// Why the intended head is not in use; absent if it is.
    #[serde(rename = "head_note", skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Why training is waiting; absent if it is not.
    #[serde(rename = "learning_waits", skip_serializing_if = "Option::is_none")]
    pub waits_because: Option<String>,
    /// The machine-readable form of `learning_waits`.
    #[serde(
        rename = "learning_waits_code",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub waits_code: Option<TextCode>,
}

/// How far a refit is, as part of [`Live`]. This format is stable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefitProgress {
    /// Time since the refit started, in seconds.
    pub seconds: u64,
    /// Number of steps so far. A step takes a fraction of a second on most boards.
    pub steps: u64,
    /// Number of steps of the last refit; absent if it is the first one since the daemon
    /// started. Refits with a similar number of labels take a similar number of steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_steps: Option<u64>,
}

/// The state of capturing. This format is stable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiveCapture {
    /// Whether crops of faces are captured.
    pub on: bool,
    /// Whether pictures are stored rather than only features.
    pub pictures: bool,
    /// Why no crops can be stored; absent if they can be. This does not depend on whether
    /// the settings turn capture on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub off_because: Option<String>,
    /// The machine-readable form of `off_because`; absent for rare reasons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub off_code: Option<TextCode>,
    /// Number of crops stored since the daemon started.
    pub stored: u64,
    /// Number of crops dropped since the daemon started because the disk was too slow or
    /// could not be written to.
    pub dropped: u64,
}

impl LiveCapture {
    /// Records that crops can be stored, and whether they are captured.
    pub(crate) fn can_store(&mut self, on: bool) {
        (self.on, self.off_because, self.off_code) = (on, None, None);
    }

    /// Records why no crops can be stored.
    pub(crate) fn cannot_store(&mut self, because: String, code: Option<TextCode>) {
        (self.on, self.off_because, self.off_code) = (false, Some(because), code);
    }
}

/// The state of the limits on age and disk space. This format is stable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LiveRetention {
    /// Whether the clock is synchronized with a time server and has not jumped within the
    /// last day. If not, the age of a face picture includes only the time during which
    /// the daemon runs.
    pub clock_synchronized: bool,
    /// Number of labeled face pictures that are about to be deleted because of the age
    /// limit.
    pub labeled_ending: usize,
    /// Hours until the first of these pictures is deleted, rounded up; absent if there
    /// are no such pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_ends_in_hours: Option<u64>,
    /// Number of files that do not count toward the limit on disk space because they are
    /// too large to be face pictures from the camera.
    pub not_counted: usize,
}
