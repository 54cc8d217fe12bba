//! The promises of every strategy, with answers from memory and a clock that is paused.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::Mutex;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::api::Instance;
use super::*;
use crate::conformance::{Fault, Place};
use crate::{Health, Report};

#[derive(Clone, Default)]
struct State {
    index: u64,
    ports: BTreeSet<u16>,
    has_rubbish: bool,
    fault: Option<Fault>,
}

/// A catalog of its own: a node is visible while its port is in it.
struct Catalog {
    state: Arc<watch::Sender<State>>,
    /// When it was asked, and after which index.
    asked: Arc<Mutex<Vec<(u64, Instant)>>>,
}

impl Default for Catalog {
    fn default() -> Self {
        let state = State { index: 1, ..State::default() };
        Self { state: Arc::new(watch::Sender::new(state)), asked: Arc::default() }
    }
}

struct Planted(Arc<watch::Sender<State>>, u16);

impl Drop for Planted {
    fn drop(&mut self) {
        self.0.send_modify(|state| {
            state.ports.remove(&self.1);
            state.index += 1;
        });
    }
}

fn surroundings() -> Surroundings {
    Surroundings {
        registry: PathBuf::new(),
        interval: Duration::from_secs(5),
        ..Surroundings::default()
    }
}

fn consul(url: &str) -> Consul {
    Consul::from_url(&Url::parse(url).expect("a url"), &surroundings()).expect("good options")
}

fn answer(state: &State) -> Result<Answer, String> {
    let share = match state.fault {
        Some(Fault::Error) => return Err("Consul answers 500: No cluster leader".into()),
        Some(Fault::Malformed) => return Err("what Consul answers cannot be read".into()),
        Some(Fault::Empty) => 0,
        Some(Fault::Partial) => state.ports.len() / 2,
        _ => usize::MAX,
    };
    let instance = |host: &str, port| Instance { node: "n".into(), host: host.into(), port };
    let ports = state.ports.iter().take(share);
    let mut instances: Vec<Instance> = ports.map(|p| instance("127.0.0.1", Some(*p))).collect();
    if state.has_rubbish {
        instances.extend([instance("0.0.0.0", Some(1)), instance("::", None)]);
        instances.push(instance("ff02::1", Some(1)));
    }
    Ok(Answer { index: state.index, instances, problem: None })
}

impl Catalog {
    fn strategy(&self, url: &str) -> Consul {
        let (state, asked) = (Arc::clone(&self.state), Arc::clone(&self.asked));
        let fetch: Fetch = Arc::new(move |question| {
            let mut state = state.subscribe();
            asked.lock().expect("whole").push((question.index, Instant::now()));
            Box::pin(async move {
                let news = |state: &State| {
                    state.index != question.index
                        || matches!(state.fault, Some(Fault::Error | Fault::Malformed))
                };
                let _ = timeout(question.wait, state.wait_for(news)).await;
                let now = state.borrow().clone();
                match now.fault {
                    Some(Fault::Slow) => sleep(Duration::from_secs(7)).await,
                    Some(Fault::Silent) => std::future::pending().await,
                    _ => {}
                }
                answer(&now)
            })
        });
        Consul { fetch, ..consul(url) }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(|state| {
            change(state);
            state.index += 1;
        });
    }
}

impl Place for Catalog {
    fn strategy(&self) -> Box<dyn Strategy> {
        Box::new(Self::strategy(self, "consul://pillion?wait=10s"))
    }

    fn plant(&self, announcement: &Announcement) -> Option<Box<dyn Any + Send>> {
        let port = announcement.listen[0].port();
        self.change(|state| _ = state.ports.insert(port));
        Some(Box::new(Planted(Arc::clone(&self.state), port)))
    }

    fn spoil(&self) {
        self.change(|state| state.has_rubbish = true);
    }

    fn fault(&self, fault: Fault) -> bool {
        self.change(|state| state.fault = Some(fault));
        true
    }

    fn mend(&self) {
        self.change(|state| state.fault = None);
    }

    fn hours_pass(&self) -> bool {
        true
    }
}

crate::conformance!(Ok::<_, String>(Catalog::default()), start_paused = true);

fn start(strategy: Consul) -> (watch::Receiver<Report>, JoinSet<()>) {
    let (reporter, reports) = Reporter::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { strategy.watch(&reporter).await });
    (reports, tasks)
}

#[tokio::test(start_paused = true)]
async fn news_come_at_once_and_nothing_is_asked_in_between() {
    let catalog = Catalog::default();
    let (mut reports, _tasks) = start(catalog.strategy("consul://pillion"));
    reports.wait_for(|report| report.health == Health::Well).await.expect("alive");
    sleep(Duration::from_secs(3600)).await;
    let asked = catalog.asked.lock().expect("whole").len();
    assert!((50..=62).contains(&asked), "{asked} questions of a minute within an hour");
    for port in 1..=20 {
        let started = Instant::now();
        catalog.change(|state| _ = state.ports.insert(port));
        let has = |report: &Report| report.sightings.iter().any(|s| s.addresses[0].port() == port);
        reports.wait_for(has).await.expect("alive");
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_holds_no_questions_is_asked_in_the_interval() {
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let fetch: Fetch = Arc::new(move |_| {
        *count.lock().expect("whole") += 1;
        Box::pin(async { Ok(Answer::default()) })
    });
    let (_reports, _tasks) = start(Consul { fetch, ..consul("consul://pillion") });
    sleep(Duration::from_secs(3600)).await;
    let asked = *asked.lock().expect("whole");
    assert!((700..=1000).contains(&asked), "{asked} within an hour");
}

#[tokio::test(start_paused = true)]
async fn an_index_that_goes_back_is_asked_for_anew() {
    let catalog = Catalog::default();
    catalog.change(|state| state.index = 1000);
    let (mut reports, _tasks) = start(catalog.strategy("consul://pillion?wait=10s"));
    reports.wait_for(|report| report.health == Health::Well).await.expect("alive");
    // The servers were set up anew.
    catalog.state.send_modify(|state| {
        state.index = 5;
        state.ports.insert(7);
    });
    reports.wait_for(|report| report.sightings.len() == 1).await.expect("alive");
    sleep(Duration::from_secs(30)).await;
    let asked: Vec<u64> = catalog.asked.lock().expect("whole").iter().map(|(i, _)| *i).collect();
    assert_eq!(asked[..3], [0, 1001, 0], "{asked:?}");
    assert!(asked[3..].iter().all(|index| *index == 5), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_may_not_see_everybody_is_told() {
    let fetch: Fetch = Arc::new(|question| {
        Box::pin(async move {
            sleep(if question.index == 0 { Duration::ZERO } else { question.wait }).await;
            let problem = Some("the token may not see all".to_owned());
            Ok(Answer { index: 3, problem, ..Answer::default() })
        })
    });
    let (mut reports, _tasks) = start(Consul { fetch, ..consul("consul://pillion?port=9") });
    let told = |r: &Report| matches!(&r.health, Health::Unwell(why) if why.contains("token"));
    reports.wait_for(told).await.expect("alive");
}

#[tokio::test]
async fn host_names_are_resolved_and_those_that_cannot_be_are_told() {
    let strategy = consul("consul://pillion");
    let (reporter, reports) = Reporter::new();
    let instance = |host: &str| Instance { node: "n".into(), host: host.into(), port: Some(7) };
    let instances = vec![instance("localhost"), instance("no..such"), instance("10.0.0.1")];
    let answer = |instances| Answer { index: 1, instances, problem: None };
    let mut hosts = Hosts::from([("no..such".to_owned(), vec![IpAddr::from([10, 0, 0, 2])])]);
    strategy.report(answer(instances), &mut hosts, &reporter).await;
    let report = reports.borrow().clone();
    let told = |report: &Report, words: &str| matches!(&report.health, Health::Unwell(why) if why.contains(words));
    assert!(told(&report, "`no..such`"), "{report:?}");
    let ips: Vec<IpAddr> = report.sightings.iter().map(|s| s.addresses[0].ip()).collect();
    assert!(ips.iter().any(IpAddr::is_loopback), "{ips:?}");
    assert!(
        ips.contains(&IpAddr::from([10, 0, 0, 1])) && ips.contains(&IpAddr::from([10, 0, 0, 2]))
    );

    let many = (0..=LOOKUPS_MAX).map(|n| instance(&format!("a..{n}"))).collect();
    strategy.report(answer(many), &mut hosts, &reporter).await;
    assert_eq!(hosts.len(), LOOKUPS_MAX);
}

#[test]
fn options_that_cannot_be_meant_are_refused_in_words() {
    for (url, words) in [
        ("consul://", "consul://pillion"),
        ("consul://a/b", "consul://pillion"),
        ("consul://x?using=agent", "health"),
        ("consul://x?port=0", "`port=0`"),
        ("consul://x?wait=1h", "10m"),
        ("consul://x?url=hal:8500", "http://127.0.0.1:8500"),
        ("consul://x?url=http://a:b@hal:8500", "http://127.0.0.1:8500"),
        ("consul://x?url=http://hal&ca=/x", "https://"),
        ("consul://x?token=a&token-file=/x", "leave one out"),
        ("consul://x?tokn=a", "did you mean `token`"),
        ("consul://x?token_file=/x", "did you mean `token-file`"),
    ] {
        let url = Url::parse(url).expect("a url");
        let refused = Consul::from_url(&url, &surroundings()).err();
        let said = refused.map(|error| error.to_string()).unwrap_or_default();
        assert!(said.contains(words), "{said}");
    }
}
