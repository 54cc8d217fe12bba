//! `gossip`: the nodes on the same network, by UDP multicast, for those who know the mesh's secret only.
//!
//! Each node tells a multicast group who it is and where it listens, sealed with a key that comes from the mesh's cookie
//! and its name. Who has no key reads nothing of it and can say nothing in it: unlike `mdns`, nobody else learns that there
//! are nodes, what they are called or where they listen. As libcluster's Gossip, but authenticated, and over IPv6 too.
//!
//! ```text
//! --strategy gossip
//! --strategy 'gossip://?interface=eth0&port=45892&multicast-addr=233.252.1.32'
//! --strategy 'gossip://?secret-file=/etc/pillion/gossip'      # where certificates take the place of a cookie
//! ```
//!
//! | option | default | |
//! | --- | --- | --- |
//! | `port` | 45892 | the UDP port, the same on all nodes |
//! | `multicast-addr` | `233.252.1.32,ff12::504c:4c4e` | the groups: one of IPv4, one of IPv6, or both. The one that is left out is not used |
//! | `ttl` | 1 | how many routers a packet may pass; 1 is none, and more needs routers that route multicast |
//! | `interface` | as for `mdns` | names, separated by commas; `lo` can be asked for |
//! | `if-addr` | none | the same by address: `10.0.0.5` is the interface that has it |
//! | `broadcast-only` | `false` | IPv4 broadcast instead of multicast, for networks that drop that |
//! | `secret-file` | none: the cookie | a file of secrets as `pillion cookie new` makes them, one per line: the first seals, all open. Needed with certificates. Read again when it changes |
//! | `interval` | `5s` | how often a node says that it is there, shortened by up to a quarter at random |
//!
//! - A node is heard of within milliseconds of its start: it speaks at once, and whoever hears somebody new answers at once,
//!   at most fifty times a second. It is forgotten at once when it says goodbye, and when it was not heard four intervals long.
//! - Several secrets make a change of the secret smooth: see "Changing the cookie" in docs/security.md.
//! - Each interface hears only its own addresses; those of loopback and of the bridges of containers are told nobody
//!   ([`interfaces`](crate::interfaces) has the rule). A node that listens on loopback only tells nothing and hears the others.
//! - Many nodes of one machine share the port. No privilege is needed, only that no firewall drops the port.
//!
//! **What is believed.** ChaCha20-Poly1305 under a key of the sender's own, which is derived from the mesh's key; what was
//! changed, sealed with another key, or heard before is ignored and counted (`pillion doctor` shows how often, and from
//! where last), and so is what was sealed more than a minute
//! before or after our own time: then the health says whose clock is apart and by how much. A packet has at most 1400 bytes.
//! Whoever has the secret can announce any node; the TLS hello proves who it is. More than 1000 strange packets within a second
//! are not read until the next, which the health tells.
//!
//! **What failure looks like.** As with `mdns`: when our own packets are not heard back within three seconds, the health and
//! the log say so, with what to do, and as long as that lasts nobody is forgotten. Interfaces that come and go, no network at
//! the start, a machine that slept and errors of sockets are noticed within four seconds and tried again.

mod ether;
mod packet;
mod view;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use self::ether::{Ether, Kind, Link, Udp, Wire, links};
use self::packet::{Message, PACKET_BYTES_MAX, Refused, Salt, Seal};
use self::view::{Heard, Memory, Trouble, View};
use crate::interfaces::{Choice, Network, is_link_local, is_tellable, takes};
use crate::keys::{Key, Keys};
use crate::options::{Url, wrong};
use crate::pace::{self, Clocks, until_next};
use crate::retry::{Retry, spread};
use crate::{Announcement, Reporter, Running, Strategy, StrategyError, Surroundings, Why};

/// libcluster's port.
const PORT: u16 = 45_892;
/// libcluster's group.
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(233, 252, 1, 32);
/// Link-local and nobody's for good (RFC 4291 section 2.7): the last four bytes are "PLLN".
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0x504c, 0x4c4e);
/// How often a node says that it is there.
const INTERVAL: Duration = Duration::from_secs(5);
/// After so many intervals without a word it is gone.
const FORGET_INTERVALS: u32 = 4;
/// A packet may be lost, so the first one is said again after this long, and after four times that.
const AGAIN: Duration = Duration::from_millis(250);
/// The least time between two words of one node.
const APART: Duration = Duration::from_millis(20);
/// Those who answer a newcomer do so within this time, not all at the same moment.
const ANSWER_WITHIN: Duration = Duration::from_millis(10);
/// How long our own packet may take to come back.
const ECHO: Duration = Duration::from_secs(3);
/// How often interfaces, clocks and the file of secrets are compared with what they were.
const LOOK: Duration = Duration::from_secs(4);
/// How often they are while there is no network.
const LOOK_OFFLINE: Duration = Duration::from_secs(2);
/// The pauses before the network is opened again when that failed.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_CAP: Duration = Duration::from_secs(30);
/// Most strange packets that are read within a second.
const STRANGE_MAX: u32 = 1000;
/// How long a flood is told of after its end.
const FLOOD_TOLD: Duration = Duration::from_secs(10);
/// Most ids that are told.
const IDS_MAX: usize = 14;

/// The strategy `gossip`. See the [module](self).
#[derive(Debug)]
pub struct Gossip(Over<Udp>);

/// It, over a network of this kind.
struct Over<E> {
    ether: E,
    keys: Keys,
    secret_file: Option<PathBuf>,
    interval: Duration,
    salt: Salt,
    /// How many packets were sealed: no number is used twice, however often this is run.
    sealed: AtomicU64,
    /// Who was heard, between two runs.
    memory: Mutex<Memory>,
}

impl<E> fmt::Debug for Over<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Over").finish_non_exhaustive()
    }
}

impl Gossip {
    pub(crate) fn from_url(url: &Url, surroundings: &Surroundings) -> Result<Self, StrategyError> {
        url.only(&[
            "port",
            "multicast-addr",
            "ttl",
            "interface",
            "if-addr",
            "broadcast-only",
            "secret-file",
            "interval",
        ])?;
        url.no_place()?;
        let number = |key: &str, text: &str| {
            wrong(format!(
                "`{key}={text}` is no number from 1 to {}",
                if key == "ttl" { 255 } else { 65_535 }
            ))
        };
        let port = match url.option("port") {
            None => PORT,
            Some(text) => {
                text.parse().ok().filter(|port| *port != 0).ok_or_else(|| number("port", text))?
            }
        };
        let ttl = match url.option("ttl") {
            None => 1,
            Some(text) => {
                text.parse().ok().filter(|ttl| *ttl != 0).ok_or_else(|| number("ttl", text))?
            }
        };
        let broadcast_only = match url.option("broadcast-only") {
            None | Some("false") => false,
            Some("" | "true") => true,
            Some(text) => {
                return Err(wrong(format!("`broadcast-only={text}` is neither true nor false")));
            }
        };
        let (v4, v6) = groups(url.option("multicast-addr"))?;
        if broadcast_only && url.option("multicast-addr").is_some() {
            return Err(wrong(
                "broadcast-only and multicast-addr exclude each other: write one of them",
            ));
        }
        if let Some(text) = url.option("if-addr")
            && text.split(',').any(|text| text.trim().parse::<IpAddr>().is_err())
        {
            return Err(wrong(format!(
                "`if-addr={text}` is no address; interface=NAME takes names"
            )));
        }
        let chosen = [url.option("interface"), url.option("if-addr")];
        let chosen: Vec<&str> = chosen.into_iter().flatten().collect();
        let secret_file = url.option("secret-file").filter(|path| !path.is_empty());
        if secret_file.is_none() && surroundings.keys.of_mesh().is_none() {
            return Err(wrong(
                "gossip needs a secret that all nodes share, and with certificates there is none: name a file with secret-file=, which `pillion cookie new` fills",
            ));
        }
        let choice = Choice::parse(&chosen.join(","));
        let ether = Udp { choice, port, v4, v6, ttl, broadcast_only };
        let interval = url.duration("interval")?;
        Over::new(ether, interval, secret_file.map(PathBuf::from), surroundings).map(Self)
    }
}

fn groups(text: Option<&str>) -> Result<(Option<Ipv4Addr>, Option<Ipv6Addr>), StrategyError> {
    let Some(text) = text else { return Ok((Some(GROUP_V4), Some(GROUP_V6))) };
    let (mut v4, mut v6) = (None, None);
    for part in text.split(',').map(str::trim) {
        match part.parse::<IpAddr>().ok().filter(IpAddr::is_multicast) {
            Some(IpAddr::V4(ip)) if v4.is_none() => v4 = Some(ip),
            Some(IpAddr::V6(ip)) if v6.is_none() => v6 = Some(ip),
            _ => {
                return Err(wrong(format!(
                    "`multicast-addr={text}` is not one multicast address of IPv4, one of IPv6 or both: as in {GROUP_V4},{GROUP_V6}"
                )));
            }
        }
    }
    Ok((v4, v6))
}

impl<E: Ether> Over<E> {
    fn new(
        ether: E,
        interval: Option<Duration>,
        secret_file: Option<PathBuf>,
        surroundings: &Surroundings,
    ) -> Result<Self, StrategyError> {
        let mut salt = Salt::default();
        getrandom::fill(&mut salt).map_err(|_| wrong("the system has no randomness for gossip"))?;
        Ok(Self {
            ether,
            keys: surroundings.keys.clone(),
            secret_file,
            interval: interval.unwrap_or(INTERVAL),
            salt,
            sealed: AtomicU64::new(0),
            memory: Mutex::default(),
        })
    }

    async fn watch(&self, own: &Announcement, reporter: &Reporter) {
        let memory = std::mem::take(&mut *self.remembered());
        let mut run = Run {
            gossip: self,
            own,
            reporter,
            view: View::new(reporter, own, self.salt, memory, Instant::now()),
            secrets: Secrets::new(self),
            strange: Strange::default(),
        };
        let mut retry = Retry::new(RETRY_FIRST, RETRY_CAP);
        loop {
            let network = run.network().await;
            let started = Instant::now();
            let failed = match self.ether.open(&links(&network)) {
                Ok(wire) => match run.session(wire, network).await {
                    End::Changed => None,
                    End::Failed(error) => Some(error),
                },
                Err(error) => Some(error),
            };
            if started.elapsed() > RETRY_CAP || failed.is_none() {
                retry.succeeded();
            }
            if let Some(error) = failed {
                let what = self.ether.what();
                let why = format!("{what} cannot be used: {error}; it is tried again");
                run.view.trouble(Trouble::Network, why);
                sleep(retry.after_failure()).await;
            }
        }
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, Memory> {
        // Replaced whole, so a panic elsewhere leaves nothing half done.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Strategy for Gossip {
    fn name(&self) -> &'static str {
        "gossip"
    }

    fn run<'a>(&'a self, announcement: Announcement, reporter: &'a Reporter) -> Running<'a> {
        Box::pin(async move {
            self.0.watch(&announcement, reporter).await;
            Ok(())
        })
    }
}

/// Why a session ended.
#[derive(Debug)]
enum End {
    /// The network changed, or the machine slept.
    Changed,
    Failed(io::Error),
}

/// The keys in use, and where they come from.
struct Secrets {
    mesh: Option<watch::Receiver<Vec<Key>>>,
    keys: Keys,
    file: Option<PathBuf>,
    last: Vec<Key>,
}

impl Secrets {
    fn new<E>(gossip: &Over<E>) -> Self {
        let mesh = gossip.keys.of_mesh().filter(|_| gossip.secret_file.is_none());
        let (keys, file) = (gossip.keys.clone(), gossip.secret_file.clone());
        Self { mesh, keys, file, last: Vec::new() }
    }

    /// Looks whether there are others now.
    fn look(&mut self) -> Result<bool, String> {
        let keys = match (&self.file, &mut self.mesh) {
            (Some(file), _) => self.keys.of_file(file)?,
            (None, Some(mesh)) => mesh.borrow_and_update().clone(),
            (None, None) => Vec::new(),
        };
        if keys.is_empty() {
            return Err("gossip has no key yet".to_owned());
        }
        let news = keys != self.last;
        self.last = keys;
        Ok(news)
    }

    /// Completes when those of the mesh have changed. Cancel safe.
    async fn changed(&mut self) {
        if let Some(mesh) = &mut self.mesh
            && mesh.changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}

/// How many packets are nobody's of this mesh.
#[derive(Default)]
struct Strange {
    second: Option<Instant>,
    within: u32,
    flood: Option<Instant>,
}

impl Strange {
    /// Counts one; until when none is to be read, if they are too many.
    fn count(&mut self, now: Instant) -> Option<Instant> {
        let ends = |second: Instant| second + Duration::from_secs(1);
        if self.second.is_none_or(|second| now >= ends(second)) {
            self.second = Some(now);
            self.within = 0;
        }
        self.within += 1;
        let until = self.second.map(ends).filter(|_| self.within >= STRANGE_MAX);
        if until.is_some() {
            self.flood = Some(now);
        }
        until
    }
}

/// One run of the strategy. Dropping it keeps who was heard for the next one.
struct Run<'a, E: Ether> {
    gossip: &'a Over<E>,
    own: &'a Announcement,
    reporter: &'a Reporter,
    view: View<'a>,
    secrets: Secrets,
    strange: Strange,
}

impl<E: Ether> Drop for Run<'_, E> {
    fn drop(&mut self) {
        *self.gossip.remembered() = self.view.take_memory();
    }
}

/// An open network. Dropping it says goodbye.
struct Voice<'a, E: Ether> {
    gossip: &'a Over<E>,
    own: &'a Announcement,
    wire: E::Wire,
    links: Vec<Link>,
    seal: Option<Seal>,
    has_spoken: bool,
}

impl<E: Ether> Run<'_, E> {
    /// Waits until there is an interface to use.
    async fn network(&mut self) -> Network {
        let ether = &self.gossip.ether;
        loop {
            match ether.network() {
                Ok(network) if !network.is_empty() => {
                    return network;
                }
                Ok(_) => self.view.trouble(Trouble::Network, ether.nothing_to_use()),
                Err(error) => self.view.trouble(
                    Trouble::Network,
                    format!("the network interfaces cannot be listed: {error}"),
                ),
            }
            until_next(LOOK_OFFLINE).await;
        }
    }

    /// Speaks and listens until the network or the clocks make it pointless.
    async fn session(&mut self, wire: E::Wire, network: Network) -> End {
        let started = Instant::now();
        let mut voice = Voice {
            gossip: self.gossip,
            own: self.own,
            wire,
            links: links(&network),
            seal: None,
            has_spoken: false,
        };
        let tells = voice.links.iter().any(|link| !voice.told(link).is_empty());
        if tells {
            self.view.clear(Trouble::Deaf);
        } else {
            self.view.trouble(Trouble::Deaf, "nothing is announced, because the mesh port listens on loopback only, or only bridges of containers are up: others are seen but cannot see this node".to_owned());
        }
        let end = self.converse(&mut voice, &network, started).await;
        // It is opened again at once: nobody is told that this node has gone.
        voice.has_spoken = false;
        end
    }

    async fn converse(
        &mut self,
        voice: &mut Voice<'_, E>,
        network: &Network,
        started: Instant,
    ) -> End {
        let interval = self.gossip.interval;
        let mut clocks = Clocks::now();
        let mut buffer = vec![0; PACKET_BYTES_MAX + 1];
        // When to speak next, when last, and how often after the start.
        let (mut speak, mut spoke, mut words) = (started, started - APART, 0_u32);
        // The first word that has not come back, and since when they do.
        let (mut unheard, mut since): (Option<Instant>, Instant) = (None, started);
        let mut expire: Option<Instant> = None;
        let mut deaf_until: Option<Instant> = None;
        let mut look = pace::next(LOOK);
        self.look_at_secrets(voice);
        loop {
            let echo = unheard
                .map(|at| at + ECHO)
                .filter(|_| !self.view.has(Trouble::Echo) && !self.view.has(Trouble::Network));
            tokio::select! {
                biased;
                () = sleep_until(look) => {
                    look = pace::next(LOOK);
                    let now = Clocks::now();
                    let slept = now.jumped_since(&clocks);
                    let changed = self.gossip.ether.network().is_ok_and(|now| now != *network);
                    if slept || changed {
                        return End::Changed;
                    }
                    clocks = now;
                    if self.strange.flood.is_some_and(|at| at.elapsed() > FLOOD_TOLD) {
                        self.strange.flood = None;
                        since = Instant::now();
                        self.view.clear(Trouble::Flood);
                    }
                    if self.look_at_secrets(voice) {
                        speak = Instant::now();
                    }
                }
                () = self.secrets.changed() => {
                    self.look_at_secrets(voice);
                    speak = Instant::now();
                }
                () = sleep_until(speak) => {
                    let now = Instant::now();
                    words = words.saturating_add(1);
                    let pause = match words {
                        1 => AGAIN,
                        2 => 4 * AGAIN,
                        _ => interval,
                    };
                    speak = now + spread(pause.min(interval));
                    spoke = now;
                    if voice.seal.is_some() {
                        unheard.get_or_insert(now);
                        match voice.say(false) {
                            Ok(()) => self.view.clear(Trouble::Network),
                            Err(error) => {
                                let what = self.gossip.ether.what();
                                self.view.trouble(
                                    Trouble::Network,
                                    format!("{what} cannot be sent to on {network}: {error}; it is tried again"),
                                );
                            }
                        }
                    }
                }
                () = until(echo) => {
                    let what = self.gossip.ether.what();
                    self.view.trouble(Trouble::Echo, format!(
                        "our own packets were not heard back in {} s: no multicast on this network ({network}), or {what} is dropped by a firewall or kept by another program. Use --join HOST:PORT on one side",
                        ECHO.as_secs(),
                    ));
                }
                () = until(expire) => {
                    let now = Instant::now();
                    expire = if self.is_deaf(unheard, now) {
                        Some(now + ECHO)
                    } else {
                        self.view.expire(now, since, FORGET_INTERVALS * interval)
                    };
                }
                () = until(deaf_until) => deaf_until = None,
                received = voice.wire.receive(&mut buffer), if deaf_until.is_none() => {
                    let now = Instant::now();
                    let (length, from) = match received {
                        Ok(received) => received,
                        Err(error) => return End::Failed(error),
                    };
                    match self.take(voice, &mut buffer[..length], from, now) {
                        Some(Heard::Ourselves) => {
                            if self.view.has(Trouble::Echo) || self.is_deaf(unheard, now) {
                                since = now;
                                self.view.clear(Trouble::Echo);
                            }
                            unheard = None;
                            self.view.is_heard();
                        }
                        Some(Heard::Newcomer) => {
                            let soon = now.max(spoke + APART) + ANSWER_WITHIN - spread(ANSWER_WITHIN);
                            speak = speak.min(soon);
                        }
                        Some(Heard::Known) => {}
                        Some(Heard::Replayed | Heard::Skewed) | None => {
                            deaf_until = self.strange.count(now);
                            if deaf_until.is_some() {
                                let what = self.gossip.ether.what();
                                self.view.trouble(Trouble::Flood, format!(
                                    "more than {STRANGE_MAX} packets within a second came to {what} that are not of this mesh: new nodes may be found late. tcpdump shows who sends them",
                                ));
                            }
                        }
                    }
                    if expire.is_none() {
                        expire = Some(now + FORGET_INTERVALS * interval);
                    }
                }
            }
        }
    }

    /// Whether what others say may not reach us.
    fn is_deaf(&self, unheard: Option<Instant>, now: Instant) -> bool {
        unheard.is_some_and(|at| now >= at + ECHO) || self.view.has(Trouble::Flood)
    }

    fn take(
        &mut self,
        voice: &Voice<'_, E>,
        packet: &mut [u8],
        from: SocketAddr,
        now: Instant,
    ) -> Option<Heard> {
        let heard = match voice.seal.as_ref()?.open(packet) {
            Ok(opened) => Ok(self.view.hear(opened, from, now, unix_ms())),
            Err(Refused::Malformed) => Err(Why::Malformed),
            Err(Refused::Foreign) => Err(Why::Foreign),
        };
        let why = match heard {
            Err(why) => why,
            Ok(Heard::Replayed) => Why::Replayed,
            Ok(Heard::Skewed) => Why::Skewed,
            Ok(heard) => return Some(heard),
        };
        self.reporter.ignored(why, from.ip().to_canonical());
        heard.ok()
    }

    /// Takes the keys that there are now; whether they are others.
    fn look_at_secrets(&mut self, voice: &mut Voice<'_, E>) -> bool {
        let news = self.secrets.look();
        match &news {
            Ok(_) => self.view.clear(Trouble::Keys),
            Err(why) => {
                let kept = if self.secrets.last.is_empty() { "" } else { "; the last ones stay" };
                self.view.trouble(Trouble::Keys, format!("{why}{kept}"));
            }
        }
        let news = news == Ok(true);
        if news || voice.seal.is_none() {
            voice.seal = Seal::new(&self.secrets.last, self.gossip.salt);
        }
        news
    }
}

impl<E: Ether> Voice<'_, E> {
    /// What others on this link are told: where we can be dialled there.
    fn told(&self, link: &Link) -> Vec<SocketAddr> {
        let mut told = Vec::new();
        for address in self.own.listen.iter().filter(|address| address.port() != 0) {
            if !address.ip().is_unspecified() {
                if link.ips.contains(&address.ip()) || is_tellable(address.ip()) {
                    told.push(*address);
                }
            } else if link.told {
                let ips = link.ips.iter().filter(|ip| takes(*address, **ip));
                told.extend(ips.map(|ip| SocketAddr::new(*ip, address.port())));
            }
        }
        // A link-local address is for where there is nothing else: a cable between two machines.
        if told.iter().any(|address| !is_link_local(address.ip())) {
            told.retain(|address| !is_link_local(address.ip()));
        }
        told.sort_unstable();
        told.dedup();
        told
    }

    /// Says on every link that we are there, or that we go. Well when it went out on any of them.
    fn say(&mut self, gone: bool) -> io::Result<()> {
        let Some(seal) = &self.seal else { return Ok(()) };
        let mut failed = None;
        let mut went = false;
        let ways = self.links.iter().flat_map(|link| [(link, Kind::V4), (link, Kind::V6)]);
        for (link, kind) in ways.filter(|(link, kind)| self.wire.reaches(link, *kind)) {
            let ids = self.own.ids.iter().take(IDS_MAX);
            let message = Message {
                gone,
                mesh: self.own.mesh.clone(),
                node: self.own.node.clone(),
                incarnation: format!("{:016x}", self.own.incarnation),
                protocol: self.own.protocol,
                on: link.name.clone(),
                addresses: self.told(link).iter().map(ToString::to_string).collect(),
                ids: ids.map(|id| format!("{:016x}", u64::from_be_bytes(*id))).collect(),
                labels: self.own.labels.clone(),
            };
            let number = self.gossip.sealed.fetch_add(1, Ordering::Relaxed) + 1;
            let Some(packet) = seal.seal(message, number, unix_ms()) else {
                return Err(io::Error::other("the node's name is too long for a packet"));
            };
            match self.wire.send(link, kind, &packet) {
                Ok(()) => went = true,
                Err(error) => failed = Some(error),
            }
        }
        self.has_spoken |= went;
        match failed {
            Some(error) if !went => Err(error),
            _ => Ok(()),
        }
    }
}

impl<E: Ether> Drop for Voice<'_, E> {
    fn drop(&mut self) {
        if self.has_spoken {
            // One may be lost, and there is no waiting in a drop.
            let _ = self.say(true);
            let _ = self.say(true);
        }
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
