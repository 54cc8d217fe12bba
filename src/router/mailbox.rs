//! One process's events in arrival order, as finished frames laid end to end.
//!
//! Frames lie in chunks, not in an allocation each: a mailbox that is written and read at a million messages per
//! second must not visit the allocator that often, and an empty one must cost nothing.

use std::collections::VecDeque;

use super::few::Few;
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
    tag: Tag,
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

/// One process's events in arrival order.
#[derive(Debug, Default)]
pub struct Mailbox {
    chunks: VecDeque<Vec<u8>>,
    /// Empty ones, for the next events.
    spare: Few<Vec<Vec<u8>>>,
    /// How much of the first chunk has left.
    head: usize,
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
        self.chunks.iter().map(Vec::capacity).sum::<usize>()
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
        let roomy = self.chunks.back().is_some_and(|chunk| chunk.capacity() - chunk.len() >= size);
        if !roomy {
            let first = self.chunks.is_empty();
            // A chunk without entries is replaced: the first chunk always holds the first entry.
            if self.chunks.back().is_some_and(Vec::is_empty) {
                self.chunks.pop_back();
            }
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
            self.chunks.push_back(chunk);
        }
        let Some(chunk) = self.chunks.back_mut() else { return };
        let before = chunk.len();
        write(chunk);
        let bytes = chunk.len() - before;
        self.bytes += bytes;
        self.account(tag, bytes.cast_signed());
        self.count(tag, 1);
        self.entries.push_back(Entry { bytes: u32::try_from(bytes).unwrap_or(u32::MAX), tag });
    }

    /// Notes that a message was lost after the last event here.
    pub fn push_gap(&mut self) {
        match self.entries.back_mut() {
            Some(Entry { tag: Tag::Gap(lost), .. }) => *lost += 1,
            _ => {
                self.entries.push_back(Entry { bytes: 0, tag: Tag::Gap(1) });
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
        let chunk = self.chunks.front().map_or(&[][..], |chunk| &chunk[self.head..]);
        Some((entry.tag, chunk.get(..entry.bytes as usize).unwrap_or_default()))
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
        let chunk = self.chunks.front()?;
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
        self.chunks.pop_front().map(|chunk| (chunk, count as u64))
    }

    /// Moves the messages at the front of the first chunk as one piece, until about so many bytes have moved. How many.
    pub fn take_run(&mut self, bytes_max: usize, out: &mut Vec<u8>) -> u64 {
        let Some(chunk) = self.chunks.front() else { return 0 };
        let (mut bytes, mut count) = (0, 0);
        let left = chunk.len() - self.head;
        while let Some(entry) = self.entries.get(count).filter(|entry| entry.tag.is_message())
            && bytes < left.min(bytes_max)
        {
            bytes += entry.bytes as usize;
            count += 1;
        }
        out.extend_from_slice(chunk.get(self.head..self.head + bytes).unwrap_or_default());
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
        self.head += bytes;
        while self.chunks.front().is_some_and(|chunk| chunk.len() <= self.head) {
            // An entry lies in one chunk, so the head never passes its end.
            self.head = 0;
            if let [chunk] = self.chunks.make_contiguous()
                && chunk.capacity() <= CHUNK_BYTES
            {
                chunk.clear();
                break;
            }
            if let Some(mut chunk) = self.chunks.pop_front() {
                chunk.clear();
                self.keep(chunk);
            }
        }
    }

    /// Gives the memory of an empty mailbox back.
    pub fn rest(&mut self, shelf: &mut Shelf) {
        if self.is_empty() && self.entries.is_empty() {
            for mut chunk in self.chunks.drain(..).chain(self.spare.take()) {
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
            chunk.truncate(chunk.len() - bytes);
            self.messages -= 1;
            self.bytes -= bytes;
            if chunk.is_empty() && self.chunks.len() > 1 {
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
        let (mut chunk, mut at) = (0, old.head);
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
                        self.entries.push_back(Entry { bytes: 0, tag: entry.tag });
                        self.signals += 1;
                    }
                }
                tag => {
                    let frame = old.chunks.get(chunk).and_then(|chunk| chunk.get(at..at + bytes));
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
            self.entries.push_front(Entry { bytes: 0, tag: Tag::Gap(lost) });
            self.popped -= 1;
            self.signals += 1;
        }
    }

    /// Takes back every event for which `unwanted` says so. How many there were.
    pub fn remove(&mut self, mut unwanted: impl FnMut(Tag, &[u8]) -> bool) -> usize {
        let mut removed = 0_u32;
        let (mut chunk, mut at) = (0, self.head);
        for entry in &mut self.entries {
            let bytes = entry.bytes as usize;
            while bytes > 0 && self.chunks.get(chunk).is_some_and(|chunk| chunk.len() <= at) {
                chunk += 1;
                at = 0;
            }
            let frame = self
                .chunks
                .get(chunk)
                .and_then(|chunk| chunk.get(at..at + bytes))
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
            }
        }
        self.removed += removed;
        self.tidy();
        removed as usize
    }

    /// Shows every event in order, without taking any. Gaps have an empty frame.
    pub fn peek(&self, mut show: impl FnMut(Tag, &[u8]) -> bool) {
        let (mut chunk, mut at) = (0, self.head);
        for entry in &self.entries {
            let bytes = entry.bytes as usize;
            while bytes > 0 && self.chunks.get(chunk).is_some_and(|chunk| chunk.len() <= at) {
                chunk += 1;
                at = 0;
            }
            let frame = self
                .chunks
                .get(chunk)
                .and_then(|chunk| chunk.get(at..at + bytes))
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
}
