//! Augmentation, which changes pictures at random so that a head is trained on more
//! variety than the data set contains.
//!
//! This module owns the geometry of Keras's `ImageDataGenerator` ([`Geometry`]), the
//! changes in light, camera, and sharpness of the robust recipe ([`Robust`]), and the
//! contact sheet that shows the changed pictures. It is pure, because the random number
//! generator is an argument. It must not know about data sets, labels, or training. The
//! random numbers for every change are first drawn into a plain struct, and the change
//! is then applied, so that a test can choose the numbers.
//!
//! A draw always uses the same number of random numbers, regardless of the result. If
//! one change is turned off, the same seed therefore still gives the same other
//! changes.

mod camera;
mod geometry;
mod light;
mod sharpness;

use image::RgbImage;
use rand::{Rng, RngExt};

pub use camera::{Camera, CameraDraw};
pub use geometry::{Fill, Geometry, GeometryDraw, Matrix, warp, warp_region};
pub use light::{Light, LightDraw};
pub use sharpness::{Sharpness, SharpnessDraw};

use crate::frame::{CROP_SIDE, Rect, Region, Scaler};

/// Draws the margin for one crop uniformly between `from` and `to`. The result is a
/// fraction of the size of the face's box, and is meant for [`Rect::region`].
pub fn margin((from, to): (f32, f32), rng: &mut impl Rng) -> f32 {
    from + (to - from) * rng.random::<f32>()
}

/// A change that is applied to some of the pictures, and its range of strengths.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandomRange {
    /// Fraction of the pictures that are changed, between 0 and 1.
    pub probability: f32,
    /// Lowest strength. Each field of this type documents its unit.
    pub from: f32,
    /// Highest strength, in the same unit.
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

    /// Draws a strength from a uniform distribution. Returns `None` if this picture stays
    /// unchanged.
    fn draw(self, rng: &mut impl Rng) -> Option<f32> {
        let (coin, share) = rng.random::<(f32, f32)>();
        (coin < self.probability).then_some(self.from + (self.to - self.from) * share)
    }

    /// Draws a strength like [`RandomRange::draw`], but from a log-uniform
    /// distribution, so a value between 24 and 48 is as likely as a value between 48
    /// and 96. `from` and `to` must be greater than 0.
    fn draw_ratio(self, rng: &mut impl Rng) -> Option<f32> {
        let (coin, share) = rng.random::<(f32, f32)>();
        (coin < self.probability).then(|| self.from * (self.to / self.from).powf(share))
    }
}

/// Stretches the whole picture to the size of a crop.
fn stretched(scaler: &mut Scaler, picture: RgbImage) -> RgbImage {
    let (width, height) = picture.dimensions();
    let crop = whole(&picture).and_then(|region| scaler.crop(&picture, region).ok());
    match crop {
        Some(crop) if (width, height) != (CROP_SIDE, CROP_SIDE) => crop.pixels().clone(),
        _ => picture,
    }
}

/// Returns the region that covers a whole picture, or `None` if the picture is
/// empty.
#[must_use]
pub fn whole(picture: &RgbImage) -> Option<Region> {
    let (width, height) = picture.dimensions();
    Rect::of_frame(width, height).region(0.0, width, height)
}

/// The changes in the robust recipe. They change the geometry (as in the tutorial), the
/// color, the light, and the sharpness, and imitate a cheap camera. The default ranges
/// generalized best to cameras that the head was not trained on
/// (`docs/decisions/what-does-the-robust-recipe-do.md`).
#[derive(Debug, Clone, PartialEq)]
pub struct Robust {
    /// Geometric changes.
    pub geometry: Geometry,
    /// Fraction of the pictures that are turned gray, as if they came from an
    /// infrared camera.
    pub gray: f32,
    /// Changes in light.
    pub light: Light,
    /// Changes that a cheap camera makes.
    pub camera: Camera,
    /// Changes in sharpness.
    pub sharpness: Sharpness,
    /// Range of the margin around a face's box, as a fraction of the size of the box.
    /// The margin is used only for crops of faces. See [`margin`].
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

/// The changes for one view of the robust recipe. The default leaves the picture
/// unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RobustDraw {
    /// Geometric changes.
    pub geometry: GeometryDraw,
    /// Weights of red, green, and blue in the gray value. They sum to 1. `None` keeps the
    /// colors.
    pub gray: Option<[f32; 3]>,
    /// Changes in light.
    pub light: LightDraw,
    /// Changes that a cheap camera makes.
    pub camera: CameraDraw,
    /// Changes in sharpness.
    pub sharpness: SharpnessDraw,
}

impl Robust {
    /// Draws the changes for one view.
    pub fn draw(&self, rng: &mut impl Rng) -> RobustDraw {
        RobustDraw {
            geometry: self.geometry.draw(rng),
            gray: self.draw_gray(rng),
            light: self.light.draw(rng),
            camera: self.camera.draw(rng),
            sharpness: self.sharpness.draw(rng),
        }
    }

    /// Draws the weights for a gray picture. They are random because sensors weight red,
    /// green, and blue differently than eyes do, and because infrared light changes the
    /// weights further.
    fn draw_gray(&self, rng: &mut impl Rng) -> Option<[f32; 3]> {
        let gray = rng.random::<f32>() < self.gray;
        let weights = rng.random::<[f32; 3]>().map(|weight| weight + 0.05);
        let sum: f32 = weights.iter().sum();
        gray.then(|| weights.map(|weight| weight / sum))
    }

    /// Makes a random view of 224 x 224 pixels from part of a picture. The part is
    /// the face with its margin, or the [`whole`] picture.
    pub fn view(
        &self,
        scaler: &mut Scaler,
        picture: &RgbImage,
        region: Region,
        rng: &mut impl Rng,
    ) -> RgbImage {
        let draw = self.draw(rng);
        let view = warp_region(scaler, picture, region, &draw.geometry, self.geometry.fill);
        draw.degrade(scaler, view)
    }
}

impl RobustDraw {
    /// Applies the changes in color, light, camera, and sharpness, but not the
    /// geometric changes.
    #[must_use]
    pub fn degrade(&self, scaler: &mut Scaler, mut picture: RgbImage) -> RgbImage {
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

/// Number of pixels between and around the pictures on a contact sheet.
const GAP: u32 = 4;

/// Places pictures side by side on a white background, `columns` in a row (at least
/// one). Each cell fits the largest picture.
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
    use super::camera::{add_noise, motion_blur};
    use super::sharpness::blur;
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn rng(seed: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(seed)
    }

    /// Makes a smooth picture with a little texture in which the channels differ.
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
    fn the_default_draw_changes_nothing() {
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
        let degraded = RobustDraw::default().degrade(&mut scaler, picture.clone());
        assert_eq!(degraded, picture);
    }

    #[test]
    fn zero_ranges_draw_no_change() {
        let off = Geometry::default().still();
        for seed in 0..20 {
            assert_eq!(off.draw(&mut rng(seed)), GeometryDraw::default());
        }
    }

    #[test]
    fn draws_fill_and_do_not_leave_their_ranges() {
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
            // Without haze, the haze level does not matter.
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
        // 220 + 10 is 7 pixels past the last pixel, and the last pixel appears twice.
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
    fn a_view_of_a_region_shows_the_picture_around_it() {
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

        // Without changes, the view is the same as the pipeline's crop.
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
            // Only red and green are compared, because blue has sharp steps, for which
            // different scalers give different results.
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
        // Draw a whole line of dots, because a single dot would be rounded to 0.
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
        // Blurring preserves the brightness all the way to the edges.
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
        let across = motion_blur(&bar, [0.04, 0.0]);
        let row: Vec<u8> = (46..55).map(|x| across.get_pixel(x, 20)[0]).collect();
        assert_eq!(row, [0, 0, 50, 50, 50, 50, 50, 0, 0]);
        // Motion along the bar changes nothing, even at its ends.
        assert_eq!(motion_blur(&bar, [0.0, 0.1]), bar);
        assert_eq!(motion_blur(&bar, [f32::NAN, 0.0]), bar);
    }

    #[test]
    fn noise_has_the_given_deviation_and_mean_zero() {
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
        // The last row has two empty cells.
        assert_eq!(sheet.get_pixel(300, 600).0, [255; 3]);
        assert_eq!(contact_sheet(&crops, 0).width(), 4 + 228);
    }

    #[test]
    fn nan_and_infinity_still_give_a_crop() {
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
                let view = draw.degrade(&mut Scaler::default(), view);
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
        fn arbitrary_numbers_still_give_a_crop(
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
        fn arbitrary_light_and_sharpness_keep_the_size(
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
            let degraded = draw.degrade(&mut scaler, picture(224, 224));
            prop_assert_eq!(degraded.dimensions(), (224, 224));
            let empty = draw.degrade(&mut scaler, RgbImage::new(0, 0));
            prop_assert_eq!(empty.dimensions(), (0, 0));
        }

        #[test]
        fn margins_stay_within_their_range(seed: u64) {
            let margin = margin((-0.05, 0.4), &mut rng(seed));
            prop_assert!((-0.05..=0.4).contains(&margin));
        }
    }
}
