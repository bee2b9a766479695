//! Tells systemd when the daemon is ready, reloads, and stops, and feeds its watchdog. Does
//! nothing if the daemon runs without systemd. `no_service_manager.rs` takes the place of
//! this module on systems other than Linux.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{info, warn};

/// Returns the time after which systemd ends a daemon that has not fed the watchdog, or
/// `None` if there is no watchdog.
pub(super) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Reports that the daemon is ready, or that a reload is complete.
pub(super) fn notify_ready() {
    notify(&[NotifyState::Ready]);
}

/// Reports that a reload has started. The caller must call [`notify_ready`] afterward.
pub(super) fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(time) => notify(&[NotifyState::Reloading, time]),
        Err(error) => warn!(%error, "cannot notify the service manager of a reload"),
    }
}

/// Reports that the daemon is stopping.
pub(super) fn notify_stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Feeds the watchdog.
pub(super) fn feed_watchdog() {
    notify(&[NotifyState::Watchdog]);
}

/// Notifies the service manager. If notifying fails repeatedly, only the first failure is
/// logged, because the watchdog is fed often.
fn notify(state: &[NotifyState]) {
    static IS_FAILING: AtomicBool = AtomicBool::new(false);
    let result = sd_notify::notify(state);
    let was_failing = IS_FAILING.swap(result.is_err(), Ordering::Relaxed);
    match result {
        Err(error) if !was_failing => warn!(%error, "cannot notify the service manager"),
        Ok(()) if was_failing => info!("the service manager can be notified again"),
        _ => {}
    }
}
