//! Classifies the faces of a photograph with and without a second look, and compares the
//! results with the mean of the logits of two crops.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::path::Path;

use maskd::config::Config;
use maskd::frame::decode;
use maskd::vision::pipeline::{Classification, Pipeline, Stage};

/// Classifies all faces in the photograph. Also returns the stages that have run.
fn classify(change: impl FnOnce(&mut Config)) -> (Vec<Classification>, Vec<Stage>, Pipeline) {
    let mut config = Config::default();
    change(&mut config);
    let mut pipeline = Pipeline::open(&config.pipeline_options(), 2).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/frames/maksssksksss128.jpg");
    let pixels = decode(&fs::read(path).unwrap()).unwrap();
    let faces = pipeline.detect(&pixels).unwrap().faces;
    assert!(!faces.is_empty());
    let mut stages = Vec::new();
    let classifications = pipeline
        .classify_by_stages(&pixels, &faces, |stage| stages.push(stage))
        .unwrap();
    (classifications, stages, pipeline)
}

fn with_margin(margin: f32) -> (Vec<Classification>, Vec<Stage>, Pipeline) {
    classify(|config| {
        config.classify.margin = margin;
        config.classify.second_look_below = 0.0;
    })
}

/// Computes the probabilities from the mean of the logits of two crops, with 64-bit
/// floats.
fn mean_of_looks(pipeline: &Pipeline, a: &Classification, b: &Classification) -> Vec<f64> {
    let head = pipeline.head();
    let (a, b) = (head.logits(&a.feature), head.logits(&b.feature));
    let pairs = a.iter().zip(&b);
    let exponentials: Vec<f64> = pairs
        .map(|(a, b)| f64::midpoint(f64::from(*a), f64::from(*b)).exp())
        .collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.iter().map(|value| value / sum).collect()
}

#[test]
fn an_uncertain_face_gets_the_mean_of_two_looks() {
    let (narrow, _, _) = with_margin(0.05);
    let (wide, once, pipeline) = with_margin(0.2);
    let (both, twice, _) = classify(|config| {
        config.classify.margin = 0.2;
        config.classify.second_look_below = 1.0;
        config.classify.second_look_margin = 0.05;
    });
    assert_eq!(once, [Stage::Crop, Stage::Embed, Stage::Head]);
    assert_eq!(twice, [once.clone(), once].concat());
    for ((wide, narrow), both) in wide.iter().zip(&narrow).zip(&both) {
        // The two crops must give different results. Otherwise, the test could not tell
        // them apart.
        assert_ne!(wide.probabilities, narrow.probabilities);
        assert_eq!(both.feature, wide.feature);
        assert_eq!(both.crop.pixels(), wide.crop.pixels());
        for (expected, found) in mean_of_looks(&pipeline, wide, narrow)
            .iter()
            .zip(&both.probabilities)
        {
            assert!((expected - f64::from(*found)).abs() < 1e-5);
        }
    }
}

#[test]
fn only_the_faces_below_the_limit_get_a_second_look() {
    let (once, _, _) = with_margin(0.2);
    let mut tops: Vec<f32> = once.iter().map(top).collect();
    tops.sort_by(f32::total_cmp);
    let limit = tops[0];
    // No face has a top probability below this limit, because the limit is the lowest of
    // the top probabilities.
    let (unchanged, stages, _) = classify(|config| config.classify.second_look_below = limit);
    assert_eq!(stages.len(), 3);
    for (a, b) in once.iter().zip(&unchanged) {
        assert_eq!(a.probabilities, b.probabilities);
    }
    let above = limit.next_up();
    let (changed, stages, _) = classify(|config| config.classify.second_look_below = above);
    assert_eq!(stages.len(), 6);
    for (a, b) in once.iter().zip(&changed) {
        assert_eq!(a.probabilities != b.probabilities, top(a) < above);
    }
}

/// Returns the probability of the most probable label.
fn top(classification: &Classification) -> f32 {
    classification
        .probabilities
        .iter()
        .copied()
        .fold(0.0, f32::max)
}
