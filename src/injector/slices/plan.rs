//! What is to be written, from what is so. Pure.
//!
//! One group of slices for each mesh, address family and port, at most 100 endpoints in a slice. An endpoint stays in the
//! slice that it is in; new ones go where there is room, first into slices that change anyway. So one pod that comes or goes
//! is one slice that is written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::objects::{MeshService, PodSeen, ServicePort, ServiceSpec};
use crate::injector::issuing::MESH;

/// The label by which slices are known to be ours, and what it says.
pub(super) const MANAGED_BY_SLICES: &str = "endpointslice.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "injector.pillion.dev";
/// The label of Services that were made here.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Proxies leave slices with this label alone: nobody has an address that they would have to turn into one of these.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// As many as Kubernetes itself puts into one.
pub(super) const ENDPOINTS_MAX: usize = 100;
/// What the sidecar is called, and its port.
const SIDECAR: &str = "pillion";
const PORT_NAME: &str = "mesh";
/// The port where no container says otherwise.
const PORT: u16 = 4470;
/// Most characters of a Service's name (RFC 1035).
const SERVICE_MAX: usize = 63;

/// All that is so.
pub(super) struct Known<'a> {
    pub(super) namespace: &'a str,
    /// Name and uid.
    pub(super) lease: (&'a str, &'a str),
    pub(super) pods: Vec<&'a PodSeen>,
    /// By the node's name.
    pub(super) zones: BTreeMap<&'a str, &'a str>,
    pub(super) services: Vec<&'a MeshService>,
    /// Ours.
    pub(super) slices: Vec<&'a EndpointSlice>,
}

/// What is to be done, in any order, and what is to be said once.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) writes: Vec<Write>,
    pub(super) complaints: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) enum Write {
    Create(Box<EndpointSlice>),
    Replace(Box<EndpointSlice>),
    Delete { name: String, uid: String },
    CreateService(Box<MeshService>),
    DeleteService { name: String, uid: String },
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, kind, name) = match self {
            Self::Create(slice) => ("creating", "EndpointSlice", slice.metadata.name.as_deref()),
            Self::Replace(slice) => ("replacing", "EndpointSlice", slice.metadata.name.as_deref()),
            Self::Delete { name, .. } => ("deleting", "EndpointSlice", Some(name.as_str())),
            Self::CreateService(service) => {
                ("creating", "Service", service.metadata.name.as_deref())
            }
            Self::DeleteService { name, .. } => ("deleting", "Service", Some(name.as_str())),
        };
        write!(f, "{verb} the {kind} {}", name.unwrap_or_default())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// As a slice says it.
    fn word(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// What has slices of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    service: String,
    family: Family,
    port: u16,
}

impl Group {
    /// The group that a slice of ours is of.
    fn of(slice: &EndpointSlice) -> Option<Self> {
        let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?.clone();
        let family = match slice.address_type.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            _ => return None,
        };
        let [port] = slice.ports.as_deref()? else { return None };
        Some(Self { service, family, port: u16::try_from(port.port?).ok()? })
    }

    fn slice_name(&self, number: usize) -> String {
        let Self { service, family, port } = self;
        format!("{service}-{}-{port}-{number}", family.word().to_ascii_lowercase())
    }
}

/// Namespace, name and uid of a pod: endpoints are kept in this order where nothing else says which.
type Who = (String, String, String);

/// What the writes have to be for all to be as it should be.
pub(super) fn plan(known: &Known<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut groups: BTreeMap<Group, BTreeMap<Who, Endpoint>> = BTreeMap::new();
    let mut meshes = BTreeSet::new();
    for pod in &known.pods {
        let Some(mesh) = mesh(pod) else { continue };
        let Some(service) = service_of(mesh) else {
            plan.complaints.push(format!(
                "the mesh `{mesh}` can have no Service: call it by lower-case letters, digits and `-`, at most {} of them",
                SERVICE_MAX - "pillion-".len()
            ));
            continue;
        };
        if !is_there(pod) {
            continue;
        }
        meshes.insert(service.clone());
        let port = port(pod);
        for (family, who, endpoint) in endpoints(pod, &known.zones) {
            let group = Group { service: service.clone(), family, port };
            groups.entry(group).or_default().insert(who, endpoint);
        }
    }
    let services: BTreeMap<&str, &MeshService> = known
        .services
        .iter()
        .filter_map(|service| Some((service.metadata.name.as_deref()?, *service)))
        .collect();
    let mut owners: BTreeMap<&str, OwnerReference> = BTreeMap::new();
    for service in &meshes {
        match services.get(service.as_str()) {
            None => plan.writes.push(Write::CreateService(Box::new(new_service(service, known)))),
            Some(there) if !there.spec.selector.is_empty() => plan.complaints.push(format!(
                "the Service {}/{service} has a selector, so Kubernetes writes its endpoints: delete it, and one without a selector is made",
                known.namespace
            )),
            Some(there) => {
                owners.insert(service, owner(there));
            }
        }
    }
    let mut existing: BTreeMap<Group, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in &known.slices {
        let group = Group::of(slice).filter(|group| owners.contains_key(group.service.as_str()));
        match group.filter(|group| groups.contains_key(group)) {
            Some(group) => existing.entry(group).or_default().push(slice),
            None => plan.writes.push(delete(slice)),
        }
    }
    for (group, wanted) in groups {
        let Some(owner) = owners.get(group.service.as_str()) else { continue };
        let there = existing.remove(&group).unwrap_or_default();
        fill(&group, wanted, &there, owner, &mut plan.writes);
    }
    for (name, service) in services {
        let labels = service.metadata.labels.as_ref();
        let ours = labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == MANAGER);
        if ours && !meshes.contains(name) && service.metadata.deletion_timestamp.is_none() {
            let uid = service.metadata.uid.clone().unwrap_or_default();
            plan.writes.push(Write::DeleteService { name: name.to_owned(), uid });
        }
    }
    plan
}

/// Puts the endpoints of a group into its slices.
fn fill(
    group: &Group,
    mut wanted: BTreeMap<Who, Endpoint>,
    existing: &[&EndpointSlice],
    owner: &OwnerReference,
    writes: &mut Vec<Write>,
) {
    struct Filled<'a> {
        slice: &'a EndpointSlice,
        endpoints: Vec<Endpoint>,
    }
    impl Filled<'_> {
        fn changes(&self) -> bool {
            self.slice.endpoints != self.endpoints
        }
    }
    let mut filled: Vec<Filled<'_>> = existing
        .iter()
        .map(|slice| {
            let kept = slice.endpoints.iter().filter_map(|endpoint| wanted.remove(&who(endpoint)?));
            Filled { slice, endpoints: kept.take(ENDPOINTS_MAX).collect() }
        })
        .collect();
    // Slices that are written anyway take the new ones first, then those with the least room.
    let mut order: Vec<usize> = (0..filled.len()).collect();
    order.sort_by_key(|at| {
        let filled = &filled[*at];
        (!filled.changes() || filled.endpoints.is_empty(), usize::MAX - filled.endpoints.len())
    });
    let mut rest = wanted.into_values();
    for at in order {
        let room = ENDPOINTS_MAX.saturating_sub(filled[at].endpoints.len());
        filled[at].endpoints.extend(rest.by_ref().take(room));
    }
    let taken: BTreeSet<&str> =
        existing.iter().filter_map(|slice| slice.metadata.name.as_deref()).collect();
    let mut names =
        (0..).map(|number| group.slice_name(number)).filter(|name| !taken.contains(name.as_str()));
    loop {
        let endpoints: Vec<Endpoint> = rest.by_ref().take(ENDPOINTS_MAX).collect();
        if endpoints.is_empty() {
            break;
        }
        let metadata = ObjectMeta { name: names.next(), ..metadata(group, owner) };
        writes.push(Write::Create(Box::new(slice(group, metadata, endpoints))));
    }
    for Filled { slice: there, endpoints } in filled {
        if endpoints.is_empty() {
            writes.push(delete(there));
            continue;
        }
        let due = metadata(group, owner);
        let same = there.endpoints == endpoints
            && there.metadata.labels == due.labels
            && there.metadata.owner_references == due.owner_references;
        if !same {
            let metadata = ObjectMeta {
                name: there.metadata.name.clone(),
                resource_version: there.metadata.resource_version.clone(),
                ..due
            };
            writes.push(Write::Replace(Box::new(slice(group, metadata, endpoints))));
        }
    }
}

fn delete(slice: &EndpointSlice) -> Write {
    let name = slice.metadata.name.clone().unwrap_or_default();
    Write::Delete { name, uid: slice.metadata.uid.clone().unwrap_or_default() }
}

fn slice(group: &Group, metadata: ObjectMeta, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let port = EndpointPort {
        name: Some(PORT_NAME.to_owned()),
        port: Some(group.port.into()),
        protocol: Some("TCP".to_owned()),
        app_protocol: None,
    };
    let address_type = group.family.word().to_owned();
    EndpointSlice { address_type, endpoints, metadata, ports: Some(vec![port]) }
}

fn metadata(group: &Group, owner: &OwnerReference) -> ObjectMeta {
    let labels =
        [(SERVICE_NAME, group.service.as_str()), (MANAGED_BY_SLICES, MANAGER), (HEADLESS, "")];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    ObjectMeta {
        labels: Some(labels.into()),
        owner_references: Some(vec![owner.clone()]),
        ..ObjectMeta::default()
    }
}

fn owner(service: &MeshService) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        name: service.metadata.name.clone().unwrap_or_default(),
        uid: service.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

/// A Service of a mesh that the chart does not know of. It goes with the Lease.
fn new_service(name: &str, known: &Known<'_>) -> MeshService {
    let (lease, uid) = known.lease;
    let owner = OwnerReference {
        api_version: "coordination.k8s.io/v1".to_owned(),
        kind: "Lease".to_owned(),
        name: lease.to_owned(),
        uid: uid.to_owned(),
        controller: None,
        block_owner_deletion: None,
    };
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some([(MANAGED_BY.to_owned(), MANAGER.to_owned())].into()),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    let port = ServicePort {
        name: Some(PORT_NAME.to_owned()),
        port: PORT.into(),
        protocol: Some("TCP".to_owned()),
    };
    let spec = ServiceSpec {
        cluster_ip: Some("None".to_owned()),
        publish_not_ready_addresses: true,
        ip_family_policy: Some("PreferDualStack".to_owned()),
        ports: vec![port],
        selector: BTreeMap::new(),
    };
    MeshService { api_version: "v1".to_owned(), kind: "Service".to_owned(), metadata, spec }
}

fn mesh(pod: &PodSeen) -> Option<&str> {
    pod.metadata.labels.as_ref()?.get(MESH).map(String::as_str)
}

/// The Service of a mesh, if one can be called like that.
fn service_of(mesh: &str) -> Option<String> {
    let name = format!("pillion-{mesh}");
    let good = name.len() <= SERVICE_MAX
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.ends_with('-');
    good.then_some(name)
}

/// Whether there is anybody who could be reached.
fn is_there(pod: &PodSeen) -> bool {
    let over = matches!(pod.status.phase.as_str(), "Succeeded" | "Failed");
    !over && pod.metadata.uid.is_some() && !pod.status.pod_ips.is_empty()
}

/// The port of the sidecar; of a pod whose sidecar is called otherwise any port called `mesh`.
fn port(pod: &PodSeen) -> u16 {
    let all = || pod.spec.init_containers.iter().chain(&pod.spec.containers);
    let sidecars = all().filter(|container| container.name == SIDECAR);
    let tcp = |protocol: Option<&str>| protocol.is_none_or(|p| p.is_empty() || p == "TCP");
    let named = sidecars
        .chain(all())
        .flat_map(|container| &container.ports)
        .filter(|port| port.name.as_deref() == Some(PORT_NAME) && tcp(port.protocol.as_deref()));
    named.filter_map(|port| u16::try_from(port.number).ok()).find(|port| *port != 0).unwrap_or(PORT)
}

fn endpoints(pod: &PodSeen, zones: &BTreeMap<&str, &str>) -> Vec<(Family, Who, Endpoint)> {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let who = (text(&meta.namespace), text(&meta.name), text(&meta.uid));
    let ready = pod.status.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True");
    let node = pod.spec.node_name.as_deref();
    let mut families = BTreeSet::new();
    let ips = pod.status.pod_ips.iter().filter_map(|ip| ip.ip.parse::<IpAddr>().ok());
    ips.filter(|ip| families.insert(Family::of(*ip)))
        .map(|ip| {
            let endpoint = Endpoint {
                addresses: vec![ip.to_string()],
                conditions: Some(EndpointConditions {
                    // The Services publish addresses that are not ready.
                    ready: Some(true),
                    serving: Some(ready),
                    terminating: Some(meta.deletion_timestamp.is_some()),
                }),
                node_name: node.map(str::to_owned),
                target_ref: Some(ObjectReference {
                    kind: Some("Pod".to_owned()),
                    namespace: meta.namespace.clone(),
                    name: meta.name.clone(),
                    uid: meta.uid.clone(),
                    ..ObjectReference::default()
                }),
                zone: node.and_then(|node| zones.get(node)).map(|zone| (*zone).to_owned()),
                ..Endpoint::default()
            };
            (Family::of(ip), who.clone(), endpoint)
        })
        .collect()
}

/// Whose an endpoint of ours is.
fn who(endpoint: &Endpoint) -> Option<Who> {
    let target = endpoint.target_ref.as_ref()?;
    Some((target.namespace.clone()?, target.name.clone()?, target.uid.clone()?))
}

#[cfg(test)]
mod tests;
