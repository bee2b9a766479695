//! Tests `maskd run` with the real binary, pictures, camera programs and signals.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and measure time"
)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{assert_refused, frame, interrupt, maskd, run, text, wait};

/// Writes a config with which decisions follow the frames quickly.
fn quick(folder: &Path) -> std::path::PathBuf {
    let config = folder.join("quick.toml");
    let text = "[decide]\nconfirm-ms = 100\nhold-ms = 100\nstale-ms = 10000\n\
                [camera]\nstall-ms = 8000\n";
    fs::write(&config, text).unwrap();
    config
}

/// Writes a config with which the daemon soon gives up on a camera that hangs.
fn impatient(folder: &Path) -> std::path::PathBuf {
    let config = folder.join("impatient.toml");
    let text = "[decide]\nconfirm-ms = 100\nstale-ms = 1500\n[camera]\nstall-ms = 1000\n";
    fs::write(&config, text).unwrap();
    config
}

fn decisions(lines: &str) -> Vec<String> {
    let records = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    records
        .map(|record| record["decision"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_folder_becomes_decisions_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = folder.path().join("pictures");
    fs::create_dir(&pictures).unwrap();
    fs::copy(frame("maksssksksss128.jpg"), pictures.join("1-bare.jpg")).unwrap();
    image::RgbImage::new(320, 240)
        .save(pictures.join("2-nobody.png"))
        .unwrap();
    fs::copy(frame("maksssksksss10.jpg"), pictures.join("3-masked.jpg")).unwrap();
    fs::write(pictures.join("4-broken.jpg"), b"no picture").unwrap();
    let output = maskd()
        .args(["run", "--once", "--json", "--rate", "0.7", "--config"])
        .arg(quick(folder.path()))
        .arg("--source")
        .arg(&pictures)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let lines = text(&output.stdout);
    assert_eq!(decisions(&lines), ["no_mask", "idle", "mask"], "{lines}");
    for (index, line) in lines.lines().enumerate() {
        let change: Value = serde_json::from_str(line).unwrap();
        assert_eq!(change["change"], index as u64 + 1, "no change is lost");
        assert!(change["time"].as_f64().unwrap() > 1.7e9);
        assert!(change["frame"].is_u64());
    }
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(first["faces"][0]["verdict"], "without_mask");
    assert!(first["faces"][0]["track"].is_u64());
    let logs = text(&output.stderr);
    assert!(
        !logs.contains(pictures.to_str().unwrap()),
        "no path of a picture is logged: {logs}"
    );
}

#[test]
fn without_json_each_change_is_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let output = maskd()
        .args(["run", "--once", "--rate", "0.5", "--config"])
        .arg(quick(folder.path()))
        .arg("--source")
        .arg(frame("maksssksksss10.jpg"))
        .output()
        .unwrap();
    let lines = text(&output.stdout);
    assert!(lines.starts_with("mask     1 face: with_mask "), "{lines}");
    assert_eq!(lines.lines().count(), 1);
}

#[test]
fn signals_stop_all_threads_in_order_within_two_seconds() {
    for signal in ["-INT", "-TERM", "-QUIT"] {
        // Without a source, the daemon repeats the built-in examples endlessly.
        let mut child = maskd()
            .args(["run", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        out.read_line(&mut first).unwrap();
        assert_eq!(decisions(&first).len(), 1, "the examples show somebody");

        let asked = Instant::now();
        interrupt(&child, signal);
        assert_eq!(
            wait(&mut child, Duration::from_secs(2)),
            Some(0),
            "{signal}"
        );
        assert!(asked.elapsed() < Duration::from_secs(2));
        let mut logs = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut logs)
            .unwrap();
        let place = |word: &str| logs.find(word).unwrap_or_else(|| panic!("{word}: {logs}"));
        assert!(place("stopping") < place("no more frames"), "{logs}");
        assert!(place("no more frames") < place("stopped"), "{logs}");
        assert!(place("no more decisions") < place("stopped"), "{logs}");
    }
}

#[test]
fn a_program_that_writes_mjpeg_is_a_camera() {
    let folder = tempfile::tempdir().unwrap();
    let picture = frame("maksssksksss10.jpg");
    // The script imitates a camera with ten frames per second that is unplugged after
    // two seconds.
    let script = format!(
        "for i in $(seq 20); do cat '{}'; sleep 0.1; done",
        picture.display()
    );
    let script_file = folder.path().join("camera.sh");
    fs::write(&script_file, script).unwrap();
    let output = maskd()
        .args(["run", "--once", "--json", "--config"])
        .arg(quick(folder.path()))
        .arg("--source")
        .arg(format!("exec:sh '{}'", script_file.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(decisions(&text(&output.stdout)), ["mask"]);
}

#[test]
fn a_camera_that_fails_ends_a_mask_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    // The camera program fails after a few frames the first time, and works after the
    // daemon reconnects.
    let script = format!(
        "n=8; [ -e '{0}/again' ] && n=300; touch '{0}/again'\n\
         for i in $(seq $n); do cat '{1}'; sleep 0.1; done; exit 3",
        folder.path().display(),
        frame("maksssksksss10.jpg").display()
    );
    let script_file = folder.path().join("camera.sh");
    fs::write(&script_file, script).unwrap();
    let mut child = maskd()
        .args(["run", "--json", "--config"])
        .arg(quick(folder.path()))
        .arg("--source")
        .arg(format!("exec:sh '{}'", script_file.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let seen: Vec<String> = lines
        .take(3)
        .map(|line| decisions(&line.unwrap())[0].clone())
        .collect();
    interrupt(&child, "-TERM");
    assert_eq!(wait(&mut child, Duration::from_secs(2)), Some(0));
    assert_eq!(seen, ["mask", "idle", "mask"], "it is no fault yet");
    let mut logs = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut logs)
        .unwrap();
    assert_eq!(
        logs.matches("camera lost").count(),
        1,
        "once a change: {logs}"
    );
    assert_eq!(
        logs.matches("camera reconnected").count(),
        1,
        "once a change: {logs}"
    );
}

#[test]
fn a_camera_that_hangs_is_a_fault_and_does_not_delay_the_stop() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "for i in 1 2 3 4 5 6; do cat '{}'; sleep 0.1; done; sleep 1000",
        frame("maksssksksss10.jpg").display()
    );
    let script_file = folder.path().join("camera.sh");
    fs::write(&script_file, script).unwrap();
    let mut child = maskd()
        .args(["run", "--json", "--config"])
        .arg(impatient(folder.path()))
        .arg("--source")
        .arg(format!("exec:sh '{}'", script_file.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let seen: Vec<String> = lines
        .take(2)
        .map(|line| decisions(&line.unwrap())[0].clone())
        .collect();
    assert_eq!(seen, ["mask", "fault"]);
    interrupt(&child, "-INT");
    assert_eq!(wait(&mut child, Duration::from_secs(2)), Some(0));
}

#[test]
fn missing_sources_are_reported() {
    let output = run(&["run", "--log", "error", "--source", "nowhere"]);
    assert_refused(&output, 66, "nowhere");
    let output = run(&[
        "run",
        "--log",
        "error",
        "--source",
        "exec:no-such-camera-program -x",
    ]);
    assert_refused(&output, 69, "no-such-camera-program");
    let folder = tempfile::tempdir().unwrap();
    let output = run(&[
        "run",
        "--log",
        "error",
        "--source",
        folder.path().to_str().unwrap(),
    ]);
    assert_refused(&output, 66, "picture");
}

#[test]
fn a_network_camera_that_is_off_does_not_end_the_daemon() {
    // No program listens on port 9 of this machine.
    let mut child = maskd()
        .args([
            "run",
            "--json",
            "--source",
            "http://user:secret@127.0.0.1:9/x",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    assert_eq!(decisions(&first), ["fault"]);
    interrupt(&child, "-TERM");
    assert_eq!(wait(&mut child, Duration::from_secs(2)), Some(0));
    let mut logs = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut logs)
        .unwrap();
    assert!(
        logs.contains("127.0.0.1:9") && !logs.contains("secret"),
        "{logs}"
    );
}

#[test]
fn systemd_is_notified_of_readiness_life_and_stop() {
    let folder = tempfile::tempdir().unwrap();
    let address = folder.path().join("notify");
    let socket = UnixDatagram::bind(&address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut child = maskd()
        .args(["run", "--json"])
        .env("NOTIFY_SOCKET", &address)
        .env("WATCHDOG_USEC", "400000")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let message = || {
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).unwrap();
        text(&bytes[..length])
    };
    assert_eq!(message(), "READY=1\n");
    for _ in 0..3 {
        assert_eq!(message(), "WATCHDOG=1\n");
    }
    interrupt(&child, "-TERM");
    let mut last = message();
    while last == "WATCHDOG=1\n" {
        last = message();
    }
    assert_eq!(last, "STOPPING=1\n");
    assert_eq!(wait(&mut child, Duration::from_secs(2)), Some(0));
}

#[test]
fn the_watchdog_is_not_fed_without_decisions() {
    let folder = tempfile::tempdir().unwrap();
    let address = folder.path().join("notify");
    let socket = UnixDatagram::bind(&address).unwrap();
    let config = folder.path().join("maskd.toml");
    // The source sends nothing and has a long timeout.
    fs::write(
        &config,
        "[camera]\nstall-ms = 60000\n[decide]\nstale-ms = 500\n",
    )
    .unwrap();
    let mut child = maskd()
        .args(["run", "--json", "--source", "exec:sleep 60", "--config"])
        .arg(&config)
        .env("NOTIFY_SOCKET", &address)
        .env("WATCHDOG_USEC", "200000")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    assert_eq!(decisions(&first), ["fault"]);
    // Skip the notifications that were sent before the fault.
    socket.set_nonblocking(true).unwrap();
    let mut bytes = [0; 256];
    while socket.recv(&mut bytes).is_ok() {}
    std::thread::sleep(Duration::from_millis(700));
    assert!(socket.recv(&mut bytes).is_err(), "no sign of life");
    interrupt(&child, "-TERM");
    assert_eq!(wait(&mut child, Duration::from_secs(2)), Some(0));
}

#[test]
fn logs_for_the_journal_begin_with_the_level() {
    let folder = tempfile::tempdir().unwrap();
    let output = maskd()
        .args(["run", "--once", "--rate", "1", "--config"])
        .arg(quick(folder.path()))
        .arg("--source")
        .arg(frame("maksssksksss10.jpg"))
        .env("JOURNAL_STREAM", "1:2")
        .output()
        .unwrap();
    let logs = text(&output.stderr);
    assert!(
        logs.lines().any(|line| line.starts_with("<6>ready")),
        "{logs}"
    );
    assert!(logs.lines().all(|line| line.starts_with('<')), "{logs}");
}

#[test]
fn a_log_that_cannot_be_written_does_not_end_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = maskd()
        .args(["run", "--once", "--json", "--rate", "0.5", "--config"])
        .arg(quick(folder.path()))
        .arg("--source")
        .arg(frame("maksssksksss10.jpg"))
        .stderr(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(decisions(&text(&output.stdout)), ["mask"]);
}

#[test]
fn a_stop_ends_all_processes_of_a_camera_program() {
    let folder = tempfile::tempdir().unwrap();
    let script_file = folder.path().join("camera.sh");
    let left = folder.path().join("left");
    // The script starts a background process that ignores the signals.
    let script = format!(
        "(trap '' TERM HUP INT; while :; do touch '{0}'; sleep 0.1; done) &\n\
         while :; do cat '{1}'; sleep 0.1; done",
        left.display(),
        frame("maksssksksss10.jpg").display()
    );
    fs::write(&script_file, script).unwrap();
    for signal in ["-TERM", "-QUIT"] {
        let mut child = maskd()
            .args(["run", "--json", "--config"])
            .arg(quick(folder.path()))
            .arg("--source")
            .arg(format!("exec:sh '{}'", script_file.display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut first = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut first).unwrap();
        interrupt(&child, signal);
        assert_eq!(wait(&mut child, Duration::from_secs(2)), Some(0));
        fs::remove_file(&left).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        assert!(!left.exists(), "{signal}: it still runs");
    }
}

#[test]
fn a_camera_program_that_fails_is_an_error_with_once() {
    let output = run(&["run", "--once", "--log", "error", "--source", "exec:false"]);
    assert_refused(&output, 69, "ended with exit status 1");
}

#[test]
fn passwords_are_neither_printed_nor_logged() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("maskd.toml");
    fs::write(&config, "[camera]\nsource = \"rtsp://me:secret@cam/v\"\n").unwrap();
    let config = config.to_str().unwrap();
    for arguments in [
        &["run", "--config", config][..],
        &["check", "--config", config],
        &["run", "--source", "ftp://me:secret@cam/v"],
    ] {
        let output = run(arguments);
        assert!(!output.status.success());
        let all = text(&output.stdout) + &text(&output.stderr);
        assert!(all.contains("cam") && !all.contains("secret"), "{all}");
    }
}

#[test]
fn a_watchdog_period_of_zero_is_ignored() {
    let output = maskd()
        .args(["run", "--once", "--rate", "5", "--source"])
        .arg(frame("maksssksksss10.jpg"))
        .env("WATCHDOG_USEC", "0")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}
