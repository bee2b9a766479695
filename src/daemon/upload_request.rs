//! The request with which the classify thread has the capture thread store the faces of an
//! uploaded picture.

use tokio::sync::oneshot;

use crate::api::socket::ErrorRecord;
use crate::frame::Crop;
use crate::frame::quality::Quality;
use crate::learning::samples::Added;
use crate::vision::embed::Feature;

/// A face in a picture that a person uploads.
pub(super) struct UploadedCrop {
    pub(super) crop: Crop,
    pub(super) quality: Quality,
    pub(super) feature: Feature,
}

/// A request to store the faces of an uploaded picture.
pub(super) struct UploadRequest {
    pub(super) crops: Vec<UploadedCrop>,
    /// Channel for the result, which has an entry for each crop.
    pub(super) answer: oneshot::Sender<Result<Vec<Added>, ErrorRecord>>,
}
