//! Keeps the faces in a picture that a client sends, so that a person can label them.
//!
//! The faces are found and embedded on the classify thread, and stored by the capture thread,
//! which also applies the limits on disk space. The picture itself is not stored.

use axum::body::Bytes;
use axum::extract::State;
use axum::{Extension, Json};

use super::answer::ErrorResponse;
use super::classify::process;
use super::handle::PictureTask;
use super::types::UploadRecord;
use super::{DaemonHandle, ErrorRecord};
use crate::api::connections::PicturePlace;
use crate::learning::FailureKind;

/// Finds the faces in a picture, and keeps a face picture of each as a sample without a label.
/// Label the samples with `POST /api/v1/samples/label`. The picture itself is not stored.
#[utoipa::path(
    post, path = "/samples/upload", tag = "samples",
    summary = "Keep the faces in a picture as samples",
    request_body(content = Vec<u8>, content_type = "image/*", description = "A JPEG, PNG, or WebP picture of at most 8 MiB"),
    responses(
        (status = 200, body = UploadRecord, description = "The faces in the picture, and their samples"),
        (status = 409, body = ErrorRecord, description = "No face pictures can be stored at this time", example = json!({
            "error": "no face pictures can be stored: the disk is full",
            "fault": "not-now"
        })),
        (status = 413, body = ErrorRecord, description = "The picture is too large", example = json!({
            "error": "the request body is incomplete or larger than 8388608 bytes",
            "fault": "usage"
        })),
        (status = 415, body = ErrorRecord, description = "The request body is not a picture", example = json!({
            "error": "the request body is not a JPEG, PNG, or WebP picture",
            "fault": "usage"
        })),
        (
            status = 503, body = ErrorRecord, description = "Other pictures are being processed",
            headers(("retry-after" = u64, description = "Seconds to wait before the next attempt")),
        ),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
pub(super) async fn upload(
    State(handle): State<DaemonHandle>,
    Extension(place): Extension<PicturePlace>,
    picture: Bytes,
) -> Result<Json<UploadRecord>, ErrorResponse> {
    handle.check_can_store()?;
    if !handle.live.borrow().capture.pictures {
        let sentence = "only features are kept (capture.keep = \"features\"), so nobody could \
                        label an uploaded picture: set it to \"pictures\"";
        return Err(ErrorResponse::new(FailureKind::NotNow, sentence));
    }
    let record = process(&handle, place, picture, PictureTask::Keep).await?;
    Ok(Json(record))
}
