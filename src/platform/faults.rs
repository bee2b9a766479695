//! Lets a test fail one operation on the disk. Only tests contain this module.
//!
//! It counts the operations of the current thread that [`files`](super::files) is about to
//! do, and fails the chosen one as a full disk would.

use std::cell::Cell;
use std::io;

thread_local! {
    /// Number of operations before the one that fails; `None` after it has failed, or if
    /// none is to fail.
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Makes the operation with this index fail, counted from 0 and from now.
pub(crate) fn fail_at(index: usize) {
    LEFT.set(Some(index));
}

/// Ends the failures. Returns whether the chosen operation has failed.
pub(crate) fn clear() -> bool {
    LEFT.take().is_none()
}

/// Counts an operation.
pub(super) fn step() -> io::Result<()> {
    match LEFT.get() {
        None => Ok(()),
        Some(0) => {
            LEFT.set(None);
            Err(io::Error::from(io::ErrorKind::StorageFull))
        }
        Some(left) => {
            LEFT.set(Some(left - 1));
            Ok(())
        }
    }
}
