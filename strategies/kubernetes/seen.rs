//! From an EndpointSlice or a Pod to what can be reported of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::PORT;
use super::objects::{Container, Endpoint, Pod, Slice, SlicePort};
use super::wish::{Port, Wish};

/// The name by which a port is the mesh's where no other was given.
const MESH: &str = "mesh";
/// The label of a pod that says which app it is.
const APP: &str = "app.kubernetes.io/name";
/// The label that says where a node is.
const ZONE: &str = "zone";
/// Most addresses of one endpoint that are looked at.
const ADDRESSES_MAX: usize = 8;
/// Most port names that are told.
const NAMES_TOLD_MAX: usize = 5;

/// One endpoint or pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) uid: Option<String>,
    pub(super) pod: Option<String>,
    pub(super) namespace: String,
    pub(super) hostname: Option<String>,
    /// Which app runs in it, as its label says.
    pub(super) app: Option<String>,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) serving: bool,
    pub(super) terminating: bool,
    pub(super) labels: BTreeMap<String, String>,
    /// For people: where it is written.
    pub(super) source: String,
}

/// What one object comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) seen: Vec<Seen>,
    /// Why it is worth less than it could be, and what to do.
    pub(super) note: Option<String>,
}

/// By what two sightings are known to be one: of a pod with two address families there are two slices.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Uid(String),
    Pod(String, String),
    Host(String, String),
    Address(SocketAddr),
}

impl Seen {
    /// One key, or one for each address that belongs to nobody in particular.
    pub(super) fn keys(&self) -> Vec<(Key, Vec<SocketAddr>)> {
        let namespace = || self.namespace.clone();
        let key = match (&self.uid, &self.pod, &self.hostname) {
            (Some(uid), ..) => Key::Uid(uid.clone()),
            (None, Some(pod), _) => Key::Pod(namespace(), pod.clone()),
            (None, None, Some(host)) => Key::Host(namespace(), host.clone()),
            (None, None, None) => {
                return self.addresses.iter().map(|at| (Key::Address(*at), vec![*at])).collect();
            }
        };
        vec![(key, self.addresses.clone())]
    }
}

/// The endpoints of a slice.
pub(super) fn in_slice(slice: &Slice, wish: &Wish) -> Entry {
    let meta = &slice.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let source = format!("EndpointSlice {namespace}/{}", meta.name.as_deref().unwrap_or_default());
    if slice.address_type != "IPv4" && slice.address_type != "IPv6" {
        return Entry::default();
    }
    let port = match slice_port(&slice.ports, &wish.port) {
        Ok(port) => port,
        Err(_) if slice.endpoints.is_empty() => return Entry::default(),
        Err(name) => {
            let there = names(slice.ports.iter().filter_map(|port| port.name.as_deref()));
            let note = format!(
                "{source} has no TCP port called `{name}`{there}: name the port of the Service so, or write port=NUMBER"
            );
            return Entry { seen: Vec::new(), note: Some(note) };
        }
    };
    let seen =
        slice.endpoints.iter().map(|endpoint| in_endpoint(endpoint, namespace, port, &source));
    Entry { seen: seen.filter(|seen| !seen.addresses.is_empty()).collect(), note: None }
}

fn in_endpoint(endpoint: &Endpoint, namespace: &str, port: u16, source: &str) -> Seen {
    let target = endpoint.target_ref.as_ref();
    let pod = target.filter(|target| target.kind == "Pod").and_then(|target| target.name.clone());
    let known = |value: &Option<String>| value.clone().filter(|text| !text.is_empty());
    let conditions = &endpoint.conditions;
    Seen {
        uid: target.and_then(|target| known(&target.uid)),
        pod,
        namespace: target
            .and_then(|target| known(&target.namespace))
            .unwrap_or_else(|| namespace.to_owned()),
        hostname: known(&endpoint.hostname),
        app: None,
        addresses: addresses(endpoint.addresses.iter().map(String::as_str), port),
        // With publishNotReadyAddresses `ready` is always true: it says nothing where `serving` is there.
        serving: conditions.serving.or(conditions.ready).unwrap_or(true),
        terminating: conditions.terminating.unwrap_or(false),
        labels: known(&endpoint.zone).map(|zone| (ZONE.to_owned(), zone)).into_iter().collect(),
        source: source.to_owned(),
    }
}

/// A pod, where it has an address and has not ended.
pub(super) fn in_pod(pod: &Pod, wish: &Wish) -> Entry {
    let meta = &pod.metadata;
    let (name, namespace) =
        (meta.name.clone().unwrap_or_default(), meta.namespace.clone().unwrap_or_default());
    if matches!(pod.status.phase.as_str(), "Failed" | "Succeeded") {
        return Entry::default();
    }
    let ips =
        pod.status.pod_ips.iter().map(|ip| ip.ip.as_str()).chain(pod.status.pod_ip.as_deref());
    let source = format!("pod {namespace}/{name}");
    let port = match pod_port(pod, &wish.port) {
        Ok(port) => port,
        Err(missing) => {
            let there = names(ports(pod).filter_map(|port| port.name.as_deref()));
            let note = format!(
                "{source} has no TCP port called `{missing}`{there}: name a port of a container so, or write port=NUMBER"
            );
            return Entry { seen: Vec::new(), note: Some(note) };
        }
    };
    let addresses = addresses(ips, port);
    if addresses.is_empty() {
        return Entry::default();
    }
    let ready = pod.status.conditions.iter().find(|condition| condition.kind == "Ready");
    let seen = Seen {
        uid: meta.uid.clone(),
        pod: Some(name),
        namespace,
        hostname: pod.spec.hostname.clone(),
        app: meta.labels.as_ref().and_then(|labels| labels.get(APP).cloned()),
        addresses,
        serving: ready.is_some_and(|ready| ready.status == "True"),
        terminating: meta.deletion_timestamp.is_some(),
        labels: in_labels(meta, wish),
        source,
    };
    Entry { seen: vec![seen], note: None }
}

/// The labels of a pod alone, for those that a slice names.
pub(super) fn in_metadata(meta: &ObjectMeta, wish: &Wish) -> Entry {
    let labels = in_labels(meta, wish);
    if labels.is_empty() {
        return Entry::default();
    }
    let seen = Seen {
        pod: meta.name.clone(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        labels,
        ..Seen::default()
    };
    Entry { seen: vec![seen], note: None }
}

fn in_labels(meta: &ObjectMeta, wish: &Wish) -> BTreeMap<String, String> {
    let Some(labels) = &meta.labels else { return BTreeMap::new() };
    wish.labels
        .iter()
        .filter_map(|(node, pod)| Some((node.clone(), labels.get(pod)?.clone())))
        .filter(|(_, value)| !value.is_empty())
        .collect()
}

fn addresses<'a>(ips: impl Iterator<Item = &'a str>, port: u16) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> = ips
        .take(ADDRESSES_MAX)
        .filter_map(|ip| ip.parse::<IpAddr>().ok())
        .filter(|ip| !ip.is_unspecified() && !ip.is_multicast())
        .map(|ip| SocketAddr::new(ip, port))
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

/// The port, or the name of the one that is not there.
fn slice_port<'a>(ports: &[SlicePort], wanted: &'a Port) -> Result<u16, &'a str> {
    let called = |name: &str| {
        ports
            .iter()
            .filter(|port| port.name.as_deref() == Some(name) && is_tcp(port.protocol.as_deref()))
            .find_map(|port| port.port.and_then(number))
    };
    pick(wanted, called)
}

fn pod_port<'a>(pod: &Pod, wanted: &'a Port) -> Result<u16, &'a str> {
    let called = |name: &str| {
        ports(pod)
            .filter(|port| port.name.as_deref() == Some(name) && is_tcp(port.protocol.as_deref()))
            .find_map(|port| number(port.container_port))
    };
    pick(wanted, called)
}

fn pick(wanted: &Port, called: impl Fn(&str) -> Option<u16>) -> Result<u16, &str> {
    match wanted {
        Port::Number(number) => Ok(*number),
        Port::Default => Ok(called(MESH).unwrap_or(PORT)),
        Port::Named(name) => called(name).ok_or(name),
    }
}

fn ports(pod: &Pod) -> impl Iterator<Item = &super::objects::ContainerPort> {
    let containers = pod.spec.containers.iter().chain(&pod.spec.init_containers);
    containers.flat_map(|Container { ports }| ports)
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.filter(|name| !name.is_empty()).take(NAMES_TOLD_MAX).collect();
    if names.is_empty() { String::new() } else { format!(" (it has {})", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::options::Url;

    fn wish(url: &str) -> Wish {
        Wish::from_url(&Url::parse(url).expect("a url")).expect("a wish")
    }

    fn slice(of: serde_json::Value) -> Slice {
        serde_json::from_value(of).expect("a slice")
    }

    fn pod(of: serde_json::Value) -> Pod {
        serde_json::from_value(of).expect("a pod")
    }

    #[test]
    fn a_slice_as_the_api_server_writes_it_is_read() {
        let slice = slice(json!({
            "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
            "metadata": {"name": "web-x7k2p", "namespace": "shop", "resourceVersion": "7"},
            "endpoints": [{
                "addresses": ["10.244.1.7"],
                "conditions": {"ready": true, "serving": false, "terminating": false},
                "hostname": "web-0", "nodeName": "node-1", "zone": "zone-1",
                "targetRef": {"kind": "Pod", "name": "web-0", "namespace": "shop", "uid": "u-0"},
            }],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "mesh", "port": 5000}],
        }));
        let entry = in_slice(&slice, &wish("kubernetes://"));
        assert_eq!(entry.note, None);
        assert_eq!(
            entry.seen,
            [Seen {
                uid: Some("u-0".into()),
                pod: Some("web-0".into()),
                namespace: "shop".into(),
                hostname: Some("web-0".into()),
                app: None,
                addresses: vec!["10.244.1.7:5000".parse().expect("an address")],
                serving: false,
                terminating: false,
                labels: BTreeMap::from([("zone".into(), "zone-1".into())]),
                source: "EndpointSlice shop/web-x7k2p".into(),
            }]
        );
    }

    #[test]
    fn what_a_slice_leaves_out_or_has_as_null_is_taken_as_kubernetes_means_it() {
        let slice = slice(json!({
            "addressType": "IPv6", "metadata": {"name": "a"}, "ports": null,
            "endpoints": [
                {"addresses": ["fd00::7"], "conditions": {}},
                {"addresses": ["fd00::8"], "conditions": {"ready": false}, "targetRef": null},
                {"addresses": ["::", "not an address"]},
                {"addresses": null},
            ],
        }));
        let entry = in_slice(&slice, &wish("kubernetes://"));
        let seen: Vec<_> =
            entry.seen.iter().map(|s| (s.addresses[0], s.serving, s.terminating)).collect();
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        assert_eq!(
            seen,
            [(at("[fd00::7]:4470"), true, false), (at("[fd00::8]:4470"), false, false)]
        );
        assert_eq!(entry.seen[0].keys()[0].0, Key::Address(at("[fd00::7]:4470")));
    }

    #[test]
    fn names_are_no_addresses() {
        let slice = slice(json!({
            "addressType": "FQDN", "metadata": {"name": "a"}, "endpoints": [{"addresses": ["web.example"]}],
        }));
        assert_eq!(in_slice(&slice, &wish("kubernetes://")), Entry::default());
    }

    #[test]
    fn the_port_is_the_one_of_that_name_or_number_and_a_missing_one_is_told() {
        let slice = slice(json!({
            "addressType": "IPv4", "metadata": {"name": "s", "namespace": "n"},
            "endpoints": [{"addresses": ["10.0.0.1"]}],
            "ports": [{"name": "http", "port": 8080}, {"name": "udp", "port": 1, "protocol": "UDP"}],
        }));
        let port = |url: &str| in_slice(&slice, &wish(url)).seen[0].addresses[0].port();
        assert_eq!(port("kubernetes://?port=http"), 8080);
        assert_eq!(port("kubernetes://?port=99"), 99);
        assert_eq!(
            port("kubernetes://"),
            4470,
            "another port of the Service is not guessed to be ours"
        );
        let told = in_slice(&slice, &wish("kubernetes://?port=udp"));
        assert!(told.seen.is_empty());
        let told = told.note.expect("a note");
        assert!(
            told.contains("EndpointSlice n/s") && told.contains("`udp`") && told.contains("http"),
            "{told}"
        );
    }

    #[test]
    fn a_pod_is_read_with_both_addresses_its_labels_and_its_state() {
        let pod = pod(json!({
            "metadata": {
                "name": "web-0", "namespace": "shop", "uid": "u", "deletionTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"app.kubernetes.io/component": "till", "topology.kubernetes.io/zone": "zone-1", "x": "y"},
            },
            "spec": {
                "containers": [{"name": "app", "ports": [{"containerPort": 80, "name": "http"}]}],
                "initContainers": [{"name": "pillion", "restartPolicy": "Always",
                    "ports": [{"containerPort": 5000, "name": "mesh", "protocol": "TCP"}]}],
            },
            "status": {
                "phase": "Running", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}, {"ip": "fd00::7"}],
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }));
        let entry = in_pod(&pod, &wish("kubernetes://?from=pods&selector=a=b"));
        let seen = &entry.seen[0];
        let addresses: Vec<String> = seen.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.0.7:5000", "[fd00::7]:5000"]);
        assert!(seen.serving && seen.terminating);
        assert_eq!(seen.keys()[0].0, Key::Uid("u".into()));
        let labels: Vec<_> = seen.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(labels, [("role", "till"), ("zone", "zone-1")]);
    }

    #[test]
    fn a_pod_without_an_address_or_one_that_has_ended_is_nobody() {
        let wish = wish("kubernetes://?from=pods&selector=a=b");
        for status in [
            json!({"phase": "Pending"}),
            json!({"phase": "Succeeded", "podIP": "10.0.0.1"}),
            json!({"phase": "Failed", "podIP": "10.0.0.1"}),
            json!(null),
        ] {
            let pod = pod(
                json!({"metadata": {"name": "a"}, "spec": {"containers": null}, "status": status}),
            );
            assert_eq!(in_pod(&pod, &wish), Entry::default());
        }
    }
}
