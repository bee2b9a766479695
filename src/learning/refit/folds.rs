//! Chooses the samples to hold out, either for a permanent holdout or for the folds of
//! cross-validation. In both cases, the samples of a group stay together.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::MIN_GROUPS;
use super::input::GroupedSample;
use super::options::HoldOutOptions;
use super::outcome::Validation;

/// Which samples are held out, and in which fold.
pub(super) struct Split {
    pub(super) validation: Validation,
    /// The fold of each sample, or `None` if the sample is never held out. In a permanent holdout,
    /// the folds serve only for calibration: each prediction is calibrated with values that were
    /// fitted on the other folds.
    pub(super) folds: Vec<Option<usize>>,
}

impl Split {
    /// Whether the final head is trained on samples of this fold.
    pub(super) fn learns(&self, fold: Option<usize>) -> bool {
        matches!(self.validation, Validation::CrossValidation { .. }) || fold.is_none()
    }
}

/// One in five groups belongs to the permanent holdout.
const HOLD_OUT_RATIO: u8 = 5;

/// Splits the samples by group. Only the day and the name of a group's first track determine
/// whether the group belongs to the permanent holdout, so a group that is held out now will
/// still be held out when later tracks join it.
pub(super) fn split(samples: &[GroupedSample], classes: usize, options: &HoldOutOptions) -> Split {
    let labels = group_labels(samples);
    let mut first_tracks: BTreeMap<usize, (&str, &str)> = BTreeMap::new();
    for sample in samples {
        let track = (sample.sample.day.as_str(), sample.sample.track.as_str());
        let first = first_tracks.entry(sample.group).or_insert(track);
        *first = track.min(*first);
    }
    let digests: Vec<[u8; 32]> = first_tracks
        .values()
        .map(|(day, track)| {
            let mut hasher = Sha256::new();
            hasher.update(day.as_bytes());
            hasher.update([0]);
            hasher.update(track.as_bytes());
            hasher.finalize().into()
        })
        .collect();
    let is_permanent = |group: &usize| digests[*group][0].is_multiple_of(HOLD_OUT_RATIO);
    // Sort the groups by class. Within a class, the order depends only on the names of the groups.
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.sort_by_key(|group| (labels[*group], digests[*group]));

    let are_enough = (0..classes).all(|label| {
        let of_class = || order.iter().filter(|group| labels[**group] == label);
        let all = of_class().count();
        let held = of_class().filter(|group| is_permanent(group)).count();
        all == 0 || (held >= options.min_groups && all - held >= MIN_GROUPS)
    });
    let mut folds = vec![None; labels.len()];
    let validation = if are_enough {
        let held: Vec<usize> = order.into_iter().filter(is_permanent).collect();
        for (position, group) in held.iter().enumerate() {
            folds[*group] = Some(position % options.folds);
        }
        Validation::HoldOut { groups: held.len() }
    } else {
        let count = options.folds.min(order.len());
        for (position, group) in order.iter().enumerate() {
            folds[*group] = Some(position % count);
        }
        Validation::CrossValidation { folds: count }
    };
    Split {
        validation,
        folds: samples.iter().map(|sample| folds[sample.group]).collect(),
    }
}

/// Returns the most frequent label of each group, in the order of the group
/// indices. In a tie, the lowest label wins.
fn group_labels(samples: &[GroupedSample]) -> Vec<usize> {
    let mut votes: BTreeMap<usize, BTreeMap<usize, usize>> = BTreeMap::new();
    for sample in samples {
        let votes = votes.entry(sample.group).or_default();
        *votes.entry(sample.label()).or_default() += 1;
    }
    votes
        .values()
        .map(|votes| {
            let winner = votes
                .iter()
                .max_by_key(|(label, count)| (**count, usize::MAX - **label));
            winner.map_or(0, |(label, _)| *label)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::input::{RefitInput, Sample};
    use super::*;
    use crate::learning::replay::Rows;
    use crate::onnx::{FEATURES, HeadTensors};

    fn sample(number: usize, label: usize, track: usize, day: usize) -> Sample {
        Sample {
            id: number.to_string(),
            label,
            track: track.to_string(),
            day: day.to_string(),
            features: vec![0.0; FEATURES],
            seen: false,
        }
    }

    fn split_of(samples: &[Sample]) -> Split {
        let labels = ["a", "b", "c"].map(str::to_owned);
        let head = HeadTensors {
            w1: vec![0.0; FEATURES],
            b1: vec![0.0],
            w2: Vec::new(),
            b2: Vec::new(),
        };
        let input = RefitInput {
            labels: &labels,
            masked_labels: &[],
            champion: &head,
            champion_labels: &labels,
            base: &head,
            base_labels: &labels,
            samples,
            replay: None,
        };
        let options = HoldOutOptions::default();
        let (grouped, skipped) = input
            .grouped(&Rows::default(), &options, &|| false)
            .unwrap();
        assert_eq!(skipped.len(), 0);
        split(&grouped, 3, &options)
    }

    #[test]
    fn a_permanent_hold_out_stays_when_samples_are_added() {
        let samples: Vec<Sample> = (0..400)
            .map(|number| sample(number, number % 3, number, number % 7))
            .collect();
        let all = split_of(&samples);
        let some = split_of(&samples[..300]);
        for split in [&all, &some] {
            let Validation::HoldOut { groups } = split.validation else {
                panic!("{:?}", split.validation);
            };
            let share = groups as f64 / split.folds.len() as f64;
            assert!((0.1..0.3).contains(&share), "{share}");
        }
        for (before, after) in some.folds.iter().zip(&all.folds) {
            assert_eq!(before.is_some(), after.is_some());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_split_divides_no_group(
            crops in prop::collection::vec((0_usize..3, 0_usize..90, 0_usize..3), 1..300),
        ) {
            let samples: Vec<Sample> = crops
                .iter()
                .enumerate()
                .map(|(number, (label, track, day))| sample(number, *label, *track, *day))
                .collect();
            let split = split_of(&samples);
            let mut fold_of_group = BTreeMap::new();
            for (sample, fold) in samples.iter().zip(&split.folds) {
                let key = (&sample.day, &sample.track);
                let first = fold_of_group.entry(key).or_insert(*fold);
                prop_assert_eq!(*first, *fold);
            }
            if let Validation::CrossValidation { folds } = split.validation {
                let is_held_out = |fold: &Option<usize>| fold.is_some_and(|fold| fold < folds);
                prop_assert!(split.folds.iter().all(is_held_out));
            }
        }
    }
}
