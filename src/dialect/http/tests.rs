//! Requests, responses and events as text.

use proptest::prelude::*;

use super::chunks::Chunks;
use super::head::{HEAD_BYTES_MAX, Head, Length, parse};
use super::request::{Content, command, commands_before};
use super::response::{Parts, Response, Seen, Size, put_head};
use super::routes::{Found, Gives, ROUTES, allowed, find};
use super::{Refusal, events, status_of};
use crate::dialect::json::{frame_to_line, line_to_frame};

fn head(text: &str) -> Head {
    let (head, used) = parse(text.as_bytes()).expect("a good head").expect("a whole one");
    assert_eq!(used, text.len());
    head
}

fn refused(text: &str) -> Refusal {
    parse(text.as_bytes()).expect_err("nothing that is carried out")
}

fn get(target: &str) -> Result<Found, Refusal> {
    find(&head(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n")))
}

fn post(target: &str) -> Result<Found, Refusal> {
    find(&head(&format!("POST {target} HTTP/1.1\r\nHost: x\r\n\r\n")))
}

/// A frame as a JSON app would have written it.
fn line(frame: &[u8]) -> String {
    let mut line = Vec::new();
    frame_to_line(frame, &mut line);
    String::from_utf8(line).expect("JSON is text").trim_end().to_owned()
}

fn frame(line: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    line_to_frame(line.as_bytes(), &mut frame).expect("a good line");
    frame
}

// ===== heads =====

#[test]
fn a_head_says_what_is_asked_and_how_long_its_body_is() {
    let text = "POST /v1/call?to=stock&timeout_ms=5 HTTP/1.1\r\nHost: x\r\nUser-Agent: curl/7\r\n\
                Accept: text/html, application/cbor;q=0.9\r\ncontent-length:  12 \r\n\
                Expect: 100-Continue\r\nContent-Type: text/plain\r\n\r\n";
    let whole = head(text);
    assert_eq!((whole.method.as_str(), whole.path.as_str()), ("POST", "/v1/call"));
    assert_eq!(whole.query, "to=stock&timeout_ms=5");
    assert!(whole.is_new && whole.keep_alive && whole.waits && whole.takes_cbor);
    assert_eq!(whole.length, Length::Known(12));
    assert_eq!(whole.content_type.as_deref(), Some("text/plain"));
    assert_eq!(whole.agent.as_deref(), Some("curl/7"));
    for end in 0..text.len() {
        assert_eq!(parse(&text.as_bytes()[..end]), Ok(None), "{end} bytes are no whole head");
    }
}

#[test]
fn a_connection_is_kept_as_its_version_and_its_words_say() {
    for (text, keeps) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", false),
        (
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
            true,
        ),
        ("GET / HTTP/1.0\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true),
        ("GET / HTTP/1.0\r\nConnection: close, keep-alive\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n", false),
    ] {
        assert_eq!(head(text).keep_alive, keeps, "{text}");
    }
    assert_eq!(head("GET http://hal:80/v1/nodes?state=self HTTP/1.0\r\n\r\n").path, "/v1/nodes");
}

#[test]
fn a_head_that_could_be_read_in_two_ways_is_refused() {
    let host = "POST / HTTP/1.1\r\nHost: x\r\n";
    for (fields, status) in [
        ("Content-Length: 1\r\nContent-Length: 2\r\n", 400),
        ("Content-Length: +1\r\n", 400),
        ("Content-Length: \r\n", 400),
        ("Content-Length: 99999999999999999999\r\n", 400),
        ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", 400),
        ("Transfer-Encoding: gzip, chunked\r\n", 501),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 501),
        ("Host: y\r\n", 400),
        ("Content-Type: a/b\r\nContent-Type: a/b\r\n", 400),
        ("Content-Type:\r\nContent-Type: a/b\r\n", 400),
        ("Content-Encoding: gzip\r\n", 415),
        ("Expect: a miracle\r\n", 417),
        ("a folded: field\r\n", 400),
    ] {
        assert_eq!(refused(&format!("{host}{fields}\r\n")).status, status, "{fields}");
    }
    let odd = [host.as_bytes(), b"Content-Type: a/\xff\r\n\r\n"].concat();
    assert_eq!(parse(&odd).expect_err("no text").code, "badarg");
    assert_eq!(refused("POST / HTTP/1.1\r\n\r\n").status, 400);
    assert_eq!(refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").status, 400);
    assert_eq!(refused("GET v1/nodes HTTP/1.1\r\nHost: x\r\n\r\n").status, 400);
    let same = format!("{host}Content-Length: 1\r\nContent-Length: 1\r\n\r\n");
    assert_eq!(head(&same).length, Length::Known(1));
}

#[test]
fn other_versions_are_told_which_is_spoken_here() {
    for text in ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/3\r\n\r\n"] {
        let refusal = refused(text);
        assert_eq!((refusal.status, refusal.code), (505, "unsupported"));
        assert!(refusal.message.contains("HTTP/1.1"), "{}", refusal.message);
    }
}

#[test]
fn a_head_has_a_bound_in_bytes_and_in_fields() {
    let long = "x".repeat(HEAD_BYTES_MAX);
    assert_eq!(refused(&format!("GET /{long}")).status, 414);
    assert_eq!(refused(&format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n")).status, 414);
    assert_eq!(refused(&format!("GET / HTTP/1.1\r\nHost: x\r\nA: {long}")).status, 431);
    let many = "A: b\r\n".repeat(65);
    assert_eq!(refused(&format!("GET / HTTP/1.1\r\n{many}\r\n")).status, 431);
}

// ===== routes =====

#[test]
fn every_route_can_be_found_and_names_a_command() {
    for route in ROUTES {
        assert!(crate::wire::command::OPS.contains(&route.op), "{}", route.op);
        let path = route.path.replace(['{', '}'], "");
        let text = format!("{} {path} HTTP/1.1\r\nHost: x\r\n\r\n", route.method);
        let found = find(&head(&text)).expect("it is there");
        assert_eq!((found.route.method, found.route.path), (route.method, route.path));
        assert!(allowed(&path).contains(route.method));
        let mut names: Vec<&str> = route.params.iter().map(|param| param.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), route.params.len(), "{path} has a parameter twice");
    }
}

#[test]
fn what_is_not_there_is_told_with_what_is() {
    let refusal = get("/v1/node").unwrap_err();
    assert_eq!((refusal.status, refusal.code), (404, "not_found"));
    assert!(refusal.message.contains("did you mean /v1/nodes?"), "{}", refusal.message);
    assert_eq!(get("/v1/nodes/").unwrap_err().status, 404);
    assert_eq!(get("/v1/kv/store//").expect("a key").param("key"), Some("/"));
    let refusal = post("/v1/nodes").unwrap_err();
    assert_eq!((refusal.status, refusal.allow.as_deref()), (405, Some("GET, HEAD, OPTIONS")));
    let refusal = get("/v1/publish?topic=a").unwrap_err();
    assert_eq!((refusal.status, refusal.allow.as_deref()), (405, Some("POST, OPTIONS")));
    assert_eq!(allowed("/v1/kv/a/b"), "GET, HEAD, PUT, OPTIONS, DELETE");
    let refusal = find(&head("BREW /v1/nodes HTTP/1.1\r\nHost: x\r\n\r\n")).unwrap_err();
    assert_eq!(refusal.status, 501);
    let refusal = get("/v1/ping?nodes=b").unwrap_err();
    assert_eq!((refusal.status, refusal.code), (400, "badarg"));
    assert!(refusal.message.contains("did you mean `node`?"), "{}", refusal.message);
    assert!(get("/v1/ping?node=b&node=c").unwrap_err().message.contains("twice"));
    assert!(get("/v1/tree?deep").unwrap_err().message.contains("no parameters"));
}

#[test]
fn what_stands_in_a_path_is_decoded_as_browsers_write_it() {
    let found = get("/v1/whereis?name=a%20b+c&scope=%67lobal&").expect("good");
    assert_eq!((found.param("name"), found.param("scope")), (Some("a b c"), Some("global")));
    let found = get("/v1/kv/%3Ca%40b.1.2%3E/gr%C3%BC+n/x").expect("good");
    assert_eq!((found.param("to"), found.param("key")), (Some("<a@b.1.2>"), Some("grü+n/x")));
    for bad in ["/v1/whereis?name=%", "/v1/whereis?name=%4", "/v1/whereis?name=%zz", "/v1/kv/%ff/a"]
    {
        assert_eq!(get(bad).unwrap_err().status, 400, "{bad}");
    }
}

// ===== commands =====

#[test]
fn a_request_is_the_command_that_a_line_would_be() {
    for (method, target, content, body, same) in [
        ("GET", "/v1/nodes", None, "", r#"{"op":"nodes","id":7}"#),
        (
            "GET",
            "/v1/nodes?state=self&state=known",
            None,
            "",
            r#"{"op":"nodes","id":7,"state":["self","known"]}"#,
        ),
        (
            "GET",
            "/v1/ping?node=b@h&timeout_ms=50",
            None,
            "",
            r#"{"op":"ping","id":7,"node":"b@h","timeout_ms":50}"#,
        ),
        (
            "GET",
            "/v1/members?group=tills&local",
            None,
            "",
            r#"{"op":"members","id":7,"group":"tills","local":true}"#,
        ),
        (
            "POST",
            "/v1/send?to=stock&checked=false",
            Some("application/json; charset=utf-8"),
            r#" {"take":3} "#,
            r#"{"op":"send","id":7,"to":"stock","checked":false,"body":{"take":3}}"#,
        ),
        (
            "POST",
            "/v1/publish?topic=shop.tea&report",
            Some("application/x-www-form-urlencoded"),
            "3",
            r#"{"op":"publish","id":7,"topic":"shop.tea","report":true,"body":3}"#,
        ),
        (
            "POST",
            "/v1/call?to=stock",
            Some("text/plain"),
            "hello",
            r#"{"op":"call","id":7,"to":"stock","ct":"text/plain","body":{"$bytes":"aGVsbG8="}}"#,
        ),
        (
            "POST",
            "/v1/cast?to=stock",
            Some("application/cbor"),
            "\u{1}",
            r#"{"op":"cast","id":7,"to":"stock","body":1}"#,
        ),
        (
            "POST",
            "/v1/rpc_cast?node=any&module=m&function=f",
            None,
            "",
            r#"{"op":"rpc_cast","id":7,"node":"any","module":"m","function":"f"}"#,
        ),
        (
            "GET",
            "/v1/kv/store/pears?timeout_ms=9",
            None,
            "",
            r#"{"op":"call","id":7,"to":"store","timeout_ms":9,"body":["get","pears"]}"#,
        ),
        ("GET", "/v1/kv/store", None, "", r#"{"op":"call","id":7,"to":"store","body":["keys"]}"#),
        (
            "GET",
            "/v1/kv/store?prefix=p",
            None,
            "",
            r#"{"op":"call","id":7,"to":"store","body":["keys","p"]}"#,
        ),
        (
            "PUT",
            "/v1/kv/store/a/b?ttl_ms=5",
            None,
            "[2]",
            r#"{"op":"call","id":7,"to":"store","body":["set","a/b",[2],5]}"#,
        ),
        (
            "DELETE",
            "/v1/kv/store/a",
            None,
            "",
            r#"{"op":"call","id":7,"to":"store","body":["delete","a"]}"#,
        ),
    ] {
        let text = format!("{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n");
        let found = find(&head(&text)).expect("a route");
        let made = command(&found, Content::of(content), body.as_bytes(), 7).expect("a command");
        assert_eq!(line(&made), line(&frame(same)), "{target}");
    }
}

#[test]
fn what_cannot_be_meant_is_refused_with_what_can() {
    for (found, content, body, words) in [
        (get("/v1/ping?node=b&timeout_ms=1.5"), None, "", "whole number"),
        (get("/v1/ping?node=b&timeout_ms="), None, "", "whole number"),
        (get("/v1/ping?node=b&timeout_ms=9007199254740993"), None, "", "2^53"),
        (get("/v1/members?group=a&local=yes"), None, "", "true or false"),
        (get("/v1/nodes"), None, "1", "no body"),
        (get("/v1/kv/a/b"), None, "1", "no body"),
        (post("/v1/send?to=a"), None, "{bad", "Content-Type"),
        (post("/v1/send?to=a"), Some("application/json"), "1 2", "column 3"),
    ] {
        let found = found.expect("a route");
        let refusal = command(&found, Content::of(content), body.as_bytes(), 1).unwrap_err();
        assert_eq!((refusal.status, refusal.code), (400, "badarg"));
        assert!(refusal.message.contains(words), "{}", refusal.message);
    }
    let long = format!("text/{}", "x".repeat(255));
    let found = post("/v1/send?to=a").expect("a route");
    assert_eq!(command(&found, Content::of(Some(&long)), b"1", 1).unwrap_err().status, 400);
}

#[test]
fn a_stream_begins_with_the_commands_that_it_stands_for() {
    let target = "/v1/subscribe?topic=a.*&topic=b&group=g&metadata={%22n%22:1}&sync&name=inbox\
                  &policy=wait&entries=10";
    let found = get(target).expect("a route");
    assert_eq!(found.route.gives, Gives::Events);
    let lines: Vec<String> =
        commands_before(&found, 3).expect("good").iter().map(|frame| line(frame)).collect();
    assert_eq!(
        lines,
        [
            r#"{"op":"flag","id":3,"mailbox":{"entries":10,"policy":"wait"}}"#,
            r#"{"op":"register","id":4,"name":"inbox"}"#,
            r#"{"op":"subscribe","id":5,"topic":"a.*","group":"g","metadata":{"n":1},"sync":true}"#,
            r#"{"op":"subscribe","id":6,"topic":"b","group":"g","metadata":{"n":1},"sync":true}"#,
            r#"{"op":"self","id":7}"#,
        ]
    );
    let found = get("/v1/monitor_nodes?node_type=hidden").expect("a route");
    let made = commands_before(&found, 1).expect("good");
    assert_eq!(line(&made[1]), r#"{"op":"monitor_nodes","id":2,"node_type":"hidden"}"#);
    let found = get("/v1/monitor_presence?topic=room.1&bytes=9").expect("a route");
    let made = commands_before(&found, 1).expect("good");
    assert_eq!(line(&made[1]), r#"{"op":"monitor_presence","id":2,"topic":"room.1"}"#);
    let found = get("/v1/subscribe?topic=a&metadata={").expect("a route");
    assert!(commands_before(&found, 1).unwrap_err().message.contains("`metadata`"));
}

#[test]
fn the_commands_of_a_stream_have_a_bound_together() {
    let stream = |topics: usize| {
        let metadata = format!("%22{}%22", "x".repeat(8000));
        let topics = "&topic=a".repeat(topics);
        commands_before(&get(&format!("/v1/subscribe?metadata={metadata}{topics}"))?, 1)
    };
    assert_eq!(stream(100).expect("that is not much").len(), 102);
    let refusal = stream(900).unwrap_err();
    assert_eq!((refusal.status, refusal.code), (414, "too_large"));
    assert!(refusal.message.contains("fewer topics"), "{}", refusal.message);
}

// ===== chunks =====

#[test]
fn a_body_in_chunks_is_put_together_however_it_comes() {
    let text =
        b"4\r\nwiki\r\n6;why=not\r\npedia \r\nE\r\nin \r\n\r\nchunks.\r\n0\r\nA: b\r\n\r\nGET";
    for size in 1..text.len() {
        let (mut chunks, mut body, mut rest) = (Chunks::default(), Vec::new(), Vec::new());
        for piece in text.chunks(size) {
            rest.extend_from_slice(piece);
            let used = chunks.read(&rest, &mut body, 100).expect("good chunks");
            rest.drain(..used);
        }
        assert!(chunks.is_over());
        assert_eq!(body, b"wikipedia in \r\n\r\nchunks.");
        assert_eq!(rest, b"GET", "what follows is left alone");
    }
}

#[test]
fn what_is_no_chunk_or_too_much_is_refused() {
    for (text, status) in [
        (&b"\r\n\r\n"[..], 400),
        (b"x\r\n", 400),
        (b"4\r\nwikiX", 400),
        (b"1;a\n", 400),
        (b"1;a\nb\r\nx\r\n", 400),
        (b"0\r\n\n", 400),
        (b"0\r\nA: b\n\r\n", 400),
        (b"-1\r\n", 400),
        (b"fffffffffffffffff\r\n", 400),
        (b"ffffffffffffffff\r\n", 413),
        (b"6\r\nsix", 413),
        (b"3\r\nabc\r\n3\r\n", 413),
    ] {
        let refusal = Chunks::default().read(text, &mut Vec::new(), 5).unwrap_err();
        assert_eq!(refusal.status, status, "{text:?}");
    }
    let endless = [&b"1;"[..], &[b'x'; 2000]].concat();
    assert_eq!(Chunks::default().read(&endless, &mut Vec::new(), 5).unwrap_err().status, 400);
    let trailers = [&b"0\r\n"[..], &b"A: b\r\n".repeat(2000)].concat();
    assert_eq!(Chunks::default().read(&trailers, &mut Vec::new(), 5).unwrap_err().status, 400);
}

// ===== responses =====

fn response(line: &str, gives: Gives, cbor: bool) -> (u16, Option<String>, Vec<u8>) {
    let frame = frame(line);
    let seen = Seen::of(&frame).expect("an event");
    let response = Response::of(seen, gives, cbor);
    (response.status, response.content_type.map(Into::into), response.body)
}

#[test]
fn an_answer_becomes_what_its_route_gives() {
    let json = Some("application/json".to_owned());
    let nodes = r#"{"ev":"ok","id":1,"as":"nodes","body":["a@b"]}"#;
    assert_eq!(
        response(nodes, Gives::Members, false),
        (200, json.clone(), b"{\"nodes\":[\"a@b\"]}\n".to_vec())
    );
    let pong = r#"{"ev":"ok","id":1,"result":"pong"}"#;
    assert_eq!(
        response(pong, Gives::Members, true),
        (200, json.clone(), b"{\"result\":\"pong\"}\n".to_vec())
    );
    let nothing = r#"{"ev":"ok","id":1}"#;
    for gives in [Gives::Members, Gives::Body, Gives::Nothing] {
        assert_eq!(response(nothing, gives, false), (204, None, Vec::new()));
    }
    let reply = r#"{"ev":"ok","id":1,"body":{"left":3}}"#;
    assert_eq!(
        response(reply, Gives::Body, false),
        (200, json.clone(), b"{\"left\":3}\n".to_vec())
    );
    assert_eq!(
        response(reply, Gives::Body, true),
        (200, Some("application/cbor".to_owned()), b"\xa1\x64left\x03".to_vec())
    );
    assert_eq!(response(reply, Gives::Nothing, false), (204, None, Vec::new()));
    let text = r#"{"ev":"ok","id":1,"ct":"text/plain","body":{"$bytes":"aGVsbG8="}}"#;
    assert_eq!(
        response(text, Gives::Body, false),
        (200, Some("text/plain".to_owned()), b"hello".to_vec())
    );
    let error = r#"{"ev":"error","id":1,"code":"exception","message":"no","maybe_applied":true,"class":"E"}"#;
    let said =
        b"{\"code\":\"exception\",\"message\":\"no\",\"maybe_applied\":true,\"class\":\"E\"}\n";
    assert_eq!(response(error, Gives::Body, true), (500, json, said.to_vec()));
}

#[test]
fn what_an_app_calls_its_body_cannot_become_a_field() {
    for ct in ["text/plain\\r\\nSet-Cookie: a=b", "a\\u0000b", "", "grün"] {
        let said = format!(r#"{{"ev":"ok","id":1,"ct":"{ct}","body":{{"$bytes":"AA=="}}}}"#);
        let (status, content_type, body) = response(&said, Gives::Body, false);
        assert_eq!((status, body), (200, vec![0]));
        assert_eq!(content_type.as_deref(), Some("application/octet-stream"), "{ct}");
    }
}

#[test]
fn a_body_that_is_no_cbor_is_given_as_it_is() {
    let mut frame = Vec::new();
    let head = crate::wire::event::Head::event("ok").uint("id", 1);
    crate::wire::event::put_frame(&mut frame, head.bytes(), b"\xff\xff");
    let seen = Seen::of(&frame).expect("an event");
    let response = Response::of(seen, Gives::Body, false);
    assert_eq!(response.content_type.as_deref(), Some("application/octet-stream"));
    assert_eq!(response.body, b"\xff\xff");
    let mut out = Vec::new();
    Parts::Lines.put(&mut out, seen);
    assert_eq!(out, b"{\"$bytes\":\"//8=\"}\n");
}

#[test]
fn a_refusal_says_what_errors_say() {
    let response = Response::refused(get("/v1/node").unwrap_err());
    let body: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!((response.status, &body["code"]), (404, &"not_found".into()));
    assert_eq!(body["maybe_applied"], false);
    let failed = Response::failed(Refusal::new(502, "noproc", "gone"), true);
    assert!(failed.body.ends_with(b"\"maybe_applied\":true}\n"));
    let mut out = Vec::new();
    response.put(&mut out, true, true, false);
    let text = String::from_utf8(out).expect("text");
    assert!(text.starts_with("HTTP/1.1 404 Not Found\r\n") && text.ends_with("\r\n\r\n"), "{text}");
    assert!(text.contains(&format!("Content-Length: {}\r\n", response.body.len())), "{text}");
    assert!(text.contains("Connection: close\r\n"), "{text}");
}

#[test]
fn every_code_of_the_protocol_has_a_status() {
    let manual = include_str!("../../../docs/protocol.md");
    let codes = manual.split("\n## Codes\n").nth(1).expect("there are codes");
    let codes: Vec<&str> = codes
        .lines()
        .take_while(|line| !line.starts_with("## "))
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    assert!(codes.len() > 10);
    for code in codes {
        let status = status_of(code).unwrap_or_else(|| panic!("{code} has no status"));
        let mut out = Vec::new();
        let response = Response::refused(Refusal::new(status, "badarg", ""));
        put_head(&mut out, &response, Size::Close, true, true);
        assert!(!String::from_utf8_lossy(&out).contains(" Status\r\n"), "{status} has no phrase");
    }
    // These end calls and are told in the table there.
    assert_eq!((status_of("exception"), status_of("exit")), (Some(500), Some(502)));
}

#[test]
fn an_event_is_told_by_its_name_and_its_line() {
    let frame =
        frame(r#"{"ev":"message","topic":"a.b","from":"<a@b.0000000000000001.7>","body":"x\ny"}"#);
    let mut out = Vec::new();
    events::put(&mut out, Seen::of(&frame).expect("an event"));
    assert_eq!(
        String::from_utf8(out).expect("text"),
        "event: message\ndata: {\"ev\":\"message\",\"topic\":\"a.b\",\"from\":\"<a@b.0000000000000001.7>\",\"body\":\"x\\ny\"}\n\n"
    );
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_of_requests_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        target in "/v1/[a-z]{0,9}(/[a-z%0-9/]{0,9})?(\\?[ -~]{0,40})?",
        method in "GET|PUT|POST|HEAD|DELETE|OPTIONS|[A-Z]{1,5}",
    ) {
        if let Ok(Some((head, used))) = parse(&bytes) {
            prop_assert!(used <= bytes.len());
            let _ = find(&head);
        }
        let _ = Chunks::default().read(&bytes, &mut Vec::new(), 100);
        let text = format!("{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n");
        if let Ok(Some((head, _))) = parse(text.as_bytes()) {
            if let Ok(found) = find(&head) {
                if found.route.gives == Gives::Events {
                    let _ = commands_before(&found, 1);
                } else if let Ok(frame) = command(&found, Content::Json, &bytes, 1) {
                    prop_assert!(crate::wire::command::Request::read(&frame[4..]).id.is_some());
                }
            }
            let _ = allowed(&head.path);
        }
    }
}
