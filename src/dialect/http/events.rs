//! Events as a stream that `EventSource` and `curl -N` read: server-sent events, as the WHATWG's HTML standard has them.

use std::borrow::Cow;

use super::response::{Response, Seen};
use crate::dialect::json;

/// What is written when there is nothing to say: readers pass over it, and the way is known to be there.
pub const ALIVE: &[u8] = b":\n\n";

/// The head of a stream.
#[must_use]
pub fn begins() -> Response {
    let content_type = Some(Cow::Borrowed("text/event-stream"));
    Response { status: 200, content_type, allow: None, body: Vec::new() }
}

/// Writes one event: its name, and the line of it that a JSON app reads, without the `id` of an answer.
pub fn put(out: &mut Vec<u8>, seen: Seen<'_>) {
    put_name(out, seen.ev);
    json::frame_to_object(seen.frame, &["as", "id"], out);
    out.extend_from_slice(b"\n\n");
}

/// Writes one event that is no answer: its name, and the line of it that a JSON app reads, with its end.
pub fn put_line(out: &mut Vec<u8>, name: &str, line: &[u8]) {
    put_name(out, name);
    out.extend_from_slice(line);
    out.push(b'\n');
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\ndata: ");
}
