//! File work of requests, beside the thread that answers them.
//!
//! An import copies thousands of pictures. Meanwhile the same thread must answer
//! `/healthz`, and in the daemon feed the watchdog and take signals. The work runs
//! on the blocking threads of the tokio runtime; the daemon sets how many there are.

/// Runs `work` on another thread and waits for its result. `None` if it panicked,
/// or if the runtime is shutting down.
#[expect(
    clippy::disallowed_methods,
    reason = "the only place where the API leaves the thread that answers requests"
)]
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
