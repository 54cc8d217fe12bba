//! Nodes whose certificates are issued while they run, by an issuer that is not there at first.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair,
    SanType,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::support::{Daemon, Place, Value, eventually, json};

const HOUR: Duration = Duration::from_secs(3600);

/// Issues to everybody what he asks for: whose token it is, is what the injector is tested for.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
    /// How long what it issues is good.
    life: Duration,
    /// Whether it answers.
    there: Arc<AtomicBool>,
}

impl Authority {
    fn new(life: Duration) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let there = Arc::new(AtomicBool::new(true));
        Self { params, key: KeyPair::generate().unwrap(), life, there }
    }

    fn pem(&self) -> String {
        self.params.self_signed(&self.key).unwrap().pem()
    }

    fn issue(&self, csr: &str) -> String {
        let request = CertificateSigningRequestParams::from_pem(csr).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = request.params.subject_alt_names;
        params.not_after = rcgen::date_time_ymd(1970, 1, 1)
            + SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
            + self.life;
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(&request.public_key, &issuer).unwrap().pem()
    }

    /// Answers at this address for as long as the test runs.
    fn serve(self, at: SocketAddr) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress(at.ip())];
        let issuer = Issuer::from_params(&self.params, &self.key);
        let leaf = params.signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
        let (listener, config) = (TcpListener::bind(at).unwrap(), Arc::new(config));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if !self.there.load(Ordering::Relaxed) {
                    continue;
                }
                let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
                let mut stream = StreamOwned::new(connection, stream.unwrap());
                let (mut heard, mut piece) = (Vec::new(), [0; 4096]);
                let asked: Value = loop {
                    let Ok(count @ 1..) = stream.read(&mut piece) else { break Value::Null };
                    heard.extend_from_slice(&piece[..count]);
                    let text = String::from_utf8_lossy(&heard);
                    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
                    if let Ok(asked) = serde_json::from_str(body) {
                        break asked;
                    }
                };
                let Some(csr) = asked["csr"].as_str() else { continue };
                let answer =
                    json!({"certificate": self.issue(csr), "anchors": self.pem()}).to_string();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", answer.len());
                let _ = stream.write_all((head + &answer).as_bytes());
                let _ = stream.flush();
            }
        });
    }
}

fn start(place: &Place, base: &str, at: SocketAddr, anchor: &str) -> Daemon {
    let token: PathBuf = place.path().join("token");
    std::fs::write(&token, "a.token").unwrap();
    let url = format!("https://{at}/v1/certificate");
    let token = token.to_str().unwrap();
    place.start(base, &["--issuer", &url, "--issuer-ca", anchor, "--issuer-token", token])
}

fn issued(daemon: &Daemon) -> Value {
    daemon.json().ask(json!({"op": "doctor"}))["diagnosis"]["issued"].take()
}

#[test]
fn a_node_without_its_certificate_serves_its_apps_joins_nobody_and_joins_when_the_issuer_is_there()
{
    let (place, authority) = (Place::new(), Authority::new(HOUR));
    let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let anchor = authority.pem();
    let (a, b) = (start(&place, "a", at, &anchor), start(&place, "b", at, &anchor));
    eventually("it says why", || issued(&a)["trouble"].is_string());
    let trouble = issued(&a);
    assert!(trouble["ends_ms"].is_null(), "{trouble}");
    let why = trouble["trouble"].as_str().unwrap();
    assert!(why.contains("cannot be reached") && why.contains(&at.to_string()), "{why}");
    // Its apps talk to each other.
    let (mut one, mut two) = (a.json(), a.json());
    two.ask(json!({"op": "register", "name": "two"}));
    one.ask(json!({"op": "send", "to": "two", "body": 1}));
    two.event_of("message");
    eventually("it knows of the other", || {
        let explained = one.ask(json!({"op": "explain", "node": b.node}));
        let because = explained["explanation"]["because"].to_string();
        because.contains("This node has no certificate, so it joins nobody")
    });
    assert_eq!(one.ask(json!({"op": "nodes", "state": "connected"}))["nodes"], json!([]));

    authority.serve(at);
    for (from, to) in [(&a, &b), (&b, &a)] {
        eventually("they join", || {
            let nodes = from.json().ask(json!({"op": "nodes", "state": "connected"}));
            nodes["nodes"][0]["node"] == to.node.as_str()
        });
        assert!(issued(from)["ends_ms"].is_u64());
    }
}

#[test]
fn a_node_whose_certificate_has_ended_stays_ready_with_its_connections_and_says_since_when() {
    let (place, authority) = (Place::new(), Authority::new(Duration::from_secs(6)));
    let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (anchor, there) = (authority.pem(), Arc::clone(&authority.there));
    authority.serve(at);
    let (a, b) = (start(&place, "a", at, &anchor), start(&place, "b", at, &anchor));
    let connected = |from: &Daemon, to: &Daemon| from.json().connected() == [to.node.clone()];
    eventually("they join", || connected(&a, &b) && connected(&b, &a));
    let mut watch = a.json();
    watch.ask(json!({"op": "monitor_nodes", "on": true}));
    there.store(false, Ordering::Relaxed);
    eventually("it has ended", || issued(&a)["ended_ms"].is_u64());
    let ended = issued(&a);
    assert!(ended["ends_ms"].is_null() && ended["trouble"].is_string(), "{ended}");
    assert_eq!(a.json().ask(json!({"op": "ready"}))["ready"], true);
    assert!(connected(&a, &b) && connected(&b, &a));
    assert!(a.logged().contains("has ended: it stays connected"), "{}", a.logged());
    there.store(true, Ordering::Relaxed);
    eventually("there is another one", || issued(&a)["ends_ms"].is_u64());
    assert!(issued(&a)["ended_ms"].is_null());
    watch.nothing();
}
