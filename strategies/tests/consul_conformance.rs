//! `consul` keeps the promises of every strategy, with a server of the test's own over HTTP and TLS, and finds what a real
//! Consul knows where there is one. What takes hours is tested beside the strategy, with answers from memory.

#![cfg(feature = "consul")]

#[path = "consul/server.rs"]
mod server;

use std::any::Any;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pillion_strategies::conformance::{Fault, PATIENCE, Place, announcement};
use pillion_strategies::{Announcement, Health, Report, Reporter, Strategy, Surroundings, build};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::server::{Server, State};

/// A Consul of its own: a node is visible while its port is in it.
struct Catalog(Server);

struct Planted(Arc<watch::Sender<State>>, u16);

impl Drop for Planted {
    fn drop(&mut self) {
        self.0.send_modify(|state| {
            state.ports.remove(&self.1);
            state.index += 1;
        });
    }
}

impl Catalog {
    async fn new() -> Result<Self, String> {
        Ok(Self(Server::start(None).await))
    }
}

impl Place for Catalog {
    fn strategy(&self) -> Box<dyn Strategy> {
        strategy(&format!("consul://pillion?url=http://{}&wait=1s", self.0.address))
    }

    fn plant(&self, announcement: &Announcement) -> Option<Box<dyn Any + Send>> {
        let port = announcement.listen[0].port();
        self.0.change(|state| _ = state.ports.insert(port));
        Some(Box::new(Planted(Arc::clone(&self.0.state), port)))
    }

    fn spoil(&self) {
        self.0.change(|state| {
            state.rubbish =
                r#",{"Node":{"Node":"\u001b[2J","Address":""},"Service":{"Address":"","Port":0}}
                ,{"Node":{"Node":"x","Address":"0.0.0.0"},"Service":{"Address":"","Port":1}}
                ,{"Node":{"Node":"y","Address":"no such host"},"Service":{}}"#
                    .to_owned();
        });
    }

    fn fault(&self, fault: Fault) -> bool {
        self.0.change(|state| state.fault = Some(fault));
        true
    }

    fn mend(&self) {
        self.0.change(|state| state.fault = None);
    }
}

pillion_strategies::conformance!(Catalog::new().await);

fn strategy(url: &str) -> Box<dyn Strategy> {
    let surroundings = Surroundings {
        registry: PathBuf::new(),
        interval: Duration::from_secs(1),
        ..Surroundings::default()
    };
    build(url, &surroundings).expect("consul")
}

/// A strategy that runs.
struct Run {
    reports: watch::Receiver<Report>,
    _task: JoinSet<()>,
}

impl Run {
    fn of(url: &str) -> Self {
        let strategy = strategy(url);
        let (reporter, reports) = Reporter::new();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let ended = strategy.run(announcement(1), &reporter).await;
            panic!("it ended: {ended:?}");
        });
        Self { reports, _task: task }
    }

    async fn sees(&mut self, what: &str, holds: impl Fn(&Report) -> bool) -> Report {
        let found = timeout(PATIENCE, self.reports.wait_for(|report| holds(report))).await;
        match found.map(|report| report.expect("alive").clone()) {
            Ok(report) => report,
            Err(_) => panic!("never {what}; the last is {:?}", *self.reports.borrow()),
        }
    }
}

fn addresses(report: &Report) -> Vec<String> {
    report.sightings.iter().flat_map(|s| &s.addresses).map(ToString::to_string).collect()
}

fn says(report: &Report, words: &str) -> bool {
    matches!(&report.health, Health::Unwell(why) if why.contains(words))
}

#[tokio::test]
async fn the_catalog_is_asked_with_datacenter_tags_and_a_port_of_its_own() {
    let server = Server::start(None).await;
    server.change(|state| _ = state.ports.insert(5));
    let mut run = Run::of(&format!(
        "consul://my-mesh?url=http://{}/sub/&using=catalog&dc=eu&tag=a,b&port=99&wait=1s",
        server.address
    ));
    run.sees("an address", |r| addresses(r) == ["127.0.0.1:99"]).await;
    let first = server.requests().remove(0);
    assert!(
        first.starts_with("GET /sub/v1/catalog/service/my-mesh?dc=eu&tag=a&tag=b HTTP/1.1\r\n"),
        "{first}"
    );
    let mut run = Run::of(&format!("consul://x?url=http://{}&using=catalog", server.address));
    let report = run.sees("an address", |r| addresses(r) == ["127.0.0.1:5"]).await;
    assert_eq!(report.sightings[0].source, "consul x on n5");
}

#[tokio::test]
async fn a_token_is_given_and_one_that_comes_into_its_file_later_is_used() {
    let server = Server::start(None).await;
    server.change(|state| {
        state.ports.insert(5);
        state.token = Some("s3cret".into());
    });
    let mut run = Run::of(&format!("consul://pillion?url=http://{}&token=s3cret", server.address));
    run.sees("an address", |r| addresses(r) == ["127.0.0.1:5"]).await;
    let file = std::env::temp_dir().join(format!("pillion-consul-{}", std::process::id()));
    let url = format!("consul://pillion?url=http://{}&token-file=", server.address);
    let mut run = Run::of(&format!("{url}{}", file.display()));
    run.sees("the missing file", |r| says(r, "token file")).await;
    std::fs::write(&file, "wr0ng\n").expect("written");
    let report = run.sees("the refusal", |r| says(r, "403")).await;
    assert!(says(&report, "policy = \"read\"") && !says(&report, "wr0ng"), "{report:?}");
    std::fs::write(&file, "s3cret\n").expect("written");
    run.sees("an address", |r| addresses(r) == ["127.0.0.1:5"]).await;
    std::fs::remove_file(&file).expect("removed");
}

#[tokio::test]
async fn https_believes_the_given_roots_and_nobody_else() {
    let made = |name: &str| {
        rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate")
    };
    let (own, other) = (made("localhost"), made("localhost"));
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .expect("a certificate with its key");
    let server = Server::start(Some(Arc::new(config))).await;
    server.change(|state| _ = state.ports.insert(5));
    let dir = std::env::temp_dir().join(format!("pillion-consul-tls-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let (good, bad) = (dir.join("good.pem"), dir.join("bad.pem"));
    std::fs::write(&good, own.cert.pem()).expect("written");
    std::fs::write(&bad, other.cert.pem()).expect("written");
    let url = |ca: &std::path::Path| {
        let port = server.address.port();
        format!("consul://pillion?url=https://localhost:{port}&ca={}", ca.display())
    };
    let mut run = Run::of(&url(&good));
    run.sees("an address", |r| addresses(r) == ["127.0.0.1:5"]).await;
    let mut run = Run::of(&url(&bad));
    run.sees("the stranger refused", |r| says(r, "no TLS") && says(r, "certificate")).await;
    let _ = std::fs::remove_dir_all(&dir);
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_told_by_its_address_and_found_when_it_comes() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("it has one");
    drop(free);
    let mut run = Run::of(&format!("consul://pillion?url=http://{address}"));
    run.sees("the refusal", |r| says(r, &address.to_string()) && says(r, "agent runs")).await;
    let Ok(listener) = TcpListener::bind(address).await else {
        return println!("SKIPPED: somebody else took the port meanwhile");
    };
    // What answers there is no Consul.
    let mut task = JoinSet::new();
    task.spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { continue };
            let _ = stream.write_all(b"SSH-2.0-x\r\n\r\n").await;
        }
    });
    run.sees("nonsense", |r| says(r, "connection to Consul broke")).await;
}

/// A real agent, in memory and alone.
struct Agent {
    child: Child,
    address: SocketAddr,
}

impl Agent {
    fn start() -> Result<Self, String> {
        let free = || {
            let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            free.local_addr().expect("it has one")
        };
        let (address, serf, server) = (free(), free().port(), free().port());
        let ports = format!(
            "ports {{ http = {} dns = -1 grpc = -1 serf_lan = {serf} serf_wan = -1 server = {server} }}",
            address.port()
        );
        let child = Command::new("consul")
            .args(["agent", "-dev", "-node=t", "-bind=127.0.0.1", "-hcl", &ports])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("there is no consul here ({error})"))?;
        Ok(Self { child, address })
    }

    async fn put(&self, path: &str, body: &str) -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(self.address).await?;
        let request = format!(
            "PUT {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer.starts_with("HTTP/1.1 200"))
    }

    async fn register(&self, id: &str, port: u16) {
        let body = format!(
            r#"{{"Name":"pillion","ID":"{id}","Address":"127.0.0.1","Port":{port},"Check":{{"TTL":"1h","Status":"passing"}}}}"#
        );
        let registered = async {
            while !matches!(self.put("/v1/agent/service/register", &body).await, Ok(true)) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(PATIENCE, registered).await.expect("registered in time");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn instances_that_come_and_go_in_a_real_consul_are_seen() {
    let agent = match Agent::start() {
        Ok(agent) => agent,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    agent.register("a", 5001).await;
    for using in ["health", "catalog"] {
        let url = format!("consul://pillion?url=http://{}&using={using}", agent.address);
        let mut run = Run::of(&url);
        run.sees("the first", |r| addresses(r) == ["127.0.0.1:5001"]).await;
        agent.register("b", 5002).await;
        run.sees("both", |r| addresses(r) == ["127.0.0.1:5001", "127.0.0.1:5002"]).await;
        assert!(agent.put("/v1/agent/service/deregister/b", "").await.expect("an answer"));
        run.sees("the first again", |r| addresses(r) == ["127.0.0.1:5001"]).await;
    }
    let mut run = Run::of(&format!("consul://pillion?url=http://{}", agent.address));
    run.sees("the first", |r| addresses(r) == ["127.0.0.1:5001"]).await;
    assert!(agent.put("/v1/agent/check/fail/service:a", "").await.expect("an answer"));
    run.sees("nobody who passes", |r| addresses(r).is_empty()).await;
    assert!(agent.put("/v1/agent/check/pass/service:a", "").await.expect("an answer"));
    run.sees("the first again", |r| addresses(r) == ["127.0.0.1:5001"]).await;
    drop(agent);
    let report = run.sees("its end", |r| says(r, "Consul")).await;
    assert_eq!(addresses(&report), ["127.0.0.1:5001"]);
}
