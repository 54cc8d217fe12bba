//! The life of a node: ready or not and why, and how it leaves without that a call is lost.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::SLICE;
use super::support::{Pair, Paper};
use crate::router::life::Unready;
use crate::router::nodes::{MeshRequest, SelfSeen};

fn evs(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["ev"].as_str()).collect()
}

/// An app on each node that serves the module `shop`, is in the group `tills` and in the queue group `q` of `jobs`.
fn serving() -> (Pair, [u64; 2], [u64; 2]) {
    let mut pair = Pair::new();
    let (tills, callers) = ([pair.a.open(), pair.b.open()], [pair.a.open(), pair.b.open()]);
    for (node, till) in [(&mut pair.a, tills[0]), (&mut pair.b, tills[1])] {
        node.ask(till, json!({"op": "serve", "module": "shop"}));
        node.ask(till, json!({"op": "join", "group": "tills"}));
        node.ask(till, json!({"op": "subscribe", "topic": "jobs", "group": "q"}));
    }
    pair.carry();
    (pair, tills, callers)
}

/// What may be answered by anybody: a function, a member of a group, a member of a queue group.
fn for_anybody() -> [Value; 3] {
    [
        json!({"op": "rpc", "node": "any", "module": "shop", "function": "f", "id": 1, "body": 1}),
        json!({"op": "call", "to": "group:tills", "id": 2, "body": 2}),
        json!({"op": "publish", "topic": "jobs", "body": 3}),
    ]
}

#[test]
fn a_node_is_ready_step_by_step_and_says_what_it_waits_for() {
    let mut pair = Pair::apart(Paper::new("a"), Paper::new("b"));
    let app = pair.a.open();
    let me = SelfSeen { min_peers: 1, ..SelfSeen::default() };
    pair.a.hold(|router, _, out| router.on_self(me, out));
    let unready = |pair: &Pair| pair.a.router.readiness().ready().err();
    assert_eq!(pair.a.router.readiness().startup(), Err(Unready::Unbound));
    assert_eq!(unready(&pair), Some(Unready::Unbound));
    pair.a.router.on_issued(false);
    pair.a.router.on_bound();
    assert_eq!(pair.a.router.readiness().startup(), Ok(()));
    assert_eq!(unready(&pair), Some(Unready::Unissued));
    pair.a.router.on_issued(true);
    assert_eq!(unready(&pair), Some(Unready::Looking));
    pair.a.router.on_looked();
    assert_eq!(unready(&pair), Some(Unready::FewPeers { up: 0, wanted: 1 }));
    let not = pair.a.ask(app, json!({"op": "ready"}));
    assert_eq!((&not["ready"], &not["reason"]), (&json!(false), &json!("few_peers")));
    assert!(not["message"].as_str().unwrap().starts_with("0 of the 1 nodes"), "{not}");
    // Who waits hears when it has come, and who has waited long enough hears why it has not.
    pair.a.tell(app, &json!({"op": "ready", "wait_ms": 60_000, "id": "long"}));
    pair.a.tell(app, &json!({"op": "ready", "wait_ms": 100, "id": "short"}));
    assert!(pair.a.events(app).is_empty());
    pair.a.pass(Duration::from_millis(100));
    let told = pair.a.events(app);
    assert_eq!(
        (told.len(), &told[0]["id"], &told[0]["ready"]),
        (1, &json!("short"), &json!(false))
    );
    pair.join();
    assert_eq!(pair.a.events(app), [json!({"ev": "ok", "id": "long", "ready": true})]);
    let own = pair.a.ask(app, json!({"op": "nodes", "state": "self"}));
    assert_eq!(own["nodes"][0]["ready"], true);
    // A gate, not a gauge; draining is for good.
    pair.cut();
    assert_eq!(unready(&pair), None);
    pair.a.tell(app, &json!({"op": "drain"}));
    assert_eq!(unready(&pair), Some(Unready::Draining));
    pair.a.tell(app, &json!({"op": "ready", "wait_ms": 60_000, "id": "never"}));
    let told = pair.a.events(app);
    assert_eq!(evs(&told), ["draining", "ok"]);
    assert_eq!(told[1]["reason"], "draining");
}

#[test]
fn every_app_hears_of_draining_before_any_other_node_does() {
    const APPS: usize = 2_000;
    let mut pair = Pair::new();
    let other = pair.b.open();
    let apps: Vec<u64> = (0..APPS).map(|_| pair.a.open()).collect();
    pair.a.most = (0, 0);
    pair.a.hold(crate::router::Router::on_drain);
    let draining = |pair: &mut Pair| {
        pair.carry_once();
        let nodes = pair.b.ask(other, json!({"op": "nodes", "state": "connected"}));
        nodes["nodes"][0]["draining"] == true
    };
    assert!(!draining(&mut pair), "there are apps that have not heard");
    pair.a.work();
    for app in apps {
        assert_eq!(evs(&pair.a.events(app)), ["draining"]);
    }
    assert!(draining(&mut pair));
    assert!(pair.a.most.0 <= SLICE + 8, "{} entries in one hold", pair.a.most.0);
    // Both meshes are told, once, and which run it is.
    pair.a.hold(crate::router::Router::on_drain);
    for node in [&mut pair.a, &mut pair.b] {
        let told: Vec<MeshRequest> = node.out.requests.drain(..).collect();
        let [MeshRequest::Drains { node }] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((node.name.as_str(), node.incarnation.0), ("a@paper", 1));
    }
}

#[test]
fn what_anybody_can_do_goes_past_a_node_that_drains() {
    let (mut pair, [near, far], [caller, there]) = serving();
    pair.a.hold(crate::router::Router::on_drain);
    pair.a.work();
    pair.carry();
    let _ = (pair.a.events(near), pair.a.events(caller));
    // Also what its own apps ask for.
    for command in for_anybody() {
        pair.a.tell(caller, &command);
        pair.b.tell(there, &command);
    }
    pair.carry();
    assert_eq!(pair.a.events(near), Vec::<Value>::new());
    let asked = pair.b.events(far);
    assert_eq!(evs(&asked), ["rpc", "call", "message", "rpc", "call", "message"]);
    // What only it can do it does for as long as it is there.
    let to_it = json!({"op": "rpc", "node": "a", "module": "shop", "function": "f", "id": 9});
    pair.b.tell(there, &to_it);
    pair.carry();
    assert_eq!(evs(&pair.a.events(near)), ["rpc"]);
    pair.b.close(far);
    pair.carry();
    for command in for_anybody() {
        pair.a.tell(caller, &command);
        pair.b.tell(there, &command);
    }
    pair.carry();
    let asked = pair.a.events(near);
    let count = |ev: &str| asked.iter().filter(|event| event["ev"] == ev).count();
    // The calls that the other app had not answered have found their way too: they were never... handed over.
    assert!(count("rpc") >= 2 && count("call") >= 2 && count("message") == 2, "{asked:?}");
}

#[test]
fn when_all_nodes_drain_each_serves_its_own_apps() {
    let (mut pair, [near, far], [caller, there]) = serving();
    for node in [&mut pair.a, &mut pair.b] {
        node.hold(crate::router::Router::on_drain);
        node.work();
    }
    pair.carry();
    let _ = (pair.a.events(near), pair.b.events(far));
    for command in for_anybody() {
        pair.a.tell(caller, &command);
        pair.b.tell(there, &command);
    }
    pair.carry();
    assert_eq!(evs(&pair.a.events(near)), ["rpc", "call", "message"]);
    assert_eq!(evs(&pair.b.events(far)), ["rpc", "call", "message"]);
}

#[test]
fn a_global_name_of_a_draining_node_is_its_own_until_somebody_else_takes_it() {
    let mut pair = Pair::new();
    let (holder, next) = (pair.a.open(), pair.b.open());
    let register = json!({"op": "register", "name": "leader", "scope": "global"});
    pair.a.ask(holder, register.clone());
    pair.carry();
    assert_eq!(pair.b.ask(next, register.clone())["code"], "taken");
    pair.a.hold(crate::router::Router::on_drain);
    pair.a.work();
    pair.carry();
    let _ = pair.a.events(holder);
    // It is asked for as long as nobody else has the name.
    pair.b.tell(next, &json!({"op": "cast", "to": "global:leader", "body": 1}));
    pair.carry();
    assert_eq!(evs(&pair.a.events(holder)), ["cast"]);
    let other = pair.b.open_as(false);
    assert_eq!(pair.b.ask(other, register.clone())["ev"], "ok", "nobody has to be an operator");
    pair.carry();
    let winner = pair.b.self_pid(other);
    let told = pair.a.events(holder);
    assert_eq!(told, [json!({"ev": "name_conflict", "name": "leader", "winner": winner})]);
    for (node, app) in [(&mut pair.a, holder), (&mut pair.b, next)] {
        let whereis = json!({"op": "whereis", "name": "leader", "scope": "global"});
        assert_eq!(node.ask(app, whereis)["pid"], json!(winner));
    }
    // A node that leaves takes no name.
    let another = json!({"op": "register", "name": "other", "scope": "global"});
    assert_eq!(pair.a.ask(holder, another)["code"], "draining");
}

/// A caller on `b`, and a name whose holder has left its draining node `a`.
fn name_on_the_move() -> (Pair, u64, u64) {
    let mut pair = Pair::new();
    let (holder, heir, caller) = (pair.a.open(), pair.b.open(), pair.b.open());
    pair.a.ask(holder, json!({"op": "register", "name": "leader", "scope": "global"}));
    pair.a.hold(crate::router::Router::on_drain);
    pair.a.work();
    pair.carry();
    let call = json!({"op": "call", "to": "global:leader", "timeout_ms": 3000, "body": 1});
    let mut first = call.clone();
    first["id"] = json!("first");
    // It is in the mailbox of the holder, which has been given nothing any more.
    pair.a.ask(holder, json!({"op": "flag", "delivery": "pull"}));
    pair.b.tell(caller, &first);
    pair.carry();
    pair.a.ask(holder, json!({"op": "bye"}));
    pair.carry();
    let mut second = call;
    second["id"] = json!("second");
    pair.b.tell(caller, &second);
    assert!(pair.b.events(caller).is_empty(), "both wait for who takes the name");
    (pair, heir, caller)
}

#[test]
fn calls_to_a_global_name_on_the_move_wait_for_whoever_takes_it() {
    let (mut pair, heir, caller) = name_on_the_move();
    pair.b.ask(heir, json!({"op": "register", "name": "leader", "scope": "global"}));
    let asked = pair.b.events(heir);
    assert_eq!(evs(&asked), ["call", "call"]);
    for call in &asked {
        pair.b.tell(heir, &json!({"op": "reply", "ref": call["ref"], "body": 2}));
    }
    let told = pair.b.events(caller);
    assert_eq!(told.iter().map(|event| &event["body"]).collect::<Vec<_>>(), [2, 2]);
    pair.assert_no_calls();
    assert_eq!(pair.b.router.moving_kept(), (0, 0));
}

#[test]
fn a_call_that_waited_for_a_name_in_vain_was_not_applied() {
    let (mut pair, _, caller) = name_on_the_move();
    pair.b.pass(Duration::from_millis(2999));
    assert!(pair.b.events(caller).is_empty());
    pair.b.pass(Duration::from_millis(1));
    let told = pair.b.events(caller);
    assert_eq!(told.len(), 2);
    for event in &told {
        assert_eq!((&event["code"], &event["maybe_applied"]), (&json!("timeout"), &json!(false)));
    }
    pair.assert_no_calls();
    // After a while nobody is expected to take it any more, and those who still wait are told.
    let patient = json!({"op": "call", "to": "global:leader", "timeout_ms": 60_000, "id": 3});
    pair.b.tell(caller, &patient);
    pair.b.pass(Duration::from_secs(10));
    let told = pair.b.events(caller);
    assert_eq!((&told[0]["code"], &told[0]["maybe_applied"]), (&json!("noproc"), &json!(false)));
    assert_eq!(pair.b.ask(caller, patient)["code"], "noproc");
    assert_eq!(pair.b.router.moving_kept(), (0, 0));
    pair.assert_no_calls();
}

#[test]
fn a_name_whose_draining_node_is_lost_is_on_the_move_too() {
    let mut pair = Pair::new();
    let (holder, caller) = (pair.a.open(), pair.b.open());
    pair.a.ask(holder, json!({"op": "register", "name": "leader", "scope": "global"}));
    pair.a.hold(crate::router::Router::on_drain);
    pair.a.work();
    pair.carry();
    pair.cut();
    pair.b.tell(caller, &json!({"op": "call", "to": "global:leader", "id": 1, "body": 1}));
    assert!(pair.b.events(caller).is_empty());
    pair.b.ask(caller, json!({"op": "cancel", "of": 1}));
    assert_eq!(pair.b.router.moving_kept(), (1, 0));
    pair.assert_no_calls();
}

#[test]
fn drain_ends_when_no_app_and_no_call_is_left_and_says_what_is_left_when_its_time_is_over() {
    let mut pair = Pair::new();
    let (operator, till, caller) = (pair.a.open(), pair.a.open(), pair.b.open());
    let till_pid = pair.a.self_pid(till);
    pair.b.tell(caller, &json!({"op": "call", "to": till_pid, "id": 1, "timeout_ms": 60_000}));
    pair.carry();
    let asked = pair.a.events(till);
    pair.a.tell(operator, &json!({"op": "drain", "wait_ms": 1000, "id": "short"}));
    pair.a.tell(operator, &json!({"op": "drain", "wait_ms": 60_000, "id": "long"}));
    assert_eq!(evs(&pair.a.events(operator)), ["draining"], "draining twice is draining once");
    pair.a.pass(Duration::from_secs(1));
    let left = json!({"ev": "ok", "id": "short", "sessions": 1, "calls": 1});
    assert_eq!(pair.a.events(operator), [left]);
    assert_eq!(evs(&pair.a.events(till)), ["draining"]);
    pair.a.ask(till, json!({"op": "reply", "ref": asked[0]["ref"], "body": "done"}));
    assert!(pair.a.events(operator).is_empty(), "an app is left");
    pair.a.close(till);
    let none = json!({"ev": "ok", "id": "long", "sessions": 0, "calls": 0});
    assert_eq!(pair.a.events(operator), [none]);
    pair.carry();
    assert_eq!(pair.b.events(caller)[0]["body"], "done");
    // Without a wait it says what there is.
    let another = pair.a.open();
    let left = pair.a.ask(operator, json!({"op": "drain"}));
    assert_eq!((&left["sessions"], &left["calls"]), (&json!(1), &json!(0)));
    pair.a.close(another);
    assert_eq!(pair.a.router.apps(), 1);
}

#[test]
fn a_session_that_has_lost_its_connection_is_nobody_to_wait_for() {
    let mut node = Paper::new("a");
    let (operator, app) = (node.open(), node.open());
    node.tell(app, &json!({"op": "hello", "grace_ms": 3_600_000}));
    node.tell(operator, &json!({"op": "drain", "wait_ms": 60_000, "id": 1}));
    node.close(app);
    let told = node.events(operator);
    assert_eq!((evs(&told), &told[1]["sessions"]), (vec!["draining", "ok"], &json!(0)));
}

#[test]
fn who_comes_while_the_node_drains_hears_so_at_once_and_is_served() {
    let mut node = Paper::new("a");
    let app = node.open();
    node.tell(app, &json!({"op": "hello", "grace_ms": 60_000}));
    let welcome = node.events(app).remove(0);
    node.close(app);
    node.hold(crate::router::Router::on_drain);
    node.work();
    let late = node.open();
    assert_eq!(evs(&node.events(late)), ["draining"]);
    assert!(node.self_pid(late).starts_with("<a@paper"));
    // One that takes up its session hears it once, and counts it: welcome and ok had come before.
    let resume = |seen: u64| json!({"session": app, "secret": welcome["secret"], "seen": seen});
    for read_before in [true, false] {
        let again = node.open();
        if read_before {
            assert_eq!(evs(&node.events(again)), ["draining"]);
        }
        let seen = if read_before { 1 } else { 4 };
        node.tell(again, &json!({"op": "hello", "resume": resume(seen)}));
        let told = node.events(app);
        // The one that was told to the connection that had gone is the gap.
        let expected: &[&str] =
            if read_before { &["welcome", "gap"] } else { &["draining", "welcome"] };
        assert_eq!(evs(&told), expected, "{told:?}");
        node.close(app);
    }
}

#[test]
fn draining_needs_an_operator() {
    let mut node = Paper::new("a");
    let app = node.open_as(false);
    assert_eq!(node.ask(app, json!({"op": "drain"}))["code"], "denied");
    assert!(node.events(app).is_empty());
    let operator = node.open();
    let long = json!({"op": "drain", "wait_ms": 1_u64 << 50});
    assert_eq!(node.ask(operator, long)["code"], "badarg");
    assert!(node.events(operator).is_empty(), "what is refused is not begun");
    assert_eq!(
        node.ask(operator, json!({"op": "ready", "wait_ms": 1_u64 << 50}))["code"],
        "badarg"
    );
}

#[test]
fn what_a_peer_sent_before_it_heard_is_answered_before_the_node_leaves() {
    let (mut pair, [near, far], [_, there]) = serving();
    pair.b.close(far);
    pair.carry();
    pair.a.hold(crate::router::Router::on_drain);
    pair.a.work();
    // The app leaves at once; a call to it is on its way already.
    pair.a.close(near);
    let [rpc, call, _] = for_anybody();
    pair.b.tell(there, &rpc);
    pair.b.tell(there, &call);
    pair.a.hold(crate::router::Router::on_settle);
    assert!(!pair.a.router.is_settled());
    pair.carry();
    assert!(pair.a.router.is_settled() && pair.a.out.settled);
    for event in pair.b.events(there) {
        assert_eq!(event["maybe_applied"], false, "{event}");
    }
    pair.assert_no_calls();
    // A peer that says nothing is waited for two seconds, one that is lost no more.
    pair.a.hold(crate::router::Router::on_settle);
    pair.a.pass(Duration::from_secs(2));
    assert!(pair.a.router.is_settled());
    pair.a.hold(crate::router::Router::on_settle);
    pair.cut();
    assert!(pair.a.router.is_settled());
}
