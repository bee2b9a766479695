//! The head in use on disk, in memory, and in the channel that publishes it.
//!
//! This module owns the step that puts another head into use. All changes pass through one
//! lock, under which the disk is changed first and the memory afterward, so that the file
//! `heads/current`, [`ActiveHead::in_use`] and the answer to the caller always agree. The
//! module knows nothing about where a head comes from or how it was evaluated.
//!
//! Old heads are deleted after the change, so a failure to delete them does not affect the
//! change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tracing::warn;

use super::error::LearningError;
use super::heads::{self, Heads, NamedHead};
use super::rejected::Rejected;
use super::state_format;
use crate::onnx::HeadFile;
use crate::vision::head::Head;

/// The head in use, and its origin.
#[derive(Debug, Clone, PartialEq)]
pub struct InUse {
    /// The head.
    pub head: Arc<Head>,
    /// Its number among the stored heads. `None` stands for the built-in head
    /// or the head of the configured classifier.
    pub number: Option<u32>,
    /// A sentence that says why this is not the head that should be in use, or
    /// `None` if it is the right one.
    pub note: Option<String>,
}

impl InUse {
    /// Creates the value for the head that a device starts with.
    pub(crate) fn base(base: &Arc<Head>, note: Option<String>) -> InUse {
        InUse {
            head: Arc::clone(base),
            number: None,
            note,
        }
    }
}

/// Returns the head that is in use in a state directory, or `base` if the
/// directory has none. This function changes nothing and also works while
/// another process has the directory open.
///
/// # Errors
/// Returns [`LearningError::StateFormat`], [`LearningError::OtherBackbone`], or
/// [`LearningError::Heads`].
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
    check_backbone(current.head.backbone(), current.number, state, base)?;
    Ok(InUse {
        head: Arc::new(current.head),
        number: Some(current.number),
        note,
    })
}

fn check_backbone(
    backbone: &[u8; 32],
    number: u32,
    state: &Path,
    base: &Arc<Head>,
) -> Result<(), LearningError> {
    if backbone == base.backbone() {
        return Ok(());
    }
    Err(LearningError::OtherBackbone {
        number,
        state: state.display().to_string(),
    })
}

/// The head in use in a state directory that this process may change. Threads may share
/// this value.
#[derive(Debug)]
pub(super) struct ActiveHead {
    state: PathBuf,
    base: Arc<Head>,
    keep: usize,
    locked: Mutex<Locked>,
    /// Publishes the head in use to all subscribers. It is changed only while the lock is
    /// held.
    published: Arc<watch::Sender<Arc<InUse>>>,
}

/// The values that the lock protects.
#[derive(Debug)]
struct Locked {
    heads: Heads,
    rejected: Rejected,
    /// The head that `current` named when it was last read or written.
    named: Option<NamedHead>,
    /// The head in use, or the reason why it cannot be used.
    in_use: Result<Arc<InUse>, OtherBackbone>,
}

/// An error that says that the head in use was made for another backbone. Holds the number
/// of the head.
#[derive(Debug, Clone, Copy)]
struct OtherBackbone(u32);

impl ActiveHead {
    /// Finds the head in use, and publishes it. If it was made for another backbone, the
    /// base head is published.
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

    /// A receiver of the head in use.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<InUse>> {
        self.published.subscribe()
    }

    /// The channel that the head in use is sent to.
    pub(super) fn published(&self) -> Arc<watch::Sender<Arc<InUse>>> {
        Arc::clone(&self.published)
    }

    /// The head in use. If two calls return equal pointers, no other head was put into use
    /// in between.
    ///
    /// # Errors
    /// Returns [`LearningError::OtherBackbone`].
    pub(super) fn in_use(&self) -> Result<Arc<InUse>, LearningError> {
        self.usable(&self.lock())
    }

    /// Calls `read` with the stored heads. They do not change during the call.
    pub(super) fn read<T>(&self, read: impl FnOnce(&heads::Reader) -> T) -> T {
        read(&self.lock().heads)
    }

    /// Imports a head from a file, puts it into use, and returns its number. It must have
    /// the same labels as the head in use.
    ///
    /// # Errors
    /// Returns [`LearningError::Heads`] or [`LearningError::OtherBackbone`]. In that case,
    /// the previous head stays in use.
    pub(super) fn import(&self, path: &Path) -> Result<u32, LearningError> {
        let mut locked = self.synced();
        let in_use = self.usable(&locked)?;
        let (labels, parent) = (in_use.head.labels(), in_use.number);
        let imported = heads::read_foreign(path, self.base.backbone(), labels, parent)?;
        let metadata = imported.metadata.iter();
        let metadata: Vec<(&str, String)> = metadata
            .map(|(key, value)| (key.as_str(), value.clone()))
            .collect();
        self.store(&mut locked, &imported.file, &metadata)
    }

    /// Puts a head into use if the current head is still the one that it was compared with.
    /// Returns its number.
    ///
    /// # Errors
    /// Returns [`LearningError::HeadChanged`] or [`LearningError::Heads`]. In that case,
    /// the new head is not stored, and the previous head stays in use.
    pub(super) fn replace(
        &self,
        compared: &Arc<InUse>,
        head: &HeadFile,
        metadata: &[(&str, String)],
    ) -> Result<u32, LearningError> {
        let mut locked = self.synced();
        if !Arc::ptr_eq(&self.usable(&locked)?, compared) {
            return Err(LearningError::HeadChanged);
        }
        self.store(&mut locked, head, metadata)
    }

    /// Goes back from the head in use to its parent, `steps` times. Returns the number of
    /// the head that is then in use, or `None` for the base head. The files of the skipped
    /// heads are kept, and other devices can no longer offer these heads.
    ///
    /// # Errors
    /// Returns [`LearningError::Heads`], or [`LearningError::OtherBackbone`] if the head
    /// was made for another backbone. In that case, the previous head stays in use.
    pub(super) fn rollback(&self, steps: u32) -> Result<Option<u32>, LearningError> {
        let mut locked = self.synced();
        let from = match &locked.in_use {
            Ok(in_use) => in_use.number,
            Err(OtherBackbone(number)) => Some(*number),
        };
        let (skipped, number) = locked.heads.way_back(from, steps)?;
        let in_use = self.load(&locked.heads, number)?;
        // The heads are rejected first. Otherwise, if the process were killed between the
        // two steps, another device could offer a head again that was rolled back.
        locked
            .rejected
            .add(skipped.iter().map(|skipped| &skipped.file));
        locked.heads.switch(number)?;
        self.publish(&mut locked, in_use);
        Ok(number)
    }

    /// Whether a head is in use on this device now, or was in use before and was replaced
    /// or rolled back. Such a head is not accepted from another device.
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
    ) -> Result<u32, LearningError> {
        let in_use = Arc::new(Head::from_file(head.clone()));
        let number = locked.heads.add_and_switch(head, metadata)?;
        let in_use = InUse {
            head: in_use,
            number: Some(number),
            note: None,
        };
        self.publish(locked, in_use);
        if let Err(error) = locked.heads.prune(self.keep) {
            warn!(%error, "old models are not deleted");
        }
        Ok(number)
    }

    /// Makes a head the one in use in memory, after it has become the one in use on disk.
    fn publish(&self, locked: &mut Locked, in_use: InUse) {
        let in_use = Arc::new(in_use);
        locked.named = Some(NamedHead(in_use.number));
        locked.in_use = Ok(Arc::clone(&in_use));
        self.published.send_replace(in_use);
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
        check_backbone(head.backbone(), number, &self.state, &self.base)?;
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
    /// changed it without the lock on the directory, and the head that it now names is put
    /// into use.
    fn synced(&self) -> MutexGuard<'_, Locked> {
        let mut locked = self.lock();
        let named = locked.heads.named();
        if named.is_some() && named != locked.named {
            warn!("heads/current was changed by somebody else");
            if let Err(error) = self.reload(&mut locked) {
                warn!(%error, "the model that heads/current names is not used");
            }
        }
        locked
    }

    /// Makes the head on disk the one in use in memory.
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
        // A head that is already in use is not sent again, because subscribers discard
        // their state when they receive a head.
        self.published.send_if_modified(|published| {
            let is_new = **published != *in_use;
            *published = in_use;
            is_new
        });
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Locked> {
        // A poisoned lock is safe to use because each change is made in memory only after
        // it is complete on disk.
        self.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
