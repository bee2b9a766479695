//! Checks with the real binary that the same rule for labels applies everywhere.
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
use support::{assert_refused, golden_crops, maskd, text};

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
    assert_eq!(good(&["label", id, "mit Maske"]), "1 labelled mit Maske\n");
    assert_eq!(
        good(&["label", id, "ohne Maske"]),
        "1 labelled ohne Maske\n"
    );
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
    fs::rename(set.join("ohne Maske"), set.join("ohne Maske ")).unwrap();
    let mut train = maskd();
    train.args(["train", "--dataset"]).arg(&set);
    let output = train.arg("--model").arg(&model).output().unwrap();
    assert_refused(&output, 65, "\"ohne Maske \" cannot be a label");
}
