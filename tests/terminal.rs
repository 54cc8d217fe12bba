//! What a person at a terminal meets: real commands under a pseudo terminal, keys pressed and words that appear.

#![allow(clippy::disallowed_methods, reason = "a test waits for real processes, in real time")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use pty_process::Size;
use pty_process::blocking::{Command as OnTerminal, Pty, open};
use rustix::process::{Pid, Signal, kill_process};

const PILLION: &str = env!("CARGO_BIN_EXE_pillion");
/// Nothing that works takes this long, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(60);

const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const TAB: &str = "\t";
const UP: &str = "\x1b[A";

/// A directory of a test's own, and a node in it.
struct Machine {
    directory: tempfile::TempDir,
    node: Option<Child>,
}

impl Machine {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("pt").tempdir().expect("a directory");
        Self { directory, node: None }
    }

    /// With the node `stock@hal`.
    fn with_node() -> Self {
        let mut machine = Self::new();
        let mut up = machine.command(&["up", "--name", "stock@hal", "--strategy", "none"]);
        up.args(["--listen", "127.0.0.1:0", "--grace", "200ms"]).stderr(Stdio::piped());
        let mut node = up.spawn().expect("a node");
        let mut log = BufReader::new(node.stderr.take().expect("its log"));
        let mut line = String::new();
        while !line.contains("is up") {
            line.clear();
            assert_ne!(log.read_line(&mut line).expect("a line"), 0, "the node has ended");
        }
        // Read on, so that it never waits for us.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        machine.node = Some(node);
        machine
    }

    fn variables(&self) -> [(&'static str, String); 4] {
        let below = |name: &str| self.directory.path().join(name).display().to_string();
        [
            ("HOME", below("h")),
            ("PILLION_DIR", below("d")),
            ("TERM", "xterm".to_owned()),
            ("PATH", std::env::var("PATH").unwrap_or_default()),
        ]
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PILLION);
        command.args(arguments).env_clear().envs(self.variables()).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it ends")
    }

    /// Runs a command on a terminal of its own.
    fn on_terminal(&self, arguments: &[&str]) -> Terminal {
        let (keys, end) = open().expect("a pseudo terminal");
        keys.resize(Size::new(40, 200)).expect("a size");
        let command = OnTerminal::new(PILLION).args(arguments).env_clear().envs(self.variables());
        let child = command.spawn(end).expect("it starts");
        Terminal::new(keys, child)
    }

    /// A shell that has greeted and prompted.
    fn shell(&self) -> Terminal {
        let mut shell = self.on_terminal(&["shell"]);
        shell.shows("ctrl-d leaves");
        shell.shows("stock@hal> ");
        shell
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(node) = &mut self.node {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

/// A command on its terminal.
struct Terminal {
    keys: Pty,
    child: Child,
    shown: Receiver<Vec<u8>>,
    /// What has appeared and was not looked for yet, without the escape sequences.
    fresh: String,
    raw: Vec<u8>,
}

impl Terminal {
    fn new(keys: Pty, child: Child) -> Self {
        let (sender, shown) = channel();
        let mut reader =
            std::fs::File::from(rustix::io::dup(&keys).expect("one more handle of the terminal"));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A terminal whose last program has ended reads as an error.
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { keys, child, shown, fresh: String::new(), raw: Vec::new() }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("pressed");
    }

    /// Waits for the first of these words to appear, and gives it; what appeared before is passed over.
    #[track_caller]
    fn shows_one_of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        let by = Instant::now() + PATIENCE;
        loop {
            let found = words.iter().filter_map(|word| Some((self.fresh.find(word)?, *word)));
            if let Some((at, word)) = found.min() {
                self.fresh.drain(..at + word.len());
                return word;
            }
            let left = by.saturating_duration_since(Instant::now());
            match self.shown.recv_timeout(left) {
                Ok(bytes) => self.raw.extend(bytes),
                Err(why) => panic!("{words:?} did not appear ({why}), but: {:?}", self.fresh),
            }
            self.fresh.push_str(&take_text(&mut self.raw));
        }
    }

    /// Whether these words appear within a moment; what appeared before them is passed over.
    fn soon_shows(&mut self, words: &str) -> bool {
        let by = Instant::now() + Duration::from_millis(300);
        loop {
            if let Some(at) = self.fresh.find(words) {
                self.fresh.drain(..at + words.len());
                return true;
            }
            let left = by.saturating_duration_since(Instant::now());
            let Ok(bytes) = self.shown.recv_timeout(left) else { return false };
            self.raw.extend(bytes);
            self.fresh.push_str(&take_text(&mut self.raw));
        }
    }

    #[track_caller]
    fn shows(&mut self, words: &str) {
        self.shows_one_of(&[words]);
    }

    /// How it ended, and what appeared until then.
    fn ends(mut self) -> (Option<i32>, String) {
        while let Ok(bytes) = self.shown.recv_timeout(PATIENCE) {
            self.raw.extend(bytes);
        }
        self.fresh.push_str(&take_text(&mut self.raw));
        let code = self.child.wait().expect("it ends").code();
        (code, std::mem::take(&mut self.fresh))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes the text out of what a terminal was sent; an escape sequence that is not whole yet stays.
fn take_text(raw: &mut Vec<u8>) -> String {
    let mut text = Vec::new();
    let mut at = 0;
    while at < raw.len() {
        if raw[at] != 0x1b {
            text.push(raw[at]);
            at += 1;
            continue;
        }
        let rest = &raw[at + 1..];
        let length = match rest.first() {
            Some(b'[') => rest[1..].iter().position(u8::is_ascii_alphabetic).map(|n| n + 2),
            Some(_) => Some(1),
            None => None,
        };
        let Some(length) = length else { break };
        at += 1 + length;
    }
    raw.drain(..at);
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn a_person_is_greeted_asked_and_answered_and_leaves_with_ctrl_d() {
    let machine = Machine::with_node();
    let mut shell = machine.on_terminal(&["shell"]);
    shell.shows("on stock@hal");
    shell.shows("This shell is <stock@hal.");
    shell.shows("stock@hal> ");
    shell.press("ping stock\r");
    shell.shows("pong");
    shell.shows("stock@hal> ");
    shell.press("send nobody 1\r");
    shell.shows("error: ");
    shell.shows("stock@hal> ");
    shell.press(CTRL_D);
    let (code, said) = shell.ends();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn the_tab_key_completes_commands_and_names() {
    let machine = Machine::with_node();
    let mut shell = machine.shell();
    shell.press("register inbox\r");
    shell.shows("ok");
    // Names are fetched behind every command, and perhaps not at once.
    loop {
        shell.shows("stock@hal> ");
        shell.press(&format!("whe{TAB}inb{TAB}\r"));
        shell.shows("whereis inb");
        if shell.shows_one_of(&["none", "<stock@hal."]) == "<stock@hal." {
            break;
        }
    }
    shell.shows("stock@hal> ");
    // Of several, all are shown.
    shell.press(&format!("mon{TAB}{TAB}"));
    shell.shows("monitor_nodes");
}

#[test]
fn the_arrow_up_brings_back_what_was_typed_here_and_in_earlier_shells() {
    let machine = Machine::with_node();
    let mut shell = machine.shell();
    shell.press("ping nobody\r");
    shell.shows("pang");
    shell.shows("stock@hal> ");
    shell.press(&format!("{UP}\r"));
    shell.shows("ping nobody");
    shell.shows("pang");
    shell.shows("stock@hal> ");
    shell.press(CTRL_D);
    assert_eq!(shell.ends().0, Some(0));
    let mut shell = machine.shell();
    shell.press(&format!("{UP}\r"));
    shell.shows("ping nobody");
    shell.shows("pang");
}

#[test]
fn ctrl_c_clears_a_line_and_takes_a_receive_back_without_losing_what_comes() {
    let machine = Machine::with_node();
    let mut shell = machine.shell();
    shell.press(&format!("exit never{CTRL_C}"));
    shell.shows("stock@hal> ");
    shell.press("register inbox\r");
    shell.shows("ok");
    shell.shows("stock@hal> ");
    shell.press("receive\r");
    // A key that is pressed before the shell listens for it as a signal would be one more key.
    let by = Instant::now() + PATIENCE;
    while !shell.soon_shows("interrupted") {
        assert!(Instant::now() < by, "the shell does not take its receive back");
        shell.press(CTRL_C);
    }
    shell.shows("stock@hal> ");
    // The receive was taken back: what comes now waits for the next one.
    assert!(machine.run(&["send", "inbox", "\"late\""]).status.success());
    shell.press("receive\r");
    shell.shows("\"late\"");
    shell.press("flush\r");
    shell.shows("ok");
    shell.press("whereis inbox\r");
    shell.shows("<stock@hal.");
    shell.press("quit\r");
    let (code, said) = shell.ends();
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("\"late\""), "{said}");
}

#[test]
fn a_shell_whose_terminal_hangs_up_ends() {
    let machine = Machine::with_node();
    let mut shell = machine.shell();
    shell.press("half a li");
    shell.shows("half a li");
    let pid = Pid::from_child(&shell.child);
    kill_process(pid, Signal::HUP).expect("sent");
    let (code, said) = shell.ends();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn one_ctrl_c_is_one_for_an_app_that_runs_beside_its_node() {
    let machine = Machine::new();
    let fifo = machine.directory.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    let script = format!(
        "n=0; trap 'n=$((n+1)); echo got-$n' INT; trap 'echo after-$n; exit 5' TERM; echo ready; \
         while :; do read x < {}; done",
        fifo.display()
    );
    let listen = ["--listen", "127.0.0.1:0", "--strategy", "none", "--name", "stock@hal"];
    let mut run =
        machine.on_terminal(&[&["run"], &listen[..], &["--", "sh", "-c", &script]].concat());
    run.shows("ready");
    run.press(CTRL_C);
    run.shows("got-1");
    // The node goes on, and a signal that only it was sent is passed on.
    assert!(machine.run(&["ping", "stock"]).status.success());
    kill_process(Pid::from_child(&run.child), Signal::TERM).expect("sent");
    run.shows("after-1");
    assert_eq!(run.ends().0, Some(5));
}
