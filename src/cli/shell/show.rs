//! Answers and events in words, one line each where one line is enough.

use std::fmt::Write as _;

use serde_json::Value as Json;

use super::command::{Command, Kv};
use crate::cli::calls::{modules_table, texts_lines};
use crate::cli::clean;
use crate::cli::host::tree_lines;
use crate::cli::nodes::nodes_table;
use crate::cli::presence::presence_table;
use crate::cli::processes::{cell, info_lines, names_table, processes_table};
use crate::cli::pubsub::topics_table;
use crate::client::{Answer, Event};

/// Fields that come first, because they say what an event is about.
const FIRST: [&str; 6] = ["ref", "node", "name", "pid", "from", "topic"];

/// An answer, as a person reads it.
pub(super) fn answer(command: &Command, answer: &Answer) -> String {
    let value = answer.to_value();
    let number = |what: &str| format!("{what} {}", cell(&value[what]));
    match command {
        Command::SelfPid
        | Command::Whereis { .. }
        | Command::Host { .. }
        | Command::Spawn { .. } => or_none(&value["pid"]),
        Command::Child { .. } if !value["pid"].is_null() => cell(&value["pid"]),
        Command::Tree => tree_lines(&value["tree"]),
        Command::Ping { .. }
        | Command::Alive { .. }
        | Command::Connect { .. }
        | Command::Disconnect { .. } => cell(&value["result"]),
        Command::Nodes { .. } => nodes_table(&value["nodes"]),
        Command::Names { .. } => names_table(&value["registered"]),
        Command::Call { .. } | Command::Rpc { .. } => part(answer),
        Command::Kv { what: Kv::Get, .. } => part(answer),
        Command::Kv { what: Kv::Keys, .. } => lines_or_none(&value["body"]),
        Command::KvStart { .. } => or_none(&value["pid"]),
        Command::Modules => modules_table(&value["modules"]),
        Command::Members { .. } => lines_or_none(&value["members"]),
        Command::Groups { .. } => lines_or_none(&value["groups"]),
        Command::Ps { .. } => processes_table(&value["processes"]),
        Command::Info { .. } => info(&value["info"]),
        Command::Monitor { .. } | Command::Track { .. } => number("ref"),
        Command::Presence { .. } => match &value["presence"] {
            rows if rows.as_array().is_some_and(Vec::is_empty) => "none".to_owned(),
            rows => presence_table(rows),
        },
        Command::Topics => topics_table(&value["topics"]),
        Command::Subscribers { .. } => cell(&value["count"]),
        Command::Publish { .. } => {
            format!("nodes {}, here {}", cell(&value["nodes"]), cell(&value["local"]))
        }
        Command::SendAfter { .. } => number("timer"),
        Command::CancelTimer { .. } | Command::ReadTimer { .. } => or_none(&value["left_ms"]),
        Command::Receive { .. } => match messages(&value["messages"]) {
            lines if lines.is_empty() => "nothing".to_owned(),
            lines => lines,
        },
        Command::Flush => messages(&value["messages"]),
        Command::Kv { what: Kv::Do, .. }
        | Command::Send { .. }
        | Command::Cast { .. }
        | Command::Child { .. }
        | Command::Subscribe { .. }
        | Command::Unsubscribe { .. }
        | Command::Untrack { .. }
        | Command::Serve { .. }
        | Command::Unserve { .. }
        | Command::Reply { .. }
        | Command::Raise { .. }
        | Command::Join { .. }
        | Command::Leave { .. }
        | Command::Register { .. }
        | Command::Unregister { .. }
        | Command::Demonitor { .. }
        | Command::Link { .. }
        | Command::Unlink { .. }
        | Command::TrapExit { .. }
        | Command::Exit { .. }
        | Command::Kill { .. }
        | Command::MonitorNodes { .. }
        | Command::Help { .. }
        | Command::Quit => "ok".to_owned(),
    }
}

/// A reply, or a part of one.
pub(super) fn part(event: &Event) -> String {
    clean(&event.body_json())
}

fn lines_or_none(list: &Json) -> String {
    match texts_lines(list) {
        lines if lines.is_empty() => "none".to_owned(),
        lines => lines,
    }
}

/// Events, one per line.
pub(super) fn messages(messages: &Json) -> String {
    let mut text = String::new();
    for message in messages.as_array().into_iter().flatten() {
        text.push_str(&event(message));
        text.push('\n');
    }
    text
}

/// `message from=<stock@hal.19b3f0c2a4e5f3c9.112> {"sku":7}`
pub(super) fn event(event: &Json) -> String {
    let Some(fields) = event.as_object() else { return clean(&event.to_string()) };
    let mut text = cell(&event["ev"]);
    let named = FIRST.iter().filter_map(|&key| fields.get_key_value(key));
    let others = fields.iter().filter(|(key, _)| {
        !FIRST.contains(&key.as_str()) && !["ev", "body"].contains(&key.as_str())
    });
    for (key, value) in named.chain(others) {
        if !is_empty(value) {
            let _ = write!(text, " {key}={}", cell(value));
        }
    }
    if let Some(body) = fields.get("body") {
        let _ = write!(text, " {body}");
    }
    clean(&text)
}

/// The keys below each other, messages as `flush` prints them.
fn info(info: &Json) -> String {
    let Some(fields) = info.as_object() else { return String::new() };
    let mut fields = fields.clone();
    if let Some(messages) = fields.get_mut("messages").and_then(Json::as_array_mut) {
        for message in messages {
            *message = event(message).into();
        }
    }
    info_lines(&Json::Object(fields))
}

fn or_none(value: &Json) -> String {
    if value.is_null() { "none".to_owned() } else { cell(value) }
}

fn is_empty(value: &Json) -> bool {
    value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_one_line_that_says_first_what_it_is_about() {
        let down = json!({"ev": "down", "reason": "noproc", "from": "<a@b.1.2>", "ref": 3});
        assert_eq!(event(&down), "down ref=3 from=<a@b.1.2> reason=noproc");
        let message = json!({"ev": "message", "body": {"a": "x y"}, "from": "<a@b.1.2>"});
        assert_eq!(event(&message), r#"message from=<a@b.1.2> {"a":"x y"}"#);
        let nodeup = json!({"ev": "nodeup", "node": "a@b", "labels": {}});
        assert_eq!(event(&nodeup), "nodeup node=a@b");
    }

    #[test]
    fn what_others_wrote_cannot_steer_the_terminal() {
        let exit = json!({"ev": "exit", "reason": "\u{1b}[2J"});
        assert_eq!(event(&exit), "exit reason=\u{fffd}[2J");
    }

    #[test]
    fn messages_in_info_read_as_flush_prints_them() {
        let shown = info(&json!({"messages": [{"ev": "message", "body": 1}], "links": []}));
        assert_eq!(shown, "links     -\nmessages  message 1\n");
    }
}
