//! Enrollments. While an enrollment is active, the crops of the nearest face
//! get its label immediately.
//!
//! This module owns the counts. It is pure and knows nothing about the camera,
//! the clock, or files. Each crop carries the id of its enrollment, so that a
//! crop that is stored late counts toward its own enrollment and not toward the
//! next one.

use super::Enrollment;
use crate::onnx::Label;

/// The active enrollment, or the last one if none is active.
#[derive(Debug, Default)]
pub struct Enrollments {
    last: Option<Enrollment>,
}

impl Enrollments {
    /// The active enrollment, or the last one if none is active.
    #[must_use]
    pub fn last(&self) -> Option<&Enrollment> {
        self.last.as_ref()
    }

    /// The active enrollment.
    #[must_use]
    pub fn active(&self) -> Option<&Enrollment> {
        self.last.as_ref().filter(|last| !last.is_over())
    }

    /// Starts an enrollment of `wanted` crops. Returns `None` if another
    /// enrollment is active.
    pub fn start(&mut self, label: &Label, wanted: u32) -> Option<Enrollment> {
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
        Some(new)
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

    /// Records that a crop of the enrollment `id` was lost before it reached
    /// the disk, so that another crop is taken. An enrollment that has ended is
    /// not resumed, because the person may have left.
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
mod tests {
    use super::*;

    fn label() -> Label {
        Label::new("with_mask").unwrap()
    }

    #[test]
    fn crops_are_counted_until_there_are_enough() {
        let mut enrollments = Enrollments::default();
        assert!(enrollments.last().is_none() && enrollments.end().is_none());
        let id = enrollments.start(&label(), 2).unwrap().id;
        assert_eq!(enrollments.start(&label(), 2), None, "one is going on");
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
        let first = enrollments.start(&label(), 3).unwrap().id;
        enrollments.taken(first);
        assert_eq!(enrollments.end().unwrap().wanted, 1);
        let second = enrollments.start(&label(), 3).unwrap();
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
        let id = enrollments.start(&label(), 2).unwrap().id;
        enrollments.taken(id);
        enrollments.dropped(id);
        assert_eq!(enrollments.active().unwrap().taken, 0);
        enrollments.taken(id);
        enrollments.end();
        enrollments.dropped(id);
        assert!(enrollments.active().is_none(), "it stays over");
    }
}
