//! One question, and one round of questions for a name.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::ADDRESSES_PER_ANSWER_MAX;

/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(10);
/// How long all questions of one round may take: those for the targets of SRV records are many.
const ROUND: Duration = Duration::from_secs(30);
/// Most targets that are asked for at a time.
const TARGETS_AT_ONCE: usize = 8;

/// A name that was written, and what to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) kinds: Vec<Kind>,
}

/// A type of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    A,
    Aaaa,
    Srv,
}

/// What a name server is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// What it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// Of A and AAAA records.
    pub(super) addresses: Vec<IpAddr>,
    /// Of SRV records: the target, which ends with a dot, and the port.
    pub(super) targets: Vec<(String, u16)>,
    /// What it says of targets beside that, unasked.
    pub(super) beside: Vec<(String, IpAddr)>,
    /// How long all of it holds.
    pub(super) ttl: Duration,
}

/// Why there is no answer; the sentence is a clause without a subject's capital and a full stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server knows, and there is none.
    NoRecords(String),
    /// The server was not reached, or does not know.
    Failed(String),
}

impl Failure {
    fn why(self) -> String {
        match self {
            Self::NoRecords(why) | Self::Failed(why) => why,
        }
    }
}

/// The library panicked over a question.
fn broke_down() -> Failure {
    Failure::Failed("the resolver broke down over the question".into())
}

pub(super) type Answering = Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send>>;
/// Asks one question.
pub(super) type Lookup = Arc<dyn Fn(Question) -> Answering + Send + Sync>;

/// What a name has, by one kind of question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) addresses: BTreeMap<SocketAddr, Spot>,
    /// The targets whose addresses could not be had, with the reason.
    pub(super) troubles: BTreeMap<String, String>,
    pub(super) ttl: Duration,
}

/// Where an address was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    /// For people.
    pub(super) source: String,
    /// The host that an SRV record names; empty for other records.
    pub(super) target: String,
}

impl Found {
    pub(super) fn nobody() -> Self {
        Self::default()
    }

    fn put(&mut self, ip: IpAddr, port: u16, source: &str, target: &str) {
        let is_usable = !ip.is_unspecified() && !ip.is_multicast() && port != 0;
        if is_usable && self.addresses.len() < ADDRESSES_PER_ANSWER_MAX {
            let spot = Spot { source: source.to_owned(), target: target.to_owned() };
            self.addresses.insert(SocketAddr::new(ip, port), spot);
        }
    }
}

/// Asks everything that is to be known of `query`, at the same time.
pub(super) async fn round(lookup: Lookup, query: Query) -> Vec<super::Part> {
    let end = Instant::now() + ROUND;
    let mut questions = JoinSet::new();
    for kind in &query.kinds {
        let (lookup, query, kind) = (Arc::clone(&lookup), query.clone(), *kind);
        questions.spawn(async move { (kind, part(&lookup, &query, kind, end).await) });
    }
    let mut parts: Vec<super::Part> = Vec::new();
    while let Some(part) = questions.join_next().await {
        parts.extend(part);
    }
    let lost = query.kinds.iter().filter(|kind| !parts.iter().any(|(known, _)| known == *kind));
    let lost: Vec<super::Part> = lost.map(|kind| (*kind, Err(broke_down()))).collect();
    parts.extend(lost);
    parts
}

async fn part(lookup: &Lookup, query: &Query, kind: Kind, end: Instant) -> Result<Found, Failure> {
    let answer = ask(lookup, Question { name: query.name.clone(), kind }, end).await?;
    let mut found = Found { ttl: answer.ttl, ..Found::default() };
    let source = query.name.trim_end_matches('.');
    if kind == Kind::Srv {
        resolve(lookup, answer, source, end, &mut found).await;
    } else {
        answer.addresses.iter().for_each(|ip| found.put(*ip, query.port, source, ""));
    }
    if found.addresses.is_empty() && found.troubles.is_empty() {
        return Err(Failure::NoRecords("the answer has no address that can be dialled".into()));
    }
    Ok(found)
}

/// Finds the addresses of the targets of SRV records.
async fn resolve(lookup: &Lookup, answer: Answer, source: &str, end: Instant, found: &mut Found) {
    let mut beside: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
    for (name, ip) in answer.beside {
        beside.entry(name).or_default().insert(ip);
    }
    let mut ports: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
    for (target, port) in answer.targets.into_iter().take(ADDRESSES_PER_ANSWER_MAX) {
        ports.entry(target).or_default().insert(port);
    }
    let mut to_ask: Vec<String> =
        ports.keys().filter(|target| !beside.contains_key(*target)).rev().cloned().collect();
    let mut asked = JoinSet::new();
    loop {
        while asked.len() < TARGETS_AT_ONCE
            && let Some(target) = to_ask.pop()
        {
            let lookup = Arc::clone(lookup);
            asked.spawn(async move {
                let question = |kind| Question { name: target.clone(), kind };
                let a = ask(&lookup, question(Kind::A), end);
                let aaaa = ask(&lookup, question(Kind::Aaaa), end);
                let answers = tokio::join!(a, aaaa);
                (target, answers)
            });
        }
        let Some(answered) = asked.join_next().await else { break };
        let Ok((target, (a, aaaa))) = answered else { continue };
        // A server that knows of none is believed only when the other kind of address is there.
        let has_one = a.is_ok() || aaaa.is_ok();
        for answer in [a, aaaa] {
            match answer {
                Ok(answer) => {
                    found.ttl = found.ttl.min(answer.ttl);
                    beside.entry(target.clone()).or_default().extend(answer.addresses);
                }
                Err(Failure::NoRecords(_)) if has_one => {}
                Err(failure) => {
                    let why = format!(
                        "the host `{target}` of its SRV record has no address: {}",
                        failure.why()
                    );
                    found.troubles.insert(target.clone(), why);
                }
            }
        }
    }
    for (target, ports) in &ports {
        if !beside.contains_key(target) {
            found.troubles.entry(target.clone()).or_insert_with(|| broke_down().why());
        }
        let source = format!("{source}: {}", target.trim_end_matches('.'));
        for ip in beside.get(target).into_iter().flatten() {
            ports.iter().for_each(|port| found.put(*ip, *port, &source, target));
        }
    }
}

async fn ask(lookup: &Lookup, question: Question, end: Instant) -> Result<Answer, Failure> {
    let end = end.min(Instant::now() + QUESTION);
    match timeout_at(end, lookup(question)).await {
        Ok(answer) => answer,
        Err(_) => Err(Failure::Failed(format!(
            "no answer from the name server in {} s",
            QUESTION.as_secs()
        ))),
    }
}
