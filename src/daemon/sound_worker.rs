//! The sound thread, which plays a sound when the decision changes.
//!
//! The thread runs the configured program, one at a time, with a time limit. The indicator
//! thread only publishes the decision and never waits for this thread. A decision that is
//! over before its sound can start has no sound.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::threads::{Threads, timer_runtime};
use super::times::Allowed;
use super::{DaemonError, Shared, now};
use crate::api::problems::{Problems, Topic};
use crate::config::{self, Config};
use crate::decision::decide::Decision;
use crate::platform::programs;

/// The state of the sound thread.
struct SoundWorker {
    options: config::Sound,
    allowed: watch::Receiver<Allowed>,
    problems: Problems,
    stop: CancellationToken,
    /// When the latest sound started.
    started: Option<Instant>,
}

/// Starts the sound thread, which ends when the sender is dropped or a stop is requested.
/// Returns the sender of decisions, or `None` if no decision has a sound.
pub(super) fn start(
    config: &Config,
    shared: &Shared,
    threads: &mut Threads,
) -> Result<Option<watch::Sender<Decision>>, DaemonError> {
    if !config.sound.has_files() {
        return Ok(None);
    }
    let (decisions, decisions_in) = watch::channel(Decision::Idle);
    let worker = SoundWorker {
        options: config.sound.clone(),
        allowed: shared.allowed.subscribe(),
        problems: shared.problems.clone(),
        stop: shared.stop.clone(),
        started: None,
    };
    threads.start("sound", move || worker.run(decisions_in))?;
    Ok(Some(decisions))
}

impl SoundWorker {
    fn run(mut self, mut decisions: watch::Receiver<Decision>) -> Result<(), DaemonError> {
        let runtime = timer_runtime()?;
        while runtime.block_on(self.next(&mut decisions)) {
            let decision = *decisions.borrow_and_update();
            self.play(decision, || decisions.has_changed().is_err());
        }
        Ok(())
    }

    /// Waits until the decision has changed and a sound may start. Returns false if the
    /// thread must end.
    async fn next(&self, decisions: &mut watch::Receiver<Decision>) -> bool {
        let mut has_changed = false;
        loop {
            let wait = self.wait(now());
            tokio::select! {
                () = self.stop.cancelled() => return false,
                changed = decisions.changed() => match changed {
                    Ok(()) => has_changed = true,
                    Err(_closed) => return false,
                },
                () = tokio::time::sleep(wait), if has_changed => return true,
            }
        }
    }

    /// Returns how long it takes until a sound may start.
    fn wait(&self, now: Instant) -> Duration {
        let interval = Duration::from_millis(self.options.min_interval_ms);
        self.started.map_or(Duration::ZERO, |started| {
            interval.saturating_sub(now.saturating_duration_since(started))
        })
    }

    /// Plays the sound of a decision, if it has one, and waits for its end. The sound ends
    /// early when a stop is requested or `is_over` returns true.
    fn play(&mut self, decision: Decision, is_over: impl Fn() -> bool) {
        let allowed = self.allowed.borrow().at(now());
        let Some(file) = self.options.file(decision).filter(|_| allowed.sound) else {
            return;
        };
        let volume = if allowed.low_volume {
            self.options.low_volume
        } else {
            self.options.volume
        };
        let command = self.options.command(file, volume);
        let limit = Duration::from_millis(self.options.time_limit_ms);
        self.started = Some(now());
        debug!(decision = decision.name(), "a sound is played");
        let played = programs::run(&command, limit, || self.stop.is_cancelled() || is_over());
        let problem = played.err().map(|error| {
            format!(
                "the sound for the decision {} cannot be played with {}: {error}",
                decision.name(),
                self.options.program.first().map_or("", String::as_str),
            )
        });
        self.problems.set(Topic::Sound, problem);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;
    use crate::config::settings::Settings;

    /// Returns a config whose program writes what it plays to the file `played` in a folder,
    /// and then runs a shell script. `$1` is the sound, and `$2` is the volume.
    fn config(folder: &tempfile::TempDir, script: &str) -> Config {
        let played = folder.path().join("played");
        let script = format!("echo $1 $2 >> '{}'; {script}", played.display());
        let words = ["sh", "-c", &script, "sh", "{file}", "{volume}"];
        let mut config = Config::default();
        config.sound.mask = Some(PathBuf::from("mask.wav"));
        config.sound.no_mask = Some(PathBuf::from("no.wav"));
        config.sound.program = words.map(str::to_owned).to_vec();
        config
    }

    fn shared(config: &Config) -> Shared {
        Shared::new(&Arc::new(Settings::new(config, None)))
    }

    fn worker(config: &Config, shared: &Shared) -> SoundWorker {
        SoundWorker {
            options: config.sound.clone(),
            allowed: shared.allowed.subscribe(),
            problems: shared.problems.clone(),
            stop: shared.stop.clone(),
            started: None,
        }
    }

    fn played(folder: &tempfile::TempDir) -> String {
        fs::read_to_string(folder.path().join("played")).unwrap_or_default()
    }

    #[test]
    fn each_decision_has_its_sound_and_a_failure_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let script = "test $1 = mask.wav || { echo broken >&2; exit 1; }";
        let config = config(&folder, script);
        let shared = shared(&config);
        let mut worker = worker(&config, &shared);
        let mut play = |decision| worker.play(decision, || false);
        let problem = || shared.live.borrow().problems.get("sound").cloned();
        play(Decision::Mask);
        play(Decision::Unsure);
        assert_eq!(
            (played(&folder).as_str(), problem()),
            ("mask.wav 100\n", None)
        );
        play(Decision::NoMask);
        let expected = "the sound for the decision no_mask cannot be played with sh: it failed \
                        (exit status: 1): broken";
        assert_eq!(problem().as_deref(), Some(expected));
        shared.allowed.send_replace(Allowed {
            sound: false,
            ..Allowed::ALL
        });
        play(Decision::Mask);
        assert_eq!(played(&folder), "mask.wav 100\nno.wav 100\n", "it is quiet");
        shared.allowed.send_replace(Allowed {
            low_volume: true,
            ..Allowed::ALL
        });
        play(Decision::Mask);
        assert!(played(&folder).ends_with("mask.wav 30\n"));
        assert_eq!(problem(), None);
    }

    #[test]
    fn a_sound_starts_when_the_interval_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder, "");
        let shared = shared(&config);
        let mut worker = worker(&config, &shared);
        let start = now();
        assert_eq!(worker.wait(start), Duration::ZERO);
        worker.started = Some(start);
        let later = |ms| worker.wait(start + Duration::from_millis(ms));
        assert_eq!(later(1000), Duration::from_secs(2));
        assert_eq!(later(3000), Duration::ZERO);

        // The newest decision counts, and waiting ends with the sender.
        let runtime = timer_runtime().unwrap();
        let (decisions, mut decisions_in) = watch::channel(Decision::Idle);
        decisions.send_replace(Decision::Mask);
        decisions.send_replace(Decision::NoMask);
        worker.started = None;
        assert!(runtime.block_on(worker.next(&mut decisions_in)));
        assert_eq!(*decisions_in.borrow_and_update(), Decision::NoMask);
        worker.options.min_interval_ms = 600_000;
        worker.started = Some(now());
        decisions.send_replace(Decision::Mask);
        drop(decisions);
        assert!(!runtime.block_on(worker.next(&mut decisions_in)));
    }

    #[test]
    fn the_end_of_the_daemon_ends_a_sound() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder, "sleep 600");
        let shared = shared(&config);
        let mut threads = Threads::new(&shared.stop);
        let decisions = start(&config, &shared, &mut threads).unwrap().unwrap();
        decisions.send_replace(Decision::Mask);
        while played(&folder).is_empty() {
            std::thread::yield_now();
        }
        drop(decisions);
        let runtime = timer_runtime().unwrap();
        runtime.block_on(threads.ended());
        threads.join(&runtime).unwrap();
        let none = start(&Config::default(), &shared, &mut Threads::new(&shared.stop));
        assert!(none.unwrap().is_none());
    }
}
