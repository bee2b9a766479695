//! The waits between attempts to reach another machine.
//!
//! This module computes the waits and knows nothing about the attempts. It does not wait itself.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Computes the waits between attempts. The waits grow exponentially. They also have jitter, so
/// that the devices in a building do not all try again at the same time after a power failure.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
    random: ChaCha8Rng,
}

impl Backoff {
    /// Creates a backoff whose first wait is at most `min` and whose longest wait is at most `max`.
    pub(crate) fn new(min: Duration, max: Duration, seed: u64) -> Backoff {
        Backoff {
            min: min.min(max),
            max,
            next: min.min(max),
            random: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// Returns a random wait between half of the current wait and the whole current wait, and
    /// then doubles the current wait.
    pub(crate) fn next_delay(&mut self) -> Duration {
        let delay = self.up_to(self.next);
        self.next = self.next.saturating_mul(2).min(self.max);
        delay
    }

    /// Returns a random wait between half of `most` and `most`.
    pub(crate) fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.random.random_range(0.5..=1.0))
    }

    /// Starts over with the shortest wait.
    pub(crate) fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIN: Duration = Duration::from_secs(1);
    const MAX: Duration = Duration::from_mins(1);

    #[test]
    fn waits_grow_and_differ() {
        let mut backoff = Backoff::new(MIN, MAX, 7);
        let mut expected = MIN;
        for _ in 0..20 {
            let delay = backoff.next_delay();
            assert!(delay >= expected / 2 && delay <= expected, "{delay:?}");
            expected = (2 * expected).min(MAX);
        }
        backoff.reset();
        assert!(backoff.next_delay() <= MIN);
        let first = |seed| Backoff::new(MIN, MAX, seed).next_delay();
        assert_ne!(first(2), first(5));
    }

    proptest! {
        #[test]
        fn no_wait_is_longer_than_the_longest(
            min in 0_u64..10_000_000,
            max in 0_u64..10_000_000,
            seed: u64,
        ) {
            let longest = Duration::from_millis(max);
            let mut backoff = Backoff::new(Duration::from_millis(min), longest, seed);
            for _ in 0..80 {
                prop_assert!(backoff.next_delay() <= longest);
            }
        }
    }
}
