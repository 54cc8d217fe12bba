//! The connection: made, introduced, read and written, made again when it breaks.
//!
//! ```text
//! connect ──> hello ──> welcome ──> read and write ──> broken
//!    ^                                                   │
//!    └──── hello {resume} <── 10, 20, 40 ms ... 1 s <────┘
//!             │ not_found: hello, then all that was declared
//! ```
//!
//! One task drives it. It reads a chunk of many frames at a time and hands them over under one lock; it writes whatever has
//! been appended meanwhile as soon as the socket takes it.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::declare;
use crate::error::{Code, Error, Result};
use crate::event::{Event, Kind, Next, next};
use crate::find;
use crate::op::Op;
use crate::pid::Pid;
use crate::state::{After, OWN, PATIENCE, Phase, Session, Shared, WINDOW};

/// The first wait between two tries, and the longest.
const TRY_AFTER: Duration = Duration::from_millis(10);
const TRY_AFTER_MAX: Duration = Duration::from_secs(1);
/// How long a `gap` may follow the welcome to a resumed session.
const GAP_WITHIN: Duration = Duration::from_millis(100);
/// How long a client that is closed waits for the node to close the connection.
const GOODBYE: Duration = Duration::from_secs(2);
/// One read; frames that wait in a mailbox keep the chunk that they came in.
const READ_BYTES: usize = 32 * 1024;

/// A connection that was welcomed.
pub(crate) struct Link {
    stream: UnixStream,
    buffer: BytesMut,
    /// Frames that came on it.
    frames: u64,
    welcome: Event,
    resumed: bool,
    draining: bool,
}

/// Why a connection is none.
enum Trouble {
    /// Try again.
    Broken(String),
    /// The node's word; trying again changes nothing soon.
    Refused(Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Makes the first connection.
pub(crate) async fn first(shared: &Shared) -> Result<Link> {
    let deadline = Instant::now() + shared.settings.connect_timeout;
    let mut wait = TRY_AFTER;
    loop {
        let error = match attempt(shared, None, true).await {
            Ok(link) => return Ok(link),
            Err(Trouble::Refused(error)) if error.code() != &Code::Unreachable => {
                return Err(error);
            }
            Err(Trouble::Refused(error)) => error,
            Err(Trouble::Broken(words)) => Error::new(Code::Unreachable, false, words),
        };
        if Instant::now() + wait > deadline {
            return Err(error);
        }
        sleep(wait).await;
        wait = (wait * 2).min(TRY_AFTER_MAX);
    }
}

fn path(shared: &Shared) -> Result<PathBuf> {
    shared.settings.socket.clone().map_or_else(find::find, Ok)
}

async fn attempt(
    shared: &Shared,
    resume: Option<(Session, u64)>,
    is_first: bool,
) -> Result<Link, Trouble> {
    let path = path(shared).map_err(Trouble::Refused)?;
    let stream = UnixStream::connect(&path).await.map_err(|error| not_connected(&path, &error))?;
    let words = "the node did not answer the hello within 10 s";
    let greeting = timeout(PATIENCE, greet(shared, stream, resume, is_first));
    greeting.await.unwrap_or_else(|_| Err(Trouble::Broken(words.to_owned())))
}

/// Why a socket does not answer, and what to do. Only what cannot change by itself is not tried again.
fn not_connected(path: &Path, error: &io::Error) -> Trouble {
    let shown = path.display();
    let is_other = std::fs::metadata(path).is_ok_and(|there| !there.file_type().is_socket());
    let words = match error.kind() {
        io::ErrorKind::InvalidInput => {
            let long = path.as_os_str().len();
            let words = format!(
                "{shown} is no path for a socket: it has {long} bytes, of at most 107; name a shorter one"
            );
            return Trouble::Refused(Error::new(Code::BadArg, false, words));
        }
        io::ErrorKind::PermissionDenied => {
            "this user may not; run as the user of the node, or let this one write to the socket"
        }
        _ if is_other => "that is no socket; name the one of a node with PILLION_SOCKET",
        _ => {
            "nobody listens there; start a node with `pillion up`, or name its socket with PILLION_SOCKET"
        }
    };
    Trouble::Broken(format!("cannot connect to {shown}: {error}: {words}"))
}

/// Introduces the app, and waits for the welcome.
async fn greet(
    shared: &Shared,
    stream: UnixStream,
    resume: Option<(Session, u64)>,
    is_first: bool,
) -> Result<Link, Trouble> {
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    let (mut frames, mut draining) = (0, false);
    let mut resume = resume;
    loop {
        let op = hello(shared, resume.as_ref(), is_first);
        let mut out = Vec::new();
        // Other commands count from 1.
        op.append(&mut out, None, Some(0));
        write_all(&stream, &out).await?;
        let error = loop {
            let event = match next(&mut buffer) {
                Next::Frame(event) => event,
                Next::Bad => {
                    return Err(Trouble::Broken("what answers is no node of Pillion".to_owned()));
                }
                Next::More => {
                    stream.readable().await?;
                    read(&stream, &mut buffer)?;
                    continue;
                }
            };
            frames += 1;
            match event.kind() {
                Kind::Welcome => {
                    let resumed = resume.is_some();
                    return Ok(Link { stream, buffer, frames, welcome: event, resumed, draining });
                }
                Kind::Draining => draining = true,
                Kind::Error | Kind::Failed => break Error::of(&event),
                _ => {}
            }
        };
        if resume.take().is_none() || error.code() != &Code::NotFound || is_hosted(shared) {
            return Err(Trouble::Refused(error));
        }
    }
}

fn is_hosted(shared: &Shared) -> bool {
    shared.program.get().is_some_and(|program| program.hosted)
}

fn hello(shared: &Shared, resume: Option<&(Session, u64)>, is_first: bool) -> Op {
    #[derive(serde::Serialize)]
    struct Resume<'a> {
        session: u64,
        secret: &'a str,
        seen: u64,
    }
    #[derive(serde::Serialize)]
    struct Delivery {
        window: u32,
    }
    let settings = &shared.settings;
    let grace = u64::try_from(settings.grace.as_millis()).unwrap_or(u64::MAX >> 11);
    let op = Op::new("hello").uint("version", 1).text("client", &settings.name);
    let op = op.field("delivery", &Delivery { window: WINDOW });
    let op = if grace > 0 { op.uint("grace_ms", grace) } else { op };
    match resume {
        Some((session, seen)) => {
            let resume = Resume { session: session.number, secret: &session.secret, seen: *seen };
            op.field("resume", &resume)
        }
        None if is_first => op.maybe_text("process", settings.process.as_deref()),
        None => op,
    }
}

async fn write_all(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(n) => bytes.advance(n),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads what is there; says whether anything was.
fn read(stream: &UnixStream, buffer: &mut BytesMut) -> io::Result<bool> {
    if buffer.capacity() - buffer.len() < 4096 {
        buffer.reserve(READ_BYTES);
    }
    match stream.try_read_buf(buffer) {
        Ok(0) => {
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the node closed the connection"))
        }
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// How a session went.
enum End {
    /// The connection broke; the session may be resumed.
    Broken(String),
    /// The session is over as well.
    Over(String),
}

/// Whatever happens to the driver, nobody waits for ever.
struct Guard(Arc<Shared>);

impl Drop for Guard {
    fn drop(&mut self) {
        let mut after = After::default();
        let mut state = self.0.state();
        self.0.set_phase(&mut state, Phase::Closed);
        state.on_closed(&mut after);
        drop(state);
        self.0.finish(after);
        self.0.end_tasks();
        if let Some(program) = self.0.program.get() {
            program.gone.notify_one();
        }
    }
}

/// Takes a new connection over, and keeps one up until the client is closed.
pub(crate) async fn drive(shared: Arc<Shared>, link: Link) {
    let guard = Guard(Arc::clone(&shared));
    let mut link = link;
    let mut declared = true;
    loop {
        let end = session(&shared, link, declared).await;
        let (words, over) = match end {
            End::Broken(words) => (words, !declared_by_now(&shared, declared)),
            End::Over(words) => (words, true),
        };
        let Some((resume, left)) = broke(&shared, over) else { break };
        if !left {
            shared.settings.disconnected(&words);
        }
        let again = async {
            tokio::select! {
                biased;
                () = shared.closing.notified() => None,
                link = reconnect(&shared, resume, left) => Some(link),
                () = sweep(&shared) => None,
            }
        };
        let Some(next) = again.await else { break };
        declared = next.resumed;
        link = next;
    }
    drop(guard);
}

/// What to do after the connection broke: what to resume, and whether the client had left; nothing when it is closed.
fn broke(shared: &Shared, over: bool) -> Option<(Option<(Session, u64)>, bool)> {
    let mut state = shared.state();
    state.on_break();
    if over {
        state.session = None;
    }
    let resume = state.session.clone().map(|session| (session, state.seen));
    match state.phase {
        Phase::Closed => None,
        Phase::Drained => Some((None, true)),
        Phase::Away | Phase::Ready => {
            shared.set_phase(&mut state, Phase::Away);
            Some((resume, false))
        }
    }
}

/// A session in which not all was declared is not worth resuming.
fn declared_by_now(shared: &Shared, declared: bool) -> bool {
    declared || shared.state().phase == Phase::Ready
}

/// Ends the waiting of those whose time is over while there is no connection.
async fn sweep(shared: &Shared) {
    loop {
        let next = shared.state().next_deadline();
        match next {
            Some(deadline) => sleep_until(deadline).await,
            None => std::future::pending().await,
        }
        shared.state().expire(Instant::now());
    }
}

/// Connects again, however long it takes. Who left a node that is about to leave looks for another one.
async fn reconnect(shared: &Shared, resume: Option<(Session, u64)>, left: bool) -> Link {
    let mut wait = if left { TRY_AFTER_MAX } else { TRY_AFTER };
    loop {
        sleep(wait).await;
        match attempt(shared, resume.clone(), false).await {
            Err(_) if is_hosted(shared) => {
                // Its node is gone, and this run of it with that.
                shared.own_is_over("noconnection");
                std::future::pending::<()>().await;
            }
            Ok(link) if left && link.draining => {}
            Ok(link) => return link,
            Err(Trouble::Broken(words)) => tracing::trace!("no node yet: {words}"),
            Err(Trouble::Refused(error)) => {
                tracing::warn!("the node does not welcome this app: {error}");
                wait = TRY_AFTER_MAX;
            }
        }
        wait = (wait * 2).min(TRY_AFTER_MAX);
    }
}

/// Takes over what the welcome says. `declared` says that the session lives on, or is the client's first.
fn welcomed(shared: &Arc<Shared>, link: &Link, declared: bool) -> Option<crate::client::Report> {
    let commands = link.welcome.uint("commands").unwrap_or(1);
    let mut after = After::default();
    let mut state = shared.state();
    let mut report = None;
    if link.resumed {
        state.seen += link.frames;
        state.on_resumed(commands, &mut after);
    } else {
        let quiet = declared || state.phase == Phase::Drained;
        let lost = state.on_restarted(commands, link.frames, quiet, &mut after);
        report = (!quiet).then_some(lost);
        shared.set_phase(&mut state, Phase::Away);
    }
    let text = |key| link.welcome.text(key).unwrap_or_default().to_owned();
    state.node = text("node");
    let session =
        Session { number: link.welcome.uint("session").unwrap_or(0), secret: text("secret") };
    state.session = Some(session);
    if let Some(own) = state.processes.get_mut(&OWN) {
        own.pid = link.welcome.pid().map(Pid::from);
    }
    if link.draining && !std::mem::replace(&mut state.draining, true) {
        after.draining = true;
    }
    if declared {
        shared.set_phase(&mut state, Phase::Ready);
        state.end_orphans();
    }
    drop(state);
    shared.finish(after);
    report
}

/// Serves one connection until it breaks.
async fn session(shared: &Arc<Shared>, link: Link, declared: bool) -> End {
    let report = welcomed(shared, &link, declared);
    let Link { stream, mut buffer, .. } = link;
    let mut written = Vec::new();
    let mut offset = 0;
    // What came right behind the welcome.
    if let Err(end) = take_in(shared, &mut buffer) {
        return end;
    }
    let io = std::future::poll_fn(|cx| {
        let result = turn(shared, &stream, &mut buffer, &mut written, &mut offset, cx);
        match result {
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(end),
        }
    });
    let beside = async {
        if declared {
            sleep(GAP_WITHIN).await;
            let report = shared.state().take_report();
            if let Some(report) = report {
                shared.settings.report(&report);
            }
        } else {
            if let Err(error) = declare::all(shared).await {
                return End::Over(error.to_string());
            }
            let mut state = shared.state();
            if state.phase == Phase::Away {
                shared.set_phase(&mut state, Phase::Ready);
                state.end_orphans();
            }
            crate::state::release(state);
            if let Some(report) = report {
                shared.settings.report(&report);
            }
        }
        std::future::pending().await
    };
    let closing = async {
        shared.closing.notified().await;
        sleep(GOODBYE).await;
    };
    let (io, beside, closing) = (pin!(io), pin!(beside), pin!(closing));
    tokio::select! {
        biased;
        () = closing => End::Over("the node does not say goodbye".to_owned()),
        end = io => end,
        end = beside => end,
    }
}

/// Writes and reads as much as the socket takes and gives now.
fn turn(
    shared: &Arc<Shared>,
    stream: &UnixStream,
    buffer: &mut BytesMut,
    written: &mut Vec<u8>,
    offset: &mut usize,
    cx: &mut Context<'_>,
) -> Result<(), End> {
    let broken = |error: io::Error| End::Broken(error.to_string());
    loop {
        let mut progress = false;
        loop {
            if *offset == written.len() {
                *offset = 0;
                let mut state = shared.state();
                let full = !written.is_empty();
                state.take_out(written);
                if written.is_empty() {
                    state.driver = Some(cx.waker().clone());
                }
                drop(state);
                if full {
                    shared.room.notify_waiters();
                }
                if written.is_empty() {
                    break;
                }
            }
            match stream.try_write(&written[*offset..]) {
                Ok(n) => {
                    *offset += n;
                    if *offset < written.len() {
                        shared.state().set_writing(written.len() - *offset);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match stream.poll_write_ready(cx) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(error)) => return Err(broken(error)),
                        Poll::Pending => break,
                    }
                }
                Err(error) => {
                    // What came before the break counts as received.
                    while matches!(read(stream, buffer), Ok(true)) {}
                    take_in(shared, buffer)?;
                    return Err(broken(error));
                }
            }
        }
        match stream.poll_read_ready(cx) {
            Poll::Ready(Ok(())) => {
                progress = true;
                if read(stream, buffer).map_err(broken)? {
                    take_in(shared, buffer)?;
                }
            }
            Poll::Ready(Err(error)) => return Err(broken(error)),
            Poll::Pending => {}
        }
        if !progress {
            return Ok(());
        }
    }
}

/// Hands all whole frames of the buffer over.
fn take_in(shared: &Arc<Shared>, buffer: &mut BytesMut) -> Result<(), End> {
    let mut after = After::default();
    let mut end = Ok(());
    let mut state = shared.state();
    loop {
        match next(buffer) {
            Next::Frame(event) => state.on_event(event, &mut after),
            Next::More => break,
            Next::Bad => {
                end = Err(End::Broken("the node wrote what is no frame".to_owned()));
                break;
            }
        }
        if after.died && state.program {
            shared.set_phase(&mut state, Phase::Closed);
        }
        if after.died {
            // The node does not know the session any more, and says so to who wants to resume it.
            end = Err(End::Broken("the session's own process has ended".to_owned()));
            break;
        }
    }
    if state.is_idle() {
        after.idle = true;
    }
    drop(state);
    shared.finish(after);
    end
}
