//! Which crops to label first, and which to label together.
//!
//! Owns the order and the groups; pure. A crop that the head is unsure of
//! teaches more than one that it knows, and near-copies teach little more than
//! one of them: so they are one group, which is labelled at once.

use crate::learning::capture_policy::distance;

/// Crops that are closer than this (cosine distance of their features) are
/// near-copies.
pub const NEAR: f32 = 0.08;

/// A crop without a label.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its features.
    pub feature: &'a [f32],
    /// What the head in use says of it, one a label.
    pub probabilities: &'a [f32],
}

impl Candidate<'_> {
    /// How much its label would teach: 0 (the head is certain) to 1 (all labels
    /// are equally likely).
    #[must_use]
    pub fn usefulness(&self) -> f32 {
        let labels = self.probabilities.len();
        if labels < 2 {
            return 1.0;
        }
        let likeliest = self.probabilities.iter().copied().fold(0.0, f32::max);
        let least = 1.0 / labels as f32;
        ((1.0 - likeliest) / (1.0 - least)).clamp(0.0, 1.0)
    }

    /// Likeliest label by its number.
    fn argmax(&self) -> Option<usize> {
        (0..self.probabilities.len())
            .max_by(|a, b| self.probabilities[*a].total_cmp(&self.probabilities[*b]))
    }

    fn is_near(&self, other: &Candidate) -> bool {
        // Somebody who takes the mask off is still the same track.
        self.argmax() == other.argmax() && distance(self.feature, other.feature) <= NEAR
    }
}

/// Groups of near-copies, by their numbers among the candidates: the most useful
/// group first, and within it the most useful crop. Each candidate is in one.
#[must_use]
pub fn groups(candidates: &[Candidate]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by(|a, b| {
        let useful = |at: &usize| candidates[*at].usefulness();
        useful(b).total_cmp(&useful(a)).then(a.cmp(b))
    });
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for at in order {
        // The first of a group leads it, so that groups don't creep.
        let near = groups
            .iter_mut()
            .find(|group| candidates[group[0]].is_near(&candidates[at]));
        match near {
            Some(group) => group.push(at),
            None => groups.push(vec![at]),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn near_copies_are_one_group_and_the_doubtful_come_first() {
        let features = [[1.0, 0.0], [0.0, 1.0], [0.999, 0.04], [0.04, 0.999]];
        let said = [[0.9, 0.1], [0.45, 0.55], [0.6, 0.4], [0.7, 0.3]];
        let candidates: Vec<Candidate> = features
            .iter()
            .zip(&said)
            .map(|(feature, probabilities)| Candidate {
                feature,
                probabilities,
            })
            .collect();
        // The last looks like the second, and the head says something else.
        assert_eq!(groups(&candidates), [vec![1], vec![2, 0], vec![3]]);
        assert_eq!(groups(&[]).len(), 0);
    }

    proptest! {
        #[test]
        fn each_candidate_is_in_one_group(
            all in prop::collection::vec((prop::array::uniform3(-1.0_f32..1.0), 0.0_f32..1.0), 0..40),
        ) {
            let said: Vec<[f32; 2]> = all.iter().map(|(_, p)| [*p, 1.0 - p]).collect();
            let candidates: Vec<Candidate> = all.iter().zip(&said)
                .map(|((feature, _), probabilities)| Candidate { feature, probabilities })
                .collect();
            let groups = groups(&candidates);
            let mut found: Vec<usize> = groups.iter().flatten().copied().collect();
            found.sort_unstable();
            prop_assert_eq!(found, (0..all.len()).collect::<Vec<_>>());
            let leaders: Vec<f32> = groups.iter().map(|group| candidates[group[0]].usefulness()).collect();
            prop_assert!(leaders.is_sorted_by(|a, b| a >= b));
        }
    }
}
