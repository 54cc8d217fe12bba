//! The parts about topics: what is published, by whom, through which nodes, to how many.

use std::time::Duration;

use super::others::{Kind, Others};
use super::process::{self, Trouble};
use super::publisher::Say;
use super::report::{Row, Target};
use super::responder::RoundTrips;
use super::sample::{self, Sample, Unit, seconds};
use super::send::{Course, Sent};
use super::subscriber::Hears;
use super::way::{FAR, NEAR, Nodes, Pair};
use super::{Bench, Both, Pairs, Part, bytes};
use super::{mesh, slow};

/// Sizes of bodies where the command names none: of `pubsub`, and of `fanout`.
const SIZES: [usize; 5] = [16, 64, 1024, 16_384, 1 << 20];
const FANOUT_SIZES: [usize; 3] = [64, 1024, 16_384];
/// More subscribers than that are measured with the smallest body only.
const FEW: usize = 4;
/// The body of the cells that are about something else than its size.
const BODY_BYTES: usize = 64;
/// What the daemons may keep in memory at most, whatever is published.
const RESIDENT_MAX: f64 = 64.0 * 1024.0 * 1024.0;
/// So many subscriptions show what each takes.
const MANY: u32 = 100_000;
/// What a subscription may take.
const SUBSCRIPTION_MAX: f64 = 0.28 * 1024.0;

type Quantile = fn(&RoundTrips) -> u64;
const QUANTILES: [(&str, Quantile); 3] = [
    ("  p50", |trips| trips.p50_ns),
    ("  p99", |trips| trips.p99_ns),
    ("  p99.9", |trips| trips.p999_ns),
];

/// What is published to subscribers of one topic.
fn course(
    pair: &Pair,
    nodes: Nodes,
    subscribers: usize,
    body_bytes: usize,
    seconds: f64,
) -> Course<'_> {
    let topic = if nodes == Nodes::One { NEAR } else { FAR };
    Course {
        enter: pair.enter(),
        leave: vec![pair.leave(nodes).to_owned(); subscribers],
        ids: pair.ids(nodes),
        say: Say::Publish { topic: topic.to_owned() },
        hears: Hears::Topic(topic.to_owned()),
        publishers: 1,
        body_bytes,
        seconds,
        rate: None,
    }
}

impl Bench<'_> {
    pub(super) fn topics(&mut self) -> Result<(), Trouble> {
        if let Some(duration) = self.args.soak {
            return self.soak(duration);
        }
        let (pubsub, fanout) = (self.args.wants(Part::Pubsub), self.args.wants(Part::Fanout));
        if pubsub || fanout {
            let floor = Pair::floor(&self.scratch, "topics-floor")?;
            let daemons =
                if self.args.floor { None } else { Some(Pair::daemons(&self.scratch, "topics")?) };
            let pairs = Pairs { floor, daemons };
            if pubsub {
                self.pubsub(&pairs);
            }
            if fanout {
                self.fanout(&pairs);
            }
            if let Some(pair) = pairs.daemons.as_ref().filter(|_| pubsub) {
                self.slow(pair);
            }
            if let Some(pair) = &pairs.daemons {
                let ids = pair.ids(Nodes::Two).iter();
                let peaks = ids.filter_map(|id| process::resident_bytes(*id, true));
                let sample = peaks.map(sample::float).collect();
                let what = "after all that was published: peak of memory";
                let target = Some(Target::AtMost(RESIDENT_MAX));
                self.rows.push(Row::plain(what, Unit::Bytes, sample, target));
            }
        }
        if pubsub
            && !self.args.floor
            && let Err(trouble) = self.others()
        {
            self.rows.push(Row::failed("subscriptions of others", &trouble));
        }
        if self.args.wants(Part::Mesh) && !self.args.floor {
            self.mesh();
        }
        Ok(())
    }

    fn sizes_or(&self, sizes: &[usize]) -> Vec<usize> {
        self.args.sizes.clone().unwrap_or_else(|| sizes.to_vec())
    }

    fn pubsub(&mut self, pairs: &Pairs) {
        let publishers = self.args.publishers;
        let mut top = None;
        for nodes in [Nodes::One, Nodes::Two] {
            for size in self.sizes_or(&SIZES) {
                let from = if publishers == 1 { "1".to_owned() } else { publishers.to_string() };
                let what = format!("publish {}, {from} to 1, {}", bytes(size), nodes.print());
                let both = self.published(pairs, &what, |pair, secs| {
                    Course { publishers, ..course(pair, nodes, 1, size, secs) }.run()
                });
                let Some(both) = both else { continue };
                let bound = if size < 1024 { 0.5 } else { 0.75 };
                let rate = (64..=16_384).contains(&size).then_some(Target::RatioAtLeast(bound));
                let cpu =
                    (size == BODY_BYTES && nodes == Nodes::Two).then_some(Target::RatioAtMost(1.7));
                if size == BODY_BYTES && nodes == Nodes::Two {
                    let of = if self.args.floor { &both.floor } else { &both.pillion };
                    top = of.iter().map(|sent| sent.rate).collect::<Sample>().median();
                }
                self.sent(what, &both, rate, cpu);
            }
        }
        let Some(top) = top else { return };
        let what = format!("under way, {BODY_BYTES} B at half of that rate, two nodes");
        let both = self.published(pairs, &what, |pair, secs| {
            let rate = Some(top / 2.0);
            Course { rate, ..course(pair, Nodes::Two, 1, BODY_BYTES, secs) }.run()
        });
        if let Some(both) = both {
            self.under_way(&what, &both);
        }
    }

    fn under_way(&mut self, what: &str, both: &Both<Sent>) {
        let rates = |sent: &[Sent]| sent.iter().map(|sent| sent.rate).collect();
        let (pillion, floor) = (rates(&both.pillion), rates(&both.floor));
        self.rows.push(Row::beside(what, Unit::PerSecond, pillion, floor, None));
        for (name, quantile) in QUANTILES {
            let sample = |sent: &[Sent]| {
                let trips = sent.iter().filter_map(|sent| sent.trips.as_ref());
                trips.map(|trips| seconds(quantile(trips))).collect()
            };
            let (pillion, floor) = (sample(&both.pillion), sample(&both.floor));
            self.rows.push(Row::beside(name, Unit::Seconds, pillion, floor, None));
        }
    }

    fn fanout(&mut self, pairs: &Pairs) {
        for count in self.args.subscribers.clone() {
            for (place, size) in self.sizes_or(&FANOUT_SIZES).into_iter().enumerate() {
                if place > 0 && count > FEW {
                    continue;
                }
                let publishers = self.args.publishers;
                let size_text = bytes(size);
                let what = format!("publish {size_text}, {publishers} to {count}, two nodes");
                let both = self.published(pairs, &what, |pair, secs| {
                    Course { publishers, ..course(pair, Nodes::Two, count, size, secs) }.run()
                });
                let Some(both) = both else { continue };
                let target = (count <= FEW).then_some(Target::RatioAtLeast(0.5));
                self.sent(what, &both, target, None);
            }
        }
    }

    /// A cell in all rounds; the row of its failure when it failed.
    fn published(
        &mut self,
        pairs: &Pairs,
        what: &str,
        mut run: impl FnMut(&Pair, f64) -> Result<Sent, Trouble>,
    ) -> Option<Both<Sent>> {
        let secs = self.args.seconds_per_cell;
        let found = pairs.rounds(self.args.rounds, |side, round, pair| {
            self.say(&format!("{what}, round {}, {side}", round + 1));
            run(pair, secs)
        });
        match found {
            Ok(both) => Some(both),
            Err(trouble) => {
                self.rows.push(Row::failed(what, &trouble));
                None
            }
        }
    }

    /// The rows of a cell: delivered per second, and the processor time of each delivery.
    fn sent(&mut self, what: String, both: &Both<Sent>, rate: Option<Target>, cpu: Option<Target>) {
        let gated = |target: Option<Target>| target.filter(|_| !self.args.floor);
        let rates = |sent: &[Sent]| sent.iter().map(|sent| sent.rate).collect();
        let (pillion, floor) = (rates(&both.pillion), rates(&both.floor));
        let rate = Row::beside(what, Unit::PerSecond, pillion, floor, gated(rate));
        let nodes = |sent: &[Sent]| sent.iter().filter_map(|sent| sent.cpu).collect();
        let what = "  processor of the nodes per delivery";
        let (pillion, floor) = (nodes(&both.pillion), nodes(&both.floor));
        let cpu = Row::beside(what, Unit::Seconds, pillion, floor, gated(cpu));
        let all = |sent: &[Sent]| sent.iter().filter_map(|sent| sent.cpu_all).collect();
        let what = "  processor of all processes per delivery";
        let (pillion, floor) = (all(&both.pillion), all(&both.floor));
        let all = Row::beside(what, Unit::Seconds, pillion, floor, None);
        self.rows.extend([rate, cpu, all]);
    }

    /// The same where not the floor but another cell of our own is what it is compared with.
    fn sent_beside(&mut self, what: String, both: &Both<Sent>, rate: Option<Target>, note: &str) {
        let before = self.rows.len();
        self.sent(what, both, rate, None);
        self.rows[before].note = Some(note.to_owned());
    }

    /// Many subscriptions beside the one that is published to, and then all of them published to in turn.
    fn others(&mut self) -> Result<(), Trouble> {
        let plain = Pair::daemons(&self.scratch, "others-none")?;
        let mut others = Vec::new();
        for kind in [Kind::Exact, Kind::Wildcard] {
            let pair = Pair::daemons(&self.scratch, &format!("others-{}", kind.print()))?;
            others.push(Others::new(kind, pair)?);
        }
        let secs = self.args.seconds_per_cell;
        for count in self.args.others.clone() {
            for other in &mut others {
                self.say(&format!("{count} subscriptions"));
                other.grow(count)?;
            }
            let mut found = [const { Vec::new() }; 3];
            for round in 0..self.args.rounds {
                for turn in 0..found.len() {
                    let place = (round + turn) % found.len();
                    let pair = if place == 0 { &plain } else { &others[place - 1].pair };
                    self.say(&format!("beside {count} subscriptions, round {}", round + 1));
                    found[place].push(course(pair, Nodes::Two, 1, BODY_BYTES, secs).run()?);
                }
            }
            let [none, beside @ ..] = found;
            for (other, beside) in others.iter().zip(beside) {
                let what = format!("beside {count} {} subscriptions", other.kind.print());
                let target = Some(Target::RatioAtLeast(0.7));
                let both = Both { pillion: beside, floor: none.clone() };
                self.sent_beside(what, &both, target, "the ratio is that to our own without them");
                let [here, there] = other.each();
                let what = "  memory of each";
                // What a node grows by anyway would count as much as few of them.
                let many = count >= MANY;
                let target = many.then_some(Target::AtMost(SUBSCRIPTION_MAX));
                let here = here.into_iter().collect();
                self.rows.push(Row::plain(what, Unit::BytesEach, here, target));
                let what = "  memory of each at the other node";
                let there = there.into_iter().collect();
                self.rows.push(Row::plain(what, Unit::BytesEach, there, target));
            }
        }
        drop(others);
        let most = self.args.others.iter().copied().max().unwrap_or(0);
        let cells = [(1, Kind::Exact), (most, Kind::Exact), (most, Kind::Wildcard)];
        let mut found = [const { Vec::new() }; 3];
        for round in 0..self.args.rounds {
            for turn in 0..cells.len() {
                let place = (round + turn) % cells.len();
                let (count, kind) = cells[place];
                self.say(&format!("{count} topics in turn, round {}", round + 1));
                let sent = Course {
                    say: Say::InTurn(kind.matching("turn", count)),
                    hears: Hears::Topics(kind.topics("turn", count)),
                    ..course(&plain, Nodes::Two, 1, BODY_BYTES, secs)
                };
                found[place].push(sent.run()?);
            }
        }
        let [one, many @ ..] = found;
        for ((count, kind), many) in cells[1..].iter().zip(many) {
            let what =
                format!("published to {count} topics in turn, {} subscriptions", kind.print());
            let both = Both { pillion: many, floor: one.clone() };
            self.sent_beside(what, &both, None, "the ratio is that to our own with one topic");
        }
        Ok(())
    }

    /// Subscribers that read as ever, without and with one beside them that does not read at all.
    fn slow(&mut self, pair: &Pair) {
        let secs = self.args.seconds_per_cell;
        let mut found = Both { pillion: Vec::new(), floor: Vec::new() };
        for round in 0..self.args.rounds {
            for turn in 0..2 {
                let stopped = (round + turn) % 2 == 1;
                self.say(&format!("beside a stopped subscriber, round {}", round + 1));
                let leave = vec![pair.leave(Nodes::Two).to_owned(); 3];
                let rate = Some(slow::RATE);
                let fast = Course { leave, rate, ..course(pair, Nodes::Two, 1, BODY_BYTES, secs) };
                let to = if stopped { &mut found.pillion } else { &mut found.floor };
                match slow::measure(&fast, stopped) {
                    Ok(sent) => to.push(sent),
                    Err(trouble) => {
                        self.rows.push(Row::failed("beside a stopped subscriber", &trouble));
                        return;
                    }
                }
            }
        }
        let what = "three subscribers beside one that is stopped";
        let before = self.rows.len();
        self.under_way(what, &found);
        self.rows[before].note = Some("the ratio is that to our own without it".to_owned());
    }

    fn soak(&mut self, duration: Duration) -> Result<(), Trouble> {
        let pair = Pair::daemons(&self.scratch, "soak")?;
        let progress = self.progress;
        for soaked in slow::soak(&pair, duration, |left| {
            if progress {
                eprint!("\r\x1b[Ksoak, {} s left", left.as_secs());
            }
        })? {
            let what = format!("soak, {}: published", soaked.mailbox);
            let count = |count: u64| Sample(vec![sample::float(count)]);
            self.rows.push(Row::plain(what, Unit::Count, count(soaked.published), None));
            for (what, value) in [
                ("  delivered", soaked.delivered),
                ("  lost, told in place by gaps", soaked.gaps),
                ("  lost, told to the publisher", soaked.failed),
            ] {
                self.rows.push(Row::plain(what, Unit::Count, count(value), None));
            }
            let what = "  neither delivered nor told, or out of order";
            let target = Some(Target::AtMost(0.0));
            let wrong = count(soaked.untold + soaked.misplaced);
            self.rows.push(Row::plain(what, Unit::Count, wrong, target));
            if let Some((first, last, peak)) = soaked.resident {
                let what = "  memory of both nodes in the first tenth";
                self.rows.push(Row::plain(what, Unit::Bytes, first, None));
                let what = "  memory of both nodes in the last tenth";
                let grown = Row::plain(what, Unit::Bytes, last, None);
                self.rows.push(grown);
                let target = Some(Target::AtMost(2.0 * RESIDENT_MAX));
                let what = "  peak of memory of both nodes";
                self.rows.push(Row::plain(what, Unit::Bytes, peak, target));
            }
        }
        Ok(())
    }

    fn mesh(&mut self) {
        let count = self.args.nodes;
        let what = format!("{count} nodes: start of all to full mesh");
        let (mut joined, mut sent, mut resident) =
            (Sample::default(), Vec::new(), Sample::default());
        for round in 0..self.args.rounds {
            self.say(&format!("mesh of {count} nodes, round {}", round + 1));
            let secs = self.args.seconds_per_cell;
            match mesh::measure(&self.scratch, round, count, BODY_BYTES, secs) {
                Ok(found) => {
                    joined.push(found.joined);
                    resident.0.extend(found.resident);
                    sent.push((found.sent, found.trips));
                }
                Err(trouble) => return self.rows.push(Row::failed(what, &trouble)),
            }
        }
        let target = (count == 16).then_some(Target::AtMost(0.31));
        self.rows.push(Row::plain(what, Unit::Seconds, joined, target));
        let what = format!("publish {BODY_BYTES} B, one node to the {} others", count - 1);
        let rate = sent.iter().map(|(sent, _)| sent.rate).collect();
        self.rows.push(Row::plain(what, Unit::PerSecond, rate, None));
        let cpu = sent.iter().filter_map(|(sent, _)| sent.cpu).collect();
        let what = "  processor of the nodes per delivery";
        self.rows.push(Row::plain(what, Unit::Seconds, cpu, None));
        let all = sent.iter().filter_map(|(sent, _)| sent.cpu_all).collect();
        let what = "  processor of all processes per delivery";
        self.rows.push(Row::plain(what, Unit::Seconds, all, None));
        for (name, quantile) in QUANTILES {
            let what = format!("{name} under way, 100 publications per second");
            let sample = sent.iter().map(|(_, trips)| seconds(quantile(trips))).collect();
            self.rows.push(Row::plain(what, Unit::Seconds, sample, None));
        }
        let what = "  peak of memory of a node";
        let target = Some(Target::AtMost(RESIDENT_MAX));
        self.rows.push(Row::plain(what, Unit::Bytes, resident, target));
    }

    /// How many cells these parts have, for the progress bar.
    pub(super) fn topic_cells(&self) -> usize {
        let args = self.args;
        let sides = if args.floor { 1 } else { 2 };
        let (rounds, mut cells) = (args.rounds, 0);
        if args.wants(Part::Pubsub) {
            cells += (2 * self.sizes_or(&SIZES).len() + 1) * rounds * sides;
            if !args.floor {
                cells += 2 * rounds + args.others.len() * (3 * rounds + 2) + 3 * rounds;
            }
        }
        if args.wants(Part::Fanout) {
            let sizes = self.sizes_or(&FANOUT_SIZES).len();
            let of = |count: &usize| if *count > FEW { 1 } else { sizes };
            cells += args.subscribers.iter().map(of).sum::<usize>() * rounds * sides;
        }
        if args.wants(Part::Mesh) && !args.floor {
            cells += rounds;
        }
        cells
    }
}
