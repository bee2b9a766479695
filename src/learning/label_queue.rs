//! Decides which crops to label first and which crops to label together.
//!
//! This module determines the order and the groups. A label is most useful for a crop that the head
//! is uncertain about. Labeling all near-duplicates of a crop is hardly more useful than labeling
//! the crop alone, so near-duplicates form a group that is labeled in one step.

use crate::vision::embed::cosine_distance;
use crate::vision::head::argmax;

/// Crops whose features have at most this cosine distance are near-duplicates.
const NEAR: f32 = 0.08;

/// How useful a label for a bad crop is, compared with a good one.
const BAD_SHARE: f32 = 0.1;

/// A crop without a label.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Candidate {
    /// The crop's features. Empty if they have not been computed yet.
    pub(crate) feature: Vec<f32>,
    /// The probability of each label according to the head in use. Empty if
    /// there are no features.
    pub(crate) probabilities: Vec<f32>,
    /// Whether the picture is obviously useless. The head is often uncertain about such
    /// a picture, but a label for it teaches little.
    pub(crate) is_bad: bool,
}

impl Candidate {
    /// How useful a label for this crop would be, from 0 (the head is certain)
    /// to 1 (all labels are equally likely, or nothing is known).
    pub(crate) fn usefulness(&self) -> f32 {
        let share = if self.is_bad { BAD_SHARE } else { 1.0 };
        share * self.uncertainty()
    }

    fn uncertainty(&self) -> f32 {
        let labels = self.probabilities.len();
        if labels < 2 {
            return 1.0;
        }
        let highest = self.probabilities.iter().copied().fold(0.0, f32::max);
        let uniform = 1.0 / labels as f32;
        ((1.0 - highest) / (1.0 - uniform)).clamp(0.0, 1.0)
    }

    fn is_near(&self, other: &Candidate) -> bool {
        // The predicted labels must match too, because a person who takes off the mask
        // stays on the same track.
        argmax(&self.probabilities) == argmax(&other.probabilities)
            && cosine_distance(&self.feature, &other.feature) <= NEAR
    }
}

/// Groups near-duplicates. Each group lists indices of the candidates. The most
/// useful group comes first, and within a group, the most useful crop comes
/// first. Each candidate is in exactly one group.
pub(crate) fn groups(candidates: &[Candidate]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|a, b| {
        let usefulness = |number: &usize| candidates[*number].usefulness();
        usefulness(b).total_cmp(&usefulness(a)).then(a.cmp(b))
    });
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for number in order {
        // Only the first crop of a group is compared. Otherwise, a chain of
        // small differences could join crops that differ a lot.
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
            is_bad: false,
        }
    }

    #[test]
    fn bad_crops_come_last() {
        let bad = Candidate {
            is_bad: true,
            ..candidate(&[1.0, 0.0], [0.5, 0.5])
        };
        let good = candidate(&[0.0, 1.0], [0.8, 0.2]);
        let unknown = Candidate {
            is_bad: true,
            ..Candidate::default()
        };
        assert_eq!(groups(&[bad, good, unknown]), [vec![1], vec![0], vec![2]]);
    }

    #[test]
    fn near_duplicates_are_one_group_and_the_uncertain_come_first() {
        let candidates = [
            candidate(&[1.0, 0.0], [0.9, 0.1]),
            candidate(&[0.0, 1.0], [0.45, 0.55]),
            candidate(&[0.999, 0.04], [0.6, 0.4]),
            // This crop looks like the second one, but the head predicts a
            // different label for it.
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
