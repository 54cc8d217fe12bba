//! Lists that may be long: of processes, names, groups, members, modules, presences. They are made in slices.
//!
//! A list is no picture of one moment: what comes or goes while it is made may be in it or not.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use super::groups::Member;
use super::peers::PeerId;
use super::presence::Place;
use super::processes::Process;
use super::questions::write_tell;
use super::served::Caller;
use super::work::Work;
use super::{Asker, Failure, KeptId, Outbox, Router, answer};
use crate::wire::cbor;
use crate::wire::event::Head;
use crate::wire::id::Pid;

/// Longest list, in bytes: a frame of the socket has at most 64 MiB.
const LIST_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A listing that goes on in slices.
#[derive(Debug)]
pub(super) struct Listing {
    to: ListingFor,
    what: Listed,
    /// How all of it begins.
    prefix: Box<str>,
    /// The last that was looked at.
    after: After,
    count: usize,
    items: Vec<u8>,
}

#[derive(Debug)]
enum ListingFor {
    App {
        session: u64,
        id: KeptId,
    },
    Peer {
        peer: PeerId,
        number: u64,
    },
    /// `process.list` by rpc.
    Rpc {
        caller: Caller,
        reference: u64,
    },
}

/// What is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    /// The pid of every process here.
    Pids,
    /// Every process here.
    Processes,
    /// Every name here.
    Names,
    /// Every global name that is known here, and who has it.
    Globals,
    /// Every group that has members.
    Groups,
    /// Every member of a group, as often as it has joined.
    Members { group: Box<str>, local: bool },
    /// What is served where.
    Modules,
    /// Who is present under a topic; with `whole` under one key, which is the prefix.
    Presence { topic: Arc<str>, whole: bool },
}

#[derive(Debug)]
enum After {
    Nothing,
    Serial(u64),
    Name(Box<str>),
    /// A member, so many of whose joins are in the list.
    Member(Member, u32),
    Place(Place),
}

impl Listing {
    fn new(to: ListingFor, what: Listed, prefix: &str) -> Self {
        let (prefix, after) = (prefix.into(), After::Nothing);
        Self { to, what, prefix, after, count: 0, items: Vec::new() }
    }

    /// The pid of every process, as the answer to an rpc.
    pub(super) fn pids(caller: Caller, reference: u64) -> Self {
        Self::new(ListingFor::Rpc { caller, reference }, Listed::Pids, "")
    }

    /// Where it goes on among names in order.
    fn names_from(&self) -> (Bound<&str>, Bound<&str>) {
        let from = match &self.after {
            After::Name(name) => Bound::Excluded(&**name),
            _ => Bound::Included(&*self.prefix),
        };
        (from, Bound::Unbounded)
    }

    fn put_named(&mut self, name: &str, pid: &Pid) {
        cbor::put_map(&mut self.items, 2);
        cbor::put_text(&mut self.items, "name");
        cbor::put_text(&mut self.items, name);
        cbor::put_text(&mut self.items, "pid");
        cbor::put_text(&mut self.items, &pid.to_string());
        self.count += 1;
    }
}

impl Router {
    pub(super) fn start_listing(&mut self, asker: &Asker<'_>, what: Listed, prefix: &str) {
        if let Some(id) = asker.id {
            let to = ListingFor::App { session: asker.session, id: KeptId::keep(id) };
            if let Some(session) = self.sessions.get_mut(&asker.session) {
                session.listings += 1;
            }
            self.work.push_back(Work::Listing(Listing::new(to, what, prefix)));
        }
    }

    pub(super) fn list_for_peer(
        &mut self,
        now: Instant,
        peer: PeerId,
        number: u64,
        out: &mut Outbox,
    ) {
        let listing = Listing::new(ListingFor::Peer { peer, number }, Listed::Processes, "");
        self.work.push_back(Work::Listing(listing));
        self.run_work(now, out);
    }

    /// A slice of a listing; what is left of it comes back.
    pub(super) fn list_on(&mut self, mut listing: Listing, out: &mut Outbox) -> Option<Listing> {
        while listing.items.len() <= LIST_BYTES_MAX {
            if !out.may_go_on() {
                return Some(listing);
            }
            out.count(1);
            let more = match &listing.what {
                Listed::Pids | Listed::Processes | Listed::Names => self.list_process(&mut listing),
                Listed::Globals => self.list_global(&mut listing),
                Listed::Groups => self.list_group(&mut listing),
                Listed::Members { group, local } => {
                    let (group, local) = (group.clone(), *local);
                    self.list_member(&group, local, &mut listing)
                }
                Listed::Modules => self.list_module(&mut listing, out),
                Listed::Presence { topic, whole } => {
                    let (topic, whole) = (Arc::clone(topic), *whole);
                    self.list_presence(&topic, whole, &mut listing, out)
                }
            };
            if !more {
                break;
            }
        }
        self.listed(listing, out);
        None
    }

    /// The list is whole.
    fn listed(&mut self, mut listing: Listing, out: &mut Outbox) {
        let mut told = Ok(());
        if listing.items.len() > LIST_BYTES_MAX {
            listing.items = Vec::new();
            let text = "the list is longer than 32 MiB; ask by `prefix` for less of it at a time";
            told = Err(Failure::new("too_large", text));
        }
        let mut body = Vec::with_capacity(listing.items.len() + 9);
        cbor::put_array(&mut body, listing.count);
        body.append(&mut listing.items);
        let noun = match listing.what {
            Listed::Processes | Listed::Pids => "processes",
            Listed::Names | Listed::Globals => "registered",
            Listed::Groups => "groups",
            Listed::Members { .. } => "members",
            Listed::Modules => "modules",
            Listed::Presence { .. } => "presence",
        };
        match listing.to {
            ListingFor::App { session, id } => {
                match told.and_then(|()| self.may_be_long(session, body.len(), out)) {
                    Ok(()) => answer(out, session, &Head::ok(id.id()).carries(noun), &body),
                    Err(full) => {
                        let head = Head::error(id.id(), full.code, &full.message, false);
                        answer(out, session, &head, &[]);
                    }
                }
                if let Some(state) = self.sessions.get_mut(&session) {
                    state.listings -= 1;
                    out.resumed.push(session);
                }
            }
            ListingFor::Rpc { caller, reference } => {
                let told = told.and_then(|()| self.fits(body));
                self.answer_own(caller, reference, &told, out);
            }
            ListingFor::Peer { peer, number } => {
                write_tell(peer, number, &told.and_then(|()| self.fits(body)), out);
            }
        }
    }

    /// The next process. False when there is none.
    fn list_process(&self, listing: &mut Listing) -> bool {
        let last = if let After::Serial(last) = listing.after { last } else { 0 };
        let Some(serial) = self.serials.range(last + 1..).next().copied() else { return false };
        listing.after = After::Serial(serial);
        let Some(process) = self.alive(serial) else { return true };
        match (&listing.what, &process.name) {
            (Listed::Pids, _) => {
                cbor::put_text(&mut listing.items, &self.pid(serial).to_string());
                listing.count += 1;
            }
            (Listed::Processes, _) => {
                self.put_process(serial, process, &mut listing.items);
                listing.count += 1;
            }
            (_, Some(name)) if name.starts_with(&*listing.prefix) => {
                listing.put_named(name, &self.pid(serial));
            }
            _ => {}
        }
        true
    }

    /// The next global name.
    fn list_global(&self, listing: &mut Listing) -> bool {
        let next = self.globals.range::<str, _>(listing.names_from()).next();
        let Some((name, claims)) = next.filter(|(name, _)| name.starts_with(&*listing.prefix))
        else {
            return false;
        };
        // Where two claims beat each other nobody has the name.
        if let Some(pid) = claims.holder() {
            listing.put_named(name, &pid);
        }
        listing.after = After::Name(name.clone());
        true
    }

    /// The next group.
    fn list_group(&self, listing: &mut Listing) -> bool {
        let next = self.groups.range::<str, _>(listing.names_from()).next();
        let Some((name, group)) = next.filter(|(name, _)| name.starts_with(&*listing.prefix))
        else {
            return false;
        };
        if group.has_members() {
            cbor::put_text(&mut listing.items, name);
            listing.count += 1;
        }
        listing.after = After::Name(name.clone());
        true
    }

    /// The next member of a group, or the same one again if it has joined again.
    fn list_member(&self, group: &str, local: bool, listing: &mut Listing) -> bool {
        let Some(group) = self.groups.get(group) else { return false };
        let (last, given) = match listing.after {
            After::Member(member, given) => (Some(member), given),
            _ => (None, 0),
        };
        let again = last.filter(|last| given < group.times(*last)).map(|last| (last, given + 1));
        let next = again.or_else(|| group.after(last).map(|member| (member, 1)));
        let Some((member, given)) = next else { return false };
        let pid = match member {
            Member::Here(serial) => self.pid(serial),
            Member::There(..) if local => return false,
            Member::There(peer, serial) => match self.peers.get(&peer) {
                Some(peer) => Pid { node: peer.node.clone(), serial },
                None => {
                    listing.after = After::Member(member, u32::MAX);
                    return true;
                }
            },
        };
        cbor::put_text(&mut listing.items, &pid.to_string());
        listing.count += 1;
        listing.after = After::Member(member, given);
        true
    }

    /// The next module.
    fn list_module(&self, listing: &mut Listing, out: &mut Outbox) -> bool {
        let next = self.modules.range::<str, _>(listing.names_from()).next();
        let Some((name, module)) = next.filter(|(name, _)| name.starts_with(&*listing.prefix))
        else {
            return false;
        };
        self.put_module(name, module, &mut listing.items, out);
        listing.count += 1;
        listing.after = After::Name(name.clone());
        true
    }

    /// The next presence of a topic.
    fn list_presence(
        &self,
        topic: &Arc<str>,
        whole: bool,
        listing: &mut Listing,
        out: &mut Outbox,
    ) -> bool {
        let after = match &listing.after {
            After::Place(place) => Some(place),
            _ => None,
        };
        let next = self.next_presence(topic, &listing.prefix, after, false, out);
        let Some((place, row)) =
            next.filter(|(place, _)| !whole || place.is_under(&listing.prefix))
        else {
            return false;
        };
        // Empty where only lost ones were seen.
        listing.count += usize::from(!row.is_empty());
        listing.items.extend_from_slice(&row);
        listing.after = After::Place(place);
        true
    }

    fn put_process(&self, serial: u64, process: &Process, items: &mut Vec<u8>) {
        let session = self.sessions.get(&process.session);
        let client = session.and_then(|session| session.client.as_deref());
        let parent = process.parent.map(|parent| self.pid(parent.get()).to_string());
        let pod = session.and_then(|session| session.pod.as_ref()).map(ToString::to_string);
        let texts = [
            ("name", process.name.as_deref()),
            ("label", process.label.as_deref()),
            ("client", client),
            ("pod", pod.as_deref()),
            ("parent", parent.as_deref()),
        ];
        let os_pid = self.tree.runs.get(&serial).and_then(|run| run.os_pid);
        let some = texts.iter().filter(|(_, text)| text.is_some()).count();
        cbor::put_map(items, 4 + some + usize::from(os_pid.is_some()));
        cbor::put_text(items, "pid");
        cbor::put_text(items, &self.pid(serial).to_string());
        for (key, text) in texts {
            if let Some(text) = text {
                cbor::put_text(items, key);
                cbor::put_text(items, text);
            }
        }
        if let Some(os_pid) = os_pid {
            cbor::put_text(items, "os_pid");
            cbor::put_uint(items, os_pid.into());
        }
        cbor::put_text(items, "session");
        cbor::put_uint(items, process.session);
        cbor::put_text(items, "message_queue_len");
        cbor::put_uint(items, process.mailbox.messages() as u64);
        cbor::put_text(items, "status");
        cbor::put_text(items, self.status(process));
    }
}
