//! The command line as people and scripts meet it: real processes, real sockets, a local directory of each test's own.

#![allow(clippy::disallowed_methods, reason = "a test waits for real processes, in real time")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value as Json;

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
    /// Reads what it says on standard error up to a line with this.
    fn reads(&mut self, words: &str) {
        let mut said = String::new();
        while self.notes.read_line(&mut said).expect("text") > 0 {
            if said.contains(words) {
                return;
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
    for command in ["up", "nodes", "send", "receive", "info", "cookie", "config"] {
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
fn without_a_node_every_command_says_how_to_start_one() {
    let place = Place::new();
    for line in ["nodes", "ping b", "send a 1", "receive a", "ps", "info a", "names", "events"] {
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
