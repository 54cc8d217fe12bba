//! Who was heard, and what is told of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use super::packet::{Message, Opened, Salt, Window};
use crate::interfaces::is_link_local;
use crate::options::hex_u64;
use crate::runs::newest;
use crate::{Announcement, Reporter, Sighting};

/// Most senders that are remembered.
const SEEN_MAX: usize = 1024;
/// Most interfaces of one sender that are remembered, each once for each kind of address.
const PLACES_MAX: usize = 16;
/// Most addresses that are believed of one interface.
const ADDRESSES_MAX: usize = 16;
/// How far the clocks of two nodes may be apart: an older packet may have been recorded.
pub(super) const FRESH: Duration = Duration::from_secs(60);
/// How long a sender is remembered that is not heard any more: until its last packet is too old to be believed, by whatever
/// clock.
const REMEMBERED: Duration = Duration::from_secs(150);
/// Most senders with another time that are remembered, and told of.
const SKEWED_MAX: usize = 16;
const SKEWED_TOLD_MAX: usize = 3;

/// What a packet was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Our own: the network carries what we send.
    Ourselves,
    /// Somebody who was not there.
    Newcomer,
    /// Somebody who was, or is none to be reported.
    Known,
    /// Heard before.
    Replayed,
    /// Sealed at another time than ours.
    Skewed,
}

/// What may be wrong, each told until it is not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    /// No network, or it cannot be used.
    Network,
    /// No key.
    Keys,
    /// Our own packets do not come back.
    Echo,
    /// There is nothing to be told of us.
    Deaf,
    /// Too many packets of strangers.
    Flood,
    /// Clocks.
    Clock,
}

/// What is kept between two runs of the strategy.
#[derive(Debug, Default)]
pub(super) struct Memory(BTreeMap<Salt, Seen>);

/// Everybody heard, and what was reported of it.
pub(super) struct View<'a> {
    reporter: &'a Reporter,
    own: &'a Announcement,
    salt: Salt,
    own_window: Window,
    seen: BTreeMap<Salt, Seen>,
    skewed: BTreeMap<Salt, Skew>,
    troubles: BTreeMap<Trouble, String>,
    told: Option<String>,
    has_reported: bool,
}

#[derive(Debug)]
struct Seen {
    window: Window,
    sighting: Sighting,
    /// Where it can be dialled, by its interface and the kind of address that it was heard from.
    places: BTreeMap<(String, bool), Place>,
    last: Instant,
}

#[derive(Debug)]
struct Place {
    from: IpAddr,
    addresses: Vec<SocketAddr>,
    heard: Instant,
}

struct Skew {
    node: String,
    last: u64,
    times: u32,
    ahead_ms: i64,
    at: Instant,
}

impl<'a> View<'a> {
    /// Goes on with what an earlier run remembered: as if all of them had just been heard.
    pub(super) fn new(
        reporter: &'a Reporter,
        own: &'a Announcement,
        salt: Salt,
        memory: Memory,
        now: Instant,
    ) -> Self {
        let mut seen = memory.0;
        for place in seen.values_mut().flat_map(|seen| seen.places.values_mut()) {
            place.heard = now;
        }
        Self {
            reporter,
            own,
            salt,
            own_window: Window::default(),
            seen,
            skewed: BTreeMap::new(),
            troubles: BTreeMap::new(),
            told: None,
            has_reported: false,
        }
    }

    pub(super) fn take_memory(&mut self) -> Memory {
        Memory(std::mem::take(&mut self.seen))
    }

    /// Takes a packet that was opened.
    pub(super) fn hear(
        &mut self,
        opened: Opened,
        from: SocketAddr,
        now: Instant,
        unix_ms: u64,
    ) -> Heard {
        let Opened { salt, number, unix_ms: sealed_ms, message } = opened;
        let ahead_ms = i64::try_from(sealed_ms).unwrap_or(i64::MAX)
            - i64::try_from(unix_ms).unwrap_or(i64::MAX);
        let is_fresh = ahead_ms.unsigned_abs() <= u64::try_from(FRESH.as_millis()).unwrap_or(0);
        if salt == self.salt {
            let is_new = self.own_window.takes(number) && is_fresh;
            return if is_new { Heard::Ourselves } else { Heard::Replayed };
        }
        if !is_fresh {
            self.note_skew(salt, number, ahead_ms, message.node, now);
            return Heard::Skewed;
        }
        let Some(incarnation) = hex_u64(&message.incarnation) else { return Heard::Known };
        let is_plain = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
        let is_own = message.node == self.own.node && incarnation == self.own.incarnation;
        if is_own || !is_plain(&message.node) || !is_plain(&message.mesh) {
            return Heard::Known;
        }
        if !self.seen.contains_key(&salt) && self.seen.len() >= SEEN_MAX && !self.make_room() {
            return Heard::Known;
        }
        self.skewed.remove(&salt);
        let seen = self.seen.entry(salt).or_insert_with(|| Seen {
            window: Window::default(),
            sighting: Sighting::default(),
            places: BTreeMap::new(),
            last: now,
        });
        if !seen.window.takes(number) {
            return Heard::Replayed;
        }
        let was_there =
            !seen.places.is_empty() || (seen.last != now && message.addresses.is_empty());
        seen.last = now;
        if message.gone {
            seen.places.clear();
            self.report();
            return Heard::Known;
        }
        // Most packets say what is known: nothing is put together anew for them.
        if seen.take(message, incarnation, from, now) {
            self.report();
        }
        if was_there { Heard::Known } else { Heard::Newcomer }
    }

    fn note_skew(&mut self, salt: Salt, number: u64, ahead_ms: i64, node: String, now: Instant) {
        if !self.skewed.contains_key(&salt) && self.skewed.len() >= SKEWED_MAX {
            let oldest = self.skewed.iter().min_by_key(|(_, skew)| skew.at).map(|(salt, _)| *salt);
            oldest.and_then(|salt| self.skewed.remove(&salt));
        }
        let skew =
            self.skewed.entry(salt).or_insert(Skew { node, last: 0, times: 0, ahead_ms, at: now });
        // One packet again and again is a recording; a clock goes on.
        if number > skew.last {
            skew.last = number;
            skew.times += 1;
            skew.ahead_ms = ahead_ms;
            skew.at = now;
        }
        self.tell_skew(now);
    }

    fn tell_skew(&mut self, now: Instant) {
        self.skewed.retain(|_, skew| now < skew.at + FRESH);
        let told = self.skewed.values().filter(|skew| skew.times >= 2).map(|skew| {
            let seconds = skew.ahead_ms.unsigned_abs() / 1000;
            let where_ = if skew.ahead_ms > 0 { "ahead of" } else { "behind" };
            format!("{} is {seconds} s {where_} us", printable(&skew.node))
        });
        let told: Vec<String> = told.take(SKEWED_TOLD_MAX).collect();
        if told.is_empty() {
            self.clear(Trouble::Clock);
        } else {
            self.trouble(
                Trouble::Clock,
                format!(
                    "a clock is wrong: {}, and what is more than {} s away is not believed, because it may have been recorded. Set the clocks (NTP)",
                    told.join(", "),
                    FRESH.as_secs()
                ),
            );
        }
    }

    /// Forgets somebody who is not there any more.
    fn make_room(&mut self) -> bool {
        let gone = self.seen.iter().filter(|(_, seen)| seen.places.is_empty());
        let oldest = gone.min_by_key(|(_, seen)| seen.last).map(|(salt, _)| *salt);
        oldest.and_then(|salt| self.seen.remove(&salt)).is_some()
    }

    /// Leaves out who was not heard for `forget`. Not to be called while we may be deaf. When to look again.
    pub(super) fn expire(
        &mut self,
        now: Instant,
        since: Instant,
        forget: Duration,
    ) -> Option<Instant> {
        let mut changed = false;
        let mut next: Option<Instant> = None;
        self.seen.retain(|_, seen| {
            seen.places.retain(|_, place| {
                let until = place.heard.max(since) + forget;
                let stays = until > now;
                changed |= !stays;
                if stays {
                    next = Some(next.map_or(until, |next| next.min(until)));
                }
                stays
            });
            !seen.places.is_empty() || seen.last + REMEMBERED > now
        });
        self.tell_skew(now);
        if changed {
            self.report();
        }
        next
    }

    pub(super) fn trouble(&mut self, trouble: Trouble, why: String) {
        if self.troubles.get(&trouble) != Some(&why) {
            self.troubles.insert(trouble, why);
            self.report();
        }
    }

    pub(super) fn clear(&mut self, trouble: Trouble) {
        if self.troubles.remove(&trouble).is_some() {
            self.report();
        }
    }

    pub(super) fn has(&self, trouble: Trouble) -> bool {
        self.troubles.contains_key(&trouble)
    }

    /// Our own word came back: what there is to be seen is seen.
    pub(super) fn is_heard(&mut self) {
        if !self.has_reported {
            self.report();
        }
    }

    fn report(&mut self) {
        self.has_reported = true;
        let sightings = newest(self.seen.values().filter_map(Seen::sighting).collect());
        let troubles: Vec<&str> = self.troubles.values().map(String::as_str).collect();
        let told = (!troubles.is_empty()).then(|| troubles.join("; "));
        if self.told != told {
            match &told {
                Some(why) => tracing::warn!(strategy = "gossip", "{why}"),
                None => tracing::info!(strategy = "gossip", "is well again"),
            }
        }
        match &told {
            None => self.reporter.visible(sightings),
            Some(why) => self.reporter.visible_but(sightings, why.clone()),
        }
        self.told = told;
    }
}

impl Seen {
    /// Whether anything of it is new.
    fn take(&mut self, message: Message, incarnation: u64, from: SocketAddr, now: Instant) -> bool {
        let plain = |text: &String| !text.chars().any(char::is_control);
        let ids = message.ids.iter().filter_map(|id| hex_u64(id).map(u64::to_be_bytes));
        let sighting = Sighting {
            node: Some(message.node),
            incarnation: Some(incarnation),
            mesh: Some(message.mesh),
            ids: ids.collect(),
            labels: message.labels.into_iter().filter(|(k, v)| plain(k) && plain(v)).collect(),
            ..Sighting::default()
        };
        let texts = message.addresses.iter().take(ADDRESSES_MAX);
        let mut addresses: Vec<SocketAddr> = texts.filter_map(|text| address(text, from)).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let key = (message.on, from.is_ipv6());
        let mut news = self.sighting != sighting;
        self.sighting = sighting;
        if addresses.is_empty() {
            news |= self.places.remove(&key).is_some();
        } else if self.places.len() < PLACES_MAX || self.places.contains_key(&key) {
            let from = from.ip().to_canonical();
            let last = self.places.get(&key);
            news |= last.is_none_or(|last| last.from != from || last.addresses != addresses);
            self.places.insert(key, Place { from, addresses, heard: now });
        }
        news
    }

    fn sighting(&self) -> Option<Sighting> {
        let first = self.places.values().next()?;
        let mut addresses: Vec<SocketAddr> =
            self.places.values().flat_map(|place| place.addresses.iter().copied()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let source = format!("gossip from {}", first.from);
        Some(Sighting { addresses, source, ..self.sighting.clone() })
    }
}

/// An address that was told, as it can be dialled from here: loopback only when it was told over loopback, and one of a
/// link through the interface on which it was heard.
fn address(text: &str, from: SocketAddr) -> Option<SocketAddr> {
    let mut address: SocketAddr = text.parse().ok()?;
    let ip = address.ip();
    if address.port() == 0 || ip.is_unspecified() || ip.is_multicast() {
        return None;
    }
    if ip.is_loopback() && !from.ip().is_loopback() {
        return None;
    }
    if let SocketAddr::V6(address) = &mut address
        && is_link_local(ip)
    {
        match from {
            SocketAddr::V6(from) if from.scope_id() != 0 => address.set_scope_id(from.scope_id()),
            _ => return None,
        }
    }
    Some(address)
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}
