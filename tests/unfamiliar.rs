//! Tests with the real binary that a box with a high detector score that hardly looks like a
//! face gets no verdict.
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

/// A photograph of four people whose faces can be seen, and of the head of a fifth person who
/// looks away. The detector scores this head 0.80, and the face check gives it a probability
/// of 0.06.
const PHOTOGRAPH: &str = "maksssksksss5.jpg";

/// Left edge and width of the box around the head.
const HEAD: (f64, f64) = (229.0, 25.3);

/// Writes a config with this limit.
fn config(folder: &Path, limit: f64) -> PathBuf {
    let path = folder.join("maskd.toml");
    let settings = format!("[classify]\nunfamiliar-below = {limit}\n");
    fs::write(&path, settings).unwrap();
    path
}

/// Returns the faces in the photograph, and checks that they are the expected five.
fn faces(json: &Value) -> &Vec<Value> {
    let faces = json["faces"].as_array().unwrap();
    assert_eq!(faces.len(), 5, "{json}");
    faces
}

fn is_head(face: &Value) -> bool {
    let [left, width] = [0, 2].map(|index| face["box"][index].as_f64().unwrap());
    (left - HEAD.0).abs() < 2.0 && (width - HEAD.1).abs() < 2.0
}

fn classify(arguments: &[&str]) -> Value {
    let output = maskd()
        .args(["classify", "--json"])
        .args(arguments)
        .arg(frame(PHOTOGRAPH))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Asserts that the head that looks away is the only face without a verdict.
#[track_caller]
fn assert_only_the_head_is_unfamiliar(faces: &[Value]) {
    for face in faces {
        if is_head(face) {
            assert_eq!(face["verdict"], "unsure", "{face}");
            assert_eq!(face["unsure_reason"], "unfamiliar", "{face}");
        } else {
            assert_ne!(face["verdict"], "unsure", "{face}");
            assert_eq!(face["unsure_reason"], Value::Null, "{face}");
        }
    }
    assert_eq!(faces.iter().filter(|face| is_head(face)).count(), 1);
}

#[test]
fn a_head_that_looks_away_is_unsure_and_only_the_limit_makes_it_so() {
    let folder = tempfile::tempdir().unwrap();
    let on = classify(&["--config", config(folder.path(), 0.2).to_str().unwrap()]);
    assert_only_the_head_is_unfamiliar(faces(&on));
    let off = classify(&["--config", config(folder.path(), 0.0).to_str().unwrap()]);
    for (with, without) in faces(&on).iter().zip(faces(&off)) {
        assert_eq!(with["probabilities"], without["probabilities"]);
        if is_head(without) {
            assert_eq!(without["verdict"], "with_mask", "{without}");
            assert_eq!(without["unsure_reason"], Value::Null);
        } else {
            assert_eq!(with, without);
        }
    }
}

#[test]
fn without_the_face_check_nothing_is_unfamiliar() {
    let folder = tempfile::tempdir().unwrap();
    // Everything would be unfamiliar.
    let settings = "[classify]\nunfamiliar-below = 1.0\n[detect]\nlow-threshold = 0.7\n";
    let path = folder.path().join("maskd.toml");
    fs::write(&path, settings).unwrap();
    let without = classify(&["--config", path.to_str().unwrap()]);
    for face in faces(&without) {
        assert_ne!(face["unsure_reason"], "unfamiliar", "{face}");
    }
}

#[test]
fn a_limit_out_of_range_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = maskd()
        .args(["check", "--config"])
        .arg(config(folder.path(), 1.5))
        .output()
        .unwrap();
    assert!(!output.status.success());
    let message = text(&output.stdout) + &text(&output.stderr);
    assert!(message.contains("classify.unfamiliar-below"), "{message}");
}
