//! Presence: who is there, who hears of it, and that nothing dead stays.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::{Limits, SLICE};
use super::support::{Pair, Paper};
use crate::wire::message::{self, Frame, Kind};

pub(super) fn track(topic: &str, key: &str, metadata: &Value) -> Value {
    json!({"op": "track", "topic": topic, "key": key, "metadata": metadata})
}

pub(super) fn by(mut command: Value, pid: &Value) -> Value {
    command["pid"] = pid.clone();
    command
}

pub(super) fn list(node: &mut Paper, app: u64, topic: &str) -> Vec<Value> {
    let answer = node.ask(app, json!({"op": "presence", "topic": topic}));
    answer["presence"].as_array().unwrap_or_else(|| panic!("{answer}")).clone()
}

fn keys(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["key"].as_str().expect("a key")).collect()
}

pub(super) fn spawn(node: &mut Paper, app: u64) -> Value {
    node.ask(app, json!({"op": "spawn", "delivery": "pull"}))["pid"].clone()
}

/// No hold handled more than its slice.
fn in_slices(node: &Paper) {
    let (handled, touched) = node.most;
    assert!(handled <= SLICE + 8, "{handled} entries in one hold");
    assert!(touched <= 2 * SLICE + 16, "{touched} events and frames in one hold");
    assert!(handled > SLICE / 2, "{handled}: there was nothing to be put off");
}

/// Who is there as far as the events tell: (key, pid) and what is known of each. Nobody joins twice or leaves who was not
/// there, and of one presence only newer things are told.
#[derive(Debug, Default)]
pub(super) struct Fold {
    rows: BTreeMap<(String, String), Value>,
    pub(super) whole: bool,
    events: usize,
}

impl Fold {
    pub(super) fn hear(&mut self, events: &[Value]) {
        for event in events.iter().filter(|event| event["ev"] == "presence") {
            self.events += 1;
            let place = |row: &Value| {
                let text = |key: &str| row[key].as_str().expect("a text").to_owned();
                (text("key"), text("pid"))
            };
            for row in event["leaves"].as_array().expect("leaves") {
                let old = self.rows.remove(&place(row));
                assert_eq!(old.as_ref(), Some(row), "it leaves as it was");
            }
            for row in event["joins"].as_array().expect("joins") {
                let mut row = row.clone();
                let previous = row.as_object_mut().and_then(|row| row.remove("prev"));
                assert!(previous.is_none_or(|previous| previous.as_u64() < row["ref"].as_u64()));
                let old = self.rows.insert(place(&row), row.clone());
                assert_eq!(old, None, "it was there already: {row}");
            }
            self.whole = event["more"] != json!(true);
        }
    }

    pub(super) fn rows(&self) -> Vec<Value> {
        self.rows.values().cloned().collect()
    }
}

pub(super) fn sorted(mut rows: Vec<Value>) -> Vec<Value> {
    rows.sort_by_key(|row| (row["key"].to_string(), row["pid"].to_string()));
    rows
}

#[test]
fn a_process_is_present_on_every_node_under_each_of_its_keys_until_it_is_untracked_or_dies() {
    let mut pair = Pair::new();
    let (ann, bob) = (pair.a.open(), pair.b.open());
    let (near, far) = (pair.a.self_pid(ann), pair.b.self_pid(bob));
    let tab = spawn(&mut pair.a, ann);
    let first = pair.a.ask(ann, track("room.1", "ann", &json!({"at": "desk"})))["ref"].clone();
    let second = pair.a.ask(ann, by(track("room.1", "ann", &Value::Null), &tab))["ref"].clone();
    let third = pair.b.ask(bob, track("room.1", "bob smith", &json!(7)))["ref"].clone();
    pair.a.ask(ann, track("room.2", "ann", &json!(1)));
    pair.carry();
    let expected = [
        json!({"key": "ann", "pid": near, "ref": first, "metadata": {"at": "desk"}}),
        json!({"key": "ann", "pid": tab, "ref": second}),
        json!({"key": "bob smith", "pid": far, "ref": third, "metadata": 7}),
    ];
    assert_eq!(list(&mut pair.a, ann, "room.1"), expected);
    assert_eq!(sorted(list(&mut pair.b, bob, "room.1")), expected);
    assert_eq!(keys(&list(&mut pair.b, bob, "room.2")), ["ann"]);
    let one = |key: &str, by: &str| json!({"op": "presence", "topic": "room.1", by: key});
    assert_eq!(pair.b.ask(bob, one("ann", "key"))["presence"], json!(expected[..2]));
    assert_eq!(pair.b.ask(bob, one("an", "key"))["presence"], json!([]));
    assert_eq!(pair.b.ask(bob, one("b", "prefix"))["presence"], json!(expected[2..]));
    // Twice the same is refused, as is what is not there.
    assert_eq!(pair.a.ask(ann, track("room.1", "ann", &json!(2)))["code"], "taken");
    let update = json!({"op": "update_presence", "topic": "room.1", "key": "ann", "metadata": {"at": "door"}});
    assert_eq!(pair.b.ask(bob, update.clone())["code"], "not_found");
    let anew = pair.a.ask(ann, update)["ref"].clone();
    assert!(anew.as_u64() > second.as_u64(), "a version only goes up");
    pair.carry();
    let row = json!({"key": "ann", "pid": near, "ref": anew, "metadata": {"at": "door"}});
    assert_eq!(list(&mut pair.b, bob, "room.1")[0], row);
    // What nobody is tracked under can be untracked.
    let untrack = |key: &str| json!({"op": "untrack", "topic": "room.1", "key": key});
    assert_eq!(pair.a.ask(ann, untrack("nobody"))["ev"], "ok");
    assert_eq!(pair.a.ask(ann, by(untrack("ann"), &tab))["ev"], "ok");
    pair.carry();
    assert_eq!(keys(&list(&mut pair.b, bob, "room.1")), ["ann", "bob smith"]);
    pair.a.close(ann);
    pair.carry();
    assert_eq!(keys(&list(&mut pair.b, bob, "room.1")), ["bob smith"]);
    assert_eq!(list(&mut pair.b, bob, "room.2"), Vec::<Value>::new());
    pair.cut();
    let app = pair.a.open();
    assert_eq!(list(&mut pair.a, app, "room.1"), Vec::<Value>::new());
    pair.join();
    assert_eq!(keys(&list(&mut pair.a, app, "room.1")), ["bob smith"]);
    assert_eq!(pair.b.ask(bob, json!({"op": "untrack"}))["ev"], "ok");
    pair.carry();
    assert_eq!(pair.a.router.presences_kept(), [0; 4]);
    assert_eq!(pair.b.router.presences_kept(), [0; 4]);
}

#[test]
fn who_watches_presence_is_told_who_is_there_and_then_every_change_once_with_what_was_known() {
    let mut pair = Pair::new();
    let (ann, watcher) = (pair.a.open(), pair.b.open());
    let pid = pair.a.self_pid(ann);
    let first = pair.a.ask(ann, track("room", "ann", &json!({"at": "desk"})))["ref"].clone();
    pair.carry();
    let watch = json!({"op": "monitor_presence", "topic": "room"});
    let reference = pair.b.ask(watcher, watch)["ref"].clone();
    let told = |joins: Value, leaves: Value| json!({"ev": "presence", "ref": reference, "topic": "room", "joins": joins, "leaves": leaves});
    let desk = json!({"key": "ann", "pid": pid, "ref": first, "metadata": {"at": "desk"}});
    assert_eq!(pair.b.events(watcher), [told(json!([desk]), json!([]))]);
    pair.b.ask(watcher, json!({"op": "monitor", "to": pid}));
    pair.carry();
    // What is known of it changes: it leaves as it was and joins as it is, at once.
    let update = json!({"op": "update_presence", "topic": "room", "key": "ann"});
    let second = pair.a.ask(ann, update)["ref"].clone();
    pair.carry();
    let bare = json!({"key": "ann", "pid": pid, "ref": second});
    let anew = json!({"key": "ann", "pid": pid, "ref": second, "prev": first});
    assert_eq!(pair.b.events(watcher), [told(json!([anew]), json!([desk]))]);
    // Its death: it leaves once, and before the one who monitors it hears of its end.
    pair.a.close(ann);
    pair.carry();
    let events = pair.b.events(watcher);
    assert_eq!(events[0], told(json!([]), json!([bare])));
    assert_eq!((events.len(), &events[1]["ev"]), (2, &json!("down")));
    // A lost node: they leave before its nodedown.
    let bob = pair.a.open();
    pair.b.ask(watcher, json!({"op": "monitor_nodes"}));
    let third = pair.a.ask(bob, track("room", "bob", &json!(1)))["ref"].clone();
    let bobs = json!({"key": "bob", "pid": pair.a.self_pid(bob), "ref": third, "metadata": 1});
    pair.carry();
    pair.cut();
    let events = pair.b.events(watcher);
    assert_eq!(events[..2], [told(json!([bobs]), json!([])), told(json!([]), json!([bobs]))]);
    assert_eq!((events.len(), &events[2]["ev"]), (3, &json!("nodedown")));
    // And join before its nodeup.
    pair.join();
    let events = pair.b.events(watcher);
    assert_eq!(events[0], told(json!([bobs]), json!([])));
    assert_eq!((events.len(), &events[1]["ev"]), (2, &json!("nodeup")));
    // Pulled, it reads the same; what was not read is taken back.
    pair.b.ask(watcher, json!({"op": "flag", "delivery": "pull"}));
    let untrack = json!({"op": "untrack", "topic": "room"});
    pair.a.ask(bob, untrack);
    pair.carry();
    let messages = pair.b.ask(watcher, json!({"op": "receive"}))["messages"].clone();
    assert_eq!(messages, json!([told(json!([]), json!([bobs]))]));
    pair.a.ask(bob, track("room", "bob", &json!(1)));
    pair.carry();
    pair.b.ask(watcher, json!({"op": "demonitor", "ref": reference, "flush": true}));
    pair.a.close(bob);
    pair.carry();
    assert_eq!(pair.b.ask(watcher, json!({"op": "flush"}))["messages"], json!([]));
    assert_eq!(pair.b.router.presences_kept(), [0; 4]);
}

#[test]
fn presence_belongs_to_a_session_for_as_long_as_its_grace_lasts() {
    let mut node = Paper::new("a");
    let (app, other) = (node.open(), node.open());
    node.ask(app, json!({"op": "hello", "version": 1, "grace_ms": 1000}));
    node.ask(app, track("room", "ann", &json!(1)));
    node.close(app);
    assert_eq!(keys(&list(&mut node, other, "room")), ["ann"]);
    node.pass(Duration::from_millis(1001));
    node.work();
    assert_eq!(list(&mut node, other, "room"), Vec::<Value>::new());
}

#[test]
fn only_ones_own_processes_are_tracked_and_badly_named_things_are_refused() {
    let mut node = Paper::new("a");
    let (app, other) = (node.open(), node.open());
    let theirs = node.self_pid(other);
    assert_eq!(
        node.ask(app, by(track("room", "ann", &json!(1)), &json!(theirs)))["code"],
        "denied"
    );
    let long = "k".repeat(256);
    for (topic, key) in [("room.*", "ann"), ("a room", "ann"), ("room", ""), ("room", &long)] {
        let answer = node.ask(app, track(topic, key, &json!(1)));
        assert_eq!(answer["code"], "badarg", "{topic} {key}: {answer}");
    }
    assert_eq!(node.ask(app, track("room", "an\nn", &json!(1)))["code"], "badarg");
    for op in ["presence", "monitor_presence", "untrack"] {
        assert_eq!(node.ask(app, json!({"op": op, "topic": "room.>"}))["code"], "badarg", "{op}");
    }
    assert_eq!(node.ask(app, json!({"op": "untrack", "key": "ann"}))["code"], "badarg");
    let both = json!({"op": "presence", "topic": "room", "key": "a", "prefix": "a"});
    assert_eq!(node.ask(app, both)["code"], "badarg");
    // However deep it is nested, it is refused or can be shown.
    for depth in [40, 58, 59, 60, 61, 62, 63] {
        let deep = (0..depth).fold(json!(1), |inner, _| json!([inner]));
        let answer = node.ask(app, track("room", &format!("{depth}"), &deep));
        if depth > 40 && answer["ev"] == "error" {
            assert_eq!(answer["code"], "badarg");
            continue;
        }
        assert!(depth < 63, "{answer}");
        let one = json!({"op": "presence", "topic": "room", "key": format!("{depth}")});
        assert_eq!(node.ask(app, one)["presence"][0]["metadata"], deep);
        let watch = json!({"op": "monitor_presence", "topic": "room"});
        node.ask(app, watch);
        let untrack = json!({"op": "untrack", "topic": "room", "key": format!("{depth}")});
        node.ask(app, untrack);
        let events = node.events(app);
        assert_eq!(events.last().expect("it is told")["leaves"][0]["metadata"], deep);
    }
}

#[test]
fn presence_has_bounds_and_says_so_where_they_are_reached() {
    let mut node = Paper::new("a");
    let app = node.open();
    let wide = "x".repeat(4097);
    assert_eq!(node.ask(app, track("room", "ann", &json!(wide)))["code"], "too_large");
    node.ask(app, track("room", "ann", &json!(1)));
    let update = json!({"op": "update_presence", "topic": "room", "key": "ann", "metadata": wide});
    assert_eq!(node.ask(app, update)["code"], "too_large");
    for n in 1..10_000 {
        node.tell(app, &track("room", &format!("{n}"), &Value::Null));
    }
    assert_eq!(node.ask(app, track("room", "more", &json!(1)))["code"], "overloaded");
    // Bytes too: the largest metadata, until 32 MiB are full.
    let fat = "x".repeat(4000);
    let mut refused = Value::Null;
    let mut pid = spawn(&mut node, app);
    for n in 0..9_000 {
        if n % 5_000 == 0 {
            pid = spawn(&mut node, app);
        }
        let answer = node.ask(app, by(track("hall", &format!("{n}"), &json!(fat)), &pid));
        if answer["ev"] != "ok" {
            refused = answer;
            break;
        }
    }
    assert_eq!(refused["code"], "overloaded");
    assert!(refused["message"].as_str().expect("words").contains("bytes"), "{refused}");
    // What is given back can be used again.
    assert_eq!(node.ask(app, by(json!({"op": "untrack", "topic": "hall"}), &pid))["ev"], "ok");
    assert_eq!(node.ask(app, by(track("hall", "again", &json!(fat)), &pid))["ev"], "ok");
    node.close(app);
    assert_eq!(node.router.presences_kept(), [0; 4]);
}

#[test]
fn a_process_takes_no_more_room_than_it_did_before_there_was_presence() {
    assert!(size_of::<crate::router::processes::Process>() <= 392);
}

const MANY: usize = 5_000;

#[test]
fn a_process_with_thousands_of_presences_dies_and_untracks_in_slices() {
    let mut pair = Pair::new();
    let (app, watcher) = (pair.a.open(), pair.b.open());
    pair.b.ask(watcher, json!({"op": "monitor_presence", "topic": "room"}));
    let mut fold = Fold::default();
    for dies in [false, true] {
        let pid = spawn(&mut pair.a, app);
        for n in 0..MANY {
            pair.a.tell(app, &by(track("room", &format!("{n}"), &json!(n)), &pid));
            pair.a.tell(app, &by(track(&format!("room.{n}"), "one", &json!(n)), &pid));
            if n == 4_000 {
                break;
            }
        }
        pair.carry();
        fold.hear(&pair.b.events(watcher));
        assert_eq!(fold.rows.len(), 4_001);
        assert_eq!(fold.rows(), sorted(list(&mut pair.a, app, "room")));
        (pair.a.most, pair.b.most) = ((0, 0), (0, 0));
        let end = if dies {
            json!({"op": "exit", "pid": pid, "reason": "done"})
        } else {
            json!({"op": "untrack", "pid": pid})
        };
        pair.a.ask(app, end);
        in_slices(&pair.a);
        pair.carry();
        fold.hear(&pair.b.events(watcher));
        assert!(fold.rows.is_empty() && fold.whole);
        assert_eq!(pair.a.router.presences_kept(), [0; 4]);
    }
}

#[test]
fn a_node_with_thousands_of_presences_comes_and_goes_in_slices_and_many_are_told_together() {
    let mut pair = Pair::new();
    pair.cut();
    let (app, watcher) = (pair.b.open(), pair.a.open());
    for n in 0..MANY {
        let pid = spawn(&mut pair.b, app);
        pair.b.tell(app, &by(track("room", &format!("{n:05}"), &json!({"n": n})), &pid));
    }
    pair.a.ask(watcher, json!({"op": "monitor_presence", "topic": "room"}));
    pair.a.ask(watcher, json!({"op": "monitor_nodes"}));
    pair.a.most = (0, 0);
    pair.b.most = (0, 0);
    pair.join();
    in_slices(&pair.b);
    let events = pair.a.events(watcher);
    assert_eq!(events.last().expect("some")["ev"], "nodeup");
    let mut fold = Fold::default();
    fold.hear(&events);
    assert_eq!(fold.rows(), sorted(list(&mut pair.b, app, "room")));
    assert_eq!(list(&mut pair.a, watcher, "room").len(), MANY);
    pair.a.most = (0, 0);
    pair.cut();
    in_slices(&pair.a);
    let before = fold.events;
    fold.hear(&pair.a.events(watcher));
    assert!(fold.rows.is_empty());
    assert!(fold.events - before < MANY / 20, "{} events", fold.events - before);
    assert_eq!(pair.a.router.presences_kept()[0], 0);
}

#[test]
fn thousands_watch_one_topic_and_are_told_in_slices_and_in_order() {
    let mut node = Paper::new("a");
    let (app, many) = (node.open(), node.open());
    let watchers: Vec<Value> = (0..MANY).map(|_| spawn(&mut node, many)).collect();
    for pid in &watchers {
        node.tell(many, &json!({"op": "monitor_presence", "topic": "room", "pid": pid}));
    }
    node.work();
    node.most = (0, 0);
    for n in 0..3 {
        node.tell(app, &track("room", &format!("{n}"), &json!(n)));
    }
    node.tell(app, &json!({"op": "untrack", "topic": "room", "key": "1"}));
    node.work();
    in_slices(&node);
    let expected = list(&mut node, app, "room");
    for pid in &watchers {
        let mut fold = Fold::default();
        let flush = json!({"op": "flush", "pid": pid});
        fold.hear(node.ask(many, flush)["messages"].as_array().expect("messages"));
        assert_eq!(fold.rows(), expected);
    }
    node.close(many);
    assert_eq!(node.router.presences_kept()[2..], [0, 0]);
}

#[test]
fn changes_that_keep_coming_keep_nothing_else_waiting() {
    let mut node = Paper::new("a");
    let (app, many, asker) = (node.open(), node.open(), node.open());
    for _ in 0..1_500 {
        let pid = spawn(&mut node, many);
        node.tell(many, &json!({"op": "monitor_presence", "topic": "room", "pid": pid}));
    }
    let dies = spawn(&mut node, app);
    node.ask(app, by(track("room", "dies", &json!(1)), &dies));
    node.ask(app, track("room", "stays", &json!(1)));
    node.ask(asker, json!({"op": "monitor", "to": dies}));
    let _ = node.events(asker);
    let update = json!({"op": "update_presence", "topic": "room", "key": "stays"});
    node.tell(app, &update);
    let asks = json!({"op": "presence", "topic": "room", "id": "list"});
    let exits = json!({"op": "exit", "pid": dies, "reason": "done"});
    for (by, command) in [(asker, asks), (app, exits)] {
        node.tell(by, &command);
        let before = node.out.session_len(asker);
        let mut holds = 0;
        // Each change takes three holds to be told, so there are always more: what was there before is told, and no more.
        while node.out.session_len(asker) == before {
            node.tell(app, &update);
            holds += 1;
            assert!(holds < 500, "{command} waits for those who keep coming");
        }
    }
    let events = node.events(asker);
    assert_eq!((&events[0]["id"], &events[1]["ev"]), (&json!("list"), &json!("down")));
    assert_eq!(node.router.presences_kept()[3], 0);
}

#[test]
fn whoever_causes_more_changes_than_watchers_are_told_is_not_read_until_they_have_been() {
    let mut pair = Pair::new();
    let (app, many) = (pair.a.open(), pair.a.open());
    let far = pair.b.open();
    for _ in 0..4_000 {
        let pid = spawn(&mut pair.a, many);
        pair.a.tell(many, &json!({"op": "monitor_presence", "topic": "room", "pid": pid}));
    }
    pair.a.work();
    let fat = json!("x".repeat(4000));
    let mut told = 0;
    while pair.a.router.may_read(app, &pair.a.out) {
        pair.a.tell(app, &track("room", &format!("{told}"), &fat));
        told += 1;
        assert!(told < 200, "it is read for ever");
    }
    pair.a.work();
    assert!(pair.a.router.may_read(app, &pair.a.out));
    // A peer is not read either.
    for n in 0..100 {
        pair.b.tell(far, &track("room", &format!("far{n}"), &fat));
    }
    let connection = pair.connection();
    let mut waited = false;
    let mut bytes = Vec::new();
    pair.b.hold(|_, _, out| out.take_peer(connection, &mut bytes));
    let mut rest = bytes.as_slice();
    while let Some((frame, used)) = Frame::cut(rest, 1 << 20).expect("good frames") {
        if pair.a.router.is_waiting(connection) {
            waited = true;
            pair.a.work();
        }
        pair.a
            .hold(|router, now, out| router.on_message(now, connection, frame, out))
            .expect("a good frame");
        rest = &rest[used..];
    }
    assert!(waited);
    pair.a.work();
    assert!(!pair.a.router.is_waiting(connection));
    assert_eq!(pair.a.router.presences_kept()[3], 0);
}

#[test]
fn a_watcher_that_does_not_read_is_told_what_there_is_as_it_reads_and_nothing_is_missing() {
    let mut node = Paper::new("a");
    let (app, watcher) = (node.open(), node.open());
    let fat = "x".repeat(2000);
    for n in 0..3_000 {
        node.tell(app, &track("room", &format!("{n:04}"), &json!(fat)));
    }
    node.ask(watcher, json!({"op": "flag", "delivery": "pull"}));
    node.ask(watcher, json!({"op": "monitor_presence", "topic": "room"}));
    assert!(node.router.queued(&node.out) < 1024 * 1024, "6 MB are there to be told");
    // Before and behind the place that it has been told up to, something changes.
    node.ask(app, json!({"op": "untrack", "topic": "room", "key": "0000"}));
    node.ask(app, json!({"op": "untrack", "topic": "room", "key": "2999"}));
    node.ask(app, track("room", "0000.", &json!(1)));
    node.ask(app, track("room", "9", &json!(1)));
    let update = json!({"op": "update_presence", "topic": "room", "key": "0001", "metadata": 1});
    node.ask(app, update);
    let mut fold = Fold::default();
    while !fold.whole {
        let messages = node.ask(watcher, json!({"op": "receive", "max": 10}))["messages"].clone();
        let messages = messages.as_array().expect("messages");
        assert!(!messages.is_empty(), "there is more to be told");
        fold.hear(messages);
    }
    fold.hear(node.ask(watcher, json!({"op": "flush"}))["messages"].as_array().expect("messages"));
    assert_eq!(fold.rows(), sorted(list(&mut node, app, "room")));
    assert_eq!(node.router.presences_kept()[3], 0);
}

#[test]
fn a_slow_peer_costs_no_more_memory_than_its_lane_and_knows_the_latest_of_all_in_the_end() {
    let mut pair = Pair::new();
    let app = pair.a.open();
    let connection = pair.connection();
    let fat = "x".repeat(3000);
    let write = |pair: &mut Pair, key: usize, n: usize| {
        let key = format!("{key}");
        let mut update = track("room", &key, &json!([n, fat]));
        if pair.a.ask(app, update.clone())["ev"] == "error" {
            update["op"] = json!("update_presence");
            pair.a.ask(app, update);
        }
    };
    for key in 0..100 {
        write(&mut pair, key, 0);
    }
    pair.carry();
    let limit = Limits::default().peer_bytes;
    for n in 1..1_000 {
        write(&mut pair, n % 150, n);
        if n % 3 == 0 {
            pair.a
                .ask(app, json!({"op": "untrack", "topic": "room", "key": format!("{}", n % 97)}));
        }
        // Came and gone again, it has never been there.
        write(&mut pair, 1_000 + n, n);
        pair.a.ask(app, json!({"op": "untrack", "topic": "room", "key": format!("{}", 1_000 + n)}));
        assert!(pair.a.out.peer_len(connection) < limit + 8 * 1024, "{n}");
        assert!(pair.a.router.missed(connection) <= 150 + 97, "{n}");
    }
    assert!(pair.a.router.missed(connection) > 0);
    pair.carry();
    assert_eq!(pair.a.router.missed(connection), 0);
    let far = pair.b.open();
    assert_eq!(list(&mut pair.b, far, "room"), list(&mut pair.a, app, "room"));
    // A new peer hears of it no faster than it reads, and of all of it.
    pair.cut();
    for key in 2_000..3_000 {
        write(&mut pair, key, 0);
    }
    pair.join_without_work();
    pair.a.work();
    assert!(pair.a.out.peer_len(pair.connection()) < limit + 8 * 1024);
    pair.b.work();
    pair.carry();
    assert_eq!(list(&mut pair.b, far, "room"), list(&mut pair.a, app, "room"));
}

#[test]
fn what_a_peer_says_badly_of_presence_closes_its_connection_and_what_is_older_changes_nothing() {
    let mut pair = Pair::new();
    let far = pair.b.open();
    let mut hear = |key: &[u8], value: &[u8]| {
        let mut frame = Vec::new();
        let at = message::start(&mut frame, Kind::State, 0, 0);
        frame.push(8);
        frame.extend_from_slice(&u16::try_from(key.len()).expect("short").to_be_bytes());
        frame.extend_from_slice(key);
        frame.extend_from_slice(value);
        message::finish(&mut frame, at);
        let (frame, _) = Frame::cut(&frame, 70_000).expect("a good frame").expect("whole");
        pair.hears(frame).is_ok()
    };
    let version = |n: u8, metadata: &[u8]| [&[0, 0, 0, 0, 0, 0, 0, n], metadata].concat();
    assert!(!hear(b"", &version(1, b"")));
    assert!(!hear(b"\0\0\0\0\0\0\0\x64\x09room", &version(1, b"")));
    assert!(!hear(b"\0\0\0\0\0\0\0\x64\x06room.*ann", &version(1, b"")));
    assert!(!hear(b"\0\0\0\0\0\0\0\x64\x04room", &version(1, b"")));
    assert!(!hear(b"\0\0\0\0\0\0\0\x64\x04roomann", b"\0"));
    assert!(!hear(b"\0\0\0\0\0\0\0\x64\x04roomann", &version(1, b"\x01\x02")));
    assert!(!hear(b"\0\0\0\0\0\0\0\x64\x04roomann", &version(1, &[0x81; 70])));
    assert!(!hear(
        b"\0\0\0\0\0\0\0\x64\x04roomann",
        &version(1, &[b"\x59\x20\x00", &[0; 8192][..]].concat())
    ));
    assert!(hear(b"\0\0\0\0\0\0\0\x64\x04roomann", &version(7, b"\x07")));
    assert!(hear(b"\0\0\0\0\0\0\0\x64\x04roomann", &version(6, b"\x06")));
    assert_eq!(list(&mut pair.b, far, "room")[0]["metadata"], 7);
}
