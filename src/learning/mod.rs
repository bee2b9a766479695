//! Learning on the device, which combines samples, heads, and refits.
//!
//! This module defines what a label, a refit, or a rollback does to the store of samples and the
//! store of heads. The command line, the daemon's API, and the daemon's refit thread all use this
//! module. The module knows nothing about the config or threads. It reads the clock only to record
//! when a head came into use. The caller provides the backbone that embeds crops.

mod access;
mod active;
mod browse;
pub mod capture_policy;
pub mod enrollment;
mod error;
pub mod fleet;
pub mod heads;
mod history;
mod label_queue;
mod labeling;
mod records;
pub mod refit;
mod refitting;
mod rejected;
pub mod replay;
mod replay_file;
mod retention;
pub mod samples;
mod state_format;
mod undo_log;
mod upkeep;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

pub use access::LearningAccess;
pub use active::{InUse, head_in_use};
pub use error::{FailureKind, LearningError};
pub use records::{
    AdaptationRecord, AdviceRecord, Channel, ClassCountRecord, CountRecord, CurvePointRecord,
    DecisionRecord, Enrollment, ExportRecord, FlawRecord, GroupRecord, HardExampleRecord,
    HeadRecord, ImportRecord, InitialHeadRecord, LabelAction, LabelResult, LabelSummary,
    MeasuredRecord, OutcomeRecord, ProgressRecord, Purge, QualityFilter, QueueRecord, QueuedRecord,
    RefitRecord, RefusalRecord, RemovedRecord, SampleFilter, SampleOrder, SamplePage, SampleRecord,
    SampleSelector, ScoresRecord, SkipReasonRecord, SkippedRecord, SwitchCause, SwitchRecord,
    UndoRecord, UnusedRecord, ValidationRecord,
};
pub(crate) use records::{UNLABELLED, counts, progress_sentence};
use refitting::LastRefit;
pub(crate) use refitting::progress_in;
pub use refitting::{Embed, RefitTrigger};
pub use replay_file::SHIPPED_REPLAY;
pub(crate) use replay_file::open_replay;
pub use retention::Announcement;
pub use state_format::StateFormatError;
pub(crate) use state_format::refuse_within_state;
pub use upkeep::{Limits, Upkeep};

use crate::frame::quality::Quality;
use crate::frame::{Crop, Scaler};
use crate::learning::active::ActiveHead;
use crate::learning::heads::{Heads, HeadsError};
use crate::learning::label_queue::Candidate;
use crate::learning::refit::RefitOptions;
use crate::learning::samples::{Added, Sample, SampleKind, Store};
use crate::onnx;
use crate::platform::clock::ClockReading;
use crate::platform::files;
use crate::vision::embed::Feature;
use crate::vision::head::Head;
use browse::{KnownQuality, rounded};
use records::{BUILT_IN, face_side, flaws, label_of, track_name};
use retention::Ages;
use undo_log::UndoLog;

/// Maximum number of unlabeled crops that the queue considers. Only the newest crops are
/// considered.
const MAX_QUEUED: usize = 400;

/// Options of learning on the device.
#[derive(Debug, Clone, PartialEq)]
pub struct LearningOptions {
    /// How every refit trains, and what its gate requires. The same options and labels give the
    /// same head.
    pub refit: RefitOptions,
    /// Number of heads to keep for rollbacks, at least 2.
    pub keep_heads: usize,
    /// The labels that count as masked. All others count as not masked.
    pub masked_labels: Vec<String>,
    /// Path of the replay set. Without a path, the built-in replay set is used if it fits the
    /// base head.
    pub replay_file: Option<PathBuf>,
}

impl Default for LearningOptions {
    fn default() -> LearningOptions {
        LearningOptions {
            refit: RefitOptions::default(),
            keep_heads: 10,
            masked_labels: vec!["with_mask".to_owned()],
            replay_file: None,
        }
    }
}

/// Returns an error if a newer maskd has changed the state directory. This
/// function changes nothing.
pub(crate) fn check_state(state: &Path) -> Result<(), LearningError> {
    Ok(state_format::check(state)?)
}

/// Returns all stored heads in a state directory, sorted by number.
///
/// # Errors
/// Returns [`HeadsError::File`] if the folder of the heads cannot be read.
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
    /// The stored heads, and the head in use.
    active: ActiveHead,
    /// The built-in head, or the head of the configured classifier.
    base: Arc<Head>,
    options: LearningOptions,
    /// The qualities of pictures that were measured, by id.
    qualities: Mutex<HashMap<String, KnownQuality>>,
    /// The last labeling actions. While an action is in progress, the lock is held, and it is
    /// taken before all other locks.
    undo_log: Mutex<UndoLog>,
    /// The last refit, which is kept here while it cannot be written to its file.
    unsaved_refit: Mutex<Option<LastRefit>>,
}

impl Learning {
    /// Opens a state directory for changes, and creates it if it is missing. `base` is the head
    /// that is used if the directory names no head.
    ///
    /// # Errors
    /// Returns an error for which [`is_busy`](LearningError::is_busy) is true if another process
    /// has the directory open. Returns [`LearningError::StateFormat`] if a newer maskd has changed
    /// the directory. Returns [`LearningError::Store`] or [`LearningError::Heads`] if the directory
    /// cannot be read or created.
    pub fn open(
        state: &Path,
        base: Arc<Head>,
        options: LearningOptions,
    ) -> Result<Learning, LearningError> {
        let published = watch::Sender::new(Arc::new(InUse::base(&base, None)));
        Learning::open_and_publish(state, base, options, Arc::new(published))
    }

    /// Like [`open`](Learning::open), but also sends the head in use to `published`, now and after
    /// each change.
    pub(crate) fn open_and_publish(
        state: &Path,
        base: Arc<Head>,
        options: LearningOptions,
        published: Arc<watch::Sender<Arc<InUse>>>,
    ) -> Result<Learning, LearningError> {
        state_format::check(state)?;
        // A replay set that does not fit the classifier would otherwise only be noticed
        // when the device trains.
        if let Some(file) = &options.replay_file {
            open_replay(Some(file), &base)?;
        }
        let (store, heads) = (Store::open(state)?, Heads::open(state)?);
        // Both locks are held here, so no other process can write the format
        // number at the same time.
        state_format::stamp(state)?;
        // Delete partial files that a killed process left directly in this directory.
        if let Err(error) = files::remove_leftovers(state) {
            tracing::warn!(%error, "temporary files are not deleted");
        }
        let (ages, problems) = Ages::open(state);
        for error in problems {
            tracing::warn!(%error, "the ages of face pictures start over");
        }
        let keep = options.keep_heads;
        Ok(Learning {
            store,
            ages: Mutex::new(ages),
            active: ActiveHead::open(heads, state, Arc::clone(&base), keep, published)?,
            state: state.to_owned(),
            base,
            options,
            qualities: Mutex::default(),
            undo_log: Mutex::new(UndoLog::open(state)),
            unsaved_refit: Mutex::new(None),
        })
    }

    /// Returns the store of samples.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the path of the state directory, as passed by the caller.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }
}

/// Operations on samples.
impl Learning {
    /// Returns the counts of the samples by label. Samples without a label are counted
    /// under `unlabelled`.
    ///
    /// # Errors
    /// Returns [`LearningError::Store`] if the samples cannot be listed.
    pub fn stats(&self) -> Result<BTreeMap<String, CountRecord>, LearningError> {
        Ok(counts(&self.store.list()?))
    }

    /// Returns the files and folders that are inside the folders of the samples but are
    /// not used as samples. The paths are relative to these folders.
    ///
    /// # Errors
    /// Returns [`LearningError::Store`] if the folders cannot be read.
    pub fn unused(&self) -> Result<Vec<UnusedRecord>, LearningError> {
        let unused = self.store.unused()?;
        Ok(unused.into_iter().map(Into::into).collect())
    }

    /// Returns the crops that are waiting for a label, in groups of near-duplicates, with the most
    /// useful group first. Returns at most `max_groups` groups. Only the newest crops are
    /// considered.
    ///
    /// # Errors
    /// Returns [`LearningError::Store`] if the samples cannot be listed, or an error of
    /// [`in_use`](Learning::in_use).
    pub fn queue(&self, max_groups: usize) -> Result<QueueRecord, LearningError> {
        let in_use = self.in_use()?;
        let head = &in_use.head;
        let samples = self.store.list()?.samples.into_iter();
        let mut waiting: Vec<Sample> = samples.filter(|sample| sample.label.is_none()).collect();
        let all = waiting.len();
        // Crops without a picture are left out, because a person could not see what they
        // show.
        waiting.retain(|sample| sample.kind == SampleKind::Picture);
        let without_picture = all - waiting.len();
        let ages = self.ages();
        waiting.sort_by_cached_key(|sample| std::cmp::Reverse(ages.order(sample)));
        drop(ages);
        waiting.truncate(MAX_QUEUED);
        let mut scaler = Scaler::default();
        let qualities: Vec<Option<Quality>> = waiting
            .iter()
            .map(|sample| self.quality_of(sample, &mut scaler))
            .collect();
        let candidates: Vec<Candidate> = waiting
            .iter()
            .zip(&qualities)
            .map(|(sample, quality)| {
                let rows = self.store.features(sample, head.backbone());
                let row = rows.ok().and_then(|rows| rows.into_iter().next());
                // Pictures that a user copied into the folder have no features
                // yet.
                Candidate {
                    probabilities: row
                        .as_ref()
                        .map_or(Vec::new(), |row| head.probabilities(row)),
                    feature: row.map_or(Vec::new(), |row| row.values().to_vec()),
                    is_bad: quality.is_some_and(|quality| !quality.flaws().is_empty()),
                }
            })
            .collect();
        let queued = |number: usize| {
            let labels = head.labels().iter().cloned();
            let probabilities = candidates[number].probabilities.iter();
            QueuedRecord {
                id: waiting[number].id.clone(),
                day: waiting[number].day.clone(),
                time: waiting[number].time(),
                track: track_name(&waiting[number].track),
                probabilities: labels
                    .zip(probabilities.map(|probability| rounded(*probability)))
                    .collect(),
                face_side: qualities[number].as_ref().and_then(face_side),
                flaws: flaws(qualities[number].as_ref()),
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

    /// Stores a crop that a person adds, without a label. The feature must come from the
    /// backbone of the built-in head.
    ///
    /// # Errors
    /// Returns [`LearningError::Store`] if the store cannot be written to.
    pub fn add(
        &self,
        crop: &Crop,
        quality: &Quality,
        feature: &Feature,
        reading: ClockReading,
    ) -> Result<Added, LearningError> {
        let backbone = *self.base.backbone();
        let added = self.store.add(crop, quality, feature, backbone)?;
        if added.is_new {
            self.captured(std::slice::from_ref(&added.id), reading);
        }
        Ok(added)
    }

    /// Copies pictures into the store from a folder that has one subfolder per
    /// label.
    ///
    /// # Errors
    /// Returns [`LearningError::Store`] if the folder cannot be read or is inside the store, or if
    /// the store cannot be written to.
    pub fn import(&self, folder: &Path) -> Result<ImportRecord, LearningError> {
        self.import_unless(folder, &|| false)
    }

    /// Like [`import`](Learning::import), but calls `is_canceled` before each picture, and stops
    /// once `is_canceled` returns true.
    ///
    /// # Errors
    /// Returns the errors of [`import`](Learning::import), and [`LearningError::Store`] if the
    /// import was canceled.
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
    /// Returns [`LearningError::Store`] if the folder cannot be written to or is inside the state
    /// directory, or if the store cannot be read.
    pub fn export(&self, folder: &Path) -> Result<ExportRecord, LearningError> {
        self.export_unless(folder, &|| false)
    }

    /// Like [`export`](Learning::export), but calls `is_canceled` before each picture, and stops
    /// once `is_canceled` returns true.
    ///
    /// # Errors
    /// Returns the errors of [`export`](Learning::export), and [`LearningError::Store`] if the
    /// export was canceled.
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
    /// Returns the head in use. If two calls return equal pointers, no other head was put
    /// into use in between.
    ///
    /// # Errors
    /// Returns [`LearningError::OtherBackbone`] if the head in use was made for another
    /// backbone. A daemon then uses the built-in head.
    pub fn in_use(&self) -> Result<Arc<InUse>, LearningError> {
        self.active.in_use()
    }

    /// Returns a receiver that gets the head in use after each change, or the base head
    /// while [`in_use`](Learning::in_use) returns an error.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<InUse>> {
        self.active.subscribe()
    }

    /// Returns the records of all heads, sorted by number. The first one is the record of
    /// the built-in head, which has the number 0.
    ///
    /// # Errors
    /// Returns [`LearningError::Heads`] if the heads cannot be listed.
    pub fn head_records(&self) -> Result<Vec<HeadRecord>, LearningError> {
        self.active.records()
    }

    /// Returns the head with this number.
    ///
    /// # Errors
    /// Returns [`LearningError::Heads`] if there is no such head or the heads cannot be listed.
    pub fn head(&self, number: u32) -> Result<HeadRecord, LearningError> {
        let found = self.head_records()?;
        let found = found.into_iter().find(|record| record.number == number);
        Ok(found.ok_or(HeadsError::Missing { number })?)
    }

    /// Copies a head to a file.
    ///
    /// # Errors
    /// Returns [`LearningError::Heads`] if the head cannot be read or the file cannot be written.
    pub fn export_head(&self, number: u32, path: &Path) -> Result<(), LearningError> {
        let bytes = self.head_file(number)?;
        let written = files::write_unless(path, &bytes, &refuse_within_state);
        Ok(written.map_err(HeadsError::from)?)
    }

    /// Returns the bytes of a head's file. The number 0 stands for the built-in head.
    ///
    /// # Errors
    /// Returns [`LearningError::Heads`] if the head cannot be read.
    pub fn head_file(&self, number: u32) -> Result<Vec<u8>, LearningError> {
        if number == BUILT_IN {
            let metadata = [("version", env!("CARGO_PKG_VERSION").to_owned())];
            return Ok(onnx::write_sealed_head(&self.base.to_file(), &metadata));
        }
        Ok(self.active.read(|heads| heads.file(number))?)
    }

    /// Returns the recorded switches to other heads, oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<SwitchRecord> {
        self.active.history()
    }

    /// Reads a head from a file, stores it, puts it into use, and returns its
    /// number.
    ///
    /// # Errors
    /// Returns [`LearningError::Heads`] if the head is damaged or was made for another
    /// backbone or other labels, or if it cannot be stored. In that case, the previous
    /// head stays in use.
    pub fn import_head(&self, path: &Path, channel: Channel) -> Result<u32, LearningError> {
        self.active.import(path, channel)
    }

    /// Rolls back from the head in use to its parent, `steps` times. Returns
    /// the number of the head that is then in use, or `None` for the built-in head. The
    /// heads that were rolled back are no longer accepted from other devices.
    ///
    /// # Errors
    /// Returns [`LearningError::Heads`], or [`LearningError::OtherBackbone`] if the head to return
    /// to was made for another backbone. In both cases, the previous head stays in use.
    pub fn rollback(&self, steps: u32, channel: Channel) -> Result<Option<u32>, LearningError> {
        self.active.rollback(steps, channel)
    }

    /// Puts the head with this number into use; 0 stands for the built-in head. Returns the
    /// number of the head that is then in use, or `None` for the built-in head. The heads
    /// that this leaves are no longer accepted from other devices.
    ///
    /// # Errors
    /// Returns [`LearningError::Heads`] if the head is missing or damaged,
    /// [`LearningError::OtherBackbone`] if it was made for another backbone, and
    /// [`LearningError::MissingLabels`] if it lacks a label of the built-in head. In each
    /// case, the previous head stays in use.
    pub fn use_head(&self, number: u32, channel: Channel) -> Result<Option<u32>, LearningError> {
        let number = (number != BUILT_IN).then_some(number);
        self.active.switch_to(number, channel)?;
        Ok(number)
    }
}

#[cfg(test)]
mod tests;
