//! Ends: links, monitors, exits, and the order in which they are told.

use serde_json::{Value, json};

use super::support::{Pair, Paper};

fn spawn(node: &mut Paper, app: u64) -> Value {
    node.ask(app, json!({"op": "spawn"}))["pid"].clone()
}

#[test]
fn a_down_comes_once_after_the_last_message_and_the_name_is_free_by_then() {
    let mut node = Paper::new("a");
    let (watcher, app) = (node.open(), node.open());
    let me = node.self_pid(watcher);
    let child = node.ask(app, json!({"op": "spawn", "name": "bot"}))["pid"].clone();
    let reference = node.ask(watcher, json!({"op": "monitor", "to": "bot"}))["ref"].clone();
    node.tell(app, &json!({"op": "send", "pid": child, "to": me, "body": "last words"}));
    node.tell(app, &json!({"op": "exit", "pid": child, "reason": "done"}));
    let whereis = json!({"op": "whereis", "name": "bot"});
    assert!(node.ask(watcher, whereis)["pid"].is_null());
    let events = node.events(watcher);
    assert_eq!(events[0]["body"], "last words");
    assert_eq!(
        events[1],
        json!({"ev": "down", "ref": reference, "from": child, "name": "bot", "reason": "done"})
    );
    assert_eq!(events.len(), 2);
}

#[test]
fn an_exit_reaches_linked_processes_and_a_normal_one_harms_nobody() {
    let mut node = Paper::new("a");
    let app = node.open();
    let (one, two, three) = (spawn(&mut node, app), spawn(&mut node, app), spawn(&mut node, app));
    node.ask(app, json!({"op": "flag", "pid": three, "trap_exit": true}));
    node.ask(app, json!({"op": "link", "pid": one, "to": two}));
    node.ask(app, json!({"op": "link", "pid": two, "to": three}));
    node.ask(app, json!({"op": "exit", "pid": one, "reason": "crash"}));
    let events = node.events(app);
    assert!(events.contains(&json!({"ev": "died", "pid": two, "reason": "crash"})), "{events:?}");
    let trapped = json!({"ev": "exit", "from": two, "reason": "crash", "pid": three});
    assert!(events.contains(&trapped), "{events:?}");
    let four = spawn(&mut node, app);
    node.ask(app, json!({"op": "link", "pid": four, "to": three}));
    let five = spawn(&mut node, app);
    node.ask(app, json!({"op": "link", "pid": four, "to": five}));
    node.ask(app, json!({"op": "exit", "pid": four}));
    let events = node.events(app);
    assert_eq!(events, [json!({"ev": "exit", "from": four, "reason": "normal", "pid": three})]);
    assert_eq!(node.ask(app, json!({"op": "info", "to": five}))["ev"], "ok");
}

#[test]
fn kill_cannot_be_trapped_and_others_see_killed() {
    let mut node = Paper::new("a");
    let (app, other) = (node.open(), node.open());
    let child = node.ask(app, json!({"op": "spawn", "trap_exit": true}))["pid"].clone();
    node.ask(other, json!({"op": "monitor", "to": child}));
    node.ask(other, json!({"op": "kill", "to": child, "reason": "please"}));
    assert_eq!(node.events(app)[0]["reason"], "please");
    node.ask(other, json!({"op": "kill", "to": child}));
    assert_eq!(node.events(other)[0]["reason"], "killed");
}

#[test]
fn kill_of_anothers_process_needs_an_operator() {
    let mut node = Paper::new("a");
    let (app, other) = (node.open(), node.open_as(false));
    let me = node.self_pid(app);
    assert_eq!(node.ask(other, json!({"op": "kill", "to": me}))["code"], "denied");
    assert_eq!(node.ask(other, json!({"op": "exit", "pid": me}))["code"], "denied");
    assert_eq!(
        node.ask(other, json!({"op": "info", "to": me, "keys": ["messages"]}))["code"],
        "denied"
    );
    let mine = spawn(&mut node, other);
    assert_eq!(node.ask(other, json!({"op": "kill", "to": mine}))["ev"], "ok");
}

#[test]
fn a_session_that_ends_takes_its_processes_with_it() {
    let mut node = Paper::new("a");
    let (watcher, app) = (node.open(), node.open());
    let own = node.self_pid(app);
    let child = spawn(&mut node, app);
    for pid in [json!(own), child] {
        node.ask(watcher, json!({"op": "monitor", "to": pid}));
    }
    node.close(app);
    let reasons: Vec<_> =
        node.events(watcher).iter().map(|event| event["reason"].clone()).collect();
    assert_eq!(reasons, ["disconnected", "disconnected"]);
}

#[test]
fn the_death_of_a_large_session_goes_on_in_slices_and_its_pids_are_dead_from_the_first() {
    let mut node = Paper::new("a");
    let (watcher, app) = (node.open(), node.open());
    let mut pids = Vec::new();
    for _ in 0..2000 {
        let pid = spawn(&mut node, app);
        node.ask(watcher, json!({"op": "monitor", "to": pid}));
        pids.push(pid);
    }
    let last = pids.pop().expect("some");
    node.hold(|router, now, out| router.on_session_closed(now, app, out));
    // Nobody has run the rest of the work yet.
    node.tell(watcher, &json!({"op": "info", "to": last, "id": 1}));
    let mut first = Vec::new();
    while let Some(answer) = node.answer(watcher, 1) {
        first.push(answer);
    }
    assert_eq!(first[0]["code"], "noproc");
    assert_eq!(node.events(watcher).len(), 2000);
}

#[test]
fn unlink_and_demonitor_are_barriers() {
    let mut node = Paper::new("a");
    let app = node.open();
    node.ask(app, json!({"op": "flag", "trap_exit": true, "delivery": "pull"}));
    let child = spawn(&mut node, app);
    node.ask(app, json!({"op": "link", "to": child}));
    let reference = node.ask(app, json!({"op": "monitor", "to": child}))["ref"].clone();
    node.ask(app, json!({"op": "exit", "pid": child, "reason": "gone"}));
    let waiting = node.ask(app, json!({"op": "info", "keys": ["messages"]}));
    assert_eq!(waiting["info"]["messages"].as_array().map(Vec::len), Some(2));
    node.ask(app, json!({"op": "unlink", "to": child}));
    node.ask(app, json!({"op": "demonitor", "ref": reference, "flush": true}));
    assert_eq!(node.ask(app, json!({"op": "flush"}))["messages"], json!([]));
}

#[test]
fn links_and_monitors_reach_across_nodes() {
    let mut pair = Pair::new();
    let (app, other) = (pair.a.open(), pair.b.open());
    pair.a.ask(app, json!({"op": "flag", "trap_exit": true}));
    let theirs = pair.b.ask(other, json!({"op": "spawn", "name": "bot"}))["pid"].clone();
    pair.a.ask(app, json!({"op": "link", "to": theirs}));
    pair.a.ask(app, json!({"op": "monitor", "to": "bot@b"}));
    pair.a.ask(app, json!({"op": "monitor", "to": theirs}));
    pair.carry();
    let me = pair.a.self_pid(app);
    pair.b.tell(other, &json!({"op": "send", "pid": theirs, "to": me, "body": "last words"}));
    pair.b.ask(other, json!({"op": "exit", "pid": theirs, "reason": "crash"}));
    pair.carry();
    let events = pair.a.events(app);
    assert_eq!(events[0]["body"], "last words");
    assert_eq!(events.len(), 4, "{events:?}");
    assert!(events[1..].iter().all(|event| event["reason"] == "crash"));
    pair.cut();
    assert_eq!(pair.a.events(app).len(), 0, "each was told once");
}

#[test]
fn a_monitor_hears_noconnection_once_when_the_peer_is_lost() {
    let mut pair = Pair::new();
    let (app, other) = (pair.a.open(), pair.b.open());
    pair.a.ask(app, json!({"op": "flag", "trap_exit": true}));
    let theirs = pair.b.self_pid(other);
    pair.a.ask(app, json!({"op": "link", "to": theirs}));
    let by_pid = pair.a.ask(app, json!({"op": "monitor", "to": theirs}))["ref"].clone();
    let by_name = pair.a.ask(app, json!({"op": "monitor", "to": "nobody@b"}))["ref"].clone();
    pair.cut();
    let events = pair.a.events(app);
    assert_eq!(
        events,
        [
            json!({"ev": "exit", "from": theirs, "reason": "noconnection"}),
            json!({"ev": "down", "ref": by_pid, "from": theirs, "reason": "noconnection"}),
            json!({"ev": "down", "ref": by_name, "from": null, "name": "nobody@b", "reason": "noconnection"}),
        ]
    );
    pair.join();
    pair.b.close(other);
    pair.carry();
    assert_eq!(pair.a.events(app).len(), 0, "links and monitors do not come back");
    let answer = pair.a.ask(app, json!({"op": "monitor", "to": "bot@elsewhere@x"}));
    assert_eq!(pair.a.events(app)[0]["ref"], answer["ref"]);
}

#[test]
fn a_link_made_while_an_unlink_is_under_way_is_on_both_sides() {
    let mut pair = Pair::new();
    let (app, other) = (pair.a.open(), pair.b.open());
    for (node, app) in [(&mut pair.a, app), (&mut pair.b, other)] {
        node.ask(app, json!({"op": "flag", "trap_exit": true}));
    }
    let (mine, theirs) = (pair.a.self_pid(app), pair.b.self_pid(other));
    pair.a.ask(app, json!({"op": "link", "to": theirs}));
    pair.carry();
    // A takes it back while B, which has heard nothing of that, links again: both cross.
    pair.a.ask(app, json!({"op": "unlink", "to": theirs}));
    pair.b.ask(other, json!({"op": "unlink", "to": mine}));
    pair.b.ask(other, json!({"op": "link", "to": mine}));
    pair.carry();
    let links =
        |node: &mut Paper, app| node.ask(app, json!({"op": "info"}))["info"]["links"].clone();
    assert_eq!(
        links(&mut pair.a, app).as_array().map(Vec::len),
        links(&mut pair.b, other).as_array().map(Vec::len)
    );
    pair.a.ask(app, json!({"op": "link", "to": theirs}));
    pair.carry();
    assert_eq!(links(&mut pair.a, app), json!([theirs]));
    assert_eq!(links(&mut pair.b, other), json!([mine]));
}

#[test]
fn a_link_to_a_dead_process_is_an_exit_noproc() {
    let mut pair = Pair::new();
    let (app, other) = (pair.a.open(), pair.b.open());
    pair.a.ask(app, json!({"op": "flag", "trap_exit": true}));
    let theirs = spawn(&mut pair.b, other);
    pair.b.ask(other, json!({"op": "exit", "pid": theirs}));
    pair.a.ask(app, json!({"op": "link", "to": theirs}));
    pair.carry();
    assert_eq!(pair.a.events(app), [json!({"ev": "exit", "from": theirs, "reason": "noproc"})]);
    let mine = spawn(&mut pair.a, app);
    pair.a.ask(app, json!({"op": "exit", "pid": mine}));
    pair.a.ask(app, json!({"op": "link", "to": mine}));
    assert_eq!(pair.a.events(app), [json!({"ev": "exit", "from": mine, "reason": "noproc"})]);
}

#[test]
fn the_own_process_of_a_session_dies_and_the_session_with_it() {
    let mut node = Paper::new("a");
    let (app, other) = (node.open(), node.open());
    let me = node.self_pid(app);
    node.ask(other, json!({"op": "kill", "to": me, "reason": "enough"}));
    let events = node.events(app);
    assert_eq!(events, [json!({"ev": "died", "pid": me, "reason": "enough"})]);
    assert!(!node.router.has_session(app));
}

#[test]
fn a_sensitive_process_shows_its_messages_to_nobody_else() {
    let mut node = Paper::new("a");
    let (app, operator) = (node.open(), node.open());
    let me = node.self_pid(app);
    let look = json!({"op": "info", "to": me, "keys": ["messages"]});
    assert_eq!(node.ask(operator, look.clone())["ev"], "ok");
    node.ask(app, json!({"op": "flag", "sensitive": true}));
    assert_eq!(node.ask(operator, look.clone())["code"], "denied");
    assert_eq!(node.ask(app, look)["ev"], "ok");
}

#[test]
fn the_timers_of_a_session_are_its_own_and_its_names_but_for_an_operator() {
    let mut node = Paper::new("a");
    let (app, other, operator) = (node.open(), node.open_as(false), node.open());
    let name = json!({"op": "register", "name": "stock"});
    node.ask(app, name);
    let send = json!({"op": "send_after", "to": "stock", "after_ms": 1000, "body": 1});
    let timer = node.ask(app, send)["timer"].clone();
    for session in [other, operator] {
        let cancel = json!({"op": "cancel_timer", "timer": timer});
        assert_eq!(node.ask(session, cancel)["code"], "denied");
    }
    let unregister = json!({"op": "unregister", "name": "stock"});
    assert_eq!(node.ask(other, unregister.clone())["code"], "denied");
    assert_eq!(node.ask(operator, unregister)["ev"], "ok");
}

#[test]
fn a_kill_with_the_reason_kill_is_not_obeyed_from_afar() {
    let mut pair = Pair::new();
    let (app, other) = (pair.a.open(), pair.b.open());
    let theirs = pair.b.self_pid(other);
    assert_eq!(pair.a.ask(app, json!({"op": "kill", "to": theirs}))["ev"], "ok");
    pair.carry();
    assert!(pair.b.router.has_session(other));
    pair.a.ask(app, json!({"op": "kill", "to": theirs, "reason": "please"}));
    pair.carry();
    assert!(!pair.b.router.has_session(other));
}

#[test]
fn a_normal_exit_signal_ends_only_the_process_that_sends_it_to_itself() {
    let mut node = Paper::new("a");
    let app = node.open();
    let (one, two) = (spawn(&mut node, app), spawn(&mut node, app));
    let kill =
        |from: &Value, to: &Value| json!({"op": "kill", "pid": from, "to": to, "reason": "normal"});
    node.ask(app, kill(&one, &two));
    assert_eq!(node.ask(app, json!({"op": "info", "to": two}))["ev"], "ok");
    node.ask(app, kill(&two, &two));
    assert_eq!(node.ask(app, json!({"op": "info", "to": two}))["code"], "noproc");
}

#[test]
fn a_kill_on_another_node_is_answered_ok_whatever_becomes_of_it() {
    let mut pair = Pair::new();
    let (app, other) = (pair.a.open(), pair.b.open());
    let theirs = pair.b.self_pid(other);
    let dead = spawn(&mut pair.b, other);
    pair.b.ask(other, json!({"op": "exit", "pid": dead}));
    // Refused by its `remote` setting, dead, nobody, not there: as `exit/2` is always true.
    for to in [json!(theirs), dead, json!("nobody@b"), json!("nobody@elsewhere")] {
        assert_eq!(pair.a.ask(app, json!({"op": "kill", "to": to}))["ev"], "ok", "{to}");
        pair.carry();
    }
    assert!(pair.b.router.has_session(other));
    assert_eq!(pair.a.events(app), [] as [Value; 0]);
}

#[test]
fn what_nobody_is_there_to_hear_is_counted_in_the_grace_and_not_kept() {
    let mut node = Paper::new("a");
    let (app, other) = (node.open(), node.open());
    node.tell(app, &json!({"op": "hello", "grace_ms": 60_000}));
    node.ask(app, json!({"op": "monitor_deaths"}));
    let welcome = node.events(app).remove(0);
    node.close(app);
    for _ in 0..1_000 {
        let pid = spawn(&mut node, other);
        node.ask(other, json!({"op": "exit", "pid": pid, "reason": "r".repeat(500)}));
    }
    assert_eq!(node.router.queued(&node.out), 0);
    let again = node.open();
    let resume = json!({"session": welcome["session"], "secret": "secret", "seen": 2});
    node.tell(again, &json!({"op": "hello", "resume": resume}));
    let told = node.events(app);
    assert_eq!((&told[0]["ev"], told.len()), (&json!("welcome"), 2), "{told:?}");
    // The end of the connection's own process is one of them.
    assert_eq!(told[1], json!({"ev": "gap", "lost": 1_001, "reason": "resumed"}));
}

#[test]
fn a_session_that_is_killed_in_its_grace_leaves_nothing_behind() {
    let mut node = Paper::new("a");
    let (app, other) = (node.open(), node.open());
    node.ask(app, json!({"op": "hello", "grace_ms": 60_000}));
    let pid = node.self_pid(app);
    node.close(app);
    node.out.gone.clear();
    node.ask(other, json!({"op": "kill", "to": pid}));
    assert!(!node.router.has_session(app));
    assert_eq!(node.out.gone, [app], "who waits for the last session to go waits for ever");
    assert_eq!(node.router.queued(&node.out), 0);
}
