//! `pillion bench`: what a sidecar adds, measured on this machine, beside the least that it could add.
//!
//! Throughput and round trips are measured twice in every round, through real daemons and through a *floor* of bare
//! relays, so that a figure of another machine, or of a busy hour, still says something: its ratio to the floor.
//! Nothing leaves the loopback interface (but multicast, for the mDNS cell), nothing of the user's nodes is touched,
//! and every wait has a bound.

#![allow(
    clippy::disallowed_methods,
    reason = "real time is what is measured, and the threads that sleep are nobody else's"
)]

mod caller;
mod certificates;
mod crowd;
mod daemon;
mod frames;
mod life;
mod machine;
mod many;
mod mesh;
mod others;
mod process;
mod publisher;
mod relay;
mod report;
mod responder;
mod role;
mod rolling;
mod round_trip;
mod sample;
mod send;
mod slices;
mod slow;
mod subscriber;
mod topics;
mod way;

use std::cell::Cell;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use life::{Death, Finding};
use machine::Ticks;
use process::{Scratch, Trouble};
use report::{Report, Row, Target};
use sample::{Sample, Unit, seconds};
use way::{Nodes, Pair};

use super::{Exit, Failure, Globals, Output};

/// Most rounds, and most seconds for a cell: a benchmark ends.
const ROUNDS_MAX: usize = 101;
const SECONDS_MAX: f64 = 600.0;
/// Smallest and largest body: the number of a message needs room, and the default limit is 1 MiB.
const BODY_BYTES: std::ops::RangeInclusive<usize> = 16..=1 << 20;
/// Sizes of bodies where the command names none.
const SIZES: [usize; 3] = [64, 1024, 16_384];
/// Most publishers, subscribers, subscriptions of others and nodes: more than a machine of today bears.
const PUBLISHERS_MAX: u16 = 64;
const SUBSCRIBERS_MAX: usize = 1000;
const OTHERS_MAX: u32 = 200_000;
const NODES_MAX: usize = 64;
const SOAK_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long the progress bar is.
const BAR: usize = 24;

/// Measures daemons on this machine beside the least that relays could cost
#[derive(Clone, Debug, Args)]
pub(super) struct BenchArgs {
    /// What to measure; everything when nothing is named
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// How often each cell that varies is measured; medians are shown
    #[arg(long, value_name = "N", default_value_t = 7)]
    rounds: usize,
    /// For how long each cell with messages runs
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    seconds_per_cell: f64,
    /// Sizes of the bodies, in bytes; unless given 64, 1024 and 16384, of `pubsub` 16 and 1048576 too
    #[arg(long, value_name = "BYTES", value_delimiter = ',')]
    sizes: Option<Vec<usize>>,
    /// How many processes publish at once, in `pubsub` and `fanout`
    #[arg(long, value_name = "N", default_value_t = 1)]
    publishers: u16,
    /// How many subscribers `fanout` has, one cell for each number
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [4, 100])]
    subscribers: Vec<usize>,
    /// How many subscriptions of others there are in `pubsub`, one cell for each number, the smallest first
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [10_000, 100_000])]
    others: Vec<u32>,
    /// Lets `crowd` find its nodes by this API server instead: endpoint slices called `pillion-bench-...` are made there, in the
    /// namespace of the context, with kubectl, and deleted again
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// How many nodes `mesh` starts
    #[arg(long, value_name = "N", default_value_t = 16)]
    nodes: usize,
    /// Instead of its cells, lets publishers outrun slow subscribers for so long and looks for memory that grows and losses
    /// that nobody was told
    #[arg(long, value_name = "DURATION", value_parser = soak)]
    soak: Option<Duration>,
    /// Exits with 1 when a target is missed, and says which
    #[arg(long)]
    gate: bool,
    /// Measures the floor alone
    #[arg(long)]
    floor: bool,
    /// What this process is for when the benchmark started it
    #[arg(long, hide = true, value_name = "JSON")]
    role: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Everything
    All,
    /// Messages per second, and the processor time of each
    Send,
    /// One message there and back
    Roundtrip,
    /// Calls there and back, one and 64 at a time
    Call,
    /// Publications to one subscriber, beside subscriptions of others and beside one that is stopped
    Pubsub,
    /// Publications to several subscribers
    Fanout,
    /// Many nodes: until each sees all the others, and publications to all
    Mesh,
    /// 100 000 processes and names, and the end of many
    Many,
    /// From exec to a socket that takes connections
    Start,
    /// Until three nodes that start together see each other
    Join,
    /// The same with up to a hundred nodes, and what each of them costs; takes over 10 minutes, half of that with --rounds 1
    Crowd,
    /// From kill -9 or SIGSTOP to nodedown
    Failure,
    /// Memory and processor of daemons that do nothing
    Idle,
    /// Calls that are lost while ten nodes are restarted one after the other, and from exec to ready
    Rolling,
}

/// Measures, prints, and judges when asked to.
pub(super) fn run(globals: &Globals, args: &BenchArgs) -> Result<(), Failure> {
    let failed = |trouble: Trouble| Failure::new(Exit::Internal, trouble.to_string());
    if let Some(role) = &args.role {
        return role::play(role).map_err(failed);
    }
    args.check().map_err(|wrong| Failure::new(Exit::Usage, wrong))?;
    let report = Bench::run(args).map_err(failed)?;
    let output = Output { json: globals.json };
    output.say(&if output.json { report.json() } else { report.table() })?;
    let missed: Vec<&str> = report.missed().map(|row| row.what.trim()).collect();
    if args.gate && !missed.is_empty() {
        return Err(Failure::new(Exit::No, format!("missed: {}", missed.join("; "))));
    }
    Ok(())
}

impl BenchArgs {
    fn check(&self) -> Result<(), String> {
        if !(1..=ROUNDS_MAX).contains(&self.rounds) {
            return Err(format!("--rounds is 1 to {ROUNDS_MAX}"));
        }
        if !(0.01..=SECONDS_MAX).contains(&self.seconds_per_cell) {
            return Err(format!("--seconds-per-cell is 0.01 to {SECONDS_MAX}"));
        }
        if !self.sizes.iter().flatten().all(|size| BODY_BYTES.contains(size)) {
            let (min, max) = (BODY_BYTES.start(), BODY_BYTES.end());
            return Err(format!("--sizes are {min} to {max}"));
        }
        if !(1..=PUBLISHERS_MAX).contains(&self.publishers) {
            return Err(format!("--publishers is 1 to {PUBLISHERS_MAX}"));
        }
        if !self.subscribers.iter().all(|count| (1..=SUBSCRIBERS_MAX).contains(count)) {
            return Err(format!("--subscribers are 1 to {SUBSCRIBERS_MAX}"));
        }
        if !self.others.is_sorted()
            || !self.others.iter().all(|count| (1..=OTHERS_MAX).contains(count))
        {
            return Err(format!("--others are 1 to {OTHERS_MAX}, the smallest first"));
        }
        if !(2..=NODES_MAX).contains(&self.nodes) {
            return Err(format!("--nodes is 2 to {NODES_MAX}"));
        }
        if self.soak.is_some() && self.parts != [Part::Pubsub] {
            return Err("--soak belongs to `pillion bench pubsub`, alone".to_owned());
        }
        Ok(())
    }

    fn sizes(&self) -> &[usize] {
        self.sizes.as_deref().unwrap_or(&SIZES)
    }

    /// How many steps there are that tell of themselves, as the code below makes them.
    fn cells(&self) -> usize {
        let (wants, rounds) = (|part: Part| usize::from(self.wants(part)), self.rounds);
        let both = if self.floor { rounds } else { 2 * rounds };
        let sizes = self.sizes().len();
        let mut cells = 2
            * both
            * (sizes * (wants(Part::Send) + wants(Part::Roundtrip)) + 2 * wants(Part::Call));
        if !self.floor {
            cells += wants(Part::Start) + 2 * wants(Part::Idle) + 3 * rounds * wants(Part::Join);
            cells += 3 * wants(Part::Failure) + 4 * wants(Part::Many) + wants(Part::Rolling);
            cells += 3 * (2 * rounds.min(3) + 2) * wants(Part::Crowd);
        }
        cells
    }

    fn wants(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part) || self.parts.contains(&Part::All)
    }
}

fn soak(text: &str) -> Result<Duration, String> {
    crate::config::value::parse_duration(text, Duration::from_secs(1), SOAK_MAX)
}

struct Bench<'a> {
    args: &'a BenchArgs,
    scratch: Scratch,
    rows: Vec<Row>,
    progress: bool,
    /// Steps that have told of themselves, and how many there will be.
    cells: (Cell<usize>, usize),
}

impl<'a> Bench<'a> {
    fn run(args: &'a BenchArgs) -> Result<Report, Trouble> {
        let before = (Ticks::now(), Instant::now());
        let progress = std::io::stderr().is_terminal();
        let scratch = Scratch::new()?;
        let mut bench =
            Bench { args, scratch, rows: Vec::new(), progress, cells: Default::default() };
        bench.cells.1 = args.cells() + bench.topic_cells();
        if !args.floor {
            bench.start();
            bench.idle();
            bench.join();
            bench.crowds();
            bench.failure();
            bench.rolling();
            bench.many();
        }
        bench.messages()?;
        bench.topics()?;
        bench.wipe();

        let stolen = match (before.0, Ticks::now()) {
            (Some(before), Some(now)) => {
                format!(
                    ", {:.1} % of the processors taken by others",
                    now.stolen_since(before) * 100.0
                )
            }
            _ => String::new(),
        };
        let took = before.1.elapsed().as_secs();
        let (rounds, secs) = (args.rounds, args.seconds_per_cell);
        Ok(Report {
            machine: format!(
                "pillion {} on {}{stolen}",
                env!("CARGO_PKG_VERSION"),
                machine::describe()
            ),
            settings: format!(
                "medians (min .. max) of {rounds} rounds, {secs} s a cell, {took} s in all"
            ),
            rows: bench.rows,
        })
    }

    /// One step more: a line that the next one overwrites, for a person who waits.
    fn say(&self, text: &str) {
        if self.progress {
            let (done, all) = (self.cells.0.get(), self.cells.1);
            self.cells.0.set(done + 1);
            eprint!("\r\x1b[K{} {text}", bar(done, all));
        }
    }

    fn wipe(&self) {
        if self.progress {
            eprint!("\r\x1b[K");
        }
    }

    fn start(&mut self) {
        if !self.args.wants(Part::Start) {
            return;
        }
        self.say("start");
        let what = "start to socket bound";
        self.rows.push(match life::start(&self.scratch) {
            Ok(sample) => Row::plain(what, Unit::Seconds, sample, Some(Target::AtMost(0.010))),
            Err(trouble) => Row::failed(what, &trouble),
        });
    }

    fn idle(&mut self) {
        if !self.args.wants(Part::Idle) {
            return;
        }
        for (count, name, mib) in [(1, "alone", 6.0), (16, "with 15 peers", 8.0)] {
            self.say(&format!("idle {name}"));
            match life::idle(&self.scratch, count) {
                Ok(idle) => {
                    let target = Some(Target::AtMost(mib * f64::from(1 << 20)));
                    let what = format!("idle {name}: resident memory");
                    self.rows.push(Row::plain(what, Unit::Bytes, idle.resident, target));
                    let target = Some(Target::AtMost(0.0005));
                    let what = format!("idle {name}: processor");
                    self.rows.push(Row::plain(what, Unit::Load, idle.load, target));
                }
                Err(trouble) => self.rows.push(Row::failed(format!("idle {name}"), &trouble)),
            }
        }
    }

    fn join(&mut self) {
        if !self.args.wants(Part::Join) {
            return;
        }
        for (finding, name, bound) in [
            (Finding::List, "list", 0.15),
            (Finding::Local, "local", 0.15),
            (Finding::Mdns, "mdns", 1.5),
        ] {
            let what = format!("three nodes see each other: {name}");
            let mut sample = Sample::default();
            let mut failed = None;
            for round in 0..self.args.rounds {
                self.say(&format!("join {name}, round {}", round + 1));
                match life::join(&self.scratch, finding, round) {
                    Ok(value) => sample.push(value),
                    Err(trouble) => {
                        failed = Some(trouble);
                        break;
                    }
                }
            }
            let multicast = !matches!(finding, Finding::Mdns) || machine::has_multicast();
            self.rows.push(match failed {
                None => Row::plain(what, Unit::Seconds, sample, Some(Target::AtMost(bound))),
                Some(_) if !multicast => {
                    Row::skipped(what, &"skipped: no interface here does multicast")
                }
                Some(trouble) => Row::failed(what, &trouble),
            });
        }
    }

    fn failure(&mut self) {
        if !self.args.wants(Part::Failure) {
            return;
        }
        let stops = self.args.rounds.min(3);
        // The bound of a profile, and the tick at which it is looked at.
        let cells: [(_, _, &[&str], _, _); 3] = [
            ("kill -9 to nodedown", Death::Killed, &[], self.args.rounds, 0.050),
            ("SIGSTOP to nodedown, lan profile", Death::Stopped, &["--profile", "lan"], stops, 5.1),
            (
                "SIGSTOP to nodedown, local profile",
                Death::Stopped,
                &["--profile", "local"],
                stops,
                2.1,
            ),
        ];
        for (number, (what, death, arguments, rounds, bound)) in cells.into_iter().enumerate() {
            self.say(what);
            let name = format!("failure-{number}");
            let found = life::failure(&self.scratch, &name, death, arguments, rounds);
            self.rows.push(match found {
                Ok(sample) => Row::plain(what, Unit::Seconds, sample, Some(Target::AtMost(bound))),
                Err(trouble) => Row::failed(what, &trouble),
            });
        }
    }

    /// Everything that goes through a pair of nodes, floor and daemons by turns.
    fn messages(&mut self) -> Result<(), Trouble> {
        let (sends, trips) = (self.args.wants(Part::Send), self.args.wants(Part::Roundtrip));
        let calls = self.args.wants(Part::Call);
        if !sends && !trips && !calls {
            return Ok(());
        }
        let floor = Pair::floor(&self.scratch, "floor")?;
        let daemons = if self.args.floor {
            None
        } else {
            match Pair::daemons(&self.scratch, "daemons") {
                Ok(pair) => Some(pair),
                Err(trouble) => {
                    self.rows.push(Row::failed("two daemons", &trouble));
                    return Ok(());
                }
            }
        };
        let pairs = Pairs { floor, daemons };
        for nodes in [Nodes::One, Nodes::Two] {
            for &size in self.args.sizes() {
                if sends {
                    self.send(&pairs, nodes, size);
                }
            }
        }
        if let Some(pair) = pairs.daemons.as_ref().filter(|_| sends) {
            let peak =
                pair.ids(Nodes::Two).iter().filter_map(|id| process::resident_bytes(*id, true));
            let sample = peak.map(sample::float).collect();
            self.rows.push(Row::plain(
                "after all sends: peak of memory",
                Unit::Bytes,
                sample,
                None,
            ));
        }
        for nodes in [Nodes::One, Nodes::Two] {
            for &size in self.args.sizes() {
                if trips {
                    self.round_trip(&pairs, nodes, size);
                }
            }
        }
        for nodes in [Nodes::One, Nodes::Two] {
            for in_flight in [1, 64] {
                if calls {
                    self.call(&pairs, nodes, in_flight);
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, pairs: &Pairs, nodes: Nodes, size: usize) {
        let what = format!("send {}, {}", bytes(size), nodes.print());
        let secs = self.args.seconds_per_cell;
        let found = pairs.rounds(self.args.rounds, |side, round, pair| {
            self.say(&format!("{what}, round {}, {side}", round + 1));
            send::measure(pair, nodes, size, secs)
        });
        let Both { pillion, floor } = match found {
            Ok(both) => both,
            Err(trouble) => return self.rows.push(Row::failed(what, &trouble)),
        };
        let gated = nodes == Nodes::Two && !self.args.floor;
        let rate = |sent: &[send::Sent]| sent.iter().map(|sent| sent.rate).collect();
        let cpu = |sent: &[send::Sent]| sent.iter().filter_map(|sent| sent.cpu).collect();
        let all = |sent: &[send::Sent]| sent.iter().filter_map(|sent| sent.cpu_all).collect();
        let bound = if size < 1024 { 0.5 } else { 0.75 };
        let target = gated.then_some(Target::RatioAtLeast(bound));
        let row = Row::beside(what, Unit::PerSecond, rate(&pillion), rate(&floor), target);
        self.rows.push(row);
        let target = gated.then_some(Target::RatioAtMost(2.5));
        let what = "  processor of the nodes per message";
        self.rows.push(Row::beside(what, Unit::Seconds, cpu(&pillion), cpu(&floor), target));
        let what = "  processor of all four processes per message";
        self.rows.push(Row::beside(what, Unit::Seconds, all(&pillion), all(&floor), None));
    }

    fn round_trip(&mut self, pairs: &Pairs, nodes: Nodes, size: usize) {
        let what = format!("round trip {}, {}", bytes(size), nodes.print());
        let secs = self.args.seconds_per_cell;
        let found = pairs.rounds(self.args.rounds, |side, round, pair| {
            self.say(&format!("{what}, round {}, {side}", round + 1));
            round_trip::measure(pair, nodes, size, secs)
        });
        let Both { pillion, floor } = match found {
            Ok(both) => both,
            Err(trouble) => return self.rows.push(Row::failed(what, &trouble)),
        };
        let gated = nodes == Nodes::Two && !self.args.floor;
        let quantiles: [(_, Quantile, _); 3] = [
            ("p50", |trips| trips.p50_ns, gated.then_some(Target::RatioAtMost(1.25))),
            ("p99", |trips| trips.p99_ns, None),
            ("p99.9", |trips| trips.p999_ns, None),
        ];
        for (name, quantile, target) in quantiles {
            let sample = |trips: &[responder::RoundTrips]| {
                trips.iter().map(|t| seconds(quantile(t))).collect()
            };
            let what = if name == "p50" { format!("{what}: p50") } else { format!("  {name}") };
            self.rows.push(Row::beside(
                what,
                Unit::Seconds,
                sample(&pillion),
                sample(&floor),
                target,
            ));
        }
    }
}

impl Bench<'_> {
    fn call(&mut self, pairs: &Pairs, nodes: Nodes, in_flight: usize) {
        let what = format!("call, {}, {in_flight} in flight", nodes.print());
        let secs = self.args.seconds_per_cell;
        let found = pairs.rounds(self.args.rounds, |side, round, pair| {
            self.say(&format!("{what}, round {}, {side}", round + 1));
            caller::measure(pair, nodes, in_flight, secs)
        });
        let Both { pillion, floor } = match found {
            Ok(both) => both,
            Err(trouble) => return self.rows.push(Row::failed(what, &trouble)),
        };
        let gated = nodes == Nodes::Two && !self.args.floor;
        let (one, many) = (gated && in_flight == 1, gated && in_flight > 1);
        let rate = |cells: &[caller::Cell]| cells.iter().map(|cell| cell.rate).collect();
        let target = many.then_some(Target::RatioAtLeast(0.6));
        self.rows.push(Row::beside(what, Unit::PerSecond, rate(&pillion), rate(&floor), target));
        let quantiles: [(_, Quantile, _); 3] = [
            ("  p50", |trips| trips.p50_ns, one.then_some(Target::RatioAtMost(1.25))),
            ("  p99", |trips| trips.p99_ns, None),
            ("  p99.9", |trips| trips.p999_ns, None),
        ];
        for (what, quantile, target) in quantiles {
            let sample = |cells: &[caller::Cell]| {
                cells.iter().map(|cell| seconds(quantile(&cell.trips))).collect()
            };
            let (pillion, floor) = (sample(&pillion), sample(&floor));
            self.rows.push(Row::beside(what, Unit::Seconds, pillion, floor, target));
        }
        let cpu = |cells: &[caller::Cell]| cells.iter().filter_map(|cell| cell.cpu).collect();
        let target = many.then_some(Target::RatioAtMost(2.0));
        let what = "  processor of the nodes per call";
        self.rows.push(Row::beside(what, Unit::Seconds, cpu(&pillion), cpu(&floor), target));
    }

    /// What is counted once: it takes long, and differs little.
    fn many(&mut self) {
        if !self.args.wants(Part::Many) {
            return;
        }
        let once = |value| Sample(vec![value]);
        self.say("100 000 processes");
        for (named, what, bound) in [
            (false, "100 000 processes", 512.0),
            // The length of the name comes on top.
            (true, "100 000 processes with a local name", 512.0 + 10.0),
        ] {
            match many::processes(&self.scratch, named) {
                Ok(cost) => self.cost(what, cost, Some(bound)),
                Err(trouble) => self.rows.push(Row::failed(what, &trouble)),
            }
        }
        self.say("100 000 global names");
        match many::global_names(&self.scratch) {
            Ok((here, there)) => {
                self.cost("100 000 global names", here, None);
                self.cost("  until a peer knows them", there, None);
            }
            Err(trouble) => self.rows.push(Row::failed("100 000 global names", &trouble)),
        }
        self.say("10 000 monitors");
        let what = "one process dies, 10 000 monitors of it are told";
        self.rows.push(match many::monitors(&self.scratch) {
            Ok(took) => Row::plain(what, Unit::Seconds, once(took), None),
            Err(trouble) => Row::failed(what, &trouble),
        });
        self.say("50 000 processes in 10 groups each");
        let what = "a session of 50 000 processes in 10 groups each dies";
        match many::end(&self.scratch) {
            Ok(end) => {
                let target = Some(Target::AtMost(1.0));
                self.rows.push(Row::plain(what, Unit::Seconds, once(end.seconds), target));
                let what = "  the longest wait of another session";
                self.rows.push(Row::plain(what, Unit::Seconds, once(end.pause), None));
                let each = end.each.into_iter().collect();
                let what = "  memory of each membership";
                self.rows.push(Row::plain(what, Unit::BytesEach, each, None));
            }
            Err(trouble) => self.rows.push(Row::failed(what, &trouble)),
        }
    }

    fn cost(&mut self, what: &str, cost: many::Cost, bytes: Option<f64>) {
        let took = Sample(vec![cost.seconds]);
        self.rows.push(Row::plain(what, Unit::Seconds, took, Some(Target::AtMost(1.0))));
        let each = cost.each.into_iter().collect();
        let target = bytes.map(Target::AtMost);
        self.rows.push(Row::plain("  memory of each", Unit::BytesEach, each, target));
    }
}

type Quantile = fn(&responder::RoundTrips) -> u64;

/// The same cell through both, a value per round.
struct Both<T> {
    pillion: Vec<T>,
    floor: Vec<T>,
}

struct Pairs {
    floor: Pair,
    daemons: Option<Pair>,
}

impl Pairs {
    /// Measures both in every round, which of them first by turns: a busy second hits one of them as often as the other.
    fn rounds<T>(
        &self,
        rounds: usize,
        mut measure: impl FnMut(&str, usize, &Pair) -> Result<T, Trouble>,
    ) -> Result<Both<T>, Trouble> {
        let mut both = Both { pillion: Vec::new(), floor: Vec::new() };
        for round in 0..rounds {
            for turn in 0..2 {
                if (round + turn) % 2 == 0 {
                    both.floor.push(measure("floor", round, &self.floor)?);
                } else if let Some(daemons) = &self.daemons {
                    both.pillion.push(measure("daemons", round, daemons)?);
                }
            }
        }
        Ok(both)
    }
}

/// How far a benchmark has come, and how many steps there are.
fn bar(done: usize, all: usize) -> String {
    let full = (done * BAR).checked_div(all).map_or(BAR, |full| full.min(BAR));
    format!("[{}{}] {done}/{all}", "#".repeat(full), ".".repeat(BAR - full))
}

fn bytes(size: usize) -> String {
    match size {
        0..1024 => format!("{size} B"),
        _ if size.is_multiple_of(1 << 20) => format!("{} MiB", size >> 20),
        _ if size.is_multiple_of(1024) => format!("{} KiB", size / 1024),
        _ => format!("{size} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_full_at_the_end_and_not_before() {
        assert_eq!(bar(0, 8), format!("[{}] 0/8", ".".repeat(BAR)));
        assert!(bar(7, 8).contains('.'));
        assert_eq!(bar(8, 8), format!("[{}] 8/8", "#".repeat(BAR)));
        assert_eq!(bar(0, 0), format!("[{}] 0/0", "#".repeat(BAR)));
    }

    #[test]
    fn sizes_are_printed_as_people_say_them() {
        let sizes = [64, 1024, 1500, 16_384, 1 << 20].map(bytes);
        assert_eq!(sizes, ["64 B", "1 KiB", "1500 B", "16 KiB", "1 MiB"]);
    }
}
