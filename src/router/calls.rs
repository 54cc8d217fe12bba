//! Calls: a request, and exactly one end for it by its deadline.
//!
//! A call has two halves. The caller's node keeps a [`Call`] until it ends: it alone tells the app, and only once. The
//! callee's node keeps a [`Served`] until the callee has answered, died, or is no longer waited for. Here the two are
//! one number; between nodes the frames `Call`, `Reply`, `Raise`, `Cancel` and `Took` carry the caller's.
//!
//! A call that nobody waits for any more may still stand in a mailbox: it is passed over when its turn comes.

use std::time::{Duration, Instant};

use super::agenda::Deadline;
use super::deliver::Origin;
use super::gather::Slot;
use super::groups::Member;
use super::mailbox::Tag;
use super::outbox::LANE_BYTES;
use super::peers::{Payload, PeerId};
use super::rpc::Function;
use super::send::{Target, There};
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
const TIMEOUT_MS_MAX: u64 = 366 * 24 * 3600 * 1000;
/// Bytes of an answer in parts that its callee may be ahead of its caller's app.
const STREAM_BYTES_MAX: usize = 1024 * 1024;
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
}

/// A call to a process here that has not been answered.
#[derive(Debug)]
pub(super) struct Served {
    callee: u64,
    caller: Caller,
    /// The app has it.
    handed: bool,
    stream: Option<Box<Stream>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    Here,
    There { peer: PeerId, reference: u64 },
}

/// An answer in parts: how far its callee is ahead.
#[derive(Debug, Default)]
struct Stream {
    untaken: usize,
    /// A `reply` that is answered once there is room: of which session.
    waits: Option<(u64, KeptId)>,
    /// The callee's session is not read, until then at most.
    held: Option<Instant>,
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
    fn new(code: &'a str, message: &'a str, maybe_applied: bool) -> Self {
        Self { code, message, maybe_applied, ..Self::default() }
    }

    fn exit(reason: &'a str, message: &'a str, maybe_applied: bool) -> Self {
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

    fn raised(&self) -> Raised {
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

    fn nobody_there(&self, to: &str, address: Address<'_>) -> Failure {
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
        let member = self.find_anyone(&anyone, &[], making.caller)?;
        let rpc = Self::rpc_of(&anyone);
        let others =
            Others { anyone, head: head.into(), body: making.body.into(), tried: vec![member] };
        // Without room for a copy of the call there is one try.
        let fits = self.retry_bytes + others.size() <= self.limits.queue_bytes;
        let others = fits.then(|| Box::new(others));
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
                if found.is_none()
                    && tried.is_empty()
                    && self.members_once(group).contains(&Member::Here(caller))
                {
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

    /// Asks somebody else, if a call that nobody was handed may go to others. False when it ends.
    fn try_others(&mut self, reference: u64, out: &mut Outbox) -> bool {
        let Some(call) = self.calls.get_mut(&reference) else { return false };
        let caller = call.caller;
        let Some(mut others) = call.others.take() else { return false };
        self.retry_bytes -= others.size();
        if others.tried.len() >= TRIES_MAX {
            return false;
        }
        let Ok(member) = self.find_anyone(&others.anyone, &others.tried, caller) else {
            return false;
        };
        others.tried.push(member);
        let callee = match member {
            Member::Here(_) => Callee::Here,
            Member::There(peer, _) => Callee::There(peer),
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
        let what = rpc.as_ref().map(|(module, function)| Function { module, function });
        self.dispatch(reference, caller, member, what, &head, &body, out);
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

    /// Hands a call to a process here, or ends it at once.
    #[allow(clippy::too_many_arguments, reason = "all that a call is")]
    pub(super) fn serve_call(
        &mut self,
        reference: u64,
        callee: u64,
        caller: Caller,
        head: &[u8],
        body: &[u8],
        out: &mut Outbox,
    ) {
        let Some(process) = self.alive(callee) else {
            let text = format!("{} is not alive", self.pid(callee));
            return self.end_of(
                caller,
                reference,
                callee,
                &Ending::new("noproc", &text, false),
                out,
            );
        };
        // Room for the `ref` that is added.
        let size = 20 + head.len() + body.len();
        let many = process.serving.len() >= OWNED_MAX;
        let fits = |router: &Self| router.has_room_for(callee, size);
        let room = fits(self) || (self.drop_unwanted_calls(callee, out) && fits(self));
        if many || !room {
            let text = format!("the mailbox of {} is full", self.pid(callee));
            let ending = Ending::new("overloaded", &text, false);
            return self.end_of(caller, reference, callee, &ending, out);
        }
        if let Caller::There { peer, reference: theirs } = caller {
            self.peer_mut(peer, |state| state.serving.insert(theirs, reference));
        }
        let served = Served { callee, caller, handed: false, stream: None };
        self.served.insert(reference, served);
        if let Some(process) = self.processes.get_mut(&callee) {
            process.serving.insert(reference);
        }
        let mut with_ref = std::mem::take(&mut self.call_head);
        with_ref.clear();
        with_ref.extend_from_slice(head);
        event::put_ref(&mut with_ref, reference);
        self.deliver(None, callee, Origin::Node, Tag::Call(reference), &with_ref, body, out);
        self.call_head = with_ref;
    }

    /// The app of the callee has been given the call.
    pub(super) fn hand_over(served: &mut super::Map<u64, Served>, reference: u64) {
        if let Some(served) = served.get_mut(&reference) {
            served.handed = true;
        }
    }

    /// Takes calls that nobody waits for any more out of a full mailbox, if there are many. True when it did.
    fn drop_unwanted_calls(&mut self, serial: u64, out: &mut Outbox) -> bool {
        let Some(process) = self.processes.get_mut(&serial) else { return false };
        // Looking at all of it has to be worth it.
        if process.unwanted < process.mailbox.messages() / 4 + 1 {
            return false;
        }
        process.unwanted = 0;
        let before = process.mailbox.bytes();
        let served = &self.served;
        process.mailbox.remove(
            |tag, _| matches!(tag, Tag::Call(reference) if !served.contains_key(&reference)),
        );
        self.mailbox_bytes -= before - process.mailbox.bytes();
        self.weigh(serial);
        self.mailbox_shrank(serial, out);
        true
    }

    /// The first event of a mailbox that is wanted comes first.
    pub(super) fn skip_unwanted_calls(&mut self, serial: u64) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let before = process.mailbox.bytes();
        while let Some((Tag::Call(reference), _)) = process.mailbox.front()
            && !self.served.contains_key(&reference)
        {
            process.mailbox.pop();
            process.unwanted = process.unwanted.saturating_sub(1);
        }
        self.mailbox_bytes -= before - process.mailbox.bytes();
    }

    pub(super) fn reply(
        &mut self,
        asker: &Asker<'_>,
        reference: u64,
        more: bool,
        ct: Option<&str>,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        self.body_fits(body)?;
        let Some((callee, caller)) = self.served_by(asker, reference)? else {
            // As in OTP: whoever asked has stopped waiting, or has its answer.
            Self::done(asker, out);
            return Ok(());
        };
        match caller {
            Caller::Here if more => self.part(asker.now, reference, ct, body, out),
            Caller::Here => {
                self.forget_served(reference, out);
                self.replied(reference, ct, body, out);
            }
            Caller::There { peer, reference: theirs } => {
                self.admit(asker.now, peer, Some((asker.session, callee)), Mode::Wait, out)?;
                if !more {
                    self.forget_served(reference, out);
                }
                write_reply(peer, callee, theirs, more, ct, body, out);
            }
        }
        if more {
            self.part_sent(asker, reference, body.len(), out);
        } else {
            Self::done(asker, out);
        }
        Ok(())
    }

    pub(super) fn raise(
        &mut self,
        asker: &Asker<'_>,
        reference: u64,
        class: &str,
        reason: &str,
        stack: Option<&str>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        if let Some((callee, caller)) = self.served_by(asker, reference)? {
            self.forget_served(reference, out);
            let text;
            let ending = if class == "undef" {
                text =
                    if reason.is_empty() { "there is no such function" } else { reason }.to_owned();
                Ending::new("undef", &text, false)
            } else {
                text = format!("{} raised {class}: {reason}", self.pid(callee));
                let (class, reason) = (Some(class), Some(reason));
                let text: &str = cut(&text, 1000);
                Ending { class, reason, stack, ..Ending::new("exception", text, true) }
            };
            self.end_of(caller, reference, callee, &ending, out);
        }
        Self::done(asker, out);
        Ok(())
    }

    /// Whose call this is, and who called; `None` when nobody waits for it.
    fn served_by(
        &self,
        asker: &Asker<'_>,
        reference: u64,
    ) -> Result<Option<(u64, Caller)>, Failure> {
        let Some(served) = self.served.get(&reference) else { return Ok(None) };
        let own = self.processes.get(&served.callee).is_none_or(|p| p.session == asker.session);
        if !own {
            return Err(Failure::denied("the call is for a process of another session"));
        }
        Ok(Some((served.callee, served.caller)))
    }

    /// A part has been sent on: the callee may be so far ahead and no further.
    fn part_sent(&mut self, asker: &Asker<'_>, reference: u64, bytes: usize, out: &mut Outbox) {
        let ends = asker.now + self.limits.send_timeout;
        let Some(served) = self.served.get_mut(&reference) else {
            Self::done(asker, out);
            return;
        };
        let callee = served.callee;
        let stream = served.stream.get_or_insert_default();
        stream.untaken += bytes;
        if stream.untaken <= STREAM_BYTES_MAX {
            Self::done(asker, out);
            return;
        }
        match asker.id {
            Some(id) if stream.waits.is_none() => {
                stream.waits = Some((asker.session, KeptId::keep(id)));
            }
            _ => {
                // It does not wait for its answers: it is made to wait.
                if stream.held.is_none() {
                    stream.held = Some(ends);
                    self.agenda.add(ends, Deadline::Stream(reference));
                    self.held(callee);
                }
                Self::done(asker, out);
            }
        }
    }

    /// The caller's app has taken so much of the parts.
    fn took(&mut self, reference: u64, bytes: usize, out: &mut Outbox) {
        let Some(served) = self.served.get_mut(&reference) else { return };
        let callee = served.callee;
        let Some(stream) = &mut served.stream else { return };
        stream.untaken = stream.untaken.saturating_sub(bytes);
        if stream.untaken > STREAM_BYTES_MAX / 2 {
            return;
        }
        if let Some((session, id)) = stream.waits.take() {
            answer(out, session, &Head::ok(id.id()), &[]);
        }
        if let Some(ends) = stream.held.take() {
            self.agenda.remove(ends, Deadline::Stream(reference));
            self.let_on(callee, out);
        }
    }

    /// A callee that does not wait for its answers has been held long enough: its stream ends.
    pub(super) fn stream_lapses(&mut self, now: Instant, reference: u64, out: &mut Outbox) {
        let Some(served) = self.served.get(&reference) else { return };
        let held = served.stream.as_ref().and_then(|stream| stream.held);
        if held.is_none_or(|ends| ends > now) {
            return;
        }
        let (callee, caller) = (served.callee, served.caller);
        self.cancel_served(reference, out);
        let text = "the parts of the answer came faster than they were taken";
        self.end_of(caller, reference, callee, &Ending::new("overloaded", text, true), out);
    }

    /// The callee has nothing to do with the call any more.
    fn forget_served(&mut self, reference: u64, out: &mut Outbox) -> Option<Served> {
        let mut served = self.served.remove(&reference)?;
        if let Some(process) = self.processes.get_mut(&served.callee) {
            process.serving.remove(&reference);
            if !served.handed {
                process.unwanted += 1;
            }
        }
        if let Caller::There { peer, reference: theirs } = served.caller {
            self.peer_mut(peer, |state| state.serving.remove(&theirs));
        }
        if let Some(stream) = served.stream.take() {
            if let Some((session, id)) = stream.waits {
                answer(out, session, &Head::ok(id.id()), &[]);
            }
            if let Some(ends) = stream.held {
                self.agenda.remove(ends, Deadline::Stream(reference));
                self.let_on(served.callee, out);
            }
        }
        Some(served)
    }

    /// Nobody waits for the answer any more: the callee hears of it, if it heard of the call. Whether it did.
    pub(super) fn cancel_served(&mut self, reference: u64, out: &mut Outbox) -> bool {
        let Some(served) = self.forget_served(reference, out) else { return true };
        if served.handed {
            let head = Head::event("cancel").uint("ref", reference);
            self.tell(served.callee, Tag::Cancel, &head, out);
        }
        served.handed
    }

    /// The callee has died.
    pub(super) fn served_dies(&mut self, reference: u64, reason: &str, out: &mut Outbox) {
        let Some(served) = self.forget_served(reference, out) else { return };
        let text = format!("{} exited: {reason}", self.pid(served.callee));
        let ending = Ending::exit(reason, &text, served.handed);
        self.end_of(served.caller, reference, served.callee, &ending, out);
    }

    /// Tells the caller's half of the end.
    pub(super) fn end_of(
        &mut self,
        caller: Caller,
        reference: u64,
        callee: u64,
        ending: &Ending<'_>,
        out: &mut Outbox,
    ) {
        match caller {
            Caller::Here => self.call_ends(reference, ending, out),
            Caller::There { peer, reference: theirs } => {
                write_raise(peer, callee, theirs, &ending.raised(), out);
            }
        }
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
        Some(call)
    }

    /// The reply, or the last part of it.
    fn replied(&mut self, reference: u64, ct: Option<&str>, body: &[u8], out: &mut Outbox) {
        let Some(call) = self.take_call(reference) else { return };
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
    fn part(
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
                None => {}
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

    fn call_fails(&mut self, reference: u64, ending: &Ending<'_>, out: &mut Outbox) {
        let Some(call) = self.take_call(reference) else { return };
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

    /// A peer is gone with the callee.
    pub(super) fn call_loses_peer(&mut self, reference: u64, node: &str, out: &mut Outbox) {
        let text = format!("the connection to {node} was lost");
        self.call_ends(reference, &Ending::new("noconnection", &text, true), out);
    }

    pub(super) fn on_call(
        &mut self,
        peer: PeerId,
        frame: Frame<'_>,
        out: &mut Outbox,
    ) -> Result<(), FrameError> {
        let wrong = || FrameError::Malformed("call");
        let mut payload = Payload(frame.payload);
        let theirs = payload.serial().ok_or_else(wrong)?;
        let target = payload.target(frame.flags).ok_or_else(wrong)?;
        let (head, body) = event::split_frame(payload.0).ok_or_else(wrong)?;
        let known = self.peers.get(&peer).is_some_and(|state| state.serving.contains_key(&theirs));
        if known || !super::peers::is_said(head, Said::Call) {
            return Err(wrong());
        }
        let caller = Caller::There { peer, reference: theirs };
        let callee = match target {
            There::Serial(serial) => Some(serial),
            There::Name(name) => self.named(name),
        };
        let Some(callee) = callee else {
            let text = match target {
                There::Name(name) => {
                    format!("no process on {} is registered as `{name}`", self.me.name)
                }
                There::Serial(_) => String::new(),
            };
            self.end_of(caller, 0, 0, &Ending::new("noproc", &text, false), out);
            return Ok(());
        };
        let reference = self.number();
        self.serve_call(reference, callee, caller, head, body, out);
        Ok(())
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

pub(super) fn write_reply(
    peer: PeerId,
    serial: u64,
    reference: u64,
    more: bool,
    ct: Option<&str>,
    body: &[u8],
    out: &mut Outbox,
) {
    let ct = ct.unwrap_or("");
    let flags = if more { message::REPLY_MORE } else { 0 };
    out.write_peer(peer, serial, 32 + ct.len() + body.len(), |bytes| {
        let at = message::start(bytes, Kind::Reply, flags, serial);
        bytes.extend_from_slice(&reference.to_be_bytes());
        bytes.push(u8::try_from(ct.len()).unwrap_or(0));
        bytes.extend_from_slice(ct.as_bytes());
        bytes.extend_from_slice(body);
        message::finish(bytes, at);
    });
}

fn write_raise(peer: PeerId, serial: u64, reference: u64, raised: &Raised, out: &mut Outbox) {
    let words = raised.reason.as_ref().map_or(0, String::len)
        + raised.stack.as_ref().map_or(0, String::len);
    out.write_peer(peer, serial, 256 + words, |bytes| {
        let at = message::start(bytes, Kind::Raise, 0, serial);
        bytes.extend_from_slice(&reference.to_be_bytes());
        ciborium::into_writer(raised, &mut *bytes).expect("plain data becomes CBOR in memory");
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
