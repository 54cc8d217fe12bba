//! Answers as responses.

use std::borrow::Cow;
use std::io::Write as _;

use super::routes::Gives;
use super::{Refusal, status_of};
use crate::dialect::json;
use crate::wire::cbor::{Malformed, Reader, Value};
use crate::wire::event::{self, Head};

const JSON: &str = "application/json";
const CBOR: &str = "application/cbor";
/// A body that says not what it is, because it is not even CBOR.
const OPAQUE: &str = "application/octet-stream";
/// What only the dialect itself needs to know of an answer.
const OURS: [&str; 3] = ["ev", "id", "as"];

/// An event, as far as it is looked into here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen<'a> {
    /// Which event.
    pub ev: &'a str,
    /// Which command it answers.
    pub id: Option<u64>,
    /// Its code, if it is an error.
    pub code: Option<&'a str>,
    /// What its body is, if it is no CBOR.
    pub ct: Option<&'a str>,
    /// What its body is called, when that is not `body`.
    pub noun: Option<&'a str>,
    /// Its body.
    pub body: &'a [u8],
    /// All of it.
    pub frame: &'a [u8],
}

impl<'a> Seen<'a> {
    /// Looks at a whole event frame.
    ///
    /// # Errors
    /// [`Malformed`]: it is no event.
    pub fn of(frame: &'a [u8]) -> Result<Self, Malformed> {
        let (head, body) = event::split_frame(frame).ok_or(Malformed)?;
        let mut seen = Self { ev: "", id: None, code: None, ct: None, noun: None, body, frame };
        let mut reader = Reader::new(head);
        for _ in 0..reader.map()? {
            match (reader.text()?, reader.value()?) {
                ("ev", Value::Text(text)) => seen.ev = text,
                ("id", Value::Uint(number)) => seen.id = Some(number),
                ("code", Value::Text(text)) => seen.code = Some(text),
                ("ct", Value::Text(text)) => seen.ct = Some(text),
                ("as", Value::Text(text)) => seen.noun = Some(text),
                _ => {}
            }
        }
        Ok(seen)
    }
}

/// What is answered to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// What the body is, unless there is none.
    pub content_type: Option<Cow<'static, str>>,
    /// The methods that there are.
    pub allow: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// How the end of a response is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// By its length.
    Known(usize),
    /// By its last chunk.
    Chunks,
    /// By the end of the connection.
    Close,
}

impl Response {
    /// Nothing to say but that it was done.
    #[must_use]
    pub const fn done() -> Self {
        Self { status: 204, content_type: None, allow: None, body: Vec::new() }
    }

    /// A request that was not carried out.
    #[must_use]
    pub fn refused(refusal: Refusal) -> Self {
        Self::failed(refusal, false)
    }

    /// A request that was not carried out, or was and nobody can tell how far.
    #[must_use]
    pub fn failed(refusal: Refusal, maybe_applied: bool) -> Self {
        let head = Head::nothing()
            .text("code", refusal.code)
            .text("message", &refusal.message)
            .bool("maybe_applied", maybe_applied);
        let body = json::cbor_to_json(head.bytes()).unwrap_or_default().into_bytes();
        Self {
            status: refusal.status,
            content_type: Some(JSON.into()),
            allow: refusal.allow,
            body: with_newline(body),
        }
    }

    /// The answer to a command, as its route gives it.
    #[must_use]
    pub fn of(answer: Seen<'_>, gives: Gives, takes_cbor: bool) -> Self {
        if answer.ev != "ok" {
            return Self {
                status: answer.code.and_then(status_of).unwrap_or(500),
                ..Self::members(answer)
            };
        }
        match gives {
            Gives::Nothing => Self::done(),
            Gives::Body if answer.noun.is_none() => {
                if answer.body.is_empty() {
                    return Self::done();
                }
                let (content_type, body) = value(answer, takes_cbor);
                Self { status: 200, content_type: Some(content_type), allow: None, body }
            }
            _ => {
                let response = Self::members(answer);
                if response.body == b"{}\n" { Self::done() } else { response }
            }
        }
    }

    fn members(answer: Seen<'_>) -> Self {
        let mut body = Vec::new();
        json::frame_to_object(answer.frame, &OURS, &mut body);
        Self { status: 200, content_type: Some(JSON.into()), allow: None, body: with_newline(body) }
    }

    /// Writes all of it. The body is left out for `HEAD`, where its length is told all the same.
    pub fn put(&self, out: &mut Vec<u8>, is_head: bool, is_new: bool, keep_alive: bool) {
        let size = Size::Known(self.body.len());
        put_head(out, self, size, is_new, keep_alive);
        if !is_head {
            out.extend_from_slice(&self.body);
        }
    }
}

/// A line for people at a terminal, as curl's `--json` answers elsewhere have it.
fn with_newline(mut body: Vec<u8>) -> Vec<u8> {
    body.push(b'\n');
    body
}

/// What a body is and how it is written: as JSON where it is CBOR, unless CBOR is wanted; as it is where it is something else.
fn value(answer: Seen<'_>, takes_cbor: bool) -> (Cow<'static, str>, Vec<u8>) {
    if let Some(ct) = answer.ct {
        return (field_value(ct), answer.body.to_vec());
    }
    if takes_cbor {
        return (CBOR.into(), answer.body.to_vec());
    }
    match json::cbor_to_json(answer.body) {
        Some(text) => (JSON.into(), with_newline(text.into_bytes())),
        None => (OPAQUE.into(), answer.body.to_vec()),
    }
}

/// The content type of an app, if it can stand in a field: what it wrote must not become fields of its own.
fn field_value(ct: &str) -> Cow<'static, str> {
    let good = !ct.trim_ascii().is_empty() && ct.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if good { ct.to_owned().into() } else { OPAQUE.into() }
}

/// How the parts of an answer are written one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// The bytes that they are.
    Bytes,
    /// CBOR items.
    Cbor,
    /// One line of JSON each.
    Lines,
}

impl Parts {
    /// How an answer goes on that begins with this part, and what it is called.
    #[must_use]
    pub fn of(first: Seen<'_>, takes_cbor: bool) -> (Self, Cow<'static, str>) {
        match first.ct {
            Some(ct) => (Self::Bytes, field_value(ct)),
            None if takes_cbor => (Self::Cbor, "application/cbor-seq".into()),
            None => (Self::Lines, "application/x-ndjson".into()),
        }
    }

    /// Writes one part.
    pub fn put(self, out: &mut Vec<u8>, part: Seen<'_>) {
        match self {
            _ if part.body.is_empty() => {}
            Self::Bytes | Self::Cbor => out.extend_from_slice(part.body),
            Self::Lines => {
                let text = json::cbor_to_json(part.body).filter(|_| part.ct.is_none());
                match text {
                    Some(text) => out.extend_from_slice(text.as_bytes()),
                    None => json::put_bytes(out, part.body),
                }
                out.push(b'\n');
            }
        }
    }
}

/// Writes the head of a response.
pub fn put_head(
    out: &mut Vec<u8>,
    response: &Response,
    size: Size,
    is_new: bool,
    keep_alive: bool,
) {
    let status = response.status;
    let mut put = |text: std::fmt::Arguments<'_>| {
        // A Vec takes whatever is written to it.
        let _ = out.write_fmt(text);
    };
    put(format_args!("HTTP/1.1 {status} {}\r\n", phrase(status)));
    if let Some(content_type) = &response.content_type {
        put(format_args!("Content-Type: {content_type}\r\nCache-Control: no-store\r\n"));
    }
    if let Some(allow) = &response.allow {
        put(format_args!("Allow: {allow}\r\n"));
    }
    // That is `overloaded`, and nothing else.
    if status == 503 {
        put(format_args!("Retry-After: 1\r\n"));
    }
    match size {
        Size::Known(_) if status == 204 => {}
        Size::Known(length) => put(format_args!("Content-Length: {length}\r\n")),
        Size::Chunks => put(format_args!("Transfer-Encoding: chunked\r\n")),
        Size::Close => {}
    }
    match (is_new, keep_alive) {
        (_, false) => put(format_args!("Connection: close\r\n\r\n")),
        (false, true) => put(format_args!("Connection: keep-alive\r\n\r\n")),
        (true, true) => put(format_args!("\r\n")),
    }
}

/// Writes what is there as one chunk, or as it is where the connection's end ends it.
pub fn put_piece(out: &mut Vec<u8>, piece: &[u8], size: Size) {
    if size != Size::Chunks {
        out.extend_from_slice(piece);
    } else if !piece.is_empty() {
        // A Vec takes whatever is written to it.
        let _ = write!(out, "{:x}\r\n", piece.len());
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
}

/// Writes the end of a response in chunks.
pub fn put_end(out: &mut Vec<u8>, size: Size) {
    if size == Size::Chunks {
        out.extend_from_slice(b"0\r\n\r\n");
    }
}

fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Status",
    }
}
