//! Adds new classes to a head.

use std::collections::BTreeSet;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::RefitError;
use crate::onnx::HeadTensors;

/// Number of hidden units that each new class gets.
const OWN_UNITS: usize = 16;
/// Seed of the initial weights of these units.
const SEED: u64 = 42;

/// Initial difference between the mean logit of the known classes and the logit
/// of a new class.
pub(super) const NEW_CLASS_MARGIN: f32 = 2.0;

/// Adds classes to a head. The rows of known labels are kept. The row of a new label is the mean of
/// all rows, and the bias of a new label is 2 below the mean bias. The logit of a new label is
/// therefore never the largest before the head is trained.
///
/// For each new label, the hidden layer gets 16 units with small random weights. No row of the
/// output layer uses them yet. The known units were trained to tell the known classes apart, and
/// may ignore what makes a new class different.
///
/// # Errors
/// Returns [`RefitError::Head`] if the tensors do not match the labels, if a
/// known label is missing from `grown`, or if two labels are the same.
pub fn grow(
    head: HeadTensors,
    labels: &[String],
    grown: &[String],
) -> Result<HeadTensors, RefitError> {
    let fail = |problem: String| {
        Err(RefitError::Head {
            head: "head to grow",
            problem,
        })
    };
    let (hidden, classes) = (head.b1.len(), labels.len());
    if classes == 0 || head.b2.len() != classes || head.w2.len() != hidden * classes {
        return fail(format!(
            "its tensors do not have the shape of {classes} labels"
        ));
    }
    if let Some(lost) = labels.iter().find(|label| !grown.contains(label)) {
        return fail(format!("the label {lost:?} would be lost"));
    }
    let distinct: BTreeSet<&String> = grown.iter().collect();
    if distinct.len() != grown.len() {
        return fail("two labels have the same name".to_owned());
    }
    let mean_row: Vec<f32> = (0..hidden)
        .map(|unit| {
            let column = head.w2.iter().skip(unit).step_by(hidden);
            column.sum::<f32>() / classes as f32
        })
        .collect();
    let mean_bias = head.b2.iter().sum::<f32>() / classes as f32;
    let new_units = OWN_UNITS * (grown.len() - classes);
    let mut w2 = Vec::with_capacity((hidden + new_units) * grown.len());
    let mut b2 = Vec::with_capacity(grown.len());
    for label in grown {
        if let Some(known) = labels.iter().position(|known| known == label) {
            w2.extend_from_slice(&head.w2[known * hidden..][..hidden]);
            b2.push(head.b2[known]);
        } else {
            w2.extend_from_slice(&mean_row);
            b2.push(mean_bias - NEW_CLASS_MARGIN);
        }
        w2.resize(w2.len() + new_units, 0.0);
    }
    let features = head.features();
    let HeadTensors { mut w1, mut b1, .. } = head;
    // The limit of He's uniform distribution for units with a ReLU.
    let limit = (6.0 / features.max(1) as f32).sqrt();
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let weights = std::iter::repeat_with(|| rng.random_range(-limit..=limit));
    w1.extend(weights.take(new_units * features));
    b1.resize(hidden + new_units, 0.0);
    Ok(HeadTensors { w1, b1, w2, b2 })
}
