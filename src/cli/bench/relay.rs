//! The floor: what a message costs when a sidecar does next to nothing.
//!
//! A bare relay has the same sockets as a daemon, the same frames on each of them and TLS between the two, looks each
//! message's target up in a hash map, copies it into the out buffer of the connection that it leaves by, and has one
//! task per connection that writes that buffer. What is published to a topic it copies into the out buffer of each app
//! that has subscribed, and crosses once. It has no mailboxes, no pids that live and die, no losses to count, no
//! second peer, no dialect but this one. What a daemon costs beyond it is what all that costs.
//!
//! ```text
//! app -unix socket- relay A -TCP, TLS- relay B -unix socket- app
//! ```

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;

use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};

use super::process::Trouble;
use super::{certificates, frames, role};

/// A reader that filled an out buffer beyond this waits until its writer has taken it.
const OUT_BYTES_MAX: usize = 256 * 1024;
/// The room that is offered to each read.
const READ_BYTES: usize = 64 * 1024;
/// `u32 length, u8 kind, u8 flags, u64 serial`, as between sidecars.
const PEER_HEAD_BYTES: usize = 14;
/// The flag of a frame that goes to whoever has subscribed.
const PUBLISHED: u8 = 2;
/// The number of the one process that is sent to by its pid: the app that asks in round trips.
const SERIAL: u64 = 112;
/// Its name.
pub(super) const PINGER: &str = "pinger";

/// All that a relay has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    /// Where apps connect.
    pub socket: PathBuf,
    /// What it is called, `base@host`.
    pub name: String,
    /// What the other one is called; none when it is alone.
    pub other: Option<String>,
    /// Names that apps register at the other one.
    pub names: Vec<String>,
    /// Topics that apps subscribe to at the other one.
    pub topics: Vec<String>,
    /// Where the other one listens; without it this one listens and says where.
    pub dial: Option<SocketAddr>,
    /// The directory of its certificates.
    pub certificates: PathBuf,
}

/// What a relay prints when it is ready.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Listening {
    /// Where the other one may dial.
    pub address: Option<SocketAddr>,
}

/// The pid of the app that asks, at the node of this name.
#[must_use]
pub(super) fn pid(node: &str) -> String {
    format!("<{node}.0123456789abcdef.{SERIAL}>")
}

/// Runs one until the input ends.
///
/// # Errors
/// When a socket cannot be had.
pub(super) fn run(spec: Spec) -> Result<(), Trouble> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Trouble::io("starting a runtime"))?;
    std::thread::spawn(|| {
        while role::told().is_some() {}
        std::process::exit(0);
    });
    LocalSet::new().block_on(&runtime, serve(spec))
}

async fn serve(spec: Spec) -> Result<(), Trouble> {
    let peer = Rc::new(Outlet::default());
    let table = Rc::new(RefCell::new(Table::new(&spec)));
    let apps = UnixListener::bind(&spec.socket).map_err(Trouble::io("binding the socket"))?;
    let mut listening = Listening { address: None };
    match (spec.dial, spec.other.is_some()) {
        (Some(address), _) => {
            let tcp = TcpStream::connect(address).await.map_err(Trouble::io("dialling"))?;
            tcp.set_nodelay(true).map_err(Trouble::io("dialling"))?;
            let name = ServerName::try_from(certificates::NAME).expect("a good name");
            let stream = certificates::connector(&spec.certificates)?
                .connect(name, BufReader::with_capacity(READ_BYTES, tcp))
                .await
                .map_err(Trouble::io("the handshake"))?;
            carry(stream, Rc::clone(&peer), Rc::clone(&table), Side::Peer);
        }
        (None, true) => {
            let listener =
                TcpListener::bind("127.0.0.1:0").await.map_err(Trouble::io("listening"))?;
            listening.address = listener.local_addr().ok();
            let acceptor = certificates::acceptor(&spec.certificates)?;
            let (peer, table) = (Rc::clone(&peer), Rc::clone(&table));
            spawn_local(async move {
                let (tcp, _) = listener.accept().await?;
                tcp.set_nodelay(true)?;
                let stream = acceptor.accept(BufReader::with_capacity(READ_BYTES, tcp)).await?;
                carry(stream, peer, table, Side::Peer);
                io::Result::Ok(())
            });
        }
        (None, false) => {}
    }
    role::say(&listening)?;
    loop {
        let (stream, _) = apps.accept().await.map_err(Trouble::io("accepting an app"))?;
        let outlet = Rc::new(Outlet::default());
        let side = Side::App { own: Rc::clone(&outlet), peer: Rc::clone(&peer) };
        carry(stream, outlet, Rc::clone(&table), side);
    }
}

/// The way out of one connection.
#[derive(Debug, Default)]
struct Outlet {
    waiting: RefCell<Vec<u8>>,
    /// It is among those that the batch at hand has filled.
    touched: Cell<bool>,
    /// Nobody is there any more.
    closed: Cell<bool>,
    filled: Notify,
    taken: Notify,
}

impl Outlet {
    async fn room(&self) {
        while self.waiting.borrow().len() > OUT_BYTES_MAX && !self.closed.get() {
            self.taken.notified().await;
        }
    }
}

/// Which end of a relay a connection is.
enum Side {
    App { own: Rc<Outlet>, peer: Rc<Outlet> },
    Peer,
}

/// Where a target is.
enum Route {
    /// At this app.
    Here(Rc<Outlet>),
    /// At the other relay; this goes before the body.
    There(Box<[u8]>),
}

/// How the header of every `publish` of the benchmark starts.
const PUBLISH: &[u8] = b"\x62op\x67publish";

type Map<V> = HashMap<Box<[u8]>, V, foldhash::fast::RandomState>;

/// Where what is published to a topic goes.
#[derive(Default)]
struct Topic {
    /// The apps here.
    here: Vec<Rc<Outlet>>,
    /// All of a frame to the other relay that comes before the body, where somebody there has subscribed.
    there: Option<Box<[u8]>>,
    /// The header of the event.
    event: Box<[u8]>,
}

impl Topic {
    fn new(name: &str, topic: &str) -> Self {
        let pairs = [("ev", "message"), ("topic", topic), ("from", &pid(name))];
        Self { event: frames::header(&pairs).into(), ..Self::default() }
    }
}

struct Table {
    /// What apps write in `to`.
    addresses: Map<Route>,
    /// What the other relay writes as a target.
    targets: Map<Rc<Outlet>>,
    /// Who has subscribed.
    topics: Map<Topic>,
    /// The header of every message event: who sent it is a matter of this relay.
    event: Box<[u8]>,
    name: String,
}

impl Table {
    fn new(spec: &Spec) -> Self {
        let event = frames::header(&[("ev", "message"), ("from", &pid(&spec.name))]);
        let mut addresses = Map::default();
        if let Some(other) = &spec.other {
            for name in &spec.names {
                let to = format!("{name}@{other}");
                let length = u16::try_from(name.len()).expect("short names").to_be_bytes();
                let target = [&length[..], name.as_bytes()].concat();
                addresses.insert(boxed(to.as_bytes()), Route::There(there(1, &target, &event)));
            }
            let target = SERIAL.to_be_bytes();
            let to = pid(other);
            addresses.insert(boxed(to.as_bytes()), Route::There(there(0, &target, &event)));
        }
        let mut topics = Map::default();
        for text in &spec.topics {
            let mut topic = Topic::new(&spec.name, text);
            topic.there = Some(there(PUBLISHED, &[], &topic.event));
            topics.insert(boxed(text.as_bytes()), topic);
        }
        let event = event.into_boxed_slice();
        Self { addresses, targets: Map::default(), topics, event, name: spec.name.clone() }
    }

    fn subscribe(&mut self, text: &str, outlet: &Rc<Outlet>) {
        let name = &self.name;
        let topic =
            self.topics.entry(boxed(text.as_bytes())).or_insert_with(|| Topic::new(name, text));
        topic.here.push(Rc::clone(outlet));
    }

    /// An app is gone.
    fn forget(&mut self, outlet: &Rc<Outlet>) {
        for topic in self.topics.values_mut() {
            topic.here.retain(|app| !Rc::ptr_eq(app, outlet));
        }
    }

    fn register(&mut self, name: &str, outlet: &Rc<Outlet>) {
        let mut add = |address: &[u8], target: &[u8]| {
            self.addresses.insert(boxed(address), Route::Here(Rc::clone(outlet)));
            self.targets.insert(boxed(target), Rc::clone(outlet));
        };
        add(name.as_bytes(), name.as_bytes());
        if name == PINGER {
            add(pid(&self.name).as_bytes(), &SERIAL.to_be_bytes());
        }
    }
}

fn boxed(bytes: &[u8]) -> Box<[u8]> {
    bytes.into()
}

/// All of a frame between relays that comes before the body; its two lengths are set per message.
fn there(flags: u8, target: &[u8], event: &[u8]) -> Box<[u8]> {
    let mut out = vec![0, 0, 0, 0, 0x10, flags];
    out.extend_from_slice(&SERIAL.to_be_bytes());
    out.extend_from_slice(target);
    frames::frame(&mut out, event, &[]);
    out.into_boxed_slice()
}

/// Starts the two tasks of a connection.
fn carry<S>(stream: S, outlet: Rc<Outlet>, table: Rc<RefCell<Table>>, side: Side)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (reader, writer) = tokio::io::split(stream);
    spawn_local(write(writer, outlet));
    spawn_local(async move {
        let end = read(reader, &table, &side).await;
        if let Side::App { own, .. } = &side {
            table.borrow_mut().forget(own);
            own.closed.set(true);
            own.taken.notify_waiters();
            own.filled.notify_one();
        }
        end
    });
}

async fn write<W: AsyncWrite + Unpin>(mut writer: W, outlet: Rc<Outlet>) -> io::Result<()> {
    let mut out = Vec::new();
    loop {
        std::mem::swap(&mut out, &mut *outlet.waiting.borrow_mut());
        if outlet.closed.get() {
            return Ok(());
        }
        if out.is_empty() {
            outlet.filled.notified().await;
            continue;
        }
        outlet.taken.notify_waiters();
        writer.write_all(&out).await?;
        writer.flush().await?;
        out.clear();
    }
}

async fn read<R: AsyncRead + Unpin>(
    mut reader: R,
    table: &RefCell<Table>,
    side: &Side,
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(2 * READ_BYTES);
    let mut touched: Vec<Rc<Outlet>> = Vec::new();
    loop {
        buffer.reserve(READ_BYTES);
        if reader.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        let used = match side {
            Side::App { own, peer } => from_app(&buffer, table, own, peer, &mut touched),
            Side::Peer => from_peer(&buffer, table, &mut touched),
        };
        buffer.copy_within(used.., 0);
        buffer.truncate(buffer.len() - used);
        for outlet in &touched {
            outlet.touched.set(false);
            outlet.filled.notify_one();
        }
        for outlet in touched.drain(..) {
            outlet.room().await;
        }
    }
}

fn from_app(
    buffer: &[u8],
    table: &RefCell<Table>,
    own: &Rc<Outlet>,
    peer: &Rc<Outlet>,
    touched: &mut Vec<Rc<Outlet>>,
) -> usize {
    let mut used = 0;
    while let Some(frame) = frames::cut(&buffer[used..]) {
        used += frame.bytes;
        if frame.header.get(1..).is_some_and(|header| header.starts_with(PUBLISH)) {
            publish(frame, &table.borrow(), peer, touched);
            continue;
        }
        let found = frames::text_of(frame.header, b"to");
        let Some(to) = found else {
            command(frame.header, &mut table.borrow_mut(), own);
            touch(touched, own);
            continue;
        };
        let table = table.borrow();
        match table.addresses.get(to) {
            Some(Route::Here(app)) => {
                frames::frame(&mut app.waiting.borrow_mut(), &table.event, frame.body);
                touch(touched, app);
            }
            Some(Route::There(before)) => {
                cross(before, table.event.len(), frame.body, peer);
                touch(touched, peer);
            }
            None => {}
        }
    }
    used
}

/// Copies a message into the out buffer of the other relay.
fn cross(before: &[u8], event: usize, body: &[u8], peer: &Outlet) {
    let out = &mut *peer.waiting.borrow_mut();
    let at = out.len();
    out.extend_from_slice(before);
    out.extend_from_slice(body);
    set_length(out, at);
    set_length(out, at + before.len() - event - frames::PREFIX_BYTES);
}

fn publish(
    frame: frames::Frame<'_>,
    table: &Table,
    peer: &Rc<Outlet>,
    touched: &mut Vec<Rc<Outlet>>,
) {
    let topic = frames::text_of(frame.header, b"topic").and_then(|topic| table.topics.get(topic));
    let Some(topic) = topic else { return };
    for app in &topic.here {
        frames::frame(&mut app.waiting.borrow_mut(), &topic.event, frame.body);
        touch(touched, app);
    }
    if let Some(before) = &topic.there {
        cross(before, topic.event.len(), frame.body, peer);
        touch(touched, peer);
    }
}

fn from_peer(buffer: &[u8], table: &RefCell<Table>, touched: &mut Vec<Rc<Outlet>>) -> usize {
    let table = table.borrow();
    let mut used = 0;
    while let Some((head, rest)) = buffer[used..].split_first_chunk::<PEER_HEAD_BYTES>() {
        let [a, b, c, d, _, flags, ..] = *head;
        let length = u32::from_be_bytes([a, b, c, d]) as usize + 4 - PEER_HEAD_BYTES;
        let Some(payload) = rest.get(..length) else { break };
        used += PEER_HEAD_BYTES + length;
        if flags == PUBLISHED {
            let header = payload.get(frames::PREFIX_BYTES..).unwrap_or_default();
            let topic = frames::text_of(header, b"topic").and_then(|topic| table.topics.get(topic));
            for app in topic.into_iter().flat_map(|topic| &topic.here) {
                app.waiting.borrow_mut().extend_from_slice(payload);
                touch(touched, app);
            }
            continue;
        }
        let (target, event) = if flags == 0 {
            payload.split_at(8)
        } else {
            let length = usize::from(payload[0]) << 8 | usize::from(payload[1]);
            payload[2..].split_at(length)
        };
        if let Some(app) = table.targets.get(target) {
            app.waiting.borrow_mut().extend_from_slice(event);
            touch(touched, app);
        }
    }
    used
}

/// Everything but `send` and `publish` is done at once and answered.
fn command(header: &[u8], table: &mut Table, own: &Rc<Outlet>) {
    let command: serde_json::Value = ciborium::from_reader(header).unwrap_or_default();
    if command["op"] == "register" {
        table.register(command["name"].as_str().unwrap_or_default(), own);
    } else if command["op"] == "subscribe" {
        table.subscribe(command["topic"].as_str().unwrap_or_default(), own);
    }
    let answer = serde_json::json!({"ev": "ok", "id": command["id"]});
    let mut header = Vec::new();
    if ciborium::into_writer(&answer, &mut header).is_ok() {
        frames::frame(&mut own.waiting.borrow_mut(), &header, &[]);
    }
}

fn touch(touched: &mut Vec<Rc<Outlet>>, outlet: &Rc<Outlet>) {
    if !outlet.touched.replace(true) {
        touched.push(Rc::clone(outlet));
    }
}

/// Sets the `u32` at `at` to the number of bytes that follow it.
fn set_length(out: &mut [u8], at: usize) {
    let length = u32::try_from(out.len() - at - 4).expect("bodies here are short");
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}
