//! Refitting a head on the device, and the gate that a new head must pass.
//!
//! Owns how a challenger is learned from a few labelled crops of the device's
//! own camera, how it is calibrated, and whether it may replace the champion.
//! Knows nothing of cameras, files or where samples are kept. Pure: samples,
//! replay set and seed come in as arguments; no clock, no threads.
//! Source of the formulas and the figures: `docs/LEARNING.md`.
//!
//! # In which order
//! 1. Samples that cannot be used are left out and named.
//! 2. They are split by group, a group being a track within a day: the crops
//!    of one person passing by resemble each other so much that a split by crop
//!    would judge a head by what it has learned by heart.
//! 3. A challenger is learned without each part, and predicts it.
//! 4. Temperature and shift are fitted on those held-out predictions; for the
//!    gate, those of a part come from the other parts.
//! 5. The gate compares the challenger with the champion, sample by sample, and
//!    on the replay hold-out; and asks whether the labels can be trusted.
//! 6. The challenger that is handed out is learned from all samples in the same
//!    way (when parts were held out by turns), or is the one that was judged.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::frame::Crop;
use crate::learning::replay::{Replay, Rows};
use crate::onnx::{FEATURES, HeadTensors};
use crate::training::augment::{self, Geometry, Light, RandomRange};
use crate::training::report::wilson;
use crate::training::train::{TrainError, TrainOptions, Trainer};

/// Why no refit was tried. Each message is one whole sentence.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RefitError {
    /// It was asked to stop.
    #[error("the refit was cancelled")]
    Cancelled,
    /// An option that cannot work.
    #[error("a head cannot be refitted with {0}")]
    Options(String),
    /// A head whose tensors do not fit its labels.
    #[error("the {head} cannot be refitted: {problem}")]
    Head {
        /// "champion" or "shipped head".
        head: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A replay set that does not go with the head.
    #[error("the replay set cannot be used: {0}")]
    Replay(String),
}

/// A labelled crop of the device's own camera.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// What the outcome calls it.
    pub id: String,
    /// Number of its class.
    pub label: usize,
    /// The track that it was cut from; with `day` it makes the sample's group.
    pub track: String,
    /// The day on which it was captured.
    pub day: String,
    /// `[rows, FEATURES]`, row by row: the crop itself, then its variants.
    pub features: Vec<f32>,
    /// Whether the champion learned from it, with this label: then the champion
    /// is not judged by it, as long as there are others.
    pub seen: bool,
}

/// What a refit is made of.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Names of the classes, in the order of both heads' outputs.
    pub labels: &'a [String],
    /// The head in use.
    pub champion: &'a HeadTensors,
    /// The shipped head; see [`grow`] if it has fewer classes.
    pub base: &'a HeadTensors,
    /// Labelled crops, features by the backbone of both heads.
    pub samples: &'a [Sample],
    /// What must not be forgotten; its labels are among `labels`.
    pub replay: &'a Replay,
}

/// How a head is refitted, and what the gate asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Of batches and dropout.
    pub seed: u64,
    /// Most steps of Adam, at least 1; early stopping may choose fewer.
    pub steps: usize,
    /// Rows in a batch, at least 2.
    pub batch: usize,
    /// Learning rate, above 0.
    pub learning_rate: f32,
    /// Share of a batch that is of the device's camera, 0 to 1: new rows, and
    /// replayed rows translated to what that camera might have given. What is
    /// left of the batch is replayed as it is.
    pub device_share: f32,
    /// Share of new rows in a batch when there are many groups, 0 to
    /// `device_share`; with n groups it is n / (n + `new_half`) of that.
    pub new_share: f32,
    /// Groups with which new rows have half of their share, from 0: a few
    /// labels may be wrong, and translated rows hardly need them.
    pub new_half: f32,
    /// Which part of the hidden units a step leaves out, 0 up to but not 1.
    pub dropout: f32,
    /// Which part of the features a step leaves out, 0 up to but not 1: a few
    /// crops must not be told by a few features.
    pub feature_dropout: f32,
    /// Parts that are held out by turns, at least 2; fewer if there are fewer
    /// groups.
    pub folds: usize,
    /// Groups of each class that a lasting hold-out must have, at least 1;
    /// otherwise parts are held out by turns.
    pub holdout_groups: usize,
    /// Least gain on held-out samples, in nats of the cross-entropy.
    pub min_gain: f64,
    /// Least gain in its own standard errors. 0 with few samples: theirs are so
    /// large that nothing would pass, and it is the agreement of the labels
    /// that keeps harm away.
    pub min_sigmas: f64,
    /// How much accuracy on held-out samples may be lost, 0 to 1.
    pub accuracy_tolerance: f64,
    /// How much accuracy on the replay hold-out may be lost, 0 to 1.
    pub replay_tolerance: f64,
    /// Least agreement of the labels with a head that was learned without them,
    /// 0.5 (none) to 1.
    pub min_agreement: f64,
    /// How far above 0.5 the agreement must be, in standard errors that it would
    /// have if labels were drawn by lot: the fewer groups, the more is asked.
    pub agreement_sigmas: f64,
    /// Which share of the samples may have a label that looks wrong, 0 to 1.
    pub max_suspects: f64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            seed: 42,
            steps: 150,
            batch: 64,
            learning_rate: 2e-4,
            device_share: 0.5,
            new_share: 0.5,
            new_half: 50.0,
            dropout: 0.5,
            feature_dropout: 0.2,
            folds: 5,
            holdout_groups: 10,
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

impl Options {
    fn check(&self) -> Result<(), RefitError> {
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let refuse = |what: String| Err(RefitError::Options(what));
        if self.steps == 0 {
            return refuse("no steps".to_owned());
        }
        if self.batch < 2 {
            return refuse(format!("a batch of {}, use at least 2", self.batch));
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return refuse(format!("a learning rate of {}", self.learning_rate));
        }
        if !(self.new_half >= 0.0 && self.new_half.is_finite()) {
            return refuse(format!(
                "half of the new rows with {} groups",
                self.new_half
            ));
        }
        let (new, device) = (self.new_share, self.device_share);
        if !(0.0 <= new && new <= device && device <= 1.0) {
            return refuse(format!(
                "a batch of which {device} is the device's and {new} new"
            ));
        }
        for dropout in [self.dropout, self.feature_dropout] {
            if !(0.0..1.0).contains(&dropout) {
                return refuse(format!("a dropout of {dropout}"));
            }
        }
        if self.folds < 2 || self.holdout_groups == 0 {
            return refuse("fewer than 2 folds or no held-out groups".to_owned());
        }
        let margins = [self.min_gain, self.min_sigmas, self.agreement_sigmas];
        if !margins.into_iter().all(f64::is_finite) {
            return refuse("a margin that is not a number".to_owned());
        }
        let shares = [
            self.accuracy_tolerance,
            self.replay_tolerance,
            self.min_agreement,
            self.max_suspects,
        ];
        if !shares.into_iter().all(share) {
            return refuse("a tolerance that is not from 0 to 1".to_owned());
        }
        Ok(())
    }
}

/// What came of a refit.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// What was found; goes into the new head's metadata, and to whoever asks.
    pub outcome: Outcome,
    /// The new champion, calibrated; only if it was accepted.
    pub head: Option<HeadTensors>,
}

/// Whether the challenger becomes the champion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Ruling {
    /// It does.
    Accepted,
    /// It does not, or there is none.
    Refused(Refusal),
}

/// Why the champion stays. [`fmt::Display`] gives the sentence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// No sample can be used.
    NoSamples,
    /// All samples have one label.
    OneClass {
        /// Its name.
        label: String,
    },
    /// Too few tracks to hold one of each class out.
    TooFewGroups {
        /// Name of the class that has the fewest.
        label: String,
        /// How many it has.
        groups: usize,
        /// How many are needed.
        needed: usize,
    },
    /// The training ended in numbers that are not finite.
    NotFinite,
    /// Labels contradict what a head says that was learned without them.
    LabelsDisagree {
        /// How well the labels go with that head, 0.5 (not at all) to 1.
        agreement: f64,
        /// What it had to be.
        needed: f64,
    },
    /// Too many single labels look wrong.
    LabelsLookWrong {
        /// Samples whose label looks wrong.
        suspects: usize,
        /// Samples that were judged.
        samples: usize,
    },
    /// The champion is not clearly beaten on the device's own samples.
    NoGain {
        /// Held-out gain in nats.
        gain: f64,
        /// What it had to be.
        needed: f64,
    },
    /// The challenger tells fewer held-out samples right.
    LessAccurate {
        /// Told right by the champion.
        before: usize,
        /// Told right by the challenger.
        after: usize,
    },
    /// The challenger forgets what the shipped head knew.
    Forgets {
        /// The champion's accuracy on the replay hold-out, 0 to 1.
        before: f64,
        /// The challenger's.
        after: f64,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NoSamples => f.write_str("there are no labelled samples that can be used"),
            Refusal::OneClass { label } => write!(
                f,
                "all samples are labelled {label}: label crops of another class too"
            ),
            Refusal::TooFewGroups {
                label,
                groups,
                needed,
            } => write!(
                f,
                "{label} has samples of {groups} of at least {needed} tracks: label crops of more \
                 people or of another day"
            ),
            Refusal::NotFinite => f.write_str(
                "the training ended in numbers that are not finite: the head was dropped",
            ),
            Refusal::LabelsDisagree { agreement, needed } => write!(
                f,
                "the labels do not go with what the faces look like (agreement {agreement:.2}, \
                 needed {needed:.2}): look at the labels, or label more crops"
            ),
            Refusal::LabelsLookWrong { suspects, samples } => write!(
                f,
                "{suspects} of {samples} labels look wrong: look at the samples that are listed"
            ),
            Refusal::NoGain { gain, needed } => write!(
                f,
                "the new head is not clearly better on held-out samples: its loss is {gain:.3} \
                 lower, and must be at least {needed:.3} lower"
            ),
            Refusal::LessAccurate { before, after } => write!(
                f,
                "the new head tells {after} held-out samples right, the present one {before}"
            ),
            Refusal::Forgets { before, after } => write!(
                f,
                "the new head forgets: its accuracy on the replay hold-out is {:.1} %, the present \
                 one's {:.1} %",
                100.0 * after,
                100.0 * before
            ),
        }
    }
}

/// How samples were held out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// About a fifth of the groups, always the same, never learned from.
    HoldOut {
        /// Groups that were held out.
        groups: usize,
    },
    /// Cross-validation by group: each part held out once.
    CrossValidation {
        /// Parts.
        folds: usize,
    },
}

/// Which head the challenger was learned from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// The head in use.
    Champion,
    /// The shipped head.
    Base,
    /// One that is not known here: it was learned by another device.
    Elsewhere,
}

/// What was found about a refit. Serialized as JSON into the head's metadata.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Outcome {
    /// Whether the challenger becomes the champion.
    pub ruling: Ruling,
    /// Why, in a sentence.
    pub reason: String,
    /// Names of the classes; everything a class is in their order.
    pub labels: Vec<String>,
    /// Samples and groups of each class that could be used.
    pub counts: Vec<ClassCount>,
    /// Samples that could not be used.
    pub left_out: Vec<LeftOut>,
    /// What was measured; `None` if it did not come to that.
    pub measured: Option<Measured>,
    /// What to capture and label next.
    pub advice: Vec<Advice>,
    /// Ids of the samples that an accepted head has learned from.
    pub learned: Vec<String>,
}

/// What there is of a class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClassCount {
    /// Its name.
    pub label: String,
    /// Samples.
    pub samples: usize,
    /// Tracks within a day.
    pub groups: usize,
}

/// A sample that could not be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeftOut {
    /// Its id.
    pub id: String,
    /// Why.
    pub why: Unusable,
}

/// What is wrong with a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Unusable {
    /// Its features are not rows of [`FEATURES`] numbers.
    Size,
    /// A feature is NaN or infinite.
    NotFinite,
    /// There is no class of its number.
    Label,
}

/// The figures of a refit that was judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Measured {
    /// How samples were held out.
    pub method: Method,
    /// Which head the challenger was learned from.
    pub start: Start,
    /// Steps of Adam that early stopping chose.
    pub steps: usize,
    /// The champion on held-out samples.
    pub before: Scores,
    /// The challenger on held-out samples.
    pub after: Scores,
    /// Mean gain in nats a class and group: losses, at most [`LOSS_CAP`] each,
    /// before less after.
    pub gain: f64,
    /// Standard error of `gain`, by groups.
    pub standard_error: f64,
    /// How well the labels go with a head that was learned without them, 0.5
    /// (not at all) to 1: the share of pairs of groups of two classes that its
    /// logits put in the order of their labels. 1 if there is no such pair.
    pub agreement: f64,
    /// Standard error of `agreement` if labels were drawn by lot.
    pub agreement_error: f64,
    /// The champion's accuracy on the replay hold-out, 0 to 1.
    pub replay_before: f64,
    /// The challenger's.
    pub replay_after: f64,
    /// Rows of the replay hold-out.
    pub replay_samples: usize,
    /// What the logits were divided by.
    pub temperature: f64,
    /// What was added to the logit of each class, after that.
    pub shift: Vec<f64>,
    /// Held-out samples with the highest losses of the challenger, worst first.
    pub worst: Vec<Diagnosis>,
    /// Samples whose label looks wrong.
    pub suspects: Vec<Diagnosis>,
    /// How the held-out loss went while the challenger learned, before
    /// calibration; empty in heads of earlier versions.
    #[serde(default)]
    pub curve: Vec<CurvePoint>,
}

/// The held-out loss at a moment of the learning.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CurvePoint {
    /// Steps of Adam that were done; 0 is the head it began with.
    pub steps: usize,
    /// Mean cross-entropy of the samples that were held out, in nats.
    pub loss: f64,
}

/// How a head did on held-out samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Scores {
    /// Samples.
    pub samples: usize,
    /// Told right.
    pub right: usize,
    /// Share told right, 0 to 1.
    pub accuracy: f64,
    /// Its 95 % interval, see [`wilson`].
    pub interval: [f64; 2],
    /// Mean cross-entropy in nats, each at most [`LOSS_CAP`].
    pub loss: f64,
    /// Samples by true class (row) and told class (column).
    pub confusion: Vec<Vec<usize>>,
}

/// A sample that is worth a look.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Diagnosis {
    /// Its id.
    pub id: String,
    /// Its label's number.
    pub label: usize,
    /// The challenger's probability of the label while the sample was held out,
    /// 0 to 1.
    pub probability: f64,
    /// The cross-entropy of that, in nats.
    pub loss: f64,
    /// Of its nearest neighbors, how many have another label.
    pub disagreeing: usize,
    /// How many neighbors were asked.
    pub neighbors: usize,
}

/// What to capture and label next. [`fmt::Display`] gives the sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Advice {
    /// A class has too few tracks to be judged by.
    MoreTracks {
        /// Its name.
        label: String,
        /// Tracks it has.
        groups: usize,
        /// Tracks from which on another sort of gain can be told from chance.
        wanted: usize,
    },
    /// All samples of a class are of one day, so of one light.
    AnotherDay {
        /// The class' name.
        label: String,
    },
    /// A class is told wrong more often than the others.
    MoreOf {
        /// Its name.
        label: String,
        /// Held-out samples told wrong.
        wrong: usize,
        /// Held-out samples.
        samples: usize,
    },
    /// Labels to look at again.
    CheckLabels {
        /// How many.
        suspects: usize,
    },
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Advice::MoreTracks {
                label,
                groups,
                wanted,
            } => write!(
                f,
                "label crops of more people with {label}: {groups} tracks so far, {wanted} say much more"
            ),
            Advice::AnotherDay { label } => write!(
                f,
                "all samples of {label} are of one day: add some of another day or another light"
            ),
            Advice::MoreOf {
                label,
                wrong,
                samples,
            } => write!(
                f,
                "{label} is told wrong most often ({wrong} of {samples}): label more crops of it"
            ),
            Advice::CheckLabels { suspects } => {
                write!(f, "look at {suspects} samples whose label may be wrong")
            }
        }
    }
}

/// Most that one sample counts in the gate, in nats: a head that is sure and
/// wrong must not outweigh everything else.
pub const LOSS_CAP: f64 = 4.0;

/// What speaks against a challenger, the first that does; `None` accepts it.
#[must_use]
pub fn gate(measured: &Measured, options: &Options) -> Option<Refusal> {
    let agreement = measured.agreement;
    let beyond_chance = 0.5 + options.agreement_sigmas * measured.agreement_error;
    let needed = options.min_agreement.max(beyond_chance);
    if agreement < needed {
        return Some(Refusal::LabelsDisagree { agreement, needed });
    }
    let samples = measured.after.samples;
    let suspects = measured.suspects.len();
    if suspects as f64 > options.max_suspects * samples as f64 {
        return Some(Refusal::LabelsLookWrong { suspects, samples });
    }
    let sigmas = options.min_sigmas * measured.standard_error;
    let needed = options.min_gain.max(sigmas);
    if measured.gain < needed {
        let gain = measured.gain;
        return Some(Refusal::NoGain { gain, needed });
    }
    let (before, after) = (&measured.before, &measured.after);
    if after.accuracy < before.accuracy - options.accuracy_tolerance {
        let (before, after) = (before.right, after.right);
        return Some(Refusal::LessAccurate { before, after });
    }
    let (before, after) = (measured.replay_before, measured.replay_after);
    (after < before - options.replay_tolerance).then_some(Refusal::Forgets { before, after })
}

/// A head with more classes: rows of known labels are kept, a new label gets
/// the mean of all rows and a bias that lies [`NEWCOMER`] below the mean, so
/// that its logit is never the largest before something was learned.
///
/// # Errors
/// [`RefitError::Head`] if the tensors do not fit the labels, or a known label
/// is missing among the new ones.
pub fn grow(
    head: &HeadTensors,
    labels: &[String],
    grown: &[String],
) -> Result<HeadTensors, RefitError> {
    let fail = |problem: String| {
        Err(RefitError::Head {
            head: "head to grow",
            problem,
        })
    };
    let (hidden, classes) = (head.b1.len(), labels.len());
    if classes == 0 || head.b2.len() != classes || head.w2.len() != hidden * classes {
        return fail(format!("its tensors are not those of {classes} labels"));
    }
    if let Some(lost) = labels.iter().find(|label| !grown.contains(label)) {
        return fail(format!("the label {lost:?} would be lost"));
    }
    let distinct: BTreeSet<&String> = grown.iter().collect();
    if distinct.len() != grown.len() {
        return fail("two labels have the same name".to_owned());
    }
    let mean_row: Vec<f32> = (0..hidden)
        .map(|unit| {
            let column = head.w2.iter().skip(unit).step_by(hidden);
            column.sum::<f32>() / classes as f32
        })
        .collect();
    let mean_bias = head.b2.iter().sum::<f32>() / classes as f32;
    let mut w2 = Vec::with_capacity(hidden * grown.len());
    let mut b2 = Vec::with_capacity(grown.len());
    for label in grown {
        if let Some(known) = labels.iter().position(|known| known == label) {
            w2.extend_from_slice(&head.w2[known * hidden..][..hidden]);
            b2.push(head.b2[known]);
        } else {
            w2.extend_from_slice(&mean_row);
            b2.push(mean_bias - NEWCOMER);
        }
    }
    Ok(HeadTensors {
        w1: head.w1.clone(),
        b1: head.b1.clone(),
        w2,
        b2,
    })
}

/// Variants that are learned from beside each crop.
pub const VARIANTS: usize = 4;

/// A crop in slightly other light, place and turn, [`VARIANTS`] times: to be
/// embedded once, when the crop gets its label. The same seed gives the same
/// variants.
#[must_use]
pub fn variants(crop: &Crop, seed: u64) -> Vec<Crop> {
    let sometimes = |probability, from, to| RandomRange {
        probability,
        from,
        to,
    };
    let geometry = Geometry {
        rotation: 8.0,
        zoom: 0.08,
        width_shift: 0.05,
        height_shift: 0.05,
        shear: 0.0,
        ..Geometry::default()
    };
    let light = Light {
        probability: 1.0,
        gamma: sometimes(0.6, 0.7, 1.4),
        gradient: sometimes(0.4, 0.1, 0.4),
        cast: sometimes(0.4, 0.02, 0.15),
        darken: sometimes(0.3, 0.7, 1.0),
        haze: sometimes(0.0, 0.0, 0.0),
        saturation: sometimes(0.3, 0.6, 1.2),
    };
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..VARIANTS)
        .filter_map(|_| {
            let place = geometry.draw(&mut random);
            let mut view = augment::warp(crop.pixels(), &place, geometry.fill);
            light.draw(&mut random).apply(&mut view);
            Crop::from_image(view).ok()
        })
        .collect()
}

/// How far the logit of a new class begins below the mean of the others.
pub const NEWCOMER: f32 = 2.0;

/// Learns a challenger from the samples and lets the gate decide. The same
/// input gives the same bits. `cancelled` is asked before every step.
///
/// # Errors
/// [`RefitError`] if the input cannot be used or it was cancelled; whatever is
/// wrong or missing among the samples is a [`Refusal`] instead.
pub fn fit(
    input: &Input,
    options: &Options,
    cancelled: &dyn Fn() -> bool,
) -> Result<Fit, RefitError> {
    let (replay_train, replay_holdout) = checked(input, options)?;
    if cancelled() {
        return Err(RefitError::Cancelled);
    }

    let (samples, outcome) = unmeasured(input);
    if let Some(refusal) = too_little(&outcome.counts) {
        return Ok(refused(outcome, refusal));
    }

    let study = RefitContext {
        options,
        cancelled,
        classes: input.labels.len(),
        samples: &samples,
        replay: &replay_train,
    };
    let split = split(&samples, input.labels.len(), options);
    match study.run(input, &split, &replay_holdout) {
        Ok(studied) => Ok(studied.into_fit(outcome, &samples, &split)),
        Err(Abort::Cancelled) => Err(RefitError::Cancelled),
        Err(Abort::NotFinite) => Ok(refused(outcome, Refusal::NotFinite)),
    }
}

/// Judges a head that was learned elsewhere as it is, by the samples and the
/// replay hold-out, and asks the gate. What the champion learned from is left out
/// if enough is left; otherwise the champion has the advantage.
///
/// # Errors
/// As [`fit`].
pub fn judge(
    input: &Input,
    challenger: &HeadTensors,
    options: &Options,
    cancelled: &dyn Fn() -> bool,
) -> Result<Outcome, RefitError> {
    let (replay_train, replay_holdout) = checked(input, options)?;
    check_head("head from elsewhere", challenger, input.labels)?;
    if cancelled() {
        return Err(RefitError::Cancelled);
    }
    let (samples, mut outcome) = unmeasured(input);
    if let Some(refusal) = too_little(&outcome.counts) {
        return Ok(refused(outcome, refusal).outcome);
    }
    let study = RefitContext {
        options,
        cancelled,
        classes: input.labels.len(),
        samples: &samples,
        replay: &replay_train,
    };
    let measured = match study.compare(input, challenger, &replay_holdout) {
        Ok(measured) => measured,
        Err(Abort::Cancelled) => return Err(RefitError::Cancelled),
        Err(Abort::NotFinite) => return Ok(refused(outcome, Refusal::NotFinite).outcome),
    };
    outcome.advice = advice(&outcome.counts, &samples, Some(&measured));
    outcome.reason = told_by(&measured);
    let refusal = gate(&measured, options);
    outcome.measured = Some(measured);
    Ok(match refusal {
        Some(refusal) => refused(outcome, refusal).outcome,
        None => outcome,
    })
}

/// Learns from all samples, beginning with the champion, and judges nothing:
/// what [`fit`] does in each of its turns, for experiments. `None` if there is
/// nothing to learn from or the numbers were not finite in the end.
///
/// # Errors
/// As [`fit`].
pub fn learn(
    input: &Input,
    options: &Options,
    cancelled: &dyn Fn() -> bool,
) -> Result<Option<HeadTensors>, RefitError> {
    let (replay, _) = checked(input, options)?;
    let (samples, _) = usable(input);
    if samples.is_empty() {
        return Ok(None);
    }
    let study = RefitContext {
        options,
        cancelled,
        classes: input.labels.len(),
        samples: &samples,
        replay: &replay,
    };
    let all: Vec<usize> = (0..samples.len()).collect();
    let mut head = None;
    let learned = study.learn(input.champion, &all, &[options.steps], |_, trainer| {
        head = Some(trainer.tensors());
        Ok(())
    });
    match learned {
        Ok(()) => Ok(head),
        Err(Abort::NotFinite) => Ok(None),
        Err(Abort::Cancelled) => Err(RefitError::Cancelled),
    }
}

/// The samples that can be used, and what is known before anything is learned or
/// measured.
fn unmeasured<'a>(input: &Input<'a>) -> (Vec<Usable<'a>>, Outcome) {
    let (samples, left_out) = usable(input);
    let counts = counts(&samples, input.labels);
    let outcome = Outcome {
        ruling: Ruling::Accepted,
        reason: String::new(),
        labels: input.labels.to_vec(),
        advice: advice(&counts, &samples, None),
        counts,
        left_out,
        measured: None,
        learned: Vec::new(),
    };
    (samples, outcome)
}

/// The replay set, to learn from and to judge by, if all of the input fits.
fn checked(input: &Input, options: &Options) -> Result<(Rows, Rows), RefitError> {
    options.check()?;
    check_head("champion", input.champion, input.labels)?;
    check_head("shipped head", input.base, input.labels)?;
    let train = renumbered(&input.replay.train, input)?;
    let holdout = renumbered(&input.replay.holdout, input)?;
    Ok((train, holdout))
}

fn check_head(
    head: &'static str,
    tensors: &HeadTensors,
    labels: &[String],
) -> Result<(), RefitError> {
    let fail = |problem: String| Err(RefitError::Head { head, problem });
    if tensors.b2.len() != labels.len() {
        let (outputs, labels) = (tensors.b2.len(), labels.len());
        return fail(format!("it has {outputs} outputs and {labels} labels"));
    }
    match Trainer::from_head(tensors.clone(), TrainOptions::default()) {
        Ok(_) => Ok(()),
        Err(error) => fail(error.to_string()),
    }
}

/// Replay rows with the numbers that their labels have in the head.
fn renumbered(rows: &Rows, input: &Input) -> Result<Rows, RefitError> {
    let fail = |problem: &str| Err(RefitError::Replay(problem.to_owned()));
    if rows.is_empty() || rows.features.len() != rows.len() * FEATURES {
        return fail("it has no rows to learn from, or none to judge by");
    }
    if rows.features.iter().any(|value| !value.is_finite()) {
        return fail("a feature is not a finite number");
    }
    let number = |label: &usize| {
        let name = input.replay.labels.get(*label)?;
        input.labels.iter().position(|label| label == name)
    };
    let labels: Option<Vec<usize>> = rows.labels.iter().map(number).collect();
    match labels {
        Some(labels) => Ok(Rows {
            features: rows.features.clone(),
            labels,
        }),
        None => fail("it has a class that the head does not have"),
    }
}

/// A sample that can be used.
struct Usable<'a> {
    sample: &'a Sample,
    /// Number of its group.
    group: usize,
}

impl Usable<'_> {
    fn label(&self) -> usize {
        self.sample.label
    }

    /// The features of the crop itself.
    fn crop(&self) -> &[f32] {
        &self.sample.features[..FEATURES]
    }

    fn rows(&self) -> usize {
        self.sample.features.len() / FEATURES
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.sample.features[row * FEATURES..][..FEATURES]
    }
}

fn usable<'a>(input: &Input<'a>) -> (Vec<Usable<'a>>, Vec<LeftOut>) {
    let mut samples = Vec::new();
    let mut left_out = Vec::new();
    let mut groups: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for sample in input.samples {
        let features = &sample.features;
        let why = if features.is_empty() || !features.len().is_multiple_of(FEATURES) {
            Unusable::Size
        } else if features.iter().any(|value| !value.is_finite()) {
            Unusable::NotFinite
        } else if sample.label >= input.labels.len() {
            Unusable::Label
        } else {
            let next = groups.len();
            let key = (sample.day.as_str(), sample.track.as_str());
            let group = *groups.entry(key).or_insert(next);
            samples.push(Usable { sample, group });
            continue;
        };
        left_out.push(LeftOut {
            id: sample.id.clone(),
            why,
        });
    }
    (samples, left_out)
}

/// The label that most samples of each group have, the first of equal ones, in
/// the order of the groups' numbers.
fn group_labels(samples: &[Usable]) -> Vec<usize> {
    let mut votes: BTreeMap<usize, BTreeMap<usize, usize>> = BTreeMap::new();
    for sample in samples {
        let votes = votes.entry(sample.group).or_default();
        *votes.entry(sample.label()).or_default() += 1;
    }
    votes
        .values()
        .map(|votes| {
            let most = votes
                .iter()
                .max_by_key(|(label, count)| (**count, usize::MAX - **label));
            most.map_or(0, |(label, _)| *label)
        })
        .collect()
}

fn counts(samples: &[Usable], labels: &[String]) -> Vec<ClassCount> {
    let mut groups = vec![BTreeSet::new(); labels.len()];
    let mut number = vec![0; labels.len()];
    for sample in samples {
        groups[sample.label()].insert(sample.group);
        number[sample.label()] += 1;
    }
    let counted = labels.iter().zip(number).zip(groups);
    counted
        .map(|((label, samples), groups)| ClassCount {
            label: label.clone(),
            samples,
            groups: groups.len(),
        })
        .collect()
}

/// A class with a single track cannot be held out and learned at once.
const LEAST_GROUPS: usize = 2;

fn too_little(counts: &[ClassCount]) -> Option<Refusal> {
    let there: Vec<&ClassCount> = counts.iter().filter(|count| count.samples > 0).collect();
    match there.as_slice() {
        [] => Some(Refusal::NoSamples),
        [one] => Some(Refusal::OneClass {
            label: one.label.clone(),
        }),
        _ => {
            let fewest = there.iter().min_by_key(|count| count.groups)?;
            (fewest.groups < LEAST_GROUPS).then(|| Refusal::TooFewGroups {
                label: fewest.label.clone(),
                groups: fewest.groups,
                needed: LEAST_GROUPS,
            })
        }
    }
}

fn refused(mut outcome: Outcome, refusal: Refusal) -> Fit {
    outcome.reason = refusal.to_string();
    outcome.ruling = Ruling::Refused(refusal);
    Fit {
        outcome,
        head: None,
    }
}

/// Tracks a class from which on more of them say little that is new.
const MANY_GROUPS: usize = 20;

fn advice(counts: &[ClassCount], samples: &[Usable], measured: Option<&Measured>) -> Vec<Advice> {
    let mut advice = Vec::new();
    if let Some(measured) = measured {
        if !measured.suspects.is_empty() {
            advice.push(Advice::CheckLabels {
                suspects: measured.suspects.len(),
            });
        }
        let rows = measured.after.confusion.iter().enumerate();
        let worst = rows
            .map(|(label, row)| {
                let samples: usize = row.iter().sum();
                (label, samples - row[label], samples)
            })
            .filter(|(_, wrong, _)| *wrong > 0)
            .max_by(|a, b| (a.1 * b.2).cmp(&(b.1 * a.2)));
        if let Some((label, wrong, samples)) = worst {
            advice.push(Advice::MoreOf {
                label: counts[label].label.clone(),
                wrong,
                samples,
            });
        }
    }
    for (label, count) in counts.iter().enumerate() {
        if count.groups < MANY_GROUPS {
            advice.push(Advice::MoreTracks {
                label: count.label.clone(),
                groups: count.groups,
                wanted: MANY_GROUPS,
            });
        }
        let of_class = samples.iter().filter(|sample| sample.label() == label);
        let days: BTreeSet<&str> = of_class.map(|sample| sample.sample.day.as_str()).collect();
        if days.len() == 1 {
            advice.push(Advice::AnotherDay {
                label: count.label.clone(),
            });
        }
    }
    advice
}

/// How samples are held out: what is learned from, and what is predicted by
/// what came of it.
struct Split {
    method: Method,
    /// The part of each sample; `None` is never held out.
    parts: Vec<Option<usize>>,
}

impl Split {
    /// Whether the head that is handed out learns from samples of a part.
    fn learns(&self, part: Option<usize>) -> bool {
        matches!(self.method, Method::CrossValidation { .. }) || part.is_none()
    }
}

/// One part in so many is a lasting hold-out.
const HOLDOUT_PARTS: u8 = 5;

/// Splits by group. A lasting hold-out depends on the names of day and track
/// alone, so that a group which is held out now always will be.
fn split(samples: &[Usable], classes: usize, options: &Options) -> Split {
    let labels = group_labels(samples);
    let mut digests = vec![[0; 32]; labels.len()];
    for sample in samples {
        let mut hasher = Sha256::new();
        hasher.update(sample.sample.day.as_bytes());
        hasher.update([0]);
        hasher.update(sample.sample.track.as_bytes());
        digests[sample.group] = hasher.finalize().into();
    }
    let lasting = |group: usize| digests[group][0].is_multiple_of(HOLDOUT_PARTS);
    // Groups by class, in an order that depends on their names alone.
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.sort_by_key(|group| (labels[*group], digests[*group]));

    let (order_ref, labels_ref) = (&order, &labels);
    let of_class = |label: usize| {
        let groups = order_ref.iter();
        groups.filter(move |group| labels_ref[**group] == label)
    };
    let enough = (0..classes).all(|label| {
        let all = of_class(label).count();
        let held = of_class(label).filter(|group| lasting(**group)).count();
        all == 0 || (held >= options.holdout_groups && all - held >= LEAST_GROUPS)
    });
    let mut parts = vec![None; labels.len()];
    let method = if enough {
        let held: Vec<usize> = order.into_iter().filter(|group| lasting(*group)).collect();
        for (at, group) in held.iter().enumerate() {
            parts[*group] = Some(at % options.folds);
        }
        Method::HoldOut { groups: held.len() }
    } else {
        let folds = options.folds.min(order.len());
        for (at, group) in order.iter().enumerate() {
            parts[*group] = Some(at % folds);
        }
        Method::CrossValidation { folds }
    };
    Split {
        method,
        parts: samples.iter().map(|sample| parts[sample.group]).collect(),
    }
}

/// Why a study ended early.
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

/// The parts of a refit that stay the same all through it.
struct RefitContext<'a> {
    options: &'a Options,
    cancelled: &'a dyn Fn() -> bool,
    classes: usize,
    samples: &'a [Usable<'a>],
    replay: &'a Rows,
}

/// A sample as predicted while it was held out.
struct HeldOutPrediction {
    /// Its number among the usable samples.
    sample: usize,
    /// The part that it was held out with.
    part: usize,
    /// Logits of the champion.
    champion: Vec<f64>,
    /// Logits of the challenger, before calibration.
    challenger: Vec<f64>,
}

/// All that the gate decides by.
struct Evaluation {
    measured: Measured,
    head: HeadTensors,
    refusal: Option<Refusal>,
}

/// The loss before anything was learned, and at each mark.
fn curve(start: f64, marks: &[usize], losses: &[f64]) -> Vec<CurvePoint> {
    let marked = marks.iter().zip(losses);
    let points = std::iter::once((&0, &start)).chain(marked);
    points
        .map(|(steps, loss)| CurvePoint {
            steps: *steps,
            loss: *loss,
        })
        .collect()
}

impl RefitContext<'_> {
    fn run(
        &self,
        input: &Input,
        split: &Split,
        replay_holdout: &Rows,
    ) -> Result<Evaluation, Abort> {
        let held: Vec<usize> = (0..self.samples.len())
            .filter(|sample| split.parts[*sample].is_some())
            .collect();
        let crops = self.crops(&held);
        let champion_logits = logits(input.champion, &crops)?;
        let base_logits = logits(input.base, &crops)?;

        // What the champion learned from does not tell how good it is.
        let unseen: Vec<usize> = (0..held.len())
            .filter(|at| !self.samples[held[*at]].sample.seen)
            .collect();
        let unseen_is_enough = self.can_judge(unseen.iter().map(|at| held[*at]));
        let judged: Vec<usize> = if unseen_is_enough {
            unseen
        } else {
            (0..held.len()).collect()
        };
        let loss_of = |logits: &[Vec<f64>]| {
            let losses = judged.iter().map(|at| {
                let sample = held[*at];
                (
                    sample,
                    cross_entropy(&logits[*at], self.samples[sample].label()),
                )
            });
            self.balanced(losses).mean
        };
        let champion_start = input.champion == input.base
            || (unseen_is_enough && loss_of(&champion_logits) <= loss_of(&base_logits));
        let (start, start_head) = if champion_start {
            (Start::Champion, input.champion)
        } else {
            (Start::Base, input.base)
        };

        let marks = self.marks();
        let mut at_marks = vec![vec![Vec::new(); held.len()]; marks.len()];
        let mut turns: Vec<Vec<usize>> = Vec::new();
        match split.method {
            Method::HoldOut { .. } => turns.push((0..held.len()).collect()),
            Method::CrossValidation { folds } => turns.extend((0..folds).map(|fold| {
                let of_fold = |at: &usize| split.parts[held[*at]] == Some(fold);
                (0..held.len()).filter(of_fold).collect()
            })),
        }
        for turn in &turns {
            let without: BTreeSet<usize> = turn.iter().map(|at| held[*at]).collect();
            let learned: Vec<usize> = (0..self.samples.len())
                .filter(|sample| !without.contains(sample))
                .collect();
            let turn_crops = self.crops(&turn.iter().map(|at| held[*at]).collect::<Vec<_>>());
            self.learn(start_head, &learned, &marks, |mark, trainer| {
                let logits = rows_of(&trainer.logits(&turn_crops)?, self.classes);
                for (at, logits) in turn.iter().zip(logits) {
                    at_marks[mark][*at] = logits;
                }
                Ok(())
            })?;
        }
        // Early stopping, if the held-out loss clearly rose in the end.
        let losses: Vec<f64> = at_marks.iter().map(|logits| loss_of(logits)).collect();
        let last = marks.len() - 1;
        let best = (0..last).rev().fold(last, |best, mark| {
            let earlier_is_better = losses[mark] < losses[best] - self.options.min_gain.max(0.0);
            if earlier_is_better { mark } else { best }
        });
        let challenger_logits = at_marks.swap_remove(best);
        let steps = marks[best];
        let start_logits = if champion_start {
            &champion_logits
        } else {
            &base_logits
        };
        let curve = curve(loss_of(start_logits), &marks, &losses);

        let learned: Vec<usize> = (0..self.samples.len())
            .filter(|sample| split.learns(split.parts[*sample]))
            .collect();
        let mut head = None;
        self.learn(start_head, &learned, &[steps], |_, trainer| {
            head = Some(trainer.tensors());
            Ok(())
        })?;
        let head = head.ok_or(Abort::NotFinite)?;

        let predicted: Vec<HeldOutPrediction> = judged
            .iter()
            .map(|at| HeldOutPrediction {
                sample: held[*at],
                part: split.parts[held[*at]].unwrap_or_default(),
                champion: champion_logits[*at].clone(),
                challenger: challenger_logits[*at].clone(),
            })
            .collect();
        self.judge(
            input,
            &predicted,
            head,
            replay_holdout,
            (split.method, start, steps, curve),
        )
    }

    /// See [`Measured::agreement`] and its error: the area under the curve for more classes
    /// (Hand and Till 2001), of the base head as it is after learning from
    /// translated replay alone, in which labels have a part only in that both
    /// classes' mean features count alike.
    fn agreement(&self, base: &HeadTensors) -> Result<(f64, f64), Abort> {
        let options = Options {
            new_share: 0.0,
            ..self.options.clone()
        };
        let without_labels = RefitContext {
            options: &options,
            ..*self
        };
        let all: Vec<usize> = (0..self.samples.len()).collect();
        let crops = self.crops(&all);
        let mut predicted = Vec::new();
        without_labels.learn(base, &all, &[options.steps], |_, trainer| {
            predicted = rows_of(&trainer.logits(&crops)?, self.classes);
            Ok(())
        })?;
        // The mean logits of each group's samples of a label.
        let mut groups: BTreeMap<(usize, usize), (Vec<f64>, f64)> = BTreeMap::new();
        for (sample, logits) in self.samples.iter().zip(&predicted) {
            let key = (sample.label(), sample.group);
            let (sums, count) = groups
                .entry(key)
                .or_insert_with(|| (vec![0.0; self.classes], 0.0));
            for (sum, logit) in sums.iter_mut().zip(logits) {
                *sum += logit;
            }
            *count += 1.0;
        }
        let known: BTreeSet<usize> = self.replay.labels.iter().copied().collect();
        let (mut ordered, mut pairs) = (0.0, 0.0);
        for ((a, _), (first, first_count)) in &groups {
            for ((b, _), (second, second_count)) in &groups {
                if a >= b || !known.contains(a) || !known.contains(b) {
                    continue;
                }
                let margin = |logits: &[f64], count: f64| (logits[*a] - logits[*b]) / count;
                let difference = margin(first, *first_count) - margin(second, *second_count);
                pairs += 1.0;
                ordered += match difference.total_cmp(&0.0) {
                    std::cmp::Ordering::Greater => 1.0,
                    std::cmp::Ordering::Equal => 0.5,
                    std::cmp::Ordering::Less => 0.0,
                };
            }
        }
        // The variance of Mann and Whitney's U over that of its pairs, for each
        // two classes; together as far as they have pairs.
        let mut sizes: BTreeMap<usize, f64> = BTreeMap::new();
        for (label, _) in groups.keys().filter(|(label, _)| known.contains(label)) {
            *sizes.entry(*label).or_default() += 1.0;
        }
        let mut variance = 0.0;
        for (a, first) in &sizes {
            for (_, second) in sizes.range(a + 1..) {
                let product: f64 = first * second;
                variance += (first + second + 1.0) / (12.0 * product) * product * product;
            }
        }
        Ok(if pairs > 0.0 {
            (ordered / pairs, variance.sqrt() / pairs)
        } else {
            (1.0, 0.0)
        })
    }

    /// Whether these samples have two classes of two groups each.
    fn can_judge(&self, samples: impl Iterator<Item = usize>) -> bool {
        let mut groups = vec![BTreeSet::new(); self.classes];
        for sample in samples {
            let sample = &self.samples[sample];
            groups[sample.label()].insert(sample.group);
        }
        groups
            .iter()
            .filter(|groups| groups.len() >= LEAST_GROUPS)
            .count()
            >= 2
    }

    /// Steps after which early stopping looks.
    fn marks(&self) -> Vec<usize> {
        let steps = self.options.steps;
        let mut marks = vec![steps.div_ceil(3), (2 * steps).div_ceil(3), steps];
        marks.dedup();
        marks
    }

    /// The features of these samples' crops, row by row.
    fn crops(&self, samples: &[usize]) -> Vec<f32> {
        let mut features = Vec::with_capacity(samples.len() * FEATURES);
        for sample in samples {
            features.extend_from_slice(self.samples[*sample].crop());
        }
        features
    }

    /// Learns from these samples and the replay set; calls `at_mark` with the
    /// number of each mark when so many steps are done.
    fn learn(
        &self,
        start: &HeadTensors,
        samples: &[usize],
        marks: &[usize],
        mut at_mark: impl FnMut(usize, &Trainer) -> Result<(), Abort>,
    ) -> Result<(), Abort> {
        let options = self.options;
        let train = TrainOptions {
            dropout: options.dropout,
            init_lr: options.learning_rate,
            decay: 0.0,
            seed: options.seed,
            class_weights: Vec::new(),
            ..TrainOptions::default()
        };
        let mut trainer = Trainer::from_head(start.clone(), train)?;
        let mut batches = Batches::new(self, samples);
        for (mark, steps) in marks.iter().enumerate() {
            while trainer.steps() < *steps as u64 {
                if (self.cancelled)() {
                    return Err(Abort::Cancelled);
                }
                let (features, labels) = batches.draw();
                trainer.step(features, labels)?;
            }
            at_mark(mark, &trainer)?;
        }
        Ok(())
    }

    /// The mean over the classes of the mean over their groups of the mean over
    /// their samples, with its standard error.
    fn balanced(&self, values: impl Iterator<Item = (usize, f64)>) -> Balanced {
        let mut groups: BTreeMap<(usize, usize), (f64, f64)> = BTreeMap::new();
        for (sample, value) in values {
            let sample = &self.samples[sample];
            let (sum, count) = groups.entry((sample.label(), sample.group)).or_default();
            *sum += value;
            *count += 1.0;
        }
        let mut classes: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for ((label, _), (sum, count)) in groups {
            classes.entry(label).or_default().push(sum / count);
        }
        let number = classes.len().max(1) as f64;
        let mut balanced = Balanced::default();
        let mut variance = 0.0;
        for means in classes.values() {
            let n = means.len() as f64;
            let mean = means.iter().sum::<f64>() / n;
            let squares: f64 = means.iter().map(|value| (value - mean).powi(2)).sum();
            balanced.mean += mean / number;
            // A class with one group has no spread of its own.
            variance += squares / (n - 1.0).max(1.0) / n / (number * number);
        }
        balanced.standard_error = variance.sqrt();
        balanced
    }
}

/// See [`RefitContext::balanced`].
#[derive(Default)]
struct Balanced {
    mean: f64,
    standard_error: f64,
}

/// Draws batches: new, translated and replayed rows, classes by turns.
struct Batches<'a> {
    study: &'a RefitContext<'a>,
    random: ChaCha8Rng,
    /// What there is to learn from of each class of which there is any: samples
    /// by group, and replay rows.
    classes: Vec<(Vec<Vec<usize>>, Vec<usize>)>,
    /// What each feature of a replay row is multiplied by.
    translation: Vec<f32>,
    new: usize,
    translated: usize,
    features: Vec<f32>,
    labels: Vec<usize>,
}

/// Added to the mean features before their ratio is taken: features that
/// neither camera shows keep their value.
const TRANSLATION_PRIOR: f32 = 0.025;
/// Features end with a ReLU6.
const LARGEST_FEATURE: f32 = 6.0;

impl<'a> Batches<'a> {
    fn new(study: &'a RefitContext<'a>, samples: &[usize]) -> Batches<'a> {
        let options = study.options;
        let mut classes: BTreeMap<usize, BTreeMap<usize, Vec<usize>>> = BTreeMap::new();
        for at in samples {
            let sample = &study.samples[*at];
            let groups = classes.entry(sample.label()).or_default();
            groups.entry(sample.group).or_default().push(*at);
        }
        let mut replayed: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (row, label) in study.replay.labels.iter().enumerate() {
            replayed.entry(*label).or_default().push(row);
        }
        let groups: usize = classes.values().map(BTreeMap::len).sum();
        let groups = groups as f32;
        let rows = |share: f32| (options.batch as f32 * share).round() as usize;
        let device = rows(options.device_share);
        let new = rows(options.new_share * groups / (groups + options.new_half)).min(device);
        let translation = translation(study, &classes, &replayed);
        let mut of_class = |label: usize| {
            let groups = classes.remove(&label).unwrap_or_default();
            let rows = replayed.remove(&label).unwrap_or_default();
            (groups.into_values().collect::<Vec<_>>(), rows)
        };
        let all = (0..study.classes).map(&mut of_class);
        Batches {
            study,
            random: ChaCha8Rng::seed_from_u64(options.seed),
            classes: all
                .filter(|(groups, rows)| !groups.is_empty() || !rows.is_empty())
                .collect(),
            translation,
            new,
            translated: device - new,
            features: Vec::with_capacity(options.batch * FEATURES),
            labels: Vec::with_capacity(options.batch),
        }
    }

    fn draw(&mut self) -> (&[f32], &[usize]) {
        self.features.clear();
        self.labels.clear();
        // By turns, and beginning with any: a batch need not be a multiple of
        // the classes.
        let first: usize = self.random.random_range(0..64);
        for at in 0..self.study.options.batch {
            let (groups, rows) = &self.classes[(first + at) % self.classes.len()];
            // A class that the replay set does not know has but its samples.
            if !groups.is_empty() && (at < self.new || rows.is_empty()) {
                let group = &groups[self.random.random_range(0..groups.len())];
                let sample = group[self.random.random_range(0..group.len())];
                let sample = &self.study.samples[sample];
                // The crop itself as often as all of its variants.
                let variants = sample.rows() - 1;
                let row = match self.random.random_range(0..2) {
                    1 if variants > 0 => 1 + self.random.random_range(0..variants),
                    _ => 0,
                };
                self.features.extend_from_slice(sample.row(row));
                self.labels.push(sample.label());
                continue;
            }
            let row = rows[self.random.random_range(0..rows.len())];
            let features = &self.study.replay.features[row * FEATURES..][..FEATURES];
            if at < self.new + self.translated {
                let translated = features.iter().zip(&self.translation);
                self.features.extend(
                    translated.map(|(value, factor)| (value * factor).min(LARGEST_FEATURE)),
                );
            } else {
                self.features.extend_from_slice(features);
            }
            self.labels.push(self.study.replay.labels[row]);
        }
        let dropout = self.study.options.feature_dropout;
        if dropout > 0.0 {
            let kept = 1.0 / (1.0 - dropout);
            for feature in &mut self.features {
                let stays = self.random.random::<f32>() >= dropout;
                *feature = if stays { *feature * kept } else { 0.0 };
            }
        }
        (&self.features, &self.labels)
    }
}

/// The ratio of each feature's mean on the device's samples to that in the
/// replay set, both over the classes that they share, each counted alike.
fn translation(
    study: &RefitContext,
    samples: &BTreeMap<usize, BTreeMap<usize, Vec<usize>>>,
    replayed: &BTreeMap<usize, Vec<usize>>,
) -> Vec<f32> {
    let mut device = vec![TRANSLATION_PRIOR; FEATURES];
    let mut replay = device.clone();
    let shared: Vec<usize> = samples
        .keys()
        .copied()
        .filter(|label| replayed.contains_key(label))
        .collect();
    for label in &shared {
        let crops: Vec<usize> = samples[label].values().flatten().copied().collect();
        let rows = &replayed[label];
        let weight = 1.0 / (shared.len() * crops.len()) as f32;
        for at in &crops {
            for (sum, value) in device.iter_mut().zip(study.samples[*at].crop()) {
                *sum += weight * value;
            }
        }
        let weight = 1.0 / (shared.len() * rows.len()) as f32;
        for row in rows {
            let features = &study.replay.features[row * FEATURES..][..FEATURES];
            for (sum, value) in replay.iter_mut().zip(features) {
                *sum += weight * value;
            }
        }
    }
    let factors = device.iter().zip(replay);
    factors
        .map(|(device, replay)| (device / replay).clamp(0.1, 10.0))
        .collect()
}

/// The logits of each row of features.
fn logits(head: &HeadTensors, features: &[f32]) -> Result<Vec<Vec<f64>>, Abort> {
    let trainer = Trainer::from_head(head.clone(), TrainOptions::default())?;
    Ok(rows_of(&trainer.logits(features)?, head.b2.len()))
}

fn rows_of(values: &[f32], columns: usize) -> Vec<Vec<f64>> {
    let rows = values.chunks_exact(columns);
    rows.map(|row| row.iter().copied().map(f64::from).collect())
        .collect()
}

/// -ln of the softmax probability of a label.
fn cross_entropy(logits: &[f64], label: usize) -> f64 {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
    sum.ln() + largest - logits[label]
}

/// The class with the highest logit, the first of equal ones.
fn argmax(logits: &[f64]) -> usize {
    (1..logits.len()).fold(
        0,
        |best, at| if logits[at] > logits[best] { at } else { best },
    )
}

/// What is done to logits so that probabilities mean what they say on this
/// camera: divided by a temperature (Guo et al. 2017), then shifted.
#[derive(Debug, Clone, PartialEq)]
struct Calibration {
    temperature: f64,
    shift: Vec<f64>,
}

/// Spread that is expected of the logarithm of the temperature: the smaller,
/// the more samples it takes to move it.
const TEMPERATURE_SPREAD: f64 = 0.25;
/// Spread that is expected of each shift, in nats.
const SHIFT_SPREAD: f64 = 0.15;

impl Calibration {
    /// Changes nothing.
    fn none(classes: usize) -> Calibration {
        Calibration {
            temperature: 1.0,
            shift: vec![0.0; classes],
        }
    }

    /// The most probable one after these predictions (logits, label, weight),
    /// if before them the logarithm of the temperature and the shifts were
    /// normally distributed about 0: minimizes
    ///
    /// ```text
    /// sum w cross_entropy(z / T + b) + ln(T)^2 / 2 s_T^2 + sum b_c^2 / 2 s_b^2
    /// ```
    ///
    /// by a golden section search along each coordinate in turn; the function
    /// is smooth and, but for ln T, convex.
    fn of(predictions: &[(&[f64], usize, f64)], classes: usize) -> Calibration {
        const TURNS: usize = 40;
        const CLOSE: f64 = 1e-3;
        const FARTHEST: f64 = 4.0;
        let cost = |calibration: &Calibration| {
            let loss: f64 = predictions
                .iter()
                .map(|(logits, label, weight)| {
                    weight * cross_entropy(&calibration.apply(logits), *label)
                })
                .sum();
            let temperature = calibration.temperature.ln() / TEMPERATURE_SPREAD;
            let shift: f64 = calibration.shift.iter().map(|shift| shift * shift).sum();
            loss + 0.5 * temperature * temperature + 0.5 * shift / (SHIFT_SPREAD * SHIFT_SPREAD)
        };
        let mut present = vec![false; classes];
        for (_, label, _) in predictions {
            present[*label] = true;
        }
        let mut best = Calibration::none(classes);
        for _ in 0..TURNS {
            let before = best.clone();
            for class in (0..classes).filter(|class| present[*class]) {
                let mut tried = best.clone();
                best.shift[class] = golden_section(-FARTHEST, FARTHEST, |shift| {
                    tried.shift[class] = shift;
                    cost(&tried)
                });
            }
            let mut tried = best.clone();
            let logarithm = golden_section(-1.5, 1.5, |logarithm| {
                tried.temperature = logarithm.exp();
                cost(&tried)
            });
            best.temperature = logarithm.exp();
            let moved = before.shift.iter().zip(&best.shift);
            let farthest = moved
                .map(|(before, after)| (before - after).abs())
                .fold((before.temperature - best.temperature).abs(), f64::max);
            if farthest < CLOSE {
                break;
            }
        }
        best
    }

    fn apply(&self, logits: &[f64]) -> Vec<f64> {
        let shifted = logits.iter().zip(&self.shift);
        shifted
            .map(|(logit, shift)| logit / self.temperature + shift)
            .collect()
    }

    /// With only a part of the shift.
    fn weaker(&self, strength: f64) -> Calibration {
        Calibration {
            temperature: self.temperature,
            shift: self.shift.iter().map(|shift| strength * shift).collect(),
        }
    }

    /// The head whose logits are calibrated: its last layer divided by the
    /// temperature, its last bias shifted.
    fn fold_into(&self, head: &HeadTensors) -> HeadTensors {
        let temperature = self.temperature;
        let divided = move |value: &f32| f64::from(*value) / temperature;
        HeadTensors {
            w1: head.w1.clone(),
            b1: head.b1.clone(),
            w2: head.w2.iter().map(|value| divided(value) as f32).collect(),
            b2: head
                .b2
                .iter()
                .map(divided)
                .zip(&self.shift)
                .map(|(value, shift)| (value + shift) as f32)
                .collect(),
        }
    }
}

/// Where a function with one valley is lowest between two ends (Kiefer 1953).
fn golden_section(mut low: f64, mut high: f64, mut cost: impl FnMut(f64) -> f64) -> f64 {
    const STEPS: usize = 32;
    let ratio = (5.0_f64.sqrt() - 1.0) / 2.0;
    let mut left = high - ratio * (high - low);
    let mut right = low + ratio * (high - low);
    let (mut at_left, mut at_right) = (cost(left), cost(right));
    for _ in 0..STEPS {
        if at_left < at_right {
            high = right;
            (right, at_right) = (left, at_left);
            left = high - ratio * (high - low);
            at_left = cost(left);
        } else {
            low = left;
            (left, at_left) = (right, at_right);
            right = low + ratio * (high - low);
            at_right = cost(right);
        }
    }
    f64::midpoint(low, high)
}

/// Parts of the shift that are tried, until one leaves the replay hold-out as
/// good as it was.
const STRENGTHS: [f64; 3] = [1.0, 0.5, 0.0];
/// Below this held-out probability of its label a sample is looked at closely.
const SUSPECT_PROBABILITY: f64 = 0.25;
/// Neighbors that are asked.
const NEIGHBOURS: usize = 5;
/// Held-out samples that are listed as the worst.
const WORST: usize = 10;

impl RefitContext<'_> {
    fn judge(
        &self,
        input: &Input,
        held: &[HeldOutPrediction],
        head: HeadTensors,
        replay_holdout: &Rows,
        (method, start, steps, curve): (Method, Start, usize, Vec<CurvePoint>),
    ) -> Result<Evaluation, Abort> {
        let (agreement, agreement_error) = self.agreement(input.base)?;
        let all = self.calibration(held, None);
        let parts: BTreeSet<usize> = held.iter().map(|held| held.part).collect();
        // What calibrates the prediction of a part has not seen the part.
        let crossed: BTreeMap<usize, Calibration> = parts
            .into_iter()
            .map(|part| (part, self.calibration(held, Some(part))))
            .collect();

        let replay_before = accuracy(input.champion, replay_holdout)?;
        let mut strength = 0.0;
        let mut calibrated = head;
        let mut replay_after = 0.0;
        let uncalibrated = calibrated.clone();
        for tried in STRENGTHS {
            strength = tried;
            calibrated = all.weaker(tried).fold_into(&uncalibrated);
            replay_after = accuracy(&calibrated, replay_holdout)?;
            if replay_after >= replay_before - self.options.replay_tolerance {
                break;
            }
        }
        let calibration = all.weaker(strength);
        let after: Vec<Vec<f64>> = held
            .iter()
            .map(|held| {
                let crossed = crossed.get(&held.part).unwrap_or(&calibration);
                crossed.weaker(strength).apply(&held.challenger)
            })
            .collect();
        let before: Vec<&[f64]> = held.iter().map(|held| held.champion.as_slice()).collect();

        let gains = held.iter().zip(before.iter().zip(&after));
        let gain = self.balanced(gains.map(|(held, (before, after))| {
            let label = self.samples[held.sample].label();
            let loss = |logits: &[f64]| cross_entropy(logits, label).min(LOSS_CAP);
            (held.sample, loss(before) - loss(after))
        }));
        // By rising probability of the label; only few of them are looked at.
        let mut order: Vec<(f64, usize)> = held
            .iter()
            .zip(&after)
            .map(|(held, after)| {
                let label = self.samples[held.sample].label();
                (cross_entropy(after, label), held.sample)
            })
            .collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (diagnoses, suspects) = self.doubtful(order);
        let after: Vec<&[f64]> = after.iter().map(Vec::as_slice).collect();
        let measured = Measured {
            method,
            start,
            steps,
            before: self.scores(held, &before),
            after: self.scores(held, &after),
            gain: gain.mean,
            standard_error: gain.standard_error,
            agreement,
            agreement_error,
            replay_before,
            replay_after,
            replay_samples: replay_holdout.len(),
            temperature: calibration.temperature,
            shift: calibration.shift,
            worst: diagnoses,
            suspects,
            curve,
        };
        let finite = [&calibrated.w2, &calibrated.b2]
            .into_iter()
            .flatten()
            .all(|value| value.is_finite());
        if !(finite && measured.gain.is_finite()) {
            return Err(Abort::NotFinite);
        }
        let refusal = gate(&measured, self.options);
        Ok(Evaluation {
            measured,
            head: calibrated,
            refusal,
        })
    }

    /// Champion and challenger, neither of which changes.
    fn compare(
        &self,
        input: &Input,
        challenger: &HeadTensors,
        replay_holdout: &Rows,
    ) -> Result<Measured, Abort> {
        let all = || 0..self.samples.len();
        let mut judged: Vec<usize> = all()
            .filter(|sample| !self.samples[*sample].sample.seen)
            .collect();
        if !self.can_judge(judged.iter().copied()) {
            judged = all().collect();
        }
        let crops = self.crops(&judged);
        let champions = logits(input.champion, &crops)?;
        let challengers = logits(challenger, &crops)?;
        let held: Vec<HeldOutPrediction> = judged
            .iter()
            .zip(champions.into_iter().zip(challengers))
            .map(|(sample, (champion, challenger))| HeldOutPrediction {
                sample: *sample,
                part: 0,
                champion,
                challenger,
            })
            .collect();
        let label = |held: &HeldOutPrediction| self.samples[held.sample].label();
        let gain = self.balanced(held.iter().map(|held| {
            let loss = |logits: &[f64]| cross_entropy(logits, label(held)).min(LOSS_CAP);
            (held.sample, loss(&held.champion) - loss(&held.challenger))
        }));
        let mut order: Vec<(f64, usize)> = held
            .iter()
            .map(|held| (cross_entropy(&held.challenger, label(held)), held.sample))
            .collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (worst, suspects) = self.doubtful(order);
        let (agreement, agreement_error) = self.agreement(input.base)?;
        let groups: BTreeSet<usize> = judged
            .iter()
            .map(|sample| self.samples[*sample].group)
            .collect();
        let before: Vec<&[f64]> = held.iter().map(|held| held.champion.as_slice()).collect();
        let after: Vec<&[f64]> = held.iter().map(|held| held.challenger.as_slice()).collect();
        if !gain.mean.is_finite() {
            return Err(Abort::NotFinite);
        }
        Ok(Measured {
            method: Method::HoldOut {
                groups: groups.len(),
            },
            start: Start::Elsewhere,
            steps: 0,
            curve: Vec::new(),
            before: self.scores(&held, &before),
            after: self.scores(&held, &after),
            gain: gain.mean,
            standard_error: gain.standard_error,
            agreement,
            agreement_error,
            replay_before: accuracy(input.champion, replay_holdout)?,
            replay_after: accuracy(challenger, replay_holdout)?,
            replay_samples: replay_holdout.len(),
            temperature: 1.0,
            shift: vec![0.0; self.classes],
            worst,
            suspects,
        })
    }

    /// The worst of these, which are sorted by falling loss, and those of them
    /// whose label looks wrong.
    fn doubtful(&self, mut order: Vec<(f64, usize)>) -> (Vec<Diagnosis>, Vec<Diagnosis>) {
        let suspicious = order
            .iter()
            .take_while(|(loss, _)| (-loss).exp() < SUSPECT_PROBABILITY)
            .count();
        order.truncate(suspicious.max(WORST));
        let mut diagnoses = self.diagnoses(&order);
        let suspects: Vec<Diagnosis> = diagnoses
            .iter()
            .take(suspicious)
            .filter(|diagnosis| 2 * diagnosis.disagreeing > diagnosis.neighbors)
            .cloned()
            .collect();
        diagnoses.truncate(WORST);
        (diagnoses, suspects)
    }

    /// Of the predictions outside of a part. Every group weighs one.
    fn calibration(&self, held: &[HeldOutPrediction], without: Option<usize>) -> Calibration {
        let mut groups: BTreeMap<usize, usize> = BTreeMap::new();
        for held in held {
            *groups.entry(self.samples[held.sample].group).or_default() += 1;
        }
        let predictions: Vec<(&[f64], usize, f64)> = held
            .iter()
            .filter(|held| without != Some(held.part))
            .map(|held| {
                let sample = &self.samples[held.sample];
                let weight = 1.0 / groups[&sample.group] as f64;
                (held.challenger.as_slice(), sample.label(), weight)
            })
            .collect();
        Calibration::of(&predictions, self.classes)
    }

    fn scores(&self, held: &[HeldOutPrediction], logits: &[&[f64]]) -> Scores {
        let mut confusion = vec![vec![0; self.classes]; self.classes];
        let mut loss = 0.0;
        for (held, logits) in held.iter().zip(logits) {
            let label = self.samples[held.sample].label();
            confusion[label][argmax(logits)] += 1;
            loss += cross_entropy(logits, label).min(LOSS_CAP);
        }
        let samples = held.len();
        let right = (0..self.classes).map(|class| confusion[class][class]).sum();
        Scores {
            samples,
            right,
            accuracy: right as f64 / samples.max(1) as f64,
            interval: wilson(right, samples),
            loss: loss / samples.max(1) as f64,
            confusion,
        }
    }

    /// Of samples with their held-out losses. Neighbors are the samples of
    /// other groups whose crops' features have the highest cosine with this
    /// one's, after the mean of all was taken off.
    fn diagnoses(&self, losses: &[(f64, usize)]) -> Vec<Diagnosis> {
        let number = self.samples.len() as f32;
        let mut mean = vec![0.0; FEATURES];
        for sample in self.samples {
            for (mean, value) in mean.iter_mut().zip(sample.crop()) {
                *mean += value / number;
            }
        }
        let describe = |&(loss, at): &(f64, usize)| {
            let own = &self.samples[at];
            let others = self.samples.iter().filter(|other| other.group != own.group);
            let mut others: Vec<(f32, usize)> = others
                .map(|other| (closeness(own.crop(), other.crop(), &mean), other.label()))
                .collect();
            others.sort_by(|a, b| b.0.total_cmp(&a.0));
            others.truncate(NEIGHBOURS);
            let disagreeing = others.iter().filter(|(_, label)| *label != own.label());
            Diagnosis {
                id: own.sample.id.clone(),
                label: own.label(),
                probability: (-loss).exp(),
                loss,
                disagreeing: disagreeing.count(),
                neighbors: others.len(),
            }
        };
        losses.iter().map(describe).collect()
    }
}

/// The cosine of two features from a mean, but for the length of `own`.
fn closeness(own: &[f32], other: &[f32], mean: &[f32]) -> f32 {
    let (mut product, mut square) = (0.0, 0.0);
    for ((own, other), mean) in own.iter().zip(other).zip(mean) {
        product += (own - mean) * (other - mean);
        square += (other - mean) * (other - mean);
    }
    product / square.sqrt().max(f32::MIN_POSITIVE)
}

/// The share of rows that a head tells right.
fn accuracy(head: &HeadTensors, rows: &Rows) -> Result<f64, Abort> {
    let logits = logits(head, &rows.features)?;
    let right = logits
        .iter()
        .zip(&rows.labels)
        .filter(|(logits, label)| argmax(logits) == **label);
    Ok(right.count() as f64 / rows.len() as f64)
}

/// Why a head is accepted.
fn told_by(measured: &Measured) -> String {
    let (before, after) = (&measured.before, &measured.after);
    format!(
        "the new head tells {} of {} held-out samples right, the last one told {}, and its loss \
         is {:.3} lower",
        after.right, after.samples, before.right, measured.gain
    )
}

impl Evaluation {
    fn into_fit(self, mut outcome: Outcome, samples: &[Usable], split: &Split) -> Fit {
        let Evaluation {
            measured,
            head,
            refusal,
        } = self;
        outcome.advice = advice(&outcome.counts, samples, Some(&measured));
        let reason = told_by(&measured);
        outcome.measured = Some(measured);
        if let Some(refusal) = refusal {
            return refused(outcome, refusal);
        }
        outcome.reason = reason;
        let learned = samples.iter().zip(&split.parts);
        outcome.learned = learned
            .filter(|(_, part)| split.learns(**part))
            .map(|(sample, _)| sample.sample.id.clone())
            .collect();
        Fit {
            outcome,
            head: Some(head),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Features that tell the classes, 0 the mask and 1 the bare face.
    const SIGNAL: usize = 40;
    /// Features that the device's camera lights up whatever it sees.
    const GLARE: usize = 30;

    /// A world of two classes and two cameras. Class 0 lights up the first
    /// features, class 1 the next; on the device the contrast is lower and the
    /// features of class 0 are dim, so that a head of old calls most of its
    /// pictures class 1.
    struct World {
        random: ChaCha8Rng,
        labels: Vec<String>,
        base: HeadTensors,
        replay: Replay,
    }

    impl World {
        fn new(seed: u64) -> World {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let train = rows(&mut random, 120, false);
            let holdout = rows(&mut random, 200, false);
            let options = TrainOptions {
                hidden: 8,
                init_lr: 1e-3,
                seed,
                ..TrainOptions::default()
            };
            let mut trainer = Trainer::new(2, options).unwrap();
            for _ in 0..200 {
                trainer.step(&train.features, &train.labels).unwrap();
            }
            let labels = vec!["mask".to_owned(), "bare".to_owned()];
            World {
                base: trainer.tensors(),
                replay: Replay {
                    backbone_sha256: [0; 32],
                    labels: labels.clone(),
                    train,
                    holdout,
                },
                labels,
                random,
            }
        }

        /// So many samples of each class, each of its own track.
        fn samples(&mut self, of_each: usize) -> Vec<Sample> {
            let rows = rows(&mut self.random, 2 * of_each, true);
            let crops = rows
                .features
                .as_chunks::<FEATURES>()
                .0
                .iter()
                .zip(&rows.labels);
            crops
                .enumerate()
                .map(|(at, (features, label))| Sample {
                    id: format!("crop {at}"),
                    label: *label,
                    track: format!("track {at}"),
                    day: "2026-01-02".to_owned(),
                    features: features.to_vec(),
                    seen: false,
                })
                .collect()
        }

        fn fit(&self, samples: &[Sample], options: &Options) -> Fit {
            let input = Input {
                labels: &self.labels,
                champion: &self.base,
                base: &self.base,
                samples,
                replay: &self.replay,
            };
            fit(&input, options, &|| false).unwrap()
        }

        fn refusal(&self, samples: &[Sample]) -> Refusal {
            let fit = self.fit(samples, &options());
            assert_eq!(fit.head, None);
            match fit.outcome.ruling {
                Ruling::Refused(refusal) => {
                    assert_eq!(fit.outcome.reason, refusal.to_string());
                    refusal
                }
                Ruling::Accepted => panic!("it was accepted"),
            }
        }
    }

    fn options() -> Options {
        Options {
            steps: 120,
            learning_rate: 1e-3,
            ..Options::default()
        }
    }

    /// Rows of both classes by turns.
    fn rows(random: &mut ChaCha8Rng, count: usize, device: bool) -> Rows {
        let mut rows = Rows::default();
        for at in 0..count {
            let label = at % 2;
            let features: Vec<f32> = (0..FEATURES)
                .map(|feature| {
                    let noise = 2.0 * random.random::<f32>();
                    let of_class = feature / SIGNAL;
                    let dim = if device && of_class == 0 { 0.45 } else { 1.0 };
                    match of_class {
                        0 | 1 if of_class == label => dim * (0.6 + noise),
                        0 | 1 => dim * noise,
                        _ if feature < 2 * SIGNAL + GLARE => f32::from(u8::from(device)) + noise,
                        _ => 0.2 * noise,
                    }
                })
                .collect();
            rows.push(&features, label);
        }
        rows
    }

    fn right(head: &HeadTensors, rows: &Rows) -> f64 {
        accuracy(head, rows).unwrap_or(0.0)
    }

    #[test]
    fn a_few_crops_of_a_new_camera_are_learned_and_nothing_is_forgotten() {
        let mut accepted = 0;
        for seed in 0..6 {
            let mut world = World::new(seed);
            let test = rows(&mut world.random, 400, true);
            let samples = world.samples(10);
            let before = right(&world.base, &test);
            assert!(before < 0.85, "the camera is no challenge: {before}");
            let fit = world.fit(&samples, &options());
            let measured = fit.outcome.measured.unwrap();
            assert_eq!(measured.method, Method::CrossValidation { folds: 5 });
            assert_eq!(measured.after.samples, 20);
            if let Some(head) = &fit.head {
                accepted += 1;
                assert_eq!(fit.outcome.ruling, Ruling::Accepted);
                assert_eq!(fit.outcome.learned.len(), 20);
                let after = right(head, &test);
                assert!(after > before + 0.03, "{before} {after}");
                let old = right(head, &world.replay.holdout);
                assert_eq!(old, measured.replay_after);
                assert!(old >= measured.replay_before - options().replay_tolerance);
            }
        }
        assert!(accepted >= 5, "only {accepted} of 6 were accepted");
    }

    #[test]
    fn wrong_labels_do_not_make_a_worse_head() {
        for (share, seed) in [0.1, 0.3, 0.5]
            .into_iter()
            .flat_map(|share| (0..6).map(move |seed| (share, seed)))
        {
            let mut world = World::new(100 + seed);
            let test = rows(&mut world.random, 400, true);
            let mut samples = world.samples([5, 10, 20][seed as usize % 3]);
            for sample in &mut samples {
                if world.random.random::<f64>() < share {
                    sample.label = 1 - sample.label;
                }
            }
            let fit = world.fit(&samples, &options());
            if let Some(head) = &fit.head {
                let (before, after) = (right(&world.base, &test), right(head, &test));
                assert!(after >= before - 0.02, "{share} {seed}: {before} {after}");
            }
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        let mut world = World::new(1);
        assert_eq!(world.refusal(&[]), Refusal::NoSamples);
        let samples = world.samples(6);
        let masks: Vec<Sample> = samples
            .iter()
            .filter(|sample| sample.label == 0)
            .cloned()
            .collect();
        let label = "mask".to_owned();
        assert_eq!(world.refusal(&masks), Refusal::OneClass { label });
        let one_each = &samples[..2];
        let refusal = world.refusal(one_each);
        assert!(
            matches!(
                refusal,
                Refusal::TooFewGroups {
                    groups: 1,
                    needed: 2,
                    ..
                }
            ),
            "{refusal}"
        );
        // Many crops of one person are one track.
        let mut one_track = samples.clone();
        for sample in &mut one_track {
            sample.track = format!("class {}", sample.label);
        }
        let refusal = world.refusal(&one_track);
        assert!(
            matches!(refusal, Refusal::TooFewGroups { groups: 1, .. }),
            "{refusal}"
        );
        let advice = world.fit(&one_track, &options()).outcome.advice;
        assert!(
            advice
                .iter()
                .any(|advice| matches!(advice, Advice::MoreTracks { groups: 1, .. }))
        );
        assert!(
            advice
                .iter()
                .any(|advice| matches!(advice, Advice::AnotherDay { .. }))
        );
    }

    #[test]
    fn samples_that_cannot_be_used_are_left_out_and_named() {
        let mut world = World::new(2);
        let mut samples = world.samples(8);
        samples[3].features[700] = f32::NAN;
        samples[4].features.pop();
        samples[5].features.clear();
        samples[6].label = 2;
        let fit = world.fit(&samples, &options());
        let left_out: Vec<(&str, Unusable)> = fit
            .outcome
            .left_out
            .iter()
            .map(|left_out| (left_out.id.as_str(), left_out.why))
            .collect();
        let expected = [
            ("crop 3", Unusable::NotFinite),
            ("crop 4", Unusable::Size),
            ("crop 5", Unusable::Size),
            ("crop 6", Unusable::Label),
        ];
        assert_eq!(left_out, expected);
        assert_eq!(fit.outcome.measured.unwrap().after.samples, 12);
    }

    #[test]
    fn the_same_seed_gives_the_same_bits() {
        let mut world = World::new(3);
        let samples = world.samples(10);
        let first = world.fit(&samples, &options());
        assert!(first.head.is_some(), "{}", first.outcome.reason);
        assert_eq!(first, world.fit(&samples, &options()));
        let other = Options {
            seed: 43,
            ..options()
        };
        assert_ne!(first.head, world.fit(&samples, &other).head);
    }

    #[test]
    fn an_outcome_survives_json() {
        let mut world = World::new(3);
        let samples = world.samples(10);
        for samples in [&samples[..], &samples[..2]] {
            let outcome = world.fit(samples, &options()).outcome;
            let json = serde_json::to_string(&outcome).unwrap();
            let read: Outcome = serde_json::from_str(&json).unwrap();
            // The last digit of a figure may change once on the way.
            let figure = |outcome: &Outcome| outcome.measured.as_ref().map_or(0.0, |m| m.gain);
            assert!((figure(&read) - figure(&outcome)).abs() < 1e-12);
            assert_eq!(read.ruling, outcome.ruling);
            assert_eq!(read.learned, outcome.learned);
            assert_eq!(read.advice, outcome.advice);
            assert_eq!(read.measured.is_some(), outcome.measured.is_some());
        }
    }

    #[test]
    fn it_stops_when_it_is_cancelled() {
        let mut world = World::new(4);
        let samples = world.samples(5);
        let input = Input {
            labels: &world.labels,
            champion: &world.base,
            base: &world.base,
            samples: &samples,
            replay: &world.replay,
        };
        let asked = std::cell::Cell::new(0);
        let cancelled = || {
            asked.set(asked.get() + 1);
            asked.get() > 30
        };
        assert_eq!(
            fit(&input, &options(), &cancelled),
            Err(RefitError::Cancelled)
        );
        assert_eq!(asked.get(), 31);
    }

    #[test]
    fn numbers_that_are_not_finite_never_become_a_head() {
        let mut world = World::new(5);
        let samples = world.samples(5);
        let options = Options {
            learning_rate: 1e30,
            ..options()
        };
        let fit = world.fit(&samples, &options);
        assert_eq!(fit.head, None);
        assert_eq!(fit.outcome.ruling, Ruling::Refused(Refusal::NotFinite));
    }

    #[test]
    fn input_that_does_not_fit_is_an_error() {
        let mut world = World::new(6);
        let samples = world.samples(2);
        let input = Input {
            labels: &world.labels,
            champion: &world.base,
            base: &world.base,
            samples: &samples,
            replay: &world.replay,
        };
        let refused =
            |input: &Input, options: &Options| fit(input, options, &|| false).unwrap_err();
        let three: Vec<String> = ["mask", "bare", "chin"].map(str::to_owned).to_vec();
        let error = refused(
            &Input {
                labels: &three,
                ..input
            },
            &options(),
        );
        assert!(matches!(error, RefitError::Head { .. }), "{error}");
        let others: Vec<String> = ["a", "b"].map(str::to_owned).to_vec();
        let error = refused(
            &Input {
                labels: &others,
                ..input
            },
            &options(),
        );
        assert!(matches!(error, RefitError::Replay(_)), "{error}");
        for wrong in [
            Options {
                steps: 0,
                ..options()
            },
            Options {
                folds: 1,
                ..options()
            },
            Options {
                new_share: f32::NAN,
                ..options()
            },
            Options {
                new_share: 0.8,
                device_share: 0.7,
                ..options()
            },
            Options {
                feature_dropout: 1.0,
                ..options()
            },
            Options {
                min_gain: f64::NAN,
                ..options()
            },
            Options {
                replay_tolerance: -0.1,
                ..options()
            },
        ] {
            let error = refused(&input, &wrong);
            assert!(matches!(error, RefitError::Options(_)), "{error}");
        }
    }

    #[test]
    fn a_wrong_label_is_pointed_at() {
        let mut world = World::new(7);
        let mut samples = world.samples(20);
        for sample in &mut samples {
            for feature in &mut sample.features[SIGNAL * sample.label..][..SIGNAL] {
                *feature += 1.5;
            }
        }
        samples[8].label = 1 - samples[8].label;
        let outcome = world.fit(&samples, &options()).outcome;
        let measured = outcome.measured.unwrap();
        assert_eq!(measured.worst[0].id, "crop 8");
        let suspects: Vec<&str> = measured
            .suspects
            .iter()
            .map(|suspect| suspect.id.as_str())
            .collect();
        assert_eq!(suspects, ["crop 8"]);
        assert!(
            outcome
                .advice
                .contains(&Advice::CheckLabels { suspects: 1 })
        );
    }

    #[test]
    fn a_champion_is_not_judged_by_what_it_learned() {
        let mut world = World::new(8);
        let mut samples = world.samples(12);
        for sample in &mut samples[..14] {
            sample.seen = true;
        }
        let measured = world.fit(&samples, &options()).outcome.measured.unwrap();
        assert_eq!(measured.before.samples, 10);
        for sample in &mut samples {
            sample.seen = true;
        }
        let measured = world.fit(&samples, &options()).outcome.measured.unwrap();
        assert_eq!(measured.before.samples, 24);
    }

    #[test]
    fn a_head_from_elsewhere_is_judged_by_own_samples() {
        let mut world = World::new(8);
        let theirs = world.samples(12);
        let learned = world.fit(&theirs, &options()).head.unwrap();
        let own = world.samples(12);
        let asked = |challenger: &HeadTensors, champion: &HeadTensors, own: &[Sample]| {
            let input = Input {
                labels: &world.labels,
                champion,
                base: &world.base,
                samples: own,
                replay: &world.replay,
            };
            let options = Options {
                min_gain: 0.01,
                ..options()
            };
            judge(&input, challenger, &options, &|| false)
        };
        let judged = |challenger: &HeadTensors, champion: &HeadTensors, own: &[Sample]| {
            asked(challenger, champion, own).unwrap()
        };
        let base = &world.base;
        let outcome = judged(&learned, base, &own);
        assert_eq!(outcome.ruling, Ruling::Accepted, "{}", outcome.reason);
        assert_eq!(outcome.measured.unwrap().start, Start::Elsewhere);
        // The other way round, and no change at all.
        for champion in [&learned, base] {
            let outcome = judged(base, champion, &own);
            let no_gain = matches!(outcome.ruling, Ruling::Refused(Refusal::NoGain { .. }));
            assert!(no_gain, "{}", outcome.reason);
        }
        let mut spoilt = learned.clone();
        spoilt.b2[0] = f32::NAN;
        let refused = asked(&spoilt, base, &own).unwrap_err();
        assert!(refused.to_string().contains("not finite"), "{refused}");
        let outcome = judged(&learned, base, &[]);
        assert_eq!(outcome.ruling, Ruling::Refused(Refusal::NoSamples));
        let outcome = judged(&learned, base, &own[..1]);
        assert_ne!(outcome.ruling, Ruling::Accepted, "one sample is no ground");
    }

    #[test]
    fn a_spoilt_champion_is_not_gone_on_from() {
        let mut world = World::new(9);
        let samples = world.samples(10);
        let mut champion = world.base.clone();
        champion.b2[0] += 30.0;
        let input = Input {
            labels: &world.labels,
            champion: &champion,
            base: &world.base,
            samples: &samples,
            replay: &world.replay,
        };
        let outcome = fit(&input, &options(), &|| false).unwrap().outcome;
        assert_eq!(outcome.ruling, Ruling::Accepted, "{}", outcome.reason);
        assert_eq!(outcome.measured.unwrap().start, Start::Base);
    }

    #[test]
    fn many_tracks_have_a_lasting_hold_out() {
        let mut world = World::new(10);
        let samples = world.samples(60);
        let options = Options {
            holdout_groups: 5,
            ..options()
        };
        let fit = world.fit(&samples, &options);
        let measured = fit.outcome.measured.unwrap();
        let Method::HoldOut { groups } = measured.method else {
            panic!("{:?}", measured.method);
        };
        assert_eq!(measured.after.samples, groups);
        assert_eq!(fit.outcome.learned.len(), 120 - groups);
    }

    #[test]
    fn a_new_class_grows_the_head_and_is_learned() {
        let mut world = World::new(11);
        let grown = ["mask", "chin", "bare"].map(str::to_owned).to_vec();
        let head = grow(&world.base, &world.labels, &grown).unwrap();
        // Nothing that was known is told otherwise.
        let before = logits(&world.base, &world.replay.holdout.features).unwrap_or_default();
        let after = logits(&head, &world.replay.holdout.features).unwrap_or_default();
        assert_eq!(before.len(), after.len());
        for (before, after) in before.iter().zip(&after) {
            assert_eq!([before[0], before[1]], [after[0], after[2]]);
            assert!(after[1] < after[0].max(after[2]) - f64::from(NEWCOMER) + 1e-3);
        }

        let mut samples = world.samples(10);
        for (at, sample) in samples.iter_mut().enumerate() {
            sample.label *= 2;
            if at % 4 < 2 {
                sample.label = 1;
                for feature in &mut sample.features[600..700] {
                    *feature += 2.0;
                }
            }
        }
        let input = Input {
            labels: &grown,
            champion: &head,
            base: &head,
            samples: &samples,
            replay: &world.replay,
        };
        let outcome = fit(&input, &options(), &|| false).unwrap().outcome;
        assert_eq!(outcome.ruling, Ruling::Accepted, "{}", outcome.reason);
        let measured = outcome.measured.unwrap();
        assert_eq!(measured.before.confusion[1][1], 0);
        assert!(measured.after.confusion[1][1] >= 5, "{:?}", measured.after);

        assert!(grow(&world.base, &world.labels, &grown[..2]).is_err());
        assert!(grow(&world.base, &grown, &grown).is_err());
    }

    /// What speaks for a head by a wide margin.
    fn good() -> Measured {
        let scores = |right| Scores {
            samples: 20,
            right,
            accuracy: right as f64 / 20.0,
            interval: wilson(right, 20),
            loss: 0.5,
            confusion: vec![vec![right, 20 - right], vec![0, 0]],
        };
        Measured {
            method: Method::CrossValidation { folds: 5 },
            start: Start::Champion,
            steps: 300,
            before: scores(14),
            after: scores(18),
            gain: 0.4,
            standard_error: 0.1,
            agreement: 0.95,
            agreement_error: 0.13,
            replay_before: 0.99,
            replay_after: 0.988,
            replay_samples: 300,
            temperature: 1.0,
            shift: vec![0.0; 2],
            worst: Vec::new(),
            suspects: Vec::new(),
            curve: Vec::new(),
        }
    }

    #[test]
    fn the_gate_asks_for_everything_at_once() {
        let ruling = |change: fn(&mut Measured)| {
            let mut measured = good();
            change(&mut measured);
            gate(&measured, &Options::default())
        };
        assert_eq!(ruling(|_| {}), None);
        let surer = Options {
            min_sigmas: 5.0,
            ..Options::default()
        };
        let refusal = gate(&good(), &surer);
        assert!(matches!(refusal, Some(Refusal::NoGain { needed: 0.5, .. })));
        assert!(matches!(
            ruling(|m| m.agreement = 0.6),
            Some(Refusal::LabelsDisagree { .. })
        ));
        assert!(matches!(
            ruling(|m| m.gain = -0.001),
            Some(Refusal::NoGain { .. })
        ));
        assert!(matches!(
            ruling(|m| m.replay_after = 0.95),
            Some(Refusal::Forgets { .. })
        ));
        let less = ruling(|m| {
            m.after.right = 11;
            m.after.accuracy = 0.55;
        });
        assert_eq!(
            less,
            Some(Refusal::LessAccurate {
                before: 14,
                after: 11
            })
        );
        let suspicious = ruling(|m| {
            let suspect = Diagnosis {
                id: String::new(),
                label: 0,
                probability: 0.1,
                loss: 2.3,
                disagreeing: 5,
                neighbors: 5,
            };
            m.suspects = vec![suspect; 5];
        });
        assert_eq!(
            suspicious,
            Some(Refusal::LabelsLookWrong {
                suspects: 5,
                samples: 20
            })
        );
    }

    #[test]
    fn calibration_finds_temperature_and_shift_and_needs_evidence() {
        assert_eq!(Calibration::of(&[], 2).shift.len(), 2);
        let nothing = Calibration::of(&[], 2);
        assert!((nothing.temperature - 1.0).abs() < 1e-3, "{nothing:?}");
        assert!(
            nothing.shift.iter().all(|shift| shift.abs() < 1e-3),
            "{nothing:?}"
        );

        // Logits three times too large and 2 too high for class 0.
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let drawn: Vec<(Vec<f64>, usize)> = (0..2000)
            .map(|_| {
                let z = 6.0 * random.random::<f64>() - 3.0;
                let p = 1.0 / (1.0 + (-z).exp());
                let label = usize::from(random.random::<f64>() >= p);
                (vec![3.0 * (z + 2.0), 0.0], label)
            })
            .collect();
        let fitted = |count: usize| {
            let some: Vec<(&[f64], usize, f64)> = drawn[..count]
                .iter()
                .map(|(logits, label)| (logits.as_slice(), *label, 1.0))
                .collect();
            Calibration::of(&some, 2)
        };
        let many = fitted(2000);
        assert!((many.temperature - 3.0).abs() < 0.5, "{many:?}");
        assert!(
            (many.shift[1] - many.shift[0] - 2.0).abs() < 0.4,
            "{many:?}"
        );
        let few = fitted(6);
        assert!(few.temperature < many.temperature);
        assert!(few.shift[1] - few.shift[0] < many.shift[1] - many.shift[0]);
    }

    #[test]
    fn a_calibration_is_folded_into_the_last_layer() {
        let world = World::new(12);
        let calibration = Calibration {
            temperature: 1.7,
            shift: vec![0.4, -0.4],
        };
        let features = &world.replay.holdout.features[..5 * FEATURES];
        let plain = logits(&world.base, features).unwrap_or_default();
        let folded = logits(&calibration.fold_into(&world.base), features).unwrap_or_default();
        assert_eq!(folded.len(), 5);
        for (plain, folded) in plain.iter().zip(&folded) {
            for (expected, found) in calibration.apply(plain).iter().zip(folded) {
                assert!((expected - found).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn variants_of_a_crop_are_seeded() {
        let pixels = image::RgbImage::from_fn(224, 224, |x, y| image::Rgb([x as u8, y as u8, 90]));
        let crop = Crop::from_image(pixels).unwrap();
        let views = variants(&crop, 1);
        assert_eq!(views.len(), VARIANTS);
        assert_eq!(views, variants(&crop, 1));
        assert_ne!(views, variants(&crop, 2));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_split_divides_no_group_and_keeps_its_hold_out(
            crops in prop::collection::vec((0_usize..3, 0_u8..90, 0_u8..3), 1..300),
            kept in 1_usize..300,
        ) {
            let samples: Vec<Sample> = crops
                .iter()
                .enumerate()
                .map(|(at, (label, track, day))| Sample {
                    id: at.to_string(),
                    label: *label,
                    track: track.to_string(),
                    day: day.to_string(),
                    features: vec![0.0; FEATURES],
                    seen: false,
                })
                .collect();
            let labels: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
            let world = Replay {
                backbone_sha256: [0; 32],
                labels: labels.clone(),
                train: Rows::default(),
                holdout: Rows::default(),
            };
            let head = HeadTensors { w1: Vec::new(), b1: Vec::new(), w2: Vec::new(), b2: Vec::new() };
            let parts = |samples: &[Sample]| {
                let input = Input { labels: &labels, champion: &head, base: &head, samples, replay: &world };
                let (usable, left_out) = usable(&input);
                assert_eq!(left_out.len(), 0);
                split(&usable, 3, &Options::default())
            };
            let all = parts(&samples);
            let mut of_group = BTreeMap::new();
            for (sample, part) in samples.iter().zip(&all.parts) {
                let first = of_group.entry((&sample.day, &sample.track)).or_insert(*part);
                prop_assert_eq!(*first, *part);
            }
            if let Method::CrossValidation { folds } = all.method {
                prop_assert!(all.parts.iter().all(|part| part.is_some_and(|part| part < folds)));
            }
            let some = parts(&samples[..kept.min(samples.len())]);
            if let (Method::HoldOut { .. }, Method::HoldOut { .. }) = (all.method, some.method) {
                for (before, after) in some.parts.iter().zip(&all.parts) {
                    prop_assert_eq!(before.is_some(), after.is_some());
                }
            }
        }
    }
}
