//! What a client knows, behind one lock: who waits for answers, what lies in mailboxes, what is to be declared again.
//!
//! Nothing of the app's runs under the lock: events are woken for, callbacks called and predicates asked after it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::call::Parts;
use crate::client::{Failed, Report, Settings};
use crate::error::{Code, Error, Result};
use crate::event::{Event, Kind};
use crate::op::Op;
use crate::pid::Pid;

/// Messages that a process is given before it says that it has consumed some.
pub(crate) const WINDOW: u32 = 256;
/// How long what is asked for waits for a connection, unless it has a time of its own.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Unwritten bytes beyond which a sender waits.
const UNWRITTEN_MAX: usize = 1024 * 1024;
/// `more` commands that are remembered as written; far more than fit into the socket's buffers.
const MORES_MAX: usize = 32 * 1024;

/// A process by a number of the client's own: its pid changes when the node is restarted.
pub(crate) type Key = u64;
/// The client's own process.
pub(crate) const OWN: Key = 0;

/// How the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// There is none, or it is being set up.
    Away,
    /// Commands are taken.
    Ready,
    /// The client has left a node that is about to leave, and looks for another one.
    Drained,
    /// For good.
    Closed,
}

/// What all handles of one client share.
pub(crate) struct Shared {
    state: Mutex<State>,
    pub(crate) phase: watch::Sender<Phase>,
    /// There is room in the buffer, or the phase has changed.
    pub(crate) room: Notify,
    /// Something that a leaving client waits for has ended.
    pub(crate) idle: Notify,
    pub(crate) closing: Notify,
    pub(crate) settings: Settings,
    /// Whoever has to wait to write something does so here, in the order in which they came.
    turn: tokio::sync::Mutex<()>,
    tasks: Mutex<JoinSet<()>>,
}

/// What a process is for, when the node is about to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The app decides.
    Plain,
    /// It answers what it was given, and serves again elsewhere.
    Server,
    /// It ends once what was delivered is taken.
    Iterator,
}

/// A process of this client.
pub(crate) struct Process {
    pub(crate) pid: Option<Pid>,
    pub(crate) spawn: Op,
    pub(crate) name: Option<String>,
    pub(crate) traps: bool,
    pub(crate) role: Role,
    /// Its events are functions to run: it hears when nobody waits for one any more, and one is consumed when it has ended.
    pub(crate) serves: bool,
    queue: VecDeque<Entry>,
    next_entry: u64,
    wakers: Vec<Waker>,
    consumed: u32,
    /// Nothing is counted: it is given nothing any more.
    pub(crate) pull: bool,
    /// It ends when the mailbox is empty.
    pub(crate) ending: bool,
    /// Why it has ended.
    pub(crate) ended: Option<String>,
}

struct Entry {
    number: u64,
    epoch: u32,
    event: Event,
}

/// What the answer does to the state, before anything that comes behind it: also when nobody waits for it any more.
pub(crate) type Then = Box<dyn FnOnce(&mut State, &Event) + Send>;

/// Somebody who waits for an answer.
struct Pending {
    then: Option<Then>,
    end: Option<oneshot::Sender<Result<Event>>>,
    parts: Option<Arc<Parts>>,
    /// Its place among the commands of the session.
    seq: u64,
    /// Commands without an id that were written before it.
    told: u64,
    deadline: Option<Instant>,
    is_call: bool,
}

/// What is said again to a node that does not know the client.
pub(crate) struct Declaration {
    pub(crate) key: Key,
    pub(crate) op: Op,
    /// What takes it back is known by this.
    pub(crate) name: String,
}

/// The order of declarations, after the processes themselves.
pub(crate) mod rank {
    pub(crate) const NAME: u8 = 0;
    pub(crate) const MODULE: u8 = 1;
    pub(crate) const GROUP: u8 = 2;
    pub(crate) const SUBSCRIPTION: u8 = 3;
    pub(crate) const PRESENCE: u8 = 4;
    pub(crate) const NODES: u8 = 5;
    pub(crate) const WATCHED_GROUP: u8 = 6;
    pub(crate) const WATCHED_PRESENCE: u8 = 7;
}

/// What `resume` needs.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) number: u64,
    pub(crate) secret: String,
}

pub(crate) struct State {
    pub(crate) phase: Phase,
    pub(crate) session: Option<Session>,
    pub(crate) node: String,
    pub(crate) epoch: u32,
    pub(crate) draining: bool,
    /// Frames that were received in this session.
    pub(crate) seen: u64,
    /// The driver of the connection, while it waits.
    pub(crate) driver: Option<Waker>,
    out: Vec<u8>,
    /// Bytes that were taken to be written and are not.
    writing: usize,
    /// Commands of this session, and how many of them were taken to be written.
    seq: u64,
    handed: u64,
    /// Commands without an id, and how many of them are known to be carried out.
    told: u64,
    told_done: u64,
    mores: VecDeque<u64>,
    next_id: u64,
    pending: BTreeMap<u64, Pending>,
    pub(crate) processes: BTreeMap<Key, Process>,
    by_pid: HashMap<Pid, Key>,
    next_key: Key,
    pub(crate) declarations: BTreeMap<(u8, u64), Declaration>,
    next_declaration: u64,
    pub(crate) monitors: BTreeMap<u64, (Key, String)>,
    pub(crate) links: BTreeSet<(Key, String)>,
    /// Links between processes of this client, which are set anew.
    pub(crate) relink: BTreeSet<(Key, Key)>,
    /// Calls that were given to this app and have no answer yet.
    given: HashMap<u64, Key>,
    /// Told once the next frame has come.
    report: Option<Report>,
    /// Answers up to this one may be among the frames that were lost.
    boundary: u64,
}

/// What an attempt to write a command came to.
pub(crate) enum Put {
    Done(Option<oneshot::Receiver<Result<Event>>>),
    NoRoom,
    Away,
}

/// What is wanted of a command.
#[derive(Clone, Copy)]
pub(crate) enum Want<'a> {
    /// No answer.
    Nothing,
    /// No answer, and no counting: the client says it, not the app.
    More,
    Answer,
    /// An answer within this time.
    Call(Duration),
    Parts(Duration, &'a Arc<Parts>),
}

/// What is to be done once the lock is released.
#[derive(Default)]
pub(crate) struct After {
    pub(crate) wakers: Vec<Waker>,
    pub(crate) failed: Vec<Failed>,
    pub(crate) report: Option<Report>,
    pub(crate) draining: bool,
    /// The session's own process has ended.
    pub(crate) died: bool,
    pub(crate) idle: bool,
}

impl Process {
    pub(crate) fn new(spawn: Op, role: Role) -> Self {
        Self {
            pid: None,
            spawn,
            name: None,
            traps: false,
            role,
            serves: false,
            queue: VecDeque::new(),
            next_entry: 0,
            wakers: Vec::new(),
            consumed: 0,
            pull: false,
            ending: false,
            ended: None,
        }
    }

    fn push(&mut self, epoch: u32, event: Event, wakers: &mut Vec<Waker>) {
        let number = self.next_entry;
        self.next_entry += 1;
        self.queue.push_back(Entry { number, epoch, event });
        wakers.append(&mut self.wakers);
    }

    pub(crate) fn end(&mut self, reason: &str, wakers: &mut Vec<Waker>) {
        self.ended.get_or_insert_with(|| reason.to_owned());
        wakers.append(&mut self.wakers);
    }

    /// It ends once its mailbox is empty.
    pub(crate) fn close(&mut self, wakers: &mut Vec<Waker>) {
        self.ending = true;
        wakers.append(&mut self.wakers);
    }

    fn wait(&mut self, waker: &Waker) {
        if !self.wakers.iter().any(|known| known.will_wake(waker)) {
            // Wakers of futures that were dropped stay here until the next event.
            if self.wakers.len() >= 64 {
                self.wakers.drain(..).for_each(Waker::wake);
            }
            self.wakers.push(waker.clone());
        }
    }
}

/// Releases the lock, and wakes the driver when there is something to write.
pub(crate) fn release(mut state: MutexGuard<'_, State>) {
    let driver = if state.out.is_empty() { None } else { state.driver.take() };
    drop(state);
    if let Some(driver) = driver {
        driver.wake();
    }
}

impl Shared {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            state: Mutex::new(State::new()),
            phase: watch::Sender::new(Phase::Away),
            room: Notify::new(),
            idle: Notify::new(),
            closing: Notify::new(),
            settings,
            turn: tokio::sync::Mutex::new(()),
            tasks: Mutex::new(JoinSet::new()),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that panics runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a task until the client is closed.
    pub(crate) fn run(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> tokio::task::AbortHandle {
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task)
    }

    pub(crate) fn end_tasks(&self) {
        self.tasks().abort_all();
    }

    pub(crate) fn set_phase(&self, state: &mut State, phase: Phase) {
        state.phase = phase;
        self.phase.send_replace(phase);
        self.room.notify_waiters();
        self.idle.notify_waiters();
    }

    /// Does what was left for after the lock.
    pub(crate) fn finish(self: &Arc<Self>, after: After) {
        after.wakers.into_iter().for_each(Waker::wake);
        if after.idle {
            self.idle.notify_waiters();
        }
        for failed in after.failed {
            self.settings.failed(&failed);
        }
        if let Some(report) = after.report {
            self.settings.report(&report);
        }
        if after.draining {
            crate::drain::begin(self);
        }
    }

    /// Writes a command, once there is a connection and room for it.
    ///
    /// Cancelled before it returns, nothing was written.
    pub(crate) async fn put(
        &self,
        key: Key,
        op: &Op,
        want: Want<'_>,
        mut then: Option<Then>,
    ) -> Result<Option<oneshot::Receiver<Result<Event>>>> {
        op.check()?;
        // Nobody is overtaken that waits already.
        if let Ok(_turn) = self.turn.try_lock()
            && let Put::Done(answer) = self.attempt(key, op, want, &mut then, false)?
        {
            return Ok(answer);
        }
        let patience = match want {
            Want::Call(timeout) | Want::Parts(timeout, _) => timeout,
            _ => PATIENCE,
        };
        let mut deadline = Instant::now() + patience;
        let _turn = loop {
            match tokio::time::timeout_at(deadline, self.turn.lock()).await {
                Ok(turn) => break turn,
                // The node is there and does not keep up: that is felt for as long as it lasts.
                Err(_) if self.state().phase == Phase::Ready => deadline += patience,
                Err(_) => return Err(Error::lost(false)),
            }
        };
        loop {
            let mut phase = self.phase.subscribe();
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            match self.attempt(key, op, want, &mut then, false)? {
                Put::Done(answer) => return Ok(answer),
                Put::NoRoom => room.await,
                Put::Away => {
                    let ready =
                        phase.wait_for(|phase| matches!(phase, Phase::Ready | Phase::Closed));
                    if tokio::time::timeout_at(deadline, ready).await.is_err() {
                        return Err(Error::lost(false));
                    }
                }
            }
        }
    }

    /// Writes a command if that is possible now; `declaring` is for what is said before others may.
    pub(crate) fn attempt(
        &self,
        key: Key,
        op: &Op,
        want: Want<'_>,
        then: &mut Option<Then>,
        declaring: bool,
    ) -> Result<Put> {
        let mut state = self.state();
        match state.phase {
            Phase::Closed => return Err(Error::closed()),
            Phase::Ready => {}
            Phase::Away if declaring => {}
            Phase::Away | Phase::Drained => return Ok(Put::Away),
        }
        if state.out.len() + state.writing >= UNWRITTEN_MAX && !declaring {
            return Ok(Put::NoRoom);
        }
        let answer = state.write(key, op, want, then.take())?;
        let driver = state.driver.take();
        drop(state);
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(Put::Done(answer))
    }

    /// Writes a command and waits for its answer.
    ///
    /// Cancelled, the answer is lost, and the command is if it was not written yet.
    pub(crate) async fn request(
        &self,
        key: Key,
        op: &Op,
        want: Want<'_>,
        then: Option<Then>,
    ) -> Result<Event> {
        match self.put(key, op, want, then).await? {
            Some(answer) => answer.await.unwrap_or_else(|_| Err(Error::closed())),
            None => Err(Error::lost(true)),
        }
    }

    /// The same while the client declares itself.
    pub(crate) fn declare(
        &self,
        key: Key,
        op: &Op,
        mut then: Option<Then>,
    ) -> Result<oneshot::Receiver<Result<Event>>> {
        op.check()?;
        match self.attempt(key, op, Want::Answer, &mut then, true)? {
            Put::Done(Some(answer)) => Ok(answer),
            _ => Err(Error::lost(false)),
        }
    }

    /// A call was answered by this app, or nobody waits for it any more.
    pub(crate) fn answered(&self, reference: u64) {
        let given = self.state().given.remove(&reference);
        if given.is_some() {
            self.idle.notify_waiters();
        }
    }
}

impl State {
    fn new() -> Self {
        let mut processes = BTreeMap::new();
        processes.insert(OWN, Process::new(Op::new("self"), Role::Plain));
        Self {
            phase: Phase::Away,
            session: None,
            node: String::new(),
            epoch: 0,
            draining: false,
            seen: 0,
            driver: None,
            out: Vec::new(),
            writing: 0,
            seq: 0,
            handed: 0,
            told: 0,
            told_done: 0,
            mores: VecDeque::new(),
            next_id: 0,
            pending: BTreeMap::new(),
            processes,
            by_pid: HashMap::new(),
            next_key: 1,
            declarations: BTreeMap::new(),
            next_declaration: 0,
            monitors: BTreeMap::new(),
            links: BTreeSet::new(),
            relink: BTreeSet::new(),
            given: HashMap::new(),
            report: None,
            boundary: 0,
        }
    }

    // ===== commands =====

    pub(crate) fn write(
        &mut self,
        key: Key,
        op: &Op,
        want: Want<'_>,
        then: Option<Then>,
    ) -> Result<Option<oneshot::Receiver<Result<Event>>>> {
        let process = self.processes.get(&key).filter(|process| process.ended.is_none());
        let Some(process) = process else {
            let reason = self.processes.get(&key).and_then(|process| process.ended.as_deref());
            return Err(Error::ended(reason.unwrap_or("normal")));
        };
        let pid = if key == OWN { None } else { process.pid.as_deref() };
        let (timeout, parts, answers) = match want {
            Want::Nothing | Want::More => (None, None, false),
            Want::Answer => (None, None, true),
            Want::Call(timeout) => (Some(timeout), None, true),
            Want::Parts(timeout, parts) => (Some(timeout), Some(Arc::clone(parts)), true),
        };
        self.seq += 1;
        if !answers {
            op.append(&mut self.out, pid, None);
            if matches!(want, Want::More) {
                self.mores.push_back(self.seq);
                if self.mores.len() > MORES_MAX {
                    self.mores.pop_front();
                }
            } else {
                self.told += 1;
            }
            return Ok(None);
        }
        self.next_id += 1;
        let id = self.next_id;
        op.append(&mut self.out, pid, Some(id));
        let (end, answer) = oneshot::channel();
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let pending = Pending {
            then,
            end: Some(end),
            parts,
            seq: self.seq,
            told: self.told,
            deadline,
            is_call: deadline.is_some(),
        };
        self.pending.insert(id, pending);
        Ok(Some(answer))
    }

    /// Gives what is to be written next; the buffer that was written before is used again.
    pub(crate) fn take_out(&mut self, written: &mut Vec<u8>) {
        written.clear();
        if written.capacity() > UNWRITTEN_MAX {
            *written = Vec::new();
        }
        mem::swap(&mut self.out, written);
        self.writing = written.len();
        self.handed = self.seq;
    }

    pub(crate) fn set_writing(&mut self, bytes: usize) {
        self.writing = bytes;
    }

    /// Whether nothing is left that a leaving client waits for.
    pub(crate) fn is_idle(&self) -> bool {
        self.given.is_empty() && self.pending.values().all(|pending| pending.end.is_none())
    }

    // ===== processes =====

    pub(crate) fn add_process(&mut self, process: Process) -> Key {
        let key = self.next_key;
        self.next_key += 1;
        self.processes.insert(key, process);
        key
    }

    pub(crate) fn set_pid(&mut self, key: Key, pid: Pid) {
        if let Some(process) = self.processes.get_mut(&key) {
            process.pid = Some(pid.clone());
            self.by_pid.insert(pid, key);
        }
    }

    /// Forgets a process. Gives its pid when it lived.
    pub(crate) fn remove_process(&mut self, key: Key) -> Option<Pid> {
        let process = self.processes.remove(&key)?;
        self.forget(key);
        let pid = process.pid?;
        self.by_pid.remove(&pid);
        process.ended.is_none().then_some(pid)
    }

    /// Forgets what a process that has ended had declared.
    pub(crate) fn forget(&mut self, key: Key) {
        self.declarations.retain(|_, declared| declared.key != key);
        self.monitors.retain(|_, (by, _)| *by != key);
        self.links.retain(|(by, _)| *by != key);
    }

    pub(crate) fn key_of(&self, pid: &str) -> Option<Key> {
        self.by_pid.get(&Pid::from(pid)).copied()
    }

    pub(crate) fn declare(&mut self, rank: u8, declaration: Declaration) {
        self.next_declaration += 1;
        self.declarations.insert((rank, self.next_declaration), declaration);
    }

    /// Takes back the latest declaration of this kind and name, or all of them.
    pub(crate) fn undeclare(&mut self, rank: u8, key: Option<Key>, name: &str, all: bool) {
        let found: Vec<(u8, u64)> = self
            .declarations
            .range((rank, 0)..(rank + 1, 0))
            .filter(|(_, d)| d.name == name && key.is_none_or(|key| key == d.key))
            .map(|(at, _)| *at)
            .collect();
        let skip = if all { 0 } else { found.len().saturating_sub(1) };
        for at in found.iter().skip(skip) {
            self.declarations.remove(at);
        }
    }

    // ===== mailboxes =====

    /// Takes the first event, or the one with this number.
    pub(crate) fn take(&mut self, key: Key, number: Option<u64>) -> Option<Event> {
        let epoch = self.epoch;
        let process = self.processes.get_mut(&key)?;
        let entry = match number {
            None => process.queue.pop_front()?,
            Some(number) => {
                let at = process.queue.iter().position(|entry| entry.number == number)?;
                process.queue.remove(at)?
            }
        };
        if entry.event.is_counted() && entry.epoch == epoch && !process.serves {
            self.consume(key, epoch);
        }
        Some(entry.event)
    }

    /// One that was taken in this epoch is done with.
    pub(crate) fn consume(&mut self, key: Key, epoch: u32) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        if epoch == self.epoch && !process.pull {
            process.consumed += 1;
            if process.consumed >= WINDOW / 2 {
                self.tell_consumed(key);
            }
        }
    }

    /// Events that came after those that were looked at, with their numbers.
    pub(crate) fn since(&self, key: Key, number: u64) -> Vec<(u64, Event)> {
        let entries = self.processes.get(&key).into_iter().flat_map(|process| &process.queue);
        entries
            .filter(|entry| entry.number >= number)
            .map(|entry| (entry.number, entry.event.clone()))
            .collect()
    }

    /// Whether an event has come that was not looked at.
    pub(crate) fn has_since(&self, key: Key, number: u64) -> bool {
        self.processes
            .get(&key)
            .is_some_and(|process| process.next_entry > number && !process.queue.is_empty())
            && !self.since(key, number).is_empty()
    }

    /// Waits for the next event, unless there will be none: then it gives why.
    pub(crate) fn wait(&mut self, key: Key, waker: &Waker) -> Option<String> {
        let closed = self.phase == Phase::Closed;
        self.tell_consumed(key);
        let Some(process) = self.processes.get_mut(&key) else { return Some("closed".to_owned()) };
        if let Some(reason) = &process.ended {
            return Some(reason.clone());
        }
        if process.ending && process.queue.is_empty() {
            return Some("shutdown".to_owned());
        }
        if closed {
            return Some("closed".to_owned());
        }
        process.wait(waker);
        None
    }

    /// Waits for the end of a process: its reason.
    pub(crate) fn wait_end(&mut self, key: Key, waker: &Waker) -> Option<String> {
        let closed = self.phase == Phase::Closed;
        match self.processes.get_mut(&key) {
            Some(process) if process.ended.is_some() => process.ended.clone(),
            Some(process) if !closed => {
                process.wait(waker);
                None
            }
            _ => Some("closed".to_owned()),
        }
    }

    /// Takes back the `down` of a monitor.
    pub(crate) fn remove_down(&mut self, key: Key, reference: u64) {
        if let Some(process) = self.processes.get_mut(&key) {
            process.queue.retain(|entry| {
                entry.event.kind() != Kind::Down || entry.event.reference() != Some(reference)
            });
        }
    }

    /// Whether nothing waits in the mailbox.
    pub(crate) fn is_waiting(&self, key: Key) -> bool {
        self.processes.get(&key).is_some_and(|process| process.queue.is_empty())
    }

    /// Says what was consumed; what it wakes is the driver, which the caller does.
    pub(crate) fn tell_consumed(&mut self, key: Key) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        let told = self.phase == Phase::Ready && process.ended.is_none();
        if process.consumed == 0 || !told {
            return;
        }
        let n = mem::take(&mut process.consumed);
        // A process that is there can say so.
        let _ = self.write(key, &Op::new("more").uint("n", n.into()), Want::More, None);
    }

    // ===== what comes =====

    pub(crate) fn on_event(&mut self, event: Event, after: &mut After) {
        self.seen += 1;
        // Before the gap come at most the `ok` of the hello and that the node is about to leave.
        let tells = event.id != Some(0) && event.kind() != Kind::Draining;
        if let Some(mut report) = if tells { self.report.take() } else { None } {
            if event.kind() == Kind::Gap && event.reason() == Some("resumed") {
                report.lost_events = event.uint("lost").unwrap_or(0);
                self.lose_answers();
                self.open_windows();
            }
            after.report = Some(report);
        }
        match event.kind() {
            Kind::Ok | Kind::Error => self.on_answer(event),
            Kind::Part => {
                let pending = event.id.and_then(|id| self.pending.get(&id));
                if let Some(parts) = pending.and_then(|pending| pending.parts.as_ref()) {
                    after.wakers.extend(parts.push(event));
                }
            }
            Kind::Welcome | Kind::Unknown => {}
            Kind::Draining => {
                if !mem::replace(&mut self.draining, true) {
                    after.draining = true;
                }
            }
            Kind::Failed => after.failed.push(Failed::of(&event)),
            Kind::Died => self.on_died(&event, after),
            Kind::Cancel => {
                let reference = event.reference().unwrap_or(0);
                let key = self.given.remove(&reference);
                after.idle |= key.is_some();
                if let Some(process) = key.and_then(|key| self.processes.get_mut(&key))
                    && process.serves
                {
                    process.push(self.epoch, event, &mut after.wakers);
                }
            }
            _ => self.on_mail(event, after),
        }
    }

    fn on_mail(&mut self, event: Event, after: &mut After) {
        let key = match event.kind() {
            // Whose it is, its monitor says too, which is over.
            Kind::Down => match event.reference().and_then(|of| self.monitors.remove(&of)) {
                Some((key, _)) => key,
                None => return,
            },
            _ => match event.pid() {
                None => OWN,
                Some(pid) => match self.key_of(pid) {
                    Some(key) => key,
                    None => return,
                },
            },
        };
        match (event.kind(), event.reference()) {
            (Kind::Call | Kind::Rpc, Some(reference)) => {
                self.given.insert(reference, key);
            }
            (Kind::Exit, _) => {
                if let Some(from) = event.from_str() {
                    self.links.remove(&(key, from.to_owned()));
                }
            }
            _ => {}
        }
        if let Some(process) = self.processes.get_mut(&key) {
            process.push(self.epoch, event, &mut after.wakers);
        }
    }

    fn on_answer(&mut self, event: Event) {
        let Some(pending) = event.id.and_then(|id| self.pending.remove(&id)) else { return };
        self.told_done = self.told_done.max(pending.told);
        while self.mores.front().is_some_and(|seq| *seq <= pending.seq) {
            self.mores.pop_front();
        }
        let answer = if event.kind() == Kind::Error {
            Err(Error::of(&event))
        } else {
            if let Some(then) = pending.then {
                then(self, &event);
            }
            Ok(event)
        };
        if let Some(end) = pending.end {
            let _ = end.send(answer);
        }
    }

    fn on_died(&mut self, event: &Event, after: &mut After) {
        let Some(pid) = event.pid() else { return };
        if self.processes.get(&OWN).and_then(|own| own.pid.as_deref()) == Some(pid) {
            after.died = true;
        } else if let Some(key) = self.key_of(pid) {
            let reason = event.reason().unwrap_or("killed").to_owned();
            if let Some(process) = self.processes.get_mut(&key) {
                process.end(&reason, &mut after.wakers);
            }
            self.forget(key);
        }
    }

    // ===== the connection comes and goes =====

    /// The connection is lost. Who waits for an answer does so for as long as it may take.
    pub(crate) fn on_break(&mut self) {
        self.driver = None;
        let deadline = Instant::now() + PATIENCE;
        for pending in self.pending.values_mut().filter(|pending| !pending.is_call) {
            pending.deadline = Some(deadline);
        }
    }

    /// When the first of those who wait for answers has waited for too long.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let waiting = self.pending.values().filter(|pending| pending.end.is_some());
        waiting.filter_map(|pending| pending.deadline).min()
    }

    pub(crate) fn expire(&mut self, now: Instant) {
        for pending in self.pending.values_mut() {
            if pending.deadline.is_some_and(|deadline| deadline <= now)
                && let Some(end) = pending.end.take()
            {
                let words = "no reply in time; the connection to the node is lost";
                let error = if pending.is_call {
                    Error::new(Code::Timeout, true, words)
                } else {
                    Error::lost(true)
                };
                let _ = end.send(Err(error));
            }
        }
    }

    /// The session lives on: of what was written the node has carried out all but this hello.
    pub(crate) fn on_resumed(&mut self, commands: u64, after: &mut After) {
        let carried = commands.saturating_sub(1).min(self.handed);
        let handed = self.handed;
        let mut answering = 0;
        self.pending.retain(|_, pending| {
            if !pending.is_call {
                pending.deadline = None;
            }
            if pending.seq > handed {
                // It waits in the buffer still, and is written behind the hello.
                pending.seq = pending.seq - handed + commands;
            } else if pending.seq > carried {
                answering += 1;
                if let Some(end) = pending.end.take() {
                    let _ = end.send(Err(Error::lost(false)));
                }
                return false;
            }
            true
        });
        let mores = self.mores.iter().filter(|seq| (carried + 1..=handed).contains(seq)).count();
        self.mores.retain(|seq| *seq > handed);
        for seq in &mut self.mores {
            *seq = *seq - handed + commands;
        }
        let lost = (handed - carried).saturating_sub(answering + mores as u64);
        self.seq = self.seq - handed + commands;
        self.handed = commands;
        self.boundary = commands;
        self.writing = 0;
        if handed > carried {
            self.open_windows();
        }
        let report =
            Report { resumed: true, lost_events: 0, lost_commands: lost, unsure_commands: 0 };
        self.report = Some(report);
        after.wakers.extend(self.driver.take());
    }

    /// No frame has come behind the welcome for a while: none was lost.
    pub(crate) fn take_report(&mut self) -> Option<Report> {
        self.report.take()
    }

    /// Answers to what was written before may be among the frames that were lost.
    fn lose_answers(&mut self) {
        let boundary = self.boundary;
        self.pending.retain(|_, pending| {
            if pending.seq > boundary {
                return true;
            }
            if let Some(end) = pending.end.take() {
                let _ = end.send(Err(Error::lost(true)));
            }
            false
        });
    }

    /// What was lost on the way to or from the node would stay counted as unconsumed.
    fn open_windows(&mut self) {
        let keys: Vec<Key> = self.processes.keys().copied().collect();
        for key in keys {
            let open = self.processes.get(&key).is_some_and(|p| p.ended.is_none() && !p.pull);
            if open {
                let _ =
                    self.write(key, &Op::new("more").uint("n", WINDOW.into()), Want::More, None);
            }
        }
    }

    /// A new session begins: `commands` were said in it. Gives what was lost with the one of before.
    pub(crate) fn on_restarted(
        &mut self,
        commands: u64,
        seen: u64,
        quiet: bool,
        after: &mut After,
    ) -> Report {
        let handed = self.handed;
        for (_, mut pending) in mem::take(&mut self.pending) {
            if let Some(end) = pending.end.take() {
                let _ = end.send(Err(Error::lost(pending.seq <= handed)));
            }
        }
        let unsure_commands = self.told - self.told_done;
        self.out.clear();
        self.writing = 0;
        (self.seq, self.handed, self.seen) = (commands, commands, seen);
        (self.told, self.told_done) = (0, 0);
        self.mores.clear();
        self.given.clear();
        let ours = mem::take(&mut self.by_pid);
        let own = self.processes.get(&OWN).and_then(|own| own.pid.clone());
        self.report = None;
        self.draining = false;
        self.epoch += 1;
        let epoch = self.epoch;
        let monitors = mem::take(&mut self.monitors);
        let links = mem::take(&mut self.links);
        for process in self.processes.values_mut() {
            process.consumed = 0;
            process.pull = false;
            if process.role == Role::Iterator && process.ending {
                process.end("shutdown", &mut after.wakers);
            }
            process.ending = false;
        }
        for (reference, (key, to)) in monitors {
            let down = Event::make(Kind::Down, |fields| {
                fields.uint("ref", reference);
                fields.text(if to.starts_with('<') { "from" } else { "name" }, &to);
                fields.text("reason", "noconnection");
            });
            if let Some(process) = self.processes.get_mut(&key).filter(|p| p.ended.is_none()) {
                process.push(epoch, down, &mut after.wakers);
            }
        }
        self.relink.clear();
        for (key, to) in links {
            let other = if own.as_deref() == Some(to.as_str()) {
                Some(OWN)
            } else {
                ours.get(&Pid::from(to.as_str())).copied()
            };
            if let Some(other) = other {
                // Both ends are the client's, and both will be there again.
                self.relink.insert((key.min(other), key.max(other)));
                continue;
            }
            let Some(process) = self.processes.get_mut(&key) else { continue };
            if process.traps {
                let exit = Event::make(Kind::Exit, |fields| {
                    fields.text("from", &to);
                    fields.text("reason", "noconnection");
                });
                process.push(epoch, exit, &mut after.wakers);
            } else if key != OWN {
                process.end("noconnection", &mut after.wakers);
            }
        }
        for process in self.processes.values_mut().filter(|p| !quiet && p.ended.is_none()) {
            let gap = Event::make(Kind::Gap, |fields| {
                fields.uint("lost", 0);
                fields.text("reason", "restarted");
            });
            process.push(epoch, gap, &mut after.wakers);
        }
        let ended: Vec<Key> =
            self.processes.iter().filter(|(_, p)| p.ended.is_some()).map(|(key, _)| *key).collect();
        for key in ended {
            self.forget(key);
        }
        Report { resumed: false, lost_events: 0, lost_commands: 0, unsure_commands }
    }

    /// For good: everybody who waits hears it.
    pub(crate) fn on_closed(&mut self, after: &mut After) {
        for (_, mut pending) in mem::take(&mut self.pending) {
            if let Some(end) = pending.end.take() {
                let _ = end.send(Err(Error::lost(pending.seq <= self.handed)));
            }
        }
        for process in self.processes.values_mut() {
            after.wakers.append(&mut process.wakers);
        }
        self.given.clear();
    }
}
