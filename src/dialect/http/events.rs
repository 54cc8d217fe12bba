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
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(seen.ev.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    json::frame_to_object(seen.frame, &["as", "id"], out);
    out.extend_from_slice(b"\n\n");
}
