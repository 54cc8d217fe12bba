//! Publications to crowds, and publications that repeat themselves.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::{Again, Limits, SLICE};
use super::support::{Pair, Paper};
use crate::wire::message::Frame;

fn subscribe(node: &mut Paper, app: u64, topic: &str) {
    let answer = node.ask(app, json!({"op": "subscribe", "topic": topic}));
    assert_eq!(answer["ev"], "ok", "{answer}");
}

fn publish(node: &mut Paper, app: u64, topic: &str, body: impl Into<Value>) {
    node.tell(app, &json!({"op": "publish", "topic": topic, "body": body.into()}));
}

/// The bodies of the messages that an app has heard since it last looked; it has heard nothing else.
fn bodies(node: &mut Paper, app: u64) -> Vec<Value> {
    let events = node.events(app);
    assert!(events.iter().all(|event| event["ev"] == "message"), "{events:?}");
    events.iter().map(|event| event["body"].clone()).collect()
}

#[test]
fn a_repeated_publication_that_this_hold_has_no_room_for_comes_whole_in_the_next() {
    let mut pair = Pair::new();
    let (one, other) = (pair.a.open(), pair.b.open());
    let here: Vec<u64> = (0..100).map(|_| pair.a.open()).collect();
    let there: Vec<u64> = (0..100).map(|_| pair.b.open()).collect();
    for (app, other) in here.iter().zip(&there) {
        subscribe(&mut pair.a, *app, "shop.tea");
        subscribe(&mut pair.b, *other, "shop.tea");
    }
    subscribe(&mut pair.b, other, "shop.*");
    pair.carry();
    for body in 0..3 {
        publish(&mut pair.a, one, "shop.tea", body);
    }
    pair.carry();
    let mut command = Vec::new();
    let line = json!({"op": "publish", "topic": "shop.tea", "body": 3}).to_string();
    crate::dialect::json::line_to_frame(line.as_bytes(), &mut command).expect("a good line");
    let again = |pair: &mut Pair, before: usize| {
        pair.a.hold(|router, now, out| {
            out.count(before);
            router.on_again(now, one, &command[4..], out)
        })
    };
    assert_eq!(again(&mut pair, SLICE - 50), Again::PutOff);
    assert_eq!(pair.a.out.peer_len(pair.connection()), 0);
    assert_eq!(again(&mut pair, 0), Again::Done);
    let mut frames = Vec::new();
    let connection = pair.connection();
    pair.a.hold(|_, _, out| out.take_peer(connection, &mut frames));
    let (frame, _) = Frame::cut(&frames, 70_000).expect("a good frame").expect("a whole one");
    let heard = |pair: &mut Pair, before: usize| {
        pair.b.hold(|router, now, out| {
            out.count(before);
            router.on_publish_again(now, connection, &frame, out)
        })
    };
    assert_eq!(heard(&mut pair, SLICE - 50), Again::PutOff);
    assert_eq!(heard(&mut pair, 0), Again::Done);
    for app in here {
        assert_eq!(bodies(&mut pair.a, app), [0, 1, 2, 3]);
    }
    for app in there {
        assert_eq!(bodies(&mut pair.b, app), [0, 1, 2, 3]);
    }
    assert_eq!(bodies(&mut pair.b, other), [0, 1, 2, 3]);
}

#[test]
fn a_repeated_publication_notices_a_peer_that_comes_and_a_queue_group() {
    let mut pair = Pair::apart(Paper::new("a"), Paper::new("b"));
    let (one, other, third) = (pair.a.open(), pair.b.open(), pair.a.open());
    subscribe(&mut pair.b, other, "tea");
    for body in 0..3 {
        publish(&mut pair.a, one, "tea", body);
    }
    pair.join();
    for body in 3..6 {
        publish(&mut pair.a, one, "tea", body);
    }
    pair.carry();
    assert_eq!(bodies(&mut pair.b, other), [3, 4, 5]);
    let join = json!({"op": "subscribe", "topic": "tea", "group": "workers"});
    assert_eq!(pair.a.ask(third, join)["ev"], "ok");
    for body in 6..9 {
        publish(&mut pair.a, one, "tea", body);
    }
    pair.carry();
    assert_eq!(bodies(&mut pair.a, third), [6, 7, 8]);
    assert_eq!(bodies(&mut pair.b, other), [6, 7, 8]);
    let leave = json!({"op": "unsubscribe", "topic": "tea"});
    assert_eq!(pair.a.ask(third, leave)["ev"], "ok");
    subscribe(&mut pair.a, third, "*");
    for body in 9..12 {
        publish(&mut pair.a, one, "tea", body);
    }
    pair.carry();
    assert_eq!(bodies(&mut pair.a, third), [9, 10, 11]);
    assert_eq!(bodies(&mut pair.b, other), [9, 10, 11]);
}

#[test]
fn a_publication_to_many_wait_mailboxes_loses_nothing_though_together_they_fill_the_node() {
    for bodies_max in [1, 3] {
        let limits = Limits { queue_bytes: 4 * 1024 * 1024, ..Limits::default() };
        let mut pair = Pair::of(Paper::new("a"), Paper::with("b", 1, limits));
        let one = pair.a.open();
        let crowd: Vec<u64> = (0..100).map(|_| pair.b.open()).collect();
        for app in &crowd {
            pair.b.ask(*app, json!({"op": "flag", "mailbox": {"policy": "wait"}}));
            subscribe(&mut pair.b, *app, "tea");
        }
        pair.carry();
        let connection = pair.connection();
        let mut stalls = 0;
        let body = "x".repeat(1000);
        let mut heard = vec![0; crowd.len()];
        for number in 0..300 {
            publish(&mut pair.a, one, "tea", format!("{number} {body}"));
            pair.carry_once();
            if pair.b.router.is_waiting(connection) {
                stalls += 1;
                // Some apps read, and then all.
                for (app, heard) in crowd.iter().zip(&mut heard).step_by(bodies_max) {
                    *heard += bodies(&mut pair.b, *app).len();
                }
                pair.b.pass(Duration::from_millis(20));
                for (app, heard) in crowd.iter().zip(&mut heard) {
                    *heard += bodies(&mut pair.b, *app).len();
                }
                assert!(!pair.b.router.is_waiting(connection));
            }
        }
        for (app, heard) in crowd.iter().zip(&mut heard) {
            let events = pair.b.events(*app);
            assert!(events.iter().all(|event| event["ev"] == "message"), "{events:?}");
            *heard += events.len();
        }
        assert_eq!(heard, vec![300; crowd.len()]);
        assert!(stalls > 0);
    }
}

#[test]
fn a_few_slow_mailboxes_of_different_topics_delay_nobody_else_of_their_peer() {
    let limits = Limits { queue_bytes: 4 * 1024 * 1024, ..Limits::default() };
    let mut pair = Pair::of(Paper::new("a"), Paper::with("b", 1, limits));
    let topics = ["tea", "coffee"];
    for topic in topics {
        let app = pair.b.open();
        pair.b.ask(app, json!({"op": "flag", "mailbox": {"policy": "wait"}}));
        subscribe(&mut pair.b, app, topic);
    }
    let one = pair.a.open();
    pair.carry();
    let body = "x".repeat(1000);
    for _ in 0..1500 {
        for topic in topics {
            publish(&mut pair.a, one, topic, body.as_str());
            pair.carry_once();
            assert!(!pair.b.router.is_waiting(pair.connection()));
        }
    }
}

#[test]
fn a_publisher_of_the_same_node_waits_while_its_many_subscribers_fill_it() {
    let limits = Limits { queue_bytes: 4 * 1024 * 1024, ..Limits::default() };
    let mut node = Paper::with("a", 1, limits);
    let one = node.open();
    let crowd: Vec<u64> = (0..100).map(|_| node.open()).collect();
    for app in &crowd {
        node.ask(*app, json!({"op": "flag", "mailbox": {"policy": "wait"}}));
        subscribe(&mut node, *app, "tea");
    }
    let body = "x".repeat(1000);
    let mut published = 0;
    while node.router.may_read(one, &node.out) {
        publish(&mut node, one, "tea", body.as_str());
        published += 1;
        assert!(published < 200, "it was read on and on");
    }
    let heard: Vec<usize> = crowd.iter().map(|app| bodies(&mut node, *app).len()).collect();
    assert_eq!(heard, vec![published; crowd.len()]);
    assert!(node.router.may_read(one, &node.out));
}

#[test]
fn a_peer_is_not_read_for_a_moment_only_when_nobody_takes_what_it_publishes() {
    let limits = Limits { queue_bytes: 4 * 1024 * 1024, ..Limits::default() };
    let mut pair = Pair::of(Paper::new("a"), Paper::with("b", 1, limits));
    let one = pair.a.open();
    for _ in 0..100 {
        let app = pair.b.open();
        pair.b.ask(app, json!({"op": "flag", "mailbox": {"policy": "wait"}}));
        subscribe(&mut pair.b, app, "tea");
    }
    pair.carry();
    let body = "x".repeat(1000);
    let mut published = 0;
    while !pair.b.router.is_waiting(pair.connection()) {
        publish(&mut pair.a, one, "tea", body.as_str());
        pair.carry_once();
        published += 1;
        assert!(published < 200, "it was read on and on");
    }
    pair.b.pass(Duration::from_millis(20));
    assert!(!pair.b.router.is_waiting(pair.connection()));
    // It is stuck: nobody else has to wait for it again.
    for _ in 0..50 {
        publish(&mut pair.a, one, "tea", body.as_str());
        pair.carry_once();
        assert!(!pair.b.router.is_waiting(pair.connection()));
    }
}
