//! Sessions: coming, leaving, coming back, and the four ways in which events are delivered.

use crate::support::{App, DIALECTS, Daemon, Value, eventually, json, spell};

fn bodies(messages: &Value) -> Vec<Value> {
    messages.as_array().unwrap().iter().map(|message| message["body"].clone()).collect()
}

fn numbers(range: std::ops::Range<u64>) -> Vec<Value> {
    range.map(Value::from).collect()
}

/// Says hello and gives the welcome.
fn hello(app: &mut App, mut options: Value) -> Value {
    options["op"] = "hello".into();
    app.ok(options);
    app.event_of("welcome")
}

#[test]
fn hello_is_welcomed_and_counts_the_commands() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let mut app = App::connect_quietly(&a.socket, dialect);
        let welcome = hello(&mut app, json!({"version": 1, "client": "test 1.0"}));
        assert_eq!(welcome["version"], 1);
        assert_eq!(welcome["node"], "a@t");
        assert_eq!(welcome["commands"], 1);
        assert_eq!(app.ok(json!({"op": "self"}))["pid"], welcome["pid"]);
        app.tell(json!({"op": "nosuch"}));
        app.tell(json!({"op": "self"}));
        assert_eq!(hello(&mut app, json!({}))["commands"], 5);
        assert_eq!(app.commands, 5);
        assert_eq!(app.info(welcome["pid"].as_str().unwrap(), "client"), "test 1.0");
        assert_eq!(app.code(json!({"op": "hello", "version": 7})), "unsupported");
    }
}

#[test]
fn a_session_with_a_grace_is_taken_up_again_and_told_exactly_what_it_missed() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let mut other = a.json();
        let mut app = a.app(dialect);
        let welcome = hello(&mut app, json!({"grace_ms": 3_600_000}));
        app.ok(json!({"op": "register", "name": "keeper"}));
        let child = app.spawn(json!({}));
        other.ok(json!({"op": "monitor", "to": "keeper"}));
        // Five messages are written to the connection; two are received.
        for n in 0..5 {
            app.tell(json!({"op": "send", "to": "keeper", "body": n}));
        }
        assert_eq!(app.body(), 0);
        assert_eq!(app.body(), 1);
        let (seen, commands) = (app.seen, app.commands);
        eventually("the daemon has read the last of them", || {
            other.info("keeper", "message_queue_len") == 0
        });
        // What the app has read into its buffer but not looked at counts as missed: it says what it saw.
        drop(app);
        eventually("the session is detached", || other.info("keeper", "status") == "detached");
        other.send("keeper", json!("while you were away"));
        other.nothing();

        let mut app = App::connect_quietly(&a.socket, dialect);
        let resume =
            json!({"session": welcome["session"], "secret": welcome["secret"], "seen": seen});
        let again = hello(&mut app, json!({"grace_ms": 1, "resume": resume}));
        assert_eq!(again["pid"], welcome["pid"]);
        assert_eq!(again["session"], welcome["session"]);
        assert_eq!(again["commands"], commands + 1, "the hello counts");
        let gap = app.event();
        assert_eq!((&gap["ev"], &gap["reason"]), (&json!("gap"), &json!("resumed")));
        assert_eq!(gap["lost"], 3);
        assert_eq!(app.body(), "while you were away");
        app.send(&child, json!("the child lives"));
        let event = app.event();
        assert_eq!((&event["pid"], &event["body"]), (&json!(child), &json!("the child lives")));
        // Once the grace is over, it is over.
        drop(app);
        assert_eq!(other.event_of("down")["reason"], "disconnected");
    }
}

#[test]
fn a_resume_that_saw_everything_has_no_gap() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let mut app = a.app(dialect);
        let welcome = hello(&mut app, json!({"grace_ms": 3_600_000}));
        let seen = app.seen;
        drop(app);
        let mut app = App::connect_quietly(&a.socket, dialect);
        let resume =
            json!({"session": welcome["session"], "secret": welcome["secret"], "seen": seen});
        // The daemon may not have noticed yet that the first connection is gone: the new one takes over.
        hello(&mut app, json!({"resume": resume}));
        app.nothing();
    }
}

#[test]
fn a_resume_with_a_wrong_secret_is_refused_and_takes_nothing() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let mut app = a.app(dialect);
        let welcome = hello(&mut app, json!({"grace_ms": 3_600_000}));
        let mut thief = App::connect_quietly(&a.socket, dialect);
        let secret = "x".repeat(welcome["secret"].as_str().unwrap().len());
        let resume = json!({"session": welcome["session"], "secret": secret, "seen": 0});
        assert_eq!(thief.code(json!({"op": "hello", "resume": resume})), "not_found");
        let resume = json!({"session": 4711, "secret": welcome["secret"], "seen": 0});
        thief = App::connect_quietly(&a.socket, dialect);
        assert_eq!(thief.code(json!({"op": "hello", "resume": resume})), "not_found");
        assert_ne!(thief.ok(json!({"op": "self"}))["pid"], welcome["pid"]);
        app.nothing();
    }
}

#[test]
fn push_delivers_as_events_come() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let mut app = a.app(dialect);
        let own = app.pid.clone();
        for n in 0..1000 {
            app.tell(json!({"op": "send", "to": own, "body": n}));
        }
        for n in 0..1000 {
            assert_eq!(app.body(), n);
        }
        app.nothing();
    }
}

#[test]
fn a_window_holds_back_what_was_not_asked_for_and_loses_nothing() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let mut app = a.app(dialect);
        hello(&mut app, json!({"delivery": {"window": 3}}));
        let own = app.pid.clone();
        for n in 0..10 {
            app.send(&own, json!(n));
        }
        let given = app.pending();
        assert_eq!(given.len(), 3);
        assert_eq!(app.info(&own, "message_queue_len"), 7);
        app.tell(json!({"op": "more", "n": 2}));
        let given = app.pending();
        assert_eq!(given.iter().map(|event| event["body"].clone()).collect::<Vec<_>>(), [3, 4]);
        app.nothing();
        app.tell(json!({"op": "more", "n": 3}));
        for n in 5..8 {
            assert_eq!(app.body(), n);
        }
        app.nothing();
        // Signals need no credit, but keep their place behind what waits.
        app.tell(json!({"op": "more", "n": 3}));
        assert_eq!((app.body(), app.body()), (json!(8), json!(9)));
        app.ok(json!({"op": "monitor", "to": "nobody"}));
        assert_eq!(app.event()["reason"], "noproc");
    }
}

#[test]
fn pull_gives_what_receive_asks_for_and_waits_no_longer_than_told() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let mut app = a.app(dialect);
        hello(&mut app, json!({"delivery": "pull"}));
        let own = app.pid.clone();
        assert_eq!(app.ok(json!({"op": "receive"}))["messages"], json!([]));
        assert_eq!(app.ok(json!({"op": "receive", "timeout_ms": 20}))["messages"], json!([]));
        // One that waits is answered when a message comes, and commands go on meanwhile.
        let waiting = app.begin(json!({"op": "receive", "timeout_ms": 3_600_000}));
        let second = app.begin(json!({"op": "receive", "timeout_ms": 3_600_000}));
        app.send(&own, json!("first"));
        app.send(&own, json!("second"));
        assert_eq!(bodies(&app.answer(waiting)["messages"]), ["first"]);
        assert_eq!(bodies(&app.answer(second)["messages"]), ["second"]);
        for n in 0..10 {
            app.send(&own, json!(n));
        }
        app.nothing();
        assert_eq!(bodies(&app.ok(json!({"op": "receive"}))["messages"]), numbers(0..1));
        let answer = app.ok(json!({"op": "receive", "max": 4, "timeout_ms": 1000}));
        assert_eq!(bodies(&answer["messages"]), numbers(1..5));
        assert_eq!(answer["messages"][0]["ev"], "message");
        assert_eq!(answer["messages"][0]["from"], own.as_str());
        assert_eq!(bodies(&app.ok(json!({"op": "flush"}))["messages"]), numbers(5..10));
        assert_eq!(app.ok(json!({"op": "flush"}))["messages"], json!([]));
        assert_eq!(app.code(json!({"op": "receive", "max": 0})), "badarg");
    }
}

#[test]
fn a_process_that_turns_from_pull_to_push_gets_what_waited() {
    let a = Daemon::alone(&[]);
    let mut app = a.json();
    let pid = app.spawn(json!({"delivery": "pull"}));
    app.send(&pid, json!(1));
    app.nothing();
    app.ok(json!({"op": "flag", "pid": pid, "delivery": "push"}));
    let event = app.event();
    assert_eq!((&event["pid"], &event["body"]), (&json!(pid), &json!(1)));
}

#[test]
fn commands_without_an_id_that_fail_are_told_once_and_then_counted() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let mut app = a.app(dialect);
        for _ in 0..500 {
            app.tell(json!({"op": "send", "to": "nobody", "body": 1}));
        }
        app.tell(json!({"op": "send", "to": "nobody.else", "body": 1}));
        let mut told = std::collections::BTreeMap::new();
        let mut events = 0;
        while told.get("nobody") != Some(&500) || told.get("nobody.else") != Some(&1) {
            let event = app.event();
            assert_eq!((&event["ev"], &event["op"]), (&json!("failed"), &json!("send")));
            assert_eq!(event["code"], "noproc");
            let to = event["to"].as_str().unwrap().to_owned();
            *told.entry(to).or_insert(0) += event["count"].as_u64().unwrap();
            events += 1;
        }
        assert!(events < 50, "{events} events for 501 failures");
    }
}

#[test]
fn bye_is_answered_ends_the_session_and_its_processes_exit_normally() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let mut watcher = a.json();
        let mut app = a.app(dialect);
        hello(&mut app, json!({"grace_ms": 3_600_000}));
        let child = app.spawn(json!({}));
        for pid in [&app.pid, &child] {
            watcher.ok(json!({"op": "monitor", "to": pid}));
        }
        app.ok(json!({"op": "bye"}));
        assert_eq!(app.last_words(), Vec::<Value>::new());
        for _ in 0..2 {
            assert_eq!(watcher.event()["reason"], "normal");
        }
    }
}

#[test]
fn the_end_of_a_connection_kills_its_processes_with_the_reason_disconnected() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let mut watcher = a.json();
        let mut app = a.app(dialect);
        let mut targets = vec![app.pid.clone()];
        for n in 0..1000 {
            let name = format!("p{n}");
            app.tell(json!({"op": "spawn", "name": name}));
        }
        app.pending();
        for n in 0..1000 {
            let name = format!("p{n}");
            let pid = watcher.ok(json!({"op": "whereis", "name": name}))["pid"].clone();
            targets.push(pid.as_str().unwrap().to_owned());
        }
        for pid in &targets {
            watcher.tell(json!({"op": "monitor", "to": pid}));
        }
        watcher.nothing();
        drop(app);
        let mut missing: std::collections::BTreeSet<String> = targets.into_iter().collect();
        while !missing.is_empty() {
            let down = watcher.event();
            assert_eq!((&down["ev"], &down["reason"]), (&json!("down"), &json!("disconnected")));
            assert!(missing.remove(down["from"].as_str().unwrap()), "twice: {down}");
        }
        watcher.nothing();
        assert_eq!(watcher.ok(json!({"op": "registered"}))["registered"], json!([]));
    }
}

#[test]
fn what_an_app_wrote_before_it_left_is_carried_out() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let mut receiver = a.json();
        let to = receiver.pid.clone();
        let mut app = a.app(dialect);
        for n in 0..2000 {
            app.tell(json!({"op": "send", "to": to, "body": n}));
        }
        app.stream().shutdown(std::net::Shutdown::Write).unwrap();
        for n in 0..2000 {
            assert_eq!(receiver.body(), n);
        }
    }
}

#[test]
fn a_timer_sends_later_can_be_cancelled_and_dies_with_its_process() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let mut app = a.app(dialect);
        let own = app.pid.clone();
        app.ok(json!({"op": "send_after", "to": own, "after_ms": 30, "body": "later"}));
        assert_eq!(app.body(), "later");
        let timer =
            app.ok(json!({"op": "send_after", "to": own, "after_ms": 3_600_000, "body": 1}));
        let left = app.ok(json!({"op": "cancel_timer", "timer": timer["timer"]}));
        assert!((3_500_000..=3_600_000).contains(&left["left_ms"].as_u64().unwrap()), "{left}");
        let left = app.ok(json!({"op": "cancel_timer", "timer": timer["timer"]}));
        assert!(left["left_ms"].is_null());
        let child = app.spawn(json!({}));
        // In one write, so that the timer cannot be due before the process is dead.
        let commands = [
            json!({"op": "send_after", "pid": child, "to": own, "after_ms": 50, "body": "dead"}),
            json!({"op": "exit", "pid": child}),
        ];
        app.write_raw(&commands.map(|command| spell(dialect, &command)).concat()).unwrap();
        app.nothing();
        app.ok(json!({"op": "send_after", "to": own, "after_ms": 100, "body": "alive"}));
        assert_eq!(app.body(), "alive");
    }
}

#[test]
fn a_session_that_is_resumed_while_it_is_held_carries_out_each_command_once() {
    const COUNT: u64 = 2000;
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let mut receiver = a.json();
        let mailbox = json!({"entries": 16, "policy": "wait"});
        let to = receiver.spawn(json!({"delivery": "pull", "mailbox": mailbox}));
        let pid = to.clone();
        let mut app = a.app(dialect);
        let welcome = hello(&mut app, json!({"grace_ms": 3_600_000}));
        let before = app.commands;
        let send = |n: u64| spell(dialect, &json!({"op": "send", "to": to, "body": n}));
        // At once, for a session that is held is not read.
        app.write_raw(&(0..COUNT).flat_map(send).collect::<Vec<u8>>()).unwrap();
        eventually("the sender is held", || {
            receiver.info(welcome["pid"].as_str().unwrap(), "status") == "suspended"
        });
        let seen = app.seen;
        drop(app);
        let mut app = App::connect_quietly(&a.socket, dialect);
        let resume =
            json!({"session": welcome["session"], "secret": welcome["secret"], "seen": seen});
        app.tell(json!({"op": "hello", "resume": resume}));
        let again = app.event_of("welcome");
        // What was applied is known, so the rest is sent again: nothing is lost, nothing comes twice.
        let applied = again["commands"].as_u64().unwrap() - 1 - before;
        assert!(applied < COUNT, "{applied} were applied");
        let sending = std::thread::spawn(move || {
            for n in applied..COUNT {
                app.tell(json!({"op": "send", "to": to, "body": n}));
            }
            app.nothing();
        });
        let mut next = 0;
        while next < COUNT {
            let receive = json!({"op": "receive", "pid": pid, "max": 50, "timeout_ms": 20_000});
            for body in bodies(&receiver.ok(receive)["messages"]) {
                assert_eq!(body, next);
                next += 1;
            }
        }
        sending.join().unwrap();
    }
}

#[test]
fn a_second_connection_that_resumes_a_session_takes_it_from_the_first() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let mut first = a.app(dialect);
        let welcome = hello(&mut first, json!({"grace_ms": 3_600_000}));
        let resume =
            json!({"session": welcome["session"], "secret": welcome["secret"], "seen": first.seen});
        let mut second = App::connect_quietly(&a.socket, dialect);
        hello(&mut second, json!({"resume": resume}));
        // The first is closed and can do nothing any more.
        let _ = first.write_raw(&spell(
            dialect,
            &json!({"op": "send", "to": welcome["pid"], "body": "from the first"}),
        ));
        assert_eq!(first.last_words(), Vec::<Value>::new());
        second.nothing();
    }
}
