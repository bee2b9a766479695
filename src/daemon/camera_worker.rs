//! The camera thread, which passes frames from the source to the inference thread.
//!
//! This module does not know how a frame is processed. If the inference thread has not
//! taken the previous frame yet, the new frame replaces the previous frame.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::events::EventFeed;
use super::{DaemonError, Latest, now};
use crate::api::socket::Live;
use crate::camera::{Camera, CameraEvent};
use crate::decision::decide::Loss;
use crate::events::Occurrence;
use crate::frame::Frame;
use crate::platform::text_code::TextCode;

/// Reads the camera until its source ends or fails permanently, or until the token `stop`
/// is triggered.
pub(super) fn run(
    mut camera: Camera,
    frames: &watch::Sender<Latest<Frame>>,
    live: &watch::Sender<Live>,
    events: &EventFeed,
    stop: &CancellationToken,
) -> Result<(), DaemonError> {
    let mut lost_at = None;
    while !stop.is_cancelled() {
        match camera.next() {
            CameraEvent::Frame(frame) => {
                if let Some(lost_at) = lost_at.take() {
                    let seconds = now().saturating_duration_since(lost_at).as_secs();
                    events.send(Occurrence::CameraBack { seconds });
                }
                frames.send_replace(Latest::Newest(Arc::new(frame)));
            }
            CameraEvent::Lost(error) => {
                // Losses are counted here because the next frame may replace
                // `Latest::Lost` before the inference thread reads it.
                let (why, code) = (error.without_paths(), error.code());
                if lost_at.is_none() {
                    lost_at = Some(now());
                    events.send(Occurrence::camera_lost(&why, code.clone()));
                }
                live.send_modify(|live| {
                    live.camera.losses += 1;
                    live.camera.lost_because = Some(why);
                    live.camera.lost_code = code;
                });
                let loss = if error.is_unplugged() {
                    Loss::Unplugged
                } else {
                    Loss::Reconnecting
                };
                frames.send_replace(Latest::Lost(loss));
            }
            CameraEvent::Unplugged => {
                let why = "the camera is unplugged".to_owned();
                let code = Some(TextCode::new("unplugged"));
                if lost_at.is_none() {
                    lost_at = Some(now());
                    events.send(Occurrence::camera_lost(&why, code.clone()));
                }
                live.send_modify(|live| {
                    live.camera.lost_because = Some(why);
                    live.camera.lost_code = code;
                });
                frames.send_replace(Latest::Lost(Loss::Unplugged));
            }
            CameraEvent::Failed(error) => return Err(error.into()),
            CameraEvent::End => break,
        }
    }
    Ok(())
}
