//! Whom this node wants to be connected to, where they may be, and when to try next. Decides; does nothing.
//!
//! Strategies report whole sets, peers tell hearsay, people ask: all are merged into targets with their sources.
//! A target whose run is known is one run of one node; one of which only addresses are known is those addresses.
//! What answers at an address is remembered, so that an address that leads to this node itself, or to somebody
//! who is connected already, is not dialled again and again.

mod owners;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use pillion_strategies::{Report, Sighting};
use tokio::time::Instant;

use self::owners::Owners;
pub(crate) use self::rows::{Row, RowState};
use super::hearsay::Hearsay;
use super::remembered::{Remember, Remembered};
use super::sources::Sources;
use crate::backoff::{Backoff, Rng, Waits};
use crate::peer::{ConnId, Failure, scope};
use crate::wire::id::{Incarnation, Node, NodeName};

/// How long to wait for a peer that does not answer. One that restarts in place is back within milliseconds, so the
/// first tries are quick.
const PASSING: Waits = Waits { first: Duration::from_millis(5), cap: Duration::from_secs(5) };
/// How long to wait for one that refused us for a cause that time alone does not heal.
const CAUSE: Waits = Waits { first: Duration::from_secs(1), cap: Duration::from_secs(30) };
/// How long to wait for one that nobody reports any more, and that is only remembered.
const AWAY: Waits = Waits { first: Duration::from_millis(5), cap: Duration::from_secs(60) };
/// Most targets; what comes after is not dialled and not listed.
const TARGETS_MAX: usize = 4096;
/// Most wishes of people.
const ASKED_MAX: usize = 1024;
/// What a junior waits before it dials a senior whose name it knows: the senior is likely to dial as well.
const JUNIOR_WAIT: Duration = Duration::from_millis(50);
/// A connection that lasted this long was a success.
const SUCCESS_AFTER: Duration = Duration::from_secs(1);
/// Most nodes that an explicit disconnect keeps away.
const PARTED_MAX: usize = 1024;
/// How long the other side of an explicit disconnect may take to hear of it.
const PARTING: Duration = Duration::from_secs(1);

/// Names a target for as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TargetId(u64);

/// The source of what is only remembered.
pub(super) const REMEMBERED: &str = "remembered";
/// The source of a peer that was lost a moment ago.
pub(super) const LOST: &str = "lost";
/// The source of what people ask for.
const ASKED: &str = "asked";
/// Most labels that a source may know of one node.
const LABELS_MAX: usize = 64;

/// Since when a source speaks of a node, and until when it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Provenance {
    pub since: Instant,
    /// When it was last known to be true; `None` where it is now.
    pub last: Option<Instant>,
    /// The source still says so, though it may be unwell.
    pub reports: bool,
}

impl Provenance {
    /// One source may speak of a node in several ways.
    fn merge(&mut self, other: Self) {
        self.since = self.since.min(other.since);
        self.reports |= other.reports;
        self.last = match (self.last, other.last) {
            (Some(one), Some(other)) => Some(one.max(other)),
            _ => None,
        };
    }
}

/// Who speaks of a node.
pub(crate) type Provenances = BTreeMap<String, Provenance>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Node(NodeName, Option<Incarnation>),
    Addresses(BTreeSet<SocketAddr>),
}

impl Key {
    /// Whether it names somebody who is connected.
    fn is_held(&self, held: &Held) -> bool {
        match self {
            Self::Node(name, Some(run)) => held.get(name) == Some(run),
            Self::Node(name, None) => held.contains_key(name),
            Self::Addresses(_) => false,
        }
    }
}

/// A round of dials: all of these at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Round {
    /// Which target.
    pub target: TargetId,
    /// Where.
    pub addresses: Vec<SocketAddr>,
}

/// How a try at one address ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// No connection; why, and whether time alone may heal it.
    Failed(Failure, String),
    /// It was a second connection to somebody who is connected, or it was called off.
    Superfluous,
    /// It was the connection, and lasted this long.
    Ended(Duration),
}

#[derive(Debug)]
struct Target {
    id: TargetId,
    addresses: BTreeSet<SocketAddr>,
    sources: Provenances,
    /// What the sources know of it.
    labels: BTreeMap<String, String>,
    since: Instant,
    /// Why it is never dialled.
    barred: Option<String>,
    /// Why the last round failed, per address.
    reasons: BTreeMap<SocketAddr, String>,
    /// The same of the round that is under way.
    failing: BTreeMap<SocketAddr, String>,
    worst: Option<Failure>,
    backoff: Backoff,
    next: Instant,
    /// Of those that are due together this says who is first: a hundred nodes that start with one list do not all begin
    /// with the same one.
    lot: u64,
    dialling: BTreeSet<ConnId>,
}

#[derive(Debug, Default)]
struct Merged {
    addresses: BTreeSet<SocketAddr>,
    sources: Provenances,
    labels: BTreeMap<String, String>,
    barred: Option<String>,
    /// Somebody says so who need not be barred.
    good: bool,
}

impl Merged {
    fn says(&mut self, source: impl Into<String>, provenance: Provenance) {
        self.sources.entry(source.into()).and_modify(|p| p.merge(provenance)).or_insert(provenance);
    }
}

/// Who is connected, by name: the run.
pub(crate) type Held = BTreeMap<NodeName, Incarnation>;

/// Everything that is wanted.
#[derive(Debug)]
pub(crate) struct Wanted {
    me: Node,
    mesh: String,
    /// Acts on hearsay. Hidden nodes do not, as in Erlang.
    listens: bool,
    rng: Rng,
    /// What the strategies report.
    pub sources: Sources,
    /// Whom we were connected to.
    pub remembered: Remembered,
    asked: BTreeMap<Key, Instant>,
    asked_addresses: BTreeMap<NodeName, BTreeSet<SocketAddr>>,
    /// What peers say; the owner changes it and calls [`Wanted::merge`].
    pub hearsay: Hearsay,
    parted: BTreeMap<Node, Instant>,
    targets: BTreeMap<Key, Target>,
    owners: Owners,
    ids: u64,
}

impl Wanted {
    /// Nobody wanted yet.
    pub(crate) fn new(
        me: Node,
        mesh: &str,
        hidden: bool,
        remember: Remember,
        seed: u64,
        now: Instant,
    ) -> Self {
        Self {
            owners: Owners::new(me.clone()),
            me,
            mesh: mesh.to_owned(),
            listens: !hidden,
            rng: Rng::new(seed),
            sources: Sources::default(),
            remembered: Remembered::new(remember, now),
            asked: BTreeMap::new(),
            asked_addresses: BTreeMap::new(),
            hearsay: Hearsay::default(),
            parted: BTreeMap::new(),
            targets: BTreeMap::new(),
            ids: 0,
        }
    }

    /// Replaces what a strategy sees.
    pub(crate) fn report(&mut self, strategy: &str, report: Report, now: Instant) {
        self.sources.report(strategy, report, now);
    }

    /// Notes who is there of those that are remembered, after a merge. True when somebody was pruned.
    pub(crate) fn remember(&mut self, held: &Held, now: Instant) -> bool {
        let owners = &self.owners;
        let mut there: BTreeSet<&NodeName> = BTreeSet::new();
        for (key, target) in &self.targets {
            let own = |source: &str| source == REMEMBERED || source == LOST;
            if target.sources.iter().any(|(source, p)| p.reports && !own(source)) {
                match key {
                    Key::Node(name, _) => drop(there.insert(name)),
                    Key::Addresses(addresses) => {
                        there.extend(
                            addresses.iter().filter_map(|a| owners.last(a)).map(|node| &node.name),
                        );
                    }
                }
            }
        }
        let pruned =
            self.remembered.look(|name| there.contains(name), |name| held.contains_key(name), now);
        for name in &pruned {
            self.hearsay.unlose(&self.me.name, name);
            self.sources.forget(name.as_str());
        }
        !pruned.is_empty()
    }

    /// Forgets what has lapsed. True when that was anything.
    pub(crate) fn expire(&mut self, now: Instant) -> bool {
        self.hearsay.expire(now) | self.sources.expire(now)
    }

    /// When something lapses next.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        let each =
            [self.hearsay.next_expiry(), self.sources.next_expiry(), self.remembered.next_expiry()];
        each.into_iter().flatten().min()
    }

    /// Somebody asked for a connection to these addresses.
    pub(crate) fn ask_addresses(&mut self, addresses: BTreeSet<SocketAddr>, now: Instant) {
        let parted: Vec<Node> =
            addresses.iter().filter_map(|a| self.owners.last(a).cloned()).collect();
        for node in parted {
            self.forgive(&node);
        }
        if self.asked.len() < ASKED_MAX {
            self.asked.entry(Key::Addresses(addresses)).or_insert(now);
        }
    }

    /// Somebody asked for a connection to this node. False when nobody ever spoke of it.
    pub(crate) fn ask_name(&mut self, name: &NodeName, now: Instant) -> bool {
        let parted: Vec<Node> = self
            .parted
            .keys()
            .chain(self.hearsay.tombstones())
            .filter(|node| node.name == *name)
            .cloned()
            .collect();
        for node in &parted {
            self.forgive(node);
        }
        let mut addresses: BTreeSet<SocketAddr> = self
            .targets
            .iter()
            .filter(|(key, _)| matches!(key, Key::Node(n, _) if n == name))
            .flat_map(|(_, target)| target.addresses.iter().copied())
            .collect();
        addresses.extend(self.owners.places(name));
        if addresses.is_empty() {
            return false;
        }
        if self.asked.len() < ASKED_MAX {
            self.asked.entry(Key::Node(name.clone(), None)).or_insert(now);
            self.asked_addresses.entry(name.clone()).or_default().extend(addresses);
        }
        true
    }

    /// The wish is void: it led nowhere, or the opposite was asked.
    pub(crate) fn unask_addresses(&mut self, addresses: &BTreeSet<SocketAddr>) {
        self.asked.remove(&Key::Addresses(addresses.clone()));
    }

    /// The wish is void: it led nowhere, or the opposite was asked.
    pub(crate) fn unask_name(&mut self, name: &NodeName) {
        self.asked.remove(&Key::Node(name.clone(), None));
        self.asked_addresses.remove(name);
        let owners = &self.owners;
        self.asked.retain(|key, _| match key {
            Key::Node(..) => true,
            Key::Addresses(set) => !owners.any(set, |node| node.name == *name),
        });
    }

    /// Keeps away from this run of a node until somebody asks for it, or a later run shows up.
    pub(crate) fn part(&mut self, node: &Node, now: Instant) {
        if self.parted.len() >= PARTED_MAX {
            self.parted.pop_first();
        }
        self.parted.insert(node.clone(), now);
    }

    /// Whether a connection with this node is the leftover of one that was ended on request: a dial that was under way
    /// at either side, or one from a side that has not heard of it yet. Later ones from there were asked for there.
    pub(crate) fn is_parted(&self, node: &Node, dialled: bool, now: Instant) -> bool {
        self.parted.get(node).is_some_and(|at| dialled || now < *at + PARTING)
    }

    /// It may be dialled again.
    pub(crate) fn forgive(&mut self, node: &Node) {
        self.parted.remove(node);
        self.hearsay.forgive(node);
    }

    /// `node` answered at `address`.
    pub(crate) fn learn(&mut self, address: SocketAddr, node: Node, now: Instant) {
        self.owners.answered(address, node, now);
    }

    /// The hello of a peer that is seen at `seen` was read, where this node dialled it at `dialled`.
    pub(crate) fn meets(
        &mut self,
        node: &Node,
        addresses: &[SocketAddr],
        seen: IpAddr,
        dialled: Option<SocketAddr>,
        held: &Held,
        now: Instant,
    ) {
        self.owners.meets(node);
        self.owners.names(node, addresses, seen, dialled, held, now);
    }

    /// The connection with a peer whose hello was read is up, or has ended.
    pub(crate) fn met(&mut self, node: &Node) {
        self.owners.met(node);
    }

    /// Who was at this address last.
    pub(crate) fn owner(&self, address: &SocketAddr) -> Option<&Node> {
        self.owners.last(address)
    }

    /// Puts all sources together. Targets that stay keep their history; new ones, and ones with a new address, are
    /// due at once.
    pub(crate) fn merge(&mut self, ids: &[[u8; 8]], now: Instant) {
        let mut merged = self.collect(ids);
        self.targets.retain(|key, target| merged.contains_key(key) || !target.dialling.is_empty());
        for (key, target) in &mut self.targets {
            let Some(found) = merged.remove(key) else {
                // Only until what is under way has ended.
                target.sources.clear();
                continue;
            };
            let barred = if found.good { None } else { found.barred };
            // Reported again after so long that it was only remembered.
            let back = is_away(&target.sources) && !is_away(&found.sources);
            let fresh = found.addresses.difference(&target.addresses).next().is_some()
                || (target.barred.is_some() && barred.is_none())
                || back;
            if fresh {
                target.backoff.reset();
                target.next = now;
            }
            target.addresses = found.addresses;
            target.reasons.retain(|address, _| target.addresses.contains(address));
            target.sources = found.sources;
            target.labels = found.labels;
            target.barred = barred;
        }
        for (key, found) in merged {
            if self.targets.len() >= TARGETS_MAX {
                break;
            }
            self.ids += 1;
            let wait = if self.is_senior(&key) { JUNIOR_WAIT } else { Duration::ZERO };
            let target = Target {
                id: TargetId(self.ids),
                addresses: found.addresses,
                sources: found.sources,
                labels: found.labels,
                since: now,
                barred: if found.good { None } else { found.barred },
                reasons: BTreeMap::new(),
                failing: BTreeMap::new(),
                worst: None,
                backoff: Backoff::default(),
                next: now + wait,
                lot: self.rng.next(),
                dialling: BTreeSet::new(),
            };
            self.targets.insert(key, target);
        }
    }

    fn collect(&self, ids: &[[u8; 8]]) -> BTreeMap<Key, Merged> {
        let mut merged: BTreeMap<Key, Merged> = BTreeMap::new();
        let stopped: BTreeSet<&NodeName> = self.hearsay.tombstones().map(|n| &n.name).collect();
        for (strategy, source) in self.sources.iter() {
            for seen in &source.seen {
                let sighting = &seen.sighting;
                let addresses: BTreeSet<SocketAddr> = sighting
                    .addresses
                    .iter()
                    .map(|a| scope::canonical(*a))
                    .filter(|a| scope::is_dialable(*a))
                    .take(scope::ADDRESSES_MAX)
                    .collect();
                let name = sighting.node.as_deref().and_then(|n| n.parse::<NodeName>().ok());
                let incarnation = sighting.incarnation.map(Incarnation);
                let me = name.as_ref() == Some(&self.me.name)
                    && incarnation.is_none_or(|i| i == self.me.incarnation);
                // One that is reported no longer and has said goodbye did not flicker.
                let left = || match &name {
                    Some(name) => stopped.contains(name),
                    None => self.owners.any(&addresses, |node| self.hearsay.is_gone(node)),
                };
                if me || addresses.is_empty() || (seen.gone.is_some() && left()) {
                    continue;
                }
                let key = match name {
                    Some(name) => Key::Node(name, incarnation),
                    None => Key::Addresses(addresses.clone()),
                };
                let entry = merged.entry(key).or_default();
                let said = Provenance {
                    since: seen.since,
                    last: source.last(seen),
                    reports: seen.gone.is_none(),
                };
                let by = if sighting.source.is_empty() { strategy } else { &sighting.source };
                entry.says(by, said);
                if let Some(why) = self.bar(sighting, ids) {
                    entry.barred = Some(why);
                    if !entry.good {
                        entry.addresses.extend(addresses);
                    }
                } else {
                    if !entry.good {
                        entry.addresses.clear();
                    }
                    entry.good = true;
                    entry.addresses.extend(addresses);
                    for (key, value) in sighting.labels.iter().take(LABELS_MAX) {
                        entry.labels.entry(key.clone()).or_insert_with(|| value.clone());
                    }
                }
            }
        }
        if self.listens {
            for rumour in self.hearsay.iter() {
                let node = rumour.node;
                if node.name == self.me.name && node.incarnation == self.me.incarnation {
                    continue;
                }
                let key = Key::Node(node.name.clone(), Some(node.incarnation));
                let entry = merged.entry(key).or_default();
                let source = if *rumour.teller == self.me.name {
                    LOST.to_owned()
                } else {
                    format!("peer {}", rumour.teller)
                };
                let (since, last) = (rumour.since, rumour.ended);
                entry.says(source, Provenance { since, last, reports: last.is_none() });
                entry.addresses.extend(rumour.addresses);
                entry.good = true;
            }
        }
        for (key, since) in &self.asked {
            let entry = merged.entry(key.clone()).or_default();
            match key {
                Key::Addresses(addresses) => entry.addresses.extend(addresses),
                Key::Node(name, _) => {
                    entry.addresses.extend(self.asked_addresses.get(name).into_iter().flatten());
                }
            }
            entry.says(ASKED, Provenance { since: *since, last: None, reports: true });
            entry.good = true;
        }
        for (name, addresses, since, last) in self.remembered.iter() {
            if *name == self.me.name {
                continue;
            }
            let entry = merged.entry(Key::Node(name.clone(), None)).or_default();
            entry.says(REMEMBERED, Provenance { since, last, reports: true });
            // Where it is now counts more than where it was.
            if !entry.good {
                entry.addresses.extend(addresses);
            }
            entry.good = true;
        }
        fold_nameless_runs(&mut merged);
        drop_covered(&mut merged);
        merged
    }

    /// Why a sighting is never dialled.
    fn bar(&self, sighting: &Sighting, ids: &[[u8; 8]]) -> Option<String> {
        if let Some(mesh) = sighting.mesh.as_ref().filter(|mesh| **mesh != self.mesh) {
            return Some(format!(
                "is in the mesh `{mesh}`, this node in `{}`: start both with the same --mesh to join them",
                self.mesh
            ));
        }
        if !sighting.ids.is_empty() && !sighting.ids.iter().any(|id| ids.contains(id)) {
            return Some(
                "has another cookie or CA: give both nodes the same one to join them".to_owned(),
            );
        }
        None
    }

    /// Whether the other side of this target is known to be senior to us.
    fn is_senior(&self, key: &Key) -> bool {
        match key {
            Key::Node(name, incarnation) => {
                (name, incarnation.unwrap_or(Incarnation(0))) < (&self.me.name, self.me.incarnation)
            }
            Key::Addresses(addresses) => self.owners.any(addresses, |node| *node < self.me),
        }
    }

    /// Why a run of a node is left alone.
    fn left_alone(&self, node: &Node) -> Option<Idle> {
        if self.parted.contains_key(node) {
            return Some(Idle::Parted);
        }
        self.hearsay.is_gone(node).then_some(Idle::Goodbye)
    }

    /// Where a target is worth a dial now; an error says why nowhere, and whether it is connected anyway.
    fn dialable(
        &self,
        key: &Key,
        target: &Target,
        held: &Held,
        now: Instant,
    ) -> Result<Vec<SocketAddr>, Idle> {
        if target.barred.is_some() {
            return Err(Idle::Barred);
        }
        if key.is_held(held) {
            return Err(Idle::Connected);
        }
        match key {
            Key::Node(name, Some(incarnation)) => {
                let node = Node { name: name.clone(), incarnation: *incarnation };
                if let Some(idle) = self.left_alone(&node) {
                    return Err(idle);
                }
            }
            Key::Node(_, None) => {}
            Key::Addresses(addresses) => {
                let mut owners = addresses.iter().filter_map(|a| self.owners.fresh(a, held, now));
                if owners.any(|owner| owner.name != self.me.name) {
                    return Err(Idle::Connected);
                }
            }
        }
        let mut parted = false;
        let addresses: Vec<SocketAddr> = target
            .addresses
            .iter()
            .copied()
            .filter(|address| {
                if self.owners.fresh(address, held, now).is_some() {
                    return false;
                }
                // A goodbye at shutdown does not bar an address: the next run may listen there.
                let owner = self.owners.last(address);
                let apart = owner.is_some_and(|owner| self.parted.contains_key(owner));
                parted |= apart;
                !apart
            })
            .collect();
        match (addresses.is_empty(), parted) {
            (false, _) => Ok(addresses),
            (true, true) => Err(Idle::Parted),
            (true, false) => Err(Idle::Connected),
        }
    }

    /// Whether it will soon be known of a target whether it is connected, without another dial.
    fn is_soon_known(&self, key: &Key) -> bool {
        matches!(key, Key::Node(name, run) if self.owners.is_met(name, *run))
    }

    /// The rounds that are due. Each is to be begun with [`Wanted::begun`].
    pub(crate) fn due(&self, held: &Held, now: Instant, dials_max: usize) -> Vec<Round> {
        if dials_max == 0 {
            return Vec::new();
        }
        let mut due: Vec<(&Key, &Target)> = self
            .targets
            .iter()
            .filter(|(_, t)| t.dialling.is_empty() && t.next <= now && !t.sources.is_empty())
            .filter(|(key, _)| !key.is_held(held))
            .collect();
        // Who has waited longest goes first, so that a thousand dead ones do not starve a living one.
        due.sort_by_key(|(_, target)| (target.next, target.lot));
        let (mut rounds, mut dials) = (Vec::new(), BTreeSet::new());
        for (key, target) in due {
            if dials.len() >= dials_max {
                break;
            }
            if self.is_soon_known(key) {
                continue;
            }
            if let Ok(mut addresses) = self.dialable(key, target, held, now) {
                // What another round dials now need not be dialled twice.
                addresses.retain(|a| !self.owners.is_soon_known(a) && dials.insert(*a));
                if !addresses.is_empty() {
                    rounds.push(Round { target: target.id, addresses });
                }
            }
        }
        rounds
    }

    /// When the next round is due.
    pub(crate) fn next_due(&self, held: &Held, now: Instant) -> Option<Instant> {
        self.targets
            .iter()
            .filter(|(_, target)| target.dialling.is_empty() && !target.sources.is_empty())
            .filter(|(key, _)| !key.is_held(held))
            .filter_map(|(key, target)| match self.dialable(key, target, held, now) {
                // The end of what is under way is what wakes us.
                Ok(_) if self.is_soon_known(key) => None,
                Ok(addresses) if addresses.iter().all(|a| self.owners.is_soon_known(a)) => None,
                Ok(_) => Some(target.next),
                Err(Idle::Barred | Idle::Parted | Idle::Goodbye) => None,
                // What was learned of its addresses goes stale some time.
                Err(Idle::Connected) => target
                    .addresses
                    .iter()
                    .filter(|address| self.owners.fresh(address, held, now).is_some())
                    .filter_map(|address| self.owners.until(address))
                    .min(),
            })
            .min()
    }

    /// A dial of a round was begun.
    pub(crate) fn begun(&mut self, target: TargetId, conn: ConnId, address: SocketAddr) {
        self.owners.dials(address);
        if let Some(target) = self.target(target) {
            if target.dialling.is_empty() {
                target.failing.clear();
                target.worst = None;
            }
            target.dialling.insert(conn);
        }
    }

    /// A dial of a round has ended. Returns the target's reason when the round is over and failed.
    pub(crate) fn over(
        &mut self,
        target: TargetId,
        conn: ConnId,
        address: SocketAddr,
        outcome: Outcome,
        now: Instant,
    ) -> Option<(String, String)> {
        self.owners.dialled(&address);
        let mut rng = Rng::new(self.rng.next());
        let key = self.targets.iter().find(|(_, t)| t.id == target).map(|(key, _)| key.clone())?;
        let senior = self.is_senior(&key);
        let target = self.targets.get_mut(&key)?;
        target.dialling.remove(&conn);
        match outcome {
            Outcome::Failed(failure, why) => {
                target.failing.insert(address, why);
                if target.worst != Some(Failure::Cause) {
                    target.worst = Some(failure);
                }
            }
            Outcome::Superfluous => {}
            Outcome::Ended(lasted) => {
                if lasted >= SUCCESS_AFTER {
                    target.backoff.reset();
                }
                target.worst.get_or_insert(Failure::Passing);
            }
        }
        if !target.dialling.is_empty() {
            return None;
        }
        target.reasons = std::mem::take(&mut target.failing);
        let waits = if target.worst == Some(Failure::Cause) {
            CAUSE
        } else if is_away(&target.sources) {
            AWAY
        } else {
            PASSING
        };
        let wait = target.backoff.next(waits, &mut rng);
        // `left` may have put it off for longer already.
        target.next = target.next.max(now + if senior { wait.max(JUNIOR_WAIT) } else { wait });
        target.reason().map(|reason| (subject(&key, &target.addresses), reason))
    }

    /// A connection to `node` is up: whoever was its target has succeeded. Returns what they are called.
    pub(crate) fn joined(&mut self, node: &Node) -> Vec<String> {
        self.forgive(node);
        let mut subjects = Vec::new();
        for (key, target) in self.targets_of(node) {
            target.reasons.clear();
            subjects.push(subject(key, &target.addresses));
        }
        subjects
    }

    /// The connection to `node` is gone after `lasted`; its targets are due again, later when it left on purpose.
    pub(crate) fn left(&mut self, node: &Node, lasted: Duration, on_purpose: bool, now: Instant) {
        let mut rng = Rng::new(self.rng.next());
        let senior = *node < self.me;
        for (_, target) in self.targets_of(node) {
            if lasted >= SUCCESS_AFTER {
                target.backoff.reset();
            }
            let mut wait = target.backoff.next(PASSING, &mut rng);
            if on_purpose {
                wait = PASSING.cap;
            } else if senior {
                wait = wait.max(JUNIOR_WAIT);
            }
            target.next = target.next.max(now + wait);
        }
    }

    fn targets_of<'a>(
        &'a mut self,
        node: &'a Node,
    ) -> impl Iterator<Item = (&'a Key, &'a mut Target)> {
        let owners = &self.owners;
        self.targets.iter_mut().filter(move |(key, _)| match key {
            Key::Node(name, incarnation) => {
                *name == node.name && incarnation.is_none_or(|i| i == node.incarnation)
            }
            Key::Addresses(addresses) => owners.any(addresses, |owner| owner == node),
        })
    }

    fn target(&mut self, id: TargetId) -> Option<&mut Target> {
        self.targets.values_mut().find(|target| target.id == id)
    }

    /// Whether this target is that node.
    pub(crate) fn expects(&self, id: TargetId, name: &NodeName) -> bool {
        let key = self.targets.iter().find(|(_, target)| target.id == id).map(|(key, _)| key);
        matches!(key, Some(Key::Node(expected, _)) if expected == name)
    }

    /// This node.
    pub(crate) fn me(&self) -> &Node {
        &self.me
    }

    /// Makes every target that somebody asked for due now.
    pub(crate) fn hurry(&mut self, now: Instant) {
        for target in self.targets.values_mut() {
            if target.sources.contains_key(ASKED) {
                target.backoff.reset();
                target.next = now;
            }
        }
    }
}

/// Why a target is not dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idle {
    /// It is connected, or its addresses lead to somebody who is.
    Connected,
    /// By what its sighting says.
    Barred,
    /// On request.
    Parted,
    /// This run of it has stopped.
    Goodbye,
}

impl Target {
    fn reason(&self) -> Option<String> {
        if self.reasons.is_empty() {
            return None;
        }
        let one = self.reasons.values().collect::<BTreeSet<_>>().len() == 1;
        if one {
            return self.reasons.values().next().cloned();
        }
        let all: Vec<String> = self.reasons.iter().map(|(a, why)| format!("{a} {why}")).collect();
        Some(all.join("; "))
    }
}

/// A name without a run means the latest run that anybody speaks of.
fn fold_nameless_runs(merged: &mut BTreeMap<Key, Merged>) {
    let nameless: Vec<Key> =
        merged.keys().filter(|key| matches!(key, Key::Node(_, None))).cloned().collect();
    for key in nameless {
        let Key::Node(name, _) = &key else { continue };
        let latest = merged
            .iter()
            .rev()
            .find(|(k, m)| matches!(k, Key::Node(n, Some(_)) if n == name) && m.good)
            .map(|(k, _)| k.clone());
        let Some(latest) = latest else { continue };
        if let Some(found) = merged.remove(&key)
            && found.good
            && let Some(into) = merged.get_mut(&latest)
        {
            // Where it was counts less than where it is.
            if !is_away(&found.sources) {
                into.addresses.extend(found.addresses);
            }
            for (source, provenance) in found.sources {
                into.says(source, provenance);
            }
            for (key, value) in found.labels {
                into.labels.entry(key).or_insert(value);
            }
        }
    }
}

/// Addresses that nobody reports any more and that somebody is reported at are that somebody's.
fn drop_covered(merged: &mut BTreeMap<Key, Merged>) {
    let reports = |merged: &Merged| merged.sources.values().any(|p| p.reports);
    let lingers = |key: &Key, merged: &Merged| matches!(key, Key::Addresses(_)) && !reports(merged);
    if !merged.iter().any(|(key, merged)| lingers(key, merged)) {
        return;
    }
    let reported = merged.values().filter(|merged| reports(merged));
    let covered: BTreeSet<SocketAddr> =
        reported.flat_map(|merged| merged.addresses.iter().copied()).collect();
    merged.retain(|key, merged| {
        if lingers(key, merged) {
            merged.addresses.retain(|address| !covered.contains(address));
        }
        !merged.addresses.is_empty()
    });
}

/// Whether nobody speaks of it but our own memory.
fn is_away(sources: &Provenances) -> bool {
    sources.keys().all(|source| source == REMEMBERED)
}

fn subject(key: &Key, addresses: &BTreeSet<SocketAddr>) -> String {
    match key {
        Key::Node(name, _) => name.to_string(),
        Key::Addresses(_) => {
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        }
    }
}

#[cfg(test)]
mod tests;
