//! `pillion ps`, `info`, `names`, `monitor`: looking at processes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use serde_json::Value as Json;
use tokio::time::Instant;

use super::connection::{Connection, Heard};
use super::exit::{Exit, Failure};
use super::messages::duration;
use super::output::note;
use super::{Globals, clean, table};
use crate::client::{Op, WINDOW};
use crate::wire::command::Delivery;

const PS_EXAMPLES: &str = "\
The session of this command is a process too, and in the list.

Examples:
  pillion ps
  pillion ps --node b@hal
  pillion ps --json | jq '.processes[] | select(.message_queue_len > 100)'";

const INFO_EXAMPLES: &str = "\
Keys: pid, registered_name, label, status, message_queue_len, messages, links, monitors, monitored_by, trap_exit, parent, \
delivery, mailbox, dropped, memory, os_pid, sensitive, client, session, pod, service_account. Without any, all but the messages and a few rare ones.

Examples:
  pillion info stock
  pillion info stock@b@hal message_queue_len links
  pillion info '<stock@hal.19b3f0c2a4e5f3c9.112>' messages";

const MONITOR_EXAMPLES: &str = "\
Prints why it ended. The exit code is 0 when the reason is normal, 75 when its node is not connected (it may live on),
and 1 for every other reason, noproc (it was not there) among them.

Examples:
  pillion monitor stock && echo 'it ended well'
  pillion monitor stock@b@hal --timeout 1h";

/// The column of the pod.
const POD: usize = 6;

#[derive(Args, Clone, Debug)]
#[command(after_help = PS_EXAMPLES)]
pub(super) struct PsArgs {
    /// Of another node
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  pillion names\n  pillion names --global")]
pub(super) struct NamesArgs {
    /// The names of the whole mesh, of those nodes that are connected
    #[arg(long)]
    global: bool,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = MONITOR_EXAMPLES)]
pub(super) struct MonitorArgs {
    /// Whom: a name, a name on another node, global:NAME, or a pid
    to: String,
    /// Ends when the process has not ended within this time
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = INFO_EXAMPLES)]
pub(super) struct InfoArgs {
    /// Of whom: a name, a name on another node, or a pid
    to: String,
    /// What of it
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
}

pub(super) async fn ps(globals: &Globals, args: &PsArgs) -> Result<(), Failure> {
    let connection = Connection::open(globals, "ps", Delivery::Pull).await?;
    let op = Op::new("processes").maybe_text("node", args.node.as_deref());
    connection.show(op, "processes", processes_table).await
}

pub(super) async fn info(globals: &Globals, args: &InfoArgs) -> Result<(), Failure> {
    let connection = Connection::open(globals, "info", Delivery::Pull).await?;
    let mut op = Op::new("info").text("to", &args.to);
    if !args.keys.is_empty() {
        op = op.json("keys", &args.keys.clone().into());
    }
    connection.show(op, "info", info_lines).await
}

pub(super) async fn names(globals: &Globals, args: &NamesArgs) -> Result<(), Failure> {
    let connection = Connection::open(globals, "names", Delivery::Pull).await?;
    let scope = args.global.then_some("global");
    let op = Op::new("registered").maybe_text("scope", scope);
    connection.show(op, "registered", names_table).await
}

pub(super) async fn monitor(globals: &Globals, args: &MonitorArgs) -> Result<(), Failure> {
    let mut connection = Connection::open(globals, "monitor", WINDOW).await?;
    let answer = connection.request(Op::new("monitor").text("to", &args.to)).await?;
    let reference = answer.uint("ref");
    note(&format!("watching {}; ctrl-c ends", clean(&args.to)));
    let began = Instant::now();
    loop {
        let left = args.timeout.map(|timeout| timeout.saturating_sub(began.elapsed()));
        let down = match connection.hear(left).await? {
            Heard::Event(event) if event.name() == "down" && event.uint("ref") == reference => {
                event
            }
            Heard::Event(_) => continue,
            Heard::Nothing => {
                return Err(Failure::new(Exit::Temporary, "it has not ended in that time"));
            }
            Heard::Enough => {
                return Err(Failure::new(Exit::Temporary, "stopped before it has ended"));
            }
        };
        let reason = down.text("reason").unwrap_or_default();
        connection.output.tell(&down, || {
            let whom = down.text("from").unwrap_or(&args.to);
            clean(&format!("down {whom}: {reason}"))
        })?;
        return match reason {
            "normal" => connection.close().await,
            "noconnection" => Err(Failure::new(
                Exit::Temporary,
                "its node is not connected: the process may live on",
            )),
            _ => Err(Failure::no()),
        };
    }
}

pub(super) fn names_table(names: &Json) -> String {
    let names = names.as_array().into_iter().flatten();
    let mut rows: Vec<_> = names.map(|name| [cell(&name["name"]), cell(&name["pid"])]).collect();
    rows.sort();
    table(["NAME", "PID"], &rows)
}

pub(super) fn processes_table(processes: &Json) -> String {
    let all = || processes.as_array().into_iter().flatten();
    // A parent is best known by what it is called.
    let called = |process: &Json| {
        let called = [&process["name"], &process["label"], &process["pid"]];
        cell(called.into_iter().find(|called| !called.is_null()).unwrap_or(&Json::Null))
    };
    let calls: BTreeMap<_, _> =
        all().filter_map(|process| Some((process["pid"].as_str()?, called(process)))).collect();
    let rows: Vec<_> = all()
        .map(|process| {
            let keys = [
                "pid",
                "name",
                "status",
                "message_queue_len",
                "session",
                "client",
                "pod",
                "label",
                "os_pid",
                "parent",
            ];
            keys.map(|key| match (key, process[key].as_str()) {
                ("parent", Some(pid)) => calls.get(pid).cloned().unwrap_or_else(|| pid.to_owned()),
                _ => cell(&process[key]),
            })
        })
        .collect();
    let [pid, name, status, queue, session, client, pod, label, os_pid, parent] =
        ["PID", "NAME", "STATUS", "QUEUE", "SESSION", "CLIENT", "POD", "LABEL", "OS PID", "PARENT"];
    if rows.iter().any(|row| !row[POD].is_empty()) {
        let all = [pid, name, status, queue, session, client, pod, label, os_pid, parent];
        return table(all, &rows);
    }
    // Few nodes serve several pods.
    let rows: Vec<_> = rows
        .into_iter()
        .map(|[pid, name, status, queue, session, client, _, label, os_pid, parent]| {
            [pid, name, status, queue, session, client, label, os_pid, parent]
        })
        .collect();
    table([pid, name, status, queue, session, client, label, os_pid, parent], &rows)
}

pub(super) fn info_lines(info: &Json) -> String {
    let width = info.as_object().into_iter().flatten().map(|(key, _)| key.len()).max().unwrap_or(0);
    let mut text = String::new();
    let mut pairs: Vec<_> = info.as_object().into_iter().flatten().collect();
    // Who it is comes first.
    pairs.sort_by_key(|(key, _)| !matches!(key.as_str(), "pid" | "registered_name" | "label"));
    for (key, value) in pairs {
        // Lists of pids read better below each other.
        let values = match value {
            Json::Array(items) if !items.is_empty() => items.iter().map(cell).collect(),
            Json::Array(_) | Json::Null => vec!["-".to_owned()],
            value => vec![cell(value)],
        };
        for (index, value) in values.iter().enumerate() {
            let key = if index == 0 { key } else { "" };
            let _ = writeln!(text, "{key:width$}  {}", clean(value));
        }
    }
    text
}

/// A text as it is, nothing as nothing, all else as JSON.
pub(super) fn cell(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        value => value.to_string(),
    }
}
