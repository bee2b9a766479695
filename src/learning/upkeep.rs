//! Keeps the samples within the limits on age and disk space.
//!
//! This module applies the rules of `retention` and of the store of samples. It knows
//! nothing about the config or threads, and readings of the clocks are passed as
//! arguments.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use super::retention::{Ages, Announcement};
use super::samples::{LabelFilter, Removed, Sample, StoreError};
use super::undo_log::UndoLog;
use super::{Learning, LearningError, Purge, RemovedRecord, UNLABELLED, label_of};
use crate::platform::clock::ClockReading;
use crate::platform::files::FileError;

/// Disk space that must be left within the limit before a crop is stored, in bytes. A
/// crop and its features take up less, so no crop is stored that would have to be
/// deleted immediately.
const CROP_ROOM: u64 = 128 * 1024;
/// Minimum interval between saves of the running time. Frequent writing would wear out
/// the memory card.
const SAVE_INTERVAL: Duration = Duration::from_mins(10);

/// Limits on the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum age of a sample.
    pub max_age: Duration,
    /// Maximum disk space for the samples, in bytes.
    pub max_bytes: u64,
}

/// The result of applying the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upkeep {
    /// What was deleted.
    pub removed: Removed,
    /// The labeled samples that will soon reach the maximum age, if there are any.
    pub announcement: Option<Announcement>,
    /// Whether the clock is synchronized and has not jumped within the last day. If
    /// this is false, only the time during which the daemon runs counts toward ages.
    pub clock_synchronized: bool,
    /// Number of files that do not count toward the maximum disk space because they
    /// are too large to be crops.
    pub not_counted: usize,
    /// Number of additional crops that are certain to fit into the maximum disk space.
    pub room: u64,
    /// Whether labeled samples alone take up the maximum disk space, in which case
    /// no crop can be stored.
    pub is_full: bool,
}

impl Learning {
    /// Deletes samples that exceed the limits. The age limit applies only to samples
    /// whose age is certain, and to labeled samples only after their deletion has been
    /// announced for a day.
    ///
    /// # Errors
    /// Returns [`LearningError::Store`]. The other samples are deleted even if one
    /// cannot be deleted.
    pub fn apply_limits(
        &self,
        limits: Limits,
        reading: ClockReading,
    ) -> Result<Upkeep, LearningError> {
        let mut log = self.undo_log();
        let mut ages = self.ages();
        ages.advance(reading);
        let mut announcement = None;
        let pruned = self.store().prune(limits.max_bytes, |samples, discarded| {
            let pass = ages.pass(samples, discarded, limits.max_age);
            announcement = pass.announcement;
            pass.ended
        });
        let forgotten = self.forget_deleted(&mut log, &mut ages);
        let pruned = pruned?;
        forgotten?;
        let left = limits.max_bytes.saturating_sub(pruned.bytes);
        let for_crops = limits.max_bytes.saturating_sub(pruned.labelled_bytes);
        Ok(Upkeep {
            removed: pruned.removed,
            announcement,
            clock_synchronized: ages.is_synchronized(),
            not_counted: pruned.not_counted,
            room: left / CROP_ROOM,
            is_full: for_crops < CROP_ROOM,
        })
    }

    /// Deletes the discarded samples that were discarded at least a day ago, and saves the
    /// ages. A daemon does this in [`apply_limits`](Learning::apply_limits) and
    /// [`save_ages`](Learning::save_ages) too.
    ///
    /// # Errors
    /// Returns [`LearningError::Store`].
    pub fn tidy_trash(&self, reading: ClockReading) -> Result<(), LearningError> {
        let mut log = self.undo_log();
        self.ages().advance(reading);
        let pruned = self.prune_trash(&mut log);
        save_all(&mut self.ages());
        Ok(pruned?)
    }

    /// Deletes the discarded samples that expire, and the oldest ones while there are too many
    /// of them.
    pub(super) fn prune_trash(&self, log: &mut UndoLog) -> Result<(), StoreError> {
        let mut ages = self.ages();
        let by_age = |discarded: &mut Vec<&Sample>| ages.pass_trash(discarded, Duration::MAX);
        let pruned = self.store().prune_trash(by_age);
        let forgotten = self.forget_deleted(log, &mut ages);
        pruned?;
        forgotten
    }

    /// Removes the ids of deleted samples from the log and from the ages, so that no file
    /// names them any more. Call this even after a deletion that failed, because it may have
    /// deleted some of the samples.
    fn forget_deleted(&self, log: &mut UndoLog, ages: &mut Ages) -> Result<(), StoreError> {
        let present = self.store().all_ids()?;
        ages.forget_others(&present);
        log.forget_others(&present);
        Ok(())
    }

    /// Records samples that were captured just now, so that their ages are counted from
    /// now.
    pub fn captured(&self, ids: &[String], reading: ClockReading) {
        let mut ages = self.ages();
        ages.advance(reading);
        ages.captured(ids);
    }

    /// Saves the ages of the samples and the running time of the daemon. Does nothing
    /// if the last save was recent and no sample has been marked or deleted since. If
    /// `last` is true, which means that the process is about to end, always saves.
    ///
    /// # Errors
    /// Returns an error if the files cannot be written.
    pub fn save_ages(&self, reading: ClockReading, last: bool) -> Result<(), FileError> {
        let mut ages = self.ages();
        ages.advance(reading);
        ages.save(if last { Duration::ZERO } else { SAVE_INTERVAL })
    }

    /// Whether the clock is synchronized with a time server and has not jumped within
    /// the last day.
    #[must_use]
    pub fn is_clock_believed(&self, reading: ClockReading) -> bool {
        let mut ages = self.ages();
        ages.advance(reading);
        ages.is_synchronized()
    }

    /// Permanently deletes samples and their features.
    ///
    /// # Errors
    /// Returns [`LearningError::Label`] or [`LearningError::Store`].
    pub fn purge(
        &self,
        purge: &Purge,
        reading: ClockReading,
    ) -> Result<RemovedRecord, LearningError> {
        self.purge_unless(purge, reading, &|| false)
    }

    /// Deletes samples like [`purge`](Learning::purge). Calls `is_canceled` before each
    /// file, and stops as soon as it returns true.
    ///
    /// # Errors
    /// Returns the same errors as [`purge`](Learning::purge).
    pub fn purge_unless(
        &self,
        purge: &Purge,
        reading: ClockReading,
        is_canceled: &dyn Fn() -> bool,
    ) -> Result<RemovedRecord, LearningError> {
        let label = purge.label.as_deref().map(label_of).transpose()?;
        let filter = match &label {
            _ if purge.discarded => LabelFilter::Discarded,
            None => LabelFilter::All,
            Some(None) => LabelFilter::Unlabelled,
            Some(Some(label)) => LabelFilter::Labelled(label.clone()),
        };
        let mut log = self.undo_log();
        let mut ages = self.ages();
        ages.advance(reading);
        let min_age = purge
            .older_than_days
            .map(|days| Duration::from_hours(24) * days);
        let is_selected = |sample: &Sample| {
            label.as_ref().is_none_or(|label| *label == sample.label)
                && min_age.is_none_or(|min_age| ages.age(sample) > min_age)
        };
        let removed = self.store().purge(&filter, &is_selected, is_canceled);
        let forgotten = self.forget_deleted(&mut log, &mut ages);
        // Save immediately, because no daemon may be running.
        save_all(&mut ages);
        let by_running_time = min_age.is_some() && !ages.is_synchronized();
        drop(ages);
        drop(log);
        let removed = removed?;
        forgotten?;
        let mut left = match filter {
            LabelFilter::Discarded => Vec::new(),
            _ => self.unused()?,
        };
        // Entries at the top level do not belong to the folder of any label.
        let folder = match &filter {
            LabelFilter::All | LabelFilter::Discarded => None,
            LabelFilter::Unlabelled => Some(UNLABELLED),
            LabelFilter::Labelled(label) => Some(label.as_str()),
        };
        left.retain(|unused| folder.is_none_or(|folder| unused.path.starts_with(folder)));
        Ok(RemovedRecord {
            unlabelled: removed.unlabelled,
            labelled: removed.labelled,
            discarded: removed.discarded,
            bytes: removed.bytes,
            by_running_time,
            left,
        })
    }

    pub(super) fn ages(&self) -> MutexGuard<'_, Ages> {
        // A poisoned lock is safe to use because the next pass checks every entry
        // against the files on disk.
        self.ages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Saves the ages. A failure is not an error, because it only makes pictures be kept for
/// longer.
fn save_all(ages: &mut Ages) {
    if let Err(error) = ages.save(Duration::ZERO) {
        tracing::warn!(%error, "the ages of face pictures cannot be saved");
    }
}
