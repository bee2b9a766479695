//! Access to learning. Learning starts as soon as the state directory can be used.
//!
//! A daemon continues to watch its door even if its disk fails. This module handles the transition
//! from an unusable state directory to an open one. The caller periodically tries to open the
//! directory, and other code checks whether the directory is open. Until the directory is open, the
//! daemon uses the head that the directory names, if that head can be read. The module knows
//! nothing about clocks or threads.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError};

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
    /// Held during an attempt to open the directory. The attempt may last for as long as
    /// the disk hangs.
    attempt: Mutex<()>,
    /// Why the directory is not open. The lock is held only while the text is copied.
    off_because: Mutex<String>,
    head: Arc<watch::Sender<Arc<InUse>>>,
}

impl LearningAccess {
    /// Creates a handle to a state directory without opening the directory. `base` is the head that
    /// is used if the directory names no head.
    #[must_use]
    pub fn new(state: &Path, base: Arc<Head>, options: LearningOptions) -> LearningAccess {
        let in_use = InUse::base(&base, None);
        LearningAccess(Arc::new(Shared {
            // The path is made absolute because it is shown to other processes, which may
            // have different working directories.
            state: std::path::absolute(state).unwrap_or_else(|_| state.to_owned()),
            base,
            options,
            learning: OnceLock::new(),
            attempt: Mutex::new(()),
            off_because: Mutex::new("the state directory is not open yet".to_owned()),
            head: Arc::new(watch::Sender::new(Arc::new(in_use))),
        }))
    }

    /// Tries to open the directory unless it is already open. If opening fails, the head that the
    /// directory names is still put into use if it can be read. If another thread is already trying
    /// to open the directory, this function returns immediately. Otherwise, it waits until the disk
    /// responds.
    ///
    /// # Errors
    /// Returns the errors of [`Learning::open`], and [`LearningError::Off`] if another thread is
    /// trying to open the directory.
    pub fn open(&self) -> Result<&Arc<Learning>, LearningError> {
        let Shared {
            state,
            base,
            options,
            learning,
            attempt,
            head,
            ..
        } = &*self.0;
        let _attempt = match attempt.try_lock() {
            Ok(attempt) => attempt,
            // The lock is safe to use: a thread that panicked left no half-written file.
            Err(TryLockError::Poisoned(attempt)) => attempt.into_inner(),
            Err(TryLockError::WouldBlock) => return self.get(),
        };
        if let Some(learning) = learning.get() {
            return Ok(learning);
        }
        let base = Arc::clone(base);
        match Learning::open_and_publish(state, base, options.clone(), Arc::clone(head)) {
            Ok(opened) => Ok(learning.get_or_init(|| Arc::new(opened))),
            Err(error) => {
                self.set_reason(error.to_string());
                self.publish_readable();
                Err(error)
            }
        }
    }

    /// Records that [`open`](LearningAccess::open) has been waiting for the disk of the
    /// directory for `seconds`, and returns the reason why the directory is not open.
    #[must_use]
    pub fn is_waiting(&self, seconds: u64) -> String {
        let path = self.state().display();
        let reason = format!(
            "the disk of the state directory {path} does not answer for {seconds} s: check it"
        );
        self.set_reason(reason.clone());
        reason
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

    fn set_reason(&self, reason: String) {
        let off_because = self.0.off_because.lock();
        *off_because.unwrap_or_else(PoisonError::into_inner) = reason;
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

    /// Returns the absolute path of the state directory.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.0.state
    }

    /// Returns a receiver that gets the head in use after each change.
    #[must_use]
    pub fn head(&self) -> watch::Receiver<Arc<InUse>> {
        self.0.head.subscribe()
    }

    /// Puts into use the head that the directory names, although the directory cannot be opened for
    /// changes. If that head cannot be read, the head in use stays the same.
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
    /// Creates a handle to a state directory that is already open.
    fn from(opened: Learning) -> LearningAccess {
        LearningAccess(Arc::new(Shared {
            state: opened.state.clone(),
            base: Arc::clone(&opened.base),
            options: opened.options.clone(),
            head: opened.active.published(),
            learning: OnceLock::from(Arc::new(opened)),
            attempt: Mutex::new(()),
            off_because: Mutex::new(String::new()),
        }))
    }
}
