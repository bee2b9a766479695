//! Data sets, which consist of pictures in one folder per class.
//!
//! This module defines what counts as a data set, how copies of a picture are
//! recognized, how pictures are split into training and validation pictures, and how
//! issues in a data set are reported. It never writes to a data set, because a data set
//! represents a person's work. It knows nothing about models, threads, or the command
//! line. The seed of a split is an argument, and [`load`] may be called from any
//! thread.
//!
//! The steps are:
//!
//! 1. [`Dataset::open`] lists the files and rejects folders that cannot be used for
//!    training.
//! 2. [`load`] reads, decodes, and fingerprints each picture.
//! 3. [`Issues::new`] compares the fingerprints, and [`Issues::left_out`] lists the
//!    pictures to leave out of training.
//! 4. [`near_duplicate_groups`] and [`Dataset::split`] split the rest.

mod issues;
mod layout;
mod similarity;
mod split;
mod voc;

use std::cmp::Reverse;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::frame::names::{self, LEADS_UP, Unused};
use crate::onnx::{Label, LabelError, UNLABELLED};
use crate::platform::files::leads_up;
use crate::platform::hex;
use crate::platform::text::counted;

pub use issues::Issues;
pub use similarity::{
    Fingerprint, MAX_DUPLICATE_DISTANCE, PerceptualHash, fingerprint, load, near_duplicate_groups,
};
pub use split::{Split, SplitError, split};
pub use voc::read_voc;

/// Minimum number of pictures per class for training. With the usual validation share
/// of 0.2, one of five pictures is used for validation, and four are used for training.
pub const MIN_PICTURES: usize = 5;

/// Maximum number of classes, which is also the limit for a classifier file.
pub const MAX_CLASSES: usize = 64;

/// Maximum ratio of the number of pictures in the largest class to the number of
/// pictures in the smallest class. If the ratio is higher, [`imbalance_note`] warns.
pub const IMBALANCE: f64 = 1.5;

/// A picture file in a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Path of the file, starting with the path that the data set was opened with.
    pub path: PathBuf,
    /// Index of the picture's class in [`Dataset::classes`].
    pub class: usize,
}

/// Pictures with their classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// The path that the data set was opened with.
    pub folder: PathBuf,
    /// Names of the classes, sorted. They become the labels.
    pub classes: Vec<String>,
    /// The pictures, sorted by class and then by path.
    pub pictures: Vec<Picture>,
    /// Entries that were skipped without being opened, sorted, each with the reason.
    /// These are files next to the class folders, entries in the class folders that are
    /// not files named like pictures, links to a folder further up, and the folder
    /// `unlabelled` in an exported sample store. Hidden files, and files that operating
    /// systems create on their own, are not listed here.
    pub ignored: Vec<Unused>,
    /// Minimum number of pictures per class, depending on whether the data set was
    /// opened for training or for evaluation.
    min_pictures: usize,
}

/// Why a folder cannot be used as a data set.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// Nothing exists at the path.
    #[error("there is no folder {path}; name one that has a folder for each class")]
    Missing {
        /// The path, as passed by the caller.
        path: String,
    },
    /// The path exists but is not a folder.
    #[error("{path} is not a folder; name one that has a folder for each class")]
    NotFolder {
        /// The path, as passed by the caller.
        path: String,
    },
    /// The operating system denies access or reports another error.
    #[error("cannot read the folder {path} ({error})")]
    Read {
        /// The folder, or one of its subfolders.
        path: String,
        /// The operating system's error.
        error: io::Error,
    },
    /// There are not enough classes.
    #[error(
        "{path} has {}, but needs at least {min}: put the pictures of each class into a folder of their own",
        counted(*found, "class folder")
    )]
    TooFewClasses {
        /// Path of the data set.
        path: String,
        /// Number of class folders.
        found: usize,
        /// Minimum number required.
        min: usize,
    },
    /// The folders are not classes, because the class folders are one level below them.
    #[error(
        "{path} has {}, and the class folders are inside: {advice}",
        listed(folders)
    )]
    Nested {
        /// Path of the data set.
        path: String,
        /// Names of the folders.
        folders: Vec<String>,
        /// Which options to use instead.
        advice: String,
    },
    /// There are more than [`MAX_CLASSES`] class folders.
    #[error("{path} has {found} class folders, but at most {MAX_CLASSES} are possible")]
    TooManyClasses {
        /// Path of the data set.
        path: String,
        /// Number of class folders.
        found: usize,
    },
    /// The name of a class folder cannot be a label.
    #[error("the class folder {0}; rename it")]
    ClassName(LabelError),
    /// The name of a class folder is not UTF-8.
    #[error("the class folder {name:?} cannot be a label: its name is not UTF-8; rename it")]
    ClassEncoding {
        /// The name, with invalid bytes replaced.
        name: String,
    },
    /// A class folder has no pictures.
    #[error(
        "the class folder {path} has no pictures (JPEG, PNG, WebP, BMP, GIF, or TIFF); fill or remove it{}",
        hint(unused)
    )]
    EmptyClass {
        /// Path of the class folder.
        path: String,
        /// What the folder contains instead of pictures, in one sentence for each reason.
        unused: Vec<String>,
    },
    /// A class has fewer than [`MIN_PICTURES`] pictures for training, or no pictures for
    /// evaluation.
    #[error(
        "the class \"{class}\" has only {}, but needs at least {min}: add more, or remove its folder",
        counted(*found, "usable picture")
    )]
    TooFewPictures {
        /// Name of the class.
        class: String,
        /// Number of usable pictures in the class.
        found: usize,
        /// Minimum number required.
        min: usize,
    },
    /// All pictures of a class are near-duplicates of one another.
    #[error(
        "the pictures of the class \"{class}\" cannot be split: they are near-duplicates of each other; add different ones, or name separate validation pictures"
    )]
    CannotSplit {
        /// Name of the class.
        class: String,
    },
}

impl Dataset {
    /// Lists the data set in `folder` for training.
    ///
    /// Each subfolder is a class. All files named like pictures count, including those in
    /// subfolders of a class folder. Links are followed.
    ///
    /// # Errors
    /// [`DatasetError`] if the data set cannot be used for training.
    pub fn open(folder: &Path) -> Result<Dataset, DatasetError> {
        let dataset = Dataset::list(folder, 2, MIN_PICTURES)?;
        dataset.check_sizes()?;
        Ok(dataset)
    }

    /// Lists the data set in `folder` for evaluating a model. A single class with
    /// one picture is enough.
    ///
    /// # Errors
    /// [`DatasetError`] if there is nothing to evaluate on.
    pub fn open_for_evaluation(folder: &Path) -> Result<Dataset, DatasetError> {
        Dataset::list(folder, 1, 1)
    }

    fn list(
        folder: &Path,
        min_classes: usize,
        min_pictures: usize,
    ) -> Result<Dataset, DatasetError> {
        let path = || folder.display().to_string();
        match folder.metadata() {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(DatasetError::NotFolder { path: path() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DatasetError::Missing { path: path() });
            }
            Err(error) => return Err(read_error(folder, error)),
        }
        let top = fs::canonicalize(folder).map_err(|error| read_error(folder, error))?;
        let mut ignored = Vec::new();
        let mut folders = class_folders(folder, &top, &mut ignored)?;
        // Sort by name rather than by path, because the labels are sorted by name.
        folders.sort();
        let found = folders.len();
        if found < min_classes {
            return Err(DatasetError::TooFewClasses {
                path: path(),
                found,
                min: min_classes,
            });
        }
        if found > MAX_CLASSES {
            let path = path();
            return Err(DatasetError::TooManyClasses { path, found });
        }

        let mut classes = Vec::new();
        let mut pictures = Vec::new();
        for (class, (name, folder)) in folders.into_iter().enumerate() {
            let mut files = Vec::new();
            let before = ignored.len();
            walk(&folder, &top, &mut HashSet::new(), &mut files, &mut ignored)?;
            if files.is_empty() {
                let path = folder.display().to_string();
                let unused = names::summarize(&ignored[before..], &folder);
                return Err(DatasetError::EmptyClass { path, unused });
            }
            files.sort();
            pictures.extend(files.into_iter().map(|path| Picture { path, class }));
            classes.push(name.into());
        }
        ignored.sort();
        Ok(Dataset {
            folder: folder.to_owned(),
            classes,
            pictures,
            ignored,
            min_pictures,
        })
    }

    /// Returns descriptions of the entries that are not used, one sentence for each
    /// reason.
    #[must_use]
    pub fn unused(&self) -> Vec<String> {
        names::summarize(&self.ignored, &self.folder)
    }

    fn check_sizes(&self) -> Result<(), DatasetError> {
        for (class, found) in self.classes.iter().zip(self.counts()) {
            if found < self.min_pictures {
                return Err(DatasetError::TooFewPictures {
                    class: class.clone(),
                    found,
                    min: self.min_pictures,
                });
            }
        }
        Ok(())
    }

    /// Returns the number of pictures in each class.
    #[must_use]
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        for picture in &self.pictures {
            counts[picture.class] += 1;
        }
        counts
    }

    /// Returns the class of each picture.
    #[must_use]
    pub fn labels(&self) -> Vec<usize> {
        self.pictures.iter().map(|picture| picture.class).collect()
    }

    /// Returns the path of a picture relative to the data set, for use in messages.
    /// Returns an empty path if there is no such picture.
    #[must_use]
    pub fn name(&self, picture: usize) -> String {
        let Some(Picture { path, .. }) = self.pictures.get(picture) else {
            return String::new();
        };
        let path = path.strip_prefix(&self.folder).unwrap_or(path);
        path.display().to_string()
    }

    /// Returns the data set without the pictures at the indices `left_out`, given in
    /// any order. Use [`without`] on lists that correspond to the pictures, such as
    /// fingerprints and features.
    ///
    /// # Errors
    /// [`DatasetError::TooFewPictures`] if a class has too few pictures left.
    pub fn without(&self, left_out: &[usize]) -> Result<Dataset, DatasetError> {
        let dataset = Dataset {
            pictures: without(self.pictures.clone(), left_out),
            ..self.clone()
        };
        dataset.check_sizes()?;
        Ok(dataset)
    }

    /// Splits the pictures; see [`split`].
    ///
    /// # Errors
    /// [`DatasetError::CannotSplit`] if a class cannot be in both parts.
    pub fn split(&self, groups: &[usize], share: f64, seed: u64) -> Result<Split, DatasetError> {
        split(groups, &self.labels(), share, seed).map_err(|SplitError { class }| {
            let class = self.classes.get(class).cloned().unwrap_or_default();
            DatasetError::CannotSplit { class }
        })
    }

    /// Computes a digest of the content of the data set, regardless of the path and the
    /// file names. Each picture contributes a line `class/SHA-256 of the file`. The digest is
    /// the SHA-256 of the sorted lines.
    ///
    /// `fingerprints` correspond to [`Dataset::pictures`], in the same order. This
    /// shell command, run in the data set's folder, computes the same value:
    ///
    /// ```text
    /// for c in */; do find "$c" -type f -exec sha256sum {} + | sed "s|^\([0-9a-f]*\).*|$c\1|"; done |
    ///     LC_ALL=C sort | sha256sum
    /// ```
    #[must_use]
    pub fn digest(&self, fingerprints: &[Fingerprint]) -> [u8; 32] {
        let mut lines: Vec<String> = self
            .pictures
            .iter()
            .zip(fingerprints)
            .map(|(picture, fingerprint)| {
                let class = &self.classes[picture.class];
                format!("{class}/{}\n", hex::encode(&fingerprint.file))
            })
            .collect();
        lines.sort();
        Sha256::digest(lines.concat()).into()
    }
}

/// Returns `items` without the items at the indices `left_out`, given in any order. Use
/// this function after [`Dataset::without`] to remove the same pictures from other
/// lists.
#[must_use]
pub fn without<T>(items: Vec<T>, left_out: &[usize]) -> Vec<T> {
    let left_out: HashSet<usize> = left_out.iter().copied().collect();
    let numbered = items.into_iter().enumerate();
    numbered
        .filter(|(index, _)| !left_out.contains(index))
        .map(|(_, item)| item)
        .collect()
}

fn read_error(folder: &Path, error: io::Error) -> DatasetError {
    DatasetError::Read {
        path: folder.display().to_string(),
        error,
    }
}

/// Returns the class folders in the data set `folder`, with the names of the classes.
/// Adds all other entries to `ignored`.
fn class_folders(
    folder: &Path,
    top: &Path,
    ignored: &mut Vec<Unused>,
) -> Result<Vec<(Label, PathBuf)>, DatasetError> {
    let mut folders = Vec::new();
    for entry in entries(folder)? {
        // If the link were followed, every picture would be added to a single class.
        if leads_up(&entry, top) {
            ignored.push(unused(entry, LEADS_UP));
        } else if !entry.is_dir() {
            let is_picture = names::is_named_like_a_picture(&entry);
            let why = if is_picture {
                OUTSIDE.to_owned()
            } else {
                names::why_not_read(&entry)
            };
            ignored.push(unused(entry, why));
        } else if entry.ends_with(UNLABELLED) {
            ignored.push(unused(entry, "its pictures have no label"));
        } else {
            folders.push(entry);
        }
    }
    if let Some(nested) = layout::nested(folder, &folders) {
        return Err(nested);
    }
    let named = |folder: PathBuf| Ok((class_name(&folder)?, folder));
    folders.into_iter().map(named).collect()
}

/// Returns text to append to an error message.
fn hint(unused: &[String]) -> String {
    match unused {
        [] => String::new(),
        unused => format!(" ({})", unused.join("; ")),
    }
}

/// Formats names as part of a sentence.
fn listed(folders: &[String]) -> String {
    match folders {
        [folder] => format!("only the folder {folder}"),
        folders => format!("the folders {}", folders.join(", ")),
    }
}

/// Why a picture in the folder of the data set is not used.
const OUTSIDE: &str =
    "pictures outside the class folders are not used; move them into a class folder";

fn unused(path: PathBuf, why: impl Into<String>) -> Unused {
    Unused {
        path,
        why: why.into(),
    }
}

/// Lists the entries in a folder that are neither hidden nor created by a system.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let read = || -> io::Result<Vec<PathBuf>> {
        let all = folder.read_dir()?.map(|entry| entry.map(|e| e.path()));
        all.collect()
    };
    let mut entries = read().map_err(|error| read_error(folder, error))?;
    entries.retain(|path| {
        path.file_name()
            .is_some_and(|name| !names::is_clutter(name))
    });
    Ok(entries)
}

fn class_name(folder: &Path) -> Result<Label, DatasetError> {
    let name = folder.file_name().unwrap_or_default();
    match name.to_str() {
        Some(name) => Label::new(name).map_err(DatasetError::ClassName),
        None => Err(DatasetError::ClassEncoding {
            name: name.to_string_lossy().into_owned(),
        }),
    }
}

/// Collects the files in a folder and its subfolders. `seen` contains the folders that
/// were already visited. It prevents endless loops, because a link can lead back to a
/// folder further up.
fn walk(
    folder: &Path,
    top: &Path,
    seen: &mut HashSet<PathBuf>,
    files: &mut Vec<PathBuf>,
    ignored: &mut Vec<Unused>,
) -> Result<(), DatasetError> {
    let canonical = fs::canonicalize(folder).map_err(|error| read_error(folder, error))?;
    if !seen.insert(canonical) {
        ignored.push(unused(
            folder.to_owned(),
            "folders that were already read are skipped",
        ));
        return Ok(());
    }
    for entry in entries(folder)? {
        if leads_up(&entry, top) {
            ignored.push(unused(entry, LEADS_UP));
        } else if entry.is_dir() {
            walk(&entry, top, seen, files, ignored)?;
        } else if !names::is_named_like_a_picture(&entry) {
            let why = names::why_not_read(&entry);
            ignored.push(unused(entry, why));
        } else if entry.metadata().map_or(true, |there| there.is_file()) {
            // A broken link counts as a picture, so that loading it fails and the failure
            // is reported.
            files.push(entry);
        } else {
            // Reading a pipe could block forever.
            ignored.push(unused(entry, "pipes and devices are not read"));
        }
    }
    Ok(())
}

/// Computes the weight of each class in the loss so that all classes count equally. For
/// n pictures in k classes, the weight of a class is n / (k n_class), like
/// scikit-learn's `class_weight="balanced"`
/// (<https://scikit-learn.org/stable/modules/generated/sklearn.utils.class_weight.compute_class_weight.html>).
///
/// `counts` is the number of pictures in each class. An empty class gets weight 0.
///
/// ```
/// use maskd::training::dataset::class_weights;
/// assert_eq!(class_weights(&[30, 10]), [40.0 / 60.0, 2.0]);
/// ```
#[must_use]
pub fn class_weights(counts: &[usize]) -> Vec<f64> {
    let all: usize = counts.iter().sum();
    let weight = |count: usize| match count {
        0 => 0.0,
        count => all as f64 / (counts.len() as f64 * count as f64),
    };
    counts.iter().copied().map(weight).collect()
}

/// Returns a warning if the sizes of the classes differ by a factor of more than
/// [`IMBALANCE`]. `counts` is the number of pictures in each of the `classes`.
#[must_use]
pub fn imbalance_note(classes: &[String], counts: &[usize]) -> Option<String> {
    let sizes = || classes.iter().zip(counts);
    let (largest, max) = sizes().max_by_key(|(name, count)| (**count, Reverse(*name)))?;
    let (smallest, min) = sizes().min_by_key(|(_, count)| **count)?;
    let ratio = *max as f64 / *min as f64;
    (ratio > IMBALANCE).then(|| {
        format!(
            "the classes have different sizes: {max} pictures of \"{largest}\", {min} of \"{smallest}\" ({ratio:.1} times as many)"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::codecs::jpeg::JpegEncoder;
    use image::imageops::FilterType;
    use image::{ImageFormat, Rgb, RgbImage, imageops};
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use tempfile::TempDir;

    use super::*;
    use crate::camera::pictures::EXAMPLES;
    use crate::frame;

    /// Makes a picture of soft blobs. Each number gives a different picture.
    fn picture(number: u64, width: u32, height: u32) -> RgbImage {
        let mut random = ChaCha8Rng::seed_from_u64(number);
        let coarse = RgbImage::from_fn(7, 7, |_, _| Rgb(random.random()));
        imageops::resize(&coarse, width, height, FilterType::CatmullRom)
    }

    fn encoded(pixels: &RgbImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        pixels.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn jpeg(pixels: &RgbImage, quality: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, quality)
            .encode_image(pixels)
            .unwrap();
        bytes
    }

    fn write(folder: &Path, name: &str, bytes: &[u8]) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Makes a data set without issues, with five different pictures in each class.
    fn set(classes: &[&str]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (class, name) in classes.iter().enumerate() {
            for number in 0..5 {
                let pixels = picture(class as u64 * 100 + number, 40, 30);
                let png = encoded(&pixels, ImageFormat::Png);
                write(folder.path(), &format!("{name}/{number}.png"), &png);
            }
        }
        folder
    }

    fn ignored_paths(dataset: &Dataset) -> Vec<PathBuf> {
        let ignored = dataset.ignored.iter();
        ignored.map(|unused| unused.path.clone()).collect()
    }

    fn refusal(folder: &Path) -> String {
        let error = Dataset::open(folder).unwrap_err().to_string();
        assert!(!error.contains('\n'), "one sentence: {error}");
        error
    }

    fn fingerprints(dataset: &Dataset) -> Vec<Result<Fingerprint, String>> {
        let pictures = dataset.pictures.iter();
        pictures
            .map(|picture| load(&picture.path).map(|(_, fingerprint)| fingerprint))
            .collect()
    }

    fn issues(folder: &Path) -> (Dataset, Issues) {
        let dataset = Dataset::open(folder).unwrap();
        let issues = Issues::new(&dataset, &fingerprints(&dataset));
        (dataset, issues)
    }

    #[test]
    fn each_folder_is_a_class() {
        let folder = set(&["without_mask", "with_mask", "mask_on_chin"]);
        let path = folder.path();
        write(path, "with_mask/deeper/still/a.JPG", b"x");
        write(path, "with_mask/.hidden/a.jpg", b"x");
        write(path, "with_mask/.copying.jpg", b"x");
        write(path, "with_mask/notes.txt", b"x");
        write(path, ".git/a.jpg", b"x");
        write(path, "lost.jpg", b"x");
        write(path, "unlabelled/a.jpg", b"x");
        let dataset = Dataset::open(path).unwrap();
        assert_eq!(
            dataset.classes,
            ["mask_on_chin", "with_mask", "without_mask"]
        );
        assert_eq!(dataset.counts(), [5, 6, 5]);
        assert_eq!(
            dataset.labels(),
            [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2]
        );
        assert_eq!(dataset.name(0), "mask_on_chin/0.png");
        assert_eq!(dataset.name(10), "with_mask/deeper/still/a.JPG");
        assert_eq!(dataset.name(99), "");
        let ignored = ["lost.jpg", "unlabelled", "with_mask/notes.txt"];
        assert_eq!(ignored_paths(&dataset), ignored.map(|name| path.join(name)));
    }

    #[test]
    fn a_folder_that_is_no_data_set_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let place = path.display();
        assert_eq!(
            refusal(&path.join("none")),
            format!("there is no folder {place}/none; name one that has a folder for each class")
        );
        write(path, "file", b"x");
        assert_eq!(
            refusal(&path.join("file")),
            format!("{place}/file is not a folder; name one that has a folder for each class")
        );
        assert!(refusal(path).contains("has 0 class folders, but needs at least 2"));

        let folder = set(&["with_mask"]);
        let path = folder.path();
        assert!(refusal(path).contains("has 1 class folder, but needs at least 2"));
        fs::create_dir(path.join("bare")).unwrap();
        write(path, "bare/notes.txt", b"x");
        let error = refusal(path);
        assert!(error.contains("/bare has no pictures"), "{error}");
        for name in ["a.jpg", "b.jpg", "c.jpg", "d.jpg"] {
            write(path, &format!("bare/{name}"), b"x");
        }
        assert!(refusal(path).contains("class \"bare\" has only 4 usable pictures"));
        write(path, "bare/e.jpg", b"x");
        assert_eq!(Dataset::open(path).unwrap().counts(), [5, 5]);

        for name in ["unsure", "discard", " bare", "line\nbreak", &"x".repeat(65)] {
            fs::rename(path.join("bare"), path.join(name)).unwrap();
            assert!(refusal(path).contains("cannot be a label"), "{name:?}");
            fs::rename(path.join(name), path.join("bare")).unwrap();
        }
        for number in 0..63 {
            fs::create_dir(path.join(number.to_string())).unwrap();
        }
        assert!(refusal(path).contains("has 65 class folders, but at most 64"));
    }

    #[cfg(unix)]
    #[test]
    fn names_that_are_not_text_and_cyclic_links() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        use std::os::unix::fs::symlink;

        let folder = set(&["with_mask", "bare"]);
        let path = folder.path();
        symlink("..", path.join("bare/round")).unwrap();
        symlink("nowhere.jpg", path.join("bare/broken.jpg")).unwrap();
        let elsewhere = set(&["mask"]);
        symlink(elsewhere.path().join("mask"), path.join("linked")).unwrap();
        let dataset = Dataset::open(path).unwrap();
        assert_eq!(dataset.classes, ["bare", "linked", "with_mask"]);
        // The link from "bare" to the whole data set is not followed, but it is reported.
        assert_eq!(dataset.counts(), [5 + 1, 5, 5]);
        let unused = dataset.unused();
        assert_eq!(unused.len(), 1, "{unused:?}");
        assert!(
            unused[0].starts_with("not used (1): bare/round: links back to a folder above"),
            "{unused:?}"
        );
        fs::remove_file(path.join("bare/round")).unwrap();
        let (dataset, issues) = issues(path);
        let broken = issues.sentences(&dataset);
        assert!(broken[0].starts_with("left out: bare/broken.jpg: No such file"));

        fs::create_dir(path.join(OsStr::from_bytes(b"\xff"))).unwrap();
        assert!(refusal(path).contains("class folder \"\u{fffd}\" cannot be"));
    }

    #[test]
    fn one_picture_is_enough_to_evaluate_on() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Dataset::open_for_evaluation(folder.path()).is_err());
        write(folder.path(), "with_mask/a.jpg", b"x");
        write(folder.path(), "with_mask/b.jpg", b"x");
        let dataset = Dataset::open_for_evaluation(folder.path()).unwrap();
        assert_eq!(dataset.counts(), [2]);
        let less = dataset.without(&[1]).unwrap();
        assert_eq!(less.counts(), [1]);
        let error = less.without(&[0]).unwrap_err().to_string();
        assert!(error.contains("has only 0 usable pictures, but needs at least 1"));
    }

    #[test]
    fn a_pipe_is_not_read() {
        let folder = set(&["bare", "mask"]);
        let pipe = folder.path().join("bare/pipe.jpg");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let dataset = Dataset::open(folder.path()).unwrap();
        assert_eq!(dataset.counts(), [5, 5]);
        assert_eq!(ignored_paths(&dataset), [pipe]);
    }

    #[test]
    fn copies_are_never_in_both_parts_of_a_split() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        for number in 0..5 {
            for (class, name) in ["bare", "mask"].into_iter().enumerate() {
                let original = picture(class as u64 * 100 + number, 144, 144);
                let mirrored = imageops::flip_horizontal(&original);
                let png = |pixels| encoded(pixels, ImageFormat::Png);
                let copies = [png(&original), png(&mirrored), jpeg(&original, 95)];
                for (copy, bytes) in copies.iter().enumerate() {
                    write(path, &format!("{name}/{number}-{copy}.jpg"), bytes);
                }
            }
        }
        let dataset = Dataset::open(path).unwrap();
        let prints = fingerprints(&dataset).into_iter();
        let hashes: Vec<PerceptualHash> = prints.map(|print| print.unwrap().hash).collect();
        let groups = near_duplicate_groups(&hashes, MAX_DUPLICATE_DISTANCE);
        for seed in 0..20 {
            let parts = dataset.split(&groups, 0.2, seed).unwrap();
            // The original of "bare/0-1.jpg" is "bare/0".
            let originals = |part: &[usize]| -> HashSet<String> {
                let names = part.iter().map(|&index| dataset.name(index));
                names.map(|name| name[..6].to_owned()).collect()
            };
            let (train, val) = (originals(&parts.train), originals(&parts.val));
            assert!(train.is_disjoint(&val), "{seed}: {train:?} {val:?}");
            assert_eq!((train.len(), val.len()), (8, 2));
        }
    }

    #[test]
    fn issues_are_found_and_named() {
        let folder = set(&["bare", "mask"]);
        let path = folder.path();
        let copy = fs::read(path.join("bare/0.png")).unwrap();
        write(path, "mask/same file.png", &copy);
        // This picture has the same pixels in another format, and is in the other class.
        let bmp = encoded(&picture(101, 40, 30), ImageFormat::Bmp);
        write(path, "bare/same pixels.bmp", &bmp);
        write(
            path,
            "mask/twice.png",
            &fs::read(path.join("mask/3.png")).unwrap(),
        );
        write(path, "bare/similar.jpg", &jpeg(&picture(102, 40, 30), 70));
        write(path, "mask/empty.jpg", b"");
        write(path, "mask/text.png", b"no picture");
        write(
            path,
            "mask/cut.jpg",
            &jpeg(&picture(7, 200, 200), 80)[..2000],
        );
        let mut ended = jpeg(&picture(8, 200, 200), 80);
        ended.drain(2000..ended.len() - 2);
        write(path, "mask/ended.jpg", &ended);
        let (dataset, issues) = issues(path);
        assert_eq!(
            issues.sentences(&dataset),
            [
                "left out: mask/cut.jpg: it is cut off before its end",
                "left out: mask/empty.jpg: it is empty",
                "left out: mask/ended.jpg: it is damaged, since some of its data is missing or \
                 invalid",
                "left out: mask/text.png: it is not a JPEG, PNG, WebP, BMP, GIF, or TIFF picture",
                "left out: the same picture in several classes: bare/0.png, mask/same file.png",
                "left out: the same picture in several classes: bare/same pixels.bmp, mask/1.png",
                "check the labels of these pictures, which look alike: bare/similar.jpg, mask/2.png",
                "the same picture more than once: mask/3.png, mask/twice.png",
            ]
        );

        let left_out = issues.left_out();
        let loaded = without(fingerprints(&dataset), &left_out);
        let left = dataset.without(&left_out).unwrap();
        assert_eq!((left.counts(), loaded.len()), (vec![5, 5], 10));
        let again = Issues::new(&left, &loaded);
        assert!(again.unreadable.is_empty() && again.contradictions.is_empty());
        let error = left.without(&[0]).unwrap_err().to_string();
        assert!(error.contains("class \"bare\" has only 4"), "{error}");
    }

    #[test]
    fn copies_are_recognized_and_other_pictures_are_not() {
        let mut hashes = Vec::new();
        for example in EXAMPLES {
            let original = frame::decode(example.bytes).unwrap();
            let (width, height) = original.dimensions();
            let own = PerceptualHash::of(&original);
            let resized = |width: u32, height: u32| {
                imageops::resize(&original, width, height, FilterType::Triangle)
            };
            let copies = [
                original.clone(),
                resized(width / 2, height / 2),
                resized(224, 224),
                resized(width * 2, height * 2),
                resized(width * 7 / 10, height * 7 / 10),
                imageops::flip_horizontal(&resized(width / 2, height / 2)),
            ];
            for (copy, quality) in copies.iter().zip([50, 85, 85, 90, 40, 70]) {
                let again = frame::decode(&jpeg(copy, quality)).unwrap();
                let hash = PerceptualHash::of(&again);
                let distance = own.distance(&hash);
                assert!(
                    distance <= MAX_DUPLICATE_DISTANCE,
                    "{}: {distance}",
                    example.name
                );
                hashes.push(hash);
            }
        }
        let groups = near_duplicate_groups(&hashes, MAX_DUPLICATE_DISTANCE);
        let expected: Vec<usize> = (0..hashes.len()).map(|index| index / 6 * 6).collect();
        assert_eq!(groups, expected);
    }

    #[test]
    fn the_hash_is_what_krawetz_describes() {
        // The picture gets brighter to the right, so each cell is brighter than the
        // cell to its left.
        let right = RgbImage::from_fn(90, 80, |x, _| Rgb([x as u8 * 2; 3]));
        assert_eq!(PerceptualHash::of(&right).upright, u128::MAX << 64);
        assert_eq!(PerceptualHash::of(&right).mirrored, 0);
        let down = RgbImage::from_fn(80, 90, |_, y| Rgb([y as u8 * 2; 3]));
        let down = PerceptualHash::of(&down);
        assert_eq!([down.upright, down.mirrored], [u128::MAX >> 64; 2]);
        assert_eq!(
            PerceptualHash::of(&RgbImage::new(50, 50)),
            PerceptualHash::default()
        );
        let one = picture(1, 144, 144);
        let (hash, mirrored) = (
            PerceptualHash::of(&one),
            PerceptualHash::of(&imageops::flip_horizontal(&one)),
        );
        assert_eq!(
            [hash.upright, hash.mirrored],
            [mirrored.mirrored, mirrored.upright]
        );
        for (width, height) in [(0, 0), (1, 1), (1, 500), (500, 1), (3, 2)] {
            let _ = PerceptualHash::of(&picture(1, width.max(1), height.max(1)));
            assert_eq!(
                PerceptualHash::of(&RgbImage::new(width, height)),
                PerceptualHash::default()
            );
        }
    }

    #[test]
    fn the_digest_depends_on_classes_and_contents() {
        let digest = |folder: &Path| {
            let dataset = Dataset::open(folder).unwrap();
            let loaded: Result<Vec<_>, _> = fingerprints(&dataset).into_iter().collect();
            hex::encode(&dataset.digest(&loaded.unwrap()))
        };
        let (one, two) = (set(&["bare", "mask"]), set(&["bare", "mask"]));
        let first = digest(one.path());
        assert_eq!(first, digest(two.path()), "whatever its path");
        let old = two.path().join("mask/0.png");
        write(two.path(), "mask/deeper/z.png", &fs::read(&old).unwrap());
        fs::remove_file(&old).unwrap();
        assert_eq!(first, digest(two.path()), "whatever the file names");
        let third = two.path().join("third");
        fs::rename(two.path().join("mask"), &third).unwrap();
        assert_ne!(first, digest(two.path()), "another class");
        fs::rename(third, two.path().join("mask")).unwrap();
        write(two.path(), "mask/1.png", &jpeg(&picture(1, 9, 9), 90));
        assert_ne!(first, digest(two.path()), "another picture");
    }

    #[test]
    fn imbalance_is_reported_above_a_ratio_of_one_and_a_half() {
        let classes = ["bare".to_owned(), "mask".to_owned()];
        assert_eq!(imbalance_note(&classes, &[100, 150]), None);
        assert_eq!(
            imbalance_note(&classes, &[100, 151]).unwrap(),
            "the classes have different sizes: 151 pictures of \"mask\", 100 of \"bare\" (1.5 times as many)"
        );
        assert_eq!(imbalance_note(&[], &[]), None);
        assert_eq!(class_weights(&[2, 0]), [0.5, 0.0]);
    }

    #[test]
    fn impossible_splits_name_the_class() {
        let folder = set(&["bare", "mask"]);
        let dataset = Dataset::open(folder.path()).unwrap();
        let groups = [0, 1, 2, 3, 4, 5, 5, 5, 5, 5];
        let error = dataset.split(&groups, 0.2, 1).unwrap_err().to_string();
        assert!(error.contains("class \"mask\" cannot be split"), "{error}");
        assert_eq!(split(&[0], &[0], 0.2, 1), Err(SplitError { class: 0 }));
        let none = split(&[], &[], 0.2, 1).unwrap();
        assert!(none.train.is_empty() && none.val.is_empty());
        // Each class has two groups of ten pictures. A part can contain only whole
        // groups, so half of the pictures is as close to a fifth as possible.
        let groups: Vec<usize> = (0..40).map(|index| index / 10).collect();
        let classes: Vec<usize> = (0..40).map(|index| index / 20).collect();
        assert_eq!(split(&groups, &classes, 0.2, 1).unwrap().val.len(), 20);
    }

    #[test]
    fn single_pictures_are_split_exactly() {
        let groups: Vec<usize> = (0..1000).collect();
        let classes: Vec<usize> = (0..1000).map(|index| usize::from(index >= 300)).collect();
        let of = |seed| split(&groups, &classes, 0.2, seed).unwrap();
        let val = of(1).val;
        assert_eq!(val.len(), 200);
        assert_eq!(val.iter().filter(|&&index| index < 300).count(), 60);
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        // The split is the same on every machine and in every version.
        assert_eq!(val[..6], [7, 8, 17, 26, 28, 29]);
    }

    proptest! {
        #[test]
        fn splits_are_fair(
            sizes in prop::collection::vec((0_usize..4, 1_usize..6), 10..60),
            share in 0.05_f64..0.6,
            seed: u64,
        ) {
            // Each group lies within one class.
            let mut groups = Vec::new();
            let mut classes = Vec::new();
            for (group, &(class, size)) in sizes.iter().enumerate() {
                groups.extend(vec![group * 7; size]);
                classes.extend(vec![class; size]);
            }
            let per_class = |class| sizes.iter().filter(move |(c, _)| *c == class);
            let lone = (0..4).find(|&class| per_class(class).count() == 1);
            let result = split(&groups, &classes, share, seed);
            let Ok(parts) = result else {
                prop_assert!(lone.is_some(), "only a class of one group is refused");
                return Ok(());
            };
            prop_assert!(lone.is_none());
            check_parts(&parts, &groups)?;
            for class in 0..4 {
                let all: usize = per_class(class).map(|(_, size)| size).sum();
                let largest = per_class(class).map(|(_, size)| *size).max().unwrap_or(0);
                let val = parts.val.iter().filter(|&&index| classes[index] == class).count();
                let wanted = all as f64 * share;
                prop_assert!((val as f64 - wanted).abs() <= largest as f64 + 0.5);
                prop_assert!(all == 0 || (0 < val && val < all));
            }
            prop_assert_eq!(split(&groups, &classes, share, seed).unwrap(), parts);
        }

        #[test]
        fn groups_over_classes_are_kept_together(
            pictures in prop::collection::vec((0_usize..40, 0_usize..3), 2..120),
            seed: u64,
        ) {
            let (groups, classes): (Vec<usize>, Vec<usize>) = pictures.into_iter().unzip();
            if let Ok(parts) = split(&groups, &classes, 0.2, seed) {
                check_parts(&parts, &groups)?;
            }
        }

        #[test]
        fn groups_are_those_of_comparing_all_with_all(
            seeds in prop::collection::vec((0_u128..12, 0_u128..12, prop::collection::vec(0_u32..128, 0..8)), 0..40),
            distance in 0_u32..20,
        ) {
            // The hashes come from only a few base values, each with some bits flipped,
            // so many hashes are close to each other.
            let bits = |base: u128, flips: &[u32]| {
                let base = base.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
                flips.iter().fold(base, |bits, flip| bits ^ (1 << flip))
            };
            let hashes: Vec<PerceptualHash> = seeds
                .iter()
                .map(|(base, mirrored, flips)| PerceptualHash {
                    upright: bits(*base, flips),
                    mirrored: bits(*mirrored, &flips[flips.len() / 2..]),
                })
                .collect();
            let mut expected: Vec<usize> = (0..hashes.len()).collect();
            for a in 0..hashes.len() {
                for b in 0..a {
                    if hashes[a].distance(&hashes[b]) <= distance {
                        let (from, to) = (expected[a].max(expected[b]), expected[a].min(expected[b]));
                        expected.iter_mut().filter(|group| **group == from).for_each(|group| *group = to);
                    }
                }
            }
            prop_assert_eq!(near_duplicate_groups(&hashes, distance), expected);
        }
    }

    /// Checks that the parts are disjoint and complete, and that no group is in
    /// both.
    fn check_parts(parts: &Split, groups: &[usize]) -> Result<(), TestCaseError> {
        let mut all = [parts.train.clone(), parts.val.clone()].concat();
        all.sort_unstable();
        prop_assert!(all.into_iter().eq(0..groups.len()));
        let of = |part: &[usize]| -> HashSet<usize> { part.iter().map(|&i| groups[i]).collect() };
        prop_assert!(of(&parts.train).is_disjoint(&of(&parts.val)));
        prop_assert!(parts.train.is_sorted() && parts.val.is_sorted());
        Ok(())
    }

    #[test]
    fn wide_distances_make_one_group() {
        let hash = |upright| PerceptualHash {
            upright,
            mirrored: upright,
        };
        let hashes = [0, u128::MAX, 5, 0].map(hash);
        assert_eq!(near_duplicate_groups(&hashes, 128), [0, 0, 0, 0]);
        assert_eq!(near_duplicate_groups(&hashes, 127), [0, 0, 0, 0]);
        assert_eq!(near_duplicate_groups(&hashes, 125), [0, 1, 0, 0]);
        assert_eq!(near_duplicate_groups(&hashes, 0), [0, 1, 2, 0]);
        assert_eq!(near_duplicate_groups(&[], MAX_DUPLICATE_DISTANCE).len(), 0);
    }
}
