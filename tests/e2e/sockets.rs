//! The app socket: whose it is, who may use it, and what becomes of those who misuse it.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;

use crate::support::{App, DIALECTS, Daemon, Dialect, PATIENCE, Place, Value, frame, json, spell};

const ALONE: [&str; 2] = ["--strategy", "none"];

#[test]
fn the_socket_of_a_killed_daemon_is_cleaned_up_by_the_next() {
    let place = Place::new();
    let mut first = place.start("a", &ALONE);
    let old = first.json().pid;
    first.kill();
    assert!(fs::symlink_metadata(&first.socket).unwrap().file_type().is_socket());
    let second = place.start("a", &ALONE);
    assert_ne!(second.json().pid, old);
}

#[test]
fn the_socket_of_a_live_daemon_is_not_stolen() {
    let place = Place::new();
    let first = place.start("a", &ALONE);
    let mut app = first.json();
    let socket = first.socket.to_str().unwrap();
    for (base, args) in [("a", vec!["--strategy", "none"]), ("b", vec!["--socket", socket])] {
        let (status, said) = place.refused(base, &args);
        assert!(!status.success());
        assert!(said.contains("taken") || said.contains("serves"), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
    assert_eq!(first.json().ok(json!({"op": "ping", "node": "a@t"}))["result"], "pong");
    app.nothing();
}

#[test]
fn a_daemon_that_stops_removes_its_socket_and_leaves_that_of_another() {
    let place = Place::new();
    let mut first = place.start("a", &ALONE);
    let other = place.start("b", &ALONE);
    first.signal(rustix::process::Signal::TERM);
    assert!(first.ended().success());
    assert!(!first.socket.exists());
    assert!(other.socket.exists());
    other.json().nothing();
}

#[test]
fn a_path_that_is_too_long_is_refused_with_the_limit() {
    let place = Place::new();
    let long = place.path().join("x".repeat(120)).join("a.sock");
    let (status, said) = place.refused("a", &["--socket", long.to_str().unwrap()]);
    assert!(!status.success());
    assert!(said.contains("103") || said.contains("107"), "the limit is told: {said}");
    assert!(said.contains("--socket") || said.contains("socket"), "{said}");
}

#[test]
fn what_is_no_socket_and_in_the_way_is_left_alone() {
    let place = Place::new();
    let path = place.path().join("precious");
    fs::write(&path, "data").unwrap();
    let (status, said) = place.refused("a", &["--socket", path.to_str().unwrap()]);
    assert!(!status.success());
    assert!(said.contains("not a socket"), "{said}");
    assert_eq!(fs::read(&path).unwrap(), b"data");
}

#[test]
fn a_directory_that_others_may_write_is_refused() {
    let place = Place::new();
    let dir = place.path().join("p");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    let (status, said) = place.refused("a", &ALONE);
    assert!(!status.success());
    assert!(said.contains("0700"), "{said}");
}

fn mode(path: &std::path::Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

/// What only operators may do.
fn operator_commands(other: &str) -> Vec<Value> {
    vec![
        json!({"op": "connect", "to": "nobody@t"}),
        json!({"op": "disconnect", "node": "nobody@t"}),
        json!({"op": "monitor_deaths", "on": true}),
        json!({"op": "info", "to": other, "keys": ["messages"]}),
        json!({"op": "unregister", "name": "theirs"}),
        json!({"op": "kill", "to": other, "reason": "kill"}),
    ]
}

#[test]
fn the_socket_is_for_its_owner_whose_apps_are_operators() {
    let a = Daemon::alone(&[]);
    assert_eq!(mode(&a.socket), 0o600);
    assert!(!a.socket.with_extension("operator.sock").exists());
    for dialect in DIALECTS {
        let mut other = a.json();
        other.ok(json!({"op": "register", "name": "theirs"}));
        let mut app = a.app(dialect);
        for command in operator_commands(&other.pid) {
            app.ok(command);
        }
        assert_eq!(other.last_words().last().unwrap()["reason"], "killed");
    }
}

#[test]
fn a_wider_socket_has_no_operators_and_the_operator_has_his_own() {
    let a = Daemon::alone(&["--socket-mode", "0666"]);
    assert_eq!(mode(&a.socket), 0o666);
    let operators = a.socket.with_extension("operator.sock");
    assert_eq!(mode(&operators), 0o600);
    for dialect in DIALECTS {
        let mut other = a.json();
        other.ok(json!({"op": "register", "name": "theirs"}));
        let mut app = a.app(dialect);
        for command in operator_commands(&other.pid) {
            assert_eq!(app.code(command), "denied");
        }
        // Everybody may do this, links give that power anyway; and an app may kill what is its own.
        app.ok(json!({"op": "kill", "to": other.pid, "reason": "normal"}));
        let own = app.spawn(json!({}));
        app.ok(json!({"op": "kill", "to": own, "reason": "kill"}));
        let mut operator = App::connect(&operators, dialect);
        for command in operator_commands(&other.pid) {
            operator.ok(command);
        }
        assert_eq!(other.last_words().last().unwrap()["reason"], "killed");
    }
}

#[test]
fn an_agent_turns_away_who_runs_in_no_pod_of_its_machine_and_its_operators_come_all_the_same() {
    let place = Place::new();
    // Where there is no API server nobody is told of any pod.
    std::fs::write(place.path().join("kubeconfig"), "{}").unwrap();
    let args = ["--strategy", "none", "--socket-mode", "0666", "--pods", "*"];
    let mut command = place.command("a", &args);
    command.env("NODE_NAME", "node-1").env("KUBECONFIG", place.path().join("kubeconfig"));
    let a = place.run("a", &args, command);
    for ask in ["{\"op\":\"self\",\"id\":7}\n", "GET /v1/nodes HTTP/1.1\r\nHost: p\r\n\r\n"] {
        let mut stream = UnixStream::connect(&a.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(ask.as_bytes()).unwrap();
        let mut told = String::new();
        stream.read_to_string(&mut told).unwrap();
        // Where the tests themselves run in a pod it is one that nobody has told of.
        let words = ["runs in no pod", "the pod of this app"];
        assert!(words.iter().any(|words| told.contains(words)), "{told}");
        assert!(told.contains("denied") || told.contains("timeout"), "{told}");
    }
    let operators = a.socket.with_extension("operator.sock");
    let mut operator = App::connect(&operators, Dialect::Json);
    let processes = operator.ok(json!({"op": "processes"}));
    let processes = processes["processes"].as_array().unwrap();
    assert!(processes.iter().all(|process| process["session"] == processes[0]["session"]));
    let diagnosis = operator.ok(json!({"op": "doctor"}));
    assert_eq!(diagnosis["diagnosis"]["pods"]["allowed"], json!(["*"]));
    assert!(diagnosis["diagnosis"]["pods"]["problem"].is_string(), "{diagnosis}");
    let refused = diagnosis["diagnosis"]["pods"]["refused"].as_object().unwrap();
    let refused: u64 = refused.values().map(|count| count.as_u64().unwrap()).sum();
    assert!(refused >= 2, "{diagnosis}");
    assert!(a.logged().contains("an app was turned away"), "{}", a.logged());
}

#[test]
fn nobody_acts_as_the_process_of_another_session_not_even_an_operator() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let mut other = a.json();
        let mut app = a.app(dialect);
        let timer = other.ok(json!({"op": "send_after", "to": other.pid, "after_ms": 3_600_000}));
        for command in [
            json!({"op": "send", "pid": other.pid, "to": app.pid, "body": 1}),
            json!({"op": "exit", "pid": other.pid}),
            json!({"op": "receive", "pid": other.pid}),
            json!({"op": "flush", "pid": other.pid}),
            json!({"op": "flag", "pid": other.pid, "trap_exit": true}),
            json!({"op": "link", "pid": other.pid, "to": app.pid}),
            json!({"op": "monitor", "pid": other.pid, "to": app.pid}),
            json!({"op": "cancel_timer", "timer": timer["timer"]}),
        ] {
            assert_eq!(app.code(command), "denied");
        }
        app.nothing();
        other.nothing();
    }
}

#[test]
fn a_malformed_command_is_answered_and_the_session_goes_on() {
    let a = Daemon::alone(&[]);
    let mut app = a.json();
    let deep = format!(r#"{{"op":"self","id":1,"x":{}1{}}}"#, "[".repeat(100), "]".repeat(100));
    let deepest = format!(r#"{{"op":"self","id":1,"x":{}"#, "[".repeat(100_000));
    let lines: Vec<Vec<u8>> = vec![
        b"?".to_vec(),
        b"{".to_vec(),
        b"[]".to_vec(),
        b"null".to_vec(),
        b"\"op\"".to_vec(),
        b"{}".to_vec(),
        br#"{"op":1}"#.to_vec(),
        br#"{"op":"self","op":"self"}"#.to_vec(),
        br#"{"op":"self","id":-1}"#.to_vec(),
        br#"{"op":"self","id":9007199254740993}"#.to_vec(),
        br#"{"op":"self"} trailing"#.to_vec(),
        br#"{"op":"self"}{"op":"self"}"#.to_vec(),
        br#"{"op":"send","to":"x@","body":1}"#.to_vec(),
        br#"{"op":"send","to":"<a@t.1>","body":1}"#.to_vec(),
        br#"{"op":"send","body":{"$bytes":"?"}}"#.to_vec(),
        br#"{"op":"send","body":{"$what":1}}"#.to_vec(),
        br#"{"op":"send","body":{"a":1,"a":2}}"#.to_vec(),
        br#"{"op":"send","to":"#.to_vec(),
        br#"{"op":"nosuch"}"#.to_vec(),
        b"\xff\xfe\xfd".to_vec(),
        b"{\"op\":\"\xff\"}".to_vec(),
        b"{\"op\":\"self\",\"x\":\"\xc3\x28\"}".to_vec(),
        deep.into_bytes(),
        deepest.into_bytes(),
    ];
    let count = lines.len();
    for line in lines {
        app.write_raw(&line).unwrap();
        app.write_raw(b"\n").unwrap();
        // What has no id is told as `failed`, or as an answer whose id could not be read.
        assert!(app.ok(json!({"op": "self"}))["pid"].is_string());
    }
    let told = app.pending();
    assert!(!told.is_empty(), "{count} commands failed and nobody was told");
    assert!(told.iter().all(|event| event["code"].is_string()), "{told:?}");
    // With an id the answer has it, where the line could be read so far.
    app.write_raw(b"{\"id\":77,\"op\":\"self\",\"x\":}\n").unwrap();
    assert_eq!(app.answer(77)["code"], "badarg");
    app.write_raw(b"{\"id\":78,\"op\":\"self\",\"op\":\"self\"}\n").unwrap();
    assert_eq!(app.answer(78)["code"], "badarg");
}

#[test]
fn a_malformed_frame_is_answered_and_the_session_goes_on() {
    let a = Daemon::alone(&[]);
    let mut app = a.cbor();
    let mut twice = vec![0xa2];
    for _ in 0..2 {
        twice.extend_from_slice(b"\x62op\x64self");
    }
    let mut trailing = vec![0xa1];
    trailing.extend_from_slice(b"\x62op\x64self\x00");
    let mut deep = vec![0xa2];
    deep.extend_from_slice(b"\x62op\x64self\x61x");
    deep.extend(std::iter::repeat_n(0x81, 5000));
    deep.push(0);
    let heads: Vec<Vec<u8>> = vec![
        vec![],
        vec![0xa0],
        vec![0x80],
        vec![0xff; 40],
        vec![0xbf, 0xff],
        vec![0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        vec![0xa1, 0x62, b'o', b'p', 0x7b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        vec![0xa1, 0x62, b'o', b'p', 0x64, 0xff, 0xff, 0xff, 0xff],
        vec![0xa1, 0x01, 0x02],
        vec![0xa1],
        twice,
        trailing,
        deep,
    ];
    for head in heads {
        app.write_raw(&frame(&head, &[])).unwrap();
        assert!(app.ok(json!({"op": "self"}))["pid"].is_string(), "after {head:?}");
    }
    // Shorter than a header's length, and a header longer than its frame.
    for raw in [&[0, 0, 0, 0][..], &[0, 0, 0, 1, 7], &[0, 0, 0, 2, 0xff, 0xff]] {
        app.write_raw(raw).unwrap();
        assert!(app.ok(json!({"op": "self"}))["pid"].is_string(), "after {raw:?}");
    }
    let told = app.pending();
    assert!(!told.is_empty());
    assert!(told.iter().all(|event| event["code"].is_string()), "{told:?}");
}

#[test]
fn a_body_that_is_no_cbor_reaches_a_json_app_as_bytes() {
    let a = Daemon::alone(&[]);
    let (mut cbor, mut json_app) = (a.cbor(), a.json());
    for body in
        [&[0xff][..], &[0x00, 0x00], &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]]
    {
        let mut head = Vec::new();
        let command = json!({"op": "send", "to": json_app.pid});
        ciborium::into_writer(&command, &mut head).unwrap();
        cbor.write_raw(&frame(&head, body)).unwrap();
        let event = json_app.event();
        assert_eq!(crate::support::unbytes(&event["body"]), body, "{event}");
        assert!(event["ct"].is_string(), "{event}");
    }
    let typed = json!({"op": "send", "to": cbor.pid, "ct": "text/csv", "body": {"$bytes": "YSxi"}});
    json_app.ok(typed);
    let event = cbor.event();
    assert_eq!((&event["ct"], &event["body"]), (&json!("text/csv"), &json!({"$bytes": "YSxi"})));
}

/// Writes raw bytes on a connection of its own; what came back until the daemon closed it or had no more to say.
fn strange(daemon: &Daemon, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(&daemon.socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection hangs: {error}"),
    }
    answer
}

#[test]
fn whatever_strangers_write_no_other_session_notices_and_no_memory_is_taken() {
    let mut a = Daemon::alone(&[]);
    let mut apps = DIALECTS.map(|dialect| a.app(dialect));
    let own = apps[0].pid.clone();
    let good = spell(Dialect::Cbor, &json!({"op": "self", "id": 1}));
    strange(&a, &good);
    let before = a.resident();
    let mut noise = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |length: usize| -> Vec<u8> {
        std::iter::repeat_with(|| {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise.to_be_bytes()[3]
        })
        .take(length)
        .collect()
    };
    let mut inputs: Vec<Vec<u8>> = vec![
        vec![],
        vec![0],
        vec![0, 0, 0],
        good[..good.len() - 1].to_vec(),
        good[..5].to_vec(),
        vec![4, 0xff, 0xff, 0xff, 0, 0],
        vec![4, 0, 0, 0, 0, 0],
        vec![3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xa1],
        vec![0x00, 0x20, 0x00, 0x00],
        vec![0x05; 4096],
        b"{\"op\":\"self\"".to_vec(),
        b"\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        vec![b'{'; 300_000],
        vec![b'\n'; 300_000],
        vec![0; 300_000],
    ];
    inputs.extend((0..200).map(|n| random(1 + 37 * n)));
    for input in &inputs {
        strange(&a, input);
    }
    for app in &mut apps {
        app.send(&own, json!("still here"));
    }
    for _ in 0..2 {
        assert_eq!(apps[0].body(), "still here");
    }
    assert!(a.lives());
    if let (Some(before), Some(after)) = (before, a.resident()) {
        assert!(after < before + (16 << 20), "{before} bytes became {after}");
    }
    assert!(!a.logged().contains("panicked"), "{}", a.logged());
}

#[test]
fn a_huge_announced_length_is_refused_in_words_and_reserves_nothing() {
    let a = Daemon::alone(&[]);
    let before = a.resident();
    let mut held = Vec::new();
    for _ in 0..20 {
        // 32 MiB announced, a few bytes sent, and the connection held open.
        let mut stream = UnixStream::connect(&a.socket).unwrap();
        stream.write_all(&[0x02, 0, 0, 0, 0, 3, 0xa1]).unwrap();
        held.push(stream);
    }
    assert_eq!(a.json().connected(), Vec::<String>::new());
    if let (Some(before), Some(after)) = (before, a.resident()) {
        assert!(after < before + (8 << 20), "{before} bytes became {after}");
    }
    let answer = strange(&a, &[4, 0xff, 0xff, 0xff, 0, 0]);
    let text = String::from_utf8_lossy(&answer).into_owned();
    assert!(text.contains("too_large") || answer.is_empty(), "{text}");
    assert_eq!(a.logged().matches("an app is cut off").count(), 1, "{}", a.logged());
}

#[test]
fn what_is_too_large_is_answered_and_passed_over() {
    let a = Daemon::alone(&["--body-max", "64KiB"]);
    for dialect in DIALECTS {
        let mut app = a.app(dialect);
        let own = app.pid.clone();
        for length in [70_000, 100_000, 3_000_000] {
            let body = json!("x".repeat(length));
            let id = app.begin(json!({"op": "send", "to": own, "body": body}));
            if dialect == Dialect::Cbor || length < 200_000 {
                assert_eq!(app.answer(id)["code"], "too_large");
            } else {
                // A line that long is not read to where its id may be.
                assert_eq!(app.event()["code"], "too_large");
            }
            app.nothing();
        }
        app.send(&own, json!("x".repeat(60_000)));
        assert_eq!(app.body().as_str().unwrap().len(), 60_000);
    }
}

#[test]
fn an_unknown_command_names_the_nearest_and_unknown_fields_are_ignored() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let mut app = a.app(dialect);
        let answer = app.ask(json!({"op": "whereas", "name": "x"}));
        assert_eq!(answer["code"], "badop");
        assert!(answer["message"].as_str().unwrap().contains("whereis"), "{answer}");
        assert_eq!(answer["maybe_applied"], false);
        app.ok(json!({"op": "self", "colour": "blue", "nested": {"a": [1, null]}}));
        // An id may be a text.
        app.tell(json!({"op": "self", "id": "ünïque"}));
        let answer = app.answer_to(&json!("ünïque"));
        assert_eq!(answer["ev"], "ok");
    }
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    let a = Daemon::alone(&[]);
    let open = || fs::read_dir(format!("/proc/{}/fd", a.pid())).map_or(0, Iterator::count);
    let mut app = a.json();
    let round = || {
        for n in 0..300 {
            let mut app = a.app(DIALECTS[n % 2]);
            for _ in 0..5 {
                app.tell(json!({"op": "spawn"}));
            }
            app.nothing();
        }
    };
    let sessions =
        |app: &mut App| app.ok(json!({"op": "processes"}))["processes"].as_array().unwrap().len();
    round();
    crate::support::eventually("the first round is gone", || sessions(&mut app) == 1);
    let (files, memory) = (open(), a.resident());
    round();
    crate::support::eventually("the second round is gone", || sessions(&mut app) == 1);
    crate::support::eventually("its connections are closed", || open() <= files + 1);
    if let (Some(before), Some(after)) = (memory, a.resident()) {
        assert!(after < before + (4 << 20), "{before} bytes became {after}");
    }
}

#[test]
fn an_app_that_writes_and_never_reads_is_not_read_for_ever() {
    const COUNT: usize = 40_000;
    let a = Daemon::alone(&[]);
    let mut app = a.json();
    let before = a.resident();
    let stuck = UnixStream::connect(&a.socket).unwrap();
    let mut writing = stuck.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        for _ in 0..COUNT {
            writing.write_all(b"{\"op\":\"info\",\"id\":1}\n").unwrap();
        }
    });
    // The others are served meanwhile, and what waits for the one is bounded.
    for n in 0..2000 {
        let own = app.pid.clone();
        app.send(&own, json!(n));
        assert_eq!(app.body(), n);
    }
    if let (Some(before), Some(after)) = (before, a.resident()) {
        assert!(after < before + (12 << 20), "{before} bytes became {after}");
    }
    // Once it reads, it gets every answer.
    stuck.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut lines = std::io::BufReader::new(stuck);
    let mut line = String::new();
    for _ in 0..COUNT {
        line.clear();
        std::io::BufRead::read_line(&mut lines, &mut line).unwrap();
        assert!(line.starts_with("{\"ev\":\"ok\",\"id\":1,"), "{line}");
    }
    writer.join().unwrap();
}

#[test]
fn every_node_with_a_wider_socket_has_an_operator_socket_of_its_own() {
    let a = Daemon::alone(&["--socket-mode", "0666"]);
    let operators = a.socket.with_extension("operator.sock");
    assert_eq!(mode(&operators), 0o600);
    assert_eq!(operators.file_stem(), Some(std::ffi::OsStr::new("a.operator")));
}

#[test]
fn a_last_line_without_its_newline_is_a_command_like_the_others() {
    use std::io::{Read as _, Write as _};
    let a = Daemon::alone(&[]);
    let mut stream = std::os::unix::net::UnixStream::connect(&a.socket).unwrap();
    stream.write_all(br#"{"op":"self","id":1}"#).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(r#""ev":"ok","id":1,"pid""#), "{answer}");
}
