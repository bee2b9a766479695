//! Changes to the store: capturing, labeling, expiring, and deleting crops.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use image::codecs::jpeg::JpegEncoder;
use tracing::warn;

use super::error::StoreError;
use super::listing::{Reader, cache_name, entries};
use super::sample::{
    Added, Expired, LabelFilter, Labelled, NewSample, Pruned, Removed, Sample, SampleKind,
};
use super::{FEATURE_EXTENSION, FEATURES_FOLDER, JPEG_QUALITY, MAX_PICTURE_BYTES, UNLABELLED};
use super::{feature, name, quality, sha256, trash_limits};
use crate::frame::Crop;
use crate::frame::quality::Quality;
use crate::onnx::Label;
use crate::platform::files::{self, FileError, Lock, PendingFile};
use crate::vision::embed::Feature;

/// The temporary files of a crop that is about to become a sample.
struct Prepared {
    content: PendingFile,
    extension: &'static str,
    features: Option<PendingFile>,
}

/// Write access to the store for one process at a time. A `Store` also provides
/// everything that a [`Reader`] provides. Threads can share a `Store`.
#[derive(Debug)]
pub struct Store {
    reader: Reader,
    /// A thread holds this lock while it makes a change. The thread takes the lock
    /// before it checks that a name is free or that a file exists, so that the result
    /// of the check stays valid until the change is done.
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
    /// Opens the samples in a state directory for changes. Creates missing folders (mode
    /// 0700). Deletes features without a sample, and temporary files that a killed
    /// process left behind.
    ///
    /// # Errors
    /// Returns [`StoreError::Busy`] or [`StoreError::File`].
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
        for name in [FEATURES_FOLDER, UNLABELLED] {
            let folder = root.join(name);
            files::make_real_folder(&folder)?;
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
        store.remove_orphaned_features()?;
        Ok(store)
    }

    /// Opens the samples in a state directory for reading. The directory need not exist.
    #[must_use]
    pub fn read_only(state: &Path) -> Reader {
        Reader {
            root: state.join("samples"),
        }
    }

    /// Stores crops, each directly in the folder of its label, and returns their ids in
    /// the same order. When this function returns, the crops are durable on disk. Folders
    /// are synced once per batch.
    ///
    /// If an id is already in use, the next free number in the track is used, so ids stay
    /// unique even if the clock jumps.
    ///
    /// # Errors
    /// [`StoreError::Rows`] or [`StoreError::Encode`] for a crop that is invalid, and
    /// [`StoreError::File`] if no crop could be stored. If a crop cannot be written after
    /// others have been stored, only the ids of the stored crops are returned, so there
    /// are fewer ids than crops in the batch.
    pub fn capture(&self, batch: &[NewSample]) -> Result<Vec<String>, StoreError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let mut touched = BTreeSet::new();
        let mut ids = Vec::new();
        let mut failed = None;
        for new in batch {
            match self.capture_one(new, &mut touched) {
                Ok(id) => ids.push(id),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        // Sync even after a failure, because the crops that were stored before the
        // failure are kept.
        settle_all(&touched);
        match failed {
            Some(error) if ids.is_empty() || !matches!(error, StoreError::File(_)) => Err(error),
            _ => Ok(ids),
        }
    }

    fn capture_one(
        &self,
        new: &NewSample,
        touched: &mut BTreeSet<PathBuf>,
    ) -> Result<String, StoreError> {
        let folder = self.folder_of(new.label);
        let prepared = self.prepare(&folder, new)?;
        let _guard = self.lock_changes();
        let mut taken = self.ids()?;
        taken.extend(self.trash().ids()?);
        let mut numbers = u64::from(new.number)..;
        let id = loop {
            let number = numbers.next().unwrap_or(u64::MAX);
            let id = name::id(new.at, new.track, number);
            if !taken.contains(&id) {
                break id;
            }
        };
        self.place(prepared, &folder, &id, touched)?;
        Ok(id)
    }

    /// Stores a crop that a person adds, without a label. Its id is derived from its content,
    /// so that the same crop is not stored again. It is a track of its own.
    ///
    /// # Errors
    /// [`StoreError::Rows`], [`StoreError::Encode`], or [`StoreError::File`].
    pub fn add(
        &self,
        crop: &Crop,
        quality: &Quality,
        feature: &Feature,
        backbone: [u8; 32],
    ) -> Result<Added, StoreError> {
        let id = name::content_id(&jpeg(crop)?);
        let new = NewSample {
            // The id has no time and no track.
            at: SystemTime::UNIX_EPOCH,
            track: 0,
            number: 0,
            label: None,
            crop: Some(crop),
            quality: Some(quality),
            feature,
            backbone,
        };
        let folder = self.folder_of(None);
        let prepared = self.prepare(&folder, &new)?;
        let mut touched = BTreeSet::new();
        let guard = self.lock_changes();
        let is_known = self.ids()?.contains(&id) || self.trash().ids()?.contains(&id);
        if is_known {
            return Ok(Added { id, is_new: false });
        }
        let placed = self.place(prepared, &folder, &id, &mut touched);
        drop(guard);
        settle_all(&touched);
        placed?;
        Ok(Added { id, is_new: true })
    }

    /// Writes a crop and its features to temporary files.
    fn prepare(&self, folder: &Path, new: &NewSample) -> Result<Prepared, StoreError> {
        files::make_real_folder(folder)?;
        let encode = |picture: Option<&[u8; 32]>| {
            let rows = [new.feature];
            feature::encode(&new.backbone, picture, &rows).ok_or(StoreError::Rows { rows: 1 })
        };
        let (extension, content, features) = match new.crop {
            Some(crop) => {
                let mut jpeg = jpeg(crop)?;
                if let Some(known) = new.quality {
                    jpeg = quality::add(&jpeg, known);
                }
                let features = encode(Some(&sha256(&jpeg)))?;
                ("jpg", jpeg, Some(features))
            }
            None => (FEATURE_EXTENSION, encode(None)?, None),
        };
        let content = pending(folder, &content)?;
        // Everything that needs space on the disk is written before the sample exists.
        let cache = self.root.join(FEATURES_FOLDER);
        let features = features.map(|bytes| pending(&cache, &bytes)).transpose()?;
        Ok(Prepared {
            content,
            extension,
            features,
        })
    }

    /// Turns temporary files into a sample. The caller holds the lock for changes.
    fn place(
        &self,
        prepared: Prepared,
        folder: &Path,
        id: &str,
        touched: &mut BTreeSet<PathBuf>,
    ) -> Result<(), StoreError> {
        let Prepared {
            content,
            extension,
            features,
        } = prepared;
        touched.insert(folder.to_owned());
        // Store the picture first, because a picture without features is a sample, but
        // features without their picture are useless.
        content.place(&folder.join(format!("{id}.{extension}")))?;
        if let Some(features) = features {
            touched.insert(self.root.join(FEATURES_FOLDER));
            let path = self.cache(id);
            // A failure is not an error, because the sample already exists and its
            // features can be computed again.
            if let Err(error) = features.place(&path) {
                warn!(%error, "the features of a face picture are not stored");
            }
        }
        Ok(())
    }

    /// Labels samples by moving their files. `None` removes the label. Returns one result
    /// per id, in the same order. When this function returns, the changes are durable on
    /// disk.
    ///
    /// If several files share an id, moves the file in use, and deletes exact copies of
    /// it.
    ///
    /// # Errors
    /// [`StoreError::File`] if the folders cannot be read or created.
    pub fn label(
        &self,
        ids: &[String],
        label: Option<&Label>,
    ) -> Result<Vec<Labelled>, StoreError> {
        self.label_noting(ids, label, |_| ())
    }

    /// Labels samples like [`label`](Store::label), but first calls `note` with the ids and
    /// the present labels of the samples whose labels are about to change.
    ///
    /// # Errors
    /// Returns the same errors as [`label`](Store::label).
    pub fn label_noting(
        &self,
        ids: &[String],
        label: Option<&Label>,
        note: impl FnOnce(Vec<(String, Option<Label>)>),
    ) -> Result<Vec<Labelled>, StoreError> {
        let _guard = self.lock_changes();
        let mut files = self.scan()?.files;
        let folder = self.folder_of(label);
        files::make_real_folder(&folder)?;
        let changed: BTreeSet<&String> = ids.iter().collect();
        let changed = changed.into_iter().filter_map(|id| {
            let present = in_use(files.get(id)?)?.label.clone();
            (present.as_ref() != label).then(|| (id.clone(), present))
        });
        note(changed.collect());
        let mut touched = BTreeSet::new();
        let mut outcomes = Vec::with_capacity(ids.len());
        for id in ids {
            let files = files.get_mut(id);
            let outcome = files.map_or(Ok(Labelled::Missing), |files| {
                move_sample(files, label, &folder, &mut touched)
            });
            outcomes.push(outcome.unwrap_or_else(Labelled::Failed));
        }
        settle_all(&touched);
        Ok(outcomes)
    }

    /// Gives samples the labels that they had before, but only those that still have the
    /// label `present`. Returns one result per sample, in the same order. When this function
    /// returns, the changes are durable on disk.
    ///
    /// # Errors
    /// [`StoreError::File`] if the folders cannot be read or created.
    pub fn label_back(
        &self,
        before: &[(String, Option<Label>)],
        present: Option<&Label>,
    ) -> Result<Vec<Labelled>, StoreError> {
        let _guard = self.lock_changes();
        let mut files = self.scan()?.files;
        let mut touched = BTreeSet::new();
        let mut outcomes = Vec::with_capacity(before.len());
        for (id, label) in before {
            let label = label.as_ref();
            let folder = self.folder_of(label);
            files::make_real_folder(&folder)?;
            let outcome = match files.get_mut(id) {
                None => Ok(Labelled::Missing),
                Some(files) => {
                    let now = in_use(files).and_then(|sample| sample.label.as_ref());
                    if now == present || now == label {
                        move_sample(files, label, &folder, &mut touched)
                    } else {
                        Ok(Labelled::Changed)
                    }
                }
            };
            outcomes.push(outcome.unwrap_or_else(Labelled::Failed));
        }
        settle_all(&touched);
        Ok(outcomes)
    }

    /// Deletes all samples with this label that `is_selected` accepts, including every
    /// copy, all features, and the discarded samples that had this label. Keeps
    /// [ignored](super::Listing::ignored) files and folders. Calls `is_canceled` before each file, and stops as soon as it returns
    /// true.
    ///
    /// # Errors
    /// Returns the first [`StoreError::File`]. The other samples are deleted even if
    /// one cannot be deleted.
    pub fn purge(
        &self,
        which: &LabelFilter,
        is_selected: &dyn Fn(&Sample) -> bool,
        is_canceled: &dyn Fn() -> bool,
    ) -> Result<Removed, StoreError> {
        let _guard = self.lock_changes();
        let discarded = self.trash().scan()?.files;
        let files = match which {
            LabelFilter::Discarded => BTreeMap::new(),
            _ => self.scan()?.files,
        };
        let selected = |sample: &&Sample| which.matches(sample) && is_selected(sample);
        let all = discarded.values().chain(files.values()).flatten();
        let selected: Vec<&Sample> = all.filter(selected).collect();
        let removed = self.remove(&selected, is_canceled);
        let tidied = self.remove_orphaned_features();
        let removed = removed?;
        tidied?;
        Ok(removed)
    }

    /// Returns the ids of all samples and of all discarded samples.
    ///
    /// # Errors
    /// Returns [`StoreError::File`].
    pub fn all_ids(&self) -> Result<HashSet<String>, StoreError> {
        // Nothing may be moved between the two listings.
        let _guard = self.lock_changes();
        let mut ids = self.ids()?;
        ids.extend(self.trash().ids()?);
        Ok(ids)
    }

    /// Keeps the store within its limits. First calls `by_age`, which sorts the samples and
    /// the discarded samples from oldest to newest, and returns the ids of those to delete
    /// because of their age. Then, while samples, features, and discarded samples take up
    /// more than `max_bytes`, deletes discarded samples and then unlabeled samples, oldest
    /// first. Labeled samples are never deleted to save space, because a person spent time
    /// on labeling them.
    ///
    /// Files that are too large to be crops ([`Sample::is_large`]) do not count toward
    /// `max_bytes`, and are never deleted to save space.
    ///
    /// # Errors
    /// Returns the first [`StoreError::File`]. The other samples are deleted even if
    /// one cannot be deleted.
    pub fn prune(
        &self,
        max_bytes: u64,
        by_age: impl FnOnce(&mut Vec<&Sample>, &mut Vec<&Sample>) -> Expired,
    ) -> Result<Pruned, StoreError> {
        let _guard = self.lock_changes();
        let (files, discarded) = (self.scan()?.files, self.trash().scan()?.files);
        let mut files: Vec<&Sample> = files.values().flatten().collect();
        let mut discarded: Vec<&Sample> = discarded.values().flatten().collect();
        let expired = by_age(&mut files, &mut discarded);
        let (mut selected, rest): (Vec<_>, Vec<_>) = files
            .into_iter()
            .partition(|sample| expired.samples.contains(&sample.id));
        let (deleted, discarded) = trash_limits::select(discarded, &expired.discarded);
        selected.extend(deleted);
        let mut pruned = Pruned::default();
        for sample in rest.iter().chain(&discarded) {
            if sample.is_large() {
                pruned.not_counted += 1;
                continue;
            }
            pruned.bytes = pruned.bytes.saturating_add(sample.disk_bytes);
            if sample.label.is_some() && !self.is_discarded(sample) {
                let bytes = pruned.labelled_bytes.saturating_add(sample.disk_bytes);
                pruned.labelled_bytes = bytes;
            }
        }
        let unlabelled = rest.into_iter().filter(|sample| sample.label.is_none());
        for sample in discarded.into_iter().chain(unlabelled) {
            if pruned.bytes <= max_bytes {
                break;
            }
            if !sample.is_large() {
                pruned.bytes = pruned.bytes.saturating_sub(sample.disk_bytes);
                selected.push(sample);
            }
        }
        let removed = self.remove(&selected, &|| false);
        if let Err(error) = self.remove_orphaned_features() {
            warn!(%error, "features without a face picture are not deleted");
        }
        pruned.removed = removed?;
        Ok(pruned)
    }

    /// Stores the features of a sample's picture, replacing any existing features. The
    /// first row holds the features of the crop itself, and the other rows hold the
    /// features of its variants.
    ///
    /// # Errors
    /// Returns [`StoreError::Gone`] if the sample was deleted in the meantime,
    /// [`StoreError::NoPicture`], [`StoreError::Rows`], or [`StoreError::File`].
    pub fn put_features(
        &self,
        sample: &Sample,
        backbone: &[u8; 32],
        rows: &[Feature],
    ) -> Result<(), StoreError> {
        if sample.kind == SampleKind::FeatureOnly {
            let id = sample.id.clone();
            return Err(StoreError::NoPicture { id });
        }
        let picture = sha256(&self.read(sample)?);
        let all: Vec<&Feature> = rows.iter().collect();
        let bytes = feature::encode(backbone, Some(&picture), &all)
            .ok_or(StoreError::Rows { rows: rows.len() })?;
        let folder = self.root.join(FEATURES_FOLDER);
        let pending = pending(&folder, &bytes)?;
        let _guard = self.lock_changes();
        // If the picture was deleted after it was read, its features must not be stored.
        if self.locate(sample)?.is_none() {
            let id = sample.id.clone();
            return Err(StoreError::Gone { id });
        }
        pending.place(&self.cache(&sample.id))?;
        files::settle(&folder);
        Ok(())
    }

    pub(super) fn lock_changes(&self) -> MutexGuard<'_, ()> {
        // A thread that panicked left only complete files, so there is nothing to repair.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deletes samples until `is_canceled` returns true. If a sample cannot be deleted,
    /// continues with the next one. Returns the first error, if any.
    pub(super) fn remove(
        &self,
        samples: &[&Sample],
        is_canceled: &dyn Fn() -> bool,
    ) -> Result<Removed, StoreError> {
        let mut touched = BTreeSet::new();
        let mut removed = Removed::default();
        let mut first = None;
        let mut deleted = 0;
        for sample in samples {
            if is_canceled() {
                break;
            }
            match self.delete(sample, &mut touched) {
                Ok(()) => {
                    removed.add(sample, self.is_discarded(sample));
                    deleted += 1;
                }
                Err(error) => first = first.or(Some(error)),
            }
        }
        settle_all(&touched);
        match first {
            None => Ok(removed),
            Some(error) if deleted == 0 => Err(error),
            Some(error) => Err(StoreError::Partly {
                deleted,
                left: samples.len() - deleted,
                error: Box::new(error),
            }),
        }
    }

    /// Deletes the features of a sample and then its file. In the opposite order, a
    /// kill between the two steps would leave the features of a deleted face.
    pub(super) fn delete(
        &self,
        sample: &Sample,
        touched: &mut BTreeSet<PathBuf>,
    ) -> Result<(), StoreError> {
        let cache = self.cache(&sample.id);
        // The features of a discarded sample were deleted when it was discarded.
        let has_features = sample.kind == SampleKind::Picture && !self.is_discarded(sample);
        if has_features && delete_file(&cache)? {
            touched.insert(self.root.join(FEATURES_FOLDER));
        }
        if delete_file(&sample.path)? {
            touched.insert(sample.folder().to_owned());
        }
        Ok(())
    }

    /// Deletes features without a picture. They exist if a person deleted the picture
    /// or if the process was killed during a change.
    fn remove_orphaned_features(&self) -> Result<(), StoreError> {
        let folder = self.root.join(FEATURES_FOLDER);
        let cached: Vec<PathBuf> = entries(&folder)?.iter().map(fs::DirEntry::path).collect();
        // List the ids twice, because one pass can miss a file that is being moved.
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
        settle_all(&touched);
        Ok(())
    }
}

/// Returns the file that is in use, of the files that share an id.
pub(super) fn in_use(files: &[Sample]) -> Option<&Sample> {
    files.iter().max_by(|a, b| a.rank().cmp(&b.rank()))
}

/// Moves a sample. Of the files that share its id, moves the file in use into `folder`,
/// and deletes exact copies of it.
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
        match files::rename(&used.path, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Labelled::Missing),
            moved => moved.map_err(FileError::of("move a sample to", folder))?,
        }
        touched.insert(folder.to_owned());
        touched.insert(used.folder().to_owned());
    }
    // The sample already has its label, so a copy that cannot be deleted is not an error.
    // The listing reports the copy.
    for copy in copies.iter().filter(|copy| copy.path != path) {
        match delete_file(&copy.path) {
            Ok(true) => {
                touched.insert(copy.folder().to_owned());
            }
            Ok(false) => {}
            Err(error) => warn!(%error, "a copy of a face picture is not deleted"),
        }
    }
    if stays {
        return Ok(Labelled::Already);
    }
    // Update the list, so that the moved file is found if the same id is passed again.
    let mut moved = used.clone();
    moved.label = label.cloned();
    moved.path = path;
    let mut left: Vec<Sample> = others.into_iter().cloned().collect();
    left.push(moved);
    *files = left;
    Ok(Labelled::Done)
}

/// Divides the files that share an id into the file in use, exact copies of it, and the
/// others.
pub(super) fn used_copies_others(
    files: &mut [Sample],
) -> Result<(&Sample, Vec<&Sample>, Vec<&Sample>), StoreError> {
    files.sort_by(|a, b| b.rank().cmp(&a.rank()));
    let Some((used, rest)) = files.split_first() else {
        let source = io::ErrorKind::NotFound.into();
        return Err(FileError::of("find a sample in", Path::new("samples"))(source).into());
    };
    let (mut copies, mut others) = (Vec::new(), Vec::new());
    for other in rest {
        if is_copy(used, other)? {
            copies.push(other);
        } else {
            others.push(other);
        }
    }
    Ok((used, copies, others))
}

/// Whether the files of two samples have the same content.
pub(super) fn is_copy(a: &Sample, b: &Sample) -> Result<bool, StoreError> {
    let read = |sample: &Sample| files::read_own(&sample.path, MAX_PICTURE_BYTES);
    Ok(a.bytes == b.bytes && read(a)? == read(b)?)
}

/// Deletes a file, and returns whether it existed.
pub(super) fn delete_file(path: &Path) -> Result<bool, StoreError> {
    match files::delete(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(FileError::of("delete", path)(error).into()),
    }
}

/// Writes a pending file. Creates the folder first, because a person may have deleted it
/// since the store was opened.
pub(super) fn pending(folder: &Path, content: &[u8]) -> Result<PendingFile, StoreError> {
    files::make_real_folder(folder)?;
    Ok(PendingFile::write(folder, content)?)
}

/// Syncs the folders in which files were created, moved, or deleted.
pub(super) fn settle_all(folders: &BTreeSet<PathBuf>) {
    for folder in folders {
        files::settle(folder);
    }
}

pub(super) fn jpeg(crop: &Crop) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
        .encode_image(crop.pixels())
        .map_err(|error| StoreError::Encode(error.to_string()))?;
    Ok(bytes)
}
