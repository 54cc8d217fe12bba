//! The key-value store of the second article: a GenServer, and functions that spare its users what it is told.
//!
//! ```text
//! cargo run -q -p pillion-client --example key_value_store -- serve
//! cargo run -q -p pillion-client --example key_value_store -- set ADDRESS KEY VALUE
//! cargo run -q -p pillion-client --example key_value_store -- get ADDRESS KEY
//! cargo run -q -p pillion-client --example key_value_store -- delete ADDRESS KEY
//! ```

use std::collections::BTreeMap;

use pillion_client::{
    Client, Context, Event, Failure, GenServer, Process, Reply, Result, Server, Spawn,
};
use serde::Deserialize;
use serde_json::Value;

#[derive(Default)]
struct KeyValueStore {
    values: BTreeMap<String, Value>,
}

/// `["set", key, value]` and `["delete", key]`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Cast {
    Set(String, String, Value),
    Delete(String, String),
}

impl KeyValueStore {
    async fn start(by: &Process, name: &str) -> Result<Server> {
        by.start(Self::default(), Spawn::new().name(name)).await
    }

    async fn set(by: &Process, server: &str, key: &str, value: &Value) -> Result<()> {
        by.cast(server, ("set", key, value)).await
    }

    /// Null where there is none.
    async fn get(by: &Process, server: &str, key: &str) -> Result<Value> {
        by.call(server, ("get", key)).await
    }

    async fn delete(by: &Process, server: &str, key: &str) -> Result<()> {
        by.cast(server, ("delete", key)).await
    }
}

impl GenServer for KeyValueStore {
    async fn handle_call(&mut self, call: Event, _: &mut Context) -> Result<Reply, Failure> {
        let (what, key): (String, String) = call.body()?;
        match what.as_str() {
            "get" => Ok(Reply::now(self.values.get(&key))),
            _ => Err(Failure::new("undef", format!("there is no {what}"))),
        }
    }

    async fn handle_cast(&mut self, cast: Event, _: &mut Context) -> Result<(), Failure> {
        match cast.body() {
            Ok(Cast::Set(what, key, value)) if what == "set" => {
                self.values.insert(key, value);
            }
            Ok(Cast::Delete(what, key)) if what == "delete" => {
                self.values.remove(&key);
            }
            _ => {}
        }
        Ok(())
    }
}

async fn run(args: &[&str]) -> Result<(), Failure> {
    let client = Client::connect().await?;
    match *args {
        ["serve"] => {
            let server = KeyValueStore::start(&client, "primary_store").await?;
            println!("registered as primary_store");
            stopped().await;
            server.stop("normal").await;
        }
        ["set", to, key, value] => {
            // What is JSON is set as that, anything else as a text.
            let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
            KeyValueStore::set(&client, to, key, &value).await?;
        }
        ["get", to, key] => match KeyValueStore::get(&client, to, key).await? {
            Value::String(text) => println!("{text}"),
            value => println!("{value}"),
        },
        ["delete", to, key] => KeyValueStore::delete(&client, to, key).await?,
        _ => {
            let usage = "serve | set ADDRESS KEY VALUE | get ADDRESS KEY | delete ADDRESS KEY";
            return Err(Failure::new("usage", usage));
        }
    }
    client.close().await?;
    Ok(())
}

/// Waits for ctrl-c or SIGTERM.
async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut term) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => {}
        _ = term.recv() => {}
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args).await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}: {}", failure.class, failure.reason);
            std::process::ExitCode::FAILURE
        }
    }
}
