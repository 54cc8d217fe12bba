//! A supervisor on paper: who is started again when somebody ends, and in which order everybody is stopped.
//!
//! It knows neither processes nor time: children are numbers, `now` is an argument, and what is to be done comes out as
//! [`Act`]s. Whoever carries them out says what came of it by [`Supervisor::exited`].
//!
//! ```text
//! exited ──> not restarted            ──> nothing, or the end when it was significant
//!        ──> restarted once too often ──> all are stopped, last one first ──> Act::Ended(GaveUp)
//!        ──> restarted                ──> who goes with it is stopped, last one first ──> all of them are started
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::wire::host::{AutoShutdown, Restart, Strategy};

/// Which child.
pub(super) type ChildId = u64;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Start it.
    Start(ChildId),
    /// Ask it to end; `exited` follows when it has.
    Stop(ChildId),
    /// It has ended for good: it is no child any more.
    Forget(ChildId),
    /// All have ended, and the supervisor with them.
    Ended(End),
}

/// Why a supervisor has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Its children were restarted too often.
    GaveUp,
    /// Its significant children have ended.
    Auto,
    /// It was asked to.
    Asked,
}

/// Where a child is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not there.
    Stopped,
    /// Started.
    Up,
    /// Asked to end.
    Ending,
}

/// One child.
#[derive(Clone, Copy, Debug)]
struct Member {
    id: ChildId,
    restart: Restart,
    significant: bool,
    state: State,
    /// Nobody has terminated it by hand.
    wanted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// Nothing but waiting for an end.
    Steady,
    /// Those from here on are being stopped.
    Stopping { from: usize, then: Then },
    /// It has ended.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Restart,
    End(End),
}

/// A supervisor and the states of its children, in the order in which they were started.
#[derive(Debug)]
pub(super) struct Supervisor {
    strategy: Strategy,
    auto: AutoShutdown,
    restarts_max: usize,
    within: Duration,
    /// As OTP's dynamic supervisors, those of factories: all are stopped at once, and who ends for good is forgotten.
    dynamic: bool,
    members: Vec<Member>,
    /// When it last restarted somebody.
    restarts: VecDeque<Instant>,
    doing: Doing,
}

impl Supervisor {
    pub(super) fn new(
        strategy: Strategy,
        auto: AutoShutdown,
        restarts_max: u32,
        within: Duration,
        dynamic: bool,
    ) -> Self {
        Self {
            strategy,
            auto,
            restarts_max: restarts_max as usize,
            within,
            dynamic,
            members: Vec::new(),
            restarts: VecDeque::new(),
            doing: Doing::Steady,
        }
    }

    fn at(&self, id: ChildId) -> Option<usize> {
        self.members.iter().position(|member| member.id == id)
    }

    pub(super) fn children(&self) -> impl ExactSizeIterator<Item = (ChildId, State)> {
        self.members.iter().map(|member| (member.id, member.state))
    }

    /// How many children there are, up or not.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// It ends or has ended: it takes no children.
    pub(super) fn is_ending(&self) -> bool {
        matches!(self.doing, Doing::Over | Doing::Stopping { then: Then::End(_), .. })
    }

    /// It has ended.
    pub(super) fn is_over(&self) -> bool {
        self.doing == Doing::Over
    }

    /// It stops children to start them anew.
    pub(super) fn is_restarting(&self) -> bool {
        matches!(self.doing, Doing::Stopping { then: Then::Restart, .. })
    }

    /// A new child, behind the others. Started at once, or with those that are being restarted.
    pub(super) fn add(&mut self, id: ChildId, restart: Restart, significant: bool) -> Vec<Act> {
        let state = State::Stopped;
        self.members.push(Member { id, restart, significant, state, wanted: true });
        if self.doing == Doing::Steady {
            self.start_from(self.members.len() - 1)
        } else {
            Vec::new()
        }
    }

    /// A child is asked to end, and stays away until `restart`.
    pub(super) fn terminate(&mut self, id: ChildId) -> Vec<Act> {
        let Some(at) = self.at(id) else { return Vec::new() };
        let member = &mut self.members[at];
        member.wanted = false;
        if member.state != State::Up {
            return Vec::new();
        }
        member.state = State::Ending;
        vec![Act::Stop(id)]
    }

    /// A child that is not there is started.
    pub(super) fn restart(&mut self, id: ChildId) -> Vec<Act> {
        let Some(at) = self.at(id) else { return Vec::new() };
        let member = &mut self.members[at];
        if member.state != State::Stopped || self.doing != Doing::Steady {
            return Vec::new();
        }
        member.wanted = true;
        member.state = State::Up;
        vec![Act::Start(id)]
    }

    /// A child is a child no longer, wherever it was.
    pub(super) fn delete(&mut self, id: ChildId) -> Vec<Act> {
        if let Some(at) = self.at(id) {
            self.remove(at);
        }
        self.go_on()
    }

    /// The supervisor ends with all its children.
    pub(super) fn shutdown(&mut self, end: End) -> Vec<Act> {
        match &mut self.doing {
            Doing::Over => return Vec::new(),
            // What somebody has asked for stays asked for.
            Doing::Stopping { then: Then::End(End::Asked), .. } => {}
            doing => *doing = Doing::Stopping { from: 0, then: Then::End(end) },
        }
        self.go_on()
    }

    /// A supervisor that has ended starts again, and its children with it.
    pub(super) fn revive(&mut self) -> Vec<Act> {
        if self.doing != Doing::Over {
            return Vec::new();
        }
        self.doing = Doing::Steady;
        self.restarts.clear();
        self.start_from(0)
    }

    /// A child has ended, by itself or because it was asked to.
    pub(super) fn exited(&mut self, now: Instant, id: ChildId, abnormal: bool) -> Vec<Act> {
        let Some(at) = self.at(id) else { return Vec::new() };
        let member = &mut self.members[at];
        let before = std::mem::replace(&mut member.state, State::Stopped);
        let Member { restart, significant, wanted, .. } = *member;
        if before == State::Stopped {
            return Vec::new();
        }
        let mut acts = Vec::new();
        let again = restart == Restart::Permanent || restart == Restart::Transient && abnormal;
        let steady = match self.doing {
            Doing::Steady => true,
            // Those before who are stopped for a restart are not part of that.
            Doing::Stopping { from, then: Then::Restart } => at < from,
            _ => false,
        };
        if restart == Restart::Temporary || self.dynamic && (!wanted || steady && !again) {
            self.remove(at);
            acts.push(Act::Forget(id));
        }
        if !steady {
            acts.extend(self.go_on());
        } else if before == State::Ending || !wanted {
            // Somebody has terminated it by hand.
        } else if !again {
            let others = || self.members.iter().any(|m| m.significant && m.state != State::Stopped);
            let ends = significant
                && match self.auto {
                    AutoShutdown::Never => false,
                    AutoShutdown::AnySignificant => true,
                    AutoShutdown::AllSignificant => !others(),
                };
            if ends {
                acts.extend(self.shutdown(End::Auto));
            }
        } else if self.is_too_often(now) {
            acts.extend(self.shutdown(End::GaveUp));
        } else {
            match self.strategy {
                Strategy::OneForOne => {
                    self.members[at].state = State::Up;
                    acts.push(Act::Start(id));
                }
                Strategy::OneForAll => acts.extend(self.restart_from(0)),
                Strategy::RestForOne => acts.extend(self.restart_from(at)),
            }
        }
        acts
    }

    fn is_too_often(&mut self, now: Instant) -> bool {
        self.restarts.push_back(now);
        while self.restarts.front().is_some_and(|at| now.duration_since(*at) > self.within) {
            self.restarts.pop_front();
        }
        self.restarts.len() > self.restarts_max
    }

    fn restart_from(&mut self, from: usize) -> Vec<Act> {
        self.doing = Doing::Stopping { from, then: Then::Restart };
        self.go_on()
    }

    fn start_from(&mut self, from: usize) -> Vec<Act> {
        let rest = &mut self.members[from..];
        let due = rest.iter_mut().filter(|m| m.wanted && m.state == State::Stopped);
        due.map(|member| {
            member.state = State::Up;
            Act::Start(member.id)
        })
        .collect()
    }

    /// The next step of what it is at.
    fn go_on(&mut self) -> Vec<Act> {
        let Doing::Stopping { from, then } = self.doing else { return Vec::new() };
        let mut acts = Vec::new();
        for member in self.members[from..].iter_mut().rev() {
            let before = member.state;
            if before == State::Up {
                member.state = State::Ending;
                acts.push(Act::Stop(member.id));
            }
            // The next one waits until this one has ended.
            if before != State::Stopped && !self.dynamic {
                return acts;
            }
        }
        if self.members[from..].iter().any(|member| member.state != State::Stopped) {
            return acts;
        }
        match then {
            Then::Restart => {
                self.doing = Doing::Steady;
                acts.extend(self.start_from(from));
            }
            Then::End(end) => {
                self.doing = Doing::Over;
                acts.push(Act::Ended(end));
            }
        }
        acts
    }

    fn remove(&mut self, at: usize) {
        self.members.remove(at);
        if let Doing::Stopping { from, .. } = &mut self.doing
            && at < *from
        {
            *from -= 1;
        }
    }
}

#[cfg(test)]
mod tests;
