//! Refitting a head on the device, and the gate that a new head must pass.
//!
//! Owns how a challenger is learned from a few labeled crops of the device's
//! own camera, how it is calibrated, and whether it may replace the champion,
//! which is the head in use. Knows nothing of cameras, files or where samples
//! are kept. Pure: samples, replay set and seed come in as arguments; no clock,
//! no threads. Source of the formulas and the figures: `docs/LEARNING.md`.
//!
//! # Order
//! 1. Samples that cannot be used are skipped and named (`input`).
//! 2. They are split by group, a group being a track within a day (`folds`):
//!    the crops of one person passing by resemble each other so much that a
//!    split by crop would judge a head by what it has memorized.
//! 3. A challenger is learned without each fold, and predicts it (`batches`).
//! 4. Temperature and shift are fitted on those held-out predictions
//!    (`calibration`); for the gate, those of a fold come from the other folds.
//! 5. Challenger and champion are compared on the held-out samples and on the
//!    replay holdout (`evaluate`), and the gate decides (`gate`).
//! 6. After a cross-validation, the challenger that is handed out is learned
//!    from all samples in the same way; after a permanent holdout it is the one
//!    that was judged.

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

/// Groups that each class needs: with a single one it cannot be held out and
/// learned at once.
const MIN_GROUPS: usize = 2;

/// Shares of the shift that are tried in turn, until one leaves the accuracy on
/// the replay holdout as good as it was.
const SHIFT_SHARES: [f64; 3] = [1.0, 0.5, 0.0];

/// What an outcome says if there is no replay set.
const NO_REPLAY: &str = "the replay set was made for other labels or another backbone than this \
                         classifier's: nothing keeps the new model from forgetting what the \
                         built-in one knows, and the check for that is skipped";

/// Why no refit was tried. Each message is one whole sentence.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RefitError {
    /// The caller asked to stop.
    #[error("the training was cancelled")]
    Cancelled,
    /// An option that cannot work.
    #[error("a head cannot be refitted with {0}")]
    Options(String),
    /// A head whose tensors do not fit its labels.
    #[error("the {head} cannot be refitted: {problem}")]
    Head {
        /// Which head it is.
        head: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A replay set that does not go with the head.
    #[error("the replay set cannot be used: {0}")]
    Replay(String),
}

/// What a refit ends with.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// What was found; kept in the new head's metadata, and reported.
    pub outcome: Outcome,
    /// The new champion, calibrated; only if it was accepted.
    pub head: Option<HeadTensors>,
}

/// Learns a challenger from the samples and lets the gate decide. The same
/// input gives the same bits. `cancelled` is called before every step.
///
/// # Errors
/// [`RefitError`] if the input cannot be used or the refit was cancelled;
/// whatever is wrong or missing among the samples is a [`Refusal`] instead.
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

/// Compares a head that was learned elsewhere, unchanged, with the champion on
/// the samples and the replay holdout, and lets the gate decide. Samples that
/// the champion learned from are left out if enough others remain; otherwise the
/// champion has the advantage.
///
/// # Errors
/// As [`fit`].
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

/// Learns from all samples, beginning with the champion, and judges nothing:
/// what [`fit`] does for each fold, for experiments. `None` if there is nothing
/// to learn from or the training ended in numbers that are not finite.
///
/// # Errors
/// As [`fit`].
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

/// The samples that can be used, and what is known before anything is learned or
/// measured.
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

/// Adds the figures, the advice that follows from them, and the reason to
/// accept. Gives what the gate objects to.
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

/// Why an attempt ended early.
#[derive(Debug)]
enum Abort {
    Cancelled,
    /// Shapes were checked before: what is left to go wrong is the numbers.
    NotFinite,
}

impl From<TrainError> for Abort {
    fn from(_: TrainError) -> Abort {
        Abort::NotFinite
    }
}

/// What stays the same throughout a refit.
#[derive(Clone, Copy)]
struct RefitContext<'a> {
    options: &'a RefitOptions,
    cancelled: &'a dyn Fn() -> bool,
    classes: usize,
    samples: &'a [GroupedSample<'a>],
    /// Replay rows to learn from; none without a replay set.
    replay: &'a Rows,
}

/// The samples that are held out at some time, and what is known of them before
/// a challenger is learned.
struct HeldOut<'a> {
    /// Their numbers among the usable samples.
    samples: Vec<usize>,
    /// Those that judge, by their positions in `samples`.
    judging: Vec<usize>,
    champion_logits: Vec<Vec<f64>>,
    initial: InitialHead,
    initial_head: &'a HeadTensors,
    initial_loss: f64,
}

/// What cross-validation, or a permanent holdout, found about the challenger.
struct Validated {
    /// Steps that early stopping chose.
    steps: usize,
    /// Logits of the held-out samples after so many steps.
    logits: Vec<Vec<f64>>,
    curve: Vec<CurvePoint>,
}

impl RefitContext<'_> {
    /// Learns, calibrates and measures a challenger.
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

    /// Which samples are held out and judge, and which head to begin with.
    fn held_out<'a>(&self, input: &RefitInput<'a>, split: &Split) -> Result<HeldOut<'a>, Abort> {
        let samples: Vec<usize> = (0..self.samples.len())
            .filter(|sample| split.folds[*sample].is_some())
            .collect();
        let crops = self.crops(&samples);
        let champion_logits = logits(input.champion, &crops)?;
        let base_logits = logits(input.base, &crops)?;

        // Samples that the champion learned from do not show how good it is.
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

    /// The mean loss of the judging samples, by class and group.
    fn held_out_loss(&self, samples: &[usize], judging: &[usize], logits: &[Vec<f64>]) -> f64 {
        let losses = judging.iter().map(|&position| {
            let sample = samples[position];
            let label = self.samples[sample].label();
            (sample, cross_entropy(&logits[position], label))
        });
        self.balanced(losses).mean
    }

    /// Learns without each fold and predicts it; chooses the number of steps.
    fn validate(&self, held_out: &HeldOut, split: &Split) -> Result<Validated, Abort> {
        let samples = &held_out.samples;
        let checkpoints = self.checkpoints();
        let mut at_checkpoints = vec![vec![Vec::new(); samples.len()]; checkpoints.len()];
        // The positions in `samples` that are held out together.
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

    /// The last checkpoint, unless the held-out loss clearly rose before it.
    fn early_stop(&self, losses: &[f64]) -> usize {
        let last = losses.len() - 1;
        let margin = self.options.gate.min_gain.max(0.0);
        (0..last).rev().fold(last, |best, checkpoint| {
            let is_earlier_better = losses[checkpoint] < losses[best] - margin;
            if is_earlier_better { checkpoint } else { best }
        })
    }

    /// Numbers of steps after which early stopping measures the loss.
    fn checkpoints(&self) -> Vec<usize> {
        let steps = self.options.fit.steps;
        let mut checkpoints = vec![steps.div_ceil(3), (2 * steps).div_ceil(3), steps];
        checkpoints.dedup();
        checkpoints
    }

    /// Calibrates the head, and compares it with the champion. `predictions` are
    /// of challengers that were learned without the sample.
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

    /// Compares champion and challenger, neither of which changes.
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

    /// The head after so many steps of learning.
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

    /// Learns from these samples and the replay set; calls `at_checkpoint` with
    /// the number of each checkpoint when so many steps are done.
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

/// Accuracy of both heads on the replay holdout, if there is one.
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
