//! Whole nodes that find each other by names, with a name server of the test's own.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use crate::name_server::{A, NXDOMAIN, Reply, Rr, SRV, Server};
use crate::support::{Daemon, Place, eventually, json};

/// Every node of a zone, and the server that answers for it on a thread of its own.
struct Zone {
    server: Server,
    nodes: Arc<Mutex<Vec<(String, String, u16)>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Zone {
    /// One at this address, which has to be free, or at any.
    fn start(at: Option<&str>) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let server = runtime.block_on(async {
            match at {
                Some(at) => Server::at(at.parse().unwrap()).await,
                None => Ok(Server::start().await),
            }
        })?;
        let nodes: Arc<Mutex<Vec<(String, String, u16)>>> = Arc::default();
        let known = Arc::clone(&nodes);
        server.answers(move |asked| {
            let nodes = known.lock().unwrap();
            let hosts: Vec<&(String, String, u16)> =
                nodes.iter().filter(|(host, ..)| asked.name == *host).collect();
            match asked.kind {
                SRV if asked.name == "_mesh._tcp.shop.test." => Reply::records(
                    nodes
                        .iter()
                        .map(|(host, _, port)| Rr::srv(&asked.name, 0, host, *port))
                        .collect(),
                ),
                A if asked.name == "shop.test." => Reply::records(
                    nodes.iter().map(|(_, ip, _)| Rr::address(&asked.name, 0, ip)).collect(),
                ),
                A if !hosts.is_empty() => Reply::records(
                    hosts.iter().map(|(_, ip, _)| Rr::address(&asked.name, 0, ip)).collect(),
                ),
                _ if !hosts.is_empty() || asked.name == "shop.test." => Reply::records(Vec::new()),
                _ => Reply::Code(NXDOMAIN),
            }
        });
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async { drop(stopped.await) });
        });
        Ok(Self { server, nodes, stop: Some(stop), thread: Some(thread) })
    }

    /// The node has a record from now on: `base.shop.test`.
    fn has(&self, base: &str, node: &Daemon) {
        let (ip, port) = node.address().rsplit_once(':').map(split).unwrap();
        self.nodes.lock().unwrap().push((format!("{base}.shop.test."), ip, port));
    }

    fn has_nobody(&self) {
        self.nodes.lock().unwrap().clear();
    }

    fn asked(&self) -> usize {
        self.server.asked().len()
    }
}

fn split((ip, port): (&str, &str)) -> (String, u16) {
    (ip.to_owned(), port.parse().unwrap())
}

impl Drop for Zone {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn nodes_behind_srv_records_meet_and_an_empty_zone_parts_nobody() {
    let zone = Zone::start(None).unwrap();
    let place = Place::new();
    let server = zone.server.address;
    let url = format!("dns://_mesh._tcp.shop.test.?server={server}&interval=100ms&hold=200ms");
    let strategy = ["--strategy", url.as_str()];
    let a = place.start("a", &strategy);
    let b = place.start("b", &strategy);
    // Nobody is in the zone yet, and both are told so.
    let unwell = |node: &Daemon| {
        let diagnosis = node.json().ok(json!({"op": "doctor"}));
        let strategy = diagnosis["diagnosis"]["strategies"][0].clone();
        strategy["health"] == "unwell" && strategy["reason"].to_string().contains("_mesh._tcp")
    };
    eventually("a is told of an empty zone", || unwell(&a));
    zone.has("a", &a);
    zone.has("b", &b);
    a.json().meets(&[&b]);
    b.json().meets(&[&a]);
    let mut app = a.json();
    app.ok(json!({"op": "monitor_nodes", "on": true}));
    // At once for the one that dialled, for the other when it has seen the record too.
    eventually("the record is known as the source", || {
        let sources = app.ok(json!({"op": "peers"}))["peers"].to_string();
        sources.contains("dns _mesh._tcp.shop.test: b.shop.test")
    });
    zone.has_nobody();
    let asked = zone.asked();
    eventually("the empty zone was asked for again", || zone.asked() > asked + 8);
    zone.has("a", &a);
    let c = place.start("c", &strategy);
    c.json().meets(&[&a, &b]);
    assert_eq!(app.event_of("nodeup")["node"], c.node);
    assert!(app.pending().iter().all(|event| event["ev"] != "nodedown"));
}

#[test]
fn nodes_behind_one_name_with_many_addresses_meet_at_its_port() {
    let zone = Zone::start(None).unwrap();
    let place = Place::new();
    let a = place.start("a", &["--strategy", "none", "--listen", "127.0.17.1:0"]);
    let port = a.address().rsplit_once(':').unwrap().1.to_owned();
    zone.has("a", &a);
    let server = zone.server.address;
    let url = format!("dns://shop.test.:{port}?server={server}&interval=100ms");
    let start = |base: &str, ip: &str| {
        let listen = format!("{ip}:{port}");
        let node = place.start(base, &["--strategy", &url, "--listen", &listen]);
        zone.has(base, &node);
        node
    };
    let (b, c) = (start("b", "127.0.17.2"), start("c", "127.0.17.3"));
    b.json().meets(&[&a, &c]);
    c.json().meets(&[&a, &b]);
    // Each finds itself there too, and leaves it at that.
    let mut asked = b.json();
    eventually("nobody is dialled in vain", || {
        let known = asked.ok(json!({"op": "peers"}));
        known["peers"].as_array().unwrap().iter().all(|peer| peer["state"] != "wanted")
    });
}

/// A node of a machine whose own resolver reads nothing but `/etc/hosts`: as in a program that is linked statically.
fn without_a_resolver(place: &Place, resolv_conf: &str, base: &str, strategy: &str) -> Daemon {
    let args = ["--strategy", strategy];
    let plain = place.command(base, &args);
    let files = [("resolv.conf", resolv_conf), ("nsswitch.conf", "hosts: files\n")];
    let mut script = String::from("set -e\n");
    for (name, text) in files {
        let file = place.path().join(name);
        fs::write(&file, text).unwrap();
        writeln!(script, "mount --bind {} /etc/{name}", file.display()).unwrap();
    }
    script.push_str("exec \"$@\"");
    let mut command = Command::new("/usr/bin/env");
    command.args(["unshare", "-m", "sh", "-c", &script, "sh"]).arg(plain.get_program());
    command.args(plain.get_args()).current_dir(place.path()).env_clear();
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    for (name, value) in plain.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    place.run(base, &args, command)
}

#[test]
fn names_are_asked_of_the_name_servers_where_the_systems_own_resolver_finds_none() {
    let ip = format!("127.53.{}.9", std::process::id() % 250 + 1);
    let zone = match Zone::start(Some(&format!("{ip}:53"))) {
        Ok(zone) => zone,
        Err(why) => return println!("SKIPPED: no name server may be put at {ip}:53: {why}"),
    };
    let mounts = ["-m", "sh", "-c", "mount --bind /etc/nsswitch.conf /etc/nsswitch.conf"];
    match Command::new("unshare").args(mounts).output() {
        Ok(done) if done.status.success() => {}
        other => return println!("SKIPPED: nothing can be mounted here: {other:?}"),
    }
    let place = Place::new();
    let a = place.start("a", &["--strategy", "none"]);
    zone.has("a", &a);
    let port = a.address().rsplit_once(':').unwrap().1.to_owned();
    // The name is completed as the file says.
    let conf = format!("search shop.test\nnameserver {ip}\n");
    let listed = without_a_resolver(&place, &conf, "listed", &format!("list://a:{port}"));
    listed.json().meets(&[&a]);
    let asks = without_a_resolver(&place, &conf, "asks", "none");
    assert_eq!(asks.json().ok(json!({"op": "connect", "to": format!("a:{port}")}))["result"], true);

    #[cfg(feature = "kubernetes")]
    {
        let kubeconfig = "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
                          clusters: [{name: a, cluster: {server: 'https://127.0.0.1:1'}}]\n\
                          users: [{name: a, user: {token: x}}]\n\
                          contexts: [{name: a, context: {cluster: a, user: a, namespace: shop}}]\n";
        fs::write(place.path().join("kubeconfig"), kubeconfig).unwrap();
        let url = format!("kubernetes://?service=web&kubeconfig=kubeconfig&dns=a:{port}");
        let pod = without_a_resolver(&place, &conf, "pod", &url);
        pod.json().meets(&[&a]);
        let sources = pod.json().ok(json!({"op": "peers"}))["peers"].to_string();
        assert!(sources.contains("dns a"), "{sources}");
    }
}
