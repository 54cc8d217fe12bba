//! Links: two processes that die together unless one of them traps exits.
//!
//! Between nodes they follow the OTP 23 protocol ("Distribution protocol", "Link protocol"): an unlink carries an
//! id and is confirmed, so that a link made while an unlink is under way is neither lost nor left on one side.

use super::mailbox::Tag;
use super::peers::{Peer, PeerId};
use super::send::{Target, There};
use super::{Asker, Failure, Outbox, Router};
use crate::wire::cbor;
use crate::wire::event;
use crate::wire::id::{Address, Pid};
use crate::wire::message::{self, Kind};

impl Router {
    pub(super) fn link_local(&mut self, one: u64, other: u64) {
        if one == other {
            return;
        }
        let (one_pid, other_pid) = (self.pid(one), self.pid(other));
        if let Some(process) = self.processes.get_mut(&one) {
            process.links.insert(other_pid);
        }
        if let Some(process) = self.processes.get_mut(&other) {
            process.links.insert(one_pid);
        }
    }

    /// The pid that an address of `link` means; links need a pid or a local name.
    fn linkable(&self, to: &str) -> Result<Pid, Failure> {
        match Address::parse(to).map_err(Failure::badarg)? {
            Address::Pid(_) => to.parse().map_err(Failure::badarg),
            Address::Local(name) => match self.named(name) {
                Some(serial) => Ok(self.pid(serial)),
                None => Err(super::send::no_name(name)),
            },
            _ => Err(Failure::badarg(
                "`link` takes a pid or a local name; `whereis {name, node}` gives a pid",
            )),
        }
    }

    pub(super) fn link<'a>(
        &mut self,
        asker: &mut Asker<'a>,
        pid: Option<&str>,
        to: &'a str,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        asker.to = to;
        let actor = self.actor(asker.session, pid)?;
        self.owns_few(actor)?;
        let other = self.linkable(to)?;
        let text = other.to_string();
        let target = self.resolve(Address::parse(&text).map_err(Failure::badarg)?)?;
        if let Target::There { peer, .. } = target {
            self.admit_signal(asker, peer, out)?;
            if let Some(state) = self.peers.get(&peer).filter(|state| state.has_many_links()) {
                return Err(state.owns_many("links"));
            }
        }
        Self::done(asker, out);
        match target {
            Target::Here(serial) => self.link_local(actor, serial),
            Target::There { peer, target } => {
                let linked =
                    self.processes.get_mut(&actor).is_some_and(|p| p.links.insert(other.clone()));
                if linked {
                    self.peer_mut(peer, |state| state.links.insert((actor, other.serial)));
                    write(peer, Kind::Link, actor, target, &[], out);
                }
            }
            Target::NoName(_) | Target::NoGlobal(_) | Target::Nowhere => {
                let reason = self.why_nowhere(&other);
                self.on_signal(actor, &other, reason, true, out);
            }
        }
        Ok(())
    }

    /// Why a pid leads nowhere: its process is dead for certain, or its node is out of reach.
    pub(super) fn why_nowhere(&self, pid: &Pid) -> &'static str {
        let here = pid.node.name == self.me.name;
        if here || self.peer_named(pid.node.name.as_str()).is_some() {
            "noproc"
        } else {
            "noconnection"
        }
    }

    pub(super) fn unlink<'a>(
        &mut self,
        asker: &mut Asker<'a>,
        pid: Option<&str>,
        to: &'a str,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        asker.to = to;
        let actor = self.actor(asker.session, pid)?;
        let other = self.linkable(to)?;
        let linked = self.processes.get_mut(&actor).is_some_and(|p| p.links.remove(&other));
        if linked && other.node == self.me {
            let me = self.pid(actor);
            if let Some(process) = self.processes.get_mut(&other.serial) {
                process.links.remove(&me);
            }
        } else if linked && let Some((peer, _)) = self.peer_of(&other) {
            self.pause_if_full(asker.now, peer, asker.session, out);
            let number = self.number();
            self.peer_mut(peer, |state| state.links.remove(&(actor, other.serial)));
            if let Some(process) = self.processes.get_mut(&actor) {
                process.unlinking.insert(other.clone(), number);
            }
            self.peer_mut(peer, |state| state.unlinking.insert((actor, other.serial)));
            write(
                peer,
                Kind::Unlink,
                actor,
                There::Serial(other.serial),
                &number.to_be_bytes(),
                out,
            );
        }
        // The barrier: an exit that has arrived already is taken back.
        let from = other.to_string();
        self.take_back(actor, |tag, frame| tag == Tag::Exit && exit_is_from(frame, &from), out);
        Self::done(asker, out);
        Ok(())
    }

    /// A process is gone: the other end of one of its links hears of it.
    pub(super) fn tell_linked(&mut self, serial: u64, other: &Pid, reason: &str, out: &mut Outbox) {
        let dead = self.pid(serial);
        if other.node == self.me {
            let linked =
                self.processes.get_mut(&other.serial).is_some_and(|p| p.links.remove(&dead));
            if linked {
                self.on_signal(other.serial, &dead, reason, true, out);
            }
        } else if let Some((peer, _)) = self.peer_of(other) {
            self.peer_mut(peer, |state| state.links.remove(&(serial, other.serial)));
            self.write_reason(peer, serial, Kind::Exit, There::Serial(other.serial), reason, out);
        }
    }

    /// A peer's process links itself to one of ours.
    pub(super) fn on_link(&mut self, peer: PeerId, from: Pid, target: u64, out: &mut Outbox) {
        let there = There::Serial(from.serial);
        let many = self.peers.get(&peer).is_some_and(Peer::has_many_links);
        let Some(process) = self.processes.get_mut(&target) else {
            self.write_reason(peer, target, Kind::Exit, there, "noproc", out);
            return;
        };
        if many && !process.links.contains(&from) {
            self.write_reason(peer, target, Kind::Exit, there, "overloaded", out);
            return;
        }
        if process.unlinking.contains_key(&from) {
            // Sent before it heard of our unlink, which it will.
            return;
        }
        let serial = from.serial;
        if process.links.insert(from) {
            self.peer_mut(peer, |state| state.links.insert((target, serial)));
        }
    }

    /// A peer's process takes a link back.
    pub(super) fn on_unlink(
        &mut self,
        peer: PeerId,
        from: &Pid,
        target: u64,
        number: u64,
        out: &mut Outbox,
    ) {
        if self.processes.get_mut(&target).is_some_and(|process| process.links.remove(from)) {
            self.peer_mut(peer, |state| state.links.remove(&(target, from.serial)));
        }
        let there = There::Serial(from.serial);
        write(peer, Kind::UnlinkAck, target, there, &number.to_be_bytes(), out);
    }

    /// A peer confirms that a link is gone on its side.
    pub(super) fn on_unlink_ack(&mut self, peer: PeerId, from: &Pid, target: u64, number: u64) {
        let confirmed = self.processes.get_mut(&target).is_some_and(|process| {
            let ours = process.unlinking.get(from) == Some(&number);
            ours && process.unlinking.remove(from).is_some()
        });
        if confirmed || !self.processes.contains_key(&target) {
            self.peer_mut(peer, |state| state.unlinking.remove(&(target, from.serial)));
        }
    }

    /// A peer's process that was linked to one of ours is gone.
    pub(super) fn on_exit(
        &mut self,
        peer: PeerId,
        from: &Pid,
        target: u64,
        reason: &str,
        out: &mut Outbox,
    ) {
        let linked = self.processes.get_mut(&target).is_some_and(|p| p.links.remove(from));
        if linked {
            self.peer_mut(peer, |state| state.links.remove(&(target, from.serial)));
            self.on_signal(target, from, reason, true, out);
        }
    }

    /// Writes a frame whose payload is a target and a reason.
    pub(super) fn write_reason(
        &mut self,
        peer: PeerId,
        serial: u64,
        kind: Kind,
        target: There<'_>,
        reason: &str,
        out: &mut Outbox,
    ) {
        let mut text = std::mem::take(&mut self.scratch);
        text.clear();
        cbor::put_text(&mut text, reason);
        write(peer, kind, serial, target, &text, out);
        self.scratch = text;
    }
}

/// Writes a short frame of a process: a target and what its kind adds.
pub(super) fn write(
    peer: PeerId,
    kind: Kind,
    serial: u64,
    target: There<'_>,
    rest: &[u8],
    out: &mut Outbox,
) {
    out.write_peer(peer, serial, 64, |bytes| {
        let at = message::start(bytes, kind, target.flag(), serial);
        target.put(bytes);
        bytes.extend_from_slice(rest);
        message::finish(bytes, at);
    });
}

fn exit_is_from(frame: &[u8], from: &str) -> bool {
    let Some((head, _)) = event::split_frame(frame) else { return false };
    let mut reader = cbor::Reader::new(head);
    let Ok(pairs) = reader.map() else { return false };
    for _ in 0..pairs {
        match (reader.text(), reader.value()) {
            (Ok("from"), Ok(cbor::Value::Text(text))) => return text == from,
            (Ok(_), Ok(_)) => {}
            _ => return false,
        }
    }
    false
}
