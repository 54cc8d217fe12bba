//! Large events that several have together: nothing of them is copied, and they are counted once.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::Limits;
use super::super::shared::{Frames, Piece};
use super::support::{Pair, Paper};

const MIB: usize = 1024 * 1024;

fn large(letter: &str) -> String {
    letter.repeat(MIB - 64)
}

fn subscribe(node: &mut Paper, app: u64, pid: &Value) {
    let answer = node.ask(app, json!({"op": "subscribe", "topic": "t", "pid": pid}));
    assert_eq!(answer["ev"], "ok", "{answer}");
}

fn publish(node: &mut Paper, app: u64, body: &str) {
    node.tell(app, &json!({"op": "publish", "topic": "t", "body": body}));
    node.work();
}

/// A session whose own process has subscribed.
fn subscriber(node: &mut Paper) -> u64 {
    let app = node.open();
    let pid = json!(node.self_pid(app));
    subscribe(node, app, &pid);
    app
}

fn heard(node: &mut Paper, app: u64) -> Vec<Value> {
    let events = node.events(app);
    let messages = events.iter().filter(|event| event["ev"] == "message" || event["ev"] == "gap");
    messages.map(|event| event["body"].clone()).collect()
}

fn queued(node: &Paper) -> usize {
    node.router.queued(&node.out)
}

#[test]
fn a_hundred_subscribers_of_a_mebibyte_have_it_together_and_lose_nothing() {
    let mut node = Paper::new("a");
    let publisher = node.open();
    let subscribers: Vec<u64> = (0..100).map(|_| subscriber(&mut node)).collect();
    // The first goes into the lanes, which then hold enough; the others into the mailboxes.
    for letter in ["a", "b", "c"] {
        publish(&mut node, publisher, &large(letter));
        let together = queued(&node);
        assert!(together < 4 * MIB, "{together} bytes for 100 subscribers");
    }
    assert!(queued(&node) > 3 * (MIB - 64));
    for app in subscribers {
        let bodies = heard(&mut node, app);
        assert!(bodies == ["a", "b", "c"].map(|letter| json!(large(letter))), "{}", bodies.len());
    }
    assert_eq!(queued(&node), 0);
}

#[test]
fn a_large_publication_goes_to_many_nodes_and_subscribers_without_a_copy_for_each() {
    let mut pair = Pair::new();
    let publisher = pair.a.open();
    let near: Vec<u64> = (0..10).map(|_| subscriber(&mut pair.a)).collect();
    let far: Vec<u64> = (0..10).map(|_| subscriber(&mut pair.b)).collect();
    pair.carry();
    // The third time it is known where it goes.
    for letter in ["a", "b", "c"] {
        publish(&mut pair.a, publisher, &large(letter));
        let together = queued(&pair.a);
        assert!(together < MIB + MIB / 2, "{together} bytes for 10 subscribers and a peer");
        for app in &near {
            assert!(heard(&mut pair.a, *app) == [json!(large(letter))]);
        }
        pair.carry();
        assert_eq!(queued(&pair.a), 0);
        let together = queued(&pair.b);
        assert!(together < MIB + MIB / 2, "{together} bytes for 10 subscribers");
        for app in &far {
            assert!(heard(&mut pair.b, *app) == [json!(large(letter))]);
        }
        assert_eq!(queued(&pair.b), 0);
    }
}

#[test]
fn small_and_large_events_arrive_in_order_at_processes_of_every_kind() {
    let mut node = Paper::new("a");
    let (publisher, other) = (node.open(), subscriber(&mut node));
    let kinds = [
        json!({}),
        json!({"delivery": {"window": 3}}),
        json!({"delivery": "pull"}),
        json!({"mailbox": {"policy": "wait"}}),
    ];
    let app = subscriber(&mut node);
    let pids = kinds.map(|options| {
        let mut command = json!({"op": "spawn"});
        command.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        let pid = node.ask(app, command)["pid"].clone();
        subscribe(&mut node, app, &pid);
        pid
    });
    let bodies: Vec<String> = (0..40)
        .map(|n: usize| format!("{n} {}", "x".repeat([10, 5_000, 70_000, 300][n % 4])))
        .collect();
    for body in &bodies {
        publish(&mut node, publisher, body);
    }
    let expected: Vec<Value> = bodies.iter().map(|body| json!(body)).collect();
    assert!(heard(&mut node, other) == expected);
    let pulled = node.ask(app, json!({"op": "flush", "pid": pids[2]}))["messages"].clone();
    let pulled: Vec<Value> =
        pulled.as_array().unwrap().iter().map(|event| event["body"].clone()).collect();
    assert!(pulled == expected);
    let mut of: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    loop {
        let events = node.events(app);
        if events.is_empty() {
            break;
        }
        for event in events.iter().filter(|event| event["ev"] == "message") {
            of.entry(event["pid"].to_string()).or_default().push(event["body"].clone());
            if event["pid"] == pids[1] {
                node.tell(app, &json!({"op": "more", "pid": pids[1], "n": 1}));
            }
        }
    }
    for pid in [&Value::Null, &pids[0], &pids[1], &pids[3]] {
        let bodies = of.remove(&pid.to_string()).unwrap_or_default();
        assert!(bodies == expected, "{pid}: {} of {}", bodies.len(), expected.len());
    }
    assert_eq!(queued(&node), 0);
}

#[test]
fn a_slow_subscriber_alone_sheds_what_the_others_have_taken() {
    let limits = Limits { queue_bytes: 4 * MIB, ..Limits::default() };
    let mut node = Paper::with("a", 1, limits);
    let publisher = node.open();
    let fast: Vec<u64> = (0..5).map(|_| subscriber(&mut node)).collect();
    let slow = subscriber(&mut node);
    for n in 0..20 {
        publish(&mut node, publisher, &large(["a", "b"][n % 2]));
        assert!(queued(&node) <= 5 * MIB);
        for app in &fast {
            assert_eq!(heard(&mut node, *app).len(), 1);
        }
    }
    let events = node.events(slow);
    let lost: u64 = events.iter().filter_map(|event| event["lost"].as_u64()).sum();
    let got = events.iter().filter(|event| event["ev"] == "message").count() as u64;
    assert!(got >= 2 && lost > 0, "{got} {lost}");
    assert_eq!(got + lost, 20);
    assert_eq!(queued(&node), 0);
}

#[test]
fn what_is_taken_back_or_dies_lets_go_of_what_others_have_too() {
    let mut node = Paper::new("a");
    let publisher = node.open();
    let app = node.open();
    let pids: Vec<Value> = (0..4)
        .map(|_| {
            let spawned = node.ask(app, json!({"op": "spawn", "delivery": "pull"}));
            subscribe(&mut node, app, &spawned["pid"]);
            spawned["pid"].clone()
        })
        .collect();
    for letter in ["a", "b", "c"] {
        publish(&mut node, publisher, &large(letter));
        // What was there before stays where it is.
        publish(&mut node, publisher, letter);
    }
    assert!(queued(&node) < 4 * MIB && queued(&node) > 2 * MIB);
    node.ask(app, json!({"op": "unsubscribe", "topic": "t", "pid": pids[0]}));
    node.ask(app, json!({"op": "exit", "pid": pids[1], "reason": "normal"}));
    node.ask(app, json!({"op": "flush", "pid": pids[2]}));
    assert!(queued(&node) > 2 * MIB, "one of them has it still");
    let first = node.ask(app, json!({"op": "receive", "pid": pids[3], "max": 2}));
    assert_eq!(first["messages"].as_array().map(Vec::len), Some(2));
    node.close(app);
    assert_eq!(queued(&node), 0);
}

#[test]
fn a_group_has_a_large_message_together() {
    let mut node = Paper::new("a");
    let sender = node.open();
    let members: Vec<u64> = (0..50)
        .map(|_| {
            let app = node.open();
            node.ask(app, json!({"op": "join", "group": "g"}));
            app
        })
        .collect();
    for letter in ["a", "b"] {
        node.tell(sender, &json!({"op": "send", "to": "group:g", "body": large(letter)}));
        node.work();
    }
    assert!(queued(&node) < 3 * MIB);
    for app in members {
        assert!(heard(&mut node, app) == [json!(large("a")), json!(large("b"))]);
    }
    assert_eq!(queued(&node), 0);
}

#[test]
fn a_small_event_for_several_that_read_lines_is_spelled_once_and_copied_for_the_others() {
    let mut pair = Pair::new();
    let publisher = pair.a.open();
    let lines: Vec<u64> = (0..3).map(|_| subscriber(&mut pair.b)).collect();
    let frames: Vec<u64> = (0..2).map(|_| subscriber(&mut pair.b)).collect();
    for app in &lines {
        pair.b.out.set_reads_lines(*app, true);
    }
    pair.carry();
    let mut spelled = 0;
    for round in 1..=3 {
        publish(&mut pair.a, publisher, "small");
        pair.carry();
        for app in &lines {
            let mut taken = Frames::default();
            pair.b.hold(|_, _, out| out.take_session(*app, &mut taken));
            let pieces: Vec<Piece<'_>> = taken.pieces().collect();
            let [Piece::Shared(event)] = pieces[..] else { panic!("{pieces:?}") };
            event.line(|_, _| spelled += 1);
        }
        for app in &frames {
            let mut taken = Frames::default();
            pair.b.hold(|_, _, out| out.take_session(*app, &mut taken));
            assert!(!taken.is_empty() && taken.own_len() == taken.len());
        }
        assert_eq!((spelled, queued(&pair.b)), (round, 0));
    }
    // One that reads lines is not several.
    pair.b.close(lines[0]);
    pair.b.close(lines[1]);
    publish(&mut pair.a, publisher, "small");
    pair.carry();
    let mut taken = Frames::default();
    pair.b.hold(|_, _, out| out.take_session(lines[2], &mut taken));
    assert!(!taken.is_empty() && taken.own_len() == taken.len());
}

#[test]
fn many_that_read_lines_and_do_not_read_are_bounded_together_however_small_the_events_are() {
    let limits = Limits { queue_bytes: MIB, ..Limits::default() };
    let mut node = Paper::with("a", 1, limits);
    let publisher = node.open();
    let apps: Vec<u64> = (0..50).map(|_| subscriber(&mut node)).collect();
    for app in &apps {
        node.out.set_reads_lines(*app, true);
    }
    for _ in 0..2_000 {
        publish(&mut node, publisher, "x");
        assert!(queued(&node) < 2 * MIB, "{}", queued(&node));
    }
    let kept: usize = apps.iter().map(|app| heard(&mut node, *app).len()).sum();
    // What keeping one in a mailbox takes is counted: 50 times 2 000 of them would be six times the bound, lanes aside.
    assert!(kept < 80_000, "{kept}");
}
