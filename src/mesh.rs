//! Wanted (from strategies, people and peers) against connected (here): dial, accept, tell, back off.
//!
//! One task owns the whole picture. It decides with three values that do nothing themselves, so that each can be
//! read and tested alone: `Wanted` (whom to dial, when), `Roster` (which connection is *the* connection to a node)
//! and `Hearsay` (what peers say, who has left). Connections are tasks of their own ([`crate::peer`]): they tell
//! events and follow orders.
//!
//! ```text
//! strategies --reports--> |        | --dial---> peer tasks
//! hub ----mesh requests-> |  mesh  | <-events-- (hello, accepted, ready, up, peers, ended)
//! listeners --streams---> |        | --orders-> (accept, take, up, probe, close)
//! ```
//!
//! What a newcomer gets wrong: a strategy's set only ever *adds* dials. Nothing here closes a connection because a
//! strategy no longer sees its node.

mod attempts;
mod census;
mod connections;
mod explain;
mod hearsay;
mod leaving;
mod listen;
mod notices;
mod remembered;
mod requests;
mod roster;
mod show;
mod sources;
mod strangers;
mod telling;
mod wanted;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pillion_strategies::Report;
use pillion_strategies::interfaces::Own;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use self::attempts::Attempts;
use self::census::Since;
use self::connections::Conn;
use self::listen::Inbound;
use self::notices::Notices;
pub use self::remembered::{Past, REMEMBERED_MAX, Remember};
use self::requests::{Requests, Resolved};
use self::roster::{Accept, Roster};
pub use self::show::Facts;
use self::strangers::Strangers;
use self::wanted::{Held, Wanted};
use self::window::Window;
use crate::hub::{Hub, KnownNode, MeshAnswer, MeshRequest};
pub use crate::peer::Profile;
use crate::peer::interfaces::Interfaces;
use crate::peer::{ConnId, Context, Event, Pulse, scope};
use crate::shutdown::Shutdown;
use crate::tls::{Issuance, Tls};
use crate::transport::Transport;
use crate::wire::id::{Incarnation, Node};
use crate::wire::message::Peers;
use crate::wire::shown::item;

/// Most events of connections that wait for the mesh; a connection that has more waits itself.
const EVENTS_MAX: usize = 1024;
/// Most events that are handled before the mesh acts on them.
const EVENTS_TOGETHER: usize = 64;
/// Most dials under way; how many of them may shake hands is [`Window`]'s.
const DIALS_MAX: usize = 128;
/// Changes of who is connected are told to the peers together when they come that close together; in a large mesh, where
/// each costs more and there are more of them, later ([`census::quiet`]).
const TELL_WITHIN: Duration = Duration::from_millis(10);
/// What several peers tell is taken in together when it comes that close together; in a large mesh later too.
const HEAR_WITHIN: Duration = Duration::from_millis(2);
/// The same of what is no news but for who tells it.
const HEAR_OLD_WITHIN: Duration = Duration::from_secs(1);
/// Changes of who is known are told to the hub together when they come that close together; in a large mesh later too.
const KNOWN_WITHIN: Duration = Duration::from_millis(50);
/// How often the mesh looks whether the keys were read again: who had another cookie may have ours now.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long a strategy may take for its first look before the node counts as ready without it.
const LOOKED_WITHIN: Duration = Duration::from_secs(2);

/// What the mesh needs to know of this node.
#[derive(Clone, Debug)]
pub struct MeshOptions {
    /// The mesh's name; meshes of different names never join.
    pub mesh: String,
    /// Addresses to tell peers beside those that the listeners are bound to (`--advertise`).
    pub advertised: Vec<SocketAddr>,
    /// role, zone and whatever else.
    pub labels: BTreeMap<String, String>,
    /// Stays out of what peers tell each other, and does not act on it (as Erlang's hidden nodes).
    pub hidden: bool,
    /// How soon a silent peer is down.
    pub profile: Profile,
    /// How long it is until a whole second begins: beats go out then, together with those of other nodes.
    pub to_second: Duration,
    /// For jitter.
    pub seed: u64,
    /// Whom it was connected to before, and how long such a memory holds.
    pub remember: Remember,
    /// What the addresses of this machine are.
    pub interfaces: fn() -> Vec<Own>,
    /// What the node knows of itself that `doctor` shows.
    pub facts: Facts,
}

/// Runs the mesh until shutdown; then says goodbye to everybody, for at most three seconds.
///
/// `listeners` are bound; what strategies see comes through `reports`, each under its strategy's name. A panic of any
/// task within is passed on. Dropping the future drops every connection without a goodbye.
pub async fn run<T: Transport>(
    options: MeshOptions,
    transport: Arc<T>,
    listeners: Vec<T::Listener>,
    tls: Tls,
    hub: Arc<Hub>,
    reports: Vec<(String, watch::Receiver<Report>)>,
    mut shutdown: Shutdown,
) {
    let mut issuance = tls.issuance();
    note_issuance(&hub, &tls);
    let (mut mesh, mut inputs) = Mesh::new(options, &transport, listeners, tls, &hub, reports);
    let mut events = Vec::new();
    loop {
        mesh.act();
        let next = mesh.next_deadline();
        // An accepted connection waits for a place among the strangers.
        let room = mesh.strangers.room_at(Instant::now());
        tokio::select! {
            biased;
            () = shutdown.asked() => break,
            Some(joined) = mesh.tasks.join_next() => loud(joined),
            // To act is to look at everybody: in a crowd once for many events.
            1.. = inputs.events.recv_many(&mut events, EVENTS_TOGETHER) => {
                for event in events.drain(..) {
                    mesh.on_event(event);
                }
            }
            Some(input) = inputs.others.recv() => mesh.on_input(input),
            // Who dials meanwhile waits in the kernel for our certificate.
            Some(inbound) = next_inbound(&mut inputs.inbound, room), if mesh.context.tls.joins() => {
                mesh.on_inbound(inbound);
            }
            () = news(&mut issuance) => {
                note_issuance(&hub, &mesh.context.tls);
                mesh.look_at = Instant::now();
            }
            () = sleep_until(next) => {}
        }
    }
    mesh.leave(inputs).await;
}

/// A panic in a task is a bug and ends the node; a task that was called off is not.
fn loud(joined: Result<(), tokio::task::JoinError>) {
    if let Err(error) = joined
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// Something has changed about the certificate that is issued, where one is. Cancel safe.
async fn news(issuance: &mut Option<watch::Receiver<Issuance>>) {
    if let Some(issuance) = issuance
        && issuance.changed().await.is_ok()
    {
        return;
    }
    // There is none, or its sender is gone with the node.
    std::future::pending::<()>().await;
}

/// Tells the hub where the certificate stands that is issued: what is ready, and what is collected.
fn note_issuance(hub: &Hub, tls: &Tls) {
    // One that has ended leaves the node with whom it is connected to, and ready.
    hub.set_issued(tls.ever_issued());
    if let Some(issuance) = tls.issuance() {
        let ends = {
            let issuance = issuance.borrow();
            issuance.until.or(issuance.ended)
        };
        hub.note(|notes| notes.certificate_ends = ends);
    }
}

/// The next accepted connection, not before `room`. Cancel safe.
async fn next_inbound<S>(
    inbound: &mut mpsc::Receiver<Inbound<S>>,
    room: Instant,
) -> Option<Inbound<S>> {
    if room > Instant::now() {
        sleep_until(room).await;
    }
    inbound.recv().await
}

/// What reaches the mesh from anybody but connections.
enum Input {
    Report(usize),
    Request(MeshRequest),
    Resolved(Resolved),
}

struct Inputs<S> {
    events: mpsc::Receiver<Event>,
    others: mpsc::Receiver<Input>,
    inbound: mpsc::Receiver<Inbound<S>>,
}

struct Mesh<T: Transport> {
    context: Arc<Context>,
    transport: Arc<T>,
    reports: Vec<(String, watch::Receiver<Report>)>,
    wanted: Wanted,
    roster: Roster,
    requests: Requests,
    notices: Notices,
    attempts: Attempts,
    window: Window,
    /// What this node was told to say of itself.
    labels: BTreeMap<String, String>,
    facts: Facts,
    started: Instant,
    conns: BTreeMap<ConnId, Conn>,
    conn_ids: u64,
    strangers: Strangers,
    tasks: JoinSet<()>,
    /// Listeners, watchers: everything that stops first.
    services: Vec<AbortHandle>,
    inputs: mpsc::Sender<Input>,
    known: Vec<KnownNode>,
    /// Whom this node counted when it told that last.
    census: Option<Since>,
    /// What a node that may join announces one of.
    ids: Vec<[u8; 8]>,
    /// When to look whether the keys were read again.
    look_at: Instant,
    /// When to tell the peers whom we are connected to.
    tell_at: Option<Instant>,
    /// When something that was said lapses. Whatever changes that is followed by a merge, which notes it.
    expire_at: Option<Instant>,
    /// When to take in what peers have told.
    hear_at: Option<Instant>,
    /// When to tell the hub who is known.
    known_at: Option<Instant>,
    /// When the strategies have had long enough for their first look; none once all have looked, or it is over.
    looked_by: Option<Instant>,
    /// This node is about to leave: it neither dials nor takes anybody in.
    draining: bool,
    /// Connected nodes that are about to leave: when they are gone they are gone, whether they say goodbye or not.
    leaving: BTreeSet<Node>,
    hasher: foldhash::fast::FixedState,
}

impl<T: Transport> Mesh<T> {
    fn new(
        options: MeshOptions,
        transport: &Arc<T>,
        listeners: Vec<T::Listener>,
        tls: Tls,
        hub: &Arc<Hub>,
        reports: Vec<(String, watch::Receiver<Report>)>,
    ) -> (Self, Inputs<T::Stream>) {
        let (events_in, events) = mpsc::channel(EVENTS_MAX);
        let (inputs_in, others) = mpsc::channel(EVENTS_MAX);
        let (inbound_in, inbound) = mpsc::channel(1);
        let me = hub.me().clone();
        let listens = listeners.iter().filter_map(|l| transport.local_address(l).ok()).collect();
        let now = Instant::now();
        let context = Arc::new(Context {
            hub: Arc::clone(hub),
            tls,
            mesh: options.mesh.clone(),
            me: me.clone(),
            labels: Mutex::new(options.labels.clone()),
            hints: Mutex::default(),
            hidden: options.hidden,
            profile: options.profile,
            pulse: Pulse::new(Instant::now() + options.to_second),
            listens,
            advertised: options.advertised,
            interfaces: Interfaces::new(options.interfaces),
            held: Mutex::default(),
            events: events_in,
        });
        let mut mesh = Self {
            context,
            transport: Arc::clone(transport),
            reports,
            wanted: Wanted::new(
                me.clone(),
                &options.mesh,
                options.hidden,
                options.remember,
                options.seed,
                now,
            ),
            attempts: Attempts::default(),
            window: Window::default(),
            labels: options.labels,
            facts: options.facts,
            started: now,
            roster: Roster::new(me),
            requests: Requests::default(),
            notices: Notices::default(),
            conns: BTreeMap::new(),
            conn_ids: 0,
            strangers: Strangers::new(options.seed),
            tasks: JoinSet::new(),
            services: Vec::new(),
            inputs: inputs_in,
            known: Vec::new(),
            census: None,
            ids: Vec::new(),
            look_at: Instant::now(),
            tell_at: None,
            expire_at: None,
            hear_at: None,
            known_at: None,
            looked_by: Some(now + LOOKED_WITHIN),
            draining: false,
            leaving: BTreeSet::new(),
            hasher: foldhash::fast::FixedState::default(),
        };
        listen::start(
            &mut mesh.tasks,
            &mut mesh.services,
            transport,
            listeners,
            &inbound_in,
            options.seed,
        );
        for (strategy, _) in &mesh.reports {
            mesh.wanted.sources.add(strategy, now);
        }
        mesh.start_watchers(hub);
        // What is remembered is tried before any strategy has said a word.
        mesh.merge(now);
        mesh.look_whether_looked(now);
        (mesh, Inputs { events, others, inbound })
    }

    /// One small task per report and one for the hub's requests, so that nothing here depends on what is cancel safe.
    fn start_watchers(&mut self, hub: &Arc<Hub>) {
        for (index, (_, report)) in self.reports.iter().enumerate() {
            let (mut report, inputs) = (report.clone(), self.inputs.clone());
            report.mark_changed();
            self.services.push(self.tasks.spawn(async move {
                while report.changed().await.is_ok() {
                    if inputs.send(Input::Report(index)).await.is_err() {
                        return;
                    }
                }
            }));
        }
        let (hub, inputs) = (Arc::clone(hub), self.inputs.clone());
        self.services.push(self.tasks.spawn(async move {
            loop {
                let request = hub.next_mesh_request().await;
                if inputs.send(Input::Request(request)).await.is_err() {
                    return;
                }
            }
        }));
    }

    /// Does whatever is due.
    fn act(&mut self) {
        let now = Instant::now();
        if now >= self.look_at {
            self.look_at = now + LOOK_EVERY;
            let ids = self.context.tls.ids();
            if ids != self.ids {
                self.ids = ids;
                self.merge(now);
            }
        }
        if self.expire_at.is_some_and(|at| at <= now) {
            self.wanted.expire(now);
            self.merge(now);
        }
        if self.looked_by.is_some_and(|at| at <= now) {
            self.look_whether_looked(now);
        }
        if self.hear_at.is_some_and(|at| at <= now) {
            self.hear_at = None;
            self.merge(now);
        }
        let room = DIALS_MAX.saturating_sub(self.dials()).min(self.window.room(now));
        let dials = self.context.tls.joins() && !self.draining;
        let room = if dials { room } else { 0 };
        for round in self.wanted.due(self.roster.held(), now, room) {
            self.dial_round(round);
        }
        if self.tell_at.is_some_and(|at| at <= now) {
            self.tell_at = None;
            self.tell_peers(now);
        }
        if self.known_at.is_some_and(|at| at <= now) {
            self.known_at = None;
            let known = self.wanted.known(self.roster.held(), now);
            if known != self.known {
                self.known.clone_from(&known);
                self.context.hub.set_known(known);
            }
        }
        if self.requests.is_idle() {
            return;
        }
        let told = self.told();
        for (token, answer) in self.requests.due(now, &told, &mut self.wanted) {
            if answer == MeshAnswer::False {
                // The wish is void.
                self.merge(now);
            }
            self.context.hub.answer_mesh(token, answer);
        }
    }

    /// Who is connected, and the apps have heard of it.
    fn told(&self) -> Held {
        let told = self
            .roster
            .up()
            .filter(|(conn, _)| self.conns.get(conn).is_some_and(|conn| conn.up.is_some()));
        told.map(|(_, node)| (node.name.clone(), node.incarnation)).collect()
    }

    fn next_deadline(&self) -> Instant {
        let now = Instant::now();
        // With every place taken it is the end of a dial that wakes us, or that one leaves the window; without a
        // certificate its coming.
        let room_at = if self.window.room(now) > 0 { Some(now) } else { self.window.room_at(now) };
        let dials = self.dials() < DIALS_MAX && !self.draining && self.context.tls.joins();
        let dial = room_at.filter(|_| dials).and_then(|room| {
            let due = self.wanted.next_due(self.roster.held(), now);
            due.map(|due| due.max(room))
        });
        let told = self.tell_at.into_iter().chain(self.hear_at).chain(self.looked_by).min();
        let others = [self.expire_at, told, self.known_at, self.requests.next()];
        others.into_iter().flatten().chain(dial).fold(self.look_at, Instant::min)
    }

    fn merge(&mut self, now: Instant) {
        self.wanted.merge(&self.ids, now);
        if self.wanted.remember(self.roster.held(), now) {
            self.wanted.merge(&self.ids, now);
        }
        self.wanted.remembered.save();
        self.expire_at = self.wanted.next_expiry();
        self.known_changed(now);
    }

    fn known_changed(&mut self, now: Instant) {
        let quiet = census::quiet(self.roster.up().count());
        self.known_at.get_or_insert(now + KNOWN_WITHIN.max(quiet / 2));
    }

    fn on_input(&mut self, input: Input) {
        let now = Instant::now();
        match input {
            Input::Report(index) => {
                let Some((name, report)) = self.reports.get_mut(index) else { return };
                let report = report.borrow_and_update().clone();
                self.context.hub.note(|notes| sources::note(notes, name, &report, now));
                self.wanted.report(name, report, now);
                self.merge(now);
                self.label();
                self.look_whether_looked(now);
            }
            Input::Request(request) => self.on_request(request, now),
            Input::Resolved(resolved) => {
                let hub = Arc::clone(&self.context.hub);
                if let Some((token, answer)) =
                    self.requests.resolved(resolved, &mut self.wanted, now)
                {
                    hub.answer_mesh(token, answer);
                }
                self.merge(now);
                self.wanted.hurry(now);
            }
        }
    }

    fn on_request(&mut self, request: MeshRequest, now: Instant) {
        match request {
            MeshRequest::Connect { token, .. } if self.draining => {
                let failed = MeshAnswer::Failed {
                    code: "draining",
                    message: "this node is about to leave: it dials nobody any more".to_owned(),
                };
                self.context.hub.answer_mesh(token, failed);
            }
            MeshRequest::Connect { token, to } => {
                let told = self.told();
                match self.requests.connect(token, &to, &told, &mut self.wanted, now) {
                    requests::Begun::Answered(answer) => {
                        self.context.hub.answer_mesh(token, answer);
                    }
                    requests::Begun::Waits => {
                        self.merge(now);
                        self.wanted.hurry(now);
                    }
                    requests::Begun::Resolve(host) => {
                        let inputs = self.inputs.clone();
                        self.services.push(self.tasks.spawn(async move {
                            let resolved = requests::resolve(token, host).await;
                            let _ = inputs.send(Input::Resolved(resolved)).await;
                        }));
                        self.services.retain(|service| !service.is_finished());
                    }
                }
            }
            MeshRequest::Disconnect { token, node } => {
                self.wanted.unask_name(&node);
                let Some((conn, incarnation)) = self.roster.holder(&node) else {
                    return self.context.hub.answer_mesh(token, MeshAnswer::False);
                };
                self.requests.disconnecting(conn, token);
                let message = "disconnected on request of the other side".to_owned();
                self.close(conn, "disconnect", Some(message), true);
                self.part(&Node { name: node, incarnation }, now);
                self.merge(now);
            }
            MeshRequest::Drains { node } => self.on_drains(node, now),
            MeshRequest::Peers { token } => {
                let shown = MeshAnswer::Shown(item(&self.peers(now)));
                self.context.hub.answer_mesh(token, shown);
            }
            MeshRequest::Explain { token, node } => {
                let shown = MeshAnswer::Shown(item(&self.explain(&node, now)));
                self.context.hub.answer_mesh(token, shown);
            }
            MeshRequest::Doctor { token } => {
                let shown = MeshAnswer::Shown(item(&self.diagnosis(now)));
                self.context.hub.answer_mesh(token, shown);
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Reached(conn) => self.window.reached(conn),
            Event::Spoke(conn) => self.strangers.spoke(conn),
            Event::Hello(conn, met) => self.on_hello(conn, met, now),
            Event::Accepted(conn, number, holds) => {
                let rulings = self.roster.accepted(conn, Accept { number, holds });
                self.follow(rulings);
            }
            Event::Ready(conn) => {
                let rulings = self.roster.ready(conn);
                self.follow(rulings);
            }
            Event::Up(conn) => self.on_up(conn, now),
            Event::Probed(conn, alive) => {
                let rulings = self.roster.probed(conn, alive);
                self.follow(rulings);
            }
            Event::Peers(conn, peers) => self.on_peers(conn, peers, now),
            Event::Ended(conn, ending) => self.on_ended(conn, &ending, now),
        }
    }

    fn on_peers(&mut self, id: ConnId, peers: Peers, now: Instant) {
        self.counted(id, &peers, now);
        let Some(list) = peers.peers else { return };
        let Some(met) = self.conns.get(&id).and_then(|conn| conn.met.as_ref()) else { return };
        let remote = met.remote;
        let said = list.into_iter().filter_map(|entry| {
            let node = Node {
                name: entry.node.parse().ok()?,
                incarnation: Incarnation(entry.incarnation),
            };
            Some((node, scope::rumoured(&entry.addresses, remote)))
        });
        let teller = met.node.name.clone();
        let news = self.wanted.hearsay.told(&teller, said, self.roster.held(), now);
        let within = if news { HEAR_WITHIN } else { HEAR_OLD_WITHIN };
        let at = now + within.max(census::quiet(self.roster.up().count()) / 5);
        self.hear_at = Some(self.hear_at.map_or(at, |hear| hear.min(at)));
    }

    /// Tells the hub once every strategy has reported, or has had long enough.
    fn look_whether_looked(&mut self, now: Instant) {
        let Some(by) = self.looked_by else { return };
        if by <= now || self.wanted.sources.have_looked() {
            self.looked_by = None;
            self.context.hub.set_looked();
        }
    }

    /// Keeps away from a node, also on connections that are under way.
    fn part(&mut self, node: &Node, now: Instant) {
        self.wanted.part(node, now);
        self.wanted.remembered.forget(&node.name);
        for (id, conn) in &self.conns {
            let to_it = conn.met.as_ref().is_some_and(|met| met.node == *node);
            if to_it && self.roster.holder(&node.name).is_none_or(|(holder, _)| holder != *id) {
                let message = "these two were disconnected on request".to_owned();
                self.close(*id, "parted", Some(message), false);
            }
        }
    }
}
