//! Tests the daemon with a real broker. The tests cover the messages that it publishes, the
//! commands that it obeys, and the attacks and failures that it survives.
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

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use broker::{Broker, Ear, free_port, until};
use support::requests::get;
use support::{frame, interrupt, maskd, text, wait};

/// A device with a config, a state directory, and a log.
struct Door {
    folder: tempfile::TempDir,
}

impl Door {
    fn new(port: u16, more: &str) -> Door {
        let door = Door {
            folder: tempfile::tempdir().unwrap(),
        };
        let config = format!(
            "[camera]\nplayback-fps = 10\n[decide]\nconfirm-ms = 100\nstale-ms = 60000\n\
             {}{more}",
            broker::config(port)
        );
        fs::write(door.at("maskd.toml"), config).unwrap();
        door
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.at("log")).unwrap_or_default()
    }

    fn run(&self) -> Child {
        let log = fs::File::create(self.at("log")).unwrap();
        maskd()
            .args(["run", "--config"])
            .arg(self.at("maskd.toml"))
            .arg("--state")
            .arg(self.at("state"))
            .arg("--source")
            .arg(frame("maksssksksss120.jpg"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn check(&self) -> Output {
        maskd()
            .args(["check", "--config"])
            .arg(self.at("maskd.toml"))
            .arg("--state")
            .arg(self.at("state"))
            .output()
            .unwrap()
    }
}

/// A running daemon, which is killed at the end of the test.
struct Running(Child);

impl Running {
    fn stop(&mut self) {
        interrupt(&self.0, "-TERM");
        assert_eq!(wait(&mut self.0, Duration::from_secs(20)), Some(0));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn expect_text(ear: &Ear, topic: &str, words: &str) {
    until(&format!("{topic} is {words}"), || {
        (ear.text(topic).as_deref() == Some(words)).then_some(())
    });
}

fn expect_state(ear: &Ear, key: &str, value: &str) {
    until(&format!("{key} is {value}"), || {
        let state = ear.json("maskd/door/state")?;
        (state[key] == value).then_some(())
    });
}

const CAPTURES: &str = "[capture]\nenabled = true\n";

#[test]
fn home_assistant_sees_the_device_and_sends_commands() {
    let folder = tempfile::tempdir().unwrap();
    let Some(broker) = Broker::start(folder.path(), "") else {
        return;
    };
    let ear = Ear::listen(broker.port);
    let door = Door::new(broker.port, CAPTURES);
    let mut running = Running(door.run());
    expect_text(&ear, "maskd/door/status", "online");
    let discovery = "homeassistant/device/door/config";
    let device = until("the discovery", || ear.json(discovery));
    assert_eq!(device["components"].as_object().unwrap().len(), 12);
    // There is no relay.
    let absent = serde_json::json!({ "platform": "sensor" });
    assert_eq!(device["components"]["lock"], absent);
    assert_eq!(
        device["components"]["capture"]["command_topic"],
        "maskd/door/capture/set"
    );
    let state = until("a decision", || {
        let state = ear.json("maskd/door/state")?;
        let seen = ["mask", "no_mask", "unsure"].map(serde_json::Value::from);
        seen.contains(&state["decision"]).then_some(state)
    });
    assert!(state["faces"].as_u64().unwrap() >= 1, "{state}");
    assert_eq!(state["problem"], "OFF", "{state}");
    assert_eq!(state["head"], 0);
    assert_eq!(state.get("door"), None);
    let event = until("an event", || ear.json("maskd/door/event"));
    assert_eq!(event["kind"], "decision", "{event}");
    assert_eq!(event["device"], "door");

    // Capturing is paused and resumed.
    ear.publish("maskd/door/capture/set", b"OFF", false);
    expect_state(&ear, "capture", "OFF");
    ear.publish("maskd/door/capture/set", b"ON", false);
    expect_state(&ear, "capture", "ON");
    // The requested training run ends without a new head, because there is nothing to train
    // on.
    ear.publish("maskd/door/refit/set", b"PRESS", false);
    until("a refit", || {
        door.log().contains("accepted=false").then_some(())
    });
    assert!(door.log().contains("training was requested over MQTT"));

    // Home Assistant restarts, and then another subscriber connects.
    let before = ear.count(discovery);
    std::thread::sleep(Duration::from_secs(2));
    ear.publish("homeassistant/status", b"online", false);
    until("the discovery again", || {
        (ear.count(discovery) > before).then_some(())
    });
    let events = ear.all("maskd/door/event");
    let late = Ear::listen(broker.port);
    expect_text(&late, "maskd/door/status", "online");
    until("the retained discovery", || late.json(discovery));
    until("the retained state", || late.json("maskd/door/state"));
    let is_old = |event: &Vec<u8>| events.contains(event);
    assert!(!late.all("maskd/door/event").iter().any(is_old), "retained");
    let own = |topic: &String| topic.starts_with("maskd/") || topic.starts_with("homeassistant/");
    assert!(late.topics().iter().all(own), "{:?}", late.topics());

    // The status is "offline" after a clean stop, and also after a kill.
    running.stop();
    expect_text(&ear, "maskd/door/status", "offline");
    let mut running = Running(door.run());
    expect_text(&ear, "maskd/door/status", "online");
    running.0.kill().unwrap();
    expect_text(&ear, "maskd/door/status", "offline");
}

#[test]
fn the_door_is_shown_and_no_message_unlocks_it() {
    let folder = tempfile::tempdir().unwrap();
    let Some(broker) = Broker::start(folder.path(), "") else {
        return;
    };
    let ear = Ear::listen(broker.port);
    // The door stays locked, because the masked person counts as unmasked.
    let indicate = "[indicate]\nbackend = \"console\"\nrelay-pin = 23\n";
    let closed = Door::new(
        broker.port,
        &format!("{indicate}[classify]\nmasked-labels = [\"without_mask\"]\n"),
    );
    let mut running = Running(closed.run());
    let device = until("the discovery", || {
        ear.json("homeassistant/device/door/config")
    });
    assert_eq!(device["components"]["lock"]["unique_id"], "maskd_door_lock");
    assert_eq!(
        device["components"]["contact"].as_object().unwrap().len(),
        1,
        "there is no contact"
    );
    let door = |reason: Option<&str>| {
        until(&format!("{reason:?}"), || {
            let state = ear.json("maskd/door/state")?;
            let is_seen = state["faces"].as_u64()? > 0 && state["door"].is_object();
            let unlocked_by = state["door"].get("unlocked_by").and_then(|by| by.as_str());
            (is_seen && unlocked_by == reason).then_some(state["door"].clone())
        })
    };
    door(None);
    // Everything that a client could try.
    for topic in ["door/set", "lock/set", "door", "relay/set", "unlock"] {
        for payload in [
            "UNLOCK",
            "OPEN",
            "ON",
            "{\"door\":{\"unlocked_by\":\"mask\"}}",
        ] {
            ear.publish(&format!("maskd/door/{topic}"), payload.as_bytes(), false);
        }
    }
    // The broker passes messages on in their order.
    ear.publish("maskd/door/refit/set", b"PRESS", false);
    until("the refit", || {
        closed
            .log()
            .contains("training was requested over MQTT")
            .then_some(())
    });
    let status = |door: &Door| {
        let words = ["status", "--json", "--state"];
        let output = maskd().args(words).arg(door.at("state")).output().unwrap();
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        status["live"]["door"].clone()
    };
    assert_eq!(status(&closed)["unlocked"], false);
    running.stop();

    let open = Door::new(broker.port, indicate);
    let mut running = Running(open.run());
    assert_eq!(door(Some("mask"))["held_open"], "OFF");
    let published = status(&open);
    assert_eq!(published["unlocked_by"], "mask", "{published}");
    let words = ["status", "--state"];
    let output = maskd().args(words).arg(open.at("state")).output().unwrap();
    let shown = text(&output.stdout);
    assert!(
        shown.contains("door        unlocked by a mask\n"),
        "{shown}"
    );
    running.stop();
}

#[test]
fn everything_is_published_again_after_a_reconnect() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let door = Door::new(port, "");
    // The daemon starts before the broker.
    let mut running = Running(door.run());
    until("a warning about the broker", || {
        door.log()
            .contains("not connected to the MQTT broker; retrying")
            .then_some(())
    });
    let Some(mut broker) = Broker::start_at(folder.path(), port, "") else {
        return;
    };
    let ear = Ear::listen(port);
    expect_text(&ear, "maskd/door/status", "online");
    until("the state", || ear.json("maskd/door/state"));
    broker.end();
    let broker = Broker::start_at(folder.path(), port, "").unwrap();
    let ear = Ear::listen(broker.port);
    expect_text(&ear, "maskd/door/status", "online");
    until("the state", || ear.json("maskd/door/state"));
    let device = until("the discovery", || {
        ear.json("homeassistant/device/door/config")
    });
    // If the config does not enable capturing, there is no switch for capturing.
    assert_eq!(
        device["components"]["capture"].as_object().unwrap().len(),
        1
    );
    ear.publish("maskd/door/capture/set", b"ON", false);
    until("a warning", || {
        door.log()
            .contains("cannot be turned on over MQTT")
            .then_some(())
    });
    assert_eq!(ear.json("maskd/door/state").unwrap()["capture"], "OFF");
    let warnings = door
        .log()
        .matches("not connected to the MQTT broker; retrying")
        .count();
    assert!(warnings <= 2, "{}", door.log());
    running.stop();
}

#[test]
fn malformed_messages_and_floods_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let more = "max_packet_size 20000000";
    let Some(broker) = Broker::start(folder.path(), more) else {
        return;
    };
    let ear = Ear::listen(broker.port);
    // The broker retains an old command, a huge command, and a message on a topic that
    // other devices also use.
    ear.publish("maskd/door/refit/set", b"PRESS", true);
    ear.publish("maskd/door/capture/set", &vec![b'x'; 5_000_000], true);
    ear.publish("homeassistant/status", &vec![0xff; 100_000], true);
    until("all are retained", || {
        (ear.count("homeassistant/status") == 1).then_some(())
    });
    let door = Door::new(broker.port, CAPTURES);
    let mut running = Running(door.run());
    expect_text(&ear, "maskd/door/status", "online");
    expect_state(&ear, "capture", "ON");

    ear.publish("maskd/door/capture/set", &vec![b'x'; 5_000_000], false);
    ear.publish("maskd/door/capture/set", b"{\"on\": tru", false);
    ear.publish("maskd/door/capture/set", b"\xff\xfe\x00", false);
    ear.publish("maskd/door/nothing", b"x", false);
    ear.publish("maskd/door/refit/set", b"", false);
    let frames = |door: &Door| {
        let asked = maskd()
            .args(["status", "--json", "--state"])
            .arg(door.at("state"))
            .output()
            .unwrap();
        let status: serde_json::Value = serde_json::from_slice(&asked.stdout).unwrap();
        status["live"]["frames"].as_u64().unwrap()
    };
    let before = frames(&door);
    for number in 0..5000 {
        ear.publish(
            "maskd/door/refit/set",
            format!("{number}").as_bytes(),
            false,
        );
    }
    until("a warning about the flood", || {
        door.log().contains("too many MQTT messages").then_some(())
    });
    until("frames go on", || {
        (frames(&door) > before + 10).then_some(())
    });
    // Commands still work.
    until("a pause", || {
        ear.publish("maskd/door/capture/set", b"OFF", false);
        std::thread::sleep(Duration::from_secs(1));
        (ear.json("maskd/door/state")?["capture"] == "OFF").then_some(())
    });
    let log = door.log();
    assert_eq!(
        log.matches("a command with an unknown payload").count(),
        1,
        "{log}"
    );
    assert_eq!(log.matches("too many MQTT messages").count(), 1, "{log}");
    assert!(!log.contains("training was requested"), "{log}");
    assert_eq!(log.matches("MQTT connected").count(), 1, "{log}");
    running.stop();
}

#[test]
fn a_silent_or_malformed_broker_does_no_harm() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let door = Door::new(port, "");
    let mut running = Running(door.run());
    // On the first connection, the broker stays silent. On the next connections, it
    // sends a response that is not MQTT, a malformed response, and a response that
    // refuses the connection.
    let (mut silent, _) = listener.accept().unwrap();
    let mut bytes = [0; 2];
    silent.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes[0], 0x10, "a CONNECT");
    let socket = door.at("state/control.sock");
    until("frames", || {
        (get(&socket, "/readyz", "")?.0 == 200).then_some(())
    });
    drop(silent);
    for nonsense in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        // The first CONNACK has a huge length, and the second CONNACK refuses the
        // connection.
        &[0x20, 0xff, 0xff, 0xff, 0x7f],
        &[0x20, 0x03, 0x00, 0x87, 0x00],
    ] {
        let (mut next, _) = listener.accept().unwrap();
        let _ = next.read(&mut bytes);
        let _ = next.write_all(nonsense);
        std::thread::sleep(Duration::from_millis(300));
    }
    assert!(!door.log().contains("panicked"), "{}", door.log());
    running.stop();
    assert_eq!(
        door.log()
            .matches("not connected to the MQTT broker; retrying")
            .count(),
        1,
        "{}",
        door.log()
    );
}

/// Creates a certificate for the broker and an unrelated certificate, both for localhost.
/// Returns false if openssl is not installed.
fn make_certificates(folder: &Path) -> bool {
    let make = |name: &str| {
        Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            ])
            .args([
                "-subj",
                "/CN=localhost",
                "-addext",
                "subjectAltName=DNS:localhost",
            ])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(folder.join(format!("{name}.key")))
            .arg("-out")
            .arg(folder.join(format!("{name}.pem")))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    make("broker") && make("other")
}

#[test]
fn certificates_and_logins_are_checked() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    if !make_certificates(folder.path()) {
        println!("skipped: openssl is not installed");
        return;
    }
    let made = Command::new("mosquitto_passwd")
        .args(["-b", "-c"])
        .arg(at("users"))
        .args(["maskd", "right pass"])
        .status();
    if made.is_err() {
        println!("skipped: mosquitto is not installed");
        return;
    }
    // mosquitto drops its root privileges before it reads these files.
    for file in ["users", "broker.key", "broker.pem"] {
        fs::set_permissions(at(file), fs::Permissions::from_mode(0o644)).unwrap();
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let more = format!(
        "certfile {0}/broker.pem\nkeyfile {0}/broker.key\npassword_file {0}/users",
        folder.path().display()
    );
    let Some(broker) = Broker::start(folder.path(), &more) else {
        return;
    };
    let door = |ca: &str, password: &str| {
        let door = Door::new(
            broker.port,
            &format!(
                "tls = true\nca-file = {:?}\nuser = \"maskd\"\npassword-file = {:?}\n",
                at(ca),
                at("password")
            ),
        );
        fs::write(at("password"), password).unwrap();
        let config = fs::read_to_string(door.at("maskd.toml")).unwrap();
        let config = config.replace("\"127.0.0.1\"", "\"localhost\"");
        fs::write(door.at("maskd.toml"), config).unwrap();
        door
    };
    let good = door("broker.pem", "right pass\n");
    let checked = good.check();
    let said = text(&checked.stdout);
    assert!(checked.status.success(), "{said}\n{}", broker.log());
    assert!(said.contains("accepts the login as door"), "{said}");
    let mut running = Running(good.run());
    until("a connection", || {
        good.log().contains("MQTT connected").then_some(())
    });
    running.stop();

    for (ca, password, words) in [
        (
            "broker.pem",
            "wrong pass",
            "refuses the user name and password",
        ),
        ("other.pem", "right pass", "cannot be trusted"),
    ] {
        let bad = door(ca, password).check();
        let said = text(&bad.stdout);
        assert_eq!(bad.status.code(), Some(69), "{said}");
        assert!(said.contains(words), "{said}");
        assert!(
            !said.contains("pass\n") && !said.contains("right"),
            "{said}"
        );
    }
}

#[test]
fn files_that_cannot_be_read_at_the_start_are_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let Some(broker) = Broker::start(folder.path(), "") else {
        return;
    };
    let password = folder.path().join("disk/password");
    let more = format!("user = \"maskd\"\npassword-file = {password:?}\n");
    let door = Door::new(broker.port, &more);
    let mut running = Running(door.run());
    let problem = || {
        let words = ["status", "--json", "--state"];
        let output = maskd().args(words).arg(door.at("state")).output().unwrap();
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        let problem = status["live"]["problems"]["mqtt"].as_str();
        Some(problem.map(ToOwned::to_owned))
    };
    until("the problem", || {
        problem()?.filter(|problem| problem.contains("cannot read the MQTT password in"))
    });
    // The disk is mounted, but the password is not written yet.
    fs::create_dir(folder.path().join("disk")).unwrap();
    fs::write(&password, "\n").unwrap();
    until("the other problem", || {
        problem()?.filter(|problem| problem.contains("contains no password"))
    });
    fs::write(&password, "secret\n").unwrap();
    until("a connection", || {
        door.log().contains("MQTT connected").then_some(())
    });
    until("no problem", || problem()?.is_none().then_some(()));
    running.stop();
    let log = door.log();
    for words in [
        "cannot read the MQTT password in",
        "contains no password",
        "is solved",
    ] {
        assert_eq!(log.matches(words).count(), 1, "{words}: {log}");
    }
    assert!(!log.contains("secret"), "{log}");
}

#[test]
fn check_tells_whether_the_broker_can_be_reached() {
    let door = Door::new(free_port(), "");
    let bad = door.check();
    assert_eq!(bad.status.code(), Some(69));
    let said = text(&bad.stdout);
    assert!(
        said.contains("BAD  mqtt") && said.contains("cannot be reached"),
        "{said}"
    );
    fs::write(door.at("maskd.toml"), "").unwrap();
    let off = door.check();
    assert!(off.status.success());
    assert!(text(&off.stdout).contains("ok   mqtt         off: no broker is configured"));
}

#[test]
fn two_devices_of_one_name_do_not_throw_each_other_off() {
    let folder = tempfile::tempdir().unwrap();
    let Some(broker) = Broker::start(folder.path(), "") else {
        return;
    };
    let ear = Ear::listen(broker.port);
    let (first, second) = (Door::new(broker.port, ""), Door::new(broker.port, ""));
    let mut one = Running(first.run());
    until("the first connects", || {
        first.log().contains("MQTT connected").then_some(())
    });
    let mut two = Running(second.run());
    until("the first says why", || {
        let words = "another maskd with the name \\\"door\\\" connected to the MQTT broker";
        let plain = words.replace('\\', "");
        let log = first.log();
        (log.contains(words) || log.contains(&plain)).then_some(())
    });
    assert!(first.log().contains("set a different mqtt.device"));
    // A device that reconnected immediately would reconnect several times while the test waits.
    std::thread::sleep(Duration::from_secs(8));
    for (door, connections) in [(&first, 1), (&second, 1)] {
        let log = door.log();
        assert_eq!(log.matches("MQTT connected").count(), connections, "{log}");
        assert!(!log.contains("not connected to the MQTT broker"), "{log}");
    }
    expect_text(&ear, "maskd/door/status", "online");
    // Both daemons run on this machine, so "maskd check" treats them as the same device. It
    // warns about a device with a different id.
    let checked = first.check();
    assert!(!text(&checked.stdout).contains("warn mqtt"));
    ear.publish("maskd/door/id", b"0000000000000000", true);
    if Path::new("/etc/machine-id").exists() {
        until("the warning", || {
            let said = text(&first.check().stdout);
            let warning = "warn mqtt         another device is connected as door: set a different";
            said.contains(warning).then_some(())
        });
    }
    two.stop();
    one.stop();
}

#[test]
fn a_broker_without_mqtt_5_is_recognized() {
    for answer in [&[0x20, 0x02, 0x00, 0x01][..], &[]] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let door = Door::new(listener.local_addr().unwrap().port(), "");
        let checked = std::thread::scope(|scope| {
            let broker = scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut bytes = [0; 256];
                let read = stream.read(&mut bytes).unwrap();
                assert!(read > 8 && bytes[8] == 5, "an MQTT 5 CONNECT");
                stream.write_all(answer).unwrap();
            });
            let checked = door.check();
            broker.join().unwrap();
            checked
        });
        let said = text(&checked.stdout);
        assert_eq!(checked.status.code(), Some(69), "{said}");
        assert!(said.contains("does not speak MQTT 5"), "{said}");
    }
}

#[test]
fn what_an_earlier_version_retained_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let Some(broker) = Broker::start(folder.path(), "") else {
        return;
    };
    let ear = Ear::listen(broker.port);
    let topic = "homeassistant/device/door/config";
    let old = r#"{"device":{"identifiers":["door"],"name":"door"},"components":{}}"#;
    ear.publish(topic, old.as_bytes(), true);
    until("the old message", || ear.last(topic));
    let door = Door::new(broker.port, "");
    let mut running = Running(door.run());
    let is_new = |message: &[u8]| {
        let message: serde_json::Value = serde_json::from_slice(message).unwrap_or_default();
        message["device"]["identifiers"][0] == "maskd_door"
            && message["components"]["faces"]["unique_id"] == "maskd_door_faces"
    };
    // Home Assistant must first receive an empty message, which removes the old entities,
    // and then the new message.
    until("a removal and the new message", || {
        let all = ear.all(topic);
        let removed = all.iter().position(Vec::is_empty)?;
        all[removed..].iter().any(|m| is_new(m)).then_some(())
    });
    let late = Ear::listen(broker.port);
    until("the retained new message", || {
        is_new(&late.last(topic)?).then_some(())
    });
    running.stop();

    // When the daemon starts again, it does not replace the message.
    let before = ear.all(topic).len();
    let mut running = Running(door.run());
    until("the message again", || {
        (ear.all(topic).len() > before).then_some(())
    });
    std::thread::sleep(Duration::from_secs(1));
    assert!(
        ear.all(topic)[before..]
            .iter()
            .all(|message| is_new(message))
    );
    running.stop();
}
