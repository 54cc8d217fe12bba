//! Messages per second and what each costs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::process::{Trouble, Worker, cpu_ns_of};
use super::publisher::{self, Published, Say};
use super::responder::RoundTrips;
use super::role::{Ready, Role};
use super::sample::{float, seconds};
use super::subscriber::{self, Delivered, Hears};
use super::way::{Nodes, Pair, SINK};

/// Bound for a client's set-up.
pub(super) const READY_WITHIN: Duration = Duration::from_secs(60);
/// How much longer than it should a cell may take.
pub(super) const LATE_MAX: Duration = Duration::from_secs(30);

/// What one cell found.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    /// Messages that were published.
    pub published: u64,
    /// Delivered messages per second.
    pub rate: f64,
    /// Seconds of processor of the nodes for each.
    pub cpu: Option<f64>,
    /// The same of all processes, the clients too.
    pub cpu_all: Option<f64>,
    /// How long the messages were under way, where they were sent at a rate.
    pub trips: Option<RoundTrips>,
}

/// Sends through a pair for a while.
///
/// # Errors
/// When anything fails, and when not all that was published was delivered.
pub(super) fn measure(
    pair: &Pair,
    nodes: Nodes,
    body_bytes: usize,
    secs: f64,
) -> Result<Sent, Trouble> {
    Course {
        enter: pair.enter(),
        leave: vec![pair.leave(nodes).to_owned()],
        ids: pair.ids(nodes),
        say: Say::Send { to: pair.address(SINK, nodes) },
        hears: Hears::Name(SINK.to_owned()),
        publishers: 1,
        body_bytes,
        seconds: secs,
        rate: None,
    }
    .run()
}

/// Who sends what through which nodes to whom.
#[derive(Clone, Debug)]
pub(super) struct Course<'a> {
    /// Where publishers connect.
    pub enter: &'a Path,
    /// Where subscribers connect, each of them once.
    pub leave: Vec<PathBuf>,
    /// The nodes that messages pass.
    pub ids: &'a [u32],
    /// What is sent.
    pub say: Say,
    /// What each subscriber hears.
    pub hears: Hears,
    /// How many publish.
    pub publishers: u16,
    /// Size of each body.
    pub body_bytes: usize,
    /// For how long.
    pub seconds: f64,
    /// Messages per second of all publishers together; as many as they can where there is none.
    pub rate: Option<f64>,
}

impl Course<'_> {
    /// What one of the publishers has to know.
    #[must_use]
    pub(super) fn publisher(&self, own: u16) -> publisher::Spec {
        publisher::Spec {
            socket: self.enter.to_owned(),
            say: self.say.clone(),
            own,
            body_bytes: self.body_bytes,
            seconds: self.seconds,
            rate: self.rate.map(|rate| rate / f64::from(self.publishers)),
            refusable: false,
        }
    }

    /// What its subscribers have to know.
    #[must_use]
    pub(super) fn subscriber(&self) -> subscriber::Spec {
        subscriber::Spec {
            sockets: self.leave.clone(),
            hears: self.hears.clone(),
            wait: true,
            publishers: self.publishers,
            body_bytes: self.body_bytes,
            pace: None,
        }
    }

    /// Sends for a while: all subscribers in one process, each publisher in one of its own.
    ///
    /// # Errors
    /// When anything fails, and when not all that was published was delivered to each.
    pub(super) fn run(&self) -> Result<Sent, Trouble> {
        let mut sink = Worker::start(&Role::Subscriber(self.subscriber()).argument())?;
        let Ready::Ready = sink.hear("subscriber", READY_WITHIN)?;
        let mut sources = Vec::new();
        for own in 0..self.publishers {
            let source = Worker::start(&Role::Publisher(self.publisher(own)).argument())?;
            let Ready::Ready = source.hear("publisher", READY_WITHIN)?;
            sources.push(source);
        }
        let clients = sources.iter().chain([&sink]).map(|worker| worker.process.id());
        let all: Vec<u32> = self.ids.iter().copied().chain(clients).collect();
        let before = (cpu_ns_of(self.ids), cpu_ns_of(&all));
        for source in &mut sources {
            source.tell("go")?;
        }
        let within = Duration::from_secs_f64(self.seconds) + LATE_MAX;
        let (mut total, mut told) = (0, String::new());
        for source in &sources {
            let ended: Published = source.hear("end of publishing", within)?;
            total += ended.count;
            told += &ended.complaints;
        }
        sink.tell(&total.to_string())?;
        let seen: Delivered = sink.hear("last message", within)?;
        let after = (cpu_ns_of(self.ids), cpu_ns_of(&all));

        let Delivered { count: delivered, misplaced, holes, gaps, .. } = seen;
        let misplaced = misplaced + holes;
        let published = total * u64::try_from(self.leave.len()).unwrap_or(0);
        if delivered != published || misplaced > 0 || gaps > 0 || delivered == 0 {
            let told = if told.is_empty() { told } else { format!("; {told}") };
            return Err(Trouble::Lost { published, delivered, gaps, misplaced, told });
        }
        let each = |before: Option<u64>, after: Option<u64>| {
            Some(seconds(after?.saturating_sub(before?)) / float(delivered))
        };
        let (cpu, cpu_all) = (each(before.0, after.0), each(before.1, after.1));
        Ok(Sent { published: total, rate: seen.rate(), cpu, cpu_all, trips: seen.trips })
    }
}
