//! Sends or publishes numbered messages as fast as its socket takes them, never one by one, or at a given rate.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::process::Trouble;
use super::{frames, role};

/// What it writes at once, about.
const WRITE_BYTES: usize = 64 * 1024;
/// How long it sleeps between two looks at what is due, when it keeps to a rate.
const PACE: Duration = Duration::from_micros(200);
/// Longest wait for one write: a publisher whose subscriber is slow waits for it.
const WRITE_WITHIN: Duration = Duration::from_secs(30);
/// Most bytes of complaints that are kept.
const COMPLAINTS_MAX: usize = 4096;
/// For how long it listens for failures after the last message: they are told once a second.
const FAILED_WITHIN: Duration = Duration::from_millis(1500);

/// What it says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Say {
    /// Messages to one process.
    Send {
        /// Its address.
        to: String,
    },
    /// Messages to whoever has subscribed.
    Publish {
        /// The topic.
        topic: String,
    },
    /// The same to many topics in turn.
    InTurn(Topics),
}

/// Many topics or patterns that differ in a number.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Topics {
    /// What comes before the number.
    pub before: String,
    /// What comes behind it.
    pub behind: String,
    /// How many there are.
    pub count: u32,
}

/// How long the number of a topic is.
const DIGITS: usize = 7;

impl Topics {
    /// One of them.
    #[must_use]
    pub(super) fn at(&self, number: u32) -> String {
        format!("{}{number:0DIGITS$}{}", self.before, self.behind)
    }
}

/// All that it has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    /// Where it connects.
    pub socket: PathBuf,
    /// What it says.
    pub say: Say,
    /// Which of the publishers it is.
    pub own: u16,
    /// Size of each body.
    pub body_bytes: usize,
    /// For how long.
    pub seconds: f64,
    /// Messages per second; as many as it can where there is none.
    pub rate: Option<f64>,
    /// Whether messages may be refused, which is told and counted.
    pub refusable: bool,
}

/// What it did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Published {
    /// Messages written.
    pub count: u64,
    /// Of them, those that its sidecar said it could not pass on.
    pub failed: u64,
    /// What its sidecar complained of; empty when all is well.
    pub complaints: String,
}

/// What its sidecar tells it meanwhile.
#[derive(Debug, Default)]
struct Told {
    /// Messages that could not be passed on.
    failed: AtomicU64,
    /// Everything before has been read.
    synced: AtomicBool,
    complaints: Mutex<Vec<u8>>,
}

impl Told {
    /// Reads until the connection ends: a sidecar does not read on while nobody reads its answers.
    fn listen(&self, mut stream: UnixStream) {
        let mut input = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut piece) {
            input.extend_from_slice(&piece[..read]);
            let mut used = 0;
            while let Some(frame) = frames::cut(&input[used..]) {
                used += frame.bytes;
                if frames::is(frame.header, "ok") {
                    self.synced.store(true, Ordering::Release);
                    continue;
                }
                if frames::is(frame.header, "failed") {
                    let count = frames::number_of(frame.header, b"count").unwrap_or(1);
                    self.failed.fetch_add(u64::from(count), Ordering::Relaxed);
                }
                let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
                if complaints.len() < COMPLAINTS_MAX {
                    complaints.extend_from_slice(frame.header);
                }
            }
            input.drain(..used);
        }
    }
}

/// Runs it.
///
/// # Errors
/// When its socket fails or the parent is gone.
pub(super) fn run(spec: &Spec) -> Result<(), Trouble> {
    let hello = serde_json::json!({"op": "hello", "version": 1, "client": "pillion bench"});
    let (mut stream, _) = role::connect(&spec.socket, &[hello])?;
    let set_up = || Trouble::io("setting up the socket");
    stream.set_write_timeout(Some(WRITE_WITHIN)).map_err(set_up())?;
    stream.set_read_timeout(None).map_err(set_up())?;
    let mut chunk = Chunk::new(spec);
    let told = Arc::new(Told::default());
    let (listener, heard) = (stream.try_clone().map_err(set_up())?, Arc::clone(&told));
    thread::spawn(move || heard.listen(listener));

    role::say(&role::Ready::Ready)?;
    if role::told().is_none() {
        return Ok(());
    }
    let began = Instant::now();
    let end = began + Duration::from_secs_f64(spec.seconds);
    let mut published = 0;
    loop {
        let now = Instant::now();
        if now >= end {
            break;
        }
        let mut frames = chunk.frames();
        if let Some(rate) = spec.rate {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
            let due = (now.duration_since(began).as_secs_f64() * rate) as u64;
            frames = frames.min(usize::try_from(due.saturating_sub(published)).unwrap_or(0));
            if frames == 0 {
                thread::sleep(PACE);
                continue;
            }
        }
        let bytes = chunk.number(frames, &mut published);
        stream.write_all(bytes).map_err(Trouble::io("publishing"))?;
    }
    if spec.refusable {
        let mut header = frames::header(&[("op", "self")]);
        frames::put_number(&mut header, "id", 2);
        let mut out = Vec::new();
        frames::frame(&mut out, &header, &[]);
        stream.write_all(&out).map_err(Trouble::io("publishing"))?;
        let late = Instant::now() + WRITE_WITHIN;
        while !told.synced.load(Ordering::Acquire) && Instant::now() < late {
            thread::sleep(Duration::from_millis(5));
        }
        thread::sleep(FAILED_WITHIN);
    }
    let complaints = told.complaints.lock().unwrap_or_else(PoisonError::into_inner);
    let complaints = complaints.escape_ascii().to_string();
    let failed = told.failed.load(Ordering::Relaxed);
    role::say(&Published { count: published, failed, complaints })?;
    // The connection stays until the parent has heard from the subscriber.
    while role::told().is_some() {}
    Ok(())
}

/// As many frames as one write takes, made once; only what differs is set anew each time.
struct Chunk {
    bytes: Vec<u8>,
    frame_bytes: usize,
    /// The number of the publisher, where all its messages have it.
    own: u64,
    stamped: bool,
    /// Where a frame has the number of its topic, and how many topics there are.
    topics: Option<(usize, u32)>,
}

impl Chunk {
    fn new(spec: &Spec) -> Self {
        let header = match &spec.say {
            Say::Send { to } => frames::header(&[("op", "send"), ("to", to)]),
            Say::Publish { topic } => frames::header(&[("op", "publish"), ("topic", topic)]),
            Say::InTurn(topics) => frames::header(&[("op", "publish"), ("topic", &topics.at(0))]),
        };
        let topics = match &spec.say {
            Say::InTurn(topics) => {
                let at = frames::PREFIX_BYTES + header.len() - topics.behind.len() - DIGITS;
                Some((at, topics.count.max(1)))
            }
            _ => None,
        };
        let mut one = Vec::new();
        frames::frame(&mut one, &header, &frames::body(spec.body_bytes));
        Self {
            bytes: one.repeat(WRITE_BYTES.div_ceil(one.len())),
            frame_bytes: one.len(),
            own: frames::first_number(spec.own),
            stamped: spec.rate.is_some() && spec.body_bytes >= frames::STAMPED_BYTES_MIN,
            topics,
        }
    }

    fn frames(&self) -> usize {
        self.bytes.len() / self.frame_bytes
    }

    /// The next so many frames.
    fn number(&mut self, frames: usize, published: &mut u64) -> &[u8] {
        let bytes = frames * self.frame_bytes;
        let now = if self.stamped { frames::now_ns() } else { 0 };
        for frame in self.bytes[..bytes].chunks_exact_mut(self.frame_bytes) {
            frames::set_number(frame, self.own | *published);
            if self.stamped {
                frames::set_stamp(frame, now);
            }
            if let Some((at, count)) = self.topics {
                let mut number = *published % u64::from(count);
                for digit in frame[at..at + DIGITS].iter_mut().rev() {
                    *digit = b'0' + (number % 10) as u8;
                    number /= 10;
                }
            }
            *published += 1;
        }
        &self.bytes[..bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_in_turn_are_those_that_somebody_has_subscribed_to() {
        let topics = Topics { before: "bench.".to_owned(), behind: ".x".to_owned(), count: 3 };
        let spec = Spec {
            socket: PathBuf::new(),
            say: Say::InTurn(topics.clone()),
            own: 2,
            body_bytes: 64,
            seconds: 1.0,
            rate: None,
            refusable: false,
        };
        let (mut chunk, mut published) = (Chunk::new(&spec), 0);
        let mut rest = chunk.number(5, &mut published);
        for number in 0..5 {
            let frame = frames::cut(rest).unwrap();
            let topic = topics.at(number % 3);
            assert_eq!(frames::text_of(frame.header, b"topic"), Some(topic.as_bytes()));
            let from = frames::first_number(2) + u64::from(number);
            assert_eq!(frames::number(frame.body), from);
            rest = &rest[frame.bytes..];
        }
        assert_eq!((published, rest.len()), (5, 0));
    }
}
