//! Bounded mailboxes and full connections: what is lost is counted, and where nothing may be lost senders wait.

use rustix::process::Signal;

use crate::support::{App, DIALECTS, Daemon, Dialect, Place, Value, eventually, json};

const COUNT: u64 = 1000;

/// What a process was given: the numbers and the losses, in order.
#[derive(Debug, Default)]
struct Given {
    numbers: Vec<u64>,
    lost: u64,
    gaps: Vec<usize>,
}

impl Given {
    fn take(&mut self, event: &Value) {
        match event["ev"].as_str() {
            Some("message") => self.numbers.push(event["body"][0].as_u64().unwrap()),
            Some("gap") => {
                assert_eq!(event["reason"], "overflow");
                self.gaps.push(self.numbers.len());
                self.lost += event["lost"].as_u64().unwrap();
            }
            _ => panic!("{event}"),
        }
    }

    /// Every message was delivered or is counted, and those delivered are in order.
    fn assert_whole(&self, published: u64) {
        assert_eq!(self.numbers.len() as u64 + self.lost, published, "{} lost", self.lost);
        assert!(self.numbers.is_sorted_by(|a, b| a < b));
    }
}

fn flood(sender: &mut App, to: &str, count: u64) {
    for n in 0..count {
        sender.tell(json!({"op": "send", "to": to, "body": [n, "some bytes of a message"]}));
    }
}

/// Floods until the mailbox has begun to shed, however much may be under way before that; how many were sent.
fn flood_until_it_sheds(sender: &mut App, app: &mut App, to: &str) -> u64 {
    let mut sent = 0;
    while app.info(to, "dropped") == 0 {
        assert!(sent < 500_000, "a mailbox of 10 entries has taken {sent} messages");
        for n in sent..sent + COUNT {
            sender.tell(json!({"op": "send", "to": to, "body": [n, "some bytes of a message"]}));
        }
        sent += COUNT;
    }
    sent
}

fn drain(app: &mut App, pid: &str) -> Given {
    let mut given = Given::default();
    loop {
        let answer = app.ok(json!({"op": "flush", "pid": pid}));
        let messages = answer["messages"].as_array().unwrap();
        if messages.is_empty() {
            return given;
        }
        // One answer has a largest size: the next one has the rest.
        for message in messages {
            given.take(message);
        }
    }
}

#[test]
fn drop_newest_keeps_the_first_and_says_at_the_end_how_many_were_lost() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let (mut app, mut sender) = (a.app(dialect), a.json());
        let mailbox = json!({"entries": 10, "policy": "drop_newest"});
        let pid = app.spawn(json!({"delivery": "pull", "mailbox": mailbox}));
        flood(&mut sender, &pid, COUNT);
        sender.nothing();
        assert_eq!(app.info(&pid, "message_queue_len"), 10);
        assert_eq!(app.info(&pid, "dropped"), COUNT - 10);
        let given = drain(&mut app, &pid);
        given.assert_whole(COUNT);
        assert_eq!(given.numbers, (0..10).collect::<Vec<_>>());
        assert_eq!(given.gaps, [10]);
        // With room again it takes messages again.
        flood(&mut sender, &pid, 3);
        sender.nothing();
        drain(&mut app, &pid).assert_whole(3);
    }
}

#[test]
fn drop_oldest_keeps_the_last_and_says_first_how_many_were_lost() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let (mut app, mut sender) = (a.app(dialect), a.cbor());
        let mailbox = json!({"entries": 10, "policy": "drop_oldest"});
        let pid = app.spawn(json!({"delivery": "pull", "mailbox": mailbox}));
        flood(&mut sender, &pid, COUNT);
        sender.nothing();
        let given = drain(&mut app, &pid);
        given.assert_whole(COUNT);
        assert_eq!(given.numbers, (COUNT - 10..COUNT).collect::<Vec<_>>());
        assert_eq!(given.gaps, [0]);
    }
}

#[test]
fn the_bytes_of_a_mailbox_are_bounded_too_and_one_message_always_passes() {
    let a = Daemon::alone(&[]);
    let (mut app, mut sender) = (a.json(), a.json());
    let pid = app.spawn(json!({"delivery": "pull", "mailbox": {"bytes": 1000}}));
    for n in 0..5 {
        sender.send(&pid, json!([n, "x".repeat(5000)]));
    }
    let given = drain(&mut app, &pid);
    given.assert_whole(5);
    assert_eq!(given.numbers, [0]);
}

#[test]
fn with_the_policy_exit_a_process_that_is_overrun_exits_overloaded() {
    let place = Place::new();
    let (a, b) = (place.start("a", &[]), place.start("b", &[]));
    for dialect in DIALECTS {
        let (mut app, mut sender) = (a.app(dialect), b.app(dialect));
        sender.meets(&[&a]);
        let mailbox = json!({"entries": 10, "policy": "exit"});
        let pid = app.spawn(json!({"delivery": "pull", "mailbox": mailbox}));
        sender.ok(json!({"op": "monitor", "to": pid}));
        flood(&mut sender, &pid, 20);
        let down = sender.event();
        assert_eq!((&down["ev"], &down["reason"]), (&json!("down"), &json!("overloaded")));
        let died = app.event();
        assert_eq!((&died["ev"], &died["pid"]), (&json!("died"), &json!(pid)));
    }
}

#[test]
fn signals_are_never_shed() {
    let a = Daemon::alone(&[]);
    let (mut app, mut sender) = (a.json(), a.cbor());
    let mailbox = json!({"entries": 1, "policy": "drop_newest"});
    let pid = app.spawn(json!({"delivery": "pull", "mailbox": mailbox}));
    flood(&mut sender, &pid, 10);
    let targets: Vec<String> = (0..50).map(|_| sender.spawn(json!({}))).collect();
    for target in &targets {
        app.ok(json!({"op": "monitor", "pid": pid, "to": target}));
    }
    for target in &targets {
        sender.ok(json!({"op": "exit", "pid": target}));
    }
    let answer = app.ok(json!({"op": "flush", "pid": pid}));
    let messages = answer["messages"].as_array().unwrap();
    assert_eq!(messages.iter().filter(|event| event["ev"] == "down").count(), 50);
    assert_eq!(messages[1]["lost"], 9, "{}", messages[1]);
}

#[test]
fn a_try_to_a_full_mailbox_is_refused_at_once_and_a_lossy_send_is_counted() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let (mut app, mut sender) = (a.app(dialect), a.app(dialect));
        let mailbox = json!({"entries": 2, "policy": "wait"});
        let pid = app.spawn(json!({"delivery": "pull", "mailbox": mailbox}));
        let send = |mode: &str, n: u64| json!({"op": "send", "to": pid, "mode": mode, "body": [n]});
        sender.ok(send("try", 0));
        sender.ok(send("lossy", 1));
        assert_eq!(sender.code(send("try", 2)), "overloaded");
        sender.ok(send("lossy", 3));
        let given = drain(&mut app, &pid);
        given.assert_whole(3);
        assert_eq!((given.numbers, given.lost), (vec![0, 1], 1));
    }
}

#[test]
fn a_full_wait_mailbox_holds_its_senders_here_and_elsewhere_and_loses_nothing() {
    let place = Place::new();
    let (a, b) = (place.start("a", &[]), place.start("b", &[]));
    a.json().meets(&[&b]);
    b.json().meets(&[&a]);
    for receiver in DIALECTS {
        for node in [&a, &b] {
            let mut app = a.app(receiver);
            let mailbox = json!({"entries": 16, "policy": "wait"});
            let pid = app.spawn(json!({"delivery": "pull", "mailbox": mailbox}));
            let senders: Vec<_> = DIALECTS
                .into_iter()
                .map(|dialect| {
                    let (mut sender, to) = (node.app(dialect), pid.clone());
                    std::thread::spawn(move || {
                        flood(&mut sender, &to, COUNT);
                        // It is held now, or was; when it is answered all has been taken.
                        sender.nothing();
                        sender.pid.clone()
                    })
                })
                .collect();
            let mut got = std::collections::BTreeMap::<String, Vec<u64>>::new();
            let mut total = 0;
            while total < 2 * COUNT {
                let receive = json!({"op": "receive", "pid": pid, "max": 7, "timeout_ms": 20_000});
                let answer = app.ok(receive);
                let messages = answer["messages"].as_array().unwrap();
                assert!(!messages.is_empty(), "{total} of {} came", 2 * COUNT);
                for message in messages {
                    assert_eq!(
                        message["ev"], "message",
                        "lost with a policy that waits: {message}"
                    );
                    let from = message["from"].as_str().unwrap().to_owned();
                    got.entry(from).or_default().push(message["body"][0].as_u64().unwrap());
                    total += 1;
                }
            }
            for sender in senders {
                let pid = sender.join().unwrap();
                assert_eq!(got[&pid], (0..COUNT).collect::<Vec<_>>());
            }
            assert_eq!(app.info(&pid, "dropped"), 0);
        }
    }
}

#[test]
fn a_slow_reader_with_a_window_and_wait_gets_everything_from_another_node() {
    let place = Place::new();
    let (a, b) = (place.start("a", &[]), place.start("b", &[]));
    b.json().meets(&[&a]);
    let mut app = a.cbor();
    app.ok(json!({"op": "hello", "delivery": {"window": 8}}));
    app.event_of("welcome");
    app.ok(json!({"op": "flag", "mailbox": {"entries": 32, "policy": "wait"}}));
    let to = app.pid.clone();
    let mut sender = b.json();
    let flooding = std::thread::spawn(move || {
        flood(&mut sender, &to, 5 * COUNT);
        sender.nothing();
    });
    let mut given = Given::default();
    while given.numbers.len() as u64 + given.lost < 5 * COUNT {
        given.take(&app.event());
        app.tell(json!({"op": "more", "n": 1}));
    }
    flooding.join().unwrap();
    given.assert_whole(5 * COUNT);
    assert_eq!(given.lost, 0);
}

#[test]
fn many_senders_of_large_messages_at_once_lose_nothing_to_a_mailbox_that_waits() {
    let a = Daemon::alone(&[]);
    let mut app = a.json();
    let mailbox = json!({"bytes": 1_000_000, "policy": "wait"});
    let pid = app.spawn(json!({"delivery": "pull", "mailbox": mailbox}));
    let senders: Vec<_> = (0..20)
        .map(|_| {
            let (mut sender, to) = (a.cbor(), pid.clone());
            std::thread::spawn(move || {
                for n in 0..3 {
                    sender.tell(json!({"op": "send", "to": to, "body": [n, "x".repeat(700_000)]}));
                }
                sender.nothing();
            })
        })
        .collect();
    let mut sums = 0;
    for _ in 0..60 {
        let answer = app.ok(json!({"op": "receive", "pid": pid, "timeout_ms": 20_000}));
        let message = &answer["messages"][0];
        assert_eq!(message["ev"], "message", "{message:.200}");
        sums += message["body"][0].as_u64().unwrap();
    }
    assert_eq!(sums, 60);
    for sender in senders {
        sender.join().unwrap();
    }
}

#[test]
fn a_hold_lapses_after_the_send_timeout_and_then_the_mailbox_sheds() {
    let place = Place::new();
    let timeout = ["--send-timeout", "50ms"];
    let (a, b) = (place.start("a", &timeout), place.start("b", &timeout));
    b.json().meets(&[&a]);
    for node in [&a, &b] {
        let mut app = a.json();
        let mailbox = json!({"entries": 10, "policy": "wait"});
        let pid = app.spawn(json!({"delivery": "pull", "mailbox": mailbox}));
        let mut sender = node.cbor();
        // Nobody reads: the sender is held once, then goes on, and from then on messages are lost.
        let sent = flood_until_it_sheds(&mut sender, &mut app, &pid);
        sender.nothing();
        let mut other = node.json();
        let own = app.pid.clone();
        other.send(&own, json!(["settled"]));
        sender.send(&own, json!(["settled"]));
        app.event();
        app.event();
        let given = drain(&mut app, &pid);
        given.assert_whole(sent);
        assert!(given.lost > 0);
        // Empty again, it takes messages and holds again.
        flood(&mut sender, &pid, 5);
        sender.send(&own, json!(["settled"]));
        app.event();
        let given = drain(&mut app, &pid);
        given.assert_whole(5);
        assert_eq!(given.lost, 0);
    }
}

#[test]
fn a_receiver_that_stops_reading_delays_nobody_else() {
    let place = Place::new();
    let (a, b) = (place.start("a", &[]), place.start("b", &[]));
    b.json().meets(&[&a]);
    let stuck = a.json();
    let mut app = a.cbor();
    let mut sender = b.json();
    let body = "x".repeat(10_000);
    for _ in 0..2000 {
        sender.tell(json!({"op": "send", "to": stuck.pid, "body": body}));
        sender.tell(json!({"op": "send", "to": app.pid, "body": 1}));
    }
    for _ in 0..2000 {
        assert_eq!(app.body(), 1);
    }
    // 20 MB were sent to a mailbox of 8 MiB, and what did not fit is counted.
    assert!(app.info(&stuck.pid, "dropped").as_u64().unwrap() > 0);
    let mut stuck = stuck;
    let (mut delivered, mut lost) = (0, 0);
    while delivered + lost < 2000 {
        let event = stuck.event();
        match event["ev"].as_str() {
            Some("message") => delivered += 1,
            _ => lost += event["lost"].as_u64().unwrap(),
        }
    }
    assert!(lost > 0 && delivered > 500, "{delivered} delivered, {lost} lost");
}

#[test]
fn a_peer_that_is_stopped_makes_senders_overloaded_and_is_well_again_when_it_goes_on() {
    let place = Place::new();
    // Patient enough that a stopped peer is congested for long before it is down.
    let args = ["--profile", "wan", "--send-timeout", "100ms"];
    let (a, b) = (place.start("a", &args), place.start("b", &args));
    let mut app = b.json();
    let to = app.pid.clone();
    let mut sender = a.app(Dialect::Cbor);
    sender.meets(&[&b]);
    b.signal(Signal::STOP);
    let body = "x".repeat(100_000);
    let (mut published, mut refused) = (0_u64, 0_u64);
    while refused < 5 {
        let answer = sender.ask(json!({"op": "send", "to": to, "body": body}));
        if answer["ev"] == "ok" {
            published += 1;
            // Refused before and not now: our own node was starved, and only then came to write what the system takes.
            refused = 0;
            assert!(published < 2000, "200 MB went to a peer that is stopped");
        } else {
            assert_eq!(answer["code"], "overloaded", "{answer}");
            assert_eq!(answer["nodes"], json!(["b@t"]), "{answer}");
            refused += 1;
        }
    }
    // Others do not notice.
    let mut other = a.json();
    let own = other.pid.clone();
    other.send(&own, json!("here"));
    assert_eq!(other.body(), "here");
    assert_eq!(
        sender.code(json!({"op": "send", "to": to, "body": 1, "mode": "try"})),
        "overloaded"
    );
    sender.ok(json!({"op": "send", "to": to, "body": 1, "mode": "lossy"}));
    b.signal(Signal::CONT);
    for _ in 0..published {
        assert_eq!(app.body().as_str().unwrap().len(), body.len());
    }
    eventually("the peer takes messages again", || {
        sender.ask(json!({"op": "send", "to": to, "body": "well again"}))["ev"] == "ok"
    });
    assert_eq!(app.body(), "well again");
}

#[test]
fn a_session_that_fills_a_mailbox_of_its_own_is_not_held_by_it() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let mut app = a.app(dialect);
        let mailbox = json!({"entries": 10, "policy": "wait"});
        let pid = app.spawn(json!({"delivery": "pull", "mailbox": mailbox}));
        for n in 0..100 {
            app.tell(json!({"op": "send", "to": pid, "body": [n]}));
        }
        // If it were held, nobody could empty the mailbox: its own `receive` would not be read.
        let mut given = Given::default();
        while given.numbers.len() as u64 + given.lost < 100 {
            for message in
                app.ok(json!({"op": "receive", "pid": pid}))["messages"].as_array().unwrap()
            {
                given.take(message);
            }
        }
        given.assert_whole(100);
    }
}
