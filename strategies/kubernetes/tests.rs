//! The strategy against an API server in memory, with time paused.

mod conformance;
mod machine;
mod script;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::script::{Mood, Script};
use super::*;
use crate::Health;
use crate::Report;

const SLICES: &str = "endpointslices";
const SERVICE: &str = "kubernetes://?service=web";

fn slice(name: &str, address: &str, pod: &str) -> Value {
    let family = if address.contains(':') { "IPv6" } else { "IPv4" };
    json!({
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": family,
        "endpoints": [{
            "addresses": [address], "zone": "z1", "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "name": pod, "namespace": "shop", "uid": format!("uid-{pod}")},
        }],
        "ports": [{"name": "mesh", "port": 4470, "protocol": "TCP"}],
    })
}

fn of_namespace(mut object: Value, namespace: &str) -> Value {
    object["metadata"]["namespace"] = namespace.into();
    let target = &mut object["endpoints"][0]["targetRef"];
    target["namespace"] = namespace.into();
    target["uid"] = format!("{namespace}-{}", target["name"].as_str().unwrap_or_default()).into();
    object
}

fn strategy(url: &str, script: &Script) -> Kubernetes {
    let surroundings = Surroundings {
        registry: "/nowhere".into(),
        interval: Duration::from_secs(5),
        ..Surroundings::default()
    };
    let strategy = Kubernetes::from_url(&Url::parse(url).expect("a url"), &surroundings);
    Kubernetes { connect: script.connect(), own: Own::default(), ..strategy.expect("a strategy") }
}

struct Running {
    reports: watch::Receiver<Report>,
    _task: JoinSet<()>,
}

impl Running {
    fn start(strategy: Kubernetes) -> Self {
        let announcement = Announcement {
            mesh: "default".into(),
            node: "web@here".into(),
            incarnation: 1,
            protocol: 1,
            ids: Vec::new(),
            listen: vec!["[::]:4470".parse().expect("an address")],
            socket: None,
            labels: BTreeMap::new(),
        };
        let (reporter, reports) = Reporter::new();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let ended = strategy.run(announcement, &reporter).await;
            panic!("it ended: {ended:?}");
        });
        Self { reports, _task: task }
    }

    async fn until(&mut self, what: &str, holds: impl FnMut(&Report) -> bool) -> Report {
        let waited = timeout(Duration::from_secs(300), self.reports.wait_for(holds)).await;
        match waited.map(|report| report.expect("it runs").clone()) {
            Ok(report) => report,
            Err(_) => panic!("{what} did not come; the last is {:?}", self.reports.borrow()),
        }
    }

    async fn well(&mut self, nodes: usize) -> Report {
        let what = format!("{nodes} nodes, well");
        self.until(&what, |r| r.health == Health::Well && r.sightings.len() == nodes).await
    }

    async fn unwell(&mut self, words: &str) -> (Report, String) {
        let said = |r: &Report| match &r.health {
            Health::Unwell(why) if why.contains(words) => Some(why.clone()),
            _ => None,
        };
        let report = self.until(words, |r| said(r).is_some()).await;
        let why = said(&report).expect("it is");
        (report, why)
    }
}

fn addresses(report: &Report) -> Vec<String> {
    report.sightings.iter().flat_map(|s| &s.addresses).map(ToString::to_string).collect()
}

#[tokio::test(start_paused = true)]
async fn several_slices_of_a_service_are_one_set_and_both_families_of_a_pod_one_sighting() {
    let script = Script::default();
    script.put(SLICES, slice("web-1", "10.0.0.1", "a"));
    script.put(SLICES, slice("web-2", "10.0.0.2", "b"));
    script.put(SLICES, slice("web-3", "fd00::1", "a"));
    let mut node = Running::start(strategy(SERVICE, &script));
    let report = node.well(2).await;
    assert_eq!(addresses(&report), ["10.0.0.1:4470", "[fd00::1]:4470", "10.0.0.2:4470"]);
    assert_eq!(report.sightings[0].labels.get("zone").map(String::as_str), Some("z1"));
    script.watched(1).await;
    let asked = script.asked();
    assert_eq!(asked[0].query["labelSelector"], "kubernetes.io%2Fservice-name%3Dweb");
    assert_eq!(asked[1].query["allowWatchBookmarks"], "true");

    script.delete(SLICES, "shop", "web-1");
    let fewer = |r: &Report| addresses(r) == ["[fd00::1]:4470", "10.0.0.2:4470"];
    node.until("one address less", fewer).await;
}

#[tokio::test(start_paused = true)]
async fn a_long_list_comes_in_pages_and_is_reported_as_a_whole() {
    let script = Script::default();
    for n in 0..120 {
        script.put(SLICES, slice(&format!("web-{n}"), &format!("10.0.1.{n}"), &format!("p{n}")));
    }
    let mut node = Running::start(strategy(SERVICE, &script));
    node.reports.wait_for(|r| !r.sightings.is_empty()).await.expect("it runs");
    assert_eq!(node.reports.borrow().sightings.len(), 120, "never a part of it");
    assert_eq!(script.asked().iter().filter(|asked| !asked.is_watch()).count(), 5);
}

#[tokio::test(start_paused = true)]
async fn an_expired_watch_begins_again_with_a_list_and_is_no_trouble() {
    let script = Script::default();
    script.put(SLICES, slice("web-1", "10.0.0.1", "a"));
    let mut node = Running::start(strategy(SERVICE, &script));
    node.well(1).await;
    script.watched(1).await;
    // Expired while it goes on, and expired when it is asked for.
    script.mood_after_410(Mood::Well);
    script.put(SLICES, slice("web-2", "10.0.0.2", "b"));
    node.until("the second", |r| {
        assert_eq!(r.health, Health::Well);
        r.sightings.len() == 2
    })
    .await;
    script.mood(Mood::Expired);
    sleep(Duration::from_secs(5)).await;
    script.mood_quietly(Mood::Well);
    script.put(SLICES, slice("web-3", "10.0.0.3", "c"));
    node.until("the third", |r| {
        assert_eq!(r.health, Health::Well);
        r.sightings.len() == 3
    })
    .await;
    assert_eq!(script.connected(), 1, "no new client was needed");
    let lists = script.asked().iter().filter(|asked| !asked.is_watch()).count();
    assert!((3..40).contains(&lists), "{lists} lists");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_the_server_ends_goes_on_from_its_last_bookmark() {
    let script = Script::default();
    script.put(SLICES, slice("web-1", "10.0.0.1", "a"));
    let mut node = Running::start(strategy(SERVICE, &script));
    node.well(1).await;
    script.watched(1).await;
    let first = script.asked().pop().expect("a watch");
    let lasts: u64 = first.query["timeoutSeconds"].parse().expect("a number");
    assert!((240..=290).contains(&lasts), "{lasts}");
    let version = script.bookmark();
    sleep(Duration::from_secs(1)).await;
    script.mood(Mood::Well);
    script.put(SLICES, slice("web-2", "10.0.0.2", "b"));
    node.well(2).await;
    let asked = script.asked();
    assert_eq!(asked.len(), 3, "a list, a watch, a watch: {asked:?}");
    assert_eq!(asked[2].query["resourceVersion"], version.to_string());
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_says_nothing_at_all_is_asked_for_anew() {
    let script = Script::default();
    script.put(SLICES, slice("web-1", "10.0.0.1", "a"));
    let mut node = Running::start(strategy(SERVICE, &script));
    node.well(1).await;
    script.watched(1).await;
    // The connection is dead and nobody said so.
    script.mood_quietly(Mood::Silent);
    script.put(SLICES, slice("web-2", "10.0.0.2", "b"));
    let (report, why) = node.unwell("does not answer within 10 s").await;
    assert_eq!(report.sightings.len(), 1);
    assert!(why.contains("the node seen last stays"), "{why}");
    script.mood(Mood::Well);
    node.well(2).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_stops_in_the_middle_is_given_up() {
    let script = Script::default();
    script.put(SLICES, slice("web-1", "10.0.0.1", "a"));
    script.mood(Mood::Stuck);
    let mut node = Running::start(strategy(SERVICE, &script));
    node.unwell("stopped in the middle").await;
    script.mood(Mood::Well);
    node.well(1).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_too_long_is_not_read() {
    let script = Script::default();
    script.put(SLICES, slice("web-1", "10.0.0.1", "a"));
    let mut node = Running::start(strategy(SERVICE, &script));
    node.well(1).await;
    script.mood(Mood::Endless);
    let (report, _) = node.unwell("longer than 8 MiB").await;
    assert_eq!(report.sightings.len(), 1);
    script.mood(Mood::Well);
    node.well(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_line_of_a_watch_that_cannot_be_read_leads_to_a_new_list() {
    let script = Script::default();
    script.put(SLICES, slice("web-1", "10.0.0.1", "a"));
    let mut node = Running::start(strategy(SERVICE, &script));
    node.well(1).await;
    script.watched(1).await;
    script.say_text("{\"type\": \"ADDED\", \"object\": 7}");
    node.unwell("cannot be read").await;
    node.well(1).await;
    assert_eq!(script.connected(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_role_that_is_taken_away_is_told_with_its_remedy_and_used_when_it_is_back() {
    let script = Script::default();
    script.put(SLICES, slice("web-1", "10.0.0.1", "a"));
    let mut node = Running::start(strategy(SERVICE, &script));
    node.well(1).await;
    script.mood(Mood::Answers(403));
    let (report, why) = node.unwell("may not").await;
    assert_eq!(report.sightings.len(), 1);
    for part in [
        "system:serviceaccount:shop:web may not",
        "endpointslices.discovery.k8s.io in the namespace shop",
        "kubectl -n shop create role pillion-discovery --verb=list,watch --resource=endpointslices.discovery.k8s.io",
        "--serviceaccount=shop:web",
    ] {
        assert!(why.contains(part), "{why}");
    }
    script.mood(Mood::Well);
    node.well(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_not_accepted_makes_a_new_client_that_reads_it_again() {
    let script = Script::default();
    script.put(SLICES, slice("web-1", "10.0.0.1", "a"));
    let mut node = Running::start(strategy(SERVICE, &script));
    node.well(1).await;
    script.mood(Mood::Answers(401));
    node.unwell("does not accept this node's token").await;
    script.mood(Mood::Well);
    node.well(1).await;
    assert!(script.connected() > 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_for_an_hour_is_asked_seldom_and_found_within_half_a_minute() {
    let script = Script::default();
    script.put(SLICES, slice("web-1", "10.0.0.1", "a"));
    let mut node = Running::start(strategy(SERVICE, &script));
    node.well(1).await;
    let before = script.asked().len();
    script.mood(Mood::Away);
    sleep(Duration::from_secs(3600)).await;
    let (report, why) = node.unwell("cannot be reached").await;
    assert_eq!(report.sightings.len(), 1);
    assert!(why.contains("connection refused") && why.contains("firewall"), "{why}");
    let asked = script.asked().len() - before;
    assert!((100..300).contains(&asked), "{asked} questions in an hour");
    script.mood(Mood::Well);
    timeout(Duration::from_secs(31), node.well(1)).await.expect("in time");
}

#[tokio::test(start_paused = true)]
async fn of_several_namespaces_a_forbidden_one_hides_no_other() {
    let script = Script::default();
    script.put(SLICES, slice("web-1", "10.0.0.1", "a"));
    script.put(SLICES, of_namespace(slice("web-1", "10.0.0.2", "b"), "till"));
    script.mood(Mood::Forbids("till"));
    let url = "kubernetes://?service=web&namespace=shop,till";
    let mut node = Running::start(strategy(url, &script));
    let (report, why) = node.unwell("in the namespace till").await;
    assert_eq!(addresses(&report), ["10.0.0.1:4470"]);
    assert!(!why.contains("namespace shop"), "{why}");
    script.mood(Mood::Well);
    node.well(2).await;
}

#[tokio::test(start_paused = true)]
async fn labels_of_pods_come_from_their_metadata_alone_and_ours_are_told_to_us() {
    let script = Script::default();
    script.put(SLICES, slice("web-1", "10.0.0.1", "a"));
    script.put(SLICES, slice("web-2", "10.0.0.2", "b"));
    let pod = |name: &str, tier: &str| json!({"metadata": {"name": name, "namespace": "shop", "labels": {"tier": tier}}});
    script.put("pods", pod("a", "front"));
    script.put("pods", pod("b", "back"));
    let url = "kubernetes://?service=web&labels=role=tier";
    let own = Own { uid: Some("uid-a".into()), ..Own::default() };
    let mut node = Running::start(Kubernetes { own, ..strategy(url, &script) });
    let report = node.well(1).await;
    assert_eq!(addresses(&report), ["10.0.0.2:4470"]);
    let role = |labels: &BTreeMap<String, String>| labels.get("role").cloned();
    assert_eq!(role(&report.sightings[0].labels).as_deref(), Some("back"));
    assert_eq!(role(&report.own_labels).as_deref(), Some("front"));
    assert_eq!(report.own_labels.get("zone").map(String::as_str), Some("z1"));
    let pods = script.asked().into_iter().filter(|asked| asked.collection == "pods");
    for asked in pods {
        assert_eq!(asked.query["labelSelector"], "tier");
        assert!(asked.accept.contains("PartialObjectMetadata"), "{asked:?}");
    }

    // Without the permission for pods only the labels are missing.
    script.mood(Mood::Well);
    script.put("pods", pod("b", "till"));
    node.until("the new label", |r| {
        r.sightings.first().and_then(|s| role(&s.labels)).as_deref() == Some("till")
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_knows_itself_by_its_host_name_in_its_own_namespace() {
    let script = Script::default();
    script.put(SLICES, slice("web-1", "10.0.0.1", "a"));
    script.put(SLICES, slice("web-2", "10.0.0.2", "b"));
    let own = Own { pod: Some("a".into()), ..Own::default() };
    script.put(SLICES, of_namespace(slice("web-3", "10.0.0.3", "a"), "till"));
    // What is watched does not change where we are.
    let url = "kubernetes://?service=web&namespace=till,shop";
    let mut node = Running::start(Kubernetes { own, ..strategy(url, &script) });
    assert_eq!(addresses(&node.well(2).await), ["10.0.0.3:4470", "10.0.0.2:4470"]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_there_is_told() {
    let script = Script::default();
    let mut node = Running::start(strategy("kubernetes", &script));
    let (_, why) = node.unwell("no EndpointSlice").await;
    assert!(why.contains("`pillion-default`") && why.contains("namespace shop"), "{why}");
    script.put(SLICES, slice("web-1", "10.0.0.1", "a"));
    node.well(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_slice_without_the_port_is_told_and_the_others_count() {
    let script = Script::default();
    let mut other = slice("web-1", "10.0.0.1", "a");
    other["ports"] = json!([{"name": "http", "port": 80}]);
    script.put(SLICES, other);
    script.put(SLICES, slice("web-2", "10.0.0.2", "b"));
    let mut node = Running::start(strategy("kubernetes://?service=web&port=mesh", &script));
    let (report, why) = node.unwell("no TCP port called `mesh`").await;
    assert!(why.contains("EndpointSlice shop/web-1 has"), "{why}");
    assert_eq!(addresses(&report), ["10.0.0.2:4470"]);
}

#[tokio::test(start_paused = true)]
async fn who_is_ending_when_it_is_first_seen_is_not_reported() {
    let script = Script::default();
    let ending = |name: &str, address: &str, pod: &str| {
        let mut slice = slice(name, address, pod);
        slice["endpoints"][0]["conditions"] =
            json!({"ready": true, "serving": true, "terminating": true});
        slice
    };
    script.put(SLICES, slice("web-1", "10.0.0.1", "a"));
    script.put(SLICES, ending("web-2", "10.0.0.2", "b"));
    let mut node = Running::start(strategy(SERVICE, &script));
    assert_eq!(addresses(&node.well(1).await), ["10.0.0.1:4470"]);
    script.put(SLICES, ending("web-1", "10.0.0.1", "a"));
    script.put(SLICES, slice("web-3", "10.0.0.3", "c"));
    assert_eq!(addresses(&node.well(2).await), ["10.0.0.1:4470", "10.0.0.3:4470"]);
    script.delete(SLICES, "shop", "web-1");
    assert_eq!(addresses(&node.well(1).await), ["10.0.0.3:4470"]);
}

/// A resolver that answers what it is told to, and counts.
#[derive(Clone, Default)]
struct Resolver(Arc<Mutex<(Vec<&'static str>, usize)>>);

impl Resolver {
    fn says(&self, addresses: &[&'static str]) {
        self.0.lock().expect("whole").0 = addresses.to_vec();
    }

    fn asked(&self) -> usize {
        self.0.lock().expect("whole").1
    }

    fn resolve(&self) -> Resolve {
        let answers = self.0.clone();
        Arc::new(move |host, port| {
            assert_eq!((host.as_str(), port), ("web.shop.svc", 4470));
            let mut answers = answers.lock().expect("whole");
            answers.1 += 1;
            let found = answers
                .0
                .iter()
                .map(|ip| std::net::SocketAddr::new(ip.parse().expect("an ip"), port));
            let answer = if answers.0.is_empty() {
                Err(std::io::Error::other("no such name"))
            } else {
                Ok(found.collect())
            };
            Box::pin(async move { answer })
        })
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_server_refuses_the_headless_name_is_looked_up_and_not_otherwise() {
    let script = Script::default();
    let resolver = Resolver::default();
    resolver.says(&["10.0.0.2", "fd00::2", "10.0.0.9"]);
    script.put(SLICES, slice("web-1", "10.0.0.1", "a"));
    script.mood(Mood::Answers(403));
    let url = "kubernetes://?service=web&dns=web.shop.svc";
    let own = Own { ips: vec!["10.0.0.9".parse().expect("an ip")], ..Own::default() };
    let resolve = resolver.resolve();
    let mut node = Running::start(Kubernetes { own, resolve, ..strategy(url, &script) });
    let report = node.until("two by name", |r| r.sightings.len() == 2).await;
    assert_eq!(addresses(&report), ["10.0.0.2:4470", "[fd00::2]:4470"]);
    assert_eq!(report.sightings[0].source, "dns web.shop.svc");
    let (_, why) = node.unwell("until then the name web.shop.svc leads to 3 addresses").await;
    assert!(why.contains("may not list"), "{why}");

    // The name fails too: its last answer stays.
    resolver.says(&[]);
    let (report, _) = node.unwell("its last 3 addresses stay").await;
    assert_eq!(report.sightings.len(), 2);

    script.mood(Mood::Well);
    assert_eq!(addresses(&node.well(1).await), ["10.0.0.1:4470"]);
    let asked = resolver.asked();
    sleep(Duration::from_secs(600)).await;
    assert_eq!(resolver.asked(), asked, "nobody asks a name server while all is well");

    // And what the server said last stays beside what the name leads to.
    resolver.says(&["10.0.0.1", "10.0.0.2"]);
    script.mood(Mood::Away);
    let report = node.until("both", |r| r.sightings.len() == 2).await;
    assert_eq!(addresses(&report), ["10.0.0.1:4470", "10.0.0.2:4470"]);
}

#[tokio::test(start_paused = true)]
async fn a_kubeconfig_that_is_not_there_is_told_and_tried_again() {
    let script = Script::default();
    let url = "kubernetes://?service=web&kubeconfig=/nowhere/config";
    let real = cluster::connect(Some("/nowhere/config".into()), None);
    let mut node = Running::start(Kubernetes { connect: real, ..strategy(url, &script) });
    let (_, why) = node.unwell("/nowhere/config").await;
    assert!(why.contains("Check the path"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_program_for_the_token_that_does_not_end_is_told_and_waited_for_once() {
    let script = Script::default();
    script.put(SLICES, slice("web-1", "10.0.0.1", "a"));
    let (log_in, logged_in) = watch::channel(false);
    let server = script.connect();
    let asks: Connect = Arc::new(move || {
        let (mut logged_in, cluster) = (logged_in.clone(), server());
        Box::pin(async move {
            logged_in.wait_for(|is| *is).await.expect("the test goes on");
            cluster.await
        })
    });
    let mut node = Running::start(Kubernetes { connect: asks, ..strategy(SERVICE, &script) });
    node.unwell("names to get a token").await;
    sleep(Duration::from_secs(3600)).await;
    log_in.send_replace(true);
    node.well(1).await;
    assert_eq!(script.connected(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_strategy_that_is_dropped_leaves_no_watch_behind() {
    let script = Script::default();
    script.put(SLICES, slice("web-1", "10.0.0.1", "a"));
    let mut node = Running::start(strategy("kubernetes://?service=web&labels=role=tier", &script));
    node.well(1).await;
    script.watched(2).await;
    assert_eq!(script.watches(), 2);
    drop(node);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(script.watches(), 0);
}
