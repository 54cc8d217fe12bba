//! Waits that end together.
//!
//! What costs in an idle process is not a look at a directory but the waking for it: a hundred times as
//! much. Those who look now and then do so at the same moments of the wall clock, so that one waking serves
//! them all.

use std::time::{Duration, SystemTime};

/// Sleeps until the wall clock is at a multiple of `period`: at most that long, and half of it on average.
pub(crate) async fn until_next(period: Duration) {
    tokio::time::sleep(rest(period, SystemTime::now())).await;
}

fn rest(period: Duration, now: SystemTime) -> Duration {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let into = since.as_nanos() % period.as_nanos().max(1);
    period.saturating_sub(Duration::from_nanos(u64::try_from(into).unwrap_or_default()))
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
}
