//! Training and judging through the real binary, on a small data set cut from
//! the example photographs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and measure time"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use image::RgbImage;
use maskd::onnx::{Classifier, ModelFile};
use serde_json::Value;
use support::{assert_refused, frame, maskd, root, text};

/// Pieces of the golden crops: six of each class, all different.
fn data_set(folder: &Path) -> PathBuf {
    let set = folder.join("set");
    for (class, prefix) in [("bare", "bare_"), ("masked", "mask_")] {
        let class = set.join(class);
        fs::create_dir_all(&class).unwrap();
        for entry in fs::read_dir(root().join("tests/golden/crops")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if !name.starts_with(prefix) {
                continue;
            }
            let pixels = image::open(&path).unwrap().into_rgb8();
            pixels.save(class.join(&name)).unwrap();
            let part: RgbImage = image::imageops::crop_imm(&pixels, 40, 10, 150, 180).to_image();
            image::imageops::flip_horizontal(&part)
                .save(class.join(format!("part_{name}")))
                .unwrap();
        }
    }
    set
}

fn train(set: &Path, arguments: &[&str]) -> std::process::Output {
    let quick = ["--epochs", "3", "--views", "1", "--batch-size", "4"];
    maskd()
        .arg("train")
        .arg("--dataset")
        .arg(set)
        .args(quick)
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn a_folder_becomes_a_classifier_with_all_that_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let set = data_set(folder.path());
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let output = train(
        &set,
        &[
            "--recipe",
            "tutorial",
            "--init-lr",
            "0.001",
            "--model",
            &at("model.onnx"),
            "--head-only",
            &at("head.onnx"),
            "--plot",
            &at("plot.svg"),
            "--history",
            "--report",
            &at("report.json"),
            "--show-augmented",
            &at("sheet.png"),
        ],
    );
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    assert!(
        table.contains("precision    recall  f1-score   support"),
        "{table}"
    );
    assert!(
        table.contains("masked") && table.contains("calibration error"),
        "{table}"
    );

    let report: Value = serde_json::from_slice(&fs::read(at("report.json")).unwrap()).unwrap();
    let accuracy = report["accuracy"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&accuracy));
    assert!(report["classes"]["bare"]["recall"].is_number(), "{report}");
    let csv = fs::read_to_string(at("plot.svg.csv")).unwrap();
    assert_eq!(csv.lines().count(), 4, "{csv}");
    assert!(fs::read_to_string(at("plot.svg")).unwrap().contains("<svg"));
    assert!(image::open(at("sheet.png")).unwrap().width() > 1000);

    // Both files hold the same head, and are taken by `classify` and `eval`.
    let model = Classifier::parse("model", &fs::read(at("model.onnx")).unwrap()).unwrap();
    let ModelFile::Head(head) =
        ModelFile::parse("head", &fs::read(at("head.onnx")).unwrap()).unwrap()
    else {
        panic!("a head was asked for")
    };
    assert_eq!(model.labels, ["bare", "masked"]);
    assert_eq!(head.head, model.head);
    assert_eq!(head.backbone_sha256, model.backbone_sha256);
    for file in ["model.onnx", "head.onnx"] {
        let config = at("maskd.toml");
        let keys = format!(
            "[models]\nclassifier = {:?}\n[classify]\nmasked-labels = [\"masked\"]\n",
            at(file)
        );
        fs::write(&config, keys).unwrap();
        let picture = frame("maksssksksss128.jpg");
        let output = maskd()
            .args(["classify", "--json", "--config", &config])
            .arg(picture)
            .output()
            .unwrap();
        let record: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(
            record["faces"][0]["probabilities"]["bare"].is_number(),
            "{record}"
        );
        let output = maskd()
            .args([
                "eval",
                "--threshold",
                "--model",
                &at(file),
                "--config",
                &config,
                "--dataset",
            ])
            .arg(&set)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains("worst pictures"));
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_whatever_the_threads() {
    let folder = tempfile::tempdir().unwrap();
    let set = data_set(folder.path());
    let bytes = |name: &str, arguments: &[&str]| {
        let file = folder.path().join(name);
        let mut all = vec!["--head-only", file.to_str().unwrap()];
        all.extend(arguments);
        let output = train(&set, &all);
        assert!(output.status.success(), "{}", text(&output.stderr));
        fs::read(&file).unwrap()
    };
    for recipe in ["tutorial", "robust"] {
        let one = bytes("one.onnx", &["--threads", "1", "--recipe", recipe]);
        let three = bytes("three.onnx", &["--threads", "3", "--recipe", recipe]);
        assert!(one == three, "{recipe}");
        let other = bytes("other.onnx", &["--seed", "7", "--recipe", recipe]);
        assert!(one != other, "{recipe}");
    }
}

#[test]
fn what_cannot_be_trained_is_refused_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let set = data_set(folder.path());
    let model = folder.path().join("model.onnx");
    let model = model.to_str().unwrap();
    let missing = folder.path().join("nowhere");
    assert_refused(
        &train(&missing, &["--model", model]),
        66,
        "there is no folder",
    );
    assert_refused(
        &train(&frame("maksssksksss10.jpg"), &["--model", model]),
        66,
        "is not a folder",
    );
    let inside = set.join("bare");
    assert_refused(&train(&inside, &["--model", model]), 65, "class folders");
    for rate in ["0", "-1", "nan", "inf", "1000"] {
        assert_refused(
            &train(&set, &["--model", model, "--init-lr", rate]),
            64,
            "--init-lr",
        );
    }
    let taken = folder.path().to_str().unwrap();
    assert_refused(&train(&set, &["--model", taken]), 74, "it is a folder");
    let lost = folder.path().join("no/such/model.onnx");
    assert_refused(
        &train(&set, &["--model", lost.to_str().unwrap()]),
        74,
        "its folder does not exist",
    );
    assert_refused(
        &train(&set, &["--plot", "plot.gif"]),
        64,
        "must end in .png or .svg",
    );
    assert_refused(
        &train(&set, &["--model", model, "--rotation", "500"]),
        64,
        "--rotation",
    );
    assert!(
        !Path::new(model).exists(),
        "nothing is written by a refusal"
    );
}

#[test]
fn photographs_with_boxes_judge_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let output = maskd()
        .arg("eval")
        .arg("--frames")
        .arg(root().join("assets/frames"))
        .arg("--report")
        .arg(&report)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    let frames = &report["frames"];
    assert_eq!(frames["frames"], 15);
    assert_eq!(frames["faces"], frames["found"]);
    assert_eq!(frames["faces"], frames["right"]);
    assert_eq!(frames["interval"].as_array().unwrap().len(), 2);
}
