//! The options of a refit, with their validation and their measured defaults.
//!
//! This module defines the options of the recipe, the holdout, and the gate.
//! `docs/LEARNING.md` explains the origin of each default.

use super::RefitError;

/// How a head is refitted, how samples are held out, and what the gate
/// requires.
#[derive(Debug, Clone, PartialEq)]
pub struct RefitOptions {
    /// Seed for batches and dropout. The same seed and input give the same
    /// head.
    pub seed: u64,
    /// The training recipe for the challenger.
    pub fit: FitOptions,
    /// How samples are held out.
    pub hold_out: HoldOutOptions,
    /// What the gate requires.
    pub gate: GateOptions,
}

impl Default for RefitOptions {
    fn default() -> RefitOptions {
        RefitOptions {
            seed: 42,
            fit: FitOptions::default(),
            hold_out: HoldOutOptions::default(),
            gate: GateOptions::default(),
        }
    }
}

/// How a head is adapted to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adaptation {
    /// Both layers are trained on labeled crops and on unchanged replay rows.
    PlainReplay,
    /// The weights stay as they are. Only the temperature and the shifts of the logits are
    /// fitted.
    Logits,
    /// Both layers are trained, mostly on replay rows that are translated to the device's
    /// camera. Such a head depends little on individual labels.
    TranslatedReplay,
    /// Only the classes that the replay set lacks are trained: their rows of the output layer,
    /// and the hidden units that no other class uses. The logits of all other classes stay as
    /// they are. A refit chooses this adaptation itself if there are such classes.
    NewClasses,
}

/// The training recipe for the challenger.
#[derive(Debug, Clone, PartialEq)]
pub struct FitOptions {
    /// The adaptations to choose from, at least one. An adaptation is chosen instead of an
    /// earlier one in this list only if it is clearly better on held-out samples.
    pub adaptations: Vec<Adaptation>,
    /// Maximum number of Adam steps, at least 1. Early stopping may choose
    /// fewer.
    pub steps: usize,
    /// Number of rows in a batch, at least 2.
    pub batch: usize,
    /// Learning rate of Adam, greater than 0.
    pub learning_rate: f32,
    /// Maximum number of steps with [`Adaptation::NewClasses`], at least 1. A new class starts
    /// from nothing, so it needs more steps than a class that is only adapted.
    pub new_class_steps: usize,
    /// Learning rate with [`Adaptation::NewClasses`], greater than 0.
    pub new_class_learning_rate: f32,
    /// Fraction of a batch that represents the device's camera, between 0 and 1. With
    /// [`Adaptation::PlainReplay`], this part of the batch consists of new rows. With
    /// [`Adaptation::TranslatedReplay`], it consists of new rows, and of replay rows
    /// translated to what that camera might have produced. The rest of the batch consists
    /// of unchanged replay rows.
    pub device_share: f32,
    /// With [`Adaptation::TranslatedReplay`], the fraction of new rows in a batch if there are
    /// very many groups, between 0 and `device_share`. With n groups, the fraction of new rows
    /// is `new_share` times n / (n + `half_share_groups`).
    pub new_share: f32,
    /// Number of groups at which the fraction of new rows is half of `new_share`, at
    /// least 0. With few groups, only a small fraction of a batch consists of new rows,
    /// because some labels may be wrong. Translated rows hardly depend on the labels.
    pub half_share_groups: f32,
    /// Fraction of the hidden units that each step drops, at least 0 and less
    /// than 1.
    pub dropout: f32,
    /// Fraction of the features that each step drops. It is at least 0 and less than 1.
    /// Dropping features prevents the head from memorizing individual crops by a few
    /// features.
    pub feature_dropout: f32,
    /// Maximum decrease in accuracy on the replay holdout that the shift of the calibration may
    /// cause, between 0 and 1. If the decrease is larger, a smaller shift is used.
    pub shift_tolerance: f64,
}

impl Default for FitOptions {
    fn default() -> FitOptions {
        FitOptions {
            adaptations: vec![
                Adaptation::PlainReplay,
                Adaptation::Logits,
                Adaptation::TranslatedReplay,
            ],
            steps: 150,
            batch: 64,
            learning_rate: 2e-4,
            new_class_steps: 400,
            new_class_learning_rate: 1e-3,
            device_share: 0.5,
            new_share: 0.5,
            half_share_groups: 50.0,
            dropout: 0.5,
            feature_dropout: 0.2,
            shift_tolerance: 0.007,
        }
    }
}

/// How samples are held out.
#[derive(Debug, Clone, PartialEq)]
pub struct HoldOutOptions {
    /// Number of folds in cross-validation, at least 2. If there are fewer
    /// groups than folds, each group is its own fold.
    pub folds: usize,
    /// Minimum number of groups of each class in a permanent holdout. It is at
    /// least 1. With fewer groups, cross-validation is used instead.
    pub min_groups: usize,
    /// Crops of the same label whose features have a smaller cosine distance than this share of
    /// the median distance between replay rows are near-duplicates and belong to one group. It is
    /// between 0 and 1. With 0, or without a replay set, there are no near-duplicates.
    pub near_duplicate: f32,
}

impl Default for HoldOutOptions {
    fn default() -> HoldOutOptions {
        HoldOutOptions {
            folds: 5,
            min_groups: 10,
            near_duplicate: 0.11,
        }
    }
}

/// What the gate requires.
#[derive(Debug, Clone, PartialEq)]
pub struct GateOptions {
    /// Minimum gain on held-out samples, in nats of the cross-entropy.
    pub min_gain: f64,
    /// Minimum gain in units of the standard error of the gain. The default is 0 because, with few
    /// samples, the standard error is so large that no challenger would pass. Instead, the gate
    /// requires that the labels agree with a head that was trained without them.
    pub min_sigmas: f64,
    /// Maximum increase of the loss on held-out samples that at least one of the two heads
    /// classifies correctly, in nats, at least 0. It applies if the challenger does not classify
    /// more samples correctly.
    pub recognized_tolerance: f64,
    /// Maximum decrease in accuracy on held-out samples, between 0 and 1.
    pub accuracy_tolerance: f64,
    /// Maximum decrease in accuracy on the replay holdout, between 0 and 1.
    pub replay_tolerance: f64,
    /// Minimum agreement of the labels with a head that was trained without
    /// them, between 0.5 (no agreement) and 1.
    pub min_agreement: f64,
    /// How far above 0.5 the agreement must be, in units of the standard error
    /// that it would have with random labels. The fewer groups there are, the
    /// higher the required agreement.
    pub agreement_sigmas: f64,
    /// Minimum number of held-out samples that can outvote a low agreement. With fewer, wrong labels
    /// may look predictable by chance.
    pub outvoting_samples: usize,
    /// Minimum gain, in nats, that can outvote a low agreement. It is measured on samples that at
    /// least one of the two heads classifies correctly.
    pub outvoting_gain: f64,
    /// Minimum number of held-out groups of each class that can outvote a low agreement, or make
    /// single labels that look wrong irrelevant. Many pictures of two people show little about
    /// other people.
    pub evident_groups: usize,
    /// Minimum number of held-out samples that can make single labels that look wrong irrelevant.
    pub evident_samples: usize,
    /// Minimum accuracy of the challenger on these samples, between 0 and 1.
    pub evident_accuracy: f64,
    /// Minimum increase of the accuracy, between 0 and 1.
    pub evident_improvement: f64,
    /// Minimum gain in units of its standard error.
    pub evident_sigmas: f64,
    /// Minimum gain, in nats, if the champion classifies all held-out samples correctly. With a
    /// smaller gain, there is nothing to gain.
    pub perfect_gain: f64,
    /// The same minimum in units of the standard error of the gain.
    pub perfect_sigmas: f64,
    /// Minimum fraction of the held-out samples of a new class that are classified correctly,
    /// between 0 and 1.
    pub min_recall: f64,
    /// Minimum fraction of the held-out samples classified as a new class that belong to it,
    /// between 0 and 1.
    pub min_precision: f64,
    /// Maximum fraction of the held-out samples whose labels look wrong, between 0 and 1.
    pub max_suspects: f64,
    /// Whether the owner vouches for the labels. The checks of the labels then only warn.
    pub labels_checked: bool,
}

impl Default for GateOptions {
    fn default() -> GateOptions {
        GateOptions {
            min_gain: 0.0,
            min_sigmas: 0.0,
            recognized_tolerance: 0.02,
            accuracy_tolerance: 0.1,
            replay_tolerance: 0.011,
            min_agreement: 0.75,
            agreement_sigmas: 1.5,
            outvoting_samples: 20,
            outvoting_gain: 0.05,
            evident_groups: 5,
            evident_samples: 10,
            evident_accuracy: 0.7,
            evident_improvement: 0.15,
            evident_sigmas: 2.0,
            perfect_gain: 0.02,
            perfect_sigmas: 1.0,
            min_recall: 0.2,
            min_precision: 0.5,
            max_suspects: 0.2,
            labels_checked: false,
        }
    }
}

impl RefitOptions {
    pub(super) fn check(&self) -> Result<(), RefitError> {
        self.fit.check()?;
        self.hold_out.check()?;
        self.gate.check()
    }
}

fn refuse(problem: impl Into<String>) -> Result<(), RefitError> {
    Err(RefitError::Options(problem.into()))
}

impl FitOptions {
    fn check(&self) -> Result<(), RefitError> {
        if self.adaptations.is_empty() {
            return refuse("no adaptation");
        }
        if self.steps == 0 || self.new_class_steps == 0 {
            return refuse("no steps");
        }
        if self.batch < 2 {
            return refuse(format!("a batch of {}; use at least 2", self.batch));
        }
        for rate in [self.learning_rate, self.new_class_learning_rate] {
            if !(rate > 0.0 && rate.is_finite()) {
                return refuse(format!("a learning rate of {rate}"));
            }
        }
        let groups = self.half_share_groups;
        if !(groups >= 0.0 && groups.is_finite()) {
            return refuse(format!(
                "{groups} groups as the number at which new rows have half of their share"
            ));
        }
        let (new, device) = (self.new_share, self.device_share);
        if !(0.0 <= new && new <= device && device <= 1.0) {
            return refuse(format!(
                "a device share of {device} and a new share of {new}; both must be between 0 and \
                 1, and the new share must not be larger than the device share"
            ));
        }
        if !(0.0..=1.0).contains(&self.shift_tolerance) {
            return refuse("a tolerance that is not between 0 and 1");
        }
        for dropout in [self.dropout, self.feature_dropout] {
            if !(0.0..1.0).contains(&dropout) {
                return refuse(format!("a dropout of {dropout}"));
            }
        }
        Ok(())
    }
}

impl HoldOutOptions {
    fn check(&self) -> Result<(), RefitError> {
        if self.folds < 2 || self.min_groups == 0 {
            return refuse("fewer than 2 folds or no held-out groups");
        }
        if !(0.0..=1.0).contains(&self.near_duplicate) {
            return refuse("a distance of near-duplicates that is not between 0 and 1");
        }
        Ok(())
    }
}

impl GateOptions {
    fn check(&self) -> Result<(), RefitError> {
        let margins = [
            self.min_gain,
            self.min_sigmas,
            self.agreement_sigmas,
            self.evident_sigmas,
            self.outvoting_gain,
            self.perfect_gain,
            self.perfect_sigmas,
        ];
        if !margins.into_iter().all(f64::is_finite) {
            return refuse("a margin that is not a finite number");
        }
        if !self.recognized_tolerance.is_finite() || self.recognized_tolerance < 0.0 {
            return refuse("a tolerance that is not at least 0");
        }
        let shares = [
            self.accuracy_tolerance,
            self.replay_tolerance,
            self.min_agreement,
            self.max_suspects,
            self.min_recall,
            self.min_precision,
            self.evident_accuracy,
            self.evident_improvement,
        ];
        if !shares.iter().all(|share| (0.0..=1.0).contains(share)) {
            return refuse("a tolerance that is not between 0 and 1");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_each_bad_figure_is_refused() {
        assert_eq!(RefitOptions::default().check(), Ok(()));
        let changes: [fn(&mut RefitOptions); 21] = [
            |options| options.fit.shift_tolerance = 1.1,
            |options| options.fit.adaptations.clear(),
            |options| options.fit.steps = 0,
            |options| options.fit.new_class_steps = 0,
            |options| options.fit.new_class_learning_rate = f32::NAN,
            |options| options.fit.batch = 1,
            |options| options.fit.learning_rate = 0.0,
            |options| options.fit.half_share_groups = -1.0,
            |options| options.fit.new_share = f32::NAN,
            |options| options.fit.new_share = 0.8,
            |options| options.fit.device_share = 1.1,
            |options| options.fit.feature_dropout = 1.0,
            |options| options.hold_out.folds = 1,
            |options| options.hold_out.min_groups = 0,
            |options| options.hold_out.near_duplicate = f32::NAN,
            |options| options.gate.min_gain = f64::NAN,
            |options| options.gate.recognized_tolerance = -0.1,
            |options| options.gate.replay_tolerance = -0.1,
            |options| options.gate.max_suspects = 1.1,
            |options| options.gate.min_recall = 1.1,
            |options| options.gate.min_precision = -0.1,
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut options = RefitOptions::default();
            change(&mut options);
            let refused = options.check();
            assert!(
                matches!(refused, Err(RefitError::Options(_))),
                "change {number}: {refused:?}"
            );
        }
    }
}
