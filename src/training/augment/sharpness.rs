//! Changes in sharpness, which scale a picture down and up again, and blur it.

use image::RgbImage;
use rand::{Rng, RngExt};

use super::{RandomRange, stretched};
use crate::frame::Scaler;

/// Random changes in sharpness, so that a head does not learn to predict the class from
/// the sharpness of the training pictures. In the tutorial's data set, unmasked faces are
/// often blurred, but masked faces are not.
#[derive(Debug, Clone, PartialEq)]
pub struct Sharpness {
    /// Fraction of the pictures that get any of the changes below, between 0 and 1.
    pub probability: f32,
    /// Length in pixels to which the longest side of the picture is scaled down. The
    /// picture is then scaled up again, which imitates a small face. The length is
    /// drawn log-uniformly.
    pub side: RandomRange,
    /// Standard deviation of a Gaussian blur in pixels of the crop, drawn
    /// log-uniformly.
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

/// The changes in sharpness for one view. The default leaves the picture unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SharpnessDraw {
    /// Length in pixels to which the longest side of the picture is scaled down.
    pub side: Option<u32>,
    /// Standard deviation of the blur in pixels; 0 means no blur.
    pub blur: f32,
}

impl Sharpness {
    /// Draws the changes in sharpness for one view.
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

/// Applies a Gaussian blur with this standard deviation in pixels (at most 16).
/// Outside the picture, the edge pixels repeat.
pub(super) fn blur(picture: &mut RgbImage, deviation: f32) {
    let deviation = deviation.min(16.0);
    // Below this value, the weights of the neighbors round to 0.
    if deviation.is_nan() || deviation < 0.2 {
        return;
    }
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    if width == 0 || height == 0 {
        return;
    }
    let radius = (3.0 * deviation).ceil() as usize;
    let mut kernel: Vec<f32> = (0..=2 * radius)
        .map(|at| {
            let from_center = (at as f32 - radius as f32) / deviation;
            (-0.5 * from_center * from_center).exp()
        })
        .collect();
    let sum: f32 = kernel.iter().sum();
    for weight in &mut kernel {
        *weight /= sum;
    }

    // This pass blurs along the rows. Both passes process a whole row for each
    // weight, because the compiler vectorizes such a plain multiply-add.
    let row_length = 3 * width;
    let mut across = vec![0.0_f32; row_length * height];
    let mut padded = vec![0.0_f32; row_length + 6 * radius];
    for (from, to) in picture
        .chunks_exact(row_length)
        .zip(across.chunks_exact_mut(row_length))
    {
        for (at, value) in padded.iter_mut().enumerate() {
            let x = (at / 3).saturating_sub(radius).min(width - 1);
            *value = f32::from(from[3 * x + at % 3]);
        }
        for (shift, weight) in kernel.iter().enumerate() {
            for (to, value) in to.iter_mut().zip(&padded[3 * shift..]) {
                *to += weight * value;
            }
        }
    }
    // This pass blurs along the columns.
    let mut sums = vec![0.0_f32; row_length];
    for (y, to) in picture.chunks_exact_mut(row_length).enumerate() {
        sums.fill(0.5);
        for (shift, weight) in kernel.iter().enumerate() {
            let y = (y + shift).saturating_sub(radius).min(height - 1);
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
