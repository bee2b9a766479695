//! Tests what `maskd check`, `maskd run`, and `maskd status` say about the address of the page.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and need threads"
)]

mod support;

use std::net::TcpListener;

use serde_json::Value;
use support::door::Door;
use support::{text, wait_for};

const CAMERA: &str = "while cat FOLDER/frame.jpg; do sleep 0.2; done";

/// A device whose page has this address, which only this machine can reach.
fn door(listen: &str) -> Door {
    Door::new(CAMERA, &format!("[web]\nlisten = \"{listen}\"\n"))
}

/// Returns the exit code of the check, and its line about a subject.
fn check(door: &Door, subject: &str) -> (Option<i32>, String) {
    let output = door.command(&["check"]).output().unwrap();
    let report = text(&output.stdout);
    let mut lines = report.lines();
    let line = lines.find(|line| line.split_whitespace().nth(1) == Some(subject));
    (output.status.code(), line.unwrap().to_owned())
}

#[test]
fn the_check_reports_an_address_that_the_device_lacks() {
    let door = Door::new(
        CAMERA,
        "[web]\nlisten = \"192.0.2.1:8099\"\ntoken-hashes = \
         [\"0000000000000000000000000000000000000000000000000000000000000000\"]\n",
    );
    let (exit, line) = check(&door, "page");
    assert_ne!(exit, Some(0));
    assert!(
        line.starts_with("BAD") && line.contains("cannot listen on 192.0.2.1:8099"),
        "{line}"
    );
    assert!(
        line.contains("this device does not have this address; set web.listen to 0.0.0.0:8099"),
        "{line}"
    );
}

#[test]
fn the_check_reports_a_port_that_another_program_uses() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let door = door(&format!("127.0.0.1:{port}"));
    let sentence = format!(
        "cannot listen on 127.0.0.1:{port}: another program uses this port; stop it, or set \
         web.listen to another port"
    );
    let (exit, line) = check(&door, "page");
    assert_ne!(exit, Some(0));
    assert!(
        line.starts_with("BAD") && line.ends_with(&sentence),
        "{line}"
    );

    // The daemon says the same, and the check still reports the port while it runs.
    let running = door.run();
    wait_for("the problem", || {
        running.log().contains(&sentence).then_some(())
    });
    let (_, line) = check(&door, "page");
    assert!(line.starts_with("BAD"), "{line}");
    drop(other);
    wait_for("the page", || {
        running.log().contains("the page is at").then_some(())
    });
    running.stop();
}

#[test]
fn the_page_of_the_running_daemon_is_shown_and_is_no_problem() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let door = door(&format!("127.0.0.1:{port}"));
    let url = format!("http://127.0.0.1:{port}/");
    assert!(check(&door, "page").1.starts_with("ok"));
    let running = door.run();
    wait_for("the page", || {
        running.log().contains("the page is at").then_some(())
    });
    let (_, line) = check(&door, "page");
    assert!(line.starts_with("ok") && line.contains(&url), "{line}");
    let status = door.command(&["status"]).output().unwrap();
    let shown = text(&status.stdout);
    assert!(shown.contains(&format!("page        {url}\n")), "{shown}");
    let status = door.command(&["status", "--json"]).output().unwrap();
    let json: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(json["page"], url);
    running.stop();
}

#[test]
fn the_check_uses_the_limit_of_the_config_for_the_disk() {
    let limit = |mib: u32| Door::new(CAMERA, &format!("[events]\nmin-free-mib = {mib}\n"));
    let (_, line) = check(&limit(0), "state");
    assert!(line.starts_with("ok"), "{line}");
    let free = rustix::fs::statvfs(std::env::temp_dir().as_path()).unwrap();
    if free.f_bavail.saturating_mul(free.f_frsize) >> 20 >= 100_000 {
        eprintln!("SKIPPED: more than 100000 MiB are free");
        return;
    }
    let (exit, line) = check(&limit(100_000), "state");
    assert_ne!(exit, Some(0));
    assert!(
        line.starts_with("BAD") && line.contains("events.min-free-mib is 100000: delete files"),
        "{line}"
    );
}
