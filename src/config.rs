//! The one TOML file: its keys, defaults and checks.
//!
//! Owns what a user may set and in which range. Every key has its unit in its
//! name and its default here; `config/maskd.toml` documents them all and is
//! tested to be equal to the defaults.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::camera::{CameraOptions, Spec};
use crate::capture::CaptureOptions;
use crate::decide::{DeciderOptions, JudgeOptions};
use crate::track::TrackOptions;

/// Largest config file that is read, in bytes.
const MAX_CONFIG_BYTES: usize = 1024 * 1024;

/// Everything a user can set.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Where frames come from.
    pub camera: Camera,
    /// Which models are used.
    pub models: Models,
    /// How faces are looked for.
    pub detect: Detect,
    /// How faces are judged.
    pub classify: Classify,
    /// How faces are followed from frame to frame.
    pub track: Track,
    /// How quickly decisions change.
    pub decide: Decide,
    /// Which crops are kept to learn from.
    pub capture: Capture,
    /// When and how the head learns from labelled crops.
    pub refit: Refit,
    /// How other programs reach the daemon.
    pub control: Control,
}

/// `[camera]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Camera {
    /// `examples`, a picture, a folder of pictures, `http://…` or
    /// `exec:COMMAND …`.
    pub source: String,
    /// Pictures a second, for pictures and folders; above 0, up to 120.
    pub rate: f32,
    /// Whether pictures, folders and videos start again at their end.
    #[serde(rename = "loop")]
    pub repeat: bool,
    /// A live source without a frame for this long is lost, in ms; 100 to
    /// 600,000.
    pub stall_ms: u64,
    /// Largest JPEG of a stream, in KiB; 16 to 65,536.
    pub max_frame_kib: usize,
}

impl Default for Camera {
    fn default() -> Camera {
        Camera {
            source: "examples".to_owned(),
            rate: 0.5,
            repeat: true,
            stall_ms: 5000,
            max_frame_kib: 8192,
        }
    }
}

impl Camera {
    /// The options of [`crate::camera::Camera::open`].
    #[must_use]
    pub fn options(&self) -> CameraOptions {
        CameraOptions {
            rate: self.rate,
            repeat: self.repeat,
            stall: Duration::from_millis(self.stall_ms),
            max_frame_bytes: self.max_frame_kib * 1024,
        }
    }
}

/// `[models]`; what is absent is the model that is compiled in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Models {
    /// An ONNX file, backbone and head.
    pub classifier: Option<PathBuf>,
    /// An ONNX file.
    pub detector: Option<PathBuf>,
}

/// `[detect]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Detect {
    /// Longest side of what the detector sees, in pixels; 64 to 1920.
    pub side: u32,
    /// Finds with a lower score are no faces; 0.05 to 0.99.
    pub threshold: f32,
}

impl Default for Detect {
    fn default() -> Detect {
        Detect {
            side: 320,
            threshold: 0.52,
        }
    }
}

/// `[classify]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Classify {
    /// What a crop shows around the face's box, as a share of the box; -0.25
    /// to 1.
    pub margin: f32,
    /// The labels that count as masked.
    pub masked_labels: Vec<String>,
    /// P(masked) from here up is masked; 0.05 to 1.
    pub mask_from: f32,
    /// P(masked) up to here is unmasked; 0 to `mask-from`.
    pub no_mask_to: f32,
    /// Faces whose shorter side has fewer frame pixels are unsure; 0 to 1000.
    pub min_face: f32,
    /// Faces with a lower detector score are unsure; 0 to 1.
    pub min_score: f32,
    /// Threads that share the faces of a frame; 0 is one a core, less one for
    /// camera and system; up to 64.
    pub threads: usize,
}

impl Default for Classify {
    fn default() -> Classify {
        Classify {
            margin: 0.2,
            masked_labels: vec!["with_mask".to_owned()],
            mask_from: 0.65,
            no_mask_to: 0.55,
            min_face: 24.0,
            min_score: 0.55,
            threads: 0,
        }
    }
}

impl Classify {
    /// Threads that share the faces of a frame, at least one, when `reserved`
    /// cores are left to others.
    #[must_use]
    pub fn threads(&self, reserved: usize) -> usize {
        if self.threads > 0 {
            return self.threads;
        }
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        cores.saturating_sub(reserved).max(1)
    }

    /// The options of [`crate::decide::Judge`].
    #[must_use]
    pub fn judge_options(&self) -> JudgeOptions {
        JudgeOptions {
            masked_labels: self.masked_labels.clone(),
            mask_from: self.mask_from,
            no_mask_to: self.no_mask_to,
            min_face: self.min_face,
            min_score: self.min_score,
        }
    }
}

/// `[track]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Track {
    /// A face continues a track if it overlaps its last box by this IoU; 0.05
    /// to 0.95.
    pub min_iou: f32,
    /// A track that was not seen for this long is forgotten, in ms; 0 to
    /// 60,000.
    pub keep_ms: u64,
    /// The verdict is a vote over this many frames; 1 to 100.
    pub votes: usize,
}

impl Default for Track {
    fn default() -> Track {
        Track {
            min_iou: 0.3,
            keep_ms: 1000,
            votes: 5,
        }
    }
}

impl Track {
    /// The options of [`crate::track::Tracker`].
    #[must_use]
    pub fn options(&self) -> TrackOptions {
        TrackOptions {
            min_iou: self.min_iou,
            keep: Duration::from_millis(self.keep_ms),
            votes: self.votes,
        }
    }
}

/// `[decide]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Decide {
    /// Frames must contradict the decision for this long before it changes, in
    /// ms; 0 to 60,000.
    pub confirm_ms: u64,
    /// The decision stays for this long after the last face has left, in ms; 0
    /// to 600,000.
    pub hold_ms: u64,
    /// Without a fresh frame for this long the decision is a fault, in ms; 500
    /// to 600,000.
    pub stale_ms: u64,
}

impl Default for Decide {
    fn default() -> Decide {
        Decide {
            confirm_ms: 300,
            hold_ms: 1500,
            stale_ms: 5000,
        }
    }
}

impl Decide {
    /// The options of [`crate::decide::Decider`].
    #[must_use]
    pub fn options(&self) -> DeciderOptions {
        DeciderOptions {
            confirm: Duration::from_millis(self.confirm_ms),
            hold: Duration::from_millis(self.hold_ms),
            stale: Duration::from_millis(self.stale_ms),
        }
    }
}

/// `[capture]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Capture {
    /// Whether crops are kept at all: faces are personal data.
    pub enabled: bool,
    /// What is kept of a crop.
    pub keep: Keep,
    /// A look is uncertain if its likeliest label has less than this
    /// probability; 0 to 1.
    pub uncertain_below: f32,
    /// Share of the confident looks that are kept all the same; 0 to 1.
    pub confident_share: f32,
    /// Most crops of one track; 1 to 1000.
    pub per_track: u32,
    /// Most crops within an hour; 1 to 10,000.
    pub per_hour: usize,
    /// A crop whose feature is at most this cosine distance from a recent one
    /// shows nothing new; 0 to 2.
    pub near_duplicate: f32,
    /// Crops older than this are deleted, in days; 1 to 3650.
    pub keep_days: u32,
    /// Most disk space for crops and features, in MiB; 1 to 100,000.
    pub max_mib: u64,
}

/// What is kept of a crop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// The picture and its feature.
    Pictures,
    /// The feature alone, where pictures may not be kept.
    Features,
}

impl Default for Capture {
    fn default() -> Capture {
        Capture {
            enabled: false,
            keep: Keep::Pictures,
            uncertain_below: 0.9,
            confident_share: 0.01,
            per_track: 6,
            per_hour: 120,
            near_duplicate: 0.03,
            keep_days: 30,
            max_mib: 256,
        }
    }
}

impl Capture {
    /// The options of [`crate::capture::Chooser`].
    #[must_use]
    pub fn options(&self) -> CaptureOptions {
        CaptureOptions {
            uncertain_below: self.uncertain_below,
            confident_share: self.confident_share,
            per_track: self.per_track,
            per_hour: self.per_hour,
            near: self.near_duplicate,
        }
    }
}

/// `[refit]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Refit {
    /// Whether the daemon refits by itself when enough labels are new.
    pub enabled: bool,
    /// A refit starts when so many labels are new since the last one; 1 to
    /// 100,000.
    pub min_new: usize,
    /// So many heads are kept to go back to; 2 to 1000.
    pub keep_heads: usize,
    /// The same seed and labels give the same head.
    pub seed: u64,
}

impl Default for Refit {
    fn default() -> Refit {
        Refit {
            enabled: true,
            min_new: 10,
            keep_heads: 10,
            seed: 42,
        }
    }
}

/// `[control]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Control {
    /// The Unix socket of the daemon's HTTP API; absent is `control.sock` in
    /// the runtime directory that systemd names, else in the state directory.
    pub socket: Option<PathBuf>,
}

/// One thing that is wrong with a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key with its section, such as `decide.hold-ms`.
    pub key: String,
    /// What is wrong with it, with its value and what is allowed.
    pub problem: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.key, self.problem)
    }
}

/// Why there is no config.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the config {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("the config {file} is not valid TOML: line {line}: {problem}")]
    Syntax {
        /// The file.
        file: String,
        /// Line number, from 1.
        line: usize,
        /// What the parser says.
        problem: String,
    },
    /// Every value that is not allowed.
    #[error("the config {file} has {}:{}", count(problems.len()), list(problems))]
    Invalid {
        /// The file.
        file: String,
        /// At least one.
        problems: Vec<Problem>,
    },
}

fn count(problems: usize) -> String {
    if problems == 1 {
        "a problem".to_owned()
    } else {
        format!("{problems} problems")
    }
}

fn list(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(|problem| format!("\n  {problem}"))
        .collect()
}

/// Reads and checks a config file.
///
/// # Errors
/// [`ConfigError`]; one that is [`ConfigError::Invalid`] names every problem of
/// the file.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    use std::io::Read;
    let read = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(read)?;
    let mut text = String::new();
    file.take(MAX_CONFIG_BYTES as u64 + 1)
        .read_to_string(&mut text)
        .map_err(read)?;
    if text.len() > MAX_CONFIG_BYTES {
        return Err(read(std::io::Error::other("it has more than 1 MiB")));
    }
    parse(&path.display().to_string(), &text)
}

/// Parses and checks the text of a config; `file` is what messages call it.
///
/// # Errors
/// As [`load`].
pub fn parse(file: &str, text: &str) -> Result<Config, ConfigError> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start).min(text.len());
        // A span may end within a character's bytes.
        let before = text.get(..start).unwrap_or(text);
        let line = 1 + before.matches('\n').count();
        ConfigError::Syntax {
            file: file.to_owned(),
            line,
            problem: one_line(error.message()),
        }
    })?;
    let mut problems = Vec::new();
    let config = from_table(&table, &mut problems);
    problems.extend(config.check());
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(ConfigError::Invalid {
            file: file.to_owned(),
            problems,
        })
    }
}

/// Each key by itself, so that one bad key does not hide the next; bad ones
/// keep their default.
fn from_table(table: &toml::Table, problems: &mut Vec<Problem>) -> Config {
    let mut good = toml::Table::new();
    for (section, content) in table {
        let mut fail = |key: String, problem: String| problems.push(Problem { key, problem });
        match content {
            toml::Value::Table(content) if is_section(section) => {
                for (key, value) in content {
                    if let Err(error) = add(&mut good, section, key, value) {
                        fail(format!("{section}.{key}"), wrong(error.message()));
                    }
                }
            }
            // An unknown section is one problem, not one for each of its keys.
            toml::Value::Table(_) => fail(section.clone(), "is no section of a config".to_owned()),
            _ => fail(
                section.clone(),
                "stands outside of any [section]".to_owned(),
            ),
        }
    }
    Config::deserialize(good).unwrap_or_default()
}

/// Adds a key to `good` if the whole can still be read with it.
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

fn wrong(message: &str) -> String {
    format!("is wrong: {}", one_line(message))
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Config {
    /// Every value that is out of its range.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let Config {
            camera,
            models,
            detect,
            classify,
            track,
            decide,
            capture,
            refit,
            control,
        } = self;
        let mut check = Check::default();
        if let Err(error) = camera.source.parse::<Spec>() {
            // The error names the source, without the password of a camera.
            check.fail("camera.source", format!("is wrong: {error}"));
        }
        check.within("camera.rate", camera.rate, 0.001, 120.0);
        check.within("camera.stall-ms", camera.stall_ms, 100, 600_000);
        check.within("camera.max-frame-kib", camera.max_frame_kib, 16, 65_536);
        for (key, path) in [
            ("models.classifier", &models.classifier),
            ("models.detector", &models.detector),
        ] {
            if path
                .as_ref()
                .is_some_and(|path| path.as_os_str().is_empty())
            {
                check.fail(
                    key,
                    "is empty: name a file, or leave the key out".to_owned(),
                );
            }
        }
        check.within("detect.side", detect.side, 64, 1920);
        check.within("detect.threshold", detect.threshold, 0.05, 0.99);
        check.within("classify.margin", classify.margin, -0.25, 1.0);
        if classify.masked_labels.is_empty() {
            check.fail(
                "classify.masked-labels",
                "is empty: name at least one label".to_owned(),
            );
        }
        check.within("classify.mask-from", classify.mask_from, 0.05, 1.0);
        check.within(
            "classify.no-mask-to",
            classify.no_mask_to,
            0.0,
            classify.mask_from,
        );
        check.within("classify.min-face", classify.min_face, 0.0, 1000.0);
        check.within("classify.min-score", classify.min_score, 0.0, 1.0);
        check.within("classify.threads", classify.threads, 0, 64);
        check.within("track.min-iou", track.min_iou, 0.05, 0.95);
        check.within("track.keep-ms", track.keep_ms, 0, 60_000);
        check.within("track.votes", track.votes, 1, 100);
        check.within("decide.confirm-ms", decide.confirm_ms, 0, 60_000);
        check.within("decide.hold-ms", decide.hold_ms, 0, 600_000);
        check.within("decide.stale-ms", decide.stale_ms, 500, 600_000);
        check.within("capture.uncertain-below", capture.uncertain_below, 0.0, 1.0);
        check.within("capture.confident-share", capture.confident_share, 0.0, 1.0);
        check.within("capture.per-track", capture.per_track, 1, 1000);
        check.within("capture.per-hour", capture.per_hour, 1, 10_000);
        check.within("capture.near-duplicate", capture.near_duplicate, 0.0, 2.0);
        check.within("capture.keep-days", capture.keep_days, 1, 3650);
        check.within("capture.max-mib", capture.max_mib, 1, 100_000);
        check.within("refit.min-new", refit.min_new, 1, 100_000);
        check.within("refit.keep-heads", refit.keep_heads, 2, 1000);
        let socket = control.socket.as_ref();
        if socket.is_some_and(|path| path.as_os_str().is_empty()) {
            check.fail(
                "control.socket",
                "is empty: name a file, or leave the key out".to_owned(),
            );
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

    fn within<T: PartialOrd + std::fmt::Display + Copy>(
        &mut self,
        key: &str,
        value: T,
        least: T,
        most: T,
    ) {
        // Written so that NaN fails.
        if !(value >= least && value <= most) {
            self.fail(key, format!("is {value}, allowed is {least} to {most}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHIPPED: &str = include_str!("../config/maskd.toml");

    fn problems(text: &str) -> Vec<String> {
        match parse("test.toml", text) {
            Err(ConfigError::Invalid { problems, .. }) => {
                problems.iter().map(ToString::to_string).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn shipped_config_equals_the_defaults() {
        assert_eq!(parse("maskd.toml", SHIPPED).unwrap(), Config::default());
    }

    #[test]
    fn shipped_config_documents_every_key() {
        let full = Config {
            models: Models {
                classifier: Some("a.onnx".into()),
                detector: Some("b.onnx".into()),
            },
            control: Control {
                socket: Some("c.sock".into()),
            },
            ..Config::default()
        };
        let table = toml::Table::try_from(full).unwrap();
        for (section, keys) in &table {
            let (_, text) = SHIPPED
                .split_once(&format!("\n[{section}]\n"))
                .expect(section);
            let text = text.split("\n[").next().unwrap_or(text);
            for key in keys.as_table().unwrap().keys() {
                let written = |line: &str| {
                    line.trim_start_matches("# ")
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
    fn every_problem_is_reported_at_once() {
        let found = problems(
            "lonely = 1\n[decide]\nhold-ms = 600001\nconfirm-ms = \"soon\"\nhold = 3\n\
             [camera]\nsource = \"ftp://x\"\n[web]\nlisten = 1\nport = 2\n[detect]\nthreshold = nan\n",
        );
        let keys: Vec<&str> = found
            .iter()
            .map(|problem| problem.split(' ').next().unwrap())
            .collect();
        let expected = [
            "lonely",
            "decide.confirm-ms",
            "decide.hold",
            "web",
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
    fn thresholds_must_not_cross() {
        let found = problems("[classify]\nmask-from = 0.6\nno-mask-to = 0.7\n");
        assert_eq!(found, ["classify.no-mask-to is 0.7, allowed is 0 to 0.6"]);
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
            "camera.rate", "camera.stall-ms", "detect.side", "detect.threshold", "classify.margin",
            "track.votes", "decide.stale-ms",
        ]), value in prop_oneof![any::<f64>().prop_map(|v| format!("{v:?}")), any::<i64>().prop_map(|v| v.to_string())]) {
            let (section, name) = key.split_once('.').unwrap();
            // Rust writes infinities and NaN as TOML does, but for the capital.
            let text = format!("[{section}]\n{name} = {}\n", value.to_lowercase());
            match parse("any", &text) {
                Ok(config) => prop_assert!(config.check().is_empty()),
                Err(error) => prop_assert!(error.to_string().contains(key), "{error}"),
            }
        }
    }
}
