//! What each strategy reports, since when, and what it reported until a moment ago.
//!
//! A report is a whole set, and sets flicker: an answer of DNS leaves a node out, a watch starts anew, an announcement
//! is lost. So what a strategy no longer reports is held for another [`LINGER`], marked as such. A strategy that is
//! unwell still reports its last set; only when it saw that well is older then.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use pillion_strategies::{Health, Report, Sighting};
use tokio::time::Instant;

use crate::hub::Notes;

/// How long what is no longer reported is held.
pub(crate) const LINGER: Duration = Duration::from_secs(60);
/// Most sightings of one strategy that are held though it no longer reports them.
const LINGERING_MAX: usize = 1024;
/// Most labels that a source may know of one node.
const LABELS_MAX: usize = 64;

/// Counts a report.
pub(super) fn note(notes: &mut Notes, strategy: &str, report: &Report, now: Instant) {
    let well = match report.health {
        Health::Starting => None,
        Health::Well => Some(true),
        Health::Unwell(_) => Some(false),
    };
    notes.reported(strategy, report.sightings.len(), well, now);
}

/// One sighting and its history.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub sighting: Sighting,
    /// When it was reported first.
    pub since: Instant,
    /// When it was no longer reported; `None` while it is.
    pub gone: Option<Instant>,
}

/// One strategy.
#[derive(Debug)]
pub(crate) struct Source {
    pub seen: Vec<Seen>,
    pub health: Health,
    /// Since when it has that health.
    pub since: Instant,
    /// When its source was last known to answer; `None` while it does, and when it never has.
    pub well_until: Option<Instant>,
    /// It has answered at least once.
    pub was_well: bool,
    own_labels: BTreeMap<String, String>,
}

/// Who it is, as far as a sighting tells: two of one identity are one node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identity {
    Node(String, Option<u64>),
    Addresses(BTreeSet<SocketAddr>),
}

fn identity(sighting: &Sighting) -> Identity {
    match &sighting.node {
        Some(node) => Identity::Node(node.clone(), sighting.incarnation),
        None => Identity::Addresses(sighting.addresses.iter().copied().collect()),
    }
}

impl Source {
    fn new(now: Instant) -> Self {
        Self {
            seen: Vec::new(),
            health: Health::Starting,
            since: now,
            well_until: None,
            was_well: false,
            own_labels: BTreeMap::new(),
        }
    }

    /// When this sighting was last known to be true; `None` where it is now.
    pub(crate) fn last(&self, seen: &Seen) -> Option<Instant> {
        seen.gone.or(match self.health {
            Health::Unwell(_) => self.well_until.or(Some(seen.since)),
            Health::Starting | Health::Well => None,
        })
    }

    fn report(&mut self, report: Report, now: Instant) {
        if report.health != self.health {
            let was_well = self.health == Health::Well;
            match report.health {
                Health::Well => (self.well_until, self.was_well) = (None, true),
                Health::Unwell(_) if was_well => self.well_until = Some(now),
                Health::Unwell(_) | Health::Starting => {}
            }
            // Another sentence about the same trouble is no new trouble.
            if was_well || report.health == Health::Well || self.health == Health::Starting {
                self.since = now;
            }
            self.health = report.health;
        }
        self.own_labels = report.own_labels;
        let mut before: BTreeMap<Identity, Seen> = BTreeMap::new();
        for seen in self.seen.drain(..) {
            let identity = identity(&seen.sighting);
            match before.get_mut(&identity) {
                // Of several sightings of one node the first is held, with all addresses.
                Some(first) => first.sighting.addresses.extend(seen.sighting.addresses),
                None => drop(before.insert(identity, seen)),
            }
        }
        let mut present = BTreeSet::new();
        let mut dialled_as_addresses = BTreeSet::new();
        let mut runs: BTreeMap<&str, Option<u64>> = BTreeMap::new();
        for sighting in &report.sightings {
            present.insert(identity(sighting));
            dialled_as_addresses.extend(sighting.addresses.iter().copied());
            if let Some(node) = &sighting.node {
                let latest = runs.entry(node).or_default();
                *latest = (*latest).max(sighting.incarnation);
            }
        }
        let held = before.iter().filter(|(identity, _)| !present.contains(identity));
        let mut held: Vec<Seen> = held
            .filter_map(|(identity, seen)| {
                let mut seen = seen.clone();
                seen.gone.get_or_insert(now);
                match identity {
                    // Another run of it is reported: this one has been replaced.
                    Identity::Node(node, _) => (!runs.contains_key(node.as_str())).then_some(seen),
                    Identity::Addresses(_) => {
                        let addresses = &mut seen.sighting.addresses;
                        addresses.retain(|address| !dialled_as_addresses.contains(address));
                        (!addresses.is_empty()).then_some(seen)
                    }
                }
            })
            .collect();
        // What has gone last is the likeliest to come back.
        held.sort_by_key(|seen| std::cmp::Reverse(seen.gone));
        held.truncate(LINGERING_MAX);
        self.seen = report
            .sightings
            .into_iter()
            .map(|sighting| {
                let since = before.get(&identity(&sighting)).map_or(now, |seen| seen.since);
                Seen { sighting, since, gone: None }
            })
            .chain(held)
            .collect();
    }
}

/// Every strategy, by its name.
#[derive(Debug, Default)]
pub(crate) struct Sources(BTreeMap<String, Source>);

impl Sources {
    /// Whether each has reported at least once, be it that it is unwell.
    pub(crate) fn have_looked(&self) -> bool {
        self.0.values().all(|source| source.health != Health::Starting)
    }

    /// A strategy that has said nothing yet.
    pub(crate) fn add(&mut self, strategy: &str, now: Instant) {
        self.0.entry(strategy.to_owned()).or_insert_with(|| Source::new(now));
    }

    /// What a strategy reports now.
    pub(crate) fn report(&mut self, strategy: &str, report: Report, now: Instant) {
        self.add(strategy, now);
        if let Some(source) = self.0.get_mut(strategy) {
            source.report(report, now);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Source)> {
        self.0.iter().map(|(name, source)| (name.as_str(), source))
    }

    pub(crate) fn get(&self, strategy: &str) -> Option<&Source> {
        self.0.get(strategy)
    }

    /// Forgets what has not been reported for long enough. True when that was anything.
    pub(crate) fn expire(&mut self, now: Instant) -> bool {
        let mut lapsed = false;
        for source in self.0.values_mut() {
            let before = source.seen.len();
            source.seen.retain(|seen| seen.gone.is_none_or(|gone| now < gone + LINGER));
            lapsed |= source.seen.len() != before;
        }
        lapsed
    }

    /// When something lapses next.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        let seen = self.0.values().flat_map(|source| &source.seen);
        seen.filter_map(|seen| seen.gone).min().map(|gone| gone + LINGER)
    }

    /// Forgets at once what is held of this node and no longer reported.
    pub(crate) fn forget(&mut self, node: &str) {
        for source in self.0.values_mut() {
            source
                .seen
                .retain(|seen| seen.gone.is_none() || seen.sighting.node.as_deref() != Some(node));
        }
    }

    /// What the sources know of this node itself. Of two that differ the first strategy by name counts.
    pub(crate) fn own_labels(&self) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        for source in self.0.values() {
            for (key, value) in source.own_labels.iter().take(LABELS_MAX) {
                labels.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sighting(node: Option<&str>, incarnation: Option<u64>, last: &[u8]) -> Sighting {
        Sighting {
            node: node.map(str::to_owned),
            incarnation,
            addresses: last.iter().map(|last| ([10, 0, 0, *last], 4470).into()).collect(),
            ..Sighting::default()
        }
    }

    fn well(sightings: Vec<Sighting>) -> Report {
        Report { sightings, health: Health::Well, ..Report::default() }
    }

    fn names(sources: &Sources) -> Vec<(String, bool)> {
        let source = sources.get("a").expect("it has reported");
        let seen = source.seen.iter();
        seen.map(|s| (s.sighting.node.clone().unwrap_or_default(), s.gone.is_some())).collect()
    }

    #[test]
    fn a_node_that_flickers_in_a_report_is_not_forgotten_at_once() {
        let (mut sources, now) = (Sources::default(), Instant::now());
        sources.report("a", well(vec![sighting(Some("x@h"), Some(1), &[1])]), now);
        let later = now + LINGER * 10;
        sources.report("a", well(Vec::new()), later);
        assert!(!sources.expire(later + LINGER / 2));
        assert_eq!(names(&sources), [("x@h".to_owned(), true)]);
        sources.report("a", well(vec![sighting(Some("x@h"), Some(1), &[1])]), later + LINGER / 2);
        assert_eq!(names(&sources), [("x@h".to_owned(), false)]);
        assert_eq!(sources.get("a").expect("it").seen[0].since, now);
        assert_eq!(sources.next_expiry(), None);
        sources.report("a", well(Vec::new()), later + LINGER);
        assert_eq!(sources.next_expiry(), Some(later + LINGER * 2));
        assert!(sources.expire(later + LINGER * 2));
        assert!(names(&sources).is_empty());
    }

    #[test]
    fn a_run_that_was_replaced_and_an_address_that_has_moved_do_not_linger() {
        let (mut sources, now) = (Sources::default(), Instant::now());
        sources.report("a", well(vec![sighting(Some("x@h"), Some(1), &[1])]), now);
        sources.report("a", well(vec![sighting(Some("x@h"), Some(2), &[1])]), now);
        assert_eq!(names(&sources), [("x@h".to_owned(), false)]);
        sources.report("a", well(vec![sighting(None, None, &[1, 2, 3])]), now);
        sources.report("a", well(vec![sighting(None, None, &[1, 2])]), now);
        let held: Vec<_> =
            sources.get("a").expect("it").seen.iter().filter(|s| s.gone.is_some()).collect();
        let nameless: Vec<_> = held.iter().filter(|s| s.sighting.node.is_none()).collect();
        assert_eq!(nameless.len(), 1);
        assert_eq!(nameless[0].sighting.addresses, [([10, 0, 0, 3], 4470).into()]);
    }

    #[test]
    fn a_strategy_that_is_unwell_says_when_it_last_saw_its_set_well() {
        let (mut sources, now) = (Sources::default(), Instant::now());
        let second = Duration::from_secs(1);
        sources.report("a", well(vec![sighting(Some("x@h"), None, &[1])]), now);
        let unwell = |why: &str| Report {
            sightings: vec![sighting(Some("x@h"), None, &[1])],
            health: Health::Unwell(why.to_owned()),
            ..Report::default()
        };
        sources.report("a", unwell("refused"), now + second * 5);
        sources.report("a", unwell("timed out"), now + second * 9);
        let source = sources.get("a").expect("it");
        assert_eq!(source.last(&source.seen[0]), Some(now + second * 5));
        assert_eq!(source.since, now + second * 5, "it is the same trouble");
        sources.report("a", well(vec![sighting(Some("x@h"), None, &[1])]), now + second * 20);
        let source = sources.get("a").expect("it");
        assert_eq!((source.last(&source.seen[0]), source.since), (None, now + second * 20));
    }

    #[test]
    fn what_lingers_is_bounded() {
        let (mut sources, now) = (Sources::default(), Instant::now());
        for round in 0..40 {
            let many = (0..100)
                .map(|i| sighting(Some(&format!("n{round}-{i}@h")), Some(1), &[1]))
                .collect();
            sources.report("a", well(many), now);
        }
        assert_eq!(sources.get("a").expect("it").seen.len(), 100 + LINGERING_MAX);
    }
}
