//! Tests that samples and heads survive `kill -9`, a full disk, and a read-only disk.
//!
//! The test binary starts itself as a child process, which runs only the test [`child`].
//! Environment variables name the state directory and the job of the child process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and measure time"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use image::{Rgb, RgbImage};
use maskd::frame::{CROP_SIDE, Crop, Scaler};
use maskd::learning::heads::{Heads, PARENT};
use maskd::learning::samples::{Discarded, Expired, Labelled, NewSample, Restored, Store};
use maskd::onnx::{FEATURES, HeadFile, HeadTensors, Label};
use maskd::vision::embed::Feature;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const STATE: &str = "MASKD_TEST_STATE";
const JOB: &str = "MASKD_TEST_JOB";
const BACKBONE: [u8; 32] = [7; 32];
const KILLS: u64 = 200;

fn crop(shade: u8) -> Crop {
    let pixels = RgbImage::from_pixel(CROP_SIDE, CROP_SIDE, Rgb([shade, 90, 120]));
    Crop::from_image(pixels).unwrap()
}

fn feature(value: f32) -> Feature {
    Feature::from(Box::new([value; FEATURES]))
}

fn head(bias: f32) -> HeadFile {
    HeadFile {
        backbone_sha256: BACKBONE,
        labels: vec!["with_mask".to_owned(), "without_mask".to_owned()],
        head: HeadTensors {
            w1: vec![0.25; FEATURES],
            b1: vec![bias],
            w2: vec![1.0, -1.0],
            b2: vec![0.0, bias],
        },
    }
}

/// Returns a command that runs this binary as a child process with a job.
fn itself(state: &Path, job: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env(STATE, state)
        .env(JOB, job)
        .stdin(Stdio::null());
    command
}

/// The entry point of the child process. Without a job, this test does nothing.
#[test]
fn child() {
    let (Some(state), Ok(job)) = (std::env::var_os(STATE), std::env::var(JOB)) else {
        return;
    };
    let state = Path::new(&state);
    match job.split_once(' ') {
        Some(("work", seed)) => work(state, seed.parse().unwrap()),
        _ => fill_the_disk(state),
    }
}

/// Prints one whole line in a single write, bypassing the test harness.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Captures, labels, discards, and restores samples, adds and switches heads, and prints each step,
/// until the process is killed.
fn work(state: &Path, seed: u64) {
    let store = Store::open(state).unwrap();
    let mut heads = Heads::open(state).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let labels = ["with_mask", "without_mask"].map(|name| Label::new(name).unwrap());
    say("ready");
    loop {
        // Many samples share a few distinct times, so that ids collide.
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(rng.random_range(0..50));
        let (crop, feature) = (crop(rng.random()), feature(0.5));
        let new = |keep: bool| NewSample {
            at,
            track: 1,
            number: 0,
            label: None,
            crop: keep.then_some(&crop),
            quality: None,
            feature: &feature,
            backbone: BACKBONE,
        };
        let batch = [new(true), new(rng.random())];
        for id in store.capture(&batch).unwrap() {
            say(&format!("captured {id}"));
        }
        let samples = store.list().unwrap().samples;
        let sample = &samples[rng.random_range(0..samples.len())];
        let id = sample.id.clone();
        let label = &labels[rng.random_range(0..2)];
        say(&format!("labelling {id}"));
        let outcome = store.label(std::slice::from_ref(&id), Some(label)).unwrap();
        assert!(
            matches!(outcome[..], [Labelled::Done | Labelled::Already]),
            "{outcome:?}"
        );
        say(&format!("labelled {id} {label}"));
        if samples.len() > 30 {
            let chosen = rng.random_range(0..samples.len() - 4);
            let chosen = &samples[chosen..chosen + 4];
            let ids: Vec<String> = chosen.iter().map(|sample| sample.id.clone()).collect();
            for id in &ids {
                say(&format!("discarding {id}"));
            }
            for (id, outcome) in ids.iter().zip(store.discard(&ids).unwrap()) {
                assert!(matches!(outcome, Discarded::Done), "{outcome:?}");
                say(&format!("discarded {id}"));
            }
            if rng.random() {
                let id = &ids[1];
                say(&format!("restoring {id}"));
                let outcome = store.restore(std::slice::from_ref(id)).unwrap();
                assert!(matches!(outcome[..], [Restored::Done]), "{outcome:?}");
                let restored = store.list().unwrap().samples;
                let restored = restored.into_iter().find(|sample| sample.id == *id);
                match restored.unwrap().label {
                    Some(label) => say(&format!("labelled {id} {label}")),
                    None => say(&format!("captured {id}")),
                }
            }
        }
        if rng.random_ratio(1, 3) {
            let number = heads.add(&head(1.0), &[(PARENT, "1".to_owned())]).unwrap();
            say(&format!("switching {number}"));
            heads.switch(Some(number)).unwrap();
            say(&format!("switched {number}"));
            heads.prune(3).unwrap();
        }
    }
}

/// The state that follows from the reports of all child processes so far.
#[derive(Default)]
struct Said {
    /// Labels by id, except for ids that were being changed when a process was killed.
    labels: BTreeMap<String, Option<String>>,
    discarded: BTreeSet<String>,
    /// The head in use.
    switched: Option<u32>,
    /// The head that may be in use, because a process had started to switch to it.
    switching: Option<u32>,
    highest: u32,
}

impl Said {
    fn listen(&mut self, text: &str) {
        // Ignore a line that was cut off by the kill.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["captured", id] => {
                    self.discarded.remove(id);
                    self.labels.insert(id.to_owned(), None);
                }
                ["labelling" | "discarding" | "restoring", id] => {
                    self.labels.remove(id);
                    self.discarded.remove(id);
                }
                ["labelled", id, label] => {
                    self.labels.insert(id.to_owned(), Some(label.to_owned()));
                }
                ["discarded", id] => {
                    self.discarded.insert(id.to_owned());
                }
                ["switching", number] => self.switching = number.parse().ok(),
                ["switched", number] => {
                    self.switched = number.parse().ok();
                    self.highest = self.switched.unwrap();
                }
                _ => {}
            }
        }
    }

    fn check(&mut self, state: &Path) {
        let store = Store::open(state).unwrap();
        let listing = store.list().unwrap();
        assert_eq!(listing.duplicates, []);
        assert_eq!(listing.ignored, [""; 0].map(std::path::PathBuf::from));
        let listed: BTreeMap<&str, Option<&str>> = listing
            .samples
            .iter()
            .map(|sample| (&sample.id[..], sample.label.as_ref().map(Label::as_str)))
            .collect();
        for (id, label) in &self.labels {
            assert_eq!(listed.get(&id[..]), Some(&label.as_deref()), "{id}");
        }
        let trash = store.trash().list().unwrap();
        assert_eq!(trash.duplicates, []);
        let trash: BTreeSet<String> = trash.samples.into_iter().map(|sample| sample.id).collect();
        for id in &self.discarded {
            assert!(trash.contains(id) && !listed.contains_key(&id[..]), "{id}");
        }
        assert!(listed.keys().all(|id| !trash.contains(*id)));
        let mut scaler = Scaler::default();
        for sample in &listing.samples {
            if sample.path.extension().unwrap() == "jpg" {
                store.crop(sample, &mut scaler).unwrap();
            }
            if sample.has_features() {
                assert_eq!(store.features(sample, &BACKBONE).unwrap().len(), 1);
            }
        }
        for folder in ["", ".features", "unlabelled", "with_mask", "without_mask"] {
            assert_no_leftovers(&store.folder().join(folder));
        }

        let heads = Heads::open(state).unwrap();
        let used = heads.current().unwrap();
        assert_eq!(used.fallback, None);
        let number = used.current.map(|current| current.number);
        assert!(
            number == self.switched || number == self.switching,
            "{number:?}"
        );
        self.switched = number;
        self.switching = None;
        let list = heads.list().unwrap();
        assert!(list.iter().all(|head| head.stored.is_ok()));
        let newest = list.last().map_or(0, |head| head.number);
        assert!(newest >= self.highest, "a number was given again");
        self.highest = newest;
        assert_no_leftovers(&state.join("heads"));
    }
}

fn assert_no_leftovers(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let name = entry.unwrap().file_name();
        assert!(
            !name.as_encoded_bytes().ends_with(b".part"),
            "{}",
            name.display()
        );
    }
}

#[test]
fn nothing_that_was_said_is_lost_by_kill_9() {
    // The state is on a file system in memory, where syncing costs nothing. This allows
    // more work between two kills.
    let state = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let mut said = Said::default();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut done = 0;
    for seed in 0..KILLS {
        let mut child = itself(state.path(), &format!("work {seed}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut text = String::new();
        // Most children are killed while they work, and some are killed while they open the
        // files from the previous child.
        if seed % 8 > 0 {
            while !text.ends_with("ready\n") {
                assert!(out.read_line(&mut text).unwrap() > 0, "{text}");
            }
        }
        std::thread::sleep(Duration::from_micros(rng.random_range(0..40_000)));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), None, "killed, not failed by itself");
        out.read_to_string(&mut text).unwrap();
        done += text.matches("\nlabelled ").count();
        said.listen(&text);
        said.check(state.path());
    }
    println!(
        "{KILLS} kills, {done} labelled, {} samples, head {:?}",
        said.labels.len(),
        said.switched
    );
    assert!(done > 0, "the children did something: {done} labelled");
}

/// Fills a disk of 400 KB, frees space and stores more samples, and then makes the disk
/// read-only.
fn fill_the_disk(state: &Path) {
    let store = Store::open(state).unwrap();
    let mut heads = Heads::open(state).unwrap();
    let number = heads.add(&head(1.0), &[]).unwrap();
    heads.switch(Some(number)).unwrap();
    let (crop, feature) = (crop(1), feature(0.5));
    let new = NewSample {
        at: SystemTime::UNIX_EPOCH,
        track: 1,
        number: 0,
        label: None,
        crop: Some(&crop),
        quality: None,
        feature: &feature,
        backbone: BACKBONE,
    };
    let mut stored = Vec::new();
    let error = loop {
        match store.capture(&[new]) {
            Ok(ids) => stored.extend(ids),
            Err(error) => break error,
        }
    };
    assert!(error.is_no_space() && !error.is_read_only(), "{error}");
    // This also fills the last blocks.
    let mut filler = fs::File::create(state.join("filler")).unwrap();
    while filler.write_all(&[0; 512]).is_ok() {}
    let error = heads.add(&head(2.0), &[]).unwrap_err();
    assert!(error.is_no_space(), "{error}");
    assert_eq!(heads.current().unwrap().current.unwrap().number, number);

    // The existing samples are intact. They can be labeled, and they can be deleted to free
    // space.
    let samples = store.list().unwrap().samples;
    let ids: Vec<String> = samples.iter().map(|sample| sample.id.clone()).collect();
    assert!(stored.len() > 3 && stored.iter().all(|id| ids.contains(id)));
    let mut scaler = Scaler::default();
    for sample in &samples {
        store.crop(sample, &mut scaler).unwrap();
    }
    assert_no_leftovers(&store.folder().join("unlabelled"));
    drop(store);
    let store = Store::open(state).unwrap();
    let pruned = store.prune(0, |_, _| Expired::default()).unwrap();
    assert_eq!(pruned.removed.unlabelled, ids.len());
    fs::remove_file(state.join("filler")).unwrap();
    store.capture(&[new]).unwrap();

    // Make the disk read-only while files are open, as the kernel does when a memory
    // card fails.
    for options in [["--bind"].as_slice(), &["-o", "remount,bind,ro"]] {
        let mut mount = Command::new("mount");
        mount.args(options);
        if options == ["--bind"] {
            mount.arg(state);
        }
        assert!(mount.arg(state).status().unwrap().success());
    }
    let error = store.capture(&[new]).unwrap_err();
    assert!(error.is_read_only() && !error.is_no_space(), "{error}");
    let error = heads.switch(None).unwrap_err();
    assert!(error.is_read_only(), "{error}");
    let id = store.list().unwrap().samples[0].id.clone();
    let outcomes = store.discard(std::slice::from_ref(&id)).unwrap();
    assert!(matches!(&outcomes[..], [Discarded::Failed(error)] if error.is_read_only()));
    assert_eq!(Store::read_only(state).list().unwrap().samples.len(), 1);
    assert!(Heads::read_only(state).current().unwrap().current.is_some());
    drop(store);
    let error = Store::open(state).unwrap_err();
    assert!(error.is_read_only(), "{error}");
    say("survived");
}

#[test]
fn a_full_disk_and_a_read_only_one_are_survived_and_told_apart() {
    let state = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=400k maskd \"$0\" && echo mounted && exec \"$@\"";
    let child = itself(state.path(), "fill");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", mount]);
    command
        .arg(state.path())
        .arg(child.get_program())
        .args(child.get_args());
    for (key, value) in child.get_envs() {
        command.env(key, value.unwrap());
    }
    let output = command.stdin(Stdio::null()).output();
    let text = output
        .as_ref()
        .map(|output| String::from_utf8_lossy(&output.stdout));
    match text {
        Ok(text) if text.contains("mounted") => {
            let errors = String::from_utf8_lossy(&output.as_ref().unwrap().stderr);
            assert!(text.contains("survived"), "{text}{errors}");
        }
        _ => println!("skipped: no disk can be mounted here without privileges"),
    }
}
