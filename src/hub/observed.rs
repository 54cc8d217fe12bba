//! What the node counts, for those who collect it. Nothing here is done unless somebody asks.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::SystemTime;

use tokio::time::Instant;

use super::Hub;
use crate::router::life::Readiness;
use crate::router::tally::{Survey, Tally};

/// What went through, counted under the lock that it goes through.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    pub(super) commands: u64,
    pub(super) app_in: u64,
    pub(super) app_out: u64,
    pub(super) peer_frames_in: u64,
    pub(super) peer_in: u64,
    pub(super) peer_out: u64,
}

impl Traffic {
    pub(super) fn peer_heard(&mut self, bytes: usize) {
        self.peer_frames_in += 1;
        self.peer_in += bytes as u64;
    }
}

/// A connection to another node that came about or did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Joining {
    /// This node dialled.
    pub dialled: bool,
    /// `joined`, or why not, in one word.
    pub result: &'static str,
}

/// One strategy.
#[derive(Clone, Debug, Default)]
pub struct StrategyNote {
    /// Its source answers; none before it has answered or failed once.
    pub well: Option<bool>,
    /// How many nodes it sees.
    pub sightings: usize,
    /// How often it reported that its source fails.
    pub failures: u64,
    /// When its source was last known to answer; it is now while it is well.
    pub well_at: Option<Instant>,
}

/// What the mesh counts.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    /// Addresses that were dialled.
    pub dials: u64,
    /// Connections that were tried, by how that went.
    pub joinings: BTreeMap<Joining, u64>,
    /// Nodes that have left with a goodbye.
    pub left: u64,
    /// Nodes that were lost without one.
    pub lost: u64,
    /// By name.
    pub strategies: BTreeMap<String, StrategyNote>,
    /// When the certificate ends, or has ended, that the node was issued; none before, and where nobody issues one.
    pub certificate_ends: Option<SystemTime>,
}

impl Notes {
    /// A strategy has reported: how many it sees, and whether its source answers; none for one that has not started.
    pub fn reported(&mut self, strategy: &str, sightings: usize, well: Option<bool>, now: Instant) {
        let note = match self.strategies.get_mut(strategy) {
            Some(note) => note,
            None => self.strategies.entry(strategy.to_owned()).or_default(),
        };
        note.sightings = sightings;
        if well == Some(false) {
            note.failures += 1;
        }
        if well == Some(true) || note.well == Some(true) {
            note.well_at = Some(now);
        }
        note.well = well;
    }

    /// A node that was connected is not any more.
    pub fn gone(&mut self, goodbye: bool) {
        let count = if goodbye { &mut self.left } else { &mut self.lost };
        *count += 1;
    }

    /// A connection came about, or did not.
    pub fn joining(&mut self, dialled: bool, result: &'static str) {
        *self.joinings.entry(Joining { dialled, result }).or_default() += 1;
    }
}

/// The node, as its counters and sizes tell.
#[derive(Clone, Debug)]
pub struct Observed {
    /// What the router has and has done.
    pub tally: Tally,
    /// What its mailboxes hold.
    pub survey: Survey,
    /// What the mesh has done.
    pub notes: Notes,
    /// Whether it is ready for work.
    pub readiness: Readiness,
    /// Apps that are connected.
    pub connections: usize,
    /// Commands of apps.
    pub commands: u64,
    /// Bytes of commands, as CBOR frames.
    pub app_bytes_in: u64,
    /// Bytes of events, as CBOR frames.
    pub app_bytes_out: u64,
    /// Frames from peers.
    pub peer_frames_in: u64,
    /// Bytes from peers, without TLS.
    pub peer_bytes_in: u64,
    /// Bytes to peers, without TLS.
    pub peer_bytes_out: u64,
}

impl Hub {
    /// Notes something that the mesh has done.
    pub fn note(&self, note: impl FnOnce(&mut Notes)) {
        note(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What was counted, and how much there is of everything. Many holds of the lock, none of them longer than others'.
    /// Cancel safe.
    pub async fn observe(&self) -> Observed {
        let mut survey = Survey::default();
        loop {
            self.lock().router.look_into_mailboxes(&mut survey);
            if survey.after.is_none() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let state = self.lock();
        let traffic = state.traffic;
        Observed {
            tally: state.router.tally(&state.out),
            survey,
            notes,
            readiness: state.router.readiness(),
            connections: state.sessions.len(),
            commands: traffic.commands,
            app_bytes_in: traffic.app_in,
            app_bytes_out: traffic.app_out,
            peer_frames_in: traffic.peer_frames_in,
            peer_bytes_in: traffic.peer_in,
            peer_bytes_out: traffic.peer_out,
        }
    }
}
