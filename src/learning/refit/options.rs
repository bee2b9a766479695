//! The options of a refit, with their checks and measured defaults.
//!
//! Owns the figures of the recipe, the holdout, and the gate. Where each
//! default comes from is in `docs/LEARNING.md`.

use super::RefitError;

/// How a head is refitted, how samples are held out, and what the gate asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct RefitOptions {
    /// Seed of batches and dropout: the same seed and input give the same head.
    pub seed: u64,
    /// The recipe of the challenger.
    pub fit: FitOptions,
    /// How samples are held out.
    pub hold_out: HoldOutOptions,
    /// What the gate asks for.
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

/// The recipe of the challenger.
#[derive(Debug, Clone, PartialEq)]
pub struct FitOptions {
    /// Maximum steps of Adam, at least 1; early stopping may choose fewer.
    pub steps: usize,
    /// Rows in a batch, at least 2.
    pub batch: usize,
    /// Learning rate of Adam, above 0.
    pub learning_rate: f32,
    /// Share of a batch that represents the device's camera, 0 to 1: new rows,
    /// and replayed rows translated to what that camera might have given. The
    /// rest of the batch is replayed unchanged.
    pub device_share: f32,
    /// Share of new rows in a batch as the number of groups grows, 0 to
    /// `device_share`. With n groups it is n / (n + `half_share_groups`) of this.
    pub new_share: f32,
    /// Number of groups at which new rows have half of `new_share`, from 0. A
    /// few labels may be wrong, and translated rows hardly need them.
    pub half_share_groups: f32,
    /// Share of the hidden units that each step drops, 0 up to but not 1.
    pub dropout: f32,
    /// Share of the features that each step drops, 0 up to but not 1, so that
    /// the head cannot recognize a few crops by a few features.
    pub feature_dropout: f32,
}

impl Default for FitOptions {
    fn default() -> FitOptions {
        FitOptions {
            steps: 150,
            batch: 64,
            learning_rate: 2e-4,
            device_share: 0.5,
            new_share: 0.5,
            half_share_groups: 50.0,
            dropout: 0.5,
            feature_dropout: 0.2,
        }
    }
}

/// How samples are held out.
#[derive(Debug, Clone, PartialEq)]
pub struct HoldOutOptions {
    /// Folds of the cross-validation, at least 2; fewer if there are fewer
    /// groups.
    pub folds: usize,
    /// Groups that a permanent holdout must have of each class, at least 1.
    /// With fewer, cross-validation is used.
    pub min_groups: usize,
}

impl Default for HoldOutOptions {
    fn default() -> HoldOutOptions {
        HoldOutOptions {
            folds: 5,
            min_groups: 10,
        }
    }
}

/// What the gate asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct GateOptions {
    /// Minimum gain on held-out samples, in nats of the cross-entropy.
    pub min_gain: f64,
    /// Minimum gain in its own standard errors. 0 by default: with few samples
    /// the standard errors are so large that nothing would pass, and the
    /// agreement of the labels is what prevents harm.
    pub min_sigmas: f64,
    /// How much accuracy on held-out samples may be lost, 0 to 1.
    pub accuracy_tolerance: f64,
    /// How much accuracy on the replay holdout may be lost, 0 to 1.
    pub replay_tolerance: f64,
    /// Minimum agreement of the labels with a head that was learned without
    /// them, 0.5 (none) to 1.
    pub min_agreement: f64,
    /// How far above 0.5 the agreement must be, in the standard errors that it
    /// would have with random labels: the fewer groups, the more is asked.
    pub agreement_sigmas: f64,
    /// Maximum share of samples whose label looks wrong, 0 to 1.
    pub max_suspects: f64,
}

impl Default for GateOptions {
    fn default() -> GateOptions {
        GateOptions {
            min_gain: 0.0,
            min_sigmas: 0.0,
            accuracy_tolerance: 0.1,
            replay_tolerance: 0.007,
            min_agreement: 0.75,
            agreement_sigmas: 1.5,
            max_suspects: 0.2,
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
        if self.steps == 0 {
            return refuse("no steps");
        }
        if self.batch < 2 {
            return refuse(format!("a batch of {}; use at least 2", self.batch));
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return refuse(format!("a learning rate of {}", self.learning_rate));
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
                "a device share of {device} and a new share of {new}; both must be from 0 to 1, \
                 and the new share must not be the larger one"
            ));
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
        Ok(())
    }
}

impl GateOptions {
    fn check(&self) -> Result<(), RefitError> {
        let margins = [self.min_gain, self.min_sigmas, self.agreement_sigmas];
        if !margins.into_iter().all(f64::is_finite) {
            return refuse("a margin that is not a finite number");
        }
        let shares = [
            self.accuracy_tolerance,
            self.replay_tolerance,
            self.min_agreement,
            self.max_suspects,
        ];
        if !shares.iter().all(|share| (0.0..=1.0).contains(share)) {
            return refuse("a tolerance that is not from 0 to 1");
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
        let changes: [fn(&mut RefitOptions); 13] = [
            |options| options.fit.steps = 0,
            |options| options.fit.batch = 1,
            |options| options.fit.learning_rate = 0.0,
            |options| options.fit.half_share_groups = -1.0,
            |options| options.fit.new_share = f32::NAN,
            |options| options.fit.new_share = 0.8,
            |options| options.fit.device_share = 1.1,
            |options| options.fit.feature_dropout = 1.0,
            |options| options.hold_out.folds = 1,
            |options| options.hold_out.min_groups = 0,
            |options| options.gate.min_gain = f64::NAN,
            |options| options.gate.replay_tolerance = -0.1,
            |options| options.gate.max_suspects = 1.1,
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
