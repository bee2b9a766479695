//! The head in use on disk, in memory, and in the channel that publishes it.
//!
//! This module puts heads into use. Every change is made under one lock, first on disk and then in
//! memory, so that the file `heads/current`, [`ActiveHead::in_use`], and the result for the caller
//! always agree. The module knows nothing about where a head comes from or how it was evaluated.
//!
//! Old heads are deleted only after the change, so a failure to delete them does not affect the
//! change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tracing::warn;

use super::error::LearningError;
use super::heads::{self, Heads, NamedHead};
use super::history::History;
use super::records::{Channel, HeadRecord, SwitchCause, SwitchRecord};
use super::rejected::Rejected;
use super::state_format;
use crate::onnx::HeadFile;
use crate::vision::head::Head;

/// The head in use, and its origin.
#[derive(Debug, Clone, PartialEq)]
pub struct InUse {
    /// The head.
    pub head: Arc<Head>,
    /// Number of the head among the stored heads. `None` stands for the built-in head or
    /// the head of the configured classifier.
    pub number: Option<u32>,
    /// A sentence that says why another head is used instead of the intended one, or
    /// `None` if the intended head is in use.
    pub note: Option<String>,
}

impl InUse {
    /// Creates the value for the base head, which is the head that a device starts with.
    pub(crate) fn base(base: &Arc<Head>, note: Option<String>) -> InUse {
        InUse {
            head: Arc::clone(base),
            number: None,
            note,
        }
    }
}

/// Returns the head in use in a state directory, or `base` if the directory names no
/// head. This function changes nothing and also works while another process has the
/// directory open.
///
/// # Errors
/// Returns [`LearningError::StateFormat`] if a newer maskd has used the directory or its format is
/// unknown. Returns [`LearningError::Heads`] if the heads cannot be read, and
/// [`LearningError::OtherBackbone`] if the head in use was made for another backbone.
pub fn head_in_use(state: &Path, base: &Arc<Head>) -> Result<InUse, LearningError> {
    state_format::check(state)?;
    on_disk(&Heads::read_only(state), state, base)
}

fn on_disk(heads: &heads::Reader, state: &Path, base: &Arc<Head>) -> Result<InUse, LearningError> {
    let found = heads.current()?;
    let note = found.fallback.map(|fallback| fallback.to_string());
    let Some(current) = found.current else {
        return Ok(InUse::base(base, note));
    };
    check_backbone(&current.head, current.number, state, base)?;
    Ok(InUse {
        head: Arc::new(current.head),
        number: Some(current.number),
        note,
    })
}

fn check_backbone(
    head: &Head,
    number: u32,
    state: &Path,
    base: &Arc<Head>,
) -> Result<(), LearningError> {
    if base.is_for(head.backbone(), head.features()) {
        return Ok(());
    }
    Err(LearningError::OtherBackbone {
        number,
        state: state.display().to_string(),
    })
}

/// Why a head comes into use, and how a person requested it.
pub(super) type Reason = (SwitchCause, Option<Channel>);

/// The head in use in a state directory that this process may change. Threads may share
/// this value.
#[derive(Debug)]
pub(super) struct ActiveHead {
    state: PathBuf,
    base: Arc<Head>,
    keep: usize,
    locked: Mutex<Locked>,
    /// Publishes the head in use to all subscribers. A new head is sent only while the
    /// lock is held.
    published: Arc<watch::Sender<Arc<InUse>>>,
}

/// The values that the lock protects.
#[derive(Debug)]
struct Locked {
    heads: Heads,
    rejected: Rejected,
    history: History,
    /// The head that `current` named when it was last read or written.
    named: Option<NamedHead>,
    /// The head in use, or the error if that head cannot be used.
    in_use: Result<Arc<InUse>, OtherBackbone>,
}

impl Locked {
    /// Returns the number of the head that is, or should be, in use. `None` stands for the
    /// base head.
    fn number(&self) -> Option<u32> {
        match &self.in_use {
            Ok(in_use) => in_use.number,
            Err(OtherBackbone(number)) => Some(*number),
        }
    }

    /// Whether this head is in use, and the file `current` names it.
    fn is_in_use(&self, number: Option<u32>) -> bool {
        let is_used = |used: &Arc<InUse>| used.number == number && used.note.is_none();
        // Without stored heads, there is no file `current`.
        let named = self.heads.named().and_then(|NamedHead(named)| named);
        self.in_use.as_ref().is_ok_and(is_used) && named == number
    }
}

/// The error for a head in use that was made for another backbone. Contains the number of the head.
#[derive(Debug, Clone, Copy)]
struct OtherBackbone(u32);

impl ActiveHead {
    /// Finds the head in use, and publishes it. If the head in use was made for another
    /// backbone, the base head is published.
    ///
    /// # Errors
    /// Returns [`LearningError::Heads`] if the heads cannot be read.
    pub(super) fn open(
        heads: Heads,
        state: &Path,
        base: Arc<Head>,
        keep: usize,
        published: Arc<watch::Sender<Arc<InUse>>>,
    ) -> Result<ActiveHead, LearningError> {
        let active = ActiveHead {
            state: state.to_owned(),
            keep,
            locked: Mutex::new(Locked {
                rejected: Rejected::open(state),
                history: History::open(state),
                named: None,
                in_use: Ok(Arc::new(InUse::base(&base, None))),
                heads,
            }),
            base,
            published,
        };
        active.reload(&mut active.lock())?;
        Ok(active)
    }

    /// Returns a receiver of the head in use.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<InUse>> {
        self.published.subscribe()
    }

    /// Returns the channel to which the head in use is sent.
    pub(super) fn published(&self) -> Arc<watch::Sender<Arc<InUse>>> {
        Arc::clone(&self.published)
    }

    /// Returns the head in use. If two calls return equal pointers, no other head was put
    /// into use in between.
    ///
    /// # Errors
    /// Returns [`LearningError::OtherBackbone`] if the head in use was made for another backbone.
    pub(super) fn in_use(&self) -> Result<Arc<InUse>, LearningError> {
        self.usable(&self.lock())
    }

    /// Calls `read` with the stored heads. The heads do not change during the call.
    pub(super) fn read<T>(&self, read: impl FnOnce(&heads::Reader) -> T) -> T {
        read(&self.lock().heads)
    }

    /// Imports a head from a file, puts it into use, and returns its number. The imported
    /// head must have the same labels as the head in use.
    ///
    /// # Errors
    /// Returns [`LearningError::OtherBackbone`] if the head in use was made for another backbone,
    /// and [`LearningError::Heads`] if the imported head cannot be read or stored. In both cases,
    /// the previous head stays in use.
    pub(super) fn import(&self, path: &Path, channel: Channel) -> Result<u32, LearningError> {
        let mut locked = self.synced();
        let in_use = self.usable(&locked)?;
        let (labels, parent) = (in_use.head.labels(), in_use.number);
        let imported = heads::read_foreign(path, &self.base, labels, parent)?;
        let metadata = imported.metadata.iter();
        let metadata: Vec<(&str, String)> = metadata
            .map(|(key, value)| (key.as_str(), value.clone()))
            .collect();
        let reason = (SwitchCause::Import, Some(channel));
        self.store(&mut locked, &imported.file, &metadata, reason)
    }

    /// Puts a head into use, provided that the head with which it was compared is still in
    /// use. Returns the number of the new head.
    ///
    /// # Errors
    /// Returns [`LearningError::HeadChanged`] or [`LearningError::OtherBackbone`] if another head
    /// has been put into use, and [`LearningError::Heads`] if the new head cannot be stored. In
    /// each case, the new head is not stored, and the previous head stays in use.
    pub(super) fn replace(
        &self,
        compared: &Arc<InUse>,
        head: &HeadFile,
        metadata: &[(&str, String)],
        reason: Reason,
    ) -> Result<u32, LearningError> {
        let mut locked = self.synced();
        if !Arc::ptr_eq(&self.usable(&locked)?, compared) {
            return Err(LearningError::HeadChanged);
        }
        self.store(&mut locked, head, metadata, reason)
    }

    /// Rolls back from the head in use to its parent, `steps` times. Returns the number
    /// of the head that is then in use, or `None` for the base head. The files of the
    /// heads that were rolled back are kept, but these heads are no longer accepted from
    /// other devices.
    ///
    /// # Errors
    /// Returns [`LearningError::Heads`], or [`LearningError::OtherBackbone`] if the head to return
    /// to was made for another backbone. In both cases, the previous head stays in use.
    pub(super) fn rollback(
        &self,
        steps: u32,
        channel: Channel,
    ) -> Result<Option<u32>, LearningError> {
        let mut locked = self.synced();
        let (skipped, number) = locked.heads.way_back(locked.number(), steps)?;
        let in_use = self.load(&locked.heads, number)?;
        // The heads are rejected first. Otherwise, if the process were killed between the
        // two steps, another device could offer a rolled-back head again.
        locked
            .rejected
            .add(skipped.iter().map(|skipped| &skipped.file));
        locked.heads.switch(number)?;
        let reason = (SwitchCause::Rollback, Some(channel));
        self.publish(&mut locked, in_use, reason);
        Ok(number)
    }

    /// Puts a stored head into use, or the base head if `number` is `None`. The heads that
    /// are left by this are the head in use and those of its ancestors that are newer than
    /// the requested head, as for a rollback. Their files are kept, but they are no longer
    /// accepted from other devices.
    ///
    /// # Errors
    /// Returns [`LearningError::Heads`] if the head is missing or damaged,
    /// [`LearningError::OtherBackbone`] if it was made for another backbone, and
    /// [`LearningError::MissingLabels`] if it lacks a label of the base head. In each case,
    /// the previous head stays in use.
    pub(super) fn switch_to(
        &self,
        number: Option<u32>,
        channel: Channel,
    ) -> Result<(), LearningError> {
        let mut locked = self.synced();
        let in_use = self.load(&locked.heads, number)?;
        self.check_labels(&in_use.head, number)?;
        if locked.is_in_use(number) {
            return Ok(());
        }
        // As in a rollback, the heads are rejected before the switch.
        let left = locked.heads.left_by_switch(locked.number(), number);
        locked.rejected.add(left.iter().map(|left| &left.file));
        locked.heads.switch(number)?;
        let reason = (SwitchCause::Use, Some(channel));
        self.publish(&mut locked, in_use, reason);
        Ok(())
    }

    /// Refuses a head that lacks a label of the base head. The config may name such a label,
    /// for example as the label of a mask. Additional labels are those that this device has
    /// learned.
    fn check_labels(&self, head: &Head, number: Option<u32>) -> Result<(), LearningError> {
        let is_missing = |label: &&String| !head.labels().contains(label);
        let missing: Vec<String> = self
            .base
            .labels()
            .iter()
            .filter(is_missing)
            .cloned()
            .collect();
        match number {
            Some(number) if !missing.is_empty() => Err(LearningError::MissingLabels {
                number,
                missing: missing.join(", "),
            }),
            _ => Ok(()),
        }
    }

    /// Returns the records of the base head, which has the number 0, and of all stored
    /// heads, sorted by number.
    ///
    /// # Errors
    /// Returns [`LearningError::Heads`] if the heads cannot be listed.
    pub(super) fn records(&self) -> Result<Vec<HeadRecord>, LearningError> {
        let locked = self.lock();
        let stored = super::head_records(&locked.heads)?;
        let is_base_used = locked
            .in_use
            .as_ref()
            .is_ok_and(|used| used.number.is_none())
            && !stored.iter().any(|head| head.current);
        let base = HeadRecord::built_in(&self.base, is_base_used);
        Ok(std::iter::once(base).chain(stored).collect())
    }

    /// Whether a head is in use on this device now, or was in use before and was replaced,
    /// rolled back, or left for another one. Such a head is not accepted from another device.
    ///
    /// # Errors
    /// Returns [`LearningError::Heads`] if the heads cannot be listed.
    pub(super) fn is_known(&self, head: &HeadFile) -> Result<bool, LearningError> {
        let locked = self.lock();
        if locked.rejected.contains(head) {
            return Ok(true);
        }
        let stored = locked.heads.list()?.into_iter();
        let mut stored = stored.filter_map(|info| info.stored.ok());
        Ok(stored.any(|stored| stored.file == *head))
    }

    /// Stores a head, puts it into use, and deletes old heads.
    fn store(
        &self,
        locked: &mut Locked,
        head: &HeadFile,
        metadata: &[(&str, String)],
        reason: Reason,
    ) -> Result<u32, LearningError> {
        let in_use = Arc::new(Head::from_file(head.clone()));
        let number = locked.heads.add_and_switch(head, metadata)?;
        let in_use = InUse {
            head: in_use,
            number: Some(number),
            note: None,
        };
        self.publish(locked, in_use, reason);
        if let Err(error) = locked.heads.prune(self.keep) {
            warn!(%error, "old models are not deleted");
        }
        Ok(number)
    }

    /// Puts a head into use in memory after it has been put into use on disk, and records
    /// the switch. The camera path does not wait for the record.
    fn publish(&self, locked: &mut Locked, in_use: InUse, (cause, channel): Reason) {
        let in_use = Arc::new(in_use);
        let number = in_use.number;
        locked.named = Some(NamedHead(number));
        locked.in_use = Ok(Arc::clone(&in_use));
        self.published.send_replace(in_use);
        locked.history.add(number, cause, channel);
    }

    /// Returns the recorded switches, oldest first.
    pub(super) fn history(&self) -> Vec<SwitchRecord> {
        self.lock().history.records().to_vec()
    }

    /// Records switches that could not be recorded before.
    pub(super) fn save_history(&self) {
        self.lock().history.save();
    }

    #[cfg(test)]
    pub(super) fn prune(&self, keep: usize) -> Result<Vec<u32>, heads::HeadsError> {
        self.lock().heads.prune(keep)
    }

    fn load(&self, heads: &Heads, number: Option<u32>) -> Result<InUse, LearningError> {
        let Some(number) = number else {
            return Ok(InUse::base(&self.base, None));
        };
        let head = Head::from_file(heads.get(number)?.file);
        check_backbone(&head, number, &self.state, &self.base)?;
        Ok(InUse {
            head: Arc::new(head),
            number: Some(number),
            note: None,
        })
    }

    fn usable(&self, locked: &Locked) -> Result<Arc<InUse>, LearningError> {
        let in_use = locked.in_use.as_ref();
        let in_use = in_use.map_err(|OtherBackbone(number)| LearningError::OtherBackbone {
            number: *number,
            state: self.state.display().to_string(),
        });
        in_use.map(Arc::clone)
    }

    /// Takes the lock. If `current` names a different head than before, another program has
    /// changed the file without holding the lock on the directory. In this case, the head
    /// that the file now names is put into use.
    fn synced(&self) -> MutexGuard<'_, Locked> {
        let mut locked = self.lock();
        let named = locked.heads.named();
        if named.is_some() && named != locked.named {
            warn!("another program has changed heads/current");
            if let Err(error) = self.reload(&mut locked) {
                warn!(%error, "the model that heads/current names is not used");
            }
        }
        locked
    }

    /// Puts the head that `current` names into use in memory.
    fn reload(&self, locked: &mut Locked) -> Result<(), LearningError> {
        let named = locked.heads.named();
        let in_use = match on_disk(&locked.heads, &self.state, &self.base) {
            Err(LearningError::OtherBackbone { number, .. }) => Err(OtherBackbone(number)),
            in_use => Ok(Arc::new(in_use?)),
        };
        locked.named = named;
        locked.in_use = in_use;
        let in_use = self.usable(locked);
        let in_use = in_use.unwrap_or_else(|error| {
            let note = Some(error.to_string());
            Arc::new(InUse::base(&self.base, note))
        });
        let (number, note) = (in_use.number, in_use.note.clone());
        // A head that is already in use is not sent again, because subscribers discard
        // their state when they receive a head.
        self.published.send_if_modified(|published| {
            let is_new = **published != *in_use;
            *published = in_use;
            is_new
        });
        locked.history.found(number, note.as_deref());
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Locked> {
        // A poisoned lock is safe to use because each change is made in memory only after
        // it is complete on disk.
        self.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
