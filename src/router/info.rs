//! Looking at processes: `info`, `processes`.

use std::collections::{BTreeMap, BTreeSet};

use super::deliver::put_item;
use super::listings::Listed;
use super::monitors::{Monitored, Watcher};
use super::processes::Process;
use super::questions::Question;
use super::receive::LIST_BYTES_MAX;
use super::send::Target;
use super::{Asker, Failure, Outbox, Router, answer};
use crate::wire::cbor;
use crate::wire::command::{Delivery, Keys, Overflow};
use crate::wire::event::Head;
use crate::wire::id::{Address, NodeName};
use crate::wire::message::Ask;

/// What `info` gives when no keys are named: everything but the messages themselves.
pub(super) const USUAL: [&str; 14] = [
    "pid",
    "registered_name",
    "label",
    "status",
    "message_queue_len",
    "links",
    "monitors",
    "monitored_by",
    "trap_exit",
    "parent",
    "delivery",
    "mailbox",
    "dropped",
    "client",
];

impl Process {
    /// How many entries these keys show. One answer is one piece; this hold does little else beside a long one.
    fn weight_of(&self, keys: &[&str]) -> usize {
        let of = |key: &&str| match *key {
            "links" => self.links.len(),
            "monitors" => self.monitors.len(),
            "monitored_by" => self.watchers.len(),
            "messages" => self.mailbox.len(),
            _ => 0,
        };
        keys.iter().map(of).sum()
    }
}

impl Router {
    pub(super) fn status(&self, process: &Process) -> &'static str {
        match self.sessions.get(&process.session) {
            None => "exiting",
            Some(session) if !session.attached => "detached",
            Some(_) if process.holds > 0 => "suspended",
            Some(_) if process.mailbox.is_empty() => "waiting",
            Some(_) => "runnable",
        }
    }

    pub(super) fn list_processes(
        &mut self,
        asker: &Asker<'_>,
        node: Option<&str>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        if let Some(node) = node {
            let node: NodeName = self.full_name(node)?;
            if node != self.me.name {
                return self.ask(asker, &node, &Ask::Processes, None, out);
            }
        }
        self.start_listing(asker, Listed::Processes, "");
        Ok(())
    }

    pub(super) fn info<'a>(
        &mut self,
        asker: &mut Asker<'a>,
        to: Option<&'a str>,
        keys: Option<Keys<'_>>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let Some(id) = asker.id else { return Ok(()) };
        let keys: Vec<&str> = match &keys {
            Some(keys) => keys.iter().collect(),
            None => USUAL.to_vec(),
        };
        let serial = match to {
            None => self.actor(asker.session, None)?,
            Some(to) => {
                asker.to = to;
                let address = Address::parse(to).map_err(Failure::badarg)?;
                if let Some((node, serial, name)) = self.elsewhere(&address)? {
                    let keys = keys.iter().map(|key| (*key).to_owned()).collect();
                    let ask = Ask::Info { serial, name, keys };
                    return self.ask(asker, &node, &ask, None, out);
                }
                match self.resolve(address)? {
                    Target::Here(serial) => serial,
                    Target::NoName(name) => return Err(super::send::no_name(name)),
                    Target::NoGlobal(name) => return Err(super::send::no_global(name)),
                    _ => return Err(Failure::new("noproc", format!("{to} is dead"))),
                }
            }
        };
        let Some(process) = self.alive(serial) else {
            return Err(Failure::new("noproc", "the process is dead"));
        };
        if process.session != asker.session && keys.contains(&"messages") {
            self.needs_operator(asker.session, "info of another process's messages")?;
            if process.sensitive {
                return Err(Failure::denied("the process is sensitive: its messages are its own"));
            }
        }
        out.count(process.weight_of(&keys));
        let body = self.info_of(serial, &keys)?;
        self.may_be_long(asker.session, body.len(), out)?;
        answer(out, asker.session, &Head::ok(id).carries("info"), &body);
        Ok(())
    }

    /// `alive`: whether an address leads to a living process, here or on another node.
    pub(super) fn is_alive<'a>(
        &mut self,
        asker: &mut Asker<'a>,
        to: &'a str,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        asker.to = to;
        let Some(id) = asker.id else { return Ok(()) };
        let address = Address::parse(to).map_err(Failure::badarg)?;
        let result = match self.elsewhere(&address) {
            Ok(Some((node, serial, name))) => {
                let ask = Ask::Info { serial, name, keys: vec!["pid".to_owned()] };
                return self.ask_for(asker, &node, Question::Alive, &ask, None, out);
            }
            Ok(None) => match self.resolve(address)? {
                Target::Here(_) => true,
                // The holder of a global name elsewhere: the name goes with its life.
                Target::There { .. } => true,
                _ => false,
            },
            Err(Failure { code: "noproc", .. }) => false,
            Err(failure) => return Err(failure),
        };
        answer(out, asker.session, &Head::ok(id).bool("result", result), &[]);
        Ok(())
    }

    /// The other node that an address means, and what of it.
    #[allow(clippy::type_complexity, reason = "a node, and a serial or a name")]
    fn elsewhere(
        &self,
        address: &Address<'_>,
    ) -> Result<Option<(NodeName, Option<u64>, Option<String>)>, Failure> {
        Ok(match *address {
            Address::Pid(pid) if pid.node != self.me.name.as_str() => {
                let node: NodeName = pid.node.parse().map_err(Failure::badarg)?;
                match self.peer_named(pid.node) {
                    Some((_, peer)) if peer.node.incarnation != pid.incarnation => {
                        return Err(Failure::new(
                            "noproc",
                            "the process died with an earlier run of its node",
                        ));
                    }
                    _ => Some((node, Some(pid.serial), None)),
                }
            }
            Address::Remote { name, node } => {
                let node = self.full_name(node)?;
                (node != self.me.name).then(|| (node, None, Some(name.to_owned())))
            }
            _ => None,
        })
    }

    pub(super) fn info_for_peer(
        &self,
        serial: Option<u64>,
        name: Option<&str>,
        keys: &[String],
        out: &mut Outbox,
    ) -> Result<Vec<u8>, Failure> {
        let serial = match (serial, name) {
            (Some(serial), _) => serial,
            (None, Some(name)) => self.named(name).ok_or_else(|| super::send::no_name(name))?,
            (None, None) => return Err(Failure::badarg("info of whom?")),
        };
        let Some(process) = self.alive(serial) else {
            return Err(Failure::new("noproc", format!("{} is dead", self.pid(serial))));
        };
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        out.count(process.weight_of(&keys));
        if keys.contains(&"messages") && self.limits.remote != super::Remote::Full {
            return Err(Failure::denied(
                "messages can be looked at from afar only where the setting `remote` is full",
            ));
        }
        self.info_of(serial, &keys).and_then(|body| self.fits(body))
    }

    /// What another node may take as one answer.
    pub(super) fn fits(&self, body: Vec<u8>) -> Result<Vec<u8>, Failure> {
        if body.len() <= self.limits.body_bytes {
            return Ok(body);
        }
        let text = format!(
            "the answer has {} bytes, more than one message between nodes may have; ask on {} itself",
            body.len(),
            self.me.name
        );
        Err(Failure::new("too_large", text))
    }

    fn info_of(&self, serial: u64, keys: &[&str]) -> Result<Vec<u8>, Failure> {
        let Some(process) = self.processes.get(&serial) else {
            return Err(Failure::new("noproc", "the process is dead"));
        };
        let mut body = Vec::new();
        cbor::put_map(&mut body, keys.len());
        let mut seen = BTreeSet::new();
        for key in keys {
            // A map has each key once, and `messages` a thousand times over would be a lot of memory.
            if !seen.insert(*key) {
                let shown: String = key.chars().take(40).collect();
                return Err(Failure::badarg(format!("the key `{shown}` is there twice")));
            }
            cbor::put_text(&mut body, key);
            self.put_key(serial, process, key, &mut body)?;
        }
        Ok(body)
    }

    fn put_key(
        &self,
        serial: u64,
        process: &Process,
        key: &str,
        body: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        match key {
            "pid" => cbor::put_text(body, &self.pid(serial).to_string()),
            "registered_name" => put_maybe(body, process.name.as_deref()),
            "label" => put_maybe(body, process.label.as_deref()),
            "status" => cbor::put_text(body, self.status(process)),
            "message_queue_len" => cbor::put_uint(body, process.mailbox.messages() as u64),
            "messages" => put_messages(process, body),
            "links" => {
                cbor::put_array(body, process.links.len());
                for pid in process.links.iter() {
                    cbor::put_text(body, &pid.to_string());
                }
            }
            "monitors" => {
                cbor::put_array(body, process.monitors.len());
                for monitored in process.monitors.values() {
                    let text = match monitored {
                        Monitored::Group(group) => format!("group:{group}"),
                        Monitored::Groups(prefix) => format!("group:{prefix}*"),
                        Monitored::Presence(topic) => format!("presence:{topic}"),
                        Monitored::Local { name: Some(name), .. } => name.to_string(),
                        Monitored::Local { serial, .. } => self.pid(*serial).to_string(),
                        Monitored::Remote { pid, .. } => pid.to_string(),
                        Monitored::RemoteName { address, .. } => address.to_string(),
                        Monitored::Node(node) => node.to_string(),
                    };
                    cbor::put_text(body, &text);
                }
            }
            "monitored_by" => {
                cbor::put_array(body, process.watchers.len());
                for watcher in process.watchers.iter() {
                    let text = match watcher {
                        Watcher::Local { serial, .. } => self.pid(*serial).to_string(),
                        Watcher::Remote { peer, .. } => self.peers.get(peer).map_or_else(
                            || "a lost node".to_owned(),
                            |peer| peer.node.name.to_string(),
                        ),
                    };
                    cbor::put_text(body, &text);
                }
            }
            "trap_exit" => cbor::put_bool(body, process.trap_exit),
            "sensitive" => cbor::put_bool(body, process.sensitive),
            "parent" => {
                let parent = process.parent.map(|parent| self.pid(parent.get()).to_string());
                put_maybe(body, parent.as_deref());
            }
            "delivery" => match process.delivery {
                Delivery::Push => cbor::put_text(body, "push"),
                Delivery::Pull => cbor::put_text(body, "pull"),
                Delivery::Window(n) => {
                    cbor::put_map(body, 1);
                    cbor::put_text(body, "window");
                    cbor::put_uint(body, u64::from(n));
                }
            },
            "mailbox" => {
                cbor::put_map(body, 3);
                cbor::put_text(body, "entries");
                cbor::put_uint(body, process.bounds.entries as u64);
                cbor::put_text(body, "bytes");
                cbor::put_uint(body, process.bounds.bytes as u64);
                cbor::put_text(body, "policy");
                cbor::put_text(
                    body,
                    match process.bounds.policy {
                        Overflow::DropNewest => "drop_newest",
                        Overflow::DropOldest => "drop_oldest",
                        Overflow::Exit => "exit",
                        Overflow::Wait => "wait",
                    },
                );
            }
            "dropped" => cbor::put_uint(body, process.shed),
            "memory" => {
                cbor::put_uint(body, (process.mailbox.bytes() + size_of::<Process>()) as u64);
            }
            "client" => {
                let client = self.sessions.get(&process.session).and_then(|s| s.client.as_deref());
                put_maybe(body, client);
            }
            "pod" => {
                let session = self.sessions.get(&process.session);
                let pod = session.and_then(|s| s.pod.as_ref()).map(ToString::to_string);
                put_maybe(body, pod.as_deref());
            }
            "service_account" => {
                let session = self.sessions.get(&process.session);
                let pod = session.and_then(|s| s.pod.as_deref());
                put_maybe(body, pod.map(|pod| &*pod.account));
            }
            "session" => cbor::put_uint(body, process.session),
            "os_pid" => match self.tree.runs.get(&serial).and_then(|run| run.os_pid) {
                Some(os_pid) => cbor::put_uint(body, os_pid.into()),
                None => cbor::put_null(body),
            },
            _ => {
                let shown: String = key.chars().take(40).collect();
                return Err(Failure::badarg(format!(
                    "`{shown}` is not a key of info; there are: {}, messages, memory, os_pid, pod, service_account, session, sensitive",
                    USUAL.join(", ")
                )));
            }
        }
        Ok(())
    }
}

fn put_maybe(body: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => cbor::put_text(body, text),
        None => cbor::put_null(body),
    }
}

/// Shows the messages without taking them: what is left out beyond the bound is said to be.
fn put_messages(process: &Process, body: &mut Vec<u8>) {
    let mut items = Vec::new();
    let mut count = 0;
    process.mailbox.peek(|tag, frame| {
        put_item(&mut items, tag, frame);
        count += 1;
        items.len() < LIST_BYTES_MAX
    });
    cbor::put_array(body, count);
    body.append(&mut items);
}

/// Labels as a map.
pub(super) fn put_labels(items: &mut Vec<u8>, labels: &BTreeMap<String, String>) {
    cbor::put_map(items, labels.len());
    for (key, value) in labels {
        cbor::put_text(items, key);
        cbor::put_text(items, value);
    }
}
