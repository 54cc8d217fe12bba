//! The promises of every strategy, with answers from memory and a clock that is paused.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Deref;
use std::sync::Mutex;

use tokio::sync::watch;

use super::ask::{Answer, Question};
use super::*;
use crate::conformance::{Fault, Place};
use crate::{Health, Report};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[derive(Default)]
struct State {
    nodes: BTreeMap<u16, String>,
    /// What is said besides.
    rubbish: Vec<(String, u16)>,
    fault: Option<Fault>,
}

/// A zone of its own: a node is visible while there is an SRV record for it.
#[derive(Default)]
struct Zone(Arc<Mutex<State>>);

struct Planted(Arc<Mutex<State>>, u16);

impl Drop for Planted {
    fn drop(&mut self) {
        self.0.lock().expect("whole").nodes.remove(&self.1);
    }
}

fn answer(state: &State, question: &Question) -> Result<Answer, Failure> {
    let ttl = Duration::from_secs(5);
    match (state.fault, question.kind) {
        (Some(Fault::Error), _) => Err(Failure::Failed("the server answers SERVFAIL".into())),
        (Some(Fault::Malformed), _) => Err(Failure::Failed("it cannot be read".into())),
        (Some(Fault::Empty), _) => Err(Failure::NoRecords("there is no such name".into())),
        (_, Kind::Srv) => {
            let all = state.nodes.iter().map(|(port, host)| (host.clone(), *port));
            let take = if state.fault == Some(Fault::Partial) {
                state.nodes.len() / 2
            } else {
                usize::MAX
            };
            let targets: Vec<_> = all.take(take).chain(state.rubbish.iter().cloned()).collect();
            if targets.is_empty() {
                return Err(Failure::NoRecords("the name has no such record".into()));
            }
            Ok(Answer { targets, ttl, ..Answer::default() })
        }
        (_, Kind::A) if state.nodes.values().any(|host| *host == question.name) => {
            Ok(Answer { addresses: vec![HERE], ttl, ..Answer::default() })
        }
        _ => Err(Failure::NoRecords("there is no such name".into())),
    }
}

impl Place for Zone {
    fn strategy(&self) -> Box<dyn Strategy> {
        let state = Arc::clone(&self.0);
        let lookup: Lookup = Arc::new(move |question| {
            let state = Arc::clone(&state);
            Box::pin(async move {
                let fault = state.lock().expect("whole").fault;
                match fault {
                    Some(Fault::Silent) => std::future::pending().await,
                    Some(Fault::Slow) => tokio::time::sleep(Duration::from_secs(8)).await,
                    _ => {}
                }
                answer(&state.lock().expect("whole"), &question)
            })
        });
        Box::new(Dns { lookup, ..dns("dns://_mesh._tcp.nodes.test.?hold=10s") })
    }

    fn plant(&self, announcement: &Announcement) -> Option<Box<dyn Any + Send>> {
        let port = announcement.listen[0].port();
        self.0.lock().expect("whole").nodes.insert(port, format!("node-{port}.nodes.test."));
        Some(Box::new(Planted(Arc::clone(&self.0), port)))
    }

    fn spoil(&self) {
        self.0.lock().expect("whole").rubbish.extend([
            ("nobody.test.".to_owned(), 4470),
            (String::new(), 1),
            ("\u{1b}[2J.".to_owned(), 1),
            ("node-1.nodes.test.".to_owned(), 0),
        ]);
    }

    fn fault(&self, fault: Fault) -> bool {
        self.0.lock().expect("whole").fault = Some(fault);
        true
    }

    fn mend(&self) {
        self.0.lock().expect("whole").fault = None;
    }

    fn hours_pass(&self) -> bool {
        true
    }
}

crate::conformance!(Ok::<_, String>(Zone::default()), start_paused = true);

fn dns(url: &str) -> Dns {
    let surroundings = Surroundings {
        registry: PathBuf::new(),
        interval: Duration::from_secs(5),
        ..Surroundings::default()
    };
    Dns::from_url(&Url::parse(url).expect("a url"), &surroundings).expect("good options")
}

type Answers = BTreeMap<(String, Kind), Result<Answer, Failure>>;

/// Answers what it is told to and counts what it is asked.
#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<Answers>>,
    asked: Arc<Mutex<Vec<(Question, Instant)>>>,
}

impl Script {
    fn says(&self, name: &str, kind: Kind, answer: Result<Answer, Failure>) {
        self.answers.lock().expect("whole").insert((name.to_owned(), kind), answer);
    }

    fn addresses(&self, name: &str, kind: Kind, ips: &[&str], ttl: u64) {
        let addresses = ips.iter().map(|ip| ip.parse().expect("an address")).collect();
        let ttl = Duration::from_secs(ttl);
        self.says(name, kind, Ok(Answer { addresses, ttl, ..Answer::default() }));
    }

    fn asked(&self, kind: Kind) -> Vec<Instant> {
        let asked = self.asked.lock().expect("whole");
        asked.iter().filter(|(question, _)| question.kind == kind).map(|(_, at)| *at).collect()
    }

    fn start(&self, url: &str) -> (watch::Receiver<Report>, JoinSet<()>) {
        let script = self.clone();
        let lookup: Lookup = Arc::new(move |question| {
            script.asked.lock().expect("whole").push((question.clone(), Instant::now()));
            let answers = script.answers.lock().expect("whole");
            let none = || Err(Failure::NoRecords("there is no such name".into()));
            let answer = answers.get(&(question.name, question.kind)).cloned().unwrap_or_else(none);
            Box::pin(async move { answer })
        });
        let dns = Dns { lookup, ..dns(url) };
        let (reporter, reports) = Reporter::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { dns.watch(&reporter).await });
        (reports, tasks)
    }
}

fn addresses(report: &Report) -> Vec<String> {
    report.sightings.iter().flat_map(|s| &s.addresses).map(ToString::to_string).collect()
}

fn says(report: &Report, words: &str) -> bool {
    matches!(&report.health, Health::Unwell(why) if why.contains(words))
}

#[tokio::test(start_paused = true)]
async fn a_and_aaaa_are_both_asked_and_every_address_is_a_sighting_of_its_own() {
    let script = Script::default();
    script.addresses("nodes", Kind::A, &["10.0.0.2", "10.0.0.1", "0.0.0.0"], 5);
    script.addresses("nodes", Kind::Aaaa, &["fd00::1"], 5);
    let (mut reports, _tasks) = script.start("dns://nodes:7");
    let report = reports.wait_for(|r| r.health == Health::Well).await.expect("alive");
    assert_eq!(addresses(report.deref()), ["10.0.0.1:7", "10.0.0.2:7", "[fd00::1]:7"]);
    assert!(report.sightings.iter().all(|s| s.source == "dns nodes" && s.node.is_none()));
}

#[tokio::test(start_paused = true)]
async fn a_name_is_asked_for_again_when_its_time_ends_within_bounds() {
    for (ttl, interval, at_least, at_most) in
        [(0, "2s", 2, 3), (20, "2s", 20, 22), (86_400, "2s", 60, 64), (5, "100s", 100, 107)]
    {
        let script = Script::default();
        script.addresses("nodes", Kind::A, &["10.0.0.1"], ttl);
        let (_reports, _tasks) = script.start(&format!("dns://nodes?type=a&interval={interval}"));
        tokio::time::sleep(Duration::from_secs(500)).await;
        let asked = script.asked(Kind::A);
        assert!(asked.len() > 3, "{asked:?}");
        for pair in asked.windows(2) {
            let pause = pair[1] - pair[0];
            let bounds = Duration::from_secs(at_least)..=Duration::from_secs(at_most);
            assert!(bounds.contains(&pause), "{pause:?} at a ttl of {ttl} s, interval {interval}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_not_there_yet_is_asked_for_soon_and_then_more_rarely() {
    let script = Script::default();
    let (mut reports, _tasks) = script.start("dns://nodes?type=a");
    reports.wait_for(|r| says(r, "no such name") && says(r, "`nodes`")).await.expect("alive");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(script.asked(Kind::A).len() >= 3, "within two seconds");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let asked = script.asked(Kind::A).len();
    assert!((700..1000).contains(&asked), "{asked} within an hour");
    script.addresses("nodes", Kind::A, &["10.0.0.1"], 5);
    reports.wait_for(|r| r.health == Health::Well).await.expect("alive");
}

#[tokio::test(start_paused = true)]
async fn an_empty_answer_or_none_at_all_empties_nothing_however_long_it_lasts() {
    let script = Script::default();
    script.addresses("nodes", Kind::A, &["10.0.0.1", "10.0.0.2"], 5);
    let (mut reports, _tasks) = script.start("dns://nodes?hold=10s");
    reports.wait_for(|r| r.health == Health::Well).await.expect("alive");
    for failure in [
        Failure::NoRecords("there is no such name".into()),
        Failure::Failed("the server answers SERVFAIL".into()),
    ] {
        script.says("nodes", Kind::A, Err(failure));
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let report = reports.wait_for(|r| says(r, "2 addresses stay")).await.expect("alive");
        assert_eq!(addresses(report.deref()).len(), 2);
    }
    // One kind of address is gone for good, and the other is there: that is an answer.
    script.says("nodes", Kind::A, Err(Failure::NoRecords("no such record".into())));
    script.addresses("nodes", Kind::Aaaa, &["fd00::1"], 5);
    let only = |r: &Report| r.health == Health::Well && addresses(r) == ["[fd00::1]:4470"];
    reports.wait_for(only).await.expect("alive");
}

#[tokio::test(start_paused = true)]
async fn a_rotating_answer_removes_nobody() {
    let script = Script::default();
    let all: Vec<String> = (1..=20).map(|n| format!("10.0.0.{n}")).collect();
    let part = |turn: usize| (0..3).map(|n| all[(turn * 3 + n) % 20].as_str()).collect::<Vec<_>>();
    script.addresses("nodes", Kind::A, &part(0), 5);
    let (mut reports, _tasks) = script.start("dns://nodes?type=a");
    reports.wait_for(|r| r.health == Health::Well).await.expect("alive");
    for turn in 1..400 {
        let before = script.asked(Kind::A).len();
        script.addresses("nodes", Kind::A, &part(turn), 5);
        while script.asked(Kind::A).len() == before {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        if turn >= 7 {
            assert_eq!(addresses(&reports.borrow()).len(), 20, "after {turn} answers");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_kind_that_fails_keeps_its_addresses_beside_one_that_answers() {
    let script = Script::default();
    script.addresses("nodes", Kind::A, &["10.0.0.1"], 5);
    script.addresses("nodes", Kind::Aaaa, &["fd00::1"], 5);
    let (mut reports, _tasks) = script.start("dns://nodes?hold=5s");
    reports.wait_for(|r| r.health == Health::Well).await.expect("alive");
    script.says("nodes", Kind::Aaaa, Err(Failure::Failed("the server answers SERVFAIL".into())));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let report = reports.borrow().clone();
    assert!(says(&report, "SERVFAIL") && addresses(&report).len() == 2, "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn targets_of_srv_records_are_asked_for_unless_their_addresses_came_beside_them() {
    let script = Script::default();
    let name = "_mesh._tcp.nodes.test";
    let targets: Vec<(String, u16)> =
        (0..3).map(|n| (format!("pod-{n}.test."), 5000 + n)).collect();
    let beside = vec![("pod-0.test.".to_owned(), "10.0.0.10".parse().expect("an address"))];
    let ttl = Duration::from_secs(5);
    script.says(name, Kind::Srv, Ok(Answer { targets, beside, ttl, ..Answer::default() }));
    script.addresses("pod-1.test.", Kind::A, &["10.0.0.11"], 5);
    script.addresses("pod-1.test.", Kind::Aaaa, &["fd00::11"], 5);
    let (mut reports, _tasks) = script.start(&format!("dns://{name}?hold=1s"));
    let seen = ["10.0.0.10:5000", "10.0.0.11:5001", "[fd00::11]:5001"];
    let report = reports.wait_for(|r| addresses(r) == seen).await.expect("alive").clone();
    assert!(says(&report, "`pod-2.test.`"), "{report:?}");
    assert_eq!(report.sightings[0].source, "dns _mesh._tcp.nodes.test: pod-0.test");
    let asked = script.asked.lock().expect("whole").clone();
    assert!(!asked.iter().any(|(question, _)| question.name == "pod-0.test."), "{asked:?}");

    // A host that cannot be resolved for a while keeps its addresses; the others go on.
    script.says("pod-1.test.", Kind::A, Err(Failure::Failed("SERVFAIL".into())));
    script.addresses("pod-2.test.", Kind::A, &["10.0.0.12"], 5);
    let seen = ["10.0.0.10:5000", "10.0.0.11:5001", "10.0.0.12:5002", "[fd00::11]:5001"];
    reports.wait_for(|r| addresses(r) == seen).await.expect("alive");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(addresses(&reports.borrow()), seen);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_targets_that_do_not_answer_hold_up_no_round_for_longer_than_its_bound() {
    let hosts = |n| format!("pod-{n}.test.");
    let lookup: Lookup = Arc::new(move |question: Question| {
        Box::pin(async move {
            if question.kind != Kind::Srv {
                std::future::pending::<()>().await;
            }
            let targets = (0..100).map(|n| (hosts(n), 4470)).collect();
            let beside = vec![(hosts(100), HERE)];
            Ok(Answer { targets, beside, ttl: Duration::ZERO, addresses: Vec::new() })
        })
    });
    let started = Instant::now();
    let query = Query { name: "x".into(), port: 1, kinds: vec![Kind::Srv] };
    let parts = ask::round(lookup, query).await;
    assert!(started.elapsed() <= Duration::from_secs(31), "{:?}", started.elapsed());
    let Ok(found) = &parts[0].1 else { panic!("{parts:?}") };
    assert_eq!((found.addresses.len(), found.troubles.len()), (0, 100));
}

#[tokio::test(start_paused = true)]
async fn names_that_fail_do_not_hide_those_that_answer() {
    let script = Script::default();
    script.addresses("good", Kind::A, &["10.0.0.1"], 5);
    let (mut reports, _tasks) = script.start("dns://bad,good,worse?type=a");
    let both = |r: &Report| says(r, "`bad`") && says(r, "`worse`") && addresses(r).len() == 1;
    reports.wait_for(both).await.expect("alive");
}

#[test]
fn options_that_cannot_be_meant_are_refused_in_words() {
    let surroundings = Surroundings {
        registry: PathBuf::new(),
        interval: Duration::from_secs(5),
        ..Surroundings::default()
    };
    for (url, words) in [
        ("dns://", "dns://pillion.example.org"),
        ("dns://10.0.0.1", "list://10.0.0.1:4470"),
        ("dns://nodes?type=aaa", "did you mean `aaaa`"),
        ("dns://nodes?type=", "empty"),
        ("dns://_mesh._tcp.nodes:5", "SRV records say their own"),
        ("dns://nodes?server=hal", "`server=hal`"),
        ("dns://nodes?server=10.0.0.1:0", "10.0.0.53"),
        ("dns://nodes?server=::1&resolv-conf=/x", "leave one out"),
        ("dns://nodes?sever=::1", "did you mean `server`"),
        ("dns://nodes?resolv_conf=/x", "did you mean `resolv-conf`"),
        ("dns://no des", "`no des`"),
        ("dns://nodes?hold=1", "`hold=1`"),
    ] {
        let error = Dns::from_url(&Url::parse(url).expect("a url"), &surroundings).err();
        let said = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(said.contains(words), "{url}: {said}");
    }
    let many = (0..=NAMES_MAX).map(|n| format!("n{n}")).collect::<Vec<_>>().join(",");
    let url = Url::parse(&format!("dns://{many}")).expect("a url");
    assert!(Dns::from_url(&url, &surroundings).is_err());
    assert_eq!(dns("dns://_a._tcp.b").queries[0].kinds, [Kind::Srv]);
    assert_eq!(dns("dns://b?type=all").queries[0].kinds.len(), 3);
    assert_eq!(dns("dns://b,b:4470,c").queries.len(), 2);
}
