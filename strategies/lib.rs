//! Ways of finding out which nodes exist.
//!
//! A strategy reports *who is visible now*: a whole set each time, under its own name. It never connects,
//! never disconnects, and a strategy that fails keeps its last set: what a failing, empty or partial answer
//! means for the mesh is decided by the reader of [`Report`]s, not here.
//!
//! Nothing in this crate knows what a node does once it is found.
//!
//! | written | finds | announces |
//! | --- | --- | --- |
//! | [`list://hal:4470,ida?file=nodes.txt`](list) | the addresses and DNS names given, or written in a file | no |
//! | [`local://`](local) | the nodes of this user on this machine | yes |
//! | `dns://pillion.example.org` | the addresses behind A, AAAA and SRV names (feature `dns`) | no |
//! | `consul://service` | the instances of a service that Consul knows (feature `consul`) | no |
//! | `postgres://user@host/database` | the nodes that use the same database, by its notifications (feature `postgres`) | yes |
//! | `mdns://` | the nodes on the same network, by multicast (feature `mdns`) | yes |
//! | `kubernetes://?service=web` | the nodes in the pods of a Service, or with a label (feature `kubernetes`) | no |
//! | `gossip://` | the same as mdns, for those who know the mesh's secret only (feature `gossip`) | yes |
//! | `exec:///usr/local/bin/find-nodes` | whatever a program of yours prints (feature `exec`) | no |

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "consul")]
pub mod consul;
#[cfg(feature = "dns")]
pub mod dns;
#[cfg(feature = "exec")]
pub mod exec;
#[cfg(feature = "gossip")]
pub mod gossip;
pub mod hosts;
#[cfg_attr(
    not(any(feature = "mdns", feature = "gossip")),
    allow(dead_code, reason = "who multicasts chooses interfaces")
)]
pub mod interfaces;
pub mod keys;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod list;
pub mod local;
#[cfg(feature = "mdns")]
pub mod mdns;
mod nearest;
mod options;
#[cfg_attr(
    not(any(feature = "mdns", feature = "gossip")),
    allow(dead_code, reason = "who multicasts compares clocks")
)]
mod pace;
pub mod pods;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod problems;
#[cfg(any(
    feature = "dns",
    feature = "consul",
    feature = "postgres",
    feature = "exec",
    feature = "gossip"
))]
mod retry;
#[cfg(any(feature = "mdns", feature = "gossip"))]
mod runs;
#[cfg(feature = "tls")]
mod tls;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

pub use keys::{Key, Keys};
pub use nearest::nearest;
pub use options::redacted;

/// What a node says of itself, for the strategies that tell others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The mesh it belongs to.
    pub mesh: String,
    /// `base@host`.
    pub node: String,
    /// Which run of that name.
    pub incarnation: u64,
    /// Newest protocol it speaks.
    pub protocol: u16,
    /// What it can be recognised by, one per trust root; hints, never proof.
    pub ids: Vec<[u8; 8]>,
    /// Where its mesh port listens; unspecified addresses mean all interfaces.
    pub listen: Vec<SocketAddr>,
    /// Its app socket, for tools on this machine.
    pub socket: Option<PathBuf>,
    /// role, zone and whatever else was given.
    pub labels: BTreeMap<String, String>,
}

/// One node as a strategy sees it. A hint: nothing of it is trusted before the TLS hello, and a source that
/// knows addresses only may give several sightings of one node, or one of ourselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sighting {
    /// `base@host`, where the source knows it.
    pub node: Option<String>,
    /// Which run, where the source knows it.
    pub incarnation: Option<u64>,
    /// The mesh it says it is in, where the source knows it.
    pub mesh: Option<String>,
    /// The `id`s that it announces; empty where the source has none.
    pub ids: Vec<[u8; 8]>,
    /// Where it can be dialled, every one of them.
    pub addresses: Vec<SocketAddr>,
    /// What the source knows of it beyond that: role, zone. The node's own word counts more.
    pub labels: BTreeMap<String, String>,
    /// Where the source got it, for people: `mdns on eth0`, `nodes.txt line 3`.
    pub source: String,
}

/// How a strategy is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Nothing heard from it yet.
    #[default]
    Starting,
    /// Its set is what its source says.
    Well,
    /// Its set is the last one it could get, or may be incomplete; the sentence says why and what to do.
    Unwell(String),
}

/// What a strategy sees now: the whole set, and how sure it is of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Everybody visible now.
    pub sightings: Vec<Sighting>,
    /// How the strategy is doing.
    pub health: Health,
    /// What the source knows of this node itself: the zone it runs in, the labels of its pod.
    pub own_labels: BTreeMap<String, String>,
    /// What was heard and not believed. That it changes is no news: whoever wants to know looks.
    pub ignored: Ignored,
}

/// What strategies that listen to a network hear and do not believe: how often, of each kind, and of whom last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignored(BTreeMap<Why, Heard>);

/// Why something that was heard is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Why {
    /// It makes no sense, or was changed on its way.
    Malformed,
    /// It is sealed with a secret that we do not have.
    Foreign,
    /// It was heard before.
    Replayed,
    /// It was sealed at quite another time than ours.
    Skewed,
}

/// How often something was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// How often.
    pub count: u64,
    /// From where it came last, for people: an address, or what it calls itself. At most 80 characters, printable.
    pub from: String,
    /// When that was.
    pub last: Instant,
}

impl Why {
    /// It in one word, for programs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Foreign => "foreign",
            Self::Replayed => "replayed",
            Self::Skewed => "skewed",
        }
    }
}

impl Ignored {
    /// What was heard at all, in an order that does not change.
    pub fn iter(&self) -> impl Iterator<Item = (Why, &Heard)> {
        self.0.iter().map(|(why, heard)| (*why, heard))
    }
}

/// Where a strategy puts its reports. Only the last one counts; a report equal to the last wakes nobody.
#[derive(Debug)]
pub struct Reporter {
    sender: watch::Sender<Report>,
}

impl Reporter {
    /// A reporter and the place where its reports are read.
    #[must_use]
    pub fn new() -> (Self, watch::Receiver<Report>) {
        let (sender, receiver) = watch::channel(Report::default());
        (Self { sender }, receiver)
    }

    /// Replaces the set: these are visible now, and the source is well.
    pub fn visible(&self, sightings: Vec<Sighting>) {
        self.put(sightings, Health::Well);
    }

    /// Keeps the last set and says what is wrong with the source and what to do about it.
    pub fn unwell(&self, why: impl Into<String>) {
        let sightings = self.sender.borrow().sightings.clone();
        self.put(sightings, Health::Unwell(why.into()));
    }

    /// Replaces the set and still says that something is wrong.
    pub fn visible_but(&self, sightings: Vec<Sighting>, why: impl Into<String>) {
        self.put(sightings, Health::Unwell(why.into()));
    }

    /// Says what the source knows of this node itself; it stays until it is said anew.
    pub fn own_labels(&self, labels: BTreeMap<String, String>) {
        self.sender.send_if_modified(|last| {
            let news = last.own_labels != labels;
            last.own_labels = labels;
            news
        });
    }

    /// Counts something that was heard and is not believed. Nobody is woken for it.
    pub fn ignored(&self, why: Why, from: impl fmt::Display) {
        const FROM_CHARS_MAX: usize = 80;
        let from = from.to_string();
        let from = from.chars().filter(|c| !c.is_control()).take(FROM_CHARS_MAX).collect();
        self.sender.send_if_modified(|last| {
            let count = last.ignored.0.get(&why).map_or(0, |heard| heard.count);
            let heard = Heard { count: count.saturating_add(1), from, last: Instant::now() };
            last.ignored.0.insert(why, heard);
            false
        });
    }

    fn put(&self, sightings: Vec<Sighting>, health: Health) {
        self.sender.send_if_modified(|last| {
            let news = last.sightings != sightings || last.health != health;
            last.sightings = sightings;
            last.health = health;
            news
        });
    }
}

/// What a strategy failed of. The caller starts it again, with capped and jittered backoff.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StrategyError {
    /// The options cannot be meant: wrong for good.
    #[error("{0}")]
    Options(String),
    /// Something outside failed: worth another try.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, to what.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The source failed in its own way: worth another try.
    #[error("{0}")]
    Source(String),
}

/// The future of a running strategy.
pub type Running<'a> = Pin<Box<dyn Future<Output = Result<(), StrategyError>> + Send + 'a>>;

/// A way of finding out which nodes exist.
pub trait Strategy: Send + Sync {
    /// What it is called in logs and in `pillion nodes`: `mdns`, `list`, `local`.
    fn name(&self) -> &str;

    /// Announces this node, where the strategy does that, and reports who is visible, until dropped.
    ///
    /// Dropping the future withdraws the announcement as far as that needs no waiting. It may be called
    /// again after it returned.
    ///
    /// # Errors
    /// [`StrategyError`] when it cannot go on; the last report stays.
    fn run<'a>(&'a self, announcement: Announcement, reporter: &'a Reporter) -> Running<'a>;
}

/// What strategies share of their surroundings.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The directory of the `local` strategy's registry, checked to be ours and private.
    pub registry: PathBuf,
    /// How often pollers look.
    pub interval: Duration,
    /// For those that seal what they send.
    pub keys: Keys,
}

/// The names of the strategies in this build: the one list of them.
pub const NAMES: &[&str] = &[
    "list",
    "local",
    #[cfg(feature = "mdns")]
    "mdns",
    #[cfg(feature = "dns")]
    "dns",
    #[cfg(feature = "kubernetes")]
    "kubernetes",
    #[cfg(feature = "exec")]
    "exec",
    #[cfg(feature = "gossip")]
    "gossip",
    #[cfg(feature = "consul")]
    "consul",
    #[cfg(feature = "postgres")]
    "postgres",
];

/// Makes the strategy that `url` asks for: `list://hal:4470`, `local://`, `mdns://?interface=eth0`; a bare
/// name is the strategy with its defaults.
///
/// # Errors
/// [`StrategyError::Options`] when there is no such strategy or it has no such option; the sentence names
/// the nearest one and all of them.
pub fn build(url: &str, surroundings: &Surroundings) -> Result<Box<dyn Strategy>, StrategyError> {
    let url = options::Url::parse(url)?;
    match url.scheme.as_str() {
        "list" => Ok(Box::new(list::List::from_url(&url, surroundings)?)),
        "local" => Ok(Box::new(local::Local::from_url(&url, surroundings)?)),
        #[cfg(feature = "mdns")]
        "mdns" => Ok(Box::new(mdns::Mdns::from_url(&url)?)),
        #[cfg(not(feature = "mdns"))]
        "mdns" => Err(not_built("mdns")),
        #[cfg(feature = "dns")]
        "dns" => Ok(Box::new(dns::Dns::from_url(&url, surroundings)?)),
        #[cfg(not(feature = "dns"))]
        "dns" => Err(not_built("dns")),
        #[cfg(feature = "kubernetes")]
        "kubernetes" => Ok(Box::new(kubernetes::Kubernetes::from_url(&url, surroundings)?)),
        #[cfg(not(feature = "kubernetes"))]
        "kubernetes" => Err(not_built("kubernetes")),
        #[cfg(feature = "consul")]
        "consul" => Ok(Box::new(consul::Consul::from_url(&url, surroundings)?)),
        #[cfg(not(feature = "consul"))]
        "consul" => Err(not_built("consul")),
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => Ok(Box::new(postgres::Postgres::from_url(&url)?)),
        #[cfg(not(feature = "postgres"))]
        "postgres" | "postgresql" => Err(not_built("postgres")),
        #[cfg(feature = "exec")]
        "exec" => Ok(Box::new(exec::Exec::from_url(&url)?)),
        #[cfg(not(feature = "exec"))]
        "exec" => Err(not_built("exec")),
        #[cfg(feature = "gossip")]
        "gossip" => Ok(Box::new(gossip::Gossip::from_url(&url, surroundings)?)),
        #[cfg(not(feature = "gossip"))]
        "gossip" => Err(not_built("gossip")),
        other => Err(options::unknown("discovery strategy", other, NAMES)),
    }
}

/// There is such a strategy, but not here.
#[cfg(not(all(
    feature = "mdns",
    feature = "dns",
    feature = "kubernetes",
    feature = "exec",
    feature = "gossip",
    feature = "consul",
    feature = "postgres"
)))]
fn not_built(name: &str) -> StrategyError {
    StrategyError::Options(format!(
        "this build of pillion has no {name}: it was built without the feature `{name}`"
    ))
}

/// Says whether [`build`] would take `url`, without having anything to build it with.
///
/// # Errors
/// Those of [`build`].
pub fn check(url: &str) -> Result<(), StrategyError> {
    build(url, &Surroundings::default()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        let surroundings = Surroundings { registry: "/nowhere".into(), ..Surroundings::default() };
        match build(url, &surroundings) {
            Ok(strategy) => panic!("{url} was taken as {}", strategy.name()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_name_in_the_list_builds_bare_and_as_a_url() {
        let surroundings = Surroundings { registry: "/nowhere".into(), ..Surroundings::default() };
        for name in NAMES {
            let place = match *name {
                "list" | "dns" | "consul" => "hal",
                "postgres" => "shop@hal/shop",
                "exec" => "/bin/true",
                _ => "",
            };
            let built = build(&format!("{name}://{place}"), &surroundings).expect(name);
            assert_eq!(built.name(), *name);
            if place.is_empty() {
                assert_eq!(build(name, &surroundings).expect(name).name(), *name);
            }
        }
    }

    #[test]
    fn an_unknown_strategy_is_refused_with_the_nearest_and_the_whole_list() {
        let said = refused("lokal://");
        assert!(said.contains("did you mean `local`"), "{said}");
        assert!(NAMES.iter().all(|name| said.contains(name)), "{said}");
    }

    #[test]
    fn an_unknown_option_is_refused_with_the_nearest_and_the_whole_list() {
        let said = refused("list://hal?fille=nodes.txt");
        assert!(said.contains("did you mean `file`") && said.contains("interval"), "{said}");
        let said = refused("local://?x=1");
        assert!(said.contains("no options"), "{said}");
    }

    #[test]
    fn options_that_cannot_be_meant_are_refused_in_words() {
        assert!(refused("list://hal?interval=soon").contains("5s"));
        assert!(refused("list://").contains("list://hal:4470"));
        assert!(refused("list://hal:99999").contains("hal:99999"));
        assert!(refused("list://hal?file=a&file=b").contains("twice"));
        assert!(refused("list://hal?file=%zz").contains("%zz"));
        assert!(refused("").contains("list"));
    }
}
