//! Classifies files by their names.
//!
//! This module owns the lists of supported and unsupported extensions, and the names of files that
//! operating systems create on their own. It reads no files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Maximum number of names that a summary lists for each reason.
const MAX_NAMES: usize = 5;

/// Extensions of the supported picture formats, in lowercase.
const EXTENSIONS: [&str; 10] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff",
];

/// Extensions of unsupported picture and video formats, in lowercase, with the names of the
/// formats.
const UNREAD: [(&str, &str); 25] = [
    ("heic", "HEIC"),
    ("heif", "HEIF"),
    ("hif", "HEIF"),
    ("avif", "AVIF"),
    ("jxl", "JPEG XL"),
    ("jp2", "JPEG 2000"),
    ("j2k", "JPEG 2000"),
    ("svg", "SVG"),
    ("psd", "Photoshop"),
    ("ppm", "PPM"),
    ("pgm", "PGM"),
    ("tga", "TGA"),
    ("pdf", "PDF"),
    ("raw", "raw"),
    ("dng", "raw"),
    ("cr2", "raw"),
    ("cr3", "raw"),
    ("nef", "raw"),
    ("arw", "raw"),
    ("orf", "raw"),
    ("rw2", "raw"),
    ("mp4", "video"),
    ("mov", "video"),
    ("avi", "video"),
    ("mkv", "video"),
];

/// Names of files and folders that operating systems and network drives create on their own.
const CLUTTER: [&str; 12] = [
    "@eaDir",
    "@Recycle",
    "#recycle",
    "#snapshot",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
    "__MACOSX",
    "Thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "Icon\r",
];

/// Explains why a link to a parent folder is not followed.
pub(crate) const LEADS_UP: &str = "links back to a folder above are not followed; remove them";

/// Whether a file has the extension of a supported picture format and is not hidden. Files
/// that are still being copied are often hidden.
#[must_use]
pub fn is_named_like_a_picture(path: &Path) -> bool {
    let is_hidden = path
        .file_name()
        .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let is_picture = path.extension().is_some_and(|extension| {
        EXTENSIONS
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    });
    is_picture && !is_hidden
}

/// Whether a file or folder is hidden or was created by the operating system. Messages do
/// not mention such files.
#[must_use]
pub fn is_clutter(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
        || CLUTTER
            .iter()
            .any(|clutter| name.eq_ignore_ascii_case(clutter))
}

/// Explains why a file that is not [named like a picture](is_named_like_a_picture) is not
/// read, and what to do about it. The sentence applies to one file or to several.
#[must_use]
pub fn why_not_read(path: &Path) -> String {
    let extension = path.extension().unwrap_or_default();
    let unread = UNREAD
        .iter()
        .find(|(known, _)| extension.eq_ignore_ascii_case(known));
    match unread {
        Some((_, "video")) => "videos are not read; extract JPEG pictures from them".to_owned(),
        Some((_, format)) => {
            format!("{format} pictures are not read; convert them to JPEG or PNG")
        }
        None if extension.is_empty() => {
            "files without an ending are not read; if they are pictures, add one such as .jpg"
                .to_owned()
        }
        None => format!(
            "files that end with .{} are not read",
            extension.to_string_lossy()
        ),
    }
}

/// Whether a file has the extension of an unsupported picture or video format.
#[must_use]
pub fn is_unread_picture(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    let mut unread = UNREAD.iter();
    unread.any(|(known, _)| extension.eq_ignore_ascii_case(known))
}

/// A file or folder that is not used, although the user may expect it to be used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unused {
    /// Path of the file or folder.
    pub path: PathBuf,
    /// Why the file or folder is not used, and what to do about it.
    pub why: String,
}

/// Summarizes unused files in one sentence per reason. Each sentence contains the number of
/// files and the first few names, which are relative to `base`.
#[must_use]
pub fn summarize(unused: &[Unused], base: &Path) -> Vec<String> {
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for Unused { path, why } in unused {
        let name = path.strip_prefix(base).unwrap_or(path);
        reasons
            .entry(why)
            .or_default()
            .push(name.display().to_string());
    }
    let sentence = |(why, names): (&str, Vec<String>)| {
        let mut list = names[..names.len().min(MAX_NAMES)].join(", ");
        if names.len() > MAX_NAMES {
            list += &format!(" and {} more", names.len() - MAX_NAMES);
        }
        format!("not used ({}): {list}: {why}", names.len())
    };
    reasons.into_iter().map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_pictures_from_other_files() {
        for name in ["a.JPG", "a.jpe", "a.Jfif", "d.jpg/a.png", "a.b.tiff"] {
            assert!(is_named_like_a_picture(Path::new(name)), "{name}");
        }
        for name in [".a.jpg", "a.heic", "jpg", "a", "a.jpg.txt"] {
            assert!(!is_named_like_a_picture(Path::new(name)), "{name}");
        }
        for name in ["@eaDir", "THUMBS.DB", ".DS_Store", "._a.jpg", "__MACOSX"] {
            assert!(is_clutter(OsStr::new(name)), "{name}");
        }
        for name in ["with_mask", "eaDir", "thumbs.jpg"] {
            assert!(!is_clutter(OsStr::new(name)), "{name}");
        }
        for (name, words) in [
            ("a.HEIC", "HEIC pictures are not read; convert them to JPEG"),
            ("a.jxl", "JPEG XL pictures are not read"),
            ("a.mov", "videos are not read"),
            ("a", "files without an ending"),
            ("a.txt", "files that end with .txt are not read"),
        ] {
            let why = why_not_read(Path::new(name));
            assert!(why.contains(words), "{name}: {why}");
        }
    }

    #[test]
    fn a_summary_counts_and_names() {
        let unused: Vec<Unused> = (0..7)
            .map(|number| Unused {
                path: format!("set/a/{number}.heic").into(),
                why: "they are HEIC".to_owned(),
            })
            .collect();
        let sentences = summarize(&unused, Path::new("set"));
        let names = "a/0.heic, a/1.heic, a/2.heic, a/3.heic, a/4.heic and 2 more";
        assert_eq!(sentences, [format!("not used (7): {names}: they are HEIC")]);
    }
}
