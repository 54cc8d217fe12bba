//! CBOR bytes to JSON text, in one pass where every map is an object.
//!
//! A map that JSON has no object for (a key that is no text, or one that is there twice) is written as `$map`. Where one
//! turns up, the output so far is thrown away, all such maps are looked for, and the item is printed once more knowing
//! them: three passes at most, however the maps are nested.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::big;
use crate::wire::cbor::{Malformed, Reader, Step};
use crate::wire::command::NUMBER_MAX;

/// Why printing stopped.
enum Stop {
    Malformed,
    /// There is a map that is no object.
    Odd,
}

impl From<Malformed> for Stop {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// Prints the next item of `reader` behind what `out` holds. After an error `out` is as it was.
pub(super) fn item(
    reader: &mut Reader<'_>,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), Malformed> {
    let start = out.len();
    let begin = reader.clone();
    let mut printer = Printer { reader: begin.clone(), keys: Vec::new(), odd: Vec::new(), next: 0 };
    let mut outcome = printer.item(out, depth);
    if let Err(Stop::Odd) = outcome {
        out.truncate(start);
        printer.keys.clear();
        printer.reader = begin.clone();
        outcome = printer.survey(depth).and_then(|()| {
            printer.odd.sort_unstable_by(|a, b| b.cmp(a));
            printer.keys.clear();
            printer.reader = begin;
            printer.item(out, depth)
        });
    }
    if outcome.is_err() {
        out.truncate(start);
        return Err(Malformed);
    }
    *reader = printer.reader;
    Ok(())
}

struct Printer<'a> {
    reader: Reader<'a>,
    /// The keys of all maps that are open, innermost last.
    keys: Vec<Cow<'a, str>>,
    /// The maps that are no objects, each by how many bytes were left behind its head: in order of their place.
    odd: Vec<usize>,
    /// Which of them comes next.
    next: usize,
}

impl<'a> Printer<'a> {
    fn item(&mut self, out: &mut Vec<u8>, depth: usize) -> Result<(), Stop> {
        let depth = depth.checked_sub(1).ok_or(Stop::Malformed)?;
        match self.reader.step()? {
            Step::Uint(number) => int(out, i128::from(number)),
            Step::Nint(argument) => int(out, -1 - i128::from(argument)),
            Step::Bytes(bytes) => put_base64(out, bytes),
            Step::Text(text) => put_string(out, text),
            Step::Chunks(bytes) => put_base64(out, &bytes),
            Step::TextChunks(text) => put_string(out, &text),
            Step::Array(mut left) => {
                out.push(b'[');
                let mut first = true;
                while self.reader.another(&mut left)? {
                    comma(out, &mut first);
                    self.item(out, depth)?;
                }
                out.push(b']');
            }
            Step::Map(left) => {
                if self.odd.get(self.next) == Some(&self.reader.rest().len()) {
                    self.next += 1;
                    self.pairs(out, left, depth)?;
                } else {
                    self.object(out, left, depth)?;
                }
            }
            Step::Tag(tag) => self.tagged(out, tag, depth)?,
            Step::Bool(yes) => out.extend_from_slice(if yes { b"true" } else { b"false" }),
            Step::Null => out.extend_from_slice(b"null"),
            Step::Float(number) => float(out, number),
            // Simple values have no meaning that JSON could carry; this tag means that there is none.
            Step::Simple(number) => {
                display(out, format_args!("{{\"$tag\":[{},{number}]}}", u32::MAX));
            }
        }
        Ok(())
    }

    fn object(
        &mut self,
        out: &mut Vec<u8>,
        mut left: Option<u64>,
        depth: usize,
    ) -> Result<(), Stop> {
        let base = self.keys.len();
        let mut first = true;
        out.push(b'{');
        while self.reader.another(&mut left)? {
            let key = self.key()?.ok_or(Stop::Odd)?;
            comma(out, &mut first);
            if key.starts_with('$') {
                put_string(out, &format!("${key}"));
            } else {
                put_string(out, &key);
            }
            self.keys.push(key);
            out.push(b':');
            self.item(out, depth)?;
        }
        out.push(b'}');
        if self.close_keys(base) { Err(Stop::Odd) } else { Ok(()) }
    }

    fn pairs(
        &mut self,
        out: &mut Vec<u8>,
        mut left: Option<u64>,
        depth: usize,
    ) -> Result<(), Stop> {
        let mut first = true;
        out.extend_from_slice(b"{\"$map\":[");
        while self.reader.another(&mut left)? {
            comma(out, &mut first);
            out.push(b'[');
            self.item(out, depth)?;
            out.push(b',');
            self.item(out, depth)?;
            out.push(b']');
        }
        out.extend_from_slice(b"]}");
        Ok(())
    }

    fn tagged(&mut self, out: &mut Vec<u8>, tag: u64, depth: usize) -> Result<(), Stop> {
        if big::TAGS.contains(&tag) {
            let mut ahead = self.reader.clone();
            if let Ok(bytes) = ahead.byte_string()
                && bytes.len() <= big::BIG_BYTES_MAX
            {
                self.reader = ahead;
                let (digits, exact) = big::decimal(tag == big::TAGS[1], bytes);
                if exact {
                    out.extend_from_slice(digits.as_bytes());
                } else {
                    display(out, format_args!("{{\"$int\":\"{digits}\"}}"));
                }
                return Ok(());
            }
        }
        display(out, format_args!("{{\"$tag\":[{tag},"));
        self.item(out, depth)?;
        out.extend_from_slice(b"]}");
        Ok(())
    }

    /// Finds the maps that are no objects.
    fn survey(&mut self, depth: usize) -> Result<(), Stop> {
        let depth = depth.checked_sub(1).ok_or(Stop::Malformed)?;
        match self.reader.step()? {
            Step::Array(mut left) => {
                while self.reader.another(&mut left)? {
                    self.survey(depth)?;
                }
            }
            Step::Map(mut left) => {
                let place = self.reader.rest().len();
                let base = self.keys.len();
                let mut odd = false;
                while self.reader.another(&mut left)? {
                    let before = self.reader.clone();
                    if let Some(key) = self.key()? {
                        self.keys.push(key);
                    } else {
                        odd = true;
                        self.reader = before;
                        self.survey(depth)?;
                    }
                    self.survey(depth)?;
                }
                if self.close_keys(base) || odd {
                    self.odd.push(place);
                }
            }
            Step::Tag(_) => self.survey(depth)?,
            _ => {}
        }
        Ok(())
    }

    /// The next item, if it is a text.
    fn key(&mut self) -> Result<Option<Cow<'a, str>>, Malformed> {
        match self.reader.step()? {
            Step::Text(text) => Ok(Some(Cow::Borrowed(text))),
            Step::TextChunks(text) => Ok(Some(Cow::Owned(text))),
            _ => Ok(None),
        }
    }

    /// Takes the keys of one map off the stack: whether one is there twice.
    fn close_keys(&mut self, base: usize) -> bool {
        let keys = &mut self.keys[base..];
        keys.sort_unstable();
        let twice = keys.windows(2).any(|pair| pair[0] == pair[1]);
        self.keys.truncate(base);
        twice
    }
}

fn comma(out: &mut Vec<u8>, first: &mut bool) {
    if !std::mem::replace(first, false) {
        out.push(b',');
    }
}

fn display(out: &mut Vec<u8>, text: impl fmt::Display) {
    use std::io::Write;
    // Writing into memory does not fail.
    let _ = write!(out, "{text}");
}

fn int(out: &mut Vec<u8>, number: i128) {
    if number.unsigned_abs() <= u128::from(NUMBER_MAX) {
        display(out, number);
    } else {
        display(out, format_args!("{{\"$int\":\"{number}\"}}"));
    }
}

fn float(out: &mut Vec<u8>, number: f64) {
    if number.is_nan() {
        out.extend_from_slice(b"{\"$float\":\"NaN\"}");
    } else if number.is_infinite() {
        let sign = if number > 0.0 { "" } else { "-" };
        display(out, format_args!("{{\"$float\":\"{sign}Infinity\"}}"));
    } else {
        // Debug writes the shortest digits that read back the same, with a point or an exponent.
        display(out, format_args!("{number:?}"));
    }
}

/// Writes bytes as `$bytes`.
pub(super) fn put_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(b"{\"$bytes\":\"");
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, b'=');
    // It is exactly as long as base64 with padding is.
    let _ = STANDARD.encode_slice(bytes, &mut out[start..]);
    out.extend_from_slice(b"\"}");
}

/// Writes a string with its quotes and escapes.
pub(super) fn put_string(out: &mut Vec<u8>, text: &str) {
    // Writing text into memory does not fail.
    let _ = serde_json::to_writer(out, text);
}
