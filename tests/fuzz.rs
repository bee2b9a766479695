//! Replays the corpora of the fuzz targets; `fuzz/` finds new members.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and measure time"
)]

#[path = "../fuzz/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;

fn replay(name: &str, target: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let mut members = 0;
    for member in fs::read_dir(corpus).unwrap() {
        let data = fs::read(member.unwrap().path()).unwrap();
        target(&data);
        // Cut off anywhere, too.
        for end in (0..data.len()).step_by(data.len() / 64 + 1) {
            target(&data[..end]);
        }
        members += 1;
    }
    assert!(members > 2, "{name} has {members} members");
}

#[test]
fn mjpeg() {
    replay("mjpeg", targets::mjpeg);
}

#[test]
fn http() {
    replay("http", targets::http);
}

#[test]
fn config() {
    replay("config", targets::config);
}

#[test]
fn model() {
    replay("model", targets::model);
}

#[test]
fn picture() {
    replay("picture", targets::picture);
}

#[test]
fn jpeg() {
    replay("jpeg", targets::jpeg);
}

#[test]
fn features() {
    replay("features", targets::features);
}

#[test]
fn offer() {
    replay("offer", targets::offer);
}
