//! The options that OTP has beside the plain commands.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::Limits;
use super::support::{Pair, Paper};

#[test]
fn names_and_groups_are_listed_by_how_they_begin() {
    let mut node = Paper::new("a");
    let app = node.open();
    for name in ["room.1", "room.2", "rook", "room"] {
        let pid = node.ask(app, json!({"op": "spawn", "name": name}))["pid"].clone();
        node.ask(app, json!({"op": "join", "group": name, "pid": pid}));
        node.ask(app, json!({"op": "register", "name": name, "scope": "global", "pid": pid}));
    }
    let mut ask = |mut command: Value, noun: &str| {
        command["prefix"] = json!("room.");
        node.ask(app, command)[noun].clone()
    };
    assert_eq!(ask(json!({"op": "groups"}), "groups"), json!(["room.1", "room.2"]));
    for command in [json!({"op": "registered"}), json!({"op": "registered", "scope": "global"})] {
        let listed = ask(command, "registered");
        let names: Vec<_> = listed.as_array().unwrap().iter().map(|one| &one["name"]).collect();
        assert_eq!(names, ["room.1", "room.2"]);
    }
}

#[test]
fn what_can_be_nobodys_name_is_badarg_and_not_nobodys() {
    let mut node = Paper::new("a");
    let app = node.open();
    for name in ["a b", "a@b", "<a", "", "global:a"] {
        for command in [
            json!({"op": "whereis", "name": name}),
            json!({"op": "whereis", "name": name, "scope": "global"}),
        ] {
            assert_eq!(node.ask(app, command.clone())["code"], "badarg", "{command}");
        }
    }
    assert_eq!(node.ask(app, json!({"op": "whereis", "name": "a"}))["pid"], Value::Null);
}

#[test]
fn a_call_to_any_of_a_large_group_looks_at_few_and_goes_to_all_in_turn() {
    let mut node = Paper::new("a");
    let (app, many) = (node.open(), node.open());
    let mut members = Vec::new();
    for _ in 0..2000 {
        let pid = node.ask(many, json!({"op": "spawn"}))["pid"].clone();
        node.ask(many, json!({"op": "join", "group": "all", "pid": pid}));
        members.push(pid);
    }
    let mut asked = std::collections::BTreeSet::new();
    for _ in 0..2000 {
        node.most = (0, 0);
        node.tell(app, &json!({"op": "call", "id": "c", "to": "group:all", "body": 1}));
        assert!(node.most.0 < 20, "{:?}", node.most);
        let call = node.events(many).pop().expect("a call");
        asked.insert(call["pid"].to_string());
        node.tell(many, &json!({"op": "reply", "ref": call["ref"], "body": 1}));
    }
    assert_eq!(asked.len(), 2000);
    // Those who have not answered are passed over.
    let mut busy = std::collections::BTreeSet::new();
    for n in 0..32 {
        node.tell(app, &json!({"op": "call", "id": n, "to": "group:all", "body": 1}));
        busy.insert(node.events(many).pop().expect("a call")["pid"].to_string());
    }
    assert_eq!(busy.len(), 32);
}

#[test]
fn of_peers_that_are_equally_near_and_busy_each_has_its_turn() {
    let mut pair = Pair::new();
    let (app, far) = (pair.a.open(), pair.b.open());
    for _ in 0..3 {
        let pid = pair.b.ask(far, json!({"op": "spawn"}))["pid"].clone();
        pair.b.ask(far, json!({"op": "join", "group": "tills", "pid": pid}));
    }
    pair.carry();
    let mut asked = std::collections::BTreeSet::new();
    for _ in 0..3 {
        pair.a.tell(app, &json!({"op": "call", "id": "c", "to": "group:tills", "body": 1}));
        pair.carry();
        asked.insert(pair.b.events(far).pop().expect("a call")["pid"].to_string());
    }
    assert_eq!(asked.len(), 3);
}

#[test]
fn a_node_that_has_been_up_for_long_claims_now_and_not_when_it_began() {
    let hour = Duration::from_secs(3600);
    let mut old = Paper::new("a");
    old.pass(hour);
    // It began ten seconds ago, by the same clock.
    let ms = 3_590_000_u64;
    let mut young = Paper::with("b", ms << 20, Limits::default());
    let apps = [(&mut young, 5), (&mut old, 0)].map(|(node, seconds)| {
        let app = node.open();
        node.pass(Duration::from_secs(seconds));
        node.ask(app, json!({"op": "register", "name": "stock", "scope": "global"}));
        (app, node.self_pid(app))
    });
    let (_, first) = apps[0].clone();
    let mut pair = Pair::of(old, young);
    let whereis = json!({"op": "whereis", "name": "stock", "scope": "global"});
    let app = apps[1].0;
    assert_eq!(pair.a.ask(app, whereis)["pid"], json!(first), "the older claim stays");
}
