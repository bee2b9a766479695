//! Pictures: frames, rectangles and faces on them, crops, and the reading of
//! picture files.
//!
//! Owns the decoding of picture bytes, the scaling of pictures and the cutting
//! of crops. Knows no clock, threads or cameras: the time of a frame comes from
//! whoever captured it. Only `decoding` reads files.

pub mod decoding;
pub mod geometry;
pub mod pixels;
pub mod yuv;

pub use decoding::decode;
pub use geometry::{Face, Rect, Region};
pub use pixels::{CROP_SIDE, Crop, Frame, Scaler};

/// Largest picture that [`decode`] accepts, in pixels (width times height).
///
/// 64 million pixels are 192 MB of RGB, and more than a telephone's camera
/// takes. Larger ones are refused before a pixel is decoded.
pub const MAX_PIXELS: u64 = 64_000_000;

/// Why bytes are not a picture that `maskd` can work on.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// No bytes at all.
    #[error("it is empty")]
    Empty,
    /// Not one of the formats that are built in.
    #[error("it is not a JPEG, PNG, WebP, BMP, GIF or TIFF picture")]
    Format,
    /// More than [`MAX_PIXELS`], or a decoded size above 4 bytes for each of them.
    #[error("it has {width} x {height} pixels, more than {} million, or too many bits each", MAX_PIXELS / 1_000_000)]
    TooLarge {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// A size that uncompressed pictures of this layout cannot have.
    #[error(
        "no such picture can have {width} x {height} pixels; both must be above 0, and the width of YUYV even"
    )]
    YuvSize {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The bytes break off before the picture's end.
    #[error("it is cut off before its end")]
    Truncated,
    /// The decoder gave up.
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
    /// A region that is not within the picture, or an empty picture.
    #[error("the region to cut lies outside the picture")]
    Region,
}
