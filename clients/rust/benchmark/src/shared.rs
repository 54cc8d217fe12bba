//! What all ends share: bodies, clocks, and how they tell each other that they are there.

use std::time::{Duration, Instant};

use serde::de::{Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

/// One measurement.
pub struct Setup {
    pub size: usize,
    /// Of its own, so that rows do not meet: a path, for the floor's socket, whose last part is a name.
    pub path: String,
    pub name: String,
    pub seconds: Duration,
}

impl Setup {
    pub fn new(size: usize, path: &str) -> Self {
        let seconds = std::env::var("BENCH_SECONDS").ok().and_then(|text| text.parse().ok());
        let name = path.rsplit('/').next().unwrap_or(path).to_owned();
        let seconds = Duration::from_secs_f64(seconds.unwrap_or(2.0));
        Self { size, path: path.to_owned(), name, seconds }
    }

    pub fn body(&self) -> Vec<u8> {
        vec![7; self.size]
    }
}

pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not there"))
}

/// A byte string.
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Bytes;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Read)
    }
}

/// What one end has measured.
pub struct Numbers {
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    pub per_s: f64,
}

/// Tells the first process that this one is there.
pub fn say_ready() {
    println!("ready");
}

/// Reads a line of a child; it tells no other lines than these.
async fn line(child: &mut Child) -> Option<String> {
    let out = child.stdout.as_mut()?;
    let mut line = String::new();
    BufReader::with_capacity(1, out).read_line(&mut line).await.ok()?;
    Some(line.trim().to_owned()).filter(|line| !line.is_empty())
}

pub async fn ready(child: &mut Child) {
    assert_eq!(line(child).await.as_deref(), Some("ready"), "the other end is not there");
}

pub async fn numbers(child: &mut Child) -> Option<Numbers> {
    let line = tokio::time::timeout(Duration::from_secs(120), line(child)).await.ok()??;
    let mut fields = line.split(' ').map(|field| field.parse().ok());
    let (p50_us, p99_us, per_s) = (fields.next()?, fields.next()?, fields.next()??);
    Some(Numbers { p50_us, p99_us, per_s })
}

/// Takes the time of one call after the other.
pub struct Times {
    begun: Instant,
    counted: Option<Instant>,
    seconds: Duration,
    times: Vec<u64>,
}

impl Times {
    pub fn new(setup: &Setup) -> Self {
        let times = Vec::with_capacity(1 << 20);
        Self { begun: Instant::now(), counted: None, seconds: setup.seconds, times }
    }

    /// Whether to go on after a call that began then.
    pub fn took(&mut self, since: Instant) -> bool {
        let now = Instant::now();
        let Some(counted) = self.counted else {
            if now - self.begun >= self.seconds / 10 {
                self.counted = Some(now);
            }
            return true;
        };
        self.times.push(u64::try_from((now - since).as_nanos()).unwrap_or(u64::MAX));
        if now - counted < self.seconds {
            return true;
        }
        let per_s = self.times.len() as f64 / (now - counted).as_secs_f64();
        self.times.sort_unstable();
        let at = |part: usize| self.times[self.times.len() * part / 100] as f64 / 1000.0;
        println!("{:.1} {:.1} {per_s:.0}", at(50), at(99));
        false
    }
}

/// Counts what arrives, from the first one that counts to the last.
pub struct Count {
    begun: Option<Instant>,
    counted: Option<Instant>,
    seconds: Duration,
    count: u64,
}

impl Count {
    pub fn new(setup: &Setup) -> Self {
        Self { begun: None, counted: None, seconds: setup.seconds, count: 0 }
    }

    /// Whether to go on after so many have arrived.
    pub fn arrived(&mut self, n: u64) -> bool {
        self.count += n;
        // The clock is read seldom: it is not what is measured.
        if self.begun.is_some() && n == 1 && self.count % 64 != 0 {
            return true;
        }
        let now = Instant::now();
        let begun = *self.begun.get_or_insert(now);
        match self.counted {
            None if now - begun >= self.seconds / 10 => {
                self.counted = Some(now);
                self.count = 0;
                true
            }
            Some(counted) if now - counted >= self.seconds => {
                println!("- - {:.0}", self.count as f64 / (now - counted).as_secs_f64());
                false
            }
            _ => true,
        }
    }
}
