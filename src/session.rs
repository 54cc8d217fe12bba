//! One app: commands in, events out, over any pair of byte streams.
//!
//! The session's task reads a batch, hands it to the hub under one lock, and goes on; a second loop of the same
//! task takes what waits for the app and writes it. What an app writes wrongly is answered or ends this session;
//! no other session notices.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::dialect::{Dialect, json};
use crate::hub::{Hub, SessionHandle, Taken};
use crate::shutdown::Shutdown;
use crate::wire::command::{Refused, Request};

/// A frame announced longer than this cannot be meant: the session ends.
const FRAME_BYTES_ABSURD: usize = 64 * 1024 * 1024 + 128 * 1024;
/// What a frame may be longer than its body: its header and the header's length.
const HEADER_BYTES_MAX: usize = 2 + u16::MAX as usize;
/// A quiet session's read buffer, in bytes.
const IDLE_BYTES: usize = 2 * 1024;
/// Most bytes read at a time.
const READ_BYTES: usize = 64 * 1024;
/// How long an app that has stopped writing may take to read its last answers.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a session may do and how much at a time.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// It came through a socket that only the owner and root can open.
    pub operator: bool,
    /// Longest body of a message, in bytes.
    pub body_bytes_max: usize,
}

/// Serves one app until it leaves, breaks the protocol or the node stops.
///
/// # Errors
/// What the streams say. The session is over either way: its processes have died, unless it asked for a grace.
pub async fn run<R, W>(
    mut reader: R,
    mut writer: W,
    hub: &Arc<Hub>,
    options: SessionOptions,
    mut shutdown: Shutdown,
) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut input = Input::default();
    let first = tokio::select! {
        biased;
        () = shutdown.asked() => return Ok(()),
        first = input.read(&mut reader, None) => first?,
    };
    // Nothing is opened for a connection that says nothing: stale sockets are tested that way.
    if first == 0 {
        return Ok(());
    }
    let dialect = Dialect::of(input.rest().first().copied().unwrap_or(0));
    if dialect == Dialect::Http {
        return refuse_http(&mut writer).await;
    }
    let handle = hub.open_session(options.operator);
    let result = {
        let reading = read_commands(&mut reader, input, dialect, &handle, options, &mut shutdown);
        let writing = write_events(&mut writer, dialect, &handle);
        tokio::select! {
            biased;
            read = reading => read,
            written = writing => return written,
        }
    };
    // The app says nothing more; what it was answered before that still belongs to it.
    let last_words = write_rest(&mut writer, dialect, &handle);
    let _ = tokio::time::timeout(LAST_WORDS, last_words).await;
    result
}

/// Bytes read and not yet understood.
#[derive(Debug, Default)]
struct Input {
    bytes: Vec<u8>,
    start: usize,
    /// The last read took all the room there was: more is likely to be there.
    filled: bool,
}

impl Input {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn consume(&mut self, bytes: usize) {
        self.start += bytes;
    }

    /// Reads more. 0 is the end. Cancel safe.
    async fn read(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
        handle: Option<&SessionHandle>,
    ) -> io::Result<usize> {
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        } else if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        poll_fn(|cx| {
            let room = self.room(handle).min(READ_BYTES);
            let read = pin!(reader.read_buf(&mut (&mut self.bytes).limit(room))).poll(cx);
            match read {
                Poll::Ready(Ok(read)) => self.filled = read == room,
                Poll::Ready(Err(_)) => {}
                Poll::Pending => self.give_back(handle),
            }
            read
        })
        .await
    }

    /// Makes room for what may come, and says how much.
    fn room(&mut self, handle: Option<&SessionHandle>) -> usize {
        if self.bytes.capacity() == 0
            && let Some(handle) = handle
        {
            self.bytes = handle.buffer();
        }
        let spare = self.bytes.capacity() - self.bytes.len();
        if spare < if self.filled { READ_BYTES / 2 } else { IDLE_BYTES } {
            // A buffer that was filled grows; what it grows to is bounded by the longest frame or line.
            let more = self.bytes.capacity().clamp(IDLE_BYTES, READ_BYTES);
            self.bytes.reserve(more);
        }
        self.bytes.capacity() - self.bytes.len()
    }

    /// Nothing is there: whoever reads next may have the buffer.
    fn give_back(&mut self, handle: Option<&SessionHandle>) {
        if self.bytes.is_empty() && self.bytes.capacity() > IDLE_BYTES {
            if let Some(handle) = handle {
                handle.shelve(&mut self.bytes);
            }
            if self.bytes.capacity() > IDLE_BYTES {
                self.bytes = Vec::new();
            }
        }
    }
}

async fn read_commands(
    reader: &mut (impl AsyncRead + Unpin),
    mut input: Input,
    dialect: Dialect,
    handle: &SessionHandle,
    options: SessionOptions,
    shutdown: &mut Shutdown,
) -> io::Result<()> {
    let mut reading = Reading { options, lines: Lines::default(), skip: 0 };
    loop {
        loop {
            let progress = match dialect {
                Dialect::Json => reading.lines(&mut input, handle),
                _ => reading.frames(&mut input, handle),
            };
            match progress {
                Progress::Over => return Ok(()),
                Progress::ReadMore => break,
                Progress::Wait => {
                    while !handle.may_read() {
                        if handle.is_over() {
                            return Ok(());
                        }
                        tokio::select! {
                            biased;
                            () = shutdown.asked() => return Ok(()),
                            () = handle.readable() => {}
                        }
                    }
                }
            }
        }
        let read = tokio::select! {
            biased;
            () = shutdown.asked() => return Ok(()),
            read = input.read(reader, Some(handle)) => read?,
        };
        if read == 0 {
            // `printf` without a newline means its one line all the same.
            if dialect == Dialect::Json && !input.rest().trim_ascii().is_empty() {
                input.bytes.push(b'\n');
                let _ = reading.lines(&mut input, handle);
            }
            return Ok(());
        }
    }
}

/// What to do after the commands at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Read from the app.
    ReadMore,
    /// Something it feeds is full: wait before going on.
    Wait,
    /// The session is over.
    Over,
}

/// How far the input has been understood.
#[derive(Debug)]
struct Reading {
    options: SessionOptions,
    lines: Lines,
    /// How many bytes of a frame that was too large are still to be passed over.
    skip: usize,
}

/// How far the input has been understood as lines.
#[derive(Debug, Default)]
struct Lines {
    /// Where to look for the end of the line.
    seen: usize,
    /// The line is too long and is passed over.
    skipping: bool,
    frames: Vec<u8>,
}

impl Reading {
    fn frame_bytes_max(&self) -> usize {
        self.options.body_bytes_max + HEADER_BYTES_MAX
    }

    fn frames(&mut self, input: &mut Input, handle: &SessionHandle) -> Progress {
        loop {
            if self.skip > 0 {
                let skipped = self.skip.min(input.rest().len());
                input.consume(skipped);
                self.skip -= skipped;
                if self.skip > 0 {
                    return Progress::ReadMore;
                }
            }
            let fed = handle.commands(input.rest(), self.frame_bytes_max());
            input.consume(fed.consumed);
            if fed.over {
                return Progress::Over;
            }
            if fed.stopped {
                return Progress::Wait;
            }
            let Some(length) = fed.too_large else {
                return if fed.may_read { Progress::ReadMore } else { Progress::Wait };
            };
            if length > FRAME_BYTES_ABSURD {
                let text = format!(
                    "a frame of {length} bytes: this is not the CBOR dialect; the connection is closed"
                );
                handle.refused(None, Refused { code: "too_large", message: text });
                return Progress::Over;
            }
            let rest = input.rest();
            let header = rest.get(4..6).map(|h| usize::from(u16::from_be_bytes([h[0], h[1]])));
            let Some(start) = header.and_then(|header| rest.get(4..6 + header)) else {
                return Progress::ReadMore;
            };
            let request = Request::read(start);
            handle.refused(request.id, too_large(length, self.options.body_bytes_max));
            self.skip = 4 + length;
        }
    }

    fn lines(&mut self, input: &mut Input, handle: &SessionHandle) -> Progress {
        // Escapes and base64 make a line longer than the body it carries.
        let line_bytes_max = 2 * self.options.body_bytes_max + HEADER_BYTES_MAX;
        let frames = &mut self.lines.frames;
        if let Some(progress) = feed(frames, handle) {
            return progress;
        }
        loop {
            let rest = input.rest();
            let Some(end) = rest[self.lines.seen..].iter().position(|byte| *byte == b'\n') else {
                self.lines.seen = rest.len();
                if self.lines.skipping {
                    input.consume(self.lines.seen);
                    self.lines.seen = 0;
                } else if rest.len() > line_bytes_max {
                    handle.refused(None, too_large(rest.len(), self.options.body_bytes_max));
                    self.lines.skipping = true;
                    continue;
                }
                break;
            };
            let line = &rest[..self.lines.seen + end];
            let used = line.len() + 1;
            self.lines.seen = 0;
            if !std::mem::take(&mut self.lines.skipping) && !line.trim_ascii().is_empty() {
                let before = frames.len();
                if let Err(error) = json::line_to_frame(line, frames) {
                    frames.truncate(before);
                    // The answers come in the order of the commands.
                    if let Some(progress) = feed(frames, handle) {
                        return progress;
                    }
                    let id = error.id.as_ref().map(json::JsonId::as_id);
                    handle.refused(id, Refused { code: "badarg", message: error.message });
                }
            }
            input.consume(used);
            if frames.len() > READ_BYTES {
                break;
            }
        }
        if let Some(progress) = feed(frames, handle) {
            return progress;
        }
        if frames.capacity() > READ_BYTES {
            *frames = Vec::new();
        }
        if !handle.may_read() {
            return Progress::Wait;
        }
        // A line that is complete goes first.
        if self.lines.seen < input.rest().len() { Progress::Wait } else { Progress::ReadMore }
    }
}

/// Carries out the frames that lines were turned into. What to do instead of going on, when they were not all.
fn feed(frames: &mut Vec<u8>, handle: &SessionHandle) -> Option<Progress> {
    if frames.is_empty() {
        return None;
    }
    let fed = handle.commands(frames, usize::MAX);
    frames.drain(..fed.consumed);
    if fed.over {
        return Some(Progress::Over);
    }
    fed.stopped.then_some(Progress::Wait)
}

fn too_large(length: usize, body_bytes_max: usize) -> Refused {
    Refused {
        code: "too_large",
        message: format!(
            "{length} bytes in one command: the limit for a body is {body_bytes_max} bytes (body-max); send it in pieces"
        ),
    }
}

/// Takes what waits for the app and writes it, for as long as the session lives.
async fn write_events(
    writer: &mut (impl AsyncWrite + Unpin),
    dialect: Dialect,
    handle: &SessionHandle,
) -> io::Result<()> {
    let mut frames = Vec::new();
    let mut text = Vec::new();
    loop {
        match handle.take(&mut frames) {
            Taken::Nothing => {
                if text.capacity() > IDLE_BYTES {
                    text = Vec::new();
                }
                handle.waiting().await;
            }
            Taken::Some => write_out(writer, dialect, &mut frames, &mut text).await?,
            Taken::Last => {
                write_out(writer, dialect, &mut frames, &mut text).await?;
                return writer.shutdown().await;
            }
        }
    }
}

/// Writes what waits for the app now.
async fn write_rest(
    writer: &mut (impl AsyncWrite + Unpin),
    dialect: Dialect,
    handle: &SessionHandle,
) -> io::Result<()> {
    let mut frames = Vec::new();
    let mut text = Vec::new();
    while handle.take(&mut frames) != Taken::Nothing && !frames.is_empty() {
        write_out(writer, dialect, &mut frames, &mut text).await?;
    }
    writer.shutdown().await
}

async fn write_out(
    writer: &mut (impl AsyncWrite + Unpin),
    dialect: Dialect,
    frames: &mut Vec<u8>,
    text: &mut Vec<u8>,
) -> io::Result<()> {
    if dialect == Dialect::Json {
        text.clear();
        let mut rest = frames.as_slice();
        while let Some(length) = rest.first_chunk::<4>() {
            let whole = 4 + u32::from_be_bytes(*length) as usize;
            let Some((frame, behind)) = rest.split_at_checked(whole) else { break };
            json::frame_to_line(frame, text);
            rest = behind;
        }
        writer.write_all(text).await?;
    } else {
        writer.write_all(frames).await?;
    }
    frames.clear();
    Ok(())
}

async fn refuse_http(writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let body = "This version speaks JSON lines and CBOR frames on this socket, not HTTP.\n\
                Try: echo '{\"op\":\"nodes\",\"id\":1}' | socat - UNIX:pillion.sock\n";
    let head = format!(
        "HTTP/1.1 501 Not Implemented\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    writer.write_all(head.as_bytes()).await?;
    writer.write_all(body.as_bytes()).await?;
    writer.shutdown().await
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::Context;

    use tokio::io::ReadBuf;

    use super::*;

    /// Has always as much as is asked for, until it has nothing.
    struct Flood {
        left: usize,
        asked: usize,
    }

    impl AsyncRead for Flood {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            room: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.left == 0 {
                return Poll::Pending;
            }
            self.asked = room.remaining();
            self.left = self.left.saturating_sub(self.asked);
            room.initialize_unfilled();
            room.advance(self.asked);
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_flood_is_read_in_large_pieces_and_leaves_no_large_buffer_behind() {
        for frame in [90, 1100, 16_500] {
            let mut input = Input::default();
            let mut flood = Flood { left: 4 * 1024 * 1024, asked: 0 };
            let mut first = None;
            while flood.left > 0 {
                input.read(&mut flood, None).await.expect("bytes");
                first.get_or_insert(flood.asked);
                assert!(flood.asked <= READ_BYTES);
                // What is not a whole frame stays.
                input.consume(input.rest().len() / frame * frame);
            }
            assert_eq!(first, Some(IDLE_BYTES));
            assert!(flood.asked >= READ_BYTES / 2, "{} at a time", flood.asked);
            input.consume(input.rest().len());
            let mut nothing = Box::pin(input.read(&mut flood, None));
            let mut cx = Context::from_waker(std::task::Waker::noop());
            assert!(nothing.as_mut().poll(&mut cx).is_pending());
            drop(nothing);
            assert_eq!(input.bytes.capacity(), 0);
        }
    }
}
