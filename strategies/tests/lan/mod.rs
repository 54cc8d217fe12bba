//! Machines and a switch, made of network namespaces, and nodes on them that report what they see.
//!
//! Needs root and `ip`; where there is neither, each test says so and passes. Nothing outside of the namespaces is
//! touched, and they go when the test does, whatever its end.

#![allow(dead_code, reason = "each of those who use it needs a part of it")]

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use pillion_strategies::conformance::announcement;
use pillion_strategies::{Announcement, Health, Report, Reporter, Strategy};

/// The longest that a report of another process is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Makes this binary a node: its number, its name and its strategy.
const HELPER: &str = "PILLION_LAN_HELPER";
const MARK: &str = "REPORT ";

/// A switch and the machines that are plugged into it.
pub struct Lan {
    name: String,
    machines: Vec<String>,
}

impl Lan {
    /// A switch with `machines` plugged in: each has a link `net0` that is down and has no address.
    ///
    /// # Errors
    /// Why there can be none here.
    pub fn new(machines: u8) -> Result<Self, String> {
        static LANS: AtomicU32 = AtomicU32::new(0);
        let name = format!("pl{}x{}", std::process::id(), LANS.fetch_add(1, Ordering::Relaxed));
        let mut lan = Self { name, machines: Vec::new() };
        let switch = lan.machine("sw")?;
        ip(&format!("-n {switch} link add br0 type bridge"))?;
        ip(&format!("-n {switch} link set br0 up"))?;
        for n in 1..=machines {
            lan.machine(&n.to_string())?;
            lan.plug(n)?;
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

    pub fn link(&self, n: u8, state: &str) {
        ip(&format!("-n {}{n} link set net0 {state}", self.name)).expect("a link");
    }

    /// Gives machine `n` its addresses and takes its link up.
    pub fn up(&self, n: u8) {
        ip(&format!("-n {}{n} addr replace 10.77.0.{n}/24 dev net0", self.name))
            .expect("an address");
        ip(&format!("-n {}{n} addr replace fd77::{n}/64 dev net0 nodad", self.name))
            .expect("an address");
        self.link(n, "up");
    }

    /// Makes machine `n` the host of containers, with machine `inner` as one of them, at 172.17.0.2 behind `docker0`.
    pub fn containers(&self, n: u8, inner: u8) {
        self.ip(n, "link add docker0 type bridge");
        self.ip(n, "addr add 172.17.0.1/16 dev docker0");
        self.ip(n, "link set docker0 up");
        let (host, container) = (format!("{}{n}", self.name), format!("{}{inner}", self.name));
        ip(&format!("link add eth0 netns {container} type veth peer name veth0 netns {host}"))
            .expect("a cable");
        self.ip(n, "link set veth0 master docker0 up");
        self.ip(inner, "addr add 172.17.0.2/16 dev eth0");
        self.ip(inner, "link set eth0 up");
    }

    /// Takes the link of machine `n` out of it and plugs a new one in, which is down and has no address.
    pub fn replug(&self, n: u8) {
        self.ip(n, "link del net0");
        self.plug(n).expect("a link");
    }

    fn plug(&self, n: u8) -> Result<(), String> {
        let (machine, switch) = (format!("{}{n}", self.name), format!("{}sw", self.name));
        ip(&format!("link add net0 netns {machine} type veth peer name port{n} netns {switch}"))?;
        ip(&format!("-n {switch} link set port{n} master br0 up"))
    }

    /// Gives machine `n` the addresses of number `to` instead of its own.
    pub fn moves(&self, n: u8, to: u8) {
        // In this order: the second address of a network goes with the first.
        self.ip(n, &format!("addr del 10.77.0.{n}/24 dev net0"));
        self.ip(n, &format!("addr add 10.77.0.{to}/24 dev net0"));
        self.ip(n, &format!("addr del fd77::{n}/64 dev net0"));
        self.ip(n, &format!("addr add fd77::{to}/64 dev net0 nodad"));
    }

    /// Runs `ip` inside of machine `n`.
    pub fn ip(&self, n: u8, arguments: &str) {
        ip(&format!("-n {}{n} {arguments}", self.name)).expect("it is done");
    }

    /// A command that runs on machine `n`.
    pub fn command(&self, n: u8, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("{}{n}", self.name)]).arg(program);
        command
    }

    /// Starts node `node` on machine `n`, with the strategy of `url` and a key of that byte.
    pub fn start(&self, n: u8, node: u16, url: &str, key: u8) -> Helper {
        let mut command = self.command(n, std::env::current_exe().expect("this binary"));
        command.args(["--exact", "helper_process", "--nocapture"]);
        command.env(HELPER, format!("{node} {key} {url}"));
        Helper::start(command)
    }

    /// Does `what` with a socket of machine `n`, in a thread that lives there.
    pub fn inside<T: Send + 'static>(&self, n: u8, what: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = format!("/run/netns/{}{n}", self.name);
        let entered = std::thread::spawn(move || {
            let namespace = std::fs::File::open(namespace).expect("the namespace");
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(namespace.as_fd(), kind).expect("entered");
            what()
        });
        entered.join().expect("done")
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for machine in &self.machines {
            let _ = ip(&format!("netns del {machine}"));
        }
    }
}

pub fn ip(arguments: &str) -> Result<(), String> {
    let done = Command::new("ip").args(arguments.split(' ')).stdin(Stdio::null()).output();
    let done = done.map_err(|error| format!("no `ip`: {error}"))?;
    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    if done.status.success() { Ok(()) } else { Err(format!("ip {arguments}: {said}")) }
}

/// A node in a process of its own, and what it reports.
pub struct Helper {
    process: Child,
    reports: Receiver<String>,
    last: String,
}

impl Helper {
    pub fn start(mut command: Command) -> Self {
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
    pub fn until(&mut self, what: &str, holds: impl Fn(&str) -> bool) -> &str {
        let by = Instant::now() + PATIENCE;
        self.until_by(what, by, holds)
    }

    pub fn until_by(&mut self, what: &str, by: Instant, holds: impl Fn(&str) -> bool) -> &str {
        while !holds(&self.last) {
            let left = by.saturating_duration_since(Instant::now());
            match self.reports.recv_timeout(left) {
                Ok(report) => self.last = report,
                Err(why) => panic!("no report of {what} ({why}); the last is {}", self.last),
            }
        }
        &self.last
    }

    pub fn sees(&mut self, node: u16) -> &str {
        self.until(&format!("node {node}"), |report| report.contains(&spelled(node)))
    }

    pub fn forgets(&mut self, node: u16) -> &str {
        self.until(&format!("the end of node {node}"), |report| !report.contains(&spelled(node)))
    }

    pub fn is_well(&mut self) -> &str {
        self.until("being well", |report| report.starts_with("Well"))
    }

    /// The last report that there is now.
    pub fn last(&mut self) -> &str {
        while let Ok(report) = self.reports.try_recv() {
            self.last = report;
        }
        &self.last
    }

    /// Its number in the system.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Ends the node in good order: it says goodbye.
    pub fn stop(mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }

    /// Ends it with `SIGKILL`.
    pub fn kill(mut self) {
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

pub fn spelled(node: u16) -> String {
    format!(" node-{node}@hal ")
}

/// The node that the tests start in their namespaces, when this process is one of those.
pub async fn helper(build: impl FnOnce(&str, u8) -> Box<dyn Strategy>) {
    let Ok(what) = std::env::var(HELPER) else { return };
    let words: Vec<&str> = what.split(' ').collect();
    let number: u16 = words[0].parse().expect("a number");
    let strategy = build(words[2], words[1].parse().expect("a byte"));
    let (asked_to_stop, stop) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = asked_to_stop.send(());
    });
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
pub fn line(report: &Report) -> String {
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
#[macro_export]
macro_rules! lan {
    ($machines:expr) => {
        match $crate::lan::Lan::new($machines) {
            Ok(lan) => lan,
            Err(why) => return println!("SKIPPED: {why}"),
        }
    };
}
