//! Events that an app asks for: `receive`, `flush`, `more`, and what it takes back.

use std::time::{Duration, Instant};

use super::agenda::Deadline;
use super::deliver::put_item;
use super::mailbox::Tag;
use super::outbox::LANE_BYTES;
use super::work::Work;
use super::{Asker, Failure, KeptId, Outbox, Router, answer};
use crate::wire::cbor;
use crate::wire::command::Id;
use crate::wire::event::Head;

/// Most events that one `receive` takes.
const RECEIVE_MAX: u64 = 65_536;
/// Most `receive`s of one process that wait.
const RECEIVERS_MAX: usize = 1024;
/// Bytes after which a `receive`, `flush` or `info` of messages takes no more.
pub(super) const LIST_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A `receive` that waits for its first event.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) id: KeptId,
    pub(super) wait: u64,
    pub(super) max: u64,
    pub(super) ends: Instant,
}

impl Receiver {
    pub(super) fn deadline(&self, serial: u64) -> Deadline {
        Deadline::Receive { serial, wait: self.wait }
    }
}

/// Events on their way out of a mailbox into one answer.
#[derive(Debug)]
pub(super) struct Taking {
    session: u64,
    serial: u64,
    /// None where they are thrown away.
    id: Option<KeptId>,
    /// How many more.
    left: u64,
    count: usize,
    items: Vec<u8>,
    /// They did not all fit into the first hold.
    put_off: bool,
}

impl Router {
    pub(super) fn receive(
        &mut self,
        asker: &Asker<'_>,
        pid: Option<&str>,
        max: u64,
        timeout_ms: Option<u64>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let serial = self.actor(asker.session, pid)?;
        let Some(id) = asker.id else {
            return Err(Failure::badarg(
                "`receive` needs an `id`: its answer carries the messages",
            ));
        };
        if !(1..=RECEIVE_MAX).contains(&max) {
            return Err(Failure::badarg("`max` of `receive` is 1 to 65536"));
        }
        let wait = self.number();
        self.skip_unwanted_calls(serial);
        let Some(process) = self.processes.get_mut(&serial) else { return Ok(()) };
        let empty = process.mailbox.is_empty();
        match timeout_ms {
            Some(timeout_ms) if timeout_ms > 0 && (empty || !process.receivers.is_empty()) => {
                if process.receivers.len() >= RECEIVERS_MAX {
                    let text = format!("{RECEIVERS_MAX} `receive`s of this process wait already");
                    return Err(Failure::new("overloaded", text));
                }
                let ends = asker.now + Duration::from_millis(timeout_ms);
                let receiver = Receiver { id: KeptId::keep(id), wait, max, ends };
                self.agenda.add(ends, receiver.deadline(serial));
                process.receivers.push_back(receiver);
                self.serve_receivers(serial, out);
            }
            _ => self.give(asker.session, serial, Some(KeptId::keep(id)), max, out),
        }
        Ok(())
    }

    pub(super) fn serve_receivers(&mut self, serial: u64, out: &mut Outbox) {
        loop {
            self.skip_unwanted_calls(serial);
            let Some(process) = self.processes.get_mut(&serial) else { return };
            if process.mailbox.is_empty() {
                return;
            }
            let Some(receiver) = process.receivers.pop_front() else { return };
            let session = process.session;
            self.agenda.remove(receiver.ends, receiver.deadline(serial));
            self.give(session, serial, Some(receiver.id), receiver.max, out);
        }
    }

    pub(super) fn receive_times_out(&mut self, serial: u64, wait: u64, out: &mut Outbox) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let Some(at) = process.receivers.iter().position(|receiver| receiver.wait == wait) else {
            return;
        };
        let Some(receiver) = process.receivers.remove(at) else { return };
        let session = process.session;
        self.give(session, serial, Some(receiver.id), receiver.max, out);
    }

    /// A `receive` that waits is not wanted any more: it takes nothing from now on.
    pub(super) fn cancel(
        &mut self,
        asker: &Asker<'_>,
        pid: Option<&str>,
        of: Id<'_>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let serial = self.actor(asker.session, pid)?;
        let of = KeptId::keep(of);
        let receiver = self.processes.get_mut(&serial).and_then(|process| {
            let at = process.receivers.iter().position(|receiver| receiver.id == of)?;
            process.receivers.remove(at)
        });
        if let Some(receiver) = &receiver {
            self.agenda.remove(receiver.ends, receiver.deadline(serial));
            let head = Head::error(of.id(), "cancelled", "the app took it back", false);
            answer(out, asker.session, &head, &[]);
        }
        let taken = receiver.is_some() || self.cancel_call(serial, &of, out);
        if let Some(id) = asker.id {
            let head = Head::ok(id).bool("result", taken);
            answer(out, asker.session, &head, &[]);
        }
        Ok(())
    }

    pub(super) fn flush(
        &mut self,
        asker: &Asker<'_>,
        pid: Option<&str>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let serial = self.actor(asker.session, pid)?;
        self.give(asker.session, serial, asker.id.map(KeptId::keep), u64::MAX, out);
        Ok(())
    }

    /// Answers with at most `max` of the events that wait in a mailbox, and takes them; throws them away where no
    /// answer was asked for. Many go in slices: until then the session gives no other command, and nothing else
    /// leaves the mailbox.
    fn give(&mut self, session: u64, serial: u64, id: Option<KeptId>, max: u64, out: &mut Outbox) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let waiting = process.mailbox.messages() + process.mailbox.signals();
        let left = max.min(waiting as u64);
        let taking =
            Taking { session, serial, id, left, count: 0, items: Vec::new(), put_off: false };
        let first = process.takings == 0;
        process.takings += 1;
        let rest = if first { self.take_on(taking, out) } else { Some(taking) };
        if let Some(rest) = rest {
            if let Some(state) = self.sessions.get_mut(&session) {
                state.listings += 1;
            }
            self.work.push_back(Work::Taking(Taking { put_off: true, ..rest }));
        }
    }

    /// Takes a slice of events out of a mailbox; what is left to take comes back.
    pub(super) fn take_on(&mut self, mut taking: Taking, out: &mut Outbox) -> Option<Taking> {
        let serial = taking.serial;
        let most = if self.limits.is_unread(out) { LANE_BYTES } else { LIST_BYTES_MAX };
        let mut done = true;
        if let Some(process) = self.processes.get_mut(&serial) {
            let before = process.mailbox.bytes();
            while taking.left > 0 && (taking.count == 0 || taking.items.len() < most) {
                if !out.may_go_on() {
                    done = false;
                    break;
                }
                let Some((tag, frame)) = process.mailbox.front() else { break };
                out.count(1);
                match tag {
                    Tag::Call(reference) if !self.served.contains_key(&reference) => {
                        // Nobody waits for it any more.
                        process.mailbox.pop();
                        process.unwanted = process.unwanted.saturating_sub(1);
                        continue;
                    }
                    Tag::Call(reference) => Self::hand_over(&mut self.served, reference),
                    Tag::Down(reference) => {
                        self.refs.remove(&reference);
                    }
                    _ => {}
                }
                if taking.id.is_some() {
                    put_item(&mut taking.items, tag, frame);
                }
                process.mailbox.pop();
                taking.count += 1;
                taking.left -= 1;
            }
            self.mailbox_bytes -= before - process.mailbox.bytes();
            if let Some(waited) = self.clock.and_then(|now| process.mailbox.measured(now)) {
                self.counters.waited.note(waited);
            }
            if process.mailbox.is_empty() {
                process.mailbox.rest(&mut out.shelf);
            }
            if done {
                process.takings -= 1;
            }
        }
        if done {
            if let Some(id) = &taking.id {
                let mut body = Vec::with_capacity(taking.items.len() + 9);
                cbor::put_array(&mut body, taking.count);
                body.append(&mut taking.items);
                answer(out, taking.session, &Head::ok(id.id()).carries("messages"), &body);
            }
            if taking.put_off {
                if let Some(state) = self.sessions.get_mut(&taking.session) {
                    state.listings -= 1;
                    out.resumed.push(taking.session);
                }
                self.wants_room(serial, out);
            }
        }
        self.weigh(serial);
        self.mailbox_shrank(serial, out);
        (!done).then_some(taking)
    }

    pub(super) fn more(
        &mut self,
        asker: &Asker<'_>,
        pid: Option<&str>,
        n: u64,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let serial = self.actor(asker.session, pid)?;
        if let Some(process) = self.processes.get_mut(&serial) {
            process.window.consumed(n);
        }
        self.wants_room(serial, out);
        Ok(())
    }

    /// Takes events back that arrived already: the barrier of `unlink` and `demonitor`.
    pub(super) fn take_back(
        &mut self,
        serial: u64,
        unwanted: impl FnMut(Tag, &[u8]) -> bool,
        out: &mut Outbox,
    ) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        if process.mailbox.signals() == 0 {
            return;
        }
        let before = process.mailbox.bytes();
        out.count(process.mailbox.len());
        process.mailbox.remove(unwanted);
        self.mailbox_bytes -= before - process.mailbox.bytes();
        self.weigh(serial);
        self.mailbox_shrank(serial, out);
    }
}
