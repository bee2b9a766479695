//! Enrollments. While an enrollment is active, new crops of the nearest face immediately
//! get the label of the enrollment.
//!
//! This module owns the counts and the time limits. It knows nothing about the camera, the clock,
//! or files. Each crop carries the id of its enrollment, so that a crop that is stored late counts
//! toward its own enrollment rather than the next one.
//!
//! An enrollment never outlives its time limit, because the next face in front of the
//! camera may belong to another person. A client that waits for the crops can also
//! set a lease, so that the enrollment ends soon after the client has died.

use std::time::{Duration, Instant};

use super::Enrollment;
use crate::onnx::Label;

/// The active enrollment, or the last one if none is active.
#[derive(Debug, Default)]
pub struct Enrollments {
    last: Option<Enrollment>,
    limit: Option<TimeLimit>,
}

/// The time limit after which an enrollment ends even if it is incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLimit {
    started_at: Instant,
    longest: Duration,
    /// The enrollment ends if the client does not renew the lease for this long.
    lease: Option<Duration>,
    renewed_at: Instant,
}

impl TimeLimit {
    /// Creates the time limit for an enrollment that starts `now`.
    #[must_use]
    pub fn new(now: Instant, longest: Duration, lease: Option<Duration>) -> TimeLimit {
        TimeLimit {
            started_at: now,
            longest,
            lease,
            renewed_at: now,
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.started_at);
        let silence = now.saturating_duration_since(self.renewed_at);
        age >= self.longest || self.lease.is_some_and(|lease| silence >= lease)
    }
}

impl Enrollments {
    /// Returns the active enrollment, or the last one if none is active.
    #[must_use]
    pub fn last(&self) -> Option<&Enrollment> {
        self.last.as_ref()
    }

    /// Returns the active enrollment, if there is one.
    #[must_use]
    pub fn active(&self) -> Option<&Enrollment> {
        self.last.as_ref().filter(|last| !last.is_over())
    }

    /// Returns the active enrollment if it had started when a frame was captured. On a slow device,
    /// frames wait, and an earlier one may show the person before the mask was put on.
    #[must_use]
    pub fn active_at(&self, captured: Instant) -> Option<&Enrollment> {
        let has_started = self.limit.is_some_and(|limit| limit.started_at <= captured);
        self.active().filter(|_| has_started)
    }

    /// Starts an enrollment of `wanted` crops. Returns `None` if another
    /// enrollment is active.
    pub fn start(&mut self, label: &Label, wanted: u32, limit: TimeLimit) -> Option<Enrollment> {
        if self.active().is_some() {
            return None;
        }
        let new = Enrollment {
            id: self.last.as_ref().map_or(0, |last| last.id) + 1,
            label: label.to_string(),
            wanted,
            taken: 0,
            stored: 0,
        };
        self.last = Some(new.clone());
        self.limit = Some(limit);
        Some(new)
    }

    /// If the time limit of the active enrollment has passed, ends the enrollment and
    /// returns it. The caller must call this function before it reads or changes an
    /// enrollment.
    pub fn expire(&mut self, now: Instant) -> Option<Enrollment> {
        self.active()?;
        let limit = self.limit.filter(|limit| limit.is_over(now));
        limit.and_then(|_| self.end())
    }

    /// Records that the client of the enrollment `id` is still waiting.
    pub fn renew(&mut self, id: u64, now: Instant) {
        if self.last.as_ref().is_some_and(|last| last.id == id)
            && let Some(limit) = &mut self.limit
        {
            limit.renewed_at = now;
        }
    }

    /// Ends the active enrollment. Crops that were already taken are still
    /// stored. Returns `None` if there has been no enrollment.
    pub fn end(&mut self) -> Option<Enrollment> {
        let last = self.last.as_mut()?;
        last.wanted = last.wanted.min(last.taken);
        Some(last.clone())
    }

    /// Records that a crop of the enrollment `id` was taken.
    pub fn taken(&mut self, id: u64) {
        if let Some(enrollment) = self.by_id(id) {
            enrollment.taken += 1;
        }
    }

    /// Records that a crop of the enrollment `id` is on disk.
    pub fn stored(&mut self, id: u64) {
        if let Some(enrollment) = self.by_id(id) {
            enrollment.stored += 1;
        }
    }

    /// Records that a crop of the enrollment `id` was lost before it reached the disk, so that
    /// another crop is taken instead. An enrollment that has ended is not resumed, because the
    /// person may have left.
    pub fn dropped(&mut self, id: u64) {
        if let Some(enrollment) = self.by_id(id)
            && !enrollment.is_over()
        {
            enrollment.taken = enrollment.taken.saturating_sub(1);
        }
    }

    fn by_id(&mut self, id: u64) -> Option<&mut Enrollment> {
        self.last.as_mut().filter(|last| last.id == id)
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests need an arbitrary start time"
)]
mod tests {
    use super::*;

    /// Returns a limit that is too long to affect the test.
    fn limit() -> TimeLimit {
        TimeLimit::new(Instant::now(), Duration::from_mins(1), None)
    }

    fn label() -> Label {
        Label::new("with_mask").unwrap()
    }

    #[test]
    fn crops_are_counted_until_there_are_enough() {
        let mut enrollments = Enrollments::default();
        assert!(enrollments.last().is_none() && enrollments.end().is_none());
        let id = enrollments.start(&label(), 2, limit()).unwrap().id;
        assert_eq!(
            enrollments.start(&label(), 2, limit()),
            None,
            "one is going on"
        );
        enrollments.taken(id);
        assert_eq!(enrollments.active().unwrap().taken, 1);
        enrollments.taken(id);
        assert!(enrollments.active().is_none());
        enrollments.stored(id);
        let last = enrollments.last().unwrap();
        assert_eq!((last.taken, last.stored), (2, 1));
    }

    #[test]
    fn a_late_crop_counts_for_its_own_enrollment() {
        let mut enrollments = Enrollments::default();
        let first = enrollments.start(&label(), 3, limit()).unwrap().id;
        enrollments.taken(first);
        assert_eq!(enrollments.end().unwrap().wanted, 1);
        let second = enrollments.start(&label(), 3, limit()).unwrap();
        enrollments.stored(first);
        enrollments.taken(first);
        enrollments.dropped(first);
        assert_eq!(enrollments.last(), Some(&second));
        enrollments.taken(second.id);
        enrollments.stored(second.id);
        let last = enrollments.last().unwrap();
        assert_eq!((last.taken, last.stored), (1, 1));
    }

    #[test]
    fn a_lost_crop_is_replaced_unless_the_enrollment_is_over() {
        let mut enrollments = Enrollments::default();
        let id = enrollments.start(&label(), 2, limit()).unwrap().id;
        enrollments.taken(id);
        enrollments.dropped(id);
        assert_eq!(enrollments.active().unwrap().taken, 0);
        enrollments.taken(id);
        enrollments.end();
        enrollments.dropped(id);
        assert!(enrollments.active().is_none(), "it stays over");
    }

    #[test]
    fn an_enrollment_ends_at_its_limit() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut enrollments = Enrollments::default();
        assert_eq!(enrollments.expire(start), None);
        let limit = TimeLimit::new(start, Duration::from_secs(30), None);
        let id = enrollments.start(&label(), 3, limit).unwrap().id;
        enrollments.taken(id);
        assert_eq!(enrollments.expire(after(29)), None);
        enrollments.renew(id, after(29));
        let ended = enrollments.expire(after(30)).unwrap();
        assert_eq!((ended.id, ended.wanted, ended.taken), (id, 1, 1));
        assert!(enrollments.active().is_none());
        assert_eq!(enrollments.expire(after(31)), None, "it is told once");
        let limit = TimeLimit::new(after(31), Duration::from_secs(30), None);
        assert!(enrollments.start(&label(), 3, limit).is_some());
    }

    #[test]
    fn an_enrollment_with_a_lease_ends_soon_after_its_client() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut enrollments = Enrollments::default();
        let lease = Some(Duration::from_secs(5));
        let limit = TimeLimit::new(start, Duration::from_secs(30), lease);
        let id = enrollments.start(&label(), 3, limit).unwrap().id;
        for seconds in (0..20).step_by(4) {
            assert_eq!(enrollments.expire(after(seconds)), None);
            enrollments.renew(id, after(seconds));
            enrollments.renew(id + 1, after(seconds + 1000));
        }
        assert!(enrollments.expire(after(21)).is_some());
        let limit = TimeLimit::new(after(21), Duration::from_secs(30), lease);
        let next = enrollments.start(&label(), 3, limit).unwrap().id;
        // A late request from the first client does not extend the next enrollment.
        enrollments.renew(id, after(24));
        assert!(enrollments.expire(after(26)).is_some());
        // Even a client that keeps renewing its lease cannot exceed the limit.
        let limit = TimeLimit::new(after(26), Duration::from_secs(30), lease);
        let last = enrollments.start(&label(), 3, limit).unwrap().id;
        assert!(last > next);
        for seconds in 26..56 {
            assert_eq!(enrollments.expire(after(seconds)), None);
            enrollments.renew(last, after(seconds));
        }
        assert!(enrollments.expire(after(56)).is_some());
    }
}
