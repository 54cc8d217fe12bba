//! Frames between sidecars: those of the router as it writes them, the others as the peer's task does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use pillion::dialect::json::cbor_to_json;
use pillion::router::hosting::HostRequest;
use pillion::wire::host::{FactorySpec, Program, Restart, Shutdown};
use pillion::wire::message::{
    self, FRAGMENT_FIRST, FRAGMENT_LAST, Frame, Goodbye, Hello, Kind, PROTOCOL_MAX, PROTOCOL_MIN,
    PeerEntry, Peers, Refusal, bare_frame, cbor_frame,
};

use super::golden::{self, Record, hex, line};
use super::node::{Paper, RUN, carry};

const FILE: &str = "peers.txt";
const ABOUT: &str =
    "What sidecars say to each other: kind, flags, serial and what follows; then the whole frame.";

const KINDS: [Kind; 31] = [
    Kind::Hello,
    Kind::Accept,
    Kind::Refuse,
    Kind::Ready,
    Kind::Beat,
    Kind::Goodbye,
    Kind::Peers,
    Kind::Probe,
    Kind::Send,
    Kind::Exit,
    Kind::Kill,
    Kind::Link,
    Kind::Unlink,
    Kind::UnlinkAck,
    Kind::Monitor,
    Kind::Demonitor,
    Kind::Down,
    Kind::Fragment,
    Kind::Hold,
    Kind::Go,
    Kind::Ask,
    Kind::Tell,
    Kind::Call,
    Kind::Reply,
    Kind::Raise,
    Kind::Cancel,
    Kind::Took,
    Kind::Rpc,
    Kind::State,
    Kind::Announced,
    Kind::Publish,
];

fn record(title: &str, bytes: &[u8]) -> Record {
    let (frame, used) = Frame::cut(bytes, 1 << 20).expect("a frame").expect("a whole one");
    assert_eq!(used, bytes.len(), "{title} is one frame");
    let kind = Kind::from_u8(frame.kind).expect("a known kind");
    // Written again from what was read, it is the same frame.
    let mut again = Vec::new();
    let at = message::start(&mut again, kind, frame.flags, frame.serial);
    again.extend_from_slice(frame.payload);
    message::finish(&mut again, at);
    assert_eq!(again, bytes, "{title} goes there and back");
    let head = format!(
        "kind 0x{:02x} ({kind:?}) flags 0x{:02x} serial {}",
        frame.kind, frame.flags, frame.serial
    );
    Record::new(title, &[("head", head), ("says", said(kind, frame)), ("frame", hex(bytes))])
}

/// What follows the head, for people.
fn said(kind: Kind, frame: Frame<'_>) -> String {
    let payload = frame.payload;
    let number = |at: usize| {
        let bytes = payload[at..at + 8].try_into().expect("eight bytes");
        u64::from_be_bytes(bytes)
    };
    let cbor = |at: usize| cbor_to_json(&payload[at..]).expect("one CBOR item");
    let target = |at: usize| {
        if frame.flags & message::TARGET_NAME == 0 {
            return (format!("to {}", number(at)), at + 8);
        }
        let end = at + 2 + usize::from(payload[at + 1]);
        (format!("to {:?}", String::from_utf8_lossy(&payload[at + 2..end])), end)
    };
    let text =
        |bytes: &[u8]| String::from_utf8_lossy(&bytes[2..2 + usize::from(bytes[1])]).into_owned();
    match kind {
        Kind::Accept | Kind::Ready | Kind::Beat | Kind::Probe => "nothing".to_owned(),
        Kind::Hello | Kind::Refuse | Kind::Goodbye | Kind::Peers => cbor(0),
        Kind::Send => {
            let (to, at) = target(0);
            format!("{to}, the event {}", line(&payload[at..]))
        }
        Kind::Exit | Kind::Kill => {
            let (to, at) = target(0);
            format!("{to}, reason {}", cbor(at))
        }
        Kind::Link => target(0).0,
        Kind::Unlink | Kind::UnlinkAck => format!("{}, unlink id {}", target(0).0, number(8)),
        Kind::Monitor => format!("ref {}, {}", number(0), target(8).0),
        Kind::Call => {
            let (to, at) = target(8);
            format!("ref {}, {to}, the event {}", number(0), line(&payload[at..]))
        }
        Kind::Reply => {
            let at = 9 + usize::from(payload[8]);
            let ct = String::from_utf8_lossy(&payload[9..at]);
            format!("ref {}, content type {ct:?}, body {}", number(0), cbor(at))
        }
        Kind::Raise => format!("ref {}, {}", number(0), cbor(8)),
        Kind::Announced => "nothing".to_owned(),
        Kind::Publish => {
            let (mut at, mut words) = (0, String::new());
            if frame.flags & message::PUBLISH_EXCLUDE != 0 {
                let _ = write!(words, "past {}, ", number(0));
                at += 8;
            }
            if frame.flags & message::PUBLISH_QUEUES != 0 {
                let groups = payload[at];
                at += 1;
                for _ in 0..groups {
                    let group = text(&payload[at..]);
                    at += 2 + group.len();
                    let _ = write!(words, "to one of {group:?}, ");
                }
            }
            if frame.flags & message::PUBLISH_QUEUES_ONLY != 0 {
                words.push_str("to nobody else, ");
            }
            format!("{words}the event {}", line(&payload[at..]))
        }
        Kind::Rpc => {
            let module = text(&payload[8..]);
            let function = text(&payload[10 + module.len()..]);
            let event = line(&payload[12 + module.len() + function.len()..]);
            format!("ref {}, {function:?} of {module:?}, the event {event}", number(0))
        }
        Kind::State => {
            let key = usize::from(payload[2]);
            let (key, value) = payload[3..].split_at(key);
            format!("class {}, key {}, value {}", payload[0], hex(key), hex(value))
        }
        Kind::Cancel => format!("ref {}", number(0)),
        Kind::Took => format!("ref {}, {} bytes", number(0), number(8)),
        Kind::Demonitor => format!("ref {}", number(0)),
        Kind::Down => format!("ref {}, reason {}", number(0), cbor(8)),
        Kind::Fragment => format!("{} bytes", payload.len()),
        Kind::Hold | Kind::Go => format!("process {}", number(0)),
        Kind::Ask | Kind::Tell => format!("question {}, {}", number(0), cbor(8)),
    }
}

fn of_the_connection() -> Vec<Record> {
    let hello = Hello {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        features: Vec::new(),
        mesh: "default".to_owned(),
        node: "stock@hal".to_owned(),
        incarnation: RUN,
        addresses: vec!["192.0.2.1:4470".to_owned()],
        labels: BTreeMap::from([("role".to_owned(), "stock".to_owned())]),
        hidden: false,
        known: None,
        clock_ms: Some(1_795_287_767_000),
    };
    let refusal = Refusal {
        code: "mesh".to_owned(),
        message: "this is the mesh `default`, that `other`".to_owned(),
    };
    let goodbye = Goodbye { reason: "shutdown".to_owned(), message: "this node stops".to_owned() };
    let entry = PeerEntry {
        node: "store@io".to_owned(),
        incarnation: RUN,
        addresses: vec!["192.0.2.7:4470".to_owned()],
    };
    let peers = Peers { peers: Some(vec![entry]), count: 3, sum: 0x0102_0304_0506_0708 };
    let records = vec![
        record("hello", &cbor_frame(Kind::Hello, 0, &hello)),
        record("accept", &bare_frame(Kind::Accept)),
        record("refuse", &cbor_frame(Kind::Refuse, 0, &refusal)),
        record("ready", &bare_frame(Kind::Ready)),
        record("beat", &bare_frame(Kind::Beat)),
        record("probe", &bare_frame(Kind::Probe)),
        record("peers", &cbor_frame(Kind::Peers, 0, &peers)),
        record("goodbye", &cbor_frame(Kind::Goodbye, 0, &goodbye)),
        record("announced", &bare_frame(Kind::Announced)),
    ];
    // What is read is what was written.
    let read = |at: usize| {
        let bytes = records[at].frame();
        let (frame, _) = Frame::cut(&bytes, 1 << 20).expect("a frame").expect("whole");
        (
            frame.cbor::<Hello>("x"),
            frame.cbor::<Refusal>("x"),
            frame.cbor::<Goodbye>("x"),
            frame.cbor::<Peers>("x"),
        )
    };
    assert_eq!(read(0).0.as_ref(), Ok(&hello));
    assert_eq!(read(2).1.as_ref(), Ok(&refusal));
    assert_eq!(read(6).3.as_ref(), Ok(&peers));
    assert_eq!(read(7).2.as_ref(), Ok(&goodbye));
    records
}

/// What apps do on `stock@hal`, as `store@io` hears it, and what it answers.
fn of_the_router() -> Vec<Record> {
    let (mut a, mut b) = (Paper::new("stock@hal"), Paper::new("store@io"));
    let (app, other) = (a.open(true), b.open(true));
    a.meet("store@io");
    b.meet("stock@hal");
    b.say(other, r#"{"op":"register","name":"store"}"#);
    let far = "<store@io.019b3f0c2a4e5f3c.100>";
    let mut records = Vec::new();
    let steps = [
        (r#"{"op":"send","to":"FAR","body":"hello"}"#, &["send, to a pid"][..]),
        (r#"{"op":"send","to":"store@store@io","body":"hello"}"#, &["send, to a name"]),
        (
            r#"{"op":"send","to":"FAR","mode":"lossy","body":1}"#,
            &["send, rather lost than waiting"],
        ),
        (r#"{"op":"link","to":"FAR"}"#, &["link"]),
        (r#"{"op":"unlink","to":"FAR"}"#, &["unlink", "unlink_ack"]),
        (r#"{"op":"monitor","to":"FAR"}"#, &["monitor, of a pid"]),
        (r#"{"op":"monitor","to":"store@store@io"}"#, &["monitor, of a name"]),
        (r#"{"op":"demonitor","ref":2}"#, &["demonitor"]),
        (
            r#"{"op":"monitor","to":"nobody@store@io"}"#,
            &["monitor, of a name that nobody has", "down, for it"],
        ),
        (r#"{"op":"kill","to":"FAR","reason":"please"}"#, &["kill"]),
        (r#"{"op":"ping","id":1,"node":"store@io"}"#, &["ask, for a ping", "tell, of a ping"]),
        (
            r#"{"op":"whereis","id":1,"name":"store","node":"store@io"}"#,
            &["ask, where a name is", "tell, where it is"],
        ),
        (
            r#"{"op":"processes","id":1,"node":"store@io"}"#,
            &["ask, for the processes", "tell, of the processes"],
        ),
        (
            r#"{"op":"info","id":1,"to":"FAR","keys":["status"]}"#,
            &["ask, for info", "tell, of info"],
        ),
        (
            r#"{"op":"info","id":1,"to":"FAR","keys":["messages"]}"#,
            &["ask, for what is not given", "tell, of an error"],
        ),
        (r#"{"op":"register","name":"stock","scope":"global"}"#, &["state, of a global name"]),
        (r#"{"op":"join","group":"tills"}"#, &["state, of a member of a group"]),
        (r#"{"op":"leave","group":"tills"}"#, &["state, taken back"]),
        (
            r#"{"op":"serve","module":"stock","functions":["count","take"]}"#,
            &["state, of a module"],
        ),
        (
            r#"{"op":"rpc","id":1,"node":"store@io","module":"node","function":"ping"}"#,
            &["rpc", "reply, to it"],
        ),
        (r#"{"op":"cast","to":"FAR","body":"count"}"#, &["send, of a cast"]),
        (r#"{"op":"call","id":1,"to":"FAR","timeout_ms":100,"body":"how many?"}"#, &["call"]),
        (
            r#"{"op":"call","id":1,"to":"nobody@store@io","body":"how many?"}"#,
            &["call, of a name that nobody has", "raise, for it"],
        ),
    ];
    b.say(other, r#"{"op":"flag","trap_exit":true}"#);
    for (command, titles) in steps {
        a.say(app, &command.replace("FAR", far));
        let frames = carry(&mut a, &mut b);
        assert_eq!(frames.len(), titles.len(), "{command}");
        records.extend(titles.iter().zip(&frames).map(|(title, frame)| record(title, frame)));
    }

    let reference = |b: &mut Paper| {
        let heard = b.heard(other);
        let text = line(heard.last().expect("a call"));
        let event: serde_json::Value = serde_json::from_str(&text).expect("an event");
        event["ref"].as_u64().expect("a ref")
    };
    let number = reference(&mut b);
    let large = "x".repeat(140_000);
    b.say(other, &format!(r#"{{"op":"reply","ref":{number},"more":true,"body":"a part"}}"#));
    records.push(record("reply, a part", carry(&mut a, &mut b).last().expect("a part")));
    b.say(other, &format!(r#"{{"op":"reply","ref":{number},"more":true,"body":"{large}"}}"#));
    while !carry(&mut a, &mut b).is_empty() {}
    a.heard(app);
    records.push(record("took", carry(&mut a, &mut b).last().expect("it was read")));
    b.say(other, &format!(r#"{{"op":"reply","ref":{number},"body":7}}"#));
    records.push(record("reply", carry(&mut a, &mut b).last().expect("a reply")));
    a.say(app, &format!(r#"{{"op":"call","id":1,"to":"{far}","timeout_ms":100}}"#));
    carry(&mut a, &mut b);
    let number = reference(&mut b);
    let raise = r#""class":"KeyError","reason":"no pears","stack":"stock.py:7""#;
    b.say(other, &format!(r#"{{"op":"raise","ref":{number},{raise}}}"#));
    records.push(record("raise", carry(&mut a, &mut b).last().expect("an exception")));
    a.say(app, &format!(r#"{{"op":"call","id":1,"to":"{far}","timeout_ms":100}}"#));
    carry(&mut a, &mut b);
    a.pass(std::time::Duration::from_millis(100));
    records.push(record("cancel", carry(&mut a, &mut b).last().expect("a cancel")));
    b.heard(other);

    b.say(other, r#"{"op":"flag","delivery":"pull","mailbox":{"entries":1,"policy":"wait"}}"#);
    let _ = b.say(other, r#"{"op":"flush","id":1}"#);
    a.say(app, &format!(r#"{{"op":"send","to":"{far}","body":1}}"#));
    records.push(record("hold", carry(&mut a, &mut b).last().expect("a hold")));
    b.say(other, r#"{"op":"flush","id":1}"#);
    records.push(record("go", carry(&mut a, &mut b).last().expect("a go")));

    b.say(other, r#"{"op":"flag","trap_exit":false}"#);
    a.say(app, &format!(r#"{{"op":"link","to":"{far}"}}"#));
    carry(&mut a, &mut b);
    b.say(other, r#"{"op":"exit","reason":"done"}"#);
    let frames = carry(&mut a, &mut b);
    for (title, kind) in [("exit", Kind::Exit), ("down", Kind::Down)] {
        let frame = frames.iter().find(|frame| frame[4] == kind as u8);
        records.push(record(title, frame.expect("the end is told")));
    }
    let operator = a.open(true);
    a.say(operator, r#"{"op":"drain"}"#);
    let frames = carry(&mut a, &mut b);
    records.push(record("state, of a node that drains", frames.last().expect("it is told")));
    records
}

/// What is said about topics, both ways.
fn topics() -> Vec<Record> {
    let (mut a, mut b) = (Paper::new("stock@hal"), Paper::new("store@io"));
    let (app, other) = (a.open(true), b.open(true));
    a.meet("store@io");
    b.meet("stock@hal");
    let mut records = Vec::new();
    let theirs = [
        (r#"{"op":"subscribe","topic":"shop.*"}"#, "state, of a topic"),
        (r#"{"op":"subscribe","topic":"shop.tea","group":"workers"}"#, "state, of a queue group"),
    ];
    for (command, title) in theirs {
        b.say(other, command);
        records.push(record(title, carry(&mut a, &mut b).last().expect("it is told")));
    }
    let track = r#"{"op":"track","topic":"room.1","key":"ann","metadata":{"at":"desk"}}"#;
    b.say(other, track);
    let told = carry(&mut a, &mut b);
    records.push(record("state, of a presence", told.last().expect("it is told")));
    let far = "<store@io.019b3f0c2a4e5f3c.100>";
    let ours = [
        (r#"{"op":"publish","topic":"shop.coffee","body":1}"#, "publish"),
        (
            r#"{"op":"publish","topic":"shop.tea","exclude":"FAR","mode":"lossy","body":1}"#,
            "publish, past one process, to a member of a queue group, rather lost than waiting",
        ),
        (r#"{"op":"publish","topic":"lamp","retain":true,"body":1}"#, "state, of a last value"),
    ];
    for (command, title) in ours {
        a.say(app, &command.replace("FAR", far));
        records.push(record(title, carry(&mut a, &mut b).first().expect("it is told")));
    }
    b.say(other, r#"{"op":"unsubscribe","topic":"shop.*"}"#);
    records.push(record(
        "state, a topic taken back",
        carry(&mut a, &mut b).last().expect("it is told"),
    ));
    a.say(app, r#"{"op":"publish","topic":"shop.tea","body":1}"#);
    let title = "publish, to a member of a queue group and nobody else";
    records.push(record(title, carry(&mut a, &mut b).first().expect("it is told")));
    a.say(app, r#"{"op":"subscribers","id":1,"topic":"shop.tea"}"#);
    let frames = carry(&mut a, &mut b);
    for (title, frame) in ["ask, for subscribers", "tell, of subscribers"].iter().zip(&frames) {
        records.push(record(title, frame));
    }
    records
}

/// A factory is offered, a program spawned, and the next one not.
fn of_a_factory() -> Vec<Record> {
    let (mut a, mut b) = (Paper::new("stock@hal"), Paper::new("store@io"));
    let app = a.open(true);
    a.meet("store@io");
    b.meet("stock@hal");
    let factory = FactorySpec {
        name: "worker".to_owned(),
        program: Program { command: "worker".to_owned(), ..Program::default() },
        max_children: 2,
        max_restarts: 3,
        max_seconds: 5,
        restart: Restart::Temporary,
        shutdown: Shutdown::default(),
    };
    b.router.on_factory_here(b.now, factory, &mut b.out);
    let mut records =
        vec![record("state, of a factory", carry(&mut a, &mut b).last().expect("it is offered"))];
    let spawn = r#"{"op":"spawn","id":1,"factory":"worker","node":"store@io","args":["--job","7"],"name":"job7","link":true,"monitor":true}"#;
    a.say(app, spawn);
    records.push(record("ask, to spawn", &carry(&mut a, &mut b)[0]));
    let Some(HostRequest::Start(start)) = b.out.hosting.pop_front() else { panic!("a start") };
    b.router.on_host_started(b.now, start.run, Ok(4711), &mut b.out);
    records.push(record("tell, of what was spawned", &carry(&mut a, &mut b)[0]));
    records
}

/// A message in two pieces; the real ones are of 64 KiB.
fn fragments() -> Vec<Record> {
    let (mut a, mut b) = (Paper::new("stock@hal"), Paper::new("store@io"));
    let (app, other) = (a.open(true), b.open(true));
    a.meet("store@io");
    b.meet("stock@hal");
    a.say(app, r#"{"op":"send","to":"<store@io.019b3f0c2a4e5f3c.100>","body":"a long one"}"#);
    let whole = a.towards_peer().remove(0);
    let (begin, end) = whole.split_at(40);
    let piece = |flags: u8, bytes: &[&[u8]]| {
        let mut frame = Vec::new();
        let at = message::start(&mut frame, Kind::Fragment, flags, 100);
        for bytes in bytes {
            frame.extend_from_slice(bytes);
        }
        message::finish(&mut frame, at);
        frame
    };
    let length = u32::try_from(whole.len()).expect("short").to_be_bytes();
    let first = piece(FRAGMENT_FIRST, &[&length, begin]);
    let last = piece(FRAGMENT_LAST, &[end]);
    b.hear_peer(&first);
    assert!(b.heard(other).is_empty(), "half a message is none");
    b.hear_peer(&last);
    assert_eq!(b.heard(other).len(), 1);
    vec![record("fragment, the first", &first), record("fragment, the last", &last)]
}

#[test]
fn every_frame_between_sidecars_is_as_it_was() {
    let mut records = of_the_connection();
    records.extend(of_a_factory());
    records.extend(of_the_router());
    records.extend(topics());
    records.extend(fragments());
    golden::check(FILE, ABOUT, &records);
}

#[test]
fn every_frame_of_the_golden_file_reads_as_it_says() {
    for golden in golden::read(FILE) {
        assert_eq!(record(&golden.title, &golden.frame()), golden);
    }
}

#[test]
fn every_kind_has_its_frame() {
    let seen: BTreeSet<u8> = golden::read(FILE).iter().map(|record| record.frame()[4]).collect();
    let kinds: BTreeSet<u8> = (0..=u8::MAX).filter(|byte| Kind::from_u8(*byte).is_some()).collect();
    assert_eq!(kinds, KINDS.iter().map(|kind| *kind as u8).collect());
    assert_eq!(seen, kinds);
}

#[test]
fn a_long_message_goes_in_pieces_of_64_kib() {
    let (mut a, mut b) = (Paper::new("stock@hal"), Paper::new("store@io"));
    let (app, other) = (a.open(true), b.open(true));
    a.meet("store@io");
    b.meet("stock@hal");
    let body = "x".repeat(200_000);
    a.say(
        app,
        &format!(r#"{{"op":"send","to":"<store@io.019b3f0c2a4e5f3c.100>","body":"{body}"}}"#),
    );
    let mut pieces = Vec::new();
    loop {
        let frames = a.towards_peer();
        if frames.is_empty() {
            break;
        }
        pieces.extend(frames);
    }
    let lengths: Vec<usize> = pieces.iter().map(Vec::len).collect();
    let whole = 65_536 + 4 + message::HEAD_BYTES;
    assert_eq!(lengths[..3], [whole + 4, whole, whole]);
    assert_eq!(lengths.len(), 4);
    let flags: Vec<u8> = pieces.iter().map(|piece| piece[5]).collect();
    assert_eq!(flags, [FRAGMENT_FIRST, 0, 0, FRAGMENT_LAST]);
    for piece in &pieces {
        b.hear_peer(piece);
    }
    assert_eq!(b.heard(other).len(), 1);
}
