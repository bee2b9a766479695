//! The pictures that the user names on the command line.

use std::io::Read;
use std::path::{Path, PathBuf};

use image::RgbImage;

use crate::camera::pictures::EXAMPLES;
use crate::frame::decoding::{MAX_PICTURE_BYTES, decode, list, list_unread, read};
use crate::frame::names::summarize;

use super::{Failure, complain};

/// The path that stands for standard input.
const STANDARD_INPUT: &str = "-";

/// A picture that has not been read yet.
pub(super) enum Picture {
    File(PathBuf),
    StandardInput,
    Example {
        name: &'static str,
        bytes: &'static [u8],
    },
}

impl Picture {
    /// Returns the name that messages and records use for the picture.
    pub(super) fn name(&self) -> String {
        match self {
            Picture::File(path) => path.display().to_string(),
            Picture::StandardInput => STANDARD_INPUT.to_owned(),
            Picture::Example { name, .. } => format!("examples/{name}"),
        }
    }

    /// Returns the file name without its folder and extension.
    pub(super) fn stem(&self) -> String {
        let path = match self {
            Picture::File(path) => path,
            Picture::StandardInput => Path::new("standard-input"),
            Picture::Example { name, .. } => Path::new(name),
        };
        path.file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// Returns the encoded picture, or the reason why the file cannot be read.
    pub(super) fn bytes(&self) -> Result<Vec<u8>, String> {
        match self {
            Picture::File(path) => read(path).map_err(|error| error.to_string()),
            Picture::StandardInput => standard_input(),
            Picture::Example { bytes, .. } => Ok(bytes.to_vec()),
        }
    }

    /// Returns the decoded picture, or the reason why it cannot be read or decoded.
    pub(super) fn pixels(&self) -> Result<RgbImage, String> {
        decode(&self.bytes()?).map_err(|error| error.to_string())
    }
}

/// Reads a picture from standard input.
fn standard_input() -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let input = std::io::stdin().lock();
    let read = input.take(MAX_PICTURE_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_PICTURE_BYTES {
        return Err(format!("it has more than {} MiB", MAX_PICTURE_BYTES >> 20));
    }
    Ok(bytes)
}

/// Reports the pictures in `folder` that are not read because their formats are not
/// supported.
pub(super) fn complain_about_unread(folder: &Path) -> std::io::Result<()> {
    for sentence in summarize(&list_unread(folder)?, folder) {
        complain(&sentence);
    }
    Ok(())
}

/// Returns the given pictures and the pictures in the given folders, or the built-in
/// examples if `paths` is empty. The path `-` stands for standard input.
pub(super) fn expand(paths: &[PathBuf]) -> Result<Vec<Picture>, Failure> {
    if paths.is_empty() {
        let examples = EXAMPLES.iter();
        return Ok(examples
            .map(|example| Picture::Example {
                name: example.name,
                bytes: example.bytes,
            })
            .collect());
    }
    let mut pictures = Vec::new();
    for path in paths {
        if path == Path::new(STANDARD_INPUT) {
            pictures.push(Picture::StandardInput);
            continue;
        }
        if !path.is_dir() {
            pictures.push(Picture::File(path.clone()));
            continue;
        }
        let failed = |error: std::io::Error| {
            let folder = path.display();
            Failure::new(
                Failure::NO_INPUT,
                format!("cannot read the folder {folder}: {error}"),
            )
        };
        let found = list(path).map_err(failed)?;
        complain_about_unread(path).map_err(failed)?;
        if found.is_empty() {
            let folder = path.display();
            let sentence = format!("the folder {folder} has no pictures");
            return Err(Failure::new(Failure::NO_INPUT, sentence));
        }
        pictures.extend(found.into_iter().map(Picture::File));
    }
    Ok(pictures)
}
