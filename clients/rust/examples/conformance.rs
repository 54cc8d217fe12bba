//! The driver of the conformance kit: does with the client what it is told on standard input, and says what its app sees.
//!
//! What the lines mean is in `tests/conformance/README.md` of the repository.

#[path = "conformance/json.rs"]
mod json;
#[path = "conformance/served.rs"]
mod served;

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use pillion_client::{
    Blob, Client, Code, Error, Event, Failure, Op, Process, Server, Spawn, Subscription,
};
use serde_json::{Value as Json, json};
use tokio::sync::{Notify, mpsc};

use json::{Any, shown, to_body};

type Outcome = Result<Json, Error>;

/// Prints one line.
pub(crate) fn say(line: &Json) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// What labels stand for, once it is there.
struct Table<T>(Mutex<HashMap<String, Arc<OnceLock<T>>>>, Notify);

impl<T: Clone> Table<T> {
    fn new() -> Self {
        Self(Mutex::new(HashMap::new()), Notify::new())
    }

    fn set(&self, label: &str, value: T) {
        let slot = Arc::clone(self.0.lock().unwrap().entry(label.to_owned()).or_default());
        let _ = slot.set(value);
        self.1.notify_waiters();
    }

    /// Waits until the label stands for something.
    async fn get(&self, label: &str) -> T {
        loop {
            let mut changed = std::pin::pin!(self.1.notified());
            changed.as_mut().enable();
            let found = self.0.lock().unwrap().get(label).and_then(|slot| slot.get().cloned());
            match found {
                Some(value) => return value,
                None => changed.await,
            }
        }
    }

    fn remove(&self, label: &str) {
        self.0.lock().unwrap().remove(label);
    }
}

/// What the driver knows.
struct Driver {
    client: Table<Client>,
    processes: Table<Process>,
    calls: Table<Event>,
    references: Table<u64>,
    servers: Table<Server>,
    ends: Table<Arc<Notify>>,
    served: Table<pillion_client::Served>,
    holds: served::Holds,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (lines, mut told) = mpsc::channel::<String>(1024);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let driver = Arc::new(Driver {
        client: Table::new(),
        processes: Table::new(),
        calls: Table::new(),
        references: Table::new(),
        servers: Table::new(),
        ends: Table::new(),
        served: Table::new(),
        holds: served::Holds::default(),
    });
    let mut running = tokio::task::JoinSet::new();
    while let Some(line) = told.recv().await {
        let Ok(what) = serde_json::from_str::<Json>(&line) else { continue };
        let driver = Arc::clone(&driver);
        running.spawn(async move {
            let label = text(&what, "as").unwrap_or_default().to_owned();
            let outcome = driver.act(&label, &what).await;
            match outcome {
                Ok(value) => say(&json!({"saw": label, "value": value})),
                Err(error) => say(&json!({"saw": label, "error": error_json(&error)})),
            }
        });
        // Each begins in the order of the lines.
        tokio::task::yield_now().await;
    }
}

fn text<'a>(what: &'a Json, key: &str) -> Option<&'a str> {
    what.get(key).and_then(Json::as_str)
}

fn flag(what: &Json, key: &str) -> bool {
    what.get(key).and_then(Json::as_bool).unwrap_or(false)
}

fn timeout(what: &Json, usual: u64) -> Duration {
    Duration::from_millis(what.get("timeout_ms").and_then(Json::as_u64).unwrap_or(usual))
}

fn error_json(error: &Error) -> Json {
    let mut shown = json!({
        "code": error.code().as_str(),
        "message": error.message(),
        "maybe_applied": error.maybe_applied(),
    });
    let texts = [("class", error.class()), ("reason", error.reason()), ("stack", error.stack())];
    for (key, value) in texts {
        if let Some(value) = value {
            shown[key] = value.into();
        }
    }
    if !error.nodes().is_empty() {
        shown["nodes"] = error.nodes().into();
    }
    shown
}

fn body(what: &Json) -> Blob {
    to_body(what.get("body").unwrap_or(&Json::Null), text(what, "ct"))
}

impl Driver {
    async fn process(&self, what: &Json) -> Process {
        match text(what, "process") {
            Some(label) => self.processes.get(label).await,
            None => Process::clone(&*self.client.get("").await),
        }
    }

    async fn act(&self, label: &str, what: &Json) -> Outcome {
        let action = text(what, "do").unwrap_or_default();
        if action == "connect" {
            return self.connect(what).await;
        }
        if action == "release" {
            let key = text(what, "key").unwrap_or_default();
            self.holds.release(key, what.get("value").cloned().unwrap_or(Json::Null));
            return Ok(Json::Null);
        }
        let client = self.client.get("").await;
        let process = self.process(what).await;
        let to = text(what, "to").unwrap_or_default();
        let name = text(what, "name").unwrap_or_default();
        let topic = text(what, "topic").unwrap_or_default();
        let key = text(what, "key").unwrap_or_default();
        let group = text(what, "group").unwrap_or_default();
        let metadata = what.get("metadata").unwrap_or(&Json::Null);
        let is_global = text(what, "scope") == Some("global");
        let scoped = if is_global { format!("global:{name}") } else { name.to_owned() };
        match action {
            "close" => client.close().await.map(|()| Json::Null),
            "request" => self.request(&process, what).await,
            "self" => Ok(process.pid().as_str().into()),
            "spawn" => self.spawn(&process, label, what).await,
            "exit" => {
                let reason = text(what, "reason").unwrap_or("normal");
                done(process.exit(reason).await)
            }
            "register" if is_global => done(process.register_global(name).await),
            "register" => done(process.register(name).await),
            "unregister" => done(process.unregister(&scoped).await),
            "whereis" => {
                let pid = process.whereis(&scoped).await?;
                Ok(pid.map_or(Json::Null, |pid| pid.as_str().into()))
            }
            "send" if flag(what, "confirm") => done(process.send_confirmed(to, body(what)).await),
            "send" => done(process.send(to, body(what)).await),
            "cast" if flag(what, "confirm") => done(process.cast_confirmed(to, body(what)).await),
            "cast" => done(process.cast(to, body(what)).await),
            "call" => {
                let reply = process.call_within::<Any>(timeout(what, 5000), to, body(what)).await;
                Ok(shown(&reply?))
            }
            "stream" => {
                let time = timeout(what, 5000);
                let mut parts = process.call_parts::<Any>(time, to, body(what)).await?;
                while let Some(part) = parts.next().await {
                    say(&json!({"saw": label, "part": shown(&part?)}));
                }
                Ok(shown(&parts.value::<Any>().await?))
            }
            "rpc" => {
                let text = |key| text(what, key).unwrap_or_default();
                let args = to_body(what.get("args").unwrap_or(&Json::Null), None);
                let time = timeout(what, 5000);
                let (node, module, function) = (text("node"), text("module"), text("function"));
                let reply = process.rpc_within::<Any>(time, node, module, function, args).await;
                Ok(shown(&reply?))
            }
            "receive" => self.receive(&process, label, what).await,
            "reply" => {
                let call = self.calls.get(text(what, "call").unwrap_or_default()).await;
                if flag(what, "more") {
                    done(process.reply_part(&call, body(what)).await)
                } else {
                    done(process.reply(&call, body(what)).await)
                }
            }
            "raise" => {
                let call = self.calls.get(text(what, "call").unwrap_or_default()).await;
                let class = text(what, "class").unwrap_or("error");
                let failure = Failure::new(class, text(what, "reason").unwrap_or_default());
                done(process.raise(&call, &failure).await)
            }
            "link" => done(process.link(to).await),
            "unlink" => done(process.unlink(to).await),
            "monitor" => {
                let reference = process.monitor(to).await?;
                self.references.set(label, reference);
                Ok(true.into())
            }
            "demonitor" => {
                let reference = self.references.get(text(what, "ref").unwrap_or_default()).await;
                done(process.demonitor(reference).await)
            }
            "gen_server" => {
                let how = if name.is_empty() { Spawn::new() } else { Spawn::new().name(name) };
                let server = process.start(served::Store::new(label), how).await?;
                self.servers.set(label, server.clone());
                Ok(server.pid().as_str().into())
            }
            "serve" => {
                let module = text(what, "module").unwrap_or_default();
                let served = served::module(&process, label, module, self.holds.clone()).await?;
                self.served.set(module, served);
                Ok(Json::Null)
            }
            "unserve" => {
                let module = text(what, "module").unwrap_or_default();
                let served = self.served.get(module).await;
                self.served.remove(module);
                done(served.stop().await)
            }
            "task" => self.task(&process, label, what).await,
            "subscribe" => self.subscribe(&process, label, what).await,
            "unsubscribe" => {
                let of = text(what, "subscription").unwrap_or_default();
                self.ends.get(of).await.notify_one();
                Ok(Json::Null)
            }
            "publish" => {
                let mut publication = process.publication(topic, body(what));
                if flag(what, "retain") {
                    publication = publication.retain();
                }
                if flag(what, "report") {
                    let report = publication.report().await?;
                    Ok(json!({"nodes": report.nodes, "local": report.local}))
                } else if flag(what, "confirm") {
                    done(publication.confirm().await)
                } else {
                    done(publication.send().await)
                }
            }
            "track" => done(process.track(topic, key, &Any::of(metadata)).await),
            "update_presence" => {
                done(process.update_presence(topic, key, &Any::of(metadata)).await)
            }
            "untrack" => done(process.untrack(topic, key).await),
            "watch_presence" => {
                let mut watch = process.watch_presence(topic).await?;
                while let Some(change) = watch.next().await {
                    let keys = |rows: &[pillion_client::Presence]| -> Vec<String> {
                        rows.iter().map(|row| row.key.clone()).collect()
                    };
                    let (joins, leaves) = (keys(&change.joins), keys(&change.leaves));
                    say(&json!({"saw": label, "joins": joins, "leaves": leaves}));
                }
                Ok(Json::Null)
            }
            "join" => done(process.join(group).await),
            "leave" => done(process.leave(group).await),
            "members" => {
                let members = process.members(group).await?;
                Ok(members.iter().map(pillion_client::Pid::as_str).collect::<Vec<_>>().into())
            }
            "monitor_nodes" => {
                let mut watch = process.watch_nodes().await?;
                while let Some(change) = watch.next().await {
                    let ev = if change.up { "nodeup" } else { "nodedown" };
                    say(&json!({"saw": label, "ev": ev, "node": change.node}));
                }
                Ok(Json::Null)
            }
            _ => Err(unknown(action)),
        }
    }

    async fn connect(&self, what: &Json) -> Outcome {
        let mut builder = Client::builder();
        if let Some(name) = text(what, "name") {
            builder = builder.name(name);
        }
        if let Some(grace) = what.get("grace_ms").and_then(Json::as_u64) {
            builder = builder.grace(Duration::from_millis(grace));
        }
        if let Some(time) = what.get("connect_timeout_ms").and_then(Json::as_u64) {
            builder = builder.connect_timeout(Duration::from_millis(time));
        }
        if text(what, "draining") == Some("callback") {
            builder = builder.on_draining(|| say(&json!({"saw": "draining"})));
        }
        let client = builder
            .on_drained(|| say(&json!({"saw": "drained"})))
            .on_disconnected(|_| say(&json!({"saw": "disconnected"})))
            .on_failed(|failed| {
                say(&json!({
                    "saw": "failed",
                    "op": failed.op,
                    "to": failed.to,
                    "code": failed.code.as_str(),
                    "count": failed.count,
                }));
            })
            .on_report(|report| {
                say(&json!({
                    "saw": "report",
                    "resumed": report.resumed,
                    "lost_events": report.lost_events,
                    "lost_commands": report.lost_commands,
                    "unsure_commands": report.unsure_commands,
                }));
            })
            .connect()
            .await?;
        let value = json!({"node": client.node(), "pid": client.pid().as_str()});
        self.client.set("", client);
        Ok(value)
    }

    async fn request(&self, process: &Process, what: &Json) -> Outcome {
        let mut op = Op::new(text(what, "op").unwrap_or_default());
        for (key, value) in what.get("fields").and_then(Json::as_object).into_iter().flatten() {
            op = op.field(key, &Any::of(value));
        }
        if what.get("body").is_some() {
            op = op.body(&body(what));
        }
        let answer = process.request(op).await?;
        if answer.bytes().is_empty() {
            let mut header = shown(&Any(answer.header()));
            for key in ["ev", "id"] {
                header.as_object_mut().map(|header| header.remove(key));
            }
            return Ok(header);
        }
        Ok(shown(&answer.body::<Any>()?))
    }

    async fn spawn(&self, process: &Process, label: &str, what: &Json) -> Outcome {
        let mut how = Spawn::new();
        if let Some(name) = text(what, "name") {
            how = how.name(name);
        }
        if let Some(label) = text(what, "label") {
            how = how.label(label);
        }
        for (key, with) in [
            ("trap_exit", Spawn::trap_exit as fn(Spawn) -> Spawn),
            ("link", Spawn::link),
            ("monitor", Spawn::monitor),
        ] {
            if flag(what, key) {
                how = with(how);
            }
        }
        let spawned = process.spawn(how).await?;
        let pid = spawned.pid();
        self.processes.set(label, spawned);
        Ok(pid.as_str().into())
    }

    async fn receive(&self, process: &Process, label: &str, what: &Json) -> Outcome {
        let wanted = what.get("match").and_then(Json::as_object).cloned().unwrap_or_default();
        let fits = |event: &Event| {
            let event = json::event(event);
            wanted.iter().all(|(key, value)| event.get(key) == Some(value))
        };
        let time = timeout(what, 5000);
        let event = if wanted.is_empty() {
            process.receive_within(time).await?
        } else {
            process.receive_where_within(time, fits).await?
        };
        let Some(event) = event else { return Ok(Json::Null) };
        let seen = json::event(&event);
        self.calls.set(label, event);
        Ok(seen)
    }

    async fn subscribe(&self, process: &Process, label: &str, what: &Json) -> Outcome {
        let topic = text(what, "topic").unwrap_or_default().to_owned();
        let mut subscribe = process.subscription(&topic);
        if let Some(group) = text(what, "group") {
            subscribe = subscribe.group(group);
        }
        if let Some(metadata) = what.get("metadata") {
            subscribe = subscribe.metadata(&Any::of(metadata));
        }
        if flag(what, "sync") {
            subscribe = subscribe.sync();
        }
        let subscription = subscribe.subscribe().await?;
        let end = Arc::new(Notify::new());
        self.ends.set(label, Arc::clone(&end));
        say(&json!({"saw": label, "ready": true}));
        tokio::select! {
            biased;
            () = end.notified() => {}
            () = told(label, subscription) => {}
        }
        Ok(Json::Null)
    }

    async fn task(&self, process: &Process, label: &str, what: &Json) -> Outcome {
        let key = text(what, "key").unwrap_or_default().to_owned();
        let holds = self.holds.clone();
        let fails = flag(what, "fails");
        let work = move |_process| async move {
            if fails {
                return Err(served::boom().into());
            }
            Ok(holds.wait(&key).await)
        };
        let task = process.task(Spawn::new(), work).await?;
        say(&json!({"saw": label, "pid": task.pid().as_str()}));
        task.result(timeout(what, 5000)).await
    }
}

async fn told(label: &str, mut subscription: Subscription) {
    while let Some(event) = subscription.next().await {
        let seen = json::event(&event);
        if seen["ev"] == "gap" {
            say(&json!({"saw": label, "gap": seen["lost"], "reason": seen["reason"]}));
            continue;
        }
        let mut message = seen;
        message.as_object_mut().map(|message| message.remove("ev"));
        say(&json!({"saw": label, "message": message}));
    }
}

fn done(result: Result<(), Error>) -> Outcome {
    result.map(|()| Json::Null)
}

fn unknown(action: &str) -> Error {
    // The kit sees that this driver does not know it.
    say(&json!({"saw": "unknown", "do": action}));
    Error::from_code(Code::BadOp, "the driver knows no such action")
}
