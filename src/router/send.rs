//! Messages on their way out: to a process here, to a peer, or later.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::agenda::Deadline;
use super::deliver::{Event, Holder, Origin};
use super::groups::Member;
use super::mailbox::Tag;
use super::peers::PeerId;
use super::sessions::SessionId;
use super::shared::Shared;
use super::work::Work;
use super::{Asker, Failure, Outbox, Router, answer};
use crate::wire::command::Mode;
use crate::wire::event::{self, Head, Said};
use crate::wire::id::Address;
use crate::wire::message::{self, Kind};

/// Longest `send_after`: about 292 years would overflow clocks; a year is more than a process lives.
const AFTER_MS_MAX: u64 = 366 * 24 * 3600 * 1000;
/// Most timers of one process.
const TIMERS_MAX: usize = 100_000;

/// Where an address leads.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    /// A live process here.
    Here(u64),
    /// A name that nobody has here.
    NoName(&'a str),
    /// A global name that nobody is known to have.
    NoGlobal(&'a str),
    /// Something at a connected peer.
    There { peer: PeerId, target: There<'a> },
    /// A dead process, or a node that is not connected.
    Nowhere,
}

/// What of a peer is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum There<'a> {
    Serial(u64),
    Name(&'a str),
}

impl There<'_> {
    pub(super) fn flag(self) -> u8 {
        match self {
            Self::Serial(_) => 0,
            Self::Name(_) => message::TARGET_NAME,
        }
    }

    pub(super) fn put(self, out: &mut Vec<u8>) {
        match self {
            Self::Serial(serial) => out.extend_from_slice(&serial.to_be_bytes()),
            Self::Name(name) => {
                // Checked names have at most 255 bytes.
                out.extend_from_slice(&u16::try_from(name.len()).unwrap_or(0).to_be_bytes());
                out.extend_from_slice(name.as_bytes());
            }
        }
    }
}

/// A message or a cast on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passing<'a> {
    pub(super) now: Instant,
    /// The session and the process that send it.
    pub(super) from: Option<(u64, u64)>,
    pub(super) to: &'a str,
    pub(super) said: Said,
    pub(super) mode: Mode,
    pub(super) ct: Option<&'a str>,
    pub(super) body: &'a [u8],
    /// An error where it is known to lead nowhere.
    pub(super) checked: bool,
}

/// A message that will be sent.
#[derive(Debug)]
pub(super) struct Timer {
    pub(super) serial: u64,
    to: Box<str>,
    ct: Option<Box<str>>,
    body: Box<[u8]>,
    due: Instant,
}

impl Timer {
    fn size(&self) -> usize {
        self.to.len() + self.body.len()
    }
}

pub(super) fn no_name(name: &str) -> Failure {
    Failure::new("noproc", format!("no process here is registered as `{name}`"))
}

pub(super) fn no_global(name: &str) -> Failure {
    let text = format!("no process of any connected node is registered as global:{name}");
    Failure::new("noproc", text)
}

/// A message to the members of a group, on its way.
#[derive(Debug)]
pub(super) struct Spread {
    group: Box<str>,
    /// Who was told last: members stand in order, so that each is told once.
    last: Option<Member>,
    /// Peers that take messages too slowly.
    closed: Vec<PeerId>,
    session: u64,
    sender: Option<u64>,
    lossy: bool,
    event: Shared,
}

impl Router {
    /// Sends a message to every member of a group, once each. The sender's session is not read until all have it.
    fn spread(
        &mut self,
        passing: Passing<'_>,
        group: &str,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let Passing { now, from, said, mode, ct, body, .. } = passing;
        let mut head = Vec::with_capacity(96);
        let sender = from.map(|(_, serial)| serial);
        event::put_said_head(&mut head, said, &self.prefix, sender, ct);
        let peers: Vec<PeerId> =
            self.groups.get(group).into_iter().flat_map(super::groups::Group::peers).collect();
        let mut full: Option<Failure> = None;
        let mut closed = Vec::new();
        for peer in peers {
            match self.admit(now, peer, from, mode, out) {
                Ok(true) => {}
                Ok(false) => closed.push(peer),
                Err(failure) => {
                    closed.push(peer);
                    Failure::gather(&mut full, failure);
                }
            }
        }
        let spread = Spread {
            group: group.into(),
            last: None,
            closed,
            session: from.map_or(0, |(session, _)| session),
            sender,
            lossy: mode == Mode::Lossy,
            event: Event::Parts(&head, body).share(&out.shared),
        };
        if let Some(session) = self.sessions.get_mut(&spread.session) {
            session.listings += 1;
        }
        self.work.push_back(Work::Spread(spread));
        full.map_or(Ok(()), Err)
    }

    /// Some of those members; what is left comes back.
    pub(super) fn spread_on(
        &mut self,
        now: Instant,
        mut spread: Spread,
        out: &mut Outbox,
    ) -> Option<Spread> {
        while let Some(member) =
            self.groups.get(&*spread.group).and_then(|group| group.after(spread.last))
        {
            if !out.may_go_on() {
                return Some(spread);
            }
            out.count(1);
            spread.last = Some(member);
            match member {
                Member::There(peer, _) if spread.closed.contains(&peer) => {}
                Member::Here(serial) if self.alive(serial).is_none() => {}
                Member::Here(serial) => {
                    let origin = match spread.sender {
                        Some(_) if spread.lossy => Origin::Lossy,
                        Some(sender) => Origin::Process(Holder::Local(sender)),
                        None => Origin::Node,
                    };
                    let event = Event::Shared(&spread.event);
                    self.deliver_event(Some(now), serial, origin, Tag::Message, event, out);
                }
                Member::There(peer, serial) => {
                    let flags = if spread.lossy { message::SEND_LOSSY } else { 0 };
                    let sender = spread.sender.unwrap_or(0);
                    let size = 64 + spread.event.frame().len();
                    out.write_peer(peer, sender, size, |bytes| {
                        let at = message::start(bytes, Kind::Send, flags, sender);
                        There::Serial(serial).put(bytes);
                        bytes.extend_from_slice(spread.event.frame());
                        message::finish(bytes, at);
                    });
                }
            }
        }
        if let Some(session) = self.sessions.get_mut(&spread.session) {
            session.listings = session.listings.saturating_sub(1);
            out.resumed.push(spread.session);
        }
        None
    }

    /// Finds out where an address leads now.
    pub(super) fn resolve<'a>(&self, address: Address<'a>) -> Result<Target<'a>, Failure> {
        Ok(match address {
            Address::Pid(pid) => {
                if pid.node == self.me.name.as_str() {
                    if pid.incarnation == self.me.incarnation && self.alive(pid.serial).is_some() {
                        Target::Here(pid.serial)
                    } else {
                        Target::Nowhere
                    }
                } else {
                    match self.peer_named(pid.node) {
                        Some((peer, state)) if state.node.incarnation == pid.incarnation => {
                            Target::There { peer, target: There::Serial(pid.serial) }
                        }
                        _ => Target::Nowhere,
                    }
                }
            }
            Address::Local(name) => match self.named(name) {
                Some(serial) => Target::Here(serial),
                None => Target::NoName(name),
            },
            Address::Remote { name, node } => {
                let full;
                let node = if node.contains('@') {
                    node
                } else {
                    full = format!("{node}@{}", self.me.name.host());
                    &full
                };
                if node == self.me.name.as_str() {
                    // As with Erlang's {Name, Node}: nobody is told that the name is not there.
                    self.named(name).map_or(Target::Nowhere, Target::Here)
                } else {
                    match self.peer_named(node) {
                        Some((peer, _)) => Target::There { peer, target: There::Name(name) },
                        None => Target::Nowhere,
                    }
                }
            }
            Address::Global(name) => match self.global_holder(name) {
                None => Target::NoGlobal(name),
                Some(pid) if pid.node == self.me => self
                    .alive(pid.serial)
                    .map_or(Target::NoGlobal(name), |_| Target::Here(pid.serial)),
                Some(pid) => match self.peer_of(&pid) {
                    Some((peer, _)) => Target::There { peer, target: There::Serial(pid.serial) },
                    None => Target::Nowhere,
                },
            },
            Address::Group(name) => {
                let text = format!(
                    "group:{name} is many processes; this command is for one, `members` lists them"
                );
                return Err(Failure::badarg(text));
            }
        })
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one command")]
    pub(super) fn send<'a>(
        &mut self,
        asker: &mut Asker<'a>,
        pid: Option<&str>,
        to: &'a str,
        said: Said,
        mode: Mode,
        checked: bool,
        ct: Option<&str>,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        asker.to = to;
        let actor = self.actor(asker.session, pid)?;
        let from = Some((asker.session, actor));
        self.pass_on(Passing { now: asker.now, from, to, said, mode, ct, body, checked }, out)?;
        if asker.id.is_some() {
            Self::done(asker, out);
        }
        Ok(())
    }

    /// A body within the limit.
    pub(super) fn body_fits(&self, body: &[u8]) -> Result<(), Failure> {
        if body.len() <= self.limits.body_bytes {
            return Ok(());
        }
        let text = format!(
            "a body of {} bytes is over this node's limit of {}; send less at a time, or raise body-max",
            body.len(),
            self.limits.body_bytes
        );
        Err(Failure::new("too_large", text))
    }

    /// Sends a message or a cast, as a process or (`from` is none) as nobody in particular.
    pub(super) fn pass_on(
        &mut self,
        passing: Passing<'_>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let Passing { now, from, to, said, mode, ct, body, checked } = passing;
        self.body_fits(body)?;
        let address = Address::parse(to).map_err(Failure::badarg)?;
        if let Address::Group(group) = address {
            if checked && !self.groups.get(group).is_some_and(super::groups::Group::has_members) {
                return Err(Failure::new("noproc", format!("nobody is in the group `{group}`")));
            }
            return self.spread(passing, group, out);
        }
        let target = self.resolve(address)?;
        let serial = from.map(|(_, serial)| serial);
        let mut head = std::mem::take(&mut self.scratch);
        head.clear();
        event::put_said_head(&mut head, said, &self.prefix, serial, ct);
        let result = match target {
            Target::NoName(name) => Err(no_name(name)),
            Target::NoGlobal(name) => Err(no_global(name)),
            Target::Nowhere if checked => Err(self.nobody_there(to, address)),
            Target::Nowhere => Ok(()),
            Target::Here(target) => {
                if mode == Mode::Try && !self.has_room_for(target, 6 + head.len() + body.len()) {
                    Err(Failure::new("overloaded", format!("the mailbox of {to} is full")))
                } else {
                    let origin = match serial {
                        Some(serial) => Self::origin(mode, Holder::Local(serial)),
                        None => Origin::Node,
                    };
                    self.deliver(Some(now), target, origin, Tag::Message, &head, body, out);
                    Ok(())
                }
            }
            Target::There { peer, target } => {
                self.admit(now, peer, from, mode, out).map(|admitted| {
                    if admitted {
                        let flags = target.flag()
                            | if mode == Mode::Lossy { message::SEND_LOSSY } else { 0 };
                        let size = 64 + head.len() + body.len();
                        out.write_peer(peer, serial.unwrap_or(0), size, |bytes| {
                            let at = message::start(bytes, Kind::Send, flags, serial.unwrap_or(0));
                            target.put(bytes);
                            event::put_frame(bytes, &head, body);
                            message::finish(bytes, at);
                        });
                    }
                })
            }
        };
        self.scratch = head;
        result
    }

    /// Whether a message may go to a peer: `Ok(false)` when it is to be lost, counted.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        peer: PeerId,
        from: Option<(u64, u64)>,
        mode: Mode,
        out: &Outbox,
    ) -> Result<bool, Failure> {
        let full = out.peer_len(peer) >= self.limits.peer_bytes;
        let Some(state) = self.peers.get_mut(&peer) else { return Ok(false) };
        if !full && !state.congested {
            return Ok(true);
        }
        if mode == Mode::Lossy {
            self.counters.congested += 1;
            return Ok(false);
        }
        if state.congested || mode == Mode::Try {
            self.counters.congested += 1;
            return Err(state.overloaded());
        }
        if let Some((session, _)) = from {
            self.pause_if_full(now, peer, session, out);
        }
        Ok(true)
    }

    /// The same for what an app asks of a peer's processes besides messages.
    pub(super) fn admit_signal(
        &mut self,
        asker: &Asker<'_>,
        peer: PeerId,
        out: &Outbox,
    ) -> Result<(), Failure> {
        if let Some(state) = self.peers.get(&peer).filter(|state| state.congested) {
            return Err(state.overloaded());
        }
        self.pause_if_full(asker.now, peer, asker.session, out);
        Ok(())
    }

    /// A session that feeds a full peer is not read for a while.
    pub(super) fn pause_if_full(
        &mut self,
        now: Instant,
        peer: PeerId,
        session: SessionId,
        out: &Outbox,
    ) {
        let full = out.peer_len(peer) >= self.limits.peer_bytes;
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if !full || state.congested || !state.paused.insert(session) {
            return;
        }
        if state.full_ends.is_none() {
            let ends = now + self.limits.send_timeout;
            state.full_ends = Some(ends);
            self.agenda.add(ends, Deadline::Congestion(peer));
        }
        if let Some(session) = self.sessions.get_mut(&session) {
            session.paused += 1;
        }
    }

    /// The lanes of a peer were taken: the sessions that fed it go on when it is half empty.
    pub fn on_peer_room(&mut self, peer: PeerId, out: &mut Outbox) {
        if out.peer_len(peer) > self.limits.peer_bytes / 2 {
            return;
        }
        self.tell_missed(peer, out);
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if state.paused.is_empty() && !state.congested && state.full_ends.is_none() {
            return;
        }
        state.congested = false;
        if let Some(ends) = state.full_ends.take() {
            self.agenda.remove(ends, Deadline::Congestion(peer));
        }
        let paused = std::mem::take(&mut state.paused);
        self.unpause(paused, out);
    }

    /// The sessions that fed a peer have waited long enough: from now on it drops.
    pub(super) fn peer_congests(&mut self, now: Instant, peer: PeerId, out: &mut Outbox) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if state.full_ends.is_none_or(|ends| ends > now) {
            return;
        }
        state.full_ends = None;
        state.congested = true;
        self.routes += 1;
        let paused = std::mem::take(&mut state.paused);
        self.unpause(paused, out);
    }

    pub(super) fn unpause(&mut self, mut sessions: BTreeSet<SessionId>, out: &mut Outbox) {
        while out.may_go_on() {
            let Some(session) = sessions.pop_first() else { return };
            out.count(1);
            self.unpause_one(session, out);
        }
        if !sessions.is_empty() {
            self.work.push_back(Work::Unpause { sessions });
        }
    }

    pub(super) fn unpause_one(&mut self, id: SessionId, out: &mut Outbox) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.paused = session.paused.saturating_sub(1);
            out.resumed.push(id);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one command")]
    pub(super) fn send_after<'a>(
        &mut self,
        asker: &mut Asker<'a>,
        pid: Option<&str>,
        to: &'a str,
        after_ms: u64,
        ct: Option<&str>,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        asker.to = to;
        let serial = self.actor(asker.session, pid)?;
        Address::parse(to).map_err(Failure::badarg)?;
        if after_ms > AFTER_MS_MAX {
            return Err(Failure::badarg("`after_ms` is at most a year"));
        }
        if body.len() > self.limits.body_bytes {
            return Err(Failure::new("too_large", "the body is over this node's limit"));
        }
        let size = to.len() + body.len();
        if self.timer_bytes + size > self.limits.queue_bytes {
            let text =
                "this node keeps no more bytes for later; cancel timers, or send less at a time";
            return Err(Failure::new("overloaded", text));
        }
        let number = self.number();
        let Some(process) = self.processes.get_mut(&serial) else { return Ok(()) };
        let kept = process.timer_bytes as usize + size;
        let most = self.limits.mailbox_bytes.max(self.limits.body_bytes + size);
        let Some(kept) = u32::try_from(kept).ok().filter(|_| kept <= most) else {
            let text = "the timers of this process hold as many bytes as a mailbox; cancel some";
            return Err(Failure::new("overloaded", text));
        };
        if process.timers.len() >= TIMERS_MAX {
            let text = format!("a process has at most {TIMERS_MAX} timers; cancel some");
            return Err(Failure::new("overloaded", text));
        }
        process.timers.insert(number);
        process.timer_bytes = kept;
        self.timer_bytes += size;
        let due = asker.now + Duration::from_millis(after_ms);
        self.agenda.add(due, Deadline::Timer(number));
        self.timers.insert(
            number,
            Timer { serial, to: to.into(), ct: ct.map(Into::into), body: body.into(), due },
        );
        if let Some(id) = asker.id {
            answer(out, asker.session, &Head::ok(id).uint("timer", number), &[]);
        }
        Ok(())
    }

    /// A timer is due. What its process said before may still be on its way to many: then it waits its turn behind that.
    pub(super) fn timer_is_due(&mut self, now: Instant, number: u64, out: &mut Outbox) {
        let serial = self.timers.get(&number).map(|timer| timer.serial);
        let session = serial.and_then(|serial| self.processes.get(&serial)).map(|p| p.session);
        let session = session.and_then(|session| self.sessions.get(&session));
        if session.is_some_and(|session| session.listings > 0) {
            self.work.push_back(Work::Timer { number });
        } else {
            self.timer_fires(now, number, out);
        }
    }

    pub(super) fn timer_fires(&mut self, now: Instant, number: u64, out: &mut Outbox) {
        let Some(timer) = self.timers.remove(&number) else { return };
        self.timer_bytes -= timer.size();
        let Some(process) = self.processes.get_mut(&timer.serial) else { return };
        process.timers.remove(&number);
        process.timer_bytes -= u32::try_from(timer.size()).unwrap_or(0);
        let session = process.session;
        let from = Some((session, timer.serial));
        // As in Erlang: a name that is gone by then makes the message vanish.
        let _ = self.pass_on(
            Passing {
                now,
                from,
                to: &timer.to,
                said: Said::Message,
                mode: Mode::Wait,
                ct: timer.ct.as_deref(),
                body: &timer.body,
                checked: false,
            },
            out,
        );
    }

    pub(super) fn forget_timer(&mut self, number: u64) {
        if let Some(timer) = self.timers.remove(&number) {
            self.timer_bytes -= timer.size();
            if let Some(process) = self.processes.get_mut(&timer.serial) {
                process.timer_bytes -= u32::try_from(timer.size()).unwrap_or(0);
            }
            self.agenda.remove(timer.due, Deadline::Timer(number));
        }
    }

    /// How long a timer has still to go: null when it has fired or was never there.
    pub(super) fn read_timer(
        &mut self,
        asker: &Asker<'_>,
        number: u64,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let left_ms = self.time_left(asker, number)?;
        if let Some(id) = asker.id {
            answer(out, asker.session, &Head::ok(id).maybe_uint("left_ms", left_ms), &[]);
        }
        Ok(())
    }

    fn time_left(&self, asker: &Asker<'_>, number: u64) -> Result<Option<u64>, Failure> {
        let Some(timer) = self.timers.get(&number) else { return Ok(None) };
        if self.processes.get(&timer.serial).is_none_or(|p| p.session != asker.session) {
            return Err(Failure::denied("the timer belongs to another session"));
        }
        let left = timer.due.saturating_duration_since(asker.now);
        Ok(Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)))
    }

    pub(super) fn cancel_timer(
        &mut self,
        asker: &Asker<'_>,
        number: u64,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let left_ms = self.time_left(asker, number)?;
        if let Some(serial) = self.timers.get(&number).map(|timer| timer.serial) {
            if let Some(process) = self.processes.get_mut(&serial) {
                process.timers.remove(&number);
            }
            self.forget_timer(number);
        }
        if let Some(id) = asker.id {
            answer(out, asker.session, &Head::ok(id).maybe_uint("left_ms", left_ms), &[]);
        }
        Ok(())
    }
}
