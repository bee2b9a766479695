//! What a refit is made of, and whether it can be used.
//!
//! Owns the checks of heads, samples and replay set, and the grouping of
//! samples. A head or replay set that does not fit is an error of the caller; a
//! sample that does not fit is skipped and named.

use std::collections::{BTreeMap, BTreeSet};

use super::outcome::{ClassCount, Refusal, SkipReason, SkippedSample};
use super::{MIN_GROUPS, RefitError};
use crate::learning::replay::{Replay, Rows};
use crate::onnx::{FEATURES, HeadTensors};
use crate::training::train::{TrainOptions, Trainer};

/// A labeled crop of the device's own camera.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Names the sample in the outcome.
    pub id: String,
    /// Number of its class.
    pub label: usize,
    /// The track that it was cut from; with `day` it makes the sample's group.
    pub track: String,
    /// The day on which it was captured.
    pub day: String,
    /// `[rows, FEATURES]`, row by row: the crop itself, then its variants.
    pub features: Vec<f32>,
    /// Whether the champion learned from it, with this label. Such samples do
    /// not judge the champion as long as there are enough others.
    pub seen: bool,
}

/// What a refit is made of.
#[derive(Debug, Clone, Copy)]
pub struct RefitInput<'a> {
    /// Names of the classes, in the order of both heads' outputs.
    pub labels: &'a [String],
    /// The head in use.
    pub champion: &'a HeadTensors,
    /// The head that the device began with; see [`grow`](super::grow) if it has
    /// fewer classes.
    pub base: &'a HeadTensors,
    /// The classes of `base` before it was grown, some of `labels`.
    pub base_labels: &'a [String],
    /// Labeled crops, with features by the backbone of both heads.
    pub samples: &'a [Sample],
    /// Features of what must not be forgotten, with labels among `labels`.
    /// `None` if there are none for this backbone and these labels: then
    /// nothing protects against forgetting.
    pub replay: Option<&'a Replay>,
}

impl RefitInput<'_> {
    /// The replay rows to learn from and those to judge by, without rows if
    /// there is no replay set.
    ///
    /// # Errors
    /// [`RefitError::Head`], [`RefitError::Replay`].
    pub(super) fn checked(&self) -> Result<(Rows, Rows), RefitError> {
        check_head("head in use", self.champion, self.labels)?;
        check_head("built-in head", self.base, self.labels)?;
        match self.replay {
            None => Ok((Rows::default(), Rows::default())),
            Some(replay) => Ok((
                self.renumbered(replay, &replay.train)?,
                self.renumbered(replay, &replay.holdout)?,
            )),
        }
    }

    /// Replay rows with the numbers that their labels have in the head.
    fn renumbered(&self, replay: &Replay, rows: &Rows) -> Result<Rows, RefitError> {
        let fail = |problem: &str| Err(RefitError::Replay(problem.to_owned()));
        if rows.is_empty() || rows.features.len() != rows.len() * FEATURES {
            return fail("it has no rows to learn from, or none to judge by");
        }
        if rows.features.iter().any(|value| !value.is_finite()) {
            return fail("a feature is not a finite number");
        }
        let number = |label: &usize| {
            let name = replay.labels.get(*label)?;
            self.labels.iter().position(|label| label == name)
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

    /// The samples that can be used, with their groups, and the others.
    pub(super) fn grouped(&self) -> (Vec<GroupedSample<'_>>, Vec<SkippedSample>) {
        let mut samples = Vec::new();
        let mut skipped = Vec::new();
        let mut groups: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for sample in self.samples {
            let features = &sample.features;
            let reason = if features.is_empty() || !features.len().is_multiple_of(FEATURES) {
                SkipReason::Size
            } else if features.iter().any(|value| !value.is_finite()) {
                SkipReason::NotFinite
            } else if sample.label >= self.labels.len() {
                SkipReason::Label
            } else {
                let next = groups.len();
                let key = (sample.day.as_str(), sample.track.as_str());
                let group = *groups.entry(key).or_insert(next);
                samples.push(GroupedSample { sample, group });
                continue;
            };
            skipped.push(SkippedSample {
                id: sample.id.clone(),
                reason,
            });
        }
        (samples, skipped)
    }
}

/// Checks that a head's tensors fit its labels and are finite; `head` names it
/// in the error.
pub(super) fn check_head(
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

/// A sample that can be used.
pub(super) struct GroupedSample<'a> {
    pub(super) sample: &'a Sample,
    /// Number of its group: a track within a day.
    pub(super) group: usize,
}

impl GroupedSample<'_> {
    pub(super) fn label(&self) -> usize {
        self.sample.label
    }

    /// The features of the crop itself.
    pub(super) fn crop(&self) -> &[f32] {
        self.row(0)
    }

    pub(super) fn rows(&self) -> usize {
        self.sample.features.len() / FEATURES
    }

    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.sample.features[row * FEATURES..][..FEATURES]
    }
}

pub(super) fn class_counts(samples: &[GroupedSample], labels: &[String]) -> Vec<ClassCount> {
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

/// Why these samples are too few to learn from, if they are.
pub(super) fn too_few(counts: &[ClassCount]) -> Option<Refusal> {
    let present: Vec<&ClassCount> = counts.iter().filter(|count| count.samples > 0).collect();
    match present.as_slice() {
        [] => Some(Refusal::NoSamples),
        [one] => Some(Refusal::OneClass {
            label: one.label.clone(),
        }),
        _ => {
            let fewest = present.iter().min_by_key(|count| count.groups)?;
            (fewest.groups < MIN_GROUPS).then(|| Refusal::TooFewGroups {
                label: fewest.label.clone(),
                groups: fewest.groups,
                needed: MIN_GROUPS,
            })
        }
    }
}
