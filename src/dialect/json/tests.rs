//! What the transcoders promise.

use ciborium::Value;
use proptest::prelude::*;

use super::*;
use crate::wire::cbor;
use crate::wire::event::{Head, put_frame, split_frame};

fn there(json: &str) -> Vec<u8> {
    json_to_cbor(json.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error}"))
}

fn round(json: &str) -> String {
    cbor_to_json(&there(json)).expect("good CBOR")
}

fn frame(line: &str) -> Vec<u8> {
    let mut out = Vec::new();
    line_to_frame(line.as_bytes(), &mut out).unwrap_or_else(|error| panic!("{line}: {error}"));
    out
}

fn refused(line: &str) -> JsonError {
    let mut out = b"before".to_vec();
    let error = line_to_frame(line.as_bytes(), &mut out).expect_err(line);
    assert_eq!(out, b"before", "nothing is left behind by {line}");
    error
}

/// The line of an event whose body is these bytes.
fn line(head: &Head, body: &[u8]) -> String {
    let mut frame = Vec::new();
    put_frame(&mut frame, head.bytes(), body);
    let mut line = Vec::new();
    frame_to_line(&frame, &mut line);
    String::from_utf8(line).expect("UTF-8")
}

#[test]
fn what_json_lacks_goes_there_and_back() {
    for json in [
        r#"{"$bytes":"aGVsbG8="}"#,
        r#"{"$bytes":""}"#,
        r#"{"$int":"18446744073709551615"}"#,
        r#"{"$int":"-18446744073709551616"}"#,
        r#"{"$int":"18446744073709551616"}"#,
        r#"{"$int":"-18446744073709551617"}"#,
        r#"{"$int":"340282366920938463463374607431768211456"}"#,
        r#"{"$int":"1000000000000000000000000000000000000"}"#,
        r#"{"$int":"9007199254740993"}"#,
        r#"{"$float":"NaN"}"#,
        r#"{"$float":"Infinity"}"#,
        r#"{"$float":"-Infinity"}"#,
        r#"{"$map":[[1,"one"],[[2],{"a":null}]]}"#,
        r#"{"$map":[[{"$map":[[1,2]]},{"$map":[[3,4]]}],[1,{"$map":[[5,6]]}]]}"#,
        r#"{"$tag":[0,"2026-11-21T00:00:00Z"]}"#,
        r#"{"$tag":[1,{"$tag":[24,{"$bytes":"AA=="}]}]}"#,
        r#"{"$$bytes":1,"$$$x":2,"$$":3}"#,
        r#"[1.0,1,-1,1e300,0.1,true,false,null,"\u0000é\"\\\n",9007199254740992,-9007199254740992]"#,
        r#"{"":{},"a":[],"b":[[],[{}]]}"#,
    ] {
        assert_eq!(round(json), json);
    }
}

#[test]
fn numbers_keep_their_kind() {
    for (json, back) in [
        ("1.0", "1.0"),
        ("1", "1"),
        ("1e2", "100.0"),
        ("1E+2", "100.0"),
        ("-0.0", "-0.0"),
        ("-0", "0"),
        ("1e-400", "0.0"),
        ("18446744073709551615", r#"{"$int":"18446744073709551615"}"#),
        ("-9223372036854775808", r#"{"$int":"-9223372036854775808"}"#),
        (r#"{"$int":"7"}"#, "7"),
        (r#"{"$int":"-007"}"#, "-7"),
        (r#"{"$int":"-0"}"#, "0"),
    ] {
        assert_eq!(round(json), back, "{json}");
    }
    assert_eq!(there("-9223372036854775808"), [0x3b, 0x7f, 255, 255, 255, 255, 255, 255, 255]);
    assert_eq!(there(r#"{"$int":"18446744073709551616"}"#), b"\xc2\x49\x01\0\0\0\0\0\0\0\0");
    // RFC 8949, appendix A.
    assert_eq!(there(r#"{"$int":"-18446744073709551617"}"#), b"\xc3\x49\x01\0\0\0\0\0\0\0\0");
}

#[test]
fn lengths_are_definite_however_many_items_there_are() {
    for count in [0, 1, 23, 24, 255, 256, 65_536] {
        let items: Vec<String> = (0..count).map(|n| n.to_string()).collect();
        let array = format!("[{}]", items.join(","));
        let pairs: Vec<String> = items.iter().map(|n| format!("\"{n}\":{n}")).collect();
        let object = format!("{{{}}}", pairs.join(","));
        let mut head = Vec::new();
        cbor::put_array(&mut head, count);
        assert!(there(&array).starts_with(&head));
        assert_eq!(round(&array), array);
        assert_eq!(round(&object), object);
        let nested = format!("[{array},{object}]");
        assert_eq!(round(&nested), nested);
    }
}

#[test]
fn strings_are_read_with_every_escape() {
    assert_eq!(
        there(r#""\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00x""#),
        there("\"\\\"\\\\/\\b\\f\\n\\r\\té😀x\"")
    );
    assert_eq!(there(r#"{"\u0024bytes":"AA"}"#), [0x41, 0]);
    assert_eq!(there(" \t\r\n[ 1 , { \"a\" : 2 } ] \r\n"), there(r#"[1,{"a":2}]"#));
}

#[test]
fn what_is_wrong_is_refused_in_words_and_with_its_column() {
    for (json, part) in [
        (r#"{"a":1,"a":2}"#, "the key `a` is there twice at column 8"),
        (r#"{"$$a":1,"b":{"a":1},"$$a":2}"#, "the key `$a` is there twice at column 22"),
        (r#"{"$map":[[1,2],[1,3]]}"#, "twice at column 17"),
        (r#"{"$bytes":"%%"}"#, "base64"),
        (r#"{"$int":"1.5"}"#, "$int"),
        (r#"{"$int":""}"#, "$int"),
        (r#"{"$int":"-"}"#, "$int"),
        (r#"{"$int":5}"#, "a string"),
        (r#"{"$float":"1.5"}"#, "$float"),
        (r#"{"$what":1}"#, "`$what` is not known at column 2"),
        (r#"{"$bytes":"","a":1}"#, "alone"),
        (r#"{"a":1,"$bytes":""}"#, "alone"),
        (r#"{"$map":[[1]]}"#, "`,`"),
        (r#"{"$map":[[1,2,3]]}"#, "`]`"),
        (r#"{"$tag":["a",1]}"#, "tag"),
        (r#"{"$tag":[-1,1]}"#, "tag"),
        (r#"{"$tag":[1]}"#, "`,`"),
        ("99999999999999999999", "write it as {\"$int\""),
        ("-9223372036854775809", "write it as {\"$int\""),
        ("1e999", "Infinity"),
        ("01", "starts with 0"),
        ("1.", "a digit"),
        ("-", "a digit"),
        (".5", "a value"),
        ("[1,2", "not JSON: the end of the text where `,` or `]` belongs, at column 5"),
        ("[1,]", "a value"),
        ("{\"a\":1,}", "a key"),
        ("{a:1}", "a key in double quotes"),
        ("'a'", "`'` where a value belongs"),
        ("nul", "a value"),
        ("", "the end of the text"),
        ("1 2", "follows"),
        ("\"a", "not closed"),
        ("\"a\nb\"", "control character"),
        (r#""\x""#, "escape"),
        (r#""\u12g4""#, "hexadecimal"),
        (r#""\ud83d""#, "surrogate"),
        (r#""\ud83dx\ude00""#, "surrogate"),
        (r#""\ude00""#, "surrogate"),
        ("[\"é\", x]", "at column 7"),
    ] {
        let error = json_to_cbor(json.as_bytes()).expect_err(json);
        assert!(error.message.contains(part), "{json}: {}", error.message);
    }
    let error = json_to_cbor(b"\"\xff\"").expect_err("no UTF-8");
    assert!(error.message.contains("not UTF-8 at column 2"), "{error}");
}

#[test]
fn nesting_has_the_same_bound_on_both_sides() {
    let arrays = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let objects = |n: usize| format!("{}1{}", "{\"a\":".repeat(n), "}".repeat(n));
    let maps = |n: usize| format!("{}1{}", "{\"$map\":[[1,".repeat(n), "]]}".repeat(n));
    let tags = |n: usize| format!("{}1{}", "{\"$tag\":[1,".repeat(n), "]}".repeat(n));
    assert_eq!(round(&arrays(DEPTH_MAX)), arrays(DEPTH_MAX));
    for deep in [objects, maps, tags] {
        assert_eq!(round(&deep(DEPTH_MAX - 1)), deep(DEPTH_MAX - 1));
        assert!(cbor::is_one_item(&there(&deep(DEPTH_MAX - 1))));
        assert!(json_to_cbor(deep(DEPTH_MAX).as_bytes()).is_err());
        let error = json_to_cbor(deep(100_000).as_bytes()).expect_err("deep");
        assert!(error.message.contains("nesting deeper than 64"), "{error}");
    }
    assert!(json_to_cbor(arrays(DEPTH_MAX + 1).as_bytes()).is_err());
    assert!(json_to_cbor("[".repeat(1_000_000).as_bytes()).is_err());
}

#[test]
fn maps_that_are_no_objects_cost_the_same_however_they_are_nested() {
    // Each map has a text key first, and one that is none behind it.
    let mut item = vec![0x00];
    for _ in 0..DEPTH_MAX - 1 {
        item = [b"\xa2\x61a", item.as_slice(), b"\x01\x00"].concat();
    }
    let json = cbor_to_json(&item).expect("well formed");
    assert_eq!(there(&json), item);
    assert_eq!(json.matches("$map").count(), DEPTH_MAX - 1);
}

#[test]
fn a_line_becomes_a_frame_with_op_first_and_the_body_last() {
    let straight = frame(r#"{"op":"send","id":1,"to":"stock","body":{"add":[1]}}"#);
    let (head, body) = split_frame(&straight).expect("one frame");
    assert_eq!(head, there(r#"{"op":"send","id":1,"to":"stock"}"#));
    assert_eq!(body, there(r#"{"add":[1]}"#));
    for line in [
        r#"{"id":1,"to":"stock","body":{"add":[1]},"op":"send"}"#,
        r#"{"body":{"add":[1]},"id":1,"op":"send","to":"stock"}"#,
        " { \"id\" : 1 , \"op\" : \"send\" , \"to\":\"stock\", \"body\":{\"add\":[1]} }\r",
    ] {
        assert_eq!(frame(line), straight, "{line}");
    }
    assert_eq!(split_frame(&frame("{}")), Some((&b"\xa0"[..], &b""[..])));
    let (head, body) = (there(r#"{"op":"flush"}"#), there("null"));
    assert_eq!(split_frame(&frame(r#"{"op":"flush","body":null}"#)), Some((&head[..], &body[..])));
}

#[test]
fn a_line_may_have_many_members() {
    let members: Vec<String> = (0..30).map(|n| format!("\"m{n}\":{n}")).collect();
    let header = members.join(",");
    let line = format!("{{{header},\"body\":[1],\"op\":\"x\"}}");
    let whole = frame(&line);
    let (head, body) = split_frame(&whole).expect("one frame");
    assert_eq!(head, there(&format!("{{\"op\":\"x\",{header}}}")));
    assert_eq!(body, there("[1]"));
    let long = format!("{{\"op\":\"send\",\"id\":4,\"to\":\"{}\"}}", "x".repeat(70_000));
    let error = refused(&long);
    assert!(error.message.contains("64 KiB"), "{error}");
    assert_eq!(error.id, Some(JsonId::Number(4)));
}

#[test]
fn a_body_of_another_content_type_travels_as_its_bytes() {
    for line in [
        r#"{"op":"send","to":"a","ct":"text/plain","body":{"$bytes":"aGVsbG8="}}"#,
        r#"{"op":"send","body":{"$bytes":"aGVsbG8"},"to":"a","ct":"text/plain"}"#,
    ] {
        let frame = frame(line);
        let (head, body) = split_frame(&frame).expect("one frame");
        assert_eq!(head, there(r#"{"op":"send","to":"a","ct":"text/plain"}"#));
        assert_eq!(body, b"hello");
    }
    let error = refused(r#"{"op":"send","id":"x","to":"a","ct":"text/plain","body":"hello"}"#);
    assert!(error.message.contains("$bytes"), "{error}");
    assert_eq!(error.id, Some(JsonId::Text("x".to_owned())));
    // null is as good as left out.
    let frame = frame(r#"{"op":"send","to":"a","ct":null,"body":"hello"}"#);
    assert_eq!(split_frame(&frame).map(|(_, body)| body), Some(&b"\x65hello"[..]));
}

#[test]
fn a_line_that_is_no_command_is_refused_in_words() {
    for (line, part) in [
        ("[1]", "no JSON object at column 1: a line is one object"),
        ("hello", "no JSON object"),
        (r#"{"op":"a","op":"b"}"#, "the key `op` is there twice at column 11"),
        (r#"{"body":1,"body":2}"#, "the key `body` is there twice"),
        (r#"{"op":"self"} x"#, "follows"),
        (r#"{"$int":"1"}"#, "no member of a command"),
    ] {
        let error = refused(line);
        assert!(error.message.contains(part), "{line}: {error}");
    }
}

#[test]
fn the_id_of_a_bad_line_is_kept_for_its_answer() {
    for (line, id) in [
        (r#"{"op":"send","id":7,"body":{"$int":"x"}}"#, Some(JsonId::Number(7))),
        (r#"{"op":"send","body":{"$int":"x"},"id":7}"#, Some(JsonId::Number(7))),
        (r#"{"body":{"id":1},"x":"\"id\":2","id" : "a",}"#, Some(JsonId::Text("a".to_owned()))),
        (r#"{"op":"id","to":"a" "id":3}"#, Some(JsonId::Number(3))),
        (r#"{"body":[,"id":4}"#, None),
        (r#"{"id":1.5,,}"#, None),
        (r#"{"id":9007199254740993,,}"#, None),
        (r#"{"id":"#, None),
        (r#"{"id":"abc"#, None),
        (r#"{"id":"a\"#, None),
    ] {
        assert_eq!(refused(line).id, id, "{line}");
    }
}

#[test]
fn a_body_that_is_no_cbor_arrives_as_bytes() {
    for (body, base64) in [
        (&[0xff, 0x00][..], "/wA="),
        (&[0x01, 0x02], "AQI="),
        (&[0x61, 0xff], "Yf8="),
        (&[0x82, 0x01], "ggE="),
        (&[0x9f, 0x01], "nwE="),
        (&[0x7f, 0x41, 0x61, 0xff], "f0Fh/w=="),
        (&[0xa1, 0x01], "oQE="),
    ] {
        assert_eq!(
            line(&Head::event("message"), body),
            format!(
                "{{\"ev\":\"message\",\"body\":{{\"$bytes\":\"{base64}\"}},\"ct\":\"application/octet-stream\"}}\n"
            )
        );
    }
    assert_eq!(
        line(&Head::event("message").text("ct", "text/plain"), b"hello"),
        "{\"ev\":\"message\",\"ct\":\"text/plain\",\"body\":{\"$bytes\":\"aGVsbG8=\"}}\n"
    );
}

#[test]
fn a_list_arrives_under_its_noun() {
    let head = Head::ok(Id::Number(1)).carries("nodes");
    assert_eq!(line(&head, &[0x81, 0x01]), "{\"ev\":\"ok\",\"id\":1,\"nodes\":[1]}\n");
    assert_eq!(line(&Head::ok(Id::Text("é\n")), &[]), "{\"ev\":\"ok\",\"id\":\"é\\n\"}\n");
}

#[test]
fn a_list_of_messages_may_hold_a_body_as_deep_as_bodies_are() {
    let mut item = [&[0x81; DEPTH_MAX - 1][..], &[0x00]].concat();
    assert!(cbor::is_one_item(&item));
    item.splice(0..0, *b"\x81\xa1\x64body");
    let line = line(&Head::ok(Id::Number(1)).carries("messages"), &item);
    assert!(line.starts_with("{\"ev\":\"ok\",\"id\":1,\"messages\":[{\"body\":[[["), "{line}");
}

#[test]
fn cbor_that_others_write_differently_is_read() {
    for (item, json) in [
        (&b"\x9f\x01\x9f\xff\xff"[..], "[1,[]]"),
        (b"\xbf\x61a\x01\x7f\x61b\x61c\xff\x02\xff", r#"{"a":1,"bc":2}"#),
        (b"\xbf\x01\x02\xff", r#"{"$map":[[1,2]]}"#),
        (b"\x7f\x62\xc3\xa9\x60\x61x\xff", "\"éx\""),
        (b"\x5f\x41\x00\x42\x01\x02\xff", r#"{"$bytes":"AAEC"}"#),
        (b"\xf7", "null"),
        (b"\xf9\x3e\x00", "1.5"),
        (b"\xf9\x00\x01", "5.960464477539063e-8"),
        (b"\xf9\xfc\x00", r#"{"$float":"-Infinity"}"#),
        (b"\xfa\x47\xc3\x50\x00", "100000.0"),
        (b"\x1b\0\0\0\0\0\0\0\x01", "1"),
        (b"\xc2\x41\x07", "7"),
        (b"\xc3\x41\x07", "-8"),
        (b"\xc2\x40", "0"),
        (b"\xc3\x48\xff\xff\xff\xff\xff\xff\xff\xff", r#"{"$int":"-18446744073709551616"}"#),
        (b"\xc2\x61a", r#"{"$tag":[2,"a"]}"#),
        (b"\xf0", r#"{"$tag":[4294967295,16]}"#),
    ] {
        assert_eq!(cbor_to_json(item).as_deref(), Some(json), "{item:x?}");
    }
    let huge = [&[0xc2, 0x58, 200][..], &[0xff; 200]].concat();
    assert!(cbor_to_json(&huge).expect("well formed").starts_with(r#"{"$tag":[2,{"$bytes":"#));
}

#[test]
fn a_map_with_a_key_twice_loses_neither() {
    assert_eq!(
        cbor_to_json(b"\xa2\x61a\x01\x61a\x02").as_deref(),
        Some(r#"{"$map":[["a",1],["a",2]]}"#)
    );
    assert_eq!(
        cbor_to_json(b"\xa2\x61b\xa2\x61a\x01\x61a\x02\x61a\x03").as_deref(),
        Some(r#"{"b":{"$map":[["a",1],["a",2]]},"a":3}"#)
    );
}

#[test]
fn a_frame_that_is_none_is_told_as_a_loss() {
    let mut out = Vec::new();
    frame_to_line(b"\0\0\0\x09nonsense", &mut out);
    assert_eq!(out, b"{\"ev\":\"gap\",\"lost\":1,\"reason\":\"malformed\"}\n");
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
        ".{0,12}".prop_map(Value::from),
        "\\$.{0,4}".prop_map(Value::from),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 120, 30, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..30).prop_map(Value::Array),
            proptest::collection::btree_map("\\$?.{0,3}", inner.clone(), 0..30).prop_map(|map| {
                Value::Map(map.into_iter().map(|(key, value)| (key.into(), value)).collect())
            }),
            proptest::collection::btree_map(any::<i8>(), inner.clone(), 0..5).prop_map(|map| {
                Value::Map(map.into_iter().map(|(key, value)| (key.into(), value)).collect())
            }),
            (6..u64::MAX, inner).prop_map(|(tag, value)| Value::Tag(tag, Box::new(value))),
        ]
    })
}

/// NaN is not even equal to itself.
fn shown(item: &[u8]) -> String {
    let value: Value = ciborium::from_reader(item).expect("well formed");
    format!("{value:?}")
}

proptest! {
    #[test]
    fn any_bytes_become_one_line(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut line = Vec::new();
        frame_to_line(&bytes, &mut line);
        prop_assert_eq!(line.split(|byte| *byte == b'\n').count(), 2);
        let mut frame = Vec::new();
        put_frame(&mut frame, b"\xa1\x62ev\x61x", &bytes);
        line.clear();
        frame_to_line(&frame, &mut line);
        prop_assert!(line.ends_with(b"\x7d\n"));
        prop_assert!(serde_json::from_slice::<serde_json::Value>(&line).is_ok());
        let _ = json_to_cbor(&bytes);
        let _ = line_to_frame(&bytes, &mut Vec::new());
    }

    #[test]
    fn any_text_is_json_here_exactly_when_it_is_json(text in "[\\[\\]{}\",:0-9a-z.eE+\\-\\\\ u]{0,24}") {
        let ours = json_to_cbor(text.as_bytes()).map_err(|error| error.message);
        let theirs = serde_json::from_str::<serde_json::Value>(&text);
        if let Err(message) = &ours {
            // Ours is stricter in what would lose something.
            let stricter = ["twice", "beyond 64 bits", "larger than a float"];
            prop_assert!(theirs.is_err() || stricter.iter().any(|part| message.contains(part)), "{text}: {message}");
        } else {
            prop_assert!(theirs.is_ok(), "{text}: {theirs:?}");
        }
    }

    #[test]
    fn any_value_goes_there_and_back(value in any_value()) {
        let mut item = Vec::new();
        ciborium::into_writer(&value, &mut item).expect("memory");
        let json = cbor_to_json(&item).expect("well formed");
        prop_assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{json}");
        let back = json_to_cbor(json.as_bytes());
        prop_assert!(back.is_ok(), "{json}: {back:?}");
        prop_assert_eq!(shown(&back.unwrap_or_default()), shown(&item));
    }

    #[test]
    fn any_whole_number_goes_there_and_back(number in any::<i128>()) {
        let json = format!("{{\"$int\":\"{number}\"}}");
        let back = round(&json);
        let exact = number.unsigned_abs() <= 1 << 53;
        prop_assert_eq!(back, if exact { number.to_string() } else { json });
    }

    #[test]
    fn any_float_goes_there_and_back(bits in any::<u64>()) {
        let number = f64::from_bits(bits);
        prop_assume!(number.is_finite());
        let item = there(&format!("{number:?}"));
        prop_assert_eq!(&item[1..], bits.to_be_bytes());
    }
}
