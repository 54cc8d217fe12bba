//! A cluster to test in, and what pods know and say.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// Nothing that works takes this long, on however busy a machine.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// How long a poll waits between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// What `cluster archive` calls the image that it makes.
const IMAGE: &str = "localhost/pillion:test";
/// What `cluster app` calls the image that it makes.
const APP: &str = "localhost/app:test";
/// The machine that is cut off: only the test that does so runs pods there.
pub const CUT_OFF: &str = "node-3";

/// A Kubernetes that runs, and an image of this build in it.
#[derive(Clone)]
pub struct Cluster {
    /// The script that brought it up, where it is ours.
    script: Option<PathBuf>,
    pub image: String,
    /// An app that knows nothing of pillion, where there is one.
    pub app: Option<String>,
}

impl Cluster {
    /// The cluster of this run; without one it says why the test is skipped.
    pub fn here() -> Option<Self> {
        static HERE: OnceLock<Result<Cluster, String>> = OnceLock::new();
        match HERE.get_or_init(Self::look) {
            Ok(cluster) => Some(cluster.clone()),
            Err(why) => {
                println!("SKIPPED: {why}");
                None
            }
        }
    }

    fn look() -> Result<Self, String> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let named = |name| variable(name).map(|image| image.to_string_lossy().into_owned());
        let (image, app) = (named("TEST_IMAGE"), named("TEST_APP_IMAGE"));
        let Some(script) = variable("TEST_CLUSTER").map(PathBuf::from) else {
            if variable("KUBECONFIG").is_none() {
                return Err(
                    "there is no Kubernetes here; `tests/kubernetes/cluster test` brings one up, or give KUBECONFIG"
                        .into(),
                );
            }
            let image = image.ok_or(
                "the cluster of KUBECONFIG has no image of this build: make one with \
                 `tests/kubernetes/cluster archive target/debug/pillion FILE`, load it there, and name it in TEST_IMAGE",
            )?;
            return Ok(Self { script: None, image, app });
        };
        let mut cluster = Self { script: Some(script), image: image.unwrap_or(IMAGE.into()), app };
        let nodes = cluster.try_kubectl(&["get", "nodes", "-o", "name"], None)?;
        if nodes.is_empty() {
            return Err(
                "only an API server runs here: nobody could run a pod; `tests/kubernetes/cluster up 3`"
                    .into(),
            );
        }
        let place = tempfile::tempdir().map_err(|error| error.to_string())?;
        let archive = place.path().join("pillion.tar");
        let archive = archive.to_str().expect("a temporary path is UTF-8");
        cluster.script(&["archive", env!("CARGO_BIN_EXE_pillion"), archive]);
        cluster.script(&["image", archive]);
        if cluster.app.is_none() && cluster.can(&["app", archive]) {
            cluster.script(&["image", archive]);
            cluster.app = Some(APP.into());
        }
        Ok(cluster)
    }

    /// Asks of the script what only it can do; only in a cluster of ours.
    pub fn script(&self, args: &[&str]) {
        assert!(self.can(args), "cluster {args:?}");
    }

    /// The same, where it may be that something cannot be had here: then it says what.
    fn can(&self, args: &[&str]) -> bool {
        let script = self.script.as_ref().expect("a cluster of ours");
        let status = Command::new(script).args(args).stdin(Stdio::null()).status();
        status.expect("the script starts").success()
    }

    /// `helm` with its arguments, which reaches the cluster.
    pub fn helm(&self, args: &[&str]) -> Result<String, String> {
        let mut command = match &self.script {
            Some(script) => {
                let mut command = Command::new(script);
                command.arg("helm");
                command
            }
            None => Command::new("helm"),
        };
        let output = command.args(args).stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("helm: {error}"))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            Err(format!("helm {args:?}: {said}{}", String::from_utf8_lossy(&output.stderr)))
        }
    }

    /// Whether machines of it can be cut off.
    pub fn can_cut(&self) -> bool {
        self.script.is_some() && self.try_kubectl(&["get", "node", CUT_OFF], None).is_ok()
    }

    /// The command that speaks to it.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = match &self.script {
            Some(script) => {
                let mut command = Command::new(script);
                command.arg("kubectl");
                command
            }
            None => Command::new("kubectl"),
        };
        command.args(args).stdin(Stdio::null());
        command
    }

    /// Asks the API server; an error says what was asked and what it said.
    pub fn try_kubectl(&self, args: &[&str], input: Option<&str>) -> Result<String, String> {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().map_err(|error| format!("kubectl: {error}"))?;
        if let Some(input) = input {
            let mut stdin = child.stdin.take().expect("piped");
            stdin.write_all(input.as_bytes()).map_err(|error| format!("kubectl: {error}"))?;
        }
        let output = child.wait_with_output().map_err(|error| format!("kubectl: {error}"))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(format!("kubectl {args:?}: {}", String::from_utf8_lossy(&output.stderr)))
        }
    }

    /// A namespace with all that pods need to find each other. It is gone with the value.
    pub fn namespace(&self, name: &str) -> Namespace {
        let namespace = self.empty_namespace(name, "privileged");
        namespace.apply(include_str!("manifests/place.yaml"));
        namespace
    }

    /// A namespace that enforces a level of Pod Security, and has nothing in it. It is gone with the value.
    pub fn empty_namespace(&self, name: &str, level: &str) -> Namespace {
        let name = format!("pillion-{name}-{}", std::process::id());
        self.try_kubectl(&["create", "namespace", &name], None).unwrap();
        let namespace = Namespace { cluster: self.clone(), name };
        let label = format!("pod-security.kubernetes.io/enforce={level}");
        self.try_kubectl(&["label", "namespace", &namespace.name, &label], None).unwrap();
        namespace
    }
}

/// Asks again and again until the answer is yes.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Who runs pods: a Deployment or a `StatefulSet`, with what is said of them.
pub struct Workload<'a> {
    pub kind: Kind,
    pub name: &'a str,
    pub replicas: usize,
    /// How the nodes find each other.
    pub strategy: &'a str,
    /// One on each machine, also on the one that is cut off.
    pub spread: bool,
    /// Whether the service `mesh` lists it from the start.
    pub member: bool,
    /// A condition that somebody else has to set before a pod is ready.
    pub gate: Option<&'a str>,
    /// Whether the node is a sidecar of an app that prints what it is told.
    pub app: bool,
}

#[derive(Clone, Copy)]
pub enum Kind {
    Deployment,
    StatefulSet,
}

impl<'a> Workload<'a> {
    pub fn new(kind: Kind, name: &'a str, replicas: usize, strategy: &'a str) -> Self {
        Self { kind, name, replicas, strategy, spread: false, member: true, gate: None, app: false }
    }

    /// The pod, as JSON, which is YAML too.
    fn pod(&self, image: &str) -> Value {
        let variable = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
        let env = json!([
            variable("POD_NAME", "metadata.name"),
            variable("POD_NAMESPACE", "metadata.namespace"),
            // What the sidecar and its app share.
            {"name": "PILLION_SOCKET", "value": "/run/pillion/app.sock"},
        ]);
        let mounts = json!([
            {"name": "run", "mountPath": "/run/pillion"},
            {"name": "cookie", "mountPath": "/cookie", "readOnly": true},
        ]);
        let mut node = json!({
            "name": "node",
            "image": image,
            "imagePullPolicy": "IfNotPresent",
            "args": [
                // Named by its pod: `<name>@<pod>.<namespace>`.
                "up", "--strategy", self.strategy, "--cookie-file", "/cookie/cookie",
                "--dir", "/run/pillion/local", "--log-format", "json",
            ],
            "env": env,
            "volumeMounts": mounts,
            "ports": [{"name": "mesh", "containerPort": 4470}],
        });
        let mut pod = json!({
            "serviceAccountName": "pillion",
            "terminationGracePeriodSeconds": 20,
            // The image runs as 65532, and reads the cookie as this group.
            "securityContext": {"fsGroup": 65532},
            "volumes": [
                {"name": "run", "emptyDir": {}},
                {"name": "cookie", "secret": {"secretName": "cookie", "defaultMode": 0o440}},
            ],
        });
        if self.app {
            node["restartPolicy"] = json!("Always");
            node["startupProbe"] = json!({
                "exec": {"command": ["/pillion", "nodes"]},
                "periodSeconds": 1, "failureThreshold": 60, "timeoutSeconds": 10,
            });
            pod["initContainers"] = json!([node]);
            pod["containers"] = json!([{
                "name": "app", "image": image, "imagePullPolicy": "IfNotPresent",
                "args": ["events", "--json"], "env": env, "volumeMounts": mounts,
            }]);
        } else {
            pod["containers"] = json!([node]);
        }
        if let Some(gate) = self.gate {
            pod["readinessGates"] = json!([{"conditionType": gate}]);
        }
        if self.spread {
            pod["topologySpreadConstraints"] = json!([{
                "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": self.name}},
            }]);
        } else {
            let elsewhere =
                json!({"key": "kubernetes.io/hostname", "operator": "NotIn", "values": [CUT_OFF]});
            pod["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchExpressions": [elsewhere]}]}}});
        }
        pod
    }

    fn manifest(&self, image: &str) -> String {
        let text = match self.kind {
            Kind::Deployment => include_str!("manifests/deployment.yaml"),
            Kind::StatefulSet => include_str!("manifests/statefulset.yaml"),
        };
        text.replace("NAME", self.name)
            .replace("MESH", if self.member { "shop" } else { "none" })
            .replace("REPLICAS", &self.replicas.to_string())
            .replace("POD", &self.pod(image).to_string())
    }
}

/// A namespace of Kubernetes.
pub struct Namespace {
    pub cluster: Cluster,
    pub name: String,
}

impl Namespace {
    pub fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        let mut all = vec!["-n", self.name.as_str()];
        all.extend(args);
        self.cluster.try_kubectl(&all, None)
    }

    pub fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args).unwrap()
    }

    pub fn apply(&self, manifest: &str) {
        let args = ["-n", self.name.as_str(), "apply", "-f", "-"];
        self.cluster.try_kubectl(&args, Some(manifest)).unwrap();
    }

    pub fn run(&self, workload: &Workload<'_>) {
        self.apply(&workload.manifest(&self.cluster.image));
    }

    /// The pods of a workload, or of all, that are not on their way out.
    pub fn pods(&self, workload: Option<&str>) -> Vec<Value> {
        let selector = workload.map(|name| format!("-lapp={name}"));
        let mut args = vec!["get", "pods", "-o", "json"];
        args.extend(selector.as_deref());
        let mut answer: Value = serde_json::from_str(&self.kubectl(&args)).unwrap();
        let mut pods = answer["items"].take().as_array().unwrap().clone();
        pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        pods
    }

    /// Waits until a workload has exactly so many pods and all of them run; their nodes.
    pub fn nodes_of(&self, workload: &str, count: usize) -> Vec<Node<'_>> {
        let mut pods = Vec::new();
        eventually(&format!("{count} pods of {workload}"), || {
            pods = self.pods(Some(workload));
            pods.len() == count && pods.iter().all(runs)
        });
        let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap().to_owned();
        pods.iter().map(|pod| self.node(workload, &name(pod))).collect()
    }

    pub fn node(&self, workload: &str, pod: &str) -> Node<'_> {
        let name = format!("{workload}@{pod}.{}", self.name);
        Node { namespace: self, pod: pod.to_owned(), name }
    }

    /// What there is to see, for the reader of a failed test.
    fn told(&self) -> String {
        let mut told = String::new();
        let mut add = |args: &[&str]| {
            let said = self.try_kubectl(args).unwrap_or_else(|error| error);
            let _ = write!(told, "--- {args:?}\n{said}\n");
            said
        };
        add(&["get", "pods,endpointslices", "-o", "wide"]);
        add(&["get", "events", "--sort-by=.lastTimestamp"]);
        for pod in add(&["get", "pods", "-o", "name"]).lines() {
            add(&["logs", "--all-containers", "--tail=60", pod]);
            for container in ["node", "pillion"] {
                add(&["exec", pod, "-c", container, "--", "/pillion", "nodes"]);
            }
        }
        told
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.told());
        }
        let gone = ["delete", "namespace", &self.name, "--wait=false"];
        let _ = self.cluster.try_kubectl(&gone, None);
    }
}

/// Whether all containers of a pod run, whatever a gate says of it.
pub fn runs(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let mut running = conditions.filter(|condition| condition["type"] == "ContainersReady");
    running.any(|condition| condition["status"] == "True")
}

/// A node of pillion, which is a pod.
pub struct Node<'a> {
    namespace: &'a Namespace,
    pub pod: String,
    /// What the others call it.
    pub name: String,
}

/// What a node logged of another one.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// When, since midnight.
    pub at: Duration,
    /// `joined` or `left`.
    pub what: String,
    pub node: String,
    pub incarnation: String,
    /// Why it left.
    pub reason: String,
}

impl Node<'_> {
    /// Runs `pillion` in the pod.
    pub fn pillion(&self, args: &[&str]) -> Result<String, String> {
        let mut all = vec!["exec", self.pod.as_str(), "-c", "node", "--", "/pillion"];
        all.extend(args);
        self.namespace.try_kubectl(&all)
    }

    /// Everybody it knows, as `pillion nodes` says; nothing while it does not answer.
    pub fn knows(&self) -> Vec<Value> {
        let answer = self.pillion(&["nodes", "--json"]).unwrap_or_default();
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        answer["nodes"].as_array().cloned().unwrap_or_default()
    }

    /// The names of those it is connected to, sorted.
    pub fn connected(&self) -> Vec<String> {
        let name = |node: Value| node["node"].as_str().unwrap_or_default().to_owned();
        let connected = self.knows().into_iter().filter(|node| node["state"] == "connected");
        let mut names: Vec<String> = connected.map(name).collect();
        names.sort();
        names
    }

    /// Who joined and who left, from its start.
    pub fn told(&self) -> Vec<Told> {
        let log = self.namespace.try_kubectl(&["logs", &self.pod, "-c", "node"]);
        log.unwrap_or_default().lines().filter_map(told).collect()
    }

    /// Who joined and who left, as an app beside it was told.
    pub fn heard(&self) -> Vec<Value> {
        let log = self.namespace.try_kubectl(&["logs", &self.pod, "-c", "app"]).unwrap_or_default();
        let events = log.lines().filter_map(|line| serde_json::from_str(line).ok());
        events
            .filter(|event: &Value| event["ev"] == "nodeup" || event["ev"] == "nodedown")
            .collect()
    }
}

/// One line of a log in JSON, where it tells of a node that joined or left.
fn told(line: &str) -> Option<Told> {
    let line: Value = serde_json::from_str(line).ok()?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let fields = &line["fields"];
    let what = text(&fields["message"]);
    ["joined", "left"].contains(&what.as_str()).then(|| Told {
        at: written(line["timestamp"].as_str().unwrap_or_default()),
        what,
        node: text(&fields["node"]),
        incarnation: text(&fields["incarnation"]),
        reason: text(&fields["reason"]),
    })
}

/// The time since midnight: all clocks here are that of one machine.
pub fn time_of_day() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    now.checked_sub(Duration::from_secs(now.as_secs() / 86_400 * 86_400)).unwrap()
}

/// The same, of `2026-11-21T19:13:18.287856Z`.
fn written(at: &str) -> Duration {
    let of_day = at.split_once('T').expect("a time").1.trim_end_matches('Z');
    let mut parts = of_day.split(':').map(|part| part.parse::<f64>().expect("a number"));
    let mut next = || parts.next().expect("hours, minutes, seconds");
    Duration::from_secs_f64(next() * 3600.0 + next() * 60.0 + next())
}

/// Waits until every one of `nodes` is connected to all the others and to nobody else.
pub fn full_mesh(nodes: &[Node<'_>]) {
    let mut names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    names.sort_unstable();
    for node in nodes {
        let others: Vec<&str> = names.iter().copied().filter(|name| *name != node.name).collect();
        eventually(&format!("{} sees exactly {others:?}", node.name), || {
            node.connected() == others
        });
    }
}
