//! Nodes as apps see them: who is there, pings, connects, and watching them come and go.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::agenda::Deadline;
use super::announced::Class;
use super::mailbox::Tag;
use super::monitors::Monitored;
use super::peers::{Peer, PeerId};
use super::questions::{AskedBy, Question};
use super::{Asker, Counters, Failure, KeptId, Outbox, Router, answer};
use crate::wire::cbor;
use crate::wire::command::NodeType;
use crate::wire::event::Head;
use crate::wire::id::{Incarnation, Node, NodeName};
use crate::wire::message::Ask;

/// How long a connect may take before it counts as failed (OTP's `net_setuptime`, 7 s).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(7);

/// Longest text that names a node or an address.
const TO_BYTES_MAX: usize = 512;

/// Most labels that a node may say of itself after its hello.
const LABELS_MAX: usize = 64;

/// Most requests to the mesh under way.
const MESH_ASKS_MAX: usize = 1024;

/// A node that a strategy or a peer reports and that is not connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownNode {
    /// Its name, where the source knows it.
    pub name: Option<NodeName>,
    /// Its run, where the source knows it.
    pub incarnation: Option<Incarnation>,
    /// Where it can be dialled.
    pub addresses: Vec<SocketAddr>,
    /// Who says so.
    pub sources: Vec<String>,
    /// What they know of it.
    pub labels: BTreeMap<String, String>,
    /// Why there is no connection, for people.
    pub reason: Option<String>,
}

/// Which question a [`MeshAnswer`] answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MeshToken(pub u64);

/// What an app asked of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeshRequest {
    /// Connect to a node name or to `host:port`.
    Connect {
        /// For the answer.
        token: MeshToken,
        /// As the app wrote it.
        to: String,
    },
    /// Close the connection to a node.
    Disconnect {
        /// For the answer.
        token: MeshToken,
        /// Which.
        node: NodeName,
    },
    /// Show everybody known, wanted and connected.
    Peers {
        /// For the answer.
        token: MeshToken,
    },
    /// Show why a node is connected or not.
    Explain {
        /// For the answer.
        token: MeshToken,
        /// Its name, or an address.
        node: String,
    },
    /// Show how the node is doing.
    Doctor {
        /// For the answer.
        token: MeshToken,
    },
    /// A node is about to leave, this one or a peer: it is to be dialled no more. Nothing to answer.
    Drains {
        /// Which run of which node.
        node: Node,
    },
}

/// The mesh's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeshAnswer {
    /// Connected (or disconnected) now, or already.
    True,
    /// Not.
    False,
    /// What was to be shown, as one item of CBOR.
    Shown(Vec<u8>),
    /// Could not even try.
    Failed {
        /// A code of the app protocol.
        code: &'static str,
        /// For people.
        message: String,
    },
}

/// Something asked of the mesh, whose answer goes to an app.
#[derive(Debug)]
pub(super) struct MeshAsked {
    session: u64,
    id: KeptId,
    what: MeshQuestion,
    ends: Instant,
}

#[derive(Debug)]
enum MeshQuestion {
    Connect,
    Disconnect,
    /// Connect first, then ping.
    Ping(NodeName, Option<Duration>),
    /// Show something, which the answer carries under this name.
    Show(&'static str),
}

/// What a node says of itself in `nodes`.
#[derive(Clone, Debug, Default)]
pub struct SelfSeen {
    /// role, zone and whatever else.
    pub labels: BTreeMap<String, String>,
    /// Stays out of what peers tell each other.
    pub hidden: bool,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// It is ready once so many others were up at the same time.
    pub min_peers: usize,
}

/// A `nodeup` or `nodedown` on its way to everybody who watched nodes at that moment.
#[derive(Debug)]
pub(super) struct News {
    head: Head,
    /// Who began to watch later, by the number given then, sees it in the list of nodes instead.
    at: u64,
    /// The last process that was looked at.
    last: u64,
    /// The node is a hidden one.
    hidden: bool,
}

impl News {
    pub(super) fn down(peer: &Peer, reason: &str, at: u64) -> Self {
        let head = Head::event("nodedown")
            .text("node", peer.node.name.as_str())
            .text("incarnation", &peer.node.incarnation.to_string())
            .text("reason", reason);
        Self { head: shown(head, peer.hidden), at, last: 0, hidden: peer.hidden }
    }
}

/// A hidden node is told as one.
fn shown(head: Head, hidden: bool) -> Head {
    if hidden { head.bool("hidden", true) } else { head }
}

impl Router {
    /// A node is up from now on; nothing when it has gone meanwhile.
    pub(super) fn nodeup(&mut self, peer: PeerId) -> Option<News> {
        let state = self.peers.get_mut(&peer)?;
        state.up = true;
        let mut labels = Vec::new();
        super::info::put_labels(&mut labels, &state.labels);
        let head = Head::event("nodeup")
            .text("node", state.node.name.as_str())
            .text("incarnation", &state.node.incarnation.to_string())
            .raw("labels", &labels);
        let hidden = state.hidden;
        self.look_at_waits();
        self.look_whether_met();
        Some(News { head: shown(head, hidden), at: self.next, last: 0, hidden })
    }

    /// Tells the next process that watches nodes. False when there is none.
    pub(super) fn tell_news(&mut self, news: &mut News, out: &mut Outbox) -> bool {
        let next = self.node_watchers.range(news.last + 1..).next();
        let Some((&serial, &(since, node_type))) = next else { return false };
        news.last = serial;
        if since <= news.at && node_type.has(news.hidden) {
            self.tell(serial, Tag::Node, &news.head, out);
        }
        true
    }

    /// Tells the next process that monitors a lost node. False when there is none.
    pub(super) fn tell_node_monitor(
        &mut self,
        peer: &mut Peer,
        news: &News,
        out: &mut Outbox,
    ) -> bool {
        let Some((serial, reference)) = peer.node_monitors.pop_first() else { return false };
        let mine = self
            .processes
            .get_mut(&serial)
            .is_some_and(|process| process.monitors.remove(&reference).is_some());
        if mine {
            self.tell(serial, Tag::Node, &news.head, out);
        }
        true
    }

    /// Whether it stays out of what peers tell each other.
    #[cfg(test)]
    pub(super) fn is_hidden(&self) -> bool {
        self.hidden
    }

    /// What `nodes` says of this node.
    pub fn on_self(&mut self, me: SelfSeen, out: &mut Outbox) {
        self.on_own_labels(me.labels, out);
        self.hidden = me.hidden;
        self.addresses = me.addresses;
        self.life.set_min_peers(me.min_peers);
        self.look_whether_met();
    }

    /// What this node tells others of itself has changed: a source knows more of it.
    pub fn on_own_labels(&mut self, labels: BTreeMap<String, String>, out: &mut Outbox) {
        let before = std::mem::replace(&mut self.labels, labels);
        let gone = before.keys().filter(|key| !self.labels.contains_key(*key));
        for key in gone.cloned().collect::<Vec<String>>() {
            self.announce(Class::Label, key.as_bytes(), None, out);
        }
        for (key, value) in self.labels.clone() {
            if before.get(&key) != Some(&value) {
                self.announce(Class::Label, key.as_bytes(), Some(value.as_bytes()), out);
            }
        }
    }

    /// What is known of a connected node has changed: a source knows more of it.
    pub fn on_labels(&mut self, node: &NodeName, labels: BTreeMap<String, String>) {
        let Some(peer) = self.connected.get(node).copied() else { return };
        self.peer_mut(peer, |state| state.hinted = labels);
        self.relabel(peer);
    }

    /// A peer says of itself, or takes back, what counts more than what is known of it.
    pub(super) fn on_label(
        &mut self,
        peer: PeerId,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Option<()> {
        let key = std::str::from_utf8(key).ok()?.to_owned();
        let value = value.map(std::str::from_utf8).transpose().ok()?.map(str::to_owned);
        let state = self.peers.get_mut(&peer)?;
        if state.said.len() >= LABELS_MAX && !state.said.contains_key(&key) {
            return Some(());
        }
        state.said.insert(key, value);
        self.relabel(peer);
        Some(())
    }

    fn relabel(&mut self, peer: PeerId) {
        self.peer_mut(peer, |state| {
            state.labels = state.hinted.clone();
            for (key, value) in &state.said {
                match value {
                    Some(value) => state.labels.insert(key.clone(), value.clone()),
                    None => state.labels.remove(key),
                };
            }
        });
        self.look_at_waits();
    }

    /// Who is visible and not connected.
    pub fn on_known(&mut self, known: Vec<KnownNode>) {
        self.known = known;
    }

    pub(super) fn nodes(
        &mut self,
        asker: &Asker<'_>,
        states: &[&str],
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        // Several are all that is one or the other.
        let [mut own, mut connected, mut hidden, mut known] = [states.is_empty(); 4];
        for state in states {
            match *state {
                "self" | "this" => own = true,
                "connected" => (connected, hidden) = (true, true),
                "visible" => connected = true,
                "hidden" => hidden = true,
                "known" => known = true,
                _ => {
                    return Err(Failure::badarg(
                        "`state` is self, connected, visible, hidden or known, or a list of these",
                    ));
                }
            }
        }
        let Some(id) = asker.id else { return Ok(()) };
        let mut items = Vec::new();
        let mut count = 0;
        if own {
            count += 1;
            let draining = self.drains(None);
            cbor::put_map(&mut items, 9 + usize::from(draining));
            put_pair(&mut items, "node", self.me.name.as_str());
            put_pair(&mut items, "incarnation", &self.me.incarnation.to_string());
            put_pair(&mut items, "state", "self");
            put_rest(
                &mut items,
                self.hidden,
                &self.labels,
                self.addresses.iter().map(String::as_str),
            );
            cbor::put_text(&mut items, "ready");
            cbor::put_bool(&mut items, self.readiness().ready().is_ok());
            put_draining(&mut items, draining);
            cbor::put_text(&mut items, "queued");
            cbor::put_uint(&mut items, self.queued(out) as u64);
            cbor::put_text(&mut items, "lost");
            put_lost(&mut items, &self.counters);
        }
        for peer in self.connected.values() {
            let Some(peer) = self.peers.get(peer) else { continue };
            // Consistent with the events: a node is in the list from its nodeup to its nodedown.
            let wanted = if peer.hidden { hidden } else { connected };
            if !peer.up || !wanted {
                continue;
            }
            count += 1;
            cbor::put_map(&mut items, 7 + usize::from(peer.draining));
            put_pair(&mut items, "node", peer.node.name.as_str());
            put_pair(&mut items, "incarnation", &peer.node.incarnation.to_string());
            put_pair(&mut items, "state", "connected");
            let addresses: Vec<String> = peer.addresses.iter().map(ToString::to_string).collect();
            put_rest(&mut items, peer.hidden, &peer.labels, addresses.iter().map(String::as_str));
            put_pair(&mut items, "address", &peer.address.to_string());
            put_draining(&mut items, peer.draining);
        }
        if known {
            for node in &self.known {
                count += 1;
                put_known(&mut items, node);
            }
        }
        let mut body = Vec::with_capacity(items.len() + 5);
        cbor::put_array(&mut body, count);
        body.append(&mut items);
        answer(out, asker.session, &Head::ok(id).carries("nodes"), &body);
        Ok(())
    }

    pub(super) fn ping(
        &mut self,
        asker: &Asker<'_>,
        node: &str,
        timeout_ms: Option<u64>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let node = self.full_name(node)?;
        let Some(id) = asker.id else { return Ok(()) };
        let timeout = timeout_ms.map(Duration::from_millis);
        if node == self.me.name {
            answer(out, asker.session, &Head::ok(id).text("result", "pong"), &[]);
        } else if self.connected.contains_key(&node) {
            self.ask(asker, &node, &Ask::Ping, timeout, out)?;
        } else if self.needs_operator(asker.session, "connect").is_err() {
            // A ping connects, and connecting is for operators.
            answer(out, asker.session, &Head::ok(id).text("result", "pang"), &[]);
        } else {
            let to = node.to_string();
            self.ask_mesh(asker, MeshQuestion::Ping(node, timeout), timeout, out, |token| {
                MeshRequest::Connect { token, to }
            })?;
        }
        Ok(())
    }

    pub(super) fn connect(
        &mut self,
        asker: &Asker<'_>,
        to: &str,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        self.needs_operator(asker.session, "connect")?;
        // `host:port` is the mesh's business; a name is completed here.
        let name = self.full_name(to).ok();
        let here = name
            .as_ref()
            .is_some_and(|name| *name == self.me.name || self.connected.contains_key(name));
        if here {
            if let Some(id) = asker.id {
                answer(out, asker.session, &Head::ok(id).bool("result", true), &[]);
            }
            return Ok(());
        }
        let to = name.map_or_else(|| to.to_owned(), |name| name.to_string());
        if to.len() > TO_BYTES_MAX {
            return Err(Failure::badarg("`to` is a node's name or host:port"));
        }
        self.ask_mesh(asker, MeshQuestion::Connect, None, out, |token| MeshRequest::Connect {
            token,
            to,
        })
    }

    pub(super) fn disconnect(
        &mut self,
        asker: &Asker<'_>,
        node: &str,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        self.needs_operator(asker.session, "disconnect")?;
        let node = self.full_name(node)?;
        self.ask_mesh(asker, MeshQuestion::Disconnect, None, out, |token| MeshRequest::Disconnect {
            token,
            node,
        })
    }

    pub(super) fn show_peers(
        &mut self,
        asker: &Asker<'_>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let what = MeshQuestion::Show("peers");
        self.ask_mesh(asker, what, None, out, |token| MeshRequest::Peers { token })
    }

    pub(super) fn explain(
        &mut self,
        asker: &Asker<'_>,
        node: &str,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        // An address is the mesh's business; a name is completed here.
        let node = self.full_name(node).map_or_else(|_| node.to_owned(), |name| name.to_string());
        if node.len() > TO_BYTES_MAX {
            return Err(Failure::badarg("`node` is a node's name or an address"));
        }
        let what = MeshQuestion::Show("explanation");
        self.ask_mesh(asker, what, None, out, |token| MeshRequest::Explain { token, node })
    }

    pub(super) fn doctor(&mut self, asker: &Asker<'_>, out: &mut Outbox) -> Result<(), Failure> {
        let what = MeshQuestion::Show("diagnosis");
        self.ask_mesh(asker, what, None, out, |token| MeshRequest::Doctor { token })
    }

    fn ask_mesh(
        &mut self,
        asker: &Asker<'_>,
        what: MeshQuestion,
        timeout: Option<Duration>,
        out: &mut Outbox,
        request: impl FnOnce(MeshToken) -> MeshRequest,
    ) -> Result<(), Failure> {
        if self.mesh_asks.len() >= MESH_ASKS_MAX || out.requests.len() >= MESH_ASKS_MAX {
            let text = format!("{MESH_ASKS_MAX} requests to the mesh are under way already");
            return Err(Failure::new("overloaded", text));
        }
        let number = self.number();
        let ends = asker.now + timeout.unwrap_or(CONNECT_TIMEOUT);
        out.requests.push_back(request(MeshToken(number)));
        if let Some(id) = asker.id {
            self.agenda.add(ends, Deadline::Ask(number));
            let asked = MeshAsked { session: asker.session, id: KeptId::keep(id), what, ends };
            self.mesh_asks.insert(number, asked);
        }
        Ok(())
    }

    /// The mesh answers what an app asked of it.
    pub fn on_mesh_answer(
        &mut self,
        now: Instant,
        token: MeshToken,
        answered: MeshAnswer,
        out: &mut Outbox,
    ) {
        let Some(asked) = self.mesh_asks.remove(&token.0) else { return };
        self.agenda.remove(asked.ends, Deadline::Ask(token.0));
        let head = Head::ok(asked.id.id());
        let head = match (asked.what, answered) {
            (MeshQuestion::Show(noun), MeshAnswer::Shown(shown)) => {
                answer(out, asked.session, &head.carries(noun), &shown);
                return;
            }
            (MeshQuestion::Ping(node, timeout), MeshAnswer::True) => {
                if let Some((peer, _)) = self.peer_named(node.as_str()) {
                    let by = AskedBy::App { session: asked.session, id: asked.id };
                    self.ask_peer(now, peer, by, Question::Ping, &Ask::Ping, timeout, out);
                    return;
                }
                head.text("result", "pang")
            }
            (MeshQuestion::Ping(..), _) => head.text("result", "pang"),
            (_, MeshAnswer::True) => head.bool("result", true),
            (_, MeshAnswer::False | MeshAnswer::Shown(_)) => head.bool("result", false),
            (_, MeshAnswer::Failed { code, message }) => {
                Head::error(asked.id.id(), code, &message, false)
            }
        };
        answer(out, asked.session, &head, &[]);
    }

    pub(super) fn mesh_ask_times_out(&mut self, number: u64, out: &mut Outbox) {
        let Some(asked) = self.mesh_asks.remove(&number) else { return };
        let head = Head::ok(asked.id.id());
        let head = match asked.what {
            MeshQuestion::Ping(..) => head.text("result", "pang"),
            MeshQuestion::Connect | MeshQuestion::Disconnect => head.bool("result", false),
            MeshQuestion::Show(_) => {
                let text = "the mesh of this node has not answered in time: it is stopping";
                Head::error(asked.id.id(), "timeout", text, false)
            }
        };
        answer(out, asked.session, &head, &[]);
    }

    pub(super) fn monitor_nodes(
        &mut self,
        asker: &Asker<'_>,
        pid: Option<&str>,
        on: bool,
        node_type: NodeType,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let serial = self.actor(asker.session, pid)?;
        if on {
            let since = self.number();
            self.node_watchers.entry(serial).or_insert((since, node_type)).1 = node_type;
        } else {
            self.node_watchers.remove(&serial);
        }
        Self::done(asker, out);
        Ok(())
    }

    /// One `nodedown` for each time it was called, at once when the node is not connected.
    pub(super) fn monitor_node(
        &mut self,
        asker: &Asker<'_>,
        pid: Option<&str>,
        node: &str,
        on: bool,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let serial = self.actor(asker.session, pid)?;
        let node = self.full_name(node)?;
        if !on {
            let one = self.processes.get(&serial).and_then(|process| {
                let mine =
                    |monitored: &Monitored| matches!(monitored, Monitored::Node(n) if *n == node);
                process.monitors.iter().find(|(_, m)| mine(m)).map(|(reference, _)| *reference)
            });
            if let Some(reference) = one {
                if let Some(process) = self.processes.get_mut(&serial) {
                    process.monitors.remove(&reference);
                }
                self.forget_node_monitor(&node, serial, reference);
            }
            Self::done(asker, out);
            return Ok(());
        }
        Self::done(asker, out);
        let Some(&peer) = self.connected.get(&node) else {
            if node != self.me.name {
                let head = Head::event("nodedown")
                    .text("node", node.as_str())
                    .text("reason", "noconnection");
                self.tell(serial, Tag::Node, &head, out);
            }
            return Ok(());
        };
        let reference = self.number();
        self.peer_mut(peer, |state| state.node_monitors.insert((serial, reference)));
        if let Some(process) = self.processes.get_mut(&serial) {
            process.monitors.insert(reference, Monitored::Node(node));
        }
        Ok(())
    }

    pub(super) fn forget_node_monitor(&mut self, node: &NodeName, serial: u64, reference: u64) {
        if let Some(&peer) = self.connected.get(node) {
            self.peer_mut(peer, |state| state.node_monitors.remove(&(serial, reference)));
        }
    }
}

fn put_pair(items: &mut Vec<u8>, key: &str, text: &str) {
    cbor::put_text(items, key);
    cbor::put_text(items, text);
}

/// That a node is about to leave; nothing where it is not.
fn put_draining(items: &mut Vec<u8>, draining: bool) {
    if draining {
        cbor::put_text(items, "draining");
        cbor::put_bool(items, true);
    }
}

fn put_rest<'a>(
    items: &mut Vec<u8>,
    hidden: bool,
    labels: &BTreeMap<String, String>,
    addresses: impl ExactSizeIterator<Item = &'a str>,
) {
    cbor::put_text(items, "hidden");
    cbor::put_bool(items, hidden);
    cbor::put_text(items, "labels");
    super::info::put_labels(items, labels);
    put_texts(items, "addresses", addresses);
}

fn put_texts<'a>(items: &mut Vec<u8>, key: &str, texts: impl ExactSizeIterator<Item = &'a str>) {
    cbor::put_text(items, key);
    cbor::put_array(items, texts.len());
    for text in texts {
        cbor::put_text(items, text);
    }
}

fn put_lost(items: &mut Vec<u8>, counters: &Counters) {
    let Counters { shed, congested, too_large, no_member, .. } = *counters;
    let lost = [
        ("overflow", shed),
        ("congested", congested),
        ("too_large", too_large),
        ("no_member", no_member),
    ];
    cbor::put_map(items, lost.len());
    for (key, count) in lost {
        cbor::put_text(items, key);
        cbor::put_uint(items, count);
    }
}

fn put_known(items: &mut Vec<u8>, node: &KnownNode) {
    let fields = [
        ("node", node.name.as_ref().map(ToString::to_string)),
        ("incarnation", node.incarnation.map(|incarnation| incarnation.to_string())),
        ("reason", node.reason.clone()),
    ];
    let there = fields.iter().filter(|(_, value)| value.is_some()).count();
    cbor::put_map(items, there + 3 + usize::from(!node.labels.is_empty()));
    for (key, value) in &fields {
        if let Some(value) = value {
            put_pair(items, key, value);
        }
    }
    put_pair(items, "state", "known");
    if !node.labels.is_empty() {
        cbor::put_text(items, "labels");
        super::info::put_labels(items, &node.labels);
    }
    let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
    put_texts(items, "addresses", addresses.iter().map(String::as_str));
    put_texts(items, "sources", node.sources.iter().map(String::as_str));
}
