//! `pillion peers` and `pillion explain`: who is there or should be, and why not.

use std::time::Duration;

use clap::Args;
use serde_json::Value as Json;

use super::connection::Connection;
use super::exit::Failure;
use super::{Globals, clean, table};
use crate::client::Op;
use crate::wire::command::Delivery;

const EXPLAIN_EXAMPLES: &str = "\
Says who reported it and when, what was tried and how that went, what happens next and
what to do. Ends with 1 when nobody has ever reported such a node.

Examples:
  pillion explain b@hal
  pillion explain 10.0.0.7
  pillion explain b --json | jq -r '.explanation.advice[]'";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXPLAIN_EXAMPLES)]
pub(super) struct ExplainArgs {
    /// Its name, without @HOST one of this machine's, or an address
    node: String,
}

pub(super) async fn peers(globals: &Globals) -> Result<(), Failure> {
    let connection = Connection::open(globals, "peers", Delivery::Pull).await?;
    connection.show(Op::new("peers"), "peers", peers_table).await
}

pub(super) async fn explain(globals: &Globals, args: &ExplainArgs) -> Result<(), Failure> {
    let connection = Connection::open(globals, "explain", Delivery::Pull).await?;
    let answer = connection.request(Op::new("explain").text("node", &args.node)).await?;
    let explained = answer.to_value()["explanation"].take();
    connection.output.tell(&answer, || words(&explained))?;
    if explained["state"] == "unknown" { Err(Failure::no()) } else { Ok(()) }
}

fn words(explained: &Json) -> String {
    let lines =
        |key: &str| explained[key].as_array().into_iter().flatten().filter_map(Json::as_str);
    let mut text = String::new();
    for line in lines("because") {
        text.push_str(&clean(line));
        text.push('\n');
    }
    let mut advice = lines("advice").peekable();
    if advice.peek().is_some() {
        text.push_str("\nWhat to do:\n");
    }
    for line in advice {
        text.push_str("  - ");
        text.push_str(&clean(line));
        text.push('\n');
    }
    text
}

/// `5 ms`, `12 s`, `3 min`, `2 h`, `4 days`.
pub(super) fn span(ms: &Json) -> String {
    let Some(ms) = ms.as_u64() else { return String::new() };
    let time = Duration::from_millis(ms);
    match time.as_secs() {
        0 => format!("{ms} ms"),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

fn texts<'a>(row: &'a Json, key: &str) -> Vec<&'a str> {
    row[key].as_array().into_iter().flatten().filter_map(Json::as_str).collect()
}

fn peers_table(peers: &Json) -> String {
    let mut rows: Vec<[String; 6]> = peers.as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        return "nobody is known; `pillion doctor` says how the strategies are doing".to_owned();
    }
    let rank = |state: &str| ["connected", "wanted", "known"].iter().position(|s| *s == state);
    rows.sort_by(|a, b| (rank(&a[1]), &a[0]).cmp(&(rank(&b[1]), &b[0])));
    table(["NODE", "STATE", "FOR", "ADDRESSES", "REPORTED BY", "WHY NOT / NEXT TRY"], &rows)
}

fn row(peer: &Json) -> [String; 6] {
    let addresses = texts(peer, "addresses");
    let addresses = match addresses.as_slice() {
        [] => peer["address"].as_str().unwrap_or("").to_owned(),
        [one, two] => format!("{one} {two}"),
        [first, rest @ ..] if !rest.is_empty() => format!("{first} (+{})", rest.len()),
        [only, ..] => (*only).to_owned(),
    };
    let sources = peer["sources"].as_array().into_iter().flatten();
    let sources: Vec<String> = sources
        .filter_map(|source| {
            let name = source["source"].as_str()?;
            Some(match source["seen_ms"].as_u64() {
                Some(0) | None => name.to_owned(),
                Some(_) => format!("{name} ({} ago)", span(&source["seen_ms"])),
            })
        })
        .collect();
    let mut why = Vec::new();
    let failure = &peer["failure"];
    if let Some(reason) = peer["reason"].as_str().or_else(|| failure["reason"].as_str()) {
        why.push(reason.to_owned());
    }
    if peer["next_ms"].is_u64() {
        why.push(format!("next try in {}", span(&peer["next_ms"])));
    }
    let text = |key: &str, none: &str| clean(peer[key].as_str().unwrap_or(none));
    [
        text("node", "?"),
        text("state", ""),
        span(&peer["since_ms"]),
        addresses,
        clean(&sources.join(", ")),
        clean(&why.join("; ")),
    ]
}
