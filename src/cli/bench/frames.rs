//! The few CBOR frames that a benchmark writes and reads, by hand.
//!
//! Both the floor and the daemons are fed by these, so that the two cost the clients the same. Nothing here is a
//! CBOR library: it writes maps of short texts and walks over what the daemons write.

/// `u32 length of the rest, u16 length of the header`.
pub(super) const PREFIX_BYTES: usize = 6;
/// How the header of every message event starts: a map (its first byte differs) whose first pair is this.
pub(super) const MESSAGE: &[u8] = b"\x62ev\x67message";

/// Appends a frame.
pub(super) fn frame(out: &mut Vec<u8>, header: &[u8], body: &[u8]) {
    let header_length = u16::try_from(header.len()).expect("headers here are short");
    let length = u32::try_from(2 + header.len() + body.len()).expect("bodies here are short");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&header_length.to_be_bytes());
    out.extend_from_slice(header);
    out.extend_from_slice(body);
}

/// A header of texts, in the order given.
#[must_use]
pub(super) fn header(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut out = vec![0xa0 | u8::try_from(pairs.len()).expect("a handful of pairs")];
    for (key, value) in pairs {
        text(&mut out, key);
        text(&mut out, value);
    }
    out
}

/// Adds a number to a header, always in four bytes at the end, so that another one can take its place.
pub(super) fn put_number(header: &mut Vec<u8>, key: &str, number: u32) {
    if let Some(first) = header.first_mut() {
        *first += 1;
    }
    text(header, key);
    header.push(0x1a);
    header.extend_from_slice(&number.to_be_bytes());
}

fn text(out: &mut Vec<u8>, text: &str) {
    match u8::try_from(text.len()).expect("texts here are short") {
        length @ 0..=23 => out.push(0x60 | length),
        length => out.extend_from_slice(&[0x78, length]),
    }
    out.extend_from_slice(text.as_bytes());
}

/// A body of exactly `bytes` bytes: one CBOR byte string that ends in a number set by [`number`].
#[must_use]
pub(super) fn body(bytes: usize) -> Vec<u8> {
    let mut out = match bytes {
        0..=24 => vec![0x40 | u8::try_from(bytes.saturating_sub(1)).unwrap_or(23)],
        25..=257 => vec![0x58, u8::try_from(bytes - 2).unwrap_or(u8::MAX)],
        258..=65_538 => {
            let [high, low] = u16::try_from(bytes - 3).unwrap_or(u16::MAX).to_be_bytes();
            vec![0x59, high, low]
        }
        _ => {
            let [a, b, c, d] = u32::try_from(bytes - 5).unwrap_or(u32::MAX).to_be_bytes();
            vec![0x5a, a, b, c, d]
        }
    };
    out.resize(bytes, 0);
    out
}

/// Writes a message's number into the last eight bytes of its frame.
pub(super) fn set_number(frame: &mut [u8], number: u64) {
    if let Some(tail) = frame.last_chunk_mut::<8>() {
        *tail = number.to_be_bytes();
    }
}

/// The number that [`set_number`] wrote.
#[must_use]
pub(super) fn number(body: &[u8]) -> u64 {
    body.last_chunk::<8>().map_or(0, |tail| u64::from_be_bytes(*tail))
}

/// One frame, borrowed from a read buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// The CBOR map.
    pub header: &'a [u8],
    /// The rest.
    pub body: &'a [u8],
    /// All of it, prefix included.
    pub bytes: usize,
}

/// Cuts the first frame off a buffer; `None` when it is not all there (or never can be).
#[inline]
#[must_use]
pub(super) fn cut(buffer: &[u8]) -> Option<Frame<'_>> {
    let (prefix, rest) = buffer.split_first_chunk::<PREFIX_BYTES>()?;
    let [length @ .., high, low] = *prefix;
    let length = (u32::from_be_bytes(length) as usize).checked_sub(2)?;
    let header_length = u16::from_be_bytes([high, low]);
    let (header, body) = rest.get(..length)?.split_at_checked(header_length.into())?;
    Some(Frame { header, body, bytes: PREFIX_BYTES + length })
}

/// Answers a call, or an rpc, with what it brought.
pub(super) fn reply(out: &mut Vec<u8>, call: &Frame<'_>) {
    let number = number_of(call.header, b"ref");
    let mut header = header(&[("op", "reply")]);
    put_number(&mut header, "ref", number.unwrap_or(0));
    frame(out, &header, call.body);
}

/// Whether a header is that of a message event.
#[inline]
#[must_use]
pub(super) fn is_message(header: &[u8]) -> bool {
    header.get(1..).is_some_and(|rest| rest.starts_with(MESSAGE))
}

/// Whether a header is that of this event.
#[inline]
#[must_use]
pub(super) fn is(header: &[u8], event: &str) -> bool {
    let rest = header.get(1..).and_then(|rest| rest.strip_prefix(b"\x62ev"));
    rest.and_then(item).is_some_and(|(kind, _)| kind == event.as_bytes())
}

/// The number that belongs to `key`, when only texts, small numbers and booleans come before it.
#[inline]
#[must_use]
pub(super) fn number_of(header: &[u8], key: &[u8]) -> Option<u32> {
    let mut rest = header.get(1..)?;
    loop {
        let (name, after) = item(rest)?;
        let (_, next) = item(after)?;
        if name == key {
            let (first, bytes) = after[..after.len() - next.len()].split_first()?;
            return match first {
                0x00..=0x17 => Some(u32::from(*first)),
                0x18..=0x1b => {
                    let number = bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
                    u32::try_from(number).ok()
                }
                _ => None,
            };
        }
        rest = next;
    }
}

/// The text that belongs to `key`, when only texts, small numbers and booleans come before it.
#[inline]
#[must_use]
pub(super) fn text_of<'a>(header: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let mut rest = header.get(1..)?;
    loop {
        let (name, after) = item(rest)?;
        let (value, next) = item(after)?;
        if name == key {
            return Some(value);
        }
        rest = next;
    }
}

/// Reads one text (its bytes) or steps over one small item (no bytes).
#[inline]
fn item(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let (first, rest) = rest.split_first()?;
    match first {
        0x60..=0x77 => rest.split_at_checked(usize::from(first & 0x1f)),
        0x78 => {
            let (length, rest) = rest.split_first()?;
            rest.split_at_checked(usize::from(*length))
        }
        0x00..=0x17 | 0xf4..=0xf6 => Some((&[], rest)),
        0x18 => Some((&[], rest.get(1..)?)),
        0x19 => Some((&[], rest.get(2..)?)),
        0x1a => Some((&[], rest.get(4..)?)),
        0x1b => Some((&[], rest.get(8..)?)),
        _ => None,
    }
}

/// Numbers of one publisher begin with this; there are fewer than 2^48 of them.
#[inline]
#[must_use]
pub(super) const fn first_number(publisher: u16) -> u64 {
    (publisher as u64) << 48
}

/// Of a number, the publisher and how many it had published before.
#[inline]
#[must_use]
pub(super) const fn split_number(number: u64) -> (u64, u64) {
    (number >> 48, number & 0xffff_ffff_ffff)
}

/// The smallest body with room for the time.
pub(super) const STAMPED_BYTES_MIN: usize = 24;

/// A time that all processes of this machine share.
#[must_use]
pub(super) fn now_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, ns) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0) * 1_000_000_000 + ns.unwrap_or(0)
}

/// Writes the time before the number.
pub(super) fn set_stamp(frame: &mut [u8], now: u64) {
    let end = frame.len().saturating_sub(8);
    if let Some(stamp) = frame[..end].last_chunk_mut::<8>() {
        *stamp = now.to_be_bytes();
    }
}

/// The time before the number.
#[inline]
#[must_use]
pub(super) fn stamp(body: &[u8]) -> u64 {
    let end = body.len().saturating_sub(8);
    body[..end].last_chunk().map_or(0, |stamp| u64::from_be_bytes(*stamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_one_cbor_byte_string_of_the_size_asked_for() {
        for bytes in [9, 24, 25, 64, 257, 258, 1024, 16_384, 65_538, 65_539, 100_000] {
            let body = body(bytes);
            assert_eq!(body.len(), bytes);
            let mut rest = body.as_slice();
            let value: ciborium::Value = ciborium::from_reader(&mut rest).unwrap();
            assert!(value.is_bytes() && rest.is_empty(), "{bytes}");
        }
    }

    #[test]
    fn numbers_are_written_and_read_back() {
        let mut header = header(&[("ev", "call"), ("from", "<a@b.1.2>")]);
        put_number(&mut header, "ref", 70_000);
        assert_eq!(number_of(&header, b"ref"), Some(70_000));
        assert_eq!(number_of(&header, b"from"), None);
        assert!(is(&header, "call") && !is(&header, "cast"));
        let value: ciborium::Value = ciborium::from_reader(header.as_slice()).unwrap();
        assert_eq!(value.as_map().map(Vec::len), Some(3));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let long = "stock@b@a-machine-with-a-long-name.example";
        let mut out = Vec::new();
        frame(&mut out, &header(&[("op", "send"), ("to", long)]), &body(64));
        set_number(&mut out, first_number(3) + 77);
        set_stamp(&mut out, 5_000_000_000);
        out.push(0);
        let frame = cut(&out).unwrap();
        assert_eq!(frame.bytes, out.len() - 1);
        assert_eq!(text_of(frame.header, b"to"), Some(long.as_bytes()));
        assert_eq!(text_of(frame.header, b"from"), None);
        assert_eq!(split_number(number(frame.body)), (3, 77));
        assert_eq!(stamp(frame.body), 5_000_000_000);
        assert_eq!(cut(&out[..frame.bytes - 1]), None);
        assert!(is_message(&header(&[("ev", "message"), ("from", "<a@b.1.2>")])));
    }
}
