//! Augmented copies of labeled crops.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::frame::Crop;
use crate::training::augment::{self, Geometry, Light, RandomRange};

/// Number of augmented copies per labeled crop.
pub const VARIANTS: usize = 4;

/// Returns [`VARIANTS`] copies of a crop with slightly different light, position, and
/// rotation. The same crop and seed always give the same variants, so the features of
/// the variants need to be computed only once.
#[must_use]
pub fn variants(crop: &Crop, seed: u64) -> Vec<Crop> {
    let range = |probability, from, to| RandomRange {
        probability,
        from,
        to,
    };
    let geometry = Geometry {
        rotation: 8.0,
        zoom: 0.08,
        width_shift: 0.05,
        height_shift: 0.05,
        shear: 0.0,
        ..Geometry::default()
    };
    let light = Light {
        probability: 1.0,
        gamma: range(0.6, 0.7, 1.4),
        gradient: range(0.4, 0.1, 0.4),
        cast: range(0.4, 0.02, 0.15),
        darken: range(0.3, 0.7, 1.0),
        haze: range(0.0, 0.0, 0.0),
        saturation: range(0.3, 0.6, 1.2),
    };
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..VARIANTS)
        .filter_map(|_| {
            let placement = geometry.draw(&mut rng);
            let mut view = augment::warp(crop.pixels(), &placement, geometry.fill);
            light.draw(&mut rng).apply(&mut view);
            Crop::from_image(view).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_of_a_crop_are_seeded() {
        let pixels = image::RgbImage::from_fn(224, 224, |x, y| image::Rgb([x as u8, y as u8, 90]));
        let crop = Crop::from_image(pixels).unwrap();
        let views = variants(&crop, 1);
        assert_eq!(views.len(), VARIANTS);
        assert_eq!(views, variants(&crop, 1));
        assert_ne!(views, variants(&crop, 2));
    }
}
