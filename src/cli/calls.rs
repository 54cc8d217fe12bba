//! `pillion call`, `rpc`, `modules`, `groups`: requests that want an answer, and who there is to answer them.

use std::time::Duration;

use clap::Args;
use serde_json::Value as Json;

use super::connection::Connection;
use super::exit::{Exit, Failure};
use super::messages::{Form, duration, with_body};
use super::nodes::milliseconds;
use super::output::note;
use super::processes::cell;
use super::{Globals, clean, table};
use crate::client::{ClientError, Event, Op};
use crate::wire::cbor::Reader;
use crate::wire::command::Delivery;

const CALL_EXAMPLES: &str = "\
TO is a name (stock), a name on another node (stock@b@hal), a name of the whole mesh (global:stock), any one member of a
group (group:tills), or a pid in quotes. The parts of an answer in parts are printed as they come.

When there is no reply, the words say whether the call may have been carried out. The exit code is 1 when the callee
failed or died, 69 when nobody is there (noproc, undef), 75 when it may work later (timeout, noconnection, overloaded).

Examples:
  pillion call stock '[\"get\", \"apples\"]'
  pillion call stock@b@hal --text 'how many?' --timeout 500ms
  pillion call file@b '\"path\"' --raw > copy";

const RPC_EXAMPLES: &str = "\
NODE is a node's name, or any: the nearest that has the function. The function's name is what follows the last dot.
Several nodes are one line each; the exit code is 1 when one of them failed. Else it is that of `pillion call`.

Examples:
  pillion rpc any stock.count
  pillion rpc b@hal stock.take '[\"apples\", 3]'
  pillion rpc --nodes a,b stock.count
  pillion rpc --all node.info
  pillion rpc --cast any stock.refill 12";

#[derive(Args, Clone, Debug)]
#[command(after_help = CALL_EXAMPLES)]
pub(super) struct CallArgs {
    /// Whom: a name, a name on another node, group:NAME, global:NAME, or a pid
    to: String,
    /// The request, as JSON; `-` reads it from standard input [default: null]
    #[arg(allow_hyphen_values = true)]
    body: Option<String>,
    #[command(flatten)]
    how: How,
}

/// How long to wait, what is sent, and what is printed.
#[derive(Args, Clone, Debug)]
struct How {
    /// How long to wait for the reply; each part of an answer in parts starts it anew [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// Sends BODY as a text, whatever is in it
    #[arg(long)]
    text: bool,
    /// Prints the reply's bytes or its text and nothing else, without quotes and without a line end
    #[arg(long)]
    raw: bool,
}

impl How {
    /// Adds what these flags say.
    fn put(&self, op: Op, body: Option<&str>) -> Result<Op, Failure> {
        let op = match self.timeout {
            Some(timeout) => op.uint("timeout_ms", milliseconds(timeout)),
            None => op,
        };
        match body {
            Some(body) => with_body(op, body, if self.text { Form::Text } else { Form::Json }),
            None => Ok(op.body(&[0xf6])),
        }
    }

    /// Makes the call, and prints what it ended as.
    async fn make(&self, globals: &Globals, name: &str, op: Op) -> Result<(), Failure> {
        let connection = Connection::open(globals, name, Delivery::Pull).await?;
        let patience = self.timeout.unwrap_or_default();
        let output = &connection.output;
        let print = |event: &Event| {
            if self.raw {
                output.put(&plain(event))
            } else {
                output.tell(event, || clean(&event.body_json()))
            }
        };
        let answer = connection.call(op, patience, &print).await?;
        if answer.name() == "error" {
            if globals.json {
                output.say(&answer.to_json())?;
            }
            if let Some(stack) = answer.text("stack") {
                for line in stack.lines() {
                    note(&format!("  {}", clean(line)));
                }
            }
            return Err(Failure::of_call(ClientError::from(&answer)));
        }
        print(&answer)?;
        connection.close().await
    }
}

/// The bytes that a reply is about: those of another content type, of a byte string, of a text; else it as JSON.
fn plain(event: &Event) -> Vec<u8> {
    let body = event.body();
    if event.text("ct").is_some() || body.is_empty() {
        return body.to_vec();
    }
    if let Ok(bytes) = Reader::new(body).byte_string() {
        return bytes.to_vec();
    }
    match Reader::new(body).text() {
        Ok(text) => text.as_bytes().to_vec(),
        Err(_) => format!("{}\n", event.body_json()).into_bytes(),
    }
}

#[derive(Args, Clone, Debug)]
#[command(
    after_help = RPC_EXAMPLES,
    override_usage = "pillion rpc [OPTIONS] <NODE|any> <MODULE.FUNCTION> [BODY]\n       \
                      pillion rpc [OPTIONS] <--nodes A,B|--all> <MODULE.FUNCTION> [BODY]"
)]
#[allow(clippy::doc_markdown, reason = "clap prints it as it stands, to people at a terminal")]
pub(super) struct RpcArgs {
    /// The node, or any; left out with --nodes and --all
    #[arg(value_name = "NODE")]
    first: String,
    /// What to call
    #[arg(value_name = "MODULE.FUNCTION", allow_negative_numbers = true)]
    second: Option<String>,
    /// Its argument, as JSON; `-` reads it from standard input [default: null]
    #[arg(value_name = "BODY", allow_negative_numbers = true)]
    third: Option<String>,
    /// Asks each of these nodes
    #[arg(long, value_name = "NODES", value_delimiter = ',', conflicts_with = "all")]
    nodes: Vec<String>,
    /// Asks this node and every connected one
    #[arg(long)]
    all: bool,
    /// Wants no answer, and does not hear whether anybody is there
    #[arg(long, conflicts_with_all = ["timeout", "raw"])]
    cast: bool,
    #[command(flatten)]
    how: How,
}

/// A function, as people write it: what follows the last dot is its name.
pub(super) fn function(text: &str) -> Result<(&str, &str), Failure> {
    match text.rsplit_once('.') {
        Some((module, function)) if !module.is_empty() && !function.is_empty() => {
            Ok((module, function))
        }
        _ => {
            let words = format!("`{}` is not MODULE.FUNCTION, such as stock.count", clean(text));
            Err(Failure::new(Exit::Usage, words))
        }
    }
}

pub(super) async fn call(globals: &Globals, args: &CallArgs) -> Result<(), Failure> {
    let op = Op::new("call").text("to", &args.to);
    let op = args.how.put(op, args.body.as_deref())?;
    args.how.make(globals, "call", op).await
}

pub(super) async fn rpc(globals: &Globals, args: &RpcArgs) -> Result<(), Failure> {
    let usage = |words: &str| Failure::new(Exit::Usage, words);
    let many = args.all || !args.nodes.is_empty();
    let (node, what, body) = match (many, &args.second, &args.third) {
        (true, _, Some(_)) => {
            return Err(usage("--nodes and --all say which nodes: leave NODE out"));
        }
        (true, body, None) => (None, &args.first, body),
        (false, Some(what), body) => (Some(&args.first), what, body),
        (false, None, _) => {
            return Err(usage("what to call is missing: it is NODE MODULE.FUNCTION [BODY]"));
        }
    };
    let (module, function) = function(what)?;
    let op = Op::new(if args.cast { "rpc_cast" } else { "rpc" });
    let op = op.text("module", module).text("function", function);
    let op = args.how.put(op, body.as_deref())?;
    if let Some(node) = node {
        let op = op.text("node", node);
        return if args.cast {
            cast(globals, op).await
        } else {
            args.how.make(globals, "rpc", op).await
        };
    }
    if args.how.raw {
        return Err(usage("--raw is for the reply of one node"));
    }
    let nodes = if args.all { all(globals).await? } else { args.nodes.clone() };
    let op = op.json("nodes", &nodes.into());
    if args.cast {
        return cast(globals, op).await;
    }
    let connection = Connection::open(globals, "rpc", Delivery::Pull).await?;
    let answer = connection.request_for(op, args.how.timeout.unwrap_or_default()).await?;
    let results = answer.to_value()["results"].take();
    connection.output.tell(&answer, || results_lines(&results))?;
    let failed = results.as_array().into_iter().flatten().any(|result| !result["error"].is_null());
    if failed { Err(Failure::no()) } else { connection.close().await }
}

async fn cast(globals: &Globals, op: Op) -> Result<(), Failure> {
    let connection = Connection::open(globals, "rpc", Delivery::Pull).await?;
    let answer = connection.request(op).await?;
    if globals.json {
        connection.output.say(&answer.to_json())?;
    }
    connection.close().await
}

/// This node and every connected one.
async fn all(globals: &Globals) -> Result<Vec<String>, Failure> {
    let connection = Connection::open(globals, "rpc", Delivery::Pull).await?;
    let answer = connection.request(Op::new("nodes")).await?.to_value();
    let nodes = answer["nodes"].as_array().into_iter().flatten();
    Ok(nodes
        .filter(|node| matches!(node["state"].as_str(), Some("self" | "connected")))
        .filter_map(|node| node["node"].as_str().map(str::to_owned))
        .collect())
}

/// `b@hal 3` or `b@hal error: nobody has it (undef)`, one line for each node.
pub(super) fn results_lines(results: &Json) -> String {
    let line = |result: &Json| {
        let node = cell(&result["node"]);
        let error = &result["error"];
        if error.is_null() {
            return clean(&format!("{node} {}", result["body"]));
        }
        let maybe = match error["maybe_applied"].as_bool() {
            Some(true) => ": it may have been carried out all the same",
            _ => "",
        };
        let (message, code) = (cell(&error["message"]), cell(&error["code"]));
        clean(&format!("{node} error: {message} ({code}){maybe}"))
    };
    let lines = results.as_array().into_iter().flatten().map(|result| line(result) + "\n");
    lines.collect()
}

pub(super) async fn modules(globals: &Globals) -> Result<(), Failure> {
    let connection = Connection::open(globals, "modules", Delivery::Pull).await?;
    connection.show(Op::new("modules"), "modules", modules_table).await
}

/// One row for each module and node; `*` where it may be any function.
pub(super) fn modules_table(modules: &Json) -> String {
    let mut rows: Vec<[String; 3]> = Vec::new();
    for module in modules.as_array().into_iter().flatten() {
        for served in module["served"].as_array().into_iter().flatten() {
            let functions: Vec<&str> = match served["functions"].as_array() {
                Some(names) => names.iter().filter_map(Json::as_str).collect(),
                None => vec!["*"],
            };
            rows.push([cell(&module["module"]), cell(&served["node"]), functions.join(" ")]);
        }
    }
    rows.sort();
    table(["MODULE", "NODE", "FUNCTIONS"], &rows)
}

const GROUPS_EXAMPLES: &str =
    "Examples:\n  pillion groups\n  pillion groups tills --json | jq -r '.members[]'";

#[derive(Args, Clone, Debug)]
#[command(after_help = GROUPS_EXAMPLES)]
pub(super) struct GroupsArgs {
    /// Lists the members of this one, each as often as it has joined
    group: Option<String>,
    /// Only members on this node
    #[arg(long, requires = "group")]
    local: bool,
}

pub(super) async fn groups(globals: &Globals, args: &GroupsArgs) -> Result<(), Failure> {
    let connection = Connection::open(globals, "groups", Delivery::Pull).await?;
    let (op, noun) = match &args.group {
        None => (Op::new("groups"), "groups"),
        Some(group) => {
            let op = Op::new("members").text("group", group);
            (if args.local { op.bool("local", true) } else { op }, "members")
        }
    };
    let answer = connection.request(op).await?;
    let lines = texts_lines(&answer.to_value()[noun]);
    if globals.json || !lines.is_empty() {
        connection.output.tell(&answer, || lines)?;
    }
    connection.close().await
}

/// Names or pids, one per line, in order.
pub(super) fn texts_lines(list: &Json) -> String {
    let list = list.as_array().into_iter().flatten();
    let mut lines: Vec<String> = list.map(|item| clean(&cell(item)) + "\n").collect();
    lines.sort();
    lines.concat()
}
