//! Tests the daemon with a state directory that it cannot use. The daemon must keep
//! making decisions, turn learning off, and report that learning is off. Learning must
//! resume once the directory can be used.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and measure time"
)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use maskd::learning::{Learning, LearningOptions};
use maskd::vision::pipeline::open_model;
use rustix::fs::RenameFlags;
use serde_json::Value;
use support::{
    Running, assert_refused, frame, head, interrupt, maskd, start_with_mounts, text, wait, wait_for,
};

/// A device whose socket and page are reachable without its state directory.
struct Door {
    folder: tempfile::TempDir,
    port: u16,
}

impl Door {
    fn new() -> Door {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = format!(
            "[control]\nsocket = \"{}\"\n[web]\nlisten = \"127.0.0.1:{port}\"\n\
             [refit]\nenabled = false\n[decide]\nconfirm-ms = 100\nhold-ms = 100\n\
             stale-ms = 60000\n[capture]\nenabled = true\nuncertain-below = 1.0\n\
             confident-share = 1.0\n",
            folder.path().join("sock").display()
        );
        fs::write(folder.path().join("maskd.toml"), config).unwrap();
        fs::create_dir(folder.path().join("camera")).unwrap();
        fs::copy(
            frame("maksssksksss10.jpg"),
            folder.path().join("camera/1.jpg"),
        )
        .unwrap();
        Door { folder, port }
    }

    /// Creates a device that has imported a model and uses it.
    fn with_model() -> Door {
        let door = Door::new();
        let head = door.head(1.0);
        let state = door.state();
        let mut command = door.command(&["heads", "import", head.to_str().unwrap()]);
        let output = command.arg("--state").arg(state).output().unwrap();
        assert_eq!(text(&output.stdout), "model 1 is in use now\n");
        door
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn state(&self) -> PathBuf {
        self.at("state")
    }

    /// Writes a head that predicts `with_mask` more often than the built-in head.
    fn head(&self, added: f32) -> PathBuf {
        let path = self.at(&format!("{added}.onnx"));
        head(&path, |file| {
            let masked = file.labels.iter().position(|label| label == "with_mask");
            file.head.b2[masked.unwrap()] += added;
        });
        path
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = maskd();
        command.args(words);
        command.arg("--config").arg(self.at("maskd.toml"));
        command
    }

    fn run(&self) -> Command {
        let mut command = self.command(&["run", "--json", "--rate", "10"]);
        command.arg("--state").arg(self.state());
        command.arg("--source").arg(self.at("camera"));
        command
    }

    fn spawn(&self, command: Command) -> Running {
        Running::start(command, self.folder.path())
    }

    fn start(&self) -> Running {
        self.spawn(self.run())
    }

    fn ask(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    fn status(&self) -> Option<Value> {
        let output = self.ask(&["status", "--json"]);
        let there = output.status.success();
        there.then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    /// Waits until the daemon makes a decision while learning is off, and returns the
    /// status.
    fn off(&self, running: &mut Running) -> Value {
        wait_for("a decision without learning", || {
            let over = running.child.try_wait().unwrap();
            assert_eq!(over, None, "{}", running.log());
            let status = self.status()?;
            let is_off = status["live"]["learning_off"].is_string();
            (is_off && status["live"]["decision"] == "mask").then_some(status)
        })
    }

    fn on(&self) -> Value {
        wait_for("learning", || {
            let status = self.status()?;
            let live = &status["live"];
            let is_on = live["learning_off"].is_null() && live["frames"].as_u64() > Some(3);
            is_on.then_some(status)
        })
    }

    fn get(&self, path: &str) -> String {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let port = self.port;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Checks that all interfaces report that learning is off, and give the reason.
    fn assert_says_off(&self, running: &Running, reason: &str) {
        let status = self.status().unwrap();
        let off = status["live"]["learning_off"].as_str().unwrap();
        assert!(off.contains(reason), "{off}");
        let words = text(&self.ask(&["status"]).stdout);
        assert!(words.contains("learning    off: "), "{words}");
        assert!(words.contains(reason), "{words}");
        // The log has a thread of its own, which may be later than the answers.
        let log = wait_for("the line in the log", || {
            let log = running.log();
            log.contains("nothing is learned").then_some(log)
        });
        let said = log.matches("nothing is learned").count();
        assert_eq!(said, 1, "once: {log}");
        assert!(log.contains(reason), "{log}");
        let page = self.get("/api/v1/status");
        assert!(page.contains("\"learning_off\":"), "{page}");
        let metrics = self.get("/metrics");
        assert!(metrics.contains("\nmaskd_learning_off 1"), "{metrics}");
        assert!(metrics.contains("\nmaskd_healthy 1"), "{metrics}");
        assert_refused(&self.ask(&["samples", "list"]), 69, "nothing is learned");
        assert_refused(
            &self.ask(&["enroll", "chin", "--count", "1"]),
            69,
            "nothing is learned",
        );
    }

    /// Checks that everything that needs the disk works.
    fn assert_learns(&self) {
        let status = self.on();
        assert_eq!(status["live"]["capture"]["on"], true, "{status}");
        let metrics = self.get("/metrics");
        assert!(metrics.contains("\nmaskd_learning_off 0"), "{metrics}");
        let head = self.head(2.0);
        let before = status["live"]["head"].as_u64().unwrap_or(0);
        let output = self.ask(&["heads", "import", head.to_str().unwrap()]);
        let imported = text(&output.stdout);
        assert_eq!(imported, format!("model {} is in use now\n", before + 1));
        wait_for("the model", || {
            let live = &self.status()?["live"];
            (live["head"].as_u64() == Some(before + 1)).then_some(())
        });
        wait_for("a face picture", || {
            let live = &self.status()?["live"];
            (live["capture"]["stored"].as_u64() > Some(0)).then_some(())
        });
    }
}

#[test]
fn a_file_in_the_place_of_the_directory() {
    let door = Door::new();
    fs::write(door.state(), "").unwrap();
    let mut running = door.start();
    let status = door.off(&mut running);
    assert_eq!(status["live"]["head"], Value::Null, "{status}");
    assert_eq!(status["live"]["capture"]["on"], false, "{status}");
    door.assert_says_off(&running, &door.state().display().to_string());
    fs::remove_file(door.state()).unwrap();
    door.assert_learns();
    let log = running.stop();
    assert_eq!(log.matches("learning is on").count(), 1, "{log}");
}

#[test]
fn a_directory_that_cannot_be_made() {
    let door = Door::new();
    let mut command = door.command(&["run", "--json", "--rate", "10"]);
    command.arg("--state").arg("/proc/maskd/state");
    command.arg("--source").arg(door.at("camera"));
    let mut running = door.spawn(command);
    door.off(&mut running);
    door.assert_says_off(&running, "/proc/maskd");
    running.stop();
}

#[test]
fn a_directory_of_a_newer_version() {
    let door = Door::with_model();
    let format = door.state().join("format");
    for unknown in ["2\n", "garbage"] {
        fs::write(&format, unknown).unwrap();
        let mut running = door.start();
        let status = door.off(&mut running);
        assert_eq!(status["live"]["head"], Value::Null, "{status}");
        let note = status["live"]["head_note"].as_str().unwrap();
        assert!(note.contains("the built-in model is used"), "{note}");
        door.assert_says_off(&running, "format");
        assert_eq!(fs::read(&format).unwrap(), unknown.as_bytes());
        running.stop();
    }
    fs::write(&format, "2\n").unwrap();
    let mut running = door.start();
    door.off(&mut running);
    fs::write(&format, "1\n").unwrap();
    let status = wait_for("the learned model", || {
        let status = door.status()?;
        let live = &status["live"];
        (live["head"] == 1 && live["learning_off"].is_null()).then_some(status)
    });
    assert_eq!(status["live"]["head_note"], Value::Null, "{status}");
    assert_eq!(status["live"]["learning_off"], Value::Null, "{status}");
    running.stop();
}

#[test]
fn a_part_that_cannot_be_used() {
    for part in ["samples", "samples/.features", "heads/.lock"] {
        let door = Door::with_model();
        let path = door.state().join(part);
        let aside = door.at("aside");
        fs::rename(&path, &aside).unwrap();
        if part.ends_with("lock") {
            fs::create_dir(&path).unwrap();
        } else {
            fs::write(&path, "").unwrap();
        }
        let mut running = door.start();
        // The daemon can still read the learned model, so it uses this model.
        let status = door.off(&mut running);
        assert_eq!(status["live"]["head"], 1, "{part}: {status}");
        door.assert_says_off(&running, "state/");
        // Replace the folder in one step. If the folder were missing for a moment, the
        // daemon would create a new one.
        let (cwd, exchange) = (rustix::fs::CWD, RenameFlags::EXCHANGE);
        rustix::fs::renameat_with(cwd, &aside, cwd, &path, exchange).unwrap();
        door.assert_learns();
        running.stop();
    }
}

#[test]
fn damaged_records_do_not_turn_learning_off() {
    let door = Door::with_model();
    for record in ["refit.json", "fleet.json", "rejected.json", "heads/current"] {
        fs::write(door.state().join(record), b"\xff garbage").unwrap();
    }
    let running = door.start();
    let status = door.on();
    assert_eq!(status["live"]["head"], 1, "{status}");
    let note = status["live"]["head_note"].as_str().unwrap();
    assert!(note.contains("heads/current is damaged"), "{note}");
    let words = text(&door.ask(&["status"]).stdout);
    assert!(words.contains("heads/current is damaged"), "{words}");
    door.assert_learns();
    let status = door.status().unwrap();
    assert_eq!(status["live"]["head_note"], Value::Null, "{status}");
    running.stop();
}

#[test]
fn a_command_that_has_the_directory_open() {
    let door = Door::with_model();
    let (_, base) = open_model(None).unwrap();
    let options = LearningOptions::default();
    let held = Learning::open(&door.state(), Arc::new(base), options).unwrap();
    let mut running = door.start();
    let status = door.off(&mut running);
    assert_eq!(status["live"]["head"], 1, "{status}");
    door.assert_says_off(&running, "another maskd");
    drop(held);
    door.assert_learns();
    running.stop();
}

/// Starts a daemon in a separate mount namespace. There, `script` first prepares the state
/// directory, whose path is in `$0`. Returns `None` if this is not possible on this
/// machine.
fn in_namespace(door: &Door, script: &str) -> Option<Running> {
    let script = format!("{{ {script}\n}} && echo mounted >&2 && exec \"$@\"");
    let mut run = door.run();
    run.env("GO", door.at("go"));
    start_with_mounts(&run, &script, door.folder.path(), &door.state())
}

#[test]
fn a_disk_that_is_read_only_from_the_start() {
    let door = Door::with_model();
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" || exit 1\n\
                  ( for i in $(seq 1800); do [ -e \"$GO\" ] && break; sleep 0.1; done\n\
                  mount -o remount,bind,rw \"$0\" ) &";
    let Some(mut running) = in_namespace(&door, script) else {
        return;
    };
    let status = door.off(&mut running);
    assert_eq!(status["live"]["head"], 1, "{status}");
    door.assert_says_off(&running, "Read-only file system");
    fs::write(door.at("go"), "").unwrap();
    door.assert_learns();
    running.stop();
}

#[test]
fn a_disk_that_is_full_from_the_start() {
    let door = Door::new();
    fs::create_dir(door.state()).unwrap();
    let script = "mount -t tmpfs -o size=64k maskd \"$0\" || exit 1\n\
                  dd if=/dev/zero of=\"$0/filler\" bs=4k count=100 2>/dev/null\n\
                  ( for i in $(seq 1800); do [ -e \"$GO\" ] && break; sleep 0.1; done\n\
                  rm \"$0/filler\"; mount -o remount,size=8m \"$0\" ) &";
    let Some(mut running) = in_namespace(&door, script) else {
        return;
    };
    door.off(&mut running);
    door.assert_says_off(&running, "No space left");
    fs::write(door.at("go"), "").unwrap();
    door.assert_learns();
    running.stop();
}

#[test]
fn a_disk_that_hangs_from_the_start() {
    let door = Door::with_model();
    // Mount a FUSE file system whose program never responds. The file system ends when
    // the last descriptor is closed.
    let script = "{ exec 3<>/dev/fuse; } 2>/dev/null || exit 1\n\
                  mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 maskd \"$0\" \
                  2>/dev/null || exit 1\n\
                  ( for i in $(seq 1800); do [ -e \"$GO\" ] && break; sleep 0.1; done\n\
                  exec 3>&-; umount -l \"$0\" ) &\n\
                  exec 3>&-";
    let Some(mut running) = in_namespace(&door, script) else {
        return;
    };
    let status = door.off(&mut running);
    assert_eq!(status["live"]["head"], Value::Null, "{status}");
    door.assert_says_off(&running, "does not answer");
    fs::write(door.at("go"), "").unwrap();
    wait_for("the learned model", || {
        (door.status()?["live"]["head"] == 1).then_some(())
    });
    door.assert_learns();
    let log = running.stop();
    assert_eq!(log.matches("learning is on").count(), 1, "{log}");
}

#[test]
fn a_disk_that_hangs_does_not_delay_a_stop() {
    let door = Door::new();
    fs::create_dir(door.state()).unwrap();
    let script = "{ exec 3<>/dev/fuse; } 2>/dev/null || exit 1\n\
                  mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 maskd \"$0\" \
                  2>/dev/null || exit 1\n\
                  ( for i in $(seq 1800); do [ -e \"$GO\" ] && break; sleep 0.1; done ) &\n\
                  exec 3>&-";
    let Some(mut running) = in_namespace(&door, script) else {
        return;
    };
    door.off(&mut running);
    interrupt(&running.child, "-TERM");
    let code = wait(&mut running.child, Duration::from_secs(5));
    fs::write(door.at("go"), "").unwrap();
    assert_eq!(code, Some(0), "{}", running.log());
}

#[test]
fn the_check_finds_what_is_wrong_with_the_directory() {
    let door = Door::with_model();
    let check = || {
        let mut command = door.command(&["check"]);
        let output = command.arg("--state").arg(door.state()).output().unwrap();
        let report = text(&output.stdout);
        let mut lines = report.lines().filter(|line| line.contains(" state "));
        lines.next().unwrap().to_owned()
    };
    assert!(check().starts_with("ok "), "{}", check());
    fs::write(door.state().join("heads/000001.onnx"), b"garbage").unwrap();
    let line = check();
    assert!(
        line.starts_with("BAD ") && line.contains("model 1 is damaged"),
        "{line}"
    );
    fs::write(door.state().join("format"), b"2\n").unwrap();
    let line = check();
    assert!(
        line.starts_with("BAD ") && line.contains("has the format 2"),
        "{line}"
    );
}

#[test]
fn a_second_daemon_is_refused() {
    let door = Door::new();
    let running = door.start();
    door.on();
    let second = door.run().args(["--once", "--log", "error"]).output();
    assert_refused(&second.unwrap(), 75, "another maskd");
    running.stop();
}

#[test]
fn commands_refuse_a_directory_that_cannot_be_used() {
    let door = Door::new();
    fs::write(door.state(), "").unwrap();
    for words in [&["samples", "list"][..], &["heads", "list"], &["refit"]] {
        let mut command = door.command(words);
        let output = command.arg("--state").arg(door.state()).output().unwrap();
        let code = output.status.code().unwrap();
        assert_refused(&output, code, "state");
        assert!(code > 1, "{code}");
    }
    assert!(Path::new(&door.state()).is_file());
}
