//! Connects the stores of samples and heads with the refit.
//!
//! This module passes the labeled samples to a refit, stores an accepted head
//! in the store of heads, and saves the record of the last refit.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use crate::frame::{Crop, Scaler};
use crate::learning::active::Reason;
use crate::learning::error::LearningError;
use crate::learning::heads::{self, PARENT};
use crate::learning::records::{
    Channel, DecisionRecord, LabelSummary, OUTCOME, OutcomeRecord, ProgressRecord, RefitRecord,
    SwitchCause, counts, outcome_of, progress, track_name,
};
use crate::learning::refit::{self, Fit, RefitError, RefitInput, RefitOptions};
use crate::learning::replay_file::open_replay;
use crate::learning::samples::{Listing, Sample, SampleKind, StoreError};
use crate::learning::{InUse, Learning};
use crate::onnx::{self, HeadFile, HeadTensors, ModelError};
use crate::platform::files::{self, FileError};
use crate::platform::text_code::TextCode;
use crate::vision::embed::Feature;
use crate::vision::head::Head;

/// Metadata key of a head. The value is a JSON object that maps the ids of the samples
/// that the head was trained on to their labels.
const LEARNED: &str = "learned";

/// Metadata key of a head from another device. The value is the public key of
/// the device that trained the head, in hexadecimal.
const ORIGIN: &str = "origin";

/// Minimum amount, in nats, by which a head from another device must lower the loss,
/// compared with the head in use. A head that is only as good as the head in use is not
/// worth a change.
const FOREIGN_GAIN: f64 = 0.01;

/// Minimum number of samples with a new label for which the head gets a new class. A
/// folder with a single stray file must not become a class.
const NEW_CLASS_SAMPLES: usize = 4;

/// Name of the file in the state directory that describes the last refit.
const LAST_REFIT: &str = "refit.json";
const MAX_LAST_REFIT_BYTES: u64 = 64 * 1024 * 1024;

/// A function that computes the features of crops with the backbone. The caller chooses
/// the priority of the thread on which the function runs.
pub type Embed<'a> = dyn FnMut(&[Crop]) -> Result<Vec<Feature>, ModelError> + 'a;

/// What started a refit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RefitTrigger {
    /// How a person requested the refit. `None` stands for an automatic refit.
    pub channel: Option<Channel>,
    /// Whether the owner vouches for the labels. The gate's checks of the labels then only
    /// warn.
    pub labels_checked: bool,
}

impl RefitTrigger {
    /// Creates the trigger of a refit that a person requested.
    #[must_use]
    pub fn requested(channel: Channel, labels_checked: bool) -> RefitTrigger {
        RefitTrigger {
            channel: Some(channel),
            labels_checked,
        }
    }
}

/// A head that is offered to other devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SharedHead {
    /// The bytes of the head file.
    pub(crate) bytes: Vec<u8>,
    /// Names of the head's classes.
    pub(crate) labels: Vec<String>,
    /// Number of held-out samples that the head was evaluated on.
    pub(crate) samples: usize,
    /// Number of these samples that the head classifies correctly.
    pub(crate) right: usize,
}

/// The information that is saved about the last refit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct LastRefit {
    /// The label of each labeled sample when the refit started.
    labelled: BTreeMap<String, String>,
    /// The group of each sample of the refit. Tracks with near-duplicates are one group.
    #[serde(default)]
    groups: BTreeMap<String, usize>,
    record: Option<RefitRecord>,
}

impl LastRefit {
    fn read(state: &Path) -> LastRefit {
        let bytes = files::read_own(&state.join(LAST_REFIT), MAX_LAST_REFIT_BYTES);
        serde_json::from_slice(&bytes.unwrap_or_default()).unwrap_or_default()
    }

    /// Returns the number of labeled samples that were added or relabeled since this refit.
    fn count_new(&self, listing: &Listing) -> usize {
        let labelled = labelled(listing);
        let new = labelled
            .iter()
            .filter(|(id, label)| self.labelled.get(*id) != Some(label));
        new.count()
    }
}

/// Counts the people and days of each of these labels in a state directory. Near-duplicates that
/// its last refit found count once.
pub(crate) fn progress_in(
    state: &Path,
    listing: &Listing,
    labels: &[String],
) -> Vec<ProgressRecord> {
    progress(listing, labels, &LastRefit::read(state).groups)
}

/// The labeled samples that a refit can use.
struct Gathered {
    samples: Vec<refit::Sample>,
    /// Ids of the labeled samples that cannot be used, with the reasons.
    unusable: BTreeMap<String, String>,
}

/// A head that the gate accepted, and the metadata that is written with the head.
struct AcceptedHead<'a> {
    labels: &'a [String],
    head: HeadTensors,
    /// How the head was made: `refit` or `fleet`.
    recipe: &'static str,
    /// A metadata key and its value. Only heads with this recipe have this key.
    detail: (&'static str, String),
    /// The head in use that this head was compared with. This head may replace only
    /// that one.
    compared: &'a Arc<InUse>,
    outcome: &'a OutcomeRecord,
    /// Why the head comes into use.
    reason: Reason,
    /// The labeled samples of the refit. `outcome` contains the ids of the samples that
    /// the head was trained on.
    samples: &'a [refit::Sample],
}

impl Learning {
    /// Returns the number of labeled samples that were added or relabeled since
    /// the last refit.
    ///
    /// # Errors
    /// Returns [`LearningError::Store`].
    pub fn new_labels(&self) -> Result<usize, LearningError> {
        Ok(self.read_last_refit().count_new(&self.store.list()?))
    }

    /// Returns the samples and labels, from a single pass over the store.
    ///
    /// # Errors
    /// Returns [`LearningError::Store`].
    pub fn summary(&self) -> Result<LabelSummary, LearningError> {
        let listing = self.store.list()?;
        // If the head in use does not fit the classifier, the built-in head is used.
        let in_use = self.in_use();
        let head = in_use.as_ref().map_or(&self.base, |in_use| &in_use.head);
        let (labels, _) = self.classes(head, &listing);
        let last = self.read_last_refit();
        Ok(LabelSummary {
            samples: counts(&listing),
            new_labels: last.count_new(&listing),
            progress: progress(&listing, &labels, &last.groups),
        })
    }

    /// Returns the record of the last refit, if there was one.
    #[must_use]
    pub fn last_refit(&self) -> Option<RefitRecord> {
        self.read_last_refit().record
    }

    /// Returns the data of the last refit. If the file is missing or damaged, returns
    /// an empty value, so that all labels count as new.
    fn read_last_refit(&self) -> LastRefit {
        if let Some(last) = &*self.unsaved_refit() {
            return last.clone();
        }
        LastRefit::read(&self.state)
    }

    /// Writes the data of the last refit and the history of heads to their files if an
    /// earlier attempt failed. The caller must call this function periodically.
    pub(crate) fn save_unsaved(&self) {
        self.active.save_history();
        let mut unsaved = self.unsaved_refit();
        if let Some(last) = &*unsaved
            && self.write_last_refit(last).is_ok()
        {
            *unsaved = None;
        }
    }

    /// Records a refit. The result of the refit is already in effect, so a failure to
    /// write the record is not an error. Until the file can be written, the record is
    /// kept in memory. In that case, the returned record contains a warning.
    fn record(
        &self,
        labelled: BTreeMap<String, String>,
        groups: BTreeMap<String, usize>,
        record: RefitRecord,
    ) -> RefitRecord {
        let mut unsaved = self.unsaved_refit();
        let last = LastRefit {
            labelled,
            groups,
            record: Some(record.clone()),
        };
        match self.write_last_refit(&last) {
            Ok(()) => {
                *unsaved = None;
                record
            }
            Err(error) => {
                warn!(%error, "the result of the training stands, but it is not saved yet");
                *unsaved = Some(last);
                let warning = format!("the result is not saved: {error}");
                let code = TextCode::new("not-saved").with("error", error.to_string());
                with_warning(record, &warning, code)
            }
        }
    }

    fn write_last_refit(&self, last: &LastRefit) -> Result<(), FileError> {
        let path = self.state.join(LAST_REFIT);
        let json = serde_json::to_vec(last).unwrap_or_default();
        files::write(&path, &json)
    }

    fn unsaved_refit(&self) -> MutexGuard<'_, Option<LastRefit>> {
        // A poisoned lock is safe to use because the value is always replaced as a whole.
        self.unsaved_refit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Trains a challenger on the labeled samples. If the challenger passes the gate,
    /// stores it and puts it into use. `embed` computes missing features, which are
    /// then stored. The refit uses the labels from the time when it started, even if
    /// labels change in the meantime.
    ///
    /// # Errors
    /// Returns [`LearningError::Refit`] if the refit was canceled;
    /// [`LearningError::HeadChanged`] if another head was put into use in the meantime;
    /// [`LearningError::Store`] or [`LearningError::Heads`] if reading or writing fails;
    /// [`LearningError::Model`] if the backbone fails. After any of these errors, the
    /// refit has not changed the head in use. It is not an error if a sample cannot be
    /// used or if the record of the refit cannot be written.
    pub fn refit(
        &self,
        trigger: RefitTrigger,
        embed: &mut Embed,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<RefitRecord, LearningError> {
        let listing = self.store.list()?;
        let in_use = self.in_use()?;
        let (labels, small_classes) = self.classes(&in_use.head, &listing);
        let gathered = self.gather(&listing, &in_use, &labels, embed, cancelled)?;
        let fit = |input: &RefitInput, options: &RefitOptions| {
            let mut options = options.clone();
            options.gate.labels_checked = trigger.labels_checked;
            refit::fit(input, &options, cancelled)
        };
        let Fit {
            groups,
            outcome,
            head,
        } = self.with_input(&in_use, &labels, &gathered.samples, fit)?;
        let mut record = RefitRecord {
            outcome: outcome.into(),
            head: None,
            unusable: gathered.unusable,
            small_classes,
            progress: progress(&listing, &labels, &groups),
        };
        if let Some(head) = head {
            for (warning, code) in self.sides_of_new(&labels, in_use.head.labels()) {
                record = with_warning(record, &warning, code);
            }
            record.head = Some(self.put_into_use(AcceptedHead {
                labels: &labels,
                head,
                recipe: "refit",
                detail: ("seed", self.options.refit.seed.to_string()),
                compared: &in_use,
                outcome: &record.outcome,
                reason: (SwitchCause::Refit, trigger.channel),
                samples: &gathered.samples,
            })?);
        }
        Ok(self.record(labelled(&listing), groups, record))
    }

    /// Computes and stores the features of pictures that have none, such as imported ones, so
    /// that they are predicted, and are sorted in the queue. Pictures whose ids are in `checked`
    /// are skipped, and all others are added to it. A picture that cannot be embedded is left as
    /// it is. Returns whether all pictures were checked; otherwise, `cancelled` returned true.
    ///
    /// # Errors
    /// Returns [`LearningError::Store`] if the samples cannot be listed, and
    /// [`LearningError::Model`] if the backbone fails.
    pub(crate) fn embed_new(
        &self,
        checked: &mut HashSet<String>,
        embed: &mut Embed,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<bool, LearningError> {
        let mut scaler = Scaler::default();
        for sample in self.store.list()?.samples {
            if sample.kind == SampleKind::FeatureOnly || checked.contains(&sample.id) {
                continue;
            }
            if cancelled() {
                return Ok(false);
            }
            match self.embed_if_new(&sample, embed, &mut scaler) {
                Ok(()) => {}
                Err(LearningError::Model(error)) => return Err(error.into()),
                Err(error) => debug!(id = sample.id, %error, "a face picture is not embedded"),
            }
            checked.insert(sample.id);
        }
        Ok(true)
    }

    /// Computes and stores the features of a picture, without its variants, unless it has
    /// features of this backbone. Damaged features are computed again by the next refit.
    fn embed_if_new(
        &self,
        sample: &Sample,
        embed: &mut Embed,
        scaler: &mut Scaler,
    ) -> Result<(), LearningError> {
        let backbone = self.base.backbone();
        if self.store.has_features_of(sample, backbone) {
            return Ok(());
        }
        let rows = embed(&[self.store.crop(sample, scaler)?])?;
        Ok(self.store.put_features(sample, backbone, &rows)?)
    }

    /// Returns the sentences, with their codes, that say which of the labels that the head in use
    /// lacks count as masked and which do not.
    fn sides_of_new(&self, labels: &[String], known: &[String]) -> Vec<(String, TextCode)> {
        let masked = &self.options.masked_labels;
        let sides = [
            (true, "masked", "new-label-masked"),
            (false, "not masked", "new-label-unmasked"),
        ];
        let warnings = sides.into_iter().filter_map(|(is_masked, side, code)| {
            let new = labels.iter().filter(|label| !known.contains(label));
            let of_side = new.filter(|label| masked.contains(label) == is_masked);
            let labels: Vec<&str> = of_side.map(String::as_str).collect();
            let labels = labels.join(", ");
            let warning = format!(
                "faces with the new label {labels} count as {side} (classify.masked-labels)"
            );
            (!labels.is_empty()).then(|| (warning, TextCode::new(code).with("labels", labels)))
        });
        warnings.collect()
    }

    /// Compares a head from another device with the head in use, based on the labeled
    /// samples of this device. `bytes` are the contents of the head's file. If the
    /// other head passes the gate, stores it together with its `origin` and puts it
    /// into use. A device without labeled samples refuses the head.
    ///
    /// # Errors
    /// Returns [`LearningError::Heads`] if the head is damaged or was made for another
    /// backbone or other labels, and [`LearningError::KnownHead`] if the head was
    /// rolled back or replaced on this device. Also returns the errors of
    /// [`refit`](Learning::refit).
    pub(crate) fn try_foreign_head(
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
        let foreign = heads::parse_foreign(name, bytes, &self.base, &labels)?;
        if self.active.is_known(&foreign)? {
            return Err(LearningError::KnownHead);
        }
        let foreign = foreign.head;
        let gathered = self.gather(&listing, &in_use, &labels, embed, cancelled)?;
        let outcome = self.with_input(&in_use, &labels, &gathered.samples, |input, options| {
            let mut options = options.clone();
            options.gate.min_gain = FOREIGN_GAIN;
            refit::evaluate_foreign(input, &foreign, &options, cancelled)
        })?;
        let mut record = RefitRecord {
            outcome: outcome.into(),
            head: None,
            unusable: gathered.unusable,
            small_classes: BTreeMap::new(),
            progress: progress(&listing, &labels, &self.read_last_refit().groups),
        };
        if record.outcome.ruling == DecisionRecord::Accepted {
            record.head = Some(self.put_into_use(AcceptedHead {
                labels: &labels,
                head: foreign,
                recipe: "fleet",
                detail: (ORIGIN, origin.to_owned()),
                compared: &in_use,
                outcome: &record.outcome,
                reason: (SwitchCause::Fleet, None),
                samples: &[],
            })?);
        }
        Ok(record)
    }

    /// Returns a head to offer to other devices, together with its scores, or `None` if
    /// the head was not trained on this device. The head holds only weights and labels;
    /// the ids of the samples stay on this device.
    ///
    /// # Errors
    /// Returns [`LearningError::Heads`].
    pub(crate) fn shared_head(&self, number: u32) -> Result<Option<SharedHead>, LearningError> {
        let stored = self.active.read(|heads| heads.get(number))?;
        let is_own = stored
            .metadata
            .get("recipe")
            .is_some_and(|name| name == "refit")
            && !stored.metadata.contains_key(ORIGIN);
        let Some(measured) = outcome_of(&stored).and_then(|outcome| outcome.measured) else {
            return Ok(None);
        };
        if !is_own {
            return Ok(None);
        }
        let metadata = [
            ("recipe", "refit".to_owned()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        Ok(Some(SharedHead {
            bytes: onnx::write_sealed_head(&stored.file, &metadata),
            labels: stored.file.labels,
            samples: measured.after.samples,
            right: measured.after.right,
        }))
    }

    /// Returns the labeled samples with their features, and the labeled samples
    /// that cannot be used.
    fn gather(
        &self,
        listing: &Listing,
        in_use: &InUse,
        labels: &[String],
        embed: &mut Embed,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Gathered, LearningError> {
        let learned = match in_use.number {
            Some(number) => self.learned(number),
            None => BTreeMap::new(),
        };
        let mut gathered = Gathered {
            samples: Vec::new(),
            unusable: BTreeMap::new(),
        };
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
                Ok(features) => gathered.samples.push(refit::Sample {
                    label,
                    track: track_name(&sample.track),
                    day: sample.day.clone(),
                    features,
                    seen: learned.get(&sample.id) == Some(&name),
                    id: sample.id.clone(),
                }),
                Err(LearningError::Model(error)) => return Err(error.into()),
                // The sample may have been deleted in the meantime, or its file may
                // not be a picture.
                Err(error) => {
                    gathered
                        .unusable
                        .insert(sample.id.clone(), error.to_string());
                }
            }
        }
        Ok(gathered)
    }

    /// Assembles the input for a refit, and calls `work` with this input.
    fn with_input<T>(
        &self,
        in_use: &InUse,
        labels: &[String],
        samples: &[refit::Sample],
        work: impl FnOnce(&RefitInput, &RefitOptions) -> Result<T, RefitError>,
    ) -> Result<T, LearningError> {
        let file = self.options.replay_file.as_deref();
        let replay = open_replay(file, &self.base)?;
        let champion = in_use.head.to_file();
        let base = self.base.to_file();
        let input = RefitInput {
            labels,
            masked_labels: &self.options.masked_labels,
            champion_labels: &champion.labels,
            champion: &refit::grow(champion.head, &champion.labels, labels)?,
            base: &refit::grow(base.head, &base.labels, labels)?,
            base_labels: &base.labels,
            samples,
            replay: replay.as_ref(),
        };
        Ok(work(&input, &self.options.refit)?)
    }

    /// Returns the classes of the next head: the classes of the head in use and of the
    /// base head, followed by the new labels that have enough samples. Also returns the
    /// new labels that have too few samples, and the number of samples of each.
    fn classes(&self, head: &Head, listing: &Listing) -> (Vec<String>, BTreeMap<String, usize>) {
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

    /// Returns the features of a sample in row-major order: first the row of
    /// the crop itself, then the rows of its variants.
    fn features(
        &self,
        sample: &Sample,
        embed: &mut Embed,
        scaler: &mut Scaler,
    ) -> Result<Vec<f32>, LearningError> {
        let backbone = self.base.backbone();
        let stored = self.store.features(sample, backbone);
        let mut rows = match stored {
            Ok(rows) if sample.kind == SampleKind::FeatureOnly || rows.len() > refit::VARIANTS => {
                return Ok(flat(&rows));
            }
            Ok(rows) => rows,
            Err(error) if sample.kind == SampleKind::FeatureOnly => {
                let id = sample.id.clone();
                return Err(StoreError::Features { id, error }.into());
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

    /// Returns the samples that a head was trained on, with their labels.
    fn learned(&self, number: u32) -> BTreeMap<String, String> {
        let stored = self.active.read(|heads| heads.get(number)).ok();
        let json = stored.and_then(|stored| stored.metadata.get(LEARNED).cloned());
        json.and_then(|json| serde_json::from_str(&json).ok())
            .unwrap_or_default()
    }

    /// Stores an accepted head, puts it into use in place of the head that it was
    /// compared with, and returns the number of the new head.
    fn put_into_use(&self, accepted: AcceptedHead) -> Result<u32, LearningError> {
        let AcceptedHead {
            labels,
            head,
            recipe,
            detail,
            compared,
            outcome,
            reason,
            samples,
        } = accepted;
        let ids: std::collections::BTreeSet<&String> = outcome.learned.iter().collect();
        let learned: BTreeMap<&String, &String> = samples
            .iter()
            .filter(|sample| ids.contains(&sample.id))
            .map(|sample| (&sample.id, &labels[sample.label]))
            .collect();
        let json = |text: Result<String, serde_json::Error>| text.unwrap_or_default();
        let mut metadata = vec![
            ("recipe", recipe.to_owned()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            (OUTCOME, json(serde_json::to_string(outcome))),
            (LEARNED, json(serde_json::to_string(&learned))),
            detail,
        ];
        if let Some(parent) = compared.number {
            metadata.push((PARENT, parent.to_string()));
        }
        let file = HeadFile {
            backbone_sha256: *self.base.backbone(),
            labels: labels.to_vec(),
            head,
        };
        self.active.replace(compared, &file, &metadata, reason)
    }
}

/// Adds a warning to the record of a refit. Keeps the warnings that the record already
/// has.
fn with_warning(mut record: RefitRecord, warning: &str, code: TextCode) -> RefitRecord {
    record.outcome.warning_codes.push(code);
    let warnings = record.outcome.warning.take().into_iter();
    let warnings: Vec<String> = warnings.chain([warning.to_owned()]).collect();
    record.outcome.warning = Some(warnings.join("; "));
    record
}

/// Maps the id of each labeled sample to its label.
fn labelled(listing: &Listing) -> BTreeMap<String, String> {
    let labelled = listing.samples.iter().filter_map(|sample| {
        let label = sample.label.as_ref()?.to_string();
        Some((sample.id.clone(), label))
    });
    labelled.collect()
}

fn flat(rows: &[Feature]) -> Vec<f32> {
    rows.iter().flat_map(Feature::values).copied().collect()
}

/// Returns the random seed for the variants of a sample, which is the FNV-1a hash
/// (Fowler, Noll, Vo) of the sample's id. The same sample therefore has the same
/// variants on every device.
fn seed_of(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
