//! Serving functions of a module, for everybody's `rpc`.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::{AbortHandle, JoinSet};

use crate::body;
use crate::caught::caught;
use crate::error::{Failure, Result};
use crate::event::{Event, Kind};
use crate::op::Op;
use crate::process::{Process, Spawn};
use crate::state::{Phase, Role, rank};

type Answer = Pin<Box<dyn Future<Output = Result<Op, Failure>> + Send>>;
type Function = Box<dyn Fn(&Event) -> Answer + Send + Sync>;

/// What the arguments of a function are read into: a tuple, `()` for none, or `Vec<T>` for any number.
pub trait Args: Sized {
    #[doc(hidden)]
    fn read(list: &[u8]) -> Result<Self>;
}

impl Args for () {
    fn read(list: &[u8]) -> Result<Self> {
        body::read::<[u8; 0]>(list, None).map(drop)
    }
}

impl<T: DeserializeOwned> Args for Vec<T> {
    fn read(list: &[u8]) -> Result<Self> {
        body::read(list, None)
    }
}

macro_rules! tuples {
    ($(($($name:ident),*),)*) => {$(
        impl<$($name: DeserializeOwned),*> Args for ($($name,)*) {
            fn read(list: &[u8]) -> Result<Self> {
                body::read(list, None)
            }
        }
    )*};
}

tuples! { (A), (A, B), (A, B, C), (A, B, C, D), (A, B, C, D, E), (A, B, C, D, E, F), }

/// A list is the arguments, anything else the one argument, nothing none.
fn arguments<T: Args>(event: &Event) -> Result<T> {
    if let Some(content_type) = event.content_type() {
        let bytes: ciborium::Value = body::read(event.bytes(), Some(content_type))?;
        let mut list = vec![0x81];
        ciborium::into_writer(&bytes, &mut list).map_err(crate::Error::bad_body)?;
        return T::read(&list);
    }
    match event.bytes().first() {
        None => T::read(&[0x80]),
        Some(first) if first >> 5 == 4 => T::read(event.bytes()),
        Some(_) => T::read(&[&[0x81], &event.bytes()[..]].concat()),
    }
}

/// A module that is about to be served.
#[must_use = "start() serves it"]
pub struct Module<'a> {
    process: &'a Process,
    name: String,
    functions: BTreeMap<String, Function>,
}

impl Module<'_> {
    /// Adds a function. Its arguments are a tuple: `|(a, b): (i64, i64)| async move { Ok(a + b) }`.
    ///
    /// Calls run side by side. When nobody waits any more, the future is dropped. An error is raised to the caller: its type
    /// is the class, its text the reason; so is a panic.
    pub fn function<A, F, W, R>(mut self, name: &str, function: F) -> Self
    where
        A: Args,
        F: Fn(A) -> W + Send + Sync + 'static,
        W: Future<Output = Result<R, Failure>> + Send + 'static,
        R: Serialize,
    {
        let function: Function = Box::new(move |event| {
            let work = match arguments(event) {
                Ok(args) => function(args),
                Err(error) => {
                    let failure = Failure::new("badarg", error.message());
                    return Box::pin(async move { Err(failure) });
                }
            };
            Box::pin(async move {
                let value = work.await?;
                let op = Op::new("reply").body(&value);
                op.check()?;
                Ok(op)
            })
        });
        self.functions.insert(name.to_owned(), function);
        self
    }

    /// Serves it, by a process of its own, also after a restart of the node.
    ///
    /// # Errors
    /// [`Code::BadArg`](crate::Code::BadArg) for what can be no module's name, and for `node`, `process` and `mesh`, which every
    /// node serves itself.
    pub async fn start(self) -> Result<Served> {
        let spawn = Spawn::new().label(&format!("serve {}", self.name));
        let process = self.process.spawn_as(spawn, Role::Server, true).await?;
        let functions: Vec<&str> = self.functions.keys().map(String::as_str).collect();
        let op = Op::new("serve").text("module", &self.name).field("functions", &functions);
        process.declare(rank::MODULE, &self.name, op).await?;
        let served = Served { process: process.clone() };
        let functions = Arc::new(self.functions);
        let shared = Arc::clone(process.shared());
        shared.run(run(process, functions));
        Ok(served)
    }
}

/// A module that is served. It goes on when this is dropped.
#[derive(Clone, Debug)]
pub struct Served {
    process: Process,
}

impl Served {
    /// Ends it: calls that are under way end with [`Code::Exit`](crate::Code::Exit) for who waits.
    ///
    /// # Errors
    /// [`Code::NoProc`](crate::Code::NoProc) when it was ended before.
    pub async fn stop(&self) -> Result<()> {
        self.process.exit("normal").await
    }
}

async fn run(process: Process, functions: Arc<BTreeMap<String, Function>>) {
    let mut calls: BTreeMap<u64, AbortHandle> = BTreeMap::new();
    let mut running = JoinSet::new();
    loop {
        let event = tokio::select! {
            biased;
            event = process.receive() => event,
            Some(ended) = running.join_next() => {
                if let Ok(Some(reference)) = ended {
                    calls.remove(&reference);
                }
                continue;
            }
        };
        let Ok(event) = event else {
            let shared = process.shared();
            let epoch = shared.state().epoch;
            if process.has_ended() {
                return;
            }
            // What was given is answered before the app goes.
            while running.join_next().await.is_some() {}
            calls.clear();
            if anew(&process, epoch).await {
                continue;
            }
            return;
        };
        match (event.kind(), event.reference()) {
            (Kind::Rpc, reference) => {
                let epoch = process.shared().state().epoch;
                let (by, functions) = (process.clone(), Arc::clone(&functions));
                let handle = running.spawn(async move {
                    // Consumed when it has ended, also when it was cancelled.
                    let _consumed = Consumed(by.clone(), epoch);
                    answer(&by, &functions, &event).await;
                    reference
                });
                if let Some(reference) = reference {
                    calls.insert(reference, handle);
                }
            }
            (Kind::Cancel, Some(reference)) => {
                if let Some(call) = calls.remove(&reference) {
                    call.abort();
                }
            }
            (Kind::Message | Kind::Cast | Kind::Call, _) => {
                let epoch = process.shared().state().epoch;
                drop(Consumed(process.clone(), epoch));
            }
            _ => {}
        }
    }
}

/// Tells that an event is done with.
struct Consumed(Process, u32);

impl Drop for Consumed {
    fn drop(&mut self) {
        let mut state = self.0.shared().state();
        state.consume(self.0.key(), self.1);
        if state.is_waiting(self.0.key()) {
            state.tell_consumed(self.0.key());
        }
        crate::state::release(state);
    }
}

/// Waits until the process is served again at another node; false when it is over.
async fn anew(process: &Process, epoch: u32) -> bool {
    let shared = process.shared();
    let mut phase = shared.phase.subscribe();
    loop {
        {
            let state = shared.state();
            let known = state.processes.get(&process.key());
            if state.phase == Phase::Closed || known.is_none_or(|known| known.ended.is_some()) {
                return false;
            }
            if state.phase == Phase::Ready && state.epoch != epoch {
                return true;
            }
        }
        if phase.changed().await.is_err() {
            return false;
        }
    }
}

async fn answer(process: &Process, functions: &BTreeMap<String, Function>, event: &Event) {
    let name = event.text("function").unwrap_or_default();
    let answered = match functions.get(name) {
        Some(function) => caught(async { function(event).await }).await,
        None => Err(Failure::new("undef", format!("there is no function {name}"))),
    };
    // Nobody waits for the answer where it cannot be given.
    let _ = match answered {
        Ok(op) => process.answer_with(event, op).await,
        Err(failure) => {
            if event.reference().is_none() {
                tracing::warn!("{name} failed, and nobody waits for it: {}", failure.exit_reason());
            }
            process.raise(event, &failure).await
        }
    };
}

impl Process {
    /// Begins to serve a module: `client.serve("stock").function(...).start().await?`.
    pub fn serve(&self, module: &str) -> Module<'_> {
        Module { process: self, name: module.to_owned(), functions: BTreeMap::new() }
    }
}
