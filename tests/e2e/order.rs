//! From one process to another everything arrives once and in the order sent, whatever its size and its way.

use std::collections::BTreeMap;

use crate::support::{DIALECTS, Daemon, Place, Value, json};

/// Bodies of such a message, in bytes: around the size at which messages are cut, and the largest.
const LENGTHS: [usize; 8] = [0, 1, 65_450, 65_535, 65_536, 65_537, 200_000, 1_000_000];

fn two(args: &[&str]) -> (Daemon, Daemon) {
    let place = Place::new();
    let (a, b) = (place.start("a", args), place.start("b", args));
    a.json().meets(&[&b]);
    b.json().meets(&[&a]);
    (a, b)
}

#[test]
fn messages_of_every_size_and_by_every_address_arrive_in_the_order_sent() {
    let (a, b) = two(&[]);
    for receiver in DIALECTS {
        let mut app = a.app(receiver);
        app.ok(json!({"op": "register", "name": "sink"}));
        let mailbox = json!({"bytes": 2_000_000, "policy": "wait"});
        app.ok(json!({"op": "flag", "mailbox": mailbox}));
        let senders: Vec<_> = DIALECTS
            .into_iter()
            .chain(DIALECTS)
            .enumerate()
            .map(|(number, dialect)| {
                let node = if number % 2 == 0 { &b } else { &a };
                let mut sender = node.app(dialect);
                let pid = app.pid.clone();
                std::thread::spawn(move || {
                    for n in 0..60 {
                        let to = if n % 3 == 0 { pid.as_str() } else { "sink@a@t" };
                        let body = json!([n, "x".repeat(LENGTHS[(n * 5 + number) % 8])]);
                        sender.tell(json!({"op": "send", "to": to, "body": body}));
                    }
                    sender.nothing();
                })
            })
            .collect();
        let mut next = BTreeMap::<String, u64>::new();
        for _ in 0..240 {
            let message = app.event();
            assert_eq!(message["ev"], "message", "{message:.200}");
            let from = message["from"].as_str().unwrap().to_owned();
            let expected = next.entry(from).or_default();
            assert_eq!(message["body"][0], *expected);
            *expected += 1;
        }
        for sender in senders {
            sender.join().unwrap();
        }
        assert_eq!(next.into_values().collect::<Vec<_>>(), [60; 4]);
        app.ok(json!({"op": "unregister", "name": "sink"}));
    }
}

#[test]
fn a_small_message_of_another_process_passes_a_large_one() {
    let (a, b) =
        two(&["--body-max", "63MiB", "--mailbox-bytes", "80MiB", "--queue-bytes", "256MiB"]);
    let mut app = a.cbor();
    let mut large = b.cbor();
    let mut small = b.json();
    let to = app.pid.clone();
    large.send(&to, json!("x".repeat(40_000_000)));
    for n in 0..10 {
        small.send(&to, json!(n));
    }
    let mut seen = 0;
    let mut arrived = false;
    while !arrived || seen < 10 {
        let body = app.body();
        if body.is_string() {
            assert_eq!(body.as_str().unwrap().len(), 40_000_000);
            arrived = true;
        } else {
            assert_eq!(body, seen);
            seen += 1;
        }
    }
}

#[test]
fn what_arrives_before_a_node_is_killed_is_a_prefix_of_what_was_sent() {
    let place = Place::new();
    let a = place.start("a", &[]);
    let mut b = place.start("b", &[]);
    for kill_at in [0_u64, 10, 500, 3000] {
        let mut app = a.cbor();
        app.meets(&[&b]);
        app.ok(json!({"op": "monitor_nodes", "on": true}));
        let mut sender = b.json();
        let from = sender.pid.clone();
        let to = app.pid.clone();
        app.ok(json!({"op": "monitor", "to": from}));
        let sending = std::thread::spawn(move || {
            // Fewer than the mailbox holds: a test that is starved reads late, and loses nothing by it.
            for n in 0..60_000 {
                let line = json!({"op": "send", "to": to, "body": n}).to_string() + "\n";
                if sender.write_raw(line.as_bytes()).is_err() {
                    return;
                }
            }
        });
        let mut next = 0;
        while next < kill_at {
            assert_eq!(app.body(), next);
            next += 1;
        }
        b.kill();
        // Messages without a hole, then the down, then the nodedown, then nothing.
        let mut ends: Vec<Value> = Vec::new();
        while ends.len() < 2 {
            let event = app.event();
            if event["ev"] == "message" {
                assert!(ends.is_empty(), "after {ends:?}");
                assert_eq!(event["body"], next);
                next += 1;
            } else {
                ends.push(event);
            }
        }
        assert_eq!((&ends[0]["ev"], &ends[1]["ev"]), (&json!("down"), &json!("nodedown")));
        app.nothing();
        sending.join().unwrap();
        b = b.again(&[]);
    }
}
