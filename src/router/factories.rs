//! Factories: templates of programs that any node may start here, and what `tree` shows of all that is hosted.
//!
//! Nothing but what a node offers can be started from another one. The link and the monitor of the one who spawns are set
//! in the same moment in which the program has been started, so nothing is missed in between.

use super::announced::Class;
use super::hosting::{Asking, Child, Supervised};
use super::peers::PeerId;
use super::questions::{no_connection, write_tell_of};
use super::send::There;
use super::supervisor::{End, State};
use super::{Asker, Failure, KeptId, Outbox, Remote, Router, answer};
use crate::wire::cbor::{self, Reader};
use crate::wire::command::Keys;
use crate::wire::event::Head;
use crate::wire::host::{ARGS_MAX, PROGRAM_BYTES_MAX, ProcessSpec};
use crate::wire::id::{NodeName, Pid, check_name};
use crate::wire::message::{Ask, Kind};

/// What `spawn` of a factory asks for.
pub(super) struct SpawnFrom<'a> {
    pub(super) factory: &'a str,
    pub(super) node: Option<&'a str>,
    pub(super) args: Option<Keys<'a>>,
    pub(super) name: Option<&'a str>,
    pub(super) link: bool,
    pub(super) monitor: bool,
    pub(super) timeout_ms: Option<u64>,
}

/// Where a factory is.
enum Place {
    Here,
    There(NodeName),
}

/// A spawn on another node that has not been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spawning {
    pub(super) actor: u64,
    pub(super) link: bool,
    pub(super) monitor: Option<u64>,
    /// Nobody waits any more: what is started after all is to end again.
    pub(super) late: bool,
}

impl Router {
    pub(super) fn spawn_from<'a>(
        &mut self,
        asker: &mut Asker<'a>,
        pid: Option<&str>,
        wanted: &SpawnFrom<'a>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        asker.to = wanted.factory;
        let actor = self.actor(asker.session, pid)?;
        self.owns_few(actor)?;
        check_name(wanted.factory).map_err(Failure::badarg)?;
        if let Some(name) = wanted.name {
            check_name(name).map_err(Failure::badarg)?;
        }
        let args: Vec<String> = match &wanted.args {
            Some(args) => args.iter().map(str::to_owned).collect(),
            None => Vec::new(),
        };
        let bytes: usize = args.iter().map(|arg| arg.len() + 1).sum();
        if args.len() > ARGS_MAX || bytes > PROGRAM_BYTES_MAX {
            let text = format!(
                "`args` are at most {ARGS_MAX} texts and {PROGRAM_BYTES_MAX} bytes together"
            );
            return Err(Failure::new("too_large", text));
        }
        let &SpawnFrom { factory, name, link, monitor, .. } = wanted;
        match self.place_of(wanted)? {
            Place::Here => {
                let id = asker.id.map(KeptId::keep);
                let session = asker.session;
                let asking = Asking::Here { session, id, actor, link, monitor };
                self.make(factory, &args, name, asking, out)
            }
            Place::There(node) => {
                let monitor = monitor.then(|| self.number());
                let ask = Ask::Spawn {
                    factory: factory.to_owned(),
                    args,
                    name: name.map(str::to_owned),
                    from: actor,
                    link,
                    monitor,
                };
                let timeout = wanted.timeout_ms.map(std::time::Duration::from_millis);
                self.ask(asker, &node, &ask, timeout, out)
            }
        }
    }

    fn place_of(&self, wanted: &SpawnFrom<'_>) -> Result<Place, Failure> {
        let factory = wanted.factory;
        let node = match wanted.node {
            None => return Ok(Place::Here),
            Some("any") => return self.any_place(factory),
            Some(node) => self.full_name(node)?,
        };
        if node == self.me.name {
            return Ok(Place::Here);
        }
        let Some((peer, _)) = self.peer_named(node.as_str()) else {
            return Err(no_connection(&node));
        };
        if !self.tree.offered.get(factory).is_some_and(|nodes| nodes.contains_key(&peer)) {
            let offers = self.tree.offered.iter().filter(|(_, nodes)| nodes.contains_key(&peer));
            return Err(no_factory(Some(node.as_str()), factory, offers.map(|(name, _)| &**name)));
        }
        Ok(Place::There(node))
    }

    /// Here when there is room, else where there are fewest.
    fn any_place(&self, factory: &str) -> Result<Place, Failure> {
        let mut full = None;
        if let Some(here) = self.tree.supervisors.get(factory).filter(|s| s.factory.is_some()) {
            match Self::takes_child(here) {
                Ok(()) if !self.tree.leaving && !self.drains(None) => return Ok(Place::Here),
                Ok(()) => {}
                Err(failure) => full = Some(failure),
            }
        }
        let offered = self.tree.offered.get(factory);
        if let Some(nodes) = offered {
            let room = nodes.iter().filter(|(_, (children, most))| children < most);
            let connected = room.filter_map(|(peer, (children, _))| {
                let node = &self.peers.get(peer)?.node.name;
                self.peer_named(node.as_str()).map(|_| (*children, node))
            });
            if let Some((_, node)) = connected.min() {
                return Ok(Place::There(node.clone()));
            }
            if !nodes.is_empty() && full.is_none() {
                let text = format!("every node that offers `{factory}` has as many as it may have");
                full = Some(Failure::new("overloaded", text));
            }
        }
        Err(full.unwrap_or_else(|| {
            let here = self.factories_here();
            let there = self.tree.offered.keys().map(AsRef::as_ref);
            no_factory(None, factory, here.chain(there))
        }))
    }

    fn factories_here(&self) -> impl Iterator<Item = &str> {
        let factories = self.tree.supervisors.iter().filter(|(_, s)| s.factory.is_some());
        factories.map(|(name, _)| &**name)
    }

    /// Starts another child of a factory here.
    pub(super) fn make(
        &mut self,
        factory: &str,
        args: &[String],
        name: Option<&str>,
        asking: Asking,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let supervised = self.tree.supervisors.get(factory);
        let Some((supervised, template)) =
            supervised.and_then(|s| s.factory.clone().map(|template| (s, template)))
        else {
            return Err(no_factory(Some(self.me.name.as_str()), factory, self.factories_here()));
        };
        self.is_starting()?;
        if let Some(name) = name {
            self.name_is_free(name)?;
        }
        Self::takes_child(supervised)?;
        let mut program = template.program.clone();
        program.args.extend_from_slice(args);
        program.check().map_err(Failure::badarg)?;
        let spec = ProcessSpec {
            name: name.unwrap_or(factory).to_owned(),
            program,
            restart: template.restart,
            shutdown: template.shutdown,
            supervisor: factory.to_owned(),
            significant: false,
            register: name.is_some(),
        };
        let id = self.add_child(factory, spec, false, Some(asking));
        self.start_child(factory, id, out);
        Ok(())
    }

    /// The program that somebody spawned has been started.
    pub(super) fn has_spawned(&mut self, serial: u64, asking: Asking, out: &mut Outbox) {
        match asking {
            Asking::Here { session, id, actor, link, monitor } => {
                let lives = self.alive(actor).is_some();
                let mut head = id.as_ref().map(|id| {
                    Head::ok(id.id())
                        .pid("pid", Some(&self.pid(serial)))
                        .text("node", self.me.name.as_str())
                });
                if link && lives {
                    self.link_local(actor, serial);
                }
                if monitor && lives {
                    let reference = self.monitor_local(actor, serial, None);
                    head = head.map(|head| head.uint("ref", reference));
                }
                if let Some(head) = head {
                    answer(out, session, &head, &[]);
                }
                if link && !lives {
                    let from = self.pid(actor);
                    self.on_signal(serial, &from, "noproc", true, out);
                }
            }
            Asking::There { peer, number, from, link, monitor } => {
                let Some(state) = self.peers.get(&peer) else {
                    if link {
                        // As a link that loses its node.
                        let from = self.pid(serial);
                        self.on_signal(serial, &from, "noconnection", true, out);
                    }
                    return;
                };
                let from = Pid { node: state.node.clone(), serial: from };
                if link {
                    self.on_link(peer, from, serial, out);
                }
                if let Some(reference) = monitor {
                    self.on_monitor(peer, reference, There::Serial(serial), out);
                }
                let mut body = Vec::new();
                cbor::put_text(&mut body, &self.pid(serial).to_string());
                // In the order of the process: nothing that it says, and not its end, comes before its pid.
                write_tell_of(peer, serial, number, &Ok(body), out);
            }
            Asking::Host { .. } | Asking::Restart { .. } => {}
        }
    }

    /// A process of another node spawns here.
    pub(super) fn on_spawn(&mut self, peer: PeerId, number: u64, ask: Ask, out: &mut Outbox) {
        let Ask::Spawn { factory, args, name, from, link, monitor } = ask else { return };
        let asking = Asking::There { peer, number, from, link, monitor };
        if let Err(failure) = self.make(&factory, &args, name.as_deref(), asking, out) {
            write_tell_of(peer, 0, number, &Err(failure), out);
        }
    }

    /// Another node has started what one of ours spawned there. The answer to it, when somebody waits for one.
    pub(super) fn spawned_there(
        &mut self,
        peer: PeerId,
        spawning: Spawning,
        item: &[u8],
        out: &mut Outbox,
    ) -> Result<(Pid, Option<u64>), Failure> {
        let wrong =
            || Failure::new("unsupported", "the other node answered with no pid of its own");
        let Spawning { actor, link, monitor, late } = spawning;
        let pid: Pid =
            Reader::new(item).text().map_err(|_| wrong())?.parse().map_err(|_| wrong())?;
        let mine = self.peers.get(&peer).is_some_and(|state| state.node == pid.node);
        if !mine {
            return Err(wrong());
        }
        let lives = self.alive(actor).is_some();
        let there = There::Serial(pid.serial);
        if late {
            self.write_reason(peer, actor, Kind::Kill, there, "timeout", out);
        } else if link && lives {
            if let Some(process) = self.processes.get_mut(&actor) {
                process.links.insert(pid.clone());
            }
            self.peer_mut(peer, |state| state.links.insert((actor, pid.serial)));
        } else if link {
            self.write_reason(peer, actor, Kind::Exit, there, "noproc", out);
        }
        let Some(reference) = monitor else { return Ok((pid, None)) };
        let monitored = super::monitors::Monitored::Remote { peer, pid: pid.clone() };
        if lives && !late {
            if let Some(process) = self.processes.get_mut(&actor) {
                process.monitors.insert(reference, monitored);
                self.refs.insert(reference, actor);
            }
            self.peer_mut(peer, |state| state.monitors.insert(reference, actor));
        } else {
            self.forget_monitored(actor, reference, monitored, out);
        }
        Ok((pid, Some(reference)))
    }

    // --- who offers what ---

    /// Tells the other nodes how many children a factory has, and how many it may have.
    pub(super) fn announce_factory(&mut self, name: &str, out: &mut Outbox) {
        let Some(supervised) = self.tree.supervisors.get(name) else {
            return self.announce(Class::Factory, name.as_bytes(), None, out);
        };
        let Some(factory) = &supervised.factory else { return };
        if self.limits.remote == Remote::None || self.tree.leaving || self.drains(None) {
            return;
        }
        let most = u64::from(factory.max_children);
        let children =
            if supervised.machine.is_ending() { most } else { supervised.machine.len() as u64 };
        let mut value = Vec::new();
        cbor::put_array(&mut value, 2);
        cbor::put_uint(&mut value, children);
        cbor::put_uint(&mut value, most);
        self.announce(Class::Factory, name.as_bytes(), Some(&value), out);
    }

    /// The node leaves: it offers nothing any more.
    pub(super) fn withdraw_factories(&mut self, out: &mut Outbox) {
        let names: Vec<Box<str>> = self.factories_here().map(Into::into).collect();
        for name in names {
            self.announce(Class::Factory, name.as_bytes(), None, out);
        }
    }

    /// A peer says what it offers, or that it offers it no longer.
    pub(super) fn on_factory(
        &mut self,
        peer: PeerId,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Option<()> {
        let name = check_name(std::str::from_utf8(key).ok()?).ok()?;
        let Some(value) = value else {
            if let Some(nodes) = self.tree.offered.get_mut(name) {
                nodes.remove(&peer);
                if nodes.is_empty() {
                    self.tree.offered.remove(name);
                }
            }
            return Some(());
        };
        let mut reader = Reader::new(value);
        let many = reader.items().ok()?;
        let mut number = || match reader.value().ok()? {
            cbor::Value::Uint(number) => Some(number),
            _ => None,
        };
        let told = if many >= 2 { (number()?, number()?) } else { return None };
        self.tree.offered.entry(name.into()).or_default().insert(peer, told);
        Some(())
    }

    // --- looking at it ---

    pub(super) fn show_tree(&mut self, asker: &Asker<'_>, out: &mut Outbox) -> Result<(), Failure> {
        let Some(id) = asker.id else { return Ok(()) };
        let mut body = Vec::new();
        cbor::put_array(&mut body, self.tree.order.len());
        for name in &self.tree.order {
            let Some(supervised) = self.tree.supervisors.get(name) else { continue };
            out.count(1 + supervised.machine.len());
            self.put_supervised(supervised, &mut body);
        }
        self.may_be_long(asker.session, body.len(), out)?;
        answer(out, asker.session, &Head::ok(id).carries("tree"), &body);
        Ok(())
    }

    fn put_supervised(&self, supervised: &Supervised, body: &mut Vec<u8>) {
        let machine = &supervised.machine;
        let children = machine.children();
        let (specs, active) = (
            children.len() as u64,
            machine.children().filter(|(_, state)| *state != State::Stopped).count() as u64,
        );
        let state = match supervised.ended {
            Some(End::GaveUp) => "failed",
            Some(_) => "stopped",
            None if machine.is_ending() => "stopping",
            None if machine.is_restarting() => "restarting",
            None => "running",
        };
        let spec = &supervised.spec;
        let pid = (supervised.serial != 0).then(|| self.pid(supervised.serial).to_string());
        let is_factory = supervised.factory.is_some();
        cbor::put_map(body, 9);
        let texts = [
            ("name", spec.name.as_str()),
            ("kind", if is_factory { "factory" } else { "supervisor" }),
            ("state", state),
        ];
        for (key, text) in texts {
            cbor::put_text(body, key);
            cbor::put_text(body, text);
        }
        put_maybe(body, "pid", pid.as_deref());
        match &supervised.factory {
            Some(factory) => {
                cbor::put_text(body, "max_children");
                cbor::put_uint(body, factory.max_children.into());
            }
            None => {
                cbor::put_text(body, "strategy");
                cbor::put_text(body, spec.strategy.word());
            }
        }
        for (key, number) in
            [("restarts", supervised.restarts), ("specs", specs), ("active", active)]
        {
            cbor::put_text(body, key);
            cbor::put_uint(body, number);
        }
        cbor::put_text(body, "children");
        cbor::put_array(body, children.len());
        for (id, state) in children {
            match self.tree.children.get(&id) {
                Some(child) => self.put_child(child, state, is_factory, body),
                None => cbor::put_map(body, 0),
            }
        }
    }

    fn put_child(&self, child: &Child, state: State, of_factory: bool, body: &mut Vec<u8>) {
        let run = child.run.and_then(|serial| self.tree.runs.get(&serial));
        let os_pid = run.and_then(|run| run.os_pid);
        let pid = child.run.map(|serial| self.pid(serial).to_string());
        let state = match (state, os_pid) {
            (State::Stopped, _) => "stopped",
            (State::Ending, _) => "stopping",
            (State::Up, Some(_)) => "running",
            (State::Up, None) => "starting",
        };
        let spec = &child.spec;
        cbor::put_map(body, 8);
        let name = (!of_factory || spec.register).then_some(spec.name.as_str());
        put_maybe(body, "name", name);
        cbor::put_text(body, "state");
        cbor::put_text(body, state);
        put_maybe(body, "pid", pid.as_deref());
        cbor::put_text(body, "os_pid");
        match os_pid {
            Some(os_pid) => cbor::put_uint(body, os_pid.into()),
            None => cbor::put_null(body),
        }
        cbor::put_text(body, "restart");
        cbor::put_text(body, spec.restart.word());
        cbor::put_text(body, "restarts");
        cbor::put_uint(body, child.runs.saturating_sub(1));
        put_maybe(body, "last", child.last.as_deref());
        cbor::put_text(body, "command");
        cbor::put_text(body, &spec.program.command);
    }
}

fn put_maybe(body: &mut Vec<u8>, key: &str, text: Option<&str>) {
    cbor::put_text(body, key);
    match text {
        Some(text) => cbor::put_text(body, text),
        None => cbor::put_null(body),
    }
}

/// `node` has none of that name; without a node, nobody has.
fn no_factory<'a>(
    node: Option<&str>,
    factory: &str,
    offered: impl Iterator<Item = &'a str>,
) -> Failure {
    let names: std::collections::BTreeSet<&str> = offered.collect();
    let names: Vec<&str> = names.into_iter().take(20).collect();
    let offers = if names.is_empty() {
        "none is offered, as [[factory]] in the file of --config would be".to_owned()
    } else {
        format!("offered are: {}", names.join(", "))
    };
    let text = match node {
        Some(node) => format!("{node} offers no factory `{factory}`; {offers}"),
        None => format!("no connected node offers a factory `{factory}`; {offers}"),
    };
    Failure::new("undef", text)
}
