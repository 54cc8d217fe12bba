//! The composition root: owns every task, starts the edges, stops them in order.

#[cfg(feature = "kubernetes")]
mod issued;
mod past;
mod synced;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pillion_strategies::{
    Announcement, Key as GossipKey, Keys, Report, Reporter, Strategy, StrategyError, Surroundings,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

#[cfg(feature = "admin")]
use crate::admin;
use crate::backoff::{Backoff, Rng, Waits};
use crate::config::{
    self, Claim, Config, Host, Key, LocalDir, LocalDirError, Machine, Origin, PodsServed, Profile,
    SyncNodes, Trust, claim_base,
};
use crate::hosting::{self, HostingOptions};
use crate::hub::Hub;
#[cfg(feature = "kubernetes")]
use crate::issuer::Issuer;
use crate::mesh::{self, Facts, MeshOptions, Remember};
use crate::peer::health;
use crate::router::nodes::SelfSeen;
use crate::router::{self, Limits};
use crate::shutdown::{self, Trigger};
use crate::socket::pods::Pods;
use crate::socket::{Socket, SocketError};
use crate::tls::{self, CookieError, Tls, TlsError};
use crate::transport::{self, Tcp, Transport};
use crate::wire::host::Hosting;
use crate::wire::id::{Incarnation, Node, NodeName};
use crate::wire::message::PROTOCOL_MAX;

/// What the operators' socket is called beside `NAME.sock`.
const OPERATOR_EXTENSION: &str = "operator.sock";
/// How often files of cookies and certificates are looked at.
const RELOAD_EVERY: Duration = Duration::from_secs(5);
/// How often polling strategies look.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The pauses before a failed strategy is started again.
const STRATEGY_WAITS: Waits =
    Waits { first: Duration::from_millis(500), cap: Duration::from_secs(60) };
/// News of pods on their way.
#[cfg(feature = "kubernetes")]
const POD_NEWS_MAX: usize = 64;
/// How long the tasks may take to end once they were asked.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Why a node did not start. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The local directory cannot be used, or the name is taken.
    #[error(transparent)]
    LocalDir(#[from] LocalDirError),
    /// There is no app socket to be had.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The app socket is that of another node, which the environment names for its apps.
    #[error(
        "PILLION_SOCKET is set to {path}, the socket of a node that runs: it was meant for the apps of that node. Unset it, or pass --socket, to start another node here"
    )]
    Inherited {
        /// The socket of that node.
        path: PathBuf,
    },
    /// There is no TLS to be had.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// There is no cookie to be had.
    #[error(transparent)]
    Cookie(#[from] CookieError),
    /// A strategy cannot be meant.
    #[error("--strategy {url}: {source}")]
    Strategy {
        /// As it was written, without secrets.
        url: String,
        /// What is wrong with it.
        source: StrategyError,
    },
    /// The mesh port cannot be bound.
    #[error(
        "cannot listen on {address} for other nodes: {source}. Choose another --listen, or leave it out to take the first free port from 4470"
    )]
    Listen {
        /// As it was written.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The port for probes and metrics cannot be bound, or this build has none.
    #[error(
        "cannot serve probes and metrics on {address}: {source}. Choose another --health, or leave it out"
    )]
    Health {
        /// As it was written.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused something else.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// A node that runs. Dropping it ends everything at once; [`Running::stop`] says goodbye first.
#[derive(Debug)]
#[must_use = "dropping it ends the node without a goodbye"]
pub struct Running {
    hub: Arc<Hub>,
    socket: PathBuf,
    grace: Duration,
    mesh: Trigger,
    apps: Trigger,
    hosting: Trigger,
    tasks: JoinSet<()>,
    /// What is hosted may start.
    synced: watch::Receiver<bool>,
    _claim: Option<Claim>,
}

/// What asks a node to stop.
struct Stops {
    terminate: Signal,
    interrupt: Signal,
    /// The terminal is gone; none where whoever started the node had it ignored, as `nohup` does.
    hangup: Option<Signal>,
}

impl Stops {
    fn new() -> io::Result<Self> {
        let hangup = if hangup_is_ignored() { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup,
        })
    }

    /// Completes at the next one. Cancel safe.
    async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = hangup => {}
        }
    }
}

/// As the system tells, where it tells that: a handler of our own would undo it.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|m| m & 1 == 1)
}

/// Runs a node until it is told to stop by SIGTERM, by ctrl-c or by the end of its terminal. A second signal ends it at
/// once.
///
/// # Errors
/// [`NodeError`] when it cannot start.
pub async fn run(config: Config, machine: &Machine) -> Result<(), NodeError> {
    let failed = |source| NodeError::Io { what: "listen for signals", source };
    let mut stops = Stops::new().map_err(failed)?;
    let mut node = start(config, machine).await?;
    tokio::select! {
        biased;
        () = stops.next() => {}
        () = node.ended() => {}
    }
    tracing::info!(
        "leaving: waiting up to {:?} for apps to go; a second signal stops at once",
        node.grace
    );
    tokio::select! {
        biased;
        () = stops.next() => tracing::warn!("stopped at once, without a goodbye"),
        () = node.stop() => tracing::info!("gone"),
    }
    Ok(())
}

/// Starts a node. The app socket is there first.
///
/// # Errors
/// [`NodeError`]: what the operator has to change.
pub async fn start(config: Config, machine: &Machine) -> Result<Running, NodeError> {
    let dir = LocalDir::open(&config.dir, machine)?;
    let claim = claim_base(&dir, &config.mesh, &config.base)?;
    let name = NodeName::new(&claim.base, &config.host).map_err(|error| NodeError::Io {
        what: "name the node",
        source: io::Error::other(error),
    })?;
    let path = match &config.socket {
        Some(path) => path.clone(),
        None => dir.socket(&config.mesh, &claim.base)?,
    };
    // The operator's first: who waits for the app socket to appear finds both.
    let operators = operator_socket(&path, &config)?;
    let socket =
        Socket::bind(&path, config.socket_mode).map_err(|error| inherited(error, &config))?;
    let health = health(&config).await?;
    let (gossip_keys, keys) = watch::channel(Vec::new());
    let strategies = strategies(&config, &dir.registry(&config.mesh)?, keys)?;

    let me = Node { name, incarnation: incarnation()? };
    let hub = Hub::new(me.clone(), limits(&config));
    let mut tasks = JoinSet::new();
    let (mesh_trigger, mesh_shutdown) = shutdown::channel();
    let (apps_trigger, apps_shutdown) = shutdown::channel();
    let synced_shutdown = mesh_shutdown.clone();
    {
        let (hub, shutdown) = (Arc::clone(&hub), apps_shutdown.clone());
        tasks.spawn(async move { hub.run_deadlines(shutdown).await });
    }
    let pods = config.pods.clone().map(|served| Arc::new(Pods::new(served)));
    follow_pods(pods.as_ref(), &hub, &apps_shutdown, &mut tasks);
    for socket in std::iter::once(socket.for_pods(pods)).chain(operators) {
        tasks.spawn(socket.serve(Arc::clone(&hub), config.body_bytes_max, apps_shutdown.clone()));
    }
    hub.set_bound();
    if let Some(health) = health {
        tasks.spawn(health(Arc::clone(&hub), apps_shutdown));
    }

    let past = past::Book::of(&config, &dir, &claim.base);
    let trust = trust(&config, &past)?;
    let tls = Tls::new(&trust, config.mesh.as_str(), me.name.host())?;
    gossip_keys.send_replace(of_gossip(&tls));
    let (listener, listen) = bind(&config).await?;
    let advertised: Vec<SocketAddr> = config
        .advertise
        .iter()
        .map(|address| SocketAddr::new(address.ip, address.port.unwrap_or(listen.port())))
        .collect();
    hub.set_self(SelfSeen {
        labels: config.labels.clone(),
        hidden: config.hidden,
        addresses: std::iter::once(&listen).chain(&advertised).map(ToString::to_string).collect(),
        min_peers: config.min_peers,
    });
    let (announce, announced) = watch::channel(Announcement {
        mesh: config.mesh.as_str().to_owned(),
        node: me.name.to_string(),
        incarnation: me.incarnation.0,
        protocol: PROTOCOL_MAX,
        ids: tls.ids(),
        listen: vec![listen],
        socket: Some(path.clone()),
        labels: config.labels.clone(),
    });
    let mut reports: Vec<(String, watch::Receiver<Report>)> = Vec::new();
    for (number, strategy) in strategies.into_iter().enumerate() {
        let (reporter, report) = Reporter::new();
        // Two of one kind are two sources.
        let same = |name: &str| reports.iter().any(|(other, _)| other == name);
        let numbered = (2..).map(|n| format!("{} {n}", strategy.name()));
        let mut names = std::iter::once(strategy.name().to_owned()).chain(numbered);
        let name = names.find(|name| !same(name)).unwrap_or_default();
        reports.push((name, report));
        let seed = me.incarnation.0.wrapping_add(number as u64);
        tasks.spawn(keep_looking(
            strategy,
            announced.clone(),
            reporter,
            mesh_shutdown.clone(),
            seed,
        ));
    }
    let telling = Telling { announce, gossip_keys };
    let seed = me.incarnation.0;
    keep_keys(&config, &past, &tls, telling, seed, &mesh_shutdown, &mut tasks)?;
    let options = MeshOptions {
        mesh: config.mesh.as_str().to_owned(),
        advertised,
        labels: config.labels.clone(),
        hidden: config.hidden,
        profile: profile(config.profile),
        to_second: to_second(),
        seed: me.incarnation.0,
        remember: remember(&config, &past, &tls, &mesh_shutdown, &mut tasks),
        interfaces: pillion_strategies::interfaces::own,
        facts: facts(&config, &path, &past),
    };
    tasks.spawn(mesh::run(
        options,
        Arc::new(Tcp),
        vec![listener],
        tls,
        Arc::clone(&hub),
        reports,
        mesh_shutdown,
    ));
    let (hosting_trigger, hosting_shutdown) = shutdown::channel();
    let options = HostingOptions { socket: path.clone(), seed: me.incarnation.0 };
    tasks.spawn(hosting::run(options, Arc::clone(&hub), hosting_shutdown));
    tracing::info!(
        "{} is up: mesh {}, port {}, socket {}",
        me.name,
        config.mesh.as_str(),
        listen.port(),
        path.display()
    );
    let synced =
        host_when_synced(&hub, &path, config.sync, config.hosting, synced_shutdown, &mut tasks);
    Ok(Running {
        hub,
        socket: path,
        grace: config.grace,
        mesh: mesh_trigger,
        apps: apps_trigger,
        hosting: hosting_trigger,
        tasks,
        synced,
        _claim: Some(claim),
    })
}

impl Running {
    /// Where apps connect.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What the node is called.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.hub.me().name
    }

    /// Completes when the nodes that were to be waited for are up: what depends on them may start. Cancel safe.
    pub async fn synced(&self) {
        // Its sender lives as long as the node.
        let _ = self.synced.clone().wait_for(|synced| *synced).await;
    }

    /// Completes when a task has ended that should not have: the node is of no use then. Cancel safe.
    ///
    /// # Panics
    /// When the task panicked: a bug ends the node loudly.
    pub async fn ended(&mut self) {
        if let Some(Err(error)) = self.tasks.join_next().await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }

    /// Leaves in order, within the grace and a few seconds.
    pub async fn stop(mut self) {
        // 1. The apps hear of it first, and may finish what they are at; then the other nodes, which give this one nothing
        //    new that others can do.
        self.hub.drain();
        // 2. What is hosted ends meanwhile, the last one first, each within its own time. Other nodes hear of each end.
        let sessions = tokio::time::timeout(self.grace, self.hub.without_sessions());
        let _ = tokio::join!(self.hub.end_hosting(), sessions);
        self.hosting.ask();
        // 3. What other nodes sent before they knew is answered, so that they ask somebody else.
        self.hub.hear_out().await;
        // 4. The other nodes hear a goodbye, so that nobody waits for the failure detector; strategies stop
        //    announcing.
        self.mesh.ask();
        // 5. What is left of the sessions is closed. The socket's file goes with its task.
        self.apps.ask();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(END_WITHIN, ended).await.is_err() {
            tracing::warn!("some tasks did not end within {END_WITHIN:?}; they are dropped");
        }
    }
}

/// Hosts what is configured: at once, or when the nodes are up that it waits for.
fn host_when_synced(
    hub: &Arc<Hub>,
    socket: &Path,
    sync: SyncNodes,
    hosting: Hosting,
    mut shutdown: shutdown::Shutdown,
    tasks: &mut JoinSet<()>,
) -> watch::Receiver<bool> {
    let waits = !sync.mandatory.is_empty() || !sync.optional.is_empty();
    let (tell, synced) = watch::channel(!waits);
    if !waits {
        hub.host(hosting);
        return synced;
    }
    let (hub, socket) = (Arc::clone(hub), socket.to_owned());
    tasks.spawn(async move {
        tokio::select! {
            biased;
            () = shutdown.asked() => return,
            () = synced::synced(&socket, &sync) => {}
        }
        hub.host(hosting);
        tell.send_replace(true);
        // A task that ends before it was asked to is one that has failed.
        shutdown.asked().await;
    });
    synced
}

/// `pillion run` and people set `PILLION_SOCKET` for apps; a node that is started there would take it for its own. That
/// is right where nobody serves it, so only the clash is told apart.
fn inherited(error: SocketError, config: &Config) -> NodeError {
    let origin = config.shown.get(&Key::Socket).map(|shown| &shown.origin);
    match error {
        SocketError::Taken { path } if matches!(origin, Some(Origin::Variable(_))) => {
            NodeError::Inherited { path }
        }
        error => error.into(),
    }
}

/// Where the apps are not operators, the operator has a socket of his own, named after the app socket unless it is to be
/// elsewhere: several nodes share a directory.
fn operator_socket(path: &Path, config: &Config) -> Result<Option<Socket>, NodeError> {
    const MODE: u32 = 0o600;
    let path = match &config.operator_socket {
        Some(path) => path.clone(),
        None if config.socket_mode & 0o777 == MODE => return Ok(None),
        None => path.with_extension(OPERATOR_EXTENSION),
    };
    Ok(Some(Socket::bind(&path, MODE)?))
}

/// A task that keeps up with the pods of this machine, where they are served.
#[cfg(feature = "kubernetes")]
fn follow_pods(
    pods: Option<&Arc<Pods>>,
    hub: &Arc<Hub>,
    shutdown: &shutdown::Shutdown,
    tasks: &mut JoinSet<()>,
) {
    let Some(pods) = pods.cloned() else { return };
    let (hub, mut shutdown) = (Arc::clone(hub), shutdown.clone());
    tasks.spawn(async move {
        let (tell, news) = tokio::sync::mpsc::channel(POD_NEWS_MAX);
        let follows = pillion_strategies::kubernetes::follow_pods(pods.machine().to_owned(), tell);
        tokio::select! {
            biased;
            () = shutdown.asked() => {}
            () = follows => {}
            () = pods.listen(news, &hub) => {}
        }
    });
}

/// The configuration has refused it.
#[cfg(not(feature = "kubernetes"))]
fn follow_pods(_: Option<&Arc<Pods>>, _: &Arc<Hub>, _: &shutdown::Shutdown, _: &mut JoinSet<()>) {}

/// A task that is still to get its node.
type Health =
    Box<dyn FnOnce(Arc<Hub>, shutdown::Shutdown) -> Pin<Box<dyn Future<Output = ()> + Send>>>;

/// Binds the port for probes and metrics, where one was asked for.
#[cfg(feature = "admin")]
async fn health(config: &Config) -> Result<Option<Health>, NodeError> {
    let Some(listen) = &config.health else { return Ok(None) };
    let failed = |source| NodeError::Health { address: listen.to_string(), source };
    let listener = admin::bind(listen).await.map_err(failed)?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!("probes and metrics on http://{address}");
    }
    let mesh = config.mesh.as_str().to_owned();
    Ok(Some(Box::new(move |hub, shutdown| Box::pin(admin::run(listener, hub, mesh, shutdown)))))
}

/// Refuses what this build cannot do.
#[cfg(not(feature = "admin"))]
#[allow(clippy::unused_async, reason = "as the other one")]
async fn health(config: &Config) -> Result<Option<Health>, NodeError> {
    let Some(listen) = &config.health else { return Ok(None) };
    let source = io::Error::other("this pillion was built without the feature `admin`");
    Err(NodeError::Health { address: listen.to_string(), source })
}

fn strategies(
    config: &Config,
    registry: &Path,
    keys: watch::Receiver<Vec<GossipKey>>,
) -> Result<Vec<Box<dyn Strategy>>, NodeError> {
    let shared = matches!(config.trust, Trust::Cookie { .. }).then_some(keys);
    let mesh = config.mesh.as_str().to_owned();
    let keys = Keys::new(shared, move |path| {
        let cookies = tls::cookie::read(path).map_err(|error| error.to_string())?;
        Ok(cookies.iter().map(|cookie| GossipKey::new(cookie.gossip_key(&mesh))).collect())
    });
    let surroundings = Surroundings { registry: registry.to_owned(), interval: LOOK_EVERY, keys };
    config
        .strategies
        .iter()
        .map(|url| {
            pillion_strategies::build(url, &surroundings).map_err(|source| NodeError::Strategy {
                url: pillion_strategies::redacted(url),
                source,
            })
        })
        .collect()
}

/// Whom an earlier run was connected to, and a task that keeps that for the next one.
fn remember(
    config: &Config,
    book: &past::Book,
    tls: &Tls,
    shutdown: &shutdown::Shutdown,
    tasks: &mut JoinSet<()>,
) -> Remember {
    let mut remember =
        Remember { keep: config.remember, prune: config.prune, ..Remember::default() };
    if !config.remember.is_zero() {
        let (save, saved) = watch::channel(Vec::new());
        remember.past = book.read(&tls.ids());
        remember.save = Some(save);
        tasks.spawn(past::keep(book.clone(), tls.clone(), saved, shutdown.clone()));
    }
    remember
}

/// What the node knows of itself that its mesh shows to people.
fn facts(config: &Config, socket: &Path, book: &past::Book) -> Facts {
    let text = |path: &Path| path.display().to_string();
    let (trust, cookie_file) = match &config.trust {
        Trust::Cookie { file, .. } => ("cookie", Some(text(file))),
        Trust::Certificates { .. } => ("certificates", None),
        Trust::Issued { .. } => ("issued", None),
    };
    Facts {
        trust: trust.to_owned(),
        cookie_file,
        dir: text(&config.dir),
        socket: text(socket),
        state_file: (!config.remember.is_zero()).then(|| text(book.path())),
        urls: config.strategies.iter().map(|url| without_secrets(url)).collect(),
        min_peers: config.min_peers as u64,
        pods: config.pods.as_ref().map(PodsServed::shown),
    }
}

/// A strategy's URL as it may be shown: whoever is asked for, and passwords and tokens, stay out of it.
fn without_secrets(url: &str) -> String {
    const SECRET: [&str; 5] = ["token", "password", "secret", "key", "auth"];
    let (head, query) = url.split_once('?').unwrap_or((url, ""));
    let head = match head.split_once("://") {
        Some((scheme, place)) => {
            let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
            format!("{scheme}://{place}")
        }
        None => head.to_owned(),
    };
    let options: Vec<String> = query
        .split('&')
        .filter(|option| !option.is_empty())
        .map(|option| match option.split_once('=') {
            Some((name, value))
                if SECRET.iter().any(|s| name.contains(s)) || value.contains('@') =>
            {
                format!("{name}=...")
            }
            _ => option.to_owned(),
        })
        .collect();
    if options.is_empty() { head } else { format!("{head}?{}", options.join("&")) }
}

fn incarnation() -> Result<Incarnation, NodeError> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|error| NodeError::Io {
        what: "get randomness from the system",
        source: io::Error::other(error.to_string()),
    })?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix_ms = u64::try_from(now.as_millis()).unwrap_or(0);
    Ok(Incarnation::new(unix_ms, u32::from_ne_bytes(random)))
}

/// How long it is until the machine's clock shows a whole second.
fn to_second() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_nanos((1_000_000_000 - now.subsec_nanos()).into())
}

fn limits(config: &Config) -> Limits {
    Limits {
        mailbox_entries: config.mailbox_entries_max,
        mailbox_bytes: config.mailbox_bytes_max,
        queue_bytes: config.queue_bytes_max,
        body_bytes: config.body_bytes_max,
        send_timeout: config.send_timeout,
        counted_topics: config.metrics_topics,
        remote: match config.remote {
            config::Remote::None => router::Remote::None,
            config::Remote::Read => router::Remote::Read,
            config::Remote::Full => router::Remote::Full,
        },
        ..Limits::default()
    }
}

fn trust(config: &Config, book: &past::Book) -> Result<tls::Trust, NodeError> {
    Ok(match &config.trust {
        Trust::Cookie { file, explicit: true } => tls::Trust::cookie_file(file.clone())?,
        Trust::Cookie { file, explicit: false } => tls::Trust::cookie_file_or_new(file.clone())?,
        Trust::Certificates { ca, cert, key } => {
            tls::Trust::Certificates { ca: ca.clone(), cert: cert.clone(), key: key.clone() }
        }
        #[cfg(feature = "kubernetes")]
        Trust::Issued { issuer, .. } => {
            let (kept, first) = issued::Kept::of(config, book)?;
            tls::Trust::Issued { anchors: kept.read().unwrap_or(first), issuer: issuer.to_string() }
        }
        // The configuration has refused it.
        #[cfg(not(feature = "kubernetes"))]
        Trust::Issued { .. } => {
            let source =
                io::Error::other(format!("{}: no feature `kubernetes`", book.path().display()));
            return Err(NodeError::Io { what: "ask for a certificate", source });
        }
    })
}

const fn profile(profile: Profile) -> health::Profile {
    match profile {
        Profile::Local => health::Profile::Local,
        Profile::Lan => health::Profile::Lan,
        Profile::Wan => health::Profile::Wan,
    }
}

async fn bind(config: &Config) -> Result<(<Tcp as Transport>::Listener, SocketAddr), NodeError> {
    let failed = |source| NodeError::Listen { address: config.listen.to_string(), source };
    let any = std::net::IpAddr::from([0_u16; 8]);
    let ip = match &config.listen.host {
        Host::Any => any,
        Host::Ip(ip) => *ip,
        Host::Name(name) => tokio::net::lookup_host((name.as_str(), 0))
            .await
            .map_err(failed)?
            .next()
            .map(|address| address.ip())
            .ok_or_else(|| failed(io::Error::other("the name has no address")))?,
    };
    let Some(port) = config.listen.port else {
        return transport::bind_from(&Tcp, ip).await.map_err(failed);
    };
    let mut bound = Tcp.bind(SocketAddr::new(ip, port)).await;
    if bound.is_err() && config.listen.host == Host::Any {
        // A machine without IPv6.
        bound = Tcp.bind(SocketAddr::new(std::net::IpAddr::from([0_u8; 4]), port)).await;
    }
    let listener = bound.map_err(failed)?;
    let address = Tcp.local_address(&listener).map_err(failed)?;
    Ok((listener, address))
}

/// Runs a strategy for as long as the node is in the mesh, again after each failure.
async fn keep_looking(
    strategy: Box<dyn Strategy>,
    mut announced: watch::Receiver<Announcement>,
    reporter: Reporter,
    mut shutdown: shutdown::Shutdown,
    seed: u64,
) {
    let (mut backoff, mut rng) = (Backoff::default(), Rng::new(seed));
    loop {
        let announcement = announced.borrow_and_update().clone();
        let started = Instant::now();
        let result = tokio::select! {
            biased;
            () = shutdown.asked() => return,
            Ok(()) = announced.changed() => continue,
            result = strategy.run(announcement, &reporter) => result,
        };
        if let Err(error) = result {
            reporter.unwell(error.to_string());
            tracing::warn!("strategy {}: {error}; trying again", strategy.name());
        }
        if started.elapsed() >= STRATEGY_WAITS.cap {
            // It was well for long: what failed before says nothing of this failure.
            backoff.reset();
        }
        let wait = backoff.next(STRATEGY_WAITS, &mut rng);
        if shutdown.asked_within(wait).await {
            return;
        }
    }
}

fn of_gossip(tls: &Tls) -> Vec<GossipKey> {
    tls.gossip_keys().into_iter().map(GossipKey::new).collect()
}

/// What is told when the keys of the mesh are others than before.
struct Telling {
    announce: watch::Sender<Announcement>,
    gossip_keys: watch::Sender<Vec<GossipKey>>,
}

impl Telling {
    fn tell(&self, tls: &Tls) {
        // Before the strategies are run anew.
        self.gossip_keys.send_replace(of_gossip(tls));
        self.announce.send_if_modified(|announcement| {
            let ids = tls.ids();
            let news = announcement.ids != ids;
            announcement.ids = ids;
            news
        });
    }
}

/// A task that keeps the keys of the mesh as they should be: read again from files, or issued anew.
fn keep_keys(
    config: &Config,
    book: &past::Book,
    tls: &Tls,
    telling: Telling,
    seed: u64,
    shutdown: &shutdown::Shutdown,
    tasks: &mut JoinSet<()>,
) -> Result<(), NodeError> {
    #[cfg(feature = "kubernetes")]
    if let Trust::Issued { issuer, token, .. } = &config.trust {
        let (kept, _) = issued::Kept::of(config, book)?;
        let issuer = Issuer {
            url: issuer.clone(),
            token: token.clone(),
            mesh: config.mesh.as_str().to_owned(),
        };
        let changed = move |tls: &Tls| telling.tell(tls);
        tasks.spawn(issued::keep(tls.clone(), issuer, kept, seed, changed, shutdown.clone()));
        return Ok(());
    }
    #[cfg(not(feature = "kubernetes"))]
    let _ = (config, book, seed);
    tasks.spawn(keep_reloading(tls.clone(), telling, shutdown.clone()));
    Ok(())
}

/// Reads cookies or certificates again when they change.
async fn keep_reloading(tls: Tls, telling: Telling, mut shutdown: shutdown::Shutdown) {
    let mut told = String::new();
    while !shutdown.asked_within(RELOAD_EVERY).await {
        match tls.reload() {
            Ok(true) => {
                told.clear();
                tracing::info!("the keys of the mesh were read again");
                telling.tell(&tls);
            }
            Ok(false) => told.clear(),
            Err(error) => {
                let text = error.to_string();
                if text != told {
                    tracing::warn!("{text}; the keys that were read before stay in use");
                    told = text;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Fails at once ten times, then after it was well for an hour.
    struct Flaky(Arc<Mutex<Vec<Instant>>>);

    impl Strategy for Flaky {
        fn name(&self) -> &'static str {
            "flaky"
        }

        fn run<'a>(
            &'a self,
            _: Announcement,
            reporter: &'a Reporter,
        ) -> pillion_strategies::Running<'a> {
            Box::pin(async move {
                let run = {
                    let mut starts = self.0.lock().expect("no panic");
                    starts.push(Instant::now());
                    starts.len()
                };
                reporter.visible(Vec::new());
                if run > 10 {
                    tokio::time::sleep(Duration::from_secs(3600)).await;
                }
                Err(StrategyError::Source("flaky".to_owned()))
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_strategy_that_was_well_for_long_is_started_again_as_soon_as_one_that_is_new() {
        let starts = Arc::new(Mutex::new(Vec::new()));
        let (_announce, announced) = watch::channel(Announcement {
            mesh: "default".to_owned(),
            node: "a@hal".to_owned(),
            incarnation: 1,
            protocol: PROTOCOL_MAX,
            ids: Vec::new(),
            listen: Vec::new(),
            socket: None,
            labels: std::collections::BTreeMap::new(),
        });
        let (reporter, _report) = Reporter::new();
        let (_trigger, shutdown) = shutdown::channel();
        let flaky = Box::new(Flaky(Arc::clone(&starts)));
        let looking = keep_looking(flaky, announced, reporter, shutdown, 1);
        let _ = tokio::time::timeout(Duration::from_secs(3 * 3600), looking).await;
        let starts = starts.lock().expect("no panic").clone();
        let pause = |run: usize| starts[run] - starts[run - 1];
        assert!(pause(10) >= STRATEGY_WAITS.cap / 2, "{:?}", pause(10));
        let after = pause(11).saturating_sub(Duration::from_secs(3600));
        assert!(after <= STRATEGY_WAITS.first, "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_live_for_as_long_as_its_main_task_answers() {
        let me = Node { name: "a@h".parse().expect("a name"), incarnation: Incarnation(1) };
        let hub = Hub::new(me, Limits::default());
        let start = Instant::now();
        assert!(!hub.is_live().await);
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        let (trigger, shutdown) = shutdown::channel();
        let runs = tokio::spawn({
            let hub = Arc::clone(&hub);
            async move { hub.run_deadlines(shutdown).await }
        });
        for _ in 0..3 {
            assert!(hub.is_live().await);
        }
        assert_eq!(start.elapsed(), Duration::from_secs(5), "at once");
        trigger.ask();
        runs.await.expect("no panic");
        assert!(!hub.is_live().await);
    }
}
