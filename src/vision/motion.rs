//! Detects motion, so that the face detector can skip still frames, and so that a place in
//! a frame is not checked again while the place looks the same.
//!
//! This module compares a frame, or a place in a frame, with a reference. It is pure, and
//! it knows nothing about faces.

use image::RgbImage;

use crate::frame::Rect;

/// Number of columns and rows of cells in a frame. In a frame of 640x480 pixels, a cell has
/// 20 by 20 pixels, so it is smaller than the smallest face that gets a verdict.
const COLUMNS: u32 = 32;
const ROWS: u32 = 24;

/// Number of columns and rows of cells in a place. The smallest face that gets a verdict has
/// 24 by 24 pixels. A place of this size has cells of 4 by 4 pixels.
const PLACE_CELLS: u32 = 6;

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
    /// reference frame or if the two frames have different sizes.
    #[must_use]
    pub fn moved(&self, pixels: &RgbImage) -> bool {
        if self.reference.is_empty() || self.size != pixels.dimensions() {
            return true;
        }
        differs(frame_cells(pixels), &self.reference)
    }

    /// Makes this frame the reference frame.
    pub fn set_reference(&mut self, pixels: &RgbImage) {
        self.size = pixels.dimensions();
        self.reference.clear();
        self.reference.extend(frame_cells(pixels));
    }
}

/// The appearance of a place in a frame, which is a rectangular part of the frame.
#[derive(Debug, Clone, PartialEq)]
pub struct PlacePicture {
    /// Width and height of the frame.
    size: (u32, u32),
    /// Left edge, top edge, width, and height of the place, in pixels.
    place: [u32; 4],
    /// Mean green level of each cell, between 0 and 255.
    levels: Vec<u8>,
}

impl PlacePicture {
    /// Stores the appearance of the part of a frame that is inside `rect`. Returns `None` if
    /// `rect` is outside the frame.
    #[must_use]
    pub fn new(pixels: &RgbImage, rect: &Rect) -> Option<PlacePicture> {
        let (width, height) = pixels.dimensions();
        let place = rect.region(0.0, width, height)?.as_array();
        Some(PlacePicture {
            size: (width, height),
            place,
            levels: place_cells(pixels, place).collect(),
        })
    }

    /// Whether the place looks different in the frame `pixels`. Returns true if the size of
    /// this frame differs from the size of the original frame.
    #[must_use]
    pub fn has_changed(&self, pixels: &RgbImage) -> bool {
        self.size != pixels.dimensions() || differs(place_cells(pixels, self.place), &self.levels)
    }
}

/// Whether the level of at least one cell differs from the cell's reference level.
fn differs(levels: impl Iterator<Item = u8>, reference: &[u8]) -> bool {
    let mut pairs = levels.zip(reference);
    pairs.any(|(level, reference)| {
        (i32::from(level) - i32::from(*reference)).abs() > MOTION_THRESHOLD
    })
}

/// Computes the mean green level of each cell of a frame. An empty frame has no cells.
fn frame_cells(pixels: &RgbImage) -> impl Iterator<Item = u8> + '_ {
    let whole = [0, 0, pixels.width(), pixels.height()];
    cells::<COLUMNS, ROWS>(pixels, whole)
}

/// Computes the mean green level of each cell of a place.
fn place_cells(pixels: &RgbImage, place: [u32; 4]) -> impl Iterator<Item = u8> + '_ {
    cells::<PLACE_CELLS, PLACE_CELLS>(pixels, place)
}

/// Computes the mean green level of each cell of a place, row by row. The place is given as
/// the left edge, the top edge, the width, and the height, and must be inside the picture. An
/// empty place has no cells. `COLUMNS` and `ROWS` are constants, because dividing by
/// constants is fast.
fn cells<const COLUMNS: u32, const ROWS: u32>(
    pixels: &RgbImage,
    [left, top, width, height]: [u32; 4],
) -> impl Iterator<Item = u8> + '_ {
    let all = if width == 0 || height == 0 {
        0
    } else {
        COLUMNS * ROWS
    };
    (0..all).map(move |cell| {
        let (column, row) = (cell % COLUMNS, cell / COLUMNS);
        // Divides `length` into `parts` equal parts and returns the center of the part
        // with the index `at`.
        let middle = |at: u32, parts: u32, length: u32| {
            let middle = u64::from(2 * at + 1) * u64::from(length) / u64::from(2 * parts);
            middle as u32
        };
        let mut sum = 0;
        for y in 0..SAMPLES {
            let y = top + middle(row * SAMPLES + y, ROWS * SAMPLES, height);
            for x in 0..SAMPLES {
                let x = left + middle(column * SAMPLES + x, COLUMNS * SAMPLES, width);
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

    #[test]
    fn a_place_looks_the_same_until_something_changes_in_it() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let hall = gray(640, 480, 90);
        let rect = Rect {
            x: 300.5,
            y: 450.0,
            width: 48.0,
            height: 60.0,
        };
        let before = PlacePicture::new(&noisy(&hall, 5.0, &mut rng), &rect).unwrap();
        let paint = |x: u32, y: u32, side: u32| {
            let mut changed = hall.clone();
            for (dx, dy) in (0..side * side).map(|index| (index % side, index / side)) {
                changed.put_pixel(x + dx, y + dy, Rgb([150, 130, 120]));
            }
            changed
        };
        let elsewhere = paint(200, 100, 80);
        let inside = paint(320, 465, 12);
        for _ in 0..10 {
            assert!(!before.has_changed(&noisy(&elsewhere, 5.0, &mut rng)));
            assert!(before.has_changed(&noisy(&inside, 5.0, &mut rng)));
        }
        assert!(before.has_changed(&gray(320, 240, 90)), "another size");
        let outside = Rect { x: 640.0, ..rect };
        assert_eq!(PlacePicture::new(&hall, &outside), None);
    }

    proptest! {
        #[test]
        fn any_place_is_accepted(
            size in (0_u32..70, 0_u32..70), edges in (-50_f32..90.0, -50_f32..90.0),
            lengths in (0_f32..200.0, 0_f32..200.0), level in 0_u8..240
        ) {
            let rect = Rect { x: edges.0, y: edges.1, width: lengths.0, height: lengths.1 };
            let frame = gray(size.0, size.1, level);
            if let Some(place) = PlacePicture::new(&frame, &rect) {
                prop_assert!(!place.has_changed(&frame));
                prop_assert!(place.has_changed(&gray(size.0, size.1, level + 11)));
                prop_assert!(place.has_changed(&gray(size.0 + 1, size.1, level)));
            }
        }

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
