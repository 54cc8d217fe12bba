//! A line to a frame: which member goes where, and whose line it was when it is none.

use std::ops::Range;

use super::JsonId;
use super::parse::{EMPTY_MAP, Fault, KeyKind, Parser, put_count, shown};
use crate::wire::cbor::{self, DEPTH_MAX, Reader};
use crate::wire::command::{ID_BYTES_MAX, NUMBER_MAX};

const A_LINE: &str = "a line is one object, like {\"op\": \"self\", \"id\": 1}";

impl Parser<'_> {
    /// Reads a whole line and writes it as a frame behind what `out` holds. `id` is set as soon as it is known.
    ///
    /// Members are written in the order they come in, the body among them; then what has its own place is moved
    /// there, which is nothing for a line that starts with `op` and ends with `body`.
    pub(super) fn line(&mut self, out: &mut Vec<u8>, id: &mut Option<JsonId>) -> Result<(), Fault> {
        let start = out.len();
        if self.next() != Some(b'{') {
            return Err(Fault::new(self.at, "this is no JSON object", A_LINE));
        }
        self.at += 1;
        out.extend_from_slice(&[0, 0, 0, 0, 0, 0, EMPTY_MAP]);
        let first = out.len();
        let mut op = first..first;
        let mut body: Option<Range<usize>> = None;
        let mut body_at = 0;
        let mut ct = false;
        if self.next() == Some(b'}') {
            self.at += 1;
        } else {
            loop {
                self.space();
                let pair = out.len();
                let (kind, key) = self.key(out)?;
                let (at, content) = (key.at, key.start..key.end);
                if matches!(kind, KeyKind::Form) {
                    let name = shown(&out[content]);
                    return Err(Fault::new(
                        at,
                        format!("`{name}` is no member of a command"),
                        "what starts with $ belongs into `body`",
                    ));
                }
                self.expect(b':', "`:`")?;
                if &out[content.clone()] == b"body" {
                    if body.is_some() {
                        return Err(Fault::new(at, "the key `body` is there twice", ""));
                    }
                    out.truncate(pair);
                    self.space();
                    body_at = self.at;
                    self.value(out, DEPTH_MAX)?;
                    body = Some(pair..out.len());
                } else {
                    self.keys.push(key);
                    let value = out.len();
                    self.value(out, DEPTH_MAX)?;
                    match &out[content] {
                        b"op" => op = pair..out.len(),
                        b"id" => *id = read_id(&out[value..]),
                        b"ct" => ct = out[value] != 0xf6,
                        _ => {}
                    }
                }
                match self.next() {
                    Some(b',') => self.at += 1,
                    Some(b'}') => break,
                    _ => return Err(self.unexpected("`,` or `}`")),
                }
            }
            self.at += 1;
        }
        self.end()?;
        let pairs = self.keys.len();
        self.close_keys(0, out)?;

        let mut body_bytes = 0;
        if let Some(body) = body {
            body_bytes = body.len();
            out[body.start..].rotate_left(body_bytes);
            if op.start > body.start {
                op = op.start - body_bytes..op.end - body_bytes;
            }
            if ct {
                let place = out.len() - body_bytes;
                let Ok(bytes) = Reader::new(&out[place..]).byte_string().map(<[u8]>::len) else {
                    return Err(Fault::new(
                        body_at,
                        "a body that is not bytes, beside a `ct`",
                        "with `ct` the body is {\"$bytes\": \"<base64>\"}",
                    ));
                };
                out.drain(place..place + body_bytes - bytes);
                body_bytes = bytes;
            }
        }
        out[first..op.end].rotate_right(op.len());
        put_count(out, first - 1, pairs);
        let header = out.len() - body_bytes - start - 6;
        let Ok(header) = u16::try_from(header) else {
            return Err(Fault::new(
                0,
                "a line whose members beside `body` have more than 64 KiB together",
                "what is long belongs into `body`",
            ));
        };
        let Ok(length) = u32::try_from(out.len() - start - 4) else {
            return Err(Fault::new(0, "a line of more than 4 GiB", "send it in pieces"));
        };
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        out[start + 4..start + 6].copy_from_slice(&header.to_be_bytes());
        Ok(())
    }
}

fn read_id(item: &[u8]) -> Option<JsonId> {
    match Reader::new(item).value() {
        Ok(cbor::Value::Uint(number)) if number <= NUMBER_MAX => Some(JsonId::Number(number)),
        Ok(cbor::Value::Text(text)) if text.len() <= ID_BYTES_MAX => {
            Some(JsonId::Text(text.to_owned()))
        }
        _ => None,
    }
}

/// Looks for the `id` of a line that is not JSON, so that its error finds the command's author. A guess.
pub(super) fn find_id(line: &[u8]) -> Option<JsonId> {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(byte) = line.get(at) {
        at += 1;
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let start = at;
                while *line.get(at)? != b'"' {
                    at += 1 + usize::from(line[at] == b'\\');
                }
                let name = &line[start..at];
                at += 1;
                let rest = line.get(at..)?.trim_ascii_start();
                if depth == 1 && name == b"id" && rest.first() == Some(&b':') {
                    return id_at_start(rest[1..].trim_ascii_start());
                }
            }
            _ => {}
        }
    }
    None
}

fn id_at_start(rest: &[u8]) -> Option<JsonId> {
    if let Some(text) = rest.strip_prefix(b"\"") {
        let end = text.iter().position(|b| matches!(b, b'"' | b'\\'))?;
        let text = std::str::from_utf8(&text[..end]).ok().filter(|_| text[end] == b'"')?;
        return (text.len() <= ID_BYTES_MAX).then(|| JsonId::Text(text.to_owned()));
    }
    let end = rest.iter().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len());
    let number = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    let whole = !matches!(rest.get(end), Some(b'.' | b'e' | b'E'));
    (whole && number <= NUMBER_MAX).then_some(JsonId::Number(number))
}
