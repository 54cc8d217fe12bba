//! `postgres`: the nodes that use the same PostgreSQL database, through its LISTEN and NOTIFY.
//!
//! Every node keeps one connection to the database, listens on a channel and notifies it of itself: when it starts, then
//! every few seconds, and when it stops. It needs no table and writes nothing: the answer where there is a database anyway
//! and neither multicast nor an orchestrator's API.
//!
//! ```text
//! --strategy postgres://shop@db.example.org/shop                # password from ~/.pgpass or PGPASSWORD
//! --strategy 'postgres://shop@db:5432/shop?passfile=/run/secrets/pgpass&sslmode=verify-full'
//! --strategy 'postgres://shop@a,b/shop'                         # two servers: the one that may be written to
//! --strategy 'postgres:///shop?host=/var/run/postgresql'        # a Unix socket
//!
//! shop=> LISTEN pillion_default;
//! Asynchronous notification "pillion_default" with payload "{"say":"here","node":"stock@hal","incarnation":
//! "19b3f0c2a4e5f3c9","mesh":"default","ids":["5f1d..."],"addresses":["10.0.0.7:4470"],"protocol":1,"every_ms":5000}"
//! ```
//!
//! | option | default | |
//! | --- | --- | --- |
//! | `channel` | `pillion_` and the mesh's name | the channel: letters, digits and `_`, at most 63 |
//! | `heartbeat` | 5s | how often this node says that it is there; the others believe it for three times that |
//! | `host` | from the URL | the directory of a Unix socket, or a host |
//! | `passfile` | `~/.pgpass` | lines of `host:port:database:user:password`, `*` for any; read again for every connection |
//! | `sslmode` | `disable` | `require`: encrypted, whoever answers; `verify-full`: encrypted, and the certificate is the host's |
//! | `sslrootcert` | the system's roots | a PEM file of those that are believed with `verify-full` |
//!
//! - The password comes from the URL, else from `passfile`, else from the variable `PGPASSWORD`. One in a URL can be read
//!   by whoever lists processes; it is in no log and in no answer of this node.
//! - A node hears of another within milliseconds of its start, forgets one that stops at once, and one that was killed
//!   after three of its heartbeats, at the first of our own that the database then takes without delay.
//! - What is announced: what [`interfaces`](crate::interfaces) lets others anywhere be told of the addresses on which
//!   the node listens; before them the one from which the database is reached, be it that of a container bridge; and
//!   those of loopback when the database itself is reached over loopback or a Unix socket.
//! - *Notifications are hints from whoever may connect to the database.* They say where to dial; the TLS hello proves
//!   who is there. Lines that make no sense are ignored.
//! - TLS is version 1.3, with a library of our own, not OpenSSL's; client certificates are not supported.
//!
//! **Permissions.** Only to connect to the database: LISTEN and NOTIFY need no privilege. Each node takes one of the
//! server's connections. A connection pooler must pool sessions: in transaction mode LISTEN goes nowhere, which is
//! noticed, because a node hears its own heartbeat.
//!
//! **What failure looks like.** A database that refuses, restarts, hangs or is away for hours keeps the last set: while it
//! is away nobody's time runs out. It is connected to again after a quarter of a second, later and later up to every
//! 30 s, and the strategy's health says what the server said and what to do. Nothing here ends the strategy.

mod addresses;
mod message;
mod passfile;
mod session;
#[cfg(all(test, feature = "conformance"))]
mod tests;
mod view;

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::message::{Message, Say};
use self::session::{Connect, Database, Event, Session};
use self::view::View;
use crate::options::{Url, wrong};
use crate::retry::{Retry, spread};
use crate::{Announcement, Reporter, Running, Strategy, StrategyError};

/// How often a node says that it is there, where nothing else is asked for.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long the database may take to let us in.
const CONNECT: Duration = Duration::from_secs(10);
/// How long it may take to take a notification.
const ANSWER: Duration = Duration::from_secs(10);
/// The waits before another connection.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// How soon a newcomer is answered; all nodes answer it, and not at the same moment.
const GREETING: Duration = Duration::from_millis(100);
/// The least time between two of our notifications, however many newcomers there are.
const BEAT_MIN: Duration = Duration::from_secs(1);
/// The longest name of a channel, by PostgreSQL's bound for names.
const CHANNEL_BYTES_MAX: usize = 63;

/// The strategy `postgres`. See the [module](self).
pub struct Postgres {
    channel: Option<String>,
    heartbeat: Duration,
    /// Makes a connection that listens on this channel; to the database, except in tests.
    connect: Connect,
}

impl Postgres {
    pub(crate) fn from_url(url: &Url) -> Result<Self, StrategyError> {
        url.only(&["channel", "heartbeat", "host", "passfile", "sslmode", "sslrootcert"])?;
        let channel = url.option("channel").map(channel).transpose()?;
        let heartbeat = url.duration("heartbeat")?.unwrap_or(HEARTBEAT);
        if heartbeat > message::EVERY_MAX {
            return Err(wrong("`heartbeat` of postgres is more than 10m: the others would forget"));
        }
        let database = Arc::new(Database::from_url(url)?);
        let connect: Connect = Arc::new(move |channel| {
            let database = Arc::clone(&database);
            Box::pin(async move { database.connect(&channel).await })
        });
        Ok(Self { channel, heartbeat, connect })
    }

    async fn watch(&self, own: &Announcement, reporter: &Reporter) -> Result<(), StrategyError> {
        let channel = self.channel.clone().unwrap_or_else(|| default_channel(&own.mesh));
        let mut view = View::new(own, reporter);
        let mut retry = Retry::new(RETRY.0, RETRY.1);
        loop {
            let why = match timeout(CONNECT, (self.connect)(channel.clone())).await {
                Ok(Ok(connected)) => {
                    let message = self.message(own, connected.from)?;
                    view.on_connected(connected.is_local(), message.addresses.is_empty());
                    let live = Live { session: connected.session, message };
                    self.session(live, &mut view, &mut retry).await
                }
                Ok(Err(why)) => why,
                Err(_) => format!("it does not let us in within {} s", CONNECT.as_secs()),
            };
            view.unwell(&why);
            sleep(retry.after_failure()).await;
        }
    }

    fn message(&self, own: &Announcement, from: Option<IpAddr>) -> Result<Message, StrategyError> {
        let addresses = addresses::announced(&own.listen, from);
        let message = Message::of(own, addresses, self.heartbeat);
        match message.text(Say::Here) {
            Some(_) => Ok(message),
            None => {
                Err(wrong("the names of the node and its mesh are too long for a notification"))
            }
        }
    }

    /// Announces and listens until the connection is of no use; says why.
    async fn session(&self, mut live: Live, view: &mut View<'_>, retry: &mut Retry) -> String {
        let mut sent = Instant::now();
        let mut answer_by = Some(sent + ANSWER);
        let mut next_beat = sent + spread(self.heartbeat);
        if let Err(why) = live.say(Say::Hello) {
            return why;
        }
        loop {
            tokio::select! {
                biased;
                event = poll_fn(|cx| live.session.poll_next(cx)) => match event {
                    Ok(Event::Heard(text)) => if view.on_text(&text) == Some(Say::Hello) {
                        let soon = Instant::now() + spread(GREETING);
                        next_beat = next_beat.min(soon.max(sent + BEAT_MIN));
                    },
                    Ok(Event::Sent) => {
                        answer_by = None;
                        retry.succeeded();
                        view.on_sent(sent);
                    }
                    Err(why) => return why,
                },
                () = until(answer_by) => {
                    return format!("it does not answer within {} s", ANSWER.as_secs());
                }
                () = sleep_until(next_beat) => {
                    next_beat = Instant::now() + spread(self.heartbeat);
                    // One that is not taken yet is what `answer_by` is for.
                    if answer_by.is_none() {
                        sent = Instant::now();
                        answer_by = Some(sent + ANSWER);
                        if let Err(why) = live.say(Say::Here) {
                            return why;
                        }
                    }
                }
            }
        }
    }
}

impl Strategy for Postgres {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn run<'a>(&'a self, announcement: Announcement, reporter: &'a Reporter) -> Running<'a> {
        Box::pin(async move { self.watch(&announcement, reporter).await })
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A connection on which this node announced itself. Dropping it says goodbye, as far as that needs no waiting.
struct Live {
    session: Box<dyn Session>,
    message: Message,
}

impl Live {
    fn say(&mut self, say: Say) -> Result<(), String> {
        self.session.send(&self.message.text(say).unwrap_or_default())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if self.say(Say::Bye).is_ok() {
            // Once is enough to hand it to the system, unless that has no room for it; then the others will miss us.
            let _ = self.session.poll_next(&mut Context::from_waker(Waker::noop()));
        }
    }
}

fn channel(text: &str) -> Result<String, StrategyError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if text.is_empty() || text.len() > CHANNEL_BYTES_MAX || !text.bytes().all(plain) {
        return Err(wrong(format!(
            "`channel={text}` is no channel: write at most {CHANNEL_BYTES_MAX} letters, digits and _"
        )));
    }
    Ok(text.to_owned())
}

/// Two meshes that share it because their names are long or odd do no harm: every message names its mesh.
fn default_channel(mesh: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let mut channel = format!("pillion_{}", mesh.chars().map(plain).collect::<String>());
    channel.truncate(CHANNEL_BYTES_MAX);
    channel
}
