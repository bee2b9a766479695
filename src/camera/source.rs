//! Defines the trait that all sources implement, and the function that they use to wait.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::error::SourceError;
use crate::frame::Frame;

/// The interval at which a wait checks whether a stop was requested.
pub(super) const STOP_CHECK: Duration = Duration::from_millis(50);

/// A source of frames.
pub trait Source: Send {
    /// Waits for the next frame. Returns `None` at the end of a finite source, or after a
    /// stop was requested.
    ///
    /// # Errors
    /// Returns the reason that this source will yield no more frames.
    fn next(&mut self) -> Result<Option<Frame>, SourceError>;
}

/// Sleeps until `due`. Returns false if a stop is requested first.
pub(super) fn sleep_until(due: Instant, stop: &CancellationToken) -> bool {
    while !stop.is_cancelled() {
        let left = due.saturating_duration_since(now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(STOP_CHECK));
    }
    false
}

#[expect(
    clippy::disallowed_methods,
    reason = "frames carry their capture time, and sources have paces and timeouts"
)]
pub(super) fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_ends_the_sleep() {
        let stop = CancellationToken::new();
        assert!(sleep_until(now() + Duration::from_millis(5), &stop));
        stop.cancel();
        let start = now();
        assert!(!sleep_until(start + Duration::from_mins(1), &stop));
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}
