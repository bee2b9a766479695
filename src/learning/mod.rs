//! Learning on the device: samples, heads and refits together.
//!
//! Owns what a label, a refit or a rollback means for both stores, whoever asks:
//! the command line, the daemon's API, or its refit thread. Knows no config, no
//! clock and no threads; the caller brings the backbone that embeds crops.

pub mod capture_policy;
pub mod enrollment;
mod error;
pub mod fleet;
pub mod heads;
mod label_queue;
mod records;
pub mod refit;
mod refitting;
pub mod replay;
pub mod samples;
mod state_format;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

pub use error::{FailureKind, LearningError};
pub use records::{
    AdviceRecord, ClassCountRecord, CountRecord, CurvePointRecord, DecisionRecord, Enrollment,
    ExportRecord, GroupRecord, HardExampleRecord, HeadRecord, ImportRecord, InitialHeadRecord,
    LabelAction, LabelResult, MeasuredRecord, OutcomeRecord, Purge, QueueRecord, QueuedRecord,
    RefitRecord, RefusalRecord, RemovedRecord, SampleRecord, SampleSelector, ScoresRecord,
    SkipReasonRecord, SkippedRecord, ValidationRecord,
};
pub(crate) use records::{UNLABELLED, counts, records};
pub use refitting::{Embed, SHIPPED_REPLAY};
pub use state_format::StateFormatError;

use crate::learning::heads::{Heads, HeadsError};
use crate::learning::label_queue::Candidate;
use crate::learning::samples::{
    Discarded, LabelFilter, Labelled, Sample, SampleKind, Store, StoreError, TrackKey,
};
use crate::onnx::Label;
use crate::vision::head::Head;
use records::{label_of, track_name};

/// Maximum number of unlabeled crops that the queue considers; the newest ones.
const MAX_QUEUED: usize = 400;

/// Options of learning on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LearningOptions {
    /// Seed of every refit: the same seed and labels give the same head.
    pub seed: u64,
    /// Heads that are kept to roll back to, at least 2.
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

/// The head in use, and where it comes from.
#[derive(Debug, Clone)]
pub struct InUse {
    /// The head itself.
    pub head: Arc<Head>,
    /// Its number among the stored heads; `None` is the built-in one, or that of
    /// the configured classifier.
    pub number: Option<u32>,
    /// Why it is not the head that should be in use, in a sentence; `None` if it
    /// is.
    pub note: Option<String>,
}

/// The head that a state directory has in use; `base` if it has none. Changes
/// nothing, and works while another process has the directory open.
///
/// # Errors
/// [`LearningError::StateFormat`], [`LearningError::OtherBackbone`],
/// [`LearningError::Heads`].
pub fn head_in_use(state: &Path, base: &Arc<Head>) -> Result<InUse, LearningError> {
    state_format::check(state)?;
    in_use(&Heads::read_only(state), state, base)
}

fn in_use(heads: &heads::Reader, state: &Path, base: &Arc<Head>) -> Result<InUse, LearningError> {
    let found = heads.current()?;
    let note = found.fallback.map(|fallback| fallback.to_string());
    let Some(current) = found.current else {
        return Ok(InUse {
            head: Arc::clone(base),
            number: None,
            note,
        });
    };
    if current.head.backbone() != base.backbone() {
        return Err(LearningError::OtherBackbone {
            number: current.number,
            state: state.display().to_string(),
        });
    }
    Ok(InUse {
        head: Arc::new(current.head),
        number: Some(current.number),
        note,
    })
}

/// Refuses a state directory that a newer maskd has changed. Changes nothing.
pub(crate) fn check_state(state: &Path) -> Result<(), LearningError> {
    Ok(state_format::check(state)?)
}

/// All heads of a state directory, by number.
///
/// # Errors
/// [`HeadsError::File`].
pub(crate) fn head_records(heads: &heads::Reader) -> Result<Vec<HeadRecord>, HeadsError> {
    Ok(heads.list()?.into_iter().map(HeadRecord::from).collect())
}

/// The state directory, for the one process that may change it. Threads may
/// share it; nothing is locked while a head is learned.
#[derive(Debug)]
pub struct Learning {
    state: PathBuf,
    store: Store,
    heads: Mutex<Heads>,
    /// The built-in head, or that of the configured classifier.
    base: Arc<Head>,
    options: LearningOptions,
}

impl Learning {
    /// Opens a state directory for changes, and creates it if it is missing.
    /// `base` is the head to begin with.
    ///
    /// # Errors
    /// [`is_busy`](LearningError::is_busy) if another process has it open;
    /// [`LearningError::StateFormat`] if a newer maskd has changed it;
    /// [`LearningError::Store`] and [`LearningError::Heads`] if it cannot be
    /// read or created.
    pub fn open(
        state: &Path,
        base: Arc<Head>,
        options: LearningOptions,
    ) -> Result<Learning, LearningError> {
        state_format::check(state)?;
        let (store, heads) = (Store::open(state)?, Heads::open(state)?);
        // Both locks are held: no other process writes the number meanwhile.
        state_format::stamp(state)?;
        Ok(Learning {
            store,
            heads: Mutex::new(heads),
            state: state.to_owned(),
            base,
            options,
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

    fn heads(&self) -> MutexGuard<'_, Heads> {
        // A panic cannot leave a change half done: the disk has the truth.
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Samples.
impl Learning {
    /// The samples by id: all, or those with a label (`unlabelled` for those
    /// without one).
    ///
    /// # Errors
    /// [`LearningError::Label`], [`LearningError::Store`].
    pub fn samples(&self, label: Option<&str>) -> Result<Vec<SampleRecord>, LearningError> {
        let mut samples = records(&self.store.list()?);
        if let Some(name) = label {
            let label = label_of(name)?.map(|label| label.to_string());
            samples.retain(|sample| sample.label == label);
        }
        Ok(samples)
    }

    /// The bytes of a sample's picture: JPEG if it was captured, else as it was
    /// imported.
    ///
    /// # Errors
    /// [`LearningError::NoSample`], [`LearningError::Store`].
    pub fn picture(&self, id: &str) -> Result<Vec<u8>, LearningError> {
        let samples = self.store.list()?.samples;
        let sample = samples.into_iter().find(|sample| sample.id == id);
        let sample = sample.ok_or_else(|| LearningError::NoSample(id.to_owned()))?;
        if sample.kind == SampleKind::FeatureOnly {
            return Err(StoreError::NoPicture { id: sample.id }.into());
        }
        Ok(self.store.read(&sample)?)
    }

    /// Counts by label; samples without a label are under `unlabelled`.
    ///
    /// # Errors
    /// [`LearningError::Store`].
    pub fn stats(&self) -> Result<BTreeMap<String, CountRecord>, LearningError> {
        Ok(counts(&self.store.list()?))
    }

    /// The crops that wait for a label, near-duplicates together, the most useful
    /// group first; at most `max_groups` groups. Only the newest crops are
    /// considered.
    ///
    /// # Errors
    /// [`LearningError::Store`], and those of [`in_use`](Learning::in_use).
    pub fn queue(&self, max_groups: usize) -> Result<QueueRecord, LearningError> {
        let head = self.in_use()?.head;
        let samples = self.store.list()?.samples.into_iter();
        let mut waiting: Vec<Sample> = samples.filter(|sample| sample.label.is_none()).collect();
        let all = waiting.len();
        // Nobody can tell what a crop without a picture shows.
        waiting.retain(|sample| sample.kind == SampleKind::Picture);
        let without_picture = all - waiting.len();
        waiting.sort_by_key(|sample| std::cmp::Reverse(sample.when()));
        waiting.truncate(MAX_QUEUED);
        let candidates: Vec<Candidate> = waiting
            .iter()
            .map(|sample| {
                let rows = self.store.features(sample, head.backbone());
                let row = rows.ok().and_then(|rows| rows.into_iter().next());
                // A picture that somebody put into the folder has no features yet.
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

    /// Labels samples, takes their labels away, or deletes them.
    ///
    /// # Errors
    /// [`LearningError::Label`], [`LearningError::NoTrack`],
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

    /// The unlabeled samples of a track. Track numbers begin again with each
    /// start of the daemon, so the track of the newest day is meant.
    fn newest_track(&self, number: u64) -> Result<Vec<String>, LearningError> {
        let listing = self.store.list()?;
        let is_of_track = |sample: &&Sample| match &sample.track {
            TrackKey::Day { track, .. } | TrackKey::Undated(track) => *track == number,
            TrackKey::Alone(_) => false,
        };
        let unlabelled = listing.samples.iter().filter(|s| s.label.is_none());
        let of_track: Vec<&Sample> = unlabelled.filter(is_of_track).collect();
        let newest = of_track.iter().map(|sample| &sample.day).max();
        let newest = newest.ok_or(LearningError::NoTrack(number))?.clone();
        let of_day = of_track.into_iter().filter(|sample| sample.day == newest);
        Ok(of_day.map(|sample| sample.id.clone()).collect())
    }

    /// Copies pictures into the store, from a folder with a folder per label.
    ///
    /// # Errors
    /// [`LearningError::Store`].
    pub fn import(&self, folder: &Path) -> Result<ImportRecord, LearningError> {
        Ok(self.store.import(folder)?.into())
    }

    /// Copies pictures out of the store, into a folder per label.
    ///
    /// # Errors
    /// [`LearningError::Store`].
    pub fn export(&self, folder: &Path) -> Result<ExportRecord, LearningError> {
        Ok(self.store.export(folder)?.into())
    }

    /// Permanently deletes samples and their features.
    ///
    /// # Errors
    /// [`LearningError::Label`], [`LearningError::Store`].
    pub fn purge(&self, purge: &Purge, now: SystemTime) -> Result<RemovedRecord, LearningError> {
        let filter = match purge.label.as_deref().map(label_of).transpose()? {
            None => LabelFilter::All,
            Some(None) => LabelFilter::Unlabelled,
            Some(Some(label)) => LabelFilter::Labelled(label),
        };
        let age = purge
            .older_than_days
            .map(|days| Duration::from_hours(24) * days);
        let before = age.map(|age| now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH));
        Ok(self.store.purge(&filter, before)?.into())
    }
}

/// Heads.
impl Learning {
    /// The head in use.
    ///
    /// # Errors
    /// As [`head_in_use`].
    pub fn in_use(&self) -> Result<InUse, LearningError> {
        in_use(&self.heads(), &self.state, &self.base)
    }

    /// All heads, by number.
    ///
    /// # Errors
    /// [`LearningError::Heads`].
    pub fn head_records(&self) -> Result<Vec<HeadRecord>, LearningError> {
        Ok(head_records(&self.heads())?)
    }

    /// A head by its number.
    ///
    /// # Errors
    /// [`LearningError::Heads`].
    pub fn head(&self, number: u32) -> Result<HeadRecord, LearningError> {
        let found = self.head_records()?;
        let found = found.into_iter().find(|record| record.number == number);
        Ok(found.ok_or(HeadsError::Missing { number })?)
    }

    /// Copies a head to a file.
    ///
    /// # Errors
    /// [`LearningError::Heads`].
    pub fn export_head(&self, number: u32, path: &Path) -> Result<(), LearningError> {
        Ok(self.heads().export(number, path)?)
    }

    /// The bytes of a head's file.
    ///
    /// # Errors
    /// [`LearningError::Heads`].
    pub fn head_file(&self, number: u32) -> Result<Vec<u8>, LearningError> {
        Ok(self.heads().file(number)?)
    }

    /// Stores the head of a file, puts it into use, and returns its number.
    ///
    /// # Errors
    /// [`LearningError::Heads`] if it is damaged, or was made for another
    /// backbone or other labels.
    pub fn import_head(&self, path: &Path) -> Result<u32, LearningError> {
        let labels = self.in_use()?.head.labels().to_vec();
        let mut heads = self.heads();
        let number = heads.import(path, self.base.backbone(), &labels)?;
        heads.switch(Some(number))?;
        heads.prune(self.options.keep_heads)?;
        Ok(number)
    }

    /// Puts the parent of the head in use into use, `steps` times. Returns its
    /// number; `None` is the built-in head.
    ///
    /// # Errors
    /// [`LearningError::Heads`].
    pub fn rollback(&self, steps: u32) -> Result<Option<u32>, LearningError> {
        Ok(self.heads().rollback(steps)?)
    }
}
