//! How many dials shake hands at a time. Decides; does nothing.
//!
//! A handshake costs a few milliseconds of processor at both ends, and has seconds to be done. A hundred nodes on one
//! machine that all dial all others at once share the processor so evenly that no handshake ends in time, and all of that
//! work is for nothing, again and again. So a node begins few, and the next ones as those end: more at a time while all
//! goes well, half as many after one that was too slow (additive increase, multiplicative decrease, as TCP does it; RFC 5681).
//!
//! Only handshakes count. A dial whose address does not answer costs nothing and must not keep others waiting: it
//! leaves the window after a moment.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::peer::ConnId;

/// How many at first.
const FIRST: usize = 8;
/// The most.
const MOST: usize = 64;
/// A dial that has not reached anybody within this time waits for the network, not for a processor.
const REACHES_WITHIN: Duration = Duration::from_millis(250);
/// What is slow together is one reason to slow down.
const SHRINKS_EVERY: Duration = Duration::from_secs(1);

/// The dials that may shake hands.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    /// Handshakes that were done since the window grew.
    done: usize,
    shrunk: Option<Instant>,
    dials: BTreeMap<ConnId, Dial>,
}

#[derive(Debug)]
struct Dial {
    begun: Instant,
    reached: bool,
}

impl Dial {
    fn counts(&self, now: Instant) -> bool {
        self.reached || now < self.begun + REACHES_WITHIN
    }
}

impl Default for Window {
    fn default() -> Self {
        Self { size: FIRST, done: 0, shrunk: None, dials: BTreeMap::new() }
    }
}

impl Window {
    /// How many more dials may begin now.
    pub(super) fn room(&self, now: Instant) -> usize {
        let taken = self.dials.values().filter(|dial| dial.counts(now)).count();
        self.size.saturating_sub(taken)
    }

    /// When there is room next if no dial ends before; `None` where only the end of one makes room.
    pub(super) fn room_at(&self, now: Instant) -> Option<Instant> {
        let passing = self.dials.values().filter(|dial| !dial.reached && dial.counts(now));
        passing.map(|dial| dial.begun + REACHES_WITHIN).min()
    }

    /// A dial that begins then.
    pub(super) fn begin(&mut self, conn: ConnId, at: Instant) {
        self.dials.insert(conn, Dial { begun: at, reached: false });
    }

    /// Its address answered.
    pub(super) fn reached(&mut self, conn: ConnId) {
        if let Some(dial) = self.dials.get_mut(&conn) {
            dial.reached = true;
        }
    }

    /// Its handshake is done.
    pub(super) fn met(&mut self, conn: ConnId) {
        if self.dials.remove(&conn).is_some() {
            self.done += 1;
            if self.done >= self.size {
                self.done = 0;
                self.size = (self.size + 1).min(MOST);
            }
        }
    }

    /// It ended otherwise; `slow` when somebody was there and took too long, or gave up waiting for us.
    pub(super) fn over(&mut self, conn: ConnId, slow: bool, now: Instant) {
        let reached = self.dials.remove(&conn).is_some_and(|dial| dial.reached);
        let again = self.shrunk.is_none_or(|at| at + SHRINKS_EVERY <= now);
        if slow && reached && again {
            self.shrunk = Some(now);
            self.done = 0;
            self.size = (self.size / 2).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conns(from: u64, count: usize) -> impl Iterator<Item = ConnId> {
        (from..).take(count).map(ConnId)
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_handshake_begins_when_one_ends() {
        let now = Instant::now();
        let mut window = Window::default();
        assert_eq!(window.room(now), FIRST);
        for conn in conns(0, FIRST) {
            window.begin(conn, now);
            window.reached(conn);
        }
        assert_eq!((window.room(now), window.room_at(now)), (0, None));
        assert_eq!(window.room(now + Duration::from_secs(60)), 0);
        window.over(ConnId(0), false, now);
        assert_eq!(window.room(now), 1);
        window.met(ConnId(1));
        assert_eq!(window.room(now), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_that_do_not_answer_keep_nobody_waiting() {
        let now = Instant::now();
        let mut window = Window::default();
        for conn in conns(0, FIRST) {
            window.begin(conn, now + Duration::from_millis(50));
        }
        let later = now + Duration::from_millis(50) + REACHES_WITHIN;
        assert_eq!((window.room(now), window.room_at(now)), (0, Some(later)));
        assert_eq!((window.room(later), window.room_at(later)), (FIRST, None));
        // The network was slow: it costs a processor after all.
        window.reached(ConnId(0));
        assert_eq!(window.room(later), FIRST - 1);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_handshakes_halve_the_window_once_a_second_and_done_ones_widen_it() {
        let mut now = Instant::now();
        let mut window = Window::default();
        let slow = |window: &mut Window, now, count| {
            for conn in conns(0, count) {
                window.begin(conn, now);
                window.reached(conn);
                window.over(conn, true, now);
            }
            window.size
        };
        assert_eq!(slow(&mut window, now, 5), FIRST / 2);
        for _ in 0..10 {
            now += SHRINKS_EVERY;
            slow(&mut window, now, 5);
        }
        assert_eq!(window.room(now), 1, "one always may");
        for conn in conns(0, 10_000) {
            window.begin(conn, now);
            window.met(conn);
        }
        assert_eq!(window.room(now), MOST);
        // Nobody was there: that says nothing of processors.
        window.begin(ConnId(0), now);
        window.over(ConnId(0), true, now + SHRINKS_EVERY);
        assert_eq!(window.room(now), MOST);
    }
}
