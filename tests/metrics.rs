//! Tests the metrics and health checks of a running daemon.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and measure time"
)]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{frame, interrupt, maskd, text, wait};

/// Returns the status and the body of the daemon's response to a GET request.
fn get(socket: &Path, path: &str) -> Option<(u16, String)> {
    let mut stream = UnixStream::connect(socket).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[track_caller]
fn until(socket: &Path, path: &str, found: impl Fn(u16, &str) -> bool) -> String {
    let start = Instant::now();
    let mut last = None;
    while start.elapsed() < Duration::from_secs(90) {
        last = get(socket, path);
        if let Some((status, body)) = &last
            && found(*status, body)
        {
            return body.clone();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{path} answers {last:?}");
}

#[test]
fn the_metrics_count_what_the_daemon_does() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("state/control.sock");
    let picture = frame("maksssksksss120.jpg");
    let mut child = maskd()
        .args(["run", "--rate", "20", "--source"])
        .arg(&picture)
        .arg("--state")
        .arg(folder.path().join("state"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until(&socket, "/readyz", |status, _| status == 200);
    until(&socket, "/healthz", |status, body| {
        status == 200 && body == "ok\n"
    });
    let count = |text: &str, series: &str| {
        let line = text.lines().find(|line| line.starts_with(series));
        let value = line.and_then(|line| line.rsplit(' ').next());
        value.map_or(-1.0, |value| value.parse::<f64>().unwrap())
    };
    let metrics = until(&socket, "/metrics", |_, text| {
        count(text, "maskd_stage_duration_seconds_count{stage=\"embed\"}") > 1.0
            && count(text, "maskd_frames_total ") > 3.0
    });
    for stage in ["detect", "crop", "head"] {
        let series = format!("maskd_stage_duration_seconds_count{{stage=\"{stage}\"}}");
        assert!(count(&metrics, &series) > 0.0, "{metrics}");
    }
    let verdicts = count(&metrics, "maskd_frame_latency_seconds_count");
    assert!(verdicts > 3.0, "{metrics}");
    assert_eq!(count(&metrics, "maskd_camera_lost "), 0.0);
    let sum = |stage: &str| {
        let series = format!("maskd_stage_duration_seconds_sum{{stage=\"{stage}\"}}");
        count(&metrics, &series)
    };
    assert!(sum("embed") > sum("crop"), "{metrics}");

    if Command::new("promtool").arg("--version").output().is_err() {
        println!("promtool is not installed: its check of the metrics is skipped");
    } else {
        let mut check = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = check.stdin.take().unwrap();
        stdin.write_all(metrics.as_bytes()).unwrap();
        drop(stdin);
        let output = check.wait_with_output().unwrap();
        let words = text(&output.stdout) + &text(&output.stderr);
        assert!(
            output.status.success() && words.is_empty(),
            "{words}\n{metrics}"
        );
    }

    let (status, _) = get(&socket, "/metrics/").unwrap();
    assert_eq!(status, 404);
    interrupt(&child, "-TERM");
    assert_eq!(wait(&mut child, Duration::from_secs(20)), Some(0));
}

#[test]
fn a_daemon_without_its_camera_is_alive_and_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("state/control.sock");
    let mut child = maskd()
        .args(["run", "--source", "http://127.0.0.1:1/none", "--state"])
        .arg(folder.path().join("state"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until(&socket, "/readyz", |status, body| {
        status == 503 && body.contains("camera is lost")
    });
    // The daemon reports that it is healthy even though the camera is lost.
    until(&socket, "/healthz", |status, _| status == 200);
    let metrics = until(&socket, "/metrics", |_, text| {
        text.contains("maskd_camera_lost 1.0")
    });
    assert!(metrics.contains("maskd_decision{decision=\"fault\"} 1.0"));
    interrupt(&child, "-TERM");
    assert_eq!(wait(&mut child, Duration::from_secs(20)), Some(0));
}
