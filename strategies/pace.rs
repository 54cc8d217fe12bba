//! Waits that end together, and clocks that do not.
//!
//! What costs in an idle process is not a look at a directory but the waking for it: a hundred times as
//! much. Those who look now and then do so at the same moments of the wall clock, so that one waking serves
//! them all.

use std::time::{Duration, Instant as Monotonic, SystemTime};

/// How far the wall clock and the monotonic clock may drift apart between two looks: more is a sleep.
const JUMP: Duration = Duration::from_secs(5);

/// Sleeps until the wall clock is at a multiple of `period`: at most that long, and half of it on average.
pub(crate) async fn until_next(period: Duration) {
    tokio::time::sleep(rest(period, SystemTime::now())).await;
}

fn rest(period: Duration, now: SystemTime) -> Duration {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let into = since.as_nanos() % period.as_nanos().max(1);
    period.saturating_sub(Duration::from_nanos(u64::try_from(into).unwrap_or_default()))
}

/// Both clocks at one moment: they go apart while the machine sleeps, for only one of them goes on.
pub(crate) struct Clocks {
    wall: SystemTime,
    monotonic: Monotonic,
}

impl Clocks {
    #[expect(
        clippy::disallowed_methods,
        reason = "it compares the real clocks: sleep shows as a jump"
    )]
    pub(crate) fn now() -> Self {
        Self { wall: SystemTime::now(), monotonic: Monotonic::now() }
    }

    pub(crate) fn jumped_since(&self, earlier: &Self) -> bool {
        let ran = self.monotonic.saturating_duration_since(earlier.monotonic);
        match self.wall.duration_since(earlier.wall) {
            Ok(passed) => passed.abs_diff(ran) > JUMP,
            Err(back) => back.duration() + ran > JUMP,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_end_at_the_same_moments_whenever_they_began() {
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        let period = Duration::from_secs(2);
        for began in [10_000, 10_001, 11_999] {
            assert_eq!(at(began) + rest(period, at(began)), at(12_000));
        }
    }

    #[test]
    fn a_sleep_and_a_clock_that_is_set_are_jumps_and_a_late_look_is_none() {
        let start = Clocks::now();
        let after = |wall_s: u64, monotonic_s: u64| Clocks {
            wall: start.wall + Duration::from_secs(wall_s),
            monotonic: start.monotonic + Duration::from_secs(monotonic_s),
        };
        assert!(!after(2, 2).jumped_since(&start));
        assert!(!after(60, 60).jumped_since(&start));
        assert!(!after(6, 2).jumped_since(&start));
        assert!(after(3600, 2).jumped_since(&start));
        assert!(start.wall > SystemTime::UNIX_EPOCH);
        let set_back =
            Clocks { wall: start.wall - Duration::from_secs(60), monotonic: start.monotonic };
        assert!(set_back.jumped_since(&start));
    }
}
