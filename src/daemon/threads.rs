//! Starts the daemon's threads, stops all of them if one fails, and waits for them
//! to end.
//!
//! This module knows nothing about the work that the threads do.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::DaemonError;

/// Maximum duration of a shutdown. Threads that are still running after this time are
/// abandoned.
pub(super) const STOP_DEADLINE: Duration = Duration::from_millis(1500);

/// Builds a runtime that has only timers. A thread that has its own runtime can keep
/// working after the main thread has left the main runtime.
pub(super) fn timer_runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_time().build()
}

/// The running threads. A thread that fails or panics asks all others to stop.
pub(super) struct Threads {
    stop: CancellationToken,
    running: Vec<(&'static str, thread::JoinHandle<Result<(), DaemonError>>)>,
    /// Each running thread holds a clone of this sender. The channel closes when the last
    /// thread ends.
    alive: Option<mpsc::Sender<()>>,
    ended: mpsc::Receiver<()>,
}

impl Threads {
    /// Creates an empty set of threads. If one of its threads fails, `stop` is triggered.
    pub(super) fn new(stop: &CancellationToken) -> Threads {
        let (alive, ended) = mpsc::channel(1);
        Threads {
            stop: stop.clone(),
            running: Vec::new(),
            alive: Some(alive),
            ended,
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is where threads are started"
    )]
    pub(super) fn start(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> Result<(), DaemonError> + Send + 'static,
    ) -> Result<(), DaemonError> {
        let stop_on_failure = self.stop.clone().drop_guard();
        let alive = self.alive.clone();
        let handle = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let _alive = alive;
                let result = work();
                if result.is_ok() {
                    // A thread that succeeds must not trigger `stop`: the threads that receive its
                    // data end when their channel closes.
                    stop_on_failure.disarm();
                }
                result
            })?;
        self.running.push((name, handle));
        Ok(())
    }

    /// Waits until all threads have ended.
    pub(super) async fn ended(&mut self) {
        self.alive = None;
        let _ = self.ended.recv().await;
    }

    /// Waits at most [`STOP_DEADLINE`] for the threads to end. Returns the first failure.
    pub(super) fn join(mut self, runtime: &Runtime) -> Result<(), DaemonError> {
        let in_time =
            runtime.block_on(async { tokio::time::timeout(STOP_DEADLINE, self.ended()).await });
        let mut result = Ok(());
        for (name, handle) in self.running {
            if in_time.is_err() && !handle.is_finished() {
                warn!(
                    thread = name,
                    "the thread did not end in time and is abandoned"
                );
                continue;
            }
            let outcome = handle.join().unwrap_or_else(|_| {
                error!(thread = name, "the thread panicked");
                Err(DaemonError::Panicked(name.to_owned()))
            });
            result = result.and(outcome);
        }
        result
    }
}

/// Runs `work` on a separate thread, because `work` may use a disk that hangs. Returns `None` if
/// `work` is still running after `limit`. In that case, `work` continues, but its result is
/// dropped.
///
/// # Errors
/// [`DaemonError::System`] if the thread cannot be started, and [`DaemonError::Panicked`]
/// if `work` panics.
#[expect(
    clippy::disallowed_methods,
    reason = "the thread ends with its work, which may never end"
)]
pub(super) fn within<T: Send + 'static>(
    limit: Duration,
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<Option<T>, DaemonError> {
    let (done, is_done) = sync_channel(1);
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // The receiver no longer exists if `limit` has passed.
            let _ = done.send(work());
        })?;
    match is_done.recv_timeout(limit) {
        Ok(result) => Ok(Some(result)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => Err(DaemonError::Panicked(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_panics_stops_the_others_and_is_reported() {
        let stop = CancellationToken::new();
        let mut threads = Threads::new(&stop);
        threads.start("fine", || Ok(())).unwrap();
        let waits = stop.clone();
        threads
            .start("waits", move || {
                timer_runtime()?.block_on(waits.cancelled());
                Ok(())
            })
            .unwrap();
        assert!(!stop.is_cancelled());
        threads.start("broken", || panic!("on purpose")).unwrap();
        let runtime = timer_runtime().unwrap();
        let error = threads.join(&runtime).unwrap_err();
        assert!(stop.is_cancelled());
        assert!(matches!(error, DaemonError::Panicked(name) if name == "broken"));
    }

    #[test]
    fn work_that_hangs_is_not_waited_for() {
        let limit = Duration::from_mins(1);
        assert_eq!(within(limit, "works", || 7).unwrap(), Some(7));
        let panics = within(limit, "broken", || panic!("on purpose"));
        let panics: Result<Option<()>, DaemonError> = panics;
        assert!(matches!(panics, Err(DaemonError::Panicked(name)) if name == "broken"));
        let (release, released) = std::sync::mpsc::channel::<()>();
        let hangs = move || released.recv().is_ok();
        let result = within(Duration::from_millis(20), "hangs", hangs).unwrap();
        assert_eq!(result, None);
        assert!(release.send(()).is_ok(), "it still runs");
    }

    #[test]
    fn a_thread_that_hangs_is_abandoned() {
        let stop = CancellationToken::new();
        let mut threads = Threads::new(&stop);
        let (release, released) = std::sync::mpsc::channel::<()>();
        threads
            .start("hangs", move || {
                let _ = released.recv();
                Ok(())
            })
            .unwrap();
        threads.join(&timer_runtime().unwrap()).unwrap();
        assert!(release.send(()).is_ok(), "it still runs");
    }
}
