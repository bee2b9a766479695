//! Takes the place of `service_manager` on systems other than Linux, which have no systemd.

use std::time::Duration;

/// Returns no watchdog interval.
pub(super) fn watchdog_interval() -> Option<Duration> {
    None
}

/// Does nothing.
pub(super) fn notify_ready() {}

/// Does nothing.
pub(super) fn notify_reloading() {}

/// Does nothing.
pub(super) fn notify_stopping() {}

/// Does nothing.
pub(super) fn feed_watchdog() {}
