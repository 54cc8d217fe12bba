//! Length-prefixed frames over any stream, one at a time: what two sidecars say before `accept`.
//!
//! It is not the data path: once a connection is accepted, the peer's task reads into one growing buffer and cuts frames
//! from it ([`Frame::cut`]). Here every frame is read to its last byte and not one byte further, so that whatever follows
//! is still in the stream when the data path takes over.

use std::io;

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::wire::message::{Frame, FrameError, HEAD_BYTES};

/// How much is allocated ahead of the bytes of a payload.
const AHEAD_BYTES: usize = 1024;

/// One frame with its own payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedFrame {
    /// Kind byte, perhaps unknown.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// The sending process, 0 for the node.
    pub serial: u64,
    /// What follows the head.
    pub payload: Vec<u8>,
}

impl OwnedFrame {
    /// The same frame, borrowed: for [`Frame::cbor`].
    #[must_use]
    pub fn as_frame(&self) -> Frame<'_> {
        Frame { kind: self.kind, flags: self.flags, serial: self.serial, payload: &self.payload }
    }
}

/// No frame could be read. The stream is somewhere inside of one: close it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The stream failed, or ended within a frame ([`io::ErrorKind::UnexpectedEof`]).
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The bytes are no frame, or one that is too large here.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Reads one frame whose length is at most `limit`; `None` when the stream ends before it starts.
///
/// Allocates as the bytes come, never further ahead of them than 1 KiB or what has come already, and never more than
/// `limit`. *Not* cancel safe: what was read is lost with the future, so give up the stream with it.
///
/// # Errors
/// [`ReadError`]; a frame over the limit before anything is allocated for it.
pub async fn read_frame<S>(stream: &mut S, limit: usize) -> Result<Option<OwnedFrame>, ReadError>
where
    S: AsyncRead + Unpin,
{
    let mut prefix = [0; 4];
    let begun = stream.read(&mut prefix).await?;
    if begun == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut prefix[begun..]).await?;
    // The rules for lengths are in one place; a prefix alone is never a whole frame.
    Frame::cut(&prefix, limit)?;
    let length = u32::from_be_bytes(prefix) as usize;

    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head).await?;
    let Frame { kind, flags, serial, .. } = Frame::read(&head)?;

    let whole = length - HEAD_BYTES;
    let mut payload = Vec::new();
    while payload.len() < whole {
        let ahead = payload.len().max(AHEAD_BYTES).min(whole - payload.len());
        payload.reserve_exact(ahead);
        if stream.read_buf(&mut (&mut payload).limit(ahead)).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
    Ok(Some(OwnedFrame { kind, flags, serial, payload }))
}

/// Writes a finished frame and flushes it. Not cancel safe: half a frame may have gone out.
///
/// # Errors
/// Those of the stream.
pub async fn write_frame<S>(stream: &mut S, frame: &[u8]) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    stream.write_all(frame).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::ReadBuf;

    use crate::wire::message::{HELLO_BYTES_MAX, Kind, bare_frame, finish, start};

    use super::*;

    fn frame(kind: Kind, flags: u8, serial: u64, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let at = start(&mut out, kind, flags, serial);
        out.extend_from_slice(payload);
        finish(&mut out, at);
        out
    }

    #[tokio::test]
    async fn a_frame_comes_out_as_it_went_in_and_what_follows_stays() {
        let payload: Vec<u8> = (0..9000).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let mut bytes = frame(Kind::Hello, 3, 77, &payload);
        bytes.extend_from_slice(&bare_frame(Kind::Accept));
        bytes.extend_from_slice(b"rest");
        let mut stream = bytes.as_slice();

        let first = read_frame(&mut stream, HELLO_BYTES_MAX).await.unwrap().unwrap();
        assert_eq!((first.kind, first.flags, first.serial), (Kind::Hello as u8, 3, 77));
        assert_eq!(first.payload, payload);
        assert!(first.payload.capacity() <= HELLO_BYTES_MAX);
        let second = read_frame(&mut stream, HELLO_BYTES_MAX).await.unwrap().unwrap();
        assert_eq!(second.as_frame().payload, b"");
        assert_eq!(stream, b"rest");
    }

    #[tokio::test]
    async fn bytes_may_come_one_by_one() {
        let (mut near, mut far) = tokio::io::duplex(1);
        let bytes = frame(Kind::Hello, 0, 0, b"slowly");
        let (written, read) =
            tokio::join!(write_frame(&mut near, &bytes), read_frame(&mut far, HELLO_BYTES_MAX));
        written.unwrap();
        assert_eq!(read.unwrap().unwrap().payload, b"slowly");
    }

    #[tokio::test]
    async fn a_frame_over_the_limit_is_refused_from_its_length_alone() {
        let mut stream: &[u8] = &[0xff; 4];
        let error = read_frame(&mut stream, 100).await.unwrap_err();
        assert!(
            matches!(error, ReadError::Frame(FrameError::TooLarge { limit: 100, .. })),
            "{error}"
        );
        let mut stream: &[u8] = &[0, 0, 0, 9];
        let error = read_frame(&mut stream, 100).await.unwrap_err();
        assert!(matches!(error, ReadError::Frame(FrameError::TooShort(9))), "{error}");
    }

    #[tokio::test]
    async fn an_end_between_frames_is_an_end_and_within_one_an_error() {
        assert!(read_frame(&mut &b""[..], 100).await.unwrap().is_none());
        let bytes = frame(Kind::Hello, 0, 0, b"cut off");
        for end in 1..bytes.len() {
            let error = read_frame(&mut &bytes[..end], 100).await.unwrap_err();
            assert!(
                matches!(&error, ReadError::Io(io) if io.kind() == io::ErrorKind::UnexpectedEof),
                "{error} after {end} bytes"
            );
        }
    }

    /// Gives its bytes one at a time and notes the most room it was offered.
    struct Trickle<'a> {
        bytes: &'a [u8],
        room_max: usize,
    }

    impl AsyncRead for Trickle<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.room_max = self.room_max.max(buf.remaining());
            if let Some((first, rest)) = self.bytes.split_first() {
                buf.put_slice(&[*first]);
                self.bytes = rest;
            }
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn an_announced_length_makes_no_room_before_its_bytes_come() {
        let mut bytes = 1_000_000_u32.to_be_bytes().to_vec();
        bytes.extend_from_slice(&[0; HEAD_BYTES + 3000]);
        let mut stream = Trickle { bytes: &bytes, room_max: 0 };
        let error = read_frame(&mut stream, 1_000_000).await.unwrap_err();
        assert!(
            matches!(&error, ReadError::Io(io) if io.kind() == io::ErrorKind::UnexpectedEof),
            "{error}"
        );
        assert!(stream.room_max <= 3000, "{} bytes of room for 3000", stream.room_max);
    }
}
