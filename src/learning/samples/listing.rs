//! Read access to the store. This module determines which files are samples, and reads
//! them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::error::StoreError;
use super::feature::{self, FeatureError, parse_features};
use super::name::{self, TrackKey};
use super::quality;
use super::sample::{DuplicateId, Listing, Sample, SampleKind, Stats};
use super::{FEATURE_EXTENSION, FEATURES_FOLDER, MAX_PICTURE_BYTES, UNLABELLED, sha256};
use crate::frame::names::{Unused, is_clutter, is_named_like_a_picture, why_not_read};
use crate::frame::quality::Quality;
use crate::frame::{self, Crop, PictureError, Rect, Scaler};
use crate::onnx::Label;
use crate::platform::files::{self, FileError};
use crate::platform::hex;
use crate::vision::embed::Feature;

/// Read access to the store. It needs no lock.
#[derive(Debug, Clone)]
pub struct Reader {
    pub(super) root: PathBuf,
}

impl Reader {
    /// Returns the path of the folder `samples`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.root
    }

    /// Lists the store. The listing is empty if the folder does not exist.
    ///
    /// This function reads names and lengths but not contents, so damaged pictures are
    /// listed too.
    ///
    /// # Errors
    /// Returns [`StoreError::File`].
    pub fn list(&self) -> Result<Listing, StoreError> {
        let mut listing = Listing::default();
        let ScannedFiles { files, ignored } = self.scan()?;
        for (id, mut files) in files {
            if files.len() > 1 {
                // A file that was moved during the scan may have been seen in both folders.
                files.retain(|file| file.path.symlink_metadata().is_ok());
            }
            files.sort_by(|a, b| b.rank().cmp(&a.rank()));
            let mut files = files.into_iter();
            let Some(used) = files.next() else { continue };
            let mut passed_over: Vec<PathBuf> = files.map(|file| file.path).collect();
            if !passed_over.is_empty() {
                passed_over.sort();
                listing.duplicates.push(DuplicateId {
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

    /// Counts the samples in the store.
    ///
    /// # Errors
    /// Returns the same errors as [`list`](Reader::list).
    pub fn stats(&self) -> Result<Stats, StoreError> {
        Ok(self.list()?.stats())
    }

    /// Returns a digest of the files and the folders that contain them. The digest
    /// changes when a sample is added, deleted, or labeled. Computing it is cheap,
    /// because only names are read.
    ///
    /// # Errors
    /// Returns [`StoreError::File`].
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
            // A zero byte is a safe separator, because no file name contains it.
            hash.update([0]);
        }
        Ok(hash.finalize().into())
    }

    /// Returns the bytes of a sample's file, even if the label has changed since the
    /// sample was listed.
    ///
    /// # Errors
    /// Returns [`StoreError::Gone`] or [`StoreError::File`].
    pub fn read(&self, sample: &Sample) -> Result<Vec<u8>, StoreError> {
        let gone = || StoreError::Gone {
            id: sample.id.clone(),
        };
        // Retry, because the file may be moved after it is located and before it is
        // read.
        for _ in 0..3 {
            let path = self.locate(sample)?.ok_or_else(gone)?;
            match files::read_own(&path, MAX_PICTURE_BYTES) {
                Err(error) if error.is_missing() => {}
                read => return Ok(read?),
            }
        }
        Err(gone())
    }

    /// Returns the whole picture of a sample, scaled to the size of a crop, which is
    /// the input size of the classifier.
    ///
    /// # Errors
    /// Returns [`StoreError::NoPicture`], [`StoreError::Picture`], or any error of
    /// [`read`](Reader::read).
    pub fn crop(&self, sample: &Sample, scaler: &mut Scaler) -> Result<Crop, StoreError> {
        if sample.kind == SampleKind::FeatureOnly {
            return Err(StoreError::NoPicture {
                id: sample.id.clone(),
            });
        }
        to_crop(&self.read(sample)?, scaler).map_err(|error| StoreError::Picture {
            id: sample.id.clone(),
            error,
        })
    }

    /// Returns the quality of a sample's picture. A captured picture contains its quality.
    /// Any other picture is decoded and measured. Returns `None` if there is no picture or it
    /// cannot be read.
    #[must_use]
    pub fn quality(&self, sample: &Sample, scaler: &mut Scaler) -> Option<Quality> {
        if sample.kind == SampleKind::FeatureOnly {
            return None;
        }
        let path = self.locate(sample).ok()??;
        let head = files::read_head(&path, quality::HEAD_BYTES).ok()?;
        quality::find(&head).or_else(|| Some(Quality::of(&self.crop(sample, scaler).ok()?)))
    }

    /// Whether a picture has a feature file of `backbone`. Reads only the header of the file, so
    /// that many pictures can be checked at once. The file may be damaged.
    pub(crate) fn has_features_of(&self, sample: &Sample, backbone: &[u8; 32]) -> bool {
        let header = files::read_head(&self.cache(&sample.id), feature::HEADER);
        header.is_ok_and(|header| feature::backbone_of(&header) == Some(*backbone))
    }

    /// Returns the features of a sample. The features of the crop itself come first,
    /// followed by the features of its variants.
    ///
    /// # Errors
    /// Returns [`FeatureError`] if there is no intact feature file that `backbone`
    /// computed from exactly this picture.
    pub fn features(
        &self,
        sample: &Sample,
        backbone: &[u8; 32],
    ) -> Result<Vec<Feature>, FeatureError> {
        let bytes = match sample.kind {
            SampleKind::FeatureOnly => self.read(sample).map_err(|error| match error {
                StoreError::File(error) => FeatureError::File(error),
                _ => FeatureError::Missing,
            })?,
            SampleKind::Picture => files::read_own(&self.cache(&sample.id), feature::MAX_BYTES)
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
        if sample.kind == SampleKind::Picture {
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

    /// Returns the entries that are not samples, each with the reason. The paths are
    /// relative to the folder `samples`.
    ///
    /// # Errors
    /// Returns the same errors as [`list`](Reader::list).
    pub fn unused(&self) -> Result<Vec<Unused>, StoreError> {
        let ignored = self.scan()?.ignored;
        let unused = ignored.into_iter().map(|path| Unused {
            why: self.why_ignored(&path),
            path: path.strip_prefix(&self.root).unwrap_or(&path).to_owned(),
        });
        Ok(unused.collect())
    }

    fn why_ignored(&self, path: &Path) -> String {
        let is_at_top = path.parent() == Some(&self.root);
        let why = match (path.is_symlink(), path.is_dir(), kind_of(path)) {
            (true, ..) => "links are not followed here; put the files themselves in their place",
            (_, true, _) if is_at_top => return why_no_label_folder(path),
            (_, true, _) => IN_LABEL_FOLDER,
            (.., Some(_)) if is_at_top => {
                "pictures outside the folders of the labels are not used; move them into one"
            }
            _ => return why_not_read(path),
        };
        why.to_owned()
    }

    /// Returns the path of the feature file of a picture.
    pub(super) fn cache(&self, id: &str) -> PathBuf {
        self.root.join(FEATURES_FOLDER).join(cache_name(id))
    }

    /// Returns the path of the folder for a label, or of the folder for samples without a
    /// label.
    pub(super) fn folder_of(&self, label: Option<&Label>) -> PathBuf {
        self.root.join(label.map_or(UNLABELLED, Label::as_str))
    }

    /// Returns the current path of a sample's file, or `None` if the file no longer
    /// exists.
    pub(super) fn locate(&self, sample: &Sample) -> Result<Option<PathBuf>, StoreError> {
        if sample.path.symlink_metadata().is_ok() {
            return Ok(Some(sample.path.clone()));
        }
        let folders = self.label_folders(&mut Vec::new())?;
        let mut places = folders
            .into_iter()
            .map(|(_, folder)| folder.join(sample.file_name()));
        Ok(places.find(|path| path.symlink_metadata().is_ok()))
    }

    /// Returns the folders that hold samples, with the labels that correspond to their
    /// names. Adds all other entries to `ignored`.
    pub(super) fn label_folders(
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

    /// Returns the ids that are already in use.
    pub(super) fn ids(&self) -> Result<HashSet<String>, StoreError> {
        let mut ids = HashSet::new();
        for (_, folder) in self.label_folders(&mut Vec::new())? {
            let files = files_in(&folder, &mut Vec::new())?;
            ids.extend(files.iter().filter_map(|path| id_of(path)));
        }
        Ok(ids)
    }

    /// Finds all sample files, by id, and all entries that are not samples.
    pub(super) fn scan(&self) -> Result<ScannedFiles, StoreError> {
        let mut ignored = Vec::new();
        let mut cached = BTreeMap::new();
        for entry in entries_with_hidden(&self.root.join(FEATURES_FOLDER))? {
            if let Ok(metadata) = entry.metadata() {
                let sizes = (metadata.len(), disk_bytes(&metadata));
                cached.insert(entry.file_name(), sizes);
            }
        }
        let mut samples: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
        for (label, folder) in self.label_folders(&mut ignored)? {
            for path in files_in(&folder, &mut ignored)? {
                // If the metadata cannot be read, the file has disappeared since it was
                // listed, most likely because it was moved.
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
                    SampleKind::Picture => cached.get(OsStr::new(&cache_name(&id))),
                    SampleKind::FeatureOnly => None,
                };
                let (feature_bytes, feature_disk_bytes) = feature_bytes.copied().unwrap_or((0, 0));
                samples.entry(id.clone()).or_default().push(Sample {
                    label: label.clone(),
                    track,
                    day,
                    at: name.at,
                    modified,
                    kind,
                    path,
                    bytes: metadata.len(),
                    feature_bytes,
                    disk_bytes: disk_bytes(&metadata).saturating_add(feature_disk_bytes),
                    id,
                });
            }
        }
        ignored.sort();
        Ok(ScannedFiles {
            files: samples,
            ignored,
        })
    }
}

/// The files in the label folders.
pub(super) struct ScannedFiles {
    /// The sample files by id. Each id has at least one file.
    pub(super) files: BTreeMap<String, Vec<Sample>>,
    /// The paths that are not samples, sorted.
    ignored: Vec<PathBuf>,
}

/// Why a folder inside the folder of a label is not used.
pub(super) const IN_LABEL_FOLDER: &str =
    "folders inside the folder of a label are not read; move the pictures up";

/// Why a folder does not count as the folder of a label.
pub(super) fn why_no_label_folder(folder: &Path) -> String {
    let pictures = entries(folder).unwrap_or_default();
    let pictures = pictures
        .iter()
        .filter(|entry| kind_of(&entry.path()).is_some());
    let pictures = pictures.count();
    match folder.file_name().and_then(OsStr::to_str).map(Label::new) {
        Some(Err(error)) => format!("its pictures ({pictures}) have no label, because {error}"),
        _ => format!("its pictures ({pictures}) have no label, because its name is not UTF-8"),
    }
}

/// Returns the entries in a folder, except for clutter such as hidden files. The list is
/// empty if the folder does not exist.
pub(super) fn entries(folder: &Path) -> Result<Vec<fs::DirEntry>, StoreError> {
    let mut entries = entries_with_hidden(folder)?;
    entries.retain(|entry| !is_clutter(&entry.file_name()));
    Ok(entries)
}

fn entries_with_hidden(folder: &Path) -> Result<Vec<fs::DirEntry>, StoreError> {
    match folder.read_dir().and_then(Iterator::collect) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => Ok(entries.map_err(FileError::of("read the folder", folder))?),
    }
}

/// Returns the files in a label's folder that are named like samples, sorted. Adds all
/// other entries to `ignored`.
pub(super) fn files_in(
    folder: &Path,
    ignored: &mut Vec<PathBuf>,
) -> Result<Vec<PathBuf>, StoreError> {
    let mut files = Vec::new();
    for entry in entries(folder)? {
        let path = entry.path();
        // Links are ignored, because deleting a link would leave the file that it points
        // to.
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

/// Returns the disk space that a file takes up, in bytes. Some file systems store small
/// files within the metadata and report no blocks for them. In that case, returns the
/// length.
fn disk_bytes(metadata: &fs::Metadata) -> u64 {
    const UNIT: u64 = 512;
    const SMALL: u64 = 4096;
    let blocks = metadata.blocks().saturating_mul(UNIT);
    blocks.max(metadata.len().min(SMALL))
}

pub(super) fn id_of(path: &Path) -> Option<String> {
    path.file_stem()?.to_str().map(str::to_owned)
}

pub(super) fn kind_of(path: &Path) -> Option<SampleKind> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    if extension == FEATURE_EXTENSION {
        Some(SampleKind::FeatureOnly)
    } else {
        is_named_like_a_picture(path).then_some(SampleKind::Picture)
    }
}

/// Returns the name of the feature file for an id. If the id is so long that the name
/// would be too long for a file system, the name is made from a hash of the id instead.
pub(super) fn cache_name(id: &str) -> String {
    const LONGEST: usize = 200;
    if id.len() <= LONGEST {
        format!("{id}.{FEATURE_EXTENSION}")
    } else {
        let hash = hex::encode(&sha256(id.as_bytes()));
        format!("{hash}.{FEATURE_EXTENSION}")
    }
}

/// Decodes a picture, and scales the whole picture to the size of a crop, which is the
/// input size of the classifier.
pub(super) fn to_crop(bytes: &[u8], scaler: &mut Scaler) -> Result<Crop, PictureError> {
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
