//! One connection with a hub behind it and a scripted far end; time is paused.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{advance, sleep};

use super::*;
use crate::hub::{Hub, PeerHello};
use crate::peer::{Interfaces, Profile};
use crate::router::Limits;
use crate::tls::{Cookie, Tls, Trust};
use crate::wire::id::{Incarnation, Node};
use crate::wire::message::{FRAGMENT_BYTES, Frame, finish, start};

const SECOND: Duration = Duration::from_secs(1);

/// The near end, running, and the far end in the test's hands.
struct Rig {
    read: ReadHalf<DuplexStream>,
    write: WriteHalf<DuplexStream>,
    orders: mpsc::Sender<Order>,
    events: mpsc::Receiver<Event>,
    running: JoinHandle<(Ending, Farewell)>,
}

fn node(name: &str) -> Node {
    Node { name: name.parse().expect("a name"), incarnation: Incarnation(1) }
}

async fn rig(room: usize) -> Rig {
    let (events_in, events) = mpsc::channel(64);
    let trust = Trust::Cookie { lines: vec![Cookie::from_bytes([1; 32])], file: None };
    let hub = Hub::new(node("a@h"), Limits::default());
    let context = Arc::new(Context {
        hub: Arc::clone(&hub),
        tls: Tls::new(&trust, "default", "h").expect("a good configuration"),
        mesh: "default".to_owned(),
        me: node("a@h"),
        labels: Mutex::default(),
        hints: Mutex::default(),
        hidden: false,
        profile: Profile::Lan,
        pulse: Pulse::new(Instant::now()),
        listens: Vec::new(),
        advertised: Vec::new(),
        interfaces: Interfaces::new(Vec::new),
        held: Mutex::default(),
        events: events_in,
    });
    let address = "10.0.0.2:4470".parse().expect("an address");
    let (near, far) = duplex(room);
    let (orders, mut heard) = mpsc::channel(64);
    let running = tokio::spawn(async move {
        let (read, write) = split(near);
        let handle = hub.peer_up(PeerHello {
            node: node("b@h"),
            labels: BTreeMap::new(),
            hidden: false,
            addresses: vec![address],
            address,
        });
        run(&context, ConnId(1), &node("b@h").name, read, write, handle, &mut heard).await
    });
    let (read, write) = split(far);
    let mut rig = Rig { read, write, orders, events, running };
    rig.say(&bare_frame(Kind::Announced)).await;
    assert!(matches!(rig.events.recv().await, Some(Event::Up(ConnId(1)))));
    assert_eq!(rig.hear().await, Some(Kind::Announced));
    rig
}

impl Rig {
    async fn say(&mut self, bytes: &[u8]) {
        self.write.write_all(bytes).await.expect("room");
    }

    /// The kind of the next frame.
    async fn hear(&mut self) -> Option<Kind> {
        let length = self.read.read_u32().await.ok()?;
        let mut frame = vec![0; length as usize];
        self.read.read_exact(&mut frame).await.ok()?;
        Kind::from_u8(frame[0])
    }

    async fn order(&self, order: Order) {
        self.orders.send(order).await.expect("it runs");
    }

    async fn end(self) -> (String, Farewell) {
        let (ending, farewell) = self.running.await.expect("no panic");
        let Ending::Down { reason, .. } = ending else { panic!("{ending:?}") };
        (reason, farewell)
    }
}

fn peers_of(bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let at = start(&mut out, Kind::Send, 0, 1);
    out.resize(out.len() + bytes, 0);
    finish(&mut out, at);
    out
}

fn skipped_kind(bytes: usize) -> Vec<u8> {
    let mut frame = peers_of(bytes);
    frame[4] = 0x90;
    frame
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_beaten_every_second_and_a_silent_one_ends() {
    let mut rig = rig(4096).await;
    let begin = Instant::now();
    for beat in 1..=4 {
        assert_eq!(rig.hear().await, Some(Kind::Beat));
        assert_eq!(begin.elapsed().as_secs(), beat);
    }
    let (reason, farewell) = rig.end().await;
    assert_eq!(reason, "silent for 5 s");
    assert_eq!(begin.elapsed().as_secs(), 5);
    assert!(farewell.bytes.is_empty());
}

#[tokio::test(start_paused = true)]
async fn every_byte_is_life_even_of_a_frame_that_takes_forever() {
    let mut rig = rig(1 << 20).await;
    for byte in skipped_kind(20) {
        sleep(4 * SECOND).await;
        rig.say(&[byte]).await;
    }
    assert!(!rig.running.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_stuck_write_hides_neither_life_nor_silence() {
    let mut rig = rig(1024).await;
    rig.order(Order::Send(peers_of(60_000))).await;
    for _ in 0..20 {
        sleep(SECOND).await;
        rig.say(&bare_frame(Kind::Beat)).await;
    }
    assert!(!rig.running.is_finished());
    let begin = Instant::now();
    assert_eq!(rig.end().await.0, "silent for 5 s");
    assert!(begin.elapsed() <= 6 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_stall_of_our_own_is_not_blamed_on_the_peer() {
    let mut rig = rig(4096).await;
    advance(20 * SECOND).await;
    assert_eq!(rig.hear().await, Some(Kind::Beat));
    rig.say(&bare_frame(Kind::Beat)).await;
    sleep(4 * SECOND).await;
    assert!(!rig.running.is_finished());
    assert!(rig.end().await.0.starts_with("silent for "));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_frame_ends_the_connection_in_words() {
    let mut rig = rig(4096).await;
    rig.say(&[0xff; 64]).await;
    let (reason, farewell) = rig.end().await;
    assert_eq!(reason, "protocol");
    let (frame, _) = Frame::cut(&farewell.bytes, 4096).expect("a frame").expect("all of it");
    let goodbye: Goodbye = frame.cbor("goodbye").expect("a goodbye");
    assert!(goodbye.message.contains("limit"), "{goodbye:?}");
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_counts_though_the_other_side_has_closed_already() {
    let mut rig = rig(4096).await;
    let goodbye = Goodbye { reason: "shutdown".to_owned(), message: String::new() };
    rig.say(&cbor_frame(Kind::Goodbye, 0, &goodbye)).await;
    // Something waits to be written when the end comes.
    rig.order(Order::Send(peers_of(100))).await;
    let Rig { read, write, running, orders: _orders, events: _events } = rig;
    drop((read, write));
    let (ending, _) = running.await.expect("no panic");
    assert!(matches!(ending, Ending::Down { goodbye: Some(g), .. } if g == goodbye));
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_answered_at_once() {
    let mut rig = rig(4096).await;
    let begin = Instant::now();
    rig.say(&bare_frame(Kind::Probe)).await;
    assert_eq!(rig.hear().await, Some(Kind::Beat));
    assert!(begin.elapsed() < Duration::from_millis(5));
}

#[tokio::test(start_paused = true)]
async fn a_probed_peer_has_half_a_second() {
    let mut rig = rig(4096).await;
    rig.order(Order::Probe).await;
    assert_eq!(rig.hear().await, Some(Kind::Probe));
    rig.say(&bare_frame(Kind::Beat)).await;
    assert!(matches!(rig.events.recv().await, Some(Event::Probed(_, true))));
    let begin = Instant::now();
    rig.order(Order::Probe).await;
    assert!(matches!(rig.events.recv().await, Some(Event::Probed(_, false))));
    assert_eq!(begin.elapsed().as_millis() / 10, 50);
}

#[tokio::test(start_paused = true)]
async fn what_waits_goes_out_before_the_goodbye() {
    let mut rig = rig(1024).await;
    rig.order(Order::Send(peers_of(20_000))).await;
    let message = Some("this node stops".to_owned());
    rig.order(Order::Close { code: "shutdown", message, flush: true }).await;
    assert_eq!(rig.hear().await, Some(Kind::Send));
    let (reason, farewell) = rig.end().await;
    assert_eq!(reason, "shutdown");
    let (frame, _) = Frame::cut(&farewell.bytes, 4096).expect("a frame").expect("all of it");
    assert_eq!(frame.kind, Kind::Goodbye as u8);
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_follows_whole_frames_though_nobody_reads() {
    let mut rig = rig(1024).await;
    rig.order(Order::Send(peers_of(20_000))).await;
    let message = Some("this node stops".to_owned());
    rig.order(Order::Close { code: "shutdown", message, flush: true }).await;
    sleep(2 * FLUSH_WITHIN).await;
    // The rest of the frame comes first.
    let mut heard = vec![0; 1024];
    rig.read.read_exact(&mut heard).await.expect("what was written");
    let (_, farewell) = rig.end().await;
    heard.extend_from_slice(&farewell.bytes);
    let (frame, bytes) = Frame::cut(&heard, 1 << 20).expect("a frame").expect("all of it");
    assert_eq!(frame.kind, Kind::Send as u8);
    let (frame, _) = Frame::cut(&heard[bytes..], 4096).expect("a frame").expect("all of it");
    assert_eq!(frame.kind, Kind::Goodbye as u8);
}

#[tokio::test(start_paused = true)]
async fn buffers_grow_to_their_bound_and_are_given_back() {
    let (near, mut far) = duplex(1 << 20);
    let (mut near, _write) = split(near);
    let mut inbox = Inbox::new();
    let frame = skipped_kind(FRAGMENT_BYTES);
    for _ in 0..10 {
        far.write_all(&frame).await.expect("room");
    }
    let mut heard = 0;
    while heard < 10 {
        let n = poll_fn(|cx| inbox.poll_read(cx, &mut near)).await.expect("bytes");
        assert!(n > 0);
        while let Some((_, bytes)) = Frame::cut(inbox.bytes(), 1 << 20).expect("a frame") {
            inbox.consume(bytes);
            heard += 1;
        }
        assert!(!inbox.is_stuck());
        assert!(inbox.capacity() <= 2 * (FRAGMENT_BYTES + 4096), "{}", inbox.capacity());
    }
    assert!(inbox.capacity() >= FRAGMENT_BYTES);
    inbox.rest();
    inbox.rest();
    assert_eq!(inbox.capacity(), 0);
}
