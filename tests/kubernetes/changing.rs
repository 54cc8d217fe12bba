//! Workloads that are scaled, rolled and deleted, and pods that are ready and not ready, beside others that must not notice.

use std::time::Duration;

use serde_json::Value;

use crate::support::{
    Cluster, Kind, Namespace, Node, Workload, eventually, full_mesh, time_of_day,
};

const SLICES: &str = "kubernetes://?service=mesh";

/// Nobody of `kept` has lost another of them since then.
fn nobody_left(kept: &[Node<'_>], since: Duration) {
    let names: Vec<&str> = kept.iter().map(|node| node.name.as_str()).collect();
    for node in kept {
        let mut lost = node.told();
        lost.retain(|told| {
            told.what == "left" && told.at > since && names.contains(&told.node.as_str())
        });
        assert!(lost.is_empty(), "{} lost {lost:?}", node.name);
    }
}

/// Every one of `kept` was told by each of `gone` that it goes, and lost it in no other way. More than once, where a
/// kubelet of a busy machine made a pod's sandbox anew.
fn all_said_goodbye(kept: &[Node<'_>], gone: &[String]) {
    for node in kept {
        for name in gone {
            let about = || node.told().into_iter().filter(|told| told.node == *name);
            eventually(&format!("{} hears that {name} is gone", node.name), || {
                about().next_back().is_some_and(|told| told.what == "left")
            });
            let lost = about().find(|told| told.what == "left" && told.reason != "shutdown");
            assert_eq!(lost, None, "{}", node.name);
        }
    }
}

fn names(nodes: &[Node<'_>]) -> Vec<String> {
    nodes.iter().map(|node| node.name.clone()).collect()
}

/// Those of `before` that are not among `after`.
fn without(before: &[String], after: &[String]) -> Vec<String> {
    before.iter().filter(|name| !after.contains(name)).cloned().collect()
}

#[test]
fn a_deployment_that_is_scaled_gains_and_loses_those_nodes_and_no_others() {
    let Some(cluster) = Cluster::here() else { return };
    let namespace = cluster.namespace("scaled");
    namespace.run(&Workload::new(Kind::StatefulSet, "store", 2, SLICES));
    namespace.run(&Workload::new(Kind::Deployment, "web", 1, SLICES));
    let kept = namespace.nodes_of("store", 2);
    let mut all = namespace.nodes_of("store", 2);
    all.extend(namespace.nodes_of("web", 1));
    full_mesh(&all);
    let since = time_of_day();

    namespace.kubectl(&["scale", "deployment/web", "--replicas=4"]);
    let many = namespace.nodes_of("web", 4);
    let before = names(&many);
    let mut all = namespace.nodes_of("store", 2);
    all.extend(many);
    full_mesh(&all);

    namespace.kubectl(&["scale", "deployment/web", "--replicas=1"]);
    let few = namespace.nodes_of("web", 1);
    let gone = without(&before, &names(&few));
    assert_eq!(gone.len(), 3);
    all_said_goodbye(&kept, &gone);
    nobody_left(&kept, since);
    let mut all = namespace.nodes_of("store", 2);
    all.extend(few);
    full_mesh(&all);
}

#[test]
fn a_deployment_that_is_rolled_has_all_its_nodes_anew_and_each_old_one_says_goodbye() {
    let Some(cluster) = Cluster::here() else { return };
    let namespace = cluster.namespace("rolled");
    namespace.run(&Workload::new(Kind::StatefulSet, "store", 2, SLICES));
    namespace.run(&Workload::new(Kind::Deployment, "web", 3, SLICES));
    let kept = namespace.nodes_of("store", 2);
    let old = namespace.nodes_of("web", 3);
    let before = names(&old);
    let mut all = namespace.nodes_of("store", 2);
    all.extend(old);
    full_mesh(&all);
    let since = time_of_day();

    namespace.kubectl(&["rollout", "restart", "deployment/web"]);
    namespace.kubectl(&["rollout", "status", "deployment/web", "--timeout=180s"]);
    let new = namespace.nodes_of("web", 3);
    assert_eq!(without(&before, &names(&new)).len(), 3, "nobody of before is left");
    all_said_goodbye(&kept, &before);
    nobody_left(&kept, since);
    let mut all = namespace.nodes_of("store", 2);
    all.extend(new);
    full_mesh(&all);
}

#[test]
fn a_stateful_set_that_is_rolled_has_its_names_again_as_new_runs() {
    let Some(cluster) = Cluster::here() else { return };
    let namespace = cluster.namespace("again");
    namespace.run(&Workload::new(Kind::Deployment, "web", 1, SLICES));
    namespace.run(&Workload::new(Kind::StatefulSet, "store", 2, SLICES));
    let web = namespace.nodes_of("web", 1);
    let mut all = namespace.nodes_of("web", 1);
    all.extend(namespace.nodes_of("store", 2));
    full_mesh(&all);

    namespace.kubectl(&["rollout", "restart", "statefulset/store"]);
    namespace.kubectl(&["rollout", "status", "statefulset/store", "--timeout=180s"]);
    full_mesh(&all);
    for base in ["store-0", "store-1"] {
        let name = namespace.node("store", base).name;
        let told: Vec<_> = web[0].told().into_iter().filter(|told| told.node == name).collect();
        let (first, last) = (&told[0], &told[told.len() - 1]);
        assert_eq!((first.what.as_str(), last.what.as_str()), ("joined", "joined"), "{told:?}");
        assert_ne!(first.incarnation, last.incarnation, "{told:?}");
        assert!(told.iter().all(|told| told.what == "joined" || told.reason == "shutdown"));
    }
}

#[test]
fn a_deployment_that_is_deleted_says_goodbye_and_the_others_stay() {
    let Some(cluster) = Cluster::here() else { return };
    let namespace = cluster.namespace("deleted");
    namespace.run(&Workload::new(Kind::StatefulSet, "store", 2, SLICES));
    namespace.run(&Workload::new(Kind::Deployment, "web", 2, SLICES));
    let web = namespace.nodes_of("web", 2);
    let gone = names(&web);
    let mut all = namespace.nodes_of("store", 2);
    all.extend(web);
    full_mesh(&all);
    let since = time_of_day();

    namespace.kubectl(&["delete", "deployment/web", "--wait=false"]);
    let kept = namespace.nodes_of("store", 2);
    all_said_goodbye(&kept, &gone);
    nobody_left(&kept, since);
    full_mesh(&kept);
}

/// Sets a condition of a pod, as whoever owns a readiness gate does.
fn set_condition(namespace: &Namespace, pod: &str, condition: &str, is: bool) {
    let status = if is { "True" } else { "False" };
    let patch = format!(
        r#"{{"status": {{"conditions": [{{"type": "{condition}", "status": "{status}"}}]}}}}"#
    );
    namespace.kubectl(&["patch", "pod", pod, "--subresource=status", "-p", &patch]);
}

/// Whether the endpoint of a pod is called ready without regard to what its service publishes.
fn serving(namespace: &Namespace, pod: &str) -> Option<bool> {
    let slices = namespace.kubectl(&["get", "endpointslices", "-o", "json"]);
    let slices: Value = serde_json::from_str(&slices).unwrap();
    let slices = slices["items"].as_array()?.iter();
    let mut endpoints =
        slices.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    endpoints.find(|endpoint| endpoint["targetRef"]["name"] == pod)?["conditions"]["serving"]
        .as_bool()
}

#[test]
fn a_pod_whose_readiness_flaps_is_dropped_by_nobody_and_drops_nobody() {
    let Some(cluster) = Cluster::here() else { return };
    let namespace = cluster.namespace("flaps");
    let condition = "pillion.dev/flaps";
    namespace.run(&Workload::new(Kind::StatefulSet, "store", 2, SLICES));
    namespace.run(&Workload {
        gate: Some(condition),
        ..Workload::new(Kind::StatefulSet, "moody", 1, SLICES)
    });
    let mut all = namespace.nodes_of("store", 2);
    all.extend(namespace.nodes_of("moody", 1));
    // It is found before it was ever ready.
    full_mesh(&all);
    let since = time_of_day();
    for ready in [true, false, true, false, true] {
        set_condition(&namespace, "moody-0", condition, ready);
        eventually(&format!("the slice says serving: {ready}"), || {
            serving(&namespace, "moody-0") == Some(ready)
        });
    }
    full_mesh(&all);
    nobody_left(&all, since);
}
