//! Calls: a request, and exactly one end for it by its deadline.
//!
//! A call has two halves. The caller's node keeps a [`Call`] until it ends: it alone tells the app, and only once. The
//! callee's node keeps a [`Served`] until the callee has answered, died, or is no longer waited for. Here the two are
//! one number; between nodes the frames `Call`, `Reply`, `Raise`, `Cancel` and `Took` carry the caller's.
//!
//! A call that nobody waits for any more may still stand in a mailbox: it is passed over when its turn comes.

use std::time::{Duration, Instant};

use super::agenda::Deadline;
use super::gather::Slot;
use super::groups::Member;
use super::outbox::LANE_BYTES;
use super::peers::{Payload, PeerId};
use super::rpc::Function;
use super::send::{Target, There};
use super::served::{Caller, write_reply};
use super::{Asker, Failure, KeptId, OWNED_MAX, Outbox, Router, answer};
use crate::wire::command::{
    CT_BYTES_MAX, LABEL_BYTES_MAX, Mode, REASON_BYTES_MAX, WORDS_BYTES_MAX,
};
use crate::wire::event::{self, Head, Said};
use crate::wire::id::{Address, Pid};
use crate::wire::message::{self, Frame, FrameError, Kind, Raised};

/// How long a call may take unless it says otherwise (5000 ms, as in OTP's `gen_server`).
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time that a call may ask for: a year, which is as good as for ever.
pub(super) const TIMEOUT_MS_MAX: u64 = 366 * 24 * 3600 * 1000;
/// How many are asked before a call to any of them fails.
const TRIES_MAX: usize = 8;
/// The caller's node says so whenever its app has taken this much.
const TOOK_BYTES: usize = 128 * 1024;

/// A call of a process here that has not ended.
#[derive(Debug)]
pub(super) struct Call {
    caller: u64,
    asked: Asked,
    callee: Callee,
    timeout: Duration,
    began: Instant,
    ends: Instant,
    /// Bytes of parts that the callee's node has not been told of.
    untold: usize,
    /// Others may answer as well, as long as nobody was handed the call.
    others: Option<Box<Others>>,
}

/// Who answers where it is all the same who does.
#[derive(Clone, Debug)]
pub(super) enum Anyone {
    /// A member of a group.
    Group(Box<str>),
    /// Whoever has a global name by then.
    Global(Box<str>),
    /// Whoever serves a function.
    Rpc { module: Box<str>, function: Box<str> },
}

/// What it takes to ask somebody else.
#[derive(Debug)]
struct Others {
    anyone: Anyone,
    head: Box<[u8]>,
    body: Box<[u8]>,
    tried: Vec<Member>,
}

impl Others {
    fn size(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

/// Where its end goes.
#[derive(Debug)]
pub(super) enum Asked {
    /// An app.
    App { session: u64, id: KeptId },
    /// One of the results of a call to several.
    Several(Slot),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Callee {
    Here,
    There(PeerId),
    /// Nobody yet: it waits for whoever takes a name.
    Nobody,
}

/// Why a call ended without a reply.
#[derive(Clone, Debug, Default)]
pub(super) struct Ending<'a> {
    pub(super) code: &'a str,
    pub(super) message: &'a str,
    pub(super) maybe_applied: bool,
    pub(super) class: Option<&'a str>,
    pub(super) reason: Option<&'a str>,
    pub(super) stack: Option<&'a str>,
}

impl<'a> Ending<'a> {
    pub(super) fn new(code: &'a str, message: &'a str, maybe_applied: bool) -> Self {
        Self { code, message, maybe_applied, ..Self::default() }
    }

    pub(super) fn exit(reason: &'a str, message: &'a str, maybe_applied: bool) -> Self {
        Self { reason: Some(reason), ..Self::new("exit", message, maybe_applied) }
    }

    /// Adds what the exception said.
    pub(super) fn add_to(&self, mut head: Head) -> Head {
        for (key, text) in [("class", self.class), ("reason", self.reason), ("stack", self.stack)] {
            if let Some(text) = text {
                head = head.text(key, text);
            }
        }
        head
    }

    pub(super) fn raised(&self) -> Raised {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Raised {
            code: self.code.to_owned(),
            message: self.message.to_owned(),
            maybe_applied: self.maybe_applied,
            class: owned(self.class),
            reason: owned(self.reason),
            stack: owned(self.stack),
        }
    }
}

/// A call as it is made: who, whom, what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Making<'a> {
    pub(super) now: Instant,
    pub(super) session: u64,
    pub(super) caller: u64,
    pub(super) to: &'a str,
    pub(super) timeout: Duration,
    pub(super) ct: Option<&'a str>,
    pub(super) body: &'a [u8],
}

pub(super) fn timeout_of(timeout_ms: Option<u64>) -> Result<Duration, Failure> {
    match timeout_ms {
        None => Ok(TIMEOUT),
        Some(ms) if ms <= TIMEOUT_MS_MAX => Ok(Duration::from_millis(ms)),
        Some(_) => Err(Failure::badarg("`timeout_ms` is at most a year")),
    }
}

impl Router {
    #[allow(clippy::too_many_arguments, reason = "the fields of one command")]
    pub(super) fn call<'a>(
        &mut self,
        asker: &mut Asker<'a>,
        pid: Option<&str>,
        to: &'a str,
        timeout_ms: Option<u64>,
        ct: Option<&str>,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        asker.to = to;
        let caller = self.actor(asker.session, pid)?;
        let Some(id) = asker.id else {
            return Err(Failure::badarg(
                "`call` needs an `id`: its answer carries the reply; use `cast` when none is wanted",
            ));
        };
        let timeout = timeout_of(timeout_ms)?;
        let asked = Asked::App { session: asker.session, id: KeptId::keep(id) };
        let making =
            Making { now: asker.now, session: asker.session, caller, to, timeout, ct, body };
        self.make_call(making, asked, out)
    }

    /// Makes one call. An error means that nobody was asked and nothing is kept.
    pub(super) fn make_call(
        &mut self,
        making: Making<'_>,
        asked: Asked,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let Making { now, session, caller, to, ct, body, .. } = making;
        self.body_fits(body)?;
        let busy = self.processes.get(&caller).is_some_and(|p| p.calling.len() >= OWNED_MAX);
        if busy {
            let text = "a process has at most 200 000 calls under way; wait for some to end";
            return Err(Failure::new("overloaded", text));
        }
        let address = Address::parse(to).map_err(Failure::badarg)?;
        let mut head = std::mem::take(&mut self.scratch);
        head.clear();
        event::put_said_head(&mut head, Said::Call, &self.prefix, Some(caller), ct);
        let anyone = match address {
            Address::Group(name) => Some(Anyone::Group(name.into())),
            Address::Global(name) => Some(Anyone::Global(name.into())),
            _ => None,
        };
        if let Some(anyone) = anyone {
            let result = self.ask_anyone(making, asked, anyone, &head, out);
            self.scratch = head;
            return result;
        }
        let target = match self.resolve(address) {
            Ok(target) => target,
            Err(failure) => {
                self.scratch = head;
                return Err(failure);
            }
        };
        let result = match target {
            Target::NoName(name) => Err(super::send::no_name(name)),
            Target::NoGlobal(name) => Err(super::send::no_global(name)),
            Target::Nowhere => Err(self.nobody_there(to, address)),
            Target::Here(callee) if callee == caller => Err(Failure::new(
                "calling_self",
                format!("{to} is the calling process itself, which could never answer"),
            )),
            Target::Here(callee) => {
                let reference = self.number();
                self.keep_call(reference, &making, asked, Callee::Here, None);
                self.serve_call(reference, callee, Caller::Here, &head, body, out);
                Ok(())
            }
            Target::There { peer, target } => {
                let from = Some((session, caller));
                self.admit(now, peer, from, Mode::Wait, out).map(|_| {
                    let reference = self.number();
                    self.keep_call(reference, &making, asked, Callee::There(peer), None);
                    write_call(peer, caller, reference, target, &head, body, out);
                })
            }
        };
        self.scratch = head;
        result
    }

    pub(super) fn nobody_there(&self, to: &str, address: Address<'_>) -> Failure {
        let code = match address {
            Address::Pid(_) => match to.parse::<Pid>() {
                Ok(pid) => self.why_nowhere(&pid),
                Err(_) => "noproc",
            },
            Address::Remote { node, .. }
                if self.full_name(node).is_ok_and(|node| node != self.me.name) =>
            {
                "noconnection"
            }
            _ => "noproc",
        };
        let text = if code == "noproc" {
            format!("{to} is not alive")
        } else {
            format!("the node of {to} is not connected; `pillion nodes` shows who is")
        };
        Failure::new(code, text)
    }

    /// Asks one of those who may answer: the nearest, with the fewest calls under way.
    pub(super) fn ask_anyone(
        &mut self,
        making: Making<'_>,
        asked: Asked,
        anyone: Anyone,
        head: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        // Without room for a copy of the call there is one try.
        let fits = self.retry_bytes + head.len() + making.body.len() <= self.limits.queue_bytes;
        let member = match self.find_anyone(&anyone, &[], making.caller) {
            Ok(member) => member,
            Err(_) if fits && self.is_moving(&anyone) => {
                let reference = self.number();
                self.waits_for_name(reference, &anyone);
                let (head, body) = (head.into(), making.body.into());
                let others = Box::new(Others { anyone, head, body, tried: Vec::new() });
                self.keep_call(reference, &making, asked, Callee::Nobody, Some(others));
                return Ok(());
            }
            Err(failure) => return Err(failure),
        };
        let rpc = Self::rpc_of(&anyone);
        let others = fits.then(|| {
            let (head, body) = (head.into(), making.body.into());
            Box::new(Others { anyone, head, body, tried: vec![member] })
        });
        let what = rpc.as_ref().map(|(module, function)| Function { module, function });
        self.ask_as(making, asked, member, what, head, others, out)
    }

    /// Asks this member and nobody else.
    pub(super) fn ask_member(
        &mut self,
        making: Making<'_>,
        asked: Asked,
        member: Member,
        what: Option<Function<'_>>,
        head: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        self.ask_as(making, asked, member, what, head, None, out)
    }

    #[allow(clippy::too_many_arguments, reason = "all that a call is")]
    fn ask_as(
        &mut self,
        making: Making<'_>,
        asked: Asked,
        member: Member,
        what: Option<Function<'_>>,
        head: &[u8],
        others: Option<Box<Others>>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let callee = match member {
            Member::Here(_) => Callee::Here,
            Member::There(peer, _) => {
                let from = Some((making.session, making.caller));
                self.admit(making.now, peer, from, Mode::Wait, out)?;
                Callee::There(peer)
            }
        };
        let reference = self.number();
        self.keep_call(reference, &making, asked, callee, others);
        self.dispatch(reference, making.caller, member, what, head, making.body, out);
        Ok(())
    }

    /// Puts a call that is kept already on its way.
    #[allow(clippy::too_many_arguments, reason = "all that a call is")]
    fn dispatch(
        &mut self,
        reference: u64,
        caller: u64,
        member: Member,
        what: Option<Function<'_>>,
        head: &[u8],
        body: &[u8],
        out: &mut Outbox,
    ) {
        match (member, what) {
            (Member::Here(serial), _) => {
                self.serve_call(reference, serial, Caller::Here, head, body, out);
            }
            (Member::There(peer, _), Some(what)) => {
                super::rpc::write_rpc(peer, caller, reference, what, head, body, out);
            }
            (Member::There(peer, serial), None) => {
                write_call(peer, caller, reference, There::Serial(serial), head, body, out);
            }
        }
    }

    fn rpc_of(anyone: &Anyone) -> Option<(Box<str>, Box<str>)> {
        match anyone {
            Anyone::Rpc { module, function } => Some((module.clone(), function.clone())),
            _ => None,
        }
    }

    /// Who is to answer next.
    pub(super) fn find_anyone(
        &mut self,
        anyone: &Anyone,
        tried: &[Member],
        caller: u64,
    ) -> Result<Member, Failure> {
        let itself = || {
            let text =
                "the only one to ask is the calling process itself, which could never answer";
            Failure::new("calling_self", text)
        };
        let found = match anyone {
            Anyone::Group(group) => {
                let mut not = tried.to_vec();
                not.push(Member::Here(caller));
                let found = self.any_member(group, &not);
                if found.is_none() && tried.is_empty() && self.is_member(group, caller) {
                    return Err(itself());
                }
                found
            }
            Anyone::Global(name) => match self.resolve(Address::Global(name))? {
                Target::Here(serial) if serial == caller => return Err(itself()),
                Target::Here(serial) => Some(Member::Here(serial)),
                Target::There { peer, target: There::Serial(serial) } => {
                    Some(Member::There(peer, serial))
                }
                _ => None,
            }
            .filter(|member| !tried.contains(member)),
            Anyone::Rpc { module, function } => {
                self.any_server(Function { module, function }, tried)?
            }
        };
        found.ok_or_else(|| match anyone {
            Anyone::Group(group) => {
                Failure::new("noproc", format!("nobody is in the group `{group}`"))
            }
            Anyone::Global(name) => super::send::no_global(name),
            Anyone::Rpc { module, function } => {
                Failure::new("undef", format!("nobody serves `{function}` of `{module}` any more"))
            }
        })
    }

    /// Whether a call waits for whoever takes a name.
    pub(super) fn waits(&self, reference: u64) -> bool {
        self.calls.get(&reference).is_some_and(|call| call.callee == Callee::Nobody)
    }

    /// Asks somebody else, if a call that nobody was handed may go to others. False when it ends.
    pub(super) fn try_others(&mut self, reference: u64, out: &mut Outbox) -> bool {
        let Some(call) = self.calls.get_mut(&reference) else { return false };
        let caller = call.caller;
        let Some(mut others) = call.others.take() else { return false };
        self.retry_bytes -= others.size();
        if others.tried.len() >= TRIES_MAX {
            return false;
        }
        let found = self.find_anyone(&others.anyone, &others.tried, caller).ok();
        if found.is_none() && !self.waits_for_name(reference, &others.anyone) {
            return false;
        }
        others.tried.extend(found);
        let callee = match found {
            Some(Member::Here(_)) => Callee::Here,
            Some(Member::There(peer, _)) => Callee::There(peer),
            None => Callee::Nobody,
        };
        let rpc = Self::rpc_of(&others.anyone);
        let (head, body) = (others.head.clone(), others.body.clone());
        let size = others.size();
        let Some(call) = self.calls.get_mut(&reference) else { return false };
        let before = std::mem::replace(&mut call.callee, callee);
        call.others = Some(others);
        self.retry_bytes += size;
        if let Callee::There(peer) = before {
            self.peer_mut(peer, |state| state.calls.remove(&reference));
        }
        if let Callee::There(peer) = callee {
            self.peer_mut(peer, |state| state.calls.insert(reference));
        }
        if let Some(member) = found {
            let what = rpc.as_ref().map(|(module, function)| Function { module, function });
            self.dispatch(reference, caller, member, what, &head, &body, out);
        }
        true
    }

    fn keep_call(
        &mut self,
        reference: u64,
        making: &Making<'_>,
        asked: Asked,
        callee: Callee,
        others: Option<Box<Others>>,
    ) {
        let ends = making.now + making.timeout;
        self.agenda.add(ends, Deadline::Call(reference));
        if let Some(process) = self.processes.get_mut(&making.caller) {
            process.calling.insert(reference);
        }
        let call = Call {
            caller: making.caller,
            asked,
            callee,
            timeout: making.timeout,
            began: making.now,
            ends,
            untold: 0,
            others,
        };
        if let Some(others) = &call.others {
            self.retry_bytes += others.size();
        }
        if let Callee::There(peer) = callee {
            self.peer_mut(peer, |state| state.calls.insert(reference));
        }
        self.calls.insert(reference, call);
    }

    fn take_call(&mut self, reference: u64) -> Option<Call> {
        let call = self.calls.remove(&reference)?;
        if let Some(others) = &call.others {
            self.retry_bytes -= others.size();
        }
        self.agenda.remove(call.ends, Deadline::Call(reference));
        if let Some(process) = self.processes.get_mut(&call.caller) {
            process.calling.remove(&reference);
        }
        if let Callee::There(peer) = call.callee {
            self.peer_mut(peer, |state| state.calls.remove(&reference));
        }
        if let (Callee::Nobody, Some(others)) = (call.callee, &call.others) {
            self.waits_no_more(reference, &others.anyone);
        }
        self.life_changes();
        Some(call)
    }

    /// The reply, or the last part of it.
    pub(super) fn replied(
        &mut self,
        reference: u64,
        ct: Option<&str>,
        body: &[u8],
        out: &mut Outbox,
    ) {
        let Some(call) = self.take_call(reference) else { return };
        self.counters.call_ends("ok");
        // The time of what is being done: no look at the clock.
        let now = self.clock.unwrap_or(call.began);
        self.counters.answered.note(now.saturating_duration_since(call.began));
        match call.asked {
            Asked::App { session, id } => {
                let mut head = Head::ok(id.id());
                if let Some(ct) = ct {
                    head = head.text("ct", ct);
                }
                answer(out, session, &head, body);
            }
            Asked::Several(slot) => self.gathered(slot, Ok((ct, body)), out),
        }
    }

    /// A part of the answer: the deadline starts anew.
    pub(super) fn part(
        &mut self,
        now: Instant,
        reference: u64,
        ct: Option<&str>,
        body: &[u8],
        out: &mut Outbox,
    ) {
        let full = self.queued(out) + body.len() > self.limits.queue_bytes;
        let Some(call) = self.calls.get_mut(&reference) else { return };
        let Asked::App { session, id } = &call.asked else {
            let text = "an answer in parts cannot be one of several results";
            return self.give_up(reference, &Ending::new("unsupported", text, true), out);
        };
        if full {
            let text = "this node has no room for more parts that its app does not read";
            return self.give_up(reference, &Ending::new("overloaded", text, true), out);
        }
        self.agenda.remove(call.ends, Deadline::Call(reference));
        call.ends = now + call.timeout;
        self.agenda.add(call.ends, Deadline::Call(reference));
        let session = *session;
        let mut head = Head::event("part").answers(id.id());
        if let Some(ct) = ct {
            head = head.text("ct", ct);
        }
        call.untold += body.len();
        if call.untold >= TOOK_BYTES {
            let bytes = std::mem::take(&mut call.untold);
            if let Some(state) = self.sessions.get_mut(&session) {
                state.parts.push((reference, bytes));
            }
        }
        answer(out, session, &head, body);
    }

    /// The app has taken all that it was told: so have its callees' streams.
    pub(super) fn parts_taken(&mut self, session: u64, out: &mut Outbox) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        for (reference, bytes) in std::mem::take(&mut state.parts) {
            match self.calls.get(&reference).map(|call| call.callee) {
                Some(Callee::Here) => self.took(reference, bytes, out),
                Some(Callee::There(peer)) => out.write_peer(peer, 0, 32, |frame| {
                    let at = message::start(frame, Kind::Took, 0, 0);
                    frame.extend_from_slice(&reference.to_be_bytes());
                    frame.extend_from_slice(&(bytes as u64).to_be_bytes());
                    message::finish(frame, at);
                }),
                Some(Callee::Nobody) | None => {}
            }
        }
    }

    /// A call ends without a reply, unless it may go to somebody else.
    pub(super) fn call_ends(&mut self, reference: u64, ending: &Ending<'_>, out: &mut Outbox) {
        if !ending.maybe_applied && self.try_others(reference, out) {
            return;
        }
        self.call_fails(reference, ending, out);
    }

    pub(super) fn call_fails(&mut self, reference: u64, ending: &Ending<'_>, out: &mut Outbox) {
        let Some(call) = self.take_call(reference) else { return };
        self.counters.call_ends(ending.code);
        match call.asked {
            Asked::App { session, id } => {
                let head = Head::error(id.id(), ending.code, ending.message, ending.maybe_applied);
                answer(out, session, &ending.add_to(head), &[]);
            }
            Asked::Several(slot) => self.gathered(slot, Err(ending), out),
        }
    }

    /// The caller's side ends a call that the callee may have: it is told.
    fn give_up(&mut self, reference: u64, ending: &Ending<'_>, out: &mut Outbox) {
        let Some(call) = self.calls.get(&reference) else { return };
        let maybe_applied = match call.callee {
            Callee::Here => self.cancel_served(reference, out),
            Callee::There(peer) => {
                write_cancel(peer, call.caller, reference, out);
                true
            }
            Callee::Nobody => false,
        };
        self.call_fails(reference, &Ending { maybe_applied, ..ending.clone() }, out);
    }

    pub(super) fn call_times_out(&mut self, now: Instant, reference: u64, out: &mut Outbox) {
        let Some(call) = self.calls.get_mut(&reference) else { return };
        if let Asked::App { session, .. } = call.asked
            && self
                .sessions
                .get(&session)
                .is_some_and(|state| state.parts.iter().any(|(part, _)| *part == reference))
            && out.session_len(session) >= LANE_BYTES
        {
            // Not the callee is late: the app has not taken the parts that are here.
            call.ends = now + call.timeout.max(Duration::from_millis(1));
            self.agenda.add(call.ends, Deadline::Call(reference));
            return;
        }
        let text = format!("no reply within {} ms", call.timeout.as_millis());
        self.give_up(reference, &Ending::new("timeout", &text, true), out);
    }

    /// The calling process has died, or its app waits no longer.
    pub(super) fn caller_leaves(
        &mut self,
        reference: u64,
        code: &str,
        text: &str,
        out: &mut Outbox,
    ) {
        self.give_up(reference, &Ending::new(code, text, true), out);
    }

    /// An app takes one of its calls back. False when it has none of that `id`.
    pub(super) fn cancel_call(&mut self, caller: u64, of: &KeptId, out: &mut Outbox) -> bool {
        let Some(process) = self.processes.get(&caller) else { return false };
        out.count(process.calling.len());
        let found = process.calling.iter().copied().find(|reference| {
            self.calls
                .get(reference)
                .is_some_and(|call| matches!(&call.asked, Asked::App { id, .. } if id == of))
        });
        let Some(reference) = found else { return false };
        self.give_up(reference, &Ending::new("cancelled", "the app took it back", true), out);
        true
    }

    /// A call that the node itself answers, once it has the answer.
    pub(super) fn begin_own(&mut self, making: &Making<'_>, asked: Asked) -> u64 {
        let reference = self.number();
        self.keep_call(reference, making, asked, Callee::Here, None);
        reference
    }

    /// The node has its answer.
    pub(super) fn answer_own(
        &mut self,
        caller: Caller,
        reference: u64,
        told: &Result<Vec<u8>, Failure>,
        out: &mut Outbox,
    ) {
        match (caller, told) {
            (Caller::Here, Ok(body)) => self.replied(reference, None, body, out),
            (Caller::There { peer, reference }, Ok(body)) => {
                write_reply(peer, 0, reference, false, None, body, out);
            }
            (_, Err(failure)) => self.end_of(caller, reference, 0, &failure.ending(), out),
        }
    }

    /// A peer is gone with the callee.
    pub(super) fn call_loses_peer(&mut self, reference: u64, node: &str, out: &mut Outbox) {
        let text = format!("the connection to {node} was lost");
        self.call_ends(reference, &Ending::new("noconnection", &text, true), out);
    }

    /// `Reply`, `Raise`, `Cancel`, `Took`.
    pub(super) fn on_call_frame(
        &mut self,
        now: Instant,
        peer: PeerId,
        kind: Kind,
        frame: Frame<'_>,
        out: &mut Outbox,
    ) -> Result<(), FrameError> {
        let wrong = || FrameError::Malformed("reply");
        let mut payload = Payload(frame.payload);
        let reference = payload.serial().ok_or_else(wrong)?;
        // Only who was asked may answer, and only who asked may take it back.
        let asked = self.calls.get(&reference).is_some_and(|c| c.callee == Callee::There(peer));
        let served = self.peers.get(&peer).and_then(|state| state.serving.get(&reference)).copied();
        match kind {
            Kind::Reply => {
                let (&length, rest) = payload.0.split_first().ok_or_else(wrong)?;
                let (ct, body) = rest.split_at_checked(usize::from(length)).ok_or_else(wrong)?;
                let ct = std::str::from_utf8(ct).map_err(|_| wrong())?;
                let ct = (!ct.is_empty()).then_some(ct);
                if !asked {
                    // Late: nobody waits for it.
                } else if frame.flags & message::REPLY_MORE == 0 {
                    self.replied(reference, ct, body, out);
                } else {
                    self.part(now, reference, ct, body, out);
                }
            }
            Kind::Raise => {
                let raised: Raised = Frame { payload: payload.0, ..frame }.cbor("raise")?;
                if asked {
                    self.call_ends(
                        reference,
                        &Ending {
                            code: cut(&raised.code, 40),
                            message: cut(&raised.message, 1000),
                            maybe_applied: raised.maybe_applied,
                            class: raised.class.as_deref().map(|text| cut(text, LABEL_BYTES_MAX)),
                            reason: raised.reason.as_deref().map(|text| cut(text, WORDS_BYTES_MAX)),
                            stack: raised.stack.as_deref().map(|text| cut(text, WORDS_BYTES_MAX)),
                        },
                        out,
                    );
                }
            }
            Kind::Cancel => {
                if let Some(reference) = served {
                    self.cancel_served(reference, out);
                }
            }
            _ => {
                let bytes = payload.serial().ok_or_else(wrong)?;
                if let Some(reference) = served {
                    self.took(reference, usize::try_from(bytes).unwrap_or(usize::MAX), out);
                }
            }
        }
        Ok(())
    }
}

const _: () = assert!(CT_BYTES_MAX <= u8::MAX as usize && REASON_BYTES_MAX <= WORDS_BYTES_MAX);

/// At most so many bytes of a text.
pub(super) fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn write_call(
    peer: PeerId,
    caller: u64,
    reference: u64,
    target: There<'_>,
    head: &[u8],
    body: &[u8],
    out: &mut Outbox,
) {
    out.write_peer(peer, caller, 64 + 255 + head.len() + body.len(), |bytes| {
        let at = message::start(bytes, Kind::Call, target.flag(), caller);
        bytes.extend_from_slice(&reference.to_be_bytes());
        target.put(bytes);
        event::put_frame(bytes, head, body);
        message::finish(bytes, at);
    });
}

fn write_cancel(peer: PeerId, serial: u64, reference: u64, out: &mut Outbox) {
    out.write_peer(peer, serial, 32, |bytes| {
        let at = message::start(bytes, Kind::Cancel, 0, serial);
        bytes.extend_from_slice(&reference.to_be_bytes());
        message::finish(bytes, at);
    });
}
