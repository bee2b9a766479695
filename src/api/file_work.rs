//! Runs the file operations of requests on separate threads, and not on the thread that
//! serves the requests.
//!
//! An import can copy thousands of pictures, and a disk can hang. The thread that serves
//! the requests must still respond to `/healthz` in the meantime, so file operations run
//! on the blocking threads of the tokio runtime. The number of these threads is small. A
//! request waits only a limited time for a free thread, and work that makes no progress
//! is abandoned.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

/// Maximum number of threads that do short work, such as listing the samples.
const SHORT: usize = 4;
/// Maximum number of threads that do long work, such as an import.
const LONG: usize = 2;
/// Maximum number of blocking threads that the API needs in a runtime. This includes one
/// thread that checks passwords.
pub(crate) const THREADS: usize = SHORT + LONG + 1;
const PATIENCE: Patience = Patience {
    thread: Duration::from_secs(10),
    step: Duration::from_secs(30),
};

static SHORT_THREADS: Semaphore = Semaphore::const_new(SHORT);
static LONG_THREADS: Semaphore = Semaphore::const_new(LONG);

/// How long a task usually takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// A fraction of a second.
    Short,
    /// Possibly many minutes. The task must call [`Progress::is_canceled`] at every step.
    Long,
}

/// Counts the steps of a task, and tells the task whether it must end early.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    steps: AtomicU64,
    canceled: AtomicBool,
}

impl Progress {
    /// Whether the task must end early because its client has disconnected or its
    /// deadline has passed. Each call also counts as progress.
    pub(crate) fn is_canceled(&self) -> bool {
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.canceled.load(Ordering::Relaxed)
    }
}

/// Cancels the task when this value is dropped, for example because the client
/// disconnects.
struct CancelOnDrop(Arc<Progress>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.canceled.store(true, Ordering::Relaxed);
    }
}

/// Why a task has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FileWorkError {
    /// All threads are busy.
    #[error("the daemon is busy with the files of other requests: try again later")]
    Busy,
    /// The task made no progress.
    #[error(
        "the disk has not answered for {} seconds: check it; what was already done is kept",
        PATIENCE.step.as_secs()
    )]
    Stuck,
    /// The task panicked, or the runtime is shutting down.
    #[error("the request ended unexpectedly; see the log of the daemon")]
    Ended,
}

/// How long a request waits before it fails.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// Maximum time to wait for a free thread.
    thread: Duration,
    /// Maximum time between two steps of the task.
    step: Duration,
}

/// Runs `work` on another thread and waits for its result. If the returned future is
/// dropped, the work is canceled.
pub(crate) async fn run<T: Send + 'static>(
    length: Length,
    work: impl FnOnce(&Progress) -> T + Send + 'static,
) -> Result<T, FileWorkError> {
    let threads = match length {
        Length::Short => &SHORT_THREADS,
        Length::Long => &LONG_THREADS,
    };
    run_on(threads, PATIENCE, work).await
}

#[expect(
    clippy::disallowed_methods,
    reason = "the only place where file work leaves the thread that answers requests"
)]
async fn run_on<T: Send + 'static>(
    threads: &'static Semaphore,
    patience: Patience,
    work: impl FnOnce(&Progress) -> T + Send + 'static,
) -> Result<T, FileWorkError> {
    let permit = tokio::time::timeout(patience.thread, threads.acquire()).await;
    let permit = permit
        .ok()
        .and_then(Result::ok)
        .ok_or(FileWorkError::Busy)?;
    let progress = Arc::new(Progress::default());
    let _cancel = CancelOnDrop(Arc::clone(&progress));
    let mut running = tokio::task::spawn_blocking({
        let progress = Arc::clone(&progress);
        move || {
            // If the work hangs, the thread is still occupied, so the permit is not
            // returned.
            let _permit = permit;
            work(&progress)
        }
    });
    let mut steps = 0;
    loop {
        match tokio::time::timeout(patience.step, &mut running).await {
            Ok(result) => return result.map_err(|_| FileWorkError::Ended),
            Err(_elapsed) => {
                let now = progress.steps.load(Ordering::Relaxed);
                if now == steps {
                    return Err(FileWorkError::Stuck);
                }
                steps = now;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    }

    const IMPATIENT: Patience = Patience {
        thread: Duration::from_millis(100),
        step: Duration::from_millis(400),
    };

    #[test]
    fn work_that_hangs_is_given_up_and_keeps_its_thread() {
        static ONE: Semaphore = Semaphore::const_new(1);
        let runtime = runtime();
        let (release, released) = mpsc::channel::<()>();
        let (seen, canceled) = mpsc::channel();
        let hangs = move |progress: &Progress| {
            let _ = released.recv();
            let _ = seen.send(progress.is_canceled());
        };
        let result = runtime.block_on(run_on(&ONE, IMPATIENT, hangs));
        assert_eq!(result, Err(FileWorkError::Stuck));
        let next = runtime.block_on(run_on(&ONE, IMPATIENT, |_| ()));
        assert_eq!(next, Err(FileWorkError::Busy), "the disk still hangs");
        release.send(()).unwrap();
        assert!(canceled.recv().unwrap(), "the work ends at its next step");
        let next = runtime.block_on(run_on(&ONE, PATIENCE, |_| 7));
        assert_eq!(next, Ok(7), "the thread is free again");
    }

    #[test]
    fn work_that_makes_progress_may_take_long() {
        static ONE: Semaphore = Semaphore::const_new(1);
        let result = runtime().block_on(run_on(&ONE, IMPATIENT, |progress| {
            for _ in 0..10 {
                std::thread::sleep(IMPATIENT.step / 4);
                assert!(!progress.is_canceled());
            }
        }));
        assert_eq!(result, Ok(()));
    }

    #[test]
    fn a_client_that_disconnects_cancels_its_work() {
        static ONE: Semaphore = Semaphore::const_new(1);
        let (seen, canceled) = mpsc::channel();
        let work = move |progress: &Progress| {
            while !progress.is_canceled() {
                std::thread::yield_now();
            }
            let _ = seen.send(());
        };
        runtime().block_on(async {
            let request = run_on(&ONE, PATIENCE, work);
            let request = tokio::time::timeout(Duration::from_millis(50), request);
            assert!(request.await.is_err());
        });
        canceled.recv().unwrap();
    }

    #[test]
    fn work_that_panics_ends_without_a_result() {
        static ONE: Semaphore = Semaphore::const_new(1);
        let result = runtime().block_on(run_on(&ONE, PATIENCE, |_| panic!("on purpose")));
        assert_eq!(result, Err::<(), _>(FileWorkError::Ended));
        assert_eq!(runtime().block_on(run_on(&ONE, PATIENCE, |_| 1)), Ok(1));
    }
}
