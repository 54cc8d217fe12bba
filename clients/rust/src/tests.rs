//! The connection against a node that this test plays, with a clock that stands still where nobody waits for it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::BytesMut;
use ciborium::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;

use crate::{Client, Code, Error, Spawn};

/// The node's end of a connection.
struct Node {
    stream: UnixStream,
    buffer: BytesMut,
}

type Header = BTreeMap<String, Value>;

impl Node {
    async fn accept(listener: &UnixListener) -> Self {
        Self { stream: listener.accept().await.unwrap().0, buffer: BytesMut::new() }
    }

    /// The next command but `more`.
    async fn command(&mut self) -> Header {
        loop {
            while self.buffer.len() < 4 {
                assert!(self.stream.read_buf(&mut self.buffer).await.unwrap() > 0);
            }
            let length = 4 + u32::from_be_bytes(self.buffer[..4].try_into().unwrap()) as usize;
            while self.buffer.len() < length {
                assert!(self.stream.read_buf(&mut self.buffer).await.unwrap() > 0);
            }
            let frame = self.buffer.split_to(length);
            let head = usize::from(u16::from_be_bytes([frame[4], frame[5]]));
            let header: Header = ciborium::from_reader(&frame[6..6 + head]).unwrap();
            if header["op"] != "more".into() {
                return header;
            }
        }
    }

    async fn say(&mut self, members: &[(&str, Value)]) {
        let members = members.iter().map(|(key, value)| ((*key).into(), value.clone()));
        let mut head = Vec::new();
        ciborium::into_writer(&Value::Map(members.collect()), &mut head).unwrap();
        let mut frame = u32::try_from(head.len() + 2).unwrap().to_be_bytes().to_vec();
        frame.extend(u16::try_from(head.len()).unwrap().to_be_bytes());
        frame.extend(head);
        self.stream.write_all(&frame).await.unwrap();
    }

    async fn ok(&mut self, command: &Header) {
        self.say(&[("ev", "ok".into()), ("id", command["id"].clone())]).await;
    }

    async fn welcome(&mut self, commands: u64) -> Header {
        let hello = self.command().await;
        assert_eq!(hello["op"], "hello".into());
        self.say(&[
            ("ev", "welcome".into()),
            ("version", 1.into()),
            ("node", "a@t".into()),
            ("pid", "<a@t.1.1>".into()),
            ("session", 7.into()),
            ("secret", "s".into()),
            ("commands", commands.into()),
        ])
        .await;
        self.ok(&hello).await;
        hello
    }
}

struct World {
    listener: UnixListener,
    place: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        Self { listener: UnixListener::bind(place.path().join("a.sock")).unwrap(), place }
    }

    async fn connected(&self) -> (Client, Node) {
        let builder = Client::builder().socket(self.place.path().join("a.sock")).name("test");
        let (client, node) = tokio::join!(builder.connect(), async {
            let mut node = Node::accept(&self.listener).await;
            node.welcome(1).await;
            node
        });
        (client.unwrap(), node)
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> (Code, bool) {
    let error = result.unwrap_err();
    (error.code().clone(), error.maybe_applied())
}

#[tokio::test(start_paused = true)]
async fn connecting_waits_ten_seconds_for_a_node_and_then_says_what_to_do() {
    let place = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let path = place.path().join("a.sock");
    let error = Client::builder().socket(&path).connect().await.unwrap_err();
    assert_eq!(error.code(), &Code::Unreachable);
    assert!(error.message().contains(path.to_str().unwrap()), "{error}");
    assert!(error.message().contains("pillion up"), "{error}");
    let waited = begun.elapsed();
    assert!((9..=10).contains(&waited.as_secs()), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_for_while_there_is_no_node_waits_for_its_time_and_was_not_sent() {
    let world = World::new();
    let (client, node) = world.connected().await;
    std::fs::remove_file(world.place.path().join("a.sock")).unwrap();
    let mut phase = client.shared().phase.subscribe();
    drop(node);
    phase.wait_for(|phase| *phase == crate::state::Phase::Away).await.unwrap();
    let begun = Instant::now();
    let call = client.call_within::<u64>(Duration::from_secs(3), "stock", 1);
    assert_eq!(code(call.await), (Code::Lost, false));
    assert_eq!(begun.elapsed().as_secs(), 3);
    assert_eq!(code(client.send("stock", 1).await), (Code::Lost, false));
    assert_eq!(begun.elapsed().as_secs(), 13);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_written_before_the_break_ends_at_its_deadline() {
    let world = World::new();
    let (client, mut node) = world.connected().await;
    let begun = Instant::now();
    let (call, other, ()) = tokio::join!(
        client.call_within::<u64>(Duration::from_secs(30), "stock", 1),
        client.whereis("stock"),
        async {
            node.command().await;
            node.command().await;
            std::fs::remove_file(world.place.path().join("a.sock")).unwrap();
            drop(node);
        }
    );
    assert_eq!(code(call), (Code::Timeout, true));
    assert_eq!(code(other), (Code::Lost, true));
    assert_eq!(begun.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn what_was_written_and_not_carried_out_is_known_after_a_resume() {
    let world = World::new();
    let (told, mut reports) = tokio::sync::mpsc::channel(4);
    let builder = Client::builder().socket(world.place.path().join("a.sock"));
    let builder = builder.on_report(move |report| told.try_send(*report).unwrap());
    let (client, mut node) = tokio::join!(builder.connect(), async {
        let mut node = Node::accept(&world.listener).await;
        node.welcome(1).await;
        node
    });
    let client = client.unwrap();
    for n in 0..3 {
        client.send("stock", n).await.unwrap();
    }
    let (call, ()) = tokio::join!(client.call::<u64>("stock", 1), async {
        for _ in 0..4 {
            node.command().await;
        }
        drop(node);
        let mut node = Node::accept(&world.listener).await;
        // Of four commands two were carried out, beside the first hello; this one is the fourth.
        let hello = node.welcome(4).await;
        let resume = hello["resume"].as_map().unwrap();
        assert!(resume.contains(&("seen".into(), 2.into())), "{resume:?}");
        // Nothing more comes: after 100 ms it is known that no frame was lost.
        let report = reports.recv().await.unwrap();
        assert_eq!((report.resumed, report.lost_commands, report.lost_events), (true, 1, 0));
        std::mem::forget(node);
    });
    assert_eq!(code(call), (Code::Lost, false));
}

#[tokio::test(start_paused = true)]
async fn a_sender_waits_while_a_mebibyte_is_unwritten_and_goes_on_when_it_is() {
    let world = World::new();
    let (client, mut node) = world.connected().await;
    let body = vec!["x".repeat(1000); 100];
    let sending = async {
        for _ in 0..100 {
            client.send("stock", &body).await.unwrap();
        }
    };
    let mut sending = std::pin::pin!(sending);
    // Ten megabytes do not fit: the socket takes some, the client 1 MiB, and the app waits.
    let early = tokio::time::timeout(Duration::from_secs(60), sending.as_mut()).await;
    assert!(early.is_err());
    tokio::join!(sending, async {
        for _ in 0..100 {
            assert_eq!(node.command().await["op"], "send".into());
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_future_that_is_dropped_loses_its_answer_and_nothing_else() {
    let world = World::new();
    let (client, mut node) = world.connected().await;
    let moment = Duration::from_millis(1);
    assert!(tokio::time::timeout(moment, client.call::<u64>("stock", 1)).await.is_err());
    assert!(tokio::time::timeout(moment, client.receive()).await.is_err());
    assert!(tokio::time::timeout(moment, client.spawn(Spawn::new())).await.is_err());
    let call = node.command().await;
    let spawn = node.command().await;
    node.ok(&call).await;
    let pid = ("pid", Value::from("<a@t.1.2>"));
    node.say(&[("ev", "ok".into()), ("id", spawn["id"].clone()), pid.clone()]).await;
    // Nobody has the process: it is ended.
    let exit = node.command().await;
    assert_eq!((&exit["op"], &exit["pid"]), (&"exit".into(), &pid.1));
    node.say(&[("ev", "message".into()), ("from", "<a@t.1.3>".into())]).await;
    assert!(client.receive().await.unwrap().bytes().is_empty());
}

#[tokio::test]
async fn no_bytes_of_a_node_make_the_client_panic() {
    let mut state = 1_u64;
    let mut random = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let golden = b"\x00\x00\x00\x43\x00\x35\xa3bevdcalldfromx <stock@hal.019b3f0c2a4e5f3c.100>crefx\x01\x82cgetfapples";
    for _ in 0..20_000 {
        let mut bytes = golden.to_vec();
        for _ in 0..=random() % 4 {
            let at = random() % bytes.len();
            bytes[at] = random().to_le_bytes()[0];
        }
        bytes.truncate(random() % (bytes.len() + 1));
        let mut buffer = BytesMut::from(&bytes[..]);
        let mut after = crate::state::After::default();
        let shared = crate::state::Shared::new(crate::client::Settings::default());
        while let crate::event::Next::Frame(event) = crate::event::next(&mut buffer) {
            let _ = (event.from(), event.reason(), event.body::<Value>(), event.header());
            let _ = format!("{event:?}{:?}", Error::of(&event));
            shared.state().on_event(event, &mut after);
        }
    }
}
