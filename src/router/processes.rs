//! Processes: how they come, what they are told by signals, and the one way in which they go.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU64;
use std::time::Instant;

use super::agenda::Deadline;
use super::deliver::{Early, Holder, Window};
use super::few::Few;
use super::mailbox::{Bounds, Mailbox, Tag};
use super::monitors::{Monitored, Watcher};
use super::receive::Receiver;
use super::sessions::SessionId;
use super::work::Work;
use super::{Asker, Failure, Outbox, Router, answer};
use crate::wire::command::{Delivery, MailboxOptions};
use crate::wire::event::Head;
use crate::wire::id::{Address, Pid};

/// An addressable mailbox and what belongs to it. There may be very many that have nothing to do, so what few have is boxed.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) session: SessionId,
    pub(super) name: Option<Box<str>>,
    pub(super) label: Option<Box<str>>,
    /// The serial of the process that spawned it.
    pub(super) parent: Option<NonZeroU64>,
    pub(super) trap_exit: bool,
    pub(super) sensitive: bool,
    /// It is a supervisor: what it is told is of no interest.
    pub(super) supervisor: bool,
    pub(super) delivery: Delivery,
    pub(super) bounds: Bounds,
    pub(super) mailbox: Mailbox,
    /// It stands in its session's queue for room in the lane.
    pub(super) queued: bool,
    /// In `heavy` under this weight.
    pub(super) weight: u32,
    pub(super) window: Window,
    pub(super) receivers: Few<VecDeque<Receiver>>,
    /// How many answers are being made of what waits here: nothing else is taken meanwhile. At most one for each that waits in
    /// `receivers`, and one more.
    pub(super) takings: u16,
    pub(super) links: Few<BTreeSet<Pid>>,
    /// Links taken back that the other side has not confirmed.
    pub(super) unlinking: Few<BTreeMap<Pid, u64>>,
    pub(super) monitors: Few<BTreeMap<u64, Monitored>>,
    pub(super) watchers: Few<BTreeSet<Watcher>>,
    /// What it stores, when it is one of the key-value kind.
    pub(super) kv: Option<Box<super::kv::Kv>>,
    /// Its global names, its groups, the modules that it serves.
    pub(super) globals: Few<BTreeSet<Box<str>>>,
    pub(super) groups: Few<BTreeSet<Box<str>>>,
    pub(super) modules: Few<BTreeSet<Box<str>>>,
    /// What it has subscribed to, if anything.
    pub(super) topics: Option<Box<super::topics::Subscriptions>>,
    /// Calls of it that have not ended.
    pub(super) calling: Few<BTreeSet<u64>>,
    /// Calls to it that it has not answered.
    pub(super) serving: Few<BTreeSet<u64>>,
    /// How many calls in the mailbox nobody waits for any more.
    pub(super) unwanted: u32,
    pub(super) timers: Few<BTreeSet<u64>>,
    /// Bytes of what they will send.
    pub(super) timer_bytes: u32,
    /// Whom its full mailbox holds.
    pub(super) holding: Few<BTreeSet<Holder>>,
    /// Since when; the agenda has it.
    pub(super) hold_ends: Option<Box<Instant>>,
    /// And whether that is because it will be full soon.
    pub(super) early: Early,
    /// It has held long enough and sheds until half empty.
    pub(super) lapsed: bool,
    /// How many mailboxes hold it.
    pub(super) holds: u32,
    /// How many messages it lost.
    pub(super) shed: u64,
}

/// What `spawn` asks for.
pub(super) struct Spawn<'a> {
    pub(super) name: Option<&'a str>,
    pub(super) label: Option<&'a str>,
    pub(super) link: bool,
    pub(super) monitor: bool,
    pub(super) trap_exit: bool,
    pub(super) delivery: Option<Delivery>,
    pub(super) mailbox: MailboxOptions,
}

/// What `flag` sets.
pub(super) struct Flags<'a> {
    pub(super) trap_exit: Option<bool>,
    pub(super) sensitive: Option<bool>,
    pub(super) label: Option<&'a str>,
    pub(super) delivery: Option<Delivery>,
    pub(super) mailbox: MailboxOptions,
}

impl Router {
    /// A process that can be reached: there, and its session not on its way out.
    pub(super) fn alive(&self, serial: u64) -> Option<&Process> {
        let process = self.processes.get(&serial)?;
        self.sessions.contains_key(&process.session).then_some(process)
    }

    /// The process that a command acts as: the session's own, or the one it names, which must be the session's.
    pub(super) fn actor(&self, session: SessionId, pid: Option<&str>) -> Result<u64, Failure> {
        let own = self.sessions.get(&session).map_or(0, |session| session.own);
        let Some(text) = pid else { return Ok(own) };
        let pid: Pid = text.parse().map_err(Failure::badarg)?;
        if pid.node != self.me {
            return Err(Failure::denied(format!("{text} is not a process of this session")));
        }
        match self.alive(pid.serial) {
            Some(process) if process.session == session => Ok(pid.serial),
            Some(_) => Err(Failure::denied(format!("{text} belongs to another session"))),
            None => Err(Failure::new("noproc", format!("{text} is dead"))),
        }
    }

    /// A new process of a session.
    pub(super) fn create(&mut self, session: SessionId, delivery: Delivery) -> u64 {
        self.last_serial += 1;
        let serial = self.last_serial;
        let process = Process {
            session,
            name: None,
            label: None,
            parent: None,
            trap_exit: false,
            sensitive: false,
            supervisor: false,
            delivery,
            bounds: Bounds {
                entries: self.limits.mailbox_entries,
                bytes: self.limits.mailbox_bytes,
                policy: crate::wire::command::Overflow::default(),
            },
            mailbox: Mailbox::default(),
            queued: false,
            weight: 0,
            window: Window::default(),
            receivers: Few::default(),
            takings: 0,
            links: Few::default(),
            unlinking: Few::default(),
            monitors: Few::default(),
            watchers: Few::default(),
            kv: None,
            globals: Few::default(),
            groups: Few::default(),
            modules: Few::default(),
            topics: None,
            calling: Few::default(),
            serving: Few::default(),
            unwanted: 0,
            timers: Few::default(),
            timer_bytes: 0,
            holding: Few::default(),
            hold_ends: None,
            early: Early::default(),
            lapsed: false,
            holds: 0,
            shed: 0,
        };
        self.processes.insert(serial, Box::new(process));
        self.serials.insert(serial);
        serial
    }

    pub(super) fn spawn(
        &mut self,
        asker: &Asker<'_>,
        pid: Option<&str>,
        wanted: &Spawn<'_>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let parent = self.actor(asker.session, pid)?;
        if let Some(name) = wanted.name {
            self.name_is_free(name)?;
        }
        self.has_room_for_another(asker.session)?;
        let Some(session) = self.sessions.get(&asker.session) else { return Ok(()) };
        let delivery = wanted.delivery.unwrap_or(session.delivery);
        let serial = self.create(asker.session, delivery);
        if let Some(session) = self.sessions.get_mut(&asker.session) {
            session.processes.insert(serial);
        }
        if let Some(name) = wanted.name {
            self.give_name(serial, name);
        }
        let pid = self.pid(serial);
        let mut reference = None;
        if let Some(process) = self.processes.get_mut(&serial) {
            process.parent = NonZeroU64::new(parent);
            process.label = wanted.label.map(Into::into);
            process.trap_exit = wanted.trap_exit;
            apply(&mut process.bounds, wanted.mailbox);
        }
        if wanted.link {
            self.link_local(parent, serial);
        }
        if wanted.monitor {
            reference = Some(self.monitor_local(parent, serial, None));
        }
        if let Some(id) = asker.id {
            let mut head = Head::ok(id).pid("pid", Some(&pid));
            if let Some(reference) = reference {
                head = head.uint("ref", reference);
            }
            answer(out, asker.session, &head, &[]);
        }
        Ok(())
    }

    pub(super) fn has_room_for_another(&self, session: SessionId) -> Result<(), Failure> {
        if self.sessions.get(&session).is_some_and(|s| s.processes.len() >= super::OWNED_MAX) {
            let text = "a session has at most 200 000 processes; open another one";
            return Err(Failure::new("overloaded", text));
        }
        Ok(())
    }

    pub(super) fn flag(
        &mut self,
        asker: &Asker<'_>,
        pid: Option<&str>,
        flags: &Flags<'_>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let serial = self.actor(asker.session, pid)?;
        if let Some(process) = self.processes.get_mut(&serial) {
            process.trap_exit = flags.trap_exit.unwrap_or(process.trap_exit);
            process.sensitive = flags.sensitive.unwrap_or(process.sensitive);
            if let Some(label) = flags.label {
                process.label = Some(label.into());
            }
            apply(&mut process.bounds, flags.mailbox);
            if let Some(delivery) = flags.delivery {
                process.delivery = delivery;
                process.window = Window::default();
            }
        }
        Self::done(asker, out);
        self.mailbox_shrank(serial, out);
        self.wants_room(serial, out);
        Ok(())
    }

    /// `exit/1`: a process of the session ends.
    pub(super) fn exit(
        &mut self,
        asker: &Asker<'_>,
        pid: Option<&str>,
        reason: &str,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let serial = self.actor(asker.session, pid)?;
        Self::done(asker, out);
        self.leave(serial, reason, out);
        Ok(())
    }

    /// A process ends of its own will, and its session with it when it is the session's own.
    fn leave(&mut self, serial: u64, reason: &str, out: &mut Outbox) {
        let Some(session) = self.processes.get(&serial).map(|process| process.session) else {
            return;
        };
        if self.sessions.get(&session).is_some_and(|state| state.own == serial) {
            self.end_session(session, reason, out);
        } else {
            self.die(serial, reason, out);
        }
    }

    /// `exit/2`: an exit signal to any process.
    pub(super) fn kill<'a>(
        &mut self,
        asker: &mut Asker<'a>,
        pid: Option<&str>,
        to: &'a str,
        reason: &str,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        asker.to = to;
        let actor = self.actor(asker.session, pid)?;
        let target = Address::parse(to).map_err(Failure::badarg)?;
        let own = self.own_target(asker.session, target);
        if reason == "kill" && !own {
            self.needs_operator(asker.session, "kill with the reason kill")?;
        }
        match self.resolve(target)? {
            super::send::Target::Here(serial) => {
                Self::done(asker, out);
                let from = self.pid(actor);
                let traps = self.processes.get(&serial).is_some_and(|process| process.trap_exit);
                if serial == actor && reason == "normal" && !traps {
                    // exit(self(), normal) ends its caller, whom nobody else's `normal` would.
                    self.leave(serial, reason, out);
                } else {
                    self.on_signal(serial, &from, reason, false, out);
                }
            }
            super::send::Target::NoName(name) => return Err(super::send::no_name(name)),
            super::send::Target::NoGlobal(name) => return Err(super::send::no_global(name)),
            super::send::Target::There { peer, target } => {
                self.admit_signal(asker, peer, out)?;
                Self::done(asker, out);
                self.write_reason(
                    peer,
                    actor,
                    crate::wire::message::Kind::Kill,
                    target,
                    reason,
                    out,
                );
            }
            super::send::Target::Nowhere => Self::done(asker, out),
        }
        Ok(())
    }

    fn own_target(&self, session: SessionId, target: Address<'_>) -> bool {
        matches!(self.resolve(target), Ok(super::send::Target::Here(serial))
            if self.processes.get(&serial).is_some_and(|process| process.session == session))
    }

    pub(super) fn needs_operator(&self, session: SessionId, what: &str) -> Result<(), Failure> {
        if self.sessions.get(&session).is_some_and(|session| session.operator) {
            return Ok(());
        }
        Err(Failure::denied(format!(
            "{what} needs an operator: connect to a socket of mode 0600 (NAME.operator.sock beside NAME.sock)"
        )))
    }

    /// An exit signal arrives (Erlang reference manual, "Processes", "Receiving exit signals").
    pub(super) fn on_signal(
        &mut self,
        serial: u64,
        from: &Pid,
        reason: &str,
        link: bool,
        out: &mut Outbox,
    ) {
        let Some(process) = self.processes.get(&serial) else { return };
        let (trap_exit, session) = (process.trap_exit, process.session);
        let untrappable = reason == "kill" && !link;
        if trap_exit && !untrappable {
            let head = Head::event("exit").pid("from", Some(from)).text("reason", reason);
            self.tell(serial, Tag::Exit, &head, out);
            return;
        }
        if reason == "normal" {
            return;
        }
        let reason = if untrappable { "killed" } else { reason };
        if self.sessions.get(&session).is_some_and(|session| session.own == serial) {
            self.end_session(session, reason, out);
            return;
        }
        let head = Head::event("died").pid("pid", Some(&self.pid(serial))).text("reason", reason);
        answer(out, session, &head, &[]);
        self.die(serial, reason, out);
    }

    /// Death is this function: it releases names, leaves topics and groups, fails calls, fires links and
    /// monitors, in that order. What may be many goes on in slices ([`Router::death_step`]).
    pub(super) fn die(&mut self, serial: u64, reason: &str, out: &mut Outbox) {
        let Some(mut process) = self.processes.remove(&serial) else { return };
        #[cfg(test)]
        {
            out.touched += 1;
        }
        self.serials.remove(&serial);
        self.counters.died += 1;
        if let Some(kv) = process.kv.take() {
            self.kv_dies(serial, &kv);
        }
        if process.supervisor {
            self.supervisor_died(serial, out);
        }
        if let Some(name) = &process.name
            && self.forget_name(name, serial)
        {
            self.routes += 1;
        }
        self.node_watchers.remove(&serial);
        self.mailbox_bytes -= process.mailbox.bytes();
        self.heavy.remove(&(process.weight, serial));
        if process.mailbox.signals() == 0 && process.topics.is_none() {
            process.mailbox = Mailbox::default();
        }
        if let Some(ends) = process.hold_ends.take() {
            self.agenda.remove(*ends, Deadline::Hold(serial));
        }
        if let Some(session) = self.sessions.get_mut(&process.session) {
            session.processes.remove(&serial);
            let was_held = session.held > 0;
            session.held -= process.holds.min(session.held);
            if was_held && session.held == 0 {
                out.resumed.push(process.session);
            }
        }
        if !self.mourners.is_empty() {
            let mut head = Head::event("died").pid("pid", Some(&self.pid(serial)));
            if let Some(name) = &process.name {
                head = head.text("name", name);
            }
            let head = head.text("reason", reason);
            out.count(self.mourners.len());
            for (session, missed) in &mut self.mourners {
                // A person's terminal may stand still: the dead are not kept for it.
                if out.session_len(*session) >= super::outbox::UNREAD_BYTES_MAX {
                    *missed += 1;
                    continue;
                }
                if *missed > 0 {
                    let lost = std::mem::take(missed);
                    answer(out, *session, &super::deliver::gap(lost), &[]);
                }
                answer(out, *session, &head, &[]);
            }
        }
        let quiet = process.receivers.is_empty()
            && process.holding.is_empty()
            && process.links.is_empty()
            && process.watchers.is_empty()
            && process.monitors.is_empty()
            && process.timers.is_empty()
            && process.mailbox.is_empty()
            && process.globals.is_empty()
            && process.groups.is_empty()
            && !self.presences.has(serial)
            && process.modules.is_empty()
            && process.topics.is_none()
            && process.calling.is_empty()
            && process.serving.is_empty();
        if !quiet {
            self.work.push_back(Work::Death { serial, reason: reason.into(), process });
        }
    }

    /// One entry of what a dead process leaves behind, in the order in which others wait for it. False when nothing is
    /// left.
    pub(super) fn death_step(
        &mut self,
        serial: u64,
        reason: &str,
        process: &mut Process,
        out: &mut Outbox,
    ) -> bool {
        if let Some(name) = process.globals.pop_first() {
            self.withdraw(&name, out);
        } else if let Some(group) = process.groups.pop_first() {
            self.dead_leaves(serial, &group, out);
        } else if self.dead_untracks(serial, out) {
            // There may be more.
        } else if process.topics.is_some() {
            self.dead_unsubscribes(serial, process, out);
        } else if let Some(module) = process.modules.pop_first() {
            self.serves_no_more(serial, &module, out);
        } else if let Some(reference) = process.serving.pop_first() {
            self.served_dies(reference, reason, out);
        } else if let Some(reference) = process.calling.pop_first() {
            self.caller_leaves(reference, "noproc", "the calling process died", out);
        } else if let Some(receiver) = process.receivers.pop_front() {
            self.agenda.remove(receiver.ends, receiver.deadline(serial));
            let text = format!("{} died while it waited: {reason}", self.pid(serial));
            let head = Head::error(receiver.id.id(), "noproc", &text, false);
            answer(out, process.session, &head, &[]);
        } else if let Some(holder) = process.holding.pop_first() {
            self.release_one(holder, out);
        } else if let Some(other) = process.links.pop_first() {
            self.tell_linked(serial, &other, reason, out);
        } else if let Some(watcher) = process.watchers.pop_first() {
            self.tell_watcher(serial, watcher, reason, out);
        } else if let Some((reference, monitored)) = process.monitors.pop_first() {
            self.refs.remove(&reference);
            self.forget_monitored(serial, reference, monitored, out);
        } else if let Some(timer) = process.timers.pop_first() {
            self.forget_timer(timer);
        } else if let Some((tag, _)) = process.mailbox.front() {
            if let Tag::Down(reference) = tag {
                self.refs.remove(&reference);
            }
            process.mailbox.pop();
        } else {
            return false;
        }
        true
    }
}

pub(super) fn apply(bounds: &mut Bounds, options: MailboxOptions) {
    let number = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    bounds.entries = options.entries.map_or(bounds.entries, number);
    bounds.bytes = options.bytes.map_or(bounds.bytes, number);
    bounds.policy = options.policy.unwrap_or(bounds.policy);
}
