//! What a pod becomes: a pure function from the pod, the template and its annotations to an RFC 6902 patch.
//!
//! The patch only adds, but for labels and annotations of ours that say something else: nothing of the pod's own is
//! changed or lost. A pod that has its sidecar is left as it is, so that the API server may ask twice.

use std::collections::BTreeMap;
use std::fmt;

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation};
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value, json};

use super::annotations::{APP, Annotations, INJECT, INJECTED, MESH, PREFIX, STATUS, short};
use super::sidecar;
use super::template::Template;
use crate::tls::cookie::hex;

/// Init containers of meshes of networks: before they have run, or beside them, nothing is reached.
const NETWORK: [&str; 7] = [
    "istio-init",
    "istio-validation",
    "istio-proxy",
    "linkerd-init",
    "linkerd-network-validator",
    "linkerd-proxy",
    "cilium-init",
];
/// How long a pod has to end when it does not say, in seconds.
const GRACE_DEFAULT: u64 = 30;
/// What a node needs behind its drain to say goodbye, in seconds.
const GOODBYE: u64 = 5;
/// Which container `kubectl` means.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// Written by kubelet on what it runs by itself.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Where an app finds what its node is called.
const NODE: &str = "PILLION_NODE";
/// Said when there are more of something than pods have.
const LIST_MAX: usize = 1000;

/// What the API server can do beyond 1.28.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Features {
    /// Init containers that run as long as the pod: 1.29.
    pub native: bool,
    /// A `preStop` that sleeps: 1.30.
    pub sleep: bool,
}

impl Default for Features {
    /// What the oldest API server has that the chart can be installed with.
    fn default() -> Self {
        Self { native: true, sleep: false }
    }
}

impl Features {
    /// Those of a version, as `/version` says it: `1` and `34`, or `29+`.
    pub(crate) fn of(major: &str, minor: &str) -> Self {
        let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
        match (major.parse::<u32>(), minor[..digits].parse::<u32>()) {
            (Ok(major), Ok(minor)) => {
                Self { native: (major, minor) >= (1, 29), sleep: (major, minor) >= (1, 30) }
            }
            _ => Self::default(),
        }
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = |yes| if yes { "has" } else { "lacks" };
        write!(
            f,
            "it {} native sidecars and {} the preStop sleep",
            has(self.native),
            has(self.sleep)
        )
    }
}

/// What is put into pods, before their annotations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sidecar<'a> {
    pub template: &'a Template,
    /// Whom the sidecar believes that issues its certificate, PEM.
    pub anchors: &'a str,
    pub features: Features,
}

/// What was decided about a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It gets a sidecar.
    Injected,
    /// It has one.
    Already,
    /// It asks for one and cannot have it; a warning says why.
    Refused,
    /// It does not ask.
    NotAsked,
}

impl Decision {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Already => "already",
            Self::Refused => "refused",
            Self::NotAsked => "not_asked",
        }
    }
}

/// A decision, the patch that carries it out, and what the user should know.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub result: Decision,
    pub patch: Vec<PatchOperation>,
    pub warnings: Vec<String>,
}

impl Outcome {
    const fn nothing(result: Decision) -> Self {
        Self { result, patch: Vec::new(), warnings: Vec::new() }
    }

    fn refused(why: &str) -> Self {
        let said = format!("{INJECT}: there is no sidecar in this pod, because {why}");
        Self { warnings: vec![short(&said)], ..Self::nothing(Decision::Refused) }
    }
}

/// Decides about a pod, as the API server has it.
///
/// # Errors
/// What of it is not as in any pod: then the API server is none.
pub(crate) fn decide(pod: &Value, sidecar: &Sidecar<'_>) -> Result<Outcome, String> {
    let pod = Pod::read(pod)?;
    let (mut wishes, mut warnings) = Annotations::read(pod.metadata);
    if !wishes.asks() {
        // Whether `inject` itself made no sense is worth a word; the rest does nothing here.
        warnings.retain(|warning| warning.starts_with(INJECT));
        return Ok(Outcome { warnings, ..Outcome::nothing(Decision::NotAsked) });
    }
    let name = sidecar.template.name();
    if pod.containers().any(|(_, _, container)| called(container) == name) {
        if pod.annotation(STATUS).is_some() {
            return Ok(Outcome::nothing(Decision::Already));
        }
        return Ok(Outcome::refused(&format!(
            "it has a container called {name} of its own: drop that container or the annotation"
        )));
    }
    if let Some(why) = pod.unfit(sidecar.template) {
        return Ok(Outcome::refused(&why));
    }
    let mut native = wishes.native.unwrap_or(sidecar.template.native);
    if native && !sidecar.features.native {
        native = false;
        if wishes.native == Some(true) {
            warnings.push(format!(
                "{PREFIX}native: native sidecars need Kubernetes 1.29: it is a plain container"
            ));
        }
    }
    wishes.native = Some(native);
    let base = || sidecar::base(sidecar.template).map_or_else(|| pod.base(), str::to_owned);
    wishes.node_name = Some(wishes.node_name.take().unwrap_or_else(base));
    let container = sidecar::container(sidecar, &wishes, &mut warnings);
    let mesh = wishes.mesh.clone().unwrap_or_else(|| sidecar.template.mesh.clone());
    pod.advise(&container, &wishes, native, &mut warnings);

    let mut patch = Patching { operations: Vec::new() };
    // Lists grow behind what is there before the sidecar moves its neighbours.
    patch.append(&["spec", "volumes"], pod.spec.get("volumes"), sidecar.template.volumes.clone());
    let at = pod.place();
    pod.apps(&mut patch, sidecar, &wishes, &mesh, if native { at } else { 0 }, &mut warnings);
    let hash = hash(&container, sidecar.template);
    if native {
        patch.insert("initContainers", pod.spec.get("initContainers"), at, container);
    } else {
        patch.insert("containers", pod.spec.get("containers"), 0, container);
    }
    let labels = BTreeMap::from([(INJECTED, "true".to_owned()), (MESH, mesh)]);
    patch.texts("labels", pod.metadata.get("labels"), &labels);
    let status = json!({"version": env!("CARGO_PKG_VERSION"), "hash": hash}).to_string();
    let mut annotations = BTreeMap::from([(STATUS, status)]);
    if !native
        && pod.annotation(DEFAULT_CONTAINER).is_none()
        && let Some((_, _, first)) = pod.containers().find(|(kind, ..)| *kind == "containers")
    {
        annotations.insert(DEFAULT_CONTAINER, called(first).to_owned());
    }
    patch.texts("annotations", pod.metadata.get("annotations"), &annotations);
    for warning in &mut warnings {
        *warning = short(warning);
    }
    Ok(Outcome { result: Decision::Injected, patch: patch.operations, warnings })
}

/// Names what was put in: the same annotations and the same template give the same hash.
fn hash(container: &Value, template: &Template) -> String {
    let said = json!([container, template.volumes, template.app.env, template.app.volume_mounts])
        .to_string();
    let hash = digest(&SHA256, said.as_bytes());
    hex(&hash.as_ref()[..8])
}

// ===== the pod =====

/// A pod whose outline is as it has to be.
struct Pod<'a> {
    metadata: &'a Map<String, Value>,
    spec: &'a Map<String, Value>,
}

fn called(object: &Value) -> &str {
    object.get("name").and_then(Value::as_str).unwrap_or_default()
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

impl<'a> Pod<'a> {
    fn read(pod: &'a Value) -> Result<Self, String> {
        let object = |value: Option<&'a Value>, what: &str| {
            value.and_then(Value::as_object).ok_or_else(|| format!("{what} is no object"))
        };
        let metadata = object(pod.get("metadata"), "metadata")?;
        for key in ["labels", "annotations"] {
            let texts = metadata.get(key).filter(|value| !value.is_null());
            let good = |value: &Value| {
                value.as_object().is_some_and(|map| map.values().all(Value::is_string))
            };
            if !texts.is_none_or(good) {
                return Err(format!("metadata.{key} is no object of texts"));
            }
        }
        let spec = object(pod.get("spec"), "spec")?;
        let pod = Self { metadata, spec };
        if list(spec.get("containers")).is_empty() {
            return Err("spec.containers is no list of containers".to_owned());
        }
        named(spec, "spec", &["containers", "initContainers", "volumes"])?;
        for (kind, at, container) in pod.containers() {
            let place = format!("spec.{kind}[{at}]");
            let container = object(Some(container), &place)?;
            named(container, &place, &["env"])?;
            let mounts = container.get("volumeMounts").filter(|mounts| !mounts.is_null());
            if !mounts.is_none_or(Value::is_array) {
                return Err(format!("{place}.volumeMounts is no list"));
            }
            let lifecycle = container.get("lifecycle").filter(|lifecycle| !lifecycle.is_null());
            if !lifecycle.is_none_or(Value::is_object) {
                return Err(format!("{place}.lifecycle is no object"));
            }
        }
        Ok(pod)
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.get("annotations")?.get(key)?.as_str()
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.metadata.get("labels")?.get(key)?.as_str()
    }

    /// Every container, with the list that it is in and its place there.
    fn containers(&self) -> impl Iterator<Item = (&'static str, usize, &'a Value)> + use<'a> {
        let of = |kind: &'static str| {
            let containers = list(self.spec.get(kind)).iter().enumerate();
            containers.map(move |(at, container)| (kind, at, container))
        };
        of("initContainers").chain(of("containers"))
    }

    /// Why a pod of this kind cannot have a sidecar.
    fn unfit(&self, template: &Template) -> Option<String> {
        let yes = |key: &str| self.spec.get(key) == Some(&Value::Bool(true));
        let os = [self.spec.get("os").and_then(|os| os.get("name"))].into_iter().chain(
            ["kubernetes.io/os", "beta.kubernetes.io/os"]
                .map(|key| self.spec.get("nodeSelector")?.get(key)),
        );
        if os.flatten().any(|os| os == "windows") {
            return Some("it is for Windows, where there is no Pillion".to_owned());
        }
        if self.annotation(MIRROR).is_some() {
            return Some("it is a static pod, which nobody but its kubelet can change".to_owned());
        }
        if yes("hostNetwork") {
            return Some(
                "it uses its machine's network, where the ports of two pods would collide: use the agent instead"
                    .to_owned(),
            );
        }
        let volumes = list(self.spec.get("volumes"));
        let own = template
            .volumes
            .iter()
            .map(called)
            .find(|name| volumes.iter().any(|v| called(v) == *name));
        own.map(|name| format!("it has a volume called {name} of its own: give that another name"))
    }

    /// The base of the node's name when nobody chose one.
    fn base(&self) -> String {
        let first =
            self.spec.get("containers").and_then(|containers| containers.get(0)).map(called);
        let text = self.label("app.kubernetes.io/name").or_else(|| self.label("app")).or(first);
        crate::wire::id::NodeName::clean_base(text.unwrap_or_default())
    }

    /// Where among the init containers the sidecar goes: first, but behind those that set up the network.
    fn place(&self) -> usize {
        let init = list(self.spec.get("initContainers"));
        init.iter()
            .rposition(|container| NETWORK.contains(&called(container)))
            .map_or(0, |at| at + 1)
    }

    fn grace(&self) -> u64 {
        self.spec
            .get("terminationGracePeriodSeconds")
            .and_then(Value::as_u64)
            .unwrap_or(GRACE_DEFAULT)
    }

    /// Tells what will not go as the user may expect.
    fn advise(
        &self,
        container: &Value,
        wishes: &Annotations,
        native: bool,
        warnings: &mut Vec<String>,
    ) {
        let restarts = self.spec.get("restartPolicy").and_then(Value::as_str).unwrap_or("Always");
        if !native && restarts != "Always" {
            warnings.push(format!(
                "{PREFIX}native: \"false\" keeps a pod with restartPolicy {restarts} from ending: leave it out"
            ));
        }
        let grace = self.grace();
        if let Some(drain) = sidecar::drain(container)
            && grace < drain + GOODBYE
        {
            warnings.push(format!(
                "{PREFIX}drain-timeout: a drain may take {drain} s and the goodbye {GOODBYE} s, and the pod has terminationGracePeriodSeconds {grace}: give it {} or shorten the drain",
                drain + GOODBYE
            ));
        }
        for wanted in wishes.containers.iter().flatten() {
            if !self.containers().any(|(_, _, container)| called(container) == wanted) {
                warnings
                    .push(format!("{PREFIX}containers: \"{wanted}\" is no container of this pod"));
            }
        }
        for (port, name) in sidecar::ports(container) {
            let taken = self.containers().find(|(_, _, other)| {
                let ports = list(other.get("ports")).iter();
                ports
                    .filter_map(|port| port.get("containerPort"))
                    .any(|other| other.as_u64() == Some(port))
            });
            if let Some((_, _, other)) = taken {
                let annotation =
                    if name == sidecar::MESH_PORT { "mesh-port" } else { "health-port" };
                warnings.push(format!(
                    "{PREFIX}{annotation}: the container {} has the port {port} too: choose another one",
                    called(other)
                ));
            }
        }
    }

    /// Gives the app's containers the socket and what they should know.
    fn apps(
        &self,
        patch: &mut Patching,
        sidecar: &Sidecar<'_>,
        wishes: &Annotations,
        mesh: &str,
        init_from: usize,
        warnings: &mut Vec<String>,
    ) {
        let app = &sidecar.template.app;
        let base = wishes.node_name.as_deref().unwrap_or_default();
        let wanted = |name: &str| {
            wishes.containers.as_ref().is_none_or(|names| names.iter().any(|n| n == name))
        };
        let native = wishes.native == Some(true);
        for (kind, at, container) in self.containers() {
            let init = kind == "initContainers";
            // Before the sidecar runs there is no socket.
            if !wanted(called(container)) || init && (!native || at < init_from) {
                continue;
            }
            let index = at.to_string();
            let path = |member: &'static str| ["spec", kind, index.as_str(), member];
            let own = list(container.get("env"));
            let env = app.env.iter().filter(|new| called(new) != NODE).cloned().map(|new| {
                match called(&new) {
                    "PILLION_MESH" => json!({"name": "PILLION_MESH", "value": mesh}),
                    APP => json!({"name": APP, "value": base}),
                    _ => new,
                }
            });
            // Its own name is known to a pod when it runs; the variables that it refers to come before it.
            let node =
                json!({"name": NODE, "value": format!("{base}@$(POD_NAME).$(POD_NAMESPACE)")});
            let env =
                env.chain([node]).filter(|new| !own.iter().any(|old| called(old) == called(new)));
            patch.append(&path("env"), container.get("env"), env.collect());
            let own = list(container.get("volumeMounts"));
            let taken = |new: &Value| {
                let place = new.get("mountPath");
                own.iter().any(|old| old.get("mountPath") == place)
            };
            let (taken, mounts): (Vec<Value>, Vec<Value>) =
                app.volume_mounts.iter().cloned().partition(taken);
            for mount in taken {
                let place = mount.get("mountPath").and_then(Value::as_str).unwrap_or_default();
                warnings.push(format!(
                    "{INJECT}: the container {} has something of its own at {place}: it does not get the socket",
                    called(container)
                ));
            }
            patch.append(&path("volumeMounts"), container.get("volumeMounts"), mounts);
            if !init {
                self.sleep(patch, &index, container, sidecar, wishes, warnings);
            }
        }
    }

    /// Lets an app go on for a while when its pod ends, so that calls go elsewhere first.
    fn sleep(
        &self,
        patch: &mut Patching,
        index: &str,
        container: &Value,
        sidecar: &Sidecar<'_>,
        wishes: &Annotations,
        warnings: &mut Vec<String>,
    ) {
        let seconds = wishes.app_prestop_sleep.unwrap_or(sidecar.template.app_pre_stop_sleep);
        let lifecycle = container.get("lifecycle").filter(|lifecycle| !lifecycle.is_null());
        let has =
            |key: &str| lifecycle.and_then(|l| l.get(key)).is_some_and(|hook| !hook.is_null());
        if seconds == 0 || has("preStop") {
            return;
        }
        let asked = wishes.app_prestop_sleep.is_some();
        let said = format!("{PREFIX}app-prestop-sleep");
        if !sidecar.features.sleep {
            if asked {
                warnings.push(format!(
                    "{said}: \"{seconds}\" needs Kubernetes 1.30: the app has to wait by itself"
                ));
                warnings.dedup();
            }
            return;
        }
        // The API server refuses a sleep that is longer than the pod has to end.
        let grace = self.grace();
        if u64::from(seconds) > grace {
            if asked {
                warnings.push(format!(
                    "{said}: \"{seconds}\" is longer than terminationGracePeriodSeconds, which is {grace}: there is no sleep"
                ));
                warnings.dedup();
            }
            return;
        }
        let hook = json!({"sleep": {"seconds": seconds}});
        let path = ["spec", "containers", index, "lifecycle"];
        match lifecycle {
            None => patch.add(&path, json!({"preStop": hook})),
            Some(_) => patch.add(&[&path[..], &["preStop"]].concat(), hook),
        }
    }
}

/// Checks that lists are lists of objects with names, as far as they are there.
fn named(object: &Map<String, Value>, place: &str, keys: &[&str]) -> Result<(), String> {
    for key in keys {
        let Some(value) = object.get(*key).filter(|value| !value.is_null()) else { continue };
        let good = value.as_array().is_some_and(|list| {
            list.len() <= LIST_MAX
                && list.iter().all(|item| item.get("name").is_some_and(Value::is_string))
        });
        if !good {
            return Err(format!("{place}.{key} is no list of at most {LIST_MAX} named things"));
        }
    }
    Ok(())
}

// ===== the patch =====

struct Patching {
    operations: Vec<PatchOperation>,
}

impl Patching {
    fn add(&mut self, path: &[&str], value: Value) {
        let path = PointerBuf::from_tokens(path.iter().copied());
        self.operations.push(PatchOperation::Add(AddOperation { path, value }));
    }

    /// Puts things behind a list, which is made when there is none.
    fn append(&mut self, path: &[&str], there: Option<&Value>, new: Vec<Value>) {
        if new.is_empty() {
            return;
        }
        if there.is_some_and(Value::is_array) {
            let path = [path, &["-"]].concat();
            for value in new {
                self.add(&path, value);
            }
        } else {
            self.add(path, Value::Array(new));
        }
    }

    /// Puts a container at its place.
    fn insert(&mut self, kind: &str, there: Option<&Value>, at: usize, container: Value) {
        if there.is_some_and(Value::is_array) {
            self.add(&["spec", kind, &at.to_string()], container);
        } else {
            self.add(&["spec", kind], json!([container]));
        }
    }

    /// Sets labels or annotations that are not as they have to be.
    fn texts(&mut self, kind: &str, there: Option<&Value>, texts: &BTreeMap<&str, String>) {
        let Some(there) = there.and_then(Value::as_object) else {
            return self.add(&["metadata", kind], json!(texts));
        };
        for (key, text) in texts {
            if there.get(*key).and_then(Value::as_str) != Some(text) {
                self.add(&["metadata", kind, key], json!(text));
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
