//! How long it takes from the change of an `EndpointSlice` until the nodes are connected.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Cluster, Kind, Namespace, PATIENCE, Workload, eventually, time_of_day};

/// How many pods come into the service, one after the other.
const ROUNDS: usize = 8;
/// What the time beyond the API server's own should be; printed, since a busy machine proves nothing.
const TARGET: Duration = Duration::from_millis(300);
/// What only polling would miss: watching never takes this long in the middle of all rounds.
const BOUND: Duration = Duration::from_secs(2);

/// A watch of the slices beside the node's own: when the API server told whom it lists.
struct Watch<'a> {
    namespace: &'a Namespace,
    kubectl: Child,
    lines: Receiver<(Duration, String)>,
}

impl<'a> Watch<'a> {
    /// From version 0 on, which is what the API server has at hand: an etcd that tells no progress lets it refuse a watch of
    /// what has not changed for a while ("Too large resource version").
    fn new(namespace: &'a Namespace) -> Self {
        let path = format!(
            "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices?watch=true&resourceVersion=0&labelSelector=kubernetes.io/service-name%3Dmesh",
            namespace.name
        );
        let mut command = namespace.cluster.command(&["get", "--raw", &path]);
        let mut kubectl = command.stdout(Stdio::piped()).spawn().expect("kubectl starts");
        let stdout = BufReader::new(kubectl.stdout.take().expect("piped"));
        let (sender, lines) = sync_channel(1024);
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send((time_of_day(), line)).is_err() {
                    return;
                }
            }
        });
        Self { namespace, kubectl, lines }
    }

    /// When it was told that the service lists `pod`.
    fn listed(&mut self, pod: &str) -> Duration {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (at, line) = match self.lines.recv_timeout(left) {
                Ok(told) => told,
                Err(RecvTimeoutError::Timeout) => panic!("no slice lists {pod}"),
                // An API server may end a watch at any time; the next begins with what there is.
                Err(RecvTimeoutError::Disconnected) => {
                    assert!(left > Duration::ZERO, "watches end before a slice lists {pod}");
                    *self = Self::new(self.namespace);
                    continue;
                }
            };
            let event: Value = serde_json::from_str(&line).expect("an event");
            let endpoints = event["object"]["endpoints"].as_array().cloned().unwrap_or_default();
            if endpoints.iter().any(|endpoint| endpoint["targetRef"]["name"] == pod) {
                return at;
            }
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

#[test]
fn a_pod_is_connected_soon_after_its_endpoint_slice_changed() {
    let Some(cluster) = Cluster::here() else { return };
    let namespace = cluster.namespace("measured");
    namespace.run(&Workload::new(Kind::StatefulSet, "seer", 1, "kubernetes://?service=mesh"));
    // They look for nobody and are listed nowhere yet: only the seer's watch can bring them together.
    namespace.run(&Workload {
        member: false,
        ..Workload::new(Kind::StatefulSet, "found", ROUNDS, "none")
    });
    let seer = &namespace.nodes_of("seer", 1)[0];
    let found = namespace.nodes_of("found", ROUNDS);
    for node in found.iter().chain([seer]) {
        eventually(&format!("{} is up", node.name), || !node.knows().is_empty());
    }
    let mut watch = Watch::new(&namespace);
    watch.listed(&seer.pod);
    let mut rows = Vec::new();
    for node in &found {
        let asked = time_of_day();
        namespace.kubectl(&["label", "pod", &node.pod, "mesh=shop", "--overwrite"]);
        let listed = watch.listed(&node.pod);
        let joined = || seer.told().into_iter().find(|told| told.node == node.name);
        eventually(&format!("{} joins", node.name), || joined().is_some());
        let joined = joined().expect("just seen").at;
        rows.push((listed.saturating_sub(asked), joined.saturating_sub(listed)));
    }
    let mut beyond: Vec<Duration> = rows.iter().map(|(_, beyond)| *beyond).collect();
    beyond.sort();
    let (median, worst) = (beyond[ROUNDS / 2], beyond[ROUNDS - 1]);
    println!("label of a pod to event of its EndpointSlice | event to nodeup (at most {TARGET:?})");
    for (before, beyond) in &rows {
        println!("{before:>44.1?} | {beyond:.1?}");
    }
    let verdict = if median <= TARGET { "ok" } else { "OVER" };
    println!(
        "event of the EndpointSlice to nodeup: median {median:.1?}, worst {worst:.1?}: {verdict}"
    );
    assert!(median < BOUND, "half of the pods waited {median:?} or longer");
}
