//! Splits pictures into training and validation pictures.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// The two parts of a data set, as picture indices in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Indices of the training pictures.
    pub train: Vec<usize>,
    /// Indices of the validation pictures.
    pub val: Vec<usize>,
}

/// A class cannot be in both parts of a split, because the class has only one group or
/// because its groups also contain pictures from other classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pictures of class {class} cannot be split: they all look alike")]
pub struct SplitError {
    /// Index of the class.
    pub class: usize,
}

/// Splits pictures, given the group and the class of each. About `share` (0 to 1) of
/// each class is used for validation. Each class is in both parts, but no group is.
///
/// Group numbers are arbitrary, and a group may contain several classes. The share is
/// met exactly if enough groups of a class consist of a single picture.
/// Otherwise, the share is met as closely as the groups allow. The same `seed` gives
/// the same split on every machine.
///
/// # Errors
/// [`SplitError`] if a class cannot be in both parts.
pub fn split(
    groups: &[usize],
    classes: &[usize],
    share: f64,
    seed: u64,
) -> Result<Split, SplitError> {
    let class_count = classes.iter().max().map_or(0, |max| max + 1);
    let mut sizes = vec![0; class_count];
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, (&group, &class)) in groups.iter().zip(classes).enumerate() {
        sizes[class] += 1;
        members.entry(group).or_default().push(index);
    }
    let present: Vec<usize> = (0..class_count).filter(|&class| sizes[class] > 0).collect();
    if let Some(&class) = present.iter().find(|&&class| sizes[class] < 2) {
        return Err(SplitError { class });
    }
    let targets: Vec<usize> = sizes
        .iter()
        .map(|&size| ((size as f64 * share).round() as usize).clamp(1, size.max(2) - 1))
        .collect();

    // Sort the groups by first member rather than by number, so that the split depends
    // only on the pictures.
    let mut order: Vec<Vec<usize>> = members.into_values().collect();
    order.sort_by_key(|group| group[0]);
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let mut builder = SplitBuilder {
        classes,
        sizes,
        targets,
        taken: vec![0; class_count],
        is_val: vec![false; order.len()],
    };
    // First take the groups that fit, and then the groups that exceed the target but
    // bring the total closer to it.
    for rule in [Rule::WithinTarget, Rule::NearerToTarget] {
        for (number, group) in order.iter().enumerate() {
            builder.offer(number, group, rule);
        }
    }
    // A class with a few large groups may not have any validation pictures yet, so it
    // gets its smallest group.
    let mut by_size: Vec<usize> = (0..order.len()).collect();
    by_size.sort_by_key(|&number| order[number].len());
    for &class in &present {
        for &number in &by_size {
            let has_class = order[number].iter().any(|&index| classes[index] == class);
            if builder.taken[class] == 0 && has_class {
                builder.offer(number, &order[number], Rule::Always);
            }
        }
        if builder.taken[class] == 0 {
            return Err(SplitError { class });
        }
    }

    let mut split = Split {
        train: Vec::new(),
        val: Vec::new(),
    };
    for (group, is_val) in order.iter().zip(&builder.is_val) {
        let part = if *is_val {
            &mut split.val
        } else {
            &mut split.train
        };
        part.extend(group);
    }
    split.train.sort_unstable();
    split.val.sort_unstable();
    Ok(split)
}

/// When to use a group for validation.
#[derive(Clone, Copy, PartialEq)]
enum Rule {
    /// Only if no class exceeds its target.
    WithinTarget,
    /// Only if the classes overall get closer to their targets.
    NearerToTarget,
    Always,
}

/// Chooses the groups to use for validation.
struct SplitBuilder<'a> {
    /// The class of each picture.
    classes: &'a [usize],
    /// Total number of pictures in each class. For validation, `targets` holds the
    /// number of pictures to take from each class, and `taken` holds the number taken
    /// so far.
    sizes: Vec<usize>,
    targets: Vec<usize>,
    taken: Vec<usize>,
    /// Whether each group is used for validation.
    is_val: Vec<bool>,
}

impl SplitBuilder<'_> {
    /// Takes a group if `rule` allows it, but never the last group of a class.
    fn offer(&mut self, number: usize, group: &[usize], rule: Rule) {
        if self.is_val[number] {
            return;
        }
        let mut after: BTreeMap<usize, usize> = BTreeMap::new();
        for &index in group {
            let class = self.classes[index];
            *after.entry(class).or_insert(self.taken[class]) += 1;
        }
        let distance = |class: usize, taken: usize| self.targets[class].abs_diff(taken);
        let before: usize = after.keys().map(|&c| distance(c, self.taken[c])).sum();
        let with_group: usize = after.iter().map(|(&c, &taken)| distance(c, taken)).sum();
        let is_allowed = match rule {
            Rule::WithinTarget => after.iter().all(|(&c, &taken)| taken <= self.targets[c]),
            Rule::NearerToTarget => with_group < before,
            Rule::Always => true,
        };
        if is_allowed && after.iter().all(|(&c, &taken)| taken < self.sizes[c]) {
            self.is_val[number] = true;
            for (class, taken) in after {
                self.taken[class] = taken;
            }
        }
    }
}
