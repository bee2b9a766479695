//! The outcome of a refit, which consists of the decision, the reason for it,
//! and the measurements.
//!
//! The types in this module are plain values. The records in `learning::records` define the JSON of
//! these values.

use std::fmt;

use super::options::Adaptation;
use crate::platform::text_code::TextCode;

/// The outcome of evaluating a challenger.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The decision of the gate.
    pub decision: GateDecision,
    /// The reason for the decision, as a sentence.
    pub reason: String,
    /// The machine-readable form of the reason, or `None` while nothing is decided.
    pub reason_code: Option<TextCode>,
    /// A message about this refit that the owner should read, regardless of the
    /// gate's decision.
    pub warning: Option<String>,
    /// The machine-readable form of each warning.
    pub warning_codes: Vec<TextCode>,
    /// Whether the owner vouched for the labels. The checks of the labels then only warn.
    pub labels_checked: bool,
    /// Names of the classes. All per-class values are in this order.
    pub labels: Vec<String>,
    /// Number of usable samples and groups of each class.
    pub counts: Vec<ClassCount>,
    /// Samples that could not be used.
    pub skipped: Vec<SkippedSample>,
    /// The measurements, or `None` if the refit ended before anything was
    /// measured.
    pub measured: Option<Measurements>,
    /// What to capture and label next.
    pub advice: Vec<Advice>,
    /// Ids of the samples that the accepted head was trained on.
    pub learned: Vec<String>,
}

impl Outcome {
    /// Adds a warning, and keeps those that the outcome already has.
    pub(super) fn add_warning(&mut self, warning: &str, code: Option<TextCode>) {
        self.warning_codes.extend(code);
        self.warning = Some(match self.warning.take() {
            Some(earlier) => format!("{earlier}; {warning}"),
            None => warning.to_owned(),
        });
    }
}

/// Whether the challenger becomes the champion.
#[derive(Debug, Clone, PartialEq)]
pub enum GateDecision {
    /// The challenger becomes the champion.
    Accepted,
    /// The champion stays in use, possibly because there is no challenger.
    Refused(Refusal),
    /// The champion stays in use, because it makes no mistake on the samples, and the
    /// challenger is hardly surer of the right answers.
    NothingToGain,
}

/// The reason why the champion stays in use. [`fmt::Display`] formats the reason as a sentence.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// No sample can be used.
    NoSamples,
    /// All samples have the same label.
    OneClass {
        /// Name of the class.
        label: String,
    },
    /// There are too few tracks to hold out a track of each class.
    TooFewGroups {
        /// Name of the class that has the fewest groups.
        label: String,
        /// Number of groups of that class.
        groups: usize,
        /// Number of groups that every class needs.
        needed: usize,
    },
    /// The training produced numbers that are not finite.
    NotFinite,
    /// The labels contradict a head that was trained without them.
    LabelsDisagree {
        /// Agreement of the labels with that head, between 0.5 (random) and 1.
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
    /// The challenger is not clearly better on the device's own samples.
    NoGain {
        /// Mean decrease of the held-out loss in nats.
        gain: f64,
        /// The minimum gain that the gate accepts.
        needed: f64,
    },
    /// The challenger classifies fewer held-out samples correctly than the champion.
    LessAccurate {
        /// Number of held-out samples that the champion classifies correctly.
        before: usize,
        /// Number of held-out samples that the challenger classifies correctly.
        after: usize,
    },
    /// The challenger does not tell a new class from the others.
    NewClassUnclear {
        /// Name of the class.
        label: String,
        /// Number of held-out samples of the class.
        samples: usize,
        /// Number of these samples that the challenger classifies as the class.
        found: usize,
        /// Number of held-out samples of other classes that the challenger classifies as the class.
        mistaken: usize,
    },
    /// The challenger forgets what the built-in model knew.
    Forgets {
        /// The champion's accuracy on the replay holdout, between 0 and 1.
        before: f64,
        /// The challenger's accuracy on the replay holdout, between 0 and 1.
        after: f64,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NoSamples => f.write_str("there are no labeled face pictures to learn from"),
            Refusal::OneClass { label } => write!(
                f,
                "all face pictures are labeled {label}; label some of another class too"
            ),
            Refusal::TooFewGroups {
                label,
                groups,
                needed,
            } => write!(
                f,
                "there are face pictures of only {} labeled {label}, and at least {needed} are \
                 needed; label pictures of more people or from another day",
                match groups {
                    1 => "1 person".to_owned(),
                    groups => format!("{groups} people"),
                }
            ),
            Refusal::NotFinite => f.write_str(
                "the training produced numbers that are not finite, so the new model was discarded",
            ),
            Refusal::LabelsDisagree { .. } => f.write_str(
                "the labels do not match what the faces look like; check the labels, or label face \
                 pictures of more people",
            ),
            Refusal::LabelsLookWrong { suspects, samples } => write!(
                f,
                "{suspects} of {samples} labels look wrong; check the face pictures that are listed"
            ),
            Refusal::NoGain { .. } => f.write_str(
                "the new model is not clearly better on face pictures that it had not seen",
            ),
            Refusal::LessAccurate { before, after } => write!(
                f,
                "on face pictures that it had not seen, the new model was right on {after}, the \
                 present one on {before}"
            ),
            Refusal::NewClassUnclear {
                label,
                samples,
                found,
                mistaken,
            } => write!(
                f,
                "the new model does not tell {label} from the other labels: it recognized {found} \
                 of {samples} face pictures of {label} that it had not seen, and took {mistaken} \
                 others for {label}; label more face pictures of {label}"
            ),
            Refusal::Forgets { before, after } => write!(
                f,
                "the new model forgets: it was right on {:.1}% of the built-in example faces, the \
                 present one on {:.1}%",
                100.0 * after,
                100.0 * before
            ),
        }
    }
}

impl Refusal {
    /// The machine-readable form of the sentence, or `None` if it depends on the measurements.
    pub(super) fn code(&self) -> Option<TextCode> {
        Some(match self {
            Refusal::NoSamples => TextCode::new("no-samples"),
            Refusal::OneClass { label } => TextCode::new("one-class").with("label", label.as_str()),
            Refusal::TooFewGroups {
                label,
                groups,
                needed,
            } => TextCode::new("too-few-people")
                .with("label", label.as_str())
                .with("people", *groups)
                .with("needed", *needed),
            Refusal::NotFinite => TextCode::new("not-finite"),
            Refusal::LabelsDisagree { .. } => TextCode::new("labels-disagree"),
            Refusal::LabelsLookWrong { suspects, samples } => TextCode::new("labels-look-wrong")
                .with("suspects", *suspects)
                .with("samples", *samples),
            Refusal::NewClassUnclear {
                label,
                samples,
                found,
                mistaken,
            } => TextCode::new("new-class-unclear")
                .with("label", label.as_str())
                .with("samples", *samples)
                .with("found", *found)
                .with("mistaken", *mistaken),
            Refusal::NoGain { .. } | Refusal::LessAccurate { .. } | Refusal::Forgets { .. } => {
                return None;
            }
        })
    }
}

/// The number of usable samples and groups of a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassCount {
    /// Name of the class.
    pub label: String,
    /// Number of usable samples.
    pub samples: usize,
    /// Number of groups that these samples come from. A group is one track on
    /// one day.
    pub groups: usize,
}

/// A sample that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedSample {
    /// Id of the sample; see [`Sample::id`](super::Sample::id).
    pub id: String,
    /// What is wrong with the sample.
    pub reason: SkipReason,
}

/// What is wrong with a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// The sample's features cannot be divided into rows of the length that the head's input
    /// has.
    Size,
    /// A feature is NaN or infinite.
    NotFinite,
    /// The sample's label is not the index of a class.
    Label,
}

/// Measurements that compare a challenger with the champion.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurements {
    /// How the challenger was trained.
    pub training: TrainingSummary,
    /// Scores of the champion on held-out samples.
    pub before: Scores,
    /// Scores of the challenger on held-out samples.
    pub after: Scores,
    /// Mean decrease of the loss in nats, balanced by class and group. Each
    /// loss is capped at [`LOSS_CAP`](super::LOSS_CAP).
    pub gain: Estimate,
    /// The mean of the same decrease over the samples that at least one of the two heads
    /// classifies correctly. The other samples may have wrong labels, and a challenger that is
    /// less sure has a lower loss on wrong labels. `None` if a class has no such sample.
    pub recognized_gain: Option<f64>,
    /// Number of groups of the held-out samples.
    pub groups: usize,
    /// Number of held-out groups of the class that has the fewest.
    pub fewest_groups: usize,
    /// How well the labels agree with a head that was trained without them, between 0.5 (no
    /// agreement) and 1 (full agreement). It is the fraction of pairs of groups from different
    /// classes whose logits are in the order that their labels imply, or 1 if there is no such
    /// pair. The standard error is computed as if the labels were random.
    pub agreement: Estimate,
    /// Accuracy on the replay holdout, or `None` if there is no replay set.
    pub replay: Option<ReplayAccuracy>,
    /// The calibration that was folded into the challenger's last layer.
    pub calibration: Calibration,
    /// Held-out samples with the challenger's highest losses, worst first.
    pub worst: Vec<HardExample>,
    /// Samples whose labels look wrong.
    pub suspects: Vec<HardExample>,
    /// How well the challenger tells the classes that are new to the champion from the others.
    pub new_classes: Vec<NewClass>,
}

/// How well a challenger tells a new class from the others, on held-out samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewClass {
    /// Name of the class.
    pub label: String,
    /// Number of samples of the class.
    pub samples: usize,
    /// Number of these samples that are classified as the class.
    pub found: usize,
    /// Number of samples of other classes that are classified as the class.
    pub mistaken: usize,
}

/// How a challenger was trained.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingSummary {
    /// How samples were held out.
    pub validation: Validation,
    /// How the head was adapted, or `None` if another device trained the challenger.
    pub adaptation: Option<Adaptation>,
    /// The head that the training started from.
    pub initial_head: InitialHead,
    /// Number of Adam steps that early stopping chose.
    pub steps: usize,
    /// The held-out loss during training, before calibration.
    pub curve: Vec<CurvePoint>,
}

/// How samples were held out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validation {
    /// About a fifth of the groups are held out permanently. The same groups are always held out,
    /// and they are never used for training.
    HoldOut {
        /// Number of groups that were held out.
        groups: usize,
    },
    /// Cross-validation by group, in which each fold is held out once.
    CrossValidation {
        /// Number of folds.
        folds: usize,
    },
}

/// The head from which the training of a challenger started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitialHead {
    /// The head in use.
    Champion,
    /// The built-in head, or the head of the configured classifier.
    Base,
    /// Unknown, because another device trained the challenger.
    Elsewhere,
}

/// The held-out loss at one point during training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CurvePoint {
    /// Number of Adam steps so far; 0 stands for the initial head.
    pub steps: usize,
    /// Mean cross-entropy of the held-out samples, in nats.
    pub loss: f64,
}

/// A mean and its standard error.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// The standard error, in the same unit as the mean.
    pub standard_error: f64,
}

/// The scores of a head on held-out samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Number of held-out samples.
    pub samples: usize,
    /// Number of samples that were classified correctly.
    pub right: usize,
    /// Fraction of samples that were classified correctly, between 0 and 1.
    pub accuracy: f64,
    /// The 95% confidence interval of the accuracy; see
    /// [`wilson`](crate::training::report::wilson).
    pub interval: [f64; 2],
    /// Mean cross-entropy in nats. The loss of each sample is capped at
    /// [`LOSS_CAP`](super::LOSS_CAP).
    pub loss: f64,
    /// Number of samples by true class (row) and predicted class (column).
    pub confusion: Vec<Vec<usize>>,
}

/// Accuracy of the champion and of the challenger on the replay holdout.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReplayAccuracy {
    /// The champion's accuracy, between 0 and 1.
    pub before: f64,
    /// The challenger's accuracy, between 0 and 1.
    pub after: f64,
    /// Number of rows in the replay holdout.
    pub rows: usize,
}

/// A calibration of the logits: each logit is divided by the temperature, and then a shift is
/// added.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// The number by which the logits are divided.
    pub temperature: f64,
    /// For each class, the value that is added to the divided logit.
    pub shift: Vec<f64>,
}

/// A held-out sample with a high loss.
#[derive(Debug, Clone, PartialEq)]
pub struct HardExample {
    /// Id of the sample; see [`Sample::id`](super::Sample::id).
    pub id: String,
    /// Index of the sample's label in the list of labels.
    pub label: usize,
    /// The challenger's probability of the label while the sample was held out,
    /// between 0 and 1.
    pub probability: f64,
    /// The cross-entropy of that probability, in nats.
    pub loss: f64,
    /// Number of the sample's nearest neighbors that have another label.
    pub disagreeing: usize,
    /// Number of nearest neighbors that were compared.
    pub neighbors: usize,
}

/// What to capture and label next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advice {
    /// A class has too few tracks to evaluate a head reliably.
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
        /// Number of held-out samples of the class.
        samples: usize,
    },
    /// Some labels look wrong and should be checked.
    CheckLabels {
        /// Number of samples whose labels look wrong.
        suspects: usize,
    },
}
