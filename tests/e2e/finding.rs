//! Whole nodes that find each other by gossip, by mDNS and by a program, on one machine and on several.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Instant;

use rustix::process::Signal;

use crate::http_client::Http;
use crate::lan::Lan;
use crate::support::{Daemon, Place, Value, eventually, json};
use crate::trust::{Authority, Files, has_read_again, put};

/// A strategy for the nodes of one test, on the loopback interface. None where that carries no multicast.
fn gossip_on_loopback() -> Option<String> {
    let group = [233, 252, 1, 32].into();
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    let port = socket.local_addr().ok()?.port();
    socket.join_multicast_v4(&group, &[127, 0, 0, 1].into()).ok()?;
    socket.set_read_timeout(Some(std::time::Duration::from_secs(1))).ok()?;
    UdpSocket::bind("127.0.0.1:0").ok()?.send_to(b"anybody?", (group, port)).ok()?;
    socket.recv(&mut [0; 16]).ok()?;
    Some(format!("gossip://?interface=lo&port={port}"))
}

macro_rules! gossip {
    () => {
        match gossip_on_loopback() {
            Some(url) => url,
            None => return println!("SKIPPED: no multicast on the loopback interface"),
        }
    };
}

#[test]
fn nodes_of_one_cookie_find_each_other_by_gossip_and_others_do_not_even_hear_of_them() {
    let url = gossip!();
    let place = Place::new();
    let strategy = ["--strategy", url.as_str()];
    let other = place.path().join("other.cookie");
    put(&other, &"55".repeat(32));
    let stranger =
        place.start("s", &[&strategy[..], &["--cookie-file", other.to_str().unwrap()]].concat());
    let a = place.start("a", &strategy);
    let b = place.start("b", &strategy);
    a.json().meets(&[&b]);
    b.json().meets(&[&a]);
    let known = stranger.json().ok(json!({"op": "nodes", "state": "known"}));
    assert_eq!(known["nodes"], json!([]), "not even a name");
    let known = a.json().ok(json!({"op": "nodes", "state": "known"}));
    assert_eq!(known["nodes"], json!([]));
}

#[test]
fn what_gossip_ignores_is_told_in_every_dialect_and_by_doctor() {
    let url = gossip!();
    let port: u16 = url.rsplit_once('=').unwrap().1.parse().unwrap();
    let place = Place::new();
    let other = place.path().join("other.cookie");
    put(&other, &"55".repeat(32));
    let a = place.start("a", &["--strategy", &url]);
    let _s = place.start("s", &["--strategy", &url, "--cookie-file", other.to_str().unwrap()]);
    let mut app = a.json();
    let ignored = |diagnosis: &Value, why: &str| {
        let all = diagnosis["strategies"][0]["ignored"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|ignored| ignored["why"] == why)
    };
    eventually("what the stranger says is counted", || {
        ignored(&app.ok(json!({"op": "doctor"}))["diagnosis"], "foreign").is_some()
    });
    let noise = UdpSocket::bind("127.0.0.1:0").unwrap();
    noise.send_to(b"anybody?", SocketAddr::from(([233, 252, 1, 32], port))).unwrap();
    eventually("what makes no sense is counted", || {
        ignored(&app.ok(json!({"op": "doctor"}))["diagnosis"], "malformed").is_some()
    });
    let told = [
        app.ok(json!({"op": "doctor"}))["diagnosis"].take(),
        a.cbor().ok(json!({"op": "doctor"}))["diagnosis"].take(),
        Http::of(&a).get("/v1/doctor").json()["diagnosis"].take(),
    ];
    for diagnosis in &told {
        for why in ["foreign", "malformed"] {
            let ignored = ignored(diagnosis, why).unwrap();
            assert!(ignored["count"].as_u64() >= Some(1), "{ignored}");
            assert_eq!(ignored["from"], "127.0.0.1", "{ignored}");
            assert!(ignored["ago_ms"].is_u64(), "{ignored}");
        }
    }
    let doctor = Command::new(env!("CARGO_BIN_EXE_pillion"))
        .args(["doctor", "--socket", a.socket.to_str().unwrap()])
        .env_clear()
        .env("HOME", place.path().join("h"))
        .output()
        .unwrap();
    let said = String::from_utf8(doctor.stdout).unwrap();
    for words in ["a secret that this node has not", "that make no sense", "from 127.0.0.1"] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn gossip_goes_on_with_the_next_cookie_and_leaves_the_old_one_behind() {
    let url = gossip!();
    let place = Place::new();
    let (old, new) = ("33".repeat(32), "44".repeat(32));
    let files = ["a", "b", "old", "new"].map(|base| place.path().join(format!("{base}.cookie")));
    for (file, text) in files.iter().zip([&old, &old, &old, &new]) {
        put(file, text);
    }
    let start = |base: &str, file: usize| {
        let cookie = files[file].to_str().unwrap();
        place.start(base, &["--strategy", &url, "--cookie-file", cookie])
    };
    let (a, b) = (start("a", 0), start("b", 1));
    let mut app = a.json();
    app.meets(&[&b]);
    app.ok(json!({"op": "monitor_nodes", "on": true}));
    let steps = [format!("{old}\n{new}\n"), format!("{new}\n{old}\n"), format!("{new}\n")];
    for (step, text) in steps.iter().enumerate() {
        for (node, file) in [&a, &b].into_iter().zip(&files) {
            put(file, text);
            has_read_again(node, step + 1);
        }
    }
    let late = start("old", 2);
    let fresh = start("new", 3);
    fresh.json().meets(&[&a, &b]);
    assert_eq!(app.event_of("nodeup")["node"], fresh.node);
    assert!(late.json().connected().is_empty());
    assert!(app.pending().iter().all(|event| event["ev"] != "nodedown"));
}

#[test]
fn with_certificates_gossip_asks_for_a_secret_and_works_with_one() {
    let url = gossip!();
    let place = Place::new();
    let authority = Authority::new("ours");
    let secret = place.path().join("secret");
    put(&secret, &"66".repeat(32));
    let args = |files: &Files, url: &str| {
        let flags = files.flags();
        ["--strategy".to_owned(), url.to_owned()].into_iter().chain(flags).collect::<Vec<_>>()
    };
    let of = |files: &Files, url: &str, base: &str| {
        let args = args(files, url);
        place.start(base, &args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let files = ["fa", "fb"].map(|name| Files::new(&place, name, &authority));
    let refused = args(&files[0], &url);
    let (status, said) =
        place.refused("x", &refused.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(!status.success() && said.contains("secret-file="), "{said}");
    let url = format!("{url}&secret-file={}", secret.display());
    let (a, b) = (of(&files[0], &url, "a"), of(&files[1], &url, "b"));
    a.json().meets(&[&b]);
    b.json().meets(&[&a]);
}

#[test]
fn a_program_joins_nodes_and_ends_with_its_own() {
    let place = Place::new();
    let a = place.start("a", &["--strategy", "none"]);
    let (program, pids) = (place.path().join("find"), place.path().join("pids"));
    let text = format!(
        "#!/bin/sh\nsleep 1000 & echo $! > {0}\necho $$ >> {0}\necho '[{{\"address\": \"{1}\"}}]'\nwait\n",
        pids.display(),
        a.address()
    );
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut b = place.start("b", &["--strategy", &format!("exec://{}", program.display())]);
    b.json().meets(&[&a]);
    let started: Vec<String> =
        fs::read_to_string(&pids).unwrap().lines().map(str::to_owned).collect();
    let runs = |pid: &String| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ")
            .next()
            .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
    };
    assert!(started.len() == 2 && started.iter().all(runs));
    b.signal(Signal::TERM);
    assert!(b.ended().success());
    eventually("the program has ended with its node", || !started.iter().any(runs));
}

/// Starts a node of `place` on machine `n`.
fn on(lan: &Lan, n: u8, place: &Place, base: &str, strategy: &str) -> Daemon {
    let args = ["--strategy", strategy, "--listen", ":4470"];
    let plain = place.command(base, &args);
    let mut command: Command = lan.command(n, plain.get_program());
    command.args(plain.get_args()).current_dir(place.path());
    for (name, value) in plain.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    place.run(base, &args, command)
}

#[test]
fn nodes_of_several_machines_meet_lose_each_other_and_meet_again() {
    for strategy in ["mdns", "gossip"] {
        let lan = match Lan::new(3) {
            Ok(lan) => lan,
            Err(why) => return println!("SKIPPED: {why}"),
        };
        (1..=2).for_each(|n| lan.up(n));
        let place = Place::new();
        let a = on(&lan, 1, &place, "a", strategy);
        let b = on(&lan, 2, &place, "b", strategy);
        let began = Instant::now();
        // A machine without a network, for now.
        let c = on(&lan, 3, &place, "c", strategy);
        let mut app = a.json();
        app.meets(&[&b]);
        lan.up(3);
        app.meets(&[&c]);
        c.json().meets(&[&a, &b]);
        println!("{strategy}: three machines met within {:?}", began.elapsed());
        app.ok(json!({"op": "monitor_nodes", "on": true}));
        lan.link(2, "down");
        assert_eq!(app.event_of("nodedown")["node"], b.node);
        lan.up(2);
        assert_eq!(app.event_of("nodeup")["node"], b.node);
        b.json().meets(&[&a, &c]);
        assert!(app.pending().iter().all(|event| event["node"] != c.node), "c was not disturbed");
    }
}
