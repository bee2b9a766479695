//! Refits a head on the device, and defines the gate that a new head must pass.
//!
//! This module trains a challenger on a few labeled crops from the device's own
//! camera, calibrates it, and decides whether it may replace the champion,
//! which is the head in use. It knows nothing about cameras, files, or where
//! samples are stored. It is pure: the samples, the replay set, and the seed
//! are arguments, and it uses no clock and no threads. `docs/LEARNING.md` gives
//! the formulas and the measured values.
//!
//! # Order
//! 1. Samples that cannot be used are skipped and listed in the outcome
//!    (`input`).
//! 2. The usable samples are split by group (`folds`). A group is one track on
//!    one day. The crops of one person passing by look so similar that a split
//!    by crop would evaluate a head on crops that it has memorized.
//! 3. For each fold, a challenger is trained on the other folds and then
//!    predicts the held-out fold (`batches`).
//! 4. Temperature and shift are fitted on those held-out predictions
//!    (`calibration`). For the gate, each fold is calibrated with values fitted
//!    on the other folds.
//! 5. Challenger and champion are compared on the held-out samples and on the
//!    replay holdout (`evaluate`), and the gate decides (`gate`).
//! 6. After cross-validation, the challenger that is returned is trained on all
//!    samples in the same way. With a permanent holdout, it is the challenger
//!    that was evaluated.

mod advice;
mod batches;
mod calibration;
mod evaluate;
mod folds;
mod gate;
mod grow;
mod input;
mod options;
mod outcome;
mod variants;

use std::collections::BTreeSet;

pub use evaluate::LOSS_CAP;
pub use gate::gate;
pub use grow::grow;
pub use input::{RefitInput, Sample};
pub use options::{FitOptions, GateOptions, HoldOutOptions, RefitOptions};
pub use outcome::{
    Advice, Calibration, ClassCount, CurvePoint, Estimate, GateDecision, HardExample, InitialHead,
    Measurements, Outcome, Refusal, ReplayAccuracy, Scores, SkipReason, SkippedSample,
    TrainingSummary, Validation,
};
pub use variants::{VARIANTS, variants};

use crate::learning::replay::Rows;
use crate::onnx::HeadTensors;
use crate::training::train::{TrainError, TrainOptions, Trainer};
use batches::Batches;
use evaluate::{HeldOutPrediction, accuracy, cross_entropy, logits, rows_of};
use folds::{Split, split};
use input::{GroupedSample, check_head, class_counts, too_few};

/// Minimum number of groups per class. A single group cannot be used for both
/// training and validation.
const MIN_GROUPS: usize = 2;

/// Fractions of the shift to try in turn, until the accuracy on the replay
/// holdout stays within the tolerance.
const SHIFT_SHARES: [f64; 3] = [1.0, 0.5, 0.0];

/// The warning in the outcome when there is no replay set.
const NO_REPLAY: &str = "the replay set was made for other labels or another backbone than this \
                         classifier's: nothing keeps the new model from forgetting what the \
                         built-in one knows, and the check for that is skipped";

/// The reason why a refit was not attempted. Each message is a complete
/// sentence.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RefitError {
    /// The caller canceled the refit.
    #[error("the training was cancelled")]
    Cancelled,
    /// An option has an invalid value.
    #[error("a head cannot be refitted with {0}")]
    Options(String),
    /// The tensors of a head do not match its labels.
    #[error("the {head} cannot be refitted: {problem}")]
    Head {
        /// Name of the head in the message.
        head: &'static str,
        /// What is wrong with the head.
        problem: String,
    },
    /// The replay set does not match the head.
    #[error("the replay set cannot be used: {0}")]
    Replay(String),
}

/// The result of a refit.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// The decision and the measurements, which are reported and stored in the
    /// new head's metadata.
    pub outcome: Outcome,
    /// The new, calibrated champion, or `None` if the gate refused it.
    pub head: Option<HeadTensors>,
}

/// Trains a challenger on the samples and lets the gate decide whether to
/// accept it. The same input always gives exactly the same bits. `cancelled` is
/// called before every step.
///
/// # Errors
/// Returns [`RefitError`] if the input cannot be used or the refit was
/// canceled. Invalid or missing samples lead to a [`Refusal`] instead.
pub fn fit(
    input: &RefitInput,
    options: &RefitOptions,
    cancelled: &dyn Fn() -> bool,
) -> Result<Fit, RefitError> {
    options.check()?;
    let (replay_train, replay_holdout) = input.checked()?;
    if cancelled() {
        return Err(RefitError::Cancelled);
    }
    let refused = |outcome: Outcome, refusal| Fit {
        outcome: outcome.refused(refusal),
        head: None,
    };
    let (samples, mut outcome) = before_measuring(input);
    if let Some(refusal) = too_few(&outcome.counts) {
        return Ok(refused(outcome, refusal));
    }
    let context = RefitContext {
        options,
        cancelled,
        classes: input.labels.len(),
        samples: &samples,
        replay: &replay_train,
    };
    let split = split(&samples, input.labels.len(), &options.hold_out);
    let (measured, head) = match context.fit(input, &split, &replay_holdout) {
        Ok(evaluated) => evaluated,
        Err(Abort::Cancelled) => return Err(RefitError::Cancelled),
        Err(Abort::NotFinite) => return Ok(refused(outcome, Refusal::NotFinite)),
    };
    let refusal = add_measured(&mut outcome, &samples, measured, options);
    if let Some(refusal) = refusal {
        return Ok(refused(outcome, refusal));
    }
    outcome.learned = samples
        .iter()
        .zip(&split.folds)
        .filter(|(_, fold)| split.learns(**fold))
        .map(|(sample, _)| sample.sample.id.clone())
        .collect();
    Ok(Fit {
        outcome,
        head: Some(head),
    })
}

/// Compares a head from another device with the champion on the samples and the
/// replay holdout, without changing the head, and lets the gate decide. Samples
/// that the champion was trained on are left out if enough others remain.
/// Otherwise, they stay in, which gives the champion an advantage.
///
/// # Errors
/// Same as [`fit`].
pub(crate) fn evaluate_foreign(
    input: &RefitInput,
    challenger: &HeadTensors,
    options: &RefitOptions,
    cancelled: &dyn Fn() -> bool,
) -> Result<Outcome, RefitError> {
    options.check()?;
    let (replay_train, replay_holdout) = input.checked()?;
    check_head("head from another device", challenger, input.labels)?;
    if cancelled() {
        return Err(RefitError::Cancelled);
    }
    let (samples, mut outcome) = before_measuring(input);
    if let Some(refusal) = too_few(&outcome.counts) {
        return Ok(outcome.refused(refusal));
    }
    let context = RefitContext {
        options,
        cancelled,
        classes: input.labels.len(),
        samples: &samples,
        replay: &replay_train,
    };
    let measured = match context.evaluate_foreign(input, challenger, &replay_holdout) {
        Ok(measured) => measured,
        Err(Abort::Cancelled) => return Err(RefitError::Cancelled),
        Err(Abort::NotFinite) => return Ok(outcome.refused(Refusal::NotFinite)),
    };
    let refusal = add_measured(&mut outcome, &samples, measured, options);
    Ok(match refusal {
        Some(refusal) => outcome.refused(refusal),
        None => outcome,
    })
}

/// Trains on all samples, starting from the champion, and evaluates nothing.
/// This is the training step that [`fit`] runs for each fold; it is public for
/// experiments. Returns `None` if there are no usable samples or if the
/// training produced numbers that are not finite.
///
/// # Errors
/// Same as [`fit`].
pub fn learn(
    input: &RefitInput,
    options: &RefitOptions,
    cancelled: &dyn Fn() -> bool,
) -> Result<Option<HeadTensors>, RefitError> {
    options.check()?;
    let (replay, _) = input.checked()?;
    let (samples, _) = input.grouped();
    if samples.is_empty() {
        return Ok(None);
    }
    let context = RefitContext {
        options,
        cancelled,
        classes: input.labels.len(),
        samples: &samples,
        replay: &replay,
    };
    let all: Vec<usize> = (0..samples.len()).collect();
    match context.learn_to(input.champion, &all, options.fit.steps) {
        Ok(head) => Ok(Some(head)),
        Err(Abort::NotFinite) => Ok(None),
        Err(Abort::Cancelled) => Err(RefitError::Cancelled),
    }
}

/// Returns the usable samples, and the outcome with everything that is known
/// before any training or measurement.
fn before_measuring<'a>(input: &'a RefitInput) -> (Vec<GroupedSample<'a>>, Outcome) {
    let (samples, skipped) = input.grouped();
    let counts = class_counts(&samples, input.labels);
    let outcome = Outcome {
        decision: GateDecision::Accepted,
        reason: String::new(),
        warning: input.replay.is_none().then(|| NO_REPLAY.to_owned()),
        labels: input.labels.to_vec(),
        advice: advice::advice(&counts, &samples, None),
        counts,
        skipped,
        measured: None,
        learned: Vec::new(),
    };
    (samples, outcome)
}

/// Adds the measurements, the advice based on them, and the reason for
/// accepting the challenger. Returns the gate's objection, if it has one.
fn add_measured(
    outcome: &mut Outcome,
    samples: &[GroupedSample],
    measured: Measurements,
    options: &RefitOptions,
) -> Option<Refusal> {
    outcome.advice = advice::advice(&outcome.counts, samples, Some(&measured));
    outcome.reason = gate::reason_to_accept(&measured);
    let refusal = gate(&measured, &options.gate);
    outcome.measured = Some(measured);
    refusal
}

/// The reason why an attempt ended early.
#[derive(Debug)]
enum Abort {
    Cancelled,
    /// The training produced numbers that are not finite. Nothing else can fail
    /// here because the shapes were checked before.
    NotFinite,
}

impl From<TrainError> for Abort {
    fn from(_: TrainError) -> Abort {
        Abort::NotFinite
    }
}

/// The data that stays the same throughout a refit.
#[derive(Clone, Copy)]
struct RefitContext<'a> {
    options: &'a RefitOptions,
    cancelled: &'a dyn Fn() -> bool,
    classes: usize,
    samples: &'a [GroupedSample<'a>],
    /// Replay rows to train on; empty if there is no replay set.
    replay: &'a Rows,
}

/// The samples that are held out in any round, and what is known about them
/// before a challenger is trained.
struct HeldOut<'a> {
    /// Indices of the held-out samples in the list of usable samples.
    samples: Vec<usize>,
    /// Positions in `samples` of the samples that the heads are evaluated on.
    judging: Vec<usize>,
    champion_logits: Vec<Vec<f64>>,
    initial: InitialHead,
    initial_head: &'a HeadTensors,
    initial_loss: f64,
}

/// The results of cross-validation or of the permanent holdout.
struct Validated {
    /// Number of steps that early stopping chose.
    steps: usize,
    /// Logits of the held-out samples after `steps` steps.
    logits: Vec<Vec<f64>>,
    curve: Vec<CurvePoint>,
}

impl RefitContext<'_> {
    /// Trains, calibrates, and evaluates a challenger.
    fn fit(
        &self,
        input: &RefitInput,
        split: &Split,
        replay_holdout: &Rows,
    ) -> Result<(Measurements, HeadTensors), Abort> {
        let held_out = self.held_out(input, split)?;
        let validated = self.validate(&held_out, split)?;

        let learned: Vec<usize> = (0..self.samples.len())
            .filter(|sample| split.learns(split.folds[*sample]))
            .collect();
        let head = self.learn_to(held_out.initial_head, &learned, validated.steps)?;

        let predictions = held_out
            .judging
            .iter()
            .map(|&position| {
                let sample = held_out.samples[position];
                HeldOutPrediction {
                    sample,
                    fold: split.folds[sample].unwrap_or_default(),
                    champion: held_out.champion_logits[position].clone(),
                    challenger: validated.logits[position].clone(),
                }
            })
            .collect();
        let training = TrainingSummary {
            validation: split.validation,
            initial_head: held_out.initial,
            steps: validated.steps,
            curve: validated.curve,
        };
        self.measure(input, predictions, &head, replay_holdout, training)
    }

    /// Determines which samples are held out, which of them the heads are
    /// evaluated on, and which head the training starts from.
    fn held_out<'a>(&self, input: &RefitInput<'a>, split: &Split) -> Result<HeldOut<'a>, Abort> {
        let samples: Vec<usize> = (0..self.samples.len())
            .filter(|sample| split.folds[*sample].is_some())
            .collect();
        let crops = self.crops(&samples);
        let champion_logits = logits(input.champion, &crops)?;
        let base_logits = logits(input.base, &crops)?;

        // Samples that the champion was trained on do not show how well it
        // generalizes.
        let unseen: Vec<usize> = (0..samples.len())
            .filter(|position| !self.samples[samples[*position]].sample.seen)
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

    /// For each fold, trains without the fold and predicts it. Then chooses the
    /// number of steps.
    fn validate(&self, held_out: &HeldOut, split: &Split) -> Result<Validated, Abort> {
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

    /// Returns the last checkpoint, or an earlier one if the held-out loss was
    /// clearly lower there.
    fn early_stop(&self, losses: &[f64]) -> usize {
        let last = losses.len() - 1;
        let margin = self.options.gate.min_gain.max(0.0);
        (0..last).rev().fold(last, |best, checkpoint| {
            let is_earlier_better = losses[checkpoint] < losses[best] - margin;
            if is_earlier_better { checkpoint } else { best }
        })
    }

    /// Returns the step counts at which early stopping measures the loss.
    fn checkpoints(&self) -> Vec<usize> {
        let steps = self.options.fit.steps;
        let mut checkpoints = vec![steps.div_ceil(3), (2 * steps).div_ceil(3), steps];
        checkpoints.dedup();
        checkpoints
    }

    /// Calibrates the head and compares it with the champion. Each of the
    /// `predictions` comes from a challenger that was trained without the
    /// sample in question.
    fn measure(
        &self,
        input: &RefitInput,
        mut predictions: Vec<HeldOutPrediction>,
        head: &HeadTensors,
        replay_holdout: &Rows,
        training: TrainingSummary,
    ) -> Result<(Measurements, HeadTensors), Abort> {
        let agreement = self.agreement(input)?;
        let calibrations = self.calibrations(&predictions);
        let tolerance = self.options.gate.replay_tolerance;
        let mut calibrated = head.clone();
        let mut calibration = calibrations.of_all.clone();
        let mut replay = None;
        let mut share = 0.0;
        for tried in SHIFT_SHARES {
            share = tried;
            calibration = calibrations.of_all.with_shift_share(share);
            calibrated = calibration.fold_into(head);
            replay = replay_accuracy(input.champion, &calibrated, replay_holdout)?;
            if replay.is_none_or(|replay| replay.after >= replay.before - tolerance) {
                break;
            }
        }
        for prediction in &mut predictions {
            let of_fold = calibrations.without_fold.get(&prediction.fold);
            let of_fold = of_fold.unwrap_or(&calibrations.of_all);
            let of_fold = of_fold.with_shift_share(share);
            prediction.challenger = of_fold.apply(&prediction.challenger);
        }
        let compared = self.compare(&predictions)?;
        let measured = compared.with(training, agreement, replay, calibration);
        let weights = [&calibrated.w2, &calibrated.b2];
        if !weights.into_iter().flatten().all(|value| value.is_finite()) {
            return Err(Abort::NotFinite);
        }
        Ok((measured, calibrated))
    }

    /// Compares the champion with the challenger and changes neither of them.
    fn evaluate_foreign(
        &self,
        input: &RefitInput,
        challenger: &HeadTensors,
        replay_holdout: &Rows,
    ) -> Result<Measurements, Abort> {
        let all = || 0..self.samples.len();
        let mut judging: Vec<usize> = all()
            .filter(|sample| !self.samples[*sample].sample.seen)
            .collect();
        if !self.can_judge(judging.iter().copied()) {
            judging = all().collect();
        }
        let crops = self.crops(&judging);
        let of_both = logits(input.champion, &crops)?
            .into_iter()
            .zip(logits(challenger, &crops)?);
        let predictions: Vec<HeldOutPrediction> = judging
            .iter()
            .zip(of_both)
            .map(|(sample, (champion, challenger))| HeldOutPrediction {
                sample: *sample,
                fold: 0,
                champion,
                challenger,
            })
            .collect();
        let groups = judging.iter().map(|sample| self.samples[*sample].group);
        let training = TrainingSummary {
            validation: Validation::HoldOut {
                groups: groups.collect::<BTreeSet<usize>>().len(),
            },
            initial_head: InitialHead::Elsewhere,
            steps: 0,
            curve: Vec::new(),
        };
        let compared = self.compare(&predictions)?;
        Ok(compared.with(
            training,
            self.agreement(input)?,
            replay_accuracy(input.champion, challenger, replay_holdout)?,
            Calibration::identity(self.classes),
        ))
    }

    /// Returns the head after training for `steps` steps.
    fn learn_to(
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

    /// Trains on these samples and the replay set. Calls `at_checkpoint` with
    /// the index of each checkpoint when its number of steps is reached.
    fn learn(
        &self,
        initial: &HeadTensors,
        samples: &[usize],
        checkpoints: &[usize],
        mut at_checkpoint: impl FnMut(usize, &Trainer) -> Result<(), Abort>,
    ) -> Result<(), Abort> {
        let train = TrainOptions {
            dropout: self.options.fit.dropout,
            init_lr: self.options.fit.learning_rate,
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
                trainer.step(features, labels)?;
            }
            at_checkpoint(checkpoint, &trainer)?;
        }
        Ok(())
    }
}

/// Returns the accuracy of both heads on the replay holdout, or `None` if there
/// is no holdout.
fn replay_accuracy(
    champion: &HeadTensors,
    challenger: &HeadTensors,
    holdout: &Rows,
) -> Result<Option<ReplayAccuracy>, Abort> {
    if holdout.is_empty() {
        return Ok(None);
    }
    Ok(Some(ReplayAccuracy {
        before: accuracy(champion, holdout)?,
        after: accuracy(challenger, holdout)?,
        rows: holdout.len(),
    }))
}

#[cfg(test)]
mod tests;
