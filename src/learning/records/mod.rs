//! The records of learning, which are the types that define the JSON of the command
//! line and the API.
//!
//! This module defines the shape of the records, which is a documented contract
//! (`docs/openapi.json`), and converts the internal types to records. It knows nothing about HTTP.

mod outcome;
mod progress;
mod switch;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

pub use outcome::{
    AdaptationRecord, AdviceRecord, ClassCountRecord, CurvePointRecord, DecisionRecord,
    HardExampleRecord, InitialHeadRecord, MeasuredRecord, OutcomeRecord, RefusalRecord,
    ScoresRecord, SkipReasonRecord, SkippedRecord, ValidationRecord,
};

pub use progress::ProgressRecord;
pub(crate) use progress::{progress, progress_sentence};
pub use switch::{Channel, SwitchCause, SwitchRecord};

use crate::frame::names::Unused;
use crate::frame::quality::{Flaw, Quality};
use crate::learning::heads::{HeadInfo, Stored};
use crate::learning::samples::{Exported, Imported, Listing, Sample, SampleKind, TrackKey};
pub(crate) use crate::onnx::UNLABELLED;
use crate::onnx::{Label, LabelError};
use crate::vision::head::Head;

/// Metadata key of a head. The value is the [`OutcomeRecord`] of the refit that
/// made the head, as JSON.
pub(super) const OUTCOME: &str = "refit";

/// The number that stands for the base head, which is the built-in head or the head of the
/// configured classifier. Stored heads are numbered starting at 1.
pub(super) const BUILT_IN: u32 = 0;

/// The action to apply to samples.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LabelAction {
    /// Give the samples this label.
    As(String),
    /// Remove the labels of the samples.
    Unlabelled,
    /// Move the pictures of the samples to the trash, from which they can be restored for a
    /// while, and delete the features.
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
    /// Number of the action, with which it can be taken back. Absent if no label changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<u64>,
}

/// The result of taking a labeling action back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UndoRecord {
    /// Number of the action that was taken back.
    pub action: u64,
    /// What the action had done.
    pub mark: LabelAction,
    /// Ids of the samples that have the label again that they had before the action.
    pub done: Vec<String>,
    /// Ids of the samples that were not changed, because they no longer are as the action
    /// left them, or no longer exist.
    pub changed: Vec<String>,
    /// Ids of the samples that could not be changed, with the reasons.
    pub failed: BTreeMap<String, String>,
}

impl LabelResult {
    pub(super) fn fail(&mut self, id: String, reason: impl fmt::Display) {
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

/// A reason why a picture is obviously useless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FlawRecord {
    /// The face has too few pixels.
    Small,
    /// The picture shows no detail.
    Blurred,
    /// There is hardly any light.
    Dark,
    /// Much of the face is outside the frame.
    CutOff,
    /// The picture shows no face.
    NoFace,
}

impl From<Flaw> for FlawRecord {
    fn from(flaw: Flaw) -> FlawRecord {
        match flaw {
            Flaw::Small => FlawRecord::Small,
            Flaw::Blurred => FlawRecord::Blurred,
            Flaw::Dark => FlawRecord::Dark,
            Flaw::CutOff => FlawRecord::CutOff,
            Flaw::NoFace => FlawRecord::NoFace,
        }
    }
}

impl fmt::Display for FlawRecord {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            FlawRecord::Small => "small",
            FlawRecord::Blurred => "blurred",
            FlawRecord::Dark => "dark",
            FlawRecord::CutOff => "cut off",
            FlawRecord::NoFace => "no face",
        })
    }
}

/// Selects samples by the quality of their pictures. Samples without a picture are never
/// selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum QualityFilter {
    /// Pictures without a flaw.
    Good,
    /// Pictures with any flaw.
    Bad,
    /// Pictures of faces with too few pixels.
    Small,
    /// Pictures without detail.
    Blurred,
    /// Pictures with hardly any light.
    Dark,
    /// Pictures of faces that are mostly outside the frame.
    CutOff,
    /// Pictures that show no face.
    NoFace,
}

impl FromStr for QualityFilter {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<QualityFilter, &'static str> {
        let name = Value::String(text.to_owned());
        serde_json::from_value(name)
            .map_err(|_| "use good, bad, small, blurred, dark, cut-off, or no-face")
    }
}

impl QualityFilter {
    pub(super) fn accepts(self, flaws: &[FlawRecord]) -> bool {
        let flaw = match self {
            QualityFilter::Good => return flaws.is_empty(),
            QualityFilter::Bad => return !flaws.is_empty(),
            QualityFilter::Small => FlawRecord::Small,
            QualityFilter::Blurred => FlawRecord::Blurred,
            QualityFilter::Dark => FlawRecord::Dark,
            QualityFilter::CutOff => FlawRecord::CutOff,
            QualityFilter::NoFace => FlawRecord::NoFace,
        };
        flaws.contains(&flaw)
    }
}

/// Which samples to list. A sample is listed if it matches every value that is present.
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent parameters of a query"
)]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SampleFilter {
    /// Only samples whose ID starts with this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Only samples with this label, or samples without a label if the value is
    /// `unlabelled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Only samples for which the model in use predicts this label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted: Option<String>,
    /// Only samples whose label looked wrong to the last training, and has not been
    /// changed since.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub suspect: bool,
    /// Only the held-out samples with which the last training had the most difficulty, if
    /// their label has not been changed since.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub worst: bool,
    /// Only samples of tracks with this number. Numbers start over when the daemon starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub track: Option<u64>,
    /// Only samples of this UTC day, `YYYY-MM-DD`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<String>,
    /// Only samples of this quality.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(inline)]
    pub quality: Option<QualityFilter>,
    /// Whether to list the discarded samples that can still be restored, instead of the
    /// other samples.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub discarded: bool,
    /// Whether to return what the model in use predicts. This takes longer, because the
    /// features of every listed sample are read. Predictions are always returned if
    /// `predicted` is present.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub predictions: bool,
    /// The order of the samples. If absent, they are ordered by ID.
    #[serde(skip_serializing_if = "SampleOrder::is_default")]
    #[param(inline)]
    pub order: SampleOrder,
    /// How many of the matching samples to leave out at the beginning of the list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<usize>,
    /// Maximum number of samples to list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// The order of a list of samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SampleOrder {
    /// Ordered by ID.
    #[default]
    Id,
    /// Ordered by label, beginning with the samples without a label. The newest samples of
    /// a label come first.
    Label,
}

impl SampleOrder {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    fn is_default(&self) -> bool {
        *self == SampleOrder::default()
    }
}

/// A part of the samples that a filter selects.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplePage {
    /// Number of samples that match, regardless of `offset` and `limit`.
    pub total: usize,
    /// The samples from `offset` on, at most `limit`.
    pub samples: Vec<SampleRecord>,
}

impl SampleFilter {
    /// Selects the samples with this label, or all samples if there is none.
    #[must_use]
    pub fn with_label(label: Option<&str>) -> SampleFilter {
        SampleFilter {
            label: label.map(str::to_owned),
            ..SampleFilter::default()
        }
    }
}

/// A sample, which is either a stored face picture or only the features of one.
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent facts in a JSON object"
)]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SampleRecord {
    /// Id of the sample, which is its file name without the extension.
    pub id: String,
    /// Label of the sample. Absent if the sample has no label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// UTC day of capture, `YYYY-MM-DD`.
    pub day: String,
    /// UTC time of capture, such as `2026-11-24T10:15:30Z`. If the name of a file does not
    /// contain the time, this is when the file was last changed.
    #[serde(default)]
    pub time: String,
    /// Track of the sample. Samples of the same track are near-duplicates.
    pub track: String,
    /// Whether the sample has a picture.
    pub picture: bool,
    /// Whether the sample has features.
    pub features: bool,
    /// Size of the picture and the features, in bytes.
    pub bytes: u64,
    /// Length of the shorter side of the face, in pixels of the camera's frame. Absent if
    /// it is not known, for example because a person added the picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub face_side: Option<u32>,
    /// Why the picture is obviously useless. Empty for almost all samples, and for samples
    /// without a picture.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flaws: Vec<FlawRecord>,
    /// Whether the label looked wrong to the last training, and has not been changed since.
    #[serde(default)]
    pub suspect: bool,
    /// Whether the sample was held out of the last training, was one of those with which it
    /// had the most difficulty, and still has the same label.
    #[serde(default)]
    pub worst: bool,
    /// The label that the model in use predicts. Absent if the sample has no features, or
    /// if the request does not ask for predictions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<String>,
    /// The probability of `predicted`, between 0 and 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
}

impl SampleRecord {
    pub(super) fn new(sample: &Sample) -> SampleRecord {
        SampleRecord {
            id: sample.id.clone(),
            label: sample.label.as_ref().map(ToString::to_string),
            day: sample.day.clone(),
            time: sample.time(),
            track: track_name(&sample.track),
            picture: sample.kind == SampleKind::Picture,
            features: sample.has_features(),
            bytes: sample.size(),
            face_side: None,
            flaws: Vec::new(),
            suspect: false,
            worst: false,
            predicted: None,
            probability: None,
        }
    }

    pub(super) fn set_quality(&mut self, quality: Option<&Quality>) {
        self.face_side = quality.and_then(face_side);
        self.flaws = flaws(quality);
    }
}

/// Returns the flaws of a picture. There are none if its quality is not known.
pub(super) fn flaws(quality: Option<&Quality>) -> Vec<FlawRecord> {
    let flaws = quality.map_or(Vec::new(), Quality::flaws);
    flaws.into_iter().map(FlawRecord::from).collect()
}

/// Returns the length of the shorter side of a face, in pixels of its frame.
pub(super) fn face_side(quality: &Quality) -> Option<u32> {
    Some(quality.placement?.side.round() as u32)
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
    /// Disk space that their pictures and features take up, in bytes.
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

/// Converts a name from [`name_of`] back to a label. Returns `None` for the name that stands for no
/// label.
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
    /// Pictures that are already in the store with another label. They keep that label.
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
    /// Existing files that have the name of a picture to write, but different content. They stay
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
    /// Delete only samples that were discarded. If this is false, both these and other
    /// samples are deleted.
    #[serde(default)]
    pub discarded: bool,
}

/// The result of deleting samples.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemovedRecord {
    /// Number of deleted samples without a label.
    pub unlabelled: usize,
    /// Number of deleted samples with a label.
    pub labelled: usize,
    /// Number of deleted samples that had been discarded before. They are not counted in the
    /// other numbers.
    #[serde(default)]
    pub discarded: usize,
    /// Disk space that the deleted samples took up, in bytes.
    pub bytes: u64,
    /// Whether ages were computed only from the time during which the daemon ran,
    /// because the clock is not synchronized.
    #[serde(default)]
    pub by_running_time: bool,
    /// Files and folders that were not deleted, because they are not samples. They may
    /// show faces.
    #[serde(default)]
    pub left: Vec<UnusedRecord>,
}

/// A file or folder that is not used as a sample or as a picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnusedRecord {
    /// Path of the file or folder.
    #[schema(value_type = String)]
    pub path: PathBuf,
    /// Why the file or folder is not used, and what to do about it.
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
    /// UTC time of capture, such as `2026-11-24T10:15:30Z`. If the name of a file does not
    /// contain the time, this is when the file was last changed.
    #[serde(default)]
    pub time: String,
    /// The track that the crop comes from.
    pub track: String,
    /// Length of the shorter side of the face, in pixels of the camera's frame. Absent if
    /// it is not known, for example because a person added the picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub face_side: Option<u32>,
    /// The probability of each label according to the model in use, between 0
    /// and 1. Empty if the sample has no features yet.
    pub probabilities: BTreeMap<String, f64>,
    /// Why the picture is obviously useless. Empty for almost all samples.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flaws: Vec<FlawRecord>,
}

/// The built-in model, or a model in the state directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HeadRecord {
    /// Number of the model. Models are numbered in the order in which they are
    /// stored, starting at 1. The built-in model, or the model of the configured
    /// classifier, has the number 0.
    pub number: u32,
    /// Whether the model is in use.
    pub current: bool,
    /// Labels of the model. Empty if the model is damaged.
    pub labels: Vec<String>,
    /// Number of the model that was in use when this model was stored. Absent
    /// means the built-in model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<u32>,
    /// How the model was made: `built-in` for the model with the number 0, or
    /// `refit`, `fleet`, `tutorial`, or `robust`.
    pub recipe: String,
    /// Outcome of the refit that made the model. Absent if it was not made by a
    /// refit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<OutcomeRecord>,
    /// What is wrong with the file of the model. Absent if the file is intact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

impl HeadRecord {
    /// Creates the record of the base head.
    pub(super) fn built_in(base: &Head, is_current: bool) -> HeadRecord {
        HeadRecord {
            number: BUILT_IN,
            current: is_current,
            labels: base.labels().to_vec(),
            parent: None,
            recipe: "built-in".to_owned(),
            outcome: None,
            damage: None,
        }
    }
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

/// The outcome of the refit that made a head, or `None` if the head was not made by a refit.
pub(super) fn outcome_of(stored: &Stored) -> Option<OutcomeRecord> {
    serde_json::from_str(stored.metadata.get(OUTCOME)?).ok()
}

/// The samples and labels of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSummary {
    /// Number of samples by label. Samples without a label are counted under `unlabelled`.
    pub samples: BTreeMap<String, CountRecord>,
    /// Number of labels that were added or changed since the last refit.
    pub new_labels: usize,
    /// The people that are labeled so far, for each class that a refit would train.
    pub progress: Vec<ProgressRecord>,
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
    /// The labeled people when the training started. Empty in records of earlier versions.
    #[serde(default)]
    pub progress: Vec<ProgressRecord>,
}
