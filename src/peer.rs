//! One neighbour: from the TCP connection to the last goodbye.
//!
//! ```text
//! TCP, TLS -> hello both ways -> [mesh decides] -> accept, ready -> [hub] -> frames, beats ... -> end
//! ```
//!
//! A peer task decides nothing about other connections: it tells `Event`s and follows `Order`s. Whatever happens
//! it ends in exactly one `Event::Ended`, and if the hub was told of the connection, then after the hub was told
//! of its end.

mod ahead;
mod connection;
mod handshake;
pub mod health;
mod hello;
pub mod interfaces;
mod problem;
pub(crate) mod scope;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::LazyConfigAcceptor;

pub use self::health::Profile;
pub(crate) use self::health::Pulse;
use self::interfaces::Interfaces;
pub(crate) use self::problem::{Failure, Problem, words};
use crate::hub::Hub;
use crate::tls::Tls;
use crate::transport::Transport;
use crate::wire::id::{Incarnation, Node, NodeName};
use crate::wire::message::{Goodbye, Peers, Refusal};

/// How long a dial may take to connect: every address of a peer has this long, all at once.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How long the first words of TLS may take, which a dialler has ready: twice what one lost packet costs.
const FIRST_WITHIN: Duration = Duration::from_secs(2);
/// How long TLS and both hellos may take.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// How long the last words may take.
const FAREWELL_WITHIN: Duration = Duration::from_secs(1);

/// One connection, from its dial or its accept to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConnId(pub u64);

/// What all connections of this node share.
pub(crate) struct Context {
    pub hub: Arc<Hub>,
    pub tls: Tls,
    pub mesh: String,
    pub me: Node,
    /// What this node says of itself; a source may know more of it as time goes by.
    pub labels: Mutex<BTreeMap<String, String>>,
    /// What sources know of others, by name: their own word counts more.
    pub hints: Mutex<BTreeMap<NodeName, BTreeMap<String, String>>>,
    pub hidden: bool,
    pub profile: Profile,
    pub pulse: Pulse,
    /// Where this node listens, unspecified addresses as they are.
    pub listens: Vec<SocketAddr>,
    /// What else it was told to tell others.
    pub advertised: Vec<SocketAddr>,
    pub interfaces: Interfaces,
    /// Who is connected: what our hellos say of that. Only the mesh writes it.
    pub held: Mutex<BTreeMap<NodeName, Incarnation>>,
    pub events: mpsc::Sender<Event>,
}

impl Context {
    async fn tell(&self, event: Event) {
        // A mesh that has gone is about to drop this task too.
        let _ = self.events.send(event).await;
    }

    /// What a node says of itself, and beside that what sources know of it.
    pub(crate) fn labels_of(
        &self,
        name: &NodeName,
        own: &BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let hints = self.hints.lock().unwrap_or_else(PoisonError::into_inner);
        let mut labels = own.clone();
        for (key, value) in hints.get(name).into_iter().flatten() {
            labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
        labels
    }

    fn held(&self, name: &NodeName) -> Option<Incarnation> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }
}

/// Whom a connection leads to, as its hello says.
#[derive(Clone, Debug)]
pub(crate) struct Met {
    pub node: Node,
    pub labels: BTreeMap<String, String>,
    pub hidden: bool,
    pub places: scope::Places,
    /// The far end of the connection.
    pub remote: SocketAddr,
    /// The near end of the connection.
    pub local: SocketAddr,
    /// The run of ours that the other side is connected to already.
    pub known: Option<Incarnation>,
    /// How far its clock was ahead of ours when it said hello.
    pub skew_ms: Option<i64>,
}

/// What a connection tells the mesh.
#[derive(Debug)]
pub(crate) enum Event {
    /// It was dialled and somebody answered.
    Reached(ConnId),
    /// It was accepted and has sent the first words of TLS.
    Spoke(ConnId),
    /// A good hello was read.
    Hello(ConnId, Box<Met>),
    /// The senior chose this connection: the number of its accept, and whether it holds another one.
    Accepted(ConnId, u64, bool),
    /// The other side has announced itself.
    Ready(ConnId),
    /// The apps have heard of it.
    Up(ConnId),
    /// It was probed and is alive, or not.
    Probed(ConnId, bool),
    /// Whom it is connected to.
    Peers(ConnId, Peers),
    /// It is over.
    Ended(ConnId, Ending),
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// Before the hub was told of it.
    Failed(Problem),
    /// After; the hub has been told.
    Down {
        /// What the hub was told.
        reason: String,
        /// What the peer said, if it was the peer that left.
        goodbye: Option<Goodbye>,
    },
}

/// What the mesh tells a connection.
#[derive(Debug)]
pub(crate) enum Order {
    /// Senior: send `accept`, and `ready`.
    Accept {
        /// Counts our accepts.
        number: u64,
        /// We hold another connection of the pair.
        holds: bool,
    },
    /// Junior: send `ready`.
    Take,
    /// Tell the hub.
    Up,
    /// Say within [`Profile::probe`] whether the other side is alive.
    Probe,
    /// Send this frame.
    Send(Vec<u8>),
    /// End it.
    Close {
        /// The code of the refusal, or the reason of the goodbye and of the hub's `nodedown`.
        code: &'static str,
        /// For people; `None` to go without a word.
        message: Option<String>,
        /// Send what is waiting first.
        flush: bool,
    },
}

/// Where a connection hears its orders.
pub(crate) type Orders = mpsc::Receiver<Order>;

/// Dials one address, after a while, and lives with the connection until its end.
pub(crate) async fn dial<T: Transport>(
    context: Arc<Context>,
    transport: Arc<T>,
    conn: ConnId,
    address: SocketAddr,
    after: Duration,
    orders: Orders,
) {
    if !after.is_zero() {
        sleep(after).await;
    }
    context.hub.note(|notes| notes.dials += 1);
    let stream = match timeout(CONNECT_WITHIN, transport.connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return failed(&context, conn, broken(&context, &error)).await,
        Err(_) => return failed(&context, conn, Problem::NoAnswer).await,
    };
    let local = match transport.local_address_of(&stream) {
        Ok(local) => local,
        Err(error) => return failed(&context, conn, broken(&context, &error)).await,
    };
    context.tell(Event::Reached(conn)).await;
    let deadline = Instant::now() + HELLO_WITHIN;
    let handshake = context.tls.connector().connect(Tls::server_name(), ahead::Ahead::new(stream));
    let mut stream = match timeout_at(deadline, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return failed(&context, conn, broken(&context, &error)).await,
        Err(_) => return failed(&context, conn, Problem::Slow).await,
    };
    stream.get_mut().0.trust();
    let certificates: Vec<CertificateDer<'static>> =
        stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
    let ends = Ends { remote: address, local, dialled: true };
    live(&context, conn, stream, &certificates, ends, deadline, orders).await;
}

/// Takes an accepted connection and lives with it until its end.
pub(crate) async fn accept<S>(
    context: Arc<Context>,
    conn: ConnId,
    stream: S,
    ends: Ends,
    orders: Orders,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let now = Instant::now();
    let deadline = now + HELLO_WITHIN;
    let first = LazyConfigAcceptor::new(Acceptor::default(), ahead::Ahead::new(stream));
    let begun = match timeout_at(now + FIRST_WITHIN, first).await {
        Ok(Ok(begun)) => begun,
        Ok(Err(error)) => return failed(&context, conn, broken(&context, &error)).await,
        Err(_) => return failed(&context, conn, Problem::Slow).await,
    };
    context.tell(Event::Spoke(conn)).await;
    let handshake = begun.into_stream(Arc::clone(context.tls.acceptor().config()));
    let mut stream = match timeout_at(deadline, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return failed(&context, conn, broken(&context, &error)).await,
        Err(_) => return failed(&context, conn, Problem::Slow).await,
    };
    stream.get_mut().0.trust();
    let certificates: Vec<CertificateDer<'static>> =
        stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
    live(&context, conn, stream, &certificates, ends, deadline, orders).await;
}

fn broken(context: &Context, error: &std::io::Error) -> Problem {
    Problem::from_io(error, &context.mesh)
}

async fn failed(context: &Context, conn: ConnId, problem: Problem) {
    context.tell(Event::Ended(conn, Ending::Failed(problem))).await;
}

/// Both ends of a connection and who made it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub remote: SocketAddr,
    pub local: SocketAddr,
    pub dialled: bool,
}

/// What is left to do once a connection has ended.
#[derive(Default)]
struct Farewell {
    /// The last bytes, starting where the last whole write ended.
    bytes: Vec<u8>,
}

async fn live<S>(
    context: &Arc<Context>,
    conn: ConnId,
    mut stream: S,
    certificates: &[CertificateDer<'_>],
    ends: Ends,
    deadline: Instant,
    mut orders: Orders,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let hello = hello::exchange(context, &mut stream, certificates, ends);
    let met = match timeout_at(deadline, hello).await {
        Ok(Ok(met)) => met,
        Ok(Err(problem)) => {
            let farewell = Farewell { bytes: problem.refusal_frame() };
            failed(context, conn, problem).await;
            return part(stream, farewell).await;
        }
        Err(_) => return failed(context, conn, Problem::Slow).await,
    };
    let (read, write) = tokio::io::split(&mut stream);
    context.tell(Event::Hello(conn, Box::new(met.clone()))).await;
    let (ending, farewell) = match handshake::run(context, conn, read, write, &mut orders).await {
        Ok((read, write)) => {
            let name = met.node.name.clone();
            let handle = context.hub.peer_up(crate::hub::PeerHello {
                labels: context.labels_of(&met.node.name, &met.labels),
                node: met.node,
                hidden: met.hidden,
                addresses: met.places.addresses,
                address: met.remote,
            });
            connection::run(context, conn, &name, read, write, handle, &mut orders).await
        }
        Err(problem) => {
            let farewell = Farewell { bytes: problem.refusal_frame() };
            (Ending::Failed(problem), farewell)
        }
    };
    context.tell(Event::Ended(conn, ending)).await;
    part(stream, farewell).await;
}

/// Says the last words and waits for the other side to close, so that a reset does not swallow them.
async fn part<S>(mut stream: S, farewell: Farewell)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if farewell.bytes.is_empty() {
        return;
    }
    let words = async {
        stream.write_all(&farewell.bytes).await?;
        stream.shutdown().await?;
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        std::io::Result::Ok(())
    };
    // Whatever goes wrong now, the connection is over.
    let _ = timeout(FAREWELL_WITHIN, words).await;
}

/// A refusal of ours.
fn refusal(code: &str, message: impl Into<String>) -> Refusal {
    Refusal { code: code.to_owned(), message: message.into() }
}
