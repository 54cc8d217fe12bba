//! Who is accepted and has not shown yet that it is one of us. Decides; does nothing.
//!
//! There are few places, because each may cost memory. Whoever holds one has a moment to itself. After that it gives
//! way when somebody else waits: first those that have said nothing, then the others, and among them those of the
//! source that holds most, by lot. So whoever takes all places must take them again and again, and a member among
//! many strangers has its moment, which is many times what it needs. With nobody waiting nobody is sent away.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Rng;
use crate::peer::ConnId;

/// Most of them. The others wait in the kernel's backlog.
pub(super) const STRANGERS_MAX: usize = 64;
/// The moment of one that has said nothing. The first words of TLS come with the end of TCP's handshake.
pub(super) const SILENT_FOR: Duration = Duration::from_millis(250);
/// The moment of one that has begun: time for two more round trips around the world and a busy processor.
pub(super) const SPEAKING_FOR: Duration = Duration::from_secs(1);

/// How often a crowd of them is worth a word.
const WORD_EVERY: Duration = Duration::from_secs(60);

/// All of them.
#[derive(Debug)]
pub(super) struct Strangers {
    places: BTreeMap<ConnId, Place>,
    rng: Rng,
    sent_away: u64,
    /// When that was said last.
    said: Option<Instant>,
}

#[derive(Debug)]
struct Place {
    source: IpAddr,
    since: Instant,
    spoke: bool,
}

impl Place {
    /// Until when it is left alone.
    fn safe_until(&self) -> Instant {
        self.since + if self.spoke { SPEAKING_FOR } else { SILENT_FOR }
    }
}

impl Strangers {
    pub(super) fn new(seed: u64) -> Self {
        Self { places: BTreeMap::new(), rng: Rng::new(seed), sent_away: 0, said: None }
    }

    /// From when on there is room for another one: now, or when somebody may be sent away.
    pub(super) fn room_at(&self, now: Instant) -> Instant {
        if self.places.len() < STRANGERS_MAX {
            return now;
        }
        self.places.values().map(Place::safe_until).min().unwrap_or(now)
    }

    /// Takes one in. Returns whom to send away for it.
    pub(super) fn enter(&mut self, conn: ConnId, from: SocketAddr, now: Instant) -> Option<ConnId> {
        let gone = (self.places.len() >= STRANGERS_MAX).then(|| self.choose(now)).flatten();
        if let Some(gone) = gone {
            self.places.remove(&gone);
        }
        self.places.insert(conn, Place { source: source(from.ip()), since: now, spoke: false });
        gone
    }

    /// Counts one that was sent away. How many have been since the last word, when it is time for one.
    pub(super) fn sent_away(&mut self, now: Instant) -> Option<u64> {
        self.sent_away += 1;
        if self.said.is_some_and(|said| now < said + WORD_EVERY) {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.sent_away))
    }

    /// It has begun a handshake.
    pub(super) fn spoke(&mut self, conn: ConnId) {
        if let Some(place) = self.places.get_mut(&conn) {
            place.spoke = true;
        }
    }

    /// It is no stranger any more, or gone.
    pub(super) fn leave(&mut self, conn: ConnId) {
        self.places.remove(&conn);
    }

    fn choose(&mut self, now: Instant) -> Option<ConnId> {
        let mut held: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for place in self.places.values() {
            *held.entry(place.source).or_default() += 1;
        }
        let ripe = |spoke: bool| {
            let ripe =
                self.places.iter().filter(|(_, p)| p.spoke == spoke && p.safe_until() <= now);
            ripe.collect::<Vec<_>>()
        };
        let mut ripe =
            Some(ripe(false)).filter(|ripe| !ripe.is_empty()).unwrap_or_else(|| ripe(true));
        let most = ripe.iter().map(|(_, place)| held[&place.source]).max()?;
        ripe.retain(|(_, place)| held[&place.source] == most);
        let lot = self.rng.next() % u64::try_from(ripe.len()).unwrap_or(1);
        ripe.get(usize::try_from(lot).unwrap_or(0)).map(|(conn, _)| **conn)
    }
}

/// What counts as one source. Whoever has one IPv6 address usually has all of its /64.
fn source(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) >> 64 << 64).into()),
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    /// All places taken, by turns from these sources; the connections are counted from 0.
    fn full(now: Instant, sources: &[&str]) -> Strangers {
        let mut strangers = Strangers::new(1);
        for (conn, source) in (0..STRANGERS_MAX as u64).zip(sources.iter().cycle()) {
            assert_eq!(strangers.room_at(now), now);
            assert_eq!(strangers.enter(ConnId(conn), at(source), now), None);
        }
        strangers
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_has_a_moment_and_then_gives_way_to_who_waits() {
        let now = Instant::now();
        let mut strangers = full(now, &["10.0.0.1:1"]);
        assert_eq!(strangers.room_at(now), now + SILENT_FOR);
        let later = now + SILENT_FOR;
        let mut gone = std::collections::BTreeSet::new();
        for conn in 1000..1000 + STRANGERS_MAX as u64 {
            assert!(strangers.room_at(later) <= later);
            gone.insert(strangers.enter(ConnId(conn), at("10.0.0.1:1"), later).expect("somebody"));
        }
        assert_eq!(gone, (0..STRANGERS_MAX as u64).map(ConnId).collect());
        assert_eq!(strangers.room_at(later), later + SILENT_FOR);
        strangers.leave(ConnId(1000));
        assert_eq!(strangers.room_at(later), later);
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_is_worth_a_word_a_minute() {
        let now = Instant::now();
        let mut strangers = Strangers::new(1);
        assert_eq!(strangers.sent_away(now), Some(1));
        assert_eq!(strangers.sent_away(now + WORD_EVERY / 2), None);
        assert_eq!(strangers.sent_away(now + WORD_EVERY), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn the_silent_go_before_those_that_speak() {
        let now = Instant::now();
        let mut strangers = full(now, &["10.0.0.1:1"]);
        for conn in (0..STRANGERS_MAX as u64).filter(|conn| *conn != 7) {
            strangers.spoke(ConnId(conn));
        }
        let later = now + SPEAKING_FOR;
        assert_eq!(strangers.enter(ConnId(1000), at("10.0.0.1:1"), later), Some(ConnId(7)));
        assert!(strangers.room_at(later) <= later);
        assert!(strangers.enter(ConnId(1001), at("10.0.0.1:1"), later).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_source_that_holds_most_gives_way_first() {
        let now = Instant::now();
        let flood = ["[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1", "10.0.0.7:1"];
        let mut strangers = full(now, &flood);
        let later = now + SILENT_FOR;
        for conn in 1000..1030 {
            // Every fourth is of 10.0.0.7.
            let gone = strangers.enter(ConnId(conn), at("10.0.0.9:1"), later).expect("somebody");
            assert_ne!(gone.0 % 4, 3, "{gone:?}");
        }
    }
}
