//! Reads ahead of TLS.
//!
//! The TLS library asks for 4 KiB at a time, which is a system call for each. A busy stream is read in larger pieces
//! here; a quiet one has no buffer at all, nor has one whose other end is a stranger still.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Size of the buffer of a busy stream.
const AHEAD_BYTES: usize = 64 * 1024;
/// After that many small reads in a row the stream is quiet.
const SMALL_READS_MAX: u8 = 32;

/// A stream with a read buffer while it needs one.
#[derive(Debug)]
pub(super) struct Ahead<S> {
    inner: S,
    /// The other end is one of us.
    trusted: bool,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
    small: u8,
}

impl<S> Ahead<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, trusted: false, buffer: Vec::new(), at: 0, end: 0, small: 0 }
    }

    /// TLS has shown that the other end is one of us: it may have a buffer.
    pub(super) const fn trust(&mut self) {
        self.trusted = true;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.at == this.end {
            if this.buffer.is_empty() {
                let room = out.remaining();
                let before = out.filled().len();
                ready!(Pin::new(&mut this.inner).poll_read(cx, out))?;
                // More is likely to be there.
                if this.trusted && out.filled().len() - before == room && room >= 1024 {
                    this.buffer = vec![0; AHEAD_BYTES];
                }
                return Poll::Ready(Ok(()));
            }
            let mut buffer = ReadBuf::new(&mut this.buffer);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut buffer))?;
            this.at = 0;
            this.end = buffer.filled().len();
            this.small = if this.end <= out.remaining() { this.small.saturating_add(1) } else { 0 };
        }
        let n = out.remaining().min(this.end - this.at);
        out.put_slice(&this.buffer[this.at..this.at + n]);
        this.at += n;
        if this.at == this.end && this.small >= SMALL_READS_MAX {
            (this.buffer, this.at, this.end, this.small) = (Vec::new(), 0, 0, 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_come_through_in_order_and_the_buffer_is_given_back() {
        let (mut far, near) = tokio::io::duplex(256 * 1024);
        let mut near = Ahead::new(near);
        near.trust();
        let sent: Vec<u8> = (0..200_000_u32).map(|i| i.to_be_bytes()[3]).collect();
        far.write_all(&sent).await.expect("room");
        let mut heard = Vec::new();
        let mut piece = [0; 4096];
        while heard.len() < sent.len() {
            let n = near.read(&mut piece).await.expect("bytes");
            heard.extend_from_slice(&piece[..n]);
        }
        assert_eq!(heard, sent);
        assert_eq!(near.buffer.len(), AHEAD_BYTES);
        for _ in 0..=SMALL_READS_MAX {
            far.write_all(b"beat").await.expect("room");
            assert_eq!(near.read(&mut piece).await.expect("bytes"), 4);
        }
        assert_eq!(near.buffer.capacity(), 0);
    }

    #[tokio::test]
    async fn a_stranger_is_given_no_buffer() {
        let (mut far, near) = tokio::io::duplex(256 * 1024);
        let mut near = Ahead::new(near);
        far.write_all(&vec![7; 200_000]).await.expect("room");
        let mut piece = [0; 4096];
        for _ in 0..40 {
            assert_eq!(near.read(&mut piece).await.expect("bytes"), 4096);
        }
        assert_eq!(near.buffer.capacity(), 0);
    }
}
