//! What is counted for collectors, and how much there is of everything.
//!
//! What happens on the path of a message adds one to a plain number under the lock that is held anyway. How much there is
//! of everything is asked for, and read off sizes that are known; what has to be looked at one by one is, in slices.

use std::ops::Bound;
use std::time::Duration;

use super::mailbox::Tag;
use super::{Outbox, Router, SLICE};

/// The upper ends of the ranges of durations, in nanoseconds: from a microsecond to ten seconds.
pub const RANGES: [u64; 22] = [
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// How often something took how long.
#[derive(Clone, Copy, Debug, Default)]
pub struct Durations {
    /// By [`RANGES`]; the last one is what took longer.
    pub counts: [u64; RANGES.len() + 1],
    /// All together, in nanoseconds.
    pub sum_ns: u64,
}

impl Durations {
    /// Counts one more.
    pub fn note(&mut self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.counts[RANGES.partition_point(|end| *end < ns)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }
}

/// How calls end, as far as they are told apart: what else another node may say is `other`.
pub const CALL_ENDS: [&str; 15] = [
    "ok",
    "timeout",
    "noproc",
    "noconnection",
    "exit",
    "exception",
    "undef",
    "badarg",
    "overloaded",
    "denied",
    "calling_self",
    "cancelled",
    "unsupported",
    "too_large",
    "other",
];

/// What arrives for processes, as far as it is told apart.
pub const ARRIVALS: [&str; 4] = ["message", "topic", "call", "signal"];

/// What is counted, for `nodes` and metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Messages shed by full mailboxes.
    pub shed: u64,
    /// Messages lost or refused because a peer was full or congested.
    pub congested: u64,
    /// Messages from peers that were longer than allowed here.
    pub too_large: u64,
    /// Messages for a queue group of which nobody was left here.
    pub no_member: u64,
    /// Events that arrived for processes of apps, by [`ARRIVALS`], those that were shed among them.
    pub arrived: [u64; ARRIVALS.len()],
    /// Calls of processes here that ended, by [`CALL_ENDS`].
    pub calls: [u64; CALL_ENDS.len()],
    /// How long those took that were answered.
    pub answered: Durations,
    /// How long events waited in mailboxes, one at a time of each.
    pub waited: Durations,
    /// Processes that have died.
    pub died: u64,
}

impl Counters {
    pub(super) fn arrives(&mut self, tag: Tag) {
        let kind = match tag {
            Tag::Message => 0,
            Tag::Topic(_) | Tag::Queue(_) => 1,
            Tag::Call(_) => 2,
            _ => 3,
        };
        self.arrived[kind] += 1;
    }

    pub(super) fn call_ends(&mut self, code: &str) {
        let other = CALL_ENDS.len() - 1;
        self.calls[CALL_ENDS.iter().position(|end| *end == code).unwrap_or(other)] += 1;
    }
}

/// How much there is of everything, as of one hold of the lock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// What was counted since the start.
    pub counters: Counters,
    /// Sessions, those that wait to be resumed among them.
    pub sessions: usize,
    /// Processes, built-in ones among them.
    pub processes: usize,
    /// Local names.
    pub names: usize,
    /// Global names of any node.
    pub global_names: usize,
    /// Groups of any node.
    pub groups: usize,
    /// Modules of any node.
    pub modules: usize,
    /// Topics and patterns that anybody here or elsewhere wants to hear.
    pub topics: usize,
    /// Nodes that are up, this one apart.
    pub connected: usize,
    /// Nodes that are known and not connected.
    pub known: usize,
    /// Calls of processes here that have not ended.
    pub calls: usize,
    /// Calls to processes here that have not ended.
    pub served: usize,
    /// Timers of processes.
    pub timers: usize,
    /// Bytes in mailboxes.
    pub mailbox_bytes: usize,
    /// Bytes on their way to apps.
    pub lane_bytes: usize,
    /// Bytes of long messages from peers that are not whole yet.
    pub partial_bytes: usize,
    /// Bytes of what is sent later.
    pub timer_bytes: usize,
    /// Bytes of all that waits, what several have together counted once.
    pub queued_bytes: usize,
    /// Most of that.
    pub queued_bytes_max: usize,
    /// Frames to peers.
    pub peer_frames: u64,
    /// It is about to leave.
    pub draining: bool,
}

/// What is in the mailboxes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Events in all of them.
    pub events: usize,
    /// Those of the one that has most.
    pub events_most: usize,
    /// Bytes of the one that has most.
    pub bytes_most: usize,
    /// How far it has come; none when it has seen all.
    pub after: Option<u64>,
}

impl Router {
    /// How much there is of everything. Touches every peer, and nothing else one by one.
    #[must_use]
    pub fn tally(&self, out: &Outbox) -> Tally {
        // In a mesh that is larger than a slice those that are about to be up count too.
        let connected = match self.connected.len() {
            many if many > SLICE => many,
            _ => {
                let peers = self.connected.values().filter_map(|peer| self.peers.get(peer));
                peers.filter(|peer| peer.up).count()
            }
        };
        Tally {
            counters: self.counters,
            sessions: self.sessions.len(),
            processes: self.processes.len(),
            names: self.names.len(),
            global_names: self.globals.len(),
            groups: self.groups.len(),
            modules: self.modules.len(),
            topics: self.topics.points(),
            connected,
            known: self.known.len(),
            calls: self.calls.len(),
            served: self.served.len(),
            timers: self.timers.len(),
            mailbox_bytes: self.mailbox_bytes,
            lane_bytes: out.lanes(),
            partial_bytes: self.partial_bytes,
            timer_bytes: self.timer_bytes,
            queued_bytes: self.queued(out),
            queued_bytes_max: self.limits.queue_bytes,
            peer_frames: out.peer_frames,
            draining: self.readiness().is_draining(),
        }
    }

    /// Goes on looking into mailboxes, at one slice of them.
    pub fn look_into_mailboxes(&self, survey: &mut Survey) {
        let after = survey.after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = None;
        for (seen, serial) in self.serials.range((after, Bound::Unbounded)).enumerate() {
            if seen == SLICE {
                survey.after = last;
                return;
            }
            last = Some(*serial);
            let Some(process) = self.processes.get(serial) else { continue };
            let events = process.mailbox.len();
            survey.events += events;
            survey.events_most = survey.events_most.max(events);
            survey.bytes_most = survey.bytes_most.max(process.mailbox.bytes());
        }
        survey.after = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::Limits;
    use crate::router::deliver::Origin;
    use crate::wire::command::Delivery;
    use crate::wire::id::{Incarnation, Node};

    #[test]
    fn mailboxes_are_looked_into_in_slices() {
        let me = Node { name: "a@h".parse().expect("a name"), incarnation: Incarnation(1) };
        let (mut router, mut out) = (Router::new(me, Limits::default()), Outbox::default());
        router.on_session_open(1, false, "secret", &mut out);
        let last = (0..2 * SLICE).map(|_| router.create(1, Delivery::Pull)).last();
        for serial in last.into_iter().chain([last.expect("some") - 1]) {
            out.begin();
            router.deliver(None, serial, Origin::Node, Tag::Message, b"h", b"body", &mut out);
        }
        let (mut survey, mut slices) = (Survey::default(), 0);
        loop {
            slices += 1;
            router.look_into_mailboxes(&mut survey);
            if survey.after.is_none() {
                break;
            }
        }
        assert_eq!(slices, 3, "the session's own process is one too many for two");
        assert_eq!((survey.events, survey.events_most), (2, 1));
        let tally = router.tally(&out);
        assert_eq!((tally.processes, tally.mailbox_bytes), (2 * SLICE + 1, 2 * survey.bytes_most));
        assert_eq!(tally.counters.arrived, [2, 0, 0, 0]);
    }

    #[test]
    fn a_duration_counts_in_the_first_range_that_holds_it() {
        let mut durations = Durations::default();
        for ns in [0, 1_000, 1_001, 10_000_000_000, 10_000_000_001] {
            durations.note(Duration::from_nanos(ns));
        }
        assert_eq!(durations.counts[..2], [2, 1]);
        assert_eq!(durations.counts[21..], [1, 1]);
        assert_eq!(durations.sum_ns, 20_000_002_002);
        durations.note(Duration::MAX);
        assert_eq!((durations.counts[22], durations.sum_ns), (2, u64::MAX));
    }

    #[test]
    fn an_end_of_a_call_that_is_not_known_is_other() {
        let mut counters = Counters::default();
        for code in ["ok", "timeout", "whatever a later version says", "other"] {
            counters.call_ends(code);
        }
        assert_eq!((counters.calls[0], counters.calls[1]), (1, 1));
        assert_eq!(counters.calls[CALL_ENDS.len() - 1], 2);
    }
}
