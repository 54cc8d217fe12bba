//! A simulated network of nodes, and what a test may do to it and see of it.
//!
//! Time is simulated, so nothing here sleeps; a test waits for what it wants to see ([`World::until`]) and fails with
//! the seed when it does not come.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ciborium::Value;
use pillion::hub::Hub;
use pillion::mesh::{self, Facts, MeshOptions, Profile, Remember};
use pillion::router::Limits;
use pillion::shutdown;
use pillion::tls::{Cookie, Tls, Trust};
use pillion::transport::Transport;
use pillion::wire::id::{Incarnation, Node};
use pillion_strategies::{Report, Reporter, Sighting};
use tokio::sync::watch;
use turmoil::Sim;

use crate::app::{Answer, App, Executed, Known, text};
use crate::transport::Simulated;

pub(crate) const PORT: u16 = 4470;
/// Some day; incarnations count from it in simulated time.
const EPOCH_MS: u64 = 1_800_000_000_000;

/// How a node is started.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) name: String,
    pub(crate) mesh: String,
    pub(crate) cookie: u8,
    pub(crate) hidden: bool,
    pub(crate) profile: Profile,
    pub(crate) remember: Remember,
}

impl Setup {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: format!("{name}@sim"),
            mesh: "default".to_owned(),
            cookie: 1,
            hidden: false,
            profile: Profile::Lan,
            remember: Remember::default(),
        }
    }
}

/// A node as the test sees it; it outlives the runs of the node.
struct Cell {
    setup: Mutex<Setup>,
    reporter: Reporter,
    report: watch::Receiver<Report>,
    /// Another strategy.
    second: (Reporter, watch::Receiver<Report>),
    run: Mutex<Run>,
    tls: Mutex<Option<Tls>>,
    transport: Simulated,
    executed: Executed,
    seed: u64,
}

#[derive(Default)]
struct Run {
    hub: Option<Arc<Hub>>,
    trigger: Option<shutdown::Trigger>,
    app: Option<App>,
    starts: u64,
    stopped: bool,
    questions: u64,
}

impl Cell {
    fn run(&self) -> MutexGuard<'_, Run> {
        self.run.lock().expect("no test panics with the lock held")
    }

    async fn live(self: Arc<Self>) -> turmoil::Result {
        let setup = self.setup.lock().expect("not poisoned").clone();
        let (trigger, shutdown) = shutdown::channel();
        let elapsed = turmoil::sim_elapsed().expect("within the simulation");
        let hub = {
            let mut run = self.run();
            run.starts += 1;
            run.stopped = false;
            let ms = EPOCH_MS + u64::try_from(elapsed.as_millis())?;
            let incarnation = Incarnation::new(ms, u32::try_from(run.starts)?);
            let name = setup.name.parse()?;
            let hub = Hub::new(Node { name, incarnation }, Limits::default());
            let (app, life) = App::open(&hub, Arc::clone(&self.executed));
            tokio::task::spawn_local(life);
            run.hub = Some(Arc::clone(&hub));
            (run.app, run.trigger) = (Some(app), Some(trigger));
            hub
        };
        let (deadlines, stop) = (Arc::clone(&hub), shutdown.clone());
        tokio::task::spawn_local(async move { deadlines.run_deadlines(stop).await });
        let tls = {
            let mut tls = self.tls.lock().expect("not poisoned");
            tls.get_or_insert_with(|| {
                let lines = vec![Cookie::from_bytes([setup.cookie; 32])];
                let trust = Trust::Cookie { lines, file: None };
                Tls::new(&trust, &setup.mesh, "sim").expect("a good configuration")
            })
            .clone()
        };
        let transport = Arc::new(self.transport.clone());
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT);
        let listener = transport.bind(any).await?;
        let options = MeshOptions {
            mesh: setup.mesh,
            advertised: Vec::new(),
            labels: BTreeMap::new(),
            hidden: setup.hidden,
            profile: setup.profile,
            // Clocks that do not agree.
            to_second: Duration::from_millis((self.seed ^ hub.me().incarnation.0) % 1000),
            seed: self.seed ^ hub.me().incarnation.0,
            remember: setup.remember,
            interfaces: Vec::new,
            facts: Facts::default(),
        };
        let reports = vec![
            ("list".to_owned(), self.report.clone()),
            ("watch".to_owned(), self.second.1.clone()),
        ];
        mesh::run(options, transport, vec![listener], tls, hub, reports, shutdown).await;
        self.run().stopped = true;
        Ok(())
    }
}

/// The network.
pub(crate) struct World {
    sim: Sim<'static>,
    cells: BTreeMap<String, Arc<Cell>>,
    pub(crate) executed: Executed,
    pub(crate) seed: u64,
}

/// The seed of this run: `PILLION_SEED`, else one that depends on nothing.
pub(crate) fn seed() -> u64 {
    std::env::var("PILLION_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

/// How many rounds a test that repeats itself makes: `PILLION_ROUNDS`, else as many as it says.
pub(crate) fn rounds(default: u64) -> u64 {
    std::env::var("PILLION_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(default)
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_seed(seed())
    }

    pub(crate) fn with_seed(seed: u64) -> Self {
        println!("PILLION_SEED={seed}");
        let sim = turmoil::Builder::new()
            .rng_seed(seed)
            .simulation_duration(Duration::from_secs(1_000_000))
            .tick_duration(Duration::from_millis(1))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(20))
            .tcp_capacity(4096)
            .build();
        Self { sim, cells: BTreeMap::new(), executed: Executed::default(), seed }
    }

    /// A world in which these nodes run and know of nobody.
    pub(crate) fn of(names: &[&str]) -> Self {
        let mut world = Self::new();
        for name in names {
            world.start(name);
        }
        world
    }

    pub(crate) fn start(&mut self, name: &str) {
        self.start_as(name, Setup::new(name));
    }

    /// Starts a node on a host of its own. `host` is what the test calls it, whatever its name.
    pub(crate) fn start_as(&mut self, host: &str, setup: Setup) {
        let (reporter, report) = Reporter::new();
        let cell = Arc::new(Cell {
            setup: Mutex::new(setup),
            reporter,
            report,
            second: Reporter::new(),
            run: Mutex::default(),
            tls: Mutex::default(),
            transport: Simulated::default(),
            executed: Arc::clone(&self.executed),
            seed: self.seed,
        });
        self.cells.insert(host.to_owned(), Arc::clone(&cell));
        self.sim.host(host, move || Arc::clone(&cell).live());
    }

    /// How often this host has dialled anybody.
    pub(crate) fn dials(&self, host: &str) -> u64 {
        self.cells[host].transport.dials.load(Ordering::Relaxed)
    }

    /// Runs something that is no node.
    pub(crate) fn stranger<F>(&mut self, host: &str, client: F)
    where
        F: Future<Output = turmoil::Result> + 'static,
    {
        self.sim.client(host, client);
    }

    pub(crate) fn address(&self, host: &str) -> SocketAddr {
        SocketAddr::new(self.sim.lookup(host), PORT)
    }

    /// `host`'s static list is these others.
    pub(crate) fn list(&self, host: &str, others: &[&str]) {
        let sightings = others
            .iter()
            .map(|other| Sighting { addresses: vec![self.address(other)], ..Sighting::default() });
        self.sees(host, sightings.collect());
    }

    /// `host`'s strategy reports this.
    pub(crate) fn sees(&self, host: &str, sightings: Vec<Sighting>) {
        self.cells[host].reporter.visible(sightings);
    }

    /// `host`'s other strategy reports this.
    pub(crate) fn watches(&self, host: &str, sightings: Vec<Sighting>) {
        self.cells[host].second.0.visible(sightings);
    }

    /// What the sources of `host` know of `host` itself.
    pub(crate) fn knows_itself(&self, host: &str, labels: &[(&str, &str)]) {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        self.cells[host].reporter.own_labels(labels.collect());
    }

    /// Both strategies of `host` fail: what they reported stays, and why is said.
    pub(crate) fn is_blind(&self, host: &str, why: &str) {
        self.cells[host].reporter.unwell(why);
        self.cells[host].second.0.unwell(why);
    }

    /// What a strategy that knows names would report of `host`.
    pub(crate) fn sighting(&self, host: &str) -> Sighting {
        let me = self.node(host);
        Sighting {
            node: Some(me.name.to_string()),
            incarnation: Some(me.incarnation.0),
            addresses: vec![self.address(host)],
            ..Sighting::default()
        }
    }

    /// Takes the power away, as `kill -9` of the machine: nobody hears a word.
    pub(crate) fn crash(&mut self, host: &str) {
        self.sim.crash(host);
        self.forget_run(host);
    }

    /// Starts the node again after a crash or a leave.
    pub(crate) fn bounce(&mut self, host: &str) {
        self.sim.bounce(host);
        self.forget_run(host);
    }

    /// Nothing that an app of the last run saw counts any more.
    fn forget_run(&self, host: &str) {
        let mut run = self.cells[host].run();
        (run.hub, run.app) = (None, None);
    }

    /// Asks a node to stop.
    pub(crate) fn leave(&self, host: &str) {
        self.cells[host].run().trigger.as_ref().expect("it runs").ask();
    }

    /// Whether the mesh of the present run has ended, goodbyes and all.
    pub(crate) fn has_stopped(&self, host: &str) -> bool {
        self.cells[host].run().stopped
    }

    pub(crate) fn partition(&self, a: &str, b: &str) {
        self.sim.partition(a, b);
    }

    /// Nothing from `from` reaches `to`.
    pub(crate) fn cut(&self, from: &str, to: &str) {
        self.sim.partition_oneway(from, to);
    }

    pub(crate) fn heal(&self, a: &str, b: &str) {
        self.sim.repair(a, b);
    }

    pub(crate) fn set_latency(&self, max: Duration) {
        self.sim.set_max_message_latency(max);
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.sim.elapsed()
    }

    fn hub(&self, host: &str) -> Arc<Hub> {
        self.cells[host].run().hub.clone().expect("it has started")
    }

    /// It begins to leave, and stays for now.
    pub(crate) fn drain(&self, host: &str) {
        self.hub(host).drain();
    }

    pub(crate) fn node(&self, host: &str) -> Node {
        self.hub(host).me().clone()
    }

    pub(crate) fn app(&self, host: &str) -> Option<App> {
        self.cells[host].run().app.clone()
    }

    /// Whom the apps of `host` see connected, by the base of the name.
    pub(crate) fn peers(&self, host: &str) -> Vec<String> {
        let Some(app) = self.app(host) else { return Vec::new() };
        app.seen().up.keys().map(|name| name.trim_end_matches("@sim").to_owned()).collect()
    }

    /// Whether `host` is connected to the present run of `other`.
    pub(crate) fn is_joined(&self, host: &str, other: &str) -> bool {
        let (Some(app), Some(them)) = (self.app(host), self.cells[other].run().hub.clone()) else {
            return false;
        };
        app.seen().up.get(them.me().name.as_str()) == Some(&them.me().incarnation)
    }

    /// Both are connected to the present run of the other.
    pub(crate) fn are_joined(&self, a: &str, b: &str) -> bool {
        self.is_joined(a, b) && self.is_joined(b, a)
    }

    /// Everybody to everybody.
    pub(crate) fn is_full(&self, hosts: &[&str]) -> bool {
        hosts.iter().all(|a| hosts.iter().all(|b| a == b || self.is_joined(a, b)))
    }

    /// `up b`, `down b because`, as an app of this run heard them.
    pub(crate) fn events(&self, host: &str) -> Vec<String> {
        self.app(host).map_or_else(Vec::new, |app| app.seen().events.clone())
    }

    /// Who is known to `host` and not connected.
    pub(crate) fn known(&self, host: &str) -> Vec<Known> {
        self.app(host).map_or_else(Vec::new, |app| app.seen().known.clone())
    }

    /// Asks `host` to connect.
    pub(crate) fn connect(&self, host: &str, to: &str) -> u64 {
        self.ask(host, vec![("op", "connect".into()), ("to", to.into())])
    }

    /// Asks `host` to disconnect.
    pub(crate) fn disconnect(&self, host: &str, node: &str) -> u64 {
        self.ask(host, vec![("op", "disconnect".into()), ("node", format!("{node}@sim").into())])
    }

    pub(crate) fn ask(&self, host: &str, command: Vec<(&'static str, Value)>) -> u64 {
        let question = {
            let mut run = self.cells[host].run();
            run.questions += 1;
            run.questions
        };
        self.app(host).expect("it has started").ask(question, command);
        question
    }

    /// The answer to a question, if it has come.
    pub(crate) fn reply(&self, host: &str, question: u64) -> Option<Value> {
        self.app(host)?.seen().answered.get(&question).cloned()
    }

    /// Asks `host` something that it answers by itself, and waits for the answer.
    pub(crate) fn says(&mut self, host: &str, command: Vec<(&'static str, Value)>) -> Value {
        let question = self.ask(host, command);
        self.until("answer", Duration::from_secs(5), |w| w.reply(host, question).is_some());
        self.reply(host, question).expect("waited for")
    }

    /// Who has a global name, as `host` sees it.
    pub(crate) fn holder(&mut self, host: &str, name: &str) -> Option<String> {
        let whereis =
            vec![("op", "whereis".into()), ("name", name.into()), ("scope", "global".into())];
        text(&self.says(host, whereis), "pid")
    }

    /// Waits for an answer.
    pub(crate) fn answered(&mut self, host: &str, question: u64) -> Answer {
        let answer = |world: &Self| world.app(host)?.seen().answers.get(&question).cloned();
        self.until("answer", Duration::from_secs(30), |world| answer(world).is_some());
        answer(self).expect("waited for")
    }

    /// How much time has passed.
    pub(crate) fn since(&self, start: Duration) -> Duration {
        self.elapsed().saturating_sub(start)
    }

    fn step(&mut self) {
        if let Err(error) = self.sim.step() {
            panic!("seed {}: {error}", self.seed);
        }
    }

    /// Runs until `good`; fails when that takes longer than `within`. Returns how long it took.
    pub(crate) fn until(
        &mut self,
        what: &str,
        within: Duration,
        good: impl Fn(&Self) -> bool,
    ) -> Duration {
        let start = self.elapsed();
        while !good(self) {
            if self.since(start) > within {
                let seen: Vec<String> = self
                    .cells
                    .keys()
                    .map(|host| {
                        format!(
                            "  {host}: peers {:?}, events {:?}, known {:?}",
                            self.peers(host),
                            self.events(host),
                            self.known(host)
                        )
                    })
                    .collect();
                panic!("seed {}: no {what} within {within:?}\n{}", self.seed, seen.join("\n"));
            }
            self.step();
        }
        self.since(start)
    }

    /// Runs for a while; fails at once when `good` is not true throughout.
    pub(crate) fn throughout(&mut self, what: &str, time: Duration, good: impl Fn(&Self) -> bool) {
        let start = self.elapsed();
        while self.since(start) < time {
            self.step();
            assert!(good(self), "seed {}: {what} no more after {:?}", self.seed, self.since(start));
        }
    }

    /// Runs for a while.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.throughout("nothing", time, |_| true);
    }
}

/// A small generator of a test's own: what is drawn must not depend on how the code under test draws.
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below this.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % bound
    }
}
