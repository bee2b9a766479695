//! The console thread, which shows decisions on standard output.
//!
//! The reader of standard output may be slow or may stop reading, as a terminal does
//! after Ctrl-S. This must not delay the outputs at the door, so only this thread writes
//! to standard output. The indicator thread passes content to this thread without
//! waiting. If too many decision changes are waiting to be shown, the oldest changes are
//! lost and counted, so that the latest decision is always shown in the end.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tracing::{info, warn};

use super::DaemonError;
use crate::decision::decide::Decision;
use crate::decision::frame_result::FrameResult;
use crate::indicate::{Console, DecisionChange, Levels};

/// Maximum number of decision changes that wait to be shown.
const CAPACITY: usize = 256;

/// What the console has not shown yet.
#[derive(Default)]
struct Pending {
    changes: VecDeque<DecisionChange>,
    /// Number of changes that were lost since the queue was last empty.
    lost: u64,
    /// The latest frame result that has not been shown yet. A fault removes it.
    frame: Option<Arc<FrameResult>>,
    levels: Option<Levels>,
    has_ended: bool,
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        // A poisoned lock is safe to use, because the fields are independent of each
        // other.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Pending)) {
        change(&mut self.lock());
        self.changed.notify_one();
    }
}

/// Passes content to the console thread. The console thread ends after this value is
/// dropped and everything has been shown. No function waits for the reader of standard
/// output.
pub(super) struct ConsoleFeed {
    shared: Arc<Shared>,
    /// Whether the console also shows frames and levels.
    is_live: bool,
}

/// The console thread.
pub(super) struct ConsoleWorker {
    shared: Arc<Shared>,
    console: Console,
}

/// Connects a console to a feed.
pub(super) fn connect(console: Console) -> (ConsoleFeed, ConsoleWorker) {
    let shared = Arc::<Shared>::default();
    let feed = ConsoleFeed {
        shared: Arc::clone(&shared),
        is_live: console.is_live(),
    };
    (feed, ConsoleWorker { shared, console })
}

impl ConsoleFeed {
    /// Shows a change in the decision.
    pub(super) fn change(&self, change: DecisionChange) {
        self.shared.change(|pending| {
            if change.decision == Decision::Fault {
                pending.frame = None;
            }
            if pending.changes.len() >= CAPACITY {
                pending.changes.pop_front();
                pending.lost += 1;
                if pending.lost == 1 {
                    warn!(
                        "nothing reads standard output: the oldest changes in the decision are lost \
                         until it is read again"
                    );
                }
            }
            pending.changes.push_back(change);
        });
    }

    /// Shows the faces in the latest frame, if the console is live.
    pub(super) fn set_faces(&self, frame: &Arc<FrameResult>) {
        if self.is_live {
            self.shared
                .change(|pending| pending.frame = Some(Arc::clone(frame)));
        }
    }

    /// Shows the state of the outputs, if the console is live.
    pub(super) fn set_levels(&self, levels: Levels) {
        if self.is_live {
            self.shared.change(|pending| pending.levels = Some(levels));
        }
    }
}

impl Drop for ConsoleFeed {
    fn drop(&mut self) {
        self.shared.change(|pending| pending.has_ended = true);
    }
}

impl ConsoleWorker {
    /// Shows everything until the feed is dropped.
    pub(super) fn run(mut self) -> Result<(), DaemonError> {
        loop {
            let mut pending = self.shared.lock();
            let change = pending.changes.pop_front();
            if let Some(change) = change {
                drop(pending);
                self.console.change(&change).map_err(DaemonError::Console)?;
                continue;
            }
            let lost = std::mem::take(&mut pending.lost);
            let (frame, levels) = (pending.frame.take(), pending.levels.take());
            if lost == 0 && frame.is_none() && levels.is_none() {
                if pending.has_ended {
                    return Ok(());
                }
                let woken = self.shared.changed.wait(pending);
                drop(woken.unwrap_or_else(PoisonError::into_inner));
                continue;
            }
            drop(pending);
            if lost > 0 {
                info!(lost, "standard output is read again");
            }
            if let Some(frame) = frame {
                self.console.set_faces(&frame);
            }
            if let Some(levels) = levels {
                self.console.set_levels(levels);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::indicate::ConsoleStyle;

    #[test]
    fn the_oldest_changes_are_lost_if_nothing_is_read() {
        let (feed, worker) = connect(Console::new(ConsoleStyle::Json));
        let change = |number| DecisionChange {
            change: number,
            time: 0.0,
            decision: Decision::Idle,
            frame: None,
            faces: Vec::new(),
        };
        let all = CAPACITY as u64 + 3;
        for number in 1..=all {
            feed.change(change(number));
        }
        feed.set_levels(Levels::default());
        let pending = worker.shared.lock();
        assert_eq!(pending.lost, 3);
        let waiting: Vec<u64> = pending.changes.iter().map(|change| change.change).collect();
        assert_eq!(waiting, (4..=all).collect::<Vec<u64>>());
        assert!(pending.levels.is_none(), "only a live console shows them");
    }
}
