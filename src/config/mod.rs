//! The one TOML file: its keys, defaults and checks.
//!
//! Owns what a user may set and in which range. Every key has its unit in its
//! name and its default here; `config/maskd.toml` documents them all and is
//! tested to be equal to the defaults.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::camera::{CameraOptions, Format, Spec, SpecError, Video};
use crate::decision::decide::{DeciderOptions, VerdictOptions};
use crate::indicate::pins::{Backend, By, Line, Output, PinOptions, Use};
use crate::indicate::{Button, Quiet, Relay, TimeOfDay};
use crate::learning::capture_policy::CaptureOptions;
use crate::learning::samples::Label;
use crate::vision::track::TrackOptions;

mod mqtt;
pub mod settings;
mod web;

pub(crate) use mqtt::is_device_name;
pub use mqtt::{Fleet, Mqtt, Secret};
pub use web::{Web, is_password_hash, is_token_hash};

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
    /// What shows them.
    pub indicate: Indicate,
    /// Which crops are kept to learn from.
    pub capture: Capture,
    /// When and how the head learns from labelled crops.
    pub refit: Refit,
    /// How other programs reach the daemon.
    pub control: Control,
    /// The page, and who may see it.
    pub web: Web,
    /// The broker that it tells its state.
    pub mqtt: Mqtt,
    /// Which devices learn from each other.
    pub fleet: Fleet,
}

/// `[camera]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Camera {
    /// `examples`, a picture, a folder of pictures, `webcam`, `rpicam`,
    /// `http://…` or `exec:COMMAND …`.
    pub source: String,
    /// How webcams, camera modules and programs encode their pictures.
    pub format: Format,
    /// Width that they are asked for, in pixels; 16 to 4096.
    pub width: u32,
    /// Height that they are asked for, in pixels; 16 to 4096.
    pub height: u32,
    /// Pictures a second that they are asked for; 1 to 120.
    pub fps: u32,
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
            format: Format::Auto,
            width: 640,
            height: 480,
            fps: 15,
            rate: 0.5,
            repeat: true,
            stall_ms: 5000,
            max_frame_kib: 8192,
        }
    }
}

impl Camera {
    fn check(&self, check: &mut Check) {
        match self.source.parse::<Spec>() {
            // The error names the source, without the password of a camera.
            Err(error) => check.fail("camera.source", format!("is wrong: {error}")),
            Ok(spec) => {
                if let Err(error) = spec.check(&self.options().video) {
                    let key = match error {
                        SpecError::Padded { .. } => "camera.width",
                        _ => "camera.format",
                    };
                    check.fail(key, format!("is wrong: {error}"));
                }
            }
        }
        check.within("camera.width", self.width, 16, 4096);
        check.within("camera.height", self.height, 16, 4096);
        check.within("camera.fps", self.fps, 1, 120);
        check.within("camera.rate", self.rate, 0.001, 120.0);
        check.within("camera.stall-ms", self.stall_ms, 100, 600_000);
        check.within("camera.max-frame-kib", self.max_frame_kib, 16, 65_536);
    }

    /// The options of [`crate::camera::Camera::open`].
    #[must_use]
    pub fn options(&self) -> CameraOptions {
        CameraOptions {
            rate: self.rate,
            repeat: self.repeat,
            stall: Duration::from_millis(self.stall_ms),
            max_frame_bytes: self.max_frame_kib * 1024,
            video: Video {
                format: self.format,
                width: self.width,
                height: self.height,
                fps: self.fps,
            },
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
    /// While nothing moves, faces are looked for only so often, in ms; 0 is in
    /// every frame, up to 60,000.
    pub still_ms: u64,
}

impl Default for Detect {
    fn default() -> Detect {
        Detect {
            side: 320,
            threshold: 0.52,
            still_ms: 1000,
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

    /// The options of [`crate::decision::decide::VerdictPolicy`].
    #[must_use]
    pub fn judge_options(&self) -> VerdictOptions {
        VerdictOptions {
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
    /// A face whose verdict is settled is classified only so often, in ms; 0 is
    /// in every frame, up to 60,000.
    pub settled_ms: u64,
}

impl Default for Track {
    fn default() -> Track {
        Track {
            min_iou: 0.3,
            keep_ms: 1000,
            votes: 5,
            settled_ms: 500,
        }
    }
}

impl Track {
    /// The options of [`crate::vision::track::Tracker`].
    #[must_use]
    pub fn options(&self) -> TrackOptions {
        TrackOptions {
            min_iou: self.min_iou,
            keep: Duration::from_millis(self.keep_ms),
            votes: self.votes,
            settled: Duration::from_millis(self.settled_ms),
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
    /// The options of [`crate::decision::decide::Decider`].
    #[must_use]
    pub fn options(&self) -> DeciderOptions {
        DeciderOptions {
            confirm: Duration::from_millis(self.confirm_ms),
            hold: Duration::from_millis(self.hold_ms),
            stale: Duration::from_millis(self.stale_ms),
        }
    }
}

/// `[indicate]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Indicate {
    /// How pins are reached; absent is rppal on a Raspberry Pi, else the console.
    pub backend: Option<Backend>,
    /// The label of the chip, for gpiocdev; absent is that of a Raspberry Pi.
    pub gpio_chip: Option<String>,
    /// The green lamp.
    pub green_pin: Option<Line>,
    /// The red lamp.
    pub red_pin: Option<Line>,
    /// The buzzer.
    pub buzzer_pin: Option<Line>,
    /// The relay of a door.
    pub relay_pin: Option<Line>,
    /// The outputs that are on when their pin is low.
    pub active_low: Vec<Output>,
    /// Whether the buzzer makes its tone itself.
    pub buzzer: Buzzer,
    /// The tone of a passive buzzer, in hertz; 50 to 10,000.
    pub buzzer_hz: u32,
    /// From here the buzzer is silent, in local time.
    pub quiet_from: Option<TimeOfDay>,
    /// Up to here.
    pub quiet_to: Option<TimeOfDay>,
    /// What the door does without current.
    pub relay: Relay,
    /// The door stays open for this long after a mask was seen, in ms; 0 to
    /// 600,000.
    pub relay_hold_ms: u64,
    /// A button that labels whoever stands before the camera as masked.
    pub with_mask_button_pin: Option<Line>,
    /// One that labels them as unmasked.
    pub without_mask_button_pin: Option<Line>,
    /// The label that the first gives.
    pub with_mask_label: String,
    /// The label that the second gives.
    pub without_mask_label: String,
    /// Crops that are taken for a press; 1 to 100.
    pub button_crops: u32,
}

/// What sort of buzzer there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Buzzer {
    /// It sounds when it has current.
    Active,
    /// It has to be driven with the frequency of its tone.
    Passive,
}

impl Default for Indicate {
    fn default() -> Indicate {
        Indicate {
            backend: None,
            gpio_chip: None,
            green_pin: None,
            red_pin: None,
            buzzer_pin: None,
            relay_pin: None,
            active_low: Vec::new(),
            buzzer: Buzzer::Active,
            buzzer_hz: 2000,
            quiet_from: None,
            quiet_to: None,
            relay: Relay::FailSecure,
            relay_hold_ms: 3000,
            with_mask_button_pin: None,
            without_mask_button_pin: None,
            with_mask_label: "with_mask".to_owned(),
            without_mask_label: "without_mask".to_owned(),
            button_crops: 3,
        }
    }
}

impl Indicate {
    /// The keys of the pins that are set, with line and use.
    fn lines(&self) -> Vec<(&'static str, Line, Use)> {
        let out = |output| Use::Out {
            output,
            active_low: self.active_low.contains(&output),
        };
        let all = [
            ("green-pin", &self.green_pin, out(Output::Green)),
            ("red-pin", &self.red_pin, out(Output::Red)),
            ("buzzer-pin", &self.buzzer_pin, out(Output::Buzzer)),
            ("relay-pin", &self.relay_pin, out(Output::Relay)),
            (
                "with-mask-button-pin",
                &self.with_mask_button_pin,
                Use::In(Button::WithMask),
            ),
            (
                "without-mask-button-pin",
                &self.without_mask_button_pin,
                Use::In(Button::WithoutMask),
            ),
        ];
        all.into_iter()
            .filter_map(|(key, line, purpose)| Some((key, line.clone()?, purpose)))
            .collect()
    }

    /// Whether any pin is set.
    #[must_use]
    pub fn has_pins(&self) -> bool {
        !self.lines().is_empty()
    }

    /// Whether a button is set.
    #[must_use]
    pub fn has_buttons(&self) -> bool {
        self.with_mask_button_pin.is_some() || self.without_mask_button_pin.is_some()
    }

    /// The options of [`crate::indicate::pins::open`]; none if the console alone
    /// shows decisions. `on_pi`: whether this is a Raspberry Pi.
    #[must_use]
    pub fn pins(&self, on_pi: bool) -> Option<PinOptions> {
        let usual = if on_pi {
            Backend::Rppal
        } else {
            Backend::Console
        };
        let by = match self.backend.unwrap_or(usual) {
            Backend::Console => return None,
            Backend::Rppal => By::Rppal {
                tone: (self.buzzer == Buzzer::Passive).then_some(self.buzzer_hz.into()),
            },
            Backend::Gpiocdev => By::Gpiocdev {
                chip: self.gpio_chip.clone(),
            },
        };
        let lines = self.lines();
        let lines = lines.into_iter().map(|(_, line, purpose)| (line, purpose));
        let options = PinOptions {
            by,
            lines: lines.collect(),
        };
        (!options.lines.is_empty()).then_some(options)
    }

    /// When the buzzer is silent, if ever.
    #[must_use]
    pub fn quiet(&self) -> Option<Quiet> {
        let (from, to) = (self.quiet_from?, self.quiet_to?);
        Some(Quiet { from, to })
    }

    /// The label that a button gives.
    #[must_use]
    pub fn label(&self, button: Button) -> &str {
        match button {
            Button::WithMask => &self.with_mask_label,
            Button::WithoutMask => &self.without_mask_label,
        }
    }

    fn check(&self, check: &mut Check) {
        let lines = self.lines();
        let by_number = self.backend.is_none_or(|backend| backend == Backend::Rppal);
        for (index, (key, line, _)) in lines.iter().enumerate() {
            let key = format!("indicate.{key}");
            let twin = lines[..index].iter().find(|(_, other, _)| other == line);
            if let Some((other, _, _)) = twin {
                check.fail(&key, format!("is {line}, as {other} is: take another pin"));
            }
            match line {
                // Those above are the board's own: its card, its network.
                Line::Number(number) if by_number && *number > LAST_HEADER_GPIO => check.fail(
                    &key,
                    format!("is {line}, allowed is 0 to {LAST_HEADER_GPIO} with rppal"),
                ),
                Line::Name(_) if by_number => check.fail(
                    &key,
                    format!("is {line}, a name: set backend to \"gpiocdev\", or give a number"),
                ),
                Line::Name(name) if name.is_empty() => check.fail(&key, "is empty".to_owned()),
                _ => {}
            }
        }
        let gpiocdev = self.backend == Some(Backend::Gpiocdev);
        if self.gpio_chip.is_some() && !gpiocdev {
            let problem = "is for the backend \"gpiocdev\" alone: set backend, or leave it out";
            check.fail("indicate.gpio-chip", problem.to_owned());
        }
        if self.buzzer == Buzzer::Passive && gpiocdev {
            let problem = "is passive, which needs the backend \"rppal\"; take an active buzzer";
            check.fail("indicate.buzzer", problem.to_owned());
        }
        check.within("indicate.buzzer-hz", self.buzzer_hz, 50, 10_000);
        match (self.quiet_from, self.quiet_to) {
            (Some(from), Some(to)) if from == to => {
                check.fail("indicate.quiet-to", format!("is {to}, as quiet-from is"));
            }
            (Some(_), None) => check.fail("indicate.quiet-to", "is missing".to_owned()),
            (None, Some(_)) => check.fail("indicate.quiet-from", "is missing".to_owned()),
            _ => {}
        }
        check.within("indicate.relay-hold-ms", self.relay_hold_ms, 0, 600_000);
        for (key, label) in [
            ("indicate.with-mask-label", &self.with_mask_label),
            ("indicate.without-mask-label", &self.without_mask_label),
        ] {
            if let Err(error) = Label::new(label) {
                check.fail(key, format!("is wrong: {error}"));
            }
        }
        check.within("indicate.button-crops", self.button_crops, 1, 100);
    }
}

/// The highest GPIO number on a Raspberry Pi's header.
const LAST_HEADER_GPIO: u32 = 27;

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
    /// The options of [`crate::learning::capture_policy::CapturePolicy`].
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// The daemon does not learn while the board's processor is hotter, in
    /// degrees Celsius; 30 to 120.
    pub max_temperature_c: f32,
}

impl Default for Refit {
    fn default() -> Refit {
        Refit {
            enabled: true,
            min_new: 10,
            keep_heads: 10,
            seed: 42,
            max_temperature_c: 75.0,
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
    parse(&path.display().to_string(), &read(path)?)
}

/// The text of a config file.
///
/// # Errors
/// [`ConfigError::Read`].
pub fn read(path: &Path) -> Result<String, ConfigError> {
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
    Ok(text)
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
            indicate,
            capture,
            refit,
            control,
            web,
            mqtt,
            fleet,
        } = self;
        let mut check = Check::default();
        camera.check(&mut check);
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
        check.within("detect.still-ms", detect.still_ms, 0, 60_000);
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
        check.within("track.settled-ms", track.settled_ms, 0, 60_000);
        check.within("decide.confirm-ms", decide.confirm_ms, 0, 60_000);
        check.within("decide.hold-ms", decide.hold_ms, 0, 600_000);
        check.within("decide.stale-ms", decide.stale_ms, 500, 600_000);
        indicate.check(&mut check);
        check.within("capture.uncertain-below", capture.uncertain_below, 0.0, 1.0);
        check.within("capture.confident-share", capture.confident_share, 0.0, 1.0);
        check.within("capture.per-track", capture.per_track, 1, 1000);
        check.within("capture.per-hour", capture.per_hour, 1, 10_000);
        check.within("capture.near-duplicate", capture.near_duplicate, 0.0, 2.0);
        check.within("capture.keep-days", capture.keep_days, 1, 3650);
        check.within("capture.max-mib", capture.max_mib, 1, 100_000);
        check.within("refit.min-new", refit.min_new, 1, 100_000);
        check.within("refit.keep-heads", refit.keep_heads, 2, 1000);
        check.within(
            "refit.max-temperature-c",
            refit.max_temperature_c,
            30.0,
            120.0,
        );
        let socket = control.socket.as_ref();
        if socket.is_some_and(|path| path.as_os_str().is_empty()) {
            check.fail(
                "control.socket",
                "is empty: name a file, or leave the key out".to_owned(),
            );
        }
        web.check(&mut check);
        mqtt.check(&mut check);
        fleet.check(mqtt, &mut check);
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

    const SHIPPED: &str = include_str!("../../config/maskd.toml");

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
            indicate: Indicate {
                backend: Some(Backend::Rppal),
                gpio_chip: Some("chip".to_owned()),
                green_pin: Some(Line::Number(1)),
                red_pin: Some(Line::Number(2)),
                buzzer_pin: Some(Line::Number(3)),
                relay_pin: Some(Line::Number(4)),
                with_mask_button_pin: Some(Line::Number(5)),
                without_mask_button_pin: Some(Line::Number(6)),
                quiet_from: Some("22:00".to_owned().try_into().unwrap()),
                quiet_to: Some("07:00".to_owned().try_into().unwrap()),
                ..Indicate::default()
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
    fn thresholds_must_not_cross() {
        let found = problems("[classify]\nmask-from = 0.6\nno-mask-to = 0.7\n");
        assert_eq!(found, ["classify.no-mask-to is 0.7, allowed is 0 to 0.6"]);
    }

    #[test]
    fn what_lets_people_in_must_make_sense() {
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
    fn pins_must_make_sense() {
        let found = problems(
            "[indicate]\ngreen-pin = 17\nred-pin = 17\nbuzzer-pin = 28\nrelay-pin = \"GPIO4\"\n\
             gpio-chip = \"x\"\nquiet-from = \"22:00\"\nbuzzer-hz = 3\nwith-mask-label = \"a/b\"\n\
             button-crops = 0\nwith-mask-button-pin = -3\nquiet-to = \"25:00\"\n",
        );
        let has = |words: &str| found.iter().any(|problem| problem.contains(words));
        for words in [
            "indicate.red-pin is 17, as green-pin is",
            "indicate.buzzer-pin is 28, allowed is 0 to 27",
            "indicate.relay-pin is GPIO4, a name",
            "indicate.gpio-chip is for",
            "indicate.quiet-to is wrong: \"25:00\" is no time such as",
            "indicate.buzzer-hz is 3",
            "indicate.with-mask-label is wrong",
            "indicate.button-crops is 0",
            "indicate.with-mask-button-pin is wrong: expected the number of a line, or its name",
        ] {
            assert!(has(words), "{words:?} is not in {found:#?}");
        }
    }

    #[test]
    fn other_boards_have_other_pins() {
        let text = "[indicate]\nbackend = \"gpiocdev\"\ngpio-chip = \"x\"\ngreen-pin = 90\nred-pin = \"LED2\"\n";
        let config = parse("any", text).unwrap();
        let options = config.indicate.pins(true).unwrap();
        assert_eq!(
            options.by,
            By::Gpiocdev {
                chip: Some("x".to_owned())
            }
        );
        assert_eq!(options.lines.len(), 2);
        let passive = format!("{text}buzzer = \"passive\"\n");
        assert!(problems(&passive)[0].starts_with("indicate.buzzer is passive"));
    }

    #[test]
    fn pins_are_rppals_on_a_raspberry_pi_and_nobodys_elsewhere() {
        let config = parse(
            "any",
            "[indicate]\ngreen-pin = 17\nactive-low = [\"green\"]\nbuzzer = \"passive\"\n",
        )
        .unwrap();
        let options = config.indicate.pins(true).unwrap();
        assert_eq!(options.by, By::Rppal { tone: Some(2000.0) });
        let green = Use::Out {
            output: Output::Green,
            active_low: true,
        };
        assert_eq!(options.lines, [(Line::Number(17), green)]);
        assert_eq!(config.indicate.pins(false), None);
        let none = Config::default();
        assert_eq!(none.indicate.pins(true), None);
    }

    #[test]
    fn brokers_and_fleets_must_make_sense() {
        let found = problems(
            "[mqtt]\nhost = \"mqtt://h\"\nport = 0\nca-file = \"a\"\npassword = \"p\"\n\
             password-file = \"f\"\ndevice = \"a/b\"\ntopic = \"a//b\"\n\
             discovery-prefix = \"+\"\n[fleet]\ntrust = [\"00\"]\n",
        );
        for key in [
            "mqtt.host is no name",
            "mqtt.port is 0",
            "mqtt.ca-file is for tls",
            "mqtt.password-file and password",
            "mqtt.user is missing",
            "mqtt.device is wrong",
            "mqtt.topic is no beginning",
            "mqtt.discovery-prefix is no beginning",
            "fleet.trust holds what is no key",
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
            "camera.rate", "camera.width", "camera.fps", "camera.stall-ms", "detect.side", "detect.threshold", "classify.margin",
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
