//! Of two runs of one node at one address only the newer can be there.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::Sighting;

/// Leaves out what an older run of a node announced for an address that a newer one has: it was killed, and what it said
/// has not run out yet. In an order that does not change.
pub(crate) fn newest(mut all: Vec<Sighting>) -> Vec<Sighting> {
    all.sort_by_key(|sighting| Reverse(sighting.incarnation));
    let mut taken: BTreeSet<(String, SocketAddr)> = BTreeSet::new();
    for sighting in &mut all {
        if let Some(node) = &sighting.node {
            sighting.addresses.retain(|address| taken.insert((node.clone(), *address)));
        }
    }
    all.retain(|sighting| !sighting.addresses.is_empty());
    all.sort_by(|a, b| (&a.node, a.incarnation).cmp(&(&b.node, b.incarnation)));
    all
}
