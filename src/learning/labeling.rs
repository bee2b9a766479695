//! Labels, discards, and restores samples, and takes the last labeling actions back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{MutexGuard, PoisonError};

use super::samples::{Discarded, Labelled, Restored, Sample};
use super::undo_log::{Action, Change, UndoLog};
use super::{LabelAction, LabelResult, Learning, LearningError, SampleSelector, UndoRecord};
use crate::onnx::Label;

const MISSING: &str = "there is no such sample";
const TAKEN: &str = "another picture with this name already has this label: rename one of them";
/// Why a sample cannot be discarded.
const TRASH_TAKEN: &str = "another discarded picture with this name had this label: rename \
     this one, or delete the discarded pictures";
/// Why a discarded sample cannot be restored.
const ID_IN_USE: &str = "another face picture has this ID now: rename it first";

impl Learning {
    /// Labels samples, removes their labels, or discards them. The action can be taken back
    /// with [`undo`](Learning::undo).
    ///
    /// # Errors
    /// Returns [`LearningError::Label`] if the new label is not a valid name,
    /// [`LearningError::NoTrack`] if the track has no unlabeled samples, and
    /// [`LearningError::Store`] if the store reports an error.
    pub fn label(
        &self,
        selector: SampleSelector,
        action: &LabelAction,
    ) -> Result<LabelResult, LearningError> {
        self.label_more(selector, action, None)
    }

    /// Labels samples like [`label`](Learning::label). If `continues` is the number of the
    /// last action, and that action did the same to other samples, both together are one
    /// action, which is taken back as a whole.
    ///
    /// # Errors
    /// Returns the same errors as [`label`](Learning::label).
    pub fn label_more(
        &self,
        selector: SampleSelector,
        action: &LabelAction,
        continues: Option<u64>,
    ) -> Result<LabelResult, LearningError> {
        let ids = match selector {
            SampleSelector::Ids(ids) => ids,
            SampleSelector::Track(number) => self.newest_track(number)?,
        };
        let label = match action {
            LabelAction::As(name) => Some(Label::new(name)?),
            LabelAction::Unlabelled | LabelAction::Discard => None,
        };
        let mut result = LabelResult::default();
        let number = &mut result.action;
        let mut log = self.undo_log();
        let note = |before: Vec<(String, Option<Label>)>| {
            if before.is_empty() {
                *number = continues;
                return;
            }
            let changes = before.into_iter().map(|(id, label)| Change {
                id,
                before: label.map(|label| label.to_string()),
            });
            *number = Some(log.record(action, changes.collect(), continues));
        };
        if *action == LabelAction::Discard {
            let outcomes = self.store().discard_noting(&ids, note)?;
            for (id, outcome) in ids.into_iter().zip(outcomes) {
                match outcome {
                    Discarded::Done => result.done.push(id),
                    Discarded::Missing => result.fail(id, MISSING),
                    Discarded::Taken => result.fail(id, TRASH_TAKEN),
                    Discarded::Failed(error) => result.fail(id, error),
                }
            }
            self.ages().discarded(&result.done);
            if let Err(error) = self.prune_trash(&mut log) {
                tracing::warn!(%error, "discarded face pictures cannot be deleted");
            }
            // A picture that is too large for the trash cannot be restored.
            result.action = result
                .action
                .filter(|number| log.find(Some(*number)).is_some());
            return Ok(result);
        }
        let outcomes = self.store().label_noting(&ids, label.as_ref(), note)?;
        for (id, outcome) in ids.into_iter().zip(outcomes) {
            match outcome {
                Labelled::Done => result.done.push(id),
                Labelled::Already => result.already.push(id),
                Labelled::Missing => result.fail(id, MISSING),
                Labelled::Taken => result.fail(id, TAKEN),
                // `label_noting` does not return this.
                Labelled::Changed => result.fail(id, "it was labeled differently since"),
                Labelled::Failed(error) => result.fail(id, error),
            }
        }
        Ok(result)
    }

    /// Takes a labeling action back: the last one, or the one with this number. Gives its
    /// samples the labels that they had before. Samples that were labeled differently since
    /// are not changed.
    ///
    /// # Errors
    /// Returns [`LearningError::NothingToUndo`] if there is no such action, and
    /// [`LearningError::Store`] if the store reports an error.
    pub fn undo(&self, number: Option<u64>) -> Result<UndoRecord, LearningError> {
        let mut log = self.undo_log();
        let Some(Action {
            number,
            mark,
            changes,
        }) = log.find(number).cloned()
        else {
            return Err(LearningError::NothingToUndo);
        };
        let mut record = UndoRecord {
            action: number,
            mark: mark.clone(),
            done: Vec::new(),
            changed: Vec::new(),
            failed: BTreeMap::new(),
        };
        let mut fail = |id: &String, why: String| {
            record.failed.insert(id.clone(), why);
        };
        // Only a failure of the disk leaves a sample for another attempt.
        let mut left = BTreeSet::new();
        let mut before = Vec::with_capacity(changes.len());
        for change in &changes {
            let label = change.before.as_deref().map(Label::new).transpose()?;
            before.push((change.id.clone(), label));
        }
        if mark == LabelAction::Discard {
            for ((id, _), outcome) in before.iter().zip(self.store().restore_to(&before)?) {
                match outcome {
                    Restored::Done => record.done.push(id.clone()),
                    // The sample was restored or never reached, or it is gone.
                    Restored::Missing => record.changed.push(id.clone()),
                    Restored::Taken => fail(id, ID_IN_USE.to_owned()),
                    Restored::Failed(error) => {
                        left.insert(id.clone());
                        fail(id, error.to_string());
                    }
                }
            }
            self.ages().restored(&record.done);
        } else {
            let present = match &mark {
                LabelAction::As(name) => Some(Label::new(name)?),
                LabelAction::Unlabelled | LabelAction::Discard => None,
            };
            let outcomes = self.store().label_back(&before, present.as_ref())?;
            for ((id, _), outcome) in before.iter().zip(outcomes) {
                match outcome {
                    Labelled::Done => record.done.push(id.clone()),
                    Labelled::Already | Labelled::Changed | Labelled::Missing => {
                        record.changed.push(id.clone());
                    }
                    Labelled::Taken => fail(id, TAKEN.to_owned()),
                    Labelled::Failed(error) => {
                        left.insert(id.clone());
                        fail(id, error.to_string());
                    }
                }
            }
        }
        log.remove(number, &left);
        Ok(record)
    }

    /// Moves discarded samples back to where they were.
    ///
    /// # Errors
    /// Returns [`LearningError::Store`] if the store reports an error.
    pub fn restore(&self, ids: Vec<String>) -> Result<LabelResult, LearningError> {
        let mut result = LabelResult::default();
        let outcomes = self.store().restore(&ids)?;
        for (id, outcome) in ids.into_iter().zip(outcomes) {
            match outcome {
                Restored::Done => result.done.push(id),
                Restored::Missing => {
                    result.fail(
                        id,
                        "there is no such discarded sample, or it was deleted for good",
                    );
                }
                Restored::Taken => result.fail(id, ID_IN_USE),
                Restored::Failed(error) => result.fail(id, error),
            }
        }
        self.ages().restored(&result.done);
        Ok(result)
    }

    pub(super) fn undo_log(&self) -> MutexGuard<'_, UndoLog> {
        // A poisoned lock is safe to use because the log is changed before the samples, and
        // each sample is checked before an action is taken back.
        self.undo_log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the ids of the unlabeled samples of a track. Track numbers start over each
    /// time the daemon starts, so only samples from the day of the newest sample are
    /// returned. The newest sample does not always have the latest date, because the
    /// clock may have been ahead when an earlier sample was stored.
    fn newest_track(&self, number: u64) -> Result<Vec<String>, LearningError> {
        let listing = self.store.list()?;
        let is_of_track = |sample: &&Sample| sample.track.number() == Some(number);
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
}
