//! Tests jumps of the wall clock while the daemon runs. A person or a program at the
//! door must not notice any effect.
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

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use broker::{Broker, Ear, until};
use image::RgbImage;
use serde_json::Value;
use support::requests::{Answer, ask, get_json, request};
use support::{Running, at_time, frame, interrupt, maskd, text, wait, wait_for};

const PASSWORD: &str = "correct horse battery staple";

/// A running daemon, whose wall clock the test controls.
struct Door {
    folder: tempfile::TempDir,
    child: Child,
    port: u16,
    token: String,
}

impl Door {
    /// Starts a daemon. If `faketime` is not installed, prints a message and returns
    /// `None`.
    fn open(mqtt_port: Option<u16>) -> Option<Door> {
        // `faketime` sets an environment variable that preloads its library. This command
        // prints the variable.
        let mut shell = Command::new(at_time("+0")?.get_program());
        let shell = shell.args(["-f", "+0", "sh", "-c", "echo $LD_PRELOAD"]);
        let library = text(&shell.output().unwrap().stdout).trim().to_owned();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("camera")).unwrap();
        // The camera shows a face for a second, and then no face for a second.
        for number in 0..10 {
            let path = at(&format!("camera/0{number}.jpg"));
            fs::copy(frame("maksssksksss128.jpg"), path).unwrap();
            let path = at(&format!("camera/1{number}.png"));
            RgbImage::new(320, 240).save(path).unwrap();
        }
        let hash = maskd::api::web::hash_password(PASSWORD).unwrap();
        let token = maskd::api::web::new_token().unwrap();
        let mqtt = mqtt_port.map_or(String::new(), broker::config);
        let config = format!(
            "[decide]\nconfirm-ms = 100\nhold-ms = 100\nstale-ms = 60000\n[capture]\nenabled = true\n\
             [indicate]\nquiet-from = \"22:00\"\nquiet-to = \"07:00\"\n\
             [web]\nlisten = \"127.0.0.1:0\"\npassword-hash = '{hash}'\n\
             token-hashes = [\"{}\"]\n{mqtt}",
            token.hash
        );
        fs::write(at("maskd.toml"), config).unwrap();
        fs::write(at("time"), "+0").unwrap();
        let mut command = maskd();
        command
            .args(["run", "--json", "--rate", "10", "--config"])
            .arg(at("maskd.toml"))
            .arg("--state")
            .arg(at("state"))
            .arg("--source")
            .arg(at("camera"))
            .env("LD_PRELOAD", library)
            .env("FAKETIME_TIMESTAMP_FILE", at("time"))
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .stdout(File::create(at("out")).unwrap())
            .stderr(File::create(at("log")).unwrap());
        let child = command.spawn().unwrap();
        let mut door = Door {
            folder,
            child,
            port: 0,
            token: token.token,
        };
        door.port = until("the page", || {
            let log = door.log();
            let (_, address) = log.split_once("the page is at ")?;
            let address = address.lines().next()?.trim();
            address.rsplit(':').next()?.parse().ok()
        });
        Some(door)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.at("log")).unwrap()
    }

    /// Sets the clock atomically, so that the daemon never reads an incomplete time.
    fn set_clock(&self, time: &str) {
        fs::write(self.at("new-time"), time).unwrap();
        fs::rename(self.at("new-time"), self.at("time")).unwrap();
    }

    /// Sends a request with a header line and a body.
    #[track_caller]
    fn ask(&self, method: &str, path: &str, line: &str, body: &str) -> Answer {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_mins(1)))
            .unwrap();
        ask(stream, &request(method, path, &format!("{line}\r\n"), body)).unwrap()
    }

    #[track_caller]
    fn status(&self, line: &str) -> Value {
        let (status, head, body) = self.ask("GET", "/api/v1/status", line, "");
        assert_eq!(status, 200, "{head}");
        serde_json::from_slice(&body).unwrap()
    }

    #[track_caller]
    fn log_in(&self) -> String {
        let body = serde_json::json!({ "password": PASSWORD }).to_string();
        let (status, head, _) = self.ask("POST", "/api/v1/session", "accept: */*", &body);
        assert_eq!(status, 200, "{head}");
        let cookie = head
            .lines()
            .find_map(|line| line.strip_prefix("set-cookie: "));
        format!("cookie: {}", cookie.unwrap().split(';').next().unwrap())
    }

    fn lines(&self) -> Vec<Value> {
        let out = fs::read_to_string(self.at("out")).unwrap();
        let whole = out.rfind('\n').map_or("", |end| &out[..end]);
        let lines = whole.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().unwrap()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn expect_capture(ear: &Ear, value: &str) {
    ear.publish("maskd/door/capture/set", value.as_bytes(), false);
    until("the switch", || {
        let state = ear.json("maskd/door/state")?;
        (state["capture"] == value).then_some(())
    });
}

#[test]
fn jumps_of_the_clock_end_no_log_in_no_enrollment_and_no_connection() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(folder.path(), "");
    let ear = broker.as_ref().map(|broker| Ear::listen(broker.port));
    let Some(mut door) = Door::open(broker.as_ref().map(|broker| broker.port)) else {
        return;
    };
    let first = door.log_in();
    let token = format!("authorization: Bearer {}", door.token);
    let (status, _, enrolled) = door.ask(
        "POST",
        "/api/v1/enroll",
        &token,
        "{\"label\":\"with_mask\",\"count\":1000,\"seconds\":600}",
    );
    assert_eq!(status, 200, "{}", text(&enrolled));
    let (mut years, mut kept) = (Vec::new(), 0);
    for time in [
        "@2036-02-07 06:28:16",
        "@1970-01-02 00:00:00",
        "@2106-02-07 06:28:16",
        "+0",
    ] {
        door.set_clock(time);
        let frames = |status: &Value| status["live"]["frames"].as_u64().unwrap();
        let before = frames(&door.status(&first));
        let lines = door.lines().len();
        until("frames and decisions", || {
            let goes_on = frames(&door.status(&first)) > before + 10;
            (goes_on && door.lines().len() > lines + 1).then_some(())
        });
        let status = door.status(&token);
        assert_eq!(status["enrollment"]["wanted"], 1000, "{status}");
        let samples = status["samples"]["with_mask"]["samples"].as_u64();
        assert!(samples.unwrap_or(0) >= kept, "no sample is lost: {status}");
        kept = samples.unwrap_or(0);
        assert_eq!(status["live"]["camera_lost"], false);
        let new = door.log_in();
        door.status(&new);
        if let Some(ear) = &ear {
            expect_capture(ear, "OFF");
            expect_capture(ear, "ON");
            assert_eq!(ear.text("maskd/door/status").as_deref(), Some("online"));
        }
        years.push(door.lines().last().unwrap()["time"].as_f64().unwrap() as u64 / 31_556_952);
    }
    // The years since 1970 show that the clock was really set.
    assert_eq!(years[..3], [66, 0, 136]);
    assert!((56..66).contains(&years[3]), "{years:?}");
    assert!(kept > 0, "somebody was enrolled");
    let decisions = door.lines();
    assert!(decisions.iter().all(|line| line["decision"] != "fault"));
    interrupt(&door.child, "-TERM");
    assert_eq!(wait(&mut door.child, Duration::from_secs(20)), Some(0));
    let log = door.log();
    assert!(!log.contains("ERROR"), "{log}");
    if ear.is_some() {
        assert_eq!(log.matches("MQTT connected").count(), 1, "{log}");
    }
}

/// The file of a time zone without summer time (RFC 8536), which is `hours` ahead of UTC.
fn zone_file(hours: i32) -> Vec<u8> {
    let mut part = b"TZif2".to_vec();
    part.resize(20, 0);
    // There is one type of local time, whose name has four bytes.
    for count in [0_u32, 0, 0, 0, 1, 4] {
        part.extend(count.to_be_bytes());
    }
    part.extend((hours * 3600).to_be_bytes());
    part.extend(b"\0\0LOC\0");
    [&part[..], &part, format!("\nLOC{}\n", -hours).as_bytes()].concat()
}

#[test]
fn a_new_time_zone_applies_without_a_restart_and_a_missing_one_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let quiet = "[indicate]\nquiet-from = \"22:00\"\nquiet-to = \"07:00\"\n";
    fs::write(at("maskd.toml"), quiet).unwrap();
    let set_zone = |bytes: &[u8]| {
        fs::write(at("new"), bytes).unwrap();
        fs::rename(at("new"), at("zone")).unwrap();
    };
    set_zone(&zone_file(3));
    let mut command = maskd();
    command.arg("run").arg("--config").arg(at("maskd.toml"));
    command.arg("--state").arg(at("state"));
    command.env("TZ", format!(":{}", at("zone").display()));
    let daemon = Running::start(command, folder.path());
    let socket = at("state/control.sock");
    let times = || Some(get_json(&socket, "/api/v1/status")?["live"]["times"].clone());
    let offset = |end: &'static str| {
        wait_for("the time zone", || {
            let times = times()?;
            let next = times["sound"]["next_change"].as_str()?;
            (next.ends_with(end) && times["time_zone_known"] == true).then_some(())
        });
    };
    offset("+03:00");
    set_zone(&zone_file(-4));
    offset("-04:00");
    set_zone(b"not a time zone");
    wait_for("an unknown time zone", || {
        (times()?["time_zone_known"] == false).then_some(())
    });
    let log = daemon.log();
    let sentence = "the time zone of the device is not known";
    assert_eq!(log.matches(sentence).count(), 1, "{log}");
}
