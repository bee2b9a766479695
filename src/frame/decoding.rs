//! From picture files to pixels.
//!
//! Owns which files count as pictures, the limits on what is read and decoded,
//! and the decoders.

use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageDecoder, ImageReader, RgbImage};

use super::{MAX_PIXELS, PictureError};
use crate::platform::files;

/// Maximum size of a picture file, in bytes (64 MiB).
pub const MAX_PICTURE_BYTES: u64 = 64 * 1024 * 1024;

/// Maximum size of a decoded picture, in bytes: [`MAX_PIXELS`] of RGBA with 8 bits
/// per channel.
const MAX_DECODED_BYTES: u64 = 4 * MAX_PIXELS;

/// Extensions of picture files, in lower case.
const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"];

/// Whether a file has the extension of a picture and is not hidden (as files are
/// that are still being copied).
#[must_use]
pub fn is_named_like_a_picture(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let picture = path.extension().is_some_and(|extension| {
        EXTENSIONS
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    });
    picture && !hidden
}

/// The files of a folder that are [named like a picture](is_named_like_a_picture),
/// sorted by name. Subfolders are not searched.
///
/// # Errors
/// If the folder cannot be read.
pub fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut pictures = Vec::new();
    for entry in folder.read_dir()? {
        let path = entry?.path();
        if is_named_like_a_picture(&path) && path.is_file() {
            pictures.push(path);
        }
    }
    pictures.sort();
    Ok(pictures)
}

/// Reads a picture file of at most [`MAX_PICTURE_BYTES`].
///
/// # Errors
/// If it cannot be read, or is larger.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    files::read_bounded(path, MAX_PICTURE_BYTES).map_err(|error| error.source)
}

/// Decodes a picture of any supported format to upright RGB.
///
/// Applies the EXIF orientation, drops alpha, converts 16 bits per channel to 8
/// and CMYK to RGB, and takes the first picture of an animation.
///
/// # Errors
/// [`PictureError`]. The size is checked before anything is decoded.
pub fn decode(bytes: &[u8]) -> Result<RgbImage, PictureError> {
    if bytes.is_empty() {
        return Err(PictureError::Empty);
    }
    let reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| PictureError::Decode(error.to_string()))?;
    let format = reader.format().ok_or(PictureError::Format)?;
    let mut decoder = reader.into_decoder().map_err(decode_error)?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels > MAX_PIXELS || decoder.total_bytes() > MAX_DECODED_BYTES {
        return Err(PictureError::TooLarge { width, height });
    }
    // The decoder fills the missing part of a JPEG with gray and reports no error;
    // a verdict on gray would be a guess.
    if format == image::ImageFormat::Jpeg && !has_jpeg_end(bytes) {
        return Err(PictureError::Truncated);
    }
    // A picture with an invalid orientation tag is decoded as it is.
    let orientation = decoder
        .orientation()
        .unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(decode_error)?;
    picture.apply_orientation(orientation);
    Ok(picture.into_rgb8())
}

/// Whether an end-of-image marker follows the last start of a scan. Some software
/// appends bytes after the marker, so it need not be at the very end; searching
/// backward finds it quickly.
fn has_jpeg_end(bytes: &[u8]) -> bool {
    let mut pairs = bytes.windows(2).rev();
    pairs.find_map(|pair| match pair {
        [0xff, 0xd9] => Some(true),
        [0xff, 0xda] => Some(false),
        _ => None,
    }) == Some(true)
}

fn decode_error(error: image::ImageError) -> PictureError {
    use image::ImageError;
    match error {
        ImageError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            PictureError::Truncated
        }
        ImageError::Unsupported(_) => PictureError::Format,
        // Some decoders wrap their messages over several lines.
        error => PictureError::Decode(
            error
                .to_string()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_is_listed_by_name_and_extension() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "b.PNG",
            "a.jpeg",
            "c.Tiff",
            "notes.txt",
            "jpg",
            ".hidden.jpg",
            "0.webp",
        ] {
            std::fs::write(folder.path().join(name), b"x").unwrap();
        }
        std::fs::create_dir(folder.path().join("z.jpg")).unwrap();
        let names: Vec<_> = list(folder.path())
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["0.webp", "a.jpeg", "b.PNG", "c.Tiff"]);
    }

    #[test]
    fn file_larger_than_the_limit_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large.jpg");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(MAX_PICTURE_BYTES).unwrap();
        assert_eq!(read(&path).unwrap().len() as u64, MAX_PICTURE_BYTES);
        file.set_len(MAX_PICTURE_BYTES + 1).unwrap();
        assert_eq!(
            read(&path).unwrap_err().to_string(),
            "it has more than 64 MiB"
        );
    }
}
