//! Remembers the places where the face check refused a box, so that a coat or a poster does
//! not cost a run of the backbone in every frame.
//!
//! A place is forgotten when the picture there changes, and after a while in any case. This
//! module is pure, because the time is passed in with the frame.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use image::RgbImage;

use crate::frame::{Face, Rect};
use crate::vision::motion::PlacePicture;

/// Maximum number of places. When there are more, the oldest one is forgotten.
const MAX_PLACES: usize = 64;

/// A place is forgotten after this time even if the picture does not change, because the
/// light may change slowly. A person who stands still for so long is rare, and the coat then
/// costs six runs of the backbone a minute.
const REMEMBERED_FOR: Duration = Duration::from_secs(10);

/// A box is in a place if its IoU with the refused box is at least this value. The boxes that
/// the detector finds in one still picture differ less than that, even with camera noise. A
/// head inside a refused box, such as that of a whole body, is not in its place.
const MIN_IOU: f32 = 0.5;

/// The places where the face check refused a box.
#[derive(Debug, Default)]
pub struct RefusedPlaces {
    /// The places, oldest first.
    places: VecDeque<Place>,
}

#[derive(Debug)]
struct Place {
    rect: Rect,
    /// Capture time of the frame in which the box was refused.
    at: Instant,
    picture: PlacePicture,
}

impl RefusedPlaces {
    /// Forgets the places that look different in this frame, which was captured at time
    /// `at`, and those that are too old.
    pub fn update(&mut self, at: Instant, pixels: &RgbImage) {
        self.places.retain(|place| {
            at.saturating_duration_since(place.at) < REMEMBERED_FOR
                && !place.picture.has_changed(pixels)
        });
    }

    /// Whether a box is in a place where the face check refused one.
    #[must_use]
    pub fn contains(&self, face: &Face) -> bool {
        let is_near = |place: &Place| place.rect.iou(&face.rect) >= MIN_IOU;
        self.places.iter().any(is_near)
    }

    /// Remembers that the face check refused a box in a frame captured at time `at`.
    pub fn add(&mut self, at: Instant, pixels: &RgbImage, face: &Face) {
        // The detector returns only boxes that are at least partly inside the frame.
        let Some(picture) = PlacePicture::new(pixels, &face.rect) else {
            return;
        };
        if self.places.len() == MAX_PLACES {
            self.places.pop_front();
        }
        self.places.push_back(Place {
            rect: face.rect,
            at,
            picture,
        });
    }

    /// Forgets all places.
    pub fn clear(&mut self) {
        self.places.clear();
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests need an arbitrary start time"
)]
mod tests {
    use image::Rgb;

    use super::*;

    fn face(x: f32, side: f32) -> Face {
        Face {
            rect: Rect {
                x,
                y: 0.0,
                width: side,
                height: side,
            },
            score: 0.3,
            landmarks: [(0.0, 0.0); 5],
            face_check: None,
        }
    }

    #[test]
    fn a_place_is_remembered_until_its_picture_changes_or_it_is_old() {
        let hall = RgbImage::from_pixel(640, 480, Rgb([90; 3]));
        let mut elsewhere = hall.clone();
        let mut inside = hall.clone();
        for (x, y) in (0..100).map(|index| (index % 10, index / 10)) {
            elsewhere.put_pixel(300 + x, y, Rgb([200; 3]));
            inside.put_pixel(20 + x, 20 + y, Rgb([200; 3]));
        }
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut places = RefusedPlaces::default();
        places.add(start, &hall, &face(10.0, 40.0));
        let mut is_known = |ms, pixels, face| {
            places.update(after(ms), pixels);
            places.contains(&face)
        };
        assert!(is_known(100, &elsewhere, face(12.0, 40.0)));
        assert!(!is_known(100, &hall, face(200.0, 40.0)), "another place");
        assert!(!is_known(100, &hall, face(12.0, 20.0)), "a part of it");
        assert!(is_known(9999, &hall, face(10.0, 40.0)));
        assert!(!is_known(10_000, &hall, face(10.0, 40.0)), "it is old");

        places.add(after(20_000), &hall, &face(10.0, 40.0));
        places.update(after(20_100), &inside);
        places.update(after(20_200), &hall);
        assert!(!places.contains(&face(10.0, 40.0)), "its picture changed");
        places.add(after(20_300), &hall, &face(10.0, 40.0));
        places.clear();
        assert!(!places.contains(&face(10.0, 40.0)));
    }

    #[test]
    fn the_number_of_places_is_limited() {
        let hall = RgbImage::from_pixel(3200, 48, Rgb([90; 3]));
        let start = Instant::now();
        let mut places = RefusedPlaces::default();
        for index in 0..MAX_PLACES + 2 {
            places.add(start, &hall, &face(40.0 * index as f32, 40.0));
        }
        let known =
            (0..MAX_PLACES + 2).map(|index| places.contains(&face(40.0 * index as f32, 40.0)));
        let known: Vec<bool> = known.collect();
        assert_eq!(known[..2], [false; 2], "the oldest ones are forgotten");
        assert_eq!(known[2..], [true; MAX_PLACES]);
        places.add(start, &hall, &face(9000.0, 40.0));
        assert!(!places.contains(&face(9000.0, 40.0)), "outside the frame");
    }
}
