//! What is written when pods come, change and go.

use serde_json::{Value, json};

use super::*;

/// A cluster without a server: what is planned is done.
struct World {
    pods: Vec<PodSeen>,
    services: Vec<MeshService>,
    slices: Vec<EndpointSlice>,
    version: usize,
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object")
}

fn pod(number: usize) -> Value {
    json!({
        "metadata": {"name": format!("web-{number}"), "namespace": "shop", "uid": format!("u-{number}"),
            "labels": {"pillion.dev/mesh": "default"}},
        "spec": {"nodeName": "node-1", "containers": [{"name": "app", "ports": [{"name": "mesh", "containerPort": 9}]}],
            "initContainers": [{"name": "pillion", "ports": [{"name": "mesh", "containerPort": 4470, "protocol": "TCP"}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": format!("10.0.{}.{}", number / 250, number % 250 + 1)}],
            "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

impl World {
    fn new(pods: usize) -> Self {
        let service = json!({"metadata": {"name": "pillion-default", "namespace": "pillion", "uid": "s-1"},
            "spec": {"clusterIP": "None", "selector": null, "ports": []}});
        let pods = (0..pods).map(|number| read(pod(number))).collect();
        Self { pods, services: vec![read(service)], slices: Vec::new(), version: 0 }
    }

    fn plan(&self) -> Plan {
        plan(&Known {
            namespace: "pillion",
            lease: ("pillion-injector", "l-1"),
            pods: self.pods.iter().collect(),
            zones: BTreeMap::from([("node-1", "zone-1")]),
            services: self.services.iter().collect(),
            slices: self.slices.iter().collect(),
        })
    }

    /// Does what is planned; how many slices that wrote.
    fn settle(&mut self) -> usize {
        let Plan { writes, complaints } = self.plan();
        assert!(complaints.is_empty(), "{complaints:?}");
        let count = writes.len();
        for write in writes {
            self.version += 1;
            let version = Some(self.version.to_string());
            match write {
                Write::Create(mut slice) => {
                    assert!(self.slices.iter().all(|s| s.metadata.name != slice.metadata.name));
                    slice.metadata.resource_version = version;
                    self.slices.push(*slice);
                }
                Write::Replace(mut slice) => {
                    let there =
                        self.slices.iter_mut().find(|s| s.metadata.name == slice.metadata.name);
                    let there = there.expect("one to replace");
                    assert_eq!(there.metadata.resource_version, slice.metadata.resource_version);
                    slice.metadata.resource_version = version;
                    *there = *slice;
                }
                Write::Delete { name, .. } => {
                    self.slices.retain(|s| s.metadata.name.as_deref() != Some(&name));
                }
                Write::CreateService(mut service) => {
                    service.metadata.uid = version;
                    self.services.push(*service);
                }
                Write::DeleteService { name, .. } => {
                    self.services.retain(|s| s.metadata.name.as_deref() != Some(&name));
                }
            }
        }
        assert!(self.slices.iter().all(|slice| slice.endpoints.len() <= ENDPOINTS_MAX));
        assert!(self.services.iter().any(|_| true) && (count == 0 || self.is_settled_or_waits()));
        count
    }

    /// Whatever is done once need not be done again, but for the slices of a Service that was just made.
    fn is_settled_or_waits(&self) -> bool {
        self.plan().writes.iter().all(|write| matches!(write, Write::Create(_)))
    }

    fn sizes(&self) -> Vec<usize> {
        self.slices.iter().map(|slice| slice.endpoints.len()).collect()
    }

    fn names(&self) -> Vec<&str> {
        self.slices.iter().filter_map(|slice| slice.metadata.name.as_deref()).collect()
    }
}

#[test]
fn a_pod_is_an_endpoint_with_all_that_others_need_to_know_of_it() {
    let mut world = World::new(1);
    assert_eq!(world.settle(), 1);
    let slice = &world.slices[0];
    assert_eq!(
        serde_json::to_value(slice).expect("JSON"),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "pillion-default-ipv4-4470-0", "resourceVersion": "1",
                "labels": {"kubernetes.io/service-name": "pillion-default", "service.kubernetes.io/headless": "",
                    "endpointslice.kubernetes.io/managed-by": "injector.pillion.dev"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "pillion-default", "uid": "s-1", "controller": true}]},
            "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "node-1", "zone": "zone-1",
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": "shop", "name": "web-0", "uid": "u-0"}}],
            "ports": [{"name": "mesh", "port": 4470, "protocol": "TCP"}],
        })
    );
    assert_eq!(world.settle(), 0, "nothing has changed");
}

#[test]
fn both_families_and_each_port_have_slices_of_their_own() {
    let mut world = World::new(3);
    let ips = |ips: &[&str]| ips.iter().map(|ip| read(json!({"ip": ip}))).collect();
    world.pods[0].status.pod_ips = ips(&["10.0.0.1", "fd00::1", "10.0.0.99"]);
    world.pods[1].status.pod_ips = ips(&["fd00::2"]);
    world.pods[2].spec.init_containers[0].ports[0].number = 5000;
    world.settle();
    let mut names = world.names();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "pillion-default-ipv4-4470-0",
            "pillion-default-ipv4-5000-0",
            "pillion-default-ipv6-4470-0"
        ]
    );
    // A pod without a sidecar of that name, and one that says nothing.
    world.pods[2].spec.init_containers.clear();
    world.settle();
    assert!(world.names().contains(&"pillion-default-ipv4-9-0"), "{:?}", world.names());
    world.pods[2].spec.containers.clear();
    world.settle();
    assert_eq!(world.sizes().iter().sum::<usize>(), 4);
    assert_eq!(world.slices.len(), 2);
}

#[test]
fn two_hundred_and_fifty_pods_are_three_slices_and_one_more_or_less_is_one_write() {
    let mut world = World::new(250);
    assert_eq!(world.settle(), 3);
    assert_eq!(world.sizes(), [100, 100, 50]);
    world.pods.remove(17);
    assert_eq!(world.settle(), 1);
    world.pods.push(read(pod(251)));
    assert_eq!(world.settle(), 1);
    world.pods[30].status.conditions.clear();
    assert_eq!(world.settle(), 1);
    let serving = world.slices.iter().flat_map(|slice| &slice.endpoints).filter(|endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.serving) == Some(true)
    });
    assert_eq!(serving.count(), 249);
    // One that goes and one that comes at once are one write where they can be.
    world.pods.remove(200);
    world.pods.push(read(pod(252)));
    assert_eq!(world.settle(), 1);
    world.pods.truncate(1);
    world.settle();
    assert_eq!(world.sizes(), [1]);
    world.pods.clear();
    world.settle();
    assert!(world.slices.is_empty() && world.services.len() == 1, "the chart's Service stays");
}

#[test]
fn slices_of_an_earlier_holder_are_used_on_and_what_is_wrong_with_them_is_mended() {
    let mut world = World::new(2);
    world.settle();
    let old = world.slices.clone();
    // The Service was made anew; one slice twice; one of no sense.
    world.services[0].metadata.uid = Some("s-2".to_owned());
    let mut twice = old[0].clone();
    twice.metadata.name = Some("pillion-default-ipv4-4470-7".to_owned());
    let mut odd = old[0].clone();
    odd.metadata.name = Some("odd".to_owned());
    odd.ports = None;
    world.slices.extend([twice, odd]);
    world.settle();
    assert_eq!(world.names(), ["pillion-default-ipv4-4470-0"]);
    assert_eq!(world.sizes(), [2]);
    let owners = world.slices[0].metadata.owner_references.as_ref().expect("an owner");
    assert_eq!(owners[0].uid, "s-2");
}

#[test]
fn who_ends_stays_until_it_is_gone_and_who_has_ended_or_has_no_address_is_nobody() {
    let mut world = World::new(4);
    let ending = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
    let ending: ObjectMeta = read(ending);
    world.pods[0].metadata.deletion_timestamp = ending.deletion_timestamp;
    world.pods[1].status.phase = "Succeeded".to_owned();
    world.pods[2].status.pod_ips.clear();
    world.settle();
    let conditions: Vec<_> =
        world.slices[0].endpoints.iter().filter_map(|e| e.conditions.clone()).collect();
    assert_eq!(conditions.len(), 2);
    assert_eq!(conditions[0].terminating, Some(true));
    assert_eq!(conditions[0].ready, Some(true));
}

#[test]
fn another_mesh_gets_a_service_that_goes_when_nobody_is_in_it() {
    let mut world = World::new(2);
    world.pods[1].metadata.labels = Some(BTreeMap::from([(MESH.to_owned(), "staging".to_owned())]));
    world.settle();
    assert_eq!(world.services.len(), 2);
    let made = serde_json::to_value(&world.services[1]).expect("JSON");
    assert_eq!(made["metadata"]["name"], "pillion-staging");
    assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "l-1");
    assert_eq!(made["spec"]["clusterIP"], "None");
    assert_eq!(made["spec"]["publishNotReadyAddresses"], true);
    world.settle();
    assert_eq!(world.slices.len(), 2);
    world.pods.pop();
    world.settle();
    assert_eq!((world.services.len(), world.slices.len()), (1, 1));
}

#[test]
fn a_mesh_that_can_have_no_service_and_a_service_of_somebody_else_are_told() {
    let mut world = World::new(1);
    world.services[0].spec.selector = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
    let told = world.plan();
    assert!(told.writes.is_empty() && told.complaints[0].contains("has a selector"), "{told:?}");
    for mesh in ["Staging", "a_b", "a-", &"x".repeat(60)] {
        world.pods[0].metadata.labels = Some(BTreeMap::from([(MESH.to_owned(), mesh.to_owned())]));
        let told = world.plan();
        assert!(
            told.writes.is_empty() && told.complaints[0].contains("can have no Service"),
            "{told:?}"
        );
    }
}
