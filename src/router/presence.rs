//! Presence: which processes are present under which topic and key, as `Phoenix.Presence` has it.
//!
//! A process that is tracked is present until it is untracked or dies, however it dies. Each node announces its own; so
//! every node knows all of it, a list asks nobody, and a lost node takes its processes along. What is known of a presence
//! has a version, the number that its owner gave it: `ref`, which only goes up.
//!
//! All of it is in one ordered table. Who watches a topic is told of it by [`watch`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

use super::announced::{Class, Told, write_entry};
use super::groups::Member;
use super::listings::Listed;
use super::peers::{Peer, PeerId};
use super::sessions::SessionId;
use super::topics::publish::Gate;
use super::topics::table::{Text, check_topic};
use super::work::Work;
use super::{Asker, Failure, KeptId, Map, Outbox, Router, answer};
use crate::wire::cbor;
use crate::wire::command::Tracked;
use crate::wire::event::Head;
use crate::wire::id::Node;

pub(super) mod watch;

/// How often one process may be present.
const TRACKED_MAX: usize = 10_000;
/// The same of all processes of a node, and most bytes of their topics, keys and metadata.
const HERE_MAX: usize = 200_000;
const HERE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The same of what one peer announces: more, so that a later version may have other bounds.
const THERE_MAX: usize = 1_000_000;
const THERE_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Longest metadata, in bytes of CBOR.
const METADATA_BYTES_MAX: usize = 4096;
/// Longest key, in bytes.
const KEY_BYTES_MAX: usize = 255;
/// How many presences are looked at for one entry of a slice.
const LOOKED: usize = 64;

/// Where a process is present: one entry of the table. All of a topic lie together, and of them all of a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    topic: Arc<str>,
    key: Arc<str>,
    who: Member,
}

impl Place {
    /// Before every place of a topic whose key begins like this.
    fn first(topic: Arc<str>, prefix: &str) -> Self {
        Self { topic, key: prefix.into(), who: Member::Here(0) }
    }

    /// Whether this is its key.
    pub(super) fn is_under(&self, key: &str) -> bool {
        *self.key == *key
    }

    fn bytes(&self, entry: &Entry) -> usize {
        self.topic.len() + self.key.len() + entry.metadata.len()
    }
}

/// What is known of a presence.
#[derive(Debug)]
struct Entry {
    /// Its version.
    reference: u64,
    /// One item of CBOR, or nothing.
    metadata: Box<[u8]>,
}

/// A presence of a process here: process, topic, key.
pub(super) type Own = (u64, Arc<str>, Arc<str>);

/// Who is present where.
#[derive(Debug, Default)]
pub(super) struct Presences {
    entries: BTreeMap<Place, Entry>,
    /// Those of processes here, by process; how many each has, and the bytes of them all.
    here: BTreeSet<Own>,
    counts: Map<u64, u32>,
    here_bytes: usize,
    /// Processes that have died and were present: up to which change watchers are to be told before others hear of it.
    dead: BTreeMap<u64, u64>,
    /// Peers that are lost while some of theirs are still known.
    lost: BTreeMap<PeerId, Node>,
    watches: watch::Watches,
}

impl Presences {
    /// The place of a process, which shares its topic with others there.
    fn place(&self, topic: &str, key: &str, who: Member) -> Place {
        let first = Place::first(topic.into(), "");
        let near = self.entries.range((Included(&first), Unbounded)).next();
        let topic = match near {
            Some((near, _)) if *near.topic == *topic => Arc::clone(&near.topic),
            _ => first.topic,
        };
        Place { topic, key: key.into(), who }
    }

    /// Whether a process here is present anywhere.
    pub(super) fn has(&self, serial: u64) -> bool {
        self.counts.contains_key(&serial)
    }

    /// Some presence of a process here; of this topic, if one is named.
    fn some_of(&self, serial: u64, topic: Option<&Arc<str>>) -> Option<Place> {
        let from = (serial, topic.cloned().unwrap_or_default(), Arc::default());
        let (owner, found, key) = self.here.range((Included(&from), Unbounded)).next()?;
        let good = *owner == serial && topic.is_none_or(|topic| topic == found);
        good.then(|| Place {
            topic: Arc::clone(found),
            key: Arc::clone(key),
            who: Member::Here(serial),
        })
    }
}

/// Presences of a process that go one after the other.
#[derive(Debug)]
pub(super) struct Untracking {
    session: SessionId,
    id: Option<KeptId>,
    serial: u64,
    topic: Option<Arc<str>>,
}

/// One topic, not a pattern.
fn check_one_topic(topic: &str) -> Result<(), Failure> {
    if check_topic(topic).map_err(Failure::badarg)? == Text::Pattern {
        let text = format!("`{topic}` has a wildcard; presence is about one topic");
        return Err(Failure::badarg(text));
    }
    Ok(())
}

fn check_key(key: &str) -> Result<(), String> {
    if (1..=KEY_BYTES_MAX).contains(&key.len()) && !key.chars().any(char::is_control) {
        return Ok(());
    }
    let shown: String = key.chars().take(80).collect();
    Err(format!("`{shown}` is no key: 1 to {KEY_BYTES_MAX} bytes without control characters"))
}

/// Whether it is one item, and none so deep that it could not be shown in a list.
fn is_metadata(item: &[u8]) -> bool {
    item.len() <= METADATA_BYTES_MAX && cbor::is_one_item(&[&[0x81, 0x81], item].concat())
}

/// u64 serial of the process, u8 length and topic, key.
fn wire_key(serial: u64, topic: &str, key: &str) -> Box<[u8]> {
    let length = u8::try_from(topic.len()).unwrap_or(0);
    [&serial.to_be_bytes()[..], &[length], topic.as_bytes(), key.as_bytes()].concat().into()
}

/// u64 version, metadata.
fn wire_value(entry: &Entry) -> Vec<u8> {
    [&entry.reference.to_be_bytes()[..], &entry.metadata].concat()
}

impl Router {
    /// Whose presence a command is about.
    fn tracked(
        &self,
        asker: &Asker<'_>,
        wanted: &Tracked<'_>,
    ) -> Result<(Place, Box<[u8]>), Failure> {
        let serial = self.actor(asker.session, wanted.pid)?;
        check_one_topic(wanted.topic)?;
        check_key(wanted.key).map_err(Failure::badarg)?;
        let metadata = wanted.metadata.map(|metadata| metadata.item()).unwrap_or_default();
        if metadata.len() > METADATA_BYTES_MAX {
            let text = format!(
                "`metadata` of a presence has at most {METADATA_BYTES_MAX} bytes of CBOR; this has {}",
                metadata.len()
            );
            return Err(Failure::new("too_large", text));
        }
        if !metadata.is_empty() && !is_metadata(&metadata) {
            return Err(Failure::badarg("`metadata` is nested too deeply"));
        }
        let place = self.presences.place(wanted.topic, wanted.key, Member::Here(serial));
        Ok((place, metadata.into()))
    }

    /// A process becomes present.
    pub(super) fn track<'a>(
        &mut self,
        asker: &mut Asker<'a>,
        wanted: &Tracked<'a>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        asker.to = wanted.topic;
        let (place, metadata) = self.tracked(asker, wanted)?;
        if self.presences.entries.contains_key(&place) {
            let text = format!(
                "the process is tracked under `{}` of {} already; `update_presence` changes what is known of it",
                place.key, place.topic
            );
            return Err(Failure::new("taken", text));
        }
        let Member::Here(serial) = place.who else { return Ok(()) };
        if self.presences.counts.get(&serial).is_some_and(|count| *count as usize >= TRACKED_MAX) {
            let text = format!("a process is tracked {TRACKED_MAX} times at most; untrack it");
            return Err(Failure::new("overloaded", text));
        }
        if self.presences.here.len() >= HERE_MAX {
            let text =
                format!("processes of this node are tracked {HERE_MAX} times, and no more can be");
            return Err(Failure::new("overloaded", text));
        }
        self.present_anew(asker, place, metadata, out)
    }

    /// What is known of a presence changes.
    pub(super) fn update_presence<'a>(
        &mut self,
        asker: &mut Asker<'a>,
        wanted: &Tracked<'a>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        asker.to = wanted.topic;
        let (place, metadata) = self.tracked(asker, wanted)?;
        if !self.presences.entries.contains_key(&place) {
            let text = format!(
                "the process is not tracked under `{}` of {}; `track` it",
                place.key, place.topic
            );
            return Err(Failure::new("not_found", text));
        }
        self.present_anew(asker, place, metadata, out)
    }

    fn present_anew(
        &mut self,
        asker: &Asker<'_>,
        place: Place,
        metadata: Box<[u8]>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let entry = Entry { reference: self.number(), metadata };
        let old = self.presences.entries.get(&place).map_or(0, |old| place.bytes(old));
        if self.presences.here_bytes - old + place.bytes(&entry) > HERE_BYTES_MAX {
            let text = format!(
                "what processes of this node are tracked with has {HERE_BYTES_MAX} bytes at most"
            );
            return Err(Failure::new("overloaded", text));
        }
        let reference = entry.reference;
        self.set_here(place, Some(entry), out);
        self.shut_if_behind(Gate::Session(asker.session));
        if let Some(id) = asker.id {
            answer(out, asker.session, &Head::ok(id).uint("ref", reference), &[]);
        }
        Ok(())
    }

    /// A process is present no more: under one key, under one topic, or anywhere.
    pub(super) fn untrack<'a>(
        &mut self,
        asker: &mut Asker<'a>,
        pid: Option<&str>,
        topic: Option<&'a str>,
        key: Option<&str>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        asker.to = topic.unwrap_or("");
        let serial = self.actor(asker.session, pid)?;
        if let Some(topic) = topic {
            check_one_topic(topic)?;
        }
        if let (Some(topic), Some(key)) = (topic, key) {
            check_key(key).map_err(Failure::badarg)?;
            let place = self.presences.place(topic, key, Member::Here(serial));
            self.set_here(place, None, out);
            self.shut_if_behind(Gate::Session(asker.session));
            Self::done(asker, out);
            return Ok(());
        }
        if let Some(session) = self.sessions.get_mut(&asker.session) {
            session.listings += 1;
        }
        let (session, id) = (asker.session, asker.id.map(KeptId::keep));
        let untracking = Untracking { session, id, serial, topic: topic.map(Into::into) };
        self.work.push_back(Work::Untrack(untracking));
        Ok(())
    }

    pub(super) fn untrack_on(&mut self, all: Untracking, out: &mut Outbox) -> Option<Untracking> {
        while out.may_go_on() {
            out.count(1);
            if self.is_behind() && self.tell_presence(u64::MAX, out) {
                continue;
            }
            if let Some(place) = self.presences.some_of(all.serial, all.topic.as_ref()) {
                self.set_here(place, None, out);
                continue;
            }
            if let Some(id) = &all.id {
                answer(out, all.session, &Head::ok(id.id()), &[]);
            }
            if let Some(session) = self.sessions.get_mut(&all.session) {
                session.listings = session.listings.saturating_sub(1);
                out.resumed.push(all.session);
            }
            return None;
        }
        Some(all)
    }

    /// A process that has died is present in one place less, and those who watch are told. False when nothing is left.
    pub(super) fn dead_untracks(&mut self, serial: u64, out: &mut Outbox) -> bool {
        if let Some(place) = self.presences.some_of(serial, None) {
            if self.is_behind() && self.tell_presence(u64::MAX, out) {
                return true;
            }
            self.set_here(place, None, out);
            if !self.presences.has(serial) {
                self.presences.dead.insert(serial, self.last_change());
            }
            return true;
        }
        // Who watches the process too hears first that it is not present.
        let Some(until) = self.presences.dead.get(&serial).copied() else { return false };
        let more = self.tell_presence(until, out);
        if !more {
            self.presences.dead.remove(&serial);
        }
        more
    }

    /// Sets or takes back a presence of a process here, and announces that.
    fn set_here(&mut self, place: Place, entry: Option<Entry>, out: &mut Outbox) {
        let Member::Here(serial) = place.who else { return };
        let old = self.presences.entries.get(&place).map(|old| place.bytes(old));
        if old.is_none() && entry.is_none() {
            return;
        }
        let own = (serial, Arc::clone(&place.topic), Arc::clone(&place.key));
        self.announce_presence(&own, entry.as_ref(), old.is_some(), out);
        let presences = &mut self.presences;
        presences.here_bytes -= old.unwrap_or(0);
        if let Some(entry) = &entry {
            presences.here_bytes += place.bytes(entry);
            if presences.here.insert(own) {
                *presences.counts.entry(serial).or_default() += 1;
            }
        } else {
            presences.here.remove(&own);
            if let Some(count) = presences.counts.get_mut(&serial) {
                *count -= 1;
                if *count == 0 {
                    presences.counts.remove(&serial);
                }
            }
        }
        let me = self.me.clone();
        self.set_presence(&me, place, entry);
    }

    fn set_presence(&mut self, node: &Node, place: Place, entry: Option<Entry>) {
        let presences = &mut self.presences;
        let watches = &mut presences.watches;
        match entry {
            Some(entry) => {
                let old = presences.entries.get(&place);
                if watches.note(node, &place, old, Some(&entry)) {
                    self.work.push_back(Work::Presence { until: None });
                }
                presences.entries.insert(place, entry);
            }
            None => {
                let old = presences.entries.remove(&place);
                if watches.note(node, &place, old.as_ref(), None) {
                    self.work.push_back(Work::Presence { until: None });
                }
            }
        }
    }

    /// Tells peers of a presence. One whose lane is full hears of it when there is room again, and then only the latest: no
    /// app waits for a slow node, and nothing is kept for it but which presences it has missed.
    fn announce_presence(&mut self, own: &Own, entry: Option<&Entry>, was: bool, out: &mut Outbox) {
        if self.peers.is_empty() {
            return;
        }
        let key = (Class::Presence, wire_key(own.0, &own.1, &own.2));
        let value = entry.map(wire_value);
        for (peer, state) in &mut self.peers {
            if !state.told.covers_presence(own) {
                continue;
            }
            out.count(1);
            if out.peer_len(*peer) < self.limits.peer_bytes {
                state.missed.remove(own);
                write_entry(*peer, &key, value.as_deref(), out);
            } else if entry.is_some() {
                state.missed.entry(own.clone()).or_insert(was);
            } else if state.missed.get(own) == Some(&false) {
                // It has never heard of it.
                state.missed.remove(own);
            } else {
                state.missed.insert(own.clone(), true);
            }
        }
    }

    /// A peer has room again: it is told what it has missed, as it is now.
    pub(super) fn tell_missed(&mut self, peer: PeerId, out: &mut Outbox) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if let Told::Presences { waits: waits @ true, .. } = &mut state.told {
            *waits = false;
            self.work.push_back(Work::Announce { peer });
        }
        while !state.missed.is_empty()
            && out.may_go_on()
            && out.peer_len(peer) < self.limits.peer_bytes
        {
            let Some(((serial, topic, key), _)) = state.missed.pop_first() else { return };
            out.count(1);
            let wire = (Class::Presence, wire_key(serial, &topic, &key));
            let place = Place { topic, key, who: Member::Here(serial) };
            let value = self.presences.entries.get(&place).map(wire_value);
            write_entry(peer, &wire, value.as_deref(), out);
        }
    }

    /// Tells a peer of more presences, from this one on. How far that went; none at the end.
    pub(super) fn announce_presences(
        &self,
        peer: PeerId,
        after: Option<Own>,
        out: &mut Outbox,
    ) -> Option<Told> {
        let from = after.as_ref().map_or(Unbounded, Excluded);
        let mut last = None;
        let mut stopped = None;
        for own in self.presences.here.range::<Own, _>((from, Unbounded)) {
            if !out.may_go_on() {
                stopped = Some(false);
                break;
            }
            if out.peer_len(peer) >= self.limits.peer_bytes {
                stopped = Some(true);
                break;
            }
            out.count(1);
            let (serial, topic, key) = own.clone();
            let wire = (Class::Presence, wire_key(serial, &topic, &key));
            let place = Place { topic, key, who: Member::Here(serial) };
            let value = self.presences.entries.get(&place).map(wire_value);
            write_entry(peer, &wire, value.as_deref(), out);
            last = Some(own);
        }
        let waits = stopped?;
        let after = last.cloned().or(after);
        Some(Told::Presences { after, waits })
    }

    /// A peer says that one of its processes is present, or no longer.
    pub(super) fn on_presence(
        &mut self,
        peer: PeerId,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Option<()> {
        let (serial, rest) = key.split_first_chunk::<8>()?;
        let who = Member::There(peer, u64::from_be_bytes(*serial));
        let (length, rest) = rest.split_first()?;
        let (topic, key) = rest.split_at_checked(usize::from(*length))?;
        let (topic, key) = (std::str::from_utf8(topic).ok()?, std::str::from_utf8(key).ok()?);
        check_one_topic(topic).ok()?;
        check_key(key).ok()?;
        let place = self.presences.place(topic, key, who);
        let old = self.presences.entries.get(&place);
        let (had, bytes, version) =
            old.map_or((0, 0, 0), |old| (1, place.bytes(old), old.reference));
        let mut entry = None;
        if let Some(value) = value {
            let (reference, metadata) = value.split_first_chunk::<8>()?;
            if !metadata.is_empty() && !is_metadata(metadata) {
                return None;
            }
            let reference = u64::from_be_bytes(*reference);
            if reference <= version {
                // What is known is newer.
                return Some(());
            }
            entry = Some(Entry { reference, metadata: metadata.into() });
        }
        let state = self.peers.get_mut(&peer)?;
        let size = entry.as_ref().map_or(0, |entry| place.bytes(entry));
        let (count, sum) = (
            state.presences - had + usize::from(entry.is_some()),
            state.presence_bytes - bytes + size,
        );
        if count > THERE_MAX || sum > THERE_BYTES_MAX {
            return None;
        }
        (state.presences, state.presence_bytes) = (count, sum);
        let node = state.node.clone();
        if had == 1 || entry.is_some() {
            self.set_presence(&node, place, entry);
            self.shut_if_behind(Gate::Peer(peer));
        }
        Some(())
    }

    /// A peer is lost: nobody is present there, but those who watch are still to hear of it.
    pub(super) fn presences_leave(&mut self, peer: &Peer) {
        if peer.presences > 0 {
            self.presences.lost.insert(peer.id, peer.node.clone());
        }
    }

    /// A lost peer takes its processes along, one at a time, and those who watch are told. False when nothing is left.
    pub(super) fn forget_presence(&mut self, peer: &mut Peer, out: &mut Outbox) -> bool {
        if peer.presences == 0 {
            return self.tell_presence(peer.presences_told, out);
        }
        if self.is_behind() && self.tell_presence(u64::MAX, out) {
            return true;
        }
        let after = peer.presences_gone.take();
        let from = after.as_ref().map_or(Unbounded, Excluded);
        let mut last = None;
        for (place, _) in self.presences.entries.range::<Place, _>((from, Unbounded)).take(LOOKED) {
            last = Some(place);
            if matches!(place.who, Member::There(of, _) if of == peer.id) {
                break;
            }
        }
        let Some(place) = last.cloned() else {
            peer.presences = 0;
            self.presences.lost.remove(&peer.id);
            return true;
        };
        peer.presences_gone = Some(place.clone());
        if matches!(place.who, Member::There(of, _) if of == peer.id) {
            peer.presences -= 1;
            if peer.presences == 0 {
                self.presences.lost.remove(&peer.id);
            }
            self.set_presence(&peer.node, place, None);
            peer.presences_told = self.last_change();
        }
        true
    }

    /// Who is present under a topic.
    pub(super) fn presence(
        &mut self,
        asker: &Asker<'_>,
        topic: &str,
        key: Option<&str>,
        prefix: &str,
    ) -> Result<(), Failure> {
        check_one_topic(topic)?;
        if let Some(key) = key {
            check_key(key).map_err(Failure::badarg)?;
        }
        let listed = Listed::Presence { topic: topic.into(), whole: key.is_some() };
        self.start_listing(asker, listed, key.unwrap_or(prefix));
        Ok(())
    }

    /// The next presence of a topic behind another one: where it is, and its row of a list. Those of a node that has just
    /// been lost only if `all` are wanted.
    pub(super) fn next_presence(
        &self,
        topic: &Arc<str>,
        prefix: &str,
        after: Option<&Place>,
        all: bool,
        out: &mut Outbox,
    ) -> Option<(Place, Vec<u8>)> {
        let first;
        let from = match after {
            Some(after) => Excluded(after),
            None => {
                first = Place::first(Arc::clone(topic), prefix);
                Included(&first)
            }
        };
        let range = self.presences.entries.range::<Place, _>((from, Unbounded));
        for (looked, (place, entry)) in (1..).zip(range) {
            if place.topic != *topic || !place.key.starts_with(prefix) {
                return None;
            }
            if looked % LOOKED == 0 {
                out.count(1);
            }
            let node = match place.who {
                Member::Here(_) => &self.me,
                Member::There(peer, _) => {
                    let there = self.peers.get(&peer).map(|peer| &peer.node);
                    match there.or_else(|| self.presences.lost.get(&peer).filter(|_| all)) {
                        Some(node) => node,
                        None if !out.may_go_on() => return Some((place.clone(), Vec::new())),
                        None => continue,
                    }
                }
            };
            return Some((place.clone(), watch::row(node, place, entry, None)));
        }
        None
    }
}

impl Told {
    fn covers_presence(&self, own: &Own) -> bool {
        match self {
            Self::Nothing | Self::Until(_) | Self::Points(_) => false,
            Self::Presences { after, .. } => after.as_ref().is_some_and(|after| own <= after),
            Self::All => true,
        }
    }
}

#[cfg(test)]
impl Router {
    /// How many presences a peer has missed.
    pub(super) fn missed(&self, peer: PeerId) -> usize {
        self.peers[&peer].missed.len()
    }

    /// How many presences are known, how many of them are this node's, and what waits for watchers.
    pub(super) fn presences_kept(&self) -> [usize; 4] {
        let presences = &self.presences;
        let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
        for (serial, ..) in &presences.here {
            *counts.entry(*serial).or_default() += 1;
        }
        assert_eq!(counts.len(), presences.counts.len());
        assert!(counts.iter().all(|(serial, n)| presences.counts.get(serial) == Some(n)));
        let bytes: usize = presences
            .entries
            .iter()
            .filter(|(place, _)| matches!(place.who, Member::Here(_)))
            .map(|(place, entry)| place.bytes(entry))
            .sum();
        assert_eq!(bytes, presences.here_bytes);
        let [watched, waiting] = presences.watches.kept();
        [presences.entries.len(), presences.here.len(), watched, waiting]
    }
}
