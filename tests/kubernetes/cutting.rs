//! A machine that the network loses for a minute, with what runs on it.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Cluster, Kind, Node, Workload, eventually, full_mesh, time_of_day};

/// How long it is cut off: long enough for the cluster to give the machine up (12 s here), and for nodes to give up each other.
const CUT_OFF: Duration = Duration::from_secs(60);

/// What of `heard` is about `other`, in words: nodedown, nodeup.
fn heard_of<'a>(heard: &'a [Value], other: &str) -> Vec<&'a str> {
    heard
        .iter()
        .filter(|event| event["node"] == other)
        .filter_map(|event| event["ev"].as_str())
        .collect()
}

#[test]
fn a_machine_cut_off_for_a_minute_goes_and_comes_back_on_both_sides_and_disturbs_nobody() {
    let Some(cluster) = Cluster::here() else { return };
    if !cluster.can_cut() {
        return println!(
            "SKIPPED: no machine of this cluster can be cut off; `tests/kubernetes/cluster up 3` has one"
        );
    }
    let namespace = cluster.namespace("cut");
    let strategy = "kubernetes://?service=mesh";
    namespace.run(&Workload {
        spread: true,
        app: true,
        ..Workload::new(Kind::StatefulSet, "store", 3, strategy)
    });
    let nodes = namespace.nodes_of("store", 3);
    full_mesh(&nodes);
    eventually("the apps are there", || {
        nodes.iter().all(|node| {
            namespace
                .try_kubectl(&["logs", &node.pod, "-c", "app"])
                .is_ok_and(|log| log.contains("watching"))
        })
    });
    let pods = namespace.pods(Some("store"));
    let lost =
        pods.iter().find(|pod| pod["spec"]["nodeName"] == "node-3").expect("one on each machine");
    let lost = lost["metadata"]["name"].as_str().unwrap();
    let (away, here): (Vec<&Node<'_>>, Vec<&Node<'_>>) =
        nodes.iter().partition(|node| node.pod == lost);
    let away = away[0];
    let before: Vec<usize> = nodes.iter().map(|node| node.heard().len()).collect();
    let runs: Vec<Value> = pods.iter().map(|pod| pod["metadata"]["uid"].clone()).collect();

    let cut = time_of_day();
    cluster.script(&["cut", "3"]);
    let healed = Healed(&cluster);
    for node in &here {
        eventually(&format!("{} hears that {} is down", node.name, away.name), || {
            heard_of(&node.heard(), &away.name).last() == Some(&"nodedown")
        });
    }
    std::thread::sleep(CUT_OFF);
    for node in &here {
        assert!(!node.connected().contains(&away.name));
    }
    let healing = time_of_day();
    drop(healed);

    full_mesh(&nodes);
    let told = |node: &Node<'_>| {
        let at = nodes.iter().position(|other| other.pod == node.pod).unwrap();
        node.heard()[before[at]..].to_vec()
    };
    for node in &here {
        let heard = told(node);
        assert_eq!(
            heard_of(&heard, &away.name),
            ["nodedown", "nodeup"],
            "{}: {heard:?}",
            node.name
        );
        assert_eq!(heard.len(), 2, "{} heard of nobody else: {heard:?}", node.name);
        let heard = told(away);
        assert_eq!(
            heard_of(&heard, &node.name),
            ["nodedown", "nodeup"],
            "{}: {heard:?}",
            away.name
        );
    }
    assert_eq!(told(away).len(), 4);
    for (what, since) in [("left", cut), ("joined", healing)] {
        for node in &here {
            let last =
                node.told().into_iter().rfind(|told| told.what == what && told.node == away.name);
            let after = last.expect("it was told").at.saturating_sub(since);
            println!(
                "{}: {what} {after:.1?} after the network {}",
                node.pod,
                if what == "left" { "went" } else { "came back" }
            );
        }
    }
    let after: Vec<Value> =
        namespace.pods(Some("store")).iter().map(|pod| pod["metadata"]["uid"].clone()).collect();
    assert_eq!(runs, after, "no pod was replaced");
}

/// Puts the machine back, also when the test fails.
struct Healed<'a>(&'a Cluster);

impl Drop for Healed<'_> {
    fn drop(&mut self) {
        self.0.script(&["heal", "3"]);
    }
}
