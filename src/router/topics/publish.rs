//! The way of a published message: to each peer that has a subscriber once, to each subscription here.
//!
//! The header is written once, by the publisher's node, and the frame that crosses to a peer holds the event as its
//! subscribers read it. A message for more subscriptions than one hold of the lock may handle goes on in slices; until
//! all have it nothing more is read of its publisher's session, or of the peer that it came from, so that nothing of
//! the publisher overtakes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::counted::From;
use super::table::{PointId, Table, Text, check_topic};
use crate::router::again::Again;
use crate::router::deliver::{Event, Holder, Origin};
use crate::router::mailbox::Tag;
use crate::router::peers::{Payload, Peer, PeerId, is_said};
use crate::router::sessions::SessionId;
use crate::router::shared::{Shared, Sum};
use crate::router::work::Work;
use crate::router::{Asker, Failure, Limits, Map, Outbox, Router, SLICE, answer};
use crate::wire::command::{Exclude, Mode, Reach};
use crate::wire::event::{self, Head, Said};
use crate::wire::id::Pid;
use crate::wire::message::{self, FRAGMENT_BYTES, Frame, FrameError, Kind};

/// Most queue groups that one frame names.
const GROUPS_MAX: usize = 255;

/// What `publish` asks for.
#[derive(Clone, Copy, Debug)]
pub(in crate::router) struct Publish<'a> {
    pub(in crate::router) pid: Option<&'a str>,
    pub(in crate::router) topic: &'a str,
    pub(in crate::router) reach: Reach<'a>,
    pub(in crate::router) exclude: Exclude<'a>,
    pub(in crate::router) mode: Mode,
    pub(in crate::router) report: bool,
    pub(in crate::router) retain: bool,
}

/// What a topic led to the last time, for as long as nothing changes that it depends on.
#[derive(Debug, Default)]
pub(in crate::router) struct KnownTopic {
    /// The header of the event.
    head: Vec<u8>,
    /// All of the frame for a peer that comes before the body, and where the event begins in it.
    lead: Vec<u8>,
    event: usize,
    topic: String,
    changes: Option<u64>,
    points: Vec<PointId>,
    /// There is a queue group, or there are more subscriptions than half of what one hold of the lock may handle: what
    /// follows is found out for each message.
    each: bool,
    /// The peers with subscribers.
    peers: Vec<PeerId>,
    /// All of them have been told what this node announces, and none was congested: what changes that makes whoever
    /// publishes here start anew.
    settled: bool,
    /// The processes here that have subscribed, and how often.
    here: Vec<(u64, PointId, u32)>,
    /// The sum of how often.
    subscriptions: usize,
}

impl KnownTopic {
    /// Turns to another topic, or to the same with another header.
    pub(in crate::router) fn turn(&mut self, head: &[u8], topic: &str) {
        self.changes = None;
        self.head.clear();
        self.head.extend_from_slice(head);
        self.topic.clear();
        self.topic.push_str(topic);
    }

    /// The same for what a process here publishes.
    pub(in crate::router) fn turn_here(&mut self, head: &[u8], topic: &str, serial: u64) {
        self.turn(head, topic);
        self.lead.clear();
        message::start(&mut self.lead, Kind::Publish, 0, serial);
        self.event = self.lead.len();
        event::put_frame(&mut self.lead, head, &[]);
    }

    /// Sends a message to the peers that have to hear it. False when one of them takes none now; then none has it.
    pub(in crate::router) fn send(
        &mut self,
        own: u64,
        (body, shared): (&[u8], Option<&Shared>),
        peers: &Map<PeerId, Peer>,
        limits: &Limits,
        out: &mut Outbox,
    ) -> bool {
        if !self.settled {
            let settled = |state: &Peer| !state.congested && state.told.is_all();
            self.settled = self.peers.iter().all(|peer| peers.get(peer).is_some_and(settled));
            if !self.settled {
                return false;
            }
        }
        let (limit, size) = (limits.peer_bytes, self.lead.len() + body.len());
        let write = |bytes: &mut Vec<u8>| {
            let at = bytes.len();
            bytes.reserve(size);
            bytes.extend_from_slice(&self.lead);
            bytes.extend_from_slice(body);
            message::finish(bytes, at);
            message::finish(bytes, at + self.event);
        };
        if let [peer] = *self.peers
            && out.write_peer_within(peer, size, limit, write)
        {
            return true;
        }
        if self.peers.iter().any(|peer| out.peer_len(*peer) >= limit) {
            return false;
        }
        out.count(self.peers.len());
        for peer in &self.peers {
            match shared {
                Some(shared) => out.share_peer(*peer, own, shared),
                None => out.write_peer(*peer, own, size, write),
            }
        }
        true
    }

    /// The message as one piece of memory for all, where it is large enough for that and not for a single one.
    pub(in crate::router) fn share(&self, body: &[u8], out: &Outbox) -> Option<Shared> {
        let small = body.len() < FRAGMENT_BYTES;
        // Short frames are copied for peers.
        let several = self.subscriptions + if small { 0 } else { self.peers.len() } > 1;
        if !out.shares(body.len()) || small && !several {
            return None;
        }
        let mut bytes = Vec::with_capacity(self.lead.len() + body.len());
        bytes.extend_from_slice(&self.lead);
        bytes.extend_from_slice(body);
        message::finish(&mut bytes, 0);
        message::finish(&mut bytes, self.event);
        Some(Shared::new(bytes, self.event, &out.shared))
    }

    /// The topic.
    pub(in crate::router) fn topic(&self) -> &str {
        &self.topic
    }

    /// How many subscriptions there are here, unless they have to be found out for each message.
    pub(in crate::router) fn subscriptions(&self) -> Option<usize> {
        (!self.each).then_some(self.subscriptions)
    }

    /// The event with a body, as its subscribers read it.
    pub(in crate::router) fn put_event(&self, body: &[u8], out: &mut Vec<u8>) {
        event::put_frame(out, &self.head, body);
    }

    /// Finds out who is to hear it, unless that is known. What that cost, in entries of a hold of the lock.
    pub(super) fn look_up(&mut self, table: &Table) -> usize {
        if self.changes == Some(table.changes()) {
            return 0;
        }
        self.changes = Some(table.changes());
        let cost = table.collect(&self.topic, &mut self.points);
        (self.each, self.settled, self.subscriptions) = (false, false, 0);
        self.peers.clear();
        self.here.clear();
        let points = self.points.iter().filter_map(|point| Some((*point, table.get(*point)?)));
        for (id, point) in points {
            self.subscriptions += point.here.subscriptions() as usize;
            if point.queues.is_some() || self.subscriptions > SLICE / 2 {
                self.each = true;
                return cost;
            }
            self.peers.extend_from_slice(&point.there);
            let here = point.here.iter().map(|member| (member.serial, id, member.times));
            self.here.extend(here);
        }
        if self.points.len() > 1 {
            self.peers.sort_unstable();
            self.peers.dedup();
        }
        cost
    }
}

/// What is not read until those have been told whom it has something to say to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::router) enum Gate {
    Session(SessionId),
    Peer(PeerId),
}

/// A message on its way to subscribers here.
#[derive(Clone, Copy, Debug)]
struct Passed<'a> {
    now: Instant,
    origin: Origin,
    exclude: Option<u64>,
    event: Event<'a>,
    gate: Gate,
}

/// A message for more subscriptions than one hold of the lock may handle.
#[derive(Debug)]
pub(in crate::router) struct Fanout {
    /// Who has subscribed when it was published: process, topic, how often. The last ones have it already.
    targets: Vec<(u64, PointId, u32)>,
    /// What the points are: their numbers may be given anew meanwhile.
    points: BTreeMap<PointId, Arc<str>>,
    /// What that takes.
    bytes: usize,
    origin: Origin,
    event: Shared,
    gate: Gate,
}

/// A message on its way to peers.
#[derive(Clone, Copy, Debug)]
struct Sent<'a> {
    now: Instant,
    from: (SessionId, u64),
    mode: Mode,
    exclude: Option<&'a Pid>,
    only: Option<PeerId>,
    head: &'a [u8],
    body: &'a [u8],
    /// The frame, where the same one goes to all.
    shared: Option<&'a Shared>,
}

impl Router {
    #[allow(clippy::too_many_arguments, reason = "a command, its content type and its body")]
    pub(in crate::router) fn publish<'a>(
        &mut self,
        asker: &mut Asker<'a>,
        wanted: Publish<'a>,
        ct: Option<&str>,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        asker.to = wanted.topic;
        let serial = self.actor(asker.session, wanted.pid)?;
        self.body_fits(body)?;
        if check_topic(wanted.topic).map_err(Failure::badarg)? == Text::Pattern {
            let text = format!(
                "`{}` has a wildcard, which is for `subscribe`; publish to one topic",
                wanted.topic
            );
            return Err(Failure::badarg(text));
        }
        let exclude = match wanted.exclude {
            Exclude::Nobody => None,
            Exclude::Publisher => Some(self.pid(serial)),
            Exclude::Pid(text) => Some(text.parse::<Pid>().map_err(Failure::badarg)?),
        };
        let (near, far) = match wanted.reach {
            Reach::All => (true, Some(None)),
            Reach::Local => (true, None),
            Reach::Node(name) => match self.node_to_reach(name)? {
                None => (true, None),
                Some(peer) => (false, Some(Some(peer))),
            },
        };
        let spread = self.topics.spread_bytes + self.topics.spread_events;
        if spread > self.limits.queue_bytes / 2 {
            let text = "so many publications are on their way to many subscribers that there is no room for another; try again later";
            return Err(Failure::new("overloaded", text));
        }
        let mut head = std::mem::take(&mut self.scratch);
        head.clear();
        event::put_topic_head(&mut head, wanted.topic, &self.prefix, serial, ct);
        let mut done = Ok((0, 0));
        if wanted.retain {
            done = self.retain(asker.now, wanted.topic, &head, body, out).map(|()| (0, 0));
        }
        let mut failure = None;
        if done.is_ok() {
            self.topics.published(wanted.topic, From::Here);
            let mut points = std::mem::take(&mut self.topics.found);
            out.count(self.topics.table.collect(wanted.topic, &mut points));
            let here = exclude.as_ref().filter(|pid| pid.node == self.me).map(|pid| pid.serial);
            let large = out.shares(body.len());
            let lossy = wanted.mode == Mode::Lossy;
            let shared = large.then(|| publication(serial, lossy, &head, body, out));
            let sent = Sent {
                now: asker.now,
                from: (asker.session, serial),
                mode: wanted.mode,
                exclude: exclude.as_ref(),
                only: far.flatten(),
                head: &head,
                body,
                shared: shared.as_ref(),
            };
            let passed = Passed {
                now: asker.now,
                origin: Self::origin(wanted.mode, Holder::Local(serial)),
                exclude: here,
                event: shared.as_ref().map_or(Event::Parts(&head, body), Event::Shared),
                gate: Gate::Session(asker.session),
            };
            let reached = self.pass_around(sent, passed, &points, near, far.is_some(), out);
            let subscriptions = usize::try_from(reached.1).unwrap_or(usize::MAX);
            self.stall(asker.now, Gate::Session(asker.session), subscriptions, out);
            done = Ok((reached.0, reached.1));
            failure = reached.2;
            self.topics.found = points;
        }
        self.scratch = head;
        let (nodes, local) = done?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        if let Some(id) = asker.id {
            let head = Head::ok(id);
            let head =
                if wanted.report { head.uint("nodes", nodes).uint("local", local) } else { head };
            answer(out, asker.session, &head, &[]);
        }
        Ok(())
    }

    /// None for this node.
    fn node_to_reach(&self, name: &str) -> Result<Option<PeerId>, Failure> {
        let name = self.full_name(name)?;
        if name == self.me.name {
            return Ok(None);
        }
        match self.peer_named(name.as_str()) {
            Some((peer, _)) => Ok(Some(peer)),
            None => Err(crate::router::questions::no_connection(&name)),
        }
    }

    /// A finished event to every subscription here that is known.
    pub(in crate::router) fn fan_out_known(
        &mut self,
        now: Instant,
        origin: Origin,
        known: &KnownTopic,
        exclude: Option<u64>,
        event: Event<'_>,
        out: &mut Outbox,
    ) {
        for (serial, point, times) in &known.here {
            if exclude == Some(*serial) {
                continue;
            }
            for _ in 0..*times {
                out.count(1);
                self.deliver_event(Some(now), *serial, origin, Tag::Topic(*point), event, out);
            }
        }
    }

    /// What a process of a peer publishes when it is the same topic and process as the last time, told once more.
    pub fn on_publish_again(
        &mut self,
        now: Instant,
        peer: PeerId,
        frame: &Frame<'_>,
        out: &mut Outbox,
    ) -> Again {
        if frame.kind != Kind::Publish as u8 || frame.flags != 0 || frame.serial == 0 {
            return Again::No;
        }
        let Some(state) = self.peers.get_mut(&peer) else { return Again::No };
        if !state.announced
            || !state.heard_of
            || state.spreading > 0
            || self.topics.stall.has_peer(peer)
        {
            return Again::No;
        }
        let Some(known) = &mut state.heard_topic else { return Again::No };
        let head = event::split_frame(frame.payload).map(|(head, _)| head);
        if head != Some(&known.head) || known.topic.is_empty() {
            return Again::No;
        }
        out.count(known.look_up(&self.topics.table));
        if known.each {
            return Again::No;
        }
        if known.subscriptions > out.left() {
            return if out.put_off(known.subscriptions) { Again::PutOff } else { Again::No };
        }
        self.clock = Some(now);
        self.topics.published(&known.topic, From::There);
        out.count(1);
        let origin = Origin::Process(Holder::Remote(peer, frame.serial));
        if let [(serial, point, 1)] = *known.here {
            out.count(1);
            let event = Event::Frame(frame.payload);
            self.deliver_event(Some(now), serial, origin, Tag::Topic(point), event, out);
            return Again::Done;
        }
        let Some(known) = state.heard_topic.take() else { return Again::No };
        let shared = (known.subscriptions > 1 && out.shares(frame.payload.len()))
            .then(|| Shared::new(frame.payload.to_vec(), 0, &out.shared));
        let event = shared.as_ref().map_or(Event::Frame(frame.payload), Event::Shared);
        self.fan_out_known(now, origin, &known, None, event, out);
        let subscriptions = known.subscriptions;
        self.peer_mut(peer, |state| state.heard_topic = Some(known));
        self.stall(now, Gate::Peer(peer), subscriptions, out);
        Again::Done
    }

    /// To peers and to processes here: how many nodes, how many subscriptions here, and what could not be told.
    fn pass_around(
        &mut self,
        sent: Sent<'_>,
        passed: Passed<'_>,
        points: &[PointId],
        near: bool,
        far: bool,
        out: &mut Outbox,
    ) -> (u64, u64, Option<Failure>) {
        let table = &self.topics.table;
        let queued =
            points.iter().any(|point| table.get(*point).is_some_and(|p| p.queues.is_some()));
        let picked = if queued {
            let may = |peer| far && sent.only.is_none_or(|only| only == peer);
            self.pick(points, passed.exclude, near, may, out)
        } else {
            super::queues::Picked::default()
        };
        let (mut nodes, mut failure) = (0, None);
        if far {
            (nodes, failure) = self.send_around(sent, points, &picked.there, out);
        }
        let mut local = 0;
        for (serial, queue) in picked.here {
            out.count(1);
            local += 1;
            let Passed { now, origin, event, .. } = passed;
            self.deliver_event(Some(now), serial, origin, Tag::Queue(queue), event, out);
        }
        if near {
            local += self.fan_out(passed, points, out);
        }
        (nodes, local, failure)
    }

    /// Whether a peer has been told all that this node announces: nothing else is sent to it before.
    pub(super) fn is_reachable(&self, peer: PeerId) -> bool {
        self.peers.get(&peer).is_some_and(|state| state.told.is_all())
    }

    /// One frame to each peer that has to hear it.
    fn send_around(
        &mut self,
        sent: Sent<'_>,
        points: &[PointId],
        queues: &BTreeMap<PeerId, Vec<Arc<str>>>,
        out: &mut Outbox,
    ) -> (u64, Option<Failure>) {
        let mut peers = std::mem::take(&mut self.topics.peers);
        peers.clear();
        for point in points {
            if let Some(point) = self.topics.table.get(*point) {
                peers.extend(
                    point.there.iter().filter(|peer| sent.only.is_none_or(|only| only == **peer)),
                );
            }
        }
        if points.len() > 1 {
            peers.sort_unstable();
            peers.dedup();
        }
        let plain = peers.len();
        peers.extend(
            queues
                .keys()
                .filter(|peer| !peers[..plain].contains(peer))
                .copied()
                .collect::<Vec<_>>(),
        );
        let (mut nodes, mut failure) = (0, None);
        for (place, peer) in peers.iter().enumerate() {
            if !self.is_reachable(*peer) {
                continue;
            }
            match self.admit(sent.now, *peer, Some(sent.from), sent.mode, out) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(full) => {
                    Failure::gather(&mut failure, full);
                    continue;
                }
            }
            out.count(1);
            nodes += 1;
            let groups = queues.get(peer).map(Vec::as_slice).unwrap_or_default();
            let exclude = sent
                .exclude
                .filter(|pid| self.peers.get(peer).is_some_and(|state| state.node == pid.node));
            let (first, more) = groups.split_at(groups.len().min(GROUPS_MAX));
            write_publish(*peer, sent, exclude, place < plain, first, out);
            for groups in more.chunks(GROUPS_MAX) {
                write_publish(*peer, sent, exclude, false, groups, out);
            }
        }
        self.topics.peers = peers;
        (nodes, failure)
    }

    /// To every subscription here. How many there are.
    fn fan_out(&mut self, passed: Passed<'_>, points: &[PointId], out: &mut Outbox) -> u64 {
        let table = &self.topics.table;
        let subscriptions =
            |point: &PointId| table.get(*point).map_or(0, |point| point.here.subscriptions());
        let total: usize = points.iter().map(|point| subscriptions(point) as usize).sum();
        if total == 0 {
            return 0;
        }
        if total > out.left() {
            return self.fan_out_later(passed, points, &out.shared);
        }
        let mut local = 0;
        for point in points {
            let mut place = 0;
            while let Some(member) =
                self.topics.table.get(*point).and_then(|point| point.here.at(place))
            {
                place += 1;
                if passed.exclude == Some(member.serial) {
                    continue;
                }
                for _ in 0..member.times {
                    out.count(1);
                    local += 1;
                    let Passed { now, origin, event, .. } = passed;
                    let tag = Tag::Topic(*point);
                    self.deliver_event(Some(now), member.serial, origin, tag, event, out);
                }
            }
        }
        local
    }

    /// In slices, to those who have subscribed by now.
    fn fan_out_later(&mut self, passed: Passed<'_>, points: &[PointId], sum: &Sum) -> u64 {
        let (mut targets, mut texts) = (Vec::new(), BTreeMap::new());
        for point in points {
            let Some(state) = self.topics.table.get(*point) else { continue };
            texts.insert(*point, Arc::clone(&state.text));
            targets.extend(
                state
                    .here
                    .iter()
                    .filter(|member| passed.exclude != Some(member.serial))
                    .map(|member| (member.serial, *point, member.times)),
            );
        }
        let local = targets.iter().map(|target| u64::from(target.2)).sum();
        let each = size_of::<(u64, PointId, u32)>();
        let bytes = targets.len() * each;
        let event = passed.event.share(sum);
        self.topics.spread_bytes += bytes;
        self.topics.spread_events += event.frame().len();
        self.shut(passed.gate);
        self.work.push_back(Work::Fanout(Fanout {
            targets,
            points: texts,
            bytes,
            origin: passed.origin,
            event,
            gate: passed.gate,
        }));
        local
    }

    /// Some of those; what is left comes back.
    pub(in crate::router) fn fan_out_on(
        &mut self,
        now: Instant,
        mut fanout: Fanout,
        out: &mut Outbox,
    ) -> Option<Fanout> {
        while let Some((serial, point, times)) = fanout.targets.pop() {
            if !out.may_go_on() {
                fanout.targets.push((serial, point, times));
                return Some(fanout);
            }
            out.count(1);
            // Who has unsubscribed meanwhile gets nothing more.
            let state = self.topics.table.get(point).filter(|state| {
                fanout.points.get(&point).is_some_and(|text| Arc::ptr_eq(text, &state.text))
            });
            let left = state.map_or(0, |state| state.here.times_of(serial));
            if left > 0 {
                let event = Event::Shared(&fanout.event);
                let tag = Tag::Topic(point);
                self.deliver_event(Some(now), serial, fanout.origin, tag, event, out);
            }
            if left > 0 && times > 1 {
                fanout.targets.push((serial, point, times - 1));
            }
        }
        self.topics.spread_bytes -= fanout.bytes;
        self.topics.spread_events -= fanout.event.frame().len();
        self.stall(now, fanout.gate, usize::MAX, out);
        self.open(fanout.gate, out);
        None
    }

    /// What it says next is not read.
    pub(in crate::router) fn shut(&mut self, gate: Gate) {
        match gate {
            Gate::Session(session) => {
                if let Some(session) = self.sessions.get_mut(&session) {
                    session.listings += 1;
                }
            }
            Gate::Peer(peer) => self.peer_mut(peer, |state| state.spreading += 1),
        }
    }

    /// It is read again.
    pub(in crate::router) fn open(&mut self, gate: Gate, out: &mut Outbox) {
        match gate {
            Gate::Session(id) => {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.listings = session.listings.saturating_sub(1);
                    out.resumed.push(id);
                }
            }
            Gate::Peer(peer) => {
                self.peer_mut(peer, |state| state.spreading = state.spreading.saturating_sub(1));
                out.peers_on.push(peer);
            }
        }
    }

    /// A process of a peer has published something; `whole` is the event's frame, where that lies in memory of its own.
    pub(in crate::router) fn on_publish(
        &mut self,
        now: Instant,
        peer: PeerId,
        frame: Frame<'_>,
        whole: Option<&Shared>,
        out: &mut Outbox,
    ) -> Result<(), FrameError> {
        let wrong = || FrameError::Malformed("publish");
        let mut payload = Payload(frame.payload);
        let mut exclude = None;
        if frame.flags & message::PUBLISH_EXCLUDE != 0 {
            exclude = Some(payload.serial().ok_or_else(wrong)?);
        }
        let mut groups = Vec::new();
        if frame.flags & message::PUBLISH_QUEUES != 0 {
            let (count, rest) = payload.0.split_first().ok_or_else(wrong)?;
            payload.0 = rest;
            for _ in 0..*count {
                groups.push(payload.text().ok_or_else(wrong)?);
            }
        }
        let (head, _) = event::split_frame(payload.0).ok_or_else(wrong)?;
        let shared = (whole.is_none() && out.shares(payload.0.len()))
            .then(|| Shared::new(payload.0.to_vec(), 0, &out.shared));
        let event = whole.or(shared.as_ref()).map_or(Event::Frame(payload.0), Event::Shared);
        let Some(state) = self.peers.get_mut(&peer) else { return Ok(()) };
        let mut known = state.heard_topic.take().unwrap_or_default();
        if *known.head != *head || known.topic.is_empty() {
            let topic = event::topic_of(head).filter(|_| is_said(head, Said::Message));
            known.turn(head, topic.ok_or_else(wrong)?);
        }
        self.topics.published(&known.topic, From::There);
        out.count(known.look_up(&self.topics.table));
        let lossy = frame.flags & message::SEND_LOSSY != 0 || frame.serial == 0;
        let mode = if lossy { Mode::Lossy } else { Mode::Wait };
        let origin = Self::origin(mode, Holder::Remote(peer, frame.serial));
        for group in groups {
            match self.pick_member(&known.points, group, exclude) {
                Some((serial, queue)) => {
                    out.count(1);
                    self.deliver_event(Some(now), serial, origin, Tag::Queue(queue), event, out);
                }
                // The last one here left while it was under way.
                None => self.counters.no_member += 1,
            }
        }
        if frame.flags & message::PUBLISH_QUEUES_ONLY != 0 {
            // Nobody else has subscribed.
        } else if !known.each && known.subscriptions <= out.left() {
            self.fan_out_known(now, origin, &known, exclude, event, out);
        } else {
            let gate = Gate::Peer(peer);
            let passed = Passed { now, origin, exclude, event, gate };
            self.fan_out(passed, &known.points, out);
        }
        let subscriptions = known.subscriptions;
        self.peer_mut(peer, |state| state.heard_topic = Some(known));
        self.stall(now, Gate::Peer(peer), subscriptions, out);
        Ok(())
    }

    /// What a process here has published to several has been delivered.
    pub(in crate::router) fn stall_session(
        &mut self,
        now: Instant,
        session: SessionId,
        subscriptions: usize,
        out: &Outbox,
    ) {
        self.stall(now, Gate::Session(session), subscriptions, out);
    }
}

/// What a process publishes, as one piece of memory for all who get it.
fn publication(serial: u64, lossy: bool, head: &[u8], body: &[u8], out: &Outbox) -> Shared {
    let flags = if lossy { message::SEND_LOSSY } else { 0 };
    let mut bytes = Vec::with_capacity(64 + head.len() + body.len());
    let at = message::start(&mut bytes, Kind::Publish, flags, serial);
    let event = bytes.len();
    event::put_frame(&mut bytes, head, body);
    message::finish(&mut bytes, at);
    Shared::new(bytes, event, &out.shared)
}

fn write_publish(
    peer: PeerId,
    sent: Sent<'_>,
    exclude: Option<&Pid>,
    plain: bool,
    groups: &[Arc<str>],
    out: &mut Outbox,
) {
    let Sent { from: (_, serial), head, body, .. } = sent;
    if let Some(shared) = sent.shared
        && plain
        && exclude.is_none()
        && groups.is_empty()
    {
        return out.share_peer(peer, serial, shared);
    }
    let flags = if sent.mode == Mode::Lossy { message::SEND_LOSSY } else { 0 }
        | if exclude.is_some() { message::PUBLISH_EXCLUDE } else { 0 }
        | if groups.is_empty() { 0 } else { message::PUBLISH_QUEUES }
        | if plain { 0 } else { message::PUBLISH_QUEUES_ONLY };
    let size =
        64 + head.len() + body.len() + groups.iter().map(|group| group.len() + 2).sum::<usize>();
    out.write_peer(peer, serial, size, |bytes| {
        let at = message::start(bytes, Kind::Publish, flags, serial);
        if let Some(pid) = exclude {
            bytes.extend_from_slice(&pid.serial.to_be_bytes());
        }
        if !groups.is_empty() {
            bytes.push(u8::try_from(groups.len()).unwrap_or(u8::MAX));
            for group in groups {
                bytes.extend_from_slice(&u16::try_from(group.len()).unwrap_or(0).to_be_bytes());
                bytes.extend_from_slice(group.as_bytes());
            }
        }
        event::put_frame(bytes, head, body);
        message::finish(bytes, at);
    });
}
