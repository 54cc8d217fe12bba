//! The state machine in the middle: commands, messages and deadlines in, effects out.
//!
//! Everything that goes in is a method named `on_*`; everything that comes out is in the [`Outbox`]. The router
//! does no IO, awaits nothing, reads no clock and draws no randomness: `now` and secrets are arguments. It
//! returns no errors: a command that cannot be carried out is answered to the app that gave it.
//!
//! Work that may touch many entries (the end of a large session, a lost peer, listings) goes on in slices of
//! [`SLICE`] entries by `on_deadline`, in the order in which it came up. Whoever takes the lock says so by
//! [`Outbox::begin`], from which on the entries are counted.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::wire::command::{Command, Id, NodeType, Refused, Request};
use crate::wire::event::{Head, Said};
use crate::wire::id::{Node, NodeName, Pid};

mod again;
mod agenda;
mod announced;
mod calls;
mod deliver;
mod factories;
mod few;
mod gather;
mod globals;
mod groups;
pub mod hosting;
mod info;
mod kv;
pub mod life;
mod links;
mod listings;
pub mod mailbox;
mod monitors;
mod moving;
mod names;
pub mod nodes;
pub mod outbox;
pub mod peers;
mod presence;
mod processes;
mod questions;
mod receive;
mod rpc;
mod scopes;
mod send;
mod served;
pub mod sessions;
pub mod shared;
pub mod shelf;
mod supervisor;
pub mod tally;
#[cfg(test)]
mod tests;
pub mod topics;
mod waits;
mod work;

pub use again::Again;
use agenda::{Agenda, Deadline};
use listings::Listed;
use nodes::KnownNode;
pub use outbox::Outbox;
use outbox::{LANE_BYTES, UNREAD_BYTES_MAX};
use peers::{Peer, PeerId};
use processes::Process;
use sessions::{Session, SessionId};
use tally::Counters;
use topics::publish::Publish;
use work::Work;

/// A map that is looked up and never iterated.
pub(crate) type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Most entries that one hold of the lock handles.
pub const SLICE: usize = 512;
/// A process with this many signals waiting exits `overloaded`.
const SIGNALS_MAX: usize = 100_000;
/// The same in bytes: as many signals as that with a short reason.
const SIGNAL_BYTES_MAX: usize = 16 * 1024 * 1024;
/// When the node is full and its heaviest mailbox has nothing to shed, its process exits `overloaded` if signals take
/// this many bytes there.
const SIGNAL_BYTES_HEAVY: usize = 1024 * 1024;
/// Most processes of one session, most links or monitors of one process, and most links, monitors there and monitors
/// here of one peer.
const OWNED_MAX: usize = 200_000;
/// Unconsumed bytes that a window allows beyond its first event.
const WINDOW_BYTES_MAX: usize = 1024 * 1024;

/// What other nodes may ask of this one beyond messages, links and monitors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remote {
    /// Nothing.
    None,
    /// Looking: `info`, `processes`, `whereis`.
    #[default]
    Read,
    /// Also `kill` with the reason `kill`.
    Full,
}

/// Every bound of the router.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most messages in a mailbox unless the process says otherwise.
    pub mailbox_entries: usize,
    /// Most bytes in a mailbox unless the process says otherwise.
    pub mailbox_bytes: usize,
    /// Most bytes in all queues of the node.
    pub queue_bytes: usize,
    /// Bytes waiting for one peer at which the sessions that feed it are no longer read.
    pub peer_bytes: usize,
    /// Longest body of a message, in bytes.
    pub body_bytes: usize,
    /// How long a sender waits for a full queue.
    pub send_timeout: Duration,
    /// What other nodes may ask.
    pub remote: Remote,
    /// How many topics are counted one by one.
    pub counted_topics: usize,
}

impl Limits {
    /// Whether the apps of the node leave more unread than half of what may wait in it.
    fn is_unread(&self, out: &Outbox) -> bool {
        out.unread() > self.queue_bytes / 2
    }

    /// How much may wait for an app before it is given no more: little once the apps together leave much unread.
    fn lane_bytes(&self, out: &Outbox, usual: usize) -> usize {
        if self.is_unread(out) { outbox::LANE_BYTES_UNREAD } else { usual }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            mailbox_entries: 65_536,
            mailbox_bytes: 8 * 1024 * 1024,
            queue_bytes: 32 * 1024 * 1024,
            // Enough to write while the sessions that were stopped start again.
            peer_bytes: 512 * 1024,
            body_bytes: 1024 * 1024,
            send_timeout: Duration::from_secs(1),
            remote: Remote::Read,
            counted_topics: 0,
        }
    }
}

/// The state of one node: its processes, names, sessions and peers.
#[derive(Debug)]
pub struct Router {
    me: Node,
    /// `<name.incarnation.`: what every local pid begins with.
    prefix: String,
    limits: Limits,
    counters: Counters,
    /// Boxed, so that free places of the map cost little.
    processes: Map<u64, Box<Process>>,
    /// The keys of `processes`, in order, for listings.
    serials: BTreeSet<u64>,
    names: names::Names,
    sessions: Map<SessionId, Session>,
    /// Sessions that want `died` events, and how many each has missed since it stopped reading.
    mourners: BTreeMap<SessionId, u64>,
    peers: Map<PeerId, Peer>,
    connected: BTreeMap<NodeName, PeerId>,
    known: Vec<KnownNode>,
    labels: BTreeMap<String, String>,
    hidden: bool,
    addresses: Vec<String>,
    /// How far the node has come.
    life: life::Life,
    /// Processes that watch nodes, the number that was given when they began, and which nodes.
    node_watchers: BTreeMap<u64, (u64, NodeType)>,
    /// Whose monitor a reference is, for as long as it is set or its `down` waits in the mailbox.
    refs: Map<u64, u64>,
    /// What this node announces of itself.
    announced: announced::Announced,
    globals: BTreeMap<Box<str>, globals::Claims>,
    /// Names that nobody has for the moment because a node drains, and the same by their numbers.
    moving: BTreeMap<Box<str>, moving::Moving>,
    moving_names: BTreeMap<u64, Box<str>>,
    groups: BTreeMap<Box<str>, groups::Group>,
    /// Who watches many groups at once, by reference.
    scopes: BTreeMap<u64, scopes::Scope>,
    modules: BTreeMap<Box<str>, rpc::Module>,
    topics: topics::Topics,
    presences: presence::Presences,
    /// Who waits for nodes.
    waits: waits::Waits,
    /// Programs that run as processes of this node, and who keeps them up.
    tree: hosting::Tree,
    /// The time of what is being done.
    clock: Option<Instant>,
    /// Bytes in all key-value processes.
    kv_bytes: usize,
    /// When this run began, and the latest time in any claim of a global name.
    began: Option<Instant>,
    last_ms: u64,
    /// Bytes of calls that may yet be sent to somebody else.
    retry_bytes: usize,
    /// Calls of processes here, and calls to processes here, that have not ended.
    calls: Map<u64, calls::Call>,
    served: Map<u64, served::Served>,
    /// Calls to several nodes that have not ended.
    gathers: BTreeMap<u64, gather::Gather>,
    asks: BTreeMap<u64, questions::Asked>,
    mesh_asks: BTreeMap<u64, nodes::MeshAsked>,
    timers: BTreeMap<u64, send::Timer>,
    /// Bytes of what is sent later.
    timer_bytes: usize,
    agenda: Agenda,
    work: VecDeque<Work>,
    /// [`Work::Shed`] is among it.
    shedding: bool,
    /// Mailboxes of more than 64 KiB, by that, so that the heaviest is found at once.
    heavy: BTreeSet<(u32, u64)>,
    mailbox_bytes: usize,
    partial_bytes: usize,
    next: u64,
    /// Changes whenever an address may lead elsewhere than before.
    routes: u64,
    last_serial: u64,
    /// Where heads of events are built.
    scratch: Vec<u8>,
    /// Where the head of a call gets its `ref`.
    call_head: Vec<u8>,
}

/// Why a command could not be carried out.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    code: &'static str,
    message: String,
    nodes: Vec<String>,
}

impl Failure {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), nodes: Vec::new() }
    }

    fn badarg(message: impl ToString) -> Self {
        Self::new("badarg", message.to_string())
    }

    /// One more of several nodes could not be told: the first failure names them all.
    fn gather(first: &mut Option<Self>, other: Self) {
        match first {
            Some(first) => first.nodes.extend(other.nodes),
            None => *first = Some(other),
        }
    }

    /// How a call ends that could not be made.
    fn ending(&self) -> calls::Ending<'_> {
        calls::Ending { code: self.code, message: &self.message, ..Default::default() }
    }

    fn denied(message: impl Into<String>) -> Self {
        Self::new("denied", message)
    }
}

/// Whose command it is and where its answer goes.
#[derive(Clone, Copy, Debug)]
struct Asker<'a> {
    now: Instant,
    session: SessionId,
    id: Option<Id<'a>>,
    op: &'a str,
    /// The address of the command, for `failed`.
    to: &'a str,
}

/// An `id` kept until its answer comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeptId {
    Number(u64),
    Text(Box<str>),
}

impl KeptId {
    fn keep(id: Id<'_>) -> Self {
        match id {
            Id::Number(number) => Self::Number(number),
            Id::Text(text) => Self::Text(text.into()),
        }
    }

    fn id(&self) -> Id<'_> {
        match self {
            Self::Number(number) => Id::Number(*number),
            Self::Text(text) => Id::Text(text),
        }
    }
}

impl Router {
    /// An empty node.
    #[must_use]
    pub fn new(me: Node, limits: Limits) -> Self {
        let prefix = format!("<{}.{}.", me.name, me.incarnation);
        Self {
            me,
            prefix,
            limits,
            counters: Counters::default(),
            processes: Map::default(),
            serials: BTreeSet::new(),
            names: names::Names::default(),
            sessions: Map::default(),
            mourners: BTreeMap::new(),
            peers: Map::default(),
            connected: BTreeMap::new(),
            known: Vec::new(),
            labels: BTreeMap::new(),
            hidden: false,
            addresses: Vec::new(),
            life: life::Life::default(),
            node_watchers: BTreeMap::new(),
            refs: Map::default(),
            announced: announced::Announced::default(),
            globals: BTreeMap::new(),
            moving: BTreeMap::new(),
            moving_names: BTreeMap::new(),
            groups: BTreeMap::new(),
            scopes: BTreeMap::new(),
            modules: BTreeMap::new(),
            topics: topics::Topics::new(limits.counted_topics),
            presences: presence::Presences::default(),
            waits: waits::Waits::new(),
            tree: hosting::Tree::default(),
            clock: None,
            kv_bytes: 0,
            began: None,
            last_ms: 0,
            retry_bytes: 0,
            calls: Map::default(),
            served: Map::default(),
            gathers: BTreeMap::new(),
            asks: BTreeMap::new(),
            mesh_asks: BTreeMap::new(),
            timers: BTreeMap::new(),
            timer_bytes: 0,
            agenda: Agenda::default(),
            work: VecDeque::new(),
            shedding: false,
            heavy: BTreeSet::new(),
            mailbox_bytes: 0,
            partial_bytes: 0,
            next: 0,
            routes: 0,
            // 1 to 99 are kept for processes that are built in.
            last_serial: 99,
            scratch: Vec::new(),
            call_head: Vec::new(),
        }
    }

    /// Who this is.
    #[must_use]
    pub fn me(&self) -> &Node {
        &self.me
    }

    /// What was lost so far.
    #[cfg(test)]
    fn counters(&self) -> Counters {
        self.counters
    }

    /// A number that was never given before, for refs, timers and questions.
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn pid(&self, serial: u64) -> Pid {
        Pid { node: self.me.clone(), serial }
    }

    /// Carries out one command: a frame without its first four bytes.
    pub fn on_command(&mut self, now: Instant, session: SessionId, rest: &[u8], out: &mut Outbox) {
        if self.on_again(now, session, rest, out) != Again::Done {
            self.on_new(now, session, rest, out);
        }
    }

    /// The same of a command that [`Router::on_again`] does not know.
    pub fn on_new(&mut self, now: Instant, session: SessionId, rest: &[u8], out: &mut Outbox) {
        self.clock = Some(now);
        let Some(state) = self.sessions.get_mut(&session) else { return };
        state.commands += 1;
        out.count(1);
        let request = Request::read(rest);
        self.remember(session, rest, &request);
        let asker = Asker { now, session, id: request.id, op: request.op, to: "" };
        match request.command {
            Ok(command) => self.carry_out(asker, command, request.ct, request.body, out),
            Err(refused) => self.refuse(asker, refused, out),
        }
        if !self.work.is_empty() {
            self.run_work(now, out);
        }
    }

    /// The time of what is done next.
    pub fn on_time(&mut self, now: Instant) {
        self.clock = Some(now);
    }

    /// Answers a command that could not even be read.
    pub fn on_refused(
        &mut self,
        now: Instant,
        session: SessionId,
        id: Option<Id<'_>>,
        refused: Refused,
        out: &mut Outbox,
    ) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        state.commands += 1;
        out.count(1);
        self.refuse(Asker { now, session, id, op: "", to: "" }, refused, out);
    }

    fn carry_out<'a>(
        &mut self,
        mut asker: Asker<'a>,
        command: Command<'a>,
        ct: Option<&str>,
        body: &[u8],
        out: &mut Outbox,
    ) {
        let asker = &mut asker;
        let result = match command {
            Command::Send { pid, to, mode, checked } => {
                self.send(asker, pid, to, Said::Message, mode, checked, ct, body, out)
            }
            Command::Cast { pid, to, mode, checked } => {
                self.send(asker, pid, to, Said::Cast, mode, checked, ct, body, out)
            }
            Command::Sbcast { pid, nodes, name, timeout_ms } => {
                self.sbcast(asker, pid, nodes, name, timeout_ms, ct, body, out)
            }
            Command::Abcast { pid, nodes, name } => {
                self.abcast(asker, pid, nodes, name, ct, body, out)
            }
            Command::Call { pid, to, timeout_ms } => {
                self.call(asker, pid, to, timeout_ms, ct, body, out)
            }
            Command::MultiCall { pid, nodes, name, timeout_ms } => {
                self.multi_call(asker, pid, nodes, name, timeout_ms, ct, body, out)
            }
            Command::Reply { reference, more } => self.reply(asker, reference, more, ct, body, out),
            Command::Raise { reference, class, reason, stack } => {
                self.raise(asker, reference, class, reason, stack, out)
            }
            Command::Hello { version, client, delivery, grace_ms, resume, process } => {
                let earlier = sessions::Earlier { resume, process };
                self.hello(asker, version, client, delivery, grace_ms, earlier, out)
            }
            Command::SelfPid => self.self_pid(asker, out),
            Command::Bye => self.bye(asker, out),
            Command::Nodes { states } => self.nodes(asker, &states, out),
            Command::Ping { node, timeout_ms } => self.ping(asker, node, timeout_ms, out),
            Command::Connect { to } => self.connect(asker, to, out),
            Command::Disconnect { node } => self.disconnect(asker, node, out),
            Command::Peers => self.show_peers(asker, out),
            Command::Explain { node } => self.explain(asker, node, out),
            Command::Doctor => self.doctor(asker, out),
            Command::Ready { wait_ms } => self.tell_ready(asker, wait_ms, out),
            Command::Drain { wait_ms } => self.drain(asker, wait_ms, out),
            Command::MonitorNodes { pid, on, node_type } => {
                self.monitor_nodes(asker, pid, on, node_type, out)
            }
            Command::MonitorNode { pid, node, on } => self.monitor_node(asker, pid, node, on, out),
            Command::WaitFor { nodes, role, count, timeout_ms } => {
                self.wait_for(asker, nodes, role, count, timeout_ms, out)
            }
            Command::MonitorDeaths { on } => self.monitor_deaths(asker, on, out),
            Command::SpawnKv { pid, name, label, link, monitor, detached, bytes } => {
                let wanted = kv::SpawnKv { name, label, link, monitor, detached, bytes };
                self.spawn_kv(asker, pid, &wanted, body, out)
            }
            Command::Spawn { pid, name, label, link, monitor, trap_exit, delivery, mailbox } => {
                let wanted =
                    processes::Spawn { name, label, link, monitor, trap_exit, delivery, mailbox };
                self.spawn(asker, pid, &wanted, out)
            }
            Command::SpawnFactory { pid, factory, node, args, name, link, monitor, timeout_ms } => {
                let wanted =
                    factories::SpawnFrom { factory, node, args, name, link, monitor, timeout_ms };
                self.spawn_from(asker, pid, &wanted, out)
            }
            Command::Host { spec } => self.host(asker, &spec, out),
            Command::TerminateChild { name } => self.terminate_child(asker, name, out),
            Command::RestartChild { name } => self.restart_child(asker, name, out),
            Command::DeleteChild { name } => self.delete_child(asker, name, out),
            Command::Tree => self.show_tree(asker, out),
            Command::Exit { pid, reason } => self.exit(asker, pid, reason, out),
            Command::Kill { pid, to, reason } => self.kill(asker, pid, to, reason, out),
            Command::Info { to, keys } => self.info(asker, to, keys, out),
            Command::Alive { to } => self.is_alive(asker, to, out),
            Command::Processes { node } => self.list_processes(asker, node, out),
            Command::Flag { pid, trap_exit, sensitive, label, delivery, mailbox } => {
                let flags = processes::Flags { trap_exit, sensitive, label, delivery, mailbox };
                self.flag(asker, pid, &flags, out)
            }
            Command::Register { pid, name, global: None, .. } => {
                self.register(asker, pid, name, out)
            }
            Command::Register { pid, name, global: Some(on_conflict), replace } => {
                self.register_global(asker, pid, name, on_conflict, replace, out)
            }
            Command::Unregister { name, global: false } => self.unregister(asker, name, out),
            Command::Unregister { name, global: true } => self.unregister_global(asker, name, out),
            Command::Whereis { name, global: true, .. } => self.whereis_global(asker, name, out),
            Command::Whereis { name, node, .. } => self.whereis(asker, name, node, out),
            Command::Join { pid, group } => self.join(asker, pid, group, out),
            Command::Leave { pid, group } => self.leave_group(asker, pid, group, out),
            Command::Members { group, local } => self.members(asker, group, local),
            Command::Groups { prefix } => {
                self.start_listing(asker, Listed::Groups, prefix);
                Ok(())
            }
            Command::MonitorGroup { pid, group } => self.monitor_group(asker, pid, group, out),
            Command::MonitorGroups { pid, prefix } => self.monitor_groups(asker, pid, prefix, out),
            Command::Serve { pid, module, functions } => {
                self.serve(asker, pid, module, functions, out)
            }
            Command::Unserve { pid, module } => self.unserve(asker, pid, module, out),
            Command::Modules => {
                self.start_listing(asker, Listed::Modules, "");
                Ok(())
            }
            Command::Rpc { pid, node, nodes, module, function, timeout_ms, cast } => {
                let what = rpc::Function { module, function };
                self.rpc(asker, pid, node, nodes, what, timeout_ms, cast, ct, body, out)
            }
            Command::Subscribe { pid, topic, group, metadata, sync, dedupe } => {
                let metadata = metadata.map(|metadata| metadata.item());
                let metadata = metadata.as_deref();
                let wanted = topics::Subscribe { pid, topic, group, metadata, sync, dedupe };
                self.subscribe(asker, topic, wanted, out)
            }
            Command::Unsubscribe { pid, topic } => self.unsubscribe(asker, pid, topic, out),
            Command::Publish { pid, topic, reach, exclude, mode, report, retain } => {
                let wanted = Publish { pid, topic, reach, exclude, mode, report, retain };
                self.publish(asker, wanted, ct, body, out)
            }
            Command::Subscribers { topic, list } => self.subscribers(asker, topic, list, out),
            Command::Topics => self.list_topics(asker, out),
            Command::Track(wanted) => self.track(asker, &wanted, out),
            Command::UpdatePresence(wanted) => self.update_presence(asker, &wanted, out),
            Command::Untrack { pid, topic, key } => self.untrack(asker, pid, topic, key, out),
            Command::Presence { topic, key, prefix } => self.presence(asker, topic, key, prefix),
            Command::MonitorPresence { pid, topic } => {
                self.monitor_presence(asker, pid, topic, out)
            }
            Command::Registered { global, prefix } => {
                let what = if global { Listed::Globals } else { Listed::Names };
                self.start_listing(asker, what, prefix);
                Ok(())
            }
            Command::SendAfter { pid, to, after_ms } => {
                self.send_after(asker, pid, to, after_ms, ct, body, out)
            }
            Command::CancelTimer { timer } => self.cancel_timer(asker, timer, out),
            Command::ReadTimer { timer } => self.read_timer(asker, timer, out),
            Command::Receive { pid, max, timeout_ms } => {
                self.receive(asker, pid, max, timeout_ms, out)
            }
            Command::Cancel { pid, of } => self.cancel(asker, pid, of, out),
            Command::Flush { pid } => self.flush(asker, pid, out),
            Command::More { pid, n } => self.more(asker, pid, n, out),
            Command::Link { pid, to } => self.link(asker, pid, to, out),
            Command::Unlink { pid, to } => self.unlink(asker, pid, to, out),
            Command::Monitor { pid, to } => self.monitor(asker, pid, to, out),
            Command::Demonitor { reference, flush } => self.demonitor(asker, reference, flush, out),
        };
        if let Err(failure) = result {
            self.fail(asker, &failure, out);
        }
    }

    fn refuse(&mut self, asker: Asker<'_>, refused: Refused, out: &mut Outbox) {
        let failure = Failure::new(refused.code, refused.message);
        self.fail(&asker, &failure, out);
    }

    /// The answer `ok` without anything in it.
    fn done(asker: &Asker<'_>, out: &mut Outbox) {
        if let Some(id) = asker.id {
            answer(out, asker.session, &Head::ok(id), &[]);
        }
    }

    /// The answer `ok` without anything in it, where nothing went wrong.
    fn done_unless(
        asker: &Asker<'_>,
        failure: Option<Failure>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        match failure {
            Some(failure) => Err(failure),
            None => {
                Self::done(asker, out);
                Ok(())
            }
        }
    }

    /// The answer `error`, or a `failed` event where no answer was asked for.
    fn fail(&mut self, asker: &Asker<'_>, failure: &Failure, out: &mut Outbox) {
        if matches!(asker.op, "call" | "rpc") {
            self.counters.call_ends(failure.code);
        }
        match asker.id {
            Some(id) => {
                let mut head = Head::error(id, failure.code, &failure.message, false);
                if !failure.nodes.is_empty() {
                    head = head.texts("nodes", failure.nodes.iter().map(|node| &**node));
                }
                answer(out, asker.session, &head, &[]);
            }
            None => self.note_failed(asker, failure, out),
        }
    }

    /// When [`Router::on_deadline`] has something to do.
    #[must_use]
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        if self.work.is_empty() { self.agenda.next() } else { Some(now) }
    }

    /// Does what has become due, and a slice of the work that was put off.
    pub fn on_deadline(&mut self, now: Instant, out: &mut Outbox) {
        self.clock = Some(now);
        while out.may_go_on() {
            out.count(1);
            let Some(due) = self.agenda.due(now) else { break };
            match due {
                Deadline::Timer(timer) => self.timer_is_due(now, timer, out),
                Deadline::Receive { serial, wait } => self.receive_times_out(serial, wait, out),
                Deadline::Call(call) => self.call_times_out(now, call, out),
                Deadline::Stream(call) => self.stream_lapses(now, call, out),
                Deadline::Kv(serial) => self.kv_expires(now, serial, out),
                Deadline::Wait { session, number } => self.wait_times_out(session, number, out),
                Deadline::Ask(ask) => self.ask_times_out(ask, out),
                Deadline::Hold(serial) => self.hold_lapses(now, serial, out),
                Deadline::Stall => self.stall_is_due(now, out),
                Deadline::Held { peer, serial } => self.peer_holds_too_long(now, peer, serial, out),
                Deadline::Congestion(peer) => self.peer_congests(now, peer, out),
                Deadline::Hosted(serial) => self.hosted_lingers(now, serial, out),
                Deadline::Grace { session, epoch } => self.grace_ends(now, session, epoch, out),
                Deadline::Failed(session) => self.tell_failed(now, session, out),
                Deadline::Life(number) => self.life_wait_ends(number, out),
                Deadline::Moving(number) => self.name_moves_no_more(number),
            }
        }
        self.run_work(now, out);
    }

    /// Bytes in all queues of the node.
    #[must_use]
    pub fn queued(&self, out: &Outbox) -> usize {
        // What several mailboxes have together is counted with the lanes, once.
        self.mailbox_bytes.saturating_sub(out.shared.in_mailboxes())
            + self.partial_bytes
            + self.timer_bytes
            + self.retry_bytes
            + self.topics.spread_bytes
            + out.queued()
    }

    /// The same, as far as mailboxes give way for it: what apps leave unread beyond their half is no reason to take
    /// messages from others.
    fn pressing(&self, out: &Outbox) -> usize {
        self.queued(out) - out.lanes().saturating_sub(self.limits.queue_bytes / 2)
    }

    /// Whether a long answer may be made: each waits in memory until its app reads it.
    fn may_be_long(&self, session: SessionId, length: usize, out: &Outbox) -> Result<(), Failure> {
        let unread = out.session_len(session) >= UNREAD_BYTES_MAX || self.limits.is_unread(out);
        if length <= LANE_BYTES || !unread {
            return Ok(());
        }
        let text = "the apps of this node leave so much unread that there is no room for an answer this long; read, and ask again";
        Err(Failure::new("overloaded", text))
    }
}

/// Writes an answer: answers pass mailboxes and windows by.
fn answer(out: &mut Outbox, session: SessionId, head: &Head, body: &[u8]) {
    out.write_session(session, 1, |bytes| crate::wire::event::put_frame(bytes, head.bytes(), body));
}
