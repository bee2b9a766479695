//! Pictures varied at random, so that a head learns from more than there are.
//!
//! Owns the geometry of Keras' `ImageDataGenerator` (one warp a picture), the
//! changes of light and sharpness of the robust recipe, and the contact sheet
//! to look at them. Pure: the random numbers come in, and it may not know data
//! sets, labels or training. Every kind of change is drawn first, as a plain
//! struct of numbers, and applied after, so that a test can set the numbers.
//!
//! A draw takes the same count of random numbers whatever comes out of it:
//! switching one change off leaves all others as they were for the same seed.

use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use rand::{Rng, RngExt};

use crate::frame::{CROP_SIDE, Rect, Region, Scaler, decode};

/// What a warp shows where it reaches beyond the picture: `fill_mode` of Keras,
/// `mode` of `scipy.ndimage.affine_transform`, n being the picture's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fill {
    /// The pixel of the edge: `aaaa|abcd|dddd`.
    #[default]
    Nearest,
    /// Black (`cval` 0 on pixels of 0 to 255): `kkkk|abcd|kkkk`.
    Constant,
    /// The mirror image, the edge pixel twice: `dcba|abcd|dcba`.
    Reflect,
    /// The other side. scipy lets the first and the last pixel fall on one
    /// another, so the period is n - 1: `bcd(a)bcd(a)bcd`.
    Wrap,
}

/// How far a picture is moved about: the options of `ImageDataGenerator`.
///
/// The default is the tutorial's generator: `rotation_range=20,
/// zoom_range=0.15, width_shift_range=0.2, height_shift_range=0.2,
/// shear_range=0.15, horizontal_flip=True, fill_mode="nearest"`. A range of 0
/// switches its change off; negative ranges mean the same as positive ones.
///
/// Source of meanings and formulas: `ImageDataGenerator.get_random_transform`
/// in `tf_keras/src/preprocessing/image.py`, tf-keras 2.21.
#[derive(Debug, Clone, PartialEq)]
pub struct Geometry {
    /// Turn, uniform in ± this many degrees.
    pub rotation: f32,
    /// The factors in x and y are drawn separately, uniform in 1 ± this share.
    /// A factor above 1 shows more than the picture, that is, zooms out.
    pub zoom: f32,
    /// Shift left or right, uniform in ± this share of the width, below 1.
    ///
    /// (From 1 on, Keras reads it as pixels. And by a slip in Keras, its
    /// `width_shift_range` moves pictures up and down and `height_shift_range`
    /// left and right; here they do what their names say. With equal shares,
    /// as in the tutorial, and square pictures there is no difference.)
    pub width_shift: f32,
    /// Shift up or down, uniform in ± this share of the height, below 1.
    pub height_shift: f32,
    /// Shear, uniform in ± this many **degrees**, as in Keras: the tutorial's
    /// 0.15 is 0.15 degrees, at most 0.6 pixels over a crop.
    pub shear: f32,
    /// Whether half of the pictures are mirrored left to right, after all of
    /// the above.
    pub horizontal_flip: bool,
    /// What shows beyond the picture.
    pub fill: Fill,
    /// Brightness, uniform in ± this many levels of 0 to 255, the same for
    /// all channels despite the name it has in Keras; held within the darkest
    /// and the brightest value that the warped picture has.
    pub channel_shift: f32,
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

/// The numbers that one view of a picture was drawn with; the default leaves
/// the picture as it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GeometryDraw {
    /// Turn in degrees: Keras' `theta`.
    pub theta: f64,
    /// Shift in x, in pixels of a crop: `tx` of `apply_affine_transform`.
    pub shift_x: f64,
    /// Shift in y, in pixels of a crop: `ty` of `apply_affine_transform`.
    pub shift_y: f64,
    /// Shear in degrees: `shear`.
    pub shear: f64,
    /// Factor in x, above 1 zooms out: `zx`.
    pub zoom_x: f64,
    /// Factor in y, above 1 zooms out: `zy`.
    pub zoom_y: f64,
    /// Whether it is mirrored left to right after the warp.
    pub flip: bool,
    /// Added to all channels, in levels of 0 to 255.
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

/// Rows of a 3x3 matrix on column vectors (x, y, 1).
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
    /// Where each pixel of the view comes from: (x, y, 1) in the crop that is
    /// made, to (x, y, 1) in the crop that is warped, both counted from the
    /// center of the pixel at the top left. The flip is not part of it.
    ///
    /// `apply_affine_transform`'s product: rotation, shift, shear, zoom, from
    /// left to right (so the shift turns with the picture), about the center
    /// `side / 2 - 0.5` (`transform_matrix_offset_center`).
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
    /// Draws one view.
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

/// The view of a whole picture, stretched to 224 x 224: of a picture that is a
/// crop already, exactly what Keras makes of it (bilinear, as scipy's spline of
/// order 1), rounded to whole levels.
///
/// Bilinear without regard to scale: a picture much larger than a crop should
/// be scaled down before, or go through [`warp_region`].
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

/// The view of a part of a picture: as if `region` had been cut, stretched to
/// 224 x 224 and warped, but in one step, and with the picture's own
/// surroundings where the view reaches beyond the region. Only beyond the
/// picture's edge the fill shows.
///
/// Large regions are scaled down first, so that they don't alias.
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
    // Down to one pixel a pixel along the region's shorter side. Along the
    // longer side it stays a little finer than the crop, which bilinear
    // sampling takes without visible aliasing.
    let factor = side / window[2].min(window[3]).max(1.0);
    if factor < 0.9 {
        let (width, height) = picture.dimensions();
        let longest = f64::from(width.max(height)) * factor;
        if let Ok(small) = scaler.shrink(picture, (longest.round() as u32).max(1)) {
            // The true factors: sides are rounded to whole pixels.
            let x = f64::from(small.width()) / f64::from(width);
            let y = f64::from(small.height()) / f64::from(height);
            let window = [window[0] * x, window[1] * y, window[2] * x, window[3] * y];
            return warp_window(small, window, draw, fill);
        }
    }
    warp_window(picture, window, draw, fill)
}

/// Binary digits behind the point of a coordinate.
const POINT: u32 = 32;
/// Binary digits of an interpolation weight: two of them times a level of 255
/// stay below 2^31.
const WEIGHT: u32 = 11;

/// A coordinate in pixels with [`POINT`] binary digits, held within ±`limit`.
fn fixed(pixels: f64, limit: f64) -> i64 {
    (pixels.clamp(-limit, limit) * (1_u64 << POINT) as f64).round() as i64
}

/// Limits of a row's start and of its steps in pixels: farther than any real
/// draw leads, and 224 steps from any start still fit in 63 - 32 digits.
const FARTHEST: f64 = 1e9;
const LONGEST_STEP: f64 = 1e6;

/// `window` is left, top, width and height in pixels of `picture`.
fn warp_window(picture: &RgbImage, window: [f64; 4], draw: &GeometryDraw, fill: Fill) -> RgbImage {
    let [left, top, width, height] = window;
    let side = f64::from(CROP_SIDE);
    // From pixel centers of a crop to those of the picture: (c + 0.5) * scale
    // + left - 0.5. For a picture that is a crop this is the identity.
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

    // A kind of fill is a type here, so that each gets a loop of its own.
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

/// Share of the second neighbor, in 2^-[`WEIGHT`].
fn weight(at: i64) -> u32 {
    (at >> (POINT - WEIGHT)) as u32 & ((1 << WEIGHT) - 1)
}

/// Both neighbors of a coordinate in 0..=`last`, and the second one's share.
fn neighbors(at: i64, last: u32) -> (usize, usize, u32) {
    let last = last as usize;
    let index = ((at >> POINT) as usize).min(last);
    (index, (index + 1).min(last), weight(at))
}

/// Bilinear samples of `picture` where `matrix` leads the pixels of a crop to.
///
/// `beyond(coordinate, last index)` gives the two neighbors and the second
/// one's weight for coordinates that don't lie between four pixels; `None` is
/// black.
fn sample(
    picture: &RgbImage,
    matrix: &Matrix,
    beyond: impl Fn(i64, u32) -> Option<(usize, usize, u32)>,
) -> RgbImage {
    let mut view = RgbImage::new(CROP_SIDE, CROP_SIDE);
    let (width, height) = picture.dimensions();
    if width == 0 || height == 0 {
        return view;
    }
    let pixels = picture.as_raw().as_slice();
    let row_length = 3 * width as usize;
    let (last_x, last_y) = (width - 1, height - 1);
    // Between four pixels: at least 0 and below the last one. As unsigned
    // numbers, negative coordinates are large ones.
    let inner_x = u64::from(last_x) << POINT;
    let inner_y = u64::from(last_y) << POINT;
    let step_x = fixed(matrix[0][0], LONGEST_STEP);
    let step_y = fixed(matrix[1][0], LONGEST_STEP);

    let (rows, _) = view.as_chunks_mut::<{ 3 * CROP_SIDE as usize }>();
    for (row, y) in rows.iter_mut().zip(0_u32..) {
        let y = f64::from(y);
        let mut at_x = fixed(matrix[0][1] * y + matrix[0][2], FARTHEST);
        let mut at_y = fixed(matrix[1][1] * y + matrix[1][2], FARTHEST);
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
                (beyond(at_x, last_x), beyond(at_y, last_y))
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

/// Upper left, upper right, lower left, lower right; shares of the right ones
/// and of the lower ones in 2^-[`WEIGHT`].
fn blend(corners: [u8; 4], right: u32, down: u32) -> u8 {
    let [a, b, c, d] = corners.map(u32::from);
    let one = 1 << WEIGHT;
    let upper = a * (one - right) + b * right;
    let lower = c * (one - right) + d * right;
    let half = 1 << (2 * WEIGHT - 1);
    ((upper * (one - down) + lower * down + half) >> (2 * WEIGHT)) as u8
}

/// Keras' `apply_channel_shift`: the result stays within the values that the
/// picture had.
fn shift_channels(picture: &mut RgbImage, shift: f32) {
    let low = picture.iter().copied().min().unwrap_or(0);
    let high = picture.iter().copied().max().unwrap_or(255);
    for value in picture.iter_mut() {
        *value = ((f32::from(*value) + shift).round() as u8).clamp(low, high);
    }
}

/// The margin of one crop as a share of the face's box, uniform from `from` to
/// `to`: for [`Rect::region`].
pub fn margin((from, to): (f32, f32), rng: &mut impl Rng) -> f32 {
    from + (to - from) * rng.random::<f32>()
}

/// A change that some of the pictures get, with its strength.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandomRange {
    /// Share of the pictures that get it, 0 to 1.
    pub probability: f32,
    /// Least strength, in the unit that the field says.
    pub from: f32,
    /// Greatest strength.
    pub to: f32,
}

impl RandomRange {
    fn new(probability: f32, from: f32, to: f32) -> RandomRange {
        RandomRange {
            probability,
            from,
            to,
        }
    }

    /// The strength, all alike likely; `None` if this picture goes without.
    fn draw(self, rng: &mut impl Rng) -> Option<f32> {
        let (coin, share) = rng.random::<(f32, f32)>();
        (coin < self.probability).then_some(self.from + (self.to - self.from) * share)
    }

    /// As [`RandomRange::draw`], but all *ratios* alike likely: from 24 to 48 as
    /// often as from 48 to 96. Both ends must be above 0.
    fn draw_ratio(self, rng: &mut impl Rng) -> Option<f32> {
        let (coin, share) = rng.random::<(f32, f32)>();
        (coin < self.probability).then(|| self.from * (self.to / self.from).powf(share))
    }
}

/// Light that the training pictures don't have, so that a head does not take
/// it for a sign.
#[derive(Debug, Clone, PartialEq)]
pub struct Light {
    /// Share of the pictures that get any of the below; the others keep their
    /// own light.
    pub probability: f32,
    /// Exponent on values of 0 to 1; above 1 darkens. Ratios alike likely.
    pub gamma: RandomRange,
    /// Linear gradient in a random direction: brightness times 1 + this at one
    /// end and 1 - this at the other, below 1.
    pub gradient: RandomRange,
    /// Color cast: each channel times e to a power uniform in ± this.
    pub cast: RandomRange,
    /// Factor on the brightness, at most 1 darkens. Ratios alike likely. Less
    /// so where the gamma darkens too: a middle gray keeps at least 23 levels
    /// of 255 (before cast and gradient), so that something is left to see.
    pub darken: RandomRange,
    /// Haze: this share of the way to one gray, 0 to 1.
    pub haze: RandomRange,
    /// Colorfulness, 0 is gray and 1 unchanged.
    pub saturation: RandomRange,
}

impl Default for Light {
    fn default() -> Light {
        Light {
            probability: 1.0,
            gamma: RandomRange::new(0.8, 0.4, 3.2),
            gradient: RandomRange::new(0.5, 0.2, 0.9),
            cast: RandomRange::new(0.5, 0.05, 0.35),
            darken: RandomRange::new(0.5, 0.25, 1.0),
            haze: RandomRange::new(0.4, 0.1, 0.6),
            saturation: RandomRange::new(0.3, 0.0, 1.6),
        }
    }
}

/// The light of one view; the default leaves it as it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LightDraw {
    /// Exponent on values of 0 to 1.
    pub gamma: f32,
    /// Factor on all channels.
    pub gain: f32,
    /// Factor of red, green and blue.
    pub cast: [f32; 3],
    /// Change of brightness from the center to the right and to the lower
    /// edge, as a share.
    pub gradient: [f32; 2],
    /// Share of the way to `haze_level`, 0 to 1.
    pub haze: f32,
    /// The gray of the haze, 0 to 255.
    pub haze_level: f32,
    /// Colorfulness, 0 is gray and 1 unchanged.
    pub saturation: f32,
}

impl Default for LightDraw {
    fn default() -> LightDraw {
        LightDraw {
            gamma: 1.0,
            gain: 1.0,
            cast: [1.0; 3],
            gradient: [0.0; 2],
            haze: 0.0,
            haze_level: 128.0,
            saturation: 1.0,
        }
    }
}

/// Weights of red, green and blue in the brightness (Rec. 601, as JPEG's).
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

impl Light {
    /// Draws the light of one view.
    pub fn draw(&self, rng: &mut impl Rng) -> LightDraw {
        let any = rng.random::<f32>() < self.probability;
        let gamma = self.gamma.draw_ratio(rng).unwrap_or(1.0);
        let least = 0.09 / 0.5_f32.powf(gamma);
        let gain = self.darken.draw_ratio(rng);
        let gain = gain.map_or(1.0, |gain| gain.max(least.min(1.0)));
        let gradient = self.gradient.draw(rng).unwrap_or(0.0);
        let (sin, cos) = (std::f32::consts::TAU * rng.random::<f32>()).sin_cos();
        // Over the corners, so that the far one gets 1 + gradient.
        let reach = gradient / (sin.abs() + cos.abs());
        let cast = self.cast.draw(rng).unwrap_or(0.0);
        let powers: [f32; 3] = rng.random();
        let draw = LightDraw {
            gamma,
            gain,
            cast: powers.map(|power| (cast * (2.0 * power - 1.0)).exp()),
            gradient: [reach * cos, reach * sin],
            haze: self.haze.draw(rng).unwrap_or(0.0),
            haze_level: 25.0 + 205.0 * rng.random::<f32>(),
            saturation: self.saturation.draw(rng).unwrap_or(1.0),
        };
        if any { draw } else { LightDraw::default() }
    }
}

impl LightDraw {
    /// Changes the picture's light, in one pass.
    pub fn apply(&self, picture: &mut RgbImage) {
        if *self == LightDraw::default() {
            return;
        }
        let (width, height) = picture.dimensions();
        // What does not depend on the place, by value.
        let clear = 1.0 - self.haze;
        let veil = self.haze * self.haze_level + 0.5;
        let curve: Vec<f32> = (0..=255_u8)
            .map(|value| 255.0 * (f32::from(value) / 255.0).powf(self.gamma) * self.gain * clear)
            .collect();
        let tables = self
            .cast
            .map(|factor| curve.iter().map(|value| value * factor).collect::<Vec<_>>());

        let place = |at: u32, of: u32| (2 * at + 1) as f32 / of as f32 - 1.0;
        let across: Vec<f32> = (0..width)
            .map(|x| self.gradient[0] * place(x, width))
            .collect();
        let rows = picture.chunks_exact_mut(3 * width.max(1) as usize);
        for (row, y) in rows.zip(0..) {
            let base = 1.0 + self.gradient[1] * place(y, height);
            for (pixel, right) in row.as_chunks_mut::<3>().0.iter_mut().zip(&across) {
                let brightness = (base + right).max(0.0);
                let mut values = [0.0; 3];
                for c in 0..3 {
                    values[c] = tables[c][usize::from(pixel[c])] * brightness + veil;
                }
                if self.saturation != 1.0 {
                    let gray: f32 = values.iter().zip(LUMA).map(|(v, weight)| v * weight).sum();
                    values = values.map(|value| gray + self.saturation * (value - gray));
                }
                // `as` cuts off below 0 and above 255; the half of rounding is
                // in `veil`.
                for (to, value) in pixel.iter_mut().zip(values) {
                    *to = value as u8;
                }
            }
        }
    }
}

/// What a small camera makes of a face: few pixels, motion, noise, compression.
///
/// Of all changes of the robust recipe it is the JPEG that helps most on
/// cameras which the head has not seen (`docs/DESIGN.md`).
#[derive(Debug, Clone, PartialEq)]
pub struct Camera {
    /// Share of the pictures that get any of the below.
    pub probability: f32,
    /// Scaled down to so many pixels a side, and up again at the end. Ratios
    /// alike likely.
    pub side: RandomRange,
    /// Motion blur: length of a straight path as a share of the scaled down
    /// side, in a random direction.
    pub motion: RandomRange,
    /// Noise, its standard deviation in levels of 0 to 255; on the scaled down
    /// picture, so that small faces have coarse noise.
    pub noise: RandomRange,
    /// JPEG at this quality, 1 to 100; on the scaled down picture too, as a
    /// camera compresses a small face.
    pub jpeg: RandomRange,
}

impl Default for Camera {
    fn default() -> Camera {
        Camera {
            probability: 1.0,
            side: RandomRange::new(1.0, 40.0, 200.0),
            motion: RandomRange::new(0.3, 0.03, 0.1),
            noise: RandomRange::new(0.5, 2.5, 20.0),
            jpeg: RandomRange::new(0.6, 20.0, 80.0),
        }
    }
}

/// The camera of one view; the default leaves it as it is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CameraDraw {
    /// Longest side in pixels that it is scaled down to.
    pub side: Option<u32>,
    /// Path of the motion to the right and down, as a share of the side.
    pub motion: [f32; 2],
    /// Standard deviation of the noise in levels; 0 is none.
    pub noise: f32,
    /// What the noise is made from.
    pub noise_seed: u64,
    /// JPEG quality, 1 to 100.
    pub jpeg: Option<u8>,
}

impl Camera {
    /// Draws the camera of one view.
    pub fn draw(&self, rng: &mut impl Rng) -> CameraDraw {
        let any = rng.random::<f32>() < self.probability;
        let motion = self.motion.draw(rng);
        let (sin, cos) = (std::f32::consts::TAU * rng.random::<f32>()).sin_cos();
        let draw = CameraDraw {
            side: self.side.draw_ratio(rng).map(|side| side.round() as u32),
            motion: motion.map_or([0.0; 2], |length| [length * cos, length * sin]),
            noise: self.noise.draw(rng).unwrap_or(0.0),
            noise_seed: rng.random(),
            jpeg: self.jpeg.draw(rng).map(|quality| quality.round() as u8),
        };
        if any { draw } else { CameraDraw::default() }
    }
}

impl CameraDraw {
    /// Takes the picture again with this camera, in the order in which one
    /// spoils it: pixels, motion, noise, compression; then stretched to 224 x
    /// 224 as every crop of a small face is. A picture that stays as large as
    /// it was keeps its size.
    #[must_use]
    pub fn apply(&self, scaler: &mut Scaler, mut picture: RgbImage) -> RgbImage {
        if let Some(side) = self.side
            && let Ok(small) = scaler.shrink(&picture, side.max(1))
        {
            let small = small.clone();
            picture = small;
        }
        if self.motion != [0.0; 2] {
            picture = smear(&picture, self.motion);
        }
        add_noise(&mut picture, self.noise, self.noise_seed);
        if let Some(quality) = self.jpeg {
            picture = through_jpeg(picture, quality);
        }
        if self.side.is_some() {
            picture = stretched(scaler, picture);
        }
        picture
    }
}

/// The mean along a straight path about each pixel, `path` as a share of the
/// longest side; the edge pixels repeated outward.
fn smear(picture: &RgbImage, path: [f32; 2]) -> RgbImage {
    let (width, height) = picture.dimensions();
    let side = width.max(height) as f32;
    // NaN becomes 0, and no path is longer than the picture.
    let [x, y] = path.map(|share| (share * side).clamp(-side, side));
    let length = x.abs().max(y.abs());
    if length.is_nan() || length < 0.5 || width == 0 || height == 0 {
        return picture.clone();
    }
    let points = length.ceil() as i32 + 1;
    let steps: Vec<(i64, i64)> = (0..points)
        .map(|point| {
            let along = point as f32 / (points - 1) as f32 - 0.5;
            ((x * along).round() as i64, (y * along).round() as i64)
        })
        .collect();
    RgbImage::from_fn(width, height, |column, row| {
        let mut sums = [0_u32; 3];
        for (right, down) in &steps {
            let x = (i64::from(column) + right).clamp(0, i64::from(width) - 1) as u32;
            let y = (i64::from(row) + down).clamp(0, i64::from(height) - 1) as u32;
            for (sum, value) in sums.iter_mut().zip(picture.get_pixel(x, y).0) {
                *sum += u32::from(value);
            }
        }
        let count = steps.len() as u32;
        image::Rgb(sums.map(|sum| ((sum + count / 2) / count) as u8))
    })
}

/// Sharpness that the training pictures don't have. In the tutorial's data set
/// bare faces are often blurred and masked ones are not.
#[derive(Debug, Clone, PartialEq)]
pub struct Sharpness {
    /// Share of the pictures that get any of the below.
    pub probability: f32,
    /// Scaled down to so many pixels a side, and up again: a small face. Ratios
    /// alike likely.
    pub side: RandomRange,
    /// Blur by a Gaussian, its standard deviation in pixels of the crop. Ratios
    /// alike likely.
    pub blur: RandomRange,
}

impl Default for Sharpness {
    fn default() -> Sharpness {
        Sharpness {
            probability: 1.0,
            side: RandomRange::new(0.7, 24.0, 160.0),
            blur: RandomRange::new(0.4, 0.6, 4.0),
        }
    }
}

/// The sharpness of one view; the default leaves it as it is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SharpnessDraw {
    /// Longest side in pixels that it is scaled down to.
    pub side: Option<u32>,
    /// Standard deviation of the blur in pixels; 0 is none.
    pub blur: f32,
}

impl Sharpness {
    /// Draws the sharpness of one view.
    pub fn draw(&self, rng: &mut impl Rng) -> SharpnessDraw {
        let any = rng.random::<f32>() < self.probability;
        let draw = SharpnessDraw {
            side: self.side.draw_ratio(rng).map(|side| side.round() as u32),
            blur: self.blur.draw_ratio(rng).unwrap_or(0.0),
        };
        if any { draw } else { SharpnessDraw::default() }
    }
}

impl SharpnessDraw {
    /// Scales the picture down and up, and blurs it.
    #[must_use]
    pub fn apply(&self, scaler: &mut Scaler, mut picture: RgbImage) -> RgbImage {
        if let Some(side) = self.side {
            if let Ok(small) = scaler.shrink(&picture, side.max(1)) {
                let small = small.clone();
                picture = small;
            }
            picture = stretched(scaler, picture);
        }
        blur(&mut picture, self.blur);
        picture
    }
}

/// The whole picture at the size of a crop.
fn stretched(scaler: &mut Scaler, picture: RgbImage) -> RgbImage {
    let (width, height) = picture.dimensions();
    let crop = whole(&picture).and_then(|region| scaler.crop(&picture, region).ok());
    match crop {
        Some(crop) if (width, height) != (CROP_SIDE, CROP_SIDE) => crop.pixels().clone(),
        _ => picture,
    }
}

/// All of a picture as a region; `None` if it is empty.
#[must_use]
pub fn whole(picture: &RgbImage) -> Option<Region> {
    let (width, height) = picture.dimensions();
    let rect = Rect {
        x: 0.0,
        y: 0.0,
        width: width as f32,
        height: height as f32,
    };
    rect.region(0.0, width, height)
}

/// Blurs by a Gaussian of this standard deviation in pixels (at most 16), the
/// edge pixels repeated outward.
fn blur(picture: &mut RgbImage, deviation: f32) {
    let deviation = deviation.min(16.0);
    // Below this the neighbors' weights round to nothing; NaN ends here too.
    if deviation.is_nan() || deviation < 0.2 {
        return;
    }
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    if width == 0 || height == 0 {
        return;
    }
    let reach = (3.0 * deviation).ceil() as usize;
    let mut kernel: Vec<f32> = (0..=2 * reach)
        .map(|at| {
            let from_centre = (at as f32 - reach as f32) / deviation;
            (-0.5 * from_centre * from_centre).exp()
        })
        .collect();
    let sum: f32 = kernel.iter().sum();
    for weight in &mut kernel {
        *weight /= sum;
    }

    // Along the rows; both passes run over whole rows for each weight, a plain
    // multiply-add for the compiler to vectorise.
    let row_length = 3 * width;
    let mut across = vec![0.0_f32; row_length * height];
    let mut padded = vec![0.0_f32; row_length + 6 * reach];
    for (from, to) in picture
        .chunks_exact(row_length)
        .zip(across.chunks_exact_mut(row_length))
    {
        for (at, value) in padded.iter_mut().enumerate() {
            let x = (at / 3).saturating_sub(reach).min(width - 1);
            *value = f32::from(from[3 * x + at % 3]);
        }
        for (shift, weight) in kernel.iter().enumerate() {
            for (to, value) in to.iter_mut().zip(&padded[3 * shift..]) {
                *to += weight * value;
            }
        }
    }
    // Down the columns.
    let mut sums = vec![0.0_f32; row_length];
    for (y, to) in picture.chunks_exact_mut(row_length).enumerate() {
        sums.fill(0.5);
        for (shift, weight) in kernel.iter().enumerate() {
            let y = (y + shift).saturating_sub(reach).min(height - 1);
            let from = &across[y * row_length..][..row_length];
            for (sum, value) in sums.iter_mut().zip(from) {
                *sum += weight * value;
            }
        }
        for (to, sum) in to.iter_mut().zip(&sums) {
            *to = *sum as u8;
        }
    }
}

/// Adds noise of this standard deviation in levels: a part that all channels
/// share and a part of their own, as sensors have.
fn add_noise(picture: &mut RgbImage, deviation: f32, seed: u64) {
    if deviation.is_nan() || deviation <= 0.0 {
        return;
    }
    // 0.8² + 0.6² = 1.
    let shared_part = 0.8 * deviation;
    let own_part = 0.6 * deviation;
    let mut state = seed;
    for pixel in picture.as_chunks_mut::<3>().0 {
        let (shared, red) = two_normals(&mut state);
        let (green, blue) = two_normals(&mut state);
        for (value, own) in pixel.iter_mut().zip([red, green, blue]) {
            let noise = shared_part * shared + own_part * own;
            *value = (f32::from(*value) + noise + 0.5) as u8;
        }
    }
}

/// Two numbers that are nearly normal (the sum of four bytes each, ±3.4 at the
/// most), from one step of SplitMix64 (Steele, Lea, Flood 2014): 200,000 a
/// crop have to be cheap, and need be no better.
fn two_normals(state: &mut u64) -> (f32, f32) {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    // Sums of bytes: pairs first, in lanes of 16 bits.
    let pairs = (mixed & 0x00ff_00ff_00ff_00ff) + ((mixed >> 8) & 0x00ff_00ff_00ff_00ff);
    let lane = |shift: u32| (pairs >> shift & 0xffff) as f32;
    // Mean 4 * 127.5, variance 4 * (256² - 1) / 12.
    let normal = |sum: f32| (sum - 510.0) * (1.0 / 147.8);
    (normal(lane(0) + lane(16)), normal(lane(32) + lane(48)))
}

/// What JPEG at this quality leaves of a picture.
fn through_jpeg(picture: RgbImage, quality: u8) -> RgbImage {
    let mut bytes = Vec::new();
    let quality = quality.clamp(1, 100);
    let encoded = JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(&picture);
    match encoded {
        Ok(()) => decode(&bytes).unwrap_or(picture),
        // Only of an empty picture.
        Err(_) => picture,
    }
}

/// The robust recipe's changes of a picture, with the ranges that generalized
/// best to cameras which the head had not seen (`docs/DESIGN.md`): geometry as
/// in the tutorial, color and strong light, a small camera, and sharpness
/// taken as no sign.
#[derive(Debug, Clone, PartialEq)]
pub struct Robust {
    /// Moved about.
    pub geometry: Geometry,
    /// Share of the pictures that become gray, as an infrared camera's are.
    pub gray: f32,
    /// Other light.
    pub light: Light,
    /// Another camera.
    pub camera: Camera,
    /// Other sharpness.
    pub sharpness: Sharpness,
    /// From and to: margin of crops that are cut around a face's box, as a
    /// share of the box; for [`margin`].
    pub margin: (f32, f32),
}

impl Default for Robust {
    fn default() -> Robust {
        Robust {
            geometry: Geometry::default(),
            gray: 0.25,
            light: Light::default(),
            camera: Camera::default(),
            sharpness: Sharpness::default(),
            margin: (-0.05, 0.4),
        }
    }
}

/// One view by the robust recipe; the default leaves the picture as it is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RobustDraw {
    /// Moved about.
    pub geometry: GeometryDraw,
    /// What it becomes gray by: shares of red, green and blue that sum to 1.
    pub gray: Option<[f32; 3]>,
    /// Other light.
    pub light: LightDraw,
    /// Another camera.
    pub camera: CameraDraw,
    /// Other sharpness.
    pub sharpness: SharpnessDraw,
}

impl Robust {
    /// Draws one view.
    pub fn draw(&self, rng: &mut impl Rng) -> RobustDraw {
        RobustDraw {
            geometry: self.geometry.draw(rng),
            gray: self.draw_grey(rng),
            light: self.light.draw(rng),
            camera: self.camera.draw(rng),
            sharpness: self.sharpness.draw(rng),
        }
    }

    /// Sensors see red, green and blue unlike eyes, and infrared unlike both:
    /// the shares are drawn too.
    fn draw_grey(&self, rng: &mut impl Rng) -> Option<[f32; 3]> {
        let gray = rng.random::<f32>() < self.gray;
        let weights = rng.random::<[f32; 3]>().map(|weight| weight + 0.05);
        let sum: f32 = weights.iter().sum();
        gray.then(|| weights.map(|weight| weight / sum))
    }

    /// A view of a part of a picture, 224 x 224: the face with its margin, or
    /// the [`whole`] picture.
    pub fn view(
        &self,
        scaler: &mut Scaler,
        picture: &RgbImage,
        region: Region,
        rng: &mut impl Rng,
    ) -> RgbImage {
        let draw = self.draw(rng);
        let view = warp_region(scaler, picture, region, &draw.geometry, self.geometry.fill);
        draw.spoil(scaler, view)
    }
}

impl RobustDraw {
    /// Color, light, camera and sharpness, without the geometry.
    #[must_use]
    pub fn spoil(&self, scaler: &mut Scaler, mut picture: RgbImage) -> RgbImage {
        if let Some(weights) = self.gray {
            for pixel in picture.as_chunks_mut::<3>().0 {
                let parts = pixel.iter().zip(weights);
                let gray: f32 = parts
                    .map(|(value, weight)| f32::from(*value) * weight)
                    .sum();
                pixel.fill((gray + 0.5) as u8);
            }
        }
        self.light.apply(&mut picture);
        let picture = self.camera.apply(scaler, picture);
        self.sharpness.apply(scaler, picture)
    }
}

/// Pixels between the pictures of a contact sheet, and around them.
const GAP: u32 = 4;

/// Pictures side by side on white, `columns` in a row (at least one), in cells
/// as large as the largest of them.
#[must_use]
pub fn contact_sheet(crops: &[RgbImage], columns: usize) -> RgbImage {
    let columns = columns.clamp(1, crops.len().max(1));
    let rows = crops.len().div_ceil(columns);
    let cell_width = GAP + crops.iter().map(RgbImage::width).max().unwrap_or(0);
    let cell_height = GAP + crops.iter().map(RgbImage::height).max().unwrap_or(0);
    let mut sheet = RgbImage::from_pixel(
        GAP + columns as u32 * cell_width,
        GAP + rows as u32 * cell_height,
        image::Rgb([255; 3]),
    );
    for (index, crop) in crops.iter().enumerate() {
        let x = GAP + (index % columns) as u32 * cell_width;
        let y = GAP + (index / columns) as u32 * cell_height;
        image::imageops::replace(&mut sheet, crop, i64::from(x), i64::from(y));
    }
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn rng(seed: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(seed)
    }

    /// Smooth with a little texture, every channel another.
    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([
                (x * 255 / width.max(1)) as u8,
                (y * 255 / height.max(1)) as u8,
                ((x * 7 + y * 13) % 256) as u8,
            ])
        })
    }

    fn mean(picture: &RgbImage) -> f64 {
        picture.iter().map(|value| f64::from(*value)).sum::<f64>() / picture.len() as f64
    }

    const FILLS: [Fill; 4] = [Fill::Nearest, Fill::Constant, Fill::Reflect, Fill::Wrap];

    #[test]
    fn a_draw_of_nothing_changes_nothing() {
        let picture = picture(CROP_SIDE, CROP_SIDE);
        let mut scaler = Scaler::default();
        for fill in FILLS {
            assert_eq!(warp(&picture, &GeometryDraw::default(), fill), picture);
            let region = whole(&picture).unwrap();
            let view = warp_region(
                &mut scaler,
                &picture,
                region,
                &GeometryDraw::default(),
                fill,
            );
            assert_eq!(view, picture);
        }
        let spoilt = RobustDraw::default().spoil(&mut scaler, picture.clone());
        assert_eq!(spoilt, picture);
    }

    #[test]
    fn ranges_of_nothing_draw_nothing() {
        let off = Geometry {
            rotation: 0.0,
            zoom: 0.0,
            width_shift: 0.0,
            height_shift: 0.0,
            shear: 0.0,
            horizontal_flip: false,
            ..Geometry::default()
        };
        for seed in 0..20 {
            assert_eq!(off.draw(&mut rng(seed)), GeometryDraw::default());
        }
    }

    #[test]
    fn draws_fill_their_ranges_and_keep_to_them() {
        let geometry = Geometry::default();
        let mut rng = rng(1);
        let draws: Vec<GeometryDraw> = (0..4000).map(|_| geometry.draw(&mut rng)).collect();
        let check = |value: fn(&GeometryDraw) -> f64, middle: f64, range: f64| {
            let values = draws.iter().map(value);
            let low = values.clone().fold(f64::MAX, f64::min);
            let high = values.clone().fold(f64::MIN, f64::max);
            let mean = values.sum::<f64>() / draws.len() as f64;
            assert!(low >= middle - range - 1e-6 && low < middle - 0.99 * range);
            assert!(high <= middle + range + 1e-6 && high > middle + 0.99 * range);
            assert!((mean - middle).abs() < 0.05 * range, "{mean} for {middle}");
        };
        check(|draw| draw.theta, 0.0, 20.0);
        check(|draw| draw.shift_x, 0.0, 0.2 * 224.0);
        check(|draw| draw.shift_y, 0.0, 0.2 * 224.0);
        check(|draw| draw.shear, 0.0, 0.15);
        check(|draw| draw.zoom_x, 1.0, 0.15);
        check(|draw| draw.zoom_y, 1.0, 0.15);
        let flipped = draws.iter().filter(|draw| draw.flip).count();
        assert!((1880..2120).contains(&flipped), "{flipped} of 4000");
        assert!(draws.iter().any(|draw| draw.zoom_x != draw.zoom_y));
        assert!(draws.iter().all(|draw| draw.channel_shift == 0.0));
    }

    #[test]
    fn switching_one_change_off_leaves_the_others() {
        let mut robust = Robust::default();
        let before: Vec<RobustDraw> = (0..50).map(|seed| robust.draw(&mut rng(seed))).collect();
        robust.geometry.rotation = 0.0;
        robust.light.haze.probability = 0.0;
        robust.sharpness.blur.probability = 0.0;
        for (seed, mut before) in before.into_iter().enumerate() {
            before.geometry.theta = 0.0;
            before.light.haze = 0.0;
            before.sharpness.blur = 0.0;
            let mut after = robust.draw(&mut rng(seed as u64));
            // Light that is all off has its own level of haze.
            after.light.haze_level = before.light.haze_level;
            assert_eq!(after, before);
        }
    }

    #[test]
    fn a_shift_shows_what_lies_to_the_right_and_below() {
        let picture = picture(CROP_SIDE, CROP_SIDE);
        let draw = GeometryDraw {
            shift_x: 10.0,
            shift_y: 20.0,
            ..GeometryDraw::default()
        };
        let view = warp(&picture, &draw, Fill::Nearest);
        assert_eq!(view.get_pixel(50, 60), picture.get_pixel(60, 80));
        assert_eq!(view.get_pixel(223, 223), picture.get_pixel(223, 223));
        assert_eq!(view.get_pixel(220, 3), picture.get_pixel(223, 23));

        let black = warp(&picture, &draw, Fill::Constant);
        assert_eq!(black.get_pixel(220, 3).0, [0; 3]);
        let mirror = warp(&picture, &draw, Fill::Reflect);
        // 220 + 10 is 7 beyond the last pixel, which comes twice.
        assert_eq!(mirror.get_pixel(220, 3), picture.get_pixel(217, 23));
        let other_side = warp(&picture, &draw, Fill::Wrap);
        assert_eq!(other_side.get_pixel(220, 3), picture.get_pixel(7, 23));

        let flipped = GeometryDraw { flip: true, ..draw };
        let mut expected = view;
        image::imageops::flip_horizontal_in_place(&mut expected);
        assert_eq!(warp(&picture, &flipped, Fill::Nearest), expected);
    }

    #[test]
    fn a_channel_shift_stays_within_the_values_of_the_picture() {
        let picture = RgbImage::from_fn(224, 224, |x, _| image::Rgb([50 + (x / 2) as u8; 3]));
        let draw = GeometryDraw {
            channel_shift: 30.4,
            ..GeometryDraw::default()
        };
        let view = warp(&picture, &draw, Fill::Nearest);
        assert_eq!(view.get_pixel(0, 0).0, [80; 3]);
        assert_eq!(view.get_pixel(223, 0).0, [50 + 111; 3]);
    }

    #[test]
    fn a_region_is_seen_with_its_true_surroundings() {
        let mut scaler = Scaler::default();
        let source = picture(448, 448);
        let rect = Rect {
            x: 100.0,
            y: 120.0,
            width: 224.0,
            height: 224.0,
        };
        let region = rect.region(0.0, 448, 448).unwrap();
        let draw = GeometryDraw {
            shift_x: 44.0,
            ..GeometryDraw::default()
        };
        let view = warp_region(&mut scaler, &source, region, &draw, Fill::Constant);
        assert_eq!(view.get_pixel(0, 0), source.get_pixel(144, 120));
        assert_eq!(view.get_pixel(223, 223), source.get_pixel(367, 343));

        // Upright, a region is the crop that the frame path makes of it.
        for (side, limit) in [(150.0, 0.6), (224.0, 0.1), (430.0, 2.5)] {
            let rect = Rect {
                x: 3.0,
                y: 5.0,
                width: side,
                height: side,
            };
            let region = rect.region(0.0, 448, 448).unwrap();
            let draw = GeometryDraw::default();
            let view = warp_region(&mut scaler, &source, region, &draw, Fill::Nearest);
            let crop = scaler.crop(&source, region).unwrap();
            // Red and green only: blue has steps that no two scalings agree on.
            let difference: u64 = view
                .pixels()
                .zip(crop.pixels().pixels())
                .map(|(a, b)| u64::from(a[0].abs_diff(b[0])) + u64::from(a[1].abs_diff(b[1])))
                .sum();
            let difference = difference as f64 / f64::from(2 * CROP_SIDE * CROP_SIDE);
            assert!(difference < limit, "{side}: {difference} levels");
        }
    }

    #[test]
    fn light_does_what_its_numbers_say() {
        let gray = RgbImage::from_pixel(224, 224, image::Rgb([128; 3]));
        let lit = |draw: LightDraw| {
            let mut picture = gray.clone();
            draw.apply(&mut picture);
            picture
        };
        let none = LightDraw::default();
        let dark = lit(LightDraw { gamma: 2.0, ..none });
        assert_eq!(dark.get_pixel(9, 9).0, [64; 3]);
        let half = lit(LightDraw { gain: 0.5, ..none });
        assert_eq!(half.get_pixel(9, 9).0, [64; 3]);
        let red = lit(LightDraw {
            cast: [1.5, 1.0, 0.5],
            ..none
        });
        assert_eq!(red.get_pixel(9, 9).0, [192, 128, 64]);
        let haze = lit(LightDraw {
            haze: 0.5,
            haze_level: 200.0,
            ..none
        });
        assert_eq!(haze.get_pixel(9, 9).0, [164; 3]);
        let slope = lit(LightDraw {
            gradient: [0.5, 0.0],
            ..none
        });
        assert_eq!(slope.get_pixel(0, 100).0[0], 64);
        assert_eq!(slope.get_pixel(223, 100).0[0], 192);
        assert!((mean(&slope) - 128.0).abs() < 0.5);
        let mut colors = picture(224, 224);
        let gray = LightDraw {
            saturation: 0.0,
            ..none
        };
        gray.apply(&mut colors);
        let flat = colors.pixels().all(|pixel| {
            let [r, g, b] = pixel.0;
            r.abs_diff(g) <= 1 && g.abs_diff(b) <= 1
        });
        assert!(flat);
    }

    #[test]
    fn blur_is_a_gaussian() {
        let mut dot = RgbImage::new(224, 224);
        dot.put_pixel(100, 120, image::Rgb([255; 3]));
        // Too weak a dot to survive the rounding alone: a bar of them.
        for x in 0..224 {
            dot.put_pixel(x, 120, image::Rgb([255; 3]));
        }
        blur(&mut dot, 3.0);
        for distance in 0..6_u32 {
            let expected = 255.0 / (3.0 * std::f64::consts::TAU.sqrt())
                * (-0.5 * (f64::from(distance) / 3.0).powi(2)).exp();
            for y in [120 - distance, 120 + distance] {
                let found = f64::from(dot.get_pixel(50, y)[0]);
                assert!((found - expected).abs() < 1.0, "{found} for {expected}");
            }
        }
        // Edges included, brightness is kept.
        let mut even = RgbImage::from_pixel(31, 17, image::Rgb([77, 150, 3]));
        blur(&mut even, 16.0);
        assert!(even.pixels().all(|pixel| pixel.0 == [77, 150, 3]));
    }

    #[test]
    fn motion_is_a_mean_along_its_path() {
        let mut bar = RgbImage::new(100, 40);
        for y in 0..40 {
            bar.put_pixel(50, y, image::Rgb([250; 3]));
        }
        let across = smear(&bar, [0.04, 0.0]);
        let row: Vec<u8> = (46..55).map(|x| across.get_pixel(x, 20)[0]).collect();
        assert_eq!(row, [0, 0, 50, 50, 50, 50, 50, 0, 0]);
        // Along the bar it does nothing, its ends included.
        assert_eq!(smear(&bar, [0.0, 0.1]), bar);
        assert_eq!(smear(&bar, [f32::NAN, 0.0]), bar);
    }

    #[test]
    fn noise_has_the_deviation_asked_for_and_no_mean() {
        let mut picture = RgbImage::from_pixel(224, 224, image::Rgb([128; 3]));
        add_noise(&mut picture, 10.0, 7);
        let mean = mean(&picture);
        let square = picture.iter().map(|v| (f64::from(*v) - mean).powi(2));
        let deviation = (square.sum::<f64>() / picture.len() as f64).sqrt();
        assert!((mean - 128.0).abs() < 0.2, "{mean}");
        assert!((deviation - 10.0).abs() < 0.2, "{deviation}");
    }

    #[test]
    fn a_small_side_takes_the_detail_away_and_keeps_the_size() {
        let mut scaler = Scaler::default();
        let fine = RgbImage::from_fn(224, 224, |x, y| image::Rgb([((x + y) % 2 * 255) as u8; 3]));
        let camera = CameraDraw {
            side: Some(24),
            jpeg: Some(60),
            ..CameraDraw::default()
        };
        let sharpness = SharpnessDraw {
            side: Some(24),
            ..SharpnessDraw::default()
        };
        let by_camera = camera.apply(&mut scaler, fine.clone());
        for coarse in [by_camera, sharpness.apply(&mut scaler, fine)] {
            assert_eq!(coarse.dimensions(), (224, 224));
            assert!(coarse.iter().all(|value| value.abs_diff(128) < 12));
        }
    }

    #[test]
    fn a_sheet_has_a_cell_for_every_crop() {
        assert_eq!(contact_sheet(&[], 5).dimensions(), (8, 4));
        let crops = vec![RgbImage::new(224, 224); 7];
        let sheet = contact_sheet(&crops, 3);
        assert_eq!(sheet.dimensions(), (4 + 3 * 228, 4 + 3 * 228));
        assert_eq!(sheet.get_pixel(4, 4).0, [0; 3]);
        assert_eq!(sheet.get_pixel(3, 3).0, [255; 3]);
        // Two of the last row's cells are empty.
        assert_eq!(sheet.get_pixel(300, 600).0, [255; 3]);
        assert_eq!(contact_sheet(&crops, 0).width(), 4 + 228);
    }

    #[test]
    fn what_is_no_number_still_gives_a_crop() {
        for value in [f64::NAN, f64::INFINITY, f64::MAX, f64::MIN] {
            let geometry = GeometryDraw {
                theta: value,
                shift_x: value,
                zoom_y: value,
                channel_shift: value as f32,
                ..GeometryDraw::default()
            };
            let value = value as f32;
            let draw = RobustDraw {
                geometry,
                light: LightDraw {
                    gamma: value,
                    haze: value,
                    gradient: [value; 2],
                    ..LightDraw::default()
                },
                camera: CameraDraw {
                    motion: [value; 2],
                    noise: value,
                    ..CameraDraw::default()
                },
                sharpness: SharpnessDraw {
                    blur: value,
                    ..SharpnessDraw::default()
                },
                gray: Some([value; 3]),
            };
            for fill in FILLS {
                let view = warp(&picture(30, 20), &geometry, fill);
                let view = draw.spoil(&mut Scaler::default(), view);
                assert_eq!(view.dimensions(), (224, 224));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn the_same_seed_gives_the_same_view(seed: u64) {
            let mut scaler = Scaler::default();
            let robust = Robust::default();
            let source = picture(300, 260);
            let region = whole(&source).unwrap();
            let first = robust.view(&mut scaler, &source, region, &mut rng(seed));
            let again = robust.view(&mut Scaler::default(), &source, region, &mut rng(seed));
            prop_assert_eq!(&first, &again);
            prop_assert_eq!(first.dimensions(), (CROP_SIDE, CROP_SIDE));
            let other = robust.view(&mut scaler, &source, region, &mut rng(!seed));
            prop_assert_ne!(&first, &other);
        }

        #[test]
        fn wild_numbers_still_give_a_crop(
            theta: f64, shift_x: f64, shift_y: f64, shear: f64, zoom_x: f64, zoom_y: f64,
            flip: bool, channel_shift: f32, width in 0_u32..40, height in 0_u32..40,
        ) {
            let source = picture(width, height);
            let draw = GeometryDraw {
                theta, shift_x, shift_y, shear, zoom_x, zoom_y, flip, channel_shift,
            };
            for fill in FILLS {
                prop_assert_eq!(warp(&source, &draw, fill).dimensions(), (224, 224));
                if let Some(region) = whole(&source) {
                    let mut scaler = Scaler::default();
                    let view = warp_region(&mut scaler, &source, region, &draw, fill);
                    prop_assert_eq!(view.dimensions(), (224, 224));
                }
            }
        }

        #[test]
        fn wild_light_and_sharpness_do_no_harm(
            gamma: f32, gain: f32, cast: [f32; 3], gradient: [f32; 2], haze: f32,
            haze_level: f32, saturation: f32, side: Option<u32>, blur: f32, noise: f32,
            noise_seed: u64, jpeg: Option<u8>, gray: Option<[f32; 3]>, motion: [f32; 2],
        ) {
            let draw = RobustDraw {
                geometry: GeometryDraw::default(),
                light: LightDraw { gamma, gain, cast, gradient, haze, haze_level, saturation },
                camera: CameraDraw { side, motion, noise, noise_seed, jpeg },
                sharpness: SharpnessDraw { side, blur },
                gray,
            };
            let mut scaler = Scaler::default();
            let spoilt = draw.spoil(&mut scaler, picture(224, 224));
            prop_assert_eq!(spoilt.dimensions(), (224, 224));
            let empty = draw.spoil(&mut scaler, RgbImage::new(0, 0));
            prop_assert_eq!(empty.dimensions(), (0, 0));
        }

        #[test]
        fn margins_keep_to_their_range(seed: u64) {
            let margin = margin((-0.05, 0.4), &mut rng(seed));
            prop_assert!((-0.05..=0.4).contains(&margin));
        }
    }
}
