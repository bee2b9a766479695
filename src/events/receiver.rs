//! What all receivers of events have in common.

use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::warn;

use super::event::{Event, EventKind};
use super::log::{EventLog, ReceiverKind, ReceiverState};

/// Maximum number of events that wait until the thread of a receiver takes them. They wait longer
/// than a moment only if the disk hangs.
const CHANNEL: usize = 256;

/// The kinds of events that a receiver gets. An empty list stands for all kinds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection(pub Vec<EventKind>);

impl Selection {
    fn contains(&self, kind: EventKind) -> bool {
        self.0.is_empty() || self.0.contains(&kind)
    }
}

/// Passes events to the thread of a receiver, and never waits for it.
#[derive(Debug)]
pub struct ReceiverFeed {
    name: String,
    selection: Selection,
    events: mpsc::Sender<Arc<Event>>,
    state: ReceiverState,
}

impl ReceiverFeed {
    /// Adds a receiver to the log. Returns its feed, the other end of the feed, and its state.
    #[must_use]
    pub fn connect(
        name: &str,
        kind: ReceiverKind,
        selection: Selection,
        log: &EventLog,
    ) -> (ReceiverFeed, mpsc::Receiver<Arc<Event>>, ReceiverState) {
        let (events, events_in) = mpsc::channel(CHANNEL);
        let state = log.add_receiver(name, kind);
        let feed = ReceiverFeed {
            name: name.to_owned(),
            selection,
            events,
            state: state.clone(),
        };
        (feed, events_in, state)
    }

    /// Passes on an event if the receiver gets events of its kind. If too many events wait, the
    /// event is dropped and counted.
    pub fn send(&self, event: &Arc<Event>) {
        if !self.selection.contains(event.kind()) {
            return;
        }
        if self.events.try_send(Arc::clone(event)).is_err() && self.state.count_dropped() == 1 {
            warn!(
                receiver = self.name,
                "events are dropped: the receiver is too slow, or its disk hangs"
            );
        }
    }
}

/// Logs an event that is lost, but only the first one and then each hundredth.
pub(super) fn warn_dropped(receiver: &str, dropped: u64, why: &str) {
    if dropped % 100 == 1 {
        warn!(receiver, dropped, "an event is lost: {why}");
    }
}
