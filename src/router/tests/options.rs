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

fn events(node: &mut Paper, session: u64, name: &str) -> Vec<Value> {
    node.events(session).into_iter().filter(|event| event["ev"] == name).collect()
}

#[test]
fn a_timer_says_what_is_left_as_often_as_one_asks() {
    let mut node = Paper::new("a");
    let (app, other) = (node.open(), node.open());
    let me = node.self_pid(app);
    let later = json!({"op": "send_after", "to": me, "after_ms": 1500, "body": 1});
    let timer = node.ask(app, later)["timer"].clone();
    let read = json!({"op": "read_timer", "timer": timer});
    assert_eq!(node.ask(app, read.clone())["left_ms"], 1500);
    node.pass(Duration::from_millis(600));
    assert_eq!(node.ask(app, read.clone())["left_ms"], 900);
    assert_eq!(node.ask(other, read.clone())["code"], "denied");
    node.pass(Duration::from_millis(900));
    assert_eq!(node.events(app).len(), 1);
    assert_eq!(node.ask(app, read)["left_ms"], Value::Null);
}

#[test]
fn a_checked_send_says_when_it_leads_nowhere_and_a_plain_one_does_not() {
    let mut pair = Pair::new();
    let (app, other) = (pair.a.open(), pair.b.open());
    let me = pair.a.self_pid(app);
    let dead = pair.a.ask(app, json!({"op": "spawn"}))["pid"].clone();
    pair.a.ask(app, json!({"op": "exit", "pid": dead}));
    let far = pair.b.self_pid(other);
    let gone = "<c@paper.0000000000000001.100>";
    let old = far.replace("0000000000000001", "0000000000000000");
    for (to, code) in [
        (me.as_str(), None),
        (far.as_str(), None),
        // Whether it lives over there is not known here.
        ("stock@b", None),
        (dead.as_str().expect("a pid"), Some("noproc")),
        (old.as_str(), Some("noproc")),
        ("stock@a", Some("noproc")),
        ("group:tills", Some("noproc")),
        (gone, Some("noconnection")),
        ("stock@c", Some("noconnection")),
    ] {
        for op in ["send", "cast"] {
            let plain = pair.a.ask(app, json!({"op": op, "to": to, "body": 1}));
            assert_eq!(plain["ev"], "ok", "{to}");
            for _ in 0..3 {
                let checked = json!({"op": op, "to": to, "checked": true, "body": 1});
                assert_eq!(pair.a.ask(app, checked)["code"].as_str(), code, "{to}");
            }
        }
    }
    // Without an id it is told as every failure is, the third time too.
    for _ in 0..3 {
        pair.a.tell(app, &json!({"op": "send", "to": gone, "checked": true, "body": 1}));
    }
    let failed = events(&mut pair.a, app, "failed");
    assert_eq!(failed[0]["code"], "noconnection", "{failed:?}");
}

#[test]
fn whether_a_process_lives_is_told_here_and_from_another_node() {
    let mut pair = Pair::new();
    let (app, other) = (pair.a.open(), pair.b.open());
    let (near, far) = (pair.a.self_pid(app), pair.b.self_pid(other));
    let bot = pair.b.ask(other, json!({"op": "spawn", "name": "bot"}))["pid"].clone();
    let bot = bot.as_str().expect("a pid").to_owned();
    let alive = |pair: &mut Pair, to: &str| pair.ask_across(app, json!({"op": "alive", "to": to}));
    for to in [near.as_str(), far.as_str(), bot.as_str(), "bot@b"] {
        assert_eq!(alive(&mut pair, to)["result"], true, "{to}");
    }
    pair.b.ask(other, json!({"op": "exit", "pid": bot}));
    pair.carry();
    for to in [bot.as_str(), "bot@b", "bot", "global:bot"] {
        assert_eq!(alive(&mut pair, to)["result"], false, "{to}");
    }
    assert_eq!(alive(&mut pair, "bot@c")["code"], "noconnection");
    pair.cut();
    assert_eq!(alive(&mut pair, &far)["code"], "noconnection", "nobody knows");
}

#[test]
fn a_cast_to_many_that_is_acknowledged_says_of_each_node_who_has_got_it() {
    let mut pair = Pair::new();
    let (app, other) = (pair.a.open(), pair.b.open());
    let far = pair.b.self_pid(other);
    pair.b.ask(other, json!({"op": "register", "name": "stock"}));
    let cast = json!({"op": "sbcast", "nodes": ["b", "a", "c"], "name": "stock", "body": 7});
    let answer = pair.ask_across(app, cast.clone());
    let results = answer["results"].as_array().expect("results").clone();
    assert_eq!(results[0], json!({"node": "b@paper", "body": far}));
    assert_eq!(
        (&results[1]["node"], &results[1]["error"]["code"]),
        (&json!("a@paper"), &json!("noproc"))
    );
    assert_eq!(
        (&results[2]["node"], &results[2]["error"]["code"]),
        (&json!("c@paper"), &json!("noconnection"))
    );
    let heard = pair.b.events(other);
    assert_eq!(heard.len(), 1);
    assert_eq!((&heard[0]["ev"], &heard[0]["body"]), (&json!("cast"), &json!(7)));
    // Long ones too are there before it is told who has them.
    let mut long = cast.clone();
    long["body"] = json!("x".repeat(300_000));
    assert_eq!(pair.ask_across(app, long)["results"][0]["body"], json!(far));
    assert_eq!(pair.b.events(other).len(), 1);
    pair.b.ask(other, json!({"op": "unregister", "name": "stock"}));
    let nobody = json!({"op": "sbcast", "nodes": ["b"], "name": "stock", "body": 7});
    assert_eq!(pair.ask_across(app, nobody)["results"][0]["error"]["code"], "noproc");
    // A node that does not answer counts as lost by the deadline, one that goes at once.
    for (name, code) in [("late", "timeout"), ("cut", "noconnection")] {
        let op = json!({"op": "sbcast", "id": name, "nodes": ["b"], "name": "stock", "timeout_ms": 100, "body": 7});
        pair.a.tell(app, &op);
        if name == "cut" {
            pair.cut();
        } else {
            pair.a.pass(Duration::from_millis(150));
        }
        let heard = pair.a.events(app);
        assert_eq!(heard[0]["results"][0]["error"]["code"], code, "{heard:?}");
    }
}

#[test]
fn nodes_of_several_states_are_listed_and_hidden_ones_watched_or_not() {
    let mut b = Paper::new("b");
    let hidden = super::super::nodes::SelfSeen { hidden: true, ..Default::default() };
    b.hold(|router, _, out| router.on_self(hidden, out));
    let mut pair = Pair::apart(Paper::new("a"), b);
    let mut apps = Vec::new();
    for node_type in ["all", "visible", "hidden"] {
        let app = pair.a.open();
        let watch = json!({"op": "monitor_nodes", "node_type": node_type});
        assert_eq!(pair.a.ask(app, watch)["ev"], "ok");
        apps.push(app);
    }
    pair.join();
    let nodes = |pair: &mut Pair, state: Value| {
        let answer = pair.a.ask(apps[0], json!({"op": "nodes", "state": state}));
        answer["nodes"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(nodes(&mut pair, json!("this")), 1);
    assert_eq!(nodes(&mut pair, json!("hidden")), 1);
    assert_eq!(nodes(&mut pair, json!("visible")), 0);
    assert_eq!(nodes(&mut pair, json!(["visible", "this"])), 1);
    assert_eq!(nodes(&mut pair, json!(["hidden", "this"])), 2);
    assert_eq!(nodes(&mut pair, json!([])), 2);
    pair.cut();
    let [all, visible, hidden] = [0, 1, 2].map(|at: usize| pair.a.events(apps[at]));
    assert_eq!(visible, Vec::<Value>::new());
    for heard in [all, hidden] {
        let told: Vec<_> = heard.iter().map(|event| (&event["ev"], &event["hidden"])).collect();
        assert_eq!(told, [(&json!("nodeup"), &json!(true)), (&json!("nodedown"), &json!(true))]);
    }
    let bad = pair.a.ask(apps[0], json!({"op": "nodes", "state": ["this", "near"]}));
    assert_eq!(bad["code"], "badarg");
}

#[test]
fn a_global_name_is_taken_on_purpose_from_whoever_has_it() {
    for policy in ["keep_oldest", "keep_newest", "notify", "kill_loser"] {
        let mut pair = Pair::new();
        let (one, other) = (pair.a.open(), pair.b.open());
        let far = pair.b.self_pid(other);
        let mut register =
            json!({"op": "register", "name": "stock", "scope": "global", "on_conflict": policy});
        assert_eq!(pair.a.ask(one, register.clone())["ev"], "ok");
        pair.carry();
        assert_eq!(pair.b.ask(other, register.clone())["code"], "taken");
        register["replace"] = json!(true);
        assert_eq!(pair.b.ask(other, register.clone())["ev"], "ok");
        let whereis = json!({"op": "whereis", "name": "stock", "scope": "global"});
        assert_eq!(pair.b.ask(other, whereis.clone())["pid"], json!(far), "at once");
        pair.carry();
        assert_eq!(pair.a.ask(one, whereis.clone())["pid"], json!(far));
        // Who had it hears of it and lives on.
        let told = json!({"ev": "name_conflict", "name": "stock", "winner": far});
        assert_eq!(pair.a.events(one), std::slice::from_ref(&told), "{policy}");
        // Within a node it goes to another process, and only an operator takes it from another session.
        let bot = pair.b.ask(other, json!({"op": "spawn"}))["pid"].clone();
        let mut again = register.clone();
        again["pid"] = bot.clone();
        assert_eq!(pair.b.ask(other, again)["ev"], "ok");
        pair.carry();
        assert_eq!(pair.a.ask(one, whereis)["pid"], bot);
        let told = json!({"ev": "name_conflict", "name": "stock", "winner": bot});
        assert!(pair.b.events(other).contains(&told));
        let stranger = pair.b.open_as(false);
        assert_eq!(pair.b.ask(stranger, register)["code"], "denied");
    }
}

#[test]
fn who_watches_all_groups_of_a_prefix_hears_of_each_and_of_every_change_without_a_gap() {
    const MANY: usize = 1500;
    let mut node = Paper::new("a");
    let (app, watcher) = (node.open(), node.open());
    for n in 0..MANY {
        node.tell(app, &json!({"op": "join", "group": format!("room.{n:04}")}));
        node.tell(app, &json!({"op": "join", "group": format!("z{n:04}")}));
    }
    node.work();
    node.most = (0, 0);
    let watch = json!({"op": "monitor_group", "id": "w", "prefix": "room."});
    node.tell(watcher, &watch);
    // Some change while they are told: those that were told, those still to come, and new ones.
    for (op, group) in [
        ("leave", "room.0000"),
        ("leave", "room.1499"),
        ("join", "room.0000"),
        ("join", "room.0750"),
        ("join", "room."),
        ("join", "room.9"),
    ] {
        node.tell(app, &json!({"op": op, "group": group}));
    }
    node.work();
    assert!(node.most.0 <= super::super::SLICE + 8, "{:?}", node.most);
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    let heard = node.events(watcher);
    let reference = heard[0]["ref"].clone();
    for event in &heard[1..] {
        assert_eq!((&event["ev"], &event["ref"]), (&json!("group"), &reference));
        let count = |key: &str| event[key].as_array().map_or(0, Vec::len);
        let now = seen.entry(event["group"].as_str().expect("a name").to_owned()).or_default();
        // Never more go than have come: the order is right too.
        *now = *now + count("joined") - count("left");
    }
    seen.retain(|_, count| *count != 0);
    let mut expected = std::collections::BTreeMap::new();
    for group in
        node.ask(app, json!({"op": "groups", "prefix": "room."}))["groups"].as_array().unwrap()
    {
        let members = node.ask(app, json!({"op": "members", "group": group}))["members"].clone();
        let members = members.as_array().map_or(0, Vec::len);
        expected.insert(group.as_str().unwrap().to_owned(), members);
    }
    assert_eq!(seen, expected);
    let watched = node.ask(watcher, json!({"op": "info", "keys": ["monitors"]}))["info"].clone();
    assert_eq!(watched["monitors"], json!(["group:room.*"]));
    node.ask(watcher, json!({"op": "demonitor", "ref": reference, "flush": true}));
    node.ask(app, json!({"op": "join", "group": "room.0001"}));
    assert_eq!(node.events(watcher), Vec::<Value>::new());
    assert!(node.router.scopes.is_empty());
    // Its death ends it too.
    let bot = node.ask(watcher, json!({"op": "spawn"}))["pid"].clone();
    node.ask(watcher, json!({"op": "monitor_group", "prefix": "", "pid": bot}));
    node.work();
    node.ask(watcher, json!({"op": "exit", "pid": bot}));
    node.work();
    assert!(node.router.scopes.is_empty());
}
