//! `pillion serve`: a module whose functions are a command of the shell.
//!
//! ```text
//! rpc ──> waiting ──> job (a process group of its own) ──> reply, or raise
//!         cancel ───> forgotten, or killed
//! ```
//!
//! Calls wait here and not in the mailbox: there a cancel would wait behind them.

mod job;

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::calls::function;
use super::connection::Connection;
use super::exit::{Exit, Failure};
use super::messages::OPAQUE;
use super::output::note;
use super::{Globals, clean};
use crate::client::{self, ClientError, Event, Op, WINDOW};
use crate::dialect::json::json_to_cbor;
use job::{Answer, Ended, Job, Place};

/// Most calls that wait here for a job to end; the others wait in the mailbox.
const WAITING_MAX: usize = 256;
/// Most bytes of them.
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;

const EXAMPLES: &str = "\
Each call starts the command with the function's name as its last argument; the call's body is its standard input, as
JSON. What it prints is the reply: JSON, or else a text. When it ends with another code than 0, the caller gets an
exception of the class `exit`, with the end of what it wrote to standard error. When nobody waits for the answer any
more, the command and all that it started are ended.

The command finds in its environment PILLION_MODULE, PILLION_FUNCTION, PILLION_CALLER (a pid), PILLION_NODE and
PILLION_SOCKET. Every app of the mesh may call it. Without FUNCTIONs it is
called for every name that does not begin with `-`.

Ctrl-c ends: what waits is given back, what runs is waited for; a second ctrl-c ends that too.

Examples:
  pillion serve stock.count,take -- ./stock.py
  pillion serve host -- sh -c 'case $PILLION_FUNCTION in load) uptime;; disk) df -h;; *) exit 64;; esac'
  pillion serve resize --jobs 2 -- ./resize.sh";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
#[allow(clippy::doc_markdown, reason = "clap prints it as it stands, to people at a terminal")]
pub(super) struct ServeArgs {
    /// A module; with functions behind its last dot only those, with `*` all
    #[arg(value_name = "MODULE[.FUNCTION,...]")]
    what: String,
    /// How many calls are answered at a time [default: the number of CPUs]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What is served: a module, and its functions unless it is all.
fn served(what: &str) -> Result<(&str, Option<Vec<String>>), Failure> {
    if !what.contains('.') {
        return Ok((what, None));
    }
    let (module, functions) = function(what)?;
    if functions == "*" {
        return Ok((module, None));
    }
    let functions = functions.split(',').map(str::to_owned).collect();
    Ok((module, Some(functions)))
}

pub(super) async fn serve(globals: &Globals, args: &ServeArgs) -> Result<(), Failure> {
    let (module, functions) = served(&args.what)?;
    let listen = |kind| {
        signal(kind).map_err(|error| {
            Failure::new(Exit::Internal, format!("cannot listen for signals: {error}"))
        })
    };
    let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let [interrupt, terminate, hangup] = signals.map(listen);
    let signals = [interrupt?, terminate?, hangup?];
    // Found once, for the command too.
    let socket = client::find(globals.socket.as_ref().map(PathBuf::from))?;
    let found = Globals { socket: Some(socket.to_string_lossy().into_owned()), ..globals.clone() };
    let connection = Connection::open(&found, "serve", WINDOW).await?;
    let op = Op::new("serve").text("module", module);
    connection
        .request(match &functions {
            Some(functions) => op.json("functions", &functions.clone().into()),
            None => op,
        })
        .await?;
    let cpus = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let jobs = args.jobs.unwrap_or_else(cpus).get();
    note(&clean(&format!(
        "serving {} on {}, {jobs} at a time; ctrl-c ends",
        args.what, connection.node
    )));
    let place = Place { command: args.command.clone(), node: connection.node.clone(), socket };
    let server = Server {
        connection,
        place,
        all: functions.is_none(),
        jobs,
        waiting: VecDeque::new(),
        waiting_bytes: 0,
        cancels: BTreeMap::new(),
        running: JoinSet::new(),
        numbered: 0,
    };
    server.run(module, signals).await
}

/// The calls that are here.
#[derive(Debug)]
struct Server {
    connection: Connection,
    place: Place,
    /// Whatever function it may be.
    all: bool,
    jobs: usize,
    waiting: VecDeque<Event>,
    waiting_bytes: usize,
    /// How to end each job, by the call that it is for; one that nobody waits for has a number of its own.
    cancels: BTreeMap<Call, oneshot::Sender<()>>,
    running: JoinSet<(Call, Ended)>,
    numbered: u64,
}

/// Which call a job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
    Answered(u64),
    Cast(u64),
}

/// How far a server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Serving,
    /// It takes nothing any more, and waits for what runs.
    Ending,
    /// What runs is ended.
    Killing,
}

impl Server {
    /// Serves until ctrl-c, or until the node leaves.
    async fn run(
        mut self,
        module: &str,
        [mut interrupt, mut terminate, mut hangup]: [Signal; 3],
    ) -> Result<(), Failure> {
        let mut state = State::Serving;
        let mut why = None;
        loop {
            while state == State::Serving && self.running.len() < self.jobs {
                let Some(event) = self.waiting.pop_front() else { break };
                self.waiting_bytes -= event.len();
                self.start(module, &event);
            }
            if state != State::Serving && self.running.is_empty() {
                break;
            }
            let room = self.waiting.len() < WAITING_MAX && self.waiting_bytes < WAITING_BYTES_MAX;
            let stopped = tokio::select! {
                biased;
                _ = interrupt.recv() => None,
                _ = terminate.recv() => None,
                _ = hangup.recv() => None,
                Some(ended) = self.running.join_next() => {
                    if let Ok((call, ended)) = ended {
                        self.cancels.remove(&call);
                        match self.tell(call, ended).await {
                            Ok(()) => continue,
                            Err(failure) => Some(failure),
                        }
                    } else {
                        continue;
                    }
                }
                event = self.connection.client.next_event(), if room && self.is_connected() => {
                    match event {
                        Some(event) if event.name() == "draining" => Some(Failure::new(
                            Exit::Temporary,
                            format!("the node {} is leaving", self.connection.node),
                        )),
                        Some(event) => match self.hear(event, state).await {
                            Ok(()) => continue,
                            Err(failure) => Some(failure),
                        },
                        None => Some(ClientError::Lost(
                            self.connection.client.ended().unwrap_or_default(),
                        ).into()),
                    }
                }
            };
            let again = state != State::Serving && stopped.is_none();
            if let Some(failure) = stopped {
                why.get_or_insert(failure);
            }
            if again || !self.is_connected() {
                // Nobody can be told what comes of it.
                state = State::Killing;
                std::mem::take(&mut self.cancels).into_values().for_each(kill);
            } else if state == State::Serving {
                state = State::Ending;
                if let Err(failure) = self.give_back(module).await {
                    why.get_or_insert(failure);
                }
                if !self.running.is_empty() {
                    let words = "jobs are still running and waited for; ctrl-c ends them";
                    note(&format!("{} {words}", self.running.len()));
                }
            }
        }
        if self.is_connected() {
            // What was given to this command before it asked for no more, and not looked at yet, is for others too.
            while let Some(event) = self.connection.client.take_event() {
                self.hear(event, State::Ending).await?;
            }
        }
        match why {
            // The node leaves in order, and so does this.
            Some(failure) if self.is_connected() => {
                let _ = self.connection.close().await;
                Err(failure)
            }
            Some(failure) => Err(failure),
            None => self.connection.close().await,
        }
    }

    fn is_connected(&self) -> bool {
        self.connection.client.ended().is_none()
    }

    /// Takes no more calls, and gives those back that have not begun: somebody else may have them.
    async fn give_back(&mut self, module: &str) -> Result<(), Failure> {
        self.waiting_bytes = 0;
        let waiting = std::mem::take(&mut self.waiting);
        match self.connection.client.request(Op::new("unserve").text("module", module)).await {
            Ok(_) | Err(ClientError::Refused { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        // Nothing is given to this command behind the answer; what waits in the mailbox then was never handed over.
        match self.connection.client.request(Op::new("flag").text("delivery", "pull")).await {
            Ok(_) | Err(ClientError::Refused { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        for event in waiting {
            self.undone(&event, "it is served here no longer").await?;
        }
        Ok(())
    }

    async fn hear(&mut self, event: Event, state: State) -> Result<(), Failure> {
        match event.name() {
            "rpc" if state != State::Serving => {
                self.undone(&event, "it is served here no longer").await
            }
            "rpc" if self.all && event.text("function").is_none_or(|f| f.starts_with('-')) => {
                // The command would take it for an option.
                self.undone(&event, "a function whose name begins with `-` is not served").await
            }
            "rpc" => {
                self.waiting_bytes += event.len();
                self.waiting.push_back(event);
                Ok(())
            }
            "call" => self.undone(&event, "this process answers calls of functions only").await,
            "cancel" => {
                let reference = event.uint("ref");
                if let Some(at) = self.waiting.iter().position(|e| e.uint("ref") == reference) {
                    let event = self.waiting.remove(at);
                    self.waiting_bytes -= event.map_or(0, |event| event.len());
                } else if let Some(reference) = reference
                    && let Some(cancel) = self.cancels.remove(&Call::Answered(reference))
                {
                    kill(cancel);
                }
                Ok(())
            }
            "message" | "cast" => Ok(()),
            _ => {
                note(&clean(&event.to_json()));
                Ok(())
            }
        }
    }

    /// Says that nothing was done, so that it may be asked of somebody else.
    async fn undone(&self, event: &Event, why: &str) -> Result<(), Failure> {
        let Some(reference) = event.uint("ref") else { return Ok(()) };
        let op = Op::new("raise").uint("ref", reference);
        self.request(op.text("class", "undef").text("reason", why)).await
    }

    /// A refusal is said; only a lost connection is the end.
    async fn request(&self, op: Op) -> Result<(), Failure> {
        match self.connection.client.request(op).await {
            Ok(_) => Ok(()),
            Err(error @ ClientError::Refused { .. }) => {
                note(&clean(&error.to_string()));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn start(&mut self, module: &str, event: &Event) {
        let text = |key| event.text(key).unwrap_or_default().to_owned();
        let job = Job {
            module: module.to_owned(),
            function: text("function"),
            caller: text("from"),
            body: event.body_json(),
        };
        self.numbered += 1;
        let call = event.uint("ref").map_or(Call::Cast(self.numbered), Call::Answered);
        let (cancel, cancelled) = oneshot::channel();
        self.cancels.insert(call, cancel);
        let place = self.place.clone();
        self.running.spawn(async move { (call, job.run(&place, cancelled).await) });
    }

    /// Tells the caller what came of a job, and then who watches.
    async fn tell(&self, call: Call, ended: Ended) -> Result<(), Failure> {
        let line = self.line(&ended);
        if let Call::Answered(reference) = call {
            self.answer(reference, ended).await?;
        }
        self.connection.output.say(&line)
    }

    /// `stock.count <b@hal...> ok 12 ms`
    fn line(&self, ended: &Ended) -> String {
        let (result, reason) = match &ended.answer {
            Answer::Reply(_) => ("ok", None),
            Answer::Cancelled => ("cancelled", None),
            Answer::Failed { reason, .. } => ("exception", Some(reason.as_str())),
        };
        let Job { module, function, caller, .. } = &ended.job;
        let ms = ended.took.as_millis();
        if self.connection.output.json {
            json!({
                "ev": "served", "module": module, "function": function, "from": caller,
                "result": result, "reason": reason, "ms": u64::try_from(ms).unwrap_or(u64::MAX),
            })
            .to_string()
        } else {
            let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            clean(&format!("{module}.{function} {caller} {result} {ms} ms{reason}"))
        }
    }

    async fn answer(&self, reference: u64, ended: Ended) -> Result<(), Failure> {
        let Job { module, function, .. } = &ended.job;
        match ended.answer {
            Answer::Cancelled => Ok(()),
            Answer::Failed { class, reason, stack } => {
                let op = Op::new("raise").uint("ref", reference).text("class", class);
                self.request(op.text("reason", &reason).maybe_text("stack", stack.as_deref())).await
            }
            Answer::Reply(bytes) => {
                let op = reply(Op::new("reply").uint("ref", reference), &bytes);
                let error = match self.connection.client.request(op).await {
                    Ok(_) => return Ok(()),
                    Err(error @ ClientError::Lost(_)) => return Err(error.into()),
                    Err(error) => error.to_string(),
                };
                note(&clean(&format!("{module}.{function}: {error}")));
                let op = Op::new("raise").uint("ref", reference).text("class", "reply");
                self.request(op.text("reason", &error)).await
            }
        }
    }
}

fn kill(cancel: oneshot::Sender<()>) {
    // It may have ended just now.
    let _ = cancel.send(());
}

/// What a command has printed, as a body: JSON, a text, or bytes.
fn reply(op: Op, bytes: &[u8]) -> Op {
    let trimmed = bytes.trim_ascii();
    if trimmed.is_empty() {
        return op.body(&[0xf6]);
    }
    if let Ok(item) = json_to_cbor(trimmed) {
        return op.body(&item);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => op.text_body(text.strip_suffix('\n').unwrap_or(text)),
        Err(_) => op.text("ct", OPAQUE).body(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_served_is_a_module_or_some_of_its_functions() {
        let all = |what| served(what).expect("good").1;
        assert_eq!(served("stock").expect("good"), ("stock", None));
        assert_eq!(served("my.stock.*").expect("good"), ("my.stock", None));
        assert_eq!(all("stock.count,take"), Some(vec!["count".to_owned(), "take".to_owned()]));
        assert!(served("stock.").is_err());
    }
}
