//! JSON lines and CBOR frames, each turned into the other without a value in between.
//!
//! What JSON lacks is written as an object with one key that starts with `$`: `{"$bytes": "<base64>"}`,
//! `{"$int": "123"}` (beyond 2^53), `{"$float": "NaN"}` (also Infinity and -Infinity), `{"$map": [[key, value], ...]}`
//! (keys that are no text) and `{"$tag": [number, value]}`. A real key that starts with `$` gets one more `$`. A
//! number with `.` or an exponent is a float. Depth is at most 64, and a key twice in an object is refused.

mod big;
mod line;
mod parse;
mod print;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::wire::cbor::{DEPTH_MAX, Malformed, Reader};
use crate::wire::command::Id;
use crate::wire::event;
use parse::{Fault, Parser};

/// What a body is called whose content type says nothing, because it is not even CBOR.
const OPAQUE: &str = "application/octet-stream";
/// A list of events holds bodies that may be as deep as bodies are.
const LIST_DEPTH_MAX: usize = DEPTH_MAX + 8;

/// The `id` of a line that is no command: its error is answered under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonId {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

impl JsonId {
    /// As commands have it.
    #[must_use]
    pub fn as_id(&self) -> Id<'_> {
        match self {
            Self::Number(number) => Id::Number(*number),
            Self::Text(text) => Id::Text(text),
        }
    }
}

/// Why a text is not what it should be. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonError {
    /// The line's `id`, where one could be made out.
    pub id: Option<JsonId>,
    /// What is wrong, where, and what to write instead.
    pub message: String,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for JsonError {}

/// Turns one line into one CBOR app frame behind what `out` holds: `op` comes first in its header, the other members
/// follow in the order of the line.
///
/// # Errors
/// [`JsonError`]; `out` is as it was.
pub fn line_to_frame(line: &[u8], out: &mut Vec<u8>) -> Result<(), JsonError> {
    let start = out.len();
    let mut id = None;
    let read = Parser::new(line).and_then(|mut parser| parser.line(out, &mut id));
    read.map_err(|fault| {
        out.truncate(start);
        JsonError { id: id.or_else(|| line::find_id(line)), message: fault.sentence(line) }
    })
}

/// Turns one JSON value into one CBOR item.
///
/// # Errors
/// [`JsonError`] saying what and where.
pub fn json_to_cbor(text: &[u8]) -> Result<Vec<u8>, JsonError> {
    let mut item = Vec::with_capacity(text.len());
    let read = Parser::new(text).and_then(|mut parser| {
        parser.value(&mut item, DEPTH_MAX)?;
        parser.end()
    });
    read.map_err(|fault: Fault| JsonError { id: None, message: fault.sentence(text) })?;
    Ok(item)
}

/// Turns one CBOR event frame into one JSON line behind what `out` holds.
///
/// Whatever the bytes are, one line comes out: a body that is not CBOR is written as `$bytes`.
pub fn frame_to_line(frame: &[u8], out: &mut Vec<u8>) {
    frame_to_object(frame, &["as"], out);
    out.push(b'\n');
}

/// The same without the end of the line and without these members of the header.
pub fn frame_to_object(frame: &[u8], without: &[&str], out: &mut Vec<u8>) {
    let start = out.len();
    if put_line(frame, without, out).is_err() {
        out.truncate(start);
        out.extend_from_slice(b"{\"ev\":\"gap\",\"lost\":1,\"reason\":\"malformed\"}");
    }
}

/// Bytes as JSON has them.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    print::put_base64(out, bytes);
}

fn put_line(frame: &[u8], without: &[&str], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let (head, body) = event::split_frame(frame).ok_or(Malformed)?;
    let mut reader = Reader::new(head);
    let mut noun = None;
    let mut opaque = false;
    let mut between = b'{';
    for _ in 0..reader.map()? {
        let key = reader.text()?;
        if key == "as" {
            noun = Some(reader.clone().text()?);
        }
        if without.contains(&key) {
            reader.skip()?;
            continue;
        }
        opaque |= key == "ct";
        member(out, &mut between, key);
        print::item(&mut reader, out, DEPTH_MAX)?;
    }
    if !reader.rest().is_empty() {
        return Err(Malformed);
    }
    if !body.is_empty() {
        member(out, &mut between, noun.unwrap_or("body"));
        let depth = if noun.is_some() { LIST_DEPTH_MAX } else { DEPTH_MAX };
        if opaque || put_whole(body, out, depth).is_err() {
            print::put_base64(out, body);
            if !opaque {
                member(out, &mut between, "ct");
                print::put_string(out, OPAQUE);
            }
        }
    }
    if between == b'{' {
        out.push(b'{');
    }
    out.push(b'}');
    Ok(())
}

fn member(out: &mut Vec<u8>, between: &mut u8, key: &str) {
    out.push(std::mem::replace(between, b','));
    print::put_string(out, key);
    out.push(b':');
}

/// Prints what must be exactly one item. After an error `out` is as it was.
fn put_whole(item: &[u8], out: &mut Vec<u8>, depth: usize) -> Result<(), Malformed> {
    let start = out.len();
    let mut reader = Reader::new(item);
    print::item(&mut reader, out, depth)?;
    if reader.rest().is_empty() {
        Ok(())
    } else {
        out.truncate(start);
        Err(Malformed)
    }
}

/// One CBOR item as JSON; `None` when it is not one well-formed item.
#[must_use]
pub fn cbor_to_json(item: &[u8]) -> Option<String> {
    let mut out = Vec::with_capacity(item.len() * 2);
    put_whole(item, &mut out, LIST_DEPTH_MAX).ok()?;
    String::from_utf8(out).ok()
}
