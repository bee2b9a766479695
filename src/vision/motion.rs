//! Whether anything moved since faces were last looked for.
//!
//! Owns the comparison of a frame with the one that the detector saw last. Pure;
//! it knows nothing of faces.

use image::RgbImage;

/// Cells across and down. At 640x480 a cell has 20 by 20 pixels: less than the
/// smallest face that is worth a verdict.
const CELLS: (u32, u32) = (32, 24);

/// A cell whose mean differs by more levels has moved. A camera's noise of 8
/// levels a pixel leaves 1.6 in the mean of 25 pixels, 2.3 in a difference: with
/// 768 cells one in ten thousand frames is over this by chance.
const MOVED: i32 = 10;

/// Pixels that are looked at in a row and a column of a cell.
const SAMPLES: u32 = 5;

/// Compares frames with the last one that was looked at.
#[derive(Debug, Default)]
pub struct Motion {
    size: (u32, u32),
    /// Mean green of each cell, 0 to 255: green is most of what the eye calls
    /// light, and needs no arithmetic.
    seen: Vec<u8>,
}

impl Motion {
    /// Whether the frame differs from the one of the last [`look`]. The first
    /// frame, and one of another size, always does.
    ///
    /// [`look`]: Motion::look
    #[must_use]
    pub fn moved(&self, pixels: &RgbImage) -> bool {
        if self.seen.is_empty() || self.size != pixels.dimensions() {
            return true;
        }
        let apart = |(cell, seen): (u8, &u8)| (i32::from(cell) - i32::from(*seen)).abs() > MOVED;
        cells(pixels).zip(&self.seen).any(apart)
    }

    /// The frame is looked at: later ones are compared with it.
    pub fn look(&mut self, pixels: &RgbImage) {
        self.size = pixels.dimensions();
        self.seen.clear();
        self.seen.extend(cells(pixels));
    }
}

/// The mean of each cell, row by row; none of an empty picture.
fn cells(pixels: &RgbImage) -> impl Iterator<Item = u8> + '_ {
    let (width, height) = pixels.dimensions();
    let all = if width == 0 || height == 0 {
        0
    } else {
        CELLS.0 * CELLS.1
    };
    (0..all).map(move |cell| {
        let (column, row) = (cell % CELLS.0, cell / CELLS.0);
        // The middle of part `at` of `parts` equal parts of `length`.
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
        let mut motion = Motion::default();
        let frame = gray(640, 480, 90);
        assert!(motion.moved(&frame));
        motion.look(&frame);
        assert!(!motion.moved(&frame));
        assert!(motion.moved(&gray(320, 240, 90)));
    }

    #[test]
    fn what_creeps_is_seen_in_the_end() {
        let mut motion = Motion::default();
        motion.look(&gray(640, 480, 100));
        let first = (101..=255).find(|level| motion.moved(&gray(640, 480, *level)));
        assert_eq!(first, Some(111));
    }

    /// What `pixels` would be, seen by a camera with this much noise.
    fn noisy(pixels: &RgbImage, sigma: f32, rng: &mut ChaCha8Rng) -> RgbImage {
        let mut seen = pixels.clone();
        for value in seen.iter_mut() {
            // Twelve uniform numbers have a variance of 1.
            let normal: f32 = (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
            *value = (f32::from(*value) + sigma * normal).clamp(0.0, 255.0) as u8;
        }
        seen
    }

    #[test]
    fn noise_is_no_motion_and_a_small_face_in_it_is() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let hall = gray(640, 480, 90);
        let mut motion = Motion::default();
        motion.look(&noisy(&hall, 8.0, &mut rng));
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
        fn any_size_is_taken(width in 0_u32..70, height in 0_u32..70, level in 0_u8..240) {
            let mut motion = Motion::default();
            let frame = gray(width, height, level);
            motion.look(&frame);
            let is_empty = width == 0 || height == 0;
            prop_assert_eq!(motion.moved(&frame), is_empty);
            prop_assert!(motion.moved(&gray(width, height, level + 11)));
        }
    }
}
