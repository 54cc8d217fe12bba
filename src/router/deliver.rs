//! The way of an event into a mailbox and out of it: bounds, windows, holds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::agenda::Deadline;
use super::few::Few;
use super::mailbox::Tag;
use super::outbox::LANE_BYTES;
use super::peers::PeerId;
use super::processes::Process;
use super::shared::{SHARED_BYTES_MIN, Shared, Sum};
use super::work::Work;
use super::{
    Outbox, Router, SIGNAL_BYTES_HEAVY, SIGNAL_BYTES_MAX, SIGNALS_MAX, WINDOW_BYTES_MAX, answer,
};
use crate::wire::command::{Delivery, Mode, Overflow};
use crate::wire::event::{self, Head};
use crate::wire::message::{self, Kind};

/// What one sender may write before it is known to be held, its last command aside: twice what a session reads at a
/// time, because what is read as JSON may grow.
const BATCH_BYTES: usize = 128 * 1024;
/// What may be between the lane of a peer and this mailbox while a busy node does not come to read: what that peer is
/// writing, what the systems at both ends hold (`transport` bounds it), and what has been read here.
const PIPE_BYTES: usize = 4 * 1024 * 1024;
/// A `wait` mailbox that takes more than this holds its senders for a moment, though it is far from full: what waits in
/// it has left the processor's caches before the app gets it, and costs more the longer the queue is.
const EARLY_BYTES: usize = 512 * 1024;
/// How long at most: an app that takes nothing meanwhile is slow, and its mailbox fills as it may.
const EARLY_HOLD: Duration = Duration::from_millis(20);
/// Mailboxes are weighed in steps of this many bytes,
const WEIGHT_STEP_BITS: u32 = 16;
/// and below the first of them in powers of two from this one on.
const WEIGHT_FIRST_BITS: u32 = 10;

/// Whom a full mailbox holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holder {
    /// A process here.
    Local(u64),
    /// A process of a peer.
    Remote(PeerId, u64),
}

/// Whether a mailbox that is not full holds its senders for a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Early {
    /// It may.
    #[default]
    Ready,
    /// It does.
    Holding,
    /// It did for as long as it may: not again until it is nearly empty.
    Spent,
}

/// Where a message comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A process, which can be held.
    Process(Holder),
    /// A process whose message may rather be lost.
    Lossy,
    /// The node.
    Node,
}

/// What was given to the app and not yet consumed, where it asked for a window.
#[derive(Debug, Default)]
pub(super) struct Window {
    sizes: Few<VecDeque<u32>>,
    bytes: usize,
}

impl Window {
    fn has_room(&self, n: u32) -> bool {
        self.sizes.is_empty() || (self.sizes.len() < n as usize && self.bytes < WINDOW_BYTES_MAX)
    }

    fn give(&mut self, bytes: usize) {
        self.sizes.push_back(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.bytes += bytes;
    }

    pub(super) fn consumed(&mut self, n: u64) {
        for _ in 0..n {
            let Some(bytes) = self.sizes.pop_front() else { return };
            self.bytes -= bytes as usize;
        }
    }
}

impl Process {
    /// What its mailbox weighs, in steps: what it could give, which signals only are where they are many.
    fn weight_now(&self) -> u32 {
        let signals = self.mailbox.signal_bytes();
        let kept = if signals < SIGNAL_BYTES_HEAVY { signals } else { 0 };
        let bytes = self.mailbox.bytes() - self.mailbox.call_bytes() - kept;
        if bytes >> WEIGHT_FIRST_BITS == 0 {
            0
        } else if bytes >> WEIGHT_STEP_BITS == 0 {
            bytes.ilog2() - WEIGHT_FIRST_BITS + 1
        } else {
            let steps = u32::try_from(bytes >> WEIGHT_STEP_BITS).unwrap_or(u32::MAX >> 1);
            steps + WEIGHT_STEP_BITS - WEIGHT_FIRST_BITS
        }
    }

    /// Whether an event of this kind may go to the app now, room in the lane aside.
    fn may_push(&self, tag: Tag) -> bool {
        match self.delivery {
            _ if self.takings > 0 => false,
            Delivery::Push => true,
            Delivery::Pull => false,
            Delivery::Window(n) => !tag.is_counted() || self.window.has_room(n),
        }
    }
}

/// An event for a process.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event<'a> {
    /// Its header and its body.
    Parts(&'a [u8], &'a [u8]),
    /// The frame that its process gets, if it is the session's own.
    Frame(&'a [u8]),
    /// The same, which others get too.
    Shared(&'a Shared),
}

impl<'a> Event<'a> {
    /// The same, copied where that costs less than keeping count of it: a small one, unless it is to be a line as it is.
    fn for_session(self, as_a_line: impl FnOnce() -> bool) -> Self {
        match self {
            Self::Shared(shared) if shared.frame().len() < SHARED_BYTES_MIN && !as_a_line() => {
                Self::Frame(shared.frame())
            }
            event => event,
        }
    }

    fn len(self) -> usize {
        match self {
            Self::Parts(head, body) => 6 + head.len() + body.len(),
            Self::Frame(frame) => frame.len(),
            Self::Shared(shared) => shared.frame().len(),
        }
    }

    fn parts(self) -> (&'a [u8], &'a [u8]) {
        match self {
            Self::Parts(head, body) => (head, body),
            Self::Frame(frame) => event::split_frame(frame).unwrap_or_default(),
            Self::Shared(shared) => event::split_frame(shared.frame()).unwrap_or_default(),
        }
    }

    /// The same in a piece of memory of its own, if it is not that already.
    pub(super) fn share(self, sum: &Sum) -> Shared {
        if let Self::Shared(shared) = self {
            return shared.clone();
        }
        let mut bytes = Vec::with_capacity(self.len());
        self.put(&mut bytes);
        Shared::new(bytes, 0, sum)
    }

    fn put(self, bytes: &mut Vec<u8>) {
        match self {
            Self::Parts(head, body) => event::put_frame(bytes, head, body),
            Self::Frame(frame) => bytes.extend_from_slice(frame),
            Self::Shared(shared) => bytes.extend_from_slice(shared.frame()),
        }
    }
}

impl Router {
    /// An event of the node itself for a process: never shed.
    pub(super) fn tell(&mut self, serial: u64, tag: Tag, head: &Head, out: &mut Outbox) {
        self.deliver(None, serial, Origin::Node, tag, head.bytes(), &[], out);
    }

    /// Puts an event behind all that the process has been told before.
    #[allow(clippy::too_many_arguments, reason = "one of the two doors into every mailbox")]
    pub(super) fn deliver(
        &mut self,
        now: Option<Instant>,
        serial: u64,
        origin: Origin,
        tag: Tag,
        head: &[u8],
        body: &[u8],
        out: &mut Outbox,
    ) {
        self.deliver_event(now, serial, origin, tag, Event::Parts(head, body), out);
    }

    /// The same, however the event is there. One that is shared is not copied at all, except for a process that is not its
    /// session's own, whose frames name it.
    pub(super) fn deliver_event(
        &mut self,
        now: Option<Instant>,
        serial: u64,
        origin: Origin,
        tag: Tag,
        event: Event<'_>,
        out: &mut Outbox,
    ) {
        #[cfg(test)]
        {
            out.touched += 1;
        }
        let Some(process) = self.processes.get_mut(&serial) else { return };
        if process.kv.is_some() {
            let (head, body) = event.parts();
            self.kv_told(serial, tag, head, body, out);
            return;
        }
        if process.supervisor {
            return;
        }
        let Some(session) = self.sessions.get_mut(&process.session) else { return };
        self.counters.arrives(tag);
        let own = session.own == serial;
        let event = event.for_session(|| own && out.reads_lines(process.session));
        if process.mailbox.is_empty() && process.may_push(tag) && session.attached {
            let room = self.limits.lane_bytes(out, LANE_BYTES);
            let written = match event {
                Event::Shared(shared) if own => {
                    let room = out.session_len(process.session) < room;
                    if room {
                        out.share_session(process.session, shared.clone());
                    }
                    room
                }
                _ => out.write_session_within(process.session, room, |bytes| {
                    if own {
                        event.put(bytes);
                    } else {
                        let (head, body) = event.parts();
                        event::put_frame_for(bytes, head, body, &self.prefix, serial);
                    }
                }),
            };
            if written {
                if tag.is_counted() && matches!(process.delivery, Delivery::Window(_)) {
                    process.window.give(event.len());
                }
                match tag {
                    Tag::Down(reference) => {
                        self.refs.remove(&reference);
                    }
                    Tag::Call(reference) => Self::hand_over(&mut self.served, reference),
                    _ => {}
                }
                return;
            }
        }
        let size = event.len();
        let mut hold = false;
        if tag.is_message() {
            if !process.mailbox.has_room(&process.bounds, size) {
                match process.bounds.policy {
                    Overflow::DropNewest => return self.shed_this(serial),
                    Overflow::DropOldest => {
                        let before = process.mailbox.bytes();
                        while !process.mailbox.has_room(&process.bounds, size)
                            && process.mailbox.shed_oldest()
                        {
                            out.count(1);
                            process.shed += 1;
                            self.counters.shed += 1;
                        }
                        self.mailbox_bytes -= before - process.mailbox.bytes();
                    }
                    Overflow::Exit => return self.overloaded(serial, out),
                    Overflow::Wait => {
                        // What is under way when senders are held. The sum of all queues bounds it once more.
                        let of_sender = self.limits.body_bytes + BATCH_BYTES;
                        let of_peer = self.limits.peer_bytes + PIPE_BYTES;
                        let under_way = of_sender
                            .saturating_mul(process.holding.len() + 1)
                            .saturating_add(of_peer.saturating_mul(self.peers.len()));
                        let far_over = process.mailbox.bytes() + size
                            > process.bounds.bytes.saturating_add(under_way);
                        if process.lapsed || far_over || !matches!(origin, Origin::Process(_)) {
                            return self.shed_this(serial);
                        }
                        hold = true;
                    }
                }
            }
        } else if !tag.is_counted()
            && (process.mailbox.signals() >= SIGNALS_MAX
                || process.mailbox.signal_bytes() + size > SIGNAL_BYTES_MAX)
        {
            if let Tag::Down(reference) = tag {
                self.refs.remove(&reference);
            }
            return self.overloaded(serial, out);
        }
        if let Tag::Down(reference) = tag {
            self.refs.insert(reference, serial);
        }
        match event {
            Event::Shared(shared) => process.mailbox.push_shared(tag, shared.clone()),
            _ => process.mailbox.push(tag, size, &mut out.shelf, |bytes| event.put(bytes)),
        }
        if let Some(now) = self.clock {
            process.mailbox.measure(now);
        }
        self.mailbox_bytes += size;
        let (heavier, served, queued) =
            (process.weight_now() != process.weight, !process.receivers.is_empty(), process.queued);
        let mut early = false;
        let waits = process.bounds.policy == Overflow::Wait && !process.lapsed;
        if waits {
            hold |= !process.mailbox.has_room(&process.bounds, size);
            early = !hold
                && match process.early {
                    Early::Ready => process.holding.is_empty(),
                    Early::Holding => true,
                    Early::Spent => false,
                }
                && process.mailbox.bytes() > EARLY_BYTES
                && process.bounds.bytes >= 2 * EARLY_BYTES
                && process.delivery == Delivery::Push
                && session.attached;
        }
        if heavier {
            self.weigh(serial);
        }
        if let (true, Origin::Process(holder), Some(now)) = (hold || early, origin, now) {
            self.hold(now, serial, holder, early, out);
        }
        let pressing = self.pressing(out);
        if waits && pressing > self.limits.queue_bytes / 2 && matches!(tag, Tag::Topic(_)) {
            self.topics.stall.crowded = true;
        }
        if pressing > self.limits.queue_bytes {
            self.shed_heaviest(0, out);
            if tag.is_message()
                && self.heavy.is_empty()
                && self.pressing(out) > self.limits.queue_bytes
            {
                // All are light: the one that has grown gives back what it grew by.
                self.shed_one(serial);
            }
        }
        if served {
            self.serve_receivers(serial, out);
        }
        if !queued {
            self.wants_room(serial, out);
        }
    }

    fn shed_this(&mut self, serial: u64) {
        if let Some(process) = self.processes.get_mut(&serial) {
            process.mailbox.push_gap();
            process.shed += 1;
            self.counters.shed += 1;
        }
    }

    fn overloaded(&mut self, serial: u64, out: &mut Outbox) {
        let Some(process) = self.processes.get(&serial) else { return };
        let session = process.session;
        if self.sessions.get(&session).is_some_and(|session| session.own == serial) {
            self.end_session(session, "overloaded", out);
        } else {
            let head = Head::event("died")
                .pid("pid", Some(&self.pid(serial)))
                .text("reason", "overloaded");
            answer(out, session, &head, &[]);
            self.die(serial, "overloaded", out);
        }
    }

    /// Notes how heavy a mailbox has become.
    pub(super) fn weigh(&mut self, serial: u64) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let weight = process.weight_now();
        if weight != process.weight {
            self.heavy.remove(&(process.weight, serial));
            process.weight = weight;
            if weight > 0 {
                self.heavy.insert((weight, serial));
            }
        }
    }

    /// The node's queues are full together: the mailbox that holds most sheds.
    /// It does so until there is room for so many bytes more.
    pub(super) fn shed_heaviest(&mut self, room: usize, out: &mut Outbox) {
        while self.pressing(out) + room > self.limits.queue_bytes {
            if !out.may_go_on() {
                self.shed_later();
                return;
            }
            out.count(1);
            let Some(&(_, serial)) = self.heavy.last() else { return };
            if !self.shed_one(serial) {
                let signals =
                    self.processes.get(&serial).map_or(0, |process| process.mailbox.signal_bytes());
                if signals < SIGNAL_BYTES_HEAVY {
                    return;
                }
                self.overloaded(serial, out);
                self.shed_later();
                return;
            }
        }
    }

    /// A mailbox loses one message, as its policy says. False when it has none.
    fn shed_one(&mut self, serial: u64) -> bool {
        let Some(process) = self.processes.get_mut(&serial) else { return false };
        let before = process.mailbox.bytes();
        let shed = if process.bounds.policy == Overflow::DropOldest {
            process.mailbox.shed_oldest()
        } else {
            process.mailbox.shed_newest()
        };
        if shed {
            process.shed += 1;
            self.counters.shed += 1;
            self.mailbox_bytes -= before - process.mailbox.bytes();
            self.weigh(serial);
        }
        shed
    }

    fn shed_later(&mut self) {
        if !std::mem::replace(&mut self.shedding, true) {
            self.work.push_back(Work::Shed);
        }
    }

    pub(super) fn shed_on(&mut self, out: &mut Outbox) {
        self.shedding = false;
        self.shed_heaviest(0, out);
    }

    /// What the app may have now goes into its lane; the rest queues for room.
    pub(super) fn wants_room(&mut self, serial: u64, out: &mut Outbox) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let Some(session) = self.sessions.get_mut(&process.session) else { return };
        if process.queued || process.mailbox.is_empty() {
            return;
        }
        let Some((tag, _)) = process.mailbox.front() else { return };
        if !process.may_push(tag) {
            return;
        }
        process.queued = true;
        session.wanting.push_back(serial);
        let room = self.limits.lane_bytes(out, LANE_BYTES);
        if session.attached && out.session_len(process.session) < room {
            let session = process.session;
            self.fill(session, out);
        }
    }

    /// The lane of a session was taken: its processes' events move up.
    pub fn on_session_room(&mut self, session: u64, out: &mut Outbox) {
        let Some(state) = self.sessions.get(&session) else { return };
        let parts = state.attached && !state.parts.is_empty();
        if state.attached && !state.wanting.is_empty() {
            self.fill(session, out);
        }
        if parts {
            self.parts_taken(session, out);
        }
    }

    pub(super) fn fill_on(&mut self, session: u64, out: &mut Outbox) {
        if let Some(state) = self.sessions.get_mut(&session) {
            state.filling = false;
            if state.attached {
                self.fill(session, out);
            }
        }
    }

    /// Counts the processes that it looks at; how many events they give is bounded by the bytes of the lane.
    fn fill(&mut self, session: u64, out: &mut Outbox) {
        loop {
            let room = self.limits.lane_bytes(out, LANE_BYTES);
            if out.session_len(session) >= room {
                return;
            }
            let Some(state) = self.sessions.get_mut(&session) else { return };
            if !out.may_go_on() {
                if !state.wanting.is_empty() && !std::mem::replace(&mut state.filling, true) {
                    self.work.push_back(Work::Fill { session });
                }
                return;
            }
            let Some(serial) = state.wanting.pop_front() else { return };
            out.count(1);
            let own = state.own == serial;
            let Some(process) = self.processes.get_mut(&serial) else { continue };
            process.queued = false;
            let before = process.mailbox.bytes();
            let mut frames = 0;
            let prefix = &self.prefix;
            // Chunks of the mailbox become the lane's buffer as they are, where their frames need no change.
            let whole = own && process.delivery == Delivery::Push;
            if whole
                && out.session_len(session) == 0
                && let Some((chunk, count)) = process.mailbox.take_chunk(LANE_BYTES / 2)
            {
                process.mailbox.keep(out.give_session(session, chunk));
                frames = count;
            }
            let mut more = false;
            let mut full = false;
            // What goes into the lane as it is, and behind how many of the other bytes.
            let mut shared: Vec<(usize, Shared)> = Vec::new();
            let mut elsewhere = out.session_shared_len(session);
            out.write_session(session, 0, |bytes| {
                while let Some((tag, _)) = process.mailbox.front() {
                    if !process.may_push(tag) {
                        return;
                    }
                    let taken = bytes.len() + elsewhere;
                    full = taken >= room
                        || (whole && taken >= room / 2 && process.mailbox.is_between_chunks());
                    if full {
                        more = true;
                        return;
                    }
                    if own && let Some(event) = process.mailbox.front_shared() {
                        let size = event.frame().len();
                        elsewhere += size;
                        shared.push((bytes.len(), event.clone()));
                        if tag.is_counted() && matches!(process.delivery, Delivery::Window(_)) {
                            process.window.give(size);
                        }
                        process.mailbox.pop();
                        continue;
                    }
                    if whole && tag.is_message() {
                        frames += process.mailbox.take_run(room - taken, bytes);
                        continue;
                    }
                    if let Tag::Call(reference) = tag {
                        if !self.served.contains_key(&reference) {
                            // Nobody waits for it any more.
                            process.mailbox.pop();
                            process.unwanted = process.unwanted.saturating_sub(1);
                            continue;
                        }
                        Self::hand_over(&mut self.served, reference);
                    }
                    let Some((_, frame)) = process.mailbox.front() else { return };
                    let size = frame.len();
                    match tag {
                        Tag::Gap(lost) => {
                            let head = gap(lost);
                            put(bytes, head.bytes(), &[], own, prefix, serial);
                        }
                        _ if own => bytes.extend_from_slice(frame),
                        _ => {
                            if let Some((head, body)) = event::split_frame(frame) {
                                put(bytes, head, body, own, prefix, serial);
                            }
                        }
                    }
                    if tag.is_counted() && matches!(process.delivery, Delivery::Window(_)) {
                        process.window.give(size);
                    }
                    if let Tag::Down(reference) = tag {
                        self.refs.remove(&reference);
                    }
                    process.mailbox.pop();
                    frames += 1;
                }
            });
            out.write_session(session, frames, |_| {});
            for (behind, event) in shared {
                out.share_session_behind(session, behind, event);
            }
            self.mailbox_bytes -= before - process.mailbox.bytes();
            if let Some(waited) = self.clock.and_then(|now| process.mailbox.measured(now)) {
                self.counters.waited.note(waited);
            }
            if more {
                process.queued = true;
                if let Some(state) = self.sessions.get_mut(&session) {
                    state.wanting.push_back(serial);
                }
            } else if process.mailbox.is_empty() {
                process.mailbox.rest(&mut out.shelf);
            }
            self.weigh(serial);
            self.mailbox_shrank(serial, out);
            if full {
                return;
            }
        }
    }

    /// Lets its senders go on when a mailbox has become half empty.
    pub(super) fn mailbox_shrank(&mut self, serial: u64, out: &mut Outbox) {
        self.stall_shrank(out);
        self.watcher_reads(serial);
        let Some(process) = self.processes.get_mut(&serial) else { return };
        if process.early != Early::Ready && process.mailbox.bytes() <= EARLY_BYTES / 2 {
            let holds = process.early == Early::Holding;
            process.early = Early::Ready;
            if holds {
                self.release(serial, out);
                return;
            }
        } else if process.early == Early::Holding && process.bounds.policy == Overflow::Wait {
            return;
        }
        let Some(process) = self.processes.get_mut(&serial) else { return };
        if process.holding.is_empty() && !process.lapsed {
            return;
        }
        if process.mailbox.is_half_empty(&process.bounds) || process.bounds.policy != Overflow::Wait
        {
            process.lapsed = false;
            self.release(serial, out);
        }
    }

    /// A `wait` mailbox is full of what somebody sends, or will be soon: that sender's session is not read for a while.
    fn hold(&mut self, now: Instant, serial: u64, holder: Holder, early: bool, out: &mut Outbox) {
        let ends = now + if early { EARLY_HOLD } else { self.limits.send_timeout };
        let Some(process) = self.processes.get(&serial) else { return };
        if let Holder::Local(sender) = holder
            && process.delivery != Delivery::Push
            && self.processes.get(&sender).is_some_and(|from| from.session == process.session)
        {
            // Only this session's own `receive` or `more` could empty the mailbox: they have to be read.
            return;
        }
        let Some(process) = self.processes.get_mut(&serial) else { return };
        if early {
            process.early = Early::Holding;
        } else if process.early == Early::Holding {
            // What was under way has filled it: from now on it is held as any full one.
            process.early = Early::Spent;
            if let Some(earlier) = process.hold_ends.replace(Box::new(ends)) {
                self.agenda.remove(*earlier, Deadline::Hold(serial));
            }
            self.agenda.add(ends, Deadline::Hold(serial));
        }
        if !process.holding.insert(holder) {
            return;
        }
        if process.hold_ends.is_none() {
            process.hold_ends = Some(Box::new(ends));
            self.agenda.add(ends, Deadline::Hold(serial));
        }
        match holder {
            Holder::Local(sender) => {
                self.held(sender);
            }
            Holder::Remote(peer, sender) => write_hold(peer, Kind::Hold, sender, out),
        }
    }

    /// A process is held by one more mailbox.
    pub(super) fn held(&mut self, sender: u64) -> bool {
        let Some(process) = self.processes.get_mut(&sender) else { return false };
        process.holds += 1;
        if let Some(session) = self.sessions.get_mut(&process.session) {
            session.held += 1;
        }
        true
    }

    /// A process is held by so many mailboxes less.
    pub(super) fn let_on(&mut self, sender: u64, times: u32, out: &mut Outbox) {
        let Some(process) = self.processes.get_mut(&sender) else { return };
        let times = times.min(process.holds);
        if times == 0 {
            return;
        }
        process.holds -= times;
        if let Some(session) = self.sessions.get_mut(&process.session) {
            session.held = session.held.saturating_sub(times);
            if session.held == 0 {
                out.resumed.push(process.session);
            }
        }
    }

    fn release(&mut self, serial: u64, out: &mut Outbox) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        if let Some(ends) = process.hold_ends.take() {
            self.agenda.remove(*ends, Deadline::Hold(serial));
        }
        let mut holders = process.holding.take();
        while out.may_go_on() {
            let Some(holder) = holders.pop_first() else { return };
            out.count(1);
            self.release_one(holder, out);
        }
        if !holders.is_empty() {
            self.work.push_back(Work::Release { holders });
        }
    }

    pub(super) fn release_one(&mut self, holder: Holder, out: &mut Outbox) {
        match holder {
            Holder::Local(sender) => self.let_on(sender, 1, out),
            Holder::Remote(peer, sender) => write_hold(peer, Kind::Go, sender, out),
        }
    }

    /// Held for the whole send timeout: from now on a mailbox that is still full sheds and holds nobody until half empty. One
    /// that has room again belongs to an app that is slow and not stuck: its senders go on, and are held again once it is
    /// full.
    pub(super) fn hold_lapses(&mut self, now: Instant, serial: u64, out: &mut Outbox) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        if process.hold_ends.as_ref().is_none_or(|ends| **ends > now) {
            return;
        }
        if process.early == Early::Holding {
            process.early = Early::Spent;
        } else {
            process.lapsed = !process.mailbox.has_room(&process.bounds, 1);
        }
        self.release(serial, out);
    }

    /// Whether a message of `size` bytes would find room at once.
    pub(super) fn has_room_for(&self, serial: u64, size: usize) -> bool {
        self.processes
            .get(&serial)
            .is_none_or(|process| process.mailbox.has_room(&process.bounds, size))
    }

    pub(super) fn origin(mode: Mode, holder: Holder) -> Origin {
        if mode == Mode::Wait { Origin::Process(holder) } else { Origin::Lossy }
    }
}

/// The event that stands where messages were lost.
pub(super) fn gap(lost: u64) -> Head {
    Head::event("gap").uint("lost", lost).text("reason", "overflow")
}

/// One event of a list of events.
pub(super) fn put_item(items: &mut Vec<u8>, tag: Tag, frame: &[u8]) {
    match tag {
        Tag::Gap(lost) => items.extend_from_slice(gap(lost).bytes()),
        _ => event::put_event_item(items, frame),
    }
}

fn put(bytes: &mut Vec<u8>, head: &[u8], body: &[u8], own: bool, prefix: &str, serial: u64) {
    if own {
        event::put_frame(bytes, head, body);
    } else {
        event::put_frame_for(bytes, head, body, prefix, serial);
    }
}

fn write_hold(peer: PeerId, kind: Kind, sender: u64, out: &mut Outbox) {
    let mut frame = Vec::with_capacity(24);
    let at = message::start(&mut frame, kind, 0, 0);
    frame.extend_from_slice(&sender.to_be_bytes());
    message::finish(&mut frame, at);
    out.write_urgent(peer, &frame);
}
