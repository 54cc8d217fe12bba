//! `consul`: the nodes that Consul knows as instances of a service, through its HTTP API.
//!
//! It announces nothing: the service is registered by what registers services anyway, such as Nomad, a file of the agent,
//! or the app. One side of a pair is enough: whoever is dialled learns of the dialler. (Consul also answers DNS: with
//! [`dns`](crate::dns) no API is needed, `dns://_pillion._tcp.service.consul.?server=127.0.0.1:8600`.)
//!
//! ```text
//! --strategy consul://pillion                      # the agent on this machine, instances that pass their checks
//! --strategy 'consul://pillion?url=https://consul.example.org:8501&ca=/etc/consul/ca.pem&token-file=/run/secrets/consul'
//! --strategy 'consul://pillion?using=catalog&dc=eu&tag=blue,mesh&port=4470'
//!
//! # what registers the service, in a file of the agent
//! service { name = "pillion"  port = 4470  check { tcp = "127.0.0.1:4470"  interval = "10s" } }
//! ```
//!
//! | option | default | |
//! | --- | --- | --- |
//! | `url` | `http://127.0.0.1:8500` | where the API is; `https://` is TLS 1.3 with the system's roots |
//! | `ca` | the system's roots | a PEM file of those that are believed for `https://` |
//! | `using` | `health` | `health`: instances that pass their checks; `catalog`: all that are registered |
//! | `dc` | the agent's | the datacenter |
//! | `tag` | any | only instances with this tag; several with commas: with all of them |
//! | `port` | the service's, or 4470 where it has none | the mesh port |
//! | `token` | none | the ACL token |
//! | `token-file` | none | a file with the token, read again for every question |
//! | `wait` | 1m | how long Consul may hold a question that has no new answer, at most 10m |
//!
//! - A question waits at Consul until the answer changes (a *blocking query*), so news come at once and nothing is asked
//!   in between. Where questions are not held, they are asked in the interval of all pollers.
//! - The address is the service's, else that of its node; host names are resolved as the system does it, sixteen at most,
//!   and keep their last addresses when that fails. Every address is a sighting of its own: a node that is found twice is connected to once.
//! - Consul says where to dial; the TLS hello proves who is there.
//!
//! **Permissions.** With ACLs the token needs `service "pillion" { policy = "read" }` and
//! `node_prefix "" { policy = "read" }`. Without the second Consul leaves instances out and says so, and so does the
//! strategy's health.
//!
//! **What failure looks like.** An agent that refuses, has no leader, answers with an error or with what cannot be read, or
//! does not answer in `wait` and ten seconds keeps the last set, and the health says what it said and what to do. It is
//! asked again after half a second, later and later up to every 30 s. An answer with nobody is an answer: Consul gives
//! none while it has no leader. Nothing here ends the strategy.

mod api;
mod http;
#[cfg(all(test, feature = "conformance"))]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use self::api::{Answer, Fetch, Question};
use self::http::Client;
use crate::hosts;
use crate::list::PORT;
use crate::options::{Url, unknown, wrong};
use crate::retry::{Retry, spread};
use crate::{
    Announcement, Reporter, Running, Sighting, Strategy, StrategyError, Surroundings, problems,
};

/// Most instances that are taken from an answer.
pub const INSTANCES_MAX: usize = 4096;
/// How long a question may wait where nothing else is asked for.
const WAIT: Duration = Duration::from_secs(60);
/// The longest that Consul waits.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// How much longer than it was asked to wait it may take.
const ANSWER: Duration = Duration::from_secs(10);
/// The least time between two questions, however often the answer changes.
const PAUSE: Duration = Duration::from_millis(250);
/// The waits after failures.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long the resolver may take for the host name of an instance.
const LOOKUP: Duration = Duration::from_secs(5);
/// Most host names that are resolved for one answer, one after the other.
const LOOKUPS_MAX: usize = 16;

/// The strategy `consul`. See the [module](self).
pub struct Consul {
    service: String,
    port: Option<u16>,
    wait: Duration,
    interval: Duration,
    /// Asks one question; the API, except in tests.
    fetch: Fetch,
}

impl Consul {
    pub(crate) fn from_url(url: &Url, surroundings: &Surroundings) -> Result<Self, StrategyError> {
        url.only(&["url", "ca", "using", "dc", "tag", "port", "token", "token-file", "wait"])?;
        let service = url.place.clone();
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '/';
        if service.is_empty() || !service.chars().all(plain) {
            return Err(wrong(format!(
                "`{service}` is no service of Consul: write its name as in consul://pillion"
            )));
        }
        let is_catalog = match url.option("using").unwrap_or("health") {
            "health" => false,
            "catalog" => true,
            other => return Err(unknown("`using` of consul", other, &["health", "catalog"])),
        };
        let port = url.option("port").map(|text| {
            text.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
                wrong(format!("`port={text}` is not a port: write a number from 1 to 65535"))
            })
        });
        let wait = url.duration("wait")?.unwrap_or(WAIT);
        if wait > WAIT_MAX {
            return Err(wrong("`wait` of consul is more than 10m, which Consul does not do"));
        }
        if url.option("token").is_some() && url.option("token-file").is_some() {
            return Err(wrong("consul has both `token` and `token-file`: leave one out"));
        }
        let tags = url.option("tag").unwrap_or_default().split(',').map(str::trim);
        let tags: Vec<String> = tags.filter(|tag| !tag.is_empty()).map(str::to_owned).collect();
        let query = api::Query {
            service: service.clone(),
            is_catalog,
            datacenter: url.option("dc").map(str::to_owned),
            tags,
        };
        let client = Arc::new(Client::new(
            url.option("url").unwrap_or("http://127.0.0.1:8500"),
            url.option("ca").map(PathBuf::from),
            url.option("token").map(str::to_owned),
            url.option("token-file").map(PathBuf::from),
        )?);
        let fetch: Fetch = Arc::new(move |question| {
            let (client, path) = (Arc::clone(&client), query.path(question));
            let service = query.service.clone();
            Box::pin(async move { api::read(client.get(&path).await?, &service) })
        });
        Ok(Self { service, port: port.transpose()?, wait, interval: surroundings.interval, fetch })
    }

    async fn watch(&self, reporter: &Reporter) {
        let mut retry = Retry::new(RETRY.0, RETRY.1);
        let mut index = 0;
        let mut hosts = Hosts::new();
        loop {
            let asked = Instant::now();
            // Consul adds up to a sixteenth of the wait by itself.
            let patience = if index == 0 { ANSWER } else { self.wait + self.wait / 16 + ANSWER };
            let question = Question { index, wait: self.wait };
            let answer = match timeout(patience, (self.fetch)(question)).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("Consul does not answer within {} s", patience.as_secs())),
            };
            let pause = match answer {
                Ok(answer) => {
                    retry.succeeded();
                    let is_news = answer.index != index;
                    // An index that goes back belongs to another history, and 0 would not wait.
                    index = if answer.index < index { 0 } else { answer.index };
                    self.report(answer, &mut hosts, reporter).await;
                    let pause = if is_news && index != 0 { PAUSE } else { self.interval };
                    spread(pause.max(PAUSE)).saturating_sub(asked.elapsed())
                }
                Err(why) => {
                    index = 0;
                    reporter.unwell(format!(
                        "the service `{}`: {why}{}",
                        self.service, "; what was known of it stays"
                    ));
                    retry.after_failure()
                }
            };
            sleep(pause).await;
        }
    }

    async fn report(&self, answer: Answer, hosts: &mut Hosts, reporter: &Reporter) {
        let Answer { instances, problem, .. } = answer;
        let mut problems: Vec<String> = problem.into_iter().collect();
        let mut before = std::mem::take(hosts);
        let mut seen = BTreeSet::new();
        let mut sightings = Vec::new();
        for instance in instances.into_iter().take(INSTANCES_MAX) {
            let port = self.port.or(instance.port).unwrap_or(PORT);
            let ips = match instance.host.parse() {
                Ok(ip) => vec![ip],
                Err(_) => {
                    let host = instance.host;
                    if !hosts.contains_key(&host) && hosts.len() < LOOKUPS_MAX {
                        let known = before.remove(&host);
                        let ips = resolved(&host).await.unwrap_or_else(|why| {
                            problems.push(why);
                            known.unwrap_or_default()
                        });
                        hosts.insert(host.clone(), ips);
                    }
                    hosts.get(&host).cloned().unwrap_or_else(|| {
                        problems.push(format!(
                            "more than {LOOKUPS_MAX} instances have host names, and the rest of them is left out. Register IP addresses"
                        ));
                        Vec::new()
                    })
                }
            };
            for ip in ips {
                let address = SocketAddr::new(ip, port);
                let is_good = !ip.is_unspecified() && !ip.is_multicast();
                if is_good && seen.insert(address) {
                    sightings.push(Sighting {
                        addresses: vec![address],
                        source: format!("consul {} on {}", self.service, instance.node),
                        ..Sighting::default()
                    });
                }
            }
        }
        sightings.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        problems::report(reporter, sightings, problems);
    }
}

/// What the resolver said last of the host names of instances.
type Hosts = BTreeMap<String, Vec<IpAddr>>;

impl Strategy for Consul {
    fn name(&self) -> &'static str {
        "consul"
    }

    fn run<'a>(&'a self, _: Announcement, reporter: &'a Reporter) -> Running<'a> {
        Box::pin(async move {
            self.watch(reporter).await;
            Ok(())
        })
    }
}

async fn resolved(host: &str) -> Result<Vec<IpAddr>, String> {
    let shown: String = host.chars().take(80).flat_map(char::escape_debug).collect();
    let bad = |why: String| {
        format!(
            "the address `{shown}` of an instance cannot be resolved: {why}. Register an IP address"
        )
    };
    match timeout(LOOKUP, hosts::lookup(host, 0)).await {
        Ok(Ok(addresses)) => Ok(addresses.iter().map(SocketAddr::ip).collect()),
        Ok(Err(error)) => Err(bad(error.to_string())),
        Err(_) => Err(bad("the resolver does not answer".into())),
    }
}
