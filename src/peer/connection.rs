//! An accepted connection: frames both ways, beats, and the failure detector.
//!
//! One task per peer polls everything in turn, so that neither direction waits for the other and a wake of the one
//! moves the other too. No timer is touched on the data path: reads and writes note when they happened, and the
//! tick, about once a second, looks.

mod buffers;
#[cfg(test)]
mod tests;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tracing::warn;

use self::buffers::{Inbox, Writer};
use super::health::LocalHealth;
use super::problem::words;
use super::{ConnId, Context, Ending, Event, Farewell, Order, Orders, Pulse};
use crate::hub::{Control, PeerHandle};
use crate::wire::id::NodeName;
use crate::wire::message::{Goodbye, Kind, Peers, bare_frame, cbor_frame};

/// How long what is waiting may take to go out before a goodbye.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);
/// After that many bytes the other tasks get a turn.
const TURN_BYTES: usize = 256 * 1024;
/// How long a connection whose writing failed is still read: a goodbye may be there.
const LAST_READS: Duration = Duration::from_millis(100);
/// The shortest time between two ticks.
const TICK_MIN: Duration = Duration::from_millis(10);

/// What one look at everything found.
#[derive(Default)]
struct Turn {
    order: Option<Order>,
    clear: bool,
    up: bool,
    goes_on: bool,
    read: Option<io::Result<usize>>,
    wrote: Option<io::Result<()>>,
    tick: bool,
}

impl Turn {
    fn is_nothing(&self) -> bool {
        self.order.is_none()
            && !self.clear
            && !self.up
            && !self.goes_on
            && self.read.is_none()
            && self.wrote.is_none()
            && !self.tick
    }
}

/// Why it is over.
enum Cause {
    /// The stream ended or failed.
    Lost,
    /// Nothing was heard for this long.
    Silent(Duration),
    /// The peer said so.
    Goodbye(Goodbye),
    /// The peer sent what is no frame.
    Malformed(String),
    /// The mesh said so.
    Closed { code: &'static str, message: Option<String>, flush: bool },
}

/// Lives with an accepted connection. Returns once the hub has been told of its end.
pub(super) async fn run<R, W>(
    context: &Context,
    conn: ConnId,
    name: &NodeName,
    read: R,
    mut write: W,
    handle: PeerHandle,
    orders: &mut Orders,
) -> (Ending, Farewell)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut writer = Writer::new(Instant::now());
    let cause = talk(context, conn, read, &mut write, &handle, &mut writer, orders).await;
    let (reason, message, goodbye) = match cause {
        Cause::Lost => ("connection lost".to_owned(), None, None),
        Cause::Silent(limit) => (format!("silent for {} s", limit.as_secs()), None, None),
        Cause::Goodbye(goodbye) => (words(&goodbye.reason), None, Some(goodbye)),
        Cause::Malformed(error) => {
            warn!(node = %name, %error, "sent what is no frame of the protocol: it is disconnected");
            ("protocol".to_owned(), Some(error), None)
        }
        Cause::Closed { code, message, flush } => {
            if flush {
                // What does not go out in time is lost as the suffix that semantics allow.
                let _ = timeout(FLUSH_WITHIN, writer.drain(&mut write, &handle)).await;
            }
            (code.to_owned(), message, None)
        }
    };
    handle.down(&reason);
    let mut farewell = Farewell::default();
    if let Some(message) = message {
        farewell.bytes = writer.into_rest();
        let goodbye = Goodbye { reason: reason.clone(), message };
        farewell.bytes.extend_from_slice(&cbor_frame(Kind::Goodbye, 0, &goodbye));
    }
    (Ending::Down { reason, goodbye }, farewell)
}

#[expect(
    clippy::too_many_lines,
    reason = "one look at everything, one answer to each: a screen more is clearer than a struct"
)]
async fn talk<R, W>(
    context: &Context,
    conn: ConnId,
    mut read: R,
    write: &mut W,
    handle: &PeerHandle,
    writer: &mut Writer,
    orders: &mut Orders,
) -> Cause
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut inbox = Inbox::new();
    let mut controls = Vec::new();
    let mut heard = Heard::default();
    let mut cleared = pin!(handle.clear());
    let mut told = pin!(handle.up());
    let mut waiting = pin!(handle.waiting());
    let mut going = pin!(handle.goes_on());
    let now = Instant::now();
    let mut watch = Watch::new(context, now);
    let mut tick = pin!(sleep_until(watch.due));
    let (mut clear, mut up) = (false, false);
    // What the peer says behind its announcements waits until the apps have heard that it is there.
    let mut held = false;
    let mut broken = false;
    let mut since_yield = 0;
    loop {
        let turn = poll_fn(|cx| {
            let mut turn = Turn::default();
            if let Poll::Ready(order) = orders.poll_recv(cx) {
                turn.order = Some(order.unwrap_or_else(mesh_is_gone));
            }
            if !up {
                turn.up = told.as_mut().poll(cx).is_ready();
            }
            if !clear {
                turn.clear = cleared.as_mut().poll(cx).is_ready();
            } else if held && !up {
                // Until the turn with `up`.
            } else if held {
                if going.as_mut().poll(cx).is_ready() {
                    going.set(handle.goes_on());
                    turn.goes_on = true;
                }
            } else if let Poll::Ready(result) = inbox.poll_read(cx, &mut read) {
                turn.read = Some(result);
            }
            if !broken {
                let rearm = || handle.waiting();
                if let Poll::Ready(result) =
                    writer.poll_write(cx, write, handle, waiting.as_mut(), rearm)
                {
                    turn.wrote = Some(result);
                }
            }
            turn.tick = tick.as_mut().poll(cx).is_ready();
            if turn.is_nothing() { Poll::Pending } else { Poll::Ready(turn) }
        })
        .await;

        if turn.clear {
            clear = true;
            watch.heard = Instant::now();
        }
        let mut feed = false;
        if turn.up {
            up = true;
            feed = true;
            watch.heard = Instant::now();
            context.tell(Event::Up(conn)).await;
        }
        if turn.goes_on {
            feed = true;
            watch.heard = Instant::now();
        }
        match turn.order {
            None | Some(Order::Accept { .. } | Order::Take | Order::Up) => {}
            Some(Order::Send(frame)) => handle.control(frame, false),
            Some(Order::Probe) if up => {
                handle.control(bare_frame(Kind::Probe), true);
                watch.probe(Instant::now(), tick.as_mut());
            }
            // Our own hub is not done with the last connection: that says nothing of this one.
            Some(Order::Probe) => context.tell(Event::Probed(conn, true)).await,
            Some(Order::Close { code, message, flush }) => {
                return Cause::Closed { code, message, flush };
            }
        }
        match turn.read {
            None => {}
            Some(Ok(0) | Err(_)) => return Cause::Lost,
            Some(Ok(n)) => {
                since_yield += n;
                watch.heard = Instant::now();
                if watch.probed.take().is_some() {
                    context.tell(Event::Probed(conn, true)).await;
                }
                feed = true;
            }
        }
        if feed {
            match handle.frames(inbox.bytes(), &mut controls) {
                Ok(consumed) => inbox.consume(consumed),
                Err(error) => return Cause::Malformed(error.to_string()),
            }
            held = handle.is_waiting();
            if !held && inbox.is_stuck() {
                return Cause::Malformed("a frame that never ends".to_owned());
            }
            for control in controls.drain(..) {
                match control {
                    Control::Beat => {}
                    Control::Probe => handle.control(bare_frame(Kind::Beat), true),
                    Control::Goodbye(goodbye) => return Cause::Goodbye(goodbye),
                    Control::Peers(peers) => heard.push(peers),
                }
            }
        }
        heard.pass_on(context, conn);
        match turn.wrote {
            None => {}
            Some(Ok(())) => since_yield += TURN_BYTES,
            // What the peer said before it closed counts for more than that it closed.
            Some(Err(_)) => {
                broken = true;
                watch.until(Instant::now() + LAST_READS, tick.as_mut());
            }
        }
        if turn.tick {
            if broken {
                return Cause::Lost;
            }
            match watch.tick(Instant::now(), clear && !held, writer) {
                Look::Silent(limit) => return Cause::Silent(limit),
                Look::NotAlive => context.tell(Event::Probed(conn, false)).await,
                Look::Beat => handle.control(bare_frame(Kind::Beat), true),
                Look::Nothing => {}
            }
            tick.as_mut().reset(watch.due);
            inbox.rest();
            writer.rest();
        }
        if since_yield >= TURN_BYTES {
            since_yield = 0;
            yield_now().await;
        }
    }
}

/// What the peer said of others and the mesh has not taken yet. A mesh that is busy must not keep this task from its
/// beats, so nothing waits for it here: with the next look, a second later at the latest, it is tried again.
#[derive(Default)]
struct Heard(Option<Peers>);

impl Heard {
    /// The newest counts, but a list is not undone by a census alone.
    fn push(&mut self, peers: Peers) {
        let before = self.0.take().and_then(|before| before.peers);
        self.0 = Some(Peers { peers: peers.peers.or(before), ..peers });
    }

    fn pass_on(&mut self, context: &Context, conn: ConnId) {
        if let Some(peers) = self.0.take()
            && let Err(TrySendError::Full(Event::Peers(_, peers))) =
                context.events.try_send(Event::Peers(conn, peers))
        {
            self.0 = Some(peers);
        }
    }
}

fn mesh_is_gone() -> Order {
    Order::Close { code: "shutdown", message: Some("this node stops".to_owned()), flush: false }
}

/// The failure detector of one connection.
struct Watch {
    profile: super::Profile,
    pulse: Pulse,
    health: LocalHealth,
    heard: Instant,
    due: Instant,
    /// Until when it must show life.
    probed: Option<Instant>,
}

enum Look {
    Nothing,
    Beat,
    NotAlive,
    Silent(Duration),
}

impl Watch {
    fn new(context: &Context, now: Instant) -> Self {
        let Context { profile, pulse, .. } = *context;
        Self {
            profile,
            pulse,
            health: LocalHealth::default(),
            heard: now,
            due: pulse.beat_after(now, profile),
            probed: None,
        }
    }

    fn until(&mut self, due: Instant, tick: std::pin::Pin<&mut Sleep>) {
        self.due = due;
        tick.reset(due);
    }

    fn probe(&mut self, now: Instant, tick: std::pin::Pin<&mut Sleep>) {
        let until = now + self.profile.probe();
        self.probed = Some(until);
        if until < self.due {
            self.until(until, tick);
        }
    }

    fn tick(&mut self, now: Instant, reads: bool, writer: &Writer) -> Look {
        self.health.tick(self.due, now, self.profile);
        if !reads {
            // The apps are still being told of the end of the last connection, or of this one.
            self.heard = now;
        }
        let limit = self.health.limit(self.profile);
        if now >= self.heard + limit {
            return Look::Silent(limit);
        }
        let beat = now >= self.pulse.beat_after(writer.wrote, self.profile);
        let wrote = if beat { now } else { writer.wrote };
        self.due = self.pulse.beat_after(wrote, self.profile).min(self.heard + limit);
        let look = match self.probed {
            Some(until) if now >= until => {
                self.probed = None;
                Look::NotAlive
            }
            Some(until) => {
                self.due = self.due.min(until);
                Look::Nothing
            }
            // A write that is stuck would only get another beat to carry.
            None if beat && writer.is_idle() => Look::Beat,
            None => Look::Nothing,
        };
        self.due = self.due.max(now + TICK_MIN);
        look
    }
}

impl Writer {
    /// Writes all that is waiting. What it had not written when it was dropped is [`Writer::into_rest`].
    async fn drain<W>(&mut self, write: &mut W, handle: &PeerHandle) -> io::Result<()>
    where
        W: AsyncWrite + Unpin,
    {
        loop {
            while !self.rest_bytes().is_empty() {
                let n = write.write(self.rest_bytes()).await?;
                if n == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                self.wrote_some(n);
            }
            if !self.take(handle) {
                return write.flush().await;
            }
        }
    }
}
