//! Tests learning while the camera runs: what the real daemon captures, how it handles
//! labels and heads, and what is on disk after a kill.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and measure time"
)]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::{
    Running, assert_refused, frame, head, maskd, pieces, root, start_with_mounts, stdout_of, text,
    wait_for,
};

/// A config that captures every crop, except for near-duplicates of recent crops.
const CAPTURE_ALL: &str = "[capture]\nenabled = true\nuncertain-below = 1.0\n\
                     confident-share = 1.0\nmax-per-track = 1000\nmax-per-hour = 10000\n";
/// A config with a short confirmation time, and with a timeout that is long enough to
/// avoid faults on slow machines.
const LENIENT: &str = "[decide]\nconfirm-ms = 100\nhold-ms = 100\nstale-ms = 60000\n";
const NO_REFIT: &str = "[refit]\nenabled = false\n";

/// A device with a config, a state directory, and a folder of pictures as its camera.
struct Door {
    folder: tempfile::TempDir,
}

impl Door {
    fn new(config: &[&str]) -> Door {
        let door = Door {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(door.at("camera")).unwrap();
        fs::write(door.at("maskd.toml"), config.concat()).unwrap();
        door
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn state(&self) -> PathBuf {
        self.at("state")
    }

    /// Makes the camera show the example photographs one after another.
    fn with_all_photos(self) -> Door {
        for entry in fs::read_dir(root().join("assets/frames")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().unwrap() == "jpg" {
                fs::copy(&path, self.at("camera").join(path.file_name().unwrap())).unwrap();
            }
        }
        self
    }

    /// Makes the camera show one person at `count` different brightness levels.
    fn with_one_person(self, name: &str, count: i32) -> Door {
        let picture = image::open(frame(name)).unwrap();
        for number in 0..count {
            let path = self.at("camera").join(format!("{number:02}.png"));
            picture.brighten(9 * number - 60).save(path).unwrap();
        }
        self
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = maskd();
        command
            .args(words)
            .arg("--config")
            .arg(self.at("maskd.toml"));
        command
    }

    fn maskd(&self, words: &[&str]) -> Output {
        let mut command = self.command(words);
        command.arg("--state").arg(self.state()).output().unwrap()
    }

    #[track_caller]
    fn stdout(&self, words: &[&str]) -> String {
        stdout_of(words, &self.maskd(words))
    }

    #[track_caller]
    fn json(&self, words: &[&str]) -> Value {
        let words = [words, &["--json"]].concat();
        serde_json::from_str(&self.stdout(&words)).unwrap()
    }

    #[track_caller]
    fn status(&self) -> Value {
        self.json(&["status"])
    }

    fn ids(&self, label: &str) -> Vec<String> {
        let all = self.json(&["samples", "list"]);
        let of_label = all
            .as_array()
            .unwrap()
            .iter()
            .filter(|sample| sample["label"].as_str().unwrap_or("unlabelled") == label);
        of_label
            .map(|sample| sample["id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Runs the daemon on each picture from the camera once, until it exits.
    fn run_once(&self) -> String {
        let mut command = self.command(&["run", "--once", "--json", "--rate", "5"]);
        command.arg("--state").arg(self.state());
        command.arg("--source").arg(self.at("camera"));
        let output = command.output().unwrap();
        let logs = text(&output.stderr);
        assert!(output.status.success(), "{logs}");
        logs
    }

    fn spawn(&self, command: Command) -> Running {
        Running::start(command, self.folder.path())
    }

    /// Builds a command that runs a daemon. The daemon shows the pictures in a loop, at
    /// `rate` pictures per second.
    fn run(&self, rate: &str) -> Command {
        let mut command = self.command(&["run", "--json", "--rate", rate]);
        command.arg("--state").arg(self.state());
        command.arg("--source").arg(self.at("camera"));
        command
    }

    fn open(&self) -> Running {
        let mut running = self.spawn(self.run("10"));
        wait_for("the socket", || {
            let status = self.maskd(&["status"]);
            let over = running.child.try_wait().unwrap();
            assert_eq!(over, None, "{}", running.log());
            (status.status.code() == Some(0)).then_some(())
        });
        running
    }

    /// Creates a folder with pictures cut from the golden crops. There are twelve
    /// different pictures for each class.
    fn pictures(&self) -> String {
        let set = self.at("set");
        pieces(&set);
        set.to_str().unwrap().to_owned()
    }

    /// Writes a copy of the built-in head to a file. In the copy, the bias of the label is
    /// increased by `added`.
    fn head(&self, label: &str, added: f32) -> String {
        head(&self.at(&format!("{label}.onnx")), |file| {
            let at = file.labels.iter().position(|name| name == label).unwrap();
            file.head.b2[at] += added;
        })
    }
}

/// Returns all files in a folder and its subfolders.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

fn ending<'a>(files: &'a [PathBuf], ending: &str) -> Vec<&'a PathBuf> {
    let files = files.iter();
    files
        .filter(|path| path.extension().is_some_and(|found| found == ending))
        .collect()
}

#[test]
fn nothing_is_captured_by_default() {
    let door = Door::new(&[LENIENT]).with_all_photos();
    let running = door.open();
    let status = wait_for("some faces", || {
        let status = door.status();
        (status["live"]["frames"].as_u64() > Some(30)).then_some(status)
    });
    assert_eq!(status["live"]["capture"]["on"], false, "{status}");
    assert_eq!(status["live"]["capture"]["stored"], 0, "{status}");
    assert_eq!(status["samples"], serde_json::json!({}), "{status}");
    assert!(
        door.stdout(&["status"])
            .contains("capture     off; 0 stored")
    );
    running.stop();
    let kept = files(&door.state());
    assert!(!kept.is_empty(), "the state directory was not found");
    assert!(ending(&kept, "jpg").is_empty() && ending(&kept, "feature").is_empty());
}

#[test]
fn crops_that_show_something_new_are_kept_with_their_features() {
    let door = Door::new(&[CAPTURE_ALL, LENIENT]).with_all_photos();
    let running = door.open();
    let status = wait_for("three rounds", || {
        let status = door.status();
        let seen = status["live"]["frames"].as_u64() > Some(45);
        let stored = status["live"]["capture"]["stored"].as_u64() > Some(0);
        (seen && stored).then_some(status)
    });
    assert_eq!(status["live"]["capture"]["on"], true, "{status}");
    let logs = running.stop();
    assert!(
        !logs.contains(".jpg"),
        "no path of a face is logged: {logs}"
    );

    let kept = files(&door.state().join("samples"));
    let pictures = ending(&kept, "jpg");
    // The photographs have 22 labeled faces, and the detector finds a few more.
    assert!(
        (10..=30).contains(&pictures.len()),
        "once, rather than once a round: {}",
        pictures.len()
    );
    for picture in pictures {
        assert!(picture.starts_with(door.state().join("samples/unlabelled")));
        assert_eq!(image::open(picture).unwrap().width(), 224);
        let name = picture.file_stem().unwrap().to_str().unwrap();
        let feature = format!("samples/.features/{name}.feature");
        assert!(door.state().join(feature).exists(), "{name}");
    }
    let listed = door.json(&["samples", "list"]);
    let mut listed = listed.as_array().unwrap().iter();
    assert!(listed.all(|sample| sample["features"] == true));
}

#[test]
fn one_face_is_kept_once_and_one_track_only_so_often() {
    let door = Door::new(&[CAPTURE_ALL, LENIENT]);
    for copy in 0..5 {
        let path = door.at("camera").join(format!("{copy}.jpg"));
        fs::copy(frame("maksssksksss10.jpg"), path).unwrap();
    }
    door.run_once();
    assert_eq!(door.ids("unlabelled").len(), 1);

    let few = CAPTURE_ALL.replace("1000\n", "3\nnear-duplicate-distance = 0.0\n");
    assert!(few.contains("max-per-track = 3"));
    let door = Door::new(&[&few, LENIENT]).with_one_person("maksssksksss10.jpg", 12);
    door.run_once();
    let mut tracks: BTreeMap<String, usize> = BTreeMap::new();
    for sample in door.json(&["samples", "list"]).as_array().unwrap() {
        let track = sample["track"].as_str().unwrap().to_owned();
        *tracks.entry(track).or_default() += 1;
    }
    assert_eq!(tracks.values().max(), Some(&3), "{tracks:?}");
}

#[test]
fn with_keep_features_no_picture_is_on_disk() {
    let features = CAPTURE_ALL.replace("[capture]\n", "[capture]\nkeep = \"features\"\n");
    let door = Door::new(&[&features, LENIENT]).with_all_photos();
    door.run_once();
    let kept = files(&door.state());
    assert!(ending(&kept, "feature").len() >= 10, "{kept:?}");
    for path in &kept {
        let bytes = fs::read(path).unwrap();
        assert!(image::guess_format(&bytes).is_err(), "{}", path.display());
        // No file may contain the first bytes of a JPEG at any position.
        let starts = bytes.windows(4).any(|four| four == b"\xff\xd8\xff\xe0");
        assert!(!starts, "{}", path.display());
    }
    let ids = door.ids("unlabelled");
    assert_eq!(
        door.stdout(&["label", &ids[0], "with_mask"]),
        "1 labeled with_mask\n"
    );
    assert_eq!(door.ids("with_mask"), [ids[0].clone()]);
}

#[test]
fn labels_survive_a_kill_however_they_were_given() {
    let door = Door::new(&[CAPTURE_ALL, LENIENT, NO_REFIT]).with_all_photos();
    let running = door.open();
    let ids = wait_for("crops", || {
        let ids = door.ids("unlabelled");
        (ids.len() >= 8).then_some(ids)
    });
    assert_eq!(
        door.stdout(&["label", &ids[0], &ids[1], "with_mask"]),
        "2 labeled with_mask\n"
    );
    running.kill();
    for id in &ids[..2] {
        let path = format!("samples/with_mask/{id}.jpg");
        assert!(door.state().join(path).exists(), "{id}");
    }

    let running = door.open();
    let samples = door.state().join("samples");
    let name = format!("{}.jpg", ids[2]);
    fs::create_dir_all(samples.join("without_mask")).unwrap();
    fs::rename(
        samples.join("unlabelled").join(&name),
        samples.join("without_mask").join(&name),
    )
    .unwrap();
    assert_eq!(door.ids("without_mask"), [ids[2].clone()]);
    let status = door.status();
    assert_eq!(status["new_labels"], 3, "{status}");
    assert_eq!(status["samples"]["without_mask"]["samples"], 1, "{status}");

    let enrolled = door.stdout(&["enroll", "chin", "--count", "3", "--seconds", "60"]);
    assert!(
        enrolled.ends_with("3 face pictures of chin were stored\n"),
        "{enrolled}"
    );
    running.kill();
    assert_eq!(files(&samples.join("chin")).len(), 3);
    assert_eq!(door.ids("with_mask"), ids[..2]);
    assert_eq!(door.ids("without_mask"), [ids[2].clone()]);
    assert_eq!(door.ids("chin").len(), 3);
}

#[test]
fn enough_new_labels_start_a_refit() {
    let door =
        Door::new(&[CAPTURE_ALL, LENIENT, "[refit]\nmin-new-labels = 4\n"]).with_all_photos();
    let running = door.open();
    let ids = wait_for("crops", || {
        let ids = door.ids("unlabelled");
        (ids.len() >= 4).then_some(ids)
    });
    door.stdout(&["label", &ids[0], &ids[1], &ids[2], "with_mask"]);
    let status = door.status();
    assert_eq!(status["last_refit"], Value::Null, "too few: {status}");
    assert_eq!(status["new_labels"], 3, "{status}");
    door.stdout(&["label", &ids[3], "without_mask"]);
    let status = wait_for("a refit", || {
        let status = door.status();
        (!status["last_refit"].is_null()).then_some(status)
    });
    assert_eq!(status["new_labels"], 0, "{status}");
    let outcome = &status["last_refit"]["outcome"];
    assert_eq!(outcome["counts"][0]["samples"], 3, "{status}");
    let logs = running.stop();
    assert!(logs.contains("accepted="), "{logs}");
}

#[test]
fn a_head_is_swapped_between_two_frames_and_back() {
    let door = Door::new(&[LENIENT]);
    let only = door.at("camera").join("masked.jpg");
    fs::copy(frame("maksssksksss10.jpg"), only).unwrap();
    let bare = door.head("without_mask", 100.0);
    let running = door.open();
    let decided = |decision: &str| {
        wait_for(decision, || {
            let status = door.status();
            (status["live"]["decision"] == decision).then_some(status)
        })
    };
    let frames = |status: &Value| {
        let count = |key: &str| status["live"][key].as_u64().unwrap();
        (count("frames"), count("skipped"))
    };
    let before = decided("mask");
    assert_eq!(before["live"]["head"], Value::Null);

    assert_eq!(
        door.stdout(&["heads", "import", &bare]),
        "model 1 is in use now\n"
    );
    let during = decided("no_mask");
    assert_eq!(during["live"]["head"], 1, "{during}");

    assert_eq!(
        door.stdout(&["rollback"]),
        "the built-in model is in use now\n"
    );
    let after = decided("mask");
    assert_eq!(after["live"]["head"], Value::Null, "{after}");

    assert_eq!(
        door.stdout(&["heads", "use", "1"]),
        "model 1 is in use now\n"
    );
    decided("no_mask");
    let list = door.stdout(&["heads", "list"]);
    assert!(
        list.starts_with("  model 0  the built-in model") && list.contains("\n* model 1  "),
        "{list}"
    );
    assert_eq!(
        door.stdout(&["heads", "use", "0"]),
        "the built-in model is in use now\n"
    );
    let after = decided("mask");

    let ((first, skipped), (last, skipped_at_last)) = (frames(&before), frames(&after));
    assert!(last > first, "{after}");
    assert!(
        skipped_at_last - skipped < 10,
        "frames were skipped: {before} {after}"
    );
    // There must be no fault and no restart in between. The decision may be idle until
    // frames that were classified with the new head confirm each other.
    let mut decisions = running.decisions();
    decisions.retain(|decision| decision != "idle");
    assert_eq!(decisions, ["mask", "no_mask", "mask", "no_mask", "mask"]);
    let logs = running.stop();
    assert_eq!(logs.matches("ready").count(), 1, "{logs}");
}

/// Starts a daemon whose state directory is on a separate small disk. Returns `None` if
/// disks cannot be mounted on this machine.
fn on_small_disk(door: &Door, before: &str) -> Option<Running> {
    fs::create_dir(door.state()).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=400k maskd \"$0\" && echo mounted >&2 && {{ {before}\n\
         exec \"$@\"; }}"
    );
    let mut run = door.run("10");
    run.env("GO", door.at("go")).env("GONE", door.at("gone"));
    start_with_mounts(&run, &script, door.folder.path(), &door.state())
}

/// Creates a device whose socket is outside the state directory. The camera has more
/// pictures than the daemon keeps for detecting duplicates.
fn busy_door() -> Door {
    let eager = CAPTURE_ALL.replace("[capture]\n", "[capture]\nnear-duplicate-distance = 0.0\n");
    let door = Door::new(&[&eager, LENIENT, NO_REFIT]).with_all_photos();
    for path in files(&door.at("camera")) {
        let picture = image::open(&path).unwrap();
        for light in [-40, -20, 20, 40] {
            let name = format!("{}{light}.jpg", path.file_stem().unwrap().display());
            let other = path.with_file_name(name);
            picture.brighten(light).save(other).unwrap();
        }
    }
    let socket = door.at("sock");
    let mut config = fs::read_to_string(door.at("maskd.toml")).unwrap();
    config += &format!("[control]\nsocket = \"{}\"\n", socket.display());
    fs::write(door.at("maskd.toml"), config).unwrap();
    door
}

/// Returns the status of a daemon with a state directory that the test cannot access.
fn status_by_socket(door: &Door) -> Option<Value> {
    let output = door.command(&["status", "--json"]).output().unwrap();
    let there = output.status.success();
    there.then(|| serde_json::from_slice(&output.stdout).unwrap())
}

/// Waits until capturing is off, checks that detection continues, and returns the
/// reported reason.
fn off_because(door: &Door) -> String {
    let status = || status_by_socket(door);
    let off = wait_for("capturing to be turned off", || {
        status().filter(|status| !status["live"]["capture"]["off_because"].is_null())
    });
    assert_eq!(off["live"]["capture"]["on"], false, "{off}");
    let frames = |status: &Value| status["live"]["frames"].as_u64().unwrap();
    wait_for("more frames", || {
        status().filter(|status| frames(status) > frames(&off) + 20)
    });
    let output = door.command(&["status"]).output().unwrap();
    let words = text(&output.stdout);
    let why = off["live"]["capture"]["off_because"].as_str().unwrap();
    assert!(words.contains(&format!("off: {why}")), "{words}");
    why.to_owned()
}

#[test]
fn a_full_disk_ends_capturing_and_nothing_else() {
    let door = busy_door();
    let Some(running) = on_small_disk(&door, "") else {
        return;
    };
    assert_eq!(off_because(&door), "the disk is full");
    let logs = running.stop();
    assert_eq!(logs.matches("WARN").count(), 1, "{logs}");
    assert_eq!(
        logs.matches("face pictures are no longer captured").count(),
        1
    );
}

#[test]
fn a_disk_that_becomes_read_only_ends_capturing_and_nothing_else() {
    let door = busy_door();
    // Make the disk read-only while files are open, as the kernel does when a memory
    // card fails.
    let later = "( for i in $(seq 900); do [ -e \"$GO\" ] && break; sleep 0.1; done\n\
                 mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" &&\n\
                 touch \"$GONE\" ) &";
    let Some(running) = on_small_disk(&door, later) else {
        return;
    };
    wait_for("the daemon", || status_by_socket(&door));
    fs::write(door.at("go"), "").unwrap();
    wait_for("a read-only disk", || {
        door.at("gone").exists().then_some(())
    });
    assert_eq!(off_because(&door), "the state directory cannot be written");
    let logs = running.stop();
    assert_eq!(
        logs.matches("face pictures are no longer captured").count(),
        1
    );
}

#[test]
fn a_damaged_head_is_passed_over() {
    let door = Door::new(&[LENIENT]).with_all_photos();
    let masked = door.head("with_mask", 1.0);
    let bare = door.head("without_mask", 1.0);
    door.stdout(&["heads", "import", &masked]);
    door.stdout(&["heads", "import", &bare]);
    let head = door.state().join("heads/000002.onnx");
    let length = head.metadata().unwrap().len();
    let file = File::options().write(true).open(&head).unwrap();
    file.set_len(length / 2).unwrap();
    let running = door.open();
    let status = wait_for("frames", || {
        let status = door.status();
        (status["live"]["frames"].as_u64() > Some(3)).then_some(status)
    });
    assert_eq!(status["live"]["head"], 1, "{status}");
    let logs = running.stop();
    assert_eq!(logs.matches("WARN").count(), 1, "{logs}");
    assert!(logs.contains("model 2 is damaged"), "{logs}");
}

#[test]
fn a_state_directory_belongs_to_one_daemon() {
    let door = Door::new(&[LENIENT]).with_all_photos();
    let running = door.open();
    let second = door
        .run("10")
        .args(["--once", "--log", "error"])
        .output()
        .unwrap();
    assert_refused(&second, 75, "another maskd");
    // The first daemon must keep running.
    assert!(door.status()["live"]["frames"].is_u64());
    running.stop();
}

#[test]
fn without_a_state_directory_faces_are_still_classified() {
    let door = Door::new(&[CAPTURE_ALL, LENIENT]).with_all_photos();
    let usual = door.at("usual");
    fs::create_dir(&usual).unwrap();
    // There is a file where the folder should be.
    fs::write(usual.join("maskd"), "").unwrap();
    let mut command = door.command(&["run", "--once", "--json", "--rate", "5"]);
    command.env("XDG_STATE_HOME", &usual).env("HOME", &usual);
    let output = command.arg("--source").arg(door.at("camera")).output();
    let output = output.unwrap();
    let logs = text(&output.stderr);
    assert!(output.status.success(), "{logs}");
    assert!(text(&output.stdout).contains("\"mask\""));
    assert_eq!(logs.matches("WARN").count(), 1, "{logs}");
    assert!(logs.contains("nothing is learned"), "{logs}");

    // A warning must appear only if a directory was named or the config stores
    // something.
    let quiet = Door::new(&[LENIENT]).with_all_photos();
    let mut command = quiet.command(&["run", "--once", "--json", "--rate", "5"]);
    command.env("XDG_STATE_HOME", quiet.at("none"));
    let output = command.arg("--source").arg(quiet.at("camera")).output();
    let output = output.unwrap();
    assert!(output.status.success());
    assert!(!text(&output.stderr).contains("WARN"));
    assert!(!quiet.at("none").exists());

    // The counts and the page need the directory, so it is created.
    let counting = Door::new(&["[counts]\nenabled = true\n", LENIENT]).with_all_photos();
    let mut command = counting.command(&["run", "--once", "--json", "--rate", "5"]);
    command.env("XDG_STATE_HOME", counting.at("none"));
    let output = command.arg("--source").arg(counting.at("camera")).output();
    let output = output.unwrap();
    assert!(output.status.success());
    let logs = text(&output.stderr);
    assert!(counting.at("none/maskd/counts").is_dir(), "{logs}");
}

#[test]
fn a_stop_does_not_wait_for_a_refit() {
    let door = Door::new(&[LENIENT, NO_REFIT]).with_all_photos();
    let running = door.open();
    door.stdout(&["samples", "import", &door.pictures()]);
    let mut asking = door.command(&["refit"]);
    asking.arg("--state").arg(door.state());
    asking.stdout(Stdio::null()).stderr(Stdio::piped());
    let asking = asking.spawn().unwrap();
    wait_for("the refit", || {
        (door.status()["live"]["refitting"] == true).then_some(())
    });
    let logs = running.stop();
    assert!(logs.contains("stopped"), "{logs}");
    assert!(
        !logs.contains("accepted="),
        "the refit was not finished: {logs}"
    );
    let answer = asking.wait_with_output().unwrap();
    let errors = text(&answer.stderr);
    assert!(!answer.status.success());
    assert_eq!(errors.lines().count(), 1, "one sentence: {errors}");
    // Leftover files must not affect the next command.
    assert_eq!(door.ids("with_mask").len(), 12);
}

#[test]
fn a_board_with_too_little_voltage_learns_later() {
    if Path::new("/sys/devices/platform/soc/soc:firmware/get_throttled").exists() {
        println!("skipped: this board reports its own throttling");
        return;
    }
    let door = Door::new(&[LENIENT, "[refit]\nmin-new-labels = 10\n"]).with_all_photos();
    let bits = door.at("bits");
    fs::write(&bits, "throttled=0x50001\n").unwrap();
    let program = door.at("vcgencmd");
    let script = format!("#!/bin/sh\nexec cat '{}'\n", bits.display());
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = door.run("10");
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{path}", door.at("").display()));
    let running = door.spawn(command);
    let status = wait_for("the board's condition", || {
        let status = door.maskd(&["status", "--json"]);
        let status: Value = serde_json::from_slice(&status.stdout).ok()?;
        status["live"]["learning_waits"]
            .is_string()
            .then_some(status)
    });
    assert_eq!(
        status["live"]["board"]["throttling"]["under_voltage"], true,
        "{status}"
    );
    let words = door.stdout(&["status"]);
    assert!(
        words.contains(
            "supply voltage too low; training waits: \
             the voltage of the board's supply is too low\n"
        ),
        "{words}"
    );

    door.stdout(&["samples", "import", &door.pictures()]);
    assert_refused(
        &door.maskd(&["refit"]),
        75,
        "training waits because the voltage of the board's supply is too low; try again later",
    );
    assert_eq!(door.status()["last_refit"], Value::Null);

    // This value means that the voltage was too low earlier. This is not a reason to wait
    // now.
    fs::write(&bits, "throttled=0x50000\n").unwrap();
    wait_for("the refit that was put off", || {
        door.status()["last_refit"].is_object().then_some(())
    });
    assert_eq!(door.status()["live"]["learning_waits"], Value::Null);
    let log = running.stop();
    assert_eq!(log.matches("training waits").count(), 1, "{log}");
    assert_eq!(log.matches("training may go on").count(), 1, "{log}");
}

#[test]
fn still_frames_are_detected_once_and_settled_tracks_not_classified_again() {
    let counts = |config: &str| {
        let door = Door::new(&[LENIENT, config]);
        fs::copy(frame("maksssksksss10.jpg"), door.at("camera/one.jpg")).unwrap();
        let running = door.open();
        let status = wait_for("some frames", || {
            let status = door.status();
            (status["live"]["frames"].as_u64() > Some(20)).then_some(status)
        });
        assert_eq!(status["live"]["faces"], 1, "{status}");
        running.stop();
        ["frames", "detections", "classified"].map(|count| status["live"][count].as_u64().unwrap())
    };
    let [frames, detections, classifications] = counts(
        "[detect]\nidle-interval-ms = 60000\n[track]\nreclassify-interval-ms = 60000\nvote-window = 5\n",
    );
    // Detection is skipped only after three frames have confirmed the mask, and a track is
    // settled after five votes.
    assert!(
        (3..=5).contains(&detections),
        "{detections} of {frames} frames"
    );
    assert_eq!(classifications, 5, "of {frames} frames");
    let [frames, detections, classifications] =
        counts("[detect]\nidle-interval-ms = 0\n[track]\nreclassify-interval-ms = 0\n");
    // Each count may exceed the number of frames by one, because a frame is counted
    // only after it has been processed.
    assert!(
        detections - frames <= 1 && classifications - frames <= 1,
        "{frames} {detections} {classifications}"
    );
}
