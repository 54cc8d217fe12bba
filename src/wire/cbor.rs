//! The heads of CBOR items (RFC 8949 section 3), read and written by hand.
//!
//! The data path needs a handful of header fields per message and must not allocate for them; everything that
//! is not on the data path goes through serde. Nothing here recurses deeper than [`DEPTH_MAX`] or reads past
//! the slice it was given.

/// Deepest nesting that is accepted anywhere.
pub const DEPTH_MAX: usize = 64;

/// The bytes are not well-formed CBOR, or nested too deeply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not well-formed CBOR")]
pub struct Malformed;

/// A header field's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Text.
    Text(&'a str),
    /// A whole number from 0.
    Uint(u64),
    /// A whole number below 0.
    Nint(i64),
    /// true or false.
    Bool(bool),
    /// null or undefined.
    Null,
    /// Anything else, as the bytes of one item.
    Raw(&'a [u8]),
}

impl Value<'_> {
    /// Writes it as it was read.
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Text(text) => put_text(out, text),
            Self::Uint(number) => put_uint(out, *number),
            Self::Nint(number) => put_int(out, true, (-1 - number).unsigned_abs()),
            Self::Bool(yes) => put_bool(out, *yes),
            Self::Null => put_null(out),
            Self::Raw(item) => out.extend_from_slice(item),
        }
    }
}

/// One item as far as it has no parts: those follow.
#[derive(Clone, Debug, PartialEq)]
pub enum Step<'a> {
    /// A whole number from 0.
    Uint(u64),
    /// -1 - this.
    Nint(u64),
    /// A byte string.
    Bytes(&'a [u8]),
    /// A text.
    Text(&'a str),
    /// A byte string that came in pieces.
    Chunks(Vec<u8>),
    /// A text that came in pieces.
    TextChunks(String),
    /// This many items follow, or items up to a break.
    Array(Option<u64>),
    /// This many pairs follow, or pairs up to a break.
    Map(Option<u64>),
    /// The tagged item follows.
    Tag(u64),
    /// true or false.
    Bool(bool),
    /// null or undefined.
    Null,
    /// A number with a fraction.
    Float(f64),
    /// A simple value without a meaning of its own.
    Simple(u64),
}

/// A half-precision float (RFC 8949 appendix D).
fn half(bits: u16) -> f64 {
    let exponent = u64::from((bits >> 10) & 0x1f);
    let mantissa = u64::from(bits & 0x3ff);
    let sign = u64::from(bits >> 15) << 63;
    match exponent {
        0 => {
            // 2^-24 each.
            let value = f64::from(bits & 0x3ff) / 16_777_216.0;
            f64::from_bits(value.to_bits() | sign)
        }
        31 => f64::from_bits(sign | 0x7ff0_0000_0000_0000 | (mantissa << 42)),
        _ => f64::from_bits(sign | ((exponent + 1023 - 15) << 52) | (mantissa << 42)),
    }
}

/// Reads items one after the other.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the beginning of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// What has not been read yet.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let (&first, rest) = self.bytes.split_first().ok_or(Malformed)?;
        self.bytes = rest;
        Ok(first)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(Malformed)?;
        self.bytes = rest;
        Ok(taken)
    }

    /// Major type, the low five bits and the argument; 31 has argument 0.
    fn head(&mut self) -> Result<(u8, u8, u64), Malformed> {
        let first = self.byte()?;
        let (major, info) = (first >> 5, first & 0x1f);
        let argument = match info {
            0..=23 => u64::from(info),
            24 => u64::from(self.byte()?),
            25 => u64::from(u16::from_be_bytes(self.array()?)),
            26 => u64::from(u32::from_be_bytes(self.array()?)),
            27 => u64::from_be_bytes(self.array()?),
            31 => 0,
            _ => return Err(Malformed),
        };
        Ok((major, info, argument))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (chunk, rest) = self.bytes.split_first_chunk::<N>().ok_or(Malformed)?;
        self.bytes = rest;
        Ok(*chunk)
    }

    /// Enters a map of definite length: how many pairs follow.
    ///
    /// # Errors
    /// [`Malformed`] when the next item is no map or one of indefinite length.
    pub fn map(&mut self) -> Result<usize, Malformed> {
        match self.head()? {
            (5, info, pairs) if info != 31 => usize::try_from(pairs).map_err(|_| Malformed),
            _ => Err(Malformed),
        }
    }

    /// Enters an array of definite length: how many items follow.
    ///
    /// # Errors
    /// [`Malformed`] when the next item is no array or one of indefinite length.
    pub fn items(&mut self) -> Result<usize, Malformed> {
        match self.head()? {
            (4, info, items) if info != 31 => usize::try_from(items).map_err(|_| Malformed),
            _ => Err(Malformed),
        }
    }

    /// Reads a text of definite length.
    ///
    /// # Errors
    /// [`Malformed`] when the next item is something else, or not UTF-8.
    pub fn text(&mut self) -> Result<&'a str, Malformed> {
        match self.head()? {
            (3, info, length) if info != 31 => {
                std::str::from_utf8(self.take(length)?).map_err(|_| Malformed)
            }
            _ => Err(Malformed),
        }
    }

    /// Reads whatever comes next.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn value(&mut self) -> Result<Value<'a>, Malformed> {
        let start = self.bytes;
        let first = *start.first().ok_or(Malformed)?;
        match first {
            0x00..=0x1b => self.head().map(|(_, _, argument)| Value::Uint(argument)),
            0x20..=0x3b => {
                let (_, _, argument) = self.head()?;
                match i64::try_from(argument) {
                    Ok(positive) => Ok(Value::Nint(-1 - positive)),
                    Err(_) => Ok(Value::Raw(&start[..start.len() - self.bytes.len()])),
                }
            }
            0x60..=0x7b => self.text().map(Value::Text),
            0xf4 | 0xf5 => self.byte().map(|byte| Value::Bool(byte == 0xf5)),
            0xf6 | 0xf7 => self.byte().map(|_| Value::Null),
            _ => {
                self.skip()?;
                Ok(Value::Raw(&start[..start.len() - self.bytes.len()]))
            }
        }
    }

    /// Reads a byte string of definite length.
    ///
    /// # Errors
    /// [`Malformed`] when the next item is something else.
    pub fn byte_string(&mut self) -> Result<&'a [u8], Malformed> {
        match self.head()? {
            (2, info, length) if info != 31 => self.take(length),
            _ => Err(Malformed),
        }
    }

    /// Reads the next item as far as it has no parts.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn step(&mut self) -> Result<Step<'a>, Malformed> {
        let (major, info, argument) = self.head()?;
        let definite = (info != 31).then_some(argument);
        Ok(match (major, definite) {
            (0, Some(number)) => Step::Uint(number),
            (1, Some(number)) => Step::Nint(number),
            (2, Some(length)) => Step::Bytes(self.take(length)?),
            (3, Some(length)) => {
                Step::Text(std::str::from_utf8(self.take(length)?).map_err(|_| Malformed)?)
            }
            (2, None) => Step::Chunks(self.chunks(2)?),
            (3, None) => {
                Step::TextChunks(String::from_utf8(self.chunks(3)?).map_err(|_| Malformed)?)
            }
            (4, items) => Step::Array(items),
            (5, pairs) => Step::Map(pairs),
            (6, Some(tag)) => Step::Tag(tag),
            (7, Some(argument)) => match info {
                20 | 21 => Step::Bool(info == 21),
                22 | 23 => Step::Null,
                24 if argument < 32 => return Err(Malformed),
                0..=24 => Step::Simple(argument),
                25 => Step::Float(half(u16::try_from(argument).unwrap_or(0))),
                26 => {
                    let bits = u32::try_from(argument).unwrap_or(0);
                    Step::Float(f64::from(f32::from_bits(bits)))
                }
                _ => Step::Float(f64::from_bits(argument)),
            },
            _ => return Err(Malformed),
        })
    }

    fn chunks(&mut self, major: u8) -> Result<Vec<u8>, Malformed> {
        let mut bytes = Vec::new();
        while self.bytes.first() != Some(&0xff) {
            let (chunk_major, info, length) = self.head()?;
            if chunk_major != major || info == 31 {
                return Err(Malformed);
            }
            bytes.extend_from_slice(self.take(length)?);
        }
        self.byte()?;
        Ok(bytes)
    }

    /// Whether an array or map that [`Reader::step`] entered has another item or pair; `left` is its count, or
    /// `None` when it ends with a break, which is read.
    ///
    /// # Errors
    /// [`Malformed`] at the end of the bytes.
    pub fn another(&mut self, left: &mut Option<u64>) -> Result<bool, Malformed> {
        match left {
            Some(0) => Ok(false),
            Some(count) => {
                *count -= 1;
                Ok(true)
            }
            None if *self.bytes.first().ok_or(Malformed)? == 0xff => {
                self.byte()?;
                Ok(false)
            }
            None => Ok(true),
        }
    }

    /// Passes over one item, checking that it is well formed.
    ///
    /// # Errors
    /// [`Malformed`], also for nesting deeper than [`DEPTH_MAX`].
    pub fn skip(&mut self) -> Result<(), Malformed> {
        self.skip_within(DEPTH_MAX)
    }

    fn skip_within(&mut self, depth: usize) -> Result<(), Malformed> {
        let depth = depth.checked_sub(1).ok_or(Malformed)?;
        let (major, info, argument) = self.head()?;
        match (major, info) {
            (0 | 1 | 6 | 7, 31) => return Err(Malformed),
            (0 | 1, _) => {}
            (2 | 3, 31) => {
                while self.bytes.first() != Some(&0xff) {
                    let (chunk_major, chunk_info, length) = self.head()?;
                    if chunk_major != major || chunk_info == 31 {
                        return Err(Malformed);
                    }
                    self.checked_string(major, length)?;
                }
                self.byte()?;
            }
            (2 | 3, _) => self.checked_string(major, argument)?,
            (4 | 5, 31) => {
                while self.bytes.first() != Some(&0xff) {
                    self.skip_within(depth)?;
                    if major == 5 {
                        self.skip_within(depth)?;
                    }
                }
                self.byte()?;
            }
            (4 | 5, _) => {
                let items = argument.checked_mul(u64::from(major) - 3).ok_or(Malformed)?;
                // Each item takes a byte at least, so a lie about the count ends at the end of the slice.
                for _ in 0..items {
                    self.skip_within(depth)?;
                }
            }
            (6, _) => self.skip_within(depth)?,
            // RFC 8949 section 3.3: simple values below 32 may not take two bytes.
            (_, 24) if argument < 32 => return Err(Malformed),
            _ => {}
        }
        Ok(())
    }

    fn checked_string(&mut self, major: u8, length: u64) -> Result<(), Malformed> {
        let bytes = self.take(length)?;
        if major == 3 && std::str::from_utf8(bytes).is_err() {
            return Err(Malformed);
        }
        Ok(())
    }
}

/// Whether `bytes` is exactly one well-formed item.
#[must_use]
pub fn is_one_item(bytes: &[u8]) -> bool {
    let mut reader = Reader::new(bytes);
    reader.skip().is_ok() && reader.rest().is_empty()
}

fn head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let major = major << 5;
    if let Ok(byte) = u8::try_from(argument) {
        if byte < 24 {
            out.push(major | byte);
        } else {
            out.extend_from_slice(&[major | 0x18, byte]);
        }
    } else if let Ok(short) = u16::try_from(argument) {
        out.push(major | 0x19);
        out.extend_from_slice(&short.to_be_bytes());
    } else if let Ok(long) = u32::try_from(argument) {
        out.push(major | 0x1a);
        out.extend_from_slice(&long.to_be_bytes());
    } else {
        out.push(major | 0x1b);
        out.extend_from_slice(&argument.to_be_bytes());
    }
}

/// Writes the head of a map of `pairs` pairs.
pub fn put_map(out: &mut Vec<u8>, pairs: usize) {
    head(out, 5, pairs as u64);
}

/// Writes the head of an array of `items` items.
pub fn put_array(out: &mut Vec<u8>, items: usize) {
    head(out, 4, items as u64);
}

/// Writes a text.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    put_text_head(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// Writes the head of a text of `length` bytes, which the caller writes next.
pub fn put_text_head(out: &mut Vec<u8>, length: usize) {
    head(out, 3, length as u64);
}

/// Writes a byte string.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    head(out, 2, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Writes a whole number from 0.
pub fn put_uint(out: &mut Vec<u8>, number: u64) {
    head(out, 0, number);
}

/// Writes a whole number: `argument`, or -1 - `argument` when negative.
pub fn put_int(out: &mut Vec<u8>, negative: bool, argument: u64) {
    head(out, u8::from(negative), argument);
}

/// Writes the head of a tagged item.
pub fn put_tag(out: &mut Vec<u8>, tag: u64) {
    head(out, 6, tag);
}

/// Writes a float with all its bits.
pub fn put_float(out: &mut Vec<u8>, number: f64) {
    out.push(0xfb);
    out.extend_from_slice(&number.to_bits().to_be_bytes());
}

/// Writes true or false.
pub fn put_bool(out: &mut Vec<u8>, yes: bool) {
    out.push(if yes { 0xf5 } else { 0xf4 });
}

/// Writes null.
pub fn put_null(out: &mut Vec<u8>) {
    out.push(0xf6);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let mut out = Vec::new();
        put_map(&mut out, 4);
        put_text(&mut out, "op");
        put_text(&mut out, &"s".repeat(300));
        put_text(&mut out, "id");
        put_uint(&mut out, 1 << 40);
        put_text(&mut out, "on");
        put_bool(&mut out, true);
        put_text(&mut out, "none");
        put_null(&mut out);
        let mut reader = Reader::new(&out);
        assert_eq!(reader.map(), Ok(4));
        assert_eq!(reader.text(), Ok("op"));
        assert_eq!(reader.text().map(str::len), Ok(300));
        assert_eq!(reader.text(), Ok("id"));
        assert_eq!(reader.value(), Ok(Value::Uint(1 << 40)));
        assert_eq!(reader.text(), Ok("on"));
        assert_eq!(reader.value(), Ok(Value::Bool(true)));
        assert_eq!(reader.text(), Ok("none"));
        assert_eq!(reader.value(), Ok(Value::Null));
        assert!(reader.rest().is_empty());
    }

    #[test]
    fn a_lie_about_a_length_is_malformed_and_allocates_nothing() {
        assert!(!is_one_item(&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]));
        assert!(!is_one_item(&[0x5a, 0xff, 0xff, 0xff, 0xff, 0x00]));
        assert!(!is_one_item(&[0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00]));
    }

    #[test]
    fn half_floats_are_read_as_the_standard_says() {
        // RFC 8949 appendix A.
        for (bytes, value) in [
            ([0xf9, 0x00, 0x00], 0.0),
            ([0xf9, 0x3c, 0x00], 1.0),
            ([0xf9, 0x3e, 0x00], 1.5),
            ([0xf9, 0x7b, 0xff], 65_504.0),
            ([0xf9, 0x00, 0x01], 5.960_464_477_539_063e-8),
            ([0xf9, 0x04, 0x00], 0.000_061_035_156_25),
            ([0xf9, 0xc4, 0x00], -4.0),
            ([0xf9, 0x7c, 0x00], f64::INFINITY),
            ([0xf9, 0xfc, 0x00], f64::NEG_INFINITY),
        ] {
            assert_eq!(Reader::new(&bytes).step(), Ok(Step::Float(value)));
        }
        let nan = Reader::new(&[0xf9, 0x7e, 0x00]).step();
        assert!(matches!(nan, Ok(Step::Float(value)) if value.is_nan()));
    }

    #[test]
    fn nesting_has_a_bound() {
        let deep = |levels: usize| {
            let mut bytes = vec![0x81; levels];
            bytes.push(0x00);
            bytes
        };
        assert!(is_one_item(&deep(DEPTH_MAX - 1)));
        assert!(!is_one_item(&deep(DEPTH_MAX)));
        assert!(!is_one_item(&deep(1_000_000)));
    }
}
