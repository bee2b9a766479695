//! Kills the daemon at random moments while a client labels, discards, restores, purges,
//! enrolls, and imports samples, takes labels back, changes models and settings, rolls back, and trains. No change
//! that the daemon has acknowledged may be lost, and the daemon must be able to start
//! again.
//!
//! `MASKD_TEST_KILLS` sets the number of kills.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and measure time"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use image::{Rgb, RgbImage};
use maskd::api::socket::{Client, ControlError};
use maskd::learning::{
    FailureKind, LabelAction, Learning, LearningOptions, Purge, SampleFilter, SampleRecord,
    SampleSelector,
};
use maskd::vision::head::Head;
use maskd::vision::pipeline::open_model;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use support::{Running, head, maskd, pieces, root};

/// Number of kills, unless an environment variable sets a different number.
const KILLS: u64 = 24;
/// One out of this many daemons lives long enough to finish a training run.
const LONG_LIFE: u64 = 8;

/// The label for enrolled samples. Only enrollments assign it, and it is never changed.
const ENROLLED: &str = "enrolled";
/// The label of the imported pictures. It is never changed.
const IMPORTED: &str = "imported";
/// The label whose samples are purged repeatedly.
const PURGED: &str = "chin";

/// A device with a camera, a config, and a state directory.
struct Door {
    folder: tempfile::TempDir,
}

impl Door {
    fn new() -> Door {
        let door = Door {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(door.at("camera")).unwrap();
        for entry in fs::read_dir(root().join("assets/frames")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().unwrap() == "jpg" {
                fs::copy(&path, door.at("camera").join(path.file_name().unwrap())).unwrap();
            }
        }
        // The configured model predicts the opposite of the built-in model, so that
        // training can improve on the configured model.
        head(&door.at("bad.onnx"), |bad| {
            for weight in bad.head.w2.iter_mut().chain(&mut bad.head.b2) {
                *weight *= -0.2;
            }
        });
        let config = format!(
            "[models]\nclassifier = \"{}\"\n[refit]\nenabled = false\nkeep-heads = 4\n\
             [capture]\nenabled = true\nuncertain-below = 1.0\nconfident-share = 1.0\n\
             max-per-track = 1000\nmax-per-hour = 10000\nnear-duplicate-distance = 0.0\n\
             [decide]\nstale-ms = 60000\nconfirm-ms = 100\n",
            door.at("bad.onnx").display()
        );
        fs::write(door.at("maskd.toml"), config).unwrap();
        door
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn state(&self) -> PathBuf {
        self.at("state")
    }

    fn base(&self) -> Arc<Head> {
        let (_, base) = open_model(Some(&self.at("bad.onnx"))).unwrap();
        Arc::new(base)
    }

    fn open(&self, base: &Arc<Head>) -> Learning {
        Learning::open(&self.state(), Arc::clone(base), LearningOptions::default()).unwrap()
    }

    fn start(&self) -> Running {
        let mut command: Command = maskd();
        command.args(["run", "--json", "--rate", "60", "--config"]);
        command.arg(self.at("maskd.toml"));
        command.arg("--state").arg(self.state());
        command.arg("--source").arg(self.at("camera"));
        Running::start(command, self.folder.path())
    }

    /// Creates a folder with pictures cut from the golden crops, twelve for each class.
    fn pictures(&self) -> PathBuf {
        pieces(&self.at("set"));
        self.at("set")
    }

    /// Creates a folder with two pictures that differ from all other pictures.
    fn new_pictures(&self, number: u32) -> PathBuf {
        let folder = self.at("new");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join(IMPORTED)).unwrap();
        let [_, a, b, c] = number.to_be_bytes();
        for side in [100, 255] {
            let picture = RgbImage::from_fn(48, 48, |x, y| match (x / 16, y / 16) {
                (0, 0) => Rgb([a, a, side]),
                (1, 1) => Rgb([side, b, b]),
                _ => Rgb([c, side, c]),
            });
            let path = folder.join(IMPORTED).join(format!("{side}.png"));
            picture.save(path).unwrap();
        }
        folder
    }

    /// Writes a head that has not been imported before.
    fn new_head(&self, number: u32) -> PathBuf {
        let path = self.at("head.onnx");
        head(&path, |file| file.head.b2[0] += number as f32 / 1000.0);
        path
    }
}

/// Counts how often each operation was acknowledged.
#[derive(Debug, Default)]
struct Done {
    labelled: usize,
    discarded: usize,
    undone: usize,
    purged: usize,
    enrolled: usize,
    imported: usize,
    heads: usize,
    rollbacks: usize,
    used: usize,
    settings: usize,
    accepted: usize,
    refused: usize,
}

/// The head from a training run, or `None` if the head was refused.
#[derive(Debug, Clone, Copy)]
struct Trained(Option<u32>);

/// Everything that the daemon has acknowledged over all its runs. If the daemon was killed
/// during a change, both the old and the new value are possible.
#[derive(Default)]
struct Known {
    /// Labels by sample id.
    labels: BTreeMap<String, String>,
    /// A sample that was being labeled or discarded, and taken back. It may have any label
    /// or be discarded, but it must exist.
    in_doubt: Option<String>,
    gone: BTreeSet<String>,
    /// Minimum number of samples for each label that only gains samples.
    least: BTreeMap<&'static str, usize>,
    /// Heads that may be in use.
    heads: BTreeSet<Option<u32>>,
    highest: u32,
    /// Whether a head with a number above `highest` may be in use. It can have any higher
    /// number, because a kill can leave numbers unused.
    is_adding: bool,
    /// The result of the last training run, if it is known.
    trained: Option<Trained>,
    /// Possible values of the setting.
    confirm_ms: BTreeSet<u64>,
    made: u32,
    done: Done,
}

impl Known {
    /// Performs random operations until the daemon no longer responds.
    fn work(&mut self, client: &Client, rng: &mut ChaCha8Rng, door: &Door) -> Option<()> {
        let enrolled = self.least.get(ENROLLED).copied().unwrap_or(0);
        loop {
            let samples = client.samples(&SampleFilter::default()).ok()?;
            match rng.random_range(0..100) {
                0..40 => self.label(client, rng, &samples)?,
                40..48 => self.discard(client, rng, &samples)?,
                48..55 => self.take_back(client, rng, &samples)?,
                55..60 => self.purge(client, &samples)?,
                60..68 => self.import(client, door)?,
                68..78 => self.import_head(client, door)?,
                78..83 => self.rollback(client)?,
                83..86 => self.use_head(client, rng)?,
                86..94 => self.change_settings(rng, door)?,
                _ => self.refit(client)?,
            }
            let enrollment = client.status().ok()?.enrollment;
            let stored = enrollment.map_or(0, |enrollment| enrollment.stored as usize);
            self.done.enrolled += (enrolled + stored) - self.least.get(ENROLLED).unwrap_or(&0);
            self.least.insert(ENROLLED, enrolled + stored);
        }
    }

    fn label(
        &mut self,
        client: &Client,
        rng: &mut ChaCha8Rng,
        samples: &[SampleRecord],
    ) -> Option<()> {
        let is_free = |sample: &&SampleRecord| {
            let label = sample.label.as_deref();
            !matches!(label, Some(ENROLLED | IMPORTED))
        };
        let free: Vec<&SampleRecord> = samples.iter().filter(is_free).collect();
        if free.is_empty() {
            return Some(());
        }
        let sample = free[rng.random_range(0..free.len())];
        self.labels.remove(&sample.id);
        let chosen = || SampleSelector::Ids(vec![sample.id.clone()]);
        let label = match sample.label.as_deref() {
            // These labels are correct and are kept, so that some training runs succeed.
            Some(label @ ("with_mask" | "without_mask")) => label,
            Some(_) => {
                let marked = client.mark(chosen(), &LabelAction::Unlabelled).ok()?;
                assert!(marked.failed.is_empty(), "{marked:?}");
                PURGED
            }
            None => PURGED,
        };
        let action = LabelAction::As(label.to_owned());
        let marked = client.mark(chosen(), &action).ok()?;
        assert!(marked.failed.is_empty(), "{marked:?}");
        self.labels.insert(sample.id.clone(), label.to_owned());
        self.done.labelled += 1;
        Some(())
    }

    fn discard(
        &mut self,
        client: &Client,
        rng: &mut ChaCha8Rng,
        samples: &[SampleRecord],
    ) -> Option<()> {
        let unlabelled = samples.iter().filter(|sample| sample.label.is_none());
        let mut ids: Vec<String> = unlabelled.map(|sample| sample.id.clone()).collect();
        // If there are many samples, this discards more of them than the daemon captures,
        // so that the store stays small.
        ids.truncate(if ids.len() > 60 {
            40
        } else {
            rng.random_range(0..3)
        });
        if ids.is_empty() {
            return Some(());
        }
        for id in &ids {
            self.labels.remove(id);
        }
        let chosen = SampleSelector::Ids(ids.clone());
        let marked = client.mark(chosen, &LabelAction::Discard).ok()?;
        assert!(marked.failed.is_empty(), "{marked:?}");
        self.gone.extend(ids);
        self.done.discarded += 1;
        Some(())
    }

    /// Labels or discards a sample, and takes that back.
    fn take_back(
        &mut self,
        client: &Client,
        rng: &mut ChaCha8Rng,
        samples: &[SampleRecord],
    ) -> Option<()> {
        let known = |sample: &&SampleRecord| self.labels.contains_key(&sample.id);
        let Some(sample) = samples.iter().find(known) else {
            return Some(());
        };
        let (id, label) = (&sample.id, sample.label.clone().unwrap());
        let actions = [
            LabelAction::Discard,
            LabelAction::Unlabelled,
            LabelAction::As("other".to_owned()),
        ];
        let action = &actions[rng.random_range(0..actions.len())];
        self.labels.remove(id);
        self.in_doubt = Some(id.clone());
        let marked = client
            .mark(SampleSelector::Ids(vec![id.clone()]), action)
            .ok()?;
        assert_eq!(marked.done, std::slice::from_ref(id), "{marked:?}");
        if *action == LabelAction::Discard && rng.random() {
            let restored = client.restore(std::slice::from_ref(id)).ok()?;
            assert_eq!(restored.done, std::slice::from_ref(id), "{restored:?}");
        } else {
            let undone = client.undo(marked.action).ok()?;
            assert_eq!(undone.done, std::slice::from_ref(id), "{undone:?}");
        }
        self.in_doubt = None;
        self.labels.insert(id.clone(), label);
        self.done.undone += 1;
        Some(())
    }

    fn purge(&mut self, client: &Client, samples: &[SampleRecord]) -> Option<()> {
        let purged = |sample: &&SampleRecord| sample.label.as_deref() == Some(PURGED);
        let ids = samples
            .iter()
            .filter(purged)
            .map(|sample| sample.id.clone());
        let ids: Vec<String> = ids.collect();
        self.labels.retain(|_, label| label != PURGED);
        let purge = Purge {
            label: Some(PURGED.to_owned()),
            older_than_days: None,
            discarded: false,
        };
        client.purge(&purge).ok()?;
        self.gone.extend(ids);
        self.done.purged += 1;
        Some(())
    }

    fn import(&mut self, client: &Client, door: &Door) -> Option<()> {
        self.made += 1;
        let imported = client.import(&door.new_pictures(self.made)).ok()?;
        assert_eq!(imported.added.get(IMPORTED), Some(&2), "{imported:?}");
        *self.least.entry(IMPORTED).or_default() += 2;
        self.done.imported += 1;
        Some(())
    }

    fn import_head(&mut self, client: &Client, door: &Door) -> Option<()> {
        self.made += 1;
        let path = door.new_head(self.made);
        self.is_adding = true;
        let head = client.import_head(&path).ok()?.head;
        self.switched(head);
        self.done.heads += 1;
        Some(())
    }

    fn rollback(&mut self, client: &Client) -> Option<()> {
        let before = self.heads.clone();
        // After a rollback, any earlier head may be in use, including the built-in one.
        self.heads
            .extend((1..=self.highest).map(Some).chain([None]));
        match client.rollback(1) {
            Ok(in_use) => {
                assert!(
                    in_use.head < before.iter().copied().max().flatten(),
                    "{in_use:?}"
                );
                self.heads = BTreeSet::from([in_use.head]);
                self.done.rollbacks += 1;
            }
            // The built-in model is in use, or the previous model was deleted.
            Err(ControlError::Refused { fault, sentence }) => {
                let expected = [FailureKind::Usage, FailureKind::Missing];
                assert!(expected.contains(&fault), "{sentence}");
                self.heads = before;
            }
            Err(_) => return None,
        }
        Some(())
    }

    fn use_head(&mut self, client: &Client, rng: &mut ChaCha8Rng) -> Option<()> {
        let number = rng.random_range(0..=self.highest);
        let wanted = (number > 0).then_some(number);
        let before = self.heads.clone();
        self.heads.insert(wanted);
        match client.use_head(number) {
            Ok(in_use) => {
                assert_eq!(in_use.head, wanted);
                self.heads = BTreeSet::from([wanted]);
                self.done.used += 1;
            }
            // The model was deleted, or its number was never used.
            Err(ControlError::Refused { fault, sentence }) => {
                assert_eq!(fault, FailureKind::Missing, "{sentence}");
                self.heads = before;
            }
            Err(_) => return None,
        }
        Some(())
    }

    fn change_settings(&mut self, rng: &mut ChaCha8Rng, door: &Door) -> Option<()> {
        let confirm_ms = rng.random_range(50..5000);
        self.confirm_ms.insert(confirm_ms);
        let settings = patch_settings(&door.state(), &format!("{{\"confirm_ms\":{confirm_ms}}}"))?;
        assert_eq!(settings["now"]["confirm_ms"], confirm_ms, "{settings}");
        assert_eq!(settings["not_saved"], Value::Null);
        self.confirm_ms = BTreeSet::from([confirm_ms]);
        self.done.settings += 1;
        Some(())
    }

    fn refit(&mut self, client: &Client) -> Option<()> {
        self.is_adding = true;
        self.trained = None;
        let record = client.refit().ok()?;
        // The label of the imported pictures is new, so the result says what it means at the door.
        let is_expected = |warning: &String| warning.contains("the new label imported count");
        assert!(
            record.outcome.warning.as_ref().is_none_or(is_expected),
            "{:?}",
            record.outcome.warning
        );
        self.trained = Some(Trained(record.head));
        if record.head.is_some() {
            self.switched(record.head);
            self.done.accepted += 1;
        } else {
            self.is_adding = false;
            self.done.refused += 1;
        }
        Some(())
    }

    fn switched(&mut self, head: Option<u32>) {
        assert!(head > Some(self.highest), "{head:?} was given again");
        self.highest = head.unwrap();
        self.heads = BTreeSet::from([head]);
        self.is_adding = false;
    }

    /// Checks the contents of the state directory after a kill.
    fn check(&mut self, door: &Door, base: &Arc<Head>) {
        let learning = door.open(base);
        let samples = learning.samples(&SampleFilter::default()).unwrap();
        let labels: BTreeMap<&str, Option<&str>> = samples
            .iter()
            .map(|sample| (sample.id.as_str(), sample.label.as_deref()))
            .collect();
        assert_eq!(labels.len(), samples.len(), "an id exists twice");
        for (id, label) in &self.labels {
            assert_eq!(labels.get(id.as_str()), Some(&Some(label.as_str())), "{id}");
        }
        if let Some(id) = self.in_doubt.take() {
            let discarded = learning.store().trash().list().unwrap().samples;
            let is_discarded = discarded.iter().any(|sample| sample.id == id);
            assert!(
                labels.contains_key(id.as_str()) != is_discarded,
                "{id} is lost or exists twice"
            );
            learning.restore(vec![id]).unwrap();
        }
        for id in &self.gone {
            assert_eq!(labels.get(id.as_str()), None, "{id} has come back");
        }
        for label in [ENROLLED, IMPORTED] {
            let there = samples.iter();
            let there = there.filter(|sample| sample.label.as_deref() == Some(label));
            let there: Vec<String> = there.map(|sample| sample.id.clone()).collect();
            let least = self.least.entry(label).or_default();
            assert!(there.len() >= *least, "{} of {least} {label}", there.len());
            *least = there.len();
            // With too many labeled samples, a training run would take longer than a daemon
            // lives.
            if there.len() > 8 {
                let chosen = SampleSelector::Ids(there);
                let result = learning.label(chosen, &LabelAction::Discard).unwrap();
                assert!(result.failed.is_empty(), "{result:?}");
                *least = 0;
            }
        }

        let in_use = learning.in_use().unwrap();
        assert_eq!(in_use.note, None);
        let history = learning.history();
        let last = history.last().map_or(0, |last| last.head);
        assert_eq!(last, in_use.number.unwrap_or(0), "{history:?}");
        let sequences: Vec<u64> = history.iter().map(|at| at.sequence).collect();
        assert!(sequences.is_sorted_by(|a, b| a < b), "{sequences:?}");
        let is_new = self.is_adding && in_use.number > Some(self.highest);
        let known = self.heads.contains(&in_use.number) || is_new;
        assert!(known, "{:?}, not {:?}", in_use.number, self.heads);
        self.is_adding = false;
        self.heads = BTreeSet::from([in_use.number]);
        let list = learning.head_records().unwrap();
        assert!(list.iter().all(|head| head.damage.is_none()), "{list:?}");
        let newest = list.last().map_or(0, |head| head.number);
        self.highest = self.highest.max(newest);
        if let Some(Trained(trained)) = self.trained {
            let last = learning.last_refit().expect("the last training is known");
            assert_eq!(last.head, trained);
        }

        let config = fs::read_to_string(door.at("maskd.toml")).unwrap();
        let config = maskd::config::parse("maskd.toml", &config).unwrap();
        let confirm_ms = config.decide.confirm_ms;
        assert!(self.confirm_ms.contains(&confirm_ms), "{confirm_ms}");
        self.confirm_ms = BTreeSet::from([confirm_ms]);
        assert_no_leftovers(&door.state());
    }
}

/// Checks that opening the directory has removed all temporary files.
fn assert_no_leftovers(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_no_leftovers(&path);
        }
        let is_leftover = path.extension().is_some_and(|ending| ending == "part");
        assert!(!is_leftover, "{}", path.display());
    }
}

/// Changes settings. Returns `None` if the daemon does not send a complete response.
fn patch_settings(state: &Path, change: &str) -> Option<Value> {
    let mut stream = UnixStream::connect(state.join("control.sock")).ok()?;
    let length = change.len();
    let head = "PATCH /api/v1/settings HTTP/1.1\r\nhost: x\r\nconnection: close";
    write!(stream, "{head}\r\ncontent-length: {length}\r\n\r\n{change}").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    serde_json::from_str(body).ok()
}

/// Waits until the socket of a starting daemon exists, and connects to it.
fn connect(door: &Door, running: &mut Running) -> Client {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(90) {
        let over = running.child.try_wait().unwrap();
        assert_eq!(over, None, "it does not start: {}", running.log());
        if let Some(client) = Client::connect(&door.state().join("control.sock")).unwrap() {
            return client;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the daemon does not answer: {}", running.log());
}

#[test]
fn nothing_that_was_acknowledged_is_lost_by_kill_9() {
    let kills = std::env::var("MASKD_TEST_KILLS");
    let kills = kills.map_or(KILLS, |kills| kills.parse().unwrap());
    let door = Door::new();
    let base = door.base();
    door.open(&base).import(&door.pictures()).unwrap();
    let mut known = Known {
        heads: BTreeSet::from([None]),
        confirm_ms: BTreeSet::from([100]),
        ..Known::default()
    };
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for kill in 0..kills {
        let mut running = door.start();
        let is_long = kill % LONG_LIFE == 1;
        let millis = rng.random_range(0..if is_long { 8000 } else { 700 });
        // About one daemon in six is killed during startup.
        if kill % 6 > 0 || is_long {
            let client = connect(&door, &mut running);
            // Enrolled crops are stored one at a time rather than in batches.
            client.enroll(ENROLLED, 3).unwrap();
            // Every second long-lived daemon first finishes a training run.
            let finishes = is_long && kill % (2 * LONG_LIFE) == 1;
            if finishes {
                known.refit(&client).expect("it is not killed yet");
            }
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(millis));
                    running.child.kill().unwrap();
                });
                if is_long && !finishes {
                    let _ = known.refit(&client);
                }
                known.work(&client, &mut rng, &door);
            });
        } else {
            std::thread::sleep(Duration::from_millis(millis));
            running.child.kill().unwrap();
        }
        let log = running.log();
        assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
        running.child.wait().unwrap();
        known.check(&door, &base);
        if (kill + 1) % 100 == 0 {
            println!("{} kills, {:?}", kill + 1, known.done);
        }
    }
    println!("{kills} kills, {:?}", known.done);
    let done = &known.done;
    assert!(
        done.labelled > 50 && done.discarded > 0 && done.undone > 0 && done.purged > 0,
        "{done:?}"
    );
    assert!(
        done.enrolled > 0 && done.imported > 0 && done.settings > 0,
        "{done:?}"
    );
    assert!(done.heads > 0 && done.rollbacks > 0, "{done:?}");
    assert!(done.accepted + done.refused > 0, "{done:?}");
    // The daemon must still be able to start.
    let mut running = door.start();
    connect(&door, &mut running);
}
