//! `dns`: the nodes behind DNS names, as A, AAAA and SRV records name them, asked for again when an answer's time ends.
//!
//! It announces nothing: something else keeps the records, such as a Kubernetes headless service, Consul, Nomad, Docker,
//! or a zone of one's own. One side of a pair is enough: whoever is dialled learns of the dialler.
//!
//! ```text
//! --strategy dns://pillion.shop.svc.cluster.local.              # a headless service: A and AAAA, port 4470
//! --strategy dns://_mesh._tcp.pillion.shop.svc.cluster.local.   # its SRV records: host and port of every pod
//! --strategy 'dns://tasks.stock:5000?interval=2s&hold=10m'      # another port, asked for more often, kept for longer
//! --strategy 'dns://a.example.org,b.example.org?server=10.0.0.53,[fd00::53]:5353'
//! ```
//!
//! | option | default | |
//! | --- | --- | --- |
//! | `type` | by the name | `a`, `aaaa`, `srv`, several with commas, or `all`; a name that begins with `_` is asked for `srv`, another one for `a,aaaa` |
//! | `interval` | the interval of all pollers | the shortest time between two questions for one name |
//! | `hold` | 2m, or 10m for a name whose answers rotate | how long an address stays after an answer first came without it; at least three answers without it in any case |
//! | `server` | those of `resolv-conf` | the name servers to ask, `IP` or `IP:PORT`, separated by commas; search domains do not count then |
//! | `resolv-conf` | `/etc/resolv.conf` | where name servers, search domains, `ndots`, `timeout` and `attempts` are read; read anew before every question, so that it may appear or change later |
//!
//! - The port is 4470 where none is written. SRV records have their own.
//! - Every address is reported as a sighting of its own: behind one name there may be one node or many, and a node that
//!   is found twice is connected to once. The node itself is usually among them, and recognised.
//! - A name is asked for again when the time to live of its answer ends: not before `interval`, and after a minute at the
//!   latest. Answers of `A`, `AAAA` and `SRV` count each for itself; aliases (CNAME) are followed, an answer that was cut
//!   off is asked for again over TCP, and targets of SRV records without addresses beside them are asked for too.
//! - *Answers that rotate remove nobody.* Many servers answer with a part of their addresses only, another one each
//!   time. An address leaves the set when it was missing for `hold` and from three answers in a row. One that was
//!   missing and came back shows that the name rotates.
//! - A name ends with a dot or is completed by the search domains: `dns://pillion` is found in the own namespace of
//!   Kubernetes. The dot saves questions. Names of `/etc/hosts` are for [`list`](crate::list), not for this.
//! - Nothing authenticates DNS here. It says where to dial, and the TLS hello proves who is there.
//!
//! In Kubernetes the service must be headless (`clusterIP: None`), and with `publishNotReadyAddresses: true` pods find
//! each other before they are ready. SRV records exist for named ports; for a StatefulSet each names its pod. It needs
//! no permission and no API server.
//!
//! **What failure looks like.** No answer, an error, an answer that cannot be read, and one that says that there is no
//! such name or nobody: each keeps the last addresses for as long as it lasts, and is told in the strategy's health with
//! the name and what the server said. It is asked again after a quarter of a second, later and later up to `interval`. A
//! missing `resolv.conf` is waited for. Nothing here ends the strategy.

mod ask;
mod seen;
pub(crate) mod servers;
mod system;
#[cfg(all(test, feature = "conformance"))]
mod tests;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use self::ask::{Failure, Found, Kind, Lookup, Query};
use self::seen::Seen;
use self::system::System;
use crate::list::entry::Target;
use crate::options::{Url, unknown, wrong};
use crate::retry::{Retry, spread};
use crate::{
    Announcement, Reporter, Running, Sighting, Strategy, StrategyError, Surroundings, problems,
};

/// Most names in one strategy.
pub const NAMES_MAX: usize = 64;
/// Most addresses taken from one answer.
pub const ADDRESSES_PER_ANSWER_MAX: usize = 1024;
/// Most names that are asked for at a time.
const ROUNDS_MAX: usize = 8;
/// The longest time until a name is asked for again, whatever its answers say.
const TTL_MAX: Duration = Duration::from_secs(60);
/// The first wait after a failure.
const RETRY_FIRST: Duration = Duration::from_millis(250);

/// The strategy `dns`. See the [module](self).
pub struct Dns {
    queries: Vec<Query>,
    interval: Duration,
    hold: Option<Duration>,
    /// Asks one question; the system's name servers, except in tests.
    lookup: Lookup,
}

impl Dns {
    pub(crate) fn from_url(url: &Url, surroundings: &Surroundings) -> Result<Self, StrategyError> {
        url.only(&["type", "interval", "hold", "server", "resolv-conf"])?;
        let kinds = url.option("type").map(kinds).transpose()?;
        let mut queries: Vec<Query> = Vec::new();
        for text in url.place.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            let query = query(text, kinds.as_ref())?;
            if !queries.contains(&query) {
                queries.push(query);
            }
        }
        if queries.is_empty() {
            return Err(wrong(
                "dns has no name to ask for: write dns://pillion.example.org, or several with commas",
            ));
        }
        if queries.len() > NAMES_MAX {
            return Err(wrong(format!("dns has more than {NAMES_MAX} names: name a few of them")));
        }
        let system = match (url.option("server"), url.option("resolv-conf")) {
            (Some(_), Some(_)) => {
                return Err(wrong(
                    "dns has both `server` and `resolv-conf`, and either says whom to ask: leave one out",
                ));
            }
            (Some(servers), None) => System::of_servers(servers)?,
            (None, file) => System::of_file(PathBuf::from(file.unwrap_or(system::RESOLV_CONF))),
        };
        let system = Arc::new(system);
        let lookup: Lookup = Arc::new(move |question| {
            let system = Arc::clone(&system);
            Box::pin(async move { system.ask(question).await })
        });
        // Zero is for those who only want to know whether the url is good.
        let interval = url.duration("interval")?.unwrap_or(surroundings.interval);
        Ok(Self { queries, interval, hold: url.duration("hold")?, lookup })
    }

    async fn watch(&self, reporter: &Reporter) {
        let mut names: Vec<Name> =
            self.queries.iter().map(|query| Name::new(query, self.interval)).collect();
        let mut rounds: Rounds = JoinSet::new();
        loop {
            let now = Instant::now();
            for (at, name) in names.iter_mut().enumerate() {
                if name.under_way.is_none() && name.next <= now && rounds.len() < ROUNDS_MAX {
                    let round = ask::round(Arc::clone(&self.lookup), self.queries[at].clone());
                    let task = rounds.spawn(async move { (at, round.await) });
                    name.under_way = Some(task.id());
                }
            }
            self.report(&names, reporter);
            let due = names.iter().filter(|name| name.under_way.is_none()).map(|name| name.next);
            let due = due.min().filter(|_| rounds.len() < ROUNDS_MAX);
            tokio::select! {
                biased;
                Some(round) = rounds.join_next() => self.on_round(&mut names, round),
                () = until(due) => {}
            }
        }
    }

    fn on_round(&self, names: &mut [Name], round: Result<(usize, Vec<Part>), JoinError>) {
        let now = Instant::now();
        match round {
            Ok((at, parts)) => {
                let wait = names[at].on_parts(&self.queries[at], parts, self.interval, self.hold);
                names[at].under_way = None;
                names[at].next = now + wait;
            }
            // The library broke down over it; the name is asked for again.
            Err(error) => {
                if let Some(name) = names.iter_mut().find(|n| n.under_way == Some(error.id())) {
                    name.under_way = None;
                    name.next = now + name.retry.after_failure();
                }
            }
        }
    }

    fn report(&self, names: &[Name], reporter: &Reporter) {
        // Before anything was answered there is nothing to say.
        if names.iter().all(|name| name.asking_first) {
            return;
        }
        let mut problems = Vec::new();
        let mut taken = BTreeSet::new();
        let mut sightings = Vec::new();
        for (query, name) in self.queries.iter().zip(names) {
            if name.asking_first {
                problems.push(format!("the name `{}` is still being asked for", query.name));
            }
            problems.extend(name.problem.iter().cloned());
            for (address, source) in name.parts.iter().flat_map(|(_, seen)| seen.addresses()) {
                if taken.insert(address) {
                    sightings.push(Sighting {
                        addresses: vec![address],
                        source: format!("dns {source}"),
                        ..Sighting::default()
                    });
                }
            }
        }
        problems::report(reporter, sightings, problems);
    }
}

impl Strategy for Dns {
    fn name(&self) -> &'static str {
        "dns"
    }

    fn run<'a>(&'a self, _: Announcement, reporter: &'a Reporter) -> Running<'a> {
        Box::pin(async move {
            self.watch(reporter).await;
            Ok(())
        })
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What became of one kind of question.
type Part = (Kind, Result<Found, Failure>);
type Rounds = JoinSet<(usize, Vec<Part>)>;

/// A name and what was answered for it so far.
struct Name {
    parts: Vec<(Kind, Seen)>,
    problem: Option<String>,
    asking_first: bool,
    under_way: Option<Id>,
    next: Instant,
    retry: Retry,
}

impl Name {
    fn new(query: &Query, interval: Duration) -> Self {
        Self {
            parts: query.kinds.iter().map(|kind| (*kind, Seen::default())).collect(),
            problem: None,
            asking_first: true,
            under_way: None,
            next: Instant::now(),
            retry: Retry::new(RETRY_FIRST.min(interval), interval),
        }
    }

    /// Takes in the answers of one round and says when to ask again.
    fn on_parts(
        &mut self,
        query: &Query,
        parts: Vec<Part>,
        interval: Duration,
        hold: Option<Duration>,
    ) -> Duration {
        self.asking_first = false;
        let now = Instant::now();
        // That there is no AAAA beside an A says nothing; that there is nothing at all is taken for a failure.
        let has_answer = parts.iter().any(|(_, part)| part.is_ok());
        let mut ttl = TTL_MAX;
        let mut failed = false;
        let mut whys: Vec<String> = Vec::new();
        for (kind, part) in parts {
            let Some((_, seen)) = self.parts.iter_mut().find(|(known, _)| *known == kind) else {
                continue;
            };
            match part {
                Ok(found) => {
                    ttl = ttl.min(found.ttl);
                    whys.extend(found.troubles.values().cloned());
                    seen.on_answer(found, now, hold);
                }
                Err(Failure::NoRecords(_)) if has_answer => {
                    seen.on_answer(Found::nobody(), now, hold);
                }
                Err(Failure::NoRecords(why)) => whys.push(why),
                Err(Failure::Failed(why)) => {
                    failed = true;
                    whys.push(why);
                }
            }
        }
        whys.sort();
        whys.dedup();
        if !has_answer || failed {
            let known = self.parts.iter().map(|(_, seen)| seen.len()).sum();
            self.problem = Some(format!(
                "the name `{}` cannot be resolved: {}{}. Check the spelling, the service and the name server",
                query.name,
                whys.join(", and "),
                problems::kept(known)
            ));
            return self.retry.after_failure();
        }
        self.problem = whys.first().map(|why| {
            format!(
                "the name `{}`: {why}; what was known of it stays. Check its records",
                query.name
            )
        });
        self.retry.succeeded();
        // Later by a little, never earlier: what is cached on the way has run out then.
        let wait = ttl.max(interval);
        wait + (wait / 4).saturating_sub(spread(wait) / 4)
    }
}

fn kinds(text: &str) -> Result<BTreeSet<Kind>, StrategyError> {
    let mut kinds = BTreeSet::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match word.to_ascii_lowercase().as_str() {
            "a" => drop(kinds.insert(Kind::A)),
            "aaaa" => drop(kinds.insert(Kind::Aaaa)),
            "srv" => drop(kinds.insert(Kind::Srv)),
            "all" => kinds.extend([Kind::A, Kind::Aaaa, Kind::Srv]),
            _ => return Err(unknown("type of dns", word, &["a", "aaaa", "srv", "all"])),
        }
    }
    if kinds.is_empty() {
        return Err(wrong("`type` of dns is empty: write a, aaaa, srv or all, or leave it out"));
    }
    Ok(kinds)
}

fn query(text: &str, kinds: Option<&BTreeSet<Kind>>) -> Result<Query, StrategyError> {
    let (name, port) = match Target::parse(text).map_err(wrong)? {
        Target::Name(name, port) => (name, port),
        Target::Address(address) => {
            return Err(wrong(format!(
                "`{text}` is an address and needs no DNS: write list://{address}"
            )));
        }
    };
    let by_name =
        || if name.starts_with('_') { vec![Kind::Srv] } else { vec![Kind::A, Kind::Aaaa] };
    let kinds = kinds.map_or_else(by_name, |kinds| kinds.iter().copied().collect());
    if kinds == [Kind::Srv] && text.contains(':') {
        return Err(wrong(format!(
            "`{text}` has a port, and SRV records say their own: write {name}, or type=a for its addresses"
        )));
    }
    Ok(Query { name, port, kinds })
}
