//! Groups, global names and modules: what nodes announce of themselves.

use std::time::Duration;

use serde_json::{Value, json};

use super::support::{Pair, Paper};
use crate::wire::message::{self, Frame, Kind};

fn names(events: &[Value], key: &str) -> Vec<Value> {
    events.iter().map(|event| event[key].clone()).collect()
}

#[test]
fn a_group_has_its_members_of_every_node_as_often_as_they_joined() {
    let mut pair = Pair::new();
    let (one, other) = (pair.a.open(), pair.b.open());
    let (near, far) = (pair.a.self_pid(one), pair.b.self_pid(other));
    for _ in 0..2 {
        pair.a.ask(one, json!({"op": "join", "group": "tills"}));
    }
    pair.b.ask(other, json!({"op": "join", "group": "tills"}));
    pair.carry();
    let members = |paper: &mut Paper, session, local: bool| {
        paper.ask(session, json!({"op": "members", "group": "tills", "local": local}))["members"]
            .clone()
    };
    assert_eq!(members(&mut pair.a, one, false), json!([near, near, far]));
    assert_eq!(members(&mut pair.b, other, false), json!([far, near, near]));
    assert_eq!(members(&mut pair.b, other, true), json!([far]));
    assert_eq!(pair.b.ask(other, json!({"op": "groups"}))["groups"], json!(["tills"]));
    pair.a.ask(one, json!({"op": "leave", "group": "tills"}));
    pair.carry();
    assert_eq!(members(&mut pair.b, other, false), json!([far, near]));
    pair.a.close(one);
    pair.carry();
    assert_eq!(members(&mut pair.b, other, false), json!([far]));
    pair.cut();
    pair.b.close(other);
    let app = pair.b.open();
    assert_eq!(pair.b.ask(app, json!({"op": "groups"}))["groups"], json!([]));
    let leave = pair.b.ask(app, json!({"op": "leave", "group": "tills"}));
    assert_eq!(leave["code"], "not_found");
}

#[test]
fn who_watches_a_group_is_told_who_is_there_and_then_every_change() {
    let mut pair = Pair::new();
    let (one, other, watcher) = (pair.a.open(), pair.b.open(), pair.b.open());
    let (near, far) = (pair.a.self_pid(one), pair.b.self_pid(other));
    pair.a.ask(one, json!({"op": "join", "group": "tills"}));
    pair.carry();
    let reference =
        pair.b.ask(watcher, json!({"op": "monitor_group", "group": "tills"}))["ref"].clone();
    pair.b.ask(other, json!({"op": "join", "group": "tills"}));
    pair.cut();
    let group = |key: &str, pid: &str| json!({"ev": "group", "ref": reference, "group": "tills", key: [pid]});
    let heard = pair.b.events(watcher);
    assert_eq!(heard, [group("joined", &near), group("joined", &far), group("left", &near)]);
    // Pulled, it reads the same.
    pair.b.ask(watcher, json!({"op": "flag", "delivery": "pull"}));
    pair.b.ask(other, json!({"op": "leave", "group": "tills"}));
    let messages = pair.b.ask(watcher, json!({"op": "receive"}))["messages"].clone();
    assert_eq!(messages, json!([group("left", &far)]));
    let demonitor = json!({"op": "demonitor", "ref": reference, "flush": true});
    pair.b.ask(other, json!({"op": "join", "group": "tills"}));
    pair.b.ask(watcher, demonitor);
    pair.b.ask(other, json!({"op": "leave", "group": "tills"}));
    assert_eq!(pair.b.ask(watcher, json!({"op": "flush"}))["messages"], json!([]));
}

#[test]
fn a_message_to_a_group_reaches_every_member_once_and_a_call_one_of_them() {
    let mut pair = Pair::new();
    let (app, near, far) = (pair.a.open(), pair.a.open(), pair.b.open());
    for _ in 0..2 {
        pair.a.ask(near, json!({"op": "join", "group": "tills"}));
        pair.b.ask(far, json!({"op": "join", "group": "tills"}));
    }
    pair.carry();
    for n in 0..3 {
        pair.a.ask(app, json!({"op": "send", "to": "group:tills", "body": n}));
    }
    pair.carry();
    assert_eq!(names(&pair.a.events(near), "body"), [0, 1, 2]);
    assert_eq!(names(&pair.b.events(far), "body"), [0, 1, 2]);
    // The nearest member answers.
    pair.a.tell(app, &json!({"op": "call", "to": "group:tills", "id": "c", "body": 1}));
    pair.carry();
    let call = pair.a.events(near);
    assert_eq!(call[0]["ev"], "call");
    pair.a.tell(near, &json!({"op": "reply", "ref": call[0]["ref"], "body": 7}));
    assert_eq!(pair.a.events(app), [json!({"ev": "ok", "id": "c", "body": 7})]);
    pair.a.close(near);
    pair.a.tell(app, &json!({"op": "call", "to": "group:tills", "id": "c", "body": 1}));
    pair.carry();
    assert_eq!(pair.b.events(far)[0]["ev"], "call");
    let nobody = pair.a.ask(app, json!({"op": "call", "to": "group:nobody", "body": 1}));
    assert_eq!(nobody["code"], "noproc");
}

#[test]
fn a_message_to_a_group_of_thousands_goes_in_slices_and_what_is_sent_after_it_comes_after_it() {
    let mut node = Paper::new("a");
    let (app, many) = (node.open(), node.open());
    let mut last = Value::Null;
    for _ in 0..2000 {
        let pid = node.ask(many, json!({"op": "spawn"}))["pid"].clone();
        node.ask(many, json!({"op": "join", "group": "all", "pid": pid}));
        last = pid;
    }
    node.tell(app, &json!({"op": "send", "to": "group:all", "body": "first"}));
    assert!(!node.router.may_read(app, &node.out));
    node.work();
    assert!(node.router.may_read(app, &node.out));
    node.tell(app, &json!({"op": "send", "to": last, "body": "second"}));
    let heard = node.events(many);
    assert_eq!(heard.len(), 2001);
    assert_eq!(heard[2000]["body"], "second");
}

#[test]
fn a_global_name_is_known_everywhere_and_free_when_its_process_has_died() {
    let mut pair = Pair::new();
    let (app, stock) = (pair.a.open(), pair.b.open());
    let pid = pair.b.self_pid(stock);
    let register = json!({"op": "register", "name": "stock", "scope": "global"});
    assert_eq!(pair.b.ask(stock, register.clone())["ev"], "ok");
    pair.carry();
    let whereis = json!({"op": "whereis", "name": "stock", "scope": "global"});
    assert_eq!(pair.a.ask(app, whereis.clone())["pid"], json!(pid));
    let registered = json!({"op": "registered", "scope": "global"});
    let known = json!([{"name": "stock", "pid": pid}]);
    assert_eq!(pair.a.ask(app, registered.clone())["registered"], known);
    assert_eq!(pair.b.ask(stock, registered.clone())["registered"], known);
    assert_eq!(pair.a.ask(app, register.clone())["code"], "taken");
    pair.a.ask(app, json!({"op": "send", "to": "global:stock", "body": "hello"}));
    let monitor = pair.a.ask(app, json!({"op": "monitor", "to": "global:stock"}));
    assert_eq!(monitor["ev"], "ok", "{monitor}");
    let monitor = monitor["ref"].clone();
    pair.carry();
    assert_eq!(pair.b.events(stock)[0]["body"], "hello");
    pair.b.close(stock);
    pair.carry();
    // The name is free before the DOWN is told.
    let down = json!({"ev": "down", "ref": monitor, "from": pid, "name": "global:stock", "reason": "disconnected"});
    assert_eq!(pair.a.events(app), [down]);
    assert_eq!(pair.a.ask(app, whereis)["pid"], Value::Null);
    assert_eq!(pair.a.ask(app, registered)["registered"], json!([]));
    assert_eq!(pair.a.ask(app, register)["ev"], "ok");
    let nobody = pair.a.ask(app, json!({"op": "send", "to": "global:nobody", "body": 1}));
    assert_eq!(nobody["code"], "noproc");
}

/// Two nodes that do not see each other register the same name and then meet: who has it on each, and what they hear.
fn conflict(older: &str, newer: &str) -> (Pair, [Value; 2], [Vec<Value>; 2], [String; 2]) {
    let mut pair = Pair::new();
    let (one, other) = (pair.a.open(), pair.b.open());
    let pids = [pair.a.self_pid(one), pair.b.self_pid(other)];
    pair.cut();
    let register = |policy: &str| json!({"op": "register", "name": "stock", "scope": "global", "on_conflict": policy});
    pair.a.ask(one, register(older));
    pair.b.pass(Duration::from_millis(10));
    pair.b.ask(other, register(newer));
    pair.join();
    pair.carry();
    let events = [pair.a.events(one), pair.b.events(other)];
    let (a, b) = (pair.a.open(), pair.b.open());
    let whereis = json!({"op": "whereis", "name": "stock", "scope": "global"});
    let found =
        [pair.a.ask(a, whereis.clone())["pid"].clone(), pair.b.ask(b, whereis)["pid"].clone()];
    (pair, found, events, pids)
}

#[test]
fn of_two_claims_of_one_global_name_one_stays_the_same_on_both_sides_and_both_hear_of_it() {
    for (policy, winner) in [("keep_oldest", Some(0)), ("keep_newest", Some(1)), ("notify", None)] {
        let (_, found, events, pids) = conflict(policy, "keep_oldest");
        let winner = winner.map_or(Value::Null, |at: usize| json!(pids[at]));
        assert_eq!(found, [winner.clone(), winner.clone()], "{policy}");
        let told = json!({"ev": "name_conflict", "name": "stock", "winner": winner});
        assert_eq!(events, [vec![told.clone()], vec![told]], "{policy}");
    }
}

#[test]
fn the_loser_of_a_global_name_exits_where_the_older_claim_says_so() {
    let (pair, found, events, pids) = conflict("kill_loser", "keep_newest");
    assert_eq!(found, [json!(pids[0]), json!(pids[0])]);
    assert_eq!(events[1][1]["ev"], "died", "{events:?}");
    assert_eq!(events[1][1]["reason"], "name_conflict");
    drop(pair);
}

#[test]
fn a_name_of_a_lost_node_is_free_and_comes_back_with_it() {
    let mut pair = Pair::new();
    let (app, stock) = (pair.a.open(), pair.b.open());
    let pid = pair.b.self_pid(stock);
    pair.b.ask(stock, json!({"op": "register", "name": "stock", "scope": "global"}));
    pair.carry();
    let whereis = json!({"op": "whereis", "name": "stock", "scope": "global"});
    pair.cut();
    assert_eq!(pair.a.ask(app, whereis.clone())["pid"], Value::Null);
    pair.join();
    assert_eq!(pair.a.ask(app, whereis)["pid"], json!(pid));
}

#[test]
fn a_nodeup_follows_all_that_the_node_announces() {
    let (mut a, mut b) = (Paper::new("a"), Paper::new("b"));
    let (app, many) = (a.open(), b.open());
    for n in 0..2000 {
        let pid = b.ask(many, json!({"op": "spawn"}))["pid"].clone();
        let name = format!("name{n}");
        b.ask(many, json!({"op": "register", "name": name, "pid": pid, "scope": "global"}));
    }
    a.ask(app, json!({"op": "monitor_nodes"}));
    let mut pair = Pair::of(a, b);
    assert_eq!(names(&pair.a.events(app), "ev"), ["nodeup"]);
    let whereis = json!({"op": "whereis", "name": "name1999", "scope": "global"});
    assert!(pair.a.ask(app, whereis)["pid"].is_string());
}

#[test]
fn what_changes_while_a_peer_is_told_reaches_it_in_the_end() {
    let mut b = Paper::new("b");
    let many = b.open();
    for n in 0..1500 {
        b.ask(many, json!({"op": "join", "group": format!("g{n:04}")}));
    }
    let mut pair = Pair::apart(Paper::new("a"), b);
    let app = pair.a.open();
    pair.join_without_work();
    // The first slice has gone; now one of those goes away, one of the rest does, and new ones come.
    pair.b.tell(many, &json!({"op": "leave", "group": "g0000"}));
    pair.b.tell(many, &json!({"op": "leave", "group": "g1499"}));
    pair.b.tell(many, &json!({"op": "join", "group": "a"}));
    pair.b.tell(many, &json!({"op": "join", "group": "z"}));
    pair.carry();
    let groups = pair.a.ask(app, json!({"op": "groups"}))["groups"].clone();
    let groups = groups.as_array().unwrap();
    assert_eq!(groups.len(), 1500);
    assert!(groups.contains(&json!("a")) && groups.contains(&json!("z")));
    assert!(!groups.contains(&json!("g0000")) && !groups.contains(&json!("g1499")));
}

#[test]
fn what_a_peer_announces_badly_closes_its_connection_and_what_is_newer_is_passed_over() {
    let mut pair = Pair::new();
    let mut hear = |payload: &[u8]| {
        let mut frame = Vec::new();
        let at = message::start(&mut frame, Kind::State, 0, 0);
        frame.extend_from_slice(payload);
        message::finish(&mut frame, at);
        let (frame, _) = Frame::cut(&frame, 70_000).expect("a good frame").expect("whole");
        pair.hears(frame).is_ok()
    };
    assert!(!hear(b""));
    assert!(!hear(b"\x01\x00\x05ab"));
    assert!(!hear(b"\x01\x00\x05stock\x00\x00"));
    assert!(!hear(b"\x02\x00\x05stock\x00\x00\x00\x01"));
    assert!(!hear(b"\x03\x00\x05s@ock\xf6"));
    assert!(!hear(b"\x03\x00\x05stock\x82\x61a"));
    assert!(hear(b"\x7f\x00\x05stockwhatever"));
}

/// An app on `a` and one on `b` that serves `stock`, joined.
fn served(functions: &Value) -> (Pair, u64, u64) {
    let mut pair = Pair::new();
    let (app, stock) = (pair.a.open(), pair.b.open());
    let serve = json!({"op": "serve", "module": "stock", "functions": functions});
    assert_eq!(pair.b.ask(stock, serve)["ev"], "ok");
    pair.carry();
    (pair, app, stock)
}

fn rpc(node: &str, module: &str, function: &str) -> Value {
    json!({"op": "rpc", "id": "c", "node": node, "module": module, "function": function, "body": [3, "apples"]})
}

#[test]
fn a_function_of_another_node_is_called_by_node_and_by_any() {
    for node in ["b", "b@paper", "any"] {
        let (mut pair, app, stock) = served(&json!(["take", "count"]));
        pair.a.tell(app, &rpc(node, "stock", "take"));
        pair.carry();
        let heard = pair.b.events(stock);
        let asked = json!({"ev": "rpc", "from": pair.a.self_pid(app), "module": "stock",
            "function": "take", "ref": heard[0]["ref"], "body": [3, "apples"]});
        assert_eq!(heard, [asked]);
        pair.b.tell(stock, &json!({"op": "reply", "ref": heard[0]["ref"], "body": true}));
        pair.carry();
        assert_eq!(pair.a.events(app), [json!({"ev": "ok", "id": "c", "body": true})]);
        pair.assert_no_calls();
    }
}

#[test]
fn a_function_that_is_not_there_is_undef_and_the_error_says_what_is() {
    let (mut pair, app, _) = served(&json!(["take", "count"]));
    for (node, module, function, words) in [
        ("b", "stock", "give", "count, take"),
        ("any", "stock", "give", "count, take"),
        ("b", "stick", "take", "stock"),
        ("any", "stick", "take", "stock"),
        ("b", "node", "explode", "ping"),
        ("a", "node", "explode", "ping"),
        ("a", "stock", "take", "mesh, node, process"),
    ] {
        pair.a.tell(app, &rpc(node, module, function));
        pair.carry();
        let heard = pair.a.events(app);
        assert_eq!(heard.len(), 1, "{node} {module} {function}: {heard:?}");
        assert_eq!(heard[0]["code"], "undef", "{heard:?}");
        assert_eq!(heard[0]["maybe_applied"], false);
        let message = heard[0]["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
    }
    pair.a.tell(app, &rpc("gone", "stock", "take"));
    assert_eq!(pair.a.events(app)[0]["code"], "noconnection");
    pair.assert_no_calls();
}

#[test]
fn several_apps_serve_one_module_and_the_least_busy_is_asked() {
    let (mut pair, app, one) = served(&Value::Null);
    let other = pair.b.open();
    pair.b.ask(other, json!({"op": "serve", "module": "stock", "functions": ["take"]}));
    pair.carry();
    for _ in 0..4 {
        pair.a.tell(app, &rpc("b", "stock", "take"));
    }
    pair.carry();
    assert_eq!(pair.b.events(one).len(), 2);
    assert_eq!(pair.b.events(other).len(), 2);
    // Only one of them has everything.
    for _ in 0..4 {
        pair.a.tell(app, &rpc("any", "stock", "give"));
    }
    pair.carry();
    assert_eq!(pair.b.events(one).len(), 4);
    assert_eq!(pair.b.ask(other, json!({"op": "unserve", "module": "stock"}))["ev"], "ok");
    pair.b.close(one);
    pair.carry();
    pair.a.events(app);
    pair.a.tell(app, &rpc("any", "stock", "take"));
    assert_eq!(pair.a.events(app)[0]["code"], "undef");
}

#[test]
fn any_goes_to_this_node_first_and_elsewhere_when_nobody_was_handed_the_call() {
    let (mut pair, app, far) = served(&Value::Null);
    let near = pair.a.open();
    let mailbox = json!({"entries": 1});
    let spawn = json!({"op": "spawn", "delivery": "pull", "mailbox": mailbox});
    let pid = pair.a.ask(near, spawn)["pid"].clone();
    pair.a.ask(near, json!({"op": "serve", "module": "stock", "pid": pid}));
    pair.a.tell(app, &rpc("any", "stock", "take"));
    pair.carry();
    assert_eq!(pair.b.events(far).len(), 0);
    // Its mailbox is full: the next one goes on to the other node.
    pair.a.tell(app, &rpc("any", "stock", "take"));
    pair.carry();
    let heard = pair.b.events(far);
    assert_eq!(heard.len(), 1);
    pair.b.tell(far, &json!({"op": "reply", "ref": heard[0]["ref"], "body": 7}));
    pair.carry();
    assert_eq!(pair.a.events(app), [json!({"ev": "ok", "id": "c", "body": 7})]);
    // The server that has not been handed the first one dies: that one goes on too.
    pair.a.ask(near, json!({"op": "exit", "pid": pid, "reason": "tired"}));
    pair.carry();
    assert_eq!(pair.b.events(far).len(), 1);
    assert_eq!(pair.a.events(app), Vec::<Value>::new());
}

#[test]
fn a_function_is_called_on_many_nodes_with_one_result_for_each() {
    let (mut pair, app, stock) = served(&json!(["count"]));
    pair.a.tell(app, &json!({"op": "rpc", "id": "c", "nodes": ["a", "b", "gone"], "module": "stock", "function": "count"}));
    pair.carry();
    let reference = pair.b.events(stock)[0]["ref"].clone();
    pair.b.tell(stock, &json!({"op": "reply", "ref": reference, "body": 7}));
    pair.carry();
    let results = pair.a.events(app)[0]["results"].clone();
    assert_eq!(results[0]["error"]["code"], "undef");
    assert_eq!(results[1], json!({"node": "b@paper", "body": 7}));
    assert_eq!(results[2]["error"]["code"], "noconnection");
}

#[test]
fn a_function_can_be_called_without_waiting_for_it() {
    let (mut pair, app, stock) = served(&Value::Null);
    for node in [json!({"node": "b"}), json!({"node": "any"}), json!({"nodes": ["a", "b", "gone"]})]
    {
        let mut command =
            json!({"op": "rpc_cast", "module": "stock", "function": "take", "body": 1});
        command.as_object_mut().unwrap().extend(node.as_object().unwrap().clone());
        assert_eq!(pair.a.ask(app, command)["ev"], "ok");
        pair.carry();
        let heard = pair.b.events(stock);
        assert_eq!(heard.len(), 1);
        assert_eq!((&heard[0]["ev"], &heard[0]["ref"]), (&json!("rpc"), &Value::Null));
    }
}

#[test]
fn every_node_serves_what_it_knows_of_itself() {
    let (mut pair, app, stock) = served(&Value::Null);
    pair.b.ask(stock, json!({"op": "register", "name": "clerk"}));
    let mut ask = |node: &str, module: &str, function: &str, body: Value| {
        let mut command = rpc(node, module, function);
        command["body"] = body;
        pair.ask_across(app, command)
    };
    // The nearest that has them is the node itself.
    assert_eq!(ask("any", "node", "info", Value::Null)["body"]["node"], "a@paper");
    for node in ["a", "b"] {
        assert_eq!(ask(node, "node", "ping", Value::Null)["body"], "pong");
        assert_eq!(ask(node, "mesh", "nodes", Value::Null)["body"].as_array().unwrap().len(), 2);
        assert_eq!(ask(node, "node", "list", Value::Null)["body"].as_array().unwrap().len(), 1);
        assert_eq!(ask(node, "node", "info", Value::Null)["body"]["node"], format!("{node}@paper"));
        assert_eq!(ask(node, "node", "labels", Value::Null)["body"], json!({}));
    }
    let pid = ask("b", "process", "whereis", json!("clerk"))["body"].clone();
    assert!(pid.is_string());
    let named = ask("b", "process", "info", pid);
    assert_eq!(named["body"]["registered_name"], "clerk", "{named}");
    assert_eq!(ask("b", "process", "info", json!("clerk"))["body"]["registered_name"], "clerk");
    assert_eq!(ask("b", "process", "info", json!(7))["code"], "badarg");
    assert_eq!(ask("b", "process", "info", json!("nobody"))["code"], "noproc");
    let taken = pair.a.ask(app, json!({"op": "serve", "module": "node"}));
    assert_eq!(taken["code"], "taken");
}
