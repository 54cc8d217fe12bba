//! One process's events in arrival order, as finished frames laid end to end.
//!
//! Frames lie in chunks, not in an allocation each: a mailbox that is written and read at a million messages per
//! second must not visit the allocator that often, and an empty one must cost nothing. An event that other mailboxes have
//! too is a chunk of its own, which belongs to all of them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::few::Few;
use super::shared::{Kept, Shared};
use super::shelf::Shelf;
use crate::wire::command::Overflow;

const FIRST_CHUNK_BYTES: usize = 1024;
const CHUNK_BYTES: usize = 64 * 1024;
/// Most emptied chunks that a mailbox keeps while it is not empty: the system takes a page fault for each 4 KiB anew.
const SPARE_CHUNKS_MAX: usize = 16;

/// Entries that were taken back and may stand in line, when less than that is left.
const REMOVED_MAX: usize = 1024;

/// What an entry is, for those who look for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// `message`: counted against the bounds, shed when they are reached.
    Message,
    /// The same, because of a subscription to this topic.
    Topic(u32),
    /// The same, as a member of this queue group.
    Queue(u32),
    /// `call` with this ref: counted against the bounds, never shed.
    Call(u64),
    /// `cancel`.
    Cancel,
    /// `down` of this monitor.
    Down(u64),
    /// `group` of this monitor.
    Group(u64),
    /// `presence` of this monitor.
    Presence(u64),
    /// `name_conflict`.
    Name,
    /// `exit`.
    Exit,
    /// `nodeup` and `nodedown`.
    Node,
    /// This many messages were lost here, because of the mailbox's bounds.
    Gap(u64),
    /// Taken back after it had arrived.
    Removed,
}

impl Tag {
    /// Whether it is counted against the bounds of mailboxes and windows.
    #[must_use]
    pub fn is_counted(self) -> bool {
        self.is_message() || matches!(self, Self::Call(_))
    }

    /// Whether it may be shed.
    #[must_use]
    pub fn is_message(self) -> bool {
        matches!(self, Self::Message | Self::Topic(_) | Self::Queue(_))
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    bytes: u32,
    /// It is a chunk of its own.
    shared: bool,
    tag: Tag,
}

/// Events that lie together.
#[derive(Debug)]
enum Chunk {
    /// This mailbox's own, end to end.
    Own(Vec<u8>),
    /// One that others have too.
    Shared(Kept),
    /// What was one of those, and so many bytes long.
    Gone(usize),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(kept) => kept.shared().frame(),
            Self::Gone(_) => &[],
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Gone(bytes) => *bytes,
            chunk => chunk.bytes().len(),
        }
    }

    fn own(&mut self) -> Option<&mut Vec<u8>> {
        match self {
            Self::Own(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Lets go of what others have too.
    fn give_up(&mut self) {
        if let Self::Shared(_) = self {
            *self = Self::Gone(self.len());
        }
    }
}

/// The bounds of a mailbox and what happens beyond them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Most messages.
    pub entries: usize,
    /// Most bytes of messages.
    pub bytes: usize,
    /// What happens beyond them.
    pub policy: Overflow,
}

/// An entry whose wait is measured.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// How many entries will have left when it has.
    at: u64,
    since: Instant,
}

/// One process's events in arrival order.
#[derive(Debug, Default)]
pub struct Mailbox {
    chunks: VecDeque<Chunk>,
    /// Empty ones, for the next events.
    spare: Few<Vec<Vec<u8>>>,
    /// How much of the first chunk has left: none is longer than the longest frame by much.
    head: u32,
    entries: VecDeque<Entry>,
    messages: u32,
    signals: u32,
    bytes: usize,
    /// Of them, those of signals.
    signal_bytes: usize,
    /// Bytes of calls, which are counted against the bounds and never shed.
    call_bytes: usize,
    /// Bytes in the chunks that belong to nothing any more.
    dead: usize,
    /// How many entries have left, and how many had before the one that was shed last.
    popped: u64,
    shed: u64,
    /// Entries that were taken back and still stand in line.
    removed: u32,
    /// One of those that wait, boxed because most mailboxes are empty.
    mark: Option<Box<Mark>>,
}

impl Mailbox {
    /// How many messages, casts and calls wait.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.messages as usize
    }

    /// How many other events wait.
    #[must_use]
    pub fn signals(&self) -> usize {
        self.signals as usize
    }

    /// How many bytes those other events take.
    #[must_use]
    pub fn signal_bytes(&self) -> usize {
        self.signal_bytes
    }

    /// How many bytes all of them take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many bytes it keeps in memory.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        let capacity = |chunk: &Chunk| match chunk {
            Chunk::Own(bytes) => bytes.capacity(),
            _ => 0,
        };
        self.chunks.iter().map(capacity).sum::<usize>()
            + self.entries.capacity() * size_of::<Entry>()
    }

    /// How many entries stand in line, those that were taken back included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many bytes of calls wait.
    #[must_use]
    pub fn call_bytes(&self) -> usize {
        self.call_bytes
    }

    /// Measures how long the last entry waits, unless another one is measured: one at a time costs next to nothing, and each that
    /// has gone is followed by the next that comes.
    pub fn measure(&mut self, now: Instant) {
        if self.mark.is_none() {
            let at = self.popped + self.entries.len() as u64;
            self.mark = Some(Box::new(Mark { at, since: now }));
        }
    }

    /// How long the entry that is measured has waited, once it has left.
    #[must_use]
    pub fn measured(&mut self, now: Instant) -> Option<Duration> {
        let mark = *self.mark.as_deref().filter(|mark| mark.at <= self.popped)?;
        self.mark = None;
        Some(now.saturating_duration_since(mark.since))
    }

    fn head(&self) -> usize {
        self.head as usize
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages == 0 && self.signals == 0
    }

    /// Whether another message of `size` bytes is within the bounds. One always is.
    #[must_use]
    pub fn has_room(&self, bounds: &Bounds, size: usize) -> bool {
        self.messages == 0
            || (self.messages() < bounds.entries && self.bytes + size <= bounds.bytes)
    }

    /// Whether it is at most half full.
    #[must_use]
    pub fn is_half_empty(&self, bounds: &Bounds) -> bool {
        self.messages() <= bounds.entries / 2 && self.bytes <= bounds.bytes / 2
    }

    /// Puts an event last; the closure appends one whole frame of at most about `size` bytes.
    pub fn push(
        &mut self,
        tag: Tag,
        size: usize,
        shelf: &mut Shelf,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let room =
            |chunk: &mut Chunk| chunk.own().is_some_and(|own| own.capacity() - own.len() >= size);
        if !self.chunks.back_mut().is_some_and(room) {
            let first = self.chunks.is_empty();
            self.drop_empty();
            let mut chunk = match self.spare.pop() {
                Some(chunk) => chunk,
                None if first => Vec::new(),
                None => shelf.take(),
            };
            if chunk.capacity() < size.max(if first { FIRST_CHUNK_BYTES } else { CHUNK_BYTES / 2 })
            {
                chunk = Vec::with_capacity(size.max(if first {
                    FIRST_CHUNK_BYTES
                } else {
                    CHUNK_BYTES
                }));
            }
            self.chunks.push_back(Chunk::Own(chunk));
        }
        let Some(chunk) = self.chunks.back_mut().and_then(Chunk::own) else { return };
        let before = chunk.len();
        write(chunk);
        let bytes = chunk.len() - before;
        self.pushed(tag, bytes, false);
    }

    /// Puts an event last that other mailboxes get too.
    pub fn push_shared(&mut self, tag: Tag, shared: Shared) {
        self.drop_empty();
        let bytes = shared.frame().len();
        self.chunks.push_back(Chunk::Shared(shared.into()));
        self.pushed(tag, bytes, true);
    }

    fn pushed(&mut self, tag: Tag, bytes: usize, shared: bool) {
        self.bytes += bytes;
        self.account(tag, bytes.cast_signed());
        self.count(tag, 1);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.entries.push_back(Entry { bytes, shared, tag });
    }

    /// A chunk without entries is replaced: the first chunk always holds the first entry.
    fn drop_empty(&mut self) {
        if self.chunks.back().is_some_and(|chunk| chunk.len() == 0)
            && let Some(Chunk::Own(chunk)) = self.chunks.pop_back()
        {
            self.keep(chunk);
        }
    }

    /// Notes that a message was lost after the last event here.
    pub fn push_gap(&mut self) {
        match self.entries.back_mut() {
            Some(Entry { tag: Tag::Gap(lost), .. }) => *lost += 1,
            _ => {
                self.entries.push_back(Entry { bytes: 0, shared: false, tag: Tag::Gap(1) });
                self.signals += 1;
            }
        }
    }

    /// Keeps the books of what cannot be shed.
    fn account(&mut self, tag: Tag, bytes: isize) {
        let kept = match tag {
            Tag::Message | Tag::Topic(_) | Tag::Queue(_) => return,
            Tag::Call(_) => &mut self.call_bytes,
            _ => &mut self.signal_bytes,
        };
        *kept = kept.saturating_add_signed(bytes);
    }

    fn count(&mut self, tag: Tag, by: i32) {
        let counter = match tag {
            Tag::Removed => return,
            tag if tag.is_counted() => &mut self.messages,
            _ => &mut self.signals,
        };
        *counter = counter.saturating_add_signed(by);
    }

    /// The first event: its tag and its frame (empty for a gap).
    #[must_use]
    pub fn front(&mut self) -> Option<(Tag, &[u8])> {
        while let Some(Entry { tag: Tag::Removed, .. }) = self.entries.front() {
            self.pop();
        }
        let entry = self.entries.front()?;
        if let Tag::Gap(_) = entry.tag {
            return Some((entry.tag, &[]));
        }
        let (from, to) = (self.head(), self.head() + entry.bytes as usize);
        let frame = self.chunks.front().and_then(|chunk| chunk.bytes().get(from..to));
        Some((entry.tag, frame.unwrap_or_default()))
    }

    /// The first event, if it is one that others have too.
    #[must_use]
    pub fn front_shared(&self) -> Option<&Shared> {
        match (self.entries.front()?.tag, self.chunks.front()?) {
            (Tag::Gap(_) | Tag::Removed, _) => None,
            (_, Chunk::Shared(kept)) => Some(kept.shared()),
            _ => None,
        }
    }

    /// Takes the first event away.
    pub fn pop(&mut self) {
        let Some(entry) = self.entries.pop_front() else { return };
        self.popped += 1;
        self.count(entry.tag, -1);
        match entry.tag {
            Tag::Gap(_) => self.dead -= entry.bytes as usize,
            Tag::Removed => {
                self.dead -= entry.bytes as usize;
                self.removed -= 1;
            }
            tag => {
                self.bytes -= entry.bytes as usize;
                self.account(tag, -(entry.bytes as usize).cast_signed());
            }
        }
        self.leave(entry.bytes as usize);
    }

    /// Whether the first event is the first of its chunk.
    #[must_use]
    pub fn is_between_chunks(&self) -> bool {
        self.head == 0
    }

    /// Takes the first chunk away as it is, if it is at least that long, nothing of it has left and all of it are
    /// messages: their frames end to end, and how many there are.
    pub fn take_chunk(&mut self, bytes_min: usize) -> Option<(Vec<u8>, u64)> {
        let Chunk::Own(chunk) = self.chunks.front()? else { return None };
        if self.head > 0 || chunk.len() < bytes_min {
            return None;
        }
        let (mut bytes, mut count) = (0, 0);
        while bytes < chunk.len() {
            let entry = self.entries.get(count).filter(|entry| entry.tag.is_message())?;
            bytes += entry.bytes as usize;
            count += 1;
        }
        self.gone(count, bytes);
        match self.chunks.pop_front() {
            Some(Chunk::Own(chunk)) => Some((chunk, count as u64)),
            _ => None,
        }
    }

    /// Moves the messages at the front of the first chunk as one piece, until about so many bytes have moved. How many:
    /// none where the first event is not a message, or is one that others have too.
    pub fn take_run(&mut self, bytes_max: usize, out: &mut Vec<u8>) -> u64 {
        let Some(Chunk::Own(chunk)) = self.chunks.front() else { return 0 };
        let (mut bytes, mut count) = (0, 0);
        let head = self.head();
        let left = chunk.len() - head;
        while let Some(entry) = self.entries.get(count).filter(|entry| entry.tag.is_message())
            && bytes < left.min(bytes_max)
        {
            bytes += entry.bytes as usize;
            count += 1;
        }
        out.extend_from_slice(chunk.get(head..head + bytes).unwrap_or_default());
        self.gone(count, bytes);
        self.leave(bytes);
        count as u64
    }

    /// So many messages have left the front.
    fn gone(&mut self, count: usize, bytes: usize) {
        self.entries.drain(..count);
        self.popped += count as u64;
        self.messages = self.messages.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
        self.bytes -= bytes;
    }

    /// Takes an empty buffer over, for the next events.
    pub fn keep(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() >= CHUNK_BYTES / 2 && self.spare.len() < SPARE_CHUNKS_MAX {
            self.spare.push(buffer);
        }
    }

    fn leave(&mut self, bytes: usize) {
        self.head = u32::try_from(self.head() + bytes).unwrap_or(u32::MAX);
        while self.chunks.front().is_some_and(|chunk| chunk.len() <= self.head()) {
            // An entry lies in one chunk, so the head never passes its end.
            self.head = 0;
            if let [Chunk::Own(chunk)] = self.chunks.make_contiguous()
                && chunk.capacity() <= CHUNK_BYTES
            {
                chunk.clear();
                break;
            }
            if let Some(Chunk::Own(mut chunk)) = self.chunks.pop_front() {
                chunk.clear();
                self.keep(chunk);
            }
        }
    }

    /// Gives the memory of an empty mailbox back.
    pub fn rest(&mut self, shelf: &mut Shelf) {
        if self.is_empty() && self.entries.is_empty() {
            for chunk in self.chunks.drain(..) {
                if let Chunk::Own(mut chunk) = chunk {
                    shelf.put(&mut chunk);
                }
            }
            for mut chunk in self.spare.take() {
                shelf.put(&mut chunk);
            }
            self.chunks = VecDeque::new();
            self.entries = VecDeque::new();
            self.head = 0;
        }
    }

    /// Loses the oldest message and leaves a gap in its place. False when there is none.
    pub fn shed_oldest(&mut self) -> bool {
        // Messages only ever come last: before the one that was shed last there is none.
        let from = usize::try_from(self.shed.saturating_sub(self.popped)).unwrap_or(0);
        let from = from.min(self.entries.len());
        let found = self.entries.range(from..).position(|entry| entry.tag.is_message());
        let Some(at) = found.map(|at| from + at) else { return false };
        self.shed = self.popped + at as u64;
        self.gap_at(at, from);
        self.merge_front();
        self.tidy();
        true
    }

    /// Loses the newest message and leaves a gap in its place. False when there is none.
    pub fn shed_newest(&mut self) -> bool {
        let Some(at) = self.entries.iter().rposition(|entry| entry.tag.is_message()) else {
            return false;
        };
        if at + 1 == self.entries.len()
            && let (Some(entry), Some(chunk)) = (self.entries.pop_back(), self.chunks.back_mut())
        {
            let bytes = entry.bytes as usize;
            let empty = chunk.own().is_none_or(|chunk| {
                chunk.truncate(chunk.len() - bytes);
                chunk.is_empty()
            });
            self.messages -= 1;
            self.bytes -= bytes;
            if empty && (entry.shared || self.chunks.len() > 1) {
                self.chunks.pop_back();
            }
            self.push_gap();
            if self.bytes == 0 && self.dead == 0 {
                // Nothing but gaps is left, which may stand here for ever.
                self.chunks = VecDeque::new();
                self.spare = Few::default();
                self.head = 0;
            }
        } else {
            self.gap_at(at, 0);
            self.tidy();
        }
        true
    }

    /// The bytes stay where they are until their turn comes; they count no longer.
    fn gap_at(&mut self, at: usize, from: usize) {
        if self.entries[at].shared {
            // The events that are chunks of their own come in the order of those chunks.
            let place = self.entries.range(..at).filter(|entry| entry.shared).count();
            let mut shared = self.chunks.iter_mut().filter(|chunk| !matches!(chunk, Chunk::Own(_)));
            if let Some(chunk) = shared.nth(place) {
                chunk.give_up();
            }
        }
        self.messages -= 1;
        self.bytes -= self.entries[at].bytes as usize;
        self.dead += self.entries[at].bytes as usize;
        // What was taken back stands between nothing. The gap moves on, so that it is found at once the next time.
        let before = self.entries.range_mut(from..at).rev().find(|entry| entry.tag != Tag::Removed);
        if let Some(entry) = before
            && let Tag::Gap(lost) = entry.tag
        {
            entry.tag = Tag::Removed;
            self.removed += 1;
            self.entries[at].tag = Tag::Gap(lost + 1);
        } else {
            self.entries[at].tag = Tag::Gap(1);
            self.signals += 1;
        }
    }

    /// Gives back what belongs to nothing, once it is more than what is left: something that nobody takes may stand
    /// before it for ever.
    fn tidy(&mut self) {
        let live = self.entries.len() - self.removed as usize;
        if self.dead <= CHUNK_BYTES.max(self.bytes)
            && self.removed as usize <= REMOVED_MAX.max(live)
        {
            return;
        }
        let old = std::mem::take(self);
        let mut shelf = Shelf::default();
        let (mut chunk, mut at) = (0, old.head());
        for entry in &old.entries {
            let bytes = entry.bytes as usize;
            while bytes > 0 && old.chunks.get(chunk).is_some_and(|chunk| chunk.len() <= at) {
                chunk += 1;
                at = 0;
            }
            match entry.tag {
                Tag::Removed => {}
                Tag::Gap(lost) => {
                    if let Some(Entry { tag: Tag::Gap(before), .. }) = self.entries.back_mut() {
                        *before += lost;
                    } else {
                        self.entries.push_back(Entry { bytes: 0, shared: false, tag: entry.tag });
                        self.signals += 1;
                    }
                }
                tag => {
                    let frame = match old.chunks.get(chunk) {
                        Some(Chunk::Shared(kept)) => {
                            self.push_shared(tag, kept.shared().clone());
                            at += bytes;
                            continue;
                        }
                        chunk => chunk.and_then(|chunk| chunk.bytes().get(at..at + bytes)),
                    };
                    let frame = frame.unwrap_or_default();
                    self.push(tag, frame.len(), &mut shelf, |out| out.extend_from_slice(frame));
                }
            }
            at += bytes;
        }
    }

    /// Makes leading gaps one gap and gives their bytes back: `drop_oldest` sheds at the front for ever.
    fn merge_front(&mut self) {
        let mut lost = 0;
        while let Some(&Entry { tag: tag @ (Tag::Gap(_) | Tag::Removed), .. }) =
            self.entries.front()
        {
            if let Tag::Gap(more) = tag {
                lost += more;
            }
            self.pop();
        }
        if lost > 0 {
            self.entries.push_front(Entry { bytes: 0, shared: false, tag: Tag::Gap(lost) });
            self.popped -= 1;
            self.signals += 1;
        }
    }

    /// Takes back every event for which `unwanted` says so. How many there were.
    pub fn remove(&mut self, mut unwanted: impl FnMut(Tag, &[u8]) -> bool) -> usize {
        let mut removed = 0_u32;
        let (mut chunk, mut at) = (0, self.head());
        for entry in &mut self.entries {
            let bytes = entry.bytes as usize;
            while bytes > 0 && self.chunks.get(chunk).is_some_and(|chunk| chunk.len() <= at) {
                chunk += 1;
                at = 0;
            }
            let frame = self
                .chunks
                .get(chunk)
                .and_then(|chunk| chunk.bytes().get(at..at + bytes))
                .unwrap_or_default();
            at += bytes;
            if entry.tag != Tag::Removed && unwanted(entry.tag, frame) {
                if entry.tag.is_counted() {
                    self.messages -= 1;
                } else {
                    self.signals -= 1;
                }
                if !matches!(entry.tag, Tag::Gap(_)) {
                    self.bytes -= bytes;
                    self.dead += bytes;
                    match entry.tag {
                        Tag::Message | Tag::Topic(_) | Tag::Queue(_) => {}
                        Tag::Call(_) => self.call_bytes -= bytes,
                        _ => self.signal_bytes -= bytes,
                    }
                }
                entry.tag = Tag::Removed;
                removed += 1;
                if entry.shared
                    && let Some(chunk) = self.chunks.get_mut(chunk)
                {
                    chunk.give_up();
                }
            }
        }
        self.removed += removed;
        self.tidy();
        removed as usize
    }

    /// Shows every event in order, without taking any. Gaps have an empty frame.
    pub fn peek(&self, mut show: impl FnMut(Tag, &[u8]) -> bool) {
        let (mut chunk, mut at) = (0, self.head());
        for entry in &self.entries {
            let bytes = entry.bytes as usize;
            while bytes > 0 && self.chunks.get(chunk).is_some_and(|chunk| chunk.len() <= at) {
                chunk += 1;
                at = 0;
            }
            let frame = self
                .chunks
                .get(chunk)
                .and_then(|chunk| chunk.bytes().get(at..at + bytes))
                .unwrap_or_default();
            at += bytes;
            let frame = if matches!(entry.tag, Tag::Gap(_)) { &[] } else { frame };
            if entry.tag != Tag::Removed && !show(entry.tag, frame) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(sizes: &[usize]) -> Mailbox {
        let mut mailbox = Mailbox::default();
        for (number, size) in (0..).zip(sizes) {
            let write = |chunk: &mut Vec<u8>| chunk.resize(chunk.len() + size, number);
            mailbox.push(Tag::Message, *size, &mut Shelf::default(), write);
        }
        mailbox
    }

    /// Everything in a mailbox, by whole chunks where they can be had, else in runs of this length or one by one.
    fn drained(mailbox: &mut Mailbox, run: Option<usize>) -> (Vec<u8>, usize) {
        let (mut bytes, mut chunks) = (Vec::new(), 0);
        loop {
            if let Some((chunk, _)) = mailbox.take_chunk(CHUNK_BYTES / 2) {
                bytes.extend_from_slice(&chunk);
                chunks += 1;
                mailbox.keep(Vec::with_capacity(CHUNK_BYTES));
            } else if mailbox.front().is_none() {
                return (bytes, chunks);
            } else if run.is_none_or(|run| mailbox.take_run(run, &mut bytes) == 0)
                && let Some((_, frame)) = mailbox.front()
            {
                bytes.extend_from_slice(frame);
                mailbox.pop();
            }
        }
    }

    #[test]
    fn the_wait_of_one_event_at_a_time_is_measured_however_it_leaves() {
        let start = tokio::time::Instant::now().into_std();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let write = |chunk: &mut Vec<u8>| chunk.resize(chunk.len() + 40_000, 1);
        let takes: [fn(&mut Mailbox); 3] = [
            |mailbox| mailbox.pop(),
            |mailbox| assert_eq!(mailbox.take_run(1, &mut Vec::new()), 1),
            |mailbox| assert!(mailbox.take_chunk(1).is_some()),
        ];
        for take in takes {
            let mut mailbox = Mailbox::default();
            for ms in 0..3 {
                mailbox.push(Tag::Message, 40_000, &mut Shelf::default(), write);
                mailbox.measure(at(ms));
            }
            assert_eq!(mailbox.measured(at(5)), None, "it waits");
            take(&mut mailbox);
            assert_eq!(mailbox.measured(at(7)), Some(Duration::from_millis(7)), "the first");
            assert_eq!(mailbox.measured(at(7)), None);
            mailbox.push(Tag::Message, 40_000, &mut Shelf::default(), write);
            mailbox.measure(at(8));
            take(&mut mailbox);
            take(&mut mailbox);
            assert_eq!(mailbox.measured(at(9)), None, "two that came before it have gone");
            take(&mut mailbox);
            assert_eq!(mailbox.measured(at(10)), Some(Duration::from_millis(2)));
        }
    }

    #[test]
    fn whole_chunks_and_single_events_come_in_order() {
        let sizes = [600, 600, 20_000, 20_000, 20_000, 20_000, 70_000, 10, 20_000, 20_000, 20_000];
        let expected: Vec<u8> =
            (0..).zip(sizes).flat_map(|(number, size)| std::iter::repeat_n(number, size)).collect();
        for run in [None, Some(1), Some(700), Some(1_000_000)] {
            let mut mailbox = filled(&sizes);
            let (bytes, chunks) = drained(&mut mailbox, run);
            assert_eq!(bytes, expected);
            assert!(chunks >= 3, "{chunks}");
            assert_eq!((mailbox.messages(), mailbox.bytes()), (0, 0));
        }
    }

    #[test]
    fn a_run_ends_where_something_else_than_a_message_stands() {
        let mut mailbox = filled(&[10, 10]);
        mailbox
            .push(Tag::Exit, 5, &mut Shelf::default(), |chunk| chunk.extend_from_slice(b"exit!"));
        let write = |chunk: &mut Vec<u8>| chunk.resize(chunk.len() + 10, 7);
        mailbox.push(Tag::Topic(3), 10, &mut Shelf::default(), write);
        let mut bytes = Vec::new();
        assert_eq!(mailbox.take_run(1000, &mut bytes), 2);
        assert_eq!((bytes.len(), mailbox.messages(), mailbox.bytes()), (20, 1, 15));
        assert_eq!(mailbox.take_run(1000, &mut bytes), 0);
        assert_eq!(mailbox.front(), Some((Tag::Exit, &b"exit!"[..])));
        mailbox.pop();
        assert_eq!(mailbox.take_run(1, &mut bytes), 1);
        assert_eq!((bytes.len(), mailbox.messages(), mailbox.bytes()), (30, 0, 0));
    }

    #[test]
    fn a_chunk_with_a_loss_or_one_that_has_been_begun_is_not_taken_whole() {
        let mut mailbox = filled(&[20_000, 20_000, 20_000]);
        assert!(mailbox.shed_oldest());
        assert_eq!(mailbox.take_chunk(1), None);
        let mut mailbox = filled(&[20_000, 20_000, 20_000]);
        mailbox.pop();
        mailbox.pop();
        assert_eq!(mailbox.take_chunk(1), None);
    }

    #[test]
    fn own_and_shared_events_stand_in_order_whatever_is_shed_and_taken_back() {
        use crate::router::shared::Sum;
        // A simple generator: the same runs each time, and many shapes.
        let mut seed = 7_u64;
        let mut chance = move |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(seed >> 33).expect("31 bits") % below
        };
        for _ in 0..60 {
            let sum = Sum::default();
            let mut mailbox = Mailbox::default();
            // What should be in it: tag, size, what it is made of; a loss has no size.
            let mut model: Vec<(Tag, usize, u8)> = Vec::new();
            for step in 0..120_u64 {
                let byte = u8::try_from(step % 251).expect("small");
                match chance(12) {
                    0..=3 => {
                        let size = [10, 300, 5_000, 20_000][chance(4)];
                        let tag = if chance(4) == 0 { Tag::Exit } else { Tag::Message };
                        let write = |out: &mut Vec<u8>| out.resize(out.len() + size, byte);
                        mailbox.push(tag, size, &mut Shelf::default(), write);
                        model.push((tag, size, byte));
                    }
                    4..=6 => {
                        let size = [4_096, 70_000][chance(2)];
                        mailbox.push_shared(Tag::Topic(1), Shared::new(vec![byte; size], 0, &sum));
                        model.push((Tag::Topic(1), size, byte));
                    }
                    7 => {
                        let at = model.iter().position(|(tag, ..)| tag.is_message());
                        assert_eq!(mailbox.shed_oldest(), at.is_some());
                        if let Some(at) = at {
                            model[at] = (Tag::Gap(1), 0, 0);
                        }
                    }
                    8 => {
                        let at = model.iter().rposition(|(tag, ..)| tag.is_message());
                        assert_eq!(mailbox.shed_newest(), at.is_some());
                        if let Some(at) = at {
                            model[at] = (Tag::Gap(1), 0, 0);
                        }
                    }
                    9 => {
                        let which = byte.wrapping_sub(3);
                        mailbox.remove(|tag, frame| {
                            !matches!(tag, Tag::Gap(_)) && frame.first() == Some(&which)
                        });
                        model.retain(|(_, size, of)| *size == 0 || *of != which);
                    }
                    _ => {
                        while let Some((Tag::Gap(_), _)) = mailbox.front() {
                            mailbox.pop();
                        }
                        let first = model.iter().position(|(tag, ..)| !matches!(tag, Tag::Gap(_)));
                        model.drain(..first.unwrap_or(model.len()));
                        let front = mailbox.front().map(|(tag, frame)| (tag, frame.to_vec()));
                        let expected = (!model.is_empty()).then(|| model.remove(0));
                        let expected = expected.map(|(tag, size, byte)| (tag, vec![byte; size]));
                        assert!(front == expected);
                        mailbox.pop();
                    }
                }
                let mut seen = Vec::new();
                mailbox.peek(|tag, frame| {
                    assert_eq!(frame.first(), frame.last());
                    match tag {
                        Tag::Gap(lost) => {
                            let lost = usize::try_from(lost).expect("few");
                            seen.extend(vec![(Tag::Gap(1), 0, 0); lost]);
                        }
                        tag => seen.push((tag, frame.len(), frame.first().copied().unwrap_or(0))),
                    }
                    true
                });
                assert_eq!(seen, model);
                assert_eq!(mailbox.bytes(), model.iter().map(|(_, size, _)| size).sum::<usize>());
                let shared = model.iter().filter(|(tag, ..)| *tag == Tag::Topic(1));
                let saved = shared.map(|(_, size, _)| size - 64).sum::<usize>();
                assert_eq!(sum.in_mailboxes(), saved);
            }
            drop(mailbox);
            assert_eq!((sum.in_mailboxes(), sum.bytes()), (0, 0));
        }
    }
}
