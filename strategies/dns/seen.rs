//! Who is behind a name, when answers may be parts of the truth.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::ask::{Found, Spot};

/// How long an address stays after an answer first came without it.
const HOLD: Duration = Duration::from_secs(120);
/// The same for a name whose answers were seen to rotate.
const HOLD_ROTATING: Duration = Duration::from_secs(600);
/// From how many answers in a row it is missing before it may leave.
const MISSED_MIN: u32 = 3;
/// Most addresses that are kept for one kind of question.
const HELD_MAX: usize = 4096;

/// The addresses that count, by one kind of question for one name.
#[derive(Debug, Default)]
pub(super) struct Seen {
    held: BTreeMap<SocketAddr, Held>,
    /// An address that was missing came back: the answers are parts.
    rotates: bool,
}

#[derive(Debug)]
struct Held {
    source: String,
    target: String,
    missing: Option<Missing>,
}

#[derive(Clone, Copy, Debug)]
struct Missing {
    since: Instant,
    answers: u32,
}

impl Seen {
    pub(super) fn addresses(&self) -> impl Iterator<Item = (SocketAddr, &str)> {
        self.held.iter().map(|(address, held)| (*address, held.source.as_str()))
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Takes in an answer: what is in it is there, what is not in it may have gone.
    pub(super) fn on_answer(&mut self, found: Found, now: Instant, hold: Option<Duration>) {
        self.rotates |= found
            .addresses
            .keys()
            .any(|address| self.held.get(address).is_some_and(|held| held.missing.is_some()));
        let hold = hold.unwrap_or(if self.rotates { HOLD_ROTATING } else { HOLD });
        self.held.retain(|address, held| {
            // What could not be asked for is as it was.
            let is_in_doubt = found.troubles.contains_key(&held.target);
            if found.addresses.contains_key(address) || is_in_doubt {
                held.missing = None;
                return true;
            }
            let missing = held.missing.get_or_insert(Missing { since: now, answers: 0 });
            missing.answers = missing.answers.saturating_add(1);
            missing.answers < MISSED_MIN || now < missing.since + hold
        });
        for (address, Spot { source, target }) in found.addresses {
            if self.held.len() >= HELD_MAX && !self.held.contains_key(&address) {
                self.drop_longest_missing();
            }
            if self.held.len() < HELD_MAX || self.held.contains_key(&address) {
                self.held.insert(address, Held { source, target, missing: None });
            }
        }
    }

    fn drop_longest_missing(&mut self) {
        let longest = self
            .held
            .iter()
            .filter_map(|(address, held)| Some((held.missing?.since, *address)))
            .min();
        if let Some((_, address)) = longest {
            self.held.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(ports: impl IntoIterator<Item = u16>) -> Found {
        let spot = || Spot { source: "here".into(), target: String::new() };
        let addresses =
            ports.into_iter().map(|port| (SocketAddr::from(([10, 0, 0, 1], port)), spot()));
        Found { addresses: addresses.collect(), ..Found::nobody() }
    }

    fn ports(seen: &Seen) -> Vec<u16> {
        seen.addresses().map(|(address, _)| address.port()).collect()
    }

    const STEP: Duration = Duration::from_secs(5);

    #[test]
    fn an_address_leaves_when_it_was_missing_for_long_and_from_three_answers() {
        let mut seen = Seen::default();
        let mut now = Instant::now();
        seen.on_answer(found([1, 2]), now, None);
        // Rare answers: three are needed, however long they take.
        for _ in 0..2 {
            now += Duration::from_secs(3600);
            seen.on_answer(found([1]), now, None);
            assert_eq!(ports(&seen), [1, 2]);
        }
        now += Duration::from_secs(3600);
        seen.on_answer(found([1]), now, None);
        assert_eq!(ports(&seen), [1]);
        // Frequent ones: the time must have passed.
        seen.on_answer(found([1, 2]), now, None);
        for _ in 0..24 {
            now += STEP;
            seen.on_answer(found([1]), now, None);
            assert_eq!(ports(&seen), [1, 2]);
        }
        now += STEP;
        seen.on_answer(found([1]), now, None);
        assert_eq!(ports(&seen), [1]);
    }

    #[test]
    fn answers_that_rotate_through_a_hundred_addresses_gather_them_all_and_remove_nobody() {
        let mut seen = Seen::default();
        let mut now = Instant::now();
        for turn in 0..1000_u16 {
            let part = (0..8).map(|n| 1 + (turn * 8 + n) % 100);
            seen.on_answer(found(part), now, None);
            now += STEP;
            if turn > 13 {
                assert_eq!(seen.len(), 100, "after answer {turn}");
            }
        }
    }

    #[test]
    fn no_more_are_kept_than_the_bound_and_those_that_are_there_stay() {
        let mut seen = Seen::default();
        let now = Instant::now();
        for turn in 0..20_u16 {
            seen.on_answer(found((0..1000).map(|n| 1 + turn * 1000 + n)), now, None);
        }
        assert_eq!(seen.len(), HELD_MAX);
        assert!(ports(&seen).contains(&20_000));
    }
}
