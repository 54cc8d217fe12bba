//! Two namespaces on a real API server, of a release and of its apps; and the injectors and nodes that a test starts.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    Namespace, Node as Machine, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use pillion::config::IssuerUrl;
use pillion::issuer::{Answer, Issuer, IssuerError};
use pillion::tls;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep, timeout};

/// Nothing that works takes this long, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct World {
    pub client: Client,
    /// Where the injector is.
    pub release: String,
    /// Where pods are.
    pub apps: String,
    /// A mesh that no other test is in: injectors look at the pods of all namespaces.
    pub mesh: String,
    pub kubeconfig: PathBuf,
    dir: tempfile::TempDir,
    count: AtomicU32,
}

/// Asks again and again until the answer is yes.
pub async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

impl World {
    /// Says why there can be none here.
    pub async fn new() -> Result<Self, String> {
        static WORLDS: AtomicU32 = AtomicU32::new(0);
        let kubeconfig = std::env::var_os("KUBECONFIG")
            .filter(|path| !path.is_empty())
            .ok_or("no KUBECONFIG of a cluster to try things in; tests/kubernetes brings one up")?;
        let client = Client::try_default().await.map_err(|error| error.to_string())?;
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let name = |what| format!("issuer-{what}-{}-{number}", std::process::id());
        let world = Self {
            client,
            release: name("release"),
            apps: name("apps"),
            mesh: format!("m{}-{number}", std::process::id()),
            kubeconfig: kubeconfig.into(),
            dir: tempfile::Builder::new().prefix("pk").tempdir().expect("a directory"),
            count: AtomicU32::new(0),
        };
        for namespace in [&world.release, &world.apps] {
            let api: Api<Namespace> = Api::all(world.client.clone());
            create(&api, json!({"metadata": {"name": namespace}})).await;
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(world.client.clone(), &world.apps);
        create(&accounts, json!({"metadata": {"name": "web"}})).await;
        // As the chart ships them.
        let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &world.release);
        for secret in ["pillion-ca", "pillion-webhook-tls"] {
            create(&secrets, json!({"metadata": {"name": secret}})).await;
        }
        let leases: Api<Lease> = Api::namespaced(world.client.clone(), &world.release);
        create(&leases, json!({"metadata": {"name": "pillion-injector"}})).await;
        let services: Api<Service> = Api::namespaced(world.client.clone(), &world.release);
        let spec = json!({"clusterIP": "None", "publishNotReadyAddresses": true, "ports": [{"name": "mesh", "port": 4470}]});
        let name = format!("pillion-{}", world.mesh);
        create(&services, json!({"metadata": {"name": name}, "spec": spec})).await;
        world.allow().await;
        Ok(world)
    }

    /// What the injector may do, and the kubeconfig by which it does that.
    async fn allow(&self) {
        let (client, release) = (|| self.client.clone(), self.release.as_str());
        let accounts: Api<ServiceAccount> = Api::namespaced(client(), release);
        create(&accounts, json!({"metadata": {"name": "injector"}})).await;
        let looks = json!(["get", "list", "watch"]);
        let rule = |group: &str, resource: &str, verbs: &Value| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
        let named = |group: &str, resource: &str, names: Value, verbs: Value| json!({"apiGroups": [group], "resources": [resource], "resourceNames": names, "verbs": verbs});
        let secrets = json!(["pillion-ca", "pillion-webhook-tls"]);
        let roles: Api<Role> = Api::namespaced(client(), release);
        let rules = json!([
            named("", "secrets", secrets, json!(["get", "list", "watch", "update"])),
            named(
                "coordination.k8s.io",
                "leases",
                json!(["pillion-injector"]),
                json!(["get", "update"])
            ),
            rule("", "services", &json!(["get", "list", "watch", "create", "delete"])),
            rule(
                "discovery.k8s.io",
                "endpointslices",
                &json!(["list", "watch", "create", "update", "delete"])
            ),
        ]);
        create(&roles, json!({"metadata": {"name": "injector"}, "rules": rules})).await;
        let everywhere: Api<ClusterRole> = Api::all(client());
        let mut rules = vec![rule("authentication.k8s.io", "tokenreviews", &json!(["create"]))];
        rules.extend(["pods", "nodes", "namespaces"].map(|resource| rule("", resource, &looks)));
        rules.push(rule("admissionregistration.k8s.io", "mutatingwebhookconfigurations", &looks));
        create(&everywhere, json!({"metadata": {"name": release}, "rules": rules})).await;
        let subjects =
            json!([{"kind": "ServiceAccount", "name": "injector", "namespace": release}]);
        let of = |kind: &str, name: &str, role: &str| {
            json!({"metadata": {"name": name}, "subjects": subjects,
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role}})
        };
        let bindings: Api<RoleBinding> = Api::namespaced(client(), release);
        create(&bindings, of("Role", "injector", "injector")).await;
        let bindings: Api<ClusterRoleBinding> = Api::all(client());
        create(&bindings, of("ClusterRole", release, release)).await;
        let request: TokenRequest = read(json!({"metadata": {}, "spec": {"audiences": []}}));
        let params = PostParams::default();
        let answer = accounts.create_token_request("injector", &params, &request).await;
        let token = answer.expect("a token").status.expect("a status").token;
        let server = kube::Config::infer().await.expect("a config").cluster_url.to_string();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": server, "insecure-skip-tls-verify": true}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": release}}],
        });
        fs::write(self.dir.path().join("injector.yaml"), config.to_string()).expect("written");
    }

    /// Takes from the injector what it may do with nodes.
    pub async fn forbid_nodes(&self) {
        let roles: Api<ClusterRole> = Api::all(self.client.clone());
        let mut role = roles.get(&self.release).await.expect("the role");
        for rule in role.rules.iter_mut().flatten() {
            rule.resources.iter_mut().flatten().for_each(|resource| {
                if resource == "nodes" {
                    "nothing".clone_into(resource);
                }
            });
        }
        roles.replace(&self.release, &PostParams::default(), &role).await.expect("replaced");
    }

    fn number(&self) -> u32 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.apps)
    }

    /// A pod of our mesh, as an injected one looks, which nobody runs.
    pub async fn pod(&self, name: &str) {
        self.put(name, &self.mesh, Value::Null).await;
    }

    pub async fn pod_in(&self, name: &str, mesh: &str) {
        self.put(name, mesh, Value::Null).await;
    }

    pub async fn pod_on(&self, name: &str, machine: &str) {
        self.put(name, &self.mesh, machine.into()).await;
    }

    async fn put(&self, name: &str, mesh: &str, machine: Value) {
        let ports = json!([{"name": "mesh", "containerPort": 4470}]);
        let sidecar =
            json!({"name": "pillion", "image": "none", "restartPolicy": "Always", "ports": ports});
        let pod = json!({
            "metadata": {"name": name, "labels": {"pillion.dev/mesh": mesh}},
            "spec": {"serviceAccountName": "web", "automountServiceAccountToken": false, "nodeName": machine,
                "containers": [{"name": "app", "image": "none"}], "initContainers": [sidecar]},
        });
        create(&self.pods(), pod).await;
    }

    pub async fn delete_pod(&self, name: &str) {
        let pods = self.pods();
        let now = DeleteParams::default().grace_period(0);
        pods.delete(name, &now).await.expect("deleted");
        eventually("the pod is gone", async || {
            pods.get_opt(name).await.expect("an answer").is_none()
        })
        .await;
    }

    /// What a kubelet would tell of a pod.
    pub async fn status(&self, name: &str, phase: &str, ips: &[&str], ready: bool) {
        let all: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        let ready = if ready { "True" } else { "False" };
        let status = json!({"status": {"phase": phase, "podIP": ips[0], "podIPs": all,
            "conditions": [{"type": "Ready", "status": ready}]}});
        let params = PatchParams::default();
        self.pods().patch_status(name, &params, &Patch::Merge(status)).await.expect("patched");
    }

    /// A machine in a zone, both called alike.
    pub async fn zone(&self) -> String {
        let machines: Api<Machine> = Api::all(self.client.clone());
        let labels = json!({"topology.kubernetes.io/zone": self.apps});
        create(&machines, json!({"metadata": {"name": self.apps, "labels": labels}})).await;
        self.apps.clone()
    }

    /// A token as the kubelet would project it into this pod.
    pub async fn token(&self, pod: &str, audience: &str) -> String {
        let uid = self.pods().get(pod).await.expect("the pod").metadata.uid;
        let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": uid});
        self.ask_token(json!({"audiences": [audience], "boundObjectRef": bound})).await
    }

    pub async fn unbound_token(&self, audience: &str) -> String {
        self.ask_token(json!({"audiences": [audience]})).await
    }

    async fn ask_token(&self, spec: Value) -> String {
        let request: TokenRequest = read(json!({"metadata": {}, "spec": spec}));
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.apps);
        let answer = accounts.create_token_request("web", &PostParams::default(), &request).await;
        answer.expect("a token").status.expect("a status").token
    }

    pub async fn anchors(&self) -> String {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.release);
        let data = secrets.get("pillion-ca").await.expect("the Secret").data;
        let pem = data.and_then(|mut data| data.remove("ca.crt")).unwrap_or_default();
        String::from_utf8(pem.0).expect("text")
    }

    // ===== injectors =====

    /// One that answers.
    pub async fn injector(&self, args: &[&str]) -> Injector {
        self.injector_at(free(), args).await
    }

    pub async fn injector_at(&self, at: SocketAddr, args: &[&str]) -> Injector {
        let number = self.number();
        let file = |what: &str| self.dir.path().join(format!("injector-{number}{what}"));
        let template = file(".json");
        let container = json!({"name": "pillion", "image": "none"});
        let text = json!({"container": container, "mesh": self.mesh, "native": true});
        fs::write(&template, text.to_string()).expect("written");
        let (log, health) = (file(".log"), free());
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
        command
            .args([
                "injector",
                "--namespace",
                &self.release,
                "--name",
                "pillion",
                "--mesh",
                &self.mesh,
            ])
            .arg("--template")
            .arg(&template)
            .args(["--listen", &at.to_string(), "--health", &health.to_string()])
            .args(["--host", "127.0.0.1", "--grace", "0s"])
            .args(args)
            .env("KUBECONFIG", self.dir.path().join("injector.yaml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a log"));
        let child = Some(command.spawn().expect("the injector starts"));
        let issuer = Issuer { url: url(at), token: file(".token"), mesh: String::new() };
        let mut injector = Injector { child, at, log, issuer, anchors: String::new() };
        eventually("an authority", async || !self.anchors().await.is_empty()).await;
        injector.anchors = self.anchors().await;
        eventually("the injector answers", async || {
            let answer = injector.ask("no.such.token", "default").await;
            matches!(answer, Err(IssuerError::Refused { code, .. }) if code == "unauthorized")
        })
        .await;
        injector
    }

    // ===== nodes =====

    /// A node in a pod, as the injector would have made it.
    pub fn node(&self, base: &str, pod: &str, injector: &Injector, token: &str) -> Node {
        self.start(base, pod, injector.at, &injector.anchors, token, self.number())
    }

    /// The same of an injector that may be away, by the anchors of the one before.
    pub fn node_at(&self, base: &str, pod: &str, at: SocketAddr, token: &str) -> Node {
        let anchors = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(self.anchors())
        });
        self.start(base, pod, at, &anchors, token, self.number())
    }

    fn start(
        &self,
        base: &str,
        pod: &str,
        at: SocketAddr,
        first: &str,
        token: &str,
        number: u32,
    ) -> Node {
        let name = format!("{base}@{pod}.{}", self.apps);
        let file = self.dir.path().join(format!("token-{number}"));
        fs::write(&file, token).expect("written");
        let mut command = self.command(&name, "local");
        command.args(["--issuer", &url(at).to_string(), "--issuer-ca", first]);
        command.arg("--issuer-token").arg(file);
        let mut node = self.run(command, base, name);
        (node.at, node.number, node.pod) = (at, number, pod.to_owned());
        node
    }

    /// A node of no mesh in particular.
    pub fn node_with_cookie(&self, base: &str, strategy: &str) -> Node {
        let name = format!("{base}@t");
        let command = self.command(&name, strategy);
        self.run(command, base, name)
    }

    fn command(&self, name: &str, strategy: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
        command
            .env_clear()
            .env("HOME", self.dir.path())
            .env("PILLION_DIR", self.dir.path().join("p"))
            .current_dir(self.dir.path())
            .args([
                "up",
                "--name",
                name,
                "--mesh",
                &self.mesh,
                "--listen",
                "127.0.0.1:0",
                "--strategy",
                strategy,
            ])
            .args(["--grace", "200ms"]);
        command
    }

    fn run(&self, mut command: Command, base: &str, name: String) -> Node {
        let log = self.dir.path().join(format!("{base}-{}.log", self.number()));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(&log).expect("a log"));
        let socket = self.dir.path().join("p").join(&self.mesh).join(format!("{base}.sock"));
        let child = command.spawn().expect("the node starts");
        let at = SocketAddr::from(([0, 0, 0, 0], 0));
        Node { child, name, socket, log, at, number: 0, pod: String::new() }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let (client, names) = (self.client.clone(), [self.release.clone(), self.apps.clone()]);
        let gone = async move {
            let namespaces: Api<Namespace> = Api::all(client.clone());
            let machines: Api<Machine> = Api::all(client.clone());
            let roles: Api<ClusterRole> = Api::all(client.clone());
            let bindings: Api<ClusterRoleBinding> = Api::all(client);
            for name in names {
                let _ = bindings.delete(&name, &DeleteParams::default()).await;
                let _ = roles.delete(&name, &DeleteParams::default()).await;
                let _ = namespaces.delete(&name, &DeleteParams::default()).await;
                let _ = machines.delete(&name, &DeleteParams::default()).await;
            }
        };
        // The connections belong to the runtime of the test.
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(gone));
    }
}

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object")
}

async fn create<K>(api: &Api<K>, object: Value)
where
    K: Resource + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    api.create(&PostParams::default(), &read(object)).await.expect("created");
}

fn url(at: SocketAddr) -> IssuerUrl {
    let path = "/v1/certificate".to_owned();
    IssuerUrl { host: at.ip().to_string(), port: at.port(), path }
}

/// A port that was free a moment ago.
fn free() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

/// `pillion injector`. Dropping it kills it, and prints its log when the test has failed.
pub struct Injector {
    child: Option<Child>,
    pub at: SocketAddr,
    log: PathBuf,
    issuer: Issuer,
    anchors: String,
}

impl Injector {
    /// Asks for a certificate, as a node does, with a key that is thrown away.
    pub async fn ask(&self, token: &str, mesh: &str) -> Result<Answer, IssuerError> {
        let anchors = tls::anchors(&self.anchors).expect("anchors");
        let trust = tls::Trust::Issued { anchors: anchors.clone(), issuer: String::new() };
        let tls = tls::Tls::new(&trust, "default", "nobody").expect("good");
        let request = tls.request().expect("a request");
        fs::write(&self.issuer.token, token).expect("written");
        let issuer = Issuer { mesh: mesh.to_owned(), ..self.issuer.clone() };
        issuer.ask(request.csr(), &anchors).await
    }

    pub fn anchors(&self) -> String {
        self.anchors.clone()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn terminate(&self) {
        let child = self.child.as_ref().expect("it runs");
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("told");
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- injector at {}\n{}", self.at, self.log());
        }
    }
}

/// `pillion up`. Dropping it kills it, and prints its log when the test has failed.
pub struct Node {
    child: Child,
    pub name: String,
    socket: PathBuf,
    log: PathBuf,
    at: SocketAddr,
    number: u32,
    pod: String,
}

impl Node {
    async fn session(&self) -> Session {
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "{}: {error}", self.name),
            }
            sleep(Duration::from_millis(10)).await;
        };
        let (read, write) = stream.into_split();
        Session { lines: BufReader::new(read).lines(), write }
    }

    pub async fn ask(&self, command: Value) -> Value {
        self.session().await.ask(command).await
    }

    /// Asks `doctor` until it says so.
    pub async fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let doctor = self.ask(json!({"op": "doctor"})).await["diagnosis"].take();
            if holds(&doctor) {
                return doctor;
            }
            assert!(Instant::now() < deadline, "{}: never {what}: {doctor}", self.name);
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn ids(&self) -> Vec<String> {
        let doctor = self.ask(json!({"op": "doctor"})).await;
        let ids = doctor["diagnosis"]["ids"].as_array().expect("a list");
        ids.iter().map(|id| id.as_str().expect("a text").to_owned()).collect()
    }

    /// Whom it is connected to.
    pub async fn nodes(&self) -> BTreeSet<String> {
        let answer = self.ask(json!({"op": "nodes"})).await;
        let nodes = answer["nodes"].as_array().expect("a list").iter();
        let up = nodes.filter(|node| node["state"] == "connected");
        up.map(|node| node["node"].as_str().expect("a name").to_owned()).collect()
    }

    pub async fn joined(&self, others: &[&Self]) {
        let wanted: BTreeSet<String> = others.iter().map(|node| node.name.clone()).collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let nodes = self.nodes().await;
            if nodes == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{} has {nodes:?}, not {wanted:?}", self.name);
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Everything that happens to its peers from now on.
    pub async fn monitor_nodes(&self) -> Session {
        let mut session = self.session().await;
        session.ask(json!({"op": "monitor_nodes", "on": true})).await;
        session
    }

    /// Killed and started again in its place, with the anchor that its pod was made with.
    pub fn again(mut self, world: &World, first: &str, token: &str) -> Self {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let (base, _) = self.name.split_once('@').expect("a name");
        world.start(base, &self.pod, self.at, first, token, self.number)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.name, fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// An app.
pub struct Session {
    lines: Lines<BufReader<OwnedReadHalf>>,
    write: OwnedWriteHalf,
}

impl Session {
    async fn line(&mut self) -> Value {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("in time");
        serde_json::from_str(&line.expect("it reads").expect("it lives")).expect("JSON")
    }

    async fn ask(&mut self, mut command: Value) -> Value {
        command["id"] = 1.into();
        self.write.write_all(format!("{command}\n").as_bytes()).await.expect("written");
        loop {
            let line = self.line().await;
            if line["id"] == 1 {
                return line;
            }
        }
    }

    /// The peers that went since it began to watch.
    pub async fn all(&mut self) -> Vec<String> {
        // What comes before the answer to this was there before it.
        self.write.write_all(b"{\"op\":\"self\",\"id\":2}\n").await.expect("written");
        let mut gone = Vec::new();
        loop {
            let line = self.line().await;
            if line["id"] == 2 {
                return gone;
            }
            if line["ev"] == "nodedown" {
                gone.push(line.to_string());
            }
        }
    }
}
