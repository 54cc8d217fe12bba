//! An app on a simulated node: what it hears of nodes, and what it asks.
//!
//! It talks to the hub as a session's task does, frame by frame, without a socket.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use ciborium::Value;
use pillion::hub::{Frames, Hub, SessionHandle, Taken};
use pillion::wire::id::Incarnation;
use tokio::sync::mpsc;
use tokio::time::interval;

/// Largest frame of this app.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// How often it lists the nodes that are known and not connected.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What the app has seen.
#[derive(Default)]
pub(crate) struct Seen {
    /// `up b`, `down b because`, in order, without hosts.
    pub(crate) events: Vec<String>,
    /// Who is connected, by name.
    pub(crate) up: BTreeMap<String, Incarnation>,
    pub(crate) known: Vec<Known>,
    pub(crate) answers: BTreeMap<u64, Answer>,
    /// Every answer to a question as it was: there must never be two to one.
    pub(crate) answered: BTreeMap<u64, Value>,
    /// Who is in each group that is watched, as far as the events tell: how often each pid.
    pub(crate) watched: BTreeMap<String, BTreeMap<String, u64>>,
    /// Who is present under each topic that is watched, as far as the events tell: key and pid, and a number that is known.
    pub(crate) present: BTreeMap<String, BTreeMap<(String, String), u64>>,
    /// Messages and ends, in order.
    pub(crate) signals: Vec<Signal>,
    /// Of which global names its processes heard that another one has claimed them, and who has them now.
    pub(crate) conflicts: Vec<(String, Option<String>)>,
}

/// What a process of the app was told by another one, or of its end.
pub(crate) enum Signal {
    Down { reference: u64, reason: String },
    Exit { from: String, reason: String },
    Message { from: String, body: u64 },
}

/// How often each call was executed, by its body, in all runs of all nodes.
pub(crate) type Executed = Arc<Mutex<BTreeMap<u64, u64>>>;

/// A node that is known and not connected.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) reason: Option<String>,
}

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Result(bool),
    Error(String),
}

/// The test's end of an app.
#[derive(Clone)]
pub(crate) struct App {
    seen: Arc<Mutex<Seen>>,
    questions: mpsc::Sender<(u64, Vec<(&'static str, Value)>)>,
}

impl App {
    /// An app of `hub`, and the task that it lives in.
    pub(crate) fn open(
        hub: &Arc<Hub>,
        executed: Executed,
    ) -> (Self, impl Future<Output = ()> + use<>) {
        let (questions, asked) = mpsc::channel(4096);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let app = Self { seen: Arc::clone(&seen), questions };
        (app, live(hub.open_session(true, false), seen, asked, executed))
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no test panics with the lock held")
    }

    /// Asks; the answer comes under `id`.
    pub(crate) fn ask(&self, id: u64, command: Vec<(&'static str, Value)>) {
        self.questions.try_send((id, command)).expect("the app lives");
    }
}

/// Questions of the app's own.
const MONITOR: u64 = 1 << 40;
const LOOK: u64 = MONITOR + 1;

async fn live(
    session: SessionHandle,
    seen: Arc<Mutex<Seen>>,
    mut asked: mpsc::Receiver<(u64, Vec<(&'static str, Value)>)>,
    executed: Executed,
) {
    command(&session, MONITOR, vec![("op", "monitor_nodes".into()), ("on", true.into())]);
    let mut look = interval(LOOK_EVERY);
    let mut out = Frames::default();
    loop {
        let mut waiting = pin!(session.waiting());
        let question = std::future::poll_fn(|cx| {
            if waiting.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            if look.poll_tick(cx).is_ready() {
                let nodes = vec![("op", "nodes".into()), ("state", "known".into())];
                return Poll::Ready(Some((LOOK, nodes)));
            }
            asked.poll_recv(cx)
        })
        .await;
        if let Some((id, question)) = question {
            command(&session, id, question);
            // What the node puts off goes on between two commands, as it does between two reads of a socket.
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
        }
        out.clear();
        while session.take(&mut out) == Taken::Some {
            let calls = hear(&out.flat(), &mut seen.lock().expect("not poisoned"));
            out.clear();
            for (reference, body) in calls {
                serve(&session, &executed, &reference, body);
            }
        }
    }
}

/// A call is executed, and answered unless its number says that it never is.
fn serve(session: &SessionHandle, executed: &Executed, reference: &Value, body: u64) {
    *executed.lock().expect("not poisoned").entry(body).or_default() += 1;
    let reference = ("ref", reference.clone());
    match body % 4 {
        0 => {}
        1 => tell(session, vec![("op", "raise".into()), reference]),
        _ => tell(session, vec![("op", "reply".into()), reference, ("body", body.into())]),
    }
}

fn command(session: &SessionHandle, id: u64, mut fields: Vec<(&'static str, Value)>) {
    fields.push(("id", id.into()));
    tell(session, fields);
}

fn tell(session: &SessionHandle, mut fields: Vec<(&'static str, Value)>) {
    let mut body = Vec::new();
    if let Some(at) = fields.iter().position(|(key, _)| *key == "body") {
        ciborium::into_writer(&fields.remove(at).1, &mut body).expect("memory");
    }
    let map = fields.into_iter().map(|(key, value)| (key.into(), value)).collect();
    let mut header = Vec::new();
    ciborium::into_writer(&Value::Map(map), &mut header).expect("memory");
    let mut frame = Vec::new();
    let length = u32::try_from(2 + header.len() + body.len()).expect("small");
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&u16::try_from(header.len()).expect("small").to_be_bytes());
    frame.extend_from_slice(&header);
    frame.extend_from_slice(&body);
    let fed = session.commands(&frame, FRAME_BYTES_MAX);
    assert_eq!(fed.consumed, frame.len());
}

/// Takes what was heard in; gives the calls to serve: reference and body.
fn hear(mut bytes: &[u8], seen: &mut Seen) -> Vec<(Value, u64)> {
    let mut calls = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let (frame, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        bytes = rest;
        let (length, frame) = frame.split_first_chunk::<2>().expect("a header's length");
        let (header, body) = frame.split_at(usize::from(u16::from_be_bytes(*length)));
        let header: Value = ciborium::from_reader(header).expect("a header");
        if text(&header, "ev").as_deref() == Some("call") {
            let body: Value = ciborium::from_reader(body).expect("a number");
            let number = body.as_integer().and_then(|n| u64::try_from(n).ok());
            calls.push((field(&header, "ref").expect("a reference").clone(), number.expect("one")));
        }
        event(&header, body, seen);
    }
    calls
}

pub(crate) fn field<'a>(map: &'a Value, key: &str) -> Option<&'a Value> {
    let pairs = map.as_map().expect("a map");
    pairs.iter().find(|(k, _)| k.as_text() == Some(key)).map(|(_, value)| value)
}

pub(crate) fn text(map: &Value, key: &str) -> Option<String> {
    field(map, key).and_then(Value::as_text).map(ToOwned::to_owned)
}

fn event(header: &Value, body: &[u8], seen: &mut Seen) {
    let id = field(header, "id").and_then(Value::as_integer).and_then(|id| u64::try_from(id).ok());
    let node = text(header, "node").unwrap_or_default();
    let base = node.split('@').next().unwrap_or_default().to_owned();
    match text(header, "ev").as_deref() {
        Some("down") => {
            let reference = field(header, "ref").and_then(Value::as_integer).expect("a reference");
            let reason = text(header, "reason").expect("a reason");
            let reference = u64::try_from(reference).expect("a small one");
            seen.signals.push(Signal::Down { reference, reason });
        }
        Some("exit") => {
            let from = text(header, "from").expect("a pid");
            let reason = text(header, "reason").expect("a reason");
            seen.signals.push(Signal::Exit { from, reason });
        }
        Some("message") => {
            let body = ciborium::from_reader::<Value, _>(body).ok().and_then(|v| v.as_integer());
            if let (Some(from), Some(body)) = (text(header, "from"), body) {
                let body = u64::try_from(body).unwrap_or(0);
                seen.signals.push(Signal::Message { from, body });
            }
        }
        Some("name_conflict") => {
            let name = text(header, "name").expect("a name");
            seen.conflicts.push((name, text(header, "winner")));
        }
        Some("nodeup") => {
            let incarnation =
                text(header, "incarnation").and_then(|text| Incarnation::parse(&text));
            let old = seen.up.insert(node, incarnation.expect("an incarnation"));
            assert!(old.is_none(), "nodeup of a node that is up");
            seen.events.push(format!("up {base}"));
        }
        Some("nodedown") => {
            assert!(seen.up.remove(&node).is_some(), "nodedown of a node that is not up");
            let reason = text(header, "reason").unwrap_or_default();
            seen.events.push(format!("down {base} {reason}"));
        }
        Some("ok") if id == Some(LOOK) => {
            let nodes: Value = ciborium::from_reader(body).expect("a list");
            let nodes = nodes.as_array().expect("a list");
            seen.known = nodes.iter().map(|node| Known { reason: text(node, "reason") }).collect();
        }
        Some("ok") if id.is_some_and(|id| id < MONITOR) => {
            if let Some(result) = field(header, "result").and_then(Value::as_bool) {
                seen.answers.insert(id.expect("checked"), Answer::Result(result));
            }
            answered(id.expect("checked"), header, body, seen);
        }
        Some("error") => {
            let code = text(header, "code").expect("a code");
            seen.answers.insert(id.expect("an id"), Answer::Error(code));
            answered(id.expect("an id"), header, body, seen);
        }
        Some("group") => {
            let group = seen.watched.entry(text(header, "group").expect("a group")).or_default();
            let joined = text(header, "as").as_deref() == Some("joined");
            let pids: Value = ciborium::from_reader(body).expect("a list");
            for pid in pids.as_array().expect("a list") {
                let pid = pid.as_text().expect("a pid").to_owned();
                let times = group.entry(pid.clone()).or_default();
                if joined {
                    *times += 1;
                } else {
                    *times = times.checked_sub(1).expect("who leaves was there");
                }
                if *times == 0 {
                    group.remove(&pid);
                }
            }
        }
        Some("presence") => {
            let body: Value = ciborium::from_reader(body).expect("a list");
            let joined = text(header, "as").as_deref() == Some("joins");
            let other = field(header, if joined { "leaves" } else { "joins" }).expect("a list");
            let (joins, leaves) = if joined { (&body, other) } else { (other, &body) };
            let topic = seen.present.entry(text(header, "topic").expect("a topic")).or_default();
            let row = |row: &Value| {
                let place = (text(row, "key").expect("a key"), text(row, "pid").expect("a pid"));
                let known = field(row, "metadata").and_then(Value::as_integer).expect("a number");
                (place, u64::try_from(known).expect("a small one"))
            };
            for (place, known) in leaves.as_array().expect("a list").iter().map(row) {
                assert_eq!(topic.remove(&place), Some(known), "who leaves was there: {place:?}");
            }
            for (place, known) in joins.as_array().expect("a list").iter().map(row) {
                let old = topic.insert(place, known);
                assert!(old.is_none(), "who joins was not there: {header:?}");
            }
        }
        _ => {}
    }
}

/// Keeps an answer, its body beside it as the member `body`.
fn answered(id: u64, header: &Value, body: &[u8], seen: &mut Seen) {
    let mut answer = header.as_map().expect("a map").clone();
    if !body.is_empty() {
        answer.push(("body".into(), ciborium::from_reader(body).expect("CBOR")));
    }
    let old = seen.answered.insert(id, Value::Map(answer));
    assert!(old.is_none(), "{id} was answered twice: {header:?} after {old:?}");
}
