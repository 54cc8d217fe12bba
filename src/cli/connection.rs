//! A command's session with the node: found, connected, introduced, and with a bound on every wait.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::{Exit, Failure};
use super::{Globals, Output};
use crate::client::{self, Answer, Client, ClientError, Event, Op};
use crate::wire::command::Delivery;

/// How long an answer may take. The node bounds its own waits well below.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A session with the node, and where its answers are written.
#[derive(Debug)]
pub struct Connection {
    /// The session.
    pub client: Client,
    /// What the node calls itself.
    pub node: String,
    /// The session's own process.
    pub pid: String,
    /// Where answers are written.
    pub output: Output,
    /// Listens from the start, so that ctrl-c is not lost between two events.
    interrupt: Option<Signal>,
}

/// What happened while waiting for an event.
#[derive(Debug)]
pub(super) enum Heard {
    /// This.
    Event(Event),
    /// Ctrl-c: the person has seen enough.
    Enough,
    /// Nothing for as long as was allowed.
    Nothing,
}

impl Connection {
    /// Finds the node and introduces this command to it.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn open(globals: &Globals, name: &str, delivery: Delivery) -> Result<Self, Failure> {
        let path = client::find(globals.socket.as_ref().map(PathBuf::from))?;
        Self::over(&path, globals, name, delivery).await
    }

    /// The same over the socket that operators use, if the node has one.
    ///
    /// # Errors
    /// [`Failure`].
    pub(super) async fn open_operator(globals: &Globals, name: &str) -> Result<Self, Failure> {
        let path = client::find_operator(globals.socket.as_ref().map(PathBuf::from))?;
        Self::over(&path, globals, name, Delivery::Pull).await
    }

    async fn over(
        path: &Path,
        globals: &Globals,
        name: &str,
        delivery: Delivery,
    ) -> Result<Self, Failure> {
        let client = within(Duration::ZERO, Client::connect(path)).await?;
        let client_name = format!("pillion {name}");
        let token = hosted(path, name);
        let welcome = within(Duration::ZERO, async {
            let hello = client.hello_as(&client_name, delivery, token.as_deref()).await;
            if token.is_some() && hello.as_ref().is_err_and(|error| error.code().is_some()) {
                // Its process has died: then it is an app like any other.
                return client.hello(&client_name, delivery).await;
            }
            hello
        })
        .await?;
        let output = Output { json: globals.json };
        // A command that waits for nothing but its answer ends by ctrl-c as any program does.
        let interrupt = match delivery {
            Delivery::Pull => None,
            _ => Some(signal(SignalKind::interrupt()).map_err(|error| {
                Failure::new(Exit::Internal, format!("cannot listen for ctrl-c: {error}"))
            })?),
        };
        Ok(Self { client, node: welcome.node, pid: welcome.pid, output, interrupt })
    }

    /// Asks and waits.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn request(&self, op: Op) -> Result<Answer, Failure> {
        within(Duration::ZERO, self.client.request(op)).await
    }

    /// Asks and waits this much longer than usual.
    pub(super) async fn request_for(&self, op: Op, extra: Duration) -> Result<Answer, Failure> {
        within(extra, self.client.request(op)).await
    }

    /// Asks and waits for as long as it takes.
    pub(super) async fn request_without_end(&self, op: Op) -> Result<Answer, Failure> {
        Ok(self.client.request(op).await?)
    }

    /// Calls, and tells of each part of the answer as it comes. The answer may be an error.
    ///
    /// # Errors
    /// [`Failure`], when there is no answer or a part could not be told.
    pub(super) async fn call(
        &self,
        op: Op,
        extra: Duration,
        mut part: impl FnMut(&Event) -> Result<(), Failure>,
    ) -> Result<Answer, Failure> {
        let pending = self.client.start(op).await?;
        let id = pending.id();
        let mut answering = Box::pin(pending.frame());
        loop {
            // Each part starts the deadline anew.
            let heard = within(extra, async {
                tokio::select! {
                    biased;
                    answer = &mut answering => answer.map(Some),
                    event = self.client.next_event() => match event {
                        Some(event) => Ok(Some(event)),
                        // The answer has been heard, or never will be.
                        None => Ok(None),
                    },
                }
            });
            match heard.await? {
                Some(event) if event.is_part(id) => part(&event)?,
                Some(event) if matches!(event.name(), "ok" | "error") => {
                    while let Some(event) = self.client.take_part(id) {
                        part(&event)?;
                    }
                    return Ok(event);
                }
                Some(_) => {}
                None => return within(Duration::ZERO, answering).await,
            }
        }
    }

    /// Asks and prints the answer's list or map, as `words` puts it.
    pub(super) async fn show(
        &self,
        op: Op,
        noun: &str,
        words: impl FnOnce(&serde_json::Value) -> String,
    ) -> Result<(), Failure> {
        let answer = self.request(op).await?;
        self.output.tell(&answer, || words(&answer.to_value()[noun]))
    }

    /// Waits for the next event, ctrl-c, or for so long. Cancel safe.
    ///
    /// # Errors
    /// When the node leaves or is gone: there is nothing more to wait for.
    pub(super) async fn hear(&mut self, patience: Option<Duration>) -> Result<Heard, Failure> {
        let impatience = async {
            match patience {
                Some(patience) => tokio::time::sleep(patience).await,
                None => std::future::pending().await,
            }
        };
        let interrupt = &mut self.interrupt;
        let interrupted = async {
            match interrupt {
                Some(interrupt) => drop(interrupt.recv().await),
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            biased;
            () = interrupted => return Ok(Heard::Enough),
            event = self.client.next_event() => event,
            () = impatience => return Ok(Heard::Nothing),
        };
        let Some(event) = event else {
            let why = self.client.ended().unwrap_or_default();
            return Err(ClientError::Lost(why).into());
        };
        if event.name() == "draining" {
            if self.output.json {
                self.output.say(&event.to_json())?;
            }
            let words = format!("the node {} is leaving: start again when it is back", self.node);
            return Err(Failure::new(Exit::Temporary, words));
        }
        Ok(Heard::Event(event))
    }

    /// Says goodbye. What was sent before has been carried out then.
    pub(super) async fn close(self) -> Result<(), Failure> {
        within(Duration::ZERO, self.client.close()).await
    }
}

/// The token of a command that a node runs as one of its processes, where it makes sense to act as that process: calls
/// by its name then reach what it serves. Another command in a hosted script is an app of its own.
fn hosted(socket: &Path, command: &str) -> Option<String> {
    if !matches!(command, "serve" | "shell") {
        return None;
    }
    let own = std::env::var_os("PILLION_SOCKET")?;
    (Path::new(&own) == socket).then(|| std::env::var("PILLION_PROCESS").ok()).flatten()
}

async fn within<T>(
    extra: Duration,
    what: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, Failure> {
    let patience = ANSWER_WITHIN + extra;
    match tokio::time::timeout(patience, what).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Failure::new(
            Exit::Temporary,
            format!(
                "the node has not answered for {} s: it hangs or is stopped, and what was asked may have happened or not",
                patience.as_secs()
            ),
        )),
    }
}
