//! Questions between nodes: what an app asks of another node, and what other nodes ask of this one.

use std::time::{Duration, Instant};

use super::agenda::Deadline;
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
    /// One of several that are answered together.
    Part(u64),
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
        let question = match ask {
            Ask::Ping => Question::Ping,
            Ask::Whereis { .. } => Question::Whereis,
            Ask::Processes => Question::Processes,
            Ask::Info { .. } => Question::Info,
            Ask::Subscribers { .. } => Question::Part(0),
        };
        self.put_question(now, peer, session, id, question, &ask, timeout, out);
    }

    /// Asks one of several peers whose answers make one.
    pub(super) fn ask_part(
        &mut self,
        now: Instant,
        peer: PeerId,
        session: u64,
        survey: u64,
        ask: &Ask,
        out: &mut Outbox,
    ) {
        let (id, question) = (KeptId::Number(0), Question::Part(survey));
        self.put_question(now, peer, session, id, question, ask, None, out);
    }

    #[allow(clippy::too_many_arguments, reason = "a question and where its answer goes")]
    fn put_question(
        &mut self,
        now: Instant,
        peer: PeerId,
        session: u64,
        id: KeptId,
        question: Question,
        ask: &Ask,
        timeout: Option<Duration>,
        out: &mut Outbox,
    ) {
        let number = self.number();
        let ends = now + timeout.unwrap_or(ASK_TIMEOUT);
        self.agenda.add(ends, Deadline::Ask(number));
        self.asks.insert(number, Asked { session, id, peer, question, ends });
        self.peer_mut(peer, |state| state.asks.insert(number));
        write_question(peer, Kind::Ask, number, ask, out);
    }

    pub(super) fn ask_times_out(&mut self, number: u64, out: &mut Outbox) {
        let Some(asked) = self.asks.remove(&number) else {
            self.mesh_ask_times_out(number, out);
            return;
        };
        self.peer_mut(asked.peer, |state| state.asks.remove(&number));
        if let Question::Part(survey) = asked.question {
            let node = self.peers.get(&asked.peer).map(|state| state.node.name.to_string());
            self.survey_told(survey, &node.unwrap_or_default(), None, out);
        } else if asked.question == Question::Ping {
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
        if let Question::Part(survey) = asked.question {
            self.survey_loses(survey, node.as_str(), out);
        } else if asked.question == Question::Ping {
            pang(&asked, out);
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
        if let Ask::Subscribers { topic, list } = ask {
            let list = list && self.limits.remote != Remote::None;
            let told = self.subscribers_here(&topic, list, out);
            write_tell(peer, number, &Ok(told), out);
            return;
        }
        if self.limits.remote == Remote::None {
            let failure = Failure::denied(format!(
                "{} does not let other nodes look at its processes (its setting `remote` is none)",
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
        if let Question::Part(survey) = asked.question {
            let node = self.peers.get(&peer).map(|state| state.node.name.to_string());
            self.survey_told(survey, &node.unwrap_or_default(), Some(told), out);
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
                Question::Part(_) => {}
                Question::Info => {
                    answer(out, asked.session, &Head::ok(id).carries("info"), item);
                }
            },
            Told::Error { code, message } => {
                let short = |text: &str, most: usize| text.chars().take(most).collect::<String>();
                let head = Head::error(id, &short(code, 40), &short(message, 1000), false);
                answer(out, asked.session, &head, &[]);
            }
        }
    }
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
    let size = told.as_ref().map_or(1024, Vec::len) + 64;
    out.write_peer(peer, 0, size, |bytes| {
        let at = message::start(bytes, Kind::Tell, 0, 0);
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
