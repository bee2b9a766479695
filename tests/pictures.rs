//! Tests the real binary on valid and invalid pictures of every kind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and measure time"
)]

mod support;

use std::fs;
use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use serde_json::Value;
use support::{assert_refused, bomb, frame, maskd, text};

/// Writes the bytes to a file, and runs `maskd classify` on the file.
fn classify(bytes: &[u8], name: &str) -> std::process::Output {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    maskd()
        .arg("classify")
        .arg("--json")
        .arg(path)
        .output()
        .unwrap()
}

fn record(bytes: &[u8], name: &str) -> Value {
    let output = classify(bytes, name);
    assert!(output.status.success(), "{name}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Asserts that the picture is skipped for this reason, and that the exit code is 65.
fn assert_skipped(bytes: &[u8], name: &str, reason: &str) {
    let output = classify(bytes, name);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(65), "{name}: {errors}");
    assert_eq!(output.stdout, b"");
    assert_eq!(errors.lines().count(), 2, "{name}: {errors}");
    assert!(errors.contains(reason), "{name}: {errors}");
}

fn example() -> Vec<u8> {
    fs::read(frame("maksssksksss128.jpg")).unwrap()
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn face(record: &Value) -> (Vec<f64>, String) {
    let faces = record["faces"].as_array().unwrap();
    assert_eq!(faces.len(), 1, "{record}");
    let rect = faces[0]["box"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap())
        .collect();
    (rect, faces[0]["verdict"].as_str().unwrap().to_owned())
}

fn assert_near(found: &[f64], expected: &[f64], pixels: f64) {
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < pixels, "{found} for {expected}");
    }
}

#[test]
fn empty_text_and_missing_content_are_skipped() {
    assert_skipped(b"", "empty.jpg", "it is empty");
    assert_skipped(b"hello, I am no picture", "text.jpg", "it is not a JPEG");
    assert_skipped(b"\xff\xd8", "start.jpg", "it is not a JPEG");
    assert_skipped(&[0; 4096], "zeros.png", "it is not a JPEG");
}

#[test]
fn a_truncated_picture_is_skipped() {
    let whole = example();
    for share in [10, 50, 95] {
        let part = &whole[..whole.len() * share / 100];
        let output = classify(part, "part.jpg");
        assert_eq!(output.status.code(), Some(65), "{share}%");
        assert!(output.stdout.is_empty(), "{share}%");
    }
    assert_skipped(&whole[..whole.len() / 2], "half.jpg", "it is cut off");
    let png = encoded(&image::load_from_memory(&whole).unwrap(), ImageFormat::Png);
    assert_skipped(&png[..png.len() / 2], "half.png", "it ");
}

fn data(name: &str) -> Vec<u8> {
    fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/data")
            .join(name),
    )
    .unwrap()
}

#[test]
fn a_damaged_picture_is_skipped_whatever_ends_it() {
    let damaged = "it is damaged, since some of its data is missing or invalid";
    // If the first picture were decoded, its missing part would be gray, and the verdict
    // on it would be "with_mask, 99%".
    assert_skipped(&data("jpeg/cut-short.jpg"), "short.jpg", damaged);
    assert_skipped(&data("jpeg/bytes-missing.jpg"), "missing.jpg", damaged);
    let whole = example();
    for share in [10, 50, 95] {
        let mut part = whole[..whole.len() * share / 100].to_vec();
        part.extend_from_slice(&[0xff, 0xd9]);
        let output = classify(&part, "ended.jpg");
        assert_eq!(output.status.code(), Some(65), "{share}%");
        assert!(output.stdout.is_empty(), "{share}%");
    }
}

#[test]
fn a_picture_without_huffman_tables_is_classified() {
    let record = record(&data("jpeg/no-huffman-tables.jpg"), "usb.jpg");
    assert_eq!(face(&record).1, "without_mask");
}

#[test]
fn bytes_after_the_end_of_a_picture_are_ignored() {
    let mut bytes = example();
    bytes.extend_from_slice(&[0; 1000]);
    assert_eq!(face(&record(&bytes, "padded.jpg")).1, "without_mask");
}

#[test]
fn a_picture_bomb_is_refused_before_it_is_decoded() {
    assert_skipped(
        &bomb(),
        "bomb.png",
        "50000 x 50000 pixels, more than 64 million",
    );
}

#[test]
fn a_file_larger_than_any_picture_is_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.jpg");
    // This file is sparse, so it takes no disk space.
    fs::File::create(&path).unwrap().set_len(8 << 30).unwrap();
    let output = maskd().arg("classify").arg(path).output().unwrap();
    assert_eq!(output.status.code(), Some(65));
    assert!(
        text(&output.stderr).contains("skipped"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn tiny_and_extreme_shapes_have_no_faces() {
    for (width, height) in [(1, 1), (1, 3000), (3000, 1), (7, 5)] {
        let picture = RgbImage::from_pixel(width, height, Rgb([90, 120, 150]));
        let bytes = encoded(&DynamicImage::ImageRgb8(picture), ImageFormat::Png);
        let record = record(&bytes, "odd.png");
        assert_eq!(
            (&record["width"], &record["height"]),
            (&width.into(), &height.into())
        );
        assert_eq!(
            record["faces"].as_array().unwrap().len(),
            0,
            "{width} x {height}"
        );
    }
}

#[test]
fn every_format_gives_the_same_verdict() {
    let picture = image::load_from_memory(&example()).unwrap();
    let (expected, _) = face(&record(&example(), "face.jpg"));
    let formats = [
        (ImageFormat::Png, "png"),
        (ImageFormat::Bmp, "bmp"),
        (ImageFormat::Tiff, "tif"),
        (ImageFormat::WebP, "webp"),
        (ImageFormat::Gif, "gif"),
    ];
    for (format, ending) in formats {
        let (found, verdict) = face(&record(
            &encoded(&picture, format),
            &format!("face.{ending}"),
        ));
        assert_eq!(verdict, "without_mask", "{ending}");
        // GIF has only 256 colors.
        assert_near(&found, &expected, if ending == "gif" { 8.0 } else { 1.0 });
    }
    let kinds = [
        DynamicImage::ImageRgba8(picture.to_rgba8()),
        DynamicImage::ImageRgb16(picture.to_rgb16()),
        DynamicImage::ImageLuma8(picture.to_luma8()),
        DynamicImage::ImageLumaA8(picture.to_luma_alpha8()),
    ];
    for kind in kinds {
        let (found, _) = face(&record(&encoded(&kind, ImageFormat::Png), "kind.png"));
        assert_near(&found, &expected, 8.0);
    }
}

#[test]
fn cmyk_is_converted() {
    let bytes =
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cmyk.jpg")).unwrap();
    let (expected, _) = face(&record(&example(), "face.jpg"));
    let (found, verdict) = face(&record(&bytes, "cmyk.jpg"));
    assert_near(&found, &expected, 8.0);
    assert_eq!(verdict, "without_mask");
}

/// Inserts EXIF metadata with only an orientation, as an APP1 segment directly after the
/// start of the picture.
fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let mut exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend_from_slice(&[orientation, 0, 0, 0, 0, 0, 0, 0]);
    let length = u16::try_from(exif.len() + 2).unwrap();
    let mut bytes = jpeg[..2].to_vec();
    bytes.extend_from_slice(&[0xff, 0xe1]);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&exif);
    bytes.extend_from_slice(&jpeg[2..]);
    bytes
}

#[test]
fn exif_orientation_is_applied() {
    let upright = image::load_from_memory(&example()).unwrap();
    let (expected, verdict) = face(&record(&example(), "face.jpg"));
    // These are the stored pictures for the orientations (EXIF 2.3, section 4.6.4).
    let stored = [
        (1, upright.clone()),
        (2, upright.fliph()),
        (3, upright.rotate180()),
        (4, upright.flipv()),
        (6, upright.rotate270()),
        (8, upright.rotate90()),
    ];
    for (orientation, picture) in stored {
        let mut bytes = Cursor::new(Vec::new());
        let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 95);
        picture.write_with_encoder(encoder).unwrap();
        let bytes = with_orientation(bytes.get_ref(), orientation);
        let record = record(&bytes, "rotated.jpg");
        assert_eq!(
            (&record["width"], &record["height"]),
            (&upright.width().into(), &upright.height().into()),
            "as displayed, orientation {orientation}"
        );
        let (found, found_verdict) = face(&record);
        assert_near(&found, &expected, 6.0);
        assert_eq!(found_verdict, verdict);
    }
}

#[test]
fn an_invalid_orientation_is_ignored() {
    let bytes = with_orientation(&example(), 77);
    assert_eq!(face(&record(&bytes, "odd.jpg")).1, "without_mask");
}

#[test]
fn one_invalid_picture_does_not_stop_the_others() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.jpg"), b"no picture").unwrap();
    fs::write(folder.path().join("b.jpg"), example()).unwrap();
    fs::write(folder.path().join("notes.txt"), b"not a picture").unwrap();
    let output = maskd().arg("classify").arg(folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(65));
    assert!(text(&output.stdout).contains("without_mask"));
    assert!(text(&output.stderr).contains("1 of 2 pictures could not be read"));
}

#[test]
fn an_output_folder_that_is_a_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("taken");
    fs::write(&taken, b"x").unwrap();
    let output = maskd()
        .arg("classify")
        .arg("--annotate")
        .arg(&taken)
        .arg(frame("maksssksksss10.jpg"))
        .output();
    assert_refused(&output.unwrap(), 74, "cannot create the folder");
}
