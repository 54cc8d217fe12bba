//! `local`: the nodes of one user on one machine, through a directory.
//!
//! Each running node keeps a file in the registry directory and holds a lock beside it for as long as it
//! lives; the others read the files and try the locks. It needs no network at all, so that the nodes of one
//! laptop find each other on a plane, behind a corporate filter and in a container without multicast.
//!
//! ```text
//! --strategy local            # on by default; it has no options
//! /tmp/pillion-1000/default/nodes/stock@hal.19b3f0c2a4e5f3c9.json
//! /tmp/pillion-1000/default/nodes/stock@hal.19b3f0c2a4e5f3c9.lock
//! ```
//!
//! - The directory must be a directory of the user's own with mode 0700, and no symbolic link. It is made
//!   when it is missing, and made again when somebody deletes it; entries are too.
//! - A node that was killed holds no lock any more: the others notice within two seconds and remove what it
//!   left. An entry is only ever removed by somebody who holds its lock.
//! - Entries are touched every hour, because of what cleans `/tmp`.
//! - A new node sees all others at once. It is seen within 50 ms by those that have just started, and within
//!   two seconds by those for whom nothing has changed for a while.
//! - Listening addresses of the kind `0.0.0.0`, `[::]` and loopback are reported as loopback addresses.
//!
//! **What failure looks like.** A directory that is not private, a full disk or missing permissions are told
//! in the strategy's health, with the path, and tried again; what was seen last stays. A file that is no
//! entry is named there and skipped.

pub(crate) mod entry;
mod registry;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

pub use self::entry::Entry;
use self::registry::{Own, Registry, Scan, Stamp};
use crate::options::Url;
use crate::pace::until_next;
use crate::{Announcement, Reporter, Running, Sighting, Strategy, StrategyError, Surroundings};

/// How often the directory is looked at by a node that has just started.
const LOOK_STARTING: Duration = Duration::from_millis(50);
/// How long a node counts as one that has just started.
const STARTING: Duration = Duration::from_secs(2);
/// How often it is looked at when something has changed in the last [`QUIET`].
const LOOK: Duration = Duration::from_millis(250);
/// How often it is looked at when nothing changes. It is enough, because a new node sees the old ones at
/// once; and each look costs a waking of the process, about a tenth of a millisecond.
const LOOK_QUIET: Duration = Duration::from_secs(2);
/// How long nothing must have changed.
const QUIET: Duration = Duration::from_secs(10);
/// How often the entry is touched.
const TOUCH: Duration = Duration::from_secs(3600);

/// The strategy `local`. See the [module](self).
#[derive(Debug)]
pub struct Local {
    registry: PathBuf,
}

/// The nodes that run now, as they describe themselves in the registry `dir`; for the command line.
///
/// Reads only: it makes nothing, removes nothing and keeps no lock. A directory that is missing, not ours or
/// not private has no nodes.
#[must_use]
pub fn entries(dir: &Path) -> Vec<Entry> {
    let registry = Registry::new(dir.to_owned());
    let scan = registry.stamp().and_then(|_| registry.scan()).unwrap_or_default();
    scan.live.into_values().map(|live| live.entry).collect()
}

impl Local {
    /// The strategy over the registry `dir`.
    #[must_use]
    pub const fn new(registry: PathBuf) -> Self {
        Self { registry }
    }

    pub(crate) fn from_url(url: &Url, surroundings: &Surroundings) -> Result<Self, StrategyError> {
        url.only(&[])?;
        url.no_place()?;
        Ok(Self::new(surroundings.registry.clone()))
    }
}

impl Strategy for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn run<'a>(&'a self, announcement: Announcement, reporter: &'a Reporter) -> Running<'a> {
        Box::pin(async move {
            let mut watch = Watch::new(Registry::new(self.registry.clone()), &announcement);
            loop {
                watch.look(reporter);
                watch.pause().await;
            }
        })
    }
}

/// One node's view of the registry. Dropping it withdraws the node's own entry.
struct Watch {
    registry: Registry,
    entry: Entry,
    own: Option<Own>,
    /// Everybody else: what they wrote, and their lock files, open, to be tried.
    others: BTreeMap<String, Live>,
    notes: Vec<String>,
    /// The directory as it was when it was last read; none when it must be read again.
    read: Option<Stamp>,
    started: Instant,
    changed: Instant,
    touched: Instant,
}

/// A node whose lock is held.
struct Live {
    entry: Entry,
    lock: File,
}

impl Watch {
    fn new(registry: Registry, announcement: &Announcement) -> Self {
        let now = Instant::now();
        Self {
            registry,
            entry: Entry::of(announcement),
            own: None,
            others: BTreeMap::new(),
            notes: Vec::new(),
            read: None,
            started: now,
            changed: now,
            touched: now,
        }
    }

    async fn pause(&self) {
        if self.started.elapsed() < STARTING {
            sleep(LOOK_STARTING).await;
        } else if self.changed.elapsed() < QUIET {
            sleep(LOOK).await;
        } else {
            until_next(LOOK_QUIET).await;
        }
    }

    fn look(&mut self, reporter: &Reporter) {
        match self.looked() {
            Ok(()) if self.notes.is_empty() => reporter.visible(self.sightings()),
            Ok(()) => reporter.visible_but(self.sightings(), self.notes.join("; ")),
            Err(error) => {
                self.read = None;
                reporter.unwell(format!(
                    "{}: {error}. Nodes on this machine are not found until that is mended; another directory is set with PILLION_DIR",
                    self.registry.dir().display()
                ));
            }
        }
    }

    fn looked(&mut self) -> std::io::Result<()> {
        let stamp = self.registry.ready()?;
        let unchanged = self.read.is_some_and(|read| read == stamp);
        if !unchanged || self.own.is_none() {
            if self.own.as_ref().is_none_or(|own| !own.is_in_place()) {
                // The old one goes first: it would take away the files of the new one.
                drop(self.own.take());
                self.own = Some(self.registry.publish(&self.entry)?);
            }
            self.read_all()?;
        } else if self.others.values().any(|other| !registry::is_held(&other.lock)) {
            self.read_all()?;
        }
        if self.touched.elapsed() >= TOUCH {
            self.touched = Instant::now();
            self.own.as_ref().map_or(Ok(()), Own::touch)?;
        }
        Ok(())
    }

    fn read_all(&mut self) -> std::io::Result<()> {
        // Taken before the reading, so that what changes meanwhile is read the next time.
        let stamp = self.registry.stamp()?;
        let scan = self.registry.scan()?;
        let is_clean = self.registry.clean_up(&scan);
        self.read = Some(stamp).filter(|stamp| stamp.is_settled() && is_clean);
        let Scan { live, notes, .. } = scan;
        self.others = live;
        self.others.retain(|_, other| !other.entry.is_same_run(&self.entry));
        for note in notes.iter().filter(|note| !self.notes.contains(note)) {
            tracing::warn!(strategy = "local", "{note}");
        }
        self.notes = notes;
        self.changed = Instant::now();
        Ok(())
    }

    fn sightings(&self) -> Vec<Sighting> {
        self.others.iter().map(|(stem, other)| sighting(stem, &other.entry)).collect()
    }
}

fn sighting(stem: &str, entry: &Entry) -> Sighting {
    Sighting {
        node: Some(entry.node.clone()),
        incarnation: Some(entry.incarnation),
        mesh: Some(entry.mesh.clone()),
        ids: entry.ids.clone(),
        addresses: reachable(&entry.listen),
        source: format!("local {stem}"),
        ..Sighting::default()
    }
}

/// Where somebody on the same machine dials what listens on these.
fn reachable(listen: &[SocketAddr]) -> Vec<SocketAddr> {
    const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let mut addresses = Vec::new();
    for address in listen {
        let ips: &[IpAddr] = match address.ip() {
            ip if !ip.is_unspecified() => &[ip],
            IpAddr::V4(_) => &[V4],
            // A socket on [::] takes both kinds, unless the system or its owner says otherwise.
            IpAddr::V6(_) => &[V6, V4],
        };
        for ip in ips {
            let address = match address {
                SocketAddr::V6(scoped) if scoped.scope_id() != 0 => *address,
                _ => SocketAddr::new(*ip, address.port()),
            };
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unspecified_addresses_become_loopback_and_others_stay() {
        let parse = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().expect("an address")).collect()
        };
        assert_eq!(reachable(&parse(&["0.0.0.0:1"])), parse(&["127.0.0.1:1"]));
        assert_eq!(reachable(&parse(&["[::]:1", "0.0.0.0:1"])), parse(&["[::1]:1", "127.0.0.1:1"]));
        assert_eq!(
            reachable(&parse(&["127.0.0.1:1", "[::1]:2"])),
            parse(&["127.0.0.1:1", "[::1]:2"])
        );
        assert_eq!(
            reachable(&parse(&["10.1.2.3:1", "[fe80::1%3]:1"])),
            parse(&["10.1.2.3:1", "[fe80::1%3]:1"])
        );
    }
}
