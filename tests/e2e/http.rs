//! HTTP on the app socket: what curl and scripts say, and what they hear.

use std::io::Write as _;
use std::process::Stdio;

use crate::http_client::{Http, Reply, Watcher, curl, curl_command, has_curl, serve};
use crate::support::{Daemon, Place, Value, eventually, json};

/// Two nodes that know each other.
fn two() -> (Daemon, Daemon) {
    let place = Place::new();
    // Patient, so that a starved machine does not part them.
    let [a, b] = ["a", "b"].map(|base| place.start(base, &["--profile", "wan"]));
    a.json().meets(&[&b]);
    b.json().meets(&[&a]);
    (a, b)
}

#[test]
fn what_curl_publishes_on_one_node_curl_hears_on_another_as_a_server_sent_event() {
    if !has_curl() {
        return;
    }
    let (a, b) = two();
    let mut watcher = Watcher::start(&b, "/v1/subscribe?topic=shop.*&sync");
    let (name, first) = watcher.event();
    assert_eq!(name, "ok");
    let said = curl(&a, &["-d", r#"{"left":3}"#, "http://x/v1/publish?topic=shop.tea&report"]);
    assert_eq!(said, "{\"nodes\":1,\"local\":0}\n");
    curl(
        &a,
        &["-H", "Content-Type: text/plain", "-d", "none", "http://x/v1/publish?topic=shop.tea"],
    );
    let (name, event) = watcher.event();
    assert_eq!((name.as_str(), &event["ev"]), ("message", &json!("message")));
    assert_eq!((&event["topic"], &event["body"]), (&json!("shop.tea"), &json!({"left": 3})));
    let (_, event) = watcher.event();
    assert_eq!(
        (&event["ct"], &event["body"]),
        (&json!("text/plain"), &json!({"$bytes": "bm9uZQ=="}))
    );
    // Whoever knows its pid can send to it, as to every process.
    let to = first["pid"].as_str().unwrap().replace('<', "%3C").replace('>', "%3E");
    assert_eq!(curl(&a, &["-d", "1", &format!("http://x/v1/send?to={to}")]), "");
    assert_eq!(watcher.event().1["body"], 1);
    // It is an app like every other.
    let processes = curl(&b, &["http://x/v1/processes"]);
    let processes: Value = serde_json::from_str(&processes).unwrap();
    let processes = processes["processes"].as_array().unwrap();
    let of_curl = processes.iter().find(|process| process["pid"] == first["pid"]).unwrap();
    assert!(of_curl["client"].as_str().unwrap().starts_with("curl/"), "{of_curl}");
}

#[test]
fn a_call_by_curl_reaches_an_app_of_another_node_and_its_answer_comes_back() {
    if !has_curl() {
        return;
    }
    let (a, b) = two();
    let stock = serve(&b, "stock");
    let json = r#"{"of":"apples"}"#;
    for path in ["call?to=stock@b", "rpc?node=b&module=stock&function=count"] {
        let url = format!("http://x/v1/{path}&timeout_ms=60000");
        assert_eq!(curl(&a, &["-d", json, &url]), format!("{json}\n"));
        let text = [
            "-H",
            "Content-Type: text/plain;charset=utf-8",
            "-d",
            "grün",
            "-w",
            "|%{content_type}",
            &url,
        ];
        assert_eq!(curl(&a, &text), "grün|text/plain;charset=utf-8");
        let said = curl(&a, &["-X", "POST", "-w", "%{http_code}", &url]);
        assert_eq!(said, "null\n200", "no body is null for an app of JSON");
        let as_cbor = ["-H", "Accept: application/cbor", "-d", "1", "-w", "|%{content_type}", &url];
        assert_eq!(curl(&a, &as_cbor), "\u{1}|application/cbor");
    }
    b.json().send("stock", "stop".into());
    stock.join().unwrap();
}

#[test]
fn an_error_has_the_status_of_its_code() {
    let place = Place::new();
    let (a, b) = (place.start("a", &["--body-max", "64KiB"]), place.start("b", &[]));
    a.json().meets(&[&b]);
    let mut asker = Http::of(&a);
    let mut app = a.json();
    app.ok(json!({"op": "register", "name": "stock"}));
    let said = |reply: Reply, status: u16, code: &str| {
        assert_eq!(reply.error(), (status, code.to_owned()));
    };
    said(asker.post("/v1/send?to=nobody", json!(1)), 404, "noproc");
    said(asker.post("/v1/call", json!(1)), 400, "badarg");
    said(asker.post("/v1/call?to=stock&timeout_ms=1", json!(1)), 504, "timeout");
    app.event_of("cancel");
    said(asker.post("/v1/call?to=stock@nowhere", json!(1)), 502, "noconnection");
    said(asker.get("/v1/processes?node=nowhere"), 502, "noconnection");
    said(asker.post("/v1/rpc?node=b&module=node&function=sing", json!(1)), 404, "undef");
    said(asker.get("/v1/subscribe?topic=a..b"), 400, "badarg");
    let mut asker = Http::of(&a);
    said(asker.get("/v1/subscribe?topic=a&name=stock"), 409, "taken");
    let mut asker = Http::of(&a);
    said(asker.get("/v1/subscribe"), 400, "badarg");
    let mut asker = Http::of(&a);
    said(asker.get("/v1/nodes?state=1&state=2"), 400, "badarg");
    said(asker.get("/v1/whereis?name=a&scope=galactic"), 400, "badarg");
    // What the callee says of its failure is told.
    asker.begin_with("POST", "/v1/call?to=stock", "application/json", b"1");
    let call = app.event_of("call");
    app.ok(json!({"op": "raise", "ref": call["ref"], "class": "KeyError", "reason": "no pears"}));
    let reply = asker.reply();
    assert_eq!(
        (reply.json()["class"].as_str(), reply.json()["reason"].as_str()),
        (Some("KeyError"), Some("no pears"))
    );
    said(reply, 500, "exception");
    asker.begin_with("POST", "/v1/call?to=stock", "application/json", b"1");
    app.event_of("call");
    app.tell(json!({"op": "exit", "reason": "sold out"}));
    said(asker.reply(), 502, "exit");
    said(asker.post("/v1/send?to=stock@b", json!("x".repeat(70_000))), 413, "too_large");
    // That one is known only once JSON has become CBOR; the connection goes on.
    assert_eq!(asker.get("/v1/alive?to=stock").json(), json!({"result": false}));
}

#[test]
fn a_wider_socket_has_no_operators_for_http_either() {
    let place = Place::new();
    let socket = place.path().join("wide.sock");
    let a = place.start(
        "a",
        &["--strategy", "none", "--socket", socket.to_str().unwrap(), "--socket-mode", "0666"],
    );
    let mut asker = Http::of(&a);
    assert_eq!(asker.post("/v1/connect?to=b", Value::Null).status, 400, "it takes no body");
    for target in ["/v1/connect?to=b@t", "/v1/disconnect?node=b@t"] {
        asker.begin("POST", target);
        assert_eq!(asker.reply().error(), (403, "denied".to_owned()), "{target}");
    }
    let (mut stream, mut app) = (Http::of(&a), a.json());
    let pid = stream.subscribe("/v1/subscribe?topic=a");
    assert_eq!(app.code(json!({"op": "kill", "to": pid})), "denied");
    let to = pid.replace('<', "%3C").replace('>', "%3E");
    asker.begin("POST", &format!("/v1/kill?to={to}&reason=kill"));
    assert_eq!(asker.reply().error(), (403, "denied".to_owned()));
}

#[test]
fn a_connection_is_kept_for_further_requests_and_its_process_with_it() {
    let a = Daemon::alone(&[]);
    let mut asker = Http::of(&a);
    let mut pids = Vec::new();
    for _ in 0..3 {
        let reply = asker.get("/v1/info?keys=pid&keys=delivery");
        assert_eq!(reply.json()["info"]["delivery"], "pull");
        pids.push(reply.json()["info"]["pid"].clone());
    }
    assert!(pids[0].is_string() && pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    let mut other = Http::of(&a);
    other.write("GET /v1/info?keys=pid HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let reply = other.reply();
    assert_ne!(reply.json()["info"]["pid"], pids[0]);
    assert_eq!(reply.field("connection"), "close");
    assert_eq!(other.rest(), b"");
    let mut old = Http::of(&a);
    old.write("GET /v1/info?keys=pid HTTP/1.0\r\n\r\n");
    assert!(String::from_utf8(old.rest()).unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
}

#[test]
fn a_head_is_a_get_without_its_body_and_options_name_the_methods() {
    let a = Daemon::alone(&[]);
    let mut asker = Http::of(&a);
    let whole = asker.get("/v1/registered");
    asker.begin("HEAD", "/v1/registered");
    let head = asker.reply_to(true);
    assert_eq!((head.status, &head.fields), (200, &whole.fields));
    asker.begin("HEAD", "/v1/subscribe?topic=a");
    let head = asker.reply_to(true);
    assert_eq!(head.field("content-type"), "text/event-stream");
    assert_eq!(head.field("transfer-encoding"), "chunked");
    assert!(!head.fields.contains_key("content-length"));
    asker.begin("OPTIONS", "/v1/kv/store/a");
    assert_eq!(asker.reply().field("allow"), "GET, HEAD, PUT, OPTIONS, DELETE");
    asker.begin("OPTIONS", "*");
    assert_eq!(asker.reply().status, 204);
    let reply = asker.post("/v1/nodes", json!(1));
    assert_eq!((reply.field("allow"), reply.error().0), ("GET, HEAD, OPTIONS", 405));
    let reply = asker.get("/v1/node");
    assert!(reply.json()["message"].as_str().unwrap().contains("/v1/nodes"));
    assert_eq!(reply.error(), (404, "not_found".to_owned()));
    assert_eq!(asker.get("/v1/registered"), whole);
}

#[test]
fn requests_of_one_connection_are_answered_in_their_order_however_many_there_are() {
    const MANY: usize = 3000;
    let (a, b) = two();
    let (local, stock) = (serve(&a, "local"), serve(&b, "stock"));
    let mut asker = Http::of(&a);
    let mut writer = asker.other_hand();
    // Some take a while, because they go to another node. Those behind them wait.
    let thread = std::thread::spawn(move || {
        for number in 0..MANY {
            let body = number.to_string();
            let to = if number % 10 == 0 { "stock@b" } else { "local" };
            let target = format!("/v1/call?to={to}&timeout_ms=60000");
            writer.begin_with("POST", &target, "application/json", body.as_bytes());
        }
    });
    for number in 0..MANY {
        let reply = asker.reply();
        assert_eq!((reply.status, reply.json()), (200, json!(number)));
    }
    thread.join().unwrap();
    for (daemon, name) in [(&a, "local"), (&b, "stock")] {
        daemon.json().send(name, "stop".into());
    }
    local.join().unwrap();
    stock.join().unwrap();
}

#[test]
fn who_has_stopped_writing_is_answered_all_that_was_asked() {
    let a = Daemon::alone(&[]);
    let mut asker = Http::of(&a);
    for _ in 0..50 {
        asker.begin("GET", "/v1/alive?to=nobody");
    }
    asker.stop_writing();
    for _ in 0..50 {
        assert_eq!(asker.reply().json(), json!({"result": false}));
    }
    assert_eq!(asker.rest(), b"");
    // A request that is not whole is none.
    let mut asker = Http::of(&a);
    asker.write("POST /v1/send?to=a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n123");
    asker.stop_writing();
    assert_eq!(asker.rest(), b"");
}

#[test]
fn a_request_that_is_none_is_told_so_and_nobody_else_notices() {
    let mut a = Daemon::alone(&[]);
    let (mut app, mut other) = (a.json(), Http::of(&a));
    let mut stream = Http::of(&a);
    stream.subscribe("/v1/subscribe?topic=a");
    let long = format!("GET /v1/{} HTTP/1.1\r\n", "x".repeat(20_000));
    let fields = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n", "x".repeat(20_000));
    for (text, status) in [
        ("GET\r\n\r\n", 400),
        ("GARBAGE\r\n\r\n", 400),
        ("GET /v1/nodes\r\n\r\n", 400),
        ("GET /v1/nodes HTTP/1.1\r\n\r\n", 400),
        ("GET /v1/nodes HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        ("GET /v1/nodes HTTP/1.1\r\nHost\r\n\r\n", 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("POST /v1/send?to=a HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (
            "POST /v1/send?to=a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (
            "POST /v1/send?to=a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
            400,
        ),
        ("POST /v1/send?to=a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (&long, 414),
        (&fields, 431),
    ] {
        let mut asker = Http::of(&a);
        asker.try_write(text);
        let reply = asker.reply();
        assert_eq!((reply.error().0, reply.field("connection")), (status, "close"), "{text:.80}");
        asker.stop_writing();
        assert_eq!(asker.rest(), b"", "{text:.80}");
    }
    app.nothing();
    assert_eq!(other.get("/v1/alive?to=nobody").status, 200);
    app.ok(json!({"op": "publish", "topic": "a", "body": 1}));
    assert_eq!(stream.event().unwrap().1["body"], 1);
    assert!(a.lives() && !a.logged().contains("panicked"), "{}", a.logged());
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let a = Daemon::alone(&["--body-max", "64KiB"]);
    let head = "POST /v1/publish?topic=a HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\n";
    let mut asker = Http::of(&a);
    asker.write(format!("{head}Content-Length: 100000000\r\nExpect: 100-continue\r\n\r\n"));
    let reply = asker.reply();
    assert_eq!(
        (reply.error(), reply.field("connection")),
        ((413, "too_large".to_owned()), "close")
    );
    assert!(String::from_utf8(reply.body).unwrap().contains("body-max"));
    // Who does not ask before writes until it is told, and is told.
    let mut asker = Http::of(&a);
    asker.write(format!("{head}Content-Length: 100000000\r\n\r\n"));
    asker.try_write(vec![b'x'; 300_000]);
    assert_eq!(asker.reply().status, 413);
    let mut asker = Http::of(&a);
    asker.write(format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
    asker.try_write("8000\r\n".to_owned() + &"x".repeat(0x8000) + "\r\n8001\r\n");
    assert_eq!(asker.reply().status, 413);
    // What is allowed is asked for, and taken in one piece or in many.
    let mut stream = Http::of(&a);
    stream.subscribe("/v1/subscribe?topic=a");
    let mut asker = Http::of(&a);
    asker.write(format!("{head}Content-Length: 65536\r\nExpect: 100-continue\r\n\r\n"));
    assert_eq!(asker.reply().status, 100);
    asker.write(vec![b'x'; 65_536]);
    assert_eq!(asker.reply().status, 204);
    asker.write(format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
    for _ in 0..4096 {
        asker.write("10\r\n0123456789abcdef\r\n");
    }
    asker.write("0\r\n\r\n");
    assert_eq!(asker.reply().status, 204);
    for _ in 0..2 {
        let (_, event) = stream.event().unwrap();
        assert_eq!(crate::support::unbytes(&event["body"]).len(), 65_536);
    }
}

#[test]
fn an_answer_in_parts_is_a_response_in_chunks_and_a_broken_one_has_no_end() {
    let (a, b) = two();
    let mut app = b.json();
    app.ok(json!({"op": "register", "name": "stock"}));
    let mut asker = Http::of(&a);
    let part = |reference: &Value, body: Value| json!({"op": "reply", "ref": reference, "body": body, "more": true});
    asker.begin("POST", "/v1/call?to=stock@b");
    let call = app.event_of("call");
    app.ok(part(&call["ref"], json!("once")));
    assert_eq!(asker.head().field("content-type"), "application/x-ndjson");
    // It is there before the answer has ended.
    assert_eq!(asker.chunk().unwrap(), b"\"once\"\n");
    app.ok(part(&call["ref"], json!({"upon": "a"})));
    app.ok(json!({"op": "reply", "ref": call["ref"], "body": "time"}));
    let mut rest = Vec::new();
    loop {
        match asker.chunk().unwrap() {
            chunk if chunk.is_empty() => break,
            chunk => rest.extend(chunk),
        }
    }
    assert_eq!(rest, b"{\"upon\":\"a\"}\n\"time\"\n");
    // A file, as large as many bodies, on the same connection.
    asker.begin("POST", "/v1/call?to=stock@b");
    let call = app.event_of("call");
    let piece = crate::support::bytes(&vec![b'x'; 50_000]);
    let server = std::thread::spawn(move || {
        for _ in 0..100 {
            let mut said = part(&call["ref"], piece.clone());
            said["ct"] = "video/x".into();
            app.ok(said);
        }
        app.ok(json!({"op": "reply", "ref": call["ref"]}));
        app
    });
    let reply = asker.reply();
    assert_eq!((reply.field("content-type"), reply.body.len()), ("video/x", 5_000_000));
    assert!(reply.is_whole);
    let mut app = server.join().unwrap();
    asker.begin("POST", "/v1/call?to=stock@b");
    let call = app.event_of("call");
    app.ok(part(&call["ref"], json!(1)));
    app.ok(json!({"op": "raise", "ref": call["ref"], "reason": "torn"}));
    let reply = asker.reply();
    assert_eq!((reply.status, reply.is_whole), (200, false));
}

#[test]
fn a_stream_of_events_ends_with_its_connection_and_its_process_with_it() {
    let (a, b) = two();
    let mut stream = Http::of(&b);
    stream.subscribe("/v1/subscribe?topic=shop.*&name=inbox&metadata={%22nick%22:%22ann%22}&sync");
    let mut asker = Http::of(&a);
    let listed = asker.get("/v1/subscribers?topic=shop.tea&list").json();
    assert_eq!(
        (&listed["count"], &listed["subscribers"][0]["metadata"]),
        (&json!(1), &json!({"nick": "ann"}))
    );
    let mut app = a.json();
    app.send("inbox@b", json!("by name"));
    assert_eq!(stream.event().unwrap().1["body"], "by name");
    app.ok(json!({"op": "monitor", "to": "inbox@b@t"}));
    drop(stream);
    assert_eq!(app.event_of("down")["reason"], "disconnected");
    let mut asker = Http::of(&b);
    assert_eq!(asker.get("/v1/subscribers?topic=shop.tea").json(), json!({"count": 0}));
}

#[test]
fn nodes_that_come_and_go_are_events_of_a_stream() {
    let place = Place::new();
    let a = place.start("a", &[]);
    let mut stream = Http::of(&a);
    stream.subscribe("/v1/monitor_nodes?node_type=visible");
    let mut b = place.start("b", &[]);
    let (name, event) = stream.event().unwrap();
    assert_eq!((name.as_str(), &event["node"]), ("nodeup", &json!("b@t")));
    b.kill();
    let (name, event) = stream.event().unwrap();
    assert_eq!((name.as_str(), &event["node"]), ("nodedown", &json!("b@t")));
}

#[test]
fn of_one_queue_group_one_stream_gets_each_message() {
    let a = Daemon::alone(&[]);
    let mut streams = [Http::of(&a), Http::of(&a)];
    for stream in &mut streams {
        stream.subscribe("/v1/subscribe?topic=job&group=workers");
    }
    let mut asker = Http::of(&a);
    for number in 0..10 {
        let reply = asker.post("/v1/publish?topic=job&report=true", json!(number));
        assert_eq!(reply.json(), json!({"nodes": 0, "local": 1}));
    }
    let mut heard = Vec::new();
    for stream in &mut streams {
        for _ in 0..5 {
            heard.push(stream.event().unwrap().1["body"].as_u64().unwrap());
        }
    }
    heard.sort_unstable();
    assert_eq!(heard, (0..10).collect::<Vec<_>>());
    // Another subscriber hears what was kept.
    asker.post("/v1/publish?topic=last&retain", json!("kept"));
    let mut late = Http::of(&a);
    late.subscribe("/v1/subscribe?topic=last");
    let (_, event) = late.event().unwrap();
    assert_eq!((&event["body"], &event["retained"]), (&json!("kept"), &json!(true)));
}

#[test]
fn a_stream_that_nobody_reads_loses_messages_and_says_how_many_or_holds_their_sender() {
    const MANY: u64 = 2000;
    let a = Daemon::alone(&[]);
    let body = "x".repeat(10_000);
    for (policy, may_lose) in [("drop_newest", true), ("drop_oldest", true), ("wait", false)] {
        let mut stream = Http::of(&a);
        stream.subscribe(&format!("/v1/subscribe?topic=a&policy={policy}&entries=100"));
        let publisher = {
            let (mut publisher, body) = (Http::of(&a), body.clone());
            std::thread::spawn(move || {
                for number in 0..MANY {
                    let reply = publisher.post("/v1/publish?topic=a", json!([number, body]));
                    assert_eq!(reply.status, 204);
                }
            })
        };
        if may_lose {
            // Nothing is read before all has been said: the publisher is not held.
            publisher.join().unwrap();
            let (mut seen, mut lost, mut gaps) = (0, 0, 0);
            while seen + lost < MANY {
                let (name, event) = stream.event().unwrap();
                if name == "gap" {
                    lost += event["lost"].as_u64().unwrap();
                    gaps += 1;
                } else {
                    seen += 1;
                }
            }
            assert!(gaps > 0 && lost > 0 && seen >= 100, "{policy}: {seen} seen, {lost} lost");
        } else {
            for number in 0..MANY {
                assert_eq!(stream.event().unwrap().1["body"][0], number);
            }
            publisher.join().unwrap();
        }
    }
}

#[test]
fn a_key_is_set_read_and_deleted_by_its_path() {
    let (a, b) = two();
    b.json().ok(json!({"op": "spawn", "kind": "kv", "name": "store", "detached": true}));
    let mut asker = Http::of(&a);
    assert_eq!(asker.send("PUT", "/v1/kv/store@b/fruit/pears", json!({"left": 2})).status, 204);
    asker.begin_with("PUT", "/v1/kv/store@b/fruit/raw", "image/png", b"\x01\x02");
    assert_eq!(asker.reply().status, 204);
    assert_eq!(asker.get("/v1/kv/store@b/fruit/pears").json(), json!({"left": 2}));
    assert_eq!(asker.get("/v1/kv/store@b/fruit/raw").json(), json!({"$bytes": "AQI="}));
    assert_eq!(asker.get("/v1/kv/store@b?prefix=fruit/p").json(), json!(["fruit/pears"]));
    asker.begin("DELETE", "/v1/kv/store@b/fruit/pears");
    assert_eq!(asker.reply().status, 204);
    assert_eq!(asker.get("/v1/kv/store@b/fruit/pears").json(), Value::Null);
    assert_eq!(asker.send("PUT", "/v1/kv/store@b/soon?ttl_ms=1", json!(1)).status, 204);
    eventually("the key is gone", || asker.get("/v1/kv/store@b/soon").json() == Value::Null);
    asker.begin("PUT", "/v1/kv/store@b/nothing");
    assert_eq!(asker.reply().error(), (400, "badarg".to_owned()));
    assert_eq!(asker.get("/v1/kv/nobody/a").error(), (404, "noproc".to_owned()));
}

#[test]
fn curl_sends_what_is_longer_than_a_read_and_is_told_when_it_is_too_long() {
    if !has_curl() {
        return;
    }
    let a = Daemon::alone(&["--body-max", "2MiB"]);
    let mut stream = Http::of(&a);
    stream.subscribe("/v1/subscribe?topic=a");
    for (bytes, status) in [(1_500_000, "204"), (2_500_000, "413")] {
        for manner in [
            &["-H", "Expect: 100-continue"][..],
            &["-H", "Expect:"],
            &["-H", "Transfer-Encoding: chunked"],
        ] {
            let mut command = curl_command(&a);
            command.args(["-o", "/dev/null", "-w", "%{http_code}", "-H", "Content-Type: a/b"]);
            command.args(manner).args(["--data-binary", "@-", "http://x/v1/publish?topic=a"]);
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let _ = child.stdin.take().unwrap().write_all(&vec![b'x'; bytes]);
            let said = child.wait_with_output().unwrap().stdout;
            assert_eq!(String::from_utf8(said).unwrap(), status, "{manner:?}");
        }
    }
    for _ in 0..3 {
        let (_, event) = stream.event().unwrap();
        assert_eq!(crate::support::unbytes(&event["body"]).len(), 1_500_000);
    }
}
