//! Groups: Erlang's `pg`. A process joins as often as it likes and leaves by leaving as often, or by dying.
//!
//! Each node announces its own members; so all nodes come to know the same group, and a lost node takes its members along.

use std::collections::{BTreeMap, BTreeSet};

use super::announced::Class;
use super::deliver::Origin;
use super::mailbox::Tag;
use super::monitors::Monitored;
use super::peers::PeerId;
use super::{Asker, Failure, Outbox, Router, answer};
use crate::wire::cbor;
use crate::wire::event::Head;
use crate::wire::id::{Node, Pid, check_name};

/// Most groups that one process is in.
const GROUPS_MAX: usize = 10_000;
/// How often a process may join one group.
const TIMES_MAX: u32 = 1_000_000;
/// Most processes here that watch one group.
const WATCHERS_MAX: usize = 10_000;

/// Who is in a group.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// How often each process here has joined.
    here: BTreeMap<u64, u32>,
    /// The same of peers' processes.
    there: BTreeMap<(PeerId, u64), u32>,
    /// Who watches: (process, reference).
    watchers: BTreeSet<(u64, u64)>,
    /// Whose turn it is, where one is as good as another.
    turn: u64,
}

impl Group {
    fn is_nothing(&self) -> bool {
        self.here.is_empty() && self.there.is_empty() && self.watchers.is_empty()
    }
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

fn list(pids: &[Pid]) -> Vec<u8> {
    let mut list = Vec::new();
    cbor::put_array(&mut list, pids.len());
    for pid in pids {
        cbor::put_text(&mut list, &pid.to_string());
    }
    list
}

/// Who has joined or left is the body: there may be many.
fn group_head(reference: u64, group: &str, what: &str) -> Head {
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
            self.member_gone(serial, group, times.min(1000), out);
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
        let pids = |times: u32| vec![Pid { node: node.clone(), serial }; times.min(1000) as usize];
        if times > before {
            self.tell_group(group, "joined", &pids(times - before), out);
        } else if before > times {
            self.tell_group(group, "left", &pids(before - times), out);
        }
        self.drop_group(group);
        Some(())
    }

    fn tell_group(&mut self, group: &str, what: &str, pids: &[Pid], out: &mut Outbox) {
        let Some(state) = self.groups.get(group) else { return };
        if state.watchers.is_empty() {
            return;
        }
        let list = list(pids);
        for (serial, reference) in state.watchers.clone() {
            out.count(1);
            let head = group_head(reference, group, what);
            self.deliver(
                None,
                serial,
                Origin::Node,
                Tag::Group(reference),
                head.bytes(),
                &list,
                out,
            );
        }
    }

    /// Every member, as often as it has joined: those here, then those of peers.
    fn members_of(&self, group: &str, local: bool) -> Vec<Pid> {
        let Some(state) = self.groups.get(group) else { return Vec::new() };
        let here = state.here.iter().map(|(serial, times)| (self.pid(*serial), *times));
        let there = state.there.iter().filter(|_| !local).filter_map(|((peer, serial), times)| {
            let node = self.peers.get(peer)?.node.clone();
            Some((Pid { node, serial: *serial }, *times))
        });
        let mut pids = Vec::new();
        for (pid, times) in here.chain(there) {
            pids.extend(std::iter::repeat_n(pid, times as usize));
        }
        pids
    }

    pub(super) fn members(
        &mut self,
        asker: &Asker<'_>,
        group: &str,
        local: bool,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        check_name(group).map_err(Failure::badarg)?;
        if let Some(id) = asker.id {
            let body = list(&self.members_of(group, local));
            answer(out, asker.session, &Head::ok(id).carries("members"), &body);
        }
        Ok(())
    }

    pub(super) fn list_groups(
        &mut self,
        asker: &Asker<'_>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        if let Some(id) = asker.id {
            let mut body = Vec::new();
            let names: Vec<_> = self
                .groups
                .iter()
                .filter(|(_, state)| !(state.here.is_empty() && state.there.is_empty()))
                .map(|(name, _)| name)
                .collect();
            cbor::put_array(&mut body, names.len());
            for name in names {
                cbor::put_text(&mut body, name);
            }
            answer(out, asker.session, &Head::ok(id).carries("groups"), &body);
        }
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
        let list = list(&self.members_of(group, false));
        self.deliver(None, actor, Origin::Node, Tag::Group(reference), head.bytes(), &list, out);
        Ok(())
    }

    pub(super) fn forget_group_monitor(&mut self, group: &str, serial: u64, reference: u64) {
        if let Some(state) = self.groups.get_mut(group) {
            state.watchers.remove(&(serial, reference));
        }
        self.drop_group(group);
    }

    /// Every process that is in a group, once.
    pub(super) fn members_once(&self, group: &str) -> Vec<Member> {
        let Some(state) = self.groups.get(group) else { return Vec::new() };
        let here = state.here.keys().filter(|serial| self.alive(**serial).is_some());
        let there = state.there.keys().map(|(peer, serial)| Member::There(*peer, *serial));
        here.map(|serial| Member::Here(*serial)).chain(there).collect()
    }

    /// The member to ask where any will do: one of this node's, else one of this zone's, else any; those with few calls
    /// under way first, and in turn.
    pub(super) fn any_member(&mut self, group: &str, tried: &[Member]) -> Option<Member> {
        let members = self.members_once(group);
        let left = members.iter().filter(|member| !tried.contains(member));
        let best = left
            .map(|member| match member {
                Member::Here(serial) => {
                    let busy = self.processes.get(serial).map_or(0, |p| p.serving.len());
                    (0, busy, *member)
                }
                Member::There(peer, _) => {
                    let busy = self.peers.get(peer).map_or(0, |state| state.calls.len());
                    (self.distance(*peer), busy, *member)
                }
            })
            .collect::<Vec<_>>();
        let (distance, busy, _) = *best.iter().min()?;
        let equal: Vec<_> =
            best.iter().filter(|one| (one.0, one.1) == (distance, busy)).map(|one| one.2).collect();
        let state = self.groups.get_mut(group)?;
        state.turn += 1;
        let at = usize::try_from(state.turn).unwrap_or(0) % equal.len();
        equal.get(at).copied()
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
