//! Connections that speak HTTP, with time that a test moves.

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::router::Limits;
use crate::shutdown::Trigger;
use crate::wire::id::{Incarnation, Node};

const BODY_BYTES: usize = 100_000;

/// A node without peers, and whoever connects to it.
struct World {
    hub: Arc<Hub>,
    shutdown: Shutdown,
    trigger: Trigger,
}

impl World {
    fn new(limits: Limits) -> Self {
        let node = Node { name: "a@h".parse().expect("a name"), incarnation: Incarnation(1) };
        let (trigger, shutdown) = crate::shutdown::channel();
        let hub = Hub::new(node, limits);
        let (its, until) = (Arc::clone(&hub), shutdown.clone());
        tokio::spawn(async move { its.run_deadlines(until).await });
        Self { hub, shutdown, trigger }
    }

    fn app(&self) -> App {
        let (stream, theirs) = duplex(256 * 1024);
        let (hub, shutdown) = (Arc::clone(&self.hub), self.shutdown.clone());
        tokio::spawn(async move {
            let options = SessionOptions { operator: true, body_bytes_max: BODY_BYTES };
            let (reader, writer) = tokio::io::split(theirs);
            crate::session::run(reader, writer, &hub, options, shutdown).await
        });
        App { stream, heard: Vec::new() }
    }
}

struct App {
    stream: DuplexStream,
    heard: Vec<u8>,
}

impl App {
    async fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.expect("the session reads");
    }

    /// All up to and with this text.
    async fn hears(&mut self, text: &str) -> String {
        loop {
            let heard = String::from_utf8_lossy(&self.heard).into_owned();
            if let Some(at) = heard.find(text) {
                self.heard.drain(..at + text.len());
                return heard[..at + text.len()].to_owned();
            }
            let read = self.stream.read_buf(&mut self.heard).await.expect("it writes");
            assert!(read > 0, "it closed before it said {text}, after {heard}");
        }
    }

    /// All up to the end of the connection.
    async fn hears_all(&mut self) -> String {
        while self.stream.read_buf(&mut self.heard).await.expect("it writes") > 0 {}
        String::from_utf8_lossy(&std::mem::take(&mut self.heard)).into_owned()
    }
}

const SELF: &str = "GET /v1/info?keys=status HTTP/1.1\r\nHost: x\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_is_given_up_and_a_quiet_connection_is_not() {
    let world = World::new(Limits::default());
    let mut app = world.app();
    app.write(SELF).await;
    app.hears("}\n").await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    app.write(&SELF[..20]).await;
    tokio::time::sleep(HEAD_TIME / 2).await;
    app.write(&SELF[20..]).await;
    app.hears("}\n").await;
    // One byte every second is not enough.
    let began = Instant::now();
    for byte in SELF.bytes().take(11) {
        let _ = app.stream.write_all(&[byte]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let said = app.hears_all().await;
    assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("\"timeout\""), "{said}");
    assert!(began.elapsed() < HEAD_TIME * 2);
    drop(world.trigger);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stops_coming_is_given_up() {
    let world = World::new(Limits::default());
    let mut app = world.app();
    app.write("POST /v1/send?to=a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n123").await;
    let said = app.hears_all().await;
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_has_nothing_to_say_says_so_every_fifteen_seconds() {
    let world = World::new(Limits::default());
    let mut app = world.app();
    app.write("GET /v1/subscribe?topic=a HTTP/1.1\r\nHost: x\r\n\r\n").await;
    app.hears("event: ok\ndata: ").await;
    app.hears("\n\n\r\n").await;
    let began = Instant::now();
    for _ in 0..3 {
        assert_eq!(app.hears(":\n\n\r\n").await, "3\r\n:\n\n\r\n");
    }
    assert_eq!(began.elapsed().as_secs(), 45);
    let mut other = world.app();
    other.write("POST /v1/publish?topic=a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n7").await;
    other.hears("204").await;
    assert!(
        app.hears("\n\n\r\n")
            .await
            .contains("event: message\ndata: {\"ev\":\"message\",\"topic\":\"a\"")
    );
    // The process goes with the connection.
    assert_eq!(world.hub.sessions(), 2);
    drop(app);
    while world.hub.sessions() > 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_stopped_writing_has_a_second_for_its_last_answers() {
    let world = World::new(Limits::default());
    let mut callee = world.app();
    callee.write("GET /v1/subscribe?topic=a&name=stock HTTP/1.1\r\nHost: x\r\n\r\n").await;
    callee.hears("event: ok").await;
    let mut app = world.app();
    let call = "POST /v1/call?to=stock HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1";
    app.write(&format!("{SELF}{call}{SELF}")).await;
    app.stream.shutdown().await.expect("it can be said");
    let began = Instant::now();
    // Nobody answers the call: it is taken back.
    let said = app.hears_all().await;
    assert_eq!(said.matches("HTTP/1.1 200 OK").count(), 1, "{said}");
    assert!(began.elapsed() >= LAST_WORDS && began.elapsed() < LAST_WORDS * 2);
    callee.hears("event: call").await;
    callee.hears("event: cancel").await;
    // What can be answered at once is.
    let mut app = world.app();
    app.write(&SELF.repeat(500)).await;
    app.stream.shutdown().await.expect("it can be said");
    assert_eq!(app.hears_all().await.matches("HTTP/1.1 200 OK").count(), 500);
}

#[tokio::test(start_paused = true)]
async fn long_bodies_wait_for_room_as_long_commands_do() {
    let limits = Limits { queue_bytes: 200_000, ..Limits::default() };
    let world = World::new(limits);
    let head = format!(
        "POST /v1/send?to=<a@h.0000000000000001.9> HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\nContent-Length: {BODY_BYTES}\r\n\r\n"
    );
    let mut first = world.app();
    first.write(&head).await;
    first.write("half").await;
    // The first has its room once what was written is read.
    let mut second = world.app();
    tokio::time::sleep(Duration::from_millis(1)).await;
    second.write(&head).await;
    second.write("half").await;
    let said = second.hears_all().await;
    assert!(said.starts_with("HTTP/1.1 503 ") && said.contains("Retry-After: 1\r\n"), "{said}");
    first.write(&"x".repeat(BODY_BYTES - 4)).await;
    first.hears("HTTP/1.1 204 ").await;
}

#[tokio::test(start_paused = true)]
async fn a_quiet_connection_is_closed_when_the_node_is_about_to_leave() {
    let world = World::new(Limits::default());
    let (mut quiet, mut busy) = (world.app(), world.app());
    for app in [&mut quiet, &mut busy] {
        app.write(SELF).await;
        app.hears("}\n").await;
    }
    let mut callee = world.app();
    callee.write("GET /v1/subscribe?topic=a&name=stock HTTP/1.1\r\nHost: x\r\n\r\n").await;
    callee.hears("event: ok").await;
    busy.write("POST /v1/call?to=stock&timeout_ms=500 HTTP/1.1\r\nHost: x\r\n\r\n").await;
    callee.hears("event: call").await;
    world.hub.drain();
    assert_eq!(quiet.hears_all().await, "");
    // What is under way is answered first.
    let said = busy.hears_all().await;
    assert!(said.starts_with("HTTP/1.1 504 ") && said.contains("Connection: close\r\n"), "{said}");
    callee.hears("event: draining").await;
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_killed_takes_its_connection_with_it() {
    let world = World::new(Limits::default());
    let mut app = world.app();
    app.write("GET /v1/subscribe?topic=a&name=inbox HTTP/1.1\r\nHost: x\r\n\r\n").await;
    app.hears("event: ok").await;
    let mut other = world.app();
    other.write("POST /v1/kill?to=inbox&reason=enough HTTP/1.1\r\nHost: x\r\n\r\n").await;
    other.hears("204").await;
    let said = app.hears_all().await;
    assert!(said.contains("event: died\ndata: ") && said.ends_with("\r\n0\r\n\r\n"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_process_was_killed_may_have_been_carried_out() {
    let world = World::new(Limits::default());
    let mut callee = world.app();
    callee.write("GET /v1/subscribe?topic=a&name=stock HTTP/1.1\r\nHost: x\r\n\r\n").await;
    callee.hears("event: ok").await;
    let mut app = world.app();
    app.write("POST /v1/call?to=stock HTTP/1.1\r\nHost: x\r\n\r\n").await;
    callee.hears("\"from\":\"<").await;
    let from = callee.hears(">").await;
    let mut other = world.app();
    other.write(&format!("POST /v1/kill?to=<{from} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    other.hears("204").await;
    let said = app.hears_all().await;
    assert!(said.starts_with("HTTP/1.1 502 ") && said.contains("\"code\":\"noproc\""), "{said}");
    assert!(said.contains("\"maybe_applied\":true") && !said.contains("Retry-After"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn answers_that_nobody_reads_hold_the_requests_behind_them() {
    const GET: &str = "GET /v1/kv/s/a HTTP/1.1\r\nHost:x\r\n\r\n";
    const DONE: &str = "/v1/kv/s/done HTTP/1.1\r\nHost:x\r\nContent-Length:";
    let world = World::new(Limits::default());
    let mut other = world.app();
    let mut owner = world.app();
    owner.write("{\"op\":\"spawn\",\"id\":1,\"kind\":\"kv\",\"name\":\"s\"}\n").await;
    owner.hears("\"pid\"").await;
    let value = format!("\"{}\"", "x".repeat(90_000));
    let length = value.len();
    other
        .write(&format!(
            "PUT /v1/kv/s/a HTTP/1.1\r\nHost:x\r\nContent-Length:{length}\r\n\r\n{value}"
        ))
        .await;
    other.hears("204").await;
    // The first of them, with the one that leaves a trace, are read at once.
    let mut app = world.app();
    app.write(&format!("{}PUT {DONE}1\r\n\r\n1{}", GET.repeat(40), GET.repeat(160))).await;
    app.hears("HTTP/1.1 200 OK").await;
    let asked = format!("GET {DONE}0\r\n\r\n");
    other.write(&asked).await;
    other.hears("200 OK").await;
    other.hears("\r\n\r\n").await;
    assert_eq!(other.hears("\n").await, "null\n");
    app.stream.shutdown().await.expect("it can be said");
    let said = app.hears_all().await;
    assert_eq!(said.matches("HTTP/1.1 200 OK").count(), 199);
    assert_eq!(said.matches("HTTP/1.1 204 ").count(), 1);
    other.write(&asked).await;
    other.hears("\r\n\r\n").await;
    assert_eq!(other.hears("\n").await, "1\n");
}

/// Pieces that requests are made of, and some that they are not.
const PIECES: [&str; 22] = [
    "GET ",
    "POST ",
    "PUT ",
    "/v1/nodes",
    "/v1/send?to=a",
    "/v1/subscribe?topic=a",
    "/v1/kv/a/b",
    " HTTP/1.1\r\n",
    " HTTP/1.0\r\n",
    "Host: x\r\n",
    "Content-Length: 3\r\n",
    "Content-Length: 70000\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Expect: 100-continue\r\n",
    "Connection: close\r\n",
    "\r\n",
    "3\r\nabc\r\n",
    "0\r\n\r\n",
    "%zz",
    "\u{0}",
    "{\"a\":",
    "x",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn nothing_that_one_app_writes_as_http_is_noticed_by_another(
        pieces in proptest::collection::vec(0..PIECES.len(), 1..40),
        first in proptest::char::range('A', 'Z'),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let world = World::new(Limits::default());
            let mut other = world.app();
            other.write("{\"op\":\"self\",\"id\":1}\n").await;
            other.hears("\"id\":1").await;
            let mut app = world.app();
            let mut text: String = pieces.iter().map(|piece| PIECES[*piece]).collect();
            if !text.starts_with(|c: char| c.is_ascii_uppercase()) {
                text.insert(0, first);
            }
            let _ = app.stream.write_all(text.as_bytes()).await;
            let _ = app.stream.shutdown().await;
            let said = app.hears_all().await;
            assert!(said.is_empty() || said.starts_with("HTTP/1.1 "), "{said}");
            other.write("{\"op\":\"self\",\"id\":2}\n").await;
            other.hears("\"id\":2").await;
            while world.hub.sessions() > 1 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
    }
}
