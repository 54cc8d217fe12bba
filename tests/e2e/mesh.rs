//! How nodes find each other, whom they refuse, and how soon an end is noticed.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rustix::process::Signal;

use crate::support::{App, DIALECTS, Daemon, PATIENCE, Place, Value, eventually, json};

/// What a node says of those it knows and is not connected to.
fn known(app: &mut App) -> Vec<Value> {
    let mut answer = app.ok(json!({"op": "nodes", "state": "known"}));
    match answer["nodes"].take() {
        Value::Array(nodes) => nodes,
        other => panic!("{other}"),
    }
}

/// Waits until a node that is not connected is shown with a reason that has these words.
pub(crate) fn refusal(app: &mut App, words: &[&str]) -> String {
    let mut reason = String::new();
    eventually("the reason is shown", || {
        let nodes = known(app);
        let reasons = nodes.iter().filter_map(|node| node["reason"].as_str());
        reasons.into_iter().any(|text| {
            text.clone_into(&mut reason);
            words.iter().any(|word| text.to_lowercase().contains(word))
        })
    });
    reason
}

#[test]
fn nodes_of_one_machine_find_each_other_with_nothing_configured() {
    let place = Place::new();
    let nodes = ["a", "b", "c"].map(|base| place.start(base, &[]));
    for (at, node) in nodes.iter().enumerate() {
        let others: Vec<&Daemon> =
            nodes.iter().enumerate().filter(|(n, _)| *n != at).map(|(_, node)| node).collect();
        for dialect in DIALECTS {
            let mut app = node.app(dialect);
            app.meets(&others);
            let mut names: Vec<String> = others.iter().map(|node| node.node.clone()).collect();
            names.sort();
            assert_eq!(app.connected(), names);
        }
    }
}

#[test]
fn a_list_of_addresses_joins_nodes_and_tolerates_the_node_itself_and_the_dead() {
    let place = Place::new();
    let none = ["--strategy", "none"];
    let a = place.start("a", &none);
    let b = place.start("b", &none);
    let (first, second) = (a.address(), b.address());
    let c = place.start(
        "c",
        &["--strategy", "none", "--join", &first, "--join", &second, "--join", "127.0.0.1:1"],
    );
    c.json().meets(&[&a, &b]);
    a.json().meets(&[&b, &c]);
    b.cbor().meets(&[&a, &c]);
}

/// An address that can be told before anybody listens there. Its port is none that a system gives to those who ask for
/// any, so that nobody takes it meanwhile.
fn free_address() -> String {
    let first = 12_000 + u16::try_from(std::process::id() % 8_000).unwrap();
    let mut addresses =
        (first..20_000).chain(12_000..first).map(|port| format!("127.0.0.1:{port}"));
    addresses.find(|address| std::net::TcpListener::bind(address).is_ok()).unwrap()
}

#[test]
fn a_node_that_finds_itself_does_not_mind() {
    let place = Place::new();
    let own = free_address();
    let a = place.start("a", &["--strategy", "none", "--listen", &own, "--join", &own]);
    let b = place.start("b", &["--strategy", "none", "--join", &own]);
    let mut app = a.json();
    app.meets(&[&b]);
    assert_eq!(app.ok(json!({"op": "connect", "to": own}))["result"], true);
    assert_eq!(app.ok(json!({"op": "ping", "node": "a@t"}))["result"], "pong");
    assert_eq!(app.connected(), ["b@t"]);
    assert!(!a.logged().contains("WARN"), "{}", a.logged());
}

#[test]
fn a_knows_b_and_b_knows_c_makes_a_know_c() {
    let place = Place::new();
    let a = place.start("a", &["--strategy", "none"]);
    let b = place.start("b", &["--strategy", "none", "--join", &a.address()]);
    let c = place.start("c", &["--strategy", "none", "--join", &b.address()]);
    a.json().meets(&[&b, &c]);
    c.json().meets(&[&a, &b]);
}

#[test]
fn a_hidden_node_meets_those_it_was_told_of_and_nobody_else() {
    let place = Place::new();
    let a = place.start("a", &["--strategy", "none"]);
    let b = place.start("b", &["--strategy", "none", "--join", &a.address()]);
    b.json().meets(&[&a]);
    let hidden = place.start("h", &["--strategy", "none", "--hidden", "--join", &a.address()]);
    let mut app = a.json();
    app.meets(&[&hidden]);
    hidden.json().meets(&[&a]);
    let visible = app.ok(json!({"op": "nodes", "state": "visible"}));
    assert_eq!(visible["nodes"].as_array().unwrap().len(), 1);
    let listed = app.ok(json!({"op": "nodes", "state": "hidden"}));
    assert_eq!(listed["nodes"][0]["node"], "h@t");
    // Whoever comes later is told of a and b by a, and not of the hidden one.
    let late = place.start("late", &["--strategy", "none", "--join", &a.address()]);
    let mut newcomer = late.json();
    newcomer.meets(&[&a, &b]);
    assert_eq!(newcomer.connected(), ["a@t", "b@t"]);
    assert_eq!(hidden.json().connected(), ["a@t"]);
}

#[test]
fn a_node_of_another_secret_is_refused_in_words() {
    let (here, there) = (Place::new(), Place::new());
    let a = here.start("a", &["--strategy", "none"]);
    let b = there.start("b", &["--strategy", "none", "--join", &a.address()]);
    let reason = refusal(&mut b.json(), &["cookie", "secret", "trust"]);
    assert!(!reason.contains("Error("), "no debris: {reason}");
    assert_eq!(a.json().connected(), Vec::<String>::new());
    assert_eq!(b.json().connected(), Vec::<String>::new());
}

#[test]
fn nodes_of_two_meshes_never_join() {
    let place = Place::new();
    let a = place.start("a", &[]);
    let join = a.address();
    let b = place.start("b", &["--mesh", "other", "--join", &join]);
    let c = place.start("c", &["--mesh", "other"]);
    b.json().meets(&[&c]);
    let reason = refusal(&mut b.json(), &["mesh"]);
    assert!(!reason.is_empty());
    assert_eq!(b.json().connected(), ["c@t"]);
    assert_eq!(a.json().connected(), Vec::<String>::new());
}

#[test]
fn a_cookie_that_is_too_short_is_refused_with_the_command_that_makes_one() {
    let place = Place::new();
    let path = place.path().join("cookie");
    fs::write(&path, "secret\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let (status, said) = place.refused("a", &["--cookie-file", path.to_str().unwrap()]);
    assert!(!status.success());
    assert!(said.contains("short") || said.contains("bytes") || said.contains("bits"), "{said}");
}

#[test]
fn a_second_node_of_one_name_is_told_why_it_may_not_join() {
    let place = Place::new();
    let second = Place::new();
    let a = place.start("twin", &["--strategy", "none"]);
    let hub = place.start("hub", &["--strategy", "none", "--join", &a.address()]);
    let mut app = hub.json();
    app.meets(&[&a]);
    let first = app.ok(json!({"op": "nodes", "state": "connected"}))["nodes"][0].take();
    // The same secret, another directory: as on another machine.
    let cookie = place.path().join("h/.config/pillion/cookie");
    let join = hub.address();
    let twin = second.start(
        "twin",
        &["--strategy", "none", "--join", &join, "--cookie-file", cookie.to_str().unwrap()],
    );
    let reason = refusal(&mut twin.json(), &["name"]);
    assert!(reason.contains("twin@t"), "which name: {reason}");
    assert_eq!(app.connected(), ["twin@t"]);
    let still = app.ok(json!({"op": "nodes", "state": "connected"}))["nodes"][0].take();
    assert_eq!(still["incarnation"], first["incarnation"]);
    assert_eq!(a.json().connected(), ["hub@t"]);
}

#[test]
fn the_older_of_two_nodes_of_one_name_takes_the_place_of_the_younger() {
    let (place, second) = (Place::new(), Place::new());
    let older = place.start("twin", &["--strategy", "none"]);
    let hub = place.start("hub", &["--strategy", "none"]);
    let cookie = place.path().join("h/.config/pillion/cookie");
    let join = hub.address();
    let younger = second.start(
        "twin",
        &["--strategy", "none", "--join", &join, "--cookie-file", cookie.to_str().unwrap()],
    );
    let mut app = hub.json();
    app.meets(&[&younger]);
    app.ok(json!({"op": "monitor_nodes", "on": true}));
    let mut old = older.json();
    let own = old.ok(json!({"op": "nodes", "state": "self"}))["nodes"][0].take();
    old.ok(json!({"op": "connect", "to": join}));
    let (down, up) = (app.event(), app.event());
    assert_eq!((&down["ev"], &up["ev"]), (&json!("nodedown"), &json!("nodeup")));
    assert_ne!(down["incarnation"], up["incarnation"]);
    assert_eq!(up["incarnation"], own["incarnation"]);
    assert!(refusal(&mut younger.json(), &["name"]).contains("twin@t"));
}

#[test]
fn a_node_that_is_told_to_stop_says_goodbye_and_is_down_at_once() {
    let place = Place::new();
    let (a, mut b) = (place.start("a", &["--profile", "wan"]), place.start("b", &[]));
    let c = place.start("c", &[]);
    let mut app = a.json();
    app.meets(&[&b, &c]);
    app.ok(json!({"op": "monitor_nodes", "on": true}));
    app.ok(json!({"op": "monitor_node", "node": "b@t"}));
    let mut there = b.json();
    b.signal(Signal::TERM);
    assert_eq!(there.event()["ev"], "draining");
    there.ok(json!({"op": "bye"}));
    for _ in 0..2 {
        let down = app.event();
        assert_eq!((&down["ev"], &down["node"]), (&json!("nodedown"), &json!("b@t")));
        assert_eq!(down["reason"], "shutdown");
    }
    assert!(b.ended().success());
    assert_eq!(app.connected(), ["c@t"]);
    app.nothing();
    // A node that has said goodbye is not reported for ever.
    eventually("nobody speaks of it any more", || known(&mut app).is_empty());
}

#[test]
fn a_node_that_is_killed_is_down_and_up_again_when_it_is_started_again() {
    let place = Place::new();
    let a = place.start("a", &["--profile", "wan"]);
    let mut b = place.start("b", &[]);
    for dialect in DIALECTS {
        let mut app = a.app(dialect);
        app.meets(&[&b]);
        app.ok(json!({"op": "monitor_nodes", "on": true}));
        b = b.again(&[]);
        let down = app.event();
        assert_eq!((&down["ev"], &down["node"]), (&json!("nodedown"), &json!("b@t")));
        // Of the end of its connection: nobody waited until it had been silent for 15 s.
        assert_eq!(down["reason"], "connection lost");
        let up = app.event();
        assert_eq!((&up["ev"], &up["node"]), (&json!("nodeup"), &json!("b@t")));
        assert_ne!(up["incarnation"], down["incarnation"]);
    }
}

#[test]
fn a_node_whose_terminal_is_closed_says_goodbye_and_leaves_no_socket() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    if ignored.is_some_and(|mask| mask & 1 == 1) {
        eprintln!(
            "SKIPPED: these tests run under nohup, whose children take no notice of a hangup"
        );
        return;
    }
    let place = Place::new();
    let (a, mut b) = (place.start("a", &[]), place.start("b", &[]));
    let mut app = a.json();
    app.meets(&[&b]);
    app.ok(json!({"op": "monitor_nodes", "on": true}));
    b.signal(Signal::HUP);
    let down = app.event();
    assert_eq!((&down["ev"], &down["reason"]), (&json!("nodedown"), &json!("shutdown")));
    assert!(b.ended().success());
    assert!(!b.socket.exists());
}

#[test]
fn a_node_that_is_stopped_is_found_silent_and_joins_again_when_it_goes_on() {
    let place = Place::new();
    let args = ["--profile", "local"];
    let (a, b) = (place.start("a", &args), place.start("b", &args));
    let mut app = a.cbor();
    app.meets(&[&b]);
    app.ok(json!({"op": "monitor_nodes", "on": true}));
    b.signal(Signal::STOP);
    let since = Instant::now();
    let down = app.event();
    assert_eq!((&down["ev"], &down["node"]), (&json!("nodedown"), &json!("b@t")));
    assert!(down["reason"].as_str().unwrap().contains("silent"), "{down}");
    assert!(since.elapsed() < PATIENCE / 2);
    b.signal(Signal::CONT);
    assert_eq!(app.event()["ev"], "nodeup");
    b.json().meets(&[&a]);
}

#[test]
fn a_second_signal_ends_a_node_at_once() {
    let place = Place::new();
    let mut a = place.start("a", &["--strategy", "none", "--grace", "1h"]);
    let mut app = a.json();
    a.signal(Signal::TERM);
    assert_eq!(app.event()["ev"], "draining");
    // It waits for the app, which goes on being served.
    assert_eq!(app.ok(json!({"op": "ping", "node": "a@t"}))["result"], "pong");
    assert!(a.lives());
    a.signal(Signal::TERM);
    a.ended();
}

#[test]
fn a_disconnected_node_is_down_and_can_be_connected_again() {
    let place = Place::new();
    let a = place.start("a", &["--strategy", "none"]);
    let b = place.start("b", &["--strategy", "none"]);
    let mut app = a.json();
    let mut there = b.cbor();
    assert_eq!(app.ok(json!({"op": "connect", "to": b.address()}))["result"], true);
    there.meets(&[&a]);
    app.ok(json!({"op": "monitor_nodes", "on": true}));
    there.ok(json!({"op": "monitor_nodes", "on": true}));
    assert_eq!(app.ok(json!({"op": "disconnect", "node": "b@t"}))["result"], true);
    for side in [&mut app, &mut there] {
        let down = side.event();
        assert_eq!((&down["ev"], &down["reason"]), (&json!("nodedown"), &json!("disconnect")));
    }
    assert_eq!(app.connected(), Vec::<String>::new());
    assert_eq!(app.ok(json!({"op": "disconnect", "node": "b@t"}))["result"], false);
    assert_eq!(app.ok(json!({"op": "connect", "to": b.address()}))["result"], true);
    assert_eq!(app.event()["ev"], "nodeup");
    assert_eq!(there.event()["ev"], "nodeup");
}

#[test]
fn nodeup_says_the_labels_and_the_list_agrees_with_the_events() {
    let place = Place::new();
    let a = place.start("a", &[]);
    let mut app = a.json();
    app.ok(json!({"op": "monitor_nodes", "on": true}));
    let mut b = place.start("b", &["--role", "db", "--label", "zone=x"]);
    let up = app.event();
    assert_eq!((&up["ev"], &up["node"]), (&json!("nodeup"), &json!("b@t")));
    assert_eq!(up["labels"], json!({"role": "db", "zone": "x"}));
    let nodes = app.ok(json!({"op": "nodes"}))["nodes"].take();
    let listed = nodes.as_array().unwrap().iter().find(|node| node["node"] == "b@t").unwrap();
    assert_eq!(listed["labels"], up["labels"]);
    assert_eq!(listed["incarnation"], up["incarnation"]);
    assert_eq!(listed["state"], "connected");
    b.kill();
    assert_eq!(app.event()["ev"], "nodedown");
    assert_eq!(app.connected(), Vec::<String>::new());
}

#[test]
fn nodes_without_a_name_get_one_each() {
    let place = Place::new();
    // The directory's name would be taken twice: the second gets a number.
    let name = place.path().file_name().unwrap().to_str().unwrap().to_owned();
    let socket = |n: &str| place.path().join(n).to_str().unwrap().to_owned();
    let mut nodes = Vec::new();
    for n in ["one.sock", "two.sock"] {
        nodes.push(place.start_unnamed(n, &["--socket", &socket(n)]));
    }
    let names: Vec<String> = nodes
        .iter()
        .map(|node| {
            let nodes = node.json().ok(json!({"op": "nodes", "state": "self"}));
            let full = nodes["nodes"][0]["node"].as_str().unwrap();
            full.split('@').next().unwrap().to_owned()
        })
        .collect();
    assert_eq!(names, [name.clone(), format!("{name}-2")]);
    let mut app = nodes[0].json();
    eventually("they are connected", || app.connected().len() == 1);
}

#[test]
fn a_wrong_configuration_names_everything_that_is_wrong_and_exits() {
    let place = Place::new();
    let (status, said) =
        place.refused("a", &["--profile", "lam", "--grace", "soon", "--strategy", "mnds://"]);
    assert!(!status.success());
    for word in ["lam", "lan", "soon", "mnds", "mdns"] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn a_port_that_is_taken_is_told_with_what_to_do() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (status, said) = place.refused("a", &["--listen", &address]);
    assert!(!status.success());
    assert!(said.contains(&address) && said.contains("--listen"), "{said}");
}

#[test]
fn three_nodes_started_at_once_agree_on_one_cookie() {
    let place = Place::new();
    let mut children: Vec<_> = ["a", "b", "c"]
        .map(|base| place.command(base, &[]).stderr(std::process::Stdio::null()).spawn().unwrap())
        .into();
    let sockets = ["a", "b", "c"].map(|base| place.path().join(format!("p/default/{base}.sock")));
    let met = std::panic::catch_unwind(|| {
        for socket in &sockets {
            eventually("it answers", || std::os::unix::net::UnixStream::connect(socket).is_ok());
            let mut app = App::connect(socket, crate::support::Dialect::Json);
            eventually("it has met both others", || app.connected().len() == 2);
        }
    });
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    met.unwrap();
}

#[test]
fn strangers_at_the_mesh_port_are_closed_and_take_nothing() {
    let place = Place::new();
    let (mut a, b) = (place.start("a", &[]), place.start("b", &[]));
    let address = a.address();
    a.json().meets(&[&b]);
    let before = a.resident();
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0; 4096],
        &vec![0xff; 70_000],
        b"\x16\x03\x01\xff\xff\x01",
    ] {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer);
        assert!(!text.contains("a@t") && answer.len() < 1024, "{text}");
    }
    assert!(a.lives());
    if let (Some(before), Some(after)) = (before, a.resident()) {
        assert!(after < before + (8 << 20), "{before} bytes became {after}");
    }
    assert_eq!(a.json().connected(), ["b@t"]);
}

#[test]
fn two_hundred_strangers_that_stay_do_not_keep_a_peer_out_and_cost_little() {
    const STRANGERS: usize = 200;
    let place = Place::new();
    let mut a = place.start("a", &["--strategy", "none"]);
    let address = a.address();
    let before = a.resident();
    let held = Arc::new(AtomicUsize::new(0));
    // A ClientHello of 64 KiB that never ends: records of a handshake, all but the end of it.
    let mut endless = Vec::new();
    for piece in 0..4 {
        endless.extend_from_slice(&[0x16, 3, 1, 0x3f, 0xc0]);
        let begin = endless.len();
        endless.extend_from_slice(if piece == 0 { &[1, 0, 0xff, 0xf0] } else { &[0; 4] });
        endless.resize(begin + 0x3fc0, 0);
    }
    for stranger in 0..STRANGERS {
        let (address, held) = (address.clone(), Arc::clone(&held));
        let words = if stranger % 2 == 0 { Vec::new() } else { endless.clone() };
        // Each comes back whenever it is closed, until the node is gone.
        std::thread::spawn(move || {
            while let Ok(mut stream) = TcpStream::connect(&address) {
                held.fetch_add(1, Ordering::Relaxed);
                let _ = stream.write_all(&words);
                let _ = stream.read(&mut [0]);
            }
        });
    }
    eventually("all of them are there", || held.load(Ordering::Relaxed) >= STRANGERS);
    // More than once: the node is a member among them each time.
    for name in ["b", "c", "d"] {
        let since = Instant::now();
        let node = place.start(name, &["--strategy", "none", "--join", &address]);
        node.json().meets(&[&a]);
        let took = since.elapsed();
        println!("{name} joined in {took:?}");
        assert!(took < PATIENCE / 3, "{name} joined in {took:?}");
    }
    if let Ok(files) = fs::read_dir(format!("/proc/{}/fd", a.pid())) {
        let open = files.count();
        assert!(open < 128, "{open} files are open");
    }
    if let (Some(before), Some(after)) = (before, a.resident()) {
        println!("{before} bytes became {after}");
        assert!(after < before + (12 << 20), "{before} bytes became {after}");
    }
    assert!(a.lives());
}

#[test]
fn an_app_that_is_no_operator_makes_no_connection_by_a_ping() {
    let place = Place::new();
    let a = place.start("a", &["--strategy", "none", "--socket-mode", "0666"]);
    let b = place.start("b", &["--strategy", "none"]);
    for dialect in DIALECTS {
        let mut operator = App::connect(&a.socket.with_extension("operator.sock"), dialect);
        let mut app = a.app(dialect);
        let ping = || json!({"op": "ping", "node": "b@t"});
        assert_eq!(operator.ok(json!({"op": "connect", "to": b.address()}))["result"], true);
        assert_eq!(app.ok(ping())["result"], "pong");
        assert_eq!(operator.ok(json!({"op": "disconnect", "node": "b@t"}))["result"], true);
        assert_eq!(app.ok(ping())["result"], "pang");
        assert_eq!(app.connected(), Vec::<String>::new());
        assert_eq!(operator.ok(ping())["result"], "pong");
        assert_eq!(app.ok(ping())["result"], "pong");
    }
}

#[test]
fn what_a_node_advertises_is_told_to_its_peers_and_to_theirs() {
    let place = Place::new();
    let given = ["--advertise", "203.0.113.7:9", "--advertise", "2001:db8::7"];
    let a = place.start("a", &[&["--strategy", "none"][..], &given].concat());
    let port = a.address().rsplit(':').next().unwrap().to_owned();
    let b = place.start("b", &["--strategy", "none", "--join", &a.address()]);
    let c = place.start("c", &["--strategy", "none", "--join", &b.address()]);
    for (node, state) in [(&a, "self"), (&b, "connected"), (&c, "connected")] {
        let mut app = node.json();
        if node.node != a.node {
            app.meets(&[&a]);
        }
        let nodes = app.ok(json!({"op": "nodes", "state": state}))["nodes"].take();
        let listed = nodes.as_array().unwrap().iter().find(|node| node["node"] == "a@t").unwrap();
        let addresses: Vec<&str> =
            listed["addresses"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
        // Without a port it is the one it listens on.
        for told in ["203.0.113.7:9", &format!("[2001:db8::7]:{port}"), &a.address()] {
            assert!(addresses.contains(&told), "{}: {told} of {addresses:?}", node.node);
        }
    }
}

#[test]
fn a_shell_of_a_running_node_is_told_why_no_second_one_starts_there() {
    let place = Place::new();
    let mut a = place.start("a", &["--strategy", "none"]);
    let run = || {
        let mut command = place.command("b", &[]);
        let program = command.get_program().to_owned();
        command = std::process::Command::new(program);
        command.env_clear().current_dir(place.path());
        command.env("PILLION_DIR", place.path().join("p")).env("HOME", place.path().join("h"));
        command.args(["run", "--name", "b@t", "--strategy", "none", "--", "true"]);
        command
    };
    for mut command in [place.command("b", &[]), run()] {
        // As `pillion run` gives them to an app.
        command.env("PILLION_SOCKET", &a.socket).env("PILLION_NODE", "a@t");
        let log = place.path().join("b-refused.log");
        let mut child = command.stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
        assert!(!crate::support::wait(&mut child).success());
        let said = fs::read_to_string(&log).unwrap();
        for word in ["PILLION_SOCKET is set", a.socket.to_str().unwrap(), "nset it", "--socket"] {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
    assert!(a.lives());
    // Asked for by a flag it is not the environment's fault.
    let (status, said) = place.refused("b", &["--socket", a.socket.to_str().unwrap()]);
    assert!(!status.success() && !said.contains("PILLION_SOCKET"), "{said}");
}

#[test]
fn whatever_ends_a_node_its_nodedown_comes_before_the_nodeup_of_its_next_run() {
    let (place, elsewhere) = (Place::new(), Place::new());
    let a = place.start("a", &["--strategy", "none", "--profile", "wan"]);
    let join = a.address();
    let cookie = place.path().join("h/.config/pillion/cookie");
    let args = ["--strategy", "none", "--join", &join, "--cookie-file", cookie.to_str().unwrap()];
    let mut app = a.json();
    app.ok(json!({"op": "monitor_nodes", "on": true}));
    let mut b = place.start("b", &args);
    let mut up = app.event();
    for signal in [Signal::KILL, Signal::TERM, Signal::STOP] {
        b.signal(signal);
        let next = if signal == Signal::STOP {
            // The old one is frozen, neither gone nor heard: the new one comes from another machine.
            elsewhere.start("b", &args)
        } else {
            b.ended();
            place.start("b", &args)
        };
        let (down, again) = (app.event(), app.event());
        assert_eq!((&up["ev"], &up["node"]), (&json!("nodeup"), &json!("b@t")));
        assert_eq!((&down["ev"], &down["incarnation"]), (&json!("nodedown"), &up["incarnation"]));
        assert_eq!((&again["ev"], &again["node"]), (&json!("nodeup"), &json!("b@t")));
        assert_ne!(again["incarnation"], up["incarnation"]);
        (b, up) = (next, again);
    }
    app.nothing();
}
