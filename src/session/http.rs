//! One app that speaks HTTP: requests in, responses out, one after the other.
//!
//! A connection is a session with a process, as every other is. A request becomes a command, is carried out when the
//! session may be read, and its answer is written before the next request is looked at; a stream of events is a response
//! that goes on until the process, the connection or the node ends.

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use super::{IDLE_BYTES, Input, LAST_WORDS, READ_BYTES, SessionOptions};
use crate::dialect::http::head::{self, Head, Length};
use crate::dialect::http::request::{self, Content};
use crate::dialect::http::response::{self, Parts, Response, Seen, Size};
use crate::dialect::http::routes::{self, Found, Gives};
use crate::dialect::http::{Refusal, chunks::Chunks, events};
use crate::dialect::json;
use crate::hub::{Frames, Hub, Piece, Room, SessionHandle, Taken};
use crate::shutdown::Shutdown;
use crate::wire::pod::Pod;

/// How long a head may take from its first byte to its last.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long the next bytes of a body may take.
const BODY_TIME: Duration = Duration::from_secs(30);
/// How often a stream of events says that it is there, when it has nothing else to say.
const ALIVE_EVERY: Duration = Duration::from_secs(15);
/// How much is read ahead while a request is carried out: enough to notice that the app has gone.
const AHEAD_BYTES: usize = 16 * 1024;

/// The connection is over.
#[derive(Debug)]
enum Over {
    /// The streams say so.
    Io(io::Error),
    /// The app has gone, or its session has.
    Gone,
}

impl From<io::Error> for Over {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Serves one app until it leaves, breaks the protocol or the node stops.
pub(super) async fn run<R, W>(
    reader: R,
    writer: W,
    input: Input,
    hub: &Arc<Hub>,
    (options, pod): (SessionOptions, Option<Arc<Pod>>),
    mut shutdown: Shutdown,
) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut connection = Connection {
        reader,
        writer,
        input,
        handle: hub.open_session_of(options.operator, true, pod),
        options,
        last_id: 0,
        until: None,
        leaving: false,
        frames: Frames::default(),
        out: Vec::new(),
    };
    let over = tokio::select! {
        biased;
        () = shutdown.asked() => return Ok(()),
        over = connection.serve() => over,
    };
    match over {
        Ok(()) | Err(Over::Gone) => Ok(()),
        Err(Over::Io(error)) => Err(error),
    }
}

/// What a response needs to know of its request.
#[derive(Clone, Copy, Debug)]
struct Manner {
    is_head: bool,
    is_new: bool,
    keep_alive: bool,
}

/// One connection.
struct Connection<R, W> {
    reader: R,
    writer: W,
    input: Input,
    handle: SessionHandle,
    options: SessionOptions,
    /// The number of the last command.
    last_id: u64,
    /// The app writes nothing more, and reads its last answers until then.
    until: Option<Instant>,
    /// The node is about to leave.
    leaving: bool,
    /// Events that were taken.
    frames: Frames,
    /// What is to be written.
    out: Vec<u8>,
}

impl<R, W> Connection<R, W>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    async fn serve(&mut self) -> Result<(), Over> {
        // What was asked together is answered together, up to a read's worth: then the app reads, and others have their
        // turn.
        while self.one().await? {
            if self.out.len() > READ_BYTES {
                self.flush().await?;
            }
            tokio::task::coop::consume_budget().await;
        }
        self.flush().await?;
        self.writer.shutdown().await?;
        // An app that is still writing would lose the answer with the connection.
        let _ = tokio::time::timeout(LAST_WORDS, async {
            while self.until.is_none() {
                self.input.consume(self.input.rest().len());
                self.read().await?;
            }
            Ok::<(), Over>(())
        })
        .await;
        Ok(())
    }

    /// Answers one request. False when it was the last one.
    async fn one(&mut self) -> Result<bool, Over> {
        let head = match self.head().await? {
            Ok(head) => head,
            Err(refusal) => {
                let manner = Manner { is_head: false, is_new: true, keep_alive: false };
                return Ok(self.respond(&Response::refused(refusal), manner));
            }
        };
        let mut manner = Manner {
            is_head: head.method == "HEAD",
            is_new: head.is_new,
            keep_alive: head.keep_alive,
        };
        if self.last_id == 0 {
            self.last_id = 1;
            self.carry_out(&request::hello(head.agent.as_deref())).await?;
        }
        let found = if head.method == "OPTIONS" { None } else { Some(routes::find(&head)) };
        let content = Content::of(head.content_type.as_deref());
        // What a request was refused for is told before a long body is read for nothing; then nobody can tell
        // where the next request begins.
        let limit = match found {
            Some(Ok(_)) => content.bytes_max(self.options.body_bytes_max),
            _ if head.waits => 0,
            _ => READ_BYTES,
        };
        let (body, room) = match self.body(&head, limit).await? {
            Ok(body) => body,
            Err(refusal) => {
                manner.keep_alive = false;
                let refusal = found.and_then(Result::err).unwrap_or(refusal);
                return Ok(self.respond(&Response::refused(refusal), manner));
            }
        };
        let found = match found {
            Some(Ok(found)) => found,
            Some(Err(refusal)) => return Ok(self.respond(&Response::refused(refusal), manner)),
            None => return Ok(self.respond(&options(&head), manner)),
        };
        if found.route.gives == Gives::Events {
            // A stream lasts long: what asked for it goes first.
            drop((head, room));
            return self.stream(found, body, manner).await;
        }
        self.last_id += 1;
        let frame = match request::command(&found, content, &body, self.last_id) {
            Ok(frame) => frame,
            Err(refusal) => return Ok(self.respond(&Response::refused(refusal), manner)),
        };
        drop(body);
        self.carry_out(&frame).await?;
        drop((frame, room));
        self.answer(found.route.gives, head.takes_cbor, manner).await
    }

    /// The head of the next request, or why there is none to be had.
    async fn head(&mut self) -> Result<Result<Head, Refusal>, Over> {
        let mut late = None;
        loop {
            // Some write an empty line behind a body.
            let empty = self.input.rest().iter().take_while(|byte| b"\r\n".contains(byte)).count();
            self.input.consume(empty);
            let rest = self.input.rest();
            if rest.is_empty() {
                late = None;
                self.idle().await?;
                continue;
            }
            match head::parse(rest) {
                Ok(Some((head, length))) => {
                    self.input.consume(length);
                    return Ok(Ok(head));
                }
                Ok(None) => {}
                Err(refusal) => return Ok(Err(refusal)),
            }
            let late = *late.get_or_insert_with(|| Instant::now() + HEAD_TIME);
            if !self.read_until(late).await? {
                let seconds = HEAD_TIME.as_secs();
                let text = format!("the head of the request was not whole after {seconds} s");
                return Ok(Err(Refusal::new(408, "timeout", text)));
            }
        }
    }

    /// Waits for the next request, for as long as the session and the node last.
    async fn idle(&mut self) -> Result<(), Over> {
        self.flush().await?;
        while self.input.rest().is_empty() {
            if !self.discard() || self.leaving || self.until.is_some() {
                return Err(Over::Gone);
            }
            self.wait(None).await?;
        }
        Ok(())
    }

    /// The body of a request, and the room that was made for it.
    async fn body(
        &mut self,
        head: &Head,
        limit: usize,
    ) -> Result<Result<(Vec<u8>, Option<Room>), Refusal>, Over> {
        let mut body = Vec::new();
        let mut room = None;
        let mut chunks = Chunks::default();
        let whole = match head.length {
            Length::Known(length) => match usize::try_from(length) {
                Ok(length) if length <= limit => Some(length),
                _ => return Ok(Err(request::too_large(limit))),
            },
            Length::Chunked if limit == 0 => return Ok(Err(request::too_large(limit))),
            Length::Chunked => None,
        };
        let mut waits = head.waits && whole != Some(0);
        loop {
            let rest = self.input.rest();
            let used = match whole {
                Some(whole) => {
                    let used = rest.len().min(whole - body.len());
                    body.extend_from_slice(&rest[..used]);
                    used
                }
                None => match chunks.read(rest, &mut body, limit) {
                    Ok(used) => used,
                    Err(refusal) => return Ok(Err(refusal)),
                },
            };
            self.input.consume(used);
            if whole.map_or(chunks.is_over(), |whole| body.len() == whole) {
                return Ok(Ok((body, room)));
            }
            if room.is_none() && whole.unwrap_or(body.len()) > READ_BYTES {
                self.flush().await?;
                room = self.handle.room(whole.unwrap_or(limit)).await;
                if room.is_none() {
                    let text = "so many long commands of other apps are being read that there is no room for this one; send it again later";
                    return Ok(Err(Refusal::new(503, "overloaded", text)));
                }
            }
            if std::mem::take(&mut waits) && body.is_empty() {
                self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            if !self.read_until(Instant::now() + BODY_TIME).await? {
                let seconds = BODY_TIME.as_secs();
                let text = format!("no more of the body came within {seconds} s");
                return Ok(Err(Refusal::new(408, "timeout", text)));
            }
        }
    }

    /// Reads more of something that has begun. False when nothing came in time.
    async fn read_until(&mut self, late: Instant) -> Result<bool, Over> {
        self.flush().await?;
        match tokio::time::timeout_at(late, self.read()).await {
            Ok(Ok(())) if self.until.is_none() => Ok(true),
            Ok(Ok(())) => Err(Over::Gone),
            Ok(Err(over)) => Err(over),
            Err(_) => Ok(false),
        }
    }

    async fn read(&mut self) -> Result<(), Over> {
        if self.input.read(&mut self.reader, Some(&self.handle)).await? == 0 {
            self.until = Some(Instant::now() + LAST_WORDS);
        }
        Ok(())
    }

    /// Carries a command out, once the session may be read.
    async fn carry_out(&mut self, frame: &[u8]) -> Result<(), Over> {
        loop {
            if self.handle.may_read() {
                let fed = self.handle.commands(frame, usize::MAX);
                if fed.consumed > 0 || fed.over {
                    return Ok(());
                }
            }
            if !self.discard() {
                return Err(Over::Gone);
            }
            self.wait(None).await?;
        }
    }

    /// Takes what no request asked for. False when the session is over.
    fn discard(&mut self) -> bool {
        self.frames.clear();
        let taken = self.handle.take(&mut self.frames);
        self.leaving |= frames(&self.frames).any(|seen| seen.ev == "draining");
        taken != Taken::Last
    }

    /// Waits until there are events, and takes them. True when they are the last ones.
    async fn events(&mut self) -> Result<bool, Over> {
        self.frames.clear();
        loop {
            match self.handle.take(&mut self.frames) {
                Taken::Some => return Ok(false),
                Taken::Last => return Ok(true),
                Taken::Nothing => self.wait(None).await?,
            };
        }
    }

    /// Waits until something has happened, or until `at`: true when that is it. Notices when the app goes.
    async fn wait(&mut self, at: Option<Instant>) -> Result<bool, Over> {
        self.flush().await?;
        // Whoever waits keeps no buffers, be it for a request or for an event.
        for buffer in [&mut self.out, self.frames.buffer()] {
            if buffer.capacity() > IDLE_BYTES {
                *buffer = Vec::new();
            }
        }
        let until = self.until;
        let reads = until.is_none() && self.input.rest().len() < AHEAD_BYTES;
        let (handle, reader) = (&self.handle, &mut self.reader);
        tokio::select! {
            biased;
            () = handle.waiting() => {}
            () = handle.readable() => {}
            read = self.input.read(reader, Some(handle)), if reads => {
                if read? == 0 {
                    self.until = Some(Instant::now() + LAST_WORDS);
                }
            }
            () = arrival(until) => return Err(Over::Gone),
            () = arrival(at) => return Ok(true),
        }
        Ok(false)
    }

    /// Writes the answer to the last command.
    async fn answer(
        &mut self,
        gives: Gives,
        takes_cbor: bool,
        mut manner: Manner,
    ) -> Result<bool, Over> {
        // The answer comes in parts, so written.
        let mut in_parts: Option<(Parts, Size)> = None;
        loop {
            let last = self.events().await?;
            let taken = std::mem::take(&mut self.frames);
            let mut answered = None;
            for seen in frames(&taken) {
                self.leaving |= seen.ev == "draining";
                if seen.id != Some(self.last_id) {
                    continue;
                }
                if seen.ev == "part" {
                    if manner.is_head {
                        continue;
                    }
                    let (parts, size) = *in_parts.get_or_insert_with(|| {
                        let (parts, content_type) = Parts::of(seen, takes_cbor);
                        let size = if manner.is_new { Size::Chunks } else { Size::Close };
                        manner.keep_alive &= manner.is_new && !self.leaving;
                        let head =
                            Response { content_type: Some(content_type), ..events::begins() };
                        response::put_head(
                            &mut self.out,
                            &head,
                            size,
                            manner.is_new,
                            manner.keep_alive,
                        );
                        (parts, size)
                    });
                    self.piece(size, |piece| parts.put(piece, seen));
                    continue;
                }
                match in_parts {
                    None => {
                        let mut response = Response::of(seen, gives, takes_cbor);
                        // It is this process that is not there, not the one that was asked.
                        if last && seen.code == Some("noproc") {
                            response.status = 502;
                        }
                        answered = Some(self.respond(&response, manner));
                    }
                    Some((parts, size)) if seen.ev == "ok" => {
                        self.piece(size, |piece| parts.put(piece, seen));
                        response::put_end(&mut self.out, size);
                        answered = Some(manner.keep_alive);
                    }
                    // Its status has been told. Whoever reads it notices that its end is missing.
                    Some(_) => {
                        self.flush().await?;
                        return Err(Over::Gone);
                    }
                }
            }
            self.frames = taken;
            if let Some(goes_on) = answered {
                return Ok(goes_on && !last);
            }
            if last {
                if in_parts.is_some() {
                    return Err(Over::Gone);
                }
                manner.keep_alive = false;
                let text =
                    "the process of this connection has died before the answer came; connect again";
                let refusal = Refusal::new(502, "noproc", text);
                return Ok(self.respond(&Response::failed(refusal, true), manner));
            }
            self.flush().await?;
        }
    }

    /// Writes events as they come, until there will be no more.
    async fn stream(
        &mut self,
        found: Found,
        body: Vec<u8>,
        mut manner: Manner,
    ) -> Result<bool, Over> {
        let commands = if body.is_empty() {
            request::commands_before(&found, self.last_id + 1)
        } else {
            Err(Refusal::badarg(format!("GET {} takes no body", found.route.path)))
        };
        let commands = match commands {
            Ok(commands) => commands,
            Err(refusal) => return Ok(self.respond(&Response::refused(refusal), manner)),
        };
        drop((found, body));
        let size = if manner.is_new { Size::Chunks } else { Size::Close };
        if manner.is_head {
            let keep_alive = manner.keep_alive && !self.leaving;
            response::put_head(&mut self.out, &events::begins(), size, manner.is_new, keep_alive);
            return Ok(keep_alive);
        }
        // What was done so far goes with the session when the rest cannot be done.
        manner.keep_alive = false;
        let mut begins = Vec::new();
        for command in commands {
            self.last_id += 1;
            self.carry_out(&command).await?;
            begins = self.answer_frame().await?;
            let answer = in_buffer(&begins).next().ok_or(Over::Gone)?;
            if answer.ev != "ok" {
                let response = Response::of(answer, Gives::Events, false);
                return Ok(self.respond(&response, manner));
            }
        }
        response::put_head(&mut self.out, &events::begins(), size, manner.is_new, false);
        // The first event is the last answer, which says who hears the others.
        for seen in in_buffer(&begins) {
            self.piece(size, |piece| events::put(piece, seen));
        }
        drop(begins);
        self.carry_out(&request::push()).await?;
        let mut alive = Instant::now() + ALIVE_EVERY;
        loop {
            self.frames.clear();
            let taken = self.handle.take(&mut self.frames);
            if taken == Taken::Nothing {
                if self.wait(Some(alive)).await? {
                    self.piece(size, |piece| piece.extend_from_slice(events::ALIVE));
                    self.flush().await?;
                    alive = Instant::now() + ALIVE_EVERY;
                }
                continue;
            }
            let events = std::mem::take(&mut self.frames);
            for piece in events.pieces() {
                match piece {
                    Piece::Own(bytes) => {
                        for seen in in_buffer(bytes) {
                            self.piece(size, |piece| events::put(piece, seen));
                        }
                    }
                    Piece::Shared(shared) => {
                        let Ok(seen) = Seen::of(shared.frame()) else { continue };
                        let line = shared.line(json::frame_to_line);
                        self.piece(size, |piece| events::put_line(piece, seen.ev, line));
                    }
                }
            }
            self.frames = events;
            if taken == Taken::Last {
                response::put_end(&mut self.out, size);
                return Ok(false);
            }
            self.flush().await?;
            alive = Instant::now() + ALIVE_EVERY;
        }
    }

    /// The answer to the last command, whole.
    async fn answer_frame(&mut self) -> Result<Vec<u8>, Over> {
        loop {
            let last = self.events().await?;
            let id = Some(self.last_id);
            let mut seen = frames(&self.frames);
            if let Some(seen) = seen.find(|seen| seen.id == id && seen.ev != "part") {
                return Ok(seen.frame.to_vec());
            }
            if last {
                return Err(Over::Gone);
            }
        }
    }

    /// Puts a piece of a response that has begun behind what is to be written.
    fn piece(&mut self, size: Size, write: impl FnOnce(&mut Vec<u8>)) {
        let mut piece = Vec::new();
        write(&mut piece);
        response::put_piece(&mut self.out, &piece, size);
    }

    /// Puts a whole response behind what is to be written. Whether another request may follow.
    fn respond(&mut self, response: &Response, manner: Manner) -> bool {
        let keep_alive = manner.keep_alive && !self.leaving;
        response.put(&mut self.out, manner.is_head, manner.is_new, keep_alive);
        keep_alive
    }

    async fn flush(&mut self) -> Result<(), Over> {
        if !self.out.is_empty() {
            self.writer.write_all(&self.out).await?;
            self.out.clear();
            if self.out.capacity() > READ_BYTES {
                self.out = Vec::new();
            }
        }
        Ok(())
    }
}

/// The methods of a path.
fn options(head: &Head) -> Response {
    let allow = routes::allowed(&head.path);
    if allow.is_empty() {
        return Response::refused(routes::not_found(&head.path));
    }
    Response { allow: Some(allow), ..Response::done() }
}

/// The events that were taken.
fn frames(taken: &Frames) -> impl Iterator<Item = Seen<'_>> {
    taken.pieces().flat_map(|piece| match piece {
        Piece::Own(bytes) => in_buffer(bytes),
        Piece::Shared(shared) => in_buffer(shared.frame()),
    })
}

/// The events in a buffer of whole frames.
fn in_buffer(buffer: &[u8]) -> impl Iterator<Item = Seen<'_>> {
    let mut rest = buffer;
    std::iter::from_fn(move || {
        let length = rest.first_chunk::<4>()?;
        let (frame, behind) = rest.split_at_checked(4 + u32::from_be_bytes(*length) as usize)?;
        rest = behind;
        // Whatever we wrote ourselves is an event.
        Seen::of(frame).ok()
    })
}

/// Completes at that time, if there is one.
async fn arrival(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
