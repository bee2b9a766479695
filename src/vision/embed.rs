//! The backbone, which computes the feature vector of a crop.
//!
//! This module owns the layout and range of the backbone's input, and divides a frame's
//! crops among threads. It knows nothing about classes or labels.

use std::ops::ControlFlow;

use crate::frame::{CROP_SIDE, Crop};
pub use crate::onnx::FEATURES;
use crate::onnx::{Graph, ModelError, Plan, Runner, ThreadPool};

/// The backbone's output for a crop, usually after global average pooling. It is the input
/// to the head. The built-in backbone computes [`FEATURES`] values between 0 and 6, because
/// its last activation is a ReLU6. Other backbones may compute any finite values.
#[derive(Debug, Clone, PartialEq)]
pub struct Feature(Box<[f32]>);

impl Feature {
    /// The values of the feature vector.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.0
    }
}

impl<const N: usize> From<Box<[f32; N]>> for Feature {
    fn from(values: Box<[f32; N]>) -> Feature {
        Feature(values)
    }
}

impl From<Vec<f32>> for Feature {
    fn from(values: Vec<f32>) -> Feature {
        Feature(values.into())
    }
}

/// The backbone, ready to run. All [`Embedder`]s in a program share one backbone
/// because its weights take more memory than anything else.
#[derive(Debug, Clone)]
pub struct Backbone {
    plan: Plan,
    features: usize,
}

impl Backbone {
    /// Optimizes the graph so that it is ready to run. `features` is the number of features
    /// that the head expects.
    ///
    /// # Errors
    /// [`ModelError`] if the graph does not run, or does not output this number of features.
    pub fn new(graph: Graph, features: usize) -> Result<Backbone, ModelError> {
        let side = CROP_SIDE as usize;
        let plan = graph.into_plan([1, 3, side, side], [&[1, features]])?;
        Ok(Backbone { plan, features })
    }
}

/// Runs the backbone on the crops from a frame, on several threads if there are several
/// crops.
///
/// Each thread has its own runner and processes one crop per run, because in a batch
/// of four crops, tract takes three times as long per crop. If a frame has only one
/// crop, the threads share the work on it. This is less efficient than one crop per
/// thread.
#[derive(Debug)]
pub struct Embedder {
    runners: Vec<Runner>,
    pool: ThreadPool,
    features: usize,
}

impl Embedder {
    /// Creates an embedder that runs `backbone` on up to `threads` threads (at least
    /// one), each with its own crops. If there is only one crop, the threads of `pool`
    /// share the work on it.
    ///
    /// # Errors
    /// [`ModelError::Run`] if a runner cannot be set up.
    pub fn new(
        backbone: &Backbone,
        threads: usize,
        pool: ThreadPool,
    ) -> Result<Embedder, ModelError> {
        let runners: Result<Vec<Runner>, ModelError> = (0..threads.max(1))
            .map(|_| backbone.plan.runner())
            .collect();
        Ok(Embedder {
            runners: runners?,
            pool,
            features: backbone.features,
        })
    }

    /// Length of the feature vectors.
    #[must_use]
    pub fn features(&self) -> usize {
        self.features
    }

    /// Number of crops that are processed at the same time.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.runners.len()
    }

    /// Computes the features of each crop, in the order of the crops.
    ///
    /// # Errors
    /// [`ModelError::Run`] if the model fails.
    pub fn embed(&mut self, crops: &[Crop]) -> Result<Vec<Feature>, ModelError> {
        if let ([crop], [runner, ..]) = (crops, self.runners.as_mut_slice()) {
            return Ok(vec![embed(runner, &self.pool, crop)?]);
        }
        let alone = ThreadPool::alone();
        let mut results: Vec<_> = crops.iter().map(|_| None).collect();
        self.pool.for_each(
            &mut self.runners,
            crops.len(),
            |runner, index| embed(runner, &alone, &crops[index]),
            |index, feature| {
                results[index] = Some(feature);
                ControlFlow::Continue(())
            },
        );
        results.into_iter().flatten().collect()
    }
}

fn embed(runner: &mut Runner, pool: &ThreadPool, crop: &Crop) -> Result<Feature, ModelError> {
    let outputs = runner.run(pool, |input| fill_rgb(input, crop))?;
    Ok(Feature(outputs.get(0)?.into()))
}

/// Writes the input as planar RGB `[3, 224, 224]`, scaled from 0..=255 to -1..=1 by
/// x / 127.5 - 1, like Keras's `preprocess_input` for `MobileNetV2`.
fn fill_rgb(input: &mut [f32], crop: &Crop) {
    let plane = (CROP_SIDE * CROP_SIDE) as usize;
    let (red, rest) = input.split_at_mut(plane);
    let (green, blue) = rest.split_at_mut(plane);
    let pixels = crop.pixels().as_raw().as_chunks::<3>().0;
    for (((pixel, r), g), b) in pixels.iter().zip(red).zip(green).zip(blue) {
        *r = f32::from(pixel[0]) / 127.5 - 1.0;
        *g = f32::from(pixel[1]) / 127.5 - 1.0;
        *b = f32::from(pixel[2]) / 127.5 - 1.0;
    }
}

/// Computes 1 minus the cosine of the angle between two features, a value between 0
/// and 2. The result is 2 if all values of one of the features are zero.
#[must_use]
pub fn cosine_distance(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 {
        1.0 - dot(a, b) / lengths
    } else {
        2.0
    }
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;

    #[test]
    fn cosine_distance_ignores_lengths() {
        assert_eq!(cosine_distance(&[2.0, 0.0], &[5.0, 0.0]), 0.0);
        assert_eq!(cosine_distance(&[1.0, 0.0], &[0.0, 3.0]), 1.0);
        assert_eq!(cosine_distance(&[1.0, 0.0], &[-1.0, 0.0]), 2.0);
        assert_eq!(cosine_distance(&[0.0, 0.0], &[1.0, 0.0]), 2.0);
    }

    #[test]
    fn input_is_rgb_from_minus_one_to_one() {
        let pixels = RgbImage::from_pixel(CROP_SIDE, CROP_SIDE, Rgb([0, 255, 51]));
        let crop = Crop::from_image(pixels).expect("it has the size of a crop");
        let plane = (CROP_SIDE * CROP_SIDE) as usize;
        let mut input = vec![9.0; 3 * plane];
        fill_rgb(&mut input, &crop);
        assert_eq!(input[0], -1.0);
        assert_eq!(input[plane], 1.0);
        assert!((input[2 * plane] + 0.6).abs() < 1e-6);
    }
}
