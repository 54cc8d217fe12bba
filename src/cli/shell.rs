//! `pillion shell`: commands typed one by one, answered one by one, as in `iex`.
//!
//! ```text
//! line ──parse──> Command ──op──> node ──answer──> words on standard output
//! ```
//!
//! The shell is a process like any other: it has a mailbox (pull delivery, so that `info messages` and `flush` see all
//! of it), may be registered, linked and killed. When it dies the shell goes on with a new one; when the node goes, so
//! does the shell.
//!
//! Without a terminal it is a script: no banner, no prompt, answers only, and the first failure ends it.

mod command;
mod complete;
mod history;
mod lines;
mod manual;
mod show;
mod watch;

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use command::Command;
use complete::Directory;
use lines::{Lines, Typed};
use watch::Watch;

use super::Globals;
use super::connection::Connection;
use super::exit::{Exit, Failure};
use super::output::note;
use crate::client::{self, Answer, Client, ClientError, Event, Op};
use crate::wire::command::Delivery;

/// How long an answer may take that does not wait for a message.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

const EXAMPLES: &str = "\
Examples:
  pillion shell
  echo 'send stock {\"sku\": 7}' | pillion shell
  pillion shell --json < commands | jq .

In a script, `#` begins a comment; the first command that fails ends it, with that command's exit code.";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ShellArgs {
    /// In a script, goes on after a failure; the exit code is still the first failure's
    #[arg(long, short)]
    keep_going: bool,
}

/// The shell, from its banner to its end.
pub(super) async fn shell(globals: &Globals, args: &ShellArgs) -> Result<(), Failure> {
    // Found once: when the shell's process dies, its next one is on the same node.
    let path = client::find(globals.socket.as_ref().map(PathBuf::from))?;
    let socket = Some(path.to_string_lossy().into_owned());
    let globals = Globals { socket, ..globals.clone() };
    let connection = Connection::open(&globals, "shell", Delivery::Pull).await?;
    if !lines::is_interactive() {
        let mut shell = Shell::new(globals, connection, Lines::script());
        return shell.script(args.keep_going).await;
    }
    let directory = Directory::default();
    let watch = Watch::open(&globals, directory.clone()).await?;
    if !globals.json {
        connection.output.say(&format!(
            "Pillion {} on {}\nThis shell is {}. `help` lists the commands, ctrl-d leaves.",
            env!("CARGO_PKG_VERSION"),
            connection.node,
            connection.pid,
        ))?;
    }
    let lines = Lines::terminal(format!("{}> ", connection.node), directory)
        .map_err(|error| Failure::new(Exit::Internal, format!("no terminal: {error}")))?;
    let (notices, stale, json) = (lines.notices(), Rc::new(Notify::new()), globals.json);
    let mut shell = Shell::new(globals, connection, lines);
    shell.stale = Rc::clone(&stale);
    shell.interactive = true;
    let watching = watch.run(&stale, |event, words| {
        notices.say(&if json { event.to_json() } else { words.to_owned() });
    });
    let watching = async {
        watching.await;
        // The conversation sees for itself that the node is gone.
        std::future::pending().await
    };
    tokio::select! {
        biased;
        ended = shell.converse() => ended,
        ended = watching => ended,
    }
}

/// The first session, and what is typed into it.
#[derive(Debug)]
struct Shell {
    globals: Globals,
    connection: Connection,
    lines: Lines,
    interactive: bool,
    /// Asks the second session to look again at who is there.
    stale: Rc<Notify>,
    /// Why this shell's process has died, once that is known.
    died: Option<String>,
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Well,
    /// It failed, and that has been told.
    Badly(Exit),
    Leave,
}

/// What became of a question.
#[derive(Debug)]
enum Asked {
    Answered(Answer),
    Refused(ClientError),
    Interrupted,
    Over(Over),
}

/// Why a session is over.
#[derive(Debug)]
enum Over {
    /// Its process has died, of this reason.
    Died(String),
    /// The node is gone.
    Gone,
}

impl Shell {
    fn new(globals: Globals, connection: Connection, lines: Lines) -> Self {
        Self { globals, connection, lines, interactive: false, stale: Rc::default(), died: None }
    }

    /// A person's lines, until ctrl-d.
    async fn converse(&mut self) -> Result<(), Failure> {
        let failed = |error| Failure::new(Exit::Internal, format!("cannot hear signals: {error}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
        loop {
            let typed = tokio::select! {
                biased;
                // Ending by itself, the shell puts the terminal back.
                _ = terminate.recv() => return Ok(()),
                _ = hangup.recv() => return Ok(()),
                typed = self.typed() => typed?,
            };
            let Some(line) = typed else { return Ok(()) };
            if self.line(&line, None).await? == Done::Leave {
                return Ok(());
            }
            self.stale.notify_one();
        }
    }

    /// A script's lines, until its end or its first failure.
    async fn script(&mut self, keep_going: bool) -> Result<(), Failure> {
        let mut first = None;
        let mut number = 0;
        while let Some(line) = self.typed().await? {
            number += 1;
            match self.line(&line, Some(number)).await? {
                Done::Well => {}
                Done::Badly(exit) => {
                    first.get_or_insert(exit);
                    if !keep_going {
                        break;
                    }
                }
                Done::Leave => break,
            }
        }
        // The words were said when it happened.
        first.map_or(Ok(()), |exit| Err(Failure::new(exit, "")))
    }

    /// The next line, `None` at the end. Meanwhile the shell's process may die and the node may go.
    async fn typed(&mut self) -> Result<Option<String>, Failure> {
        loop {
            let over = tokio::select! {
                biased;
                over = over(&self.connection.client, &mut self.died) => over,
                typed = self.lines.next() => match typed {
                    Typed::Line(line) => return Ok(Some(line)),
                    Typed::Cleared => continue,
                    Typed::End => return Ok(None),
                    Typed::Broken(why) => {
                        return Err(Failure::new(Exit::Internal, format!("cannot read: {why}")));
                    }
                },
            };
            let words = self.revive(over).await?;
            if self.interactive {
                self.lines.notices().say(&words);
            }
        }
    }

    /// Does what a line says, and says what came of it. An error is the end of the shell.
    async fn line(&mut self, line: &str, number: Option<u64>) -> Result<Done, Failure> {
        let command = match Command::parse(line) {
            Ok(None) => return Ok(Done::Well),
            Ok(Some(command)) => command,
            Err(failure) => return self.failed(&failure, "badarg", number),
        };
        let Some(op) = command.op() else { return self.alone(&command, number) };
        match self.ask(&command, op).await? {
            Asked::Answered(answer) => {
                self.answered(&command, &answer).await?;
                Ok(Done::Well)
            }
            Asked::Refused(error) => {
                let (code, message) = match &error {
                    ClientError::Refused { code, message, .. } => (code.clone(), message.clone()),
                    _ => ("too_large".to_owned(), error.to_string()),
                };
                let mut failure =
                    if command.is_call() { Failure::of_call(error) } else { Failure::from(error) };
                if self.globals.json {
                    // The code has a member of its own there.
                    failure.words = message;
                }
                self.failed(&failure, &code, number)
            }
            Asked::Interrupted => {
                self.connection.output.say("interrupted")?;
                Ok(Done::Badly(Exit::Temporary))
            }
            Asked::Over(over) => {
                let words = self.revive(over).await?;
                self.connection.output.say(&words)?;
                // To end is what `exit` asks for.
                let meant = matches!(command, Command::Exit { .. });
                Ok(if meant { Done::Well } else { Done::Badly(Exit::Temporary) })
            }
        }
    }

    /// What the node has no part in.
    fn alone(&self, command: &Command, number: Option<u64>) -> Result<Done, Failure> {
        let text = match command {
            Command::Help { word: Some(word) } => match manual::find(word) {
                Some(entry) => manual::page(entry),
                None => return self.failed(&command::no_such(word), "badarg", number),
            },
            Command::Help { word: None } => manual::list(),
            _ => return Ok(Done::Leave),
        };
        if self.globals.json {
            self.connection.output.say(&json!({ "ev": "ok", "help": text }).to_string())?;
        } else {
            self.connection.output.say(&text)?;
        }
        Ok(Done::Well)
    }

    /// Asks the node, and waits as long as the question allows.
    async fn ask(&mut self, command: &Command, op: Op) -> Result<Asked, Failure> {
        let waits = matches!(command, Command::Receive { timeout: None, .. });
        let extra = match command {
            Command::Receive { timeout: Some(timeout), .. } => *timeout,
            _ => Duration::ZERO,
        };
        let pending = match self.connection.client.start(op).await {
            Ok(pending) => pending,
            Err(ClientError::Lost(_)) => return Ok(Asked::Over(self.over().await)),
            Err(error) => return Ok(Asked::Refused(error)),
        };
        let id = pending.id();
        let mut answering = Box::pin(pending.answer());
        let interactive = self.interactive;
        let mut interrupted = Box::pin(async move {
            // A script has no handler: ctrl-c ends it as it ends any program.
            if !interactive || tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        });
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut answering => break answer,
                heard = heard(&self.connection.client, &mut self.died) => match heard {
                    Heard::Over(over) => return Ok(Asked::Over(over)),
                    // Each part starts the wait anew.
                    Heard::Part(part) if part.is_part(id) => self.part(&part)?,
                    Heard::Part(_) => {}
                },
                () = &mut interrupted => {
                    if !matches!(command, Command::Receive { .. }) {
                        return Ok(Asked::Interrupted);
                    }
                    // What it has taken by now is shown; from then on it takes nothing.
                    let answered = async {
                        self.connection.client.tell(Op::new("cancel").uint("of", id)).await?;
                        answering.await
                    };
                    match tokio::time::timeout(ANSWER_WITHIN, answered).await {
                        Ok(Ok(answer)) => return Ok(Asked::Answered(answer)),
                        Ok(Err(error @ ClientError::Lost(_))) => break Err(error),
                        Ok(Err(_)) => return Ok(Asked::Interrupted),
                        Err(_) => return Err(self.no_answer()),
                    }
                }
                () = tokio::time::sleep(ANSWER_WITHIN + extra), if !waits => {
                    return Err(self.no_answer());
                }
            }
        };
        while let Some(part) = self.connection.client.take_part(id) {
            self.part(&part)?;
        }
        match answer {
            Ok(answer) => Ok(Asked::Answered(answer)),
            Err(ClientError::Lost(_)) => Ok(Asked::Over(self.over().await)),
            Err(error) => Ok(Asked::Refused(error)),
        }
    }

    /// Says a part of an answer.
    fn part(&self, part: &Event) -> Result<(), Failure> {
        self.connection.output.tell(part, || show::part(part))
    }

    fn no_answer(&self) -> Failure {
        let node = &self.connection.node;
        Failure::new(Exit::Temporary, format!("{node} does not answer: it hangs or is stopped"))
    }

    async fn over(&mut self) -> Over {
        over(&self.connection.client, &mut self.died).await
    }

    async fn answered(&mut self, command: &Command, answer: &Answer) -> Result<(), Failure> {
        let output = &self.connection.output;
        match command {
            Command::Exit { reason } => {
                self.died = Some(reason.clone());
                let over = self.over().await;
                let words = self.revive(over).await?;
                self.connection.output.say(&words)
            }
            Command::Flush if !self.globals.json => {
                // One answer carries about a megabyte.
                let mut lines = show::answer(command, answer);
                while !lines.is_empty() {
                    output.say(&lines)?;
                    let more = self.connection.request(Op::new("flush")).await?;
                    lines = show::answer(command, &more);
                }
                output.say("ok")
            }
            _ => output.tell(answer, || show::answer(command, answer)),
        }
    }

    /// A new process for the shell, and the words for it; an error when the node is gone.
    async fn revive(&mut self, over: Over) -> Result<String, Failure> {
        let node = &self.connection.node;
        let Over::Died(reason) = over else {
            return Err(Failure::new(
                Exit::NoDaemon,
                format!("{node} is gone, and this shell with it"),
            ));
        };
        let old = self.connection.pid.clone();
        self.connection = Connection::open(&self.globals, "shell", Delivery::Pull).await?;
        let new = &self.connection.pid;
        Ok(if self.globals.json {
            json!({ "ev": "died", "pid": old, "reason": reason, "now": new }).to_string()
        } else {
            super::clean(&format!("{old} exited: {reason}; this shell is now {new}"))
        })
    }

    /// Says that a command failed: a script's errors go to standard error, with the line's number.
    fn failed(&self, failure: &Failure, code: &str, number: Option<u64>) -> Result<Done, Failure> {
        let words = &failure.words;
        if self.globals.json {
            let error = json!({ "ev": "error", "code": code, "message": words });
            self.connection.output.say(&error.to_string())?;
        } else if let Some(number) = number {
            note(&format!("line {number}: {words}"));
        } else {
            self.connection.output.say(&format!("error: {words}"))?;
        }
        Ok(Done::Badly(failure.exit))
    }
}

/// What comes beside answers.
#[derive(Debug)]
enum Heard {
    Over(Over),
    /// A part of the answer to a call, perhaps to one that is not waited for any more.
    Part(Event),
}

/// Waits for the end of a session. Cancel safe.
async fn over(client: &Client, died: &mut Option<String>) -> Over {
    loop {
        if let Heard::Over(over) = heard(client, died).await {
            return over;
        }
    }
}

/// Waits for the end of a session or for a part. Cancel safe.
async fn heard(client: &Client, died: &mut Option<String>) -> Heard {
    while let Some(event) = client.next_event().await {
        match event.name() {
            "died" => *died = Some(event.text("reason").unwrap_or("unknown").to_owned()),
            // Whoever stays holds the node up.
            "draining" => return Heard::Over(Over::Gone),
            "part" => return Heard::Part(event),
            _ => {}
        }
    }
    Heard::Over(died.take().map_or(Over::Gone, Over::Died))
}
