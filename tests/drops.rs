//! Tests `maskd run` with network cameras that drop their connections, and with pictures
//! that have too many faces to classify in time. The camera is a server on the loopback
//! interface.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and need threads and time"
)]

#[path = "support/broker.rs"]
mod broker;
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use broker::{Broker, Ear};
use image::RgbImage;
use serde_json::Value;
use support::{frame, interrupt, maskd, text, wait};

const MASKED: &str = "maksssksksss10.jpg";
const BARE: &str = "maksssksksss128.jpg";

/// Time between two frames.
const INTERVAL: Duration = Duration::from_millis(100);

/// A camera that sends an MJPEG stream.
struct StreamCamera {
    port: u16,
    connections: Arc<AtomicUsize>,
    /// The time at which the last connection was closed.
    closed: Arc<Mutex<Option<SystemTime>>>,
    is_on: Arc<AtomicBool>,
}

impl StreamCamera {
    /// Starts a camera. For each connection, it sends `frames(number)`, where `number` is
    /// the number of the connection, counted from 0. Then it closes the connection.
    fn start(frames: impl Fn(usize) -> Vec<&'static str> + Send + 'static) -> StreamCamera {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let camera = StreamCamera {
            port: listener.local_addr().unwrap().port(),
            connections: Arc::default(),
            closed: Arc::default(),
            is_on: Arc::new(AtomicBool::new(true)),
        };
        let connections = Arc::clone(&camera.connections);
        let closed = Arc::clone(&camera.closed);
        let is_on = Arc::clone(&camera.is_on);
        thread::spawn(move || {
            while is_on.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                };
                let number = connections.fetch_add(1, Ordering::Relaxed);
                // The client may have closed the connection.
                let _ = send(stream, &frames(number), &is_on);
                *closed.lock().unwrap() = Some(SystemTime::now());
            }
        });
        camera
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/stream", self.port)
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Closes the connection and refuses new connections.
    fn turn_off(&self) {
        self.is_on.store(false, Ordering::Relaxed);
    }
}

impl Drop for StreamCamera {
    fn drop(&mut self) {
        self.turn_off();
    }
}

fn send(mut stream: TcpStream, frames: &[&str], is_on: &AtomicBool) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    let mut request = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while request.read_line(&mut line)? > 2 {
        line.clear();
    }
    stream.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n",
    )?;
    for name in frames {
        if !is_on.load(Ordering::Relaxed) {
            break;
        }
        let jpeg = fs::read(frame(name))?;
        let head = format!(
            "--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n",
            jpeg.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(&jpeg)?;
        stream.write_all(b"\r\n")?;
        thread::sleep(INTERVAL);
    }
    Ok(())
}

/// A decision and its time in seconds since 1970.
type Change = (String, f64);

/// Runs the daemon until `is_over` returns true, and returns its decisions.
fn watch(config: &str, source: &str, mut is_over: impl FnMut(&[Change]) -> bool) -> Vec<Change> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("maskd.toml");
    fs::write(&file, config).unwrap();
    let mut child = maskd()
        .args(["run", "--json", "--log", "debug", "--config"])
        .arg(&file)
        .arg("--state")
        .arg(folder.path().join("state"))
        .args(["--source", source])
        .stdout(Stdio::piped())
        .stderr(fs::File::create(folder.path().join("log")).unwrap())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let changes: Arc<Mutex<Vec<Change>>> = Arc::default();
    let reader = thread::spawn({
        let changes = Arc::clone(&changes);
        move || {
            for line in lines {
                let record: Value = serde_json::from_str(&line.unwrap()).unwrap();
                let decision = record["decision"].as_str().unwrap().to_owned();
                let time = record["time"].as_f64().unwrap();
                changes.lock().unwrap().push((decision, time));
            }
        }
    });
    let start = Instant::now();
    while !is_over(&changes.lock().unwrap()) {
        assert!(
            start.elapsed() < Duration::from_mins(2),
            "{:?}: {}",
            changes.lock().unwrap(),
            fs::read_to_string(folder.path().join("log")).unwrap()
        );
        thread::sleep(Duration::from_millis(20));
    }
    interrupt(&child, "-TERM");
    assert_eq!(wait(&mut child, Duration::from_secs(5)), Some(0));
    reader.join().unwrap();
    Arc::into_inner(changes).unwrap().into_inner().unwrap()
}

fn names(changes: &[Change]) -> Vec<&str> {
    changes.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn a_bad_first_frame_after_each_reconnect_never_opens_the_door() {
    // One or two bad frames are not enough to open the door.
    let camera = StreamCamera::start(|number| {
        let mut frames = vec![MASKED; 1 + number % 2];
        frames.resize(12, BARE);
        frames
    });
    let config = "[decide]\nstale-ms = 500\nhold-ms = 300\nconfirm-ms = 0\n";
    let changes = watch(config, &camera.url(), |_| camera.connections() > 6);
    let names = names(&changes);
    assert!(!names.contains(&"mask"), "{names:?}");
    assert!(names.contains(&"no_mask"), "{names:?}");
}

#[test]
fn short_losses_of_a_camera_change_nothing() {
    let camera = StreamCamera::start(|_| vec![MASKED; 16]);
    // The hold time is longer than the default, because the machine may be busy.
    let config = "[decide]\nhold-ms = 6000\nstale-ms = 20000\n";
    let changes = watch(config, &camera.url(), |_| camera.connections() > 4);
    assert_eq!(names(&changes), ["mask"]);
}

#[test]
fn short_losses_of_a_camera_are_no_news_for_home_assistant() {
    let folder = tempfile::tempdir().unwrap();
    let Some(broker) = Broker::start(folder.path(), "") else {
        return;
    };
    let ear = Ear::listen(broker.port);
    let camera = StreamCamera::start(|_| vec![MASKED; 16]);
    let config = format!(
        "[decide]\nhold-ms = 6000\nstale-ms = 20000\n{}",
        broker::config(broker.port)
    );
    let mut seen: Vec<(String, String)> = Vec::new();
    watch(&config, &camera.url(), |_| {
        if let Some(state) = ear.json("maskd/door/state") {
            let word = |key: &str| state[key].as_str().unwrap().to_owned();
            let state = (word("decision"), word("problem"));
            if seen.last() != Some(&state) {
                seen.push(state);
            }
        }
        camera.connections() > 4
    });
    let seen: Vec<(&str, &str)> = seen
        .iter()
        .map(|(decision, problem)| (decision.as_str(), problem.as_str()))
        .collect();
    let masked = seen.iter().position(|state| *state == ("mask", "OFF"));
    assert_eq!(seen[masked.unwrap()..], [("mask", "OFF")], "{seen:?}");
    assert!(
        !seen.iter().any(|(_, problem)| *problem == "ON"),
        "{seen:?}"
    );
}

#[test]
fn a_camera_that_stays_away_ends_a_mask_and_later_is_a_fault() {
    let camera = StreamCamera::start(|_| vec![MASKED; 600]);
    let config = "[decide]\nhold-ms = 800\nstale-ms = 3000\n";
    let changes = watch(config, &camera.url(), |changes| {
        if !changes.is_empty() {
            camera.turn_off();
        }
        changes.iter().any(|(name, _)| name == "fault")
    });
    assert_eq!(names(&changes), ["mask", "idle", "fault"]);
    let closed = camera.closed.lock().unwrap().unwrap();
    let closed = closed.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    // The last frame was sent one interval before the connection was closed.
    let since = |index: usize| changes[index].1 - closed.as_secs_f64() + INTERVAL.as_secs_f64();
    assert!(since(1) < 3.0, "the mask ended with the hold time");
    assert!(since(2) > 2.9, "{}", since(2));
}

/// Writes a picture that shows the same masked person `count` times.
fn crowd(path: &Path, count: u32) {
    let one = image::open(frame(MASKED)).unwrap().into_rgb8();
    let (width, height) = one.dimensions();
    let columns = 3;
    let mut all = RgbImage::new(width * columns, height * count.div_ceil(columns));
    for index in 0..count {
        let (column, row) = (index % columns, index / columns);
        let (x, y) = (i64::from(column * width), i64::from(row * height));
        image::imageops::replace(&mut all, &one, x, y);
    }
    all.save(path).unwrap();
}

#[test]
fn more_faces_than_there_is_time_for_are_unsure_and_no_fault() {
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("crowd.png");
    crowd(&picture, 6);
    let decisions = |time_limit: u32| {
        let config = folder.path().join("maskd.toml");
        let keys = format!(
            "[camera]\nplayback-fps = 0.5\n[detect]\ninput-size = 1280\n\
             [classify]\nthreads = 1\ntime-limit-ms = {time_limit}\n\
             [decide]\nstale-ms = 60000\n"
        );
        fs::write(&config, keys).unwrap();
        let output = maskd()
            .args(["run", "--once", "--json", "--config"])
            .arg(&config)
            .arg("--source")
            .arg(&picture)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let lines = text(&output.stdout);
        let records = lines.lines().map(|line| {
            let record: Value = serde_json::from_str(line).unwrap();
            record["decision"].as_str().unwrap().to_owned()
        });
        (records.collect::<Vec<_>>(), text(&output.stderr))
    };
    let (enough, log) = decisions(60_000);
    assert_eq!(enough, ["mask"], "{log}");
    let (too_little, log) = decisions(10);
    assert_eq!(too_little, ["unsure"], "{log}");
    let told = log
        .matches("there is no time to classify all faces")
        .count();
    assert_eq!(told, 1, "{log}");
}
