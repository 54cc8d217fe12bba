//! The one signal that everybody selects on.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// Asks everybody to stop. Dropping it asks too.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// Hears that it is time to stop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// A trigger and its first listener.
#[must_use]
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    /// Asks everybody to stop. Asking twice is asking once.
    pub fn ask(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Completes once stopping was asked for, at once when it was before. Cancel safe.
    pub async fn asked(&mut self) {
        // An error means that the trigger is gone, which asks as well.
        let _ = self.0.wait_for(|asked| *asked).await;
    }

    /// Waits this long, and no longer than until stopping is asked for: then it is true. Cancel safe.
    pub async fn asked_within(&mut self, wait: Duration) -> bool {
        timeout(wait, self.asked()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_before_the_next_try_ends_when_the_node_stops() {
        let (trigger, mut shutdown) = channel();
        let start = Instant::now();
        assert!(!shutdown.asked_within(Duration::from_secs(1)).await);
        assert_eq!(start.elapsed(), Duration::from_secs(1));
        trigger.ask();
        assert!(shutdown.asked_within(Duration::from_secs(60)).await);
        assert!(shutdown.asked_within(Duration::ZERO).await, "also without a wait");
        assert_eq!(start.elapsed(), Duration::from_secs(1));
    }
}
