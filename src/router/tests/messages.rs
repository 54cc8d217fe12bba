//! Messages: order, names, receiving, timers.

use std::time::Duration;

use serde_json::json;

use super::support::{Pair, Paper};

#[test]
fn messages_arrive_in_the_order_sent_and_say_from_whom() {
    let mut node = Paper::new("a");
    let (one, other) = (node.open(), node.open());
    node.ask(other, json!({"op": "register", "name": "stock"}));
    let from = node.self_pid(one);
    for n in 0..100 {
        node.tell(one, &json!({"op": "send", "to": "stock", "body": n}));
    }
    let events = node.events(other);
    assert_eq!(events.len(), 100);
    for (n, event) in events.iter().enumerate() {
        assert_eq!(*event, json!({"ev": "message", "from": from, "body": n}));
    }
}

#[test]
fn a_send_to_an_unknown_local_name_is_an_error_and_to_a_dead_pid_is_silent() {
    let mut node = Paper::new("a");
    let app = node.open();
    let answer = node.ask(app, json!({"op": "send", "to": "nobody", "body": 1}));
    assert_eq!(answer["code"], "noproc");
    let child = node.ask(app, json!({"op": "spawn"}))["pid"].clone();
    node.ask(app, json!({"op": "exit", "pid": child}));
    assert_eq!(node.ask(app, json!({"op": "send", "to": child, "body": 1}))["ev"], "ok");
    let elsewhere = json!({"op": "send", "to": "stock@gone@paper", "body": 1});
    assert_eq!(node.ask(app, elsewhere)["ev"], "ok");
}

#[test]
fn a_pid_of_an_earlier_run_never_hits_a_process_of_this_one() {
    let mut node = Paper::with("a", 2, super::super::Limits::default());
    let app = node.open();
    let mine = node.self_pid(app);
    let earlier = mine.replace("0000000000000002", "0000000000000001");
    assert_ne!(mine, earlier);
    assert_eq!(node.ask(app, json!({"op": "send", "to": earlier, "body": 1}))["ev"], "ok");
    assert_eq!(node.events(app), Vec::<serde_json::Value>::new());
    let answer = node.ask(app, json!({"op": "monitor", "to": earlier}));
    let down = json!({"ev": "down", "ref": answer["ref"], "from": earlier, "reason": "noproc"});
    assert_eq!(node.events(app), [down]);
}

#[test]
fn a_message_to_another_node_goes_by_pid_and_by_name() {
    let mut pair = Pair::new();
    let (asker, stock) = (pair.a.open(), pair.b.open());
    pair.b.ask(stock, json!({"op": "register", "name": "stock"}));
    let to = pair.b.self_pid(stock);
    let from = pair.a.self_pid(asker);
    pair.a.ask(asker, json!({"op": "send", "to": "stock@b@paper", "body": "by name"}));
    pair.a.ask(asker, json!({"op": "send", "to": "stock@b", "body": "on this host"}));
    pair.a.ask(asker, json!({"op": "send", "to": to, "body": "by pid"}));
    pair.carry();
    let bodies: Vec<_> = pair.b.events(stock).iter().map(|event| event["body"].clone()).collect();
    assert_eq!(bodies, ["by name", "on this host", "by pid"]);
    pair.b.ask(stock, json!({"op": "send", "to": from, "body": "back"}));
    pair.carry();
    assert_eq!(pair.a.events(asker), [json!({"ev": "message", "from": to, "body": "back"})]);
}

#[test]
fn a_long_message_travels_in_pieces_and_its_senders_later_ones_stay_behind_it() {
    let mut pair = Pair::new();
    let (slow, quick, sink) = (pair.a.open(), pair.a.open(), pair.b.open());
    pair.b.ask(sink, json!({"op": "register", "name": "sink"}));
    let long = "x".repeat(500_000);
    pair.a.tell(slow, &json!({"op": "send", "to": "sink@b", "body": long}));
    pair.a.tell(slow, &json!({"op": "send", "to": "sink@b", "body": "after"}));
    pair.a.tell(quick, &json!({"op": "send", "to": "sink@b", "body": "passes"}));
    pair.carry_once();
    let first: Vec<_> = pair.b.events(sink).iter().map(|event| event["body"].clone()).collect();
    assert_eq!(first, ["passes"]);
    pair.carry();
    let rest: Vec<_> = pair.b.events(sink).iter().map(|event| event["body"].clone()).collect();
    assert_eq!(rest, [long.as_str(), "after"]);
}

#[test]
fn nine_long_messages_at_once_keep_to_eight_partial_ones() {
    let mut pair = Pair::new();
    let sink = pair.b.open();
    pair.b.ask(sink, json!({"op": "register", "name": "sink"}));
    for n in 0..9 {
        let sender = pair.a.open();
        let body = format!("{n}{}", "x".repeat(300_000));
        pair.a.tell(sender, &json!({"op": "send", "to": "sink@b", "body": body}));
    }
    pair.carry();
    let mut first: Vec<_> = pair
        .b
        .events(sink)
        .iter()
        .map(|event| event["body"].as_str().expect("a text")[..1].to_owned())
        .collect();
    first.sort();
    assert_eq!(first.concat(), "012345678");
}

#[test]
fn a_process_that_pulls_gets_what_it_asks_for_and_info_takes_nothing() {
    let mut node = Paper::new("a");
    let app = node.open();
    node.ask(app, json!({"op": "flag", "delivery": "pull"}));
    let me = node.self_pid(app);
    for n in 0..3 {
        node.ask(app, json!({"op": "send", "to": me, "body": n}));
    }
    for _ in 0..2 {
        let info = node.ask(app, json!({"op": "info", "keys": ["messages", "message_queue_len"]}));
        assert_eq!(info["info"]["message_queue_len"], 3);
        assert_eq!(info["info"]["messages"][2], json!({"ev": "message", "from": me, "body": 2}));
    }
    let received = node.ask(app, json!({"op": "receive"}));
    assert_eq!(received["messages"], json!([{"ev": "message", "from": me, "body": 0}]));
    let flushed = node.ask(app, json!({"op": "flush"}));
    assert_eq!(flushed["messages"].as_array().map(Vec::len), Some(2));
    assert_eq!(node.ask(app, json!({"op": "flush"}))["messages"], json!([]));
}

#[test]
fn a_receive_waits_for_a_message_until_its_time_is_up() {
    let mut node = Paper::new("a");
    let (app, other) = (node.open(), node.open());
    node.ask(app, json!({"op": "flag", "delivery": "pull"}));
    let me = node.self_pid(app);
    node.tell(app, &json!({"op": "receive", "timeout_ms": 1000, "id": 900}));
    node.tell(app, &json!({"op": "receive", "timeout_ms": 1000, "id": 901}));
    assert_eq!(node.answer(app, 900), None);
    node.ask(other, json!({"op": "send", "to": me, "body": "here"}));
    let first = node.answer(app, 900).expect("an answer");
    assert_eq!(first["messages"][0]["body"], "here");
    assert_eq!(node.answer(app, 901), None);
    node.pass(Duration::from_secs(1));
    assert_eq!(node.answer(app, 901).expect("an answer")["messages"], json!([]));
}

#[test]
fn a_receive_that_waits_can_be_cancelled_and_then_takes_nothing() {
    let mut node = Paper::new("a");
    let (app, other) = (node.open(), node.open());
    node.ask(app, json!({"op": "flag", "delivery": "pull"}));
    let me = node.self_pid(app);
    for id in ["first", "second"] {
        node.tell(app, &json!({"op": "receive", "timeout_ms": 1000, "id": id}));
    }
    assert_eq!(node.ask(other, json!({"op": "cancel", "of": "first"}))["result"], false);
    assert_eq!(
        node.ask(other, json!({"op": "cancel", "of": "first", "pid": me}))["code"],
        "denied"
    );
    assert_eq!(node.ask(app, json!({"op": "cancel", "of": "first"}))["result"], true);
    let events = node.events(app);
    assert_eq!(events.len(), 1);
    assert_eq!((&events[0]["id"], &events[0]["code"]), (&json!("first"), &json!("cancelled")));
    assert_eq!(node.ask(app, json!({"op": "cancel", "of": "first"}))["result"], false);
    node.ask(other, json!({"op": "send", "to": me, "body": "for the second"}));
    node.ask(other, json!({"op": "send", "to": me, "body": "for nobody yet"}));
    let events = node.events(app);
    assert_eq!((events.len(), &events[0]["id"]), (1, &json!("second")));
    assert_eq!(node.ask(app, json!({"op": "cancel", "of": "second"}))["result"], false);
    node.pass(Duration::from_secs(2));
    let rest = node.ask(app, json!({"op": "flush"}))["messages"].clone();
    assert_eq!(rest[0]["body"], "for nobody yet");
    assert_eq!(node.ask(app, json!({"op": "cancel"}))["code"], "badarg");
    assert_eq!(node.ask(app, json!({"op": "cancel", "of": [1]}))["code"], "badarg");
}

#[test]
fn a_window_gives_n_and_the_rest_as_they_are_consumed() {
    let mut node = Paper::new("a");
    let (app, other) = (node.open(), node.open());
    node.ask(app, json!({"op": "flag", "delivery": {"window": 2}}));
    let me = node.self_pid(app);
    for n in 0..5 {
        node.ask(other, json!({"op": "send", "to": me, "body": n}));
    }
    assert_eq!(node.events(app).len(), 2);
    node.tell(app, &json!({"op": "more", "n": 1}));
    assert_eq!(node.events(app)[0]["body"], 2);
    node.tell(app, &json!({"op": "more", "n": 2}));
    assert_eq!(node.events(app).len(), 2);
    node.ask(other, json!({"op": "monitor", "to": me}));
    assert_eq!(node.events(app).len(), 0);
}

#[test]
fn a_timer_fires_once_and_can_be_cancelled_and_dies_with_its_process() {
    let mut node = Paper::new("a");
    let (app, other) = (node.open(), node.open());
    let to = node.self_pid(other);
    let send = |ms: u64| json!({"op": "send_after", "to": to, "after_ms": ms, "body": ms});
    node.ask(app, send(10));
    let timer = node.ask(app, send(20))["timer"].clone();
    let cancelled = node.ask(app, json!({"op": "cancel_timer", "timer": timer}));
    assert_eq!(cancelled["left_ms"], 20);
    assert!(node.ask(app, json!({"op": "cancel_timer", "timer": timer}))["left_ms"].is_null());
    node.pass(Duration::from_millis(30));
    let events = node.events(other);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["body"], 10);
    node.ask(app, send(50));
    node.close(app);
    node.pass(Duration::from_millis(100));
    assert_eq!(node.events(other).len(), 0);
}

#[test]
fn names_are_one_to_a_process_and_one_process_to_a_name() {
    let mut node = Paper::new("a");
    let (app, other) = (node.open(), node.open());
    assert_eq!(node.ask(app, json!({"op": "register", "name": "stock"}))["ev"], "ok");
    assert_eq!(node.ask(other, json!({"op": "register", "name": "stock"}))["code"], "taken");
    assert_eq!(node.ask(app, json!({"op": "register", "name": "second"}))["code"], "badarg");
    for name in ["", "a b", "a@b", "<a>", "global:x", "undefined"] {
        assert_eq!(
            node.ask(other, json!({"op": "register", "name": name}))["code"],
            "badarg",
            "{name}"
        );
    }
    let me = node.self_pid(app);
    assert_eq!(node.ask(other, json!({"op": "whereis", "name": "stock"}))["pid"], json!(me));
    assert_eq!(node.ask(other, json!({"op": "registered"}))["registered"][0]["name"], "stock");
    node.close(app);
    assert!(node.ask(other, json!({"op": "whereis", "name": "stock"}))["pid"].is_null());
    assert_eq!(node.ask(other, json!({"op": "register", "name": "stock"}))["ev"], "ok");
}

#[test]
fn another_node_answers_where_a_name_is_and_what_a_process_does() {
    let mut pair = Pair::new();
    let (asker, stock) = (pair.a.open(), pair.b.open());
    pair.b.ask(stock, json!({"op": "register", "name": "stock"}));
    let pid = pair.b.self_pid(stock);
    let answer = pair.ask_across(asker, json!({"op": "whereis", "name": "stock", "node": "b"}));
    assert_eq!(answer["pid"], json!(pid));
    let answer = pair.ask_across(asker, json!({"op": "info", "to": pid}));
    assert_eq!(answer["info"]["registered_name"], "stock");
    let answer = pair.ask_across(asker, json!({"op": "processes", "node": "b@paper"}));
    assert_eq!(answer["processes"][0]["name"], "stock");
    let answer = pair.ask_across(asker, json!({"op": "ping", "node": "b"}));
    assert_eq!(answer["result"], "pong");
    let peek = json!({"op": "info", "to": pid, "keys": ["messages"]});
    assert_eq!(pair.ask_across(asker, peek)["code"], "denied");
}

#[test]
fn a_lost_connection_takes_only_the_end_of_what_a_process_sent() {
    let mut pair = Pair::new();
    let (sender, sink) = (pair.a.open(), pair.b.open());
    pair.b.ask(sink, json!({"op": "register", "name": "sink"}));
    let pid = pair.b.self_pid(sink);
    let mut sent = Vec::new();
    for n in 0..60 {
        // Long ones travel in pieces, short ones behind them; by pid and by name.
        let body = format!("{n} {}", "x".repeat(if n % 7 == 3 { 150_000 } else { 10 }));
        let to = if n % 2 == 0 { "sink@b" } else { &pid };
        pair.a.tell(sender, &json!({"op": "send", "to": to, "body": body}));
        sent.push(json!(body));
    }
    for _ in 0..5 {
        pair.carry_once();
    }
    pair.cut();
    let arrived: Vec<_> = pair.b.events(sink).iter().map(|event| event["body"].clone()).collect();
    assert!(!arrived.is_empty() && arrived.len() < sent.len(), "{} arrived", arrived.len());
    assert_eq!(arrived, sent[..arrived.len()]);
}
