//! Messages per second and what each costs.

use std::time::Duration;

use super::process::{Trouble, Worker, cpu_ns_of};
use super::publisher::{self, Published};
use super::role::{Place, Ready, Role};
use super::sample::{float, seconds};
use super::subscriber::{self, Delivered};
use super::way::{Nodes, Pair, SINK};

/// Bound for a client's set-up.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// How much longer than it should a cell may take.
const LATE_MAX: Duration = Duration::from_secs(30);

/// What one cell found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// Delivered messages per second.
    pub rate: f64,
    /// Seconds of processor of the nodes for each.
    pub cpu: Option<f64>,
    /// The same of all processes, the two clients too.
    pub cpu_all: Option<f64>,
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
    let place = Place { socket: pair.leave(nodes).to_owned(), name: SINK.to_owned() };
    let mut sink = Worker::start(&Role::Subscriber(subscriber::Spec { place }).argument())?;
    let Ready::Ready = sink.hear("subscriber", READY_WITHIN)?;
    let spec = publisher::Spec {
        socket: pair.enter().to_owned(),
        to: pair.address(SINK, nodes),
        body_bytes,
        seconds: secs,
    };
    let mut source = Worker::start(&Role::Publisher(spec).argument())?;
    let Ready::Ready = source.hear("publisher", READY_WITHIN)?;

    let infra = pair.ids(nodes);
    let all = [infra, &[sink.process.id(), source.process.id()]].concat();
    let before = (cpu_ns_of(infra), cpu_ns_of(&all));
    source.tell("go")?;
    let within = Duration::from_secs_f64(secs) + LATE_MAX;
    let Published { published, complaints } = source.hear("end of publishing", within)?;
    sink.tell(&published.to_string())?;
    let seen: Delivered = sink.hear("last message", within)?;
    let after = (cpu_ns_of(infra), cpu_ns_of(&all));

    let Delivered { count: delivered, misplaced, gaps, .. } = seen;
    if delivered != published || misplaced > 0 || gaps > 0 || delivered == 0 {
        let told = if complaints.is_empty() { complaints } else { format!("; {complaints}") };
        return Err(Trouble::Lost { published, delivered, gaps, misplaced, told });
    }
    let each = |before: Option<u64>, after: Option<u64>| {
        Some(seconds(after?.saturating_sub(before?)) / float(delivered))
    };
    Ok(Sent { rate: seen.rate(), cpu: each(before.0, after.0), cpu_all: each(before.1, after.1) })
}
