//! How old samples are, and which of them have reached the age limit.
//!
//! This module owns the files `ages.json` and `running-time.json` in the state
//! directory. It reads no clock, because readings of the clocks are passed as
//! arguments, and it deletes nothing; the caller does.
//!
//! The age of a sample never depends on a single number:
//!
//! - The age counts from when maskd first saw the sample. The date in the name of
//!   a capture is used only if the clock was synchronized when maskd first saw the
//!   sample. The date of a file is never used.
//! - The wall clock counts only while it is synchronized. Otherwise the age grows
//!   with the time that the daemon runs, which the monotonic clock measures.
//! - A sample is marked a day before it reaches the limit, and ends no earlier than a
//!   day after it was marked. While the daemon runs, the monotonic clock measures this
//!   day, so a jump of the wall clock cannot shorten it. Time during which the daemon
//!   did not run counts if the clock was synchronized before and after.
//! - A synchronized clock that jumps is not trusted for a day of running time. During
//!   that day, the age is the running time, and the marks of younger samples are
//!   removed.
//! - One pass ends at most a tenth of the labeled samples, and at least an hour of
//!   running time passes before the next pass that ends labeled samples.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::samples::Sample;
use crate::platform::clock::{ClockReading, believable};
use crate::platform::files::{self, FileError};

const AGES_FILE: &str = "ages.json";
const RUNNING_FILE: &str = "running-time.json";
/// Maximum size of each of these files, in bytes, which is enough for a million samples.
const MAX_BYTES: u64 = 128 * 1024 * 1024;
const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;
/// Maximum running time between two readings that counts, in seconds. The daemon reads
/// the clocks every minute, so a longer time means that something is wrong.
const MAX_STEP: u64 = 2 * HOUR as u64;
/// Maximum difference between the wall clock and the time that has passed on the
/// monotonic clock, in seconds. A clock that differs by more has jumped.
const TOLERANCE: i64 = 5 * 60;
/// Divisor of the number of labeled samples that gives the maximum number of them that
/// one pass ends, which is at least 1.
const LABELED_SHARE: usize = 10;

/// The running time and the last synchronized time, as stored in the state directory.
/// All values are in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct SavedClock {
    /// How long daemons have run with this state directory, in total.
    running: i64,
    /// The last time that a synchronized clock showed.
    #[serde(skip_serializing_if = "Option::is_none")]
    synchronized: Option<Synchronized>,
    /// The running time at which the clock is trusted again after a jump.
    #[serde(skip_serializing_if = "Option::is_none")]
    believed_from: Option<i64>,
    /// The last reading of a clock that is not believed yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    doubted: Option<Synchronized>,
    /// The running time when age last ended labeled samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    labeled_ended: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Synchronized {
    /// The time in seconds since 1970.
    unix: i64,
    /// The running time at that moment.
    running: i64,
}

/// What is known about the age of a sample. All values are in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Birth {
    /// The running time when the sample was first seen.
    seen: i64,
    /// When its age began, in seconds since 1970 according to a synchronized clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    born: Option<i64>,
    /// The running time when it was marked as about to reach the age limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    marked: Option<i64>,
}

/// Labeled samples that will reach the age limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    /// Number of samples.
    pub samples: usize,
    /// Number of samples that the previous pass did not announce.
    pub new: usize,
    /// The time until the first of them is deleted.
    pub first_in: Duration,
}

/// The result of a pass.
#[derive(Debug, Default)]
pub(super) struct Pass {
    /// Ids of the samples that end now because of their age.
    pub(super) ended: HashSet<String>,
    /// The labeled samples that will end because of their age.
    pub(super) announcement: Option<Announcement>,
}

/// The ages of all samples in a state directory.
#[derive(Debug)]
pub(super) struct Ages {
    folder: PathBuf,
    clock: SavedClock,
    births: BTreeMap<String, Birth>,
    /// The monotonic clock at the last reading, rounded down to whole seconds since the
    /// first reading of this process.
    last_reading: Option<Instant>,
    /// The running time when this process opened the directory.
    running_before: i64,
    is_synchronized: bool,
    /// Whether this process has read a synchronized clock, believed or not.
    was_read: bool,
    /// Whether this process has believed a synchronized clock.
    was_synchronized: bool,
    unsaved: Unsaved,
    /// The running time when the files were last saved.
    saved_at: i64,
}

/// What has changed since the files were saved, apart from the running time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Unsaved {
    Nothing,
    /// Samples were added or removed, or the time when their age began became known.
    Births,
    /// Samples were marked, unmarked or ended.
    Marks,
}

impl Ages {
    /// Reads the files of a state directory. If a file is missing or damaged, the ages
    /// that it held start over at zero, so that no sample ends early. The second value
    /// lists the problems with the files.
    pub(super) fn open(state: &Path) -> (Ages, Vec<FileError>) {
        let mut problems = Vec::new();
        let mut births: BTreeMap<String, Birth> = read(state, AGES_FILE, &mut problems);
        let mut clock: SavedClock = read(state, RUNNING_FILE, &mut problems);
        // A daemon that was killed did not save its running time. The running time must
        // not be lower than that of any sample, so that the order of samples stays
        // correct.
        let last_seen = births.values().map(|birth| birth.seen).max().unwrap_or(0);
        let saved = clock.running.max(last_seen).max(0);
        for last in [&mut clock.synchronized, &mut clock.doubted]
            .into_iter()
            .flatten()
        {
            last.running = last.running.min(saved);
        }
        clock.believed_from = clock
            .believed_from
            .map(|from| from.min(saved.saturating_add(DAY)));
        for birth in births.values_mut() {
            birth.marked = birth.marked.map(|marked| marked.min(saved));
        }
        // One second is added so that times from earlier processes can be distinguished
        // from times from this process.
        clock.running = saved.saturating_add(1);
        let ages = Ages {
            folder: state.to_owned(),
            running_before: clock.running,
            saved_at: clock.running,
            clock,
            births,
            last_reading: None,
            is_synchronized: false,
            was_read: false,
            was_synchronized: false,
            unsaved: Unsaved::Nothing,
        };
        (ages, problems)
    }

    /// Whether the clock was synchronized at the last reading and is trusted.
    pub(super) fn is_synchronized(&self) -> bool {
        self.is_synchronized
    }

    /// Takes a reading of the clocks into account.
    pub(super) fn advance(&mut self, reading: ClockReading) {
        let last = *self.last_reading.get_or_insert(reading.monotonic);
        let passed = reading.monotonic.saturating_duration_since(last).as_secs();
        self.last_reading = Some(last + Duration::from_secs(passed));
        let counted = passed.min(MAX_STEP) as i64;
        self.clock.running = self.clock.running.saturating_add(counted);
        let unix = reading.unix_seconds();
        let has_jumped = unix.is_some_and(|unix| self.has_jumped(unix));
        let running = self.clock.running;
        if let Some(unix) = unix {
            self.clock.doubted = Some(Synchronized { unix, running });
            self.was_read = true;
        }
        if has_jumped {
            tracing::warn!(
                "the clock jumped although it is synchronized: for a day, the age of face \
                 pictures does not depend on it"
            );
            self.clock.synchronized = None;
            self.clock.believed_from = Some(self.clock.running.saturating_add(DAY));
            self.changed(Unsaved::Marks);
        }
        let from = self.clock.believed_from.unwrap_or(0);
        let unix = unix.filter(|_| self.clock.running >= from);
        self.is_synchronized = unix.is_some();
        let Some(unix) = unix else { return };
        self.clock.doubted = None;
        if !self.was_synchronized {
            self.was_synchronized = true;
            let expected = self.synchronized_now().unwrap_or(unix);
            self.was_off_for(unix.saturating_sub(expected).max(0));
        }
        self.clock.synchronized = Some(Synchronized { unix, running });
        for birth in self.births.values_mut() {
            let since_seen = running.saturating_sub(birth.seen).max(0);
            let latest = unix.saturating_sub(since_seen);
            // A time from a synchronized clock is kept, even if the clock later shows an
            // earlier time. It is unknown which of the two is right. Until the clock has
            // caught up, the age grows only with the running time.
            if birth.born.is_none() {
                birth.born = Some(latest);
                self.unsaved = self.unsaved.max(Unsaved::Births);
            }
        }
    }

    /// Whether a synchronized clock shows a time that cannot be right, or shows that an
    /// earlier time was wrong. At the first reading of a process, a later time does not
    /// count as a jump, because the device may have been off.
    fn has_jumped(&self, unix: i64) -> bool {
        let Some(last) = self.clock.synchronized.or(self.clock.doubted) else {
            return false;
        };
        let ahead = unix.saturating_sub(self.after(last));
        ahead < -TOLERANCE || (self.was_read && ahead > TOLERANCE)
    }

    /// Counts the time during which no daemon ran. The first synchronized reading of a
    /// process reveals this time.
    fn was_off_for(&mut self, seconds: i64) {
        let before = self.running_before;
        let earlier = |at: i64| {
            if at < before {
                at.saturating_sub(seconds)
            } else {
                at
            }
        };
        self.clock.labeled_ended = self.clock.labeled_ended.map(earlier);
        for birth in self.births.values_mut() {
            birth.marked = birth.marked.map(earlier);
        }
        if seconds > 0 {
            self.changed(Unsaved::Births);
        }
    }

    /// Returns the time in seconds since 1970, which is the last synchronized time plus
    /// the time that the daemon has run since then. Returns `None` if the clock was
    /// never synchronized.
    fn synchronized_now(&self) -> Option<i64> {
        Some(self.after(self.clock.synchronized?))
    }

    /// An earlier time and the time that the daemon has run since then.
    fn after(&self, earlier: Synchronized) -> i64 {
        let since = self.clock.running.saturating_sub(earlier.running);
        earlier.unix.saturating_add(since)
    }

    /// Returns what is known about a sample that is seen for the first time.
    fn birth_of(&self, sample: &Sample) -> Birth {
        let now = self.synchronized_now().filter(|_| self.is_synchronized);
        let named = sample.at.and_then(believable);
        Birth {
            seen: self.clock.running,
            born: now.map(|now| named.map_or(now, |named| named.min(now))),
            marked: None,
        }
    }

    fn age_in_seconds(&self, birth: &Birth) -> i64 {
        let running = self.clock.running.saturating_sub(birth.seen);
        let by_clock = self.synchronized_now().zip(birth.born);
        let by_clock = by_clock.map_or(0, |(now, born)| now.saturating_sub(born));
        // The running time is a lower bound, regardless of the wall clock.
        running.max(by_clock).max(0)
    }

    /// The age of a sample.
    pub(super) fn age(&self, sample: &Sample) -> Duration {
        let birth = self.births.get(&sample.id).copied();
        let age = self.age_in_seconds(&birth.unwrap_or_else(|| self.birth_of(sample)));
        Duration::from_secs(age as u64)
    }

    /// A key that sorts samples by when maskd first saw them. It does not depend on
    /// the wall clock unless two samples were first seen in the same second.
    pub(super) fn order(&self, sample: &Sample) -> impl Ord + use<> {
        let seen = self.births.get(&sample.id).map(|birth| birth.seen);
        // A sample that no pass has seen yet is newer than all others.
        (seen.unwrap_or(i64::MAX), sample.when(), sample.id.clone())
    }

    /// Records samples that were captured just now.
    pub(super) fn captured(&mut self, ids: &[String]) {
        let now = self.synchronized_now().filter(|_| self.is_synchronized);
        let birth = Birth {
            seen: self.clock.running,
            born: now,
            marked: None,
        };
        let births = ids.iter().map(|id| (id.clone(), birth));
        self.births.extend(births);
        self.changed(Unsaved::Births);
    }

    /// Records which samples exist, marks those that will reach the age limit
    /// `keep`, and returns those that end now. Sorts `samples`, the oldest first.
    pub(super) fn pass(&mut self, samples: &mut [&Sample], keep: Duration) -> Pass {
        self.record(samples);
        samples.sort_by_cached_key(|sample| (Reverse(self.age(sample)), self.order(sample)));
        let keep = i64::try_from(keep.as_secs()).unwrap_or(i64::MAX);
        let labeled: BTreeSet<&str> = samples
            .iter()
            .filter(|sample| sample.label.is_some())
            .map(|sample| sample.id.as_str())
            .collect();
        let mut allowed = self.allowed(labeled.len());
        let mut pass = Pass::default();
        let mut announced = BTreeMap::new();
        let mut new = 0;
        for sample in samples.iter() {
            let id = sample.id.as_str();
            let is_labeled = labeled.contains(id);
            let Some((left, is_new)) = self.mark(id, keep) else {
                continue;
            };
            if left == 0 && !pass.ended.contains(id) && (!is_labeled || allowed > 0) {
                allowed -= usize::from(is_labeled);
                pass.ended.insert(id.to_owned());
                self.changed(Unsaved::Marks);
                if is_labeled {
                    self.clock.labeled_ended = Some(self.clock.running);
                }
            } else if is_labeled && !pass.ended.contains(id) {
                new += usize::from(is_new);
                announced.insert(id, left);
            }
        }
        pass.announcement = announced.values().min().map(|first| Announcement {
            samples: announced.len(),
            new,
            first_in: Duration::from_secs(*first as u64),
        });
        pass
    }

    /// Discards the ages of all samples except these.
    pub(super) fn forget_others(&mut self, samples: &[&Sample]) {
        let present: HashSet<&str> = samples.iter().map(|sample| sample.id.as_str()).collect();
        let before = self.births.len();
        self.births.retain(|id, _| present.contains(id.as_str()));
        if self.births.len() < before {
            self.changed(Unsaved::Births);
        }
    }

    /// Adds new samples, and discards samples that no longer exist.
    fn record(&mut self, samples: &[&Sample]) {
        self.forget_others(samples);
        for sample in samples {
            if !self.births.contains_key(&sample.id) {
                self.births.insert(sample.id.clone(), self.birth_of(sample));
                self.changed(Unsaved::Births);
            }
        }
    }

    /// Returns the number of labeled samples that a pass may end now.
    fn allowed(&self, labeled: usize) -> usize {
        let last = self.clock.labeled_ended;
        let is_early = last.is_some_and(|last| self.clock.running.saturating_sub(last) < HOUR);
        if is_early {
            0
        } else {
            (labeled / LABELED_SHARE).max(1)
        }
    }

    /// Marks a sample that is within a day of the limit `keep`, and unmarks any other.
    /// Returns the seconds until the sample may end, and whether the mark is new.
    /// Returns `None` if the sample is too young.
    fn mark(&mut self, id: &str, keep: i64) -> Option<(i64, bool)> {
        let running = self.clock.running;
        let age = self.age_in_seconds(self.births.get(id)?);
        let birth = self.births.get_mut(id)?;
        let left = keep.saturating_sub(age);
        if left > DAY {
            if birth.marked.take().is_some() {
                self.changed(Unsaved::Marks);
            }
            return None;
        }
        let is_new = birth.marked.is_none();
        let marked = *birth.marked.get_or_insert(running);
        if is_new {
            self.changed(Unsaved::Marks);
        }
        let told = running.saturating_sub(marked);
        Some((left.max(DAY.saturating_sub(told)).max(0), is_new))
    }

    fn changed(&mut self, what: Unsaved) {
        self.unsaved = self.unsaved.max(what);
    }

    /// Saves the files if a mark has changed, or if they were last saved at least
    /// `interval` ago. If the interval is zero, all changes are saved.
    pub(super) fn save(&mut self, interval: Duration) -> Result<(), FileError> {
        let since = self.clock.running.saturating_sub(self.saved_at);
        if self.unsaved < Unsaved::Marks && since < interval.as_secs() as i64 {
            return Ok(());
        }
        if self.unsaved > Unsaved::Nothing {
            write(&self.folder.join(AGES_FILE), &self.births)?;
        }
        write(&self.folder.join(RUNNING_FILE), &self.clock)?;
        self.saved_at = self.clock.running;
        self.unsaved = Unsaved::Nothing;
        Ok(())
    }
}

fn write(path: &Path, value: &impl Serialize) -> Result<(), FileError> {
    let bytes = serde_json::to_vec(value).map_err(|error| invalid("write", path, error))?;
    files::write(path, &bytes)
}

fn invalid(action: &'static str, path: &Path, error: serde_json::Error) -> FileError {
    FileError::of(action, path)(std::io::Error::new(std::io::ErrorKind::InvalidData, error))
}

/// Reads a JSON file. Returns the default value if the file is missing or damaged.
fn read<T: Default + for<'de> Deserialize<'de>>(
    state: &Path,
    name: &str,
    problems: &mut Vec<FileError>,
) -> T {
    let path = state.join(name);
    let bytes = match files::read_own(&path, MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(error) => {
            if !error.is_missing() {
                problems.push(error);
            }
            return T::default();
        }
    };
    serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        problems.push(invalid("read", &path, error));
        T::default()
    })
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests need some instant to start from"
)]
mod tests {
    use std::fs;
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::learning::samples::{SampleKind, TrackKey};
    use crate::onnx::Label;

    /// The time 2026-11-24T10:15:30Z in seconds since 1970.
    const NOW: i64 = 1_795_515_330;
    const KEEP_DAYS: i64 = 30;
    const KEEP: Duration = Duration::from_hours(24 * KEEP_DAYS as u64);

    fn unix(seconds: i64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs())
    }

    fn sample(id: &str, label: Option<&str>, at: Option<SystemTime>) -> Sample {
        Sample {
            id: id.to_owned(),
            label: label.map(|label| Label::new(label).unwrap()),
            track: TrackKey::Alone(id.to_owned()),
            day: String::new(),
            at,
            // The date of the file has no meaning.
            modified: SystemTime::UNIX_EPOCH,
            kind: SampleKind::Picture,
            path: PathBuf::from(id),
            bytes: 1,
            feature_bytes: 0,
            disk_bytes: 1,
        }
    }

    fn labeled(count: usize) -> Vec<Sample> {
        (0..count)
            .map(|n| sample(&format!("labeled-{n:03}"), Some("with_mask"), None))
            .collect()
    }

    /// A device with a state directory. Its processes run one after another.
    struct Device {
        state: tempfile::TempDir,
        ages: Ages,
        started: Instant,
        /// Seconds since the current process started.
        uptime: i64,
        samples: Vec<Sample>,
        /// The result of the last pass.
        last: Pass,
    }

    impl Device {
        fn new(samples: Vec<Sample>) -> Device {
            let state = tempfile::tempdir().unwrap();
            let (ages, problems) = Ages::open(state.path());
            assert!(problems.is_empty());
            Device {
                ages,
                state,
                started: Instant::now(),
                uptime: 0,
                samples,
                last: Pass::default(),
            }
        }

        /// Does a pass, and deletes the samples that it ends. Returns the number of
        /// deleted samples. `clock` is the time that a synchronized clock shows.
        fn pass(&mut self, clock: Option<i64>) -> usize {
            let reading = ClockReading {
                monotonic: self.started + Duration::from_secs(self.uptime.unsigned_abs()),
                synchronized: clock.map(unix),
            };
            self.ages.advance(reading);
            let mut samples: Vec<&Sample> = self.samples.iter().collect();
            self.last = self.ages.pass(&mut samples, KEEP);
            let ended = &self.last.ended;
            let before = self.samples.len();
            self.samples.retain(|sample| !ended.contains(&sample.id));
            self.ages.save(Duration::from_mins(10)).unwrap();
            before - self.samples.len()
        }

        /// Runs for some hours with a pass each hour. The clock starts at `clock` and
        /// keeps running. Returns the number of deleted samples.
        fn run(&mut self, hours: i64, clock: Option<i64>) -> usize {
            let deleted = (1..=hours).map(|hour| {
                self.uptime += HOUR;
                self.pass(clock.map(|clock| clock + hour * HOUR))
            });
            deleted.sum()
        }

        fn restart(&mut self) {
            self.ages.save(Duration::ZERO).unwrap();
            self.kill();
        }

        fn kill(&mut self) {
            let (ages, problems) = Ages::open(self.state.path());
            assert!(problems.is_empty(), "{problems:?}");
            (self.ages, self.uptime) = (ages, 0);
        }

        fn announced(&self) -> usize {
            self.last.announcement.map_or(0, |ending| ending.samples)
        }
    }

    #[test]
    fn a_labeled_sample_is_announced_for_a_day_and_ends_when_promised() {
        let mut device = Device::new(vec![
            sample("a", Some("with_mask"), None),
            sample("b", None, None),
        ]);
        assert_eq!(device.pass(Some(NOW)), 0);
        assert_eq!(device.run(29 * 24 - 1, Some(NOW)), 0);
        assert_eq!(device.announced(), 0);
        assert_eq!(device.run(1, Some(NOW + 29 * DAY - HOUR)), 0);
        let announcement = device.last.announcement.unwrap();
        assert_eq!((announcement.samples, announcement.new), (1, 1));
        assert_eq!(announcement.first_in, Duration::from_hours(24));
        assert_eq!(device.run(23, Some(NOW + 29 * DAY)), 0);
        let announcement = device.last.announcement.unwrap();
        assert_eq!((announcement.samples, announcement.new), (1, 0));
        assert_eq!(announcement.first_in, Duration::from_hours(1));
        assert_eq!(device.run(1, Some(NOW + 30 * DAY - HOUR)), 2);
        assert_eq!(device.announced(), 0);
    }

    #[test]
    fn a_clock_that_jumps_while_the_daemon_runs_is_not_believed_for_a_day() {
        let mut device = Device::new(labeled(28));
        device.samples.push(sample("waiting", None, None));
        device.pass(Some(NOW));
        let mut clock = NOW;
        for jump in [10 * 365 * DAY, -3 * 365 * DAY, 40 * DAY, 0] {
            clock = NOW + jump;
            assert_eq!(device.run(12, Some(clock)), 0);
            assert_eq!(device.announced(), 0);
            assert!(!device.ages.is_synchronized());
            device.restart();
            device.pass(Some(clock + 12 * HOUR));
        }
        clock += 12 * HOUR;
        assert_eq!(device.run(24, Some(clock)), 0);
        assert!(device.ages.is_synchronized());
        assert_eq!(device.announced(), 0);
        for sample in &device.samples {
            let age = device.ages.age(sample);
            // Each start adds a second.
            let most = Duration::from_hours(4 * 12 + 24) + Duration::from_mins(1);
            assert!(age <= most, "{age:?}");
        }
    }

    #[test]
    fn a_start_in_the_future_announces_and_the_next_one_takes_that_back() {
        for years in [10, 50] {
            let mut device = Device::new(labeled(28));
            device.samples.push(sample("waiting", None, None));
            device.pass(Some(NOW));
            device.restart();
            assert_eq!(device.pass(Some(NOW + years * 365 * DAY)), 0);
            assert_eq!(device.announced(), 28);
            device.restart();
            assert_eq!(device.pass(Some(NOW + HOUR)), 0);
            assert_eq!(device.announced(), 0);
            assert_eq!(device.run(48, Some(NOW + HOUR)), 0);
            assert_eq!(device.announced(), 0);
        }
    }

    #[test]
    fn an_unsynchronized_clock_ends_nothing_and_running_time_does() {
        let mut device = Device::new(labeled(1));
        device.samples.push(sample("waiting", None, None));
        // The device runs for a day at a time and saves its running time each day. The
        // nights do not count.
        for _ in 0..29 {
            assert_eq!(device.pass(None), 0);
            assert_eq!(device.run(24, None), 0);
            device.restart();
        }
        assert_eq!(device.pass(None), 0);
        assert_eq!(device.announced(), 1);
        assert_eq!(device.run(24, None), 2);
    }

    #[test]
    fn a_monotonic_clock_that_jumps_ends_nothing_either() {
        let mut device = Device::new(labeled(3));
        device.pass(None);
        for _ in 0..5 {
            device.uptime += 3650 * DAY;
            assert_eq!(device.pass(None), 0);
            assert_eq!(device.announced(), 0);
        }
        assert_eq!(
            device.ages.age(&device.samples[0]),
            Duration::from_hours(10)
        );
    }

    #[test]
    fn a_sample_seen_before_the_clock_was_set_is_as_old_as_the_daemon_ran() {
        let year_1970 = unix(60);
        let mut device = Device::new(vec![
            sample("then", Some("with_mask"), Some(year_1970)),
            sample("future", Some("with_mask"), Some(unix(NOW + 400 * DAY))),
        ]);
        device.run(5, None);
        device.pass(Some(NOW));
        assert_eq!(device.announced(), 0);
        for sample in &device.samples {
            assert_eq!(device.ages.age(sample), Duration::from_hours(4));
        }
        // The device was off for two months, and captures before its clock is set.
        device.restart();
        device.samples.push(sample("new", None, Some(unix(NOW))));
        device.pass(None);
        assert_eq!(device.pass(Some(NOW + 60 * DAY)), 0);
        assert_eq!(device.ages.age(&device.samples[2]), Duration::ZERO);
        assert_eq!(device.announced(), 2);
        assert_eq!(
            device.run(24, Some(NOW + 60 * DAY)),
            1,
            "a tenth, at least one"
        );
    }

    #[test]
    fn a_date_in_a_name_counts_only_with_a_synchronized_clock() {
        let names = || {
            vec![
                sample("1970", Some("a"), Some(unix(60))),
                sample("2025", Some("a"), Some(unix(1_750_000_000))),
                sample("old", Some("a"), Some(unix(NOW - 40 * DAY))),
                sample("future", Some("a"), Some(unix(NOW + 40 * DAY))),
                sample("9999", Some("a"), Some(unix(253_402_207_200))),
                sample("none", Some("a"), None),
            ]
        };
        let mut device = Device::new(names());
        device.pass(None);
        let old = names().remove(2);
        assert_eq!(device.ages.age(&old), Duration::ZERO);
        device.pass(Some(NOW));
        assert_eq!(device.announced(), 0, "it was first seen without the time");
        let mut device = Device::new(names());
        device.pass(Some(NOW));
        assert_eq!(device.announced(), 1);
        assert_eq!(device.ages.age(&old), KEEP + Duration::from_hours(10 * 24));
        let mut ages = device.samples.iter().map(|sample| device.ages.age(sample));
        assert_eq!(ages.clone().filter(Duration::is_zero).count(), 5);
        assert!(ages.all(|age| age.is_zero() || age > KEEP));
    }

    #[test]
    fn the_announcement_survives_restarts_and_counts_the_time_in_between() {
        let mut device = Device::new(labeled(4));
        device.pass(Some(NOW));
        device.restart();
        // The device was off, and its clock was synchronized before and after.
        assert_eq!(device.pass(Some(NOW + 31 * DAY)), 0);
        assert_eq!(device.announced(), 4);
        assert_eq!(device.last.announcement.unwrap().new, 4);
        device.kill();
        assert_eq!(device.pass(Some(NOW + 31 * DAY + 23 * HOUR)), 0);
        assert_eq!(device.announced(), 4);
        assert_eq!(device.last.announcement.unwrap().new, 0);
        device.restart();
        // Without a synchronized clock, it is unknown how long the device was off.
        assert_eq!(device.pass(None), 0);
        assert_eq!(device.pass(Some(NOW + 32 * DAY + HOUR)), 1);
    }

    #[test]
    fn one_pass_ends_a_tenth_and_the_next_waits_an_hour() {
        let mut device = Device::new(labeled(88));
        device.pass(Some(NOW));
        let later = NOW + 31 * DAY;
        device.restart();
        device.pass(Some(later));
        device.restart();
        assert_eq!(device.pass(Some(later + DAY)), 8);
        assert_eq!(device.pass(Some(later + DAY)), 0);
        device.kill();
        assert_eq!(device.pass(None), 0, "a start is no reason to end more");
        assert_eq!(device.run(1, Some(later + DAY)), 8);
        assert_eq!(device.run(1, Some(later + DAY + HOUR)), 7);
        assert_eq!(device.announced(), 88 - 8 - 8 - 7);
        assert_eq!(device.run(48, Some(later + DAY + 2 * HOUR)), 65);
        assert_eq!(device.samples, []);
    }

    #[test]
    fn damaged_files_end_nothing() {
        let mut device = Device::new(labeled(3));
        device.pass(Some(NOW));
        device.restart();
        device.pass(Some(NOW + 29 * DAY));
        device.ages.save(Duration::ZERO).unwrap();
        let extremes = format!(
            "{{\"labeled-000\":{{\"seen\":{0},\"born\":{0},\"marked\":{0}}},\
              \"labeled-001\":{{\"seen\":{1},\"born\":{1},\"marked\":{1}}}}}",
            i64::MIN,
            i64::MAX
        );
        let clocks = [
            "{}".to_owned(),
            "{".to_owned(),
            format!("{{\"running\":{}}}", i64::MAX),
            format!(
                "{{\"running\":{0},\"synchronized\":{{\"unix\":{0},\"running\":{1}}},\
                  \"labeled_ended\":{0}}}",
                i64::MIN,
                i64::MAX
            ),
        ];
        for ages in ["", "[]", "{\"labeled-000\":3}", "{}", &extremes] {
            for clock in &clocks {
                let state = device.state.path();
                fs::write(state.join(AGES_FILE), ages).unwrap();
                fs::write(state.join(RUNNING_FILE), clock).unwrap();
                let (ages, problems) = Ages::open(state);
                assert!(problems.len() <= 2);
                (device.ages, device.uptime) = (ages, 0);
                let first = device.pass(None);
                let second = device.pass(Some(NOW + 29 * DAY));
                // A sample ends only if an undamaged file records such an age.
                assert!(first + second <= 2);
                device.samples = labeled(3);
            }
        }
        fs::remove_file(device.state.path().join(AGES_FILE)).unwrap();
        fs::remove_file(device.state.path().join(RUNNING_FILE)).unwrap();
        device.kill();
        assert_eq!(device.pass(Some(NOW + 300 * DAY)), 0);
        assert_eq!(device.announced(), 0);
    }

    #[test]
    fn samples_sort_by_when_they_were_seen_and_not_by_their_dates() {
        let mut device = Device::new(vec![sample("2036", None, Some(unix(NOW + 3000 * DAY)))]);
        device.pass(None);
        device.restart();
        device.ages.captured(&["today".to_owned()]);
        device.kill();
        let today = sample("today", None, Some(unix(NOW)));
        device.samples.push(today.clone());
        device.pass(None);
        let order = |sample| device.ages.order(sample);
        assert!(order(&today) > order(&device.samples[0]));
        let unseen = sample("unseen", None, Some(unix(1)));
        assert!(order(&unseen) > order(&today));
    }

    #[derive(Debug, Clone)]
    enum Event {
        Run { hours: i64, clock: Option<i64> },
        Restart,
        Kill,
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let clock = prop::option::of(NOW - 9000 * DAY..NOW + 30_000 * DAY);
        let event = prop_oneof![
            4 => (1..9_i64, clock).prop_map(|(hours, clock)| Event::Run { hours, clock }),
            1 => Just(Event::Restart),
            1 => Just(Event::Kill),
        ];
        prop::collection::vec(event, 1..12)
    }

    proptest! {
        #[test]
        fn no_clock_ends_a_sample_in_a_daemon_that_has_run_for_less_than_a_day(
            clocks in prop::collection::vec(
                (1..240_i64, prop::option::of(NOW - 9000 * DAY..NOW + 30_000 * DAY)),
                1..10,
            ),
        ) {
            let mut device = Device::new(labeled(5));
            device.samples.push(sample("waiting", None, Some(unix(60))));
            device.pass(Some(NOW));
            for (minutes, clock) in clocks {
                device.uptime = (device.uptime + 60 * minutes).min(DAY - 1);
                prop_assert_eq!(device.pass(clock), 0);
            }
        }

        #[test]
        fn without_a_synchronized_clock_only_running_time_ends_samples(events in events()) {
            let mut device = Device::new(labeled(5));
            let mut hours_run = 0;
            for event in events {
                match event {
                    Event::Run { hours, .. } => {
                        hours_run += hours;
                        prop_assert_eq!(device.run(hours, None), 0, "after {} hours", hours_run);
                    }
                    Event::Restart => device.restart(),
                    Event::Kill => device.kill(),
                }
            }
        }

        #[test]
        fn a_pass_ends_at_most_a_tenth_of_the_labeled_samples(events in events()) {
            let mut device = Device::new(labeled(40));
            device.pass(Some(NOW));
            for event in events {
                match event {
                    Event::Run { hours, clock } => for hour in 0..hours {
                        let most = (device.samples.len() / LABELED_SHARE).max(1);
                        let clock = clock.map(|clock| clock + hour * HOUR);
                        prop_assert!(device.run(1, clock) <= most);
                    }
                    Event::Restart => device.restart(),
                    Event::Kill => device.kill(),
                }
            }
        }
    }
}
