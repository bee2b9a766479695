//! What setup will write: changes to the config, and perhaps a file with the password of the
//! broker. Each change is checked as a config before it is accepted.

use std::path::{Path, PathBuf};

use crate::cli::global::SYSTEM_CONFIG;
use crate::cli::{Failure, Global, service};
use crate::config::edit::{ConfigEdit, edited};
use crate::config::{self, Config, ConfigError};
use crate::learning::refuse_within_state;
use crate::platform::files::{self, FileError};

/// Name of the file with the password of the broker, in the folder of the config.
const PASSWORD_FILE: &str = "mqtt-password";

/// The largest file with a password that is put back if the config cannot be written.
const PASSWORD_LIMIT: u64 = 64 * 1024;

pub(super) struct Plan {
    file: PathBuf,
    /// The text of the file when setup was started, or the shipped config.
    text: String,
    edits: Vec<ConfigEdit>,
    /// The config with the edits.
    config: Config,
    /// The password of the broker, which is written to a file of its own.
    broker_password: Option<String>,
    is_of_service: bool,
}

/// What was done with the config file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    Changed,
    Unchanged,
}

impl Plan {
    /// Reads the config, and checks that it can be written.
    pub(super) fn open(global: &Global) -> Result<Plan, Failure> {
        let file = match global.config_file() {
            Some(file) => file,
            None => new_file()?,
        };
        let file = std::path::absolute(&file).unwrap_or(file);
        let text = match present_text(&file)? {
            Some(text) => text,
            None => config::SHIPPED.to_owned(),
        };
        let config = config::parse(&file.display().to_string(), &text)
            .map_err(|error| Failure::new(Failure::CONFIG, error.in_one_line()))?;
        check_writable(&file, text.len())?;
        Ok(Plan {
            is_of_service: service::uses(&file),
            file,
            text,
            edits: Vec::new(),
            config,
            broker_password: None,
        })
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Whether the systemd service uses the config.
    pub(super) fn is_of_service(&self) -> bool {
        self.is_of_service
    }

    /// Adds changes, unless the config would then be invalid.
    pub(super) fn change(
        &mut self,
        edits: impl IntoIterator<Item = ConfigEdit>,
    ) -> Result<(), Failure> {
        let mut all = self.edits.clone();
        all.extend(edits);
        let (_, config) = self.result(&self.text, &all)?;
        (self.edits, self.config) = (all, config);
        Ok(())
    }

    /// Returns the config that these edits of `text` lead to.
    fn result(&self, text: &str, edits: &[ConfigEdit]) -> Result<(String, Config), Failure> {
        let file = self.file.display();
        let text = edited(text, edits).map_err(|error| {
            Failure::new(Failure::CONFIG, format!("cannot change {file}: {error}"))
        })?;
        match config::parse("", &text) {
            Ok(config) => Ok((text, config)),
            Err(ConfigError::Invalid { problems, .. }) => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                Err(Failure::new(Failure::USAGE, problems.join("; ")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sets the password of the broker, or keeps the configured one if it is `None`.
    pub(super) fn set_broker_password(&mut self, password: Option<String>) -> Result<(), Failure> {
        if password.is_none() {
            return Ok(());
        }
        let file = self.password_file().display().to_string();
        self.change([
            ConfigEdit::set_or_unset("mqtt", "password", None::<String>),
            ConfigEdit::set("mqtt", "password-file", file),
        ])?;
        self.broker_password = password;
        Ok(())
    }

    /// The password of the broker that is not written yet.
    pub(super) fn broker_password(&self) -> Option<&str> {
        self.broker_password.as_deref()
    }

    fn password_file(&self) -> PathBuf {
        self.file.with_file_name(PASSWORD_FILE)
    }

    /// Writes everything. The config file may have been changed in the meantime, for example by
    /// the daemon, so the changes are made to its present text.
    pub(super) fn write(&self) -> Result<Written, Failure> {
        let present = present_text(&self.file)?;
        let base = present.as_deref().unwrap_or(&self.text);
        let (text, _) = self.result(base, &self.edits)?;
        if let Some(folder) = self.file.parent() {
            files::make_folder(folder).map_err(cannot_write)?;
        }
        let before = match &self.broker_password {
            Some(password) => Some(self.replace_password(password.as_bytes())?),
            None => None,
        };
        let written = match &present {
            Some(present) if *present == text => return Ok(Written::Unchanged),
            Some(_) => files::rewrite(&self.file, text.as_bytes()),
            // Every user may read the config of the service, as the package installs it. The
            // address of a camera in a user's own config may contain a password.
            None if self.file == Path::new(SYSTEM_CONFIG) => {
                files::write(&self.file, text.as_bytes())
            }
            None => files::write_secret(&self.file, text.as_bytes()),
        };
        written.map_err(|error| {
            if let Some(before) = before {
                self.restore_password(before.as_deref());
            }
            cannot_write(error)
        })?;
        Ok(Written::Changed)
    }

    /// Writes the file with the password of the broker. Returns what it contained before, or
    /// `None` if there was no such file.
    fn replace_password(&self, password: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        let file = self.password_file();
        let before = match files::read_own(&file, PASSWORD_LIMIT) {
            Ok(before) => Some(before),
            Err(error) if error.is_missing() => None,
            Err(error) => return Err(cannot_write(error)),
        };
        self.write_password(password).map_err(cannot_write)?;
        Ok(before)
    }

    fn write_password(&self, password: &[u8]) -> Result<(), FileError> {
        let file = self.password_file();
        match service::group().filter(|_| self.is_of_service) {
            Some(group) => files::write_group_secret(&file, password, group),
            None => files::write_secret(&file, password),
        }
    }

    /// Puts the file with the password of the broker back as it was.
    fn restore_password(&self, before: Option<&[u8]>) {
        // The config could not be written. A second error would hide that one.
        let _ = match before {
            Some(before) => self.write_password(before).ok(),
            None => files::delete(&self.password_file()).ok(),
        };
    }
}

fn cannot_write(error: FileError) -> Failure {
    Failure::new(Failure::CANNOT_WRITE, error)
}

/// Returns the config file to create: that of the service for root, and a user's own
/// otherwise.
fn new_file() -> Result<PathBuf, Failure> {
    use etcetera::BaseStrategy;
    if rustix::process::geteuid().is_root() {
        return Ok(SYSTEM_CONFIG.into());
    }
    let home = etcetera::choose_base_strategy().map_err(|_| {
        let sentence = "there is no home directory: name a config file with --config FILE";
        Failure::new(Failure::USAGE, sentence)
    })?;
    Ok(home.config_dir().join("maskd/maskd.toml"))
}

/// Returns the text of the config file, or `None` if there is no such file.
fn present_text(file: &Path) -> Result<Option<String>, Failure> {
    match config::read(file) {
        Err(ConfigError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        read => Ok(Some(read?)),
    }
}

/// Checks that the config can be written before the first question is asked.
fn check_writable(file: &Path, bytes: usize) -> Result<(), Failure> {
    if !file.parent().is_some_and(Path::exists) {
        // The folder is made when the config is written.
        return Ok(());
    }
    // A link stays a link, and the file that it points to is written.
    let real = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    files::probe(&real, bytes, &refuse_within_state).map_err(|error| {
        let is_service = error.is_read_only() && file == Path::new(SYSTEM_CONFIG);
        let mut sentence = error.to_string();
        if is_service {
            sentence +=
                ": run \"sudo maskd setup\", or name a config of your own with --config FILE";
        }
        Failure::new(Failure::CANNOT_WRITE, sentence)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn open(file: &Path) -> Plan {
        let words = ["maskd", "check", "--config", file.to_str().unwrap()];
        Plan::open(&crate::cli::parse(words).unwrap().global).unwrap()
    }

    #[test]
    fn a_refused_change_leaves_the_plan_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let mut plan = open(&folder.path().join("maskd.toml"));
        plan.change([ConfigEdit::set("camera", "fps", 5)]).unwrap();
        let bad = [
            ConfigEdit::set("camera", "fps", 7),
            ConfigEdit::set("camera", "width", 1),
        ];
        let refused = plan.change(bad).unwrap_err();
        assert_eq!(refused.exit, Failure::USAGE);
        assert!(refused.sentence.contains("camera.width"), "{refused:?}");
        assert_eq!(plan.config().camera.fps, 5);
        assert_eq!(plan.config().camera.width, 640);
        assert!(!plan.is_of_service());
    }

    #[test]
    fn a_change_by_somebody_else_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("maskd.toml");
        std::fs::write(&file, "[decide]\nhold-ms = 7\n").unwrap();
        let mut plan = open(&file);
        plan.change([ConfigEdit::set("decide", "confirm-ms", 9)])
            .unwrap();
        std::fs::write(&file, "[decide]\nhold-ms = 8 # new\n").unwrap();
        assert_eq!(plan.write().unwrap(), Written::Changed);
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text, "[decide]\nhold-ms = 8 # new\nconfirm-ms = 9\n");
        assert_eq!(plan.write().unwrap(), Written::Unchanged);
        // The file became invalid in the meantime.
        std::fs::write(&file, "[decide\n").unwrap();
        assert_eq!(plan.write().unwrap_err().exit, Failure::CONFIG);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "[decide\n");
    }

    #[test]
    fn a_new_config_and_a_password_are_for_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/maskd.toml");
        let mut plan = open(&file);
        plan.change([
            ConfigEdit::set("mqtt", "host", "broker.lan"),
            ConfigEdit::set("mqtt", "user", "door"),
        ])
        .unwrap();
        plan.set_broker_password(Some("open sesame".to_owned()))
            .unwrap();
        assert!(!file.parent().unwrap().exists(), "nothing is written yet");
        assert_eq!(plan.write().unwrap(), Written::Changed);
        let password = folder.path().join("new/mqtt-password");
        assert_eq!(std::fs::read_to_string(&password).unwrap(), "open sesame");
        for path in [&file, &password] {
            let mode = path.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", path.display());
        }
        let config = config::load(&file).unwrap().0;
        assert_eq!(config.mqtt.password_file, Some(password));
    }

    #[test]
    fn without_its_config_the_password_of_the_broker_stays_as_it_was() {
        for before in [None, Some("old sesame")] {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("maskd.toml");
            let password = folder.path().join("mqtt-password");
            if let Some(before) = before {
                std::fs::write(&password, before).unwrap();
            }
            let mut plan = open(&file);
            plan.change([
                ConfigEdit::set("mqtt", "host", "broker.lan"),
                ConfigEdit::set("mqtt", "user", "door"),
            ])
            .unwrap();
            plan.set_broker_password(Some("open sesame".to_owned()))
                .unwrap();
            // A link to nothing is not replaced.
            std::os::unix::fs::symlink("nothing", &file).unwrap();
            assert_eq!(plan.write().unwrap_err().exit, Failure::CANNOT_WRITE);
            let after = std::fs::read_to_string(&password).ok();
            assert_eq!(after.as_deref(), before);
        }
    }
}
