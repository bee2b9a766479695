//! The worker threads that all computations in this crate share.
//!
//! This module creates the threads and provides two ways to use them: several threads for
//! one run of a model, or one thread for each of several independent items. It knows
//! nothing about what the threads compute.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use tract_onnx::prelude::multithread::{
    Executor, multithread_tract_scope, set_threading_panel_threshold,
};

use super::error::guarded;

/// Several threads share a matrix product if it has at least this many panels. tract's
/// default of 64 would exclude most of the backbone.
const MIN_SHARED_PANELS: usize = 16;

/// Threads that share the work of a single run of a model, or of several independent
/// items.
///
/// Idle threads use no CPU time. The results do not depend on the number of threads.
#[derive(Debug, Clone)]
pub struct ThreadPool(Executor);

impl ThreadPool {
    /// Creates a pool without threads, which runs everything on the caller's thread.
    #[must_use]
    pub fn alone() -> ThreadPool {
        ThreadPool(Executor::SingleThread)
    }

    /// Creates a pool of `threads` threads. If `threads` is less than 2, or if the system
    /// refuses to create threads, everything runs on the caller's thread instead.
    #[must_use]
    pub fn of(threads: usize) -> ThreadPool {
        if threads < 2 {
            return ThreadPool::alone();
        }
        set_threading_panel_threshold(MIN_SHARED_PANELS);
        // tract panics if the system refuses to create a thread.
        let pool = guarded(|| Ok(Executor::multithread_with_name(threads, "worker")));
        pool.map_or_else(|_| ThreadPool::alone(), ThreadPool)
    }

    /// Runs both functions, in parallel if the pool has threads.
    pub(crate) fn join<A: Send, B: Send>(
        &self,
        first: impl FnOnce() -> A + Send,
        second: impl FnOnce() -> B + Send,
    ) -> (A, B) {
        match &self.0 {
            Executor::MultiThread(threads) => threads.join(first, second),
            _ => (first(), second()),
        }
    }

    /// Calls `work` with each index from 0 to `count - 1`. Each worker in `workers` is
    /// used by one thread at a time, and takes the next index as soon as it has
    /// finished the previous one. If `workers` is empty, does nothing.
    ///
    /// `finished` receives the results on the caller's thread, in the order in which the
    /// calls to `work` end. After `finished` returns [`ControlFlow::Break`], no further
    /// calls start, but `finished` still receives the results of all calls that have
    /// started.
    pub(crate) fn for_each<W: Send, T: Send>(
        &self,
        workers: &mut [W],
        count: usize,
        work: impl Fn(&mut W, usize) -> T + Sync,
        mut finished: impl FnMut(usize, T) -> ControlFlow<()>,
    ) {
        let Executor::MultiThread(threads) = &self.0 else {
            if let [worker, ..] = workers {
                let _ = (0..count).try_for_each(|index| finished(index, work(worker, index)));
            }
            return;
        };
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        threads.in_place_scope(|scope| {
            let (results, received) = mpsc::channel();
            for worker in workers.iter_mut().take(count) {
                let (results, work, next, stop) = (results.clone(), &work, &next, &stop);
                scope.spawn(move |_| {
                    while !stop.load(Ordering::Relaxed) {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= count || results.send((index, work(worker, index))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(results);
            for (index, result) in received {
                if finished(index, result).is_break() {
                    stop.store(true, Ordering::Relaxed);
                }
            }
        });
    }

    /// Calls `run`, which runs a model once, and lets it use the threads of the pool.
    pub(super) fn run_model<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        let shared = || multithread_tract_scope(self.0.clone(), run);
        // Run on a thread of the pool, because any other thread would block and be woken
        // up at each operation.
        match &self.0 {
            Executor::MultiThread(threads) => threads.install(shared),
            _ => shared(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_index_is_done_once_with_any_number_of_threads_and_workers() {
        for threads in [1, 2, 5] {
            let pool = ThreadPool::of(threads);
            for workers in [1, 2, 7] {
                let mut calls = vec![0_usize; workers];
                let mut results = vec![None; 40];
                pool.for_each(
                    &mut calls,
                    40,
                    |calls, index| {
                        *calls += 1;
                        index * index
                    },
                    |index, square| {
                        assert_eq!(results[index].replace(square), None);
                        ControlFlow::Continue(())
                    },
                );
                assert_eq!(calls.iter().sum::<usize>(), 40);
                assert!((0..40).all(|index| results[index] == Some(index * index)));
            }
        }
    }

    #[test]
    fn a_break_stops_the_work_and_the_rest_is_still_received() {
        for threads in [1, 3] {
            let mut started = [0_usize; 3];
            let mut received = 0;
            ThreadPool::of(threads).for_each(
                &mut started,
                1_000_000,
                |started, _| *started += 1,
                |_, ()| {
                    received += 1;
                    ControlFlow::Break(())
                },
            );
            assert!((1..1_000_000).contains(&received), "{received}");
            assert_eq!(started.iter().sum::<usize>(), received);
        }
    }

    #[test]
    fn a_panic_of_the_work_reaches_the_caller() {
        for threads in [1, 2] {
            let caught = std::panic::catch_unwind(|| {
                ThreadPool::of(threads).for_each(
                    &mut [(), ()],
                    10,
                    |(), index| assert!(index < 5, "index {index}"),
                    |_, ()| ControlFlow::Continue(()),
                );
            });
            assert!(caught.is_err(), "with {threads} threads");
        }
    }
}
