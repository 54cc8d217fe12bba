//! Large buffers between two uses.
//!
//! A lane, a mailbox or a reader that empties must not keep 64 KiB, for there may be thousands; but one that empties a
//! thousand times a second must not go to the allocator each time, which gives such pieces back to the system and
//! takes a page fault for every 4 KiB of the next. So they are laid here, and all of the shelf is thrown away once a
//! while has passed without anybody taking from it.

/// What is worth keeping, in bytes of capacity. Smaller ones cost the allocator nothing, larger ones are rare.
const BUFFER_BYTES: std::ops::RangeInclusive<usize> = 16 * 1024..=1024 * 1024;
/// Most bytes that lie here.
const SHELF_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Large buffers between two uses.
#[derive(Debug, Default)]
pub struct Shelf {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
    taken: bool,
}

impl Shelf {
    /// Lays a buffer here if it is large. What it held is lost.
    pub fn put(&mut self, buffer: &mut Vec<u8>) {
        let bytes = buffer.capacity();
        if bytes < *BUFFER_BYTES.start() {
            return;
        }
        let mut buffer = std::mem::take(buffer);
        if bytes <= *BUFFER_BYTES.end() && self.bytes + bytes <= SHELF_BYTES_MAX {
            buffer.clear();
            self.bytes += bytes;
            self.buffers.push(buffer);
        }
    }

    /// An empty buffer, the last one that was put here, or a new one without room.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        let buffer = self.buffers.pop().unwrap_or_default();
        self.bytes -= buffer.capacity();
        self.taken = true;
        buffer
    }

    /// Whether nothing lies here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffers.is_empty()
    }

    /// A while has passed: throws everything away unless something was taken meanwhile.
    pub fn rest(&mut self) {
        if !std::mem::take(&mut self.taken) {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_buffer_is_used_again_and_a_small_one_stays_where_it_is() {
        let mut shelf = Shelf::default();
        let (mut large, mut small) = (Vec::with_capacity(100_000), Vec::with_capacity(100));
        large.push(1);
        shelf.put(&mut large);
        shelf.put(&mut small);
        assert_eq!((large.capacity(), small.capacity()), (0, 100));
        let again = shelf.take();
        assert!(again.is_empty() && again.capacity() == 100_000);
        assert_eq!(shelf.take().capacity(), 0);
    }

    #[test]
    fn the_shelf_has_a_bound_and_is_thrown_away_when_nobody_takes_from_it() {
        let mut shelf = Shelf::default();
        for _ in 0..1000 {
            shelf.put(&mut Vec::with_capacity(64 * 1024));
        }
        assert_eq!(shelf.bytes, SHELF_BYTES_MAX);
        drop(shelf.take());
        shelf.rest();
        assert!(!shelf.is_empty());
        shelf.rest();
        assert!(shelf.is_empty() && shelf.bytes == 0);
    }
}
