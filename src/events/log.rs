//! The newest events, and the state of the receivers, in memory.
//!
//! The API, the page, MQTT, and the metrics read this log. Its locks are held only while plain
//! values are copied.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::event::Event;

/// Number of events that are kept in memory.
pub const KEPT: usize = 200;

/// How events reach a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReceiverKind {
    /// By an HTTP request.
    Webhook,
    /// On the standard input of a program.
    Exec,
}

/// The state of a receiver of events. This format is stable. All numbers count from the start of
/// the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceiverRecord {
    /// Name of the receiver in the config.
    pub name: String,
    /// How events reach the receiver.
    pub kind: ReceiverKind,
    /// Number of events that were delivered.
    pub delivered: u64,
    /// Number of attempts that failed.
    pub failed: u64,
    /// Number of events that are lost.
    pub dropped: u64,
    /// Number of events that wait now.
    pub waiting: usize,
    /// Number of attempts that failed since the last delivery.
    pub failures_in_a_row: u64,
    /// When an event was last delivered, in UTC; absent if none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_delivered: Option<String>,
    /// When an attempt last failed, in UTC; absent if none has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failed: Option<String>,
    /// Why the last attempt that failed did; absent if none has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    /// Why the waiting events would be lost by a restart; absent if they are on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_saved: Option<String>,
}

impl ReceiverRecord {
    /// Creates the record of a receiver to which nothing was delivered yet.
    #[must_use]
    pub fn new(name: &str, kind: ReceiverKind) -> ReceiverRecord {
        ReceiverRecord {
            name: name.to_owned(),
            kind,
            delivered: 0,
            failed: 0,
            dropped: 0,
            waiting: 0,
            failures_in_a_row: 0,
            last_delivered: None,
            last_failed: None,
            last_failure: None,
            not_saved: None,
        }
    }
}

/// An event with its place in the log.
#[derive(Debug, Clone)]
pub struct LoggedEvent {
    /// Place in the log, counted from 0.
    pub place: u64,
    /// When the event was added.
    pub at: Instant,
    /// The event.
    pub event: Arc<Event>,
}

#[derive(Debug, Default)]
struct Inner {
    events: Mutex<VecDeque<LoggedEvent>>,
    receivers: Mutex<Vec<ReceiverRecord>>,
}

/// The log. All clones share the same content.
#[derive(Debug, Clone, Default)]
pub struct EventLog(Arc<Inner>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned lock is safe to use, because a panic cannot leave these plain values half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EventLog {
    /// Adds an event that happened at `at`. The oldest event is forgotten if there are too many.
    pub fn push(&self, at: Instant, event: Arc<Event>) {
        let mut events = lock(&self.0.events);
        let place = events.back().map_or(0, |last| last.place + 1);
        if events.len() >= KEPT {
            events.pop_front();
        }
        events.push_back(LoggedEvent { place, at, event });
    }

    /// Returns the events, newest first.
    #[must_use]
    pub fn newest_first(&self) -> Vec<Event> {
        let events = lock(&self.0.events);
        let events = events.iter().rev();
        events.map(|logged| (*logged.event).clone()).collect()
    }

    /// Returns the events from this place on, oldest first.
    #[must_use]
    pub fn since(&self, place: u64) -> Vec<LoggedEvent> {
        let events = lock(&self.0.events);
        let events = events.iter().filter(|logged| logged.place >= place);
        events.cloned().collect()
    }

    /// Returns the state of all receivers, in the order of the config.
    #[must_use]
    pub fn receivers(&self) -> Vec<ReceiverRecord> {
        lock(&self.0.receivers).clone()
    }

    /// Adds a receiver.
    #[must_use]
    pub fn add_receiver(&self, name: &str, kind: ReceiverKind) -> ReceiverState {
        let mut receivers = lock(&self.0.receivers);
        receivers.push(ReceiverRecord::new(name, kind));
        ReceiverState {
            log: self.clone(),
            index: receivers.len() - 1,
        }
    }
}

/// The state of one receiver in the log.
#[derive(Debug, Clone)]
pub struct ReceiverState {
    log: EventLog,
    index: usize,
}

impl ReceiverState {
    pub(super) fn change(&self, change: impl FnOnce(&mut ReceiverRecord)) {
        let mut receivers = lock(&self.log.0.receivers);
        if let Some(record) = receivers.get_mut(self.index) {
            change(record);
        }
    }

    /// Counts an event that is lost before the receiver got it. Returns how many were lost so far.
    #[must_use]
    pub fn count_dropped(&self) -> u64 {
        let mut dropped = 0;
        self.change(|record| {
            record.dropped += 1;
            dropped = record.dropped;
        });
        dropped
    }

    pub(super) fn count_delivered(&self, time: String) {
        self.change(|record| {
            record.delivered += 1;
            record.failures_in_a_row = 0;
            record.last_delivered = Some(time);
        });
    }

    pub(super) fn count_failed(&self, time: String, why: String) {
        self.change(|record| {
            record.failed += 1;
            record.failures_in_a_row += 1;
            record.last_failed = Some(time);
            record.last_failure = Some(why);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::events::{EventFactory, Occurrence};

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test needs some time")]
    fn the_newest_events_are_kept() {
        let log = EventLog::default();
        let mut factory = EventFactory::new("door").unwrap();
        assert!(log.newest_first().is_empty() && log.since(0).is_empty());
        for _ in 0..KEPT + 5 {
            let event = factory.event(Occurrence::DoorRelease, SystemTime::UNIX_EPOCH, true);
            log.push(Instant::now(), Arc::new(event));
        }
        let events = log.newest_first();
        assert_eq!(events.len(), KEPT);
        assert!(events[0].id.ends_with(&format!("-{}", KEPT + 5)));
        assert!(events[KEPT - 1].id.ends_with("-6"));
        let last = log.since(KEPT as u64 + 3);
        assert_eq!(last.len(), 2);
        assert_eq!(last[1].place, KEPT as u64 + 4);
    }

    #[test]
    fn receivers_are_counted_one_by_one() {
        let log = EventLog::default();
        let first = log.add_receiver("first", ReceiverKind::Webhook);
        let second = log.add_receiver("second", ReceiverKind::Exec);
        first.count_failed("t".to_owned(), "it is away".to_owned());
        assert_eq!(second.count_dropped(), 1);
        assert_eq!(second.count_dropped(), 2);
        second.count_delivered("t".to_owned());
        let [first, second] = log.receivers().try_into().unwrap();
        assert_eq!((first.failed, first.failures_in_a_row), (1, 1));
        assert_eq!(first.last_failure.as_deref(), Some("it is away"));
        assert_eq!((second.delivered, second.dropped), (1, 2));
        assert_eq!(second.failures_in_a_row, 0);
    }
}
