//! What was tried to reach whom, and how it went: the memory of `pillion explain`.
//!
//! Bounded in subjects and in entries of each. What goes the same way again and again is one entry that counts.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use tokio::time::Instant;

use crate::wire::id::NodeName;

/// Most subjects remembered; the one of which least was heard lately is forgotten.
const SUBJECTS_MAX: usize = 512;
/// Most different entries of one subject; the oldest is forgotten.
const ENTRIES_MAX: usize = 8;
/// Longest sentence kept.
const WORDS_BYTES_MAX: usize = 320;

/// What an entry is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// Who said its name.
    Node(NodeName),
    /// What was dialled.
    Address(SocketAddr),
    /// Whence somebody dialled who did not get as far as a name.
    From(IpAddr),
}

/// One try, or several in a row that went the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// The far end.
    pub address: SocketAddr,
    /// This node dialled.
    pub dialled: bool,
    /// One word.
    pub result: &'static str,
    /// It did not lead to a connection that is needed, or ended one.
    pub failed: bool,
    /// A sentence.
    pub words: String,
    pub times: u64,
    /// When it happened last.
    pub last: Instant,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    subjects: BTreeMap<Subject, VecDeque<Attempt>>,
}

impl Attempts {
    pub(crate) fn note(&mut self, subject: Subject, mut attempt: Attempt) {
        if attempt.words.len() > WORDS_BYTES_MAX {
            let mut end = WORDS_BYTES_MAX;
            while !attempt.words.is_char_boundary(end) {
                end -= 1;
            }
            attempt.words.truncate(end);
        }
        if self.subjects.len() >= SUBJECTS_MAX && !self.subjects.contains_key(&subject) {
            let last = |entries: &VecDeque<Attempt>| entries.back().map(|entry| entry.last);
            let oldest = self.subjects.iter().min_by_key(|(_, entries)| last(entries));
            let Some(oldest) = oldest.map(|(subject, _)| subject.clone()) else { return };
            self.subjects.remove(&oldest);
        }
        let entries = self.subjects.entry(subject).or_default();
        // An accepted connection comes from another port each time.
        let same = |entry: &Attempt| {
            entry.dialled == attempt.dialled
                && (!attempt.dialled || entry.address == attempt.address)
                && (entry.result, &entry.words) == (attempt.result, &attempt.words)
        };
        // Two addresses that fail in turn are two entries, not as many as tries; what ends a connection is news.
        let found = if attempt.failed { entries.iter().position(same) } else { None };
        let between = found.is_some_and(|at| entries.iter().skip(at).any(|entry| !entry.failed));
        if let Some(at) = found.filter(|_| !between)
            && let Some(mut entry) = entries.remove(at)
        {
            (entry.times, entry.last, entry.address) =
                (entry.times + 1, attempt.last, attempt.address);
            entries.push_back(entry);
            return;
        }
        if entries.len() >= ENTRIES_MAX {
            entries.pop_front();
        }
        entries.push_back(attempt);
    }

    /// Those who dialled and did not get as far as a name.
    pub(crate) fn strangers(&self) -> impl Iterator<Item = &Attempt> {
        let strangers = self.subjects.iter().filter(|(s, _)| matches!(s, Subject::From(_)));
        strangers.flat_map(|(_, entries)| entries)
    }

    /// What is known of a subject, the oldest first.
    pub(crate) fn of(&self, subject: &Subject) -> impl Iterator<Item = &Attempt> {
        self.subjects.get(subject).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn attempt(port: u16, result: &'static str, last: Instant) -> Attempt {
        Attempt {
            address: ([10, 0, 0, 1], port).into(),
            dialled: true,
            result,
            failed: result != "joined",
            words: format!("said {result}"),
            times: 1,
            last,
        }
    }

    fn told(attempts: &Attempts, subject: &Subject) -> Vec<(u16, &'static str, u64)> {
        attempts.of(subject).map(|a| (a.address.port(), a.result, a.times)).collect()
    }

    #[test]
    fn what_goes_the_same_way_again_is_one_entry_that_counts() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let subject = Subject::Node("a@h".parse().expect("a name"));
        for second in 0..10 {
            let now = now + Duration::from_secs(second);
            attempts.note(subject.clone(), attempt(1, "refused", now));
            attempts.note(subject.clone(), attempt(2, "no_answer", now));
        }
        assert_eq!(told(&attempts, &subject), [(1, "refused", 10), (2, "no_answer", 10)]);
        assert_eq!(
            attempts.of(&subject).next().map(|a| a.last),
            Some(now + Duration::from_secs(9))
        );
        attempts.note(subject.clone(), attempt(1, "joined", now));
        attempts.note(subject.clone(), attempt(1, "refused", now));
        assert_eq!(
            told(&attempts, &subject)[1..],
            [(2, "no_answer", 10), (1, "joined", 1), (1, "refused", 1)]
        );
    }

    #[test]
    fn the_memory_is_bounded_in_subjects_and_entries_and_words() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for port in 1..3000_u16 {
            let from =
                Subject::From(IpAddr::from([10, 1, port.to_be_bytes()[0], port.to_be_bytes()[1]]));
            attempts
                .note(from, attempt(port, "stranger", now + Duration::from_millis(port.into())));
            let mut long = attempt(port, "refused", now + Duration::from_secs(60));
            long.words = "é".repeat(1000);
            attempts.note(Subject::Address(([10, 0, 0, 2], 1).into()), long);
        }
        assert_eq!(attempts.subjects.len(), SUBJECTS_MAX);
        let kept: Vec<_> = attempts.of(&Subject::Address(([10, 0, 0, 2], 1).into())).collect();
        assert_eq!(kept.len(), ENTRIES_MAX);
        assert!(kept.iter().all(|a| a.words.len() <= WORDS_BYTES_MAX));
    }
}
