//! Waiting until nodes are there: named ones, or so many of a role.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::agenda::Deadline;
use super::calls::TIMEOUT_MS_MAX;
use super::peers::Peer;
use super::sessions::SessionId;
use super::work::Work;
use super::{Asker, Failure, KeptId, Outbox, Router, answer};
use crate::wire::cbor;
use crate::wire::command::Keys;
use crate::wire::event::Head;
use crate::wire::id::NodeName;

/// Most `wait_for` at once: each nodeup looks at all of them.
const WAITS_MAX: usize = 128;
/// Most nodes that one of them names.
const NODES_MAX: usize = 256;

/// Everybody who waits for nodes, by session and number.
pub(super) type Waits = BTreeMap<(SessionId, u64), Wait>;

/// What somebody waits for.
#[derive(Debug)]
pub(super) struct Wait {
    id: KeptId,
    nodes: Vec<NodeName>,
    role: Option<Box<str>>,
    /// So many others, of the role if there is one.
    count: usize,
    ends: Option<(Instant, Duration)>,
}

/// The nodes that were waited for and are there, and what is not.
struct Seen {
    there: Vec<String>,
    missing: Vec<String>,
    counted: usize,
}

impl Router {
    /// Answers once all the named nodes are up and so many others, of the role.
    pub(super) fn wait_for(
        &mut self,
        asker: &Asker<'_>,
        nodes: Option<Keys<'_>>,
        role: Option<&str>,
        count: Option<u64>,
        timeout_ms: Option<u64>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let Some(id) = asker.id else {
            return Err(Failure::badarg("`wait_for` needs an `id`: its answer is all it does"));
        };
        if nodes.is_none() && role.is_none() && count.is_none() {
            let text = "`wait_for` needs `nodes`, `role` or `count`: whom to wait for";
            return Err(Failure::badarg(text));
        }
        let timeout = match timeout_ms {
            Some(ms) if ms > TIMEOUT_MS_MAX => {
                return Err(Failure::badarg("`timeout_ms` is at most a year"));
            }
            ms => ms.map(Duration::from_millis),
        };
        let name = |name| self.full_name(name);
        let nodes: Vec<NodeName> = match nodes {
            Some(nodes) => nodes.iter().take(NODES_MAX + 1).map(name).collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        if nodes.len() > NODES_MAX {
            return Err(Failure::badarg(format!("`nodes` names at most {NODES_MAX} nodes")));
        }
        if self.waits.len() >= WAITS_MAX {
            let text = format!("{WAITS_MAX} apps of this node wait for nodes already");
            return Err(Failure::new("overloaded", text));
        }
        let count = match count {
            Some(count) => usize::try_from(count).unwrap_or(usize::MAX),
            None => usize::from(role.is_some()),
        };
        let wait = Wait {
            id: KeptId::keep(id),
            nodes,
            role: role.map(Into::into),
            count,
            ends: timeout.map(|timeout| (asker.now + timeout, timeout)),
        };
        if self.is_met(&wait) {
            self.has_come(asker.session, &wait, out);
            return Ok(());
        }
        let number = self.number();
        if let Some((ends, _)) = wait.ends {
            self.agenda.add(ends, Deadline::Wait { session: asker.session, number });
        }
        self.waits.insert((asker.session, number), wait);
        if timeout == Some(Duration::ZERO) {
            self.agenda.remove(asker.now, Deadline::Wait { session: asker.session, number });
            self.wait_times_out(asker.session, number, out);
        }
        Ok(())
    }

    /// A node is up: some wait for that, perhaps.
    pub(super) fn look_at_waits(&mut self) {
        if !self.waits.is_empty() {
            self.work.push_back(Work::Waits { after: (0, 0) });
        }
    }

    /// Looks at the next who waits. None when there is none.
    pub(super) fn look_at_wait(
        &mut self,
        after: (SessionId, u64),
        out: &mut Outbox,
    ) -> Option<(SessionId, u64)> {
        let from = (after.0, after.1 + 1);
        let (&at, wait) = self.waits.range(from..).next()?;
        if self.is_met(wait)
            && let Some(wait) = self.waits.remove(&at)
        {
            if let Some((ends, _)) = wait.ends {
                self.agenda.remove(ends, Deadline::Wait { session: at.0, number: at.1 });
            }
            self.has_come(at.0, &wait, out);
        }
        Some(at)
    }

    /// Nobody waits any more where a session has ended.
    pub(super) fn end_waits(&mut self, session: SessionId) {
        while let Some((&at, _)) = self.waits.range((session, 0)..=(session, u64::MAX)).next() {
            if let Some((ends, _)) = self.waits.remove(&at).and_then(|wait| wait.ends) {
                self.agenda.remove(ends, Deadline::Wait { session: at.0, number: at.1 });
            }
        }
    }

    pub(super) fn wait_times_out(&mut self, session: SessionId, number: u64, out: &mut Outbox) {
        let Some(wait) = self.waits.remove(&(session, number)) else { return };
        let Seen { missing, counted, .. } = self.seen(&wait);
        let mut words = Vec::new();
        match missing.as_slice() {
            [] => {}
            [one] => words.push(format!("{one} is not connected")),
            [first, rest @ ..] => {
                words.push(format!("{first} and {} more are not connected", rest.len()));
            }
        }
        if counted < wait.count {
            let of = wait.role.as_ref().map_or_else(String::new, |role| format!(" of role {role}"));
            words.push(format!("{counted} of {} nodes{of} are connected", wait.count));
        }
        let waited = wait.ends.map(|(_, timeout)| timeout).filter(|timeout| !timeout.is_zero());
        let mut text = waited.map_or_else(String::new, |waited| format!("waited {waited:?}: "));
        text.push_str(&words.join(", "));
        let head = Head::error(wait.id.id(), "timeout", &text, false);
        answer(out, session, &head.texts("nodes", missing.iter().map(|node| &**node)), &[]);
    }

    fn up(&self, name: &NodeName) -> Option<&Peer> {
        let peer = self.connected.get(name)?;
        self.peers.get(peer).filter(|peer| peer.up)
    }

    fn is_met(&self, wait: &Wait) -> bool {
        wait.nodes.iter().all(|name| *name == self.me.name || self.up(name).is_some())
            && self.others(wait).take(wait.count).count() == wait.count
    }

    /// The nodes that are counted: hidden ones are not.
    fn others<'a>(&'a self, wait: &'a Wait) -> impl Iterator<Item = &'a NodeName> {
        self.connected.keys().filter(|name| {
            self.up(name).is_some_and(|peer| {
                let role = || peer.labels.get("role").map(String::as_str);
                !peer.hidden && (wait.role.is_none() || role() == wait.role.as_deref())
            })
        })
    }

    fn seen(&self, wait: &Wait) -> Seen {
        let (mut there, mut missing) = (Vec::new(), Vec::new());
        for name in &wait.nodes {
            let up = *name == self.me.name || self.up(name).is_some();
            if up { &mut there } else { &mut missing }.push(name.to_string());
        }
        let mut counted = 0;
        if wait.count > 0 {
            for name in self.others(wait) {
                counted += 1;
                if !wait.nodes.contains(name) {
                    there.push(name.to_string());
                }
            }
        }
        Seen { there, missing, counted }
    }

    fn has_come(&self, session: SessionId, wait: &Wait, out: &mut Outbox) {
        let there = texts(&self.seen(wait).there);
        answer(out, session, &Head::ok(wait.id.id()).carries("nodes"), &there);
    }
}

fn texts(nodes: &[String]) -> Vec<u8> {
    let mut list = Vec::new();
    cbor::put_array(&mut list, nodes.len());
    for node in nodes {
        cbor::put_text(&mut list, node);
    }
    list
}
