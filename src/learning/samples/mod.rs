//! Samples: captured and labelled crops on disk, and their features.
//!
//! Owns the folder `samples` of the state directory: what files mean there, how
//! they get in and out, and how they end. Knows nothing of cameras, training or
//! the clock; times come in as arguments.
//!
//! ```text
//! samples/unlabelled/20261124T101530.123Z-t000017-03.jpg   a crop without a label
//! samples/with_mask/20261124T101530.123Z-t000017-01.jpg    a crop with one
//! samples/with_mask/holiday.png                            put there by a person
//! samples/with_mask/20261124T101712.004Z-t000018-00.feature  features alone were kept
//! samples/.features/20261124T101530.123Z-t000017-01.feature  made from the crop
//! ```
//!
//! - **The folder is the label**, and nothing else is: moving a file is
//!   labelling it, whoever moves it. The layout is that of a data set, so
//!   `maskd train --dataset` takes the folder as it is.
//! - A sample's **id** is its file name without the extension. Names of our own
//!   hold the time of capture (UTC), the track and the number within it; any
//!   other name will do.
//! - **Features** are a cache: bound to the bytes of their picture and to their
//!   backbone, and whatever is wrong with them, they can be made anew. Only
//!   where a sample *is* its features are they all there is.
//! - **Deleting** deletes features, too. (What a flash card keeps of a deleted
//!   file is beyond a program's reach.)
//!
//! Files are written aside, synced and renamed, so a kill at any moment leaves
//! no half ones; what it leaves aside is removed when the store is next opened.
//! One process at a time may change a store (a lock says so); whoever only
//! reads it, and people who move files, need not ask.

mod feature;
mod name;
mod transfer;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use image::codecs::jpeg::JpegEncoder;
use sha2::{Digest, Sha256};

use crate::frame::{self, Crop, PictureError, Rect, Scaler};
use crate::onnx::{self, Label, UNLABELLED};
use crate::platform::files::{self, FileError, Lock, PendingFile};
use crate::vision::embed::Feature;

pub use feature::{FeatureError, FeatureFile, MAX_ROWS, parse_features};
pub use name::TrackKey;
pub use transfer::{Exported, Imported};

/// The folder of features that were made from pictures.
const FEATURES: &str = ".features";
const FEATURE_EXTENSION: &str = "feature";
const PICTURE_EXTENSIONS: [&str; 5] = ["jpg", "jpeg", "png", "webp", "bmp"];
/// Of the crops that are kept, 1 to 100: near enough to the pixels for features
/// made from the file to be those of the crop.
const JPEG_QUALITY: u8 = 95;
/// Largest picture file that is read, in bytes.
const MAX_PICTURE_BYTES: u64 = 64 * 1024 * 1024;

/// Why the store cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or folder of the store, or one that was named.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process has the store open to change it.
    #[error("another maskd is changing {path}; let it do this, or stop it first")]
    Busy {
        /// The folder.
        path: String,
    },
    /// The sample is no longer there.
    #[error("the sample {id} is not there any more")]
    Gone {
        /// Its id.
        id: String,
    },
    /// Of this sample only the features were kept.
    #[error("there is no picture of the sample {id}: only its features were kept")]
    NoPicture {
        /// Its id.
        id: String,
    },
    /// The sample's file is no picture that can be used.
    #[error("the picture of the sample {id} cannot be used: {error}")]
    Picture {
        /// Its id.
        id: String,
        /// What is wrong with it.
        error: PictureError,
    },
    /// The features of a sample of which nothing else was kept.
    #[error("the features of the sample {id} cannot be used: {error}")]
    Features {
        /// Its id.
        id: String,
        /// What is wrong with them.
        error: FeatureError,
    },
    /// Features that no file can hold.
    #[error(
        "features to store must have 1 to {MAX_ROWS} rows of finite numbers; these have {rows} rows"
    )]
    Rows {
        /// Rows that were given.
        rows: usize,
    },
    /// A crop that the JPEG encoder refuses.
    #[error("a crop cannot be written as JPEG: {0}")]
    Encode(String),
    /// An export into the store itself, or an import from it.
    #[error("{path} lies within the samples themselves; name another folder")]
    Within {
        /// The folder that was named.
        path: String,
    },
}

impl StoreError {
    /// Whether the disk is full: capturing may go on once there is room.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, StoreError::File(error) if error.is_no_space())
    }

    /// Whether nothing may be written there: a read-only file system, or no
    /// permission.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(self, StoreError::File(error) if error.is_read_only())
    }
}

/// What was kept of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
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
    /// What its folder says; `None` in `unlabelled`.
    pub label: Option<Label>,
    /// What it must not be split from.
    pub track: TrackKey,
    /// UTC day of capture, `2026-11-24`; where the name does not tell, that of
    /// the last change of the file.
    pub day: String,
    /// Time of capture, if the name tells.
    pub at: Option<SystemTime>,
    /// When the file was last changed.
    pub modified: SystemTime,
    /// What was kept of it.
    pub kind: Kind,
    /// The file.
    pub path: PathBuf,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// Length of the file of features made from the picture; 0 if there is
    /// none.
    pub feature_bytes: u64,
}

impl Sample {
    /// Time of capture; where the name does not tell, of the last change.
    #[must_use]
    pub fn when(&self) -> SystemTime {
        self.at.unwrap_or(self.modified)
    }

    /// Whether there is a file of features, in whatever state.
    #[must_use]
    pub fn has_features(&self) -> bool {
        self.kind == Kind::FeatureOnly || self.feature_bytes > 0
    }

    /// Which of several files of one id counts: the one changed last; of those
    /// changed at the same time one with a label, then a picture, then the
    /// first by path.
    fn rank(&self) -> impl Ord + use<'_> {
        let labelled = self.label.is_some();
        (self.modified, labelled, self.kind, Reverse(&self.path))
    }

    fn file_name(&self) -> &std::ffi::OsStr {
        self.path.file_name().unwrap_or_default()
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }
}

/// Several files of one id: somebody copied one, or put two of one name into
/// two folders.
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
    pub doubles: Vec<DuplicateId>,
    /// What is neither a sample nor hidden, sorted: folders whose names are no
    /// labels, links, folders within, files that are not named like pictures.
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
            count.feature_only += usize::from(sample.kind == Kind::FeatureOnly);
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

/// What became of a sample that was to be labelled.
#[derive(Debug)]
pub enum Labelled {
    /// It has the label now, on disk for good.
    Done,
    /// It had it.
    Already,
    /// There is no such sample (any more).
    Missing,
    /// Another picture of that name has that label; nothing was changed. Rename
    /// one of the two.
    Taken,
    /// The system refuses; nothing was changed.
    Failed(StoreError),
}

/// What became of a sample that was to be discarded.
#[derive(Debug)]
pub enum Discarded {
    /// Picture and features are deleted.
    Done,
    /// There is no such sample (any more).
    Missing,
    /// The system refuses.
    Failed(StoreError),
}

/// Which labels are meant.
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
    fn add(&mut self, sample: &Sample) {
        match sample.label {
            Some(_) => self.labelled += 1,
            None => self.unlabelled += 1,
        }
        self.bytes += sample.bytes + sample.feature_bytes;
    }
}

/// A crop to be stored.
#[derive(Debug, Clone, Copy)]
pub struct NewSample<'a> {
    /// Time of capture.
    pub at: SystemTime,
    /// Number of the track in this run.
    pub track: u64,
    /// Number of the crop within its track.
    pub number: u32,
    /// What it shows, if that is known already.
    pub label: Option<&'a Label>,
    /// The picture, unless only features are to be kept.
    pub crop: Option<&'a Crop>,
    /// The features of the crop.
    pub feature: &'a Feature,
    /// SHA-256 of the backbone that made them.
    pub backbone: [u8; 32],
}

/// A view of the store, for whoever does not change it.
#[derive(Debug, Clone)]
pub struct Reader {
    root: PathBuf,
}

impl Reader {
    /// The folder `samples`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.root
    }

    /// What is in the store; nothing if there is none.
    ///
    /// Reads names and lengths, no contents: a damaged picture is listed.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn list(&self) -> Result<Listing, StoreError> {
        let mut listing = Listing::default();
        let Scan { files, ignored } = self.scan()?;
        for (id, mut files) in files {
            if files.len() > 1 {
                // A file that is moved meanwhile is seen in both folders.
                files.retain(|file| file.path.symlink_metadata().is_ok());
            }
            files.sort_by(|a, b| b.rank().cmp(&a.rank()));
            let mut files = files.into_iter();
            let Some(used) = files.next() else { continue };
            let mut passed_over: Vec<PathBuf> = files.map(|file| file.path).collect();
            if !passed_over.is_empty() {
                passed_over.sort();
                listing.doubles.push(DuplicateId {
                    id,
                    used: used.path.clone(),
                    passed_over,
                });
            }
            listing.samples.push(used);
        }
        listing.ignored = ignored;
        Ok(listing)
    }

    /// Counts.
    ///
    /// # Errors
    /// As [`list`](Reader::list).
    pub fn stats(&self) -> Result<Stats, StoreError> {
        Ok(self.list()?.stats())
    }

    /// A digest of which file is in which folder: another one as soon as a
    /// sample comes, goes, or gets another label. Reads names alone, so it can
    /// be asked often.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn fingerprint(&self) -> Result<[u8; 32], StoreError> {
        let mut lines = BTreeSet::new();
        for (_, folder) in self.label_folders(&mut Vec::new())? {
            for path in files_in(&folder, &mut Vec::new())? {
                if let Ok(path) = path.strip_prefix(&self.root) {
                    lines.insert(path.as_os_str().as_encoded_bytes().to_vec());
                }
            }
        }
        let mut hash = Sha256::new();
        for line in lines {
            hash.update(line);
            // No name holds it.
            hash.update([0]);
        }
        Ok(hash.finalize().into())
    }

    /// The bytes of a sample's file, also if it has got another label since it
    /// was listed.
    ///
    /// # Errors
    /// [`StoreError::Gone`], [`StoreError::File`].
    pub fn read(&self, sample: &Sample) -> Result<Vec<u8>, StoreError> {
        let gone = || StoreError::Gone {
            id: sample.id.clone(),
        };
        // It may be moved once more while it is looked for.
        for _ in 0..3 {
            let path = self.locate(sample)?.ok_or_else(gone)?;
            match files::read_bounded(&path, MAX_PICTURE_BYTES) {
                Err(error) if error.is_missing() => {}
                read => return Ok(read?),
            }
        }
        Err(gone())
    }

    /// The picture of a sample as it is judged: whole, stretched to a crop if it
    /// has another size.
    ///
    /// # Errors
    /// [`StoreError::NoPicture`], [`StoreError::Picture`], and those of
    /// [`read`](Reader::read).
    pub fn crop(&self, sample: &Sample, scaler: &mut Scaler) -> Result<Crop, StoreError> {
        if sample.kind == Kind::FeatureOnly {
            return Err(StoreError::NoPicture {
                id: sample.id.clone(),
            });
        }
        to_crop(&self.read(sample)?, scaler).map_err(|error| StoreError::Picture {
            id: sample.id.clone(),
            error,
        })
    }

    /// The features of a sample: the crop's own first, then those of its
    /// variants.
    ///
    /// # Errors
    /// [`FeatureError`] if there are none that are whole, by this backbone, and
    /// of this very picture.
    pub fn features(
        &self,
        sample: &Sample,
        backbone: &[u8; 32],
    ) -> Result<Vec<Feature>, FeatureError> {
        let bytes = match sample.kind {
            Kind::FeatureOnly => self.read(sample).map_err(|error| match error {
                StoreError::File(error) => FeatureError::File(error),
                _ => FeatureError::Missing,
            })?,
            Kind::Picture => files::read_bounded(&self.cache(&sample.id), feature::MAX_BYTES)
                .map_err(|error| match error.source.kind() {
                    io::ErrorKind::NotFound => FeatureError::Missing,
                    io::ErrorKind::FileTooLarge => FeatureError::Damaged("its length is wrong"),
                    _ => FeatureError::File(error),
                })?,
        };
        let file = parse_features(&bytes)?;
        if file.backbone != *backbone {
            return Err(FeatureError::OtherBackbone);
        }
        if sample.kind == Kind::Picture {
            let picture = self.read(sample).map_err(|error| match error {
                StoreError::File(error) => FeatureError::File(error),
                _ => FeatureError::Missing,
            })?;
            if file.picture != Some(sha256(&picture)) {
                return Err(FeatureError::OtherPicture);
            }
        }
        Ok(file.rows)
    }

    /// Where the features of a picture are.
    fn cache(&self, id: &str) -> PathBuf {
        self.root.join(FEATURES).join(cache_name(id))
    }

    /// The folder of a label, or of no label.
    fn folder_of(&self, label: Option<&Label>) -> PathBuf {
        self.root.join(label.map_or(UNLABELLED, Label::as_str))
    }

    /// Where the file of a sample is now.
    fn locate(&self, sample: &Sample) -> Result<Option<PathBuf>, StoreError> {
        if sample.path.symlink_metadata().is_ok() {
            return Ok(Some(sample.path.clone()));
        }
        let folders = self.label_folders(&mut Vec::new())?;
        let mut places = folders
            .into_iter()
            .map(|(_, folder)| folder.join(sample.file_name()));
        Ok(places.find(|path| path.symlink_metadata().is_ok()))
    }

    /// The folders that hold samples, and what their names say; adds others to
    /// `ignored`.
    fn label_folders(
        &self,
        ignored: &mut Vec<PathBuf>,
    ) -> Result<Vec<(Option<Label>, PathBuf)>, StoreError> {
        let mut folders = Vec::new();
        for entry in entries(&self.root)? {
            let path = entry.path();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let label = path.file_name().and_then(|name| name.to_str());
            match label {
                Some(UNLABELLED) if is_folder => folders.push((None, path)),
                Some(label) if is_folder && Label::new(label).is_ok() => {
                    folders.push((Label::new(label).ok(), path));
                }
                _ => ignored.push(path),
            }
        }
        folders.sort();
        Ok(folders)
    }

    /// Every file that is a sample, by id; and what is none.
    fn scan(&self) -> Result<Scan, StoreError> {
        let mut ignored = Vec::new();
        let mut cached = BTreeMap::new();
        for entry in entries_with_hidden(&self.root.join(FEATURES))? {
            if let Ok(metadata) = entry.metadata() {
                cached.insert(entry.file_name(), metadata.len());
            }
        }
        let mut samples: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
        for (label, folder) in self.label_folders(&mut ignored)? {
            for path in files_in(&folder, &mut ignored)? {
                // Gone since: moved, most likely.
                let Ok(metadata) = path.symlink_metadata() else {
                    continue;
                };
                let (Some(id), Some(kind)) = (id_of(&path), kind_of(&path)) else {
                    ignored.push(path);
                    continue;
                };
                let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                let name = name::parse(&id);
                let day = name::day(name.at.unwrap_or(modified));
                let track = match (name.track, name.at) {
                    (Some(track), Some(_)) => TrackKey::Day {
                        day: day.clone(),
                        track,
                    },
                    (Some(track), None) => TrackKey::Undated(track),
                    (None, _) => TrackKey::Alone(id.clone()),
                };
                let feature_bytes = match kind {
                    Kind::Picture => cached.get(std::ffi::OsStr::new(&cache_name(&id))),
                    Kind::FeatureOnly => None,
                };
                samples.entry(id.clone()).or_default().push(Sample {
                    label: label.clone(),
                    track,
                    day,
                    at: name.at,
                    modified,
                    kind,
                    path,
                    bytes: metadata.len(),
                    feature_bytes: feature_bytes.copied().unwrap_or(0),
                    id,
                });
            }
        }
        ignored.sort();
        Ok(Scan {
            files: samples,
            ignored,
        })
    }
}

/// Everything that lies in the label folders.
struct Scan {
    /// By id; at least one each.
    files: BTreeMap<String, Vec<Sample>>,
    /// What is no sample, sorted.
    ignored: Vec<PathBuf>,
}

/// The store, for the one process that may change it: whatever a [`Reader`] can,
/// and more. Threads may share it.
#[derive(Debug)]
pub struct Store {
    reader: Reader,
    /// Held by whoever looks whether a name is free or a file there, and then
    /// acts on it.
    changes: Mutex<()>,
    _lock: Lock,
}

impl Deref for Store {
    type Target = Reader;

    fn deref(&self) -> &Reader {
        &self.reader
    }
}

impl Store {
    /// Opens the samples of a state directory to change them; makes what is not
    /// there (mode 0700), and removes what a kill left: files half written, and
    /// features without a sample.
    ///
    /// # Errors
    /// [`StoreError::Busy`], [`StoreError::File`].
    pub fn open(state: &Path) -> Result<Store, StoreError> {
        let reader = Store::read_only(state);
        let root = &reader.root;
        files::make_folder(root)?;
        let lock = files::lock(root)?;
        let Some(lock) = lock else {
            let path = root.display().to_string();
            return Err(StoreError::Busy { path });
        };
        let mut folders = vec![root.clone()];
        for name in [FEATURES, UNLABELLED] {
            let folder = root.join(name);
            files::make_folder(&folder)?;
            folders.push(folder);
        }
        let labels = reader.label_folders(&mut Vec::new())?;
        folders.extend(
            labels
                .into_iter()
                .filter_map(|(label, path)| label.map(|_| path)),
        );
        for folder in folders {
            files::remove_leftovers(&folder)?;
        }
        let store = Store {
            reader,
            changes: Mutex::new(()),
            _lock: lock,
        };
        store.sweep()?;
        Ok(store)
    }

    /// The samples of a state directory, to read them; there need not be any,
    /// and whoever has them open does not matter.
    #[must_use]
    pub fn read_only(state: &Path) -> Reader {
        Reader {
            root: state.join("samples"),
        }
    }

    /// Stores crops, each under its label from the first moment on, and gives
    /// their ids in the same order. They are on disk for good then; their folders
    /// are synced once a batch.
    ///
    /// An id that is taken becomes the next number of the track: two ids are
    /// never the same, wherever the clock jumps.
    ///
    /// # Errors
    /// [`StoreError::File`], [`StoreError::Rows`], [`StoreError::Encode`]; of the
    /// batch, those before the one that failed may have been stored, each whole.
    pub fn capture(&self, batch: &[NewSample]) -> Result<Vec<String>, StoreError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let mut touched = BTreeSet::new();
        let ids: Result<Vec<String>, StoreError> = batch
            .iter()
            .map(|new| self.capture_one(new, &mut touched))
            .collect();
        // Also after a failure: what was stored before it stays.
        let synced = sync_all(&touched);
        ids.and_then(|ids| synced.map(|()| ids))
    }

    fn capture_one(
        &self,
        new: &NewSample,
        touched: &mut BTreeSet<PathBuf>,
    ) -> Result<String, StoreError> {
        let folder = self.folder_of(new.label);
        files::make_folder(&folder)?;
        let cache = self.root.join(FEATURES);
        let encode = |picture: Option<&[u8; 32]>| {
            let rows = [new.feature];
            feature::encode(&new.backbone, picture, &rows).ok_or(StoreError::Rows { rows: 1 })
        };
        let (extension, content, features) = match new.crop {
            Some(crop) => {
                let jpeg = jpeg(crop)?;
                let features = encode(Some(&sha256(&jpeg)))?;
                ("jpg", jpeg, Some(features))
            }
            None => (FEATURE_EXTENSION, encode(None)?, None),
        };
        let pending = pending(&folder, &content)?;
        let features = features
            .map(|bytes| self::pending(&cache, &bytes))
            .transpose()?;
        touched.insert(folder.clone());

        let _guard = self.changing();
        let taken = self.ids()?;
        let mut numbers = u64::from(new.number)..;
        let id = loop {
            let number = numbers.next().unwrap_or(u64::MAX);
            let id = name::id(new.at, new.track, number);
            if !taken.contains(&id) {
                break id;
            }
        };
        let path = folder.join(format!("{id}.{extension}"));
        // The picture first: without features it is a sample, and they without
        // it are nothing.
        pending.place(&path)?;
        if let Some(features) = features {
            touched.insert(cache.clone());
            let path = self.cache(&id);
            features.place(&path)?;
        }
        Ok(id)
    }

    /// Gives samples a label, by moving their files; `None` takes it away. Tells
    /// for each id what became of it, in their order; what is done is on disk
    /// for good.
    ///
    /// Of an id with several files the one that counts is moved, and exact
    /// copies of it are deleted.
    ///
    /// # Errors
    /// [`StoreError::File`] if the folders cannot be read, made or synced.
    pub fn label(
        &self,
        ids: &[String],
        label: Option<&Label>,
    ) -> Result<Vec<Labelled>, StoreError> {
        let _guard = self.changing();
        let mut files = self.scan()?.files;
        let folder = self.folder_of(label);
        files::make_folder(&folder)?;
        let mut touched = BTreeSet::new();
        let mut outcomes = Vec::with_capacity(ids.len());
        for id in ids {
            let files = files.get_mut(id);
            let outcome = files.map_or(Ok(Labelled::Missing), |files| {
                move_sample(files, label, &folder, &mut touched)
            });
            outcomes.push(outcome.unwrap_or_else(Labelled::Failed));
        }
        sync_all(&touched)?;
        Ok(outcomes)
    }

    /// Deletes samples: pictures, exact copies of them, and features. Tells for
    /// each id what became of it, in their order.
    ///
    /// # Errors
    /// [`StoreError::File`] if the folders cannot be read or synced.
    pub fn discard(&self, ids: &[String]) -> Result<Vec<Discarded>, StoreError> {
        let _guard = self.changing();
        let mut files = self.scan()?.files;
        let mut touched = BTreeSet::new();
        let mut outcomes = Vec::with_capacity(ids.len());
        for id in ids {
            // Taken out: an id that is named twice is missing the second time.
            let outcome = match files.remove(id) {
                None => Discarded::Missing,
                Some(mut files) => self
                    .discard_one(&mut files, &mut touched)
                    .map_or_else(Discarded::Failed, |()| Discarded::Done),
            };
            outcomes.push(outcome);
        }
        sync_all(&touched)?;
        Ok(outcomes)
    }

    fn discard_one(
        &self,
        files: &mut [Sample],
        touched: &mut BTreeSet<PathBuf>,
    ) -> Result<(), StoreError> {
        let (used, copies, _) = used_copies_others(files)?;
        for sample in std::iter::once(used).chain(copies) {
            self.delete(sample, touched)?;
        }
        Ok(())
    }

    /// Deletes all samples of a kind, or those of them that are older than a
    /// time ([`Sample::when`]), with every copy and all features. What is
    /// [ignored](Listing::ignored) stays.
    ///
    /// # Errors
    /// [`StoreError::File`], the first one, after as much as possible was deleted.
    pub fn purge(
        &self,
        which: &LabelFilter,
        before: Option<SystemTime>,
    ) -> Result<Removed, StoreError> {
        let _guard = self.changing();
        let files = self.scan()?.files;
        let meant = |sample: &&Sample| {
            let labelled = match which {
                LabelFilter::All => true,
                LabelFilter::Unlabelled => sample.label.is_none(),
                LabelFilter::Labelled(label) => sample.label.as_ref() == Some(label),
            };
            labelled && before.is_none_or(|before| sample.when() < before)
        };
        let meant: Vec<&Sample> = files.values().flatten().filter(meant).collect();
        let removed = self.remove(&meant)?;
        self.sweep()?;
        Ok(removed)
    }

    /// Keeps the store within its limits: deletes what was captured more than
    /// `keep` before `now`, with a label or without, and then, while there are
    /// more than `max_bytes` of samples and features, the oldest ones: first
    /// those without a label, and only when none of them is left those with
    /// one, which are somebody's work.
    ///
    /// A sample from the future (a clock was wrong) is not old.
    ///
    /// # Errors
    /// [`StoreError::File`], the first one, after as much as possible was deleted.
    pub fn expire(
        &self,
        now: SystemTime,
        keep: Option<Duration>,
        max_bytes: Option<u64>,
    ) -> Result<Removed, StoreError> {
        let _guard = self.changing();
        let files = self.scan()?.files;
        let mut files: Vec<&Sample> = files.values().flatten().collect();
        files.sort_by_key(|sample| (sample.label.is_some(), sample.when(), &sample.path));
        let mut bytes: u64 = files
            .iter()
            .map(|sample| sample.bytes + sample.feature_bytes)
            .sum();
        let is_old = |sample: &Sample| {
            let age = now.duration_since(sample.when()).unwrap_or_default();
            keep.is_some_and(|keep| age > keep)
        };
        let (mut meant, rest): (Vec<_>, Vec<_>) = files.into_iter().partition(|s| is_old(s));
        for sample in &meant {
            bytes -= sample.bytes + sample.feature_bytes;
        }
        for sample in rest {
            if max_bytes.is_none_or(|most| bytes <= most) {
                break;
            }
            bytes -= sample.bytes + sample.feature_bytes;
            meant.push(sample);
        }
        let removed = self.remove(&meant)?;
        self.sweep()?;
        Ok(removed)
    }

    /// Stores the features of a sample's picture: the crop's own first, then
    /// those of its variants; replaces those that were there.
    ///
    /// # Errors
    /// [`StoreError::Gone`] if the sample was deleted meanwhile,
    /// [`StoreError::NoPicture`], [`StoreError::Rows`], [`StoreError::File`].
    pub fn put_features(
        &self,
        sample: &Sample,
        backbone: &[u8; 32],
        rows: &[Feature],
    ) -> Result<(), StoreError> {
        if sample.kind == Kind::FeatureOnly {
            let id = sample.id.clone();
            return Err(StoreError::NoPicture { id });
        }
        let picture = sha256(&self.read(sample)?);
        let all: Vec<&Feature> = rows.iter().collect();
        let bytes = feature::encode(backbone, Some(&picture), &all)
            .ok_or(StoreError::Rows { rows: rows.len() })?;
        let folder = self.root.join(FEATURES);
        let pending = pending(&folder, &bytes)?;
        let _guard = self.changing();
        // Nothing may stay of a picture that was deleted since it was read.
        if self.locate(sample)?.is_none() {
            let id = sample.id.clone();
            return Err(StoreError::Gone { id });
        }
        pending.place(&self.cache(&sample.id))?;
        sync(&folder)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        // Whoever panicked left files that are whole: there is nothing to mend.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ids that are taken.
    fn ids(&self) -> Result<HashSet<String>, StoreError> {
        let mut ids = HashSet::new();
        for (_, folder) in self.label_folders(&mut Vec::new())? {
            let files = files_in(&folder, &mut Vec::new())?;
            ids.extend(files.iter().filter_map(|path| id_of(path)));
        }
        Ok(ids)
    }

    /// Deletes as many as it can.
    fn remove(&self, samples: &[&Sample]) -> Result<Removed, StoreError> {
        let mut touched = BTreeSet::new();
        let mut removed = Removed::default();
        let mut first = None;
        for sample in samples {
            match self.delete(sample, &mut touched) {
                Ok(()) => removed.add(sample),
                Err(error) => first = first.or(Some(error)),
            }
        }
        sync_all(&touched)?;
        first.map_or(Ok(removed), Err)
    }

    /// Deletes the features of a sample and then its file: the other way round,
    /// a kill would leave the features of a deleted face.
    fn delete(&self, sample: &Sample, touched: &mut BTreeSet<PathBuf>) -> Result<(), StoreError> {
        let cache = self.cache(&sample.id);
        if sample.kind == Kind::Picture && delete_file(&cache)? {
            touched.insert(self.root.join(FEATURES));
        }
        if delete_file(&sample.path)? {
            touched.insert(sample.folder().to_owned());
        }
        Ok(())
    }

    /// Deletes features whose picture is not there any more: a person deleted
    /// it, or a kill came between.
    fn sweep(&self) -> Result<(), StoreError> {
        let folder = self.root.join(FEATURES);
        let cached: Vec<PathBuf> = entries(&folder)?.iter().map(fs::DirEntry::path).collect();
        // Twice: a file that is moved meanwhile may be missed once.
        let mut known = HashSet::new();
        for _ in 0..2 {
            known.extend(self.ids()?.iter().map(|id| cache_name(id)));
        }
        let mut touched = BTreeSet::new();
        for path in cached {
            let name = path.file_name().and_then(|name| name.to_str());
            if name.is_none_or(|name| !known.contains(name)) && delete_file(&path)? {
                touched.insert(folder.clone());
            }
        }
        sync_all(&touched)
    }
}

/// Moves the file that counts into `folder`, and deletes exact copies of it.
fn move_sample(
    files: &mut Vec<Sample>,
    label: Option<&Label>,
    folder: &Path,
    touched: &mut BTreeSet<PathBuf>,
) -> Result<Labelled, StoreError> {
    let (used, copies, others) = used_copies_others(files)?;
    let stays = used.label.as_ref() == label;
    let path = folder.join(used.file_name());
    if !stays {
        let is_copy = copies.iter().any(|copy| copy.path == path);
        let is_taken = !is_copy && path.symlink_metadata().is_ok();
        if is_taken || others.iter().any(|other| other.label.as_ref() == label) {
            return Ok(Labelled::Taken);
        }
        match fs::rename(&used.path, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Labelled::Missing),
            moved => moved.map_err(FileError::of("move a sample to", folder))?,
        }
        touched.insert(folder.to_owned());
        touched.insert(used.folder().to_owned());
    }
    for copy in copies {
        if copy.path != path && delete_file(&copy.path)? {
            touched.insert(copy.folder().to_owned());
        }
    }
    if stays {
        return Ok(Labelled::Already);
    }
    // So that an id that is named twice finds its file the second time.
    let mut moved = used.clone();
    moved.label = label.cloned();
    moved.path = path;
    let mut left: Vec<Sample> = others.into_iter().cloned().collect();
    left.push(moved);
    *files = left;
    Ok(Labelled::Done)
}

/// Of the files of one id the one that counts, those with the same bytes, and
/// the others.
fn used_copies_others(
    files: &mut [Sample],
) -> Result<(&Sample, Vec<&Sample>, Vec<&Sample>), StoreError> {
    files.sort_by(|a, b| b.rank().cmp(&a.rank()));
    let Some((used, rest)) = files.split_first() else {
        let source = io::ErrorKind::NotFound.into();
        return Err(FileError::of("find a sample in", Path::new("samples"))(source).into());
    };
    let (mut copies, mut others) = (Vec::new(), Vec::new());
    for other in rest {
        let same = other.bytes == used.bytes && {
            let read = |sample: &Sample| files::read_bounded(&sample.path, MAX_PICTURE_BYTES);
            read(used)? == read(other)?
        };
        if same {
            copies.push(other);
        } else {
            others.push(other);
        }
    }
    Ok((used, copies, others))
}

/// Whether it was there.
fn delete_file(path: &Path) -> Result<bool, StoreError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(FileError::of("delete", path)(error).into()),
    }
}

/// The folder may have been removed by somebody since the store was opened.
fn pending(folder: &Path, content: &[u8]) -> Result<PendingFile, StoreError> {
    files::make_folder(folder)?;
    Ok(PendingFile::write(folder, content)?)
}

fn sync(folder: &Path) -> Result<(), StoreError> {
    Ok(files::sync_folder(folder)?)
}

fn sync_all(folders: &BTreeSet<PathBuf>) -> Result<(), StoreError> {
    folders.iter().try_for_each(|folder| sync(folder))
}

/// What lies in a folder and is not hidden; nothing if there is no folder.
fn entries(folder: &Path) -> Result<Vec<fs::DirEntry>, StoreError> {
    let mut entries = entries_with_hidden(folder)?;
    entries.retain(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
    Ok(entries)
}

fn entries_with_hidden(folder: &Path) -> Result<Vec<fs::DirEntry>, StoreError> {
    match folder.read_dir().and_then(Iterator::collect) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => Ok(entries.map_err(FileError::of("read the folder", folder))?),
    }
}

/// The files in a label's folder that are named like samples, sorted; adds what
/// is not to `ignored`.
fn files_in(folder: &Path, ignored: &mut Vec<PathBuf>) -> Result<Vec<PathBuf>, StoreError> {
    let mut files = Vec::new();
    for entry in entries(folder)? {
        let path = entry.path();
        // Not through links: deleting would delete the link.
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && kind_of(&path).is_some() && id_of(&path).is_some() {
            files.push(path);
        } else {
            ignored.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn id_of(path: &Path) -> Option<String> {
    path.file_stem()?.to_str().map(str::to_owned)
}

fn kind_of(path: &Path) -> Option<Kind> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    if extension == FEATURE_EXTENSION {
        Some(Kind::FeatureOnly)
    } else {
        PICTURE_EXTENSIONS
            .contains(&extension.as_str())
            .then_some(Kind::Picture)
    }
}

/// The name of a feature file; of an id so long that `.feature` would make it
/// too long for a file system, its hash.
fn cache_name(id: &str) -> String {
    const LONGEST: usize = 200;
    if id.len() <= LONGEST {
        format!("{id}.{FEATURE_EXTENSION}")
    } else {
        let hash = onnx::to_hex(&sha256(id.as_bytes()));
        format!("{hash}.{FEATURE_EXTENSION}")
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn jpeg(crop: &Crop) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
        .encode_image(crop.pixels())
        .map_err(|error| StoreError::Encode(error.to_string()))?;
    Ok(bytes)
}

/// The whole picture as it is judged.
fn to_crop(bytes: &[u8], scaler: &mut Scaler) -> Result<Crop, PictureError> {
    let pixels = frame::decode(bytes)?;
    let (width, height) = pixels.dimensions();
    if (width, height) == (frame::CROP_SIDE, frame::CROP_SIDE) {
        return Crop::from_image(pixels);
    }
    let whole = Rect {
        x: 0.0,
        y: 0.0,
        width: width as f32,
        height: height as f32,
    };
    let region = whole
        .region(0.0, width, height)
        .ok_or(PictureError::Region)?;
    scaler.crop(&pixels, region)
}

#[cfg(test)]
mod tests;
