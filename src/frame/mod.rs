//! Pictures and the geometry on them: frames, rectangles, faces and crops.
//!
//! Owns the decoding of picture bytes, the scaling of pictures and the cutting
//! of crops. Pure: no clock, no files, no threads; the time of a frame comes in
//! from whoever captured it.

pub mod yuv;

use std::io::Cursor;
use std::time::Instant;

use fast_image_resize as fir;
use image::{DynamicImage, ImageDecoder, ImageReader, RgbImage};

/// Side of a [`Crop`] in pixels: what the backbone takes.
pub const CROP_SIDE: u32 = 224;

/// Largest picture that [`decode`] accepts, in pixels (width times height).
///
/// 64 million pixels are 192 MB of RGB, and more than a telephone's camera
/// takes. Larger ones are refused before a pixel is decoded.
pub const MAX_PIXELS: u64 = 64_000_000;

/// Most memory that a decoder's result may take, in bytes: [`MAX_PIXELS`] of RGB
/// and alpha with 8 bits each.
const MAX_DECODED_BYTES: u64 = 4 * MAX_PIXELS;

/// One picture from a camera.
#[derive(Debug, Clone)]
pub struct Frame {
    /// RGB, 8 bits a channel, origin at the top left, upright.
    pub pixels: RgbImage,
    /// When it was captured.
    pub at: Instant,
    /// Number of the frame since the source was opened, from 0; a gap tells how
    /// many frames were skipped.
    pub seq: u64,
}

/// A rectangle in frame pixels, with fractions; it may overhang the frame.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rect {
    /// Left edge.
    pub x: f32,
    /// Top edge.
    pub y: f32,
    /// Width, not negative.
    pub width: f32,
    /// Height, not negative.
    pub height: f32,
}

impl Rect {
    /// Area in square pixels.
    #[must_use]
    pub fn area(&self) -> f32 {
        self.width * self.height
    }

    /// The shorter side in pixels: the size that `min-face` is compared with.
    #[must_use]
    pub fn short_side(&self) -> f32 {
        self.width.min(self.height)
    }

    /// Intersection over union with `other`, 0 (apart) to 1 (equal).
    ///
    /// ```
    /// use maskd::frame::Rect;
    /// let a = Rect { x: 0.0, y: 0.0, width: 10.0, height: 10.0 };
    /// let b = Rect { x: 5.0, y: 0.0, width: 10.0, height: 10.0 };
    /// assert!((a.iou(&b) - 1.0 / 3.0).abs() < 1e-6);
    /// ```
    #[must_use]
    pub fn iou(&self, other: &Rect) -> f32 {
        let width = (self.x + self.width).min(other.x + other.width) - self.x.max(other.x);
        let height = (self.y + self.height).min(other.y + other.height) - self.y.max(other.y);
        if width <= 0.0 || height <= 0.0 {
            return 0.0;
        }
        let both = width * height;
        both / (self.area() + other.area() - both)
    }

    /// The whole pixels of a `frame_width` x `frame_height` frame that this
    /// rectangle covers once it is widened by `margin` (a share of its own
    /// width on the left and right, of its own height above and below).
    ///
    /// `None` if nothing of it lies within the frame.
    #[must_use]
    pub fn region(&self, margin: f32, frame_width: u32, frame_height: u32) -> Option<Region> {
        let dx = margin * self.width;
        let dy = margin * self.height;
        let (left, right) = span(self.x - dx, self.x + self.width + dx, frame_width)?;
        let (top, bottom) = span(self.y - dy, self.y + self.height + dy, frame_height)?;
        Some(Region {
            left,
            top,
            width: right - left,
            height: bottom - top,
        })
    }
}

/// Whole pixels from `from` to `to`, rounded outward and held within 0..`limit`.
fn span(from: f32, to: f32, limit: u32) -> Option<(u32, u32)> {
    // `as` saturates and maps NaN to 0, so a wild box ends up empty here.
    let from = from.floor().max(0.0) as u32;
    let to = (to.ceil().max(0.0) as u32).min(limit);
    (from < to).then_some((from, to))
}

/// Whole pixels that lie within their frame; never empty. Made by
/// [`Rect::region`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

impl Region {
    /// Left edge, top edge, width and height in pixels.
    #[must_use]
    pub fn as_array(&self) -> [u32; 4] {
        [self.left, self.top, self.width, self.height]
    }
}

/// A face that the detector found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Face {
    /// Its box in frame pixels.
    pub rect: Rect,
    /// The detector's score, 0 to 1.
    pub score: f32,
    /// Left eye, right eye, nose, left and right corner of the mouth as seen in
    /// the frame: (x, y) in frame pixels.
    pub landmarks: [(f32, f32); 5],
}

/// A face cut from its frame and stretched to [`CROP_SIDE`] squared: what the
/// backbone sees.
#[derive(Debug, Clone, PartialEq)]
pub struct Crop(RgbImage);

impl Crop {
    /// Takes a picture that has the size of a crop already.
    ///
    /// # Errors
    /// [`PictureError::CropSize`] if it has another size.
    pub fn from_image(pixels: RgbImage) -> Result<Crop, PictureError> {
        match pixels.dimensions() {
            (CROP_SIDE, CROP_SIDE) => Ok(Crop(pixels)),
            (width, height) => Err(PictureError::CropSize { width, height }),
        }
    }

    /// The pixels: RGB, 224 x 224.
    #[must_use]
    pub fn pixels(&self) -> &RgbImage {
        &self.0
    }
}

/// Scales pictures; keeps its buffers from one call to the next.
#[derive(Debug, Default)]
pub struct Scaler {
    resizer: fir::Resizer,
    /// What [`Scaler::shrink`] made last.
    small: RgbImage,
}

impl Scaler {
    /// Cuts `region` out of `pixels` and stretches it to a crop, as the
    /// tutorial's recipe does: the shape of the box is not kept.
    ///
    /// The filter is the bilinear one whose support grows when it shrinks
    /// (Pillow's `BILINEAR`), so that large faces do not alias.
    ///
    /// # Errors
    /// [`PictureError::Region`] if the region lies outside the picture: it was
    /// made for a frame of another size.
    pub fn crop(&mut self, pixels: &RgbImage, region: Region) -> Result<Crop, PictureError> {
        let mut crop = RgbImage::new(CROP_SIDE, CROP_SIDE);
        let [left, top, width, height] = region.as_array().map(f64::from);
        self.resize(pixels, &mut crop, |options| {
            options.crop(left, top, width, height)
        })?;
        Ok(Crop(crop))
    }

    /// The picture scaled down so that its longest side is at most `side`
    /// pixels, in a buffer that the next call writes over; a picture that is
    /// small enough is given back as it is.
    ///
    /// # Errors
    /// [`PictureError::Region`] if the picture is empty.
    pub fn shrink<'a>(
        &'a mut self,
        pixels: &'a RgbImage,
        side: u32,
    ) -> Result<&'a RgbImage, PictureError> {
        let (width, height) = pixels.dimensions();
        let longest = width.max(height);
        if longest <= side {
            return Ok(pixels);
        }
        let scaled = |length: u32| {
            let scaled = f64::from(length) * f64::from(side) / f64::from(longest);
            (scaled.round() as u32).max(1)
        };
        let size = (scaled(width), scaled(height));
        let mut small = std::mem::take(&mut self.small);
        if small.dimensions() != size {
            small = RgbImage::new(size.0, size.1);
        }
        let resized = self.resize(pixels, &mut small, |options| options);
        self.small = small;
        resized.map(|()| &self.small)
    }

    fn resize(
        &mut self,
        from: &RgbImage,
        to: &mut RgbImage,
        options: impl FnOnce(fir::ResizeOptions) -> fir::ResizeOptions,
    ) -> Result<(), PictureError> {
        let (width, height) = from.dimensions();
        let source = fir::images::ImageRef::new(width, height, from, fir::PixelType::U8x3)
            .map_err(|_| PictureError::Region)?;
        let (width, height) = to.dimensions();
        let mut target = fir::images::Image::from_slice_u8(width, height, to, fir::PixelType::U8x3)
            .map_err(|_| PictureError::Region)?;
        let bilinear = fir::ResizeAlg::Convolution(fir::FilterType::Bilinear);
        let options = options(fir::ResizeOptions::new().resize_alg(bilinear));
        self.resizer
            .resize(&source, &mut target, &options)
            .map_err(|_| PictureError::Region)
    }
}

/// Why bytes are not a picture that `maskd` can work on.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// No bytes at all.
    #[error("it is empty")]
    Empty,
    /// Not one of the formats that are built in.
    #[error("it is not a JPEG, PNG, WebP, BMP, GIF or TIFF picture")]
    Format,
    /// More than [`MAX_PIXELS`].
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

/// Decodes a picture of any built-in format to upright RGB.
///
/// EXIF orientation is applied, alpha is dropped, 16 bits a channel become 8,
/// CMYK becomes RGB, and of an animation the first picture is taken.
///
/// # Errors
/// Says why the bytes are no usable picture; sizes are checked before anything
/// is decoded.
pub fn decode(bytes: &[u8]) -> Result<RgbImage, PictureError> {
    if bytes.is_empty() {
        return Err(PictureError::Empty);
    }
    let reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| PictureError::Decode(error.to_string()))?;
    let format = reader.format().ok_or(PictureError::Format)?;
    let mut decoder = reader.into_decoder().map_err(decode_error)?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels > MAX_PIXELS || decoder.total_bytes() > MAX_DECODED_BYTES {
        return Err(PictureError::TooLarge { width, height });
    }
    // The decoder fills what is missing of a JPEG with gray and reports no
    // error; a verdict on gray would be a guess.
    if format == image::ImageFormat::Jpeg && !has_jpeg_end(bytes) {
        return Err(PictureError::Truncated);
    }
    // A broken orientation tag is no reason to refuse the picture.
    let orientation = decoder
        .orientation()
        .unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(decode_error)?;
    picture.apply_orientation(orientation);
    Ok(picture.into_rgb8())
}

/// Whether the end-of-image marker follows the last start of a scan. Software
/// that pads or appends to files leaves other bytes behind the marker, which is
/// near the end all the same: from there it is found at once.
fn has_jpeg_end(bytes: &[u8]) -> bool {
    let mut pairs = bytes.windows(2).rev();
    pairs.find_map(|pair| match pair {
        [0xff, 0xd9] => Some(true),
        [0xff, 0xda] => Some(false),
        _ => None,
    }) == Some(true)
}

fn decode_error(error: image::ImageError) -> PictureError {
    use image::ImageError;
    match error {
        ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            PictureError::Truncated
        }
        ImageError::Unsupported(_) => PictureError::Format,
        // Some decoders wrap their sentence over several lines.
        error => PictureError::Decode(
            error
                .to_string()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
        ),
    }
}
