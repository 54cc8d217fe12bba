//! Nodes and sessions: who is there, who came back.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::support::{Pair, Paper};
use crate::router::Limits;
use crate::router::nodes::MeshRequest;
use crate::wire::pod::Pod;

#[test]
fn nodeup_comes_before_anything_of_the_connection_and_nodedown_after_all_of_it() {
    let mut pair = Pair::new();
    let (app, other) = (pair.a.open(), pair.b.open());
    pair.cut();
    pair.a.ask(app, json!({"op": "monitor_nodes", "on": true}));
    let me = pair.a.self_pid(app);
    pair.join();
    let theirs = pair.b.self_pid(other);
    pair.a.ask(app, json!({"op": "monitor", "to": theirs}));
    pair.b.ask(other, json!({"op": "send", "to": me, "body": "hello"}));
    pair.carry();
    pair.cut();
    let events: Vec<_> = pair.a.events(app).iter().map(|event| event["ev"].clone()).collect();
    assert_eq!(events, ["nodeup", "message", "down", "nodedown"]);
}

#[test]
fn the_list_of_nodes_agrees_with_the_events() {
    let mut pair = Pair::new();
    let app = pair.a.open();
    let listed = |pair: &mut Pair| {
        let answer = pair.a.ask(app, json!({"op": "nodes", "state": "connected"}));
        answer["nodes"].as_array().expect("nodes").len()
    };
    assert_eq!(listed(&mut pair), 1);
    pair.cut();
    assert_eq!(listed(&mut pair), 0);
}

#[test]
fn a_node_is_monitored_once_for_each_time() {
    let mut pair = Pair::new();
    let app = pair.a.open();
    let name = pair.b.name();
    for _ in 0..3 {
        pair.a.ask(app, json!({"op": "monitor_node", "node": name}));
    }
    pair.a.ask(app, json!({"op": "monitor_node", "node": name, "on": false}));
    pair.cut();
    assert_eq!(pair.a.events(app).len(), 2);
    pair.a.ask(app, json!({"op": "monitor_node", "node": name}));
    assert_eq!(pair.a.events(app)[0]["reason"], "noconnection");
}

#[test]
fn a_ping_of_a_node_that_is_not_connected_connects_for_an_operator_only() {
    let mut pair = Pair::new();
    let (operator, other) = (pair.a.open(), pair.a.open_as(false));
    let b = pair.b.name();
    let ping = json!({"op": "ping", "node": b});
    assert_eq!(pair.ask_across(other, ping.clone())["result"], "pong");
    pair.cut();
    assert_eq!(pair.a.ask(other, ping.clone())["result"], "pang");
    assert!(pair.a.out.requests.is_empty(), "{:?}", pair.a.out.requests);
    pair.a.tell(operator, &json!({"op": "ping", "node": b, "id": 1}));
    let connect = pair.a.out.requests.pop_front();
    assert!(matches!(connect, Some(MeshRequest::Connect { to, .. }) if to == b));
}

#[test]
fn of_a_large_node_that_restarts_the_end_is_told_before_the_new_run() {
    const MONITORS: usize = 3000;
    let mut pair = Pair::new();
    let (app, other) = (pair.a.open(), pair.b.open());
    pair.a.ask(app, json!({"op": "monitor_nodes", "on": true}));
    let theirs = pair.b.self_pid(other);
    for _ in 0..MONITORS {
        pair.a.ask(app, json!({"op": "monitor", "to": theirs}));
    }
    pair.carry();
    let old = pair.connection();
    pair.a.router.on_peer_down(pair.a.now, old, "connection lost", &mut pair.a.out);
    // The new run is there while the work that the old one left goes on in slices.
    assert!(pair.a.router.next_deadline(pair.a.now) == Some(pair.a.now), "there is work left");
    pair.b = Paper::with("b", 2, Limits::default());
    pair.join();
    let events = pair.a.events(app);
    assert_eq!(events.len(), MONITORS + 2);
    let told = |event: &serde_json::Value| (event["ev"].clone(), event["incarnation"].clone());
    let run = |number: u64| json!(format!("{number:016x}"));
    assert!(events[..MONITORS].iter().all(|event| event["ev"] == "down"));
    assert_eq!(told(&events[MONITORS]), (json!("nodedown"), run(1)));
    assert_eq!(told(&events[MONITORS + 1]), (json!("nodeup"), run(2)));
}

#[test]
fn a_session_with_a_grace_is_taken_up_again_and_told_what_was_lost() {
    let mut node = Paper::new("a");
    let (app, other) = (node.open(), node.open());
    let welcome = {
        node.tell(app, &json!({"op": "hello", "grace_ms": 1000}));
        node.events(app).remove(0)
    };
    assert_eq!(welcome["commands"], 1);
    let me = node.self_pid(app);
    node.ask(other, json!({"op": "send", "to": me, "body": "written, never read"}));
    node.close(app);
    node.ask(other, json!({"op": "send", "to": me, "body": "kept"}));
    let again = node.open();
    let resume = json!({"session": app, "secret": welcome["secret"], "seen": 2});
    node.tell(again, &json!({"op": "hello", "id": 77, "resume": resume}));
    let mut events = node.events(app);
    assert_eq!(events[0]["ev"], "welcome");
    assert_eq!(events[0]["pid"], json!(me));
    assert_eq!(events[0]["commands"], 3);
    assert_eq!(events.remove(1), json!({"ev": "ok", "id": 77}));
    assert_eq!(events[1], json!({"ev": "gap", "lost": 1, "reason": "resumed"}));
    assert_eq!(events[2]["body"], "kept");
}

#[test]
fn a_session_of_a_pod_is_taken_up_by_apps_of_that_pod_only_whoever_knows_its_secret() {
    let mut node = Paper::new("a");
    let pod = |namespace: &str| {
        Arc::new(Pod {
            namespace: namespace.into(),
            name: "cart-0".into(),
            account: "till".into(),
            app: "cart".into(),
        })
    };
    let open = |node: &mut Paper, namespace: Option<&str>| {
        let session = node.open_as(false);
        if let Some(namespace) = namespace {
            node.hold(|router, _, _| router.on_session_of_pod(session, pod(namespace)));
        }
        session
    };
    let app = open(&mut node, Some("shop"));
    node.tell(app, &json!({"op": "hello", "grace_ms": 1000}));
    let welcome = node.events(app).remove(0);
    let shown = node.ask(app, json!({"op": "info", "keys": ["pod", "service_account", "label"]}));
    let expected = json!({"pod": "shop/cart-0", "service_account": "till", "label": "cart"});
    assert_eq!(shown["info"], expected);
    node.close(app);
    let resume = json!({"session": app, "secret": welcome["secret"], "seen": 3});
    let hello = json!({"op": "hello", "id": 77, "resume": resume});
    for other in [Some("other"), None] {
        let thief = open(&mut node, other);
        node.tell(thief, &hello);
        assert_eq!(node.events(thief)[0]["code"], "not_found");
    }
    let again = open(&mut node, Some("shop"));
    node.tell(again, &hello);
    assert_eq!(node.events(app)[0]["ev"], "welcome");
}

#[test]
fn a_session_that_is_taken_up_by_no_operator_hears_no_deaths_any_more() {
    let mut node = Paper::new("a");
    let (app, other) = (node.open(), node.open());
    node.tell(app, &json!({"op": "hello", "grace_ms": 60_000}));
    node.ask(app, json!({"op": "monitor_deaths"}));
    node.close(app);
    let again = node.open_as(false);
    let resume = json!({"session": app, "secret": "secret", "seen": 2});
    node.tell(again, &json!({"op": "hello", "resume": resume}));
    assert_eq!(node.ask(app, json!({"op": "monitor_deaths"}))["code"], "denied");
    node.events(app);
    let pid = node.ask(other, json!({"op": "spawn"}))["pid"].clone();
    node.ask(other, json!({"op": "exit", "pid": pid}));
    assert_eq!(node.events(app), Vec::<serde_json::Value>::new());
}

#[test]
fn a_session_is_not_taken_up_with_a_wrong_secret_or_after_its_grace() {
    let mut node = Paper::new("a");
    let app = node.open();
    node.tell(app, &json!({"op": "hello", "grace_ms": 1000}));
    node.close(app);
    let stranger = node.open();
    let resume = json!({"session": app, "secret": "guess", "seen": 0});
    assert_eq!(node.ask(stranger, json!({"op": "hello", "resume": resume}))["code"], "not_found");
    node.pass(Duration::from_secs(2));
    let late = node.open();
    let resume = json!({"session": app, "secret": "secret", "seen": 0});
    assert_eq!(node.ask(late, json!({"op": "hello", "resume": resume}))["code"], "not_found");
}

#[test]
fn a_word_that_is_no_command_names_the_nearest_one() {
    let mut node = Paper::new("a");
    let app = node.open();
    let answer = node.ask(app, json!({"op": "regsiter"}));
    assert_eq!(answer["code"], "badop");
    assert!(answer["message"].as_str().is_some_and(|text| text.contains("`register`")));
    assert_eq!(node.ask(app, json!({"op": "send"}))["code"], "badarg");
    assert_eq!(node.ask(app, json!({"op": "ping", "node": "not a node"}))["code"], "badarg");
}

#[test]
fn a_label_that_a_node_learns_after_its_hello_is_told_and_counts_more_than_what_is_known_of_it() {
    let mut pair = Pair::new();
    let app = pair.a.open();
    let labels = |pair: &mut Pair| {
        pair.carry();
        let nodes = pair.a.ask(app, json!({"op": "nodes", "state": "connected"}));
        nodes["nodes"][0]["labels"].clone()
    };
    assert_eq!(labels(&mut pair), json!({}));
    let of = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    pair.b.hold(|router, _, out| router.on_own_labels(of(&[("zone", "north")]), out));
    assert_eq!(labels(&mut pair), json!({"zone": "north"}));
    let name = pair.b.name().parse().expect("a name");
    pair.a.hold(|router, _, _| {
        router.on_labels(&name, of(&[("zone", "guessed"), ("role", "shop")]));
    });
    assert_eq!(labels(&mut pair), json!({"zone": "north", "role": "shop"}));
    // A node that joins later is told as well, and what is taken back is gone.
    pair.cut();
    pair.join();
    assert_eq!(labels(&mut pair), json!({"zone": "north"}));
    pair.b.hold(|router, _, out| router.on_own_labels(of(&[]), out));
    assert_eq!(labels(&mut pair), json!({}));
}
