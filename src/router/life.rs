//! The life of the node: whether it has started, whether it is ready for work, and how it leaves.
//!
//! ```text
//! bound -> keys, where they are issued -> every strategy has looked once -> `min-peers` = ready
//!
//! drain: the apps hear `draining` -> the peers hear it, and give this node nothing that others can do
//!        -> apps and calls end -> what peers sent before they had heard has been read -> goodbye
//! ```
//!
//! Draining is one word that the node announces of itself, like a name that it has. Nothing of what it has is taken back
//! for it: each peer puts it last by itself, so whoever is the only one goes on being asked for as long as it is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use super::agenda::Deadline;
use super::announced::Class;
use super::calls::TIMEOUT_MS_MAX;
use super::nodes::MeshRequest;
use super::peers::PeerId;
use super::questions::{AskedBy, Question};
use super::sessions::SessionId;
use super::work::Work;
use super::{Asker, Failure, KeptId, Outbox, Router, answer};
use crate::wire::event::Head;
use crate::wire::message::Ask;

/// Most `ready` and `drain` that wait at once: each change looks at all of them.
const WAITS_MAX: usize = 128;
/// How long a leaving node waits for a peer to have heard of it: longer than any busy one takes.
const SETTLE: Duration = Duration::from_secs(2);

/// How far the node has come.
#[derive(Debug, Default)]
pub(super) struct Life {
    bound: bool,
    looked: bool,
    /// Its certificate is issued by others, and none has come yet.
    unissued: bool,
    /// So many others are to be up before this node is ready.
    min_peers: usize,
    /// So many were up once.
    met: bool,
    draining: bool,
    /// All apps and all peers have been told of it.
    told: bool,
    /// Sessions of apps that are connected, those of hosted programs aside.
    apps: usize,
    waits: BTreeMap<u64, Wait>,
    /// That something has changed for those who wait is among the work.
    looks: bool,
    /// Peers that may not have heard yet that this node leaves.
    settling: usize,
}

/// What somebody waits for.
#[derive(Debug)]
struct Wait {
    session: SessionId,
    id: KeptId,
    until: Until,
    ends: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    Ready,
    Drained,
}

/// Why a node is not ready for work, the first cause first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unready {
    /// Its app socket is not bound yet.
    Unbound,
    /// Its certificate has not been issued yet.
    Unissued,
    /// Not every strategy has looked for other nodes yet, and the time for that is not over.
    Looking,
    /// Fewer others were up than it is to wait for.
    FewPeers {
        /// So many are up.
        up: usize,
        /// So many are to be up at the same time, once.
        wanted: usize,
    },
    /// It is about to leave, and does not become ready again.
    Draining,
}

impl Unready {
    /// For programs.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Unbound => "unbound",
            Self::Unissued => "unissued",
            Self::Looking => "looking",
            Self::FewPeers { .. } => "few_peers",
            Self::Draining => "draining",
        }
    }
}

impl fmt::Display for Unready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unbound => f.write_str("its app socket is not bound yet"),
            Self::Unissued => f.write_str("its certificate has not been issued yet"),
            Self::Looking => f.write_str("not every strategy has looked for other nodes yet"),
            Self::FewPeers { up, wanted } => {
                write!(f, "{up} of the {wanted} nodes that it waits for are connected (min-peers)")
            }
            Self::Draining => f.write_str("it is draining: it is about to leave"),
        }
    }
}

/// Whether a node has started and is ready for work, as of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    bound: bool,
    unready: Option<Unready>,
}

impl Readiness {
    /// Whether apps can connect. It stays true.
    ///
    /// # Errors
    /// [`Unready::Unbound`].
    pub const fn startup(&self) -> Result<(), Unready> {
        if self.bound { Ok(()) } else { Err(Unready::Unbound) }
    }

    /// Whether it is about to leave.
    #[must_use]
    pub const fn is_draining(&self) -> bool {
        matches!(self.unready, Some(Unready::Draining))
    }

    /// Whether the node is ready for work: its app socket is bound, it has had its certificate, every strategy has looked
    /// once or has had two seconds for it, `min-peers` others were up at the same time, and it is not draining.
    ///
    /// # Errors
    /// [`Unready`]: why not.
    pub const fn ready(&self) -> Result<(), Unready> {
        match self.unready {
            None => Ok(()),
            Some(unready) => Err(unready),
        }
    }
}

impl Life {
    pub(super) fn is_draining(&self) -> bool {
        self.draining
    }

    pub(super) fn set_min_peers(&mut self, min_peers: usize) {
        self.min_peers = min_peers;
    }

    pub(super) fn app_came(&mut self) {
        self.apps += 1;
    }

    pub(super) fn app_went(&mut self) {
        self.apps = self.apps.saturating_sub(1);
    }
}

fn wait_of(wait_ms: Option<u64>) -> Result<Duration, Failure> {
    match wait_ms {
        Some(ms) if ms > TIMEOUT_MS_MAX => Err(Failure::badarg("`wait_ms` is at most a year")),
        ms => Ok(Duration::from_millis(ms.unwrap_or(0))),
    }
}

impl Router {
    // --- towards readiness ---

    /// Apps can connect.
    pub fn on_bound(&mut self) {
        self.life.bound = true;
        self.life_changes();
    }

    /// Every strategy has looked once, or has had long enough.
    pub fn on_looked(&mut self) {
        self.life.looked = true;
        self.life_changes();
    }

    /// Whether a certificate of this node, which others issue, has come: it may have ended since.
    pub fn on_issued(&mut self, there: bool) {
        self.life.unissued = !there;
        self.life_changes();
    }

    /// A gate, not a gauge: a node that has lost its peers serves on, because an app that is alone is better than none.
    pub(super) fn look_whether_met(&mut self) {
        if !self.life.met && self.count_up(self.life.min_peers) >= self.life.min_peers {
            self.life.met = true;
            self.life_changes();
        }
    }

    /// How many others are up, and no more than are of interest.
    fn count_up(&self, most: usize) -> usize {
        let up = self.connected.values().filter_map(|peer| self.peers.get(peer));
        up.filter(|peer| peer.up && !peer.hidden).take(most).count()
    }

    /// Whether the node has started and is ready.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let Life { bound, looked, unissued, min_peers, met, draining, .. } = self.life;
        let unready = if draining {
            Some(Unready::Draining)
        } else if !bound {
            Some(Unready::Unbound)
        } else if unissued {
            Some(Unready::Unissued)
        } else if !looked {
            Some(Unready::Looking)
        } else if !met {
            Some(Unready::FewPeers { up: self.count_up(min_peers), wanted: min_peers })
        } else {
            None
        };
        Readiness { bound, unready }
    }

    /// Answers whether the node is ready, once it is or the wait is over.
    pub(super) fn tell_ready(
        &mut self,
        asker: &Asker<'_>,
        wait_ms: Option<u64>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let Some(id) = asker.id else {
            return Err(Failure::badarg("`ready` needs an `id`: its answer is all it does"));
        };
        let wait = wait_of(wait_ms)?;
        self.wait(asker, id, Until::Ready, wait, out)
    }

    // --- leaving ---

    /// Begins to drain and answers what is left, once nothing is or the wait is over.
    pub(super) fn drain(
        &mut self,
        asker: &Asker<'_>,
        wait_ms: Option<u64>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        self.needs_operator(asker.session, "drain")?;
        let wait = wait_of(wait_ms)?;
        self.begin_drain(out);
        match asker.id {
            Some(id) => self.wait(asker, id, Until::Drained, wait, out),
            None => Ok(()),
        }
    }

    /// The node is about to leave. Draining twice is draining once.
    pub fn on_drain(&mut self, now: Instant, out: &mut Outbox) {
        self.clock = Some(now);
        self.begin_drain(out);
        self.run_work(now, out);
    }

    fn begin_drain(&mut self, out: &mut Outbox) {
        if std::mem::replace(&mut self.life.draining, true) {
            return;
        }
        out.requests.push_back(MeshRequest::Drains { node: self.me.clone() });
        // Only their numbers are taken together; they are told in slices.
        #[expect(clippy::disallowed_methods, reason = "a set has an order of its own")]
        let sessions: BTreeSet<SessionId> = self.sessions.keys().copied().collect();
        self.work.push_back(Work::Drain { sessions });
        self.life_changes();
    }

    /// Tells the next app. False when all have heard of it, and the peers too.
    pub(super) fn drain_step(
        &mut self,
        sessions: &mut BTreeSet<SessionId>,
        out: &mut Outbox,
    ) -> bool {
        if let Some(session) = sessions.pop_first() {
            Self::tell_draining(session, out);
            return true;
        }
        self.announce(Class::Draining, &[], Some(&[]), out);
        self.withdraw_factories(out);
        self.life.told = true;
        self.life_changes();
        false
    }

    pub(super) fn tell_draining(session: SessionId, out: &mut Outbox) {
        answer(out, session, &Head::event("draining"), &[]);
    }

    /// A peer says that it is about to leave.
    pub(super) fn on_peer_drains(&mut self, peer: PeerId, on: bool, out: &mut Outbox) {
        let Some(state) = self.peers.get_mut(&peer).filter(|_| on) else { return };
        if !std::mem::replace(&mut state.draining, true) {
            out.requests.push_back(MeshRequest::Drains { node: state.node.clone() });
            self.routes += 1;
        }
    }

    /// Whether a node is about to leave: a peer, or this one.
    pub(super) fn drains(&self, peer: Option<PeerId>) -> bool {
        match peer {
            None => self.life.draining,
            Some(peer) => self.peers.get(&peer).is_some_and(|state| state.draining),
        }
    }

    /// How many apps are connected, and how many calls of processes here or to them are under way. Apps that wait for
    /// the end of it all do not count, nor do hosted programs, which end with the node.
    fn left(&self) -> (usize, usize) {
        let waiting: BTreeSet<SessionId> = self
            .life
            .waits
            .values()
            .filter(|wait| wait.until == Until::Drained)
            .map(|wait| wait.session)
            .filter(|id| self.sessions.get(id).is_some_and(|s| s.attached && !s.hosted))
            .collect();
        let peers = self.connected.values().filter_map(|peer| self.peers.get(peer));
        let far: usize = peers.map(|state| state.calls.len()).sum();
        (self.life.apps.saturating_sub(waiting.len()), self.served.len() + far)
    }

    /// Whether nobody and nothing is left to wait for.
    fn is_drained(&self) -> bool {
        self.life.told
            && self.calls.is_empty()
            && self.served.is_empty()
            && self.partial_bytes == 0
            && self.left().0 == 0
    }

    // --- those who wait ---

    /// Something has changed that somebody may wait for.
    pub(super) fn life_changes(&mut self) {
        if !self.life.waits.is_empty() && !std::mem::replace(&mut self.life.looks, true) {
            self.work.push_back(Work::Life);
        }
    }

    fn wait(
        &mut self,
        asker: &Asker<'_>,
        id: crate::wire::command::Id<'_>,
        until: Until,
        wait: Duration,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        if self.life.waits.len() >= WAITS_MAX {
            let text = format!("{WAITS_MAX} apps wait for the readiness or the end of this node");
            return Err(Failure::new("overloaded", text));
        }
        let number = self.number();
        let ends = asker.now + wait;
        let kept = Wait { session: asker.session, id: KeptId::keep(id), until, ends };
        self.life.waits.insert(number, kept);
        if wait.is_zero() {
            self.life_wait_ends(number, out);
            return Ok(());
        }
        self.agenda.add(ends, Deadline::Life(number));
        self.life_changes();
        Ok(())
    }

    /// Answers those who have waited for what is so now.
    pub(super) fn look_at_life(&mut self, out: &mut Outbox) {
        self.life.looks = false;
        out.count(self.life.waits.len());
        // What is draining does not become ready any more.
        let over = |until| match until {
            Until::Ready => self.life.draining || self.readiness().ready().is_ok(),
            Until::Drained => self.is_drained(),
        };
        let (ready, drained) = (over(Until::Ready), over(Until::Drained));
        let met = |wait: &Wait| if wait.until == Until::Ready { ready } else { drained };
        let met: Vec<u64> =
            self.life.waits.iter().filter(|(_, wait)| met(wait)).map(|(n, _)| *n).collect();
        for number in met {
            self.life_wait_ends(number, out);
        }
    }

    /// Somebody has waited for what has come, or long enough.
    pub(super) fn life_wait_ends(&mut self, number: u64, out: &mut Outbox) {
        let (sessions, calls) = self.left();
        let Some(wait) = self.life.waits.remove(&number) else { return };
        self.agenda.remove(wait.ends, Deadline::Life(number));
        let head = Head::ok(wait.id.id());
        let head = match (wait.until, self.readiness().ready()) {
            (Until::Ready, Ok(())) => head.bool("ready", true),
            (Until::Ready, Err(unready)) => head
                .bool("ready", false)
                .text("reason", unready.code())
                .text("message", &unready.to_string()),
            (Until::Drained, _) => {
                head.uint("sessions", sessions as u64).uint("calls", calls as u64)
            }
        };
        answer(out, wait.session, &head, &[]);
    }

    /// Nobody waits any more where a session has ended.
    pub(super) fn end_life_waits(&mut self, session: SessionId) {
        let waits = &mut self.life.waits;
        let gone: Vec<(u64, Instant)> = waits
            .iter()
            .filter(|(_, wait)| wait.session == session)
            .map(|(number, wait)| (*number, wait.ends))
            .collect();
        for (number, ends) in gone {
            waits.remove(&number);
            self.agenda.remove(ends, Deadline::Life(number));
        }
    }

    // --- the last words ---

    /// Asks every peer for a sign. It comes behind all that the peer has sent before it heard what was said until now: when
    /// it is here, nothing is on its way that the peer would have given to others had it known.
    pub fn on_settle(&mut self, now: Instant, out: &mut Outbox) {
        self.clock = Some(now);
        let peers: Vec<PeerId> = self.connected.values().copied().collect();
        out.count(peers.len());
        self.life.settling += peers.len();
        for peer in peers {
            let (by, ask) = (AskedBy::Settling, Ask::Ping);
            self.ask_peer(now, peer, by, Question::Ping, &ask, Some(SETTLE), out);
        }
        out.settled |= self.life.settling == 0;
    }

    pub(super) fn settles(&mut self, out: &mut Outbox) {
        self.life.settling = self.life.settling.saturating_sub(1);
        out.settled |= self.life.settling == 0;
    }

    /// Whether every peer has given its sign, was lost, or has had long enough.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.life.settling == 0
    }

    /// How many apps are connected, those of hosted programs aside.
    #[cfg(test)]
    pub(super) fn apps(&self) -> usize {
        self.life.apps
    }
}
