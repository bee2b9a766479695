//! Samples into the store from folders, and out of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use image::ImageFormat;

use super::error::StoreError;
use super::listing::{Reader, entries, id_of, kind_of, to_crop};
use super::sample::SampleKind;
use super::store::{Store, jpeg, pending, sync, sync_all};
use super::{MAX_PICTURE_BYTES, name, sha256};
use crate::frame::{CROP_SIDE, Scaler};
use crate::onnx::{Label, UNLABELLED};
use crate::platform::files::{self, FileError};
use crate::platform::hex;

/// What became of a folder that was imported.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Samples that are new, by label; `None` are those without one.
    pub added: BTreeMap<Option<Label>, usize>,
    /// Pictures that were there already, with the same label or, where the
    /// import has none for them, with any.
    pub already: usize,
    /// Pictures that are there already, with another label (or none), which they
    /// keep.
    pub other_label: Vec<PathBuf>,
    /// Files that are named like pictures and cannot be used, and why.
    pub unreadable: Vec<(PathBuf, String)>,
    /// What was passed over: files that are not named like pictures, folders
    /// whose names are no labels, folders within.
    pub ignored: Vec<PathBuf>,
}

/// What became of an export.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Pictures that were written, by label; `None` are those without one.
    pub written: BTreeMap<Option<Label>, usize>,
    /// Pictures that were there already.
    pub already: usize,
    /// Samples of which only features were kept: they have no picture.
    pub feature_only: usize,
    /// Files that were there with another content, and were left as they are.
    pub taken: Vec<PathBuf>,
    /// Samples that were deleted meanwhile.
    pub gone: usize,
}

impl Store {
    /// Copies the pictures of a folder into the store. The name of the folder
    /// within it, where a picture is, is its label; those of `unlabelled`, and
    /// those beside the folders, get none.
    ///
    /// They are taken as face crops: what is no JPEG of 224 x 224 already is
    /// stretched to it. A picture that was imported before is not taken again,
    /// whatever its name: the new one is made of its content, unless the old
    /// one is a name that this store gives. A track in the name is kept.
    ///
    /// # Errors
    /// [`StoreError::File`] if a folder cannot be read or the store not written
    /// to, [`StoreError::Within`]; a picture that cannot be read is none.
    pub fn import(&self, folder: &Path) -> Result<Imported, StoreError> {
        if !folder.is_dir() {
            let source = io::ErrorKind::NotFound.into();
            return Err(FileError::of("read the folder", folder)(source).into());
        }
        self.refuse_within(folder)?;
        let mut import = Import {
            store: self,
            known: self.known()?,
            scaler: Scaler::default(),
            touched: BTreeSet::new(),
            result: Imported::default(),
        };
        let imported = import.folder(folder);
        // Also after a failure: what was taken before it stays.
        sync_all(&import.touched)?;
        imported?;
        Ok(import.result)
    }

    /// The ids there are, those of imported files without their track, and their
    /// labels.
    fn known(&self) -> Result<HashMap<String, Option<Label>>, StoreError> {
        let samples = self.list()?.samples.into_iter();
        let known = samples.map(|sample| (identity(&sample.id).to_owned(), sample.label));
        Ok(known.collect())
    }
}

impl Reader {
    /// Copies the pictures of the store into a folder, in the layout that
    /// `maskd train --dataset` takes: a folder a label, and `unlabelled`.
    /// Nothing that is there is changed.
    ///
    /// # Errors
    /// [`StoreError::File`], [`StoreError::Within`].
    pub fn export(&self, folder: &Path) -> Result<Exported, StoreError> {
        fs::create_dir_all(folder).map_err(FileError::of("make the folder", folder))?;
        self.refuse_within(folder)?;
        let mut exported = Exported::default();
        let mut touched = BTreeSet::new();
        for sample in self.list()?.samples {
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
            let path = label_folder.join(sample.file_name());
            if path.symlink_metadata().is_ok() {
                match files::read_bounded(&path, MAX_PICTURE_BYTES) {
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
        sync_all(&touched)?;
        sync(folder)?;
        Ok(exported)
    }

    fn refuse_within(&self, folder: &Path) -> Result<(), StoreError> {
        let place = |path: &Path| fs::canonicalize(path).ok();
        match (place(folder), place(&self.root)) {
            (Some(folder), Some(root)) if folder.starts_with(&root) => Err(StoreError::Within {
                path: folder.display().to_string(),
            }),
            _ => Ok(()),
        }
    }
}

const IMPORT: &str = "import-";
const DIGITS: usize = 16;

/// An imported file's id without its track; any other id as it is.
fn identity(id: &str) -> &str {
    import_identity(id).unwrap_or(id)
}

/// `import-` and 16 hexadecimal digits, if the id begins so and then has
/// nothing more than a track.
fn import_identity(id: &str) -> Option<&str> {
    let (identity, rest) = id.split_at_checked(IMPORT.len() + DIGITS)?;
    let digits = identity.strip_prefix(IMPORT)?;
    let is_hex = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    let fits = digits.bytes().all(is_hex) && (rest.is_empty() || rest.starts_with("-t"));
    fits.then_some(identity)
}

struct Import<'a> {
    store: &'a Store,
    known: HashMap<String, Option<Label>>,
    scaler: Scaler,
    touched: BTreeSet<PathBuf>,
    result: Imported,
}

impl Import<'_> {
    fn folder(&mut self, folder: &Path) -> Result<(), StoreError> {
        for path in sorted(folder)? {
            if !path.is_dir() {
                self.file(&path, None)?;
                continue;
            }
            let name = path.file_name().and_then(|name| name.to_str());
            let label = match name {
                Some(UNLABELLED) => None,
                Some(name) if Label::new(name).is_ok() => Label::new(name).ok(),
                _ => {
                    self.result.ignored.push(path);
                    continue;
                }
            };
            for path in sorted(&path)? {
                self.file(&path, label.as_ref())?;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, label: Option<&Label>) -> Result<(), StoreError> {
        if path.is_dir() || kind_of(path) != Some(SampleKind::Picture) {
            self.result.ignored.push(path.to_owned());
            return Ok(());
        }
        let mut unreadable = |why: String| {
            self.result.unreadable.push((path.to_owned(), why));
            Ok(())
        };
        // A pipe would be waited for.
        if !path.is_file() {
            return unreadable("it is no file".to_owned());
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
        // A capture that came meanwhile may have this very name.
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

/// Visible entries, sorted by name.
fn sorted(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut paths: Vec<PathBuf> = entries(folder)?.iter().map(fs::DirEntry::path).collect();
    paths.sort();
    Ok(paths)
}

/// The name, if this store gave it (to a capture, or to an import before); else
/// one that tells the content.
fn import_id(path: &Path, bytes: &[u8]) -> String {
    let stem = id_of(path).unwrap_or_default();
    let own = name::parse(&stem);
    let hash = hex::encode(&sha256(bytes));
    let id = format!("{IMPORT}{}", &hash[..DIGITS]);
    match own {
        name::Name { at: Some(_), .. } => stem,
        name::Name { .. } if import_identity(&stem).is_some() => stem,
        name::Name {
            track: Some(track), ..
        } => format!("{id}-t{track:06}"),
        name::Name { .. } => id,
    }
}

/// Whether a file is stored as it is.
fn is_crop_jpeg(bytes: &[u8]) -> bool {
    let is_jpeg = image::guess_format(bytes).is_ok_and(|format| format == ImageFormat::Jpeg);
    let size = || {
        let reader = image::ImageReader::with_format(io::Cursor::new(bytes), ImageFormat::Jpeg);
        reader.into_dimensions().ok()
    };
    is_jpeg && size() == Some((CROP_SIDE, CROP_SIDE))
}
