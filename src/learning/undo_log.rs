//! The log of the last labeling actions, which makes it possible to take them back.
//!
//! This module owns the file `undo.json` in the state directory. An action is written to
//! the log before the samples change, so that a kill cannot lose the earlier labels. The
//! log may therefore name samples that the action did not reach. Whoever takes an action
//! back must check each sample.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::LabelAction;
use crate::platform::files;

const FILE: &str = "undo.json";
/// Maximum size of the file to read, in bytes. The log is always smaller.
const MAX_BYTES: u64 = 16 * 1024 * 1024;
/// Maximum number of actions in the log.
const MAX_ACTIONS: usize = 20;
/// Maximum number of changes in the log. The last action is kept even if it alone has more.
const MAX_CHANGES: usize = 5000;
/// Maximum number of changes in one action, so that the file stays readable. The rest of
/// the action cannot be taken back.
const MAX_CHANGES_PER_ACTION: usize = 20_000;

/// A labeling action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Action {
    /// Number of the action. Numbers increase.
    pub(super) number: u64,
    /// What was done to the samples.
    pub(super) mark: LabelAction,
    pub(super) changes: Vec<Change>,
}

/// What a labeling action was about to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Change {
    /// Id of the sample.
    pub(super) id: String,
    /// The label of the sample before the action, or `None` if it had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) before: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Content {
    /// Number of the last action that was ever recorded.
    last: u64,
    /// The actions that can be taken back, in order.
    actions: Vec<Action>,
}

#[derive(Debug)]
pub(super) struct UndoLog {
    path: PathBuf,
    content: Content,
}

impl UndoLog {
    /// Reads the log of a state directory. If the file is missing or damaged, nothing can
    /// be taken back.
    pub(super) fn open(state: &Path) -> UndoLog {
        let path = state.join(FILE);
        let bytes = files::read_own(&path, MAX_BYTES).unwrap_or_default();
        let content = serde_json::from_slice(&bytes).unwrap_or_default();
        UndoLog { path, content }
    }

    /// Records an action before it changes anything, and returns its number. An action that
    /// continues the last one is added to it.
    pub(super) fn record(
        &mut self,
        mark: &LabelAction,
        mut changes: Vec<Change>,
        continues: Option<u64>,
    ) -> u64 {
        let Content { last, actions } = &mut self.content;
        match actions.last_mut() {
            Some(action) if Some(action.number) == continues && action.mark == *mark => {
                action.changes.append(&mut changes);
            }
            _ => {
                *last += 1;
                actions.push(Action {
                    number: *last,
                    mark: mark.clone(),
                    changes,
                });
            }
        }
        if let Some(action) = actions.last_mut() {
            action.changes.truncate(MAX_CHANGES_PER_ACTION);
        }
        let count = |actions: &[Action]| -> usize {
            actions.iter().map(|action| action.changes.len()).sum()
        };
        while actions.len() > MAX_ACTIONS || (actions.len() > 1 && count(actions) > MAX_CHANGES) {
            actions.remove(0);
        }
        let number = *last;
        self.save();
        number
    }

    /// Returns the action with this number, or the last action.
    pub(super) fn find(&self, number: Option<u64>) -> Option<&Action> {
        let mut actions = self.content.actions.iter().rev();
        actions.find(|action| number.is_none_or(|number| action.number == number))
    }

    /// Removes an action that was taken back, except for the changes of the samples in
    /// `left`.
    pub(super) fn remove(&mut self, number: u64, left: &BTreeSet<String>) {
        let actions = &mut self.content.actions;
        for action in actions.iter_mut().filter(|action| action.number == number) {
            action.changes.retain(|change| left.contains(&change.id));
        }
        actions.retain(|action| !action.changes.is_empty());
        self.save();
    }

    /// Removes the samples that no longer exist, so that their ids are forgotten too.
    pub(super) fn forget_others(&mut self, present: &HashSet<String>) {
        let before = self.content.clone();
        for action in &mut self.content.actions {
            action.changes.retain(|change| present.contains(&change.id));
        }
        self.content
            .actions
            .retain(|action| !action.changes.is_empty());
        if self.content != before {
            self.save();
        }
    }

    /// Writes the file. Labeling must work even if the disk is full, so a failure is not an
    /// error. The file is then deleted, because an old log must not be used after a restart.
    fn save(&self) {
        let json = serde_json::to_vec(&self.content).unwrap_or_default();
        if let Err(error) = files::write(&self.path, &json) {
            tracing::warn!(%error, "labels cannot be taken back after a restart");
            let _ = files::delete(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(ids: std::ops::Range<usize>) -> Vec<Change> {
        let change = |id: usize| Change {
            id: id.to_string(),
            before: None,
        };
        ids.map(change).collect()
    }

    fn label(name: &str) -> LabelAction {
        LabelAction::As(name.to_owned())
    }

    #[test]
    fn actions_survive_a_restart_and_their_numbers_are_never_given_again() {
        let state = tempfile::tempdir().unwrap();
        let mut log = UndoLog::open(state.path());
        assert_eq!(log.find(None), None);
        assert_eq!(log.record(&label("a"), changes(0..2), None), 1);
        assert_eq!(log.record(&LabelAction::Discard, changes(2..3), None), 2);
        let mut log = UndoLog::open(state.path());
        assert_eq!(log.find(None).unwrap().mark, LabelAction::Discard);
        assert_eq!(log.find(Some(1)).unwrap().changes, changes(0..2));
        log.remove(2, &BTreeSet::new());
        let mut log = UndoLog::open(state.path());
        assert_eq!(log.find(Some(2)), None);
        assert_eq!(log.find(None).unwrap().number, 1);
        assert_eq!(log.record(&label("a"), changes(0..1), None), 3);
    }

    #[test]
    fn parts_of_an_action_are_one_action() {
        let state = tempfile::tempdir().unwrap();
        let mut log = UndoLog::open(state.path());
        let first = log.record(&label("a"), changes(0..2), None);
        assert_eq!(log.record(&label("a"), changes(2..4), Some(first)), first);
        assert_eq!(log.find(None).unwrap().changes, changes(0..4));
        // Another action, or another label, ends the action.
        assert_eq!(log.record(&label("b"), changes(4..5), Some(first)), 2);
        assert_eq!(log.record(&label("a"), changes(5..6), Some(first)), 3);
    }

    #[test]
    fn the_log_is_bounded_and_forgets() {
        let state = tempfile::tempdir().unwrap();
        let mut log = UndoLog::open(state.path());
        for _ in 0..30 {
            log.record(&label("a"), changes(0..2), None);
        }
        assert_eq!(log.content.actions.len(), MAX_ACTIONS);
        log.record(&label("a"), changes(0..MAX_CHANGES), None);
        assert_eq!(log.content.actions.len(), 1);
        log.record(&label("a"), changes(0..2), None);
        assert_eq!(log.content.actions.len(), 1);
        log.record(&label("a"), changes(7..9), None);
        log.forget_others(&HashSet::from(["8".to_owned()]));
        assert_eq!(log.content.actions.len(), 1);
        assert_eq!(log.find(None).unwrap().changes, changes(8..9));
        log.forget_others(&HashSet::new());
        assert_eq!(UndoLog::open(state.path()).find(None), None);
    }

    #[test]
    fn a_log_that_cannot_be_written_is_not_used_after_a_restart() {
        let state = tempfile::tempdir().unwrap();
        let mut log = UndoLog::open(state.path());
        log.record(&label("a"), changes(0..2), None);
        crate::platform::faults::fail_at(0);
        assert_eq!(log.record(&label("b"), changes(0..2), None), 2);
        assert_eq!(log.find(None).unwrap().number, 2);
        assert_eq!(UndoLog::open(state.path()).find(None), None);
    }

    #[test]
    fn a_damaged_log_is_empty() {
        let state = tempfile::tempdir().unwrap();
        for damaged in [&b""[..], b"[]", b"{\"last\":-1}", b"\xff"] {
            std::fs::write(state.path().join(FILE), damaged).unwrap();
            assert_eq!(UndoLog::open(state.path()).find(None), None);
        }
    }
}
