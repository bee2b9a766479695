//! Runs the fuzz targets on the inputs in their corpora. Fuzzing in `fuzz/` finds new
//! inputs.
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

use proptest::prelude::*;

fn replay(name: &str, target: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let mut members = 0;
    for member in fs::read_dir(corpus).unwrap() {
        let data = fs::read(member.unwrap().path()).unwrap();
        target(&data);
        // The input is also tested after it has been cut off at various positions.
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

#[test]
fn decision() {
    replay("decision", targets::decision);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_relay_opens_only_after_frames_that_confirm_each_other(
        events in prop::collection::vec((0_u8..16, 0_u8..16, any::<u8>()), 0..300)
    ) {
        // Clock steps and similar events are rare, so that there are enough frames between
        // them.
        let bytes = events.into_iter().flat_map(|(kind, flags, value)| {
            let kind = if flags < 14 && kind > 7 { kind % 4 } else { kind };
            [kind | flags << 4, value]
        });
        targets::decision(&bytes.collect::<Vec<u8>>());
    }
}
