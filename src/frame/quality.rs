//! How much a face picture shows: its size, sharpness, and light.
//!
//! This module measures pixels, and decides which pictures are obviously useless. It knows
//! nothing about models: the caller provides the probability that a picture shows a face.
//!
//! The limits are low on purpose. On whole frames from cameras, size, sharpness, and light do
//! not tell right verdicts from wrong ones, so a picture that is merely worse than others
//! must not count as bad. `docs/decisions/what-is-a-bad-face-picture.md` has the
//! measurements.

use super::{Crop, Rect};

/// Side length of the grid on which pictures are measured, in cells. Each cell is the mean
/// of several pixels, so that noise does not count as detail, and so that a small face
/// that was enlarged to the size of a crop does not count as blurred.
const GRID: usize = 56;
/// Smallest variance of the brightness at which there is anything to see. The brightness
/// is between 0 and 1.
const MIN_VARIANCE: f32 = 1e-6;

/// A face with a shorter side is [`Flaw::Small`], in pixels of the frame.
const MIN_SIDE: f32 = 20.0;
/// A picture with less sharpness is [`Flaw::Blurred`].
const MIN_SHARPNESS: f32 = 0.008;
/// A picture with less light is [`Flaw::Dark`].
const MIN_LIGHT: f32 = 0.05;
/// A face is [`Flaw::CutOff`] if more than this fraction of its box is outside the frame.
const MAX_OUTSIDE: f32 = 0.5;
/// A picture with a lower probability of a face is [`Flaw::NoFace`].
const MIN_FACE: f32 = 0.02;

/// What can be measured on the pixels of a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Appearance {
    /// The fraction of the brightness differences that disappears if the picture is
    /// smoothed slightly, between 0 (nothing to see) and 1 (nothing but fine detail). It
    /// does not depend on the contrast.
    pub sharpness: f32,
    /// Mean brightness (Rec. 601 luma), between 0 (black) and 1 (white).
    pub light: f32,
}

impl Appearance {
    /// Measures a crop.
    #[must_use]
    pub fn of(crop: &Crop) -> Appearance {
        let grid = Grid::of(crop);
        Appearance {
            sharpness: grid.sharpness(),
            light: grid.mean(),
        }
    }
}

/// The place of a face in its frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placement {
    /// Length of the shorter side of the face's box, in pixels of the frame.
    pub side: f32,
    /// The fraction of the face's box that is outside the frame, between 0 and 1.
    pub outside: f32,
}

impl Placement {
    /// Returns the place of a box in a frame of `width` x `height` pixels.
    #[must_use]
    pub fn of(rect: &Rect, width: u32, height: u32) -> Placement {
        let frame = Rect::of_frame(width, height);
        let inside = rect.intersection(&frame) / rect.area();
        Placement {
            side: rect.short_side(),
            // An empty box is inside, because nothing of it is cut off.
            outside: if inside.is_finite() {
                (1.0 - inside).clamp(0.0, 1.0)
            } else {
                0.0
            },
        }
    }
}

/// The quality of a face picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// What its pixels show.
    pub appearance: Appearance,
    /// The place of the face in its frame, or `None` if it is not known, for example
    /// because a person added the picture.
    pub placement: Option<Placement>,
    /// The probability that the picture shows a face, between 0 and 1, or `None` if the
    /// face check has not seen the picture.
    pub face: Option<f32>,
}

/// A reason why a face picture is obviously useless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flaw {
    /// The face has too few pixels.
    Small,
    /// There is no detail.
    Blurred,
    /// There is hardly any light.
    Dark,
    /// Much of the face is outside the frame.
    CutOff,
    /// The picture shows no face.
    NoFace,
}

impl Quality {
    /// Measures a crop about which nothing else is known.
    #[must_use]
    pub fn of(crop: &Crop) -> Quality {
        Quality {
            appearance: Appearance::of(crop),
            placement: None,
            face: None,
        }
    }

    /// Returns the flaws of the picture, which are none for almost all pictures.
    #[must_use]
    pub fn flaws(&self) -> Vec<Flaw> {
        let side = self.placement.map(|placement| placement.side);
        let outside = self.placement.map(|placement| placement.outside);
        let flaws = [
            (Flaw::Small, side.is_some_and(|side| side < MIN_SIDE)),
            (Flaw::Blurred, self.appearance.sharpness < MIN_SHARPNESS),
            (Flaw::Dark, self.appearance.light < MIN_LIGHT),
            (
                Flaw::CutOff,
                outside.is_some_and(|outside| outside > MAX_OUTSIDE),
            ),
            (Flaw::NoFace, self.face.is_some_and(|face| face < MIN_FACE)),
        ];
        let flaws = flaws.into_iter().filter(|(_, applies)| *applies);
        flaws.map(|(flaw, _)| flaw).collect()
    }
}

/// The brightness of a picture, reduced to a grid. The values are between 0 and 1.
#[derive(Debug, Clone, PartialEq)]
struct Grid(Vec<f32>);

impl Grid {
    fn of(crop: &Crop) -> Grid {
        let mut cells = vec![0.0; GRID * GRID];
        let pixels = crop.pixels();
        let (width, height) = pixels.dimensions();
        let cell = |at: u32, length: u32| at as usize * GRID / length as usize;
        for (x, y, pixel) in pixels.enumerate_pixels() {
            let [red, green, blue] = pixel.0.map(f32::from);
            let luma = 0.299 * red + 0.587 * green + 0.114 * blue;
            cells[cell(y, height) * GRID + cell(x, width)] += luma;
        }
        let per_cell = (width * height) as f32 / (GRID * GRID) as f32;
        for value in &mut cells {
            *value /= 255.0 * per_cell;
        }
        Grid(cells)
    }

    fn mean(&self) -> f32 {
        self.0.iter().sum::<f32>() / self.0.len() as f32
    }

    fn variance(&self) -> f32 {
        let mean = self.mean();
        let squares = self.0.iter().map(|value| (value - mean).powi(2));
        squares.sum::<f32>() / self.0.len() as f32
    }

    fn sharpness(&self) -> f32 {
        let variance = self.variance();
        if variance < MIN_VARIANCE {
            return 0.0;
        }
        (1.0 - self.smoothed().variance() / variance).clamp(0.0, 1.0)
    }

    /// Smooths the grid with the kernel (1, 2, 1) / 4 in both directions. The border is
    /// mirrored, which makes the kernel a multiplication in the frequency domain. Smoothing
    /// therefore never raises the sharpness, by the inequality of Cauchy and Schwarz.
    fn smoothed(&self) -> Grid {
        let last = GRID - 1;
        let smooth = |values: &[f32], at: usize, step: usize, position: usize| {
            let before = if position > 0 { at - step } else { at };
            let after = if position < last { at + step } else { at };
            (values[before] + 2.0 * values[at] + values[after]) / 4.0
        };
        let cells = 0..GRID * GRID;
        let rows: Vec<f32> = cells
            .clone()
            .map(|at| smooth(&self.0, at, 1, at % GRID))
            .collect();
        Grid(cells.map(|at| smooth(&rows, at, GRID, at / GRID)).collect())
    }
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};
    use proptest::prelude::*;

    use super::*;
    use crate::frame::CROP_SIDE;

    /// A tolerance for the rounding of sums of floating-point numbers.
    const ROUNDING: f32 = 1e-3;

    fn crop(pixel: impl FnMut(u32, u32) -> Rgb<u8>) -> Crop {
        Crop::from_image(RgbImage::from_fn(CROP_SIDE, CROP_SIDE, pixel)).unwrap()
    }

    fn gray(value: u8) -> Rgb<u8> {
        Rgb([value; 3])
    }

    /// Returns a picture of stripes, blobs, and noise in proportions that the arguments
    /// determine.
    fn picture(seed: u32, period: f32, contrast: f32, noise: f32) -> Crop {
        let mut state = seed | 1;
        crop(|x, y| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let random = (state >> 16) as f32 / 65_535.0 - 0.5;
            let (x, y) = (x as f32 / period, y as f32 / (2.0 * period));
            let value = 128.0 + contrast * (x.sin() + y.cos()) + noise * random;
            gray(value.clamp(0.0, 255.0) as u8)
        })
    }

    fn quality(appearance: Appearance) -> Quality {
        Quality {
            appearance,
            placement: None,
            face: None,
        }
    }

    proptest! {
        #[test]
        fn smoothing_never_raises_the_sharpness(
            seed: u32, period in 1.0_f32..60.0, contrast in 0.0_f32..60.0, noise in 0.0_f32..255.0,
        ) {
            let mut grid = Grid::of(&picture(seed, period, contrast, noise));
            for _ in 0..6 {
                let smoothed = grid.smoothed();
                prop_assert!(smoothed.sharpness() <= grid.sharpness() + ROUNDING);
                grid = smoothed;
            }
        }

        #[test]
        fn blurring_never_raises_the_sharpness(
            seed: u32, period in 1.0_f32..60.0, contrast in 20.0_f32..60.0, noise in 0.0_f32..99.0,
            sigma in 4.0_f32..12.0,
        ) {
            let sharp = picture(seed, period, contrast, noise);
            let blurred = Crop::from_image(image::imageops::blur(sharp.pixels(), sigma)).unwrap();
            let (sharp, blurred) = (Appearance::of(&sharp), Appearance::of(&blurred));
            prop_assert!(
                blurred.sharpness <= sharp.sharpness + 0.01,
                "{} to {}", sharp.sharpness, blurred.sharpness
            );
        }

        #[test]
        fn darkening_lowers_the_light(
            seed: u32, period in 1.0_f32..60.0, contrast in 0.0_f32..60.0, share in 0.0_f32..0.95,
        ) {
            let bright = picture(seed, period, contrast, 20.0);
            let dark = crop(|x, y| {
                let pixel = bright.pixels().get_pixel(x, y);
                Rgb(pixel.0.map(|value| (f32::from(value) * share) as u8))
            });
            prop_assert!(Appearance::of(&dark).light < Appearance::of(&bright).light);
        }

        #[test]
        fn contrast_does_not_change_the_sharpness(period in 4.0_f32..60.0) {
            let [strong, weak] = [50.0, 25.0].map(|contrast| {
                Appearance::of(&picture(1, period, contrast, 0.0)).sharpness
            });
            prop_assert!((strong - weak).abs() < 0.02, "{strong} and {weak}");
        }

        #[test]
        fn every_measure_is_in_its_range(
            seed: u32, period in 0.1_f32..60.0, contrast in 0.0_f32..300.0, noise in 0.0_f32..600.0,
            x in -500.0_f32..500.0, y in -500.0_f32..500.0, width in 0.0_f32..500.0,
        ) {
            let appearance = Appearance::of(&picture(seed, period, contrast, noise));
            prop_assert!((0.0..=1.0).contains(&appearance.sharpness));
            prop_assert!((0.0..=1.0).contains(&appearance.light));
            let rect = Rect { x, y, width, height: 100.0 };
            let placement = Placement::of(&rect, 320, 240);
            prop_assert!((0.0..=1.0).contains(&placement.outside));
            prop_assert!((0.0..=100.0).contains(&placement.side));
        }

        #[test]
        fn moving_out_of_the_frame_cuts_off_more(x in 0.0_f32..300.0, step in 0.0_f32..100.0) {
            let at = |x| Rect { x, y: 10.0, width: 80.0, height: 100.0 };
            let outside = |x| Placement::of(&at(x), 320, 240).outside;
            prop_assert!(outside(x + step) >= outside(x) - 1e-6);
        }
    }

    #[test]
    fn blur_lowers_the_sharpness_of_real_faces() {
        let crops = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/crops");
        let mut faces = 0;
        for entry in std::fs::read_dir(crops).unwrap() {
            let face = image::open(entry.unwrap().path()).unwrap().into_rgb8();
            let sharpness = |face: &RgbImage| {
                let crop = crate::frame::Scaler::default().crop(face, whole(face));
                Appearance::of(&crop.unwrap()).sharpness
            };
            let mut last = sharpness(&face);
            assert!(last > 2.0 * MIN_SHARPNESS, "{last}");
            for sigma in [2.0, 4.0, 8.0, 16.0, 32.0] {
                let blurred = sharpness(&image::imageops::blur(&face, sigma));
                assert!(blurred < last, "{sigma}: {blurred} after {last}");
                last = blurred;
            }
            faces += 1;
        }
        assert!(faces > 0);
    }

    fn whole(picture: &RgbImage) -> crate::frame::Region {
        let (width, height) = picture.dimensions();
        let rect = Rect::of_frame(width, height);
        rect.region(0.0, width, height).unwrap()
    }

    #[test]
    fn black_and_white_are_the_ends_of_light_and_show_nothing() {
        for (value, light) in [(0, 0.0), (255, 1.0)] {
            let appearance = Appearance::of(&crop(|_, _| gray(value)));
            assert!((appearance.light - light).abs() < 1e-4, "{appearance:?}");
            assert_eq!(appearance.sharpness, 0.0);
        }
    }

    #[test]
    fn placement_counts_the_area_of_the_whole_box() {
        let rect = |x, y| Rect {
            x,
            y,
            width: 40.0,
            height: 60.0,
        };
        let inside = Placement::of(&rect(0.0, 0.0), 320, 240);
        assert_eq!((inside.side, inside.outside), (40.0, 0.0));
        assert!((Placement::of(&rect(-10.0, 0.0), 320, 240).outside - 0.25).abs() < 1e-6);
        assert!((Placement::of(&rect(300.0, 210.0), 320, 240).outside - 0.75).abs() < 1e-6);
        assert_eq!(Placement::of(&rect(500.0, 0.0), 320, 240).outside, 1.0);
        assert_eq!(Placement::of(&Rect::default(), 320, 240).outside, 0.0);
    }

    #[test]
    fn each_flaw_has_its_measure() {
        let good = Appearance {
            sharpness: 0.1,
            light: 0.5,
        };
        assert_eq!(quality(good).flaws(), []);
        let placed = |side, outside| Quality {
            placement: Some(Placement { side, outside }),
            face: Some(0.9),
            ..quality(good)
        };
        assert_eq!(placed(100.0, 0.1).flaws(), []);
        assert_eq!(placed(10.0, 0.1).flaws(), [Flaw::Small]);
        assert_eq!(placed(100.0, 0.6).flaws(), [Flaw::CutOff]);
        let no_face = Quality {
            face: Some(0.001),
            ..quality(good)
        };
        assert_eq!(no_face.flaws(), [Flaw::NoFace]);
        let black = Quality::of(&crop(|_, _| gray(0)));
        assert_eq!(black.flaws(), [Flaw::Blurred, Flaw::Dark]);
    }
}
