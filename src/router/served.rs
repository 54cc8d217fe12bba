//! The callee's half of a call: until it has answered, died, or nobody waits for it any more.

use std::time::Instant;

use super::agenda::Deadline;
use super::calls::{Ending, cut};
use super::deliver::Origin;
use super::mailbox::Tag;
use super::peers::{Payload, PeerId};
use super::send::There;
use super::{Asker, Failure, KeptId, OWNED_MAX, Outbox, Router, answer};
use crate::wire::command::Mode;
use crate::wire::event::{self, Head, Said};
use crate::wire::message::{self, Frame, FrameError, Kind, Raised};

/// Bytes of an answer in parts that its callee may be ahead of its caller's app.
const STREAM_BYTES_MAX: usize = 1024 * 1024;

/// A call to a process here that has not been answered.
#[derive(Debug)]
pub(super) struct Served {
    callee: u64,
    caller: Caller,
    /// The app has it.
    handed: bool,
    stream: Option<Box<Stream>>,
}

/// Whose call it is.
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

impl Router {
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
        if self.pressing(out) + size > self.limits.queue_bytes {
            self.shed_heaviest(size, out);
        }
        let full = self.pressing(out) + size > self.limits.queue_bytes;
        if many || !room || full {
            let text = if full {
                format!("the queues of {} are full together", self.me.name)
            } else {
                format!("the mailbox of {} is full", self.pid(callee))
            };
            let ending = Ending::new("overloaded", &text, false);
            return self.end_of(caller, reference, callee, &ending, out);
        }
        if let Caller::There { peer, reference: theirs } = caller {
            self.peer_mut(peer, |state| state.serving.insert(theirs, reference));
        }
        let served = Served { callee, caller, handed: false, stream: None };
        self.served.insert(reference, served);
        let (mut process_is_kv, mut supervises) = (false, false);
        if let Some(process) = self.processes.get_mut(&callee) {
            process.serving.insert(reference);
            process_is_kv = process.kv.is_some();
            supervises = process.supervisor;
        }
        if supervises {
            let text = "a supervisor answers no calls; `tree` shows what it does";
            self.answer_served(reference, &Err(Failure::badarg(text)), out);
            return;
        }
        if process_is_kv {
            self.kv_called(callee, reference, head, body, out);
            return;
        }
        let mut with_ref = std::mem::take(&mut self.call_head);
        with_ref.clear();
        with_ref.extend_from_slice(head);
        event::put_ref(&mut with_ref, reference);
        self.deliver(None, callee, Origin::Node, Tag::Call(reference), &with_ref, body, out);
        self.call_head = with_ref;
    }

    /// The node answers a call itself.
    pub(super) fn answer_served(
        &mut self,
        reference: u64,
        told: &Result<Vec<u8>, Failure>,
        out: &mut Outbox,
    ) {
        let Some(served) = self.served.get_mut(&reference) else { return };
        served.handed = true;
        let (callee, caller) = (served.callee, served.caller);
        self.forget_served(reference, out);
        match (told, caller) {
            (Ok(body), Caller::Here) => self.replied(reference, None, body, out),
            (Ok(body), Caller::There { peer, reference }) => {
                write_reply(peer, callee, reference, false, None, body, out);
            }
            (Err(failure), _) => self.end_of(caller, reference, callee, &failure.ending(), out),
        }
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
        if (process.unwanted as usize) < process.mailbox.messages() / 4 + 1 {
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
    pub(super) fn took(&mut self, reference: u64, bytes: usize, out: &mut Outbox) {
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
            self.let_on(callee, 1, out);
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
        self.life_changes();
        if let Some(process) = self.processes.get_mut(&served.callee) {
            process.serving.remove(&reference);
            if !served.handed {
                process.unwanted = process.unwanted.saturating_add(1);
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
                self.let_on(served.callee, 1, out);
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
