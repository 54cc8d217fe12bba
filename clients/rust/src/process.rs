//! A process: a mailbox with a pid.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::event::Event;
use crate::op::Op;
use crate::pid::Pid;
use crate::state::{self, Declaration, Key, OWN, Role, Shared, Then, Want, rank};

/// A mailbox with a pid, and whoever acts by it: it sends, calls, receives, links and monitors.
///
/// A client has one of its own; [`Process::spawn`] makes more. Clones are the same process; when the last one of a spawned
/// process is dropped, it exits `normal`. Its pid changes when the node is restarted.
///
/// What it asks for waits while the client is not connected: for 10 s, and a call for its own time. All futures are cancel
/// safe for the connection: dropped before the command was written, nothing is; dropped after that, its answer is lost.
#[derive(Clone)]
pub struct Process {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    key: Key,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.key == OWN {
            return;
        }
        let mut state = self.shared.state();
        if let Some(pid) = state.remove_process(self.key) {
            let exit = Op::new("exit").text("pid", &pid);
            if state.phase == state::Phase::Ready {
                let _ = state.write(OWN, &exit, Want::Answer, None);
            }
        }
        crate::state::release(state);
        self.shared.idle.notify_waiters();
    }
}

/// How a process begins.
#[derive(Clone, Debug, Default)]
#[must_use = "it says how a process begins"]
pub struct Spawn {
    name: Option<String>,
    label: Option<String>,
    trap_exit: bool,
    link: bool,
    monitor: bool,
}

impl Spawn {
    /// A process without a name, that does not trap exits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registered under this name of this node, from the first moment.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// With a label, for people; at most 255 bytes.
    pub fn label(mut self, label: &str) -> Self {
        self.label = Some(label.to_owned());
        self
    }

    /// Exit signals come as events, instead of ending it.
    pub fn trap_exit(mut self) -> Self {
        self.trap_exit = true;
        self
    }

    /// Linked with the process that spawns it.
    pub fn link(mut self) -> Self {
        self.link = true;
        self
    }

    /// Monitored by the process that spawns it.
    pub fn monitor(mut self) -> Self {
        self.monitor = true;
        self
    }
}

impl Process {
    pub(crate) fn new(shared: Arc<Shared>, key: Key) -> Self {
        Self { inner: Arc::new(Inner { shared, key }) }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    pub(crate) fn key(&self) -> Key {
        self.inner.key
    }

    /// The pid, as it is now.
    #[must_use]
    pub fn pid(&self) -> Pid {
        let state = self.shared().state();
        let pid = state.processes.get(&self.key()).and_then(|process| process.pid.clone());
        pid.unwrap_or_else(|| Pid::from(""))
    }

    /// The name of the node, as it is now.
    #[must_use]
    pub fn node(&self) -> String {
        self.shared().state().node.clone()
    }

    // ===== any command =====

    /// Says a command that has no method of its own, and gives its answer.
    ///
    /// # Errors
    /// Those of the command, and [`Code::Lost`](crate::Code::Lost).
    pub async fn request(&self, op: Op) -> Result<Event> {
        self.ask(&op, None).await
    }

    /// Says a command that wants no answer. What fails then is told to [`Builder::on_failed`](crate::Builder::on_failed).
    ///
    /// # Errors
    /// [`Code::Lost`](crate::Code::Lost) when there is no connection for 10 s.
    pub async fn tell(&self, op: Op) -> Result<()> {
        self.shared().put(self.key(), &op, Want::Nothing, None).await.map(drop)
    }

    pub(crate) async fn ask(&self, op: &Op, then: Option<Then>) -> Result<Event> {
        self.shared().request(self.key(), op, Want::Answer, then).await
    }

    /// The body of the answer.
    pub(crate) async fn asked<T: DeserializeOwned>(&self, op: Op) -> Result<T> {
        self.ask(&op, None).await?.body()
    }

    /// Says what is to be said again to a node that was restarted.
    pub(crate) async fn declare(&self, rank: u8, name: &str, op: Op) -> Result<()> {
        let key = self.key();
        let (name, declared) = (name.to_owned(), op.clone());
        let then: Then = Box::new(move |state, _| {
            state.declare(rank, Declaration { key, op: declared, name });
        });
        self.ask(&op, Some(then)).await.map(drop)
    }

    // ===== processes =====

    /// A new process.
    ///
    /// # Errors
    /// [`Code::Taken`](crate::Code::Taken) when somebody has the name: there is no process then.
    pub async fn spawn(&self, how: Spawn) -> Result<Self> {
        self.spawn_as(how, Role::Plain, false).await
    }

    pub(crate) async fn spawn_as(&self, how: Spawn, role: Role, serves: bool) -> Result<Self> {
        let op = Op::new("spawn")
            .maybe_text("name", how.name.as_deref())
            .maybe_text("label", how.label.as_deref());
        let mut process = state::Process::new(op.clone(), role);
        process.name.clone_from(&how.name);
        process.traps = how.trap_exit;
        process.serves = serves;
        let key = self.shared().state().add_process(process);
        let spawned = Self::new(Arc::clone(self.shared()), key);
        let parent = self.key();
        let then: Then = Box::new(move |state, answer| {
            let Some(pid) = answer.pid().map(Pid::from) else { return };
            if !state.processes.contains_key(&key) {
                // Whoever wanted it waits no longer.
                let _ = state.write(OWN, &Op::new("exit").text("pid", &pid), Want::Answer, None);
                return;
            }
            if how.link {
                state.links.insert((parent, pid.to_string()));
                if let Some(by) = state.processes.get(&parent).and_then(|p| p.pid.clone()) {
                    state.links.insert((key, by.to_string()));
                }
            }
            if let Some(reference) = answer.reference() {
                state.monitors.insert(reference, (parent, pid.to_string()));
            }
            state.set_pid(key, pid);
        });
        let op =
            op.flag("trap_exit", how.trap_exit).flag("link", how.link).flag("monitor", how.monitor);
        self.ask(&op, Some(then)).await?;
        Ok(spawned)
    }

    /// Ends this process with a reason, `normal` where nothing is wrong. Links and monitors hear it. The client's own ends
    /// the session, which begins anew.
    ///
    /// # Errors
    /// [`Code::NoProc`](crate::Code::NoProc) when it has ended before.
    pub async fn exit(&self, reason: &str) -> Result<()> {
        let mut op = Op::new("exit");
        if reason != "normal" {
            op = op.text("reason", reason);
        }
        let (key, why) = (self.key(), reason.to_owned());
        let then: Then = Box::new(move |state, _| {
            if key != OWN {
                let mut wakers = Vec::new();
                if let Some(process) = state.processes.get_mut(&key) {
                    process.end(&why, &mut wakers);
                }
                state.forget(key);
                wakers.into_iter().for_each(std::task::Waker::wake);
            }
        });
        self.ask(&op, Some(then)).await.map(drop)
    }

    /// Sends an exit signal. `kill` cannot be trapped; `normal` does nothing to those who do not trap exits.
    ///
    /// # Errors
    /// Those of `kill`; `Ok` says nothing of a process on another node.
    pub async fn kill(&self, to: &str, reason: &str) -> Result<()> {
        self.ask(&Op::new("kill").text("to", to).text("reason", reason), None).await.map(drop)
    }

    /// From now on exit signals come as events, or no longer.
    ///
    /// # Errors
    /// [`Code::Lost`](crate::Code::Lost).
    pub async fn trap_exit(&self, on: bool) -> Result<()> {
        let key = self.key();
        let then: Then = Box::new(move |state, _| {
            if let Some(process) = state.processes.get_mut(&key) {
                process.traps = on;
            }
        });
        self.ask(&Op::new("flag").bool("trap_exit", on), Some(then)).await.map(drop)
    }

    /// Whether a pid or a name leads to a living process, here or on another node.
    ///
    /// # Errors
    /// [`Code::NoConnection`](crate::Code::NoConnection) when nobody knows.
    pub async fn alive(&self, to: &str) -> Result<bool> {
        let answer = self.ask(&Op::new("alive").text("to", to), None).await?;
        Ok(answer.bool("result").unwrap_or(false))
    }

    // ===== links and monitors =====

    /// Ties the two processes together: when one ends, the other gets its exit signal.
    ///
    /// # Errors
    /// [`Code::Overloaded`](crate::Code::Overloaded). Nobody there is an exit signal `noproc`.
    pub async fn link(&self, to: &str) -> Result<()> {
        let (key, other) = (self.key(), to.to_owned());
        let then: Then = Box::new(move |state, _| {
            if let Some(ours) = state.key_of(&other)
                && let Some(pid) = state.processes.get(&key).and_then(|process| process.pid.clone())
            {
                state.links.insert((ours, pid.to_string()));
            }
            state.links.insert((key, other));
        });
        self.ask(&Op::new("link").text("to", to), Some(then)).await.map(drop)
    }

    /// Takes the tie back; no exit signal of it comes any more.
    ///
    /// # Errors
    /// [`Code::Lost`](crate::Code::Lost).
    pub async fn unlink(&self, to: &str) -> Result<()> {
        let (key, other) = (self.key(), to.to_owned());
        let then: Then = Box::new(move |state, _| {
            state.links.remove(&(key, other.clone()));
            if let Some(ours) = state.key_of(&other)
                && let Some(pid) = state.processes.get(&key).and_then(|process| process.pid.clone())
            {
                state.links.remove(&(ours, pid.to_string()));
            }
        });
        self.ask(&Op::new("unlink").text("to", to), Some(then)).await.map(drop)
    }

    /// Gives a reference, with which exactly one [`Kind::Down`](crate::Kind::Down) will come: when the process ends, at once
    /// when it is not there, and when its node or the connection to the own node is lost for good.
    ///
    /// # Errors
    /// [`Code::Overloaded`](crate::Code::Overloaded).
    pub async fn monitor(&self, to: &str) -> Result<u64> {
        let (key, other) = (self.key(), to.to_owned());
        let then: Then = Box::new(move |state, answer| {
            if let Some(reference) = answer.reference() {
                state.monitors.insert(reference, (key, other));
            }
        });
        let answer = self.ask(&Op::new("monitor").text("to", to), Some(then)).await?;
        Ok(answer.reference().unwrap_or(0))
    }

    /// Takes a monitor back. Its `down` does not come any more, also when it waits in the mailbox already.
    ///
    /// # Errors
    /// [`Code::Denied`](crate::Code::Denied) when it is not this app's.
    pub async fn demonitor(&self, reference: u64) -> Result<()> {
        let key = self.key();
        let then: Then = Box::new(move |state, _| {
            state.monitors.remove(&reference);
            state.remove_down(key, reference);
        });
        let op = Op::new("demonitor").uint("ref", reference).bool("flush", true);
        self.ask(&op, Some(then)).await.map(drop)
    }

    // ===== names =====

    /// Registers this process under a name of this node.
    ///
    /// # Errors
    /// [`Code::Taken`](crate::Code::Taken) when somebody has it.
    pub async fn register(&self, name: &str) -> Result<()> {
        self.declare(rank::NAME, name, Op::new("register").text("name", name)).await
    }

    /// Registers this process under a name of the whole mesh, written `global:NAME` as an address.
    ///
    /// # Errors
    /// [`Code::Taken`](crate::Code::Taken) when somebody is known to have it.
    pub async fn register_global(&self, name: &str) -> Result<()> {
        let op = Op::new("register").text("name", name).text("scope", "global");
        self.declare(rank::NAME, &format!("global:{name}"), op).await
    }

    /// Takes a name of this node back, or `global:NAME`.
    ///
    /// # Errors
    /// [`Code::BadArg`](crate::Code::BadArg) when nobody has it.
    pub async fn unregister(&self, name: &str) -> Result<()> {
        let declared = name.to_owned();
        let then: Then =
            Box::new(move |state, _| state.undeclare(rank::NAME, None, &declared, true));
        let op = scoped(Op::new("unregister"), name);
        self.ask(&op, Some(then)).await.map(drop)
    }

    /// Who has a name of this node, or `global:NAME`.
    ///
    /// # Errors
    /// [`Code::BadArg`](crate::Code::BadArg) when it can be nobody's name.
    pub async fn whereis(&self, name: &str) -> Result<Option<Pid>> {
        let answer = self.ask(&scoped(Op::new("whereis"), name), None).await?;
        Ok(answer.pid().map(Pid::from))
    }

    // ===== timers =====

    /// Sends later, to whomever the address means then. Gives the timer. The end of this process cancels it, and so does a
    /// restart of the node.
    ///
    /// # Errors
    /// [`Code::BadArg`](crate::Code::BadArg) beyond 366 days, [`Code::Overloaded`](crate::Code::Overloaded) beyond 100 000 timers.
    pub async fn send_after(
        &self,
        to: &str,
        after: Duration,
        body: impl crate::Body,
    ) -> Result<u64> {
        let op = Op::new("send_after").text("to", to).uint("after_ms", millis(after)).body(&body);
        let answer = self.ask(&op, None).await?;
        Ok(answer.uint("timer").unwrap_or(0))
    }

    /// Cancels a timer. Gives what was left of it; nothing when it has fired or was never there.
    ///
    /// # Errors
    /// [`Code::Denied`](crate::Code::Denied) when it is not this app's.
    pub async fn cancel_timer(&self, timer: u64) -> Result<Option<Duration>> {
        let answer = self.ask(&Op::new("cancel_timer").uint("timer", timer), None).await?;
        Ok(answer.uint("left_ms").map(Duration::from_millis))
    }

    /// What is left of a timer, which goes on.
    ///
    /// # Errors
    /// As of [`Process::cancel_timer`].
    pub async fn read_timer(&self, timer: u64) -> Result<Option<Duration>> {
        let answer = self.ask(&Op::new("read_timer").uint("timer", timer), None).await?;
        Ok(answer.uint("left_ms").map(Duration::from_millis))
    }
}

fn scoped(op: Op, name: &str) -> Op {
    match name.strip_prefix("global:") {
        Some(name) => op.text("name", name).text("scope", "global"),
        None => op.text("name", name),
    }
}

pub(crate) fn millis(time: Duration) -> u64 {
    // A part of a millisecond is not nothing.
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).min(1 << 53)
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Process").field(&self.pid()).finish()
    }
}

impl Error {
    /// What a mailbox that gives nothing any more says.
    pub(crate) fn over(reason: &str) -> Self {
        if reason == "closed" { Self::closed() } else { Self::ended(reason) }
    }
}
