//! What is requested from a camera, and how its stream is split into pictures.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::frame::PictureError;
use crate::frame::yuv::{Layout, Range, YuvFormat};

/// The options of a [`Camera`](super::Camera).
#[derive(Debug, Clone, PartialEq)]
pub struct CameraOptions {
    /// Pictures per second, for pictures and folders: each is shown for `1 / rate`
    /// seconds. Clamped to 0.001 to 1,000.
    pub rate: f32,
    /// Whether to start over at the end of a folder or video.
    pub repeat: bool,
    /// A live source that yields no picture for this long counts as lost.
    pub stall: Duration,
    /// Maximum size of a JPEG in a stream, in bytes; larger ones are skipped.
    pub max_frame_bytes: usize,
    /// Maximum number of pixels of a frame of a stream; larger ones are skipped
    /// before they are decoded. [`decode_within`](crate::frame::decode_within) tells
    /// how they are counted.
    pub max_frame_pixels: u64,
    /// The format, size and rate that webcams, camera modules and programs are
    /// asked for.
    pub video: VideoOptions,
    /// Which certificates of an `https` camera are accepted.
    pub tls: TlsTrust,
}

/// Which certificates of an `https` camera are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TlsTrust {
    /// Those that one of the system's certificate authorities has signed for the
    /// camera's host.
    #[default]
    System,
    /// Those that an authority in this PEM file has signed for the camera's host, and
    /// those that are in the file themselves, whatever their names and dates.
    File(PathBuf),
    /// The one with this SHA-256, whatever its names and dates.
    Fingerprint([u8; 32]),
}

/// How a camera is asked to encode its pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VideoFormat {
    /// The best format of the source: MJPEG wherever it is available.
    #[default]
    Auto,
    /// JPEG pictures.
    Mjpeg,
    /// Uncompressed, [`Layout::Yuyv`].
    Yuyv,
    /// Uncompressed, [`Layout::Nv12`].
    Nv12,
    /// Uncompressed, [`Layout::I420`].
    Yuv420,
}

impl fmt::Display for VideoFormat {
    /// As written in the configuration.
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

/// The format, size and rate requested from a camera. A webcam uses its
/// closest mode.
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

/// How the bytes of a stream are cut into pictures and decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamFormat {
    /// JPEG pictures, with arbitrary bytes in between.
    Mjpeg,
    /// Uncompressed pictures, back to back.
    Raw(YuvFormat),
}

impl StreamFormat {
    /// The output of a program that was asked for `video`.
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
