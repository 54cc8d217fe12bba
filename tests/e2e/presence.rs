//! Presence between real daemons: who is there, who hears of it, and that neither a killed app nor a killed node stays.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use crate::support::{App, DIALECTS, Daemon, Place, Value, eventually, json};

fn track(app: &mut App, topic: &str, key: &str, metadata: Value) -> Value {
    app.ok(json!({"op": "track", "topic": topic, "key": key, "metadata": metadata}))["ref"].clone()
}

/// Who is there as far as one watcher was told: key and pid, and what is known.
#[derive(Default)]
struct Fold(BTreeMap<(String, String), Value>);

impl Fold {
    /// Hears events until it is so; each says truly what there was.
    fn until(&mut self, app: &mut App, good: impl Fn(&[&str]) -> bool) {
        while !good(&self.0.keys().map(|(key, _)| key.as_str()).collect::<Vec<_>>()) {
            let event = app.event_of("presence");
            let place = |row: &Value| {
                let text = |key: &str| row[key].as_str().expect("a text").to_owned();
                (text("key"), text("pid"))
            };
            for row in event["leaves"].as_array().expect("leaves") {
                let known = self.0.remove(&place(row));
                assert_eq!(known.as_ref(), Some(&row["metadata"]), "it leaves as it was: {event}");
            }
            for row in event["joins"].as_array().expect("joins") {
                let known = self.0.insert(place(row), row["metadata"].clone());
                assert_eq!(known, None, "it was not there: {event}");
            }
        }
    }
}

fn keys(app: &mut App, topic: &str) -> Vec<String> {
    let answer = app.ok(json!({"op": "presence", "topic": topic}));
    let rows = answer["presence"].as_array().expect("a list").iter();
    rows.map(|row| row["key"].as_str().expect("a key").to_owned()).collect()
}

/// `pillion presence track`, an app of its own.
fn tracked(node: &Daemon, topic: &str, key: &str, metadata: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    command.args(["presence", "track", topic, key, metadata]).env("PILLION_SOCKET", &node.socket);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it runs");
    let mut words = String::new();
    let mut said = BufReader::new(child.stderr.take().expect("piped"));
    said.read_line(&mut words).expect("it says so");
    assert!(words.contains("present as"), "{words}");
    child
}

#[test]
fn apps_of_every_dialect_see_who_is_present_on_every_node_and_hear_of_those_who_are_killed() {
    let place = Place::new();
    let [a, b, mut c] = ["a", "b", "c"].map(|base| place.start(base, &[]));
    a.json().meets(&[&b, &c]);
    b.json().meets(&[&a, &c]);
    c.json().meets(&[&a, &b]);
    let mut watchers: Vec<(App, Fold)> = [&a, &b]
        .iter()
        .flat_map(|node| DIALECTS.map(|dialect| (node.app(dialect), Fold::default())))
        .collect();
    for (app, _) in &mut watchers {
        app.ok(json!({"op": "monitor_presence", "topic": "room"}));
    }
    // Two tabs of one user on two nodes, and one of another.
    let (mut desk, mut door) = (a.cbor(), b.json());
    let first = track(&mut desk, "room", "ann", json!({"at": "desk", "bytes": {"$bytes": "AAH/"}}));
    track(&mut door, "room", "ann", json!({"at": "door"}));
    let mut killed = tracked(&c, "room", "bob", "[1, 2.5]");
    assert_eq!(desk.code(json!({"op": "track", "topic": "room", "key": "ann"})), "taken");
    for (app, fold) in &mut watchers {
        fold.until(app, |keys| keys == ["ann", "ann", "bob"]);
        let known = |pid: &str| fold.0[&("ann".to_owned(), pid.to_owned())].clone();
        assert_eq!(known(&desk.pid)["bytes"], json!({"$bytes": "AAH/"}));
        assert_eq!(keys(app, "room"), ["ann", "ann", "bob"]);
    }
    let update =
        json!({"op": "update_presence", "topic": "room", "key": "ann", "metadata": "left"});
    let second = desk.ok(update)["ref"].clone();
    assert!(second.as_u64() > first.as_u64());
    for (app, fold) in &mut watchers {
        loop {
            if fold.0.get(&("ann".to_owned(), desk.pid.clone())) == Some(&json!("left")) {
                break;
            }
            let event = app.event_of("presence");
            assert_eq!(event["leaves"][0]["ref"], first);
            let join = &event["joins"][0];
            assert_eq!((&join["ref"], &join["prev"]), (&second, &first));
            fold.0.insert(("ann".to_owned(), desk.pid.clone()), join["metadata"].clone());
        }
    }
    // kill -9 of an app: it is seen to leave on every node, once.
    killed.kill().expect("it is ours");
    killed.wait().expect("it ends");
    for (app, fold) in &mut watchers {
        fold.until(app, |keys| keys == ["ann", "ann"]);
    }
    // kill -9 of a node: all of its processes leave.
    let mut others: Vec<App> = (0..3).map(|_| c.json()).collect();
    for (n, app) in others.iter_mut().enumerate() {
        track(app, "room", &format!("c{n}"), json!(n));
    }
    for (app, fold) in &mut watchers {
        fold.until(app, |keys| keys == ["ann", "ann", "c0", "c1", "c2"]);
    }
    c.kill();
    for (app, fold) in &mut watchers {
        fold.until(app, |keys| keys == ["ann", "ann"]);
        assert_eq!(keys(app, "room"), ["ann", "ann"]);
    }
    // It comes again under its name, with nothing of its earlier run.
    let c = c.again(&[]);
    let mut again = c.json();
    again.meets(&[&a, &b]);
    assert_eq!(keys(&mut again, "room"), ["ann", "ann"]);
    track(&mut again, "room", "c9", json!(9));
    for (app, fold) in &mut watchers {
        fold.until(app, |keys| keys == ["ann", "ann", "c9"]);
    }
    drop((desk, door, again));
    for (app, fold) in &mut watchers {
        fold.until(app, |keys| keys.is_empty());
        app.nothing();
    }
}

#[test]
fn thousands_of_presences_reach_a_node_that_joins_and_are_gone_with_the_app_that_had_them() {
    let place = Place::new();
    let a = place.start("a", &[]);
    let mut app = a.cbor();
    for n in 0..5_000 {
        app.tell(json!({
            "op": "track", "topic": "room", "key": format!("user{n:04}"), "metadata": {"n": n, "nick": "x".repeat(100)},
        }));
    }
    assert_eq!(keys(&mut app, "room").len(), 5_000);
    let b = place.start("b", &[]);
    let mut other = b.json();
    other.ok(json!({"op": "monitor_presence", "topic": "room"}));
    other.meets(&[&a]);
    let list = keys(&mut other, "room");
    assert_eq!((list.len(), list[4_999].as_str()), (5_000, "user4999"));
    let mut late = b.cbor();
    late.ok(json!({"op": "monitor_presence", "topic": "room"}));
    let mut fold = Fold::default();
    fold.until(&mut late, |keys| keys.len() == 5_000);
    drop(app);
    fold.until(&mut late, |keys| keys.is_empty());
    eventually("nobody is listed", || keys(&mut other, "room").is_empty());
}
