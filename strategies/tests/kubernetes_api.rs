//! `kubernetes` against a real API server with etcd: the promises of every strategy, and what only a real one does.
//!
//! `KUBECONFIG` is a cluster that may be changed, as an admin; each test makes namespaces of its own. `TEST_CLUSTER`,
//! the script of `tests/kubernetes`, restarts the API server for those tests that need it.

#![cfg(feature = "kubernetes")]

#[path = "kubernetes_api/world.rs"]
mod world;

use std::any::Any;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use futures_util::TryStreamExt;
use pillion_strategies::conformance::{self, Fault, Place};
use pillion_strategies::{Announcement, Health, Report, Reporter, Strategy, Surroundings, build};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use self::world::{PODS, SLICES, Way, World, blocking, slice, takes};

const PATIENCE: Duration = Duration::from_secs(60);

impl Place for World {
    fn strategy(&self) -> Box<dyn Strategy> {
        strategy(&self.url("service=web"))
    }

    fn plant(&self, announcement: &Announcement) -> Option<Box<dyn Any + Send>> {
        let port = announcement.listen[0].port();
        let name = announcement.node.replace('@', "-");
        self.slice(&name, &format!("10.0.0.{}", port - 40_000), port);
        Some(Box::new(Planted { path: self.path(SLICES), name }))
    }

    fn spoil(&self) {
        // What the API server lets through: it refuses the rest itself.
        let named =
            |name: &str| json!({"name": name, "labels": {"kubernetes.io/service-name": "web"}});
        self.create(SLICES, json!({"metadata": named("odd-1"), "addressType": "FQDN", "endpoints": [{"addresses": ["a.b"]}]}));
        self.create(
            SLICES,
            json!({"metadata": named("odd-2"), "addressType": "IPv4", "endpoints": []}),
        );
        self.create(
            SLICES,
            json!({"metadata": named("odd-3"), "addressType": "IPv6",
                "endpoints": [{"addresses": ["fd00::9"], "targetRef": {"kind": "Cat", "name": "x"}}],
                "ports": [{"name": "", "port": null, "protocol": "UDP"}]}),
        );
    }

    fn fault(&self, fault: Fault) -> bool {
        match fault {
            Fault::Error => self.way(Way::Shut),
            Fault::Malformed => self.way(Way::Garbage),
            Fault::Slow => self.way(Way::Slow),
            Fault::Silent => self.way(Way::Silent),
            Fault::Empty | Fault::Partial => return false,
        }
        true
    }

    fn mend(&self) {
        self.way(Way::Open);
    }
}

/// A slice, until it is dropped.
struct Planted {
    path: String,
    name: String,
}

impl Drop for Planted {
    fn drop(&mut self) {
        world::ask("DELETE", &format!("{}/{}", self.path, self.name), &json!({}));
    }
}

pillion_strategies::conformance!(World::new());

fn strategy(url: &str) -> Box<dyn Strategy> {
    let surroundings =
        Surroundings { registry: "/nowhere".into(), interval: Duration::from_secs(5) };
    build(url, &surroundings).expect("a strategy")
}

/// The world of a test, or nothing after it was said why.
fn world() -> Option<World> {
    World::new().map_err(|why| println!("SKIPPED: {why}")).ok()
}

struct Running {
    reports: watch::Receiver<Report>,
    _task: JoinSet<()>,
}

impl Running {
    fn start(url: &str) -> Self {
        let strategy = strategy(url);
        let (reporter, reports) = Reporter::new();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let ended = strategy.run(conformance::announcement(1), &reporter).await;
            panic!("it ended: {ended:?}");
        });
        Self { reports, _task: task }
    }

    async fn until(&mut self, what: &str, holds: impl FnMut(&Report) -> bool) -> Report {
        let waited = timeout(PATIENCE, self.reports.wait_for(holds)).await;
        match waited.map(|report| report.expect("it runs").clone()) {
            Ok(report) => report,
            Err(_) => panic!("{what} did not come; the last is {:?}", self.reports.borrow()),
        }
    }

    async fn well(&mut self, nodes: &[&str]) -> Report {
        let what = format!("{nodes:?}, well");
        self.until(&what, |r| r.health == Health::Well && addresses(r) == nodes).await
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
    let mut all: Vec<_> = report.sightings.iter().flat_map(|s| &s.addresses).collect();
    all.sort_unstable();
    all.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn both_families_of_a_pod_are_one_sighting_with_its_zone_and_name() {
    let Some(world) = world() else { return };
    world.slice("a", "10.0.0.1", 4470);
    let mut six = slice("a-six", "fd00::1", 4470);
    six["endpoints"][0]["targetRef"]["uid"] = "uid-a".into();
    world.create(SLICES, six);
    let mut node = Running::start(&world.url("service=web&node=hostname&base=web"));
    let report = node.well(&["10.0.0.1:4470", "[fd00::1]:4470"]).await;
    assert_eq!(report.sightings.len(), 1);
    assert_eq!(report.sightings[0].node.as_deref(), Some("web@a"));
    assert_eq!(report.sightings[0].labels.get("zone").map(String::as_str), Some("z1"));
}

#[tokio::test]
async fn pods_are_found_by_their_labels_in_two_namespaces_and_metadata_alone_labels_slices() {
    let (Some(shop), Some(till)) = (world(), world()) else { return };
    let account = json!([{"kind": "ServiceAccount", "name": "web", "namespace": shop.namespace}]);
    till.create(
        "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
        json!({"metadata": {"name": "others"}, "subjects": account,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "finds"}}),
    );
    for (world, ip, tier) in [(&shop, "10.0.0.1", "front"), (&till, "10.0.0.2", "back")] {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web-0", "labels": {"app": "web", "app.kubernetes.io/component": tier}},
            "spec": {"serviceAccountName": "web", "automountServiceAccountToken": false,
                "containers": [{"name": "app", "image": "none", "ports": [{"name": "mesh", "containerPort": 5000}]}]},
        });
        let mut made = world.create(PODS, pod);
        made["status"] = json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}, {"ip": format!("fd00::{}", &ip[7..])}]});
        world.put(PODS, "web-0/status", made);
    }
    let namespaces = format!("{},{}", shop.namespace, till.namespace);
    let mut node = Running::start(
        &shop.url(&format!("from=pods&selector=app=web&namespace={namespaces}&node=pod&base=web")),
    );
    let report =
        node.well(&["10.0.0.1:5000", "10.0.0.2:5000", "[fd00::1]:5000", "[fd00::2]:5000"]).await;
    let found: BTreeMap<_, _> = report
        .sightings
        .iter()
        .map(|s| (s.node.clone().expect("a name"), s.labels["role"].clone()))
        .collect();
    let name = |world: &World| format!("web@web-0.{}", world.namespace);
    assert_eq!(
        found,
        BTreeMap::from([(name(&shop), "front".into()), (name(&till), "back".into())])
    );

    shop.slice("web-0", "10.0.0.1", 4470);
    let mut node = Running::start(&shop.url("service=web&labels=role=app.kubernetes.io/component"));
    let report = node.well(&["10.0.0.1:4470"]).await;
    assert_eq!(report.sightings[0].labels.get("role").map(String::as_str), Some("front"));
}

#[tokio::test]
async fn a_role_that_is_taken_away_is_told_with_the_commands_that_give_it_back() {
    let Some(world) = world() else { return };
    world.slice("a", "10.0.0.1", 4470);
    let mut node = Running::start(&world.url("service=web"));
    node.well(&["10.0.0.1:4470"]).await;
    world.unbind();
    // A watch that goes on is not looked at again by the server.
    world.way(Way::Open);
    let (report, why) = node.unwell("may not").await;
    assert_eq!(addresses(&report), ["10.0.0.1:4470"]);
    let who = format!("system:serviceaccount:{}:web may not", world.namespace);
    assert!(why.contains(&who) && why.contains(&format!("namespace {}", world.namespace)), "{why}");

    let (_, rest) = why.split_once("Allow it: ").expect("a remedy");
    let (commands, _) = rest.split_once(". It is tried again").expect("an end");
    let ran = Command::new("sh").args(["-c", commands]).output();
    match ran {
        Ok(output) if output.status.success() => {}
        Ok(output) if output.status.code() == Some(127) => {
            println!("SKIPPED: the commands were not tried, for there is no kubectl here");
            world.bind();
        }
        other => panic!("`{commands}` did not work: {other:?}"),
    }
    world.slice("b", "10.0.0.2", 4470);
    node.well(&["10.0.0.1:4470", "10.0.0.2:4470"]).await;
}

#[tokio::test]
async fn a_token_that_was_replaced_is_read_again_and_one_that_was_not_is_told() {
    let Some(world) = world() else { return };
    world.slice("a", "10.0.0.1", 4470);
    let mut node = Running::start(&world.url("service=web"));
    node.well(&["10.0.0.1:4470"]).await;

    let first = std::fs::read_to_string(world.dir.join("token")).expect("a token");
    world.write_token("second");
    world.delete("/api/v1/namespaces/{}/secrets", "first");
    let refused = async {
        while takes(&first).await {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(PATIENCE, refused).await.expect("the server forgets the first token");
    world.way(Way::Open);
    world.slice("b", "10.0.0.2", 4470);
    node.well(&["10.0.0.1:4470", "10.0.0.2:4470"]).await;

    // Nobody renews the file.
    world.delete("/api/v1/namespaces/{}/secrets", "second");
    let second = std::fs::read_to_string(world.dir.join("token")).expect("a token");
    let refused = async {
        while takes(&second).await {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(PATIENCE, refused).await.expect("the server forgets the second token");
    world.way(Way::Open);
    let (report, _) = node.unwell("does not accept this node's token").await;
    assert_eq!(report.sightings.len(), 2);
    world.write_token("third");
    node.well(&["10.0.0.1:4470", "10.0.0.2:4470"]).await;
}

/// Runs the script of the cluster, where there is one.
fn cluster(arguments: &[&str]) -> bool {
    let Some(script) = std::env::var_os("TEST_CLUSTER").filter(|path| !path.is_empty()) else {
        println!("SKIPPED: no TEST_CLUSTER, the script that can restart the API server");
        return false;
    };
    let ran = Command::new(script).args(arguments).status().expect("the script can be run");
    assert!(ran.success(), "{arguments:?}: {ran}");
    true
}

#[tokio::test]
async fn a_restarted_server_is_found_again_and_an_expired_watch_begins_anew() {
    let Some(world) = world() else { return };
    world.slice("a", "10.0.0.1", 4470);
    let mut node = Running::start(&world.url("service=web"));
    node.well(&["10.0.0.1:4470"]).await;

    // It is stopped and started under an open watch.
    if !tokio::task::spawn_blocking(|| cluster(&["api", "restart"])).await.expect("it ran") {
        return;
    }
    let last = world.slice("b", "10.0.0.2", 4470);
    node.well(&["10.0.0.1:4470", "10.0.0.2:4470"]).await;

    // The watch is cut and its next question held, until the server has begun a history that is too young for it.
    world.way(Way::Silent);
    world.delete(SLICES, "a");
    tokio::task::spawn_blocking(|| cluster(&["api", "restart"])).await.expect("it ran");
    let since = last["metadata"]["resourceVersion"].as_str().expect("a version");
    let path = format!("{}?watch=true&resourceVersion={since}", world.path(SLICES));
    let client = kube::Client::try_default().await.expect("a client");
    let request = http::Request::get(path).body(Vec::new()).expect("a request");
    let mut events =
        std::pin::pin!(client.request_events::<Value>(request).await.expect("a watch"));
    match timeout(PATIENCE, events.try_next()).await.expect("in time") {
        Ok(Some(kube::core::WatchEvent::Error(status))) => assert_eq!(status.code, 410),
        other => panic!("the server goes on from {since}: {other:?}"),
    }
    world.way(Way::Open);
    node.well(&["10.0.0.2:4470"]).await;
}

#[tokio::test]
async fn a_change_is_reported_as_soon_as_the_server_tells_it() {
    const ROUNDS: usize = 40;
    let Some(world) = world() else { return };
    world.slice("a", "10.0.0.1", 4470);
    let mut node = Running::start(&world.url("service=web"));
    node.well(&["10.0.0.1:4470"]).await;
    // A watch with nothing behind it beside ours: what comes later there than here is our own doing.
    let (path, watched) = (world.path(SLICES), watch::channel(None::<(u16, Instant)>));
    let (tell, mut told) = watched;
    let mut bare = JoinSet::new();
    bare.spawn(async move {
        let client = kube::Client::try_default().await.expect("a client");
        let request =
            http::Request::get(format!("{path}?watch=true")).body(Vec::new()).expect("a request");
        let mut events =
            std::pin::pin!(client.request_events::<Value>(request).await.expect("a watch"));
        while let Some(event) = events.try_next().await.expect("an event") {
            if let kube::core::WatchEvent::Added(slice) | kube::core::WatchEvent::Modified(slice) =
                event
                && let Some(port) =
                    slice["ports"][0]["port"].as_u64().and_then(|p| u16::try_from(p).ok())
            {
                tell.send_replace(Some((port, Instant::now())));
            }
        }
    });
    timeout(PATIENCE, told.wait_for(Option::is_some)).await.expect("in time").expect("a watch");
    let (mut beyond, mut whole) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let port = 5000 + u16::try_from(round).expect("small");
        let began = Instant::now();
        let changed = std::thread::spawn({
            let (path, object) = (world.path(SLICES), slice("a", "10.0.0.1", port));
            move || world::ask("PUT", &format!("{path}/a"), &object)
        });
        let ours = async {
            let of = |r: &Report| r.sightings.iter().any(|s| s.addresses[0].port() == port);
            node.reports.wait_for(of).await.expect("it runs");
            Instant::now()
        };
        let theirs = async {
            let seen = told.wait_for(|told| told.is_some_and(|(seen, _)| seen == port)).await;
            seen.expect("a watch").expect("some").1
        };
        let (ours, theirs) =
            timeout(PATIENCE, async { tokio::join!(ours, theirs) }).await.expect("in time");
        blocking(async { changed.join().expect("it was changed") });
        beyond.push(ours.saturating_duration_since(theirs));
        whole.push(ours - began);
    }
    beyond.sort_unstable();
    whole.sort_unstable();
    println!(
        "change to report, beyond the server's own watch: median {:?}, worst of {ROUNDS} {:?}; all in all: median {:?}, worst {:?}",
        beyond[ROUNDS / 2],
        beyond[ROUNDS - 1],
        whole[ROUNDS / 2],
        whole[ROUNDS - 1]
    );
    assert!(beyond[ROUNDS / 2] < Duration::from_millis(300), "{beyond:?}");
}
