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
use crate::vision::embed::FEATURES;

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
    /// One factor per feature. A replay row is translated by multiplying its features by these
    /// factors.
    translation: Vec<f32>,
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
/// Maximum value of a feature. It is 6 because the backbone ends with a ReLU6.
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
            Adaptation::PlainReplay | Adaptation::Logits => device,
            Adaptation::TranslatedReplay => {
                rows(options.new_share * groups / (groups + options.half_share_groups)).min(device)
            }
        };
        let translation = translation(context, &by_class, &replayed);
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
            features: Vec::with_capacity(options.batch * FEATURES),
            labels: Vec::with_capacity(options.batch),
        }
    }

    /// Draws a batch. Returns the features of its rows, `[batch, FEATURES]` in row-major order, and
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
        let features = &self.context.replay.features[row * FEATURES..][..FEATURES];
        if is_translated {
            let factors = features.iter().zip(&self.translation);
            let translated = factors.map(|(value, factor)| (value * factor).min(MAX_FEATURE));
            self.features.extend(translated);
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

/// Computes one factor per feature: its mean over the device's samples, divided by its mean over
/// the replay set. Both means cover only the classes that the two sets share, and each of these
/// classes has the same weight.
fn translation(
    context: &RefitContext,
    samples: &SamplesByClass,
    replayed: &RowsByClass,
) -> Vec<f32> {
    let mut device = vec![TRANSLATION_PRIOR; FEATURES];
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
            let features = &context.replay.features[row * FEATURES..][..FEATURES];
            for (sum, value) in replay.iter_mut().zip(features) {
                *sum += weight * value;
            }
        }
    }
    let means = device.iter().zip(replay);
    means
        .map(|(device, replay)| (device / replay).clamp(0.1, 10.0))
        .collect()
}
