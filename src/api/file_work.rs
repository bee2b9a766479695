//! Runs the file work of requests off the thread that answers them.
//!
//! An import copies thousands of pictures. In the meantime, the answering thread must
//! serve `/healthz`; in the daemon, it must also feed the watchdog and handle signals.
//! File work therefore runs on the blocking threads of the tokio runtime. The daemon
//! sets how many there are.

/// Runs `work` on another thread and waits for its result. Returns `None` if `work`
/// panics or the runtime is shutting down.
#[expect(
    clippy::disallowed_methods,
    reason = "the only place where the API leaves the thread that answers requests"
)]
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
