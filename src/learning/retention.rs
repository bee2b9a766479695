//! Determines how old samples are, and which of them have reached the age limit.
//!
//! This module owns the files `ages.json` and `running-time.json` in the state directory.
//! It reads no clocks and deletes nothing. The caller passes readings of the clocks as
//! arguments, and deletes the samples.
//!
//! No single wrong date or clock can make a sample expire too early:
//!
//! - The age is counted from the moment when maskd first saw the sample. The date in the
//!   name of a capture is used only if the clock was synchronized when maskd first saw
//!   the sample. The date of a file is never used.
//! - The wall clock counts only while it is synchronized. Otherwise, the age grows with
//!   the running time of the daemon, as measured by the monotonic clock.
//! - A sample is marked a day before it reaches the limit, and expires no earlier than
//!   a day after it was marked. While the daemon runs, the monotonic clock measures
//!   this day, so a jump of the wall clock cannot shorten it. Time during which the
//!   daemon did not run counts if the clock was synchronized before and after this
//!   time.
//! - After a synchronized clock has jumped, it is not trusted for a day of running
//!   time. During that day, the age of a sample is the running time since maskd first
//!   saw the sample. The marks of samples that are too young by this measure are
//!   removed. The clock is distrusted in the same way if, when the daemon starts, the
//!   clock is more than ten days ahead of the last run.
//! - In one pass, at most a tenth of the labeled samples expire. Labeled samples expire
//!   again only after at least an hour of running time.
//!
//! Discarded samples expire a day after they were discarded, or when they reach the age
//! limit. These deletions are not announced, because a person asked for them. The day is
//! measured with a synchronized clock even if the clock is not trusted, because otherwise
//! it would never pass on a device on which no daemon runs:
//!
//! - A clock that jumps forward can make discarded samples expire early, but no others.
//! - If the clock shows that a sample was discarded in the future, the clock was ahead
//!   then, and the day starts again.
//! - If the time is not known, for example because the process was killed, the day
//!   starts when the discarded sample is first seen.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::samples::{Expired, Sample};
use crate::platform::clock::{ClockReading, believable};
use crate::platform::files::{self, FileError};

const AGES_FILE: &str = "ages.json";
const RUNNING_FILE: &str = "running-time.json";
/// Maximum size of each of the two files, in bytes, which is enough for a million
/// samples.
const MAX_BYTES: u64 = 128 * 1024 * 1024;
const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;
/// Maximum time between two readings that counts as running time, in seconds. The
/// daemon reads the clocks every minute, so a longer time means that something is
/// wrong.
const MAX_STEP: u64 = 2 * HOUR as u64;
/// Maximum difference, in seconds, between the time that has passed on the wall clock
/// and the time that has passed on the monotonic clock. If the difference is larger,
/// the wall clock has jumped.
const TOLERANCE: i64 = 5 * 60;
/// After a break of at most this many seconds, a daemon trusts the clock immediately. If
/// the clock says that the break was longer, the clock may be wrong.
const MAX_OFF: i64 = 10 * DAY;
/// The number of labeled samples is divided by this number to get the maximum number of
/// labeled samples that may expire in one pass. The maximum is never less than 1.
const LABELED_SHARE: usize = 10;

/// The running time and the last synchronized time, as stored in the state directory.
/// All values are in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct SavedClock {
    /// Total time for which daemons have run with this state directory.
    running: i64,
    /// The last reading of a synchronized clock that was trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    synchronized: Option<Synchronized>,
    /// The running time at which the clock is trusted again after a jump.
    #[serde(skip_serializing_if = "Option::is_none")]
    believed_from: Option<i64>,
    /// The last reading of a synchronized clock, while that clock is not trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    doubted: Option<Synchronized>,
    /// The running time when a labeled sample last expired.
    #[serde(skip_serializing_if = "Option::is_none")]
    labeled_ended: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Synchronized {
    /// The time that the clock showed, in seconds since 1970.
    unix: i64,
    /// The running time when the clock was read, in seconds.
    running: i64,
}

/// What is known about the age of a sample. All values are in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Birth {
    /// The running time when maskd first saw the sample.
    seen: i64,
    /// The time from which the age of the sample is counted, in seconds since 1970
    /// according to a synchronized clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    born: Option<i64>,
    /// The running time when the sample was marked. A sample is marked when it is about
    /// to reach the age limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    marked: Option<i64>,
    /// When the sample was discarded, if it was discarded and not restored. If several
    /// discarded samples share the id, this is when the first of them was discarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    discarded: Option<Moment>,
}

/// A moment on both clocks, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Moment {
    /// The running time.
    running: i64,
    /// The time since 1970 according to a synchronized clock, if it is known. For the
    /// moment when a sample was discarded, the clock may be one that is not trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unix: Option<i64>,
}

/// Announces that labeled samples will be deleted soon because of their age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    /// Number of samples that will be deleted.
    pub samples: usize,
    /// Number of these samples that the previous pass did not announce.
    pub new: usize,
    /// The time until the first of these samples is deleted.
    pub first_in: Duration,
}

/// The result of a pass.
#[derive(Debug, Default)]
pub(super) struct Pass {
    /// The samples that expire now.
    pub(super) ended: Expired,
    /// The labeled samples that will expire soon.
    pub(super) announcement: Option<Announcement>,
}

/// The ages of all samples in a state directory.
#[derive(Debug)]
pub(super) struct Ages {
    folder: PathBuf,
    clock: SavedClock,
    births: BTreeMap<String, Birth>,
    /// The last reading of the monotonic clock, rounded down to a whole number of
    /// seconds after the first reading of this process.
    last_reading: Option<Instant>,
    /// The running time when this process opened the directory.
    running_before: i64,
    /// Whether the clock was synchronized at the last reading and is trusted.
    is_synchronized: bool,
    /// What the clock showed at the last reading, trusted or not, in seconds since 1970, if
    /// it was synchronized.
    shown: Option<i64>,
    /// Whether this process has read a synchronized clock, trusted or not.
    was_read: bool,
    /// Whether this process has read a synchronized clock that it trusted.
    was_synchronized: bool,
    unsaved: Unsaved,
    /// The running time when the files were last saved.
    saved_at: i64,
}

/// What has changed since the files were last saved, apart from the running time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Unsaved {
    Nothing,
    /// Samples were added or removed, or the time from which the age of a sample is counted
    /// became known.
    Births,
    /// Samples were marked or unmarked, or expired.
    Marks,
}

impl Ages {
    /// Reads the files of a state directory. If a file is missing or damaged, its times
    /// start at zero again, so that no sample expires early. Also returns the problems
    /// with the files.
    pub(super) fn open(state: &Path) -> (Ages, Vec<FileError>) {
        let mut problems = Vec::new();
        let mut births: BTreeMap<String, Birth> = read(state, AGES_FILE, &mut problems);
        let mut clock: SavedClock = read(state, RUNNING_FILE, &mut problems);
        // A killed daemon does not save its latest running time. The running time must
        // not start below the time when any sample was first seen, so that the order of
        // the samples stays correct.
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
            if let Some(discarded) = &mut birth.discarded {
                discarded.running = discarded.running.min(saved);
            }
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
            shown: None,
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

    /// Updates the running time and the ages with a reading of the clocks.
    pub(super) fn advance(&mut self, reading: ClockReading) {
        let last = *self.last_reading.get_or_insert(reading.monotonic);
        let passed = reading.monotonic.saturating_duration_since(last).as_secs();
        self.last_reading = Some(last + Duration::from_secs(passed));
        let counted = passed.min(MAX_STEP) as i64;
        self.clock.running = self.clock.running.saturating_add(counted);
        let unix = reading.unix_seconds();
        let has_jumped = unix.is_some_and(|unix| self.has_jumped(unix));
        let running = self.clock.running;
        self.shown = unix;
        if let Some(unix) = unix {
            self.clock.doubted = Some(Synchronized { unix, running });
            self.was_read = true;
            self.date_discarded(unix);
        }
        if has_jumped {
            tracing::warn!(
                "the clock jumped although it is synchronized, or the device was off for long: \
                 for a day of running, the age of face pictures does not depend on the clock"
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
            // A known time is kept, even if a synchronized clock later shows an earlier
            // time, because it is unknown which of the two times is right. Until the
            // clock has caught up with the kept time, the age grows only with the
            // running time.
            if birth.born.is_none() {
                birth.born = Some(latest);
                self.unsaved = self.unsaved.max(Unsaved::Births);
            }
        }
    }

    /// Sets the time when samples were discarded to the latest possible time, if this time
    /// was not known or is later than possible. `unix` is the present time.
    fn date_discarded(&mut self, unix: i64) {
        let running = self.clock.running;
        for birth in self.births.values_mut() {
            let Some(moment) = &mut birth.discarded else {
                continue;
            };
            let since = running.saturating_sub(moment.running).max(0);
            let latest = unix.saturating_sub(since);
            let is_possible = |at: i64| at.saturating_sub(latest) <= TOLERANCE;
            if !moment.unix.is_some_and(is_possible) {
                moment.unix = Some(latest);
                self.unsaved = self.unsaved.max(Unsaved::Births);
            }
        }
    }

    /// Whether a synchronized clock has jumped. In that case, either the time that it
    /// shows now or the time that it showed before is wrong. At the first reading of a
    /// process, a clock that is ahead counts as jumped only if it is ahead by more than
    /// [`MAX_OFF`], because the device may have been off.
    fn has_jumped(&self, unix: i64) -> bool {
        let Some(last) = self.clock.synchronized.or(self.clock.doubted) else {
            return false;
        };
        let ahead = unix.saturating_sub(self.after(last));
        let most_ahead = if self.was_read { TOLERANCE } else { MAX_OFF };
        ahead < -TOLERANCE || ahead > most_ahead
    }

    /// Counts the `seconds` during which no daemon ran as time that has passed since
    /// marks and expirations. This number is known from the first trusted reading of a
    /// process.
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

    /// Returns the time in seconds since 1970, computed as the last synchronized time
    /// plus the time that the daemon has run since then. Returns `None` if the clock was
    /// never synchronized.
    fn synchronized_now(&self) -> Option<i64> {
        Some(self.after(self.clock.synchronized?))
    }

    /// Returns the time like [`synchronized_now`](Ages::synchronized_now), but also from a
    /// clock that is not trusted.
    fn shown_now(&self) -> Option<i64> {
        let last = self.clock.doubted.or(self.clock.synchronized)?;
        Some(self.after(last))
    }

    /// Returns the time in seconds since 1970, computed as an earlier time plus the
    /// time that the daemon has run since then.
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
            discarded: None,
        }
    }

    fn age_in_seconds(&self, birth: &Birth) -> i64 {
        let first_seen = Moment {
            running: birth.seen,
            unix: birth.born,
        };
        self.seconds_since(first_seen, self.synchronized_now())
    }

    /// Returns the number of seconds since a moment. `now` is the present time since 1970,
    /// if it is known.
    fn seconds_since(&self, moment: Moment, now: Option<i64>) -> i64 {
        let running = self.clock.running.saturating_sub(moment.running);
        let by_clock = now.zip(moment.unix);
        let by_clock = by_clock.map_or(0, |(now, unix)| now.saturating_sub(unix));
        // The running time is a lower bound, regardless of the wall clock.
        running.max(by_clock).max(0)
    }

    fn now(&self) -> Moment {
        Moment {
            running: self.clock.running,
            unix: self.synchronized_now().filter(|_| self.is_synchronized),
        }
    }

    /// Returns the age of a sample.
    pub(super) fn age(&self, sample: &Sample) -> Duration {
        let birth = self.births.get(&sample.id).copied();
        let age = self.age_in_seconds(&birth.unwrap_or_else(|| self.birth_of(sample)));
        Duration::from_secs(age as u64)
    }

    /// Returns a key that sorts samples by the time when maskd first saw them. The key
    /// depends on the wall clock only if two samples were first seen in the same second.
    pub(super) fn order(&self, sample: &Sample) -> impl Ord + use<> {
        let seen = self.births.get(&sample.id).map(|birth| birth.seen);
        // A sample that no pass has seen yet counts as newer than all others.
        (seen.unwrap_or(i64::MAX), sample.when(), sample.id.clone())
    }

    /// Records samples that were captured just now.
    pub(super) fn captured(&mut self, ids: &[String]) {
        let now = self.now();
        let birth = Birth {
            seen: now.running,
            born: now.unix,
            marked: None,
            discarded: None,
        };
        let births = ids.iter().map(|id| (id.clone(), birth));
        self.births.extend(births);
        self.changed(Unsaved::Births);
    }

    /// Returns this moment, as it is recorded for samples that are discarded now.
    fn now_for_trash(&self) -> Moment {
        Moment {
            running: self.clock.running,
            unix: self.shown,
        }
    }

    /// Records that samples were discarded just now.
    pub(super) fn discarded(&mut self, ids: &[String]) {
        let (now, discarded) = (self.now(), self.now_for_trash());
        for id in ids {
            let birth = self.births.entry(id.clone()).or_insert(Birth {
                seen: now.running,
                born: now.unix,
                marked: None,
                discarded: None,
            });
            birth.discarded.get_or_insert(discarded);
        }
        self.changed(Unsaved::Marks);
    }

    /// Records that discarded samples were restored. Their ages count on.
    pub(super) fn restored(&mut self, ids: &[String]) {
        for id in ids {
            if let Some(birth) = self.births.get_mut(id) {
                birth.discarded = None;
            }
        }
        self.changed(Unsaved::Marks);
    }

    /// Records which discarded samples exist, and returns the ids of those that expire now,
    /// because they were discarded a day ago or have reached the age limit `keep`. Sorts them
    /// by the time when they were discarded.
    pub(super) fn pass_trash(
        &mut self,
        discarded: &mut [&Sample],
        keep: Duration,
    ) -> HashSet<String> {
        let keep = i64::try_from(keep.as_secs()).unwrap_or(i64::MAX);
        let in_trash: HashSet<&str> = discarded.iter().map(|sample| sample.id.as_str()).collect();
        let others = self.births.iter_mut();
        for (_, birth) in others.filter(|(id, _)| !in_trash.contains(id.as_str())) {
            // A process that was killed may not have saved that the sample was restored.
            if birth.discarded.take().is_some() {
                self.unsaved = self.unsaved.max(Unsaved::Births);
            }
        }
        let now = self.now_for_trash();
        for sample in discarded.iter() {
            let first_seen = self.birth_of(sample);
            let birth = self.births.entry(sample.id.clone()).or_insert(first_seen);
            if birth.discarded.is_none() {
                birth.discarded = Some(now);
                self.changed(Unsaved::Births);
            }
        }
        let since = |sample: &Sample| {
            let moment = self.births.get(&sample.id)?.discarded?;
            Some(self.seconds_since(moment, self.shown_now()))
        };
        discarded.sort_by_cached_key(|sample| (Reverse(since(sample)), self.order(sample)));
        let is_expired = |sample: &&&Sample| {
            let is_old = self.age(sample).as_secs() as i64 >= keep;
            is_old || since(sample).is_some_and(|since| since >= DAY)
        };
        let expired = discarded.iter().filter(is_expired);
        expired.map(|sample| sample.id.clone()).collect()
    }

    /// Records which samples and discarded samples exist, marks the samples that will soon
    /// reach the age limit `keep`, and returns those that expire now. Sorts both lists from
    /// oldest to newest.
    pub(super) fn pass(
        &mut self,
        samples: &mut [&Sample],
        discarded: &mut [&Sample],
        keep: Duration,
    ) -> Pass {
        self.record(samples, discarded);
        let expired = self.pass_trash(discarded, keep);
        samples.sort_by_cached_key(|sample| (Reverse(self.age(sample)), self.order(sample)));
        let keep = i64::try_from(keep.as_secs()).unwrap_or(i64::MAX);
        let labeled: BTreeSet<&str> = samples
            .iter()
            .filter(|sample| sample.label.is_some())
            .map(|sample| sample.id.as_str())
            .collect();
        let mut allowed = self.allowed(labeled.len());
        let mut pass = Pass::default();
        pass.ended.discarded = expired;
        let mut announced = BTreeMap::new();
        let mut new = 0;
        for sample in samples.iter() {
            let id = sample.id.as_str();
            let is_labeled = labeled.contains(id);
            let Some((left, is_new)) = self.mark(id, keep) else {
                continue;
            };
            if left == 0 && !pass.ended.samples.contains(id) && (!is_labeled || allowed > 0) {
                allowed -= usize::from(is_labeled);
                pass.ended.samples.insert(id.to_owned());
                self.changed(Unsaved::Marks);
                if is_labeled {
                    self.clock.labeled_ended = Some(self.clock.running);
                }
            } else if is_labeled && !pass.ended.samples.contains(id) {
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

    /// Discards the ages of all samples except those with these ids.
    pub(super) fn forget_others(&mut self, present: &HashSet<String>) {
        let before = self.births.len();
        self.births.retain(|id, _| present.contains(id));
        if self.births.len() < before {
            self.changed(Unsaved::Births);
        }
    }

    /// Adds new samples, and forgets samples that no longer exist.
    fn record(&mut self, samples: &[&Sample], discarded: &[&Sample]) {
        let present = samples.iter().chain(discarded.iter());
        self.forget_others(&present.map(|sample| sample.id.clone()).collect());
        for sample in samples {
            if !self.births.contains_key(&sample.id) {
                let first_seen = self.birth_of(sample);
                self.births.insert(sample.id.clone(), first_seen);
                self.changed(Unsaved::Births);
            }
        }
    }

    /// Returns the maximum number of labeled samples that may expire in the current
    /// pass. `labeled` is the number of labeled samples.
    fn allowed(&self, labeled: usize) -> usize {
        let last = self.clock.labeled_ended;
        let is_early = last.is_some_and(|last| self.clock.running.saturating_sub(last) < HOUR);
        if is_early {
            0
        } else {
            (labeled / LABELED_SHARE).max(1)
        }
    }

    /// Marks a sample that is less than a day from the limit `keep` or beyond it, and
    /// unmarks a younger sample. Returns the number of seconds until the sample may
    /// expire, and whether the mark is new. Returns `None` if the sample is too young
    /// to be marked.
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

    /// Saves the files if a mark has changed, or if the last save was at least
    /// `interval` ago. If the interval is zero, always saves.
    pub(super) fn save(&mut self, interval: Duration) -> Result<(), FileError> {
        let since = self.clock.running.saturating_sub(self.saved_at);
        if self.unsaved < Unsaved::Marks && since < interval.as_secs() as i64 {
            return Ok(());
        }
        // If only the first file is written, the marks seem to be newer than they are. In
        // the opposite order, the time during which no daemon ran would count twice, and
        // samples could expire too early.
        write(&self.folder.join(RUNNING_FILE), &self.clock)?;
        if self.unsaved > Unsaved::Nothing {
            write(&self.folder.join(AGES_FILE), &self.births)?;
        }
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
    reason = "tests need an arbitrary start time"
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
            // The date of the file is not used.
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
        discarded: Vec<Sample>,
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
                discarded: Vec::new(),
                last: Pass::default(),
            }
        }

        /// Runs a pass, and deletes the samples that expire. Returns the number of
        /// deleted samples. `clock` is the time that a synchronized clock shows.
        fn pass(&mut self, clock: Option<i64>) -> usize {
            let reading = ClockReading {
                monotonic: self.started + Duration::from_secs(self.uptime.unsigned_abs()),
                synchronized: clock.map(unix),
            };
            self.ages.advance(reading);
            let mut samples: Vec<&Sample> = self.samples.iter().collect();
            let mut discarded: Vec<&Sample> = self.discarded.iter().collect();
            self.last = self.ages.pass(&mut samples, &mut discarded, KEEP);
            let Expired {
                samples: ended,
                discarded,
            } = &self.last.ended;
            self.discarded
                .retain(|sample| !discarded.contains(&sample.id));
            let before = self.samples.len();
            self.samples.retain(|sample| !ended.contains(&sample.id));
            self.ages.save(Duration::from_mins(10)).unwrap();
            before - self.samples.len()
        }

        /// Runs for this many hours, with a pass every hour. The clock starts at
        /// `clock` and keeps running. Returns the number of deleted samples.
        fn run(&mut self, hours: i64, clock: Option<i64>) -> usize {
            let deleted = (1..=hours).map(|hour| {
                self.uptime += HOUR;
                self.pass(clock.map(|clock| clock + hour * HOUR))
            });
            deleted.sum()
        }

        /// Discards all samples.
        fn discard(&mut self) {
            let samples = std::mem::take(&mut self.samples);
            let ids: Vec<String> = samples.iter().map(|sample| sample.id.clone()).collect();
            self.ages.discarded(&ids);
            self.discarded.extend(samples);
        }

        /// Discards the first sample.
        fn discard_one(&mut self) {
            let others = self.samples.split_off(1);
            self.discard();
            self.samples = others;
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
    fn discarded_samples_expire_after_a_day_of_running_or_of_a_synchronized_clock() {
        for clock in [None, Some(NOW)] {
            let mut device = Device::new(labeled(3));
            device.pass(clock);
            device.discard();
            device.run(12, clock);
            device.restart();
            // The restart costs the unsynchronized clock the time since the last pass.
            device.run(11, clock.map(|clock| clock + 12 * HOUR));
            assert_eq!(device.discarded.len(), 3, "{clock:?}");
            device.run(2, clock.map(|clock| clock + 23 * HOUR));
            assert_eq!(device.discarded.len(), 0, "{clock:?}");
        }
        // The day passes while the device is off.
        let mut device = Device::new(labeled(3));
        device.pass(Some(NOW));
        device.discard();
        device.restart();
        device.pass(Some(NOW + DAY - HOUR));
        assert_eq!(device.discarded.len(), 3);
        device.restart();
        device.pass(Some(NOW + DAY + HOUR));
        assert_eq!(device.discarded.len(), 0);
    }

    #[test]
    fn without_a_daemon_the_day_in_the_trash_passes_although_the_clock_is_not_trusted() {
        let mut device = Device::new(labeled(3));
        device.pass(Some(NOW));
        let mut clock = NOW;
        for _ in 0..3 {
            // Each command is a process. The clock counts as jumped after a long break.
            clock += 20 * DAY;
            device.restart();
            device.pass(Some(clock));
            assert!(!device.ages.is_synchronized());
            device.discard_one();
            device.restart();
            device.pass(Some(clock + DAY - HOUR));
            assert_eq!(device.discarded.len(), 1);
            device.restart();
            device.pass(Some(clock + DAY + HOUR));
            assert_eq!(device.discarded.len(), 0);
        }
        // The samples that were not discarded do not expire any sooner.
        let mut device = Device::new(labeled(3));
        device.pass(Some(NOW));
        device.discard_one();
        device.restart();
        assert_eq!(device.pass(Some(NOW + 400 * DAY)), 0);
        assert_eq!((device.samples.len(), device.announced()), (2, 0));
        assert_eq!(device.discarded.len(), 0);
    }

    #[test]
    fn the_day_in_the_trash_starts_again_if_the_clock_was_ahead() {
        for ahead in [2 * DAY, 400 * DAY] {
            let mut device = Device::new(labeled(1));
            device.pass(Some(NOW + ahead));
            device.discard();
            device.restart();
            device.pass(Some(NOW));
            device.restart();
            device.pass(Some(NOW + DAY - HOUR));
            assert_eq!(device.discarded.len(), 1, "{ahead}");
            device.restart();
            device.pass(Some(NOW + DAY + HOUR));
            assert_eq!(device.discarded.len(), 0, "{ahead}");
        }
        // While the time is unknown, only running time counts.
        let mut device = Device::new(labeled(1));
        device.pass(None);
        device.discard();
        device.restart();
        device.pass(Some(NOW));
        assert_eq!(device.discarded.len(), 1);
        device.restart();
        device.pass(None);
        device.restart();
        device.pass(Some(NOW + DAY + HOUR));
        assert_eq!(device.discarded.len(), 0);
    }

    #[test]
    fn the_first_time_counts_if_a_sample_with_this_id_is_already_in_the_trash() {
        let mut device = Device::new(labeled(1));
        device.pass(Some(NOW));
        device.discard();
        device.run(20, Some(NOW));
        // A picture with the same id was imported again.
        device.samples = labeled(1);
        device.pass(Some(NOW + 20 * HOUR));
        device.discard();
        device.run(5, Some(NOW + 20 * HOUR));
        assert_eq!(device.discarded.len(), 0);
        // After a restoration that was not saved, it does not count.
        device.samples = labeled(1);
        device.pass(Some(NOW + 30 * HOUR));
        device.discard();
        device.pass(Some(NOW + 30 * HOUR));
        device.samples = std::mem::take(&mut device.discarded);
        device.restart();
        device.ages.pass_trash(&mut [], Duration::MAX);
        device.discard();
        device.run(20, Some(NOW + 50 * HOUR));
        assert_eq!(device.discarded.len(), 1);
    }

    #[test]
    fn a_save_that_fails_halfway_shortens_no_announcement() {
        let mut failed = 0;
        for step in 0..10 {
            let mut device = Device::new(labeled(4));
            for days in [0, 9, 18, 27, 31] {
                device.restart();
                device.pass(Some(NOW + days * DAY));
            }
            assert_eq!(device.announced(), 4);
            device.restart();
            let reading = ClockReading {
                monotonic: device.started,
                synchronized: Some(unix(NOW + 31 * DAY + 12 * HOUR)),
            };
            device.ages.advance(reading);
            crate::platform::faults::fail_at(step);
            failed += usize::from(device.ages.save(Duration::ZERO).is_err());
            crate::platform::faults::clear();
            device.kill();
            assert_eq!(device.pass(Some(NOW + 31 * DAY + 20 * HOUR)), 0, "{step}");
            assert_eq!(device.announced(), 4);
        }
        assert!(failed >= 4, "{failed}");
    }

    #[test]
    fn a_kill_right_after_discarding_prolongs_the_day_and_no_more() {
        let mut device = Device::new(labeled(3));
        device.pass(Some(NOW));
        device.ages.save(Duration::ZERO).unwrap();
        device.discard();
        device.kill();
        device.run(23, Some(NOW + HOUR));
        assert_eq!(device.discarded.len(), 3);
        device.run(2, Some(NOW + 24 * HOUR));
        assert_eq!(device.discarded.len(), 0);
    }

    #[test]
    fn a_kill_right_after_restoring_does_not_shorten_the_next_day() {
        let mut device = Device::new(labeled(1));
        device.pass(Some(NOW));
        device.discard();
        device.ages.save(Duration::ZERO).unwrap();
        device.samples = std::mem::take(&mut device.discarded);
        let ids = [device.samples[0].id.clone()];
        device.ages.restored(&ids);
        device.kill();
        device.run(30, Some(NOW));
        device.ages.save(Duration::ZERO).unwrap();
        device.discard();
        device.kill();
        device.run(20, Some(NOW + 30 * HOUR));
        assert_eq!(device.discarded.len(), 1);
    }

    #[test]
    fn restoring_keeps_the_age_and_the_age_limit_holds_in_the_trash() {
        let mut device = Device::new(labeled(1));
        device.pass(Some(NOW));
        device.run(10 * 24, Some(NOW));
        device.discard();
        device.run(12, Some(NOW + 10 * DAY));
        device.samples = std::mem::take(&mut device.discarded);
        let restored = device.samples[0].clone();
        device.ages.restored(std::slice::from_ref(&restored.id));
        device.run(24, Some(NOW + 10 * DAY + 12 * HOUR));
        assert_eq!(device.samples.len(), 1);
        let days = device.ages.age(&restored).as_secs() as i64 / DAY;
        assert_eq!(days, 11);
        device.run(18 * 24, Some(NOW + 11 * DAY + 12 * HOUR));
        device.discard();
        assert_eq!(device.discarded.len(), 1);
        device.run(13, Some(NOW + 29 * DAY + 12 * HOUR));
        assert_eq!(device.discarded.len(), 0);
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
            // Each start of a process adds a second.
            let most = Duration::from_hours(4 * 12 + 24) + Duration::from_mins(1);
            assert!(age <= most, "{age:?}");
        }
    }

    #[test]
    fn a_start_in_the_future_announces_and_the_next_one_takes_that_back() {
        let mut device = Device::new(labeled(28));
        device.samples.push(sample("waiting", None, None));
        device.pass(Some(NOW));
        assert_eq!(device.run(20 * 24, Some(NOW)), 0);
        device.restart();
        assert_eq!(device.pass(Some(NOW + 29 * DAY)), 0);
        assert_eq!(device.announced(), 28);
        device.restart();
        let right = NOW + 20 * DAY + HOUR;
        assert_eq!(device.pass(Some(right)), 0);
        assert_eq!(device.announced(), 0);
        assert_eq!(device.run(48, Some(right)), 0);
        assert_eq!(device.announced(), 0);
    }

    #[test]
    fn two_starts_in_the_far_future_end_nothing() {
        for years in [10, 50] {
            let mut device = Device::new(labeled(28));
            device.samples.push(sample("waiting", None, None));
            device.pass(Some(NOW));
            let future = NOW + years * 365 * DAY;
            for clock in [future, future + 2 * DAY, future + 30 * DAY, NOW + HOUR] {
                device.restart();
                assert_eq!(device.pass(Some(clock)), 0);
                assert_eq!(device.run(5, Some(clock)), 0);
                assert_eq!(device.announced(), 0);
            }
        }
    }

    #[test]
    fn after_a_long_time_off_the_clock_is_believed_after_a_day_of_running() {
        let mut device = Device::new(labeled(28));
        device.pass(Some(NOW));
        let mut clock = NOW + 90 * DAY;
        // The device runs for 8 hours a day.
        for _ in 0..3 {
            device.restart();
            assert_eq!(device.pass(Some(clock)), 0);
            assert_eq!(device.announced(), 0);
            assert_eq!(device.run(8, Some(clock)), 0);
            clock += DAY;
        }
        assert_eq!(device.announced(), 28);
        // The announcement lasts for a day.
        device.restart();
        assert_eq!(device.pass(Some(clock)), 0);
        assert_eq!(device.run(7, Some(clock)), 0);
        assert_eq!(device.run(1, Some(clock + 7 * HOUR)), 2);
    }

    #[test]
    fn an_unsynchronized_clock_ends_nothing_and_running_time_does() {
        let mut device = Device::new(labeled(1));
        device.samples.push(sample("waiting", None, None));
        // The device runs for a day at a time and saves its running time each day. The
        // time between two runs does not count.
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
        // The device was off for two months, and captures a crop before its clock is set.
        device.restart();
        device.samples.push(sample("new", None, Some(unix(NOW))));
        device.pass(None);
        let clock = NOW + 60 * DAY;
        assert_eq!(device.pass(Some(clock)), 0);
        assert_eq!(device.ages.age(&device.samples[2]), Duration::ZERO);
        assert_eq!(device.announced(), 0, "the clock is not believed yet");
        assert_eq!(device.run(24, Some(clock)), 0);
        assert_eq!(device.announced(), 2);
        let ended = device.run(24, Some(clock + DAY));
        assert_eq!(ended, 1, "a tenth, at least one");
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
        for days in [0, 9, 18, 27] {
            assert_eq!(device.pass(Some(NOW + days * DAY)), 0);
            device.restart();
        }
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
        for days in [8, 16, 24, 31] {
            device.restart();
            device.pass(Some(NOW + days * DAY));
        }
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
        for days in [9, 18, 27, 29] {
            device.restart();
            device.pass(Some(NOW + days * DAY));
        }
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
                // Only an undamaged file can hold an age that makes a sample expire.
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
