//! Links and monitors while the network breaks: each end is told exactly once, after the last message.

use std::time::Duration;

use ciborium::Value;

use crate::app::{Signal, field, text};
use crate::world::{Draw, World, rounds, seed};

const NODES: [&str; 3] = ["a", "b", "c"];

/// A process that is watched: where, in which run of its node, and why it ended.
struct Watched {
    home: usize,
    run: u64,
    pid: String,
    ended: Option<&'static str>,
}

/// Who watches which process: a monitor by its reference, a link without one.
struct Watch {
    by: usize,
    run: u64,
    process: usize,
    reference: Option<u64>,
}

/// The three nodes, as the test knows them.
struct Nodes {
    world: World,
    own: [String; 3],
    runs: [u64; 3],
    down: [bool; 3],
}

impl Nodes {
    fn new(seed: u64) -> Self {
        let mut world = World::with_seed(seed);
        for node in NODES {
            world.start(node);
        }
        world.list("b", &["a"]);
        world.list("c", &["a", "b"]);
        world.pass(Duration::from_millis(5));
        let mut nodes = Self { world, own: Default::default(), runs: [0; 3], down: [false; 3] };
        for node in 0..NODES.len() {
            nodes.begin(node);
        }
        nodes
    }

    /// A run of a node begins.
    fn begin(&mut self, node: usize) {
        let trap = vec![("op", "flag".into()), ("trap_exit", true.into())];
        self.world.says(NODES[node], trap);
        let me = self.world.says(NODES[node], vec![("op", "self".into())]);
        self.own[node] = text(&me, "pid").expect("a pid");
        self.runs[node] += 1;
        self.down[node] = false;
    }

    fn crash(&mut self, node: usize) {
        self.world.crash(NODES[node]);
        self.down[node] = true;
    }

    fn bounce(&mut self, node: usize) {
        self.world.bounce(NODES[node]);
        self.world.pass(Duration::from_millis(5));
        self.begin(node);
    }

    /// Whether a process can be asked to do something.
    fn lives(&self, process: &Watched) -> bool {
        process.ended.is_none()
            && !self.down[process.home]
            && self.runs[process.home] == process.run
    }

    fn spawn(&mut self, home: usize) -> Watched {
        let told = self.world.says(NODES[home], vec![("op", "spawn".into())]);
        let pid = text(&told, "pid").expect("a pid");
        Watched { home, run: self.runs[home], pid, ended: None }
    }

    fn end(&mut self, process: &mut Watched, reason: &'static str) {
        let pid = ("pid", process.pid.as_str().into());
        let exit = vec![("op", "exit".into()), pid, ("reason", reason.into())];
        self.world.says(NODES[process.home], exit);
        process.ended = Some(reason);
    }
}

#[test]
fn under_partitions_crashes_and_churn_each_link_and_monitor_is_told_of_the_end_once_after_the_last_message()
 {
    let mut reasons = std::collections::BTreeSet::new();
    for round in 0..rounds(6) {
        let mut nodes = Nodes::new(seed() + round);
        let mut draw = Draw::new(nodes.world.seed);
        let (mut processes, mut watches): (Vec<Watched>, Vec<Watch>) = (Vec::new(), Vec::new());
        let mut said = 0_u64;
        for _ in 0..150 {
            let (i, j) = (draw.below(3), draw.below(3));
            let some = draw.below(processes.len().max(1));
            match draw.below(22) {
                0 if i != j => nodes.world.partition(NODES[i], NODES[j]),
                1 if i != j => nodes.world.cut(NODES[i], NODES[j]),
                2..=4 if i != j => nodes.world.heal(NODES[i], NODES[j]),
                5 if !nodes.down[i] => nodes.crash(i),
                _ if nodes.down[i] => nodes.bounce(i),
                6..=8 => processes.push(nodes.spawn(i)),
                9..=13 if !processes.is_empty() => {
                    let to = ("to", processes[some].pid.as_str().into());
                    let told = nodes.world.says(NODES[i], vec![("op", "monitor".into()), to]);
                    let reference = field(&told, "ref").and_then(Value::as_integer);
                    let reference = reference.and_then(|r| u64::try_from(r).ok());
                    assert!(reference.is_some(), "seed {}: {told:?}", nodes.world.seed);
                    watches.push(Watch { by: i, run: nodes.runs[i], process: some, reference });
                }
                14 | 15 if !processes.is_empty() => {
                    let run = nodes.runs[i];
                    let linked =
                        |w: &Watch| (w.by, w.run, w.process, w.reference) == (i, run, some, None);
                    if !watches.iter().any(linked) {
                        let to = ("to", processes[some].pid.as_str().into());
                        nodes.world.says(NODES[i], vec![("op", "link".into()), to]);
                        watches.push(Watch { by: i, run, process: some, reference: None });
                    }
                }
                16..=19 if !processes.is_empty() && nodes.lives(&processes[some]) => {
                    said += 1;
                    let process = &processes[some];
                    let send = vec![
                        ("op", "send".into()),
                        ("pid", process.pid.as_str().into()),
                        ("to", nodes.own[i].as_str().into()),
                        ("body", said.into()),
                    ];
                    nodes.world.says(NODES[process.home], send);
                }
                _ if !processes.is_empty() && nodes.lives(&processes[some]) => {
                    nodes.end(&mut processes[some], "done");
                }
                _ => {}
            }
            nodes.world.pass(Duration::from_millis(u64::try_from(draw.below(300)).expect("small")));
        }
        for (i, node) in NODES.iter().enumerate() {
            for other in NODES.iter().filter(|other| *other != node) {
                nodes.world.heal(node, other);
            }
            if nodes.down[i] {
                nodes.bounce(i);
            }
        }
        nodes.world.pass(Duration::from_secs(20));
        for process in &mut processes {
            if nodes.lives(process) {
                nodes.end(process, "end");
            }
        }
        nodes.world.pass(Duration::from_secs(20));
        let seed = nodes.world.seed;
        for watch in watches.iter().filter(|watch| watch.run == nodes.runs[watch.by]) {
            let process = &processes[watch.process];
            let app = nodes.world.app(NODES[watch.by]).expect("it runs");
            let seen = app.seen();
            let told: Vec<(usize, &str)> = seen
                .signals
                .iter()
                .enumerate()
                .filter_map(|(at, signal)| match (signal, watch.reference) {
                    (Signal::Down { reference, reason }, Some(r)) if *reference == r => {
                        Some((at, &**reason))
                    }
                    (Signal::Exit { from, reason }, None) if *from == process.pid => {
                        Some((at, &**reason))
                    }
                    _ => None,
                })
                .collect();
            let [(at, reason)] = told.as_slice() else {
                panic!("seed {seed}: {} was told {told:?} of {}", NODES[watch.by], process.pid);
            };
            reasons.insert((*reason).to_owned());
            let own = process.ended.is_some_and(|ended| ended == *reason);
            // A link to a node that is lost ends the process too, and then that is its reason for all.
            let linked = watches
                .iter()
                .any(|w| (w.process, w.reference) == (watch.process, None) && w.by != process.home);
            let here = watch.by == process.home && watch.run == process.run && !linked;
            assert!(
                own || *reason == "noproc" || (*reason == "noconnection" && !here),
                "seed {seed}: {} was told {reason} of {}, which ended {:?}",
                NODES[watch.by],
                process.pid,
                process.ended,
            );
            // One that was only lost from sight may say more when it is seen again.
            let after = seen.signals[*at..].iter().any(
                |signal| matches!(signal, Signal::Message { from, .. } if *from == process.pid),
            );
            assert!(
                !after || *reason == "noconnection",
                "seed {seed}: {} said something after its end",
                process.pid,
            );
            let mut last = 0;
            for signal in &seen.signals {
                if let Signal::Message { from, body } = signal
                    && *from == process.pid
                {
                    assert!(*body > last, "seed {seed}: {} is out of order", process.pid);
                    last = *body;
                }
            }
        }
    }
    for reason in ["done", "end", "noconnection", "noproc"] {
        assert!(reasons.contains(reason), "{reason} is not among {reasons:?}");
    }
}
