//! Compares the training of a head with Keras. The tests compare the logits, all
//! gradients, and ten steps of Adam, with and without dropout.
//! `tests/golden/make_train_golden.py` generates the reference values.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use std::path::Path;

use maskd::onnx::{FEATURES, HeadTensors};
use maskd::training::train::{TrainOptions, Trainer};
use serde::Deserialize;

/// Maximum difference in a logit, relative to the largest logit.
const LOGITS: f32 = 2e-6;
/// Maximum difference in a gradient, relative to the largest gradient in its layer.
const GRADIENTS: f32 = 1e-5;
/// Maximum difference in a loss, divided by the loss or by 1, whichever is larger.
const LOSSES: f32 = 2e-6;
/// Maximum relative difference in a loss that Keras clips. Such losses vary even in
/// Keras itself, because they depend on how Keras rounds 1 - p. See
/// `src/training/train/mod.rs`.
const CLIPPED_LOSSES: f32 = 1e-2;
/// Maximum difference in the total change of a weight over ten steps, relative to the
/// largest change in its layer.
const CHANGES: f32 = 3e-5;
/// The limit that replaces [`CHANGES`] for the thousands of weights in the first layer.
/// Adam divides each gradient by its own magnitude, which amplifies the rounding errors
/// of gradients that are nearly 0.
const CHANGES_W1: f32 = 5e-4;

#[derive(Deserialize)]
struct Case {
    name: String,
    seed: u32,
    classes: usize,
    hidden: usize,
    samples: usize,
    dropout: f32,
    init_lr: f32,
    decay: f32,
    class_weights: Vec<f32>,
    labels: Vec<Vec<usize>>,
    masks: Option<Vec<String>>,
    logits: String,
    gradients: Tensors,
    losses: Vec<f32>,
    trained: Tensors,
    /// Loss and accuracy on all samples after the steps.
    evaluation: [f32; 2],
    /// Loss and accuracy on all samples, after the final weights are multiplied by 256.
    saturated: [f32; 2],
}

/// Tensors as text with eight hexadecimal digits per number.
#[derive(Deserialize)]
struct Tensors {
    w1: String,
    b1: String,
    w2: String,
    b2: String,
}

impl Tensors {
    fn numbers(&self) -> HeadTensors {
        HeadTensors {
            w1: floats(&self.w1),
            b1: floats(&self.b1),
            w2: floats(&self.w2),
            b2: floats(&self.b2),
        }
    }
}

fn floats(text: &str) -> Vec<f32> {
    let digits = text.as_bytes().chunks(8);
    digits
        .map(|digits| {
            let digits = std::str::from_utf8(digits).unwrap();
            f32::from_bits(u32::from_str_radix(digits, 16).unwrap())
        })
        .collect()
}

/// Generates the same numbers as the Python script. This is a 32-bit linear
/// congruential generator with the multiplier and increment from Numerical Recipes.
/// Only its upper 24 bits are used.
struct Numbers(u32);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0 >> 8
    }

    /// Draws numbers that are at least 0 and less than 1, without rounding errors.
    fn uniform(&mut self, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| self.next() as f32 / 16_777_216.0)
            .collect()
    }

    /// Draws numbers between `-scale / 2` and `scale / 2`. There are no rounding errors
    /// if `scale` is a power of two.
    fn weights(&mut self, scale: f32, count: usize) -> Vec<f32> {
        let values = self.uniform(count).into_iter();
        values.map(|value| (value - 0.5) * scale).collect()
    }
}

/// Returns the maximum difference, relative to the largest reference value.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected
        .iter()
        .fold(0.0_f32, |max, value| max.max(value.abs()));
    let pairs = found.iter().zip(expected);
    pairs.fold(0.0_f32, |max, (a, b)| max.max((a - b).abs())) / largest
}

fn layers(tensors: &HeadTensors) -> [(&'static str, &[f32]); 4] {
    let HeadTensors { w1, b1, w2, b2 } = tensors;
    [("w1", w1), ("b1", b1), ("w2", w2), ("b2", b2)]
}

fn changes(after: &HeadTensors, before: &HeadTensors) -> HeadTensors {
    let minus = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a - b).collect();
    HeadTensors {
        w1: minus(&after.w1, &before.w1),
        b1: minus(&after.b1, &before.b1),
        w2: minus(&after.w2, &before.w2),
        b2: minus(&after.b2, &before.b2),
    }
}

fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/train.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Returns the initial weights and one row of features for each label.
fn start(case: &Case) -> (HeadTensors, Vec<f32>) {
    let mut numbers = Numbers(case.seed);
    let weights = HeadTensors {
        w1: numbers.weights(0.125, case.hidden * FEATURES),
        b1: numbers.weights(0.125, case.hidden),
        w2: numbers.weights(1.0, case.classes * case.hidden),
        b2: numbers.weights(0.125, case.classes),
    };
    let samples = case.labels.len() * case.samples;
    (weights, numbers.weights(2.0, samples * FEATURES))
}

fn trainer(case: &Case, weights: HeadTensors) -> Trainer {
    let options = TrainOptions {
        features: FEATURES,
        hidden: case.hidden,
        dropout: case.dropout,
        init_lr: case.init_lr,
        decay: case.decay,
        seed: 0,
        class_weights: case.class_weights.clone(),
    };
    Trainer::from_head(weights, options).unwrap()
}

#[test]
fn ten_steps_are_those_of_keras() {
    for case in cases() {
        let name = &case.name;
        let (weights, features) = start(&case);
        let mut trainer = trainer(&case, weights.clone());
        let batches: Vec<&[f32]> = features.chunks(case.samples * FEATURES).collect();
        let masks: Option<Vec<Vec<bool>>> = case.masks.as_ref().map(|masks| {
            let mask = |mask: &String| mask.bytes().map(|digit| digit == b'1').collect();
            masks.iter().map(mask).collect()
        });
        let mask = |step: usize| masks.as_ref().map(|masks| masks[step].as_slice());

        if masks.is_none() {
            let logits = trainer.logits(batches[0]).unwrap();
            let off = difference(&logits, &floats(&case.logits));
            println!("{name}: logits off by {off:.1e}");
            assert!(off < LOGITS, "{name}: logits off by {off}");
        }

        let first = trainer.gradients(batches[0], &case.labels[0], mask(0));
        let (_, gradients) = first.unwrap();
        let expected = case.gradients.numbers();
        for ((layer, found), (_, expected)) in layers(&gradients).into_iter().zip(layers(&expected))
        {
            let off = difference(found, expected);
            println!("{name}: gradient of {layer} off by {off:.1e}");
            assert!(off < GRADIENTS, "{name}: gradient of {layer} off by {off}");
        }

        for (step, (batch, labels)) in batches.iter().zip(&case.labels).enumerate() {
            let loss = match mask(step) {
                Some(mask) => trainer.step_with_mask(batch, labels, mask),
                None => trainer.step(batch, labels),
            };
            let (found, expected) = (loss.unwrap().loss, case.losses[step]);
            let off = (found - expected).abs() / expected.max(1.0);
            println!("{name}: loss {step} {found} off by {off:.1e}");
            assert!(off < LOSSES, "{name}: loss {step}: {found}, {expected}");
        }

        let found = changes(&trainer.tensors(), &weights);
        let expected = changes(&case.trained.numbers(), &weights);
        for ((layer, found), (_, expected)) in layers(&found).into_iter().zip(layers(&expected)) {
            let off = difference(found, expected);
            println!("{name}: change of {layer} off by {off:.1e}");
            let tolerance = if layer == "w1" { CHANGES_W1 } else { CHANGES };
            assert!(off < tolerance, "{name}: change of {layer} off by {off}");
        }
    }
}

#[test]
fn evaluation_is_that_of_keras_even_where_it_clips() {
    for case in cases() {
        let (_, features) = start(&case);
        let labels = case.labels.concat();
        let mut weights = case.trained.numbers();
        let clipped = if case.classes == 2 {
            CLIPPED_LOSSES
        } else {
            LOSSES
        };
        for ([loss, accuracy], scale, tolerance) in [
            (case.evaluation, 1.0, LOSSES),
            (case.saturated, 256.0, clipped),
        ] {
            weights.w2.iter_mut().for_each(|weight| *weight *= scale);
            let metrics = trainer(&case, weights.clone());
            let metrics = metrics.evaluate(&features, &labels).unwrap();
            let off = (metrics.loss - loss).abs() / loss.max(1.0);
            println!("{}: {metrics:?} off by {off:.1e}", case.name);
            assert!(off < tolerance, "{}: {} {loss}", case.name, metrics.loss);
            assert!((metrics.accuracy - accuracy).abs() < 1e-6, "{}", case.name);
        }
    }
}
