//! An API server to test with, namespaces in it, and an injector that runs beside it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Nothing that works takes this long, on however busy a machine.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How long a poll waits between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// What a command printed.
#[derive(Debug)]
pub struct Said {
    pub good: bool,
    pub out: String,
    pub err: String,
}

impl Said {
    /// What it printed, when it went well.
    pub fn ok(self) -> String {
        assert!(self.good, "{self:?}");
        self.out
    }
}

/// Runs `kubectl` as the administrator.
pub fn kubectl(args: &[&str], input: Option<&Value>) -> Said {
    let mut command = Command::new("kubectl");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("kubectl starts");
    let mut stdin = child.stdin.take().expect("piped");
    if let Some(input) = input {
        stdin.write_all(input.to_string().as_bytes()).expect("kubectl reads");
    }
    drop(stdin);
    let output = child.wait_with_output().expect("kubectl ends");
    Said {
        good: output.status.success(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Looks again and again until there is something to see.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// What a test has of its own on the API server: a namespace for the injector, one for apps that enforces `restricted`,
/// a webhook, a service account that may do what the chart allows it. Gone with the value.
pub struct World {
    /// What all of it is called.
    pub name: String,
    /// Where the injector's Secrets are.
    pub home: String,
    /// Where pods are.
    pub apps: String,
    pub dir: TempDir,
}

impl World {
    /// Says why there can be none here.
    pub fn new(failure: &str) -> Option<Self> {
        match Self::look() {
            Ok(()) => Some(Self::make(failure)),
            Err(why) => {
                println!("SKIPPED: {why}");
                None
            }
        }
    }

    fn look() -> Result<(), String> {
        if std::env::var_os("KUBECONFIG").is_none_or(|path| path.is_empty()) {
            return Err("no KUBECONFIG of a cluster to try things in; `tests/kubernetes/cluster test` brings one up".into());
        }
        if std::env::var_os("TEST_CLUSTER").is_none() {
            return Err("the API server of KUBECONFIG may not reach this machine's loopback; `tests/kubernetes/cluster test` brings one up that does".into());
        }
        Ok(())
    }

    fn make(failure: &str) -> Self {
        static WORLDS: AtomicU32 = AtomicU32::new(0);
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let name = format!("inject-{}-{number}", std::process::id());
        let (home, apps) = (format!("{name}-home"), format!("{name}-apps"));
        let dir = tempfile::tempdir().expect("a directory");
        let world = Self { name, home, apps, dir };
        let World { name, home, apps, .. } = &world;
        let meta = |namespace: &str, name: &str| json!({"name": name, "namespace": namespace});
        let secret = |end: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta(home, &format!("{name}{end}"))});
        let account = |namespace: &str, name: &str| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(namespace, name)});
        let rule = |group: &str, resource: &str, named: Value, verbs: &[&str]| {
            let mut rule = json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
            if !named.is_null() {
                rule["resourceNames"] = named;
            }
            rule
        };
        let subject = json!([{"kind": "ServiceAccount", "name": "injector", "namespace": home}]);
        let binding = |kind: &str, role: &str, mut meta: Value| {
            if kind == "ClusterRoleBinding" {
                meta = json!({"name": name});
            }
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": meta, "subjects": subject,
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": name}})
        };
        let looks = ["get", "list", "watch"];
        let rbac = "rbac.authorization.k8s.io/v1";
        Self::apply(&json!([
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": home}},
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": apps, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}},
            account(home, "injector"), account(apps, "default"), secret("-ca"), secret("-webhook-tls"),
            {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta(home, &format!("{name}-injector"))},
            {"apiVersion": rbac, "kind": "Role", "metadata": meta(home, name), "rules": [
                rule("", "secrets", json!([format!("{name}-ca"), format!("{name}-webhook-tls")]), &[&looks[..], &["update", "patch"]].concat()),
                rule("coordination.k8s.io", "leases", json!([format!("{name}-injector")]), &[&looks[..], &["update", "patch"]].concat()),
                rule("", "services", Value::Null, &looks),
                rule("discovery.k8s.io", "endpointslices", Value::Null, &[&looks[..], &["create", "update", "patch", "delete"]].concat()),
            ]},
            {"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": name}, "rules": [
                rule("admissionregistration.k8s.io", "mutatingwebhookconfigurations", json!([name]), &[&looks[..], &["patch"]].concat()),
                rule("authentication.k8s.io", "tokenreviews", Value::Null, &["create"]),
                rule("", "pods", Value::Null, &looks),
                rule("", "namespaces", Value::Null, &looks),
                rule("events.k8s.io", "events", Value::Null, &["create", "patch"]),
            ]},
            binding("RoleBinding", "Role", meta(home, name)),
            binding("ClusterRoleBinding", "ClusterRole", Value::Null),
        ]));
        world.webhook(1, failure);
        world
    }

    /// A webhook like the chart's, but for apps of this test alone, and on this machine's loopback.
    pub fn webhook(&self, port: u16, failure: &str) {
        let asks = "(has(object.metadata.annotations) && 'pillion.dev/inject' in object.metadata.annotations \
                    && object.metadata.annotations['pillion.dev/inject'] != 'false') \
                    || (has(object.metadata.labels) && 'pillion.dev/inject' in object.metadata.labels \
                    && object.metadata.labels['pillion.dev/inject'] != 'false')";
        Self::apply(&json!([{
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration", "metadata": {"name": self.name},
            "webhooks": [{
                "name": "injector.pillion.dev", "admissionReviewVersions": ["v1"], "sideEffects": "NoneOnDryRun",
                "failurePolicy": failure, "reinvocationPolicy": "IfNeeded", "timeoutSeconds": 10,
                "clientConfig": {"url": format!("https://127.0.0.1:{port}/mutate")},
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.apps}},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"], "scope": "Namespaced"}],
                "matchConditions": [{"name": "asks", "expression": asks}],
            }],
        }]));
    }

    fn apply(objects: &Value) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], Some(&list)).ok();
    }

    /// An object of the injector's namespace.
    pub fn get(&self, kind: &str, name: &str) -> Value {
        let text = kubectl(&["-n", &self.home, "get", kind, name, "-o", "json"], None).ok();
        serde_json::from_str(&text).expect("JSON")
    }

    /// Creates a pod among the apps; only as if, when `dry`.
    pub fn create(&self, pod: &Value, dry: bool) -> (Said, Value) {
        let mut args = vec!["-n", self.apps.as_str(), "create", "-o", "json", "-f", "-"];
        if dry {
            args.push("--dry-run=server");
        }
        let said = kubectl(&args, Some(pod));
        let made = serde_json::from_str(&said.out).unwrap_or(Value::Null);
        (said, made)
    }

    /// The events about an object among the apps, as reason and note.
    pub fn events(&self, about: &str) -> Vec<(String, String)> {
        let text =
            kubectl(&["-n", &self.apps, "get", "events.v1.events.k8s.io", "-o", "json"], None).ok();
        let list: Value = serde_json::from_str(&text).expect("JSON");
        let events = list["items"].as_array().into_iter().flatten();
        let of = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
        events
            .filter(|event| event["regarding"]["name"] == about)
            .map(|event| (of(event, "reason"), of(event, "note")))
            .collect()
    }

    /// A kubeconfig of the injector's service account; by this way, where there is one.
    fn kubeconfig(&self, way: Option<&Way>) -> PathBuf {
        let mut config = Self::config();
        if let Some(way) = way {
            config["clusters"][0]["cluster"]["server"] = json!(format!("https://{}", way.at));
        }
        config["users"][0]["user"]["as"] =
            json!(format!("system:serviceaccount:{}:injector", self.home));
        let path = self.dir.path().join("kubeconfig");
        std::fs::write(&path, config.to_string()).expect("the file is written");
        path
    }

    fn config() -> Value {
        let text =
            kubectl(&["config", "view", "--raw", "--minify", "--flatten", "-o", "json"], None).ok();
        serde_json::from_str(&text).expect("JSON")
    }

    /// A way to the API server that can be cut.
    pub fn way() -> Way {
        let config = Self::config();
        let server = config["clusters"][0]["cluster"]["server"].as_str().expect("a URL");
        let to = server.trim_start_matches("https://").trim_end_matches('/').to_owned();
        Way::to(to)
    }

    /// Takes from the injector's service account what it may do everywhere with these resources.
    pub fn forbid(&self, resource: &str) {
        let text = kubectl(&["get", "clusterrole", &self.name, "-o", "json"], None).ok();
        let mut role: Value = serde_json::from_str(&text).expect("JSON");
        for rule in role["rules"].as_array_mut().expect("rules") {
            if rule["resources"] == json!([resource]) {
                rule["resources"] = json!(["nothing"]);
            }
        }
        kubectl(&["replace", "-f", "-"], Some(&role)).ok();
    }

    /// Starts an injector with more flags than it needs.
    pub fn injector(&self, flags: &[&str]) -> Injector {
        self.injector_by(None, flags)
    }

    fn injector_by(&self, way: Option<&Way>, flags: &[&str]) -> Injector {
        let template = self.dir.path().join("sidecar.json");
        std::fs::write(&template, include_str!("sidecar.json")).expect("the file is written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
        command
            .args(["injector", "--namespace", &self.home, "--name", &self.name, "--grace", "0s"])
            .args(["--listen", "127.0.0.1:0", "--health", "127.0.0.1:0", "--host", "127.0.0.1"])
            .arg("--template")
            .arg(&template)
            .args(flags)
            .env("KUBECONFIG", self.kubeconfig(way))
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the injector starts");
        let lines = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let reader = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                println!("injector: {line}");
                reader.0.lock().expect("no panic").push(line);
                reader.1.notify_all();
            }
        });
        let mut injector = Injector { child, lines, port: 0, health: 0 };
        let line = injector.said("the webhook is on ");
        let mut ports = line.split("127.0.0.1:").skip(1).map(|rest| {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().expect("a port")
        });
        injector.port = ports.next().expect("the webhook's");
        injector.health = ports.next().expect("the probes'");
        injector
    }

    /// Starts an injector and leads the webhook to it.
    pub fn ready(&self, failure: &str, flags: &[&str]) -> Injector {
        self.ready_by(None, failure, flags)
    }

    /// The same, by a way that can be cut.
    pub fn ready_by(&self, way: Option<&Way>, failure: &str, flags: &[&str]) -> Injector {
        let injector = self.injector_by(way, flags);
        self.webhook(injector.port, failure);
        injector.until_ready();
        injector
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let Self { name, home, apps, .. } = self;
        for kind in ["mutatingwebhookconfiguration", "clusterrole", "clusterrolebinding"] {
            kubectl(&["delete", "--ignore-not-found", kind, name], None);
        }
        kubectl(&["-n", apps, "delete", "pods", "--all", "--grace-period=0", "--force"], None);
        kubectl(&["delete", "--wait=false", "namespace", home, apps], None);
    }
}

/// An injector that runs. It is ended with the value.
pub struct Injector {
    child: Child,
    lines: Arc<(Mutex<Vec<String>>, Condvar)>,
    pub port: u16,
    pub health: u16,
}

impl Injector {
    /// Waits for a line of its log.
    pub fn said(&self, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.lines.0.lock().expect("no panic");
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(words)) {
                return line.clone();
            }
            let left = deadline.checked_duration_since(Instant::now());
            let left = left.unwrap_or_else(|| panic!("never said: {words}"));
            lines = self.lines.1.wait_timeout(lines, left).expect("no panic").0;
        }
    }

    /// The lines of its log that hold these words.
    pub fn lines(&self, words: &str) -> Vec<String> {
        let lines = self.lines.0.lock().expect("no panic");
        lines.iter().filter(|line| line.contains(words)).cloned().collect()
    }

    /// Holds it up, or lets it go on.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    /// The status and the body of an answer of its probes.
    pub fn probe(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.health)).expect("it listens");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let status =
            answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, body.to_owned())
    }

    pub fn until_ready(&self) {
        until("the injector is ready", || (self.probe("/readyz").0 == 200).then_some(()));
    }

    /// What one of its metrics says.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.probe("/metrics");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
        line.and_then(|value| value.parse().ok()).unwrap_or(0.0)
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(mut self) {
        self.signal(rustix::process::Signal::TERM);
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A way to the API server, through this machine's loopback. While it is cut, connections break and none comes about.
pub struct Way {
    at: SocketAddr,
    open: Arc<AtomicBool>,
    through: Arc<Mutex<Vec<TcpStream>>>,
}

impl Way {
    fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("an address");
        let open = Arc::new(AtomicBool::new(true));
        let through = Arc::new(Mutex::new(Vec::new()));
        let way = Self { at, open: Arc::clone(&open), through: Arc::clone(&through) };
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(&server) else { continue };
                let mut through = through.lock().expect("no panic");
                if !open.load(Ordering::Relaxed) {
                    continue;
                }
                for (mut from, mut to) in
                    [(near.try_clone(), far.try_clone()), (far.try_clone(), near.try_clone())]
                        .map(|(from, to)| (from.expect("a file"), to.expect("a file")))
                {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
                through.extend([near, far]);
            }
        });
        way
    }

    pub fn cut(&self) {
        let mut through = self.through.lock().expect("no panic");
        self.open.store(false, Ordering::Relaxed);
        for stream in through.drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    pub fn heal(&self) {
        self.open.store(true, Ordering::Relaxed);
    }
}
