//! What a client knows, behind one lock: who waits for answers, what lies in mailboxes, what is to be declared again.
//!
//! Nothing of the app's runs under the lock: events are woken for, callbacks called and predicates asked after it.

mod losses;
mod mail;
mod shared;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::call::Parts;
use crate::client::{Failed, Report};
use crate::error::{Error, Result};
use crate::event::Event;
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

pub(crate) use shared::{Shared, release};

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
    /// Who waits, each at a place of its own.
    wakers: Vec<(u64, Waker)>,
    last_place: u64,
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
    /// The client is the whole program of a `GenServer`, which is its own process.
    pub(crate) program: bool,
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
    /// Processes that were let go of while this could not be said to the node.
    pub(crate) orphans: Vec<Pid>,
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
            last_place: 0,
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
        self.wake(wakers);
    }

    /// Everybody who waits is to be woken.
    fn wake(&mut self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.wakers.drain(..).map(|(_, waker)| waker));
    }

    pub(crate) fn end(&mut self, reason: &str, wakers: &mut Vec<Waker>) {
        self.ended.get_or_insert_with(|| reason.to_owned());
        self.wake(wakers);
    }

    /// It ends once its mailbox is empty.
    pub(crate) fn close(&mut self, wakers: &mut Vec<Waker>) {
        self.ending = true;
        self.wake(wakers);
    }

    /// Waits at a place, 0 for a new one. Whoever waits no longer leaves it.
    fn wait(&mut self, waker: &Waker, place: &mut u64) {
        if let Some((_, known)) = self.wakers.iter_mut().find(|(at, _)| at == place) {
            known.clone_from(waker);
            return;
        }
        if *place == 0 {
            self.last_place += 1;
            *place = self.last_place;
        }
        self.wakers.push((*place, waker.clone()));
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
            program: false,
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
            orphans: Vec::new(),
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

    /// Forgets a process. Gives its pid when it lives at the node.
    pub(crate) fn remove_process(&mut self, key: Key) -> Option<Pid> {
        let process = self.processes.remove(&key)?;
        self.forget(key);
        let pid = process.pid?;
        // One of a session that is over is not known any more.
        let known = self.by_pid.remove(&pid).is_some();
        (known && process.ended.is_none()).then_some(pid)
    }

    /// Ends processes that nobody has any more, where the node still has them.
    pub(crate) fn end_orphans(&mut self) {
        for pid in mem::take(&mut self.orphans) {
            let _ = self.write(OWN, &Op::new("exit").text("pid", &pid), Want::Answer, None);
        }
    }

    /// Forgets what a process that has ended had declared.
    pub(crate) fn forget(&mut self, key: Key) {
        self.declarations.retain(|_, declared| declared.key != key);
        self.monitors.retain(|_, (by, _)| *by != key);
        self.links.retain(|(by, _)| *by != key);
    }

    pub(crate) fn key_of(&self, pid: &str) -> Option<Key> {
        self.by_pid.get(pid).copied()
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
}
