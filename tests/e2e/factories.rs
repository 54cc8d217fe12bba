//! Factories: programs that one node offers and others start there; and what is typed for all of it.

use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::hosting::{
    BOT, call, child, hosting, is_up, lines, python, running, script, supervisor,
};
use super::support::{App, Daemon, Place, Value, eventually, json};

/// `[[factory]]` that runs a shell script; the arguments of a spawn follow.
fn factory(name: &str, script: &str, more: &str) -> String {
    format!(
        "[[factory]]\nname = {name:?}\ncommand = \"/bin/sh\"\nargs = [\"-c\", {script:?}, {name:?}]\n{more}\n"
    )
}

fn spawn(factory: &str, node: &str) -> Value {
    json!({"op": "spawn", "factory": factory, "node": node})
}

/// The number in the system of the only child of a factory.
fn only_child(app: &mut App, factory: &str) -> Pid {
    let os_pid = supervisor(app, factory)["children"][0]["os_pid"].as_i64().unwrap();
    Pid::from_raw(i32::try_from(os_pid).unwrap()).unwrap()
}

/// Waits until a node has heard of a factory of another one.
fn hears_of(app: &mut App, factory: &str, node: &str) {
    eventually("the offer has arrived", || {
        let mut wrong = spawn("no-such-factory", node);
        wrong["id"] = json!(0);
        let told = app.ask(wrong);
        told["message"].as_str().is_some_and(|message| message.contains(factory))
    });
}

#[test]
fn what_a_node_offers_is_started_from_another_one_with_its_arguments_as_they_are() {
    let place = Place::new();
    let text = "printf '%s\\n' \"$@\" > args; exec sleep 1000";
    let a = hosting(&place, "a", &factory("worker", text, ""));
    let b = place.start("b", &[]);
    let (mut here, mut there) = (a.json(), b.json());
    there.meets(&[&a]);
    let mut wanted = spawn("worker", "a@t");
    wanted["args"] = json!(["--job", "7; touch bad", "$(touch worse)", ""]);
    wanted["name"] = json!("job7");
    wanted["monitor"] = json!(true);
    let told = there.ok(wanted.clone());
    assert_eq!(told["node"], "a@t");
    assert_eq!(here.ok(json!({"op": "whereis", "name": "job7"}))["pid"], told["pid"]);
    let expected = ["--job", "7; touch bad", "$(touch worse)", ""];
    eventually("it has written its arguments", || lines(&place, "args").len() == expected.len());
    assert_eq!(lines(&place, "args"), expected);
    assert!(!place.path().join("bad").exists() && !place.path().join("worse").exists());
    assert_eq!(there.code(wanted), "taken");

    kill_process(only_child(&mut here, "worker"), Signal::KILL).unwrap();
    let down = there.event_of("down");
    assert_eq!((&down["ref"], &down["from"]), (&told["ref"], &told["pid"]));
    assert_eq!(down["reason"], "signal 9");
    // It is temporary: nobody starts it again.
    eventually("it is forgotten", || supervisor(&mut here, "worker")["specs"] == 0);
}

#[test]
fn what_is_not_offered_cannot_be_started_and_the_answer_names_what_can() {
    let place = Place::new();
    let file = factory("worker", "exec sleep 1000", "")
        + "[[factory]]\nname = \"broken\"\ncommand = \"/nowhere/at/all\"\n"
        + &script("app", "exec sleep 1000", "");
    let a = hosting(&place, "a", &file);
    let b = place.start("b", &["--remote", "none"]);
    let (mut here, mut there) = (a.json(), b.json());
    there.meets(&[&a]);
    for node in ["a@t", "any"] {
        for name in ["wroker", "app", "default"] {
            let told = there.ask(spawn(name, node));
            assert_eq!(told["code"], "undef", "{told}");
            assert!(told["message"].as_str().unwrap().contains("worker"), "{told}");
        }
    }
    let told = there.ask(spawn("broken", "a@t"));
    assert_eq!(told["code"], "cannot_start");
    assert!(told["message"].as_str().unwrap().contains("/nowhere/at/all"), "{told}");
    assert_eq!(there.code(spawn("worker", "nobody@t")), "noconnection");
    assert_eq!(there.code(spawn("worker", "b@t")), "undef");
    assert_eq!(here.code(spawn("worker", "b@t")), "undef");
    let mut wrong = spawn("worker", "a@t");
    wrong["args"] = json!(["a\u{0}b"]);
    assert_eq!(there.code(wrong), "badarg");
    assert_eq!(supervisor(&mut here, "broken")["specs"], 0);
    assert_eq!(supervisor(&mut here, "worker")["specs"], 0);
}

#[test]
fn a_node_whose_remote_is_none_offers_nothing_to_others() {
    let place = Place::new();
    let path = place.path().join("a.toml");
    std::fs::write(&path, factory("worker", "exec sleep 1000", "")).unwrap();
    let a = place.start("a", &["--config", path.to_str().unwrap(), "--remote", "none"]);
    let b = place.start("b", &[]);
    let (mut here, mut there) = (a.json(), b.json());
    there.meets(&[&a]);
    assert_eq!(there.code(spawn("worker", "a@t")), "undef");
    assert_eq!(there.code(spawn("worker", "any")), "undef");
    here.ok(spawn("worker", "any"));
}

#[test]
fn any_is_here_while_there_is_room_then_where_there_are_fewest() {
    let place = Place::new();
    let text = "exec sleep 1000";
    let a = hosting(&place, "a", &factory("worker", text, "max-children = 1"));
    let b = hosting(&place, "b", &factory("worker", text, "max-children = 3"));
    let c = hosting(&place, "c", &factory("worker", text, "max-children = 2"));
    let (mut app, mut b, mut c) = (a.json(), (b.json(), b), (c.json(), c));
    app.meets(&[&b.1, &c.1]);
    c.0.ok(spawn("worker", "c@t"));
    hears_of(&mut app, "worker", "b@t");
    // What each of them announces arrives when it arrives: an answer of the node itself comes after it.
    let settle = |app: &mut App| {
        for node in ["b@t", "c@t"] {
            app.ok(json!({"op": "whereis", "name": "nobody", "node": node}));
        }
    };
    let mut places = Vec::new();
    for _ in 0..5 {
        settle(&mut app);
        places.push(app.ok(spawn("worker", "any"))["node"].as_str().unwrap().to_owned());
    }
    assert_eq!(places[..2], ["a@t", "b@t"]);
    let count = |node: &str| places.iter().filter(|place| *place == node).count();
    assert_eq!((count("a@t"), count("b@t"), count("c@t")), (1, 3, 1));
    settle(&mut app);
    assert_eq!(app.code(spawn("worker", "any")), "overloaded");
    assert_eq!(app.code(spawn("worker", "a@t")), "overloaded");
    assert_eq!(app.code(spawn("worker", "b@t")), "overloaded");
    assert_eq!(supervisor(&mut b.0, "worker")["active"], 3);
}

#[test]
fn a_link_set_by_the_spawn_ends_the_program_with_its_owner_and_the_owner_with_the_program() {
    let place = Place::new();
    let a = hosting(&place, "a", &factory("worker", "exec sleep 1000", ""));
    let mut b = place.start("b", &[]);
    let mut here = a.json();
    b.json().meets(&[&a]);
    let mut linked = spawn("worker", "a@t");
    linked["link"] = json!(true);
    linked["monitor"] = json!(true);

    // The owner dies.
    let mut owner = b.json();
    owner.ok(linked.clone());
    let os_pid = only_child(&mut here, "worker");
    drop(owner);
    eventually("the program has gone with its owner", || test_kill_process(os_pid).is_err());
    eventually("it is forgotten", || supervisor(&mut here, "worker")["specs"] == 0);

    // The program dies.
    let mut owner = b.json();
    owner.ok(json!({"op": "flag", "trap_exit": true}));
    let told = owner.ok(linked.clone());
    kill_process(only_child(&mut here, "worker"), Signal::TERM).unwrap();
    let ends = [owner.event(), owner.event()];
    for end in &ends {
        assert_eq!(end["reason"], "signal 15", "{end}");
    }
    assert_eq!(ends[0]["from"], told["pid"]);
    assert_eq!(ends[1]["ref"], told["ref"]);
    eventually("it is forgotten", || supervisor(&mut here, "worker")["specs"] == 0);

    // The owner's node dies.
    let mut owner = b.json();
    owner.ok(linked);
    let os_pid = only_child(&mut here, "worker");
    b.kill();
    eventually("the program has gone with the node", || test_kill_process(os_pid).is_err());
}

#[test]
fn the_death_of_the_node_is_noconnection_for_the_one_who_spawned() {
    let place = Place::new();
    let mut a = hosting(&place, "a", &factory("worker", "exec sleep 1000", ""));
    let b = place.start("b", &[]);
    let (mut here, mut owner) = (a.json(), b.json());
    owner.meets(&[&a]);
    owner.ok(json!({"op": "flag", "trap_exit": true}));
    let mut linked = spawn("worker", "a@t");
    linked["link"] = json!(true);
    linked["monitor"] = json!(true);
    let told = owner.ok(linked.clone());
    let os_pid = only_child(&mut here, "worker");
    a.kill();
    let ends = [owner.event(), owner.event()];
    for end in &ends {
        assert_eq!(end["reason"], "noconnection", "{end}");
    }
    assert!(ends.iter().any(|end| end["ref"] == told["ref"]));
    let _ = kill_process(os_pid, Signal::KILL);
    eventually("the offer is gone with its node", || {
        let code = owner.code(spawn("worker", "any"));
        code == "undef"
    });
    assert_eq!(owner.code(linked), "noconnection");
}

// ===== what is typed =====

fn pillion(node: &Daemon, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
    command.args(args).env("PILLION_SOCKET", &node.socket).env_remove("PILLION_PROCESS");
    command.stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn says(node: &Daemon, args: &[&str]) -> String {
    let output = pillion(node, args);
    let (out, err) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{args:?}: {} {err}", output.status);
    String::from_utf8(out).unwrap().trim_end().to_owned()
}

#[test]
fn programs_are_hosted_looked_at_and_ended_from_the_command_line() {
    let place = Place::new();
    let a = hosting(&place, "a", &factory("worker", "exec sleep 1000", ""));
    let mut app = a.json();
    let pid = says(&a, &["host", "bot", "--restart", "transient", "--", "/bin/sleep", "1000"]);
    assert_eq!(child(&mut app, "bot")["pid"], pid.as_str());
    let job = says(&a, &["spawn", "worker", "--name", "job7", "--", "7"]);
    let tree = says(&a, &["tree"]);
    let expected =
        ["supervisor default (one_for_one) running", "factory worker (1 of 100) running"];
    for line in expected.iter().chain(&["└─ bot running", "└─ job7 running"]) {
        assert!(tree.contains(line), "{line} in {tree}");
    }
    let json: Value = serde_json::from_str(&says(&a, &["tree", "--json"])).unwrap();
    assert_eq!(json["tree"].as_array().unwrap().len(), 2);
    let listed = says(&a, &["ps"]);
    assert!(listed.contains("OS PID") && listed.contains("PARENT"), "{listed}");
    for (name, parent) in [("bot", "supervisor default"), ("job7", "factory worker")] {
        let under = |line: &str| line.contains(name) && line.ends_with(parent);
        assert!(listed.lines().any(under), "{name} under {parent} in {listed}");
    }
    assert_eq!(says(&a, &["child", "terminate", "bot"]), "ok");
    assert_eq!(child(&mut app, "bot")["state"], "stopped");
    let again = says(&a, &["child", "restart", "bot"]);
    assert_ne!(again, pid);
    says(&a, &["child", "terminate", "bot"]);
    says(&a, &["child", "delete", "bot"]);
    assert_eq!(child(&mut app, "bot"), Value::Null);
    assert_eq!(pillion(&a, &["child", "restart", "bot"]).status.code(), Some(1));
    assert_eq!(pillion(&a, &["host", "x", "--", "/no/such"]).status.code(), Some(73));
    assert_eq!(pillion(&a, &["spawn", "wroker"]).status.code(), Some(69));

    // The end of what was spawned is that of the command that waits for it.
    let waiting = Command::new(env!("CARGO_BIN_EXE_pillion"))
        .args(["spawn", "worker", "--wait", "--name", "job8"])
        .env("PILLION_SOCKET", &a.socket)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("it runs", || app.ok(json!({"op": "whereis", "name": "job8"}))["pid"].is_string());
    app.ok(json!({"op": "kill", "to": "job8", "reason": "enough"}));
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("down: enough\n"));
    assert!(app.ok(json!({"op": "whereis", "name": "job7"}))["pid"] == job.as_str());
}

#[test]
fn the_shell_hosts_and_spawns_too() {
    let place = Place::new();
    let a = hosting(&place, "a", &factory("worker", "exec sleep 1000", ""));
    let script = place.path().join("typed");
    let typed = "host bot /bin/sleep 1000\nspawn any worker 7\ntree\nterminate_child bot\ndelete_child bot\n";
    std::fs::write(&script, typed).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_pillion"))
        .arg("shell")
        .env("PILLION_SOCKET", &a.socket)
        .stdin(std::fs::File::open(&script).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.contains("└─ bot running") && said.contains("factory worker (1 of 100)"),
        "{said}"
    );
    assert!(said.ends_with("ok\nok\n"), "{said}");
}

#[test]
fn children_of_a_factory_are_told_apart_in_the_log_and_ended_by_their_pids() {
    let place = Place::new();
    let text = "echo hello from $1; exec sleep 1000";
    let a = hosting(&place, "a", &factory("worker", text, "restart = \"permanent\""));
    let mut app = a.json();
    let pids = ["x", "y"].map(|arg| {
        let mut wanted = spawn("worker", "any");
        wanted["args"] = json!([arg]);
        app.ok(wanted)["pid"].clone()
    });
    let children = supervisor(&mut app, "worker")["children"].take();
    for (child, arg) in children.as_array().unwrap().iter().zip(["x", "y"]) {
        let line = format!("worker[{}] | hello from {arg}", child["os_pid"]);
        eventually("what it prints is logged", || a.logged().contains(&line));
    }
    says(&a, &["child", "terminate", pids[0].as_str().unwrap()]);
    let left = supervisor(&mut app, "worker")["children"].take();
    assert_eq!(left.as_array().unwrap().len(), 1, "{left}");
    assert_eq!(left[0]["pid"], pids[1]);
}

#[test]
fn a_hosted_serve_is_the_process_that_others_reach_by_its_name() {
    let place = Place::new();
    let binary = env!("CARGO_BIN_EXE_pillion");
    let file = format!(
        "[[process]]\nname = \"stock\"\ncommand = {binary:?}\nargs = [\"serve\", \"stock.count\", \"--\", \"/bin/sh\", \"-c\", \"echo 7\"]\n"
    );
    let a = hosting(&place, "a", &file);
    let b = place.start("b", &[]);
    let mut app = b.json();
    app.meets(&[&a]);
    let mut served = Value::Null;
    eventually("it is served", || {
        served = app.ok(json!({"op": "modules"}));
        served["modules"][0]["module"] == "stock"
    });
    let rpc = json!({"op": "rpc", "node": "any", "module": "stock", "function": "count", "timeout_ms": 60_000});
    assert_eq!(app.ok(rpc)["body"], 7);
    let mut here = a.json();
    assert_eq!(here.info("stock", "client"), "pillion serve");
    assert_eq!(here.info("stock", "pid"), child(&mut here, "stock")["pid"]);
}

#[test]
fn a_bot_terminated_mid_call_has_said_its_last_words_before_its_down() {
    let Some(python) = python() else { return };
    let place = Place::new();
    let a = place.start("a", &[]);
    let mut app = a.json();
    let own = app.pid.clone();
    app.ok(
        json!({"op": "host", "name": "bot", "command": python, "args": [BOT, "--last-words", own]}),
    );
    assert_eq!(is_up(&mut app, "bot"), "from init");
    app.ok(json!({"op": "monitor", "to": "bot"}));
    app.ok(json!({"op": "terminate_child", "name": "bot"}));
    assert_eq!(app.event()["body"], "last words");
    assert_eq!(app.event()["reason"], "shutdown");
    assert_eq!(app.code(json!({"op": "call", "to": "bot", "body": 1})), "noproc");
    app.ok(json!({"op": "restart_child", "name": "bot"}));
    running(&mut app, "bot", &Value::Null);
    assert_eq!(call(&mut app, "bot", json!(["args"])), json!(["--last-words", own]));
}
