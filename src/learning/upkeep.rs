//! Keeps the samples within the limits on age and disk space.
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

/// Free disk space that is required to store a crop, in bytes. It is more than a crop
/// and its features take up, so no crop is stored that would have to be deleted
/// immediately.
const CROP_ROOM: u64 = 128 * 1024;
/// Minimum interval between saves of the running time, so that writing does not wear
/// out the memory card.
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
    /// this is false, ages count only the time that the daemon runs.
    pub clock_synchronized: bool,
    /// Number of files that do not count toward the maximum disk space because they
    /// are too large to be crops.
    pub not_counted: usize,
    /// Number of additional crops that are certain to fit into the maximum disk space.
    pub room: u64,
    /// Whether labeled samples alone take up the maximum disk space, so that no crop
    /// can be stored.
    pub is_full: bool,
}

/// Limits on age and disk space.
impl Learning {
    /// Deletes samples that exceed the limits. The age limit applies only to samples
    /// whose age is certain, and to labeled samples only after their deletion was
    /// announced for a day.
    ///
    /// # Errors
    /// Returns [`LearningError::Store`]. In that case, as much as possible has been
    /// deleted.
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
    /// nothing if they were saved recently and nothing has been announced since,
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
