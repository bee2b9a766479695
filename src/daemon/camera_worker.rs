//! The camera thread, which passes frames from the source to the inference thread.
//!
//! This module does not know how a frame is processed. A new frame replaces one that
//! the inference thread has not taken yet.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{DaemonError, Latest};
use crate::api::socket::Live;
use crate::camera::{Camera, CameraEvent};
use crate::frame::Frame;

/// Reads the camera until it ends, fails for good, or `stop` is canceled.
pub(super) fn run(
    mut camera: Camera,
    frames: &watch::Sender<Latest<Frame>>,
    live: &watch::Sender<Live>,
    stop: &CancellationToken,
) -> Result<(), DaemonError> {
    while !stop.is_cancelled() {
        match camera.next() {
            CameraEvent::Frame(frame) => {
                frames.send_replace(Latest::Newest(Arc::new(frame)));
            }
            CameraEvent::Lost(_) => {
                // Losses are counted here because the next frame may replace
                // this value before the inference thread sees it.
                live.send_modify(|live| live.camera.losses += 1);
                frames.send_replace(Latest::Lost);
            }
            CameraEvent::Failed(error) => return Err(error.into()),
            CameraEvent::End => break,
        }
    }
    Ok(())
}
