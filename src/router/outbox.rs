//! What leaves the router: one lane per session, one set of lanes per peer, and notes for the hub.
//!
//! The router writes finished frames in here while its state changes; the hub's tasks take whole buffers out and
//! write them to sockets. Effects leave in the order in which state changed because nothing else orders them.

use std::collections::VecDeque;

use super::hosting::HostRequest;
use super::nodes::MeshRequest;
use super::peers::PeerId;
use super::sessions::SessionId;
use super::shared::{Frames, SHARED_BYTES_MIN, Shared, Sum, Waiting};
use super::shelf::Shelf;
use super::{Map, SLICE};
use crate::wire::message::{self, FRAGMENT_BYTES, Kind, PARTIALS_MAX};

/// A lane that holds this much takes no more from mailboxes, in bytes.
pub const LANE_BYTES: usize = 64 * 1024;
/// The same while the apps of the node together leave too much unread.
pub const LANE_BYTES_UNREAD: usize = 4 * 1024;
/// A session with this many bytes unread is not read, in bytes.
pub const UNREAD_BYTES_MAX: usize = 1024 * 1024;

/// Bytes on their way to one app.
#[derive(Debug, Default)]
pub struct SessionLane {
    /// Finished CBOR event frames.
    pub frames: Frames,
    /// How many bytes of its own were taken last, and are being written for as long as nothing else is taken.
    pub writing: usize,
    /// How many frames were ever put here: what `resume` counts.
    pub count: u64,
    /// Nothing more will come: close once this is written.
    pub closing: bool,
    /// Its app reads lines of JSON, or something made of them.
    pub lines: bool,
    /// There is no connection: what is written is counted and lost, as the next connection will be told.
    pub detached: bool,
}

/// One sender's messages that are too long to travel in one piece, and what it said after them.
#[derive(Debug, Default)]
struct Bulk {
    serial: u64,
    frames: VecDeque<Long>,
    /// How much of the first frame has left.
    sent: usize,
}

/// A whole frame for a peer.
#[derive(Debug)]
enum Long {
    Own(Vec<u8>),
    Shared(Waiting),
}

impl Long {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(waiting) => waiting.shared().for_peers(),
        }
    }

    /// How many bytes are counted here.
    fn own_len(&self) -> usize {
        match self {
            Self::Own(bytes) => bytes.len(),
            Self::Shared(_) => 0,
        }
    }
}

/// Bytes on their way to one peer.
#[derive(Debug, Default)]
pub struct PeerLane {
    /// Beats, holds and goodbyes.
    urgent: Vec<u8>,
    /// All else, in order.
    fifo: Vec<u8>,
    /// Senders with a long message under way. At most [`PARTIALS_MAX`] of them move at a time.
    bulks: VecDeque<Bulk>,
    bulk_bytes: usize,
    /// Of them, those of frames that others have too.
    bulk_shared: usize,
}

impl PeerLane {
    /// How many bytes wait here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.urgent.len() + self.fifo.len() + self.bulk_bytes
    }

    /// How many of them are in no other lane or mailbox.
    fn own_len(&self) -> usize {
        self.len() - self.bulk_shared
    }

    /// Whether nothing waits here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts a frame behind what its sender said before, or begins with it.
    fn push_long(&mut self, serial: u64, frame: Long) {
        self.bulk_bytes += frame.bytes().len();
        self.bulk_shared += frame.bytes().len() - frame.own_len();
        match self.bulks.iter_mut().find(|bulk| bulk.serial == serial) {
            Some(bulk) => bulk.frames.push_back(frame),
            None => {
                self.bulks.push_back(Bulk { serial, frames: VecDeque::from([frame]), sent: 0 });
            }
        }
    }

    /// Takes about `FRAGMENT_BYTES` of everything that waits.
    fn take(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.urgent);
        if out.is_empty() {
            std::mem::swap(out, &mut self.fifo);
        } else {
            out.append(&mut self.fifo);
        }
        let mut turns = self.bulks.len().min(PARTIALS_MAX);
        let mut at = 0;
        while turns > 0 {
            turns -= 1;
            if self.bulks[at].fragment(out, &mut self.bulk_bytes, &mut self.bulk_shared) {
                at += 1;
            } else {
                self.bulks.remove(at);
            }
        }
    }
}

impl Bulk {
    /// Moves one fragment, or the short frames behind a finished long one. False when nothing is left.
    fn fragment(
        &mut self,
        out: &mut Vec<u8>,
        bulk_bytes: &mut usize,
        bulk_shared: &mut usize,
    ) -> bool {
        let Some(long) = self.frames.front() else { return false };
        let (frame, is_shared) = (long.bytes(), matches!(long, Long::Shared(_)));
        if self.sent > 0 || frame.len() > FRAGMENT_BYTES {
            let first = self.sent == 0;
            let end = frame.len().min(self.sent + FRAGMENT_BYTES);
            let last = end == frame.len();
            let flags = if first { message::FRAGMENT_FIRST } else { 0 }
                | if last { message::FRAGMENT_LAST } else { 0 };
            let at = message::start(out, Kind::Fragment, flags, self.serial);
            if first {
                out.extend_from_slice(
                    &u32::try_from(frame.len()).unwrap_or(u32::MAX).to_be_bytes(),
                );
            }
            out.extend_from_slice(&frame[self.sent..end]);
            message::finish(out, at);
            *bulk_bytes -= end - self.sent;
            *bulk_shared -= if is_shared { end - self.sent } else { 0 };
            self.sent = end;
            if !last {
                return true;
            }
            self.sent = 0;
            self.frames.pop_front();
        }
        while self.frames.front().is_some_and(|frame| frame.bytes().len() <= FRAGMENT_BYTES)
            && let Some(frame) = self.frames.pop_front()
        {
            *bulk_bytes -= frame.bytes().len();
            *bulk_shared -= frame.bytes().len() - frame.own_len();
            out.extend_from_slice(frame.bytes());
        }
        !self.frames.is_empty()
    }
}

/// Where the router's effects go.
#[derive(Debug, Default)]
pub struct Outbox {
    sessions: Map<SessionId, SessionLane>,
    peers: Map<PeerId, PeerLane>,
    /// Sessions with something to write or to close, each once per batch or so.
    pub dirty_sessions: Vec<SessionId>,
    /// Sessions that are over for good.
    pub gone: Vec<SessionId>,
    /// Peers with something to write.
    pub dirty_peers: Vec<PeerId>,
    /// Sessions that may be read again.
    pub resumed: Vec<SessionId>,
    /// Peers that may be read: all that was before them has been told.
    pub peers_clear: Vec<PeerId>,
    /// Peers that may be read again: what they published has been delivered.
    pub peers_on: Vec<PeerId>,
    /// Every peer has heard that the node leaves, as far as peers hear.
    pub settled: bool,
    /// Peers whose nodeup has been told.
    pub peers_up: Vec<PeerId>,
    /// What apps asked of the mesh.
    pub requests: VecDeque<MeshRequest>,
    /// What is to be done with programs.
    pub hosting: VecDeque<HostRequest>,
    /// Nothing is hosted any more.
    pub unhosted: bool,
    /// A connection that took up an earlier session: (the one it opened, the one it goes on with).
    pub rebound: Option<(SessionId, SessionId)>,
    /// Where lanes and mailboxes that are empty leave their buffers.
    pub shelf: Shelf,
    /// What mailboxes and lanes have together.
    pub shared: Sum,
    /// Frames for peers that were ever put here.
    pub peer_frames: u64,
    queued: usize,
    /// Of them, bytes in the lanes of sessions.
    lanes: usize,
    /// How many sessions read lines.
    line_sessions: usize,
    /// Bytes that sessions have taken and not yet written.
    writing: usize,
    /// Entries that this hold of the lock has handled.
    handled: usize,
    /// What they wrote and delivered, to check that they were counted.
    #[cfg(test)]
    pub(super) touched: usize,
}

impl Outbox {
    /// The lock is taken: a new hold has handled nothing yet.
    pub fn begin(&mut self) {
        self.handled = 0;
        #[cfg(test)]
        {
            self.touched = 0;
        }
    }

    /// Whether something with so many entries had better wait for the next hold: they are too many for the rest of this
    /// one, and not for that.
    #[must_use]
    pub fn put_off(&self, entries: usize) -> bool {
        entries > self.left() && entries <= SLICE / 2
    }

    /// This hold has handled so many entries more.
    pub fn count(&mut self, entries: usize) {
        self.handled += entries;
    }

    /// Whether this hold may handle another entry; what is left goes on in the next.
    #[must_use]
    pub fn may_go_on(&self) -> bool {
        self.handled < SLICE
    }

    /// How many entries this hold may still handle.
    #[must_use]
    pub fn left(&self) -> usize {
        SLICE.saturating_sub(self.handled)
    }

    /// How many entries this hold has handled.
    #[cfg(test)]
    pub(super) fn handled(&self) -> usize {
        self.handled
    }

    /// Bytes in all lanes, and in all that mailboxes have together with them or with each other.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued + self.shared.bytes()
    }

    /// Bytes that wait for apps, in all lanes of sessions.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.lanes + self.shared.unread()
    }

    /// Bytes that apps have not read: those that wait for them, and those that are being written.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.lanes() + self.writing
    }

    /// Opens the lane of a session.
    pub fn open_session(&mut self, session: SessionId) {
        self.sessions.entry(session).or_default().detached = false;
    }

    /// Whether the app of a session reads lines of JSON, or something made of them.
    #[must_use]
    pub fn reads_lines(&self, session: SessionId) -> bool {
        self.sessions.get(&session).is_some_and(|lane| lane.lines)
    }

    /// Says so.
    pub fn set_reads_lines(&mut self, session: SessionId, lines: bool) {
        if let Some(lane) = self.sessions.get_mut(&session) {
            let before = std::mem::replace(&mut lane.lines, lines);
            self.line_sessions = self.line_sessions + usize::from(lines) - usize::from(before);
        }
    }

    /// Whether an event of so many bytes that several get had better be one piece of memory.
    #[must_use]
    pub fn shares(&self, bytes: usize) -> bool {
        bytes >= SHARED_BYTES_MIN || self.line_sessions > 1
    }

    /// The connection of a session is gone, and the session waits for another one.
    pub fn detach_session(&mut self, session: SessionId) {
        self.reset_session(session);
        if let Some(lane) = self.sessions.get_mut(&session) {
            lane.detached = true;
        }
    }

    /// Forgets the lane of a session.
    pub fn forget_session(&mut self, session: SessionId) {
        if let Some(lane) = self.sessions.remove(&session) {
            self.queued -= lane.frames.own_len();
            self.lanes -= lane.frames.own_len();
            self.writing -= lane.writing;
            self.line_sessions -= usize::from(lane.lines);
            self.gone.push(session);
        }
    }

    /// Loses what waits in the lane of a session, and opens it again.
    pub fn reset_session(&mut self, session: SessionId) {
        if let Some(lane) = self.sessions.get_mut(&session) {
            self.queued -= lane.frames.own_len();
            self.lanes -= lane.frames.own_len();
            self.writing -= std::mem::take(&mut lane.writing);
            lane.frames = Frames::default();
            lane.closing = false;
        }
    }

    /// The lane will be closed once it is written.
    pub fn close_session(&mut self, session: SessionId) {
        if let Some(lane) = self.sessions.get_mut(&session) {
            lane.closing = true;
            self.dirty_sessions.push(session);
        }
    }

    /// How many bytes wait for the app of a session.
    #[must_use]
    pub fn session_len(&self, session: SessionId) -> usize {
        self.sessions.get(&session).map_or(0, |lane| lane.frames.len())
    }

    /// How many of them others have too.
    #[must_use]
    pub fn session_shared_len(&self, session: SessionId) -> usize {
        self.sessions.get(&session).map_or(0, |lane| lane.frames.len() - lane.frames.own_len())
    }

    /// How many frames were ever put into the lane of a session.
    #[must_use]
    pub fn session_frames(&self, session: SessionId) -> u64 {
        self.sessions.get(&session).map_or(0, |lane| lane.count)
    }

    /// Goes on counting from here.
    pub fn count_session_frames(&mut self, session: SessionId, frames: u64) {
        if let Some(lane) = self.sessions.get_mut(&session) {
            lane.count = frames;
        }
    }

    /// Writes `frames` frames to a session; the closure gets the lane's buffer.
    pub fn write_session(
        &mut self,
        session: SessionId,
        frames: u64,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let Some(lane) = self.sessions.get_mut(&session) else { return };
        if lane.detached {
            lane.count += frames;
            return;
        }
        if lane.frames.is_empty() {
            self.dirty_sessions.push(session);
        }
        let bytes = lane.frames.buffer();
        let before = bytes.len();
        if bytes.capacity() == 0 {
            *bytes = self.shelf.take();
        }
        write(bytes);
        lane.count += frames;
        self.queued += bytes.len() - before;
        self.lanes += bytes.len() - before;
    }

    /// Writes one frame that others get too to a session.
    pub fn share_session(&mut self, session: SessionId, shared: Shared) {
        let behind = self.sessions.get(&session).map_or(0, |lane| lane.frames.own_len());
        self.share_session_behind(session, behind, shared);
    }

    /// The same behind so many of the bytes that are the session's own, which are not fewer than the last time.
    pub fn share_session_behind(&mut self, session: SessionId, behind: usize, shared: Shared) {
        let Some(lane) = self.sessions.get_mut(&session) else { return };
        lane.count += 1;
        if lane.detached {
            return;
        }
        if lane.frames.is_empty() {
            self.dirty_sessions.push(session);
        }
        lane.frames.share(behind, shared);
    }

    /// Lets whole frames be all that waits in the lane of a session, which must be empty; gives back its buffer.
    pub fn give_session(&mut self, session: SessionId, frames: Vec<u8>) -> Vec<u8> {
        let Some(lane) = self.sessions.get_mut(&session) else { return Vec::new() };
        debug_assert!(lane.frames.is_empty());
        self.queued += frames.len();
        self.lanes += frames.len();
        self.dirty_sessions.push(session);
        std::mem::replace(lane.frames.buffer(), frames)
    }

    /// Writes one frame to a session in whose lane less than `limit` waits. False when it was not written.
    pub fn write_session_within(
        &mut self,
        session: SessionId,
        limit: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        let Some(lane) = self.sessions.get_mut(&session) else { return true };
        if lane.frames.len() >= limit {
            return false;
        }
        if lane.frames.is_empty() {
            self.dirty_sessions.push(session);
        }
        let bytes = lane.frames.buffer();
        let before = bytes.len();
        if bytes.capacity() == 0 {
            *bytes = self.shelf.take();
        }
        write(bytes);
        lane.count += 1;
        self.queued += bytes.len() - before;
        self.lanes += bytes.len() - before;
        true
    }

    /// Takes what waits for an app, leaving `out`'s (empty) buffer in its place; when there is nothing, large buffers
    /// of both go on the shelf. True when the lane is to be
    /// closed after this.
    pub fn take_session(&mut self, session: SessionId, out: &mut Frames) -> bool {
        debug_assert!(out.is_empty());
        let Some(lane) = self.sessions.get_mut(&session) else { return true };
        self.writing -= std::mem::take(&mut lane.writing);
        if lane.frames.is_empty() {
            lane.frames.rest(&mut self.shelf);
            out.rest(&mut self.shelf);
            return lane.closing;
        }
        std::mem::swap(&mut lane.frames, out);
        self.queued -= out.own_len();
        self.lanes -= out.own_len();
        lane.writing = out.own_len();
        self.writing += out.own_len();
        lane.closing
    }

    /// Opens the lanes of a peer.
    pub fn open_peer(&mut self, peer: PeerId) {
        self.peers.entry(peer).or_default();
    }

    /// Forgets the lanes of a peer.
    pub fn forget_peer(&mut self, peer: PeerId) {
        if let Some(lane) = self.peers.remove(&peer) {
            self.queued -= lane.own_len();
        }
    }

    /// How many bytes wait for a peer.
    #[must_use]
    pub fn peer_len(&self, peer: PeerId) -> usize {
        self.peers.get(&peer).map_or(0, PeerLane::len)
    }

    /// Writes one frame of process `serial` to a peer, behind what that process said before. The closure writes
    /// a whole frame; `size` is about how long it will be.
    pub fn write_peer(
        &mut self,
        peer: PeerId,
        serial: u64,
        size: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        #[cfg(test)]
        {
            self.touched += 1;
        }
        let Some(lane) = self.peers.get_mut(&peer) else { return };
        self.peer_frames += 1;
        let before = lane.len();
        if size > FRAGMENT_BYTES || lane.bulks.iter().any(|bulk| bulk.serial == serial) {
            let mut frame = Vec::with_capacity(size);
            write(&mut frame);
            lane.push_long(serial, Long::Own(frame));
        } else {
            if lane.fifo.capacity() == 0 {
                lane.fifo = self.shelf.take();
            }
            write(&mut lane.fifo);
        }
        self.queued += lane.len() - before;
        if before == 0 {
            self.dirty_peers.push(peer);
        }
    }

    /// Writes one frame that others get too as [`Outbox::write_peer`] does.
    pub fn share_peer(&mut self, peer: PeerId, serial: u64, shared: &Shared) {
        let bytes = shared.for_peers();
        if bytes.len() <= FRAGMENT_BYTES {
            self.write_peer(peer, serial, bytes.len(), |out| out.extend_from_slice(bytes));
            return;
        }
        #[cfg(test)]
        {
            self.touched += 1;
        }
        let Some(lane) = self.peers.get_mut(&peer) else { return };
        self.peer_frames += 1;
        if lane.is_empty() {
            self.dirty_peers.push(peer);
        }
        lane.push_long(serial, Long::Shared(shared.clone().into()));
    }

    /// Writes one short frame as [`Outbox::write_peer`] does, but only where less than `limit` waits and nothing long is
    /// under way. False when it was not written.
    pub fn write_peer_within(
        &mut self,
        peer: PeerId,
        size: usize,
        limit: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        let Some(lane) = self.peers.get_mut(&peer) else { return false };
        let before = lane.len();
        if before >= limit || size > FRAGMENT_BYTES || !lane.bulks.is_empty() {
            return false;
        }
        let start = lane.fifo.len();
        if lane.fifo.capacity() == 0 {
            lane.fifo = self.shelf.take();
        }
        self.peer_frames += 1;
        write(&mut lane.fifo);
        self.queued += lane.fifo.len() - start;
        if before == 0 {
            self.dirty_peers.push(peer);
        }
        true
    }

    /// Writes one frame ahead of everything else.
    pub fn write_urgent(&mut self, peer: PeerId, frame: &[u8]) {
        #[cfg(test)]
        {
            self.touched += 1;
        }
        let Some(lane) = self.peers.get_mut(&peer) else { return };
        self.peer_frames += 1;
        if lane.is_empty() {
            self.dirty_peers.push(peer);
        }
        lane.urgent.extend_from_slice(frame);
        self.queued += frame.len();
    }

    /// Takes what waits for a peer: the urgent lane, the rest in order, a fragment of each long message.
    /// False when there was nothing.
    pub fn take_peer(&mut self, peer: PeerId, out: &mut Vec<u8>) -> bool {
        let Some(lane) = self.peers.get_mut(&peer) else { return false };
        if lane.is_empty() {
            self.shelf.put(&mut lane.fifo);
            return false;
        }
        let before = lane.own_len();
        lane.take(out);
        self.queued -= before - lane.own_len();
        true
    }
}
