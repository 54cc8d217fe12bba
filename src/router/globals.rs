//! Global names: one holder in the whole mesh, without a lock and without a round.
//!
//! Each node announces the names that its own processes hold. A name may be taken when nobody is known to hold it; so two
//! nodes that do not see each other's claim at that moment may both hold it. As soon as the claims meet, both nodes decide
//! by the same rule on the same two stamps, and the loser's node takes its claim back. Partitions end the same way.

use std::time::Instant;

use super::announced::Class;
use super::mailbox::Tag;
use super::peers::PeerId;
use super::{Asker, Failure, Outbox, Router, answer};
use crate::wire::command::OnConflict;
use crate::wire::event::Head;
use crate::wire::id::{Incarnation, Node, NodeName, Pid, check_name};

/// Most global names that one process holds.
const NAMES_MAX: usize = 10_000;

/// When a name was claimed and by whom: claims are ordered by this.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stamp {
    /// Hybrid logical milliseconds: the clock's, but later than every claim seen before.
    ms: u64,
    node: NodeName,
    incarnation: Incarnation,
    serial: u64,
}

impl Stamp {
    fn pid(&self) -> Pid {
        let node = Node { name: self.node.clone(), incarnation: self.incarnation };
        Pid { node, serial: self.serial }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    stamp: Stamp,
    on_conflict: OnConflict,
    /// It was taken on purpose from whoever had it: no older claim stays beside it.
    replaces: bool,
}

/// Who claims a name: usually one.
#[derive(Debug, Default)]
pub(super) struct Claims {
    here: Option<Claim>,
    /// Those of peers, in their order.
    there: Vec<(PeerId, Claim)>,
}

impl Claims {
    fn all(&self) -> impl Iterator<Item = (Option<PeerId>, &Claim)> {
        let there = self.there.iter().map(|(peer, claim)| (Some(*peer), claim));
        self.here.iter().map(|claim| (None, claim)).chain(there)
    }

    /// What a peer claims now.
    fn set(&mut self, peer: PeerId, claim: Option<Claim>) {
        let at = self.there.partition_point(|(other, _)| *other < peer);
        if self.there.get(at).is_some_and(|(other, _)| *other == peer) {
            self.there.remove(at);
        }
        if let Some(claim) = claim {
            // Usually the only one.
            self.there.reserve_exact(1);
            self.there.insert(at, (peer, claim));
        }
    }

    /// Who has the name.
    pub(super) fn holder(&self) -> Option<Pid> {
        self.winner().map(|(_, claim)| claim.stamp.pid())
    }

    /// The claim that no other one beats.
    fn winner(&self) -> Option<(Option<PeerId>, &Claim)> {
        self.all().find(|(_, claim)| self.all().all(|(_, other)| stays(claim, other)))
    }
}

/// Whether a claim stays when another one of the same name is met: the older one's policy decides.
fn stays(claim: &Claim, other: &Claim) -> bool {
    if claim.stamp == other.stamp {
        return true;
    }
    let older = claim.stamp < other.stamp;
    if is_replaced(claim, other) || is_replaced(other, claim) {
        return !older;
    }
    match if older { claim.on_conflict } else { other.on_conflict } {
        OnConflict::KeepOldest | OnConflict::KillLoser => older,
        OnConflict::KeepNewest => !older,
        OnConflict::Notify => false,
    }
}

/// Whether the second claim took the name from whoever had it by then.
fn is_replaced(claim: &Claim, by: &Claim) -> bool {
    by.replaces && claim.stamp < by.stamp
}

/// In the byte of the policy.
const REPLACES: u8 = 0x80;

fn policy_byte(policy: OnConflict) -> u8 {
    match policy {
        OnConflict::KeepOldest => 0,
        OnConflict::KeepNewest => 1,
        OnConflict::Notify => 2,
        OnConflict::KillLoser => 3,
    }
}

fn policy(byte: u8) -> OnConflict {
    match byte & !REPLACES {
        1 => OnConflict::KeepNewest,
        2 => OnConflict::Notify,
        3 => OnConflict::KillLoser,
        _ => OnConflict::KeepOldest,
    }
}

impl Router {
    /// The time of the run's incarnation is this one.
    pub fn on_start(&mut self, now: Instant) {
        self.began = Some(now);
    }

    /// Milliseconds since 1970 by the clock as this run read it when it began, and later than every claim that was seen.
    pub(super) fn hybrid_ms(&mut self, now: Instant) -> u64 {
        let began = *self.began.get_or_insert(now);
        let since = now.saturating_duration_since(began).as_millis();
        let clock = (self.me.incarnation.0 >> 20) + u64::try_from(since).unwrap_or(u64::MAX >> 24);
        self.last_ms = clock.max(self.last_ms.saturating_add(1));
        self.last_ms
    }

    /// Another node's clock shows this: what happens here from now on is later.
    pub(super) fn saw_ms(&mut self, ms: u64) {
        // A clock that runs a day ahead moves nobody else's.
        let bound = self.last_ms.max(self.me.incarnation.0 >> 20).saturating_add(24 * 3600 * 1000);
        if ms <= bound {
            self.last_ms = self.last_ms.max(ms);
        }
    }

    pub(super) fn register_global(
        &mut self,
        asker: &Asker<'_>,
        pid: Option<&str>,
        name: &str,
        on_conflict: OnConflict,
        replace: bool,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let serial = self.actor(asker.session, pid)?;
        check_name(name).map_err(Failure::badarg)?;
        if self.drains(None) {
            let text = "this node is about to leave: its global names are for others to take";
            return Err(Failure::new("draining", text));
        }
        // Whoever has it on a node that drains has it until somebody else wants it.
        let claims = self.globals.get(name);
        let taken = claims.and_then(|claims| {
            let (_, claim) = claims.all().find(|(peer, _)| !self.drains(*peer))?;
            Some((claim.stamp.pid(), claims.here.as_ref().map(|claim| claim.stamp.serial)))
        });
        let replace = replace || (taken.is_none() && claims.is_some());
        match taken {
            Some((_, before)) if replace => {
                return self.replace_global(asker, serial, name, on_conflict, before, out);
            }
            Some((holder, _)) => {
                return Err(Failure::new(
                    "taken",
                    format!("global:{name} is the name of {holder}"),
                ));
            }
            None => {}
        }
        if self.processes.get(&serial).is_some_and(|p| p.globals.len() >= NAMES_MAX) {
            let text = format!("a process has at most {NAMES_MAX} global names");
            return Err(Failure::new("overloaded", text));
        }
        self.claim(asker.now, serial, name, on_conflict, replace, out);
        Self::done(asker, out);
        Ok(())
    }

    /// Erlang's `re_register_name`: the name goes from whoever has it, here or elsewhere, to this process.
    fn replace_global(
        &mut self,
        asker: &Asker<'_>,
        serial: u64,
        name: &str,
        on_conflict: OnConflict,
        before: Option<u64>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let own = before
            .and_then(|before| self.processes.get(&before))
            .is_some_and(|process| process.session == asker.session);
        if !own {
            self.needs_operator(asker.session, "to take a name from another session's process")?;
        }
        let few = self.processes.get(&serial).is_some_and(|process| {
            process.globals.len() < NAMES_MAX || process.globals.contains(name)
        });
        if !few {
            let text = format!("a process has at most {NAMES_MAX} global names");
            return Err(Failure::new("overloaded", text));
        }
        if let Some(before) = before.filter(|before| *before != serial) {
            if let Some(process) = self.processes.get_mut(&before) {
                process.globals.remove(name);
            }
            let winner = self.pid(serial);
            let head = Head::event("name_conflict").text("name", name).pid("winner", Some(&winner));
            self.tell(before, Tag::Name, &head, out);
        }
        self.claim(asker.now, serial, name, on_conflict, true, out);
        Self::done(asker, out);
        Ok(())
    }

    /// A process here has a name from now on, and all nodes are told.
    fn claim(
        &mut self,
        now: Instant,
        serial: u64,
        name: &str,
        on_conflict: OnConflict,
        replaces: bool,
        out: &mut Outbox,
    ) {
        let ms = self.hybrid_ms(now);
        let Node { name: node, incarnation } = self.me.clone();
        let stamp = Stamp { ms, node, incarnation, serial };
        let claim = Claim { stamp, on_conflict, replaces };
        self.globals.entry(name.into()).or_default().here = Some(claim);
        if let Some(process) = self.processes.get_mut(&serial) {
            process.globals.insert(name.into());
        }
        self.routes += 1;
        self.name_is_taken(name);
        let mut value = [0; 17];
        value[..8].copy_from_slice(&ms.to_be_bytes());
        value[8..16].copy_from_slice(&serial.to_be_bytes());
        value[16] = policy_byte(on_conflict) | if replaces { REPLACES } else { 0 };
        self.announce(Class::Name, name.as_bytes(), Some(&value), out);
    }

    pub(super) fn unregister_global(
        &mut self,
        asker: &Asker<'_>,
        name: &str,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let claims = self.globals.get(name);
        let Some(claim) = claims.and_then(|claims| claims.here.as_ref()) else {
            return Err(match claims.and_then(Claims::winner) {
                Some((_, claim)) => Failure::denied(format!(
                    "global:{name} belongs to {}, whose own node alone can take it back",
                    claim.stamp.pid()
                )),
                None => Failure::badarg(format!("nobody is registered as global:{name}")),
            });
        };
        let serial = claim.stamp.serial;
        let own = self.processes.get(&serial).is_some_and(|p| p.session == asker.session);
        if !own {
            self.needs_operator(
                asker.session,
                "to unregister the name of another session's process",
            )?;
        }
        if let Some(process) = self.processes.get_mut(&serial) {
            process.globals.remove(name);
        }
        self.withdraw(name, out);
        Self::done(asker, out);
        Ok(())
    }

    /// Takes the claim of a process here back.
    pub(super) fn withdraw(&mut self, name: &str, out: &mut Outbox) {
        let Some(claims) = self.globals.get_mut(name) else { return };
        if claims.here.take().is_none() {
            return;
        }
        if claims.there.is_empty() {
            self.globals.remove(name);
        }
        self.routes += 1;
        self.announce(Class::Name, name.as_bytes(), None, out);
        if self.drains(None) {
            self.name_is_left(name);
        }
    }

    /// Who has a global name, as far as this node knows.
    pub(super) fn global_holder(&self, name: &str) -> Option<Pid> {
        self.globals.get(name).and_then(Claims::holder)
    }

    pub(super) fn whereis_global(
        &mut self,
        asker: &Asker<'_>,
        name: &str,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        check_name(name).map_err(Failure::badarg)?;
        if let Some(id) = asker.id {
            let head = Head::ok(id).pid("pid", self.global_holder(name).as_ref());
            answer(out, asker.session, &head, &[]);
        }
        Ok(())
    }

    /// A peer says that one of its processes has a name, or no longer.
    pub(super) fn on_global_name(
        &mut self,
        peer: PeerId,
        node: &Node,
        key: &[u8],
        value: Option<&[u8]>,
        out: &mut Outbox,
    ) -> Option<()> {
        let name = check_name(std::str::from_utf8(key).ok()?).ok()?;
        self.routes += 1;
        let Some(value) = value else {
            if let Some(claims) = self.globals.get_mut(name) {
                claims.set(peer, None);
                if claims.here.is_none() && claims.there.is_empty() {
                    self.globals.remove(name);
                }
            }
            if self.drains(Some(peer)) {
                self.name_is_left(name);
            }
            return Some(());
        };
        let value: &[u8; 17] = value.try_into().ok()?;
        let (ms, rest) = value.split_first_chunk::<8>()?;
        let (serial, rest) = rest.split_first_chunk::<8>()?;
        let Node { name: node, incarnation } = node.clone();
        let stamp = Stamp {
            ms: u64::from_be_bytes(*ms),
            node,
            incarnation,
            serial: u64::from_be_bytes(*serial),
        };
        self.saw_ms(stamp.ms);
        let replaces = rest[0] & REPLACES != 0;
        let claim = Claim { stamp, on_conflict: policy(rest[0]), replaces };
        let claims = self.globals.entry(name.into()).or_default();
        claims.set(peer, Some(claim.clone()));
        if let Some(ours) = claims.here.clone() {
            self.names_meet(name, &ours, &claim, out);
        }
        self.name_is_taken(name);
        Some(())
    }

    /// A claim of ours and one of a peer's: both nodes come to the same end, and tell their own process.
    fn names_meet(&mut self, name: &str, ours: &Claim, theirs: &Claim, out: &mut Outbox) {
        let (we_stay, they_stay) = (stays(ours, theirs), stays(theirs, ours));
        let winner = match (we_stay, they_stay) {
            (true, _) => Some(ours.stamp.pid()),
            (false, true) => Some(theirs.stamp.pid()),
            (false, false) => None,
        };
        let serial = ours.stamp.serial;
        let head = Head::event("name_conflict").text("name", name).pid("winner", winner.as_ref());
        self.tell(serial, Tag::Name, &head, out);
        if we_stay {
            return;
        }
        if let Some(process) = self.processes.get_mut(&serial) {
            process.globals.remove(name);
        }
        self.withdraw(name, out);
        let older = ours.stamp.clone().min(theirs.stamp.clone());
        let policy = if older == ours.stamp { ours.on_conflict } else { theirs.on_conflict };
        if policy == OnConflict::KillLoser && !is_replaced(ours, theirs) {
            let from = winner.unwrap_or_else(|| self.pid(serial));
            self.on_signal(serial, &from, "name_conflict", false, out);
        }
    }
}
