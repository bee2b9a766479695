//! The records of learning, which are the types that define the JSON of the command
//! line and the API.
//!
//! This module defines their shape, which is a documented contract
//! (`docs/openapi.json`), and converts the internal types to records. It knows
//! nothing about HTTP.

mod outcome;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use outcome::{
    AdviceRecord, ClassCountRecord, CurvePointRecord, DecisionRecord, HardExampleRecord,
    InitialHeadRecord, MeasuredRecord, OutcomeRecord, RefusalRecord, ScoresRecord,
    SkipReasonRecord, SkippedRecord, ValidationRecord,
};

use crate::frame::names::Unused;
use crate::learning::heads::{HeadInfo, Stored};
use crate::learning::samples::{Exported, Imported, Listing, Sample, SampleKind, TrackKey};
pub(crate) use crate::onnx::UNLABELLED;
use crate::onnx::{Label, LabelError};

/// Metadata key of a head. The value is the [`OutcomeRecord`] of the refit that
/// made the head, as JSON.
pub(super) const OUTCOME: &str = "refit";

/// The action to apply to samples.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LabelAction {
    /// Give them this label.
    As(String),
    /// Remove their label.
    Unlabelled,
    /// Delete their pictures and features.
    Discard,
}

/// The samples that a request applies to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SampleSelector {
    /// The samples with these ids.
    Ids(Vec<String>),
    /// The unlabeled samples of the newest track with this number.
    Track(u64),
}

/// The result of labeling samples.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LabelResult {
    /// Ids of the samples that were changed.
    pub done: Vec<String>,
    /// Ids of the samples that already had the label.
    pub already: Vec<String>,
    /// Ids of the samples that were not changed, with the reasons.
    pub failed: BTreeMap<String, String>,
}

impl LabelResult {
    pub(super) fn fail(&mut self, id: String, reason: impl std::fmt::Display) {
        self.failed.insert(id, reason.to_string());
    }
}

/// An enrollment. While it lasts, the daemon captures crops of the person in
/// front of the camera and labels them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Enrollment {
    /// Number of the enrollment since the daemon started, starting at 1.
    pub id: u64,
    /// Label for the captured crops.
    pub label: String,
    /// Number of crops requested.
    pub wanted: u32,
    /// Number of crops taken so far.
    pub taken: u32,
    /// Number of taken crops that are on disk with their label.
    pub stored: u32,
}

impl Enrollment {
    /// Whether all crops were taken.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.taken >= self.wanted
    }
}

/// A sample, which is a stored face picture, or only the features of one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SampleRecord {
    /// Id of the sample, which is its file name without the extension.
    pub id: String,
    /// Label of the sample. Absent if the sample has no label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// UTC day of capture, `YYYY-MM-DD`.
    pub day: String,
    /// Track of the sample. Samples of the same track are near-duplicates.
    pub track: String,
    /// Whether the sample has a picture.
    pub picture: bool,
    /// Whether the sample has features.
    pub features: bool,
    /// Size of the picture and the features, in bytes.
    pub bytes: u64,
}

impl SampleRecord {
    fn new(sample: &Sample) -> SampleRecord {
        SampleRecord {
            id: sample.id.clone(),
            label: sample.label.as_ref().map(ToString::to_string),
            day: sample.day.clone(),
            track: track_name(&sample.track),
            picture: sample.kind == SampleKind::Picture,
            features: sample.has_features(),
            bytes: sample.size(),
        }
    }
}

/// Converts the samples in a listing to records.
pub(crate) fn records(listing: &Listing) -> Vec<SampleRecord> {
    listing.samples.iter().map(SampleRecord::new).collect()
}

pub(super) fn track_name(key: &TrackKey) -> String {
    match key {
        TrackKey::Day { track, .. } | TrackKey::Undated(track) => format!("t{track:06}"),
        TrackKey::Alone(id) => id.clone(),
    }
}

/// Number and total size of the samples with the same label.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CountRecord {
    /// Number of samples with this label.
    pub samples: usize,
    /// Number of these samples that have features but no picture.
    pub feature_only: usize,
    /// Total size of their pictures and features, in bytes.
    pub bytes: u64,
}

/// Counts the samples in a listing by label. Samples without a label are
/// counted under [`UNLABELLED`].
pub(crate) fn counts(listing: &Listing) -> BTreeMap<String, CountRecord> {
    let labels = listing.stats().labels.into_iter();
    labels
        .map(|(label, count)| {
            let record = CountRecord {
                samples: count.samples,
                feature_only: count.feature_only,
                bytes: count.bytes,
            };
            (name_of(label.as_ref()), record)
        })
        .collect()
}

fn name_of(label: Option<&Label>) -> String {
    label.map_or(UNLABELLED.to_owned(), ToString::to_string)
}

/// Returns the label for a name from [`name_of`], which is `None` for samples
/// without a label.
pub(super) fn label_of(name: &str) -> Result<Option<Label>, LabelError> {
    match name {
        UNLABELLED => Ok(None),
        name => Label::new(name).map(Some),
    }
}

/// The result of an import.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportRecord {
    /// Number of new samples by label.
    pub added: BTreeMap<String, usize>,
    /// Number of pictures that were already in the store.
    pub already: usize,
    /// Pictures that are already in the store with another label, which they
    /// keep.
    pub other_label: Vec<PathBuf>,
    /// Pictures that cannot be used, with the reasons.
    pub unreadable: Vec<(PathBuf, String)>,
    /// Files and folders that were skipped, with the reasons.
    pub ignored: Vec<UnusedRecord>,
}

impl From<Imported> for ImportRecord {
    fn from(imported: Imported) -> ImportRecord {
        ImportRecord {
            added: by_name(imported.added),
            already: imported.already,
            other_label: imported.other_label,
            unreadable: imported.unreadable,
            ignored: imported.ignored.into_iter().map(Into::into).collect(),
        }
    }
}

/// The result of an export.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportRecord {
    /// Number of pictures that were written, by label.
    pub written: BTreeMap<String, usize>,
    /// Number of pictures that already existed in the folder.
    pub already: usize,
    /// Number of samples without a picture.
    pub feature_only: usize,
    /// Existing files with the same name but different content, which stay
    /// unchanged.
    pub taken: Vec<PathBuf>,
}

impl From<Exported> for ExportRecord {
    fn from(exported: Exported) -> ExportRecord {
        ExportRecord {
            written: by_name(exported.written),
            already: exported.already,
            feature_only: exported.feature_only,
            taken: exported.taken,
        }
    }
}

fn by_name(counts: BTreeMap<Option<Label>, usize>) -> BTreeMap<String, usize> {
    let counts = counts.into_iter();
    counts
        .map(|(label, count)| (name_of(label.as_ref()), count))
        .collect()
}

/// Which samples to delete permanently. Unknown keys are refused so that a typo
/// cannot delete everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Purge {
    /// Delete samples with this label, or samples without a label if the value
    /// is `unlabelled`. Absent means any label.
    pub label: Option<String>,
    /// Delete samples that are older than this many days. Absent means any age.
    pub older_than_days: Option<u32>,
}

/// The result of deleting samples.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemovedRecord {
    /// Number of deleted samples without a label.
    pub unlabelled: usize,
    /// Number of deleted samples with a label.
    pub labelled: usize,
    /// Size of the deleted samples, in bytes.
    pub bytes: u64,
    /// Whether ages counted only the time that the daemon ran, because the clock is
    /// not synchronized.
    #[serde(default)]
    pub by_running_time: bool,
    /// What is left in the folders, because it is not a sample. It may show faces.
    #[serde(default)]
    pub left: Vec<UnusedRecord>,
}

/// A file or folder that is not used as a sample or as a picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnusedRecord {
    /// Its path.
    #[schema(value_type = String)]
    pub path: PathBuf,
    /// Why it is not used, and what to do about it.
    pub why: String,
}

impl From<Unused> for UnusedRecord {
    fn from(Unused { path, why }: Unused) -> UnusedRecord {
        UnusedRecord { path, why }
    }
}

impl From<UnusedRecord> for Unused {
    fn from(UnusedRecord { path, why }: UnusedRecord) -> Unused {
        Unused { path, why }
    }
}

/// The crops that are waiting for a label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QueueRecord {
    /// Number of samples without a label.
    pub waiting: usize,
    /// Number of these samples that have features but no picture, so a person
    /// cannot see what they show.
    pub without_picture: usize,
    /// Groups of near-duplicates, most useful group first.
    pub groups: Vec<GroupRecord>,
}

/// Crops that are near-duplicates of each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GroupRecord {
    /// How useful it would be to label the first sample, between 0 and 1.
    pub usefulness: f64,
    /// The samples of the group, most useful first. There is at least one
    /// sample.
    pub samples: Vec<QueuedRecord>,
}

/// A crop that is waiting for a label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QueuedRecord {
    /// Id of the sample.
    pub id: String,
    /// UTC day of capture, `YYYY-MM-DD`.
    pub day: String,
    /// The track that the crop comes from.
    pub track: String,
    /// The probability of each label according to the model in use, between 0
    /// and 1. Empty if the sample has no features yet.
    pub probabilities: BTreeMap<String, f64>,
}

/// A model in the state directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HeadRecord {
    /// Number of the model. Models are numbered in the order in which they are
    /// stored, starting at 1.
    pub number: u32,
    /// Whether the model is in use.
    pub current: bool,
    /// Labels of the model. Empty if the model is damaged.
    pub labels: Vec<String>,
    /// Number of the model that was in use when this model was stored. Absent
    /// means the built-in model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<u32>,
    /// How the model was made: `refit`, `fleet`, `tutorial`, or `robust`.
    pub recipe: String,
    /// Outcome of the refit that made the model. Absent if it was not made by a
    /// refit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<OutcomeRecord>,
    /// What is wrong with the file of the model. Absent if the file is intact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

impl From<HeadInfo> for HeadRecord {
    fn from(info: HeadInfo) -> HeadRecord {
        match info.stored {
            Ok(stored) => HeadRecord {
                number: info.number,
                current: info.is_current,
                parent: stored.parent(),
                recipe: stored.metadata.get("recipe").cloned().unwrap_or_default(),
                outcome: outcome_of(&stored),
                labels: stored.file.labels,
                damage: None,
            },
            Err(error) => HeadRecord {
                number: info.number,
                current: info.is_current,
                labels: Vec::new(),
                parent: None,
                recipe: String::new(),
                outcome: None,
                damage: Some(error.to_string()),
            },
        }
    }
}

/// The outcome of the refit that made a head, or `None` if it was not made by a
/// refit.
pub(super) fn outcome_of(stored: &Stored) -> Option<OutcomeRecord> {
    serde_json::from_str(stored.metadata.get(OUTCOME)?).ok()
}

/// The result of training on this device, or of trying another device's model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RefitRecord {
    /// The measurements, and the decision whether to use the new model.
    pub outcome: OutcomeRecord,
    /// Number of the new model. Absent if the new model was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<u32>,
    /// Labeled samples that could not be used, with the reasons.
    pub unusable: BTreeMap<String, String>,
    /// Labels with too few samples to become a class, with the number of their
    /// samples.
    pub small_classes: BTreeMap<String, usize>,
}
