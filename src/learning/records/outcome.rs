//! The outcome of a refit as JSON. It is used in the API, in the metadata of
//! heads, and in the file about the last refit.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::learning::refit::{
    Adaptation, Advice, ClassCount, CurvePoint, GateDecision, HardExample, InitialHead,
    Measurements, Outcome, Refusal, Scores, SkipReason, SkippedSample, Validation,
};
use crate::platform::text::{counted, people};
use crate::platform::text_code::TextCode;

/// The outcome of a refit. Its JSON is a documented contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OutcomeRecord {
    /// The decision of the gate.
    pub ruling: DecisionRecord,
    /// The reason for the decision, as a sentence.
    pub reason: String,
    /// The machine-readable form of `reason`. Absent in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason_code: Option<TextCode>,
    /// A message about this refit that the owner should read, regardless of the
    /// gate's decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// The machine-readable form of each sentence in `warning`. Empty in records of earlier
    /// versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warning_codes: Vec<TextCode>,
    /// Whether the owner vouched for the labels. If the labels looked wrong, the
    /// warning says so, and the new model was not refused for that reason.
    #[serde(default)]
    pub labels_checked: bool,
    /// Names of the classes. All per-class values are in this order.
    pub labels: Vec<String>,
    /// Number of usable samples and groups of each class.
    pub counts: Vec<ClassCountRecord>,
    /// Samples that could not be used.
    pub left_out: Vec<SkippedRecord>,
    /// The measurements, or null if the refit ended before anything was
    /// measured.
    pub measured: Option<MeasuredRecord>,
    /// What to capture and label next.
    pub advice: Vec<AdviceRecord>,
    /// Ids of the samples that the accepted model was trained on.
    pub learned: Vec<String>,
}

impl From<Outcome> for OutcomeRecord {
    fn from(outcome: Outcome) -> OutcomeRecord {
        OutcomeRecord {
            ruling: outcome.decision.into(),
            reason: outcome.reason,
            reason_code: outcome.reason_code,
            warning: outcome.warning,
            warning_codes: outcome.warning_codes,
            labels_checked: outcome.labels_checked,
            labels: outcome.labels,
            counts: outcome.counts.into_iter().map(Into::into).collect(),
            left_out: outcome.skipped.into_iter().map(Into::into).collect(),
            measured: outcome.measured.map(Into::into),
            advice: outcome.advice.into_iter().map(Into::into).collect(),
            learned: outcome.learned,
        }
    }
}

/// Whether the new model is put into use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DecisionRecord {
    /// The new model is put into use.
    Accepted,
    /// The present model stays in use, possibly because there is no new model.
    Refused(RefusalRecord),
    /// The present model stays in use, because it makes no mistake on the labeled face
    /// pictures, and the new model is hardly surer of the right answers.
    NothingToGain,
}

impl From<GateDecision> for DecisionRecord {
    fn from(decision: GateDecision) -> DecisionRecord {
        match decision {
            GateDecision::Accepted => DecisionRecord::Accepted,
            GateDecision::Refused(refusal) => DecisionRecord::Refused(refusal.into()),
            GateDecision::NothingToGain => DecisionRecord::NothingToGain,
        }
    }
}

/// The reason why the present model stays in use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalRecord {
    /// No sample can be used.
    NoSamples,
    /// All samples have the same label.
    OneClass {
        /// Name of the class.
        label: String,
    },
    /// There are too few tracks to hold out a track of each class.
    TooFewGroups {
        /// Name of the class that has the fewest tracks.
        label: String,
        /// Number of tracks of that class.
        groups: usize,
        /// Number of tracks that every class needs.
        needed: usize,
    },
    /// The training produced numbers that are not finite.
    NotFinite,
    /// The labels contradict a model that was trained without them.
    LabelsDisagree {
        /// Agreement of the labels with that model, between 0.5 (random) and 1.
        agreement: f64,
        /// The minimum agreement that the gate accepts.
        needed: f64,
    },
    /// Too many individual labels look wrong.
    LabelsLookWrong {
        /// Number of samples whose labels look wrong.
        suspects: usize,
        /// Number of held-out samples.
        samples: usize,
    },
    /// The new model is not clearly better on the device's own samples.
    NoGain {
        /// Mean decrease of the held-out loss in nats.
        gain: f64,
        /// The minimum gain that the gate accepts.
        needed: f64,
    },
    /// The new model classifies fewer held-out samples correctly.
    LessAccurate {
        /// Number of samples that the present model classifies correctly.
        before: usize,
        /// Number of samples that the new model classifies correctly.
        after: usize,
    },
    /// The new model does not tell a new class from the others.
    NewClassUnclear {
        /// Name of the class.
        label: String,
        /// Number of held-out samples of the class.
        samples: usize,
        /// Number of these samples that the new model classifies as the class.
        found: usize,
        /// Number of held-out samples of other classes that the new model classifies as the class.
        mistaken: usize,
    },
    /// The new model forgets what the built-in model knew.
    Forgets {
        /// The present model's accuracy on the replay holdout, between 0 and 1.
        before: f64,
        /// The new model's accuracy on the replay holdout, between 0 and 1.
        after: f64,
    },
}

impl From<Refusal> for RefusalRecord {
    fn from(refusal: Refusal) -> RefusalRecord {
        match refusal {
            Refusal::NoSamples => RefusalRecord::NoSamples,
            Refusal::OneClass { label } => RefusalRecord::OneClass { label },
            Refusal::TooFewGroups {
                label,
                groups,
                needed,
            } => RefusalRecord::TooFewGroups {
                label,
                groups,
                needed,
            },
            Refusal::NotFinite => RefusalRecord::NotFinite,
            Refusal::LabelsDisagree { agreement, needed } => {
                RefusalRecord::LabelsDisagree { agreement, needed }
            }
            Refusal::LabelsLookWrong { suspects, samples } => {
                RefusalRecord::LabelsLookWrong { suspects, samples }
            }
            Refusal::NoGain { gain, needed } => RefusalRecord::NoGain { gain, needed },
            Refusal::LessAccurate { before, after } => {
                RefusalRecord::LessAccurate { before, after }
            }
            Refusal::NewClassUnclear {
                label,
                samples,
                found,
                mistaken,
            } => RefusalRecord::NewClassUnclear {
                label,
                samples,
                found,
                mistaken,
            },
            Refusal::Forgets { before, after } => RefusalRecord::Forgets { before, after },
        }
    }
}

/// The number of usable samples and tracks of a class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClassCountRecord {
    /// Name of the class.
    pub label: String,
    /// Number of usable samples.
    pub samples: usize,
    /// Number of tracks that these samples come from.
    pub groups: usize,
}

impl From<ClassCount> for ClassCountRecord {
    fn from(count: ClassCount) -> ClassCountRecord {
        ClassCountRecord {
            label: count.label,
            samples: count.samples,
            groups: count.groups,
        }
    }
}

/// A sample that could not be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SkippedRecord {
    /// Id of the sample.
    pub id: String,
    /// What is wrong with the sample.
    pub why: SkipReasonRecord,
}

impl From<SkippedSample> for SkippedRecord {
    fn from(skipped: SkippedSample) -> SkippedRecord {
        SkippedRecord {
            id: skipped.id,
            why: match skipped.reason {
                SkipReason::Size => SkipReasonRecord::Size,
                SkipReason::NotFinite => SkipReasonRecord::NotFinite,
                SkipReason::Label => SkipReasonRecord::Label,
            },
        }
    }
}

/// What is wrong with a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SkipReasonRecord {
    /// The sample's features do not have the right number of values.
    Size,
    /// A feature is NaN or infinite.
    NotFinite,
    /// The model has no class for the sample's label.
    Label,
}

/// Measurements that compare a new model with the present model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MeasuredRecord {
    /// How samples were held out.
    pub method: ValidationRecord,
    /// How the model was adapted. Null for a model from another device, and in models that
    /// were stored by earlier versions.
    #[serde(default)]
    pub adaptation: Option<AdaptationRecord>,
    /// The model that the training started from.
    pub start: InitialHeadRecord,
    /// Number of Adam steps that early stopping chose.
    pub steps: usize,
    /// Scores of the present model on held-out samples.
    pub before: ScoresRecord,
    /// Scores of the new model on held-out samples.
    pub after: ScoresRecord,
    /// Mean decrease of the loss in nats, balanced by class and group. Each
    /// loss is capped at 4.
    pub gain: f64,
    /// Standard error of `gain`, computed from the spread of the groups.
    pub standard_error: f64,
    /// The mean of the same decrease over the face pictures on which at least one of the two
    /// models is right. The other pictures may have wrong labels. Null if a label has no such
    /// picture, and in models that were stored by earlier versions.
    #[serde(default)]
    pub recognized_gain: Option<f64>,
    /// How well the labels agree with a model that was trained without them,
    /// between 0.5 (no agreement) and 1 (full agreement). It is the fraction of
    /// pairs of groups from different classes whose logits are in the order
    /// that their labels imply, or 1 if there is no such pair.
    pub agreement: f64,
    /// The standard error that `agreement` would have if the labels were
    /// random.
    pub agreement_error: f64,
    /// The present model's accuracy on the replay holdout, between 0 and 1.
    /// Absent if there is no replay set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_before: Option<f64>,
    /// The new model's accuracy on the replay holdout, between 0 and 1. Absent
    /// if there is no replay set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_after: Option<f64>,
    /// Number of groups of the held-out samples. A group is one track on one day, together with
    /// the tracks that have near-duplicates of its pictures. 0 in models that were stored by
    /// earlier versions.
    #[serde(default)]
    pub groups: usize,
    /// Number of rows in the replay holdout; 0 if there is no replay set.
    pub replay_samples: usize,
    /// Calibration temperature, by which the logits are divided.
    pub temperature: f64,
    /// Calibration shift of each class, which is added to its divided logit.
    pub shift: Vec<f64>,
    /// Held-out samples with the new model's highest losses, worst first.
    pub worst: Vec<HardExampleRecord>,
    /// Samples whose labels look wrong.
    pub suspects: Vec<HardExampleRecord>,
    /// The held-out loss during training, before calibration. Empty in models
    /// that were stored by earlier versions.
    #[serde(default)]
    pub curve: Vec<CurvePointRecord>,
}

impl From<Measurements> for MeasuredRecord {
    fn from(measured: Measurements) -> MeasuredRecord {
        let examples = |examples: Vec<HardExample>| examples.into_iter().map(Into::into).collect();
        MeasuredRecord {
            method: measured.training.validation.into(),
            adaptation: measured.training.adaptation.map(Into::into),
            start: measured.training.initial_head.into(),
            steps: measured.training.steps,
            before: measured.before.into(),
            after: measured.after.into(),
            gain: measured.gain.mean,
            standard_error: measured.gain.standard_error,
            recognized_gain: measured.recognized_gain,
            agreement: measured.agreement.mean,
            agreement_error: measured.agreement.standard_error,
            groups: measured.groups,
            replay_before: measured.replay.map(|replay| replay.before),
            replay_after: measured.replay.map(|replay| replay.after),
            replay_samples: measured.replay.map_or(0, |replay| replay.rows),
            temperature: measured.calibration.temperature,
            shift: measured.calibration.shift,
            worst: examples(measured.worst),
            suspects: examples(measured.suspects),
            curve: measured
                .training
                .curve
                .into_iter()
                .map(Into::into)
                .collect(),
        }
    }
}

/// How samples were held out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ValidationRecord {
    /// About a fifth of the tracks are held out permanently. They are always
    /// the same tracks, and they are never used for training.
    HoldOut {
        /// Number of tracks that were held out.
        groups: usize,
    },
    /// Cross-validation by track, in which each fold is held out once.
    CrossValidation {
        /// Number of folds.
        folds: usize,
    },
}

impl From<Validation> for ValidationRecord {
    fn from(validation: Validation) -> ValidationRecord {
        match validation {
            Validation::HoldOut { groups } => ValidationRecord::HoldOut { groups },
            Validation::CrossValidation { folds } => ValidationRecord::CrossValidation { folds },
        }
    }
}

/// How a model was adapted to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AdaptationRecord {
    /// Both layers were trained on labeled face pictures and on unchanged replay rows.
    PlainReplay,
    /// Only the temperature and the shifts of the logits were fitted.
    Logits,
    /// Both layers were trained, mostly on replay rows that were translated to the device's
    /// camera.
    TranslatedReplay,
    /// Only the classes that the replay set lacks were trained. The logits of all other classes
    /// were only calibrated.
    NewClasses,
}

impl From<Adaptation> for AdaptationRecord {
    fn from(adaptation: Adaptation) -> AdaptationRecord {
        match adaptation {
            Adaptation::PlainReplay => AdaptationRecord::PlainReplay,
            Adaptation::Logits => AdaptationRecord::Logits,
            Adaptation::TranslatedReplay => AdaptationRecord::TranslatedReplay,
            Adaptation::NewClasses => AdaptationRecord::NewClasses,
        }
    }
}

/// The model that the training started from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum InitialHeadRecord {
    /// The model that was in use.
    Champion,
    /// The built-in model, or the model of the configured classifier.
    Base,
    /// Unknown, because another device trained the new model.
    Elsewhere,
}

impl From<InitialHead> for InitialHeadRecord {
    fn from(head: InitialHead) -> InitialHeadRecord {
        match head {
            InitialHead::Champion => InitialHeadRecord::Champion,
            InitialHead::Base => InitialHeadRecord::Base,
            InitialHead::Elsewhere => InitialHeadRecord::Elsewhere,
        }
    }
}

/// The held-out loss at one point during training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CurvePointRecord {
    /// Number of Adam steps so far; 0 stands for the model that the training
    /// started from.
    pub steps: usize,
    /// Mean cross-entropy of the held-out samples, in nats.
    pub loss: f64,
}

impl From<CurvePoint> for CurvePointRecord {
    fn from(point: CurvePoint) -> CurvePointRecord {
        CurvePointRecord {
            steps: point.steps,
            loss: point.loss,
        }
    }
}

/// The scores of a model on held-out samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScoresRecord {
    /// Number of held-out samples.
    pub samples: usize,
    /// Number of samples that were classified correctly.
    pub right: usize,
    /// Fraction of samples that were classified correctly, between 0 and 1.
    pub accuracy: f64,
    /// The 95% confidence interval of the accuracy (Wilson score interval).
    pub interval: [f64; 2],
    /// Mean cross-entropy in nats. The loss of each sample is capped at 4.
    pub loss: f64,
    /// Number of samples by true class (row) and predicted class (column).
    pub confusion: Vec<Vec<usize>>,
}

impl From<Scores> for ScoresRecord {
    fn from(scores: Scores) -> ScoresRecord {
        ScoresRecord {
            samples: scores.samples,
            right: scores.right,
            accuracy: scores.accuracy,
            interval: scores.interval,
            loss: scores.loss,
            confusion: scores.confusion,
        }
    }
}

/// A held-out sample with a high loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HardExampleRecord {
    /// Id of the sample.
    pub id: String,
    /// Index of the sample's label in the list of labels.
    pub label: usize,
    /// The new model's probability of the label while the sample was held out,
    /// between 0 and 1.
    pub probability: f64,
    /// The cross-entropy of that probability, in nats.
    pub loss: f64,
    /// Number of the sample's nearest neighbors that have a different label.
    pub disagreeing: usize,
    /// Number of nearest neighbors that were compared. State directories
    /// without a format number use the British spelling of this key.
    #[serde(alias = "neighbours")]
    pub neighbors: usize,
}

impl From<HardExample> for HardExampleRecord {
    fn from(example: HardExample) -> HardExampleRecord {
        HardExampleRecord {
            id: example.id,
            label: example.label,
            probability: example.probability,
            loss: example.loss,
            disagreeing: example.disagreeing,
            neighbors: example.neighbors,
        }
    }
}

/// What to capture and label next. [`fmt::Display`] formats it as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AdviceRecord {
    /// A class has too few tracks to evaluate a model reliably.
    MoreTracks {
        /// Name of the class.
        label: String,
        /// Number of tracks in the class.
        groups: usize,
        /// Number of tracks beyond which additional tracks help little.
        wanted: usize,
    },
    /// All samples of a class are from one day, so they were probably taken in
    /// similar light.
    AnotherDay {
        /// Name of the class.
        label: String,
    },
    /// A class is misclassified more often than the others.
    MoreOf {
        /// Name of the class.
        label: String,
        /// Number of held-out samples of the class that were misclassified.
        wrong: usize,
        /// Number of held-out samples.
        samples: usize,
    },
    /// Some labels look wrong and should be checked.
    CheckLabels {
        /// Number of samples whose labels look wrong.
        suspects: usize,
    },
}

impl From<Advice> for AdviceRecord {
    fn from(advice: Advice) -> AdviceRecord {
        match advice {
            Advice::MoreTracks {
                label,
                groups,
                wanted,
            } => AdviceRecord::MoreTracks {
                label,
                groups,
                wanted,
            },
            Advice::AnotherDay { label } => AdviceRecord::AnotherDay { label },
            Advice::MoreOf {
                label,
                wrong,
                samples,
            } => AdviceRecord::MoreOf {
                label,
                wrong,
                samples,
            },
            Advice::CheckLabels { suspects } => AdviceRecord::CheckLabels { suspects },
        }
    }
}

impl fmt::Display for AdviceRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdviceRecord::MoreTracks {
                label,
                groups,
                wanted,
            } => write!(
                f,
                "label face pictures of more people with {label}: there are pictures of {} so \
                 far, and up to {wanted} people help",
                people(*groups)
            ),
            AdviceRecord::AnotherDay { label } => write!(
                f,
                "all face pictures of {label} are from one day: add some from another day or in \
                 different light"
            ),
            AdviceRecord::MoreOf {
                label,
                wrong,
                samples,
            } => write!(
                f,
                "{label} is misclassified most often ({wrong} of {samples}): label more face \
                 pictures of it"
            ),
            AdviceRecord::CheckLabels { suspects } => {
                write!(
                    f,
                    "check {} whose label may be wrong",
                    counted(*suspects, "face picture")
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// JSON from a version that recorded neither the training curve nor whether the labels
    /// were checked.
    const WRITTEN: &str = r#"{
        "ruling": {"refused": {"no-gain": {"gain": 0.004, "needed": 0.01}}},
        "reason": "r",
        "labels": ["a", "b"],
        "counts": [{"label": "a", "samples": 2, "groups": 1}],
        "left_out": [{"id": "x", "why": "not-finite"}],
        "measured": {
            "method": {"cross-validation": {"folds": 5}},
            "start": "champion",
            "steps": 50,
            "before": {
                "samples": 2, "right": 1, "accuracy": 0.5, "interval": [0.1, 0.9],
                "loss": 0.7, "confusion": [[1, 0], [1, 0]]
            },
            "after": {
                "samples": 2, "right": 1, "accuracy": 0.5, "interval": [0.1, 0.9],
                "loss": 0.6, "confusion": [[1, 0], [1, 0]]
            },
            "gain": 0.004,
            "standard_error": 0.1,
            "agreement": 0.9,
            "agreement_error": 0.2,
            "replay_before": 0.99,
            "replay_after": 0.98,
            "replay_samples": 300,
            "temperature": 1.1,
            "shift": [0.1, -0.1],
            "worst": [
                {
                    "id": "x", "label": 0, "probability": 0.1, "loss": 2.3,
                    "disagreeing": 4, "neighbors": 5
                }
            ],
            "suspects": []
        },
        "advice": [
            {"more-tracks": {"label": "a", "groups": 1, "wanted": 20}},
            {"another-day": {"label": "a"}},
            {"more-of": {"label": "a", "wrong": 1, "samples": 2}},
            {"check-labels": {"suspects": 1}}
        ],
        "learned": ["x"]
    }"#;

    #[test]
    fn what_earlier_versions_wrote_is_read_and_written_alike() {
        let read: OutcomeRecord = serde_json::from_str(WRITTEN).unwrap();
        let mut expected: serde_json::Value = serde_json::from_str(WRITTEN).unwrap();
        expected["labels_checked"] = serde_json::json!(false);
        expected["measured"]["curve"] = serde_json::json!([]);
        expected["measured"]["adaptation"] = serde_json::Value::Null;
        expected["measured"]["groups"] = serde_json::json!(0);
        expected["measured"]["recognized_gain"] = serde_json::Value::Null;
        assert_eq!(serde_json::to_value(&read).unwrap(), expected);
    }
}
