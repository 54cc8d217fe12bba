//! How a node leaves, and that nothing is lost by it: drains, stops, rolling restarts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use rustix::process::Signal;

use crate::http_client::Http;
use crate::support::{App, DIALECTS, Daemon, Dialect, Place, Value, eventually, json};

/// `pillion` with these arguments, and nothing of ours in its environment but what is given.
fn pillion(place: &Place, arguments: &[&str], environment: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    command
        .env_clear()
        .env("PILLION_DIR", place.path().join("p"))
        .envs(environment.iter().copied());
    command.args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// How often each call was executed, by its number.
type Executed = Arc<Mutex<BTreeMap<u64, u64>>>;

/// An app that serves a module, is in a group, and has a global name or waits until it is free. It leaves when its node
/// does: takes nothing more, answers what it has, and goes.
fn serve(socket: PathBuf, executed: Executed) {
    let mut app = App::connect(&socket, Dialect::Cbor);
    app.ok(json!({"op": "serve", "module": "shop"}));
    app.ok(json!({"op": "join", "group": "tills"}));
    claim(&mut app);
    let answer = |app: &mut App, call: &Value| {
        *executed.lock().unwrap().entry(call["body"].as_u64().unwrap()).or_default() += 1;
        app.reply(call, call["body"].clone());
    };
    loop {
        let event = app.event();
        match event["ev"].as_str().unwrap() {
            "call" | "rpc" => answer(&mut app, &event),
            "down" | "name_conflict" => claim(&mut app),
            "draining" => break,
            other => panic!("{other}: {event}"),
        }
    }
    app.ok(json!({"op": "flag", "delivery": "pull"}));
    for event in app.pending() {
        if matches!(event["ev"].as_str(), Some("call" | "rpc")) {
            answer(&mut app, &event);
        }
    }
    app.ok(json!({"op": "bye"}));
}

/// Takes the global name, or watches whoever has it.
fn claim(app: &mut App) {
    loop {
        let register = json!({"op": "register", "name": "leader", "scope": "global"});
        let answer = app.ask(register);
        if answer["ev"] == "ok" || answer["code"] == "draining" {
            return;
        }
        let holder = app.ok(json!({"op": "whereis", "name": "leader", "scope": "global"}));
        if let Some(pid) = holder["pid"].as_str() {
            if pid != app.pid {
                app.ok(json!({"op": "monitor", "to": pid}));
            }
            return;
        }
    }
}

/// Calls one after the other until it is told to stop: how many were answered, and those that were not.
fn call(
    socket: &Path,
    command: Value,
    numbers: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> (Arc<AtomicU64>, JoinHandle<Vec<Value>>) {
    let answered = Arc::new(AtomicU64::new(0));
    let (count, socket) = (Arc::clone(&answered), socket.to_owned());
    let calling = thread::spawn(move || {
        let mut app = App::connect(&socket, Dialect::Cbor);
        let mut failed = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let number = numbers.fetch_add(1, Ordering::Relaxed);
            let mut command = command.clone();
            command["body"] = number.into();
            command["timeout_ms"] = 60_000.into();
            let answer = app.ask(command);
            if answer["ev"] != "ok" || answer["body"] != number {
                failed.push(answer);
            }
            count.fetch_add(1, Ordering::Relaxed);
        }
        failed
    });
    (answered, calling)
}

#[test]
fn a_rolling_restart_under_load_loses_no_call_and_executes_each_once() {
    const NODES: usize = 4;
    let place = Place::new();
    let base = |number: usize| format!("n{number}");
    let args = ["--grace", "60s"];
    let executed = Executed::default();
    let serving = |daemon: &Daemon| {
        let (socket, executed) = (daemon.socket.clone(), Arc::clone(&executed));
        thread::spawn(move || serve(socket, executed))
    };
    let caller = place.start("caller", &[]);
    let mut nodes: Vec<(Daemon, JoinHandle<()>)> = (0..NODES)
        .map(|number| {
            let daemon = place.start(&base(number), &args);
            let server = serving(&daemon);
            (daemon, server)
        })
        .collect();
    let mut watcher = caller.json();
    let served = |watcher: &mut App| {
        let modules = watcher.ok(json!({"op": "modules"}));
        modules["modules"][0]["served"].as_array().map_or(0, Vec::len)
    };
    let members = |watcher: &mut App| {
        watcher.ok(json!({"op": "members", "group": "tills"}))["members"].as_array().unwrap().len()
    };
    let whole = |watcher: &mut App| served(watcher) == NODES && members(watcher) == NODES;
    eventually("all serve", || whole(&mut watcher));

    let (numbers, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let ways = [
        json!({"op": "rpc", "node": "any", "module": "shop", "function": "sell"}),
        json!({"op": "call", "to": "group:tills"}),
        json!({"op": "call", "to": "global:leader"}),
    ];
    // Callers beside no server, and one beside a server that is restarted last.
    let callers: Vec<_> = ways
        .iter()
        .map(|way| call(&caller.socket, way.clone(), Arc::clone(&numbers), Arc::clone(&stop)))
        .collect();
    let go_on = || {
        let before: Vec<u64> = callers.iter().map(|(n, _)| n.load(Ordering::Relaxed)).collect();
        eventually("all callers go on", || {
            let now = callers.iter().map(|(n, _)| n.load(Ordering::Relaxed));
            now.zip(&before).all(|(now, before)| now >= before + 20)
        });
    };
    go_on();
    for number in 0..NODES {
        let (mut daemon, server) = nodes.remove(0);
        // Some are drained first, as by a hook before the stop; of the others SIGTERM is the first that they hear.
        if number % 2 == 0 {
            let drain = ["drain", "--wait", "60s", "--socket", daemon.socket.to_str().unwrap()];
            let drained = pillion(&place, &drain, &[]);
            assert_eq!(
                said(&drained),
                format!("{} drains; nothing is left to wait for", daemon.node)
            );
            assert!(drained.status.success());
            go_on();
        }
        daemon.signal(Signal::TERM);
        assert!(daemon.ended().success(), "{}", daemon.logged());
        server.join().unwrap();
        go_on();
        let daemon = place.start(&base(number), &args);
        let server = serving(&daemon);
        nodes.push((daemon, server));
        eventually("all serve again", || whole(&mut watcher));
        go_on();
    }
    stop.store(true, Ordering::Relaxed);
    for (_, calling) in callers {
        assert_eq!(calling.join().unwrap(), Vec::<Value>::new());
    }
    let executed = executed.lock().unwrap();
    assert_eq!(executed.len() as u64, numbers.load(Ordering::Relaxed));
    assert!(executed.values().all(|times| *times == 1), "{executed:?}");
}

#[test]
fn a_drained_node_waits_for_its_apps_and_leaves_at_once_when_they_have_gone() {
    let place = Place::new();
    let (a, mut b) =
        (place.start("a", &["--profile", "wan"]), place.start("b", &["--grace", "1h"]));
    let mut there = a.json();
    there.meets(&[&b]);
    let (mut app, mut operator) = (b.json(), b.cbor());
    app.ok(json!({"op": "register", "name": "stock"}));
    let call = there.begin(json!({"op": "call", "to": "stock@b", "timeout_ms": 60_000, "body": 1}));
    let asked = app.event();
    let left = operator.ok(json!({"op": "drain"}));
    assert_eq!((&left["sessions"], &left["calls"]), (&json!(1), &json!(1)), "{left}");
    assert_eq!(app.event()["ev"], "draining");
    let waiting = operator.begin(json!({"op": "drain", "wait_ms": 3_600_000}));
    // The other node knows of it, and is connected all the same.
    eventually("b drains", || {
        there.ok(json!({"op": "nodes", "state": "connected"}))["nodes"][0]["draining"] == true
    });
    assert_eq!(operator.ok(json!({"op": "ready"}))["reason"], "draining");
    for dialect in DIALECTS {
        assert_eq!(b.app(dialect).event()["ev"], "draining", "who comes late hears it at once");
    }
    app.reply(&asked, json!(2));
    assert_eq!(there.answer(call)["body"], 2);
    app.ok(json!({"op": "bye"}));
    assert_eq!(operator.answer(waiting)["sessions"], 0);
    drop(operator);
    // Its grace is an hour, and there is nobody to wait for.
    there.ok(json!({"op": "monitor_nodes", "on": true}));
    b.signal(Signal::TERM);
    assert!(b.ended().success());
    let down = there.event();
    assert_eq!((&down["ev"], &down["reason"]), (&json!("nodedown"), &json!("shutdown")));
}

#[test]
fn drain_finds_the_operators_socket_and_ends_well_though_apps_are_left() {
    let place = Place::new();
    let operator = place.path().join("private.sock");
    let wide = ["--socket-mode", "0666", "--strategy", "none"];
    let own = [&wide[..], &["--operator-socket", operator.to_str().unwrap()]].concat();
    let (a, b) = (place.start("a", &wide), place.start("b", &own));
    let _apps = [a.json(), b.json()];
    // One is found beside its app socket, the other one where the environment says.
    let socket = a.socket.to_str().unwrap();
    let drained = pillion(&place, &["drain", "--wait", "50ms", "--socket", socket], &[]);
    assert_eq!(said(&drained), "a@t drains; left: 1 app is connected, 0 calls are under way");
    assert!(drained.status.success(), "a hook before a stop does not fail by what is left");
    assert!(!b.socket.with_extension("operator.sock").exists());
    let there = [("PILLION_OPERATOR_SOCKET", operator.as_path())];
    let ready = pillion(&place, &["ready", "--wait", "60s"], &there);
    assert_eq!((said(&ready).as_str(), ready.status.code()), ("b@t is ready", Some(0)));
    let drained = pillion(&place, &["drain", "--json"], &there);
    let left: Value = serde_json::from_str(&said(&drained)).unwrap();
    assert_eq!((&left["sessions"], &left["calls"]), (&json!(1), &json!(0)));
    let ready = pillion(&place, &["ready"], &there);
    assert_eq!(said(&ready), "b@t is not ready: it is draining: it is about to leave");
    assert_eq!(ready.status.code(), Some(1));
    // On the app socket nobody may.
    assert_eq!(b.json().code(json!({"op": "drain"})), "denied");
    // HTTP says the same.
    let mut http = Http::of(&a);
    http.begin("GET", "/v1/ready");
    assert_eq!(http.reply().json()["reason"], "draining");
}

#[test]
fn ready_waits_for_the_socket_and_for_the_peers_and_says_what_is_missing() {
    let place = Place::new();
    let ready = pillion(&place, &["ready"], &[]);
    assert_eq!(ready.status.code(), Some(1));
    assert!(said(&ready).starts_with("not ready: no pillion runs here"), "{}", said(&ready));
    let socket = place.path().join("p/default/a.sock");
    let path = socket.to_str().unwrap().to_owned();
    let waiting = {
        let place = place.path().to_owned();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
        command.env_clear().env("PILLION_DIR", place.join("p"));
        command.args(["ready", "--wait", "60s", "--socket", &path]);
        thread::spawn(move || command.output().unwrap())
    };
    let a = place.start("a", &["--min-peers", "1"]);
    let arguments = ["ready", "--json", "--wait", "10ms", "--socket", &path];
    let not: Value = serde_json::from_str(&said(&pillion(&place, &arguments, &[]))).unwrap();
    assert_eq!(not["ready"], false);
    assert!(["looking", "few_peers"].contains(&not["reason"].as_str().unwrap()), "{not}");
    let _b = place.start("b", &[]);
    let ready = waiting.join().unwrap();
    assert_eq!((said(&ready).as_str(), ready.status.code()), ("a@t is ready", Some(0)));
    let own = a.json().ok(json!({"op": "nodes", "state": "self"}));
    assert_eq!(own["nodes"][0]["ready"], true);
}

#[test]
fn a_strategy_that_says_nothing_delays_readiness_by_no_more_than_two_seconds() {
    let place = Place::new();
    // A program that never prints a line.
    let silent = "exec:///bin/sh?arg=-c&arg=sleep%20600";
    let a = place.start("a", &["--strategy", silent]);
    let mut app = a.json();
    assert_eq!(app.ok(json!({"op": "ready"}))["reason"], "looking");
    assert_eq!(app.ok(json!({"op": "ready", "wait_ms": 60_000}))["ready"], true);
}

#[test]
fn a_serving_command_finishes_its_jobs_and_leaves_with_its_node() {
    let place = Place::new();
    let (mut a, b) = (place.start("a", &["--grace", "60s"]), place.start("b", &[]));
    let mut caller = b.json();
    caller.meets(&[&a]);
    let fifo = place.path().join("go");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.args(["serve", "slow.f", "--jobs", "1", "--socket", a.socket.to_str().unwrap(), "--"]);
    let begun = place.path().join("begun");
    let job = "touch \"$1\"; exec cat \"$0\"";
    command.args(["sh", "-c", job, fifo.to_str().unwrap(), begun.to_str().unwrap()]);
    let serving = command.spawn().unwrap();
    eventually("it serves", || {
        !caller.ok(json!({"op": "modules"}))["modules"].as_array().unwrap().is_empty()
    });
    let ask =
        json!({"op": "rpc", "node": "a", "module": "slow", "function": "f", "timeout_ms": 60_000});
    let first = caller.begin(ask.clone());
    eventually("the job runs", || begun.exists());
    let mut operator = a.json();
    assert_eq!(operator.ok(json!({"op": "drain"}))["calls"], 1);
    a.signal(Signal::TERM);
    std::fs::write(&fifo, "\"done\"").unwrap();
    assert_eq!(caller.answer(first)["body"], "done");
    let ended = serving.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(75));
    drop(operator);
    assert!(a.ended().success());
    let late = caller.ask(ask);
    assert_eq!((&late["ev"], &late["maybe_applied"]), (&json!("error"), &json!(false)));
}
