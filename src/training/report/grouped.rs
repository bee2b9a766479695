//! Shares of pictures that come in groups, such as the pictures of several cameras.
//!
//! Pictures from one camera show the same people in the same light, so they are right
//! or wrong together. An interval that treats the pictures as independent is too
//! narrow. The intervals here are computed with a bootstrap over whole groups (Davison
//! and Hinkley 1997, "Bootstrap Methods and their Application", section 3.8).

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// Coverage of the intervals, between 0 and 1.
pub const LEVEL: f64 = 0.9;

/// Number of draws of an interval.
pub const DRAWS: usize = 10_000;

/// Seed of the draws.
pub const SEED: u64 = 1;

/// The pictures of one group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Number of pictures that are right, at most `all`.
    pub right: usize,
    /// Number of pictures, at least 1.
    pub all: usize,
}

/// The share of pictures that are right. The intervals estimate this share for other
/// groups of the same kind.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct GroupedShare {
    /// Share of the pictures of all groups, between 0 and 1.
    pub share: f64,
    /// Interval of `share`, or `None` if there are fewer than two groups.
    pub interval: Option<[f64; 2]>,
    /// Mean of the groups' shares. Each group counts the same.
    pub mean: f64,
    /// Interval of `mean`, or `None` if there are fewer than two groups.
    pub mean_interval: Option<[f64; 2]>,
}

impl GroupedShare {
    /// Computes the shares and their intervals with the coverage [`LEVEL`], or `None`
    /// without groups.
    ///
    /// Each of [`DRAWS`] draws randomly selects as many groups as there are, with
    /// replacement, and uses all pictures of each selected group. Each interval spans
    /// two percentiles of the shares computed from these draws. The draws depend only
    /// on [`SEED`] and on the order of the groups. If the share is the same in all
    /// groups, the interval has no width. This does not mean that other groups have the
    /// same share.
    ///
    /// ```
    /// use maskd::training::report::{GroupedShare, Tally};
    /// let cameras = [Tally { right: 8, all: 8 }, Tally { right: 1, all: 2 }];
    /// let share = GroupedShare::new(&cameras).unwrap();
    /// assert_eq!((share.share, share.mean), (0.9, 0.75));
    /// assert_eq!(share.interval, Some([0.5, 1.0]));
    /// ```
    #[must_use]
    pub fn new(groups: &[Tally]) -> Option<GroupedShare> {
        if groups.is_empty() {
            return None;
        }
        let (share, mean) = shares(groups);
        let intervals = (groups.len() > 1).then(|| intervals(groups));
        Some(GroupedShare {
            share,
            interval: intervals.map(|[interval, _]| interval),
            mean,
            mean_interval: intervals.map(|[_, interval]| interval),
        })
    }
}

/// Returns the share of all pictures, and the mean share of the groups.
fn shares(groups: &[Tally]) -> (f64, f64) {
    let of = |Tally { right, all }: Tally| right as f64 / all.max(1) as f64;
    let total = Tally {
        right: groups.iter().map(|group| group.right).sum(),
        all: groups.iter().map(|group| group.all).sum(),
    };
    let sum: f64 = groups.iter().map(|group| of(*group)).sum();
    (of(total), sum / groups.len() as f64)
}

/// Returns the interval of the share of all pictures, and the interval of the mean
/// share.
fn intervals(groups: &[Tally]) -> [[f64; 2]; 2] {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut draw = vec![Tally::default(); groups.len()];
    let mut draws: [Vec<f64>; 2] = Default::default();
    for _ in 0..DRAWS {
        for group in &mut draw {
            *group = groups[rng.random_range(0..groups.len())];
        }
        let (share, mean) = shares(&draw);
        draws[0].push(share);
        draws[1].push(mean);
    }
    draws.map(|mut shares| {
        shares.sort_by(f64::total_cmp);
        let outside = (DRAWS as f64 * (1.0 - LEVEL) / 2.0).round() as usize;
        [shares[outside], shares[DRAWS - 1 - outside]]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(right: usize, all: usize) -> Tally {
        Tally { right, all }
    }

    #[test]
    fn one_group_has_no_interval_and_none_no_share() {
        let share = GroupedShare::new(&[tally(3, 4)]).unwrap();
        assert_eq!(share.share.to_bits(), 0.75_f64.to_bits());
        assert_eq!((share.interval, share.mean_interval), (None, None));
        assert_eq!(GroupedShare::new(&[]), None);
    }

    /// Computes the interval of all pictures from all possible draws of four groups.
    fn exact(groups: &[Tally; 4]) -> [f64; 2] {
        let mut all = Vec::new();
        for index in 0..4_usize.pow(4) {
            let draw: Vec<Tally> = (0..4)
                .map(|place| groups[index / 4_usize.pow(place) % 4])
                .collect();
            let right: usize = draw.iter().map(|group| group.right).sum();
            let pictures: usize = draw.iter().map(|group| group.all).sum();
            all.push(right as f64 / pictures as f64);
        }
        all.sort_by(f64::total_cmp);
        [all[12], all[255 - 12]]
    }

    #[test]
    fn intervals_are_those_of_all_possible_draws() {
        for groups in [
            [tally(10, 10), tally(0, 10), tally(5, 10), tally(9, 10)],
            [tally(40, 50), tally(3, 3), tally(0, 2), tally(11, 12)],
        ] {
            let interval = GroupedShare::new(&groups).unwrap().interval.unwrap();
            for (found, exact) in interval.into_iter().zip(exact(&groups)) {
                assert!((found - exact).abs() < 0.03, "{groups:?}: {found} {exact}");
            }
        }
    }

    #[test]
    fn alike_pictures_of_few_groups_make_a_wide_interval() {
        // Both cases have the same number of pictures. `few` has 4 groups that are
        // right or wrong as a whole, and `many` has 40 groups.
        let few = [tally(10, 10), tally(10, 10), tally(10, 10), tally(0, 10)];
        let many: Vec<Tally> = (0..40)
            .map(|index| tally(usize::from(index % 4 > 0), 1))
            .collect();
        let width = |groups: &[Tally]| {
            let [low, high] = GroupedShare::new(groups).unwrap().interval.unwrap();
            high - low
        };
        assert!(width(&few) > 2.0 * width(&many));
        // The standard deviation of the share of 40 independent pictures.
        let normal = 2.0 * 1.645 * (0.75_f64 * 0.25 / 40.0).sqrt();
        assert!((width(&many) - normal).abs() < 0.03);
    }
}
