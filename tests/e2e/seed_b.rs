//! "Understanding Elixir OTP Applications, Part 1: Distribution": every operation it shows.
//!
//! Here `get` of the key-value store (B10) is a message with a reference, and its answer another; by calls it is in `calls.rs`.

use std::collections::BTreeMap;

use crate::support::{App, DIALECTS, Daemon, Place, Value, eventually, json};

#[test]
fn b1_b2_a_child_sends_its_pid_to_its_parent() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let mut app = a.app(dialect);
        app.ok(json!({"op": "hello", "delivery": "pull"}));
        let parent = app.pid.clone();
        let child = app.spawn(json!({}));
        app.ok(json!({"op": "send", "pid": child, "to": parent, "body": ["ok", child]}));
        let messages = app.info(&parent, "messages");
        assert_eq!(messages.as_array().unwrap().len(), 1);
        assert_eq!(messages[0]["body"], json!(["ok", child]));
        assert_eq!(messages[0]["from"], child.as_str());
    }
}

#[test]
fn b3_receive_matches_what_it_knows_and_takes_any_term_in_the_second_arm() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let mut app = a.app(dialect);
        app.ok(json!({"op": "hello", "delivery": "pull"}));
        let own = app.pid.clone();
        for body in [
            json!(["ok", own]),
            json!(null),
            json!(-1.5),
            json!({"deeply": [{"nested": true}, []]}),
            json!({"$bytes": "AAEC"}),
            json!(""),
            json!(9_007_199_254_740_992_u64),
        ] {
            app.send(&own, body.clone());
            let answer = app.ok(json!({"op": "receive", "timeout_ms": 20_000}));
            let message = &answer["messages"][0];
            assert_eq!(message["body"], body);
            let said = match message["body"][0].as_str() {
                Some("ok") => format!("Got ok from {}", message["body"][1].as_str().unwrap()),
                _ => "Unknown message type".to_owned(),
            };
            let known = body[0] == "ok";
            assert_eq!(said == format!("Got ok from {own}"), known);
        }
    }
}

#[test]
fn b4_the_crash_of_a_child_that_is_not_linked_leaves_its_parent_alive() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let mut app = a.app(dialect);
        let answer = app.ok(json!({"op": "spawn", "monitor": true}));
        let (child, monitor) = (answer["pid"].clone(), answer["ref"].clone());
        app.ok(json!({"op": "exit", "pid": child, "reason": "crashed"}));
        let down = app.event();
        assert_eq!(down["ev"], "down");
        assert_eq!((&down["ref"], &down["from"]), (&monitor, &child));
        assert_eq!(down["reason"], "crashed");
        app.nothing();
    }
}

/// The bot of the article, looping. Its answers are what it knows.
fn bot(mut app: App) {
    while let Some(event) = Some(app.event()) {
        let body = &event["body"];
        let answer = match body[0].as_str() {
            Some("help") => "You can ask me what today's date is by passing :date_today",
            Some("date_today") => "Today's date is 2020-11-20",
            _ => return,
        };
        app.tell(json!({"op": "send", "to": body[1], "body": answer}));
    }
}

#[test]
fn b5_b6_a_linked_bot_answers_and_goes_on() {
    let place = Place::new();
    let (a, b) = (place.start("a", &[]), place.start("b", &[]));
    a.json().meets(&[&b]);
    for server in DIALECTS {
        for client in DIALECTS {
            let mut app = b.app(client);
            let service = a.app(server);
            let pid = service.pid.clone();
            b.json().meets(&[&a]);
            app.ok(json!({"op": "flag", "trap_exit": true}));
            app.ok(json!({"op": "link", "to": pid}));
            let running = std::thread::spawn(move || bot(service));
            let own = app.pid.clone();
            for _ in 0..3 {
                app.send(&pid, json!(["help", own]));
                let help = "You can ask me what today's date is by passing :date_today";
                assert_eq!(app.body(), help);
                app.send(&pid, json!(["date_today", own]));
                assert_eq!(app.body(), "Today's date is 2020-11-20");
            }
            app.send(&pid, json!(["stop"]));
            running.join().unwrap();
            let exit = app.event();
            assert_eq!((&exit["ev"], &exit["from"]), (&json!("exit"), &json!(pid)));
            assert_eq!(exit["reason"], "disconnected");
        }
    }
}

#[test]
fn b7_killing_the_bot_takes_its_linked_parent_along_unless_it_traps_exits() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        for trap_exit in [false, true] {
            let mut watcher = a.json();
            let mut parent = a.app(dialect);
            parent.ok(json!({"op": "flag", "trap_exit": trap_exit}));
            let bot = parent.spawn(json!({"link": true}));
            watcher.ok(json!({"op": "monitor", "to": parent.pid}));
            watcher.ok(json!({"op": "kill", "to": bot, "reason": "kill"}));
            if trap_exit {
                let exit = parent.event_of("exit");
                assert_eq!(exit["from"], bot.as_str());
                assert_eq!(exit["reason"], "killed");
                watcher.nothing();
            } else {
                let down = watcher.event();
                assert_eq!(down["reason"], "killed");
                assert_eq!(down["from"], parent.pid.as_str());
                let said = parent.last_words();
                assert_eq!(said.last().unwrap()["reason"], "killed", "{said:?}");
            }
        }
    }
}

/// The key-value store: `set` and `delete` are casts, `get` is answered.
fn store(mut app: App, mut state: BTreeMap<String, Value>) {
    loop {
        let body = app.body();
        let key = body[1].as_str().unwrap_or_default().to_owned();
        match body[0].as_str() {
            Some("set") => drop(state.insert(key, body[2].clone())),
            Some("delete") => drop(state.remove(&key)),
            Some("get") => {
                let value = state.get(&key).cloned().unwrap_or_default();
                app.tell(json!({"op": "send", "to": body[2], "body": [body[3], value]}));
            }
            _ => return,
        }
    }
}

fn get(app: &mut App, to: &str, key: &str) -> Value {
    let own = app.pid.clone();
    app.send(to, json!(["get", key, own, "r"]));
    let mut body = app.body();
    assert_eq!(body[0], "r");
    body[1].take()
}

#[test]
fn b8_b9_b10_b12_the_key_value_store_by_name_here_and_from_another_node() {
    let place = Place::new();
    let (a, b) = (place.start("a", &[]), place.start("b", &[]));
    b.json().meets(&[&a]);
    for server in DIALECTS {
        let mut service = a.app(server);
        service.ok(json!({"op": "register", "name": "primary_store"}));
        let initial = BTreeMap::from([("seed".to_owned(), json!("from init"))]);
        let running = std::thread::spawn(move || store(service, initial));
        for client in DIALECTS {
            for (node, to) in [(&a, "primary_store"), (&b, "primary_store@a@t")] {
                let mut app = node.app(client);
                assert_eq!(get(&mut app, to, "seed"), "from init");
                assert_eq!(get(&mut app, to, "never"), json!(null));
                app.send(to, json!(["set", "foo", "bar"]));
                assert_eq!(get(&mut app, to, "foo"), "bar");
                app.send(to, json!(["delete", "foo"]));
                assert_eq!(get(&mut app, to, "foo"), json!(null));
            }
        }
        a.json().send("primary_store", json!(["stop"]));
        running.join().unwrap();
        let mut app = a.json();
        eventually("the name is free again", || {
            app.ok(json!({"op": "whereis", "name": "primary_store"}))["pid"].is_null()
        });
    }
}

#[test]
fn b11_a_name_that_nobody_has_is_an_error_here_and_silence_elsewhere() {
    let place = Place::new();
    let (a, b) = (place.start("a", &[]), place.start("b", &[]));
    for dialect in DIALECTS {
        let mut app = a.app(dialect);
        app.meets(&[&b]);
        let send = |to: &str| json!({"op": "send", "to": to, "body": 1});
        assert_eq!(app.code(send("primary_key_value_store")), "noproc");
        app.ok(send("primary_key_value_store@b@t"));
        app.ok(send("primary_key_value_store@a@t"));
        app.ok(send("primary_key_value_store@nobody@t"));
        // The monitor is what tells.
        app.ok(json!({"op": "monitor", "to": "primary_key_value_store@b@t"}));
        assert_eq!(app.event()["reason"], "noproc");
    }
}

#[test]
fn b12_with_the_node_killed_a_send_is_still_ok_and_the_monitor_says_noconnection() {
    let place = Place::new();
    let (mut a, b) = (place.start("a", &[]), place.start("b", &[]));
    let mut service = a.json();
    service.ok(json!({"op": "register", "name": "primary_store"}));
    let mut app = b.cbor();
    app.meets(&[&a]);
    app.ok(json!({"op": "monitor", "to": "primary_store@a@t"}));
    a.kill();
    let down = app.event();
    assert_eq!((&down["ev"], &down["reason"]), (&json!("down"), &json!("noconnection")));
    assert_eq!(down["name"], "primary_store@a@t");
    app.send("primary_store@a@t", json!(["set", "foo", "bar"]));
    app.ok(json!({"op": "monitor", "to": "primary_store@a@t"}));
    assert_eq!(app.event()["reason"], "noconnection");
}
