//! Probes and metrics over HTTP, as kubelets and collectors ask for them, and as people of ill will do.

#![allow(clippy::float_cmp, reason = "they are whole numbers, which the format writes as they are")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use crate::support::{App, Daemon, PATIENCE, Place, eventually, json};

/// What `--health` listens on, as the node says in its log.
fn address(daemon: &Daemon) -> String {
    const BEFORE: &str = "probes and metrics on http://";
    let said = || {
        let log = daemon.logged();
        let (_, rest) = log.rsplit_once(BEFORE)?;
        Some(rest.split_whitespace().next()?.to_owned())
    };
    eventually("the health port", || said().is_some());
    said().unwrap()
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The status and the body of the answer to these bytes, and all of it.
fn say(address: &str, request: &str) -> (u16, String, String) {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
    (status.unwrap_or_else(|| panic!("{answer}")), body, answer)
}

fn get(address: &str, path: &str, accept: &str) -> (u16, String, String) {
    let head =
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept: {accept}\r\n");
    say(address, &format!("{head}\r\n"))
}

fn probe(address: &str, path: &str) -> (u16, String) {
    let (status, body, _) = get(address, path, "*/*");
    (status, body)
}

/// Every sample, by its name and labels.
fn scrape(address: &str) -> BTreeMap<String, f64> {
    let (status, body, _) = get(address, "/metrics", "*/*");
    assert_eq!(status, 200, "{body}");
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.map(|line| line.rsplit_once(' ').expect("a value"));
    samples.map(|(name, value)| (name.to_owned(), value.parse().expect("a number"))).collect()
}

const HEALTH: [&str; 2] = ["--health", "127.0.0.1:0"];

#[test]
fn probes_follow_the_node_from_its_start_to_its_end() {
    let place = Place::new();
    let a = place.start("a", &[&HEALTH[..], &["--min-peers", "1"]].concat());
    let at = address(&a);
    assert_eq!(probe(&at, "/startupz"), (200, "ok\n".to_owned()));
    assert_eq!(probe(&at, "/livez"), (200, "ok\n".to_owned()));
    eventually("not ready because it is alone", || {
        let (status, body) = probe(&at, "/readyz");
        assert_eq!(status, 503, "{body}");
        body.starts_with("few_peers: 0 of the 1 nodes")
    });
    let b = place.start("b", &HEALTH);
    eventually("ready", || probe(&at, "/readyz").0 == 200);
    assert_eq!(scrape(&at)["pillion_ready"], 1.0);
    drop(b);
    eventually("nobody is connected", || scrape(&at)["pillion_peers{state=\"connected\"}"] == 0.0);
    assert_eq!(probe(&at, "/readyz").0, 200, "a gate, not a gauge");
    a.json().ok(json!({"op": "drain"}));
    let (status, body) = probe(&at, "/readyz");
    assert_eq!(status, 503);
    assert!(body.starts_with("draining: "), "{body}");
    for path in ["/startupz", "/livez"] {
        assert_eq!(probe(&at, path).0, 200, "a node that drains is alive: {path}");
    }
    let samples = scrape(&at);
    assert_eq!((samples["pillion_ready"], samples["pillion_draining"]), (0.0, 1.0));
}

#[test]
fn a_node_that_cannot_serve_probes_says_so_and_does_not_start() {
    let place = Place::new();
    let a = place.start("a", &HEALTH);
    let at = address(&a);
    let (status, said) = place.refused("b", &["--health", &at]);
    assert_eq!(status.code(), Some(73), "{said}");
    assert!(said.contains(&format!("cannot serve probes and metrics on {at}: ")), "{said}");
    let (status, said) = place.refused("b", &["--health", "nonsense:port"]);
    assert_eq!(status.code(), Some(64), "{said}");
    assert!(said.contains("--health"), "{said}");
    let every = place.start("every", &["--health", "[::]:0"]);
    let (_, port) =
        address(&every).rsplit_once(':').map(|(h, p)| (h.to_owned(), p.to_owned())).unwrap();
    assert_eq!(
        probe(&format!("127.0.0.1:{port}"), "/livez").0,
        200,
        "every interface is both families"
    );
}

#[test]
fn metrics_move_by_what_was_done_and_by_nothing_else() {
    let place = Place::new();
    let a = place.start("a", &HEALTH);
    let at = address(&a);
    let before = scrape(&at);
    let moved = |name: &str| {
        let now = scrape(&at);
        now[name] - before.get(name).copied().unwrap_or(0.0)
    };
    let mut stock = a.cbor();
    stock.ok(json!({"op": "register", "name": "stock"}));
    let mut shop = a.json();
    for number in 0..10 {
        shop.send("stock", json!(number));
    }
    for number in 0..10 {
        assert_eq!(stock.body(), json!(number));
    }
    stock.ok(json!({"op": "subscribe", "topic": "shop.>"}));
    shop.ok(json!({"op": "publish", "topic": "shop.open", "body": 1}));
    stock.event_of("message");
    for _ in 0..3 {
        let id = shop.begin(json!({"op": "call", "to": "stock", "body": 1}));
        let call = stock.event_of("call");
        stock.reply(&call, json!(2));
        assert_eq!(shop.answer(id)["ev"], "ok");
    }
    assert_eq!(shop.code(json!({"op": "call", "to": "nobody", "body": 1})), "noproc");
    let small = stock.spawn(json!({"delivery": "pull", "mailbox": {"entries": 2}}));
    for number in 0..5 {
        shop.send(&small, json!(number));
    }
    shop.ok(json!({"op": "self"}));

    assert_eq!(moved("pillion_arrivals_total{kind=\"message\"}"), 15.0);
    assert_eq!(moved("pillion_arrivals_total{kind=\"topic\"}"), 1.0);
    assert_eq!(moved("pillion_arrivals_total{kind=\"call\"}"), 3.0);
    assert_eq!(moved("pillion_messages_lost_total{reason=\"overflow\"}"), 3.0);
    assert_eq!(moved("pillion_calls_total{end=\"ok\"}"), 3.0);
    assert_eq!(moved("pillion_calls_total{end=\"noproc\"}"), 1.0);
    assert_eq!(moved("pillion_call_duration_seconds_count"), 3.0);
    assert_eq!(moved("pillion_call_duration_seconds_bucket{le=\"+Inf\"}"), 3.0);
    assert_eq!(moved("pillion_app_connections"), 2.0);
    assert_eq!(moved("pillion_sessions"), 2.0);
    assert_eq!(moved("pillion_processes"), 3.0);
    assert_eq!(moved("pillion_names"), 1.0);
    assert_eq!(moved("pillion_topics"), 1.0);
    assert_eq!(moved("pillion_calls_open"), 0.0);
    let now = scrape(&at);
    assert_eq!(now["pillion_mailbox_events_most"], 3.0, "two messages and what tells of the loss");
    assert!(now["pillion_waiting_bytes{place=\"mailboxes\"}"] > 0.0);
    assert!(now["pillion_queue_bytes"] <= now["pillion_queue_bytes_max"]);
    assert!(moved("pillion_commands_total") >= 24.0);
    assert!(moved("pillion_app_bytes_total{direction=\"in\"}") > 0.0);
    assert!(moved("pillion_event_loop_lag_seconds_count") > 0.0);

    assert!(!now.keys().any(|name| name.starts_with("pillion_topic_published")), "not asked for");

    // Of the two that wait, the first one is measured once it is taken.
    let waited = moved("pillion_mailbox_wait_seconds_count");
    stock.ok(json!({"op": "receive", "pid": small, "max": 10}));
    assert_eq!(moved("pillion_mailbox_wait_seconds_count") - waited, 1.0);
    assert!(moved("pillion_mailbox_wait_seconds_sum") > 0.0);

    shop.ok(json!({"op": "kill", "to": small, "reason": "kill"}));
    eventually("the death is counted", || moved("pillion_processes_died_total") == 1.0);
    assert_eq!(moved("pillion_processes"), 2.0);
}

#[test]
fn topics_are_counted_one_by_one_where_that_is_asked_for_and_on_each_node_by_itself() {
    let place = Place::new();
    let counting = [&HEALTH[..], &["--metrics-topics", "2"]].concat();
    let (a, b) = (place.start("a", &counting), place.start("b", &counting));
    let (mut shop, mut stock) = (a.json(), b.cbor());
    shop.meets(&[&b]);
    stock.ok(json!({"op": "subscribe", "topic": "shop.>", "sync": true}));
    // Again and again goes another way than the first time; no answer is asked for.
    for number in 0..20 {
        shop.tell(json!({"op": "publish", "topic": "shop.tea", "body": number}));
    }
    for topic in ["shop.milk", "shop.bread", "other"] {
        shop.ok(json!({"op": "publish", "topic": topic, "body": 1}));
    }
    for _ in 0..22 {
        stock.event_of("message");
    }
    let count = |at: &str, topic: &str, from: &str| {
        let name = format!("pillion_topic_published_total{{topic=\"{topic}\",from=\"{from}\"}}");
        scrape(at).get(&name).copied()
    };
    let (here, there) = (address(&a), address(&b));
    assert_eq!(count(&here, "shop.tea", "here"), Some(20.0));
    assert_eq!(count(&here, "shop.milk", "here"), Some(1.0));
    assert_eq!(count(&here, "shop.bread", "here"), None, "a third one has no count of its own");
    assert_eq!(count(&here, "other", "here"), Some(2.0));
    assert_eq!(count(&there, "shop.tea", "there"), Some(20.0));
    assert_eq!(count(&there, "shop.tea", "here"), Some(0.0));
    assert_eq!(count(&there, "other", "there"), Some(1.0), "nobody there wants `other`");
}

#[test]
fn metrics_tell_of_other_nodes() {
    let place = Place::new();
    let a = place.start("a", &HEALTH);
    let b = place.start("b", &HEALTH);
    let mut app: App = a.json();
    app.meets(&[&b]);
    let (here, there) = (address(&a), address(&b));
    let samples = scrape(&here);
    assert_eq!(samples["pillion_peers{state=\"connected\"}"], 1.0);
    assert_eq!(samples["pillion_strategy_up{strategy=\"local\"}"], 1.0);
    assert!(samples["pillion_strategy_last_success_timestamp_seconds{strategy=\"local\"}"] > 1e9);
    let joined = |samples: &BTreeMap<String, f64>| -> f64 {
        let of = |way: &str| {
            let name =
                format!("pillion_peer_connections_total{{direction=\"{way}\",result=\"joined\"}}");
            samples.get(&name).copied().unwrap_or(0.0)
        };
        of("in") + of("out")
    };
    assert_eq!((joined(&samples), joined(&scrape(&there))), (1.0, 1.0));
    let frames =
        |samples: &BTreeMap<String, f64>| samples["pillion_peer_frames_total{direction=\"in\"}"];
    let before = frames(&samples);
    let mut other = b.json();
    other.ok(json!({"op": "register", "name": "inbox"}));
    app.send("inbox@b@t", json!("hello"));
    assert_eq!(other.body(), "hello");
    other.send("nobody@a@t", json!(1));
    eventually("a frame of the other node", || frames(&scrape(&here)) > before);
    drop(other);
    drop(b);
    eventually("it has gone", || {
        let samples = scrape(&here);
        samples["pillion_peers_gone_total{how=\"goodbye\"}"]
            + samples["pillion_peers_gone_total{how=\"lost\"}"]
            == 1.0
    });
}

#[test]
fn prometheus_reads_what_a_node_serves() {
    let a = Daemon::alone(&HEALTH);
    let at = address(&a);
    let asks = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    let (status, body, whole) = get(&at, "/metrics", asks);
    assert_eq!(status, 200);
    assert!(whole.contains("application/openmetrics-text; version=1.0.0"), "{whole}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    let (_, body, whole) = get(&at, "/metrics", "*/*");
    assert!(whole.contains("text/plain; version=0.0.4"), "{whole}");
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped());
    let Ok(mut child) = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() else {
        println!("SKIPPED: promtool (the package `prometheus`) cannot be run");
        return;
    };
    child.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn clients_that_are_slow_or_many_or_wrong_keep_no_probe_out() {
    let mut a = Daemon::alone(&HEALTH);
    let at = address(&a);
    // More than may be connected, each with half a request, none of which ever goes on.
    let stuck: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = connect(&at);
            let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Long: ");
            stream
        })
        .collect();
    for _ in 0..10 {
        assert_eq!(probe(&at, "/livez").0, 200);
        assert_eq!(probe(&at, "/readyz").0, 200);
    }
    drop(stuck);
    let close = "Host: x\r\nConnection: close\r\n";
    assert_eq!(
        say(&at, &format!("POST /readyz HTTP/1.1\r\n{close}Content-Length: 0\r\n\r\n")).0,
        405
    );
    assert_eq!(say(&at, &format!("GET /v1/nodes HTTP/1.1\r\n{close}\r\n")).0, 404);
    assert_eq!(say(&at, &format!("GET /debug/doctor HTTP/1.1\r\n{close}\r\n")).0, 404);
    let mut long = connect(&at);
    // It may be cut off before it has said all that.
    let _ = long.write_all(format!("GET / HTTP/1.1\r\nX: {}\r\n", "x".repeat(1 << 20)).as_bytes());
    let mut answer = Vec::new();
    let _ = long.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    let mut noise = connect(&at);
    noise.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n").unwrap();
    let _ = noise.read_to_end(&mut answer);
    assert_eq!(probe(&at, "/livez").0, 200);
    assert!(a.lives());
}
