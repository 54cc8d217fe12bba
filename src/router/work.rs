//! Work put off: what touches many entries goes on in slices, in the order in which it came up.
//!
//! The [`Outbox`] counts what a hold of the lock handles, whoever handles it: a command, a frame, an entry of one of
//! these. Beyond [`SLICE`](super::SLICE) the rest waits for the next hold.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::deliver::Holder;
use super::listings::Listing;
use super::nodes::News;
use super::peers::{Peer, PeerId};
use super::presence::Untracking;
use super::processes::Process;
use super::receive::Taking;
use super::send::Spread;
use super::sessions::SessionId;
use super::topics::publish::Fanout;
use super::topics::retained::Giving;
use super::topics::survey;
use super::{Outbox, Router};

/// Something that goes on in slices.
#[derive(Debug)]
pub(super) enum Work {
    /// A process is gone; who depended on it is still to hear of it, and what it had is to be given back.
    Death { serial: u64, reason: Box<str>, process: Box<Process> },
    /// A session is gone; its processes are still to die.
    SessionEnd { processes: BTreeSet<u64>, reason: Box<str> },
    /// A peer is gone; what it had here is still to hear of it, and then those who watched nodes at `at`.
    PeerDown { peer: Box<Peer>, reason: Box<str>, at: u64, news: Option<News> },
    /// A peer has come; after all that was before, it hears what this node announces.
    Announce { peer: PeerId },
    /// A message for more processes than one hold of the lock may handle.
    Spread(Spread),
    /// A publication for more subscriptions than one hold of the lock may handle.
    Fanout(Fanout),
    /// A `send_after` that was due while something else of its session was under way.
    Timer { number: u64 },
    /// What a member of a queue group has not taken goes to others: group, event.
    Redeliver { left: Vec<(Arc<str>, Box<[u8]>)> },
    /// A new subscriber gets the last values of topics.
    Retained(Giving),
    /// A listing of topics goes on.
    Topics(survey::Topics),
    /// A peer has announced itself: its nodeup is told.
    PeerUp { peer: PeerId, news: Option<News> },
    /// The node drains: its apps are told, then its peers.
    Drain { sessions: BTreeSet<SessionId> },
    /// Something has changed for those who wait for the node to be ready or drained.
    Life,
    /// Calls that waited for a global name are made.
    Moved { calls: BTreeSet<u64> },
    /// A node is up: who waits for nodes is looked at.
    Waits { after: (SessionId, u64) },
    /// A process that watches many groups is told of those that there are.
    Scope { reference: u64 },
    /// Those who watch presence are told what has changed.
    Presence { until: Option<u64> },
    /// A process that watches the presence of a topic is told what there is.
    Present { topic: Arc<str>, reference: u64 },
    /// A process is present no more.
    Untrack(Untracking),
    /// A listing goes on.
    Listing(Listing),
    /// Events leave a mailbox for one answer.
    Taking(Taking),
    /// A mailbox has room again: those it held go on.
    Release { holders: BTreeSet<Holder> },
    /// A peer has room again, or is no longer waited for: the sessions that feed it go on.
    Unpause { sessions: BTreeSet<SessionId> },
    /// The lane of a session has room for more events.
    Fill { session: SessionId },
    /// All queues together are still over their bound.
    Shed,
}

impl Router {
    /// Does as much of the work at hand as this hold may.
    pub(super) fn run_work(&mut self, now: Instant, out: &mut Outbox) {
        while out.may_go_on() {
            let Some(work) = self.work.pop_front() else { return };
            if let Some(rest) = self.slice(now, work, out) {
                self.work.push_front(rest);
            }
        }
    }

    /// Does some of it; what is left of it comes back.
    fn slice(&mut self, now: Instant, work: Work, out: &mut Outbox) -> Option<Work> {
        match work {
            Work::Death { serial, reason, mut process } => {
                while out.may_go_on() {
                    out.count(1);
                    if !self.death_step(serial, &reason, &mut process, out) {
                        return None;
                    }
                }
                Some(Work::Death { serial, reason, process })
            }
            Work::SessionEnd { mut processes, reason } => {
                while out.may_go_on() {
                    out.count(1);
                    let serial = processes.pop_first()?;
                    self.die(serial, &reason, out);
                }
                Some(Work::SessionEnd { processes, reason })
            }
            Work::PeerDown { mut peer, reason, at, mut news } => {
                while out.may_go_on() {
                    out.count(1);
                    let more = match &mut news {
                        Some(news) => {
                            self.tell_news(news, out)
                                || self.tell_node_monitor(&mut peer, news, out)
                        }
                        None if self.peer_down_step(&mut peer, out) => true,
                        // Nobody was told that it had come.
                        None if !peer.up => false,
                        None => {
                            news = Some(News::down(&peer, &reason, at));
                            true
                        }
                    };
                    if !more {
                        return None;
                    }
                }
                Some(Work::PeerDown { peer, reason, at, news })
            }
            Work::Announce { peer } => {
                out.peers_clear.push(peer);
                (!self.announce_on(peer, out)).then_some(Work::Announce { peer })
            }
            Work::Spread(spread) => self.spread_on(now, spread, out).map(Work::Spread),
            Work::Fanout(fanout) => self.fan_out_on(now, fanout, out).map(Work::Fanout),
            Work::Timer { number } => {
                out.count(1);
                self.timer_fires(now, number, out);
                None
            }
            Work::Redeliver { left } => {
                let mut left = VecDeque::from(left);
                while out.may_go_on() {
                    out.count(1);
                    let (group, frame) = left.pop_front()?;
                    self.redeliver(&group, &frame, out);
                }
                Some(Work::Redeliver { left: left.into() })
            }
            Work::Retained(giving) => self.give_on(giving, out).map(Work::Retained),
            Work::Topics(topics) => self.list_topics_on(topics, out).map(Work::Topics),
            Work::PeerUp { peer, news } => {
                let mut news = match news {
                    Some(news) => news,
                    None => {
                        // Who watches hears first who is present there.
                        let until = self.peers.get(&peer).map_or(0, |state| state.presences_told);
                        while out.may_go_on() && self.tell_presence(until, out) {
                            out.count(1);
                        }
                        if !out.may_go_on() {
                            return Some(Work::PeerUp { peer, news: None });
                        }
                        self.nodeup(peer)?
                    }
                };
                while out.may_go_on() {
                    out.count(1);
                    if !self.tell_news(&mut news, out) {
                        self.peer_mut(peer, |state| state.heard_of = true);
                        out.peers_up.push(peer);
                        return None;
                    }
                }
                Some(Work::PeerUp { peer, news: Some(news) })
            }
            Work::Drain { mut sessions } => {
                while out.may_go_on() {
                    out.count(1);
                    if !self.drain_step(&mut sessions, out) {
                        return None;
                    }
                }
                Some(Work::Drain { sessions })
            }
            Work::Life => {
                self.look_at_life(out);
                None
            }
            Work::Moved { mut calls } => {
                while out.may_go_on() {
                    out.count(1);
                    self.call_moves(calls.pop_first()?, out);
                }
                Some(Work::Moved { calls })
            }
            Work::Waits { mut after } => {
                while out.may_go_on() {
                    out.count(1);
                    after = self.look_at_wait(after, out)?;
                }
                Some(Work::Waits { after })
            }
            Work::Scope { reference } => {
                while out.may_go_on() {
                    out.count(1);
                    if !self.tell_scope(reference, out) {
                        return None;
                    }
                }
                Some(Work::Scope { reference })
            }
            Work::Presence { until } => {
                let until = until.unwrap_or_else(|| self.last_change());
                while out.may_go_on() {
                    out.count(1);
                    if !self.tell_presence(until, out) {
                        self.presence_told(out);
                        return None;
                    }
                }
                Some(Work::Presence { until: Some(until) })
            }
            Work::Present { topic, reference } => {
                while out.may_go_on() {
                    out.count(1);
                    if !self.tell_present(&topic, reference, out) {
                        return None;
                    }
                }
                Some(Work::Present { topic, reference })
            }
            Work::Untrack(untracking) => self.untrack_on(untracking, out).map(Work::Untrack),
            Work::Listing(listing) => self.list_on(listing, out).map(Work::Listing),
            Work::Taking(taking) => self.take_on(taking, out).map(Work::Taking),
            Work::Release { mut holders } => {
                while out.may_go_on() {
                    out.count(1);
                    self.release_one(holders.pop_first()?, out);
                }
                Some(Work::Release { holders })
            }
            Work::Unpause { mut sessions } => {
                while out.may_go_on() {
                    out.count(1);
                    self.unpause_one(sessions.pop_first()?, out);
                }
                Some(Work::Unpause { sessions })
            }
            Work::Fill { session } => {
                out.count(1);
                self.fill_on(session, out);
                None
            }
            Work::Shed => {
                out.count(1);
                self.shed_on(out);
                None
            }
        }
    }
}
