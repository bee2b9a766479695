//! Finds near-duplicates among the crops of a refit, and joins their groups.
//!
//! Imported copies of a picture, and crops of a person who stands still for longer than a
//! track, come as several tracks. If one of them were held out and another were trained on, the
//! new head would be evaluated on what it has memorized. This module knows features, labels, and
//! groups, and nothing about days and tracks.

use crate::learning::replay::Rows;
use crate::vision::head::dot;

/// Each crop is compared with at most this many crops before it, so that the time does not grow
/// with the square of the number of crops. Near-duplicates mostly come close together. 10,000
/// crops take 2.6 s on one core of a PC.
const MAX_COMPARED: usize = 10_000;

/// Minimum number of pairs of replay rows that show how far apart pictures are.
const MIN_PAIRS: usize = 50;

/// Maximum number of pairs of replay rows that are compared.
const MAX_PAIRS: usize = 1000;

/// The search was canceled.
pub(super) struct Canceled;

/// The crop of a sample.
pub(super) struct GroupedCrop<'a> {
    pub(super) features: &'a [f32],
    pub(super) label: usize,
    /// The group to which the crop belongs because of its track, smaller than the number of crops.
    pub(super) group: usize,
}

/// Returns the cosine distance below which crops are near-duplicates: `share` of the median
/// distance between pictures of the replay set. How far apart pictures are depends on the
/// backbone. Returns 0 if there are too few replay rows to tell.
pub(super) fn threshold(replay: &Rows, share: f32) -> f32 {
    let half = replay.len() / 2;
    // The two halves contain different pictures.
    let pairs = (0..half.min(MAX_PAIRS)).filter_map(|row| {
        let (a, b) = (unit(replay.row(row)?), unit(replay.row(row + half)?));
        Some(1.0 - dot(&a, &b))
    });
    let mut distances: Vec<f32> = pairs.collect();
    if distances.len() < MIN_PAIRS {
        return 0.0;
    }
    distances.sort_by(f32::total_cmp);
    share * distances[distances.len() / 2]
}

/// Joins the groups of all crops of the same label whose features have a smaller cosine distance
/// than `threshold`, and returns the group of each crop. Groups are numbered in the order of their
/// first crops. Crops of different labels are not joined: one of the labels is probably wrong, and
/// the held-out prediction of one crop can only show this if the other crop is trained on.
///
/// # Errors
/// Returns [`Canceled`] if `cancelled` returns true. It is called once per crop.
pub(super) fn join(
    crops: &[GroupedCrop],
    threshold: f32,
    cancelled: &dyn Fn() -> bool,
) -> Result<Vec<usize>, Canceled> {
    let mut sets = DisjointSets::new(crops.len());
    let normalized: Vec<Vec<f32>> = crops.iter().map(|crop| unit(crop.features)).collect();
    for (later, crop) in crops.iter().enumerate() {
        if cancelled() {
            return Err(Canceled);
        }
        for earlier in later.saturating_sub(MAX_COMPARED)..later {
            let other = &crops[earlier];
            if other.label == crop.label
                && sets.root(other.group) != sets.root(crop.group)
                && 1.0 - dot(&normalized[earlier], &normalized[later]) < threshold
            {
                sets.join(other.group, crop.group);
            }
        }
    }
    let mut numbers = vec![None; crops.len()];
    let mut next = 0;
    let groups = crops.iter().map(|crop| {
        let number = &mut numbers[sets.root(crop.group)];
        *number.get_or_insert_with(|| {
            next += 1;
            next - 1
        })
    });
    Ok(groups.collect())
}

/// Returns a vector of the same direction and the length 1, or of zeros if there is no direction.
fn unit(values: &[f32]) -> Vec<f32> {
    let length = dot(values, values).sqrt();
    let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
    values.iter().map(|value| value * scale).collect()
}

/// A partition of the groups. Joined groups have the same root, which is the smallest of their
/// numbers.
struct DisjointSets {
    parents: Vec<usize>,
}

impl DisjointSets {
    fn new(groups: usize) -> DisjointSets {
        DisjointSets {
            parents: (0..groups).collect(),
        }
    }

    fn root(&mut self, mut group: usize) -> usize {
        while self.parents[group] != group {
            // Halve the path, which keeps all paths short.
            self.parents[group] = self.parents[self.parents[group]];
            group = self.parents[group];
        }
        group
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.parents[a.max(b)] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NEVER: &dyn Fn() -> bool = &|| false;

    /// A group, a label, and a direction in degrees.
    type Direction = (usize, usize, f32);

    fn feature(degrees: f32) -> [f32; 2] {
        let angle = degrees.to_radians();
        [3.0 * angle.cos(), 3.0 * angle.sin()]
    }

    /// Returns the groups after joining.
    fn groups(directions: &[Direction], threshold: f32) -> Vec<usize> {
        let features = directions.iter().map(|(.., degrees)| feature(*degrees));
        let features: Vec<[f32; 2]> = features.collect();
        let crops: Vec<GroupedCrop> = directions
            .iter()
            .zip(&features)
            .map(|((group, label, _), features)| GroupedCrop {
                features,
                label: *label,
                group: *group,
            })
            .collect();
        join(&crops, threshold, NEVER).ok().unwrap()
    }

    #[test]
    fn near_crops_of_one_label_are_one_group() {
        // The cosine distance of 10 degrees is 0.015, and that of 30 degrees is 0.134.
        let crops = [(0, 0, 0.0), (1, 0, 10.0), (2, 0, 40.0), (3, 1, 5.0)];
        assert_eq!(groups(&crops, 0.02), [0, 0, 1, 2]);
        assert_eq!(groups(&crops, 0.0), [0, 1, 2, 3], "0 joins nothing");
    }

    #[test]
    fn a_crop_joins_the_other_crops_of_its_track() {
        let crops = [
            (0, 0, 0.0),
            (0, 0, 90.0),
            (1, 0, 180.0),
            (2, 0, 91.0),
            (2, 0, 181.0),
        ];
        assert_eq!(groups(&crops, 0.02), [0; 5]);
    }

    #[test]
    fn features_without_a_direction_are_near_to_nothing() {
        let crops = [0, 1].map(|group| GroupedCrop {
            features: &[0.0, 0.0],
            label: 0,
            group,
        });
        assert_eq!(join(&crops, 0.06, NEVER).ok(), Some(vec![0, 1]));
        assert_eq!(join(&crops, 0.06, &|| true).ok(), None, "it is canceled");
    }

    #[test]
    fn the_threshold_is_a_share_of_the_median_distance_of_replay_rows() {
        let mut replay = Rows::default();
        for row in 0..2 * MIN_PAIRS {
            // The rows of the second half are 60 degrees from those of the first.
            let half = if row < MIN_PAIRS { 0.0 } else { 60.0 };
            replay.push(&feature(half + (row % MIN_PAIRS) as f32), row % 2);
        }
        assert!((threshold(&replay, 0.2) - 0.1).abs() < 1e-5);
        assert_eq!(threshold(&replay, 0.0), 0.0);
        let mut few = Rows::default();
        for row in 0..2 * MIN_PAIRS - 1 {
            few.push(&feature(row as f32), 0);
        }
        assert_eq!(threshold(&few, 0.2), 0.0, "too few rows");
        assert_eq!(threshold(&Rows::default(), 0.2), 0.0);
    }

    proptest! {
        /// The groups are the connected parts of the graph whose edges join crops of one track,
        /// and near crops of one label. The reference computes them by spreading numbers until
        /// nothing changes.
        #[test]
        fn groups_are_connected_parts(
            crops in prop::collection::vec((0_usize..12, 0_usize..2, 0.0_f32..360.0), 12..40),
        ) {
            let is_joined = |a: &Direction, b: &Direction| {
                let cosine = (a.2 - b.2).to_radians().cos();
                a.0 == b.0 || (a.1 == b.1 && 1.0 - cosine < 0.01)
            };
            // Rounding decides about pairs that are almost exactly at the threshold.
            let is_clear = |a: &Direction, b: &Direction| {
                (1.0 - (a.2 - b.2).to_radians().cos() - 0.01).abs() > 1e-5
            };
            prop_assume!(crops.iter().all(|a| crops.iter().all(|b| is_clear(a, b))));
            let mut expected: Vec<usize> = (0..crops.len()).collect();
            loop {
                let before = expected.clone();
                for a in 0..crops.len() {
                    for b in 0..crops.len() {
                        if is_joined(&crops[a], &crops[b]) {
                            expected[a] = expected[a].min(expected[b]);
                        }
                    }
                }
                if before == expected {
                    break;
                }
            }
            let found = groups(&crops, 0.01);
            for a in 0..crops.len() {
                for b in 0..crops.len() {
                    prop_assert_eq!(found[a] == found[b], expected[a] == expected[b]);
                }
            }
        }
    }
}
