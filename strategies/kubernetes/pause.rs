//! How long to wait before the next try.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);

/// Pauses that double up to a cap, each between half of it and all of it, so that those who failed together do not
/// come again together.
#[derive(Debug)]
pub(super) struct Pause {
    next: Duration,
}

impl Pause {
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    pub(super) fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST);
        pause / 2 + part(pause / 2)
    }
}

/// Some of it, by chance.
pub(super) fn part(of: Duration) -> Duration {
    let chance = RandomState::new().hash_one(()) % 1024;
    of * u32::try_from(chance).unwrap_or_default() / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_start_small_double_and_have_an_end() {
        let mut pause = Pause::new();
        let mut bound = FIRST;
        for _ in 0..20 {
            let next = pause.next();
            assert!(next >= bound / 2 && next <= bound, "{next:?} of {bound:?}");
            bound = (bound * 2).min(LONGEST);
        }
        assert_eq!(bound, LONGEST);
    }

    #[test]
    fn two_that_failed_together_do_not_come_again_together() {
        let waits: std::collections::BTreeSet<Duration> =
            (0..50).map(|_| part(Duration::from_secs(30))).collect();
        assert!(waits.len() > 10, "{waits:?}");
    }
}
