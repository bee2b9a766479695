//! Tests that maskd can use a state directory and a config from an older version.
//!
//! The script `tests/fixtures/make` shows how the state directory was created.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use maskd::config;
use maskd::learning::{Learning, LearningOptions};
use maskd::vision::pipeline::open_model;
use serde_json::{Value, json};
use support::{Device, assert_refused, root};

/// A copy of a state directory from the first version of maskd.
struct OldState(Device);

impl std::ops::Deref for OldState {
    type Target = Device;

    fn deref(&self) -> &Device {
        &self.0
    }
}

impl OldState {
    fn new() -> OldState {
        let device = Device::new();
        let old = root().join("tests/fixtures/state-1");
        copy(&old, &device.at("state"));
        OldState(device)
    }

    fn path(&self) -> PathBuf {
        self.at("state")
    }

    /// Returns the number and the parent of each head, and whether the head is in use.
    fn heads(&self) -> Vec<(Value, Value, Value)> {
        let list = self.json(&["heads", "list"]);
        let heads = list.as_array().unwrap().iter();
        heads
            .map(|head| {
                (
                    head["number"].clone(),
                    head["parent"].clone(),
                    head["current"].clone(),
                )
            })
            .collect()
    }

    fn format(&self) -> Option<String> {
        fs::read_to_string(self.path().join("format")).ok()
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn samples_and_heads_of_an_older_maskd_are_taken_over() {
    let state = OldState::new();
    // The exit code reports that no daemon is running, but the command still shows the
    // state.
    let status = state.maskd(&["status", "--json"]);
    assert_eq!(status.status.code(), Some(69));
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&status["head"], &status["heads"]), (&json!(3), &json!(3)));
    assert_eq!(state.format(), None, "reading numbers nothing");

    let stats = state.json(&["samples", "stats"]);
    for (label, samples, features_only) in [
        ("with_mask", 7, 0),
        ("without_mask", 3, 0),
        ("unlabelled", 5, 1),
    ] {
        let count = &stats[label];
        assert_eq!(count["samples"], samples, "{stats}");
        assert_eq!(count["feature_only"], features_only, "{stats}");
    }
    assert_eq!(
        state.format().as_deref(),
        Some("1\n"),
        "opening it for changes writes the format number"
    );
    assert_eq!(
        state.heads(),
        [
            (json!(0), Value::Null, json!(false)),
            (json!(1), Value::Null, json!(false)),
            (json!(2), json!(1), json!(false)),
            (json!(3), json!(2), json!(true)),
        ]
    );
    // The gate recorded these results when it accepted the head.
    let shown = state.json(&["heads", "show", "3"]);
    assert_eq!(shown["outcome"]["ruling"], "accepted", "{shown}");
    assert_eq!(
        shown["outcome"]["measured"]["after"]["samples"], 10,
        "{shown}"
    );
    let key = fs::read(state.path().join("fleet.key")).unwrap();
    assert_eq!(state.stdout(&["fleet", "key"]).trim().len(), 64);
    assert_eq!(fs::read(state.path().join("fleet.key")).unwrap(), key);

    // The daemon trains again only if there are new labels.
    let (_, base) = open_model(None).unwrap();
    let options = LearningOptions::default();
    let learning = Learning::open(&state.path(), Arc::new(base), options).unwrap();
    assert_eq!(learning.new_labels().unwrap(), 0);
    assert_eq!(learning.last_refit().unwrap().head, Some(3));
    drop(learning);

    // Labels can be changed, and the daemon then trains on them.
    let list = state.json(&["samples", "list", "--label", "unlabelled"]);
    let id = list[0]["id"].as_str().unwrap();
    assert_eq!(
        state.stdout(&["label", id, "with_mask"]),
        "1 labeled with_mask\n"
    );
    let record = state.json(&["refit"]);
    let used = &record["outcome"]["measured"]["after"]["samples"];
    assert_eq!(used, 11, "{record}");
    assert_eq!(record["unusable"], json!({}), "{record}");
}

#[test]
fn rollback_follows_the_history_of_an_older_maskd() {
    let state = OldState::new();
    for in_use in [2, 1, 0] {
        state.stdout(&["rollback"]);
        let current = state.heads().iter().position(|head| head.2 == true);
        assert_eq!(current, Some(in_use), "{:?}", state.heads());
    }
    assert_eq!(state.heads().len(), 4);
}

#[test]
fn a_state_directory_of_a_newer_maskd_is_left_alone() {
    let state = OldState::new();
    fs::write(state.path().join("format"), "2\n").unwrap();
    let sentence = "has the format 2, and this maskd knows formats up to 1: update maskd";
    for words in [
        &["status"][..],
        &["samples", "list"],
        &["refit"],
        &["heads", "list"],
        &["heads", "use", "1"],
        &["rollback"],
        &["fleet", "key"],
        &["classify", "assets/frames/maksssksksss120.jpg"],
    ] {
        let output = state.maskd(words);
        assert_refused(&output, 65, sentence);
    }
    fs::write(state.path().join("format"), "two\n").unwrap();
    assert_refused(
        &state.maskd(&["samples", "list"]),
        65,
        "holds no format number",
    );
}

#[test]
fn a_head_of_a_newer_format_is_refused_by_name() {
    let state = OldState::new();
    let bytes = fs::read(state.path().join("heads/000001.onnx")).unwrap();
    let known = b"maskd-head-1";
    let at = bytes.windows(known.len()).position(|part| part == known);
    let mut newer = bytes;
    newer[at.unwrap() + known.len() - 1] = b'2';
    let path = state.folder.path().join("newer.onnx");
    fs::write(&path, newer).unwrap();
    let output = state.maskd(&["heads", "import", path.to_str().unwrap()]);
    assert_refused(
        &output,
        65,
        "its format \"maskd-head-2\" is newer than \"maskd-head-1\", which this maskd knows",
    );
}

/// Old and new names of the keys that have been renamed since the first version.
const RENAMED: [(&str, &str); 15] = [
    ("camera.rate", "camera.playback-fps"),
    ("detect.side", "detect.input-size"),
    ("detect.still-ms", "detect.idle-interval-ms"),
    ("classify.mask-from", "classify.masked-threshold"),
    ("classify.no-mask-to", "classify.unmasked-threshold"),
    ("classify.min-face", "classify.min-face-pixels"),
    ("classify.min-score", "classify.min-detector-score"),
    ("track.keep-ms", "track.max-lost-ms"),
    ("track.votes", "track.vote-window"),
    ("track.settled-ms", "track.reclassify-interval-ms"),
    ("capture.per-track", "capture.max-per-track"),
    ("capture.per-hour", "capture.max-per-hour"),
    ("capture.near-duplicate", "capture.near-duplicate-distance"),
    ("refit.min-new", "refit.min-new-labels"),
    ("mqtt.topic", "mqtt.topic-prefix"),
];

/// Returns the values in the sections of a config as a map. Each key has the form
/// `section.key`.
fn values(table: &toml::Table) -> BTreeMap<String, toml::Value> {
    let sections = table.iter().flat_map(|(section, keys)| {
        let keys = keys.as_table().into_iter().flatten();
        keys.map(move |(key, value)| (format!("{section}.{key}"), value.clone()))
    });
    sections.collect()
}

#[test]
fn a_config_of_an_older_maskd_means_what_it_did() {
    let path = root().join("tests/fixtures/config-1.toml");
    let (config, renamed) = config::load(&path).unwrap();
    assert_eq!(renamed.len(), RENAMED.len());
    let read = values(&toml::Table::try_from(&config).unwrap());
    let written = values(&fs::read_to_string(&path).unwrap().parse().unwrap());
    assert_eq!(written.len(), 76);
    for (key, value) in &written {
        let renamed = RENAMED.iter().find(|(old, _)| old == key);
        let today = renamed.map_or(key.as_str(), |(_, new)| new);
        assert_eq!(read.get(today), Some(value), "{key}");
    }
}
