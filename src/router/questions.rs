//! Questions between nodes: what an app asks of another node, and what other nodes ask of this one.

use std::time::{Duration, Instant};

use super::agenda::Deadline;
use super::calls::Ending;
use super::factories::Spawning;
use super::gather::Slot;
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
/// What is said of an answer that cannot be one.
const NO_PID: &str = "the other node answered with something that is no pid";

/// A question that waits for its answer.
#[derive(Debug)]
pub(super) struct Asked {
    by: AskedBy,
    peer: PeerId,
    question: Question,
    ends: Instant,
}

/// Where the answer goes.
#[derive(Debug)]
pub(super) enum AskedBy {
    /// An app.
    App { session: u64, id: KeptId },
    /// One of several results, asked by this process: after what it has sent to that node.
    Several { slot: Slot, serial: u64 },
    /// A question to several peers at once.
    Survey(u64),
    /// The node itself, which is about to leave: whether the peer has heard of it.
    Settling,
}

/// What the answer is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Ping,
    Whereis,
    Processes,
    Info,
    Alive,
    Spawn(Spawning),
}

impl Question {
    fn of(ask: &Ask) -> Self {
        match ask {
            Ask::Whereis { .. } => Self::Whereis,
            Ask::Processes => Self::Processes,
            Ask::Info { .. } => Self::Info,
            Ask::Ping | Ask::Subscribers { .. } => Self::Ping,
            &Ask::Spawn { from: actor, link, monitor, .. } => {
                Self::Spawn(Spawning { actor, link, monitor, late: false })
            }
        }
    }
}

impl Router {
    /// Asks another node something for an app.
    pub(super) fn ask(
        &mut self,
        asker: &Asker<'_>,
        node: &NodeName,
        ask: &Ask,
        timeout: Option<Duration>,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        self.ask_for(asker, node, Question::of(ask), ask, timeout, out)
    }

    /// The same, where the answer is called something else.
    pub(super) fn ask_for(
        &mut self,
        asker: &Asker<'_>,
        node: &NodeName,
        question: Question,
        ask: &Ask,
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
        self.may_ask()?;
        let by = AskedBy::App { session: asker.session, id: KeptId::keep(id) };
        self.ask_peer(asker.now, peer, by, question, ask, timeout, out);
        Ok(())
    }

    pub(super) fn may_ask(&self) -> Result<(), Failure> {
        if self.asks.len() < ASKS_MAX {
            return Ok(());
        }
        Err(Failure::new("overloaded", "too many questions to other nodes are under way"))
    }

    #[allow(clippy::too_many_arguments, reason = "a question and where its answer goes")]
    pub(super) fn ask_peer(
        &mut self,
        now: Instant,
        peer: PeerId,
        by: AskedBy,
        question: Question,
        ask: &Ask,
        timeout: Option<Duration>,
        out: &mut Outbox,
    ) {
        let number = self.number();
        let serial = if let AskedBy::Several { serial, .. } = by { serial } else { 0 };
        let ends = now + timeout.unwrap_or(ASK_TIMEOUT);
        self.agenda.add(ends, Deadline::Ask(number));
        self.asks.insert(number, Asked { by, peer, question, ends });
        self.peer_mut(peer, |state| state.asks.insert(number));
        write_question(peer, serial, number, ask, out);
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
            self.not_told(&asked, &Failure::new("timeout", text), out);
            self.asks.insert(number, asked);
            return;
        }
        self.peer_mut(asked.peer, |state| state.asks.remove(&number));
        let failure = Failure::new("timeout", "the other node did not answer in time");
        self.not_told(&asked, &failure, out);
    }

    pub(super) fn ask_fails(&mut self, number: u64, node: &NodeName, out: &mut Outbox) {
        let Some(asked) = self.asks.remove(&number) else { return };
        self.agenda.remove(asked.ends, Deadline::Ask(number));
        if let AskedBy::Survey(survey) = asked.by {
            self.survey_loses(survey, node.as_str(), out);
        } else if matches!(asked.by, AskedBy::Settling) {
            self.settles(out);
        } else if let Question::Spawn(Spawning { late, .. }) = asked.question {
            let text = format!("the connection to {node} was lost before it answered");
            if !late {
                self.not_told(&asked, &Failure::new("noconnection", text), out);
            }
        } else {
            self.not_told(&asked, &no_connection(node), out);
        }
    }

    /// There will be no answer.
    fn not_told(&mut self, asked: &Asked, failure: &Failure, out: &mut Outbox) {
        // What was to be started may run.
        let maybe = matches!(asked.question, Question::Spawn(_));
        match &asked.by {
            AskedBy::App { session, id } => {
                let head = if asked.question == Question::Ping {
                    Head::ok(id.id()).text("result", "pang")
                } else {
                    Head::error(id.id(), failure.code, &failure.message, maybe)
                };
                answer(out, *session, &head, &[]);
            }
            AskedBy::Several { slot, .. } => self.gathered(*slot, Err(&failure.ending()), out),
            AskedBy::Survey(survey) => {
                let node = self.peers.get(&asked.peer).map(|state| state.node.name.to_string());
                self.survey_told(*survey, &node.unwrap_or_default(), None, out);
            }
            AskedBy::Settling => self.settles(out),
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
        if let Ask::Subscribers { topic, list } = ask {
            let list = list && self.limits.remote != Remote::None;
            let told = self.subscribers_here(&topic, list, out);
            write_tell(peer, number, &Ok(told), out);
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
            Ask::Ping | Ask::Subscribers { .. } => {}
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
        if let AskedBy::Survey(survey) = asked.by {
            let node = self.peers.get(&peer).map(|state| state.node.name.to_string());
            self.survey_told(survey, &node.unwrap_or_default(), Some(told), out);
            return;
        }
        if let Question::Spawn(spawning) = asked.question {
            self.on_spawned(peer, &asked, spawning, told, out);
            return;
        }
        let (session, id) = match &asked.by {
            AskedBy::App { session, id } => (*session, id.id()),
            AskedBy::Several { slot, .. } => {
                let nobody = Ending::new("noproc", "nobody has the name there", false);
                let (code, words);
                let result = match told {
                    Told::Ok([0xf6]) => Err(nobody),
                    Told::Ok(item) if item.len() <= EVENT_HEAD_BYTES_MAX => Ok((None, item)),
                    Told::Ok(_) => Err(Ending::new("unsupported", NO_PID, false)),
                    Told::Error { code: theirs, message } => {
                        (code, words) = (short(theirs, 40), short(message, 1000));
                        Err(Ending::new(&code, &words, false))
                    }
                };
                return self.gathered(*slot, result.as_ref().copied(), out);
            }
            AskedBy::Settling => return self.settles(out),
            AskedBy::Survey(_) => return,
        };
        let length = if let Told::Ok(item) = told { item.len() } else { 0 };
        if let Err(full) = self.may_be_long(session, length, out) {
            let head = Head::error(id, full.code, &full.message, false);
            answer(out, session, &head, &[]);
            return;
        }
        let (head, body) = match told {
            Told::Ok(item) => match asked.question {
                Question::Ping => (Head::ok(id).text("result", "pong"), &[][..]),
                Question::Whereis if item.len() > EVENT_HEAD_BYTES_MAX => {
                    (Head::error(id, "unsupported", NO_PID, false), &[][..])
                }
                Question::Whereis => (Head::ok(id).raw("pid", item), &[][..]),
                Question::Processes => (Head::ok(id).carries("processes"), item),
                Question::Info => (Head::ok(id).carries("info"), item),
                Question::Alive => (Head::ok(id).bool("result", true), &[][..]),
                Question::Spawn(_) => return,
            },
            Told::Error { code: "noproc", .. } if asked.question == Question::Alive => {
                (Head::ok(id).bool("result", false), &[][..])
            }
            Told::Error { code, message } => {
                (Head::error(id, &short(code, 40), &short(message, 1000), false), &[][..])
            }
        };
        answer(out, session, &head, body);
    }
}

impl Router {
    fn on_spawned(
        &mut self,
        peer: PeerId,
        asked: &Asked,
        spawning: Spawning,
        told: Told<'_>,
        out: &mut Outbox,
    ) {
        let AskedBy::App { session, id } = &asked.by else { return };
        let id = id.id();
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
            answer(out, *session, &head, &[]);
        }
    }
}

fn short(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

pub(super) fn no_connection(node: &NodeName) -> Failure {
    Failure::new("noconnection", format!("{node} is not connected; `pillion nodes` shows who is"))
}

fn write_question(peer: PeerId, serial: u64, number: u64, body: &Ask, out: &mut Outbox) {
    out.write_peer(peer, serial, 128, |bytes| {
        let at = message::start(bytes, Kind::Ask, 0, serial);
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
