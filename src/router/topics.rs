//! Topics: who has subscribed, and what becomes of that.
//!
//! A subscription belongs to a process and delivers into its mailbox. The table of topics and patterns ([`table`]) has
//! one point for each text that anybody has subscribed to, with the processes here and the peers that have a subscriber
//! there; patterns are found through a [`trie`]. What this node is interested in it tells its peers ([`interest`]), so
//! that [`publish`] sends only where somebody listens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::mailbox::Tag;
use super::processes::Process;
use super::work::Work;
use super::{Asker, Failure, OWNED_MAX, Outbox, Router};
use crate::router::peers::PeerId;
use crate::wire::event;
use crate::wire::id::check_name;

pub mod counted;
pub(super) mod interest;
pub(super) mod publish;
pub(super) mod queues;
pub(super) mod retained;
mod stall;
pub(super) mod survey;
pub(super) mod table;
mod trie;

use table::{PointId, QueueId, Table, Text, check_topic};

/// Most subscriptions of one session.
const SUBSCRIPTIONS_MAX: usize = 1_000_000;
/// Most different topics and patterns with subscribers, here and at peers.
const POINTS_MAX: usize = 2_000_000;
/// Most queue groups at one topic or pattern, of one node.
const QUEUES_MAX: usize = 64;
/// Longest metadata of a subscription, in bytes.
const METADATA_BYTES_MAX: usize = 1024;

/// Everything about topics.
#[derive(Debug, Default)]
pub(super) struct Topics {
    table: Table,
    /// What a topic matches, while it is being published to.
    found: Vec<PointId>,
    /// The peers that have to hear it.
    peers: Vec<PeerId>,
    /// Last values that peers keep.
    retained: BTreeMap<Box<str>, BTreeMap<PeerId, Box<[u8]>>>,
    /// Last values that this node keeps: how many, and their bytes.
    kept: (usize, usize),
    /// Questions to several peers that have not all been answered.
    surveys: BTreeMap<u64, survey::Survey>,
    /// Bytes of what is being delivered in slices.
    pub(super) spread_bytes: usize,
    /// The same of the events that are told.
    pub(super) spread_events: usize,
    /// Whose publications are not read for now.
    pub(super) stall: stall::Stall,
    /// How much is published by topic; none where nobody asks.
    counted: Option<Box<counted::Counted>>,
}

impl Topics {
    /// So many topics are counted one by one.
    pub(super) fn new(counted: usize) -> Self {
        let counted = (counted > 0).then(|| Box::new(counted::Counted::new(counted)));
        Self { counted, ..Self::default() }
    }

    /// How many topics and patterns anybody wants to hear, or keep a last value.
    pub(super) fn points(&self) -> usize {
        self.table.len()
    }

    /// Finds out who is to hear what is published to a topic, unless that is known. What that cost, in entries.
    pub(super) fn look_up(&self, known: &mut publish::KnownTopic) -> usize {
        known.look_up(&self.table)
    }
}

/// What a process has subscribed to.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    points: BTreeSet<PointId>,
    /// Those in a queue group or with metadata.
    special: BTreeMap<PointId, Vec<Special>>,
    count: usize,
    queued: bool,
}

/// A subscription in a queue group or with metadata.
#[derive(Debug)]
struct Special {
    group: Option<Arc<str>>,
    metadata: Option<Box<[u8]>>,
}

/// What `subscribe` asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subscribe<'a> {
    pub(super) pid: Option<&'a str>,
    pub(super) topic: &'a str,
    pub(super) group: Option<&'a str>,
    /// One item of CBOR.
    pub(super) metadata: Option<&'a [u8]>,
    pub(super) sync: bool,
    pub(super) dedupe: bool,
}

impl Router {
    pub(super) fn subscribe<'a>(
        &mut self,
        asker: &mut Asker<'a>,
        topic: &'a str,
        wanted: Subscribe<'_>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        asker.to = topic;
        let serial = self.actor(asker.session, wanted.pid)?;
        let kind = check_topic(wanted.topic).map_err(Failure::badarg)?;
        if let Some(group) = wanted.group {
            check_name(group).map_err(Failure::badarg)?;
        }
        if wanted.metadata.is_some_and(|metadata| metadata.len() > METADATA_BYTES_MAX) {
            let text =
                format!("`metadata` of a subscription has at most {METADATA_BYTES_MAX} bytes");
            return Err(Failure::badarg(text));
        }
        if self.processes.get(&serial).is_some_and(|process| process.kv.is_some()) {
            return Err(Failure::badarg(
                "a key-value process hears no messages, so it cannot subscribe",
            ));
        }
        if wanted.sync {
            self.may_survey()?;
        }
        let fresh = !wanted.dedupe || !self.has_subscribed(serial, kind, wanted);
        let mut point = None;
        if fresh {
            self.has_room_for_subscription(asker, serial, kind, wanted)?;
            point = Some(self.add_subscription(serial, kind, wanted, out));
            if let Some(session) = self.sessions.get_mut(&asker.session) {
                session.subscriptions += 1;
            }
        }
        if wanted.sync && asker.id.is_some() {
            self.sync(asker, out);
        } else {
            Self::done(asker, out);
        }
        if let (Some(point), None) = (point, wanted.group) {
            self.give_retained(asker.session, serial, point, kind, wanted.topic, out);
        }
        Ok(())
    }

    /// Whether a process has subscribed in the same way already.
    fn has_subscribed(&self, serial: u64, kind: Text, wanted: Subscribe<'_>) -> bool {
        let point = self.topics.table.find(wanted.topic, kind);
        point.and_then(|point| self.topics.table.get(point)).is_some_and(|point| {
            let members = match wanted.group {
                Some(group) => point.queue(group).map(|queue| &queue.here),
                None => Some(&point.here),
            };
            members.is_some_and(|members| members.times_of(serial) > 0)
        })
    }

    fn has_room_for_subscription(
        &self,
        asker: &Asker<'_>,
        serial: u64,
        kind: Text,
        wanted: Subscribe<'_>,
    ) -> Result<(), Failure> {
        let topic = wanted.topic;
        let many = |text: String| Err(Failure::new("overloaded", text));
        let process = self.processes.get(&serial).and_then(|process| process.topics.as_ref());
        if process.is_some_and(|topics| topics.count >= OWNED_MAX) {
            return many(format!("a process has at most {OWNED_MAX} subscriptions; unsubscribe"));
        }
        let session = self.sessions.get(&asker.session);
        if session.is_some_and(|session| session.subscriptions >= SUBSCRIPTIONS_MAX) {
            return many(format!(
                "a session has at most {SUBSCRIPTIONS_MAX} subscriptions; unsubscribe, or open another one"
            ));
        }
        let table = &self.topics.table;
        let queues = || table.get(table.find(topic, kind)?)?.queues.as_ref();
        if let (Some(group), Some(queues)) = (wanted.group, queues())
            && queues.values().filter(|queue| !queue.here.is_empty()).count() >= QUEUES_MAX
            && queues.get(group).is_none_or(|queue| queue.here.is_empty())
        {
            return many(format!(
                "`{topic}` has {QUEUES_MAX} queue groups on this node, and more are not possible"
            ));
        }
        if table.len() >= POINTS_MAX && table.find(topic, kind).is_none() {
            return many(format!(
                "the mesh has subscribed to {POINTS_MAX} different topics; use wildcards"
            ));
        }
        Ok(())
    }

    fn add_subscription(
        &mut self,
        serial: u64,
        kind: Text,
        wanted: Subscribe<'_>,
        out: &mut Outbox,
    ) -> PointId {
        let table = &mut self.topics.table;
        let point = table.find_or_add(wanted.topic, kind);
        let (mut first, mut group) = (false, None);
        match wanted.group {
            Some(name) => {
                if let Some(queue) = table.queue_mut(point, name) {
                    first = queue.here.is_empty();
                    queue.here.add(serial);
                    let id = queue.id;
                    group = table.queue_group(id);
                }
            }
            None => {
                if let Some(point) = table.get_mut(point) {
                    first = point.here.is_empty();
                    point.here.add(serial);
                }
            }
        }
        if let Some(process) = self.processes.get_mut(&serial) {
            let topics = process.topics.get_or_insert_default();
            topics.points.insert(point);
            topics.count += 1;
            topics.queued |= group.is_some();
            if group.is_some() || wanted.metadata.is_some() {
                let metadata = wanted.metadata.map(Into::into);
                topics.special.entry(point).or_default().push(Special { group, metadata });
            }
        }
        if first {
            self.announce_interest(point, wanted.group, true, out);
        }
        point
    }

    /// All subscriptions of a process to a topic, and what waits in its mailbox because of them.
    pub(super) fn unsubscribe<'a>(
        &mut self,
        asker: &mut Asker<'a>,
        pid: Option<&str>,
        topic: &'a str,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        asker.to = topic;
        let serial = self.actor(asker.session, pid)?;
        let kind = check_topic(topic).map_err(Failure::badarg)?;
        if let Some(point) = self.topics.table.find(topic, kind) {
            self.take_back_topic(serial, point, out);
        }
        Self::done(asker, out);
        Ok(())
    }

    fn take_back_topic(&mut self, serial: u64, point: PointId, out: &mut Outbox) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let Some(topics) = &mut process.topics else { return };
        if !topics.points.remove(&point) {
            return;
        }
        let special = topics.special.remove(&point).unwrap_or_default();
        if topics.special.is_empty() {
            topics.queued = false;
        }
        let groups: BTreeSet<Arc<str>> = special.into_iter().filter_map(|one| one.group).collect();
        let table = &self.topics.table;
        let queues: Vec<QueueId> = groups
            .iter()
            .filter_map(|group| table.get(point)?.queue(group))
            .map(|queue| queue.id)
            .collect();
        // What others of a queue group may still take goes to them, once this one is no member any more.
        let mut left = Vec::new();
        let before = process.mailbox.bytes();
        if process.mailbox.messages() > 0 {
            out.count(process.mailbox.len());
            process.mailbox.remove(|tag, frame| match tag {
                Tag::Topic(of) => of == point,
                Tag::Queue(of) if queues.contains(&of) => {
                    if let Some(group) = table.queue_group(of) {
                        left.push((group, Box::from(frame)));
                    }
                    true
                }
                _ => false,
            });
        }
        self.mailbox_bytes -= before - process.mailbox.bytes();
        let gone = self.leave_point(serial, point, &groups, out);
        if let Some(process) = self.processes.get_mut(&serial) {
            if let Some(topics) = &mut process.topics {
                topics.count = topics.count.saturating_sub(gone);
                if topics.points.is_empty() {
                    process.topics = None;
                }
            }
            if let Some(session) = self.sessions.get_mut(&process.session) {
                session.subscriptions = session.subscriptions.saturating_sub(gone);
            }
        }
        self.weigh(serial);
        self.mailbox_shrank(serial, out);
        if !left.is_empty() {
            self.work.push_back(Work::Redeliver { left });
        }
    }

    /// A process is no subscriber of a point any more. How many subscriptions it had.
    fn leave_point(
        &mut self,
        serial: u64,
        point: PointId,
        groups: &BTreeSet<Arc<str>>,
        out: &mut Outbox,
    ) -> usize {
        let mut gone = 0;
        for group in groups {
            let Some(queue) = self.topics.table.queue_mut(point, group) else { continue };
            gone += queue.here.remove(serial);
            if queue.here.is_empty() {
                self.announce_interest(point, Some(group), false, out);
            }
            self.topics.table.tidy_queue(point, group);
        }
        if let Some(state) = self.topics.table.get_mut(point) {
            let times = state.here.remove(serial);
            gone += times;
            if times > 0 && state.here.is_empty() {
                self.announce_interest(point, None, false, out);
            }
        }
        self.topics.table.tidy(point);
        gone as usize
    }

    /// A process that has died leaves one of its topics; before that, what it had not taken of a queue group goes to
    /// others, one at a time. False when nothing is left.
    pub(super) fn dead_unsubscribes(
        &mut self,
        serial: u64,
        process: &mut Process,
        out: &mut Outbox,
    ) -> bool {
        let Some(topics) = &mut process.topics else { return false };
        if topics.queued
            && let Some((tag, frame)) = process.mailbox.front()
        {
            match tag {
                Tag::Queue(queue) => {
                    if let Some(group) = self.topics.table.queue_group(queue) {
                        let frame = frame.to_vec();
                        self.redeliver(&group, &frame, out);
                    }
                }
                Tag::Down(reference) => {
                    self.refs.remove(&reference);
                }
                _ => {}
            }
            process.mailbox.pop();
            return true;
        }
        let Some(point) = topics.points.pop_first() else {
            process.topics = None;
            return true;
        };
        let special = topics.special.remove(&point).unwrap_or_default();
        let groups = special.into_iter().filter_map(|one| one.group).collect();
        let gone = self.leave_point(serial, point, &groups, out);
        if let Some(session) = self.sessions.get_mut(&process.session) {
            session.subscriptions = session.subscriptions.saturating_sub(gone);
        }
        true
    }

    /// Hands what somebody did not take to another member of the queue group here, or counts it as lost.
    pub(super) fn redeliver(&mut self, group: &str, frame: &[u8], out: &mut Outbox) {
        let Some((head, body)) = event::split_frame(frame) else { return };
        let Some(topic) = event::topic_of(head) else { return };
        let mut points = Vec::new();
        out.count(self.topics.table.collect(topic, &mut points));
        let Some((member, queue)) = self.pick_member(&points, group, None) else {
            self.counters.no_member += 1;
            return;
        };
        let mut head = head.to_vec();
        event::put_redelivered(&mut head);
        let origin = super::deliver::Origin::Lossy;
        self.deliver(self.clock, member, origin, Tag::Queue(queue), &head, body, out);
    }
}

#[cfg(test)]
impl Router {
    /// How many topics and patterns somebody is known to have subscribed to.
    pub(super) fn topics_kept(&self) -> usize {
        self.topics.table.len()
    }
}
