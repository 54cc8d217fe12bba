//! Masses: whatever happens to many at once goes on in slices, and in order.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::SLICE;
use super::support::{Pair, Paper};

const MANY: usize = 5_000;

/// No hold handled more than its slice, nor did it write or deliver more than that accounts for: a step may tell two.
fn in_slices(node: &Paper) {
    let (handled, touched) = node.most;
    assert!(handled <= SLICE + 8, "{handled} entries in one hold");
    assert!(touched <= 2 * SLICE + 16, "{touched} events and frames in one hold");
    assert!(handled > SLICE / 2, "{handled}: there was nothing to be put off");
}

/// A node with an app that has taken whatever its batches were told.
fn quiet(node: &mut Paper, app: u64) {
    let _ = node.events(app);
}

fn spawn(node: &mut Paper, app: u64, options: &Value) -> Value {
    let mut command = json!({"op": "spawn"});
    for (key, value) in options.as_object().into_iter().flatten() {
        command[key] = value.clone();
    }
    node.ask(app, command)["pid"].clone()
}

fn names(events: &[Value], name: &str) -> usize {
    events.iter().filter(|event| event["ev"] == name).count()
}

#[test]
fn a_process_with_thousands_of_links_monitors_and_timers_dies_in_slices() {
    let mut node = Paper::new("a");
    let (watcher, app) = (node.open(), node.open());
    let bot = spawn(&mut node, app, &json!({"name": "bot"}));
    let pulls = json!({"delivery": "pull", "trap_exit": true});
    for _ in 0..MANY {
        let one = spawn(&mut node, watcher, &pulls);
        node.tell(watcher, &json!({"op": "link", "pid": one, "to": bot}));
        node.tell(watcher, &json!({"op": "monitor", "pid": one, "to": bot}));
        node.tell(app, &json!({"op": "monitor", "pid": bot, "to": one}));
        let later = json!({"op": "send_after", "pid": bot, "to": one, "after_ms": 10, "body": 1});
        node.tell(app, &later);
    }
    quiet(&mut node, watcher);
    quiet(&mut node, app);
    node.ask(watcher, json!({"op": "monitor", "to": "bot"}));
    let me = node.self_pid(watcher);
    node.tell(app, &json!({"op": "send", "pid": bot, "to": me, "body": "last words"}));
    node.most = (0, 0);
    node.tell(app, &json!({"op": "exit", "pid": bot, "reason": "done"}));
    // Others go on meanwhile, and see it dead and its name free from the first moment.
    node.tell(watcher, &json!({"op": "whereis", "name": "bot", "id": "free"}));
    node.work();
    in_slices(&node);
    let events = node.events(watcher);
    let at = |wanted: &Value| events.iter().position(|event| event == wanted);
    assert!(at(&json!({"ev": "ok", "id": "free", "pid": null})).is_some());
    let message = events.iter().position(|event| event["body"] == "last words");
    let down = events.iter().position(|event| event["ev"] == "down");
    assert!(message < down && message.is_some(), "{events:?}");
    assert_eq!(names(&events, "down"), 1);
    node.pass(Duration::from_secs(1));
    for pid in node.ask(watcher, json!({"op": "processes"}))["processes"].as_array().expect("some")
    {
        if pid["session"] == json!(watcher) && pid["pid"] != json!(me) {
            let flush = json!({"op": "flush", "pid": pid["pid"]});
            let messages = node.ask(watcher, flush)["messages"].clone();
            let evs: Vec<&Value> =
                messages.as_array().expect("messages").iter().map(|m| &m["ev"]).collect();
            assert_eq!(evs, ["exit", "down"], "no timer of the dead has fired");
        }
    }
    assert_eq!(node.router.references(), 0);
    assert_eq!(node.router.queued(&node.out), 0);
}

#[test]
fn a_session_with_thousands_of_processes_ends_in_slices() {
    let mut node = Paper::new("a");
    let (watcher, app) = (node.open(), node.open());
    node.ask(watcher, json!({"op": "monitor_deaths"}));
    for _ in 0..MANY {
        let pid = spawn(&mut node, app, &json!({"delivery": "pull"}));
        node.tell(watcher, &json!({"op": "monitor", "to": pid}));
        node.tell(app, &json!({"op": "receive", "pid": pid, "timeout_ms": 60_000, "id": "never"}));
    }
    quiet(&mut node, watcher);
    node.most = (0, 0);
    node.close(app);
    in_slices(&node);
    let events = node.events(watcher);
    assert_eq!((names(&events, "down"), names(&events, "died")), (MANY, MANY + 1));
}

#[test]
fn a_peer_with_thousands_of_links_and_monitors_goes_down_in_slices() {
    let mut pair = Pair::new();
    let (app, other) = (pair.a.open(), pair.b.open());
    let (mine, theirs) = (pair.a.self_pid(app), pair.b.self_pid(other));
    pair.b.ask(other, json!({"op": "flag", "trap_exit": true}));
    let name = pair.b.name();
    pair.a.ask(app, json!({"op": "monitor_nodes"}));
    pair.a.ask(app, json!({"op": "monitor", "to": theirs}));
    for _ in 0..MANY {
        let one = spawn(&mut pair.a, app, &json!({"trap_exit": true}));
        pair.a.tell(app, &json!({"op": "link", "pid": one, "to": theirs}));
        pair.a.tell(app, &json!({"op": "monitor", "pid": one, "to": theirs}));
        pair.a.tell(app, &json!({"op": "monitor_node", "node": name}));
        pair.b.tell(other, &json!({"op": "monitor", "to": mine}));
        pair.carry();
    }
    quiet(&mut pair.a, app);
    quiet(&mut pair.b, other);
    (pair.a.most, pair.b.most) = ((0, 0), (0, 0));
    pair.cut();
    in_slices(&pair.a);
    in_slices(&pair.b);
    let events = pair.a.events(app);
    let (exits, downs) = (names(&events, "exit"), names(&events, "down"));
    assert_eq!((exits, downs, names(&events, "nodedown")), (MANY, MANY + 1, MANY + 1));
    // The own process's events say no `pid`, but for the one that is gone.
    let own = events.iter().find(|event| {
        event["ev"] == "nodedown" || (event["ev"] == "down" && event["from"] == json!(theirs))
    });
    assert_eq!(own.map(|event| &event["ev"]), Some(&json!("down")), "nodedown comes last");
    let events = pair.b.events(other);
    assert_eq!((names(&events, "exit"), names(&events, "down")), (MANY, MANY));
}

#[test]
fn a_nodeup_reaches_thousands_in_slices_and_only_those_who_watched_when_it_came() {
    let mut pair = Pair::new();
    pair.cut();
    let app = pair.a.open();
    let spawned: Vec<Value> =
        (0..MANY).map(|_| spawn(&mut pair.a, app, &json!({"delivery": "pull"}))).collect();
    for pid in &spawned[1..] {
        pair.a.tell(app, &json!({"op": "monitor_nodes", "pid": pid}));
    }
    let late = spawn(&mut pair.a, app, &json!({"delivery": "pull"}));
    pair.join_without_work();
    pair.a.most = (0, 0);
    pair.announced();
    // What the other node says meanwhile has to wait.
    let connection = pair.connection();
    assert!(pair.a.router.is_waiting(connection));
    // The news is on its way. Who begins to watch now finds the node in the list.
    for pid in [&spawned[0], &late] {
        pair.a.tell(app, &json!({"op": "monitor_nodes", "pid": pid, "id": 1}));
    }
    pair.a.tell(app, &json!({"op": "monitor_nodes", "pid": spawned[MANY - 1], "on": false}));
    pair.a.tell(app, &json!({"op": "nodes", "state": "connected", "id": 2}));
    let nodes = pair.a.answer(app, 2).expect("an answer");
    assert_eq!(nodes["nodes"][0]["node"], pair.b.name());
    pair.a.work();
    assert!(!pair.a.router.is_waiting(connection));
    in_slices(&pair.a);
    let mut told = |pid: &Value| {
        let flush = json!({"op": "flush", "pid": pid});
        pair.a.ask(app, flush)["messages"].as_array().map_or(0, Vec::len)
    };
    assert_eq!((told(&spawned[0]), told(&late), told(&spawned[MANY - 1])), (0, 0, 0));
    assert!(spawned[1..MANY - 1].iter().all(|pid| told(pid) == 1));
    pair.a.most = (0, 0);
    pair.cut();
    in_slices(&pair.a);
    let mut told = |pid: &Value| {
        let flush = json!({"op": "flush", "pid": pid});
        pair.a.ask(app, flush)["messages"].as_array().map_or(0, Vec::len)
    };
    assert!(spawned[..MANY - 1].iter().chain([&late]).all(|pid| told(pid) == 1));
}

#[test]
fn a_large_mailbox_is_flushed_in_slices_and_what_comes_meanwhile_stays() {
    for with_id in [true, false] {
        let mut node = Paper::new("a");
        let (app, sender) = (node.open(), node.open());
        node.ask(app, json!({"op": "flag", "delivery": "pull"}));
        let me = node.self_pid(app);
        for n in 0..10_000 {
            node.tell(sender, &json!({"op": "send", "to": me, "body": n}));
        }
        node.most = (0, 0);
        let mut flush = json!({"op": "flush"});
        if with_id {
            flush["id"] = json!("all");
        }
        node.tell(app, &flush);
        assert!(!node.router.may_answer(app, &node.out), "its next command waits");
        node.tell(sender, &json!({"op": "send", "to": me, "body": "later"}));
        node.work();
        in_slices(&node);
        assert!(node.router.may_answer(app, &node.out));
        if with_id {
            let events = node.events(app);
            let taken = events[0]["messages"].as_array().expect("messages");
            assert_eq!(taken.len(), 10_000);
            assert!((0..).zip(taken).all(|(n, message)| message["body"] == json!(n)));
        }
        let rest = node.ask(app, json!({"op": "receive", "max": 65_536}));
        assert_eq!(rest["messages"].as_array().map(Vec::len), Some(1));
        assert_eq!(node.router.queued(&node.out), 0);
    }
}

#[test]
fn what_is_pushed_does_not_overtake_what_a_flush_is_taking() {
    let mut node = Paper::new("a");
    let (app, sender) = (node.open(), node.open());
    let me = node.self_pid(app);
    for n in 0..10_000 {
        node.tell(sender, &json!({"op": "send", "to": me, "body": n}));
    }
    node.tell(app, &json!({"op": "flush", "id": "rest"}));
    node.tell(sender, &json!({"op": "send", "to": me, "body": "later"}));
    let events = node.events(app);
    let mut bodies = Vec::new();
    for event in &events {
        match event["messages"].as_array() {
            Some(messages) => bodies.extend(messages.iter().map(|m| m["body"].clone())),
            None => bodies.push(event["body"].clone()),
        }
    }
    assert_eq!(bodies.len(), 10_001);
    assert!((0..10_000).zip(&bodies).all(|(n, body)| *body == json!(n)));
}

#[test]
fn a_flush_whose_process_or_session_ends_meanwhile_ends_too() {
    let mut node = Paper::new("a");
    let (app, sender) = (node.open(), node.open());
    let pid = spawn(&mut node, app, &json!({"delivery": "pull"}));
    for n in 0..2_000 {
        node.tell(sender, &json!({"op": "send", "to": pid, "body": n}));
    }
    node.tell(app, &json!({"op": "flush", "pid": pid, "id": "some"}));
    node.tell(sender, &json!({"op": "kill", "to": pid}));
    let events = node.events(app);
    let answer = events.iter().find(|event| event["id"] == "some").expect("an answer");
    assert!(answer["messages"].as_array().is_some_and(|taken| taken.len() >= 500));
    assert!(node.router.may_read(app, &node.out));
    let me = node.self_pid(app);
    node.ask(app, json!({"op": "flag", "delivery": "pull"}));
    for n in 0..2_000 {
        node.tell(sender, &json!({"op": "send", "to": me, "body": n}));
    }
    node.tell(app, &json!({"op": "flush", "id": "rest"}));
    node.close(app);
    assert_eq!(node.router.queued(&node.out), 0);
}

#[test]
fn a_session_with_thousands_of_processes_is_taken_up_again_in_slices() {
    let mut node = Paper::new("a");
    let (app, sender) = (node.open(), node.open());
    node.tell(app, &json!({"op": "hello", "grace_ms": 10_000}));
    let welcome = node.events(app).remove(0);
    let pids: Vec<Value> = (0..MANY).map(|_| spawn(&mut node, app, &json!({}))).collect();
    node.close(app);
    for pid in &pids {
        node.tell(sender, &json!({"op": "send", "to": pid, "body": 1}));
    }
    let again = node.open();
    node.most = (0, 0);
    let resume = json!({"session": app, "secret": welcome["secret"], "seen": 1 + MANY});
    node.tell(again, &json!({"op": "hello", "resume": resume}));
    let events = node.events(app);
    in_slices(&node);
    assert_eq!(names(&events, "message"), MANY);
}

#[test]
fn a_full_mailbox_lets_thousands_of_senders_go_in_slices() {
    let mut node = Paper::new("a");
    let app = node.open();
    let mailbox = json!({"entries": 1, "policy": "wait"});
    node.ask(app, json!({"op": "flag", "delivery": "pull", "mailbox": mailbox}));
    let me = node.self_pid(app);
    let senders: Vec<u64> = (0..2_000).map(|_| node.open()).collect();
    for sender in &senders {
        node.tell(*sender, &json!({"op": "send", "to": me, "body": 1}));
        assert!(!node.router.may_read(*sender, &node.out));
    }
    node.most = (0, 0);
    node.close(app);
    in_slices(&node);
    assert!(senders.iter().all(|sender| node.router.may_read(*sender, &node.out)));
}

#[test]
fn after_a_long_info_the_hold_does_nothing_else() {
    let mut node = Paper::new("a");
    let app = node.open();
    for _ in 0..SLICE {
        let one = spawn(&mut node, app, &json!({}));
        node.tell(app, &json!({"op": "link", "to": one}));
    }
    node.tell(app, &json!({"op": "info", "id": "all"}));
    assert!(!node.out.may_go_on());
    node.tell(app, &json!({"op": "info", "id": "some", "keys": ["status"]}));
    assert!(node.out.may_go_on());
    let events = node.events(app);
    let links = |id: &str| {
        let answer = events.iter().find(|event| event["id"] == id).expect("an answer");
        answer["info"]["links"].as_array().map_or(0, Vec::len)
    };
    assert_eq!((links("all"), links("some")), (SLICE, 0));
}

#[test]
fn lists_of_thousands_of_names_groups_members_and_modules_are_made_in_slices() {
    let mut node = Paper::new("a");
    let app = node.open();
    let mut pids = Vec::new();
    for n in 0..2000 {
        let pid = spawn(&mut node, app, &json!({"name": format!("n{n:04}")}));
        let name = format!("g{n:04}");
        node.tell(app, &json!({"op": "join", "group": "all", "pid": pid}));
        node.tell(app, &json!({"op": "join", "group": name, "pid": pid}));
        node.tell(app, &json!({"op": "register", "name": name, "scope": "global", "pid": pid}));
        let module = format!("m{n:04}");
        node.tell(app, &json!({"op": "serve", "module": module, "functions": ["f"], "pid": pid}));
        pids.push(pid);
    }
    // One that has joined very often is not one entry.
    for _ in 0..3000 {
        node.tell(app, &json!({"op": "join", "group": "all", "pid": pids[0]}));
    }
    quiet(&mut node, app);
    for (mut list, noun, length) in [
        (json!({"op": "registered"}), "registered", 2000),
        (json!({"op": "registered", "scope": "global"}), "registered", 2000),
        (json!({"op": "groups"}), "groups", 2001),
        (json!({"op": "members", "group": "all"}), "members", 5000),
        (json!({"op": "modules"}), "modules", 2000),
    ] {
        node.most = (0, 0);
        list["id"] = json!("list");
        node.tell(app, &list);
        assert!(!node.router.may_read(app, &node.out), "{list}: it was made at once");
        node.work();
        in_slices(&node);
        assert!(node.router.may_read(app, &node.out));
        let answer = node.events(app).pop().expect("an answer");
        assert_eq!(answer[noun].as_array().map(Vec::len), Some(length), "{list}");
    }
}
