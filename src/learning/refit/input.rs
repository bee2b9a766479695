//! The input to a refit, and the checks that decide whether it can be used.
//!
//! This module checks heads, samples, and the replay set, and groups the
//! samples. If a head or the replay set is invalid, the caller gets an error.
//! If a sample is invalid, it is skipped and listed in the outcome.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::near_duplicates::{self, GroupedCrop};
use super::options::HoldOutOptions;
use super::outcome::{ClassCount, Refusal, SkipReason, SkippedSample};
use super::{MIN_GROUPS, RefitError};
use crate::learning::replay::{Replay, Rows};
use crate::onnx::HeadTensors;
use crate::training::train::{TrainOptions, Trainer};

/// A labeled crop from the device's own camera.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The id that identifies the sample in the outcome.
    pub id: String,
    /// Index of the sample's label in the list of labels.
    pub label: usize,
    /// The track that the crop comes from. Crops of one track and one `day` are in the same
    /// group.
    pub track: String,
    /// The day on which the sample was captured.
    pub day: String,
    /// Features `[rows, features]` in row-major order. The first row is the
    /// crop itself, and the others are its variants.
    pub features: Vec<f32>,
    /// Whether the champion was trained on this sample with this label. The champion is
    /// not evaluated on such samples if there are enough others.
    pub seen: bool,
}

/// The input of a refit.
#[derive(Debug, Clone, Copy)]
pub struct RefitInput<'a> {
    /// Names of the classes, in the order of the outputs of `champion` and `base`.
    pub labels: &'a [String],
    /// The names of the classes that count as masked. All others count as not masked.
    pub masked_labels: &'a [String],
    /// The head in use. If it has fewer classes than `labels`, use [`grow`](super::grow) first.
    pub champion: &'a HeadTensors,
    /// The classes that `champion` had before it was grown. They are a subset of `labels`.
    pub champion_labels: &'a [String],
    /// The head that the device started with. If it has fewer classes than
    /// `labels`, use [`grow`](super::grow) first.
    pub base: &'a HeadTensors,
    /// The classes that `base` had before it was grown. They are a subset of
    /// `labels`.
    pub base_labels: &'a [String],
    /// Labeled crops, with features computed by the backbone that `champion` and `base` use.
    pub samples: &'a [Sample],
    /// Features of the pictures that the head must not forget, with labels from `labels`. `None` if
    /// there is no replay set for this backbone and these labels. In that case, nothing protects
    /// against forgetting.
    pub replay: Option<&'a Replay>,
}

impl<'a> RefitInput<'a> {
    /// Checks the input and returns the replay rows to train on and the replay
    /// rows to evaluate on. Both are empty if there is no replay set. They are borrowed from the
    /// replay set if its labels have the same indices as in the head, because the rows take
    /// megabytes.
    ///
    /// # Errors
    /// Returns [`RefitError::Head`] if a head does not match the labels, and [`RefitError::Replay`]
    /// if the replay set cannot be used.
    pub(super) fn checked(&self) -> Result<(Cow<'a, Rows>, Cow<'a, Rows>), RefitError> {
        check_head("head in use", self.champion, self)?;
        check_head("built-in head", self.base, self)?;
        match self.replay {
            None => Ok((Cow::default(), Cow::default())),
            Some(replay) => Ok((
                self.renumbered(replay, &replay.train)?,
                self.renumbered(replay, &replay.holdout)?,
            )),
        }
    }

    /// Returns the length of the feature vectors.
    pub(super) fn features(&self) -> usize {
        self.base.features()
    }

    /// Returns the replay rows with each label replaced by its index in the
    /// head.
    fn renumbered(&self, replay: &Replay, rows: &'a Rows) -> Result<Cow<'a, Rows>, RefitError> {
        let fail = |problem: &str| Err(RefitError::Replay(problem.to_owned()));
        if rows.is_empty() {
            return fail("it has no rows to train on, or none to evaluate on");
        }
        if rows.features.len() != rows.len() * self.features() {
            return fail("its rows do not have as many features as the head's input");
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
            Some(labels) if labels == rows.labels => Ok(Cow::Borrowed(rows)),
            Some(labels) => Ok(Cow::Owned(Rows {
                features: rows.features.clone(),
                labels,
            })),
            None => fail("it has a class that the head does not have"),
        }
    }

    /// Returns the usable samples with their groups, and the skipped samples. `replay` are rows
    /// to train on, with which distances between samples are compared.
    ///
    /// # Errors
    /// Returns [`RefitError::Cancelled`].
    pub(super) fn grouped(
        &self,
        replay: &Rows,
        options: &HoldOutOptions,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(Vec<GroupedSample<'_>>, Vec<SkippedSample>), RefitError> {
        let mut samples = Vec::new();
        let mut skipped = Vec::new();
        let mut groups: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        let width = self.features();
        for sample in self.samples {
            let features = &sample.features;
            let reason = if features.is_empty() || !features.len().is_multiple_of(width) {
                SkipReason::Size
            } else if features.iter().any(|value| !value.is_finite()) {
                SkipReason::NotFinite
            } else if sample.label >= self.labels.len() {
                SkipReason::Label
            } else {
                let next = groups.len();
                let key = (sample.day.as_str(), sample.track.as_str());
                let group = *groups.entry(key).or_insert(next);
                samples.push(GroupedSample {
                    sample,
                    group,
                    seen: false,
                    width,
                });
                continue;
            };
            skipped.push(SkippedSample {
                id: sample.id.clone(),
                reason,
            });
        }
        let crops: Vec<GroupedCrop> = samples
            .iter()
            .map(|sample| GroupedCrop {
                features: sample.crop(),
                label: sample.label(),
                group: sample.group,
            })
            .collect();
        let threshold = near_duplicates::threshold(replay, options.near_duplicate);
        let groups = near_duplicates::join(&crops, threshold, cancelled)
            .map_err(|near_duplicates::Canceled| RefitError::Cancelled)?;
        for (sample, group) in samples.iter_mut().zip(groups) {
            sample.group = group;
        }
        let seen: BTreeSet<usize> = samples
            .iter()
            .filter(|sample| sample.sample.seen)
            .map(|sample| sample.group)
            .collect();
        for sample in &mut samples {
            sample.seen = seen.contains(&sample.group);
        }
        Ok((samples, skipped))
    }
}

/// Checks that a head's tensors match its labels and are finite, and that the head has the
/// same input as the base head. The error message refers to the head as `head`.
pub(super) fn check_head(
    head: &'static str,
    tensors: &HeadTensors,
    input: &RefitInput,
) -> Result<(), RefitError> {
    let fail = |problem: String| Err(RefitError::Head { head, problem });
    if tensors.features() != input.features() {
        let (own, needed) = (tensors.features(), input.features());
        return fail(format!("it has {own} inputs instead of {needed}"));
    }
    if tensors.b2.len() != input.labels.len() {
        let (outputs, labels) = (tensors.b2.len(), input.labels.len());
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
    /// Index of the sample's group. A group consists of one track on one day, together with the
    /// tracks that have near-duplicates of its crops.
    pub(super) group: usize,
    /// Whether the champion was trained on a sample of this group.
    pub(super) seen: bool,
    /// Length of a feature vector.
    pub(super) width: usize,
}

impl GroupedSample<'_> {
    pub(super) fn label(&self) -> usize {
        self.sample.label
    }

    /// Returns the features of the crop itself.
    pub(super) fn crop(&self) -> &[f32] {
        self.row(0)
    }

    pub(super) fn rows(&self) -> usize {
        self.sample.features.len() / self.width
    }

    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.sample.features[row * self.width..][..self.width]
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

/// Returns the reason for a refusal if there are too few samples to train on.
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
