//! Compares the stages from frame to verdict with reference implementations: Pillow for
//! the crops, Keras for the classifier, and PyTorch for the
//! detector. The scripts in `tests/golden/` generate the reference values.
//!
//! Each test also detects mistakes that do not raise an error, such as swapped colors, a
//! margin that is off by a pixel, or a different filter.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and measure time"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use image::RgbImage;
use maskd::config::Config;
use maskd::frame::{Crop, Face, Rect, Scaler, decode};
use maskd::onnx::{Classifier, ThreadPool};
use maskd::vision::detect::{Detector, DetectorOptions};
use maskd::vision::embed::{Backbone, Embedder};
use maskd::vision::face_check::FaceCheck;
use maskd::vision::head::Head;
use maskd::vision::pipeline::{SHIPPED_CLASSIFIER, SHIPPED_DETECTOR};
use serde::Deserialize;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn golden<T: for<'a> Deserialize<'a>>(name: &str) -> T {
    let path = root().join("tests/golden").join(name);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn picture(path: PathBuf) -> RgbImage {
    decode(&fs::read(path).unwrap()).unwrap()
}

fn frame(name: &str) -> RgbImage {
    picture(root().join("assets/frames").join(name))
}

#[derive(Deserialize)]
struct GoldenCrop {
    crop: String,
    frame: String,
    #[serde(rename = "box")]
    corners: [f32; 4],
    margin: f32,
    rect: [u32; 4],
}

impl GoldenCrop {
    fn face(&self) -> Rect {
        let [x1, y1, x2, y2] = self.corners;
        Rect {
            x: x1,
            y: y1,
            width: x2 - x1,
            height: y2 - y1,
        }
    }

    fn pixels(&self) -> RgbImage {
        picture(root().join("tests/golden/crops").join(&self.crop))
    }
}

/// Computes the mean absolute difference over all channels, on a scale from 0 to 255.
fn mean_difference(a: &RgbImage, b: &RgbImage) -> f64 {
    let sum: u64 = a
        .as_raw()
        .iter()
        .zip(b.as_raw())
        .map(|(a, b)| u64::from(a.abs_diff(*b)))
        .sum();
    sum as f64 / a.as_raw().len() as f64
}

#[test]
fn crops_are_those_of_pillow() {
    let mut scaler = Scaler::default();
    for golden in golden::<Vec<GoldenCrop>>("crops.json") {
        let pixels = frame(&golden.frame);
        let (width, height) = pixels.dimensions();
        let region = golden.face().region(golden.margin, width, height).unwrap();
        assert_eq!(region.as_array(), golden.rect, "{}", golden.crop);

        let expected = golden.pixels();
        let crop = scaler.crop(&pixels, region).unwrap();
        let difference = mean_difference(crop.pixels(), &expected);
        assert!(difference < 0.6, "{}: {difference} levels", golden.crop);

        // A crop that is off by one pixel must differ more from the reference.
        let mut rect = golden.face();
        rect.x += 1.0;
        let shifted = rect.region(golden.margin, width, height).unwrap();
        let shifted = scaler.crop(&pixels, shifted).unwrap();
        let off_by_one = mean_difference(shifted.pixels(), &expected);
        assert!(
            off_by_one > 1.2,
            "{}: one pixel off is {off_by_one} levels",
            golden.crop
        );
    }
}

/// The features that Keras computed.
#[derive(Deserialize)]
struct GoldenFeatures {
    features: Vec<f32>,
}

/// The output of onnxruntime with the built-in head.
#[derive(Deserialize)]
struct GoldenVerdict {
    logits: Vec<f32>,
    probabilities: Vec<f32>,
    /// The output of the face check.
    face: [f32; 1],
}

/// Maximum difference from the reference, of features and logits as a fraction of the largest
/// value, and of probabilities. With 16-bit floats, the difference is larger.
struct Tolerance {
    features: f32,
    logits: f32,
    probabilities: f32,
}

fn tolerance() -> Tolerance {
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("fp16") {
        return Tolerance {
            features: 5e-2,
            logits: 5e-2,
            probabilities: 2e-2,
        };
    }
    Tolerance {
        features: 1e-3,
        logits: 1e-3,
        probabilities: 1e-4,
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Computes the largest difference as a fraction of the largest reference value.
fn relative_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected
        .iter()
        .fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let difference = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    difference.fold(0.0, f32::max) / largest
}

#[test]
fn features_are_those_of_keras_and_probabilities_those_of_onnxruntime() {
    let classifier = Classifier::parse("shipped", SHIPPED_CLASSIFIER).unwrap();
    assert_eq!(classifier.labels, ["with_mask", "without_mask"]);
    let head = Head::of(&classifier);
    let tensors = classifier.face_check.clone().unwrap();
    let face_check = FaceCheck::new(tensors, Config::default().pipeline_options().face_check);
    // With three workers, the test also covers the order of the crops in the result.
    let backbone = Backbone::new(classifier.backbone, classifier.head.features()).unwrap();
    let mut embedder = Embedder::new(&backbone, 3, ThreadPool::of(2)).unwrap();
    let shipped: BTreeMap<String, GoldenVerdict> = golden("shipped.json");
    let golden: BTreeMap<String, GoldenFeatures> = golden("classifier.json");
    let crops: Vec<Crop> = golden
        .keys()
        .map(|name| picture(root().join("tests/golden/crops").join(name)))
        .map(|pixels| Crop::from_image(pixels).unwrap())
        .collect();
    let features = embedder.embed(&crops).unwrap();
    let tolerance = tolerance();
    for ((name, expected), feature) in golden.iter().zip(&features) {
        let difference = relative_difference(feature.values(), &expected.features);
        assert!(
            difference < tolerance.features,
            "{name}: features {difference}"
        );
        let cosine = cosine(feature.values(), &expected.features);
        assert!(
            cosine > 0.9995,
            "{name}: features with a cosine of {cosine}"
        );
        let logits = head.logits(feature);
        let expected = &shipped[name];
        let difference = relative_difference(&logits, &expected.logits);
        assert!(difference < tolerance.logits, "{name}: logits {difference}");
        let (found, [expected_face]) = (face_check.opinion(feature).probability, expected.face);
        assert!(
            (found - expected_face).abs() < tolerance.probabilities,
            "{name}: face {found} for {expected_face}"
        );
        for (found, expected) in head
            .probabilities(feature)
            .iter()
            .zip(&expected.probabilities)
        {
            assert!(
                (found - expected).abs() < tolerance.probabilities,
                "{name}: {found} for {expected}"
            );
        }
    }

    // The features do not depend on whether one thread or several threads process a crop.
    let shared = embedder.embed(&crops[..1]).unwrap();
    assert_eq!(shared[0], features[0]);

    // Swapping blue and red causes no error, so the test checks that the features of
    // the swapped picture differ.
    let swapped: Vec<Crop> = crops
        .iter()
        .map(|crop| {
            let mut pixels = crop.pixels().clone();
            pixels.pixels_mut().for_each(|pixel| pixel.0.reverse());
            Crop::from_image(pixels).unwrap()
        })
        .collect();
    for ((name, expected), feature) in golden.iter().zip(embedder.embed(&swapped).unwrap()) {
        let difference = relative_difference(feature.values(), &expected.features);
        assert!(
            difference > 0.05,
            "{name}: swapped colors differ by {difference}"
        );
    }
}

#[derive(Deserialize)]
struct GoldenFaces {
    threshold: f32,
    frames: BTreeMap<String, Vec<GoldenFace>>,
}

#[derive(Deserialize)]
struct GoldenFace {
    #[serde(rename = "box")]
    corners: [f32; 4],
    score: f32,
    landmarks: [[f32; 2]; 5],
}

/// Computes the largest difference between boxes and landmarks in pixels, and the largest
/// difference between scores. Returns `None` if the number of faces differs.
fn face_difference(found: &[Face], expected: &[GoldenFace]) -> Option<(f32, f32)> {
    if found.len() != expected.len() {
        return None;
    }
    let mut pixels = 0.0_f32;
    let mut score = 0.0_f32;
    for (face, golden) in found.iter().zip(expected) {
        let Rect {
            x,
            y,
            width,
            height,
        } = face.rect;
        let corners = [x, y, x + width, y + height];
        for (a, b) in corners.iter().zip(golden.corners) {
            pixels = pixels.max((a - b).abs());
        }
        for ((x, y), golden) in face.landmarks.iter().zip(golden.landmarks) {
            pixels = pixels.max((x - golden[0]).abs()).max((y - golden[1]).abs());
        }
        score = score.max((face.score - golden.score).abs());
    }
    Some((pixels, score))
}

#[test]
fn faces_are_those_of_the_reference_detector() {
    let golden: GoldenFaces = golden("detector.json");
    // The reference detector ran on the pictures at their native size.
    let options = DetectorOptions {
        side: 400,
        threshold: golden.threshold,
    };
    let mut detector =
        Detector::new("shipped", SHIPPED_DETECTOR, options, ThreadPool::of(2)).unwrap();
    let mut seen_swaps = 0;
    for (name, expected) in &golden.frames {
        let mut pixels = frame(name);
        let found = detector.detect(&pixels).unwrap();
        let (distance, score) = face_difference(&found, expected).expect(name);
        // The reference detector (PyTorch) has the same weights, but another JPEG decoder
        // produced its input pixels. The pixels of the two decoders differ by one or two levels.
        // An error of half a cell at the finest stride would be 4 pixels.
        assert!(distance < 1.2, "{name}: {distance} pixels");
        assert!(score < 0.02, "{name}: {score}");

        pixels.pixels_mut().for_each(|pixel| pixel.0.reverse());
        let swapped = detector.detect(&pixels).unwrap();
        let difference = face_difference(&swapped, expected);
        seen_swaps += usize::from(difference.is_none_or(|(distance, _)| distance > 2.0));
    }
    assert!(
        seen_swaps > 8,
        "swapped colors show in {seen_swaps} of 12 pictures only"
    );
}

#[test]
fn faces_keep_their_place_when_the_frame_is_scaled_down() {
    let options = |side| DetectorOptions {
        side,
        threshold: 0.5,
    };
    let mut whole = Detector::new(
        "shipped",
        SHIPPED_DETECTOR,
        options(400),
        ThreadPool::alone(),
    )
    .unwrap();
    let mut small = Detector::new(
        "shipped",
        SHIPPED_DETECTOR,
        options(256),
        ThreadPool::alone(),
    )
    .unwrap();
    let pixels = frame("maksssksksss195.jpg");
    let face = whole.detect(&pixels).unwrap()[0];
    let again = small.detect(&pixels).unwrap()[0];
    let iou = face.rect.iou(&again.rect);
    assert!(iou > 0.8, "IoU {iou}");
}
