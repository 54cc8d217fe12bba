//! How long to wait before the next try: doubling, capped, jittered.
//!
//! Everybody who tries again waits as this says: dials, accepts, strategies. The jitter comes from a seed that is
//! passed in, so that a simulation repeats itself.

use std::time::Duration;

/// A small deterministic source of jitter (`SplitMix64`; Steele, Lea and Flood 2014). Not for secrets.
#[derive(Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// The source that starts at `seed`.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Something between half of `wait` and all of it.
    fn jitter(&mut self, wait: Duration) -> Duration {
        let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        let half = micros / 2;
        Duration::from_micros(half + self.next() % (micros - half + 1))
    }
}

/// From where to where the waits double.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waits {
    /// The first one.
    pub first: Duration,
    /// The longest one.
    pub cap: Duration,
}

impl Waits {
    /// After a failed accept: of one connection, or of a moment without file descriptors.
    pub(crate) const ACCEPT: Self =
        Self { first: Duration::from_millis(5), cap: Duration::from_secs(1) };
}

/// Counts failures in a row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Counts a failure and says how long to wait.
    pub(crate) fn next(&mut self, waits: Waits, rng: &mut Rng) -> Duration {
        let wait = waits.first.saturating_mul(1 << self.failures.min(20)).min(waits.cap);
        self.failures = self.failures.saturating_add(1);
        rng.jitter(wait)
    }

    /// Forgets the failures.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_milliseconds_to_the_cap_with_jitter() {
        let (mut backoff, mut rng) = (Backoff::default(), Rng::new(1));
        let waits = Waits { first: Duration::from_millis(5), cap: Duration::from_secs(5) };
        let mut wait = waits.first;
        for _ in 0..40 {
            let next = backoff.next(waits, &mut rng);
            assert!(next >= wait / 2 && next <= wait, "{next:?} is not within {wait:?}");
            wait = (wait * 2).min(waits.cap);
        }
        assert_eq!(wait, waits.cap);
        backoff.reset();
        assert!(backoff.next(waits, &mut rng) <= waits.first);
    }

    #[test]
    fn two_that_fail_at_once_do_not_try_again_at_once() {
        let draw = |seed| {
            let (mut backoff, mut rng) = (Backoff::default(), Rng::new(seed));
            [(); 4].map(|()| backoff.next(Waits::ACCEPT, &mut rng))
        };
        assert_eq!(draw(7), draw(7), "one seed gives one sequence");
        assert_ne!(draw(7), draw(8));
    }
}
