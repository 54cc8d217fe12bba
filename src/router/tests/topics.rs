//! Topics: subscriptions, who hears what, in which order, and what is kept.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::{Limits, SLICE};
use super::support::{Pair, Paper};

fn subscribe(node: &mut Paper, app: u64, topic: &str) {
    let answer = node.ask(app, json!({"op": "subscribe", "topic": topic}));
    assert_eq!(answer["ev"], "ok", "{answer}");
}

fn publish(node: &mut Paper, app: u64, topic: &str, body: impl Into<Value>) {
    node.tell(app, &json!({"op": "publish", "topic": topic, "body": body.into()}));
}

/// The bodies of the messages that an app has heard since it last looked.
fn bodies(node: &mut Paper, app: u64) -> Vec<Value> {
    let events = node.events(app);
    events
        .iter()
        .filter(|event| event["ev"] == "message")
        .map(|event| event["body"].clone())
        .collect()
}

fn spawn(node: &mut Paper, app: u64, options: &Value) -> Value {
    let mut command = json!({"op": "spawn"});
    for (key, value) in options.as_object().into_iter().flatten() {
        command[key] = value.clone();
    }
    node.ask(app, command)["pid"].clone()
}

fn report(node: &mut Paper, app: u64, options: &Value) -> (Value, Value) {
    let mut command = json!({"op": "publish", "report": true, "body": 1});
    for (key, value) in options.as_object().into_iter().flatten() {
        command[key] = value.clone();
    }
    let answer = node.ask(app, command);
    assert_eq!(answer["ev"], "ok", "{answer}");
    (answer["nodes"].clone(), answer["local"].clone())
}

#[test]
fn a_publication_reaches_every_subscription_of_every_node_once() {
    let mut pair = Pair::new();
    let (one, other, third) = (pair.a.open(), pair.b.open(), pair.b.open());
    for topic in ["shop.tea", "shop.tea", "shop.*", ">", "shop.coffee"] {
        subscribe(&mut pair.b, other, topic);
    }
    subscribe(&mut pair.b, third, "shop.tea");
    subscribe(&mut pair.a, one, "shop.tea");
    pair.carry();
    let said = json!({"topic": "shop.tea"});
    assert_eq!(report(&mut pair.a, one, &said), (json!(1), json!(1)));
    pair.carry();
    assert_eq!(bodies(&mut pair.b, other), [1, 1, 1, 1]);
    let from = pair.a.self_pid(one);
    let told = json!({"ev": "message", "topic": "shop.tea", "from": from, "body": 1});
    assert_eq!(pair.b.events(third), std::slice::from_ref(&told));
    assert_eq!(pair.a.events(one), [told]);
    // With `dedupe` a second one changes nothing.
    let again = json!({"op": "subscribe", "topic": "shop.tea", "dedupe": true});
    pair.b.ask(third, again);
    publish(&mut pair.a, one, "shop.tea", 2);
    pair.carry();
    assert_eq!(bodies(&mut pair.b, third), [2]);
}

#[test]
fn a_publication_goes_where_its_scope_says_and_past_whom_it_excludes() {
    let mut pair = Pair::new();
    let (one, near, far) = (pair.a.open(), pair.a.open(), pair.b.open());
    for app in [one, near] {
        subscribe(&mut pair.a, app, "news");
    }
    subscribe(&mut pair.b, far, "news");
    pair.carry();
    let heard = |pair: &mut Pair, options: Value| {
        let mut said = options;
        said["topic"] = json!("news");
        let reached = report(&mut pair.a, one, &said);
        pair.carry();
        let mut all = Vec::new();
        for app in [one, near] {
            all.push(bodies(&mut pair.a, app).len());
        }
        all.push(bodies(&mut pair.b, far).len());
        (reached, all)
    };
    let reached = |nodes: u8, local: u8| (json!(nodes), json!(local));
    assert_eq!(heard(&mut pair, json!({})), (reached(1, 2), vec![1, 1, 1]));
    assert_eq!(heard(&mut pair, json!({"exclude": true})), (reached(1, 1), vec![0, 1, 1]));
    assert_eq!(heard(&mut pair, json!({"scope": "local"})), (reached(0, 2), vec![1, 1, 0]));
    assert_eq!(heard(&mut pair, json!({"node": "b@paper"})), (reached(1, 0), vec![0, 0, 1]));
    assert_eq!(heard(&mut pair, json!({"node": "a"})), (reached(0, 2), vec![1, 1, 0]));
    let pid = pair.b.self_pid(far);
    assert_eq!(heard(&mut pair, json!({"exclude": pid})), (reached(1, 2), vec![1, 1, 0]));
    let nobody = json!({"op": "publish", "topic": "news", "node": "c", "body": 1});
    assert_eq!(pair.a.ask(one, nobody)["code"], "noconnection");
    for wrong in [
        json!({"op": "publish", "topic": "news.*", "body": 1}),
        json!({"op": "publish", "topic": "a b", "body": 1}),
        json!({"op": "publish", "topic": "news", "scope": "local", "node": "b", "body": 1}),
        json!({"op": "subscribe", "topic": "a..b"}),
        json!({"op": "subscribe", "topic": "news", "group": "no good"}),
        json!({"op": "subscribe", "topic": "x".repeat(256)}),
        json!({"op": "subscribe", "topic": "news", "metadata": "x".repeat(2000)}),
    ] {
        assert_eq!(pair.a.ask(one, wrong)["code"], "badarg");
    }
}

#[test]
fn after_unsubscribe_nothing_is_delivered_not_even_what_was_waiting() {
    let mut node = Paper::new("a");
    let app = node.open();
    node.ask(app, json!({"op": "flag", "delivery": "pull"}));
    for topic in ["a", "a", "*", "b"] {
        subscribe(&mut node, app, topic);
    }
    for body in 0..3 {
        publish(&mut node, app, "a", body);
        publish(&mut node, app, "b", body + 10);
    }
    let me = node.self_pid(app);
    node.ask(app, json!({"op": "send", "to": me, "body": "mail"}));
    node.ask(app, json!({"op": "unsubscribe", "topic": "a"}));
    publish(&mut node, app, "a", 3);
    let waiting = node.ask(app, json!({"op": "flush"}))["messages"].clone();
    let heard: Vec<&Value> = waiting.as_array().expect("some").iter().map(|m| &m["body"]).collect();
    let expected: [Value; 11] = [0, 10, 10, 1, 11, 11, 2, 12, 12]
        .map(Value::from)
        .into_iter()
        .chain([json!("mail"), json!(3)])
        .collect::<Vec<_>>()
        .try_into()
        .expect("eleven");
    assert_eq!(heard, expected.iter().collect::<Vec<_>>());
    for topic in ["*", "b", "b", "never"] {
        assert_eq!(node.ask(app, json!({"op": "unsubscribe", "topic": topic}))["ev"], "ok");
    }
    assert_eq!(report(&mut node, app, &json!({"topic": "a"})), (json!(0), json!(0)));
    assert_eq!(node.ask(app, json!({"op": "topics"}))["topics"], json!([]));
    assert_eq!(node.router.queued(&node.out), 0);
}

#[test]
fn what_a_publisher_says_arrives_in_order_whatever_its_size_and_kind() {
    let mut pair = Pair::new();
    let (one, far) = (pair.a.open(), pair.b.open());
    subscribe(&mut pair.b, far, "log.*");
    pair.carry();
    let to = pair.b.self_pid(far);
    for number in 0..40_u32 {
        let body =
            format!("{number:04}{}", "x".repeat([10, 70_000, 0, 200_000][number as usize % 4]));
        match number % 3 {
            0 => pair.a.tell(one, &json!({"op": "send", "to": to, "body": body})),
            1 => pair.a.tell(one, &json!({"op": "cast", "to": to, "body": body})),
            _ => publish(&mut pair.a, one, "log.a", body),
        }
        if number % 5 == 0 {
            pair.carry_once();
        }
    }
    pair.carry();
    let heard = pair.b.events(far);
    let numbers: Vec<u32> = heard
        .iter()
        .map(|event| event["body"].as_str().expect("a text")[..4].parse().expect("a number"))
        .collect();
    assert_eq!(numbers, (0..40).collect::<Vec<_>>());
}

#[test]
fn nothing_goes_to_a_node_where_nobody_has_subscribed() {
    let mut pair = Pair::new();
    let (one, far) = (pair.a.open(), pair.b.open());
    let connection = pair.connection();
    publish(&mut pair.a, one, "a.b", 1);
    assert_eq!(pair.a.out.peer_len(connection), 0);
    for topic in ["a.b", "a.>"] {
        subscribe(&mut pair.b, far, topic);
        pair.carry();
        publish(&mut pair.a, one, "x.y", 1);
        assert_eq!(pair.a.out.peer_len(connection), 0);
        publish(&mut pair.a, one, "a.b", 1);
        assert!(pair.a.out.peer_len(connection) > 0);
        pair.carry();
        pair.b.ask(far, json!({"op": "unsubscribe", "topic": topic}));
        pair.carry();
        publish(&mut pair.a, one, "a.b", 1);
        assert_eq!(pair.a.out.peer_len(connection), 0);
    }
    // The same by the death of the last subscriber.
    subscribe(&mut pair.b, far, "a.b");
    pair.carry();
    pair.b.close(far);
    pair.carry();
    publish(&mut pair.a, one, "a.b", 1);
    assert_eq!(pair.a.out.peer_len(connection), 0);
}

#[test]
fn a_node_that_joins_is_told_every_topic_before_its_nodeup_and_misses_no_change() {
    let mut pair = Pair::apart(Paper::new("a"), Paper::new("b"));
    let (one, far) = (pair.a.open(), pair.b.open());
    pair.a.ask(one, json!({"op": "monitor_nodes"}));
    for number in 0..2 * SLICE {
        subscribe(&mut pair.b, far, &format!("topic.{number}"));
    }
    pair.join_without_work();
    // Half of it has been told: changes on both sides of that place.
    pair.b.ask(far, json!({"op": "unsubscribe", "topic": "topic.1"}));
    let late = 2 * SLICE - 1;
    pair.b.ask(far, json!({"op": "unsubscribe", "topic": format!("topic.{late}")}));
    subscribe(&mut pair.b, far, "fresh");
    pair.a.work();
    pair.b.work();
    pair.carry();
    assert_eq!(pair.a.events(one).iter().filter(|event| event["ev"] == "nodeup").count(), 1);
    for (topic, nodes) in [
        ("topic.0", 1),
        ("topic.1", 0),
        ("topic.600", 1),
        (&*format!("topic.{late}"), 0),
        ("fresh", 1),
    ] {
        let reached = report(&mut pair.a, one, &json!({"topic": topic}));
        assert_eq!(reached, (json!(nodes), json!(0)), "{topic}");
    }
    pair.cut();
    assert_eq!(report(&mut pair.a, one, &json!({"topic": "topic.0"})), (json!(0), json!(0)));
    assert_eq!(pair.a.ask(one, json!({"op": "topics"}))["topics"], json!([]));
    pair.join();
    assert_eq!(report(&mut pair.a, one, &json!({"topic": "topic.0"})), (json!(1), json!(0)));
}

#[test]
fn of_a_queue_group_one_member_gets_each_message_and_the_publishers_node_comes_first() {
    let mut pair = Pair::new();
    let (one, near, far, plain) = (pair.a.open(), pair.a.open(), pair.b.open(), pair.b.open());
    for topic in ["job.*", "job.a"] {
        let member = json!({"op": "subscribe", "topic": topic, "group": "workers"});
        pair.b.ask(far, member);
    }
    subscribe(&mut pair.b, plain, "job.a");
    pair.carry();
    let two: Vec<Value> = (0..2).map(|_| spawn(&mut pair.b, far, &json!({}))).collect();
    for pid in &two {
        let member = json!({"op": "subscribe", "topic": "job.*", "group": "workers", "pid": pid});
        pair.b.ask(far, member);
    }
    for body in 0..6 {
        publish(&mut pair.a, one, "job.a", body);
    }
    pair.carry();
    let events = pair.b.events(far);
    assert_eq!(events.len(), 6, "once each: {events:?}");
    for pid in &two {
        assert!(events.iter().any(|event| &event["pid"] == pid), "in turn: {events:?}");
    }
    assert_eq!(bodies(&mut pair.b, plain).len(), 6, "subscriptions beside the group hear all");
    let member = json!({"op": "subscribe", "topic": "job.a", "group": "workers"});
    pair.a.ask(near, member);
    for body in 0..3 {
        publish(&mut pair.a, one, "job.a", body);
    }
    pair.carry();
    assert_eq!((bodies(&mut pair.a, near).len(), pair.b.events(far).len()), (3, 0));
}

#[test]
fn what_a_member_of_a_queue_group_did_not_take_goes_to_another_or_is_counted() {
    let mut node = Paper::new("a");
    let (one, app) = (node.open(), node.open());
    let pulls = json!({"delivery": "pull"});
    let members: Vec<Value> = (0..3).map(|_| spawn(&mut node, app, &pulls)).collect();
    let join =
        |pid: &Value| json!({"op": "subscribe", "topic": "job", "group": "workers", "pid": pid});
    for pid in &members[..2] {
        node.ask(app, join(pid));
    }
    for body in 0..10 {
        publish(&mut node, one, "job", body);
    }
    node.ask(app, join(&members[2]));
    let queued = |node: &mut Paper, pid: &Value| {
        let flush = node.ask(app, json!({"op": "flush", "pid": pid}))["messages"].clone();
        flush.as_array().expect("a list").clone()
    };
    node.ask(app, json!({"op": "exit", "pid": members[0], "reason": "done"}));
    node.ask(app, json!({"op": "unsubscribe", "topic": "job", "pid": members[1]}));
    node.work();
    assert_eq!(queued(&mut node, &members[1]), [Value::Null; 0]);
    let mut all = queued(&mut node, &members[2]);
    assert!(all.iter().all(|event| event["redelivered"] == true && event["ev"] == "message"));
    all.sort_by_key(|event| event["body"].as_u64());
    assert_eq!(
        all.iter().map(|event| event["body"].clone()).collect::<Vec<_>>(),
        (0..10).collect::<Vec<_>>()
    );
    publish(&mut node, one, "job", 11);
    node.ask(app, json!({"op": "exit", "pid": members[2], "reason": "done"}));
    node.work();
    assert_eq!(node.router.counters().no_member, 1);
    let lost = node.ask(one, json!({"op": "nodes", "state": "self"}))["nodes"][0]["lost"].clone();
    assert_eq!(lost["no_member"], 1);
    assert_eq!(node.router.queued(&node.out), 0);
}

/// Apps that pull, so many, with their pids.
fn crowd(node: &mut Paper, app: u64, many: usize, topics: &[String]) -> Vec<Value> {
    let pulls = json!({"delivery": "pull"});
    let pids: Vec<Value> = (0..many).map(|_| spawn(node, app, &pulls)).collect();
    for pid in &pids {
        for topic in topics {
            node.tell(app, &json!({"op": "subscribe", "topic": topic, "pid": pid}));
        }
    }
    pids
}

fn waiting(node: &mut Paper, app: u64, pid: &Value) -> Vec<Value> {
    let flush = node.ask(app, json!({"op": "flush", "pid": pid}))["messages"].clone();
    flush.as_array().expect("a list").iter().map(|event| event["body"].clone()).collect()
}

#[test]
fn a_publication_for_thousands_goes_in_slices_and_nothing_of_its_publisher_overtakes_it() {
    let mut pair = Pair::new();
    let (near, far) = (pair.a.open(), pair.b.open());
    let topics = ["news".to_owned()];
    let here = crowd(&mut pair.a, near, 2_000, &topics);
    let there = crowd(&mut pair.b, far, 2_000, &topics);
    pair.carry();
    let one = pair.a.open();
    (pair.a.most, pair.b.most) = ((0, 0), (0, 0));
    for number in 0..3 {
        publish(&mut pair.a, one, "news", 2 * number);
        assert!(!pair.a.router.may_read(one, &pair.a.out), "nothing more is read of it");
        assert!(pair.a.router.may_read(near, &pair.a.out), "others go on");
        pair.a.work();
        assert!(pair.a.router.may_read(one, &pair.a.out));
        for (name, pids) in [("here", &here), ("there", &there)] {
            let to = pids[number].clone();
            pair.a.tell(one, &json!({"op": "send", "to": to, "body": name}));
        }
        publish(&mut pair.a, one, "news", 2 * number + 1);
        pair.a.work();
    }
    pair.carry();
    for node in [&pair.a, &pair.b] {
        let (handled, touched) = node.most;
        assert!(handled <= SLICE + 8 && touched <= 2 * SLICE + 16, "{handled}, {touched}");
        assert!(handled > SLICE / 2);
    }
    for (number, pid) in here.iter().enumerate() {
        let mut expected: Vec<Value> = (0..6).map(Value::from).collect();
        if number < 3 {
            expected.insert(2 * number + 1, json!("here"));
        }
        assert_eq!(waiting(&mut pair.a, near, pid), expected);
    }
    for (number, pid) in there.iter().enumerate() {
        let mut expected: Vec<Value> = (0..6).map(Value::from).collect();
        if number < 3 {
            expected.insert(2 * number + 1, json!("there"));
        }
        assert_eq!(waiting(&mut pair.b, far, pid), expected);
    }
    assert_eq!(pair.a.router.queued(&pair.a.out), 0);
    assert_eq!(pair.b.router.queued(&pair.b.out), 0);
}

#[test]
fn what_a_publisher_sends_later_does_not_overtake_what_is_going_in_slices() {
    let mut node = Paper::new("a");
    let (app, one) = (node.open(), node.open());
    let pids = crowd(&mut node, app, 2_000, &["news".to_owned()]);
    node.work();
    for pid in [&pids[0], &pids[1_999]] {
        let later = json!({"op": "send_after", "to": pid, "after_ms": 10, "body": "later"});
        node.ask(one, later);
    }
    node.now += Duration::from_millis(10);
    publish(&mut node, one, "news", "first");
    node.work();
    for pid in [&pids[0], &pids[1_999]] {
        assert_eq!(waiting(&mut node, app, pid), ["first", "later"]);
    }
}

#[test]
fn who_unsubscribes_while_a_publication_goes_in_slices_hears_nothing_after_the_answer() {
    let mut node = Paper::new("a");
    let (app, one) = (node.open(), node.open());
    let pids = crowd(&mut node, app, 2_000, &["news".to_owned()]);
    node.work();
    publish(&mut node, one, "news", 1);
    node.tell(app, &json!({"op": "unsubscribe", "topic": "news", "pid": pids[3], "id": "gone"}));
    node.work();
    assert_eq!(waiting(&mut node, app, &pids[3]), [Value::Null; 0]);
    assert_eq!(waiting(&mut node, app, &pids[4]), [1]);
}

#[test]
fn fifty_thousand_subscribers_of_ten_topics_die_in_slices_and_at_once() {
    let mut pair = Pair::new();
    let (watcher, app) = (pair.a.open(), pair.a.open());
    let topics: Vec<String> = (0..10).map(|number| format!("topic.{number}")).collect();
    crowd(&mut pair.a, app, 50_000, &topics);
    pair.carry();
    let count = pair.ask_across(watcher, json!({"op": "subscribers", "topic": "topic.3"}));
    assert_eq!(count["count"], 50_000);
    pair.a.most = (0, 0);
    let began = Instant::now();
    pair.a.close(app);
    let took = began.elapsed();
    let (handled, touched) = pair.a.most;
    assert!(handled <= SLICE + 8 && touched <= 2 * SLICE + 16, "{handled}, {touched}");
    // Half a second without optimisation; what it must not be is the square of fifty thousand.
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(report(&mut pair.a, watcher, &json!({"topic": "topic.3"})), (json!(0), json!(0)));
    pair.carry();
    assert_eq!(pair.b.router.topics_kept(), 0);
    assert_eq!(pair.a.router.topics_kept(), 0);
}

#[test]
fn subscribers_are_counted_and_listed_on_every_node_with_what_they_said() {
    let mut pair = Pair::new();
    let (one, near, far) = (pair.a.open(), pair.a.open(), pair.b.open());
    let with =
        |metadata: Value| json!({"op": "subscribe", "topic": "room.1", "metadata": metadata});
    pair.a.ask(near, with(json!({"nick": "ann", "age": -4})));
    pair.b.ask(far, with(json!("bob")));
    pair.b.ask(far, json!({"op": "subscribe", "topic": "room.*", "group": "bots"}));
    pair.carry();
    let topic = json!({"op": "subscribers", "topic": "room.1"});
    let answer = pair.ask_across(one, topic);
    assert_eq!((&answer["count"], &answer["missing"]), (&json!(3), &Value::Null));
    let (ann, bob) = (pair.a.self_pid(near), pair.b.self_pid(far));
    let list = json!({"op": "subscribers", "topic": "room.1", "list": true});
    let answer = pair.ask_across(one, list);
    assert_eq!(
        answer["subscribers"],
        json!([
            {"pid": ann, "topic": "room.1", "metadata": {"nick": "ann", "age": -4}},
            {"pid": bob, "topic": "room.1", "metadata": "bob"},
            {"pid": bob, "topic": "room.*", "group": "bots"},
        ])
    );
    assert_eq!(
        pair.a.ask(one, json!({"op": "topics"}))["topics"],
        json!([
            {"topic": "room.1", "local": 1, "nodes": 1},
            {"topic": "room.*", "local": 0, "nodes": 1},
        ])
    );
    // A node that does not answer is named, not passed over in silence.
    pair.a.tell(one, &json!({"op": "subscribers", "topic": "room.1", "id": "late"}));
    pair.a.pass(Duration::from_secs(5));
    let answer = pair.a.events(one).pop().expect("an answer");
    assert_eq!((&answer["count"], &answer["missing"]), (&json!(1), &json!(["b@paper"])));
}

#[test]
fn subscribe_with_sync_answers_once_every_node_knows_and_waits_for_no_lost_one() {
    let mut pair = Pair::new();
    let (one, far) = (pair.a.open(), pair.b.open());
    let sync =
        |topic: &str, id: u8| json!({"op": "subscribe", "topic": topic, "sync": true, "id": id});
    pair.b.tell(far, &sync("a", 1));
    assert_eq!(pair.b.events(far), [Value::Null; 0]);
    pair.carry();
    assert_eq!(report(&mut pair.a, one, &json!({"topic": "a"})), (json!(1), json!(0)));
    pair.carry();
    let heard = pair.b.events(far);
    assert_eq!(heard[0], json!({"ev": "ok", "id": 1}));
    assert_eq!(heard[1]["body"], 1);
    pair.b.tell(far, &sync("b", 2));
    pair.b.pass(Duration::from_secs(5));
    let late = pair.b.events(far).pop().expect("an answer");
    assert_eq!((&late["code"], &late["maybe_applied"]), (&json!("timeout"), &json!(true)));
    assert_eq!(late["nodes"], json!(["a@paper"]));
    pair.b.tell(far, &sync("c", 3));
    pair.cut();
    assert_eq!(pair.b.events(far), [json!({"ev": "ok", "id": 3})]);
    assert_eq!(pair.b.ask(far, json!({"op": "subscribe", "topic": "d", "sync": true}))["ev"], "ok");
}

#[test]
fn a_wait_mailbox_holds_its_publishers_and_others_lose_with_a_gap_in_place() {
    let mut pair = Pair::new();
    let (one, two, far) = (pair.a.open(), pair.a.open(), pair.b.open());
    let small =
        |policy: &str| json!({"delivery": "pull", "mailbox": {"entries": 4, "policy": policy}});
    let waits = spawn(&mut pair.b, far, &small("wait"));
    let drops = spawn(&mut pair.b, far, &small("drop_newest"));
    let oldest = spawn(&mut pair.b, far, &small("drop_oldest"));
    for pid in [&waits, &drops, &oldest] {
        pair.b.ask(far, json!({"op": "subscribe", "topic": "t", "pid": pid}));
    }
    pair.carry();
    for body in 0..6 {
        publish(&mut pair.a, one, "t", body);
        pair.carry();
    }
    assert!(!pair.a.router.may_read(one, &pair.a.out), "held by the mailbox that waits");
    assert!(pair.a.router.may_read(two, &pair.a.out), "and nobody else");
    let all = |node: &mut Paper, pid: &Value| {
        let flush = node.ask(far, json!({"op": "flush", "pid": pid}))["messages"].clone();
        let events = flush.as_array().expect("a list").clone();
        events
            .iter()
            .map(|event| match event["ev"].as_str() {
                Some("gap") => json!([event["lost"]]),
                _ => event["body"].clone(),
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(json!(all(&mut pair.b, &waits)), json!([0, 1, 2, 3, 4, 5]));
    assert_eq!(json!(all(&mut pair.b, &drops)), json!([0, 1, 2, 3, [2]]));
    assert_eq!(json!(all(&mut pair.b, &oldest)), json!([[2], 2, 3, 4, 5]));
    pair.carry();
    assert!(pair.a.router.may_read(one, &pair.a.out));
}

#[test]
fn a_full_way_to_one_node_is_told_and_takes_nothing_from_the_others() {
    let limits = Limits { peer_bytes: 4096, ..Limits::default() };
    let mut pair = Pair::of(Paper::with("a", 1, limits), Paper::new("b"));
    let (one, near, far) = (pair.a.open(), pair.a.open(), pair.b.open());
    subscribe(&mut pair.a, near, "t");
    subscribe(&mut pair.b, far, "t");
    pair.carry();
    for _ in 0..9 {
        publish(&mut pair.a, one, "t", "x".repeat(1000));
    }
    assert!(!pair.a.router.may_read(one, &pair.a.out), "the way to b is full");
    let full = pair.a.ask(one, json!({"op": "publish", "topic": "t", "mode": "try", "body": 1}));
    assert_eq!((&full["code"], &full["nodes"]), (&json!("overloaded"), &json!(["b@paper"])));
    let lossy = json!({"op": "publish", "topic": "t", "mode": "lossy", "report": true, "body": 2});
    let lossy = pair.a.ask(one, lossy);
    assert_eq!((&lossy["nodes"], &lossy["local"]), (&json!(0), &json!(1)));
    assert_eq!(bodies(&mut pair.a, near).len(), 11);
    pair.carry();
    assert_eq!(bodies(&mut pair.b, far).len(), 9);
    assert_eq!(pair.a.router.counters().congested, 2);
    assert!(pair.a.router.may_read(one, &pair.a.out));
}

#[test]
fn the_last_value_of_a_topic_is_given_to_who_subscribes_later_on_every_node() {
    let mut pair = Pair::new();
    let (one, far) = (pair.a.open(), pair.b.open());
    let retain = |topic: &str, body: Value| json!({"op": "publish", "topic": topic, "retain": true, "body": body});
    for body in 0..3 {
        pair.a.ask(one, retain("lamp.hall", json!(body)));
    }
    pair.a.ask(one, retain("lamp.attic", json!("on")));
    pair.carry();
    let told = |node: &mut Paper, app: u64| -> Vec<(Value, Value, Value)> {
        let events = node.events(app);
        events
            .iter()
            .map(|e| (e["topic"].clone(), e["body"].clone(), e["retained"].clone()))
            .collect()
    };
    subscribe(&mut pair.b, far, "lamp.hall");
    assert_eq!(told(&mut pair.b, far), [(json!("lamp.hall"), json!(2), json!(true))]);
    // A later value of another node takes the place of the earlier one.
    pair.b.ask(far, retain("lamp.hall", json!("dim")));
    pair.carry();
    assert_eq!(told(&mut pair.b, far), [(json!("lamp.hall"), json!("dim"), Value::Null)]);
    let late = pair.a.open();
    subscribe(&mut pair.a, late, "lamp.*");
    assert_eq!(
        told(&mut pair.a, late),
        [
            (json!("lamp.attic"), json!("on"), json!(true)),
            (json!("lamp.hall"), json!("dim"), json!(true)),
        ]
    );
    // Without a body it is cleared, whoever keeps it.
    pair.a.ask(one, json!({"op": "publish", "topic": "lamp.hall", "retain": true}));
    pair.carry();
    assert_eq!(told(&mut pair.a, late).len(), 1);
    for (paper, app) in [(&mut pair.a, late), (&mut pair.b, far)] {
        let _ = told(paper, app);
        paper.ask(app, json!({"op": "unsubscribe", "topic": "lamp.hall"}));
        subscribe(paper, app, "lamp.hall");
        assert_eq!(told(paper, app), []);
    }
    // A node that is gone takes its values along.
    pair.cut();
    subscribe(&mut pair.b, far, "lamp.*");
    assert_eq!(told(&mut pair.b, far), []);
}

#[test]
fn retained_values_are_bounded_in_number_and_in_bytes() {
    let mut node = Paper::new("a");
    let app = node.open();
    let retain = |topic: String, body: String| json!({"op": "publish", "topic": topic, "retain": true, "body": body});
    let long = node.ask(app, retain("t".into(), "x".repeat(40_000)));
    assert_eq!(long["code"], "too_large");
    let mut codes = Vec::new();
    for number in 0..60 {
        codes.push(
            node.ask(app, retain(format!("big.{number}"), "x".repeat(30_000)))["code"].clone(),
        );
    }
    assert_eq!(codes[33], Value::Null);
    assert_eq!(codes[40], "overloaded");
    for number in 0..60 {
        node.ask(app, json!({"op": "publish", "topic": format!("big.{number}"), "retain": true}));
    }
    for number in 0..1024 {
        assert_eq!(node.ask(app, retain(format!("t.{number}"), "x".into()))["ev"], "ok");
    }
    assert_eq!(node.ask(app, retain("one.more".into(), "x".into()))["code"], "overloaded");
    assert_eq!(node.ask(app, retain("t.7".into(), "y".into()))["ev"], "ok");
    // All of them are given in slices.
    let late = node.open();
    node.ask(late, json!({"op": "flag", "delivery": "pull"}));
    node.most = (0, 0);
    subscribe(&mut node, late, ">");
    let me = json!(node.self_pid(late));
    assert_eq!(waiting(&mut node, late, &me).len(), 1024);
    assert!(node.most.0 <= SLICE + 8, "{:?}", node.most);
}

#[test]
fn a_repeated_publication_follows_who_subscribes_and_who_leaves() {
    let mut pair = Pair::new();
    let (one, near, far) = (pair.a.open(), pair.a.open(), pair.b.open());
    for body in 0..3 {
        publish(&mut pair.a, one, "t", body);
    }
    subscribe(&mut pair.a, near, "t");
    publish(&mut pair.a, one, "t", 3);
    subscribe(&mut pair.b, far, "*");
    pair.carry();
    publish(&mut pair.a, one, "t", 4);
    pair.a.ask(near, json!({"op": "unsubscribe", "topic": "t"}));
    publish(&mut pair.a, one, "t", 5);
    pair.carry();
    pair.b.close(far);
    pair.carry();
    publish(&mut pair.a, one, "t", 6);
    assert_eq!(bodies(&mut pair.a, near), [3, 4]);
    let far = pair.b.open();
    subscribe(&mut pair.b, far, "t");
    pair.carry();
    publish(&mut pair.a, one, "t", 7);
    pair.carry();
    assert_eq!(bodies(&mut pair.b, far), [7]);
}

#[test]
fn a_publication_of_a_peer_that_is_none_closes_its_connection() {
    use crate::wire::event;
    use crate::wire::message::{self, Frame, Kind};
    let mut pair = Pair::new();
    let mut head = Vec::new();
    event::put_topic_head(&mut head, "t", "<a@paper.0000000000000001.", 100, None);
    let frame = |flags: u8, before: &[u8], head: &[u8]| {
        let mut bytes = Vec::new();
        let at = message::start(&mut bytes, Kind::Publish, flags, 100);
        bytes.extend_from_slice(before);
        event::put_frame(&mut bytes, head, b"\x01");
        message::finish(&mut bytes, at);
        bytes
    };
    let plain = b"\xa1\x62ev\x67message";
    let good = frame(0, &[], &head);
    let far = pair.b.open();
    subscribe(&mut pair.b, far, "t");
    assert!(pair.hears(Frame::read(&good[4..]).expect("a frame")).is_ok());
    assert_eq!(bodies(&mut pair.b, far), [1]);
    for wrong in [
        frame(0, &[], plain),
        frame(0, &[1], &head),
        frame(message::PUBLISH_EXCLUDE, &[], &head),
        frame(message::PUBLISH_QUEUES, &[9, 0, 200], &head),
    ] {
        assert!(pair.hears(Frame::read(&wrong[4..]).expect("a frame")).is_err());
    }
    assert_eq!(bodies(&mut pair.b, far), [Value::Null; 0]);
}

#[test]
fn queue_groups_of_one_topic_are_bounded_and_looking_for_patterns_is_counted() {
    let mut node = Paper::new("a");
    let app = node.open();
    for n in 0..64 {
        let command = json!({"op": "subscribe", "topic": "t", "group": format!("g{n}")});
        assert_eq!(node.ask(app, command)["ev"], "ok");
    }
    let one_more = json!({"op": "subscribe", "topic": "t", "group": "more"});
    assert_eq!(node.ask(app, one_more.clone())["code"], "overloaded");
    let again = json!({"op": "subscribe", "topic": "t", "group": "g7"});
    assert_eq!(node.ask(app, again)["ev"], "ok");
    assert_eq!(node.ask(app, json!({"op": "unsubscribe", "topic": "t"}))["ev"], "ok");
    assert_eq!(node.ask(app, one_more)["ev"], "ok");
    // Twelve segments, each of which leads two ways.
    for n in 0..1 << 12 {
        let way = |bit: usize| if n >> bit & 1 == 1 { "*" } else { "a" };
        let pattern: Vec<&str> = (0..12).map(way).chain(["b"]).collect();
        node.tell(app, &json!({"op": "subscribe", "topic": pattern.join(".")}));
    }
    node.work();
    node.most = (0, 0);
    let topic = ["a"; 12].join(".") + ".c";
    assert_eq!(node.ask(app, json!({"op": "publish", "topic": topic}))["ev"], "ok");
    assert!(node.most.0 > 500, "what was looked at is counted: {:?}", node.most);
}
