//! Frames, crops, and scaling.

use std::time::Instant;

use fast_image_resize as fir;
use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use image::RgbImage;

use super::{PictureError, Region};

/// Width and height of a [`Crop`] in pixels. This is the input size of the
/// backbone.
pub const CROP_SIDE: u32 = 224;

/// Identifies a connection to a camera. Frames from different connections never count
/// toward the same confirmation.
///
/// Each time a lost source is reopened, a new connection begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// Returns the ID of the next connection.
    #[must_use]
    pub fn next(self) -> ConnectionId {
        ConnectionId(self.0.wrapping_add(1))
    }
}

/// One picture from a camera.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The upright picture in RGB with 8 bits per channel and the origin at the top
    /// left.
    pub pixels: RgbImage,
    /// Capture time.
    pub at: Instant,
    /// Number of the frame since the source was opened, starting at 0. A gap means
    /// that frames were skipped.
    pub seq: u64,
    /// The connection from which the frame was received. A source sets the default value, and the
    /// camera that opened the source replaces it with the actual ID.
    pub connection: ConnectionId,
}

/// A face that was cut out of its frame and scaled to [`CROP_SIDE`] x [`CROP_SIDE`]
/// pixels. It is the input to the backbone.
#[derive(Debug, Clone, PartialEq)]
pub struct Crop(RgbImage);

impl Crop {
    /// Creates a crop from a picture that already has the right size.
    ///
    /// # Errors
    /// Returns [`PictureError::CropSize`] if the picture has a different size.
    pub fn from_image(pixels: RgbImage) -> Result<Crop, PictureError> {
        match pixels.dimensions() {
            (CROP_SIDE, CROP_SIDE) => Ok(Crop(pixels)),
            (width, height) => Err(PictureError::CropSize { width, height }),
        }
    }

    /// The 224 x 224 pixels in RGB.
    #[must_use]
    pub fn pixels(&self) -> &RgbImage {
        &self.0
    }
}

/// Scales pictures. It reuses its buffers between calls.
#[derive(Debug, Default)]
pub struct Scaler {
    resizer: fir::Resizer,
    /// The last result of [`Scaler::shrink`].
    small: RgbImage,
}

impl Scaler {
    /// Cuts `region` out of `pixels` and scales it to a crop. Like the Keras
    /// tutorial, this function does not preserve the aspect ratio.
    ///
    /// To avoid aliasing when a large face is scaled down, the bilinear filter covers more pixels
    /// the more the face is reduced, as in Pillow's `BILINEAR`.
    ///
    /// # Errors
    /// Returns [`PictureError::Region`] if the region lies outside the picture, which may happen if
    /// the region was computed for a larger frame.
    pub fn crop(&mut self, pixels: &RgbImage, region: Region) -> Result<Crop, PictureError> {
        let mut crop = RgbImage::new(CROP_SIDE, CROP_SIDE);
        let [left, top, width, height] = region.as_array().map(f64::from);
        self.resize(pixels, &mut crop, |options| {
            options.crop(left, top, width, height)
        })?;
        Ok(Crop(crop))
    }

    /// Scales the picture down so that its longest side has at most `side` pixels.
    /// A picture that is already small enough is returned unchanged. The next call
    /// overwrites the result.
    ///
    /// # Errors
    /// Returns [`PictureError::Region`] if the picture is empty.
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
        // With the type of the pixels fixed at compile time, the binary has no code for the
        // other types, which would be 2 MB.
        let (width, height) = from.dimensions();
        let source = TypedImageRef::<U8x3>::from_buffer(width, height, from)
            .map_err(|_| PictureError::Region)?;
        let (width, height) = to.dimensions();
        let mut target =
            TypedImage::<U8x3>::from_buffer(width, height, to).map_err(|_| PictureError::Region)?;
        let bilinear = fir::ResizeAlg::Convolution(fir::FilterType::Bilinear);
        let options = options(fir::ResizeOptions::new().resize_alg(bilinear));
        self.resizer
            .resize_typed(&source, &mut target, &options)
            .map_err(|_| PictureError::Region)
    }
}
