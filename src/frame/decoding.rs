//! Decodes picture files to pixels.
//!
//! This module owns the decoders, and the limits on what they read and decode. `names` determines
//! which files count as pictures.

use std::borrow::Cow;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};

use super::names::{Unused, is_clutter, is_named_like_a_picture, is_unread_picture, why_not_read};
use super::{MAX_PIXELS, PictureError, jpeg};
use crate::platform::files;

/// Maximum size of a picture file, in bytes (64 MiB).
pub const MAX_PICTURE_BYTES: u64 = 64 * 1024 * 1024;

/// Returns the files in a folder that are [named like a picture](is_named_like_a_picture),
/// sorted by name. Subfolders are not searched.
///
/// # Errors
/// Returns an error if the folder cannot be read.
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

/// Returns the pictures and videos in a folder whose formats are not supported, sorted by
/// name. Subfolders are not searched.
///
/// # Errors
/// Returns an error if the folder cannot be read.
pub fn list_unread(folder: &Path) -> io::Result<Vec<Unused>> {
    let mut unread = Vec::new();
    for entry in folder.read_dir()? {
        let entry = entry?;
        let path = entry.path();
        if is_unread_picture(&path) && !is_clutter(&entry.file_name()) {
            let why = why_not_read(&path);
            unread.push(Unused { path, why });
        }
    }
    unread.sort();
    Ok(unread)
}

/// Reads a picture file of at most [`MAX_PICTURE_BYTES`].
///
/// # Errors
/// Returns an error if the file cannot be read or is larger than [`MAX_PICTURE_BYTES`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    files::read_bounded(path, MAX_PICTURE_BYTES).map_err(|error| error.source)
}

/// Decodes a picture of any supported format to upright RGB. The picture may have at most
/// [`MAX_PIXELS`] pixels.
///
/// This function applies the EXIF orientation, discards the alpha channel, converts 16
/// bits per channel to 8 bits and CMYK to RGB, and decodes the first picture of an
/// animation.
///
/// # Errors
/// Returns a [`PictureError`] if the bytes are not a usable picture. The size is checked before
/// anything is decoded. A picture with a missing or invalid part is rejected.
pub fn decode(bytes: &[u8]) -> Result<RgbImage, PictureError> {
    decode_within(bytes, MAX_PIXELS)
}

/// Like [`decode`], but the picture may have at most `max_pixels` pixels. In a JPEG with several
/// scans, such as a progressive JPEG, each pixel counts as three, because the decoder keeps 9 bytes
/// per pixel instead of 3.
///
/// # Errors
/// Returns the errors of [`decode`].
pub fn decode_within(bytes: &[u8], max_pixels: u64) -> Result<RgbImage, PictureError> {
    if bytes.is_empty() {
        return Err(PictureError::Empty);
    }
    let format = image::guess_format(bytes).map_err(|_| PictureError::Format)?;
    let bytes = match format {
        ImageFormat::Jpeg => jpeg::check(bytes, max_pixels)?,
        // All other decoders report missing data themselves.
        ImageFormat::WebP if !has_webp_data(bytes) => return Err(PictureError::Truncated),
        _ => Cow::Borrowed(bytes),
    };
    let reader = ImageReader::with_format(Cursor::new(&bytes[..]), format);
    let mut decoder = reader.into_decoder().map_err(decode_error)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > max_pixels {
        return Err(PictureError::TooLarge {
            width,
            height,
            weight: 1,
            max_pixels,
        });
    }
    if decoder.total_bytes() > 4 * max_pixels {
        return Err(PictureError::TooDeep { width, height });
    }
    // If the orientation tag is invalid, the picture is decoded without a change in
    // orientation.
    let orientation = decoder
        .orientation()
        .unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(decode_error)?;
    picture.apply_orientation(orientation);
    Ok(picture.into_rgb8())
}

/// Whether these bytes are a complete JPEG, with or without an end marker.
pub(crate) fn is_whole_jpeg(bytes: &[u8]) -> bool {
    jpeg::check(bytes, MAX_PIXELS).is_ok()
}

/// Whether these bytes are a complete JPEG that any program can decode without changes.
pub(crate) fn is_standalone_jpeg(bytes: &[u8]) -> bool {
    matches!(jpeg::check(bytes, MAX_PIXELS), Ok(Cow::Borrowed(_)))
}

/// Whether the chunk with the first picture of a WebP file is complete. This check is needed
/// because the decoder reads zeros after the end of lossy data and reports no error.
fn has_webp_data(bytes: &[u8]) -> bool {
    // A file is a list of chunks. Each chunk consists of a name, a length, and data that is padded
    // to an even number of bytes.
    let mut rest = bytes.get(12..).unwrap_or_default();
    while let Some((header, content)) = rest.split_first_chunk::<8>() {
        let [name @ .., l0, l1, l2, l3] = header;
        let length = u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize;
        if matches!(name, b"VP8 " | b"VP8L" | b"ANMF") {
            return length <= content.len();
        }
        let even = length.next_multiple_of(2);
        rest = content.get(even..).unwrap_or_default();
    }
    false
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
