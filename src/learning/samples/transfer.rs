//! Imports samples from folders into the store, and exports them to folders.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use image::ImageFormat;

use super::error::StoreError;
use super::listing::{
    IN_LABEL_FOLDER, Reader, entries, id_of, kind_of, to_crop, why_no_label_folder,
};
use super::sample::SampleKind;
use super::store::{Store, jpeg, pending, settle_all};
use super::{MAX_PICTURE_BYTES, name};
use crate::frame::names::{LEADS_UP, Unused, why_not_read};
use crate::frame::{CROP_SIDE, Scaler, decoding};
use crate::learning::refuse_within_state;
use crate::onnx::{Label, UNLABELLED};
use crate::platform::files::{self, FileError};

/// The result of importing a folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Number of new samples by label; `None` stands for samples without a label.
    pub added: BTreeMap<Option<Label>, usize>,
    /// Number of pictures that were already in the store with the same label, or with any
    /// label if the imported picture has none.
    pub already: usize,
    /// Pictures that are already in the store with a different label or without a
    /// label. The store keeps them unchanged.
    pub other_label: Vec<PathBuf>,
    /// Files that are named like pictures but cannot be used, with the reason for each.
    pub unreadable: Vec<(PathBuf, String)>,
    /// Paths that were skipped: files that are not named like pictures, folders whose
    /// names are not valid labels, and folders inside label folders.
    pub ignored: Vec<Unused>,
}

/// The result of an export.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Number of pictures that were written, by label; `None` stands for pictures
    /// without a label.
    pub written: BTreeMap<Option<Label>, usize>,
    /// Number of pictures that were already in the target folder.
    pub already: usize,
    /// Number of samples that have no picture, because only their features were kept.
    pub feature_only: usize,
    /// Files in the target folder that have the name of a picture to export but
    /// different content. They were left unchanged.
    pub taken: Vec<PathBuf>,
    /// Number of samples that were deleted during the export.
    pub gone: usize,
}

impl Store {
    /// Copies the pictures in a folder into the store. The label of a picture is the
    /// name of the subfolder that contains it. Pictures in the subfolder `unlabelled`,
    /// and pictures directly in the folder, get no label.
    ///
    /// The pictures are treated as face crops. A picture that is not already a JPEG of
    /// 224 x 224 pixels is stretched to that size. A picture keeps its name only if the
    /// name is in the format of this store. Any other picture gets a name that is
    /// derived from its content, so that the same picture is not imported again under
    /// another name. If the old name contains a track, the new name also contains the
    /// track.
    ///
    /// # Errors
    /// Returns [`StoreError::File`] if a folder cannot be read or the store cannot be
    /// written to, and [`StoreError::Within`] if `folder` is inside the store. A picture
    /// that cannot be read is not an error.
    pub fn import(&self, folder: &Path) -> Result<Imported, StoreError> {
        self.import_unless(folder, &|| false)
    }

    /// Imports a folder like [`import`](Store::import). Calls `is_canceled` before each
    /// picture, and stops as soon as it returns true.
    ///
    /// # Errors
    /// Returns the same errors as [`import`](Store::import), and
    /// [`StoreError::Canceled`].
    pub fn import_unless(
        &self,
        folder: &Path,
        is_canceled: &dyn Fn() -> bool,
    ) -> Result<Imported, StoreError> {
        if !folder.is_dir() {
            let source = io::ErrorKind::NotFound.into();
            return Err(FileError::of("read the folder", folder)(source).into());
        }
        self.refuse_within(folder)?;
        let mut import = Import {
            store: self,
            is_canceled,
            known: self.known()?,
            scaler: Scaler::default(),
            touched: BTreeSet::new(),
            result: Imported::default(),
        };
        let imported = import.folder(folder);
        // Sync even after a failure, because the pictures that were imported before the
        // failure are kept.
        settle_all(&import.touched);
        match imported {
            Ok(()) => Ok(import.result),
            Err(error) => match import.result.added.values().sum() {
                0 => Err(error),
                added => {
                    let error = Box::new(error);
                    Err(StoreError::Stopped { added, error })
                }
            },
        }
    }

    /// Maps the existing ids to their labels. Leaves out the track from the ids of
    /// imported files.
    fn known(&self) -> Result<HashMap<String, Option<Label>>, StoreError> {
        let samples = self.list()?.samples.into_iter();
        let known = samples.map(|sample| (identity(&sample.id).to_owned(), sample.label));
        Ok(known.collect())
    }
}

impl Reader {
    /// Copies the pictures in the store into a folder, in the layout that
    /// `maskd train --dataset` accepts: one folder per label, and `unlabelled`. Existing
    /// files are not changed.
    ///
    /// # Errors
    /// [`StoreError::File`], [`StoreError::Within`], or [`StoreError::WithinState`].
    pub fn export(&self, folder: &Path) -> Result<Exported, StoreError> {
        self.export_unless(folder, &|| false)
    }

    /// Exports the pictures like [`export`](Reader::export). Calls `is_canceled` before
    /// each picture, and stops as soon as it returns true.
    ///
    /// # Errors
    /// Returns the same errors as [`export`](Reader::export), and
    /// [`StoreError::Canceled`].
    pub fn export_unless(
        &self,
        folder: &Path,
        is_canceled: &dyn Fn() -> bool,
    ) -> Result<Exported, StoreError> {
        if refuse_within_state(&files::nearest_folder(folder)).is_some() {
            self.refuse_within(folder)?;
            let path = folder.display().to_string();
            return Err(StoreError::WithinState { path });
        }
        fs::create_dir_all(folder).map_err(FileError::of("make the folder", folder))?;
        let mut exported = Exported::default();
        let mut touched = BTreeSet::new();
        for sample in self.list()?.samples {
            if is_canceled() {
                return Err(StoreError::Canceled);
            }
            if sample.kind == SampleKind::FeatureOnly {
                exported.feature_only += 1;
                continue;
            }
            let content = match self.read(&sample) {
                Err(StoreError::Gone { .. }) => {
                    exported.gone += 1;
                    continue;
                }
                content => content?,
            };
            let name = sample.label.as_ref().map_or(UNLABELLED, Label::as_str);
            let label_folder = folder.join(name);
            files::check_no_link(&label_folder)?;
            let path = label_folder.join(sample.file_name());
            if path.symlink_metadata().is_ok() {
                match files::read_own(&path, MAX_PICTURE_BYTES) {
                    Ok(there) if there == content => exported.already += 1,
                    _ => exported.taken.push(path),
                }
                continue;
            }
            fs::create_dir_all(&label_folder)
                .map_err(FileError::of("make the folder", &label_folder))?;
            pending(&label_folder, &content)?.place(&path)?;
            touched.insert(label_folder);
            *exported.written.entry(sample.label).or_default() += 1;
        }
        settle_all(&touched);
        files::settle(folder);
        Ok(exported)
    }

    fn refuse_within(&self, folder: &Path) -> Result<(), StoreError> {
        match fs::canonicalize(&self.root) {
            Ok(root) if files::nearest_folder(folder).starts_with(&root) => {
                Err(StoreError::Within {
                    path: folder.display().to_string(),
                })
            }
            _ => Ok(()),
        }
    }
}

/// Returns the id of an imported file with the track suffix removed. Any other id is
/// returned unchanged.
fn identity(id: &str) -> &str {
    import_identity(id).unwrap_or(id)
}

/// If the id consists of `import-`, 16 hexadecimal digits, and optionally a track suffix,
/// returns the id with this suffix removed. Otherwise, returns `None`.
fn import_identity(id: &str) -> Option<&str> {
    let (identity, rest) = id.split_at_checked(name::IMPORT.len() + name::DIGITS)?;
    let digits = identity.strip_prefix(name::IMPORT)?;
    let is_hex = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    let fits = digits.bytes().all(is_hex) && (rest.is_empty() || rest.starts_with("-t"));
    fits.then_some(identity)
}

struct Import<'a> {
    store: &'a Store,
    is_canceled: &'a dyn Fn() -> bool,
    known: HashMap<String, Option<Label>>,
    scaler: Scaler,
    touched: BTreeSet<PathBuf>,
    result: Imported,
}

impl Import<'_> {
    fn folder(&mut self, folder: &Path) -> Result<(), StoreError> {
        let top = files::nearest_folder(folder);
        for path in sorted(folder)? {
            if files::leads_up(&path, &top) {
                let why = LEADS_UP.to_owned();
                self.result.ignored.push(Unused { path, why });
                continue;
            }
            if !path.is_dir() {
                self.file(&path, None)?;
                continue;
            }
            let name = path.file_name().and_then(|name| name.to_str());
            let label = match name {
                Some(UNLABELLED) => None,
                Some(name) if Label::new(name).is_ok() => Label::new(name).ok(),
                _ => {
                    let why = why_no_label_folder(&path);
                    self.result.ignored.push(Unused { path, why });
                    continue;
                }
            };
            let entries = sorted(&path)?;
            if !entries.is_empty() && entries.iter().all(|entry| entry.is_dir()) {
                // This folder is a part of a data set, such as "train". It contains the
                // folders of the labels.
                let why = format!(
                    "it has folders and no pictures; import {} instead",
                    path.display()
                );
                self.result.ignored.push(Unused { path, why });
                continue;
            }
            for path in entries {
                self.file(&path, label.as_ref())?;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, label: Option<&Label>) -> Result<(), StoreError> {
        if (self.is_canceled)() {
            return Err(StoreError::Canceled);
        }
        if path.is_dir() || kind_of(path) != Some(SampleKind::Picture) {
            let why = if path.is_dir() {
                IN_LABEL_FOLDER.to_owned()
            } else {
                why_not_read(path)
            };
            let path = path.to_owned();
            self.result.ignored.push(Unused { path, why });
            return Ok(());
        }
        let mut unreadable = |why: String| {
            self.result.unreadable.push((path.to_owned(), why));
            Ok(())
        };
        // Reading from a named pipe would block.
        if !path.is_file() {
            return unreadable("it is not a file".to_owned());
        }
        let bytes = match files::read_bounded(path, MAX_PICTURE_BYTES) {
            Ok(bytes) => bytes,
            Err(error) => return unreadable(error.source.to_string()),
        };
        let id = import_id(path, &bytes);
        if let Some(there) = self.known.get(identity(&id)) {
            if label.is_none() || there.as_ref() == label {
                self.result.already += 1;
            } else {
                self.result.other_label.push(path.to_owned());
            }
            return Ok(());
        }
        let crop = match to_crop(&bytes, &mut self.scaler) {
            Ok(crop) => crop,
            Err(error) => return unreadable(error.to_string()),
        };
        let content = if is_crop_jpeg(&bytes) {
            bytes
        } else {
            jpeg(&crop)?
        };

        let folder = self
            .store
            .root
            .join(label.map_or(UNLABELLED, Label::as_str));
        let pending = pending(&folder, &content)?;
        let target = folder.join(format!("{id}.jpg"));
        let guard = self.store.lock_changes();
        // A sample captured in the meantime may have exactly this name.
        if target.symlink_metadata().is_ok() {
            self.result.already += 1;
            return Ok(());
        }
        pending.place(&target)?;
        drop(guard);
        self.touched.insert(folder);
        self.known.insert(identity(&id).to_owned(), label.cloned());
        *self.result.added.entry(label.cloned()).or_default() += 1;
        Ok(())
    }
}

/// Returns the visible entries in a folder, sorted by name.
fn sorted(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut paths: Vec<PathBuf> = entries(folder)?.iter().map(fs::DirEntry::path).collect();
    paths.sort();
    Ok(paths)
}

/// Returns the file's own name if it is in the format of this store (from a capture or an
/// earlier import), and otherwise a name derived from the content.
fn import_id(path: &Path, bytes: &[u8]) -> String {
    let stem = id_of(path).unwrap_or_default();
    let own = name::parse(&stem);
    let id = name::content_id(bytes);
    match own {
        name::Name { at: Some(_), .. } => stem,
        name::Name { .. } if import_identity(&stem).is_some() => stem,
        name::Name {
            track: Some(track), ..
        } => format!("{id}-t{track:06}"),
        name::Name { .. } => id,
    }
}

/// Whether a file is a JPEG with the size of a crop. Such a file can be stored
/// unchanged. A JPEG without Huffman tables or an end marker does not count, because a
/// browser may not show such a file.
fn is_crop_jpeg(bytes: &[u8]) -> bool {
    let is_jpeg = decoding::is_standalone_jpeg(bytes);
    let size = || {
        let reader = image::ImageReader::with_format(io::Cursor::new(bytes), ImageFormat::Jpeg);
        reader.into_dimensions().ok()
    };
    is_jpeg && size() == Some((CROP_SIDE, CROP_SIDE))
}
