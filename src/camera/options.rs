//! The options of a camera, and the format of its stream.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::frame::PictureError;
use crate::frame::yuv::{Layout, Range, YuvFormat};

/// The options of a [`Camera`](super::Camera).
#[derive(Debug, Clone, PartialEq)]
pub struct CameraOptions {
    /// Pictures per second when the source is a picture or a folder. Each picture is
    /// shown for `1 / rate` seconds. The rate is clamped to a value between 0.001 and
    /// 1,000.
    pub rate: f32,
    /// Whether to start over at the end of a folder or video.
    pub repeat: bool,
    /// If a live source yields no picture for this long, it is considered lost.
    pub stall: Duration,
    /// Maximum size of a JPEG in a stream, in bytes. Larger JPEGs are skipped.
    pub max_frame_bytes: usize,
    /// Maximum number of pixels of a frame in a stream. Larger frames are skipped before
    /// they are decoded. [`decode_within`](crate::frame::decode_within) describes how the
    /// pixels are counted.
    pub max_frame_pixels: u64,
    /// The format, size, and rate that are requested from webcams, camera modules, and
    /// programs.
    pub video: VideoOptions,
    /// Determines which certificates are accepted from an `https` camera.
    pub tls: TlsTrust,
}

/// Determines which certificates are accepted from an `https` camera.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TlsTrust {
    /// Certificates that one of the system's certificate authorities has signed for the
    /// camera's host.
    #[default]
    System,
    /// Certificates that an authority in this PEM file has signed for the camera's host.
    /// The certificates in the file itself are also accepted from the camera, regardless
    /// of their host names and dates.
    File(PathBuf),
    /// Only the certificate with this SHA-256, regardless of its host names and dates.
    Fingerprint([u8; 32]),
}

/// The encoding that is requested from a camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VideoFormat {
    /// The best format that the source offers. This is MJPEG if the source offers MJPEG.
    #[default]
    Auto,
    /// JPEG pictures.
    Mjpeg,
    /// Uncompressed pictures in the layout [`Layout::Yuyv`].
    Yuyv,
    /// Uncompressed pictures in the layout [`Layout::Nv12`].
    Nv12,
    /// Uncompressed pictures in the layout [`Layout::I420`].
    Yuv420,
}

impl fmt::Display for VideoFormat {
    /// Writes the format in the syntax of the configuration.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            VideoFormat::Auto => "auto",
            VideoFormat::Mjpeg => "mjpeg",
            VideoFormat::Yuyv => "yuyv",
            VideoFormat::Nv12 => "nv12",
            VideoFormat::Yuv420 => "yuv420",
        })
    }
}

/// The format, size, and rate that are requested from a camera. A webcam uses the closest
/// mode that it supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VideoOptions {
    /// Encoding of the pictures.
    pub format: VideoFormat,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Frames per second.
    pub fps: u32,
}

impl Default for VideoOptions {
    fn default() -> VideoOptions {
        VideoOptions {
            format: VideoFormat::Auto,
            width: 640,
            height: 480,
            fps: 15,
        }
    }
}

/// The format of a stream. It determines how the stream's bytes are split into pictures
/// and decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamFormat {
    /// JPEG pictures, which may have arbitrary bytes between them.
    Mjpeg,
    /// Uncompressed pictures, which have no bytes between them.
    Raw(YuvFormat),
}

impl StreamFormat {
    /// Returns the stream format in which a program is expected to write the pictures
    /// that `video` requests.
    pub(super) fn of_program(
        video: &VideoOptions,
        range: Range,
    ) -> Result<StreamFormat, PictureError> {
        if video.format == VideoFormat::Yuv420 {
            let format = YuvFormat::new(Layout::I420, range, video.width, video.height)?;
            return Ok(StreamFormat::Raw(format));
        }
        Ok(StreamFormat::Mjpeg)
    }
}
