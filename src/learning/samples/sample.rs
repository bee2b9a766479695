//! What a sample is, and what a listing of samples tells.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::error::StoreError;
use super::name::TrackKey;
use crate::frame::Crop;
use crate::onnx::Label;
use crate::vision::embed::Feature;

/// What was kept of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SampleKind {
    /// Its features alone: they are the sample's file.
    FeatureOnly,
    /// Its picture.
    Picture,
}

/// A sample on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Its file's name without the extension.
    pub id: String,
    /// The name of its folder; `None` in `unlabelled`.
    pub label: Option<Label>,
    /// Samples with the same key stay together when samples are split.
    pub track: TrackKey,
    /// UTC day of capture, `2026-11-24`; if the name does not have it, that of the
    /// last change of the file.
    pub day: String,
    /// Time of capture, if the name has it.
    pub at: Option<SystemTime>,
    /// When the file was last changed.
    pub modified: SystemTime,
    /// What was kept of it.
    pub kind: SampleKind,
    /// The file.
    pub path: PathBuf,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// Length of the file of features made from the picture; 0 if there is
    /// none.
    pub feature_bytes: u64,
}

impl Sample {
    /// Time of capture; if the name does not have it, of the last change.
    #[must_use]
    pub fn when(&self) -> SystemTime {
        self.at.unwrap_or(self.modified)
    }

    /// Whether there is a file of features, which may be damaged.
    #[must_use]
    pub fn has_features(&self) -> bool {
        self.kind == SampleKind::FeatureOnly || self.feature_bytes > 0
    }

    /// Orders the files of one id; the greatest counts: the one that was changed
    /// last, then one with a label, then a picture, then the first by path.
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

/// Several files with one id: somebody copied one, or put files of the same name
/// into two folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DuplicateId {
    /// The id.
    pub id: String,
    /// The file that counts: the one changed last.
    pub used: PathBuf,
    /// The others, sorted.
    pub passed_over: Vec<PathBuf>,
}

/// What is in the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The samples, sorted by id; each id once.
    pub samples: Vec<Sample>,
    /// Ids with several files, sorted.
    pub duplicates: Vec<DuplicateId>,
    /// What is neither a sample nor hidden, sorted: folders whose names cannot be
    /// labels, links, subfolders, files that are not named like pictures.
    pub ignored: Vec<PathBuf>,
}

impl Listing {
    /// Counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for sample in &self.samples {
            let count = stats.labels.entry(sample.label.clone()).or_default();
            count.samples += 1;
            count.bytes += sample.bytes + sample.feature_bytes;
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
    /// By label; `None` are those without one. Only what there is.
    pub labels: BTreeMap<Option<Label>, Count>,
    /// Of the oldest sample, [`Sample::when`].
    pub oldest: Option<SystemTime>,
    /// Of the newest sample.
    pub newest: Option<SystemTime>,
}

impl Stats {
    /// All labels together.
    #[must_use]
    pub fn total(&self) -> Count {
        self.labels
            .values()
            .fold(Count::default(), |sum, count| Count {
                samples: sum.samples + count.samples,
                bytes: sum.bytes + count.bytes,
                with_features: sum.with_features + count.with_features,
                feature_only: sum.feature_only + count.feature_only,
            })
    }
}

/// Counts of one label.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Samples.
    pub samples: usize,
    /// Bytes of their files and of their features.
    pub bytes: u64,
    /// Samples with features.
    pub with_features: usize,
    /// Samples of which only features were kept.
    pub feature_only: usize,
}

/// The result of labelling one sample.
#[derive(Debug)]
pub enum Labelled {
    /// The sample has the label now, durably on disk.
    Done,
    /// The sample had the label already.
    Already,
    /// There is no such sample (any more).
    Missing,
    /// Another picture with this name has the label already; nothing was changed.
    Taken,
    /// A file operation failed; nothing was changed.
    Failed(StoreError),
}

/// The result of discarding one sample.
#[derive(Debug)]
pub enum Discarded {
    /// Picture and features are deleted.
    Done,
    /// There is no such sample (any more).
    Missing,
    /// A file operation failed.
    Failed(StoreError),
}

/// Selects samples by label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelFilter {
    /// Samples with and without labels.
    All,
    /// Those without a label.
    Unlabelled,
    /// Those of one label.
    Labelled(Label),
}

/// What was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Files of samples without a label.
    pub unlabelled: usize,
    /// Files of samples with one.
    pub labelled: usize,
    /// Their bytes, those of their features with them.
    pub bytes: u64,
}

impl Removed {
    pub(super) fn add(&mut self, sample: &Sample) {
        match sample.label {
            Some(_) => self.labelled += 1,
            None => self.unlabelled += 1,
        }
        self.bytes += sample.bytes + sample.feature_bytes;
    }
}

/// A crop to store.
#[derive(Debug, Clone, Copy)]
pub struct NewSample<'a> {
    /// Time of capture.
    pub at: SystemTime,
    /// Number of the track in this run.
    pub track: u64,
    /// Number of the crop within its track.
    pub number: u32,
    /// Its label, if that is known already.
    pub label: Option<&'a Label>,
    /// The picture, unless only features are to be kept.
    pub crop: Option<&'a Crop>,
    /// The features of the crop.
    pub feature: &'a Feature,
    /// SHA-256 of the backbone that made them.
    pub backbone: [u8; 32],
}
