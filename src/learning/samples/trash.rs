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

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::PathBuf;

use super::error::StoreError;
use super::listing::Reader;
use super::sample::{Discarded, Removed, Restored, Sample, SampleKind};
use super::store::{Store, delete_file, in_use, settle_all, used_copies_others};
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
        let existing: BTreeSet<&String> = ids.iter().collect();
        let existing = existing
            .into_iter()
            .filter_map(|id| Some((id.clone(), in_use(files.get(id)?)?.label.clone())));
        note(existing.collect());
        let mut touched = BTreeSet::new();
        let mut outcomes = Vec::with_capacity(ids.len());
        for id in ids {
            // `remove` ensures that an id that is passed twice counts as missing the
            // second time.
            let outcome = match files.remove(id) {
                None => Ok(Discarded::Missing),
                Some(mut files) => self.discard_one(&mut files, &mut touched),
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
        touched: &mut BTreeSet<PathBuf>,
    ) -> Result<Discarded, StoreError> {
        let (used, copies, _) = used_copies_others(files)?;
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
        match files::rename(&used.path, &folder.join(used.file_name())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Discarded::Missing),
            moved => moved.map_err(FileError::of("move a sample to", &folder))?,
        }
        touched.insert(folder);
        touched.insert(used.folder().to_owned());
        Ok(Discarded::Done)
    }

    /// Moves discarded samples back to the folders of the labels that they had. Returns one
    /// result per id, in the same order. When this function returns, the changes are
    /// durable on disk.
    ///
    /// # Errors
    /// [`StoreError::File`] if the folders cannot be read.
    pub fn restore(&self, ids: &[String]) -> Result<Vec<Restored>, StoreError> {
        let _guard = self.lock_changes();
        let discarded = self.trash().list()?.samples;
        let mut taken = self.ids()?;
        let mut touched = BTreeSet::new();
        let mut restore = |id: &String| {
            let Some(sample) = discarded.iter().find(|sample| sample.id == *id) else {
                return Ok(Restored::Missing);
            };
            if !taken.insert(id.clone()) {
                return Ok(Restored::Taken);
            }
            let folder = self.folder_of(sample.label.as_ref());
            files::make_real_folder(&folder)?;
            match files::rename(&sample.path, &folder.join(sample.file_name())) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Restored::Missing);
                }
                moved => moved.map_err(FileError::of("move a sample to", &folder))?,
            }
            touched.insert(folder);
            touched.insert(sample.folder().to_owned());
            Ok(Restored::Done)
        };
        let restored = ids
            .iter()
            .map(|id| restore(id).unwrap_or_else(Restored::Failed));
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
