//! Which crops to label first, and which to label together.
//!
//! Owns the order and the groups; pure. A crop that the head is unsure of
//! teaches more than one that it is certain of. Near-duplicates teach little more
//! than one of them, so they form a group that is labeled at once.

use crate::vision::embed::cosine_distance;
use crate::vision::head::argmax;

/// Crops whose features have at most this cosine distance are near-duplicates.
const NEAR: f32 = 0.08;

/// A crop without a label.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Candidate {
    /// Its features; empty if they were not computed yet.
    pub(crate) feature: Vec<f32>,
    /// The probability of each label by the head in use; empty without features.
    pub(crate) probabilities: Vec<f32>,
}

impl Candidate {
    /// How much its label would teach: 0 (the head is certain) to 1 (all labels
    /// are equally likely, or nothing is known).
    pub(crate) fn usefulness(&self) -> f32 {
        let labels = self.probabilities.len();
        if labels < 2 {
            return 1.0;
        }
        let highest = self.probabilities.iter().copied().fold(0.0, f32::max);
        let uniform = 1.0 / labels as f32;
        ((1.0 - highest) / (1.0 - uniform)).clamp(0.0, 1.0)
    }

    fn is_near(&self, other: &Candidate) -> bool {
        // Somebody who takes the mask off is still the same track.
        argmax(&self.probabilities) == argmax(&other.probabilities)
            && cosine_distance(&self.feature, &other.feature) <= NEAR
    }
}

/// Groups of near-duplicates, by their numbers among the candidates: the most useful
/// group first, and within it the most useful crop. Each candidate is in exactly
/// one group.
pub(crate) fn groups(candidates: &[Candidate]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|a, b| {
        let usefulness = |number: &usize| candidates[*number].usefulness();
        usefulness(b).total_cmp(&usefulness(a)).then(a.cmp(b))
    });
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for number in order {
        // Only the first of a group is compared: otherwise a chain of small
        // differences could join crops that differ a lot.
        let near = groups
            .iter_mut()
            .find(|group| candidates[group[0]].is_near(&candidates[number]));
        match near {
            Some(group) => group.push(number),
            None => groups.push(vec![number]),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(feature: &[f32], probabilities: [f32; 2]) -> Candidate {
        Candidate {
            feature: feature.to_vec(),
            probabilities: probabilities.to_vec(),
        }
    }

    #[test]
    fn near_duplicates_are_one_group_and_the_uncertain_come_first() {
        let candidates = [
            candidate(&[1.0, 0.0], [0.9, 0.1]),
            candidate(&[0.0, 1.0], [0.45, 0.55]),
            candidate(&[0.999, 0.04], [0.6, 0.4]),
            // It looks like the second, and the head gives it another label.
            candidate(&[0.04, 0.999], [0.7, 0.3]),
        ];
        assert_eq!(groups(&candidates), [vec![1], vec![2, 0], vec![3]]);
        assert_eq!(groups(&[]), Vec::<Vec<usize>>::new());
    }

    #[test]
    fn candidates_without_features_come_first_and_alone() {
        let candidates = [
            candidate(&[1.0, 0.0], [0.9, 0.1]),
            Candidate::default(),
            Candidate::default(),
        ];
        assert_eq!(groups(&candidates), [vec![1], vec![2], vec![0]]);
    }

    proptest! {
        #[test]
        fn each_candidate_is_in_one_group(
            all in prop::collection::vec(
                (prop::array::uniform3(-1.0_f32..1.0), 0.0_f32..1.0),
                0..40,
            ),
        ) {
            let candidates: Vec<Candidate> = all
                .iter()
                .map(|(feature, p)| candidate(feature, [*p, 1.0 - p]))
                .collect();
            let groups = groups(&candidates);
            let mut found: Vec<usize> = groups.iter().flatten().copied().collect();
            found.sort_unstable();
            prop_assert_eq!(found, (0..all.len()).collect::<Vec<_>>());
            let leaders: Vec<f32> = groups
                .iter()
                .map(|group| candidates[group[0]].usefulness())
                .collect();
            prop_assert!(leaders.is_sorted_by(|a, b| a >= b));
        }
    }
}
