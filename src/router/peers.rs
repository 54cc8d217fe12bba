//! Peers: what they say of processes, and what their coming and going means for ours.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use super::again::Again;
use super::agenda::Deadline;
use super::announced::{self, Key};
use super::deliver::{Holder, Origin};
use super::mailbox::Tag;
use super::monitors::Watcher;
use super::presence::{Own, Place};
use super::send::There;
use super::shared::Shared;
use super::topics::publish::KnownTopic;
use super::work::Work;
use super::{Failure, OWNED_MAX, Outbox, Remote, Router};
use crate::wire::cbor;
use crate::wire::command::{Mode, REASON_BYTES_MAX};
use crate::wire::event::{self, Said};
use crate::wire::id::{Node, Pid};
use crate::wire::message::{
    self, Ask, FRAGMENT_FIRST, FRAGMENT_LAST, Frame, FrameError, Kind, PARTIALS_MAX, TARGET_NAME,
    Told,
};

/// Which connection to a peer. Never given twice.
pub type PeerId = u64;

/// Most mailboxes of one peer that hold one process of ours and are counted.
const HOLDS_MAX: u32 = 10_000;
/// Longest header of an event that a peer sends: room is left to add a pid.
pub(super) const EVENT_HEAD_BYTES_MAX: usize = 4096;
/// What a frame may be longer than its body: address, header and framing.
const OVERHEAD_BYTES: usize = 128 * 1024;

/// What a peer said of itself in its hello.
#[derive(Clone, Debug)]
pub struct PeerHello {
    /// Who it is.
    pub node: Node,
    /// role, zone and whatever else.
    pub labels: BTreeMap<String, String>,
    /// Stays out of what peers tell each other.
    pub hidden: bool,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// The far end of this connection.
    pub address: SocketAddr,
}

/// One accepted connection to another node.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) node: Node,
    /// What counts: what it says, and beside that what is known.
    pub(super) labels: BTreeMap<String, String>,
    /// What its hello had and what sources know.
    pub(super) hinted: BTreeMap<String, String>,
    /// What it has said since; none for what it has taken back.
    pub(super) said: BTreeMap<String, Option<String>>,
    pub(super) hidden: bool,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) address: SocketAddr,
    /// Its nodeup is being told: it is in the list of nodes.
    pub(super) up: bool,
    /// Everybody has been told of it.
    pub(super) heard_of: bool,
    /// It is about to leave: it is given nothing that others can do.
    pub(super) draining: bool,
    /// (ours, theirs), one pair each.
    pub(super) links: BTreeSet<(u64, u64)>,
    /// Links that ours took back and it has not confirmed.
    pub(super) unlinking: BTreeSet<(u64, u64)>,
    /// Our monitors of its processes: reference -> our process.
    pub(super) monitors: BTreeMap<u64, u64>,
    /// Its monitors of our processes: reference -> our process.
    pub(super) watching: BTreeMap<u64, u64>,
    /// Our monitors of the node itself: (process, reference).
    pub(super) node_monitors: BTreeSet<(u64, u64)>,
    /// Our processes that its mailboxes hold.
    holds: BTreeMap<u64, Held>,
    /// How much of what this node announces it has been told, and whether it has told all of its own.
    pub(super) told: announced::Told,
    pub(super) announced: bool,
    /// What it announces: the length of each value.
    pub(super) entries: BTreeMap<Key, usize>,
    pub(super) entry_bytes: usize,
    /// Our calls of its processes that have not ended.
    pub(super) calls: BTreeSet<u64>,
    /// Its calls of our processes that have not ended: its number -> ours.
    pub(super) serving: BTreeMap<u64, u64>,
    /// Questions it has not answered.
    pub(super) asks: BTreeSet<u64>,
    /// Long messages of its processes that are not whole yet.
    partials: BTreeMap<u64, Partial>,
    /// Sessions that are not read because its lanes are full.
    pub(super) paused: BTreeSet<u64>,
    /// When they have waited long enough.
    pub(super) full_ends: Option<Instant>,
    /// They have: messages to it are dropped.
    pub(super) congested: bool,
    /// The name that its last message went to.
    heard: Option<Heard>,
    /// The topic that its last publication went to.
    pub(super) heard_topic: Option<Box<KnownTopic>>,
    /// How often its processes are present, the bytes of that, and, once it is lost, how far they are forgotten.
    pub(super) presences: usize,
    pub(super) presence_bytes: usize,
    pub(super) presences_gone: Option<Place>,
    /// Up to which change watchers are to be told before others hear of its coming, or of its end.
    pub(super) presences_told: u64,
    /// Presences of which it is to be told when its lane has room again, and whether it has heard of each before.
    pub(super) missed: BTreeMap<Own, bool>,
    /// How many topics it wants to hear, and, once it is lost, how far they are forgotten.
    pub(super) wants: usize,
    pub(super) wants_gone: u32,
    /// Publications of it that are on their way to many here: what it says next waits.
    pub(super) spreading: u32,
}

impl Peer {
    pub(super) fn has_many_links(&self) -> bool {
        self.links.len() + self.unlinking.len() >= OWNED_MAX
    }

    pub(super) fn has_many_monitors(&self) -> bool {
        self.monitors.len() >= OWNED_MAX
    }

    pub(super) fn watches_many(&self) -> bool {
        self.watching.len() >= OWNED_MAX
    }

    /// Why there can be no more of them.
    pub(super) fn owns_many(&self, what: &str) -> Failure {
        let text = format!("this node has {OWNED_MAX} {what} with {} already", self.node.name);
        Failure::new("overloaded", text)
    }

    /// Why a congested peer is told nothing that can be refused.
    pub(super) fn overloaded(&self) -> Failure {
        let node = self.node.name.to_string();
        Failure {
            code: "overloaded",
            message: format!(
                "{node} takes messages more slowly than they are sent; try again later"
            ),
            nodes: vec![node],
        }
    }
}

/// A process of ours that mailboxes of a peer hold.
#[derive(Debug)]
struct Held {
    times: u32,
    /// When that has been long enough, whatever the peer says.
    ends: Instant,
}

/// Where a name leads, for as long as nothing changes that addresses depend on.
#[derive(Debug)]
struct Heard {
    routes: u64,
    /// As the peer writes it, its length first.
    target: Box<[u8]>,
    serial: u64,
}

#[derive(Debug)]
struct Partial {
    bytes: Vec<u8>,
    whole: usize,
    /// Longer than allowed here: it is passed over.
    too_large: bool,
}

impl Router {
    /// The connection to a node of this name.
    pub(super) fn peer_named(&self, name: &str) -> Option<(PeerId, &Peer)> {
        let peer = *self.connected.get(name)?;
        self.peers.get(&peer).map(|state| (peer, state))
    }

    /// The connection to exactly this run of a node.
    pub(super) fn peer_of(&self, pid: &Pid) -> Option<(PeerId, &Peer)> {
        self.peer_named(pid.node.name.as_str())
            .filter(|(_, state)| state.node.incarnation == pid.node.incarnation)
    }

    pub(super) fn peer_mut<T>(&mut self, peer: PeerId, change: impl FnOnce(&mut Peer) -> T) {
        if let Some(state) = self.peers.get_mut(&peer) {
            change(state);
        }
    }

    /// A connection was accepted. Its nodeup follows the end of all earlier ones.
    pub fn on_peer_up(&mut self, now: Instant, peer: PeerId, hello: PeerHello, out: &mut Outbox) {
        out.open_peer(peer);
        self.peers.insert(
            peer,
            Peer {
                id: peer,
                node: hello.node,
                labels: hello.labels.clone(),
                hinted: hello.labels,
                said: BTreeMap::new(),
                hidden: hello.hidden,
                addresses: hello.addresses,
                address: hello.address,
                up: false,
                heard_of: false,
                draining: false,
                links: BTreeSet::new(),
                unlinking: BTreeSet::new(),
                monitors: BTreeMap::new(),
                watching: BTreeMap::new(),
                node_monitors: BTreeSet::new(),
                holds: BTreeMap::new(),
                told: announced::Told::default(),
                announced: false,
                entries: BTreeMap::new(),
                entry_bytes: 0,
                calls: BTreeSet::new(),
                serving: BTreeMap::new(),
                asks: BTreeSet::new(),
                partials: BTreeMap::new(),
                paused: BTreeSet::new(),
                full_ends: None,
                congested: false,
                heard: None,
                heard_topic: None,
                presences: 0,
                presence_bytes: 0,
                presences_gone: None,
                presences_told: 0,
                missed: BTreeMap::new(),
                wants: 0,
                wants_gone: 0,
                spreading: 0,
            },
        );
        self.work.push_back(Work::Announce { peer });
        self.run_work(now, out);
    }

    /// A peer has been told all that this node announces: what is sent to it from now on comes after that.
    pub(super) fn peer_reachable(&mut self, peer: PeerId) {
        if let Some(state) = self.peers.get(&peer) {
            self.connected.insert(state.node.name.clone(), peer);
            self.routes += 1;
        }
    }

    /// Whether what a peer says next has to wait: it has said all that it announces and its nodeup is still to be told, or
    /// something it has published is on its way to many here.
    #[must_use]
    pub fn is_waiting(&self, peer: PeerId) -> bool {
        let stalled = self.topics.stall.has_peer(peer);
        self.peers.get(&peer).is_some_and(|state| {
            (state.announced && !state.heard_of) || state.spreading > 0 || stalled
        })
    }

    /// A connection is gone: the only way in which a remote process dies without saying so, and this the only
    /// place that invents a `down`.
    pub fn on_peer_down(&mut self, now: Instant, peer: PeerId, reason: &str, out: &mut Outbox) {
        out.forget_peer(peer);
        let Some(mut state) = self.peers.remove(&peer) else { return };
        self.routes += 1;
        if self.connected.get(&state.node.name) == Some(&peer) {
            self.connected.remove(&state.node.name);
        }
        let paused = std::mem::take(&mut state.paused);
        self.unpause(paused, out);
        if let Some(ends) = state.full_ends.take() {
            self.agenda.remove(ends, Deadline::Congestion(peer));
        }
        self.presences_leave(&state);
        for partial in std::mem::take(&mut state.partials).into_values() {
            self.partial_bytes -= partial.bytes.len();
        }
        self.work.push_back(Work::PeerDown {
            peer: Box::new(state),
            reason: reason.into(),
            at: self.next,
            news: None,
        });
        self.run_work(now, out);
    }

    /// One entry of what a lost peer leaves behind. False when nothing is left.
    pub(super) fn peer_down_step(&mut self, peer: &mut Peer, out: &mut Outbox) -> bool {
        if self.forget_entry(peer, out)
            || self.forget_interest(peer)
            || self.forget_presence(peer, out)
        {
            return true;
        }
        if let Some(reference) = peer.calls.pop_first() {
            self.call_loses_peer(reference, peer.node.name.as_str(), out);
        } else if let Some((_, reference)) = peer.serving.pop_first() {
            self.cancel_served(reference, out);
        } else if let Some((ours, theirs)) = peer.links.pop_first() {
            let other = Pid { node: peer.node.clone(), serial: theirs };
            if self.processes.get_mut(&ours).is_some_and(|p| p.links.remove(&other)) {
                self.on_signal(ours, &other, "noconnection", true, out);
            }
        } else if let Some((ours, theirs)) = peer.unlinking.pop_first() {
            let other = Pid { node: peer.node.clone(), serial: theirs };
            if let Some(process) = self.processes.get_mut(&ours) {
                process.unlinking.remove(&other);
            }
        } else if let Some((reference, serial)) = peer.monitors.pop_first() {
            self.monitor_loses_peer(serial, reference, out);
        } else if let Some((reference, serial)) = peer.watching.pop_first() {
            if let Some(process) = self.processes.get_mut(&serial) {
                process.watchers.remove(&Watcher::Remote { peer: peer.id, reference });
            }
        } else if let Some((serial, held)) = peer.holds.pop_first() {
            self.agenda.remove(held.ends, Deadline::Held { peer: peer.id, serial });
            self.let_on(serial, held.times, out);
        } else if let Some(ask) = peer.asks.pop_first() {
            self.ask_fails(ask, &peer.node.name, out);
        } else {
            return false;
        }
        true
    }

    /// Whether a peer reads what its questions and mistakes are answered with.
    ///
    /// # Errors
    /// [`FrameError::Unread`]: the connection must be closed.
    pub fn may_hear(&self, peer: PeerId, out: &Outbox) -> Result<(), FrameError> {
        let waiting = out.peer_len(peer);
        if waiting
            > 2 * self.limits.queue_bytes.max(self.limits.peer_bytes + self.limits.body_bytes)
        {
            return Err(FrameError::Unread(waiting));
        }
        Ok(())
    }

    /// A frame from a peer about processes.
    ///
    /// # Errors
    /// [`FrameError`]: the connection must be closed; what came before the frame has been carried out.
    pub fn on_message(
        &mut self,
        now: Instant,
        peer: PeerId,
        frame: Frame<'_>,
        out: &mut Outbox,
    ) -> Result<(), FrameError> {
        if self.on_publish_again(now, peer, &frame, out) == Again::Done {
            return Ok(());
        }
        self.clock = Some(now);
        let Some(kind) = Kind::from_u8(frame.kind) else {
            return if Kind::is_skipped(frame.kind) {
                Ok(())
            } else {
                Err(FrameError::UnknownKind(frame.kind))
            };
        };
        let Some(state) = self.peers.get(&peer) else { return Ok(()) };
        let from = || Pid { node: state.node.clone(), serial: frame.serial };
        let mut payload = Payload(frame.payload);
        match kind {
            Kind::Send => {
                let by_name = frame.flags & TARGET_NAME != 0;
                let last = state.heard.as_ref().filter(|last| last.routes == self.routes);
                let known = last.filter(|_| by_name).and_then(|last| {
                    payload.0 = payload.0.strip_prefix(&*last.target)?;
                    Some(last.serial)
                });
                let serial = if known.is_some() {
                    known
                } else {
                    let before = payload.0;
                    let target =
                        payload.target(frame.flags).ok_or(FrameError::Malformed("send"))?;
                    let bytes = &before[..before.len() - payload.0.len()];
                    self.addressed(peer, target, bytes)
                };
                let (head, body) =
                    event::split_frame(payload.0).ok_or(FrameError::Malformed("send"))?;
                if !is_said(head, Said::Message) && !is_said(head, Said::Cast) {
                    return Err(FrameError::Malformed("send"));
                }
                if let Some(serial) = serial {
                    let lossy = frame.flags & message::SEND_LOSSY != 0 || frame.serial == 0;
                    let mode = if lossy { Mode::Lossy } else { Mode::Wait };
                    let origin = match Self::origin(mode, Holder::Remote(peer, frame.serial)) {
                        Origin::Lossy if frame.serial == 0 => Origin::Node,
                        origin => origin,
                    };
                    self.deliver(Some(now), serial, origin, Tag::Message, head, body, out);
                }
            }
            Kind::Publish => self.on_publish(now, peer, frame, None, out)?,
            Kind::Call => self.on_call(peer, frame, out)?,
            Kind::Rpc => self.on_rpc(peer, frame, out)?,
            Kind::State => self.on_entry(peer, frame.flags, frame.payload, out)?,
            Kind::Announced => self.on_announced(peer),
            Kind::Reply | Kind::Raise | Kind::Cancel | Kind::Took => {
                self.on_call_frame(now, peer, kind, frame, out)?;
            }
            Kind::Fragment => return self.on_fragment(now, peer, frame, out),
            Kind::Exit => {
                let from = from();
                let target = payload.serial().ok_or(FrameError::Malformed("exit"))?;
                let reason = payload.reason().ok_or(FrameError::Malformed("exit"))?;
                self.on_exit(peer, &from, target, reason, out);
            }
            Kind::Kill => {
                let from = from();
                let target = payload.target(frame.flags).ok_or(FrameError::Malformed("kill"))?;
                let reason = payload.reason().ok_or(FrameError::Malformed("kill"))?;
                let serial = match target {
                    There::Serial(serial) => Some(serial),
                    There::Name(name) => self.named(name),
                };
                let allowed = reason != "kill" || self.limits.remote == Remote::Full;
                if let (Some(serial), true) = (serial, allowed) {
                    self.on_signal(serial, &from, reason, false, out);
                }
            }
            Kind::Link => {
                let from = from();
                let target = payload.serial().ok_or(FrameError::Malformed("link"))?;
                self.on_link(peer, from, target, out);
            }
            Kind::Unlink | Kind::UnlinkAck => {
                let from = from();
                let target = payload.serial().ok_or(FrameError::Malformed("unlink"))?;
                let number = payload.serial().ok_or(FrameError::Malformed("unlink"))?;
                if kind == Kind::Unlink {
                    self.on_unlink(peer, &from, target, number, out);
                } else {
                    self.on_unlink_ack(peer, &from, target, number);
                }
            }
            Kind::Monitor => {
                let reference = payload.serial().ok_or(FrameError::Malformed("monitor"))?;
                let target = payload.target(frame.flags).ok_or(FrameError::Malformed("monitor"))?;
                self.on_monitor(peer, reference, target, out);
            }
            Kind::Demonitor => {
                let reference = payload.serial().ok_or(FrameError::Malformed("demonitor"))?;
                self.on_demonitor(peer, reference);
            }
            Kind::Down => {
                let reference = payload.serial().ok_or(FrameError::Malformed("down"))?;
                let reason = payload.reason().ok_or(FrameError::Malformed("down"))?;
                self.on_down(peer, frame.serial, reference, reason, out);
            }
            Kind::Hold | Kind::Go => {
                let serial = payload.serial().ok_or(FrameError::Malformed("hold"))?;
                self.on_hold(now, peer, kind == Kind::Hold, serial, out);
            }
            Kind::Ask => {
                let number = payload.serial().ok_or(FrameError::Malformed("ask"))?;
                match Ask::read(payload.0)? {
                    Some(ask) => self.on_ask(now, peer, number, ask, out),
                    None => self.unknown_ask(peer, number, out),
                }
            }
            Kind::Tell => {
                let number = payload.serial().ok_or(FrameError::Malformed("tell"))?;
                let told = Told::read(payload.0)?;
                self.on_tell(peer, number, told, out);
            }
            Kind::Hello | Kind::Accept | Kind::Refuse | Kind::Ready => {
                return Err(FrameError::Malformed("hello after accept"));
            }
            // The peer task's own business.
            Kind::Beat | Kind::Goodbye | Kind::Peers | Kind::Probe => {}
        }
        if !self.work.is_empty() {
            self.run_work(now, out);
        }
        Ok(())
    }

    /// Whom a message is for. A name is kept: most messages of a peer go where the last one went.
    fn addressed(&mut self, peer: PeerId, target: There<'_>, bytes: &[u8]) -> Option<u64> {
        match target {
            There::Serial(serial) => Some(serial),
            There::Name(name) => {
                let serial = self.named(name)?;
                let heard = Heard { routes: self.routes, target: bytes.into(), serial };
                self.peer_mut(peer, |state| state.heard = Some(heard));
                Some(serial)
            }
        }
    }

    fn on_fragment(
        &mut self,
        now: Instant,
        peer: PeerId,
        frame: Frame<'_>,
        out: &mut Outbox,
    ) -> Result<(), FrameError> {
        let wrong = || FrameError::Malformed("fragment");
        let limit = self.limits.body_bytes + OVERHEAD_BYTES;
        let Some(state) = self.peers.get_mut(&peer) else { return Ok(()) };
        let mut payload = Payload(frame.payload);
        if frame.flags & FRAGMENT_FIRST != 0 {
            let whole = payload.length().ok_or_else(wrong)? as usize;
            if state.partials.contains_key(&frame.serial) || state.partials.len() >= PARTIALS_MAX {
                return Err(wrong());
            }
            let partial = Partial { bytes: Vec::new(), whole, too_large: whole > limit };
            state.partials.insert(frame.serial, partial);
        }
        let partial = state.partials.get_mut(&frame.serial).ok_or_else(wrong)?;
        if partial.too_large {
            partial.whole = partial.whole.checked_sub(payload.0.len()).ok_or_else(wrong)?;
        } else {
            if partial.bytes.len() + payload.0.len() > partial.whole {
                return Err(wrong());
            }
            // It grows as it comes, and is not longer than it will be.
            let (length, room) = (partial.bytes.len(), partial.bytes.capacity());
            if room < length + payload.0.len() {
                let grown = (2 * room).max(length + payload.0.len()).min(partial.whole);
                partial.bytes.reserve_exact(grown - length);
            }
            partial.bytes.extend_from_slice(payload.0);
            self.partial_bytes += payload.0.len();
        }
        if frame.flags & FRAGMENT_LAST == 0 {
            return Ok(());
        }
        let partial = state.partials.remove(&frame.serial).ok_or_else(wrong)?;
        if partial.too_large {
            self.counters.too_large += 1;
            return Ok(());
        }
        self.partial_bytes -= partial.bytes.len();
        let (whole, used) = Frame::cut(&partial.bytes, partial.whole)?.ok_or_else(wrong)?;
        if used != partial.whole
            || whole.kind == Kind::Fragment as u8
            || whole.serial != frame.serial
        {
            return Err(wrong());
        }
        if whole.kind != Kind::Publish as u8 || whole.flags & !message::SEND_LOSSY != 0 {
            return self.on_message(now, peer, whole, out);
        }
        // All of its payload is the event: where it was gathered it stays.
        let event = partial.bytes.len() - whole.payload.len();
        let shared = Shared::new(partial.bytes, event, &out.shared);
        let Some((whole, _)) = Frame::cut(shared.for_peers(), used)? else { return Ok(()) };
        self.clock = Some(now);
        self.on_publish(now, peer, whole, Some(&shared), out)
    }

    /// A mailbox of a peer is full of what one of ours sends, or no longer.
    ///
    /// The peer lets go after its own send timeout. One that does not say so must not silence an app for ever: after twice
    /// our send timeout the process goes on.
    fn on_hold(&mut self, now: Instant, peer: PeerId, hold: bool, serial: u64, out: &mut Outbox) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if hold {
            if !self.processes.contains_key(&serial) {
                return;
            }
            let ends = now + 2 * self.limits.send_timeout;
            let held = state.holds.entry(serial).or_insert(Held { times: 0, ends });
            if held.times >= HOLDS_MAX {
                return;
            }
            held.times += 1;
            if held.times == 1 {
                self.agenda.add(ends, Deadline::Held { peer, serial });
            }
            self.held(serial);
            return;
        }
        let Some(held) = state.holds.get_mut(&serial) else { return };
        held.times -= 1;
        if held.times == 0 {
            self.agenda.remove(held.ends, Deadline::Held { peer, serial });
            state.holds.remove(&serial);
        }
        self.let_on(serial, 1, out);
    }

    pub(super) fn peer_holds_too_long(
        &mut self,
        now: Instant,
        peer: PeerId,
        serial: u64,
        out: &mut Outbox,
    ) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if state.holds.get(&serial).is_none_or(|held| held.ends > now) {
            return;
        }
        let held = state.holds.remove(&serial);
        self.let_on(serial, held.map_or(0, |held| held.times), out);
    }

    /// Puts a frame of the peer task's own into the lanes of a peer.
    pub fn on_control(&mut self, peer: PeerId, frame: &[u8], urgent: bool, out: &mut Outbox) {
        if urgent {
            out.write_urgent(peer, frame);
        } else {
            out.write_peer(peer, 0, frame.len(), |bytes| bytes.extend_from_slice(frame));
        }
    }
}

/// Whether the header of an event from a peer is that of what one of its processes says, and can be added to. Anything
/// else would be a word of this node to its app: an answer, a `down`, a `welcome`.
pub(super) fn is_said(head: &[u8], said: Said) -> bool {
    let Some((&first, rest)) = head.split_first() else { return false };
    let good = (0xa1..0xb5).contains(&first) && head.len() <= EVENT_HEAD_BYTES_MAX;
    let Some(rest) = rest.strip_prefix(said.ev()).filter(|_| good) else { return false };
    let mut reader = cbor::Reader::new(rest);
    for _ in 1..first - 0xa0 {
        match reader.text() {
            Ok("ev" | "id" | "pid" | "as" | "body" | "ref") | Err(_) => return false,
            Ok(_) if reader.skip().is_err() => return false,
            Ok(_) => {}
        }
    }
    reader.rest().is_empty()
}

/// What is left of the payload of a frame.
pub(super) struct Payload<'a>(pub(super) &'a [u8]);

impl<'a> Payload<'a> {
    pub(super) fn serial(&mut self) -> Option<u64> {
        let (chunk, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*chunk))
    }

    fn length(&mut self) -> Option<u32> {
        let (chunk, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*chunk))
    }

    /// u16 length and text.
    pub(super) fn text(&mut self) -> Option<&'a str> {
        let (chunk, rest) = self.0.split_first_chunk::<2>()?;
        let (text, rest) = rest.split_at_checked(u16::from_be_bytes(*chunk) as usize)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    pub(super) fn target(&mut self, flags: u8) -> Option<There<'a>> {
        if flags & TARGET_NAME == 0 {
            return self.serial().map(There::Serial);
        }
        self.text().map(There::Name)
    }

    fn reason(&mut self) -> Option<&'a str> {
        let mut reader = cbor::Reader::new(self.0);
        let text = reader.text().ok()?;
        self.0 = reader.rest();
        (!text.is_empty() && text.len() <= REASON_BYTES_MAX).then_some(text)
    }
}
