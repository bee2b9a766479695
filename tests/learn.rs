//! Tests learning with the real binary, without a daemon.
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
use std::sync::Arc;

use maskd::frame::Crop;
use maskd::learning::{Learning, LearningOptions};
use maskd::onnx::{Classifier, HeadFile, ThreadPool, write_classifier};
use maskd::vision::embed::{Backbone, Embedder};
use maskd::vision::head::Head;
use maskd::vision::pipeline::{SHIPPED_CLASSIFIER, open_model};
use serde_json::Value;
use support::{Device, assert_refused, frame, head, maskd, text};

#[test]
fn imported_samples_are_labelled_exported_and_learned() {
    let device = Device::new();
    let set = device.pictures();
    let set = set.to_str().unwrap();
    assert_eq!(
        device.stdout(&["samples", "import", set]),
        "added: with_mask 12, without_mask 12\n"
    );
    let again = device.stdout(&["samples", "import", set]);
    assert_eq!(again, "added: none\n24 pictures are already there\n");

    let list = device.json(&["samples", "list", "--label", "with_mask"]);
    let ids: Vec<&str> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|sample| sample["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), 12);
    let lines = device.stdout(&["samples", "list"]);
    assert_eq!(lines.lines().count(), 24);
    assert!(lines.contains(ids[0]), "{lines}");

    let relabelled = device.stdout(&["label", ids[0], ids[1], "chin"]);
    assert_eq!(relabelled, "2 labelled chin\n");
    let taken = device.stdout(&["label", ids[0], "unlabelled"]);
    assert_eq!(taken, "1 without a label now\n");
    assert_eq!(device.stdout(&["label", ids[2], "discard"]), "1 deleted\n");
    let stats = device.json(&["samples", "stats"]);
    for (label, count) in [
        ("with_mask", 9),
        ("without_mask", 12),
        ("chin", 1),
        ("unlabelled", 1),
    ] {
        assert_eq!(stats[label]["samples"], count, "{stats}");
    }
    let table = device.stdout(&["samples", "stats"]);
    assert_eq!(table.lines().count(), 5, "{table}");

    let picture = device.at("picture.jpg");
    let path = picture.to_str().unwrap();
    let shown = device.stdout(&["samples", "show", ids[1], "--picture", path]);
    assert!(shown.contains("chin"), "{shown}");
    assert_eq!(image::open(&picture).unwrap().width(), 224);

    let out = device.at("out");
    let exported = device.stdout(&["samples", "export", out.to_str().unwrap()]);
    assert!(exported.contains("without_mask 12"), "{exported}");
    assert_eq!(fs::read_dir(out.join("unlabelled")).unwrap().count(), 1);

    // Whether the new head is accepted depends on the built-in head. In either case,
    // the new head must be stored only if it is accepted.
    let record = device.json(&["refit"]);
    assert_eq!(record["small_classes"]["chin"], 1, "{record}");
    assert_eq!(record["outcome"]["counts"][0]["groups"], 9, "{record}");
    let measured = &record["outcome"]["measured"];
    assert_eq!(measured["after"]["samples"], 21, "{record}");
    let accepted = record["outcome"]["ruling"] == "accepted";
    assert_eq!(record["head"].is_u64(), accepted);
    let heads = device.json(&["heads", "list"]);
    assert_eq!(heads.as_array().unwrap().len(), usize::from(accepted));

    // The second refit reads all features from disk.
    let words = device.stdout(&["refit"]);
    assert!(
        words.starts_with("accepted: model ")
            || words.starts_with("refused: the model in use stays"),
        "{words}"
    );
    for part in [
        "reason        ",
        "evaluated by  cross-validation in 5 folds by track",
        "95 % interval",
        "replay        ",
        "temperature",
        "chin: 1 face pictures are too few",
        "\nbefore",
        "\nafter",
    ] {
        assert!(words.contains(part), "{part:?} is not in {words}");
    }

    let purged = device.stdout(&["samples", "purge", "--label", "chin", "--yes"]);
    assert!(purged.starts_with("deleted: 0 unlabelled and 1 labelled face pictures"));
    device.stdout(&["samples", "purge", "--yes"]);
    assert_eq!(device.stdout(&["samples", "list"]), "");
}

/// The replay set fits only the backbone and labels of the built-in classifier.
#[test]
fn a_classifier_with_other_labels_learns_without_the_replay_set() {
    let device = Device::new();
    let set = device.pictures();
    for label in ["with_mask", "without_mask"] {
        let name = label.replace("mask", "scarf");
        fs::rename(set.join(label), set.join(name)).unwrap();
    }
    let classifier = Classifier::parse("shipped", SHIPPED_CLASSIFIER).unwrap();
    let renamed = |label: &String| label.replace("mask", "scarf");
    let file = HeadFile {
        backbone_sha256: classifier.backbone_sha256,
        labels: classifier.labels.iter().map(renamed).collect(),
        head: classifier.head.clone(),
    };
    let model = device.at("scarf.onnx");
    fs::write(
        &model,
        write_classifier(SHIPPED_CLASSIFIER, &file, &[]).unwrap(),
    )
    .unwrap();
    let config = device.at("maskd.toml");
    let text = format!(
        "[models]\nclassifier = \"{}\"\n[classify]\nmasked-labels = [\"with_scarf\"]\n\
         [indicate]\nwith-mask-label = \"with_scarf\"\nwithout-mask-label = \"without_scarf\"\n",
        model.display()
    );
    fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    device.stdout(&["samples", "import", set.to_str().unwrap()]);
    let words = device.stdout(&["refit", "--config", config]);
    let warning = "nothing keeps the new model from forgetting";
    assert!(words.contains(warning), "{words}");
    assert!(!words.contains("\nreplay "), "{words}");
    assert!(words.contains("\nloss change "), "{words}");

    let record = device.json(&["refit", "--config", config]);
    let outcome = &record["outcome"];
    assert!(outcome["warning"].as_str().unwrap().contains(warning));
    let measured = &outcome["measured"];
    assert_eq!(measured["replay_samples"], 0, "{record}");
    assert_eq!(measured["replay_before"], Value::Null, "{record}");
    assert!(measured["agreement"].as_f64() > Some(0.9), "{record}");
}

#[test]
fn a_head_for_another_backbone_learns_without_the_replay_set() {
    let device = Device::new();
    let set = device.pictures();
    let (backbone, shipped) = open_model(None).unwrap();
    let backbone = Backbone::new(backbone).unwrap();
    let mut embedder = Embedder::new(&backbone, 1, ThreadPool::alone()).unwrap();
    let mut other = shipped.to_file();
    other.backbone_sha256[0] ^= 1;
    let refitted = |name: &str, head: Head, embedder: &mut Embedder| {
        let options = LearningOptions::default();
        let learning = Learning::open(&device.at(name), Arc::new(head), options).unwrap();
        learning.import(&set).unwrap();
        let mut embed = |crops: &[Crop]| embedder.embed(crops);
        learning.refit(&mut embed, &|| false).unwrap().outcome
    };
    let outcome = refitted("other", Head::from_file(other), &mut embedder);
    assert!(outcome.warning.is_some(), "{outcome:?}");
    let measured = outcome.measured.unwrap();
    assert_eq!(measured.after.samples, 24);
    assert_eq!((measured.replay_samples, measured.replay_after), (0, None));

    let outcome = refitted("shipped", shipped, &mut embedder);
    assert_eq!(outcome.warning, None);
    let measured = outcome.measured.unwrap();
    assert_eq!(measured.replay_samples, 300);
    assert!(measured.replay_after > Some(0.9), "{measured:?}");
}

#[test]
fn bad_requests_are_refused_in_a_sentence() {
    let device = Device::new();
    let set = device.pictures();
    device.stdout(&["samples", "import", set.to_str().unwrap()]);
    fs::create_dir(device.at("empty")).unwrap();
    let empty = device.at("empty");
    for (words, exit, sentence) in [
        (&["label", "one"][..], 64, "at least one id"),
        (&["label", "one", "two", "--track", "3"], 64, "not both"),
        (&["label", "--track", "3", "chin"], 66, "track 3"),
        (&["label", "nobody", "chin"], 66, "no such sample"),
        (&["label", "nobody", "a/b"], 64, "cannot be a label"),
        (
            &["samples", "list", "--label", "chin"],
            66,
            "no face pictures labelled chin",
        ),
        (
            &["samples", "list", "--label", "unlabelled"],
            66,
            "without a label",
        ),
        (
            &["samples", "list", "--label", "../x"],
            64,
            "cannot be a label",
        ),
        (&["samples", "show", "nobody"], 66, "no sample nobody"),
        (
            &["samples", "import", "/no/such/folder"],
            66,
            "/no/such/folder",
        ),
        (
            &["samples", "import", empty.to_str().unwrap()],
            66,
            "has no pictures",
        ),
        (&["samples", "purge"], 64, "--yes"),
        (
            &["samples", "purge", "--label", "chin", "--yes"],
            66,
            "labelled chin",
        ),
        (&["rollback"], 64, "cannot go back"),
        (&["heads", "show", "3"], 66, "no model 3"),
        (&["heads", "export", "3", "head.onnx"], 66, "no model 3"),
        (&["heads", "import", "/no/head.onnx"], 66, "/no/head.onnx"),
        (&["enroll", "chin"], 69, "no daemon"),
        (&["status"], 69, "no daemon"),
    ] {
        assert_refused(&device.maskd(words), exit, sentence);
    }
    let several = device.maskd(&["label", "nobody", "nothing", "chin"]);
    assert_eq!(several.status.code(), Some(66));
    assert_eq!(text(&several.stderr).lines().count(), 3);
    assert_eq!(device.stdout(&["samples", "list"]).lines().count(), 24);
    assert!(!Path::new("head.onnx").exists());
}

#[test]
fn heads_are_imported_used_and_rolled_back() {
    let device = Device::new();
    let name = device.at("head.onnx");
    let same = head(&name, |_| {});
    assert_eq!(
        device.stdout(&["heads", "import", &same]),
        "model 1 is in use now\n"
    );
    // This head never predicts a mask.
    let bare = head(&name, |file| {
        let at = file.labels.iter().position(|l| l == "without_mask");
        file.head.b2[at.unwrap()] += 100.0;
    });
    assert_eq!(
        device.stdout(&["heads", "import", &bare]),
        "model 2 is in use now\n"
    );
    let list = device.stdout(&["heads", "list"]);
    assert!(
        list.starts_with("  model 1  from the built-in model")
            && list.contains("\n* model 2  from model 1"),
        "{list}"
    );
    let shown = device.json(&["heads", "show", "2"]);
    assert_eq!(
        (&shown["parent"], &shown["current"]),
        (&1.into(), &true.into())
    );

    let masked = frame("maksssksksss10.jpg");
    let masked = masked.to_str().unwrap();
    let verdict = |device: &Device| {
        let record = device.json(&["classify", masked]);
        record["faces"][0]["verdict"].as_str().unwrap().to_owned()
    };
    assert_eq!(verdict(&device), "without_mask");
    let set = device.pictures();
    let set = set.to_str().unwrap();
    let report = device.stdout(&["eval", "--dataset", set]);
    assert!(report.contains("accuracy 50.00 %"), "{report}");
    let both = device.maskd(&["eval", "--dataset", set, "--model", &bare]);
    assert_refused(&both, 64, "not both");

    let copy = device.at("copy.onnx");
    device.stdout(&["heads", "export", "2", copy.to_str().unwrap()]);
    assert_eq!(device.stdout(&["rollback"]), "model 1 is in use now\n");
    assert_eq!(verdict(&device), "with_mask");
    assert_refused(
        &device.maskd(&["rollback", "2"]),
        64,
        "after 1 the built-in",
    );
    assert_eq!(
        device.stdout(&["heads", "import", copy.to_str().unwrap()]),
        "model 3 is in use now\n"
    );
    assert_eq!(verdict(&device), "without_mask");

    // A damaged head must be skipped, and a note must say so.
    let file = device.at("state/heads/000003.onnx");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let output = device.maskd(&["classify", masked, "--json"]);
    assert!(output.status.success());
    let note = text(&output.stderr);
    assert!(note.starts_with("maskd: ") && note.contains('3'), "{note}");
    let list = device.stdout(&["heads", "list"]);
    assert!(list.contains("* model 3  damaged: "), "{list}");
    assert_refused(
        &device.maskd(&["heads", "export", "3", copy.to_str().unwrap()]),
        65,
        "000003.onnx",
    );

    let other = head(&name, |file| file.backbone_sha256[0] ^= 1);
    let refused = device.maskd(&["heads", "import", &other]);
    assert_refused(&refused, 65, "was made for the backbone");
    let other = head(&name, |file| file.labels.reverse());
    let refused = device.maskd(&["heads", "import", &other]);
    assert_refused(&refused, 65, "has the labels");

    let gone = maskd()
        .args(["classify", masked, "--state", "/no/such/state"])
        .output()
        .unwrap();
    assert_refused(&gone, 66, "/no/such/state");
}

#[test]
fn a_state_directory_that_another_process_has_open_is_refused_after_a_wait() {
    let device = Device::new();
    let (_, base) = open_model(None).unwrap();
    let _learning = Learning::open(
        &device.at("state"),
        Arc::new(base),
        LearningOptions::default(),
    )
    .unwrap();
    let busy = device.maskd(&["samples", "list"]);
    assert_refused(&busy, 75, "another maskd");
}
