//! Tests `maskd eval --faces` and `maskd eval --frames` with the real binary, on small
//! sets of photographs with known faces.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use support::{assert_refused, frame, maskd, text};
use tempfile::TempDir;

/// A photograph with one masked face.
const MASKED: &str = "maksssksksss10.jpg";
/// A photograph with one unmasked face, 99 pixels wide.
const UNMASKED: &str = "maksssksksss128.jpg";
/// A photograph with one unmasked face, 111 pixels wide.
const UNMASKED_TOO: &str = "maksssksksss218.jpg";
/// A photograph with three faces. The largest face is masked. The face with the best
/// detector score is unmasked.
const THREE_FACES: &str = "maksssksksss249.jpg";

fn put(name: &str, path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::copy(frame(name), path).unwrap();
}

/// Copies only the first half of a photograph.
fn put_half(name: &str, path: &Path) {
    let bytes = fs::read(frame(name)).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

/// Makes a set with two cameras. The faces in two pictures do not match their labels,
/// one picture has no face, and one picture is damaged.
fn set() -> TempDir {
    let set = tempfile::tempdir().unwrap();
    let at = |name: &str| set.path().join(name);
    put(MASKED, &at("hall/with_mask/1.jpg"));
    put(UNMASKED, &at("hall/with_mask/2.jpg"));
    put(UNMASKED_TOO, &at("hall/without_mask/1.jpg"));
    RgbImage::from_pixel(200, 150, Rgb([90; 3]))
        .save(at("hall/without_mask/2.png"))
        .unwrap();
    put_half(UNMASKED, &at("hall/without_mask/3.jpg"));
    put(THREE_FACES, &at("yard/with_mask/1.jpg"));
    put(MASKED, &at("yard/hard_nomask/1.jpg"));
    put(UNMASKED, &at("yard/hard_nomask/2.jpg"));
    set
}

fn eval(set: &Path, mode: &str, words: &[&str]) -> Output {
    let mut command = maskd();
    command.args(["eval", mode]).arg(set).args(words);
    command.output().unwrap()
}

/// Runs an evaluation that must succeed. Returns its report, its table, and its messages.
#[track_caller]
fn report(set: &Path, mode: &str, words: &[&str]) -> (Value, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    let words = [words, &["--report", path.to_str().unwrap()]].concat();
    let output = eval(set, mode, &words);
    let errors = text(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    (report, text(&output.stdout), errors)
}

#[track_caller]
fn faces(set: &Path, words: &[&str]) -> (Value, String, String) {
    let words = [&["--unmasked-label", "hard_nomask"], words].concat();
    let (report, table, errors) = report(set, "--faces", &words);
    (report["faces"].clone(), table, errors)
}

/// Returns the number of all pictures, of pictures with a face, of pictures with the
/// right verdict, and of unsure pictures.
fn counts(scores: &Value) -> [u64; 4] {
    ["pictures", "found", "right", "unsure"].map(|key| scores[key].as_u64().unwrap())
}

#[track_caller]
fn assert_interval(interval: &Value, low: f64, high: f64) {
    for (index, end) in [low, high].into_iter().enumerate() {
        let found = interval[index].as_f64().unwrap();
        assert!((found - end).abs() < 1e-9, "{interval}: {low} to {high}");
    }
}

#[test]
fn the_largest_face_is_compared_with_the_folder_and_counted_by_camera() {
    let set = set();
    let (report, table, errors) = faces(set.path(), &[]);
    let hall = &report["cameras"]["hall"];
    assert_eq!(counts(&hall["with_mask"]), [2, 2, 1, 0]);
    assert_eq!(counts(&hall["without_mask"]), [2, 1, 1, 0]);
    let yard = &report["cameras"]["yard"];
    assert_eq!(counts(&yard["with_mask"]), [1, 1, 1, 0]);
    assert_eq!(counts(&yard["hard_nomask"]), [2, 2, 1, 0]);
    assert_eq!(counts(&report["labels"]["with_mask"]), [3, 3, 2, 0]);
    assert_eq!(counts(&report["all"]), [7, 6, 4, 0]);
    assert_eq!(report["all"]["cameras"], 2);
    // There are 3 faces in one picture, none in one, and one in each of the others.
    assert_eq!(report["all"]["faces_per_picture"], 8.0 / 7.0);
    assert_eq!(report["all"]["share"], 4.0 / 7.0);
    // The camera `hall` has 2 of 4 right, and the camera `yard` has 2 of 3 right. A
    // quarter of all draws contain only the hall, and a quarter contain only the yard.
    assert_interval(&report["all"]["interval"], 2.0 / 4.0, 2.0 / 3.0);
    let mean = report["all"]["mean_of_cameras"].as_f64().unwrap();
    assert!((mean - 7.0 / 12.0).abs() < 1e-9);
    assert_interval(&report["all"]["mean_interval"], 0.5, 2.0 / 3.0);
    // Only one camera has pictures with this label.
    assert_eq!(report["labels"]["hard_nomask"]["interval"], Value::Null);

    let skipped = json!([{
        "picture": "hall/without_mask/3.jpg",
        "why": "it is cut off before its end",
    }]);
    assert_eq!(report["skipped"], skipped);
    assert!(errors.contains("not used (1): hall/without_mask/3.jpg: it is cut off"));
    let row = |camera: &str, label: &str| -> Vec<String> {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        let mut rows = table.lines().map(words);
        rows.find(|row: &Vec<String>| row.starts_with(&[camera.to_owned(), label.to_owned()]))
            .unwrap_or_else(|| panic!("{table}"))
    };
    let [hall, all] = [row("hall", "without_mask"), row("all", "all")];
    assert_eq!(hall[2..6], ["2", "1", "1", "50.0%"], "{table}");
    assert_eq!(all[2..6], ["7", "6", "4", "57.1%"], "{table}");
}

#[test]
fn each_picture_is_reported_with_its_largest_face() {
    let set = set();
    let (report, _, _) = faces(set.path(), &[]);
    let pictures = report["pictures"].as_array().unwrap();
    assert_eq!(pictures.len(), 7);
    let picture = |name: &str| {
        let mut found = pictures.iter();
        found.find(|picture| picture["picture"] == name).unwrap()
    };
    let three = picture("yard/with_mask/1.jpg");
    assert_eq!(three["camera"], "yard");
    assert_eq!(three["label"], "with_mask");
    assert_eq!(three["masked"], true);
    assert_eq!(three["faces"], 3);
    assert_eq!(three["result"], "right");
    assert_eq!(three["face"]["verdict"], "with_mask");
    let width = three["face"]["box"][2].as_f64().unwrap();
    assert!((width - 62.0).abs() < 3.0, "the largest face: {three}");
    assert_eq!(picture("hall/with_mask/2.jpg")["result"], "wrong");
    let hard = picture("yard/hard_nomask/1.jpg");
    assert_eq!(
        (&hard["masked"], &hard["result"]),
        (&json!(false), &json!("wrong"))
    );
    let blank = picture("hall/without_mask/2.png");
    assert_eq!(blank["result"], "not_found");
    assert_eq!(blank["face"], Value::Null);
}

#[test]
fn cameras_may_be_below_the_labels_or_absent() {
    let set = set();
    let (by_camera, table, _) = faces(set.path(), &[]);
    let other = tempfile::tempdir().unwrap();
    let flat = tempfile::tempdir().unwrap();
    for picture in by_camera["pictures"].as_array().unwrap() {
        let name = picture["picture"].as_str().unwrap();
        let [camera, label, file] = name.split('/').collect::<Vec<_>>()[..] else {
            panic!("{name}");
        };
        let places = [
            other.path().join(label).join(camera).join(file),
            flat.path().join(label).join(format!("{camera}-{file}")),
        ];
        for place in places {
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::copy(set.path().join(name), place).unwrap();
        }
    }
    let (by_label, table_by_label, _) = faces(other.path(), &[]);
    for key in ["all", "labels", "cameras"] {
        assert_eq!(by_label[key], by_camera[key]);
    }
    // The damaged picture was not copied.
    let rest = table.strip_prefix(&table_by_label);
    assert_eq!(rest, Some("skipped pictures: 1\n"), "{table_by_label}");
    let (without, _, _) = faces(flat.path(), &[]);
    assert_eq!(counts(&without["all"]), counts(&by_camera["all"]));
    assert_eq!(without["all"]["interval"], Value::Null);
    assert_eq!(without["pictures"][0]["camera"], Value::Null);
    assert_eq!(without["cameras"], json!({}));
}

#[test]
fn an_unsure_verdict_is_neither_right_nor_missed() {
    let set = set();
    let config = set.path().join("maskd.toml");
    // The faces in UNMASKED and MASKED are narrower than this limit. The face in
    // UNMASKED_TOO is wider.
    fs::write(&config, "[classify]\nmin-face-pixels = 105\n").unwrap();
    let (report, _, _) = faces(set.path(), &["--config", config.to_str().unwrap()]);
    assert_eq!(counts(&report["all"]), [7, 6, 1, 5]);
}

#[test]
fn folders_that_are_no_label_are_named_and_left_out() {
    let set = set();
    fs::create_dir(set.path().join("empty")).unwrap();
    put(MASKED, &set.path().join("hall/5.jpg"));
    let (report, _, errors) = report(set.path(), "--faces", &[]);
    assert_eq!(counts(&report["faces"]["all"]), [5, 4, 3, 0]);
    let advice = "the model has no such label; say what it stands for with --masked-label or \
                  --unmasked-label";
    assert!(
        errors.contains(&format!("not used (2): empty, yard/hard_nomask: {advice}")),
        "{errors}"
    );
    assert!(errors.contains("not used (1): hall/5.jpg: "), "{errors}");

    let none = tempfile::tempdir().unwrap();
    put(MASKED, &none.path().join("masks/1.jpg"));
    let refused = eval(none.path(), "--faces", &[]);
    assert_eq!(refused.status.code(), Some(66));
    let errors = text(&refused.stderr);
    assert!(errors.contains("masks"), "{errors}");
    let masks = eval(none.path(), "--faces", &["--masked-label", "masks"]);
    assert!(masks.status.success(), "{}", text(&masks.stderr));
    let twice = ["--masked-label", "masks", "--unmasked-label", "masks"];
    assert_refused(&eval(none.path(), "--faces", &twice), 64, "masks");
    let contrary = ["--masked-label", "without_mask"];
    assert_refused(
        &eval(none.path(), "--faces", &contrary),
        64,
        "classify.masked-labels",
    );
    let nowhere = none.path().join("nowhere");
    assert_refused(&eval(&nowhere, "--faces", &[]), 66, "nowhere");
}

/// Returns the pages of a contact sheet, sorted by name.
fn pages(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let mut pages: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    pages
}

/// Counts the pixels whose color is close to `color`.
fn like(page: &RgbImage, color: [u8; 3]) -> usize {
    let near = |pixel: &&Rgb<u8>| {
        let mut channels = pixel.0.into_iter().zip(color);
        channels.all(|(a, b)| a.abs_diff(b) < 40)
    };
    page.pixels().filter(near).count()
}

#[test]
fn a_contact_sheet_shows_all_that_is_wrong() {
    let set = set();
    let sheet = tempfile::tempdir().unwrap();
    let folder = sheet.path().join("errors");
    let words = ["--errors", folder.to_str().unwrap()];
    let (_, table, _) = faces(set.path(), &words);
    assert!(table.contains("3 errors on 1 page"), "{table}");
    let made = pages(&folder);
    assert_eq!(made, [folder.join("errors-001.jpg")]);
    let page = image::open(&made[0]).unwrap().into_rgb8();
    // The page has three tiles side by side.
    assert!(page.width() > 3 * 300 && page.height() < 400, "{page:?}");
    let third = page.width() / 3;
    let tile = |index: u32| {
        image::imageops::crop_imm(&page, index * third, 0, third, page.height()).to_image()
    };
    // The tiles are in the order of their paths. hall/with_mask/2.jpg is classified as
    // unmasked, hall/without_mask/2.png has no face, and yard/hard_nomask/1.jpg is
    // classified as masked.
    let (green, red) = ([0, 140, 60], [205, 30, 30]);
    let [first, second, last] = [0, 1, 2].map(tile);
    assert!(like(&first, red) > 500 && like(&first, green) < 100);
    assert!(
        like(&second, [90; 3]) > 30_000,
        "the picture without a face"
    );
    assert!(like(&second, red) + like(&second, green) < 50);
    assert!(like(&last, green) > 500);
    for tile in [first, second, last] {
        let below = image::imageops::crop_imm(&tile, 0, 250, third, page.height() - 250);
        let dark = below.to_image().pixels().filter(|p| p.0[0] < 80).count();
        assert!(dark > 200, "the name and the verdict are written: {dark}");
    }

    // If another program made a page, the command refuses to replace it and changes
    // nothing else.
    let foreign = folder.join("errors-002.jpg");
    fs::copy(frame(MASKED), &foreign).unwrap();
    let before = fs::read(&made[0]).unwrap();
    fs::remove_file(set.path().join("hall/with_mask/2.jpg")).unwrap();
    let refused = eval(set.path(), "--faces", &words);
    assert_refused(&refused, 74, "errors-002.jpg");
    assert_eq!(
        fs::read(&foreign).unwrap(),
        fs::read(frame(MASKED)).unwrap()
    );
    assert_eq!(fs::read(&made[0]).unwrap(), before);

    // A page that an earlier run made is deleted, and other files stay.
    fs::copy(&made[0], &foreign).unwrap();
    let notes = folder.join("notes.txt");
    fs::write(&notes, "mine").unwrap();
    let (_, table, _) = faces(set.path(), &words);
    assert!(table.contains("2 errors on 1 page"), "{table}");
    assert_eq!(pages(&folder), [made[0].clone(), notes]);
    assert_ne!(fs::read(&made[0]).unwrap(), before);
}

#[test]
fn a_contact_sheet_needs_faces_and_a_folder_outside_the_state_directory() {
    let set = set();
    let words = ["--errors", "x"];
    let alone = eval(set.path(), "--frames", &words);
    assert_eq!(alone.status.code(), Some(64));
    assert!(text(&alone.stderr).contains("--faces"));
    let file = set.path().join("file");
    fs::write(&file, "mine").unwrap();
    let refused = eval(set.path(), "--faces", &["--errors", file.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(74), "{}", text(&refused.stderr));
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}

fn put_with_boxes(name: &str, folder: &Path) {
    put(name, &folder.join(name));
    let boxes = Path::new(name).with_extension("xml");
    let boxes = boxes.to_str().unwrap();
    fs::copy(frame(boxes), folder.join(boxes)).unwrap();
}

#[test]
fn damaged_photographs_with_boxes_are_skipped_and_named() {
    let set = tempfile::tempdir().unwrap();
    for name in [MASKED, UNMASKED, UNMASKED_TOO] {
        put_with_boxes(name, set.path());
    }
    put_half(UNMASKED, &set.path().join(UNMASKED));
    let boxes = Path::new(UNMASKED_TOO).with_extension("xml");
    fs::write(set.path().join(&boxes), "<annotation><object>").unwrap();
    let (report, table, errors) = report(set.path(), "--frames", &[]);
    let frames = &report["frames"];
    assert_eq!(
        (&frames["frames"], &frames["right"]),
        (&json!(1), &json!(1))
    );
    let skipped = frames["skipped"].as_array().unwrap();
    assert_eq!(skipped.len(), 2, "{frames}");
    assert_eq!(skipped[0]["picture"], UNMASKED);
    assert_eq!(skipped[0]["why"], "it is cut off before its end");
    assert_eq!(skipped[1]["picture"], UNMASKED_TOO);
    let sentence = format!("not used (1): {UNMASKED}: it is cut off before its end");
    assert!(errors.contains(&sentence), "{errors}");
    assert!(errors.contains("the .xml beside it"), "{errors}");
    assert!(table.contains("2 skipped"), "{table}");
}

#[test]
fn labels_of_boxes_may_be_said_to_be_unmasked() {
    let set = tempfile::tempdir().unwrap();
    put_with_boxes(UNMASKED, set.path());
    let boxes = set.path().join(UNMASKED).with_extension("xml");
    let content = fs::read_to_string(&boxes).unwrap();
    fs::write(
        &boxes,
        content.replace("without_mask", "mask_weared_incorrect"),
    )
    .unwrap();
    let (report_without, _, errors) = report(set.path(), "--frames", &[]);
    assert_eq!(report_without["frames"]["found"], 1);
    assert_eq!(report_without["frames"]["right"], 0);
    assert!(errors.contains("mask_weared_incorrect"), "{errors}");
    assert!(errors.contains("--unmasked-label"), "{errors}");
    let words = ["--unmasked-label", "mask_weared_incorrect"];
    let (report_with, _, errors) = report(set.path(), "--frames", &words);
    assert_eq!(report_with["frames"]["right"], 1);
    assert_eq!(errors, "");
}
