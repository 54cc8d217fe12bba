//! What an app, or a peer that has the cookie, may try.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::super::Limits;
use super::support::{Pair, Paper};
use crate::dialect::json::line_to_frame;
use crate::hub::{Frames, Hub};
use crate::wire::id::Pid;
use crate::wire::message::{self, Frame, FrameError, Kind};

/// How long this thread has been at work: what others do on the machine takes no part in it.
fn worked() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().expect("not negative")
}

#[test]
fn answers_that_nobody_reads_stop_the_batch_that_asks_for_them() {
    let paper = Paper::new("a");
    let hub = Hub::new(paper.router.me().clone(), Limits::default());
    let app = hub.open_session(true, false);
    let mut batch = Vec::new();
    let say = |command: &Value, batch: &mut Vec<u8>| {
        line_to_frame(command.to_string().as_bytes(), batch).expect("a good line");
    };
    say(&json!({"op": "flag", "delivery": "pull"}), &mut batch);
    say(&json!({"op": "register", "name": "me"}), &mut batch);
    say(&json!({"op": "send", "to": "me", "body": "x".repeat(400_000)}), &mut batch);
    for id in 0..100 {
        say(&json!({"op": "info", "id": id, "keys": ["messages"]}), &mut batch);
    }
    let mut done = 0;
    let mut answers = 0;
    for _ in 0..100 {
        let fed = app.commands(&batch[done..], usize::MAX);
        done += fed.consumed;
        assert!(hub.queued() < 3 * 1024 * 1024, "{} bytes wait", hub.queued());
        assert_eq!(fed.stopped, done < batch.len());
        let mut out = Frames::default();
        let _ = app.take(&mut out);
        answers += out.len() / 400_000;
    }
    assert_eq!((done, answers), (batch.len(), 100));
}

#[test]
fn a_listing_is_finished_before_the_next_is_begun() {
    let mut node = Paper::new("a");
    let app = node.open();
    for _ in 0..2_000 {
        node.tell(app, &json!({"op": "spawn"}));
    }
    assert!(node.router.may_answer(app, &node.out));
    node.tell(app, &json!({"op": "processes", "id": "list"}));
    assert!(!node.router.may_answer(app, &node.out));
    node.work();
    assert!(node.router.may_read(app, &node.out));
}

#[test]
fn a_listing_too_long_for_one_message_is_an_error_and_no_timeout() {
    let limits = Limits { body_bytes: 10_000, ..Limits::default() };
    let mut pair = Pair::of(Paper::new("a"), Paper::with("b", 1, limits));
    let (app, other) = (pair.a.open(), pair.b.open());
    for _ in 0..500 {
        pair.b.tell(other, &json!({"op": "spawn"}));
    }
    let answer = pair.ask_across(app, json!({"op": "processes", "node": "b@paper"}));
    assert_eq!(answer["code"], "too_large");
}

#[test]
fn what_drop_oldest_sheds_behind_an_event_that_nobody_takes_is_given_back() {
    let mut node = Paper::new("a");
    let (app, sender) = (node.open(), node.open());
    let me = node.self_pid(app);
    node.ask(
        app,
        json!({"op": "flag", "delivery": "pull", "mailbox": {"entries": 3, "policy": "drop_oldest"}}),
    );
    node.ask(app, json!({"op": "monitor", "to": "nobody"}));
    for n in 0..20_000 {
        node.tell(sender, &json!({"op": "send", "to": me, "body": [n, "x".repeat(100)]}));
    }
    assert!(node.router.mailbox_memory(&me) < 300_000, "{}", node.router.mailbox_memory(&me));
    let answer = node.ask(app, json!({"op": "flush"}));
    let evs: Vec<&Value> =
        answer["messages"].as_array().expect("messages").iter().map(|m| &m["ev"]).collect();
    assert_eq!(evs, ["down", "gap", "message", "message", "message"]);
    assert_eq!(answer["messages"][1]["lost"], 19_997);
    assert_eq!(answer["messages"][4]["body"][0], 19_999);
    assert_eq!(node.router.queued(&node.out), 0);
}

#[test]
fn what_demonitor_takes_back_behind_a_message_that_nobody_takes_is_given_back() {
    let mut node = Paper::new("a");
    let app = node.open();
    let me = node.self_pid(app);
    node.ask(app, json!({"op": "flag", "delivery": "pull"}));
    node.ask(app, json!({"op": "send", "to": me, "body": "first"}));
    for _ in 0..10_000 {
        let reference = node.ask(app, json!({"op": "monitor", "to": "nobody"}))["ref"].clone();
        node.ask(app, json!({"op": "demonitor", "ref": reference, "flush": true}));
    }
    assert!(node.router.mailbox_memory(&me) < 300_000, "{}", node.router.mailbox_memory(&me));
    let answer = node.ask(app, json!({"op": "flush"}));
    assert_eq!(answer["messages"].as_array().map(Vec::len), Some(1));
    assert_eq!(node.router.queued(&node.out), 0);
}

/// A frame that a peer may send: kind, flags, serial, payload.
fn frame(kind: Kind, flags: u8, serial: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let at = message::start(&mut out, kind, flags, serial);
    out.extend_from_slice(payload);
    message::finish(&mut out, at);
    out
}

fn hear(node: &mut Paper, peer: u64, bytes: &[u8]) -> Result<(), FrameError> {
    let (frame, _) = Frame::cut(bytes, 1 << 20)?.expect("a whole frame");
    node.hold(|router, now, out| router.on_message(now, peer, frame, out))
}

/// A node, one app, the serial of its process, and a peer.
fn with_peer() -> (Paper, u64, u64, u64) {
    let mut pair = Pair::new();
    let app = pair.a.open();
    let pid: Pid = pair.a.self_pid(app).parse().expect("a pid");
    let peer = pair.connection();
    (pair.a, app, pid.serial, peer)
}

#[test]
fn a_peer_that_holds_and_never_lets_go_holds_for_two_send_timeouts() {
    let (mut node, app, serial, peer) = with_peer();
    let hold = frame(Kind::Hold, 0, 0, &serial.to_be_bytes());
    let go = frame(Kind::Go, 0, 0, &serial.to_be_bytes());
    hear(&mut node, peer, &go).expect("a go too many is nothing");
    for _ in 0..3 {
        hear(&mut node, peer, &hold).expect("a hold");
    }
    hear(&mut node, peer, &go).expect("a go");
    node.pass(Duration::from_millis(1_999));
    assert!(!node.router.may_read(app, &node.out));
    node.pass(Duration::from_millis(1));
    assert!(node.router.may_read(app, &node.out));
    for _ in 0..3 {
        hear(&mut node, peer, &go).expect("a go too late is nothing");
    }
    hear(&mut node, peer, &hold).expect("a hold");
    assert!(!node.router.may_read(app, &node.out));
    hear(&mut node, peer, &go).expect("a go");
    assert!(node.router.may_read(app, &node.out));
}

/// What the node answers to a question of a peer.
fn told(node: &mut Paper, peer: u64, ask: &[u8]) -> Result<(String, String), FrameError> {
    let payload = [&9_u64.to_be_bytes(), ask].concat();
    hear(node, peer, &frame(Kind::Ask, 0, 0, &payload))?;
    let mut bytes = Vec::new();
    node.out.take_peer(peer, &mut bytes);
    let (answer, _) = Frame::cut(&bytes, 1 << 20)?.expect("an answer");
    assert_eq!((answer.kind, &answer.payload[..8]), (Kind::Tell as u8, &payload[..8]));
    Ok(match message::Told::read(&answer.payload[8..])? {
        message::Told::Ok(item) => ("ok".to_owned(), format!("{item:02x?}")),
        message::Told::Error { code, message } => (code.to_owned(), message.to_owned()),
    })
}

#[test]
fn a_question_of_a_later_version_is_answered_unsupported_and_the_connection_goes_on() {
    let (mut node, .., peer) = with_peer();
    let later: [&[u8]; 5] = [
        b"\x67whatsup",
        b"\xa1\x67whatsup\xa1\x61x\x01",
        b"\xa1\x67whatsup\x9f\x01\xff",
        // A known word that has come to mean something else.
        b"\xa1\x67whereis\x82\x01\x02",
        b"\x01",
    ];
    for ask in later {
        let (code, words) = told(&mut node, peer, ask).expect("an answer");
        assert_eq!(code, "unsupported", "{ask:02x?}");
        assert!(words.contains("a@paper") && words.contains("update"), "{words}");
    }
    // Members that are not known are passed over.
    let ping = b"\xa1\x64ping\xa1\x61x\x01";
    assert_eq!(told(&mut node, peer, ping).expect("an answer").0, "ok");
    let whereis = b"\xa1\x67whereis\xa2\x64name\x61x\x63new\x01";
    assert_eq!(told(&mut node, peer, whereis).expect("an answer").0, "ok");
    assert_eq!(told(&mut node, peer, b"\x64ping").expect("an answer").0, "ok");
    for ask in [&b""[..], b"\x64pin", b"\xff", b"\x64ping\x01"] {
        let heard = told(&mut node, peer, ask);
        assert_eq!(heard, Err(FrameError::Malformed("ask")), "{ask:02x?}");
    }
}

#[test]
fn what_a_later_version_adds_to_an_answer_is_passed_over() {
    let read = |payload: &[u8]| match message::Told::read(payload) {
        Ok(message::Told::Ok(item)) => Ok(item.to_vec()),
        Ok(message::Told::Error { code, .. }) => Err(code.to_owned()),
        Err(error) => panic!("{error}: {payload:02x?}"),
    };
    assert_eq!(read(b"\xa2\x63new\x82\x01\x02\x62ok\x05"), Ok(b"\x05".to_vec()));
    assert_eq!(read(b"\xa1\x65error\x83\x64code\x61x\xa0"), Err("code".to_owned()));
    for bad in [&b"\xa0"[..], b"\xa1\x63new\x01", b"\xa1\x62ok", b"\xa1\x65error\x81\x61x"] {
        assert!(message::Told::read(bad).is_err(), "{bad:02x?}");
    }
}

#[test]
fn frames_of_unknown_kinds_are_skipped_from_0x80_on_and_end_the_connection_below() {
    let (mut node, .., peer) = with_peer();
    let mut later = frame(Kind::Beat, 0xff, 7, b"anything");
    for kind in [0x80, 0xc3, 0xff] {
        later[4] = kind;
        assert_eq!(hear(&mut node, peer, &later), Ok(()), "0x{kind:02x}");
        let whole = u32::try_from(later.len()).expect("short").to_be_bytes();
        let both = message::FRAGMENT_FIRST | message::FRAGMENT_LAST;
        let fragment = frame(Kind::Fragment, both, 7, &[&whole, &later[..]].concat());
        assert_eq!(hear(&mut node, peer, &fragment), Ok(()), "0x{kind:02x} in a fragment");
    }
    for kind in [0x00, 0x09, 0x1e, 0x7f] {
        later[4] = kind;
        assert_eq!(hear(&mut node, peer, &later), Err(FrameError::UnknownKind(kind)));
    }
}

#[test]
fn a_peer_cannot_speak_to_an_app_as_its_own_node() {
    let (mut node, app, serial, peer) = with_peer();
    let send = |head: &[u8]| {
        let mut payload = serial.to_be_bytes().to_vec();
        crate::wire::event::put_frame(&mut payload, head, b"\x01");
        frame(Kind::Send, 0, 7, &payload)
    };
    let bad: [&[u8]; 9] = [
        b"",
        b"\xa0",
        b"\xa1",
        b"\xa1\x62ev\x62ok",
        b"\xa2\x62ev\x67message",
        b"\xa1\x62ev\x67message\x00",
        b"\xa2\x62ev\x67message\x62ev\x62ok",
        b"\xa2\x62ev\x67message\x62id\x01",
        b"\xa2\x62ev\x67message\x62as\x64pids",
    ];
    for head in bad {
        let heard = hear(&mut node, peer, &send(head));
        assert_eq!(heard, Err(FrameError::Malformed("send")), "{head:02x?}");
    }
    hear(&mut node, peer, &send(b"\xa2\x62ev\x67message\x63new\x82\x01\x02")).expect("a message");
    assert_eq!(node.events(app), [json!({"ev": "message", "new": [1, 2], "body": 1})]);
}

#[test]
fn what_is_sent_later_is_bounded_in_bytes_and_counted_off_again() {
    let mut node = Paper::new("a");
    let app = node.open();
    let later =
        json!({"op": "send_after", "to": "me", "after_ms": 1000, "body": "x".repeat(1_000_000)});
    let mut timers = Vec::new();
    for _ in 0..8 {
        timers.push(node.ask(app, later.clone())["timer"].clone());
    }
    assert_eq!(node.ask(app, later.clone())["code"], "overloaded");
    node.ask(app, json!({"op": "cancel_timer", "timer": timers[0]}));
    assert_eq!(node.ask(app, later.clone())["ev"], "ok");
    node.pass(Duration::from_secs(1));
    for _ in 0..8 {
        assert_eq!(node.ask(app, later.clone())["ev"], "ok");
    }
    for _ in 0..3 {
        let other = node.open();
        for _ in 0..8 {
            assert_eq!(node.ask(other, later.clone())["ev"], "ok");
        }
    }
    let other = node.open();
    assert_eq!(node.ask(other, later.clone())["ev"], "ok");
    assert_eq!(node.ask(other, later.clone())["code"], "overloaded");
    node.close(app);
    assert_eq!(node.ask(other, later)["ev"], "ok");
}

#[test]
fn waiting_receives_and_pings_of_nobody_are_bounded() {
    let mut node = Paper::new("a");
    let app = node.open();
    for id in 0..1_024 {
        node.tell(app, &json!({"op": "receive", "id": id, "timeout_ms": 1_u64 << 53}));
        node.tell(app, &json!({"op": "ping", "id": id, "node": "b", "timeout_ms": 1_u64 << 53}));
    }
    assert_eq!(node.ask(app, json!({"op": "receive", "timeout_ms": 1}))["code"], "overloaded");
    assert_eq!(node.ask(app, json!({"op": "ping", "node": "b"}))["code"], "overloaded");
}

#[test]
fn a_reference_is_known_for_as_long_as_its_down_can_be_taken_back() {
    let mut node = Paper::new("a");
    let (app, other) = (node.open(), node.open());
    node.ask(app, json!({"op": "flag", "delivery": "pull"}));
    let child = node.ask(other, json!({"op": "spawn"}))["pid"].clone();
    let monitor = json!({"op": "monitor", "to": child});
    let references: Vec<Value> =
        (0..4).map(|_| node.ask(app, monitor.clone())["ref"].clone()).collect();
    let demonitor = |n: usize| json!({"op": "demonitor", "ref": references[n], "flush": true});
    node.ask(other, demonitor(1));
    node.ask(app, demonitor(0));
    node.ask(other, json!({"op": "exit", "pid": child}));
    node.ask(other, demonitor(1));
    node.ask(app, demonitor(1));
    let first = node.ask(app, json!({"op": "receive", "max": 1}));
    assert_eq!(first["messages"][0]["ref"], references[2]);
    assert_eq!(node.router.references(), 1);
    node.tell(app, &json!({"op": "flush"}));
    assert_eq!(node.router.references(), 0);
    assert_eq!(node.router.queued(&node.out), 0);
    for _ in 0..3 {
        node.ask(app, monitor.clone());
        node.ask(app, json!({"op": "monitor", "to": node.name()}));
        let pid = node.self_pid(other);
        node.ask(app, json!({"op": "monitor", "to": pid}));
    }
    node.close(app);
    assert_eq!(node.router.references(), 0);
}

#[test]
fn a_thousand_demonitors_do_not_look_at_every_process() {
    let mut node = Paper::new("a");
    let app = node.open();
    for _ in 0..20_000 {
        node.tell(app, &json!({"op": "spawn", "delivery": "pull"}));
    }
    let begun = worked();
    for _ in 0..1_000 {
        node.tell(app, &json!({"op": "demonitor", "ref": 9_999_999, "flush": true}));
    }
    let took = worked().saturating_sub(begun);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn deaths_are_not_kept_for_somebody_who_does_not_read() {
    let mut node = Paper::new("a");
    let (person, app) = (node.open(), node.open());
    node.ask(person, json!({"op": "monitor_deaths"}));
    let spawn_and_exit = |node: &mut Paper| {
        let pid = node.ask(app, json!({"op": "spawn"}))["pid"].clone();
        node.ask(app, json!({"op": "exit", "pid": pid, "reason": "r".repeat(1024)}));
    };
    for _ in 0..1_500 {
        spawn_and_exit(&mut node);
    }
    assert!(node.router.queued(&node.out) < 1_100_000);
    let told = node.events(person).len() as u64;
    spawn_and_exit(&mut node);
    let events = node.events(person);
    assert_eq!(events[0]["ev"], "gap");
    assert_eq!(events[0]["lost"], 1_500 - told);
    assert_eq!(events[1]["ev"], "died");
}

#[test]
fn a_peer_that_asks_and_never_reads_is_let_go() {
    let (mut node, _, _, peer) = with_peer();
    let link = frame(Kind::Link, 0, 7, &1_u64.to_be_bytes());
    let mut heard = 0_u64;
    let error = loop {
        if let Err(error) = node.router.may_hear(peer, &node.out) {
            break error;
        }
        hear(&mut node, peer, &link).expect("a link to nobody");
        heard += 1;
        assert!(heard < 10_000_000);
    };
    assert!(matches!(error, FrameError::Unread(_)), "{error}");
    assert!(node.router.queued(&node.out) < 70 * 1024 * 1024);
    node.router.on_peer_down(node.now, peer, "protocol", &mut node.out);
    assert_eq!(node.router.queued(&node.out), 0);
}

#[test]
fn shedding_behind_many_events_does_not_look_at_all_of_them() {
    let mut node = Paper::new("a");
    let (app, other) = (node.open(), node.open());
    let me = node.self_pid(app);
    node.ask(
        app,
        json!({"op": "flag", "trap_exit": true, "delivery": "pull",
            "mailbox": {"entries": 2, "policy": "drop_oldest"}}),
    );
    for _ in 0..50_000 {
        node.tell(other, &json!({"op": "kill", "to": me, "reason": "boom"}));
    }
    let begun = worked();
    for n in 0..10_000 {
        node.tell(other, &json!({"op": "send", "to": me, "body": n}));
    }
    let took = worked().saturating_sub(begun);
    assert!(took < Duration::from_secs(5), "{took:?}");
    let answer = node.ask(app, json!({"op": "flush"}));
    let last = &answer["messages"].as_array().expect("messages")[50_000..];
    assert_eq!((last.len(), &last[0]["lost"], &last[2]["body"]), (3, &json!(9_998), &json!(9_999)));
    assert_eq!(node.router.queued(&node.out), 0);
}

/// What waits for a peer: kinds, references (or targets) and reasons.
fn written(node: &mut Paper, peer: u64) -> Vec<(u8, u64, String)> {
    let mut bytes = Vec::new();
    node.out.take_peer(peer, &mut bytes);
    let (mut written, mut rest) = (Vec::new(), bytes.as_slice());
    while let Some((frame, used)) = Frame::cut(rest, 1 << 20).expect("good frames") {
        let (number, text) = frame.payload.split_first_chunk::<8>().expect("a number");
        let reason = crate::wire::cbor::Reader::new(text).text().unwrap_or_default().to_owned();
        written.push((frame.kind, u64::from_be_bytes(*number), reason));
        rest = &rest[used..];
    }
    written
}

#[test]
fn what_one_peer_may_link_and_monitor_is_bounded_and_beyond_it_is_overloaded() {
    let (mut node, app, serial, peer) = with_peer();
    let theirs = |n: u64| format!("<b@paper.0000000000000001.{n}>");
    for n in 0..200_000_u64 {
        let link = frame(Kind::Link, 0, 1_000 + n, &serial.to_be_bytes());
        hear(&mut node, peer, &link).expect("a link");
        let monitor = [n.to_be_bytes(), serial.to_be_bytes()].concat();
        hear(&mut node, peer, &frame(Kind::Monitor, 0, 1_000, &monitor)).expect("a monitor");
    }
    assert_eq!(written(&mut node, peer), []);
    // One more of each, and one of each again.
    hear(&mut node, peer, &frame(Kind::Link, 0, 999, &serial.to_be_bytes())).expect("a link");
    hear(&mut node, peer, &frame(Kind::Link, 0, 1_000, &serial.to_be_bytes())).expect("a link");
    for n in [999_999_u64, 0] {
        let monitor = [n.to_be_bytes(), serial.to_be_bytes()].concat();
        hear(&mut node, peer, &frame(Kind::Monitor, 0, 1_000, &monitor)).expect("a monitor");
    }
    let overloaded = |kind: Kind, number| (kind as u8, number, "overloaded".to_owned());
    let expected = [overloaded(Kind::Exit, 999), overloaded(Kind::Down, 999_999)];
    assert_eq!(written(&mut node, peer), expected);
    let other = node.open();
    let answer = node.ask(other, json!({"op": "link", "to": theirs(7)}));
    assert_eq!(answer["code"], "overloaded");
    // What is taken back makes room.
    let unlink = [serial.to_be_bytes(), 1_u64.to_be_bytes()].concat();
    hear(&mut node, peer, &frame(Kind::Unlink, 0, 1_000, &unlink)).expect("an unlink");
    assert_eq!(node.ask(other, json!({"op": "link", "to": theirs(7)}))["ev"], "ok");
    assert!(node.router.has_session(app));
}

#[test]
fn a_reference_that_a_peer_gives_twice_is_one_monitor_and_one_down() {
    let (mut node, app, _, peer) = with_peer();
    let spawn = |node: &mut Paper| {
        let pid: Pid = node.ask(app, json!({"op": "spawn"}))["pid"]
            .as_str()
            .and_then(|pid| pid.parse().ok())
            .expect("a pid");
        (pid.to_string(), pid.serial)
    };
    let monitor = |node: &mut Paper, serial: u64| {
        let payload = [5_u64.to_be_bytes(), serial.to_be_bytes()].concat();
        hear(node, peer, &frame(Kind::Monitor, 0, 1_000, &payload)).expect("a monitor");
    };
    let ((one, one_serial), (two, two_serial)) = (spawn(&mut node), spawn(&mut node));
    monitor(&mut node, one_serial);
    monitor(&mut node, two_serial);
    node.ask(app, json!({"op": "exit", "pid": two, "reason": "second"}));
    assert_eq!(written(&mut node, peer), []);
    node.ask(app, json!({"op": "exit", "pid": one, "reason": "first"}));
    assert_eq!(written(&mut node, peer), [(Kind::Down as u8, 5, "first".to_owned())]);
    // Taken back and given to another while the death of the first is on its way.
    let ((one, one_serial), (two, two_serial)) = (spawn(&mut node), spawn(&mut node));
    monitor(&mut node, one_serial);
    node.hold(|router, _, out| {
        out.count(super::super::SLICE);
        router.on_command(std::time::Instant::now(), app, &exit(&one), out);
    });
    let demonitor = frame(Kind::Demonitor, 0, 1_000, &5_u64.to_be_bytes());
    node.hold(|router, now, out| {
        out.count(super::super::SLICE);
        let (frame, _) = Frame::cut(&demonitor, 1 << 20).expect("good").expect("whole");
        router.on_message(now, peer, frame, out).expect("a demonitor");
    });
    node.hold(|router, now, out| {
        out.count(super::super::SLICE);
        let payload = [5_u64.to_be_bytes(), two_serial.to_be_bytes()].concat();
        let bytes = frame(Kind::Monitor, 0, 1_000, &payload);
        let (frame, _) = Frame::cut(&bytes, 1 << 20).expect("good").expect("whole");
        router.on_message(now, peer, frame, out).expect("a monitor");
    });
    node.work();
    assert_eq!(written(&mut node, peer), []);
    node.ask(app, json!({"op": "exit", "pid": two, "reason": "third"}));
    assert_eq!(written(&mut node, peer), [(Kind::Down as u8, 5, "third".to_owned())]);
}

/// `exit` of a process, as a frame without its length.
fn exit(pid: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    let line = json!({"op": "exit", "pid": pid}).to_string();
    line_to_frame(line.as_bytes(), &mut frame).expect("a good line");
    frame.split_off(4)
}

#[test]
fn a_monitor_is_taken_back_by_its_own_session_only() {
    let mut node = Paper::new("a");
    let (app, other) = (node.open(), node.open());
    let child = node.ask(other, json!({"op": "spawn"}))["pid"].clone();
    let reference = node.ask(app, json!({"op": "monitor", "to": child}))["ref"].clone();
    let demonitor = json!({"op": "demonitor", "ref": reference, "flush": true});
    let answer = node.ask(other, demonitor.clone());
    assert_eq!((&answer["ev"], &answer["code"]), (&json!("error"), &json!("denied")));
    node.ask(other, json!({"op": "exit", "pid": child}));
    assert_eq!(node.events(app)[0]["ref"], reference, "nobody took it back");
    // What is no monitor any more, or never was, is nobody's.
    assert_eq!(node.ask(other, demonitor)["ev"], "ok");
    assert_eq!(node.ask(other, json!({"op": "demonitor", "ref": 999}))["ev"], "ok");
}

#[test]
fn an_answer_has_room_for_whatever_was_asked_in_however_long_words() {
    let mut node = Paper::new("a");
    let app = node.open();
    let long = |n: usize| format!("{n:0>64}@{}", "h".repeat(255));
    let nodes: Vec<String> = (0..202).map(long).collect();
    let answer = node.ask(app, json!({"op": "wait_for", "nodes": nodes, "timeout_ms": 0}));
    assert_eq!(answer["code"], "timeout");
    assert!((1..202).contains(&answer["nodes"].as_array().unwrap().len()));
    let to = format!("<{}.0123456789abcdef.1>", "A".repeat(65_000));
    for command in [
        json!({"op": "call", "to": to}),
        json!({"op": "send", "to": to, "checked": true}),
        json!({"op": "info", "to": to}),
        json!({"op": "alive", "to": to}),
        json!({"op": "monitor", "to": to}),
        json!({"op": "link", "to": to}),
        json!({"op": "kill", "to": to}),
        json!({"op": "publish", "topic": "t", "exclude": to}),
        json!({"op": "spawn", "factory": "A".repeat(65_000)}),
        json!({"op": "presence", "topic": "A".repeat(65_000)}),
        json!({"op": "ping", "node": "A".repeat(65_000)}),
        json!({"op": "rpc", "node": "any", "module": "A".repeat(32_000), "function": "f"}),
        json!({"op": "monitor_nodes", "node_type": "A".repeat(65_000)}),
        json!({"op": "info", "keys": ["A".repeat(65_000)]}),
    ] {
        let mut short = command.to_string();
        short.truncate(60);
        let answer = node.ask(app, command);
        assert!(answer["ev"] == "error" || answer["ev"] == "ok", "{short}: {answer}");
    }
    assert_eq!(node.ask(app, json!({"op": "self"}))["ev"], "ok");
}
