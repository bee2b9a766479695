//! The TOML config file: its keys, defaults, and checks.
//!
//! This module defines the keys that a user may set and their allowed ranges. Each
//! section has its own source file. If a value has a unit, the name of its key includes
//! the unit. `config/maskd.toml` documents all keys, and a test checks that the values in
//! that file equal the defaults. This module turns sections into options for other
//! modules, but knows nothing about how those modules use the options.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::camera::text_without_secrets;
use crate::learning::LearningOptions;
use crate::platform::files;
use crate::vision::detect::DetectorOptions;
use crate::vision::face_check::FaceCheckOptions;
use crate::vision::pipeline::{PipelineOptions, SecondLook};

mod camera;
mod capture;
mod classify;
mod control;
mod counts;
mod decide;
mod detect;
pub(crate) mod edit;
mod events;
mod indicate;
mod mode;
mod models;
mod mqtt;
mod named_files;
mod network;
pub mod privacy;
mod refit;
mod renamed;
pub mod settings;
mod sound;
mod times;
mod track;
mod web;

pub use camera::Camera;
pub use capture::{Capture, Keep};
pub use classify::Classify;
pub use control::Control;
pub use counts::Counts;
pub use decide::Decide;
pub use detect::Detect;
pub use events::{Events, Exec, Webhook};
pub use indicate::{Buzzer, Indicate};
pub use mode::Mode;
pub use models::Models;
pub(crate) use mqtt::is_device_name;
pub use mqtt::{Fleet, Mqtt, Secret};
pub use refit::Refit;
pub use renamed::RenamedKey;
pub use sound::Sound;
pub use times::Times;
pub use track::Track;
pub use web::{Web, is_password_hash, is_token_hash};

/// The config that is shipped: each key with its default and an explanation.
pub(crate) const SHIPPED: &str = include_str!("../../config/maskd.toml");

/// Maximum size of a config file, in bytes.
const MAX_CONFIG_BYTES: usize = 1024 * 1024;

/// All sections of the config.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// What the device is for.
    pub mode: Mode,
    /// Where frames come from.
    pub camera: Camera,
    /// Model files to use instead of the built-in ones.
    pub models: Models,
    /// How faces are detected.
    pub detect: Detect,
    /// How the verdict on a face (masked, unmasked, or unsure) is determined.
    pub classify: Classify,
    /// How faces are tracked from frame to frame.
    pub track: Track,
    /// How quickly decisions change.
    pub decide: Decide,
    /// The outputs and buttons at the door.
    pub indicate: Indicate,
    /// When the LEDs, the lock, capturing, and sounds are on.
    pub times: Times,
    /// The sounds for decisions.
    pub sound: Sound,
    /// Which crops are kept for training.
    pub capture: Capture,
    /// When and how a head is trained from labeled crops.
    pub refit: Refit,
    /// Whether passages are counted, and how long the numbers are kept.
    pub counts: Counts,
    /// The Unix socket that other programs use.
    pub control: Control,
    /// The web page and who may use it.
    pub web: Web,
    /// The MQTT broker that the daemon publishes its state to.
    pub mqtt: Mqtt,
    /// Which events there are, and who receives them.
    pub events: Events,
    /// Whether this device shares its heads, and the devices whose heads it evaluates.
    pub fleet: Fleet,
}

/// One problem in a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key with its section, such as `decide.hold-ms`.
    pub key: String,
    /// The part of the message after the key. It usually states the value and the allowed
    /// values.
    pub problem: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.key, self.problem)
    }
}

/// Why a config cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the config {}: {source}{}", path.display(), advice(source))]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is not valid TOML.
    #[error("the config {file} is not valid TOML: line {line}: {problem}")]
    Syntax {
        /// Name of the file in messages.
        file: String,
        /// Line number; the first line is line 1.
        line: usize,
        /// The parser's message.
        problem: String,
    },
    /// Some values are not allowed.
    #[error("the config {file} has {}:{}", count(problems.len()), list(problems))]
    Invalid {
        /// Name of the file in messages.
        file: String,
        /// All problems; at least one.
        problems: Vec<Problem>,
    },
}

/// Says what to do if the config cannot be read, as the end of a sentence.
fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::NotFound => "; check the path, or write a config with maskd setup",
        std::io::ErrorKind::PermissionDenied => "; run maskd with sudo, or as a user who may",
        _ => "",
    }
}

fn count(problems: usize) -> String {
    if problems == 1 {
        "a problem".to_owned()
    } else {
        format!("{problems} problems")
    }
}

impl ConfigError {
    /// Returns the error as one sentence on one line.
    #[must_use]
    pub fn in_one_line(&self) -> String {
        match self {
            ConfigError::Invalid { file, problems } => {
                let listed: Vec<String> = problems.iter().map(ToString::to_string).collect();
                let count = count(problems.len());
                format!("the config {file} has {count}: {}", listed.join("; "))
            }
            error => error.to_string(),
        }
    }
}

fn list(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(|problem| format!("\n  {problem}"))
        .collect()
}

/// Reads and checks a config file. Also returns the keys that appear in the file under an
/// old name, so that the caller can inform the user.
///
/// # Errors
/// Returns a [`ConfigError`]. [`ConfigError::Invalid`] lists every problem in the file.
pub fn load(path: &Path) -> Result<(Config, Vec<RenamedKey>), ConfigError> {
    parse_with_renames(&path.display().to_string(), &read(path)?)
}

/// Reads the text of a config file.
///
/// # Errors
/// Returns [`ConfigError::Read`].
pub fn read(path: &Path) -> Result<String, ConfigError> {
    let read = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let bytes = files::read_bounded(path, MAX_CONFIG_BYTES as u64);
    let bytes = bytes.map_err(|error| read(error.source))?;
    String::from_utf8(bytes).map_err(|_| read(std::io::Error::other("it is not UTF-8 text")))
}

/// Parses and checks the text of a config. `file` is the name of the config in messages.
///
/// # Errors
/// Returns a [`ConfigError`]. [`ConfigError::Invalid`] lists every problem in the text.
pub fn parse(file: &str, text: &str) -> Result<Config, ConfigError> {
    parse_with_renames(file, text).map(|(config, _)| config)
}

fn parse_with_renames(file: &str, text: &str) -> Result<(Config, Vec<RenamedKey>), ConfigError> {
    let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start).min(text.len());
        // If the span starts in the middle of a character, the whole text is used.
        let before = text.get(..start).unwrap_or(text);
        let line = 1 + before.matches('\n').count();
        ConfigError::Syntax {
            file: file.to_owned(),
            line,
            problem: text_without_secrets(&syntax_problem(&one_line(error.message()))),
        }
    })?;
    let mut problems = Vec::new();
    let renamed = renamed::rename(&mut table, &mut problems);
    let config = from_table(&table, &mut problems);
    problems.extend(config.check());
    if problems.is_empty() {
        Ok((config, renamed))
    } else {
        for problem in &mut problems {
            renamed::name_as_written(problem, &renamed);
            // The file may contain an address with a password where a key or another
            // value is expected.
            problem.key = text_without_secrets(&one_line(&problem.key));
            problem.problem = text_without_secrets(&problem.problem);
        }
        Err(ConfigError::Invalid {
            file: file.to_owned(),
            problems,
        })
    }
}

/// Reads each key separately, so that an invalid key does not hide problems in the keys
/// after it. Invalid keys keep their defaults.
fn from_table(table: &toml::Table, problems: &mut Vec<Problem>) -> Config {
    let mut good = toml::Table::new();
    for (section, content) in table {
        let mut fail = |key: String, problem: String| problems.push(Problem { key, problem });
        match content {
            toml::Value::String(_) if section == "mode" => {
                let mut trial = good.clone();
                trial.insert(section.clone(), content.clone());
                match Config::deserialize(trial.clone()) {
                    Ok(_) => good = trial,
                    Err(error) => fail(section.clone(), wrong(error.message())),
                }
            }
            toml::Value::Table(content) if is_section(section) => {
                for (key, value) in content {
                    if let Err(error) = add(&mut good, section, key, value) {
                        fail(format!("{section}.{key}"), wrong(error.message()));
                    }
                }
            }
            // An unknown section is reported as a single problem, not once for each key.
            toml::Value::Table(_) => {
                fail(section.clone(), "is not a section of the config".to_owned());
            }
            _ => fail(section.clone(), "is outside of any [section]".to_owned()),
        }
    }
    let classify = good.get("classify").cloned();
    let mut config = Config::deserialize(good).unwrap_or_default();
    config.classify.fit_thresholds(|key| {
        classify
            .as_ref()
            .is_some_and(|keys| keys.get(key).is_some())
    });
    config
}

/// Adds a key to `good` if the resulting table is still a valid config.
fn add(
    good: &mut toml::Table,
    section: &str,
    key: &str,
    value: &toml::Value,
) -> Result<(), toml::de::Error> {
    let mut trial = good.clone();
    let content = trial
        .entry(section)
        .or_insert_with(|| toml::Table::new().into());
    if let Some(content) = content.as_table_mut() {
        content.insert(key.to_owned(), value.clone());
    }
    Config::deserialize(trial.clone())?;
    *good = trial;
    Ok(())
}

fn is_section(name: &str) -> bool {
    let empty = toml::Table::from_iter([(name.to_owned(), toml::Table::new().into())]);
    Config::deserialize(empty).is_ok()
}

/// Replaces the parser's message about a number that TOML cannot hold.
fn syntax_problem(message: &str) -> String {
    if message.starts_with("invalid type: integer") {
        "the number is too large".to_owned()
    } else {
        message.to_owned()
    }
}

fn wrong(message: &str) -> String {
    if message.starts_with("invalid socket address") {
        return "is wrong: write an IP address and a port, such as \"0.0.0.0:8080\"".to_owned();
    }
    if message.starts_with("invalid value: integer") {
        return "is wrong: the number is negative or too large".to_owned();
    }
    format!("is wrong: {}", without_value(&one_line(message)))
}

/// Returns an error message about an invalid value, but without the value itself. The
/// value may be a password or an address that contains a password.
fn without_value(message: &str) -> String {
    for start in ["invalid type: ", "invalid value: ", "unknown variant "] {
        let Some(found) = message.strip_prefix(start) else {
            continue;
        };
        let (value, expected) = found.rsplit_once(", expected ").unwrap_or((found, ""));
        let kind = value.split(['`', '"']).next().unwrap_or_default().trim();
        // A short word is probably a typo, and showing it helps the user find it.
        let word = value.trim_matches('`');
        let is_word = word.len() <= 16 && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let shown = match kind {
            "" if is_word => format!(" {word}"),
            "" => String::new(),
            "sequence" => " list".to_owned(),
            "map" => " section".to_owned(),
            kind => format!(" {kind}"),
        };
        return format!(
            "{}{shown}, expected {}",
            start.trim_end_matches([' ', ':']),
            in_words(expected)
        );
    }
    message.to_owned()
}

/// Replaces the name of a type with words that an owner understands.
fn in_words(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, without quotes",
        "f32" | "f64" => "a number, without quotes",
        "a boolean" => "true or false, without quotes",
        "a string" | "path string" => "a text in quotes",
        "a sequence" => "a list, such as [\"red\"]",
        expected => expected,
    }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Config {
    /// Returns the options for
    /// [`Pipeline::open`](crate::vision::pipeline::Pipeline::open).
    #[must_use]
    pub fn pipeline_options(&self) -> PipelineOptions {
        PipelineOptions {
            detector_file: self.models.detector.clone(),
            classifier_file: self.models.classifier.clone(),
            detector: DetectorOptions {
                side: self.detect.input_size,
                threshold: self.detect.threshold,
            },
            face_check: FaceCheckOptions {
                low_threshold: self.detect.low_threshold,
                certain_from: self.detect.threshold.max(self.classify.min_detector_score),
                min_probability: self.detect.face_check,
                min_side: self.classify.min_face_pixels,
            },
            margin: self.classify.margin,
            second_look: SecondLook {
                below: self.classify.second_look_below,
                margin: self.classify.second_look_margin,
            },
        }
    }

    /// Returns the options for [`Learning`](crate::learning::Learning).
    #[must_use]
    pub fn learning_options(&self) -> LearningOptions {
        LearningOptions {
            replay_file: self.models.replay.clone(),
            masked_labels: self.classify.masked_labels.clone(),
            ..self.refit.options()
        }
    }

    /// Returns the maximum time for classifying the faces in one frame. The verdict on
    /// the remaining faces is unsure. The time is at most half of `decide.stale-ms`,
    /// because a frame must never take so long that the camera appears to have stopped
    /// sending frames.
    #[must_use]
    pub fn frame_time_limit(&self) -> Duration {
        let limit = self.classify.time_limit_ms.min(self.decide.stale_ms / 2);
        Duration::from_millis(limit)
    }

    /// Returns the config that the daemon runs with. In statistics mode, the outputs and the
    /// buttons have their defaults, which use no pins, there are no sounds, and no face
    /// pictures are kept.
    #[must_use]
    pub fn for_mode(&self) -> Config {
        let mut config = self.clone();
        if config.mode == Mode::Count {
            config.indicate = Indicate::default();
            config.sound = Sound::default();
            config.capture.enabled = false;
        }
        config
    }

    /// Whether passages are counted.
    #[must_use]
    pub fn counts_passages(&self) -> bool {
        self.counts.enabled || self.mode == Mode::Count
    }

    /// Whether anything depends on the local time: windows, or the quiet hours.
    #[must_use]
    pub(crate) fn depends_on_time_of_day(&self) -> bool {
        self.times.has_windows()
            || self.indicate.quiet().is_some()
            || !self.sound.low_volume_times.is_empty()
    }

    /// Returns a problem for each value that is out of range or contradicts another
    /// value.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let Config {
            mode,
            camera,
            models,
            detect,
            classify,
            track,
            decide,
            indicate,
            times,
            sound,
            capture,
            refit,
            counts,
            control,
            web,
            mqtt,
            events,
            fleet,
        } = self;
        let mut check = Check::default();
        camera.check(&mut check);
        models.check(&mut check);
        detect.check(&mut check);
        classify.check(&mut check);
        track.check(&mut check);
        decide.check(&mut check);
        indicate.check(&mut check);
        times.check(indicate, &mut check);
        sound.check(&mut check);
        capture.check(&mut check);
        refit.check(&mut check);
        counts.check(&mut check);
        control.check(&mut check);
        web.check(&mut check);
        mqtt.check(&mut check);
        events.check(&mut check);
        fleet.check(mqtt, &mut check);
        if *mode == Mode::Count && capture.enabled {
            let problem = "is true, but no face pictures are kept with mode = \"count\"";
            check.fail("capture.enabled", problem.to_owned());
        }
        check.problems
    }
}

#[derive(Default)]
struct Check {
    problems: Vec<Problem>,
}

impl Check {
    fn fail(&mut self, key: &str, problem: String) {
        self.problems.push(Problem {
            key: key.to_owned(),
            problem,
        });
    }

    fn not_empty(&mut self, key: &str, path: Option<&Path>) {
        if path.is_some_and(|path| path.as_os_str().is_empty()) {
            let problem = "is empty: name a file, or leave the key out";
            self.fail(key, problem.to_owned());
        }
    }

    fn within<T: PartialOrd + std::fmt::Display + Copy>(
        &mut self,
        key: &str,
        value: T,
        min: T,
        max: T,
    ) {
        // The condition is negated so that NaN fails the check.
        if !(value >= min && value <= max) {
            self.fail(key, format!("is {value}, allowed is {min} to {max}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::indicate::pins::{Backend, Input, Line, Output, PinDriver, PinFunction};
    use crate::indicate::{ContactType, DoorInput, DoorOptions, LockType, Opening};

    #[test]
    fn a_threshold_that_is_not_set_is_on_the_right_side_of_the_other() {
        for (text, masked, unmasked) in [
            ("", 0.4, 0.35),
            ("masked-threshold = 0.7", 0.7, 0.35),
            ("masked-threshold = 0.3", 0.3, 0.3),
            ("unmasked-threshold = 0.2", 0.4, 0.2),
            ("unmasked-threshold = 0.58", 0.58, 0.58),
        ] {
            let config = parse("test.toml", &format!("[classify]\n{text}\n")).unwrap();
            let found = &config.classify;
            assert_eq!(
                (found.masked_threshold, found.unmasked_threshold),
                (masked, unmasked),
                "{text}"
            );
        }
        for text in [
            "unmasked-threshold = 1.5",
            "masked-threshold = -1",
            "masked-threshold = 0.5\nunmasked-threshold = 0.58",
        ] {
            assert!(parse("test.toml", &format!("[classify]\n{text}\n")).is_err());
        }
    }

    #[test]
    fn secrets_in_a_wrong_place_are_not_repeated() {
        for text in [
            "[camera]\nsource = \"http://me:Qx7Z9/1@cam/\"",
            "[camera]\nsource = \" http://me:Qx7Z9@cam/\"",
            "[camera]\nsource = \"me:Qx7Z9@cam\"",
            "[camera]\nsource = http://me:Qx7Z9@cam/",
            "[camera]\nsource = 'http://me:Qx7Z9@cam/",
            "[camera]\nsource = \"http://me:Qx7Z9\\q@cam/\"",
            "[camera]\nsource = \"http://me:Qx7Z9@cam/\"\nsource = 1",
            "[camera]\nsource = [\"http://me:Qx7Z9@cam/\"]",
            "[camera]\nwidth = \"http://me:Qx7Z9@cam/\"",
            "[camera]\nformat = \"http://me:Qx7Z9@cam/\"",
            "[camera]\nloop = \"a, expected Qx7Z9, expected b\"",
            "[camera]\n\"http://me:Qx7Z9@cam/\" = 1",
            "[\"http://me:Qx7Z9@cam/\"]",
            "\"http://me:Qx7Z9@cam/\" = 1",
            "source = \"http://me:Qx7Z9@cam/\"",
            "http://me:Qx7Z9@cam/",
            "[mqtt]\nport = \"Qx7Z9\"",
            "[mqtt]\nhost = \"mqtt://me:Qx7Z9@cam\"",
            "[mqtt]\ntls = \"me:Qx7Z9\"",
            "[indicate]\nquiet-from = \"http://me:Qx7Z9@cam/\"",
        ] {
            let error = parse("test.toml", text).unwrap_err();
            for shown in [error.to_string(), format!("{error:?}")] {
                assert!(!shown.contains("Qx7Z9"), "{text}: {shown}");
            }
        }
        let found = problems("[mqtt]\npassword = 271828\n[camera]\nformat = \"h264\"");
        assert!(!found.concat().contains("271828"), "{found:?}");
        assert!(
            found
                .concat()
                .contains("unknown variant h264, expected one of"),
            "{found:?}"
        );
        let config = parse("test.toml", "[camera]\nsource = \"http://me:Qx7Z9@cam/\"").unwrap();
        assert!(!format!("{config:?}").contains("Qx7Z9"), "Debug hides it");
    }

    /// Returns the problems of a config that is not valid.
    pub(super) fn problems(text: &str) -> Vec<String> {
        match parse("test.toml", text) {
            Err(ConfigError::Invalid { problems, .. }) => {
                problems.iter().map(ToString::to_string).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn shipped_config_sets_nothing_and_shows_the_defaults() {
        assert_eq!(parse("maskd.toml", SHIPPED).unwrap(), Config::default());
        let shown: toml::Table = SHIPPED
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(default) if default.starts_with(|c: char| c.is_ascii_lowercase()) => default,
                _ => line,
            })
            .collect::<Vec<&str>>()
            .join("\n")
            .parse()
            .unwrap();
        let defaults = toml::Table::try_from(Config::default()).unwrap();
        let keys = |table: &toml::Table| -> Vec<String> {
            let keys = table.iter().flat_map(|(section, value)| match value {
                toml::Value::Table(keys) => {
                    keys.keys().map(|key| format!("{section}.{key}")).collect()
                }
                _ => vec![section.clone()],
            });
            keys.collect()
        };
        assert_eq!(keys(&shown), keys(&defaults));
        let text = shown.to_string();
        assert_eq!(parse("maskd.toml", &text).unwrap(), Config::default());
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "it lists every key")]
    fn shipped_config_documents_every_key() {
        let full = Config {
            models: Models {
                classifier: Some("a.onnx".into()),
                replay: Some("a.bin".into()),
                detector: Some("b.onnx".into()),
            },
            control: Control {
                socket: Some("c.sock".into()),
            },
            web: Web {
                listen: Some(([127, 0, 0, 1], 8080).into()),
                password_hash: Some("hash".to_owned()),
                tls_certificate: Some("d.pem".into()),
                tls_key: Some("e.pem".into()),
                ..Web::default()
            },
            mqtt: Mqtt {
                host: Some("h".to_owned()),
                port: Some(1),
                ca_file: Some("ca.pem".into()),
                user: Some("u".to_owned()),
                password: Some(Secret("p".to_owned())),
                password_file: Some("p".into()),
                device: Some("d".to_owned()),
                ..Mqtt::default()
            },
            camera: Camera {
                ca_file: Some("camera.pem".into()),
                tls_fingerprint: Some("0a".to_owned()),
                ..Camera::default()
            },
            indicate: Indicate {
                backend: Some(Backend::Rppal),
                gpio_chip: Some("chip".to_owned()),
                green_pin: Some(Line::Number(1)),
                red_pin: Some(Line::Number(2)),
                buzzer_pin: Some(Line::Number(3)),
                relay_pin: Some(Line::Number(4)),
                relay_pulse_ms: Some(500),
                door_contact_pin: Some(Line::Number(7)),
                held_open_ms: Some(30_000),
                exit_button_pin: Some(Line::Number(8)),
                release_pin: Some(Line::Number(9)),
                with_mask_button_pin: Some(Line::Number(5)),
                without_mask_button_pin: Some(Line::Number(6)),
                quiet_from: Some("22:00".to_owned().try_into().unwrap()),
                quiet_to: Some("07:00".to_owned().try_into().unwrap()),
                ..Indicate::default()
            },
            sound: Sound {
                mask: Some("m".into()),
                no_mask: Some("n".into()),
                unsure: Some("u".into()),
                fault: Some("f".into()),
                idle: Some("i".into()),
                ..Sound::default()
            },
            ..Config::default()
        };
        let table = toml::Table::try_from(full).unwrap();
        for (section, keys) in &table {
            let Some(keys) = keys.as_table() else {
                // The key stands before the first section.
                let (top, _) = SHIPPED.split_once("\n[").unwrap();
                assert!(top.contains(&format!("\n#{section} = ")), "{section}");
                continue;
            };
            let (_, text) = SHIPPED
                .split_once(&format!("\n[{section}]\n"))
                .expect(section);
            let text = text.split("\n[").next().unwrap_or(text);
            for key in keys.keys() {
                let written = |line: &str| {
                    line.trim_start_matches(['#', ' '])
                        .split_once(" = ")
                        .is_some_and(|(k, _)| k == key)
                };
                assert!(
                    text.lines().any(written),
                    "{section}.{key} is not documented"
                );
            }
        }
    }

    #[test]
    fn types_are_named_in_words() {
        for (text, expected) in [
            (
                "[camera]\nfps = \"15\"",
                "camera.fps is wrong: invalid type string, expected a whole number, without quotes",
            ),
            (
                "[decide]\nhold-ms = -1",
                "decide.hold-ms is wrong: the number is negative or too large",
            ),
            (
                "[camera]\nsource = [\"rpicam\"]",
                "camera.source is wrong: invalid type list, expected a text in quotes",
            ),
            (
                "[camera]\nloop = \"yes\"",
                "camera.loop is wrong: invalid type string, expected true or false, without quotes",
            ),
            (
                "[camera]\nplayback-fps = \"1\"",
                "camera.playback-fps is wrong: invalid type string, expected a number, without quotes",
            ),
            (
                "[camera]\nsource = 3",
                "camera.source is wrong: invalid type integer, expected a text in quotes",
            ),
            (
                "[indicate]\nactive-low = \"red\"",
                "indicate.active-low is wrong: invalid type string, expected a list, such as [\"red\"]",
            ),
            (
                "[indicate]\ngreen-pin = \"17\"",
                "indicate.green-pin is a text: write the number 17 without quotes",
            ),
            (
                "[web]\nlisten = \"8080\"",
                "web.listen is wrong: write an IP address and a port, such as \"0.0.0.0:8080\"",
            ),
        ] {
            assert_eq!(problems(text), [expected]);
        }
    }

    #[test]
    fn a_number_that_toml_cannot_hold_is_named() {
        let error = parse("test.toml", "[decide]\nhold-ms = 99999999999999999999\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the config test.toml is not valid TOML: line 2: the number is too large"
        );
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let found = problems(
            "lonely = 1\n[decide]\nhold-ms = 600001\nconfirm-ms = \"soon\"\nhold = 3\n\
             [camera]\nsource = \"ftp://x\"\n[tea]\nlisten = 1\nport = 2\n[detect]\nthreshold = nan\n",
        );
        let keys: Vec<&str> = found
            .iter()
            .map(|problem| problem.split(' ').next().unwrap())
            .collect();
        let expected = [
            "lonely",
            "decide.confirm-ms",
            "decide.hold",
            "tea",
            "camera.source",
            "detect.threshold",
            "decide.hold-ms",
        ];
        let sorted = |mut keys: Vec<String>| {
            keys.sort();
            keys
        };
        assert_eq!(
            sorted(keys.iter().map(ToString::to_string).collect()),
            sorted(expected.map(String::from).to_vec()),
            "{found:#?}"
        );
        assert!(found.contains(&"decide.hold-ms is 600001, allowed is 0 to 600000".to_owned()));
    }

    #[test]
    fn the_mode_is_checked() {
        let mode = |text: &str| parse("test.toml", text).map(|config| config.mode);
        assert_eq!(mode("").unwrap(), Mode::Door);
        assert_eq!(mode("mode = \"count\"\n[web]\n").unwrap(), Mode::Count);
        assert_eq!(
            problems("mode = \"statistics\""),
            ["mode is wrong: unknown variant statistics, expected `door` or `count`"]
        );
        assert_eq!(problems("mode = 1"), ["mode is outside of any [section]"]);
        assert_eq!(
            problems("mode = \"count\"\n[capture]\nenabled = true"),
            ["capture.enabled is true, but no face pictures are kept with mode = \"count\""]
        );
        let counts = |text: &str| parse("test.toml", text).unwrap().counts_passages();
        assert!(counts("mode = \"count\"") && counts("[counts]\nenabled = true"));
        assert!(!counts(""));
    }

    #[test]
    fn thresholds_must_not_cross() {
        let found = problems("[classify]\nmasked-threshold = 0.6\nunmasked-threshold = 0.7\n");
        assert_eq!(
            found,
            ["classify.unmasked-threshold is 0.7, allowed is 0 to 0.6"]
        );
    }

    #[test]
    fn web_access_settings_are_checked() {
        let found = problems(
            "[web]\nallowed-hosts = [\"http://door\", \"door.lan\"]\npassword-hash = \"secret\"\n\
             token-hashes = [\"ab\"]\ntls-key = \"k.pem\"\nlive-fps = 100\n",
        );
        let keys: Vec<&str> = found
            .iter()
            .map(|problem| problem.split(' ').next().unwrap())
            .collect();
        let expected = [
            "web.allowed-hosts",
            "web.password-hash",
            "web.token-hashes",
            "web.tls-certificate",
            "web.live-fps",
        ];
        assert_eq!(keys, expected, "{found:#?}");
        assert!(found.iter().all(|problem| !problem.contains("secret")));
    }

    #[test]
    fn pins_are_checked() {
        let found = problems(
            "[indicate]\ngreen-pin = 17\nred-pin = 17\nbuzzer-pin = 28\nrelay-pin = \"GPIO4\"\n\
             gpio-chip = \"x\"\nquiet-from = \"22:00\"\nbuzzer-hz = 3\nwith-mask-label = \"a/b\"\n\
             button-crops = 0\nwith-mask-button-pin = -3\nquiet-to = \"25:00\"\n",
        );
        let has = |words: &str| found.iter().any(|problem| problem.contains(words));
        for words in [
            "indicate.red-pin is 17, the same as green-pin",
            "indicate.buzzer-pin is 28, allowed is 0 to 27",
            "indicate.relay-pin is GPIO4, but names require the backend",
            "indicate.gpio-chip requires the backend",
            "indicate.quiet-to is wrong: \"25:00\" is not a time such as",
            "indicate.buzzer-hz is 3",
            "indicate.with-mask-label is wrong",
            "indicate.button-crops is 0",
            "indicate.with-mask-button-pin is wrong: expected the number of a line, or its name",
        ] {
            assert!(has(words), "{words:?} is not in {found:#?}");
        }
    }

    #[test]
    fn times_and_sounds_are_checked() {
        let found = problems(
            "[indicate]\nrelay-pulse-ms = 500\n[times]\nlock = [\"Mon-Fri 07:00-19:00\"]\n\
             indicate = [\"Monday\"]\nholidays = [\"25.12.2026\"]\n[sound]\nmask = \"\"\n\
             program = [\"aplay\"]\nlow-volume = 101\nmin-interval-ms = 600001\n\
             time-limit-ms = 1\nlow-volume-times = [\"07:00-07:00\"]\n",
        );
        for words in [
            "times.indicate is wrong: \"Monday\" is not a window such as \"Mon-Fri 07:00-19:00\"",
            "times.holidays is wrong: \"25.12.2026\" is not a date such as",
            "times.lock requires the relay of a door: set indicate.relay-pin",
            "times.lock cannot be used with indicate.relay-pulse-ms and a fail-secure lock",
            "sound.mask is empty",
            "sound.program has no argument with \"{file}\"",
            "sound.low-volume is 101, allowed is 0 to 100",
            "sound.min-interval-ms is 600001, allowed is 0 to 600000",
            "sound.time-limit-ms is 1, allowed is 100 to 60000",
            "sound.low-volume-times is wrong: \"07:00-07:00\" is empty",
        ] {
            let has = found.iter().any(|problem| problem.contains(words));
            assert!(has, "{words:?} is not in {found:#?}");
        }
        let found = problems("[times]\nholidays = [\"2026-12-25\"]\n");
        assert!(
            found[0].starts_with("times.holidays requires windows"),
            "{found:#?}"
        );
        let windows = vec!["\"07:00-08:00\""; 51].join(",");
        let found = problems(&format!("[times]\nsound = [{windows}]\n"));
        assert_eq!(found, ["times.sound has 51 windows, allowed are 50"]);
        let found = problems("[sound]\nprogram = []\n");
        assert_eq!(found, ["sound.program is empty: name a program"]);
        let sound = Sound {
            program: ["mpv", "--volume={volume}", "{file}"]
                .map(str::to_owned)
                .to_vec(),
            ..Sound::default()
        };
        let command = sound.command(Path::new("/a {volume}.wav"), 30);
        assert_eq!(command, ["mpv", "--volume=30", "/a {volume}.wav"]);
    }

    #[test]
    fn the_inputs_of_a_door_are_checked() {
        let found = problems(
            "[indicate]\nrelease-pin = 13\nexit-button-pin = 13\ndoor-contact-pin = 40\n\
             relay-pulse-ms = 10\nheld-open-ms = 1\nrelease = \"closed\"\n",
        );
        assert!(found[0].contains("indicate.release is wrong"), "{found:#?}");
        let found = problems(
            "[indicate]\nrelease-pin = 13\nexit-button-pin = 13\ndoor-contact-pin = 40\n\
             relay-pulse-ms = 10\nheld-open-ms = 1\n",
        );
        for words in [
            "indicate.release-pin is 13, the same as exit-button-pin: use another pin",
            "indicate.door-contact-pin is 40, allowed is 0 to 27",
            "indicate.relay-pulse-ms is 10, allowed is 50 to 60000",
            "indicate.held-open-ms is 1, allowed is 1000 to 86400000",
            "indicate.relay-pulse-ms requires the relay of a door: set relay-pin",
            "indicate.release-pin requires the relay of a door: set relay-pin",
        ] {
            let has = found.iter().any(|problem| problem.contains(words));
            assert!(has, "{words:?} is not in {found:#?}");
        }
        let found = problems("[indicate]\nrelay-pin = 23\nheld-open-ms = 2000\n");
        assert!(
            found[0].starts_with("indicate.held-open-ms requires a door contact"),
            "{found:#?}"
        );
    }

    #[test]
    fn a_door_has_the_inputs_that_have_pins() {
        let text = "[indicate]\nrelay-pin = 23\nrelay-pulse-ms = 500\nrelease-pin = 13\n\
                    door-contact-pin = 12\ndoor-contact = \"normally-open\"\nheld-open-ms = 2000\n";
        let indicate = parse("any", text).unwrap().indicate;
        let without_inputs = DoorOptions::without_inputs(
            LockType::FailSecure,
            Opening::Pulse(Duration::from_millis(500)),
        );
        assert_eq!(indicate.door(false), Some(without_inputs));
        let door = DoorOptions {
            contact: Some(ContactType::NormallyOpen),
            release: Some(ContactType::NormallyClosed),
            held_open_after: Some(Duration::from_secs(2)),
            ..without_inputs
        };
        assert_eq!(indicate.door(true), Some(door));
        let release = PinFunction::In(Input::Door(DoorInput::Release));
        let lines = indicate.pins(true).unwrap().lines;
        assert!(lines.contains(&(Line::Number(13), release)));
        assert_eq!(Config::default().indicate.door(true), None);
    }

    #[test]
    fn gpiocdev_accepts_any_line() {
        let text = "[indicate]\nbackend = \"gpiocdev\"\ngpio-chip = \"x\"\ngreen-pin = 90\nred-pin = \"LED2\"\n";
        let config = parse("any", text).unwrap();
        let options = config.indicate.pins(true).unwrap();
        assert_eq!(
            options.driver,
            PinDriver::Gpiocdev {
                chip: Some("x".to_owned())
            }
        );
        assert_eq!(options.lines.len(), 2);
        let passive = format!("{text}buzzer = \"passive\"\n");
        assert!(problems(&passive)[0].starts_with("indicate.buzzer is passive"));
    }

    #[test]
    fn rppal_is_the_default_on_a_raspberry_pi_only() {
        let config = parse(
            "any",
            "[indicate]\ngreen-pin = 17\nactive-low = [\"green\"]\nbuzzer = \"passive\"\n",
        )
        .unwrap();
        let options = config.indicate.pins(true).unwrap();
        assert_eq!(options.driver, PinDriver::Rppal { tone: Some(2000.0) });
        let green = PinFunction::Out {
            output: Output::Green,
            active_low: true,
        };
        assert_eq!(options.lines, [(Line::Number(17), green)]);
        assert_eq!(config.indicate.pins(false), None);
        let none = Config::default();
        assert_eq!(none.indicate.pins(true), None);
    }

    #[test]
    fn mqtt_and_fleet_settings_are_checked() {
        let found = problems(
            "[mqtt]\nhost = \"mqtt://h\"\nport = 0\nca-file = \"a\"\npassword = \"p\"\n\
             password-file = \"f\"\ndevice = \"a/b\"\ntopic-prefix = \"a//b\"\n\
             discovery-prefix = \"+\"\n[fleet]\ntrust = [\"00\"]\n",
        );
        for key in [
            "mqtt.host is not a name",
            "mqtt.port is 0",
            "mqtt.ca-file requires tls",
            "mqtt.password-file and password",
            "mqtt.user is missing",
            "mqtt.device is wrong",
            "mqtt.topic-prefix is not a topic",
            "mqtt.discovery-prefix is not a topic",
            "fleet.trust contains an invalid key",
        ] {
            assert!(
                found.iter().any(|problem| problem.starts_with(key)),
                "{key}: {found:#?}"
            );
        }
        let found = problems("[fleet]\nshare = true\n");
        assert_eq!(found, ["fleet.share needs a broker: set mqtt.host"]);
    }

    #[test]
    fn syntax_errors_name_the_line() {
        let error = parse("test.toml", "[decide]\nhold-ms = = 3\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("the config test.toml is not valid TOML: line 2: "),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in any::<String>()) {
            let _ = parse("any", &text);
        }

        #[test]
        fn any_number_is_accepted_or_named(key in prop::sample::select(vec![
            "camera.playback-fps", "camera.width", "camera.fps", "camera.stall-ms", "detect.input-size", "detect.threshold", "classify.margin",
            "track.vote-window", "decide.stale-ms",
        ]), value in prop_oneof![any::<f64>().prop_map(|v| format!("{v:?}")), any::<i64>().prop_map(|v| v.to_string())]) {
            let (section, name) = key.split_once('.').unwrap();
            // Rust and TOML write infinities and NaN in the same way, except for
            // capitalization.
            let text = format!("[{section}]\n{name} = {}\n", value.to_lowercase());
            match parse("any", &text) {
                Ok(config) => prop_assert!(config.check().is_empty()),
                Err(error) => prop_assert!(error.to_string().contains(key), "{error}"),
            }
        }
    }
}
