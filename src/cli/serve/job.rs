//! One call, answered by one process and whatever that starts.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::wire::command::WORDS_BYTES_MAX;

/// Longest output that is read: the longest body that any node takes.
const OUTPUT_BYTES_MAX: usize = 63 * 1024 * 1024;
/// How long a job has to end by itself.
const GRACE: Duration = Duration::from_secs(2);
/// How long to wait for output that something else, which the job has left behind, holds open.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Where jobs run: what is executed, and which node it is for.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) command: Vec<OsString>,
    pub(super) node: String,
    pub(super) socket: PathBuf,
}

/// One call.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) module: String,
    pub(super) function: String,
    pub(super) caller: String,
    pub(super) body: String,
}

/// What a job came to.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) job: Job,
    pub(super) answer: Answer,
    pub(super) took: Duration,
}

/// What the caller is told.
#[derive(Debug)]
pub(super) enum Answer {
    /// What it printed.
    Reply(Vec<u8>),
    Failed {
        class: &'static str,
        reason: String,
        stack: Option<String>,
    },
    /// Nobody waits for it.
    Cancelled,
}

impl Answer {
    fn failed(reason: impl Into<String>) -> Self {
        Self::Failed { class: "error", reason: reason.into(), stack: None }
    }
}

impl Job {
    /// Runs the command to its end, or ends it.
    pub(super) async fn run(self, place: &Place, mut cancelled: oneshot::Receiver<()>) -> Ended {
        let began = Instant::now();
        let answer = match self.start(place) {
            Ok(mut child) => self.beside(&mut child, &mut cancelled).await,
            Err(error) => {
                let program = place.command.first().cloned().unwrap_or_default();
                Answer::failed(format!("cannot start {}: {error}", program.to_string_lossy()))
            }
        };
        Ended { job: self, answer, took: began.elapsed() }
    }

    fn start(&self, place: &Place) -> io::Result<Child> {
        let (program, arguments) = place.command.split_first().ok_or(io::ErrorKind::NotFound)?;
        let mut command = std::process::Command::new(program);
        command
            .args(arguments)
            .arg(&self.function)
            .env("PILLION_MODULE", &self.module)
            .env("PILLION_FUNCTION", &self.function)
            .env("PILLION_CALLER", &self.caller)
            .env("PILLION_NODE", &place.node)
            .env("PILLION_SOCKET", &place.socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // So that what it starts ends with it, and ctrl-c is ours alone.
            .process_group(0);
        Command::from(command).kill_on_drop(true).spawn()
    }

    async fn beside(&self, child: &mut Child, cancelled: &mut oneshot::Receiver<()>) -> Answer {
        let (mut printed, mut errors) = (Vec::new(), Tail::default());
        let mut too_much = false;
        let body = format!("{}\n", self.body);
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let status = {
            let feed = async {
                if let Some(mut stdin) = stdin {
                    // It need not read it.
                    let _ = stdin.write_all(body.as_bytes()).await;
                }
            };
            let print = async { too_much = read(stdout, &mut printed).await };
            let say = errors.read(stderr);
            let talk = async { tokio::join!(feed, print, say) };
            tokio::pin!(talk);
            let mut silent = false;
            let status = loop {
                tokio::select! {
                    biased;
                    _ = &mut *cancelled => {
                        let last_words = async {
                            if !silent {
                                let _ = timeout(GRACE + LAST_WORDS, &mut talk).await;
                            }
                        };
                        tokio::join!(end(child), last_words);
                        return Answer::Cancelled;
                    }
                    status = child.wait() => break status,
                    _ = &mut talk, if !silent => silent = true,
                }
            };
            if !silent {
                let _ = timeout(LAST_WORDS, &mut talk).await;
            }
            status
        };
        match status {
            Err(error) => Answer::failed(format!("cannot wait for it: {error}")),
            Ok(_) if too_much => Answer::failed("it printed more than a body may have"),
            Ok(status) if !status.success() => {
                Answer::Failed { class: "exit", reason: how(status), stack: errors.text() }
            }
            Ok(_) => Answer::Reply(printed),
        }
    }
}

/// Asks all that the job has started to end, and sees to it.
async fn end(child: &mut Child) {
    signal(child, Signal::TERM);
    if timeout(GRACE, child.wait()).await.is_err() {
        signal(child, Signal::KILL);
        let _ = child.wait().await;
    }
}

/// Its number is its own as long as nobody has waited for it.
fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended just now.
        let _ = kill_process_group(pid, signal);
    }
}

/// `exit status 3`, `killed by signal 9`.
fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// Reads all that it prints; true when that is too much.
async fn read(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> bool {
    let Some(mut from) = from else { return false };
    let mut chunk = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        if into.len() + length > OUTPUT_BYTES_MAX {
            // What it has to say beyond that is not waited for: writing it fails.
            return true;
        }
        into.extend_from_slice(&chunk[..length]);
    }
    false
}

/// The end of what was written to standard error, which is passed on.
#[derive(Debug, Default)]
struct Tail(Vec<u8>);

impl Tail {
    async fn read(&mut self, from: Option<impl AsyncRead + Unpin>) {
        let Some(mut from) = from else { return };
        let mut chunk = vec![0; 4 * 1024];
        while let Ok(length @ 1..) = from.read(&mut chunk).await {
            // Nobody may be there to read it.
            let _ = io::stderr().write_all(&chunk[..length]);
            self.0.extend_from_slice(&chunk[..length]);
            let beyond = self.0.len().saturating_sub(WORDS_BYTES_MAX);
            self.0.drain(..beyond);
        }
    }

    fn text(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.0);
        // What is no text is longer as one.
        let from = text.len().saturating_sub(WORDS_BYTES_MAX);
        let from = (from..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(from);
        let text = text[from..].trim_end();
        (!text.is_empty()).then(|| text.to_owned())
    }
}
