//! Chooses the adaptation of a refit.
//!
//! Which adaptation is best depends on the camera and on the number of labels
//! (`docs/LEARNING.md`). Every adaptation is trained and predicts the held-out samples. The
//! choice uses these predictions. To evaluate the choice itself, the predictions of each fold
//! come from the adaptation that is chosen without this fold.

use std::collections::BTreeSet;

use super::RefitContext;
use super::evaluate::{HeldOutPrediction, LOSS_CAP, cross_entropy};
use super::options::Adaptation;
use super::outcome::{Calibration, CurvePoint, ReplayAccuracy};
use crate::onnx::HeadTensors;

/// An adaptation is chosen instead of an earlier one only if its held-out loss is lower by
/// more than this number of standard errors of the difference.
const CLEARLY_BETTER: f64 = 1.0;

/// A challenger that was trained with one of the adaptations.
pub(super) struct Candidate {
    pub(super) adaptation: Adaptation,
    /// Number of Adam steps that early stopping chose.
    pub(super) steps: usize,
    pub(super) curve: Vec<CurvePoint>,
    /// The calibrated predictions of the held-out samples. All candidates predict the same
    /// samples in the same order.
    pub(super) predictions: Vec<HeldOutPrediction>,
    /// The calibrated head.
    pub(super) head: HeadTensors,
    pub(super) calibration: Calibration,
    pub(super) replay: Option<ReplayAccuracy>,
}

impl RefitContext<'_> {
    /// Returns the adaptations to try. Without a replay set, nothing can be translated. If a class
    /// is new to the head in use, only this class is trained: faces of the replay set would be
    /// taken for it if the other classes were trained too.
    pub(super) fn adaptations(&self) -> Vec<Adaptation> {
        if self.kinds.are_any_new() {
            return vec![Adaptation::NewClasses];
        }
        let all = &self.options.fit.adaptations;
        let is_possible = |adaptation: &&Adaptation| {
            **adaptation != Adaptation::TranslatedReplay || !self.replay.is_empty()
        };
        let mut possible: Vec<Adaptation> = all.iter().filter(is_possible).copied().collect();
        if self.kinds.are_any_taught() {
            possible.push(Adaptation::NewClasses);
        }
        if possible.is_empty() {
            vec![Adaptation::PlainReplay]
        } else {
            possible
        }
    }

    /// Returns the index of the candidate to use, and predictions that evaluate this choice.
    pub(super) fn choose(&self, candidates: &[Candidate]) -> (usize, Vec<HeldOutPrediction>) {
        let mut predictions = candidates[0].predictions.clone();
        let folds: BTreeSet<usize> = predictions.iter().map(|held| held.fold).collect();
        for fold in folds {
            let chosen = &candidates[self.best(candidates, |held| held.fold != fold)];
            for (to, from) in predictions.iter_mut().zip(&chosen.predictions) {
                if to.fold == fold {
                    to.clone_from(from);
                }
            }
        }
        (self.best(candidates, |_| true), predictions)
    }

    /// Returns the index of the first candidate whose loss is not clearly higher than the
    /// lowest loss. Compares the candidates on the predictions that `is_used` selects.
    fn best(
        &self,
        candidates: &[Candidate],
        is_used: impl Fn(&HeldOutPrediction) -> bool,
    ) -> usize {
        let loss = |held: &HeldOutPrediction| {
            let label = self.samples[held.sample].label();
            cross_entropy(&held.challenger, label).min(LOSS_CAP)
        };
        let difference = |one: &Candidate, other: &Candidate| {
            let pairs = one.predictions.iter().zip(&other.predictions);
            let used = pairs.filter(|(held, _)| is_used(held));
            self.balanced(used.map(|(a, b)| (a.sample, loss(a) - loss(b))))
        };
        let lowest = candidates.iter().skip(1).fold(&candidates[0], |best, one| {
            if difference(one, best).mean < 0.0 {
                one
            } else {
                best
            }
        });
        let is_as_good = |one: &Candidate| {
            let difference = difference(one, lowest);
            difference.mean <= CLEARLY_BETTER * difference.standard_error
        };
        candidates.iter().position(is_as_good).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::GroupedSample;
    use super::super::new_classes::Classes;
    use super::super::{RefitOptions, Sample};
    use super::*;
    use crate::learning::replay::Rows;
    use crate::onnx::FEATURES;

    /// Returns a candidate whose logits for the right class are these.
    fn candidate(adaptation: Adaptation, right: &[f64]) -> Candidate {
        let predictions = right.iter().enumerate().map(|(sample, right)| {
            let mut challenger = vec![0.0; 2];
            challenger[sample % 2] = *right;
            HeldOutPrediction {
                sample,
                fold: sample / 2,
                champion: vec![0.0; 2],
                challenger,
            }
        });
        Candidate {
            adaptation,
            steps: 0,
            curve: Vec::new(),
            predictions: predictions.collect(),
            head: HeadTensors {
                w1: Vec::new(),
                b1: Vec::new(),
                w2: Vec::new(),
                b2: Vec::new(),
            },
            calibration: Calibration::identity(2),
            replay: None,
        }
    }

    fn choice(candidates: &[Candidate]) -> (Adaptation, Vec<f64>) {
        let samples: Vec<Sample> = (0..candidates[0].predictions.len())
            .map(|number| Sample {
                id: number.to_string(),
                label: number % 2,
                track: number.to_string(),
                day: String::new(),
                features: vec![0.0; FEATURES],
                seen: false,
            })
            .collect();
        let grouped: Vec<GroupedSample> = samples
            .iter()
            .enumerate()
            .map(|(group, sample)| GroupedSample {
                sample,
                group,
                seen: false,
                width: FEATURES,
            })
            .collect();
        let options = RefitOptions::default();
        let context = RefitContext {
            options: &options,
            adaptation: Adaptation::PlainReplay,
            cancelled: &|| false,
            classes: 2,
            kinds: &Classes::default(),
            features: FEATURES,
            samples: &grouped,
            replay: &Rows::default(),
        };
        let (chosen, predictions) = context.choose(candidates);
        let right = predictions
            .iter()
            .map(|held| held.challenger[held.sample % 2])
            .collect();
        (candidates[chosen].adaptation, right)
    }

    #[test]
    fn a_later_adaptation_is_chosen_only_if_it_is_clearly_better() {
        let first = || candidate(Adaptation::PlainReplay, &[0.1, 0.0, -0.1, 0.1, 0.0, -0.1]);
        let better = candidate(Adaptation::Logits, &[3.0, 2.9, 3.1, 3.0, 2.8, 3.0]);
        let (chosen, predictions) = choice(&[first(), better]);
        assert_eq!(chosen, Adaptation::Logits);
        assert_eq!(predictions, [3.0, 2.9, 3.1, 3.0, 2.8, 3.0]);
        // On average, this candidate is better, but only because of one sample of each class.
        let lucky = candidate(Adaptation::Logits, &[2.5, 2.5, -0.6, -0.6, -0.6, -0.6]);
        assert_eq!(choice(&[first(), lucky]).0, Adaptation::PlainReplay);
    }

    #[test]
    fn a_fold_does_not_take_part_in_the_choice_of_its_own_predictions() {
        // The second candidate is clearly better on all folds. Without the first fold, it is
        // not better any more.
        let first = candidate(Adaptation::PlainReplay, &[-2.0, -2.0, 0.5, 0.5, 0.5, 0.5]);
        let second = candidate(Adaptation::Logits, &[2.0, 2.1, 0.5, 0.5, 0.5, 0.5]);
        let (_, predictions) = choice(&[first, second]);
        assert_eq!(predictions[..2], [-2.0, -2.0]);
    }
}
