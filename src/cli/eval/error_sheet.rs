//! The contact sheet of `maskd eval --errors`, which shows every picture whose result is
//! not right.
//!
//! This module draws the sheet. It also decides which files in the folder of the sheet
//! maskd may replace or delete. These are only the pages that maskd made itself. Each
//! page contains a comment that identifies it.

use std::fmt::Write as _;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::RgbImage;
use image::imageops::{FilterType, replace, resize};

use super::faces::WrongPicture;
use super::truth::pixels;
use crate::cli::Failure;
use crate::cli::output::{can_write, make_folder, write};
use crate::decision::annotate;
use crate::decision::frame_result::{FaceResult, Probabilities};
use crate::platform::files;
use crate::training::augment::contact_sheet;

/// Size of the picture in a tile, in pixels.
const PICTURE: (u32, u32) = (320, 240);

/// Height of the text below a picture, in pixels.
const TEXT: u32 = 36;

/// Line height of the text, in pixels.
const LINE: u32 = 16;

/// Height of the letters, in pixels.
const LETTERS: f32 = 14.0;

/// Number of characters of a picture's name that fit on one line.
const NAME_LETTERS: usize = 44;

/// Upper limit on the size of a page, in bytes.
const MAX_PAGE: usize = 8 << 20;

const COLUMNS: usize = 4;
const ROWS: usize = 5;

/// The comment in each page. maskd recognizes its own pages by this comment.
const MARK: &[u8] = b"maskd eval --errors";

/// The offset of the comment in a page, in bytes. The comment follows the start-of-image
/// marker and the JFIF header.
const MARK_AT: usize = 20;

/// The folder of a contact sheet.
pub(super) struct ErrorSheet<'a> {
    folder: &'a Path,
}

impl ErrorSheet<'_> {
    /// Creates the folder unless it exists, and checks that pages can be written there.
    pub(super) fn open(folder: &Path) -> Result<ErrorSheet<'_>, Failure> {
        make_folder(folder)?;
        let sheet = ErrorSheet { folder };
        for page in sheet.pages()? {
            check_own(&page)?;
        }
        can_write(&sheet.page(0), MAX_PAGE)?;
        Ok(sheet)
    }

    /// Draws the sheet. If an earlier sheet in the folder has more pages, deletes its
    /// additional pages. Returns the number of pages. `labels` are the labels of the
    /// model.
    pub(super) fn write(
        &self,
        errors: &[WrongPicture],
        labels: &[String],
    ) -> Result<usize, Failure> {
        let mut written = Vec::new();
        for (number, errors) in errors.chunks(COLUMNS * ROWS).enumerate() {
            let tiles = errors.iter().map(|error| tile(error, labels));
            let tiles = tiles.collect::<Result<Vec<RgbImage>, Failure>>()?;
            let page = self.page(number);
            let jpeg = encode(&contact_sheet(&tiles, COLUMNS))
                .map_err(|error| cannot_draw(&page, error))?;
            check_own(&page)?;
            write(&page, &jpeg)?;
            written.push(page);
        }
        for page in self.pages()? {
            if !written.contains(&page) {
                check_own(&page)?;
                files::delete(&page).map_err(|error| {
                    let sentence = format!("cannot delete {}: {error}", page.display());
                    Failure::new(Failure::CANNOT_WRITE, sentence)
                })?;
            }
        }
        Ok(written.len())
    }

    fn page(&self, number: usize) -> PathBuf {
        self.folder.join(format!("errors-{:03}.jpg", number + 1))
    }

    /// Returns the files in the folder that have the name of a page.
    fn pages(&self) -> Result<Vec<PathBuf>, Failure> {
        let list = || {
            let mut pages = Vec::new();
            for entry in self.folder.read_dir()? {
                let entry = entry?;
                if is_page_name(&entry.file_name().to_string_lossy()) {
                    pages.push(entry.path());
                }
            }
            Ok(pages)
        };
        list().map_err(|error: std::io::Error| {
            let sentence = format!("cannot read {}: {error}", self.folder.display());
            Failure::new(Failure::CANNOT_WRITE, sentence)
        })
    }
}

fn is_page_name(name: &str) -> bool {
    let number = name
        .strip_prefix("errors-")
        .and_then(|name| name.strip_suffix(".jpg"));
    number.is_some_and(|number| {
        number.len() >= 3 && number.bytes().all(|digit| digit.is_ascii_digit())
    })
}

/// Checks that maskd may write to the path of a page: either no file exists there, or the
/// existing file is a page that maskd made.
fn check_own(page: &Path) -> Result<(), Failure> {
    if !page.is_symlink() && !page.exists() {
        return Ok(());
    }
    let content = files::read_own(page, MAX_PAGE as u64).unwrap_or_default();
    let comment = content.get(MARK_AT..).unwrap_or_default();
    if comment.starts_with(&comment_segment()) {
        return Ok(());
    }
    let sentence = format!(
        "{} was not made by this command: move it, or name another folder with --errors",
        page.display()
    );
    Err(Failure::new(Failure::CANNOT_WRITE, sentence))
}

/// Returns the comment as a segment of a JPEG.
fn comment_segment() -> Vec<u8> {
    let length = 2 + MARK.len() as u8;
    [&[0xff, 0xfe, 0, length], MARK].concat()
}

fn encode(sheet: &RgbImage) -> Result<Vec<u8>, image::ImageError> {
    let mut bytes = Cursor::new(Vec::new());
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90);
    sheet.write_with_encoder(encoder)?;
    let mut bytes = bytes.into_inner();
    bytes.splice(MARK_AT..MARK_AT, comment_segment());
    Ok(bytes)
}

fn cannot_draw(path: &Path, error: impl std::fmt::Display) -> Failure {
    let sentence = format!("cannot draw {}: {error}", path.display());
    Failure::new(Failure::INTERNAL, sentence)
}

/// Draws a picture with the box of its largest face. The name of the picture and the
/// verdict are written below the picture.
fn tile(error: &WrongPicture, labels: &[String]) -> Result<RgbImage, Failure> {
    let failed = |why: &dyn std::fmt::Display| cannot_draw(&error.path, why);
    let picture = pixels(&error.path).map_err(|why| failed(&why))?;
    let (width, height) = picture.dimensions();
    let scale = f64::min(
        f64::from(PICTURE.0) / f64::from(width),
        f64::from(PICTURE.1) / f64::from(height),
    );
    let side = |side: u32| ((f64::from(side) * scale).round() as u32).max(1);
    let mut small = resize(&picture, side(width), side(height), FilterType::Triangle);
    if let Some(face) = &error.face {
        let face = scaled(face, scale as f32);
        annotate::draw(&mut small, &[face], labels).map_err(|why| failed(&why))?;
    }
    let mut tile = RgbImage::from_pixel(PICTURE.0, PICTURE.1 + TEXT, image::Rgb([255; 3]));
    let left = (PICTURE.0 - small.width()) / 2;
    let top = (PICTURE.1 - small.height()) / 2;
    replace(&mut tile, &small, left.into(), top.into());
    let letters = error.name.chars().count();
    let name = error
        .name
        .chars()
        .skip(letters.saturating_sub(NAME_LETTERS));
    let lines = [name.collect(), description(error, labels)];
    for (top, line) in (PICTURE.1..).step_by(LINE as usize).zip(&lines) {
        annotate::write_line(&mut tile, (2, top.into()), LETTERS, line)
            .map_err(|why| failed(&why))?;
    }
    Ok(tile)
}

/// Scales the box of a face by the factor by which its picture was scaled.
fn scaled(face: &FaceResult, scale: f32) -> FaceResult {
    let mut face = face.clone();
    let rect = &mut face.face.rect;
    for length in [&mut rect.x, &mut rect.y, &mut rect.width, &mut rect.height] {
        *length *= scale;
    }
    face
}

/// Describes the verdict on the largest face of a picture.
fn description(error: &WrongPicture, labels: &[String]) -> String {
    let Some(face) = &error.face else {
        return "no face found".to_owned();
    };
    let probabilities = face.probabilities.as_deref().unwrap_or_default();
    let probabilities = Probabilities::new(labels, probabilities, 1e3);
    let likeliest = probabilities.iter().max_by(|a, b| a.1.total_cmp(&b.1));
    let mut text = face.verdict.name(labels).to_owned();
    if let Some((label, p)) = likeliest {
        if text != label {
            let _ = write!(text, ", {label}");
        }
        let _ = write!(text, " {:.1}%", 100.0 * p);
    }
    let _ = write!(text, ", score {:.2}", face.face.score);
    if error.faces > 1 {
        let _ = write!(text, ", {} faces", error.faces);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_a_jpeg_with_a_comment_and_recognized_by_it() {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("errors-001.jpg");
        assert!(check_own(&page).is_ok());
        let sheet = RgbImage::from_pixel(40, 30, image::Rgb([10, 200, 30]));
        std::fs::write(&page, encode(&sheet).unwrap()).unwrap();
        assert!(check_own(&page).is_ok());
        let read = pixels(&page).unwrap();
        assert_eq!(read.dimensions(), (40, 30));
        assert!(read.get_pixel(20, 15).0[1] > 190);
        // The same picture is saved without the comment.
        sheet.save(&page).unwrap();
        assert!(check_own(&page).is_err());
    }

    #[test]
    fn names_of_pages_are_told_from_others() {
        assert!(is_page_name("errors-001.jpg") && is_page_name("errors-1000.jpg"));
        for name in [
            "errors-1.jpg",
            "errors-0x1.jpg",
            "errors-001.png",
            "001.jpg",
        ] {
            assert!(!is_page_name(name), "{name}");
        }
    }
}
