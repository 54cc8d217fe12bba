//! What the sidecar says to its apps: event frames, written once.
//!
//! A frame is `u32 length of the rest, u16 header length, header, body`, big endian. Every header here is a
//! CBOR map of fewer than 24 pairs, so that a pair can be added by counting its first byte up. The header
//! member `as` says under which name the body belongs; without it the body is the member `body`.

use super::cbor;
use super::command::Id;
use super::id::Pid;

/// Longest message for people in an answer, in bytes, and longest list of texts: a header has at most 65 535.
const MESSAGE_BYTES_MAX: usize = 8 * 1024;
const TEXTS_BYTES_MAX: usize = 32 * 1024;

/// The header of an event being written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head(Vec<u8>);

impl Head {
    /// An event of this name.
    #[must_use]
    pub fn event(ev: &str) -> Self {
        Self::nothing().text("ev", ev)
    }

    /// A map without anything in it.
    #[must_use]
    pub fn nothing() -> Self {
        let mut bytes = Vec::with_capacity(64);
        bytes.push(0xa0);
        Self(bytes)
    }

    /// The answer `ok` to the command that had this id.
    #[must_use]
    pub fn ok(id: Id<'_>) -> Self {
        Self::event("ok").answers(id)
    }

    /// The answer `error` to the command that had this id.
    #[must_use]
    pub fn error(id: Id<'_>, code: &str, message: &str, maybe_applied: bool) -> Self {
        Self::event("error")
            .answers(id)
            .text("code", code)
            .text("message", shortened(message))
            .bool("maybe_applied", maybe_applied)
    }

    /// Adds a list of texts: as many of them as there is room for.
    #[must_use]
    pub fn texts<'a>(self, key: &str, texts: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut count, mut items) = (0, Vec::new());
        for text in texts {
            if items.len() + text.len() > TEXTS_BYTES_MAX {
                break;
            }
            cbor::put_text(&mut items, text);
            count += 1;
        }
        let mut list = Vec::with_capacity(items.len() + 5);
        cbor::put_array(&mut list, count);
        list.append(&mut items);
        self.raw(key, &list)
    }

    /// Says which command it answers.
    #[must_use]
    pub fn answers(self, id: Id<'_>) -> Self {
        match id {
            Id::Number(number) => self.uint("id", number),
            Id::Text(text) => self.text("id", text),
        }
    }

    fn key(mut self, key: &str) -> Self {
        debug_assert!(self.0[0] < 0xb7, "a header has fewer than 24 pairs");
        self.0[0] += 1;
        cbor::put_text(&mut self.0, key);
        self
    }

    /// Adds a text.
    #[must_use]
    pub fn text(self, key: &str, text: &str) -> Self {
        let mut head = self.key(key);
        cbor::put_text(&mut head.0, text);
        head
    }

    /// Adds a number.
    #[must_use]
    pub fn uint(self, key: &str, number: u64) -> Self {
        let mut head = self.key(key);
        cbor::put_uint(&mut head.0, number);
        head
    }

    /// Adds true or false.
    #[must_use]
    pub fn bool(self, key: &str, yes: bool) -> Self {
        let mut head = self.key(key);
        cbor::put_bool(&mut head.0, yes);
        head
    }

    /// Adds a pid, null when there is none.
    #[must_use]
    pub fn pid(self, key: &str, pid: Option<&Pid>) -> Self {
        match pid {
            Some(pid) => self.text(key, &pid.to_string()),
            None => self.null(key),
        }
    }

    /// Adds a number, null when there is none.
    #[must_use]
    pub fn maybe_uint(self, key: &str, number: Option<u64>) -> Self {
        match number {
            Some(number) => self.uint(key, number),
            None => self.null(key),
        }
    }

    /// Adds null.
    #[must_use]
    pub fn null(self, key: &str) -> Self {
        let mut head = self.key(key);
        cbor::put_null(&mut head.0);
        head
    }

    /// Adds one item that is CBOR already.
    #[must_use]
    pub fn raw(self, key: &str, item: &[u8]) -> Self {
        let mut head = self.key(key);
        head.0.extend_from_slice(item);
        head
    }

    /// Says that the body is the member of this name.
    #[must_use]
    pub fn carries(self, noun: &str) -> Self {
        self.text("as", noun)
    }

    /// The CBOR map.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The events that one process causes at another and that carry a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// `message`: what `send` says.
    Message,
    /// `cast`: a request without an answer.
    Cast,
    /// `call`: a request that wants one.
    Call,
    /// `rpc`: a call of a function.
    Rpc,
}

impl Said {
    /// The first member of the header, as it stands in every frame.
    #[must_use]
    pub const fn ev(self) -> &'static [u8] {
        match self {
            Self::Message => b"\x62ev\x67message",
            Self::Cast => b"\x62ev\x64cast",
            Self::Call => b"\x62ev\x64call",
            Self::Rpc => b"\x62ev\x63rpc",
        }
    }
}

/// Writes the header of what a process whose pid is `prefix` (`<name.incarnation.`), serial, `>` says.
pub fn put_said_head(
    out: &mut Vec<u8>,
    said: Said,
    prefix: &str,
    serial: Option<u64>,
    ct: Option<&str>,
) {
    let pairs = 1 + u8::from(serial.is_some()) + u8::from(ct.is_some());
    out.push(0xa0 | pairs);
    out.extend_from_slice(said.ev());
    if let Some(serial) = serial {
        out.extend_from_slice(b"\x64from");
        put_pid(out, prefix, serial);
    }
    if let Some(ct) = ct {
        out.extend_from_slice(b"\x62ct");
        cbor::put_text(out, ct);
    }
}

/// The first two members of what was published, as they stand in every frame.
const TOPIC: &[u8] = b"\x62ev\x67message\x65topic";

/// Writes the header of what a process has published.
pub fn put_topic_head(out: &mut Vec<u8>, topic: &str, prefix: &str, serial: u64, ct: Option<&str>) {
    out.push(0xa3 + u8::from(ct.is_some()));
    out.extend_from_slice(TOPIC);
    cbor::put_text(out, topic);
    out.extend_from_slice(b"\x64from");
    put_pid(out, prefix, serial);
    if let Some(ct) = ct {
        out.extend_from_slice(b"\x62ct");
        cbor::put_text(out, ct);
    }
}

/// The topic of a header that [`put_topic_head`] wrote.
#[must_use]
pub fn topic_of(head: &[u8]) -> Option<&str> {
    let rest = head.get(1..)?.strip_prefix(TOPIC)?;
    cbor::Reader::new(rest).text().ok()
}

/// Says that somebody else may have had it before.
pub fn put_redelivered(head: &mut Vec<u8>) {
    put_true(head, "redelivered");
}

/// Says that it was published before its reader subscribed.
pub fn put_retained(head: &mut Vec<u8>) {
    put_true(head, "retained");
}

fn put_true(head: &mut Vec<u8>, key: &str) {
    let mut reader = cbor::Reader::new(head);
    let pairs = reader.map().unwrap_or(0);
    for _ in 0..pairs {
        if reader.text() == Ok(key) || reader.skip().is_err() {
            return;
        }
    }
    if let Some(first) = head.first_mut() {
        *first += 1;
        cbor::put_text(head, key);
        cbor::put_bool(head, true);
    }
}

/// Adds a text to a finished header of few members.
pub fn put_member(head: &mut Vec<u8>, key: &str, text: &str) {
    if let Some(pairs) = head.first_mut() {
        *pairs += 1;
        cbor::put_text(head, key);
        cbor::put_text(head, text);
    }
}

/// Adds `ref` to a finished header.
pub fn put_ref(head: &mut Vec<u8>, reference: u64) {
    if let Some(pairs) = head.first_mut() {
        *pairs += 1;
        cbor::put_text(head, "ref");
        cbor::put_uint(head, reference);
    }
}

/// Writes the pid of a local process as a CBOR text.
pub fn put_pid(out: &mut Vec<u8>, prefix: &str, serial: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut rest = serial;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    cbor::put_text_head(out, prefix.len() + digits.len() - at + 1);
    out.extend_from_slice(prefix.as_bytes());
    out.extend_from_slice(&digits[at..]);
    out.push(b'>');
}

/// As much of a message for people as a header has room for.
fn shortened(message: &str) -> &str {
    let mut end = message.len().min(MESSAGE_BYTES_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

/// Writes a whole frame.
///
/// # Panics
/// When the header is longer than 65 535 bytes or the frame than 4 GiB: both are bounded far below.
pub fn put_frame(out: &mut Vec<u8>, head: &[u8], body: &[u8]) {
    let length = u32::try_from(2 + head.len() + body.len()).expect("frames are bounded");
    let head_length = u16::try_from(head.len()).expect("headers are bounded");
    out.reserve(4 + length as usize);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&head_length.to_be_bytes());
    out.extend_from_slice(head);
    out.extend_from_slice(body);
}

/// Writes a whole frame with the pid of a local process added to its header.
///
/// # Panics
/// As [`put_frame`].
pub fn put_frame_for(out: &mut Vec<u8>, head: &[u8], body: &[u8], prefix: &str, serial: u64) {
    let start = out.len();
    out.extend_from_slice(&[0; 6]);
    out.extend_from_slice(head);
    out[start + 6] += 1;
    out.extend_from_slice(b"\x63pid");
    put_pid(out, prefix, serial);
    let head_length = u16::try_from(out.len() - start - 6).expect("headers are bounded");
    out.extend_from_slice(body);
    let length = u32::try_from(out.len() - start - 4).expect("frames are bounded");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    out[start + 4..start + 6].copy_from_slice(&head_length.to_be_bytes());
}

/// Takes a whole frame apart: header and body. `None` when it is not exactly one frame.
#[must_use]
pub fn split_frame(frame: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = frame.split_first_chunk::<4>()?;
    if u32::from_be_bytes(*length) as usize != rest.len() {
        return None;
    }
    let (head_length, rest) = rest.split_first_chunk::<2>()?;
    rest.split_at_checked(u16::from_be_bytes(*head_length) as usize)
}

/// Appends a frame as one CBOR map, its body as the member `body`: how `receive` and `info` list events.
///
/// A body of another content type, or one that is not a CBOR item, becomes a byte string.
pub fn put_event_item(out: &mut Vec<u8>, frame: &[u8]) {
    let Some((head, body)) = split_frame(frame) else {
        cbor::put_null(out);
        return;
    };
    let start = out.len();
    if let Some((before, noun)) = split_noun(head) {
        // Its body has a name of its own.
        out.extend_from_slice(before);
        cbor::put_text(out, noun);
        out.extend_from_slice(body);
        return;
    }
    out.extend_from_slice(head);
    if body.is_empty() || head.is_empty() {
        return;
    }
    out[start] += 1;
    cbor::put_text(out, "body");
    if !has_content_type(head) && cbor::is_one_item(body) {
        out.extend_from_slice(body);
    } else {
        cbor::put_bytes(out, body);
    }
}

/// What is before the last member of a header, if that one is `as`, and what it says.
fn split_noun(head: &[u8]) -> Option<(&[u8], &str)> {
    let mut reader = cbor::Reader::new(head);
    let pairs = reader.map().ok()?;
    for _ in 1..pairs {
        reader.text().ok()?;
        reader.skip().ok()?;
    }
    let before = head.len() - reader.rest().len();
    (reader.text().ok()? == "as").then_some(())?;
    let noun = reader.text().ok()?;
    Some((&head[..before], noun))
}

fn has_content_type(head: &[u8]) -> bool {
    let mut reader = cbor::Reader::new(head);
    let Ok(pairs) = reader.map() else { return false };
    for _ in 0..pairs {
        match reader.text() {
            Ok("ct") => return true,
            Ok(_) if reader.skip().is_ok() => {}
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_is_added_to_a_finished_header() {
        let head = Head::event("message").text("from", "<a@b.0000000000000001.7>");
        let mut plain = Vec::new();
        put_frame_for(&mut plain, head.bytes(), b"\x01", "<a@b.0000000000000001.", 120);
        let (head, body) = split_frame(&plain).expect("one frame");
        let mut reader = cbor::Reader::new(head);
        assert_eq!(reader.map(), Ok(3));
        assert_eq!(body, b"\x01");
        assert!(String::from_utf8_lossy(head).ends_with("<a@b.0000000000000001.120>"));
    }

    #[test]
    fn an_event_lists_as_a_map_with_its_body() {
        let mut frame = Vec::new();
        put_frame(&mut frame, Head::event("message").bytes(), b"\x18\x2a");
        let mut item = Vec::new();
        put_event_item(&mut item, &frame);
        assert_eq!(item, b"\xa2\x62ev\x67message\x64body\x18\x2a");
    }
}
