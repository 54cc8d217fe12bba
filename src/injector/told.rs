//! What goes wrong is said once, however often it is tried again; and again when it comes back after a while.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// What has not gone wrong for this long is well again: whatever fails is tried more often.
const FORGOTTEN: Duration = Duration::from_secs(15 * 60);
/// Most sentences that are remembered; beyond them nothing is said.
const SAID_MAX: usize = 256;

/// What was said, and when it was true last.
#[derive(Debug, Default)]
pub(crate) struct Told(BTreeMap<String, Instant>);

impl Told {
    /// Whether this is to be said: not when it was said already and has been so since.
    pub(crate) fn is_news(&mut self, words: &str) -> bool {
        let now = Instant::now();
        let fresh = |at: &Instant| now.saturating_duration_since(*at) < FORGOTTEN;
        if let Some(at) = self.0.get_mut(words) {
            let known = fresh(at);
            *at = now;
            return !known;
        }
        if self.0.len() >= SAID_MAX {
            self.0.retain(|_, at| fresh(at));
        }
        if self.0.len() >= SAID_MAX {
            return false;
        }
        self.0.insert(words.to_owned(), now);
        true
    }

    /// Says a warning, if it is news.
    pub(crate) fn warn(&mut self, words: &str) {
        if self.is_news(words) {
            tracing::warn!("{words}");
        }
    }

    /// All is well: whatever goes wrong next is said.
    pub(crate) fn well(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_is_said_once_and_again_when_it_was_well_in_between() {
        let mut told = Told::default();
        assert!(told.is_news("403"));
        for _ in 0..100 {
            tokio::time::advance(Duration::from_secs(30)).await;
            assert!(!told.is_news("403"));
        }
        assert!(told.is_news("500"), "another thing");
        assert!(!told.is_news("403"), "that goes on");
        tokio::time::advance(FORGOTTEN).await;
        assert!(told.is_news("403"));
        told.well();
        assert!(told.is_news("403"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_another_sentence_each_time_is_said_so_often_and_no_oftener() {
        let mut told = Told::default();
        let said = (0..10_000).filter(|number| told.is_news(&number.to_string())).count();
        assert_eq!((said, told.0.len()), (SAID_MAX, SAID_MAX));
    }
}
