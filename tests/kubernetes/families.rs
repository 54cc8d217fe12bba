//! Pods in a cluster of IPv4 and IPv6, or of one of them: what the chart makes fits what the cluster has.
//!
//! `cluster test` runs these once more, and a few others, where there is no IPv4.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::charts::{App, full_mesh, pods, said, shared, tell};
use crate::support::{Namespace, eventually};

fn family(address: &str) -> &'static str {
    if address.contains(':') { "IPv6" } else { "IPv4" }
}

#[test]
fn annotated_pods_find_each_other_by_every_family_of_addresses_that_they_have() {
    let Some(release) = shared() else { return };
    let place = release.place("families");
    let app = App::new("shop", 2, "listen");
    let annotations = json!({"pillion.dev/inject": "true", "pillion.dev/mesh": "families"});
    App { annotations, ..app }.run(&place);
    let shops = pods(&place, "shop", 2);
    let all: Vec<(&Namespace, &str, &str)> =
        shops.iter().map(|pod| (&place, "shop", pod.as_str())).collect();
    full_mesh(&all);

    // Every address of every pod, in a slice of its family, and no other.
    let of_pods: BTreeSet<(String, String)> = place
        .pods(Some("shop"))
        .iter()
        .flat_map(|pod| pod["status"]["podIPs"].as_array().cloned().unwrap_or_default())
        .map(|ip| ip["ip"].as_str().unwrap().to_owned())
        .map(|ip| (family(&ip).to_owned(), ip))
        .collect();
    let slices = || {
        let listed = release.namespace.kubectl(&[
            "get",
            "endpointslices",
            "-lkubernetes.io/service-name=pillion-families",
            "-o",
            "json",
        ]);
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let listed = listed["items"].as_array().cloned().unwrap_or_default();
        let addresses = |slice: &Value| {
            let kind = slice["addressType"].as_str().unwrap().to_owned();
            let endpoints = slice["endpoints"].as_array().cloned().unwrap_or_default();
            endpoints
                .iter()
                .flat_map(|endpoint| endpoint["addresses"].as_array().cloned().unwrap_or_default())
                .map(|address| (kind.clone(), address.as_str().unwrap().to_owned()))
                .collect::<Vec<_>>()
        };
        listed.iter().flat_map(addresses).collect::<BTreeSet<_>>()
    };
    eventually(&format!("the slices list {of_pods:?}"), || slices() == of_pods);
    let families: BTreeSet<&str> = of_pods.iter().map(|(family, _)| family.as_str()).collect();

    // The injector's Service has what the cluster gives, and the nodes are connected by an address of the pods'.
    let service = release.namespace.kubectl(&[
        "get",
        "service",
        &format!("{}-injector", release.name),
        "-o",
        "jsonpath={.spec.ipFamilies}",
    ]);
    let of_service: Vec<String> = serde_json::from_str(&service).unwrap();
    assert!(of_service.iter().all(|family| families.contains(family.as_str())), "{service}");
    let nodes =
        place.kubectl(&["exec", &shops[0], "-c", "pillion", "--", "/pillion", "nodes", "--json"]);
    let nodes: Value = serde_json::from_str(&nodes).unwrap();
    let other = nodes["nodes"].as_array().unwrap().iter().find(|node| node["state"] == "connected");
    let address = other.expect("the other")["address"].as_str().unwrap().to_owned();
    assert!(of_pods.iter().any(|(_, ip)| address.contains(ip)), "{address} is none of {of_pods:?}");

    let to = format!("inbox@shop@{}.{}", shops[1], place.name);
    tell(&place, &shops[0], &json!({"op": "send", "id": 1, "to": to, "body": "good evening"}));
    eventually("the other app has it", || said(&place, &shops[1]).contains("good evening"));
    println!(
        "the pods have {families:?}, the injector's Service {of_service:?}, nodes meet at {address}"
    );
}
