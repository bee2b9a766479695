//! Tests the kinds of events that a running daemon reports, and webhooks over HTTPS. The events
//! of a door with inputs are tested in `src/daemon/indicator_worker.rs`, because the console does
//! not have these inputs, and with simulated pins in `tests/rig/mini`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and need threads and time"
)]

mod support;

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use support::door::Door;
use support::receiver::{Received, Receiver};
use support::{head, root, start_with_mounts, text, wait_for};

/// A camera that always shows the same masked person.
const STILL_CAMERA: &str = "while :; do cat FOLDER/masked.jpg; sleep 0.2; done";

/// Keys of `[decide]`. The machine may be busy.
const STALE: &str = "stale-ms = 60000\n";

fn webhook(receiver: &Receiver, more: &str) -> String {
    let url = receiver.url();
    format!("[[events.webhook]]\nname = \"home\"\nurl = {url:?}\n{more}\n")
}

/// Waits for the first event of a kind that a receiver gets.
#[track_caller]
fn received(receiver: &Receiver, kind: &str) -> Value {
    wait_for(kind, || {
        let received = receiver.received();
        let mut events = received.iter().map(Received::json);
        events.find(|event| event["kind"] == kind)
    })
}

#[test]
fn a_decision_that_stays_unsure_and_another_model_are_told() {
    let receiver = Receiver::start(true);
    let door = Door::new(
        STILL_CAMERA,
        &format!(
            "{STALE}[classify]\nmasked-threshold = 1.0\nunmasked-threshold = 0.0\n\
             [events]\nunsure-after-ms = 1000\n{}",
            webhook(&receiver, "events = [\"unsure\", \"model\"]")
        ),
    );
    let running = door.run();
    let unsure = received(&receiver, "unsure");
    assert_eq!(unsure["seconds"], 1, "{unsure}");
    assert_eq!(unsure["message"], "The decision has been unsure for 1 s.");
    assert!(unsure.get("faces").is_none() && unsure.get("decision").is_none());

    let changed = head(&door.at("head.onnx"), |file| file.head.b2[0] += 0.5);
    for (words, model) in [
        (&["heads", "import", &changed][..], 1),
        (&["heads", "use", "0"], 0),
        (&["heads", "use", "1"], 1),
    ] {
        let output = door.command(words).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        wait_for(&format!("model {model}"), || {
            let last = door.events("model").pop()?;
            (last["model"] == model).then_some(())
        });
    }
    let models = || -> Vec<Value> {
        let received = receiver.received();
        let events = received.iter().map(Received::json);
        let events = events.filter(|event| event["kind"] == "model");
        events.map(|event| event["model"].clone()).collect()
    };
    wait_for("the models", || {
        (models() == [json!(1), json!(0), json!(1)]).then_some(())
    });
    // There is one event for as long as the decision is unsure.
    assert_eq!(door.events("unsure").len(), 1);
    running.stop();
}

#[test]
fn a_disk_that_is_full_and_then_has_space_is_told() {
    let receiver = Receiver::start(true);
    let door = Door::new(
        STILL_CAMERA,
        &format!(
            "{STALE}[events]\nmin-free-mib = 50\n{}",
            webhook(&receiver, "events = [\"disk_full\", \"disk_free\"]")
        ),
    );
    fs::create_dir(door.at("state")).unwrap();
    let script = "mount -t tmpfs -o size=40m maskd \"$0\" || exit 1\n\
                  ( for i in $(seq 900); do [ -e \"$GO\" ] && break; sleep 0.1; done\n\
                  mount -o remount,size=200m \"$0\" ) &\n\
                  echo mounted >&2 && exec \"$@\"";
    let mut run = door.command(&["run", "--json"]);
    run.env("GO", door.at("go"));
    let folder = door.folder.path();
    let Some(running) = start_with_mounts(&run, script, folder, &door.at("state")) else {
        return;
    };
    let full = received(&receiver, "disk_full");
    let free_mib = full["free_mib"].as_u64().unwrap();
    assert!((20..50).contains(&free_mib), "{full}");
    let message = format!("The disk of the state directory is full: {free_mib} MiB are free.");
    assert_eq!(full["message"], message);
    fs::write(door.at("go"), "").unwrap();
    let free = received(&receiver, "disk_free");
    assert!(free["free_mib"].as_u64().unwrap() >= 75, "{free}");
    assert_eq!(receiver.received().len(), 2, "one event for each change");
    running.stop();
}

fn certificates() -> PathBuf {
    root().join("tests/data/tls")
}

fn certificate(name: &str) -> String {
    format!("ca-file = \"{}\"", certificates().join(name).display())
}

/// A device that sends its decisions to a receiver.
fn door_with(receiver: &Receiver, trust: &str) -> Door {
    Door::new(
        STILL_CAMERA,
        &format!("{STALE}{}", webhook(receiver, trust)),
    )
}

/// Waits until the delivery to a receiver fails, and returns the reason.
#[track_caller]
fn failure(door: &Door) -> String {
    wait_for("a failure", || {
        let record = door.receiver("home")?;
        Some(record["last_failure"].as_str()?.to_owned())
    })
}

#[test]
fn webhooks_over_https_trust_a_private_authority_and_nobody_else() {
    let signed = Receiver::start_with_tls(&certificates(), "signed");
    let door = door_with(&signed, &certificate("authority.pem"));
    let check = text(&door.command(&["check"]).output().unwrap().stdout);
    assert!(
        check.contains(&format!(
            "ok   events       home at 127.0.0.1:{} can be reached",
            signed.port
        )),
        "{check}"
    );
    let running = door.run();
    let event = received(&signed, "decision");
    assert_eq!(event["device"], door.events("decision")[0]["device"]);
    let record = wait_for("the delivery", || {
        let record = door.receiver("home")?;
        (record["delivered"].as_u64()? >= 1).then_some(record)
    });
    assert_eq!(record["failed"], 0, "{record}");
    running.stop();

    // The system's authorities do not include the private one, and another certificate is
    // not the receiver's.
    for trust in ["", &certificate("self-signed.pem")] {
        let signed = Receiver::start_with_tls(&certificates(), "signed");
        let door = door_with(&signed, trust);
        let running = door.run();
        let why = failure(&door);
        assert!(why.contains("cannot be trusted: its certificate"), "{why}");
        assert!(signed.received().is_empty(), "no event was sent");
        assert!(!why.contains("Qx7Z9"), "{why}");
        running.stop();
    }

    // A certificate for another name is accepted only by its fingerprint.
    let other = Receiver::start_with_tls(&certificates(), "self-signed");
    let door = door_with(&other, &certificate("authority.pem"));
    let running = door.run();
    let why = failure(&door);
    assert!(other.received().is_empty(), "no event was sent");
    running.stop();
    let fingerprint = fingerprint_in(&why);
    let pinned = door_with(&other, &format!("tls-fingerprint = \"{fingerprint}\""));
    let running = pinned.run();
    received(&other, "decision");
    running.stop();
}

/// Returns the SHA-256 in a message about a certificate.
#[track_caller]
fn fingerprint_in(message: &str) -> String {
    let is_digit = |c: char| c.is_ascii_hexdigit() || c == ':';
    let mut words = message.split(|c: char| !is_digit(c));
    let found = words.find(|word| word.replace(':', "").len() == 64);
    found.unwrap_or_else(|| panic!("{message}")).to_owned()
}

#[test]
fn the_state_of_a_door_without_inputs_is_shown_without_events() {
    let door = Door::new(
        STILL_CAMERA,
        &format!("{STALE}[indicate]\nbackend = \"console\"\nrelay-pin = 23\n"),
    );
    let running = door.run();
    let shown = wait_for("the open door", || {
        let status = door.json("/api/v1/status")?;
        let shown = status["live"]["door"].clone();
        (shown["unlocked_by"] == "mask").then_some(shown)
    });
    assert_eq!(shown["unlocked"], true, "{shown}");
    assert_eq!(shown.get("position"), None, "{shown}");
    let metrics = door.get("/metrics").unwrap();
    assert!(
        metrics.contains("maskd_door{state=\"unlocked\"} 1"),
        "{metrics}"
    );
    for kind in ["door_release", "door_exit_button", "door_held_open"] {
        assert!(door.events(kind).is_empty(), "{kind}");
    }
    running.stop();
}
