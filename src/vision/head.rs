//! The head, which computes the probability of each label from a feature vector.
//!
//! This module owns the labels, the weights, and the forward pass. It knows nothing about
//! faces, frames, or which labels count as masked.

use crate::onnx::{Classifier, HeadFile, HeadTensors};
use crate::vision::embed::Feature;

/// Identifies a head that a pipeline has used. IDs are assigned in the order in which the
/// heads come into use. A head that is used again gets a new ID.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct HeadId(u64);

impl HeadId {
    /// Returns the ID of the next head.
    #[must_use]
    pub fn next(self) -> HeadId {
        HeadId(self.0.wrapping_add(1))
    }
}

/// A dense layer with ReLU, followed by a dense layer with softmax. This is the head of
/// the Keras tutorial without its dropout, which is only active in training.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    labels: Vec<String>,
    backbone: [u8; 32],
    /// Weights of the first layer, `[hidden, features]`, row by row.
    w1: Vec<f32>,
    /// Biases of the first layer, `[hidden]`.
    b1: Vec<f32>,
    /// Weights of the second layer, `[classes, hidden]`, row by row.
    w2: Vec<f32>,
    /// Biases of the second layer, `[classes]`.
    b2: Vec<f32>,
}

impl Head {
    /// Creates the head from a classifier file, whose shapes were checked when the file
    /// was parsed.
    #[must_use]
    pub fn of(classifier: &Classifier) -> Head {
        Head::from_file(HeadFile {
            backbone_sha256: classifier.backbone_sha256,
            labels: classifier.labels.clone(),
            head: classifier.head.clone(),
        })
    }

    /// Creates the head from a head file, whose shapes were checked when the file was
    /// parsed.
    #[must_use]
    pub fn from_file(file: HeadFile) -> Head {
        let HeadFile {
            backbone_sha256: backbone,
            labels,
            head,
        } = file;
        let HeadTensors { w1, b1, w2, b2 } = head;
        Head {
            labels,
            backbone,
            w1,
            b1,
            w2,
            b2,
        }
    }

    /// Returns the content of a head file for this head.
    #[must_use]
    pub fn to_file(&self) -> HeadFile {
        HeadFile {
            backbone_sha256: self.backbone,
            labels: self.labels.clone(),
            head: HeadTensors {
                w1: self.w1.clone(),
                b1: self.b1.clone(),
                w2: self.w2.clone(),
                b2: self.b2.clone(),
            },
        }
    }

    /// Names of the classes, in the order of the probabilities.
    #[must_use]
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// SHA-256 of the backbone whose features are this head's input.
    #[must_use]
    pub fn backbone(&self) -> &[u8; 32] {
        &self.backbone
    }

    /// Length of the feature vectors that are this head's input.
    #[must_use]
    pub fn features(&self) -> usize {
        self.w1.len().checked_div(self.b1.len()).unwrap_or(0)
    }

    /// Whether this head's input is the output of the backbone with this SHA-256, whose feature
    /// vectors have the length `features`.
    #[must_use]
    pub fn is_for(&self, backbone: &[u8; 32], features: usize) -> bool {
        self.backbone == *backbone && self.features() == features
    }

    /// Computes the logits of a feature vector, one per label.
    #[must_use]
    pub fn logits(&self, feature: &Feature) -> Vec<f32> {
        self.logits_of(feature.values())
    }

    fn logits_of(&self, feature: &[f32]) -> Vec<f32> {
        // hidden = max(0, w1 x + b1); logits = w2 hidden + b2
        let hidden = dense(&self.w1, &self.b1, feature);
        let hidden: Vec<f32> = hidden.into_iter().map(|value| value.max(0.0)).collect();
        dense(&self.w2, &self.b2, &hidden)
    }

    /// Computes the probability of each label, between 0 and 1. The probabilities sum to 1.
    #[must_use]
    pub fn probabilities(&self, feature: &Feature) -> Vec<f32> {
        softmax(&self.logits(feature))
    }

    /// Computes probabilities like [`probabilities`](Head::probabilities), but for a
    /// row of a feature matrix.
    #[must_use]
    pub fn probabilities_of(&self, feature: &[f32]) -> Vec<f32> {
        softmax(&self.logits_of(feature))
    }
}

/// Computes `W x + b`, where `W` has the shape `[b.len(), x.len()]`.
fn dense(weights: &[f32], bias: &[f32], x: &[f32]) -> Vec<f32> {
    let width = weights.len().checked_div(bias.len()).unwrap_or(0).max(1);
    weights
        .chunks_exact(width)
        .zip(bias)
        .map(|(row, bias)| dot(row, x) + bias)
        .collect()
}

/// Computes the dot product with sixteen partial sums, which the compiler keeps in vector
/// registers. With a single sum, the compiler could not reorder the additions.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0_f32; LANES];
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// Returns the index of the largest value, or `None` if there are no values. If the
/// largest value occurs several times, the first index is returned, as in numpy's
/// `argmax`.
pub fn argmax<T: PartialOrd>(values: impl IntoIterator<Item = T>) -> Option<usize> {
    let mut largest: Option<(usize, T)> = None;
    for (index, value) in values.into_iter().enumerate() {
        if largest.as_ref().is_none_or(|(_, largest)| value > *largest) {
            largest = Some((index, value));
        }
    }
    largest.map(|(index, _)| index)
}

/// Computes the softmax. The largest logit is subtracted first, so that no exponential
/// overflows.
pub(super) fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dense_is_a_matrix_product_and_a_bias() {
        let product = dense(
            &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            &[0.5, -0.5],
            &[1.0, 10.0, 100.0],
        );
        assert_eq!(product, [321.5, 653.5]);
    }

    #[test]
    fn argmax_is_the_first_of_equal_values() {
        assert_eq!(argmax([0.2, 0.4, 0.4]), Some(1));
        assert_eq!(argmax([0.5, 0.5]), Some(0));
        assert_eq!(argmax([0.0; 0]), None);
    }

    #[test]
    fn softmax_of_large_logits_is_finite() {
        assert_eq!(softmax(&[1000.0, 0.0]), [1.0, 0.0]);
    }

    proptest! {
        #[test]
        fn dot_agrees_with_the_plain_sum(pairs in prop::collection::vec((-1.0_f32..1.0, -1.0_f32..1.0), 0..100)) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
            let plain: f64 = pairs.iter().map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            prop_assert!((f64::from(dot(&a, &b)) - plain).abs() < 1e-4);
        }

        #[test]
        fn probabilities_sum_to_one(logits in prop::collection::vec(-50.0_f32..50.0, 2..8)) {
            let probabilities = softmax(&logits);
            prop_assert!((probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }
}
