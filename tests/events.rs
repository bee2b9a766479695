//! Tests the delivery of events by a running daemon to webhooks and programs on the loopback
//! interface.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and need threads and time"
)]

mod support;

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest, Sha256};
use support::door::{Door, KEY};
use support::receiver::{Received, Receiver};
use support::{text, wait_for};

/// Keys of `[decide]`.
const STALE: &str = "stale-ms = 500\n";

/// A camera that pauses for longer than `decide.stale-ms` again and again, so that the decision keeps
/// changing to a fault and back. Its frames are small, so that no time is spent on them.
const PAUSING_CAMERA: &str = "while :; do
    for i in 1 2 3 4 5; do cat FOLDER/frame.jpg; sleep 0.1; done
    sleep 0.8
done";

/// The HMAC-SHA256 of RFC 2104 for a key of at most 64 bytes.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        for (to, from) in block.iter_mut().zip(key) {
            *to ^= from;
        }
        block
    };
    let inner = Sha256::digest([&pad(0x36)[..], message].concat());
    Sha256::digest([&pad(0x5c)[..], &inner[..]].concat()).to_vec()
}

#[track_caller]
fn assert_signed(request: &Received) {
    let (id, time) = (request.id(), request.header("webhook-timestamp"));
    let code = hmac(KEY, format!("{id}.{time}.{}", request.body).as_bytes());
    let expected = format!("v1,{}", STANDARD.encode(code));
    assert_eq!(request.header("webhook-signature"), expected);
}

fn is_running(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one run of the daemon serves all receivers"
)]
fn events_arrive_whatever_other_receivers_do() {
    let (good, silent) = (Receiver::start(true), Receiver::start(false));
    let door = Door::new(
        PAUSING_CAMERA,
        &format!(
            "{STALE}[[events.webhook]]\nname = \"good\"\nurl = {:?}\nevents = [\"decision\"]\n\
             key-file = \"FOLDER/key\"\n\
             [[events.webhook]]\nname = \"silent\"\nurl = {:?}\ntime-limit-ms = 300\n\
             template = '{{\"text\": \"{{{{device}}}}: {{{{message}}}}\"}}'\n\
             [[events.webhook]]\nname = \"refused\"\nurl = \"http://127.0.0.1:1/\"\n\
             [[events.exec]]\nname = \"writer\"\ncommand = [\"FOLDER/writer\", \"a b\"]\n\
             [[events.exec]]\nname = \"slow\"\ncommand = [\"FOLDER/slow\"]\ntime-limit-ms = 300\n",
            good.url(),
            silent.url()
        ),
    );
    door.script(
        "writer",
        "cat >> FOLDER/written; echo \"$1\" >> FOLDER/arguments",
    );
    door.script("slow", "sleep 1000 & echo $! >> FOLDER/children; wait");
    let running = door.run();
    let received = wait_for("six events", || {
        let received = good.received();
        (received.len() >= 6).then_some(received)
    });
    for request in &received {
        assert_signed(request);
        let event = request.json();
        assert_eq!(event["id"], request.id());
        assert_eq!(event["kind"], "decision");
        assert!(event["device"].as_str().unwrap().starts_with("maskd"));
        assert!(event.get("box").is_none() && event.get("faces").is_none());
    }
    let decisions: Vec<String> = received
        .iter()
        .map(|request| request.json()["decision"].as_str().unwrap().to_owned())
        .collect();
    let shown = wait_for("the decisions on the console", || {
        let shown = running.decisions();
        (shown.len() >= decisions.len()).then_some(shown)
    });
    assert_eq!(decisions, shown[..decisions.len()], "all, in order");

    // The API returns the newest event first.
    let listed = door.json("/api/v1/events").unwrap();
    let listed: Vec<String> = listed
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .collect();
    let ids: Vec<String> = received.iter().map(Received::id).collect();
    assert_eq!(listed[..ids.len()], ids);

    // The receivers that fail say why.
    let failing = |name: &str, words: &str| {
        wait_for(&format!("{name}: {words}"), || {
            let record = door.receiver(name)?;
            let why = record["last_failure"].as_str()?;
            why.contains(words).then_some(record)
        })
    };
    let record = failing("silent", "does not answer within 300 ms");
    assert_eq!(record["delivered"], 0);
    assert!(record["waiting"].as_u64().unwrap() >= 4, "{record}");
    let first = &silent.received()[0];
    let message = first.json()["text"].as_str().unwrap().to_owned();
    assert!(message.contains(": "), "{message}");
    assert_eq!(first.header("webhook-signature"), "", "there is no key");
    failing("refused", "cannot be reached");
    failing("slow", "was killed because it ran for longer than 300 ms");
    let child = fs::read_to_string(door.at("children")).unwrap();
    let child = child.lines().next().unwrap().to_owned();
    wait_for("the end of its process group", || {
        (!is_running(&child)).then_some(())
    });
    let written = wait_for("the events of a program", || {
        let written = fs::read_to_string(door.at("written")).ok()?;
        (written.lines().count() >= 3).then_some(written)
    });
    for (line, id) in written.lines().zip(&ids) {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["id"], *id);
    }
    let arguments = fs::read_to_string(door.at("arguments")).unwrap();
    assert!(arguments.lines().all(|line| line == "a b"), "{arguments}");

    let metrics = door.get("/metrics").unwrap();
    for series in [
        "maskd_events_delivered_total{receiver=\"good\"}",
        "maskd_event_failures_total{receiver=\"refused\"}",
        "maskd_events_waiting{receiver=\"silent\"}",
    ] {
        assert!(metrics.contains(series), "{series}");
    }
    let status = text(&door.command(&["status"]).output().unwrap().stdout);
    assert!(status.contains("events      good: "), "{status}");
    assert!(status.contains("events      slow: 0 delivered"), "{status}");
    wait_for("the problem", || {
        let live = door.json("/api/v1/status")?["live"].clone();
        let problem = live["problems"]["events"].as_str()?;
        problem.starts_with("events do not reach ").then_some(())
    });
    // No address is shown anywhere.
    let everything = format!("{}{status}{metrics}", running.log());
    assert!(!everything.contains("Qx7Z9"), "{everything}");

    let check = door.command(&["check"]).output().unwrap();
    let report = text(&check.stdout);
    assert!(!check.status.success());
    for line in [
        format!(
            "ok   events       good at 127.0.0.1:{} can be reached",
            good.port
        ),
        "BAD  events       refused at 127.0.0.1:1 cannot be reached".to_owned(),
        "ok   events       writer can be started".to_owned(),
    ] {
        assert!(report.contains(&line), "{line}\n{report}");
    }
    running.stop();
}

#[test]
fn events_survive_a_kill_and_keep_their_ids() {
    let receiver = Receiver::start(false);
    let door = Door::new(
        PAUSING_CAMERA,
        &format!(
            "{STALE}[[events.webhook]]\nname = \"home\"\nurl = {:?}\ntime-limit-ms = 60000\n\
             [[events.exec]]\nname = \"nobody\"\ncommand = [\"/bin/true\"]\n\
             user = \"no such user\"\n",
            receiver.url()
        ),
    );
    let running = door.run();
    wait_for("three events on disk", || {
        (door.receiver("home")?["waiting"].as_u64()? >= 3).then_some(())
    });
    let ids: Vec<String> = wait_for("the list of events", || {
        let events = door.json("/api/v1/events")?;
        let ids = events.as_array()?.iter().rev();
        ids.map(|event| Some(event["id"].as_str()?.to_owned()))
            .collect()
    });
    let nobody = door.receiver("nobody").unwrap();
    let why = nobody["last_failure"].as_str().unwrap();
    assert!(
        why.contains("there is no such user on this device"),
        "{why}"
    );
    assert_eq!(nobody["delivered"], 0);
    // The receiver got the first event, but its answer never arrives.
    let first = wait_for("the first request", || receiver.received().first().cloned());
    assert_eq!(first.id(), ids[0]);
    running.kill();

    receiver.answers.store(true, Ordering::Relaxed);
    let running = door.run();
    let delivered = wait_for("the events again", || {
        let again: Vec<Received> = receiver.received().split_off(1);
        (again.len() > ids.len()).then_some(again)
    });
    let delivered: Vec<String> = delivered.iter().map(Received::id).collect();
    // The last events of the list may have happened after the last one that was saved.
    assert_eq!(delivered[..3], ids[..3], "in order, with their ids");
    let mut once = delivered.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), delivered.len(), "nothing was delivered twice");
    let log = running.stop();
    assert!(log.contains("events of an earlier run wait"), "{log}");
}

#[test]
fn a_lost_camera_is_told_and_does_not_end_programs() {
    let door = Door::new(
        "for i in 1 2 3 4 5 6; do cat FOLDER/frame.jpg; sleep 0.1; done; exit 3",
        "[[events.exec]]\nname = \"slow\"\ncommand = [\"FOLDER/slow\"]\n\
         events = [\"camera_lost\"]\nmax-running = 2\n",
    );
    // The camera program ends while the other program runs.
    door.script("slow", "sleep 2\ncat >> FOLDER/written");
    let running = door.run();
    let written = wait_for("the event of a program", || {
        let written = fs::read_to_string(door.at("written")).ok()?;
        written.ends_with('\n').then_some(written)
    });
    let event: Value = serde_json::from_str(written.lines().next().unwrap()).unwrap();
    assert_eq!(event["kind"], "camera_lost");
    assert!(!event["reason"].as_str().unwrap().is_empty(), "{event}");
    let events = door.json("/api/v1/events").unwrap();
    let kinds: Vec<&str> = events
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|event| event["kind"].as_str().unwrap())
        .filter(|kind| kind.starts_with("camera"))
        .collect();
    assert_eq!(kinds[..2], ["camera_lost", "camera_back"], "{kinds:?}");
    let record = door.receiver("slow").unwrap();
    assert_eq!(record["failed"], 0, "{record}");
    running.stop();
}
