//! The key-value process that is built in.

use std::time::Duration;

use serde_json::{Value, json};

use super::support::{Pair, Paper};
use crate::router::Limits;

fn call(body: &Value) -> Value {
    json!({"op": "call", "to": "store", "body": body})
}

fn store(node: &mut Paper) -> (u64, Value) {
    let app = node.open();
    let pid =
        node.ask(app, json!({"op": "spawn", "kind": "kv", "name": "store", "body": {"pears": 2}}))
            ["pid"]
            .clone();
    assert!(pid.is_string());
    (app, pid)
}

#[test]
fn a_store_is_set_by_cast_or_call_and_read_by_call() {
    let mut node = Paper::new("a");
    let (app, _) = store(&mut node);

    let mut ask = |body: Value| node.ask(app, call(&body))["body"].clone();
    assert_eq!(ask(json!(["get", "pears"])), 2);
    assert_eq!(ask(json!(["get", "never"])), Value::Null);
    assert_eq!(ask(json!(["set", "foo", {"bar": [1]}])), "ok");
    assert_eq!(ask(json!(["get", "foo"])), json!({"bar": [1]}));
    assert_eq!(ask(json!(["keys"])), json!(["foo", "pears"]));
    assert_eq!(ask(json!(["keys", "p"])), json!(["pears"]));
    assert_eq!(ask(json!(["delete", "foo"])), "ok");
    assert_eq!(ask(json!(["get", "foo"])), Value::Null);
    let cast = json!({"op": "cast", "to": "store", "body": ["set", "foo", "bar"]});
    assert_eq!(node.ask(app, cast)["ev"], "ok");
    assert_eq!(node.ask(app, call(&json!(["get", "foo"])))["body"], "bar");
    for wrong in [
        json!("get"),
        json!(["get"]),
        json!(["get", 1]),
        json!(["set", "a", 1, -1]),
        json!(["get", "a", "b"]),
        json!({}),
    ] {
        assert_eq!(node.ask(app, call(&wrong))["code"], "badarg", "{wrong}");
    }
    // What it does not understand it passes over.
    for op in ["send", "cast"] {
        assert_eq!(node.ask(app, json!({"op": op, "to": "store", "body": 1}))["ev"], "ok");
    }
    assert_eq!(node.ask(app, call(&json!(["get", "foo"])))["body"], "bar");
}

#[test]
fn a_store_is_asked_from_another_node_by_any_address() {
    let mut pair = Pair::new();
    let (_, pid) = store(&mut pair.b);
    let app = pair.a.open();
    for to in [json!("store@b"), pid] {
        let set = json!({"op": "call", "to": to, "body": ["set", "foo", 7]});
        assert_eq!(pair.ask_across(app, set)["body"], "ok");
        let get = json!({"op": "call", "to": to, "body": ["get", "foo"]});
        assert_eq!(pair.ask_across(app, get)["body"], 7);
    }
    pair.assert_no_calls();
}

#[test]
fn a_key_is_gone_when_its_time_is_over_and_those_who_watch_hear_of_it() {
    let mut node = Paper::new("a");
    let (app, _) = store(&mut node);
    let watcher = node.open();
    assert_eq!(node.ask(watcher, call(&json!(["watch", "s"])))["body"], "ok");
    node.ask(app, call(&json!(["set", "session", 1, 50])));
    node.ask(app, call(&json!(["set", "sale", 1, 80])));
    node.ask(app, call(&json!(["set", "sale", 2])));
    node.ask(app, call(&json!(["set", "other", 1, 10])));
    node.pass(Duration::from_millis(49));
    assert_eq!(node.ask(app, call(&json!(["get", "session"])))["body"], 1);
    node.pass(Duration::from_millis(1));
    assert_eq!(node.ask(app, call(&json!(["get", "session"])))["body"], Value::Null);
    node.pass(Duration::from_secs(1));
    assert_eq!(node.ask(app, call(&json!(["keys"])))["body"], json!(["pears", "sale"]));
    let heard: Vec<Value> = node.events(watcher).iter().map(|e| e["body"].clone()).collect();
    let told = [
        json!(["set", "session", 1]),
        json!(["set", "sale", 1]),
        json!(["set", "sale", 2]),
        json!(["delete", "session"]),
    ];
    assert_eq!(heard, told);
    assert_eq!(node.ask(watcher, call(&json!(["unwatch"])))["body"], "ok");
    node.ask(app, call(&json!(["delete", "sale"])));
    assert_eq!(node.events(watcher), Vec::<Value>::new());
}

#[test]
fn the_state_of_a_store_goes_with_its_process_and_its_calls_end() {
    let mut node = Paper::new("a");
    let (app, pid) = store(&mut node);
    let other = node.open();
    node.ask(other, json!({"op": "monitor", "to": "store"}));
    node.ask(app, json!({"op": "kill", "to": pid, "reason": "closing"}));
    assert_eq!(node.events(other)[0]["reason"], "closing");
    assert_eq!(node.ask(other, call(&json!(["get", "pears"])))["code"], "noproc");
    let (_, again) = store(&mut node);
    assert_ne!(again, pid);
    node.close(app);
}

#[test]
fn a_detached_store_stays_when_its_app_leaves_and_only_an_operator_makes_one() {
    let mut node = Paper::new("a");
    let (app, guest) = (node.open(), node.open_as(false));
    let spawn = json!({"op": "spawn", "kind": "kv", "name": "store", "detached": true});
    assert_eq!(node.ask(guest, spawn.clone())["code"], "denied");
    assert!(node.ask(app, spawn)["pid"].is_string());
    node.close(app);
    assert_eq!(node.ask(guest, call(&json!(["set", "foo", 1])))["body"], "ok");
    let resume = json!({"op": "hello", "resume": {"session": 0, "secret": "", "seen": 0}});
    let thief = node.open_as(false);
    assert_eq!(node.ask(thief, resume)["code"], "not_found");
}

#[test]
fn a_store_has_a_bound_and_all_of_them_together_too() {
    let limits = Limits { queue_bytes: 3000, ..Limits::default() };
    let mut node = Paper::with("a", 1, limits);
    let app = node.open();
    let spawn =
        |name: &str| json!({"op": "spawn", "kind": "kv", "name": name, "mailbox": {"bytes": 2000}});
    node.ask(app, spawn("store"));
    node.ask(app, spawn("more"));
    let large = "x".repeat(1500);
    assert_eq!(node.ask(app, call(&json!(["set", "a", large])))["body"], "ok");
    // The same key again takes the place of what it had.
    assert_eq!(node.ask(app, call(&json!(["set", "a", large])))["body"], "ok");
    assert_eq!(node.ask(app, call(&json!(["set", "b", large])))["code"], "overloaded");
    assert_eq!(node.ask(app, call(&json!(["set", "a", "short"])))["body"], "ok");
    assert_eq!(node.ask(app, call(&json!(["set", "b", large])))["body"], "ok");
    assert_eq!(node.ask(app, call(&json!(["set", "c", "x".repeat(500)])))["code"], "overloaded");
    let set = json!({"op": "call", "to": "more", "body": ["set", "a", large]});
    assert_eq!(node.ask(app, set)["code"], "overloaded");
    node.ask(app, json!({"op": "kill", "to": "store", "reason": "full"}));
    let set = json!({"op": "call", "to": "more", "body": ["set", "a", large]});
    assert_eq!(node.ask(app, set)["body"], "ok");
}
