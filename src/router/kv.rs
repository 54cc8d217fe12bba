//! The key-value process that every node has built in: a `GenServer` whose state is a map, served by the sidecar itself.
//!
//! It is a process like any other: it has a pid, may have names, is linked to and monitored, and its state goes with it.
//! Only its mailbox is never used, because whatever arrives is handled at once. What it understands is
//!
//! ```text
//! call  ["get", key]                    the value, or null
//! call  ["set", key, value, ttl_ms?]    "ok"; also as a cast
//! call  ["delete", key]                 "ok"; also as a cast
//! call  ["keys", prefix?]               the keys, in order
//! call  ["watch", prefix?]              "ok", and from then on messages ["set", key, value] and ["delete", key]
//! call  ["unwatch"]                     "ok"
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::{Duration, Instant};

use super::agenda::Deadline;
use super::mailbox::Tag;
use super::send::Passing;
use super::{Asker, Failure, Outbox, Router, answer};
use crate::wire::cbor::{self, Malformed, Reader};
use crate::wire::command::Mode;
use crate::wire::event::{Head, Said};
use crate::wire::id::Pid;

/// Longest key, in bytes.
const KEY_BYTES_MAX: usize = 1024;
/// What an entry costs beside its key and its value.
const ENTRY_BYTES: usize = 64;
/// Most processes that watch one store.
const WATCHERS_MAX: usize = 1000;
/// Most bytes of keys in one answer; `keys` with a longer prefix gets the rest.
const KEYS_BYTES_MAX: usize = 1024 * 1024;
/// Longest time to live.
const TTL_MS_MAX: u64 = 366 * 24 * 3600 * 1000;
/// The session to which processes of the node itself belong.
pub(super) const NODE_SESSION: u64 = 0;

/// The state of a key-value process.
#[derive(Debug)]
pub(super) struct Kv {
    entries: BTreeMap<Box<str>, Entry>,
    expiries: BTreeSet<(Instant, Box<str>)>,
    /// The deadline that the agenda has.
    armed: Option<Instant>,
    bytes: usize,
    bytes_max: usize,
    /// Who watches which prefix.
    watchers: BTreeMap<Pid, Box<str>>,
}

#[derive(Debug)]
struct Entry {
    value: Box<[u8]>,
    expires: Option<Instant>,
}

/// What is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request<'a> {
    Get(&'a str),
    Set { key: &'a str, value: &'a [u8], ttl: Option<Duration> },
    Delete(&'a str),
    Keys(&'a str),
    Watch(&'a str),
    Unwatch,
}

impl<'a> Request<'a> {
    fn read(body: &'a [u8]) -> Result<Self, Failure> {
        let wrong = |Malformed| {
            Failure::badarg(
                "a key-value process takes [\"get\", key], [\"set\", key, value, ttl_ms], [\"delete\", key], \
                 [\"keys\", prefix], [\"watch\", prefix] and [\"unwatch\"]; keys are texts",
            )
        };
        let (request, rest) = Self::parse(body).map_err(wrong)?;
        if !rest.is_empty() {
            return Err(wrong(Malformed));
        }
        let key = match request {
            Self::Get(key) | Self::Set { key, .. } | Self::Delete(key) => key,
            Self::Keys(prefix) | Self::Watch(prefix) => prefix,
            Self::Unwatch => "",
        };
        if key.len() > KEY_BYTES_MAX {
            return Err(Failure::badarg(format!("a key has at most {KEY_BYTES_MAX} bytes")));
        }
        Ok(request)
    }

    fn parse(body: &'a [u8]) -> Result<(Self, &'a [u8]), Malformed> {
        let mut reader = Reader::new(body);
        let items = reader.items()?;
        let request = match (reader.text()?, items) {
            ("get", 2) => Self::Get(reader.text()?),
            ("set", 3 | 4) => {
                let key = reader.text()?;
                let before = reader.rest();
                reader.skip()?;
                let value = &before[..before.len() - reader.rest().len()];
                let ttl = match items {
                    4 => match reader.value()? {
                        cbor::Value::Uint(ms) if ms <= TTL_MS_MAX => {
                            Some(Duration::from_millis(ms))
                        }
                        cbor::Value::Null => None,
                        _ => return Err(Malformed),
                    },
                    _ => None,
                };
                Self::Set { key, value, ttl }
            }
            ("delete", 2) => Self::Delete(reader.text()?),
            ("keys", 1) => Self::Keys(""),
            ("keys", 2) => Self::Keys(reader.text()?),
            ("watch", 1) => Self::Watch(""),
            ("watch", 2) => Self::Watch(reader.text()?),
            ("unwatch", 1) => Self::Unwatch,
            _ => return Err(Malformed),
        };
        Ok((request, reader.rest()))
    }
}

impl Kv {
    fn new(bytes_max: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            expiries: BTreeSet::new(),
            armed: None,
            bytes: 0,
            bytes_max,
            watchers: BTreeMap::new(),
        }
    }

    fn remove(&mut self, key: &str) -> bool {
        let Some((key, entry)) = self.entries.remove_entry(key) else { return false };
        self.bytes -= ENTRY_BYTES + key.len() + entry.value.len();
        if let Some(expires) = entry.expires {
            self.expiries.remove(&(expires, key));
        }
        true
    }

    /// What a key takes now.
    fn size_of(&self, key: &str) -> usize {
        self.entries.get(key).map_or(0, |old| ENTRY_BYTES + key.len() + old.value.len())
    }

    fn set(&mut self, key: &str, value: &[u8], expires: Option<Instant>) -> Result<(), Failure> {
        let size = ENTRY_BYTES + key.len() + value.len();
        if self.bytes - self.size_of(key) + size > self.bytes_max {
            let text = format!(
                "the store holds {} bytes and may hold {}; delete something, or give it more",
                self.bytes, self.bytes_max
            );
            return Err(Failure::new("overloaded", text));
        }
        self.remove(key);
        self.bytes += size;
        if let Some(expires) = expires {
            self.expiries.insert((expires, key.into()));
        }
        self.entries.insert(key.into(), Entry { value: value.into(), expires });
        Ok(())
    }

    fn get(&self, now: Instant, key: &str) -> Option<&[u8]> {
        let entry = self.entries.get(key)?;
        entry.expires.is_none_or(|expires| expires > now).then_some(&*entry.value)
    }

    /// The first to expire, if that is due.
    fn expired(&mut self, now: Instant) -> Option<Box<str>> {
        let (at, key) = self.expiries.first()?;
        if *at > now {
            return None;
        }
        let key = key.clone();
        self.remove(&key);
        Some(key)
    }
}

/// What happened to a key, for those who watch it.
fn news(what: &str, key: &str, value: Option<&[u8]>) -> Vec<u8> {
    let mut body = Vec::new();
    cbor::put_array(&mut body, 2 + usize::from(value.is_some()));
    cbor::put_text(&mut body, what);
    cbor::put_text(&mut body, key);
    body.extend_from_slice(value.unwrap_or_default());
    body
}

/// What `spawn` of a key-value process asks for.
pub(super) struct SpawnKv<'a> {
    pub(super) name: Option<&'a str>,
    pub(super) label: Option<&'a str>,
    pub(super) link: bool,
    pub(super) monitor: bool,
    /// It belongs to the node and stays when the session ends.
    pub(super) detached: bool,
    pub(super) bytes: Option<u64>,
}

impl Router {
    pub(super) fn spawn_kv(
        &mut self,
        asker: &Asker<'_>,
        pid: Option<&str>,
        wanted: &SpawnKv<'_>,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let parent = self.actor(asker.session, pid)?;
        if let Some(name) = wanted.name {
            self.name_is_free(name)?;
        }
        if wanted.detached {
            self.needs_operator(asker.session, "to spawn a process that stays with the node")?;
            self.open_node_session();
        }
        self.body_fits(body)?;
        let most = wanted.bytes.map_or(self.limits.mailbox_bytes, |bytes| {
            usize::try_from(bytes).unwrap_or(usize::MAX)
        });
        let mut kv = Kv::new(most.min(self.limits.queue_bytes));
        if !body.is_empty() {
            initial(&mut kv, body)?;
        }
        if self.kv_bytes + kv.bytes > self.limits.queue_bytes {
            let text = "all stores of this node together are full; delete something";
            return Err(Failure::new("overloaded", text));
        }
        let session = if wanted.detached { NODE_SESSION } else { asker.session };
        self.has_room_for_another(session)?;
        let serial = self.create(session, crate::wire::command::Delivery::Pull);
        self.kv_bytes += kv.bytes;
        if let Some(session) = self.sessions.get_mut(&session) {
            session.processes.insert(serial);
        }
        if let Some(name) = wanted.name {
            self.give_name(serial, name);
        }
        let mut reference = None;
        if let Some(process) = self.processes.get_mut(&serial) {
            process.parent = std::num::NonZeroU64::new(parent);
            process.label = Some(wanted.label.unwrap_or("kv").into());
            process.kv = Some(Box::new(kv));
        }
        if wanted.link {
            self.link_local(parent, serial);
        }
        if wanted.monitor {
            reference = Some(self.monitor_local(parent, serial, None));
        }
        if let Some(id) = asker.id {
            let mut head = Head::ok(id).pid("pid", Some(&self.pid(serial)));
            if let Some(reference) = reference {
                head = head.uint("ref", reference);
            }
            answer(out, asker.session, &head, &[]);
        }
        Ok(())
    }

    /// Somebody calls a key-value process.
    pub(super) fn kv_called(
        &mut self,
        serial: u64,
        reference: u64,
        head: &[u8],
        body: &[u8],
        out: &mut Outbox,
    ) {
        let told = Request::read(body).and_then(|request| {
            let from = sender(head);
            self.kv_does(serial, request, from.as_ref(), out)
        });
        self.answer_served(reference, &told, out);
    }

    /// Something else arrives: a cast is done, everything else is of no interest.
    pub(super) fn kv_told(
        &mut self,
        serial: u64,
        tag: Tag,
        head: &[u8],
        body: &[u8],
        out: &mut Outbox,
    ) {
        let cast = head.get(1..).is_some_and(|rest| rest.starts_with(Said::Cast.ev()));
        if tag == Tag::Message
            && cast
            && let Ok(request @ (Request::Set { .. } | Request::Delete(_))) = Request::read(body)
        {
            let _ = self.kv_does(serial, request, None, out);
        }
    }

    fn kv_does(
        &mut self,
        serial: u64,
        request: Request<'_>,
        from: Option<&Pid>,
        out: &mut Outbox,
    ) -> Result<Vec<u8>, Failure> {
        let (Some(now), Some(kv)) =
            (self.clock, self.processes.get_mut(&serial).and_then(|p| p.kv.as_mut()))
        else {
            return Err(Failure::new("noproc", "the store is gone"));
        };
        let before = kv.bytes;
        let mut told = Vec::new();
        match request {
            Request::Get(key) => match kv.get(now, key) {
                Some(value) => told.extend_from_slice(value),
                None => cbor::put_null(&mut told),
            },
            Request::Set { key, value, ttl } => {
                let size = ENTRY_BYTES + key.len() + value.len();
                if self.kv_bytes - kv.size_of(key) + size > self.limits.queue_bytes {
                    let text = "all stores of this node together are full; delete something";
                    return Err(Failure::new("overloaded", text));
                }
                kv.set(key, value, ttl.map(|ttl| now + ttl))?;
                self.kv_bytes = self.kv_bytes + kv.bytes - before;
                self.kv_arms(serial);
                self.kv_tells(serial, key, &news("set", key, Some(value)), out);
                cbor::put_text(&mut told, "ok");
            }
            Request::Delete(key) => {
                if kv.remove(key) {
                    self.kv_bytes -= before - kv.bytes;
                    self.kv_tells(serial, key, &news("delete", key, None), out);
                }
                cbor::put_text(&mut told, "ok");
            }
            Request::Keys(prefix) => {
                let keys: Vec<&str> = kv
                    .entries
                    .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
                    .take_while(|(key, _)| key.starts_with(prefix))
                    .filter(|(_, entry)| entry.expires.is_none_or(|expires| expires > now))
                    .map(|(key, _)| &**key)
                    .collect();
                out.count(keys.len());
                if keys.iter().map(|key| key.len() + 3).sum::<usize>() > KEYS_BYTES_MAX {
                    let text =
                        "there are more keys than one answer may have; ask for a longer prefix";
                    return Err(Failure::new("too_large", text));
                }
                cbor::put_array(&mut told, keys.len());
                for key in keys {
                    cbor::put_text(&mut told, key);
                }
            }
            Request::Watch(prefix) => {
                let Some(from) = from else {
                    return Err(Failure::badarg("only a process can watch"));
                };
                if kv.watchers.len() >= WATCHERS_MAX {
                    let text = format!("{WATCHERS_MAX} processes watch this store already");
                    return Err(Failure::new("overloaded", text));
                }
                kv.watchers.insert(from.clone(), prefix.into());
                cbor::put_text(&mut told, "ok");
            }
            Request::Unwatch => {
                if let Some(from) = from {
                    kv.watchers.remove(from);
                }
                cbor::put_text(&mut told, "ok");
            }
        }
        Ok(told)
    }

    /// Tells those who watch a key. Those who are gone are forgotten.
    fn kv_tells(&mut self, serial: u64, key: &str, body: &[u8], out: &mut Outbox) {
        let Some(now) = self.clock else { return };
        let Some(kv) = self.processes.get(&serial).and_then(|p| p.kv.as_ref()) else { return };
        let watchers: Vec<Pid> = kv
            .watchers
            .iter()
            .filter(|(_, prefix)| key.starts_with(&***prefix))
            .map(|(pid, _)| pid.clone())
            .collect();
        for pid in watchers {
            out.count(1);
            let gone = if pid.node == self.me {
                self.alive(pid.serial).is_none()
            } else {
                self.peer_of(&pid).is_none()
            };
            if gone {
                if let Some(kv) = self.processes.get_mut(&serial).and_then(|p| p.kv.as_mut()) {
                    kv.watchers.remove(&pid);
                }
                continue;
            }
            let to = pid.to_string();
            let passing = Passing {
                now,
                from: Some((NODE_SESSION, serial)),
                to: &to,
                said: Said::Message,
                // A watcher that does not read loses news, and a gap says so.
                mode: Mode::Lossy,
                ct: None,
                body,
                checked: false,
            };
            let _ = self.pass_on(passing, out);
        }
    }

    /// The agenda has the first expiry.
    fn kv_arms(&mut self, serial: u64) {
        let Some(kv) = self.processes.get_mut(&serial).and_then(|p| p.kv.as_mut()) else { return };
        let first = kv.expiries.first().map(|(at, _)| *at);
        if let Some(at) = first
            && kv.armed.is_none_or(|armed| at < armed)
        {
            if let Some(armed) = kv.armed.replace(at) {
                self.agenda.remove(armed, Deadline::Kv(serial));
            }
            self.agenda.add(at, Deadline::Kv(serial));
        }
    }

    /// A key-value process has died.
    pub(super) fn kv_dies(&mut self, serial: u64, kv: &Kv) {
        self.kv_bytes -= kv.bytes;
        if let Some(armed) = kv.armed {
            self.agenda.remove(armed, Deadline::Kv(serial));
        }
    }

    pub(super) fn kv_expires(&mut self, now: Instant, serial: u64, out: &mut Outbox) {
        loop {
            let Some(kv) = self.processes.get_mut(&serial).and_then(|p| p.kv.as_mut()) else {
                return;
            };
            kv.armed = None;
            if !out.may_go_on() {
                break;
            }
            let before = kv.bytes;
            let Some(key) = kv.expired(now) else { break };
            self.kv_bytes -= before - kv.bytes;
            out.count(1);
            self.kv_tells(serial, &key, &news("delete", &key, None), out);
        }
        self.kv_arms(serial);
    }
}

/// A map of texts to anything, as the first state.
fn initial(kv: &mut Kv, body: &[u8]) -> Result<(), Failure> {
    let wrong = |Malformed| {
        Failure::badarg("the first state of a key-value process is a map with text keys")
    };
    let mut reader = Reader::new(body);
    let pairs = reader.map().map_err(wrong)?;
    for _ in 0..pairs {
        let key = reader.text().map_err(wrong)?;
        let before = reader.rest();
        reader.skip().map_err(wrong)?;
        if key.len() > KEY_BYTES_MAX {
            return Err(Failure::badarg(format!("a key has at most {KEY_BYTES_MAX} bytes")));
        }
        kv.set(key, &before[..before.len() - reader.rest().len()], None)?;
    }
    if reader.rest().is_empty() { Ok(()) } else { Err(wrong(Malformed)) }
}

/// Who called, as the head of the call says.
fn sender(head: &[u8]) -> Option<Pid> {
    let mut reader = Reader::new(head);
    let pairs = reader.map().ok()?;
    for _ in 0..pairs {
        if reader.text().ok()? == "from" {
            return reader.text().ok()?.parse().ok();
        }
        reader.skip().ok()?;
    }
    None
}
