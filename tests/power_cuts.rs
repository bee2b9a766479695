//! Cuts the power of a device at random moments: the daemon is killed, and the disk loses what was
//! not synced, as `support/disk.rs` simulates it from the system calls of the daemon. After each
//! cut, no label that the daemon has acknowledged, no event that it has saved, and no stored count
//! may be lost, no file may be damaged, and the door must be locked when the daemon starts again.
//!
//! `MASKD_TEST_CUTS` sets the number of cuts. `tests/rig/release` makes 1,000. The test needs
//! `strace`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and measure time"
)]

#[path = "support/disk.rs"]
mod disk;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use disk::{CALLS, Disk, Trace};
use image::RgbImage;
use maskd::api::socket::Client;
use maskd::counts::store;
use maskd::learning::{LabelAction, Learning, LearningOptions, SampleFilter, SampleSelector};
use maskd::vision::head::Head;
use maskd::vision::pipeline::open_model;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use sha2::{Digest, Sha256};
use support::{Running, frame, interrupt, maskd, wait, wait_for};

/// Number of cuts, unless an environment variable sets a different number.
const CUTS: usize = 10;
/// Number of cuts in one run of the daemon.
const CUTS_PER_RUN: usize = 5;
/// Every run with a number that is divisible by this ends normally before the power is cut, so that
/// the counts are stored.
const NORMAL_END: usize = 4;
/// The most time that a run lasts after the daemon has started, in ms.
const MAX_LIFE_MS: u64 = 2500;
/// Samples without a label that are kept.
const KEPT: usize = 30;

/// The label in [`Facts`] of a sample that was discarded.
const DISCARDED: &str = "(discarded)";

fn time() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs_f64()
}

/// A change of a label that a client requested.
#[derive(Debug)]
struct Labeling {
    id: String,
    label: &'static str,
    begun: f64,
    /// When the daemon acknowledged the change, if it did.
    acknowledged: Option<f64>,
}

/// What the daemon said about its disk, and when.
#[derive(Default)]
struct Facts {
    labelings: Vec<Labeling>,
    /// Numbers of events that wait on the disk.
    waiting: Vec<(f64, usize)>,
    /// The ids of the events of this run, oldest first.
    events: Vec<String>,
}

/// The moment of a cut.
#[derive(Debug, Clone, Copy)]
struct Cut {
    /// What the daemon promised before this time is based on what it wrote before the cut.
    promised: f64,
    /// What began after this time had no effect before the cut.
    begun: f64,
}

impl Cut {
    /// The cut after the first `changes` changes of a trace.
    fn after(trace: &Trace, changes: usize) -> Cut {
        Cut {
            promised: (changes..trace.len())
                .map(|index| trace.time(index))
                .fold(f64::INFINITY, f64::min),
            begun: (0..changes)
                .map(|index| trace.time(index))
                .fold(0.0, f64::max),
        }
    }
}

/// What must be on the disk at the start of a run.
#[derive(Default)]
struct Known {
    labels: BTreeMap<String, String>,
    events: BTreeSet<String>,
    passages: u64,
}

/// What was checked, over all runs.
#[derive(Debug, Default)]
struct Done {
    runs: usize,
    cuts: usize,
    changes: usize,
    labelings: usize,
    events: usize,
    passages: u64,
    unlocked: usize,
}

struct Device {
    folder: tempfile::TempDir,
    base: Arc<Head>,
}

impl Device {
    fn new() -> Device {
        let (_, base) = open_model(None).unwrap();
        let device = Device {
            folder: tempfile::tempdir().unwrap(),
            base: Arc::new(base),
        };
        let camera = device.at("camera");
        fs::create_dir(&camera).unwrap();
        // A person comes and goes.
        let room = RgbImage::from_fn(301, 400, |x, y| {
            image::Rgb([(x / 2) as u8, (y / 3) as u8, 90])
        });
        room.save(device.at("room.png")).unwrap();
        for number in 0..30 {
            let (from, ending) = if number < 10 {
                (frame("maksssksksss120.jpg"), "jpg")
            } else {
                (device.at("room.png"), "png")
            };
            fs::copy(from, camera.join(format!("{number:02}.{ending}"))).unwrap();
        }
        let config = "[indicate]\nbackend = \"console\"\nrelay-pin = 23\n\
             [decide]\nconfirm-ms = 0\nhold-ms = 0\nstale-ms = 60000\n\
             [counts]\nenabled = true\n[refit]\nenabled = false\n\
             [capture]\nenabled = true\nuncertain-below = 1.0\nconfident-share = 1.0\n\
             max-per-track = 1000\nmax-per-hour = 10000\nnear-duplicate-distance = 0.0\n\
             [[events.webhook]]\nname = \"home\"\nurl = \"http://127.0.0.1:1/\"\n\
             max-waiting = 10000\n";
        fs::write(device.at("maskd.toml"), config).unwrap();
        device
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn state(&self) -> PathBuf {
        self.at("state")
    }

    /// Starts the daemon under `strace`, which is not its parent. When this returns, `strace` has
    /// attached to it. Without that, it would not notice that the daemon is killed.
    fn start(&self) -> Running {
        let trace = self.at("trace");
        let _ = fs::remove_file(&trace);
        let program = maskd();
        let mut command = Command::new("strace");
        for (name, _) in program.get_envs() {
            command.env_remove(name);
        }
        command.args(["-D", "-f", "--seccomp-bpf", "-ttt", "-y", "-xx"]);
        command.args(["-s", "100000000", "-e", &format!("trace={CALLS}"), "-o"]);
        command.arg(&trace).arg(program.get_program());
        command.args(["run", "--json", "--rate", "20", "--config"]);
        command.arg(self.at("maskd.toml"));
        command.arg("--state").arg(self.state());
        command.arg("--source").arg(self.at("camera"));
        command.stdin(Stdio::null());
        let running = Running::start(command, self.folder.path());
        wait_for("the first system call", || {
            fs::metadata(&trace).ok().filter(|file| file.len() > 0)
        });
        running
    }

    /// Waits until the kernel has ended the daemon and strace has written everything.
    fn trace(&self) -> Trace {
        let file = self.at("trace");
        // On a busy machine, the threads with idle priority take minutes to end.
        let start = Instant::now();
        loop {
            let text = fs::read(&file).unwrap();
            let tail = String::from_utf8_lossy(&text[text.len().saturating_sub(400)..]);
            let last = tail.trim_end().lines().last().unwrap_or_default();
            if last.contains("+++ killed by") || last.contains("+++ exited with") {
                break;
            }
            assert!(start.elapsed() < Duration::from_mins(10), "{last}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Trace::read(&file, &self.state())
    }
}

fn connect(device: &Device, running: &mut Running) -> Client {
    wait_for("the socket", || {
        let over = running.child.try_wait().unwrap();
        assert_eq!(over, None, "it does not start: {}", running.log());
        Client::connect(&device.state().join("control.sock")).unwrap()
    })
}

/// Labels and discards samples, and reads the state of the events, until the daemon no longer
/// responds.
fn work(
    device: &Device,
    client: &Client,
    rng: &mut ChaCha8Rng,
    facts: &mut Facts,
    done: &mut Done,
) -> Option<()> {
    loop {
        let samples = client.samples(&SampleFilter::default()).ok()?;
        let unlabeled = samples
            .iter()
            .filter(|sample| sample.label.is_none())
            .count();
        if !samples.is_empty() {
            let sample = &samples[rng.random_range(0..samples.len())];
            let (action, label) = if unlabeled > KEPT {
                (LabelAction::Discard, DISCARDED)
            } else {
                let label = ["with_mask", "without_mask", "other"][rng.random_range(0..3)];
                (LabelAction::As(label.to_owned()), label)
            };
            facts.labelings.push(Labeling {
                id: sample.id.clone(),
                label,
                begun: time(),
                acknowledged: None,
            });
            let result = client
                .mark(SampleSelector::Ids(vec![sample.id.clone()]), &action)
                .ok()?;
            assert!(result.failed.is_empty(), "{result:?}");
            facts.labelings.last_mut().unwrap().acknowledged = Some(time());
            done.labelings += 1;
        }
        let status = client.status().ok()?;
        let receiver = &status.receivers[0];
        if receiver.not_saved.is_none() {
            facts.waiting.push((time(), receiver.waiting));
        }
        facts.events = event_ids(device)?;
        if let Some(door) = &status.live.door
            && door.unlocked
        {
            assert!(status.live.inference.frames > 0, "nobody was seen yet");
            done.unlocked += 1;
        }
    }
}

/// The ids of the newest events, oldest first.
fn event_ids(device: &Device) -> Option<Vec<String>> {
    let socket = device.state().join("control.sock");
    let events = support::requests::get_json(&socket, "/api/v1/events")?;
    let ids = events.as_array()?.iter().rev();
    ids.map(|event| Some(event["id"].as_str()?.to_owned()))
        .collect()
}

/// Returns the ids of the events in the queue on the disk. Panics if a file is damaged.
fn events_on_disk(state: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(state.join("events/home")) else {
        return BTreeSet::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|ending| ending == "event"))
        .map(|path| {
            let bytes = fs::read(&path).unwrap();
            let text = String::from_utf8(bytes).unwrap();
            let (head, json) = text
                .split_once('\n')
                .unwrap_or_else(|| panic!("{} is damaged", path.display()));
            let digest = Sha256::digest(json);
            let digest = digest.iter().map(|byte| format!("{byte:02x}"));
            let expected = format!("maskd-event-1 {}", digest.collect::<String>());
            assert_eq!(head, expected, "{} is damaged", path.display());
            let event: Value = serde_json::from_str(json).unwrap();
            event["id"].as_str().unwrap().to_owned()
        })
        .collect()
}

/// Panics if a sample has two pictures.
fn check_names(state: &Path) {
    let mut found: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for folder in fs::read_dir(state.join("samples")).into_iter().flatten() {
        let folder = folder.unwrap().path();
        for file in fs::read_dir(&folder).into_iter().flatten() {
            let file = file.unwrap();
            if file
                .path()
                .extension()
                .is_some_and(|ending| ending == "jpg")
            {
                let other = found.insert(file.file_name(), file.path());
                assert!(other.is_none(), "{other:?} and {}", file.path().display());
            }
        }
    }
}

fn passages_on_disk(state: &Path) -> u64 {
    let stored = store::read(state).unwrap();
    assert_eq!(stored.damaged, Vec::<PathBuf>::new());
    let numbers = stored.hours.values().map(|hour| hour.exact);
    numbers
        .map(|passages| passages.masked + passages.unmasked + passages.unsure)
        .sum()
}

impl Facts {
    /// Returns the labels that each sample may have after a cut, if something is known about it.
    fn labels(&self, known: &Known, cut: Cut) -> BTreeMap<String, BTreeSet<String>> {
        let mut labels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (id, label) in &known.labels {
            labels.insert(id.clone(), BTreeSet::from([label.clone()]));
        }
        for labeling in &self.labelings {
            let entry = labels.entry(labeling.id.clone());
            if labeling.acknowledged.is_some_and(|at| at < cut.promised) {
                *entry.or_default() = BTreeSet::from([labeling.label.to_owned()]);
            } else if labeling.begun <= cut.begun
                && let std::collections::btree_map::Entry::Occupied(mut entry) = entry
            {
                entry.get_mut().insert(labeling.label.to_owned());
            }
        }
        labels
    }

    /// Returns the events that must be on the disk after a cut.
    fn saved(&self, known: &Known, cut: Cut) -> BTreeSet<String> {
        let mut saved = known.events.clone();
        let waiting = self.waiting.iter().filter(|(at, _)| *at < cut.promised);
        let most = waiting.map(|(_, waiting)| *waiting).max().unwrap_or(0);
        let new = most.saturating_sub(known.events.len());
        saved.extend(self.events.iter().take(new).cloned());
        saved
    }
}

/// Checks what a cut left, and returns it.
fn check(device: &Device, state: &Path, known: &Known, facts: &Facts, cut: Cut) -> Known {
    let events = events_on_disk(state);
    let saved = facts.saved(known, cut);
    let lost: Vec<&String> = saved.difference(&events).collect();
    assert!(
        lost.is_empty(),
        "{} of {} events are lost",
        lost.len(),
        saved.len()
    );
    let passages = passages_on_disk(state);
    assert!(
        passages >= known.passages,
        "{passages} of {} passages",
        known.passages
    );
    check_names(state);
    let base = Arc::clone(&device.base);
    let learning = Learning::open(state, base, LearningOptions::default()).unwrap();
    let samples = learning.samples(&SampleFilter::default()).unwrap();
    let labels: BTreeMap<&str, Option<&str>> = samples
        .iter()
        .map(|sample| (sample.id.as_str(), sample.label.as_deref()))
        .collect();
    assert_eq!(labels.len(), samples.len(), "an id exists twice");
    for (id, allowed) in facts.labels(known, cut) {
        let found = match labels.get(id.as_str()) {
            None => DISCARDED,
            Some(label) => label.unwrap_or("(none)"),
        };
        let labelings = facts.labelings.iter().filter(|labeling| labeling.id == id);
        assert!(
            allowed.contains(found),
            "{id} is {found}, not {allowed:?}: {cut:?}, before the run {:?}, then {:?}",
            known.labels.get(&id),
            labelings.collect::<Vec<_>>()
        );
    }
    let labels = samples
        .iter()
        .filter_map(|sample| Some((sample.id.clone(), sample.label.clone()?)));
    Known {
        labels: labels.collect(),
        events,
        passages,
    }
}

/// Runs the daemon, and returns what it said.
fn run(device: &Device, number: usize, rng: &mut ChaCha8Rng, done: &mut Done) -> Facts {
    let mut facts = Facts::default();
    let mut running = device.start();
    let life = Duration::from_millis(rng.random_range(0..MAX_LIFE_MS));
    let ends = number.is_multiple_of(NORMAL_END);
    // Some daemons lose their power while they start.
    if number % 6 == 5 {
        std::thread::sleep(life / 4);
        running.child.kill().unwrap();
        running.child.wait().unwrap();
        return facts;
    }
    let client = connect(device, &mut running);
    let status = client.status().unwrap();
    if let Some(door) = &status.live.door {
        assert!(
            !door.unlocked || status.live.inference.frames > 0,
            "the door is unlocked at the start: {door:?}"
        );
    }
    let mut labeler = ChaCha8Rng::seed_from_u64(rng.random());
    std::thread::scope(|scope| {
        let (facts, done) = (&mut facts, &mut *done);
        scope.spawn(move || {
            let _ = work(device, &client, &mut labeler, facts, done);
        });
        std::thread::sleep(life + Duration::from_secs(if ends { 6 } else { 0 }));
        if ends {
            interrupt(&running.child, "-TERM");
            assert_eq!(wait(&mut running.child, Duration::from_mins(2)), Some(0));
        } else {
            running.child.kill().unwrap();
            running.child.wait().unwrap();
        }
    });
    let log = running.log();
    assert!(!log.contains("ERROR") && !log.contains("damaged"), "{log}");
    facts
}

/// A run of the daemon.
struct Run {
    /// The state directory at the start.
    disk: Disk,
    trace: Trace,
    facts: Facts,
}

/// Cuts the power several times in a run, and checks what each cut left. The last one is the state
/// directory of the next run. Returns what is known about it.
fn cut_power(
    device: &Device,
    run: Run,
    mut known: Known,
    rng: &mut ChaCha8Rng,
    done: &mut Done,
) -> Known {
    let Run {
        mut disk,
        trace,
        facts,
    } = run;
    let mut cuts: Vec<usize> = (0..CUTS_PER_RUN)
        .map(|_| rng.random_range(0..=trace.len()))
        .collect();
    let ended = done.runs.is_multiple_of(NORMAL_END);
    if ended {
        cuts[0] = trace.len();
    }
    cuts.sort_unstable();
    let stored = passages_on_disk(&device.state());
    let (state, image) = (device.state(), device.at("cut"));
    let mut changes = 0;
    for (number, &cut) in cuts.iter().enumerate() {
        disk.run(&trace, changes..cut);
        changes = cut;
        if ended && cut == trace.len() {
            known.passages = stored;
        }
        let mut same = rng.clone();
        disk.cut(rng, &image);
        let moment = Cut::after(&trace, cut);
        let found = check(device, &image, &known, &facts, moment);
        fs::remove_dir_all(&image).unwrap();
        done.cuts += 1;
        if number + 1 == cuts.len() {
            done.events += found.events.difference(&known.events).count();
            done.passages = found.passages;
            fs::remove_dir_all(&state).unwrap();
            disk.cut(&mut same, &state);
            return found;
        }
    }
    known
}

#[test]
fn a_power_cut_loses_nothing_that_was_promised() {
    if !Command::new("strace")
        .arg("-V")
        .output()
        .is_ok_and(|found| found.status.success())
    {
        println!("SKIPPED: strace is not installed");
        return;
    }
    let cuts = std::env::var("MASKD_TEST_CUTS");
    let cuts = cuts.map_or(CUTS, |cuts| cuts.parse().unwrap());
    let device = Device::new();
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let (mut known, mut done) = (Known::default(), Done::default());
    while done.cuts < cuts {
        let disk = Disk::read(&device.state());
        let facts = run(&device, done.runs, &mut rng, &mut done);
        let trace = device.trace();
        done.changes += trace.len();
        let run = Run { disk, trace, facts };
        known = cut_power(&device, run, known, &mut rng, &mut done);
        done.runs += 1;
        if done.runs % 20 == 0 {
            println!("{done:?}");
        }
    }
    println!("{done:?}");
    assert!(done.labelings > 0 && done.events > 0, "{done:?}");
}
