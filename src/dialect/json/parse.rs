//! JSON text to CBOR bytes in one pass, without a value in between.
//!
//! A container's head is written as one byte and grows when its count turns out to need more, so that every length
//! is definite. Errors are sentences with a column: the app's author reads them as `badarg`.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::big;
use crate::wire::cbor::{self, DEPTH_MAX, Reader};

/// Some write base64 without the `=` at its end.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What is wrong, where, and what to write instead.
#[derive(Debug)]
pub(super) struct Fault {
    at: usize,
    what: Cow<'static, str>,
    advice: &'static str,
}

impl Fault {
    pub(super) fn new(at: usize, what: impl Into<Cow<'static, str>>, advice: &'static str) -> Self {
        Self { at, what: what.into(), advice }
    }

    /// The sentence for the author of `text`.
    pub(super) fn sentence(&self, text: &[u8]) -> String {
        let before = String::from_utf8_lossy(&text[..self.at.min(text.len())]);
        let column = before.chars().count() + 1;
        if self.advice.is_empty() {
            format!("{} at column {column}", self.what)
        } else {
            format!("{} at column {column}: {}", self.what, self.advice)
        }
    }
}

const DOLLAR: &str = "there are $bytes, $int, $float, $map and $tag, each alone in its object; a real key that starts with $ is written with one more $";
/// Heads of containers that are still empty.
const EMPTY_ARRAY: u8 = 0x80;
pub(super) const EMPTY_MAP: u8 = 0xa0;

/// What a key of an object means.
pub(super) enum KeyKind {
    /// A key, now written without its extra `$`.
    Real,
    /// The one key of a `$` form.
    Form,
}

/// A key that was written: where its bytes are in the output, and where it began in the input.
pub(super) struct Key {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) at: usize,
}

/// Reads JSON, writes CBOR.
pub(super) struct Parser<'a> {
    text: &'a str,
    pub(super) at: usize,
    /// The keys of all objects that are open, innermost last.
    pub(super) keys: Vec<Key>,
}

impl<'a> Parser<'a> {
    /// Starts at the beginning of `text`.
    pub(super) fn new(text: &'a [u8]) -> Result<Self, Fault> {
        let text = std::str::from_utf8(text).map_err(|error| {
            Fault::new(
                error.valid_up_to(),
                "bytes that are not UTF-8",
                "write bytes as {\"$bytes\": \"<base64>\"}",
            )
        })?;
        Ok(Self { text, at: 0, keys: Vec::new() })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    pub(super) fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// The next byte that is no space, left where it is.
    pub(super) fn next(&mut self) -> Option<u8> {
        self.space();
        self.peek()
    }

    pub(super) fn unexpected(&self, wanted: &'static str) -> Fault {
        let what = match self.text[self.at..].chars().next() {
            None => "the end of the text".to_owned(),
            Some(c) if c.is_control() => format!("a control character (U+{:04X})", u32::from(c)),
            Some(c) => format!("`{c}`"),
        };
        Fault::new(self.at, format!("not JSON: {what} where {wanted} belongs,"), "")
    }

    pub(super) fn expect(&mut self, byte: u8, wanted: &'static str) -> Result<(), Fault> {
        if self.next() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(self.unexpected(wanted))
        }
    }

    /// Nothing but space may be left.
    pub(super) fn end(&mut self) -> Result<(), Fault> {
        match self.next() {
            None => Ok(()),
            Some(_) => Err(Fault::new(
                self.at,
                "something follows the end of the value",
                "one line holds one JSON value",
            )),
        }
    }

    /// Reads a value and writes it as one item.
    pub(super) fn value(&mut self, out: &mut Vec<u8>, depth: usize) -> Result<(), Fault> {
        let first = self.next();
        let depth = depth.checked_sub(1).ok_or_else(|| {
            Fault::new(self.at, format!("nesting deeper than {DEPTH_MAX}"), "flatten the value")
        })?;
        match first {
            Some(b'"') => {
                let text = self.string()?;
                cbor::put_text(out, &text);
                Ok(())
            }
            Some(b'{') => self.object(out, depth),
            Some(b'[') => self.array(out, depth),
            Some(b'-' | b'0'..=b'9') => self.number(out),
            Some(b't') => self.word("true", out, 0xf5),
            Some(b'f') => self.word("false", out, 0xf4),
            Some(b'n') => self.word("null", out, 0xf6),
            _ => Err(self.unexpected("a value")),
        }
    }

    fn word(&mut self, word: &str, out: &mut Vec<u8>, byte: u8) -> Result<(), Fault> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.unexpected("a value"));
        }
        self.at += word.len();
        out.push(byte);
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Fault> {
        if !self.peek().is_some_and(|b| b.is_ascii_digit()) {
            return Err(self.unexpected("a digit"));
        }
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        let start = self.at;
        let negative = self.peek() == Some(b'-');
        self.at += usize::from(negative);
        let first_digit = self.at;
        self.digits()?;
        if self.at - first_digit > 1 && self.text.as_bytes()[first_digit] == b'0' {
            return Err(Fault::new(start, "a number that starts with 0", "leave the 0 out"));
        }
        let mut whole = true;
        if self.peek() == Some(b'.') {
            whole = false;
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            whole = false;
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        let text = &self.text[start..self.at];
        if !whole {
            // The grammar above is a part of what Rust reads.
            let number: f64 = text.parse().unwrap_or(f64::INFINITY);
            if number.is_infinite() {
                return Err(Fault::new(
                    start,
                    "a number larger than a float can be",
                    "infinity is {\"$float\": \"Infinity\"}",
                ));
            }
            cbor::put_float(out, number);
        } else if let Ok(number) = text.parse::<u64>() {
            cbor::put_uint(out, number);
        } else if let Ok(number) = text.parse::<i64>() {
            // -0 is the whole number 0.
            let argument = if number < 0 { !number.cast_unsigned() } else { 0 };
            cbor::put_int(out, number < 0, argument);
        } else {
            return Err(Fault::new(
                start,
                "a whole number beyond 64 bits",
                "write it as {\"$int\": \"<digits>\"}",
            ));
        }
        Ok(())
    }

    /// Reads a string; only one with escapes is copied.
    fn string(&mut self) -> Result<Cow<'a, str>, Fault> {
        if self.next() != Some(b'"') {
            return Err(self.unexpected("a string"));
        }
        let opening = self.at;
        self.at += 1;
        let mut run = self.at;
        let mut copy = String::new();
        loop {
            let rest = &self.text.as_bytes()[self.at..];
            let Some(length) = rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..=0x1f))
            else {
                return Err(Fault::new(opening, "a string that is not closed, opened", ""));
            };
            self.at += length;
            let piece = &self.text[run..self.at];
            match rest[length] {
                b'"' => {
                    self.at += 1;
                    if copy.is_empty() {
                        return Ok(Cow::Borrowed(piece));
                    }
                    copy.push_str(piece);
                    return Ok(Cow::Owned(copy));
                }
                b'\\' => {
                    copy.push_str(piece);
                    copy.push(self.escape()?);
                    run = self.at;
                }
                _ => {
                    return Err(Fault::new(
                        self.at,
                        "a control character in a string",
                        "write it as an escape, like \\n or \\u0000",
                    ));
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, Fault> {
        let start = self.at;
        let escape = self.text.as_bytes().get(start + 1);
        self.at += 2;
        Ok(match escape {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(start),
            _ => {
                return Err(Fault::new(
                    start,
                    "an unknown escape in a string",
                    "a backslash is written \\\\",
                ));
            }
        })
    }

    fn unicode(&mut self, start: usize) -> Result<char, Fault> {
        let half = || {
            Fault::new(
                start,
                "half of a surrogate pair in a string",
                "characters beyond U+FFFF take two escapes, like \\ud83d\\ude00",
            )
        };
        let unit = self.hex(start)?;
        let code = match unit {
            0xd800..=0xdbff => {
                if !self.text.as_bytes()[self.at..].starts_with(b"\\u") {
                    return Err(half());
                }
                self.at += 2;
                let low = self.hex(start)?;
                if !(0xdc00..=0xdfff).contains(&low) {
                    return Err(half());
                }
                0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
            }
            _ => unit,
        };
        char::from_u32(code).ok_or_else(half)
    }

    fn hex(&mut self, start: usize) -> Result<u32, Fault> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let digits = digits.filter(|d| d.iter().all(u8::is_ascii_hexdigit)).ok_or_else(|| {
            Fault::new(start, "a \\u without four hexadecimal digits in a string", "")
        })?;
        self.at += 4;
        let digit = |b: &u8| char::from(*b).to_digit(16).unwrap_or(0);
        Ok(digits.iter().fold(0, |code, b| code << 4 | digit(b)))
    }

    fn array(&mut self, out: &mut Vec<u8>, depth: usize) -> Result<(), Fault> {
        let place = out.len();
        out.push(EMPTY_ARRAY);
        let mut count = 0;
        self.at += 1;
        if self.next() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(out, depth)?;
            count += 1;
            match self.next() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.unexpected("`,` or `]`")),
            }
        }
        self.at += 1;
        put_count(out, place, count);
        Ok(())
    }

    fn object(&mut self, out: &mut Vec<u8>, depth: usize) -> Result<(), Fault> {
        let place = out.len();
        let base = self.keys.len();
        out.push(EMPTY_MAP);
        self.at += 1;
        if self.next() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            let key = self.key(out)?;
            match key {
                (KeyKind::Real, key) => self.keys.push(key),
                (KeyKind::Form, key) if self.keys.len() == base => {
                    let name = out[key.start..key.end].to_vec();
                    out.truncate(place);
                    self.form(&name, key.at, out, depth)?;
                    if self.next() == Some(b'}') {
                        self.at += 1;
                        return Ok(());
                    }
                    return Err(Fault::new(
                        key.at,
                        format!("`{}` is not alone", shown(&name)),
                        DOLLAR,
                    ));
                }
                (KeyKind::Form, key) => {
                    let name = shown(&out[key.start..key.end]);
                    return Err(Fault::new(key.at, format!("`{name}` is not alone"), DOLLAR));
                }
            }
            self.expect(b':', "`:`")?;
            self.value(out, depth)?;
            match self.next() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.unexpected("`,` or `}`")),
            }
        }
        self.at += 1;
        let count = self.keys.len() - base;
        self.close_keys(base, out)?;
        put_count(out, place, count);
        Ok(())
    }

    /// Reads a key and writes it as a text.
    pub(super) fn key(&mut self, out: &mut Vec<u8>) -> Result<(KeyKind, Key), Fault> {
        let at = self.at;
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("a key in double quotes"));
        }
        let text = self.string()?;
        let (kind, text) = match text.strip_prefix('$') {
            Some(real) if real.starts_with('$') => (KeyKind::Real, real),
            Some(_) => (KeyKind::Form, &*text),
            None => (KeyKind::Real, &*text),
        };
        cbor::put_text(out, text);
        let end = out.len();
        Ok((kind, Key { start: end - text.len(), end, at }))
    }

    /// Takes the keys of one object off the stack; a key twice is an error.
    pub(super) fn close_keys(&mut self, base: usize, out: &[u8]) -> Result<(), Fault> {
        let keys = &mut self.keys[base..];
        let twice = |key: &Key| {
            let name = shown(&out[key.start..key.end]);
            Fault::new(key.at, format!("the key `{name}` is there twice"), "")
        };
        let bytes = |key: &Key| &out[key.start..key.end];
        // In order of their bytes the equal ones are neighbours, and the sort keeps them in the order they came in.
        keys.sort_by(|a, b| bytes(a).cmp(bytes(b)));
        if let Some([_, again]) = keys.windows(2).find(|pair| bytes(&pair[0]) == bytes(&pair[1])) {
            return Err(twice(again));
        }
        self.keys.truncate(base);
        Ok(())
    }

    fn form(
        &mut self,
        name: &[u8],
        at: usize,
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), Fault> {
        self.expect(b':', "`:`")?;
        self.space();
        match name {
            b"$bytes" => {
                let at = self.at;
                let text = self.string()?;
                let bytes = BASE64.decode(text.as_bytes()).map_err(|error| {
                    Fault::new(
                        at,
                        format!("`$bytes` is no base64 ({error})"),
                        "use the standard alphabet, A to Z a to z 0 to 9 + /",
                    )
                })?;
                cbor::put_bytes(out, &bytes);
                Ok(())
            }
            b"$int" => {
                let at = self.at;
                let text = self.string()?;
                big::put_decimal(out, &text).ok_or_else(|| {
                    Fault::new(at, "`$int` is no whole number of at most 1024 bits", "write decimal digits as a string, like {\"$int\": \"-18446744073709551616\"}")
                })
            }
            b"$float" => {
                let at = self.at;
                let number = match &*self.string()? {
                    "NaN" => f64::NAN,
                    "Infinity" => f64::INFINITY,
                    "-Infinity" => f64::NEG_INFINITY,
                    _ => {
                        return Err(Fault::new(
                            at,
                            "`$float` is not known",
                            "it is \"NaN\", \"Infinity\" or \"-Infinity\"; other floats are numbers with a point",
                        ));
                    }
                };
                cbor::put_float(out, number);
                Ok(())
            }
            b"$map" => self.pairs(out, depth),
            b"$tag" => {
                self.expect(b'[', "[number, value]")?;
                let tag_at = out.len();
                self.space();
                let at = self.at;
                self.value(out, 1)?;
                let Ok(cbor::Value::Uint(tag)) = Reader::new(&out[tag_at..]).value() else {
                    return Err(Fault::new(
                        at,
                        "a tag that is no whole number",
                        "`$tag` is [number, value]",
                    ));
                };
                out.truncate(tag_at);
                cbor::put_tag(out, tag);
                self.expect(b',', "`,` and the tagged value")?;
                self.value(out, depth)?;
                self.expect(b']', "`]`")
            }
            _ => Err(Fault::new(at, format!("`{}` is not known", shown(name)), DOLLAR)),
        }
    }

    fn pairs(&mut self, out: &mut Vec<u8>, depth: usize) -> Result<(), Fault> {
        let place = out.len();
        let base = self.keys.len();
        out.push(EMPTY_MAP);
        self.expect(b'[', "a list of [key, value]")?;
        if self.next() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.expect(b'[', "[key, value]")?;
            let (start, at) = (out.len(), self.at);
            self.value(out, depth)?;
            self.keys.push(Key { start, end: out.len(), at });
            self.expect(b',', "`,` and the key's value")?;
            self.value(out, depth)?;
            self.expect(b']', "`]`")?;
            match self.next() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.unexpected("`,` or `]`")),
            }
        }
        self.at += 1;
        let count = self.keys.len() - base;
        self.close_keys(base, out)?;
        put_count(out, place, count);
        Ok(())
    }
}

/// Makes the empty container's head at `place` that of a container of `count`.
pub(super) fn put_count(out: &mut Vec<u8>, place: usize, count: usize) {
    if let Ok(count @ 0..24) = u8::try_from(count) {
        out[place] |= count;
        return;
    }
    let mut head = Vec::with_capacity(9);
    if out[place] == EMPTY_MAP {
        cbor::put_map(&mut head, count);
    } else {
        cbor::put_array(&mut head, count);
    }
    out.splice(place..=place, head);
}

pub(super) fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(40).collect()
}
