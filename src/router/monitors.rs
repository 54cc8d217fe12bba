//! Monitors: exactly one `down`, after the last message of the process that is watched.

use super::mailbox::Tag;
use super::peers::PeerId;
use super::send::{Target, There};
use super::{Asker, Failure, Outbox, Router, answer};
use crate::wire::cbor;
use crate::wire::event::Head;
use crate::wire::id::{Address, NodeName, Pid};
use crate::wire::message::{self, Kind};

/// What one of our processes watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Monitored {
    /// A process here; under which address, when not by its pid.
    Local { serial: u64, name: Option<Box<str>> },
    /// A process of a peer, by its pid.
    Remote { peer: PeerId, pid: Pid },
    /// A process of a peer, by its name there.
    RemoteName { peer: PeerId, address: Box<str> },
    /// Who is in a group.
    Group(Box<str>),
    /// Every group whose name begins like this.
    Groups(Box<str>),
    /// Who is present under a topic.
    Presence(Box<str>),
    /// A node, once.
    Node(NodeName),
}

/// Who watches one of our processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Watcher {
    /// A process here.
    Local { serial: u64, reference: u64 },
    /// A process of a peer.
    Remote { peer: PeerId, reference: u64 },
}

/// The `down` event: `from` is who died, as in `exit`; `pid` stays for whose mailbox it lies in. `name` is there when the monitor was set up by a name.
fn down(reference: u64, pid: Option<&Pid>, name: Option<&str>, reason: &str) -> Head {
    let mut head = Head::event("down").uint("ref", reference).pid("from", pid);
    if let Some(name) = name {
        head = head.text("name", name);
    }
    head.text("reason", reason)
}

impl Router {
    pub(super) fn monitor_local(&mut self, actor: u64, serial: u64, name: Option<&str>) -> u64 {
        let reference = self.number();
        if let Some(process) = self.processes.get_mut(&serial) {
            process.watchers.insert(Watcher::Local { serial: actor, reference });
        }
        if let Some(process) = self.processes.get_mut(&actor) {
            let monitored = Monitored::Local { serial, name: name.map(Into::into) };
            process.monitors.insert(reference, monitored);
            self.refs.insert(reference, actor);
        }
        reference
    }

    pub(super) fn monitor<'a>(
        &mut self,
        asker: &mut Asker<'a>,
        pid: Option<&str>,
        to: &'a str,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        asker.to = to;
        let actor = self.actor(asker.session, pid)?;
        self.owns_few(actor)?;
        let address = Address::parse(to).map_err(Failure::badarg)?;
        let by_pid = matches!(address, Address::Pid(_));
        let name = (!by_pid).then_some(to);
        let answer_ref = |reference, out: &mut Outbox| {
            if let Some(id) = asker.id {
                answer(out, asker.session, &Head::ok(id).uint("ref", reference), &[]);
            }
        };
        match self.resolve(address)? {
            Target::Here(serial) => {
                let reference = self.monitor_local(actor, serial, name);
                answer_ref(reference, out);
            }
            Target::There { peer, target } => {
                self.admit_signal(asker, peer, out)?;
                if let Some(state) = self.peers.get(&peer).filter(|state| state.has_many_monitors())
                {
                    return Err(state.owns_many("monitors"));
                }
                let reference = self.number();
                let monitored = match (target, name) {
                    // A global name is one of whoever has it now.
                    (_, None) => {
                        Monitored::Remote { peer, pid: to.parse().map_err(Failure::badarg)? }
                    }
                    (_, Some(address)) => Monitored::RemoteName { peer, address: address.into() },
                };
                if let Some(process) = self.processes.get_mut(&actor) {
                    process.monitors.insert(reference, monitored);
                    self.refs.insert(reference, actor);
                }
                self.peer_mut(peer, |state| state.monitors.insert(reference, actor));
                out.write_peer(peer, actor, 64, |bytes| {
                    let at = message::start(bytes, Kind::Monitor, target.flag(), actor);
                    bytes.extend_from_slice(&reference.to_be_bytes());
                    target.put(bytes);
                    message::finish(bytes, at);
                });
                answer_ref(reference, out);
            }
            Target::NoName(_) | Target::NoGlobal(_) => {
                let reference = self.number();
                answer_ref(reference, out);
                self.tell(actor, Tag::Down(reference), &down(reference, None, name, "noproc"), out);
            }
            Target::Nowhere => {
                let reference = self.number();
                answer_ref(reference, out);
                let pid: Option<Pid> = to.parse().ok();
                let reason = match (&pid, address) {
                    (Some(pid), _) => self.why_nowhere(pid),
                    (None, Address::Remote { node, .. })
                        if self.full_name(node).is_ok_and(|node| node == self.me.name) =>
                    {
                        "noproc"
                    }
                    (None, _) => "noconnection",
                };
                let head = down(reference, pid.as_ref(), name, reason);
                self.tell(actor, Tag::Down(reference), &head, out);
            }
        }
        Ok(())
    }

    /// Another link or monitor of a process is within the bound.
    pub(super) fn owns_few(&self, serial: u64) -> Result<(), Failure> {
        let many = self.processes.get(&serial).is_some_and(|process| {
            process.links.len() >= super::OWNED_MAX || process.monitors.len() >= super::OWNED_MAX
        });
        if many {
            let text = "a process has at most 200 000 links and as many monitors; take some back";
            return Err(Failure::new("overloaded", text));
        }
        Ok(())
    }

    pub(super) fn demonitor(
        &mut self,
        asker: &Asker<'_>,
        reference: u64,
        flush: bool,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let owner = self.refs.get(&reference).and_then(|serial| {
            self.processes.get(serial).map(|process| (*serial, process.session))
        });
        if let Some((serial, session)) = owner {
            if session != asker.session {
                return Err(Failure::denied("the monitor belongs to another session"));
            }
            let monitored =
                self.processes.get_mut(&serial).and_then(|p| p.monitors.remove(&reference));
            if let Some(monitored) = monitored {
                if let Monitored::Remote { peer, .. } | Monitored::RemoteName { peer, .. } =
                    &monitored
                {
                    self.pause_if_full(asker.now, *peer, asker.session, out);
                }
                self.refs.remove(&reference);
                self.forget_monitored(serial, reference, monitored, out);
            } else if flush {
                self.refs.remove(&reference);
                self.take_back(serial, |tag, _| tag == Tag::Down(reference), out);
            }
            if flush {
                let told = [Tag::Group(reference), Tag::Presence(reference)];
                self.take_back(serial, |tag, _| told.contains(&tag), out);
            }
        }
        Self::done(asker, out);
        Ok(())
    }

    /// A monitor is not wanted any more: whom it watched forgets it.
    pub(super) fn forget_monitored(
        &mut self,
        serial: u64,
        reference: u64,
        monitored: Monitored,
        out: &mut Outbox,
    ) {
        match monitored {
            Monitored::Local { serial: target, .. } => {
                if let Some(process) = self.processes.get_mut(&target) {
                    process.watchers.remove(&Watcher::Local { serial, reference });
                }
            }
            Monitored::Remote { peer, .. } | Monitored::RemoteName { peer, .. } => {
                self.peer_mut(peer, |state| state.monitors.remove(&reference));
                out.write_peer(peer, serial, 32, |bytes| {
                    let at = message::start(bytes, Kind::Demonitor, 0, serial);
                    bytes.extend_from_slice(&reference.to_be_bytes());
                    message::finish(bytes, at);
                });
            }
            Monitored::Group(group) => self.forget_group_monitor(&group, serial, reference),
            Monitored::Groups(_) => drop(self.scopes.remove(&reference)),
            Monitored::Presence(topic) => self.forget_presence_monitor(&topic, serial, reference),
            Monitored::Node(node) => {
                self.forget_node_monitor(&node, serial, reference);
            }
        }
    }

    /// A process is gone: somebody who watched it hears of it.
    pub(super) fn tell_watcher(
        &mut self,
        dead: u64,
        watcher: Watcher,
        reason: &str,
        out: &mut Outbox,
    ) {
        match watcher {
            Watcher::Local { serial, reference } => {
                let monitored =
                    self.processes.get_mut(&serial).and_then(|p| p.monitors.remove(&reference));
                if let Some(Monitored::Local { name, .. }) = monitored {
                    let pid = self.pid(dead);
                    let head = down(reference, Some(&pid), name.as_deref(), reason);
                    self.tell(serial, Tag::Down(reference), &head, out);
                }
            }
            Watcher::Remote { peer, reference } => {
                // Taken back meanwhile, the reference may stand for another process by now.
                let Some(state) = self.peers.get_mut(&peer) else { return };
                if state.watching.get(&reference) == Some(&dead) {
                    state.watching.remove(&reference);
                    write_down(peer, dead, reference, reason, out);
                }
            }
        }
    }

    /// A peer's process watches one of ours.
    pub(super) fn on_monitor(
        &mut self,
        peer: PeerId,
        reference: u64,
        target: There<'_>,
        out: &mut Outbox,
    ) {
        let Some(state) = self.peers.get(&peer) else { return };
        if state.watching.contains_key(&reference) {
            // One reference is one monitor and one `down`: the first stands.
            return;
        }
        if state.watches_many() {
            let serial = if let There::Serial(serial) = target { serial } else { 0 };
            write_down(peer, serial, reference, "overloaded", out);
            return;
        }
        let serial = match target {
            There::Serial(serial) => Some(serial),
            There::Name(name) => self.named(name),
        };
        let alive = serial.filter(|serial| self.alive(*serial).is_some());
        match alive {
            Some(serial) => {
                if let Some(process) = self.processes.get_mut(&serial) {
                    process.watchers.insert(Watcher::Remote { peer, reference });
                }
                self.peer_mut(peer, |state| state.watching.insert(reference, serial));
            }
            None => {
                let serial = if let There::Serial(serial) = target { serial } else { 0 };
                write_down(peer, serial, reference, "noproc", out);
            }
        }
    }

    /// A peer's process watches no longer.
    pub(super) fn on_demonitor(&mut self, peer: PeerId, reference: u64) {
        let mut target = None;
        self.peer_mut(peer, |state| {
            target = state.watching.remove(&reference);
        });
        if let Some(process) = target.and_then(|serial| self.processes.get_mut(&serial)) {
            process.watchers.remove(&Watcher::Remote { peer, reference });
        }
    }

    /// A process of a peer that one of ours watches is gone.
    pub(super) fn on_down(
        &mut self,
        peer: PeerId,
        from: u64,
        reference: u64,
        reason: &str,
        out: &mut Outbox,
    ) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let node = state.node.clone();
        let Some(serial) = state.monitors.remove(&reference) else { return };
        let monitored = self.processes.get_mut(&serial).and_then(|p| p.monitors.remove(&reference));
        let pid = (from != 0).then_some(Pid { node, serial: from });
        let head = match monitored {
            Some(Monitored::Remote { pid, .. }) => down(reference, Some(&pid), None, reason),
            Some(Monitored::RemoteName { address, .. }) => {
                down(reference, pid.as_ref(), Some(&address), reason)
            }
            _ => return,
        };
        self.tell(serial, Tag::Down(reference), &head, out);
    }

    /// A peer is gone: one of our monitors of its processes ends.
    pub(super) fn monitor_loses_peer(&mut self, serial: u64, reference: u64, out: &mut Outbox) {
        let monitored = self.processes.get_mut(&serial).and_then(|p| p.monitors.remove(&reference));
        let head = match monitored {
            Some(Monitored::Remote { pid, .. }) => {
                down(reference, Some(&pid), None, "noconnection")
            }
            Some(Monitored::RemoteName { address, .. }) => {
                down(reference, None, Some(&address), "noconnection")
            }
            _ => return,
        };
        self.tell(serial, Tag::Down(reference), &head, out);
    }
}

fn write_down(peer: PeerId, serial: u64, reference: u64, reason: &str, out: &mut Outbox) {
    out.write_peer(peer, serial, 64, |bytes| {
        let at = message::start(bytes, Kind::Down, 0, serial);
        bytes.extend_from_slice(&reference.to_be_bytes());
        cbor::put_text(bytes, reason);
        message::finish(bytes, at);
    });
}
