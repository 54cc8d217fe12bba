//! `pillion nodes`, `ping`, `connect`, `disconnect`.

use std::time::Duration;

use clap::Args;
use serde_json::Value as Json;

use super::connection::{Connection, Heard};
use super::exit::Failure;
use super::messages::duration;
use super::{Globals, Output, table};
use crate::client::{Op, WINDOW};
use crate::wire::command::Delivery;

/// How often `--watch` looks for changes that have no event, such as a node that is found and not yet connected.
const LOOK_EVERY: Duration = Duration::from_secs(1);

const NODES_EXAMPLES: &str = "\
States: self, connected, known (found, not connected; the last column says why).

Examples:
  pillion nodes --watch
  pillion nodes --json | jq -r '.nodes[] | select(.state == \"connected\").node'";

#[derive(Args, Clone, Debug)]
#[command(after_help = NODES_EXAMPLES)]
pub(super) struct NodesArgs {
    /// Prints the table again whenever it changes, until ctrl-c
    #[arg(long, short)]
    watch: bool,
    /// Only these: self, connected, visible, hidden or known
    #[arg(long)]
    state: Option<String>,
}

#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  pillion ping b@hal && echo there\n  pillion ping b --timeout 500ms"
)]
pub(super) struct PingArgs {
    /// Its name; without @HOST one of this machine's
    node: String,
    /// How long to wait for its answer
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
}

const WAIT_FOR_EXAMPLES: &str = "\
Prints the nodes that it waited for. Hidden nodes do not count, nor does this one.

Examples:
  pillion wait-for store@io && ./migrate
  pillion wait-for --role worker --count 3 --timeout 1m";

#[derive(Args, Clone, Debug)]
#[command(after_help = WAIT_FOR_EXAMPLES)]
pub(super) struct WaitForArgs {
    /// Their names; without @HOST those of this machine
    #[arg(value_name = "NODE", required_unless_present_any = ["role", "count"])]
    nodes: Vec<String>,
    /// Those that are counted have this role
    #[arg(long)]
    role: Option<String>,
    /// How many others are to be connected [default: 1 of the role]
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// How long to wait [default: without end]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  pillion connect b@hal\n  pillion connect 10.0.0.5:4470")]
pub(super) struct ConnectArgs {
    /// A node's name, or host:port
    to: String,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  pillion disconnect b@hal")]
pub(super) struct DisconnectArgs {
    /// Its name; without @HOST one of this machine's
    node: String,
}

pub(super) async fn nodes(globals: &Globals, args: &NodesArgs) -> Result<(), Failure> {
    let op = || Op::new("nodes").maybe_text("state", args.state.as_deref());
    if !args.watch {
        let connection = Connection::open(globals, "nodes", Delivery::Pull).await?;
        return connection.show(op(), "nodes", nodes_table).await;
    }
    let mut connection = Connection::open(globals, "nodes", WINDOW).await?;
    connection.request(Op::new("monitor_nodes").bool("on", true)).await?;
    let mut shown = Json::Null;
    loop {
        let answer = connection.request(op()).await?;
        let mut seen = answer.to_value()["nodes"].take();
        for node in seen.as_array_mut().into_iter().flatten() {
            // How much waits at this moment is no news.
            node["queued"] = Json::Null;
        }
        if seen != shown {
            shown = seen;
            // Home, and erase below: the screen of a person is one table that changes.
            let home = if Output::is_terminal() { "\x1b[H\x1b[2J" } else { "" };
            connection.output.tell(&answer, || format!("{home}{}", nodes_table(&shown)))?;
        }
        if matches!(connection.hear(Some(LOOK_EVERY)).await?, Heard::Enough) {
            return Ok(());
        }
    }
}

pub(super) async fn ping(globals: &Globals, args: &PingArgs) -> Result<(), Failure> {
    let connection = Connection::open(globals, "ping", Delivery::Pull).await?;
    let mut op = Op::new("ping").text("node", &args.node);
    if let Some(timeout) = args.timeout {
        op = op.uint("timeout_ms", milliseconds(timeout));
    }
    let answer = connection.request_for(op, args.timeout.unwrap_or_default()).await?;
    let result = answer.text("result").unwrap_or_default();
    connection.output.tell(&answer, || result.to_owned())?;
    if result == "pong" { Ok(()) } else { Err(Failure::no()) }
}

pub(super) async fn wait_for(globals: &Globals, args: &WaitForArgs) -> Result<(), Failure> {
    let connection = Connection::open(globals, "wait-for", Delivery::Pull).await?;
    let mut op = Op::new("wait_for").maybe_text("role", args.role.as_deref());
    if !args.nodes.is_empty() {
        op = op.json("nodes", &args.nodes.clone().into());
    }
    if let Some(count) = args.count {
        op = op.uint("count", count);
    }
    let answer = match args.timeout {
        Some(timeout) => {
            let op = op.uint("timeout_ms", milliseconds(timeout));
            connection.request_for(op, timeout).await?
        }
        None => connection.request_without_end(op).await?,
    };
    connection.output.tell(&answer, || {
        let nodes = answer.to_value()["nodes"].take();
        let names = nodes.as_array().into_iter().flatten().filter_map(Json::as_str);
        names.collect::<Vec<_>>().join("\n")
    })
}

pub(super) async fn connect(globals: &Globals, args: &ConnectArgs) -> Result<(), Failure> {
    let connection = Connection::open(globals, "connect", Delivery::Pull).await?;
    let answer = connection.request(Op::new("connect").text("to", &args.to)).await?;
    let connected = answer.bool("result") == Some(true);
    connection.output.tell(&answer, || {
        if connected {
            "connected"
        } else {
            "not connected; `pillion nodes` says why, if it lists such a node"
        }
        .to_owned()
    })?;
    if connected { Ok(()) } else { Err(Failure::no()) }
}

pub(super) async fn disconnect(globals: &Globals, args: &DisconnectArgs) -> Result<(), Failure> {
    let connection = Connection::open(globals, "disconnect", Delivery::Pull).await?;
    let answer = connection.request(Op::new("disconnect").text("node", &args.node)).await?;
    let result = answer.bool("result") == Some(true);
    connection.output.tell(&answer, || {
        if result { "disconnected" } else { "it was not connected" }.to_owned()
    })?;
    if result { Ok(()) } else { Err(Failure::no()) }
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn nodes_table(nodes: &Json) -> String {
    let mut rows: Vec<[String; 5]> = nodes.as_array().into_iter().flatten().map(row).collect();
    // Oneself first, then those connected, then the rest; by name.
    let rank = |state: &str| ["self", "connected", "known"].iter().position(|s| *s == state);
    rows.sort_by(|a, b| (rank(&a[1]), &a[0]).cmp(&(rank(&b[1]), &b[0])));
    table(["NODE", "STATE", "LABELS", "ADDRESS", "FOUND BY / WHY NOT"], &rows)
}

/// What this node has lost since it started, if anything.
fn lost(lost: &Json) -> Option<String> {
    let words = [
        ("overflow", "in full mailboxes"),
        ("congested", "to slow nodes"),
        ("too_large", "too large"),
    ];
    let lost: Vec<String> = words
        .iter()
        .filter_map(|(key, words)| Some((lost[*key].as_u64().filter(|n| *n > 0)?, words)))
        .map(|(count, words)| format!("{count} {words}"))
        .collect();
    (!lost.is_empty()).then(|| format!("lost messages: {}", lost.join(", ")))
}

fn row(node: &Json) -> [String; 5] {
    let labels = node["labels"].as_object().into_iter().flatten();
    let mut labels: Vec<String> =
        labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    if node["hidden"].as_bool() == Some(true) {
        labels.push("(hidden)".to_owned());
    }
    if node["draining"].as_bool() == Some(true) {
        labels.push("(draining)".to_owned());
    }
    let texts = |key: &str| -> Vec<&str> {
        node[key].as_array().into_iter().flatten().filter_map(Json::as_str).collect()
    };
    // Where it listens; where we see it, when it does not say.
    let address = match texts("addresses").as_slice() {
        [] => node["address"].as_str().unwrap_or("").to_owned(),
        [only] => (*only).to_owned(),
        [first, rest @ ..] => format!("{first} (+{})", rest.len()),
    };
    let sources = texts("sources").join(" ");
    let why = match node["reason"].as_str() {
        Some(reason) if sources.is_empty() => reason.to_owned(),
        Some(reason) => format!("{sources}: {reason}"),
        None => sources,
    };
    let why = lost(&node["lost"]).unwrap_or(why);
    let text = |key: &str, none: &str| node[key].as_str().unwrap_or(none).to_owned();
    [text("node", "?"), text("state", ""), labels.join(" "), address, why]
}
