//! Calls through a pair: the client that asks, with one or with many under way, and how a cell of it is measured.
//!
//! The floor knows no calls: there a request is a message, and its answer another one.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::frames;
use super::process::{Trouble, Worker, cpu_ns_of};
use super::relay::PINGER;
use super::responder::{EchoSpec, RoundTrips};
use super::role::{self, Place, Ready, Role};
use super::sample::{float, seconds};
use super::way::{ECHO, Nodes, Pair};

const READ_BYTES: usize = 256 * 1024;
/// Longest time for one answer.
const BACK_WITHIN: Duration = Duration::from_secs(5);
/// Longest time that the histogram tells from longer ones.
const NS_MAX: u64 = 10_000_000_000;
/// More than ever are under way.
const UNDER_WAY_MAX: usize = 1 << 16;
/// Bound for a client's set-up.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// How much longer than it should a cell may take.
const LATE_MAX: Duration = Duration::from_secs(30);

/// All that the client that asks has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    /// Where it connects and what it is called.
    pub place: Place,
    /// Whom it asks.
    pub to: String,
    /// Whether by calls; else by messages.
    pub calls: bool,
    /// How many are under way at a time.
    pub in_flight: usize,
    /// Size of each body.
    pub body_bytes: usize,
    /// For how long.
    pub seconds: f64,
}

/// What it found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Called {
    /// How long they took.
    pub trips: RoundTrips,
    /// For how long there were some.
    pub seconds: f64,
}

/// Runs the client that asks.
///
/// # Errors
/// When its socket fails, an answer stays away, or the parent is gone.
pub(super) fn run(spec: &Spec) -> Result<(), Trouble> {
    let register = serde_json::json!({"op": "register", "name": spec.place.name});
    let (mut stream, _) = role::connect(&spec.place.socket, &[register])?;
    stream.set_read_timeout(Some(BACK_WITHIN)).map_err(Trouble::io("setting up the socket"))?;
    let mut request = Vec::new();
    let op = if spec.calls { "call" } else { "send" };
    let mut header = frames::header(&[("op", op), ("to", &spec.to)]);
    if spec.calls {
        frames::put_number(&mut header, "id", 0);
    }
    // The `id` of a call is the last of its header.
    let id = frames::PREFIX_BYTES + header.len() - 4..frames::PREFIX_BYTES + header.len();
    frames::frame(&mut request, &header, &frames::body(spec.body_bytes));

    role::say(&Ready::Ready)?;
    if role::told().is_none() {
        return Ok(());
    }
    let mut histogram = Histogram::<u64>::new_with_bounds(1, NS_MAX, 3)
        .map_err(|e| Trouble::Unexpected(e.to_string()))?;
    let began = Instant::now();
    let end = began + Duration::from_secs_f64(spec.seconds);
    let mut started = vec![began; UNDER_WAY_MAX];
    let (mut sent, mut answered, mut owed) = (0_u64, 0_u64, spec.in_flight);
    let mut out = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut filled = 0;
    loop {
        let now = Instant::now();
        if now < end {
            for _ in 0..owed {
                frames::set_number(&mut request, sent);
                if spec.calls {
                    let number = u32::try_from(sent).unwrap_or(u32::MAX).to_be_bytes();
                    request[id.clone()].copy_from_slice(&number);
                }
                out.extend_from_slice(&request);
                started[slot(sent)] = now;
                sent += 1;
            }
            stream.write_all(&out).map_err(Trouble::io("asking"))?;
            out.clear();
        }
        if answered == sent {
            break;
        }
        let read =
            stream.read(&mut buffer[filled..]).map_err(Trouble::io("waiting for an answer"))?;
        if read == 0 {
            return Err(Trouble::Unexpected("the socket was closed".to_owned()));
        }
        filled += read;
        let now = Instant::now();
        let mut used = 0;
        owed = 0;
        while let Some(frame) = frames::cut(&buffer[used..filled]) {
            used += frame.bytes;
            let number = frames::number(frame.body);
            let good = if spec.calls {
                frames::is(frame.header, "ok")
            } else {
                frames::is_message(frame.header)
            };
            if !good || number >= sent {
                let header = frame.header.escape_ascii();
                return Err(Trouble::Unexpected(format!("instead of an answer came {header}")));
            }
            let took = now.saturating_duration_since(started[slot(number)]).as_nanos();
            histogram.saturating_record(u64::try_from(took).unwrap_or(u64::MAX));
            answered += 1;
            owed += 1;
        }
        buffer.copy_within(used..filled, 0);
        filled -= used;
    }
    role::say(&Called {
        trips: RoundTrips {
            count: answered,
            p50_ns: histogram.value_at_quantile(0.5),
            p99_ns: histogram.value_at_quantile(0.99),
            p999_ns: histogram.value_at_quantile(0.999),
        },
        seconds: began.elapsed().as_secs_f64(),
    })?;
    while role::told().is_some() {}
    Ok(())
}

fn slot(number: u64) -> usize {
    usize::try_from(number).unwrap_or(0) % UNDER_WAY_MAX
}

/// One cell.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    /// How long they took.
    pub trips: RoundTrips,
    /// Calls per second.
    pub rate: f64,
    /// Processor seconds of the nodes per call, where the system tells.
    pub cpu: Option<f64>,
}

/// Calls through a pair for a while.
///
/// # Errors
/// When anything fails.
pub(super) fn measure(
    pair: &Pair,
    nodes: Nodes,
    in_flight: usize,
    secs: f64,
) -> Result<Cell, Trouble> {
    let place = Place { socket: pair.leave(nodes).to_owned(), name: ECHO.to_owned() };
    let echo = Worker::start(&Role::Echo(EchoSpec { place }).argument())?;
    let Ready::Ready = echo.hear("echo", READY_WITHIN)?;
    let spec = Spec {
        place: Place { socket: pair.enter().to_owned(), name: PINGER.to_owned() },
        to: pair.address(ECHO, nodes),
        calls: pair.is_daemons(),
        in_flight,
        body_bytes: 64,
        seconds: secs,
    };
    let mut caller = Worker::start(&Role::Caller(spec).argument())?;
    let Ready::Ready = caller.hear("caller", READY_WITHIN)?;
    let before = cpu_ns_of(pair.ids(nodes));
    caller.tell("go")?;
    let called: Called = caller.hear("calls", Duration::from_secs_f64(secs) + LATE_MAX)?;
    let after = cpu_ns_of(pair.ids(nodes));
    let count = float(called.trips.count);
    let cpu = before.zip(after).map(|(before, after)| seconds(after - before) / count);
    Ok(Cell { rate: count / called.seconds, cpu, trips: called.trips })
}
