//! The types that describe samples, listings, and their statistics.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::MAX_COUNTED_BYTES;
use super::error::StoreError;
use super::name::{self, TrackKey};
use crate::frame::Crop;
use crate::frame::quality::Quality;
use crate::onnx::Label;
use crate::vision::embed::Feature;

/// Which data was kept for a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SampleKind {
    /// Only the features were kept, so the sample's file is a feature file.
    FeatureOnly,
    /// The picture was kept, so the sample's file is a picture file.
    Picture,
}

/// A sample on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Id of the sample, which is the name of its file without the extension.
    pub id: String,
    /// The label, which is the name of the sample's folder, or `None` in the folder
    /// `unlabelled`.
    pub label: Option<Label>,
    /// Key of the track. Samples with the same key stay together when samples are split.
    pub track: TrackKey,
    /// UTC day of capture, such as `2026-11-24`. If the name does not contain the day,
    /// this is the day when the file was last changed.
    pub day: String,
    /// Time of capture, or `None` if the name does not contain the time.
    pub at: Option<SystemTime>,
    /// When the file was last changed.
    pub modified: SystemTime,
    /// Whether the file is a picture or features.
    pub kind: SampleKind,
    /// Path of the file.
    pub path: PathBuf,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// Length of the feature file that belongs to the picture, in bytes, or 0 if there
    /// is no such file.
    pub feature_bytes: u64,
    /// Disk space that is allocated for both files, in bytes. It may differ from the
    /// sum of the lengths.
    pub disk_bytes: u64,
}

impl Sample {
    /// Returns the time of capture if the name contains this time, and otherwise the
    /// time when the file was last changed.
    #[must_use]
    pub fn when(&self) -> SystemTime {
        self.at.unwrap_or(self.modified)
    }

    /// Returns [`when`](Sample::when) in UTC, such as `2026-11-24T10:15:30Z`.
    pub(crate) fn time(&self) -> String {
        name::utc(self.when())
    }

    /// Whether the file is too large to be a crop, which means that a person must have
    /// put it there.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.bytes > MAX_COUNTED_BYTES
    }

    /// Whether there is a feature file, which may be damaged.
    #[must_use]
    pub fn has_features(&self) -> bool {
        self.kind == SampleKind::FeatureOnly || self.feature_bytes > 0
    }

    /// Returns the total length of the sample's files in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.bytes.saturating_add(self.feature_bytes)
    }

    /// Returns a key that ranks the files that share an id. The highest-ranking file is
    /// used. Files that were changed later rank higher. Ties are broken in favor of a file
    /// with a label, then a picture, then the first path in sort order.
    pub(super) fn rank(&self) -> impl Ord + use<'_> {
        let labelled = self.label.is_some();
        (self.modified, labelled, self.kind, Reverse(&self.path))
    }

    pub(super) fn file_name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }
}

/// Several files that share an id, because a person copied a file or put files with the
/// same name into two folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DuplicateId {
    /// The id that the files share.
    pub id: String,
    /// The file that is used because it was changed last.
    pub used: PathBuf,
    /// The other files, sorted.
    pub passed_over: Vec<PathBuf>,
}

/// The contents of the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The samples, sorted by id. Each id appears once.
    pub samples: Vec<Sample>,
    /// Ids with several files, sorted.
    pub duplicates: Vec<DuplicateId>,
    /// Visible entries that are not samples, sorted. These are links, subfolders, folders
    /// whose names cannot be labels, and files that are not named like pictures.
    pub ignored: Vec<PathBuf>,
}

impl Listing {
    /// Computes the counts of these samples.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for sample in &self.samples {
            let count = stats.labels.entry(sample.label.clone()).or_default();
            count.samples += 1;
            count.bytes = count.bytes.saturating_add(sample.disk_bytes);
            count.with_features += usize::from(sample.has_features());
            count.feature_only += usize::from(sample.kind == SampleKind::FeatureOnly);
            let when = sample.when();
            stats.oldest = Some(stats.oldest.map_or(when, |oldest| oldest.min(when)));
            stats.newest = Some(stats.newest.map_or(when, |newest| newest.max(when)));
        }
        stats
    }
}

/// Counts of the samples in a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Counts by label; `None` stands for samples without a label. Labels without samples
    /// are not included.
    pub labels: BTreeMap<Option<Label>, Count>,
    /// [`Sample::when`] of the oldest sample.
    pub oldest: Option<SystemTime>,
    /// [`Sample::when`] of the newest sample.
    pub newest: Option<SystemTime>,
}

impl Stats {
    /// Returns the sum of the counts over all labels.
    #[must_use]
    pub fn total(&self) -> Count {
        self.labels
            .values()
            .fold(Count::default(), |sum, count| Count {
                samples: sum.samples + count.samples,
                bytes: sum.bytes.saturating_add(count.bytes),
                with_features: sum.with_features + count.with_features,
                feature_only: sum.feature_only + count.feature_only,
            })
    }
}

/// Counts of the samples with one label.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Number of samples.
    pub samples: usize,
    /// Disk space that the samples and their features take up, in bytes.
    pub bytes: u64,
    /// Number of samples with features.
    pub with_features: usize,
    /// Number of samples for which only features were kept.
    pub feature_only: usize,
}

/// The result of labeling one sample.
#[derive(Debug)]
pub enum Labelled {
    /// The sample now has the label, and the change is durable on disk.
    Done,
    /// The sample already had the label.
    Already,
    /// The sample does not exist, or no longer exists.
    Missing,
    /// Another picture with this name already has the label. Nothing was changed.
    Taken,
    /// The sample has been labeled differently since. Nothing was changed. Only
    /// [`Store::label_back`](super::Store::label_back) returns this.
    Changed,
    /// A file operation failed. Nothing was changed.
    Failed(StoreError),
}

/// The result of restoring one discarded sample.
#[derive(Debug)]
pub enum Restored {
    /// The sample is back in the folder of its label, and the change is durable on disk.
    Done,
    /// The sample was not discarded, or has been deleted for good.
    Missing,
    /// Another sample has this id, or another file has this name. Nothing was changed.
    Taken,
    /// A file operation failed. Nothing was changed.
    Failed(StoreError),
}

/// The samples that must be deleted because of their age.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expired {
    /// Ids of samples.
    pub samples: HashSet<String>,
    /// Ids of discarded samples.
    pub discarded: HashSet<String>,
}

/// The result of discarding one sample.
#[derive(Debug)]
pub enum Discarded {
    /// The picture was moved to the trash, and its features were deleted.
    Done,
    /// The sample does not exist, or no longer exists.
    Missing,
    /// A different discarded picture has this id and had this label. Nothing was changed.
    Taken,
    /// A file operation failed.
    Failed(StoreError),
}

/// Selects samples by label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelFilter {
    /// Samples with and without labels.
    All,
    /// Samples without a label.
    Unlabelled,
    /// Samples with this label.
    Labelled(Label),
    /// Samples that were discarded, with and without labels, and no others.
    Discarded,
}

impl LabelFilter {
    /// Whether the label of a sample, or the label that a discarded sample had, matches.
    pub(super) fn matches(&self, sample: &Sample) -> bool {
        match self {
            LabelFilter::All | LabelFilter::Discarded => true,
            LabelFilter::Unlabelled => sample.label.is_none(),
            LabelFilter::Labelled(label) => sample.label.as_ref() == Some(label),
        }
    }
}

/// Counts of what was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Number of deleted files without a label.
    pub unlabelled: usize,
    /// Number of deleted files with a label.
    pub labelled: usize,
    /// Number of deleted files that had been discarded before. They are not counted in
    /// the other numbers.
    pub discarded: usize,
    /// Disk space that the deleted files and their features took up, in bytes.
    pub bytes: u64,
}

impl Removed {
    pub(super) fn add(&mut self, sample: &Sample, is_discarded: bool) {
        match sample.label {
            _ if is_discarded => self.discarded += 1,
            Some(_) => self.labelled += 1,
            None => self.unlabelled += 1,
        }
        self.bytes = self.bytes.saturating_add(sample.disk_bytes);
    }
}

/// The result of [`Store::prune`](super::Store::prune).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// What was deleted.
    pub removed: Removed,
    /// Disk space that the remaining samples and discarded samples take up, in bytes, except
    /// for the files in `not_counted`.
    pub bytes: u64,
    /// The part of `bytes` that belongs to labeled samples.
    pub labelled_bytes: u64,
    /// Number of files that are not counted because they are too large to be crops.
    pub not_counted: usize,
}

/// The result of adding a crop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// Id of the sample.
    pub id: String,
    /// Whether the sample is new. Otherwise, the store already had the same crop, with any
    /// label, or among the discarded samples.
    pub is_new: bool,
}

/// A crop to store.
#[derive(Debug, Clone, Copy)]
pub struct NewSample<'a> {
    /// Time of capture.
    pub at: SystemTime,
    /// Number of the track. Numbering starts over each time the program starts.
    pub track: u64,
    /// Number of the crop within its track.
    pub number: u32,
    /// The label of the crop, if it is already known.
    pub label: Option<&'a Label>,
    /// The picture, or `None` if only features are to be kept.
    pub crop: Option<&'a Crop>,
    /// The quality of the picture, which is stored with the picture. If it is absent, it
    /// can be measured later, except for the place of the face in its frame.
    pub quality: Option<&'a Quality>,
    /// The features of the crop.
    pub feature: &'a Feature,
    /// SHA-256 of the backbone that computed the features.
    pub backbone: [u8; 32],
}
