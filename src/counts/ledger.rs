//! The number of passages of each hour, and what of it is published.
//!
//! This module is pure. The time and the time zone are passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::rounding::rounded;
use super::{Outcome, Passages};

const SECONDS_PER_HOUR: i64 = 3600;
const SECONDS_PER_DAY: i64 = 86_400;

/// An hour of local time, given by its start in seconds since 1970. When summer time ends,
/// the hour that the clock shows twice is two hours here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hour(pub(crate) i64);

impl Hour {
    /// Stands for the time at which the clock showed a time that cannot be right.
    pub const UNKNOWN: Hour = Hour(0);

    /// Returns the hour of local time that contains a time in seconds since 1970.
    #[must_use]
    pub fn of(seconds: i64, zone: &TimeZone) -> Hour {
        let offset = Timestamp::from_second(seconds).map_or(0, |at| zone.to_offset(at).seconds());
        let within = (seconds + i64::from(offset)).rem_euclid(SECONDS_PER_HOUR);
        Hour(seconds - within)
    }

    /// The local date on which the hour starts.
    #[must_use]
    pub fn date(self, zone: &TimeZone) -> Date {
        zone.to_datetime(self.start()).date()
    }

    /// The start of the hour.
    #[must_use]
    pub fn start(self) -> Timestamp {
        Timestamp::from_second(self.0).unwrap_or_default()
    }

    /// The day in UTC on which the hour starts. The hours of such a day share a file.
    #[must_use]
    pub fn file_day(self) -> FileDay {
        FileDay(self.0.div_euclid(SECONDS_PER_DAY))
    }
}

/// A day in UTC, in days since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileDay(pub(crate) i64);

impl FileDay {
    /// Returns the day that contains a time in seconds since 1970.
    #[must_use]
    pub fn of(seconds: i64) -> FileDay {
        FileDay(seconds.div_euclid(SECONDS_PER_DAY))
    }
}

/// What is known about an hour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HourCounts {
    /// Passages that were counted one by one.
    pub exact: Passages,
    /// Passages that were counted in statistics mode, after [`rounded`].
    pub rounded: Passages,
}

impl HourCounts {
    fn plus(self, other: HourCounts) -> HourCounts {
        HourCounts {
            exact: self.exact.plus(other.exact),
            rounded: self.rounded.plus(other.rounded),
        }
    }
}

/// The counts of all hours that have passages.
pub type Hours = BTreeMap<Hour, HourCounts>;

/// How exact the numbers are that are kept and published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Each passage is counted at once.
    Exact,
    /// Only hours that are over are kept and published, after [`rounded`].
    Rounded,
}

/// Returns the passages of an hour as they are published while the hour `current` is not yet
/// over, or `None` if there are none.
#[must_use]
pub fn published(
    hour: Hour,
    counts: HourCounts,
    precision: Precision,
    current: Hour,
) -> Option<Passages> {
    let exact = match precision {
        Precision::Exact => counts.exact,
        Precision::Rounded if hour >= current => return None,
        Precision::Rounded => rounded(counts.exact),
    };
    let passages = exact.plus(counts.rounded);
    (!passages.is_empty()).then_some(passages)
}

/// Counts passages, and keeps the counts of all hours in memory.
#[derive(Debug)]
pub struct Ledger {
    precision: Precision,
    zone: TimeZone,
    hours: Hours,
    /// The hours that are not over yet. They are never published or stored. Always empty if
    /// the counts are exact.
    open: BTreeMap<Hour, Passages>,
    /// The days whose hours have changed since they were last stored.
    changed: BTreeSet<FileDay>,
    total: Passages,
}

impl Ledger {
    /// Creates a ledger without passages.
    #[must_use]
    pub fn new(precision: Precision, zone: TimeZone) -> Ledger {
        Ledger {
            precision,
            zone,
            hours: Hours::new(),
            open: BTreeMap::new(),
            changed: BTreeSet::new(),
            total: Passages::default(),
        }
    }

    /// Sets the time zone for the passages that follow. It may change while the daemon runs.
    pub fn set_zone(&mut self, zone: TimeZone) {
        self.zone = zone;
    }

    /// How exact the published numbers are.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Counts a passage at a time in seconds since 1970, or `None` if the time is not known.
    pub fn count(&mut self, seconds: Option<i64>, outcome: Outcome) {
        let hour = seconds.map_or(Hour::UNKNOWN, |seconds| Hour::of(seconds, &self.zone));
        let one = Passages::one(outcome);
        match self.precision {
            Precision::Exact => self.add(
                hour,
                HourCounts {
                    exact: one,
                    ..HourCounts::default()
                },
            ),
            Precision::Rounded => {
                let open = self.open.entry(hour).or_default();
                *open = open.plus(one);
            }
        }
    }

    fn add(&mut self, hour: Hour, counts: HourCounts) {
        self.total = self.total.plus(counts.exact).plus(counts.rounded);
        let known = self.hours.entry(hour).or_default();
        *known = known.plus(counts);
        self.changed.insert(hour.file_day());
    }

    /// Closes all hours except the one that contains a time in seconds since 1970. With
    /// `None`, closes all hours, because nothing more will be counted.
    pub fn close(&mut self, seconds: Option<i64>) {
        let current = seconds.map(|seconds| Hour::of(seconds, &self.zone));
        // The hours of an unknown time end with the daemon, because nobody knows when they do.
        let stays =
            |hour: &Hour| current.is_some_and(|current| *hour == current || *hour == Hour::UNKNOWN);
        let over: Vec<(Hour, Passages)> = self
            .open
            .iter()
            .filter(|(hour, _)| !stays(hour))
            .map(|(hour, passages)| (*hour, *passages))
            .collect();
        for (hour, exact) in over {
            self.open.remove(&hour);
            let rounded = rounded(exact);
            if !rounded.is_empty() {
                let exact = Passages::default();
                self.add(hour, HourCounts { exact, rounded });
            }
        }
    }

    /// Adds the hours that were read from the disk.
    pub fn load(&mut self, stored: Hours) {
        for (hour, counts) in stored {
            let known = self.hours.entry(hour).or_default();
            *known = known.plus(counts);
        }
    }

    /// Number of passages that were published since the ledger was created.
    #[must_use]
    pub fn total(&self) -> Passages {
        self.total
    }

    /// Returns the published passages of all hours. `seconds` is the present time in seconds
    /// since 1970, or `None` if it is not known.
    #[must_use]
    pub fn published(&self, seconds: Option<i64>) -> Vec<(Hour, Passages)> {
        let current = seconds.map_or(Hour::UNKNOWN, |seconds| Hour::of(seconds, &self.zone));
        let hours = self.hours.iter();
        hours
            .filter_map(|(hour, counts)| {
                Some((*hour, published(*hour, *counts, self.precision, current)?))
            })
            .collect()
    }

    /// Returns the days to store, with all their hours. They count as stored until
    /// [`not_stored`](Ledger::not_stored) is called.
    pub fn take_changed(&mut self) -> Vec<(FileDay, Hours)> {
        let changed = std::mem::take(&mut self.changed);
        changed
            .into_iter()
            .map(|day| (day, self.hours_of(day)))
            .collect()
    }

    fn hours_of(&self, day: FileDay) -> Hours {
        let hours = self.hours.iter();
        hours
            .filter(|(hour, _)| hour.file_day() == day)
            .map(|(hour, counts)| (*hour, *counts))
            .collect()
    }

    /// Records that a day could not be stored, so that it is tried again.
    pub fn not_stored(&mut self, day: FileDay) {
        self.changed.insert(day);
    }

    /// Forgets the hours of a day whose file was deleted.
    pub fn forget(&mut self, day: FileDay) {
        self.hours.retain(|hour, _| hour.file_day() != day);
        self.changed.remove(&day);
    }
}

/// A ledger that several threads use. The lock is held only while plain values are copied.
#[derive(Debug, Clone)]
pub struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    /// Shares a ledger.
    #[must_use]
    pub fn new(ledger: Ledger) -> SharedLedger {
        SharedLedger(Arc::new(Mutex::new(ledger)))
    }

    /// Locks the ledger.
    pub fn lock(&self) -> MutexGuard<'_, Ledger> {
        // A poisoned lock is safe to use, because a panic loses at most the passage that was
        // being counted.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `date -d 2026-11-30T08:00Z +%s`
    const MORNING: i64 = 1_796_025_600;

    /// Central European Time with its summer time, so that the test needs no files.
    pub(crate) fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn ledger(precision: Precision) -> Ledger {
        Ledger::new(precision, berlin())
    }

    #[test]
    fn hours_are_hours_of_local_time() {
        assert_eq!(Hour::of(MORNING + 3599, &berlin()), Hour(MORNING));
        assert_eq!(Hour::of(MORNING + 3600, &berlin()), Hour(MORNING + 3600));
        let india = TimeZone::posix("IST-5:30").unwrap();
        assert_eq!(Hour::of(MORNING, &india), Hour(MORNING - 1800));
        // Summer time ended on 2026-10-25 at 01:00Z, so the clock showed 02:30 twice.
        let first = 1_792_888_200; // 2026-10-25T00:30:00Z
        let (first, second) = (
            Hour::of(first, &berlin()),
            Hour::of(first + 3600, &berlin()),
        );
        assert_eq!(second.0 - first.0, 3600);
        let clock = |hour: Hour| berlin().to_datetime(hour.start());
        assert_eq!(clock(first), clock(second));
        assert_eq!(clock(first).hour(), 2);
    }

    #[test]
    fn exact_counts_are_published_and_stored_at_once() {
        let mut ledger = ledger(Precision::Exact);
        ledger.count(Some(MORNING), Outcome::Masked);
        ledger.count(Some(MORNING + 10), Outcome::Unsure);
        ledger.count(None, Outcome::Unmasked);
        let hour = Passages {
            masked: 1,
            unmasked: 0,
            unsure: 1,
        };
        let one = Passages::one(Outcome::Unmasked);
        let expected = vec![(Hour::UNKNOWN, one), (Hour(MORNING), hour)];
        assert_eq!(ledger.published(Some(MORNING)), expected);
        assert_eq!(ledger.published(None), expected);
        assert_eq!(ledger.total(), hour.plus(one));
        let days = ledger.take_changed();
        assert_eq!(days.len(), 2);
        assert!(ledger.take_changed().is_empty());
        ledger.not_stored(days[1].0);
        assert_eq!(ledger.take_changed(), [days[1].clone()]);
        ledger.forget(days[1].0);
        assert_eq!(ledger.published(None), [(Hour::UNKNOWN, one)]);
    }

    #[test]
    fn rounded_counts_appear_when_their_hour_is_over() {
        let mut ledger = ledger(Precision::Rounded);
        for second in 0..12 {
            ledger.count(Some(MORNING + second), Outcome::Masked);
        }
        for second in 0..9 {
            ledger.count(Some(MORNING + 3600 + second), Outcome::Masked);
        }
        ledger.close(Some(MORNING + 3599));
        let is_hidden = |ledger: &mut Ledger| {
            ledger.total().is_empty()
                && ledger.take_changed().is_empty()
                && ledger.published(Some(MORNING + 3599)).is_empty()
        };
        assert!(is_hidden(&mut ledger), "{ledger:?}");
        ledger.close(Some(MORNING + 3600));
        let ten = Passages {
            masked: 10,
            ..Passages::default()
        };
        assert_eq!(
            ledger.published(Some(MORNING + 3600)),
            [(Hour(MORNING), ten)]
        );
        assert_eq!(ledger.total(), ten);
        // The quiet hour is withheld, also in the total.
        ledger.close(None);
        assert_eq!(
            ledger.published(Some(MORNING + 9000)),
            [(Hour(MORNING), ten)]
        );
        assert_eq!(ledger.total(), ten);
        assert!(ledger.open.is_empty());
    }

    #[test]
    fn exact_counts_from_before_are_rounded_when_they_are_published() {
        let mut ledger = ledger(Precision::Rounded);
        let exact = |masked| HourCounts {
            exact: Passages {
                masked,
                ..Passages::default()
            },
            ..HourCounts::default()
        };
        ledger.load(Hours::from([
            (Hour(MORNING), exact(3)),
            (Hour(MORNING + 3600), exact(13)),
        ]));
        let published = ledger.published(Some(MORNING + 7200));
        assert_eq!(published.len(), 1);
        assert_eq!(published[0].1.masked, 15);
        // An hour that is not over is not published, even if a part of it was stored when
        // the daemon ended.
        assert!(ledger.published(Some(MORNING + 3600)).is_empty());
        assert!(ledger.total().is_empty());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_an_hour_contains_its_time(
            times in prop::collection::vec(1_767_225_600_i64..1_900_000_000, 0..200),
        ) {
            let mut ledger = ledger(Precision::Exact);
            for at in &times {
                let hour = Hour::of(*at, &berlin());
                prop_assert!((hour.0..hour.0 + 3600).contains(at));
                prop_assert_eq!(Hour::of(hour.0, &berlin()), hour);
                ledger.count(Some(*at), Outcome::Unmasked);
            }
            let sum: u64 = ledger.published(None).iter().map(|(_, passages)| passages.total()).sum();
            prop_assert_eq!(sum, times.len() as u64);
            prop_assert_eq!(ledger.total().unmasked, times.len() as u64);
            let stored: usize = ledger.take_changed().iter().map(|(_, hours)| hours.len()).sum();
            prop_assert_eq!(stored, ledger.hours.len());
        }

        /// However the hours are closed, no published number tells about fewer passages than
        /// the rule allows.
        #[test]
        fn a_quiet_hour_is_never_published(
            times in prop::collection::vec((0_i64..10, 0_i64..3600), 0..120),
            closings in prop::collection::vec(0_i64..10, 0..8),
        ) {
            let mut ledger = ledger(Precision::Rounded);
            let mut exact = [0_u64; 10];
            for (hour, second) in &times {
                exact[*hour as usize] += 1;
                ledger.count(Some(MORNING + hour * 3600 + second), Outcome::Masked);
            }
            for hour in closings {
                ledger.close(Some(MORNING + hour * 3600));
            }
            ledger.close(None);
            let published = ledger.published(Some(MORNING + 36_000));
            for (hour, passages) in &published {
                let was = exact[((hour.0 - MORNING) / 3600) as usize];
                prop_assert!(was >= crate::counts::rounding::MIN_PASSAGES);
                prop_assert!(passages.masked.abs_diff(was) <= 2);
            }
            let busy = exact.iter().filter(|count| **count >= 10).count();
            prop_assert_eq!(published.len(), busy);
        }
    }
}
