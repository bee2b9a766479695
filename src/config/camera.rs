//! `[camera]`: where frames come from.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Check;
use crate::camera::{CameraOptions, Spec, SpecError, VideoFormat, VideoOptions};

/// `[camera]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Camera {
    /// `examples`, a picture, a folder of pictures, `webcam`, `rpicam`, `http://…` or
    /// `exec:COMMAND …`.
    pub source: String,
    /// Picture format that webcams, camera modules and programs provide.
    pub format: VideoFormat,
    /// Requested frame width in pixels; 16 to 4096.
    pub width: u32,
    /// Requested frame height in pixels; 16 to 4096.
    pub height: u32,
    /// Requested frame rate, in frames per second; 1 to 120.
    pub fps: u32,
    /// Playback rate of pictures and folders, in frames per second; above 0, up to 120.
    pub playback_fps: f32,
    /// Whether pictures, folders and videos start over when they end.
    #[serde(rename = "loop")]
    pub repeat: bool,
    /// A live source that sends no frame for this long is considered lost, in ms; 100 to
    /// 600,000.
    pub stall_ms: u64,
    /// Maximum size of a JPEG in a stream, in KiB; 16 to 65,536.
    pub max_frame_kib: usize,
}

impl Default for Camera {
    fn default() -> Camera {
        Camera {
            source: "examples".to_owned(),
            format: VideoFormat::Auto,
            width: 640,
            height: 480,
            fps: 15,
            playback_fps: 0.5,
            repeat: true,
            stall_ms: 5000,
            max_frame_kib: 8192,
        }
    }
}

impl Camera {
    pub(super) fn check(&self, check: &mut Check) {
        match self.source.parse::<Spec>() {
            // The error does not reveal the password in a camera's URL.
            Err(error) => check.fail("camera.source", format!("is wrong: {error}")),
            Ok(spec) => {
                if let Err(error) = spec.check(&self.options().video) {
                    let key = match error {
                        SpecError::Padded { .. } => "camera.width",
                        _ => "camera.format",
                    };
                    check.fail(key, format!("is wrong: {error}"));
                }
            }
        }
        check.within("camera.width", self.width, 16, 4096);
        check.within("camera.height", self.height, 16, 4096);
        check.within("camera.fps", self.fps, 1, 120);
        check.within("camera.playback-fps", self.playback_fps, 0.001, 120.0);
        check.within("camera.stall-ms", self.stall_ms, 100, 600_000);
        check.within("camera.max-frame-kib", self.max_frame_kib, 16, 65_536);
    }

    /// The options for [`crate::camera::Camera::open`].
    #[must_use]
    pub fn options(&self) -> CameraOptions {
        CameraOptions {
            rate: self.playback_fps,
            repeat: self.repeat,
            stall: Duration::from_millis(self.stall_ms),
            max_frame_bytes: self.max_frame_kib * 1024,
            video: VideoOptions {
                format: self.format,
                width: self.width,
                height: self.height,
                fps: self.fps,
            },
        }
    }
}
