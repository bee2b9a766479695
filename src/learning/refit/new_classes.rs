//! Classes that the replay set lacks, such as goggles or a mask that is worn wrongly.
//!
//! Only the samples of the device show what such a class looks like. This module decides which
//! classes these are, which part of a head is theirs, and what counts as forgetting if a head has
//! such classes. `docs/LEARNING.md` explains why they are trained alone.

use std::collections::BTreeSet;

use super::choice::Candidate;
use super::evaluate::accuracy;
use super::input::{GroupedSample, RefitInput};
use super::outcome::{NewClass, ReplayAccuracy, Scores};
use super::{Abort, RefitContext};
use crate::learning::replay::Rows;
use crate::onnx::HeadTensors;
use crate::training::train::Part;
use crate::vision::head::argmax;

/// By how many nats the logits of the taught classes may be lowered, to be tried in turn until the
/// accuracy on the replay holdout stays within the tolerance.
pub(super) const LOWERINGS: [f64; 9] = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0];

/// The kinds of the classes of a head. Each list has one value per class.
#[derive(Debug, Default)]
pub(super) struct Classes {
    /// Whether the replay set lacks the class, and there are samples of it. Without a replay set,
    /// no class is taught.
    pub(super) taught: Vec<bool>,
    /// Whether the class is taught, and is new to the champion.
    new: Vec<bool>,
    /// Whether the replay set lacks the class.
    is_lacking: Vec<bool>,
    /// Whether the class counts as masked.
    masked: Vec<bool>,
}

impl Classes {
    pub(super) fn new(input: &RefitInput, samples: &[GroupedSample]) -> Classes {
        let sampled: BTreeSet<usize> = samples.iter().map(GroupedSample::label).collect();
        let of_labels =
            |is: &dyn Fn(&String) -> bool| -> Vec<bool> { input.labels.iter().map(is).collect() };
        let is_lacking = of_labels(&|label| {
            let replay = input.replay.map(|replay| &replay.labels);
            replay.is_some_and(|labels| !labels.contains(label))
        });
        let taught: Vec<bool> = is_lacking
            .iter()
            .enumerate()
            .map(|(class, is_lacking)| *is_lacking && sampled.contains(&class))
            .collect();
        let is_known = of_labels(&|label| input.champion_labels.contains(label));
        let new = taught.iter().zip(is_known);
        Classes {
            new: new.map(|(taught, is_known)| *taught && !is_known).collect(),
            taught,
            is_lacking,
            masked: of_labels(&|label| input.masked_labels.contains(label)),
        }
    }

    pub(super) fn are_any_taught(&self) -> bool {
        self.taught.contains(&true)
    }

    pub(super) fn are_any_new(&self) -> bool {
        self.new.contains(&true)
    }

    /// Returns the part of the head that belongs to the taught classes: their rows of the output
    /// layer, and the hidden units that no other row uses.
    pub(super) fn part(&self, head: &HeadTensors) -> Part {
        let hidden = head.b1.len();
        let is_own = |unit: usize| {
            let column = head.w2.iter().skip(unit).step_by(hidden.max(1));
            let mut weights = column.zip(&self.taught);
            weights.all(|(weight, is_taught)| *is_taught || *weight == 0.0)
        };
        Part {
            units: (0..hidden).map(is_own).collect(),
            classes: self.taught.clone(),
        }
    }

    /// Returns how well these scores tell each new class from the others.
    pub(super) fn new_classes(&self, labels: &[String], scores: &Scores) -> Vec<NewClass> {
        let new = labels.iter().enumerate().zip(&self.new);
        new.filter(|(_, is_new)| **is_new)
            .map(|((class, label), _)| {
                let found = scores.confusion[class][class];
                let classified: usize = scores.confusion.iter().map(|row| row[class]).sum();
                NewClass {
                    label: label.clone(),
                    samples: scores.confusion[class].iter().sum(),
                    found,
                    mistaken: classified - found,
                }
            })
            .collect()
    }

    /// Whether these logits of a replay row are right. If the head has classes that the replay set
    /// lacks, the row is right if the likeliest of the other classes is right, and the row counts
    /// as masked if its label does. A bare face that is taken for one with goggles changes nothing
    /// at the door.
    fn is_right(&self, logits: &[f64], label: usize) -> bool {
        if !self.is_lacking.contains(&true) {
            return argmax(logits.iter()) == Some(label);
        }
        let known = logits.iter().zip(&self.is_lacking);
        let known = known.map(|(logit, is_lacking)| match is_lacking {
            true => f64::NEG_INFINITY,
            false => *logit,
        });
        let known: Vec<f64> = known.collect();
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let side = |side: bool| -> f64 {
            let of_side = logits.iter().zip(&self.masked);
            of_side
                .filter(|(_, masked)| **masked == side)
                .map(|(logit, _)| (logit - largest).exp())
                .sum()
        };
        let is_masked = side(true) >= side(false);
        argmax(known.iter()) == Some(label) && is_masked == self.masked[label]
    }
}

impl RefitContext<'_> {
    /// Returns the accuracy of the champion and of the challenger on the replay holdout, or `None`
    /// if there is no holdout.
    pub(super) fn replay_accuracy(
        &self,
        champion: &HeadTensors,
        challenger: &HeadTensors,
        holdout: &Rows,
    ) -> Result<Option<ReplayAccuracy>, Abort> {
        if holdout.is_empty() {
            return Ok(None);
        }
        let of = |head| {
            accuracy(head, holdout, |logits, label| {
                self.kinds.is_right(logits, label)
            })
        };
        Ok(Some(ReplayAccuracy {
            before: of(champion)?,
            after: of(challenger)?,
            rows: holdout.len(),
        }))
    }

    /// Removes the candidates that forget too much, unless all do.
    pub(super) fn prefer_remembering(&self, candidates: &mut Vec<Candidate>) {
        let tolerance = self.options.gate.replay_tolerance;
        let remembers = |candidate: &Candidate| {
            let replay = candidate.replay;
            replay.is_none_or(|replay| replay.after >= replay.before - tolerance)
        };
        if candidates.iter().any(remembers) {
            candidates.retain(remembers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_face_that_changes_sides_or_old_classes_is_forgotten() {
        let classes = Classes {
            taught: vec![false, false, true],
            new: vec![false, false, true],
            is_lacking: vec![false, false, true],
            masked: vec![true, false, false],
        };
        assert!(classes.is_right(&[4.0, 1.0, 2.0], 0));
        assert!(
            !classes.is_right(&[2.0, 1.0, 4.0], 0),
            "not masked any more"
        );
        assert!(classes.is_right(&[1.0, 2.0, 4.0], 1), "not masked either");
        assert!(
            !classes.is_right(&[2.0, 1.0, 4.0], 1),
            "likelier masked than bare"
        );
        let known = Classes {
            is_lacking: vec![false; 3],
            ..classes
        };
        assert!(
            !known.is_right(&[1.0, 2.0, 4.0], 1),
            "the replay set knows this class"
        );
    }
}
