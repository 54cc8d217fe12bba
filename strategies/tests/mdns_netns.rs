//! `mdns` between machines: network namespaces joined by a switch, one node in each.
//!
//! Needs root and `ip`; where there is neither, each test says so and passes. Those that look at it with the system's own
//! tools need avahi and dbus, and say so too.

#![allow(clippy::disallowed_methods, reason = "a test waits for real processes, in real time")]
#![cfg(all(feature = "mdns", target_os = "linux"))]

mod lan;

use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lan::{Helper, spelled};
use pillion_strategies::{Surroundings, build};

/// Set to run the test that waits for a record's two minutes.
const SLOW: &str = "PILLION_SLOW_TESTS";

/// Not a promise: the node that the tests start in their namespaces.
#[tokio::test]
async fn helper_process() {
    lan::helper(|url, _| build(url, &Surroundings::default()).expect("mdns")).await;
}

#[test]
fn two_machines_see_each_other_and_hear_the_goodbye() {
    let lan = lan!(2);
    lan.up(1);
    lan.up(2);
    let mut a = lan.start(1, 1, "mdns", 0);
    a.is_well();
    let started = Instant::now();
    let mut b = lan.start(2, 2, "mdns", 0);
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
fn a_node_that_was_killed_and_started_again_is_one_node() {
    let lan = lan!(2);
    lan.up(1);
    lan.up(2);
    let mut a = lan.start(1, 1, "mdns", 0);
    let b = lan.start(2, 2, "mdns", 0);
    let old = a
        .sees(2)
        .split(&spelled(2))
        .nth(1)
        .expect("it")
        .split(' ')
        .next()
        .expect("16 digits")
        .to_owned();
    b.kill();
    let mut b = lan.start(2, 2, "mdns", 0);
    let new = |report: &str| report.contains(&spelled(2)) && !report.contains(&old);
    let seen = a.until("the new run alone", new);
    assert_eq!(seen.matches(&spelled(2)).count(), 1, "{seen}");
    b.sees(1);
}

#[test]
fn an_interface_that_goes_and_comes_is_taken_up_again_and_nobody_is_dropped_meanwhile() {
    let lan = lan!(3);
    (1..=3).for_each(|n| lan.up(n));
    let mut a = lan.start(1, 1, "mdns", 0);
    let mut b = lan.start(2, 2, "mdns", 0);
    a.sees(2);
    b.sees(1);
    lan.link(1, "down");
    let seen = a.until("no network", |report| report.contains("no network interface"));
    assert!(seen.contains(&spelled(2)), "{seen}");
    // One that started where the first could not hear it.
    let mut c = lan.start(3, 3, "mdns", 0);
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
    let mut a = lan.start(1, 1, "mdns", 0);
    let mut b = lan.start(2, 2, "mdns", 0);
    a.sees(2);
    b.sees(1);
    lan.replug(1);
    let seen = a.until("no network", |report| report.contains("no network interface"));
    assert!(seen.contains(&spelled(2)), "{seen}");
    lan.up(1);
    let mut c = lan.start(3, 3, "mdns", 0);
    a.sees(3);
    c.sees(1);
    let seen = a.is_well();
    assert!(seen.contains(&spelled(2)), "{seen}");
}

#[test]
fn a_network_that_comes_after_the_start_is_used() {
    let lan = lan!(2);
    lan.up(2);
    let mut b = lan.start(2, 2, "mdns", 0);
    let mut a = lan.start(1, 1, "mdns", 0);
    a.until("no network", |report| report.contains("no network interface"));
    b.is_well();
    lan.up(1);
    a.sees(2);
    b.sees(1);
    a.is_well();
}

#[test]
fn a_cable_without_addresses_is_enough() {
    let lan = lan!(2);
    lan.link(1, "up");
    lan.link(2, "up");
    let mut a = lan.start(1, 1, "mdns", 0);
    let mut b = lan.start(2, 2, "mdns", 0);
    b.sees(1);
    let seen = a.sees(2);
    assert!(seen.contains("[fe80::") && seen.contains('%'), "{seen}");
}

#[test]
fn a_node_that_was_killed_is_forgotten_when_its_records_run_out() {
    if std::env::var_os(SLOW).is_none() {
        return println!("SKIPPED: it waits for two minutes; set {SLOW} to run it");
    }
    let lan = lan!(2);
    lan.up(1);
    lan.up(2);
    let mut a = lan.start(1, 1, "mdns", 0);
    let b = lan.start(2, 2, "mdns", 0);
    a.sees(2);
    b.kill();
    let killed = Instant::now();
    a.until_by("its end", killed + Duration::from_secs(150), |report| {
        !report.contains(&spelled(2))
    });
    println!("forgotten {:?} after the kill", killed.elapsed());
}

#[test]
fn an_address_that_changes_is_followed() {
    // Caches add to what is younger than a second and replace the rest (RFC 6762 section 10.2). So what is said right
    // after the start is replaced only because all is said twice, the second time more than a second later.
    for age in [0, 1000, 3000].map(Duration::from_millis) {
        let lan = lan!(2);
        lan.up(1);
        lan.up(2);
        let mut a = lan.start(1, 1, "mdns", 0);
        let mut b = lan.start(2, 2, "mdns", 0);
        a.until("the old address", |report| report.contains("10.77.0.2:40002"));
        std::thread::sleep(age);
        lan.moves(2, 22);
        let changed = Instant::now();
        let new = |report: &str| {
            report.contains("10.77.0.22:40002")
                && report.contains("[fd77::22]:40002")
                && !report.contains("10.77.0.2:40002")
                && !report.contains("[fd77::2]:40002")
        };
        a.until_by("the new addresses alone", changed + Duration::from_secs(60), new);
        println!("followed {:?} after the change, at the age of {age:?}", changed.elapsed());
        b.sees(1);
    }
}

#[test]
fn bridges_of_containers_are_told_nobody_and_who_is_behind_them_is_found() {
    let lan = lan!(3);
    lan.up(1);
    lan.up(2);
    lan.containers(1, 3);
    let mut host = lan.start(1, 1, "mdns", 0);
    let mut other = lan.start(2, 2, "mdns", 0);
    let mut container = lan.start(3, 3, "mdns", 0);
    container.is_well();
    host.until("the container", |report| report.contains("172.17.0.2:40003"));
    host.sees(2);
    let seen = other.until("the host", |report| report.contains("10.77.0.1:40001")).to_owned();
    assert!(!seen.contains("172.17."), "{seen}");
    // A node that the host sees later is as late as any word of the host would be.
    let late = lan.start(3, 4, "mdns", 0);
    host.sees(4);
    container.sees(4);
    assert!(!container.last().contains(&spelled(1)), "{}", container.last());
    drop(late);
}

/// A DNS answer with one record of `_pillion._tcp.local.`: a PTR to an instance of that name.
fn pointer(instance: &str) -> Vec<u8> {
    let name = |text: &str| -> Vec<u8> {
        let mut bytes = Vec::new();
        for label in text.split('.').filter(|label| !label.is_empty()) {
            bytes.push(u8::try_from(label.len()).expect("a label"));
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.push(0);
        bytes
    };
    let service = name("_pillion._tcp.local.");
    let target = name(&format!("{instance}._pillion._tcp.local."));
    let length = u16::try_from(target.len()).expect("short").to_be_bytes();
    let mut packet = vec![0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    packet.extend_from_slice(&service);
    packet.extend_from_slice(&[0, 12, 0, 1, 0, 0, 0x11, 0x94]);
    packet.extend_from_slice(&length);
    packet.extend_from_slice(&target);
    packet
}

#[test]
fn a_strangers_answers_hide_nobody_and_are_nobody() {
    let lan = lan!(3);
    (1..=3).for_each(|n| lan.up(n));
    let mut a = lan.start(1, 1, "mdns", 0);
    let b = lan.start(2, 2, "mdns", 0);
    a.sees(2);
    lan.inside(3, || {
        let socket = UdpSocket::bind("10.77.0.3:0").expect("a socket");
        let group = SocketAddr::from(([224, 0, 0, 251], 5353));
        let mut circular = pointer("x");
        circular.extend_from_slice(&[0xc0, 12]);
        for n in 0..2000_u32 {
            for packet in
                [&n.to_be_bytes()[..], &[0xff; 512], &circular, &pointer(&format!("s{n}"))]
            {
                // The buffer of the link may be full.
                let _ = socket.send_to(packet, group);
            }
        }
    });
    let mut late = lan.start(3, 3, "mdns", 0);
    let seen = a.sees(3).to_owned();
    assert!(seen.starts_with("Well") && seen.contains(&spelled(2)), "{seen}");
    assert_eq!(seen.matches(';').count(), 2, "nobody else: {seen}");
    late.sees(1);
    late.sees(2);
    drop(b);
}

#[test]
fn fifty_nodes_on_one_segment_all_see_each_other() {
    const NODES: u8 = 50;
    let lan = lan!(NODES);
    (1..=NODES).for_each(|n| lan.up(n));
    let started = Instant::now();
    let mut nodes: Vec<Helper> = (1..=NODES).map(|n| lan.start(n, n.into(), "mdns", 0)).collect();
    let all_but = |own: u8| {
        move |report: &str| (1..=NODES).all(|n| n == own || report.contains(&spelled(n.into())))
    };
    for (node, own) in nodes.iter_mut().zip(1..) {
        node.until("everybody", all_but(own));
    }
    println!("{NODES} nodes saw each other {:?} after the first was started", started.elapsed());
}

/// A bus and an Avahi of its own on machine `n`, until it is dropped.
struct Avahi<'a> {
    lan: &'a lan::Lan,
    n: u8,
    dir: std::path::PathBuf,
    processes: Vec<Child>,
}

impl<'a> Avahi<'a> {
    fn start(lan: &'a lan::Lan, n: u8) -> Result<Self, String> {
        for tool in ["dbus-daemon", "avahi-daemon", "avahi-browse", "avahi-publish"] {
            let asked = Command::new(tool).arg("--version").output();
            asked.map_err(|error| format!("no {tool}: {error}"))?;
        }
        let dir = std::env::temp_dir().join(format!("pillion-avahi-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
        let mut avahi = Self { lan, n, dir, processes: Vec::new() };
        let bus = avahi.dir.join("bus");
        let conf = format!(
            "<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\"><allow user=\"*\"/><allow own=\"*\"/><allow send_destination=\"*\" eavesdrop=\"true\"/>\
             <allow eavesdrop=\"true\"/></policy></busconfig>",
            bus.display()
        );
        let bus_conf = avahi.dir.join("bus.conf");
        std::fs::write(&bus_conf, conf).expect("a file");
        let mut daemon = avahi.command("dbus-daemon");
        daemon.arg(format!("--config-file={}", bus_conf.display())).arg("--nofork");
        avahi.run(daemon);
        avahi.eventually("the bus", || bus.exists())?;
        let conf = "[server]\nhost-name=avahi-of-the-test\nuse-ipv4=yes\nuse-ipv6=yes\nallow-interfaces=net0\n[wide-area]\nenable-wide-area=no\n";
        let avahi_conf = avahi.dir.join("avahi.conf");
        std::fs::write(&avahi_conf, conf).expect("a file");
        // `ip netns exec` gives the command mounts of its own, so this hides nothing from anybody.
        let mut daemon = avahi.command("sh");
        daemon.arg("-c").arg(format!(
            "mkdir -p /run/avahi-daemon && mount -t tmpfs none /run/avahi-daemon && exec avahi-daemon --no-drop-root --no-chroot --no-rlimits -f {}",
            avahi_conf.display()
        ));
        avahi.run(daemon);
        let asks = || {
            avahi
                .command("avahi-browse")
                .args(["-t", "_nobody._tcp"])
                .output()
                .is_ok_and(|done| done.status.success())
        };
        avahi.eventually("avahi-daemon", asks)?;
        Ok(avahi)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.lan.command(self.n, program);
        let bus = format!("unix:path={}", self.dir.join("bus").display());
        command.env("DBUS_SYSTEM_BUS_ADDRESS", bus).stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn run(&mut self, mut command: Command) {
        self.processes.push(command.stdout(Stdio::null()).spawn().expect("it is started"));
    }

    fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) -> Result<(), String> {
        let by = Instant::now() + Duration::from_secs(20);
        while !holds() {
            if Instant::now() > by {
                return Err(format!("{what} does not come up here"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What `avahi-browse` finds, resolved, a line for each.
    fn browse(&self) -> String {
        let done = self.command("avahi-browse").args(["-rpt", "_pillion._tcp"]).output();
        String::from_utf8_lossy(&done.expect("avahi-browse").stdout).into_owned()
    }
}

impl Drop for Avahi<'_> {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn the_systems_own_tools_see_us_and_what_they_publish_is_seen() {
    let lan = lan!(2);
    lan.up(1);
    lan.up(2);
    let mut avahi = match Avahi::start(&lan, 2) {
        Ok(avahi) => avahi,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    let mut a = lan.start(1, 1, "mdns", 0);
    a.is_well();
    let mut found = String::new();
    avahi
        .eventually("our announcement in avahi-browse", || {
            found = avahi.browse();
            found.lines().any(|line| line.starts_with("=;net0;IPv4;node-1-"))
        })
        .unwrap_or_else(|why| panic!("{why}: {found}"));
    let ours = found.lines().find(|line| line.starts_with("=;net0;IPv4;node-1-")).expect("it");
    for word in ["10.77.0.1;40001;", "\"mesh=conformance\"", "\"node=node-1@hal\"", "\"proto=1\""] {
        assert!(ours.contains(word), "{word} is not in {ours}");
    }

    let mut nobody = avahi.command("avahi-publish");
    nobody.args(["-s", "a printer", "_pillion._tcp", "9100", "paper=a4"]);
    avahi.run(nobody);
    let mut friend = avahi.command("avahi-publish");
    friend.args(["-s", "a friend", "_pillion._tcp", "4999", "mesh=conformance"]);
    friend.args(["inc=00000000000000aa", "node=friend@avahi", "proto=1"]);
    avahi.run(friend);
    let seen = a.until("what avahi-publish said", |report| {
        report.contains("friend@avahi 00000000000000aa") && report.contains("10.77.0.2:4999")
    });
    assert!(!seen.contains(":9100"), "{seen}");
    let friend = avahi.processes.last_mut().expect("the friend");
    rustix::process::kill_process(
        rustix::process::Pid::from_child(friend),
        rustix::process::Signal::TERM,
    )
    .expect("it runs");
    a.until("its goodbye", |report| !report.contains("friend@avahi"));

    a.stop();
    avahi
        .eventually("our goodbye in avahi-browse", || !avahi.browse().contains("node-1-"))
        .unwrap_or_else(|why| panic!("{why}"));
}
