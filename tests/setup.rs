//! Tests `maskd setup` with options and on a terminal, with folders as cameras and without
//! pins. The service is tested in `tests/package/run` and `tests/rig/service`.

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
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use broker::{Broker, free_port};
use maskd::api::web::Access;
use maskd::config;
use support::{Running, assert_refused, frame, maskd, root, text, wait_for};

/// A folder with a config and a state directory for setup.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let photos = folder.path().join("photos");
        fs::create_dir(&photos).unwrap();
        fs::copy(frame("maksssksksss10.jpg"), photos.join("door.jpg")).unwrap();
        Place { folder }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command in the folder, so that paths may be relative.
    fn command(&self, name: &str, words: &[&str]) -> Command {
        let mut command = maskd();
        command.arg(name).args(["--config", "maskd.toml"]);
        command.args(["--state", "state"]).args(words);
        command.current_dir(self.folder.path());
        command
    }

    fn setup(&self, words: &[&str]) -> Output {
        self.command("setup", words).output().unwrap()
    }

    fn config(&self) -> String {
        fs::read_to_string(self.at("maskd.toml")).unwrap()
    }

    fn write_config(&self, text: &str) {
        fs::write(self.at("maskd.toml"), text).unwrap();
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    }
}

#[track_caller]
fn stdout(output: &Output) -> String {
    let errors = text(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!(errors, "");
    text(&output.stdout)
}

fn shipped() -> String {
    fs::read_to_string(root().join("config/maskd.toml")).unwrap()
}

#[test]
fn options_write_a_config_with_all_comments() {
    let place = Place::new();
    let page = format!("127.0.0.1:{}", free_port());
    let output = place.setup(&[
        "--camera",
        "photos",
        "--test-picture",
        "test.jpg",
        "--green-pin",
        "17",
        "--red-pin",
        "27",
        "--active-low",
        "red",
        "--page",
        &page,
        "--broker",
        "none",
    ]);
    let shown = stdout(&output);
    let photos = place.at("photos");
    let photos = photos.display();
    for line in [
        &format!("  A picture of 301x400 pixels arrived from {photos}.\n"),
        "  The test picture is test.jpg.\n",
        &format!("wrote {}\n", place.at("maskd.toml").display()),
        &format!("the page: http://{page}/\n"),
    ] {
        assert!(shown.contains(line), "{line:?} is not in {shown}");
    }
    let expected = shipped()
        .replace("#source = \"examples\"", &format!("source = \"{photos}\""))
        .replace("# green-pin = 17", "green-pin = 17")
        .replace("# red-pin = 27", "red-pin = 27")
        .replace("#active-low = []", "active-low = [\"red\"]")
        .replace(
            "# listen = \"127.0.0.1:8080\"",
            &format!("listen = \"{page}\""),
        );
    assert_eq!(place.config(), expected);
    let picture = image::open(place.at("test.jpg")).unwrap();
    assert_eq!((picture.width(), picture.height()), (301, 400));
    let checked = place.command("check", &[]).output().unwrap();
    assert!(checked.status.success(), "{}", text(&checked.stdout));
    let again = place.setup(&["--page", &page]);
    assert!(stdout(&again).contains("maskd.toml stays as it is\n"));
    assert_eq!(place.config(), expected);
}

#[test]
fn an_existing_config_keeps_its_comments_its_mode_and_its_other_keys() {
    let place = Place::new();
    let before = "# mine\n[camera] # the door\nsource = 'examples' # for now\nfps = 5\n\n\
                  [web]\n# Ours.\nlisten = \"127.0.0.1:9999\"\n[decide]\nhold-ms = 77 # short\n";
    place.write_config(before);
    let file = place.at("maskd.toml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    // A link stays a link.
    fs::rename(&file, place.at("real.toml")).unwrap();
    std::os::unix::fs::symlink("real.toml", &file).unwrap();
    let photos = place.at("photos");
    let words = ["--camera", "photos", "--page", "none", "--buzzer-pin", "22"];
    stdout(&place.setup(&words));
    let source = format!("\"{}\" # for now", photos.display());
    let expected = before
        .replace("'examples' # for now", &source)
        .replace("listen = ", "# listen = ")
        + "\n[indicate]\nbuzzer-pin = 22\n";
    assert_eq!(place.config(), expected);
    assert!(file.is_symlink());
    let mode = file.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    let pin = place.setup(&["--buzzer-pin", "none"]);
    assert!(!stdout(&pin).contains("cannot"));
    assert!(
        place
            .config()
            .ends_with("\n[indicate]\n# buzzer-pin = 22\n")
    );
}

#[test]
fn what_cannot_work_is_refused_and_changes_nothing() {
    let place = Place::new();
    let before = "[camera]\nfps = 5\n";
    place.write_config(before);
    fs::create_dir(place.at("empty")).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let broker = format!("127.0.0.1:{}", free_port());
    let files = place.files();
    for (words, exit, sentence) in [
        (&[][..], 64, "there is no terminal on which setup could ask"),
        (&["--no-tests"], 64, "there is no terminal"),
        (&["--camera", ""], 64, "camera source is empty"),
        (&["--camera", "rtsp://cam/"], 64, "rtsp:// is not supported"),
        (&["--camera", "nowhere"], 66, "nowhere"),
        (&["--camera", "empty"], 66, "empty"),
        (&["--camera", "exec:no-such-program"], 69, "no-such-program"),
        (&["--camera", "exec:true"], 69, "no picture was received"),
        (&["--green-pin", "99"], 64, "indicate.green-pin is 99"),
        (
            &["--green-pin", "5", "--red-pin", "5"],
            64,
            "the same as green-pin",
        ),
        (&["--page", "0.0.0.0:8080"], 64, "--password-stdin"),
        (&["--page", &taken], 78, "cannot listen on"),
        (&["--page", "192.0.2.1:8080"], 78, "cannot listen on"),
        (&["--broker", &broker], 69, "MQTT broker"),
        (&["--broker", "broker lan"], 64, "mqtt.host"),
        (
            &["--camera", "photos", "--test-picture", "no/test.jpg"],
            74,
            "no/test.jpg",
        ),
    ] {
        assert_refused(&place.setup(words), exit, sentence);
        assert_eq!(place.config(), before, "{words:?}");
        assert_eq!(place.files(), files, "{words:?}");
    }
    for (words, problem) in [
        (&["--page", "8080.lan"][..], "an IP address and a port"),
        (&["--active-low", "blue"], "no output"),
        (&["--broker", "mqtt://broker"], "a host name"),
        (&["--broker-user", "me"], "--broker"),
    ] {
        let refused = place.setup(words);
        assert_eq!(refused.status.code(), Some(64), "{words:?}");
        assert!(text(&refused.stderr).contains(problem), "{words:?}");
    }
    let broken = "[camera\n";
    place.write_config(broken);
    let refused = place.setup(&["--camera", "photos"]);
    assert_refused(&refused, 78, "is not valid TOML");
    assert_eq!(place.config(), broken);
}

#[test]
fn a_wrong_config_is_refused_in_one_line() {
    let place = Place::new();
    place.write_config("[camera]\nsource = [\"rpicam\"]\n");
    let refused = place.setup(&["--camera", "photos"]);
    assert_refused(&refused, 78, "has a problem: camera.source is wrong");
    assert!(!text(&refused.stderr).contains("\\n"));
}

#[test]
fn without_tests_a_camera_may_be_missing() {
    let place = Place::new();
    let words = ["--camera", "http://127.0.0.1:9/stream", "--no-tests"];
    let shown = stdout(&place.setup(&words));
    assert!(shown.contains("wrote "), "{shown}");
    assert!(
        place
            .config()
            .contains("source = \"http://127.0.0.1:9/stream\"")
    );
    // Only its owner may read a new config, which may contain a password.
    let mode = place.at("maskd.toml").metadata().unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
}

#[test]
fn a_password_is_read_from_standard_input() {
    let place = Place::new();
    let words = ["--page", "0.0.0.0:8080", "--no-tests", "--password-stdin"];
    let with_password = |password: &[u8]| {
        let mut command = place.command("setup", &words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(password).unwrap();
        child.wait_with_output().unwrap()
    };
    assert_refused(&with_password(b"raspberry1\n"), 64, "easy to guess");
    assert!(!place.at("maskd.toml").exists());
    let shown = stdout(&with_password(b"green door handle\n"));
    let address = shown
        .lines()
        .find_map(|line| line.strip_prefix("the page: "));
    let address = address.unwrap();
    assert!(address.starts_with("http://") && address.ends_with(":8080/"));
    assert!(!address.contains("0.0.0.0"), "{address}");
    // Without a terminal, there is no QR code.
    assert!(!shown.contains('█'), "{shown}");
    let config = config::parse("any", &place.config()).unwrap();
    let access = Access::from_config(&config.web, None).unwrap();
    assert!(access.is_password("green door handle"));
}

#[test]
fn a_daemon_keeps_its_camera() {
    let place = Place::new();
    let photos = place.at("photos");
    let text = format!(
        "[camera]\nsource = \"{}\"\nplayback-fps = 2.0\n[capture]\nenabled = true\n",
        photos.display()
    );
    place.write_config(&text);
    let daemon = Running::start(place.command("run", &["--json"]), place.folder.path());
    wait_for("the daemon", || {
        let status = place.command("status", &[]).output().unwrap();
        status.status.success().then_some(())
    });
    let camera = ["--camera", "exec:cat photos/door.jpg"];
    let refused = place.setup(&camera);
    assert_refused(&refused, 75, "a daemon is running and may use the camera");
    assert_eq!(place.config(), text);
    // A folder can be read twice, and without tests, nothing is opened.
    let shown = stdout(&place.setup(&["--camera", "photos"]));
    assert!(shown.contains("restart the daemon"), "{shown}");
    stdout(&place.setup(&[camera[0], camera[1], "--no-tests"]));
    assert!(place.config().contains("exec:cat photos/door.jpg"));
    daemon.kill();
}

/// Setup on a terminal that `script` makes.
struct Terminal {
    script: Child,
    keys: ChildStdin,
    screen: ChildStdout,
    /// What was shown since the last answer.
    shown: String,
}

impl Terminal {
    /// Starts setup. Returns `None` if there is no `script`.
    fn start(place: &Place, words: &str) -> Option<Terminal> {
        Terminal::start_with(place, "", words)
    }

    /// Same as [`start`](Terminal::start), with settings of the environment.
    fn start_with(place: &Place, environment: &str, words: &str) -> Option<Terminal> {
        let inside = format!(
            "{environment} {} setup --config maskd.toml --state state {words}; \
             echo status $?; stty -a",
            env!("CARGO_BIN_EXE_maskd")
        );
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &inside, "/dev/null"]);
        for (name, _) in maskd().get_envs() {
            command.env_remove(name);
        }
        command.current_dir(place.folder.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let Ok(mut script) = command.spawn() else {
            eprintln!("skipped: there is no script(1) to make a terminal");
            return None;
        };
        Some(Terminal {
            keys: script.stdin.take().unwrap(),
            screen: script.stdout.take().unwrap(),
            script,
            shown: String::new(),
        })
    }

    /// Waits until the terminal shows a text.
    #[track_caller]
    fn wait_for(&mut self, what: &str) {
        let mut bytes = Vec::new();
        while !self.shown.contains(what) {
            let mut byte = [0];
            let read = self.screen.read(&mut byte).unwrap();
            assert_ne!(read, 0, "{what:?} was not shown after {}", self.shown);
            bytes.push(byte[0]);
            if let Ok(text) = String::from_utf8(bytes.clone()) {
                self.shown += &text;
                bytes.clear();
            }
        }
    }

    /// Waits for a question, and answers it.
    #[track_caller]
    fn answer(&mut self, question: &str, answer: impl AsRef<[u8]>) {
        self.wait_for(question);
        self.wait_for_prompt();
        self.shown.clear();
        self.keys.write_all(answer.as_ref()).unwrap();
    }

    /// The question is complete when its last blank is shown. The terminal then has the right
    /// mode.
    #[track_caller]
    fn wait_for_prompt(&mut self) {
        while !self.shown.ends_with("] ") && !self.shown.ends_with(": ") {
            let mut byte = [0];
            assert_ne!(self.screen.read(&mut byte).unwrap(), 0, "{}", self.shown);
            self.shown.push(char::from(byte[0]));
        }
    }

    /// Returns what is shown until the end.
    fn end(mut self) -> String {
        drop(self.keys);
        let mut rest = Vec::new();
        self.screen.read_to_end(&mut rest).unwrap();
        self.script.wait().unwrap();
        self.shown + &String::from_utf8_lossy(&rest)
    }
}

#[track_caller]
fn assert_sane(shown: &str) {
    let words: Vec<&str> = shown.split([' ', ';', '\r', '\n']).collect();
    assert!(
        words.contains(&"echo") && words.contains(&"isig"),
        "{shown}"
    );
}

#[test]
fn questions_on_a_terminal_lead_to_a_config() {
    let place = Place::new();
    let port = free_port();
    let Some(mut terminal) = Terminal::start(&place, "") else {
        return;
    };
    terminal.answer("Camera: a number or a source [examples]", "nowhere\n");
    terminal.answer("Use this camera anyway? [y/N]", "\n");
    terminal.answer("Camera: a number or a source", "photos\n");
    terminal.wait_for("A picture of 301x400 pixels arrived");
    terminal.answer("LEDs, a buzzer, or a relay connected?", "perhaps\n");
    terminal.answer("LEDs, a buzzer, or a relay connected?", "y\n");
    terminal.answer("GPIO number of the green LED [17]", "\n");
    terminal.answer("GPIO number of the red LED [27]", "17\n");
    terminal.wait_for("the same as green-pin");
    terminal.answer("GPIO number of the red LED [27]", "none\n");
    terminal.answer("GPIO number of the buzzer [none]", "\n");
    terminal.answer("GPIO number of the relay of the door [none]", "23\n");
    terminal.answer(
        "Address and port of the page, or none [0.0.0.0:8080]",
        "door\n",
    );
    terminal.answer("Address and port of the page, or none", format!("{port}\n"));
    terminal.answer("Password of the page", b"caf\xe9 caf\xe9\n");
    terminal.wait_for("not valid UTF-8");
    terminal.answer("Password of the page", "password\n");
    terminal.wait_for("easy to guess");
    terminal.answer("Password of the page", "green door handle\n");
    terminal.answer("Repeat the password", "green door handle\n");
    terminal.answer("Host name or address of the broker, or none [none]", "\n");
    terminal.answer("Write ", "\n");
    let shown = terminal.end();
    assert!(shown.contains("status 0"), "{shown}");
    assert!(!shown.contains("green door handle"), "{shown}");
    assert!(
        shown.contains("start maskd with: maskd run --config"),
        "{shown}"
    );
    assert!(
        shown.contains("the page: http://") && shown.contains("█▀▀▀▀▀█"),
        "{shown}"
    );
    assert_sane(&shown);
    let config = config::parse("any", &place.config()).unwrap();
    assert_eq!(config.camera.source, place.at("photos").to_str().unwrap());
    let pins = &config.indicate;
    assert!(pins.green_pin.is_some() && pins.relay_pin.is_some());
    assert!(pins.red_pin.is_none() && pins.buzzer_pin.is_none());
    assert_eq!(config.web.listen.unwrap().port(), port);
    let access = Access::from_config(&config.web, None).unwrap();
    assert!(access.is_password("green door handle"));
    // Most lines are those of the shipped config.
    let shipped = shipped();
    let written = place.config();
    let kept = shipped.lines().zip(written.lines());
    let changed = kept.filter(|(before, after)| before != after).count();
    assert_eq!(changed, 5);
}

#[test]
fn the_default_is_a_camera_that_works() {
    let place = Place::new();
    let program = place.at("rpicam-vid");
    let write_program = |text: &str| {
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    };
    write_program("#!/bin/sh\necho no cameras available >&2\nexit 255\n");
    let path = format!("PATH={}:$PATH", place.folder.path().display());
    let Some(mut terminal) = Terminal::start_with(&place, &path, "--no-service") else {
        return;
    };
    terminal.wait_for("1  rpicam: the camera module of a Raspberry Pi");
    terminal.wait_for("cannot be used: ");
    terminal.wait_for("no cameras available");
    terminal.answer("Camera: a number or a source [examples]", "1\n");
    terminal.answer("Use this camera anyway? [y/N]", "\n");
    terminal.answer("Camera: a number or a source [examples]", "\u{3}");
    let shown = terminal.end();
    assert!(shown.contains("nothing was changed"), "{shown}");

    write_program("#!/bin/sh\nwhile cat photos/door.jpg; do sleep 0.1; done\n");
    let mut terminal = Terminal::start_with(&place, &path, "--no-service").unwrap();
    terminal.answer("Camera: a number or a source [rpicam]", "nowhere\n");
    terminal.answer("Use this camera anyway? [y/N]", "\n");
    terminal.answer("Camera: a number or a source [rpicam]", "\n");
    terminal.wait_for("A picture of 301x400 pixels arrived from rpicam");
    terminal.answer("LEDs, a buzzer, or a relay connected?", "\u{3}");
    terminal.end();

    // A configured camera that stopped working is not offered again after it was refused.
    place.write_config("[camera]\nsource = \"gone\"\n");
    let mut terminal = Terminal::start_with(&place, &path, "--no-service").unwrap();
    terminal.answer("Camera: a number or a source [gone]", "\n");
    terminal.answer("Use this camera anyway? [y/N]", "\n");
    terminal.answer("Camera: a number or a source [rpicam]", "\u{3}");
    terminal.end();
}

#[test]
fn enter_keeps_what_is_configured() {
    let place = Place::new();
    let photos = place.at("photos");
    let before = format!(
        "[camera]\nsource = \"{}\"\n[indicate]\nbackend = \"console\"\nbuzzer-pin = 22\n\
         [web]\nlisten = \"127.0.0.1:{}\"\n",
        photos.display(),
        free_port()
    );
    place.write_config(&before);
    let Some(mut terminal) = Terminal::start(&place, "") else {
        return;
    };
    terminal.answer(&format!("[{}]", photos.display()), "\n");
    terminal.answer("LEDs, a buzzer, or a relay connected? [Y/n]", "\n");
    terminal.answer("green LED [none]", "\n");
    terminal.answer("red LED [none]", "\n");
    terminal.answer("buzzer [22]", "\n");
    terminal.answer("relay of the door [none]", "\n");
    terminal.wait_for("The pins are not tested");
    terminal.answer("or none [127.0.0.1:", "\n");
    terminal.answer("Set a password for the page? [y/N]", "\n");
    terminal.answer("the broker, or none [none]", "\n");
    terminal.answer("Write ", "\n");
    let shown = terminal.end();
    assert!(shown.contains("stays as it is"), "{shown}");
    assert_eq!(place.config(), before);
}

#[test]
fn options_answer_some_of_the_questions() {
    let place = Place::new();
    let words = "--camera photos --green-pin 17 --page none";
    let Some(mut terminal) = Terminal::start(&place, words) else {
        return;
    };
    terminal.answer("the broker, or none [none]", "\n");
    terminal.answer("Write ", "n\n");
    let shown = terminal.end();
    assert!(shown.contains("Nothing was changed"), "{shown}");
    assert!(shown.contains("status 0"), "{shown}");
    assert_eq!(place.files(), ["photos"]);
}

#[test]
fn ctrl_c_leaves_everything_as_it_was() {
    let place = Place::new();
    let before = "# mine\n";
    place.write_config(before);
    let files = place.files();
    for question in ["Camera: ", "connected?", "Password of the page"] {
        let page = format!("--page 0.0.0.0:{}", free_port());
        let Some(mut terminal) = Terminal::start(&place, &page) else {
            return;
        };
        if question != "Camera: " {
            terminal.answer("Camera: ", "photos\n");
        }
        if question == "Password of the page" {
            terminal.answer("connected?", "n\n");
        }
        terminal.answer(question, "half an answer\x03");
        let shown = terminal.end();
        assert!(
            shown.contains("interrupted: nothing was changed"),
            "{shown}"
        );
        assert!(shown.contains("status 130"), "{shown}");
        assert_sane(&shown);
        assert_eq!(place.config(), before);
        assert_eq!(place.files(), files);
    }
}

/// Returns the ID of the setup process in a terminal.
fn setup_process(place: &Place) -> i32 {
    let folder = place.folder.path().canonicalize().unwrap();
    wait_for("the process of setup", || {
        fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let id = entry.file_name().to_str()?.parse().ok()?;
            let command = fs::read(entry.path().join("cmdline")).ok()?;
            let is_setup = command.starts_with(env!("CARGO_BIN_EXE_maskd").as_bytes());
            let here = fs::read_link(entry.path().join("cwd")).ok()?;
            (is_setup && here == folder).then_some(id)
        })
    })
}

#[test]
fn a_signal_or_a_kill_in_the_middle_changes_nothing() {
    let place = Place::new();
    let before = "# mine\n";
    place.write_config(before);
    let files = place.files();
    for (signal, status) in [
        ("-TERM", "status 130"),
        ("-HUP", "status 130"),
        ("-KILL", "status 137"),
    ] {
        let Some(mut terminal) = Terminal::start(&place, "--camera photos") else {
            return;
        };
        terminal.wait_for("connected?");
        terminal.wait_for_prompt();
        let id = setup_process(&place).to_string();
        let killed = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(killed.success());
        terminal.wait_for(status);
        terminal.end();
        assert_eq!(place.config(), before, "{signal}");
        assert_eq!(place.files(), files, "{signal}");
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_camera() {
    let place = Place::new();
    let mut command = place.command("setup", &["--camera", "exec:sleep 600"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_for("the program of the camera", || {
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let children = fs::read_to_string(children).unwrap_or_default();
        // The camera is read in a thread of its own, which is the parent of the program.
        let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).ok()?;
        let all: Vec<String> = tasks
            .flatten()
            .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
            .collect();
        (!children.is_empty() || !all.concat().is_empty()).then_some(())
    });
    support::interrupt(&child, "-INT");
    let output = child.wait_with_output().unwrap();
    assert_refused(&output, 130, "interrupted: nothing was changed");
    assert!(!place.at("maskd.toml").exists());
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn the_password_of_the_broker_gets_a_file_of_its_own() {
    let place = Place::new();
    let passwords = place.at("passwords");
    let made = Command::new("mosquitto_passwd")
        .args(["-b", "-c"])
        .arg(&passwords)
        .args(["door", "open sesame"])
        .output();
    if !made.is_ok_and(|made| made.status.success()) {
        println!("skipped: mosquitto is not installed");
        return;
    }
    fs::set_permissions(&passwords, fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(place.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let login = format!(
        "allow_anonymous false\npassword_file {}\n",
        passwords.display()
    );
    let Some(broker) = Broker::start(place.folder.path(), &login) else {
        return;
    };
    let address = format!("127.0.0.1:{}", broker.port);
    let Some(mut terminal) =
        Terminal::start(&place, "--camera photos --page none --green-pin none")
    else {
        return;
    };
    for password in ["wrong", "open sesame"] {
        terminal.answer("Host name or address of the broker", format!("{address}\n"));
        terminal.answer("encrypted (TLS)? [y/N]", "\n");
        terminal.answer("User name", "door\n");
        terminal.answer("Password", format!("{password}\n"));
        if password == "wrong" {
            terminal.answer("Use this broker anyway? [y/N]", "\n");
        }
    }
    terminal.wait_for("accepts the login as");
    terminal.answer("Write ", "\n");
    let shown = terminal.end();
    assert!(shown.contains("status 0"), "{shown}");
    assert!(!shown.contains("sesame"), "{shown}");
    let file = place.at("mqtt-password");
    assert_eq!(fs::read_to_string(&file).unwrap(), "open sesame");
    assert_eq!(mode(&file), 0o600);
    assert!(!place.config().contains("sesame"));
    let checked = place.command("check", &[]).output().unwrap();
    let report = text(&checked.stdout);
    assert!(report.contains("accepts the login"), "{report}");
    // A script names the file.
    let words = ["--broker", &address, "--broker-user", "door"];
    let file = ["--broker-password-file", "mqtt-password"];
    let shown = stdout(&place.setup(&[&words[..], &file[..]].concat()));
    assert!(shown.contains("accepts the login as"), "{shown}");
}
