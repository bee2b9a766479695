//! Tests `maskd run` with the real binary, pictures, camera programs, and signals.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and measure time"
)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{ServiceManager, assert_refused, frame, interrupt, maskd, run, text, wait};

/// Writes a config that makes decisions follow the frames quickly.
fn quick(folder: &Path) -> std::path::PathBuf {
    let config = folder.join("quick.toml");
    let text = "[decide]\nconfirm-ms = 100\nhold-ms = 100\nstale-ms = 10000\n\
                [camera]\nstall-ms = 8000\n";
    fs::write(&config, text).unwrap();
    config
}

/// Writes a config that makes the daemon quickly give up on a camera that hangs.
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
    // The script imitates a camera that sends ten frames per second and is unplugged after
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
fn a_decision_plays_its_sound_and_the_status_shows_times_and_a_broken_program() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let picture = frame("maksssksksss10.jpg");
    let (config, played) = (at("maskd.toml"), at("played"));
    let text_of_config = format!(
        "[camera]\nsource = {picture:?}\nplayback-fps = 10.0\n[decide]\nconfirm-ms = 100\n\
         [sound]\nmask = \"welcome.wav\"\nunsure = \"welcome.wav\"\nvolume = 70\nprogram = [\"sh\", \"-c\", \
         \"echo $1 $2 >> '{}'; echo no card >&2; exit 3\", \"sh\", \"{{file}}\", \"{{volume}}\"]\n\
         [times]\ncapture = [\"00:00-24:00\"]\n",
        played.display()
    );
    fs::write(&config, text_of_config).unwrap();
    let with_files = |word: &str| {
        let mut command = maskd();
        command.args([word, "--json", "--config"]).arg(&config);
        command.arg("--state").arg(at("state"));
        command
    };
    let daemon = support::Running::start(with_files("run"), folder.path());
    let status = support::wait_for("a problem with the sound", || {
        let output = with_files("status").output().unwrap();
        let mut status: Value = serde_json::from_slice(&output.stdout).ok()?;
        let status = status["live"].take();
        status["problems"]["sound"].is_string().then_some(status)
    });
    let problem = status["problems"]["sound"].as_str().unwrap();
    // On a slow machine, the decision is unsure at first.
    let is_expected = problem.starts_with("the sound for the decision ")
        && problem.ends_with(" cannot be played with sh: it failed (exit status: 3): no card");
    assert!(is_expected, "{problem}");
    let played = fs::read_to_string(played).unwrap();
    assert!(
        played.lines().all(|line| line == "welcome.wav 70"),
        "{played}"
    );
    assert!(
        status["times"]["clock_synchronized"].is_boolean(),
        "{status}"
    );
    assert_eq!(status["times"]["capture"], serde_json::json!({"on": true}));
    daemon.stop();
}

#[test]
fn a_camera_that_fails_ends_a_mask_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    // The camera program fails after a few frames on its first start. It works after the
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
    // The reader must stay open until the end, because a daemon that cannot print exits with 74.
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let seen: Vec<String> = lines
        .by_ref()
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
    // The camera program starts again while the daemon stops, so another decision may follow. The
    // reader must stay open for it, because a daemon that cannot print exits with 74.
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let seen: Vec<String> = lines
        .by_ref()
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
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
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
    let manager = ServiceManager::new(folder.path());
    let mut child = maskd()
        .args(["run", "--json"])
        .envs(manager.environment(400_000))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let message = || manager.receive().unwrap();
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
fn a_service_manager_that_is_gone_is_logged_once() {
    let folder = tempfile::tempdir().unwrap();
    let output = maskd()
        .args(["run", "--once", "--rate", "1", "--source"])
        .arg(frame("maksssksksss10.jpg"))
        .env("NOTIFY_SOCKET", folder.path().join("gone"))
        .env("WATCHDOG_USEC", "100000")
        .output()
        .unwrap();
    assert!(output.status.success());
    let logs = text(&output.stderr);
    let told = logs.matches("cannot notify the service manager").count();
    assert_eq!(told, 1, "{logs}");
}

#[test]
fn the_watchdog_is_not_fed_without_decisions() {
    let folder = tempfile::tempdir().unwrap();
    let manager = ServiceManager::new(folder.path());
    let config = folder.path().join("maskd.toml");
    // The source sends nothing, and the config sets a long timeout.
    fs::write(
        &config,
        "[camera]\nstall-ms = 60000\n[decide]\nstale-ms = 500\n",
    )
    .unwrap();
    let mut child = maskd()
        .args(["run", "--json", "--source", "exec:sleep 60", "--config"])
        .arg(&config)
        .envs(manager.environment(200_000))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    assert_eq!(decisions(&first), ["fault"]);
    // Skip the notifications that were sent before the fault.
    while manager.already_sent().is_some() {}
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(manager.already_sent(), None, "no sign of life");
    interrupt(&child, "-TERM");
    assert_eq!(wait(&mut child, Duration::from_secs(2)), Some(0));
}

#[test]
fn the_watchdog_is_fed_while_a_lost_camera_is_reconnected() {
    let folder = tempfile::tempdir().unwrap();
    let manager = ServiceManager::new(folder.path());
    // No program listens on port 9 of this machine.
    let mut child = maskd()
        .args(["run", "--json", "--source", "http://127.0.0.1:9/x"])
        .envs(manager.environment(200_000))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    assert_eq!(decisions(&first), ["fault"]);
    // Skip the notifications that were sent before the fault.
    while manager.already_sent().is_some() {}
    manager.wait_until_fed(10);
    interrupt(&child, "-TERM");
    assert_eq!(wait(&mut child, Duration::from_secs(2)), Some(0));
}

/// Makes a picture of 120 masked faces. Classifying all of them takes several times as long
/// as the time limit in the test.
fn crowd() -> image::RgbImage {
    let part = |name: &str, [x, y, width, height]: [u32; 4]| {
        let picture = image::open(frame(name)).unwrap().into_rgb8();
        let part = image::imageops::crop_imm(&picture, x, y, width, height).to_image();
        image::imageops::thumbnail(&part, 80, 90)
    };
    let face = part("maksssksksss10.jpg", [64, 210, 160, 180]);
    let mut picture = image::RgbImage::new(12 * 80, 10 * 90);
    for index in 0..120 {
        image::imageops::replace(&mut picture, &face, index % 12 * 80, index / 12 * 90);
    }
    picture
}

#[test]
fn frames_with_too_many_faces_are_unsure_and_feed_the_watchdog() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = folder.path().join("pictures");
    fs::create_dir(&pictures).unwrap();
    crowd().save(pictures.join("crowd.png")).unwrap();
    let config = folder.path().join("maskd.toml");
    // The work on each frame lasts longer than an interval of the watchdog, and ends before
    // all faces are classified. A fault would mean that one step of this work took longer
    // than `stale-ms`, which is long because the machine may be busy.
    fs::write(
        &config,
        "[classify]\nthreads = 1\ntime-limit-ms = 150\n[decide]\nstale-ms = 20000\n\
         [detect]\nidle-interval-ms = 0\ninput-size = 960\n",
    )
    .unwrap();
    let manager = ServiceManager::new(folder.path());
    let mut child = maskd()
        .args(["run", "--json", "--rate", "10", "--config"])
        .arg(&config)
        .arg("--source")
        .arg(&pictures)
        .envs(manager.environment(100_000))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut lines = String::new();
    out.read_line(&mut lines).unwrap();
    // 40 notifications are sent within 2 seconds, which are many frames.
    manager.wait_until_fed(40);
    interrupt(&child, "-TERM");
    assert_eq!(wait(&mut child, Duration::from_secs(20)), Some(0));
    out.read_to_string(&mut lines).unwrap();
    assert_eq!(decisions(&lines), ["unsure"], "{lines}");
    let logs = text(&child.wait_with_output().unwrap().stderr);
    assert!(
        logs.contains("there is no time to classify all faces"),
        "{logs}"
    );
}

/// Writes pictures that change the decision with each frame, and a config with which the
/// decision changes immediately.
fn changing(folder: &Path) -> std::process::Command {
    let pictures = folder.join("pictures");
    fs::create_dir(&pictures).unwrap();
    fs::copy(frame("maksssksksss128.jpg"), pictures.join("1-bare.jpg")).unwrap();
    image::RgbImage::new(320, 240)
        .save(pictures.join("2-nobody.png"))
        .unwrap();
    let config = folder.join("changing.toml");
    fs::write(&config, "[decide]\nconfirm-ms = 0\nhold-ms = 0\n").unwrap();
    let mut command = maskd();
    command.args(["run", "--rate", "10", "--log", "info", "--config"]);
    command.arg(config).arg("--source").arg(pictures);
    command
}

/// Creates a pipe and fills it, so that the next write to the pipe blocks. Returns the
/// two ends and the number of bytes in the pipe.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter, usize) {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    let mut bytes = 0;
    while let Ok(more) = writer.write(&[b'\n'; 4096]) {
        bytes += more;
    }
    fcntl_setfl(&writer, flags).unwrap();
    (reader, writer, bytes)
}

/// Waits until the file contains the words `count` times.
fn wait_for_words(path: &Path, words: &str, count: usize) {
    support::wait_for(words, || {
        let log = fs::read_to_string(path).unwrap_or_default();
        (log.matches(words).count() >= count).then_some(())
    });
}

#[test]
fn a_reader_that_stops_does_not_delay_decisions() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let (reader, writer, filled) = full_pipe();
    let mut child = changing(folder.path())
        .arg("--json")
        .stdout(writer)
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    wait_for_words(&log, "decision changed", 20);
    // The reader resumes reading.
    let mut reader = BufReader::new(reader);
    std::io::copy(
        &mut reader.by_ref().take(filled as u64),
        &mut std::io::sink(),
    )
    .unwrap();
    let mut lines = String::new();
    for _ in 0..20 {
        reader.read_line(&mut lines).unwrap();
    }
    interrupt(&child, "-TERM");
    reader.read_to_string(&mut lines).unwrap();
    assert_eq!(wait(&mut child, Duration::from_secs(2)), Some(0));
    let changes: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for (index, change) in changes.iter().enumerate() {
        assert_eq!(change["change"], index as u64 + 1, "no change is lost");
    }
    let log = fs::read_to_string(&log).unwrap();
    let decided = log.matches("decision changed").count();
    assert_eq!(changes.len(), decided, "the last decision comes through");
}

#[test]
fn a_reader_that_never_goes_on_does_not_delay_the_stop() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let (_reader, writer, _) = full_pipe();
    let mut child = changing(folder.path())
        .stdout(writer)
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    wait_for_words(&log, "decision changed", 5);
    interrupt(&child, "-TERM");
    assert_eq!(wait(&mut child, Duration::from_secs(4)), Some(0));
    let log = fs::read_to_string(&log).unwrap();
    assert!(log.contains("no more decisions"), "{log}");
}

#[test]
fn a_reader_that_ends_ends_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut child = changing(folder.path())
        .arg("--json")
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    let mut reader = BufReader::new(reader);
    reader.read_line(&mut first).unwrap();
    drop(reader);
    assert_eq!(wait(&mut child, Duration::from_secs(20)), Some(74));
    let mut errors = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut errors)
        .unwrap();
    assert!(
        errors.contains("maskd: cannot show decisions on standard output"),
        "{errors}"
    );
}

/// A terminal whose output is stopped with Ctrl-S blocks writes, like a full pipe.
#[test]
fn a_terminal_that_is_stopped_does_not_delay_decisions() {
    let folder = tempfile::tempdir().unwrap();
    let manager = ServiceManager::new(folder.path());
    let command = changing(folder.path());
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<String> = words
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    // `script` runs the daemon on a terminal of its own, and does not read from it while
    // its own output is full.
    let (reader, writer, _) = full_pipe();
    let child = std::process::Command::new("script")
        .args(["-q", "-e", "-c", &format!("exec {}", words.join(" "))])
        .arg("/dev/null")
        .envs(manager.environment(400_000))
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        println!("skipped: the program script is not installed");
        return;
    };
    // A terminal holds some kilobytes, which the daemon writes within a few seconds. The
    // watchdog is fed only while decisions are made.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(12) {
        manager.receive().expect("decisions are made");
    }
    drop(reader);
    child.kill().unwrap();
    child.wait().unwrap();
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
