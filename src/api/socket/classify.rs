//! Classifies a picture that a client sends. The picture is not stored.
//!
//! This module passes the picture on to the thread that classifies it, and waits for the
//! result, also for [`upload`](super::upload). `api::connections` limits the size and the
//! number of the pictures.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use image::ImageFormat;
use tokio::sync::{mpsc, oneshot};

use super::answer::{ErrorResponse, PICTURE_RETRY_SECONDS};
use super::handle::{ClassifyRequest, PictureTask};
use super::{DaemonHandle, ErrorRecord};
use crate::api::connections::PicturePlace;
use crate::decision::frame_result::PictureRecord;
use crate::learning::FailureKind;

/// How long a request waits for its result. The thread that classifies pictures gets little
/// processor time while other threads keep all cores busy.
const LIMIT: Duration = Duration::from_mins(5);

/// Classifies a picture with the model and the thresholds that the daemon uses.
///
/// The response is the same as that of `maskd classify --json` for a picture from standard
/// input. The picture is not stored.
#[utoipa::path(
    post, path = "/classify", tag = "classify",
    request_body(content = Vec<u8>, content_type = "image/*", description = "A JPEG, PNG, or WebP picture of at most 8 MiB"),
    responses(
        (status = 200, body = PictureRecord, description = "The faces in the picture and the verdicts on them"),
        (
            status = 503, body = ErrorRecord, description = "Other pictures are being classified",
            headers(("retry-after" = u64, description = "Seconds to wait before the next attempt")),
        ),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
pub(super) async fn classify(
    State(handle): State<DaemonHandle>,
    Extension(place): Extension<PicturePlace>,
    picture: Bytes,
) -> Result<Json<PictureRecord>, ErrorResponse> {
    let record = process(&handle, place, picture, PictureTask::Classify).await?;
    Ok(Json(record))
}

/// Passes a picture on to the classify thread, and waits for the result. `task` makes the task
/// from the channel for the result.
pub(super) async fn process<T>(
    handle: &DaemonHandle,
    place: PicturePlace,
    picture: Bytes,
    task: impl FnOnce(oneshot::Sender<Result<T, ErrorRecord>>) -> PictureTask,
) -> Result<T, ErrorResponse> {
    let is_accepted = matches!(
        image::guess_format(&picture),
        Ok(ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::WebP)
    );
    if !is_accepted {
        let sentence = "the request body is not a JPEG, PNG, or WebP picture";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(ErrorResponse::malformed(status, sentence));
    }
    let (answer, result) = oneshot::channel();
    let request = ClassifyRequest {
        picture,
        task: task(answer),
        place,
    };
    let busy = || {
        let sentence = "the daemon is busy: send the picture again later";
        ErrorResponse::busy(PICTURE_RETRY_SECONDS, sentence)
    };
    let gone = || {
        let sentence = "the daemon classifies no more pictures, because it is stopping";
        ErrorResponse::new(FailureKind::Unavailable, sentence)
    };
    match handle.classify.try_send(request) {
        Ok(()) => {}
        Err(mpsc::error::TrySendError::Full(_)) => return Err(busy()),
        Err(mpsc::error::TrySendError::Closed(_)) => return Err(gone()),
    }
    let result = tokio::time::timeout(LIMIT, result).await;
    let record = result.map_err(|_elapsed| busy())?.map_err(|_| gone())?;
    Ok(record?)
}
