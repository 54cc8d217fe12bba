//! A body that comes in chunks, put together as they come.

use super::Refusal;

/// Longest line that says how long a chunk is, in bytes, its extensions included.
const LINE_BYTES_MAX: usize = 1024;
/// Most bytes of the fields behind the last chunk.
const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// How far a body has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chunks {
    step: Step,
    trailer_bytes: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    /// The length of the next chunk is to be read.
    #[default]
    Size,
    /// So many bytes of this chunk are still to come.
    Data(u64),
    /// The end of the line behind a chunk.
    End,
    /// Fields, up to an empty line.
    Trailer,
    /// That was all.
    Over,
}

impl Chunks {
    /// The whole body has been read.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.step == Step::Over
    }

    /// Moves what `bytes` have of the body behind what `body` holds, which stays at `limit` bytes at most. How many bytes
    /// it took: when that is none, more are needed, unless the body is over.
    ///
    /// # Errors
    /// [`Refusal`]: these are no chunks, or they are too many; nobody can tell where the next request begins.
    pub fn read(
        &mut self,
        bytes: &[u8],
        body: &mut Vec<u8>,
        limit: usize,
    ) -> Result<usize, Refusal> {
        let mut rest = bytes;
        loop {
            match self.step {
                Step::Size => {
                    if rest.first().is_some_and(|byte| !byte.is_ascii_hexdigit()) {
                        return Err(no_chunk());
                    }
                    match httparse::parse_chunk_size(rest) {
                        // A line ends in CR LF, and where others see the end of one there must be one.
                        Ok(httparse::Status::Complete((used, size)))
                            if used <= LINE_BYTES_MAX && !rest[..used - 2].contains(&b'\n') =>
                        {
                            rest = &rest[used..];
                            self.step = if size == 0 { Step::Trailer } else { Step::Data(size) };
                            let left = limit.saturating_sub(body.len());
                            if u64::try_from(left).is_ok_and(|left| size > left) {
                                return Err(super::request::too_large(limit));
                            }
                        }
                        Ok(httparse::Status::Partial)
                            if rest.len() <= LINE_BYTES_MAX && !rest.contains(&b'\n') =>
                        {
                            break;
                        }
                        _ => return Err(no_chunk()),
                    }
                }
                Step::Data(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    body.extend_from_slice(&rest[..here]);
                    rest = &rest[here..];
                    match left - here as u64 {
                        0 => self.step = Step::End,
                        left => {
                            self.step = Step::Data(left);
                            break;
                        }
                    }
                }
                Step::End => match rest {
                    [b'\r', b'\n', behind @ ..] => {
                        rest = behind;
                        self.step = Step::Size;
                    }
                    [] | [b'\r'] => break,
                    _ => return Err(no_chunk()),
                },
                Step::Trailer => {
                    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                        if self.trailer_bytes + rest.len() > TRAILER_BYTES_MAX {
                            return Err(no_chunk());
                        }
                        break;
                    };
                    let Some(line) = rest[..end].strip_suffix(b"\r") else {
                        return Err(no_chunk());
                    };
                    rest = &rest[end + 1..];
                    self.trailer_bytes += end + 1;
                    if self.trailer_bytes > TRAILER_BYTES_MAX {
                        return Err(no_chunk());
                    }
                    if line.is_empty() {
                        self.step = Step::Over;
                    }
                }
                Step::Over => break,
            }
        }
        Ok(bytes.len() - rest.len())
    }
}

fn no_chunk() -> Refusal {
    Refusal::badarg(
        "the body is not `chunked` as its head says: a length in hex, the bytes, and so on, up to a length of 0",
    )
}
