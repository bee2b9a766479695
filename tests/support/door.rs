//! A device whose camera is a program, for tests of events.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::requests::{get, get_json};
use super::{Running, frame, maskd, root, text};

/// The key for signatures, which is in the file `key` of the device.
pub const KEY: &[u8] = b"a key for this test";

/// A device with a camera program.
pub struct Door {
    pub folder: tempfile::TempDir,
}

impl Door {
    /// Creates a device. `camera` is a shell script, in which `FOLDER` stands for the folder of
    /// the device. The folder has the pictures `frame.jpg`, which is small and shows nobody,
    /// `masked.jpg`, and `unmasked.jpg`. `config` begins in the section `decide`.
    pub fn new(camera: &str, config: &str) -> Door {
        let door = Door {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::copy(
            root().join("tests/data/jpeg/separate-422.jpg"),
            door.at("frame.jpg"),
        )
        .unwrap();
        fs::copy(frame("maksssksksss120.jpg"), door.at("masked.jpg")).unwrap();
        fs::copy(frame("maksssksksss128.jpg"), door.at("unmasked.jpg")).unwrap();
        door.script("camera", camera);
        fs::write(door.at("key"), [KEY, b"\n"].concat()).unwrap();
        let config = format!(
            "[camera]\nsource = \"exec:FOLDER/camera\"\n\
             [decide]\nconfirm-ms = 0\nhold-ms = 0\n{config}"
        );
        let config = config.replace("FOLDER", &door.folder.path().display().to_string());
        fs::write(door.at("maskd.toml"), config).unwrap();
        door
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn script(&self, name: &str, text: &str) {
        let path = self.at(name);
        let text = text.replace("FOLDER", &self.folder.path().display().to_string());
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = maskd();
        command.args(words).arg("--config");
        command.arg(self.at("maskd.toml"));
        command.arg("--state").arg(self.at("state"));
        command
    }

    pub fn run(&self) -> Running {
        Running::start(self.command(&["run", "--json"]), self.folder.path())
    }

    pub fn socket(&self) -> PathBuf {
        self.at("state/control.sock")
    }

    pub fn get(&self, path: &str) -> Option<String> {
        Some(text(&get(&self.socket(), path, "")?.2))
    }

    pub fn json(&self, path: &str) -> Option<Value> {
        get_json(&self.socket(), path)
    }

    /// Returns the newest events of a kind, oldest first.
    pub fn events(&self, kind: &str) -> Vec<Value> {
        let events = self.json("/api/v1/events").unwrap_or_default();
        let events = events.as_array().into_iter().flatten().rev();
        events
            .filter(|event| event["kind"] == kind)
            .cloned()
            .collect()
    }

    /// Returns the state of a receiver.
    pub fn receiver(&self, name: &str) -> Option<Value> {
        let status = self.json("/api/v1/status")?;
        let receivers = status["receivers"].as_array()?.iter();
        receivers.clone().find(|one| one["name"] == name).cloned()
    }
}
