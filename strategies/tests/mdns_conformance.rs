//! `mdns` keeps the promises of every strategy, over the loopback interface and a port of its own.

#![allow(clippy::disallowed_methods, reason = "a test waits for real processes, in real time")]
#![cfg(feature = "mdns")]

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use mdns_sd::{ServiceDaemon, ServiceInfo};
use pillion_strategies::conformance::{Fault, Node, Place, announcement};
use pillion_strategies::{Announcement, Health, Report, Reporter, Strategy, Surroundings, build};

const GROUP: [u8; 4] = [224, 0, 0, 251];

/// A multicast group of its own on the loopback interface.
struct Loopback {
    port: u16,
    strangers: Mutex<Vec<ServiceDaemon>>,
}

impl Loopback {
    fn new() -> Result<Self, String> {
        static PLACES: AtomicU16 = AtomicU16::new(0);
        // Tests of other processes may run beside these.
        let pid = u16::try_from(std::process::id() % 500).expect("under 500");
        let port = 20_000 + pid * 20 + PLACES.fetch_add(1, Ordering::Relaxed);
        multicasts(port)
            .map_err(|error| format!("no multicast on the loopback interface: {error}"))?;
        Ok(Self { port, strangers: Mutex::default() })
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
        strategy(&format!("mdns://?interface=lo&port={}", self.port))
    }

    fn spoil(&self) {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let group = SocketAddr::from((GROUP, self.port));
        let header = |counts: [u8; 8]| [&[0, 0, 0x84, 0][..], &counts].concat();
        let all = header([0xff; 8]);
        // A name that points to itself.
        let circular = [
            &header([0, 0, 0, 1, 0, 0, 0, 0])[..],
            &[0xc0, 12, 0, 12, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 12],
        ]
        .concat();
        for packet in [&b""[..], &b"\0"[..], &[0xff; 512][..], &all, &circular, &[0x84; 8999]] {
            socket.send_to(packet, group).expect("sent");
        }
        let mut strangers = self.strangers.lock().expect("whole");
        let stranger = ServiceDaemon::new_with_port(self.port).expect("a daemon");
        let incarnation = "00000000000000aa";
        for (at, txt) in [
            &[][..],
            &[("mesh", "conformance")],
            &[("mesh", "conformance"), ("inc", "zz"), ("node", "x@y")],
            &[("mesh", "conformance"), ("inc", incarnation), ("node", "\u{1b}[2J")],
            &[("mesh", ""), ("inc", incarnation)],
            &[("mesh", "m"), ("inc", incarnation), ("id", "not hex")],
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("stranger-{at}-{}", strangers.len());
            let mut service = ServiceInfo::new(
                "_pillion._tcp.local.",
                &name,
                "stranger.local.",
                "127.0.0.1",
                9,
                txt,
            )
            .expect("a service");
            service.set_requires_probe(false);
            stranger.register(service).expect("registered");
        }
        strangers.push(stranger);
    }

    fn fault(&self, _: Fault) -> bool {
        // The loopback interface belongs to everybody; `mdns_netns` takes interfaces down.
        false
    }

    fn mend(&self) {}
}

impl Drop for Loopback {
    fn drop(&mut self) {
        for stranger in self.strangers.lock().expect("whole").drain(..) {
            let _ = stranger.shutdown();
        }
    }
}

fn strategy(url: &str) -> Box<dyn Strategy> {
    let surroundings = Surroundings {
        registry: PathBuf::new(),
        interval: Duration::from_secs(5),
        ..Surroundings::default()
    };
    build(url, &surroundings).expect("mdns")
}

pillion_strategies::conformance!(Loopback::new());

#[tokio::test]
async fn a_new_node_is_visible_within_a_second_and_a_half() {
    let Ok(place) = Loopback::new() else { return println!("SKIPPED: no multicast on loopback") };
    let mut old = Node::start(&place, 1);
    old.reports("its own echo", |report| report.health == Health::Well).await;
    let mut quickest = Duration::MAX;
    // The threads of mDNS keep real time, and a busy machine may hold them up: then the next node may be quicker.
    for n in 2..22 {
        let started = Instant::now();
        let mut new = Node::start(&place, n);
        old.sees(&new).await;
        let old_saw = started.elapsed();
        new.sees(&old).await;
        println!(
            "the old one saw the new after {old_saw:?}, the new one the old after {:?}",
            started.elapsed()
        );
        quickest = quickest.min(old_saw);
        if quickest < Duration::from_millis(1500) {
            return;
        }
    }
    panic!("no node of twenty was visible sooner than after {quickest:?}");
}

#[tokio::test]
async fn a_port_that_another_program_keeps_for_itself_is_told_with_what_to_do() {
    let Ok(place) = Loopback::new() else { return println!("SKIPPED: no multicast on loopback") };
    let _alone = UdpSocket::bind(("0.0.0.0", place.port)).expect("the port");
    let _alone_too = UdpSocket::bind(("::", place.port));
    let mut node = Node::start(&place, 1);
    let unwell =
        |r: &Report| matches!(&r.health, Health::Unwell(why) if why.contains("--join HOST:PORT"));
    node.reports("no echo", unwell).await;
}

#[tokio::test]
async fn an_interface_that_is_not_there_is_waited_for_in_words() {
    let (reporter, mut reports) = Reporter::new();
    let strategy = strategy("mdns://?interface=nosuch0");
    tokio::select! {
        biased;
        report = reports.wait_for(|report| report.health != Health::Starting) => {
            let report = report.expect("alive");
            assert!(matches!(&report.health, Health::Unwell(why) if why.contains("nosuch0")), "{report:?}");
        }
        ended = strategy.run(announcement(1), &reporter) => panic!("it ended: {ended:?}"),
    }
}

#[tokio::test]
async fn a_node_on_loopback_addresses_sees_others_and_says_that_it_announces_nothing() {
    let Ok(place) = Loopback::new() else { return println!("SKIPPED: no multicast on loopback") };
    let other = Node::start(&place, 1);
    let listen = vec!["127.0.0.1:4470".parse().expect("an address")];
    let own = Announcement { listen, ..announcement(2) };
    let (reporter, mut reports) = Reporter::new();
    let strategy = place.strategy();
    tokio::select! {
        biased;
        report = reports.wait_for(|report| other.is_in(report)) => {
            let report = report.expect("alive");
            assert!(matches!(&report.health, Health::Unwell(why) if why.contains("loopback only")), "{report:?}");
        }
        ended = strategy.run(own, &reporter) => panic!("it ended: {ended:?}"),
    }
}
