//! What a publisher says is not read for a moment while its subscribers' mailboxes fill the node.
//!
//! A `wait` mailbox holds its senders when it is full, or soon will be. That is too late where one message goes into a
//! hundred of them: each is far from full when all together are, and what is under way between two nodes becomes a
//! hundred times as much. So once half of what may wait here does, and `wait` mailboxes are among those that take more,
//! whoever the last message came from, a session or a peer, is not read until half of that has been taken. It is for a
//! moment, and for longer only while the apps do take: the others that a peer carries must not wait for one that is stuck.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::publish::Gate;
use crate::router::agenda::Deadline;
use crate::router::peers::PeerId;
use crate::router::{Outbox, Router, SLICE};

/// How often it is looked whether the apps take anything.
const STALL: Duration = Duration::from_millis(20);
/// What they must have taken meanwhile.
const TAKEN_BYTES: usize = 256 * 1024;

/// Most who are not read at a time: all of them go on within one hold of the lock.
const GATES_MAX: usize = SLICE / 2;

/// Who is not read for now.
#[derive(Debug, Default)]
pub(in crate::router) struct Stall {
    /// A message has been put into a `wait` mailbox of a node that is half full.
    pub(in crate::router) crowded: bool,
    gates: BTreeSet<Gate>,
    /// When that ends at the latest, when it is looked at again, and what waited in mailboxes when it last was.
    ends: Option<(Instant, Instant, usize)>,
    /// The apps have taken too little: nobody waits for them until a quarter is left.
    spent: bool,
}

impl Stall {
    pub(in crate::router) fn has_peer(&self, peer: PeerId) -> bool {
        !self.gates.is_empty() && self.gates.contains(&Gate::Peer(peer))
    }
}

impl Router {
    /// A message for so many has been delivered: where that was too much, no more is read of where it came from. A single
    /// mailbox holds its senders by itself, and those of others go on.
    pub(super) fn stall(&mut self, now: Instant, gate: Gate, subscriptions: usize, out: &Outbox) {
        if !std::mem::take(&mut self.topics.stall.crowded) || subscriptions < 2 {
            return;
        }
        let (bytes, half) = (self.mailbox_bytes, self.pressing(out) > self.limits.queue_bytes / 2);
        let stall = &mut self.topics.stall;
        let more = stall.gates.len() < GATES_MAX;
        if !half || !more || stall.spent || !stall.gates.insert(gate) {
            return;
        }
        if stall.ends.is_none() {
            stall.ends = Some((now + self.limits.send_timeout, now + STALL, bytes));
            self.agenda.add(now + STALL, Deadline::Stall);
        }
        if matches!(gate, Gate::Session(_)) {
            self.shut(gate);
        }
    }

    /// Events have been taken.
    pub(in crate::router) fn stall_shrank(&mut self, out: &mut Outbox) {
        let stall = &self.topics.stall;
        if (stall.spent || !stall.gates.is_empty())
            && self.pressing(out) <= self.limits.queue_bytes / 4
        {
            self.topics.stall.spent = false;
            self.end_stall(out);
        }
    }

    /// It has been a moment.
    pub(in crate::router) fn stall_is_due(&mut self, now: Instant, out: &mut Outbox) {
        let bytes = self.mailbox_bytes;
        let stall = &mut self.topics.stall;
        let Some((ends, due, before)) = &mut stall.ends else { return };
        if *due > now {
            return;
        }
        if now < *ends && bytes + TAKEN_BYTES <= *before {
            (*due, *before) = (now + STALL, bytes);
            self.agenda.add(now + STALL, Deadline::Stall);
            return;
        }
        stall.spent = true;
        self.end_stall(out);
    }

    fn end_stall(&mut self, out: &mut Outbox) {
        if let Some((_, due, _)) = self.topics.stall.ends.take() {
            self.agenda.remove(due, Deadline::Stall);
        }
        for gate in std::mem::take(&mut self.topics.stall.gates) {
            match gate {
                Gate::Session(_) => self.open(gate, out),
                // `has_peer` is what keeps it from being read.
                Gate::Peer(peer) => out.peers_on.push(peer),
            }
        }
    }
}
