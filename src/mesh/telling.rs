//! What the mesh says: to peers of each other, to people of what fails, to the hub of what sources know.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::PoisonError;

use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::attempts::{Attempt, Subject};
use super::census::{self, Census, Since};
use super::{Conn, Mesh, TELL_WITHIN, hearsay};
use crate::peer::{self, ConnId, Met, Order, Problem, scope};
use crate::transport::Transport;
use crate::wire::message::{Kind, PeerEntry, Peers, cbor_frame};

/// Most bytes of nodes in one frame of hearsay: well below the largest frame.
const TOLD_BYTES_MAX: usize = 48 * 1024;

/// What was told on a connection, and heard on it, of who is connected.
#[derive(Debug, Default)]
pub(super) struct Telling {
    /// Of the last list sent.
    listed: Option<u64>,
    /// The last census sent.
    counted: Option<Census>,
    /// The peer's census.
    theirs: Option<Since>,
    /// Since when the two have not agreed, or since the last list.
    differs: Option<Instant>,
}

impl<T: Transport> Mesh<T> {
    /// The peers are told what has changed, after a moment in which more may change.
    pub(super) fn tell_soon(&mut self, now: Instant) {
        let quiet = census::quiet(self.roster.up().count());
        self.tell_by(now + quiet.max(TELL_WITHIN));
    }

    fn tell_by(&mut self, at: Instant) {
        self.tell_at = Some(self.tell_at.map_or(at, |tell| tell.min(at)));
    }

    /// A peer told whom it counts.
    pub(super) fn counted(&mut self, id: ConnId, peers: &Peers, now: Instant) {
        let census = Census { count: peers.count, sum: peers.sum };
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.telling.theirs.is_some_and(|theirs| theirs.census == census) {
            return;
        }
        conn.telling.theirs = Some(Since { census, at: now });
        let ups: Vec<ConnId> = self.roster.up().map(|(conn, _)| conn).collect();
        if ups.len() <= census::SMALL {
            return;
        }
        if census::is_new(census) {
            self.tell(&[id], &ups, now);
        } else {
            self.tell_soon(now);
        }
    }

    /// Tells each peer whom else we are connected to, as far as that may be news to it.
    pub(super) fn tell_peers(&mut self, now: Instant) {
        let ups: Vec<ConnId> = self.roster.up().map(|(conn, _)| conn).collect();
        self.tell(&ups, &ups, now);
    }

    /// This node and whom it is connected to, apart from those that are hidden or about to leave.
    fn census(&self, ups: &[ConnId]) -> Census {
        let mut census = Census::default();
        if !self.draining {
            census.add(&self.context.me);
        }
        let mets = ups.iter().filter_map(|id| self.conns.get(id)?.met.as_deref());
        for met in mets.filter(|met| !met.hidden && !self.leaving.contains(&met.node)) {
            census.add(&met.node);
        }
        census
    }

    fn tell(&mut self, listeners: &[ConnId], ups: &[ConnId], now: Instant) {
        if self.context.hidden {
            return;
        }
        let census = self.census(ups);
        let mine = match self.census {
            Some(since) if since.census == census => since,
            _ => *self.census.insert(Since { census, at: now }),
        };
        for id in listeners {
            let Some(conn) = self.conns.get(id) else { continue };
            let (Some(met), Some(up)) = (conn.met.as_ref().filter(|met| !met.hidden), conn.up)
            else {
                continue;
            };
            let Telling { listed, counted, theirs, differs } = conn.telling;
            let agree = theirs.is_some_and(|theirs| theirs.census == mine.census);
            let differs = if agree { None } else { Some(differs.unwrap_or(now)) };
            let list = match census::say(ups.len(), mine, theirs, up, differs.unwrap_or(now), now) {
                census::Say::List => Some(self.peers_for(met, ups)),
                // What it was told before need not be remembered there.
                census::Say::Agreed => listed.map(|_| Vec::new()),
                census::Say::Wait(at) => {
                    self.tell_by(at);
                    None
                }
            };
            // After a list the patience begins anew, else all of a crowd tell all others at every change.
            let differs = differs.map(|since| if list.is_some() { now } else { since });
            let hash = list.as_ref().map(|list| self.hash(list));
            let list = list.filter(|_| hash != listed);
            let news = list.is_some() || counted != Some(mine.census);
            let hash = if list.is_some() { hash } else { listed };
            let telling = Telling { listed: hash, counted: Some(mine.census), theirs, differs };
            let sent = !news || {
                let Census { count, sum } = mine.census;
                let peers = Peers { peers: list, count, sum };
                self.order(*id, Order::Send(cbor_frame(Kind::Peers, 0, &peers)))
            };
            if !sent {
                // It has much to hear already.
                self.tell_by(now + census::quiet(ups.len()).max(TELL_WITHIN));
            }
            if let Some(conn) = self.conns.get_mut(id) {
                conn.telling =
                    if sent { telling } else { Telling { theirs, differs, ..Telling::default() } };
            }
        }
    }

    fn hash(&self, list: &[PeerEntry]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        for PeerEntry { node, incarnation, addresses } in list {
            (node, incarnation, addresses).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// In name order from the listener on, around: in a mesh too large for one frame, every listener hears of others.
    fn peers_for(&self, listener: &Met, ups: &[ConnId]) -> Vec<PeerEntry> {
        let mut others: Vec<&Met> = ups
            .iter()
            .filter_map(|id| self.conns.get(id)?.met.as_deref())
            .filter(|met| !met.hidden && met.node != listener.node)
            .filter(|met| !self.leaving.contains(&met.node))
            .collect();
        let after = others.partition_point(|met| met.node < listener.node);
        others.rotate_left(after);
        let own = self.context.interfaces.now();
        let mut bytes = 0;
        let mut peers = Vec::new();
        for met in others.into_iter().take(hearsay::TOLD_MAX) {
            let addresses = scope::hearsay(&met.places, listener.remote, listener.local, &own);
            if addresses.is_empty() {
                continue;
            }
            bytes += 64 + met.node.name.as_str().len();
            bytes += addresses.iter().map(|address| address.len() + 2).sum::<usize>();
            if bytes > TOLD_BYTES_MAX {
                break;
            }
            let (node, incarnation) = (met.node.name.to_string(), met.node.incarnation.0);
            peers.push(PeerEntry { node, incarnation, addresses });
        }
        peers
    }

    /// Says once, in words, why a connection did not come about. A dial's reason is said with its whole round.
    pub(super) fn on_failed(&mut self, conn: &Conn, problem: &Problem, now: Instant) {
        if let (Problem::Itself, Some((_, address))) = (problem, conn.dial) {
            self.wanted.learn(address, self.context.me.clone(), now);
            return;
        }
        let words = problem.to_string();
        if !matches!(problem, Problem::CalledOff) {
            self.context.hub.note(|notes| notes.joining(conn.dial.is_some(), problem.word()));
        }
        self.note_failure(conn, problem, &words, now);
        if let (Problem::Refused(refusal), Some(met)) = (problem, &conn.met)
            && refusal.code == "leaving"
        {
            self.wanted.hearsay.goodbye(&met.node, now);
        }
        let who = conn
            .met
            .as_ref()
            .map_or_else(|| conn.remote.ip().to_string(), |met| met.node.name.to_string());
        match problem {
            Problem::Refused(refusal) if refusal.code == "name_taken" => {
                if self.notices.is_news("name_taken", &refusal.message) {
                    error!(by = %conn.remote, "{}", peer::words(&refusal.message));
                }
            }
            Problem::SameName(node) => {
                let subject = format!("{} {}", node.name, node.incarnation);
                if self.notices.is_news(&subject, "same name") {
                    warn!(
                        address = %conn.remote,
                        incarnation = %node.incarnation,
                        "another node {words}"
                    );
                }
            }
            Problem::Refused(refusal) | Problem::Refusing(refusal)
                if matches!(refusal.code.as_str(), "duplicate" | "leaving" | "parted") =>
            {
                debug!(%who, "{words}");
            }
            _ if conn.dial.is_some() => debug!(%who, "{words}"),
            // An inbound one: somebody may be trying for ever.
            Problem::Stranger(_)
            | Problem::Expired(_)
            | Problem::Refused(_)
            | Problem::Refusing(_) => {
                if self.notices.is_news(&who, &words) {
                    warn!(from = %who, "{words}");
                }
            }
            _ => debug!(%who, "{words}"),
        }
    }

    /// Keeps what failed for those who ask later.
    fn note_failure(&mut self, conn: &Conn, problem: &Problem, words: &str, now: Instant) {
        if matches!(problem, Problem::CalledOff) {
            return;
        }
        let named = match problem {
            Problem::SameName(node) => Some(&node.name),
            _ => conn.met.as_ref().map(|met| &met.node.name),
        };
        let subject = match (named, conn.dial) {
            (Some(name), _) => Subject::Node(name.clone()),
            (None, Some((_, address))) => Subject::Address(address),
            (None, None) => Subject::From(conn.remote.ip()),
        };
        let attempt = Attempt {
            address: conn.remote,
            dialled: conn.dial.is_some(),
            result: problem.word(),
            failed: problem.word() != "duplicate",
            words: words.to_owned(),
            times: 1,
            last: now,
        };
        self.attempts.note(subject, attempt);
    }

    /// Puts what sources know beside what nodes say of themselves, this one included.
    pub(super) fn label(&mut self) {
        let mut own = self.labels.clone();
        for (key, value) in self.wanted.sources.own_labels() {
            own.entry(key).or_insert(value);
        }
        let mut said = self.context.labels.lock().unwrap_or_else(PoisonError::into_inner);
        let news = *said != own;
        said.clone_from(&own);
        drop(said);
        if news {
            self.context.hub.set_own_labels(own);
        }
        let hints = self.wanted.hints();
        let before = {
            let mut known = self.context.hints.lock().unwrap_or_else(PoisonError::into_inner);
            if *known == hints {
                return;
            }
            std::mem::replace(&mut *known, hints.clone())
        };
        for (_, node) in self.roster.up() {
            if before.get(&node.name) == hints.get(&node.name) {
                continue;
            }
            let conn = self.roster.holder(&node.name).and_then(|(id, _)| self.conns.get(&id));
            if let Some(met) = conn.and_then(|conn| conn.met.as_ref()) {
                let labels = self.context.labels_of(&node.name, &met.labels);
                self.context.hub.set_labels(&node.name, labels);
            }
        }
    }
}
