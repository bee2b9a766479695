//! Tests training and evaluation with the real binary, on a small data set cut from the
//! example photographs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and measure time"
)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::Duration;

use image::RgbImage;
use maskd::onnx::{Classifier, ModelFile};
use serde_json::Value;
use support::{assert_refused, bomb, frame, golden_crops, interrupt, maskd, root, text, wait};

/// Creates a data set from parts of the golden crops. There are six different pictures
/// for each class.
fn data_set(folder: &Path) -> PathBuf {
    let set = folder.join("set");
    for (class, prefix) in [("bare", "bare_"), ("masked", "mask_")] {
        let class = set.join(class);
        fs::create_dir_all(&class).unwrap();
        for (name, pixels) in golden_crops(prefix) {
            pixels.save(class.join(&name)).unwrap();
            let part: RgbImage = image::imageops::crop_imm(&pixels, 40, 10, 150, 180).to_image();
            image::imageops::flip_horizontal(&part)
                .save(class.join(format!("part_{name}")))
                .unwrap();
        }
    }
    set
}

fn train(set: &Path, arguments: &[&str]) -> Output {
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

/// Prepares a training run that cannot end before its standard error is read, because
/// the log of its 1,000 epochs does not fit into a pipe. `change` replaces or adds an
/// option.
fn long(set: &Path, model: &Path, change: [&str; 2]) -> Command {
    let mut options = vec![
        ["--dataset", set.to_str().unwrap()],
        ["--model", model.to_str().unwrap()],
        ["--recipe", "tutorial"],
        ["--epochs", "1000"],
        ["--views", "1"],
        ["--batch-size", "16"],
    ];
    options.retain(|[option, _]| *option != change[0]);
    let mut command = maskd();
    command.arg("train").args(options.concat()).args(change);
    command
}

const UNCHANGED: [&str; 2] = ["--seed", "42"];

/// Starts a command and waits until it writes `words` to standard error.
fn start_until(command: &mut Command, words: &str) -> (Child, BufReader<ChildStderr>) {
    let mut child = command
        .args(["--log", "maskd=debug"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains(words) {
        line.clear();
        assert!(errors.read_line(&mut line).unwrap() > 0, "no {words:?}");
    }
    (child, errors)
}

/// Waits until the command ends, and returns its exit code and the last line of its
/// standard error.
fn end(mut child: Child, mut errors: BufReader<ChildStderr>) -> (Option<i32>, String) {
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    let exit = wait(&mut child, Duration::from_mins(1));
    (exit, rest.lines().last().unwrap_or_default().to_owned())
}

#[test]
fn a_folder_becomes_a_model_with_every_requested_output() {
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

    // Both files contain the same head, and `classify` and `eval` accept them.
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
        assert_classify_and_eval_accept(&at(file), folder.path(), &set);
    }
}

/// Asserts that `classify` and `eval` accept the model. The config file is written to
/// `folder`.
#[track_caller]
fn assert_classify_and_eval_accept(model: &str, folder: &Path, set: &Path) {
    let config = folder.join("maskd.toml");
    let config = config.to_str().unwrap();
    let keys =
        format!("[models]\nclassifier = {model:?}\n[classify]\nmasked-labels = [\"masked\"]\n");
    fs::write(config, keys).unwrap();
    let picture = frame("maksssksksss128.jpg");
    let output = maskd()
        .args(["classify", "--json", "--config", config])
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
            model,
            "--config",
            config,
            "--dataset",
        ])
        .arg(set)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("worst pictures"));
}

#[test]
fn the_same_seed_gives_the_same_bytes_for_any_number_of_threads() {
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
fn invalid_options_and_folders_are_refused_with_a_sentence() {
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
    assert_refused(&train(&set, &[]), 64, "nothing to write");
    let sheet = ["--show-augmented", "sheet.gif"];
    assert_refused(&train(&set, &sheet), 64, "must end in .png, .jpg");
    assert!(
        !Path::new(model).exists(),
        "a refused command writes nothing"
    );
}

#[test]
fn unusable_data_sets_are_refused_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let set = data_set(folder.path());
    let model = folder.path().join("model.onnx");
    let refused = |arguments: &[&str], words: &str| {
        let mut all = vec!["--model", model.to_str().unwrap()];
        all.extend(arguments);
        assert_refused(&train(&set, &all), 65, words);
        assert!(!model.exists());
    };
    let class = |name: &str| {
        let class = set.join(name);
        fs::create_dir(&class).unwrap();
        class
    };
    let crop = root().join("tests/golden/crops/bare_plain.png");

    let new = class("chin");
    refused(&[], "/chin has no pictures");
    for number in 0..4 {
        fs::copy(&crop, new.join(format!("{number}.png"))).unwrap();
    }
    refused(&[], "class \"chin\" has only 4 usable pictures");
    for (number, side) in [224, 200, 180, 160, 140].into_iter().enumerate() {
        let copy = image::open(&crop).unwrap().resize_exact(
            side,
            side,
            image::imageops::FilterType::Triangle,
        );
        copy.save(new.join(format!("{number}.png"))).unwrap();
    }
    fs::remove_file(set.join("bare/bare_plain.png")).unwrap();
    refused(&[], "class \"chin\" cannot be split");
    fs::rename(&new, set.join("unsure")).unwrap();
    refused(&[], "class folder \"unsure\" cannot be a label");
    fs::remove_dir_all(set.join("unsure")).unwrap();

    // The validation pictures must have the same classes as the training pictures.
    let sheet = folder.path().join("sheet.png");
    let val = folder.path().join("val");
    fs::create_dir_all(val.join("bare")).unwrap();
    fs::copy(&crop, val.join("bare/0.png")).unwrap();
    let arguments = ["--val", val.to_str().unwrap()];
    refused(&arguments, "val has no class \"masked\"");
    fs::create_dir(val.join("masked")).unwrap();
    refused(&arguments, "/masked has no pictures");
    fs::write(val.join("masked/0.png"), "no picture").unwrap();
    let output = train(
        &set,
        &[&["--model", model.to_str().unwrap()][..], &arguments].concat(),
    );
    assert_eq!(output.status.code(), Some(65));
    let errors = text(&output.stderr);
    assert!(
        errors.contains("class \"masked\" has only 0 usable pictures, but needs at least 1"),
        "{errors}"
    );
    let copy = root().join("tests/golden/crops/mask_small.png");
    fs::copy(copy, val.join("masked/0.png")).unwrap();
    let checked = ["--show-augmented", sheet.to_str().unwrap()];
    let output = train(&set, &[&checked[..], &arguments].concat());
    assert!(output.status.success());
    let errors = text(&output.stderr);
    assert!(
        errors.contains("some validation pictures (1) look like training pictures"),
        "{errors}"
    );
    assert!(errors.contains("the first is masked/0.png"), "{errors}");
    fs::rename(val.join("masked"), val.join("chin")).unwrap();
    refused(&arguments, "val has the class \"chin\", which is none of");
}

#[test]
fn unusable_pictures_are_named_and_the_rest_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let set = data_set(folder.path());
    let crop = |name: &str| root().join("tests/golden/crops").join(name);
    fs::write(set.join("bare/bomb.png"), bomb()).unwrap();
    fs::write(set.join("bare/empty.jpg"), "").unwrap();
    fs::write(set.join("masked/text.jpg"), "no picture").unwrap();
    fs::copy(crop("mask_large.png"), set.join("bare/masked.png")).unwrap();
    fs::copy(crop("bare_beard.png"), set.join("bare/again.png")).unwrap();
    fs::create_dir(set.join(".hidden")).unwrap();
    fs::copy(crop("bare_beard.png"), set.join(".hidden/a.png")).unwrap();
    let head = folder.path().join("head.onnx");
    let arguments = [
        "--recipe",
        "tutorial",
        "--head-only",
        head.to_str().unwrap(),
    ];
    for threads in ["1", "3"] {
        let output = train(&set, &[&arguments[..], &["--threads", threads]].concat());
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{errors}");
        let lines: Vec<&str> = errors.lines().collect();
        let expected = [
            "maskd: left out: bare/bomb.png: it has 50000 x 50000 pixels, more than 64 million",
            "maskd: left out: bare/empty.jpg: it is empty",
            "maskd: left out: masked/text.jpg: it is not a JPEG, PNG, WebP, BMP, GIF, or TIFF picture",
            "maskd: left out: the same picture in several classes: bare/masked.png, masked/mask_large.png",
            "maskd: the same picture more than once: bare/again.png, bare/bare_beard.png",
        ];
        assert_eq!(lines[..5], expected, "{errors}");
        assert_eq!(lines.len(), 6, "{errors}");
        // The classes have 7 and 5 pictures. One picture from each class is used for
        // validation, and copies of a picture stay in the same part.
        assert!(
            lines[5].ends_with("validation pictures, labels bare, masked"),
            "{errors}"
        );
        let ModelFile::Head(file) = ModelFile::parse("head", &fs::read(&head).unwrap()).unwrap()
        else {
            panic!("a head was asked for")
        };
        assert_eq!(file.labels, ["bare", "masked"]);
    }
}

#[test]
fn unwritable_outputs_are_refused_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let set = data_set(folder.path());
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let model = at("model.onnx");
    let refused = |arguments: &[&str], exit: i32, words: &str| {
        assert_refused(&train(&set, arguments), exit, words);
    };
    // Even root cannot create a file there.
    refused(&["--model", "/proc/model.onnx"], 74, "cannot write /proc");
    refused(&["--report", "/dev/null"], 74, "it is not a regular file");
    fs::write(at("file"), "").unwrap();
    refused(&["--model", &at("file/model.onnx")], 74, "cannot write");
    let long = format!("{}.onnx", "x".repeat(247));
    refused(&["--model", &at(&long)], 74, "cannot write");

    let same = "--model and --report name the same file";
    refused(&["--model", &model, "--report", &model], 64, same);
    let roundabout = at("set/../model.onnx");
    refused(&["--model", &model, "--report", &roundabout], 64, same);
    let (plot, csv) = (at("plot.svg"), at("plot.svg.csv"));
    let same = "--history and --report name the same file";
    let arguments = ["--plot", &plot, "--history", "--report", &csv];
    refused(&arguments, 64, same);

    // To simulate a full disk, the shell limits files to a few kilobytes.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_maskd"))
        .args(["train", "--model", &model, "--dataset"])
        .arg(&set)
        .output()
        .unwrap();
    assert_refused(&output, 74, "model.onnx: File too large");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "the data set and the file: {left:?}");
}

#[test]
fn a_resumed_training_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let set = data_set(folder.path());
    let (whole, model) = (folder.path().join("whole"), folder.path().join("model"));
    let output = long(&set, &whole, UNCHANGED).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));

    let (child, errors) = start_until(&mut long(&set, &model, UNCHANGED), "epoch done");
    interrupt(&child, "-INT");
    let (exit, last) = end(child, errors);
    assert_eq!(exit, Some(75), "{last}");
    assert!(
        last.starts_with("maskd: interrupted after epoch "),
        "{last}"
    );
    assert!(last.contains("the best model so far is written"), "{last}");
    let best = Classifier::parse("best", &fs::read(&model).unwrap()).unwrap();
    assert_eq!(best.labels, ["bare", "masked"]);
    let state = folder.path().join("model.resume");
    let saved = fs::read(&state).unwrap();

    // A training run with different options or a different data set cannot resume from
    // this checkpoint.
    let other_set = folder.path().join("other");
    fs::create_dir(&other_set).unwrap();
    let other_set = data_set(&other_set);
    fs::remove_file(other_set.join("bare/bare_plain.png")).unwrap();
    let other = other_set.to_str().unwrap();
    for arguments in [
        ["--seed", "7"],
        ["--epochs", "999"],
        ["--views", "2"],
        ["--batch-size", "5"],
        ["--init-lr", "0.01"],
        ["--rotation", "10"],
        ["--horizontal-flip", "false"],
        ["--fill", "wrap"],
        ["--recipe", "robust"],
        ["--val", other],
        ["--dataset", other],
    ] {
        let mut command = long(&set, &model, arguments);
        let output = command.arg("--resume").output().unwrap();
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {errors}");
        let last = errors.lines().last().unwrap();
        assert!(last.ends_with("other pictures or options"), "{errors}");
    }
    assert_eq!(fs::read(&state).unwrap(), saved, "it is still there");

    let resume = || {
        long(&set, &model, UNCHANGED)
            .arg("--resume")
            .output()
            .unwrap()
    };
    let mut flipped = saved.clone();
    flipped[saved.len() / 2] ^= 1;
    let cut = saved[..saved.len() / 2].to_vec();
    for damaged in [flipped, cut, Vec::new(), b"\xff\n{}".to_vec()] {
        fs::write(&state, damaged).unwrap();
        assert_refused(&resume(), 65, "model.resume is damaged");
    }
    fs::write(&state, &saved).unwrap();

    let output = long(&set, &model, UNCHANGED)
        .args(["--resume", "--threads", "3"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let same = fs::read(&model).unwrap() == fs::read(&whole).unwrap();
    assert!(same, "the model differs from that of an uninterrupted run");
    assert!(!state.exists());
    assert_refused(&resume(), 66, "there is no interrupted training to resume");
}

#[test]
fn a_training_whose_output_cannot_be_written_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let set = data_set(folder.path());
    let model = folder.path().join("model");
    let (child, errors) = start_until(&mut long(&set, &model, UNCHANGED), "epoch done");
    // Make the output unwritable after the command has checked it.
    fs::create_dir(&model).unwrap();
    interrupt(&child, "-TERM");
    let (exit, last) = end(child, errors);
    assert_eq!(exit, Some(74), "{last}");
    assert!(last.contains("cannot write"), "{last}");
    fs::remove_dir(&model).unwrap();
    let output = long(&set, &model, UNCHANGED)
        .arg("--resume")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(model.is_file() && !folder.path().join("model.resume").exists());
}

#[test]
fn an_early_interrupt_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let set = data_set(folder.path());
    let model = folder.path().join("model");
    // With this many views, the interrupt arrives before the run ends.
    let mut command = long(&set, &model, ["--views", "30"]);
    let (child, errors) = start_until(&mut command, "training pictures");
    interrupt(&child, "-INT");
    let (exit, last) = end(child, errors);
    assert_eq!(exit, Some(75), "{last}");
    assert!(last.contains("nothing was written"), "{last}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn eval_reports_each_picture() {
    let folder = tempfile::tempdir().unwrap();
    let (set, report) = (folder.path().join("set"), folder.path().join("report.json"));
    // Evaluation needs only one class with one picture.
    let class = set.join("without_mask");
    fs::create_dir_all(&class).unwrap();
    for name in ["bare_plain.png", "bare_beard.png"] {
        fs::copy(
            root().join("tests/golden/crops").join(name),
            class.join(name),
        )
        .unwrap();
    }
    fs::write(class.join("broken.jpg"), "no picture").unwrap();
    let eval = || {
        let mut command = maskd();
        command.arg("eval").arg("--dataset").arg(&set);
        command.arg("--report").arg(&report).output().unwrap()
    };
    let output = eval();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let value: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    let pictures = value["pictures"].as_array().unwrap();
    let names: Vec<&str> = pictures
        .iter()
        .map(|judged| judged["picture"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["without_mask/bare_beard.png", "without_mask/bare_plain.png"]
    );
    let mut right = 0;
    for judged in pictures {
        assert_eq!(judged["label"], "without_mask");
        let [masked, bare] = ["with_mask", "without_mask"]
            .map(|label| judged["probabilities"][label].as_f64().unwrap());
        assert!((masked + bare - 1.0).abs() < 1e-5);
        right += usize::from(bare > masked);
    }
    assert_eq!(value["accuracy"].as_f64().unwrap(), right as f64 / 2.0);

    fs::rename(&class, set.join("chin")).unwrap();
    let output = eval();
    assert_eq!(output.status.code(), Some(65));
    assert!(text(&output.stderr).contains("which is none of with_mask, without_mask"));
    fs::remove_file(&report).unwrap();
    fs::create_dir(&report).unwrap();
    assert_refused(&eval(), 74, "it is a folder");
}

#[test]
fn photographs_with_boxes_evaluate_the_whole_system() {
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
    let [faces, right] = ["faces", "right"].map(|key| frames[key].as_u64().unwrap());
    assert!(right + 1 >= faces, "{frames}");
    assert_eq!(frames["interval"].as_array().unwrap().len(), 2);
}
