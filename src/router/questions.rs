//! Questions between nodes: what an app asks of another node, and what other nodes ask of this one.

use std::time::{Duration, Instant};

use super::agenda::Deadline;
use super::factories::Spawning;
use super::peers::{EVENT_HEAD_BYTES_MAX, PeerId};
use super::{Asker, Failure, KeptId, Outbox, Remote, Router, answer};
use crate::wire::cbor;
use crate::wire::event::Head;
use crate::wire::id::NodeName;
use crate::wire::message::{self, Ask, Kind, Told};

/// How long a question to another node may take unless the app says otherwise.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Most questions under way.
const ASKS_MAX: usize = 10_000;

/// A question that waits for its answer.
#[derive(Debug)]
pub(super) struct Asked {
    session: u64,
    id: KeptId,
    peer: PeerId,
    question: Question,
    ends: Instant,
}

/// What the answer is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Ping,
    Whereis,
    Processes,
    Info,
    Spawn(Spawning),
}

impl Router {
    /// Asks another node something for an app.
    pub(super) fn ask(
        &mut self,
        asker: &Asker<'_>,
        node: &NodeName,
        ask: Ask,
        timeout: Option<Duration>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        let Some(id) = asker.id else {
            return Err(Failure::badarg(format!(
                "`{}` needs an `id`: its answer is all it does",
                asker.op
            )));
        };
        let Some((peer, _)) = self.peer_named(node.as_str()) else {
            return Err(no_connection(node));
        };
        if matches!(ask, Ask::Ping) {
            // It asks whether the node is there, and it is.
            self.pause_if_full(asker.now, peer, asker.session, out);
        } else {
            self.admit_signal(asker, peer, out)?;
        }
        if self.asks.len() >= ASKS_MAX {
            return Err(Failure::new(
                "overloaded",
                "too many questions to other nodes are under way",
            ));
        }
        self.ask_peer(asker.now, peer, asker.session, KeptId::keep(id), ask, timeout, out);
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "a question and where its answer goes")]
    pub(super) fn ask_peer(
        &mut self,
        now: Instant,
        peer: PeerId,
        session: u64,
        id: KeptId,
        ask: Ask,
        timeout: Option<Duration>,
        out: &mut Outbox,
    ) {
        let number = self.number();
        let question = match ask {
            Ask::Ping => Question::Ping,
            Ask::Whereis { .. } => Question::Whereis,
            Ask::Processes => Question::Processes,
            Ask::Info { .. } => Question::Info,
            Ask::Spawn { from: actor, link, monitor, .. } => {
                Question::Spawn(Spawning { actor, link, monitor, late: false })
            }
        };
        let ends = now + timeout.unwrap_or(ASK_TIMEOUT);
        self.agenda.add(ends, Deadline::Ask(number));
        self.asks.insert(number, Asked { session, id, peer, question, ends });
        self.peer_mut(peer, |state| state.asks.insert(number));
        write_question(peer, Kind::Ask, number, &ask, out);
    }

    pub(super) fn ask_times_out(&mut self, number: u64, out: &mut Outbox) {
        let Some(mut asked) = self.asks.remove(&number) else {
            self.mesh_ask_times_out(number, out);
            return;
        };
        if let Question::Spawn(spawning) = &mut asked.question {
            // It may be started yet, and is to end again then.
            spawning.late = true;
            let text =
                "the other node did not answer in time; what it starts after all is ended again";
            answer(out, asked.session, &Head::error(asked.id.id(), "timeout", text, true), &[]);
            self.asks.insert(number, asked);
            return;
        }
        self.peer_mut(asked.peer, |state| state.asks.remove(&number));
        if asked.question == Question::Ping {
            pang(&asked, out);
        } else {
            let head = Head::error(
                asked.id.id(),
                "timeout",
                "the other node did not answer in time",
                false,
            );
            answer(out, asked.session, &head, &[]);
        }
    }

    pub(super) fn ask_fails(&mut self, number: u64, node: &NodeName, out: &mut Outbox) {
        let Some(asked) = self.asks.remove(&number) else { return };
        self.agenda.remove(asked.ends, Deadline::Ask(number));
        if asked.question == Question::Ping {
            pang(&asked, out);
        } else if let Question::Spawn(Spawning { late, .. }) = asked.question {
            let text = format!("the connection to {node} was lost before it answered");
            if !late {
                let head = Head::error(asked.id.id(), "noconnection", &text, true);
                answer(out, asked.session, &head, &[]);
            }
        } else {
            let failure = no_connection(node);
            let head = Head::error(asked.id.id(), failure.code, &failure.message, false);
            answer(out, asked.session, &head, &[]);
        }
    }

    /// Another node asks what this version does not know. It is told so, and both go on.
    pub(super) fn unknown_ask(&self, peer: PeerId, number: u64, out: &mut Outbox) {
        let text =
            format!("{} runs a version that does not know this question: update it", self.me.name);
        write_tell(peer, number, &Err(Failure::new("unsupported", text)), out);
    }

    /// Another node asks something of this one.
    pub(super) fn on_ask(
        &mut self,
        now: Instant,
        peer: PeerId,
        number: u64,
        ask: Ask,
        out: &mut Outbox,
    ) {
        if matches!(ask, Ask::Ping) {
            write_tell(peer, number, &Ok(vec![0xf5]), out);
            return;
        }
        if self.limits.remote == Remote::None {
            let failure = Failure::denied(format!(
                "{} does not let other nodes look at its processes, nor start any (its setting `remote` is none)",
                self.me.name
            ));
            write_tell(peer, number, &Err(failure), out);
            return;
        }
        match ask {
            Ask::Ping => {}
            Ask::Whereis { name } => {
                let mut body = Vec::new();
                match self.named(&name) {
                    Some(serial) => cbor::put_text(&mut body, &self.pid(serial).to_string()),
                    None => cbor::put_null(&mut body),
                }
                write_tell(peer, number, &Ok(body), out);
            }
            Ask::Processes => self.list_for_peer(now, peer, number, out),
            Ask::Spawn { .. } => self.on_spawn(peer, number, ask, out),
            Ask::Info { serial, name, keys } => {
                let told = self.info_for_peer(serial, name.as_deref(), &keys, out);
                write_tell(peer, number, &told, out);
            }
        }
    }

    pub(super) fn on_tell(&mut self, peer: PeerId, number: u64, told: Told<'_>, out: &mut Outbox) {
        if self.asks.get(&number).is_none_or(|asked| asked.peer != peer) {
            // Too late, or never asked.
            return;
        }
        let Some(asked) = self.asks.remove(&number) else { return };
        self.agenda.remove(asked.ends, Deadline::Ask(number));
        self.peer_mut(peer, |state| state.asks.remove(&number));
        if let Question::Spawn(spawning) = asked.question {
            self.on_spawned(peer, asked, spawning, told, out);
            return;
        }
        let id = asked.id.id();
        let length = if let Told::Ok(item) = told { item.len() } else { 0 };
        if let Err(full) = self.may_be_long(asked.session, length, out) {
            let head = Head::error(id, full.code, &full.message, false);
            answer(out, asked.session, &head, &[]);
            return;
        }
        match told {
            Told::Ok(item) => match asked.question {
                Question::Ping => {
                    answer(out, asked.session, &Head::ok(id).text("result", "pong"), &[]);
                }
                Question::Whereis if item.len() > EVENT_HEAD_BYTES_MAX => {
                    let text = "the other node answered with something that is no pid";
                    let head = Head::error(id, "unsupported", text, false);
                    answer(out, asked.session, &head, &[]);
                }
                Question::Whereis => {
                    answer(out, asked.session, &Head::ok(id).raw("pid", item), &[]);
                }
                Question::Processes => {
                    answer(out, asked.session, &Head::ok(id).carries("processes"), item);
                }
                Question::Spawn(_) => {}
                Question::Info => {
                    answer(out, asked.session, &Head::ok(id).carries("info"), item);
                }
            },
            Told::Error { code, message } => {
                let head = Head::error(id, &short(code, 40), &short(message, 1000), false);
                answer(out, asked.session, &head, &[]);
            }
        }
    }
}

impl Router {
    fn on_spawned(
        &mut self,
        peer: PeerId,
        asked: Asked,
        spawning: Spawning,
        told: Told<'_>,
        out: &mut Outbox,
    ) {
        let id = asked.id.id();
        let head = match told {
            Told::Ok(item) => match self.spawned_there(peer, spawning, item, out) {
                Ok((pid, reference)) => {
                    let head =
                        Head::ok(id).pid("pid", Some(&pid)).text("node", pid.node.name.as_str());
                    reference.map_or(head.clone(), |reference| head.uint("ref", reference))
                }
                Err(failure) => Head::error(id, failure.code, &failure.message, true),
            },
            Told::Error { code, message } => {
                Head::error(id, &short(code, 40), &short(message, 1000), false)
            }
        };
        if !spawning.late {
            answer(out, asked.session, &head, &[]);
        }
    }
}

fn short(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

pub(super) fn no_connection(node: &NodeName) -> Failure {
    Failure::new("noconnection", format!("{node} is not connected; `pillion nodes` shows who is"))
}

fn pang(asked: &Asked, out: &mut Outbox) {
    answer(out, asked.session, &Head::ok(asked.id.id()).text("result", "pang"), &[]);
}

fn write_question<T: serde::Serialize>(
    peer: PeerId,
    kind: Kind,
    number: u64,
    body: &T,
    out: &mut Outbox,
) {
    out.write_peer(peer, 0, 128, |bytes| {
        let at = message::start(bytes, kind, 0, 0);
        bytes.extend_from_slice(&number.to_be_bytes());
        ciborium::into_writer(body, &mut *bytes).expect("plain data becomes CBOR in memory");
        message::finish(bytes, at);
    });
}

/// Answers a question with an item that is CBOR already.
pub(super) fn write_tell(
    peer: PeerId,
    number: u64,
    told: &Result<Vec<u8>, Failure>,
    out: &mut Outbox,
) {
    write_tell_of(peer, 0, number, told, out);
}

/// The same, behind all that a process has said.
pub(super) fn write_tell_of(
    peer: PeerId,
    serial: u64,
    number: u64,
    told: &Result<Vec<u8>, Failure>,
    out: &mut Outbox,
) {
    let size = told.as_ref().map_or(1024, Vec::len) + 64;
    out.write_peer(peer, serial, size, |bytes| {
        let at = message::start(bytes, Kind::Tell, 0, serial);
        bytes.extend_from_slice(&number.to_be_bytes());
        match told {
            Ok(item) => {
                cbor::put_map(bytes, 1);
                cbor::put_text(bytes, "ok");
                bytes.extend_from_slice(item);
            }
            Err(failure) => {
                cbor::put_map(bytes, 1);
                cbor::put_text(bytes, "error");
                cbor::put_array(bytes, 2);
                cbor::put_text(bytes, failure.code);
                cbor::put_text(bytes, &failure.message);
            }
        }
        message::finish(bytes, at);
    });
}
