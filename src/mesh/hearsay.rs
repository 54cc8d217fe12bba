//! What peers say of each other, and who has left for good.
//!
//! What a connected peer says now holds for as long as it says it; what it no longer says, or said before it was
//! lost, holds for another [`HEARSAY_FOR`]. A goodbye ends it at once and leaves a tombstone for that incarnation,
//! so that the dead are not reported for ever.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::wanted::Held;
use crate::wire::id::{Node, NodeName};

/// How long a rumour outlives its teller.
pub(crate) const HEARSAY_FOR: Duration = Duration::from_secs(60);
/// Most nodes that one peer may speak of.
pub(crate) const TOLD_MAX: usize = 1024;
/// Most nodes spoken of in all.
const NODES_MAX: usize = 4096;
/// Most tellers of one node that count. In a crowd everybody speaks of everybody, and more of them say nothing new.
const TELLERS_MAX: usize = 8;
/// How long a goodbye is remembered: longer than any rumour or cached announcement of that run should live.
const TOMBSTONE_FOR: Duration = Duration::from_secs(600);
/// Most goodbyes remembered.
const TOMBSTONES_MAX: usize = 1024;

/// What one teller says of one node.
#[derive(Clone, Debug)]
struct Told {
    addresses: Vec<SocketAddr>,
    /// When it was said first.
    since: Instant,
    /// When it lapses; `None` while the teller stands by it.
    until: Option<Instant>,
}

/// What one teller says of one node, for those who merge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rumour<'a> {
    pub node: &'a Node,
    pub teller: &'a NodeName,
    pub addresses: &'a [SocketAddr],
    /// When it was said first.
    pub since: Instant,
    /// When the teller ceased to stand by it.
    pub ended: Option<Instant>,
}

/// Everything heard of others.
#[derive(Debug, Default)]
pub(crate) struct Hearsay {
    nodes: BTreeMap<Node, BTreeMap<NodeName, Told>>,
    tombstones: BTreeMap<Node, Instant>,
}

impl Hearsay {
    /// `teller` says that it is connected to these now, and to nobody else. True when somebody is among them, or at an
    /// address, that nobody spoke of before and who is not `held`.
    pub(crate) fn told(
        &mut self,
        teller: &NodeName,
        said: impl IntoIterator<Item = (Node, Vec<SocketAddr>)>,
        held: &Held,
        now: Instant,
    ) -> bool {
        let mut news = false;
        self.gone(teller, now);
        for (node, addresses) in said.into_iter().take(TOLD_MAX) {
            let full = self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(&node);
            if full || addresses.is_empty() || self.tombstones.contains_key(&node) {
                continue;
            }
            let is_held = held.get(&node.name) == Some(&node.incarnation);
            let tellers = self.nodes.entry(node).or_default();
            // The teller's own words have been withdrawn just now.
            let stands = |told: &Told| told.until.is_none_or(|until| until == now + HEARSAY_FOR);
            news |= !is_held
                && !tellers.values().any(|told| stands(told) && told.addresses == addresses);
            let since = tellers.get(teller).map_or(now, |told| told.since);
            tellers.insert(teller.clone(), Told { addresses, since, until: None });
        }
        news
    }

    /// `teller` no longer stands by anything it said: it was lost, or is about to say something new.
    pub(crate) fn gone(&mut self, teller: &NodeName, now: Instant) {
        for tellers in self.nodes.values_mut() {
            if let Some(told) = tellers.get_mut(teller) {
                told.until.get_or_insert(now + HEARSAY_FOR);
            }
        }
    }

    /// We were connected to this node ourselves and lost it without a goodbye.
    pub(crate) fn lost(
        &mut self,
        me: &NodeName,
        node: Node,
        addresses: Vec<SocketAddr>,
        now: Instant,
    ) {
        if self.nodes.len() < NODES_MAX && !addresses.is_empty() {
            let told = Told { addresses, since: now, until: Some(now + HEARSAY_FOR) };
            self.nodes.entry(node).or_default().insert(me.clone(), told);
        }
    }

    /// Nobody is to look for the node any more because we lost it.
    pub(crate) fn unlose(&mut self, me: &NodeName, name: &NodeName) {
        for (node, tellers) in &mut self.nodes {
            if node.name == *name {
                tellers.remove(me);
            }
        }
        self.nodes.retain(|_, tellers| !tellers.is_empty());
    }

    /// The node said goodbye: nothing said of this run of it counts any more.
    pub(crate) fn goodbye(&mut self, node: &Node, now: Instant) {
        self.nodes.remove(node);
        while self.tombstones.len() >= TOMBSTONES_MAX {
            let oldest = self.tombstones.iter().min_by_key(|(_, until)| **until);
            let Some(oldest) = oldest.map(|(node, _)| node.clone()) else { break };
            self.tombstones.remove(&oldest);
        }
        self.tombstones.insert(node.clone(), now + TOMBSTONE_FOR);
    }

    /// The node is alive after all, or is wanted again.
    pub(crate) fn forgive(&mut self, node: &Node) {
        self.tombstones.remove(node);
    }

    /// Whether this run of the node has said goodbye.
    pub(crate) fn is_gone(&self, node: &Node) -> bool {
        self.tombstones.contains_key(node)
    }

    /// Every goodbye that is remembered.
    pub(crate) fn tombstones(&self) -> impl Iterator<Item = &Node> {
        self.tombstones.keys()
    }

    /// Forgets what has lapsed. True when that was anything.
    pub(crate) fn expire(&mut self, now: Instant) -> bool {
        let mut lapsed = false;
        for tellers in self.nodes.values_mut() {
            let before = tellers.len();
            tellers.retain(|_, told| told.until.is_none_or(|until| until > now));
            lapsed |= tellers.len() != before;
        }
        self.nodes.retain(|_, tellers| !tellers.is_empty());
        let before = self.tombstones.len();
        self.tombstones.retain(|_, until| *until > now);
        lapsed || self.tombstones.len() != before
    }

    /// When something lapses next.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        let told = self.nodes.values().flat_map(BTreeMap::values).filter_map(|told| told.until);
        told.chain(self.tombstones.values().copied()).min()
    }

    /// Everybody spoken of, by up to [`TELLERS_MAX`] tellers each, of which those who stand by it come first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Rumour<'_>> {
        self.nodes.iter().flat_map(|(node, tellers)| {
            let stand = tellers.iter().filter(|(_, told)| told.until.is_none());
            let stood = tellers.iter().filter(|(_, told)| told.until.is_some());
            stand.chain(stood).take(TELLERS_MAX).map(move |(teller, told)| Rumour {
                node,
                teller,
                addresses: &told.addresses,
                since: told.since,
                ended: told.until.and_then(|until| until.checked_sub(HEARSAY_FOR)),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::id::Incarnation;

    #[tokio::test(start_paused = true)]
    async fn of_many_who_say_the_same_a_few_count_and_those_first_who_stand_by_it() {
        let now = Instant::now();
        let mut hearsay = Hearsay::default();
        let address = || vec![([10, 0, 0, 1], 4470).into()];
        for n in 0..40 {
            let teller = node(&format!("t{n}@hal"), 1).name;
            hearsay.told(&teller, [(node("a@hal", 1), address())], &Held::new(), now);
            if n < 38 {
                hearsay.gone(&teller, now);
            }
        }
        let said: Vec<Rumour<'_>> = hearsay.iter().collect();
        assert_eq!(said.len(), TELLERS_MAX);
        assert_eq!(said.iter().filter(|rumour| rumour.ended.is_none()).count(), 2);
    }

    fn node(name: &str, incarnation: u64) -> Node {
        Node { name: name.parse().expect("a name"), incarnation: Incarnation(incarnation) }
    }

    fn one(name: &str) -> Vec<(Node, Vec<SocketAddr>)> {
        vec![(node(name, 1), vec!["10.0.0.1:4470".parse().expect("an address")])]
    }

    fn names(hearsay: &Hearsay) -> Vec<String> {
        hearsay.iter().map(|rumour| rumour.node.name.to_string()).collect()
    }

    #[test]
    fn what_a_peer_stands_by_does_not_lapse() {
        let (mut hearsay, now) = (Hearsay::default(), Instant::now());
        let teller = node("t@h", 1).name;
        hearsay.told(&teller, one("a@h"), &Held::new(), now);
        assert!(!hearsay.expire(now + HEARSAY_FOR * 100));
        assert_eq!(names(&hearsay), ["a@h"]);
        assert_eq!(hearsay.next_expiry(), None);
    }

    #[test]
    fn what_somebody_who_stands_by_it_has_said_is_no_news() {
        let (mut hearsay, now) = (Hearsay::default(), Instant::now());
        let (one_teller, other) = (node("t@h", 1).name, node("u@h", 1).name);
        assert!(hearsay.told(&one_teller, one("a@h"), &Held::new(), now));
        assert!(!hearsay.told(&one_teller, one("a@h"), &Held::new(), now));
        assert!(!hearsay.told(&other, one("a@h"), &Held::new(), now));
        let moved = (node("a@h", 1), vec!["10.0.0.2:4470".parse().expect("an address")]);
        assert!(hearsay.told(&other, [moved], &Held::new(), now));
        hearsay.gone(&one_teller, now);
        hearsay.gone(&other, now);
        assert!(hearsay.told(&other, one("a@h"), &Held::new(), now + Duration::from_secs(1)));
    }

    #[test]
    fn a_rumour_outlives_its_teller_by_a_minute() {
        let (mut hearsay, now) = (Hearsay::default(), Instant::now());
        let teller = node("t@h", 1).name;
        hearsay.told(&teller, one("a@h"), &Held::new(), now);
        hearsay.told(&teller, one("b@h"), &Held::new(), now);
        assert_eq!(names(&hearsay), ["a@h", "b@h"]);
        assert_eq!(hearsay.next_expiry(), Some(now + HEARSAY_FOR));
        assert!(hearsay.expire(now + HEARSAY_FOR));
        assert_eq!(names(&hearsay), ["b@h"]);
        hearsay.gone(&teller, now + HEARSAY_FOR);
        assert!(!hearsay.expire(now + HEARSAY_FOR));
        assert!(hearsay.expire(now + HEARSAY_FOR * 2));
        assert!(names(&hearsay).is_empty());
    }

    #[test]
    fn a_goodbye_ends_the_rumours_of_that_run_and_of_no_other() {
        let (mut hearsay, now) = (Hearsay::default(), Instant::now());
        let teller = node("t@h", 1).name;
        hearsay.told(&teller, one("a@h"), &Held::new(), now);
        hearsay.goodbye(&node("a@h", 1), now);
        assert!(names(&hearsay).is_empty());
        hearsay.told(&teller, one("a@h"), &Held::new(), now);
        assert!(names(&hearsay).is_empty());
        let next = vec![(node("a@h", 2), vec!["10.0.0.1:1".parse().expect("an address")])];
        hearsay.told(&teller, next, &Held::new(), now);
        assert_eq!(names(&hearsay), ["a@h"]);
        hearsay.expire(now + TOMBSTONE_FOR);
        assert!(!hearsay.is_gone(&node("a@h", 1)));
    }

    #[test]
    fn everything_is_bounded() {
        let (mut hearsay, now) = (Hearsay::default(), Instant::now());
        let many = |teller: u64| {
            (0..5000).map(move |i| (node(&format!("n{teller}-{i}@h"), 1), one("x@h").remove(0).1))
        };
        for teller in 0..10 {
            hearsay.told(&node(&format!("t{teller}@h"), 1).name, many(teller), &Held::new(), now);
        }
        assert_eq!(hearsay.nodes.len(), NODES_MAX);
        for i in 0..2000 {
            hearsay.goodbye(&node("a@h", i), now + Duration::from_millis(i));
        }
        assert_eq!(hearsay.tombstones.len(), TOMBSTONES_MAX);
        assert!(hearsay.is_gone(&node("a@h", 1999)));
    }
}
