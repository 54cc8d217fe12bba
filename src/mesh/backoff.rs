//! How long to wait before the next try: doubling, capped, jittered.
//!
//! The jitter comes from a seed that is passed in, so that a simulation repeats itself.

use std::time::Duration;

use crate::peer::Failure;

/// The first wait. A peer that restarts in place is back within milliseconds, so the first tries are quick.
const FIRST: Duration = Duration::from_millis(5);
/// The longest wait for a peer that does not answer.
pub(crate) const CAP: Duration = Duration::from_secs(5);
/// The first wait for a peer that refused us for a cause that time alone does not heal.
const CAUSE_FIRST: Duration = Duration::from_secs(1);
/// The longest wait for such a peer.
pub(crate) const CAUSE_CAP: Duration = Duration::from_secs(30);

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

/// Counts the failures of one target.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Counts a failure and says how long to wait.
    pub(crate) fn next(&mut self, failure: Failure, rng: &mut Rng) -> Duration {
        let (first, cap) = match failure {
            Failure::Passing => (FIRST, CAP),
            Failure::Cause => (CAUSE_FIRST, CAUSE_CAP),
        };
        let wait = first.saturating_mul(1 << self.failures.min(20)).min(cap);
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
        let mut wait = FIRST;
        for _ in 0..16 {
            let next = backoff.next(Failure::Passing, &mut rng);
            assert!(next >= wait / 2 && next <= wait, "{next:?} is not within {wait:?}");
            wait = (wait * 2).min(CAP);
        }
        assert_eq!(wait, CAP);
        backoff.reset();
        assert!(backoff.next(Failure::Passing, &mut rng) <= FIRST);
    }

    #[test]
    fn a_cause_waits_longer() {
        let (mut backoff, mut rng) = (Backoff::default(), Rng::new(1));
        assert!(backoff.next(Failure::Cause, &mut rng) >= CAUSE_FIRST / 2);
        for _ in 0..40 {
            assert!(backoff.next(Failure::Cause, &mut rng) <= CAUSE_CAP);
        }
        assert!(backoff.next(Failure::Cause, &mut rng) >= CAUSE_CAP / 2);
    }

    #[test]
    fn one_seed_gives_one_sequence() {
        let draw = |seed| {
            let mut rng = Rng::new(seed);
            [rng.next(), rng.next(), rng.next()]
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
