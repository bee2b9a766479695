//! The handle through which the APIs (the socket, the page, and MQTT) access the daemon.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::device::DeviceAccess;
use super::types::{ErrorRecord, Live, UploadRecord};
use crate::api::connections::{PICTURE_PLACES, PicturePlace};
use crate::config::settings::Settings;
use crate::counts::ledger::{Precision, SharedLedger};
use crate::decision::frame_result::PictureRecord;
use crate::events::EventLog;
use crate::learning::Enrollment;
use crate::learning::enrollment::{Enrollments, TimeLimit};
use crate::learning::{
    FailureKind, InUse, Learning, LearningAccess, LearningError, RefitRecord, RefitTrigger,
};
use crate::onnx::Label;

/// Maximum number of crops in an enrollment.
pub const MAX_ENROLLED: u32 = 1000;

/// The channel on which the refit thread sends back the record of a refit, or the reason why
/// there is no record.
pub type RefitAnswer = oneshot::Sender<Result<RefitRecord, ErrorRecord>>;

/// A request for a refit, which the refit thread handles.
#[derive(Debug)]
pub struct RefitRequest {
    /// Who requested the refit, and whether the labels were checked.
    pub trigger: RefitTrigger,
    /// Channel for the result.
    pub answer: RefitAnswer,
}

/// A request to judge a head from another device, which the refit thread handles. The
/// refit thread sends back the record of the decision, or the reason why there is no
/// record.
#[derive(Debug)]
pub struct JudgeRequest {
    /// Name of the other device in log messages.
    pub name: String,
    /// Public key of the other device, in hexadecimal.
    pub origin: String,
    /// Content of the head's file.
    pub head: Vec<u8>,
    /// Channel for the result.
    pub answer: RefitAnswer,
}

/// Capacity of the channel of requests. Each request has a place, so the channel is never
/// full.
pub(crate) const CLASSIFY_CHANNEL: usize = PICTURE_PLACES;

/// What to do with a picture, with the channel for the result. If the channel is closed, nobody
/// waits for the result anymore.
#[derive(Debug)]
pub(crate) enum PictureTask {
    /// Classify the faces.
    Classify(oneshot::Sender<Result<PictureRecord, ErrorRecord>>),
    /// Keep the faces as samples.
    Keep(oneshot::Sender<Result<UploadRecord, ErrorRecord>>),
}

impl PictureTask {
    /// Whether nobody waits for the result anymore.
    pub(crate) fn is_abandoned(&self) -> bool {
        match self {
            PictureTask::Classify(answer) => answer.is_closed(),
            PictureTask::Keep(answer) => answer.is_closed(),
        }
    }
}

/// A request to classify a picture or to keep its faces, which the classify thread handles.
#[derive(Debug)]
pub struct ClassifyRequest {
    /// The encoded picture.
    pub(crate) picture: Bytes,
    /// What to do with the picture.
    pub(crate) task: PictureTask,
    /// Held until the picture is no longer in memory.
    pub(crate) place: PicturePlace,
}

/// Access to the running daemon. All clones refer to the same daemon.
#[derive(Debug, Clone)]
pub struct DaemonHandle {
    /// Access to samples and heads; available as soon as the state directory can be used.
    pub learning: LearningAccess,
    /// The live state of the daemon.
    pub live: watch::Receiver<Live>,
    /// The head in use. Operations on `learning` can change the head in use.
    pub head: watch::Receiver<Arc<InUse>>,
    /// The current enrollment, or the last one if none is running.
    pub enrollments: Arc<Mutex<Enrollments>>,
    /// Sends refit requests to the refit thread.
    pub refit: mpsc::Sender<RefitRequest>,
    /// The settings that can change while the daemon runs.
    pub settings: Arc<Settings>,
    /// Sends the refit thread requests to judge heads from other devices.
    pub judge: mpsc::Sender<JudgeRequest>,
    /// Sends pictures to the thread that classifies them.
    pub classify: mpsc::Sender<ClassifyRequest>,
    /// The newest events, and the state of their receivers.
    pub events: EventLog,
    /// The counts of passages, or `None` if nothing is counted.
    pub counts: Option<SharedLedger>,
    /// What the owner sees of the device.
    pub device: DeviceAccess,
}

impl DaemonHandle {
    /// Returns the samples and heads.
    ///
    /// # Errors
    /// Returns [`LearningError::Off`] while the state directory cannot be used.
    pub fn learning(&self) -> Result<&Learning, LearningError> {
        Ok(self.learning.get()?)
    }

    /// Starts an enrollment, in which crops of the nearest face get this label. The
    /// enrollment ends after `longest`, or when `lease` expires without a call to
    /// [`renew_enrollment`](DaemonHandle::renew_enrollment).
    ///
    /// # Errors
    /// Returns an error if the label is invalid, the count is not between 1 and 1000,
    /// another enrollment is running, or nothing can be stored.
    pub fn enroll(
        &self,
        label: &str,
        count: u32,
        longest: Duration,
        lease: Option<Duration>,
    ) -> Result<Enrollment, ErrorRecord> {
        let label = Label::new(label).map_err(LearningError::from)?;
        if !(1..=MAX_ENROLLED).contains(&count) {
            let sentence = format!("cannot enroll {count} crops: take 1 to {MAX_ENROLLED}");
            return Err(ErrorRecord::new(FailureKind::Usage, sentence));
        }
        self.check_can_store()?;
        let mut enrollments = lock_enrollments(&self.enrollments);
        let limit = TimeLimit::new(now(), longest, lease);
        enrollments.start(&label, count, limit).ok_or_else(|| {
            let active = enrollments.active().map(|active| active.label.as_str());
            let sentence = format!(
                "an enrollment of {} is in progress: wait until it is complete, or end it",
                active.unwrap_or_default()
            );
            ErrorRecord::new(FailureKind::NotNow, sentence)
        })
    }

    /// Whether face pictures can be stored, regardless of whether the settings turn capture on.
    ///
    /// # Errors
    /// Returns why they cannot.
    pub(crate) fn check_can_store(&self) -> Result<(), ErrorRecord> {
        self.learning()?;
        let is_rounded = |counts: &SharedLedger| counts.lock().precision() == Precision::Rounded;
        if self.counts.as_ref().is_some_and(is_rounded) {
            let sentence = "no face pictures are kept in statistics mode (mode = \"count\")";
            return Err(ErrorRecord::new(FailureKind::NotNow, sentence));
        }
        if let Some(why) = &self.live.borrow().capture.off_because {
            let sentence = format!("no face pictures can be stored: {why}");
            return Err(ErrorRecord::new(FailureKind::NotNow, sentence));
        }
        Ok(())
    }

    /// Ends the current enrollment. Crops that were already taken are still stored.
    /// Returns `None` if there has been no enrollment since the daemon started.
    #[must_use]
    pub fn end_enrollment(&self) -> Option<Enrollment> {
        lock_enrollments(&self.enrollments).end()
    }

    /// Ends the enrollment `id` as [`end_enrollment`](DaemonHandle::end_enrollment) does.
    /// If `id` is not the latest enrollment, does nothing and returns `None`.
    #[must_use]
    pub fn end_enrollment_of(&self, id: u64) -> Option<Enrollment> {
        let mut enrollments = lock_enrollments(&self.enrollments);
        enrollments.last().filter(|last| last.id == id)?;
        enrollments.end()
    }

    /// The current enrollment, or the last one if none is running.
    #[must_use]
    pub fn enrollment(&self) -> Option<Enrollment> {
        lock_enrollments(&self.enrollments).last().cloned()
    }

    /// Renews the lease of the enrollment `id`, because its client is still connected.
    /// Returns the enrollment, or `None` if `id` is not the latest enrollment.
    #[must_use]
    pub fn renew_enrollment(&self, id: u64) -> Option<Enrollment> {
        let mut enrollments = lock_enrollments(&self.enrollments);
        enrollments.renew(id, now());
        enrollments.last().filter(|last| last.id == id).cloned()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "enrollments expire in real time, regardless of the requests"
)]
fn now() -> Instant {
    Instant::now()
}

/// Locks the enrollments, and ends the active one if its time limit or lease has expired.
pub(crate) fn lock_enrollments(enrollments: &Mutex<Enrollments>) -> MutexGuard<'_, Enrollments> {
    // A poisoned lock is safe to use because the enrollments are plain counts, which a
    // panic cannot leave half changed.
    let mut enrollments = enrollments.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(ended) = enrollments.expire(now()) {
        tracing::info!(
            label = ended.label,
            taken = ended.taken,
            "the enrollment has ended: its time is over, or its client is gone"
        );
    }
    enrollments
}
