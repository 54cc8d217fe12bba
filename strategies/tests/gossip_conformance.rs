//! `gossip` keeps the promises of every strategy with real sockets, over the loopback interface and a port of its own.

#![allow(clippy::disallowed_methods, reason = "a test waits for real packets, in real time")]
#![cfg(all(feature = "gossip", target_os = "linux"))]

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use pillion_strategies::conformance::{Fault, Node, Place};
use pillion_strategies::{Health, Key, Keys, Strategy, Surroundings, build};

const GROUP: [u8; 4] = [233, 252, 1, 32];

/// A multicast group of its own on the loopback interface.
struct Loopback {
    port: u16,
    options: &'static str,
}

impl Loopback {
    fn new() -> Result<Self, String> {
        Self::with("")
    }

    fn with(options: &'static str) -> Result<Self, String> {
        static PLACES: AtomicU16 = AtomicU16::new(0);
        // Tests of other processes may run beside these.
        let pid = u16::try_from(std::process::id() % 400).expect("under 400");
        let port = 32_000 + pid * 40 + PLACES.fetch_add(1, Ordering::Relaxed);
        multicasts(port)
            .map_err(|error| format!("no multicast on the loopback interface: {error}"))?;
        Ok(Self { port, options })
    }

    fn node(&self, key: u8) -> Box<dyn Strategy> {
        let keys = Keys::fixed(vec![Key::new([key; 32])]);
        let url = format!("gossip://?interface=lo&port={}{}", self.port, self.options);
        build(&url, &Surroundings { keys, ..Surroundings::default() }).expect("gossip")
    }

    fn send(&self, packet: &[u8]) {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.send_to(packet, SocketAddr::from((GROUP, self.port))).expect("sent");
    }
}

/// Sends one datagram to the group and waits for it.
fn multicasts(port: u16) -> std::io::Result<()> {
    let receiver = UdpSocket::bind(("0.0.0.0", port))?;
    receiver.join_multicast_v4(&GROUP.into(), &[127, 0, 0, 1].into())?;
    receiver.set_read_timeout(Some(Duration::from_secs(1)))?;
    // A source address on an interface sends the multicast out of that interface.
    UdpSocket::bind("127.0.0.1:0")?.send_to(b"anybody?", SocketAddr::from((GROUP, port)))?;
    receiver.recv(&mut [0; 16]).map(|_| ())
}

impl Place for Loopback {
    fn strategy(&self) -> Box<dyn Strategy> {
        self.node(1)
    }

    fn spoil(&self) {
        for packet in [&b""[..], &b"plg1"[..], &[0xff; 1400], &[0; 8000]] {
            self.send(packet);
        }
    }

    fn fault(&self, _: Fault) -> bool {
        // The loopback interface belongs to everybody; `gossip_netns` takes interfaces down, and the tests of the module
        // have a network in memory that fails in every way.
        false
    }

    fn mend(&self) {}
}

pillion_strategies::conformance!(Loopback::new());

mod by_broadcast {
    use super::Loopback;

    pillion_strategies::conformance!(Loopback::with("&broadcast-only"));
}

#[tokio::test]
async fn a_new_node_is_visible_within_a_tenth_of_a_second() {
    let Ok(place) = Loopback::new() else { return println!("SKIPPED: no multicast on loopback") };
    let mut old = Node::start(&place, 1);
    old.reports("its own echo", |report| report.health == Health::Well).await;
    let mut quickest = Duration::MAX;
    // A busy machine may hold up a node or two.
    for n in 2..22 {
        let started = Instant::now();
        let mut new = Node::start(&place, n);
        old.sees(&new).await;
        let old_saw = started.elapsed();
        new.sees(&old).await;
        let new_saw = started.elapsed();
        println!(
            "the old one saw the new after {old_saw:?}, the new one the old after {new_saw:?}"
        );
        quickest = quickest.min(new_saw);
        if quickest < Duration::from_millis(100) {
            return;
        }
    }
    panic!("no node of twenty was visible sooner than after {quickest:?}");
}

#[tokio::test]
async fn a_port_that_another_program_keeps_for_itself_is_told_and_used_once_it_is_free() {
    let Ok(place) = Loopback::new() else { return println!("SKIPPED: no multicast on loopback") };
    let alone = UdpSocket::bind(("0.0.0.0", place.port)).expect("the port");
    let alone_too = UdpSocket::bind(("::", place.port));
    let mut node = Node::start(&place, 1);
    let words = format!("UDP port {} cannot be used", place.port);
    let unwell = |r: &pillion_strategies::Report| matches!(&r.health, Health::Unwell(why) if why.contains(&words));
    node.reports("that the port is taken", unwell).await;
    drop((alone, alone_too));
    node.reports("being well", |report| report.health == Health::Well).await;
}

#[tokio::test]
async fn nodes_of_other_keys_share_the_port_and_see_nothing_of_each_other() {
    let Ok(place) = Loopback::new() else { return println!("SKIPPED: no multicast on loopback") };
    let stranger = place.node(2);
    let (reporter, mut reports) = pillion_strategies::Reporter::new();
    let meeting = async {
        reports.wait_for(|report| report.health == Health::Well).await.expect("alive");
        let mut a = Node::start(&place, 1);
        let mut b = Node::start(&place, 2);
        let of_a = a.sees(&b).await;
        let of_b = b.sees(&a).await;
        assert_eq!((of_a.sightings.len(), of_b.sightings.len()), (1, 1));
        // What the stranger heard until now is behind it once it hears its own next word.
        assert!(reports.borrow().sightings.is_empty());
    };
    tokio::select! {
        biased;
        () = meeting => {}
        ended = stranger.run(pillion_strategies::conformance::announcement(9), &reporter) => {
            panic!("it ended: {ended:?}")
        }
    }
}
