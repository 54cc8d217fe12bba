//! Frames as scripts write them: the members of the header and the body in one JSON object.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

use pillion::dialect::json::{cbor_to_json, json_to_cbor};
use pillion::wire::cbor::{self, Reader};
use pillion::wire::event::split_frame;
use serde_json::{Map, Value};

/// Members of answers that are the frame's body. `as` says so in the header.
const NOUNS: [&str; 16] = [
    "diagnosis",
    "explanation",
    "groups",
    "info",
    "members",
    "messages",
    "modules",
    "peers",
    "presence",
    "processes",
    "registered",
    "results",
    "subscribers",
    "topics",
    "tree",
    "nodes",
];

/// The bytes of a frame. An error says what in the script cannot be written.
pub fn write(frame: &Value) -> Result<Vec<u8>, String> {
    let members = frame.as_object().ok_or("a frame is an object")?;
    let noun = noun(members);
    let mut body = Vec::new();
    let mut head: Vec<(&str, Vec<u8>)> = Vec::new();
    for (key, value) in members {
        if Some(key.as_str()) == noun {
            head.push(("as", to_cbor(&Value::from(key.as_str()))?));
            body = to_cbor(value)?;
        } else if key == "body" {
            body = to_cbor(value)?;
            if members.contains_key("ct") {
                let mut reader = Reader::new(&body);
                let bytes = reader.byte_string().map_err(|_| "a body with `ct` is `$bytes`")?;
                body = bytes.to_vec();
            }
        } else {
            head.push((key, to_cbor(value)?));
        }
    }
    // As the node has it: what it is comes first, and whose mailbox it is in last.
    head.sort_by_key(|(key, _)| match *key {
        "ev" | "op" => 0,
        "pid" => 2,
        _ => 1,
    });
    let mut written = Vec::new();
    cbor::put_map(&mut written, head.len());
    for (key, value) in head {
        cbor::put_text(&mut written, key);
        written.extend_from_slice(&value);
    }
    Ok(join(&written, &body))
}

/// The member that is the body of this answer. Beside `count`, `nodes` is a number's neighbour and no body.
fn noun(members: &Map<String, Value>) -> Option<&'static str> {
    if members.get("ev")? != "ok" || members.contains_key("body") {
        return None;
    }
    NOUNS.into_iter().find(|noun| members.get(*noun).is_some_and(is_compound))
}

fn is_compound(value: &Value) -> bool {
    value.is_array() || value.is_object()
}

fn to_cbor(value: &Value) -> Result<Vec<u8>, String> {
    json_to_cbor(value.to_string().as_bytes()).map_err(|error| error.message)
}

/// A frame of a header and a body, each as they are.
pub fn join(head: &[u8], body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(6 + head.len() + body.len());
    frame.extend_from_slice(&u32::try_from(2 + head.len() + body.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(&u16::try_from(head.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(head);
    frame.extend_from_slice(body);
    frame
}

/// What a frame says. A member that is null is one that was left out; `as` is taken away.
pub fn read(frame: &[u8]) -> Result<Value, String> {
    let (head, body) = split_frame(frame).ok_or("a header that is longer than its frame")?;
    let mut members = Map::new();
    let malformed = |_| "a header that is no CBOR map with text keys".to_owned();
    let mut reader = Reader::new(head);
    for _ in 0..reader.map().map_err(malformed)? {
        let key = reader.text().map_err(malformed)?;
        let before = reader.rest();
        reader.skip().map_err(malformed)?;
        let item = &before[..before.len() - reader.rest().len()];
        let text = cbor_to_json(item).ok_or("a header member that is no JSON")?;
        let value: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        if members.contains_key(key) {
            return Err(format!("a header with `{key}` twice"));
        }
        if !value.is_null() || members.contains_key("ev") {
            members.insert(key.to_owned(), value);
        }
    }
    if !reader.rest().is_empty() {
        return Err("bytes behind the header's map".to_owned());
    }
    if !body.is_empty() {
        let noun = members.remove("as");
        let noun = noun.as_ref().and_then(Value::as_str).unwrap_or("body").to_owned();
        let body = if members.contains_key("ct") {
            let mut quoted = Vec::new();
            pillion::dialect::json::put_bytes(&mut quoted, body);
            String::from_utf8(quoted).unwrap_or_default()
        } else {
            cbor_to_json(body).ok_or("a body that is not one CBOR item, and has no `ct`")?
        };
        members.insert(noun, serde_json::from_str(&body).map_err(|error| error.to_string())?);
    }
    Ok(Value::Object(members))
}

/// Reads one frame. `None` is the end of the stream.
pub fn next(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut frame = vec![0; 4];
    if let Err(error) = stream.read_exact(&mut frame) {
        return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
    }
    if frame[0] > 4 {
        let text = format!("its first bytes are {frame:02x?}, which begin no CBOR frame");
        return Err(io::Error::other(text));
    }
    let length = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    frame.resize(4 + length, 0);
    stream.read_exact(&mut frame[4..])?;
    Ok(Some(frame))
}
