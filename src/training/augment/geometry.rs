//! The geometric changes of Keras's `ImageDataGenerator`, combined into one warp per
//! picture.

use image::RgbImage;
use rand::{Rng, RngExt};

use crate::frame::{CROP_SIDE, Region, Scaler};

/// How a warp fills the area outside the picture. This corresponds to Keras's
/// `fill_mode` and to the `mode` of `scipy.ndimage.affine_transform`. In the
/// descriptions below, n is the side of the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fill {
    /// Repeats the edge pixel: `aaaa|abcd|dddd`.
    #[default]
    Nearest,
    /// Fills with black (`cval` 0 for pixels from 0 to 255): `kkkk|abcd|kkkk`.
    Constant,
    /// Mirrors the picture and shows the edge pixel twice: `dcba|abcd|dcba`.
    Reflect,
    /// Repeats the picture. In scipy, the last pixel coincides with the first pixel
    /// of the next copy, so the period is n - 1: `bcd(a)bcd(a)bcd`.
    Wrap,
}

/// Ranges of the random geometric changes, which are the options of
/// `ImageDataGenerator`.
///
/// The default is the tutorial's generator: `rotation_range=20,
/// zoom_range=0.15, width_shift_range=0.2, height_shift_range=0.2,
/// shear_range=0.15, horizontal_flip=True, fill_mode="nearest"`. A range of 0 turns
/// the change off, and the sign of a range has no effect.
///
/// The meanings and formulas come from `ImageDataGenerator.get_random_transform` in
/// `tf_keras/src/preprocessing/image.py`, tf-keras 2.21.
#[derive(Debug, Clone, PartialEq)]
pub struct Geometry {
    /// Rotation, drawn uniformly within ± this many degrees.
    pub rotation: f32,
    /// Zoom. The factors in x and y are drawn separately and uniformly within 1 ± this
    /// value. A factor above 1 zooms out, so the view extends beyond the picture.
    pub zoom: f32,
    /// Shift left or right, drawn uniformly within ± this fraction of the width.
    /// Must be less than 1.
    ///
    /// Keras treats values of 1 and above as pixels. Because of a bug in Keras, its
    /// `width_shift_range` moves pictures up and down, and its `height_shift_range`
    /// moves them left and right. Here, the two values do what their names say. If the
    /// pictures are square and both values are equal, as in the tutorial, the bug makes
    /// no difference.
    pub width_shift: f32,
    /// Shift up or down, drawn uniformly within ± this fraction of the height. Must
    /// be less than 1.
    pub height_shift: f32,
    /// Shear, drawn uniformly within ± this many **degrees**, as in Keras. The
    /// tutorial's 0.15 therefore means 0.15 degrees, at most 0.6 pixels over a crop.
    pub shear: f32,
    /// Whether half of the pictures are mirrored left to right after all the changes
    /// above.
    pub horizontal_flip: bool,
    /// How to fill the area outside the picture.
    pub fill: Fill,
    /// Change in brightness, drawn uniformly within ± this many levels (of 0 to 255).
    /// Keras calls the change a channel shift, although all channels are shifted by the
    /// same value. The result is clamped to the range between the darkest and the
    /// brightest value of the warped picture.
    pub channel_shift: f32,
}

impl Geometry {
    /// Returns these options with all ranges that move the picture set to 0 and without flips.
    #[must_use]
    pub fn still(self) -> Geometry {
        Geometry {
            rotation: 0.0,
            zoom: 0.0,
            width_shift: 0.0,
            height_shift: 0.0,
            shear: 0.0,
            horizontal_flip: false,
            ..self
        }
    }
}

impl Default for Geometry {
    fn default() -> Geometry {
        Geometry {
            rotation: 20.0,
            zoom: 0.15,
            width_shift: 0.2,
            height_shift: 0.2,
            shear: 0.15,
            horizontal_flip: true,
            fill: Fill::Nearest,
            channel_shift: 0.0,
        }
    }
}

/// The geometric changes for one view. The default leaves the picture unchanged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GeometryDraw {
    /// Rotation in degrees. Keras calls it `theta`.
    pub theta: f64,
    /// Shift in x, in pixels of a crop. Keras's `apply_affine_transform` calls it `tx`.
    pub shift_x: f64,
    /// Shift in y, in pixels of a crop. Keras's `apply_affine_transform` calls it `ty`.
    pub shift_y: f64,
    /// Shear in degrees. Keras calls it `shear`.
    pub shear: f64,
    /// Zoom factor in x, which Keras calls `zx`. Values above 1 zoom out.
    pub zoom_x: f64,
    /// Zoom factor in y, which Keras calls `zy`. Values above 1 zoom out.
    pub zoom_y: f64,
    /// Whether the view is mirrored left to right after the warp.
    pub flip: bool,
    /// Offset added to all channels, in levels of 0 to 255; see
    /// [`Geometry::channel_shift`].
    pub channel_shift: f32,
}

impl Default for GeometryDraw {
    fn default() -> GeometryDraw {
        GeometryDraw {
            theta: 0.0,
            shift_x: 0.0,
            shift_y: 0.0,
            shear: 0.0,
            zoom_x: 1.0,
            zoom_y: 1.0,
            flip: false,
            channel_shift: 0.0,
        }
    }
}

/// A 3x3 matrix, row by row, that transforms column vectors (x, y, 1).
pub type Matrix = [[f64; 3]; 3];

const IDENTITY: Matrix = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];

fn product(a: &Matrix, b: &Matrix) -> Matrix {
    let mut c = [[0.0; 3]; 3];
    for (row, a) in c.iter_mut().zip(a) {
        for (j, value) in row.iter_mut().enumerate() {
            *value = a[0] * b[0][j] + a[1] * b[1][j] + a[2] * b[2][j];
        }
    }
    c
}

impl GeometryDraw {
    /// Returns the matrix that maps each point in the view to its source. It maps
    /// (x, y, 1) in the view to (x, y, 1) in the crop before the warp. The coordinates
    /// are measured from the center of the top left pixel. The flip is not included.
    ///
    /// The matrix is the same product as in `apply_affine_transform`. From left to
    /// right, the factors are rotation, shift, shear, and zoom, so the shift rotates
    /// with the picture. The center is `side / 2 - 0.5`
    /// (`transform_matrix_offset_center`).
    #[must_use]
    pub fn matrix(&self) -> Matrix {
        let (sin, cos) = self.theta.to_radians().sin_cos();
        let rotation = [[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]];
        let shift = [
            [1.0, 0.0, self.shift_x],
            [0.0, 1.0, self.shift_y],
            [0.0, 0.0, 1.0],
        ];
        let (sin, cos) = self.shear.to_radians().sin_cos();
        let shear = [[1.0, -sin, 0.0], [0.0, cos, 0.0], [0.0, 0.0, 1.0]];
        let zoom = [
            [self.zoom_x, 0.0, 0.0],
            [0.0, self.zoom_y, 0.0],
            [0.0, 0.0, 1.0],
        ];
        let center = f64::from(CROP_SIDE) / 2.0 - 0.5;
        let mut offset = IDENTITY;
        let mut reset = IDENTITY;
        for axis in 0..2 {
            offset[axis][2] = center;
            reset[axis][2] = -center;
        }
        [rotation, shift, shear, zoom, reset]
            .iter()
            .fold(offset, |all, next| product(&all, next))
    }
}

impl Geometry {
    /// Draws the geometric changes for one view.
    pub fn draw(&self, rng: &mut impl Rng) -> GeometryDraw {
        let side = f64::from(CROP_SIDE);
        let mut within = |range: f32| f64::from(range) * (2.0 * rng.random::<f64>() - 1.0);
        GeometryDraw {
            theta: within(self.rotation),
            shift_x: side * within(self.width_shift),
            shift_y: side * within(self.height_shift),
            shear: within(self.shear),
            zoom_x: 1.0 + within(self.zoom),
            zoom_y: 1.0 + within(self.zoom),
            channel_shift: within(self.channel_shift) as f32,
            flip: rng.random::<f64>() < 0.5 && self.horizontal_flip,
        }
    }
}

/// Makes a view of a whole picture, stretched to 224 x 224. If the picture already
/// has the size of a crop, the result is exactly Keras's result, rounded to whole
/// levels. The interpolation is bilinear, like scipy's spline of order 1.
///
/// Bilinear sampling ignores the scale. If a picture is much larger than a crop,
/// scale it down first or use [`warp_region`].
#[must_use]
pub fn warp(picture: &RgbImage, draw: &GeometryDraw, fill: Fill) -> RgbImage {
    let (width, height) = picture.dimensions();
    warp_window(
        picture,
        [0.0, 0.0, f64::from(width), f64::from(height)],
        draw,
        fill,
    )
}

/// Makes a view of part of a picture in one step, as if `region` were cut out, stretched
/// to 224 x 224, and warped. Where the view extends beyond the region, it shows the
/// surrounding picture. It shows the fill only beyond the edge of the picture.
///
/// Large regions are scaled down first to avoid aliasing.
#[must_use]
pub fn warp_region(
    scaler: &mut Scaler,
    picture: &RgbImage,
    region: Region,
    draw: &GeometryDraw,
    fill: Fill,
) -> RgbImage {
    let window = region.as_array().map(f64::from);
    let side = f64::from(CROP_SIDE);
    // Scale the picture so that the shorter side of the region has as many pixels as the
    // crop. The longer side then has slightly more pixels than the crop, which bilinear
    // sampling handles without visible aliasing.
    let factor = side / window[2].min(window[3]).max(1.0);
    if factor < 0.9 {
        let (width, height) = picture.dimensions();
        let longest = f64::from(width.max(height)) * factor;
        if let Ok(small) = scaler.shrink(picture, (longest.round() as u32).max(1)) {
            // The exact factors are computed here because the sides were rounded to
            // whole pixels.
            let x = f64::from(small.width()) / f64::from(width);
            let y = f64::from(small.height()) / f64::from(height);
            let window = [window[0] * x, window[1] * y, window[2] * x, window[3] * y];
            return warp_window(small, window, draw, fill);
        }
    }
    warp_window(picture, window, draw, fill)
}

/// Number of fractional bits in a coordinate.
const POINT: u32 = 32;
/// Number of bits in an interpolation weight. The product of two weights and a level
/// of 255 stays below 2^31.
const WEIGHT: u32 = 11;

/// Converts a coordinate in pixels to a fixed-point number with [`POINT`] fractional bits,
/// clamped to ±`limit`.
fn fixed(pixels: f64, limit: f64) -> i64 {
    (pixels.clamp(-limit, limit) * (1_u64 << POINT) as f64).round() as i64
}

/// Limits for the start of a row and for the steps, in pixels. Values of real draws are
/// below these limits. The limits are small enough that 224 steps from any start still
/// fit in 63 - 32 bits.
const MAX_START: f64 = 1e9;
const MAX_STEP: f64 = 1e6;

/// Warps part of a picture. `window` is the left, top, width, and height in pixels of
/// `picture`.
fn warp_window(picture: &RgbImage, window: [f64; 4], draw: &GeometryDraw, fill: Fill) -> RgbImage {
    let [left, top, width, height] = window;
    let side = f64::from(CROP_SIDE);
    // The matrix `place` maps the pixel center c in a crop to the pixel center
    // (c + 0.5) * scale + left - 0.5 in the picture. If the picture has the size of a
    // crop, the matrix is the identity.
    let (scale_x, scale_y) = (width / side, height / side);
    let place = [
        [scale_x, 0.0, left + 0.5 * scale_x - 0.5],
        [0.0, scale_y, top + 0.5 * scale_y - 0.5],
        [0.0, 0.0, 1.0],
    ];
    let mut matrix = product(&place, &draw.matrix());
    if draw.flip {
        let flip = [[-1.0, 0.0, side - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
        matrix = product(&matrix, &flip);
    }

    // Each closure has its own type, so each fill gets its own inner loop.
    let mut view = match fill {
        Fill::Nearest => sample(picture, &matrix, |at, last| {
            let at = at.clamp(0, i64::from(last) << POINT);
            Some(neighbors(at, last))
        }),
        Fill::Constant => sample(picture, &matrix, |at, last| {
            let inside = (0..=i64::from(last) << POINT).contains(&at);
            inside.then(|| neighbors(at, last))
        }),
        Fill::Reflect => sample(picture, &matrix, |at, last| {
            let count = i64::from(last) + 1;
            let mirrored = |index: i64| {
                let index = index.rem_euclid(2 * count);
                index.min(2 * count - 1 - index) as usize
            };
            let index = at >> POINT;
            Some((mirrored(index), mirrored(index + 1), weight(at)))
        }),
        Fill::Wrap => sample(picture, &matrix, |at, last| {
            let period = i64::from(last.max(1)) << POINT;
            let inside = (0..=period).contains(&at);
            let at = if inside { at } else { at.rem_euclid(period) };
            Some(neighbors(at, last))
        }),
    };
    if draw.channel_shift != 0.0 {
        shift_channels(&mut view, draw.channel_shift);
    }
    view
}

/// Returns the weight of the second neighbor, in units of 2^-[`WEIGHT`].
fn weight(at: i64) -> u32 {
    (at >> (POINT - WEIGHT)) as u32 & ((1 << WEIGHT) - 1)
}

/// Returns the two neighbors of a coordinate in 0..=`last`, and the weight of the
/// second neighbor.
fn neighbors(at: i64, last: u32) -> (usize, usize, u32) {
    let last = last as usize;
    let index = ((at >> POINT) as usize).min(last);
    (index, (index + 1).min(last), weight(at))
}

/// Samples `picture` bilinearly at the points to which `matrix` maps the pixels of a
/// crop.
///
/// If a point does not lie between four pixels, `outside(coordinate, last index)` is
/// called for each coordinate of the point. It returns the two neighbors and the weight
/// of the second neighbor, or `None` for black.
fn sample(
    picture: &RgbImage,
    matrix: &Matrix,
    outside: impl Fn(i64, u32) -> Option<(usize, usize, u32)>,
) -> RgbImage {
    let mut view = RgbImage::new(CROP_SIDE, CROP_SIDE);
    let (width, height) = picture.dimensions();
    if width == 0 || height == 0 {
        return view;
    }
    let pixels = picture.as_raw().as_slice();
    let row_length = 3 * width as usize;
    let (last_x, last_y) = (width - 1, height - 1);
    // A point lies between four pixels if both coordinates are at least 0 and less than
    // the last index. A negative coordinate, interpreted as an unsigned number, is larger
    // than the last index.
    let inner_x = u64::from(last_x) << POINT;
    let inner_y = u64::from(last_y) << POINT;
    let step_x = fixed(matrix[0][0], MAX_STEP);
    let step_y = fixed(matrix[1][0], MAX_STEP);

    let (rows, _) = view.as_chunks_mut::<{ 3 * CROP_SIDE as usize }>();
    for (row, y) in rows.iter_mut().zip(0_u32..) {
        let y = f64::from(y);
        let mut at_x = fixed(matrix[0][1] * y + matrix[0][2], MAX_START);
        let mut at_y = fixed(matrix[1][1] * y + matrix[1][2], MAX_START);
        for pixel in row.as_chunks_mut::<3>().0 {
            if (at_x as u64) < inner_x && (at_y as u64) < inner_y {
                let start = (at_y >> POINT) as usize * row_length + 3 * (at_x >> POINT) as usize;
                let upper = &pixels[start..start + 6];
                let lower = &pixels[start + row_length..start + row_length + 6];
                let (right, down) = (weight(at_x), weight(at_y));
                for (c, value) in pixel.iter_mut().enumerate() {
                    let corners = [upper[c], upper[c + 3], lower[c], lower[c + 3]];
                    *value = blend(corners, right, down);
                }
            } else if let (Some((x0, x1, right)), Some((y0, y1, down))) =
                (outside(at_x, last_x), outside(at_y, last_y))
            {
                let (upper, lower) = (y0 * row_length, y1 * row_length);
                let (x0, x1) = (3 * x0, 3 * x1);
                for (c, value) in pixel.iter_mut().enumerate() {
                    let corners = [upper + x0, upper + x1, lower + x0, lower + x1];
                    *value = blend(corners.map(|corner| pixels[corner + c]), right, down);
                }
            }
            at_x += step_x;
            at_y += step_y;
        }
    }
    view
}

/// Interpolates between the upper left, upper right, lower left, and lower right pixels.
/// `right` and `down` are the weights of the right and the lower pixels in units of
/// 2^-[`WEIGHT`].
fn blend(corners: [u8; 4], right: u32, down: u32) -> u8 {
    let [a, b, c, d] = corners.map(u32::from);
    let one = 1 << WEIGHT;
    let upper = a * (one - right) + b * right;
    let lower = c * (one - right) + d * right;
    let half = 1 << (2 * WEIGHT - 1);
    ((upper * (one - down) + lower * down + half) >> (2 * WEIGHT)) as u8
}

/// Shifts all channels like Keras's `apply_channel_shift`, which clamps the result
/// to the range of values in the picture.
fn shift_channels(picture: &mut RgbImage, shift: f32) {
    let low = picture.iter().copied().min().unwrap_or(0);
    let high = picture.iter().copied().max().unwrap_or(255);
    for value in picture.iter_mut() {
        *value = ((f32::from(*value) + shift).round() as u8).clamp(low, high);
    }
}
