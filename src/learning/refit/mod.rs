//! Refits a head on the device, and defines the gate that a new head must pass.
//!
//! This module trains a challenger on a few labeled crops from the device's own camera, calibrates
//! the challenger, and decides whether it may replace the champion, which is the head in use. The
//! module knows nothing about cameras, files, or where samples are stored. Its results are
//! reproducible: the samples, the replay set, and the seed are arguments, and the module uses no
//! clock and no threads. `docs/LEARNING.md` gives the formulas and the measured values.
//!
//! # Order
//! 1. Samples that cannot be used are skipped and listed in the outcome
//!    (`input`).
//! 2. The usable samples are split by group (`folds`). A group is one track on one day,
//!    together with the tracks that have near-duplicates of its crops (`near_duplicates`).
//!    The crops of a person who passes by look very similar. If these crops were split one
//!    by one, a head would be evaluated on near-duplicates of crops that it has memorized.
//! 3. For each adaptation and each fold, a challenger is trained on the other folds and then
//!    predicts the held-out fold (`training`, `batches`).
//! 4. Temperature and shift are fitted on those held-out predictions
//!    (`calibration`). For the gate, each fold is calibrated with values fitted
//!    on the other folds. Then the adaptation is chosen (`choice`).
//! 5. Challenger and champion are compared on the held-out samples and on the
//!    replay holdout (`evaluate`), and the gate decides (`gate`).
//! 6. After cross-validation, a final challenger is trained in the same way on all
//!    samples, and is returned. With a permanent holdout, the challenger that was
//!    evaluated is returned.

mod advice;
mod batches;
mod calibration;
mod choice;
mod evaluate;
mod folds;
mod gate;
mod grow;
mod input;
mod near_duplicates;
mod new_classes;
mod options;
mod outcome;
mod reason;
mod training;
mod variants;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use advice::MANY_GROUPS;
pub use evaluate::LOSS_CAP;
pub use gate::{Ruling, gate};
pub use grow::grow;
pub use input::{RefitInput, Sample};
pub use options::{Adaptation, FitOptions, GateOptions, HoldOutOptions, RefitOptions};
pub use outcome::{
    Advice, Calibration, ClassCount, CurvePoint, Estimate, GateDecision, HardExample, InitialHead,
    Measurements, NewClass, Outcome, Refusal, ReplayAccuracy, Scores, SkipReason, SkippedSample,
    TrainingSummary, Validation,
};
pub use variants::{VARIANTS, variants};

use crate::learning::replay::Rows;
use crate::onnx::HeadTensors;
use crate::platform::text_code::TextCode;
use crate::training::train::TrainError;
use choice::Candidate;
use evaluate::{HeldOutPrediction, logits};
use folds::{Split, split};
use input::{GroupedSample, check_head, class_counts, too_few};
use new_classes::{Classes, LOWERINGS};
use training::{HeldOut, Validated};

/// Minimum number of groups per class. A single group cannot be used for both
/// training and validation.
const MIN_GROUPS: usize = 2;

/// Fractions of the calibration shift to try in turn, until the accuracy on the replay holdout
/// stays within the tolerance.
const SHIFT_SHARES: [f64; 3] = [1.0, 0.5, 0.0];

/// The warning in the outcome when there is no replay set.
const NO_REPLAY: &str = "the replay set was made for other labels or another backbone than this \
                         classifier's: nothing keeps the new model from forgetting what the \
                         built-in one knows, and the check for that is skipped; \
                         maskd train --replay makes a replay set for models.replay";

/// The reason why a refit failed. Each message is a complete sentence.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RefitError {
    /// The caller canceled the refit.
    #[error("the training was canceled")]
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
    /// The group of each usable sample, by the id of the sample. A group is one track on one
    /// day, together with the tracks that have near-duplicates of its crops.
    pub groups: BTreeMap<String, usize>,
    /// The decision and the measurements, which are reported and stored in the
    /// new head's metadata.
    pub outcome: Outcome,
    /// The new, calibrated champion, or `None` if the gate refused the challenger.
    pub head: Option<HeadTensors>,
}

/// Trains a challenger on the samples and lets the gate decide whether to accept it. The same input
/// always gives a bit-identical result. `cancelled` is called before every step.
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
    let (samples, mut outcome) =
        before_measuring(input, &replay_train, &options.hold_out, cancelled)?;
    let groups: BTreeMap<String, usize> = samples
        .iter()
        .map(|sample| (sample.sample.id.clone(), sample.group))
        .collect();
    let refused = |groups, outcome: Outcome, refusal| Fit {
        groups,
        outcome: reason::refuse(outcome, refusal),
        head: None,
    };
    outcome.labels_checked = options.gate.labels_checked;
    if let Some(refusal) = too_few(&outcome.counts) {
        return Ok(refused(groups, outcome, refusal));
    }
    let kinds = Classes::new(input, &samples);
    let context = RefitContext::new(input, options, cancelled, &samples, &replay_train, &kinds);
    let split = split(&samples, input.labels.len(), &options.hold_out);
    let (measured, head) = match context.fit(input, &split, &replay_holdout) {
        Ok(evaluated) => evaluated,
        Err(Abort::Cancelled) => return Err(RefitError::Cancelled),
        Err(Abort::NotFinite) => return Ok(refused(groups, outcome, Refusal::NotFinite)),
    };
    add_measured(&mut outcome, &samples, measured, options);
    if outcome.decision != GateDecision::Accepted {
        return Ok(Fit {
            groups,
            outcome,
            head: None,
        });
    }
    outcome.learned = samples
        .iter()
        .zip(&split.folds)
        .filter(|(_, fold)| split.learns(**fold))
        .map(|(sample, _)| sample.sample.id.clone())
        .collect();
    Ok(Fit {
        groups,
        outcome,
        head: Some(head),
    })
}

/// Compares `challenger`, a head from another device, with the champion, and lets the gate decide.
/// The comparison uses the samples and the replay holdout, and changes neither head. Samples that
/// the champion was trained on are left out if enough others remain. Otherwise, they are included,
/// which gives the champion an advantage.
///
/// # Errors
/// Returns the errors of [`fit`].
pub(crate) fn evaluate_foreign(
    input: &RefitInput,
    challenger: &HeadTensors,
    options: &RefitOptions,
    cancelled: &dyn Fn() -> bool,
) -> Result<Outcome, RefitError> {
    options.check()?;
    let (replay_train, replay_holdout) = input.checked()?;
    check_head("head from another device", challenger, input)?;
    if cancelled() {
        return Err(RefitError::Cancelled);
    }
    let (samples, mut outcome) =
        before_measuring(input, &replay_train, &options.hold_out, cancelled)?;
    if let Some(refusal) = too_few(&outcome.counts) {
        return Ok(reason::refuse(outcome, refusal));
    }
    let kinds = Classes::new(input, &samples);
    let context = RefitContext::new(input, options, cancelled, &samples, &replay_train, &kinds);
    let measured = match context.evaluate_foreign(input, challenger, &replay_holdout) {
        Ok(measured) => measured,
        Err(Abort::Cancelled) => return Err(RefitError::Cancelled),
        Err(Abort::NotFinite) => return Ok(reason::refuse(outcome, Refusal::NotFinite)),
    };
    add_measured(&mut outcome, &samples, measured, options);
    Ok(outcome)
}

/// Trains on all samples, starting from the champion, and evaluates nothing.
/// This is the training step that [`fit`] runs for each fold; it is public for
/// experiments. Returns `None` if there are no usable samples or if the
/// training produced numbers that are not finite.
///
/// # Errors
/// Returns the errors of [`fit`].
pub fn learn(
    input: &RefitInput,
    options: &RefitOptions,
    cancelled: &dyn Fn() -> bool,
) -> Result<Option<HeadTensors>, RefitError> {
    options.check()?;
    let (replay, _) = input.checked()?;
    let (samples, _) = input.grouped(&replay, &options.hold_out, cancelled)?;
    if samples.is_empty() {
        return Ok(None);
    }
    let kinds = Classes::new(input, &samples);
    let context = RefitContext::new(input, options, cancelled, &samples, &replay, &kinds);
    let all: Vec<usize> = (0..samples.len()).collect();
    match context.learn_to(input.champion, &all, context.steps()) {
        Ok(head) => Ok(Some(head)),
        Err(Abort::NotFinite) => Ok(None),
        Err(Abort::Cancelled) => Err(RefitError::Cancelled),
    }
}

/// Returns the usable samples, and the outcome with everything that is known
/// before any training or measurement.
///
/// # Errors
/// Returns [`RefitError::Cancelled`].
fn before_measuring<'a>(
    input: &'a RefitInput,
    replay: &Rows,
    options: &HoldOutOptions,
    cancelled: &dyn Fn() -> bool,
) -> Result<(Vec<GroupedSample<'a>>, Outcome), RefitError> {
    let (samples, skipped) = input.grouped(replay, options, cancelled)?;
    let counts = class_counts(&samples, input.labels);
    let mut outcome = Outcome {
        decision: GateDecision::Accepted,
        reason: String::new(),
        reason_code: None,
        warning: None,
        warning_codes: Vec::new(),
        labels_checked: false,
        labels: input.labels.to_vec(),
        advice: advice::advice(&counts, &samples, None),
        counts,
        skipped,
        measured: None,
        learned: Vec::new(),
    };
    if input.replay.is_none() {
        outcome.add_warning(NO_REPLAY, Some(TextCode::new("no-replay")));
    }
    Ok((samples, outcome))
}

/// Lets the gate decide. Adds the measurements, the advice based on them, the decision, and the
/// reason to `outcome`.
fn add_measured(
    outcome: &mut Outcome,
    samples: &[GroupedSample],
    measured: Measurements,
    options: &RefitOptions,
) {
    outcome.advice = advice::advice(&outcome.counts, samples, Some(&measured));
    let Ruling { decision, warnings } = gate(&measured, &options.gate);
    for doubt in warnings {
        let warning =
            format!("the labels were vouched for, so this did not refuse the new model: {doubt}");
        outcome.add_warning(&warning, doubt.code());
    }
    reason::decide(outcome, decision, &measured);
    outcome.measured = Some(measured);
}

/// The reason why an attempt ended early.
#[derive(Debug)]
enum Abort {
    Cancelled,
    /// The training produced numbers that are not finite. No other error can occur here,
    /// because the shapes have already been checked.
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
    adaptation: Adaptation,
    cancelled: &'a dyn Fn() -> bool,
    classes: usize,
    /// Which classes are new, and which count as masked.
    kinds: &'a Classes,
    /// Length of a feature vector.
    features: usize,
    samples: &'a [GroupedSample<'a>],
    /// Replay rows to train on; empty if there is no replay set.
    replay: &'a Rows,
}

impl<'a> RefitContext<'a> {
    /// Creates a context with the first of the adaptations to choose from.
    fn new(
        input: &RefitInput,
        options: &'a RefitOptions,
        cancelled: &'a dyn Fn() -> bool,
        samples: &'a [GroupedSample<'a>],
        replay: &'a Rows,
        kinds: &'a Classes,
    ) -> RefitContext<'a> {
        RefitContext {
            options,
            adaptation: options.fit.adaptations[0],
            cancelled,
            classes: input.labels.len(),
            kinds,
            features: input.features(),
            samples,
            replay,
        }
    }
}

impl RefitContext<'_> {
    /// Returns the features of a replay row to train on.
    fn replayed(&self, row: usize) -> &[f32] {
        &self.replay.features[row * self.features..][..self.features]
    }

    /// Trains, calibrates, and evaluates a challenger.
    fn fit(
        &self,
        input: &RefitInput,
        split: &Split,
        replay_holdout: &Rows,
    ) -> Result<(Measurements, HeadTensors), Abort> {
        let held_out = self.held_out(input, split)?;
        let mut candidates = self.candidates(input, &held_out, split, replay_holdout)?;
        let (mut chosen, predictions) = self.choose(&candidates);
        let mut compared = self.compare(&predictions)?;
        let gate = &self.options.gate;
        if compared.has_suspects() && !compared.is_evident(gate) && !gate.labels_checked {
            // Some labels may be wrong, so the adaptation that depends least on them is used.
            let is_robust =
                |candidate: &Candidate| candidate.adaptation == Adaptation::TranslatedReplay;
            if let Some(robust) = candidates.iter().position(is_robust) {
                chosen = robust;
                compared = self.compare(&candidates[robust].predictions)?;
            }
        }
        let chosen = candidates.swap_remove(chosen);
        let training = TrainingSummary {
            validation: split.validation,
            adaptation: Some(chosen.adaptation),
            initial_head: held_out.initial,
            steps: chosen.steps,
            curve: chosen.curve,
        };
        let agreement = self.agreement(input)?;
        let new = self.kinds.new_classes(input.labels, compared.after());
        let mut measured = compared.with(training, agreement, chosen.replay, chosen.calibration);
        measured.new_classes = new;
        Ok((measured, chosen.head))
    }

    /// Trains and calibrates a challenger with each adaptation, and leaves out those that lead to
    /// numbers that are not finite.
    ///
    /// # Errors
    /// Returns [`Abort::NotFinite`] if no challenger is left.
    fn candidates(
        &self,
        input: &RefitInput,
        held_out: &HeldOut,
        split: &Split,
        replay_holdout: &Rows,
    ) -> Result<Vec<Candidate>, Abort> {
        let mut candidates = Vec::new();
        for adaptation in self.adaptations() {
            let context = RefitContext {
                adaptation,
                ..*self
            };
            match context.candidate(input, held_out, split, replay_holdout) {
                Ok(candidate) => candidates.push(candidate),
                Err(Abort::NotFinite) => {}
                Err(Abort::Cancelled) => return Err(Abort::Cancelled),
            }
        }
        if candidates.is_empty() {
            return Err(Abort::NotFinite);
        }
        if self.kinds.are_any_taught() {
            self.prefer_remembering(&mut candidates);
        }
        Ok(candidates)
    }

    /// Trains and calibrates a challenger with this context's adaptation.
    ///
    /// # Errors
    /// Returns [`Abort::NotFinite`] if a weight or a prediction is not finite.
    fn candidate(
        &self,
        input: &RefitInput,
        held_out: &HeldOut,
        split: &Split,
        replay_holdout: &Rows,
    ) -> Result<Candidate, Abort> {
        let validated = self.validate(held_out, split)?;
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
        self.calibrated(
            input.champion,
            validated,
            predictions,
            &head,
            replay_holdout,
        )
    }

    /// Calibrates the head and the predictions. Each of the `predictions` must come from a
    /// challenger that was trained without the predicted sample.
    fn calibrated(
        &self,
        champion: &HeadTensors,
        validated: Validated,
        mut predictions: Vec<HeldOutPrediction>,
        head: &HeadTensors,
        replay_holdout: &Rows,
    ) -> Result<Candidate, Abort> {
        let calibrations = self.calibrations(&predictions);
        let mut calibrated = head.clone();
        let mut calibration = calibrations.of_all.clone();
        let mut replay = None;
        let (lowerings, tolerance): (&[f64], f64) = match self.adaptation {
            // A lower logit costs recall, so no more is lowered than the gate requires.
            Adaptation::NewClasses => (&LOWERINGS, self.options.gate.replay_tolerance),
            _ => (&[0.0], self.options.fit.shift_tolerance),
        };
        let attempts = lowerings
            .iter()
            .flat_map(|nats| SHIFT_SHARES.map(|share| (share, *nats)));
        let changed = |calibration: &Calibration, (share, nats): (f64, f64)| {
            let calibration = calibration.with_shift_share(share);
            calibration.lowered(&self.kinds.taught, nats)
        };
        let mut used = (0.0, 0.0);
        for attempt in attempts {
            used = attempt;
            calibration = changed(&calibrations.of_all, used);
            calibrated = calibration.fold_into(head);
            replay = self.replay_accuracy(champion, &calibrated, replay_holdout)?;
            if replay.is_none_or(|replay| replay.after >= replay.before - tolerance) {
                break;
            }
        }
        for prediction in &mut predictions {
            let of_fold = calibrations.without_fold.get(&prediction.fold);
            let of_fold = of_fold.unwrap_or(&calibrations.of_all);
            let of_fold = changed(of_fold, used);
            prediction.challenger = of_fold.apply(&prediction.challenger);
        }
        let weights = calibrated.w2.iter().chain(&calibrated.b2);
        let mut logits = predictions.iter().flat_map(|held| &held.challenger);
        if !weights.into_iter().all(|value| value.is_finite())
            || !logits.all(|value| value.is_finite())
        {
            return Err(Abort::NotFinite);
        }
        Ok(Candidate {
            adaptation: self.adaptation,
            steps: validated.steps,
            curve: validated.curve,
            predictions,
            head: calibrated,
            calibration,
            replay,
        })
    }

    /// Compares the champion with the challenger without changing either of them.
    fn evaluate_foreign(
        &self,
        input: &RefitInput,
        challenger: &HeadTensors,
        replay_holdout: &Rows,
    ) -> Result<Measurements, Abort> {
        let all = || 0..self.samples.len();
        let mut judging: Vec<usize> = all().filter(|sample| !self.samples[*sample].seen).collect();
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
            adaptation: None,
            initial_head: InitialHead::Elsewhere,
            steps: 0,
            curve: Vec::new(),
        };
        let compared = self.compare(&predictions)?;
        Ok(compared.with(
            training,
            self.agreement(input)?,
            self.replay_accuracy(input.champion, challenger, replay_holdout)?,
            Calibration::identity(self.classes),
        ))
    }
}

#[cfg(test)]
mod tests;
