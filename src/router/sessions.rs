//! Sessions: how an app comes, leaves, and takes up again what it left.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::again::Last;
use super::agenda::Deadline;
use super::outbox::UNREAD_BYTES_MAX;
use super::work::Work;
use super::{Asker, Failure, Outbox, Router, answer};
use crate::wire::command::{Delivery, Resume};
use crate::wire::event::Head;
use crate::wire::pod::Pod;

/// Which session of this node. Never given twice.
pub type SessionId = u64;

/// The protocol that apps speak.
const VERSION: u64 = 1;
/// Longest grace that a session may ask for.
const GRACE_MAX: Duration = Duration::from_secs(3600);
/// Most different failures that are counted apart within a second.
const FAILED_KINDS_MAX: usize = 256;
/// Most bytes of an `op` and of a `to` that a `failed` repeats: both are as the app wrote them, however long.
const FAILED_OP_BYTES_MAX: usize = 64;
const FAILED_TO_BYTES_MAX: usize = 1024;
/// How long equal failures are counted together.
const FAILED_EVERY: Duration = Duration::from_secs(1);

/// One app's connection, or what it left behind for a while.
#[derive(Debug)]
pub(super) struct Session {
    /// The serial of its own process.
    pub(super) own: u64,
    pub(super) operator: bool,
    pub(super) client: Option<Box<str>>,
    /// The pod that its app is in, where the node serves several.
    pub(super) pod: Option<Arc<Pod>>,
    pub(super) delivery: Delivery,
    pub(super) processes: BTreeSet<u64>,
    /// Command frames processed.
    pub(super) commands: u64,
    /// How many mailboxes hold processes of it.
    pub(super) held: u32,
    /// Long answers for it that are being made, in slices.
    pub(super) listings: u32,
    /// Its lane is filled as part of the work put off.
    pub(super) filling: bool,
    /// How many full peers pause it.
    pub(super) paused: u32,
    /// Processes whose events wait for room in the lane.
    pub(super) wanting: VecDeque<u64>,
    /// Parts of answers that wait for the app, and of which their callees have to hear: call, bytes.
    pub(super) parts: Vec<(u64, usize)>,
    /// How many subscriptions its processes have.
    pub(super) subscriptions: usize,
    /// A connection is there.
    pub(super) attached: bool,
    /// It is that of a hosted program, and lasts as long.
    pub(super) hosted: bool,
    secret: Box<str>,
    grace: Duration,
    /// Counts connections, so that an old grace does not end a new one.
    epoch: u64,
    failed: BTreeMap<(Box<str>, Box<str>, &'static str), u64>,
    /// Its last `send`.
    pub(super) again: Option<Box<Last>>,
}

impl Session {
    fn new(own: u64, operator: bool, secret: &str) -> Self {
        Self {
            own,
            operator,
            client: None,
            pod: None,
            delivery: Delivery::Push,
            processes: BTreeSet::new(),
            commands: 0,
            held: 0,
            listings: 0,
            filling: false,
            paused: 0,
            wanting: VecDeque::new(),
            parts: Vec::new(),
            subscriptions: 0,
            attached: true,
            hosted: false,
            secret: secret.into(),
            grace: Duration::ZERO,
            epoch: 0,
            failed: BTreeMap::new(),
            again: None,
        }
    }

    /// The session of a hosted program, which is not connected yet.
    pub(super) fn hosted(own: u64) -> Self {
        let mut state = Self::new(own, true, "");
        state.processes.insert(own);
        state.attached = false;
        state.hosted = true;
        state
    }

    pub(super) fn set_secret(&mut self, secret: &str) {
        self.secret = secret.into();
    }
}

/// The earlier session that a connection takes up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Earlier<'a> {
    pub(super) resume: Option<Resume<'a>>,
    /// That of the hosted program that the connection is.
    pub(super) process: Option<&'a str>,
}

impl Router {
    /// An app has connected. `secret` is what it needs to resume.
    pub fn on_session_open(
        &mut self,
        session: SessionId,
        operator: bool,
        secret: &str,
        out: &mut Outbox,
    ) {
        let own = self.create(session, Delivery::Push);
        out.open_session(session);
        let mut state = Session::new(own, operator, secret);
        state.processes.insert(own);
        self.sessions.insert(session, state);
        self.life.app_came();
        if self.drains(None) {
            // What it wants may still be done; it is to know that it had better be short.
            Self::tell_draining(session, out);
        }
    }

    /// A session that has just been opened is that of an app in this pod, whose name its own process has for a label until the
    /// app gives it another one.
    pub fn on_session_of_pod(&mut self, session: SessionId, pod: Arc<Pod>) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        if let Some(process) = self.processes.get_mut(&state.own) {
            process.label = Some(pod.app.clone());
        }
        state.pod = Some(pod);
    }

    /// The session of the node itself: processes that no app owns.
    pub(super) fn open_node_session(&mut self) {
        let session = super::kv::NODE_SESSION;
        self.sessions.entry(session).or_insert_with(|| Session::new(0, false, ""));
    }

    /// The connection of an app is gone.
    pub fn on_session_closed(&mut self, now: Instant, session: SessionId, out: &mut Outbox) {
        if let Some(state) = self.sessions.get_mut(&session)
            && state.hosted
        {
            state.attached = false;
            state.epoch += 1;
            self.hosted_closed(now, session, out);
            return;
        }
        if let Some(state) = self.sessions.get_mut(&session)
            && state.grace > Duration::ZERO
        {
            let went = std::mem::replace(&mut state.attached, false);
            state.epoch += 1;
            let deadline = Deadline::Grace { session, epoch: state.epoch };
            self.agenda.add(now + state.grace, deadline);
            out.detach_session(session);
            if went {
                self.life.app_went();
                self.life_changes();
                self.run_work(now, out);
            }
            return;
        }
        self.end_session(session, "disconnected", out);
        out.forget_session(session);
        self.run_work(now, out);
    }

    pub(super) fn grace_ends(
        &mut self,
        now: Instant,
        session: SessionId,
        epoch: u64,
        out: &mut Outbox,
    ) {
        let ends = self.sessions.get(&session).is_some_and(|s| !s.attached && s.epoch == epoch);
        if ends {
            self.end_session(session, "disconnected", out);
            out.forget_session(session);
            self.run_work(now, out);
        }
    }

    /// The session ends and takes its processes with it, in slices.
    pub(super) fn end_session(&mut self, session: SessionId, reason: &str, out: &mut Outbox) {
        let Some(state) = self.sessions.remove(&session) else { return };
        self.routes += 1;
        self.mourners.remove(&session);
        self.end_waits(session);
        self.end_life_waits(session);
        if state.attached && !state.hosted {
            self.life.app_went();
        }
        self.life_changes();
        if state.hosted {
            self.hosted_dies(state.own, reason, out);
        }
        if reason != "disconnected" && reason != "normal" {
            let pid = self.pid(state.own);
            answer(
                out,
                session,
                &Head::event("died").pid("pid", Some(&pid)).text("reason", reason),
                &[],
            );
        }
        if state.attached {
            out.close_session(session);
        } else {
            // Nobody is there to read its end, and to be gone after it.
            out.forget_session(session);
        }
        self.work.push_back(Work::SessionEnd { processes: state.processes, reason: reason.into() });
    }

    /// Whether commands of a session may be read: nothing it feeds is full, and it reads its answers.
    #[must_use]
    pub fn may_read(&self, session: SessionId, out: &Outbox) -> bool {
        self.sessions.get(&session).is_some_and(|state| {
            state.held == 0
                && state.paused == 0
                && state.listings == 0
                && out.session_len(session) < self.limits.lane_bytes(out, UNREAD_BYTES_MAX)
        })
    }

    /// Whether another command of a session may be answered: it reads its answers, and no long one is being made.
    #[must_use]
    pub fn may_answer(&self, session: SessionId, out: &Outbox) -> bool {
        self.sessions.get(&session).is_none_or(|state| {
            state.listings == 0
                && out.session_len(session) < self.limits.lane_bytes(out, UNREAD_BYTES_MAX)
        })
    }

    /// How many sessions there are.
    #[must_use]
    pub fn has_session(&self, session: SessionId) -> bool {
        self.sessions.contains_key(&session)
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one command")]
    pub(super) fn hello(
        &mut self,
        asker: &mut Asker<'_>,
        version: u64,
        client: Option<&str>,
        delivery: Option<Delivery>,
        grace_ms: Option<u64>,
        earlier: Earlier<'_>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        if version != VERSION {
            let text =
                format!("this sidecar speaks version {VERSION} of the app protocol, not {version}");
            return Err(Failure::new("unsupported", text));
        }
        let fresh = self.sessions.get(&asker.session).is_some_and(|session| session.commands == 1);
        if !fresh && (earlier.resume.is_some() || earlier.process.is_some()) {
            let text = "`resume` and `process` belong to the first command of a connection";
            return Err(Failure::badarg(text));
        }
        let lost = match (earlier.resume, earlier.process) {
            (Some(_), Some(_)) => {
                let text = "`resume` and `process` both name an earlier session; give one of them";
                return Err(Failure::badarg(text));
            }
            (Some(resume), None) => self.take_up(asker, resume, out)?,
            (None, Some(token)) => self.be_process(asker, token, out)?,
            (None, None) => 0,
        };
        let Some(session) = self.sessions.get_mut(&asker.session) else { return Ok(()) };
        if let Some(client) = client {
            session.client = Some(client.into());
        }
        if let Some(grace_ms) = grace_ms {
            session.grace = Duration::from_millis(grace_ms).min(GRACE_MAX);
        }
        if let Some(delivery) = delivery {
            session.delivery = delivery;
            let own = session.own;
            if let Some(process) = self.processes.get_mut(&own) {
                process.delivery = delivery;
                process.window = super::deliver::Window::default();
            }
        }
        self.welcome(asker.session, out);
        Self::done(asker, out);
        if lost > 0 {
            let head = Head::event("gap").uint("lost", lost).text("reason", "resumed");
            answer(out, asker.session, &head, &[]);
        }
        if let Some(session) = self.sessions.get(&asker.session) {
            // The others stand in the queue for room since something came for them.
            self.wants_room(session.own, out);
            self.on_session_room(asker.session, out);
        }
        Ok(())
    }

    fn welcome(&mut self, id: SessionId, out: &mut Outbox) {
        let Some(session) = self.sessions.get(&id) else { return };
        let head = Head::event("welcome")
            .uint("version", VERSION)
            .text("node", self.me.name.as_str())
            .pid("pid", Some(&self.pid(session.own)))
            .uint("session", id)
            .text("secret", &session.secret)
            .uint("commands", session.commands);
        answer(out, id, &head, &[]);
    }

    /// A new connection takes up an earlier session; what the new one had begun is dissolved. Gives how many frames
    /// were written for the earlier connection and not received.
    fn take_up(
        &mut self,
        asker: &mut Asker<'_>,
        resume: Resume<'_>,
        out: &mut Outbox,
    ) -> Result<u64, Failure> {
        // A secret that has got into another pod is of no use there.
        let of = |session: &Session| {
            session.pod.as_ref().map(|pod| (pod.namespace.clone(), pod.name.clone()))
        };
        let pod = self.sessions.get(&asker.session).and_then(of);
        let known = self.sessions.get(&resume.session).is_some_and(|session| {
            !session.secret.is_empty()
                && same_secret(&session.secret, resume.secret)
                && of(session) == pod
        });
        if !known || resume.session == asker.session {
            let text = format!(
                "there is no session {} to resume, or the secret is not its own",
                resume.session
            );
            return Err(Failure::new("not_found", text));
        }
        self.go_over(asker, resume.session, Some(resume.seen), out)
    }

    /// A connection proves that it is that of a hosted program. What was written for an earlier connection of it is
    /// lost with that.
    fn be_process(
        &mut self,
        asker: &mut Asker<'_>,
        token: &str,
        out: &mut Outbox,
    ) -> Result<u64, Failure> {
        let serial = token.split_once('.').and_then(|(serial, _)| serial.parse::<u64>().ok());
        let session = serial.and_then(|serial| serial.checked_add(super::hosting::HOSTED_SESSIONS));
        let known = session.filter(|session| {
            self.sessions.get(session).is_some_and(|state| {
                state.hosted && !state.secret.is_empty() && same_secret(&state.secret, token)
            })
        });
        let Some(session) = known else {
            let text = "`process` is not the PILLION_PROCESS of a program that this node hosts, or that process has died";
            return Err(Failure::new("not_found", text));
        };
        self.go_over(asker, session, None, out)
    }

    fn go_over(
        &mut self,
        asker: &mut Asker<'_>,
        earlier: SessionId,
        seen: Option<u64>,
        out: &mut Outbox,
    ) -> Result<u64, Failure> {
        let operator = self.sessions.get(&asker.session).is_some_and(|session| session.operator);
        // The new connection may have been told that the node drains, and its app may have read that or not.
        let told = out.session_frames(asker.session);
        let read = out.session_len(asker.session) == 0;
        if let Some(mut new) = self.sessions.remove(&asker.session) {
            self.routes += 1;
            self.life.app_went();
            self.end_life_waits(asker.session);
            for serial in std::mem::take(&mut new.processes) {
                self.die(serial, "normal", out);
            }
        }
        if let Some(session) = self.sessions.get_mut(&earlier) {
            if !std::mem::replace(&mut session.attached, true) && !session.hosted {
                self.life.app_came();
            }
            session.epoch += 1;
            session.operator &= operator;
            session.commands += 1;
        }
        if !operator {
            self.mourners.remove(&earlier);
        }
        let frames = out.session_frames(earlier);
        let seen = seen.unwrap_or(frames);
        out.reset_session(earlier);
        out.open_session(earlier);
        // From here on both sides count what arrives: a loss is told once, not at each resume.
        out.count_session_frames(earlier, seen.min(frames) + if read { told } else { 0 });
        if self.life.is_draining() && !(read && told > 0) {
            Self::tell_draining(earlier, out);
        }
        out.rebound = Some((asker.session, earlier));
        asker.session = earlier;
        Ok(frames.saturating_sub(seen))
    }

    pub(super) fn self_pid(&mut self, asker: &Asker<'_>, out: &mut Outbox) -> Result<(), Failure> {
        if let (Some(id), Some(session)) = (asker.id, self.sessions.get(&asker.session)) {
            let head = Head::ok(id).pid("pid", Some(&self.pid(session.own)));
            answer(out, asker.session, &head, &[]);
        }
        Ok(())
    }

    pub(super) fn bye(&mut self, asker: &Asker<'_>, out: &mut Outbox) -> Result<(), Failure> {
        Self::done(asker, out);
        if self.sessions.get(&asker.session).is_some_and(|session| session.hosted) {
            // Its process lives as long as its program.
            out.close_session(asker.session);
            return Ok(());
        }
        self.end_session(asker.session, "normal", out);
        Ok(())
    }

    pub(super) fn monitor_deaths(
        &mut self,
        asker: &Asker<'_>,
        on: bool,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        self.needs_operator(asker.session, "monitor_deaths")?;
        if on {
            self.mourners.entry(asker.session).or_default();
        } else {
            self.mourners.remove(&asker.session);
        }
        Self::done(asker, out);
        Ok(())
    }

    /// A command without `id` failed: at most one `failed` per operation, address and code in a second.
    pub(super) fn note_failed(&mut self, asker: &Asker<'_>, failure: &Failure, out: &mut Outbox) {
        let Some(session) = self.sessions.get_mut(&asker.session) else { return };
        let full = session.failed.len() >= FAILED_KINDS_MAX;
        let to = if full { "*" } else { beginning(asker.to, FAILED_TO_BYTES_MAX) };
        let op = beginning(asker.op, FAILED_OP_BYTES_MAX);
        let key = (op.into(), to.into(), failure.code);
        if let Some(count) = session.failed.get_mut(&key) {
            *count += 1;
            return;
        }
        if session.failed.is_empty() {
            self.agenda.add(asker.now + FAILED_EVERY, Deadline::Failed(asker.session));
        }
        session.failed.insert(key, 0);
        let head = Head::event("failed")
            .text("op", op)
            .text("to", to)
            .text("code", failure.code)
            .text("message", &failure.message)
            .uint("count", 1);
        answer(out, asker.session, &head, &[]);
    }

    pub(super) fn tell_failed(&mut self, now: Instant, session: SessionId, out: &mut Outbox) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let mut again = BTreeMap::new();
        out.count(state.failed.len());
        for (key, count) in std::mem::take(&mut state.failed) {
            if count > 0 {
                let head = Head::event("failed")
                    .text("op", &key.0)
                    .text("to", &key.1)
                    .text("code", key.2)
                    .uint("count", count);
                answer(out, session, &head, &[]);
                again.insert(key, 0);
            }
        }
        if !again.is_empty() {
            state.failed = again;
            self.agenda.add(now + FAILED_EVERY, Deadline::Failed(session));
        }
    }
}

/// As much of a text as fits.
fn beginning(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// Compares without telling by its time where they differ.
fn same_secret(left: &str, right: &str) -> bool {
    left.len() == right.len()
        && left.bytes().zip(right.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}
