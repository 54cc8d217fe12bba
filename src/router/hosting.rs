//! What the node hosts: OS processes, each of which is a process of the mesh, and their supervisors.
//!
//! The router decides who runs; an edge starts, stops and watches the programs, and says what became of them.
//!
//! ```text
//! Supervisor --Act--> here --HostRequest--> edge ==fork, SIGTERM, SIGKILL==> program
//!     ^---exited------ here <--started, exited-- edge <==wait==================='
//! ```
//!
//! Each run of a program has a session of its own, which lasts as long as the program does, connected or not. Its own
//! process is the hosted process: it has its pid, its name and its mailbox before the program is started.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::agenda::Deadline;
use super::questions::write_tell_of;
use super::sessions::{Session, SessionId};
use super::supervisor::{Act, ChildId, End, Supervisor};
use super::{Asker, Failure, KeptId, Outbox, Router, answer};
use crate::wire::command::Delivery;
use crate::wire::event::Head;
use crate::wire::host::{
    self, DEFAULT_SUPERVISOR, FactorySpec, ProcessSpec, Program, Restart, Shutdown, SupervisorSpec,
};
use crate::wire::id::Pid;

/// The sessions of hosted processes are numbered from here, those of connections from 1.
pub(super) const HOSTED_SESSIONS: SessionId = 1 << 40;
/// How long the connection of a program that has ended may take to end too: what it said last comes before its `down`.
/// Only a program that has left the connection to somebody else lets it take longer.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What the edge is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostRequest {
    /// Start a program.
    Start(Box<Start>),
    /// Ask a program to end.
    Stop {
        /// Which run.
        run: u64,
        /// How.
        how: Shutdown,
    },
    /// A supervisor has given up: say `revived` after a while.
    Rest {
        /// Which.
        supervisor: String,
        /// How long it went well before.
        well_for: Duration,
    },
    /// Something for the operator's log.
    Warn(String),
}

/// A program to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Which run: the serial of its process.
    pub run: u64,
    /// Its registered name.
    pub name: Option<String>,
    /// What it is called in the log.
    pub label: String,
    /// Others are called the same: the log tells them apart by their numbers.
    pub many: bool,
    /// The pid of its process.
    pub pid: String,
    /// What is executed.
    pub program: Program,
}

/// How a program has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Its exit status.
    pub code: Option<i32>,
    /// The signal that has ended it.
    pub signal: Option<i32>,
    /// It had to be killed by the node.
    pub forced: bool,
}

impl Exit {
    /// The reason of its process.
    fn reason(self, stopping: bool) -> String {
        match (stopping, self.forced) {
            (true, false) => "shutdown".to_owned(),
            (_, true) => "killed".to_owned(),
            _ => match (self.code, self.signal) {
                (Some(0), _) => "normal".to_owned(),
                (Some(code), _) => format!("exit_status {code}"),
                (None, Some(signal)) => format!("signal {signal}"),
                (None, None) => "unknown".to_owned(),
            },
        }
    }
}

/// As OTP has it: these are how a process ends that has done what it was for.
fn is_abnormal(reason: &str) -> bool {
    reason != "normal" && reason != "shutdown" && !reason.starts_with("shutdown:")
}

/// All that the node hosts.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) supervisors: BTreeMap<Box<str>, Supervised>,
    /// Their names, in the order in which they were started.
    pub(super) order: Vec<Box<str>>,
    pub(super) children: BTreeMap<ChildId, Child>,
    pub(super) names: BTreeMap<Box<str>, ChildId>,
    /// By the serials of their processes.
    pub(super) runs: BTreeMap<u64, Run>,
    /// What other nodes offer: how many there are, and how many there may be.
    pub(super) offered: BTreeMap<Box<str>, BTreeMap<super::peers::PeerId, (u64, u64)>>,
    last_child: ChildId,
    /// The node leaves: nothing is started any more.
    pub(super) leaving: bool,
}

/// A supervisor or a factory.
#[derive(Debug)]
pub(super) struct Supervised {
    pub(super) spec: SupervisorSpec,
    pub(super) factory: Option<Arc<FactorySpec>>,
    pub(super) machine: Supervisor,
    /// The serial of its process; 0 when it has none.
    pub(super) serial: u64,
    began: Instant,
    /// Why it has ended.
    pub(super) ended: Option<End>,
    pub(super) restarts: u64,
    ending: Vec<(SessionId, KeptId)>,
}

/// What a supervisor has to keep up.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) supervisor: Box<str>,
    pub(super) spec: Arc<ProcessSpec>,
    pub(super) run: Option<u64>,
    pub(super) runs: u64,
    /// How the last run ended.
    pub(super) last: Option<Box<str>>,
    pub(super) starting: Option<Asking>,
    ending: Vec<(SessionId, KeptId)>,
}

/// A program that runs, or is about to.
#[derive(Debug)]
pub(super) struct Run {
    child: ChildId,
    pub(super) os_pid: Option<u32>,
    /// Its supervisor has asked it to end.
    stopping: bool,
    /// Its process has died, of this reason, and the program has been asked to end.
    died: Option<Box<str>>,
    /// The program has ended, and its process dies of this reason once its connection has ended too.
    exited: Option<(Box<str>, Instant)>,
}

/// Who waits for a start.
#[derive(Debug)]
pub(super) enum Asking {
    /// `host`
    Host { session: SessionId, id: Option<KeptId> },
    /// `restart_child`
    Restart { session: SessionId, id: Option<KeptId> },
    /// `spawn` of a factory here, by a process here.
    Here { session: SessionId, id: Option<KeptId>, actor: u64, link: bool, monitor: bool },
    /// The same by a process of another node.
    There { peer: super::peers::PeerId, number: u64, from: u64, link: bool, monitor: Option<u64> },
}

impl Router {
    // --- what is there from the start, and what comes to it ---

    /// A supervisor with its processes, from the configuration.
    pub fn on_host(
        &mut self,
        now: Instant,
        supervisor: SupervisorSpec,
        processes: Vec<ProcessSpec>,
        out: &mut Outbox,
    ) {
        self.clock = Some(now);
        let name: Box<str> = supervisor.name.as_str().into();
        self.add_supervisor(now, supervisor, None);
        for spec in processes {
            let id = self.add_child(&name, spec, true, None);
            self.start_child(&name, id, out);
        }
    }

    /// A factory, from the configuration.
    pub fn on_factory_here(&mut self, now: Instant, factory: FactorySpec, out: &mut Outbox) {
        self.clock = Some(now);
        let name: Box<str> = factory.name.as_str().into();
        let spec = SupervisorSpec {
            max_restarts: factory.max_restarts,
            max_seconds: factory.max_seconds,
            ..SupervisorSpec::new(&name)
        };
        self.add_supervisor(now, spec, Some(Arc::new(factory)));
        self.announce_factory(&name, out);
    }

    pub(super) fn add_supervisor(
        &mut self,
        now: Instant,
        spec: SupervisorSpec,
        factory: Option<Arc<FactorySpec>>,
    ) {
        let machine = Supervisor::new(
            spec.strategy,
            spec.auto_shutdown,
            spec.max_restarts,
            Duration::from_secs(spec.max_seconds.into()),
            factory.is_some(),
        );
        let name: Box<str> = spec.name.as_str().into();
        let supervised = Supervised {
            spec,
            factory,
            machine,
            serial: 0,
            began: now,
            ended: None,
            restarts: 0,
            ending: Vec::new(),
        };
        self.tree.order.push(name.clone());
        self.tree.supervisors.insert(name.clone(), supervised);
        self.begin_supervisor(now, &name);
    }

    /// A supervisor is a process of the node: it can be linked, monitored and, by operators, killed.
    fn begin_supervisor(&mut self, now: Instant, name: &str) {
        self.open_node_session();
        let serial = self.create(super::kv::NODE_SESSION, Delivery::Pull);
        if let Some(session) = self.sessions.get_mut(&super::kv::NODE_SESSION) {
            session.processes.insert(serial);
        }
        let Some(supervised) = self.tree.supervisors.get_mut(name) else { return };
        supervised.serial = serial;
        supervised.began = now;
        supervised.ended = None;
        let kind = if supervised.factory.is_some() { "factory" } else { "supervisor" };
        if let Some(process) = self.processes.get_mut(&serial) {
            process.label = Some(format!("{kind} {name}").into());
            process.trap_exit = true;
            process.supervisor = true;
        }
    }

    pub(super) fn is_starting(&self) -> Result<(), Failure> {
        if self.tree.leaving {
            return Err(Failure::new("overloaded", "the node is leaving: it starts nothing more"));
        }
        Ok(())
    }

    /// Whether a child may be called so.
    fn may_be_called(&self, name: &str) -> Result<(), Failure> {
        crate::wire::id::check_name(name).map_err(Failure::badarg)?;
        if name == DEFAULT_SUPERVISOR || self.tree.supervisors.contains_key(name) {
            let text = format!("`{name}` is what a supervisor or a factory is called here");
            return Err(Failure::new("taken", text));
        }
        if self.tree.names.contains_key(name) {
            let text = format!(
                "this node hosts a `{name}` already; delete_child it, or choose another name"
            );
            return Err(Failure::new("taken", text));
        }
        Ok(())
    }

    /// Whether a supervisor may have another child.
    fn may_have_child(&self, supervisor: &str) -> Result<(), Failure> {
        let Some(supervised) = self.tree.supervisors.get(supervisor) else {
            let known: Vec<&str> = self.tree.supervisors.keys().map(AsRef::as_ref).collect();
            let text = format!(
                "there is no supervisor `{supervisor}`; there are: {}. The file of `--config` gives others as [[supervisor]]",
                known.join(", ")
            );
            return Err(Failure::new("not_found", text));
        };
        if supervised.factory.is_some() {
            let text = format!("`{supervisor}` is a factory: its children come by `spawn`");
            return Err(Failure::badarg(text));
        }
        Self::takes_child(supervised)
    }

    pub(super) fn takes_child(supervised: &Supervised) -> Result<(), Failure> {
        let name = &supervised.spec.name;
        if supervised.machine.is_ending() {
            let text = format!("`{name}` has stopped, or is about to; `tree` shows why");
            return Err(Failure::new("overloaded", text));
        }
        let most = supervised.factory.as_ref().map_or(host::CHILDREN_MAX, |factory| {
            host::CHILDREN_MAX.min(factory.max_children as usize)
        });
        if supervised.machine.len() >= most {
            let text = format!("`{name}` has {most} children, and may have no more");
            return Err(Failure::new("overloaded", text));
        }
        Ok(())
    }

    pub(super) fn add_child(
        &mut self,
        supervisor: &str,
        spec: ProcessSpec,
        named: bool,
        starting: Option<Asking>,
    ) -> ChildId {
        self.tree.last_child += 1;
        let id = self.tree.last_child;
        if named {
            self.tree.names.insert(spec.name.as_str().into(), id);
        }
        let child = Child {
            supervisor: supervisor.into(),
            spec: Arc::new(spec),
            run: None,
            runs: 0,
            last: None,
            starting,
            ending: Vec::new(),
        };
        self.tree.children.insert(id, child);
        id
    }

    pub(super) fn start_child(&mut self, supervisor: &str, id: ChildId, out: &mut Outbox) {
        let Some(child) = self.tree.children.get(&id) else { return };
        let (restart, significant) = (child.spec.restart, child.spec.significant);
        self.supervise(supervisor, out, |machine| machine.add(id, restart, significant));
    }

    /// Lets a supervisor decide, and does what it says.
    pub(super) fn supervise(
        &mut self,
        supervisor: &str,
        out: &mut Outbox,
        decide: impl FnOnce(&mut Supervisor) -> Vec<Act>,
    ) {
        let Some(supervised) = self.tree.supervisors.get_mut(supervisor) else { return };
        for act in decide(&mut supervised.machine) {
            out.count(1);
            match act {
                Act::Start(id) => self.begin_run(id, out),
                Act::Stop(id) => self.stop_run(id, out),
                Act::Forget(id) => self.forget_child(id, out),
                Act::Ended(end) => self.supervisor_ended(supervisor, end, out),
            }
        }
        self.announce_factory(supervisor, out);
    }

    fn drop_child(&mut self, supervisor: &str, id: ChildId, out: &mut Outbox) {
        self.forget_child(id, out);
        self.supervise(supervisor, out, |machine| machine.delete(id));
    }

    fn forget_child(&mut self, id: ChildId, out: &mut Outbox) {
        let Some(child) = self.tree.children.remove(&id) else { return };
        if let Some(asking) = child.starting {
            let text = format!("{} was to end before it was started", child.spec.name);
            Self::has_failed(asking, &Failure::new("cannot_start", text), out);
        }
        if self.tree.names.get(child.spec.name.as_str()) == Some(&id) {
            self.tree.names.remove(child.spec.name.as_str());
        }
    }

    // --- one run of a program ---

    fn begin_run(&mut self, id: ChildId, out: &mut Outbox) {
        let Some(child) = self.tree.children.get(&id) else { return };
        let spec = Arc::clone(&child.spec);
        let supervised = self.tree.supervisors.get(&child.supervisor);
        let parent = supervised.map_or(0, |supervised| supervised.serial);
        let of_factory = supervised.is_some_and(|supervised| supervised.factory.is_some());
        let session = HOSTED_SESSIONS + self.last_serial + 1;
        let serial = self.create(session, Delivery::Push);
        out.open_session(session);
        out.detach_session(session);
        self.sessions.insert(session, Session::hosted(serial));
        let mut name = None;
        if spec.register {
            match self.name_is_free(&spec.name) {
                Ok(()) => {
                    self.give_name(serial, &spec.name);
                    name = Some(spec.name.clone());
                }
                Err(failure) => {
                    let text = format!("{} runs without its name: {}", spec.name, failure.message);
                    out.hosting.push_back(HostRequest::Warn(text));
                }
            }
        }
        if let Some(process) = self.processes.get_mut(&serial) {
            process.parent = NonZeroU64::new(parent);
            process.label = Some(spec.name.as_str().into());
        }
        let run = Run { child: id, os_pid: None, stopping: false, died: None, exited: None };
        self.tree.runs.insert(serial, run);
        if let Some(child) = self.tree.children.get_mut(&id) {
            child.run = Some(serial);
            child.runs += 1;
        }
        out.hosting.push_back(HostRequest::Start(Box::new(Start {
            run: serial,
            name,
            label: spec.name.clone(),
            many: !spec.register && of_factory,
            pid: self.pid(serial).to_string(),
            program: spec.program.clone(),
        })));
    }

    fn stop_run(&mut self, id: ChildId, out: &mut Outbox) {
        let Some(child) = self.tree.children.get(&id) else { return };
        let Some(serial) = child.run else { return };
        let how = child.spec.shutdown;
        if let Some(run) = self.tree.runs.get_mut(&serial) {
            run.stopping = true;
            out.hosting.push_back(HostRequest::Stop { run: serial, how });
        }
    }

    /// The edge is about to start a program, whose connection may prove by this secret that it is that.
    pub fn on_host_secret(&mut self, run: u64, secret: &str) {
        if let Some(session) = self.sessions.get_mut(&(HOSTED_SESSIONS + run)) {
            session.set_secret(secret);
        }
    }

    /// A program has been started, or cannot be, for a reason in words.
    pub fn on_host_started(
        &mut self,
        now: Instant,
        serial: u64,
        started: Result<u32, String>,
        out: &mut Outbox,
    ) {
        self.clock = Some(now);
        let Some(run) = self.tree.runs.get_mut(&serial) else { return };
        let id = run.child;
        let Some(child) = self.tree.children.get_mut(&id) else { return };
        let asking = child.starting.take();
        match started {
            Ok(os_pid) => {
                run.os_pid = Some(os_pid);
                if let Some(asking) = asking {
                    self.has_started(serial, os_pid, asking, out);
                }
            }
            Err(words) => self.could_not_start(now, serial, &words, asking, out),
        }
        self.run_work(now, out);
    }

    fn could_not_start(
        &mut self,
        now: Instant,
        serial: u64,
        words: &str,
        asking: Option<Asking>,
        out: &mut Outbox,
    ) {
        let Some(run) = self.tree.runs.remove(&serial) else { return };
        self.end_session(HOSTED_SESSIONS + serial, "cannot_start", out);
        let id = run.child;
        let Some(child) = self.tree.children.get_mut(&id) else { return };
        child.run = None;
        child.last = Some(words.into());
        let supervisor = child.supervisor.clone();
        match asking {
            None => {
                out.hosting.push_back(HostRequest::Warn(words.to_owned()));
                self.supervise(&supervisor, out, |machine| machine.exited(now, id, true));
            }
            Some(asking @ Asking::Restart { .. }) => {
                Self::has_failed(asking, &Failure::new("cannot_start", words), out);
                // It stays where it was: terminated.
                self.supervise(&supervisor, out, |machine| {
                    machine.terminate(id);
                    machine.exited(now, id, true)
                });
            }
            Some(asking) => {
                Self::has_failed(asking, &Failure::new("cannot_start", words), out);
                self.answer_ended(id, out);
                self.drop_child(&supervisor, id, out);
            }
        }
    }

    /// A program has ended.
    pub fn on_host_exited(&mut self, now: Instant, serial: u64, exit: Exit, out: &mut Outbox) {
        self.clock = Some(now);
        let Some(run) = self.tree.runs.get_mut(&serial) else { return };
        run.os_pid = None;
        if run.died.is_some() {
            self.run_is_over(now, serial, out);
        } else {
            let ends = now + LAST_WORDS;
            run.exited = Some((exit.reason(run.stopping).into(), ends));
            // What it said last is still to be read from its connection.
            if self.sessions.get(&(HOSTED_SESSIONS + serial)).is_some_and(|s| s.attached) {
                self.agenda.add(ends, Deadline::Hosted(serial));
            } else {
                self.run_is_over(now, serial, out);
            }
        }
        self.run_work(now, out);
    }

    /// The connection of a hosted process has ended. The process lives for as long as its program does.
    pub(super) fn hosted_closed(&mut self, now: Instant, session: SessionId, out: &mut Outbox) {
        out.detach_session(session);
        let serial = session - HOSTED_SESSIONS;
        if self.tree.runs.get(&serial).is_some_and(|run| run.exited.is_some()) {
            self.run_is_over(now, serial, out);
            self.run_work(now, out);
        }
    }

    /// The connection of a program that has ended does not end.
    pub(super) fn hosted_lingers(&mut self, now: Instant, serial: u64, out: &mut Outbox) {
        let due = |run: &Run| run.exited.as_ref().is_some_and(|(_, ends)| *ends <= now);
        if self.tree.runs.get(&serial).is_some_and(due) {
            self.run_is_over(now, serial, out);
        }
    }

    /// The session of a hosted process ends: the process has died in the mesh, or its program has ended.
    pub(super) fn hosted_dies(&mut self, serial: u64, reason: &str, out: &mut Outbox) {
        let Some(run) = self.tree.runs.get_mut(&serial) else { return };
        if run.exited.is_some() || run.died.is_some() {
            return;
        }
        run.died = Some(reason.into());
        let Some(child) = self.tree.children.get(&run.child) else { return };
        let how = if reason == "killed" { Shutdown::BrutalKill } else { child.spec.shutdown };
        out.hosting.push_back(HostRequest::Stop { run: serial, how });
    }

    fn run_is_over(&mut self, now: Instant, serial: u64, out: &mut Outbox) {
        let Some(run) = self.tree.runs.remove(&serial) else { return };
        if let Some((_, ends)) = &run.exited {
            self.agenda.remove(*ends, Deadline::Hosted(serial));
        }
        let reason = run.died.or(run.exited.map(|(reason, _)| reason)).unwrap_or_default();
        self.end_session(HOSTED_SESSIONS + serial, &reason, out);
        let id = run.child;
        let Some(child) = self.tree.children.get_mut(&id) else { return };
        child.run = None;
        let supervisor = child.supervisor.clone();
        let abnormal = is_abnormal(&reason);
        child.last = Some(reason);
        self.answer_ended(id, out);
        self.supervise(&supervisor, out, |machine| machine.exited(now, id, abnormal));
    }

    /// Those who terminated a child hear that it has ended.
    fn answer_ended(&mut self, id: ChildId, out: &mut Outbox) {
        let Some(child) = self.tree.children.get_mut(&id) else { return };
        for (session, id) in std::mem::take(&mut child.ending) {
            answer(out, session, &Head::ok(id.id()), &[]);
        }
    }

    fn has_started(&mut self, serial: u64, os_pid: u32, asking: Asking, out: &mut Outbox) {
        match asking {
            Asking::Host { id: None, .. } | Asking::Restart { id: None, .. } => {}
            Asking::Host { session, id: Some(id) } | Asking::Restart { session, id: Some(id) } => {
                let head = Head::ok(id.id()).pid("pid", Some(&self.pid(serial)));
                answer(out, session, &head.uint("os_pid", os_pid.into()), &[]);
            }
            asking => self.has_spawned(serial, asking, out),
        }
    }

    /// Whoever waits for a start hears that there is none; for those who do not, it is in the log.
    fn has_failed(asking: Asking, failure: &Failure, out: &mut Outbox) {
        match asking {
            Asking::Host { session, id: Some(id) }
            | Asking::Restart { session, id: Some(id) }
            | Asking::Here { session, id: Some(id), .. } => {
                let head = Head::error(id.id(), failure.code, &failure.message, false);
                answer(out, session, &head, &[]);
            }
            Asking::There { peer, number, .. } => {
                write_tell_of(peer, 0, number, &Err(failure.clone()), out);
            }
            _ => out.hosting.push_back(HostRequest::Warn(failure.message.clone())),
        }
    }

    // --- supervisors that end ---

    fn supervisor_ended(&mut self, name: &str, end: End, out: &mut Outbox) {
        let now = self.clock;
        let Some(supervised) = self.tree.supervisors.get_mut(name) else { return };
        supervised.ended = Some(end);
        let serial = std::mem::take(&mut supervised.serial);
        let well_for = now.map_or(Duration::ZERO, |now| now.duration_since(supervised.began));
        let ending = std::mem::take(&mut supervised.ending);
        let children: Vec<ChildId> = supervised.machine.children().map(|(id, _)| id).collect();
        for id in children {
            // It came while others were stopped to be started again, and nobody is to be started any more.
            if self.tree.children.get(&id).is_some_and(|child| child.starting.is_some()) {
                self.drop_child(name, id, out);
            }
        }
        for (session, id) in ending {
            answer(out, session, &Head::ok(id.id()), &[]);
        }
        if serial != 0 {
            self.die(serial, "shutdown", out);
        }
        if self.tree.leaving {
            self.stop_next(out);
        } else if end == End::GaveUp {
            let supervisor = name.to_owned();
            out.hosting.push_back(HostRequest::Rest { supervisor, well_for });
        }
    }

    /// The process of a supervisor has been killed: its children go with it, and it comes again as after any failure.
    pub(super) fn supervisor_died(&mut self, serial: u64, out: &mut Outbox) {
        let killed = self.tree.supervisors.iter_mut().find(|(_, s)| s.serial == serial);
        let Some((name, supervised)) = killed else { return };
        supervised.serial = 0;
        let name = name.clone();
        self.supervise(&name, out, |machine| machine.shutdown(End::GaveUp));
    }

    /// A supervisor that has given up starts again.
    pub fn on_host_revived(&mut self, now: Instant, name: &str, out: &mut Outbox) {
        self.clock = Some(now);
        let gave_up = |s: &Supervised| s.ended == Some(End::GaveUp);
        if !self.tree.leaving && self.tree.supervisors.get(name).is_some_and(gave_up) {
            self.revive(now, name, out);
        }
        self.run_work(now, out);
    }

    pub(super) fn revive(&mut self, now: Instant, name: &str, out: &mut Outbox) {
        self.begin_supervisor(now, name);
        if let Some(supervised) = self.tree.supervisors.get_mut(name) {
            supervised.restarts += 1;
        }
        self.supervise(name, out, Supervisor::revive);
    }

    /// The node leaves: its supervisors end one after the other, the last one first.
    pub fn on_host_leave(&mut self, now: Instant, out: &mut Outbox) {
        self.clock = Some(now);
        if !std::mem::replace(&mut self.tree.leaving, true) {
            self.withdraw_factories(out);
            self.stop_next(out);
        }
        self.run_work(now, out);
    }

    fn stop_next(&mut self, out: &mut Outbox) {
        let over = |name: &str| {
            self.tree.supervisors.get(name).is_none_or(|supervised| supervised.machine.is_over())
        };
        match self.tree.order.iter().rev().find(|name| !over(name)).cloned() {
            Some(name) => self.supervise(&name, out, |machine| machine.shutdown(End::Asked)),
            None => out.unhosted = true,
        }
    }

    /// Whether nothing is hosted any more.
    #[must_use]
    pub fn is_unhosted(&self) -> bool {
        self.tree.runs.is_empty() && self.tree.supervisors.values().all(|s| s.machine.is_over())
    }

    // --- what operators do ---

    pub(super) fn host(
        &mut self,
        asker: &Asker<'_>,
        spec: &ProcessSpec,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        self.needs_operator(asker.session, "to host a program")?;
        let mut spec = spec.clone();
        if spec.supervisor.is_empty() {
            DEFAULT_SUPERVISOR.clone_into(&mut spec.supervisor);
        }
        let supervisor = spec.supervisor.clone();
        self.is_starting()?;
        self.may_be_called(&spec.name)?;
        if spec.register {
            self.name_is_free(&spec.name)?;
        }
        if spec.significant && spec.restart == Restart::Permanent {
            let text = "a significant child is transient or temporary: a permanent one never ends by itself";
            return Err(Failure::badarg(text));
        }
        let fresh = supervisor == DEFAULT_SUPERVISOR
            && !self.tree.supervisors.contains_key(DEFAULT_SUPERVISOR);
        if fresh {
            self.add_supervisor(asker.now, SupervisorSpec::new(DEFAULT_SUPERVISOR), None);
        }
        self.may_have_child(&supervisor)?;
        let id = asker.id.map(KeptId::keep);
        let starting = Asking::Host { session: asker.session, id };
        let id = self.add_child(&supervisor, spec, true, Some(starting));
        self.start_child(&supervisor, id, out);
        Ok(())
    }

    /// By its name, or by the pid of its run: the children of factories have no other.
    fn child_named(&self, name: &str) -> Result<ChildId, Failure> {
        let run = name.parse().ok().filter(|pid: &Pid| pid.node == self.me);
        let run = run.and_then(|pid| self.tree.runs.get(&pid.serial)).map(|run| run.child);
        run.or_else(|| self.tree.names.get(name).copied()).ok_or_else(|| {
            let text = format!("this node hosts no `{name}`; `tree` shows what it hosts");
            Failure::new("not_found", text)
        })
    }

    pub(super) fn terminate_child(
        &mut self,
        asker: &Asker<'_>,
        name: &str,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        self.needs_operator(asker.session, "to terminate a hosted program")?;
        let answers = asker.id.map(|id| (asker.session, KeptId::keep(id)));
        if let Some(supervised) = self.tree.supervisors.get_mut(name) {
            if supervised.machine.is_over() {
                // It may have been about to start again.
                supervised.ended = Some(End::Asked);
                Self::done(asker, out);
                return Ok(());
            }
            supervised.ending.extend(answers);
            self.supervise(name, out, |machine| machine.shutdown(End::Asked));
            return Ok(());
        }
        let id = self.child_named(name)?;
        let Some(child) = self.tree.children.get_mut(&id) else { return Ok(()) };
        let supervisor = child.supervisor.clone();
        if child.run.is_some() {
            child.ending.extend(answers);
        } else {
            Self::done(asker, out);
            if child.starting.is_some() {
                self.drop_child(&supervisor, id, out);
                return Ok(());
            }
        }
        self.supervise(&supervisor, out, |machine| machine.terminate(id));
        Ok(())
    }

    pub(super) fn restart_child(
        &mut self,
        asker: &Asker<'_>,
        name: &str,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        self.needs_operator(asker.session, "to restart a hosted program")?;
        let running = || {
            let text = format!("`{name}` has not ended; terminate_child it first");
            Err(Failure::badarg(text))
        };
        self.is_starting()?;
        if let Some(supervised) = self.tree.supervisors.get(name) {
            if !supervised.machine.is_over() {
                return running();
            }
            self.revive(asker.now, name, out);
            Self::done(asker, out);
            return Ok(());
        }
        let id = self.child_named(name)?;
        let Some(child) = self.tree.children.get_mut(&id) else { return Ok(()) };
        let supervisor = child.supervisor.clone();
        let Some(supervised) = self.tree.supervisors.get(&supervisor) else { return Ok(()) };
        if child.run.is_some() || supervised.machine.is_restarting() {
            return running();
        }
        if supervised.machine.is_ending() {
            let text = format!("its supervisor `{supervisor}` has stopped; restart_child that");
            return Err(Failure::badarg(text));
        }
        let answers = asker.id.map(KeptId::keep);
        child.starting = Some(Asking::Restart { session: asker.session, id: answers });
        self.supervise(&supervisor, out, |machine| machine.restart(id));
        Ok(())
    }

    pub(super) fn delete_child(
        &mut self,
        asker: &Asker<'_>,
        name: &str,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        self.needs_operator(asker.session, "to delete a hosted program")?;
        let running =
            || Err(Failure::badarg(format!("`{name}` has not ended; terminate_child it first")));
        if let Some(supervised) = self.tree.supervisors.get(name) {
            if !supervised.machine.is_over() {
                return running();
            }
            let children: Vec<ChildId> = supervised.machine.children().map(|(id, _)| id).collect();
            out.count(children.len());
            for id in children {
                self.forget_child(id, out);
            }
            self.tree.supervisors.remove(name);
            self.tree.order.retain(|other| **other != *name);
            self.announce_factory(name, out);
        } else {
            let id = self.child_named(name)?;
            if self.tree.children.get(&id).is_some_and(|child| child.run.is_some()) {
                return running();
            }
            let supervisor = self.tree.children.get(&id).map(|child| child.supervisor.clone());
            self.drop_child(&supervisor.unwrap_or_default(), id, out);
        }
        Self::done(asker, out);
        Ok(())
    }
}
