//! Detects motion, so that the face detector can skip still frames.
//!
//! Owns the comparison of a frame with a reference frame. Pure. Knows nothing about
//! faces.

use image::RgbImage;

/// Number of cells across and down. In a frame of 640x480 pixels, a cell has 20 by 20
/// pixels, so it is smaller than the smallest face that gets a verdict.
const CELLS: (u32, u32) = (32, 24);

/// There is motion in a cell if its mean differs from the reference by more than this
/// many levels. If camera noise has a standard deviation of 8 levels per pixel, the mean
/// of 25 pixels has a standard deviation of 1.6, and the difference of two means has a
/// standard deviation of 2.3. With 768 cells, one frame in ten thousand exceeds the
/// threshold by chance.
const MOTION_THRESHOLD: i32 = 10;

/// Number of pixels that are sampled per row and per column of a cell.
const SAMPLES: u32 = 5;

/// Compares frames with a reference frame.
#[derive(Debug, Default)]
pub struct MotionDetector {
    /// Width and height of the reference frame.
    size: (u32, u32),
    /// Mean green level of each cell in the reference frame, between 0 and 255. Green is
    /// close to luminance and needs no conversion.
    reference: Vec<u8>,
}

impl MotionDetector {
    /// Whether the frame differs from the reference frame. Returns true if there is no
    /// reference frame or if it has a different size.
    #[must_use]
    pub fn moved(&self, pixels: &RgbImage) -> bool {
        if self.reference.is_empty() || self.size != pixels.dimensions() {
            return true;
        }
        let differs = |(cell, reference): (u8, &u8)| {
            (i32::from(cell) - i32::from(*reference)).abs() > MOTION_THRESHOLD
        };
        cells(pixels).zip(&self.reference).any(differs)
    }

    /// Makes this frame the reference frame.
    pub fn set_reference(&mut self, pixels: &RgbImage) {
        self.size = pixels.dimensions();
        self.reference.clear();
        self.reference.extend(cells(pixels));
    }
}

/// Computes the mean green level of each cell, row by row. An empty picture has no cells.
fn cells(pixels: &RgbImage) -> impl Iterator<Item = u8> + '_ {
    let (width, height) = pixels.dimensions();
    let all = if width == 0 || height == 0 {
        0
    } else {
        CELLS.0 * CELLS.1
    };
    (0..all).map(move |cell| {
        let (column, row) = (cell % CELLS.0, cell / CELLS.0);
        // If `length` is divided into `parts` equal parts, returns the center of the part
        // with the index `at`.
        let middle = |at: u32, parts: u32, length: u32| {
            let middle = u64::from(2 * at + 1) * u64::from(length) / u64::from(2 * parts);
            middle as u32
        };
        let mut sum = 0;
        for y in 0..SAMPLES {
            let y = middle(row * SAMPLES + y, CELLS.1 * SAMPLES, height);
            for x in 0..SAMPLES {
                let x = middle(column * SAMPLES + x, CELLS.0 * SAMPLES, width);
                sum += u32::from(pixels.get_pixel(x, y).0[1]);
            }
        }
        (sum / (SAMPLES * SAMPLES)) as u8
    })
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn gray(width: u32, height: u32, level: u8) -> RgbImage {
        RgbImage::from_pixel(width, height, Rgb([level; 3]))
    }

    #[test]
    fn the_first_frame_and_one_of_another_size_have_moved() {
        let mut motion = MotionDetector::default();
        let frame = gray(640, 480, 90);
        assert!(motion.moved(&frame));
        motion.set_reference(&frame);
        assert!(!motion.moved(&frame));
        assert!(motion.moved(&gray(320, 240, 90)));
    }

    #[test]
    fn slow_change_is_detected_eventually() {
        let mut motion = MotionDetector::default();
        motion.set_reference(&gray(640, 480, 100));
        let first = (101..=255).find(|level| motion.moved(&gray(640, 480, *level)));
        assert_eq!(first, Some(111));
    }

    /// Adds camera noise with the standard deviation `sigma` to `pixels`.
    fn noisy(pixels: &RgbImage, sigma: f32, rng: &mut ChaCha8Rng) -> RgbImage {
        let mut seen = pixels.clone();
        for value in seen.iter_mut() {
            // The sum of twelve uniform numbers has a variance of 1.
            let normal: f32 = (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
            *value = (f32::from(*value) + sigma * normal).clamp(0.0, 255.0) as u8;
        }
        seen
    }

    #[test]
    fn noise_is_not_motion_but_a_small_face_in_it_is() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let hall = gray(640, 480, 90);
        let mut motion = MotionDetector::default();
        motion.set_reference(&noisy(&hall, 8.0, &mut rng));
        for _ in 0..10 {
            assert!(!motion.moved(&noisy(&hall, 8.0, &mut rng)));
        }
        for (x, y) in [(0, 0), (313, 227), (616, 456)] {
            let mut entered = hall.clone();
            for dy in 0..24 {
                for dx in 0..24 {
                    entered.put_pixel(x + dx, y + dy, Rgb([150, 130, 120]));
                }
            }
            assert!(motion.moved(&noisy(&entered, 8.0, &mut rng)), "{x} {y}");
        }
    }

    proptest! {
        #[test]
        fn any_size_is_accepted(width in 0_u32..70, height in 0_u32..70, level in 0_u8..240) {
            let mut motion = MotionDetector::default();
            let frame = gray(width, height, level);
            motion.set_reference(&frame);
            let is_empty = width == 0 || height == 0;
            prop_assert_eq!(motion.moved(&frame), is_empty);
            prop_assert!(motion.moved(&gray(width, height, level + 11)));
        }
    }
}
