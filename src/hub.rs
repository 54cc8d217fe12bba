//! The router behind one lock.
//!
//! Tasks bring batches in and take buffers out; the lock is held for at most [`SLICE`](crate::router::SLICE) entries at a time, never
//! across an await, and nothing is written to a socket under it. What a batch made ready is announced by
//! [`Notify`]s before the lock is let go.

mod observed;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use self::observed::Traffic;
pub use self::observed::{Joining, Notes, Observed, StrategyNote};
pub use crate::router::hosting::{Exit, HostRequest, Start};
pub use crate::router::life::{Readiness, Unready};
use crate::router::nodes::SelfSeen;
pub use crate::router::nodes::{KnownNode, MeshAnswer, MeshRequest, MeshToken};
pub use crate::router::peers::PeerHello;
use crate::router::peers::PeerId;
use crate::router::sessions::SessionId;
pub use crate::router::shared::{Frames, Piece, Shared};
use crate::router::{Again, Limits, Map, Outbox, Router};
use crate::shutdown::Shutdown;
use crate::wire::command::{Id, Refused};
use crate::wire::host::{DEFAULT_SUPERVISOR, Hosting, SupervisorSpec};
use crate::wire::id::{Node, NodeName};
use crate::wire::message::{Frame, FrameError, Goodbye, Kind, Peers};

/// Largest frame of a peer: a fragment and its head, or a short message.
const PEER_FRAME_BYTES_MAX: usize = crate::wire::message::FRAGMENT_BYTES + 4096;

/// How often buffers that nobody uses are given back, while there are any.
const TIDY_EVERY: Duration = Duration::from_secs(1);

/// How long the node may take to show that it is alive.
const LIVE_WITHIN: Duration = Duration::from_secs(5);

/// The router behind one lock.
#[derive(Debug)]
pub struct Hub {
    me: Node,
    state: Mutex<State>,
    /// A deadline earlier than the one waited for.
    sooner: Notify,
    /// The mesh is asked something.
    asked: Notify,
    /// Something is to be done with programs.
    hosting: Notify,
    /// Nothing is hosted any more.
    unhosted: Notify,
    /// The last session has gone.
    deserted: Notify,
    /// Every peer has heard that the node leaves.
    settled: Notify,
    /// How often the deadlines were looked at, and that they were.
    ticks: AtomicU64,
    ticked: Notify,
    /// Long commands that are being read take fewer bytes than before.
    room: Notify,
    /// Most bytes of long commands that are being read, in all sessions together.
    reading_bytes_max: usize,
    send_timeout: Duration,
    notes: Mutex<Notes>,
}

#[derive(Debug)]
struct State {
    router: Router,
    out: Outbox,
    sessions: BTreeMap<SessionId, Arc<SessionSignal>>,
    peers: Map<PeerId, Arc<PeerSignal>>,
    last_connection: u64,
    /// Bytes of long commands that are being read.
    reading: usize,
    traffic: Traffic,
    /// What the deadline task waits for.
    armed: Option<Instant>,
    /// When buffers that nobody has used since are given back; none when there are none.
    tidied: Option<Instant>,
}

impl State {
    /// A connection takes up an earlier session.
    fn rebind(&mut self, from: SessionId, to: SessionId) {
        let Some(signal) = self.sessions.remove(&from) else { return };
        signal.id.store(to, Ordering::Relaxed);
        let lines = self.out.reads_lines(from);
        self.out.set_reads_lines(to, lines);
        self.out.forget_session(from);
        self.out.dirty_sessions.push(to);
        if let Some(old) = self.sessions.insert(to, signal) {
            // The earlier connection, if it is still there, has lost its session.
            old.id.store(0, Ordering::Relaxed);
            old.writable.notify_one();
            old.readable.notify_one();
        }
    }
}

/// How a session's task hears that something is ready.
#[derive(Debug)]
struct SessionSignal {
    /// Changes when the connection takes up an earlier session; 0 when another connection took this one up.
    id: AtomicU64,
    writable: Notify,
    readable: Notify,
}

/// How a peer's task hears that something is ready.
#[derive(Debug, Default)]
struct PeerSignal {
    writable: Notify,
    clear: AtomicBool,
    cleared: Notify,
    up: AtomicBool,
    went_up: Notify,
    goes_on: Notify,
}

/// One app's connection, as its task holds it. Dropping it is the end of the connection.
#[derive(Debug)]
#[must_use = "dropping the handle closes the session"]
pub struct SessionHandle {
    hub: Arc<Hub>,
    signal: Arc<SessionSignal>,
}

/// Room for a long command while it is being read. Dropping it gives the room back.
#[derive(Debug)]
#[must_use = "dropping it gives the room back"]
pub struct Room {
    hub: Arc<Hub>,
    bytes: usize,
}

impl Room {
    /// How long the command may be.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.hub.lock().reading -= self.bytes;
        self.hub.room.notify_waiters();
    }
}

/// What became of a batch of commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fed {
    /// How many bytes were whole frames and have been carried out.
    pub consumed: usize,
    /// More may be read now; else wait for [`SessionHandle::readable`].
    pub may_read: bool,
    /// The next frame announces this many bytes, more than allowed.
    pub too_large: Option<usize>,
    /// It stopped before all whole frames were carried out: go on once more may be read.
    pub stopped: bool,
    /// The session is over.
    pub over: bool,
}

/// What there was to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The buffer holds whole frames.
    Some,
    /// Nothing now.
    Nothing,
    /// The buffer holds the last of it, perhaps nothing; the connection is to be closed then.
    Last,
}

/// Frames that are the peer task's own business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Sign of life.
    Beat,
    /// Answer with a beat, at once.
    Probe,
    /// The peer leaves.
    Goodbye(Goodbye),
    /// Whom the peer is connected to.
    Peers(Peers),
}

/// One accepted connection to a peer, as its task holds it.
#[derive(Debug)]
#[must_use = "dropping the handle tells the apps that the peer is down"]
pub struct PeerHandle {
    hub: Arc<Hub>,
    id: PeerId,
    signal: Arc<PeerSignal>,
    ended: bool,
}

impl Hub {
    /// A hub without sessions and peers.
    #[must_use]
    pub fn new(me: Node, limits: Limits) -> Arc<Self> {
        let mut router = Router::new(me.clone(), limits);
        router.on_start(tokio::time::Instant::now().into_std());
        Arc::new(Self {
            me,
            state: Mutex::new(State {
                router,
                out: Outbox::default(),
                sessions: BTreeMap::new(),
                peers: Map::default(),
                last_connection: 0,
                reading: 0,
                traffic: Traffic::default(),
                armed: None,
                tidied: None,
            }),
            sooner: Notify::new(),
            asked: Notify::new(),
            hosting: Notify::new(),
            unhosted: Notify::new(),
            deserted: Notify::new(),
            settled: Notify::new(),
            ticks: AtomicU64::new(0),
            ticked: Notify::new(),
            room: Notify::new(),
            reading_bytes_max: limits.queue_bytes / 2,
            send_timeout: limits.send_timeout,
            notes: Mutex::default(),
        })
    }

    /// Who this is.
    #[must_use]
    pub fn me(&self) -> &Node {
        &self.me
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock ends the node; until then the others go on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One hold of the lock: does something, then announces what it made ready.
    fn with<T>(&self, act: impl FnOnce(&mut State, Instant) -> T) -> T {
        let now = tokio::time::Instant::now().into_std();
        let mut state = self.lock();
        state.out.begin();
        let result = act(&mut state, now);
        self.settle(&mut state, now);
        result
    }

    fn settle(&self, state: &mut State, now: Instant) {
        let State { out, sessions, peers, .. } = state;
        for session in out.dirty_sessions.drain(..) {
            if let Some(signal) = sessions.get(&session) {
                signal.writable.notify_one();
            }
        }
        for session in out.resumed.drain(..) {
            if let Some(signal) = sessions.get(&session) {
                signal.readable.notify_one();
            }
        }
        for session in out.gone.drain(..) {
            sessions.remove(&session);
            if sessions.is_empty() {
                self.deserted.notify_one();
            }
        }
        for peer in out.dirty_peers.drain(..) {
            if let Some(signal) = peers.get(&peer) {
                signal.writable.notify_one();
            }
        }
        for peer in out.peers_clear.drain(..) {
            if let Some(signal) = peers.get(&peer) {
                signal.clear.store(true, Ordering::Relaxed);
                signal.cleared.notify_one();
            }
        }
        for peer in out.peers_on.drain(..) {
            if let Some(signal) = peers.get(&peer) {
                signal.goes_on.notify_one();
            }
        }
        for peer in out.peers_up.drain(..) {
            if let Some(signal) = peers.get(&peer) {
                signal.up.store(true, Ordering::Relaxed);
                signal.went_up.notify_one();
            }
        }
        if !out.requests.is_empty() {
            self.asked.notify_one();
        }
        if !out.hosting.is_empty() {
            self.hosting.notify_one();
        }
        if std::mem::take(&mut out.unhosted) {
            self.unhosted.notify_one();
        }
        if std::mem::take(&mut out.settled) {
            self.settled.notify_one();
        }
        if state.tidied.is_none() && !out.shelf.is_empty() {
            state.tidied = Some(now + TIDY_EVERY);
        }
        let next = state.router.next_deadline(now).into_iter().chain(state.tidied).min();
        if next.is_some_and(|next| state.armed.is_none_or(|armed| next < armed)) {
            state.armed = next;
            self.sooner.notify_one();
        }
    }

    /// Does what becomes due, until it is asked to stop.
    pub async fn run_deadlines(&self, mut shutdown: Shutdown) {
        loop {
            let armed = self.lock().armed;
            let due = async {
                match armed {
                    // A timer is late by up to a millisecond, and what goes on in slices is due at once.
                    Some(at) if at <= tokio::time::Instant::now().into_std() => {}
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = shutdown.asked() => return,
                () = self.sooner.notified() => {
                    self.ticks.fetch_add(1, Ordering::Relaxed);
                    self.ticked.notify_waiters();
                    continue;
                }
                () = due => {}
            }
            self.with(|state, now| {
                state.armed = None;
                state.router.on_deadline(now, &mut state.out);
                if state.tidied.is_some_and(|due| due <= now) {
                    state.tidied = None;
                    state.out.shelf.rest();
                }
            });
            tokio::task::yield_now().await;
        }
    }

    /// Bytes in all queues of the node.
    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        let state = self.lock();
        state.router.queued(&state.out)
    }

    /// How many apps are connected, hosted programs among them. Sessions that wait to be resumed do not count.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.lock().sessions.len()
    }

    /// Completes when no app is connected. Cancel safe.
    pub async fn without_sessions(&self) {
        while self.sessions() > 0 {
            self.deserted.notified().await;
        }
    }

    /// Sets what `nodes` says of this node.
    pub fn set_self(&self, me: SelfSeen) {
        self.with(|state, _| state.router.on_self(me, &mut state.out));
    }

    /// Sets what this node tells others of itself, once a source knows more of it.
    pub fn set_own_labels(&self, labels: BTreeMap<String, String>) {
        self.with(|state, _| state.router.on_own_labels(labels, &mut state.out));
    }

    /// Sets what is known of a connected node, once a source knows more of it.
    pub fn set_labels(&self, node: &NodeName, labels: BTreeMap<String, String>) {
        self.with(|state, _| state.router.on_labels(node, labels));
    }

    /// Apps can connect: one step towards readiness.
    pub fn set_bound(&self) {
        self.with(|state, _| state.router.on_bound());
    }

    /// Every strategy has looked for other nodes once, or has had long enough: one step towards readiness.
    pub fn set_looked(&self) {
        self.with(|state, _| state.router.on_looked());
    }

    /// Whether this node has had its certificate, where others issue it: before, it is not ready.
    pub fn set_issued(&self, there: bool) {
        self.with(|state, _| state.router.on_issued(there));
    }

    /// Whether the node has started, and whether it is ready for work, as of now.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        self.lock().router.readiness()
    }

    /// Whether the node's main task runs: it is asked for a sign, which it gives at once unless something holds it up for
    /// five seconds. False while [`Hub::run_deadlines`] does not run. Cancel safe; costs nothing when nobody asks.
    pub async fn is_live(&self) -> bool {
        let before = self.ticks.load(Ordering::Relaxed);
        let ticked = async {
            loop {
                let ticked = self.ticked.notified();
                if self.ticks.load(Ordering::Relaxed) != before {
                    return;
                }
                self.sooner.notify_one();
                ticked.await;
            }
        };
        tokio::time::timeout(LIVE_WITHIN, ticked).await.is_ok()
    }

    /// Begins to leave: the apps hear `draining` first, then the peers, who give this node nothing from then on that others
    /// can do. Draining twice is draining once.
    pub fn drain(&self) {
        self.with(|state, now| state.router.on_drain(now, &mut state.out));
    }

    /// Completes when what peers sent before they had heard that the node leaves has been carried out, and what was
    /// answered is on its way. A peer that says nothing is waited for two seconds. Cancel safe.
    pub async fn hear_out(&self) {
        self.with(|state, now| state.router.on_settle(now, &mut state.out));
        while !self.lock().router.is_settled() {
            self.settled.notified().await;
        }
    }

    /// An app has connected, which reads lines of JSON (or something made of them) or frames.
    pub fn open_session(self: &Arc<Self>, operator: bool, lines: bool) -> SessionHandle {
        let secret = format!("{:032x}", u128::from_ne_bytes(random()));
        let signal = self.with(|state, _| {
            state.last_connection += 1;
            let id = state.last_connection;
            let signal = Arc::new(SessionSignal {
                id: AtomicU64::new(id),
                writable: Notify::new(),
                readable: Notify::new(),
            });
            state.sessions.insert(id, Arc::clone(&signal));
            state.router.on_session_open(id, operator, &secret, &mut state.out);
            state.out.set_reads_lines(id, lines);
            signal
        });
        SessionHandle { hub: Arc::clone(self), signal }
    }

    /// Registers an accepted connection. Its nodeup is told once the end of every earlier one has been told.
    pub fn peer_up(self: &Arc<Self>, hello: PeerHello) -> PeerHandle {
        let signal = Arc::new(PeerSignal::default());
        let id = self.with(|state, now| {
            state.last_connection += 1;
            let id = state.last_connection;
            state.peers.insert(id, Arc::clone(&signal));
            state.router.on_peer_up(now, id, hello, &mut state.out);
            id
        });
        PeerHandle { hub: Arc::clone(self), id, signal, ended: false }
    }

    /// Replaces the nodes that are visible and not connected.
    pub fn set_known(&self, known: Vec<KnownNode>) {
        self.lock().router.on_known(known);
    }

    /// The next thing that an app asks of the mesh. Cancel safe.
    pub async fn next_mesh_request(&self) -> MeshRequest {
        loop {
            let (request, more) = {
                let mut state = self.lock();
                (state.out.requests.pop_front(), !state.out.requests.is_empty())
            };
            if more {
                self.asked.notify_one();
            }
            match request {
                Some(request) => return request,
                None => self.asked.notified().await,
            }
        }
    }

    /// Hosts what the configuration says, in its order.
    pub fn host(&self, hosting: Hosting) {
        let Hosting { supervisors, processes, factories } = hosting;
        let mut supervisors = supervisors;
        let named = |name: &str| supervisors.iter().any(|supervisor| supervisor.name == name);
        if processes.iter().any(|process| process.supervisor == DEFAULT_SUPERVISOR)
            && !named(DEFAULT_SUPERVISOR)
        {
            supervisors.insert(0, SupervisorSpec::new(DEFAULT_SUPERVISOR));
        }
        for supervisor in supervisors {
            let its = processes.iter().filter(|process| process.supervisor == supervisor.name);
            let its = its.cloned().collect();
            self.with(|state, now| state.router.on_host(now, supervisor, its, &mut state.out));
        }
        for factory in factories {
            self.with(|state, now| state.router.on_factory_here(now, factory, &mut state.out));
        }
    }

    /// The next thing to be done with a program. Cancel safe.
    pub async fn next_host_request(&self) -> HostRequest {
        loop {
            let request = self.lock().out.hosting.pop_front();
            match request {
                Some(request) => return request,
                None => self.hosting.notified().await,
            }
        }
    }

    /// A program is about to be started: what its connection has to know to be taken for it.
    pub fn host_token(&self, run: u64) -> String {
        let token = format!("{run}.{:032x}", u128::from_ne_bytes(random()));
        self.lock().router.on_host_secret(run, &token);
        token
    }

    /// A program has been started, or cannot be, for a reason in words.
    pub fn host_started(&self, run: u64, started: Result<u32, String>) {
        self.with(|state, now| state.router.on_host_started(now, run, started, &mut state.out));
    }

    /// A program has ended.
    pub fn host_exited(&self, run: u64, exit: Exit) {
        self.with(|state, now| state.router.on_host_exited(now, run, exit, &mut state.out));
    }

    /// A supervisor that has given up has waited long enough.
    pub fn host_revived(&self, supervisor: &str) {
        self.with(|state, now| state.router.on_host_revived(now, supervisor, &mut state.out));
    }

    /// Ends all that is hosted, in order, and completes when it has ended.
    pub async fn end_hosting(&self) {
        self.with(|state, now| state.router.on_host_leave(now, &mut state.out));
        while !self.lock().router.is_unhosted() {
            self.unhosted.notified().await;
        }
    }

    /// Answers what [`Hub::next_mesh_request`] gave.
    pub fn answer_mesh(&self, token: MeshToken, answer: MeshAnswer) {
        self.with(|state, now| state.router.on_mesh_answer(now, token, answer, &mut state.out));
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Without the system's randomness there are no keys either: the node would not have started.
    getrandom::fill(&mut bytes).expect("the system gives randomness");
    bytes
}

impl SessionHandle {
    fn id(&self) -> SessionId {
        self.signal.id.load(Ordering::Relaxed)
    }

    /// Carries out the commands at the front of `buffer`: whole CBOR frames of at most `frame_bytes_max`.
    #[must_use]
    pub fn commands(&self, buffer: &[u8], frame_bytes_max: usize) -> Fed {
        let mut fed = Fed::default();
        loop {
            let before = fed.consumed;
            let full = self.with(|state, now| {
                while state.out.may_go_on() {
                    let rest = &buffer[fed.consumed..];
                    let length = rest.first_chunk::<4>().map(|l| u32::from_be_bytes(*l) as usize);
                    let whole = length.filter(|length| *length <= frame_bytes_max);
                    let frame = whole.and_then(|length| rest.get(4..4 + length));
                    if let Some(frame) = frame {
                        let State { router, out, .. } = state;
                        match router.on_again(now, self.id(), frame, out) {
                            Again::Done => {
                                fed.consumed += 4 + frame.len();
                                state.traffic.commands += 1;
                                continue;
                            }
                            Again::PutOff => return true,
                            Again::No => {}
                        }
                    }
                    // A few bytes of commands may ask for a lot: answers that nobody reads are not added to.
                    if !rest.is_empty() && !state.router.may_answer(self.id(), &state.out) {
                        fed.stopped = true;
                        return false;
                    }
                    let Some(length) = length else { return false };
                    if length > frame_bytes_max {
                        fed.too_large = Some(length);
                        return false;
                    }
                    let Some(frame) = frame else { return false };
                    state.router.on_new(now, self.id(), frame, &mut state.out);
                    fed.consumed += 4 + length;
                    state.traffic.commands += 1;
                    if let Some((from, to)) = state.out.rebound.take() {
                        state.rebind(from, to);
                    }
                }
                true
            });
            // The first command of a hold is never put off, for a whole hold has room for it.
            if !full || fed.consumed == before {
                break;
            }
        }
        let mut state = self.lock();
        state.traffic.app_in += fed.consumed as u64;
        fed.may_read = state.router.may_read(self.id(), &state.out);
        fed.over = !state.router.has_session(self.id());
        fed
    }

    /// Answers something that could not even be read as a command.
    pub fn refused(&self, id: Option<Id<'_>>, refused: Refused) {
        self.with(|state, now| {
            state.router.on_refused(now, self.id(), id, refused, &mut state.out);
        });
    }

    /// Room for a command of so many bytes that is not whole yet; one always has it. Waits for as long as a sender
    /// waits for a full queue, then there is none. Cancel safe.
    pub async fn room(&self, bytes: usize) -> Option<Room> {
        let give_up = tokio::time::Instant::now() + self.hub.send_timeout;
        loop {
            let mut more = std::pin::pin!(self.hub.room.notified());
            more.as_mut().enable();
            {
                let mut state = self.lock();
                if state.reading == 0 || state.reading + bytes <= self.hub.reading_bytes_max {
                    state.reading += bytes;
                    return Some(Room { hub: Arc::clone(&self.hub), bytes });
                }
            }
            tokio::time::timeout_at(give_up, more).await.ok()?;
        }
    }

    /// Completes when the session may have become readable again. Cancel safe.
    pub async fn readable(&self) {
        self.signal.readable.notified().await;
    }

    /// Whether commands may be read now.
    #[must_use]
    pub fn may_read(&self) -> bool {
        let state = self.lock();
        state.router.may_read(self.id(), &state.out)
    }

    /// Whether the session is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        !self.lock().router.has_session(self.id())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.hub.lock()
    }

    fn with<T>(&self, act: impl FnOnce(&mut State, Instant) -> T) -> T {
        self.hub.with(act)
    }

    /// Leaves a large buffer that is not needed now where others find it.
    pub fn shelve(&self, buffer: &mut Vec<u8>) {
        self.with(|state, _| state.out.shelf.put(buffer));
    }

    /// An empty buffer, a large one if somebody left one.
    #[must_use]
    pub fn buffer(&self) -> Vec<u8> {
        self.lock().out.shelf.take()
    }

    /// Moves what waits for the app into `out`, which must be empty.
    #[must_use]
    pub fn take(&self, out: &mut Frames) -> Taken {
        self.with(|state, _| {
            let id = self.id();
            let last = state.out.take_session(id, out);
            state.router.on_session_room(id, &mut state.out);
            state.traffic.app_out += out.len() as u64;
            // Reading may go on now that answers have left.
            if !out.is_empty() {
                state.out.resumed.push(id);
            }
            match (last, out.is_empty()) {
                (true, _) => Taken::Last,
                (false, true) => Taken::Nothing,
                (false, false) => Taken::Some,
            }
        })
    }

    /// Completes when [`SessionHandle::take`] may have something. Cancel safe.
    pub async fn waiting(&self) {
        self.signal.writable.notified().await;
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        self.hub.with(|state, now| {
            let id = self.signal.id.swap(0, Ordering::Relaxed);
            if id == 0 {
                return;
            }
            state.router.on_session_closed(now, id, &mut state.out);
            // It may be resumed, by another connection with a signal of its own.
            state.sessions.remove(&id);
            if state.sessions.is_empty() {
                self.hub.deserted.notify_one();
            }
        });
    }
}

impl PeerHandle {
    /// Completes when the peer may be read: the end of every earlier connection has been told. Cancel safe.
    pub async fn clear(&self) {
        while !self.signal.clear.load(Ordering::Relaxed) {
            self.signal.cleared.notified().await;
        }
    }

    /// Completes when the nodeup has been told, which follows what the peer announces. Cancel safe.
    pub async fn up(&self) {
        while !self.signal.up.load(Ordering::Relaxed) {
            self.signal.went_up.notified().await;
        }
    }

    /// Carries out the frames at the front of `buffer` and says how many bytes they took. Frames that are the
    /// peer task's own business go to `controls`, in order. It stops behind all that the peer announces until
    /// [`PeerHandle::up`].
    ///
    /// # Errors
    /// [`FrameError`]: the connection must be closed; the frames before the bad one have been carried out.
    pub fn frames(&self, buffer: &[u8], controls: &mut Vec<Control>) -> Result<usize, FrameError> {
        let mut consumed = 0;
        loop {
            let more = self.hub.with(|state, now| {
                state.router.may_hear(self.id, &state.out)?;
                while state.out.may_go_on() {
                    let cut = Frame::cut(&buffer[consumed..], PEER_FRAME_BYTES_MAX);
                    if let Ok(Some((frame, bytes))) = &cut {
                        let State { router, out, .. } = state;
                        match router.on_publish_again(now, self.id, frame, out) {
                            Again::Done => {
                                consumed += bytes;
                                state.traffic.peer_heard(*bytes);
                                continue;
                            }
                            Again::PutOff => return Ok(true),
                            Again::No => {}
                        }
                    }
                    if state.router.is_waiting(self.id) {
                        return Ok(false);
                    }
                    let Some((frame, bytes)) = cut? else { return Ok(false) };
                    consumed += bytes;
                    state.traffic.peer_heard(bytes);
                    state.out.count(1);
                    state.router.may_hear(self.id, &state.out)?;
                    match Kind::from_u8(frame.kind) {
                        Some(Kind::Beat) => controls.push(Control::Beat),
                        Some(Kind::Probe) => controls.push(Control::Probe),
                        Some(Kind::Goodbye) => {
                            controls.push(Control::Goodbye(frame.cbor("goodbye")?));
                        }
                        Some(Kind::Peers) => controls.push(Control::Peers(frame.cbor("peers")?)),
                        _ => state.router.on_message(now, self.id, frame, &mut state.out)?,
                    }
                }
                Ok(true)
            })?;
            if !more {
                return Ok(consumed);
            }
        }
    }

    /// Completes when what the peer published may have been delivered and it may be read again. Cancel safe.
    pub async fn goes_on(&self) {
        self.signal.goes_on.notified().await;
    }

    /// Whether what the peer says next has to wait for [`PeerHandle::up`], or after that for [`PeerHandle::goes_on`].
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.hub.lock().router.is_waiting(self.id)
    }

    /// Moves what waits for the peer into `out`, which must be empty. False when there was nothing.
    #[must_use]
    pub fn take(&self, out: &mut Vec<u8>) -> bool {
        self.hub.with(|state, _| {
            let some = state.out.take_peer(self.id, out);
            state.traffic.peer_out += out.len() as u64;
            state.router.on_peer_room(self.id, &mut state.out);
            some
        })
    }

    /// Completes when [`PeerHandle::take`] may have something. Cancel safe.
    pub async fn waiting(&self) {
        self.signal.writable.notified().await;
    }

    /// Queues a whole frame of the peer task's own.
    pub fn control(&self, frame: Vec<u8>, urgent: bool) {
        self.hub.with(|state, _| {
            state.router.on_control(self.id, &frame, urgent, &mut state.out);
        });
    }

    /// The connection is over.
    pub fn down(mut self, reason: &str) {
        self.end(reason);
    }

    fn end(&mut self, reason: &str) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.hub.with(|state, now| {
            state.peers.remove(&self.id);
            state.router.on_peer_down(now, self.id, reason, &mut state.out);
        });
    }
}

impl Drop for PeerHandle {
    fn drop(&mut self) {
        self.end("connection lost");
    }
}
