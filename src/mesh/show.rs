//! What people may see of the mesh: the answers to `peers`, `explain` and `doctor`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pillion_strategies::{Health, Ignored};
use rustix::process::{Resource, getrlimit};
use tokio::time::Instant;

use super::attempts::{Attempt, Subject};
use super::explain::{self, Case, Connected};
use super::wanted::{Held, Provenances, Row, RowState};
use super::{Conn, Mesh};
use crate::peer::Met;
use crate::peer::interfaces::nearest_first;
use crate::tls::Validity;
use crate::tls::cookie::hex;
use crate::transport::Transport;
use crate::wire::id::{Node, NodeName};
use crate::wire::shown::{
    AttemptShown, CertificateShown, Diagnosis, Explained, IgnoredShown, IssuedShown, PeerShown,
    SourceShown, StrategyShown,
};

/// Most nodes that a strategy is shown to see.
const SEEN_MAX: usize = 20;
/// Most attempts in one explanation.
const ATTEMPTS_MAX: usize = 32;

/// What a node knows of itself that its mesh shows for it.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// `cookie`, `certificates` or `issued`.
    pub trust: String,
    /// The file of the cookie.
    pub cookie_file: Option<String>,
    /// The local directory.
    pub dir: String,
    /// The app socket.
    pub socket: String,
    /// Where last known peers are kept.
    pub state_file: Option<String>,
    /// The strategies as they were written, in the order of the reports.
    pub urls: Vec<String>,
    /// How many peers make it ready.
    pub min_peers: u64,
}

pub(super) fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn ago(at: Instant, now: Instant) -> u64 {
    ms(now.saturating_duration_since(at))
}

fn shown_sources(sources: &Provenances, now: Instant) -> Vec<SourceShown> {
    let shown = sources.iter().map(|(source, provenance)| SourceShown {
        source: source.clone(),
        since_ms: ago(provenance.since, now),
        seen_ms: provenance.last.map_or(0, |last| ago(last, now)),
    });
    shown.collect()
}

fn shown_attempt(attempt: &Attempt, now: Instant) -> AttemptShown {
    AttemptShown {
        address: Some(attempt.address.to_string()),
        dialled: attempt.dialled,
        result: attempt.result.to_owned(),
        reason: attempt.words.clone(),
        times: attempt.times,
        ago_ms: ago(attempt.last, now),
    }
}

fn ignored(ignored: &Ignored, now: Instant) -> Vec<IgnoredShown> {
    let shown = ignored.iter().map(|(why, heard)| IgnoredShown {
        why: why.word().to_owned(),
        count: heard.count,
        from: heard.from.clone(),
        ago_ms: ago(heard.last, now),
    });
    shown.collect()
}

fn shown_certificate(certificate: &Validity) -> CertificateShown {
    CertificateShown {
        role: certificate.role.to_owned(),
        subject: certificate.subject.clone(),
        file: certificate.file.as_ref().map(|file| file.display().to_string()),
        not_before_ms: certificate.not_before.saturating_mul(1000),
        not_after_ms: certificate.not_after.saturating_mul(1000),
    }
}

impl<T: Transport> Mesh<T> {
    /// Every connection that the apps have heard of.
    fn connected(&self) -> impl Iterator<Item = (&Conn, &Met, Instant)> {
        self.roster.up().filter_map(|(id, _)| {
            let conn = self.conns.get(&id)?;
            Some((conn, conn.met.as_deref()?, conn.up?))
        })
    }

    fn nearest_first(&self, addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
        let mut addresses: Vec<SocketAddr> = addresses.into_iter().collect();
        nearest_first(&mut addresses, &self.context.interfaces.now());
        addresses
    }

    /// Everybody known, wanted and connected.
    pub(super) fn peers(&self, now: Instant) -> Vec<PeerShown> {
        let held = self.roster.held();
        let rows: Vec<Row<'_>> = self.wanted.rows(&held, now).collect();
        // Who says that a connected node exists, found for all of them in one look at the rows.
        let mut sources: BTreeMap<&NodeName, Provenances> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.state == RowState::Connected) {
            let names: BTreeSet<&NodeName> =
                row.name.into_iter().chain(row.owners.iter().map(|node| &node.name)).collect();
            for name in names {
                sources.entry(name).or_default().extend(row.sources.clone());
            }
        }
        let nobody = Provenances::new();
        let connected = self.connected().map(|(conn, met, since)| {
            let sources = sources.get(&met.node.name).unwrap_or(&nobody);
            self.shown_peer(conn, met, since, sources, now)
        });
        let others = rows.iter().filter(|row| row.state != RowState::Connected);
        connected.chain(others.map(|row| self.shown_row(row, now))).collect()
    }

    fn shown_peer(
        &self,
        conn: &Conn,
        met: &Met,
        since: Instant,
        sources: &Provenances,
        now: Instant,
    ) -> PeerShown {
        let addresses = self.nearest_first(met.places.addresses.iter().copied());
        PeerShown {
            node: Some(met.node.name.to_string()),
            incarnation: Some(met.node.incarnation.to_string()),
            state: "connected".to_owned(),
            since_ms: ago(since, now),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            address: Some(conn.remote.to_string()),
            labels: self.context.labels_of(&met.node.name, &met.labels),
            sources: shown_sources(sources, now),
            reason: None,
            failure: None,
            next_ms: None,
            skew_ms: met.skew_ms,
        }
    }

    fn shown_row(&self, row: &Row<'_>, now: Instant) -> PeerShown {
        let addresses = self.nearest_first(row.addresses.iter().copied());
        let tried = self.attempts_of(row.name, &addresses);
        let failure = tried.iter().find(|attempt| attempt.failed);
        let state = if row.state == RowState::Wanted { "wanted" } else { "known" };
        PeerShown {
            node: row.name.map(ToString::to_string),
            incarnation: row.incarnation.map(|incarnation| incarnation.to_string()),
            state: state.to_owned(),
            since_ms: ago(row.since, now),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            address: None,
            labels: row.labels.clone(),
            sources: shown_sources(row.sources, now),
            reason: row.reason.clone(),
            failure: failure.map(|attempt| shown_attempt(attempt, now)),
            next_ms: row.next.map(|next| ms(next.saturating_duration_since(now))),
            skew_ms: None,
        }
    }

    /// What was tried with this node and at these addresses, the latest first.
    fn attempts_of(&self, name: Option<&NodeName>, addresses: &[SocketAddr]) -> Vec<&Attempt> {
        let named = name.map(|name| Subject::Node(name.clone()));
        let at = addresses.iter().map(|address| Subject::Address(*address));
        let subjects: Vec<Subject> = named.into_iter().chain(at).collect();
        let mut tried: Vec<&Attempt> =
            subjects.iter().flat_map(|subject| self.attempts.of(subject)).collect();
        tried.sort_by_key(|attempt| std::cmp::Reverse(attempt.last));
        tried
    }

    /// Why a node is connected or not: its name, or an address with or without a port.
    pub(super) fn explain(&self, text: &str, now: Instant) -> Explained {
        let held = self.roster.held();
        let whom = Whom::read(text);
        let rows: Vec<Row<'_>> =
            self.wanted.rows(&held, now).filter(|row| whom.is_row(row)).collect();
        let met: Vec<(&Conn, &Met, Instant)> =
            self.connected().filter(|(conn, met, _)| whom.is_met(conn, met)).collect();
        let mut addresses: Vec<SocketAddr> =
            rows.iter().flat_map(|row| row.addresses.iter().copied()).collect();
        addresses.extend(met.iter().flat_map(|(_, met, _)| met.places.addresses.iter().copied()));
        addresses.extend(whom.address());
        addresses.sort_unstable();
        addresses.dedup();
        let name = whom.name().or_else(|| met.first().map(|(_, met, _)| &met.node.name));
        let mut attempts = self.attempts_of(name, &addresses);
        let mut ips: Vec<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
        ips.sort_unstable();
        ips.dedup();
        let from: Vec<Subject> = ips.into_iter().map(Subject::From).collect();
        let from: Vec<&Attempt> = from.iter().flat_map(|from| self.attempts.of(from)).collect();
        attempts.truncate(ATTEMPTS_MAX);
        let mut strangers: Vec<&Attempt> = if rows.is_empty() && met.is_empty() && from.is_empty() {
            self.attempts.strangers().collect()
        } else {
            from
        };
        strangers.sort_by_key(|attempt| std::cmp::Reverse(attempt.last));
        strangers.truncate(3);
        let peers = self.peers_of(&whom, &rows, &met, now);
        let near = self.nearest_name(text, &rows, &held, now);
        let strategies = self.strategies(now);
        let case = Case {
            text,
            is_self: whom.name() == Some(&self.context.me.name),
            me: &self.context.me.name,
            connected: met
                .iter()
                .map(|(conn, met, _)| Connected { met, dialled: conn.dial.is_some() })
                .collect(),
            rows: &rows,
            peers: &peers,
            attempts: &attempts,
            strangers: &strangers,
            strategies: &strategies,
            nearest: near,
            issued: self.issued().filter(|issued| issued.ends_ms.is_none()),
            now,
        };
        let (state, because, advice) = explain::words(&case);
        let mut tried: Vec<AttemptShown> =
            attempts.iter().map(|attempt| shown_attempt(attempt, now)).collect();
        tried.extend(strangers.iter().map(|attempt| shown_attempt(attempt, now)));
        Explained {
            node: text.to_owned(),
            state: state.to_owned(),
            because,
            advice,
            peers,
            attempts: tried,
        }
    }

    fn peers_of(
        &self,
        whom: &Whom,
        rows: &[Row<'_>],
        met: &[(&Conn, &Met, Instant)],
        now: Instant,
    ) -> Vec<PeerShown> {
        let mut sources = Provenances::new();
        for row in rows.iter().filter(|row| row.state == RowState::Connected) {
            sources.extend(row.sources.clone());
        }
        let connected =
            met.iter().map(|(conn, met, since)| self.shown_peer(conn, met, *since, &sources, now));
        let others = rows.iter().filter(|row| row.state != RowState::Connected);
        let others = others.map(|row| {
            let mut shown = self.shown_row(row, now);
            // Addresses that somebody of that name answered at.
            if shown.node.is_none() && row.owners.len() == 1 {
                shown.node = whom.name().map(ToString::to_string);
            }
            shown
        });
        connected.chain(others).collect()
    }

    /// The name that was meant, when nobody has the one that was written.
    fn nearest_name(
        &self,
        text: &str,
        rows: &[Row<'_>],
        held: &Held,
        now: Instant,
    ) -> Option<String> {
        if !rows.is_empty() {
            return None;
        }
        let known = self.wanted.rows(held, now).filter_map(|row| row.name.map(ToString::to_string));
        let connected = self.connected().map(|(_, met, _)| met.node.name.to_string());
        let all: BTreeSet<String> = known.chain(connected).collect();
        pillion_strategies::nearest(text, all.iter().map(String::as_str)).map(str::to_owned)
    }

    /// Every strategy, as it is doing.
    fn strategies(&self, now: Instant) -> Vec<StrategyShown> {
        let strategies = self.reports.iter().enumerate().filter_map(|(index, (name, report))| {
            let source = self.wanted.sources.get(name)?;
            let (health, reason) = match &source.health {
                Health::Starting => ("starting", None),
                Health::Well => ("well", None),
                Health::Unwell(why) => ("unwell", Some(why.clone())),
            };
            let there = source.seen.iter().filter(|seen| seen.gone.is_none());
            let named = |seen: &super::sources::Seen| match &seen.sighting.node {
                Some(node) => node.clone(),
                None => {
                    let addresses = seen.sighting.addresses.iter().map(ToString::to_string);
                    addresses.collect::<Vec<_>>().join(", ")
                }
            };
            Some(StrategyShown {
                strategy: name.clone(),
                url: self.facts.urls.get(index).cloned().unwrap_or_default(),
                health: health.to_owned(),
                reason,
                since_ms: ago(source.since, now),
                well_ms: match source.well_until {
                    Some(until) => Some(ago(until, now)),
                    None => source.was_well.then_some(0),
                },
                count: there.clone().count() as u64,
                sees: there.take(SEEN_MAX).map(named).collect(),
                ignored: ignored(&report.borrow().ignored, now),
            })
        });
        strategies.collect()
    }

    /// Where the certificate stands that is issued, if one is.
    fn issued(&self) -> Option<IssuedShown> {
        let issuance = self.context.tls.issuance()?.borrow().clone();
        let left = issuance.until.and_then(|until| until.duration_since(SystemTime::now()).ok());
        Some(IssuedShown {
            issuer: issuance.issuer,
            ends_ms: issuance.until.map(|_| ms(left.unwrap_or_default())),
            ended_ms: issuance.ended.map(|at| ms(at.elapsed().unwrap_or_default())),
            trouble: issuance.trouble,
        })
    }

    /// What only the node knows of how it is doing.
    pub(super) fn diagnosis(&self, now: Instant) -> Diagnosis {
        let ready = self.context.hub.readiness().ready();
        let held = self.roster.held();
        let (mut wanted, mut known) = (0, 0);
        for row in self.wanted.rows(&held, now) {
            match row.state {
                RowState::Connected => {}
                RowState::Wanted => wanted += 1,
                RowState::Barred | RowState::Parted | RowState::Stopped => known += 1,
            }
        }
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let files = std::fs::read_dir("/dev/fd").ok().map(|entries| entries.count() as u64);
        let skews = self
            .connected()
            .filter_map(|(_, met, _)| Some((met.node.name.to_string(), met.skew_ms?)));
        Diagnosis {
            node: self.context.me.name.to_string(),
            mesh: self.context.mesh.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            os_pid: std::process::id(),
            up_ms: ago(self.started, now),
            clock_ms: ms(clock),
            trust: self.facts.trust.clone(),
            issued: self.issued(),
            ids: self.context.tls.ids().iter().map(|id| hex(id)).collect(),
            cookie_file: self.facts.cookie_file.clone(),
            certificates: self.context.tls.certificates().iter().map(shown_certificate).collect(),
            trust_problem: self.context.tls.problem(),
            dir: self.facts.dir.clone(),
            socket: self.facts.socket.clone(),
            state_file: self.facts.state_file.clone(),
            listens: self.context.listens.iter().map(ToString::to_string).collect(),
            advertised: self.context.advertised.iter().map(ToString::to_string).collect(),
            // The directory that is being read is one of them.
            files: files.map(|files| files.saturating_sub(1)),
            files_max: getrlimit(Resource::Nofile).current,
            strategies: self.strategies(now),
            connected: self.connected().count() as u64,
            wanted,
            known,
            skews_ms: skews.collect(),
            min_peers: self.facts.min_peers,
            ready: ready.is_ok(),
            unready: ready.err().map(|unready| unready.to_string()),
        }
    }
}

/// Who is to be explained.
enum Whom {
    Name(NodeName),
    Address(SocketAddr),
    Ip(IpAddr),
    /// Neither a name nor an address.
    Nobody,
}

impl Whom {
    fn read(text: &str) -> Self {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Self::Address(crate::transport::canonical(address));
        }
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Self::Ip(ip.to_canonical());
        }
        text.parse().map_or(Self::Nobody, Self::Name)
    }

    fn name(&self) -> Option<&NodeName> {
        match self {
            Self::Name(name) => Some(name),
            _ => None,
        }
    }

    fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Address(address) => Some(*address),
            _ => None,
        }
    }

    fn is_at(&self, address: SocketAddr) -> bool {
        match self {
            Self::Address(own) => *own == address,
            Self::Ip(ip) => *ip == address.ip(),
            Self::Name(_) | Self::Nobody => false,
        }
    }

    fn is_row(&self, row: &Row<'_>) -> bool {
        let is = |node: &&Node| Some(&node.name) == self.name();
        (row.name.is_some() && row.name == self.name())
            || (row.name.is_none() && row.owners.iter().any(is))
            || row.addresses.iter().any(|address| self.is_at(*address))
    }

    fn is_met(&self, conn: &Conn, met: &Met) -> bool {
        Some(&met.node.name) == self.name()
            || self.is_at(conn.remote)
            || met.places.addresses.iter().any(|address| self.is_at(*address))
    }
}
