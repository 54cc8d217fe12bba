//! Programs as processes: started, supervised, ended, spawned from afar; real programs under real daemons.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::support::{App, Daemon, Place, Value, eventually, json};

pub(super) const BOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/bot.py");

/// Where Python is, if it is anywhere: the daemons of these tests have no `PATH`.
pub(super) fn python() -> Option<String> {
    let output = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
    let path = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    if path.is_none() {
        eprintln!("SKIPPED: there is no python3 here");
    }
    path.map(|path| String::from_utf8(path).unwrap().trim().to_owned())
}

/// A node whose file says what it hosts.
pub(super) fn hosting(place: &Place, base: &str, file: &str) -> Daemon {
    let path = place.path().join(format!("{base}.toml"));
    fs::write(&path, file).unwrap();
    place.start(base, &["--config", path.to_str().unwrap()])
}

/// `[[process]]` that runs a shell script.
pub(super) fn script(name: &str, script: &str, more: &str) -> String {
    format!(
        "[[process]]\nname = {name:?}\ncommand = \"/bin/sh\"\nargs = [\"-c\", {script:?}]\n{more}\n"
    )
}

fn tree(app: &mut App) -> Value {
    app.ok(json!({"op": "tree"}))["tree"].take()
}

/// What `tree` says of a child, by its name.
pub(super) fn child(app: &mut App, name: &str) -> Value {
    let tree = tree(app);
    let children = tree.as_array().unwrap().iter().filter_map(|one| one["children"].as_array());
    let found = children.flatten().find(|child| child["name"] == name);
    found.cloned().unwrap_or_default()
}

/// What `tree` says of a supervisor or a factory.
pub(super) fn supervisor(app: &mut App, name: &str) -> Value {
    let tree = tree(app);
    tree.as_array().unwrap().iter().find(|one| one["name"] == name).cloned().unwrap_or_default()
}

/// Waits for a child to run, and to be another run than `before`.
pub(super) fn running(app: &mut App, name: &str, before: &Value) -> Value {
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
pub(super) fn lines(place: &Place, file: &str) -> Vec<String> {
    let text = fs::read_to_string(place.path().join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

pub(super) fn call(app: &mut App, to: &str, body: Value) -> Value {
    app.ok(json!({"op": "call", "to": to, "body": body, "timeout_ms": 60_000}))["body"].take()
}

/// Waits for a program to be its process: it answers calls.
pub(super) fn is_up(app: &mut App, name: &str) -> Value {
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
    assert_eq!((&down["reason"], &down["from"]), (&json!("exit_status 3"), &before["pid"]));

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
    assert_eq!((&down["reason"], &down["from"]), (&json!("signal 9"), &app["pid"]));
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

/// A script that stays until SIGTERM, and writes down when it comes and goes.
fn noting(name: &str, supervisor: &str) -> String {
    let text = format!(
        "trap 'echo {name} stops >> notes; exit 0' TERM; echo {name} starts >> notes; sleep 1000 & wait"
    );
    script(name, &text, &format!("supervisor = {supervisor:?}"))
}

#[test]
fn each_strategy_starts_again_those_that_it_says_in_order() {
    let cases = [
        ("one_for_one", [false, true, false]),
        ("one_for_all", [true, true, true]),
        ("rest_for_one", [false, true, true]),
    ];
    for (strategy, again) in cases {
        let place = Place::new();
        let mut file = format!("[[supervisor]]\nname = \"top\"\nstrategy = {strategy:?}\n");
        for name in ["x", "y", "z"] {
            file.push_str(&noting(name, "top"));
        }
        let a = hosting(&place, "a", &file);
        let mut app = a.json();
        let before = ["x", "y", "z"].map(|name| running(&mut app, name, &Value::Null));
        eventually("all have begun", || lines(&place, "notes").len() == 3);
        kill_process(os_pid(&before[1]), Signal::KILL).unwrap();
        let after = running(&mut app, "y", &before[1]);
        assert_eq!(after["last"], "signal 9");
        for ((name, before), again) in ["x", "y", "z"].iter().zip(&before).zip(again) {
            let old = if again { before } else { &Value::Null };
            let now = running(&mut app, name, old);
            assert_eq!(now["pid"] != before["pid"], again, "{strategy}: {name}");
            assert!(!again || is_gone(os_pid(before)), "{strategy}: {name} runs once");
        }
        let starts = 3 + again.iter().filter(|again| **again).count();
        let is_start = |line: &&String| line.ends_with("starts");
        eventually("those that are started again have begun", || {
            lines(&place, "notes").iter().filter(is_start).count() == starts
        });
        // Who is stopped for it is stopped before anybody is started, the last one first.
        let stops: Vec<String> =
            lines(&place, "notes").iter().filter(|line| !is_start(line)).cloned().collect();
        let expected: &[&str] = match strategy {
            "one_for_all" => &["z stops", "x stops"],
            "rest_for_one" => &["z stops"],
            _ => &[],
        };
        assert_eq!(stops, expected, "{strategy}");
    }
}

#[test]
fn a_supervisor_whose_children_end_too_often_gives_up_and_comes_again_later() {
    let place = Place::new();
    // It ends until there is the file that it wants.
    let text = "echo run >> runs; test -e wanted || exit 7; exec sleep 1000";
    let top = "[[supervisor]]\nname = \"default\"\nmax-seconds = 3600\n";
    let file = top.to_owned() + &script("flaky", text, "") + &noting("steady", "default");
    let mut a = hosting(&place, "a", &file);
    let mut app = a.json();
    eventually("the supervisor fails", || supervisor(&mut app, "default")["state"] == "failed");
    // Three restarts, as in OTP; the other child went with it. It may have come again before it was looked at.
    assert_eq!(lines(&place, "runs").len() % 4, 0);
    assert_eq!(child(&mut app, "steady")["state"], "stopped");
    assert_eq!(child(&mut app, "flaky")["last"], "exit_status 7");
    assert!(a.logged().contains("supervisor default gave up"), "{}", a.logged());
    fs::write(place.path().join("wanted"), "").unwrap();
    running(&mut app, "flaky", &Value::Null);
    running(&mut app, "steady", &Value::Null);
    let top = supervisor(&mut app, "default");
    assert_eq!(top["state"], "running");
    assert!(top["restarts"].as_u64().unwrap() >= 1);
    assert!(a.lives());
}

#[test]
fn a_hundred_crashes_in_a_row_leave_nothing_behind() {
    let place = Place::new();
    let text = "echo run >> runs; test $(wc -l < runs) -gt 100 || exit 1; exec sleep 1000";
    let top = "[[supervisor]]\nname = \"top\"\nmax-restarts = 1000\n";
    let a =
        hosting(&place, "a", &format!("{top}{}", script("flaky", text, "supervisor = \"top\"")));
    let mut app = a.json();
    let mut flaky = Value::Null;
    eventually("it has crashed a hundred times", || {
        flaky = child(&mut app, "flaky");
        flaky["restarts"] == 100 && flaky["state"] == "running"
    });
    let processes = app.ok(json!({"op": "processes"}));
    let named = |key: &str, value: &str| {
        let processes = processes["processes"].as_array().unwrap();
        processes.iter().filter(|process| process[key] == value).count()
    };
    assert_eq!((named("name", "flaky"), named("label", "supervisor top")), (1, 1));
    assert_eq!(processes["processes"].as_array().unwrap().len(), 3);
    let children = format!("/proc/{}/task/{}/children", a.pid(), a.pid());
    if let Ok(children) = fs::read_to_string(children) {
        assert_eq!(children.split_whitespace().count(), 1, "no zombies: {children}");
    }
}

#[test]
fn a_node_that_leaves_ends_what_it_hosts_last_one_first_and_others_hear_shutdown() {
    let place = Place::new();
    let file = format!(
        "[[supervisor]]\nname = \"top\"\n{}{}{}",
        noting("x", "top"),
        noting("y", "top"),
        noting("z", "default")
    );
    let mut a = hosting(&place, "a", &file);
    let b = place.start("b", &[]);
    let (mut here, mut there) = (a.json(), b.json());
    there.meets(&[&a]);
    for name in ["x", "y", "z"] {
        running(&mut here, name, &Value::Null);
        there.ok(json!({"op": "monitor", "to": format!("{name}@a@t")}));
    }
    eventually("all have begun", || lines(&place, "notes").len() == 3);
    there.ok(json!({"op": "whereis", "name": "x", "node": "a@t"}));
    a.signal(Signal::TERM);
    for name in ["y@a@t", "x@a@t", "z@a@t"] {
        let down = there.event();
        assert_eq!((&down["name"], &down["reason"]), (&json!(name), &json!("shutdown")));
    }
    assert!(a.ended().success());
    assert_eq!(lines(&place, "notes")[3..], ["y stops", "x stops", "z stops"]);
}

#[test]
fn a_program_that_does_not_end_in_its_time_is_killed_with_all_that_it_started() {
    let place = Place::new();
    let text = "trap '' TERM; sleep 1000 & echo $! > other; exec sleep 1000";
    let a = hosting(&place, "a", &script("deaf", text, "shutdown = \"100ms\""));
    let mut app = a.json();
    let deaf = running(&mut app, "deaf", &Value::Null);
    eventually("it has started another one", || !lines(&place, "other").is_empty());
    let other = lines(&place, "other")[0].parse().ok().and_then(Pid::from_raw).unwrap();
    app.ok(json!({"op": "monitor", "to": "deaf"}));
    app.ok(json!({"op": "terminate_child", "name": "deaf"}));
    assert_eq!(app.event_of("down")["reason"], "killed");
    assert!(is_gone(os_pid(&deaf)));
    eventually("what it has started is gone", || is_gone(other));
    let now = child(&mut app, "deaf");
    assert_eq!((&now["state"], &now["pid"]), (&json!("stopped"), &Value::Null));

    // What was terminated stays away until somebody wants it again.
    let again = app.ok(json!({"op": "restart_child", "name": "deaf"}));
    assert_eq!(child(&mut app, "deaf")["pid"], again["pid"]);
    assert_eq!(app.code(json!({"op": "restart_child", "name": "deaf"})), "badarg");
    assert_eq!(app.code(json!({"op": "delete_child", "name": "deaf"})), "badarg");
    app.ok(json!({"op": "terminate_child", "name": "deaf"}));
    app.ok(json!({"op": "delete_child", "name": "deaf"}));
    assert_eq!(child(&mut app, "deaf"), Value::Null);
    assert_eq!(app.code(json!({"op": "terminate_child", "name": "deaf"})), "not_found");
}

#[test]
fn an_exit_signal_that_ends_the_process_ends_the_program() {
    let place = Place::new();
    let a = hosting(
        &place,
        "a",
        &(script("mild", "exec sleep 1000", "") + &noting("noted", "default")),
    );
    let b = place.start("b", &[]);
    let (mut here, mut there) = (a.json(), b.json());
    there.meets(&[&a]);
    let mild = running(&mut here, "mild", &Value::Null);
    let noted = running(&mut here, "noted", &Value::Null);
    eventually("it has begun", || lines(&place, "notes").len() == 1);

    // A link, from another node.
    there.ok(json!({"op": "link", "to": mild["pid"]}));
    there.ok(json!({"op": "whereis", "name": "mild", "node": "a@t"}));
    here.ok(json!({"op": "monitor", "to": "mild"}));
    there.tell(json!({"op": "exit", "reason": "bored"}));
    assert_eq!(here.event_of("down")["reason"], "bored");
    let after = running(&mut here, "mild", &mild);
    assert!(is_gone(os_pid(&mild)), "the next run begins when the last one is gone");
    assert_eq!(after["last"], "bored");

    // `kill` kills.
    here.ok(json!({"op": "kill", "to": "noted", "reason": "kill"}));
    let after = running(&mut here, "noted", &noted);
    assert_eq!(after["last"], "killed");
    assert!(!lines(&place, "notes").contains(&"noted stops".to_owned()));
}

#[test]
fn a_program_finds_its_node_and_itself_in_its_environment() {
    let Some(python) = python() else { return };
    let place = Place::new();
    fs::create_dir(place.path().join("there")).unwrap();
    let file = format!(
        "[[process]]\nname = \"bot\"\ncommand = {python:?}\nargs = [{BOT:?}, \"a b\", \"$HOME\"]\ncwd = \"there\"\nenv = {{ LEVEL = \"7\" }}\n"
    );
    let a = hosting(&place, "a", &file);
    let mut app = a.json();
    is_up(&mut app, "bot");
    let bot = child(&mut app, "bot");
    let env = call(&mut app, "bot", json!(["env"]));
    assert_eq!(env["PILLION_SOCKET"], a.socket.to_str().unwrap());
    assert_eq!((&env["PILLION_NODE"], &env["PILLION_NAME"]), (&json!("a@t"), &json!("bot")));
    assert_eq!((&env["PILLION_PID"], &env["LEVEL"]), (&bot["pid"], &json!("7")));
    assert_eq!(call(&mut app, "bot", json!(["args"])), json!(["a b", "$HOME"]));
    let cwd = call(&mut app, "bot", json!(["cwd"]));
    assert!(cwd.as_str().unwrap().ends_with("/there"), "{cwd}");
    assert_eq!(app.info("bot", "os_pid"), bot["os_pid"]);
    assert_eq!(app.info("bot", "parent"), supervisor(&mut app, "default")["pid"]);

    // A second connection with its token takes over; `bye` ends that connection, not the process.
    let mut second = App::connect_quietly(&a.socket, super::support::Dialect::Json);
    let welcome = json!({"op": "hello", "process": env["PILLION_PROCESS"]});
    second.ok(welcome);
    assert_eq!(second.ok(json!({"op": "self"}))["pid"], bot["pid"]);
    second.ok(json!({"op": "bye"}));
    drop(second.last_words());
    app.ok(json!({"op": "send", "to": "bot", "body": 1}));
    assert_eq!(child(&mut app, "bot")["pid"], bot["pid"]);
}

#[test]
fn only_the_secret_of_a_program_that_lives_makes_a_connection_its_process() {
    let Some(python) = python() else { return };
    let place = Place::new();
    let file = format!("[[process]]\nname = \"bot\"\ncommand = {python:?}\nargs = [{BOT:?}]\n");
    let a = hosting(&place, "a", &file);
    let mut app = a.json();
    is_up(&mut app, "bot");
    let bot = child(&mut app, "bot");
    let token = call(&mut app, "bot", json!(["env"]))["PILLION_PROCESS"].clone();
    let serial = token.as_str().unwrap().split('.').next().unwrap().to_owned();
    let wrong = [
        String::new(),
        ".".to_owned(),
        serial.clone(),
        format!("{serial}."),
        format!("{serial}.{}", "0".repeat(32)),
        format!("{}.{}", u64::MAX, "0".repeat(32)),
        "0.".to_owned(),
    ];
    let hello = |token: &Value| json!({"op": "hello", "process": token});
    for wrong in wrong {
        let mut other = App::connect_quietly(&a.socket, super::support::Dialect::Json);
        assert_eq!(other.code(hello(&json!(wrong))), "not_found", "{wrong}");
        assert_ne!(other.ok(json!({"op": "self"}))["pid"], bot["pid"]);
    }
    // Not later than with the first command, and not by resuming with no secret.
    assert_eq!(app.code(hello(&token)), "badarg");
    let session = app.info("bot", "session");
    let mut other = App::connect_quietly(&a.socket, super::support::Dialect::Json);
    let resume = json!({"session": session, "secret": "", "seen": 0});
    assert_eq!(other.code(json!({"op": "hello", "resume": resume})), "not_found");
    app.ok(json!({"op": "kill", "to": "bot", "reason": "bored"}));
    running(&mut app, "bot", &bot);
    let mut late = App::connect_quietly(&a.socket, super::support::Dialect::Json);
    assert_eq!(late.code(hello(&token)), "not_found");
}

#[test]
fn only_operators_host_and_what_cannot_be_hosted_says_why() {
    let place = Place::new();
    let a = place.start("a", &["--socket-mode", "0666"]);
    let host = |name: &str, command: &str| json!({"op": "host", "name": name, "command": command});
    let mut app = a.json();
    assert_eq!(app.code(host("bot", "/bin/sh")), "denied");
    for op in ["terminate_child", "restart_child", "delete_child"] {
        assert_eq!(app.code(json!({"op": op, "name": "bot"})), "denied", "{op}");
    }
    assert_eq!(tree(&mut app), json!([]), "everybody may look");
    let operators = a.socket.with_extension("operator.sock");
    let mut operator = App::connect(&operators, super::support::Dialect::Json);
    let told = operator.ask(host("bot", "/nowhere/at/all"));
    assert_eq!(told["code"], "cannot_start");
    let message = told["message"].as_str().unwrap();
    assert!(
        message.contains("/nowhere/at/all") && message.contains("no such command"),
        "{message}"
    );
    let plain = place.path().join("plain");
    for (text, mode, why) in [
        ("no program", 0o600, "chmod +x"),
        ("no program", 0o700, "no first line"),
        ("#!/nowhere/at/all\n", 0o700, "what its first line (#!) names"),
    ] {
        fs::write(&plain, text).unwrap();
        fs::set_permissions(&plain, fs::Permissions::from_mode(mode)).unwrap();
        let told = operator.ask(host("bot", plain.to_str().unwrap()));
        assert_eq!(told["code"], "cannot_start", "{told}");
        assert!(told["message"].as_str().unwrap().contains(why), "{told}");
    }
    let told = operator.ask(host("bot", "/tmp"));
    assert!(told["message"].as_str().unwrap().contains("it is a directory"), "{told}");
    let told = operator.ask(host("bot", "no-such-command-at-all"));
    assert!(told["message"].as_str().unwrap().contains("in the PATH of the node"), "{told}");
    let mut nowhere = host("bot", "/bin/sh");
    nowhere["cwd"] = json!("/nowhere");
    assert_eq!(operator.code(nowhere), "cannot_start");
    assert_eq!(operator.code(json!({"op": "host", "name": "bot"})), "badarg");
    assert_eq!(operator.code(host("", "/bin/sh")), "badarg");
    assert_eq!(operator.code(host("bot", "")), "badarg");
    let mut lost = host("bot", "/bin/sh");
    lost["supervisor"] = json!("nobody");
    assert_eq!(operator.code(lost), "not_found");
    // Nothing of all that is left.
    assert_eq!(child(&mut operator, "bot"), Value::Null);
    let mut good = host("bot", "/bin/sleep");
    good["args"] = json!(["1000"]);
    let told = operator.ok(good.clone());
    assert_eq!(child(&mut operator, "bot")["pid"], told["pid"]);
    assert_eq!(operator.code(good), "taken");
    // The processes that it shows are the system's.
    let processes = operator.ok(json!({"op": "processes"}))["processes"].take();
    let bot = processes.as_array().unwrap().iter().find(|one| one["name"] == "bot");
    assert_eq!(bot.unwrap()["os_pid"], told["os_pid"]);
}

#[test]
fn what_programs_print_is_in_the_log_and_floods_hold_up_nobody() {
    let place = Place::new();
    let file = script("talk", "echo hello; printf 'caf\\351 \\033[2J\\n' >&2; exec sleep 1000", "")
        + &script("flood", "exec cat /dev/zero", "")
        + &script("closed", "exec <&- >&- 2>&-; exec sleep 1000", "");
    let mut a = hosting(&place, "a", &file);
    let mut app = a.json();
    for name in ["talk", "flood", "closed"] {
        running(&mut app, name, &Value::Null);
    }
    eventually("what was printed is logged", || {
        let log = fs::read(&a.log).unwrap();
        let log = String::from_utf8_lossy(&log);
        log.contains("talk | hello") && log.contains("talk | caf\u{fffd}")
    });
    // The node answers all the while.
    for _ in 0..50 {
        app.ok(json!({"op": "self"}));
    }
    for name in ["talk", "flood", "closed"] {
        assert_eq!(child(&mut app, name)["state"], "running");
    }
    app.ok(json!({"op": "terminate_child", "name": "flood"}));
    assert!(a.lives());
}

#[test]
fn what_a_node_hosts_starts_when_the_nodes_are_up_that_it_waits_for() {
    let place = Place::new();
    let file = place.path().join("a.toml");
    let sync = "sync-nodes-mandatory = [\"b\"]\nsync-nodes-optional = [\"never\"]\nsync-nodes-timeout = \"100ms\"\n";
    fs::write(&file, sync.to_owned() + &script("patient", "exec sleep 1000", "")).unwrap();
    let a = place.start("a", &["--config", file.to_str().unwrap()]);
    let mut app = a.json();
    // It is told more than once who is missing, and nothing is started without.
    eventually("it is told who is missing", || {
        a.logged().matches("b@t is not connected").count() > 1
    });
    assert_eq!(tree(&mut app), json!([]));
    let answer = app.ask(json!({"op": "wait_for", "nodes": ["b@t"], "timeout_ms": 1}));
    assert_eq!((&answer["code"], &answer["nodes"]), (&json!("timeout"), &json!(["b@t"])));
    let _b = place.start("b", &["--role", "worker"]);
    running(&mut app, "patient", &Value::Null);
    assert!(a.logged().contains("without some optional nodes"), "{}", a.logged());
    let answer = app.ok(json!({"op": "wait_for", "role": "worker"}));
    assert_eq!(answer["nodes"], json!(["b@t"]));
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
        let output = command.arg("--socket").arg(&a.socket).arg("wait-for").args(args).output();
        let output = output.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    assert_eq!(run(&["b", "--count", "1"]), (Some(0), "b@t\n".to_owned(), String::new()));
    let told = "pillion: waited 10ms: c@t is not connected (timeout)\n".to_owned();
    assert_eq!(run(&["b", "c", "--timeout", "10ms"]), (Some(75), String::new(), told));
}
