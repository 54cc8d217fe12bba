//! `pillion host`, `child`, `spawn`, `tree`: programs that a node runs as processes, and who keeps them up.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value as Json, json};

use super::connection::{Connection, Heard};
use super::exit::{Exit, Failure};
use super::messages::duration;
use super::nodes::milliseconds;
use super::output::note;
use super::processes::cell;
use super::{Globals, clean};
use crate::client::{Op, WINDOW};
use crate::config::value::parse_duration;
use crate::wire::command::Delivery;
use crate::wire::host::{Restart, SHUTDOWN_MAX};

const HOST_EXAMPLES: &str = "\
The program finds its node and itself in its environment: PILLION_SOCKET, PILLION_NODE, PILLION_PID, PILLION_NAME and \
PILLION_PROCESS. Whether or not it connects, it is a process with a name, and its end is a `down` to whoever monitors it. \
It is hosted until the node ends; for longer, put it into the file of --config as [[process]].

Examples:
  pillion host bot -- ./bot --verbose
  pillion host job --restart transient --shutdown 30s -- ./job
  pillion host stock -- pillion serve stock.count -- wc -l stock.txt
  pillion child terminate bot";

const SPAWN_EXAMPLES: &str = "\
Prints the pid. What a node offers is in the file of its --config as [[factory]]; arguments are put behind those there.

Examples:
  pillion spawn worker -- --job 7
  pillion spawn worker --node any --name job7 -- --job 7
  pillion spawn worker --node b@hal --wait     waits for its end, as `pillion monitor` does";

#[derive(Args, Clone, Debug)]
#[command(after_help = HOST_EXAMPLES)]
#[allow(clippy::doc_markdown, reason = "clap prints it as it stands, to people at a terminal")]
pub(super) struct HostArgs {
    /// What it is called; registered, so that others reach it by this name
    name: String,
    /// When it is started again: permanent, transient (unless it ended well) or temporary (never)
    #[arg(long, value_name = "WHEN", value_parser = restart, default_value = "permanent")]
    restart: Restart,
    /// How long it may take to end after SIGTERM, brutal_kill or infinity [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = shutdown)]
    shutdown: Option<Json>,
    /// Under which supervisor [default: default]
    #[arg(long, value_name = "NAME")]
    supervisor: Option<String>,
    /// Its supervisor may end with it
    #[arg(long)]
    significant: bool,
    /// Does not register its name
    #[arg(long)]
    no_register: bool,
    /// A variable of its environment; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Where it runs [default: here]
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    cwd: Option<PathBuf>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = "\
NAME is that of a hosted program, of a supervisor or of a factory, or a pid; `pillion tree` shows them.

Examples:
  pillion child terminate bot
  pillion child restart bot
  pillion child delete bot")]
pub(super) struct ChildArgs {
    #[command(subcommand)]
    command: ChildCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum ChildCommand {
    /// Ends it and keeps it ended; returns once it has
    Terminate {
        /// Which
        name: String,
    },
    /// Starts it again once it has ended
    Restart {
        /// Which
        name: String,
    },
    /// Forgets it once it has ended
    Delete {
        /// Which
        name: String,
    },
}

#[derive(Args, Clone, Debug)]
#[command(after_help = SPAWN_EXAMPLES)]
pub(super) struct SpawnArgs {
    /// Which factory
    factory: String,
    /// Where: a node, or any (here if there is room, else where there are fewest) [default: here]
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// The name to register there
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Waits for its end; the exit code is then that of `pillion monitor`
    #[arg(long)]
    wait: bool,
    /// It ends with this command; goes with --wait
    #[arg(long, requires = "wait")]
    link: bool,
    /// How long another node may take to start it [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// Its arguments
    #[arg(last = true, value_name = "ARG")]
    args: Vec<String>,
}

fn restart(text: &str) -> Result<Restart, String> {
    Restart::of_word(text).ok_or_else(|| format!("it is one of {}", Restart::WORDS.join(", ")))
}

fn shutdown(text: &str) -> Result<Json, String> {
    match text {
        "brutal_kill" | "infinity" => Ok(text.into()),
        text => parse_duration(text, Duration::ZERO, SHUTDOWN_MAX)
            .map(|time| milliseconds(time).into())
            .map_err(|words| format!("{words}; or brutal_kill, or infinity")),
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) async fn host(globals: &Globals, args: &HostArgs) -> Result<(), Failure> {
    let here = std::env::current_dir().map_err(|error| {
        Failure::new(Exit::Usage, format!("there is no working directory: {error}; give --cwd"))
    })?;
    let cwd = args.cwd.as_ref().map_or_else(|| here.clone(), |cwd| here.join(cwd));
    let Some((command, rest)) = args.command.split_first() else {
        return Err(Failure::new(Exit::Usage, "there is no command"));
    };
    let Some(cwd) = cwd.to_str() else {
        let text = format!("{} is no UTF-8; give another --cwd", cwd.display());
        return Err(Failure::new(Exit::Usage, text));
    };
    let connection = Connection::open(globals, "host", Delivery::Pull).await?;
    let mut op = Op::new("host")
        .text("name", &args.name)
        .text("command", command)
        .json("args", &rest.into())
        .text("cwd", cwd)
        .text("restart", args.restart.word())
        .maybe_text("supervisor", args.supervisor.as_deref())
        .bool("significant", args.significant)
        .bool("register", !args.no_register);
    if !args.env.is_empty() {
        let env: Map<String, Json> =
            args.env.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
        op = op.json("env", &Json::Object(env));
    }
    if let Some(shutdown) = &args.shutdown {
        op = op.json("shutdown", shutdown);
    }
    let answer = connection.request(op).await?;
    connection.output.tell(&answer, || answer.text("pid").unwrap_or_default().to_owned())?;
    connection.close().await
}

pub(super) async fn child(globals: &Globals, args: &ChildArgs) -> Result<(), Failure> {
    let (op, name) = match &args.command {
        ChildCommand::Terminate { name } => ("terminate_child", name),
        ChildCommand::Restart { name } => ("restart_child", name),
        ChildCommand::Delete { name } => ("delete_child", name),
    };
    let connection = Connection::open(globals, "child", Delivery::Pull).await?;
    // A program may take as long to end as it was given.
    let extra = SHUTDOWN_MAX;
    let answer = connection.request_for(Op::new(op).text("name", name), extra).await?;
    connection.output.tell(&answer, || answer.text("pid").unwrap_or("ok").to_owned())?;
    connection.close().await
}

pub(super) async fn spawn(globals: &Globals, args: &SpawnArgs) -> Result<(), Failure> {
    let mut connection = Connection::open(globals, "spawn", WINDOW).await?;
    let mut op = Op::new("spawn")
        .text("factory", &args.factory)
        .maybe_text("node", args.node.as_deref())
        .maybe_text("name", args.name.as_deref())
        .json("args", &json!(args.args))
        .bool("link", args.link)
        .bool("monitor", args.wait);
    if let Some(timeout) = args.timeout {
        op = op.uint("timeout_ms", milliseconds(timeout));
    }
    if args.link {
        // Its end is told in words, and not by the end of this session.
        connection.request(Op::new("flag").bool("trap_exit", true)).await?;
    }
    let extra = args.timeout.unwrap_or_default();
    let answer = connection.request_for(op, extra).await?;
    connection.output.tell(&answer, || answer.text("pid").unwrap_or_default().to_owned())?;
    if !args.wait {
        return connection.close().await;
    }
    note("waiting for its end; ctrl-c ends the wait");
    loop {
        match connection.hear(None).await? {
            Heard::Event(event) if event.name() == "down" => {
                let reason = event.text("reason").unwrap_or_default();
                connection.output.tell(&event, || clean(&format!("down: {reason}")))?;
                return match reason {
                    "normal" => connection.close().await,
                    "noconnection" => Err(Failure::new(
                        Exit::Temporary,
                        "its node is not connected: the process may live on",
                    )),
                    _ => Err(Failure::no()),
                };
            }
            Heard::Event(_) => {}
            Heard::Enough | Heard::Nothing => {
                return Err(Failure::new(Exit::Temporary, "stopped before it has ended"));
            }
        }
    }
}

pub(super) async fn tree(globals: &Globals) -> Result<(), Failure> {
    let connection = Connection::open(globals, "tree", Delivery::Pull).await?;
    connection.show(Op::new("tree"), "tree", tree_lines).await
}

/// Supervisors and factories with what hangs from them.
pub(super) fn tree_lines(tree: &Json) -> String {
    let all: Vec<&Json> = tree.as_array().into_iter().flatten().collect();
    if all.is_empty() {
        return "nothing is hosted here".to_owned();
    }
    let mut text = String::new();
    for one in all {
        let how = match &one["max_children"] {
            Json::Null => cell(&one["strategy"]),
            most => format!("{} of {most}", one["specs"]),
        };
        let _ =
            writeln!(text, "{} {} ({how}) {}", told(one, "kind"), told(one, "name"), state(one));
        let children: Vec<&Json> = one["children"].as_array().into_iter().flatten().collect();
        for (index, child) in children.iter().enumerate() {
            let branch = if index + 1 == children.len() { "└─" } else { "├─" };
            let name = match (&child["name"], &child["pid"]) {
                (Json::Null, Json::Null) => "-".to_owned(),
                (Json::Null, _) => told(child, "pid"),
                _ => told(child, "name"),
            };
            let mut line = format!("{branch} {name} {}", state(child));
            if !child["os_pid"].is_null() {
                let _ = write!(line, ", os pid {}", child["os_pid"]);
                if !child["name"].is_null() {
                    let _ = write!(line, ", {}", told(child, "pid"));
                }
            }
            let _ = write!(line, ", {}", told(child, "restart"));
            if !child["last"].is_null() {
                let _ = write!(line, ", last: {}", told(child, "last"));
            }
            let _ = writeln!(text, "{line}");
        }
    }
    text
}

fn told(value: &Json, key: &str) -> String {
    clean(&cell(&value[key]))
}

/// As `running`, and how often that had to be made so.
fn state(value: &Json) -> String {
    let state = match value["state"].as_str() {
        Some("failed") => "failed, starts again by itself".to_owned(),
        _ => told(value, "state"),
    };
    match value["restarts"].as_u64() {
        None | Some(0) => state,
        Some(1) => format!("{state}, restarted once"),
        Some(restarts) => format!("{state}, restarted {restarts} times"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_drawn_with_what_hangs_from_whom() {
        let child = |name: Json, last: Json| {
            json!({"name": name, "state": "running", "pid": "<a.1>", "os_pid": 7, "restart": "permanent",
                   "restarts": 0, "last": last, "command": "x"})
        };
        let tree = json!([
            {"name": "shop", "kind": "supervisor", "state": "running", "strategy": "one_for_all", "restarts": 2,
             "specs": 2, "children": [child("a".into(), Json::Null), child("b".into(), "signal 9".into())]},
            {"name": "worker", "kind": "factory", "state": "failed", "max_children": 5, "restarts": 1,
             "specs": 1, "children": [child(Json::Null, Json::Null)]},
        ]);
        assert_eq!(
            tree_lines(&tree),
            "supervisor shop (one_for_all) running, restarted 2 times\n\
             ├─ a running, os pid 7, <a.1>, permanent\n\
             └─ b running, os pid 7, <a.1>, permanent, last: signal 9\n\
             factory worker (1 of 5) failed, starts again by itself, restarted once\n\
             └─ <a.1> running, os pid 7, permanent\n"
        );
        assert_eq!(tree_lines(&json!([])), "nothing is hosted here");
    }
}
