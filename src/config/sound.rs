//! `[sound]`: the sound file for each decision, and the program that plays it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Check;
use crate::decision::decide::Decision;
use crate::indicate::Window;

/// Stands for the path of the file in the arguments of the program.
const FILE: &str = "{file}";
/// Stands for the volume in the arguments of the program.
const VOLUME: &str = "{volume}";
/// Maximum number of windows of `low-volume-times`.
const MAX_WINDOWS: usize = 50;

/// `[sound]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sound {
    /// File that is played when the decision becomes mask.
    pub mask: Option<PathBuf>,
    /// File that is played when the decision becomes no mask.
    pub no_mask: Option<PathBuf>,
    /// File that is played when the decision becomes unsure.
    pub unsure: Option<PathBuf>,
    /// File that is played when the decision becomes a fault.
    pub fault: Option<PathBuf>,
    /// File that is played when the decision becomes idle.
    pub idle: Option<PathBuf>,
    /// The program and its arguments. `{file}` stands for the path of the file, and
    /// `{volume}` for the volume.
    pub program: Vec<String>,
    /// Replaces `{volume}` in the arguments; 0 to 100.
    pub volume: u8,
    /// The volume during `low_volume_times`; 0 to 100.
    pub low_volume: u8,
    /// When `low_volume` is used; at most 50 windows.
    pub low_volume_times: Vec<Window>,
    /// Minimum time between the starts of two sounds, in ms; 0 to 600,000.
    pub min_interval_ms: u64,
    /// Maximum duration of a sound, in ms; 100 to 60,000.
    pub time_limit_ms: u64,
}

impl Default for Sound {
    fn default() -> Sound {
        Sound {
            mask: None,
            no_mask: None,
            unsure: None,
            fault: None,
            idle: None,
            program: ["aplay", "-q", FILE].map(str::to_owned).to_vec(),
            volume: 100,
            low_volume: 30,
            low_volume_times: Vec::new(),
            min_interval_ms: 3000,
            time_limit_ms: 10_000,
        }
    }
}

impl Sound {
    /// Returns the file for a decision, if there is one.
    #[must_use]
    pub fn file(&self, decision: Decision) -> Option<&Path> {
        let file = match decision {
            Decision::Idle => &self.idle,
            Decision::Mask => &self.mask,
            Decision::NoMask => &self.no_mask,
            Decision::Unsure => &self.unsure,
            Decision::Fault => &self.fault,
        };
        file.as_deref()
    }

    /// Whether there is a file for any decision.
    #[must_use]
    pub fn has_files(&self) -> bool {
        Decision::ALL
            .iter()
            .any(|decision| self.file(*decision).is_some())
    }

    /// Returns the words of the command that plays a file at this volume.
    #[must_use]
    pub fn command(&self, file: &Path, volume: u8) -> Vec<String> {
        let (file, volume) = (file.display().to_string(), volume.to_string());
        let fill = |word: &String| word.replace(VOLUME, &volume).replace(FILE, &file);
        self.program.iter().map(fill).collect()
    }

    pub(super) fn check(&self, check: &mut Check) {
        for (key, file) in [
            ("sound.mask", &self.mask),
            ("sound.no-mask", &self.no_mask),
            ("sound.unsure", &self.unsure),
            ("sound.fault", &self.fault),
            ("sound.idle", &self.idle),
        ] {
            check.not_empty(key, file.as_deref());
        }
        if self.program.first().is_none_or(String::is_empty) {
            check.fail("sound.program", "is empty: name a program".to_owned());
        } else if !self.program.iter().skip(1).any(|word| word.contains(FILE)) {
            let problem = "has no argument with \"{file}\", which stands for the path of the sound";
            check.fail("sound.program", problem.to_owned());
        }
        check.within("sound.volume", self.volume, 0, 100);
        check.within("sound.low-volume", self.low_volume, 0, 100);
        let count = self.low_volume_times.len();
        if count > MAX_WINDOWS {
            let problem = format!("has {count} windows, allowed are {MAX_WINDOWS}");
            check.fail("sound.low-volume-times", problem);
        }
        check.within("sound.min-interval-ms", self.min_interval_ms, 0, 600_000);
        check.within("sound.time-limit-ms", self.time_limit_ms, 100, 60_000);
    }
}
