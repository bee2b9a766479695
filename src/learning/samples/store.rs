//! Changes to the store: capturing, labeling, expiring and deleting crops.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use image::codecs::jpeg::JpegEncoder;
use tracing::warn;

use super::error::StoreError;
use super::listing::{Reader, cache_name, entries, files_in, id_of};
use super::sample::{
    Discarded, LabelFilter, Labelled, NewSample, Pruned, Removed, Sample, SampleKind,
};
use super::{FEATURE_EXTENSION, FEATURES_FOLDER, JPEG_QUALITY, MAX_PICTURE_BYTES, UNLABELLED};
use super::{feature, name, sha256};
use crate::frame::Crop;
use crate::onnx::Label;
use crate::platform::files::{self, FileError, Lock, PendingFile};
use crate::vision::embed::Feature;

/// Write access to the store for one process at a time. It can do everything that a
/// [`Reader`] can, and threads can share it.
#[derive(Debug)]
pub struct Store {
    reader: Reader,
    /// Held from the moment when a thread checks that a name is free, or that a file
    /// exists, until the change that relies on that check is done.
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
    /// 0700), and deletes temporary files and features without a sample, which a killed
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
    /// the same order. When this returns, the crops are durable on disk; folders are
    /// synced once per batch.
    ///
    /// If an id is taken, the next free number in the track is used, so ids stay unique
    /// even if the clock jumps.
    ///
    /// # Errors
    /// [`StoreError::Rows`] or [`StoreError::Encode`] for a crop that is invalid, and
    /// [`StoreError::File`] if no crop could be stored. If the disk refused a crop after
    /// others were stored, the ids of these are returned, which are then fewer than the
    /// crops of the batch.
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
        // Sync even after a failure, because the crops stored before it stay.
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
        files::make_real_folder(&folder)?;
        let cache = self.root.join(FEATURES_FOLDER);
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
        // Everything that needs space on the disk is written before the sample exists.
        let features = features
            .map(|bytes| self::pending(&cache, &bytes))
            .transpose()?;
        touched.insert(folder.clone());

        let _guard = self.lock_changes();
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
        // Store the picture first, because a picture without features is a sample, but
        // features without their picture are useless.
        pending.place(&path)?;
        if let Some(features) = features {
            touched.insert(cache.clone());
            let path = self.cache(&id);
            // The sample exists already, and its features can be computed again.
            if let Err(error) = features.place(&path) {
                warn!(%error, "the features of a face picture are not stored");
            }
        }
        Ok(id)
    }

    /// Labels samples by moving their files; `None` removes the label. Returns one
    /// result per id, in the same order. When this returns, the changes are durable on
    /// disk.
    ///
    /// If an id has several files, the one that is used is moved, and exact copies of it
    /// are deleted.
    ///
    /// # Errors
    /// [`StoreError::File`] if the folders cannot be read or created.
    pub fn label(
        &self,
        ids: &[String],
        label: Option<&Label>,
    ) -> Result<Vec<Labelled>, StoreError> {
        let _guard = self.lock_changes();
        let mut files = self.scan()?.files;
        let folder = self.folder_of(label);
        files::make_real_folder(&folder)?;
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

    /// Deletes samples: their pictures, exact copies of those, and their features.
    /// Returns one result per id, in the same order.
    ///
    /// # Errors
    /// [`StoreError::File`] if the folders cannot be read.
    pub fn discard(&self, ids: &[String]) -> Result<Vec<Discarded>, StoreError> {
        let _guard = self.lock_changes();
        let mut files = self.scan()?.files;
        let mut touched = BTreeSet::new();
        let mut outcomes = Vec::with_capacity(ids.len());
        for id in ids {
            // `remove` makes an id that is passed twice count as missing the second time.
            let outcome = match files.remove(id) {
                None => Discarded::Missing,
                Some(mut files) => self
                    .discard_one(&mut files, &mut touched)
                    .map_or_else(Discarded::Failed, |()| Discarded::Done),
            };
            outcomes.push(outcome);
        }
        settle_all(&touched);
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

    /// Deletes all samples with this label that `is_selected` accepts, including every copy
    /// and all features. Keeps [ignored](super::Listing::ignored) files and folders.
    ///
    /// # Errors
    /// Returns the first [`StoreError::File`], after as much as possible has been deleted.
    pub fn purge(
        &self,
        which: &LabelFilter,
        is_selected: &dyn Fn(&Sample) -> bool,
    ) -> Result<Removed, StoreError> {
        let _guard = self.lock_changes();
        let files = self.scan()?.files;
        let selected = |sample: &&Sample| {
            let labelled = match which {
                LabelFilter::All => true,
                LabelFilter::Unlabelled => sample.label.is_none(),
                LabelFilter::Labelled(label) => sample.label.as_ref() == Some(label),
            };
            labelled && is_selected(sample)
        };
        let selected: Vec<&Sample> = files.values().flatten().filter(selected).collect();
        let removed = self.remove(&selected)?;
        self.remove_orphaned_features()?;
        Ok(removed)
    }

    /// Keeps the store within its limits. First deletes the samples whose ids `by_age`
    /// returns; `by_age` gets all samples and sorts them, the oldest first. Then, while
    /// samples and features take up more than `max_bytes`, deletes unlabeled samples in
    /// that order. Labeled samples, which cost a person work, are never deleted because
    /// of a size.
    ///
    /// Files that are too large to be crops ([`Sample::is_large`]) are not counted, and
    /// are not deleted because of a size either.
    ///
    /// # Errors
    /// Returns the first [`StoreError::File`], after as much as possible has been deleted.
    pub fn prune(
        &self,
        max_bytes: u64,
        by_age: impl FnOnce(&mut Vec<&Sample>) -> HashSet<String>,
    ) -> Result<Pruned, StoreError> {
        let _guard = self.lock_changes();
        let files = self.scan()?.files;
        let mut files: Vec<&Sample> = files.values().flatten().collect();
        let ended = by_age(&mut files);
        let (mut selected, rest): (Vec<_>, Vec<_>) = files
            .into_iter()
            .partition(|sample| ended.contains(&sample.id));
        let mut pruned = Pruned::default();
        for sample in &rest {
            if sample.is_large() {
                pruned.not_counted += 1;
                continue;
            }
            pruned.bytes = pruned.bytes.saturating_add(sample.disk_bytes);
            if sample.label.is_some() {
                let bytes = pruned.labelled_bytes.saturating_add(sample.disk_bytes);
                pruned.labelled_bytes = bytes;
            }
        }
        for sample in rest {
            if pruned.bytes <= max_bytes {
                break;
            }
            if sample.label.is_none() && !sample.is_large() {
                pruned.bytes = pruned.bytes.saturating_sub(sample.disk_bytes);
                selected.push(sample);
            }
        }
        pruned.removed = self.remove(&selected)?;
        if let Err(error) = self.remove_orphaned_features() {
            warn!(%error, "features without a face picture are not deleted");
        }
        Ok(pruned)
    }

    /// Stores the features of a sample's picture and replaces existing ones. The first
    /// row holds the features of the crop itself; the other rows hold those of its
    /// variants.
    ///
    /// # Errors
    /// Returns [`StoreError::Gone`] if the sample was deleted in the meantime,
    /// [`StoreError::NoPicture`], [`StoreError::Rows`], [`StoreError::File`].
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

    /// The ids that are already in use.
    fn ids(&self) -> Result<HashSet<String>, StoreError> {
        let mut ids = HashSet::new();
        for (_, folder) in self.label_folders(&mut Vec::new())? {
            let files = files_in(&folder, &mut Vec::new())?;
            ids.extend(files.iter().filter_map(|path| id_of(path)));
        }
        Ok(ids)
    }

    /// Deletes as many samples as possible; returns the first error, if any.
    fn remove(&self, samples: &[&Sample]) -> Result<Removed, StoreError> {
        let mut touched = BTreeSet::new();
        let mut removed = Removed::default();
        let mut first = None;
        let mut deleted = 0;
        for sample in samples {
            match self.delete(sample, &mut touched) {
                Ok(()) => {
                    removed.add(sample);
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

    /// Deletes the features of a sample and then its file. In the opposite order, a kill
    /// in between would leave the features of a deleted face.
    fn delete(&self, sample: &Sample, touched: &mut BTreeSet<PathBuf>) -> Result<(), StoreError> {
        let cache = self.cache(&sample.id);
        if sample.kind == SampleKind::Picture && delete_file(&cache)? {
            touched.insert(self.root.join(FEATURES_FOLDER));
        }
        if delete_file(&sample.path)? {
            touched.insert(sample.folder().to_owned());
        }
        Ok(())
    }

    /// Deletes features whose picture no longer exists, because a person deleted it or
    /// because the process was killed between two steps.
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

/// Moves the file that is used into `folder`, and deletes exact copies of it.
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
    // The sample has its label already, so a copy that stays behind is no failure; the
    // listing tells of it.
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
    // Update the list, so that an id that is passed twice finds its file the second time.
    let mut moved = used.clone();
    moved.label = label.cloned();
    moved.path = path;
    let mut left: Vec<Sample> = others.into_iter().cloned().collect();
    left.push(moved);
    *files = left;
    Ok(Labelled::Done)
}

/// Divides the files that share an id into the one that is used, exact copies of it, and
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
            let read = |sample: &Sample| files::read_own(&sample.path, MAX_PICTURE_BYTES);
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

/// Deletes a file; returns whether it existed.
fn delete_file(path: &Path) -> Result<bool, StoreError> {
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

/// Syncs the folders in which files were created, moved or deleted.
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
