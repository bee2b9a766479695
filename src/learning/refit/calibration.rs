//! Calibration with a temperature and a shift, so that the probabilities match
//! the observed frequencies on this camera (Guo et al. 2017).

use std::collections::BTreeMap;

use super::RefitContext;
use super::evaluate::{HeldOutPrediction, cross_entropy};
use super::options::Adaptation;
use super::outcome::Calibration;
use crate::onnx::HeadTensors;

/// The prior distribution of a calibration. Its mean changes nothing.
#[derive(Debug, Clone, Copy)]
struct Prior {
    /// Standard deviation of the temperature's logarithm. The smaller this value is, the more
    /// samples are needed to move the temperature away from 1.
    temperature: f64,
    /// Standard deviation of each shift, in nats.
    shift: f64,
}

impl Prior {
    fn of(adaptation: Adaptation) -> Prior {
        match adaptation {
            // The training has already moved the decision boundary.
            Adaptation::PlainReplay | Adaptation::TranslatedReplay | Adaptation::NewClasses => {
                Prior {
                    temperature: 0.25,
                    shift: 0.15,
                }
            }
            // Nothing but the calibration moves the decision boundary.
            Adaptation::Logits => Prior {
                temperature: 0.5,
                shift: 1.0,
            },
        }
    }
}

impl Calibration {
    /// Creates a calibration that changes nothing.
    pub(super) fn identity(classes: usize) -> Calibration {
        Calibration {
            temperature: 1.0,
            shift: vec![0.0; classes],
        }
    }

    /// Finds the most probable calibration for these predictions, each given as (logits, label,
    /// weight). The logarithm of the temperature and the shifts have normal priors with mean 0.
    /// This function minimizes the following cost by a golden-section search along each coordinate
    /// in turn:
    ///
    /// ```text
    /// sum w cross_entropy(z / T + b) + ln(T)^2 / 2 s_T^2 + sum b_c^2 / 2 s_b^2
    /// ```
    ///
    /// The cost is smooth. It is convex in the shifts, but not in ln T.
    fn fit(predictions: &[(&[f64], usize, f64)], classes: usize, prior: Prior) -> Calibration {
        const MAX_ROUNDS: usize = 40;
        const TOLERANCE: f64 = 1e-3;
        const MAX_SHIFT: f64 = 4.0;
        const MAX_LOG_TEMPERATURE: f64 = 1.5;
        let cost = |calibration: &Calibration| {
            let loss: f64 = predictions
                .iter()
                .map(|(logits, label, weight)| {
                    weight * cross_entropy(&calibration.apply(logits), *label)
                })
                .sum();
            let temperature = calibration.temperature.ln() / prior.temperature;
            let shift: f64 = calibration.shift.iter().map(|shift| shift * shift).sum();
            loss + 0.5 * temperature * temperature + 0.5 * shift / (prior.shift * prior.shift)
        };
        let mut is_present = vec![false; classes];
        for (_, label, _) in predictions {
            is_present[*label] = true;
        }
        let mut best = Calibration::identity(classes);
        for _ in 0..MAX_ROUNDS {
            let before = best.clone();
            for class in (0..classes).filter(|class| is_present[*class]) {
                let mut tried = best.clone();
                best.shift[class] = golden_section(-MAX_SHIFT, MAX_SHIFT, |shift| {
                    tried.shift[class] = shift;
                    cost(&tried)
                });
            }
            let mut tried = best.clone();
            let logarithm =
                golden_section(-MAX_LOG_TEMPERATURE, MAX_LOG_TEMPERATURE, |logarithm| {
                    tried.temperature = logarithm.exp();
                    cost(&tried)
                });
            best.temperature = logarithm.exp();
            let shifts = before.shift.iter().zip(&best.shift);
            let largest_step = shifts
                .map(|(before, after)| (before - after).abs())
                .fold((before.temperature - best.temperature).abs(), f64::max);
            if largest_step < TOLERANCE {
                break;
            }
        }
        best
    }

    pub(super) fn apply(&self, logits: &[f64]) -> Vec<f64> {
        let shifted = logits.iter().zip(&self.shift);
        shifted
            .map(|(logit, shift)| logit / self.temperature + shift)
            .collect()
    }

    /// Returns a calibration with the same temperature, but with each shift multiplied by `share`.
    pub(super) fn with_shift_share(&self, share: f64) -> Calibration {
        Calibration {
            temperature: self.temperature,
            shift: self.shift.iter().map(|shift| share * shift).collect(),
        }
    }

    /// Returns a calibration that lowers the logits of these classes by `nats` more.
    pub(super) fn lowered(mut self, classes: &[bool], nats: f64) -> Calibration {
        let lowered = self.shift.iter_mut().zip(classes);
        for (shift, _) in lowered.filter(|(_, is_lowered)| **is_lowered) {
            *shift -= nats;
        }
        self
    }

    /// Returns a head whose logits are calibrated. The last layer of the head is divided by the
    /// temperature, and then the shift is added to the bias of that layer.
    pub(super) fn fold_into(&self, head: &HeadTensors) -> HeadTensors {
        let temperature = self.temperature;
        let divided = move |value: &f32| f64::from(*value) / temperature;
        HeadTensors {
            w1: head.w1.clone(),
            b1: head.b1.clone(),
            w2: head.w2.iter().map(|value| divided(value) as f32).collect(),
            b2: head
                .b2
                .iter()
                .map(divided)
                .zip(&self.shift)
                .map(|(value, shift)| (value + shift) as f32)
                .collect(),
        }
    }
}

/// Finds the minimum of a function that has only one minimum between the two bounds (Kiefer 1953).
fn golden_section(mut low: f64, mut high: f64, mut cost: impl FnMut(f64) -> f64) -> f64 {
    const STEPS: usize = 32;
    let ratio = (5.0_f64.sqrt() - 1.0) / 2.0;
    let mut left = high - ratio * (high - low);
    let mut right = low + ratio * (high - low);
    let (mut cost_left, mut cost_right) = (cost(left), cost(right));
    for _ in 0..STEPS {
        if cost_left < cost_right {
            high = right;
            (right, cost_right) = (left, cost_left);
            left = high - ratio * (high - low);
            cost_left = cost(left);
        } else {
            low = left;
            (left, cost_left) = (right, cost_right);
            right = low + ratio * (high - low);
            cost_right = cost(right);
        }
    }
    f64::midpoint(low, high)
}

/// The calibrations of a challenger.
pub(super) struct Calibrations {
    /// The calibration fitted on all held-out predictions. It is folded into the head.
    pub(super) of_all: Calibration,
    /// For each fold, the calibration fitted on the predictions from the other
    /// folds.
    pub(super) without_fold: BTreeMap<usize, Calibration>,
}

impl RefitContext<'_> {
    /// Fits calibrations on held-out predictions. The gate must not evaluate a prediction with a
    /// calibration that was fitted on that prediction, so each fold gets its own calibration.
    pub(super) fn calibrations(&self, predictions: &[HeldOutPrediction]) -> Calibrations {
        let folds = predictions.iter().map(|prediction| prediction.fold);
        let without = |fold| (fold, self.calibration(predictions, Some(fold)));
        Calibrations {
            of_all: self.calibration(predictions, None),
            without_fold: folds
                .collect::<std::collections::BTreeSet<usize>>()
                .into_iter()
                .map(without)
                .collect(),
        }
    }

    /// Fits a calibration on the predictions outside the fold `without`, or on all predictions if
    /// `without` is `None`. Every group has weight 1.
    fn calibration(
        &self,
        predictions: &[HeldOutPrediction],
        without: Option<usize>,
    ) -> Calibration {
        let mut group_sizes: BTreeMap<usize, usize> = BTreeMap::new();
        for prediction in predictions {
            let group = self.samples[prediction.sample].group;
            *group_sizes.entry(group).or_default() += 1;
        }
        let weighted: Vec<(&[f64], usize, f64)> = predictions
            .iter()
            .filter(|prediction| without != Some(prediction.fold))
            .map(|prediction| {
                let sample = &self.samples[prediction.sample];
                let weight = 1.0 / group_sizes[&sample.group] as f64;
                (prediction.challenger.as_slice(), sample.label(), weight)
            })
            .collect();
        Calibration::fit(&weighted, self.classes, Prior::of(self.adaptation))
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::super::evaluate::logits;
    use super::super::tests::TwoCameras;
    use super::*;
    use crate::vision::embed::FEATURES;

    #[test]
    fn calibration_finds_temperature_and_shift_and_needs_evidence() {
        let prior = Prior::of(Adaptation::PlainReplay);
        let nothing = Calibration::fit(&[], 2, prior);
        assert!((nothing.temperature - 1.0).abs() < 1e-3, "{nothing:?}");
        assert_eq!(nothing.shift, [0.0, 0.0]);

        // The logits of class 0 are first raised by 2. Then all logits are multiplied by
        // 3.
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let drawn: Vec<(Vec<f64>, usize)> = (0..2000)
            .map(|_| {
                let z = 6.0 * rng.random::<f64>() - 3.0;
                let p = 1.0 / (1.0 + (-z).exp());
                let label = usize::from(rng.random::<f64>() >= p);
                (vec![3.0 * (z + 2.0), 0.0], label)
            })
            .collect();
        let fitted = |count: usize| {
            let some: Vec<(&[f64], usize, f64)> = drawn[..count]
                .iter()
                .map(|(logits, label)| (logits.as_slice(), *label, 1.0))
                .collect();
            Calibration::fit(&some, 2, prior)
        };
        let many = fitted(2000);
        assert!((many.temperature - 3.0).abs() < 0.5, "{many:?}");
        let difference = many.shift[1] - many.shift[0];
        assert!((difference - 2.0).abs() < 0.4, "{many:?}");
        let few = fitted(6);
        assert!(few.temperature < many.temperature);
        assert!(few.shift[1] - few.shift[0] < difference);
    }

    #[test]
    fn a_calibration_is_folded_into_the_last_layer() {
        let data = TwoCameras::new(12);
        let calibration = Calibration {
            temperature: 1.7,
            shift: vec![0.4, -0.4],
        };
        let features = &data.replay.holdout.features[..5 * FEATURES];
        let plain = logits(&data.base, features).unwrap();
        let folded = logits(&calibration.fold_into(&data.base), features).unwrap();
        assert_eq!((plain.len(), folded.len()), (5, 5));
        for (plain, folded) in plain.iter().zip(&folded) {
            for (expected, found) in calibration.apply(plain).iter().zip(folded) {
                assert!((expected - found).abs() < 1e-4);
            }
        }
    }
}
