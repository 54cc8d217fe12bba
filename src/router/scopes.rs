//! Watching many groups at once: all whose names begin alike, as Erlang's `pg:monitor_scope`.
//!
//! What there is now is told in slices, group by group in the order of their names. A change of a group that has been told
//! already is told at once, one of a group that is still to come is in what is told then: nothing lies between.

use std::ops::Bound;

use super::deliver::Origin;
use super::groups::{WATCHERS_MAX, group_head, list};
use super::mailbox::Tag;
use super::monitors::Monitored;
use super::work::Work;
use super::{Asker, Failure, Outbox, Router, answer};
use crate::wire::event::Head;
use crate::wire::id::{NAME_BYTES_MAX, Pid};

/// Who watches, and how far it has been told.
#[derive(Debug)]
pub(super) struct Scope {
    serial: u64,
    prefix: Box<str>,
    told: Told,
}

#[derive(Debug)]
enum Told {
    Nothing,
    Until(Box<str>),
    All,
}

impl Scope {
    fn hears_of(&self, group: &str) -> bool {
        group.starts_with(&*self.prefix)
            && match &self.told {
                Told::Nothing => false,
                Told::Until(last) => group <= &**last,
                Told::All => true,
            }
    }
}

impl Router {
    pub(super) fn monitor_groups(
        &mut self,
        asker: &Asker<'_>,
        pid: Option<&str>,
        prefix: &str,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let actor = self.actor(asker.session, pid)?;
        if prefix.len() > NAME_BYTES_MAX {
            let text = format!("`prefix` has at most {NAME_BYTES_MAX} bytes, as names have");
            return Err(Failure::badarg(text));
        }
        self.owns_few(actor)?;
        if self.scopes.len() >= WATCHERS_MAX {
            let text = format!("{WATCHERS_MAX} processes here watch groups already");
            return Err(Failure::new("overloaded", text));
        }
        let reference = self.number();
        let scope = Scope { serial: actor, prefix: prefix.into(), told: Told::Nothing };
        self.scopes.insert(reference, scope);
        if let Some(process) = self.processes.get_mut(&actor) {
            process.monitors.insert(reference, Monitored::Groups(prefix.into()));
            self.refs.insert(reference, actor);
        }
        if let Some(id) = asker.id {
            answer(out, asker.session, &Head::ok(id).uint("ref", reference), &[]);
        }
        self.work.push_back(Work::Scope { reference });
        Ok(())
    }

    /// Tells the next group that there is. False when all have been told, or nobody wants to know any more.
    pub(super) fn tell_scope(&mut self, reference: u64, out: &mut Outbox) -> bool {
        let Some(scope) = self.scopes.get_mut(&reference) else { return false };
        let from = match &scope.told {
            Told::Until(last) => Bound::Excluded(&**last),
            _ => Bound::Included(&*scope.prefix),
        };
        let next = self.groups.range::<str, _>((from, Bound::Unbounded)).next();
        let Some((name, _)) = next.filter(|(name, _)| name.starts_with(&*scope.prefix)) else {
            scope.told = Told::All;
            return false;
        };
        let name = name.clone();
        let serial = scope.serial;
        scope.told = Told::Until(name.clone());
        let pids = self.members_of(&name);
        if !pids.is_empty() {
            out.count(pids.len());
            self.tell_of_group(serial, reference, &name, "joined", &list(&pids), out);
        }
        true
    }

    /// Tells those who watch many groups of a change in one.
    pub(super) fn tell_scopes(&mut self, group: &str, what: &str, pids: &[Pid], out: &mut Outbox) {
        let those = self.scopes.iter().filter(|(_, scope)| scope.hears_of(group));
        let those: Vec<_> = those.map(|(reference, scope)| (scope.serial, *reference)).collect();
        if those.is_empty() {
            return;
        }
        let list = list(pids);
        for (serial, reference) in those {
            self.tell_of_group(serial, reference, group, what, &list, out);
        }
    }

    pub(super) fn tell_of_group(
        &mut self,
        serial: u64,
        reference: u64,
        group: &str,
        what: &str,
        list: &[u8],
        out: &mut Outbox,
    ) {
        out.count(1);
        let head = group_head(reference, group, what);
        self.deliver(None, serial, Origin::Node, Tag::Group(reference), head.bytes(), list, out);
    }
}
