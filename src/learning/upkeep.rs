//! Keeps the samples within the limits of age and disk space.
//!
//! This module applies the rules of `retention` and of the store of samples. It knows
//! nothing about the config or threads, and readings of the clocks are passed as
//! arguments.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use super::retention::{Ages, Announcement};
use super::samples::{LabelFilter, Removed};
use super::{Learning, LearningError, Purge, RemovedRecord, UNLABELLED, label_of};
use crate::platform::clock::ClockReading;
use crate::platform::files::FileError;

/// Disk space that must be left before a crop is stored, in bytes. It is more than a
/// crop and its features take up, so that no crop is stored that would be deleted at
/// once.
const CROP_ROOM: u64 = 128 * 1024;
/// How often the running time is saved at most, so that a card is not worn out.
const SAVE_INTERVAL: Duration = Duration::from_mins(10);

/// Limits on the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum age.
    pub max_age: Duration,
    /// Maximum disk space, in bytes.
    pub max_bytes: u64,
}

/// The result of applying the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upkeep {
    /// What was deleted.
    pub removed: Removed,
    /// The labeled samples that will reach the maximum age, if there are any.
    pub announcement: Option<Announcement>,
    /// Whether the clock is synchronized, and has not jumped within the last day. If
    /// not, ages count only the time that the daemon runs.
    pub clock_synchronized: bool,
    /// Number of files that do not count toward the maximum disk space because they
    /// are too large to be crops.
    pub not_counted: usize,
    /// Number of further crops that surely fit into the maximum disk space.
    pub room: u64,
    /// Whether labeled samples alone take up the maximum disk space, so that no crop
    /// can be stored.
    pub is_full: bool,
}

/// Limits of age and disk space.
impl Learning {
    /// Deletes what the limits end. The age limit ends only samples whose age is
    /// certain, and labeled ones only after they were announced for a day.
    ///
    /// # Errors
    /// Returns [`LearningError::Store`]. As much as possible was deleted then.
    pub fn apply_limits(
        &self,
        limits: Limits,
        reading: ClockReading,
    ) -> Result<Upkeep, LearningError> {
        let mut ages = self.ages();
        ages.advance(reading);
        let mut announcement = None;
        let pruned = self.store().prune(limits.max_bytes, |samples| {
            let pass = ages.pass(samples, limits.max_age);
            announcement = pass.announcement;
            pass.ended
        })?;
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

    /// Records samples that were captured just now, so that their ages begin now.
    pub fn captured(&self, ids: &[String], reading: ClockReading) {
        let mut ages = self.ages();
        ages.advance(reading);
        ages.captured(ids);
    }

    /// Saves the ages of the samples, and the time that the daemon has run. Does
    /// nothing if they were saved a short while ago and nothing was announced since,
    /// unless this is the `last` call before the process ends.
    ///
    /// # Errors
    /// Returns the error of writing the files.
    pub fn save_ages(&self, reading: ClockReading, last: bool) -> Result<(), FileError> {
        let mut ages = self.ages();
        ages.advance(reading);
        ages.save(if last { Duration::ZERO } else { SAVE_INTERVAL })
    }

    /// Whether the clock is synchronized with a time server, and has not jumped within
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
        let filter = match purge.label.as_deref().map(label_of).transpose()? {
            None => LabelFilter::All,
            Some(None) => LabelFilter::Unlabelled,
            Some(Some(label)) => LabelFilter::Labelled(label),
        };
        let mut ages = self.ages();
        ages.advance(reading);
        let min_age = purge
            .older_than_days
            .map(|days| Duration::from_hours(24) * days);
        let removed = self.store().purge(&filter, &|sample| {
            min_age.is_none_or(|min_age| ages.age(sample) > min_age)
        })?;
        // The ids of deleted faces are forgotten at once, even if no daemon runs.
        let kept = self.store().list()?.samples;
        ages.forget_others(&kept.iter().collect::<Vec<_>>());
        if let Err(error) = ages.save(Duration::ZERO) {
            tracing::warn!(%error, "the ages of face pictures cannot be saved");
        }
        let mut left = self.unused()?;
        // Entries at the top belong to no label.
        let folder = match &filter {
            LabelFilter::All => None,
            LabelFilter::Unlabelled => Some(UNLABELLED),
            LabelFilter::Labelled(label) => Some(label.as_str()),
        };
        left.retain(|unused| folder.is_none_or(|folder| unused.path.starts_with(folder)));
        Ok(RemovedRecord {
            unlabelled: removed.unlabelled,
            labelled: removed.labelled,
            bytes: removed.bytes,
            by_running_time: min_age.is_some() && !ages.is_synchronized(),
            left,
        })
    }

    pub(super) fn ages(&self) -> MutexGuard<'_, Ages> {
        // A poisoned lock is safe to use because the next pass checks every entry
        // against the files on disk.
        self.ages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
