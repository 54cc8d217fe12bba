//! The command line as people and scripts meet it: real processes, real sockets, a local directory of each test's own.

#![allow(clippy::disallowed_methods, reason = "a test waits for real processes, in real time")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value as Json, json};

/// A place on this machine where nobody else's nodes are.
struct Place(tempfile::TempDir);

/// A command that runs; killed when the test ends.
struct Running {
    child: Child,
    notes: BufReader<std::process::ChildStderr>,
}

/// How a command ended.
struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillion"));
        command.args(arguments).env_clear().stdin(Stdio::null());
        command.env("HOME", self.path()).env("PILLION_DIR", self.path().join("dir"));
        command.current_dir(self.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        Ended::of(self.command(arguments).output().expect("it runs"))
    }

    fn start(&self, arguments: &[&str]) -> Running {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it runs");
        let notes = BufReader::new(child.stderr.take().expect("piped"));
        Running { child, notes }
    }

    /// A node that is up, alone.
    fn up(&self, name: &str, more: &[&str]) -> Running {
        let flags = ["up", "--name", name, "--strategy", "none", "--listen", "127.0.0.1:0"];
        let mut node = self.start(&[&flags, more].concat());
        node.reads("is up");
        node
    }
}

impl Running {
    /// Reads what it says on standard error up to a line with this, and gives it all.
    fn reads(&mut self, words: &str) -> String {
        let mut said = String::new();
        while self.notes.read_line(&mut said).expect("text") > 0 {
            if said.contains(words) {
                return said;
            }
        }
        panic!("it never said {words:?}, but: {said}");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().expect("kill");
        assert!(sent.success());
    }

    fn ends(mut self) -> Ended {
        let (mut out, mut err) = (String::new(), String::new());
        self.child.stdout.take().expect("piped").read_to_string(&mut out).expect("text");
        self.notes.read_to_string(&mut err).expect("text");
        let status = self.child.wait().expect("it ends");
        Ended { code: status.code().expect("an exit code"), out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().expect("an exit code"),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }

    #[track_caller]
    fn ended(&self, code: i32) -> &Self {
        assert_eq!(self.code, code, "out: {}\nerr: {}", self.out, self.err);
        self
    }

    #[track_caller]
    fn says(&self, words: &str) -> &Self {
        assert!(self.err.starts_with("pillion: ") && self.err.contains(words), "{}", self.err);
        self
    }

    fn json(&self) -> Json {
        serde_json::from_str(&self.out).expect("one JSON value")
    }
}

#[test]
fn help_is_an_answer_and_tells_the_exit_codes() {
    let place = Place::new();
    let help = place.run(&["--help"]);
    assert!(help.ended(0).out.contains("Exit codes:") && help.out.contains("Examples:"));
    let commands = ["up", "nodes", "send", "receive", "info", "cookie", "config", "call", "cast"];
    let more = ["rpc", "serve", "groups", "monitor", "names"];
    for command in commands.into_iter().chain(more) {
        let help = place.run(&[command, "--help"]);
        assert!(help.ended(0).out.contains("Example"), "{command}");
    }
}

#[test]
fn a_line_that_cannot_be_meant_ends_with_64_and_says_so_in_the_manner_of_all_errors() {
    let place = Place::new();
    place.run(&["frobnicate"]).ended(64).says("frobnicate");
    place.run(&["receive", "x", "--timeout", "5"]).ended(64).says("--timeout");
    place.run(&["up", "--listen", "a:b:c"]).ended(64).says("--listen");
    place.run(&[]).ended(64);
}

#[test]
fn topics_answer_to_the_words_of_the_protocol_too() {
    let place = Place::new();
    for word in ["publish", "subscribe"] {
        let ended = place.run(&[word, "--help"]);
        assert_eq!(ended.code, 0, "{}", ended.err);
        assert!(ended.out.contains("Usage: pillion"), "{}", ended.out);
    }
}

#[test]
fn without_a_node_every_command_says_how_to_start_one() {
    let place = Place::new();
    let lines = ["nodes", "ping b", "send a 1", "receive a", "ps", "info a", "names", "events"];
    let calls = ["call a 1", "cast a 1", "rpc any a.b", "serve a -- cat", "modules", "groups"];
    for line in lines.into_iter().chain(calls).chain(["monitor a"]) {
        let ended = place.run(&line.split(' ').collect::<Vec<_>>());
        ended.ended(69).says("pillion up");
    }
    let ended = place.run(&["nodes", "--socket", "nowhere.sock"]);
    ended.ended(69).says("nowhere.sock");
}

#[test]
fn a_body_that_is_not_json_is_refused_before_anything_is_sent() {
    let place = Place::new();
    place.run(&["send", "a", "hello"]).ended(65).says("at column 1").says("--text");
    place
        .run(&["send", "a", "[1, 99999999999999999999]"])
        .ended(65)
        .says("at column 5")
        .says("$int");
    place.run(&["send", "a", "x", "--text", "--raw"]).ended(64).says("--raw");
}

#[test]
fn bytes_from_a_pipe_arrive_as_they_are() {
    let place = Place::new();
    let _node = place.up("a", &[]);
    let mut inbox = place.start(&["receive", "inbox", "--count", "1", "--json"]);
    inbox.reads("receiving as inbox");
    let mut command = place.command(&["send", "inbox", "--raw", "-"]);
    let mut sender = command.stdin(Stdio::piped()).spawn().expect("it runs");
    sender.stdin.take().expect("piped").write_all(b"\xff\x00\n").expect("written");
    assert!(sender.wait().expect("it ends").success());
    let event = inbox.ends().ended(0).json();
    assert_eq!(event["body"]["$bytes"], "/wAK");
    assert_eq!(event["ct"], "application/octet-stream");
}

#[test]
fn a_new_cookie_is_one_line_and_the_one_in_use_is_never_shown() {
    let place = Place::new();
    let cookie = place.run(&["cookie", "new"]);
    assert_eq!(cookie.ended(0).out.trim_end().len(), 64);
    let file = place.path().join("cookie");
    std::fs::write(&file, &cookie.out).expect("written");
    let file = file.to_str().expect("text");
    assert!(Command::new("chmod").args(["600", file]).status().expect("chmod").success());
    let shown = place.run(&["cookie", "show", "--cookie-file", file]);
    assert!(shown.ended(0).out.contains(file) && !shown.out.contains(cookie.out.trim_end()));
    let shown = place.run(&["cookie", "--json", "--cookie-file", file]).json();
    assert_eq!(shown["ids"].as_array().map(Vec::len), Some(1));
    place.run(&["cookie"]).ended(1).says("cookie new");
}

#[test]
fn a_wrong_configuration_file_is_told_with_all_that_is_wrong() {
    let place = Place::new();
    let file = place.path().join("pillion.toml");
    std::fs::write(&file, "nmae = \"a\"\ngrace = \"soon\"\n").expect("written");
    let checked = place.run(&["config", "check", "pillion.toml"]);
    checked.ended(65).says("nmae").says("grace");
    std::fs::write(&file, "name = \"a@hal\"\n").expect("written");
    assert_eq!(place.run(&["config", "check", "pillion.toml"]).ended(0).out, "good\n");
    let printed = place.run(&["config", "print", "--config", "pillion.toml", "--json"]).json();
    assert_eq!(printed["name"]["from"], "pillion.toml:1");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let place = Place::new();
    let mut running = place.start(&["completion", "bash"]);
    drop(running.child.stdout.take());
    let status = running.child.wait().expect("it ends");
    let mut said = String::new();
    running.notes.read_to_string(&mut said).expect("text");
    assert_eq!((status.code(), said.as_str()), (Some(0), ""));
}

#[test]
fn the_shells_of_people_complete_commands_flags_and_values() {
    let place = Place::new();
    let script = |shell: &str| {
        let file = place.path().join(format!("completion.{shell}"));
        std::fs::write(&file, place.run(&["completion", shell]).ended(0).out.clone()).unwrap();
        file.to_str().expect("text").to_owned()
    };
    let asked = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).env("HOME", place.path()).stdin(Stdio::null());
        match command.output() {
            Ok(output) => Some(Ended::of(output)),
            Err(_) => {
                println!("SKIPPED for {program}: it is not installed here");
                None
            }
        }
    };
    let cases = [
        ("pillion pi", "ping"),
        ("pillion up --strat", "--strategy"),
        ("pillion completion fi", "fish"),
        ("pillion config ch", "check"),
    ];
    for (line, offered) in cases {
        // What readline does: the words, which of them, and the function that the script has registered.
        let bash = format!(
            "source {}; COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             set -- $(complete -p pillion); while [ \"$1\" != -F ]; do shift; done; \
             $2 pillion \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script("bash")
        );
        if let Some(said) = asked("bash", &["--norc", "--noprofile", "-c", &bash]) {
            assert!(said.ended(0).out.lines().any(|word| word == offered), "{line}: {}", said.out);
            assert_eq!(said.err, "");
        }
        let fish = format!("source {}; complete -C '{line}'", script("fish"));
        if let Some(said) = asked("fish", &["--no-config", "-c", &fish]) {
            let words = said.ended(0).out.lines().filter_map(|line| line.split('\t').next());
            assert!(words.into_iter().any(|word| word == offered), "{line}: {}", said.out);
        }
    }
    // Offering needs its line editor and with it a terminal; that it reads the script can be asked without.
    if let Some(said) = asked("zsh", &["-f", "-n", &script("zsh")]) {
        assert_eq!(said.ended(0).err, "");
    }
}

#[test]
fn two_terminals_talk() {
    let place = Place::new();
    let _node = place.up("a", &[]);
    let mut inbox = place.start(&["receive", "inbox", "--count", "2"]);
    inbox.reads("receiving as inbox");
    let names = place.run(&["names", "--json"]).json();
    assert_eq!(names["registered"][0]["name"], "inbox");
    place.run(&["receive", "inbox"]).ended(73).says("inbox");
    assert_eq!(place.run(&["info", "inbox", "status"]).ended(0).out, "status  waiting\n");

    place.run(&["send", "inbox", "{\"a\": [1, 2.5, null]}"]).ended(0);
    let mut command = place.command(&["send", "inbox", "--text", "-"]);
    let mut sender = command.stdin(Stdio::piped()).spawn().expect("it runs");
    sender.stdin.take().expect("piped").write_all(b"hi there\n").expect("written");
    assert!(sender.wait().expect("it ends").success());

    let inbox = inbox.ends();
    let lines: Vec<&str> = inbox.ended(0).out.lines().collect();
    let bodies: Vec<&str> =
        lines.iter().filter_map(|line| line.split_once(' ')).map(|(_, body)| body).collect();
    assert_eq!(bodies, ["{\"a\":[1,2.5,null]}", "\"hi there\""]);
    assert!(lines.iter().all(|line| line.starts_with("<a@")));
}

#[test]
fn an_answer_that_is_no_ends_with_1() {
    let place = Place::new();
    let _node = place.up("a", &[]);
    assert_eq!(place.run(&["ping", "a"]).ended(0).out, "pong\n");
    assert_eq!(place.run(&["ping", "nobody"]).ended(1).out, "pang\n");
    place.run(&["send", "nobody", "1"]).ended(1).says("nobody");
    place.run(&["disconnect", "nobody"]).ended(1);
    let silence = place.run(&["receive", "x", "--count", "1", "--timeout", "1ms"]);
    silence.ended(1).says("nothing came");
}

#[test]
fn a_message_that_waits_is_sent_when_its_time_has_come() {
    let place = Place::new();
    let _node = place.up("a", &[]);
    let mut inbox = place.start(&["receive", "inbox", "--count", "1", "--json"]);
    inbox.reads("receiving as inbox");
    place.run(&["send", "inbox", "7", "--after", "20ms"]).ended(0);
    assert_eq!(inbox.ends().ended(0).json()["body"], 7);
}

#[test]
fn of_several_nodes_one_has_to_be_chosen() {
    let place = Place::new();
    let (_a, _b) = (place.up("a", &[]), place.up("b", &[]));
    place.run(&["nodes"]).ended(64).says("a.sock").says("b.sock");
    let socket = place.path().join("dir/default/b.sock");
    let nodes = place.run(&["--socket", socket.to_str().expect("text"), "nodes", "--json"]);
    let own = nodes.ended(0).json()["nodes"][0]["node"].clone();
    assert!(own.as_str().is_some_and(|name| name.starts_with("b@")), "{own}");
    place.run(&["up", "--name", "b", "--strategy", "none"]).ended(73).says("taken");
}

#[test]
fn who_listens_hears_that_the_node_leaves() {
    let place = Place::new();
    let node = place.up("a", &[]);
    let mut events = place.start(&["events", "--json"]);
    events.reads("watching a@");
    node.signal("TERM");
    let events = events.ends();
    events.ended(75).says("is leaving");
    assert_eq!(events.json()["ev"], "draining");
    node.ends().ended(0);
}

#[test]
fn ctrl_c_is_how_a_receiving_terminal_ends() {
    let place = Place::new();
    let _node = place.up("a", &[]);
    let mut inbox = place.start(&["receive", "inbox"]);
    inbox.reads("receiving as inbox");
    inbox.signal("INT");
    inbox.ends().ended(0);
    // Its name is free again at once.
    assert_eq!(place.run(&["names", "--json"]).json()["registered"], serde_json::json!([]));
}

#[test]
fn a_wide_socket_lets_everybody_send_and_nobody_operate() {
    let place = Place::new();
    let _node = place.up("a", &["--socket-mode", "0666"]);
    place.run(&["connect", "127.0.0.1:9"]).ended(77).says("operator");
    let mut events = place.start(&["events"]);
    events.reads("left out");
    events.reads("watching a@");
}

#[test]
fn a_store_keeps_values_and_shows_what_changes() {
    let place = Place::new();
    let _node = place.up("stock", &[]);
    let run = |line: &str| place.run(&line.split(' ').collect::<Vec<_>>());
    assert!(run("kv start store").ended(0).out.starts_with("<stock@"));
    let mut watching = place.start(&["kv", "watch", "store", "user.", "--count", "3"]);
    watching.reads("watching store");
    run("kv set store greeting hello --text").ended(0);
    run("kv set store user.1 {\"age\":7}").ended(0);
    run("kv set store user.2 2 --ttl 1ms").ended(0);
    assert_eq!(run("kv get store greeting").ended(0).out, "\"hello\"\n");
    assert_eq!(run("kv get store never").ended(1).out, "null\n");
    assert_eq!(run("kv keys store user.1").ended(0).out, "user.1\n");
    run("kv get nobody greeting").ended(1);
    run("kv set store greeting hello").ended(65).says("--text");
    let changes = watching.ends();
    assert_eq!(changes.ended(0).out, "user.1 {\"age\":7}\nuser.2 2\nuser.2 -\n");
    run("kv delete store greeting").ended(0);
    run("kv get store greeting").ended(1);
    run("kv stop store").ended(0);
    run("kv keys store").ended(1);
}

/// Two nodes that know each other, and the arguments by which a command finds the second one.
fn two_nodes(place: &Place) -> (Running, Running, [String; 4]) {
    let flags = ["up", "--name", "a", "--strategy", "none", "--listen", "127.0.0.1:0"];
    let mut a = place.start(&flags);
    let said = a.reads("is up");
    let port = said.split_once("port ").and_then(|(_, rest)| rest.split_once(',')).expect("a port");
    let address = format!("127.0.0.1:{}", port.0);
    let b = place.up("b", &[]);
    let socket = |name: &str| {
        let path = place.path().join(format!("dir/default/{name}.sock"));
        path.to_str().expect("text").to_owned()
    };
    let at = ["--socket".to_owned(), socket("a"), "--socket".to_owned(), socket("b")];
    place.run(&["connect", &address, &at[2], &at[3]]).ended(0);
    (a, b, at)
}

/// An app of the socket, played by hand in JSON lines.
struct App(BufReader<std::os::unix::net::UnixStream>);

impl App {
    fn new(socket: &Path) -> Self {
        Self(BufReader::new(std::os::unix::net::UnixStream::connect(socket).expect("a node")))
    }

    fn tells(&mut self, command: &Json) {
        self.0.get_mut().write_all(format!("{command}\n").as_bytes()).expect("written");
    }

    fn asks(&mut self, command: &Json) {
        self.tells(command);
        assert_eq!(self.hears("ok")["ev"], "ok");
    }

    /// The next event of this name.
    fn hears(&mut self, name: &str) -> Json {
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).expect("a line"), 0, "no {name}");
            let event: Json = serde_json::from_str(&line).expect("JSON");
            if event["ev"] == name {
                return event;
            }
        }
    }
}

#[test]
fn a_call_prints_the_reply_and_its_parts_as_they_come() {
    let place = Place::new();
    let _node = place.up("a", &[]);
    let mut app = App::new(&place.path().join("dir/default/a.sock"));
    app.asks(&json!({"op": "register", "id": 1, "name": "stock"}));

    let call = place.start(&["call", "stock", "[\"get\", 1]"]);
    let heard = app.hears("call");
    assert_eq!(heard["body"], json!(["get", 1]));
    app.tells(&json!({"op": "reply", "ref": heard["ref"], "more": true, "body": {"n": 1}}));
    app.tells(&json!({"op": "reply", "ref": heard["ref"], "body": "\u{1b}[2J"}));
    // What strangers write does not steer the terminal: here JSON has escaped it.
    assert_eq!(call.ends().ended(0).out, "{\"n\":1}\n\"\\u001b[2J\"\n");

    let call = place.start(&["call", "stock", "--text", "hi", "--json"]);
    let heard = app.hears("call");
    assert_eq!(heard["body"], "hi");
    app.tells(&json!({"op": "reply", "ref": heard["ref"], "body": 3}));
    assert_eq!(call.ends().ended(0).json()["body"], 3);

    let mut call = place.start(&["call", "stock", "--raw"]);
    let heard = app.hears("call");
    assert_eq!(heard["body"], Json::Null);
    let mut part = |more: bool, body: Json| {
        app.tells(&json!({"op": "reply", "ref": heard["ref"], "more": more, "body": body}));
    };
    part(true, json!({"$bytes": "/wA="}));
    part(true, json!("text"));
    part(false, json!({"$bytes": "Cg=="}));
    let mut bytes = Vec::new();
    call.child.stdout.take().expect("piped").read_to_end(&mut bytes).expect("read");
    assert_eq!(bytes, b"\xff\0text\n");

    let cast = place.start(&["cast", "stock", "[7]"]);
    assert_eq!(app.hears("cast")["body"], json!([7]));
    cast.ends().ended(0);
}

#[test]
fn a_call_without_a_reply_says_why_and_whether_it_may_have_been_carried_out() {
    let place = Place::new();
    let _node = place.up("a", &[]);
    let mut app = App::new(&place.path().join("dir/default/a.sock"));
    app.asks(&json!({"op": "register", "id": 1, "name": "stock"}));
    place.run(&["call", "nobody"]).ended(69).says("noproc").says("was not carried out");
    place.run(&["rpc", "any", "stock.count"]).ended(69).says("undef").says("was not carried out");
    let gone = place.run(&["call", "stock@nowhere@else"]);
    gone.ended(75).says("noconnection").says("was not carried out");
    let late = place.run(&["call", "stock", "--timeout", "20ms"]);
    late.ended(75).says("timeout").says("may have been carried out");
    app.hears("call");

    let call = place.start(&["call", "stock", "--json"]);
    let heard = app.hears("call");
    let raise = json!({
        "op": "raise", "ref": heard["ref"], "class": "KeyError", "reason": "no pears",
        "stack": "stock.py:7\n\u{1b}[2J",
    });
    app.tells(&raise);
    let ended = call.ends();
    ended.ended(1).says("KeyError: no pears (exception)").says("may have been carried out");
    assert!(ended.says("stock.py:7").err.contains("\u{fffd}[2J"), "{}", ended.err);
    assert_eq!(ended.json()["class"], "KeyError");
}

#[test]
fn a_served_module_is_called_on_other_nodes_by_name_by_any_and_by_all() {
    let place = Place::new();
    let (_a, _b, at) = two_nodes(&place);
    let script = "case $PILLION_FUNCTION in \
        double) read n; echo $((n * 2));; \
        who) echo \"$1 for $PILLION_CALLER on $PILLION_NODE\";; \
        *) echo not today >&2; exit 3;; esac";
    let served = "stock.double,fail,who";
    let mut server =
        place.start(&["serve", served, &at[0], &at[1], "--", "sh", "-c", script, "job"]);
    server.reads("serving stock.double");
    let on_b = |arguments: &[&str]| place.run(&[arguments, &[&at[2], &at[3]]].concat());
    // Which node serves what is announced: once anybody knows it, so does everybody who is asked.
    let known = || on_b(&["modules"]).ended(0).out.contains("stock");
    while !known() {}
    let table = on_b(&["modules"]);
    assert!(table.out.lines().any(|line| line.ends_with("double fail who")), "{}", table.out);

    assert_eq!(on_b(&["rpc", "any", "stock.double", "21"]).ended(0).out, "42\n");
    assert_eq!(on_b(&["rpc", "a", "stock.double", "-4"]).ended(0).out, "-8\n");
    let who = on_b(&["rpc", "any", "stock.who", "--raw"]);
    assert!(who.ended(0).out.starts_with("who for <b@"), "{}", who.out);
    on_b(&["rpc", "--cast", "any", "stock.who"]).ended(0);

    let failed = on_b(&["rpc", "any", "stock.fail"]);
    failed.ended(1).says("exit: exit status 3 (exception)").says("not today");
    on_b(&["rpc", "any", "stock.other"]).ended(69).says("double, fail, who");
    on_b(&["rpc", "any", "stock"]).ended(64).says("MODULE.FUNCTION");
    on_b(&["rpc", "any"]).ended(64).says("missing");

    let all = on_b(&["rpc", "--all", "stock.double", "3"]);
    assert_eq!(all.ended(1).out.lines().count(), 2, "{}", all.out);
    assert!(all.out.lines().any(|line| line.starts_with("a@") && line.ends_with(" 6")));
    assert!(all.out.lines().any(|line| line.starts_with("b@") && line.contains("(undef)")));
    let two = on_b(&["rpc", "--nodes", "a,b", "node.ping", "--json"]);
    assert_eq!(two.ended(0).json()["results"].as_array().map(Vec::len), Some(2));

    server.signal("INT");
    let server = server.ends();
    assert!(server.ended(0).out.contains("stock.double <b@"), "{}", server.out);
    assert!(server.out.contains("exception") && server.out.contains("exit status 3"));
}

#[test]
fn a_job_that_nobody_waits_for_is_ended_with_all_that_it_started() {
    let place = Place::new();
    let _node = place.up("a", &[]);
    let script = "trap 'echo was told >&2; exit' TERM; echo began >&2; sleep 1000 & wait";
    let mut server = place.start(&["serve", "slow", "--jobs", "1", "--", "sh", "-c", script]);
    server.reads("serving slow");
    let mut first = place.start(&["rpc", "any", "slow.job", "--timeout", "1h"]);
    server.reads("began");
    // One at a time: the second begins when the first one is over.
    let second = place.start(&["rpc", "any", "slow.job", "--timeout", "1h"]);
    first.child.kill().expect("killed");
    first.child.wait().expect("gone");
    server.reads("was told");
    server.reads("began");
    server.signal("INT");
    server.reads("waited for");
    server.signal("INT");
    server.reads("was told");
    let ended = server.ends();
    assert_eq!(ended.ended(0).out.matches("slow.job <a@").count(), 2, "{}", ended.out);
    assert_eq!(ended.out.matches("cancelled").count(), 2, "{}", ended.out);
    second.ends().ended(1).says("may have been carried out");
}

#[test]
fn what_waits_when_a_server_ends_is_answered_by_another_one() {
    let place = Place::new();
    let _node = place.up("a", &[]);
    let script = "echo began >&2; read word; test $word = 1 || exec echo $word; exec sleep 1000";
    let job = ["--jobs", "1", "--", "sh", "-c", script];
    let mut server = place.start(&[&["serve", "slow"], &job[..]].concat());
    server.reads("serving slow");
    let _first = place.start(&["rpc", "any", "slow.job", "1", "--timeout", "1h"]);
    server.reads("began");
    let mut app = App::new(&place.path().join("dir/default/a.sock"));
    let call = json!({
        "op": "rpc", "id": 7, "node": "any", "module": "slow", "function": "job",
        "timeout_ms": 3_600_000, "body": 2,
    });
    app.tells(&call);
    // Commands are carried out in order: after this answer the call is the first server's, which is all there is.
    app.asks(&json!({"op": "self", "id": 8}));
    let mut other = place.start(&[&["serve", "slow"], &job[..]].concat());
    other.reads("serving slow");
    server.signal("INT");
    server.reads("waited for");
    assert_eq!(app.hears("ok")["body"], 2);
}

#[test]
fn who_is_in_a_group_and_who_has_a_global_name_can_be_listed() {
    let place = Place::new();
    let (_a, _b, at) = two_nodes(&place);
    let mut app = App::new(Path::new(&at[1]));
    app.asks(&json!({"op": "register", "id": 1, "name": "stock", "scope": "global"}));
    app.asks(&json!({"op": "join", "id": 2, "group": "tills"}));
    let on_b = |arguments: &[&str]| place.run(&[arguments, &[&at[2], &at[3]]].concat());
    while on_b(&["groups"]).ended(0).out != "tills\n" {}
    while !on_b(&["names", "--global"]).ended(0).out.contains("stock  <a@") {}
    assert!(on_b(&["groups", "tills"]).ended(0).out.starts_with("<a@"));
    assert_eq!(on_b(&["groups", "tills", "--local"]).ended(0).out, "");
    assert_eq!(on_b(&["names", "--json"]).ended(0).json()["registered"], json!([]));
    on_b(&["send", "global:stock", "1"]).ended(0);
    assert_eq!(app.hears("message")["body"], 1);
    on_b(&["send", "group:tills", "2"]).ended(0);
    assert_eq!(app.hears("message")["body"], 2);
}

#[test]
fn what_is_published_is_printed_by_who_has_subscribed_on_another_node() {
    let place = Place::new();
    let (_a, _b, at) = two_nodes(&place);
    let on_a = |arguments: &[&str]| place.run(&[arguments, &[&at[0], &at[1]]].concat());
    let start_on_b = |arguments: &[&str]| place.start(&[arguments, &[&at[2], &at[3]]].concat());
    on_a(&["pub", "shop.tea", "1"]).ended(0).says("nobody has subscribed to shop.tea");
    let subscribe = ["sub", "shop.*", "lamp.>", "--count", "4"];
    let mut plain = start_on_b(&subscribe);
    plain.reads("subscribed to shop.* lamp.>");
    let mut raw = start_on_b(&[&subscribe[..], &["--raw"]].concat());
    raw.reads("subscribed");
    let mut pretty = start_on_b(&["sub", "shop.tea", "--count", "1", "--pretty"]);
    pretty.reads("subscribed");
    let mut one = start_on_b(&["sub", "shop.tea", "-n", "1", "--json", "--queue", "q"]);
    one.reads("subscribed");
    assert_eq!(on_a(&["topics"]).ended(0).out.lines().count(), 4);
    assert_eq!(on_a(&["pub", "shop.tea", "{\"left\": 3}"]).ended(0).out, "");
    let mut command = place.command(&["pub", "lamp.hall", "--text", &at[0], &at[1]]);
    let mut lines = command.stdin(Stdio::piped()).spawn().expect("it runs");
    let text = b"on\n{not json}\n";
    lines.stdin.take().expect("piped").write_all(text).expect("written");
    assert!(lines.wait().expect("it ends").success());
    let answer = on_a(&["pub", "shop.tea", "[]", "--json"]).ended(0).json();
    assert_eq!((&answer["nodes"], &answer["local"]), (&json!(1), &json!(0)));
    assert_eq!(
        plain.ends().ended(0).out,
        "shop.tea {\"left\":3}\nlamp.hall \"on\"\nlamp.hall \"{not json}\"\nshop.tea []\n"
    );
    assert_eq!(raw.ends().ended(0).out, "{\"left\":3}\non\n{not json}\n[]\n");
    assert_eq!(pretty.ends().ended(0).out, "shop.tea\n{\n  \"left\": 3\n}\n");
    assert_eq!(one.ends().ended(0).json()["body"], json!({"left": 3}));
    on_a(&["pub", "shop.*", "1"]).ended(64).says("wildcard");
    on_a(&["pub", "lamp.hall", "\"on\"", "--retain"]).ended(0);
    on_a(&["sub", "lamp.hall", "--count", "1", "--timeout", "30s"]).ended(0);
    on_a(&["pub", "lamp.hall", "--clear"]).ended(0);
    let silence = on_a(&["sub", "lamp.hall", "--count", "1", "--timeout", "1ms"]);
    silence.ended(1).says("nothing more came in time");
}

#[test]
fn who_is_present_is_listed_and_watched_on_another_node_until_ctrl_c_ends_it() {
    let place = Place::new();
    let (_a, _b, at) = two_nodes(&place);
    let on_b = |arguments: &[&str]| place.run(&[arguments, &[&at[2], &at[3]]].concat());
    let start = |arguments: &[&str], node: usize| {
        place.start(&[arguments, &[&at[node], &at[node + 1]]].concat())
    };
    on_b(&["presence", "room.1"]).ended(0).says("nobody is present under room.1");
    let mut watch = start(&["presence", "room.1", "--watch"], 2);
    watch.reads("watching room.1");
    let mut ann = start(&["presence", "track", "room.1", "ann", "{\"at\": \"desk\"}"], 0);
    ann.reads("present as ann under room.1");
    let mut bob = start(&["presence", "track", "room.1", "bob"], 2);
    bob.reads("present as bob under room.1");
    while on_b(&["presence", "room.1"]).ended(0).out.lines().count() < 3 {}
    let listed = on_b(&["presence", "room.1"]).out;
    assert!(listed.starts_with("KEY  PID "), "{listed}");
    assert!(listed.lines().nth(1).is_some_and(|line| line.starts_with("ann  <a@")), "{listed}");
    assert!(listed.lines().nth(1).is_some_and(|line| line.ends_with("{\"at\":\"desk\"}")));
    let one = on_b(&["presence", "room.1", "--key", "bob", "--json"]).ended(0).json();
    assert_eq!(one["presence"].as_array().map(Vec::len), Some(1));
    assert_eq!(one["presence"][0]["key"], "bob");
    for gone in [ann, bob] {
        gone.signal("INT");
        gone.ends().ended(0);
    }
    while !on_b(&["presence", "room.1"]).ended(0).out.is_empty() {}
    watch.signal("INT");
    let told = watch.ends();
    let words: Vec<Vec<&str>> =
        told.ended(0).out.lines().map(|line| line.splitn(3, ' ').collect()).collect();
    let of = |key: &str| -> Vec<&str> {
        words.iter().filter(|line| line[1] == key).map(|line| line[0]).collect()
    };
    assert_eq!((of("ann"), of("bob")), (vec!["join", "leave"], vec!["join", "leave"]));
    on_b(&["presence", "track", "room.1", "ann", "{at"]).ended(65).says("not JSON");
    on_b(&["presence", "track", "room.*", "ann"]).ended(64).says("wildcard");
    on_b(&["presence"]).ended(64);
}

#[test]
fn a_monitor_prints_the_end_of_a_process_and_its_exit_code_says_how_it_was() {
    let place = Place::new();
    let _node = place.up("a", &[]);
    place.run(&["monitor", "nobody"]).ended(1);
    let mut app = App::new(&place.path().join("dir/default/a.sock"));
    for (reason, code) in [("normal", 0), ("sold out", 1)] {
        app.asks(&json!({"op": "spawn", "id": 1, "name": "till"}));
        place.run(&["monitor", "till", "--timeout", "1ms"]).ended(75).says("has not ended");
        app.tells(&json!({"op": "whereis", "id": 2, "name": "till"}));
        let pid = app.hears("ok")["pid"].clone();
        let mut monitor = place.start(&["monitor", "till"]);
        monitor.reads("watching till");
        app.asks(&json!({"op": "exit", "id": 3, "pid": pid, "reason": reason}));
        let ended = monitor.ends();
        assert!(ended.ended(code).out.ends_with(&format!(": {reason}\n")), "{}", ended.out);
    }
}

/// The rows of a benchmark's report by their names; each was measured.
fn rows(report: &Json) -> std::collections::BTreeMap<String, Json> {
    let rows = report["rows"].as_array().expect("rows").iter();
    let rows =
        rows.map(|row| (row["what"].as_str().expect("a name").trim().to_owned(), row.clone()));
    let rows: std::collections::BTreeMap<String, Json> = rows.collect();
    for (what, row) in &rows {
        assert!(
            row["pillion"].as_array().is_some_and(|values| !values.is_empty()),
            "{what}: {row}"
        );
    }
    rows
}

#[test]
fn a_benchmark_of_topics_measures_nodes_beside_a_floor_and_counts_only_what_lost_nothing() {
    let place = Place::new();
    let quick = ["--rounds", "1", "--seconds-per-cell", "0.05", "--sizes", "64,1024"];
    let few = ["--publishers", "2", "--subscribers", "3", "--others", "50,100"];
    let report = place.run(&[&["--json", "bench", "pubsub", "fanout"], &quick[..], &few].concat());
    let rows = rows(&report.ended(0).json());
    for what in [
        "publish 64 B, 2 to 1, one node",
        "publish 1 KiB, 2 to 1, two nodes",
        "publish 64 B, 2 to 3, two nodes",
        "under way, 64 B at half of that rate, two nodes",
    ] {
        let row = &rows[what];
        for side in ["pillion", "floor", "ratio"] {
            assert!(row[side][0].as_f64().is_some_and(|value| value > 0.0), "{what}: {row}");
        }
    }
    for what in [
        "beside 100 exact subscriptions",
        "beside 100 wildcard subscriptions",
        "published to 100 topics in turn, exact subscriptions",
        "published to 100 topics in turn, wildcard subscriptions",
        "three subscribers beside one that is stopped",
        "after all that was published: peak of memory",
    ] {
        assert!(rows[what]["pillion"][0].as_f64().is_some_and(|value| value > 0.0), "{what}");
    }
}

#[test]
fn a_benchmark_of_a_mesh_starts_its_nodes_and_publishes_to_all_of_them() {
    let place = Place::new();
    let quick = ["--rounds", "1", "--seconds-per-cell", "0.1", "--nodes", "3"];
    let report = place.run(&[&["--json", "bench", "mesh"], &quick[..]].concat());
    let rows = rows(&report.ended(0).json());
    for what in ["3 nodes: start of all to full mesh", "publish 64 B, one node to the 2 others"] {
        assert!(rows[what]["pillion"][0].as_f64().is_some_and(|value| value > 0.0), "{what}");
    }
    assert_eq!(rows["peak of memory of a node"]["pillion"].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_soak_accounts_for_every_message_that_a_slow_subscriber_did_not_get() {
    let place = Place::new();
    let report = place.run(&["--json", "bench", "pubsub", "--soak", "2s", "--gate"]);
    let report = report.ended(0).json();
    let counts: Vec<u64> = (report["rows"].as_array().expect("rows").iter())
        .filter(|row| row["unit"] == "count")
        .map(|row| row["pillion"][0].to_string().trim_end_matches(".0").parse().expect("a count"))
        .collect();
    assert_eq!(counts.len(), 10, "{report}");
    for lane in counts.chunks(5) {
        let [published, delivered, gaps, failed, wrong] = *lane else { panic!("{report}") };
        assert!(published > 0 && delivered > 0, "{report}");
        assert_eq!((delivered + gaps + failed, wrong), (published, 0), "{report}");
    }
}

#[test]
fn a_benchmark_that_cannot_be_meant_is_refused_before_anything_starts() {
    let place = Place::new();
    for (arguments, words) in [
        (["pubsub", "--subscribers", "0"], "--subscribers"),
        (["mesh", "--nodes", "1"], "--nodes"),
        (["fanout", "--soak", "2s"], "bench pubsub"),
        (["pubsub", "--others", "20,10"], "smallest first"),
    ] {
        place.run(&[&["bench"], &arguments[..]].concat()).ended(64).says(words);
    }
}
