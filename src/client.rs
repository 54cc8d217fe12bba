//! The app's side of the socket: commands out, answers and events in, over CBOR frames.
//!
//! ```text
//! start(op) ──> bounded queue ──> writer task ──> socket
//! answer    <── by its id     <── reader task <── socket
//! next_event <── queue of events <─┘
//! ```
//!
//! The reader task reads while the writer task writes, so neither side can wait for the other for ever. Memory is
//! bounded: with window delivery by the window, which [`Client::next_event`] opens again as events are consumed; with
//! push delivery by [`EVENTS_BYTES_MAX`], beyond which nothing is read until the app takes events.
//!
//! This is not a supervisor: a lost connection stays lost, and with it the session's processes.

mod find;
mod frame;
mod op;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;

pub use find::{FindError, find, find_operator};
pub use frame::{Answer, Event};
pub use op::Op;

use crate::wire::command::Delivery;

/// Unread events that make the client stop reading, in bytes. Answers wait behind them then.
pub const EVENTS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The window that suits a program which looks at each event once.
pub const WINDOW: Delivery = Delivery::Window(WINDOW_EVENTS);
const WINDOW_EVENTS: u32 = 256;
/// Commands that wait to be written.
const COMMANDS_MAX: usize = 64;
/// Nothing longer is a frame of this protocol.
const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024 + 128 * 1024;
/// Read buffer, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// Why something asked of the sidecar did not come about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody answers behind the path. Nothing was sent.
    #[error("cannot connect to {path}: {source}")]
    Connect {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The sidecar answered with an error. The session lives on.
    #[error("{message} ({code})")]
    Refused {
        /// The code, for programs.
        code: String,
        /// For people.
        message: String,
        /// It may have happened all the same.
        maybe_applied: bool,
    },
    /// The connection ended. Whatever had no answer yet may have happened or not.
    #[error("the connection to the sidecar is lost: {0}")]
    Lost(String),
    /// The command cannot be written as a frame. Nothing was sent.
    #[error("{0}")]
    TooLarge(String),
}

impl ClientError {
    /// Whether what was asked may have happened all the same.
    #[must_use]
    pub const fn maybe_applied(&self) -> bool {
        match self {
            Self::Refused { maybe_applied, .. } => *maybe_applied,
            Self::Lost(_) => true,
            Self::Connect { .. } | Self::TooLarge(_) => false,
        }
    }

    /// The code of an error answer.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            _ => None,
        }
    }
}

/// What the sidecar said to `hello`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The node's name.
    pub node: String,
    /// The session's own process.
    pub pid: String,
    /// The session's number and secret, for `resume`.
    pub session: u64,
    /// See `session`.
    pub secret: String,
}

/// A session with a sidecar. Its methods take `&self`: share it in an `Arc`.
///
/// Dropping it ends the connection at once, commands not yet written included; [`Client::close`] writes them first.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    out: mpsc::Sender<Vec<u8>>,
    _tasks: JoinSet<()>,
}

/// A command on its way. Dropping it loses the answer, not the command.
#[derive(Debug)]
#[must_use = "the answer is here, and so is the error"]
pub struct Pending {
    id: u64,
    answer: oneshot::Receiver<Answer>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// An event has arrived, or the end.
    arrived: Notify,
    /// Events were taken.
    taken: Notify,
}

#[derive(Debug, Default)]
struct State {
    id: u64,
    pending: BTreeMap<u64, oneshot::Sender<Answer>>,
    events: VecDeque<Event>,
    events_bytes: usize,
    /// Messages taken and not yet told by `more`, by process; the session's own is the empty text.
    consumed: BTreeMap<String, u64>,
    consumed_events: u64,
    window: Option<u32>,
    welcome: Option<Event>,
    /// Why there will be no more.
    ended: Option<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that panics runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self) -> ClientError {
        let ended = self.state().ended.clone();
        ClientError::Lost(ended.unwrap_or_else(|| "it was closed".to_owned()))
    }
}

impl Client {
    /// Connects to a socket. The connection is a session of its own, without events until it asks for some.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        let path = path.as_ref();
        let stream = UnixStream::connect(path)
            .await
            .map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
        let (reader, writer) = stream.into_split();
        Ok(Self::over(reader, writer))
    }

    /// Speaks over any pair of byte streams. Must be called within a tokio runtime.
    pub fn over<R, W>(reader: R, writer: W) -> Self
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let shared = Arc::new(Shared::default());
        let (out, commands) = mpsc::channel(COMMANDS_MAX);
        let mut tasks = JoinSet::new();
        tasks.spawn(write(writer, commands));
        let reading = Arc::clone(&shared);
        tasks.spawn(async move {
            let ended = match read(reader, &reading).await {
                Ok(()) => "it was closed by the sidecar".to_owned(),
                Err(error) => error.to_string(),
            };
            let mut state = reading.state();
            state.ended = Some(ended);
            state.pending.clear();
            drop(state);
            reading.arrived.notify_one();
        });
        Self { shared, out, _tasks: tasks }
    }

    /// Introduces the app, and says how its processes get their events. [`WINDOW`] suits most.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn hello(&self, client: &str, delivery: Delivery) -> Result<Welcome, ClientError> {
        self.hello_as(client, delivery, None).await
    }

    /// The same; with what is in its `PILLION_PROCESS` a hosted program becomes the process that its node hosts.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn hello_as(
        &self,
        client: &str,
        delivery: Delivery,
        process: Option<&str>,
    ) -> Result<Welcome, ClientError> {
        let op = Op::new("hello").uint("version", 1).text("client", client);
        let op = op.maybe_text("process", process);
        let op = match delivery {
            Delivery::Push => op.text("delivery", "push"),
            Delivery::Pull => op.text("delivery", "pull"),
            Delivery::Window(n) => {
                self.shared.state().window = Some(n);
                op.json("delivery", &serde_json::json!({ "window": n }))
            }
        };
        self.request(op).await?;
        let welcome = self.shared.state().welcome.take();
        let welcome =
            welcome.ok_or_else(|| ClientError::Lost("it gave no `welcome`".to_owned()))?;
        let text = |key| welcome.text(key).unwrap_or_default().to_owned();
        Ok(Welcome {
            node: text("node"),
            pid: text("pid"),
            session: welcome.uint("session").unwrap_or(0),
            secret: text("secret"),
        })
    }

    /// Sends a command and waits for its answer.
    ///
    /// Cancel safe in that the connection stays good; whether the command was sent is not known then.
    ///
    /// # Errors
    /// [`ClientError`]; an error answer is [`ClientError::Refused`].
    pub async fn request(&self, op: Op) -> Result<Answer, ClientError> {
        self.start(op).await?.answer().await
    }

    /// Sends a command and returns before its answer, so that many can be under way.
    ///
    /// Waits while too many commands wait to be written. Cancelled before it returns, nothing was sent.
    ///
    /// # Errors
    /// [`ClientError::Lost`] and [`ClientError::TooLarge`].
    pub async fn start(&self, op: Op) -> Result<Pending, ClientError> {
        let permit = self.out.reserve().await.map_err(|_| self.shared.lost())?;
        let (answer, pending) = oneshot::channel();
        let mut state = self.shared.state();
        state.id += 1;
        let id = state.id;
        let frame = op.frame(Some(id))?;
        if state.ended.is_some() {
            drop(state);
            return Err(self.shared.lost());
        }
        state.pending.insert(id, answer);
        permit.send(frame);
        drop(state);
        Ok(Pending { id, answer: pending, shared: Arc::clone(&self.shared) })
    }

    /// Sends a command that gets no answer; should it fail, there will be a `failed` event.
    ///
    /// Waits while too many commands wait to be written. Cancelled before it returns, nothing was sent.
    ///
    /// # Errors
    /// [`ClientError::Lost`] and [`ClientError::TooLarge`].
    pub async fn tell(&self, op: Op) -> Result<(), ClientError> {
        let frame = op.frame(None)?;
        self.out.send(frame).await.map_err(|_| self.shared.lost())
    }

    /// The next event, in the order in which they came; `None` when the connection is over.
    ///
    /// Coming back for the next one says that the earlier ones are consumed. Cancel safe: no event is lost.
    pub async fn next_event(&self) -> Option<Event> {
        loop {
            let arrived = self.shared.arrived.notified();
            self.open_window().await;
            {
                let mut state = self.shared.state();
                if let Some(event) = state.take_event() {
                    if !state.events.is_empty() || state.ended.is_some() {
                        self.shared.arrived.notify_one();
                    }
                    self.shared.taken.notify_one();
                    return Some(event);
                }
                if state.ended.is_some() {
                    self.shared.arrived.notify_one();
                    return None;
                }
            }
            arrived.await;
        }
    }

    /// The next event if it is there already and a part of the answer to this command.
    ///
    /// Parts are events: an answer may be heard while parts that came before it still wait here.
    #[must_use]
    pub fn take_part(&self, of: u64) -> Option<Event> {
        let mut state = self.shared.state();
        state.events.front().filter(|event| event.is_part(of))?;
        let event = state.take_event();
        self.shared.taken.notify_one();
        event
    }

    /// The next event if it is here already.
    #[must_use]
    pub fn take_event(&self) -> Option<Event> {
        let event = self.shared.state().take_event();
        self.shared.taken.notify_one();
        event
    }

    /// Why the connection is over, once it is.
    #[must_use]
    pub fn ended(&self) -> Option<String> {
        self.shared.state().ended.clone()
    }

    /// Says goodbye, waits until everything sent before was carried out, and closes.
    ///
    /// # Errors
    /// [`ClientError::Lost`] when the connection was over before.
    pub async fn close(self) -> Result<(), ClientError> {
        self.request(Op::new("bye")).await.map(drop)
    }

    /// Tells the sidecar what was consumed, in batches of half a window, and before waiting.
    async fn open_window(&self) {
        loop {
            {
                let state = self.shared.state();
                let Some(window) = state.window else { return };
                let due = state.events.is_empty() || state.consumed_events * 2 >= window.into();
                if state.consumed.is_empty() || !due {
                    return;
                }
            }
            // A connection that is over shows in what is read.
            let Ok(permit) = self.out.reserve().await else { return };
            let Some((pid, n)) = self.shared.state().take_consumed() else { return };
            let more = Op::new("more").uint("n", n);
            let more = if pid.is_empty() { more } else { more.text("pid", &pid) };
            if let Ok(frame) = more.frame(None) {
                permit.send(frame);
            }
        }
    }
}

impl Pending {
    /// What `cancel` calls the command.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Waits for the answer as it comes, an error too.
    ///
    /// # Errors
    /// [`ClientError::Lost`] when it will never come.
    pub async fn frame(self) -> Result<Answer, ClientError> {
        self.answer.await.map_err(|_| self.shared.lost())
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when it is an error, [`ClientError::Lost`] when it will never come.
    pub async fn answer(self) -> Result<Answer, ClientError> {
        let answer = self.frame().await?;
        if answer.name() == "error" {
            return Err((&answer).into());
        }
        Ok(answer)
    }
}

impl From<&Answer> for ClientError {
    /// What an error answer says.
    fn from(answer: &Answer) -> Self {
        let text = |key| answer.text(key).unwrap_or_default().to_owned();
        Self::Refused {
            code: text("code"),
            message: text("message"),
            maybe_applied: answer.bool("maybe_applied").unwrap_or(false),
        }
    }
}

impl State {
    fn take_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        self.events_bytes -= event.len();
        let counted = matches!(event.name(), "message" | "cast" | "call" | "rpc");
        if self.window.is_some() && counted {
            *self.consumed.entry(event.text("pid").unwrap_or("").to_owned()).or_default() += 1;
            self.consumed_events += 1;
        }
        Some(event)
    }

    fn take_consumed(&mut self) -> Option<(String, u64)> {
        let (pid, n) = self.consumed.pop_first()?;
        self.consumed_events -= n;
        Some((pid, n))
    }

    fn on_frame(&mut self, frame: Event) {
        match frame.name() {
            "ok" | "error" => {
                let waiting = frame.uint("id").and_then(|id| self.pending.remove(&id));
                if let Some(waiting) = waiting {
                    // Nobody waits for it any more: that is their choice.
                    let _ = waiting.send(frame);
                }
            }
            "welcome" => self.welcome = Some(frame),
            _ => {
                self.events_bytes += frame.len();
                self.events.push_back(frame);
            }
        }
    }
}

async fn write(mut writer: impl AsyncWrite + Unpin, mut commands: mpsc::Receiver<Vec<u8>>) {
    let mut frames = Vec::with_capacity(COMMANDS_MAX);
    while commands.recv_many(&mut frames, COMMANDS_MAX).await > 0 {
        let batch = if let [frame] = frames.as_mut_slice() {
            std::mem::take(frame)
        } else {
            frames.concat()
        };
        frames.clear();
        if writer.write_all(&batch).await.is_err() {
            // The reader says why.
            return;
        }
    }
}

async fn read(reader: impl AsyncRead + Unpin, shared: &Shared) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(READ_BYTES, reader);
    let invalid = |message| io::Error::new(io::ErrorKind::InvalidData, message);
    loop {
        let mut length = [0; 4];
        if reader.read(&mut length[..1]).await? == 0 {
            return Ok(());
        }
        reader.read_exact(&mut length[1..]).await?;
        let rest = u32::from_be_bytes(length) as usize;
        if rest > FRAME_BYTES_MAX {
            return Err(invalid("what came is not a frame of the app protocol"));
        }
        let mut bytes = vec![0; 4 + rest];
        bytes[..4].copy_from_slice(&length);
        reader.read_exact(&mut bytes[4..]).await?;
        let frame = Event::read(bytes).ok_or_else(|| invalid("a frame without a header came"))?;
        let is_full = {
            let mut state = shared.state();
            state.on_frame(frame);
            state.events_bytes >= EVENTS_BYTES_MAX
        };
        shared.arrived.notify_one();
        while is_full && shared.state().events_bytes >= EVENTS_BYTES_MAX {
            shared.taken.notified().await;
        }
    }
}
