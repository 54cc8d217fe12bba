//! Whom this node was connected to, kept for when nobody else knows.
//!
//! A source of its own: discovery that is away, a mesh that started together and whose nodes found each other through
//! one that is gone, a restart while the backend is down. It holds a node until it has been neither connected nor
//! reported for [`Remember::keep`]; with [`Remember::prune`] a node that is not connected is forgotten sooner, and with
//! it all that was said of it. One that said goodbye is not dialled any more, but tried again at the next start.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::wire::id::NodeName;

/// Most nodes remembered; of more the one that was there last goes.
pub const REMEMBERED_MAX: usize = 256;

/// What is remembered of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// Its name.
    pub node: NodeName,
    /// Where it was.
    pub addresses: Vec<SocketAddr>,
    /// When it was last connected or reported; `None` while it is.
    pub last: Option<Instant>,
}

/// What to remember, and for how long.
#[derive(Clone, Debug)]
pub struct Remember {
    /// How long a node is remembered that is neither connected nor reported. Zero: not at all.
    pub keep: Duration,
    /// A node that nobody has reported for so long and that is not connected is forgotten. Nobody, when left out.
    pub prune: Option<Duration>,
    /// What an earlier run has left, and how long ago each was seen.
    pub past: Vec<(NodeName, Vec<SocketAddr>, Duration)>,
    /// Where what is to be kept for a later run is put.
    pub save: Option<watch::Sender<Vec<Past>>>,
}

impl Default for Remember {
    fn default() -> Self {
        Self { keep: Duration::from_secs(24 * 60 * 60), prune: None, past: Vec::new(), save: None }
    }
}

#[derive(Debug)]
struct Entry {
    addresses: Vec<SocketAddr>,
    since: Instant,
    /// When it was last connected or reported, how long before that it had been away already; `None` while it is.
    away: Option<(Instant, Duration)>,
    /// It said goodbye: only the next run tries it.
    left: bool,
}

impl Entry {
    fn away_for(&self, now: Instant) -> Duration {
        self.away
            .map_or(Duration::ZERO, |(since, before)| now.saturating_duration_since(since) + before)
    }

    /// When it will have been away for so long.
    fn away_until(&self, time: Duration) -> Option<Instant> {
        self.away.map(|(since, before)| since + time.saturating_sub(before))
    }
}

/// Everybody remembered.
#[derive(Debug)]
pub(crate) struct Remembered {
    keep: Duration,
    prune: Option<Duration>,
    entries: BTreeMap<NodeName, Entry>,
    save: Option<watch::Sender<Vec<Past>>>,
    changed: bool,
}

impl Remembered {
    pub(crate) fn new(remember: Remember, now: Instant) -> Self {
        let Remember { keep, prune, past, save } = remember;
        let past =
            past.into_iter().filter(|(_, addresses, ago)| !addresses.is_empty() && *ago < keep);
        let entries = past.take(REMEMBERED_MAX).map(|(node, addresses, ago)| {
            (node, Entry { addresses, since: now, away: Some((now, ago)), left: false })
        });
        Self { keep, prune, entries: entries.collect(), save, changed: false }
    }

    /// It is connected, and there.
    pub(crate) fn joined(&mut self, node: &NodeName, addresses: &[SocketAddr], now: Instant) {
        if self.keep.is_zero() || addresses.is_empty() {
            return;
        }
        if self.entries.len() >= REMEMBERED_MAX && !self.entries.contains_key(node) {
            let longest = self.entries.iter().max_by_key(|(_, entry)| entry.away_for(now));
            let Some(longest) = longest.map(|(node, _)| node.clone()) else { return };
            self.entries.remove(&longest);
        }
        let since = self.entries.get(node).map_or(now, |entry| entry.since);
        let entry = Entry { addresses: addresses.to_vec(), since, away: None, left: false };
        let before = self.entries.insert(node.clone(), entry);
        self.changed |= before.is_none_or(|before| before.addresses != addresses || before.left);
    }

    /// It said goodbye.
    pub(crate) fn left(&mut self, node: &NodeName) {
        if let Some(entry) = self.entries.get_mut(node) {
            entry.left = true;
            self.changed = true;
        }
    }

    /// It was sent away on request.
    pub(crate) fn forget(&mut self, node: &NodeName) {
        self.changed |= self.entries.remove(node).is_some();
    }

    /// Notes who is there, and returns who is to be pruned.
    pub(crate) fn look(
        &mut self,
        is_there: impl Fn(&NodeName) -> bool,
        is_connected: impl Fn(&NodeName) -> bool,
        now: Instant,
    ) -> Vec<NodeName> {
        let (keep, prune) = (self.keep, self.prune);
        let mut pruned = Vec::new();
        let mut changed = false;
        self.entries.retain(|node, entry| {
            if is_connected(node) || is_there(node) {
                entry.away = None;
                return true;
            }
            entry.away.get_or_insert((now, Duration::ZERO));
            let away = entry.away_for(now);
            let prune = prune.is_some_and(|prune| away >= prune);
            if prune {
                pruned.push(node.clone());
            }
            let goes = prune || away >= keep;
            changed |= goes;
            !goes
        });
        self.changed |= changed;
        pruned
    }

    /// When somebody will have been away for too long.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        let time = self.prune.map_or(self.keep, |prune| prune.min(self.keep));
        self.entries.values().filter_map(|entry| entry.away_until(time)).min()
    }

    /// Who may be dialled, since when it is remembered, and when it was last there.
    pub(crate) fn iter(
        &self,
    ) -> impl Iterator<Item = (&NodeName, &[SocketAddr], Instant, Option<Instant>)> {
        self.entries.iter().filter(|(_, entry)| !entry.left).map(|(node, entry)| {
            let last = entry.away.map(|(since, _)| since);
            (node, entry.addresses.as_slice(), entry.since, last)
        })
    }

    /// Hands what has changed to whoever keeps it.
    pub(crate) fn save(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let Some(save) = &self.save else { return };
        let past = self.entries.iter().map(|(node, entry)| Past {
            node: node.clone(),
            addresses: entry.addresses.clone(),
            // An earlier run may have seen it last: it does not get younger by being read.
            last: entry.away.map(|(since, before)| since.checked_sub(before).unwrap_or(since)),
        });
        save.send_replace(past.collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn name(text: &str) -> NodeName {
        text.parse().expect("a name")
    }

    fn at() -> Vec<SocketAddr> {
        vec![([10, 0, 0, 1], 4470).into()]
    }

    fn names(remembered: &Remembered) -> Vec<String> {
        remembered.iter().map(|(node, ..)| node.to_string()).collect()
    }

    fn nobody(_: &NodeName) -> bool {
        false
    }

    fn everybody(_: &NodeName) -> bool {
        true
    }

    #[test]
    fn who_is_there_does_not_expire_and_who_is_away_does() {
        let now = Instant::now();
        let remember = Remember { keep: MINUTE * 60, ..Remember::default() };
        let mut remembered = Remembered::new(remember, now);
        remembered.joined(&name("a@h"), &at(), now);
        assert!(remembered.look(nobody, everybody, now + MINUTE * 600).is_empty());
        assert_eq!(remembered.next_expiry(), None);
        let lost = now + MINUTE * 600;
        assert!(remembered.look(nobody, nobody, lost).is_empty());
        assert_eq!(remembered.next_expiry(), Some(lost + MINUTE * 60));
        remembered.look(nobody, nobody, lost + MINUTE * 59);
        assert_eq!(names(&remembered), ["a@h"]);
        remembered.look(nobody, nobody, lost + MINUTE * 60);
        assert!(names(&remembered).is_empty());
    }

    #[test]
    fn prune_takes_one_that_is_neither_reported_nor_connected_and_no_other() {
        let now = Instant::now();
        let remember = Remember { prune: Some(MINUTE * 10), ..Remember::default() };
        let mut remembered = Remembered::new(remember, now);
        remembered.joined(&name("a@h"), &at(), now);
        assert!(remembered.look(everybody, nobody, now + MINUTE * 50).is_empty());
        assert!(remembered.look(nobody, everybody, now + MINUTE * 100).is_empty());
        assert!(remembered.look(nobody, nobody, now + MINUTE * 101).is_empty());
        assert!(remembered.look(nobody, nobody, now + MINUTE * 110).is_empty());
        assert_eq!(remembered.look(nobody, nobody, now + MINUTE * 111), [name("a@h")]);
        assert!(names(&remembered).is_empty());
    }

    #[test]
    fn what_an_earlier_run_left_is_tried_for_the_rest_of_its_time() {
        let now = Instant::now();
        let past = |node: &str, ago| (name(node), at(), ago);
        let past = vec![past("a@h", MINUTE * 50), past("b@h", MINUTE * 61)];
        let remember = Remember { keep: MINUTE * 60, past, ..Remember::default() };
        let mut remembered = Remembered::new(remember, now);
        assert_eq!(names(&remembered), ["a@h"], "the other one is too old");
        remembered.look(nobody, nobody, now);
        assert_eq!(remembered.next_expiry(), Some(now + MINUTE * 10));
        remembered.look(nobody, nobody, now + MINUTE * 10);
        assert!(names(&remembered).is_empty());
    }

    #[test]
    fn one_that_said_goodbye_is_kept_for_the_next_run_and_dialled_by_no_one() {
        let now = Instant::now();
        let (save, saved) = watch::channel(Vec::new());
        let remember = Remember { save: Some(save), ..Remember::default() };
        let mut remembered = Remembered::new(remember, now);
        remembered.joined(&name("a@h"), &at(), now);
        remembered.left(&name("a@h"));
        assert!(names(&remembered).is_empty());
        remembered.save();
        assert_eq!(saved.borrow().len(), 1);
        remembered.forget(&name("a@h"));
        remembered.save();
        assert!(saved.borrow().is_empty());
    }

    #[test]
    fn the_memory_is_bounded_and_zero_remembers_nobody() {
        let now = Instant::now();
        let mut remembered = Remembered::new(Remember::default(), now);
        for i in 0..1000 {
            remembered.joined(&name(&format!("n{i}@h")), &at(), now);
        }
        assert_eq!(remembered.entries.len(), REMEMBERED_MAX);
        let none = Remember { keep: Duration::ZERO, ..Remember::default() };
        let mut remembered = Remembered::new(none, now);
        remembered.joined(&name("a@h"), &at(), now);
        assert!(remembered.entries.is_empty());
    }
}
