//! The servers that the kit calls: a key-value store, and a module of functions.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex};

use pillion_client::{
    Context, Error, Event, Failure, GenServer, Kind, Process, Reply, Served, Value,
};
use serde_json::{Value as Json, json};
use tokio::sync::Notify;

use crate::json::{Any, shown};
use crate::say;

/// An error that a callee fails with.
#[derive(Debug)]
pub(crate) struct Boom;

impl fmt::Display for Boom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it broke")
    }
}

impl std::error::Error for Boom {}

pub(crate) fn boom() -> Boom {
    Boom
}

/// The key-value store of the articles, and a little more.
pub(crate) struct Store {
    label: String,
    values: BTreeMap<String, Value>,
    held: Option<Event>,
}

impl Store {
    pub(crate) fn new(label: &str) -> Self {
        Self { label: label.to_owned(), values: BTreeMap::new(), held: None }
    }
}

impl GenServer for Store {
    async fn init(&mut self, _: &mut Context) -> Result<(), Failure> {
        self.values.clear();
        self.held = None;
        Ok(())
    }

    async fn handle_call(&mut self, call: Event, context: &mut Context) -> Result<Reply, Failure> {
        let request: Vec<String> = call.body()?;
        let request: Vec<&str> = request.iter().map(String::as_str).collect();
        match request[..] {
            ["get", key] => Ok(Reply::now(self.values.get(key))),
            ["boom"] => Err(Boom.into()),
            ["hold"] => {
                self.held = Some(call);
                Ok(Reply::later())
            }
            ["stop"] => {
                context.stop("normal");
                Ok(Reply::now("ok"))
            }
            _ => Err(Failure::new("FunctionClauseError", format!("no such request: {request:?}"))),
        }
    }

    async fn handle_cast(&mut self, cast: Event, context: &mut Context) -> Result<(), Failure> {
        let request: Vec<Value> = cast.body()?;
        let key = request.get(1).and_then(Value::as_text).unwrap_or_default().to_owned();
        match (request.first().and_then(Value::as_text), request.len()) {
            (Some("set"), 3) => drop(self.values.insert(key, request[2].clone())),
            (Some("delete"), 2) => drop(self.values.remove(&key)),
            (Some("release"), 2) => {
                if let Some(held) = self.held.take() {
                    context.reply(&held, &request[1]).await?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn handle_info(&mut self, event: Event, _: &mut Context) -> Result<(), Failure> {
        if event.kind() == Kind::Message {
            say(&json!({"saw": self.label, "info": shown(&event.body::<Any>()?)}));
        } else if event.kind() == Kind::Gap {
            say(&json!({"saw": self.label, "info": {"gap": event.uint("lost")}}));
        }
        Ok(())
    }

    async fn terminate(&mut self, reason: &str, _: &mut Context) {
        say(&json!({"saw": self.label, "terminate": reason}));
    }
}

/// What `hold` waits for.
#[derive(Clone, Default)]
pub(crate) struct Holds(Arc<(Mutex<HashMap<String, Json>>, Notify)>);

impl Holds {
    pub(crate) fn release(&self, key: &str, value: Json) {
        self.0.0.lock().unwrap().insert(key.to_owned(), value);
        self.0.1.notify_waiters();
    }

    pub(crate) async fn wait(&self, key: &str) -> Json {
        loop {
            let mut released = std::pin::pin!(self.0.1.notified());
            released.as_mut().enable();
            if let Some(value) = self.0.0.lock().unwrap().remove(key) {
                return value;
            }
            released.await;
        }
    }
}

/// Says so when it is dropped before it is done.
struct Cancelled {
    label: String,
}

impl Drop for Cancelled {
    fn drop(&mut self) {
        say(&json!({"saw": self.label, "cancelled": true}));
    }
}

pub(crate) async fn module(
    process: &Process,
    label: &str,
    module: &str,
    holds: Holds,
) -> Result<Served, Error> {
    let label = label.to_owned();
    process
        .serve(module)
        .function("add", |(a, b): (i64, i64)| async move { Ok(a + b) })
        .function("fail", |()| async move { Err::<(), _>(Boom.into()) })
        .function("wait", move |()| {
            let cancelled = Cancelled { label: label.clone() };
            async move {
                let _cancelled = cancelled;
                std::future::pending::<()>().await;
                Ok(())
            }
        })
        .function("hold", move |(key,): (String,)| {
            let holds = holds.clone();
            async move { Ok(Any::of(&holds.wait(&key).await)) }
        })
        .start()
        .await
}
