//! What the daemon gives to its APIs: the socket, the page and MQTT.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};

use super::types::{ErrorRecord, Live};
use crate::config::settings::Settings;
use crate::learning::Enrollment;
use crate::learning::enrollment::Enrollments;
use crate::learning::{FailureKind, InUse, Learning, LearningError, RefitRecord};
use crate::onnx::Label;

/// Maximum number of crops of an enrollment.
pub const MAX_ENROLLED: u32 = 1000;

/// Asks the refit thread for a refit. The answer is its record, or why there is
/// none.
pub type RefitRequest = oneshot::Sender<Result<RefitRecord, ErrorRecord>>;

/// Asks the refit thread to judge a head that another device has learned. The answer
/// is the record of the decision, or why there is none.
#[derive(Debug)]
pub struct JudgeRequest {
    /// Name of the device in log messages.
    pub name: String,
    /// Public key of the device, in hexadecimal.
    pub origin: String,
    /// Content of the head's file.
    pub head: Vec<u8>,
    /// Where the answer goes.
    pub answer: RefitRequest,
}

/// Access to the running daemon. Clones share it.
#[derive(Debug, Clone)]
pub struct DaemonHandle {
    /// Samples and heads.
    pub learning: Arc<Learning>,
    /// What the daemon is doing.
    pub live: watch::Receiver<Live>,
    /// To the inference thread: the head in use. After a change by `learning`, call
    /// [`hand_over`](super::hand_over).
    pub head: Arc<watch::Sender<Arc<InUse>>>,
    /// The enrollment that is going on, or the last one.
    pub enrollments: Arc<Mutex<Enrollments>>,
    /// To the refit thread.
    pub refit: mpsc::Sender<RefitRequest>,
    /// The settings that can change while the daemon runs.
    pub settings: Arc<Settings>,
    /// To the refit thread.
    pub judge: mpsc::Sender<JudgeRequest>,
}

impl DaemonHandle {
    /// Starts an enrollment: crops of the nearest face get this label.
    ///
    /// # Errors
    /// If the label is invalid, the count is not 1 to 1000, or an enrollment is going
    /// on.
    pub fn enroll(&self, label: &str, count: u32) -> Result<Enrollment, ErrorRecord> {
        let label = Label::new(label).map_err(LearningError::from)?;
        if !(1..=MAX_ENROLLED).contains(&count) {
            return Err(ErrorRecord {
                error: format!("cannot enroll {count} crops: take 1 to {MAX_ENROLLED}"),
                fault: FailureKind::Usage,
            });
        }
        let mut enrollments = self.lock_enrollments();
        enrollments.start(&label, count).ok_or_else(|| {
            let active = enrollments.active().map(|active| active.label.as_str());
            ErrorRecord {
                error: format!(
                    "an enrollment of {} is going on: wait until it is complete, or end it",
                    active.unwrap_or_default()
                ),
                fault: FailureKind::NotNow,
            }
        })
    }

    /// Ends the enrollment that is going on; crops that were taken are still
    /// stored. `None` if there has been no enrollment since the start.
    #[must_use]
    pub fn end_enrollment(&self) -> Option<Enrollment> {
        self.lock_enrollments().end()
    }

    /// The enrollment that is going on, or the last one.
    #[must_use]
    pub fn enrollment(&self) -> Option<Enrollment> {
        self.lock_enrollments().last().cloned()
    }

    fn lock_enrollments(&self) -> MutexGuard<'_, Enrollments> {
        // Plain counts: a panic elsewhere leaves none of them half changed.
        let enrollments = self.enrollments.lock();
        enrollments.unwrap_or_else(PoisonError::into_inner)
    }
}
