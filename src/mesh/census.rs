//! Who must be told whom this node is connected to. Decides; does nothing.
//!
//! A list of everybody to everybody is n³ entries in a mesh of n nodes, to say what all of them know already. So in a
//! large mesh nodes compare *censuses*: how many nodes one counts, itself and those it is connected to, and the sum of a
//! number made of each. Where two censuses agree nobody has news. Where they differ the list is sent: at once to a newcomer,
//! which may know one address alone; else once both have been quiet for a while, because nodes that are finding each
//! other at this moment soon agree by themselves.

use std::time::Duration;

use tokio::time::Instant;

use crate::wire::id::Node;

/// With at most so many peers everybody is told everything at once: it costs nothing, and nobody waits.
pub(super) const SMALL: usize = 16;
/// Who counts at most so many, itself included, is a newcomer.
const NEWCOMERS: u32 = 4;
/// How long each peer more makes the quiet that a list waits for.
const QUIET_PER_PEER: Duration = Duration::from_millis(5);
/// A list waits so many times the quiet at most.
const WAITS: u32 = 10;
/// One that has told no census in this time will not.
const SILENT_FOR: Duration = Duration::from_secs(2);

/// Whom a node counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// How many.
    pub count: u32,
    /// The sum, modulo 2^64, of what stands for each.
    pub sum: u64,
}

impl Census {
    /// Counts one more.
    pub(super) fn add(&mut self, node: &Node) {
        self.count = self.count.saturating_add(1);
        self.sum = self.sum.wrapping_add(stands_for(node));
    }
}

/// FNV-1a (64 bits) over the name and the incarnation, then mixed, so that sums of similar names differ (`SplitMix64`).
fn stands_for(node: &Node) -> u64 {
    let incarnation = node.incarnation.0.to_be_bytes();
    let bytes = node.name.as_str().bytes().chain(incarnation);
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// A census and since when it is that.
#[derive(Clone, Copy, Debug)]
pub(super) struct Since {
    pub census: Census,
    pub at: Instant,
}

/// What to tell a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// Everybody.
    List,
    /// Nobody: it knows, or will before this moment. What it was told before is still so.
    Wait(Instant),
    /// That there is nobody it had to be told of.
    Agreed,
}

/// How long changes are gathered before they are told, with so many peers; no time with few.
pub(super) fn quiet(peers: usize) -> Duration {
    let peers = if peers <= SMALL { 0 } else { u32::try_from(peers).unwrap_or(u32::MAX) };
    QUIET_PER_PEER * peers
}

/// Whether one is so new that it need not wait. Those whom it meets later need not tell it the same.
pub(super) fn is_new(theirs: Census) -> bool {
    theirs.count <= NEWCOMERS
}

/// Decides for one peer of `peers`: `theirs` is its census, `up` when it was connected, `differs` since when the
/// censuses have not agreed.
pub(super) fn say(
    peers: usize,
    mine: Since,
    theirs: Option<Since>,
    up: Instant,
    differs: Instant,
    now: Instant,
) -> Say {
    if peers <= SMALL {
        return Say::List;
    }
    let at = match theirs {
        None => up + SILENT_FOR,
        Some(theirs) if theirs.census == mine.census => return Say::Agreed,
        Some(theirs) if is_new(theirs.census) => now,
        Some(theirs) => {
            let quiet = quiet(peers);
            // Who counts more is likelier to have news. The other tells too, later, in case that it has some.
            let times = if mine.census.count >= theirs.census.count { 1 } else { 2 };
            (mine.at.max(theirs.at) + quiet * times).min(differs + quiet * WAITS * times)
        }
    };
    if at <= now { Say::List } else { Say::Wait(at) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::id::Incarnation;

    fn census(names: std::ops::Range<u64>) -> Census {
        let mut census = Census::default();
        for n in names {
            let name = format!("n{n}@sim").parse().expect("a name");
            census.add(&Node { name, incarnation: Incarnation(n) });
        }
        census
    }

    #[test]
    fn a_census_is_of_the_set_and_of_each_run() {
        let mut backwards = Census::default();
        for n in (0..50).rev() {
            let name = format!("n{n}@sim").parse().expect("a name");
            backwards.add(&Node { name, incarnation: Incarnation(n) });
        }
        assert_eq!(census(0..50), backwards);
        assert_ne!(census(0..50), census(1..51));
        let mut restarted = census(0..49);
        let name = "n49@sim".parse().expect("a name");
        restarted.add(&Node { name, incarnation: Incarnation(4711) });
        assert_ne!(census(0..50), restarted);
        assert_eq!(census(0..50).count, restarted.count);
    }

    #[tokio::test(start_paused = true)]
    async fn few_are_told_everything_and_many_only_what_they_lack() {
        let now = Instant::now();
        let since = |census, at| Since { census, at };
        let mine = since(census(0..40), now);
        assert_eq!(say(SMALL, mine, None, now, now, now), Say::List);
        assert_eq!(say(39, mine, Some(mine), now, now, now), Say::Agreed);
        let newcomer = Some(since(census(0..2), now));
        assert_eq!(say(39, mine, newcomer, now, now, now), Say::List);
        assert_eq!(say(39, mine, None, now, now, now), Say::Wait(now + SILENT_FOR));
        assert_eq!(say(39, mine, None, now, now, now + SILENT_FOR), Say::List);
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_nearly_agree_wait_until_both_are_quiet_but_not_for_ever() {
        let now = Instant::now();
        let since = |census, at| Since { census, at };
        let (mine, quiet) = (since(census(0..40), now), quiet(39));
        let fewer = since(census(0..39), now);
        assert_eq!(say(39, mine, Some(fewer), now, now, now), Say::Wait(now + quiet));
        assert_eq!(say(39, mine, Some(fewer), now, now, now + quiet), Say::List);
        assert_eq!(say(39, fewer, Some(mine), now, now, now), Say::Wait(now + quiet * 2));
        // Everything changes all the time.
        let late = now + quiet * WAITS;
        let (mine, fewer) = (since(census(0..40), late), since(census(0..39), late));
        assert_eq!(say(39, mine, Some(fewer), now, now, late), Say::List);
    }
}
