//! A terminal with a real shell in it, which stays open from block to block.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use pty_process::Size;
use pty_process::blocking::{Command, Pty, open};
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::page;

/// No person types it and no program prints it, so behind it is the shell's own prompt.
const PROMPT: &str = "\x1e$ ";

/// The terminal and its shell.
pub(crate) struct Terminal {
    keys: Pty,
    shell: Child,
    shown: Receiver<Vec<u8>>,
    raw: Vec<u8>,
    /// What has appeared and was not taken yet, without escape sequences and carriage returns.
    fresh: String,
    /// The prompt behind which the cursor stands, once it was taken.
    prompt: Option<String>,
}

/// What appears next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    Line(String),
    Prompt(String),
    /// Nothing did, in all that time.
    Nothing,
}

impl Terminal {
    /// A shell in this directory, with these variables and no others.
    pub(crate) fn open(directory: &Path, variables: &[(String, String)]) -> Self {
        let (keys, end) = open().expect("a pseudo terminal");
        keys.resize(Size::new(50, 250)).expect("a size");
        // What is typed is on the page already.
        let mut modes = tcgetattr(&keys).expect("its modes");
        modes.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&keys, OptionalActions::Now, &modes).expect("no echo");
        // Without an editor of lines and on a terminal that can do nothing, programs prompt and read, and do not paint.
        let shell = Command::new("bash")
            .args(["--norc", "--noprofile", "--noediting", "-i"])
            .env_clear()
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .envs([("TERM", "dumb"), ("PS1", PROMPT), ("HISTFILE", ""), ("NO_COLOR", "1")])
            .current_dir(directory)
            .spawn(end)
            .expect("bash");
        let (sender, shown) = channel();
        let mut reader =
            File::from(rustix::io::dup(&keys).expect("one more handle of the terminal"));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A terminal whose last program has ended reads as an error.
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        let mut terminal =
            Self { keys, shell, shown, raw: Vec::new(), fresh: String::new(), prompt: None };
        let by = Instant::now() + Duration::from_secs(60);
        while !terminal.fresh.ends_with(PROMPT) {
            assert!(terminal.more(by), "the shell does not prompt: {:?}", terminal.fresh);
        }
        terminal.fresh.clear();
        terminal.prompt = Some("$ ".to_owned());
        terminal
    }

    /// The prompt behind which one may type now.
    pub(crate) fn prompt(&self) -> Option<&str> {
        self.prompt.as_deref()
    }

    /// Types a line.
    pub(crate) fn line(&mut self, text: &str) {
        self.prompt = None;
        self.write(&format!("{text}\n"));
    }

    /// Presses a key of control.
    pub(crate) fn key(&mut self, key: char) {
        self.prompt = None;
        self.write(&key.to_string());
    }

    fn write(&mut self, text: &str) {
        self.keys.write_all(text.as_bytes()).expect("typed");
    }

    /// What appears next, waiting for it at most so long.
    pub(crate) fn next(&mut self, patience: Duration) -> Shown {
        let by = Instant::now() + patience;
        loop {
            let last = self.fresh.trim_start_matches('\x1e');
            if let Some(length) = page::prompt(last) {
                let prompt = last[..length].to_owned();
                // Who speaks without being asked does so behind the prompt.
                self.fresh = last[length..].to_owned();
                self.prompt = Some(prompt.clone());
                return Shown::Prompt(prompt);
            }
            if let Some(at) = self.fresh.find('\n') {
                let line: String = self.fresh.drain(..=at).collect();
                return Shown::Line(line.trim_end_matches('\n').to_owned());
            }
            if !self.more(by) {
                return Shown::Nothing;
            }
        }
    }

    /// What has appeared without a line end.
    pub(crate) fn begun(&self) -> &str {
        &self.fresh
    }

    /// Waits until more has appeared.
    fn more(&mut self, by: Instant) -> bool {
        let left = by.saturating_duration_since(Instant::now());
        match self.shown.recv_timeout(left) {
            Ok(bytes) => self.raw.extend(bytes),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
        }
        let text = take_text(&mut self.raw);
        self.fresh.push_str(&text);
        true
    }
}

impl Drop for Terminal {
    /// Ends the shell and all that runs below it.
    fn drop(&mut self) {
        let mut all = vec![self.shell.id()];
        let mut at = 0;
        while at < all.len() {
            all.extend(children(all[at]));
            at += 1;
        }
        for pid in all {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = self.shell.wait();
    }
}

/// Whom a process has started and not lost; nobody where the system does not tell.
fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|text| {
            text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

/// Takes the text out of what a terminal was sent; an escape sequence or a letter that is not whole yet stays.
fn take_text(raw: &mut Vec<u8>) -> String {
    let mut text = Vec::new();
    let mut at = 0;
    while at < raw.len() {
        let rest = &raw[at + 1..];
        let length = match (raw[at], rest.first()) {
            (0x1b, Some(b'[')) => {
                let end = rest[1..].iter().position(u8::is_ascii_alphabetic);
                let Some(end) = end else { break };
                end + 3
            }
            (0x1b, Some(_)) => 2,
            (0x1b, None) => break,
            (b'\r', _) => 1,
            (byte, _) => {
                text.push(byte);
                1
            }
        };
        at += length;
    }
    raw.drain(..at);
    if let Err(error) = std::str::from_utf8(&text)
        && error.error_len().is_none()
    {
        let whole = error.valid_up_to();
        raw.splice(..0, text.drain(whole..));
    }
    String::from_utf8_lossy(&text).into_owned()
}
