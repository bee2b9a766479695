//! The gate, which decides whether a challenger may replace the champion.
//!
//! This module defines the order and the limits of the checks. The gate uses only the
//! measurements.

use super::options::GateOptions;
use super::outcome::{Estimate, GateDecision, Measurements, NewClass, Refusal, Scores};

/// The decision of the gate, with warnings.
#[derive(Debug, Clone, PartialEq)]
pub struct Ruling {
    /// The decision.
    pub decision: GateDecision,
    /// The checks that would have refused the challenger if the owner did not vouch for the
    /// labels.
    pub warnings: Vec<Refusal>,
}

/// Decides whether a challenger is accepted.
#[must_use]
pub fn gate(measured: &Measurements, options: &GateOptions) -> Ruling {
    let doubts = [
        labels_disagree(measured, options),
        labels_look_wrong(measured, options),
    ];
    let doubts: Vec<Refusal> = doubts.into_iter().flatten().collect();
    match doubts.first() {
        Some(doubt) if !options.labels_checked => Ruling {
            decision: GateDecision::Refused(doubt.clone()),
            warnings: Vec::new(),
        },
        _ => Ruling {
            decision: if has_nothing_to_gain(measured, options) {
                GateDecision::NothingToGain
            } else {
                not_better(measured, options).map_or(GateDecision::Accepted, GateDecision::Refused)
            },
            warnings: doubts,
        },
    }
}

/// Whether the champion makes no mistake on held-out samples, and the challenger is hardly surer
/// of the right answers.
fn has_nothing_to_gain(measured: &Measurements, options: &GateOptions) -> bool {
    let gain = measured.gain;
    measured.before.right == measured.before.samples
        && gain.mean
            < options
                .perfect_gain
                .max(options.perfect_sigmas * gain.standard_error)
}

fn labels_disagree(measured: &Measurements, options: &GateOptions) -> Option<Refusal> {
    let agreement = measured.agreement.mean;
    let beyond_chance = 0.5 + options.agreement_sigmas * measured.agreement.standard_error;
    let needed = options.min_agreement.max(beyond_chance);
    let is_doubtful = agreement < needed && !is_outvoted(measured, options);
    is_doubtful.then_some(Refusal::LabelsDisagree { agreement, needed })
}

/// Whether the challenger is so much more accurate on held-out samples that the labels can be
/// trusted. Labels that are wrong at random cannot be predicted, so they rarely lead to this result.
/// A lower loss alone is not enough, because a challenger that is less confident also has a lower
/// loss on wrong labels. `groups` is the number of held-out groups of the class that has the
/// fewest.
pub(super) fn is_evident(
    before: &Scores,
    after: &Scores,
    gain: &Estimate,
    groups: usize,
    options: &GateOptions,
) -> bool {
    after.samples >= options.evident_samples
        && groups >= options.evident_groups
        && after.accuracy >= options.evident_accuracy
        && after.accuracy - before.accuracy >= options.evident_improvement
        && gain.mean >= options.evident_sigmas * gain.standard_error
}

/// Whether the evidence on held-out samples outvotes a low agreement with a head that never saw the
/// labels. Such a head is hardly better than chance if the camera is very different from the
/// training data. On labels that are wrong at random, a challenger is right no more often than the
/// champion, and hardly surer where one of them is right. If the champion is very sure of a wrong
/// class, even a challenger that is right there only once has a large gain, so it must recognize
/// each class. An agreement below 0.5 is never outvoted, because it suggests that the labels of two
/// classes are swapped, and swapped labels can be learned too.
fn is_outvoted(measured: &Measurements, options: &GateOptions) -> bool {
    let (before, after) = (&measured.before, &measured.after);
    measured.agreement.mean >= 0.5
        && after.samples >= options.outvoting_samples
        && measured.fewest_groups >= options.evident_groups
        && after.right >= before.right
        && recognizes_each_class(after)
        && measured
            .recognized_gain
            .is_some_and(|gain| gain >= options.outvoting_gain)
}

/// Whether at least half of the samples of each class were classified correctly.
fn recognizes_each_class(scores: &Scores) -> bool {
    let mut rows = scores.confusion.iter().enumerate();
    rows.all(|(class, row)| 2 * row[class] >= row.iter().sum())
}

fn labels_look_wrong(measured: &Measurements, options: &GateOptions) -> Option<Refusal> {
    let samples = measured.after.samples;
    let suspects = measured.suspects.len();
    let are_too_many = suspects as f64 > options.max_suspects * samples as f64;
    are_too_many.then_some(Refusal::LabelsLookWrong { suspects, samples })
}

/// Checks the heads on held-out samples and on the replay holdout. These checks apply even if
/// the owner vouches for the labels.
fn not_better(measured: &Measurements, options: &GateOptions) -> Option<Refusal> {
    let sigmas = options.min_sigmas * measured.gain.standard_error;
    let needed = options.min_gain.max(sigmas);
    let gain = measured.gain.mean;
    let (before, after) = (&measured.before, &measured.after);
    // If no gain is required, a loss that rose by no more than its error does not outweigh samples
    // that became right.
    let may_be_noise =
        needed <= 0.0 && after.right > before.right && gain >= -measured.gain.standard_error;
    if gain < needed && !may_be_noise {
        return Some(Refusal::NoGain { gain, needed });
    }
    // A challenger that is less sure has a lower loss on samples that both heads misclassify. If
    // their labels are wrong, this is no gain.
    if let Some(gain) = measured.recognized_gain
        && after.right <= before.right
        && gain < -options.recognized_tolerance
    {
        let needed = -options.recognized_tolerance;
        return Some(Refusal::NoGain { gain, needed });
    }
    // A champion without mistakes must not be replaced by a challenger that makes some.
    let spoils = before.right == before.samples && after.right < before.right;
    if spoils || after.accuracy < before.accuracy - options.accuracy_tolerance {
        let (before, after) = (before.right, after.right);
        return Some(Refusal::LessAccurate { before, after });
    }
    if let Some(refusal) = new_class_unclear(measured, options) {
        return Some(refusal);
    }
    let replay = measured.replay?;
    let (before, after) = (replay.before, replay.after);
    (after < before - options.replay_tolerance).then_some(Refusal::Forgets { before, after })
}

/// Whether a new class is rarely recognized, or other faces are often taken for it.
fn new_class_unclear(measured: &Measurements, options: &GateOptions) -> Option<Refusal> {
    let is_unclear = |class: &&NewClass| {
        let found = class.found as f64;
        let classified = (class.found + class.mistaken) as f64;
        class.found == 0
            || found < options.min_recall * class.samples as f64
            || found < options.min_precision * classified
    };
    let class = measured.new_classes.iter().find(is_unclear)?;
    Some(Refusal::NewClassUnclear {
        label: class.label.clone(),
        samples: class.samples,
        found: class.found,
        mistaken: class.mistaken,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Adaptation;
    use super::super::outcome::{
        Calibration, HardExample, InitialHead, ReplayAccuracy, TrainingSummary, Validation,
    };
    use super::*;
    use crate::training::report::wilson;

    /// A challenger that passes by a wide margin.
    pub(in crate::learning::refit) fn good() -> Measurements {
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
                adaptation: Some(Adaptation::PlainReplay),
                initial_head: InitialHead::Champion,
                steps: 300,
                curve: Vec::new(),
            },
            before: scores(14),
            after: scores(18),
            gain: estimate(0.4, 0.1),
            groups: 12,
            recognized_gain: Some(0.2),
            fewest_groups: 5,
            agreement: estimate(0.95, 0.13),
            replay: Some(ReplayAccuracy {
                before: 0.99,
                after: 0.988,
                rows: 300,
            }),
            calibration: Calibration::identity(2),
            worst: Vec::new(),
            suspects: Vec::new(),
            new_classes: Vec::new(),
        }
    }

    fn five_suspects() -> Vec<HardExample> {
        let suspect = HardExample {
            id: String::new(),
            label: 0,
            probability: 0.1,
            loss: 2.3,
            disagreeing: 5,
            neighbors: 5,
        };
        vec![suspect; 5]
    }

    fn refusal(change: impl Fn(&mut Measurements)) -> Option<Refusal> {
        let mut measured = good();
        change(&mut measured);
        let ruling = gate(&measured, &GateOptions::default());
        assert_eq!(ruling.warnings, []);
        match ruling.decision {
            GateDecision::Accepted => None,
            GateDecision::Refused(refusal) => Some(refusal),
            GateDecision::NothingToGain => panic!("there is something to gain"),
        }
    }

    #[test]
    fn each_check_refuses_by_itself() {
        assert_eq!(refusal(|_| {}), None);
        let stricter = GateOptions {
            min_sigmas: 5.0,
            ..GateOptions::default()
        };
        assert_eq!(
            gate(&good(), &stricter).decision,
            GateDecision::Refused(Refusal::NoGain {
                gain: 0.4,
                needed: 0.5
            })
        );
        assert_eq!(
            refusal(|measured| {
                measured.agreement.mean = 0.6;
                measured.recognized_gain = Some(0.01);
            }),
            Some(Refusal::LabelsDisagree {
                agreement: 0.6,
                needed: 0.75
            })
        );
        for (found, mistaken, is_clear) in [(4, 4, true), (3, 0, false), (6, 7, false)] {
            let refused = refusal(|measured| {
                measured.new_classes = vec![NewClass {
                    label: "goggles".to_owned(),
                    samples: 20,
                    found,
                    mistaken,
                }];
            });
            assert_eq!(refused.is_none(), is_clear, "{refused:?}");
        }
        assert_eq!(
            refusal(|measured| measured.gain.mean = -0.2),
            Some(Refusal::NoGain {
                gain: -0.2,
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
                measured.suspects = five_suspects();
            }),
            Some(Refusal::LabelsLookWrong {
                suspects: 5,
                samples: 20
            })
        );
    }

    #[test]
    fn held_out_samples_outvote_a_low_agreement() {
        let needed = |measured: &mut Measurements| measured.agreement.mean = 0.55;
        assert_eq!(refusal(needed), None);
        // The labels of the two classes may be swapped.
        let swapped = refusal(|measured| measured.agreement.mean = 0.4);
        assert!(matches!(swapped, Some(Refusal::LabelsDisagree { .. })));
        let changes: [fn(&mut Measurements); 6] = [
            |measured| measured.after.samples = 19,
            |measured| measured.fewest_groups = 4,
            |measured| measured.after.right = measured.before.right - 1,
            |measured| measured.after.confusion = vec![vec![4, 6], vec![0, 10]],
            |measured| measured.recognized_gain = Some(0.04),
            |measured| measured.recognized_gain = None,
        ];
        for change in changes {
            let weak = refusal(|measured| {
                measured.agreement.mean = 0.55;
                change(measured);
            });
            assert!(matches!(weak, Some(Refusal::LabelsDisagree { .. })));
        }
    }

    #[test]
    fn a_loss_that_rose_within_its_error_does_not_outweigh_samples_that_became_right() {
        assert_eq!(refusal(|measured| measured.gain.mean = -0.05), None);
        let lost = refusal(|measured| measured.gain.mean = -0.15);
        assert!(matches!(lost, Some(Refusal::NoGain { .. })));
        let no_better = refusal(|measured| {
            measured.gain.mean = -0.05;
            measured.after.right = measured.before.right;
        });
        assert!(matches!(no_better, Some(Refusal::NoGain { .. })));
    }

    #[test]
    fn a_challenger_that_is_only_less_sure_of_its_mistakes_is_refused() {
        let less_sure = |measured: &mut Measurements| measured.recognized_gain = Some(-0.03);
        // More samples became right, so the challenger is better.
        assert_eq!(refusal(less_sure), None);
        let no_better = refusal(|measured| {
            less_sure(measured);
            measured.after.right = measured.before.right;
        });
        assert_eq!(
            no_better,
            Some(Refusal::NoGain {
                gain: -0.03,
                needed: -0.02
            })
        );
        let surer = refusal(|measured| measured.after.right = measured.before.right);
        assert_eq!(surer, None);
    }

    #[test]
    fn a_champion_without_mistakes_has_nothing_to_gain_unless_the_challenger_is_surer() {
        let decision = |gain: f64, error: f64| {
            let mut measured = good();
            measured.before.right = measured.before.samples;
            measured.after.right = measured.after.samples;
            measured.gain.mean = gain;
            measured.gain.standard_error = error;
            gate(&measured, &GateOptions::default()).decision
        };
        assert_eq!(decision(0.001, 0.0001), GateDecision::NothingToGain);
        assert_eq!(decision(0.05, 0.06), GateDecision::NothingToGain);
        assert_eq!(decision(-0.1, 0.01), GateDecision::NothingToGain);
        assert_eq!(decision(0.05, 0.02), GateDecision::Accepted);
        let mistaken = refusal(|measured| {
            measured.before.right = measured.before.samples;
            measured.after.right = measured.after.samples - 1;
        });
        assert!(matches!(mistaken, Some(Refusal::LessAccurate { .. })));
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

    #[test]
    fn doubts_about_checked_labels_only_warn() {
        let options = GateOptions {
            labels_checked: true,
            ..GateOptions::default()
        };
        let mut measured = good();
        assert_eq!(gate(&measured, &options).warnings, []);
        measured.agreement.mean = 0.3;
        measured.suspects = five_suspects();
        let doubts = vec![
            Refusal::LabelsDisagree {
                agreement: 0.3,
                needed: 0.75,
            },
            Refusal::LabelsLookWrong {
                suspects: 5,
                samples: 20,
            },
        ];
        let accepted = Ruling {
            decision: GateDecision::Accepted,
            warnings: doubts.clone(),
        };
        assert_eq!(gate(&measured, &options), accepted);
        measured.gain.mean = -0.2;
        let refused = gate(&measured, &options);
        assert!(matches!(
            refused.decision,
            GateDecision::Refused(Refusal::NoGain { .. })
        ));
        assert_eq!(refused.warnings, doubts);
        // Without the owner's word, the first doubt refuses.
        let refused = gate(&measured, &GateOptions::default());
        assert_eq!(
            (refused.decision, refused.warnings.len()),
            (GateDecision::Refused(doubts[0].clone()), 0)
        );
    }
}
