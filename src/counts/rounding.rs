//! The rule for the numbers that statistics mode keeps and publishes.
//!
//! An hour with fewer than [`MIN_PASSAGES`] passages is withheld: it looks like an hour
//! without passages, and it does not count toward its day. The numbers of any other hour are
//! rounded to the nearest multiple of [`STEP`]. A day is the sum of its published hours, so
//! it tells nothing that they do not tell. Only hours that are over are published.

use super::Passages;

/// An hour with fewer passages than this is withheld.
pub const MIN_PASSAGES: u64 = 10;
/// Numbers are rounded to a multiple of this.
pub const STEP: u64 = 5;

/// The rule as a sentence for people.
#[must_use]
pub fn rule() -> String {
    format!(
        "hours with fewer than {MIN_PASSAGES} passages are withheld, all numbers are rounded to \
         the nearest {STEP}, and an hour is published only when it is over"
    )
}

/// Applies the rule to an hour that is over. Returns no passages if the hour is withheld.
#[must_use]
pub fn rounded(exact: Passages) -> Passages {
    if exact.total() < MIN_PASSAGES {
        return Passages::default();
    }
    let nearest = |number: u64| number.saturating_add(STEP / 2) / STEP * STEP;
    Passages {
        masked: nearest(exact.masked),
        unmasked: nearest(exact.unmasked),
        unsure: nearest(exact.unsure),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn passages(masked: u64, unmasked: u64, unsure: u64) -> Passages {
        Passages {
            masked,
            unmasked,
            unsure,
        }
    }

    #[test]
    fn a_quiet_hour_looks_like_an_empty_one() {
        assert_eq!(rounded(passages(9, 0, 0)), Passages::default());
        assert_eq!(rounded(passages(3, 3, 3)), Passages::default());
        assert_eq!(rounded(passages(10, 0, 0)), passages(10, 0, 0));
        assert_eq!(rounded(passages(8, 1, 1)), passages(10, 0, 0));
        assert_eq!(rounded(passages(12, 13, 2)), passages(10, 15, 0));
    }

    proptest! {
        #[test]
        fn numbers_are_close_and_multiples(
            masked in 0_u64..10_000, unmasked in 0_u64..10_000, unsure in 0_u64..10_000,
        ) {
            let exact = passages(masked, unmasked, unsure);
            let published = rounded(exact);
            for ((_, number), (_, was)) in published.named().into_iter().zip(exact.named()) {
                prop_assert_eq!(number % STEP, 0);
                if exact.total() >= MIN_PASSAGES {
                    prop_assert!(number.abs_diff(was) <= STEP / 2);
                } else {
                    prop_assert_eq!(number, 0);
                }
            }
        }
    }
}
