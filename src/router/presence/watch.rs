//! Who watches presence: what there is now, then every change, and nothing lies between.
//!
//! Both are told in slices, however many watch and however many are present. A change is noted for its topic and gets a
//! number; what is noted goes to one watcher after the other, several changes in one event. A watcher that is still
//! being told what there is remembers how far it has come and at which number, so that it is told exactly those changes
//! that it has not seen: not those of places that are still to come, nor those that were in what it has been told.
//!
//! Changes are told in the order of their numbers, those of one topic ahead of it together. Who has to wait for some of
//! them, the death of a process or the nodeup of a peer, waits for those up to a number and never for later ones.
//!
//! Whoever causes more changes than the watchers are told is not read until they have been: nothing piles up here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use super::{Entry, Place};
use crate::router::deliver::Origin;
use crate::router::groups::Member;
use crate::router::mailbox::Tag;
use crate::router::monitors::Monitored;
use crate::router::topics::publish::Gate;
use crate::router::work::Work;
use crate::router::{Asker, Failure, Outbox, Router, answer};
use crate::wire::cbor;
use crate::wire::event::Head;
use crate::wire::id::{Node, Pid};

/// Most processes here that watch one topic.
const WATCHERS_MAX: usize = 100_000;
/// Most presences that one event tells of, and about how many bytes of them: some are in its header, which has 64 KiB.
const TOLD_MAX: usize = 128;
const TOLD_BYTES_MAX: usize = 16 * 1024;
/// Changes of so many bytes that watchers have not been told: who caused them is not read meanwhile.
const BEHIND_BYTES_MAX: usize = 256 * 1024;
/// A watcher that leaves so many bytes unread is told no more of what there is until it has read half of them.
const UNREAD_BYTES_MAX: usize = 512 * 1024;
/// What a change takes beside what is told of it, in bytes.
const CHANGE_BYTES: usize = 128;
/// An array of nothing.
const NOTHING: &[u8] = &[0x80];

/// Every topic that is watched.
#[derive(Debug, Default)]
pub(super) struct Watches {
    topics: BTreeMap<Arc<str>, Watched>,
    /// The number of the last change.
    last: u64,
    /// Topics with changes that are still to be told, by the number of the first of them.
    behind: BTreeMap<u64, Arc<str>>,
    /// Bytes of these changes.
    bytes: usize,
    /// [`Work::Presence`] is among the work.
    telling: bool,
    /// Watchers that have to read before they are told more: (process, reference).
    waiting: BTreeSet<(u64, u64)>,
    /// Who is not read until all watchers have been told.
    shut: Vec<Gate>,
}

/// A topic that is watched.
#[derive(Debug, Default)]
struct Watched {
    /// By reference.
    watchers: BTreeMap<u64, Watcher>,
    changes: VecDeque<Change>,
    telling: Option<Telling>,
}

#[derive(Debug)]
struct Watcher {
    serial: u64,
    /// How far it was told what there is, and the number of the last change at that time. Empty once it knows all.
    told: Vec<(Option<Place>, u64)>,
    /// It has been told all that there was.
    whole: bool,
}

impl Watcher {
    /// Whether a change is news for it.
    fn hears(&self, change: &Change) -> bool {
        let covers = |until: &Option<Place>| until.as_ref().is_none_or(|u| change.place <= *u);
        match self.told.get(self.told.partition_point(|(until, _)| !covers(until))) {
            Some((_, number)) => change.number > *number,
            None => self.whole,
        }
    }
}

#[derive(Debug)]
struct Change {
    number: u64,
    place: Place,
    /// What was known of it, and what is now: rows of a list, empty where there is none.
    leave: Vec<u8>,
    join: Vec<u8>,
}

impl Change {
    fn bytes(&self) -> usize {
        CHANGE_BYTES + self.leave.len() + self.join.len()
    }
}

/// Changes on their way to the watchers, one after the other.
#[derive(Debug)]
struct Telling {
    changes: Vec<Change>,
    leaves: Vec<u8>,
    joins: Vec<u8>,
    bytes: usize,
    /// The last watcher that was told.
    after: u64,
}

/// `{key, pid, ref, prev?, metadata?}`: what is told of one presence.
pub(super) fn row(node: &Node, place: &Place, entry: &Entry, previous: Option<u64>) -> Vec<u8> {
    let (Member::Here(serial) | Member::There(_, serial)) = place.who;
    let pid = Pid { node: node.clone(), serial }.to_string();
    let mut row = Vec::with_capacity(40 + place.key.len() + pid.len() + entry.metadata.len());
    let more = usize::from(previous.is_some()) + usize::from(!entry.metadata.is_empty());
    cbor::put_map(&mut row, 3 + more);
    cbor::put_text(&mut row, "key");
    cbor::put_text(&mut row, &place.key);
    cbor::put_text(&mut row, "pid");
    cbor::put_text(&mut row, &pid);
    cbor::put_text(&mut row, "ref");
    cbor::put_uint(&mut row, entry.reference);
    if let Some(previous) = previous {
        cbor::put_text(&mut row, "prev");
        cbor::put_uint(&mut row, previous);
    }
    if !entry.metadata.is_empty() {
        cbor::put_text(&mut row, "metadata");
        row.extend_from_slice(&entry.metadata);
    }
    row
}

/// Rows as one array.
fn rows<'a>(rows: impl Iterator<Item = &'a [u8]> + Clone) -> Vec<u8> {
    let some = rows.filter(|row| !row.is_empty());
    let mut list = Vec::new();
    cbor::put_array(&mut list, some.clone().count());
    some.for_each(|row| list.extend_from_slice(row));
    list
}

fn leaves(changes: &[&Change]) -> Vec<u8> {
    rows(changes.iter().map(|change| &*change.leave))
}

fn joins(changes: &[&Change]) -> Vec<u8> {
    rows(changes.iter().map(|change| &*change.join))
}

/// The header of the event; its body is `joins`, or `leaves` where nobody joins.
fn head(reference: u64, topic: &str, leaves: &[u8], joins: &[u8], more: bool) -> (Head, bool) {
    let mut head = Head::event("presence").uint("ref", reference).text("topic", topic);
    if more {
        head = head.bool("more", true);
    }
    if joins == NOTHING && leaves != NOTHING {
        return (head.raw("joins", joins).carries("leaves"), false);
    }
    (head.raw("leaves", leaves).carries("joins"), true)
}

impl Watches {
    /// Something has changed. True when it is the first thing of which watchers have to be told.
    pub(super) fn note(
        &mut self,
        node: &Node,
        place: &Place,
        old: Option<&Entry>,
        new: Option<&Entry>,
    ) -> bool {
        let Some(watched) = self.topics.get_mut(&place.topic) else { return false };
        if old.is_none() && new.is_none() {
            return false;
        }
        self.last += 1;
        if watched.changes.is_empty() && watched.telling.is_none() {
            self.behind.insert(self.last, Arc::clone(&place.topic));
        }
        let leave = old.map(|old| row(node, place, old, None)).unwrap_or_default();
        let previous = old.map(|old| old.reference);
        let join = new.map(|new| row(node, place, new, previous)).unwrap_or_default();
        let change = Change { number: self.last, place: place.clone(), leave, join };
        self.bytes += change.bytes();
        watched.changes.push_back(change);
        !std::mem::replace(&mut self.telling, true)
    }

    /// How many topics are watched, and how much waits for those who watch.
    #[cfg(test)]
    pub(super) fn kept(&self) -> [usize; 2] {
        let waiting = self.bytes + self.waiting.len() + self.shut.len() + self.behind.len();
        [self.topics.len(), waiting]
    }
}

impl Watched {
    /// Takes some changes to be told together, if there are any.
    fn begin(&mut self) {
        let (mut some, mut bytes, mut shown) = (Vec::new(), 0, 0);
        while let Some(change) = self.changes.front() {
            let size = change.leave.len() + change.join.len();
            // What changes twice is told twice: an event says one thing of each.
            let again = some.iter().any(|told: &Change| told.place == change.place);
            let full = some.len() >= TOLD_MAX || shown + size > TOLD_BYTES_MAX;
            if !some.is_empty() && (again || full) {
                break;
            }
            shown += size;
            bytes += change.bytes();
            some.extend(self.changes.pop_front());
        }
        if some.is_empty() {
            return;
        }
        let all: Vec<&Change> = some.iter().collect();
        let (leaves, joins) = (leaves(&all), joins(&all));
        self.telling = Some(Telling { changes: some, leaves, joins, bytes, after: 0 });
    }
}

impl Router {
    pub(in crate::router) fn monitor_presence<'a>(
        &mut self,
        asker: &mut Asker<'a>,
        pid: Option<&str>,
        topic: &'a str,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        asker.to = topic;
        let serial = self.actor(asker.session, pid)?;
        super::check_one_topic(topic)?;
        self.owns_few(serial)?;
        let topics = &mut self.presences.watches.topics;
        if topics.get(topic).is_some_and(|watched| watched.watchers.len() >= WATCHERS_MAX) {
            let text =
                format!("{WATCHERS_MAX} processes here watch the presence of {topic} already");
            return Err(Failure::new("overloaded", text));
        }
        let reference = self.number();
        let topics = &mut self.presences.watches.topics;
        let watcher = Watcher { serial, told: Vec::new(), whole: false };
        let name: Arc<str> = topic.into();
        topics.entry(Arc::clone(&name)).or_default().watchers.insert(reference, watcher);
        if let Some(process) = self.processes.get_mut(&serial) {
            process.monitors.insert(reference, Monitored::Presence(topic.into()));
            self.refs.insert(reference, serial);
        }
        if let Some(id) = asker.id {
            answer(out, asker.session, &Head::ok(id).uint("ref", reference), &[]);
        }
        self.work.push_back(Work::Present { topic: name, reference });
        Ok(())
    }

    pub(in crate::router) fn forget_presence_monitor(
        &mut self,
        topic: &str,
        serial: u64,
        reference: u64,
    ) {
        let watches = &mut self.presences.watches;
        watches.waiting.remove(&(serial, reference));
        let Some(watched) = watches.topics.get_mut(topic) else { return };
        watched.watchers.remove(&reference);
        if watched.watchers.is_empty()
            && let Some(watched) = watches.topics.remove(topic)
        {
            let changes: usize = watched.changes.iter().map(Change::bytes).sum();
            watches.bytes -= changes + watched.telling.map_or(0, |telling| telling.bytes);
        }
    }

    /// Tells a watcher more of what there is. False when it has been told all, or has to read first.
    pub(in crate::router) fn tell_present(
        &mut self,
        topic: &Arc<str>,
        reference: u64,
        out: &mut Outbox,
    ) -> bool {
        let watches = &mut self.presences.watches;
        let Some(watched) = watches.topics.get(topic) else { return false };
        let Some(watcher) = watched.watchers.get(&reference).filter(|watcher| !watcher.whole)
        else {
            return false;
        };
        let (serial, number) = (watcher.serial, watches.last);
        if self.processes.get(&serial).is_some_and(|p| p.mailbox.signal_bytes() > UNREAD_BYTES_MAX)
        {
            watches.waiting.insert((serial, reference));
            return false;
        }
        let mut after = watcher.told.last().and_then(|(until, _)| until.clone());
        let (mut list, mut bytes) = (Vec::new(), 0);
        let mut next = self.next_presence(topic, "", after.as_ref(), true, out);
        while list.len() < TOLD_MAX
            && bytes < TOLD_BYTES_MAX
            && let Some((place, row)) = next
        {
            out.count(1);
            bytes += row.len();
            list.push(row);
            next = self.next_presence(topic, "", Some(&place), true, out);
            after = Some(place);
        }
        let more = next.is_some();
        if let Some(watched) = self.presences.watches.topics.get_mut(topic)
            && let Some(watcher) = watched.watchers.get_mut(&reference)
        {
            watcher.told.push((if more { after } else { None }, number));
            watcher.whole = !more;
            if watcher.whole && watched.changes.is_empty() && watched.telling.is_none() {
                // All changes that there will be are news for it.
                watcher.told = Vec::new();
            }
        }
        let joins = rows(list.iter().map(|row| &**row));
        let (head, _) = head(reference, topic, NOTHING, &joins, more);
        let tag = Tag::Presence(reference);
        self.deliver(None, serial, Origin::Node, tag, head.bytes(), &joins, out);
        more
    }

    /// A watcher has read: it is told more of what there is.
    pub(in crate::router) fn watcher_reads(&mut self, serial: u64) {
        let watches = &mut self.presences.watches;
        if watches.waiting.is_empty() {
            return;
        }
        let Some(process) = self.processes.get(&serial) else { return };
        if process.mailbox.signal_bytes() > UNREAD_BYTES_MAX / 2 {
            return;
        }
        while let Some(&(owner, reference)) = watches.waiting.range((serial, 0)..).next()
            && owner == serial
        {
            watches.waiting.remove(&(serial, reference));
            if let Some(Monitored::Presence(topic)) = process.monitors.get(&reference) {
                self.work.push_back(Work::Present { topic: topic.clone().into(), reference });
            }
        }
    }

    /// Whether the watchers are to be told before anything else changes.
    pub(super) fn is_behind(&self) -> bool {
        self.presences.watches.bytes > BEHIND_BYTES_MAX
    }

    /// Who has caused more changes than the watchers were told is not read until they have been.
    pub(super) fn shut_if_behind(&mut self, gate: Gate) {
        if self.is_behind() {
            self.shut(gate);
            self.presences.watches.shut.push(gate);
        }
    }

    /// The number of the last change.
    pub(in crate::router) fn last_change(&self) -> u64 {
        self.presences.watches.last
    }

    /// Tells the next watcher what has changed. False when all have been told everything up to this number.
    pub(in crate::router) fn tell_presence(&mut self, until: u64, out: &mut Outbox) -> bool {
        let watches = &mut self.presences.watches;
        let first = watches.behind.first_key_value();
        let Some((&number, topic)) = first.filter(|(number, _)| **number <= until) else {
            return false;
        };
        let topic = Arc::clone(topic);
        let Some(watched) = watches.topics.get_mut(&topic) else {
            watches.behind.remove(&number);
            self.open_gates(out);
            return true;
        };
        if watched.telling.is_none() {
            watched.begin();
        }
        let Some(telling) = &mut watched.telling else {
            watches.behind.remove(&number);
            return true;
        };
        let rest = (Excluded(telling.after), Unbounded);
        let Some((&reference, watcher)) = watched.watchers.range_mut(rest).next() else {
            watches.bytes -= telling.bytes;
            watched.telling = None;
            watches.behind.remove(&number);
            if let Some(next) = watched.changes.front() {
                watches.behind.insert(next.number, topic);
            }
            self.open_gates(out);
            return true;
        };
        telling.after = reference;
        let first = telling.changes.first().map_or(0, |change| change.number);
        if watcher.whole && watcher.told.iter().all(|(_, number)| *number < first) {
            watcher.told = Vec::new();
        }
        let (mut fewer, serial) = (None, watcher.serial);
        if !(watcher.whole && watcher.told.is_empty()) {
            let some: Vec<&Change> =
                telling.changes.iter().filter(|change| watcher.hears(change)).collect();
            if some.is_empty() {
                return true;
            }
            fewer = Some((leaves(&some), joins(&some)));
        }
        let (leaves, joins) = match &fewer {
            Some((leaves, joins)) => (leaves, joins),
            None => (&telling.leaves, &telling.joins),
        };
        let (head, joined) = head(reference, &topic, leaves, joins, !watcher.whole);
        let body = if joined { joins } else { leaves }.clone();
        let tag = Tag::Presence(reference);
        self.deliver(None, serial, Origin::Node, tag, head.bytes(), &body, out);
        true
    }

    /// Those who were not read while the watchers were told go on.
    fn open_gates(&mut self, out: &mut Outbox) {
        while self.presences.watches.bytes <= BEHIND_BYTES_MAX / 2 && out.may_go_on() {
            let Some(gate) = self.presences.watches.shut.pop() else { return };
            out.count(1);
            self.open(gate, out);
        }
    }

    /// What had changed when it began has been told; what has changed meanwhile is told after what has come up meanwhile.
    pub(in crate::router) fn presence_told(&mut self, out: &mut Outbox) {
        self.open_gates(out);
        let watches = &mut self.presences.watches;
        let may_open = watches.bytes <= BEHIND_BYTES_MAX / 2 && !watches.shut.is_empty();
        watches.telling = !watches.behind.is_empty() || may_open;
        if watches.telling {
            self.work.push_back(Work::Presence { until: None });
        }
    }
}
