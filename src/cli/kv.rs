//! `pillion kv`: the key-value process that every node has built in.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use super::connection::{Connection, Heard};
use super::exit::{Exit, Failure};
use super::messages::duration;
use super::output::note;
use super::{Globals, clean};
use crate::client::{Op, WINDOW};
use crate::dialect::json::json_to_cbor;
use crate::wire::command::Delivery;

const EXAMPLES: &str = "\
STORE is a name (store), a name on another node (store@b@hal), or a pid in quotes. Values are JSON.

Examples:
  pillion kv start store
  pillion kv set store greeting '\"hello\"' --ttl 1h
  pillion kv get store@b@hal greeting
  pillion kv watch store user.
  pillion kv stop store";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct KvArgs {
    #[command(subcommand)]
    command: KvCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum KvCommand {
    /// Starts a store on this node; it stays until it is stopped or the node ends
    Start {
        /// The name to give it
        name: String,
        /// Most bytes that it may hold [default: 8 MiB]
        #[arg(long, value_name = "BYTES")]
        bytes: Option<u64>,
    },
    /// Stops a store; what it held is gone
    Stop {
        /// Which
        store: String,
    },
    /// Prints the value of a key; ends with 1 when there is none
    Get {
        /// Which store
        store: String,
        /// Which key
        key: String,
    },
    /// Sets a key
    Set {
        /// Which store
        store: String,
        /// Which key
        key: String,
        /// The value, as JSON
        #[arg(allow_hyphen_values = true)]
        value: String,
        /// Takes VALUE as a text, whatever is in it
        #[arg(long)]
        text: bool,
        /// How long it is there
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        ttl: Option<Duration>,
    },
    /// Deletes a key, if it is there
    Delete {
        /// Which store
        store: String,
        /// Which key
        key: String,
    },
    /// Lists the keys, or those that begin with PREFIX
    Keys {
        /// Which store
        store: String,
        /// How they begin
        #[arg(default_value = "")]
        prefix: String,
    },
    /// Prints changes as they happen, of all keys or of those that begin with PREFIX
    Watch {
        /// Which store
        store: String,
        /// How they begin
        #[arg(default_value = "")]
        prefix: String,
        /// Ends after so many
        #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
}

pub(super) async fn kv(globals: &Globals, args: &KvArgs) -> Result<(), Failure> {
    let delivery =
        if matches!(args.command, KvCommand::Watch { .. }) { WINDOW } else { Delivery::Pull };
    let mut connection = Connection::open(globals, "kv", delivery).await?;
    match &args.command {
        KvCommand::Start { name, bytes } => {
            let mut op =
                Op::new("spawn").text("kind", "kv").text("name", name).bool("detached", true);
            if let Some(bytes) = bytes {
                op = op.json("mailbox", &json!({ "bytes": bytes }));
            }
            let answer = connection.request(op).await?;
            connection.output.tell(&answer, || answer.text("pid").unwrap_or("").to_owned())?;
        }
        KvCommand::Stop { store } => {
            let monitor = connection.request(Op::new("info").text("to", store)).await?;
            let pid = monitor.to_value()["info"]["pid"].as_str().unwrap_or(store).to_owned();
            let op = Op::new("kill").text("to", &pid).text("reason", "shutdown");
            let answer = connection.request(op).await?;
            connection.output.tell(&answer, String::new)?;
        }
        KvCommand::Get { store, key } => {
            let answer = ask(&connection, store, &json!(["get", key])).await?;
            connection.output.tell(&answer, || clean(&answer.body_json()))?;
            if answer.body() == [0xf6] {
                return Err(Failure::new(Exit::No, ""));
            }
        }
        KvCommand::Set { store, key, value, text, ttl } => {
            let value = if *text {
                Json::String(value.clone())
            } else {
                serde_json::from_str(value).map_err(|error| {
                    let words = format!(
                        "the value `{}` is no JSON: {error}. A text is '\"quoted\"', or give --text",
                        clean(value)
                    );
                    Failure::new(Exit::Data, words)
                })?
            };
            let body = match ttl {
                Some(ttl) => json!(["set", key, value, super::nodes::milliseconds(*ttl)]),
                None => json!(["set", key, value]),
            };
            done(&connection, store, &body).await?;
        }
        KvCommand::Delete { store, key } => {
            done(&connection, store, &json!(["delete", key])).await?;
        }
        KvCommand::Keys { store, prefix } => {
            let answer = ask(&connection, store, &json!(["keys", prefix])).await?;
            connection.output.tell(&answer, || {
                let value = answer.to_value();
                let keys = value["body"].as_array().into_iter().flatten();
                keys.filter_map(Json::as_str).map(clean).collect::<Vec<_>>().join("\n")
            })?;
        }
        KvCommand::Watch { store, prefix, count } => {
            ask(&connection, store, &json!(["watch", prefix])).await?;
            let monitor = Op::new("monitor").text("to", store);
            connection.request(monitor).await?;
            note(&format!("watching {}; ctrl-c ends", clean(store)));
            watch(&mut connection, *count).await?;
        }
    }
    connection.close().await
}

async fn watch(connection: &mut Connection, count: Option<u64>) -> Result<(), Failure> {
    let mut left = count;
    while left != Some(0) {
        match connection.hear(None).await? {
            Heard::Enough | Heard::Nothing => break,
            Heard::Event(event) if event.name() == "down" => {
                let reason = clean(event.text("reason").unwrap_or("unknown"));
                return Err(Failure::new(Exit::No, format!("the store is gone: {reason}")));
            }
            Heard::Event(event) if event.name() == "message" => {
                connection.output.tell(&event, || {
                    let body = &event.to_value()["body"];
                    let key = clean(body[1].as_str().unwrap_or(""));
                    match body[0].as_str() {
                        Some("set") => format!("{key} {}", clean(&body[2].to_string())),
                        _ => format!("{key} -"),
                    }
                })?;
                left = left.map(|left| left - 1);
            }
            Heard::Event(event) => note(&clean(&event.to_json())),
        }
    }
    Ok(())
}

async fn ask(
    connection: &Connection,
    store: &str,
    body: &Json,
) -> Result<crate::client::Answer, Failure> {
    let item = json_to_cbor(body.to_string().as_bytes())
        .map_err(|error| Failure::new(Exit::Data, clean(&error.message)))?;
    connection.request(Op::new("call").text("to", store).body(&item)).await
}

async fn done(connection: &Connection, store: &str, body: &Json) -> Result<(), Failure> {
    let answer = ask(connection, store, body).await?;
    if connection.output.json {
        connection.output.say(&answer.to_json())?;
    }
    Ok(())
}
