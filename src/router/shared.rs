//! Events that several have together: encoded once, spelled as a line of JSON once, and gone with the last of them.
//!
//! A small event is copied for each of its subscribers, which costs less than keeping count of it, unless it has to be
//! spelled for several. A larger one is one piece of memory that mailboxes, the lanes of sessions and of peers, and those
//! who write them refer to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::shelf::Shelf;

/// Events from this size on are shared among all who get them, in bytes; smaller ones among those who read lines.
pub const SHARED_BYTES_MIN: usize = 4 * 1024;
/// What keeping count of one takes.
const OVERHEAD_BYTES: usize = 128;
/// What it takes in each mailbox that has it: so much of it is counted there.
const KEPT_BYTES: usize = 64;

/// How many bytes all that is shared takes together.
#[derive(Clone, Debug, Default)]
pub struct Sum(Arc<Sums>);

#[derive(Debug, Default)]
struct Sums {
    all: AtomicUsize,
    waiting: AtomicUsize,
    mailboxes: AtomicUsize,
}

impl Sum {
    /// How many bytes they are, each piece counted once.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.all.load(Ordering::Relaxed)
    }

    /// How many of those no mailbox and no peer's lane holds: apps are to read them.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.bytes().saturating_sub(self.0.waiting.load(Ordering::Relaxed))
    }

    /// How many they would be more if each mailbox had its own.
    #[must_use]
    pub fn in_mailboxes(&self) -> usize {
        self.0.mailboxes.load(Ordering::Relaxed)
    }
}

/// What a peer's lane has of a shared event.
#[derive(Debug)]
pub struct Waiting(Shared);

impl Waiting {
    /// The event.
    #[must_use]
    pub fn shared(&self) -> &Shared {
        &self.0
    }
}

impl From<Shared> for Waiting {
    fn from(shared: Shared) -> Self {
        if shared.0.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
            shared.0.sum.0.waiting.fetch_add(shared.0.size(), Ordering::Relaxed);
        }
        Self(shared)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let inner = &*self.0.0;
        if inner.waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
            inner.sum.0.waiting.fetch_sub(inner.size(), Ordering::Relaxed);
        }
    }
}

/// What a mailbox has of a shared event.
#[derive(Debug)]
pub struct Kept(Waiting);

impl Kept {
    /// The event.
    #[must_use]
    pub fn shared(&self) -> &Shared {
        self.0.shared()
    }
}

impl Kept {
    fn saved(&self) -> usize {
        self.shared().frame().len().saturating_sub(KEPT_BYTES)
    }
}

impl From<Shared> for Kept {
    fn from(shared: Shared) -> Self {
        let kept = Self(shared.into());
        kept.shared().0.sum.0.mailboxes.fetch_add(kept.saved(), Ordering::Relaxed);
        kept
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.shared().0.sum.0.mailboxes.fetch_sub(self.saved(), Ordering::Relaxed);
    }
}

/// An event that several have together.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// A frame for peers that ends with the event's own frame, or only that.
    bytes: Vec<u8>,
    /// Where the event's own frame begins.
    event: usize,
    line: OnceLock<Vec<u8>>,
    /// How many mailboxes and peers' lanes hold it.
    waiting: AtomicUsize,
    sum: Sum,
}

impl Shared {
    /// From these bytes on, `event` of them aside, it is the event's frame; all of them are what peers get.
    #[must_use]
    pub fn new(bytes: Vec<u8>, event: usize, sum: &Sum) -> Self {
        sum.0.all.fetch_add(bytes.len() + OVERHEAD_BYTES, Ordering::Relaxed);
        let event = event.min(bytes.len());
        let (line, waiting) = (OnceLock::new(), AtomicUsize::new(0));
        Self(Arc::new(Inner { bytes, event, line, waiting, sum: sum.clone() }))
    }

    /// The event's whole frame, as the session of its process gets it.
    #[must_use]
    pub fn frame(&self) -> &[u8] {
        &self.0.bytes[self.0.event..]
    }

    /// The whole frame that peers get.
    #[must_use]
    pub fn for_peers(&self) -> &[u8] {
        &self.0.bytes
    }

    /// The event as a line of JSON; the first who asks has it spelled.
    pub fn line(&self, spell: impl FnOnce(&[u8], &mut Vec<u8>)) -> &[u8] {
        self.0.line.get_or_init(|| {
            let mut line = Vec::with_capacity(self.frame().len());
            spell(self.frame(), &mut line);
            self.0.sum.0.all.fetch_add(line.len(), Ordering::Relaxed);
            line
        })
    }
}

impl PartialEq for Shared {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Inner {
    fn size(&self) -> usize {
        self.bytes.len() + OVERHEAD_BYTES
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let line = self.line.get().map_or(0, Vec::len);
        self.sum.0.all.fetch_sub(self.size() + line, Ordering::Relaxed);
    }
}

/// Finished event frames on their way to one app, in order.
#[derive(Debug, Default)]
pub struct Frames {
    /// Those that are this app's alone, end to end.
    pub(super) bytes: Vec<u8>,
    /// The others, and how many of those bytes come before each.
    shared: Vec<(usize, Shared)>,
    shared_bytes: usize,
}

/// Some of the frames on their way to one app.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    /// Whole frames end to end.
    Own(&'a [u8]),
    /// One frame that others have too.
    Shared(&'a Shared),
}

impl Frames {
    /// How many bytes they are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() + self.shared_bytes
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.shared.is_empty()
    }

    /// How many bytes are this app's alone.
    #[must_use]
    pub fn own_len(&self) -> usize {
        self.bytes.len()
    }

    /// Puts one that others have too behind so many of its own bytes, which are not fewer than the last time.
    pub(super) fn share(&mut self, behind: usize, shared: Shared) {
        self.shared_bytes += shared.frame().len();
        self.shared.push((behind, shared));
    }

    /// Forgets them, and keeps the room for as many.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.shared.clear();
        self.shared_bytes = 0;
    }

    /// Gives back the room of what is empty.
    pub(super) fn rest(&mut self, shelf: &mut Shelf) {
        shelf.put(&mut self.bytes);
        self.shared = Vec::new();
    }

    /// The room for its own bytes.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// All of them end to end.
    #[must_use]
    pub fn flat(&self) -> Vec<u8> {
        let bytes = |piece| match piece {
            Piece::Own(bytes) => bytes,
            Piece::Shared(shared) => shared.frame(),
        };
        self.pieces().map(bytes).collect::<Vec<_>>().concat()
    }

    /// All of them in order.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let ends = self.shared.iter().map(|(end, shared)| (*end, Some(shared)));
        let mut start = 0;
        ends.chain([(self.bytes.len(), None)]).flat_map(move |(end, shared)| {
            let own = &self.bytes[start..end];
            start = end;
            let own = (!own.is_empty()).then_some(Piece::Own(own));
            own.into_iter().chain(shared.map(Piece::Shared))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_is_counted_once_and_no_longer_than_somebody_has_it() {
        let sum = Sum::default();
        let shared = Shared::new(vec![7; 100], 10, &sum);
        let others = vec![shared.clone(); 50];
        assert_eq!((shared.frame().len(), shared.for_peers().len(), sum.bytes()), (90, 100, 228));
        let mut spelled = 0;
        for other in &others {
            let line = other.line(|frame, line| {
                spelled += 1;
                line.resize(2 * frame.len(), b'x');
            });
            assert_eq!(line.len(), 180);
        }
        assert_eq!((spelled, sum.bytes()), (1, 408));
        drop(shared);
        assert_eq!((sum.bytes(), sum.unread(), sum.in_mailboxes()), (408, 408, 0));
        let mut kept: Vec<Kept> = others.into_iter().map(Kept::from).collect();
        assert_eq!(
            (sum.bytes(), sum.unread(), sum.in_mailboxes()),
            (408, 180, 50 * (90 - KEPT_BYTES))
        );
        let lane = Waiting::from(kept[0].shared().clone());
        kept.clear();
        assert_eq!((sum.bytes(), sum.unread(), sum.in_mailboxes()), (408, 180, 0));
        drop(lane);
        assert_eq!((sum.bytes(), sum.unread()), (0, 0));
    }

    #[test]
    fn frames_come_in_the_order_in_which_they_were_put() {
        let sum = Sum::default();
        let shared = |byte| Shared::new(vec![byte; 3], 0, &sum);
        let mut frames = Frames::default();
        frames.share(0, shared(1));
        frames.buffer().extend_from_slice(&[2, 2]);
        frames.share(2, shared(3));
        frames.share(2, shared(4));
        frames.buffer().push(5);
        assert_eq!(frames.flat(), [1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 4, 5]);
        assert_eq!((frames.len(), frames.own_len()), (12, 3));
        frames.clear();
        assert!(frames.is_empty() && frames.flat().is_empty());
        assert_eq!(frames.own_len(), 0);
    }
}
