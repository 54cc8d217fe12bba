//! The buffers of one connection. Both start small, grow with what passes, and are given back when nothing does.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::Instant;

use crate::hub::PeerHandle;
use crate::wire::message::FRAGMENT_BYTES;

/// What an idle connection keeps.
const SMALL: usize = 2 * 1024;
/// Most that is read before the hub gets it.
const READ_BYTES_MAX: usize = 64 * 1024;
/// A partial frame of the largest size and one read.
const BUFFER_BYTES_MAX: usize = READ_BYTES_MAX + FRAGMENT_BYTES + 4096 + 4;
/// Most that is written before reading gets its turn.
const WRITE_BYTES_MAX: usize = 256 * 1024;

/// What has been read and not yet consumed.
pub(super) struct Inbox {
    buffer: Vec<u8>,
    /// Kept for the next poll, because there was something to deliver first.
    error: Option<io::Error>,
    busy: bool,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self { buffer: Vec::new(), error: None, busy: false }
    }

    /// Reads what is there, up to a bound. `Ready(Ok(0))` is the end of the stream.
    pub(super) fn poll_read<R>(
        &mut self,
        cx: &mut Context<'_>,
        read: &mut R,
    ) -> Poll<io::Result<usize>>
    where
        R: AsyncRead + Unpin,
    {
        if let Some(error) = self.error.take() {
            return Poll::Ready(Err(error));
        }
        let mut total = 0;
        while total < READ_BYTES_MAX {
            if self.buffer.len() == self.buffer.capacity() {
                let left = BUFFER_BYTES_MAX - self.buffer.len();
                let room = self.buffer.capacity().max(SMALL).min(left);
                self.buffer.reserve_exact(room);
            }
            match pin!(read.read_buf(&mut self.buffer)).poll(cx) {
                Poll::Ready(Ok(0)) if total == 0 => return Poll::Ready(Ok(0)),
                Poll::Ready(Ok(0)) | Poll::Pending => break,
                Poll::Ready(Ok(n)) => total += n,
                Poll::Ready(Err(error)) if total == 0 => return Poll::Ready(Err(error)),
                Poll::Ready(Err(error)) => {
                    self.error = Some(error);
                    break;
                }
            }
            if self.buffer.len() >= BUFFER_BYTES_MAX {
                break;
            }
        }
        if total == 0 {
            return Poll::Pending;
        }
        self.busy |= total > SMALL;
        Poll::Ready(Ok(total))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    pub(super) fn consume(&mut self, bytes: usize) {
        self.buffer.drain(..bytes);
    }

    /// Whether the buffer is full of something that is not even one frame.
    pub(super) fn is_stuck(&self) -> bool {
        self.buffer.len() >= BUFFER_BYTES_MAX
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// A second or so has passed.
    pub(super) fn rest(&mut self) {
        if !self.busy && self.buffer.is_empty() && self.buffer.capacity() > SMALL {
            self.buffer = Vec::new();
        }
        self.busy = false;
    }
}

/// What the hub gave us to write.
pub(super) struct Writer {
    out: Vec<u8>,
    written: usize,
    flushed: bool,
    busy: bool,
    /// When the last byte went out.
    pub wrote: Instant,
}

impl Writer {
    pub(super) fn new(now: Instant) -> Self {
        Self { out: Vec::new(), written: 0, flushed: true, busy: false, wrote: now }
    }

    /// Writes what waits. Pending once nothing does or the stream is full; ready with `Ok` after a bound, so that
    /// others have their turn.
    pub(super) fn poll_write<W, F>(
        &mut self,
        cx: &mut Context<'_>,
        write: &mut W,
        handle: &PeerHandle,
        mut waiting: Pin<&mut F>,
        rearm: impl Fn() -> F,
    ) -> Poll<io::Result<()>>
    where
        W: AsyncWrite + Unpin,
        F: Future<Output = ()>,
    {
        let mut total = 0;
        while total < WRITE_BYTES_MAX {
            if self.rest_bytes().is_empty() {
                if !self.flushed {
                    ready!(Pin::new(&mut *write).poll_flush(cx))?;
                    self.flushed = true;
                }
                if !self.take(handle) {
                    ready!(waiting.as_mut().poll(cx));
                    waiting.set(rearm());
                    continue;
                }
            }
            let n = ready!(Pin::new(&mut *write).poll_write(cx, &self.out[self.written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.wrote_some(n);
            total += n;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes the next batch from the hub. Only when the last one is out.
    pub(super) fn take(&mut self, handle: &PeerHandle) -> bool {
        self.out.clear();
        self.written = 0;
        let some = handle.take(&mut self.out);
        self.busy |= self.out.len() > SMALL;
        some && !self.out.is_empty()
    }

    pub(super) fn rest_bytes(&self) -> &[u8] {
        &self.out[self.written..]
    }

    pub(super) fn wrote_some(&mut self, n: usize) {
        self.written += n;
        self.flushed = false;
        self.wrote = Instant::now();
    }

    pub(super) fn is_idle(&self) -> bool {
        self.flushed && self.rest_bytes().is_empty()
    }

    /// The bytes that a whole frame still needs.
    pub(super) fn into_rest(mut self) -> Vec<u8> {
        self.out.drain(..self.written);
        self.out
    }

    /// A second or so has passed.
    pub(super) fn rest(&mut self) {
        if !self.busy && self.rest_bytes().is_empty() && self.out.capacity() > SMALL {
            self.out = Vec::new();
            self.written = 0;
        }
        self.busy = false;
    }
}
