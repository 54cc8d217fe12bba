//! How long to wait before a source is asked again: doubling, capped, and never the same for two nodes.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// The waits after failures in a row.
#[derive(Debug)]
pub(crate) struct Retry {
    first: Duration,
    cap: Duration,
    failures: u32,
}

impl Retry {
    pub(crate) const fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, failures: 0 }
    }

    /// The wait after one more failure.
    pub(crate) fn after_failure(&mut self) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.failures.min(20));
        self.failures = self.failures.saturating_add(1);
        spread(doubled.min(self.cap))
    }

    /// The next failure is the first one again.
    pub(crate) const fn succeeded(&mut self) {
        self.failures = 0;
    }
}

/// `wait`, shortened by up to a quarter at random, so that nodes that failed together do not come back together.
pub(crate) fn spread(wait: Duration) -> Duration {
    // Chance need not be good here: the keys of the standard library's hash maps are drawn at random.
    let chance = RandomState::new().build_hasher().finish() % 256;
    wait - wait.mul_f64(0.25 * f64::from(u8::try_from(chance).unwrap_or_default()) / 256.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_start_anew_after_a_success() {
        let (first, cap) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut retry = Retry::new(first, cap);
        for doubled in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let doubled = Duration::from_millis(doubled);
            let wait = retry.after_failure();
            assert!(wait <= doubled && wait >= doubled.mul_f64(0.74), "{wait:?} of {doubled:?}");
        }
        (0..100).for_each(|_| assert!(retry.after_failure() <= cap));
        retry.succeeded();
        assert!(retry.after_failure() <= first);
    }
}
