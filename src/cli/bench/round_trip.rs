//! How long a message takes there and back, one at a time.

use std::time::Duration;

use super::process::{Trouble, Worker};
use super::relay::PINGER;
use super::responder::{EchoSpec, PingerSpec, RoundTrips};
use super::role::{Place, Ready, Role};
use super::way::{ECHO, Nodes, Pair};

/// Bound for a client's set-up.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// How much longer than it should a cell may take.
const LATE_MAX: Duration = Duration::from_secs(30);

/// Sends to and fro through a pair for a while.
///
/// # Errors
/// When anything fails.
pub(super) fn measure(
    pair: &Pair,
    nodes: Nodes,
    body_bytes: usize,
    secs: f64,
) -> Result<RoundTrips, Trouble> {
    let place = Place { socket: pair.leave(nodes).to_owned(), name: ECHO.to_owned() };
    let echo = Worker::start(&Role::Echo(EchoSpec { place }).argument())?;
    let Ready::Ready = echo.hear("echo", READY_WITHIN)?;
    let spec = PingerSpec {
        place: Place { socket: pair.enter().to_owned(), name: PINGER.to_owned() },
        to: pair.address(ECHO, nodes),
        body_bytes,
        seconds: secs,
    };
    let mut pinger = Worker::start(&Role::Pinger(spec).argument())?;
    let Ready::Ready = pinger.hear("pinger", READY_WITHIN)?;
    pinger.tell("go")?;
    pinger.hear("round trips", Duration::from_secs_f64(secs) + LATE_MAX)
}
