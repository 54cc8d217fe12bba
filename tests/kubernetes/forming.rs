//! Pods that find each other: two of a Deployment and two of a `StatefulSet`, through each source that a cluster has.

use serde_json::Value;

use crate::support::{Cluster, Kind, Workload, eventually, full_mesh};

/// Starts both kinds of workload, which find each other by `strategy`.
fn find_each_other(test: &str, strategy: &str) {
    let Some(cluster) = Cluster::here() else { return };
    let namespace = cluster.namespace(test);
    let strategy = strategy.replace("NAMESPACE", &namespace.name);
    namespace.run(&Workload::new(Kind::Deployment, "web", 2, &strategy));
    namespace.run(&Workload::new(Kind::StatefulSet, "store", 2, &strategy));
    let mut nodes = namespace.nodes_of("web", 2);
    nodes.extend(namespace.nodes_of("store", 2));
    full_mesh(&nodes);
    for node in &nodes {
        let lost =
            node.told().into_iter().find(|told| !["", "shutdown"].contains(&told.reason.as_str()));
        assert_eq!(lost, None, "{}", node.name);
    }
}

#[test]
fn pods_find_each_other_through_endpoint_slices() {
    find_each_other("slices", "kubernetes://?service=mesh");
}

#[test]
fn pods_find_each_other_through_pods() {
    find_each_other("pods", "kubernetes://?from=pods&selector=mesh=shop");
}

#[test]
fn pods_find_each_other_through_a_headless_name() {
    find_each_other("dns", "dns://mesh.NAMESPACE.svc.cluster.local");
}

#[test]
fn pods_find_each_other_through_the_service_records_of_a_headless_name() {
    find_each_other("srv", "dns://_mesh._tcp.mesh.NAMESPACE.svc.cluster.local");
}

#[test]
fn pods_find_each_other_through_a_list_of_one_headless_name() {
    find_each_other("list", "list://mesh.NAMESPACE.svc.cluster.local?interval=1s");
}

#[test]
fn a_node_has_the_zone_that_its_machine_is_in_as_a_label() {
    let Some(cluster) = Cluster::here() else { return };
    let machines = cluster.try_kubectl(&["get", "nodes", "-o", "json"], None).unwrap();
    let mut machines: Value = serde_json::from_str(&machines).unwrap();
    let machines = machines["items"].take().as_array().unwrap().clone();
    let label = "topology.kubernetes.io/zone";
    if machines.iter().any(|machine| machine["metadata"]["labels"][label].is_null()) {
        return println!("SKIPPED: the machines of this cluster have no zones");
    }
    let namespace = cluster.namespace("zones");
    namespace.run(&Workload::new(Kind::StatefulSet, "store", 3, "kubernetes://?service=mesh"));
    let nodes = namespace.nodes_of("store", 3);
    full_mesh(&nodes);
    for pod in namespace.pods(Some("store")) {
        let name = pod["metadata"]["name"].as_str().unwrap();
        let machine =
            machines.iter().find(|machine| machine["metadata"]["name"] == pod["spec"]["nodeName"]);
        let zone = &machine.expect("it runs somewhere")["metadata"]["labels"][label];
        let node = namespace.node("store", name);
        // Its own word, and so what all others see.
        for seer in &nodes {
            eventually(&format!("{} sees that {name} is in {zone}", seer.name), || {
                seer.knows()
                    .iter()
                    .any(|known| known["node"] == *node.name && known["labels"]["zone"] == *zone)
            });
        }
    }
}
