//! Topics between real daemons: who hears what, in which order, and what a subscriber that stands still changes.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{App, DIALECTS, Daemon, Place, Value, eventually, json};

fn subscribe(app: &mut App, topic: &str) {
    app.ok(json!({"op": "subscribe", "topic": topic, "sync": true}));
}

fn publish(app: &mut App, topic: &str, body: Value) {
    app.tell(json!({"op": "publish", "topic": topic, "body": body}));
}

/// Three nodes that are all connected to each other.
fn three(place: &Place) -> [Daemon; 3] {
    let nodes = ["a", "b", "c"].map(|base| place.start(base, &[]));
    let [a, b, c] = &nodes;
    a.json().meets(&[b, c]);
    b.json().meets(&[a, c]);
    c.json().meets(&[a, b]);
    nodes
}

#[test]
fn topics_reach_apps_of_both_dialects_on_every_node_in_order_by_name_and_by_pattern() {
    let place = Place::new();
    let nodes = three(&place);
    let mut apps: Vec<App> =
        nodes.iter().flat_map(|node| DIALECTS.map(|dialect| node.app(dialect))).collect();
    for (number, app) in apps.iter_mut().enumerate() {
        subscribe(app, ["shop.tea", "shop.*", "shop.>"][number % 3]);
        subscribe(app, "lamp");
    }
    for publisher in 0..apps.len() {
        let pid = apps[publisher].pid.clone();
        for n in 0..50 {
            publish(&mut apps[publisher], "shop.tea", json!({"n": n}));
            publish(&mut apps[publisher], "shop", json!("nobody"));
        }
        let said = json!({
            "op": "publish", "topic": "lamp", "body": {"$bytes": "AAH/"}, "ct": "image/x",
            "report": true, "exclude": true,
        });
        let reached = apps[publisher].ok(said);
        assert_eq!((&reached["nodes"], &reached["local"]), (&json!(2), &json!(1)));
        for (number, app) in apps.iter_mut().enumerate() {
            for n in 0..50 {
                let event = app.event();
                assert_eq!(event["topic"], "shop.tea");
                assert_eq!((&event["from"], &event["body"]), (&json!(pid), &json!({"n": n})));
            }
            if number != publisher {
                let event = app.event();
                assert_eq!((&event["topic"], &event["ct"]), (&json!("lamp"), &json!("image/x")));
                assert_eq!(event["body"], json!({"$bytes": "AAH/"}));
            }
        }
    }
    let count = apps[0].ok(json!({"op": "subscribers", "topic": "shop.tea"}));
    assert_eq!(count["count"], 6);
    for app in &mut apps {
        app.ok(json!({"op": "unsubscribe", "topic": "lamp"}));
        app.nothing();
    }
}

#[test]
fn a_subscriber_that_is_stopped_changes_nothing_for_others_and_its_losses_are_counted() {
    let place = Place::new();
    let (a, b) = (place.start("a", &[]), place.start("b", &[]));
    b.json().meets(&[&a]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    command.args(["sub", "t", "--raw"]).env("PILLION_SOCKET", &a.socket);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut sub = command.spawn().expect("it runs");
    let mut words = String::new();
    BufReader::new(sub.stderr.take().expect("piped")).read_line(&mut words).expect("it says so");
    assert!(words.contains("subscribed to t"), "{words}");
    let mut app = a.cbor();
    let subscribers = app.ok(json!({"op": "subscribers", "topic": "t", "list": true}));
    let stopped = subscribers["subscribers"][0]["pid"].as_str().expect("a pid").to_owned();
    subscribe(&mut app, "t");
    let process = Pid::from_child(&sub);
    kill_process(process, Signal::STOP).expect("it is ours");
    let mut publisher = b.cbor();
    let body = "x".repeat(1000);
    // 12 MB: more than the mailbox of the one that stands still may hold.
    for round in 0..120 {
        for n in 0..100 {
            publish(&mut publisher, "t", json!([round, n, body]));
        }
        for n in 0..100 {
            let heard = app.body();
            assert_eq!((&heard[0], &heard[1]), (&json!(round), &json!(n)));
        }
    }
    assert!(app.info(&stopped, "dropped").as_u64().unwrap() > 0);
    assert!(a.json().info(&app.pid, "dropped") == 0);
    kill_process(process, Signal::CONT).expect("it is ours");
    kill_process(process, Signal::KILL).expect("it is ours");
    sub.wait().expect("it ends");
    let mut count = || app.ok(json!({"op": "subscribers", "topic": "t"}))["count"].clone();
    eventually("the dead one is no subscriber", || count() == 1);
}

#[test]
fn what_a_killed_member_of_a_queue_group_had_not_taken_is_given_to_another() {
    let place = Place::new();
    let (a, b) = (place.start("a", &[]), place.start("b", &[]));
    let mut publisher = a.json();
    publisher.meets(&[&b]);
    let member = |app: &mut App| {
        app.ok(json!({"op": "hello", "delivery": {"window": 1}}));
        app.ok(json!({"op": "subscribe", "topic": "job.*", "group": "workers", "sync": true}));
    };
    let (mut dies, mut stays) = (b.cbor(), b.json());
    member(&mut dies);
    for n in 0..20 {
        publish(&mut publisher, "job.sweep", json!(n));
    }
    // One was given to it, all others wait.
    assert_eq!(dies.event_of("message")["body"], 0);
    eventually("all have come", || stays.info(&dies.pid, "message_queue_len") == 19);
    member(&mut stays);
    drop(dies);
    for n in 1..20 {
        let event = stays.event_of("message");
        assert_eq!((&event["redelivered"], &event["body"]), (&json!(true), &json!(n)));
        stays.tell(json!({"op": "more", "n": 1}));
    }
    publish(&mut publisher, "job.cook", json!("fresh"));
    let event = stays.event_of("message");
    assert_eq!((&event["redelivered"], &event["body"]), (&Value::Null, &json!("fresh")));
    let nodes = stays.ok(json!({"op": "nodes", "state": "self"}));
    assert_eq!(nodes["nodes"][0]["lost"]["no_member"], 0);
}

#[test]
fn a_last_value_outlives_the_app_that_published_it_and_not_its_node() {
    let place = Place::new();
    let [mut a, b, c] = three(&place);
    let mut publisher = a.cbor();
    for body in [json!("dim"), json!("on")] {
        let value = json!({"op": "publish", "topic": "lamp.hall", "retain": true, "body": body});
        publisher.ok(value);
    }
    drop(publisher);
    for (node, dialect) in [(&b, DIALECTS[0]), (&c, DIALECTS[1])] {
        eventually("the value has come", || {
            let mut late = node.app(dialect);
            subscribe(&mut late, "lamp.*");
            late.pending().first().is_some_and(|event| {
                event["body"] == "on" && event["retained"] == true && event["topic"] == "lamp.hall"
            })
        });
    }
    let mut app = b.json();
    app.ok(json!({"op": "monitor_nodes", "on": true}));
    a.kill();
    assert_eq!(app.event_of("nodedown")["node"], "a@t");
    subscribe(&mut app, "lamp.*");
    app.nothing();
}

#[test]
fn a_publication_for_thousands_on_another_node_keeps_its_place_in_what_its_publisher_says() {
    const MANY: usize = 1500;
    let place = Place::new();
    let (a, b) = (place.start("a", &[]), place.start("b", &[]));
    let mut publisher = a.cbor();
    publisher.meets(&[&b]);
    let mut far = b.cbor();
    let pids: Vec<String> = (0..MANY).map(|_| far.spawn(json!({"delivery": "pull"}))).collect();
    for pid in &pids {
        far.tell(json!({"op": "subscribe", "topic": "news", "pid": pid}));
    }
    subscribe(&mut far, "end");
    for n in 0..10_usize {
        publish(&mut publisher, "news", json!(2 * n));
        let to = &pids[n * 100];
        publisher.tell(json!({"op": "send", "to": to, "body": 2 * n + 1}));
    }
    publish(&mut publisher, "end", json!("end"));
    assert_eq!(far.body(), "end");
    for (place, pid) in pids.iter().enumerate().step_by(50) {
        let answer = far.ok(json!({"op": "flush", "pid": pid}));
        let heard: Vec<usize> = answer["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| usize::try_from(event["body"].as_u64().unwrap()).unwrap())
            .collect();
        let mut expected: Vec<usize> = (0..10).map(|n| 2 * n).collect();
        if place % 100 == 0 && place / 100 < 10 {
            expected.push(2 * (place / 100) + 1);
            expected.sort_unstable();
        }
        assert_eq!(heard, expected, "process {place}");
    }
}

#[test]
fn a_publisher_waits_for_subscribers_whose_mailboxes_wait_and_nothing_is_lost() {
    const COUNT: usize = 10_000;
    let place = Place::new();
    let (a, b) = (place.start("a", &[]), place.start("b", &[]));
    let mut publisher = a.cbor();
    publisher.meets(&[&b]);
    let mut apps = vec![a.json(), b.cbor(), b.json()];
    for app in &mut apps {
        app.ok(json!({"op": "hello", "delivery": {"window": 10}}));
        app.ok(json!({"op": "flag", "mailbox": {"entries": 50, "policy": "wait"}}));
        subscribe(app, "t");
    }
    // It writes whatever it is let: far more than the mailboxes hold.
    let writer = std::thread::spawn(move || {
        for n in 0..COUNT {
            publish(&mut publisher, "t", json!(n));
        }
        publisher
    });
    for n in 0..COUNT {
        for app in &mut apps {
            assert_eq!(app.event_of("message")["body"], n);
            if n % 5 == 4 {
                app.tell(json!({"op": "more", "n": 5}));
            }
        }
    }
    let mut publisher = writer.join().expect("it has written all");
    publisher.nothing();
}

#[test]
fn forty_subscribers_of_large_messages_have_each_in_one_piece_of_memory_and_lose_none() {
    const PUBLISHED: usize = 4;
    const BODY_BYTES: usize = 1_000_000;
    let place = Place::new();
    let (a, b) = (place.start("a", &[]), place.start("b", &[]));
    let mut publisher = a.cbor();
    publisher.meets(&[&b]);
    let mut apps: Vec<App> =
        (0..40).map(|n| if n % 8 == 0 { b.json() } else { b.cbor() }).collect();
    for app in &mut apps {
        subscribe(app, "t");
    }
    // Nobody reads meanwhile: a copy for each would be 160 MB, and most would be shed.
    for n in 0..PUBLISHED {
        publish(&mut publisher, "t", json!(format!("{n}{}", "x".repeat(BODY_BYTES))));
    }
    for app in &mut apps {
        for n in 0..PUBLISHED {
            let event = app.event();
            assert_eq!(event["ev"], "message", "{n}");
            let body = event["body"].as_str().expect("text");
            assert_eq!((body.len(), &body[..2]), (BODY_BYTES + 1, &*format!("{n}x")));
        }
        app.nothing();
    }
    if let Some(peak) = b.resident_peak() {
        assert!(peak < 64 * 1024 * 1024, "{peak} bytes");
    }
}
