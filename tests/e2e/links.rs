//! Links, monitors, exits and what a pid means, on one node and between two.

use crate::support::{App, DIALECTS, Daemon, Place, Value, eventually, json};

/// Two nodes that know each other.
fn two(args: &[&str]) -> (Daemon, Daemon) {
    let place = Place::new();
    let (a, b) = (place.start("a", args), place.start("b", args));
    a.json().meets(&[&b]);
    b.json().meets(&[&a]);
    (a, b)
}

/// Each of the ways in which two apps can be: on one node or on two, in one dialect or in two.
fn pairs(mut test: impl FnMut(App, App)) {
    let (a, b) = two(&[]);
    for one in DIALECTS {
        for other in DIALECTS {
            test(a.app(one), a.app(other));
            test(a.app(one), b.app(other));
        }
    }
}

#[track_caller]
fn assert_down(event: &Value, reference: &Value, pid: &str, reason: &str) {
    assert_eq!(event["ev"], "down", "{event}");
    assert_eq!(event["ref"], *reference, "{event}");
    assert_eq!(event["from"], pid, "{event}");
    assert_eq!(event["reason"], reason, "{event}");
}

fn monitor(app: &mut App, to: &str) -> Value {
    app.ok(json!({"op": "monitor", "to": to}))["ref"].take()
}

/// Nothing is on its way from `other`'s node to `app`: whatever that node wrote came before this.
fn settled(app: &mut App, other: &mut App) {
    let own = app.pid.clone();
    other.send(&own, json!("settled"));
    assert_eq!(app.body(), "settled");
}

#[test]
fn a_down_says_who_died_and_in_whose_mailbox_it_lies() {
    pairs(|mut watcher, mut app| {
        let (target, other) = (app.spawn(json!({})), watcher.spawn(json!({})));
        let answer = watcher.ok(json!({"op": "monitor", "to": target, "pid": other}));
        settled(&mut app, &mut watcher);
        app.ok(json!({"op": "exit", "pid": target, "reason": "done"}));
        let down = watcher.event();
        assert_down(&down, &answer["ref"], &target, "done");
        assert_eq!(down["pid"], other.as_str(), "{down}");
    });
}

#[test]
fn a_down_comes_once_with_the_reason_and_after_the_last_message() {
    pairs(|mut watcher, mut app| {
        let target = app.spawn(json!({}));
        let reference = monitor(&mut watcher, &target);
        settled(&mut app, &mut watcher);
        for n in 0..100 {
            app.tell(json!({"op": "send", "pid": target, "to": watcher.pid, "body": n}));
        }
        app.tell(json!({"op": "exit", "pid": target, "reason": "done for today"}));
        for n in 0..100 {
            assert_eq!(watcher.body(), n);
        }
        assert_down(&watcher.event(), &reference, &target, "done for today");
        settled(&mut watcher, &mut app);
        // Of one that is dead already.
        let reference = monitor(&mut watcher, &target);
        assert_down(&watcher.event(), &reference, &target, "noproc");
        settled(&mut watcher, &mut app);
    });
}

#[test]
fn a_large_last_message_still_comes_before_the_down() {
    pairs(|mut watcher, mut app| {
        let target = app.spawn(json!({}));
        let reference = monitor(&mut watcher, &target);
        settled(&mut app, &mut watcher);
        for length in [65_535, 65_536, 65_537, 900_000, 1] {
            let body = "x".repeat(length);
            app.tell(json!({"op": "send", "pid": target, "to": watcher.pid, "body": body}));
        }
        app.tell(json!({"op": "exit", "pid": target, "reason": "over"}));
        for length in [65_535, 65_536, 65_537, 900_000, 1] {
            assert_eq!(watcher.body().as_str().unwrap().len(), length);
        }
        assert_down(&watcher.event(), &reference, &target, "over");
    });
}

#[test]
fn a_name_is_monitored_here_and_on_another_node_and_is_free_before_the_down() {
    pairs(|mut watcher, mut app| {
        let node = app.pid[1..].split('.').next().unwrap().to_owned();
        let there = format!("stock@{node}");
        let here = node == watcher.pid[1..].split('.').next().unwrap();
        let target = app.spawn(json!({"name": "stock"}));
        let mut addresses = vec![there.as_str()];
        if here {
            addresses.push("stock");
        }
        let mut references: Vec<Value> =
            addresses.iter().map(|address| monitor(&mut watcher, address)).collect();
        settled(&mut app, &mut watcher);
        app.ok(json!({"op": "exit", "pid": target, "reason": "sold out"}));
        for _ in 0..addresses.len() {
            let down = watcher.event();
            let at = references.iter().position(|reference| down["ref"] == *reference).unwrap();
            assert_eq!(down["name"], addresses[at], "{down}");
            assert_eq!(down["reason"], "sold out");
            addresses[at] = "told";
            references[at] = Value::Null;
            let whereis = json!({"op": "whereis", "name": "stock", "node": node});
            assert!(watcher.ok(whereis)["pid"].is_null());
        }
        // A name that nobody has.
        let reference = monitor(&mut watcher, &there);
        let down = watcher.event();
        assert_eq!((&down["ref"], &down["reason"]), (&reference, &json!("noproc")));
    });
}

#[test]
fn every_monitor_of_one_process_gets_its_own_down() {
    pairs(|mut watcher, mut app| {
        let target = app.spawn(json!({}));
        let mut references: Vec<u64> =
            (0..20).map(|_| monitor(&mut watcher, &target).as_u64().unwrap()).collect();
        settled(&mut app, &mut watcher);
        app.ok(json!({"op": "exit", "pid": target}));
        for _ in 0..20 {
            let down = watcher.event();
            assert_eq!(down["reason"], "normal");
            references.retain(|reference| down["ref"] != *reference);
        }
        assert!(references.is_empty());
    });
}

#[test]
fn after_demonitor_with_flush_no_down_is_seen() {
    pairs(|mut watcher, mut app| {
        watcher.ok(json!({"op": "hello", "delivery": "pull"}));
        watcher.event_of("welcome");
        for _ in 0..20 {
            let target = app.spawn(json!({}));
            let reference = monitor(&mut watcher, &target);
            app.tell(json!({"op": "exit", "pid": target}));
            watcher.ok(json!({"op": "demonitor", "ref": reference, "flush": true}));
        }
        app.ok(json!({"op": "self"}));
        // A demonitor of what is no more, or never was, is ok.
        watcher.ok(json!({"op": "demonitor", "ref": 4711}));
        let own = watcher.pid.clone();
        app.send(&own, json!("settled"));
        let first = watcher.ok(json!({"op": "receive", "timeout_ms": 20_000}));
        assert_eq!(first["messages"][0]["body"], "settled", "{first}");
    });
}

#[test]
fn a_link_takes_the_other_end_along_with_the_reason() {
    pairs(|mut one, mut other| {
        let target = other.spawn(json!({}));
        let linked = one.spawn(json!({}));
        let reference = monitor(&mut one, &linked);
        one.ok(json!({"op": "link", "pid": linked, "to": target}));
        settled(&mut other, &mut one);
        other.ok(json!({"op": "exit", "pid": target, "reason": "broken"}));
        let died = one.event();
        assert_eq!((&died["ev"], &died["reason"]), (&json!("died"), &json!("broken")));
        assert_down(&one.event(), &reference, &linked, "broken");
        settled(&mut one, &mut other);
    });
}

#[test]
fn a_normal_exit_kills_nobody_and_is_told_to_those_who_trap() {
    pairs(|mut one, mut other| {
        one.ok(json!({"op": "flag", "trap_exit": true}));
        let untouched = one.spawn(json!({}));
        let target = other.spawn(json!({}));
        one.ok(json!({"op": "link", "to": target}));
        one.ok(json!({"op": "link", "pid": untouched, "to": target}));
        settled(&mut other, &mut one);
        other.ok(json!({"op": "exit", "pid": target}));
        let exit = one.event();
        assert_eq!((&exit["ev"], &exit["reason"]), (&json!("exit"), &json!("normal")));
        assert_eq!(exit["from"], target.as_str());
        settled(&mut one, &mut other);
        assert_eq!(one.info(&untouched, "links"), json!([]));
    });
}

#[test]
fn a_link_to_a_dead_process_is_an_exit_with_noproc() {
    pairs(|mut one, mut other| {
        one.ok(json!({"op": "flag", "trap_exit": true}));
        let target = other.spawn(json!({}));
        other.ok(json!({"op": "exit", "pid": target}));
        one.ok(json!({"op": "link", "to": target}));
        let exit = one.event();
        assert_eq!((&exit["ev"], &exit["reason"]), (&json!("exit"), &json!("noproc")));
        assert_eq!(exit["from"], target.as_str());
    });
}

#[test]
fn after_unlink_no_exit_is_seen() {
    pairs(|mut one, mut other| {
        one.ok(json!({"op": "hello", "delivery": "pull"}));
        one.event_of("welcome");
        one.ok(json!({"op": "flag", "trap_exit": true}));
        for _ in 0..20 {
            let target = other.spawn(json!({}));
            one.ok(json!({"op": "link", "to": target}));
            other.tell(json!({"op": "exit", "pid": target, "reason": "late"}));
            one.ok(json!({"op": "unlink", "to": target}));
        }
        // One that was unlinked and linked again is linked.
        let target = other.spawn(json!({}));
        for op in ["link", "unlink", "link"] {
            one.ok(json!({"op": op, "to": target}));
        }
        let own = one.pid.clone();
        other.ok(json!({"op": "self"}));
        let from = other.pid.clone();
        one.send(&from, json!("linked"));
        assert_eq!(other.body(), "linked");
        other.ok(json!({"op": "exit", "pid": target, "reason": "seen"}));
        other.send(&own, json!("settled"));
        let mut seen = Vec::new();
        while seen.last() != Some(&json!("settled")) {
            let answer = one.ok(json!({"op": "receive", "timeout_ms": 20_000}));
            let event = &answer["messages"][0];
            assert_ne!(event["reason"], "late");
            seen.push(if event["ev"] == "exit" {
                event["reason"].clone()
            } else {
                event["body"].clone()
            });
        }
        assert_eq!(seen, ["seen", "settled"]);
    });
}

#[test]
fn a_kill_with_a_reason_can_be_trapped_and_kill_itself_cannot() {
    let a = Daemon::alone(&[]);
    for one in DIALECTS {
        for other in DIALECTS {
            let (mut killer, mut app) = (a.app(one), a.app(other));
            app.ok(json!({"op": "flag", "trap_exit": true}));
            let victim = app.spawn(json!({"trap_exit": true}));
            let reference = monitor(&mut killer, &victim);
            killer.ok(json!({"op": "kill", "to": victim, "reason": "please go"}));
            let exit = app.event();
            assert_eq!((&exit["ev"], &exit["reason"]), (&json!("exit"), &json!("please go")));
            assert_eq!((&exit["pid"], &exit["from"]), (&json!(victim), &json!(killer.pid)));
            killer.nothing();
            killer.ok(json!({"op": "kill", "to": victim}));
            let died = app.event();
            assert_eq!((&died["ev"], &died["reason"]), (&json!("died"), &json!("killed")));
            assert_down(&killer.event(), &reference, &victim, "killed");
        }
    }
}

#[test]
fn a_kill_from_another_node_reaches_the_process_with_its_reason() {
    let (a, b) = two(&[]);
    for dialect in DIALECTS {
        let (mut killer, mut app) = (a.app(dialect), b.app(dialect));
        let victim = app.spawn(json!({}));
        let trapping = app.spawn(json!({"trap_exit": true}));
        killer.ok(json!({"op": "kill", "to": trapping, "reason": "please go"}));
        let exit = app.event();
        assert_eq!((&exit["pid"], &exit["from"]), (&json!(trapping), &json!(killer.pid)));
        let reference = monitor(&mut killer, &victim);
        killer.ok(json!({"op": "kill", "to": victim, "reason": "please go"}));
        assert_down(&killer.event(), &reference, &victim, "please go");
    }
}

#[test]
fn a_node_that_is_killed_is_noconnection_to_links_monitors_and_watchers() {
    let (a, mut b) = two(&[]);
    let mut app = a.cbor();
    let mut there = b.json();
    there.ok(json!({"op": "register", "name": "stock"}));
    let target = there.pid.clone();
    app.ok(json!({"op": "flag", "trap_exit": true}));
    app.ok(json!({"op": "monitor_nodes", "on": true}));
    let by_pid = monitor(&mut app, &target);
    let by_name = monitor(&mut app, "stock@b@t");
    app.ok(json!({"op": "link", "to": target}));
    app.ok(json!({"op": "monitor_node", "node": "b@t"}));
    there.send(&app.pid, json!("last words"));
    assert_eq!(app.body(), "last words");
    b.kill();
    let events: Vec<Value> = (0..5).map(|_| app.event()).collect();
    let position = |found: &dyn Fn(&Value) -> bool| {
        let all: Vec<usize> =
            events.iter().enumerate().filter(|(_, event)| found(event)).map(|(at, _)| at).collect();
        assert_eq!(all.len(), 1, "{events:?}");
        all[0]
    };
    let ends = [
        position(&|e| e["ev"] == "down" && e["ref"] == by_pid && e["reason"] == "noconnection"),
        position(&|e| e["ev"] == "down" && e["ref"] == by_name && e["reason"] == "noconnection"),
        position(&|e| e["ev"] == "exit" && e["from"] == *target && e["reason"] == "noconnection"),
    ];
    // nodedown comes after everything from the node.
    let nodedowns = events.iter().filter(|event| event["ev"] == "nodedown").count();
    assert_eq!(nodedowns, 2, "{events:?}");
    assert!(ends.iter().all(|end| *end < 3), "{events:?}");
    app.nothing();
    // And so is whatever is tried now.
    let again = monitor(&mut app, &target);
    assert_down(&app.event(), &again, &target, "noconnection");
    app.ok(json!({"op": "link", "to": target}));
    assert_eq!(app.event()["reason"], "noconnection");
}

#[test]
fn the_end_of_an_app_is_seen_on_another_node_as_disconnected() {
    let (a, b) = two(&[]);
    for dialect in DIALECTS {
        let mut app = a.app(dialect);
        let there = b.app(dialect);
        let target = there.pid.clone();
        let reference = monitor(&mut app, &target);
        drop(there);
        let down = app.event();
        // The monitor may have arrived after the end.
        assert!(["disconnected", "noproc"].contains(&down["reason"].as_str().unwrap()), "{down}");
        assert_eq!(down["ref"], reference);
        let mut there = b.app(dialect);
        let target = there.pid.clone();
        let reference = monitor(&mut app, &target);
        settled(&mut there, &mut app);
        drop(there);
        assert_down(&app.event(), &reference, &target, "disconnected");
    }
}

#[test]
fn the_pid_of_an_earlier_run_never_hits_a_process_of_this_one() {
    let (a, mut b) = two(&[]);
    let mut app = a.json();
    let old: Vec<String> = {
        let mut there = b.json();
        let mut pids: Vec<String> = (0..20).map(|_| there.spawn(json!({}))).collect();
        pids.push(there.pid.clone());
        pids
    };
    let b = b.again(&[]);
    // The same serials, under the same name, in another run.
    let mut there = b.cbor();
    app.meets(&[&b]);
    let new: Vec<String> = (0..30).map(|_| there.spawn(json!({}))).collect();
    let serial = |pid: &str| pid.rsplit('.').next().unwrap().to_owned();
    assert!(old.iter().any(|old| new.iter().any(|new| serial(old) == serial(new))));
    app.ok(json!({"op": "flag", "trap_exit": true}));
    for pid in &old {
        app.send(pid, json!("for the dead"));
        app.ok(json!({"op": "kill", "to": pid, "reason": "for the dead"}));
        let reference = monitor(&mut app, pid);
        assert_down(&app.event(), &reference, pid, "noproc");
        app.ok(json!({"op": "link", "to": pid}));
        let exit = app.event();
        assert_eq!((&exit["ev"], &exit["reason"]), (&json!("exit"), &json!("noproc")));
        assert_eq!(app.code(json!({"op": "info", "to": pid})), "noproc");
        // On the node itself as well.
        there.send(pid, json!("for the dead"));
    }
    settled(&mut there, &mut app);
    there.nothing();
}

#[test]
fn a_connection_that_comes_back_resurrects_no_monitor_and_no_link() {
    let (a, b) = two(&[]);
    let (mut app, mut there) = (a.json(), b.json());
    let target = there.spawn(json!({"trap_exit": true}));
    app.ok(json!({"op": "flag", "trap_exit": true}));
    let reference = monitor(&mut app, &target);
    app.ok(json!({"op": "link", "to": target}));
    app.ok(json!({"op": "monitor_nodes", "on": true}));
    app.ok(json!({"op": "disconnect", "node": "b@t"}));
    let ends: Vec<Value> = (0..2).map(|_| app.event()).collect();
    assert!(ends.iter().any(|end| end["ref"] == reference && end["reason"] == "noconnection"));
    assert!(ends.iter().any(|end| end["ev"] == "exit" && end["reason"] == "noconnection"));
    assert_eq!(app.event()["ev"], "nodedown");
    eventually("the nodes are connected again", || {
        app.ok(json!({"op": "connect", "to": "b@t"}))["result"] == true
    });
    assert_eq!(app.event()["ev"], "nodeup");
    // The process lives on, and had the same news of the other end.
    let exit = there.event();
    assert_eq!((&exit["ev"], &exit["reason"]), (&json!("exit"), &json!("noconnection")));
    assert_eq!(app.ok(json!({"op": "info", "to": target}))["info"]["pid"], target.as_str());
    there.ok(json!({"op": "exit", "pid": target, "reason": "later"}));
    settled(&mut app, &mut there);
}
