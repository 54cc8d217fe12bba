//! Releases of the chart in a cluster, and apps beside which it puts a node.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, Weak};

use serde_json::{Value, json};

use crate::helm::{Chart, Helm};
use crate::support::{CUT_OFF, Cluster, Namespace, eventually, runs};

/// A release of a chart. It is uninstalled with the value.
pub struct Release {
    pub cluster: Cluster,
    pub namespace: Namespace,
    pub name: String,
    chart: String,
    installed: bool,
}

/// The cluster, helm and the app's image; without one of them it says why the test is skipped.
pub fn able() -> Option<(Cluster, &'static Helm)> {
    let cluster = Cluster::here()?;
    let helm = Helm::here()?;
    if cluster.app.is_none() {
        println!(
            "SKIPPED: there is no image of an app: `tests/kubernetes/cluster app FILE` makes one; name it in TEST_APP_IMAGE"
        );
        return None;
    }
    Some((cluster, helm))
}

impl Release {
    /// Installs a chart into a namespace of its own, and waits until all of it runs.
    pub fn install(
        cluster: &Cluster,
        helm: &Helm,
        chart: Chart,
        namespace: Namespace,
        flags: &[&str],
    ) -> Self {
        let chart = helm.chart(chart).to_str().expect("a temporary path is UTF-8").to_owned();
        // Objects of the whole cluster are called after the release.
        let name = namespace.name.clone();
        let mut release =
            Self { cluster: cluster.clone(), namespace, name, chart, installed: false };
        release.installed = true;
        release.helm("install", flags).unwrap();
        release
    }

    /// The injector, for the pods of namespaces that are labelled for it: several releases do not meet.
    pub fn injector(cluster: &Cluster, helm: &Helm, test: &str, flags: &[&str]) -> Self {
        let namespace = cluster.empty_namespace(test, "restricted");
        let all = injector_flags(cluster, &namespace.name);
        let mut all: Vec<&str> = all.iter().map(String::as_str).collect();
        all.extend(flags);
        let label = format!("release={}", namespace.name);
        cluster.try_kubectl(&["label", "namespace", &namespace.name, &label], None).unwrap();
        let release = Self::install(cluster, helm, Chart::Pillion, namespace, &all);
        release.ready();
        release
    }

    /// Installs or upgrades.
    pub fn helm(&self, subcommand: &str, flags: &[&str]) -> Result<String, String> {
        let mut args =
            vec![subcommand, &self.name, &self.chart, "--namespace", &self.namespace.name];
        args.extend(flags);
        self.cluster.helm(&args)
    }

    /// Upgrades with the values of before and these.
    pub fn upgrade(&self, flags: &[&str]) {
        let mut all = vec!["--reuse-values"];
        all.extend(flags);
        self.helm("upgrade", &all).unwrap();
        self.ready();
    }

    /// Waits until the injector is ready, and until the API server reaches it: that takes a moment longer, in which pods are
    /// missed.
    pub fn ready(&self) {
        let deployment = format!("deployment/{}-injector", self.name);
        self.namespace.kubectl(&["rollout", "status", &deployment, "--timeout=180s"]);
        let container = App::container(&self.cluster, &["sh"]);
        let annotations = json!({"pillion.dev/inject": "true"});
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "nobody", "annotations": annotations},
            "spec": {"containers": [container]},
        });
        let dry =
            ["-n", &self.namespace.name, "create", "--dry-run=server", "-o", "json", "-f", "-"];
        let mut answered = 0;
        eventually("the API server reaches the injector", || {
            let made = self.cluster.try_kubectl(&dry, Some(&pod.to_string())).unwrap_or_default();
            // Each of its pods, whichever is asked.
            answered = if made.contains("pillion.dev/status") { answered + 1 } else { 0 };
            answered >= 5
        });
    }

    pub fn uninstall(&mut self) {
        if std::mem::take(&mut self.installed) {
            self.cluster
                .helm(&["uninstall", &self.name, "--namespace", &self.namespace.name, "--wait"])
                .unwrap();
        }
    }

    /// A namespace whose pods this release's injector sees.
    pub fn place(&self, name: &str) -> Namespace {
        let namespace = self.cluster.empty_namespace(name, "restricted");
        let label = format!("release={}", self.name);
        self.cluster.try_kubectl(&["label", "namespace", &namespace.name, &label], None).unwrap();
        namespace
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = format!("deployment/{}-injector", self.name);
            eprintln!(
                "{}",
                self.namespace
                    .try_kubectl(&["logs", &log, "--tail=60"])
                    .unwrap_or_else(|error| error)
            );
        }
        if self.installed {
            let _ =
                self.cluster.helm(&["uninstall", &self.name, "--namespace", &self.namespace.name]);
        }
    }
}

/// The image that was made here.
pub fn image_flags(cluster: &Cluster) -> Vec<String> {
    let (path, tag) = cluster.image.rsplit_once(':').expect("the image has a tag");
    let (registry, repository) = path.split_once('/').unwrap_or(("", path));
    ["registry", "repository", "tag"]
        .into_iter()
        .zip([registry, repository, tag])
        .flat_map(|(key, value)| ["--set".to_owned(), format!("sidecar.image.{key}={value}")])
        .collect()
}

fn injector_flags(cluster: &Cluster, release: &str) -> Vec<String> {
    let mut flags = image_flags(cluster);
    let values = json!({
        "namespaceSelector": {"matchLabels": {"release": release}},
        // A kubelet of a busy machine takes its time.
        "timeoutSeconds": 30,
        "affinity": elsewhere(),
    });
    flags.extend(["--set-json".to_owned(), format!("injector={values}")]);
    flags
}

/// Not on the machine that is cut off.
pub fn elsewhere() -> Value {
    let not = json!({"key": "kubernetes.io/hostname", "operator": "NotIn", "values": [CUT_OFF]});
    json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [not]}]}}})
}

/// The release that tests share which need no more than an injector; gone with the last of them.
pub fn shared() -> Option<Arc<Release>> {
    // With how many there were: the namespace of one that is gone may take its time to go.
    static HERE: Mutex<(u32, Weak<Release>)> = Mutex::new((0, Weak::new()));
    let (cluster, helm) = able()?;
    let mut here = HERE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(release) = here.1.upgrade() {
        return Some(release);
    }
    here.0 += 1;
    let name = format!("shared-{}", here.0);
    let release = Arc::new(Release::injector(&cluster, helm, &name, &[]));
    here.1 = Arc::downgrade(&release);
    Some(release)
}

/// An app of which one container runs a script of the image's, with the node's socket as its input and output.
pub struct App<'a> {
    pub name: &'a str,
    pub replicas: usize,
    pub script: &'a str,
    pub annotations: Value,
}

impl<'a> App<'a> {
    pub fn new(name: &'a str, replicas: usize, script: &'a str) -> Self {
        Self { name, replicas, script, annotations: json!({"pillion.dev/inject": "true"}) }
    }

    /// The container: what `restricted` asks for, and nothing of pillion but the variable that every app finds.
    pub fn container(cluster: &Cluster, command: &[&str]) -> Value {
        json!({
            "name": "app", "image": cluster.app, "imagePullPolicy": "IfNotPresent", "command": command,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 1000, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        })
    }

    /// What runs the script.
    pub fn command(&self) -> [String; 3] {
        [
            "/bin/socat".into(),
            "UNIX-CONNECT:$(PILLION_SOCKET)".into(),
            format!("EXEC:/app/{}", self.script),
        ]
    }

    pub fn run(&self, namespace: &Namespace) {
        let command = self.command();
        let container =
            Self::container(&namespace.cluster, &command.each_ref().map(String::as_str));
        let labels = json!({"app": self.name});
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": self.name},
            "spec": {
                "replicas": self.replicas, "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels, "annotations": self.annotations},
                    "spec": {"containers": [container], "affinity": elsewhere(), "automountServiceAccountToken": false},
                },
            },
        });
        namespace.apply(&deployment.to_string());
    }
}

/// The names of the pods of an app, once exactly so many are there and all of them run.
pub fn pods(namespace: &Namespace, app: &str, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    eventually(&format!("{count} pods of {app}"), || {
        found = namespace.pods(Some(app));
        found.len() == count && found.iter().all(runs)
    });
    let mut names: Vec<String> =
        found.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// The nodes that the sidecar of a pod is connected to, sorted.
pub fn connected(namespace: &Namespace, pod: &str) -> Vec<String> {
    let answer =
        namespace.try_kubectl(&["exec", pod, "-c", "pillion", "--", "/pillion", "nodes", "--json"]);
    let answer: Value = serde_json::from_str(&answer.unwrap_or_default()).unwrap_or_default();
    let nodes = answer["nodes"].as_array().into_iter().flatten();
    let mut names: Vec<String> = nodes
        .filter(|node| node["state"] == "connected")
        .map(|node| node["node"].as_str().unwrap_or_default().to_owned())
        .collect();
    names.sort();
    names
}

/// Waits until the nodes of these pods are connected to each other and to nobody else. They are called after the app.
pub fn full_mesh(pods: &[(&Namespace, &str, &str)]) {
    let name = |(namespace, app, pod): &(&Namespace, &str, &str)| {
        format!("{app}@{pod}.{}", namespace.name)
    };
    for one in pods {
        let mut others: Vec<String> =
            pods.iter().filter(|other| other.2 != one.2).map(name).collect();
        others.sort();
        eventually(&format!("{} sees exactly {others:?}", name(one)), || {
            connected(one.0, one.2) == others
        });
    }
}

/// What the app of a pod has logged.
pub fn said(namespace: &Namespace, pod: &str) -> String {
    namespace.try_kubectl(&["logs", pod, "-c", "app"]).unwrap_or_default()
}

/// Says a line to the node of a pod, as an app does that is there for a moment, and returns what it answers.
pub fn tell(namespace: &Namespace, pod: &str, line: &Value) -> String {
    // The socket stays open for a second after the line, so that the answer comes.
    let script = "(echo \"$0\"; sleep 1) | socat -t 1 - UNIX-CONNECT:$PILLION_SOCKET";
    namespace.kubectl(&["exec", pod, "-c", "app", "--", "sh", "-c", script, &line.to_string()])
}

/// Everything in the cluster that has a release's name in its own, or lies in its namespace.
pub fn left(release: &Release) -> BTreeSet<String> {
    let kubectl = |args: &[&str]| release.cluster.try_kubectl(args, None).unwrap();
    let mut found = BTreeSet::new();
    for namespaced in ["true", "false"] {
        let kinds = kubectl(&[
            "api-resources",
            "--verbs=list",
            "-o",
            "name",
            &format!("--namespaced={namespaced}"),
        ]);
        // What happened is no object, and is told for an hour.
        let kinds: Vec<&str> = kinds
            .lines()
            .filter(|kind| !kind.starts_with("events") && !kind.starts_with("componentstatuses"))
            .collect();
        let listed = kubectl(&[
            "get",
            &kinds.join(","),
            "-n",
            &release.namespace.name,
            "-o",
            "name",
            "--ignore-not-found",
        ]);
        let mine = |line: &&str| namespaced == "true" || line.contains(&release.name);
        found.extend(
            listed.lines().filter(|line| line.contains('/')).filter(mine).map(str::to_owned),
        );
    }
    found
}
