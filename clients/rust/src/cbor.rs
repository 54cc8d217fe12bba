//! The little CBOR of headers, by hand: written without a tree, read without a copy. Bodies are ciborium's.

/// How deep a header may nest.
const DEPTH_MAX: u8 = 64;

fn put_head(out: &mut Vec<u8>, major: u8, n: u64) {
    let major = major << 5;
    let bytes = n.to_be_bytes();
    match n {
        0..=23 => out.push(major | bytes[7]),
        24..=0xff => out.extend_from_slice(&[major | 0x18, bytes[7]]),
        0x100..=0xffff => out.extend_from_slice(&[major | 0x19, bytes[6], bytes[7]]),
        0x1_0000..=0xffff_ffff => {
            out.push(major | 0x1a);
            out.extend_from_slice(&bytes[4..]);
        }
        _ => {
            out.push(major | 0x1b);
            out.extend_from_slice(&bytes);
        }
    }
}

pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_head(out, 3, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn put_uint(out: &mut Vec<u8>, n: u64) {
    put_head(out, 0, n);
}

pub(crate) fn put_bool(out: &mut Vec<u8>, yes: bool) {
    out.push(if yes { 0xf5 } else { 0xf4 });
}

pub(crate) fn put_map(out: &mut Vec<u8>, pairs: usize) {
    put_head(out, 5, pairs as u64);
}

/// Walks over items of definite length.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) const fn at(&self) -> usize {
        self.at
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(n)?)?;
        self.at += n;
        Some(taken)
    }

    /// Major type, the five bits beside it, and its number.
    fn head(&mut self) -> Option<(u8, u8, u64)> {
        let first = self.take(1)?[0];
        let info = first & 0x1f;
        let n = match info {
            0..=23 => u64::from(info),
            24..=27 => {
                self.take(1 << (info - 24))?.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
            }
            _ => return None,
        };
        Some((first >> 5, info, n))
    }

    fn expect(&mut self, major: u8) -> Option<u64> {
        let mut ahead = *self;
        let (found, _, n) = ahead.head()?;
        (found == major).then(|| *self = ahead)?;
        Some(n)
    }

    /// How many pairs the map has that begins here.
    pub(crate) fn map(&mut self) -> Option<u64> {
        self.expect(5)
    }

    pub(crate) fn uint(&mut self) -> Option<u64> {
        self.expect(0)
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let mut ahead = *self;
        let n = ahead.expect(3)?;
        let text = std::str::from_utf8(ahead.take(usize::try_from(n).ok()?)?).ok()?;
        *self = ahead;
        Some(text)
    }

    pub(crate) fn bool(&mut self) -> Option<bool> {
        let yes = match self.bytes.get(self.at)? {
            0xf4 => false,
            0xf5 => true,
            _ => return None,
        };
        self.at += 1;
        Some(yes)
    }

    /// Passes over one item, and gives its bytes.
    pub(crate) fn item(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        self.skip(0)?;
        self.bytes.get(start..self.at)
    }

    fn skip(&mut self, depth: u8) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        let (major, _, n) = self.head()?;
        let items = match major {
            2 | 3 => return self.take(usize::try_from(n).ok()?).map(drop),
            4 => n,
            5 => n.checked_mul(2)?,
            6 => 1,
            _ => return Some(()),
        };
        for _ in 0..items {
            self.skip(depth + 1)?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_ciborium_reads() {
        for n in [0, 23, 24, 255, 256, 65535, 65536, u64::from(u32::MAX), 1 << 53] {
            let mut out = Vec::new();
            put_map(&mut out, 2);
            put_text(&mut out, "n");
            put_uint(&mut out, n);
            put_text(&mut out, &"x".repeat(usize::try_from(n % 300).unwrap()));
            put_bool(&mut out, true);
            let value: ciborium::Value = ciborium::from_reader(&out[..]).unwrap();
            assert_eq!(value.as_map().unwrap()[0].1, n.into());
            let mut reader = Reader::new(&out);
            assert_eq!(reader.map(), Some(2));
            assert_eq!(reader.text(), Some("n"));
            assert_eq!(reader.uint(), Some(n));
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic_or_read_for_ever() {
        let mut bytes = Vec::new();
        let mut state = 7_u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            bytes.push((state >> 56) as u8);
            if bytes.len() > 40 {
                bytes.clear();
            }
            let _ = Reader::new(&bytes).item();
            let _ = Reader::new(&bytes).text();
        }
        assert!(Reader::new(&[0x81; 1000]).item().is_none(), "nested too deep");
        assert!(Reader::new(&[0xbb, 255, 255, 255, 255, 255, 255, 255, 255]).item().is_none());
    }
}
