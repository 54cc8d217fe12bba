//! Local names: one process per name, one name per process.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::processes::Process;
use super::{Asker, Failure, Map, Outbox, Router, answer};
use crate::wire::event::Head;
use crate::wire::id::{NodeName, check_name};
use crate::wire::message::Ask;

/// Names that Erlang reserves, and that look like something else.
const RESERVED: [&str; 5] = ["undefined", "nil", "null", "true", "false"];

/// Which process has which name. The names themselves are with the processes, once.
#[derive(Debug, Default)]
pub(super) struct Names {
    hasher: RandomState,
    serials: HashTable<u64>,
}

impl Names {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.serials.len()
    }

    fn get(&self, name: &str, processes: &Map<u64, Box<Process>>) -> Option<u64> {
        let same = |serial: &u64| name_of(*serial, processes) == name;
        self.serials.find(self.hasher.hash_one(name), same).copied()
    }

    /// A process that has this name already gets it.
    fn insert(&mut self, name: &str, serial: u64, processes: &Map<u64, Box<Process>>) {
        let Self { hasher, serials } = self;
        let hash = |serial: &u64| hasher.hash_one(name_of(*serial, processes));
        serials.insert_unique(hasher.hash_one(name), serial, hash);
    }

    fn remove(&mut self, name: &str, serial: u64) -> bool {
        let hash = self.hasher.hash_one(name);
        match self.serials.find_entry(hash, |found| *found == serial) {
            Ok(entry) => entry.remove().0 == serial,
            Err(_) => false,
        }
    }
}

fn name_of(serial: u64, processes: &Map<u64, Box<Process>>) -> &str {
    processes.get(&serial).and_then(|process| process.name.as_deref()).unwrap_or_default()
}

impl Router {
    /// The live process of this name.
    pub(super) fn named(&self, name: &str) -> Option<u64> {
        let serial = self.names.get(name, &self.processes)?;
        self.alive(serial).map(|_| serial)
    }

    pub(super) fn name_is_free(&self, name: &str) -> Result<(), Failure> {
        check_name(name).map_err(Failure::badarg)?;
        if RESERVED.contains(&name) {
            return Err(Failure::badarg(format!("`{name}` is reserved and cannot be a name")));
        }
        match self.named(name) {
            Some(serial) => {
                Err(Failure::new("taken", format!("`{name}` belongs to {}", self.pid(serial))))
            }
            None => Ok(()),
        }
    }

    pub(super) fn give_name(&mut self, serial: u64, name: &str) {
        if let Some(process) = self.processes.get_mut(&serial) {
            process.name = Some(name.into());
            self.names.insert(name, serial, &self.processes);
            self.routes += 1;
        }
    }

    /// The name is free. Whether it was this process's.
    pub(super) fn forget_name(&mut self, name: &str, serial: u64) -> bool {
        self.names.remove(name, serial)
    }

    pub(super) fn register(
        &mut self,
        asker: &Asker<'_>,
        pid: Option<&str>,
        name: &str,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let serial = self.actor(asker.session, pid)?;
        self.name_is_free(name)?;
        if let Some(named) = self.processes.get(&serial).and_then(|process| process.name.as_deref())
        {
            let text =
                format!("the process is registered as `{named}` already; unregister that first");
            return Err(Failure::badarg(text));
        }
        self.give_name(serial, name);
        Self::done(asker, out);
        Ok(())
    }

    pub(super) fn unregister(
        &mut self,
        asker: &Asker<'_>,
        name: &str,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let Some(serial) = self.named(name) else {
            return Err(Failure::badarg(format!("nobody is registered as `{name}`")));
        };
        let own = self.processes.get(&serial).is_some_and(|p| p.session == asker.session);
        if !own {
            self.needs_operator(asker.session, "unregistering a name of another session")?;
        }
        self.forget_name(name, serial);
        self.routes += 1;
        if let Some(process) = self.processes.get_mut(&serial) {
            process.name = None;
        }
        Self::done(asker, out);
        Ok(())
    }

    pub(super) fn whereis(
        &mut self,
        asker: &Asker<'_>,
        name: &str,
        node: Option<&str>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        // What can be nobody's name would be null for ever.
        check_name(name).map_err(Failure::badarg)?;
        if let Some(node) = node {
            let node: NodeName = self.full_name(node)?;
            if node != self.me.name {
                let ask = Ask::Whereis { name: name.to_owned() };
                return self.ask(asker, &node, &ask, None, out);
            }
        }
        let pid = self.named(name).map(|serial| self.pid(serial));
        if let Some(id) = asker.id {
            answer(out, asker.session, &Head::ok(id).pid("pid", pid.as_ref()), &[]);
        }
        Ok(())
    }

    /// A node's name as apps write it; a bare base means this host.
    pub(super) fn full_name(&self, text: &str) -> Result<NodeName, Failure> {
        if text.contains('@') {
            text.parse().map_err(Failure::badarg)
        } else {
            NodeName::new(text, self.me.name.host()).map_err(Failure::badarg)
        }
    }
}
