//! `pillion run`: what the app gets, what it answers, and which signals reach it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A directory of its own for each test, gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Self {
        let directory = PathBuf::from(format!("/tmp/pr-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        Self(directory)
    }

    fn run(&self, flags: &[&str], command: &[&str]) -> Command {
        let mut run = Command::new(env!("CARGO_BIN_EXE_pillion"));
        run.args(["run", "--name", "app@hal", "--strategy", "none"])
            .args(["--listen", "127.0.0.1:0", "--dir"])
            .arg(self.0.join("d"))
            .args(if flags.contains(&"--grace") { &[][..] } else { &["--grace", "5s"] })
            .args(flags)
            .arg("--")
            .args(command)
            .env("HOME", &self.0)
            .env_remove("PILLION_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        run
    }

    fn sh(&self, script: &str) -> Output {
        self.run(&[], &["sh", "-c", script]).output().expect("it ends")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_app_finds_its_node_and_its_exit_code_is_the_answer() {
    let scratch = Scratch::new("env");
    let pillion = env!("CARGO_BIN_EXE_pillion");
    let output =
        scratch.sh(&format!("echo $PILLION_NODE $PILLION_SOCKET; '{pillion}' ping app; exit 7"));
    let socket = scratch.0.join("d/default/app.sock");
    assert_eq!(text(&output.stdout), format!("app@hal {}\npong\n", socket.display()));
    assert_eq!(output.status.code(), Some(7));
    assert!(!socket.exists(), "the node has gone with the app");
}

#[test]
fn the_nodes_lines_are_told_apart_and_the_apps_left_alone() {
    let scratch = Scratch::new("lines");
    let output = scratch.sh("echo out; echo err >&2");
    assert_eq!(text(&output.stdout), "out\n");
    let errors = text(&output.stderr);
    let (node, app): (Vec<_>, Vec<_>) =
        errors.lines().partition(|line| line.starts_with("pillion | "));
    assert_eq!(app, ["err"]);
    assert!(node.iter().any(|line| line.contains("app@hal is up")), "{errors}");
}

#[test]
fn with_prefix_each_line_of_the_app_has_its_name() {
    let scratch = Scratch::new("prefix");
    let command = ["/bin/sh", "-c", "echo one; printf two; echo err >&2"];
    let output = scratch.run(&["--prefix"], &command).output().expect("it ends");
    assert_eq!(text(&output.stdout), "sh | one\nsh | two\n");
    assert!(text(&output.stderr).lines().any(|line| line == "sh | err"));
}

#[test]
fn the_app_of_a_run_waits_for_the_nodes_too() {
    let scratch = Scratch::new("sync");
    let flags = ["--sync-nodes-optional", "b", "--sync-nodes-timeout", "10ms"];
    let output = scratch.run(&flags, &["sh", "-c", "echo ran"]).output().expect("it ends");
    assert_eq!(text(&output.stdout), "ran\n");
    let told = "without some optional nodes: waited";
    assert!(text(&output.stderr).contains(told), "{}", text(&output.stderr));
    // ctrl-c ends the wait for a mandatory one.
    let mut run = scratch.run(
        &["--sync-nodes-mandatory", "b@hal", "--sync-nodes-timeout", "10ms"],
        &["sh", "-c", "echo ran"],
    );
    let mut run = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut errors = BufReader::new(run.stderr.take().expect("errors")).lines();
    assert!(errors.by_ref().any(|line| line.expect("read").contains("b@hal is not connected")));
    let pid = Pid::from_child(&run);
    kill_process(pid, Signal::TERM).expect("it runs");
    let rest: Vec<_> = errors.map(|line| line.expect("read")).collect();
    assert!(!rest.iter().any(|line| line.contains("did not end")), "{rest:?}");
    let output = run.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(128 + 15), String::new()));
}

#[test]
fn what_an_app_said_before_it_ended_is_all_there_however_slowly_it_is_read() {
    let scratch = Scratch::new("slow");
    let command = ["sh", "-c", "i=0; while [ $i -lt 4000 ]; do echo line-$i; i=$((i+1)); done"];
    let mut run = scratch.run(&["--prefix"], &command);
    let mut run = run.stderr(Stdio::null()).spawn().expect("it starts");
    let mut lines = BufReader::with_capacity(64, run.stdout.take().expect("its output")).lines();
    for n in 0..4000 {
        let line = lines.next().expect("a line").expect("read");
        assert_eq!(line, format!("sh | line-{n}"));
    }
    assert!(lines.next().is_none());
    assert_eq!(run.wait().expect("it ends").code(), Some(0));
}

#[test]
fn signals_are_passed_on_to_the_app() {
    let scratch = Scratch::new("signals");
    for (name, signal) in [("TERM", Signal::TERM), ("HUP", Signal::HUP)] {
        let script = format!(
            "trap 'echo got {name}; exit 3' {name}; echo ready; while :; do read x < {}; done",
            fifo(&scratch, name)
        );
        let mut run = scratch.run(&[], &["sh", "-c", &script]).spawn().expect("it starts");
        let mut stdout = BufReader::new(run.stdout.take().expect("its output")).lines();
        assert_eq!(stdout.next().expect("a line").expect("read"), "ready");
        kill_process(Pid::from_child(&run), signal).expect("sent");
        assert_eq!(stdout.next().expect("a line").expect("read"), format!("got {name}"));
        assert_eq!(run.wait().expect("it ends").code(), Some(3));
    }
}

#[test]
fn a_second_signal_while_the_node_waits_for_others_ends_it_at_once() {
    let scratch = Scratch::new("second");
    let script = format!(
        "trap 'exit 3' INT; echo ready; while :; do read x < {}; done",
        fifo(&scratch, "never")
    );
    // A group of its own: a terminal that the tests run on has told nobody in it of anything.
    let mut run = scratch.run(&["--grace", "1h"], &["sh", "-c", &script]);
    let mut run = run.process_group(0).spawn().expect("it starts");
    let mut stdout = BufReader::new(run.stdout.take().expect("its output")).lines();
    assert_eq!(stdout.next().expect("a line").expect("read"), "ready");
    // Another app of that node, which takes its time.
    let mut other = UnixStream::connect(scratch.0.join("d/default/app.sock")).expect("a node");
    other.write_all(b"{\"op\":\"self\",\"id\":1}\n").expect("written");
    let mut events = BufReader::new(other).lines();
    assert!(events.next().expect("an answer").expect("read").contains("pid"));
    let pid = Pid::from_child(&run);
    kill_process(pid, Signal::INT).expect("sent");
    // The app has ended of the first one, and the node waits.
    assert!(events.next().expect("an event").expect("read").contains("draining"));
    assert!(run.try_wait().expect("a child").is_none());
    kill_process(pid, Signal::INT).expect("sent");
    let output = run.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(3), "the answer is still the app's");
    assert!(text(&output.stderr).contains("stopped at once"), "{}", text(&output.stderr));
}

/// Something to wait for that never comes.
fn fifo(scratch: &Scratch, name: &str) -> String {
    let path = scratch.0.join(name);
    let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo");
    assert!(made.success());
    path.display().to_string()
}

#[test]
fn an_app_that_a_signal_ends_answers_as_a_shell_would() {
    let scratch = Scratch::new("killed");
    assert_eq!(scratch.sh("kill -KILL $$").status.code(), Some(137));
    assert_eq!(scratch.sh("kill -TERM $$").status.code(), Some(143));
}

#[test]
fn a_command_that_cannot_be_started_answers_as_a_shell_would() {
    let scratch = Scratch::new("missing");
    let run = |command: &str| scratch.run(&[], &[command]).output().expect("it ends");
    let missing = run("/no/such/command");
    assert_eq!(missing.status.code(), Some(127));
    assert!(text(&missing.stderr).contains("/no/such/command: there is no such command"));
    assert_eq!(run("/etc/passwd").status.code(), Some(126));
}

#[test]
fn without_a_node_the_app_is_not_started() {
    let scratch = Scratch::new("taken");
    let ran = scratch.0.join("ran");
    let touch = ["touch", ran.to_str().expect("a text")];
    let in_the_way = scratch.0.join("file");
    std::fs::write(&in_the_way, "").expect("written");
    let socket = in_the_way.to_str().expect("a text");
    let output = scratch.run(&["--socket", socket], &touch).output().expect("it ends");
    assert_eq!(output.status.code(), Some(73), "{}", text(&output.stderr));
    let output = scratch.run(&["--grace", "soon"], &touch).output().expect("it ends");
    assert_eq!(output.status.code(), Some(64), "{}", text(&output.stderr));
    assert!(!ran.exists());
}
