//! Groups: Erlang's `pg`. A process joins as often as it likes and leaves by leaving as often, or by dying.
//!
//! Each node announces its own members; so all nodes come to know the same group, and a lost node takes its members along.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use super::announced::Class;
use super::deliver::Origin;
use super::listings::Listed;
use super::mailbox::Tag;
use super::monitors::Monitored;
use super::peers::PeerId;
use super::{Asker, Failure, Outbox, Router, SLICE, answer};
use crate::wire::cbor;
use crate::wire::event::Head;
use crate::wire::id::{Node, Pid, check_name};

/// Most groups that one process is in.
const GROUPS_MAX: usize = 10_000;
/// How often a process may join one group.
const TIMES_MAX: u32 = 1_000_000;
/// Most processes here that watch one group.
pub(super) const WATCHERS_MAX: usize = 10_000;
/// How many members are looked at for the one with fewest calls.
const SAMPLE: usize = 16;
/// How often one event names a member, however often it has joined.
const TOLD_MAX: u32 = 1000;

/// Who is in a group.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// How often each process here has joined.
    here: BTreeMap<u64, u32>,
    /// The same of peers' processes.
    there: BTreeMap<(PeerId, u64), u32>,
    /// Who watches: (process, reference).
    watchers: BTreeSet<(u64, u64)>,
    /// Who was asked last where one is as good as another: of this node's, and of the peers'.
    turn: u64,
    turn_there: (PeerId, u64),
}

impl Group {
    fn is_nothing(&self) -> bool {
        !self.has_members() && self.watchers.is_empty()
    }

    pub(super) fn has_members(&self) -> bool {
        !(self.here.is_empty() && self.there.is_empty())
    }

    /// The member that comes after another one: those here, then those of peers.
    pub(super) fn after(&self, last: Option<Member>) -> Option<Member> {
        let here = match last {
            None => self.here.keys().next(),
            Some(Member::Here(serial)) => {
                self.here.range((Excluded(serial), Unbounded)).map(|(serial, _)| serial).next()
            }
            Some(Member::There(..)) => None,
        };
        let there = || match last {
            Some(Member::There(peer, serial)) => {
                self.there.range((Excluded((peer, serial)), Unbounded)).next()
            }
            _ => self.there.iter().next(),
        };
        here.map(|serial| Member::Here(*serial))
            .or_else(|| there().map(|((peer, serial), _)| Member::There(*peer, *serial)))
    }

    /// How often a member has joined.
    pub(super) fn times(&self, member: Member) -> u32 {
        match member {
            Member::Here(serial) => self.here.get(&serial),
            Member::There(peer, serial) => self.there.get(&(peer, serial)),
        }
        .copied()
        .unwrap_or(0)
    }

    /// Every peer that has members.
    pub(super) fn peers(&self) -> impl Iterator<Item = PeerId> {
        let next = |last: Option<PeerId>| match last {
            None => self.there.keys().next(),
            Some(last) => {
                let rest = (Excluded((last, u64::MAX)), Unbounded);
                self.there.range(rest).map(|(key, _)| key).next()
            }
        };
        std::iter::successors(next(None).map(|(peer, _)| *peer), move |last| {
            next(Some(*last)).map(|(peer, _)| *peer)
        })
    }
}

/// Who is in a group, from the one on that follows the last whose turn it was.
fn in_turn(here: &BTreeMap<u64, u32>, last: u64) -> impl Iterator<Item = &u64> {
    here.range((Excluded(last), Unbounded)).chain(here.range(..=last)).map(|(serial, _)| serial)
}

/// A member, wherever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Member {
    Here(u64),
    There(PeerId, u64),
}

fn key(group: &str, serial: u64) -> Vec<u8> {
    [&serial.to_be_bytes()[..], group.as_bytes()].concat()
}

pub(super) fn list(pids: &[Pid]) -> Vec<u8> {
    let mut list = Vec::new();
    cbor::put_array(&mut list, pids.len());
    for pid in pids {
        cbor::put_text(&mut list, &pid.to_string());
    }
    list
}

/// Who has joined or left is the body: there may be many.
pub(super) fn group_head(reference: u64, group: &str, what: &str) -> Head {
    Head::event("group").uint("ref", reference).text("group", group).carries(what)
}

impl Router {
    pub(super) fn join(
        &mut self,
        asker: &Asker<'_>,
        pid: Option<&str>,
        group: &str,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let serial = self.actor(asker.session, pid)?;
        check_name(group).map_err(Failure::badarg)?;
        let Some(process) = self.processes.get_mut(&serial) else { return Ok(()) };
        if process.groups.len() >= GROUPS_MAX && !process.groups.contains(group) {
            let text = format!("a process is in at most {GROUPS_MAX} groups; leave some");
            return Err(Failure::new("overloaded", text));
        }
        process.groups.insert(group.into());
        let times = self.groups.entry(group.into()).or_default().here.entry(serial).or_default();
        if *times >= TIMES_MAX {
            return Err(Failure::new(
                "overloaded",
                "the process has joined a million times; leave some",
            ));
        }
        *times += 1;
        let value = times.to_be_bytes();
        self.announce(Class::Member, &key(group, serial), Some(&value), out);
        let pid = self.pid(serial);
        self.tell_group(group, "joined", &[pid], out);
        Self::done(asker, out);
        Ok(())
    }

    pub(super) fn leave_group(
        &mut self,
        asker: &Asker<'_>,
        pid: Option<&str>,
        group: &str,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let serial = self.actor(asker.session, pid)?;
        let times = self.groups.get_mut(group).and_then(|state| state.here.get_mut(&serial));
        let Some(times) = times else {
            return Err(Failure::new(
                "not_found",
                format!("the process is not in the group `{group}`"),
            ));
        };
        *times -= 1;
        let left = *times;
        if left > 0 {
            self.announce(Class::Member, &key(group, serial), Some(&left.to_be_bytes()), out);
            let pid = self.pid(serial);
            self.tell_group(group, "left", &[pid], out);
        } else {
            if let Some(process) = self.processes.get_mut(&serial) {
                process.groups.remove(group);
            }
            self.member_gone(serial, group, 1, out);
        }
        Self::done(asker, out);
        Ok(())
    }

    /// A process here is no member any more, having been one so many times.
    fn member_gone(&mut self, serial: u64, group: &str, times: u32, out: &mut Outbox) {
        if let Some(state) = self.groups.get_mut(group) {
            state.here.remove(&serial);
        }
        self.announce(Class::Member, &key(group, serial), None, out);
        let pids = vec![self.pid(serial); times as usize];
        self.tell_group(group, "left", &pids, out);
        self.drop_group(group);
    }

    /// A process that has died leaves one of its groups.
    pub(super) fn dead_leaves(&mut self, serial: u64, group: &str, out: &mut Outbox) {
        let times = self.groups.get(group).and_then(|state| state.here.get(&serial)).copied();
        if let Some(times) = times {
            // One event says it, however often it had joined.
            self.member_gone(serial, group, times.min(TOLD_MAX), out);
        }
    }

    fn drop_group(&mut self, group: &str) {
        if self.groups.get(group).is_some_and(Group::is_nothing) {
            self.groups.remove(group);
        }
    }

    /// A peer says how often one of its processes is in a group.
    pub(super) fn on_member(
        &mut self,
        peer: PeerId,
        node: &Node,
        key: &[u8],
        value: Option<&[u8]>,
        out: &mut Outbox,
    ) -> Option<()> {
        let (serial, group) = key.split_first_chunk::<8>()?;
        let serial = u64::from_be_bytes(*serial);
        let group = check_name(std::str::from_utf8(group).ok()?).ok()?;
        let times = match value {
            Some(value) => u32::from_be_bytes(value.try_into().ok()?),
            None => 0,
        };
        let state = self.groups.entry(group.into()).or_default();
        let before = if times == 0 {
            state.there.remove(&(peer, serial)).unwrap_or(0)
        } else {
            state.there.insert((peer, serial), times).unwrap_or(0)
        };
        let pids =
            |times: u32| vec![Pid { node: node.clone(), serial }; times.min(TOLD_MAX) as usize];
        if times > before {
            self.tell_group(group, "joined", &pids(times - before), out);
        } else if before > times {
            self.tell_group(group, "left", &pids(before - times), out);
        }
        self.drop_group(group);
        Some(())
    }

    fn tell_group(&mut self, group: &str, what: &str, pids: &[Pid], out: &mut Outbox) {
        if !self.scopes.is_empty() {
            self.tell_scopes(group, what, pids, out);
        }
        let Some(state) = self.groups.get(group) else { return };
        if state.watchers.is_empty() {
            return;
        }
        let list = list(pids);
        for (serial, reference) in state.watchers.clone() {
            self.tell_of_group(serial, reference, group, what, &list, out);
        }
    }

    /// Every member, as often as it has joined: those here, then those of peers.
    pub(super) fn members_of(&self, group: &str) -> Vec<Pid> {
        let Some(group) = self.groups.get(group) else { return Vec::new() };
        let here = group.here.iter().map(|(serial, times)| (self.pid(*serial), *times));
        let there = group.there.iter().filter_map(|((peer, serial), times)| {
            let node = self.peers.get(peer)?.node.clone();
            Some((Pid { node, serial: *serial }, *times))
        });
        let mut pids = Vec::new();
        for (pid, times) in here.chain(there) {
            pids.extend(std::iter::repeat_n(pid, times.min(TOLD_MAX) as usize));
        }
        pids
    }

    pub(super) fn members(
        &mut self,
        asker: &Asker<'_>,
        group: &str,
        local: bool,
    ) -> Result<(), Failure> {
        check_name(group).map_err(Failure::badarg)?;
        self.start_listing(asker, Listed::Members { group: group.into(), local }, "");
        Ok(())
    }

    pub(super) fn monitor_group(
        &mut self,
        asker: &Asker<'_>,
        pid: Option<&str>,
        group: &str,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let actor = self.actor(asker.session, pid)?;
        check_name(group).map_err(Failure::badarg)?;
        self.owns_few(actor)?;
        if self.groups.get(group).is_some_and(|state| state.watchers.len() >= WATCHERS_MAX) {
            let text = format!("{WATCHERS_MAX} processes here watch the group already");
            return Err(Failure::new("overloaded", text));
        }
        let reference = self.number();
        self.groups.entry(group.into()).or_default().watchers.insert((actor, reference));
        if let Some(process) = self.processes.get_mut(&actor) {
            process.monitors.insert(reference, Monitored::Group(group.into()));
            self.refs.insert(reference, actor);
        }
        if let Some(id) = asker.id {
            answer(out, asker.session, &Head::ok(id).uint("ref", reference), &[]);
        }
        // What there is now, then what changes: nothing lies between.
        let head = group_head(reference, group, "joined");
        let pids = self.members_of(group);
        out.count(pids.len());
        let list = list(&pids);
        self.deliver(None, actor, Origin::Node, Tag::Group(reference), head.bytes(), &list, out);
        Ok(())
    }

    pub(super) fn forget_group_monitor(&mut self, group: &str, serial: u64, reference: u64) {
        if let Some(state) = self.groups.get_mut(group) {
            state.watchers.remove(&(serial, reference));
        }
        self.drop_group(group);
    }

    /// Whether a process here is in a group.
    pub(super) fn is_member(&self, group: &str, serial: u64) -> bool {
        self.groups.get(group).is_some_and(|state| state.here.contains_key(&serial))
    }

    /// The member to ask where any will do: one of this node's, else one of this zone's, else any; those with few calls
    /// under way first, and in turn. Those of nodes that drain come last. However many there are, few are looked at.
    pub(super) fn any_member(&mut self, group: &str, tried: &[Member]) -> Option<Member> {
        let state = self.groups.get(group)?;
        let near = in_turn(&state.here, state.turn)
            .take(SLICE)
            .filter(|serial| self.alive(**serial).is_some())
            .filter(|serial| !tried.contains(&Member::Here(**serial)))
            .take(SAMPLE)
            .min_by_key(|serial| self.processes.get(serial).map_or(0, |p| p.serving.len()))
            .copied();
        if let Some(serial) = near.filter(|_| !self.drains(None)) {
            self.groups.get_mut(group)?.turn = serial;
            return Some(Member::Here(serial));
        }
        let far = state
            .peers()
            .filter_map(|peer| {
                // Of one peer any will do: what is known is how many calls go there.
                let (_, last) = state.turn_there;
                let next = state.there.range((peer, last.saturating_add(1))..=(peer, u64::MAX));
                let member = next
                    .chain(state.there.range((peer, 0)..=(peer, last)))
                    .map(|((peer, serial), _)| Member::There(*peer, *serial))
                    .find(|member| !tried.contains(member))?;
                let busy = self.peers.get(&peer).map_or(0, |state| state.calls.len());
                // Who was asked last comes last of its equals.
                let turn = peer <= state.turn_there.0;
                Some((self.drains(Some(peer)), self.distance(peer), busy, turn, member))
            })
            .min()
            // This node drains, and so do all the others.
            .filter(|(drains, ..)| !drains || near.is_none())
            .map(|(.., member)| member);
        if far.is_none()
            && let Some(serial) = near
        {
            self.groups.get_mut(group)?.turn = serial;
            return Some(Member::Here(serial));
        }
        if let Some(Member::There(peer, serial)) = far {
            self.groups.get_mut(group)?.turn_there = (peer, serial);
        }
        far
    }

    /// How far a peer is: 1 in the same zone, else 2.
    pub(super) fn distance(&self, peer: PeerId) -> u8 {
        let zone = self.labels.get("zone");
        let same = self
            .peers
            .get(&peer)
            .is_some_and(|state| zone.is_some() && state.labels.get("zone") == zone);
        if same { 1 } else { 2 }
    }
}
