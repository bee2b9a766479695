//! Tests the error messages and exit codes of commands that need pins on a machine without
//! GPIO. The tests in `tests/rig` check the behavior of the pins on emulated machines.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and measure time"
)]

mod support;

use std::fs;
use std::path::Path;

use support::{assert_refused, frame, maskd, text};

const FRAME: &str = "maksssksksss10.jpg";

fn config(folder: &Path, indicate: &str) -> String {
    let path = folder.join("maskd.toml");
    let source = frame(FRAME);
    let source = source.display();
    let text = format!(
        "[camera]\nsource = \"{source}\"\nplayback-fps = 2.0\n[decide]\nconfirm-ms = 0\n[indicate]\n{indicate}\n"
    );
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Returns whether this machine has real pins, which a test must not touch.
fn has_pins() -> bool {
    let has = fs::read_dir("/dev").unwrap().flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("gpiochip") || name.starts_with("gpiomem")
    });
    if has {
        eprintln!("skipped: this machine has pins");
    }
    has
}

#[test]
fn missing_pins_are_refused_with_one_sentence() {
    if has_pins() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (indicate, words) in [
        (
            "backend = \"rppal\"\ngreen-pin = 17",
            "not a Raspberry Pi that rppal supports",
        ),
        (
            "backend = \"gpiocdev\"\ngreen-pin = 17",
            "no GPIO chip labeled pinctrl-bcm2835 or pinctrl-bcm2711 or pinctrl-rp1; \
             none can be opened",
        ),
        (
            "backend = \"gpiocdev\"\ngpio-chip = \"door\"\ngreen-pin = 17",
            "no GPIO chip labeled door",
        ),
        (
            "backend = \"gpiocdev\"\ngreen-pin = \"GPIO17\"",
            "no line GPIO17 for the green",
        ),
    ] {
        let path = config(folder.path(), indicate);
        let run = maskd()
            .args(["run", "--once", "--log", "error", "--config", &path])
            .output()
            .unwrap();
        assert_refused(&run, 69, words);
        let off = maskd()
            .args(["pins-off", "--config", &path])
            .output()
            .unwrap();
        assert_refused(&off, 69, words);
        let check = maskd().args(["check", "--config", &path]).output().unwrap();
        assert_refused(&check, 69, "there is a problem with the pins");
        assert!(text(&check.stdout).contains(words));
    }
}

#[test]
fn without_a_backend_a_laptop_has_the_console_and_a_warning() {
    if has_pins() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), "green-pin = 17\nrelay-pin = 23");
    let run = maskd()
        .args(["run", "--once", "--json", "--config", &path])
        .output()
        .unwrap();
    assert!(run.status.success());
    assert!(text(&run.stdout).contains("\"decision\":\"mask\""));
    assert!(text(&run.stderr).contains("this is not a Raspberry Pi: the pins are not used"));
    let check = maskd().args(["check", "--config", &path]).output().unwrap();
    assert!(check.status.success());
    assert!(text(&check.stdout).contains("not used: console only"));
}

#[test]
fn on_the_console_a_door_has_no_inputs() {
    let folder = tempfile::tempdir().unwrap();
    let indicate = "backend = \"console\"\nrelay-pin = 23\nrelease-pin = 13\n\
                    exit-button-pin = 19\ndoor-contact-pin = 26\nheld-open-ms = 30000";
    let path = config(folder.path(), indicate);
    let run = maskd()
        .args(["run", "--once", "--json", "--config", &path])
        .output()
        .unwrap();
    assert!(run.status.success());
    assert!(text(&run.stdout).contains("\"decision\":\"mask\""));
    assert!(!text(&run.stderr).contains("release"));
    let path = config(folder.path(), "release-pin = 13");
    let run = maskd().args(["run", "--config", &path]).output().unwrap();
    assert_refused(
        &run,
        78,
        "indicate.release-pin requires the relay of a door",
    );
    let times = "relay-pin = 23\nrelay-pulse-ms = 500\n[times]\nlock = [\"Mon-Fri 07:00-19:00\"]";
    let path = config(folder.path(), times);
    let run = maskd().args(["run", "--config", &path]).output().unwrap();
    assert_refused(
        &run,
        78,
        "times.lock cannot be used with indicate.relay-pulse-ms",
    );
}

#[test]
fn pins_off_does_nothing_without_pins_and_needs_a_valid_config() {
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), "backend = \"console\"\ngreen-pin = 17");
    let off = maskd()
        .args(["pins-off", "--config", &path])
        .output()
        .unwrap();
    assert!(off.status.success());
    assert!(off.stdout.is_empty() && off.stderr.is_empty());
    let path = config(folder.path(), "green-pin = 17\nred-pin = 17");
    let off = maskd()
        .args(["pins-off", "--config", &path])
        .output()
        .unwrap();
    assert_eq!(off.status.code(), Some(78));
    assert!(text(&off.stderr).contains("indicate.red-pin is 17, the same as green-pin"));
}

#[test]
fn pins_off_needs_no_valid_config() {
    if has_pins() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), "backend = \"console\"\n[broken");
    let off = |variable: &str| {
        let mut command = maskd();
        command.args(["pins-off", "--config", &path]);
        command.args(["--state", "/no/such/state"]);
        command.env(variable, folder.path());
        command.output().unwrap()
    };
    assert_refused(&off("RUNTIME_DIRECTORY"), 78, "maskd.toml");
    // A killed daemon left this record. The chip does not exist here, so the command fails,
    // and its error message shows which pins it tried to switch off.
    let record = "{\"driver\":{\"gpiocdev\":{\"chip\":\"the-chip-in-use\"}},\"lines\":[[17,\
                  {\"out\":{\"output\":\"relay\",\"active_low\":false}}]]}";
    let file = folder.path().join("pins.json");
    fs::write(&file, record).unwrap();
    let refused = off("RUNTIME_DIRECTORY");
    assert_refused(&refused, 69, "no GPIO chip labeled the-chip-in-use");
    assert!(file.exists(), "the next attempt needs the record");
    // A damaged record is reported, and the config is used instead.
    fs::write(&file, "{").unwrap();
    let refused = off("RUNTIME_DIRECTORY");
    assert_eq!(refused.status.code(), Some(78));
    assert!(text(&refused.stderr).contains("pins.json"));
}
