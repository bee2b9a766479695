//! Conditions that become events: a decision that stays unsure, and a disk that is full.
//!
//! This module does no I/O. It receives the time and the free space as arguments.

use std::time::{Duration, Instant};

use super::event::Occurrence;
use crate::decision::decide::Decision;

/// Notices when the decision has been unsure for long.
#[derive(Debug)]
pub struct UnsureTimer {
    after: Duration,
    due: Option<Instant>,
}

impl UnsureTimer {
    /// Creates a timer for a decision that is unsure for longer than `after`. With 0, the timer is
    /// off.
    #[must_use]
    pub fn new(after: Duration) -> UnsureTimer {
        UnsureTimer { after, due: None }
    }

    /// Takes note of a new decision.
    pub fn observe(&mut self, at: Instant, decision: Decision) {
        let starts = decision == Decision::Unsure && !self.after.is_zero();
        self.due = starts.then(|| at.checked_add(self.after)).flatten();
    }

    /// When [`expire`](UnsureTimer::expire) must be called, or `None` if not at all.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Returns the event if it is due. There is only one until the decision changes.
    pub fn expire(&mut self, now: Instant) -> Option<Occurrence> {
        self.due.take_if(|due| *due <= now)?;
        let seconds = self.after.as_secs();
        Some(Occurrence::Unsure { seconds })
    }
}

/// Notices when a disk becomes full, and when it has space again.
#[derive(Debug)]
pub struct DiskWatch {
    min_free_mib: u64,
    is_full: bool,
}

impl DiskWatch {
    /// Creates a watch. The disk is full if less than `min_free_mib` MiB are free. It has space
    /// again if one and a half times this space is free.
    #[must_use]
    pub fn new(min_free_mib: u64) -> DiskWatch {
        DiskWatch {
            min_free_mib,
            is_full: false,
        }
    }

    /// Returns the event if the disk became full or has space again. `free_mib` is the free space
    /// in MiB.
    pub fn observe(&mut self, free_mib: u64) -> Option<Occurrence> {
        if !self.is_full && free_mib < self.min_free_mib {
            self.is_full = true;
            Some(Occurrence::DiskFull { free_mib })
        } else if self.is_full && free_mib >= self.min_free_mib + self.min_free_mib / 2 {
            self.is_full = false;
            Some(Occurrence::DiskFree { free_mib })
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test needs some time")]
    fn a_decision_that_stays_unsure_is_told_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timer = UnsureTimer::new(Duration::from_secs(30));
        assert_eq!(timer.expire(at(100)), None);
        timer.observe(at(0), Decision::Unsure);
        assert_eq!(timer.due(), Some(at(30)));
        assert_eq!(timer.expire(at(29)), None);
        assert_eq!(
            timer.expire(at(30)),
            Some(Occurrence::Unsure { seconds: 30 })
        );
        assert_eq!(timer.expire(at(90)), None);
        timer.observe(at(91), Decision::Unsure);
        timer.observe(at(92), Decision::Mask);
        assert_eq!(timer.expire(at(200)), None);
        let mut off = UnsureTimer::new(Duration::ZERO);
        off.observe(at(0), Decision::Unsure);
        assert_eq!(off.due(), None);
    }

    #[test]
    fn a_full_disk_is_told_once_until_there_is_space() {
        let mut watch = DiskWatch::new(50);
        let mut observe = |mib: u64| watch.observe(mib);
        assert_eq!(observe(50), None);
        assert_eq!(observe(49), Some(Occurrence::DiskFull { free_mib: 49 }));
        assert_eq!(observe(0), None);
        assert_eq!(observe(74), None);
        assert_eq!(observe(75), Some(Occurrence::DiskFree { free_mib: 75 }));
        assert_eq!(observe(51), None);
        assert_eq!(DiskWatch::new(0).observe(0), None);
    }
}
