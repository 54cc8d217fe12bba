//! The app's connection to its node, kept up.

use std::fmt;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::connection;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::op::Op;
use crate::process::Process;
use crate::state::{OWN, PATIENCE, Phase, Shared, Want};

/// An app's connection to its node, and its own process, which it derefs to.
///
/// It connects again by itself when the connection breaks, and declares again what the app had declared when the node was
/// restarted. Clones are the same client; when the last one is dropped it says goodbye, and what else it made ends with it.
///
/// ```no_run
/// # async fn example() -> pillion_client::Result<()> {
/// let client = pillion_client::Client::connect().await?;
/// client.send("stock", &("add", "apples")).await?;
/// let left: u64 = client.call("stock", &("count", "apples")).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    process: Process,
    shared: Arc<Shared>,
}

impl Client {
    /// Connects to the node of this app: the socket is `PILLION_SOCKET`, else the only one below `PILLION_DIR` or
    /// `/tmp/pillion-<uid>` that answers. Waits up to 10 s for a node to start. Needs a tokio runtime.
    ///
    /// Cancel safe: nothing is left behind.
    ///
    /// # Errors
    /// [`Code::Unreachable`](crate::Code::Unreachable) when nobody listens there, `denied` and others when the node says so.
    pub async fn connect() -> Result<Self> {
        Self::builder().connect().await
    }

    /// The same with settings.
    pub fn builder() -> Builder {
        Builder { settings: Settings::default() }
    }

    /// Says goodbye: the node carries out what was written before, and ends this app's processes with the reason `normal`.
    /// Everything that waits hears [`Code::Closed`](crate::Code::Closed) or [`Code::Lost`](crate::Code::Lost).
    ///
    /// Cancelled, it goes on by itself.
    ///
    /// # Errors
    /// [`Code::Lost`](crate::Code::Lost) when the node does not answer within 10 s. The client is closed all the same.
    pub async fn close(&self) -> Result<()> {
        let Some(answer) = self.inner.shared.say_goodbye() else { return Ok(()) };
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(Ok(_))) => Ok(()),
            _ => Err(Error::lost(true)),
        }
    }

    /// Leaves the node: answers what was given, ends iterators, and then looks for a node that is not leaving. The client does
    /// so by itself when its node drains, unless it was made with [`Builder::on_draining`].
    ///
    /// Cancelled, it goes on by itself. Returns once the client has left, see [`Client::drained`].
    pub async fn drain(&self) {
        let mut phase = self.inner.shared.phase.subscribe();
        crate::drain::leave_soon(&self.inner.shared);
        let _ = phase.wait_for(|phase| matches!(phase, Phase::Drained | Phase::Closed)).await;
    }

    /// Waits until the client has left a node that is about to leave, or is closed. It looks for another node then, for at
    /// least a second. Cancel safe.
    pub async fn drained(&self) {
        let mut phase = self.inner.shared.phase.subscribe();
        let _ = phase.wait_for(|phase| matches!(phase, Phase::Drained | Phase::Closed)).await;
    }
}

impl Deref for Client {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.inner.process
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("pid", &self.pid()).field("node", &self.node()).finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(self.shared.say_goodbye());
    }
}

impl Shared {
    /// Closes the client. Gives what to wait for when there is a connection to say it on.
    fn say_goodbye(&self) -> Option<tokio::sync::oneshot::Receiver<Result<Event>>> {
        let mut state = self.state();
        let answer = match state.phase {
            Phase::Ready => state.write(OWN, &Op::new("bye"), Want::Answer, None).ok().flatten(),
            _ => None,
        };
        self.set_phase(&mut state, Phase::Closed);
        crate::state::release(state);
        self.closing.notify_one();
        answer
    }
}

/// What was lost with a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Whether the session lives on: pids, names and mailboxes are as they were.
    pub resumed: bool,
    /// Events that were written and did not arrive.
    pub lost_events: u64,
    /// Commands without an answer that the node has not carried out.
    pub lost_commands: u64,
    /// Commands without an answer of which nobody knows.
    pub unsure_commands: u64,
}

/// A command without an answer that has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failed {
    /// The command: `send`, `cast`, `publish` ...
    pub op: String,
    /// To whom it went, or what it was about.
    pub to: Option<String>,
    /// Why.
    pub code: crate::Code,
    /// The sentence, where there is one.
    pub message: Option<String>,
    /// How many of this kind since the last one that was told.
    pub count: u64,
}

impl Failed {
    pub(crate) fn of(event: &Event) -> Self {
        let text = |key| event.text(key).map(str::to_owned);
        Self {
            op: text("op").unwrap_or_default(),
            to: text("to"),
            code: event.text("code").unwrap_or_default().into(),
            message: text("message"),
            count: event.uint("count").unwrap_or(1),
        }
    }

    pub(crate) fn because(op: &str, to: &str, error: &Error) -> Self {
        Self {
            op: op.to_owned(),
            to: (!to.is_empty()).then(|| to.to_owned()),
            code: error.code().clone(),
            message: Some(error.message().to_owned()),
            count: 1,
        }
    }
}

type Callback<T> = Option<Box<dyn Fn(&T) + Send + Sync>>;

/// How a client is, from the beginning.
pub(crate) struct Settings {
    pub(crate) socket: Option<PathBuf>,
    pub(crate) name: String,
    pub(crate) grace: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) process: Option<String>,
    pub(crate) draining: Callback<()>,
    drained: Callback<()>,
    disconnected: Callback<String>,
    failed: Callback<Failed>,
    report: Callback<Report>,
}

impl Default for Settings {
    fn default() -> Self {
        let process = std::env::var("PILLION_PROCESS").ok().filter(|token| !token.is_empty());
        let program = std::env::args_os().next().map(PathBuf::from);
        let name = program.as_deref().and_then(|path| path.file_name()).unwrap_or_default();
        let mut name = name.to_string_lossy().into_owned();
        crate::error::truncate(&mut name, 255);
        Self {
            socket: None,
            name,
            grace: Duration::ZERO,
            connect_timeout: PATIENCE,
            process,
            draining: None,
            drained: None,
            disconnected: None,
            failed: None,
            report: None,
        }
    }
}

impl Settings {
    pub(crate) fn failed(&self, failed: &Failed) {
        match &self.failed {
            Some(callback) => callback(failed),
            None => {
                let to = failed.to.as_deref().unwrap_or_default();
                let words = failed.message.as_deref().unwrap_or_default();
                tracing::warn!(
                    count = failed.count,
                    "{} {to} failed: {} {words}",
                    failed.op,
                    failed.code
                );
            }
        }
    }

    pub(crate) fn report(&self, report: &Report) {
        match &self.report {
            Some(callback) => callback(report),
            None => {
                let lost = report.lost_events + report.lost_commands + report.unsure_commands;
                if lost > 0 || !report.resumed {
                    tracing::warn!(
                        resumed = report.resumed,
                        lost_events = report.lost_events,
                        lost_commands = report.lost_commands,
                        unsure_commands = report.unsure_commands,
                        "the connection to the node was lost and is there again"
                    );
                }
            }
        }
    }

    pub(crate) fn disconnected(&self, reason: &String) {
        match &self.disconnected {
            Some(callback) => callback(reason),
            None => {
                tracing::debug!("the connection to the node is lost, connecting again: {reason}");
            }
        }
    }

    pub(crate) fn drained(&self) {
        match &self.drained {
            Some(callback) => callback(&()),
            None => {
                tracing::info!("left the node, which is about to leave; looking for another one");
            }
        }
    }
}

/// Settings of a client. Callbacks run in the connection's task: they return at once, and spawn what takes longer.
#[must_use = "a client is made by connect()"]
pub struct Builder {
    settings: Settings,
}

impl Builder {
    /// The node's socket, instead of one that is found.
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.socket = Some(path.into());
        self
    }

    /// What people see of this app; the program's name when left out. At most 255 bytes count.
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.settings.name);
        crate::error::truncate(&mut self.settings.name, 255);
        self
    }

    /// How long the node keeps this app's processes when the connection breaks: not at all when left out, an hour at
    /// most. Others hear of an app that was killed only then.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace;
        self
    }

    /// How long [`Builder::connect`] waits for a node to start: 10 s when left out.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// The node is about to leave, and the app decides what to do about it, such as [`Client::drain`] or [`Client::close`].
    /// Without this the client finishes by itself.
    pub fn on_draining(mut self, callback: impl Fn() + Send + Sync + 'static) -> Self {
        self.settings.draining = Some(Box::new(move |()| callback()));
        self
    }

    /// The client has left a node that is about to leave.
    pub fn on_drained(mut self, callback: impl Fn() + Send + Sync + 'static) -> Self {
        self.settings.drained = Some(Box::new(move |()| callback()));
        self
    }

    /// The connection broke, and why; the client is about to connect again. [`Builder::on_report`] says what came of it.
    pub fn on_disconnected(mut self, callback: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.settings.disconnected = Some(Box::new(move |reason: &String| callback(reason)));
        self
    }

    /// A command without an answer has failed. Without this it is logged as a warning.
    pub fn on_failed(mut self, callback: impl Fn(&Failed) + Send + Sync + 'static) -> Self {
        self.settings.failed = Some(Box::new(callback));
        self
    }

    /// The connection was lost and is there again. Without this it is logged as a warning when something was lost.
    pub fn on_report(mut self, callback: impl Fn(&Report) + Send + Sync + 'static) -> Self {
        self.settings.report = Some(Box::new(callback));
        self
    }

    /// Connects, as [`Client::connect`] does. Cancel safe.
    ///
    /// # Errors
    /// As of [`Client::connect`].
    pub async fn connect(self) -> Result<Client> {
        let shared = Arc::new(Shared::new(self.settings));
        let link = connection::first(&shared).await?;
        // Until the driver runs, commands wait.
        tokio::spawn(connection::drive(Arc::clone(&shared), link));
        let process = Process::new(Arc::clone(&shared), OWN);
        let client = Client { inner: Arc::new(Inner { process, shared }) };
        client.inner.shared.connected().await;
        Ok(client)
    }
}

impl Shared {
    async fn connected(&self) {
        let _ = self.phase.subscribe().wait_for(|phase| *phase != Phase::Away).await;
    }
}
