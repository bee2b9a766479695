//! What a refit found: the decision, the reason for it, and the figures.
//!
//! Plain values; their JSON is that of the records in `learning::records`.

use std::fmt;

/// What was found about a challenger.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// What the gate decided.
    pub decision: GateDecision,
    /// Why, in a sentence.
    pub reason: String,
    /// What the owner should know about this refit whatever its decision, in a
    /// sentence.
    pub warning: Option<String>,
    /// Names of the classes; everything per class is in their order.
    pub labels: Vec<String>,
    /// Usable samples and groups of each class.
    pub counts: Vec<ClassCount>,
    /// Samples that could not be used.
    pub skipped: Vec<SkippedSample>,
    /// `None` if the refit ended before anything was measured.
    pub measured: Option<Measurements>,
    /// What to capture and label next.
    pub advice: Vec<Advice>,
    /// Ids of the samples that an accepted head has learned from.
    pub learned: Vec<String>,
}

impl Outcome {
    /// The outcome of a challenger that the gate refused.
    pub(super) fn refused(self, refusal: Refusal) -> Outcome {
        Outcome {
            reason: refusal.to_string(),
            decision: GateDecision::Refused(refusal),
            ..self
        }
    }
}

/// Whether the challenger becomes the champion.
#[derive(Debug, Clone, PartialEq)]
pub enum GateDecision {
    /// The challenger becomes the champion.
    Accepted,
    /// The champion stays; also if there is no challenger.
    Refused(Refusal),
}

/// Why the champion stays. [`fmt::Display`] gives the sentence.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// No sample can be used.
    NoSamples,
    /// All samples have the same label.
    OneClass {
        /// Name of the class.
        label: String,
    },
    /// Too few tracks to hold one of each class out.
    TooFewGroups {
        /// Name of the class that has the fewest.
        label: String,
        /// Groups of that class.
        groups: usize,
        /// Groups that every class needs.
        needed: usize,
    },
    /// The training ended in numbers that are not finite.
    NotFinite,
    /// The labels contradict a head that was learned without them.
    LabelsDisagree {
        /// Agreement of the labels with that head, 0.5 (random) to 1.
        agreement: f64,
        /// The smallest agreement that passes.
        needed: f64,
    },
    /// Too many single labels look wrong.
    LabelsLookWrong {
        /// Samples whose label looks wrong.
        suspects: usize,
        /// Held-out samples.
        samples: usize,
    },
    /// The challenger is not clearly better on the device's own samples.
    NoGain {
        /// Held-out gain in nats.
        gain: f64,
        /// The smallest gain that passes.
        needed: f64,
    },
    /// The challenger classifies fewer held-out samples correctly.
    LessAccurate {
        /// Samples that the champion classifies correctly.
        before: usize,
        /// Samples that the challenger classifies correctly.
        after: usize,
    },
    /// The challenger forgets what the built-in model knew.
    Forgets {
        /// The champion's accuracy on the replay holdout, 0 to 1.
        before: f64,
        /// The challenger's accuracy on the replay holdout, 0 to 1.
        after: f64,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NoSamples => f.write_str("there are no labeled face pictures to learn from"),
            Refusal::OneClass { label } => write!(
                f,
                "all face pictures are labeled {label}: label some of another class too"
            ),
            Refusal::TooFewGroups {
                label,
                groups,
                needed,
            } => write!(
                f,
                "{label} has face pictures from too few tracks ({groups}; at least {needed} are \
                 needed): label pictures of more people or of another day"
            ),
            Refusal::NotFinite => f.write_str(
                "the training ended in numbers that are not finite: the new model was discarded",
            ),
            Refusal::LabelsDisagree { agreement, needed } => write!(
                f,
                "the labels do not match what the faces look like (agreement {agreement:.2}, \
                 needed {needed:.2}): check the labels, or label more face pictures"
            ),
            Refusal::LabelsLookWrong { suspects, samples } => write!(
                f,
                "{suspects} of {samples} labels look wrong: check the face pictures that are listed"
            ),
            Refusal::NoGain { gain, needed } => write!(
                f,
                "the new model is not clearly better on held-out face pictures: its loss {}, and \
                 must fall by at least {needed:.3}",
                change(*gain)
            ),
            Refusal::LessAccurate { before, after } => write!(
                f,
                "the new model classifies {after} held-out face pictures correctly, the present \
                 one {before}"
            ),
            Refusal::Forgets { before, after } => write!(
                f,
                "the new model forgets: its accuracy on the pictures of the replay set is {:.1} %, \
                 the present one's {:.1} %",
                100.0 * after,
                100.0 * before
            ),
        }
    }
}

/// What the loss did, given its decrease in nats.
pub(super) fn change(gain: f64) -> String {
    let size = format!("{:.3}", gain.abs());
    match size.as_str() {
        "0.000" => "did not change".to_owned(),
        size if gain > 0.0 => format!("fell by {size}"),
        size => format!("rose by {size}"),
    }
}

/// Usable samples of a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassCount {
    /// Name of the class.
    pub label: String,
    /// Usable samples.
    pub samples: usize,
    /// Their groups: tracks within a day.
    pub groups: usize,
}

/// A sample that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedSample {
    /// As in [`Sample::id`](super::Sample::id).
    pub id: String,
    /// What is wrong with it.
    pub reason: SkipReason,
}

/// What is wrong with a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// Its features are not rows of [`FEATURES`](crate::onnx::FEATURES) numbers.
    Size,
    /// A feature is NaN or infinite.
    NotFinite,
    /// No class has its label's number.
    Label,
}

/// The figures of a challenger that was compared with the champion.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurements {
    /// How the challenger came about.
    pub training: TrainingSummary,
    /// The champion on held-out samples.
    pub before: Scores,
    /// The challenger on held-out samples.
    pub after: Scores,
    /// Mean decrease of the loss in nats, by class and group; each loss counts
    /// at most [`LOSS_CAP`](super::LOSS_CAP).
    pub gain: Estimate,
    /// How well the labels match a head that was learned without them, 0.5 (not
    /// at all) to 1: the share of pairs of groups of two classes that its logits
    /// put in the order of their labels. 1 if there is no such pair. The
    /// standard error is that of random labels.
    pub agreement: Estimate,
    /// Accuracy on the replay holdout; `None` if there is no replay set.
    pub replay: Option<ReplayAccuracy>,
    /// What was folded into the challenger's last layer.
    pub calibration: Calibration,
    /// Held-out samples with the challenger's highest losses, worst first.
    pub worst: Vec<HardExample>,
    /// Samples whose label looks wrong.
    pub suspects: Vec<HardExample>,
}

/// How a challenger came about.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingSummary {
    /// How samples were held out.
    pub validation: Validation,
    /// The head that the training began with.
    pub initial_head: InitialHead,
    /// Steps of Adam that early stopping chose.
    pub steps: usize,
    /// The held-out loss during the training, before calibration.
    pub curve: Vec<CurvePoint>,
}

/// How samples were held out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validation {
    /// About a fifth of the groups, always the same, never learned from.
    HoldOut {
        /// Groups that were held out.
        groups: usize,
    },
    /// Cross-validation by group: each fold is held out once.
    CrossValidation {
        /// Number of folds.
        folds: usize,
    },
}

/// The head that a challenger was trained from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitialHead {
    /// The head in use.
    Champion,
    /// The built-in head, or that of the configured classifier.
    Base,
    /// Unknown: another device trained the challenger.
    Elsewhere,
}

/// The held-out loss at one moment of the training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CurvePoint {
    /// Steps of Adam so far; 0 is the initial head.
    pub steps: usize,
    /// Mean cross-entropy of the held-out samples, in nats.
    pub loss: f64,
}

/// A mean and its standard error.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Estimate {
    /// The estimate itself.
    pub mean: f64,
    /// In the same unit as the mean.
    pub standard_error: f64,
}

/// How a head did on held-out samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Held-out samples.
    pub samples: usize,
    /// Samples that were classified correctly.
    pub right: usize,
    /// Share that was classified correctly, 0 to 1.
    pub accuracy: f64,
    /// The accuracy's 95 % interval, see
    /// [`wilson`](crate::training::report::wilson).
    pub interval: [f64; 2],
    /// Mean cross-entropy in nats, each at most [`LOSS_CAP`](super::LOSS_CAP).
    pub loss: f64,
    /// Samples by true class (row) and predicted class (column).
    pub confusion: Vec<Vec<usize>>,
}

/// Accuracy of both heads on the replay holdout.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReplayAccuracy {
    /// The champion's accuracy, 0 to 1.
    pub before: f64,
    /// The challenger's accuracy, 0 to 1.
    pub after: f64,
    /// Rows of the replay holdout.
    pub rows: usize,
}

/// Logits are divided by the temperature, then shifted.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// Divides the logits.
    pub temperature: f64,
    /// Added to the divided logit of each class.
    pub shift: Vec<f64>,
}

/// A held-out sample with a high loss.
#[derive(Debug, Clone, PartialEq)]
pub struct HardExample {
    /// As in [`Sample::id`](super::Sample::id).
    pub id: String,
    /// Number of its label.
    pub label: usize,
    /// The challenger's probability of the label while the sample was held out,
    /// 0 to 1.
    pub probability: f64,
    /// The cross-entropy of that probability, in nats.
    pub loss: f64,
    /// How many of its nearest neighbors have another label.
    pub disagreeing: usize,
    /// How many nearest neighbors were compared.
    pub neighbors: usize,
}

/// What to capture and label next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advice {
    /// A class has too few tracks to judge a head by.
    MoreTracks {
        /// Name of the class.
        label: String,
        /// Tracks that it has.
        groups: usize,
        /// Number of tracks beyond which more of them add little.
        wanted: usize,
    },
    /// All samples of a class are of one day, so of one light.
    AnotherDay {
        /// Name of the class.
        label: String,
    },
    /// A class is misclassified more often than the others.
    MoreOf {
        /// Name of the class.
        label: String,
        /// Held-out samples that were misclassified.
        wrong: usize,
        /// Held-out samples.
        samples: usize,
    },
    /// Labels to check.
    CheckLabels {
        /// Samples whose label looks wrong.
        suspects: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_the_loss_did() {
        let sentence = |gain| Refusal::NoGain { gain, needed: 0.01 }.to_string();
        assert!(
            sentence(-0.0031).contains("its loss rose by 0.003, and must fall by at least 0.010")
        );
        assert!(sentence(0.005).contains("its loss fell by 0.005"));
        assert!(sentence(-0.0001).contains("its loss did not change"));
    }
}
