//! Messages on their way out: to a process here, to a peer, or later.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::agenda::Deadline;
use super::deliver::{Holder, Origin};
use super::mailbox::Tag;
use super::peers::PeerId;
use super::sessions::SessionId;
use super::work::Work;
use super::{Asker, Failure, Outbox, Router, answer};
use crate::wire::command::Mode;
use crate::wire::event::{self, Head};
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

impl Router {
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
            Address::Global(_) => {
                return Err(Failure::new("unsupported", "global names are not in this version"));
            }
            Address::Group(_) => {
                return Err(Failure::new("unsupported", "groups are not in this version"));
            }
        })
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one command")]
    pub(super) fn send<'a>(
        &mut self,
        asker: &mut Asker<'a>,
        pid: Option<&str>,
        to: &'a str,
        mode: Mode,
        ct: Option<&str>,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        asker.to = to;
        let actor = self.actor(asker.session, pid)?;
        self.pass_on(asker.now, Some((asker.session, actor)), to, mode, ct, body, out)?;
        if asker.id.is_some() {
            Self::done(asker, out);
        }
        Ok(())
    }

    /// Sends a message, as a process or (`None`) as nobody in particular.
    #[allow(clippy::too_many_arguments, reason = "all that a message is")]
    fn pass_on(
        &mut self,
        now: Instant,
        from: Option<(u64, u64)>,
        to: &str,
        mode: Mode,
        ct: Option<&str>,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        if body.len() > self.limits.body_bytes {
            let text = format!(
                "a body of {} bytes is over this node's limit of {}; send less at a time, or raise body-max",
                body.len(),
                self.limits.body_bytes
            );
            return Err(Failure::new("too_large", text));
        }
        let address = Address::parse(to).map_err(Failure::badarg)?;
        let target = self.resolve(address)?;
        let serial = from.map(|(_, serial)| serial);
        let mut head = std::mem::take(&mut self.scratch);
        head.clear();
        event::put_message_head(&mut head, &self.prefix, serial, ct);
        let result = match target {
            Target::NoName(name) => Err(no_name(name)),
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
    fn admit(
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
        if process.timer_bytes + size > self.limits.mailbox_bytes.max(self.limits.body_bytes + size)
        {
            let text = "the timers of this process hold as many bytes as a mailbox; cancel some";
            return Err(Failure::new("overloaded", text));
        }
        if process.timers.len() >= TIMERS_MAX {
            let text = format!("a process has at most {TIMERS_MAX} timers; cancel some");
            return Err(Failure::new("overloaded", text));
        }
        process.timers.insert(number);
        process.timer_bytes += size;
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

    pub(super) fn timer_fires(&mut self, now: Instant, number: u64, out: &mut Outbox) {
        let Some(timer) = self.timers.remove(&number) else { return };
        self.timer_bytes -= timer.size();
        let Some(process) = self.processes.get_mut(&timer.serial) else { return };
        process.timers.remove(&number);
        process.timer_bytes -= timer.size();
        let session = process.session;
        let from = Some((session, timer.serial));
        // As in Erlang: a name that is gone by then makes the message vanish.
        let _ =
            self.pass_on(now, from, &timer.to, Mode::Wait, timer.ct.as_deref(), &timer.body, out);
    }

    pub(super) fn forget_timer(&mut self, number: u64) {
        if let Some(timer) = self.timers.remove(&number) {
            self.timer_bytes -= timer.size();
            if let Some(process) = self.processes.get_mut(&timer.serial) {
                process.timer_bytes -= timer.size();
            }
            self.agenda.remove(timer.due, Deadline::Timer(number));
        }
    }

    pub(super) fn cancel_timer(
        &mut self,
        asker: &Asker<'_>,
        number: u64,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let mut left_ms = None;
        if let Some(timer) = self.timers.get(&number) {
            let serial = timer.serial;
            let left = timer.due.saturating_duration_since(asker.now);
            left_ms = Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
            let own = self.processes.get(&serial).is_some_and(|p| p.session == asker.session);
            if !own {
                return Err(Failure::denied("the timer belongs to another session"));
            }
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
