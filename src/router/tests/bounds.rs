//! Bounds: full mailboxes, held senders, slow peers.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::Limits;
use super::support::{Pair, Paper};
use crate::wire::{event, message};

fn small(policy: &str) -> Value {
    json!({"op": "flag", "delivery": "pull", "mailbox": {"entries": 3, "policy": policy}})
}

fn bodies(answer: &Value) -> Vec<Value> {
    let messages = answer["messages"].as_array().expect("messages");
    messages
        .iter()
        .map(|event| {
            if event["ev"] == "gap" { json!({"gap": event["lost"]}) } else { event["body"].clone() }
        })
        .collect()
}

fn filled(policy: &str) -> (Paper, u64, u64) {
    let mut node = Paper::new("a");
    let (app, sender) = (node.open(), node.open());
    node.ask(app, small(policy));
    let me = node.self_pid(app);
    for n in 0..5 {
        node.tell(sender, &json!({"op": "send", "to": me, "body": n}));
    }
    (node, app, sender)
}

#[test]
fn drop_newest_keeps_the_first_and_says_in_place_how_many_are_missing() {
    let (mut node, app, sender) = filled("drop_newest");
    let me = node.self_pid(app);
    let answer = node.ask(app, json!({"op": "receive", "max": 1}));
    assert_eq!(bodies(&answer), [json!(0)]);
    node.tell(sender, &json!({"op": "send", "to": me, "body": "later"}));
    let answer = node.ask(app, json!({"op": "flush"}));
    assert_eq!(bodies(&answer), [json!(1), json!(2), json!({"gap": 2}), json!("later")]);
    assert_eq!(node.router.counters().shed, 2);
}

#[test]
fn drop_oldest_keeps_the_last() {
    let (mut node, app, _) = filled("drop_oldest");
    let answer = node.ask(app, json!({"op": "flush"}));
    assert_eq!(bodies(&answer), [json!({"gap": 2}), json!(2), json!(3), json!(4)]);
}

#[test]
fn a_process_of_the_policy_exit_exits_overloaded() {
    let (mut node, app, _) = filled("exit");
    assert!(!node.router.has_session(app));
    assert_eq!(node.events(app)[0]["reason"], "overloaded");
}

#[test]
fn wait_holds_the_sender_until_the_mailbox_is_half_empty_and_loses_nothing() {
    let (mut node, app, sender) = filled("wait");
    assert!(!node.router.may_read(sender, &node.out));
    let answer = node.ask(app, json!({"op": "receive", "max": 5}));
    assert_eq!(bodies(&answer), [json!(0), json!(1), json!(2), json!(3), json!(4)]);
    assert!(node.router.may_read(sender, &node.out));
}

#[test]
fn a_hold_lapses_after_the_send_timeout_and_then_the_mailbox_sheds_until_half_empty() {
    let (mut node, app, sender) = filled("wait");
    let me = node.self_pid(app);
    node.pass(Duration::from_secs(1));
    assert!(node.router.may_read(sender, &node.out));
    node.tell(sender, &json!({"op": "send", "to": me, "body": "lost"}));
    assert!(node.router.may_read(sender, &node.out));
    let answer = node.ask(app, json!({"op": "receive", "max": 10}));
    assert_eq!(bodies(&answer).last(), Some(&json!({"gap": 1})));
    node.tell(sender, &json!({"op": "send", "to": me, "body": "again"}));
    assert_eq!(bodies(&node.ask(app, json!({"op": "flush"}))), [json!("again")]);
}

#[test]
fn senders_go_on_after_the_send_timeout_and_are_held_again_where_the_app_is_slow_and_not_stuck() {
    let (mut node, app, sender) = filled("wait");
    let me = node.self_pid(app);
    let mut taken = bodies(&node.ask(app, json!({"op": "receive", "max": 2})));
    for number in 5..10 {
        // It is not full any more, and not half empty.
        taken.extend(bodies(&node.ask(app, json!({"op": "receive", "max": 1}))));
        assert!(!node.router.may_read(sender, &node.out));
        node.pass(Duration::from_secs(1));
        assert!(node.router.may_read(sender, &node.out));
        node.tell(sender, &json!({"op": "send", "to": me, "body": number}));
    }
    taken.extend(bodies(&node.ask(app, json!({"op": "flush"}))));
    assert_eq!(taken, (0..10).map(Value::from).collect::<Vec<_>>());
}

/// An app that is pushed to and reads nothing yet, and a sender of that many kibibytes.
fn behind(kibibytes: usize) -> (Paper, u64, u64, Value) {
    let mut node = Paper::new("a");
    let (app, sender) = (node.open(), node.open());
    node.ask(app, json!({"op": "flag", "mailbox": {"policy": "wait"}}));
    let send = json!({"op": "send", "to": node.self_pid(app), "body": "x".repeat(1000)});
    for _ in 0..kibibytes {
        node.tell(sender, &send);
    }
    (node, app, sender, send)
}

#[test]
fn a_wait_mailbox_that_is_far_behind_holds_its_senders_before_it_is_full() {
    let (mut node, app, sender, _) = behind(600);
    assert!(!node.router.may_read(sender, &node.out));
    assert_eq!(node.events(app).len(), 600);
    assert!(node.router.may_read(sender, &node.out));
    let (node, _, sender, _) = behind(500);
    assert!(node.router.may_read(sender, &node.out));
}

#[test]
fn an_app_that_takes_nothing_holds_its_senders_early_for_a_moment_and_once() {
    let (mut node, app, sender, send) = behind(600);
    node.pass(Duration::from_millis(20));
    assert!(node.router.may_read(sender, &node.out), "the moment is over");
    for _ in 0..1000 {
        node.tell(sender, &send);
    }
    assert!(node.router.may_read(sender, &node.out), "it is far from full");
    assert_eq!(node.events(app).len(), 1600);
    for _ in 0..600 {
        node.tell(sender, &send);
    }
    assert!(!node.router.may_read(sender, &node.out), "it has been empty since");
    assert_eq!(node.events(app).len(), 600);
    assert_eq!(node.router.counters().shed, 0);
}

#[test]
fn an_early_hold_becomes_a_hold_for_the_whole_send_timeout_when_the_mailbox_is_full() {
    let (mut node, app, sender, _) = behind(8400);
    node.pass(Duration::from_millis(999));
    assert!(!node.router.may_read(sender, &node.out));
    assert_eq!(node.events(app).len(), 8400);
    assert!(node.router.may_read(sender, &node.out));
    let (mut node, _, sender, _) = behind(8400);
    node.pass(Duration::from_secs(1));
    assert!(node.router.may_read(sender, &node.out));
}

#[test]
fn a_held_sender_goes_on_when_the_mailbox_dies() {
    let (mut node, app, sender) = filled("wait");
    node.close(app);
    assert!(node.router.may_read(sender, &node.out));
}

#[test]
fn wait_reaches_across_nodes_by_hold_and_go() {
    let mut pair = Pair::new();
    let (sender, app) = (pair.a.open(), pair.b.open());
    pair.b.ask(app, small("wait"));
    let to = pair.b.self_pid(app);
    for n in 0..5 {
        pair.a.tell(sender, &json!({"op": "send", "to": to, "body": n}));
    }
    pair.carry();
    assert!(!pair.a.router.may_read(sender, &pair.a.out));
    let answer = pair.b.ask(app, json!({"op": "receive", "max": 10}));
    assert_eq!(bodies(&answer).len(), 5);
    pair.carry();
    assert!(pair.a.router.may_read(sender, &pair.a.out));
    for n in 0..5 {
        pair.a.tell(sender, &json!({"op": "send", "to": to, "body": n}));
    }
    pair.carry();
    assert!(!pair.a.router.may_read(sender, &pair.a.out));
    pair.cut();
    assert!(pair.a.router.may_read(sender, &pair.a.out), "a lost peer holds nobody");
}

#[test]
fn other_senders_are_not_held() {
    let (mut node, _, sender) = filled("wait");
    let third = node.open();
    assert!(!node.router.may_read(sender, &node.out));
    assert!(node.router.may_read(third, &node.out));
}

#[test]
fn try_is_refused_and_lossy_is_lost_where_wait_would_hold() {
    let (mut node, app, _) = filled("wait");
    let (third, me) = (node.open(), node.self_pid(app));
    let answer = node.ask(third, json!({"op": "send", "to": me, "mode": "try", "body": 1}));
    assert_eq!(answer["code"], "overloaded");
    let answer = node.ask(third, json!({"op": "send", "to": me, "mode": "lossy", "body": 1}));
    assert_eq!(answer["ev"], "ok");
    assert!(node.router.may_read(third, &node.out));
    let answer = node.ask(app, json!({"op": "flush"}));
    assert_eq!(bodies(&answer).last(), Some(&json!({"gap": 1})));
}

#[test]
fn a_full_peer_pauses_its_feeders_then_congests_and_recovers_half_empty() {
    let limits = Limits { peer_bytes: 1000, ..Limits::default() };
    let mut pair = Pair::of(Paper::with("a", 1, limits), Paper::new("b"));
    let (sender, app) = (pair.a.open(), pair.b.open());
    let to = pair.b.self_pid(app);
    let send = json!({"op": "send", "to": to, "body": "x".repeat(600)});
    pair.a.ask(sender, send.clone());
    assert!(pair.a.router.may_read(sender, &pair.a.out));
    pair.a.ask(sender, send.clone());
    pair.a.ask(sender, send.clone());
    assert!(!pair.a.router.may_read(sender, &pair.a.out));
    pair.a.pass(Duration::from_secs(1));
    assert!(pair.a.router.may_read(sender, &pair.a.out));
    let answer = pair.a.ask(sender, send.clone());
    assert_eq!((&answer["code"], &answer["nodes"]), (&json!("overloaded"), &json!(["b@paper"])));
    pair.carry();
    assert_eq!(pair.a.ask(sender, send)["ev"], "ok");
    pair.carry();
    assert_eq!(pair.b.events(app).len(), 4);
}

#[test]
fn a_full_mailbox_loses_no_exit_no_down_and_no_node_that_comes_or_goes() {
    for policy in ["drop_newest", "drop_oldest", "wait"] {
        let mut pair = Pair::new();
        let (app, sender, other) = (pair.a.open(), pair.a.open(), pair.b.open());
        let mailbox = json!({"entries": 2, "policy": policy});
        let flag = json!({"op": "flag", "delivery": "pull", "trap_exit": true, "mailbox": mailbox});
        pair.a.ask(app, flag);
        pair.a.ask(app, json!({"op": "monitor_nodes", "on": true}));
        let (me, theirs) = (pair.a.self_pid(app), pair.b.self_pid(other));
        for n in 0..10 {
            let send = json!({"op": "send", "to": me, "mode": "lossy", "body": n});
            pair.a.tell(sender, &send);
        }
        pair.a.ask(app, json!({"op": "link", "to": theirs}));
        pair.a.ask(app, json!({"op": "monitor", "to": theirs}));
        pair.carry();
        pair.cut();
        pair.join();
        let answer = pair.a.ask(app, json!({"op": "flush"}));
        let kinds: Vec<&str> = answer["messages"]
            .as_array()
            .expect("messages")
            .iter()
            .filter_map(|event| event["ev"].as_str())
            .filter(|ev| !["message", "gap"].contains(ev))
            .collect();
        assert_eq!(kinds, ["exit", "down", "nodedown", "nodeup"], "{policy}");
    }
}

#[test]
fn the_heaviest_mailbox_sheds_when_the_node_is_full() {
    let limits = Limits { queue_bytes: 500_000, ..Limits::default() };
    let mut node = Paper::with("a", 1, limits);
    let (heavy, light, sender) = (node.open(), node.open(), node.open());
    let pids = [node.self_pid(heavy), node.self_pid(light)];
    for app in [heavy, light] {
        node.ask(app, json!({"op": "flag", "delivery": "pull"}));
    }
    let send = |to: &String| json!({"op": "send", "to": to, "body": "x".repeat(10_000)});
    node.tell(sender, &send(&pids[1]));
    for _ in 0..100 {
        node.tell(sender, &send(&pids[0]));
        assert!(node.router.queued(&node.out) <= 500_000 + 20_000);
    }
    node.tell(sender, &send(&pids[1]));
    let light = node.ask(light, json!({"op": "flush"}));
    assert_eq!(light["messages"].as_array().map(Vec::len), Some(2));
    let heavy = node.ask(heavy, json!({"op": "flush"}));
    let lost: u64 = heavy["messages"]
        .as_array()
        .expect("messages")
        .iter()
        .filter(|event| event["ev"] == "gap")
        .filter_map(|event| event["lost"].as_u64())
        .sum();
    let there =
        heavy["messages"].as_array().expect("messages").iter().filter(|e| e["ev"] == "message");
    assert_eq!(there.count() as u64 + lost, 100);
}

#[test]
fn a_body_over_the_limit_is_refused() {
    let limits = Limits { body_bytes: 100, ..Limits::default() };
    let mut node = Paper::with("a", 1, limits);
    let app = node.open();
    let me = node.self_pid(app);
    let answer = node.ask(app, json!({"op": "send", "to": me, "body": "x".repeat(200)}));
    assert_eq!(answer["code"], "too_large");
}

#[test]
fn failures_without_an_id_are_told_at_most_once_a_second_and_counted() {
    let mut node = Paper::new("a");
    let app = node.open();
    for _ in 0..10 {
        node.tell(app, &json!({"op": "send", "to": "nobody", "body": 1}));
    }
    let events = node.events(app);
    assert_eq!(events.len(), 1);
    assert_eq!((&events[0]["code"], &events[0]["count"]), (&json!("noproc"), &json!(1)));
    node.pass(Duration::from_secs(1));
    let events = node.events(app);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["count"], 9);
    node.pass(Duration::from_secs(5));
    assert_eq!(node.events(app).len(), 0);
}

#[test]
fn however_long_a_word_of_an_app_is_the_node_answers_in_few() {
    let mut node = Paper::new("a");
    let app = node.open();
    let me = node.self_pid(app);
    let long = "ü".repeat(32_700);
    node.tell(app, &json!({"op": long}));
    node.tell(app, &json!({"op": "send", "to": long, "body": 1}));
    node.tell(app, &json!({"op": "link", "to": format!("<{long}>")}));
    let events = node.events(app);
    let codes: Vec<_> = events.iter().map(|event| event["code"].clone()).collect();
    assert_eq!(codes, ["badop", "badarg", "badarg"]);
    assert!(events.iter().all(|event| event.to_string().len() < 3000));
    let send = json!({"op": "send", "to": me, "ct": long, "body": {"$bytes": ""}});
    assert_eq!(node.ask(app, send)["code"], "badarg");
    assert_eq!(node.ask(app, json!({"op": "self"}))["ev"], "ok");
}

#[test]
fn info_names_each_key_once() {
    let mut node = Paper::new("a");
    let app = node.open();
    let twice = json!({"op": "info", "keys": ["messages", "messages"]});
    assert_eq!(node.ask(app, twice)["code"], "badarg");
}

#[test]
fn a_peer_whose_headers_leave_no_room_is_cut_off() {
    let mut pair = Pair::new();
    let app = pair.b.open();
    assert!(pair.b.self_pid(app).ends_with(".100>"));
    let mut frame = Vec::new();
    let at = message::start(&mut frame, message::Kind::Send, 0, 100);
    frame.extend_from_slice(&100_u64.to_be_bytes());
    let head = event::Head::event("message").text("x", &"x".repeat(60_000));
    event::put_frame(&mut frame, head.bytes(), &[]);
    message::finish(&mut frame, at);
    let (frame, _) = message::Frame::cut(&frame, 1 << 20).expect("a frame").expect("whole");
    assert!(pair.hears(frame).is_err());
    assert!(pair.b.events(app).is_empty());
}

#[test]
fn bodies_that_wait_for_their_time_count_and_are_given_back() {
    let limits = Limits { queue_bytes: 20_000, ..Limits::default() };
    let mut node = Paper::with("a", 1, limits);
    let app = node.open();
    let me = node.self_pid(app);
    let later = json!({"op": "send_after", "to": me, "after_ms": 1000, "body": "x".repeat(9_000)});
    let first = node.ask(app, later.clone())["timer"].clone();
    assert_eq!(node.ask(app, later.clone())["ev"], "ok");
    assert_eq!(node.ask(app, later.clone())["code"], "overloaded");
    node.ask(app, json!({"op": "cancel_timer", "timer": first}));
    assert_eq!(node.ask(app, later)["ev"], "ok");
    node.close(app);
    node.out.forget_session(app);
    assert_eq!(node.router.queued(&node.out), 0);
}

#[test]
fn a_process_waits_in_a_bounded_number_of_receives() {
    let mut node = Paper::new("a");
    let app = node.open();
    node.ask(app, json!({"op": "flag", "delivery": "pull"}));
    for id in 10_000..11_024 {
        node.tell(app, &json!({"op": "receive", "timeout_ms": 60_000, "id": id}));
    }
    assert_eq!(node.ask(app, json!({"op": "receive", "timeout_ms": 1}))["code"], "overloaded");
}

#[test]
fn signals_with_long_reasons_are_bounded_in_bytes() {
    let mut node = Paper::new("a");
    let (app, other) = (node.open(), node.open());
    node.ask(app, json!({"op": "flag", "delivery": "pull", "trap_exit": true}));
    let me = node.self_pid(app);
    let kill = json!({"op": "kill", "to": me, "reason": "r".repeat(1024)});
    for _ in 0..20_000 {
        node.tell(other, &kill);
        assert!(node.router.queued(&node.out) < 18 * 1024 * 1024);
    }
    assert!(!node.router.has_session(app));
    let events = node.events(app);
    assert_eq!(events.last().map(|event| &event["reason"]), Some(&json!("overloaded")));
}

#[test]
fn when_the_node_is_full_a_process_of_nothing_but_signals_exits_overloaded() {
    let limits = Limits { queue_bytes: 3_000_000, ..Limits::default() };
    let mut node = Paper::with("a", 1, limits);
    let (app, light, other) = (node.open(), node.open(), node.open());
    for app in [app, light] {
        node.ask(app, json!({"op": "flag", "delivery": "pull", "trap_exit": true}));
    }
    let (me, to) = (node.self_pid(app), node.self_pid(light));
    for _ in 0..10 {
        node.tell(other, &json!({"op": "send", "to": to, "body": "x".repeat(10_000)}));
    }
    for _ in 0..5_000 {
        node.tell(other, &json!({"op": "kill", "to": me, "reason": "r".repeat(1024)}));
        assert!(node.router.queued(&node.out) < 3_010_000);
    }
    node.work();
    assert!(!node.router.has_session(app));
    let kept = node.ask(light, json!({"op": "flush"}))["messages"].clone();
    assert!(kept.as_array().is_some_and(|kept| kept.len() == 10));
}

#[test]
fn signals_to_a_full_peer_pause_their_sender_and_are_refused_when_it_is_congested() {
    let limits = Limits { peer_bytes: 1000, ..Limits::default() };
    let mut pair = Pair::of(Paper::with("a", 1, limits), Paper::new("b"));
    let other = pair.b.open();
    let to = pair.b.self_pid(other);
    pair.b.ask(other, json!({"op": "flag", "trap_exit": true}));
    let feeder = pair.a.open();
    let reference = pair.a.ask(feeder, json!({"op": "monitor", "to": to}))["ref"].clone();
    pair.a.ask(feeder, json!({"op": "link", "to": to}));
    for _ in 0..3 {
        pair.a.ask(feeder, json!({"op": "send", "to": to, "body": "x".repeat(600)}));
    }
    let commands = [
        json!({"op": "link", "to": to}),
        json!({"op": "monitor", "to": to}),
        json!({"op": "monitor", "to": "name@b"}),
        json!({"op": "kill", "to": to, "reason": "please"}),
        json!({"op": "whereis", "name": "name", "node": "b"}),
    ];
    for command in &commands {
        let app = pair.a.open();
        let mut command = command.clone();
        command["id"] = json!("x");
        pair.a.tell(app, &command);
        assert!(!pair.a.router.may_read(app, &pair.a.out), "{command}");
    }
    let app = pair.a.open();
    pair.a.pass(Duration::from_secs(1));
    let full = pair.a.router.queued(&pair.a.out);
    for command in &commands {
        assert!(pair.a.router.may_read(app, &pair.a.out));
        let answer = pair.a.ask(app, command.clone());
        assert_eq!(
            (&answer["code"], &answer["nodes"]),
            (&json!("overloaded"), &json!(["b@paper"]))
        );
    }
    assert_eq!(pair.a.router.queued(&pair.a.out), full);
    // What is taken back is taken back: that is bounded by what there is.
    assert_eq!(pair.a.ask(feeder, json!({"op": "unlink", "to": to}))["ev"], "ok");
    assert_eq!(pair.a.ask(feeder, json!({"op": "demonitor", "ref": reference}))["ev"], "ok");
    pair.carry();
    for command in &commands[..4] {
        assert_eq!(pair.a.ask(app, command.clone())["ev"], "ok");
    }
}

#[test]
fn a_node_shows_what_waits_and_what_it_lost() {
    let limits = Limits { peer_bytes: 1000, ..Limits::default() };
    let small_bodies = Limits { body_bytes: 200_000, ..Limits::default() };
    let mut pair = Pair::of(Paper::with("a", 1, limits), Paper::with("b", 1, small_bodies));
    let (app, sender, other) = (pair.a.open(), pair.a.open(), pair.b.open());
    let of = |node: &mut Paper, app: u64| {
        let answer = node.ask(app, json!({"op": "nodes", "state": "self"}));
        (answer["nodes"][0]["queued"].clone(), answer["nodes"][0]["lost"].clone())
    };
    let nothing = json!({"overflow": 0, "congested": 0, "too_large": 0, "no_member": 0});
    assert_eq!(of(&mut pair.a, app), (json!(0), nothing.clone()));
    pair.a.ask(app, small("drop_newest"));
    let me = pair.a.self_pid(app);
    for n in 0..5 {
        pair.a.tell(sender, &json!({"op": "send", "to": me, "body": n}));
    }
    let there = pair.b.self_pid(other);
    pair.a.tell(sender, &json!({"op": "send", "to": there, "body": "x".repeat(400_000)}));
    pair.a.tell(sender, &json!({"op": "send", "to": there, "mode": "lossy", "body": 1}));
    let (queued, lost) = of(&mut pair.a, app);
    assert!(queued.as_u64().is_some_and(|bytes| (400_000..410_000).contains(&bytes)), "{queued}");
    assert_eq!(lost, json!({"overflow": 2, "congested": 1, "too_large": 0, "no_member": 0}));
    pair.carry();
    let lost = json!({"overflow": 0, "congested": 0, "too_large": 1, "no_member": 0});
    assert_eq!(of(&mut pair.b, other), (json!(0), lost));
}

#[test]
fn many_small_mailboxes_are_bounded_together_as_one_large_one_is() {
    let limits = Limits { queue_bytes: 500_000, ..Limits::default() };
    let mut node = Paper::with("a", 1, limits);
    let (app, sender) = (node.open(), node.open());
    let mut pids = Vec::new();
    // Of every size from one that weighs something to one that weighs nothing.
    for (body, count) in [(40_000, 40), (4_000, 400), (300, 4_000)] {
        for _ in 0..count {
            let pid = node.ask(app, json!({"op": "spawn", "delivery": "pull"}))["pid"].clone();
            node.tell(sender, &json!({"op": "send", "to": pid, "body": "x".repeat(body)}));
            node.work();
            let queued = node.router.queued(&node.out);
            assert!(queued <= 500_000 + 50_000, "{queued} bytes wait after {body}");
            pids.push(pid.as_str().expect("a pid").to_owned());
        }
    }
    let memory: usize = pids.iter().map(|pid| node.router.mailbox_memory(pid)).sum();
    assert!(memory < 3_000_000, "{memory} bytes are kept for what was lost");
    assert!(node.router.counters().shed > 3_000);
}

#[test]
fn signals_that_nobody_takes_do_not_keep_messages_of_others_from_being_shed() {
    let limits = Limits { queue_bytes: 500_000, ..Limits::default() };
    let mut node = Paper::with("a", 1, limits);
    let (app, other, sender) = (node.open(), node.open(), node.open());
    for app in [app, other] {
        node.ask(app, json!({"op": "flag", "delivery": "pull", "trap_exit": true}));
    }
    let (full, own) = (node.self_pid(app), node.self_pid(other));
    for _ in 0..400 {
        node.tell(sender, &json!({"op": "kill", "to": full, "reason": "r".repeat(1_000)}));
    }
    for _ in 0..100 {
        node.tell(sender, &json!({"op": "send", "to": own, "body": "x".repeat(2_000)}));
        node.work();
    }
    assert!(node.router.queued(&node.out) <= 500_000, "{}", node.router.queued(&node.out));
}

#[test]
fn apps_that_do_not_read_are_bounded_together_and_take_no_message_from_others() {
    let limits = Limits { queue_bytes: 1_000_000, ..Limits::default() };
    let mut node = Paper::with("a", 1, limits);
    let (reader, sender) = (node.open(), node.open());
    node.ask(reader, json!({"op": "flag", "delivery": "pull"}));
    let own = node.self_pid(reader);
    for n in 0..5 {
        node.tell(sender, &json!({"op": "send", "to": own, "body": [n, "x".repeat(1_000)]}));
    }
    for _ in 0..40 {
        let idle = node.open();
        let pid = node.self_pid(idle);
        for _ in 0..100 {
            node.tell(sender, &json!({"op": "send", "to": pid, "body": "x".repeat(1_000)}));
        }
        for _ in 0..500 {
            if node.router.may_answer(idle, &node.out) {
                node.tell(idle, &json!({"op": "info", "id": 1, "to": own, "keys": ["messages"]}));
            }
        }
        node.work();
    }
    assert!(node.router.queued(&node.out) <= 1_400_000, "{}", node.router.queued(&node.out));
    let told = node.ask(reader, json!({"op": "flush"}));
    let kept = told["messages"].as_array().map_or(0, Vec::len);
    assert_eq!(kept, 5, "the app with a small mailbox has lost messages");
}

#[test]
fn answers_of_another_node_that_nobody_reads_are_bounded() {
    let mut pair = Pair::new();
    let (app, other) = (pair.a.open(), pair.b.open());
    for _ in 0..2_000 {
        pair.b.tell(other, &json!({"op": "spawn", "label": "l".repeat(200)}));
    }
    for id in 0..20 {
        pair.a.tell(app, &json!({"op": "processes", "node": "b@paper", "id": id}));
    }
    pair.carry();
    assert!(pair.a.router.queued(&pair.a.out) < 3_000_000, "{}", pair.a.router.queued(&pair.a.out));
    let events = pair.a.events(app);
    assert_eq!(events.len(), 20, "each question has its answer");
    let refused = events.iter().filter(|event| event["code"] == "overloaded").count();
    assert!((1..20).contains(&refused), "{refused} were refused");
}
