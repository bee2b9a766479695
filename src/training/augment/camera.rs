//! Simulates how a cheap camera degrades a picture through low resolution, motion blur,
//! noise, and JPEG compression.

use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use rand::{Rng, RngExt};

use super::{RandomRange, stretched};
use crate::frame::{Scaler, decode};

/// How a cheap camera degrades a face through low resolution, motion blur, noise, and
/// compression.
///
/// Of all changes in the robust recipe, JPEG compression helps most with cameras that the
/// head was not trained on (`docs/decisions/what-does-the-robust-recipe-do.md`).
#[derive(Debug, Clone, PartialEq)]
pub struct Camera {
    /// Fraction of the pictures that get any of the changes below, between 0 and 1.
    pub probability: f32,
    /// Length in pixels to which the longest side of the picture is scaled down. At the
    /// end, the picture is scaled up again. The length is drawn log-uniformly.
    pub side: RandomRange,
    /// Length of the motion blur's straight path, as a fraction of the longest side after
    /// scaling down. The direction is random.
    pub motion: RandomRange,
    /// Standard deviation of the noise in levels from 0 to 255. The noise is added to the
    /// picture after scaling down, so that small faces have coarse noise.
    pub noise: RandomRange,
    /// JPEG quality, 1 to 100. The picture is compressed after scaling down, because a
    /// real camera also compresses a face that is small.
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

/// The camera changes for one view. The default leaves the view unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CameraDraw {
    /// Length in pixels to which the longest side of the picture is scaled down.
    pub side: Option<u32>,
    /// Path of the motion to the right and down, as fractions of the longest side.
    pub motion: [f32; 2],
    /// Standard deviation of the noise in levels; 0 means no noise.
    pub noise: f32,
    /// Seed for the noise.
    pub noise_seed: u64,
    /// JPEG quality, 1 to 100.
    pub jpeg: Option<u8>,
}

impl Camera {
    /// Draws the camera changes for one view.
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
    /// Reduces the resolution first, and then adds motion blur, noise, and compression,
    /// in the same order as a real camera. At the end, the picture is stretched to 224 x
    /// 224, like every crop of a small face. A picture that is not scaled down keeps its
    /// size until then.
    #[must_use]
    pub fn apply(&self, scaler: &mut Scaler, mut picture: RgbImage) -> RgbImage {
        if let Some(side) = self.side
            && let Ok(small) = scaler.shrink(&picture, side.max(1))
        {
            let small = small.clone();
            picture = small;
        }
        if self.motion != [0.0; 2] {
            picture = motion_blur(&picture, self.motion);
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

/// Replaces each pixel with the mean along a straight path that is centered on the
/// pixel. `path` is given in fractions of the longest side. Outside the picture, the
/// edge pixels repeat.
pub(super) fn motion_blur(picture: &RgbImage, path: [f32; 2]) -> RgbImage {
    let (width, height) = picture.dimensions();
    let side = width.max(height) as f32;
    // Limit the path to the size of the picture.
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

/// Adds noise with this standard deviation, in levels. As in real sensors, a part of
/// the noise is common to all channels, and a part is different in each channel.
pub(super) fn add_noise(picture: &mut RgbImage, deviation: f32, seed: u64) {
    if deviation.is_nan() || deviation <= 0.0 {
        return;
    }
    // The variances add up: 0.8² + 0.6² = 1.
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

/// Returns two roughly normal numbers from one step of SplitMix64 (Steele, Lea, and
/// Flood 2014). Each number is a scaled sum of four bytes and lies within ±3.5. A crop
/// needs 200,000 such numbers, so speed matters more than exactness.
fn two_normals(state: &mut u64) -> (f32, f32) {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    // Sum the bytes, starting with pairs in 16-bit lanes.
    let pairs = (mixed & 0x00ff_00ff_00ff_00ff) + ((mixed >> 8) & 0x00ff_00ff_00ff_00ff);
    let lane = |shift: u32| (pairs >> shift & 0xffff) as f32;
    // The mean is 4 * 127.5, and the variance is 4 * (256² - 1) / 12.
    let normal = |sum: f32| (sum - 510.0) * (1.0 / 147.8);
    (normal(lane(0) + lane(16)), normal(lane(32) + lane(48)))
}

/// Compresses the picture as JPEG at this quality and decodes it again.
fn through_jpeg(picture: RgbImage, quality: u8) -> RgbImage {
    let mut bytes = Vec::new();
    let quality = quality.clamp(1, 100);
    let encoded = JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(&picture);
    match encoded {
        Ok(()) => decode(&bytes).unwrap_or(picture),
        // Only an empty picture cannot be encoded.
        Err(_) => picture,
    }
}
