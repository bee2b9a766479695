//! The training batches of a refit. A batch consists of new rows from this device, translated
//! replay rows, and unchanged replay rows.
//!
//! This module chooses the rows of each batch, and translates features from the cameras
//! of the replay set to the camera of the device. `docs/LEARNING.md` gives the formulas
//! for both.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::RefitContext;
use super::options::Adaptation;

/// Sample indices by class and group.
type SamplesByClass = BTreeMap<usize, BTreeMap<usize, Vec<usize>>>;
/// Indices of replay rows by class.
type RowsByClass = BTreeMap<usize, Vec<usize>>;

/// The training rows of a class.
struct ClassRows {
    /// Indices of the samples of the class, by group.
    groups: Vec<Vec<usize>>,
    /// Indices of the replay rows of the class.
    replay: Vec<usize>,
}

/// Draws batches whose rows cycle through the classes.
pub(super) struct Batches<'a> {
    context: &'a RefitContext<'a>,
    rng: ChaCha8Rng,
    /// The classes that have at least one training row.
    classes: Vec<ClassRows>,
    /// Translates the features of a replay row.
    translation: Translation,
    /// Number of new rows in a batch.
    new: usize,
    /// Number of translated replay rows in a batch.
    translated: usize,
    features: Vec<f32>,
    labels: Vec<usize>,
}

/// A constant that is added to both means of a feature before the ratio of these means is computed.
/// If a feature is near zero on the device and in the replay set, the constant keeps the ratio near
/// 1.
const TRANSLATION_PRIOR: f32 = 0.025;
/// Translated features are at most this large, unless features of the replay set are larger.
/// It is 6 because the built-in backbone ends with a ReLU6.
const MAX_FEATURE: f32 = 6.0;

impl<'a> Batches<'a> {
    /// Prepares batches from these samples and the replay set.
    pub(super) fn new(context: &'a RefitContext<'a>, samples: &[usize]) -> Batches<'a> {
        let options = &context.options.fit;
        let mut by_class = SamplesByClass::new();
        for &number in samples {
            let sample = &context.samples[number];
            let groups = by_class.entry(sample.label()).or_default();
            groups.entry(sample.group).or_default().push(number);
        }
        let mut replayed = RowsByClass::new();
        for (row, label) in context.replay.labels.iter().enumerate() {
            replayed.entry(*label).or_default().push(row);
        }
        let groups: usize = by_class.values().map(BTreeMap::len).sum();
        let groups = groups as f32;
        let rows = |share: f32| (options.batch as f32 * share).round() as usize;
        let device = rows(options.device_share);
        let new = match context.adaptation {
            Adaptation::PlainReplay | Adaptation::Logits | Adaptation::NewClasses => device,
            Adaptation::TranslatedReplay => {
                rows(options.new_share * groups / (groups + options.half_share_groups)).min(device)
            }
        };
        let translation = Translation::new(context, &by_class, &replayed);
        let classes = (0..context.classes)
            .map(|label| {
                let groups = by_class.remove(&label).unwrap_or_default();
                ClassRows {
                    groups: groups.into_values().collect(),
                    replay: replayed.remove(&label).unwrap_or_default(),
                }
            })
            .filter(|class| !class.groups.is_empty() || !class.replay.is_empty())
            .collect();
        Batches {
            context,
            rng: ChaCha8Rng::seed_from_u64(context.options.seed),
            classes,
            translation,
            new,
            translated: device - new,
            features: Vec::with_capacity(options.batch * context.features),
            labels: Vec::with_capacity(options.batch),
        }
    }

    /// Draws a batch. Returns the features of its rows, `[batch, features]` in row-major order, and
    /// the labels of its rows.
    pub(super) fn draw(&mut self) -> (&[f32], &[usize]) {
        self.features.clear();
        self.labels.clear();
        // The first class varies because the batch size may not be a multiple
        // of the number of classes.
        let first: usize = self.rng.random_range(0..64);
        for position in 0..self.context.options.fit.batch {
            let class = (first + position) % self.classes.len();
            let class = &self.classes[class];
            // For a class without replay rows, all rows come from its samples.
            let is_new = position < self.new || class.replay.is_empty();
            if is_new && !class.groups.is_empty() {
                self.push_sample(first + position);
            } else {
                let is_translated = position < self.new + self.translated;
                self.push_replayed(first + position, is_translated);
            }
        }
        self.drop_features();
        (&self.features, &self.labels)
    }

    /// Adds a random row of a random sample of a class.
    fn push_sample(&mut self, turn: usize) {
        let groups = &self.classes[turn % self.classes.len()].groups;
        let group = &groups[self.rng.random_range(0..groups.len())];
        let number = group[self.rng.random_range(0..group.len())];
        let sample = &self.context.samples[number];
        // The crop itself is drawn as often as all of its variants together.
        let variants = sample.rows() - 1;
        let row = match self.rng.random_range(0..2) {
            1 if variants > 0 => 1 + self.rng.random_range(0..variants),
            _ => 0,
        };
        self.features.extend_from_slice(sample.row(row));
        self.labels.push(sample.label());
    }

    /// Adds a random replay row of a class.
    fn push_replayed(&mut self, turn: usize, is_translated: bool) {
        let rows = &self.classes[turn % self.classes.len()].replay;
        let row = rows[self.rng.random_range(0..rows.len())];
        let features = self.context.replayed(row);
        if is_translated {
            self.features.extend(self.translation.apply(features));
        } else {
            self.features.extend_from_slice(features);
        }
        self.labels.push(self.context.replay.labels[row]);
    }

    /// Applies dropout to the features. The remaining features are scaled up to
    /// compensate for the dropped ones.
    fn drop_features(&mut self) {
        let dropout = self.context.options.fit.feature_dropout;
        if dropout > 0.0 {
            let scale = 1.0 / (1.0 - dropout);
            for feature in &mut self.features {
                let stays = self.rng.random::<f32>() >= dropout;
                *feature = if stays { *feature * scale } else { 0.0 };
            }
        }
    }
}

/// Moves the features of a replay row toward those that the device's camera might have
/// produced.
struct Translation {
    /// A factor and an offset for each feature.
    steps: Vec<(f32, f32)>,
    /// Maximum value of a translated feature.
    max: f32,
}

impl Translation {
    /// Compares the mean of each feature over the device's samples with its mean over the replay
    /// set. Both means cover only the classes that the two sets share, and each of these classes
    /// has the same weight. A feature that is never negative in the replay set is multiplied by
    /// the ratio of the means. For other features, the ratio is meaningless, so the difference of
    /// the means is added.
    fn new(
        context: &RefitContext,
        samples: &SamplesByClass,
        replayed: &RowsByClass,
    ) -> Translation {
        let mut device = vec![TRANSLATION_PRIOR; context.features];
        let mut replay = device.clone();
        let shared: Vec<usize> = samples
            .keys()
            .copied()
            .filter(|label| replayed.contains_key(label))
            .collect();
        for label in &shared {
            let crops: Vec<usize> = samples[label].values().flatten().copied().collect();
            let rows = &replayed[label];
            let weight = 1.0 / (shared.len() * crops.len()) as f32;
            for number in &crops {
                for (sum, value) in device.iter_mut().zip(context.samples[*number].crop()) {
                    *sum += weight * value;
                }
            }
            let weight = 1.0 / (shared.len() * rows.len()) as f32;
            for row in rows {
                for (sum, value) in replay.iter_mut().zip(context.replayed(*row)) {
                    *sum += weight * value;
                }
            }
        }
        let mut lowest = vec![0.0_f32; context.features];
        let mut max = MAX_FEATURE;
        for row in replayed.values().flatten() {
            for (lowest, value) in lowest.iter_mut().zip(context.replayed(*row)) {
                *lowest = lowest.min(*value);
                max = max.max(*value);
            }
        }
        let means = device.iter().zip(replay).zip(lowest);
        let steps = means.map(|((device, replay), lowest)| {
            if lowest < 0.0 {
                (1.0, device - replay)
            } else {
                ((device / replay).clamp(0.1, 10.0), 0.0)
            }
        });
        Translation {
            steps: steps.collect(),
            max,
        }
    }

    fn apply(&self, features: &[f32]) -> impl Iterator<Item = f32> {
        let steps = features.iter().zip(&self.steps);
        steps.map(|(value, (factor, offset))| (value * factor + offset).min(self.max))
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::GroupedSample;
    use super::super::new_classes::Classes;
    use super::super::{RefitOptions, Sample};
    use super::*;
    use crate::learning::replay::Rows;

    #[test]
    fn features_that_can_be_negative_are_shifted_and_others_are_scaled() {
        let mut replay = Rows::default();
        replay.push(&[1.0, -1.0], 0);
        replay.push(&[3.0, 1.0], 1);
        let samples = [vec![2.0, 0.0], vec![6.0, 2.0]].map(|features| Sample {
            id: String::new(),
            label: usize::from(features[0] > 2.0),
            track: String::new(),
            day: String::new(),
            features,
            seen: false,
        });
        let grouped: Vec<GroupedSample> = samples
            .iter()
            .enumerate()
            .map(|(group, sample)| GroupedSample {
                sample,
                group,
                seen: false,
                width: 2,
            })
            .collect();
        let options = RefitOptions::default();
        let context = RefitContext {
            options: &options,
            adaptation: Adaptation::TranslatedReplay,
            cancelled: &|| false,
            classes: 2,
            kinds: &Classes::default(),
            features: 2,
            samples: &grouped,
            replay: &replay,
        };
        let translation = Batches::new(&context, &[0, 1]).translation;
        let translated = |features: &[f32]| translation.apply(features).collect::<Vec<f32>>();
        // The means are 4 and 2 for the first feature, and 1 and 0 for the second.
        let found = translated(&[1.0, -1.0]);
        assert!((found[0] - 4.025 / 2.025).abs() < 1e-6, "{found:?}");
        assert!(found[1].abs() < 1e-6, "{found:?}");
        assert_eq!(translated(&[5.0, 0.0])[0], MAX_FEATURE);
    }
}
