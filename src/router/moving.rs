//! Global names on the move: their node drains, and they are free again before somebody else has taken them.
//!
//! A call to such a name waits for whoever takes it, within its own deadline, instead of failing in the moment between
//! two holders. A name that nobody has had is another matter: such a call fails at once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::agenda::Deadline;
use super::calls::{Anyone, Ending};
use super::work::Work;
use super::{Outbox, Router};

/// How long a name counts as one that somebody is about to take.
const MOVES_FOR: Duration = Duration::from_secs(10);
/// Most of them; calls to those beyond fail as calls to nobody do.
const MOVING_MAX: usize = 10_000;

/// A name that was left by a process of a node that drains.
#[derive(Debug)]
pub(super) struct Moving {
    number: u64,
    ends: Instant,
    /// Calls that wait for whoever takes it.
    calls: BTreeSet<u64>,
}

impl Router {
    /// A process of a draining node has a name no longer. If nobody has it, somebody may be about to take it.
    pub(super) fn name_is_left(&mut self, name: &str) {
        let Some(now) = self.clock else { return };
        if self.globals.contains_key(name)
            || self.moving.contains_key(name)
            || self.moving.len() >= MOVING_MAX
        {
            return;
        }
        let (number, ends) = (self.number(), now + MOVES_FOR);
        self.agenda.add(ends, Deadline::Moving(number));
        self.moving_names.insert(number, name.into());
        self.moving.insert(name.into(), Moving { number, ends, calls: BTreeSet::new() });
    }

    /// Somebody has a name: those who waited for that ask him.
    pub(super) fn name_is_taken(&mut self, name: &str) {
        if self.moving.is_empty() {
            return;
        }
        let Some(moving) = self.moving.remove(name) else { return };
        self.moving_names.remove(&moving.number);
        self.agenda.remove(moving.ends, Deadline::Moving(moving.number));
        if !moving.calls.is_empty() {
            self.work.push_back(Work::Moved { calls: moving.calls });
        }
    }

    /// Nobody has taken a name for long enough: it is as any other that nobody has.
    pub(super) fn name_moves_no_more(&mut self, number: u64) {
        let Some(name) = self.moving_names.remove(&number) else { return };
        let Some(moving) = self.moving.remove(&name) else { return };
        if !moving.calls.is_empty() {
            self.work.push_back(Work::Moved { calls: moving.calls });
        }
    }

    /// Lets a call wait for whoever takes the name it is for. False when that is no such name.
    pub(super) fn waits_for_name(&mut self, reference: u64, anyone: &Anyone) -> bool {
        let Anyone::Global(name) = anyone else { return false };
        let Some(moving) = self.moving.get_mut(name) else { return false };
        moving.calls.insert(reference);
        true
    }

    /// Whether a call for this would wait.
    pub(super) fn is_moving(&self, anyone: &Anyone) -> bool {
        matches!(anyone, Anyone::Global(name) if self.moving.contains_key(name))
    }

    /// A call that waited has ended.
    pub(super) fn waits_no_more(&mut self, reference: u64, anyone: &Anyone) {
        if let Anyone::Global(name) = anyone
            && let Some(moving) = self.moving.get_mut(name)
        {
            moving.calls.remove(&reference);
        }
    }

    /// A call that has waited for a name is made, or has waited in vain.
    pub(super) fn call_moves(&mut self, reference: u64, out: &mut Outbox) {
        if self.waits(reference) && !self.try_others(reference, out) {
            let text = "nobody has taken the name since its node began to leave";
            self.call_fails(reference, &Ending::new("noproc", text, false), out);
        }
    }
}
