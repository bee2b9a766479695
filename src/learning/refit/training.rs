//! Trains challengers, and predicts the samples that are held out.
//!
//! This module chooses the head to start from, trains with one adaptation, and decides after how
//! many steps the training stops. It neither calibrates a challenger nor decides about it.

use std::collections::BTreeSet;

use super::batches::Batches;
use super::evaluate::{cross_entropy, logits, rows_of};
use super::folds::Split;
use super::input::RefitInput;
use super::options::Adaptation;
use super::outcome::{CurvePoint, InitialHead, Validation};
use super::{Abort, RefitContext};
use crate::onnx::HeadTensors;
use crate::training::train::{TrainOptions, Trainer};

/// The samples that are held out in some round, with the values that are known before a
/// challenger is trained.
pub(super) struct HeldOut<'a> {
    /// Indices of the held-out samples in the list of usable samples.
    pub(super) samples: Vec<usize>,
    /// Positions in `samples` of the samples that the heads are evaluated on.
    pub(super) judging: Vec<usize>,
    pub(super) champion_logits: Vec<Vec<f64>>,
    pub(super) initial: InitialHead,
    pub(super) initial_head: &'a HeadTensors,
    pub(super) initial_loss: f64,
}

/// The results of cross-validation or of the permanent holdout.
pub(super) struct Validated {
    /// Number of steps that early stopping chose.
    pub(super) steps: usize,
    /// Logits of the held-out samples after `steps` steps.
    pub(super) logits: Vec<Vec<f64>>,
    pub(super) curve: Vec<CurvePoint>,
}

impl RefitContext<'_> {
    /// Chooses the samples to hold out, the held-out samples to evaluate the heads on,
    /// and the head to start the training from.
    pub(super) fn held_out<'a>(
        &self,
        input: &RefitInput<'a>,
        split: &Split,
    ) -> Result<HeldOut<'a>, Abort> {
        let samples: Vec<usize> = (0..self.samples.len())
            .filter(|sample| split.folds[*sample].is_some())
            .collect();
        let crops = self.crops(&samples);
        let champion_logits = logits(input.champion, &crops)?;
        let base_logits = logits(input.base, &crops)?;

        // Groups that the champion was trained on do not show how well the champion generalizes.
        let unseen: Vec<usize> = (0..samples.len())
            .filter(|position| !self.samples[samples[*position]].seen)
            .collect();
        let are_unseen_enough = self.can_judge(unseen.iter().map(|position| samples[*position]));
        let judging: Vec<usize> = if are_unseen_enough {
            unseen
        } else {
            (0..samples.len()).collect()
        };
        let champion_loss = self.held_out_loss(&samples, &judging, &champion_logits);
        let base_loss = self.held_out_loss(&samples, &judging, &base_logits);
        let is_champion_better = are_unseen_enough && champion_loss <= base_loss;
        let (initial, initial_head, initial_loss) =
            if input.champion == input.base || is_champion_better {
                (InitialHead::Champion, input.champion, champion_loss)
            } else {
                (InitialHead::Base, input.base, base_loss)
            };
        Ok(HeldOut {
            samples,
            judging,
            champion_logits,
            initial,
            initial_head,
            initial_loss,
        })
    }

    /// Returns the mean loss over the samples in `judging`, balanced by class
    /// and group.
    fn held_out_loss(&self, samples: &[usize], judging: &[usize], logits: &[Vec<f64>]) -> f64 {
        let losses = judging.iter().map(|&position| {
            let sample = samples[position];
            let label = self.samples[sample].label();
            (sample, cross_entropy(&logits[position], label))
        });
        self.balanced(losses).mean
    }

    /// For each fold, trains a challenger without the fold and predicts the fold. Then chooses the
    /// number of steps.
    pub(super) fn validate(&self, held_out: &HeldOut, split: &Split) -> Result<Validated, Abort> {
        let samples = &held_out.samples;
        let checkpoints = self.checkpoints();
        let mut at_checkpoints = vec![vec![Vec::new(); samples.len()]; checkpoints.len()];
        // For each round, the positions in `samples` that are held out
        // together.
        let rounds: Vec<Vec<usize>> = match split.validation {
            Validation::HoldOut { .. } => vec![(0..samples.len()).collect()],
            Validation::CrossValidation { folds } => (0..folds)
                .map(|fold| {
                    let is_of_fold =
                        |position: &usize| split.folds[samples[*position]] == Some(fold);
                    (0..samples.len()).filter(is_of_fold).collect()
                })
                .collect(),
        };
        for round in &rounds {
            let without: Vec<usize> = round.iter().map(|position| samples[*position]).collect();
            let crops = self.crops(&without);
            let without: BTreeSet<usize> = without.into_iter().collect();
            let learned: Vec<usize> = (0..self.samples.len())
                .filter(|sample| !without.contains(sample))
                .collect();
            self.learn(
                held_out.initial_head,
                &learned,
                &checkpoints,
                |checkpoint, trainer| {
                    let logits = rows_of(&trainer.logits(&crops)?, self.classes);
                    for (position, logits) in round.iter().zip(logits) {
                        at_checkpoints[checkpoint][*position] = logits;
                    }
                    Ok(())
                },
            )?;
        }
        let losses: Vec<f64> = at_checkpoints
            .iter()
            .map(|logits| self.held_out_loss(samples, &held_out.judging, logits))
            .collect();
        let best = self.early_stop(&losses);
        let start = CurvePoint {
            steps: 0,
            loss: held_out.initial_loss,
        };
        let points = checkpoints
            .iter()
            .zip(&losses)
            .filter(|(steps, _)| **steps > 0)
            .map(|(steps, loss)| CurvePoint {
                steps: *steps,
                loss: *loss,
            });
        Ok(Validated {
            steps: checkpoints[best],
            logits: at_checkpoints.swap_remove(best),
            curve: std::iter::once(start).chain(points).collect(),
        })
    }

    /// Returns the last checkpoint, or an earlier checkpoint if the held-out loss was clearly lower
    /// at that checkpoint.
    fn early_stop(&self, losses: &[f64]) -> usize {
        let last = losses.len() - 1;
        let margin = self.options.gate.min_gain.max(0.0);
        (0..last).rev().fold(last, |best, checkpoint| {
            let is_earlier_better = losses[checkpoint] < losses[best] - margin;
            if is_earlier_better { checkpoint } else { best }
        })
    }

    /// Returns the maximum number of Adam steps.
    pub(super) fn steps(&self) -> usize {
        match self.adaptation {
            Adaptation::Logits => 0,
            Adaptation::PlainReplay | Adaptation::TranslatedReplay => self.options.fit.steps,
            Adaptation::NewClasses => self.options.fit.new_class_steps,
        }
    }

    /// Returns the step counts at which early stopping measures the loss.
    fn checkpoints(&self) -> Vec<usize> {
        let steps = self.steps();
        if self.adaptation == Adaptation::NewClasses {
            // The loss rises because the head becomes too sure, which the calibration corrects.
            // Meanwhile, it still learns to tell the new class from the others.
            return vec![steps];
        }
        let mut checkpoints = vec![steps.div_ceil(3), (2 * steps).div_ceil(3), steps];
        checkpoints.dedup();
        checkpoints
    }

    /// Returns the head after training for `steps` steps.
    pub(super) fn learn_to(
        &self,
        initial: &HeadTensors,
        samples: &[usize],
        steps: usize,
    ) -> Result<HeadTensors, Abort> {
        let mut head = None;
        self.learn(initial, samples, &[steps], |_, trainer| {
            head = Some(trainer.tensors());
            Ok(())
        })?;
        head.ok_or(Abort::NotFinite)
    }

    /// Trains on these samples and the replay set. Each checkpoint is a number of steps. After that
    /// number of steps, calls `at_checkpoint` with the index of the checkpoint.
    pub(super) fn learn(
        &self,
        initial: &HeadTensors,
        samples: &[usize],
        checkpoints: &[usize],
        mut at_checkpoint: impl FnMut(usize, &Trainer) -> Result<(), Abort>,
    ) -> Result<(), Abort> {
        let fit = &self.options.fit;
        let part = match self.adaptation {
            Adaptation::NewClasses => Some(self.kinds.part(initial)),
            _ => None,
        };
        let train = TrainOptions {
            dropout: fit.dropout,
            init_lr: match part {
                Some(_) => fit.new_class_learning_rate,
                None => fit.learning_rate,
            },
            decay: 0.0,
            seed: self.options.seed,
            class_weights: Vec::new(),
            ..TrainOptions::default()
        };
        let mut trainer = Trainer::from_head(initial.clone(), train)?;
        let mut batches = Batches::new(self, samples);
        for (checkpoint, steps) in checkpoints.iter().enumerate() {
            while trainer.steps() < *steps as u64 {
                if (self.cancelled)() {
                    return Err(Abort::Cancelled);
                }
                let (features, labels) = batches.draw();
                match &part {
                    Some(part) => trainer.step_part(features, labels, part)?,
                    None => trainer.step(features, labels)?,
                };
            }
            at_checkpoint(checkpoint, &trainer)?;
        }
        Ok(())
    }
}
