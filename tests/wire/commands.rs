//! Commands: the JSON line and the CBOR frame are one and the same.

use std::collections::BTreeSet;

use pillion::dialect::json::line_to_frame;
use pillion::wire::command::{OPS, Request};

use super::golden::{self, Record, line};

const FILE: &str = "commands.txt";
/// A pid of an app on `stock@hal`.
const PID: &str = "<stock@hal.019b3f0c2a4e5f3c.100>";
/// A pid on another node.
const FAR: &str = "<store@io.019b3f0c2a4e5f3c.101>";

/// Every command with every field that it has. `PID` and `FAR` stand for pids.
const COMMANDS: [(&str, &str); 131] = [
    ("hello", r#"{"op":"hello","id":1,"version":1,"client":"shop 1.2"}"#),
    (
        "hello, with a window and a grace",
        r#"{"op":"hello","id":1,"version":1,"delivery":{"window":256},"grace_ms":30000}"#,
    ),
    (
        "hello, to resume",
        r#"{"op":"hello","id":1,"version":1,"resume":{"session":7,"secret":"0123456789abcdef0123456789abcdef","seen":42}}"#,
    ),
    (
        "hello, of a hosted program",
        r#"{"op":"hello","id":1,"version":1,"process":"104.0123456789abcdef0123456789abcdef"}"#,
    ),
    ("self", r#"{"op":"self","id":2}"#),
    ("self, with a text for an id", r#"{"op":"self","id":"who am I"}"#),
    ("bye", r#"{"op":"bye","id":3}"#),
    ("nodes", r#"{"op":"nodes","id":4}"#),
    ("nodes, of one state", r#"{"op":"nodes","id":4,"state":"connected"}"#),
    ("ping", r#"{"op":"ping","id":5,"node":"store@io","timeout_ms":500}"#),
    ("connect", r#"{"op":"connect","id":6,"to":"192.0.2.7:4470"}"#),
    ("disconnect", r#"{"op":"disconnect","id":7,"node":"store@io"}"#),
    ("peers", r#"{"op":"peers","id":46}"#),
    ("explain", r#"{"op":"explain","id":47,"node":"till@europa"}"#),
    ("doctor", r#"{"op":"doctor","id":48}"#),
    ("ready", r#"{"op":"ready","id":49,"wait_ms":30000}"#),
    ("drain", r#"{"op":"drain","id":50,"wait_ms":15000}"#),
    ("monitor_nodes", r#"{"op":"monitor_nodes","id":8,"on":true,"pid":"PID"}"#),
    ("monitor_node", r#"{"op":"monitor_node","id":9,"node":"store@io","on":true,"pid":"PID"}"#),
    ("wait_for", r#"{"op":"wait_for","id":93,"role":"worker","count":2,"timeout_ms":30000}"#),
    ("wait_for, certain nodes", r#"{"op":"wait_for","id":94,"nodes":["store@io","lamp@io"]}"#),
    ("monitor_deaths", r#"{"op":"monitor_deaths","id":10,"on":true}"#),
    ("spawn", r#"{"op":"spawn","id":11}"#),
    (
        "spawn, with all that can be said",
        r#"{"op":"spawn","id":11,"pid":"PID","name":"bot","label":"shelf 7","link":true,"monitor":true,"trap_exit":true,"delivery":"pull","mailbox":{"entries":1000,"bytes":1048576,"policy":"wait"}}"#,
    ),
    (
        "spawn, of a key-value process that stays with the node",
        r#"{"op":"spawn","id":11,"kind":"kv","name":"store","detached":true,"mailbox":{"bytes":1048576},"body":{"pears":2}}"#,
    ),
    (
        "spawn, of a factory",
        r#"{"op":"spawn","id":11,"factory":"worker","node":"any","args":["--job","7"],"name":"job7","link":true,"monitor":true,"timeout_ms":2000,"pid":"PID"}"#,
    ),
    ("host", r#"{"op":"host","id":45,"name":"bot","command":"bin/bot"}"#),
    (
        "host, with all that can be said",
        r#"{"op":"host","id":45,"name":"bot","command":"python","args":["bot.py"],"env":{"LEVEL":"7"},"cwd":"/srv/bot","restart":"transient","shutdown":10000,"supervisor":"shop","significant":true,"register":false}"#,
    ),
    ("terminate_child", r#"{"op":"terminate_child","id":46,"name":"bot"}"#),
    ("restart_child", r#"{"op":"restart_child","id":47,"name":"bot"}"#),
    ("delete_child", r#"{"op":"delete_child","id":48,"name":"bot"}"#),
    ("tree", r#"{"op":"tree","id":49}"#),
    ("exit", r#"{"op":"exit","id":12,"pid":"PID","reason":"done"}"#),
    ("kill", r#"{"op":"kill","id":13,"to":"FAR","reason":"shutdown","pid":"PID"}"#),
    ("info", r#"{"op":"info","id":14,"to":"bot","keys":["status","message_queue_len"]}"#),
    ("processes", r#"{"op":"processes","id":15,"node":"store@io"}"#),
    (
        "flag",
        r#"{"op":"flag","id":16,"pid":"PID","trap_exit":true,"sensitive":true,"label":"till","delivery":"push","mailbox":{"policy":"drop_oldest"}}"#,
    ),
    ("register", r#"{"op":"register","id":17,"name":"stock","pid":"PID"}"#),
    ("unregister", r#"{"op":"unregister","id":18,"name":"stock"}"#),
    ("whereis", r#"{"op":"whereis","id":19,"name":"stock"}"#),
    ("whereis, on another node", r#"{"op":"whereis","id":19,"name":"stock","node":"store@io"}"#),
    ("registered", r#"{"op":"registered","id":20}"#),
    ("send", r#"{"op":"send","to":"stock","body":{"take":3,"of":"apples"}}"#),
    ("send, to a pid, with an answer", r#"{"op":"send","to":"FAR","id":21,"body":"hello"}"#),
    (
        "send, to a name on another node, lossy, as another process",
        r#"{"op":"send","to":"stock@store@io","mode":"lossy","pid":"PID","body":[1,2.5,null]}"#,
    ),
    (
        "send, of something that is no CBOR",
        r#"{"op":"send","to":"stock","ct":"text/plain","body":{"$bytes":"aGVsbG8="}}"#,
    ),
    ("send, of nothing", r#"{"op":"send","to":"stock"}"#),
    ("send, of bytes", r#"{"op":"send","to":"stock","body":{"$bytes":"AAH/"}}"#),
    (
        "send, of whole numbers beyond 2^53",
        r#"{"op":"send","to":"stock","body":[9007199254740992,{"$int":"9007199254740993"},-9007199254740992,{"$int":"-18446744073709551616"}]}"#,
    ),
    (
        "send, of floats",
        r#"{"op":"send","to":"stock","body":[1.0,-0.5,{"$float":"NaN"},{"$float":"-Infinity"}]}"#,
    ),
    (
        "send, of a map whose keys are no texts",
        r#"{"op":"send","to":"stock","body":{"$map":[[1,"one"],[[2],null]]}}"#,
    ),
    (
        "send, of a tagged item",
        r#"{"op":"send","to":"stock","body":{"$tag":[0,"2026-11-21T00:00:00Z"]}}"#,
    ),
    ("send, of a key that starts with $", r#"{"op":"send","to":"stock","body":{"$$bytes":1}}"#),
    ("cast", r#"{"op":"cast","id":30,"to":"stock","pid":"PID","body":["put","apples",3]}"#),
    (
        "cast, to a name on another node, lossy",
        r#"{"op":"cast","to":"stock@store@io","mode":"lossy","body":"count"}"#,
    ),
    ("abcast", r#"{"op":"abcast","id":31,"name":"stock","body":"count"}"#),
    (
        "abcast, to some nodes",
        r#"{"op":"abcast","id":31,"nodes":["store@io","stock@hal"],"name":"stock","pid":"PID","body":"count"}"#,
    ),
    ("call", r#"{"op":"call","id":32,"to":"stock","body":["get","apples"]}"#),
    (
        "call, with a deadline, as another process",
        r#"{"op":"call","id":32,"to":"stock@store@io","timeout_ms":1500,"pid":"PID","body":["get","apples"]}"#,
    ),
    (
        "multi_call",
        r#"{"op":"multi_call","id":33,"nodes":["store@io","stock@hal"],"name":"stock","timeout_ms":1500,"pid":"PID","body":"count"}"#,
    ),
    ("reply", r#"{"op":"reply","ref":7,"body":3}"#),
    ("reply, a part", r#"{"op":"reply","id":34,"ref":7,"more":true,"body":"once upon a time"}"#),
    (
        "raise",
        r#"{"op":"raise","id":35,"ref":7,"class":"KeyError","reason":"no pears","stack":"stock.py:7"}"#,
    ),
    ("raise, for a function that is not there", r#"{"op":"raise","ref":7,"class":"undef"}"#),
    (
        "register, in the whole mesh",
        r#"{"op":"register","id":17,"name":"stock","scope":"global","on_conflict":"keep_newest","pid":"PID"}"#,
    ),
    (
        "unregister, in the whole mesh",
        r#"{"op":"unregister","id":18,"name":"stock","scope":"global"}"#,
    ),
    ("whereis, in the whole mesh", r#"{"op":"whereis","id":19,"name":"stock","scope":"global"}"#),
    ("registered, in the whole mesh", r#"{"op":"registered","id":20,"scope":"global"}"#),
    ("send, to a global name", r#"{"op":"send","to":"global:stock","body":"count"}"#),
    ("send, to every member of a group", r#"{"op":"send","to":"group:tills","body":"close"}"#),
    ("join", r#"{"op":"join","id":36,"group":"tills","pid":"PID"}"#),
    ("leave", r#"{"op":"leave","id":37,"group":"tills","pid":"PID"}"#),
    ("members", r#"{"op":"members","id":38,"group":"tills"}"#),
    ("members, of this node", r#"{"op":"members","id":38,"group":"tills","local":true}"#),
    ("groups", r#"{"op":"groups","id":39}"#),
    ("monitor_group", r#"{"op":"monitor_group","id":40,"group":"tills","pid":"PID"}"#),
    (
        "serve",
        r#"{"op":"serve","id":41,"module":"stock","functions":["count","take"],"pid":"PID"}"#,
    ),
    ("unserve", r#"{"op":"unserve","id":42,"module":"stock","pid":"PID"}"#),
    ("modules", r#"{"op":"modules","id":43}"#),
    (
        "rpc",
        r#"{"op":"rpc","id":44,"node":"store@io","module":"stock","function":"take","timeout_ms":1500,"pid":"PID","body":["apples",3]}"#,
    ),
    (
        "rpc, on the nearest node",
        r#"{"op":"rpc","id":44,"node":"any","module":"stock","function":"count"}"#,
    ),
    (
        "rpc, on several nodes",
        r#"{"op":"rpc","id":44,"nodes":["store@io","stock@hal"],"module":"stock","function":"count"}"#,
    ),
    (
        "rpc_cast",
        r#"{"op":"rpc_cast","node":"any","module":"stock","function":"count","body":null}"#,
    ),
    ("subscribe", r#"{"op":"subscribe","id":45,"topic":"shop.*"}"#),
    (
        "subscribe, with all that can be said",
        r#"{"op":"subscribe","id":45,"topic":"shop.>","group":"workers","metadata":{"nick":"ann"},"sync":true,"dedupe":true,"pid":"PID"}"#,
    ),
    ("unsubscribe", r#"{"op":"unsubscribe","id":46,"topic":"shop.*","pid":"PID"}"#),
    ("publish", r#"{"op":"publish","topic":"shop.tea","body":{"left":3}}"#),
    (
        "publish, with all that can be said",
        r#"{"op":"publish","topic":"shop.tea","id":47,"scope":"local","exclude":true,"mode":"try","report":true,"retain":true,"pid":"PID","body":{"left":3}}"#,
    ),
    (
        "publish, on one node, past one process",
        r#"{"op":"publish","topic":"shop.tea","node":"store@io","exclude":"FAR","body":{"left":3}}"#,
    ),
    ("subscribers", r#"{"op":"subscribers","id":48,"topic":"shop.tea"}"#),
    (
        "subscribers, with who they are",
        r#"{"op":"subscribers","id":48,"topic":"shop.tea","list":true}"#,
    ),
    ("topics", r#"{"op":"topics","id":49}"#),
    ("track", r#"{"op":"track","id":50,"topic":"room.1","key":"ann"}"#),
    (
        "track, with what everybody sees",
        r#"{"op":"track","id":50,"topic":"room.1","key":"ann","metadata":{"at":"desk"},"pid":"PID"}"#,
    ),
    (
        "update_presence",
        r#"{"op":"update_presence","id":51,"topic":"room.1","key":"ann","metadata":{"at":"door"},"pid":"PID"}"#,
    ),
    ("untrack", r#"{"op":"untrack","id":52,"topic":"room.1","key":"ann","pid":"PID"}"#),
    ("untrack, of a whole topic", r#"{"op":"untrack","id":52,"topic":"room.1"}"#),
    ("untrack, everywhere", r#"{"op":"untrack","id":52}"#),
    ("presence", r#"{"op":"presence","id":53,"topic":"room.1"}"#),
    ("presence, of one key", r#"{"op":"presence","id":53,"topic":"room.1","key":"ann"}"#),
    (
        "presence, of keys that begin alike",
        r#"{"op":"presence","id":53,"topic":"room.1","prefix":"an"}"#,
    ),
    ("monitor_presence", r#"{"op":"monitor_presence","id":54,"topic":"room.1","pid":"PID"}"#),
    (
        "send_after",
        r#"{"op":"send_after","id":22,"to":"stock","after_ms":1500,"pid":"PID","body":"tick"}"#,
    ),
    ("cancel_timer", r#"{"op":"cancel_timer","id":23,"timer":5}"#),
    ("receive", r#"{"op":"receive","id":24,"pid":"PID","max":10,"timeout_ms":1000}"#),
    ("receive, one if there is one", r#"{"op":"receive","id":24}"#),
    ("cancel", r#"{"op":"cancel","id":30,"of":24,"pid":"PID"}"#),
    ("flush", r#"{"op":"flush","id":25,"pid":"PID"}"#),
    ("more", r#"{"op":"more","n":128}"#),
    ("more, of another process", r#"{"op":"more","pid":"PID","n":128}"#),
    ("link", r#"{"op":"link","id":26,"to":"FAR","pid":"PID"}"#),
    ("unlink", r#"{"op":"unlink","id":27,"to":"FAR","pid":"PID"}"#),
    ("monitor", r#"{"op":"monitor","id":28,"to":"FAR","pid":"PID"}"#),
    ("monitor, of a name on another node", r#"{"op":"monitor","id":28,"to":"stock@store@io"}"#),
    ("demonitor", r#"{"op":"demonitor","id":29,"ref":3,"flush":true}"#),
    ("kill, as hard as it goes", r#"{"op":"kill","id":13,"to":"bot"}"#),
    ("info, of oneself", r#"{"op":"info","id":14}"#),
    ("nodes, of several states", r#"{"op":"nodes","id":4,"state":["visible","this"]}"#),
    (
        "monitor_nodes, of one type",
        r#"{"op":"monitor_nodes","id":8,"on":true,"node_type":"visible"}"#,
    ),
    ("alive", r#"{"op":"alive","id":45,"to":"FAR"}"#),
    (
        "register, from whoever has the name",
        r#"{"op":"register","id":17,"name":"stock","scope":"global","replace":true,"pid":"PID"}"#,
    ),
    ("registered, of a prefix", r#"{"op":"registered","id":20,"scope":"global","prefix":"room."}"#),
    ("groups, of a prefix", r#"{"op":"groups","id":39,"prefix":"room."}"#),
    (
        "monitor_group, of a prefix",
        r#"{"op":"monitor_group","id":40,"prefix":"room.","pid":"PID"}"#,
    ),
    ("send, checked", r#"{"op":"send","to":"stock@store@io","id":21,"checked":true,"body":1}"#),
    ("cast, checked", r#"{"op":"cast","to":"FAR","id":30,"checked":true,"body":1}"#),
    ("sbcast", r#"{"op":"sbcast","id":46,"name":"stock","body":"count"}"#),
    (
        "sbcast, to some nodes",
        r#"{"op":"sbcast","id":46,"nodes":["store@io","stock@hal"],"name":"stock","timeout_ms":500,"pid":"PID","body":"count"}"#,
    ),
    ("read_timer", r#"{"op":"read_timer","id":47,"timer":5}"#),
    ("monitor_group, of all groups", r#"{"op":"monitor_group","id":40,"prefix":""}"#),
    ("exit, of the session", r#"{"op":"exit","reason":"normal"}"#),
];

fn json(template: &str) -> String {
    template.replace("PID", PID).replace("FAR", FAR)
}

#[test]
fn every_command_is_one_line_and_one_frame() {
    let records: Vec<Record> = COMMANDS
        .iter()
        .map(|(title, template)| {
            let mut frame = Vec::new();
            line_to_frame(json(template).as_bytes(), &mut frame).expect(title);
            Record::app(title, &frame)
        })
        .collect();
    golden::check(
        FILE,
        "What an app says: the JSON line, the header in diagnostic notation, the CBOR frame.",
        &records,
    );
    for (record, (title, template)) in records.iter().zip(COMMANDS) {
        assert_eq!(record.get("json"), json(template), "{title} goes there and back");
    }
}

#[test]
fn every_frame_of_the_golden_file_is_the_command_of_its_line() {
    for record in golden::read(FILE) {
        let frame = record.frame();
        assert_eq!(line(&frame), record.get("json"), "{}", record.title);
        let request = Request::read(&frame[4..]);
        assert!(request.command.is_ok(), "{}: {:?}", record.title, request.command);
        assert!(record.title.starts_with(request.op), "{} is a {}", record.title, request.op);
    }
}

#[test]
fn every_command_has_its_line() {
    let titles: BTreeSet<String> = golden::read(FILE)
        .iter()
        .map(|record| record.title.split(',').next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(titles, OPS.iter().map(|op| (*op).to_owned()).collect());
}
