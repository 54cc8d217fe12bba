//! `gossip` between machines: network namespaces joined by a switch, one node in each.
//!
//! Needs root and `ip`; where there is neither, each test says so and passes.

#![allow(clippy::disallowed_methods, reason = "a test waits for real processes, in real time")]
#![cfg(all(feature = "gossip", target_os = "linux"))]

mod lan;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lan::{Helper, Lan, spelled};
use pillion_strategies::{Key, Keys, Surroundings, build};

const GROUP: Ipv4Addr = Ipv4Addr::new(233, 252, 1, 32);
const PORT: u16 = 45_892;

/// Not a promise: the node that the tests start in their namespaces.
#[tokio::test]
async fn helper_process() {
    lan::helper(|url, key| {
        let keys = Keys::fixed(vec![Key::new([key; 32])]);
        build(url, &Surroundings { keys, ..Surroundings::default() }).expect("gossip")
    })
    .await;
}

fn start(lan: &Lan, n: u8, node: u16) -> Helper {
    lan.start(n, node, "gossip", 1)
}

#[test]
fn two_machines_see_each_other_at_once_and_hear_the_goodbye() {
    let lan = lan!(2);
    lan.up(1);
    lan.up(2);
    let mut a = start(&lan, 1, 1);
    a.is_well();
    let started = Instant::now();
    let mut b = start(&lan, 2, 2);
    b.sees(1);
    a.sees(2);
    println!("both saw each other {:?} after the start of the second", started.elapsed());
    let both =
        |report: &str| report.contains("10.77.0.2:40002") && report.contains("[fd77::2]:40002");
    let seen = a.until("both kinds of addresses", both);
    assert!(!seen.contains("127.0.0.1") && !seen.contains("fe80"), "{seen}");
    b.stop();
    let stopped = Instant::now();
    a.forgets(2);
    println!("the goodbye was heard after {:?}", stopped.elapsed());
}

#[test]
fn ipv6_alone_is_enough_and_so_is_a_cable_without_addresses() {
    let lan = lan!(3);
    for n in [1, 2] {
        lan.ip(n, &format!("addr add fd77::{n}/64 dev net0 nodad"));
        lan.link(n, "up");
    }
    let mut a = start(&lan, 1, 1);
    let mut b = start(&lan, 2, 2);
    let seen = a.sees(2).to_owned();
    assert!(seen.contains("[fd77::2]:40002") && !seen.contains("fe80"), "{seen}");
    b.sees(1);
    lan.link(3, "up");
    let mut c = start(&lan, 3, 3);
    let seen = b.sees(3).to_owned();
    assert!(seen.contains("[fe80::") && seen.contains("%"), "{seen}");
    c.sees(1);
}

#[test]
fn ipv4_alone_is_enough_by_multicast_and_by_broadcast() {
    for url in
        ["gossip", "gossip://?broadcast-only=true", "gossip://?multicast-addr=239.9.9.9&port=4999"]
    {
        let lan = lan!(2);
        for n in [1, 2] {
            lan.ip(n, &format!("addr add 10.77.0.{n}/24 dev net0"));
            // No fe80 either.
            lan.ip(n, "link set net0 addrgenmode none");
            lan.link(n, "up");
        }
        let mut a = lan.start(1, 1, url, 1);
        let mut b = lan.start(2, 2, url, 1);
        a.until(url, |report| report.contains("10.77.0.2:40002"));
        b.sees(1);
        a.is_well();
    }
}

#[test]
fn several_nodes_of_one_machine_share_the_port() {
    let lan = lan!(2);
    lan.up(1);
    lan.up(2);
    let mut nodes: Vec<Helper> = (1..=3).map(|node| start(&lan, 1, node)).collect();
    nodes.push(start(&lan, 2, 4));
    for (node, own) in nodes.iter_mut().zip(1_u16..) {
        for other in (1..=4).filter(|other| *other != own) {
            node.sees(other);
        }
    }
}

#[test]
fn a_node_that_was_killed_and_started_again_is_one_node() {
    let lan = lan!(2);
    lan.up(1);
    lan.up(2);
    let mut a = start(&lan, 1, 1);
    let b = start(&lan, 2, 2);
    let seen = a.sees(2).to_owned();
    let old = seen.split(&spelled(2)).nth(1).and_then(|rest| rest.split(' ').next()).expect("it");
    b.kill();
    let mut b = start(&lan, 2, 2);
    let new = |report: &str| report.contains(&spelled(2)) && !report.contains(old);
    let seen = a.until("the new run alone", new);
    assert_eq!(seen.matches(&spelled(2)).count(), 1, "{seen}");
    b.sees(1);
}

#[test]
fn a_node_that_was_killed_is_forgotten_after_four_intervals() {
    let lan = lan!(2);
    lan.up(1);
    lan.up(2);
    let mut a = lan.start(1, 1, "gossip://?interval=500ms", 1);
    let b = lan.start(2, 2, "gossip://?interval=500ms", 1);
    a.sees(2);
    b.kill();
    let killed = Instant::now();
    a.forgets(2);
    println!("forgotten {:?} after the kill", killed.elapsed());
    a.is_well();
}

#[test]
fn an_interface_that_goes_and_comes_is_taken_up_again_and_nobody_is_dropped_meanwhile() {
    let lan = lan!(3);
    (1..=3).for_each(|n| lan.up(n));
    let mut a = start(&lan, 1, 1);
    let mut b = start(&lan, 2, 2);
    a.sees(2);
    b.sees(1);
    lan.link(1, "down");
    let seen = a.until("no network", |report| report.starts_with("Unwell"));
    assert!(seen.contains(&spelled(2)), "{seen}");
    let seen = a.until("no interface", |report| report.contains("no network interface"));
    assert!(seen.contains(&spelled(2)), "{seen}");
    // One that started where the first could not hear it.
    let mut c = start(&lan, 3, 3);
    b.sees(3);
    lan.up(1);
    let back = Instant::now();
    a.sees(3);
    c.sees(1);
    println!("taken up again {:?} after the link was", back.elapsed());
    let seen = a.is_well();
    assert!(seen.contains(&spelled(2)) && seen.contains(&spelled(3)), "{seen}");
}

#[test]
fn an_interface_that_is_taken_out_and_another_that_is_plugged_in_for_it_is_used() {
    let lan = lan!(3);
    (1..=3).for_each(|n| lan.up(n));
    let mut a = start(&lan, 1, 1);
    let mut b = start(&lan, 2, 2);
    a.sees(2);
    b.sees(1);
    lan.replug(1);
    let seen = a.until("no network", |report| report.contains("no network interface"));
    assert!(seen.contains(&spelled(2)), "{seen}");
    lan.up(1);
    let mut c = start(&lan, 3, 3);
    a.sees(3);
    c.sees(1);
    let seen = a.is_well();
    assert!(seen.contains(&spelled(2)), "{seen}");
}

#[test]
fn a_network_that_comes_after_the_start_is_used() {
    let lan = lan!(2);
    lan.up(2);
    let mut b = start(&lan, 2, 2);
    let mut a = start(&lan, 1, 1);
    a.until("no network", |report| report.contains("no network interface"));
    b.is_well();
    lan.up(1);
    a.sees(2);
    b.sees(1);
    a.is_well();
}

#[test]
fn an_address_that_changes_is_followed() {
    let lan = lan!(2);
    lan.up(1);
    lan.up(2);
    let mut a = start(&lan, 1, 1);
    let mut b = start(&lan, 2, 2);
    a.until("the old address", |report| report.contains("10.77.0.2:40002"));
    lan.moves(2, 22);
    let changed = Instant::now();
    let new = |report: &str| {
        report.contains("10.77.0.22:40002")
            && report.contains("[fd77::22]:40002")
            && !report.contains("10.77.0.2:40002")
            && !report.contains("[fd77::2]:40002")
    };
    a.until("the new addresses alone", new);
    println!("followed {:?} after the change", changed.elapsed());
    b.sees(1);
}

#[test]
fn bridges_of_containers_are_told_nobody_and_who_is_behind_them_is_found() {
    let lan = lan!(3);
    lan.up(1);
    lan.up(2);
    lan.containers(1, 3);
    let mut host = start(&lan, 1, 1);
    let mut other = start(&lan, 2, 2);
    let mut container = start(&lan, 3, 3);
    container.is_well();
    host.until("the container", |report| report.contains("172.17.0.2:40003"));
    host.sees(2);
    let seen = other.until("the host", |report| report.contains("10.77.0.1:40001")).to_owned();
    assert!(!seen.contains("172.17."), "{seen}");
    // A node that the host sees later is as late as any word of the host would be.
    let late = start(&lan, 3, 4);
    host.sees(4);
    container.sees(4);
    assert!(!container.last().contains(&spelled(1)), "{}", container.last());
    drop(late);
}

#[test]
fn a_stranger_without_the_key_sees_nobody_and_is_seen_by_nobody() {
    let lan = lan!(3);
    (1..=3).for_each(|n| lan.up(n));
    let mut a = start(&lan, 1, 1);
    let mut stranger = lan.start(2, 2, "gossip", 2);
    a.is_well();
    stranger.is_well();
    let mut b = start(&lan, 3, 3);
    a.sees(3);
    b.sees(1);
    assert!(!a.last().contains(&spelled(2)) && !b.last().contains(&spelled(2)));
    // Its own kind comes after all that it has heard of ours.
    let _own_kind = lan.start(3, 4, "gossip", 2);
    stranger.sees(4);
    assert_eq!(stranger.last().matches(';').count(), 1, "{}", stranger.last());
}

/// A socket on machine `n` that hears what is said there.
fn listener(lan: &Lan, n: u8) -> UdpSocket {
    let own = Ipv4Addr::new(10, 77, 0, n);
    let socket = lan.inside(n, move || {
        let socket = UdpSocket::bind(("0.0.0.0", PORT)).expect("the port");
        socket.join_multicast_v4(&GROUP, &own).expect("joined");
        socket
    });
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    socket
}

/// A socket on machine `n` that speaks to the group.
fn speaker(lan: &Lan, n: u8) -> UdpSocket {
    lan.inside(n, move || UdpSocket::bind((Ipv4Addr::new(10, 77, 0, n), 0)).expect("a socket"))
}

#[test]
fn packets_that_were_recorded_revive_nobody() {
    let lan = lan!(3);
    (1..=3).for_each(|n| lan.up(n));
    let tape = listener(&lan, 3);
    let mut a = start(&lan, 1, 1);
    let b = start(&lan, 2, 2);
    a.sees(2);
    b.stop();
    a.forgets(2);
    let mut recorded = Vec::new();
    let mut buffer = [0; 2048];
    while let Ok((length, from)) = tape.recv_from(&mut buffer) {
        if from.ip() == Ipv4Addr::new(10, 77, 0, 2) {
            recorded.push(buffer[..length].to_vec());
        }
    }
    assert!(recorded.len() >= 2, "its first words and its goodbye were recorded");
    assert!(recorded.iter().all(|packet| packet.len() <= 1400));
    let text = |packet: &[u8]| String::from_utf8_lossy(packet).into_owned();
    assert!(recorded.iter().all(|packet| !text(packet).contains("hal")), "sealed");
    let player = speaker(&lan, 3);
    let play = || {
        for packet in &recorded {
            player.send_to(packet, SocketAddr::from((GROUP, PORT))).expect("sent");
        }
    };
    play();
    drop(tape);
    // Who comes after the recording is seen after it.
    let c = start(&lan, 3, 3);
    let seen = a.sees(3).to_owned();
    assert!(!seen.contains(&spelled(2)) && !a.last().contains(&spelled(2)), "{seen}");
    // Its goodbye, played back once it lives again, ends nothing.
    let _b = start(&lan, 2, 2);
    a.sees(2);
    play();
    c.stop();
    a.forgets(3);
    assert!(a.last().contains(&spelled(2)), "{}", a.last());
}

/// What a process has used of the processors.
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(10 * ticks)
}

#[test]
fn a_flood_of_garbage_drops_nobody_and_costs_little() {
    const SECONDS: u64 = 5;
    let lan = lan!(3);
    (1..=3).for_each(|n| lan.up(n));
    let mut a = start(&lan, 1, 1);
    let b = start(&lan, 2, 2);
    a.sees(2);
    // `ip netns exec` becomes the node: its number is the node's.
    let before = cpu(a.pid());
    let flooding = Arc::new(AtomicBool::new(true));
    let flood = {
        let (flooding, socket) = (Arc::clone(&flooding), speaker(&lan, 3));
        std::thread::spawn(move || {
            let mut sent = 0_u64;
            let mut packet = [0xa5; 600];
            while flooding.load(Ordering::Relaxed) {
                packet[..8].copy_from_slice(&sent.to_be_bytes());
                sent += u64::from(socket.send_to(&packet, (GROUP, PORT)).is_ok());
            }
            sent
        })
    };
    let seen = a.until("the flood", |report| report.contains("more than 1000 packets"));
    assert!(seen.contains(&spelled(2)), "{seen}");
    let began = Instant::now();
    std::thread::sleep(Duration::from_secs(SECONDS));
    let used = cpu(a.pid()).saturating_sub(before);
    flooding.store(false, Ordering::Relaxed);
    let sent = flood.join().expect("the flood");
    println!("{sent} packets in {:?} cost the node {used:?} of processor time", began.elapsed());
    assert!(used < Duration::from_secs(SECONDS) / 4, "{used:?}");
    assert!(a.last().contains(&spelled(2)), "{}", a.last());
    let mut late = start(&lan, 3, 3);
    a.sees(3);
    late.sees(1);
    a.is_well();
    drop(b);
}

#[test]
fn fifty_nodes_on_one_segment_all_see_each_other() {
    const NODES: u8 = 50;
    let lan = lan!(NODES);
    (1..=NODES).for_each(|n| lan.up(n));
    let started = Instant::now();
    let mut nodes: Vec<Helper> = (1..=NODES).map(|n| start(&lan, n, n.into())).collect();
    let all_but = |own: u8| {
        move |report: &str| (1..=NODES).all(|n| n == own || report.contains(&spelled(n.into())))
    };
    for (node, own) in nodes.iter_mut().zip(1..) {
        node.until("everybody", all_but(own));
    }
    println!("{NODES} nodes saw each other {:?} after the first was started", started.elapsed());
}
