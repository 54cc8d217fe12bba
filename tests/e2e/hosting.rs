//! Programs as processes: started, supervised, ended, spawned from afar; real programs under real daemons.

use std::fs;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::support::{App, Daemon, Place, Value, eventually, json};

const BOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/bot.py");

/// Where Python is, if it is anywhere: the daemons of these tests have no `PATH`.
fn python() -> Option<String> {
    let output = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
    let path = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    if path.is_none() {
        eprintln!("SKIPPED: there is no python3 here");
    }
    path.map(|path| String::from_utf8(path).unwrap().trim().to_owned())
}

/// A node whose file says what it hosts.
fn hosting(place: &Place, base: &str, file: &str) -> Daemon {
    let path = place.path().join(format!("{base}.toml"));
    fs::write(&path, file).unwrap();
    place.start(base, &["--config", path.to_str().unwrap()])
}

/// `[[process]]` that runs a shell script.
fn script(name: &str, script: &str, more: &str) -> String {
    format!(
        "[[process]]\nname = {name:?}\ncommand = \"/bin/sh\"\nargs = [\"-c\", {script:?}]\n{more}\n"
    )
}

fn tree(app: &mut App) -> Value {
    app.ok(json!({"op": "tree"}))["tree"].take()
}

/// What `tree` says of a child, by its name.
fn child(app: &mut App, name: &str) -> Value {
    let tree = tree(app);
    let children = tree.as_array().unwrap().iter().flat_map(|one| one["children"].as_array());
    let found = children.flatten().find(|child| child["name"] == name);
    found.cloned().unwrap_or_default()
}

/// What `tree` says of a supervisor or a factory.
fn supervisor(app: &mut App, name: &str) -> Value {
    let tree = tree(app);
    tree.as_array().unwrap().iter().find(|one| one["name"] == name).cloned().unwrap_or_default()
}

/// Waits for a child to run, and to be another run than `before`.
fn running(app: &mut App, name: &str, before: &Value) -> Value {
    let mut found = Value::Null;
    eventually(&format!("{name} runs"), || {
        found = child(app, name);
        found["state"] == "running" && found["pid"] != before["pid"]
    });
    found
}

fn os_pid(child: &Value) -> Pid {
    Pid::from_raw(i32::try_from(child["os_pid"].as_i64().unwrap()).unwrap()).unwrap()
}

fn is_gone(pid: Pid) -> bool {
    test_kill_process(pid).is_err()
}

/// The lines of the file that the scripts write, in order.
fn lines(place: &Place, file: &str) -> Vec<String> {
    let text = fs::read_to_string(place.path().join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn call(app: &mut App, to: &str, body: Value) -> Value {
    app.ok(json!({"op": "call", "to": to, "body": body, "timeout_ms": 60_000}))["body"].take()
}

/// Waits for a program to be its process: it answers calls.
fn is_up(app: &mut App, name: &str) -> Value {
    running(app, name, &Value::Null);
    call(app, name, json!(["get", "seed"]))
}

#[test]
fn b13_a_supervised_store_that_crashes_comes_again_with_its_first_state_and_its_name() {
    let Some(python) = python() else { return };
    let place = Place::new();
    let file = format!("[[process]]\nname = \"store\"\ncommand = {python:?}\nargs = [{BOT:?}]\n");
    let (a, b) = (hosting(&place, "a", &file), place.start("b", &[]));
    let (mut here, mut there) = (a.json(), b.json());
    there.meets(&[&a]);
    assert_eq!(is_up(&mut here, "store"), "from init");
    call(&mut there, "store@a@t", json!(["set", "foo", "bar"]));
    assert_eq!(call(&mut here, "store", json!(["get", "foo"])), "bar");
    let before = child(&mut here, "store");

    there.ok(json!({"op": "monitor", "to": "store@a@t"}));
    there.tell(json!({"op": "cast", "to": "store@a@t", "body": null}));
    let crash = json!({"op": "call", "to": "store@a@t", "body": ["exit", 3]});
    let crashed = there.ask(crash);
    assert_eq!((&crashed["code"], &crashed["reason"]), (&json!("exit"), &json!("exit_status 3")));
    let down = there.event_of("down");
    assert_eq!((&down["reason"], &down["pid"]), (&json!("exit_status 3"), &before["pid"]));

    let after = running(&mut here, "store", &before);
    assert_ne!(after["pid"], before["pid"]);
    assert_eq!(after["restarts"], 1);
    assert_eq!(after["last"], "exit_status 3");
    assert_eq!(here.ok(json!({"op": "whereis", "name": "store"}))["pid"], after["pid"]);
    assert_eq!(call(&mut there, "store@a@t", json!(["get", "foo"])), Value::Null);
    assert_eq!(call(&mut there, "store@a@t", json!(["get", "seed"])), "from init");
}

#[test]
fn the_kill_of_a_program_is_a_down_at_another_node_with_the_signal_as_its_reason() {
    let place = Place::new();
    let a = hosting(&place, "a", &script("app", "exec sleep 1000", "restart = \"temporary\""));
    let b = place.start("b", &[]);
    let (mut here, mut there) = (a.json(), b.json());
    there.meets(&[&a]);
    let app = running(&mut here, "app", &Value::Null);
    let reference = there.ok(json!({"op": "monitor", "to": "app@a@t"}))["ref"].clone();
    // The monitor has arrived once its node has answered.
    there.ok(json!({"op": "whereis", "name": "app", "node": "a@t"}));
    kill_process(os_pid(&app), Signal::KILL).unwrap();
    let down = there.event();
    assert_eq!((&down["ev"], &down["ref"]), (&json!("down"), &reference));
    assert_eq!((&down["reason"], &down["pid"]), (&json!("signal 9"), &app["pid"]));
}

#[test]
fn what_a_program_said_last_comes_before_its_end() {
    let Some(python) = python() else { return };
    let place = Place::new();
    let file = format!(
        "[[process]]\nname = \"bot\"\ncommand = {python:?}\nargs = [{BOT:?}]\nrestart = \"transient\"\n"
    );
    let a = hosting(&place, "a", &file);
    let mut app = a.json();
    is_up(&mut app, "bot");
    app.ok(json!({"op": "monitor", "to": "bot"}));
    let own = app.pid.clone();
    let say = json!({"op": "call", "to": "bot", "body": ["say", own, "last words", 0]});
    let call = app.begin(say);
    assert_eq!(app.event()["body"], "last words");
    assert_eq!(app.answer(call)["reason"], "normal");
    let down = app.event();
    assert_eq!((&down["ev"], &down["reason"]), (&json!("down"), &json!("normal")));
    // A transient one has done what it was for.
    let bot = child(&mut app, "bot");
    assert_eq!((&bot["state"], &bot["last"]), (&json!("stopped"), &json!("normal")));
}
