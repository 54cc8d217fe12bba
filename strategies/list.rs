//! `list`: the nodes that were written down, as addresses or DNS names, on the command line or in a file.
//!
//! It announces nothing and asks nobody but the resolver, so it works wherever a TCP connection does: the
//! answer where there is no multicast, and the way into a mesh on another network. One side of a pair is
//! enough: whoever is dialled learns of the dialler.
//!
//! ```text
//! --join hal                                 # hal:4470
//! --join hal:5000 --join 10.0.0.7 --join [fd00::7]:4470
//! --strategy 'list://hal,ida:5000?file=/etc/pillion/nodes&interval=30s'
//! ```
//!
//! | option | default | |
//! | --- | --- | --- |
//! | `file` | none | a file of addresses and names, one per line, `#` starts a comment |
//! | `interval` | the interval of all pollers | how often names are looked up again |
//!
//! - Names are looked up by the system's resolver, which knows `/etc/hosts` and `hal.local`; those it does not know are asked
//!   of the name servers in `/etc/resolv.conf` ([`hosts`] says why).
//! - The port is 4470 where none is written. An IPv6 address with a port stands in brackets.
//! - Every address that a name has is reported, A and AAAA, each as a sighting of its own: behind one name
//!   there may be one node or many, and a node that is found twice is connected to once.
//! - The file is looked at every two seconds and taken when it has not changed for a second, so that a reader
//!   never acts on a half-written one. Only the lines that are gone from a whole, readable file are gone.
//!
//! **What failure looks like.** A name that has no answer keeps its last one and is named in the strategy's
//! health, with what the resolver said; a lookup that takes longer than 30 s is given up and made again. A bad line
//! is named by its number; the other lines count. A file that is missing, cannot be read, or has lines but not one
//! good one keeps its last lines. Nothing here ends the strategy.

pub(crate) mod entry;
mod file;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use self::entry::{Entry, Target};
use self::file::Watched;
use crate::options::{Url, wrong};
use crate::{
    Announcement, Reporter, Running, Sighting, Strategy, StrategyError, Surroundings, hosts,
    problems,
};

/// The mesh port where none is written.
pub const PORT: u16 = 4470;
/// Most addresses taken from one name.
pub const ADDRESSES_PER_NAME_MAX: usize = 256;
/// Most names looked up at a time; each takes a blocking thread while it waits.
const LOOKUPS_MAX: usize = 4;
/// How long one lookup may take before it is given up and the name asked for again. The system's resolver takes about as
/// long until it gives up by itself.
const LOOKUP: Duration = Duration::from_secs(30);

/// What a resolver says of a name.
pub type Answer = io::Result<Vec<SocketAddr>>;
/// Asks for the addresses of a name, with this port.
pub type Resolve =
    Arc<dyn Fn(String, u16) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

/// The strategy `list`. See the [module](self).
pub struct List {
    entries: Vec<Entry>,
    file: Option<PathBuf>,
    interval: Duration,
    /// Asks for the addresses of a name: as [`hosts`] finds them, except in tests.
    resolve: Resolve,
}

impl List {
    pub(crate) fn from_url(url: &Url, surroundings: &Surroundings) -> Result<Self, StrategyError> {
        url.only(&["file", "interval"])?;
        let mut entries = Vec::new();
        for text in url.place.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            let target = Target::parse(text).map_err(wrong)?;
            entries.push(Entry { target, source: format!("list {text}") });
        }
        let file = url.option("file").filter(|path| !path.is_empty()).map(PathBuf::from);
        if entries.is_empty() && file.is_none() {
            return Err(wrong(
                "list has neither an address nor a file: write list://hal:4470 or list://?file=nodes.txt",
            ));
        }
        let interval = url.duration("interval")?.unwrap_or(surroundings.interval);
        let resolve: Resolve =
            Arc::new(|host, port| Box::pin(async move { hosts::lookup(&host, port).await }));
        Ok(Self { entries, file, interval, resolve })
    }

    /// The strategy that `url` asks for, with a resolver of a test's own.
    ///
    /// # Errors
    /// Those of [`build`](crate::build).
    #[cfg(feature = "conformance")]
    pub fn resolving(
        url: &str,
        surroundings: &Surroundings,
        resolve: Resolve,
    ) -> Result<Self, StrategyError> {
        Ok(Self { resolve, ..Self::from_url(&Url::parse(url)?, surroundings)? })
    }

    async fn watch(&self, reporter: &Reporter) {
        let mut file = self.file.clone().map(Watched::new);
        let mut names = Names { interval: self.interval, ..Names::default() };
        let mut look_at_file = Instant::now();
        loop {
            if let Some(file) = &mut file
                && look_at_file <= Instant::now()
            {
                look_at_file = Instant::now() + file.look(Instant::now());
            }
            let entries = || self.entries.iter().chain(file.iter().flat_map(Watched::entries));
            names.keep_only(entries());
            names.start_lookups(&self.resolve);
            report(entries(), file.as_ref(), &names, reporter);

            let due = names.due();
            tokio::select! {
                biased;
                Some(answer) = names.lookups.join_next() => names.on_answer(answer),
                () = sleep_until(look_at_file), if file.is_some() => {}
                () = until(due) => {}
            }
        }
    }
}

impl Strategy for List {
    fn name(&self) -> &'static str {
        "list"
    }

    fn run<'a>(&'a self, _: Announcement, reporter: &'a Reporter) -> Running<'a> {
        Box::pin(async move {
            self.watch(reporter).await;
            Ok(())
        })
    }
}

fn report<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    file: Option<&Watched>,
    names: &Names,
    reporter: &Reporter,
) {
    let mut problems: Vec<String> = file.map(Watched::problems).unwrap_or_default();
    let mut seen = BTreeSet::new();
    let mut sightings = Vec::new();
    for entry in entries {
        let addresses = match &entry.target {
            Target::Address(address) => std::slice::from_ref(address),
            Target::Name(host, port) => {
                let name = names.known.get(&(host.clone(), *port));
                problems.extend(name.and_then(|name| name.problem.clone()));
                name.map_or(&[][..], |name| &name.answer)
            }
        };
        for address in addresses.iter().filter(|address| seen.insert(**address)) {
            sightings.push(Sighting {
                addresses: vec![*address],
                source: entry.source.clone(),
                ..Sighting::default()
            });
        }
    }
    problems::report(reporter, sightings, problems);
}

type NameKey = (String, u16);

/// What the resolver said of each name, and the questions that are under way.
#[derive(Default)]
struct Names {
    known: BTreeMap<NameKey, Name>,
    waiting: VecDeque<NameKey>,
    lookups: JoinSet<(NameKey, Answer)>,
    interval: Duration,
}

struct Name {
    answer: Vec<SocketAddr>,
    problem: Option<String>,
    asked: Instant,
    /// Asked and not answered: it is not asked again before, so that a resolver that hangs costs one thread.
    under_way: bool,
}

impl Names {
    /// Forgets the names that nobody lists any more and takes in the new ones, which are asked for at once.
    fn keep_only<'a>(&mut self, entries: impl Iterator<Item = &'a Entry>) {
        let listed: BTreeSet<NameKey> = entries.filter_map(Entry::name).collect();
        self.known.retain(|name, _| listed.contains(name));
        let now = Instant::now();
        for key in listed {
            if !self.known.contains_key(&key) {
                let problem = Some(format!("the name `{}` is still being looked up", key.0));
                self.known.insert(
                    key.clone(),
                    Name { answer: Vec::new(), problem, asked: now, under_way: true },
                );
                self.waiting.push_back(key);
            }
        }
    }

    fn start_lookups(&mut self, resolve: &Resolve) {
        let now = Instant::now();
        for (key, name) in &mut self.known {
            if now < name.asked + self.interval {
                continue;
            }
            name.asked = now;
            if name.under_way {
                name.problem = Some(format!(
                    "the resolver does not answer for `{}`: check the name server",
                    key.0
                ));
            } else {
                name.under_way = true;
                self.waiting.push_back(key.clone());
            }
        }
        while self.lookups.len() < LOOKUPS_MAX {
            let Some(key) = self.waiting.pop_front() else { break };
            let question = resolve(key.0.clone(), key.1);
            self.lookups.spawn(async move {
                let answer = timeout(LOOKUP, question).await;
                (
                    key,
                    answer
                        .unwrap_or_else(|_| Err(io::Error::other("the resolver does not answer"))),
                )
            });
        }
    }

    fn on_answer(&mut self, answer: Result<(NameKey, Answer), tokio::task::JoinError>) {
        // A lookup that panicked leaves its name as asked; the next interval says that it does not answer.
        let Ok((key, answer)) = answer else { return };
        let Some(name) = self.known.get_mut(&key) else { return };
        name.under_way = false;
        let why = match answer {
            Ok(mut addresses) if !addresses.is_empty() => {
                addresses.sort_unstable();
                addresses.dedup();
                addresses.truncate(ADDRESSES_PER_NAME_MAX);
                name.answer = addresses;
                name.problem = None;
                return;
            }
            Ok(_) => "it has no address".to_owned(),
            Err(error) => error.to_string(),
        };
        let kept = problems::kept(name.answer.len());
        name.problem = Some(format!(
            "the name `{}` cannot be resolved: {why}{kept}. Check the spelling and the name server, or write the address",
            key.0
        ));
    }

    /// When the next name is to be asked for again; never, without names.
    fn due(&self) -> Option<Instant> {
        self.known.values().map(|name| name.asked + self.interval).min()
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::sync::watch;

    use super::*;
    use crate::{Health, Report, build};

    /// A resolver that answers what it is told to.
    #[derive(Clone, Default)]
    struct Resolver(Arc<Mutex<BTreeMap<String, Vec<&'static str>>>>);

    impl Resolver {
        fn says(&self, host: &str, addresses: &[&'static str]) {
            self.0.lock().expect("whole").insert(host.to_owned(), addresses.to_vec());
        }

        fn fails(&self, host: &str) {
            self.0.lock().expect("whole").remove(host);
        }

        fn resolve(&self) -> Resolve {
            let answers = self.0.clone();
            Arc::new(move |host, port| {
                let answer = match answers.lock().expect("whole").get(&host) {
                    Some(addresses) => Ok(addresses
                        .iter()
                        .map(|address| SocketAddr::new(address.parse().expect("an address"), port))
                        .collect()),
                    None => Err(io::Error::other("no such name")),
                };
                Box::pin(async move { answer })
            })
        }
    }

    fn list(url: &str, resolver: &Resolver) -> List {
        let surroundings = Surroundings {
            registry: PathBuf::new(),
            interval: Duration::from_secs(5),
            ..Surroundings::default()
        };
        let url = Url::parse(url).expect("a url");
        let list = List::from_url(&url, &surroundings).expect("a list");
        List { resolve: resolver.resolve(), ..list }
    }

    fn started(list: List) -> (watch::Receiver<Report>, JoinSet<()>) {
        let (reporter, reports) = Reporter::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { list.watch(&reporter).await });
        (reports, tasks)
    }

    fn addresses(report: &Report) -> Vec<String> {
        report.sightings.iter().flat_map(|s| &s.addresses).map(ToString::to_string).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_are_reported_before_any_name_is_resolved() {
        let resolver = Resolver::default();
        let never: Resolve = Arc::new(|_, _| Box::pin(std::future::pending()));
        let list = List { resolve: never, ..list("list://10.0.0.1,slow,[fd00::7]:99", &resolver) };
        let (mut reports, _tasks) = started(list);
        let report =
            reports.wait_for(|r| r.health != Health::Starting).await.expect("alive").clone();
        assert_eq!(addresses(&report), ["10.0.0.1:4470", "[fd00::7]:99"]);
        assert!(matches!(&report.health, Health::Unwell(why) if why.contains("`slow`")));
        let report = reports
            .wait_for(
                |r| matches!(&r.health, Health::Unwell(why) if why.contains("does not answer")),
            )
            .await
            .expect("alive");
        assert_eq!(addresses(&report).len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn every_address_of_a_name_is_a_sighting_of_its_own() {
        let resolver = Resolver::default();
        resolver.says("nodes", &["10.0.0.2", "10.0.0.1", "fd00::1", "10.0.0.2"]);
        let (mut reports, _tasks) = started(list("list://nodes:7,10.0.0.1:7", &resolver));
        let report = reports.wait_for(|r| r.health == Health::Well).await.expect("alive");
        assert_eq!(addresses(&report), ["10.0.0.1:7", "10.0.0.2:7", "[fd00::1]:7"]);
        assert!(report.sightings.iter().all(|s| s.source == "list nodes:7" && s.node.is_none()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_fails_keeps_its_last_answer_and_is_named() {
        let resolver = Resolver::default();
        resolver.says("hal", &["10.0.0.1", "10.0.0.2"]);
        resolver.says("ida", &["10.0.0.3"]);
        let (mut reports, _tasks) = started(list("list://hal,ida", &resolver));
        reports.wait_for(|r| r.health == Health::Well).await.expect("alive");

        resolver.fails("hal");
        let unwell = |r: &Report| matches!(&r.health, Health::Unwell(why) if why.contains("`hal`") && why.contains("no such name"));
        let report = reports.wait_for(unwell).await.expect("alive").clone();
        assert_eq!(addresses(&report).len(), 3);

        resolver.says("hal", &[]);
        let empty =
            |r: &Report| matches!(&r.health, Health::Unwell(why) if why.contains("no address"));
        let report = reports.wait_for(empty).await.expect("alive").clone();
        assert_eq!(addresses(&report).len(), 3);

        resolver.says("hal", &["10.0.0.9"]);
        let report = reports.wait_for(|r| r.health == Health::Well).await.expect("alive");
        assert_eq!(addresses(&report), ["10.0.0.9:4470", "10.0.0.3:4470"]);
    }

    #[tokio::test]
    async fn the_systems_resolver_knows_localhost() {
        let surroundings = Surroundings {
            registry: PathBuf::new(),
            interval: Duration::from_secs(5),
            ..Surroundings::default()
        };
        let list = build("list://localhost:81", &surroundings).expect("a list");
        let (reporter, mut reports) = Reporter::new();
        let announcement = Announcement {
            mesh: "default".into(),
            node: "a@hal".into(),
            incarnation: 1,
            protocol: 1,
            ids: Vec::new(),
            listen: Vec::new(),
            socket: None,
            labels: BTreeMap::new(),
        };
        tokio::select! {
            biased;
            report = reports.wait_for(|r| r.health == Health::Well) => {
                let report = report.expect("alive");
                assert!(report.sightings.iter().all(|s| s.addresses[0].ip().is_loopback()));
                assert!(!report.sightings.is_empty());
            }
            ended = list.run(announcement, &reporter) => panic!("ended: {ended:?}"),
        }
    }
}
