//! Lets a test make one disk operation fail. This module is compiled only for tests.
//!
//! This module counts the disk operations that [`files`](super::files) is about to
//! perform on the current thread. It makes the chosen operation fail as the operation
//! would fail on a full disk.

use std::cell::Cell;
use std::io;

thread_local! {
    /// Number of operations that still succeed before one fails. `None` means that no
    /// operation will fail.
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Makes a later operation fail. An `index` of 0 selects the next operation.
pub(crate) fn fail_at(index: usize) {
    LEFT.set(Some(index));
}

/// Cancels the planned failure, if it has not happened yet. Returns whether it has
/// already happened.
pub(crate) fn clear() -> bool {
    LEFT.take().is_none()
}

/// Counts an operation, and returns an error if the operation must fail.
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
