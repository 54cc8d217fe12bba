//! `pillion presence`: who is present under a topic, as it is and as it changes; and being present.

use clap::{Args, Subcommand};
use serde_json::Value as Json;

use super::connection::{Connection, Heard};
use super::exit::{Exit, Failure};
use super::output::note;
use super::processes::cell;
use super::{Globals, clean, table};
use crate::client::{Op, WINDOW};
use crate::dialect::json::json_to_cbor;
use crate::wire::command::Delivery;

const EXAMPLES: &str = "\
With --watch a line is join, leave or update, the key, the pid and what is known: first all who are there, then who comes
and goes.

Examples:
  pillion presence room.1
  pillion presence room.1 --key ann
  pillion presence room.1 --watch
  pillion presence room.1 --json | jq '.presence | map(.key) | unique'
  pillion presence track room.1 ann '{\"at\": \"desk\"}'";

const TRACK_EXAMPLES: &str = "\
Ends by ctrl-c, and with it the presence; on every node.

Examples:
  pillion presence track room.1 ann
  pillion presence track machines hal \"{\\\"load\\\": $(cut -d' ' -f1 /proc/loadavg)}\"";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct PresenceArgs {
    #[command(subcommand)]
    command: Option<PresenceCommand>,
    /// The topic, without wildcards
    #[arg(required = true)]
    topic: Option<String>,
    /// Of this key only
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Goes on, and prints who comes and goes
    #[arg(long)]
    watch: bool,
}

#[derive(Clone, Debug, Subcommand)]
enum PresenceCommand {
    /// Is present under a topic and a key until ctrl-c
    #[command(after_help = TRACK_EXAMPLES)]
    Track(TrackArgs),
}

#[derive(Args, Clone, Debug)]
struct TrackArgs {
    /// The topic, without wildcards
    topic: String,
    /// Under which key: a user, a machine
    key: String,
    /// What everybody sees of it, as JSON
    #[arg(allow_hyphen_values = true)]
    metadata: Option<String>,
}

pub(super) async fn presence(globals: &Globals, args: &PresenceArgs) -> Result<(), Failure> {
    if let Some(PresenceCommand::Track(args)) = &args.command {
        return track(globals, args).await;
    }
    let topic = args.topic.as_deref().unwrap_or_default();
    if args.watch {
        return watch(globals, topic, args.key.as_deref()).await;
    }
    let connection = Connection::open(globals, "presence", Delivery::Pull).await?;
    let op = Op::new("presence").text("topic", topic).maybe_text("key", args.key.as_deref());
    let answer = connection.request(op).await?;
    let rows = &answer.to_value()["presence"];
    if globals.json || rows.as_array().is_some_and(|rows| !rows.is_empty()) {
        connection.output.tell(&answer, || presence_table(rows))?;
    } else {
        note(&format!("nobody is present under {}", clean(topic)));
    }
    connection.close().await
}

async fn watch(globals: &Globals, topic: &str, key: Option<&str>) -> Result<(), Failure> {
    let mut connection = Connection::open(globals, "presence", WINDOW).await?;
    connection.request(Op::new("monitor_presence").text("topic", topic)).await?;
    note(&format!("watching {}; ctrl-c ends", clean(topic)));
    loop {
        let event = match connection.hear(None).await? {
            Heard::Event(event) if event.name() == "presence" => event,
            Heard::Event(_) => continue,
            Heard::Enough | Heard::Nothing => return connection.close().await,
        };
        let mut event = event.to_value();
        for rows in ["joins", "leaves"] {
            if let (Some(key), Some(rows)) = (key, event[rows].as_array_mut()) {
                rows.retain(|row| row["key"] == key);
            }
        }
        if globals.json {
            connection.output.say(&event.to_string())?;
        } else {
            for line in changes(&event) {
                connection.output.say(&line)?;
            }
        }
    }
}

async fn track(globals: &Globals, args: &TrackArgs) -> Result<(), Failure> {
    let mut op = Op::new("track").text("topic", &args.topic).text("key", &args.key);
    if let Some(metadata) = &args.metadata {
        let item = json_to_cbor(metadata.trim().as_bytes()).map_err(|error| {
            let words = format!(
                "the metadata is not JSON: {}. A text is '\"quoted\"'",
                clean(&error.message)
            );
            Failure::new(Exit::Data, words)
        })?;
        op = op.raw("metadata", &item);
    }
    let mut connection = Connection::open(globals, "presence track", WINDOW).await?;
    let answer = connection.request(op).await?;
    if globals.json {
        connection.output.say(&answer.to_json())?;
    }
    note(&format!("present as {} under {}; ctrl-c ends", clean(&args.key), clean(&args.topic)));
    while let Heard::Event(_) = connection.hear(None).await? {}
    connection.close().await
}

/// One row for each presence.
pub(super) fn presence_table(rows: &Json) -> String {
    let rows = rows.as_array().into_iter().flatten();
    let rows: Vec<_> =
        rows.map(|row| ["key", "pid", "metadata"].map(|key| cell(&row[key]))).collect();
    table(["KEY", "PID", "METADATA"], &rows)
}

/// `join ann <a@hal.19b3f0c2a4e5f3c9.112> {"at":"desk"}`, one line for each change.
fn changes(event: &Json) -> Vec<String> {
    let rows = |noun: &str| event[noun].as_array().cloned().unwrap_or_default();
    let joins = rows("joins");
    let updated = |row: &Json| {
        joins.iter().any(|join| join["prev"] == row["ref"] && join["pid"] == row["pid"])
    };
    let line = |word: &str, row: &Json| {
        let words = [word.to_owned(), cell(&row["key"]), cell(&row["pid"]), cell(&row["metadata"])];
        clean(words.join(" ").trim_end())
    };
    let leaves = rows("leaves");
    let left = leaves.iter().filter(|row| !updated(row)).map(|row| line("leave", row));
    let joined =
        joins.iter().map(|row| line(if row["prev"].is_null() { "join" } else { "update" }, row));
    left.chain(joined).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_comes_goes_and_changes_is_a_line_each() {
        let ann = json!({"key": "ann", "pid": "<a@b.1.2>", "ref": 1, "metadata": {"at": "desk"}});
        let anew = json!({"key": "ann", "pid": "<a@b.1.2>", "ref": 2, "prev": 1});
        let bob = json!({"key": "bob\n", "pid": "<a@b.1.3>", "ref": 3, "metadata": 7});
        let event = json!({"joins": [anew], "leaves": [bob, ann]});
        let lines = ["leave bob\u{fffd} <a@b.1.3> 7", "update ann <a@b.1.2>"];
        assert_eq!(changes(&event), lines);
        let lines = [r#"join ann <a@b.1.2> {"at":"desk"}"#];
        assert_eq!(changes(&json!({"joins": [ann], "leaves": []})), lines);
    }
}
