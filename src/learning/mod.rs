//! Learning on the device, which combines samples, heads, and refits.
//!
//! This module defines what a label, a refit, or a rollback does to the store
//! of samples and the store of heads. The command line, the daemon's API, and
//! the daemon's refit thread all use it. It knows nothing about the config or
//! threads, and reads no clock. The caller provides the backbone that embeds crops.

mod access;
mod active;
pub mod capture_policy;
pub mod enrollment;
mod error;
pub mod fleet;
pub mod heads;
mod label_queue;
mod records;
pub mod refit;
mod refitting;
mod rejected;
pub mod replay;
mod retention;
pub mod samples;
mod state_format;
mod upkeep;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

pub use access::LearningAccess;
pub use active::{InUse, head_in_use};
pub use error::{FailureKind, LearningError};
pub use records::{
    AdviceRecord, ClassCountRecord, CountRecord, CurvePointRecord, DecisionRecord, Enrollment,
    ExportRecord, GroupRecord, HardExampleRecord, HeadRecord, ImportRecord, InitialHeadRecord,
    LabelAction, LabelResult, MeasuredRecord, OutcomeRecord, Purge, QueueRecord, QueuedRecord,
    RefitRecord, RefusalRecord, RemovedRecord, SampleRecord, SampleSelector, ScoresRecord,
    SkipReasonRecord, SkippedRecord, UnusedRecord, ValidationRecord,
};
pub(crate) use records::{UNLABELLED, counts, records};
use refitting::LastRefit;
pub use refitting::{Embed, SHIPPED_REPLAY};
pub use retention::Announcement;
pub use state_format::StateFormatError;
pub(crate) use state_format::refuse_within_state;
pub use upkeep::{Limits, Upkeep};

use crate::learning::active::ActiveHead;
use crate::learning::heads::{Heads, HeadsError};
use crate::learning::label_queue::Candidate;
use crate::learning::samples::{
    Discarded, Labelled, Sample, SampleKind, Store, StoreError, TrackKey,
};
use crate::onnx::Label;
use crate::platform::files;
use crate::vision::head::Head;
use records::{label_of, track_name};
use retention::Ages;

/// Maximum number of unlabeled crops that the queue considers. It takes the
/// newest ones.
const MAX_QUEUED: usize = 400;

/// Options of learning on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LearningOptions {
    /// Seed of every refit. The same seed and labels give the same head.
    pub seed: u64,
    /// Number of heads to keep for rollbacks, at least 2.
    pub keep_heads: usize,
}

impl Default for LearningOptions {
    fn default() -> LearningOptions {
        LearningOptions {
            seed: 42,
            keep_heads: 10,
        }
    }
}

/// Returns an error if a newer maskd has changed the state directory. This
/// function changes nothing.
pub(crate) fn check_state(state: &Path) -> Result<(), LearningError> {
    Ok(state_format::check(state)?)
}

/// Returns all heads in a state directory, sorted by number.
///
/// # Errors
/// Returns [`HeadsError::File`].
pub(crate) fn head_records(heads: &heads::Reader) -> Result<Vec<HeadRecord>, HeadsError> {
    Ok(heads.list()?.into_iter().map(HeadRecord::from).collect())
}

/// The state directory, opened by the only process that may change it. Threads
/// may share this value. No mutex is held while a head is trained.
#[derive(Debug)]
pub struct Learning {
    state: PathBuf,
    store: Store,
    ages: Mutex<Ages>,
    /// The stored heads and the one in use.
    active: ActiveHead,
    /// The built-in head, or the head of the configured classifier.
    base: Arc<Head>,
    options: LearningOptions,
    /// The last refit, while it cannot be written to its file.
    unsaved_refit: Mutex<Option<LastRefit>>,
}

impl Learning {
    /// Opens a state directory for changes, and creates it if it is missing.
    /// `base` is the head to start with.
    ///
    /// # Errors
    /// Returns an error for which [`is_busy`](LearningError::is_busy) is true
    /// if another process has the directory open,
    /// [`LearningError::StateFormat`] if a newer maskd has changed it, and
    /// [`LearningError::Store`] or [`LearningError::Heads`] if it cannot be
    /// read or created.
    pub fn open(
        state: &Path,
        base: Arc<Head>,
        options: LearningOptions,
    ) -> Result<Learning, LearningError> {
        let published = watch::Sender::new(Arc::new(InUse::base(&base, None)));
        Learning::open_and_publish(state, base, options, Arc::new(published))
    }

    /// Same as [`open`](Learning::open), but sends the head in use, now and after each
    /// change, to `published`.
    pub(crate) fn open_and_publish(
        state: &Path,
        base: Arc<Head>,
        options: LearningOptions,
        published: Arc<watch::Sender<Arc<InUse>>>,
    ) -> Result<Learning, LearningError> {
        state_format::check(state)?;
        let (store, heads) = (Store::open(state)?, Heads::open(state)?);
        // Both locks are held here, so no other process can write the format
        // number at the same time.
        state_format::stamp(state)?;
        // Files of this directory itself that a killed process was writing.
        if let Err(error) = files::remove_leftovers(state) {
            tracing::warn!(%error, "temporary files are not deleted");
        }
        let (ages, problems) = Ages::open(state);
        for error in problems {
            tracing::warn!(%error, "the ages of face pictures begin anew");
        }
        let keep = options.keep_heads;
        Ok(Learning {
            store,
            ages: Mutex::new(ages),
            active: ActiveHead::open(heads, state, Arc::clone(&base), keep, published)?,
            state: state.to_owned(),
            base,
            options,
            unsaved_refit: Mutex::new(None),
        })
    }

    /// The store of samples.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The path of the state directory, as it was given.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }
}

/// Operations on samples.
impl Learning {
    /// Returns the samples sorted by id. A label selects only the samples with
    /// that label, and `unlabelled` selects the samples without one.
    ///
    /// # Errors
    /// Returns [`LearningError::Label`] or [`LearningError::Store`].
    pub fn samples(&self, label: Option<&str>) -> Result<Vec<SampleRecord>, LearningError> {
        let mut samples = records(&self.store.list()?);
        if let Some(name) = label {
            let label = label_of(name)?.map(|label| label.to_string());
            samples.retain(|sample| sample.label == label);
        }
        Ok(samples)
    }

    /// Returns the bytes of a sample's picture. A captured picture is a JPEG.
    /// An imported picture is returned unchanged.
    ///
    /// # Errors
    /// Returns [`LearningError::NoSample`] or [`LearningError::Store`].
    pub fn picture(&self, id: &str) -> Result<Vec<u8>, LearningError> {
        let samples = self.store.list()?.samples;
        let sample = samples.into_iter().find(|sample| sample.id == id);
        let sample = sample.ok_or_else(|| LearningError::NoSample(id.to_owned()))?;
        if sample.kind == SampleKind::FeatureOnly {
            return Err(StoreError::NoPicture { id: sample.id }.into());
        }
        Ok(self.store.read(&sample)?)
    }

    /// Returns the counts by label. Samples without a label are counted under
    /// `unlabelled`.
    ///
    /// # Errors
    /// Returns [`LearningError::Store`].
    pub fn stats(&self) -> Result<BTreeMap<String, CountRecord>, LearningError> {
        Ok(counts(&self.store.list()?))
    }

    /// Returns what is in the folders of the samples and is not used as one. The
    /// paths are relative to these folders.
    ///
    /// # Errors
    /// Returns [`LearningError::Store`].
    pub fn unused(&self) -> Result<Vec<UnusedRecord>, LearningError> {
        let unused = self.store.unused()?;
        Ok(unused.into_iter().map(Into::into).collect())
    }

    /// Returns the crops that are waiting for a label, grouped by
    /// near-duplicates, with the most useful group first. There are at most
    /// `max_groups` groups, and only the newest crops are considered.
    ///
    /// # Errors
    /// Returns [`LearningError::Store`], or any error of
    /// [`in_use`](Learning::in_use).
    pub fn queue(&self, max_groups: usize) -> Result<QueueRecord, LearningError> {
        let in_use = self.in_use()?;
        let head = &in_use.head;
        let samples = self.store.list()?.samples.into_iter();
        let mut waiting: Vec<Sample> = samples.filter(|sample| sample.label.is_none()).collect();
        let all = waiting.len();
        // Crops without a picture are left out because a person cannot see what
        // they show.
        waiting.retain(|sample| sample.kind == SampleKind::Picture);
        let without_picture = all - waiting.len();
        let ages = self.ages();
        waiting.sort_by_cached_key(|sample| std::cmp::Reverse(ages.order(sample)));
        drop(ages);
        waiting.truncate(MAX_QUEUED);
        let candidates: Vec<Candidate> = waiting
            .iter()
            .map(|sample| {
                let rows = self.store.features(sample, head.backbone());
                let row = rows.ok().and_then(|rows| rows.into_iter().next());
                // Pictures that a user copied into the folder have no features
                // yet.
                row.map_or_else(Candidate::default, |row| Candidate {
                    feature: row.values().to_vec(),
                    probabilities: head.probabilities(&row),
                })
            })
            .collect();
        let rounded = |value: f32| (f64::from(value) * 1e4).round() / 1e4;
        let queued = |number: usize| {
            let labels = head.labels().iter().cloned();
            let probabilities = candidates[number].probabilities.iter();
            QueuedRecord {
                id: waiting[number].id.clone(),
                day: waiting[number].day.clone(),
                track: track_name(&waiting[number].track),
                probabilities: labels
                    .zip(probabilities.map(|probability| rounded(*probability)))
                    .collect(),
            }
        };
        let groups = label_queue::groups(&candidates).into_iter();
        let groups = groups.take(max_groups).map(|group| GroupRecord {
            usefulness: rounded(candidates[group[0]].usefulness()),
            samples: group.into_iter().map(queued).collect(),
        });
        Ok(QueueRecord {
            waiting: all,
            without_picture,
            groups: groups.collect(),
        })
    }

    /// Labels samples, removes their labels, or deletes them.
    ///
    /// # Errors
    /// Returns [`LearningError::Label`], [`LearningError::NoTrack`], or
    /// [`LearningError::Store`].
    pub fn label(
        &self,
        selector: SampleSelector,
        action: &LabelAction,
    ) -> Result<LabelResult, LearningError> {
        let ids = match selector {
            SampleSelector::Ids(ids) => ids,
            SampleSelector::Track(number) => self.newest_track(number)?,
        };
        let label = match action {
            LabelAction::Discard => return self.discard(ids),
            LabelAction::As(name) => Some(Label::new(name)?),
            LabelAction::Unlabelled => None,
        };
        let outcomes = self.store.label(&ids, label.as_ref())?;
        let mut result = LabelResult::default();
        for (id, outcome) in ids.into_iter().zip(outcomes) {
            match outcome {
                Labelled::Done => result.done.push(id),
                Labelled::Already => result.already.push(id),
                Labelled::Missing => result.fail(id, "there is no such sample"),
                Labelled::Taken => result.fail(
                    id,
                    "another picture of that name has that label: rename one of them",
                ),
                Labelled::Failed(error) => result.fail(id, error),
            }
        }
        Ok(result)
    }

    fn discard(&self, ids: Vec<String>) -> Result<LabelResult, LearningError> {
        let outcomes = self.store.discard(&ids)?;
        let mut result = LabelResult::default();
        for (id, outcome) in ids.into_iter().zip(outcomes) {
            match outcome {
                Discarded::Done => result.done.push(id),
                Discarded::Missing => result.fail(id, "there is no such sample"),
                Discarded::Failed(error) => result.fail(id, error),
            }
        }
        Ok(result)
    }

    /// Returns the ids of the unlabeled samples of a track. Track numbers start
    /// over each time the daemon starts, so this uses the day of the sample that was
    /// captured last. That need not be the latest day, because the clock may have
    /// shown a time in the future.
    fn newest_track(&self, number: u64) -> Result<Vec<String>, LearningError> {
        let listing = self.store.list()?;
        let is_of_track = |sample: &&Sample| match &sample.track {
            TrackKey::Day { track, .. } | TrackKey::Undated(track) => *track == number,
            TrackKey::Alone(_) => false,
        };
        let unlabelled = listing.samples.iter().filter(|s| s.label.is_none());
        let of_track: Vec<&Sample> = unlabelled.filter(is_of_track).collect();
        let ages = self.ages();
        let newest = of_track.iter().max_by_key(|sample| ages.order(sample));
        let newest = newest.map(|sample| sample.day.clone());
        drop(ages);
        let newest = newest.ok_or(LearningError::NoTrack(number))?;
        let of_day = of_track.into_iter().filter(|sample| sample.day == newest);
        Ok(of_day.map(|sample| sample.id.clone()).collect())
    }

    /// Copies pictures into the store from a folder that has one subfolder per
    /// label.
    ///
    /// # Errors
    /// Returns [`LearningError::Store`].
    pub fn import(&self, folder: &Path) -> Result<ImportRecord, LearningError> {
        self.import_unless(folder, &|| false)
    }

    /// Same as [`import`](Learning::import), but ends as soon as `is_canceled`,
    /// which is called before each picture, returns true.
    ///
    /// # Errors
    /// Returns [`LearningError::Store`].
    pub fn import_unless(
        &self,
        folder: &Path,
        is_canceled: &dyn Fn() -> bool,
    ) -> Result<ImportRecord, LearningError> {
        Ok(self.store.import_unless(folder, is_canceled)?.into())
    }

    /// Copies pictures from the store into a folder, with one subfolder per
    /// label.
    ///
    /// # Errors
    /// Returns [`LearningError::Store`].
    pub fn export(&self, folder: &Path) -> Result<ExportRecord, LearningError> {
        self.export_unless(folder, &|| false)
    }

    /// Same as [`export`](Learning::export), but ends as soon as `is_canceled`,
    /// which is called before each picture, returns true.
    ///
    /// # Errors
    /// Returns [`LearningError::Store`].
    pub fn export_unless(
        &self,
        folder: &Path,
        is_canceled: &dyn Fn() -> bool,
    ) -> Result<ExportRecord, LearningError> {
        Ok(self.store.export_unless(folder, is_canceled)?.into())
    }
}

/// Operations on heads.
impl Learning {
    /// The head in use. If two calls return equal pointers, no other head was put into use
    /// in between.
    ///
    /// # Errors
    /// Returns [`LearningError::OtherBackbone`] if it was made for another backbone; a
    /// daemon then uses the built-in head.
    pub fn in_use(&self) -> Result<Arc<InUse>, LearningError> {
        self.active.in_use()
    }

    /// A receiver that gets the head in use after each change, or the base head while
    /// [`in_use`](Learning::in_use) returns an error.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<InUse>> {
        self.active.subscribe()
    }

    /// Returns all heads, sorted by number.
    ///
    /// # Errors
    /// Returns [`LearningError::Heads`].
    pub fn head_records(&self) -> Result<Vec<HeadRecord>, LearningError> {
        Ok(self.active.read(head_records)?)
    }

    /// Returns the head with this number.
    ///
    /// # Errors
    /// Returns [`LearningError::Heads`].
    pub fn head(&self, number: u32) -> Result<HeadRecord, LearningError> {
        let found = self.head_records()?;
        let found = found.into_iter().find(|record| record.number == number);
        Ok(found.ok_or(HeadsError::Missing { number })?)
    }

    /// Copies a head to a file.
    ///
    /// # Errors
    /// Returns [`LearningError::Heads`].
    pub fn export_head(&self, number: u32, path: &Path) -> Result<(), LearningError> {
        Ok(self.active.read(|heads| heads.export(number, path))?)
    }

    /// Returns the bytes of a head's file.
    ///
    /// # Errors
    /// Returns [`LearningError::Heads`].
    pub fn head_file(&self, number: u32) -> Result<Vec<u8>, LearningError> {
        Ok(self.active.read(|heads| heads.file(number))?)
    }

    /// Reads a head from a file, stores it, puts it into use, and returns its
    /// number.
    ///
    /// # Errors
    /// Returns [`LearningError::Heads`] if the head is damaged or was made for another
    /// backbone or other labels, or if it cannot be stored. In that case, the previous
    /// head stays in use.
    pub fn import_head(&self, path: &Path) -> Result<u32, LearningError> {
        self.active.import(path)
    }

    /// Rolls back from the head in use to its parent, `steps` times. Returns
    /// the number of the head that is then in use, or `None` for the built-in
    /// head. Another device can no longer offer the heads that were rolled back.
    ///
    /// # Errors
    /// Returns [`LearningError::Heads`] or [`LearningError::OtherBackbone`]. In that case,
    /// the previous head stays in use.
    pub fn rollback(&self, steps: u32) -> Result<Option<u32>, LearningError> {
        self.active.rollback(steps)
    }
}

#[cfg(test)]
mod tests;
