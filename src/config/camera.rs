//! `[camera]`: where frames come from.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Check;
use crate::camera::{CameraOptions, Spec, SpecError, TlsTrust, VideoFormat, VideoOptions};
use crate::platform::hex;

/// `[camera]`
///
/// `Debug` shows the source without its password.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Camera {
    /// `examples`, a picture, a folder of pictures, `webcam`, `rpicam`, `http://…`,
    /// `https://…`, or `exec:COMMAND …`.
    pub source: String,
    /// PEM file with the certificate authorities to trust for an `https` camera, or with
    /// the camera's own certificate. If absent, the certificate authorities of the
    /// system are trusted.
    pub ca_file: Option<PathBuf>,
    /// SHA-256 of the only certificate to accept from an `https` camera, in hexadecimal.
    pub tls_fingerprint: Option<String>,
    /// Picture format that is requested from webcams, camera modules, and programs.
    pub format: VideoFormat,
    /// Requested frame width in pixels; 16 to 4096.
    pub width: u32,
    /// Requested frame height in pixels; 16 to 4096.
    pub height: u32,
    /// Requested frame rate, in frames per second; 1 to 120. If a network camera sends
    /// single pictures, at most this many pictures are requested per second.
    pub fps: u32,
    /// Playback rate of pictures and folders, in pictures per second; 0.001 to 120.
    pub playback_fps: f32,
    /// Whether pictures, folders, and videos start over when they end.
    #[serde(rename = "loop")]
    pub repeat: bool,
    /// If a live source sends no frame for this long, the source is considered lost; 100
    /// to 600,000 ms.
    pub stall_ms: u64,
    /// Maximum size of a JPEG in a stream, in KiB; 16 to 65,536.
    pub max_frame_kib: usize,
    /// Maximum number of pixels of a frame in a stream, in millions; 1 to 64.
    pub max_frame_megapixels: u32,
}

impl Default for Camera {
    fn default() -> Camera {
        Camera {
            source: "examples".to_owned(),
            ca_file: None,
            tls_fingerprint: None,
            format: VideoFormat::Auto,
            width: 640,
            height: 480,
            fps: 15,
            playback_fps: 0.5,
            repeat: true,
            stall_ms: 5000,
            max_frame_kib: 8192,
            max_frame_megapixels: 9,
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
        check.not_empty("camera.ca-file", self.ca_file.as_deref());
        match &self.tls_fingerprint {
            Some(text) if fingerprint(text).is_none() => check.fail(
                "camera.tls-fingerprint",
                "is not a SHA-256: write 64 hexadecimal digits, with or without colons".to_owned(),
            ),
            Some(_) if self.ca_file.is_some() => check.fail(
                "camera.tls-fingerprint",
                "and ca-file are both set: remove one".to_owned(),
            ),
            _ => {}
        }
        check.within("camera.width", self.width, 16, 4096);
        check.within("camera.height", self.height, 16, 4096);
        check.within("camera.fps", self.fps, 1, 120);
        check.within("camera.playback-fps", self.playback_fps, 0.001, 120.0);
        check.within("camera.stall-ms", self.stall_ms, 100, 600_000);
        check.within("camera.max-frame-kib", self.max_frame_kib, 16, 65_536);
        let megapixels = self.max_frame_megapixels;
        check.within("camera.max-frame-megapixels", megapixels, 1, 64);
        let pixels = u64::from(self.width) * u64::from(self.height);
        if pixels > self.options().max_frame_pixels {
            let (width, height) = (self.width, self.height);
            check.fail(
                "camera.max-frame-megapixels",
                format!(
                    "is {megapixels}, but camera.width and camera.height ask for {width} x \
                     {height} pixels; raise it to {}, or ask for smaller frames",
                    pixels.div_ceil(1_000_000)
                ),
            );
        }
    }

    /// Returns the options for [`crate::camera::Camera::open`].
    #[must_use]
    pub fn options(&self) -> CameraOptions {
        CameraOptions {
            rate: self.playback_fps,
            repeat: self.repeat,
            stall: Duration::from_millis(self.stall_ms),
            max_frame_bytes: self.max_frame_kib * 1024,
            max_frame_pixels: u64::from(self.max_frame_megapixels) * 1_000_000,
            video: VideoOptions {
                format: self.format,
                width: self.width,
                height: self.height,
                fps: self.fps,
            },
            tls: self.trust(),
        }
    }

    fn trust(&self) -> TlsTrust {
        let pinned = self.tls_fingerprint.as_deref().and_then(fingerprint);
        match (pinned, &self.ca_file) {
            (Some(fingerprint), _) => TlsTrust::Fingerprint(fingerprint),
            (None, Some(file)) => TlsTrust::File(file.clone()),
            (None, None) => TlsTrust::System,
        }
    }
}

/// Parses a SHA-256 digest in the forms that programs print: in uppercase or lowercase,
/// with or without colons, and with or without a name and an equals sign before it.
pub(super) fn fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits = text.rsplit('=').next()?.trim();
    hex::decode(&digits.replace(':', ""))
}

impl fmt::Debug for Camera {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Camera {
            source,
            ca_file,
            tls_fingerprint,
            format,
            width,
            height,
            fps,
            playback_fps,
            repeat,
            stall_ms,
            max_frame_kib,
            max_frame_megapixels,
        } = self;
        let source = source.parse::<Spec>();
        f.debug_struct("Camera")
            .field("source", &source.as_ref().map(Spec::to_string))
            .field("ca_file", ca_file)
            .field("tls_fingerprint", tls_fingerprint)
            .field("format", format)
            .field("width", width)
            .field("height", height)
            .field("fps", fps)
            .field("playback_fps", playback_fps)
            .field("repeat", repeat)
            .field("stall_ms", stall_ms)
            .field("max_frame_kib", max_frame_kib)
            .field("max_frame_megapixels", max_frame_megapixels)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_as_programs_print_them() {
        let colons = vec!["0A"; 32].join(":");
        for text in [
            "0a".repeat(32),
            colons.clone(),
            format!("sha256 Fingerprint={colons}"),
            format!(" {colons} "),
        ] {
            assert_eq!(fingerprint(&text), Some([10; 32]), "{text}");
        }
        for text in ["", "0a", &"0A".repeat(31), &"0x".repeat(32)] {
            assert_eq!(fingerprint(text), None, "{text}");
        }
    }
}
