//! One app: commands in, events out, over any pair of byte streams.
//!
//! The session's task reads a batch, hands it to the hub under one lock, and goes on; a second loop of the same
//! task takes what waits for the app and writes it. What an app writes wrongly is answered or ends this session;
//! no other session notices. HTTP, where each answer belongs to a request, has a loop of its own.

mod http;
mod refusal;

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::dialect::{Dialect, json};
use crate::hub::{Frames, Hub, Piece, Room, SessionHandle, Taken};
use crate::shutdown::Shutdown;
use crate::wire::command::{Refused, Request};
use crate::wire::pod::Pod;

pub use self::refusal::refuse;

/// A frame announced longer than this cannot be meant: the session ends.
const FRAME_BYTES_ABSURD: usize = 64 * 1024 * 1024 + 128 * 1024;
/// What a frame may be longer than its body: its header and the header's length.
const HEADER_BYTES_MAX: usize = 2 + u16::MAX as usize;
/// A quiet session's read buffer, in bytes.
const IDLE_BYTES: usize = 2 * 1024;
/// Most bytes read at a time.
const READ_BYTES: usize = 64 * 1024;
/// A shorter line is copied to the others: that costs less than writing it from where it is.
const SLICE_BYTES_MIN: usize = 4 * 1024;
/// Most pieces of memory written at a time.
const SLICES_MAX: usize = 64;
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
    reader: R,
    writer: W,
    hub: &Arc<Hub>,
    options: SessionOptions,
    shutdown: Shutdown,
) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    run_of(reader, writer, hub, options, None, shutdown).await
}

/// The same for an app in a pod, where the node serves several.
///
/// # Errors
/// As of [`run`].
pub async fn run_of<R, W>(
    mut reader: R,
    mut writer: W,
    hub: &Arc<Hub>,
    options: SessionOptions,
    pod: Option<Arc<Pod>>,
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
        // On the heap, so that sessions of other dialects are not as large.
        return Box::pin(http::run(reader, writer, input, hub, (options, pod), shutdown)).await;
    }
    let handle = hub.open_session_of(options.operator, dialect == Dialect::Json, pod);
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
    let mut reading = Reading { options, lines: Lines::default(), skip: 0, room: None };
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
                    if reading.needs(&input, dialect) == 0 {
                        reading.room = None;
                    }
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
        let needs = reading.needs(&input, dialect);
        if needs != reading.room.as_ref().map_or(0, Room::bytes) {
            reading.room = None;
            if needs > 0 {
                reading.room = tokio::select! {
                    biased;
                    () = shutdown.asked() => return Ok(()),
                    room = handle.room(needs) => room,
                };
                if reading.room.is_none() {
                    reading.pass_over(&mut input, dialect, handle);
                    continue;
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
    /// For the long command that is not whole yet.
    room: Option<Room>,
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
                // Answers may go unread; a connection that we close is told to the operator too.
                tracing::warn!("an app is cut off: {text}");
                handle.refused(None, Refused { code: "too_large", message: text });
                return Progress::Over;
            }
            let Some(start) = frame_start(input.rest()) else { return Progress::ReadMore };
            let request = Request::read(start);
            handle.refused(request.id, too_large(length, self.options.body_bytes_max));
            self.skip = 4 + length;
        }
    }

    /// Escapes and base64 make a line longer than the body it carries.
    fn line_bytes_max(&self) -> usize {
        2 * self.options.body_bytes_max + HEADER_BYTES_MAX
    }

    /// How much room the command that is not whole yet needs: none when it is not longer than a read anyway.
    fn needs(&self, input: &Input, dialect: Dialect) -> usize {
        let rest = input.rest();
        let needs = match dialect {
            // What it will be is not known before its end.
            Dialect::Json if self.lines.skipping || rest.len() <= READ_BYTES => 0,
            Dialect::Json => self.line_bytes_max(),
            // Its header is wanted for the answer, should there be no room.
            _ if self.skip > 0 || frame_start(rest).is_none() => 0,
            _ => 4 + frame_length(rest).unwrap_or(0),
        };
        if needs > READ_BYTES { needs } else { 0 }
    }

    /// There is no room for the command that is not whole yet.
    fn pass_over(&mut self, input: &mut Input, dialect: Dialect, handle: &SessionHandle) {
        let text = "so many long commands of other apps are being read that there is no room for this one; send it again later";
        let refused = Refused { code: "overloaded", message: text.to_owned() };
        if dialect == Dialect::Json {
            handle.refused(None, refused);
            self.lines.skipping = true;
        } else {
            let rest = input.rest();
            let request = frame_start(rest).map(Request::read);
            handle.refused(request.and_then(|request| request.id), refused);
            self.skip = 4 + frame_length(rest).unwrap_or(0);
        }
    }

    fn lines(&mut self, input: &mut Input, handle: &SessionHandle) -> Progress {
        let line_bytes_max = self.line_bytes_max();
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

/// How many bytes a frame announces.
fn frame_length(rest: &[u8]) -> Option<usize> {
    rest.first_chunk::<4>().map(|length| u32::from_be_bytes(*length) as usize)
}

/// The length of a frame's header and the header, once they are there.
fn frame_start(rest: &[u8]) -> Option<&[u8]> {
    let header = rest.get(4..6).map(|h| usize::from(u16::from_be_bytes([h[0], h[1]])));
    header.and_then(|header| rest.get(4..6 + header))
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
    let mut frames = Frames::default();
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
    let mut frames = Frames::default();
    let mut text = Vec::new();
    while handle.take(&mut frames) != Taken::Nothing && !frames.is_empty() {
        write_out(writer, dialect, &mut frames, &mut text).await?;
    }
    writer.shutdown().await
}

async fn write_out(
    writer: &mut (impl AsyncWrite + Unpin),
    dialect: Dialect,
    frames: &mut Frames,
    text: &mut Vec<u8>,
) -> io::Result<()> {
    if dialect == Dialect::Json {
        text.clear();
        // Long lines that others write too, and how much of the text comes before each.
        let mut lines = Vec::new();
        for piece in frames.pieces() {
            match piece {
                Piece::Own(bytes) => put_lines(bytes, text),
                Piece::Shared(shared) => {
                    let line = shared.line(json::frame_to_line);
                    if line.len() < SLICE_BYTES_MIN {
                        text.extend_from_slice(line);
                    } else {
                        lines.push((text.len(), line));
                    }
                }
            }
        }
        if lines.is_empty() {
            writer.write_all(text).await?;
        } else {
            let mut start = 0;
            let mut slices = Vec::with_capacity(2 * lines.len() + 1);
            for (end, line) in lines {
                slices.push(IoSlice::new(&text[start..end]));
                slices.push(IoSlice::new(line));
                start = end;
            }
            slices.push(IoSlice::new(&text[start..]));
            write_slices(writer, &mut slices).await?;
        }
    } else if frames.len() == frames.own_len() {
        writer.write_all(frames.buffer()).await?;
    } else {
        let bytes = |piece| match piece {
            Piece::Own(bytes) => IoSlice::new(bytes),
            Piece::Shared(shared) => IoSlice::new(shared.frame()),
        };
        let mut slices: Vec<IoSlice<'_>> = frames.pieces().map(bytes).collect();
        write_slices(writer, &mut slices).await?;
    }
    frames.clear();
    Ok(())
}

/// Frames end to end become lines.
fn put_lines(frames: &[u8], text: &mut Vec<u8>) {
    let mut rest = frames;
    while let Some(length) = rest.first_chunk::<4>() {
        let whole = 4 + u32::from_be_bytes(*length) as usize;
        let Some((frame, behind)) = rest.split_at_checked(whole) else { break };
        json::frame_to_line(frame, text);
        rest = behind;
    }
}

/// Writes all of them, as many at a time as the system takes.
async fn write_slices(
    writer: &mut (impl AsyncWrite + Unpin),
    mut slices: &mut [IoSlice<'_>],
) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        let most = slices.len().min(SLICES_MAX);
        let written = writer.write_vectored(&slices[..most]).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut slices, written);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::Context;

    use tokio::io::{DuplexStream, ReadBuf, duplex};

    use super::*;
    use crate::dialect::json::line_to_frame;
    use crate::router::Limits;
    use crate::wire::id::{Incarnation, Node};

    const BODY_BYTES: usize = 400_000;

    /// An app, and what it hears, as text.
    struct App {
        stream: DuplexStream,
    }

    impl App {
        fn new(hub: &Arc<Hub>, shutdown: &Shutdown) -> Self {
            let (stream, theirs) = duplex(64 * 1024);
            let (hub, shutdown) = (Arc::clone(hub), shutdown.clone());
            tokio::spawn(async move {
                let options = SessionOptions { operator: true, body_bytes_max: BODY_BYTES };
                let (reader, writer) = tokio::io::split(theirs);
                run(reader, writer, &hub, options, shutdown).await
            });
            Self { stream }
        }

        async fn write(&mut self, bytes: &[u8]) {
            self.stream.write_all(bytes).await.expect("the session reads");
        }

        async fn hears(&mut self, text: &str) {
            let mut heard = Vec::new();
            while !String::from_utf8_lossy(&heard).contains(text) {
                assert!(self.stream.read_buf(&mut heard).await.expect("it writes") > 0, "{text}");
            }
        }
    }

    /// A command that is too long for one read.
    fn long(id: &str) -> Vec<u8> {
        let body = "x".repeat(BODY_BYTES - 5);
        format!(r#"{{"op":"send","to":"nobody@b@h","id":"{id}","body":"{body}"}}"#).into_bytes()
    }

    #[tokio::test(start_paused = true)]
    async fn long_commands_that_are_not_whole_have_a_bound_together_and_wait_for_room() {
        let node = Node { name: "a@h".parse().expect("a name"), incarnation: Incarnation(1) };
        let limits = Limits { queue_bytes: 1_800_000, ..Limits::default() };
        let hub = Hub::new(node, limits);
        let (trigger, shutdown) = crate::shutdown::channel();
        let mut frame = Vec::new();
        line_to_frame(&long("whole"), &mut frame).expect("a good line");
        let half = frame.len() / 2;
        // Two of them fit, as frames.
        let mut first = App::new(&hub, &shutdown);
        let mut second = App::new(&hub, &shutdown);
        for app in [&mut first, &mut second] {
            app.write(&frame[..half]).await;
        }
        let mut third = App::new(&hub, &shutdown);
        third.write(&frame[..70_000]).await;
        third.hears("overloaded").await;
        // It is passed over, and what comes behind it is not.
        third.write(&frame[70_000..]).await;
        let mut short = Vec::new();
        line_to_frame(br#"{"op":"self","id":"short"}"#, &mut short).expect("a good line");
        third.write(&short).await;
        third.hears("short").await;
        // A line may become as long as a line can.
        let mut lines = App::new(&hub, &shutdown);
        let line = long("whole");
        lines.write(&line[..150_000]).await;
        lines.hears("overloaded").await;
        lines.write(&line[150_000..]).await;
        lines.write(b"\n{\"op\":\"self\",\"id\":\"short\"}\n").await;
        lines.hears("short").await;
        // One that has room goes on, and then another has.
        third.write(&frame[..70_000]).await;
        first.write(&frame[half..]).await;
        first.hears("whole").await;
        third.write(&frame[70_000..]).await;
        third.hears("whole").await;
        drop(second);
        lines.write(&line).await;
        lines.write(b"\n").await;
        lines.hears("whole").await;
        drop(trigger);
    }

    #[tokio::test(start_paused = true)]
    async fn apps_of_every_dialect_read_a_large_publication_whole_and_in_its_place() {
        let node = Node { name: "a@h".parse().expect("a name"), incarnation: Incarnation(1) };
        let hub = Hub::new(node, Limits::default());
        let (trigger, shutdown) = crate::shutdown::channel();
        let mut lines = [App::new(&hub, &shutdown), App::new(&hub, &shutdown)];
        let mut frames = App::new(&hub, &shutdown);
        let mut stream = App::new(&hub, &shutdown);
        let subscribe = br#"{"op":"subscribe","topic":"t","id":"in"}"#;
        for app in &mut lines {
            app.write(&[&subscribe[..], b"\n"].concat()).await;
            app.hears(r#""id":"in""#).await;
        }
        let mut frame = Vec::new();
        line_to_frame(subscribe, &mut frame).expect("a good line");
        frames.write(&frame).await;
        frames.hears("in").await;
        stream.write(b"GET /v1/subscribe?topic=t HTTP/1.1\r\nHost: x\r\n\r\n").await;
        stream.hears("event: ok").await;
        let mut publisher = App::new(&hub, &shutdown);
        let bodies: Vec<String> = [10, 5_000, 5_000, 100_000, 300, 70_000]
            .iter()
            .enumerate()
            .map(|(n, size)| format!("{n}{}.", "x".repeat(*size)))
            .collect();
        for body in &bodies {
            let line = format!("{{\"op\":\"publish\",\"topic\":\"t\",\"body\":\"{body}\"}}\n");
            publisher.write(line.as_bytes()).await;
        }
        for app in lines.iter_mut().chain([&mut frames, &mut stream]) {
            let mut heard = Vec::new();
            let mut text = String::new();
            while !text.contains(bodies.last().expect("some")) {
                assert!(app.stream.read_buf(&mut heard).await.expect("it writes") > 0);
                text = String::from_utf8_lossy(&heard).into_owned();
            }
            let mut behind = 0;
            for body in &bodies {
                let places: Vec<usize> = text.match_indices(body).map(|(at, _)| at).collect();
                assert_eq!(places.len(), 1, "once, whole");
                assert!(places[0] >= behind, "in order");
                behind = places[0] + body.len();
            }
        }
        drop(trigger);
    }

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
