//! Queue groups: of all members of one name, whichever of their topics match, one gets each message.
//!
//! The publisher's node picks the node, its own first and those that drain last; that node picks the member.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::table::{PointId, QueueId};
use crate::router::peers::PeerId;
use crate::router::{Outbox, Router};

/// How many members are looked at for one with nothing to do.
const LOOKED_AT_MAX: usize = 8;
/// Most queue groups that one message goes to: they all get it in one hold of the lock.
const PICKED_MAX: usize = 256;

/// Who gets a message, of every queue group.
#[derive(Debug, Default)]
pub(super) struct Picked {
    pub(super) here: Vec<(u64, QueueId)>,
    pub(super) there: BTreeMap<PeerId, Vec<Arc<str>>>,
}

impl Router {
    /// Picks somebody for every queue group of these topics. `far` says whether other nodes may be asked, and which one.
    pub(super) fn pick(
        &mut self,
        points: &[PointId],
        exclude: Option<u64>,
        near: bool,
        far: impl Fn(PeerId) -> bool,
        out: &Outbox,
    ) -> Picked {
        let mut picked = Picked::default();
        let table = &self.topics.table;
        let names: BTreeSet<Arc<str>> = points
            .iter()
            .filter_map(|point| table.get(*point))
            .flat_map(|point| point.queues().map(|(group, _)| Arc::clone(group)))
            .collect();
        self.counters.no_member += names.len().saturating_sub(PICKED_MAX) as u64;
        for group in names.into_iter().take(PICKED_MAX) {
            // A node that drains gives what it can to others that stay.
            let drains = self.drains(None);
            let stays = if drains { self.pick_peer(points, &group, &far, true, out) } else { None };
            let member = if near && stays.is_none() {
                self.pick_member(points, &group, exclude)
            } else {
                None
            };
            if let Some(member) = member {
                picked.here.push(member);
            } else if let Some(peer) =
                stays.or_else(|| self.pick_peer(points, &group, &far, false, out))
            {
                picked.there.entry(peer).or_default().push(group);
            }
        }
        picked
    }

    /// A peer that has members, in turn; one that takes messages well before one that does not, and one that drains only
    /// where there is no other.
    fn pick_peer(
        &mut self,
        points: &[PointId],
        group: &str,
        far: &impl Fn(PeerId) -> bool,
        staying: bool,
        out: &Outbox,
    ) -> Option<PeerId> {
        let table = &self.topics.table;
        let queues =
            || points.iter().filter_map(|point| table.get(*point).and_then(|p| p.queue(group)));
        let peers: BTreeSet<PeerId> = queues()
            .flat_map(|queue| queue.there.iter().copied())
            .filter(|peer| far(*peer) && self.is_reachable(*peer))
            .collect();
        let stay: BTreeSet<PeerId> =
            peers.iter().copied().filter(|peer| !self.drains(Some(*peer))).collect();
        let peers = if staying || !stay.is_empty() { stay } else { peers };
        let well = |peer: &&PeerId| {
            self.peers.get(peer).is_some_and(|state| !state.congested)
                && out.peer_len(**peer) < self.limits.peer_bytes
        };
        let good: Vec<PeerId> = peers.iter().filter(well).copied().collect();
        let good = if good.is_empty() { peers.into_iter().collect() } else { good };
        let turn = queues().map(|queue| queue.turn).max()?;
        let peer = *good.get(turn % good.len().max(1))?;
        for point in points {
            if let Some(queue) = self.topics.table.queue_of(*point, group) {
                queue.turn = turn.wrapping_add(1);
            }
        }
        Some(peer)
    }

    /// A member here: in turn, and of the next few the one with least waiting.
    pub(super) fn pick_member(
        &mut self,
        points: &[PointId],
        group: &str,
        exclude: Option<u64>,
    ) -> Option<(u64, QueueId)> {
        let table = &self.topics.table;
        let queues =
            || points.iter().filter_map(|point| Some((*point, table.get(*point)?.queue(group)?)));
        // One row of places, those of all its topics one after the other; the first topic knows whose turn it is.
        let (first, turn) = queues().next().map(|(point, queue)| (point, queue.turn))?;
        let places: usize = queues().map(|(_, queue)| queue.here.len()).sum();
        let (mut best, mut seen): (Option<(usize, usize, u64, QueueId)>, usize) = (None, 0);
        for step in 0..places {
            let place = turn.wrapping_add(step) % places;
            let mut left = place;
            let found = queues().find_map(|(_, queue)| match queue.here.at(left) {
                Some(member) => Some((member, queue.id)),
                None => {
                    left -= queue.here.len();
                    None
                }
            });
            let Some((member, queue)) = found else { continue };
            if member.times == 0 || exclude == Some(member.serial) {
                continue;
            }
            let Some(process) = self.alive(member.serial) else { continue };
            let waiting = process.mailbox.messages();
            if best.is_none_or(|best| waiting < best.0) {
                best = Some((waiting, place, member.serial, queue));
            }
            seen += 1;
            if waiting == 0 || seen >= LOOKED_AT_MAX {
                break;
            }
        }
        let (_, place, serial, queue) = best?;
        if let Some(state) = self.topics.table.queue_of(first, group) {
            state.turn = place + 1;
        }
        Some((serial, queue))
    }
}
