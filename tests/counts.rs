//! Tests the counts of passages and statistics mode of a running daemon.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and measure time"
)]

#[path = "support/broker.rs"]
mod broker;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use broker::{Broker, Ear, free_port};
use image::RgbImage;
use serde_json::Value;
use support::requests::{ask, get, get_json, request};
use support::{Device, Running, assert_refused, frame, maskd, text, wait, wait_for};

/// A picture with one masked face, and a picture with one unmasked face.
const MASKED: &str = "maksssksksss120.jpg";
const UNMASKED: &str = "maksssksksss128.jpg";

/// Frames per second of the films.
const RATE: &str = "5";

/// Makes a folder of pictures: each of these files for so many frames. `None` is an empty
/// room.
fn film(folder: &Path, scenes: &[(Option<&str>, usize)]) {
    fs::create_dir(folder).unwrap();
    let empty = folder.join("../empty.jpg");
    let room = RgbImage::from_fn(301, 400, |x, y| {
        image::Rgb([(x / 2) as u8, (y / 3) as u8, 90])
    });
    room.save(&empty).unwrap();
    let mut number = 0;
    for (scene, frames) in scenes {
        let picture = scene.map_or(empty.clone(), frame);
        for _ in 0..*frames {
            fs::copy(&picture, folder.join(format!("{number:04}.jpg"))).unwrap();
            number += 1;
        }
    }
}

/// Waits for the JSON that the daemon returns.
#[track_caller]
fn json(socket: &Path, path: &str) -> Value {
    wait_for(path, || get_json(socket, path))
}

fn device(config: &str) -> Device {
    let device = Device::new();
    fs::write(device.at("maskd.toml"), config).unwrap();
    device
}

/// Runs the daemon on a source. `more` are options such as `--once`.
fn run(device: &Device, source: &Path, more: &[&str]) -> Running {
    let mut command = maskd();
    command.args(["run", "--rate", RATE, "--config"]);
    command.arg(device.at("maskd.toml")).args(more);
    command.arg("--state").arg(device.at("state"));
    command.arg("--source").arg(source);
    Running::start(command, device.folder.path())
}

/// Waits until the film is over.
#[track_caller]
fn wait_for_end(running: &mut Running) {
    let code = wait(&mut running.child, Duration::from_mins(2));
    assert_eq!(code, Some(0), "{}", running.log());
}

fn counts(device: &Device, words: &[&str]) -> String {
    let config = device.at("maskd.toml");
    device.stdout(&[&["counts", "--config", config.to_str().unwrap()], words].concat())
}

/// Returns the masked, the unmasked, and the unsure passages.
fn numbers(record: &Value) -> [u64; 3] {
    ["masked", "unmasked", "unsure"].map(|name| record[name].as_u64().unwrap())
}

#[test]
fn people_are_counted_and_the_counts_survive_a_kill() {
    let device = device("[counts]\nenabled = true\n");
    let reel = device.at("film");
    // The second person comes when the first one has been gone for longer than a visit lasts.
    let scenes = [
        (Some(MASKED), 12),
        (None, 14),
        (Some(UNMASKED), 12),
        (None, 3),
    ];
    film(&reel, &scenes);
    wait_for_end(&mut run(&device, &reel, &["--once"]));
    let record: Value = serde_json::from_str(&counts(&device, &["--json"])).unwrap();
    assert_eq!(numbers(&record["total"]), [1, 1, 0], "{record}");
    assert_eq!(record.get("rounding"), None);
    let csv = counts(&device, &["--csv", "--by", "day"]);
    assert!(
        csv.starts_with("start,masked,unmasked,unsure\r\n20"),
        "{csv}"
    );
    assert!(
        counts(&device, &[]).contains("\ntotal                     1"),
        "a table"
    );
    let none = counts(&device, &["--csv", "--to", "2026-01-01"]);
    assert_eq!(none.lines().count(), 1, "{none}");
    let wrong = device.maskd(&["counts", "--from", "yesterday"]);
    assert_refused(&wrong, 64, "is not a time");

    // A running daemon has the same counts, and adds to them.
    let still = device.at("still");
    film(&still, &[(None, 1)]);
    let socket = device.at("state/control.sock");
    let running = run(&device, &still, &[]);
    let of_daemon = wait_for("the counts", || {
        let (status, _, body) = get(&socket, "/api/v1/counts", "")?;
        let record: Value = serde_json::from_slice(&body).ok()?;
        (status == 200 && record["total"]["masked"] == 1).then_some(record)
    });
    assert_eq!(of_daemon["rows"], record["rows"]);
    let (_, head, body) = get(&socket, "/api/v1/counts?by=day", "accept: text/csv\r\n").unwrap();
    assert!(head.contains("text/csv"), "{head}");
    assert_eq!(text(&body), csv);
    let (_, head, _) = get(
        &socket,
        "/api/v1/counts?format=json",
        "accept: text/csv\r\n",
    )
    .unwrap();
    assert!(head.contains("application/json"), "{head}");
    for path in ["from=never", "by=week", "format=xml", "since=2026-11-30"] {
        let (status, ..) = get(&socket, &format!("/api/v1/counts?{path}"), "").unwrap();
        assert_eq!(status, 400, "{path}");
    }
    let today = &json(&socket, "/api/v1/status")["passages_today"];
    assert!(today.is_object(), "{today}");
    assert!(
        counts(&device, &["--csv", "--by", "day"]) == csv,
        "through the daemon"
    );
    let metrics = text(&get(&socket, "/metrics", "").unwrap().2);
    assert!(
        metrics.contains("maskd_passages_total{outcome=\"masked\"} 0\n"),
        "{metrics}"
    );
    running.kill();
    assert_eq!(counts(&device, &["--csv", "--by", "day"]), csv);

    a_damaged_file_is_set_aside(&device, &reel);
}

/// Damages the counts and plays the film again.
fn a_damaged_file_is_set_aside(device: &Device, reel: &Path) {
    let files: Vec<PathBuf> = fs::read_dir(device.at("state/counts"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "counts")
        })
        .collect();
    assert!(!files.is_empty());
    for file in &files {
        let content = fs::read_to_string(file).unwrap();
        fs::write(file, &content[..content.len() - 9]).unwrap();
    }
    let mut again = run(device, reel, &["--once"]);
    wait_for_end(&mut again);
    assert!(again.log().contains("is damaged"), "{}", again.log());
    let record: Value = serde_json::from_str(&counts(device, &["--json"])).unwrap();
    assert_eq!(numbers(&record["total"]), [1, 1, 0], "{record}");
}

#[test]
fn without_counting_there_are_no_counts() {
    let device = device("");
    let still = device.at("still");
    film(&still, &[(None, 1)]);
    let running = run(&device, &still, &[]);
    let socket = device.at("state/control.sock");
    let answer = json(&socket, "/api/v1/counts");
    assert!(
        answer["error"].as_str().unwrap().contains("counts.enabled"),
        "{answer}"
    );
    let status = json(&socket, "/api/v1/status");
    assert_eq!(status.get("passages_today"), None);
    running.stop();
    assert!(!device.at("state/counts").exists());
}

/// Everything that the daemon says about the people in front of the camera, in one text.
/// Values that do not depend on people are removed.
fn said(socket: &Path, page: &str) -> Option<BTreeSet<String>> {
    let mut said = BTreeSet::new();
    for path in ["/api/v1/status", "/api/v1/counts", "/api/v1/samples"] {
        let (_, _, body) = get(socket, path, "")?;
        let mut record: Value = serde_json::from_slice(&body).ok()?;
        if let Some(live) = record.get_mut("live") {
            live["board"].take();
            live["retention"].take();
        }
        said.insert(format!("{path}: {record}"));
    }
    let (_, _, body) = get(socket, "/metrics", "")?;
    for line in text(&body).lines() {
        let is_about_the_device = ["board", "clock_synchronized", "healthy"];
        if !is_about_the_device.iter().any(|word| line.contains(word)) {
            said.insert(line.to_owned());
        }
    }
    let live = ask(
        TcpStream::connect(page).ok()?,
        &request("GET", "/api/v1/live", "", ""),
    )?;
    let mut live: Value = serde_json::from_slice(&live.2).ok()?;
    live["board"].take();
    live["retention"].take();
    said.insert(format!("live: {live}"));
    Some(said)
}

/// All files in a folder and below it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Checks that nothing can turn pictures on.
fn pictures_are_refused(device: &Device, socket: &Path, page: &str) {
    let enroll = device.maskd(&["enroll", "with_mask", "--count", "1"]);
    assert_refused(&enroll, 75, "statistics mode");
    let body = "{\"capture\": true}";
    let header = "content-type: application/json\r\n";
    let change = request("PATCH", "/api/v1/settings", header, body);
    let (status, _, body) = ask(UnixStream::connect(socket).unwrap(), &change).unwrap();
    assert_eq!(status, 400, "{}", text(&body));
    let picture = request("GET", "/api/v1/live/picture", "", "");
    let (status, _, body) = ask(TcpStream::connect(page).unwrap(), &picture).unwrap();
    assert_eq!((status, body.len()), (204, 0), "no live picture");
}

/// Checks all messages to the broker.
fn check_messages(ear: &Ear) {
    let states = ear.all("maskd/door/state");
    assert!(!states.is_empty());
    for state in states {
        let state: Value = serde_json::from_slice(&state).unwrap();
        assert_eq!(
            (&state["faces"], &state["decision"]),
            (&0.into(), &"idle".into())
        );
    }
    for topic in ear.topics() {
        for payload in ear.all(&topic) {
            assert!(!contains(&payload, b"\xff\xd8\xff"), "{topic}");
        }
    }
}

/// Checks the files in the state directory, and what the commands print.
fn check_state(device: &Device) {
    // Two people in an hour are withheld, so there is no file with counts either.
    let stored = files(&device.at("state"));
    for path in &stored {
        let content = fs::read(path).unwrap();
        for (kind, start) in [("JPEG", &b"\xff\xd8\xff"[..]), ("PNG", b"\x89PNG")] {
            assert!(
                !contains(&content, start),
                "{} has a {kind}",
                path.display()
            );
        }
        let path = path.strip_prefix(device.at("state")).unwrap();
        let is_sample = path.starts_with("samples") && path.file_name().unwrap() != ".lock";
        let is_count = path
            .extension()
            .is_some_and(|extension| extension == "counts");
        assert!(!is_sample && !is_count, "{}", path.display());
    }
    assert!(counts(device, &[]).contains("statistics mode: hours with fewer than 10"));
    let record: Value = serde_json::from_str(&counts(device, &["--json"])).unwrap();
    assert_eq!(numbers(&record["total"]), [0; 3]);
    let config = device.at("maskd.toml");
    let privacy = ["privacy", "--config", config.to_str().unwrap()];
    let shown = device.stdout(&privacy);
    assert!(
        shown.contains("CAMERA IN USE") && !shown.contains("live picture"),
        "{shown}"
    );
    assert!(device.json(&privacy)["stored"].is_array());
}

#[test]
fn statistics_mode_tells_nothing_about_a_single_person() {
    let port = free_port();
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start_at(folder.path(), port, "");
    let ear = broker.as_ref().map(|_| Ear::listen(port));
    let mqtt = ear.as_ref().map_or(String::new(), |_| broker::config(port));
    // The pins would be an error on a machine without them, but they are not used.
    let device = device(&format!(
        "mode = \"count\"\n[web]\nlisten = \"127.0.0.1:0\"\n[decide]\nconfirm-ms = 0\n\
         stale-ms = 60000\n[indicate]\ngreen-pin = 17\nbackend = \"gpiocdev\"\n\
         gpio-chip = \"no-such-chip\"\n{mqtt}"
    ));
    let reel = device.at("film");
    let scenes = [
        (None, 10),
        (Some(MASKED), 10),
        (Some(UNMASKED), 10),
        (None, 25),
    ];
    film(&reel, &scenes);
    let mut running = run(&device, &reel, &["--once"]);
    let socket = device.at("state/control.sock");
    let page = wait_for("the page", || {
        let log = running.log();
        let (_, rest) = log.split_once("the page is at http://")?;
        Some(rest.lines().next()?.trim().to_owned())
    });
    // The first frame has been processed when its number is published.
    wait_for("the first frame", || {
        let (_, _, body) = get(&socket, "/api/v1/status", "")?;
        let status: Value = serde_json::from_slice(&body).ok()?;
        (status["live"]["frames"].as_u64()? > 0).then_some(())
    });
    // The broker may still be found, and the disk opened.
    std::thread::sleep(Duration::from_millis(500));
    let at_first = said(&socket, &page).unwrap();
    pictures_are_refused(&device, &socket, &page);

    // Whatever passes, the daemon says the same.
    let start = Instant::now();
    let mut times = 0;
    while running.child.try_wait().unwrap().is_none() {
        if let Some(now) = said(&socket, &page) {
            let new: Vec<_> = now.symmetric_difference(&at_first).collect();
            assert!(new.is_empty(), "{new:#?}");
            times += 1;
        }
        assert!(start.elapsed() < Duration::from_mins(2));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(times > 5, "the film was watched {times} times");
    if let Some(ear) = ear {
        check_messages(&ear);
    }
    let out = fs::read_to_string(device.at("out")).unwrap();
    assert!(out.lines().all(|line| line.trim() == "idle"), "{out}");
    let log = running.log();
    assert!(
        !log.contains("faces=") && !log.contains("decision changed"),
        "{log}"
    );

    check_state(&device);
}
