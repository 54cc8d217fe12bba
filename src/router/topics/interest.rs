//! What this node wants to hear: told to every peer, so that they send nothing else.
//!
//! A topic, a pattern or a queue group is announced when it gets its first subscriber here and taken back when it has
//! lost its last, by the same ordered stream as all that a node announces of itself. No second list is kept for that:
//! a new peer is told by going through the table, and every change before the place that was reached follows.

use super::QUEUES_MAX;
use super::table::{Peers, PointId, Text, check_topic};
use crate::router::announced::{Class, Told, write_entry};
use crate::router::peers::{Peer, PeerId};
use crate::router::{Outbox, Router};
use crate::wire::id::check_name;

/// Most topics and queue groups that one peer may want to hear.
const WANTED_MAX: usize = 1_000_000;
/// How many places of the table are looked at for one entry of a slice.
const PLACES: u32 = 64;

/// u8 length, group, pattern or topic.
fn queue_key(group: &str, text: &str) -> Vec<u8> {
    let length = u8::try_from(group.len()).unwrap_or(0);
    [&[length], group.as_bytes(), text.as_bytes()].concat()
}

impl Router {
    /// This node has its first subscriber of something, or no longer any.
    pub(super) fn announce_interest(
        &self,
        point: PointId,
        group: Option<&str>,
        on: bool,
        out: &mut Outbox,
    ) {
        let Some(state) = self.topics.table.get(point) else { return };
        let (class, key) = match group {
            Some(group) => (Class::Queue, queue_key(group, &state.text).into()),
            None => (Class::Topic, Box::from(state.text.as_bytes())),
        };
        let key = (class, key);
        for (peer, state) in &self.peers {
            if state.told.covers_point(point) {
                out.count(1);
                write_entry(*peer, &key, on.then_some(&[]), out);
            }
        }
    }

    /// Tells a peer of more topics, from this place of the table on. The place to go on from; none at the end.
    pub(in crate::router) fn announce_points(
        &self,
        peer: PeerId,
        mut next: PointId,
        out: &mut Outbox,
    ) -> Option<PointId> {
        let end = self.topics.table.end();
        let mut looked = 0;
        while next < end {
            if !out.may_go_on() {
                return Some(next);
            }
            looked += 1;
            if looked % PLACES == 0 {
                out.count(1);
            }
            if let Some(point) = self.topics.table.get(next) {
                if !point.here.is_empty() {
                    out.count(1);
                    let key = (Class::Topic, Box::from(point.text.as_bytes()));
                    write_entry(peer, &key, Some(&[]), out);
                }
                for (group, queue) in point.queues() {
                    if !queue.here.is_empty() {
                        out.count(1);
                        let key = (Class::Queue, queue_key(group, &point.text).into());
                        write_entry(peer, &key, Some(&[]), out);
                    }
                }
            }
            next += 1;
        }
        None
    }

    /// A peer wants to hear something, or no longer.
    pub(in crate::router) fn on_interest(
        &mut self,
        peer: PeerId,
        class: Class,
        key: &[u8],
        on: bool,
    ) -> Option<()> {
        let (group, text) = if class == Class::Queue {
            let (length, rest) = key.split_first()?;
            let (group, text) = rest.split_at_checked(usize::from(*length))?;
            (Some(check_name(std::str::from_utf8(group).ok()?).ok()?), text)
        } else {
            (None, key)
        };
        let text = std::str::from_utf8(text).ok()?;
        let kind: Text = check_topic(text).ok()?;
        // No node has more of its own; those of lost ones are forgotten in slices.
        let queues_max = 2 * QUEUES_MAX * (self.peers.len() + 2);
        let state = self.peers.get_mut(&peer)?;
        let table = &mut self.topics.table;
        if !on {
            let Some(point) = table.find(text, kind) else { return Some(()) };
            let gone = if let Some(group) = group {
                let queue = table.queue_of(point, group);
                let gone = queue.is_some_and(|queue| forget(&mut queue.there, peer));
                table.tidy_queue(point, group);
                gone
            } else {
                let gone = forget(&mut table.get_mut(point)?.there, peer);
                table.tidy(point);
                gone
            };
            // It may take back what it never wanted.
            state.wants -= usize::from(gone);
            return Some(());
        }
        if state.wants >= WANTED_MAX {
            return None;
        }
        let queues = || table.get(table.find(text, kind)?)?.queues.as_ref();
        if group.is_some() && queues().is_some_and(|queues| queues.len() >= queues_max) {
            return None;
        }
        let point = table.find_or_add(text, kind);
        let there = match group {
            Some(group) => &mut table.queue_mut(point, group)?.there,
            None => &mut table.get_mut(point)?.there,
        };
        if let Err(place) = there.binary_search(&peer) {
            there.insert(place, peer);
            state.wants += 1;
        }
        Some(())
    }

    /// A lost peer wants to hear nothing more: some places of the table. False when all have been looked at.
    pub(in crate::router) fn forget_interest(&mut self, peer: &mut Peer) -> bool {
        let end = self.topics.table.end();
        if peer.wants == 0 || peer.wants_gone >= end {
            return false;
        }
        let until = end.min(peer.wants_gone.saturating_add(PLACES));
        for point in peer.wants_gone..until {
            let table = &mut self.topics.table;
            let Some(state) = table.get_mut(point) else { continue };
            forget(&mut state.there, peer.id);
            let groups: Vec<_> = state
                .queues()
                .filter(|(_, queue)| queue.there.contains(&peer.id))
                .map(|(group, _)| std::sync::Arc::clone(group))
                .collect();
            for group in groups {
                if let Some(queue) = table.queue_of(point, &group) {
                    forget(&mut queue.there, peer.id);
                }
                table.tidy_queue(point, &group);
            }
            table.tidy(point);
        }
        peer.wants_gone = until;
        true
    }
}

impl Told {
    fn covers_point(&self, point: PointId) -> bool {
        match self {
            Self::Nothing | Self::Until(_) => false,
            Self::Points(next) => point < *next,
            Self::Presences { .. } | Self::All => true,
        }
    }
}

/// Whether it was there.
fn forget(there: &mut Peers, peer: PeerId) -> bool {
    let place = there.binary_search(&peer);
    if let Ok(place) = place {
        there.remove(place);
    }
    place.is_ok()
}
