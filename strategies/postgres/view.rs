//! Who is there, by what was heard and when.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::message::{Message, Say};
use crate::{Announcement, Reporter, Sighting};

/// Most nodes that are remembered.
const SEEN_MAX: usize = 1024;
/// After how many of its heartbeats a node that says nothing is gone.
const MISSED: u32 = 3;
/// How much later than that a heartbeat may come, and how long the database may take without being thought slow.
const LATE: Duration = Duration::from_secs(1);

/// Everybody who was heard, across connections, and what was reported of it.
pub(super) struct View<'a> {
    reporter: &'a Reporter,
    own_node: &'a str,
    own_incarnation: u64,
    seen: BTreeMap<(String, u64), Seen>,
    /// The database is on this machine, so that addresses on this machine make sense.
    is_local: bool,
    /// There is nothing that others could dial.
    is_deaf: bool,
    /// The database took something from us on this connection, and how often it did before we heard ourselves.
    sent: u32,
    heard_ourselves: bool,
}

struct Seen {
    message: Message,
    until: Instant,
}

impl Seen {
    fn new(message: Message) -> Self {
        let until = Instant::now() + message.every() * MISSED + LATE;
        Self { message, until }
    }
}

impl<'a> View<'a> {
    pub(super) fn new(own: &'a Announcement, reporter: &'a Reporter) -> Self {
        Self {
            reporter,
            own_node: &own.node,
            own_incarnation: own.incarnation,
            seen: BTreeMap::new(),
            is_local: false,
            is_deaf: false,
            sent: 0,
            heard_ourselves: false,
        }
    }

    /// A new connection: everybody has all of their time again, for nothing was heard while there was none.
    pub(super) fn on_connected(&mut self, is_local: bool, is_deaf: bool) {
        (self.is_local, self.is_deaf) = (is_local, is_deaf);
        (self.sent, self.heard_ourselves) = (0, false);
        self.start_all_anew();
    }

    fn start_all_anew(&mut self) {
        for seen in self.seen.values_mut() {
            *seen = Seen::new(seen.message.clone());
        }
    }

    /// The database took what we said at that time. That shows that it is there, so who was not heard for its time is
    /// gone. One that took long may have kept the others waiting as well: they have all of their time again.
    pub(super) fn on_sent(&mut self, said: Instant) {
        self.sent = self.sent.saturating_add(1);
        if said.elapsed() > LATE {
            self.start_all_anew();
        } else {
            self.seen.retain(|_, seen| said < seen.until);
        }
        self.report();
    }

    /// Somebody said something; the answer is what for.
    pub(super) fn on_text(&mut self, text: &str) -> Option<Say> {
        let Some(message) = Message::read(text, self.is_local) else {
            tracing::debug!(strategy = "postgres", "ignores what is no message of a node");
            return None;
        };
        if message.node == self.own_node && message.incarnation == self.own_incarnation {
            self.heard_ourselves = true;
            return None;
        }
        let say = message.say;
        let key = (message.node.clone(), message.incarnation);
        let is_new = match say {
            Say::Bye => self.seen.remove(&key).is_some(),
            _ if message.addresses.is_empty() => return Some(say),
            Say::Hello | Say::Here => {
                if self.seen.len() >= SEEN_MAX && !self.seen.contains_key(&key) {
                    return None;
                }
                // Of two runs of one node at one address only the newer can be there.
                let is_older = |(node, incarnation): &(String, u64), seen: &Seen| {
                    *node == message.node
                        && *incarnation < message.incarnation
                        && seen.message.addresses.iter().any(|a| message.addresses.contains(a))
                };
                self.seen.retain(|key, seen| !is_older(key, seen));
                let before = self.seen.insert(key, Seen::new(message.clone()));
                before.is_none_or(|before| before.message.addresses != message.addresses)
            }
        };
        if is_new {
            self.report();
        }
        Some(say)
    }

    /// Keeps everybody and says what is wrong.
    pub(super) fn unwell(&self, why: &str) {
        tracing::debug!(strategy = "postgres", "{why}");
        let sightings = self.sightings();
        let kept = match sightings.len() {
            0 => "",
            _ => "; who was there stays",
        };
        self.reporter.visible_but(
            sightings,
            format!("the database: {why}{kept}. It is connected to again and again"),
        );
    }

    fn report(&self) {
        if self.sent == 0 {
            // Until the database takes something, what was wrong before may still be wrong.
            return;
        }
        let sightings = self.sightings();
        if self.is_deaf {
            self.reporter.visible_but(
                sightings,
                "the database: no address is announced, because the mesh port listens on loopback only and the database is elsewhere: others are seen but cannot see this node. Give --listen an address that others reach",
            );
        } else if self.sent > 1 && !self.heard_ourselves {
            self.reporter.visible_but(
                sightings,
                "the database: what this node says does not come back to it, so it may not hear the others either. A connection pooler that pools transactions lies between: connect to the database itself, or pool sessions",
            );
        } else {
            self.reporter.visible(sightings);
        }
    }

    fn sightings(&self) -> Vec<Sighting> {
        let sighting = |seen: &Seen| {
            let Message { node, incarnation, mesh, ids, addresses, .. } = seen.message.clone();
            Sighting {
                node: Some(node),
                incarnation: Some(incarnation),
                mesh: Some(mesh),
                ids,
                addresses,
                source: "postgres".into(),
                ..Sighting::default()
            }
        };
        self.seen.values().map(sighting).collect()
    }
}
