//! Pictures: frames, rectangles and faces on them, crops, and the reading of
//! picture files.
//!
//! Owns the decoding of picture bytes, the scaling of pictures and the cutting
//! of crops. Knows no clock, threads or cameras: the time of a frame comes from
//! whoever captured it. Only `decoding` reads files.

pub mod decoding;
pub mod geometry;
mod jpeg;
pub mod names;
pub mod pixels;
pub mod yuv;

pub use decoding::{decode, decode_within};
pub use geometry::{Face, Rect, Region};
pub use pixels::{CROP_SIDE, ConnectionId, Crop, Frame, Scaler};

/// Maximum size of a picture that [`decode`] accepts, in pixels (width times
/// height).
///
/// 64 million pixels take 192 MB as RGB, and exceed what a phone's camera takes.
/// Larger pictures are refused before any pixel is decoded.
pub const MAX_PIXELS: u64 = 64_000_000;

/// Why bytes are not a usable picture. Each message continues a sentence about the
/// picture.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// There are no bytes.
    #[error("it is empty")]
    Empty,
    /// The format is not supported.
    #[error("it is not a JPEG, PNG, WebP, BMP, GIF or TIFF picture")]
    Format,
    /// More pixels than allowed.
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
        /// How often each pixel counts; above 1 if decoding takes more memory.
        weight: u64,
        /// How many pixels are allowed.
        max_pixels: u64,
    },
    /// A decoded size above 4 bytes for each pixel that is allowed.
    #[error("it has {width} x {height} pixels with too many bits each")]
    TooDeep {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// A size that is not possible for uncompressed pictures of this layout.
    #[error(
        "a size of {width} x {height} is not possible: both must be above 0, and the width of YUYV must be even"
    )]
    YuvSize {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The bytes end before the picture does.
    #[error("it is cut off before its end")]
    Truncated,
    /// Data is missing or invalid before the end of the bytes.
    #[error("it is damaged, since some of its data is missing or invalid")]
    Damaged,
    /// A JPEG whose coding is not supported.
    #[error("it is a JPEG with {0}, which is not supported")]
    UnsupportedJpeg(&'static str),
    /// The decoder failed.
    #[error("it cannot be decoded ({0})")]
    Decode(String),
    /// A crop of another size than 224 x 224.
    #[error("a crop must have {CROP_SIDE} x {CROP_SIDE} pixels, this has {width} x {height}")]
    CropSize {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The region is not within the picture, or the picture is empty.
    #[error("the region to cut lies outside the picture")]
    Region,
}
