//! Events and answers, as a real router writes them.

use std::time::Duration;

use pillion::dialect::json::{json_to_cbor, line_to_frame};
use pillion::router::Limits;
use pillion::router::hosting::{Exit, HostRequest};
use pillion::router::nodes::{KnownNode, MeshAnswer, MeshRequest, SelfSeen};
use pillion::wire::event::split_frame;
use pillion::wire::host::{FactorySpec, Program, Restart, Shutdown};
use pillion::wire::shown::{
    AttemptShown, CertificateShown, Diagnosis, Explained, IgnoredShown, IssuedShown, PeerShown,
    SourceShown, StrategyShown, item,
};

use super::golden::{self, Record, line};
use super::manual::{codes_in_the_source, events_in_the_source};
use super::node::{Paper, carry, node};

const FILE: &str = "events.txt";

/// The pid of the first app of a node.
const ME: &str = "<stock@hal.019b3f0c2a4e5f3c.100>";
const OTHER: &str = "<stock@hal.019b3f0c2a4e5f3c.101>";
const FAR: &str = "<store@io.019b3f0c2a4e5f3c.100>";

struct Told(Vec<Record>);

impl Told {
    fn add(&mut self, title: &str, frame: &[u8]) {
        self.0.push(Record::app(title, frame));
    }

    fn all(&mut self, titles: &[&str], frames: &[Vec<u8>]) {
        let lines: Vec<String> = frames.iter().map(|frame| line(frame)).collect();
        assert_eq!(titles.len(), frames.len(), "{titles:?} are {lines:?}");
        for (title, frame) in titles.iter().zip(frames) {
            self.add(title, frame);
        }
    }
}

/// The answer of the mesh to what an app asked of it.
fn mesh_says(paper: &mut Paper, answer: MeshAnswer) {
    let asked = paper.out.requests.pop_front();
    let Some(
        MeshRequest::Connect { token, .. }
        | MeshRequest::Disconnect { token, .. }
        | MeshRequest::Peers { token }
        | MeshRequest::Explain { token, .. }
        | MeshRequest::Doctor { token },
    ) = asked
    else {
        panic!("nothing was asked of the mesh");
    };
    paper.router.on_mesh_answer(paper.now, token, answer, &mut paper.out);
}

fn sessions(told: &mut Told) {
    let mut paper = Paper::new("stock@hal");
    let (app, other) = (paper.open(true), paper.open(true));
    let heard = paper.say(app, r#"{"op":"hello","id":1,"version":1,"grace_ms":30000}"#);
    told.all(&["welcome", "ok, of hello and of all that has nothing to tell"], &heard);
    told.add("ok, of self", &paper.answer(app, r#"{"op":"self","id":2}"#));
    told.add("ok, with a text for an id", &paper.answer(app, r#"{"op":"self","id":"who am I"}"#));

    leaving(told);

    let send = r#"{"op":"send","to":"nobody","body":1}"#;
    told.all(&["failed"], &paper.say(app, send));
    assert!(paper.say(app, send).is_empty() && paper.say(app, send).is_empty());
    paper.pass(Duration::from_secs(1));
    told.all(&["failed, of those of the next second together"], &paper.heard(app));

    // The connection breaks with two messages on their way.
    let _ = paper.heard(app);
    for _ in 0..2 {
        paper.say(other, &format!(r#"{{"op":"send","to":"{ME}","body":"lost"}}"#));
    }
    paper.router.on_session_closed(paper.now, app, &mut paper.out);
    let again = paper.open(true);
    let resume = r#"{"op":"hello","id":1,"resume":{"session":1,"secret":"00000000000000000000000000000001","seen":6}}"#;
    assert!(paper.say(again, resume).is_empty());
    let heard = paper.heard(app);
    told.all(&["welcome, after a resume", "ok, of a resume", "gap, of a resume"], &heard);
}

fn processes(told: &mut Told) {
    let mut paper = Paper::new("stock@hal");
    let (app, other) = (paper.open(true), paper.open(true));
    paper.say(app, r#"{"op":"hello","client":"shop 1.2"}"#);
    told.add(
        "ok, of spawn",
        &paper
            .answer(app, r#"{"op":"spawn","id":11,"name":"bot","label":"shelf 7","monitor":true}"#),
    );
    told.add("ok, of info", &paper.answer(app, r#"{"op":"info","id":14,"to":"bot"}"#));
    told.add("ok, of processes", &paper.answer(app, r#"{"op":"processes","id":15}"#));
    told.add("ok, of registered", &paper.answer(app, r#"{"op":"registered","id":20}"#));
    told.add("ok, of whereis", &paper.answer(app, r#"{"op":"whereis","id":19,"name":"bot"}"#));
    told.add(
        "ok, of whereis for a name that nobody has",
        &paper.answer(app, r#"{"op":"whereis","id":19,"name":"nobody"}"#),
    );

    told.add("ok, of monitor", &paper.answer(other, r#"{"op":"monitor","id":28,"to":"bot"}"#));
    paper.say(other, r#"{"op":"monitor_deaths","on":true}"#);
    let heard =
        paper.say(app, r#"{"op":"exit","pid":"<stock@hal.019b3f0c2a4e5f3c.102>","reason":"done"}"#);
    told.all(&["down"], &heard);
    told.all(&["died, as an operator hears it", "down, of a name"], &paper.heard(other));
    let heard = paper.say(app, r#"{"op":"monitor","to":"nobody"}"#);
    told.all(&["down, of a name that nobody has"], &heard);
    told.all(
        &["down, of a node that is not connected"],
        &paper.say(app, &format!(r#"{{"op":"monitor","to":"{FAR}"}}"#)),
    );

    paper.say(app, r#"{"op":"flag","trap_exit":true}"#);
    paper.say(other, &format!(r#"{{"op":"kill","to":"{ME}","reason":"please"}}"#));
    told.all(&["exit"], &paper.heard(app));
    paper.say(other, r#"{"op":"monitor_deaths","on":false}"#);
    paper.say(app, r#"{"op":"spawn","name":"bot"}"#);
    paper.say(other, r#"{"op":"kill","to":"bot"}"#);
    told.all(&["died"], &paper.heard(app));
    paper.say(other, &format!(r#"{{"op":"kill","to":"{ME}"}}"#));
    told.all(&["died, of the session's own process, which ends the session"], &paper.heard(app));
}

/// What the mesh of a node shows to people who look for a reason.
fn reasons(told: &mut Told) {
    let mut paper = Paper::new("stock@hal");
    let app = paper.open(true);
    let source = |source: &str, since_ms, seen_ms| SourceShown {
        source: source.to_owned(),
        since_ms,
        seen_ms,
    };
    let attempt = AttemptShown {
        address: Some("192.0.2.9:4470".to_owned()),
        dialled: true,
        result: "no_answer".to_owned(),
        reason: "does not answer".to_owned(),
        times: 12,
        ago_ms: 1_200,
    };
    let connected = PeerShown {
        node: Some("store@io".to_owned()),
        incarnation: Some("019b3f0c2a4e5f3c".to_owned()),
        state: "connected".to_owned(),
        since_ms: 90_000,
        addresses: vec!["192.0.2.7:4470".to_owned()],
        address: Some("192.0.2.7:50000".to_owned()),
        labels: [("role".to_owned(), "store".to_owned())].into(),
        sources: vec![source("mdns on eth0", 91_000, 0)],
        reason: None,
        failure: None,
        next_ms: None,
        skew_ms: Some(-14),
    };
    let wanted = PeerShown {
        node: Some("till@europa".to_owned()),
        incarnation: None,
        state: "wanted".to_owned(),
        since_ms: 60_000,
        addresses: vec!["192.0.2.9:4470".to_owned()],
        address: None,
        labels: std::collections::BTreeMap::new(),
        sources: vec![source("remembered", 60_000, 3_600_000)],
        reason: Some("does not answer".to_owned()),
        failure: Some(attempt.clone()),
        next_ms: Some(3_800),
        skew_ms: None,
    };
    assert!(paper.say(app, r#"{"op":"peers","id":46}"#).is_empty());
    mesh_says(&mut paper, MeshAnswer::Shown(item(&vec![connected, wanted.clone()])));
    told.all(&["ok, of peers"], &paper.heard(app));
    let explained = Explained {
        node: "till@europa".to_owned(),
        state: "wanted".to_owned(),
        because: vec![
            "till@europa is not connected.".to_owned(),
            "192.0.2.9:4470 does not answer (last 1 s ago, 12 times in a row).".to_owned(),
            "The next try is in 3 s.".to_owned(),
        ],
        advice: vec!["Try `nc -vz 192.0.2.9 4470` from here.".to_owned()],
        peers: vec![wanted],
        attempts: vec![attempt],
    };
    assert!(paper.say(app, r#"{"op":"explain","id":47,"node":"till@europa"}"#).is_empty());
    mesh_says(&mut paper, MeshAnswer::Shown(item(&explained)));
    told.all(&["ok, of explain"], &paper.heard(app));
    let strategy = StrategyShown {
        strategy: "list".to_owned(),
        url: "list://ida".to_owned(),
        health: "unwell".to_owned(),
        reason: Some("ida: no such name".to_owned()),
        since_ms: 5_000,
        well_ms: Some(5_000),
        count: 1,
        sees: vec!["192.0.2.9:4470".to_owned()],
        ignored: vec![IgnoredShown {
            why: "malformed".to_owned(),
            count: 2,
            from: "192.0.2.66".to_owned(),
            ago_ms: 700,
        }],
    };
    let certificate = CertificateShown {
        role: "node".to_owned(),
        subject: "CN=hal".to_owned(),
        file: Some("/etc/pillion/tls.crt".to_owned()),
        not_before_ms: 1_795_000_000_000,
        not_after_ms: 1_797_592_000_000,
    };
    let diagnosis = Diagnosis {
        node: "stock@hal".to_owned(),
        mesh: "default".to_owned(),
        version: "0.1.0".to_owned(),
        os_pid: 4711,
        up_ms: 90_000,
        clock_ms: 1_795_287_767_000,
        trust: "cookie".to_owned(),
        issued: None,
        ids: vec!["0102030405060708".to_owned()],
        cookie_file: Some("/home/gus/.config/pillion/cookie".to_owned()),
        certificates: vec![certificate],
        trust_problem: Some("cannot read `/etc/pillion/tls.key`: permission denied".to_owned()),
        dir: "/tmp/pillion-501".to_owned(),
        socket: "/tmp/pillion-501/default/stock.sock".to_owned(),
        state_file: Some("/tmp/pillion-501/default/stock.peers".to_owned()),
        listens: vec!["[::]:4470".to_owned()],
        advertised: Vec::new(),
        files: Some(24),
        files_max: Some(1024),
        strategies: vec![strategy],
        connected: 1,
        wanted: 1,
        known: 0,
        skews_ms: [("store@io".to_owned(), -14)].into(),
        min_peers: 0,
        ready: true,
        unready: None,
    };
    assert!(paper.say(app, r#"{"op":"doctor","id":48}"#).is_empty());
    mesh_says(&mut paper, MeshAnswer::Shown(item(&diagnosis)));
    told.all(&["ok, of doctor"], &paper.heard(app));
    let issued = IssuedShown {
        issuer: "https://pillion-injector.pillion.svc/v1/certificate".to_owned(),
        ends_ms: Some(28_800_000),
        ended_ms: None,
        trouble: Some("the issuer does not answer within 15 s".to_owned()),
    };
    let ended = IssuedShown { ends_ms: None, ended_ms: Some(90_000), ..issued.clone() };
    let diagnosis = Diagnosis {
        trust: "issued".to_owned(),
        issued: Some(issued),
        cookie_file: None,
        certificates: Vec::new(),
        trust_problem: None,
        strategies: Vec::new(),
        ..diagnosis
    };
    assert!(paper.say(app, r#"{"op":"doctor","id":50}"#).is_empty());
    mesh_says(&mut paper, MeshAnswer::Shown(item(&diagnosis)));
    told.all(&["ok, of doctor, of a node with an issued certificate"], &paper.heard(app));
    let diagnosis = Diagnosis { issued: Some(ended), ..diagnosis };
    assert!(paper.say(app, r#"{"op":"doctor","id":51}"#).is_empty());
    mesh_says(&mut paper, MeshAnswer::Shown(item(&diagnosis)));
    told.all(&["ok, of doctor, of a node whose issued certificate has ended"], &paper.heard(app));
}

fn leaving(told: &mut Told) {
    let mut paper = Paper::new("stock@hal");
    let (app, other) = (paper.open(true), paper.open(true));
    assert!(paper.say(other, r#"{"op":"drain"}"#).len() == 1);
    told.all(&["draining"], &paper.heard(app));
    told.add("ok, of drain", &paper.answer(other, r#"{"op":"drain","id":50}"#));
    let register = r#"{"op":"register","id":22,"name":"stock","scope":"global"}"#;
    told.add("error, draining", &paper.answer(app, register));
}

fn messages(told: &mut Told) {
    let mut paper = Paper::new("stock@hal");
    let (app, other) = (paper.open(true), paper.open(true));
    let send = |paper: &mut Paper, rest: &str| {
        paper.say(other, &format!(r#"{{"op":"send","to":{rest}}}"#))
    };
    send(&mut paper, &format!(r#""{ME}","body":{{"take":3,"of":"apples"}}"#));
    told.all(&["message"], &paper.heard(app));
    send(&mut paper, &format!(r#""{ME}","ct":"text/plain","body":{{"$bytes":"aGVsbG8="}}"#));
    told.all(&["message, of something that is no CBOR"], &paper.heard(app));
    send(&mut paper, &format!(r#""{ME}""#));
    told.all(&["message, of nothing"], &paper.heard(app));
    paper.say(app, r#"{"op":"spawn","name":"bot"}"#);
    send(&mut paper, r#""bot","body":"for another process""#);
    told.all(&["message, for another process of the session"], &paper.heard(app));
    told.add(
        "ok, of send",
        &paper.answer(app, &format!(r#"{{"op":"send","to":"{OTHER}","id":21,"body":1}}"#)),
    );

    told.add(
        "ok, of send_after",
        &paper
            .answer(app, r#"{"op":"send_after","id":22,"to":"bot","after_ms":1500,"body":"tick"}"#),
    );
    told.add(
        "ok, of cancel_timer",
        &paper.answer(app, r#"{"op":"cancel_timer","id":23,"timer":1}"#),
    );
    told.add(
        "ok, of cancel_timer when it had fired",
        &paper.answer(app, r#"{"op":"cancel_timer","id":23,"timer":1}"#),
    );

    paper.say(app, r#"{"op":"flag","delivery":"pull","mailbox":{"entries":2}}"#);
    for n in 0..4 {
        send(&mut paper, &format!(r#""{ME}","body":{n}"#));
    }
    told.add(
        "ok, of info for the messages",
        &paper.answer(app, r#"{"op":"info","id":14,"keys":["message_queue_len","messages"]}"#),
    );
    told.add("ok, of receive", &paper.answer(app, r#"{"op":"receive","id":24,"max":1}"#));
    told.add("ok, of flush", &paper.answer(app, r#"{"op":"flush","id":25}"#));
    assert!(paper.say(app, r#"{"op":"receive","id":24,"timeout_ms":60000}"#).is_empty());
    let told_of_cancel = paper.say(app, r#"{"op":"cancel","id":30,"of":24}"#);
    told.all(&["error, of receive when it is cancelled", "ok, of cancel"], &told_of_cancel);
    told.add("ok, of flush when nothing is there", &paper.answer(app, r#"{"op":"flush","id":25}"#));
    for n in 0..4 {
        send(&mut paper, &format!(r#""{ME}","body":{n}"#));
    }
    let heard = paper.say(app, r#"{"op":"flag","delivery":"push"}"#);
    told.add("gap", heard.last().expect("a gap"));
}

fn calls(told: &mut Told) {
    let mut paper = Paper::new("stock@hal");
    let (app, stock) = (paper.open(true), paper.open(true));
    paper.say(stock, r#"{"op":"register","name":"stock"}"#);
    let calls = |paper: &mut Paper| {
        paper.say(
            app,
            r#"{"op":"call","id":32,"to":"stock","timeout_ms":1500,"body":["get","apples"]}"#,
        );
        paper.heard(stock)
    };
    let heard = calls(&mut paper);
    told.all(&["call"], &heard);
    paper.say(stock, r#"{"op":"reply","ref":1,"more":true,"body":"once upon a time"}"#);
    told.all(&["part"], &paper.heard(app));
    paper.say(stock, r#"{"op":"reply","ref":1,"body":3}"#);
    told.all(&["ok, of call"], &paper.heard(app));
    calls(&mut paper);
    paper.say(
        stock,
        r#"{"op":"raise","ref":2,"class":"KeyError","reason":"no pears","stack":"stock.py:7"}"#,
    );
    told.all(&["error, exception"], &paper.heard(app));
    calls(&mut paper);
    paper.say(
        stock,
        r#"{"op":"raise","ref":3,"class":"undef","reason":"`stock` has no function `pears`"}"#,
    );
    told.all(&["error, undef"], &paper.heard(app));
    calls(&mut paper);
    paper.pass(Duration::from_millis(1500));
    told.all(&["error, timeout of a call"], &paper.heard(app));
    told.all(&["cancel"], &paper.heard(stock));
    paper.say(app, r#"{"op":"cast","to":"stock","body":["put","apples",3]}"#);
    told.all(&["cast"], &paper.heard(stock));
    paper.say(app, r#"{"op":"register","name":"till"}"#);
    told.add("error, calling_self", &paper.answer(app, r#"{"op":"call","id":32,"to":"till"}"#));
    paper.say(app, r#"{"op":"multi_call","id":33,"name":"stock","nodes":["stock@hal","store@io"],"body":"count"}"#);
    paper.heard(stock);
    paper.say(stock, r#"{"op":"reply","ref":6,"body":3}"#);
    told.all(&["ok, of multi_call"], &paper.heard(app));
    calls(&mut paper);
    paper.say(stock, r#"{"op":"exit","reason":"sold out"}"#);
    told.all(&["error, exit"], &paper.heard(app));
}

fn announced(told: &mut Told) {
    let mut paper = Paper::new("stock@hal");
    let (app, other) = (paper.open(true), paper.open(true));
    told.all(
        &["ok, of monitor_group", "group, as it is"],
        &paper.say(app, r#"{"op":"monitor_group","id":40,"group":"tills"}"#),
    );
    paper.say(other, r#"{"op":"join","group":"tills"}"#);
    told.all(&["group, who joined"], &paper.heard(app));
    told.add("ok, of members", &paper.answer(app, r#"{"op":"members","id":38,"group":"tills"}"#));
    told.add("ok, of groups", &paper.answer(app, r#"{"op":"groups","id":39}"#));
    paper.say(other, r#"{"op":"leave","group":"tills"}"#);
    told.all(&["group, who left"], &paper.heard(app));
    paper.say(other, r#"{"op":"serve","module":"stock","functions":["count","take"]}"#);
    told.add("ok, of modules", &paper.answer(app, r#"{"op":"modules","id":43}"#));
    paper.say(app, r#"{"op":"rpc","id":44,"node":"any","module":"stock","function":"count"}"#);
    told.all(&["rpc"], &paper.heard(other));
    told.add(
        "error, undef with what there is",
        &paper
            .answer(app, r#"{"op":"rpc","id":44,"node":"any","module":"stock","function":"give"}"#),
    );

    // Two nodes that do not see each other take the same name, and then meet.
    let mut far = Paper::new("store@io");
    let rival = far.open(true);
    paper.say(app, r#"{"op":"register","name":"stock","scope":"global"}"#);
    far.pass(Duration::from_millis(10));
    far.say(rival, r#"{"op":"register","name":"stock","scope":"global"}"#);
    paper.meet("store@io");
    far.meet_and_keep("stock@hal");
    carry(&mut far, &mut paper);
    told.all(&["name_conflict"], &paper.heard(app));
}

fn topics(told: &mut Told) {
    let mut paper = Paper::new("stock@hal");
    let (app, other) = (paper.open(true), paper.open(true));
    let subscribe = r#"{"op":"subscribe","id":45,"topic":"shop.*","metadata":{"nick":"ann"}}"#;
    told.add("ok, of subscribe", &paper.answer(app, subscribe));
    let publish = r#"{"op":"publish","topic":"shop.tea","id":47,"report":true,"retain":true,"body":{"left":3}}"#;
    told.add("ok, of publish with a report", &paper.answer(other, publish));
    told.all(&["message, of a topic"], &paper.heard(app));
    let count = r#"{"op":"subscribers","id":48,"topic":"shop.tea"}"#;
    told.add("ok, of subscribers", &paper.answer(app, count));
    let list = r#"{"op":"subscribers","id":48,"topic":"shop.tea","list":true}"#;
    told.add("ok, of subscribers with who they are", &paper.answer(app, list));
    told.add("ok, of topics", &paper.answer(app, r#"{"op":"topics","id":49}"#));
    let heard = paper.say(other, r#"{"op":"subscribe","topic":"shop.tea"}"#);
    told.all(&["message, of a topic, kept for who subscribes later"], &heard);
    paper.say(app, r#"{"op":"unsubscribe","topic":"shop.*"}"#);
    paper.say(other, r#"{"op":"unsubscribe","topic":"shop.tea"}"#);

    let member = r#"{"op":"subscribe","topic":"job","group":"workers"}"#;
    paper.say(app, r#"{"op":"flag","delivery":"pull"}"#);
    paper.say(app, member);
    paper.say(other, r#"{"op":"publish","topic":"job","body":"sweep"}"#);
    let helper = paper.open(true);
    paper.say(helper, member);
    paper.say(app, r#"{"op":"unsubscribe","topic":"job"}"#);
    told.all(&["message, that another member of a queue group did not take"], &paper.heard(helper));
    paper.meet("store@io");
    let sync = r#"{"op":"subscribe","id":45,"topic":"shop.*","sync":true}"#;
    assert!(paper.say(app, sync).is_empty());
    paper.pass(Duration::from_secs(5));
    told.all(&["error, timeout of subscribe with sync"], &paper.heard(app));
}

fn nodes(told: &mut Told) {
    let mut paper = Paper::new("stock@hal");
    let app = paper.open(true);
    let me = SelfSeen {
        addresses: vec!["192.0.2.1:4470".to_owned()],
        min_peers: 1,
        ..SelfSeen::default()
    };
    paper.router.on_self(me, &mut paper.out);
    paper.router.on_bound();
    paper.router.on_looked();
    let ready = r#"{"op":"ready","id":49}"#;
    told.add("ok, of ready where it is not", &paper.answer(app, ready));
    paper.say(app, r#"{"op":"monitor_nodes","on":true}"#);
    paper.meet("store@io");
    told.all(&["nodeup"], &paper.heard(app));
    told.add("ok, of ready", &paper.answer(app, ready));
    paper.router.on_known(vec![KnownNode {
        name: Some("till@europa".parse().expect("a name")),
        incarnation: None,
        addresses: vec![([192, 0, 2, 9], 4470).into()],
        sources: vec!["mdns".to_owned()],
        labels: std::collections::BTreeMap::new(),
        reason: Some("does not answer".to_owned()),
    }]);
    told.add("ok, of nodes", &paper.answer(app, r#"{"op":"nodes","id":4}"#));
    let wait = r#"{"op":"wait_for","id":93,"nodes":["store@io"]}"#;
    told.add("ok, of wait_for", &paper.answer(app, wait));
    let wait = r#"{"op":"wait_for","id":93,"nodes":["lamp@io"],"timeout_ms":0}"#;
    told.add("timeout, of wait_for", &paper.answer(app, wait));
    told.add("ok, of ping", &paper.answer(app, r#"{"op":"ping","id":5,"node":"stock@hal"}"#));
    assert!(paper.say(app, r#"{"op":"ping","id":5,"node":"till@europa"}"#).is_empty());
    mesh_says(&mut paper, MeshAnswer::False);
    told.all(&["ok, of ping to nobody"], &paper.heard(app));
    for (title, said) in
        [("ok, of connect", MeshAnswer::True), ("ok, of connect to nobody", MeshAnswer::False)]
    {
        paper.say(app, r#"{"op":"connect","id":6,"to":"till@europa"}"#);
        mesh_says(&mut paper, said);
        told.all(&[title], &paper.heard(app));
    }
    paper.part("silent for 5 s");
    told.all(&["nodedown"], &paper.heard(app));
    let heard = paper.say(app, r#"{"op":"monitor_node","node":"store@io"}"#);
    told.all(&["nodedown, of a node that was not connected"], &heard);
}

fn errors(told: &mut Told) {
    let mut paper = Paper::with("stock@hal", Limits { body_bytes: 100, ..Limits::default() });
    let (app, other) = (paper.open(false), paper.open(true));
    paper.say(app, r#"{"op":"register","name":"stock"}"#);
    paper.say(other, r#"{"op":"flag","delivery":"pull","mailbox":{"entries":1}}"#);
    let long = "x".repeat(101);
    for (code, command) in [
        ("badarg", r#"{"op":"send","id":1}"#.to_owned()),
        ("badop", r#"{"op":"regsiter","id":1,"name":"stock"}"#.to_owned()),
        ("denied", r#"{"op":"monitor_deaths","id":1}"#.to_owned()),
        ("noconnection", r#"{"op":"processes","id":1,"node":"store@io"}"#.to_owned()),
        ("noproc", r#"{"op":"send","id":1,"to":"nobody","body":1}"#.to_owned()),
        (
            "not_found",
            r#"{"op":"hello","id":1,"resume":{"session":99,"secret":"guess","seen":0}}"#.to_owned(),
        ),
        ("taken", r#"{"op":"spawn","id":1,"name":"stock"}"#.to_owned()),
        ("too_large", format!(r#"{{"op":"send","id":1,"to":"stock","body":"{long}"}}"#)),
        ("unsupported", r#"{"op":"hello","id":1,"version":2}"#.to_owned()),
    ] {
        // `resume` belongs to the first command of a connection.
        let first = ["not_found", "unsupported"].contains(&code);
        let app = if first { paper.open(false) } else { app };
        told.add(&format!("error, {code}"), &paper.answer(app, &command));
    }
    let send = format!(r#"{{"op":"send","id":1,"to":"{OTHER}","mode":"try","body":1}}"#);
    paper.say(app, &send);
    told.add("error, overloaded", &paper.answer(app, &send));

    paper.meet("store@io");
    assert!(paper.say(app, r#"{"op":"processes","id":1,"node":"store@io"}"#).is_empty());
    paper.pass(Duration::from_secs(5));
    told.all(&["error, timeout"], &paper.heard(app));

    let mut paper = Paper::with("stock@hal", Limits { peer_bytes: 1, ..Limits::default() });
    let app = paper.open(true);
    paper.meet("store@io");
    let send = format!(r#"{{"op":"send","id":1,"to":"{FAR}","mode":"try","body":1}}"#);
    paper.say(app, &send);
    told.add("error, overloaded by a node", &paper.answer(app, &send));
}

fn hosting(told: &mut Told) {
    let mut paper = Paper::new("stock@hal");
    let app = paper.open(true);
    let start = |paper: &mut Paper| loop {
        match paper.out.hosting.pop_front() {
            Some(HostRequest::Start(start)) => return start.run,
            Some(_) => {}
            None => panic!("nothing is to be started"),
        }
    };
    let begun = |paper: &mut Paper, started: Result<u32, String>| {
        let run = start(paper);
        paper.router.on_host_started(paper.now, run, started, &mut paper.out);
        run
    };
    let hosts = r#"{"op":"host","id":45,"name":"bot","command":"bin/bot"}"#;
    assert!(paper.say(app, hosts).is_empty(), "the answer comes with the start");
    begun(&mut paper, Err("cannot start bot: `bin/bot`: there is no such command".to_owned()));
    told.all(&["error, cannot_start"], &paper.heard(app));
    paper.say(app, hosts);
    let run = begun(&mut paper, Ok(4711));
    told.all(&["ok, of host"], &paper.heard(app));
    let factory = FactorySpec {
        name: "worker".to_owned(),
        program: Program { command: "worker".to_owned(), ..Program::default() },
        max_children: 100,
        max_restarts: 3,
        max_seconds: 5,
        restart: Restart::Temporary,
        shutdown: Shutdown::default(),
    };
    paper.router.on_factory_here(paper.now, factory, &mut paper.out);
    paper.say(app, r#"{"op":"spawn","id":11,"factory":"worker","args":["7"],"monitor":true}"#);
    begun(&mut paper, Ok(4712));
    told.all(&["ok, of spawn of a factory"], &paper.heard(app));
    told.add(
        "error, undef of a factory",
        &paper.answer(app, r#"{"op":"spawn","id":11,"factory":"wroker","node":"any"}"#),
    );
    told.add("ok, of tree", &paper.answer(app, r#"{"op":"tree","id":49}"#));
    assert!(paper.say(app, r#"{"op":"terminate_child","id":46,"name":"bot"}"#).is_empty());
    let exit = Exit { signal: Some(15), ..Exit::default() };
    paper.router.on_host_exited(paper.now, run, exit, &mut paper.out);
    told.all(&["ok, of terminate_child"], &paper.heard(app));
}

fn presence(told: &mut Told) {
    let mut paper = Paper::new("stock@hal");
    let (app, other) = (paper.open(true), paper.open(true));
    let watch = r#"{"op":"monitor_presence","id":54,"topic":"room.1"}"#;
    let heard = paper.say(other, watch);
    told.all(&["ok, of monitor_presence", "presence, of nobody yet"], &heard);
    let track = r#"{"op":"track","id":50,"topic":"room.1","key":"ann","metadata":{"at":"desk"}}"#;
    told.add("ok, of track and update_presence", &paper.answer(app, track));
    told.all(&["presence, of somebody who joins"], &paper.heard(other));
    let again = "error, of track twice";
    told.add(again, &paper.answer(app, track));
    let list = r#"{"op":"presence","id":53,"topic":"room.1"}"#;
    told.add("ok, of presence", &paper.answer(other, list));
    let update =
        r#"{"op":"update_presence","id":51,"topic":"room.1","key":"ann","metadata":{"at":"door"}}"#;
    paper.say(app, update);
    told.all(&["presence, of somebody of whom something else is known"], &paper.heard(other));
    paper.say(app, r#"{"op":"untrack","topic":"room.1","key":"ann"}"#);
    told.all(&["presence, of somebody who leaves"], &paper.heard(other));
    let wide = format!(
        r#"{{"op":"update_presence","id":51,"topic":"room.1","key":"ann","metadata":"{}"}}"#,
        "x".repeat(5000)
    );
    told.add("error, of metadata that is too large", &paper.answer(app, &wide));
    told.add("error, of update_presence of nobody", &paper.answer(app, update));
}

fn told() -> Vec<Record> {
    let mut told = Told(Vec::new());
    sessions(&mut told);
    processes(&mut told);
    reasons(&mut told);
    messages(&mut told);
    calls(&mut told);
    announced(&mut told);
    topics(&mut told);
    presence(&mut told);
    nodes(&mut told);
    hosting(&mut told);
    errors(&mut told);
    told.0
}

#[test]
fn every_event_is_one_frame_and_one_line() {
    let about =
        "What an app hears: the JSON line, the header in diagnostic notation, the CBOR frame.";
    golden::check(FILE, about, &told());
}

#[test]
fn every_line_of_the_golden_file_is_the_event_of_its_frame() {
    for record in golden::read(FILE) {
        let frame = record.frame();
        let json = record.get("json");
        assert_eq!(line(&frame), json, "{}", record.title);
        let (head, body) = split_frame(&frame).expect("one whole frame");
        let header = json_to_cbor(record.get("header").as_bytes()).expect("a header");
        assert_eq!(header, head, "{}", record.title);
        match noun(record.get("header")) {
            // The member of that name is the body.
            Some(noun) => {
                let member = format!(",\"{noun}\":");
                let (_, value) = json.split_once(&member).expect("the noun is a member");
                let value = value.strip_suffix('}').expect("an object");
                assert_eq!(json_to_cbor(value.as_bytes()).expect("a value"), body);
            }
            None => {
                let mut again = Vec::new();
                line_to_frame(json.as_bytes(), &mut again).expect("a line");
                let members = |frame: &[u8]| -> serde_json::Value {
                    serde_json::from_str(&line(frame)).expect("an object")
                };
                assert_eq!(members(&again), members(&frame), "{}", record.title);
                // A line with an `op` is taken for a command, whose `op` goes first.
                if !json.contains(r#","op":"#) {
                    assert_eq!(again, frame, "{}", record.title);
                }
            }
        }
    }
}

fn noun(header: &str) -> Option<&str> {
    let (_, noun) = header.split_once(r#""as":""#)?;
    noun.split('"').next()
}

#[test]
fn every_event_and_every_code_has_its_line() {
    let records = golden::read(FILE);
    for name in events_in_the_source() {
        let there = records.iter().any(|record| record.title.split(',').next() == Some(&name));
        assert!(there, "no golden event `{name}`");
    }
    for code in codes_in_the_source() {
        let member = format!(r#""code":"{code}""#);
        let there = records.iter().any(|record| record.get("json").contains(&member));
        assert!(there, "no golden error `{code}`");
    }
}

#[test]
fn what_another_node_sends_arrives_as_what_its_apps_would_read() {
    let (mut here, mut there) = (Paper::new("stock@hal"), Paper::new("store@io"));
    let (app, sender) = (here.open(true), there.open(true));
    here.meet(node("store@io").name.as_str());
    there.meet(node("stock@hal").name.as_str());
    there.say(sender, &format!(r#"{{"op":"send","to":"{ME}","body":"hello"}}"#));
    carry(&mut there, &mut here);
    let lines: Vec<String> = here.heard(app).iter().map(|frame| line(frame)).collect();
    assert_eq!(lines, [format!(r#"{{"ev":"message","from":"{FAR}","body":"hello"}}"#)]);
}
