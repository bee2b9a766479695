//! Stores the faces of pictures that people upload.
//!
//! The faces come from the classify thread. They are subject to the same limits on disk space as
//! the crops from the camera.

use super::SampleWriter;
use crate::api::socket::ErrorRecord;
use crate::daemon::now;
use crate::daemon::upload_request::{UploadRequest, UploadedCrop};
use crate::learning::FailureKind;
use crate::learning::samples::Added;
use crate::platform::clock::ClockReading;

impl SampleWriter {
    pub(super) fn answer_upload(&mut self, upload: UploadRequest) {
        let UploadRequest { crops, answer } = upload;
        // The client may have disconnected in the meantime.
        let _ = answer.send(self.add(&crops));
    }

    /// Stores the faces of an uploaded picture. If one of them cannot be stored, the faces that
    /// were stored before remain.
    pub(super) fn add(&mut self, crops: &[UploadedCrop]) -> Result<Vec<Added>, ErrorRecord> {
        let access = self.learning.clone();
        let learning = access.get()?;
        let mut added = Vec::with_capacity(crops.len());
        for UploadedCrop {
            crop,
            quality,
            feature,
        } in crops
        {
            if self.room == 0 {
                self.apply_limits();
            }
            if self.is_full || self.paused_until.is_some_and(|until| now() < until) {
                return Err(self.no_room());
            }
            match learning.add(crop, quality, feature, ClockReading::now()) {
                Ok(stored) => {
                    let count = u64::from(stored.is_new);
                    self.room = self.room.saturating_sub(count);
                    self.live.send_modify(|live| live.capture.stored += count);
                    added.push(stored);
                }
                Err(error) => {
                    self.pause(&error);
                    return Err(error.into());
                }
            }
        }
        Ok(added)
    }

    /// Returns why nothing is stored at the moment.
    fn no_room(&self) -> ErrorRecord {
        let why = self.live.borrow().capture.off_because.clone();
        let why = why.as_deref().unwrap_or("the disk refused the last ones");
        let sentence = format!("no face pictures can be stored: {why}");
        ErrorRecord::new(FailureKind::NotNow, sentence)
    }
}
