//! The types that describe samples, listings and their statistics.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::MAX_COUNTED_BYTES;
use super::error::StoreError;
use super::name::TrackKey;
use crate::frame::Crop;
use crate::onnx::Label;
use crate::vision::embed::Feature;

/// Which data was kept for a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SampleKind {
    /// Only its features; the sample's file is a feature file.
    FeatureOnly,
    /// Its picture; the sample's file is a picture file.
    Picture,
}

/// A sample on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The name of its file without the extension.
    pub id: String,
    /// The label, which is the name of its folder; `None` in the folder `unlabelled`.
    pub label: Option<Label>,
    /// Key of the track. Samples with the same key stay together when samples are split.
    pub track: TrackKey,
    /// UTC day of capture, such as `2026-11-24`; if the name does not contain it, the day
    /// when the file was last changed.
    pub day: String,
    /// Time of capture, if the name contains it.
    pub at: Option<SystemTime>,
    /// When the file was last changed.
    pub modified: SystemTime,
    /// Whether the file is a picture or features.
    pub kind: SampleKind,
    /// Path of the file.
    pub path: PathBuf,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// Length in bytes of the file with the features of the picture; 0 if there is no such
    /// file.
    pub feature_bytes: u64,
    /// Disk space that both files take up, in bytes: the allocated blocks, whatever their
    /// lengths are.
    pub disk_bytes: u64,
}

impl Sample {
    /// Time of capture; if the name does not contain it, the time of the last change.
    #[must_use]
    pub fn when(&self) -> SystemTime {
        self.at.unwrap_or(self.modified)
    }

    /// Whether the file is too large to be a crop, so that a person must have put it
    /// there.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.bytes > MAX_COUNTED_BYTES
    }

    /// Whether there is a feature file, which may be damaged.
    #[must_use]
    pub fn has_features(&self) -> bool {
        self.kind == SampleKind::FeatureOnly || self.feature_bytes > 0
    }

    /// The lengths of its files in bytes, together.
    pub(crate) fn size(&self) -> u64 {
        self.bytes.saturating_add(self.feature_bytes)
    }

    /// Orders the files that share an id; the greatest one is used. The file that was
    /// changed last ranks highest; ties are broken in favor of a file with a label, then a
    /// picture, then the first path in sort order.
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
    /// The file that is used, which is the one changed last.
    pub used: PathBuf,
    /// The other files, sorted.
    pub passed_over: Vec<PathBuf>,
}

/// The contents of the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The samples, sorted by id; each id appears once.
    pub samples: Vec<Sample>,
    /// Ids with several files, sorted.
    pub duplicates: Vec<DuplicateId>,
    /// Entries that are neither samples nor hidden, sorted: folders whose names cannot be
    /// labels, links, subfolders, and files that are not named like pictures.
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
            count.bytes = count.bytes.saturating_add(sample.size());
            count.with_features += usize::from(sample.has_features());
            count.feature_only += usize::from(sample.kind == SampleKind::FeatureOnly);
            let when = sample.when();
            stats.oldest = Some(stats.oldest.map_or(when, |oldest| oldest.min(when)));
            stats.newest = Some(stats.newest.map_or(when, |newest| newest.max(when)));
        }
        stats
    }
}

/// Counts of a store.
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
    /// The sum over all labels.
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

/// Counts of one label.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Number of samples.
    pub samples: usize,
    /// Total size of their files and features in bytes.
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
    /// Another picture with this name already has the label; nothing was changed.
    Taken,
    /// A file operation failed; nothing was changed.
    Failed(StoreError),
}

/// The result of discarding one sample.
#[derive(Debug)]
pub enum Discarded {
    /// The picture and its features were deleted.
    Done,
    /// The sample does not exist, or no longer exists.
    Missing,
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
}

/// Counts of what was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Number of deleted files without a label.
    pub unlabelled: usize,
    /// Number of deleted files with a label.
    pub labelled: usize,
    /// Total size of the deleted files and their features in bytes.
    pub bytes: u64,
}

impl Removed {
    pub(super) fn add(&mut self, sample: &Sample) {
        match sample.label {
            Some(_) => self.labelled += 1,
            None => self.unlabelled += 1,
        }
        self.bytes = self.bytes.saturating_add(sample.size());
    }
}

/// The result of [`Store::prune`](super::Store::prune).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// What was deleted.
    pub removed: Removed,
    /// Disk space that the samples take up now, in bytes, without those that are not
    /// counted.
    pub bytes: u64,
    /// The part of `bytes` that belongs to labeled samples.
    pub labelled_bytes: u64,
    /// Number of files that are not counted because they are too large to be crops.
    pub not_counted: usize,
}

/// A crop to store.
#[derive(Debug, Clone, Copy)]
pub struct NewSample<'a> {
    /// Time of capture.
    pub at: SystemTime,
    /// Number of the track, counted within this run of the program.
    pub track: u64,
    /// Number of the crop within its track.
    pub number: u32,
    /// Its label, if it is already known.
    pub label: Option<&'a Label>,
    /// The picture, unless only features are to be kept.
    pub crop: Option<&'a Crop>,
    /// The features of the crop.
    pub feature: &'a Feature,
    /// SHA-256 of the backbone that computed the features.
    pub backbone: [u8; 32],
}
