//! The settings that may be changed while the daemon runs.
//!
//! A change is checked in the same way as a config. It is then published to the threads
//! that apply it, and written to the config file without losing the comments in the file.
//! If the file cannot be written, the change still applies. It is saved with the next
//! change or when [`Settings::save_again`] is called. Until then,
//! [`SettingsRecord::not_saved`] reports it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use toml_edit::Value;
use utoipa::ToSchema;

use super::edit::{self, ConfigEdit, EditError};
use crate::config::{self, Config, Problem};
use crate::platform::files;

/// The settings that can change while the daemon runs. Their format is a documented
/// contract.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Tuning {
    /// `classify.masked-threshold`, 0.05 to 1.
    pub masked_threshold: f32,
    /// `classify.unmasked-threshold`, 0 to `masked_threshold`.
    pub unmasked_threshold: f32,
    /// `decide.confirm-ms`, 0 to 60,000.
    pub confirm_ms: u64,
    /// `decide.confirm-frames`, 2 to 100.
    pub confirm_frames: u32,
    /// `decide.hold-ms`, 0 to 600,000.
    pub hold_ms: u64,
    /// `capture.enabled`.
    pub capture: bool,
}

impl Tuning {
    /// Returns the settings in a config.
    #[must_use]
    pub fn of(config: &Config) -> Tuning {
        Tuning {
            masked_threshold: config.classify.masked_threshold,
            unmasked_threshold: config.classify.unmasked_threshold,
            confirm_ms: config.decide.confirm_ms,
            confirm_frames: config.decide.confirm_frames,
            hold_ms: config.decide.hold_ms,
            capture: config.capture.enabled,
        }
    }

    /// Writes the settings into a config.
    pub fn apply(&self, config: &mut Config) {
        config.classify.masked_threshold = self.masked_threshold;
        config.classify.unmasked_threshold = self.unmasked_threshold;
        config.decide.confirm_ms = self.confirm_ms;
        config.decide.confirm_frames = self.confirm_frames;
        config.decide.hold_ms = self.hold_ms;
        config.capture.enabled = self.capture;
    }
}

/// A request to change settings. Absent settings keep their values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Change {
    /// Same as [`Tuning::masked_threshold`].
    pub masked_threshold: Option<f32>,
    /// Same as [`Tuning::unmasked_threshold`].
    pub unmasked_threshold: Option<f32>,
    /// Same as [`Tuning::confirm_ms`].
    pub confirm_ms: Option<u64>,
    /// Same as [`Tuning::confirm_frames`].
    pub confirm_frames: Option<u32>,
    /// Same as [`Tuning::hold_ms`].
    pub hold_ms: Option<u64>,
    /// Same as [`Tuning::capture`].
    pub capture: Option<bool>,
}

impl Change {
    /// Returns the change that sets every setting to its value in `to`.
    fn all(to: Tuning) -> Change {
        Change {
            masked_threshold: Some(to.masked_threshold),
            unmasked_threshold: Some(to.unmasked_threshold),
            confirm_ms: Some(to.confirm_ms),
            confirm_frames: Some(to.confirm_frames),
            hold_ms: Some(to.hold_ms),
            capture: Some(to.capture),
        }
    }

    /// Returns only the settings in this change for which `keep` returns true.
    fn filtered(self, keep: impl Fn(&str) -> bool) -> Change {
        fn kept<T>(value: Option<T>, keep: bool) -> Option<T> {
            value.filter(|_| keep)
        }
        Change {
            masked_threshold: kept(self.masked_threshold, keep("classify.masked-threshold")),
            unmasked_threshold: kept(self.unmasked_threshold, keep("classify.unmasked-threshold")),
            confirm_ms: kept(self.confirm_ms, keep("decide.confirm-ms")),
            confirm_frames: kept(self.confirm_frames, keep("decide.confirm-frames")),
            hold_ms: kept(self.hold_ms, keep("decide.hold-ms")),
            capture: kept(self.capture, keep("capture.enabled")),
        }
    }

    /// Returns the change that turns `from` into `to`.
    fn between(from: Tuning, to: Tuning) -> Change {
        fn changed<T: PartialEq + Copy>(from: T, to: T) -> Option<T> {
            (from != to).then_some(to)
        }
        Change {
            masked_threshold: changed(from.masked_threshold, to.masked_threshold),
            unmasked_threshold: changed(from.unmasked_threshold, to.unmasked_threshold),
            confirm_ms: changed(from.confirm_ms, to.confirm_ms),
            confirm_frames: changed(from.confirm_frames, to.confirm_frames),
            hold_ms: changed(from.hold_ms, to.hold_ms),
            capture: changed(from.capture, to.capture),
        }
    }

    /// Returns the names that the changed settings have in the config file, such as
    /// `decide.hold-ms`.
    fn keys(self) -> Vec<String> {
        let values = self.values().into_iter();
        values
            .map(|(section, key, _)| format!("{section}.{key}"))
            .collect()
    }

    fn to(self, now: Tuning) -> Tuning {
        Tuning {
            masked_threshold: self.masked_threshold.unwrap_or(now.masked_threshold),
            unmasked_threshold: self.unmasked_threshold.unwrap_or(now.unmasked_threshold),
            confirm_ms: self.confirm_ms.unwrap_or(now.confirm_ms),
            confirm_frames: self.confirm_frames.unwrap_or(now.confirm_frames),
            hold_ms: self.hold_ms.unwrap_or(now.hold_ms),
            capture: self.capture.unwrap_or(now.capture),
        }
    }

    /// Returns the section, the key, and the value of each changed setting.
    fn values(self) -> Vec<(&'static str, &'static str, Value)> {
        // The value is converted to text and back, so that the file contains 0.65 instead
        // of all the digits of the nearest f32.
        let real = |value: f32| {
            let value = value.to_string().parse::<f64>();
            Value::from(value.unwrap_or_default())
        };
        // The fallback is never used because the value was checked to be at most 600,000.
        let whole = |value: u64| Value::from(i64::try_from(value).unwrap_or(i64::MAX));
        let values = [
            (
                "classify",
                "masked-threshold",
                self.masked_threshold.map(real),
            ),
            (
                "classify",
                "unmasked-threshold",
                self.unmasked_threshold.map(real),
            ),
            ("decide", "confirm-ms", self.confirm_ms.map(whole)),
            (
                "decide",
                "confirm-frames",
                self.confirm_frames.map(|frames| whole(frames.into())),
            ),
            ("decide", "hold-ms", self.hold_ms.map(whole)),
            ("capture", "enabled", self.capture.map(Value::from)),
        ];
        let given = values.into_iter();
        given
            .filter_map(|(section, key, value)| Some((section, key, value?)))
            .collect()
    }
}

/// Whether a key of the config is a setting that can change while the daemon runs.
pub(crate) fn is_setting(section: &str, key: &str) -> bool {
    let all = Change::all(Tuning::of(&Config::default())).values();
    all.iter()
        .any(|(its_section, its_key, _)| *its_section == section && *its_key == key)
}

/// The current settings. Their format is a documented contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SettingsRecord {
    /// The settings that the daemon uses.
    pub now: Tuning,
    /// Which settings are not in the config file, and why. A restart undoes these settings.
    /// Absent if the config file contains all settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_saved: Option<String>,
}

/// The error for a change that is not allowed. Lists every problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", sentence(.0))]
pub struct NotAllowed(Vec<Problem>);

impl NotAllowed {
    /// Returns the problems of each setting, by the name of its field in [`Change`]. Each
    /// text is the part of a sentence that follows the name.
    pub(crate) fn fields(&self) -> BTreeMap<String, String> {
        let mut fields: BTreeMap<String, String> = BTreeMap::new();
        for Problem { key, problem } in &self.0 {
            if let Some(field) = field(key) {
                let text = fields.entry(field.to_owned()).or_default();
                if !text.is_empty() {
                    text.push_str("; ");
                }
                text.push_str(problem);
            }
        }
        fields
    }
}

/// Returns the field of [`Change`] for a name in the config file, such as `decide.hold-ms`.
fn field(key: &str) -> Option<&'static str> {
    Some(match key {
        "classify.masked-threshold" => "masked_threshold",
        "classify.unmasked-threshold" => "unmasked_threshold",
        "decide.confirm-ms" => "confirm_ms",
        "decide.confirm-frames" => "confirm_frames",
        "decide.hold-ms" => "hold_ms",
        "capture.enabled" => "capture",
        _ => return None,
    })
}

fn sentence(problems: &[Problem]) -> String {
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    problems.join("; ")
}

/// The settings that can change while the daemon runs.
#[derive(Debug)]
pub struct Settings {
    /// The config file; `None` if the daemon was started without one.
    file: Option<PathBuf>,
    /// The lock is held only while values are copied or replaced, so that a disk that hangs
    /// does not delay threads that read the settings.
    state: Mutex<State>,
    /// Held while the config file is written.
    saving: Mutex<()>,
    now: watch::Sender<Tuning>,
    not_saved: watch::Sender<Option<String>>,
}

#[derive(Debug)]
struct State {
    config: Config,
    /// The settings that the daemon would have after a restart.
    saved: Tuning,
    /// The reason that each unsaved setting is not in the config file. The keys of this
    /// map are names such as `decide.hold-ms`.
    reasons: BTreeMap<String, NotSaved>,
}

/// Why a setting is not in the config file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum NotSaved {
    /// The setting is meant to last only until the daemon ends.
    ForNow,
    /// The setting could not be saved, and will be saved later.
    Failed(String),
}

impl std::fmt::Display for NotSaved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NotSaved::ForNow => f.write_str("changed only until the daemon ends"),
            NotSaved::Failed(why) => f.write_str(why),
        }
    }
}

impl State {
    /// Returns the settings that still need to be saved.
    fn to_save(&self) -> Change {
        let all = Change::between(self.saved, Tuning::of(&self.config));
        all.filtered(|key| matches!(self.reasons.get(key), Some(NotSaved::Failed(_))))
    }

    /// Returns the settings that still need to be saved, including the settings in
    /// `change`. The returned values are the current ones, because a setting may have
    /// changed again since `change` was requested.
    fn to_save_with(&self, change: Change) -> Change {
        let mut keys = self.to_save().keys();
        keys.extend(change.keys());
        let all = Change::all(Tuning::of(&self.config));
        all.filtered(|key| {
            let is_for_now = self.reasons.get(key) == Some(&NotSaved::ForNow);
            !is_for_now && keys.iter().any(|wanted| wanted == key)
        })
    }

    /// Records whether a change was saved to the config file.
    fn record(&mut self, change: Change, result: Result<(), NotSaved>) {
        match result {
            Ok(()) => {
                self.saved = change.to(self.saved);
                self.reasons.retain(|key, _| !change.keys().contains(key));
            }
            Err(reason) => {
                for key in change.keys() {
                    self.reasons.insert(key, reason.clone());
                }
            }
        }
        // A setting may have returned to its saved value.
        let now = Tuning::of(&self.config);
        let unsaved = Change::between(self.saved, now).keys();
        self.reasons.retain(|key, _| unsaved.contains(key));
    }

    /// Returns the reasons that some settings are not in the config file, or `None` if
    /// all settings are in the file.
    fn not_saved(&self) -> Option<String> {
        self.reasons_of(|_| true)
    }

    /// Returns the reasons that some settings could not be saved, or `None` if there are
    /// no such settings. Settings that are meant to last only until the daemon ends are
    /// left out.
    fn failed(&self) -> Option<String> {
        self.reasons_of(|reason| matches!(reason, NotSaved::Failed(_)))
    }

    fn reasons_of(&self, counts: impl Fn(&NotSaved) -> bool) -> Option<String> {
        let reasons = self.reasons.iter().filter(|(_, reason)| counts(reason));
        let reasons: Vec<String> = reasons
            .map(|(key, reason)| format!("{key}: {reason}"))
            .collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }
}

/// Returns a copy of `config` with `change` applied.
fn changed(config: &Config, change: Change) -> Result<Config, NotAllowed> {
    let mut config = config.clone();
    change.to(Tuning::of(&config)).apply(&mut config);
    check(&config)?;
    Ok(config)
}

fn check(config: &Config) -> Result<(), NotAllowed> {
    let problems = config.check();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(NotAllowed(problems))
    }
}

impl Settings {
    /// Creates the settings from a config that was read from `file`.
    #[must_use]
    pub fn new(config: &Config, file: Option<PathBuf>) -> Settings {
        Settings {
            file,
            now: watch::Sender::new(Tuning::of(config)),
            not_saved: watch::Sender::new(None),
            saving: Mutex::new(()),
            state: Mutex::new(State {
                config: config.clone(),
                saved: Tuning::of(config),
                reasons: BTreeMap::new(),
            }),
        }
    }

    /// Returns a receiver that gets the settings after each change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Tuning> {
        self.now.subscribe()
    }

    /// Returns a receiver that gets [`SettingsRecord::not_saved`] whenever it changes,
    /// but without the settings that are meant to last only until the daemon ends.
    #[must_use]
    pub fn subscribe_not_saved(&self) -> watch::Receiver<Option<String>> {
        self.not_saved.subscribe()
    }

    /// Returns the current settings.
    #[must_use]
    pub fn record(&self) -> SettingsRecord {
        let state = self.state();
        SettingsRecord {
            now: Tuning::of(&state.config),
            not_saved: state.not_saved(),
        }
    }

    /// Changes settings and saves them in the config file. Also saves settings that could
    /// not be saved before.
    ///
    /// # Errors
    /// Returns [`NotAllowed`] if the change would make the config invalid. In that case,
    /// nothing changes.
    pub fn change(&self, change: Change) -> Result<SettingsRecord, NotAllowed> {
        let mut state = self.state();
        state.config = changed(&state.config, change)?;
        let not_yet = NotSaved::Failed("it is being saved".to_owned());
        state.record(change, Err(not_yet));
        // The change is published before it is saved, so that it applies even if the disk
        // hangs.
        self.now.send_replace(Tuning::of(&state.config));
        drop(state);
        self.save_all(change);
        Ok(self.publish(&self.state()))
    }

    /// Changes settings until the daemon ends. The config file is not changed.
    ///
    /// # Errors
    /// Returns [`NotAllowed`] if the change would make the config invalid. In that case,
    /// nothing changes.
    pub fn change_for_now(&self, change: Change) -> Result<SettingsRecord, NotAllowed> {
        let mut state = self.state();
        state.config = changed(&state.config, change)?;
        state.record(change, Err(NotSaved::ForNow));
        Ok(self.publish(&state))
    }

    /// Retries saving the settings that could not be saved.
    pub fn save_again(&self) {
        let nothing = Change::default();
        if self.state().to_save() != nothing {
            self.save_all(nothing);
            self.publish_not_saved(&self.state());
        }
    }

    /// Adopts the settings that have changed in the config file. Settings that were never
    /// saved to the file keep their values, unless the file has changed them too.
    ///
    /// # Errors
    /// Returns [`NotAllowed`] if the result would be an invalid config. In that case,
    /// nothing changes.
    pub fn reload(&self, file: &Config) -> Result<(), NotAllowed> {
        let mut state = self.state();
        let in_file = Tuning::of(file);
        let change = Change::between(state.saved, in_file);
        let now = change.to(Tuning::of(&state.config));
        let mut config = file.clone();
        now.apply(&mut config);
        check(&config)?;
        state.config = config;
        state.record(change, Ok(()));
        state.saved = in_file;
        self.publish(&state);
        Ok(())
    }

    /// Saves a change, and the settings that could not be saved before. The changed values
    /// are saved even if they equal the values that were last read from the file, because a
    /// user may have edited the file since.
    fn save_all(&self, change: Change) {
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.state().to_save_with(change);
        let saved = self.save(all);
        self.state().record(all, saved.map_err(NotSaved::Failed));
    }

    fn publish(&self, state: &State) -> SettingsRecord {
        let now = Tuning::of(&state.config);
        self.now.send_replace(now);
        tracing::info!(
            masked_threshold = now.masked_threshold,
            unmasked_threshold = now.unmasked_threshold,
            confirm_ms = now.confirm_ms,
            confirm_frames = now.confirm_frames,
            hold_ms = now.hold_ms,
            capture = now.capture,
            saved = state.reasons.is_empty(),
            "settings changed"
        );
        self.publish_not_saved(state);
        SettingsRecord {
            now,
            not_saved: state.not_saved(),
        }
    }

    fn publish_not_saved(&self, state: &State) {
        let failed = state.failed();
        self.not_saved.send_if_modified(|told| {
            let has_changed = *told != failed;
            *told = failed;
            has_changed
        });
    }

    fn save(&self, change: Change) -> Result<(), String> {
        let Some(file) = &self.file else {
            return Err("the daemon was started without a config file".to_owned());
        };
        let read = config::read(file).map_err(|error| error.to_string())?;
        let text = rewrite(&read, change).map_err(|error| error.to_string())?;
        // The file may have been edited since the daemon read it.
        config::parse("file", &text).map_err(|error| error.to_string())?;
        if text == read {
            return Ok(());
        }
        files::rewrite(file, text.as_bytes()).map_err(|error| format!("{error}"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is safe to use because values are always replaced as a whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the text of a config with a change applied. The rest of the text stays the same.
fn rewrite(text: &str, change: Change) -> Result<String, EditError> {
    let edits = change.values().into_iter();
    let edits: Vec<ConfigEdit> = edits
        .map(|(section, key, value)| ConfigEdit::set(section, key, value))
        .collect();
    edit::edited(text, &edits)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;
    use crate::config::SHIPPED;

    fn hold(hold_ms: u64) -> Change {
        Change {
            hold_ms: Some(hold_ms),
            ..Change::default()
        }
    }

    #[test]
    fn the_file_keeps_everything_but_the_value() {
        let text = "# mine\n[decide] # how\nhold-ms = 1500 # long\n\n[classify]\nmargin = 0.2\n";
        let change = Change {
            masked_threshold: Some(0.7),
            ..hold(3000)
        };
        assert_eq!(
            rewrite(text, change).unwrap(),
            "# mine\n[decide] # how\nhold-ms = 3000 # long\n\n[classify]\nmargin = 0.2\nmasked-threshold = 0.7\n"
        );
        let old = "[classify]\n# why\nmask-from = 0.8 # so\nmargin = 0.2\n";
        let change = Change {
            masked_threshold: Some(0.7),
            ..Change::default()
        };
        assert_eq!(
            rewrite(old, change).unwrap(),
            "[classify]\nmargin = 0.2\n# why\nmasked-threshold = 0.7 # so\n"
        );
        let all = rewrite(SHIPPED, hold(7)).unwrap();
        assert_eq!(all, SHIPPED.replace("#hold-ms = 1500", "hold-ms = 7"));
        assert_eq!(rewrite("", hold(7)).unwrap(), "[decide]\nhold-ms = 7\n");
    }

    #[test]
    fn a_change_is_checked_saved_and_handed_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("maskd.toml");
        std::fs::write(&file, "[decide]\nhold-ms = 9 # why\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let (config, _) = config::load(&file).unwrap();
        let settings = Settings::new(&config, Some(file.clone()));
        let mut news = settings.subscribe();
        let wrong = Change {
            masked_threshold: Some(0.3),
            ..Change::default()
        };
        let refused = settings.change(wrong).unwrap_err().to_string();
        assert_eq!(
            refused,
            "classify.unmasked-threshold is 0.35, allowed is 0 to 0.3"
        );
        assert!(!news.has_changed().unwrap());
        let record = settings.change(hold(4000)).unwrap();
        assert_eq!((record.now.hold_ms, record.not_saved), (4000, None));
        assert_eq!(news.borrow_and_update().hold_ms, 4000);
        let written = std::fs::read_to_string(&file).unwrap();
        assert_eq!(written, "[decide]\nhold-ms = 4000 # why\n");
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "a file with secrets stays closed");

        // A file with both names of a key is invalid, so it is left unchanged.
        let both = "[classify]\nmask-from = 0.7\nmasked-threshold = 0.7\n";
        std::fs::write(&file, both).unwrap();
        let change = Change {
            masked_threshold: Some(0.8),
            ..Change::default()
        };
        let record = settings.change(change).unwrap();
        assert!(record.not_saved.unwrap().contains("remove mask-from"));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), both);

        // A file that has become invalid is left unchanged.
        std::fs::write(&file, "[decide]\nhold-ms = \"x\"\n[tea]\n").unwrap();
        let record = settings.change(hold(5000)).unwrap();
        assert_eq!(record.now.hold_ms, 5000);
        assert!(record.not_saved.unwrap().contains("tea"));
        assert!(std::fs::read_to_string(&file).unwrap().contains("[tea]"));
    }

    #[test]
    fn without_a_file_a_change_lasts_until_the_end() {
        let settings = Settings::new(&Config::default(), None);
        let record = settings.change(hold(1)).unwrap();
        assert_eq!(record.now.hold_ms, 1);
        assert!(record.not_saved.is_some());
        assert_eq!(settings.record(), record);
    }

    #[test]
    fn saving_one_setting_does_not_save_another() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("maskd.toml");
        std::fs::write(&file, "[capture]\nenabled = true\n").unwrap();
        let (config, _) = config::load(&file).unwrap();
        let settings = Settings::new(&config, Some(file.clone()));
        let capture = |on| Change {
            capture: Some(on),
            ..Change::default()
        };
        let paused = settings.change_for_now(capture(false)).unwrap();
        assert!(paused.not_saved.unwrap().contains("capture.enabled"));
        let record = settings.change(hold(4000)).unwrap();
        let restarted = Tuning::of(&config::load(&file).unwrap().0);
        assert!(restarted.capture && restarted.hold_ms == 4000);
        let why = record.not_saved.unwrap();
        assert!(why.contains("capture.enabled") && !why.contains("hold-ms"));
        assert_eq!(settings.record().not_saved, Some(why));
        // The setting has returned to its value in the file.
        let resumed = settings.change_for_now(capture(true)).unwrap();
        assert_eq!(resumed.not_saved, None);
        // Now the change is saved.
        settings.change_for_now(capture(false)).unwrap();
        let saved = settings.change(capture(false)).unwrap();
        assert_eq!(saved.not_saved, None);
        assert!(!config::load(&file).unwrap().0.capture.enabled);
    }

    #[test]
    fn settings_that_were_not_saved_are_saved_with_the_next_change_or_later() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("maskd.toml");
        let good = "[decide]\nhold-ms = 9\n";
        fs_write(&file, good);
        let (config, _) = config::load(&file).unwrap();
        let settings = Settings::new(&config, Some(file.clone()));
        let mut not_saved = settings.subscribe_not_saved();
        let told = |not_saved: &mut watch::Receiver<Option<String>>| {
            not_saved.borrow_and_update().clone().unwrap_or_default()
        };
        let confirm = |ms| Change {
            confirm_ms: Some(ms),
            ..Change::default()
        };
        fs_write(&file, "[tea]\n");
        settings.change(hold(4000)).unwrap();
        assert!(told(&mut not_saved).contains("decide.hold-ms: "));
        settings.change(confirm(900)).unwrap();
        let both = told(&mut not_saved);
        assert!(both.contains("decide.hold-ms: ") && both.contains("decide.confirm-ms: "));
        settings.save_again();
        assert!(!not_saved.has_changed().unwrap(), "nothing is new");
        // A setting that is not meant to be saved is not reported as a problem, and stays
        // unsaved.
        let capture = Change {
            capture: Some(true),
            ..Change::default()
        };
        settings.change_for_now(capture).unwrap();
        assert!(!told(&mut not_saved).contains("capture.enabled"));

        fs_write(&file, good);
        settings.change(confirm(1000)).unwrap();
        assert_eq!(told(&mut not_saved), "");
        let restarted = Tuning::of(&config::load(&file).unwrap().0);
        assert_eq!((restarted.hold_ms, restarted.confirm_ms), (4000, 1000));
        assert!(!restarted.capture);
        assert!(
            settings
                .record()
                .not_saved
                .unwrap()
                .contains("capture.enabled")
        );

        fs_write(&file, "[tea]\n");
        settings.change(hold(5000)).unwrap();
        fs_write(&file, good);
        settings.save_again();
        assert_eq!(told(&mut not_saved), "");
        assert_eq!(config::load(&file).unwrap().0.decide.hold_ms, 5000);
        assert!(!config::load(&file).unwrap().0.capture.enabled);
    }

    fn fs_write(file: &std::path::Path, text: &str) {
        std::fs::write(file, text).unwrap();
    }

    #[test]
    fn a_reload_takes_over_what_the_file_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("maskd.toml");
        fs_write(&file, "[decide]\nhold-ms = 9\n");
        let (config, _) = config::load(&file).unwrap();
        let settings = Settings::new(&config, Some(file.clone()));
        settings
            .change_for_now(Change {
                capture: Some(true),
                ..Change::default()
            })
            .unwrap();
        let edited = config::parse("any", "[decide]\nhold-ms = 10\nconfirm-ms = 8\n").unwrap();
        settings.reload(&edited).unwrap();
        let now = settings.record().now;
        assert_eq!((now.hold_ms, now.confirm_ms, now.capture), (10, 8, true));
        assert!(settings.record().not_saved.unwrap().contains("capture"));
        // A setting that could not be saved is kept, unless the file changes it.
        fs_write(&file, "[tea]\n");
        settings.change(hold(4000)).unwrap();
        settings.reload(&edited).unwrap();
        assert_eq!(settings.record().now.hold_ms, 4000);
        assert!(settings.record().not_saved.unwrap().contains("hold-ms"));
        let edited = config::parse("any", "[decide]\nhold-ms = 77\nconfirm-ms = 8\n").unwrap();
        settings.reload(&edited).unwrap();
        assert_eq!(settings.record().now.hold_ms, 77);
        let reasons = settings.record().not_saved.unwrap();
        assert!(!reasons.contains("hold-ms"), "{reasons}");
        // Thresholds that cross are refused, and nothing is changed.
        settings
            .change(Change {
                unmasked_threshold: Some(0.38),
                ..Change::default()
            })
            .unwrap();
        let crossing = config::parse(
            "any",
            "[classify]\nmasked-threshold = 0.36\n[decide]\nhold-ms = 78\n",
        );
        let error = settings.reload(&crossing.unwrap()).unwrap_err();
        assert!(error.to_string().contains("unmasked-threshold"), "{error}");
        assert_eq!(settings.record().now.hold_ms, 77);
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(masked_threshold in 0.6_f32..1.0, hold_ms in 0_u64..600_000, capture: bool) {
            let change = Change { masked_threshold: Some(masked_threshold), hold_ms: Some(hold_ms), capture: Some(capture), ..Change::default() };
            let config = config::parse("any", &rewrite(SHIPPED, change).unwrap()).unwrap();
            prop_assert_eq!(config.classify.masked_threshold, masked_threshold);
            prop_assert_eq!(config.decide.hold_ms, hold_ms);
            prop_assert_eq!(config.capture.enabled, capture);
        }
    }
}
