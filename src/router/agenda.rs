//! What is to be done when.

use std::collections::BTreeSet;
use std::time::Instant;

use super::peers::PeerId;
use super::sessions::SessionId;

/// Something with a time. What it is about may be gone by then: whoever handles it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deadline {
    /// A `send_after` is due.
    Timer(u64),
    /// A `receive` has waited long enough.
    Receive { serial: u64, wait: u64 },
    /// A call has waited long enough.
    Call(u64),
    /// A callee has been held long enough by the parts of its answer.
    Stream(u64),
    /// Something in a key-value process expires.
    Kv(u64),
    /// A question to another node has waited long enough.
    Ask(u64),
    /// A `wait_for` has waited long enough.
    Wait { session: SessionId, number: u64 },
    /// A `wait` mailbox has held its senders long enough.
    Hold(u64),
    /// Publishers have not been read for a moment.
    Stall,
    /// A peer has held a process of ours long enough.
    Held { peer: PeerId, serial: u64 },
    /// A full peer has paused its sessions long enough.
    Congestion(PeerId),
    /// A session without a connection has waited long enough.
    Grace { session: SessionId, epoch: u64 },
    /// The connection of a hosted program that has ended has had time to end too.
    Hosted(u64),
    /// `failed` events that were counted together are due.
    Failed(SessionId),
    /// A `ready` or `drain` has waited long enough.
    Life(u64),
    /// Nobody has taken a global name that a draining node has left.
    Moving(u64),
}

/// Deadlines in order.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    entries: BTreeSet<(Instant, Deadline)>,
}

impl Agenda {
    pub(super) fn add(&mut self, at: Instant, what: Deadline) {
        self.entries.insert((at, what));
    }

    pub(super) fn remove(&mut self, at: Instant, what: Deadline) {
        self.entries.remove(&(at, what));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.entries.first().map(|(at, _)| *at)
    }

    pub(super) fn due(&mut self, now: Instant) -> Option<Deadline> {
        if self.next()? > now {
            return None;
        }
        self.entries.pop_first().map(|(_, what)| what)
    }
}
