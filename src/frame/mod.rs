//! Frames, rectangles, faces, and crops, and the decoding of picture files.
//!
//! This module decodes, scales, and crops pictures. It knows nothing about clocks, threads, or
//! cameras. The code that captures a frame sets the capture time. Only `decoding` reads files.

pub mod decoding;
pub mod geometry;
mod jpeg;
pub mod names;
pub mod pixels;
pub mod quality;
pub mod yuv;

pub use decoding::{decode, decode_within};
pub use geometry::{Face, Rect, Region};
pub use pixels::{CROP_SIDE, ConnectionId, Crop, Frame, Scaler};

/// Maximum size of a picture that [`decode`] accepts, in pixels (width times
/// height).
///
/// As RGB, 64 million pixels take 192 MB. Pictures from phone cameras have fewer pixels.
/// A picture with more pixels is rejected before any pixel is decoded.
pub const MAX_PIXELS: u64 = 64_000_000;

/// The reason bytes are not a usable picture. Each message is a clause about the picture, such as
/// "it is empty".
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// The data is empty.
    #[error("it is empty")]
    Empty,
    /// The format is not supported.
    #[error("it is not a JPEG, PNG, WebP, BMP, GIF, or TIFF picture")]
    Format,
    /// The picture has more pixels than allowed.
    #[error(
        "it has {width} x {height} pixels{}, more than {} million",
        if *weight > 1 { ", which count three times in a JPEG with several scans" } else { "" },
        max_pixels / 1_000_000
    )]
    TooLarge {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// How many times each pixel counts toward the limit. This is 1 for most pictures, and
        /// greater if decoding takes more memory per pixel than usual.
        weight: u64,
        /// Maximum number of pixels.
        max_pixels: u64,
    },
    /// The decoded picture would take more than 4 bytes for each allowed pixel.
    #[error("it has {width} x {height} pixels with too many bits each")]
    TooDeep {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// Uncompressed pictures of this layout cannot have this size.
    #[error(
        "a size of {width} x {height} is not possible: both must be above 0, and the width of YUYV must be even"
    )]
    YuvSize {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The data ends before the picture is complete.
    #[error("it is cut off before its end")]
    Truncated,
    /// Data within the picture is missing or invalid.
    #[error("it is damaged, since some of its data is missing or invalid")]
    Damaged,
    /// The picture is a JPEG whose coding is not supported.
    #[error("it is a JPEG with {0}, which is not supported")]
    UnsupportedJpeg(&'static str),
    /// The decoder failed.
    #[error("it cannot be decoded ({0})")]
    Decode(String),
    /// The size of the crop is not 224 x 224 pixels.
    #[error(
        "a crop must have {CROP_SIDE} x {CROP_SIDE} pixels, but this one has {width} x {height}"
    )]
    CropSize {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The region is outside the picture, or the picture is empty.
    #[error("the region to crop lies outside the picture")]
    Region,
}
