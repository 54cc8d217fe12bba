//! What each node announces of itself: its global names, its members of groups, its modules, its factories, the topics it
//! wants to hear, which of its processes are present where, its labels, and that it is about to leave.
//!
//! One mechanism for all of it. A node announces only what is its own: to each new peer all of it, in slices, then every
//! change in order. What a peer announced is kept with the peer, dropped with it, and never passed on. The `nodeup` of a
//! peer follows all that it had to announce, so nobody ever asks a node of which only a part is known.
//!
//! ```text
//! on_peer_up -> all of ours, in slices -> `announced` ---> | its nodeup may be told
//!                          changes behind the slice -----> |
//! ```

use std::collections::BTreeMap;
use std::ops::Bound;

use super::peers::{Peer, PeerId};
use super::presence::Own;
use super::work::Work;
use super::{Outbox, Router};
use crate::wire::id::Node;
use crate::wire::message::{self, FrameError, Kind, STATE_GONE};

/// Most entries of one peer, and most bytes of them.
const ENTRIES_MAX: usize = 1_000_000;
const BYTES_MAX: usize = 128 * 1024 * 1024;
/// Longest value of an entry, in bytes.
pub(super) const VALUE_BYTES_MAX: usize = 32 * 1024;
/// Longest key of an entry: a queue group and a topic.
const KEY_BYTES_MAX: usize = 600;

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Class {
    /// A global name: when it was registered, by which process, and what a conflict means.
    Name = 1,
    /// A member of a group: how often it has joined.
    Member = 2,
    /// A module: its functions.
    Module = 3,
    /// A factory: how many children it has, and how many it may have.
    Factory = 4,
    /// A topic or pattern that somebody there has subscribed to.
    Topic = 5,
    /// A queue group at one.
    Queue = 6,
    /// The last value of a topic.
    Retained = 7,
    /// A process that is present under a topic and a key.
    Presence = 8,
    /// A label of the node itself: its hello has them too, but a source may know more of a node later.
    Label = 9,
    /// That the node is about to leave. It has no key and no value, and is never taken back.
    Draining = 10,
}

impl Class {
    const fn from_u8(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Name,
            2 => Self::Member,
            3 => Self::Module,
            4 => Self::Factory,
            5 => Self::Topic,
            6 => Self::Queue,
            7 => Self::Retained,
            8 => Self::Presence,
            9 => Self::Label,
            10 => Self::Draining,
            _ => return None,
        })
    }
}

/// Class and key of an entry.
pub(super) type Key = (Class, Box<[u8]>);

/// What this node announces.
#[derive(Debug, Default)]
pub(super) struct Announced {
    entries: BTreeMap<Key, Box<[u8]>>,
}

impl Announced {
    /// What is announced under a key.
    pub(super) fn get(&self, class: Class, key: &[u8]) -> Option<&[u8]> {
        self.entries.get(&(class, Box::from(key))).map(|value| &**value)
    }

    /// Every key of a class.
    pub(super) fn keys(&self, class: Class) -> impl Iterator<Item = &[u8]> {
        let from = self.entries.range((class, Box::default())..);
        from.take_while(move |((of, _), _)| *of == class).map(|((_, key), _)| &**key)
    }
}

/// How much of it a peer has been told.
#[derive(Debug, Default)]
pub(super) enum Told {
    #[default]
    Nothing,
    /// All up to this key.
    Until(Key),
    /// All of it, and of the topics those up to this place of their table.
    Points(u32),
    /// All of that, and presences up to this one; the rest when its lane has room again, or at once.
    Presences {
        after: Option<Own>,
        waits: bool,
    },
    All,
}

impl Told {
    fn covers(&self, key: &Key) -> bool {
        match self {
            Self::Nothing => false,
            Self::Until(last) => key <= last,
            Self::Points(_) | Self::Presences { .. } | Self::All => true,
        }
    }

    pub(super) fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }
}

impl Router {
    /// Announces an entry anew, or (`None`) takes it back.
    pub(super) fn announce(
        &mut self,
        class: Class,
        key: &[u8],
        value: Option<&[u8]>,
        out: &mut Outbox,
    ) {
        let key: Key = (class, key.into());
        for (peer, state) in &self.peers {
            if state.told.covers(&key) {
                out.count(1);
                write_entry(*peer, &key, value, out);
            }
        }
        match value {
            Some(value) => self.announced.entries.insert(key, value.into()),
            None => self.announced.entries.remove(&key),
        };
    }

    /// Tells a peer more of what this node announces. True when it knows all of it.
    pub(super) fn announce_on(&mut self, peer: PeerId, out: &mut Outbox) -> bool {
        let Some(state) = self.peers.get_mut(&peer) else { return true };
        let after = match std::mem::take(&mut state.told) {
            Told::Nothing => Bound::Unbounded,
            Told::Until(key) => Bound::Excluded(key),
            Told::Points(next) => return self.announce_rest(peer, next, out),
            Told::Presences { after, .. } => return self.announce_last(peer, after, out),
            Told::All => {
                state.told = Told::All;
                return true;
            }
        };
        let mut last = None;
        for (key, value) in
            self.announced.entries.range::<Key, _>((after.as_ref(), Bound::Unbounded))
        {
            if !out.may_go_on() {
                break;
            }
            out.count(1);
            write_entry(peer, key, Some(value), out);
            last = Some(key.clone());
        }
        if !out.may_go_on() {
            state.told = match (last, after) {
                (Some(key), _) | (None, Bound::Excluded(key)) => Told::Until(key),
                _ => Told::Nothing,
            };
            return false;
        }
        self.announce_rest(peer, 0, out)
    }

    /// Tells a peer of the topics that are wanted here, and of all that follows. True when it knows all of it.
    fn announce_rest(&mut self, peer: PeerId, next: u32, out: &mut Outbox) -> bool {
        let next = self.announce_points(peer, next, out);
        if let Some(next) = next {
            self.peer_mut(peer, |state| state.told = Told::Points(next));
            return false;
        }
        self.announce_last(peer, None, out)
    }

    /// Tells a peer who is present here, and that this is all. True when it knows all of it, or has to read first.
    fn announce_last(&mut self, peer: PeerId, after: Option<Own>, out: &mut Outbox) -> bool {
        if let Some(told) = self.announce_presences(peer, after, out) {
            let waits = matches!(told, Told::Presences { waits: true, .. });
            self.peer_mut(peer, |state| state.told = told);
            return waits;
        }
        self.peer_mut(peer, |state| state.told = Told::All);
        out.count(1);
        out.write_peer(peer, 0, 16, |bytes| {
            bytes.extend_from_slice(&message::bare_frame(Kind::Announced));
        });
        self.peer_reachable(peer);
        true
    }

    /// A peer announces something, or takes it back.
    pub(super) fn on_entry(
        &mut self,
        peer: PeerId,
        flags: u8,
        payload: &[u8],
        out: &mut Outbox,
    ) -> Result<(), FrameError> {
        let wrong = || FrameError::Malformed("state");
        let (&class, rest) = payload.split_first().ok_or_else(wrong)?;
        let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(wrong)?;
        let (key, value) =
            rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or_else(wrong)?;
        // What a newer node announces is not for this one.
        let Some(class) = Class::from_u8(class) else { return Ok(()) };
        if key.len() > KEY_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
            return Err(wrong());
        }
        let value = (flags & STATE_GONE == 0).then_some(value);
        let Some(state) = self.peers.get_mut(&peer) else { return Ok(()) };
        if matches!(class, Class::Topic | Class::Queue) {
            // Kept in the table of topics, which may be large: not here too.
            return self.on_interest(peer, class, key, value.is_some()).ok_or_else(wrong);
        }
        if class == Class::Presence {
            return self.on_presence(peer, key, value).ok_or_else(wrong);
        }
        let full: Key = (class, key.into());
        let size = full.1.len() + value.map_or(0, <[u8]>::len);
        match value {
            Some(value) => {
                if state.entries.len() >= ENTRIES_MAX || state.entry_bytes + size > BYTES_MAX {
                    return Err(FrameError::TooLarge {
                        length: state.entry_bytes + size,
                        limit: BYTES_MAX,
                    });
                }
                let old = state.entries.insert(full, value.len());
                state.entry_bytes += size;
                state.entry_bytes -= old.map_or(0, |old| key.len() + old);
            }
            None => {
                let Some(old) = state.entries.remove(&full) else { return Ok(()) };
                state.entry_bytes -= key.len() + old;
            }
        }
        let node = state.node.clone();
        self.learn(peer, &node, class, key, value, out).ok_or_else(wrong)
    }

    /// One entry of a lost peer goes. False when it has none left.
    pub(super) fn forget_entry(&mut self, peer: &mut Peer, out: &mut Outbox) -> bool {
        let Some(((class, key), _)) = peer.entries.pop_first() else { return false };
        let _ = self.learn(peer.id, &peer.node, class, &key, None, out);
        if peer.draining
            && class == Class::Name
            && let Ok(name) = std::str::from_utf8(&key)
        {
            self.name_is_left(name);
        }
        true
    }

    fn learn(
        &mut self,
        peer: PeerId,
        node: &Node,
        class: Class,
        key: &[u8],
        value: Option<&[u8]>,
        out: &mut Outbox,
    ) -> Option<()> {
        match class {
            Class::Name => self.on_global_name(peer, node, key, value, out),
            Class::Member => self.on_member(peer, node, key, value, out),
            Class::Module => self.on_module(peer, key, value),
            Class::Factory => self.on_factory(peer, key, value),
            Class::Topic | Class::Queue => self.on_interest(peer, class, key, value.is_some()),
            Class::Retained => self.on_retained(peer, key, value, out),
            Class::Presence => self.on_presence(peer, key, value),
            Class::Label => self.on_label(peer, key, value),
            Class::Draining => {
                self.on_peer_drains(peer, value.is_some(), out);
                Some(())
            }
        }
    }

    /// A peer has announced all that it has: its nodeup follows.
    pub(super) fn on_announced(&mut self, peer: PeerId) {
        let told = self.last_change();
        if let Some(state) = self.peers.get_mut(&peer)
            && !std::mem::replace(&mut state.announced, true)
        {
            state.presences_told = told;
            self.work.push_back(Work::PeerUp { peer, news: None });
        }
    }
}

pub(super) fn write_entry(
    peer: PeerId,
    (class, key): &Key,
    value: Option<&[u8]>,
    out: &mut Outbox,
) {
    let flags = if value.is_none() { STATE_GONE } else { 0 };
    let size = 32 + key.len() + value.map_or(0, <[u8]>::len);
    out.write_peer(peer, 0, size, |bytes| {
        let at = message::start(bytes, Kind::State, flags, 0);
        bytes.push(*class as u8);
        bytes.extend_from_slice(&u16::try_from(key.len()).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value.unwrap_or_default());
        message::finish(bytes, at);
    });
}
