//! `gossip` over a network in memory, and time that passes when nobody has anything to do.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::*;
use crate::interfaces::Place as Spot;
use crate::{Health, Report};

type Packet = (Vec<u8>, SocketAddr);

/// A network in memory, which carries what is sent to everybody on it as well as the test wants.
#[derive(Clone, Default)]
struct Bus(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    members: BTreeMap<u32, mpsc::Sender<Packet>>,
    last: u32,
    weather: Weather,
    /// Nobody is plugged in.
    unplugged: bool,
    carried: Vec<Packet>,
}

/// How well a network works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Weather {
    #[default]
    Fine,
    /// Sending fails.
    Down,
    /// Nothing arrives.
    Lost,
    /// It arrives changed.
    Noise,
    /// Everybody hears himself only.
    Alone,
    /// Every other packet is lost.
    Patchy,
    /// It takes a second.
    Late,
}

struct Plug {
    bus: Bus,
    number: u32,
    packets: mpsc::Receiver<Packet>,
}

impl Bus {
    fn weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("whole")
    }

    /// As if somebody had sent it.
    fn inject(&self, packet: &[u8], from: SocketAddr) {
        for member in self.state().members.values() {
            let _ = member.try_send((packet.to_vec(), from));
        }
    }

    fn carried(&self) -> Vec<Packet> {
        self.state().carried.clone()
    }

    fn gossip(&self, keys: &[u8]) -> Over<Self> {
        let keys = keys.iter().map(|byte| Key::new([*byte; 32])).collect();
        self.gossip_with(Keys::fixed(keys), None)
    }

    fn gossip_with(&self, keys: Keys, file: Option<&str>) -> Over<Self> {
        let surroundings = Surroundings { keys, ..Surroundings::default() };
        Over::new(self.clone(), None, file.map(PathBuf::from), &surroundings).expect("gossip")
    }
}

impl Ether for Bus {
    type Wire = Plug;

    fn network(&self) -> io::Result<Network> {
        let spot = Spot {
            name: "mem0".into(),
            index: Some(1),
            ip: "10.9.0.1".parse().expect("an address"),
            prefix: 24,
            told: true,
        };
        Ok(Network::of((!self.state().unplugged).then_some(spot)))
    }

    fn nothing_to_use(&self) -> String {
        "no network interface is there".into()
    }

    fn open(&self, _: &[Link]) -> io::Result<Plug> {
        let (sender, packets) = mpsc::channel(4096);
        let mut state = self.state();
        state.last += 1;
        let number = state.last;
        state.members.insert(number, sender);
        drop(state);
        Ok(Plug { bus: self.clone(), number, packets })
    }

    fn what(&self) -> String {
        "the bus".into()
    }
}

impl Wire for Plug {
    fn reaches(&self, _: &Link, kind: Kind) -> bool {
        kind == Kind::V4
    }

    fn send(&self, _: &Link, _: Kind, packet: &[u8]) -> io::Result<()> {
        let from = SocketAddr::from(([10, 9, 0, 1], 45_892));
        let mut packet = (packet.to_vec(), from);
        let mut state = self.bus.state();
        let weather = state.weather;
        state.carried.push(packet.clone());
        let count = state.carried.len();
        match weather {
            Weather::Down => return Err(io::ErrorKind::NetworkUnreachable.into()),
            Weather::Lost => return Ok(()),
            Weather::Patchy if count.is_multiple_of(2) => return Ok(()),
            Weather::Noise => packet.0[40] ^= 0x55,
            _ => {}
        }
        for (number, member) in &state.members {
            if weather == Weather::Alone && *number != self.number {
                continue;
            }
            let (member, packet) = (member.clone(), packet.clone());
            if weather == Weather::Late {
                tokio::spawn(async move {
                    sleep(Duration::from_secs(1)).await;
                    let _ = member.send(packet).await;
                });
            } else {
                let _ = member.try_send(packet);
            }
        }
        Ok(())
    }

    async fn receive(&mut self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let Some((packet, from)) = self.packets.recv().await else { std::future::pending().await };
        let length = packet.len().min(buffer.len());
        buffer[..length].copy_from_slice(&packet[..length]);
        Ok((length, from))
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        self.bus.state().members.remove(&self.number);
    }
}

fn own(n: u16) -> Announcement {
    Announcement {
        mesh: "default".into(),
        node: format!("n{n}@hal"),
        incarnation: 1000 + u64::from(n),
        protocol: 1,
        ids: vec![[7; 8]],
        listen: vec![SocketAddr::from(([0, 0, 0, 0], 40_000 + n))],
        socket: None,
        labels: BTreeMap::from([("zone".into(), "b".into())]),
    }
}

struct Node {
    reports: watch::Receiver<Report>,
    task: JoinSet<()>,
}

impl Node {
    fn start(gossip: Over<Bus>, n: u16) -> Self {
        Self::start_as(Arc::new(gossip), own(n))
    }

    fn start_as(gossip: Arc<Over<Bus>>, own: Announcement) -> Self {
        let (reporter, reports) = Reporter::new();
        let mut task = JoinSet::new();
        task.spawn(async move { gossip.watch(&own, &reporter).await });
        Self { reports, task }
    }

    async fn until(&mut self, holds: impl FnMut(&Report) -> bool) -> Report {
        let waited = tokio::time::timeout(Duration::from_secs(600), self.reports.wait_for(holds));
        waited.await.expect("in time").expect("alive").clone()
    }

    /// Ends it, and its goodbye with it.
    async fn end(mut self) {
        self.task.shutdown().await;
    }

    async fn sees(&mut self, nodes: &[&str]) -> Report {
        self.until(|report| names(report) == nodes).await
    }
}

fn names(report: &Report) -> Vec<String> {
    report.sightings.iter().filter_map(|s| s.node.clone()).collect()
}

fn says(words: &str) -> impl FnMut(&Report) -> bool + '_ {
    move |report| matches!(&report.health, Health::Unwell(why) if why.contains(words))
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_is_heard_and_answered_within_milliseconds() {
    let bus = Bus::default();
    let mut old: Vec<Node> = (1..=20).map(|n| Node::start(bus.gossip(&[1]), n)).collect();
    for node in &mut old {
        node.until(|report| report.sightings.len() == 19).await;
    }
    sleep(Duration::from_secs(60)).await;
    let began = Instant::now();
    let mut new = Node::start(bus.gossip(&[1]), 99);
    new.until(|report| report.sightings.len() == 20).await;
    for node in &mut old {
        node.until(|report| report.sightings.len() == 20).await;
    }
    assert!(began.elapsed() <= APART + ANSWER_WITHIN, "{:?}", began.elapsed());
    let report = new.reports.borrow().clone();
    let seen = report.sightings.iter().find(|s| s.incarnation == Some(1001)).expect("the first");
    assert_eq!(seen.addresses, ["10.9.0.1:40001".parse().expect("an address")], "{seen:?}");
    assert_eq!((seen.mesh.as_deref(), seen.ids.clone()), (Some("default"), vec![[7; 8]]));
    assert_eq!((seen.labels["zone"].as_str(), seen.source.as_str()), ("b", "gossip from 10.9.0.1"));
}

#[tokio::test(start_paused = true)]
async fn fifty_nodes_that_start_at_once_say_little_and_see_each_other_at_once() {
    let bus = Bus::default();
    let began = Instant::now();
    let mut all: Vec<Node> = (1..=50).map(|n| Node::start(bus.gossip(&[1]), n)).collect();
    for node in &mut all {
        node.until(|report| report.sightings.len() == 49).await;
    }
    assert!(began.elapsed() <= APART + ANSWER_WITHIN, "{:?}", began.elapsed());
    sleep(Duration::from_secs(5)).await;
    let said = bus.carried().len();
    sleep(Duration::from_secs(20)).await;
    assert!(said <= 50 * 8, "{said} packets at first");
    let later = bus.carried().len() - said;
    assert!(later <= 50 * 6, "{later} packets in 20 s");
    assert!(bus.carried().iter().all(|(packet, _)| packet.len() <= PACKET_BYTES_MAX));
}

#[tokio::test(start_paused = true)]
async fn who_says_goodbye_is_gone_at_once_and_who_is_silent_after_four_intervals() {
    let bus = Bus::default();
    let mut a = Node::start(bus.gossip(&[1]), 1);
    let b = Node::start(bus.gossip(&[1]), 2);
    a.sees(&["n2@hal"]).await;
    let stopped = Instant::now();
    b.end().await;
    a.sees(&[]).await;
    assert!(stopped.elapsed() <= Duration::from_millis(1));

    let b = Node::start(bus.gossip(&[1]), 3);
    a.sees(&["n3@hal"]).await;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(names(&a.reports.borrow()), ["n3@hal"]);
    // Killed: nothing of its goodbye arrives.
    bus.weather(Weather::Alone);
    b.end().await;
    bus.weather(Weather::Fine);
    let killed = Instant::now();
    a.sees(&[]).await;
    let after = killed.elapsed();
    assert!(after >= 3 * INTERVAL - ECHO && after <= 4 * INTERVAL, "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn who_has_no_key_hears_nobody_and_is_heard_by_nobody() {
    let bus = Bus::default();
    let mut a = Node::start(bus.gossip(&[1]), 1);
    let mut b = Node::start(bus.gossip(&[1]), 2);
    let mut stranger = Node::start(bus.gossip(&[2]), 3);
    a.sees(&["n2@hal"]).await;
    b.sees(&["n1@hal"]).await;
    stranger.until(|report| report.health == Health::Well).await;
    sleep(Duration::from_secs(3600)).await;
    for (node, seen) in [(&a, vec!["n2@hal"]), (&b, vec!["n1@hal"]), (&stranger, vec![])] {
        let report = node.reports.borrow();
        assert_eq!(
            (names(&report), &report.health),
            (seen.iter().map(ToString::to_string).collect(), &Health::Well)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_recorded_is_ignored_when_it_is_played_again() {
    let bus = Bus::default();
    let mut a = Node::start(bus.gossip(&[1]), 1);
    let b = Node::start(bus.gossip(&[1]), 2);
    a.sees(&["n2@hal"]).await;
    let recorded = bus.carried();
    b.end().await;
    a.sees(&[]).await;
    let mut reports = a.reports.clone();
    reports.mark_unchanged();
    for (packet, from) in &recorded {
        bus.inject(packet, *from);
    }
    sleep(Duration::from_secs(1)).await;
    assert!(!reports.has_changed().expect("alive"), "{:?}", reports.borrow());
    // Its goodbye, played back while it lives, ends nothing either.
    let c = Node::start(bus.gossip(&[1]), 3);
    a.sees(&["n3@hal"]).await;
    for (packet, from) in bus.carried() {
        bus.inject(&packet, from);
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(names(&a.reports.borrow()), ["n3@hal"]);
    drop(c);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_started_again_replaces_the_run_that_was_killed() {
    let bus = Bus::default();
    let mut a = Node::start(bus.gossip(&[1]), 1);
    let killed = Node::start(bus.gossip(&[1]), 2);
    a.sees(&["n2@hal"]).await;
    bus.weather(Weather::Alone);
    killed.end().await;
    bus.weather(Weather::Fine);
    let again = Announcement { incarnation: 5000, ..own(2) };
    let _again = Node::start_as(Arc::new(bus.gossip(&[1])), again);
    let is_new = |report: &Report| report.sightings.iter().any(|s| s.incarnation == Some(5000));
    let report = a.until(is_new).await;
    assert_eq!(report.sightings.len(), 1, "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_keys_is_followed_without_losing_anybody() {
    let bus = Bus::default();
    let key = |byte| Key::new([byte; 32]);
    let nodes: Vec<(watch::Sender<Vec<Key>>, Node)> = (1..=3)
        .map(|n| {
            let (sender, keys) = watch::channel(vec![key(1)]);
            let keys = Keys::new(Some(keys), |_| Err(String::new()));
            (sender, Node::start(bus.gossip_with(keys, None), n))
        })
        .collect();
    let (senders, mut nodes): (Vec<_>, Vec<_>) = nodes.into_iter().unzip();
    for node in &mut nodes {
        node.until(|report| report.sightings.len() == 2).await;
    }
    // All understand the new one, all use it, nobody understands the old one.
    for keys in [vec![key(1), key(2)], vec![key(2), key(1)], vec![key(2)]] {
        for sender in &senders {
            sender.send_replace(keys.clone());
            sleep(Duration::from_secs(7)).await;
            for node in &nodes {
                let report = node.reports.borrow();
                assert_eq!(report.sightings.len(), 2, "{report:?}");
                assert_eq!(report.health, Health::Well);
            }
        }
    }
    // What is sealed with the old one is nobody's any more.
    let late = Node::start(bus.gossip(&[1]), 9);
    sleep(Duration::from_secs(60)).await;
    assert!(nodes.iter().all(|node| node.reports.borrow().sightings.len() == 2));
    drop(late);
}

#[tokio::test(start_paused = true)]
async fn a_file_of_secrets_takes_the_place_of_the_cookie_and_is_read_again() {
    let bus = Bus::default();
    let byte = Arc::new(Mutex::new(None::<u8>));
    let read = {
        let byte = byte.clone();
        move |path: &std::path::Path| {
            let byte = *byte.lock().expect("whole");
            byte.map(|byte| vec![Key::new([byte; 32])])
                .ok_or_else(|| format!("cannot read `{}`", path.display()))
        }
    };
    let mut a = Node::start(bus.gossip_with(Keys::new(None, read), Some("/run/secret")), 1);
    let report = a.until(says("cannot read `/run/secret`")).await;
    assert!(report.sightings.is_empty());
    *byte.lock().expect("whole") = Some(4);
    let _b = Node::start(bus.gossip(&[4]), 2);
    a.sees(&["n2@hal"]).await;
    *byte.lock().expect("whole") = None;
    a.until(says("the last ones stay")).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(names(&a.reports.borrow()), ["n2@hal"]);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_garbage_is_told_costs_a_bounded_number_of_looks_and_drops_nobody() {
    let bus = Bus::default();
    let mut a = Node::start(bus.gossip(&[1]), 1);
    let _b = Node::start(bus.gossip(&[1]), 2);
    a.sees(&["n2@hal"]).await;
    let from = SocketAddr::from(([10, 9, 0, 66], 9));
    let foreign = bus.carried()[0].0.iter().map(|byte| byte ^ 0x80).collect::<Vec<u8>>();
    for second in 0..30 {
        for packet in [&b""[..], &[0xff; 64], &foreign, &[0; 4000]] {
            for _ in 0..STRANGE_MAX {
                bus.inject(packet, from);
            }
        }
        sleep(Duration::from_secs(1)).await;
        if second > 0 {
            assert!(says("more than 1000 packets")(&a.reports.borrow()));
            assert_eq!(names(&a.reports.borrow()), ["n2@hal"]);
        }
    }
    a.until(|report| report.health == Health::Well).await;
    assert_eq!(names(&a.reports.borrow()), ["n2@hal"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_believed_is_counted_by_its_reason_and_wakes_nobody() {
    let bus = Bus::default();
    let mut a = Node::start(bus.gossip(&[1]), 1);
    let _b = Node::start(bus.gossip(&[1]), 2);
    a.sees(&["n2@hal"]).await;
    let mut reports = a.reports.clone();
    reports.mark_unchanged();
    let from = SocketAddr::from(([10, 9, 0, 66], 9));
    let sealed = |key: u8, unix_ms| {
        let seal = Seal::new(&[Key::new([key; 32])], [8; 16]).expect("a key");
        let message = Message { mesh: "default".into(), node: "x@y".into(), ..Message::default() };
        seal.seal(message, 1, unix_ms).expect("it fits")
    };
    let recorded = bus.carried().remove(0).0;
    bus.inject(b"hello", from);
    bus.inject(&[0xff; 64], from);
    bus.inject(&sealed(9, unix_ms()), from);
    bus.inject(&recorded, from);
    sleep(Duration::from_millis(100)).await;
    assert!(!reports.has_changed().expect("alive"), "nobody is woken");
    bus.inject(&sealed(1, unix_ms() - 3_600_000), from);
    sleep(Duration::from_millis(100)).await;
    let ignored = a.reports.borrow().ignored.clone();
    let told: Vec<_> = ignored.iter().map(|(why, heard)| (why.word(), heard.count)).collect();
    assert_eq!(told, [("malformed", 2), ("foreign", 1), ("replayed", 1), ("skewed", 1)]);
    assert!(ignored.iter().all(|(_, heard)| heard.from == "10.9.0.66"), "{ignored:?}");
}

#[tokio::test(start_paused = true)]
async fn a_network_that_comes_later_or_goes_and_comes_is_used() {
    let bus = Bus::default();
    bus.state().unplugged = true;
    let mut a = Node::start(bus.gossip(&[1]), 1);
    a.until(says("no network interface")).await;
    bus.state().unplugged = false;
    let _b = Node::start(bus.gossip(&[1]), 2);
    a.sees(&["n2@hal"]).await;
    for weather in [Weather::Down, Weather::Lost, Weather::Noise] {
        bus.weather(weather);
        let report = a.until(|report| matches!(report.health, Health::Unwell(_))).await;
        assert_eq!(names(&report), ["n2@hal"]);
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(names(&a.reports.borrow()), ["n2@hal"], "{weather:?}");
        bus.weather(Weather::Fine);
        a.until(|report| report.health == Health::Well).await;
        sleep(Duration::from_secs(60)).await;
        assert_eq!(names(&a.reports.borrow()), ["n2@hal"], "{weather:?}");
    }
}

#[test]
fn a_clock_that_is_apart_is_told_with_who_it_is_and_a_recording_is_not() {
    let (reporter, reports) = Reporter::new();
    let announcement = own(1);
    let now = Instant::now();
    let mut view = View::new(&reporter, &announcement, [1; 16], Memory::default(), now);
    let packet = |number, unix_ms| packet::Opened {
        salt: [2; 16],
        number,
        unix_ms,
        message: Message {
            mesh: "default".into(),
            node: "n2@hal".into(),
            incarnation: format!("{:016x}", 7),
            addresses: vec!["10.9.0.2:4470".into()],
            ..Message::default()
        },
    };
    let from = SocketAddr::from(([10, 9, 0, 2], 9));
    let hour = 3_600_000;
    // The same packet again and again is a recording.
    for _ in 0..5 {
        assert_eq!(view.hear(packet(9, hour), from, now, 2 * hour), Heard::Skewed);
    }
    assert_eq!(reports.borrow().health, Health::Starting);
    assert_eq!(view.hear(packet(10, hour + 5000), from, now, 2 * hour + 5000), Heard::Skewed);
    assert!(says("n2@hal is 3600 s behind us")(&reports.borrow()), "{:?}", reports.borrow());
    assert!(reports.borrow().sightings.is_empty());
    // Its clock was set.
    let at = 2 * hour + 10_000;
    assert_eq!(view.hear(packet(11, at), from, now, at), Heard::Newcomer);
    view.expire(now, now, INTERVAL);
    assert_eq!(reports.borrow().health, Health::Well);
    assert_eq!(reports.borrow().sightings.len(), 1);
}

#[test]
fn addresses_that_lead_nowhere_from_here_are_not_believed() {
    let (reporter, reports) = Reporter::new();
    let announcement = own(1);
    let now = Instant::now();
    let mut view = View::new(&reporter, &announcement, [1; 16], Memory::default(), now);
    let mut hear = |number, from: &str, addresses: &[&str]| {
        let message = Message {
            mesh: "default".into(),
            node: "n2@hal".into(),
            incarnation: format!("{:016x}", 7),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            ..Message::default()
        };
        let opened = packet::Opened { salt: [2; 16], number, unix_ms: 5, message };
        view.hear(opened, from.parse().expect("an address"), now, 5);
        let report = reports.borrow();
        report
            .sightings
            .iter()
            .flat_map(|s| &s.addresses)
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let all =
        ["127.0.0.1:1", "[::1]:1", "0.0.0.0:1", "10.0.0.2:0", "x", "224.0.0.1:1", "[fe80::2]:1"];
    assert!(hear(1, "10.0.0.2:9", &all).is_empty());
    assert_eq!(hear(2, "[fe80::2%3]:9", &all), ["[fe80::2%3]:1"]);
    assert_eq!(hear(3, "127.0.0.1:9", &["127.0.0.1:1"]), ["127.0.0.1:1", "[fe80::2%3]:1"]);
}

#[test]
fn options_that_cannot_be_meant_are_refused_in_words() {
    let gossip = |url: &str, keys: Keys| {
        let surroundings = Surroundings { keys, ..Surroundings::default() };
        Gossip::from_url(&Url::parse(url).expect("a url"), &surroundings)
    };
    let refused = |url: &str| match gossip(url, Keys::default()) {
        Ok(_) => panic!("{url} was taken"),
        Err(error) => error.to_string(),
    };
    assert!(refused("gossip://?port=0").contains("port=0"));
    assert!(refused("gossip://?ttl=300").contains("255"));
    assert!(refused("gossip://?multicast-addr=10.0.0.1").contains("233.252.1.32"));
    assert!(refused("gossip://?multicast-addr=224.0.0.9,224.0.0.10").contains("one of IPv6"));
    assert!(refused("gossip://?broadcast-only=1").contains("neither true nor false"));
    assert!(refused("gossip://?broadcast-only&multicast-addr=224.0.0.9").contains("exclude"));
    assert!(refused("gossip://?if-addr=eth0").contains("interface=NAME"));
    assert!(
        refused("gossip://?multicast_addr=224.0.0.9").contains("did you mean `multicast-addr`")
    );
    let none = || Keys::new(None, |_| Err(String::new()));
    let error = gossip("gossip://", none()).expect_err("no secret").to_string();
    assert!(error.contains("secret-file="), "{error}");
    let taken = gossip("gossip://?secret-file=/x&ttl=4&multicast-addr=ff15::1&interval=1s", none());
    let taken = taken.expect("a secret");
    assert_eq!((taken.0.ether.v4, taken.0.ether.ttl), (None, 4));
    assert_eq!(taken.0.interval, Duration::from_secs(1));
}

/// The promises of every strategy, with hours that pass in no time.
#[cfg(feature = "conformance")]
mod promises {
    use super::*;
    use crate::conformance::{Fault, Place};

    #[derive(Default)]
    struct OnBus(Bus);

    struct Strategic(Over<Bus>);

    impl Strategy for Strategic {
        fn name(&self) -> &'static str {
            "gossip"
        }

        fn run<'a>(&'a self, announcement: Announcement, reporter: &'a Reporter) -> Running<'a> {
            Box::pin(async move {
                self.0.watch(&announcement, reporter).await;
                Ok(())
            })
        }
    }

    impl Place for OnBus {
        fn strategy(&self) -> Box<dyn Strategy> {
            Box::new(Strategic(self.0.gossip(&[1])))
        }

        fn spoil(&self) {
            let from = SocketAddr::from(([10, 9, 0, 66], 9));
            let stranger = Seal::new(&[Key::new([9; 32])], [9; 16]).expect("a key");
            let stranger = stranger.seal(Message::default(), 1, 1).expect("a packet");
            for packet in [&b""[..], &b"plg1"[..], &[0xff; 1400], &[0; 4000], &stranger] {
                self.0.inject(packet, from);
            }
            // One who has the key and makes no sense.
            let insider = Seal::new(&[Key::new([1; 32])], [8; 16]).expect("a key");
            for (number, node) in [(1, ""), (2, "\u{1b}[2J@x"), (3, "x@y")] {
                let addresses = vec!["0.0.0.0:0".into(), "nonsense".into()];
                let incarnation = if number == 3 { "zz" } else { "0000000000000001" }.into();
                let message =
                    Message { node: node.into(), incarnation, addresses, ..Message::default() };
                self.0.inject(&insider.seal(message, number, unix_ms()).expect("a packet"), from);
            }
        }

        fn fault(&self, fault: Fault) -> bool {
            self.0.weather(match fault {
                Fault::Error => Weather::Down,
                Fault::Silent => Weather::Lost,
                Fault::Malformed => Weather::Noise,
                Fault::Empty => Weather::Alone,
                Fault::Partial => Weather::Patchy,
                Fault::Slow => Weather::Late,
            });
            true
        }

        fn mend(&self) {
            self.0.weather(Weather::Fine);
        }

        fn hours_pass(&self) -> bool {
            true
        }
    }

    crate::conformance!(Ok::<_, String>(OnBus::default()), start_paused = true);
}
