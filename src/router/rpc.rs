//! Rpc: calls of `(node, module, function)`, as in Erlang's `erpc`.
//!
//! A process serves a module; several may serve one, here and elsewhere. Whoever has fewest calls to answer gets the next
//! one. Which node serves what is announced, so `any` goes to the nearest node that has the function, without asking.

use std::collections::{BTreeMap, BTreeSet};

use super::announced::{Class, VALUE_BYTES_MAX};
use super::calls::{Anyone, Asked, Making, timeout_of};
use super::deliver::Origin;
use super::gather::Slot;
use super::groups::Member;
use super::listings::Listing;
use super::mailbox::Tag;
use super::peers::{Payload, PeerId, is_said};
use super::served::Caller;
use super::work::Work;
use super::{Asker, Failure, KeptId, Outbox, Remote, Router};
use crate::wire::cbor::{self, Reader};
use crate::wire::command::{Keys, Mode};
use crate::wire::event::{self, Said};
use crate::wire::id::{Pid, check_name};
use crate::wire::message::{self, Frame, FrameError, Kind};

/// Most modules that one process serves.
const MODULES_MAX: usize = 1000;
/// How many functions an error names.
const NAMED_MAX: usize = 20;

/// The functions of a module, where they are known.
type Functions = Option<BTreeSet<Box<str>>>;

/// Who serves a module.
#[derive(Debug, Default)]
pub(super) struct Module {
    here: BTreeMap<u64, Functions>,
    there: BTreeMap<PeerId, Functions>,
}

/// The functions that every node has.
const BUILT_IN: [(&str, &[&str]); 3] = [
    ("mesh", &["nodes"]),
    ("node", &["info", "labels", "list", "ping"]),
    ("process", &["info", "list", "whereis"]),
];

fn built_in(module: &str) -> Option<&'static [&'static str]> {
    BUILT_IN.iter().find(|(name, _)| *name == module).map(|(_, functions)| *functions)
}

fn has(functions: &Functions, function: &str) -> bool {
    functions.as_ref().is_none_or(|functions| functions.contains(function))
}

/// What is asked of whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function<'a> {
    pub(super) module: &'a str,
    pub(super) function: &'a str,
}

impl Module {
    /// Everything that is known to be there, for an error.
    fn known(&self) -> String {
        let all = self.here.values().chain(self.there.values());
        named(all.flatten().flatten().map(AsRef::as_ref).collect())
    }
}

fn named(names: BTreeSet<&str>) -> String {
    let many = names.len();
    let mut words: Vec<_> = names.into_iter().take(NAMED_MAX).collect();
    if many > NAMED_MAX {
        words.push("...");
    }
    words.join(", ")
}

impl Router {
    pub(super) fn serve(
        &mut self,
        asker: &Asker<'_>,
        pid: Option<&str>,
        module: &str,
        functions: Option<Keys<'_>>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let serial = self.actor(asker.session, pid)?;
        check_name(module).map_err(Failure::badarg)?;
        if built_in(module).is_some() {
            let text = format!("the module `{module}` is the node's own; choose another name");
            return Err(Failure::new("taken", text));
        }
        let functions: Functions = match functions {
            None => None,
            Some(names) => {
                let names: Result<BTreeSet<Box<str>>, _> =
                    names.iter().map(|name| check_name(name).map(Into::into)).collect();
                Some(names.map_err(Failure::badarg)?)
            }
        };
        let size: usize = functions.iter().flatten().map(|name| name.len() + 3).sum();
        if size > VALUE_BYTES_MAX / 2 {
            let text = "the names of the functions are longer together than 16 KiB; serve all, or more modules";
            return Err(Failure::new("too_large", text));
        }
        let Some(process) = self.processes.get_mut(&serial) else { return Ok(()) };
        if process.modules.len() >= MODULES_MAX && !process.modules.contains(module) {
            let text = format!("a process serves at most {MODULES_MAX} modules");
            return Err(Failure::new("overloaded", text));
        }
        process.modules.insert(module.into());
        self.modules.entry(module.into()).or_default().here.insert(serial, functions);
        self.announce_module(module, out);
        Self::done(asker, out);
        Ok(())
    }

    pub(super) fn unserve(
        &mut self,
        asker: &Asker<'_>,
        pid: Option<&str>,
        module: &str,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let serial = self.actor(asker.session, pid)?;
        let served =
            self.processes.get_mut(&serial).is_some_and(|process| process.modules.remove(module));
        if !served {
            let text = format!("the process does not serve `{module}`");
            return Err(Failure::new("not_found", text));
        }
        self.serves_no_more(serial, module, out);
        Self::done(asker, out);
        Ok(())
    }

    /// A process here serves a module no longer.
    pub(super) fn serves_no_more(&mut self, serial: u64, module: &str, out: &mut Outbox) {
        let Some(state) = self.modules.get_mut(module) else { return };
        state.here.remove(&serial);
        self.announce_module(module, out);
    }

    /// Announces what all processes here together have of a module.
    fn announce_module(&mut self, module: &str, out: &mut Outbox) {
        let Some(state) = self.modules.get(module) else { return };
        if state.here.is_empty() {
            if state.there.is_empty() {
                self.modules.remove(module);
            }
            return self.announce(Class::Module, module.as_bytes(), None, out);
        }
        let mut value = Vec::new();
        if state.here.values().any(Option::is_none) {
            cbor::put_null(&mut value);
        } else {
            let names: BTreeSet<_> = state.here.values().flatten().flatten().collect();
            cbor::put_array(&mut value, names.len());
            for name in names {
                cbor::put_text(&mut value, name);
            }
        }
        if value.len() > VALUE_BYTES_MAX {
            // Too many to name: the node says of itself that it may have any.
            value.clear();
            cbor::put_null(&mut value);
        }
        self.announce(Class::Module, module.as_bytes(), Some(&value), out);
    }

    /// A peer says what it has of a module, or that it has it no longer.
    pub(super) fn on_module(
        &mut self,
        peer: PeerId,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Option<()> {
        let module = check_name(std::str::from_utf8(key).ok()?).ok()?;
        let Some(value) = value else {
            if let Some(state) = self.modules.get_mut(module) {
                state.there.remove(&peer);
                if state.here.is_empty() && state.there.is_empty() {
                    self.modules.remove(module);
                }
            }
            return Some(());
        };
        let functions = if value == [0xf6] {
            None
        } else {
            let mut reader = Reader::new(value);
            let count = reader.items().ok()?;
            let mut names = BTreeSet::new();
            for _ in 0..count {
                names.insert(check_name(reader.text().ok()?).ok()?.into());
            }
            Some(names)
        };
        self.modules.entry(module.into()).or_default().there.insert(peer, functions);
        Some(())
    }

    /// A module, and where it is served.
    pub(super) fn put_module(
        &self,
        name: &str,
        state: &Module,
        items: &mut Vec<u8>,
        out: &mut Outbox,
    ) {
        let me = self.me.name.as_str();
        let here = state.here.values().map(|functions| (me, functions));
        let there = state.there.iter().filter_map(|(peer, functions)| {
            self.peers.get(peer).map(|peer| (peer.node.name.as_str(), functions))
        });
        let nodes: Vec<(&str, &Functions)> = here.chain(there).collect();
        out.count(nodes.len());
        cbor::put_map(items, 2);
        cbor::put_text(items, "module");
        cbor::put_text(items, name);
        cbor::put_text(items, "served");
        cbor::put_array(items, nodes.len());
        for (node, functions) in nodes {
            cbor::put_map(items, 2);
            cbor::put_text(items, "node");
            cbor::put_text(items, node);
            cbor::put_text(items, "functions");
            match functions {
                None => cbor::put_null(items),
                Some(functions) => {
                    out.count(functions.len() / 8);
                    cbor::put_array(items, functions.len());
                    for function in functions {
                        cbor::put_text(items, function);
                    }
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one command")]
    pub(super) fn rpc<'a>(
        &mut self,
        asker: &mut Asker<'a>,
        pid: Option<&str>,
        node: Option<&'a str>,
        nodes: Option<Keys<'_>>,
        what: Function<'_>,
        timeout_ms: Option<u64>,
        cast: bool,
        ct: Option<&str>,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        asker.to = node.unwrap_or("");
        let caller = self.actor(asker.session, pid)?;
        check_name(what.module).map_err(Failure::badarg)?;
        check_name(what.function).map_err(Failure::badarg)?;
        let timeout = timeout_of(timeout_ms)?;
        self.body_fits(body)?;
        let making =
            Making { now: asker.now, session: asker.session, caller, to: "", timeout, ct, body };
        if cast {
            return self.rpc_cast(asker, making, node, nodes, what, out);
        }
        let Some(id) = asker.id else {
            return Err(Failure::badarg(
                "`rpc` needs an `id`: its answer carries the result; use `rpc_cast` when none is wanted",
            ));
        };
        let id = KeptId::keep(id);
        let Some(nodes) = nodes else {
            let asked = Asked::App { session: asker.session, id };
            return self.rpc_one(making, node.unwrap_or("any"), what, asked, out);
        };
        let nodes = self.asked_nodes(Some(nodes))?;
        let gather = self.gather(asker.session, id, nodes.clone(), out);
        for (index, node) in nodes.iter().enumerate() {
            let slot = Slot { gather, index };
            let asked = Asked::Several(slot);
            if let Err(failure) = self.rpc_one(making, node.as_str(), what, asked, out) {
                self.gathered(slot, Err(&failure.ending()), out);
            }
        }
        Ok(())
    }

    fn rpc_one(
        &mut self,
        making: Making<'_>,
        node: &str,
        what: Function<'_>,
        asked: Asked,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let head = self.rpc_head(making.caller, making.ct, what);
        if node == "any" {
            if built_in(what.module).is_some() {
                // Every node has it: this one is the nearest.
                return self.call_built_in_here(making, asked, what, out);
            }
            let anyone = Anyone::Rpc { module: what.module.into(), function: what.function.into() };
            return self.ask_anyone(making, asked, anyone, &head, out);
        }
        let node = self.full_name(node)?;
        let place = if node == self.me.name {
            if built_in(what.module).is_some() {
                return self.call_built_in_here(making, asked, what, out);
            }
            Member::Here(self.server_of(what)?)
        } else {
            let Some((peer, _)) = self.peer_named(node.as_str()) else {
                return Err(super::questions::no_connection(&node));
            };
            Member::There(peer, 0)
        };
        self.ask_member(making, asked, place, Some(what), &head, out)
    }

    fn rpc_head(&self, caller: u64, ct: Option<&str>, what: Function<'_>) -> Vec<u8> {
        let mut head = Vec::with_capacity(160);
        event::put_said_head(&mut head, Said::Rpc, &self.prefix, Some(caller), ct);
        event::put_member(&mut head, "module", what.module);
        event::put_member(&mut head, "function", what.function);
        head
    }

    fn rpc_cast(
        &mut self,
        asker: &Asker<'_>,
        making: Making<'_>,
        node: Option<&str>,
        nodes: Option<Keys<'_>>,
        what: Function<'_>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let head = self.rpc_head(making.caller, making.ct, what);
        let mut places = Vec::new();
        if node == Some("any") {
            let anyone = Anyone::Rpc { module: what.module.into(), function: what.function.into() };
            places.push(self.find_anyone(&anyone, &[], making.caller)?);
        } else {
            let nodes = match node {
                Some(node) => vec![self.full_name(node)?],
                None => self.asked_nodes(nodes)?,
            };
            // As with `erpc:cast`: whoever is not there is not there.
            places.extend(nodes.iter().filter_map(|node| {
                if *node == self.me.name {
                    self.server_of(what).ok().map(Member::Here)
                } else {
                    self.peer_named(node.as_str()).map(|(peer, _)| Member::There(peer, 0))
                }
            }));
        }
        let mut full: Option<Failure> = None;
        for place in places {
            match place {
                Member::Here(serial) => {
                    let origin =
                        Self::origin(Mode::Wait, super::deliver::Holder::Local(making.caller));
                    self.deliver(
                        Some(making.now),
                        serial,
                        origin,
                        Tag::Message,
                        &head,
                        making.body,
                        out,
                    );
                }
                Member::There(peer, _) => {
                    let from = Some((making.session, making.caller));
                    match self.admit(making.now, peer, from, Mode::Wait, out) {
                        Ok(_) => write_rpc(peer, making.caller, 0, what, &head, making.body, out),
                        Err(failure) => Failure::gather(&mut full, failure),
                    }
                }
            }
        }
        Self::done_unless(asker, full, out)
    }

    /// The process here that is to run a function: of those that have it, the one with fewest calls to answer.
    fn server_of(&self, what: Function<'_>) -> Result<u64, Failure> {
        let Some(state) = self.modules.get(what.module).filter(|state| !state.here.is_empty())
        else {
            let here: BTreeSet<&str> = self
                .modules
                .iter()
                .filter(|(_, state)| !state.here.is_empty())
                .map(|(name, _)| &**name)
                .chain(BUILT_IN.iter().map(|(name, _)| *name))
                .collect();
            let text = format!(
                "{} serves no module `{}`; it serves {}",
                self.me.name,
                what.module,
                named(here)
            );
            return Err(Failure::new("undef", text));
        };
        let able = state.here.iter().filter(|(serial, functions)| {
            has(functions, what.function) && self.alive(**serial).is_some()
        });
        let busy = |serial: u64| self.processes.get(&serial).map_or(0, |p| p.serving.len());
        able.map(|(serial, _)| (busy(*serial), *serial)).min().map(|(_, serial)| serial).ok_or_else(
            || {
                self.no_function(
                    what,
                    &named(state.here.values().flatten().flatten().map(AsRef::as_ref).collect()),
                )
            },
        )
    }

    fn no_function(&self, what: Function<'_>, known: &str) -> Failure {
        let text = format!(
            "`{}` on {} has no function `{}`; it has {known}",
            what.module, self.me.name, what.function
        );
        Failure::new("undef", text)
    }

    /// The nearest that has a function: this node, then the same zone, then the others; fewest calls first. Nodes that
    /// drain come last.
    pub(super) fn any_server(
        &self,
        what: Function<'_>,
        tried: &[Member],
    ) -> Result<Option<Member>, Failure> {
        let here = self.server_of(what).ok().map(Member::Here);
        let here = here.filter(|place| !tried.contains(place));
        if here.is_some() && !self.drains(None) {
            return Ok(here);
        }
        let Some(state) = self.modules.get(what.module) else {
            let all: BTreeSet<&str> = self.modules.keys().map(AsRef::as_ref).collect();
            let text = if all.is_empty() {
                format!("no connected node serves a module `{}`, or any other", what.module)
            } else {
                format!(
                    "no connected node serves a module `{}`; there are {}",
                    what.module,
                    named(all)
                )
            };
            return Err(Failure::new("undef", text));
        };
        let able = state.there.iter().filter(|(_, functions)| has(functions, what.function));
        let mut able = able.peekable();
        if able.peek().is_none()
            && !state.here.values().any(|functions| has(functions, what.function))
        {
            let text = format!(
                "no connected node has a function `{}` in `{}`; there are {}",
                what.function,
                what.module,
                state.known()
            );
            return Err(Failure::new("undef", text));
        }
        Ok(able
            .map(|(peer, _)| *peer)
            .filter(|peer| !tried.contains(&Member::There(*peer, 0)))
            .map(|peer| {
                let busy = self.peers.get(&peer).map_or(0, |state| state.calls.len());
                (self.drains(Some(peer)), self.distance(peer), busy, peer)
            })
            .min()
            // This node drains, and so do all the others.
            .filter(|(drains, ..)| !drains || here.is_none())
            .map(|(.., peer)| Member::There(peer, 0))
            .or(here))
    }

    pub(super) fn on_rpc(
        &mut self,
        peer: PeerId,
        frame: Frame<'_>,
        out: &mut Outbox,
    ) -> Result<(), FrameError> {
        let wrong = || FrameError::Malformed("rpc");
        let mut payload = Payload(frame.payload);
        let theirs = payload.serial().ok_or_else(wrong)?;
        let module = payload.text().ok_or_else(wrong)?;
        let function = payload.text().ok_or_else(wrong)?;
        let (head, body) = event::split_frame(payload.0).ok_or_else(wrong)?;
        let known = self.peers.get(&peer).is_some_and(|state| state.serving.contains_key(&theirs));
        if known || !is_said(head, Said::Rpc) {
            return Err(wrong());
        }
        let what = Function { module, function };
        if theirs == 0 {
            if let Ok(serial) = self.server_of(what) {
                self.deliver(None, serial, Origin::Node, Tag::Message, head, body, out);
            }
            return Ok(());
        }
        let caller = Caller::There { peer, reference: theirs };
        if built_in(module).is_some() {
            let open = self.limits.remote != Remote::None || (module, function) == ("node", "ping");
            let told = if open {
                if (module, function) == ("process", "list") {
                    self.work.push_back(Work::Listing(Listing::pids(caller, 0)));
                    return Ok(());
                }
                self.built_in(what, body, out)
            } else {
                Err(Failure::denied(format!(
                    "{} does not let other nodes ask it (its setting `remote` is none)",
                    self.me.name
                )))
            };
            self.answer_own(caller, 0, &told, out);
            return Ok(());
        }
        match self.server_of(what) {
            Ok(serial) => {
                let reference = self.number();
                self.serve_call(reference, serial, caller, head, body, out);
            }
            Err(failure) => self.end_of(caller, 0, 0, &failure.ending(), out),
        }
        Ok(())
    }

    fn call_built_in_here(
        &mut self,
        making: Making<'_>,
        asked: Asked,
        what: Function<'_>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let list = (what.module, what.function) == ("process", "list");
        let told = if list { None } else { Some(self.built_in(what, making.body, out)?) };
        let reference = self.begin_own(&making, asked);
        match told {
            Some(body) => self.replied(reference, None, &body, out),
            None => self.work.push_back(Work::Listing(Listing::pids(Caller::Here, reference))),
        }
        Ok(())
    }

    /// What the node itself knows.
    fn built_in(
        &self,
        what: Function<'_>,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<Vec<u8>, Failure> {
        let argument = || {
            let mut reader = Reader::new(body);
            reader.text().map_err(|_| {
                Failure::badarg(format!(
                    "`{}.{}` takes one text: a pid or a name",
                    what.module, what.function
                ))
            })
        };
        let mut told = Vec::new();
        match (what.module, what.function) {
            ("node", "ping") => cbor::put_text(&mut told, "pong"),
            ("node", "list") => {
                cbor::put_array(&mut told, self.connected.len());
                for node in self.connected.keys() {
                    cbor::put_text(&mut told, node.as_str());
                }
            }
            ("mesh", "nodes") => {
                cbor::put_array(&mut told, self.connected.len() + 1);
                cbor::put_text(&mut told, self.me.name.as_str());
                for node in self.connected.keys() {
                    cbor::put_text(&mut told, node.as_str());
                }
            }
            ("node", "labels") => super::info::put_labels(&mut told, &self.labels),
            ("node", "info") => {
                cbor::put_map(&mut told, 5);
                cbor::put_text(&mut told, "node");
                cbor::put_text(&mut told, self.me.name.as_str());
                cbor::put_text(&mut told, "incarnation");
                cbor::put_text(&mut told, &self.me.incarnation.to_string());
                cbor::put_text(&mut told, "labels");
                super::info::put_labels(&mut told, &self.labels);
                cbor::put_text(&mut told, "processes");
                cbor::put_uint(&mut told, self.processes.len() as u64);
                cbor::put_text(&mut told, "sessions");
                cbor::put_uint(&mut told, self.sessions.len() as u64);
            }
            ("process", "whereis") => {
                match self.named(check_name(argument()?).map_err(Failure::badarg)?) {
                    Some(serial) => cbor::put_text(&mut told, &self.pid(serial).to_string()),
                    None => cbor::put_null(&mut told),
                }
            }
            ("process", "info") => {
                let text = argument()?;
                let (serial, name) = match text.parse::<Pid>() {
                    Ok(pid) if pid.node == self.me => (Some(pid.serial), None),
                    Ok(_) => {
                        return Err(Failure::new("noproc", format!("{text} is not alive here")));
                    }
                    Err(_) => (None, Some(text)),
                };
                let keys: Vec<String> =
                    super::info::USUAL.iter().map(ToString::to_string).collect();
                return self.info_for_peer(serial, name, &keys, out);
            }
            _ => {
                let known = built_in(what.module).unwrap_or_default();
                return Err(self.no_function(what, &named(known.iter().copied().collect())));
            }
        }
        Ok(told)
    }
}

pub(super) fn write_rpc(
    peer: PeerId,
    caller: u64,
    reference: u64,
    what: Function<'_>,
    head: &[u8],
    body: &[u8],
    out: &mut Outbox,
) {
    let size = 64 + what.module.len() + what.function.len() + head.len() + body.len();
    out.write_peer(peer, caller, size, |bytes| {
        let at = message::start(bytes, Kind::Rpc, 0, caller);
        bytes.extend_from_slice(&reference.to_be_bytes());
        for name in [what.module, what.function] {
            bytes.extend_from_slice(&u16::try_from(name.len()).unwrap_or(0).to_be_bytes());
            bytes.extend_from_slice(name.as_bytes());
        }
        event::put_frame(bytes, head, body);
        message::finish(bytes, at);
    });
}
