//! The targets as they are shown: to the hub, and to people who look for a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use tokio::time::Instant;

use super::{Held, Idle, Key, Provenances, Target, Wanted};
use crate::hub::KnownNode;
use crate::wire::id::{Incarnation, Node, NodeName};

/// How a target stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowState {
    /// It is connected, or its addresses lead to somebody who is, or to this node itself.
    Connected,
    /// It is dialled until it is.
    Wanted,
    /// It is not dialled: its sighting says that it is none of ours.
    Barred,
    /// It is not dialled: somebody asked for that.
    Parted,
    /// It is not dialled: it said goodbye.
    Stopped,
}

/// One target.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    pub name: Option<&'a NodeName>,
    pub incarnation: Option<Incarnation>,
    pub addresses: &'a BTreeSet<SocketAddr>,
    pub sources: &'a Provenances,
    pub labels: &'a BTreeMap<String, String>,
    pub since: Instant,
    pub state: RowState,
    /// Why it is not connected.
    pub reason: Option<String>,
    /// When it is dialled next.
    pub next: Option<Instant>,
    /// It is being dialled.
    pub dialling: bool,
    /// Who answered last at its addresses.
    pub owners: Vec<&'a Node>,
}

impl Wanted {
    /// Every target that somebody speaks of.
    pub(crate) fn rows<'a>(
        &'a self,
        held: &'a Held,
        now: Instant,
    ) -> impl Iterator<Item = Row<'a>> {
        let spoken_of = self.targets.iter().filter(|(_, target)| !target.sources.is_empty());
        spoken_of.map(move |(key, target)| self.row(key, target, held, now))
    }

    fn row<'a>(&'a self, key: &'a Key, target: &'a Target, held: &Held, now: Instant) -> Row<'a> {
        let dialable = self.dialable(key, target, held, now);
        let (state, reason) = match &dialable {
            Err(Idle::Connected) => (RowState::Connected, None),
            Err(Idle::Barred) => (RowState::Barred, target.barred.clone()),
            Err(Idle::Parted) => {
                let text = "was disconnected on request: `connect` joins it again";
                (RowState::Parted, Some(text.to_owned()))
            }
            Err(Idle::Goodbye) => (RowState::Stopped, Some("said goodbye: it stopped".to_owned())),
            Ok(_) => (RowState::Wanted, target.reason()),
        };
        let (name, incarnation) = match key {
            Key::Node(name, incarnation) => (Some(name), *incarnation),
            Key::Addresses(_) => (None, None),
        };
        let mut owners: Vec<&Node> =
            target.addresses.iter().filter_map(|address| self.owner(address)).collect();
        owners.sort_unstable();
        owners.dedup();
        Row {
            name,
            incarnation,
            addresses: &target.addresses,
            sources: &target.sources,
            labels: &target.labels,
            since: target.since,
            state,
            reason,
            next: (state == RowState::Wanted && target.dialling.is_empty()).then_some(target.next),
            dialling: !target.dialling.is_empty(),
            owners,
        }
    }

    /// Everybody known and not connected, with the reason.
    pub(crate) fn known(&self, held: &Held, now: Instant) -> Vec<KnownNode> {
        let rows = self.rows(held, now).filter(|row| row.state != RowState::Connected);
        rows.map(|row| KnownNode {
            name: row.name.cloned(),
            incarnation: row.incarnation,
            addresses: row.addresses.iter().copied().collect(),
            sources: row.sources.keys().cloned().collect(),
            labels: row.labels.clone(),
            reason: row.reason,
        })
        .collect()
    }

    /// What sources know of the nodes that they know by name.
    pub(crate) fn hints(&self) -> BTreeMap<NodeName, BTreeMap<String, String>> {
        let mut hints: BTreeMap<NodeName, BTreeMap<String, String>> = BTreeMap::new();
        for (key, target) in self.targets.iter().filter(|(_, target)| !target.labels.is_empty()) {
            let owners = || target.addresses.iter().filter_map(|address| self.owner(address));
            let names: BTreeSet<&NodeName> = match key {
                Key::Node(name, _) => BTreeSet::from([name]),
                Key::Addresses(_) => owners().map(|node| &node.name).collect(),
            };
            for name in names {
                let labels = hints.entry(name.clone()).or_default();
                for (key, value) in &target.labels {
                    labels.entry(key.clone()).or_insert_with(|| value.clone());
                }
            }
        }
        hints
    }
}
