//! From picture files to pixels.
//!
//! Owns which files count as pictures, the limits on what is read and decoded,
//! and the decoders.

use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageDecoder, ImageReader, RgbImage};

use super::{MAX_PIXELS, PictureError};
use crate::platform::files;

/// Largest picture file that is read, in bytes (64 MiB).
pub const MAX_PICTURE_BYTES: u64 = 64 * 1024 * 1024;

/// Most memory that a decoder's result may take, in bytes: [`MAX_PIXELS`] of RGB
/// and alpha with 8 bits each.
const MAX_DECODED_BYTES: u64 = 4 * MAX_PIXELS;

/// How a picture file's name ends, in small letters.
const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"];

/// Whether a file's name ends like that of a picture and does not start with a
/// dot (as those of files do that are still being copied).
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

/// The pictures of a folder, sorted by name: its own files, not those of
/// folders within, that are [named like a picture](is_named_like_a_picture).
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
/// If it cannot be read, or is longer.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    files::read_bounded(path, MAX_PICTURE_BYTES).map_err(|error| error.source)
}

/// Decodes a picture of any built-in format to upright RGB.
///
/// EXIF orientation is applied, alpha is dropped, 16 bits a channel become 8,
/// CMYK becomes RGB, and of an animation the first picture is taken.
///
/// # Errors
/// Says why the bytes are no usable picture; sizes are checked before anything
/// is decoded.
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
    // The decoder fills what is missing of a JPEG with gray and reports no
    // error; a verdict on gray would be a guess.
    if format == image::ImageFormat::Jpeg && !has_jpeg_end(bytes) {
        return Err(PictureError::Truncated);
    }
    // A broken orientation tag is no reason to refuse the picture.
    let orientation = decoder
        .orientation()
        .unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(decode_error)?;
    picture.apply_orientation(orientation);
    Ok(picture.into_rgb8())
}

/// Whether the end-of-image marker follows the last start of a scan. Software
/// that pads or appends to files leaves other bytes behind the marker, which is
/// near the end all the same: from there it is found at once.
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
        // Some decoders wrap their sentence over several lines.
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
    fn file_beyond_the_limit_is_refused() {
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
