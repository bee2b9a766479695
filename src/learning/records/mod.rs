//! The records of learning: the types behind the JSON of the command line and
//! the API.
//!
//! Owns their shape, which is a documented contract (`docs/openapi.json`), and
//! the conversions from the types that do the work. Knows nothing of HTTP.

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

use crate::learning::heads::{HeadInfo, Stored};
use crate::learning::samples::{
    Exported, Imported, Listing, Removed, Sample, SampleKind, TrackKey,
};
pub(crate) use crate::onnx::UNLABELLED;
use crate::onnx::{Label, LabelError};

/// Key of a head's metadata: the [`OutcomeRecord`] of the refit that made it, as
/// JSON.
pub(super) const OUTCOME: &str = "refit";

/// What to do with samples.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LabelAction {
    /// Give them this label.
    As(String),
    /// Take their label away.
    Unlabelled,
    /// Delete picture and features.
    Discard,
}

/// Which samples a request is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SampleSelector {
    /// Those with these ids.
    Ids(Vec<String>),
    /// The unlabeled ones of the newest track with this number.
    Track(u64),
}

/// The result of labeling samples.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LabelResult {
    /// Ids that were changed.
    pub done: Vec<String>,
    /// Ids that had the label before.
    pub already: Vec<String>,
    /// Ids that were not changed, and why.
    pub failed: BTreeMap<String, String>,
}

impl LabelResult {
    pub(super) fn fail(&mut self, id: String, reason: impl std::fmt::Display) {
        self.failed.insert(id, reason.to_string());
    }
}

/// An enrollment: while it lasts, the daemon labels the crops of whoever stands
/// in front of the camera.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Enrollment {
    /// Number of the enrollment since the daemon started, from 1.
    pub id: u64,
    /// The label of the crops.
    pub label: String,
    /// Crops that were asked for.
    pub wanted: u32,
    /// Crops that were taken so far.
    pub taken: u32,
    /// Of those, crops that are on disk with their label.
    pub stored: u32,
}

impl Enrollment {
    /// Whether all crops were taken.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.taken >= self.wanted
    }
}

/// A sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SampleRecord {
    /// Name of its file, without the extension.
    pub id: String,
    /// Its label; absent if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// UTC day of capture, `YYYY-MM-DD`.
    pub day: String,
    /// Samples of one track are near-duplicates.
    pub track: String,
    /// Whether a picture was kept.
    pub picture: bool,
    /// Whether there are features.
    pub features: bool,
    /// Bytes of picture and features.
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
            bytes: sample.bytes + sample.feature_bytes,
        }
    }
}

/// The samples of a listing as records.
pub(crate) fn records(listing: &Listing) -> Vec<SampleRecord> {
    listing.samples.iter().map(SampleRecord::new).collect()
}

pub(super) fn track_name(key: &TrackKey) -> String {
    match key {
        TrackKey::Day { track, .. } | TrackKey::Undated(track) => format!("t{track:06}"),
        TrackKey::Alone(id) => id.clone(),
    }
}

/// What there is of one label.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CountRecord {
    /// Samples with this label.
    pub samples: usize,
    /// Of those, samples of which only features were kept.
    pub feature_only: usize,
    /// Bytes of pictures and features.
    pub bytes: u64,
}

/// Counts by label; samples without a label are under [`UNLABELLED`].
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

/// The inverse of [`name_of`].
pub(super) fn label_of(name: &str) -> Result<Option<Label>, LabelError> {
    match name {
        UNLABELLED => Ok(None),
        name => Label::new(name).map(Some),
    }
}

/// The result of an import.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportRecord {
    /// New samples by label.
    pub added: BTreeMap<String, usize>,
    /// Pictures that the store had before.
    pub already: usize,
    /// Pictures that the store has with another label, which they keep.
    pub other_label: Vec<PathBuf>,
    /// Pictures that cannot be used, and why.
    pub unreadable: Vec<(PathBuf, String)>,
    /// Files in a label's folder that are not pictures.
    pub ignored: Vec<PathBuf>,
}

impl From<Imported> for ImportRecord {
    fn from(imported: Imported) -> ImportRecord {
        ImportRecord {
            added: by_name(imported.added),
            already: imported.already,
            other_label: imported.other_label,
            unreadable: imported.unreadable,
            ignored: imported.ignored,
        }
    }
}

/// The result of an export.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportRecord {
    /// Pictures that were written, by label.
    pub written: BTreeMap<String, usize>,
    /// Pictures that were there before.
    pub already: usize,
    /// Samples without a picture.
    pub feature_only: usize,
    /// Files of the same name with another content, which stay unchanged.
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

/// Which samples to delete permanently. Unknown keys are refused: a typo must
/// not delete everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Purge {
    /// Those with this label (`unlabelled` for those without one); absent means
    /// all.
    pub label: Option<String>,
    /// Those older than this many days; absent means any age.
    pub older_than_days: Option<u32>,
}

/// The result of deleting samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemovedRecord {
    /// Deleted samples without a label.
    pub unlabelled: usize,
    /// Deleted samples with a label.
    pub labelled: usize,
    /// Bytes that they took.
    pub bytes: u64,
}

impl From<Removed> for RemovedRecord {
    fn from(removed: Removed) -> RemovedRecord {
        RemovedRecord {
            unlabelled: removed.unlabelled,
            labelled: removed.labelled,
            bytes: removed.bytes,
        }
    }
}

/// The crops that wait for a label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QueueRecord {
    /// Samples without a label.
    pub waiting: usize,
    /// Of those, samples of which only features were kept, so that nobody can
    /// tell what they show.
    pub without_picture: usize,
    /// Groups of near-duplicates, the most useful first.
    pub groups: Vec<GroupRecord>,
}

/// Crops that are near-duplicates of each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GroupRecord {
    /// How much a label of the first would teach, 0 to 1.
    pub usefulness: f64,
    /// At least one, the most useful first.
    pub samples: Vec<QueuedRecord>,
}

/// A crop that waits for a label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QueuedRecord {
    /// Id of the sample.
    pub id: String,
    /// UTC day of capture, `YYYY-MM-DD`.
    pub day: String,
    /// The track that it was cut from.
    pub track: String,
    /// The probability that the model in use gives each label, 0 to 1; empty if
    /// there are no features yet.
    pub probabilities: BTreeMap<String, f64>,
}

/// A model of the state directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HeadRecord {
    /// Numbers count up from 1 in the order of storing.
    pub number: u32,
    /// Whether it is in use.
    pub current: bool,
    /// Its labels; empty if it is damaged.
    pub labels: Vec<String>,
    /// The model that it was made from; absent means the built-in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<u32>,
    /// How it was made: `refit`, `fleet`, `tutorial`, `robust`.
    pub recipe: String,
    /// The refit that made it; absent if none did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<OutcomeRecord>,
    /// What is wrong with its file; absent if nothing is.
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

/// The outcome of the refit that made a head, if one did.
pub(super) fn outcome_of(stored: &Stored) -> Option<OutcomeRecord> {
    serde_json::from_str(stored.metadata.get(OUTCOME)?).ok()
}

/// The result of training on this device, or of trying another device's model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RefitRecord {
    /// What was found, and what the gate decided.
    pub outcome: OutcomeRecord,
    /// The number of the new model; absent if it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<u32>,
    /// Labeled samples that could not be used, and why.
    pub unusable: BTreeMap<String, String>,
    /// Labels with too few samples to become a class, with their samples.
    pub small_classes: BTreeMap<String, usize>,
}
