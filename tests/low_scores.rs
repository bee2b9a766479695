//! Tests `maskd run` on faces that the detector scores low, with the real binary. The
//! detector scores a face lower in a dark photograph than in a light one, and the tests set
//! the threshold between the two scores.
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

use serde_json::Value;
use support::{frame, maskd, text};

/// A photograph of one masked person.
const MASKED: &str = "maksssksksss120.jpg";
/// A photograph of one unmasked person.
const UNMASKED: &str = "maksssksksss218.jpg";

/// The score from which a box is a face. The light photographs score at least 0.938, and the
/// dark ones at most 0.92.
const THRESHOLD: f64 = 0.93;

/// Writes a photograph with this fraction of its light, in tenths of a percent.
fn darken(name: &str, fraction: u32, path: &Path) {
    let mut pixels = image::open(frame(name)).unwrap().into_rgb8();
    for value in pixels.iter_mut() {
        *value = (u32::from(*value) * fraction / 1000) as u8;
    }
    pixels.save(path).unwrap();
}

/// Plays the pictures in a folder for two seconds each, and returns the changes in the
/// decision.
fn play(folder: &Path, pictures: &Path) -> Vec<Value> {
    let config = folder.join("quick.toml");
    let settings = format!(
        "[decide]\nconfirm-ms = 100\nhold-ms = 100\nstale-ms = 10000\n\
         [detect]\nthreshold = {THRESHOLD}\n\
         [classify]\nmin-detector-score = {THRESHOLD}\n"
    );
    fs::write(&config, settings).unwrap();
    let output = maskd()
        .args(["run", "--once", "--json", "--rate", "0.5", "--config"])
        .arg(config)
        .arg("--source")
        .arg(pictures)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let lines = text(&output.stdout);
    let changes = lines.lines().map(serde_json::from_str::<Value>);
    changes.map(Result::unwrap).collect()
}

fn pictures(folder: &Path) -> PathBuf {
    let pictures = folder.join("pictures");
    fs::create_dir(&pictures).unwrap();
    pictures
}

/// Asserts that there is one face, which was found because of the face check.
#[track_caller]
fn assert_low(change: &Value, verdict: &str) {
    let faces = change["faces"].as_array().unwrap();
    assert_eq!(faces.len(), 1, "{change}");
    assert_eq!(faces[0]["verdict"], verdict);
    assert!(faces[0]["score"].as_f64().unwrap() < THRESHOLD, "{change}");
    assert!(faces[0]["face_check"].as_f64().unwrap() >= 0.8, "{change}");
}

#[test]
fn faces_of_low_score_are_found_and_tracked_but_only_other_faces_confirm_a_mask() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = pictures(folder.path());
    darken(MASKED, 80, &pictures.join("1-dark.png"));
    fs::copy(frame(MASKED), pictures.join("2-light.jpg")).unwrap();
    darken(MASKED, 80, &pictures.join("3-dark.png"));
    darken(UNMASKED, 60, &pictures.join("4-dark.png"));
    let changes = play(folder.path(), &pictures);
    let decisions: Vec<&str> = changes
        .iter()
        .map(|change| change["decision"].as_str().unwrap())
        .collect();
    assert_eq!(decisions, ["mask", "idle", "no_mask"], "{changes:?}");
    let face = &changes[0]["faces"][0];
    assert!(face["score"].as_f64().unwrap() >= THRESHOLD, "{face}");
    assert_eq!(face["face_check"], Value::Null);
    assert_low(&changes[1], "with_mask");
    // The track began in the first picture.
    assert_eq!(face["track"], 1);
    assert_eq!(changes[1]["faces"][0]["track"], 1);
    assert_low(&changes[2], "without_mask");
}

#[test]
fn masked_faces_of_low_score_alone_do_not_open_a_door() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = pictures(folder.path());
    darken(MASKED, 80, &pictures.join("1-dark.png"));
    darken(MASKED, 70, &pictures.join("2-dark.png"));
    assert_eq!(play(folder.path(), &pictures), Vec::<Value>::new());
}
