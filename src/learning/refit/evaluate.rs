//! Compares a challenger with the champion on held-out samples.
//!
//! This module computes the scores of both heads, the decrease of the loss balanced by class and
//! group, and the agreement of the labels. It also finds labels that look wrong. It evaluates newly
//! trained challengers as well as challengers from other devices.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::gate;
use super::options::{Adaptation, FitOptions, GateOptions, RefitOptions};
use super::outcome::{
    Calibration, Estimate, HardExample, Measurements, ReplayAccuracy, Scores, TrainingSummary,
};
use super::{Abort, MIN_GROUPS, RefitContext, RefitInput};
use crate::learning::replay::Rows;
use crate::onnx::HeadTensors;
use crate::training::report::wilson;
use crate::training::train::{TrainOptions, Trainer};
use crate::vision::embed::cosine_distance;
use crate::vision::head::argmax;

/// Upper limit on the loss of each sample, in nats. The gate counts higher
/// losses as this value. Without this cap, a single confident mistake could
/// outweigh all other samples.
pub const LOSS_CAP: f64 = 4.0;

/// If the held-out probability of a sample's label is lower than this, the sample is compared with
/// its neighbors.
const SUSPECT_PROBABILITY: f64 = 0.25;
/// Number of nearest neighbors to compare with.
const NEIGHBORS: usize = 5;
/// Maximum number of worst held-out samples to list.
const MAX_WORST: usize = 10;

/// The predictions of the champion and of the challenger for a held-out sample.
#[derive(Clone)]
pub(super) struct HeldOutPrediction {
    /// Index of the sample in the list of usable samples.
    pub(super) sample: usize,
    /// The fold in which the sample was held out.
    pub(super) fold: usize,
    /// Logits of the champion.
    pub(super) champion: Vec<f64>,
    /// Logits of the challenger.
    pub(super) challenger: Vec<f64>,
}

/// Comparison of the champion and the challenger on held-out samples.
pub(super) struct Comparison {
    before: Scores,
    after: Scores,
    gain: Estimate,
    recognized_gain: Option<f64>,
    groups: usize,
    fewest_groups: usize,
    worst: Vec<HardExample>,
    suspects: Vec<HardExample>,
}

impl Comparison {
    /// Whether some labels look wrong.
    pub(super) fn has_suspects(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// Whether the challenger is so much better that the labels can be trusted.
    pub(super) fn is_evident(&self, options: &GateOptions) -> bool {
        gate::is_evident(
            &self.before,
            &self.after,
            &self.gain,
            self.fewest_groups,
            options,
        )
    }

    /// Combines the comparison with the other values that the gate needs.
    pub(super) fn with(
        self,
        training: TrainingSummary,
        agreement: Estimate,
        replay: Option<ReplayAccuracy>,
        calibration: Calibration,
    ) -> Measurements {
        let Comparison {
            before,
            after,
            gain,
            recognized_gain,
            groups,
            fewest_groups,
            worst,
            suspects,
        } = self;
        Measurements {
            training,
            before,
            after,
            gain,
            recognized_gain,
            groups,
            fewest_groups,
            agreement,
            replay,
            calibration,
            worst,
            suspects,
            new_classes: Vec::new(),
        }
    }

    /// Returns the scores of the challenger.
    pub(super) fn after(&self) -> &Scores {
        &self.after
    }
}

impl RefitContext<'_> {
    /// Compares the champion and the challenger on these predictions.
    pub(super) fn compare(&self, predictions: &[HeldOutPrediction]) -> Result<Comparison, Abort> {
        let label = |held: &HeldOutPrediction| self.samples[held.sample].label();
        let gain_on = |held: &HeldOutPrediction| {
            let loss = |logits: &[f64]| cross_entropy(logits, label(held)).min(LOSS_CAP);
            (held.sample, loss(&held.champion) - loss(&held.challenger))
        };
        let is_recognized = |held: &&HeldOutPrediction| {
            let label = Some(label(held));
            argmax(&held.champion) == label || argmax(&held.challenger) == label
        };
        let gain = self.balanced(predictions.iter().map(gain_on));
        let recognized = || predictions.iter().filter(is_recognized);
        // A mean over some of the classes would hide what happens to the others.
        let labels = |held: Vec<&HeldOutPrediction>| -> BTreeSet<usize> {
            held.into_iter().map(label).collect()
        };
        let are_all_classes_recognized =
            labels(predictions.iter().collect()) == labels(recognized().collect());
        let recognized_gain =
            are_all_classes_recognized.then(|| self.balanced(recognized().map(gain_on)).mean);
        if !gain.mean.is_finite() {
            return Err(Abort::NotFinite);
        }
        let mut by_loss: Vec<(f64, usize)> = predictions
            .iter()
            .map(|held| (cross_entropy(&held.challenger, label(held)), held.sample))
            .collect();
        by_loss.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (worst, suspects) = self.worst_and_suspects(by_loss);
        Ok(Comparison {
            before: self.scores(predictions, |held| &held.champion),
            after: self.scores(predictions, |held| &held.challenger),
            gain,
            recognized_gain,
            groups: predictions
                .iter()
                .map(|held| self.samples[held.sample].group)
                .collect::<BTreeSet<usize>>()
                .len(),
            fewest_groups: self.fewest_groups(predictions),
            worst,
            suspects,
        })
    }

    /// Returns the number of held-out groups of the class that has the fewest. Classes without
    /// samples do not count.
    fn fewest_groups(&self, predictions: &[HeldOutPrediction]) -> usize {
        let mut groups: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for held in predictions {
            let sample = &self.samples[held.sample];
            groups
                .entry(sample.label())
                .or_default()
                .insert(sample.group);
        }
        groups.values().map(BTreeSet::len).min().unwrap_or_default()
    }

    fn scores(
        &self,
        predictions: &[HeldOutPrediction],
        logits: impl Fn(&HeldOutPrediction) -> &[f64],
    ) -> Scores {
        let mut confusion = vec![vec![0; self.classes]; self.classes];
        let mut loss = 0.0;
        for held in predictions {
            let label = self.samples[held.sample].label();
            let logits = logits(held);
            confusion[label][argmax(logits).unwrap_or_default()] += 1;
            loss += cross_entropy(logits, label).min(LOSS_CAP);
        }
        let samples = predictions.len();
        let right = (0..self.classes).map(|class| confusion[class][class]).sum();
        Scores {
            samples,
            right,
            accuracy: right as f64 / samples.max(1) as f64,
            interval: wilson(right, samples),
            loss: loss / samples.max(1) as f64,
            confusion,
        }
    }

    /// Averages the values, each given as (sample index, value). The average is taken over the
    /// samples of each group, then over the groups of each class, then over the classes. The
    /// standard error is computed from the spread of the groups.
    pub(super) fn balanced(&self, values: impl Iterator<Item = (usize, f64)>) -> Estimate {
        let mut groups: BTreeMap<(usize, usize), (f64, f64)> = BTreeMap::new();
        for (sample, value) in values {
            let sample = &self.samples[sample];
            let (sum, count) = groups.entry((sample.label(), sample.group)).or_default();
            *sum += value;
            *count += 1.0;
        }
        let mut classes: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for ((label, _), (sum, count)) in groups {
            classes.entry(label).or_default().push(sum / count);
        }
        let number = classes.len().max(1) as f64;
        let mut balanced = Estimate::default();
        let mut variance = 0.0;
        for means in classes.values() {
            let n = means.len() as f64;
            let mean = means.iter().sum::<f64>() / n;
            let squares: f64 = means.iter().map(|value| (value - mean).powi(2)).sum();
            balanced.mean += mean / number;
            // A class with only one group contributes no variance.
            variance += squares / (n - 1.0).max(1.0) / n / (number * number);
        }
        balanced.standard_error = variance.sqrt();
        balanced
    }

    /// Returns the samples with the highest losses, and the samples whose labels look wrong.
    /// `by_loss` contains (held-out loss, sample index), sorted by loss in descending order.
    fn worst_and_suspects(
        &self,
        mut by_loss: Vec<(f64, usize)>,
    ) -> (Vec<HardExample>, Vec<HardExample>) {
        let improbable = by_loss
            .iter()
            .take_while(|(loss, _)| (-loss).exp() < SUSPECT_PROBABILITY)
            .count();
        by_loss.truncate(improbable.max(MAX_WORST));
        let mut worst = self.hard_examples(&by_loss);
        let suspects: Vec<HardExample> = worst
            .iter()
            .take(improbable)
            .filter(|example| 2 * example.disagreeing > example.neighbors)
            .cloned()
            .collect();
        worst.truncate(MAX_WORST);
        (worst, suspects)
    }

    /// Compares each of these samples, given as (held-out loss, index), with its neighbors. The
    /// neighbors are the samples from other groups with the smallest cosine distances. The mean
    /// feature vector is subtracted before the distances are computed.
    fn hard_examples(&self, by_loss: &[(f64, usize)]) -> Vec<HardExample> {
        let number = self.samples.len() as f32;
        let mut mean = vec![0.0; self.features];
        for sample in self.samples {
            for (mean, value) in mean.iter_mut().zip(sample.crop()) {
                *mean += value / number;
            }
        }
        let centered: Vec<Vec<f32>> = self
            .samples
            .iter()
            .map(|sample| {
                let values = sample.crop().iter().zip(&mean);
                values.map(|(value, mean)| value - mean).collect()
            })
            .collect();
        let describe = |&(loss, own): &(f64, usize)| {
            let sample = &self.samples[own];
            let others = self.samples.iter().zip(&centered);
            let mut neighbors: Vec<(f32, usize)> = others
                .filter(|(other, _)| other.group != sample.group)
                .map(|(other, features)| (cosine_distance(&centered[own], features), other.label()))
                .collect();
            neighbors.sort_by(|a, b| a.0.total_cmp(&b.0));
            neighbors.truncate(NEIGHBORS);
            let disagreeing = neighbors
                .iter()
                .filter(|(_, label)| *label != sample.label());
            HardExample {
                id: sample.sample.id.clone(),
                label: sample.label(),
                probability: (-loss).exp(),
                loss,
                disagreeing: disagreeing.count(),
                neighbors: neighbors.len(),
            }
        };
        by_loss.iter().map(describe).collect()
    }

    /// Computes [`Measurements::agreement`], which is the multiclass area under the ROC curve (Hand
    /// and Till 2001) of a head that was trained without the labels.
    pub(super) fn agreement(&self, input: &RefitInput) -> Result<Estimate, Abort> {
        let (logits, known) = self.without_labels(input)?;
        // For each label and group, the sum of the logits and the number of samples.
        let mut groups: BTreeMap<(usize, usize), (Vec<f64>, f64)> = BTreeMap::new();
        for (sample, logits) in self.samples.iter().zip(&logits) {
            let (sums, count) = groups
                .entry((sample.label(), sample.group))
                .or_insert_with(|| (vec![0.0; self.classes], 0.0));
            for (sum, logit) in sums.iter_mut().zip(logits) {
                *sum += logit;
            }
            *count += 1.0;
        }
        groups.retain(|(label, _), _| known.contains(label));
        let (mut ordered, mut pairs) = (0.0, 0.0);
        for ((a, _), (first, first_count)) in &groups {
            for ((b, _), (second, second_count)) in groups.range((a + 1, 0)..) {
                let margin = |logits: &[f64], count: f64| (logits[*a] - logits[*b]) / count;
                let difference = margin(first, *first_count) - margin(second, *second_count);
                pairs += 1.0;
                ordered += match difference.total_cmp(&0.0) {
                    Ordering::Greater => 1.0,
                    Ordering::Equal => 0.5,
                    Ordering::Less => 0.0,
                };
            }
        }
        // For each pair of classes, compute the variance of U / n. U is the Mann-Whitney statistic,
        // and n is the number of pairs of groups. The agreement is the mean of these ratios,
        // weighted by n. Its variance is therefore the sum of n^2 times the variance of each ratio,
        // divided by the square of the sum of all n.
        let mut sizes: BTreeMap<usize, f64> = BTreeMap::new();
        for (label, _) in groups.keys() {
            *sizes.entry(*label).or_default() += 1.0;
        }
        let mut variance = 0.0;
        for (a, first) in &sizes {
            for (_, second) in sizes.range(a + 1..) {
                let product: f64 = first * second;
                variance += (first + second + 1.0) / (12.0 * product) * product * product;
            }
        }
        Ok(if pairs > 0.0 {
            Estimate {
                mean: ordered / pairs,
                standard_error: variance.sqrt() / pairs,
            }
        } else {
            Estimate {
                mean: 1.0,
                standard_error: 0.0,
            }
        })
    }

    /// Computes the logits of all samples with a head that was trained without their labels.
    /// Returns the logits, and the classes that this head knows. With a replay set, the head is the
    /// base head after training only on replay rows, some of which are translated. The labels of
    /// the samples affect only the translation. The translation compares mean features, in which
    /// each class has the same weight. Without a replay set, the head is the base head itself.
    fn without_labels(
        &self,
        input: &RefitInput,
    ) -> Result<(Vec<Vec<f64>>, BTreeSet<usize>), Abort> {
        let all: Vec<usize> = (0..self.samples.len()).collect();
        let crops = self.crops(&all);
        if self.replay.is_empty() {
            let is_known = |label: &usize| input.base_labels.contains(&input.labels[*label]);
            let known = (0..self.classes).filter(is_known).collect();
            return Ok((logits(input.base, &crops)?, known));
        }
        let options = RefitOptions {
            fit: FitOptions {
                new_share: 0.0,
                ..self.options.fit.clone()
            },
            ..self.options.clone()
        };
        let steps = options.fit.steps;
        let context = RefitContext {
            options: &options,
            adaptation: Adaptation::TranslatedReplay,
            ..*self
        };
        let mut predicted = Vec::new();
        context.learn(input.base, &all, &[steps], |_, trainer| {
            predicted = rows_of(&trainer.logits(&crops)?, self.classes);
            Ok(())
        })?;
        Ok((predicted, self.replay.labels.iter().copied().collect()))
    }

    /// Whether at least two classes have [`MIN_GROUPS`] or more groups among
    /// these samples.
    pub(super) fn can_judge(&self, samples: impl Iterator<Item = usize>) -> bool {
        let mut groups = vec![BTreeSet::new(); self.classes];
        for sample in samples {
            let sample = &self.samples[sample];
            groups[sample.label()].insert(sample.group);
        }
        let enough = groups.iter().filter(|groups| groups.len() >= MIN_GROUPS);
        enough.count() >= 2
    }

    /// Returns the features of these samples' crops in row-major order.
    pub(super) fn crops(&self, samples: &[usize]) -> Vec<f32> {
        let mut features = Vec::with_capacity(samples.len() * self.features);
        for sample in samples {
            features.extend_from_slice(self.samples[*sample].crop());
        }
        features
    }
}

/// Computes the logits of each row of features.
pub(super) fn logits(head: &HeadTensors, features: &[f32]) -> Result<Vec<Vec<f64>>, Abort> {
    let trainer = Trainer::from_head(head.clone(), TrainOptions::default())?;
    Ok(rows_of(&trainer.logits(features)?, head.b2.len()))
}

/// Converts a row-major matrix `[rows, columns]` to a list of rows of 64-bit floats.
pub(super) fn rows_of(values: &[f32], columns: usize) -> Vec<Vec<f64>> {
    let rows = values.chunks_exact(columns);
    rows.map(|row| row.iter().copied().map(f64::from).collect())
        .collect()
}

/// Computes the negative natural logarithm of the label's softmax probability.
pub(super) fn cross_entropy(logits: &[f64], label: usize) -> f64 {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
    sum.ln() + largest - logits[label]
}

/// Returns the fraction of rows for whose logits and label `is_right` is true.
pub(super) fn accuracy(
    head: &HeadTensors,
    rows: &Rows,
    is_right: impl Fn(&[f64], usize) -> bool,
) -> Result<f64, Abort> {
    let logits = logits(head, &rows.features)?;
    let right = logits
        .iter()
        .zip(&rows.labels)
        .filter(|(logits, label)| is_right(logits, **label));
    Ok(right.count() as f64 / rows.len() as f64)
}
