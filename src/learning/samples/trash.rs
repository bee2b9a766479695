//! The trash: discarded samples, which can be restored for a while.
//!
//! ```text
//! samples/.trash/with_mask/20261124T101530.123Z-t000017-01.jpg
//! ```
//!
//! A discarded file is moved and not copied, so that it is always in exactly one place,
//! whenever the process is killed. The folder in the trash is the label that the sample
//! had. The trash is inside the folder of the samples, so a move never leaves the file
//! system. It is bounded, and the caller decides when its samples are too old.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::listing::Reader;
use super::sample::{Discarded, LabelFilter, Removed, Restored, Sample, SampleKind};
use super::store::{Store, delete_file, in_use, is_copy, settle_all, used_copies_others};
use super::trash_limits::select;
use super::{FEATURES_FOLDER, TRASH_FOLDER};
use crate::onnx::Label;
use crate::platform::files::{self, FileError};

impl Reader {
    /// Returns read access to the discarded samples.
    #[must_use]
    pub fn trash(&self) -> Reader {
        Reader {
            root: self.root.join(TRASH_FOLDER),
        }
    }
}

impl Store {
    /// Moves the pictures of samples to the trash. Deletes exact copies of these pictures,
    /// and the features of the samples, which can be computed again. Returns one result per
    /// id, in the same order. When this function returns, the changes are durable on disk.
    ///
    /// No two samples in the trash have the same id and had the same label, so that each can
    /// be restored.
    ///
    /// # Errors
    /// [`StoreError::File`] if the folders cannot be read.
    pub fn discard(&self, ids: &[String]) -> Result<Vec<Discarded>, StoreError> {
        self.discard_noting(ids, |_| ())
    }

    /// Discards samples like [`discard`](Store::discard), but first calls `note` with the ids
    /// and the labels of the samples that are about to be discarded.
    ///
    /// # Errors
    /// Returns the same errors as [`discard`](Store::discard).
    pub fn discard_noting(
        &self,
        ids: &[String],
        note: impl FnOnce(Vec<(String, Option<Label>)>),
    ) -> Result<Vec<Discarded>, StoreError> {
        let _guard = self.lock_changes();
        let mut files = self.scan()?.files;
        let trash = self.trash().scan()?.files;
        let existing: BTreeSet<&String> = ids.iter().collect();
        let existing = existing
            .into_iter()
            .filter_map(|id| in_use(files.get(id)?))
            // A sample that cannot be compared is not discarded either.
            .filter(|sample| {
                let place = self.place_in_trash(sample, &trash);
                matches!(place, Ok(Place::Free | Place::Copy))
            })
            .map(|sample| (sample.id.clone(), sample.label.clone()));
        note(existing.collect());
        let mut touched = BTreeSet::new();
        let mut outcomes = Vec::with_capacity(ids.len());
        for id in ids {
            // `remove` ensures that an id that is passed twice counts as missing the
            // second time.
            let outcome = match files.remove(id) {
                None => Ok(Discarded::Missing),
                Some(mut files) => self.discard_one(&mut files, &trash, &mut touched),
            };
            outcomes.push(outcome.unwrap_or_else(Discarded::Failed));
        }
        settle_all(&touched);
        Ok(outcomes)
    }

    /// The move is the last step. If an earlier step fails, the sample stays where it is.
    fn discard_one(
        &self,
        files: &mut [Sample],
        discarded: &BTreeMap<String, Vec<Sample>>,
        touched: &mut BTreeSet<PathBuf>,
    ) -> Result<Discarded, StoreError> {
        let (used, copies, _) = used_copies_others(files)?;
        let place = self.place_in_trash(used, discarded)?;
        if place == Place::Taken {
            return Ok(Discarded::Taken);
        }
        let trash = self.trash();
        let folder = trash.folder_of(used.label.as_ref());
        files::make_real_folder(&trash.root)?;
        files::make_real_folder(&folder)?;
        for copy in copies {
            self.delete(copy, touched)?;
        }
        if used.kind == SampleKind::Picture && delete_file(&self.cache(&used.id))? {
            touched.insert(self.root.join(FEATURES_FOLDER));
        }
        let path = folder.join(used.file_name());
        let moved = match place {
            Place::Copy => files::delete(&used.path),
            _ => files::rename(&used.path, &path),
        };
        match moved {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Discarded::Missing),
            moved => moved.map_err(FileError::of("move a sample to", &folder))?,
        }
        touched.insert(folder);
        touched.insert(used.folder().to_owned());
        Ok(Discarded::Done)
    }

    /// Returns what is in the place of a sample in the trash. `discarded` holds the files in
    /// the trash by id.
    fn place_in_trash(
        &self,
        sample: &Sample,
        discarded: &BTreeMap<String, Vec<Sample>>,
    ) -> Result<Place, StoreError> {
        let namesakes = discarded.get(&sample.id).into_iter().flatten();
        let mut namesakes = namesakes.filter(|other| other.label == sample.label);
        if let Some(other) = namesakes.next() {
            let is_copy = is_copy(sample, other)?;
            return Ok(if is_copy { Place::Copy } else { Place::Taken });
        }
        let folder = self.trash().folder_of(sample.label.as_ref());
        let is_taken = is_there(&folder.join(sample.file_name()));
        Ok(if is_taken { Place::Taken } else { Place::Free })
    }

    /// Moves discarded samples back to the folders of the labels that they had. Returns one
    /// result per id, in the same order. When this function returns, the changes are
    /// durable on disk. If several discarded samples share an id, restores the one that the
    /// listing of the trash shows.
    ///
    /// # Errors
    /// [`StoreError::File`] if the folders cannot be read.
    pub fn restore(&self, ids: &[String]) -> Result<Vec<Restored>, StoreError> {
        let ids = ids.iter().map(|id| (id, LabelFilter::All));
        self.restore_each(&ids.collect::<Vec<_>>())
    }

    /// Restores discarded samples like [`restore`](Store::restore), but only those that had
    /// the given labels. `None` stands for no label.
    ///
    /// # Errors
    /// Returns the same errors as [`restore`](Store::restore).
    pub fn restore_to(
        &self,
        wanted: &[(String, Option<Label>)],
    ) -> Result<Vec<Restored>, StoreError> {
        let wanted = wanted.iter().map(|(id, label)| {
            let label = label.clone();
            (
                id,
                label.map_or(LabelFilter::Unlabelled, LabelFilter::Labelled),
            )
        });
        self.restore_each(&wanted.collect::<Vec<_>>())
    }

    /// Restores samples by id and by the label that they had.
    fn restore_each(&self, wanted: &[(&String, LabelFilter)]) -> Result<Vec<Restored>, StoreError> {
        let _guard = self.lock_changes();
        let mut discarded = self.trash().scan()?.files;
        let mut taken = self.ids()?;
        let mut touched = BTreeSet::new();
        let mut restore = |id: &String, label: &LabelFilter| {
            let files = discarded.get_mut(id).map(Vec::as_mut_slice);
            let files = files.unwrap_or_default();
            files.sort_by(|a, b| b.rank().cmp(&a.rank()));
            let Some(sample) = files.iter().find(|sample| label.matches(sample)) else {
                return Ok(Restored::Missing);
            };
            if taken.contains(id) {
                return Ok(Restored::Taken);
            }
            let folder = self.folder_of(sample.label.as_ref());
            files::make_real_folder(&folder)?;
            let path = folder.join(sample.file_name());
            if is_there(&path) {
                return Ok(Restored::Taken);
            }
            match files::rename(&sample.path, &path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Restored::Missing);
                }
                moved => moved.map_err(FileError::of("move a sample to", &folder))?,
            }
            taken.insert(id.clone());
            touched.insert(folder);
            touched.insert(sample.folder().to_owned());
            Ok(Restored::Done)
        };
        let restored = wanted
            .iter()
            .map(|(id, label)| restore(id, label).unwrap_or_else(Restored::Failed));
        let restored = restored.collect();
        settle_all(&touched);
        Ok(restored)
    }

    /// Deletes discarded samples for good: the ones that `by_age` returns, and the oldest
    /// ones while there are too many of them. `by_age` also sorts them from oldest to newest.
    ///
    /// # Errors
    /// Returns the first [`StoreError::File`]. The other samples are deleted even if
    /// one cannot be deleted.
    pub fn prune_trash(
        &self,
        by_age: impl FnOnce(&mut Vec<&Sample>) -> HashSet<String>,
    ) -> Result<Removed, StoreError> {
        let _guard = self.lock_changes();
        let files = self.trash().scan()?.files;
        let mut discarded: Vec<&Sample> = files.values().flatten().collect();
        let expired = by_age(&mut discarded);
        let (expired, _) = select(discarded, &expired);
        self.remove(&expired, &|| false)
    }

    /// Whether a sample is in the trash.
    pub(super) fn is_discarded(&self, sample: &Sample) -> bool {
        sample.path.starts_with(self.trash().root)
    }
}

/// What the trash holds in the place of a sample that is about to be discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing.
    Free,
    /// An exact copy of the picture.
    Copy,
    /// Another picture with the same id and label, or another file with the same name.
    Taken,
}

/// Whether there is a file, a folder, or a link at this path.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
