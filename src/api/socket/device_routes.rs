//! The routes that describe the device and test its LEDs.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use tokio::sync::{mpsc, oneshot};

use super::answer::ErrorResponse;
use super::device::{DeviceRecord, LedTestRecord, LedTestRequest};
use super::{DaemonHandle, ErrorRecord};
use crate::api::file_work::{self, Length};
use crate::learning::FailureKind;

/// How long the indicator thread may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Describes the device: its camera, pins, broker, disk, and addresses.
#[utoipa::path(
    get, path = "/device", tag = "device",
    summary = "Describe the device",
    responses(
        (status = 200, body = DeviceRecord, description = "The device"),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
pub(super) async fn device(
    State(handle): State<DaemonHandle>,
) -> Result<Json<DeviceRecord>, ErrorResponse> {
    let record = file_work::run(Length::Short, move |_| {
        handle.device.record(handle.learning.state())
    })
    .await?;
    Ok(Json(record))
}

/// Switches on the green LED, the red LED, and the buzzer, one after the other. The relay of a
/// door is not switched. The buzzer stays silent while the config silences it. The test is
/// refused while the door is unlocked, and it ends early when the door is unlocked.
#[utoipa::path(
    post, path = "/device/led-test", tag = "device",
    summary = "Test the LEDs and the buzzer",
    responses(
        (status = 200, body = LedTestRecord, description = "The test has begun"),
        (status = 409, body = ErrorRecord, description = "The LEDs cannot be tested at this time", example = json!({
            "error": "the LEDs cannot be tested while the door is unlocked: try again when it is locked",
            "fault": "not-now"
        })),
        (status = "default", body = ErrorRecord, description = "Why the request failed"),
    ),
)]
pub(super) async fn led_test(
    State(handle): State<DaemonHandle>,
) -> Result<Json<LedTestRecord>, ErrorResponse> {
    let not_now = |sentence: &str| ErrorResponse::new(FailureKind::NotNow, sentence);
    let (answer, result) = oneshot::channel();
    let request = LedTestRequest { answer };
    handle.device.led_test.try_send(request).map_err(|error| {
        not_now(match error {
            mpsc::error::TrySendError::Full(_) => "another test of the LEDs is requested",
            mpsc::error::TrySendError::Closed(_) => "the daemon is stopping",
        })
    })?;
    let result = tokio::time::timeout(ANSWER_LIMIT, result).await;
    let result = result.ok().and_then(Result::ok);
    let test = result.ok_or_else(|| not_now("the LEDs do not answer: try again"))??;
    Ok(Json(test))
}
