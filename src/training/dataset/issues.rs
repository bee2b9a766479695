//! Problems in a data set that the user should know about.

use std::collections::BTreeMap;

use super::Dataset;
use super::similarity::{
    Fingerprint, MAX_DUPLICATE_DISTANCE, PerceptualHash, near_duplicate_groups,
};

/// Problems with the pictures in a data set. Pictures are identified by their index in
/// [`Dataset::pictures`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Issues {
    /// Pictures that cannot be read, each with the reason.
    pub unreadable: Vec<(usize, String)>,
    /// Groups of pictures that have identical files or pixels but are in more than one
    /// class.
    pub contradictions: Vec<Vec<usize>>,
    /// Groups of pictures that have identical files or pixels and are in the same class.
    pub duplicates: Vec<Vec<usize>>,
    /// Groups of pictures that look alike ([`MAX_DUPLICATE_DISTANCE`]) but are not
    /// identical, and are in more than one class. One of the labels may be wrong. The
    /// labels may also all be right, for example if one picture shows an unmasked face,
    /// and another is the same photograph with a mask painted on the face.
    pub lookalikes: Vec<Vec<usize>>,
}

impl Issues {
    /// Compares the pictures in a data set. `loaded` contains the result of
    /// [`load`](super::load) for each picture.
    #[must_use]
    pub fn new(dataset: &Dataset, loaded: &[Result<Fingerprint, String>]) -> Issues {
        let mut issues = Issues::default();
        let mut readable = Vec::new();
        for (index, loaded) in loaded.iter().enumerate() {
            match loaded {
                Ok(fingerprint) => readable.push((index, fingerprint)),
                Err(why) => issues.unreadable.push((index, why.clone())),
            }
        }
        let class = |index: usize| dataset.pictures.get(index).map(|picture| picture.class);
        let is_mixed = |group: &[usize]| group.iter().any(|&i| class(i) != class(group[0]));

        // Identical files have identical pixels.
        let mut same: BTreeMap<[u8; 32], Vec<usize>> = BTreeMap::new();
        for (index, fingerprint) in &readable {
            same.entry(fingerprint.pixels).or_default().push(*index);
        }
        let mut same: Vec<Vec<usize>> = same.into_values().collect();
        same.retain(|group| group.len() > 1);
        same.sort();
        (issues.contradictions, issues.duplicates) =
            same.into_iter().partition(|group| is_mixed(group));

        let hashes: Vec<PerceptualHash> = readable.iter().map(|(_, print)| print.hash).collect();
        let mut alike: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for ((index, _), group) in readable
            .iter()
            .zip(near_duplicate_groups(&hashes, MAX_DUPLICATE_DISTANCE))
        {
            alike.entry(group).or_default().push(*index);
        }
        issues.lookalikes = alike
            .into_values()
            .filter(|group| is_mixed(group) && !issues.contradictions.contains(group))
            .collect();
        issues
    }

    /// Returns the indices of the pictures to leave out of training, in order. These
    /// are the pictures that cannot be read, and the identical pictures that are in
    /// more than one class, because the right class is unknown.
    #[must_use]
    pub fn left_out(&self) -> Vec<usize> {
        let unreadable = self.unreadable.iter().map(|(index, _)| *index);
        let mut all: Vec<usize> = unreadable
            .chain(self.contradictions.iter().flatten().copied())
            .collect();
        all.sort_unstable();
        all
    }

    /// Returns one sentence per issue, with the names of the pictures.
    #[must_use]
    pub fn sentences(&self, dataset: &Dataset) -> Vec<String> {
        let names = |group: &[usize]| {
            let names: Vec<String> = group.iter().map(|&index| dataset.name(index)).collect();
            names.join(", ")
        };
        let mut sentences = Vec::new();
        for (index, why) in &self.unreadable {
            sentences.push(format!("left out: {}: {why}", dataset.name(*index)));
        }
        for group in &self.contradictions {
            let names = names(group);
            sentences.push(format!(
                "left out: the same picture in several classes: {names}"
            ));
        }
        for group in &self.lookalikes {
            let names = names(group);
            sentences.push(format!(
                "check the labels of these pictures, which look alike: {names}"
            ));
        }
        for group in &self.duplicates {
            sentences.push(format!("the same picture more than once: {}", names(group)));
        }
        sentences
    }
}
