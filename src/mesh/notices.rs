//! Says a thing once: a line is logged when it changes, not at each try.

use std::collections::{BTreeMap, VecDeque};

/// Most subjects remembered, above the number of targets; the oldest is forgotten and may be spoken of again.
const SUBJECTS_MAX: usize = 8192;

/// The last thing said of each subject.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    said: BTreeMap<String, String>,
    order: VecDeque<String>,
}

impl Notices {
    /// Whether `words` of `subject` are news; they are not from now on.
    pub(crate) fn is_news(&mut self, subject: &str, words: &str) -> bool {
        if let Some(last) = self.said.get_mut(subject) {
            let news = last != words;
            if news {
                words.clone_into(last);
            }
            return news;
        }
        if self.order.len() >= SUBJECTS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.said.remove(&oldest);
        }
        self.order.push_back(subject.to_owned());
        self.said.insert(subject.to_owned(), words.to_owned());
        true
    }

    /// The subject is well again: the same words would be news.
    pub(crate) fn well(&mut self, subject: &str) {
        if self.said.remove(subject).is_some() {
            self.order.retain(|s| s != subject);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_said_when_it_changes() {
        let mut notices = Notices::default();
        assert!(notices.is_news("a", "refused"));
        assert!(!notices.is_news("a", "refused"));
        assert!(notices.is_news("b", "refused"));
        assert!(notices.is_news("a", "timed out"));
        notices.well("a");
        assert!(notices.is_news("a", "timed out"));
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut notices = Notices::default();
        for i in 0..SUBJECTS_MAX * 2 {
            notices.is_news(&i.to_string(), "x");
        }
        assert_eq!(notices.said.len(), SUBJECTS_MAX);
        assert_eq!(notices.order.len(), SUBJECTS_MAX);
    }
}
