//! Calls: exactly one end by the deadline, and a truthful `maybe_applied`.

use std::time::Duration;

use serde_json::{Value, json};

use super::support::{Pair, Paper};
use crate::router::Limits;

/// An app on `a` and a process named `stock` on `b`, joined.
fn pair() -> (Pair, u64, u64) {
    let mut pair = Pair::new();
    let (app, stock) = (pair.a.open(), pair.b.open());
    pair.b.ask(stock, json!({"op": "register", "name": "stock"}));
    (pair, app, stock)
}

fn call(to: &str) -> Value {
    json!({"op": "call", "to": to, "id": "c", "body": "how many?"})
}

fn ended(events: &[Value], code: &str, maybe_applied: bool) {
    let [event] = events else { panic!("not one end: {events:?}") };
    assert_eq!(event["ev"], "error", "{event}");
    assert_eq!(event["id"], "c");
    assert_eq!(event["code"], code);
    assert_eq!(event["maybe_applied"], maybe_applied, "{event}");
}

fn reference(events: &[Value]) -> Value {
    let [event] = events else { panic!("not one call: {events:?}") };
    assert_eq!(event["ev"], "call", "{event}");
    event["ref"].clone()
}

#[test]
fn a_call_is_answered_by_its_reply_here_and_from_another_node() {
    let mut node = Paper::new("a");
    let (app, stock) = (node.open(), node.open());
    node.ask(stock, json!({"op": "register", "name": "stock"}));
    node.tell(app, &call("stock"));
    let heard = node.events(stock);
    let from = node.self_pid(app);
    let asked = json!({"ev": "call", "from": from, "ref": heard[0]["ref"], "body": "how many?"});
    assert_eq!(heard, [asked]);
    node.tell(stock, &json!({"op": "reply", "ref": heard[0]["ref"], "body": 7}));
    assert_eq!(node.events(app), [json!({"ev": "ok", "id": "c", "body": 7})]);

    let (mut pair, app, stock) = pair();
    pair.a.tell(app, &call("stock@b"));
    pair.carry();
    let reference = reference(&pair.b.events(stock));
    pair.b.tell(stock, &json!({"op": "reply", "ref": reference, "body": [1, 2]}));
    pair.carry();
    assert_eq!(pair.a.events(app), [json!({"ev": "ok", "id": "c", "body": [1, 2]})]);
    pair.assert_no_calls();
}

#[test]
fn another_process_of_the_session_may_reply_and_another_session_may_not() {
    let mut node = Paper::new("a");
    let (app, stock, other) = (node.open(), node.open(), node.open());
    let clerk = node.ask(stock, json!({"op": "spawn", "name": "clerk"}))["pid"].clone();
    node.tell(app, &call("clerk"));
    let heard = node.events(stock);
    assert_eq!(heard[0]["pid"], clerk);
    let reply = json!({"op": "reply", "ref": heard[0]["ref"], "body": "later"});
    assert_eq!(node.ask(other, reply.clone())["code"], "denied");
    assert_eq!(node.ask(stock, reply.clone())["ev"], "ok");
    assert_eq!(node.events(app)[0]["body"], "later");
    // A second reply is ignored.
    assert_eq!(node.ask(stock, reply)["ev"], "ok");
    assert_eq!(node.events(app), Vec::<Value>::new());
}

#[test]
fn a_call_without_a_reply_times_out_and_its_callee_hears_cancel() {
    let (mut pair, app, stock) = pair();
    pair.a
        .tell(app, &json!({"op": "call", "to": "stock@b", "id": "c", "timeout_ms": 50, "body": 1}));
    pair.carry();
    let reference = reference(&pair.b.events(stock));
    pair.a.pass(Duration::from_millis(49));
    assert_eq!(pair.a.events(app), Vec::<Value>::new());
    pair.a.pass(Duration::from_millis(1));
    ended(&pair.a.events(app), "timeout", true);
    pair.carry();
    assert_eq!(pair.b.events(stock), [json!({"ev": "cancel", "ref": reference})]);
    // Too late: dropped, and nothing is kept of it.
    pair.b.tell(stock, &json!({"op": "reply", "ref": reference, "body": 7}));
    pair.carry();
    assert_eq!(pair.a.events(app), Vec::<Value>::new());
    pair.assert_no_calls();
}

#[test]
fn a_call_that_was_never_handed_over_times_out_as_not_applied_and_is_passed_over() {
    let mut node = Paper::new("a");
    let (app, stock) = (node.open(), node.open());
    node.ask(stock, json!({"op": "spawn", "name": "stock", "delivery": "pull"}));
    let pull = json!({"op": "receive", "pid": node.ask(app, json!({"op": "whereis", "name": "stock"}))["pid"], "max": 10});
    node.tell(app, &json!({"op": "call", "to": "stock", "id": "c", "timeout_ms": 50, "body": 1}));
    node.ask(app, json!({"op": "send", "to": "stock", "body": "behind it"}));
    node.pass(Duration::from_millis(50));
    ended(&node.events(app), "timeout", false);
    let messages = node.ask(stock, pull)["messages"].clone();
    assert_eq!(messages.as_array().map(Vec::len), Some(1), "{messages}");
    assert_eq!(messages[0]["body"], "behind it");
}

#[test]
fn a_receive_that_waits_is_not_woken_by_a_call_that_nobody_waits_for() {
    let mut node = Paper::new("a");
    let (app, stock) = (node.open(), node.open());
    let pid = node.ask(stock, json!({"op": "spawn", "delivery": "pull"}))["pid"].clone();
    node.tell(app, &json!({"op": "call", "to": pid, "id": "c", "timeout_ms": 0, "body": 1}));
    node.pass(Duration::ZERO);
    ended(&node.events(app), "timeout", false);
    node.tell(stock, &json!({"op": "receive", "pid": pid, "id": 1000, "timeout_ms": 1000}));
    assert_eq!(node.events(stock), Vec::<Value>::new());
    node.ask(app, json!({"op": "send", "to": pid, "body": "now"}));
    assert_eq!(node.events(stock)[0]["messages"][0]["body"], "now");
}

#[test]
fn a_call_to_nobody_ends_at_once_and_was_not_applied() {
    let (mut pair, app, _) = pair();
    let dead = pair.a.ask(app, json!({"op": "spawn"}))["pid"].as_str().unwrap().to_owned();
    pair.a.ask(app, json!({"op": "exit", "pid": dead}));
    for (to, code) in [
        ("nobody", "noproc"),
        (dead.as_str(), "noproc"),
        ("nobody@a", "noproc"),
        ("nobody@b", "noproc"),
        ("stock@gone", "noconnection"),
        ("<gone@paper.0000000000000001.100>", "noconnection"),
        ("<b@paper.0000000000000001.9999>", "noproc"),
    ] {
        pair.a.tell(app, &call(to));
        pair.carry();
        ended(&pair.a.events(app), code, false);
    }
    pair.assert_no_calls();
}

#[test]
fn a_process_that_calls_itself_is_told_so() {
    let mut node = Paper::new("a");
    let app = node.open();
    node.ask(app, json!({"op": "register", "name": "me"}));
    for to in ["me".to_owned(), "me@a".to_owned(), node.self_pid(app)] {
        node.tell(app, &call(&to));
        ended(&node.events(app), "calling_self", false);
    }
}

#[test]
fn an_exception_comes_back_with_its_class_reason_and_stack() {
    let (mut pair, app, stock) = pair();
    pair.a.tell(app, &call("stock@b"));
    pair.carry();
    let reference = reference(&pair.b.events(stock));
    let raise = json!({"op": "raise", "ref": reference, "class": "ValueError",
        "reason": "no such item", "stack": "stock.py:7"});
    pair.b.tell(stock, &raise);
    pair.carry();
    let heard = pair.a.events(app);
    ended(&heard, "exception", true);
    assert_eq!(heard[0]["class"], "ValueError");
    assert_eq!(heard[0]["reason"], "no such item");
    assert_eq!(heard[0]["stack"], "stock.py:7");
}

#[test]
fn the_death_of_the_callee_ends_its_calls_with_its_reason() {
    let (mut pair, app, stock) = pair();
    pair.a.tell(app, &call("stock@b"));
    pair.carry();
    pair.b.events(stock);
    pair.b.tell(stock, &json!({"op": "exit", "reason": "sold out"}));
    pair.b.work();
    pair.carry();
    let heard = pair.a.events(app);
    ended(&heard, "exit", true);
    assert_eq!(heard[0]["reason"], "sold out");
    pair.assert_no_calls();
    // A call that still waited in the mailbox was not applied.
    let (mut pair, app, stock) = self::pair();
    let clerk = pair.b.ask(stock, json!({"op": "spawn", "name": "clerk", "delivery": "pull"}));
    pair.a.tell(app, &call("clerk@b"));
    pair.carry();
    pair.b.ask(stock, json!({"op": "exit", "pid": clerk["pid"], "reason": "tired"}));
    pair.carry();
    ended(&pair.a.events(app), "exit", false);
    pair.assert_no_calls();
}

#[test]
fn a_lost_connection_ends_calls_as_noconnection_and_cancels_them() {
    let (mut pair, app, stock) = pair();
    pair.a.tell(app, &call("stock@b"));
    pair.carry();
    let reference = reference(&pair.b.events(stock));
    pair.cut();
    ended(&pair.a.events(app), "noconnection", true);
    assert_eq!(pair.b.events(stock), [json!({"ev": "cancel", "ref": reference})]);
    pair.assert_no_calls();
    // The reply finds nobody, not even after the connection is back.
    pair.join();
    pair.b.tell(stock, &json!({"op": "reply", "ref": reference, "body": 7}));
    pair.carry();
    assert_eq!(pair.a.events(app), Vec::<Value>::new());
}

#[test]
fn the_death_of_the_caller_cancels_its_calls() {
    let (mut pair, app, stock) = pair();
    let child = pair.a.ask(app, json!({"op": "spawn"}))["pid"].clone();
    let mut command = call("stock@b");
    command["pid"] = child.clone();
    pair.a.tell(app, &command);
    pair.carry();
    let reference = reference(&pair.b.events(stock));
    pair.a.ask(app, json!({"op": "exit", "pid": child}));
    ended(&pair.a.events(app), "noproc", true);
    pair.carry();
    assert_eq!(pair.b.events(stock), [json!({"ev": "cancel", "ref": reference})]);
    pair.assert_no_calls();
}

#[test]
fn an_overloaded_callee_says_so_at_once_whatever_its_policy() {
    for policy in ["drop_newest", "drop_oldest", "wait", "exit"] {
        let (mut pair, app, stock) = pair();
        let mailbox = json!({"entries": 2, "policy": policy});
        let spawn = json!({"op": "spawn", "name": "full", "delivery": "pull", "mailbox": mailbox});
        pair.b.ask(stock, spawn);
        for _ in 0..2 {
            let id = json!({"op": "call", "to": "full@b", "id": "other", "body": 1});
            pair.a.tell(app, &id);
        }
        pair.a.tell(app, &call("full@b"));
        pair.carry();
        ended(&pair.a.events(app), "overloaded", false);
    }
}

#[test]
fn calls_that_nobody_waits_for_make_room_in_a_full_mailbox() {
    let mut node = Paper::new("a");
    let (app, stock) = (node.open(), node.open());
    let spawn =
        json!({"op": "spawn", "name": "full", "delivery": "pull", "mailbox": {"entries": 4}});
    let pid = node.ask(stock, spawn)["pid"].clone();
    for _ in 0..4 {
        node.tell(
            app,
            &json!({"op": "call", "to": "full", "id": 900, "timeout_ms": 10, "body": 1}),
        );
    }
    node.pass(Duration::from_millis(10));
    assert_eq!(node.events(app).len(), 4);
    node.tell(app, &call("full"));
    let messages = node.ask(stock, json!({"op": "flush", "pid": pid}))["messages"].clone();
    assert_eq!(messages.as_array().map(Vec::len), Some(1), "{messages}");
}

#[test]
fn calls_fill_the_queues_of_a_node_up_to_their_bound_and_no_further() {
    let limits = Limits { queue_bytes: 1_000_000, ..Limits::default() };
    let mut node = Paper::with("a", 1, limits);
    let (app, stock) = (node.open(), node.open());
    let mut bodies = 0;
    for n in 0..20 {
        let name = format!("s{n}");
        node.ask(stock, json!({"op": "spawn", "name": name, "delivery": "pull"}));
        let body = "x".repeat(100_000);
        node.tell(app, &json!({"op": "call", "to": name, "id": "c", "body": body}));
        bodies += 100_000;
        assert!(node.router.queued(&node.out) <= 1_000_000, "{bodies}");
    }
    let heard = node.events(app);
    assert_eq!(heard.len(), 11);
    assert!(heard.iter().all(|event| event["code"] == "overloaded"));
    // Messages give way to calls.
    let mut node = Paper::with("a", 1, limits);
    let (app, stock) = (node.open(), node.open());
    node.ask(stock, json!({"op": "spawn", "name": "inbox", "delivery": "pull"}));
    for _ in 0..9 {
        node.tell(app, &json!({"op": "send", "to": "inbox", "body": "x".repeat(100_000)}));
    }
    node.ask(stock, json!({"op": "spawn", "name": "stock", "delivery": "pull"}));
    for _ in 0..5 {
        let body = "x".repeat(100_000);
        node.tell(app, &json!({"op": "call", "to": "stock", "id": "c", "body": body}));
    }
    assert_eq!(node.events(app), Vec::<Value>::new());
    assert_eq!(node.ask(app, json!({"op": "info", "to": "stock"}))["info"]["message_queue_len"], 5);
}

#[test]
fn calls_are_never_shed_and_messages_around_them_are() {
    let mut node = Paper::new("a");
    let (app, stock) = (node.open(), node.open());
    let mailbox = json!({"entries": 3, "policy": "drop_oldest"});
    let spawn = json!({"op": "spawn", "name": "full", "delivery": "pull", "mailbox": mailbox});
    let pid = node.ask(stock, spawn)["pid"].clone();
    node.ask(app, json!({"op": "send", "to": "full", "body": 0}));
    node.tell(app, &call("full"));
    for n in 1..5 {
        node.ask(app, json!({"op": "cast", "to": "full", "body": n}));
    }
    let messages = node.ask(stock, json!({"op": "flush", "pid": pid}))["messages"].clone();
    let seen: Vec<_> = messages.as_array().unwrap().iter().map(|m| m["ev"].clone()).collect();
    assert_eq!(seen, ["gap", "call", "gap", "cast", "cast"], "{messages}");
}

#[test]
fn a_cast_before_a_call_is_seen_before_it() {
    let (mut pair, app, stock) = pair();
    let large = "x".repeat(300_000);
    pair.a.tell(app, &json!({"op": "cast", "to": "stock@b", "body": ["put", large]}));
    pair.a.tell(app, &call("stock@b"));
    pair.a.tell(app, &json!({"op": "send", "to": "stock@b", "body": "last"}));
    pair.carry();
    let events = pair.b.events(stock);
    let seen: Vec<_> = events.iter().map(|event| event["ev"].clone()).collect();
    assert_eq!(seen, ["cast", "call", "message"]);
    assert_eq!(events[0]["from"], pair.a.self_pid(app));
}

#[test]
fn an_answer_in_parts_arrives_in_order_and_each_part_starts_the_deadline_anew() {
    let (mut pair, app, stock) = pair();
    pair.a.tell(
        app,
        &json!({"op": "call", "to": "stock@b", "id": "c", "timeout_ms": 100, "body": 1}),
    );
    pair.carry();
    let reference = reference(&pair.b.events(stock));
    for n in 0..5 {
        pair.a.pass(Duration::from_millis(90));
        let part = json!({"op": "reply", "ref": reference, "more": true, "body": n});
        assert_eq!(pair.b.ask(stock, part)["ev"], "ok");
        pair.carry();
        assert_eq!(pair.a.events(app), [json!({"ev": "part", "id": "c", "body": n})]);
    }
    pair.b.tell(stock, &json!({"op": "reply", "ref": reference, "body": "end"}));
    pair.carry();
    assert_eq!(pair.a.events(app), [json!({"ev": "ok", "id": "c", "body": "end"})]);
    pair.assert_no_calls();
}

/// Replies with parts of 100 000 bytes until one of them is not answered at once: how many were.
fn stream(pair: &mut Pair, stock: u64, reference: &Value) -> u64 {
    let large = "x".repeat(100_000);
    for n in 0..100 {
        let id = 10_000 + n;
        let part = json!({"op": "reply", "ref": reference, "id": id, "more": true, "body": large});
        pair.b.tell(stock, &part);
        pair.carry();
        if pair.b.answer(stock, id).is_none() {
            return n;
        }
    }
    panic!("the stream was never held back");
}

#[test]
fn an_answer_in_parts_is_held_back_until_its_caller_reads() {
    let (mut pair, app, stock) = pair();
    pair.a.tell(app, &call("stock@b"));
    pair.carry();
    let reference = reference(&pair.b.events(stock));
    let before = stream(&mut pair, stock, &reference);
    assert!((10..=11).contains(&before), "{before}");
    // The callee waits for its answer; its session is read on.
    assert!(pair.b.router.may_read(stock, &pair.b.out));
    assert_eq!(pair.a.events(app).len() as u64, before + 1);
    pair.carry();
    assert!(pair.b.answer(stock, 10_000 + before).is_some());
    let again = stream(&mut pair, stock, &reference);
    assert!(again >= 8, "{again}");
}

#[test]
fn a_callee_that_does_not_wait_for_its_answers_is_held_and_then_its_stream_ends() {
    let (mut pair, app, stock) = pair();
    pair.a.tell(app, &call("stock@b"));
    pair.carry();
    let reference = reference(&pair.b.events(stock));
    let part = json!({"op": "reply", "ref": reference, "more": true, "body": "x".repeat(100_000)});
    for _ in 0..11 {
        pair.b.tell(stock, &part);
        pair.carry();
    }
    assert!(!pair.b.router.may_read(stock, &pair.b.out));
    // Somebody reads: it goes on.
    pair.a.events(app);
    pair.carry();
    assert!(pair.b.router.may_read(stock, &pair.b.out));
    for _ in 0..11 {
        pair.b.tell(stock, &part);
        pair.carry();
    }
    pair.b.pass(Limits::default().send_timeout);
    assert!(pair.b.router.may_read(stock, &pair.b.out));
    assert_eq!(pair.b.events(stock), [json!({"ev": "cancel", "ref": reference})]);
    pair.carry();
    let heard = pair.a.events(app);
    ended(&heard[heard.len() - 1..], "overloaded", true);
    pair.assert_no_calls();
}

#[test]
fn the_deadline_waits_for_a_caller_that_has_not_read_the_parts_it_has() {
    let (mut pair, app, stock) = pair();
    pair.a.tell(
        app,
        &json!({"op": "call", "to": "stock@b", "id": "c", "timeout_ms": 100, "body": 1}),
    );
    pair.carry();
    let reference = reference(&pair.b.events(stock));
    let sent = stream(&mut pair, stock, &reference) + 1;
    pair.a.pass(Duration::from_secs(10));
    assert_eq!(pair.a.events(app).len() as u64, sent);
    pair.a.pass(Duration::from_millis(100));
    ended(&pair.a.events(app), "timeout", true);
}

#[test]
fn a_call_to_several_nodes_has_one_result_for_each_in_the_order_asked() {
    let (mut pair, app, stock) = pair();
    let command = json!({"op": "multi_call", "id": "c", "name": "stock", "timeout_ms": 100,
        "nodes": ["b", "gone", "a", "b@paper"], "body": "how many?"});
    pair.a.tell(app, &command);
    pair.carry();
    let calls = pair.b.events(stock);
    assert_eq!(calls.len(), 2);
    pair.b.tell(stock, &json!({"op": "reply", "ref": calls[1]["ref"], "body": 7}));
    pair.carry();
    assert_eq!(pair.a.events(app), Vec::<Value>::new());
    pair.a.pass(Duration::from_millis(100));
    let heard = pair.a.events(app);
    let results = heard[0]["results"].as_array().unwrap();
    let codes: Vec<_> = results.iter().map(|r| r["error"]["code"].clone()).collect();
    assert_eq!(codes, [json!("timeout"), json!("noconnection"), json!("noproc"), json!(null)]);
    let applied: Vec<_> = results.iter().map(|r| r["error"]["maybe_applied"].clone()).collect();
    assert_eq!(applied, [json!(true), json!(false), json!(false), json!(null)]);
    assert_eq!(results[3], json!({"node": "b@paper", "body": 7}));
    pair.carry();
    pair.assert_no_calls();
}

#[test]
fn a_call_to_all_nodes_asks_this_one_and_every_connected_one() {
    let (mut pair, app, stock) = pair();
    pair.a.tell(app, &json!({"op": "multi_call", "id": "c", "name": "stock", "body": 1}));
    pair.carry();
    let reference = reference(&pair.b.events(stock));
    pair.b.tell(stock, &json!({"op": "reply", "ref": reference, "body": 7}));
    pair.carry();
    let heard = pair.a.events(app);
    assert_eq!(heard[0]["results"][0]["node"], "a@paper");
    assert_eq!(heard[0]["results"][0]["error"]["code"], "noproc");
    assert_eq!(heard[0]["results"][1], json!({"node": "b@paper", "body": 7}));
}

#[test]
fn a_cast_to_all_nodes_reaches_the_name_on_each() {
    let (mut pair, app, stock) = pair();
    pair.a.ask(app, json!({"op": "spawn", "name": "stock"}));
    assert_eq!(pair.a.ask(app, json!({"op": "abcast", "name": "stock", "body": 1}))["ev"], "ok");
    pair.carry();
    assert_eq!(pair.a.events(app)[0]["ev"], "cast");
    assert_eq!(pair.b.events(stock)[0]["ev"], "cast");
}

#[test]
fn a_session_with_many_calls_under_way_ends_in_slices_and_tells_every_callee() {
    let (mut pair, app, stock) = pair();
    for n in 0..2000 {
        pair.a.tell(app, &json!({"op": "call", "to": "stock@b", "id": n, "body": n}));
    }
    pair.carry();
    assert_eq!(pair.b.events(stock).len(), 2000);
    pair.a.close(app);
    pair.carry();
    let cancels = pair.b.events(stock);
    assert_eq!(cancels.len(), 2000);
    assert!(cancels.iter().all(|event| event["ev"] == "cancel"));
    pair.assert_no_calls();
}
