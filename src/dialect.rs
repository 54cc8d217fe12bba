//! The same commands and events in several spellings, told apart by the first byte of a connection.

pub mod http;
pub mod json;

/// How an app writes its commands and wants its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// CBOR frames.
    Cbor,
    /// One JSON object per line.
    Json,
    /// HTTP/1.1, for curl and scripts.
    Http,
}

impl Dialect {
    /// The dialect of a connection that begins with this byte.
    #[must_use]
    pub fn of(first: u8) -> Self {
        match first {
            // The high byte of a length of at most 64 MiB.
            0x00..=0x04 => Self::Cbor,
            b'A'..=b'Z' => Self::Http,
            _ => Self::Json,
        }
    }
}
