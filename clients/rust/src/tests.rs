//! The connection against a node that this test plays, with a clock that stands still where nobody waits for it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::BytesMut;
use ciborium::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;

use crate::{CALL_TIMEOUT, Client, Code, Error, Spawn};

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
        self.say_with(members, &[]).await;
    }

    async fn say_with(&mut self, members: &[(&str, Value)], body: &[u8]) {
        let members = members.iter().map(|(key, value)| ((*key).into(), value.clone()));
        let mut head = Vec::new();
        ciborium::into_writer(&Value::Map(members.collect()), &mut head).unwrap();
        let mut frame = u32::try_from(head.len() + 2 + body.len()).unwrap().to_be_bytes().to_vec();
        frame.extend(u16::try_from(head.len()).unwrap().to_be_bytes());
        frame.extend(head);
        frame.extend(body);
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

/// Waits for what must come; the clock goes on only where nothing does.
async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(3600), what).await.expect("it comes")
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

#[tokio::test(start_paused = true)]
async fn a_process_that_is_let_go_of_while_there_is_no_connection_is_ended_when_there_is_one() {
    let world = World::new();
    let (client, mut node) = world.connected().await;
    let pid = ("pid", Value::from("<a@t.1.2>"));
    let (process, ()) = tokio::join!(client.spawn(Spawn::new()), async {
        let spawn = node.command().await;
        node.say(&[("ev", "ok".into()), ("id", spawn["id"].clone()), pid.clone()]).await;
    });
    let mut phase = client.shared().phase.subscribe();
    drop(node);
    phase.wait_for(|phase| *phase == crate::state::Phase::Away).await.unwrap();
    drop(process.unwrap());
    let mut node = Node::accept(&world.listener).await;
    let hello = node.welcome(3).await;
    assert!(hello.contains_key("resume"), "{hello:?}");
    let exit = within(node.command()).await;
    assert_eq!((&exit["op"], &exit["pid"]), (&"exit".into(), &pid.1));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_let_go_of_while_it_is_spawned_again_is_ended() {
    let world = World::new();
    let (client, mut node) = world.connected().await;
    let pid = |n: u64| ("pid", Value::from(format!("<a@t.1.{n}>")));
    let (process, ()) = tokio::join!(client.spawn(Spawn::new()), async {
        let spawn = node.command().await;
        node.say(&[("ev", "ok".into()), ("id", spawn["id"].clone()), pid(2)]).await;
    });
    drop(node);
    let mut node = Node::accept(&world.listener).await;
    let resume = node.command().await;
    let id = ("id", resume["id"].clone());
    node.say(&[("ev", "error".into()), id, ("code", "not_found".into())]).await;
    node.welcome(2).await;
    let spawn = node.command().await;
    assert_eq!(spawn["op"], "spawn".into());
    drop(process.unwrap());
    node.say(&[("ev", "ok".into()), ("id", spawn["id"].clone()), pid(3)]).await;
    let exit = within(node.command()).await;
    assert_eq!((&exit["op"], &exit["pid"]), (&"exit".into(), &pid(3).1));
}

#[tokio::test(start_paused = true)]
async fn parts_that_nobody_takes_any_more_are_not_kept() {
    let world = World::new();
    let (client, mut node) = world.connected().await;
    let (replies, call) =
        tokio::join!(client.call_parts::<u64>(CALL_TIMEOUT, "stock", 1), node.command());
    let replies = replies.unwrap();
    let held = replies.held();
    drop(replies);
    let part = [("ev", "part".into()), ("id", call["id"].clone())];
    for _ in 0..3 {
        node.say(&part).await;
    }
    node.say(&[("ev", "message".into()), ("from", "<a@t.1.3>".into())]).await;
    client.receive().await.unwrap();
    assert!(held.upgrade().is_none());
}

#[tokio::test(start_paused = true)]
async fn parts_beyond_64_mib_that_nobody_takes_end_the_answer() {
    let world = World::new();
    let (client, mut node) = world.connected().await;
    let (replies, call) =
        tokio::join!(client.call_parts::<Value>(CALL_TIMEOUT, "stock", 1), node.command());
    let mut replies = replies.unwrap();
    let part = [("ev", "part".into()), ("id", call["id"].clone())];
    let mut body = Vec::new();
    ciborium::into_writer(&Value::Bytes(vec![0; 9 * 1024 * 1024]), &mut body).unwrap();
    for _ in 0..9 {
        node.say_with(&part, &body).await;
    }
    node.say(&[("ev", "message".into()), ("from", "<a@t.1.3>".into())]).await;
    client.receive().await.unwrap();
    let mut taken = 0;
    let mut ended = None;
    while let Some(part) = replies.next().await {
        match part {
            Ok(_) => taken += 1,
            Err(error) => ended = Some(error),
        }
    }
    assert!(ended.is_none());
    assert_eq!(taken, 7);
    assert_eq!(code(replies.value::<u64>().await), (Code::Overloaded, true));
}

#[tokio::test(start_paused = true)]
async fn a_callback_that_panics_does_not_end_the_client() {
    let world = World::new();
    let builder = Client::builder().socket(world.place.path().join("a.sock"));
    let builder = builder.on_failed(|_| panic!("a callback's own"));
    let (client, mut node) = tokio::join!(builder.connect(), async {
        let mut node = Node::accept(&world.listener).await;
        node.welcome(1).await;
        node
    });
    let client = client.unwrap();
    // It is called before anything else is read.
    node.say(&[("ev", "failed".into()), ("op", "send".into()), ("code", "noproc".into())]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (at, ()) = tokio::join!(client.whereis("stock"), async {
        let whereis = within(node.command()).await;
        node.ok(&whereis).await;
    });
    assert_eq!(at.unwrap(), None);
}

/// Counts how often it wakes.
#[derive(Default)]
struct Woken(std::sync::atomic::AtomicUsize);

impl std::task::Wake for Woken {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

#[tokio::test]
async fn however_many_wait_nobody_is_woken_for_nothing_and_who_is_dropped_leaves() {
    let world = World::new();
    let (client, mut node) = world.connected().await;
    let woken: Vec<_> = (0..1000).map(|_| std::sync::Arc::new(Woken::default())).collect();
    let counted = || -> usize {
        woken.iter().map(|one| one.0.load(std::sync::atomic::Ordering::Relaxed)).sum()
    };
    let mut waiting: Vec<_> = woken
        .iter()
        .map(|one| {
            let mut receive = Box::pin(client.receive());
            let waker = std::sync::Arc::clone(one).into();
            let polled = receive.as_mut().poll(&mut std::task::Context::from_waker(&waker));
            assert!(polled.is_pending());
            receive
        })
        .collect();
    assert_eq!(counted(), 0);
    waiting.truncate(10);
    assert_eq!(client.shared().state().waiting(crate::state::OWN), 10);
    node.say(&[("ev", "message".into()), ("from", "<a@t.1.3>".into())]).await;
    client.receive().await.unwrap();
    assert_eq!(counted(), 10);
    drop(waiting);
    assert_eq!(client.shared().state().waiting(crate::state::OWN), 0);
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_is_none_is_said_as_what_it_is() {
    let place = tempfile::tempdir().unwrap();
    let long = place.path().join("x".repeat(120));
    for (path, expected, words) in
        [(place.path(), Code::Unreachable, "is no socket"), (&long, Code::BadArg, "at most 107")]
    {
        let error = Client::builder().socket(path).connect().await.unwrap_err();
        assert_eq!(error.code(), &expected);
        assert!(error.message().contains(words), "{error}");
        assert!(error.message().contains(path.to_str().unwrap()), "{error}");
    }
}
