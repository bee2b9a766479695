//! Learning on the device: samples, heads and refits together.
//!
//! Owns what a label, a refit or going back means for both stores, whoever asks:
//! the command line, the daemon's API, or its trainer thread. Knows no clock and
//! no threads; whoever embeds crops brings the backbone.

pub mod capture_policy;
pub mod fleet;
pub mod heads;
pub mod label_queue;
pub mod refit;
pub mod replay;
pub mod samples;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config;
use crate::frame::{Crop, Scaler};
use crate::learning::heads::{Heads, HeadsError, PARENT, Stored};
use crate::learning::label_queue::Candidate;
use crate::learning::refit::{Fit, Input, Options, Outcome, RefitError, Ruling};
use crate::learning::replay::{Replay, ReplayError, Rows};
use crate::learning::samples::{
    Discarded, Exported, Imported, Kind, Label, LabelError, LabelFilter, Labelled, Listing,
    Removed, Sample, Store, StoreError, TrackKey,
};
use crate::onnx::{self, HeadFile, HeadTensors, ModelError};
use crate::platform::files;
use crate::vision::embed::Feature;
use crate::vision::head::Head;

/// Features of the base training set that are compiled in;
/// `models/README.md` says how they were made.
pub static SHIPPED_REPLAY: &[u8] = include_bytes!("../../models/replay.bin");

/// Key of a head's metadata: the [`Outcome`] of the refit that made it, as JSON.
pub const OUTCOME: &str = "refit";
/// Key of a head's metadata: the samples it has learned from and their labels,
/// as a JSON object.
const LEARNED: &str = "learned";

/// Key of a head's metadata: the public key of the device that learned it, in
/// hexadecimal, if that is another one.
pub const ORIGIN: &str = "origin";

/// A head of another device comes into use only if its loss on held-out samples
/// is lower by so much, in nats: as good is no reason for a change.
const FOREIGN_GAIN: f64 = 0.01;

/// A label that the head does not know yet needs so many samples before the
/// head grows for it: a folder with a single stray file is no class.
pub const NEW_CLASS_SAMPLES: usize = 4;

/// What is known about the last refit, beside the stores.
const LAST: &str = "refit.json";
const MAX_LAST_BYTES: u64 = 64 * 1024 * 1024;

/// Why learning cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LearningError {
    /// The samples.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The heads.
    #[error(transparent)]
    Heads(#[from] HeadsError),
    /// A model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The refit.
    #[error(transparent)]
    Refit(#[from] RefitError),
    /// The replay set that is compiled in.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// No label.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// A file of the state directory.
    #[error("cannot write {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// A head of the state directory that this backbone cannot use.
    #[error(
        "head {number} in {state} was made for another backbone than the classifier in use: \
         roll back, or use its classifier"
    )]
    OtherBackbone {
        /// Its number.
        number: u32,
        /// The state directory.
        state: String,
    },
    /// A track without samples.
    #[error("there are no samples of track {0}")]
    NoTrack(u64),
    /// An id that no sample has.
    #[error("there is no sample {0}")]
    NoSample(String),
}

/// What sort of failure an error is, for whoever says it by a number: an exit
/// code, an HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// What was asked for makes no sense.
    Usage,
    /// A file is not what it should be.
    Data,
    /// What was named is not there.
    Missing,
    /// Another time it may work: somebody else is at it, or it was cancelled.
    NotNow,
    /// The disk is full.
    NoSpace,
    /// The system refuses.
    System,
    /// Nothing that whoever asked could change.
    Internal,
    /// Who should do it is not there.
    Unavailable,
}

impl LearningError {
    /// What sort of failure it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            LearningError::Store(error) => of_store(error),
            LearningError::Heads(error) => of_heads(error),
            LearningError::Model(error) => of_model(error),
            LearningError::Refit(RefitError::Cancelled) => Fault::NotNow,
            LearningError::Refit(_) | LearningError::Replay(_) => Fault::Internal,
            LearningError::Label(_) => Fault::Usage,
            LearningError::Io { source, .. } => of_io(source),
            LearningError::OtherBackbone { .. } => Fault::Data,
            LearningError::NoTrack(_) | LearningError::NoSample(_) => Fault::Missing,
        }
    }

    /// Whether another process has the state directory open to change it.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(
            self,
            LearningError::Store(StoreError::Busy { .. })
                | LearningError::Heads(HeadsError::Busy { .. })
        )
    }
}

fn of_store(error: &StoreError) -> Fault {
    match error {
        StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Fault::Missing
        }
        StoreError::Io { source, .. } => of_io(source),
        StoreError::Busy { .. } => Fault::NotNow,
        StoreError::Gone { .. } | StoreError::NoPicture { .. } => Fault::Missing,
        StoreError::Picture { .. } => Fault::Data,
        StoreError::Within { .. } => Fault::Usage,
        StoreError::Rows { .. } | StoreError::Encode(_) => Fault::Internal,
    }
}

fn of_heads(error: &HeadsError) -> Fault {
    match error {
        HeadsError::Io { source, .. } => of_io(source),
        HeadsError::Busy { .. } => Fault::NotNow,
        HeadsError::Missing { .. } => Fault::Missing,
        HeadsError::Damaged(error) => of_model(error),
        HeadsError::NoParent { .. } => Fault::Usage,
        HeadsError::OtherBackbone { .. } | HeadsError::OtherLabels { .. } => Fault::Data,
        HeadsError::Numbers { .. } => Fault::Internal,
    }
}

fn of_model(error: &ModelError) -> Fault {
    match error {
        ModelError::Read { .. } => Fault::Missing,
        ModelError::Run { .. } => Fault::Internal,
        ModelError::TooLarge { .. }
        | ModelError::NotOnnx { .. }
        | ModelError::Unexpected { .. } => Fault::Data,
    }
}

fn of_io(error: &std::io::Error) -> Fault {
    if files::is_no_space(error) {
        Fault::NoSpace
    } else {
        Fault::System
    }
}

/// The head in use, and where it is from.
#[derive(Debug, Clone)]
pub struct InUse {
    /// Ready to judge.
    pub head: Arc<Head>,
    /// Its number among the heads; `None` is the shipped one, or the config's.
    pub number: Option<u32>,
    /// What is wrong, if it is not the head that should be in use: a sentence.
    pub note: Option<String>,
}

/// The head in use by a state directory; `base` if there is none. Nothing is
/// changed, and whoever has the state open does not matter.
///
/// # Errors
/// [`LearningError::OtherBackbone`], [`LearningError::Heads`].
pub fn head_in_use(state: &Path, base: &Arc<Head>) -> Result<InUse, LearningError> {
    in_use(&Heads::read_only(state), state, base)
}

fn in_use(heads: &heads::Reader, state: &Path, base: &Arc<Head>) -> Result<InUse, LearningError> {
    let found = heads.current()?;
    let note = found.note.map(|note| note.to_string());
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

/// What makes features of crops: the backbone, at whatever priority.
pub type Embed<'a> = dyn FnMut(&[Crop]) -> Result<Vec<Feature>, ModelError> + 'a;

/// The state directory, for the one process that may change it. Threads may
/// share it; nothing is locked while a head is learned.
#[derive(Debug)]
pub struct Learning {
    state: PathBuf,
    store: Store,
    heads: Mutex<Heads>,
    /// The shipped head, or that of the config's classifier.
    base: Arc<Head>,
    options: config::Refit,
}

/// How a sample is to be labelled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LabelAction {
    /// With a label.
    As(String),
    /// With none again.
    Unlabelled,
    /// Picture and features are deleted.
    Discard,
}

/// Which samples are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SampleSelector {
    /// By id.
    Ids(Vec<String>),
    /// The unlabelled ones of the newest track of this number.
    Track(u64),
}

/// What became of the samples that were to be labelled: a documented contract.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LabelResult {
    /// Ids that are as asked now.
    pub done: Vec<String>,
    /// Ids that were before.
    pub already: Vec<String>,
    /// Ids that are not, and why.
    pub failed: BTreeMap<String, String>,
}

/// A sample: a documented contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SampleRecord {
    /// Its id.
    pub id: String,
    /// Its label; absent if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// UTC day of capture.
    pub day: String,
    /// Samples of one track are near-copies.
    pub track: String,
    /// Whether a picture was kept.
    pub picture: bool,
    /// Whether features are there.
    pub features: bool,
    /// Of picture and features.
    pub bytes: u64,
}

impl SampleRecord {
    fn new(sample: &Sample) -> SampleRecord {
        SampleRecord {
            id: sample.id.clone(),
            label: sample.label.as_ref().map(ToString::to_string),
            day: sample.day.clone(),
            track: track(&sample.track),
            picture: sample.kind == Kind::Picture,
            features: sample.has_features(),
            bytes: sample.bytes + sample.feature_bytes,
        }
    }
}

/// The samples of a listing as records.
#[must_use]
pub fn records(listing: &Listing) -> Vec<SampleRecord> {
    listing.samples.iter().map(SampleRecord::new).collect()
}

/// Counts of one label: a documented contract.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CountRecord {
    /// Samples.
    pub samples: usize,
    /// Of which only features were kept.
    pub feature_only: usize,
    /// Of samples and features.
    pub bytes: u64,
}

/// Counts by label, those without one under `unlabelled`.
#[must_use]
pub fn counts(listing: &Listing) -> BTreeMap<String, CountRecord> {
    let labels = listing.stats().labels.into_iter();
    labels
        .map(|(label, count)| {
            let record = CountRecord {
                samples: count.samples,
                feature_only: count.feature_only,
                bytes: count.bytes,
            };
            (label_or_none(label.as_ref()), record)
        })
        .collect()
}

/// What samples without a label are listed under.
pub const UNLABELLED: &str = "unlabelled";

fn label_or_none(label: Option<&Label>) -> String {
    label.map_or(UNLABELLED.to_owned(), ToString::to_string)
}

fn label_of(name: &str) -> Result<Option<Label>, LabelError> {
    match name {
        UNLABELLED => Ok(None),
        name => Label::new(name).map(Some),
    }
}

fn track(key: &TrackKey) -> String {
    match key {
        TrackKey::Day { track, .. } | TrackKey::Undated(track) => format!("t{track:06}"),
        TrackKey::Alone(id) => id.clone(),
    }
}

/// What came of an import: a documented contract.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportRecord {
    /// New samples by label.
    pub added: BTreeMap<String, usize>,
    /// Pictures that were there already.
    pub already: usize,
    /// Pictures that are there with another label, which they keep.
    pub other_label: Vec<PathBuf>,
    /// Pictures that cannot be used, and why.
    pub unreadable: Vec<(PathBuf, String)>,
    /// What is no picture in a label's folder.
    pub ignored: Vec<PathBuf>,
}

impl From<Imported> for ImportRecord {
    fn from(imported: Imported) -> ImportRecord {
        ImportRecord {
            added: by_name(imported.added),
            already: imported.already,
            other_label: imported.other_label,
            unreadable: imported.unreadable,
            ignored: imported.ignored,
        }
    }
}

/// What came of an export: a documented contract.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportRecord {
    /// Pictures by label.
    pub written: BTreeMap<String, usize>,
    /// Pictures that were there already.
    pub already: usize,
    /// Samples without a picture.
    pub feature_only: usize,
    /// Files with another content, which were left as they are.
    pub taken: Vec<PathBuf>,
}

impl From<Exported> for ExportRecord {
    fn from(exported: Exported) -> ExportRecord {
        ExportRecord {
            written: by_name(exported.written),
            already: exported.already,
            feature_only: exported.feature_only,
            taken: exported.taken,
        }
    }
}

fn by_name(counts: BTreeMap<Option<Label>, usize>) -> BTreeMap<String, usize> {
    let named = counts.into_iter();
    named
        .map(|(label, count)| (label_or_none(label.as_ref()), count))
        .collect()
}

/// Which samples to delete for good. A key that is written wrongly must not
/// delete everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Purge {
    /// Those of this label (`unlabelled` for those without one); absent is all.
    pub label: Option<String>,
    /// Those older than this many days; absent is whatever their age.
    pub older_than_days: Option<u32>,
}

/// What was deleted: a documented contract.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemovedRecord {
    /// Samples without a label.
    pub unlabelled: usize,
    /// Samples with one.
    pub labelled: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl From<Removed> for RemovedRecord {
    fn from(removed: Removed) -> RemovedRecord {
        RemovedRecord {
            unlabelled: removed.unlabelled,
            labelled: removed.labelled,
            bytes: removed.bytes,
        }
    }
}

/// So many crops without a label are looked at for the queue.
pub const MAX_QUEUED: usize = 400;

/// The crops that wait for a label: a documented contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QueueRecord {
    /// Samples without a label.
    pub waiting: usize,
    /// Of which only features were kept, so that nobody can tell what they show.
    pub without_picture: usize,
    /// The most useful first.
    pub groups: Vec<GroupRecord>,
}

/// Crops that are near-copies: a documented contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GroupRecord {
    /// How much a label of the first would teach, 0 to 1.
    pub usefulness: f64,
    /// At least one.
    pub samples: Vec<QueuedRecord>,
}

/// A crop that waits for a label: a documented contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QueuedRecord {
    /// Its id.
    pub id: String,
    /// UTC day of capture.
    pub day: String,
    /// Its track.
    pub track: String,
    /// What the head in use says, 0 to 1 by label; empty if there are no
    /// features yet.
    pub probabilities: BTreeMap<String, f64>,
}

/// A head: a documented contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HeadRecord {
    /// Its number.
    pub number: u32,
    /// Whether it is in use.
    pub current: bool,
    /// Its labels; empty if it is damaged.
    pub labels: Vec<String>,
    /// The head that it was made from; absent is the shipped one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<u32>,
    /// How it was made: `refit`, `tutorial`, `robust`.
    pub recipe: String,
    /// The refit that made it, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// What is wrong with its file, if something is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// All heads, by number.
///
/// # Errors
/// [`HeadsError::Io`].
pub fn head_records(heads: &heads::Reader) -> Result<Vec<HeadRecord>, HeadsError> {
    let list = heads.list()?.into_iter();
    Ok(list
        .map(|info| match info.stored {
            Ok(stored) => HeadRecord {
                number: info.number,
                current: info.is_current,
                parent: stored.parent(),
                recipe: stored.metadata.get("recipe").cloned().unwrap_or_default(),
                outcome: outcome(&stored),
                labels: stored.file.labels,
                damage: None,
            },
            Err(error) => HeadRecord {
                number: info.number,
                current: info.is_current,
                labels: Vec::new(),
                parent: None,
                recipe: String::new(),
                outcome: None,
                damage: Some(error.to_string()),
            },
        })
        .collect())
}

fn outcome(stored: &Stored) -> Option<Outcome> {
    serde_json::from_str(stored.metadata.get(OUTCOME)?).ok()
}

/// What came of a refit: a documented contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RefitRecord {
    /// What was found, and the gate's ruling.
    pub outcome: Outcome,
    /// The number of the new head, if it was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<u32>,
    /// Labelled samples that could not be used, and why.
    pub unusable: BTreeMap<String, String>,
    /// Labels with too few samples to make a class of.
    pub small_classes: BTreeMap<String, usize>,
}

/// A head that other devices may try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shareable {
    /// The bytes of its file.
    pub bytes: Vec<u8>,
    /// Its labels.
    pub labels: Vec<String>,
    /// Samples that it was judged by.
    pub samples: usize,
    /// Of which it told so many right.
    pub right: usize,
}

/// What is remembered of the last refit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Last {
    /// Samples and their labels then.
    labelled: BTreeMap<String, String>,
    record: Option<RefitRecord>,
}

impl Learning {
    /// Opens a state directory to change it; it is made if there is none.
    /// `base` is the head to begin with.
    ///
    /// # Errors
    /// [`is_busy`](LearningError::is_busy) if another process has it open;
    /// whatever the system refuses.
    pub fn open(
        state: &Path,
        base: Arc<Head>,
        options: config::Refit,
    ) -> Result<Learning, LearningError> {
        Ok(Learning {
            store: Store::open(state)?,
            heads: Mutex::new(Heads::open(state)?),
            state: state.to_owned(),
            base,
            options,
        })
    }

    /// The samples.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The state directory, as it was named.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The samples by id: all, or those of a label (`unlabelled` for those
    /// without one).
    ///
    /// # Errors
    /// [`LearningError::Label`], [`LearningError::Store`].
    pub fn samples(&self, label: Option<&str>) -> Result<Vec<SampleRecord>, LearningError> {
        let mut samples = records(&self.store.list()?);
        if let Some(name) = label {
            let meant = label_of(name)?.map(|label| label.to_string());
            samples.retain(|sample| sample.label == meant);
        }
        Ok(samples)
    }

    /// The bytes of a sample's picture: JPEG, or what somebody put there.
    ///
    /// # Errors
    /// [`LearningError::NoSample`], [`LearningError::Store`].
    pub fn picture(&self, id: &str) -> Result<Vec<u8>, LearningError> {
        let samples = self.store.list()?.samples;
        let sample = samples.into_iter().find(|sample| sample.id == id);
        let sample = sample.ok_or_else(|| LearningError::NoSample(id.to_owned()))?;
        if sample.kind == Kind::FeatureOnly {
            return Err(StoreError::NoPicture { id: sample.id }.into());
        }
        Ok(self.store.read(&sample)?)
    }

    /// Counts by label, those without one under `unlabelled`.
    ///
    /// # Errors
    /// [`LearningError::Store`].
    pub fn stats(&self) -> Result<BTreeMap<String, CountRecord>, LearningError> {
        Ok(counts(&self.store.list()?))
    }

    fn heads(&self) -> MutexGuard<'_, Heads> {
        // A panic cannot leave a half-done change: the disk has the truth.
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }

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
    pub fn heads_list(&self) -> Result<Vec<HeadRecord>, LearningError> {
        Ok(head_records(&self.heads())?)
    }

    /// A head by its number.
    ///
    /// # Errors
    /// [`LearningError::Heads`].
    pub fn head(&self, number: u32) -> Result<HeadRecord, LearningError> {
        let found = self.heads_list()?;
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

    /// The crops that wait for a label, near-copies together, the most useful
    /// group first; at most `most` groups. Of more than [`MAX_QUEUED`] the
    /// newest are looked at.
    ///
    /// # Errors
    /// [`LearningError::Store`], and those of [`in_use`](Learning::in_use).
    pub fn queue(&self, most: usize) -> Result<QueueRecord, LearningError> {
        let head = self.in_use()?.head;
        let samples = self.store.list()?.samples.into_iter();
        let mut waiting: Vec<Sample> = samples.filter(|sample| sample.label.is_none()).collect();
        let all = waiting.len();
        // Nobody can tell what a crop shows that is not there.
        waiting.retain(|sample| sample.kind == Kind::Picture);
        let without_picture = all - waiting.len();
        waiting.sort_by_key(|sample| std::cmp::Reverse(sample.when()));
        waiting.truncate(MAX_QUEUED);
        let looks: Vec<(Vec<f32>, Vec<f32>)> = waiting
            .iter()
            .map(|sample| {
                let rows = self.store.features(sample, head.backbone());
                let row = rows.ok().and_then(|rows| rows.into_iter().next());
                // One that was put there has none yet.
                row.map_or_else(Default::default, |row| {
                    (row.values().to_vec(), head.probabilities(&row))
                })
            })
            .collect();
        let candidates: Vec<Candidate> = looks
            .iter()
            .map(|(feature, probabilities)| Candidate {
                feature,
                probabilities,
            })
            .collect();
        let rounded = |value: f32| (f64::from(value) * 1e4).round() / 1e4;
        let groups = label_queue::groups(&candidates).into_iter().take(most);
        let groups = groups.map(|group| GroupRecord {
            usefulness: rounded(candidates[group[0]].usefulness()),
            samples: group
                .into_iter()
                .map(|at| QueuedRecord {
                    id: waiting[at].id.clone(),
                    day: waiting[at].day.clone(),
                    track: track(&waiting[at].track),
                    probabilities: head
                        .labels()
                        .iter()
                        .cloned()
                        .zip(looks[at].1.iter().map(|p| rounded(*p)))
                        .collect(),
                })
                .collect(),
        });
        Ok(QueueRecord {
            waiting: all,
            without_picture,
            groups: groups.collect(),
        })
    }

    /// Stores the head of a file and puts it into use; gives its number.
    ///
    /// # Errors
    /// [`LearningError::Heads`] if it is damaged, or of another backbone or
    /// other labels.
    pub fn import_head(&self, path: &Path) -> Result<u32, LearningError> {
        let labels = self.in_use()?.head.labels().to_vec();
        let mut heads = self.heads();
        let number = heads.import(path, self.base.backbone(), &labels)?;
        heads.switch(Some(number))?;
        heads.prune(self.options.keep_heads)?;
        Ok(number)
    }

    /// Puts the parent of the head in use into use, `steps` times; `None` is the
    /// shipped head.
    ///
    /// # Errors
    /// [`LearningError::Heads`].
    pub fn rollback(&self, steps: u32) -> Result<Option<u32>, LearningError> {
        Ok(self.heads().rollback(steps)?)
    }

    /// Labels samples, or deletes them.
    ///
    /// # Errors
    /// [`LearningError::Label`], [`LearningError::NoTrack`],
    /// [`LearningError::Store`].
    pub fn mark(
        &self,
        chosen: SampleSelector,
        mark: &LabelAction,
    ) -> Result<LabelResult, LearningError> {
        let ids = match chosen {
            SampleSelector::Ids(ids) => ids,
            SampleSelector::Track(number) => self.of_track(number)?,
        };
        let label = match mark {
            LabelAction::Discard => {
                let outcomes = self.store.discard(&ids)?;
                let mut marked = LabelResult::default();
                for (id, outcome) in ids.into_iter().zip(outcomes) {
                    match outcome {
                        Discarded::Done => marked.done.push(id),
                        Discarded::Missing => marked.fail(id, "there is no such sample"),
                        Discarded::Failed(error) => marked.fail(id, error),
                    }
                }
                return Ok(marked);
            }
            LabelAction::As(name) => Some(Label::new(name)?),
            LabelAction::Unlabelled => None,
        };
        let outcomes = self.store.label(&ids, label.as_ref())?;
        let mut marked = LabelResult::default();
        for (id, outcome) in ids.into_iter().zip(outcomes) {
            match outcome {
                Labelled::Done => marked.done.push(id),
                Labelled::Already => marked.already.push(id),
                Labelled::Missing => marked.fail(id, "there is no such sample"),
                Labelled::Taken => marked.fail(
                    id,
                    "another picture of that name has that label: rename one of them",
                ),
                Labelled::Failed(error) => marked.fail(id, error),
            }
        }
        Ok(marked)
    }

    /// Track numbers begin anew with each run: the newest day's is meant.
    fn of_track(&self, number: u64) -> Result<Vec<String>, LearningError> {
        let listing = self.store.list()?;
        let of_number = |sample: &&Sample| match &sample.track {
            TrackKey::Day { track, .. } | TrackKey::Undated(track) => *track == number,
            TrackKey::Alone(_) => false,
        };
        let unlabelled = listing.samples.iter().filter(|s| s.label.is_none());
        let of_track: Vec<&Sample> = unlabelled.filter(of_number).collect();
        let newest = of_track.iter().map(|sample| &sample.day).max();
        let newest = newest.ok_or(LearningError::NoTrack(number))?.clone();
        let meant = of_track.into_iter().filter(|sample| sample.day == newest);
        Ok(meant.map(|sample| sample.id.clone()).collect())
    }

    /// Copies pictures into the store.
    ///
    /// # Errors
    /// [`LearningError::Store`].
    pub fn import(&self, folder: &Path) -> Result<ImportRecord, LearningError> {
        Ok(self.store.import(folder)?.into())
    }

    /// Copies pictures out of the store.
    ///
    /// # Errors
    /// [`LearningError::Store`].
    pub fn export(&self, folder: &Path) -> Result<ExportRecord, LearningError> {
        Ok(self.store.export(folder)?.into())
    }

    /// Deletes samples with their features for good.
    ///
    /// # Errors
    /// [`LearningError::Label`], [`LearningError::Store`].
    pub fn purge(&self, purge: &Purge, now: SystemTime) -> Result<RemovedRecord, LearningError> {
        let which = match purge.label.as_deref().map(label_of).transpose()? {
            None => LabelFilter::All,
            Some(None) => LabelFilter::Unlabelled,
            Some(Some(label)) => LabelFilter::Labelled(label),
        };
        let days = purge
            .older_than_days
            .map(|days| Duration::from_hours(24) * days);
        let before = days.map(|days| now.checked_sub(days).unwrap_or(SystemTime::UNIX_EPOCH));
        Ok(self.store.purge(&which, before)?.into())
    }

    /// How many labelled samples are new, or have another label, since the last
    /// refit.
    ///
    /// # Errors
    /// [`LearningError::Store`].
    pub fn new_labels(&self) -> Result<usize, LearningError> {
        let last = self.last().labelled;
        let labelled = labelled(&self.store.list()?);
        let new = labelled
            .iter()
            .filter(|(id, label)| last.get(*id) != Some(label));
        Ok(new.count())
    }

    /// What came of the last refit, if there was one.
    #[must_use]
    pub fn last_refit(&self) -> Option<RefitRecord> {
        self.last().record
    }

    /// A file that is missing or damaged only means that labels count as new
    /// once more.
    fn last(&self) -> Last {
        let bytes = files::read(&self.state.join(LAST), MAX_LAST_BYTES).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Learns a challenger from the labelled samples; if it passes the gate, it
    /// is stored and put into use. Features that are missing are made by
    /// `embed`, and kept.
    ///
    /// Labels may change meanwhile: it goes by those at its start.
    ///
    /// # Errors
    /// [`LearningError::Refit`] if it was cancelled; whatever the system or a
    /// model refuses. A sample that cannot be used is none.
    pub fn refit(
        &self,
        embed: &mut Embed,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<RefitRecord, LearningError> {
        let listing = self.store.list()?;
        let in_use = self.in_use()?;
        let (labels, small_classes) = self.labels(&in_use.head, &listing);
        let (samples, unusable) = self.gather(&listing, &in_use, &labels, embed, cancelled)?;
        let with = |input: &Input, options: &Options| refit::fit(input, options, cancelled);
        let Fit { outcome, head } = self.with_input(&in_use, &labels, &samples, with)?;
        let mut record = RefitRecord {
            outcome,
            head: None,
            unusable,
            small_classes,
        };
        if let Some(head) = head {
            let made = [("seed", self.options.seed.to_string())];
            let (outcome, number) = (&record.outcome, in_use.number);
            record.head = Some(self.take(labels, head, "refit", &made, number, outcome, &samples)?);
        }
        self.remember(&Last {
            labelled: labelled(&listing),
            record: Some(record.clone()),
        })?;
        Ok(record)
    }

    /// Judges a head that another device has learned (the bytes of its file) on
    /// the labelled samples of this one; if it passes the gate, it is stored, with
    /// its `origin`, and put into use. Without samples of its own this device
    /// refuses it.
    ///
    /// # Errors
    /// [`LearningError::Heads`] if it is damaged, or of another backbone or other
    /// labels; else as [`refit`](Learning::refit).
    pub fn judge(
        &self,
        name: &str,
        bytes: &[u8],
        origin: &str,
        embed: &mut Embed,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<RefitRecord, LearningError> {
        let listing = self.store.list()?;
        let in_use = self.in_use()?;
        let labels = in_use.head.labels().to_vec();
        let theirs = heads::parse_foreign(name, bytes, self.base.backbone(), &labels)?.head;
        let (samples, unusable) = self.gather(&listing, &in_use, &labels, embed, cancelled)?;
        let outcome = self.with_input(&in_use, &labels, &samples, |input, options| {
            let options = Options {
                min_gain: FOREIGN_GAIN,
                ..options.clone()
            };
            refit::judge(input, &theirs, &options, cancelled)
        })?;
        let mut record = RefitRecord {
            outcome,
            head: None,
            unusable,
            small_classes: BTreeMap::new(),
        };
        if record.outcome.ruling == Ruling::Accepted {
            let made = [(ORIGIN, origin.to_owned())];
            let (outcome, number) = (&record.outcome, in_use.number);
            record.head = Some(self.take(labels, theirs, "fleet", &made, number, outcome, &[])?);
        }
        Ok(record)
    }

    /// The file of the head in use, for other devices, with what it was judged by;
    /// none if it was not learned here. What it holds is weights and labels: the
    /// ids of samples stay.
    ///
    /// # Errors
    /// [`LearningError::Heads`].
    pub fn shareable(&self, number: u32) -> Result<Option<Shareable>, LearningError> {
        let stored = self.heads().get(number)?;
        let is_own = stored
            .metadata
            .get("recipe")
            .is_some_and(|name| name == "refit")
            && !stored.metadata.contains_key(ORIGIN);
        let Some(measured) = outcome(&stored).and_then(|outcome| outcome.measured) else {
            return Ok(None);
        };
        if !is_own {
            return Ok(None);
        }
        let metadata = [
            ("recipe", "refit".to_owned()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        Ok(Some(Shareable {
            bytes: onnx::write_sealed_head(&stored.file, &metadata),
            labels: stored.file.labels,
            samples: measured.after.samples,
            right: measured.after.right,
        }))
    }

    /// The labelled samples with their features, and those that cannot be used.
    fn gather(
        &self,
        listing: &Listing,
        in_use: &InUse,
        labels: &[String],
        embed: &mut Embed,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(Vec<refit::Sample>, BTreeMap<String, String>), LearningError> {
        let learned = match in_use.number {
            Some(number) => self.learned(number),
            None => BTreeMap::new(),
        };

        let mut unusable = BTreeMap::new();
        let mut samples = Vec::new();
        let mut scaler = Scaler::default();
        for sample in &listing.samples {
            let Some(name) = sample.label.as_ref().map(ToString::to_string) else {
                continue;
            };
            let Some(label) = labels.iter().position(|label| *label == name) else {
                continue;
            };
            if cancelled() {
                return Err(RefitError::Cancelled.into());
            }
            match self.features(sample, embed, &mut scaler) {
                Ok(features) => samples.push(refit::Sample {
                    label,
                    track: track(&sample.track),
                    day: sample.day.clone(),
                    features,
                    seen: learned.get(&sample.id) == Some(&name),
                    id: sample.id.clone(),
                }),
                Err(LearningError::Model(error)) => return Err(error.into()),
                // It may have been deleted meanwhile, or be no picture.
                Err(error) => {
                    unusable.insert(sample.id.clone(), error.to_string());
                }
            }
        }
        Ok((samples, unusable))
    }

    /// Hands over what a refit is made of.
    fn with_input<T>(
        &self,
        in_use: &InUse,
        labels: &[String],
        samples: &[refit::Sample],
        work: impl FnOnce(&Input, &Options) -> Result<T, RefitError>,
    ) -> Result<T, LearningError> {
        let replay = self.replay(labels)?;
        let champion = in_use.head.to_file();
        let base = self.base.to_file();
        let input = Input {
            labels,
            champion: &refit::grow(&champion.head, &champion.labels, labels)?,
            base: &refit::grow(&base.head, &base.labels, labels)?,
            samples,
            replay: &replay,
        };
        let options = Options {
            seed: self.options.seed,
            ..Options::default()
        };
        Ok(work(&input, &options)?)
    }

    /// The classes of the next head: those of the head in use, and then labels
    /// that have samples enough. The labels that have not, with their counts.
    fn labels(&self, head: &Head, listing: &Listing) -> (Vec<String>, BTreeMap<String, usize>) {
        let mut labels = head.labels().to_vec();
        for label in self.base.labels() {
            if !labels.contains(label) {
                labels.push(label.clone());
            }
        }
        let mut small = BTreeMap::new();
        for (label, count) in listing.stats().labels {
            let Some(label) = label.map(|label| label.to_string()) else {
                continue;
            };
            if labels.contains(&label) {
                continue;
            }
            if count.samples < NEW_CLASS_SAMPLES {
                small.insert(label, count.samples);
            } else {
                labels.push(label);
            }
        }
        (labels, small)
    }

    /// What must not be forgotten: nothing, for a classifier with other labels
    /// than the shipped one's.
    fn replay(&self, labels: &[String]) -> Result<Replay, LearningError> {
        let mut replay = Replay::parse(SHIPPED_REPLAY)?;
        let fits = replay.backbone_sha256 == *self.base.backbone()
            && replay.labels.iter().all(|label| labels.contains(label));
        if !fits {
            replay.backbone_sha256 = *self.base.backbone();
            replay.labels = labels.to_vec();
            replay.train = Rows::default();
            replay.holdout = Rows::default();
        }
        Ok(replay)
    }

    /// The features of a sample, row by row: its own, and those of its variants.
    fn features(
        &self,
        sample: &Sample,
        embed: &mut Embed,
        scaler: &mut Scaler,
    ) -> Result<Vec<f32>, LearningError> {
        let backbone = self.base.backbone();
        let stored = self.store.features(sample, backbone);
        let mut rows = match stored {
            Ok(rows) if sample.kind == Kind::FeatureOnly || rows.len() > refit::VARIANTS => {
                return Ok(flat(&rows));
            }
            Ok(rows) => rows,
            Err(error) if sample.kind == Kind::FeatureOnly => {
                return Err(StoreError::Io {
                    action: "use the features of a sample in",
                    path: self.store.folder().display().to_string(),
                    source: std::io::Error::other(error.to_string()),
                }
                .into());
            }
            Err(_) => Vec::new(),
        };
        let crop = self.store.crop(sample, scaler)?;
        let mut crops = refit::variants(&crop, seed_of(&sample.id));
        if rows.is_empty() {
            crops.insert(0, crop);
        } else {
            rows.truncate(1);
        }
        rows.extend(embed(&crops)?);
        self.store.put_features(sample, backbone, &rows)?;
        Ok(flat(&rows))
    }

    /// Samples and labels that a head has learned from.
    fn learned(&self, number: u32) -> BTreeMap<String, String> {
        let stored = self.heads().get(number).ok();
        let json = stored.and_then(|stored| stored.metadata.get(LEARNED).cloned());
        json.and_then(|json| serde_json::from_str(&json).ok())
            .unwrap_or_default()
    }

    /// Stores a head that was accepted, and puts it into use.
    #[expect(
        clippy::too_many_arguments,
        reason = "all that is written beside a head"
    )]
    fn take(
        &self,
        labels: Vec<String>,
        head: HeadTensors,
        recipe: &str,
        made: &[(&'static str, String)],
        parent: Option<u32>,
        outcome: &Outcome,
        samples: &[refit::Sample],
    ) -> Result<u32, LearningError> {
        let file = HeadFile {
            backbone_sha256: *self.base.backbone(),
            labels,
            head,
        };
        let ids: std::collections::BTreeSet<&String> = outcome.learned.iter().collect();
        let learned: BTreeMap<&String, &String> = samples
            .iter()
            .filter(|sample| ids.contains(&sample.id))
            .map(|sample| (&sample.id, &file.labels[sample.label]))
            .collect();
        let json = |text: Result<String, serde_json::Error>| text.unwrap_or_default();
        let mut metadata = vec![
            ("recipe", recipe.to_owned()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            (OUTCOME, json(serde_json::to_string(outcome))),
            (LEARNED, json(serde_json::to_string(&learned))),
        ];
        metadata.extend_from_slice(made);
        if let Some(parent) = parent {
            metadata.push((PARENT, parent.to_string()));
        }
        let mut heads = self.heads();
        let number = heads.add(&file, &metadata)?;
        heads.switch(Some(number))?;
        heads.prune(self.options.keep_heads)?;
        Ok(number)
    }

    fn remember(&self, last: &Last) -> Result<(), LearningError> {
        let path = self.state.join(LAST);
        let json = serde_json::to_vec(last).unwrap_or_default();
        files::write(&path, &json).map_err(|source| LearningError::Io {
            path: path.display().to_string(),
            source,
        })
    }
}

impl LabelResult {
    fn fail(&mut self, id: String, why: impl std::fmt::Display) {
        self.failed.insert(id, why.to_string());
    }
}

/// Ids and labels of those that have one.
fn labelled(listing: &Listing) -> BTreeMap<String, String> {
    let labelled = listing.samples.iter().filter_map(|sample| {
        let label = sample.label.as_ref()?.to_string();
        Some((sample.id.clone(), label))
    });
    labelled.collect()
}

fn flat(rows: &[Feature]) -> Vec<f32> {
    rows.iter().flat_map(|row| *row.values()).collect()
}

/// The same sample has the same variants on every device: FNV-1a (Fowler, Noll,
/// Vo) of its id.
fn seed_of(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
