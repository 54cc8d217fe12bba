//! Counts messages, and notices every one that is missing.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::process::Trouble;
use super::publisher::Topics;
use super::responder::RoundTrips;
use super::role;
use super::{frames, sample};

const READ_BYTES: usize = 256 * 1024;
/// How often a quiet subscriber looks whether the parent has told it the number to expect.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// When nothing has come for this long after the end, nothing will.
const QUIET_MAX: Duration = Duration::from_secs(3);
/// Longest time that the histogram tells from longer ones.
const NS_MAX: u64 = 100_000_000_000;
/// What a subscriber that reads slowly reads at once.
const SLOW_READ_BYTES: usize = 64 * 1024;

/// What it hears.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Hears {
    /// What is sent to the process with this name.
    Name(String),
    /// What is published to this topic.
    Topic(String),
    /// What is published to any of these topics, or matches any of these patterns.
    Topics(Topics),
}

/// All that it has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    /// Where it connects, once for each.
    pub sockets: Vec<PathBuf>,
    /// What each connection hears.
    pub hears: Hears,
    /// Whether a full mailbox holds those who publish; else it loses what comes last.
    pub wait: bool,
    /// How many publish.
    pub publishers: u16,
    /// Size of each body.
    pub body_bytes: usize,
    /// Bytes that it reads per second at most.
    pub pace: Option<f64>,
}

/// What it saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Delivered {
    /// Messages that came.
    pub count: u64,
    /// Messages that came after a later one of their publisher, or twice.
    pub misplaced: u64,
    /// Places where messages were missing although no loss had been told there.
    pub holes: u64,
    /// Losses that the sidecar told of.
    pub gaps: u64,
    /// From the first read to the last.
    pub seconds: f64,
    /// How long they were under way, when they say when they began.
    pub trips: Option<RoundTrips>,
}

/// Runs it.
///
/// # Errors
/// When its socket fails or the parent is gone.
pub(super) fn run(spec: &Spec) -> Result<(), Trouble> {
    let listeners: Result<Vec<Listener>, Trouble> =
        spec.sockets.iter().map(|socket| Listener::connect(spec, socket)).collect();
    let listeners = listeners?;
    // The number of messages that each connection has to account for, once the parent knows it.
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
    let heard: Result<Vec<Listener>, Trouble> = thread::scope(|scope| {
        let threads: Vec<_> =
            listeners.into_iter().map(|listener| scope.spawn(|| listener.listen(&total))).collect();
        let bug = || Err(Trouble::Unexpected("a bug".to_owned()));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bug())).collect()
    });
    role::say(&Delivered::of(&heard?)?)?;
    loop {
        thread::park();
    }
}

/// One connection, and what came by it.
struct Listener {
    stream: UnixStream,
    buffer: Vec<u8>,
    pace: Option<f64>,
    /// The next number of each publisher.
    next: Vec<u64>,
    count: u64,
    /// Numbers that were passed over: as many as were lost, when all is well.
    skipped: u64,
    misplaced: u64,
    holes: u64,
    gaps: u64,
    first: Option<Instant>,
    last: Instant,
    trips: Option<Histogram<u64>>,
}

impl Listener {
    fn connect(spec: &Spec, socket: &Path) -> Result<Self, Trouble> {
        let mut commands = Vec::new();
        if spec.wait {
            commands.push(serde_json::json!({"op": "flag", "mailbox": {"policy": "wait"}}));
        }
        match &spec.hears {
            Hears::Name(name) => {
                commands.push(serde_json::json!({"op": "register", "name": name}));
            }
            Hears::Topic(topic) => {
                commands.push(serde_json::json!({"op": "subscribe", "topic": topic, "sync": true}));
            }
            Hears::Topics(_) => {}
        }
        let (mut stream, _) = role::connect(socket, &commands)?;
        if let Hears::Topics(topics) = &spec.hears {
            let mut out = Vec::new();
            for number in 0..topics.count {
                let header = frames::header(&[("op", "subscribe"), ("topic", &topics.at(number))]);
                frames::frame(&mut out, &header, &[]);
            }
            stream.write_all(&out).map_err(Trouble::io("subscribing"))?;
            let last = topics.at(topics.count);
            let last = serde_json::json!({"op": "subscribe", "topic": last, "sync": true});
            role::ask(&mut stream, &[last])?;
        }
        stream.set_read_timeout(Some(LOOK_EVERY)).map_err(Trouble::io("setting up the socket"))?;
        let bytes = if spec.pace.is_some() { SLOW_READ_BYTES } else { READ_BYTES };
        Ok(Self {
            stream,
            buffer: vec![0; bytes.max(2 * spec.body_bytes)],
            pace: spec.pace,
            next: vec![0; usize::from(spec.publishers)],
            count: 0,
            skipped: 0,
            misplaced: 0,
            holes: 0,
            gaps: 0,
            first: None,
            last: Instant::now(),
            trips: None,
        })
    }

    fn listen(mut self, total: &AtomicU64) -> Result<Self, Trouble> {
        let mut filled = 0;
        loop {
            match self.stream.read(&mut self.buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => {
                    self.last = Instant::now();
                    self.first.get_or_insert(self.last);
                    filled += read;
                    let used = self.count(filled)?;
                    self.buffer.copy_within(used..filled, 0);
                    filled -= used;
                    if let Some(pace) =
                        self.pace.filter(|_| total.load(Ordering::Acquire) == u64::MAX)
                    {
                        let read = sample::float(u64::try_from(read).unwrap_or(0));
                        thread::sleep(Duration::from_secs_f64(read / pace));
                    }
                }
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) =>
                {
                    if total.load(Ordering::Acquire) != u64::MAX && self.last.elapsed() > QUIET_MAX
                    {
                        break;
                    }
                }
                Err(e) => return Err(Trouble::io("subscribing")(e)),
            }
            if self.count + self.gaps >= total.load(Ordering::Acquire) {
                break;
            }
        }
        Ok(self)
    }

    /// Counts the whole frames of the buffer and says how many bytes they took.
    fn count(&mut self, filled: usize) -> Result<usize, Trouble> {
        let mut used = 0;
        let mut now = None;
        while let Some(frame) = frames::cut(&self.buffer[used..filled]) {
            used += frame.bytes;
            if frames::is_message(frame.header) {
                let (publisher, number) = frames::split_number(frames::number(frame.body));
                let publisher = usize::try_from(publisher).unwrap_or(usize::MAX);
                let Some(next) = self.next.get_mut(publisher) else {
                    return Err(Trouble::Unexpected("a message that nobody published".to_owned()));
                };
                if number < *next {
                    self.misplaced += 1;
                } else {
                    self.skipped += number - *next;
                    *next = number + 1;
                }
                // A loss is told where it happened. After a hole the count goes on from what came, so that one hole
                // counts once.
                if self.skipped > self.gaps {
                    self.holes += 1;
                    self.skipped = self.gaps;
                }
                self.count += 1;
                if frame.body.len() >= frames::STAMPED_BYTES_MIN {
                    let stamp = frames::stamp(frame.body);
                    if stamp > 0 {
                        let now = *now.get_or_insert_with(frames::now_ns);
                        trip(&mut self.trips, now.saturating_sub(stamp))?;
                    }
                }
            } else {
                let event: serde_json::Value = ciborium::from_reader(frame.header)
                    .map_err(|e| Trouble::Unexpected(e.to_string()))?;
                if event["ev"] == "gap" {
                    self.gaps += event["lost"].as_u64().unwrap_or(1);
                }
            }
        }
        if used == 0 && filled == self.buffer.len() {
            return Err(Trouble::Unexpected("a frame larger than any that was sent".to_owned()));
        }
        Ok(used)
    }
}

fn trip(trips: &mut Option<Histogram<u64>>, ns: u64) -> Result<(), Trouble> {
    if trips.is_none() {
        let new = Histogram::new_with_bounds(1, NS_MAX, 3);
        *trips = Some(new.map_err(|e| Trouble::Unexpected(e.to_string()))?);
    }
    if let Some(trips) = trips {
        trips.saturating_record(ns);
    }
    Ok(())
}

impl Delivered {
    /// What several connections saw together.
    fn of(heard: &[Listener]) -> Result<Self, Trouble> {
        let sum = |of: fn(&Listener) -> u64| heard.iter().map(of).sum();
        let first = heard.iter().filter_map(|listener| listener.first).min();
        let last = heard.iter().map(|listener| listener.last).max();
        let mut all: Option<Histogram<u64>> = None;
        for trips in heard.iter().filter_map(|listener| listener.trips.as_ref()) {
            match &mut all {
                Some(all) => all.add(trips).map_err(|e| Trouble::Unexpected(e.to_string()))?,
                None => all = Some(trips.clone()),
            }
        }
        Ok(Self {
            count: sum(|listener| listener.count),
            misplaced: sum(|listener| listener.misplaced),
            holes: sum(|listener| listener.holes),
            gaps: sum(|listener| listener.gaps),
            seconds: first
                .zip(last)
                .map_or(0.0, |(first, last)| last.duration_since(first).as_secs_f64()),
            trips: all.map(|trips| RoundTrips {
                count: trips.len(),
                p50_ns: trips.value_at_quantile(0.5),
                p99_ns: trips.value_at_quantile(0.99),
                p999_ns: trips.value_at_quantile(0.999),
            }),
        })
    }

    /// Messages per second.
    #[must_use]
    pub(super) fn rate(&self) -> f64 {
        if self.seconds > 0.0 { sample::float(self.count) / self.seconds } else { 0.0 }
    }
}
