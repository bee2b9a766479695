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

use image::RgbImage;
use maskd::frame::Crop;
use maskd::learning::{Learning, LearningOptions, RefitTrigger};
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
    assert_eq!(again, "added: none\nalready there: 24 pictures\n");

    let list = device.json(&["samples", "list", "--label", "with_mask"]);
    let ids: Vec<&str> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|sample| sample["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), 12);
    let lines = device.stdout(&["samples", "list"]);
    assert_eq!(lines.lines().count(), 1 + 24);
    assert!(lines.starts_with("ID  "), "{lines}");
    assert!(lines.contains(ids[0]), "{lines}");

    let relabelled = device.stdout(&["label", ids[0], ids[1], "chin"]);
    assert_eq!(relabelled, "2 labeled chin\n");
    let taken = device.stdout(&["label", ids[0], "unlabelled"]);
    assert_eq!(taken, "1 without a label now\n");
    assert_eq!(
        device.stdout(&["label", ids[2], "discard"]),
        "1 discarded\n"
    );
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
    // The nine masked pieces are from four photographs. Pieces of one photograph are
    // near-duplicates.
    assert_eq!(record["outcome"]["counts"][0]["groups"], 4, "{record}");
    assert_eq!(record["outcome"]["measured"]["groups"], 7, "{record}");
    let measured = &record["outcome"]["measured"];
    assert_eq!(measured["after"]["samples"], 21, "{record}");
    let accepted = record["outcome"]["ruling"] == "accepted";
    assert_eq!(record["head"].is_u64(), accepted);
    let heads = device.json(&["heads", "list"]);
    // The first row is the built-in model.
    let rows = 1 + usize::from(accepted);
    assert_eq!(heads.as_array().unwrap().len(), rows);
    assert_eq!(heads[0]["current"], !accepted, "{heads}");

    check_sentences(&device);

    let purged = device.stdout(&["samples", "purge", "--label", "chin", "--yes"]);
    assert!(purged.starts_with("deleted face pictures: 0 unlabeled, 1 labeled"));
    device.stdout(&["samples", "purge", "--yes"]);
    assert_eq!(device.stdout(&["samples", "list"]), "");
}

/// Checks the text about a refit of nine masked and twelve unmasked pieces, and one piece
/// with another label.
fn check_sentences(device: &Device) {
    // The second refit reads all features from the disk.
    let words = device.stdout(&["refit"]);
    assert!(
        words.starts_with("Model 2 came into use: ")
            || words.starts_with("Model 1 came into use: ")
            || words.starts_with("The new model was not used: ")
            || words.starts_with("There is nothing to gain: "),
        "{words}"
    );
    for part in [
        "\nNot used: chin has too few face pictures for a class (1).\n",
        "\nLabeled so far: 4 of 20 people with a mask, 3 of 20 without a mask, all on one day.\n",
    ] {
        assert!(words.contains(part), "{part:?} is not in {words}");
    }
    let details = [
        "evaluated by  cross-validation in 5 folds by person",
        "95% interval",
        "loss",
        "agreement",
        "replay        ",
        "temperature",
        "\nbefore",
        "\nafter",
    ];
    let words_with_details = device.stdout(&["refit", "--details"]);
    for part in details {
        assert!(!words.contains(part), "{part:?} is in {words}");
        assert!(
            words_with_details.contains(part),
            "{part:?} is not in {words_with_details}"
        );
    }
}

#[test]
fn the_owner_can_vouch_for_the_labels() {
    let device = Device::new();
    let set = device.pictures();
    // All labels are wrong.
    fs::rename(set.join("with_mask"), set.join("other")).unwrap();
    fs::rename(set.join("without_mask"), set.join("with_mask")).unwrap();
    fs::rename(set.join("other"), set.join("without_mask")).unwrap();
    device.stdout(&["samples", "import", set.to_str().unwrap()]);
    let words = device.stdout(&["refit"]);
    let refused = "The new model was not used: the labels do not match what the faces look like; ";
    assert!(words.starts_with(refused), "{words}");
    assert!(words.contains("maskd refit --labels-checked"), "{words}");

    let record = device.json(&["refit", "--labels-checked"]);
    let outcome = &record["outcome"];
    assert_eq!(outcome["labels_checked"], true, "{record}");
    let warning = outcome["warning"].as_str().unwrap();
    assert!(
        warning.contains("vouched for") && warning.contains("do not match"),
        "{warning}"
    );
    let ruling = outcome["ruling"].to_string();
    assert!(
        !ruling.contains("labels-"),
        "the other tests decide: {ruling}"
    );
    let words = device.stdout(&["refit", "--labels-checked"]);
    assert!(
        words.contains("\nWarning: the labels were vouched for"),
        "{words}"
    );
}

/// The replay set works only with the backbone and the labels of the built-in classifier.
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
    let words = device.stdout(&["refit", "--details", "--config", config]);
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
    let backbone = Backbone::new(backbone, shipped.features()).unwrap();
    let mut embedder = Embedder::new(&backbone, 1, ThreadPool::alone()).unwrap();
    let mut other = shipped.to_file();
    other.backbone_sha256[0] ^= 1;
    let refitted = |name: &str, head: Head, embedder: &mut Embedder| {
        let options = LearningOptions::default();
        let learning = Learning::open(&device.at(name), Arc::new(head), options).unwrap();
        learning.import(&set).unwrap();
        let mut embed = |crops: &[Crop]| embedder.embed(crops);
        let trigger = RefitTrigger::default();
        let refit = learning.refit(trigger, &mut embed, &|| false);
        refit.unwrap().outcome
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
            "no face pictures labeled chin",
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
            "labeled chin",
        ),
        (&["rollback"], 64, "cannot go back"),
        (&["heads", "show", "3"], 66, "no model 3"),
        (&["heads", "use", "3"], 66, "no model 3"),
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
    let left = device.json(&["samples", "list"]);
    assert_eq!(left.as_array().unwrap().len(), 24);
    assert!(!Path::new("head.onnx").exists());
}

/// Returns the verdict of the model in use about a masked person.
fn verdict(device: &Device) -> String {
    let masked = frame("maksssksksss10.jpg");
    let record = device.json(&["classify", masked.to_str().unwrap()]);
    record["faces"][0]["verdict"].as_str().unwrap().to_owned()
}

#[test]
fn any_model_is_used_by_its_number() {
    let device = Device::new();
    let name = device.at("head.onnx");
    device.stdout(&["heads", "import", &head(&name, |_| {})]);
    // This head never predicts a mask.
    let bare = head(&name, |file| {
        let at = file.labels.iter().position(|l| l == "without_mask");
        file.head.b2[at.unwrap()] += 100.0;
    });
    device.stdout(&["heads", "import", &bare]);
    for (number, sentence, expected) in [
        ("1", "model 1 is in use now\n", "with_mask"),
        ("2", "model 2 is in use now\n", "without_mask"),
        ("0", "the built-in model is in use now\n", "with_mask"),
    ] {
        assert_eq!(device.stdout(&["heads", "use", number]), sentence);
        assert_eq!(verdict(&device), expected);
        let list = device.stdout(&["heads", "list"]);
        let used: Vec<&str> = list.lines().filter(|line| line.starts_with('*')).collect();
        assert!(
            used.len() == 1 && used[0].starts_with(&format!("* model {number}  ")),
            "{list}"
        );
    }
    let shown = device.stdout(&["heads", "show", "0"]);
    let expected = "* model 0  the built-in model, labels with_mask, without_mask\n";
    assert_eq!(shown, expected);
    let list = device.json(&["heads", "list"]);
    let numbers: Vec<&Value> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|head| &head["number"])
        .collect();
    assert_eq!(numbers, [0, 1, 2]);
    assert_eq!(list[0]["recipe"], "built-in");

    let history = device.stdout(&["heads", "history"]);
    let why: Vec<&str> = history
        .lines()
        .filter_map(|line| line.split("  ").last())
        .collect();
    assert_eq!(
        why,
        [
            "model 1: imported, requested on the command line",
            "model 2: imported, requested on the command line",
            "model 1: chosen, requested on the command line",
            "model 2: chosen, requested on the command line",
            "the built-in model: chosen, requested on the command line",
        ]
    );
    let history = device.json(&["heads", "history"]);
    assert_eq!(history[4]["sequence"], 5, "{history}");
    assert_eq!(history[4]["head"], 0, "{history}");
    assert_eq!(history[4]["before"], 2, "{history}");
    assert_eq!(history[4]["channel"], "command-line", "{history}");

    // The built-in model can be copied out and in.
    let copy = device.at("copy.onnx");
    let copy = copy.to_str().unwrap();
    device.stdout(&["heads", "export", "0", copy]);
    assert_eq!(
        device.stdout(&["heads", "import", copy]),
        "model 3 is in use now\n"
    );
    assert_eq!(verdict(&device), "with_mask");

    // A damaged model is not used, and can be left for another one.
    let file = device.at("state/heads/000003.onnx");
    fs::write(&file, &fs::read(&file).unwrap()[..1000]).unwrap();
    assert_refused(&device.maskd(&["heads", "use", "3"]), 65, "000003.onnx");
    device.stdout(&["heads", "use", "2"]);
    let masked = frame("maksssksksss10.jpg");
    let output = device.maskd(&["classify", masked.to_str().unwrap(), "--json"]);
    assert_eq!(text(&output.stderr), "", "no note about the damaged model");
}

#[test]
fn wrong_labels_are_found_by_what_the_training_and_the_model_say() {
    let device = Device::new();
    let set = device.pictures();
    device.stdout(&["samples", "import", set.to_str().unwrap()]);
    assert_refused(
        &device.maskd(&["samples", "list", "--suspect"]),
        66,
        "no face pictures match these options",
    );
    let list = device.json(&["samples", "list", "--label", "with_mask"]);
    let wrong = list[0]["id"].as_str().unwrap();
    assert!(list[0].get("predicted").is_none(), "{list}");
    device.stdout(&["label", wrong, "without_mask"]);
    let record = device.json(&["refit"]);
    let measured = &record["outcome"]["measured"];
    let ids = |list: &Value| -> Vec<String> {
        let list = list.as_array().unwrap().iter();
        let mut ids: Vec<String> = list.map(|s| s["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    for (option, key) in [("--suspect", "suspects"), ("--worst", "worst")] {
        let found = device.json(&["samples", "list", option]);
        assert_eq!(ids(&found), ids(&measured[key]), "{option}");
        assert!(ids(&found).contains(&wrong.to_owned()), "{option}: {found}");
    }
    let words = ["samples", "list", "--label", "without_mask", "--predicted"];
    let found = device.json(&[&words[..], &["with_mask"]].concat());
    assert!(ids(&found).contains(&wrong.to_owned()), "{found}");
    for sample in found.as_array().unwrap() {
        assert_eq!(sample["predicted"], "with_mask", "{found}");
        assert!(sample["probability"].as_f64().unwrap() >= 0.5, "{found}");
    }
    let shown = device.stdout(&["samples", "show", wrong]);
    assert!(shown.contains("suspect, worst"), "{shown}");

    // Correcting the label removes the suspicion.
    device.stdout(&["label", wrong, "with_mask"]);
    let found = device.maskd(&["samples", "list", "--suspect", "--json"]);
    assert!(!text(&found.stdout).contains(wrong), "{found:?}");
}

#[test]
fn samples_are_selected_by_track_and_day() {
    let device = Device::new();
    let folder = device.at("state/samples/unlabelled");
    fs::create_dir_all(&folder).unwrap();
    let pixels = RgbImage::new(224, 224);
    for name in [
        "20261124T101530.123Z-t000017-01",
        "20261125T101530.123Z-t000017-01",
        "20261125T101530.123Z-t000018-01",
        "holiday",
    ] {
        pixels.save(folder.join(format!("{name}.png"))).unwrap();
    }
    let count = |words: &[&str]| {
        let found = device.json(&[&["samples", "list"], words].concat());
        found.as_array().unwrap().len()
    };
    assert_eq!(count(&[]), 4);
    assert_eq!(count(&["--track", "17"]), 2);
    assert_eq!(count(&["--day", "2026-11-25"]), 2);
    assert_eq!(count(&["--day", "2026-11-25", "--track", "18"]), 1);
    for (words, exit, sentence) in [
        (&["--track", "19"][..], 66, "no face pictures match"),
        (
            &["--day", "20261125"],
            64,
            "is not a day: write it as YYYY-MM-DD",
        ),
    ] {
        let words = [&["samples", "list"], words].concat();
        assert_refused(&device.maskd(&words), exit, sentence);
    }
}

#[test]
fn bad_pictures_are_marked_and_selected() {
    let device = Device::new();
    let set = device.pictures();
    device.stdout(&["samples", "import", set.to_str().unwrap()]);
    let folder = device.at("state/samples/with_mask");
    RgbImage::new(224, 224)
        .save(folder.join("black.png"))
        .unwrap();
    let of_quality = |quality: &str| {
        device.json(&[
            "samples",
            "list",
            "--label",
            "with_mask",
            "--quality",
            quality,
        ])
    };
    for quality in ["bad", "dark", "blurred"] {
        let found = of_quality(quality);
        assert_eq!(found.as_array().unwrap().len(), 1, "{quality}: {found}");
        assert_eq!(found[0]["id"], "black");
        assert_eq!(found[0]["flaws"], serde_json::json!(["blurred", "dark"]));
    }
    let good = of_quality("good");
    assert_eq!(good.as_array().unwrap().len(), 12);
    assert!(good[0].get("flaws").is_none(), "{good}");
    let list = device.stdout(&["samples", "list"]);
    assert_eq!(list.matches("blurred, dark").count(), 1, "{list}");
    let none = device.maskd(&["samples", "list", "--quality", "cut-off"]);
    assert_refused(&none, 66, "no face pictures match these options");
    let unknown = device.maskd(&["samples", "list", "--quality", "ugly"]);
    assert!(
        text(&unknown.stderr).contains("use good, bad, small"),
        "{unknown:?}"
    );

    // Training uses a label that a person assigned, even to a bad picture.
    let record = device.json(&["refit"]);
    assert_eq!(record["outcome"]["counts"][0]["samples"], 13, "{record}");
    assert_eq!(record["unusable"], serde_json::json!({}));
    assert_eq!(record["outcome"]["left_out"], serde_json::json!([]));
}

#[test]
fn the_beginning_of_an_id_is_enough_if_it_is_unique() {
    let device = Device::new();
    let folder = device.at("state/samples/unlabelled");
    fs::create_dir_all(&folder).unwrap();
    let pixels = RgbImage::new(224, 224);
    let gone = "20261124T101530.123Z-t000017-01";
    for name in [&format!("{gone}1"), "holiday", "holiday-2", "hollow"] {
        pixels.save(folder.join(format!("{name}.png"))).unwrap();
    }
    for (words, exit, sentence) in [
        (
            &["label", "holl", "holi", "chin"][..],
            64,
            "the IDs of 2 face pictures begin with \"holi\": type more characters",
        ),
        (
            &["label", "hol", "chin"],
            64,
            "type at least the first 4 characters",
        ),
        (
            &["samples", "show", "ho"],
            64,
            "type at least the first 4 characters",
        ),
        // A complete ID is never the beginning of another one.
        (&["label", gone, "chin"], 66, "no such sample"),
        (&["samples", "show", gone], 66, "no sample 2026"),
    ] {
        assert_refused(&device.maskd(words), exit, sentence);
    }
    let labeled = device.maskd(&["samples", "list", "--label", "chin"]);
    assert_refused(&labeled, 66, "no face pictures labeled chin");

    assert_eq!(
        device.stdout(&["label", "holl", "2026", "chin"]),
        "2 labeled chin\n"
    );
    assert_eq!(
        device.stdout(&["label", "holiday", "chin"]),
        "1 labeled chin\n"
    );
    let left = device.json(&["samples", "list", "--label", "unlabelled"]);
    assert_eq!(left.as_array().unwrap().len(), 1);
    assert_eq!(left[0]["id"], "holiday-2");
    let shown = device.json(&["samples", "show", "holl"]);
    assert_eq!(shown["id"], "hollow");
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
        list.starts_with("  model 0  the built-in model, labels with_mask, without_mask\n")
            && list.contains("\n  model 1  from the built-in model")
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
    assert_eq!(verdict(&device), "without_mask");
    let set = device.pictures();
    let set = set.to_str().unwrap();
    let report = device.stdout(&["eval", "--dataset", set]);
    assert!(report.contains("accuracy 50.00%"), "{report}");
    let both = device.maskd(&["eval", "--dataset", set, "--model", &bare]);
    assert_refused(&both, 64, "not both");

    let copy = device.at("copy.onnx");
    device.stdout(&["heads", "export", "2", copy.to_str().unwrap()]);
    assert_eq!(device.stdout(&["rollback"]), "model 1 is in use now\n");
    assert_eq!(verdict(&device), "with_mask");
    assert_refused(
        &device.maskd(&["rollback", "2"]),
        64,
        "the built-in model is already reached after 1",
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
