//! `mdns` between machines: network namespaces joined by a switch, one node in each.
//!
//! Needs root and `ip`; where there is neither, each test says so and passes. Nothing outside of the
//! namespaces is touched, and they go when the test does, whatever its end.

#![allow(clippy::disallowed_methods, reason = "a test waits for real processes, in real time")]
#![cfg(all(feature = "mdns", target_os = "linux"))]

use std::fmt::Write;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use pillion_strategies::conformance::announcement;
use pillion_strategies::{Announcement, Health, Report, Reporter, Surroundings, build};

/// The longest that a report of another process is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Makes this binary a node: its number.
const HELPER: &str = "PILLION_MDNS_HELPER";
/// Set to run the test that waits for a record's two minutes.
const SLOW: &str = "PILLION_SLOW_TESTS";
const MARK: &str = "REPORT ";

/// A switch and the machines that are plugged into it.
struct Lan {
    name: String,
    machines: Vec<String>,
}

impl Lan {
    /// A switch with `machines` plugged in: each has a link `net0` that is down and has no address.
    fn new(machines: u8) -> Result<Self, String> {
        static LANS: AtomicU32 = AtomicU32::new(0);
        let name = format!("pl{}x{}", std::process::id(), LANS.fetch_add(1, Ordering::Relaxed));
        let mut lan = Self { name, machines: Vec::new() };
        let switch = lan.machine("sw")?;
        ip(&format!("-n {switch} link add br0 type bridge"))?;
        ip(&format!("-n {switch} link set br0 up"))?;
        for n in 1..=machines {
            let machine = lan.machine(&n.to_string())?;
            ip(&format!(
                "link add net0 netns {machine} type veth peer name port{n} netns {switch}"
            ))?;
            ip(&format!("-n {switch} link set port{n} master br0 up"))?;
        }
        Ok(lan)
    }

    fn machine(&mut self, suffix: &str) -> Result<String, String> {
        let machine = format!("{}{suffix}", self.name);
        ip(&format!("netns add {machine}"))?;
        self.machines.push(machine.clone());
        ip(&format!("-n {machine} link set lo up"))?;
        Ok(machine)
    }

    fn link(&self, n: u8, state: &str) {
        ip(&format!("-n {}{n} link set net0 {state}", self.name)).expect("a link");
    }

    /// Gives machine `n` its addresses and takes its link up.
    fn up(&self, n: u8) {
        ip(&format!("-n {}{n} addr replace 10.77.0.{n}/24 dev net0", self.name))
            .expect("an address");
        ip(&format!("-n {}{n} addr replace fd77::{n}/64 dev net0 nodad", self.name))
            .expect("an address");
        self.link(n, "up");
    }

    /// Starts node `node` on machine `n`.
    fn start(&self, n: u8, node: u16) -> Helper {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("{}{n}", self.name)]);
        command.arg(std::env::current_exe().expect("this binary"));
        command.args(["--exact", "helper_process", "--nocapture"]).env(HELPER, node.to_string());
        Helper::start(command)
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for machine in &self.machines {
            let _ = ip(&format!("netns del {machine}"));
        }
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let done = Command::new("ip").args(arguments.split(' ')).stdin(Stdio::null()).output();
    let done = done.map_err(|error| format!("no `ip`: {error}"))?;
    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    if done.status.success() { Ok(()) } else { Err(format!("ip {arguments}: {said}")) }
}

/// A node in a process of its own, and what it reports.
struct Helper {
    process: Child,
    reports: Receiver<String>,
    last: String,
}

impl Helper {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("a helper");
        let lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let (sender, reports) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((_, report)) = line.split_once(MARK)
                    && sender.send(report.to_owned()).is_err()
                {
                    break;
                }
            }
        });
        Self { process, reports, last: String::new() }
    }

    /// Waits for a report of which `holds` is true; the last one counts too.
    fn until(&mut self, what: &str, holds: impl Fn(&str) -> bool) -> &str {
        let by = Instant::now() + PATIENCE;
        self.until_by(what, by, holds)
    }

    fn until_by(&mut self, what: &str, by: Instant, holds: impl Fn(&str) -> bool) -> &str {
        while !holds(&self.last) {
            let left = by.saturating_duration_since(Instant::now());
            match self.reports.recv_timeout(left) {
                Ok(report) => self.last = report,
                Err(why) => panic!("no report of {what} ({why}); the last is {}", self.last),
            }
        }
        &self.last
    }

    fn sees(&mut self, node: u16) -> &str {
        self.until(&format!("node {node}"), |report| report.contains(&spelled(node)))
    }

    fn forgets(&mut self, node: u16) -> &str {
        self.until(&format!("the end of node {node}"), |report| !report.contains(&spelled(node)))
    }

    fn is_well(&mut self) -> &str {
        self.until("being well", |report| report.starts_with("Well"))
    }

    /// Ends the node in good order: it says goodbye.
    fn stop(mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }

    /// Ends it with `SIGKILL`.
    fn kill(mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spelled(node: u16) -> String {
    format!(" node-{node}@hal ")
}

/// Not a promise: the node that the tests start in their namespaces.
#[tokio::test]
async fn helper_process() {
    let Ok(number) = std::env::var(HELPER) else { return };
    let number: u16 = number.parse().expect("a number");
    let (asked_to_stop, stop) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = asked_to_stop.send(());
    });
    let surroundings = Surroundings { registry: PathBuf::new(), interval: Duration::from_secs(5) };
    let strategy = build("mdns", &surroundings).expect("mdns");
    let announcement = announcement(number);
    let listen = format!("[::]:{}", announcement.listen[0].port()).parse().expect("an address");
    let announcement = Announcement { listen: vec![listen], ..announcement };
    let (reporter, mut reports) = Reporter::new();
    let print = async {
        while reports.changed().await.is_ok() {
            println!("{MARK}{}", line(&reports.borrow_and_update()));
        }
    };
    tokio::select! {
        biased;
        _ = stop => {}
        ended = strategy.run(announcement, &reporter) => panic!("it ended: {ended:?}"),
        () = print => {}
    }
}

/// `Well: node-1@hal 00... 10.77.0.1:4470 [fd77::1]:4470; ...`
fn line(report: &Report) -> String {
    let health = match &report.health {
        Health::Starting => "Starting".to_owned(),
        Health::Well => "Well".to_owned(),
        Health::Unwell(why) => format!("Unwell ({why})"),
    };
    let mut line = format!("{health}:");
    for sighting in &report.sightings {
        let node = sighting.node.as_deref().unwrap_or("?");
        let incarnation = sighting.incarnation.unwrap_or_default();
        let addresses: Vec<String> = sighting.addresses.iter().map(ToString::to_string).collect();
        let _ = write!(line, " {node} {incarnation:016x} {};", addresses.join(" "));
    }
    line
}

/// A LAN, or the end of the test.
macro_rules! lan {
    ($machines:expr) => {
        match Lan::new($machines) {
            Ok(lan) => lan,
            Err(why) => return println!("SKIPPED: {why}"),
        }
    };
}

#[test]
fn two_machines_see_each_other_and_hear_the_goodbye() {
    let lan = lan!(2);
    lan.up(1);
    lan.up(2);
    let mut a = lan.start(1, 1);
    a.is_well();
    let started = Instant::now();
    let mut b = lan.start(2, 2);
    b.sees(1);
    a.sees(2);
    println!("both saw each other {:?} after the start of the second", started.elapsed());
    let both =
        |report: &str| report.contains("10.77.0.2:40002") && report.contains("[fd77::2]:40002");
    let seen = a.until("both kinds of addresses", both);
    assert!(!seen.contains("127.0.0.1") && !seen.contains("fe80"), "{seen}");
    b.stop();
    let stopped = Instant::now();
    a.forgets(2);
    println!("the goodbye was heard after {:?}", stopped.elapsed());
}

#[test]
fn a_node_that_was_killed_and_started_again_is_one_node() {
    let lan = lan!(2);
    lan.up(1);
    lan.up(2);
    let mut a = lan.start(1, 1);
    let b = lan.start(2, 2);
    let old = a
        .sees(2)
        .split(&spelled(2))
        .nth(1)
        .expect("it")
        .split(' ')
        .next()
        .expect("16 digits")
        .to_owned();
    b.kill();
    let mut b = lan.start(2, 2);
    let new = |report: &str| report.contains(&spelled(2)) && !report.contains(&old);
    let seen = a.until("the new run alone", new);
    assert_eq!(seen.matches(&spelled(2)).count(), 1, "{seen}");
    b.sees(1);
}

#[test]
fn an_interface_that_goes_and_comes_is_taken_up_again_and_nobody_is_dropped_meanwhile() {
    let lan = lan!(3);
    (1..=3).for_each(|n| lan.up(n));
    let mut a = lan.start(1, 1);
    let mut b = lan.start(2, 2);
    a.sees(2);
    b.sees(1);
    lan.link(1, "down");
    let seen = a.until("no network", |report| report.contains("no network interface"));
    assert!(seen.contains(&spelled(2)), "{seen}");
    // One that started where the first could not hear it.
    let mut c = lan.start(3, 3);
    b.sees(3);
    lan.up(1);
    let back = Instant::now();
    a.sees(3);
    c.sees(1);
    println!("taken up again {:?} after the link was", back.elapsed());
    let seen = a.is_well();
    assert!(seen.contains(&spelled(2)) && seen.contains(&spelled(3)), "{seen}");
}

#[test]
fn a_network_that_comes_after_the_start_is_used() {
    let lan = lan!(2);
    lan.up(2);
    let mut b = lan.start(2, 2);
    let mut a = lan.start(1, 1);
    a.until("no network", |report| report.contains("no network interface"));
    b.is_well();
    lan.up(1);
    a.sees(2);
    b.sees(1);
    a.is_well();
}

#[test]
fn a_cable_without_addresses_is_enough() {
    let lan = lan!(2);
    lan.link(1, "up");
    lan.link(2, "up");
    let mut a = lan.start(1, 1);
    let mut b = lan.start(2, 2);
    b.sees(1);
    let seen = a.sees(2);
    assert!(seen.contains("[fe80::") && seen.contains('%'), "{seen}");
}

#[test]
fn a_node_that_was_killed_is_forgotten_when_its_records_run_out() {
    if std::env::var_os(SLOW).is_none() {
        return println!("SKIPPED: it waits for two minutes; set {SLOW} to run it");
    }
    let lan = lan!(2);
    lan.up(1);
    lan.up(2);
    let mut a = lan.start(1, 1);
    let b = lan.start(2, 2);
    a.sees(2);
    b.kill();
    let killed = Instant::now();
    a.until_by("its end", killed + Duration::from_secs(150), |report| {
        !report.contains(&spelled(2))
    });
    println!("forgotten {:?} after the kill", killed.elapsed());
}
