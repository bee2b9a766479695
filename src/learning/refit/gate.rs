//! The gate, which decides whether a challenger may replace the champion.
//!
//! This module defines the order of the checks and their limits. It uses
//! nothing but the measurements.

use super::options::GateOptions;
use super::outcome::{Measurements, Refusal, change};

/// Returns the first check that a challenger fails, or `None` if the challenger
/// is accepted.
#[must_use]
pub fn gate(measured: &Measurements, options: &GateOptions) -> Option<Refusal> {
    let agreement = measured.agreement.mean;
    let beyond_chance = 0.5 + options.agreement_sigmas * measured.agreement.standard_error;
    let needed = options.min_agreement.max(beyond_chance);
    if agreement < needed {
        return Some(Refusal::LabelsDisagree { agreement, needed });
    }
    let samples = measured.after.samples;
    let suspects = measured.suspects.len();
    if suspects as f64 > options.max_suspects * samples as f64 {
        return Some(Refusal::LabelsLookWrong { suspects, samples });
    }
    let sigmas = options.min_sigmas * measured.gain.standard_error;
    let needed = options.min_gain.max(sigmas);
    let gain = measured.gain.mean;
    if gain < needed {
        return Some(Refusal::NoGain { gain, needed });
    }
    let (before, after) = (&measured.before, &measured.after);
    if after.accuracy < before.accuracy - options.accuracy_tolerance {
        let (before, after) = (before.right, after.right);
        return Some(Refusal::LessAccurate { before, after });
    }
    let replay = measured.replay?;
    let (before, after) = (replay.before, replay.after);
    (after < before - options.replay_tolerance).then_some(Refusal::Forgets { before, after })
}

/// Returns a sentence that says why a challenger is accepted.
pub(super) fn reason_to_accept(measured: &Measurements) -> String {
    let (before, after) = (&measured.before, &measured.after);
    format!(
        "the new model classifies {} of {} held-out face pictures correctly, the previous one {}, \
         and its loss {}",
        after.right,
        after.samples,
        before.right,
        change(measured.gain.mean)
    )
}

#[cfg(test)]
mod tests {
    use super::super::outcome::{
        Calibration, Estimate, HardExample, InitialHead, ReplayAccuracy, Scores, TrainingSummary,
        Validation,
    };
    use super::*;
    use crate::training::report::wilson;

    /// A challenger that passes by a wide margin.
    fn good() -> Measurements {
        let scores = |right| Scores {
            samples: 20,
            right,
            accuracy: right as f64 / 20.0,
            interval: wilson(right, 20),
            loss: 0.5,
            confusion: vec![vec![right, 20 - right], vec![0, 0]],
        };
        let estimate = |mean, standard_error| Estimate {
            mean,
            standard_error,
        };
        Measurements {
            training: TrainingSummary {
                validation: Validation::CrossValidation { folds: 5 },
                initial_head: InitialHead::Champion,
                steps: 300,
                curve: Vec::new(),
            },
            before: scores(14),
            after: scores(18),
            gain: estimate(0.4, 0.1),
            agreement: estimate(0.95, 0.13),
            replay: Some(ReplayAccuracy {
                before: 0.99,
                after: 0.988,
                rows: 300,
            }),
            calibration: Calibration::identity(2),
            worst: Vec::new(),
            suspects: Vec::new(),
        }
    }

    fn refusal(change: impl Fn(&mut Measurements)) -> Option<Refusal> {
        let mut measured = good();
        change(&mut measured);
        gate(&measured, &GateOptions::default())
    }

    #[test]
    fn each_check_refuses_by_itself() {
        assert_eq!(refusal(|_| {}), None);
        let stricter = GateOptions {
            min_sigmas: 5.0,
            ..GateOptions::default()
        };
        assert_eq!(
            gate(&good(), &stricter),
            Some(Refusal::NoGain {
                gain: 0.4,
                needed: 0.5
            })
        );
        assert_eq!(
            refusal(|measured| measured.agreement.mean = 0.6),
            Some(Refusal::LabelsDisagree {
                agreement: 0.6,
                needed: 0.75
            })
        );
        assert_eq!(
            refusal(|measured| measured.gain.mean = -0.001),
            Some(Refusal::NoGain {
                gain: -0.001,
                needed: 0.0
            })
        );
        assert_eq!(
            refusal(|measured| {
                measured.after.right = 11;
                measured.after.accuracy = 0.55;
            }),
            Some(Refusal::LessAccurate {
                before: 14,
                after: 11
            })
        );
        assert_eq!(
            refusal(|measured| {
                let suspect = HardExample {
                    id: String::new(),
                    label: 0,
                    probability: 0.1,
                    loss: 2.3,
                    disagreeing: 5,
                    neighbors: 5,
                };
                measured.suspects = vec![suspect; 5];
            }),
            Some(Refusal::LabelsLookWrong {
                suspects: 5,
                samples: 20
            })
        );
    }

    #[test]
    fn forgetting_is_refused_where_it_can_be_measured() {
        let forgets = |measured: &mut Measurements| {
            if let Some(replay) = &mut measured.replay {
                replay.after = 0.95;
            }
        };
        assert_eq!(
            refusal(forgets),
            Some(Refusal::Forgets {
                before: 0.99,
                after: 0.95
            })
        );
        assert_eq!(refusal(|measured| measured.replay = None), None);
    }
}
