//! Work put off: what touches many entries goes on in slices, in the order in which it came up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::info::Listing;
use super::monitors::{Monitored, Watcher};
use super::peers::{Peer, PeerId};
use super::send::Spread;
use super::{Outbox, Router};
use crate::wire::id::Pid;

/// Something that goes on in slices.
#[derive(Debug)]
pub(super) enum Work {
    /// A process is gone; its links and monitors are still to hear of it.
    Death {
        serial: u64,
        reason: Box<str>,
        globals: BTreeSet<Box<str>>,
        groups: BTreeSet<Box<str>>,
        modules: BTreeSet<Box<str>>,
        serving: BTreeSet<u64>,
        calling: BTreeSet<u64>,
        links: BTreeSet<Pid>,
        watchers: BTreeSet<Watcher>,
        monitors: BTreeMap<u64, Monitored>,
    },
    /// A session is gone; its processes are still to die.
    SessionEnd { processes: BTreeSet<u64>, reason: Box<str> },
    /// A peer is gone; what it had here is still to hear of it.
    PeerDown { peer: Box<Peer>, reason: Box<str> },
    /// A peer has come; after all that was before, it hears what this node announces.
    Announce { peer: PeerId },
    /// A message for more processes than one hold of the lock may handle.
    Spread(Spread),
    /// A peer has announced itself: its nodeup is told.
    PeerUp { peer: PeerId },
    /// A listing goes on.
    Listing(Listing),
}

impl Router {
    /// Does at most `budget` entries of the work at hand.
    pub(super) fn run_work(&mut self, now: Instant, mut budget: usize, out: &mut Outbox) {
        while budget > 0 {
            let Some(work) = self.work.pop_front() else { return };
            if let Some(rest) = self.slice(now, work, &mut budget, out) {
                self.work.push_front(rest);
            }
        }
    }

    /// Does some of it; what is left of it comes back.
    fn slice(
        &mut self,
        now: Instant,
        work: Work,
        budget: &mut usize,
        out: &mut Outbox,
    ) -> Option<Work> {
        match work {
            Work::Death {
                serial,
                reason,
                mut globals,
                mut groups,
                mut modules,
                mut serving,
                mut calling,
                mut links,
                mut watchers,
                mut monitors,
            } => {
                while *budget > 0 {
                    *budget -= 1;
                    if let Some(name) = globals.pop_first() {
                        self.withdraw(&name, out);
                    } else if let Some(group) = groups.pop_first() {
                        self.dead_leaves(serial, &group, out);
                    } else if let Some(module) = modules.pop_first() {
                        self.serves_no_more(serial, &module, out);
                    } else if let Some(reference) = serving.pop_first() {
                        self.served_dies(reference, &reason, out);
                    } else if let Some(reference) = calling.pop_first() {
                        let text = "the calling process died";
                        self.caller_leaves(reference, "noproc", text, out);
                    } else if let Some(other) = links.pop_first() {
                        self.tell_linked(serial, &other, &reason, out);
                    } else if let Some(watcher) = watchers.pop_first() {
                        self.tell_watcher(serial, watcher, &reason, out);
                    } else if let Some((reference, monitored)) = monitors.pop_first() {
                        self.forget_monitored(serial, reference, monitored, out);
                    } else {
                        return None;
                    }
                }
                Some(Work::Death {
                    serial,
                    reason,
                    globals,
                    groups,
                    modules,
                    serving,
                    calling,
                    links,
                    watchers,
                    monitors,
                })
            }
            Work::SessionEnd { mut processes, reason } => {
                while *budget > 0 {
                    *budget -= 1;
                    let serial = processes.pop_first()?;
                    self.die(serial, &reason, out);
                }
                Some(Work::SessionEnd { processes, reason })
            }
            Work::PeerDown { mut peer, reason } => {
                while *budget > 0 {
                    *budget -= 1;
                    if !self.peer_down_step(&mut peer, out) {
                        self.tell_nodedown(&peer, &reason, out);
                        return None;
                    }
                }
                Some(Work::PeerDown { peer, reason })
            }
            Work::Announce { peer } => {
                out.peers_clear.push(peer);
                (!self.announce_on(peer, budget, out)).then_some(Work::Announce { peer })
            }
            Work::Spread(spread) => self.spread_on(now, spread, budget, out).map(Work::Spread),
            Work::PeerUp { peer } => {
                *budget -= 1;
                self.tell_nodeup(peer, out);
                None
            }
            Work::Listing(listing) => self.list_on(now, listing, budget, out).map(Work::Listing),
        }
    }
}
