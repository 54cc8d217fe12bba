//! A namespace of its own on a real API server, a service account in it, and a way to the server that can be cut.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long an admin's request is tried: the server may be starting.
const PATIENCE: Duration = Duration::from_secs(60);

pub const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices";
pub const PODS: &str = "/api/v1/namespaces/{}/pods";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/{}";

/// How the way to the server behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Closes each connection at once.
    Shut,
    /// Takes connections and says nothing; those that are held go on when it is open again.
    Silent,
    /// Answers what no server says.
    Garbage,
    /// Each piece takes two seconds.
    Slow,
}

/// A namespace on the server. What it changes it changes as an admin, in a thread of its own, so that it can be used
/// where nothing can be awaited.
pub struct World {
    pub namespace: String,
    pub dir: PathBuf,
    way: watch::Sender<(Way, u32)>,
}

impl World {
    /// Says why there can be none here.
    pub fn new() -> Result<Self, String> {
        static WORLDS: AtomicU32 = AtomicU32::new(0);
        let kubeconfig = std::env::var_os("KUBECONFIG")
            .filter(|path| !path.is_empty())
            .ok_or("no KUBECONFIG of a cluster to try things in; tests/kubernetes brings one up")?;
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("pillion-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(&namespace);
        let text = |error: std::io::Error| error.to_string();
        std::fs::create_dir_all(&dir).map_err(text)?;
        let (way, _) = watch::channel((Way::Open, 0));
        let ways = way.subscribe();
        let (server, at) = blocking(async move {
            let config = Config::infer().await.map_err(|error| {
                format!("the KUBECONFIG {} cannot be used: {error}", kubeconfig.display())
            })?;
            let url = config.cluster_url;
            let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let mut found = tokio::net::lookup_host((host.clone(), url.port_u16().unwrap_or(443)))
                .await
                .map_err(|error| format!("{host}: {error}"))?;
            Ok::<_, String>((host, found.next().ok_or("the server has no address")?))
        })?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(text)?;
        let port = listener.local_addr().map_err(text)?.port();
        listener.set_nonblocking(true).map_err(text)?;
        std::thread::spawn(move || {
            runtime().block_on(async {
                serve(TcpListener::from_std(listener).expect("a listener"), at, ways).await;
            });
        });
        let world = Self { namespace, dir, way };
        let meta = json!({"name": world.namespace});
        world.post("/api/v1/namespaces", json!({"metadata": meta}));
        world.create("/api/v1/namespaces/{}/serviceaccounts", json!({"metadata": {"name": "web"}}));
        world.allow();
        world.write_token("first");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://127.0.0.1:{port}"), "tls-server-name": server, "insecure-skip-tls-verify": true}}],
            "users": [{"name": "u", "user": {"tokenFile": "token"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": world.namespace}}],
        });
        std::fs::write(world.dir.join("config"), config.to_string()).expect("the file is written");
        Ok(world)
    }

    /// The strategy's URL with these options.
    pub fn url(&self, options: &str) -> String {
        format!("kubernetes://?kubeconfig={}&{options}", self.dir.join("config").display())
    }

    /// Cuts every connection; how new ones fare.
    pub fn way(&self, way: Way) {
        self.way.send_modify(|now| *now = (way, now.1 + 1));
    }

    pub fn allow(&self) {
        let resources = json!([
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
        ]);
        self.create(
            &format!("{ROLES}/roles"),
            json!({"metadata": {"name": "finds"}, "rules": resources}),
        );
        self.bind();
    }

    pub fn bind(&self) {
        let subject = json!({"kind": "ServiceAccount", "name": "web", "namespace": self.namespace});
        self.create(
            &format!("{ROLES}/rolebindings"),
            json!({
                "metadata": {"name": "finds"}, "subjects": [subject],
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "finds"},
            }),
        );
    }

    pub fn unbind(&self) {
        self.delete(&format!("{ROLES}/rolebindings"), "finds");
    }

    /// A token that lives as long as the Secret of this name, which is made.
    pub fn token(&self, secret: &str) -> String {
        self.create("/api/v1/namespaces/{}/secrets", json!({"metadata": {"name": secret}}));
        let bound = json!({"kind": "Secret", "apiVersion": "v1", "name": secret});
        let answer = self.create(
            "/api/v1/namespaces/{}/serviceaccounts/web/token",
            json!({"spec": {"expirationSeconds": 3600, "boundObjectRef": bound}}),
        );
        answer["status"]["token"].as_str().expect("a token").to_owned()
    }

    /// Puts a new token in the place of the last one, as a kubelet does.
    pub fn write_token(&self, secret: &str) {
        let new = self.dir.join("token.new");
        std::fs::write(&new, self.token(secret)).expect("the file is written");
        std::fs::rename(new, self.dir.join("token")).expect("the file is renamed");
    }

    pub fn slice(&self, name: &str, address: &str, port: u16) -> Value {
        self.create(SLICES, slice(name, address, port))
    }

    pub fn create(&self, path: &str, object: Value) -> Value {
        self.post(&self.path(path), object)
    }

    pub fn path(&self, path: &str) -> String {
        path.replace("{}", &self.namespace)
    }

    fn post(&self, path: &str, object: Value) -> Value {
        ask("POST", path, &object)
    }

    pub fn put(&self, path: &str, name: &str, object: Value) -> Value {
        ask("PUT", &format!("{}/{name}", self.path(path)), &object)
    }

    pub fn delete(&self, path: &str, name: &str) {
        ask("DELETE", &format!("{}/{name}", self.path(path)), &json!({"gracePeriodSeconds": 0}));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let path = format!("/api/v1/namespaces/{}", self.namespace);
        if !std::thread::panicking() {
            ask("DELETE", &path, &json!({}));
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// One endpoint, of the pod that is called like its slice.
pub fn slice(name: &str, address: &str, port: u16) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": if address.contains(':') { "IPv6" } else { "IPv4" },
        "endpoints": [{"addresses": [address], "zone": "z1", "conditions": {"ready": true, "serving": false},
            "targetRef": {"kind": "Pod", "name": name, "uid": format!("uid-{name}")}}],
        "ports": [{"name": "mesh", "port": port, "protocol": "TCP"}],
    })
}

/// Waits in a thread of its own for what cannot be awaited here.
pub fn blocking<T: Send>(work: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| {
        scope.spawn(|| runtime().block_on(work)).join().expect("it did not panic")
    })
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A request as the admin, tried again while the server starts. What is there already, or not there any more, is well.
pub fn ask(method: &str, path: &str, object: &Value) -> Value {
    blocking(async move {
        let tried = async {
            loop {
                let client = Client::try_default().await.expect("a client");
                let request = http::Request::builder()
                    .method(method)
                    .uri(path)
                    .header("content-type", "application/json")
                    .body(object.to_string().into_bytes())
                    .expect("a request");
                match client.request::<Value>(request).await {
                    Ok(answer) => return answer,
                    Err(kube::Error::Api(status))
                        if matches!(status.code, 409 if method == "POST")
                            || matches!(status.code, 404 if method == "DELETE") =>
                    {
                        return Value::Null;
                    }
                    Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                        panic!("{method} {path}: {status:?}")
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, tried).await.expect("the server answers in time")
    })
}

/// Whether the server takes this token.
pub async fn takes(token: &str) -> bool {
    let mut config = Config::infer().await.expect("a config");
    config.auth_info = serde_json::from_value(json!({"token": token})).expect("a user");
    let client = Client::try_from(config).expect("a client");
    let request = http::Request::get("/api").body(Vec::new()).expect("a request");
    !matches!(client.request::<Value>(request).await, Err(kube::Error::Api(status)) if status.code == 401)
}

/// Goes on until the world is gone.
async fn serve(listener: TcpListener, server: SocketAddr, ways: watch::Receiver<(Way, u32)>) {
    let mut connections = JoinSet::new();
    let mut world = ways.clone();
    loop {
        let client = tokio::select! {
            biased;
            _ = world.wait_for(|_| false) => return,
            Ok((client, _)) = listener.accept() => client,
        };
        while connections.try_join_next().is_some() {}
        let mut ways = ways.clone();
        connections.spawn(async move {
            let mut way = ways.borrow_and_update().0;
            if way == Way::Silent {
                // Held until it is open; then it goes on where it stopped.
                if ways.wait_for(|now| now.0 == Way::Open).await.is_err() {
                    return;
                }
                way = Way::Open;
            }
            tokio::select! {
                biased;
                _ = ways.changed() => {}
                () = carry(client, server, way) => {}
            }
        });
    }
}

async fn carry(mut client: TcpStream, server: SocketAddr, way: Way) {
    match way {
        Way::Shut | Way::Silent => return,
        Way::Garbage => {
            let _ = client.write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"kind\": \"Nonsense\"").await;
            return;
        }
        Way::Slow => tokio::time::sleep(Duration::from_secs(2)).await,
        Way::Open => {}
    }
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}
