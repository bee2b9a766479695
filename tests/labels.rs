//! Checks with the real binary that all commands apply the same rules to labels.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use support::{Device, assert_refused, golden_crops, maskd, text};

/// Writes six different pictures per class.
fn data_set(set: &Path, masked: &str, bare: &str) {
    for (label, prefix) in [(masked, "mask_"), (bare, "bare_")] {
        let class = set.join(label);
        fs::create_dir_all(&class).unwrap();
        for (name, pixels) in golden_crops(prefix) {
            pixels.save(class.join(&name)).unwrap();
            image::imageops::crop_imm(&pixels, 40, 10, 150, 180)
                .to_image()
                .save(class.join(format!("part_{name}")))
                .unwrap();
        }
    }
}

#[test]
fn a_labeling_is_taken_back_and_discarded_pictures_are_restored() {
    let device = Device::new();
    let set = device.pictures();
    device.stdout(&["samples", "import", set.to_str().unwrap()]);
    let list = device.json(&["samples", "list", "--label", "with_mask"]);
    let list = list.as_array().unwrap();
    let ids: Vec<&str> = list.iter().map(|s| s["id"].as_str().unwrap()).collect();
    let count = |label: &str| {
        let stats = device.json(&["samples", "stats"]);
        stats[label]["samples"].as_u64().unwrap_or(0)
    };
    assert_refused(
        &device.maskd(&["label", "--undo"]),
        66,
        "no labeling that can be",
    );
    assert_refused(
        &device.maskd(&["samples", "restore", ids[0]]),
        66,
        "no such discarded sample",
    );

    device.stdout(&["label", ids[0], ids[1], "chin"]);
    device.stdout(&["label", ids[1], "without_mask"]);
    let again = device.stdout(&["label", "--undo"]);
    assert_eq!(again, "taken back: 1 labeled without_mask\n");
    device.stdout(&["label", ids[1], "without_mask"]);
    device.stdout(&["label", ids[2], ids[3], "discard"]);
    assert_eq!((count("with_mask"), count("chin")), (8, 1));
    assert_eq!(
        device.stdout(&["label", "--undo"]),
        "taken back: 2 discarded\n"
    );
    device.stdout(&["label", "--undo"]);
    assert_eq!(
        device.stdout(&["label", "--undo"]),
        "taken back: 2 labeled chin\n"
    );
    assert_eq!((count("with_mask"), count("without_mask")), (12, 12));

    device.stdout(&["label", ids[2], ids[3], "discard"]);
    let discarded = device.json(&["samples", "list", "--discarded"]);
    let found: Vec<_> = discarded
        .as_array()
        .unwrap()
        .iter()
        .map(|s| &s["id"])
        .collect();
    assert_eq!(found, [ids[2], ids[3]]);
    assert_eq!(discarded[0]["label"], "with_mask");
    let unique = &ids[2][..ids[2].len() - 1];
    assert_eq!(
        device.stdout(&["samples", "restore", unique]),
        "1 restored\n"
    );
    assert_eq!(count("with_mask"), 11);
    // A restored picture can be trained on like any other.
    let record = device.json(&["refit"]);
    assert_eq!(record["outcome"]["counts"][0]["samples"], 11, "{record}");
    let purged = device.stdout(&["samples", "purge", "--discarded", "--yes"]);
    assert!(
        purged.ends_with("deleted discarded face pictures: 1\n"),
        "{purged}"
    );
    assert_refused(
        &device.maskd(&["samples", "restore", ids[3]]),
        66,
        "no such discarded sample",
    );
    // What was taken back or purged cannot be taken back again.
    let undone = device.maskd(&["label", "--undo"]);
    assert!(
        !text(&undone.stdout).contains("taken back: 1"),
        "{undone:?}"
    );
}

#[test]
fn a_class_that_can_be_trained_can_be_labelled_and_learned() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (set, model, config) = (at("set"), at("model.onnx"), at("maskd.toml"));
    data_set(&set, "mit Maske", "ohne Maske");
    let mut train = maskd();
    train.args(["train", "--dataset"]).arg(&set);
    train.args(["--epochs", "2", "--views", "1", "--batch-size", "4"]);
    let output = train.arg("--model").arg(&model).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let text_of_config = format!(
        "[models]\nclassifier = {model:?}\n[classify]\nmasked-labels = [\"mit Maske\"]\n\
         [indicate]\nwith-mask-label = \"mit Maske\"\nwithout-mask-label = \"ohne Maske\"\n"
    );
    fs::write(&config, text_of_config).unwrap();
    let run = |words: &[&str]| -> Output {
        let mut command = maskd();
        command.args(words).arg("--config").arg(&config);
        command.arg("--state").arg(at("state")).output().unwrap()
    };
    let good = |words: &[&str]| {
        let output = run(words);
        let errors = text(&output.stderr);
        assert!(output.status.success(), "{words:?}: {errors}");
        text(&output.stdout)
    };

    let added = good(&["samples", "import", set.to_str().unwrap()]);
    assert_eq!(added, "added: mit Maske 6, ohne Maske 6\n");
    let list = good(&["samples", "list", "--label", "ohne Maske", "--json"]);
    let list: Value = serde_json::from_str(&list).unwrap();
    let id = list[0]["id"].as_str().unwrap();
    assert_eq!(good(&["label", id, "mit Maske"]), "1 labeled mit Maske\n");
    assert_eq!(good(&["label", id, "ohne Maske"]), "1 labeled ohne Maske\n");
    let record: Value = serde_json::from_str(&good(&["refit", "--json"])).unwrap();
    let counts = &record["outcome"]["counts"];
    assert_eq!(counts[1]["label"], "ohne Maske", "{record}");
    assert_eq!(counts[1]["samples"], 6, "{record}");

    for name in [
        " ohne Maske",
        "ohne Maske ",
        "a/b",
        ".x",
        "features",
        "unsure",
    ] {
        let output = run(&["label", id, name]);
        assert_refused(&output, 64, "cannot be a label: use 1 to 64 characters");
    }
    for words in [
        &["label", id, "Glücklich"][..],
        &["samples", "list", "--label", "glücklich"],
    ] {
        assert_refused(&run(words), 64, "stands for the emotion of people");
    }
    let (faces, age) = (at("faces"), at("faces/age 30"));
    fs::create_dir_all(&faces).unwrap();
    fs::rename(set.join("mit Maske"), &age).unwrap();
    let output = run(&["samples", "import", faces.to_str().unwrap()]);
    let told = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(told.contains("stands for the age of people"), "{told}");
    assert!(!good(&["samples", "stats"]).contains("age 30"));
    fs::rename(&age, set.join("age 30")).unwrap();
    let mut train = maskd();
    train.args(["train", "--dataset"]).arg(&set);
    let output = train.arg("--model").arg(&model).output().unwrap();
    assert_refused(&output, 65, "stands for the age of people");
    fs::rename(set.join("age 30"), set.join("mit Maske")).unwrap();
    fs::rename(set.join("ohne Maske"), set.join("ohne Maske ")).unwrap();
    let mut train = maskd();
    train.args(["train", "--dataset"]).arg(&set);
    let output = train.arg("--model").arg(&model).output().unwrap();
    assert_refused(&output, 65, "\"ohne Maske \" cannot be a label");
}
