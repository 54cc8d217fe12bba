//! One message there and back at a time: the client that asks and the client that answers.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::frames;
use super::process::Trouble;
use super::role::{self, Place};

const READ_BYTES: usize = 256 * 1024;
/// Longest time for one round trip.
const BACK_WITHIN: Duration = Duration::from_secs(5);

/// Longest round trip that the histogram tells from longer ones.
const NS_MAX: u64 = 10_000_000_000;

/// All that the client that asks has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PingerSpec {
    /// Where it connects and what it is called.
    pub place: Place,
    /// Whom it sends to.
    pub to: String,
    /// Size of each body.
    pub body_bytes: usize,
    /// For how long.
    pub seconds: f64,
}

/// All that the client that answers has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct EchoSpec {
    /// Where it connects and what it is called.
    pub place: Place,
}

/// How long the round trips took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RoundTrips {
    /// How many there were.
    pub count: u64,
    /// Half took at most this many nanoseconds.
    pub p50_ns: u64,
    /// 99 of 100.
    pub p99_ns: u64,
    /// 999 of 1000.
    pub p999_ns: u64,
}

/// Runs the client that asks.
///
/// # Errors
/// When its socket fails, an answer stays away, or the parent is gone.
pub(super) fn ping(spec: &PingerSpec) -> Result<(), Trouble> {
    let register = serde_json::json!({"op": "register", "name": spec.place.name});
    let (mut stream, _) = role::connect(&spec.place.socket, &[register])?;
    stream.set_read_timeout(Some(BACK_WITHIN)).map_err(Trouble::io("setting up the socket"))?;
    let mut out = Vec::new();
    let header = frames::header(&[("op", "send"), ("to", &spec.to)]);
    frames::frame(&mut out, &header, &frames::body(spec.body_bytes));

    role::say(&role::Ready::Ready)?;
    if role::told().is_none() {
        return Ok(());
    }
    let mut histogram = Histogram::<u64>::new_with_bounds(1, NS_MAX, 3)
        .map_err(|e| Trouble::Unexpected(e.to_string()))?;
    let mut buffer = vec![0; READ_BYTES];
    let end = Instant::now() + Duration::from_secs_f64(spec.seconds);
    let mut number = 0;
    loop {
        let start = Instant::now();
        if start > end {
            break;
        }
        frames::set_number(&mut out, number);
        stream.write_all(&out).map_err(Trouble::io("asking"))?;
        let mut filled = 0;
        loop {
            let read = stream
                .read(&mut buffer[filled..])
                .map_err(Trouble::io("waiting for the answer"))?;
            if read == 0 {
                return Err(Trouble::Unexpected("the socket was closed".to_owned()));
            }
            filled += read;
            if let Some(frame) = frames::cut(&buffer[..filled]) {
                if !frames::is_message(frame.header) || frames::number(frame.body) != number {
                    let header = frame.header.escape_ascii();
                    return Err(Trouble::Unexpected(format!(
                        "instead of the answer came {header}"
                    )));
                }
                break;
            }
        }
        number += 1;
        let took = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        histogram.saturating_record(took);
    }
    role::say(&RoundTrips {
        count: number,
        p50_ns: histogram.value_at_quantile(0.5),
        p99_ns: histogram.value_at_quantile(0.99),
        p999_ns: histogram.value_at_quantile(0.999),
    })?;
    while role::told().is_some() {}
    Ok(())
}

/// Runs the client that answers, until its socket closes or it is killed.
///
/// # Errors
/// When its socket fails or the parent is gone.
pub(super) fn echo(spec: &EchoSpec) -> Result<(), Trouble> {
    let register = serde_json::json!({"op": "register", "name": spec.place.name});
    let (mut stream, _) = role::connect(&spec.place.socket, &[register])?;
    stream.set_read_timeout(None).map_err(Trouble::io("setting up the socket"))?;
    role::say(&role::Ready::Ready)?;

    let mut buffer = vec![0; READ_BYTES];
    let mut filled = 0;
    let mut out = Vec::new();
    loop {
        let read =
            stream.read(&mut buffer[filled..]).map_err(Trouble::io("waiting for a message"))?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        let mut used = 0;
        while let Some(frame) = frames::cut(&buffer[used..filled]) {
            used += frame.bytes;
            if frames::is(frame.header, "call") {
                frames::reply(&mut out, &frame);
                continue;
            }
            let from = frames::text_of(frame.header, b"from").map(std::str::from_utf8);
            if let Some(Ok(from)) = from.filter(|_| frames::is_message(frame.header)) {
                frames::frame(
                    &mut out,
                    &frames::header(&[("op", "send"), ("to", from)]),
                    frame.body,
                );
            }
        }
        buffer.copy_within(used..filled, 0);
        filled -= used;
        stream.write_all(&out).map_err(Trouble::io("answering"))?;
        out.clear();
    }
}
