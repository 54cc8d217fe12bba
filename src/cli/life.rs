//! `pillion ready` and `pillion drain`: for scripts, init containers and hooks before a stop.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::time::Instant;

use super::connection::Connection;
use super::exit::{Exit, Failure};
use super::messages::duration;
use super::nodes::milliseconds;
use super::{Globals, Output, clean};
use crate::client::{Answer, Op};

/// How often `ready --wait` looks whether there is a socket.
const LOOK_EVERY: Duration = Duration::from_millis(20);

const READY_EXAMPLES: &str = "\
A node is ready once apps can connect, its certificate is there where others issue it, every way of finding nodes has
looked once or has had two seconds for it, and as many nodes as --min-peers says were connected at the same time. One
that drains is not ready any more.

Examples:
  pillion ready && ./app
  pillion ready --wait 30s || exit 1";

#[derive(Args, Clone, Debug)]
#[command(after_help = READY_EXAMPLES)]
pub(super) struct ReadyArgs {
    /// How long to wait until it is ready [default: not at all]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
}

const DRAIN_EXAMPLES: &str = "\
The apps hear `draining` and may finish what they are at; other nodes are told, call others from then on, may take its
global names, and do not dial it again. The node stays until it is told to stop, by SIGTERM or ctrl-c. There is no way
back: start it again.

It needs an operator's socket: PILLION_OPERATOR_SOCKET, or NAME.operator.sock beside NAME.sock, is found by itself. The
exit code is 0 also when the wait was over before all had gone: what is left is printed.

Examples:
  pillion drain                  begins, and says what there is to wait for
  pillion drain --wait 15s       before a stop, such as a preStop hook";

#[derive(Args, Clone, Debug)]
#[command(after_help = DRAIN_EXAMPLES)]
#[allow(clippy::doc_markdown, reason = "clap prints it as it stands, to people at a terminal")]
pub(super) struct DrainArgs {
    /// How long to wait at most until no app is connected and no call is under way [default: not at all]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
}

/// Asks with a wait, and for as long as that.
async fn ask(connection: &Connection, op: &str, wait: Option<Duration>) -> Result<Answer, Failure> {
    let wait = wait.unwrap_or_default();
    connection.request_for(Op::new(op).uint("wait_ms", milliseconds(wait)), wait).await
}

pub(super) async fn ready(globals: &Globals, args: &ReadyArgs) -> Result<(), Failure> {
    let ends = Instant::now() + args.wait.unwrap_or_default();
    let connection = loop {
        match Connection::open_operator(globals, "ready").await {
            Ok(connection) => break connection,
            // It may be about to start: a socket that is not there yet tells nobody when it comes.
            Err(failure) if failure.exit == Exit::NoDaemon => {
                if Instant::now() >= ends {
                    return unbound(globals, &failure.words);
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Err(failure) => return Err(failure),
        }
    };
    let left = ends.saturating_duration_since(Instant::now());
    let answer = ask(&connection, "ready", Some(left)).await?;
    let ready = answer.bool("ready") == Some(true);
    connection.output.tell(&answer, || {
        let why = answer.text("message").unwrap_or("it does not say why");
        let (node, not) = (&connection.node, if ready { "" } else { "not " });
        let why = if ready { String::new() } else { format!(": {why}") };
        format!("{node} is {not}ready{why}")
    })?;
    if ready { Ok(()) } else { Err(Failure::no()) }
}

/// No node answers: it is as little ready as one that says so.
fn unbound(globals: &Globals, words: &str) -> Result<(), Failure> {
    let output = Output { json: globals.json };
    output.say(&if output.json {
        json!({"ready": false, "reason": "unbound", "message": words}).to_string()
    } else {
        format!("not ready: {}", clean(words))
    })?;
    Err(Failure::no())
}

pub(super) async fn drain(globals: &Globals, args: &DrainArgs) -> Result<(), Failure> {
    let connection = Connection::open_operator(globals, "drain").await?;
    let answer = ask(&connection, "drain", args.wait).await?;
    let count = |key| answer.uint(key).unwrap_or(0);
    let (sessions, calls) = (count("sessions"), count("calls"));
    connection.output.tell(&answer, || {
        let left = match (sessions, calls) {
            (0, 0) => "nothing is left to wait for".to_owned(),
            _ => format!(
                "left: {}, {}",
                counted(sessions, "app is", "apps are", "connected"),
                counted(calls, "call is", "calls are", "under way")
            ),
        };
        format!("{} drains; {left}", connection.node)
    })
}

fn counted(count: u64, one: &str, many: &str, what: &str) -> String {
    let noun = if count == 1 { one } else { many };
    format!("{count} {noun} {what}")
}
