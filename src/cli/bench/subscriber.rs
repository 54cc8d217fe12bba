//! Counts messages, and notices every one that is missing.

use std::io::{self, Read as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::process::Trouble;
use super::role::{self, Place};
use super::{frames, sample};

const READ_BYTES: usize = 256 * 1024;
/// How often a quiet subscriber looks whether the parent has told it the number to expect.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// When nothing has come for this long after the end, nothing will.
const QUIET_MAX: Duration = Duration::from_secs(3);

/// All that it has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    /// Where it connects and what it is called.
    pub place: Place,
}

/// What it saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Delivered {
    /// Messages that came.
    pub count: u64,
    /// Messages whose number was not the next one.
    pub misplaced: u64,
    /// Losses that the sidecar told of.
    pub gaps: u64,
    /// From the first read to the last.
    pub seconds: f64,
}

/// Runs it.
///
/// # Errors
/// When its socket fails or the parent is gone.
pub(super) fn run(spec: &Spec) -> Result<(), Trouble> {
    let commands = [
        serde_json::json!({"op": "flag", "mailbox": {"policy": "wait"}}),
        serde_json::json!({"op": "register", "name": spec.place.name}),
    ];
    let (mut stream, _) = role::connect(&spec.place.socket, &commands)?;
    stream.set_read_timeout(Some(LOOK_EVERY)).map_err(Trouble::io("setting up the socket"))?;

    // The number of published messages, once the parent knows it.
    let total = Arc::new(AtomicU64::new(u64::MAX));
    let told = Arc::clone(&total);
    role::say(&role::Ready::Ready)?;
    thread::spawn(move || {
        while let Some(line) = role::told() {
            told.store(line.trim().parse().unwrap_or(0), Ordering::Release);
        }
        // The parent wants no more, or is gone.
        std::process::exit(0);
    });

    let mut seen = Delivered { count: 0, misplaced: 0, gaps: 0, seconds: 0.0 };
    let mut buffer = vec![0; READ_BYTES];
    let mut filled = 0;
    let mut first = None;
    let mut last = Instant::now();
    loop {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => {
                last = Instant::now();
                first.get_or_insert(last);
                filled += read;
                let used = count(&buffer[..filled], &mut seen)?;
                buffer.copy_within(used..filled, 0);
                filled -= used;
            }
            Err(e)
                if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
            {
                if total.load(Ordering::Acquire) != u64::MAX && last.elapsed() > QUIET_MAX {
                    break;
                }
            }
            Err(e) => return Err(Trouble::io("subscribing")(e)),
        }
        if seen.count >= total.load(Ordering::Acquire) {
            break;
        }
    }
    seen.seconds = first.map_or(0.0, |first| last.duration_since(first).as_secs_f64());
    role::say(&seen)?;
    loop {
        thread::park();
    }
}

/// Counts the whole frames of a buffer and says how many bytes they took.
fn count(buffer: &[u8], seen: &mut Delivered) -> Result<usize, Trouble> {
    let mut used = 0;
    while let Some(frame) = frames::cut(&buffer[used..]) {
        used += frame.bytes;
        if frames::is_message(frame.header) {
            // After a hole the count goes on from what came, so that one hole counts once.
            let number = frames::number(frame.body);
            seen.misplaced += u64::from(number != seen.count + seen.gaps);
            seen.count += 1;
        } else {
            let event: serde_json::Value = ciborium::from_reader(frame.header)
                .map_err(|e| Trouble::Unexpected(e.to_string()))?;
            if event["ev"] == "gap" {
                seen.gaps += event["lost"].as_u64().unwrap_or(1);
            }
        }
    }
    if used == 0 && buffer.len() == READ_BYTES {
        return Err(Trouble::Unexpected("a frame larger than any that was sent".to_owned()));
    }
    Ok(used)
}

impl Delivered {
    /// Messages per second.
    #[must_use]
    pub(super) fn rate(&self) -> f64 {
        if self.seconds > 0.0 { sample::float(self.count) / self.seconds } else { 0.0 }
    }
}
