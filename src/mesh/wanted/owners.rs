//! Who is at which address, as far as that is known, and what is being found out.
//!
//! What answered a dial is known for a while. What a peer says of itself is believed where it is seen at that very IP address,
//! so that two nodes that have each other in their lists shake hands once and not twice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use super::Held;
use crate::wire::id::{Incarnation, Node, NodeName};

/// Most addresses whose owner is remembered.
const OWNERS_MAX: usize = 8192;
/// How long an address is believed to lead to a peer that is connected, if it answered there, or says that it is there.
pub(super) const BELIEVED_FOR: Duration = Duration::from_secs(300);
/// The same if it did both. It may have been mistaken in what it says: behind a translator of addresses several are seen at one.
const CONFIRMED_FOR: Duration = Duration::from_secs(3600);
/// How long an address is believed to lead to this node itself.
pub(super) const SELF_FOR: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Owner {
    node: Node,
    until: Instant,
}

/// The owners of addresses, and who is about to become one.
#[derive(Debug)]
pub(super) struct Owners {
    me: Node,
    of: BTreeMap<SocketAddr, Owner>,
    /// Whose hello was read, until the connection is up or has ended.
    meeting: BTreeSet<Node>,
    /// Where a dial is under way that has not met anybody.
    dialled: BTreeSet<SocketAddr>,
}

impl Owners {
    /// Nothing known.
    pub(super) fn new(me: Node) -> Self {
        Self { me, of: BTreeMap::new(), meeting: BTreeSet::new(), dialled: BTreeSet::new() }
    }

    /// `node` is at `address`, believed until then.
    fn put(&mut self, address: SocketAddr, node: Node, until: Instant) {
        if self.of.len() >= OWNERS_MAX && !self.of.contains_key(&address) {
            let oldest = self.of.iter().min_by_key(|(_, owner)| owner.until).map(|(a, _)| *a);
            if let Some(oldest) = oldest {
                self.of.remove(&oldest);
            }
        }
        self.of.insert(address, Owner { node, until });
    }

    /// `node` answered at `address`.
    pub(super) fn answered(&mut self, address: SocketAddr, node: Node, now: Instant) {
        self.dialled.remove(&address);
        let lasts = if node == self.me { SELF_FOR } else { BELIEVED_FOR };
        self.put(address, node, now + lasts);
    }

    /// A peer that is seen at `seen` names its addresses; one of them may have been dialled just now.
    pub(super) fn names(
        &mut self,
        node: &Node,
        addresses: &[SocketAddr],
        seen: IpAddr,
        dialled: Option<SocketAddr>,
        held: &Held,
        now: Instant,
    ) {
        for address in addresses.iter().filter(|address| address.ip() == seen) {
            let lasts = if dialled == Some(*address) { CONFIRMED_FOR } else { BELIEVED_FOR };
            let until = match self.fresh(address, held, now) {
                Some(owner) if owner != node => continue,
                Some(_) => self.until(address).map_or(now + lasts, |until| until.max(now + lasts)),
                None => now + lasts,
            };
            self.put(*address, node.clone(), until);
        }
    }

    /// Who was there last.
    pub(super) fn last(&self, address: &SocketAddr) -> Option<&Node> {
        self.of.get(address).map(|owner| &owner.node)
    }

    /// Where a node of this name was last.
    pub(super) fn places(&self, name: &NodeName) -> impl Iterator<Item = SocketAddr> {
        self.of.iter().filter(|(_, owner)| owner.node.name == *name).map(|(address, _)| *address)
    }

    /// Whether any of these leads to such a node.
    pub(super) fn any<'a>(
        &self,
        addresses: impl IntoIterator<Item = &'a SocketAddr>,
        is: impl Fn(&Node) -> bool,
    ) -> bool {
        addresses.into_iter().filter_map(|address| self.last(address)).any(is)
    }

    /// Who is believed to be at an address, if that is this node itself or somebody connected.
    pub(super) fn fresh(&self, address: &SocketAddr, held: &Held, now: Instant) -> Option<&Node> {
        let owner = self.of.get(address).filter(|owner| now < owner.until)?;
        let there =
            owner.node == self.me || held.get(&owner.node.name) == Some(&owner.node.incarnation);
        there.then_some(&owner.node)
    }

    /// Until when this node is believed to be at an address.
    pub(super) fn until(&self, address: &SocketAddr) -> Option<Instant> {
        self.of.get(address).map(|owner| owner.until)
    }

    /// Its hello was read: there is a connection with it, or will be in a moment.
    pub(super) fn meets(&mut self, node: &Node) {
        self.meeting.insert(node.clone());
    }

    /// That connection is up, or has ended.
    pub(super) fn met(&mut self, node: &Node) {
        self.meeting.remove(node);
    }

    /// Whether this run of a node, or any where none is said, is being met.
    pub(super) fn is_met(&self, name: &NodeName, run: Option<Incarnation>) -> bool {
        let first = Node { name: name.clone(), incarnation: run.unwrap_or(Incarnation(0)) };
        self.meeting
            .range(first..)
            .next()
            .is_some_and(|node| node.name == *name && run.is_none_or(|run| run == node.incarnation))
    }

    /// A dial begins.
    pub(super) fn dials(&mut self, address: SocketAddr) {
        self.dialled.insert(address);
    }

    /// It has ended.
    pub(super) fn dialled(&mut self, address: &SocketAddr) {
        self.dialled.remove(address);
    }

    /// Whether it will soon be known who is at an address.
    pub(super) fn is_soon_known(&self, address: &SocketAddr) -> bool {
        self.dialled.contains(address)
            || self.last(address).is_some_and(|node| self.meeting.contains(node))
    }
}
