//! Changes in light: gamma, brightness, a gradient, a color cast, haze, and saturation.

use image::RgbImage;
use rand::{Rng, RngExt};

use super::RandomRange;

/// Random changes in light, so that a head does not learn to predict the class from the
/// light in the training pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct Light {
    /// Fraction of the pictures that get any of the changes below, between 0 and 1. The
    /// other pictures keep their original light.
    pub probability: f32,
    /// Exponent applied to values between 0 and 1. Exponents above 1 darken the
    /// picture. The exponent is drawn log-uniformly.
    pub gamma: RandomRange,
    /// Linear gradient in a random direction. The brightness is multiplied by 1 +
    /// this value at one end and by 1 - this value at the other end. Must be less
    /// than 1.
    pub gradient: RandomRange,
    /// Color cast. Each channel is multiplied by e to the power of a number that is
    /// drawn uniformly within ± this value.
    pub cast: RandomRange,
    /// Brightness factor, drawn log-uniformly. Factors below 1 darken the picture. If the
    /// gamma also darkens the picture, the factor is limited so that the picture stays
    /// visible. Before cast and gradient, a middle gray keeps at least 23 of 255 levels.
    pub darken: RandomRange,
    /// Haze, as the fraction of a single gray that is mixed in, between 0 and 1.
    pub haze: RandomRange,
    /// Saturation factor. 0 gives gray, and 1 leaves the colors unchanged.
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

/// The changes in light for one view. The default leaves the view unchanged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LightDraw {
    /// Exponent applied to values between 0 and 1.
    pub gamma: f32,
    /// Factor applied to all channels.
    pub gain: f32,
    /// Factors applied to red, green, and blue.
    pub cast: [f32; 3],
    /// Change in brightness from the center to the right edge and to the lower edge,
    /// as fractions of the brightness.
    pub gradient: [f32; 2],
    /// Fraction of `haze_level` that is mixed in, between 0 and 1.
    pub haze: f32,
    /// The gray level of the haze, 0 to 255.
    pub haze_level: f32,
    /// Saturation factor. 0 gives gray, and 1 leaves the colors unchanged.
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

/// Weights of red, green, and blue in the brightness of a pixel (Rec. 601, as in JPEG).
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

impl Light {
    /// Draws the changes in light for one view.
    pub fn draw(&self, rng: &mut impl Rng) -> LightDraw {
        let any = rng.random::<f32>() < self.probability;
        let gamma = self.gamma.draw_ratio(rng).unwrap_or(1.0);
        let min_gain = 0.09 / 0.5_f32.powf(gamma);
        let gain = self.darken.draw_ratio(rng);
        let gain = gain.map_or(1.0, |gain| gain.max(min_gain.min(1.0)));
        let gradient = self.gradient.draw(rng).unwrap_or(0.0);
        let (sin, cos) = (std::f32::consts::TAU * rng.random::<f32>()).sin_cos();
        // This slope gives the farthest corner the factor 1 + gradient.
        let slope = gradient / (sin.abs() + cos.abs());
        let cast = self.cast.draw(rng).unwrap_or(0.0);
        let powers: [f32; 3] = rng.random();
        let draw = LightDraw {
            gamma,
            gain,
            cast: powers.map(|power| (cast * (2.0 * power - 1.0)).exp()),
            gradient: [slope * cos, slope * sin],
            haze: self.haze.draw(rng).unwrap_or(0.0),
            haze_level: 25.0 + 205.0 * rng.random::<f32>(),
            saturation: self.saturation.draw(rng).unwrap_or(1.0),
        };
        if any { draw } else { LightDraw::default() }
    }
}

impl LightDraw {
    /// Changes the picture in one pass.
    pub fn apply(&self, picture: &mut RgbImage) {
        if *self == LightDraw::default() {
            return;
        }
        let (width, height) = picture.dimensions();
        // The lookup tables hold everything that does not depend on the position of a
        // pixel.
        let clear = 1.0 - self.haze;
        let veil = self.haze * self.haze_level + 0.5;
        let curve: Vec<f32> = (0..=255_u8)
            .map(|value| 255.0 * (f32::from(value) / 255.0).powf(self.gamma) * self.gain * clear)
            .collect();
        let tables = self
            .cast
            .map(|factor| curve.iter().map(|value| value * factor).collect::<Vec<_>>());

        let position = |at: u32, of: u32| (2 * at + 1) as f32 / of as f32 - 1.0;
        let across: Vec<f32> = (0..width)
            .map(|x| self.gradient[0] * position(x, width))
            .collect();
        let rows = picture.chunks_exact_mut(3 * width.max(1) as usize);
        for (row, y) in rows.zip(0..) {
            let base = 1.0 + self.gradient[1] * position(y, height);
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
                // `as` clamps to 0 and 255. `veil` already includes the 0.5 for
                // rounding.
                for (to, value) in pixel.iter_mut().zip(values) {
                    *to = value as u8;
                }
            }
        }
    }
}
