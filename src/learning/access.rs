//! Access to learning that begins as soon as the state directory can be used.
//!
//! A daemon keeps watching its door even if its disk fails. This module owns the
//! transition from a state directory that cannot be used to an open one. The caller tries
//! to open the directory from time to time, and other code asks whether it is open. Until
//! then, the head in use is the one that the directory names, if that head can be read.
//! The module knows nothing about clocks and threads.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::watch;

use super::active::{InUse, head_in_use};
use super::{Learning, LearningError, LearningOptions};
use crate::vision::head::Head;

/// A state directory that may not be open yet. Threads share this value.
#[derive(Debug, Clone)]
pub struct LearningAccess(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: PathBuf,
    base: Arc<Head>,
    options: LearningOptions,
    learning: OnceLock<Arc<Learning>>,
    /// Why the last attempt to open the directory failed. The lock is held during an
    /// attempt.
    off_because: Mutex<String>,
    head: Arc<watch::Sender<Arc<InUse>>>,
}

impl LearningAccess {
    /// Creates the access to a state directory without opening it. `base` is the head to
    /// start with.
    #[must_use]
    pub fn new(state: &Path, base: Arc<Head>, options: LearningOptions) -> LearningAccess {
        let in_use = InUse::base(&base, None);
        LearningAccess(Arc::new(Shared {
            // The path is made absolute because it is shown to other processes, which may
            // have other working directories.
            state: std::path::absolute(state).unwrap_or_else(|_| state.to_owned()),
            base,
            options,
            learning: OnceLock::new(),
            off_because: Mutex::new("the state directory is not open yet".to_owned()),
            head: Arc::new(watch::Sender::new(Arc::new(in_use))),
        }))
    }

    /// Tries to open the directory unless it is already open. If that fails, the head
    /// that the directory names is still put into use if it can be read.
    ///
    /// # Errors
    /// Same as [`Learning::open`].
    pub fn open(&self) -> Result<&Arc<Learning>, LearningError> {
        let Shared {
            state,
            base,
            options,
            learning,
            off_because,
            head,
        } = &*self.0;
        let mut off_because = off_because.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(learning) = learning.get() {
            return Ok(learning);
        }
        let base = Arc::clone(base);
        match Learning::open_and_publish(state, base, *options, Arc::clone(head)) {
            Ok(opened) => Ok(learning.get_or_init(|| Arc::new(opened))),
            Err(error) => {
                *off_because = error.to_string();
                self.publish_readable();
                Err(error)
            }
        }
    }

    /// Returns the open state directory.
    ///
    /// # Errors
    /// Returns [`LearningError::Off`] while the directory cannot be used.
    pub fn get(&self) -> Result<&Arc<Learning>, LearningError> {
        let learning = self.0.learning.get();
        learning.ok_or_else(|| LearningError::Off(self.reason()))
    }

    /// Returns the reason why the directory is not open, or `None` if it is open.
    #[must_use]
    pub fn off_because(&self) -> Option<String> {
        (!self.is_open()).then(|| self.reason())
    }

    fn reason(&self) -> String {
        let reason = self.0.off_because.lock();
        reason.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the directory is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.learning.get().is_some()
    }

    /// The absolute path of the state directory.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.0.state
    }

    /// A receiver that gets the head in use after each change.
    #[must_use]
    pub fn head(&self) -> watch::Receiver<Arc<InUse>> {
        self.0.head.subscribe()
    }

    /// Puts the head that the directory names into use while the directory cannot be
    /// opened for changes. If that head cannot be read either, the head in use stays the
    /// same.
    fn publish_readable(&self) {
        let Shared {
            state, base, head, ..
        } = &*self.0;
        let readable = head_in_use(state, base);
        head.send_if_modified(|published| {
            let in_use = readable.unwrap_or_else(|error| match published.number {
                Some(_) => InUse::clone(published),
                None => InUse::base(base, Some(format!("the built-in model is used: {error}"))),
            });
            let is_new = **published != in_use;
            *published = Arc::new(in_use);
            is_new
        });
    }
}

impl From<Learning> for LearningAccess {
    /// Creates the access to a state directory that is already open.
    fn from(opened: Learning) -> LearningAccess {
        LearningAccess(Arc::new(Shared {
            state: opened.state.clone(),
            base: Arc::clone(&opened.base),
            options: opened.options,
            head: opened.active.published(),
            learning: OnceLock::from(Arc::new(opened)),
            off_because: Mutex::new(String::new()),
        }))
    }
}
