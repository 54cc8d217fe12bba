//! `dns` keeps the promises of every strategy, with a name server on the loopback interface that is asked over UDP and
//! TCP. What takes hours is tested beside the strategy, with answers from memory.

#![cfg(feature = "dns")]

#[path = "dns/server.rs"]
mod server;

use std::any::Any;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pillion_strategies::conformance::{Fault, PATIENCE, Place, announcement};
use pillion_strategies::{Announcement, Health, Report, Reporter, Strategy, Surroundings, build};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::server::{A, AAAA, CNAME, NXDOMAIN, Reply, Rr, SERVFAIL, SRV, Server};

const ZONE: &str = "nodes.test.";

#[derive(Default)]
struct State {
    ports: BTreeSet<u16>,
    rubbish: bool,
    fault: Option<Fault>,
}

/// A name server of its own: a node is visible while there is an SRV record for it.
struct Served {
    server: Server,
    state: Arc<Mutex<State>>,
}

struct Planted(Arc<Mutex<State>>, u16);

impl Drop for Planted {
    fn drop(&mut self) {
        self.0.lock().expect("whole").ports.remove(&self.1);
    }
}

fn zone(state: &State, name: &str, kind: u16) -> Reply {
    let host = |port: &u16| format!("node-{port}.{ZONE}");
    if let Some(port) = state.ports.iter().find(|port| name == host(port)) {
        let _ = port;
        return match kind {
            A => Reply::records(vec![Rr::address(name, 1, "127.0.0.1")]),
            _ => Reply::records(Vec::new()),
        };
    }
    if name != format!("_mesh._tcp.{ZONE}") || kind != SRV {
        return Reply::Code(NXDOMAIN);
    }
    let share =
        if state.fault == Some(Fault::Partial) { state.ports.len() / 2 } else { usize::MAX };
    let ports: Vec<&u16> = state.ports.iter().take(share).collect();
    let mut records: Vec<Rr> =
        ports.iter().map(|port| Rr::srv(name, 0, &host(port), **port)).collect();
    // Some addresses come beside the records and some do not.
    let mut beside: Vec<Rr> = ports
        .iter()
        .filter(|port| **port % 2 == 0)
        .map(|port| Rr::address(&host(port), 1, "127.0.0.1"))
        .collect();
    if state.rubbish {
        records.extend([
            Rr::srv(name, u32::MAX, ".", 1),
            Rr::srv(name, 0, "nobody.test.", 7),
            Rr::srv(name, 0, "unspecified.test.", 7),
            Rr::cname(name, 0, name),
            Rr::address(name, 0, "10.0.0.1"),
        ]);
        beside.push(Rr::address("unspecified.test.", 0, "0.0.0.0"));
        beside.push(Rr::address("unspecified.test.", 0, "ff02::1"));
    }
    Reply::Records(records, beside)
}

impl Served {
    async fn new() -> Result<Self, String> {
        let place = Self { server: Server::start().await, state: Arc::default() };
        let state = Arc::clone(&place.state);
        place.server.answers_late(move |asked| {
            let state = state.lock().expect("whole");
            let late = if state.fault == Some(Fault::Slow) { 700 } else { 0 };
            let reply = match state.fault {
                Some(Fault::Error) => Reply::Code(SERVFAIL),
                Some(Fault::Empty) => Reply::Code(NXDOMAIN),
                Some(Fault::Malformed) => Reply::Rubbish(vec![0xff; 40]),
                Some(Fault::Silent) => Reply::Silence,
                _ => zone(&state, &asked.name, asked.kind),
            };
            (Duration::from_millis(late), reply)
        });
        Ok(place)
    }
}

impl Place for Served {
    fn strategy(&self) -> Box<dyn Strategy> {
        strategy(&format!(
            "dns://_mesh._tcp.{ZONE}?server={}&interval=100ms&hold=1s",
            self.server.address
        ))
    }

    fn plant(&self, announcement: &Announcement) -> Option<Box<dyn Any + Send>> {
        let port = announcement.listen[0].port();
        self.state.lock().expect("whole").ports.insert(port);
        Some(Box::new(Planted(Arc::clone(&self.state), port)))
    }

    fn spoil(&self) {
        self.state.lock().expect("whole").rubbish = true;
    }

    fn fault(&self, fault: Fault) -> bool {
        self.state.lock().expect("whole").fault = Some(fault);
        true
    }

    fn mend(&self) {
        self.state.lock().expect("whole").fault = None;
    }
}

pillion_strategies::conformance!(Served::new().await);

fn strategy(url: &str) -> Box<dyn Strategy> {
    let surroundings = Surroundings {
        registry: PathBuf::new(),
        interval: Duration::from_secs(1),
        ..Surroundings::default()
    };
    build(url, &surroundings).expect("dns")
}

/// A strategy that runs.
struct Run {
    reports: watch::Receiver<Report>,
    _task: JoinSet<()>,
}

impl Run {
    fn of(url: &str) -> Self {
        let strategy = strategy(url);
        let (reporter, reports) = Reporter::new();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let ended = strategy.run(announcement(1), &reporter).await;
            panic!("it ended: {ended:?}");
        });
        Self { reports, _task: task }
    }

    async fn sees(&mut self, what: &str, holds: impl Fn(&Report) -> bool) -> Report {
        let found = timeout(PATIENCE, self.reports.wait_for(|report| holds(report))).await;
        match found.map(|report| report.expect("alive").clone()) {
            Ok(report) => report,
            Err(_) => panic!("never {what}; the last is {:?}", *self.reports.borrow()),
        }
    }
}

fn addresses(report: &Report) -> Vec<String> {
    report.sightings.iter().flat_map(|s| &s.addresses).map(ToString::to_string).collect()
}

fn says(report: &Report, words: &str) -> bool {
    matches!(&report.health, Health::Unwell(why) if why.contains(words))
}

#[tokio::test]
async fn an_answer_that_is_cut_off_is_asked_for_again_over_tcp() {
    let server = Server::start().await;
    server.answers(|asked| {
        let name = asked.name.as_str();
        let count = if asked.kind == A { 300_u16 } else { 0 };
        let records =
            (0..count).map(|n| Rr::address(name, 5, &format!("10.0.{}.{}", n / 250, 1 + n % 250)));
        if asked.tcp || asked.kind != A {
            Reply::records(records.collect())
        } else {
            Reply::Truncated(records.take(14).collect())
        }
    });
    let mut run = Run::of(&format!("dns://many.test.?server={}", server.address));
    let report = run.sees("all of a long answer", |r| r.sightings.len() == 300).await;
    assert_eq!(report.health, Health::Well);
    let over_tcp = |asked: &server::Asked| asked.tcp && asked.kind == A;
    assert!(server.asked().iter().any(over_tcp), "{:?}", server.asked());
}

#[tokio::test]
async fn aliases_are_followed_and_both_kinds_of_addresses_are_found() {
    let server = Server::start().await;
    server.answers(|asked| match (asked.name.as_str(), asked.kind) {
        // The whole chain in one answer, as most servers give it.
        (name @ "whole.test.", A) => Reply::records(vec![
            Rr::cname(name, 5, "other.test."),
            Rr::address("other.test.", 5, "10.0.0.1"),
        ]),
        // Only its first link.
        (name @ ("whole.test." | "part.test."), _) => {
            Reply::records(vec![Rr::cname(name, 5, "other.test.")])
        }
        (name @ "other.test.", A) => Reply::records(vec![Rr::address(name, 5, "10.0.0.1")]),
        (name @ "other.test.", AAAA) => Reply::records(vec![Rr::address(name, 5, "fd00::1")]),
        (name @ "circle.test.", _) => Reply::records(vec![Rr::cname(name, 5, name)]),
        (_, CNAME) => Reply::records(Vec::new()),
        _ => Reply::Code(NXDOMAIN),
    });
    for name in ["whole.test.", "part.test."] {
        let mut run = Run::of(&format!("dns://{name}:7?server={}", server.address));
        let report = run.sees("both addresses", |r| r.sightings.len() == 2).await;
        assert_eq!(addresses(&report), ["10.0.0.1:7", "[fd00::1]:7"], "{name}");
    }
    let mut run = Run::of(&format!("dns://circle.test.?server={}", server.address));
    run.sees("an alias of itself refused", |r| says(r, "`circle.test.`")).await;
}

#[tokio::test]
async fn a_rotating_answer_gathers_everybody_and_removes_nobody() {
    let server = Server::start().await;
    let turn = Mutex::new(0_u16);
    server.answers(move |asked| {
        if asked.kind != A {
            return Reply::records(Vec::new());
        }
        let mut turn = turn.lock().expect("whole");
        *turn += 1;
        let ips = (0..4).map(|n| format!("10.0.0.{}", 1 + (*turn * 4 + n) % 20));
        Reply::records(ips.map(|ip| Rr::address(&asked.name, 0, &ip)).collect())
    });
    let url = format!("dns://part.test.?server={}&interval=100ms", server.address);
    let mut run = Run::of(&url);
    run.sees("all twenty", |r| r.sightings.len() == 20).await;
    let asked = || server.asked().iter().filter(|asked| asked.kind == A).count();
    let before = asked();
    let all_stay = async {
        while asked() < before + 20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(run.reports.borrow().sightings.len(), 20);
        }
    };
    timeout(PATIENCE, all_stay).await.expect("twenty more answers in time");
}

#[tokio::test]
async fn a_server_that_says_nothing_or_nonsense_is_told_by_its_address_and_another_one_is_asked() {
    let (bad, good) = (Server::start().await, Server::start().await);
    let answers = |asked: &server::Asked| match asked.kind {
        A => Reply::records(vec![Rr::address(&asked.name, 0, "10.0.0.1")]),
        _ => Reply::records(Vec::new()),
    };
    good.answers(answers);
    bad.answers(answers);
    let alone = format!("dns://x.test.?server={}&interval=100ms", bad.address);
    let both = format!("dns://x.test.?server={},{}&interval=100ms", bad.address, good.address);
    for reply in [Reply::Silence, Reply::Code(SERVFAIL), Reply::Rubbish(vec![0x81; 3])] {
        bad.answers(answers);
        let mut run = Run::of(&alone);
        run.sees("the address", |r| r.health == Health::Well).await;
        let broken = reply.clone();
        bad.answers(move |_| broken.clone());
        let whom = bad.address.to_string();
        let report = run.sees("whom it asked", |r| says(r, &whom)).await;
        assert_eq!(addresses(&report), ["10.0.0.1:4470"], "{reply:?}");
        let mut run = Run::of(&both);
        let report = run.sees("the address from the other server", |r| !r.sightings.is_empty());
        assert_eq!(addresses(&report.await), ["10.0.0.1:4470"], "{reply:?}");
    }
}

#[tokio::test]
async fn a_resolv_conf_that_appears_or_changes_is_used_with_its_search_domains() {
    let at = |last: u8| std::net::SocketAddr::from(([127, 53, std::process::id() as u8, last], 53));
    let (one, two) = match (Server::at(at(1)).await, Server::at(at(2)).await) {
        (Ok(one), Ok(two)) => (one, two),
        (Err(error), _) | (_, Err(error)) => {
            return println!("SKIPPED: no name server may be put at {}: {error}", at(1));
        }
    };
    let answers = |ip: &'static str| {
        move |asked: &server::Asked| match (asked.name.as_str(), asked.kind) {
            (name @ "pillion.shop.svc.cluster.local.", A) => {
                Reply::records(vec![Rr::address(name, 0, ip)])
            }
            ("pillion.shop.svc.cluster.local.", _) => Reply::records(Vec::new()),
            _ => Reply::Code(NXDOMAIN),
        }
    };
    one.answers(answers("10.0.0.1"));
    two.answers(answers("10.0.0.2"));
    let dir = std::env::temp_dir().join(format!("pillion-resolv-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let file = dir.join("resolv.conf");
    let mut run =
        Run::of(&format!("dns://pillion?resolv-conf={}&interval=100ms&hold=100ms", file.display()));
    run.sees("a wait for the file", |r| says(r, "resolv.conf cannot be read")).await;
    std::fs::write(&file, "# no network yet\n").expect("written");
    run.sees("a wait for a server", |r| says(r, "names no `nameserver`")).await;
    let text = |server: &Server| {
        let ip = server.address.ip();
        format!(
            "search shop.svc.cluster.local svc.cluster.local\nnameserver {ip}\noptions ndots:5\nwhat is this\n"
        )
    };
    std::fs::write(&file, text(&one)).expect("written");
    run.sees("the first server's answer", |r| addresses(r) == ["10.0.0.1:4470"]).await;
    std::fs::write(&file, text(&two)).expect("written");
    run.sees("the second server's answer", |r| addresses(r) == ["10.0.0.2:4470"]).await;
    let _ = std::fs::remove_dir_all(&dir);
}
