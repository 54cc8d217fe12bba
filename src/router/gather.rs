//! One request to a name on several nodes: `multi_call`, `abcast` and `sbcast`.
//!
//! The results are in the order in which the nodes were asked, one for each, all of them by the deadline.

use super::calls::{Asked, Ending, Making, timeout_of};
use super::questions::{AskedBy, Question};
use super::receive::LIST_BYTES_MAX;
use super::send::Passing;
use super::{Asker, Failure, KeptId, Outbox, Router, answer};
use crate::wire::cbor;
use crate::wire::command::{Keys, Mode};
use crate::wire::event::{Head, Said};
use crate::wire::id::{NodeName, check_name};
use crate::wire::message::Ask;

/// Most nodes that one command asks.
const NODES_MAX: usize = 1024;
/// What is written beside the body of one result: node, error, content type.
const RESULT_BYTES_MAX: usize = 64 * 1024;

/// A request to several nodes that some have not answered.
#[derive(Debug)]
pub(super) struct Gather {
    session: u64,
    id: KeptId,
    nodes: Vec<NodeName>,
    results: Vec<Option<Box<[u8]>>>,
    left: usize,
    bytes: usize,
}

/// Which result of which gathering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) gather: u64,
    pub(super) index: usize,
}

impl Router {
    /// The nodes that a command names: by default this one and every connected one.
    pub(super) fn asked_nodes(&self, nodes: Option<Keys<'_>>) -> Result<Vec<NodeName>, Failure> {
        let Some(nodes) = nodes else {
            let here = std::iter::once(self.me.name.clone());
            return Ok(here.chain(self.connected.keys().cloned()).collect());
        };
        let nodes: Vec<_> = nodes
            .iter()
            .take(NODES_MAX + 1)
            .map(|node| self.full_name(node))
            .collect::<Result<_, _>>()?;
        if nodes.len() > NODES_MAX {
            return Err(Failure::badarg(format!("`nodes` names at most {NODES_MAX} nodes")));
        }
        Ok(nodes)
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one command")]
    pub(super) fn multi_call<'a>(
        &mut self,
        asker: &mut Asker<'a>,
        pid: Option<&str>,
        nodes: Option<Keys<'_>>,
        name: &'a str,
        timeout_ms: Option<u64>,
        ct: Option<&str>,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        asker.to = name;
        let caller = self.actor(asker.session, pid)?;
        let Some(id) = asker.id else {
            return Err(Failure::badarg(
                "`multi_call` needs an `id`: its answer carries the results; use `abcast` when none are wanted",
            ));
        };
        check_name(name).map_err(Failure::badarg)?;
        let timeout = timeout_of(timeout_ms)?;
        self.body_fits(body)?;
        let nodes = self.asked_nodes(nodes)?;
        let gather = self.gather(asker.session, KeptId::keep(id), nodes.clone(), out);
        for (index, node) in nodes.iter().enumerate() {
            let slot = Slot { gather, index };
            let to = format!("{name}@{node}");
            let making = Making {
                now: asker.now,
                session: asker.session,
                caller,
                to: &to,
                timeout,
                ct,
                body,
            };
            if let Err(failure) = self.make_call(making, Asked::Several(slot), out) {
                self.gathered(slot, Err(&failure.ending()), out);
            }
        }
        Ok(())
    }

    /// Begins to collect the results of so many nodes. Without any it ends at once.
    pub(super) fn gather(
        &mut self,
        session: u64,
        id: KeptId,
        nodes: Vec<NodeName>,
        out: &mut Outbox,
    ) -> u64 {
        let number = self.number();
        let left = nodes.len();
        let gather = Gather { session, id, nodes, results: vec![None; left], left, bytes: 0 };
        if left == 0 {
            gather.tell(out);
        } else {
            self.gathers.insert(number, gather);
        }
        number
    }

    /// One of the results is there.
    pub(super) fn gathered(
        &mut self,
        slot: Slot,
        result: Result<(Option<&str>, &[u8]), &Ending<'_>>,
        out: &mut Outbox,
    ) {
        let Some(gather) = self.gathers.get_mut(&slot.gather) else { return };
        let Some(node) = gather.nodes.get(slot.index) else { return };
        let large = Ending {
            code: "too_large",
            message: "the results are longer together than one answer may be; ask fewer nodes at once",
            maybe_applied: true,
            ..Ending::default()
        };
        let result = match result {
            Ok((_, body)) if gather.bytes + body.len() + RESULT_BYTES_MAX > LIST_BYTES_MAX => {
                Err(&large)
            }
            other => other,
        };
        let item = item(node.as_str(), result);
        gather.bytes += item.len();
        if let Some(place @ None) = gather.results.get_mut(slot.index) {
            *place = Some(item.into());
            gather.left -= 1;
        }
        if gather.left == 0
            && let Some(gather) = self.gathers.remove(&slot.gather)
        {
            gather.tell(out);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one command")]
    pub(super) fn abcast<'a>(
        &mut self,
        asker: &mut Asker<'a>,
        pid: Option<&str>,
        nodes: Option<Keys<'_>>,
        name: &'a str,
        ct: Option<&str>,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        asker.to = name;
        let actor = self.actor(asker.session, pid)?;
        check_name(name).map_err(Failure::badarg)?;
        self.body_fits(body)?;
        let mut full: Option<Failure> = None;
        for node in self.asked_nodes(nodes)? {
            let to = format!("{name}@{node}");
            let passing = Passing {
                now: asker.now,
                from: Some((asker.session, actor)),
                to: &to,
                said: Said::Cast,
                mode: Mode::Wait,
                ct,
                body,
                checked: false,
            };
            if let Err(failure) = self.pass_on(passing, out) {
                Failure::gather(&mut full, failure);
            }
        }
        Self::done_unless(asker, full, out)
    }
}

impl Router {
    /// `abcast` that says who has got it: behind each cast goes the question who has the name.
    #[allow(clippy::too_many_arguments, reason = "the fields of one command")]
    pub(super) fn sbcast<'a>(
        &mut self,
        asker: &mut Asker<'a>,
        pid: Option<&str>,
        nodes: Option<Keys<'_>>,
        name: &'a str,
        timeout_ms: Option<u64>,
        ct: Option<&str>,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        asker.to = name;
        let actor = self.actor(asker.session, pid)?;
        let Some(id) = asker.id else {
            return Err(Failure::badarg(
                "`sbcast` needs an `id`: its answer says who has got it; use `abcast` when none is wanted",
            ));
        };
        check_name(name).map_err(Failure::badarg)?;
        self.body_fits(body)?;
        let timeout = timeout_of(timeout_ms)?;
        let nodes = self.asked_nodes(nodes)?;
        let gather = self.gather(asker.session, KeptId::keep(id), nodes.clone(), out);
        for (index, node) in nodes.iter().enumerate() {
            let slot = Slot { gather, index };
            let to = format!("{name}@{node}");
            let from = Some((asker.session, actor));
            let (now, said, mode) = (asker.now, Said::Cast, Mode::Wait);
            let passing = Passing { now, from, to: &to, said, mode, ct, body, checked: true };
            let here = (*node == self.me.name).then(|| self.named(name)).flatten();
            let told = self.may_ask().and_then(|()| self.pass_on(passing, out));
            match (told, self.peer_named(node.as_str()).map(|(peer, _)| peer), here) {
                (Err(failure), ..) => self.gathered(slot, Err(&failure.ending()), out),
                (Ok(()), Some(peer), _) => {
                    let by = AskedBy::Several { slot, serial: actor };
                    let ask = Ask::Whereis { name: name.to_owned() };
                    let timeout = Some(timeout);
                    self.ask_peer(now, peer, by, Question::Whereis, &ask, timeout, out);
                }
                (Ok(()), None, serial) => {
                    let mut item = Vec::new();
                    let pid = self.pid(serial.unwrap_or(0));
                    cbor::put_text(&mut item, &pid.to_string());
                    self.gathered(slot, Ok((None, &item)), out);
                }
            }
        }
        Ok(())
    }
}

impl Gather {
    fn tell(self, out: &mut Outbox) {
        let mut body = Vec::with_capacity(self.bytes + 9);
        cbor::put_array(&mut body, self.results.len());
        for result in self.results {
            match result {
                Some(item) => body.extend_from_slice(&item),
                None => cbor::put_null(&mut body),
            }
        }
        answer(out, self.session, &Head::ok(self.id.id()).carries("results"), &body);
    }
}

/// `{node, body}`, `{node, ct, body}` or `{node, error: {code, message, maybe_applied, ...}}`.
fn item(node: &str, result: Result<(Option<&str>, &[u8]), &Ending<'_>>) -> Vec<u8> {
    let head = Head::nothing().text("node", node);
    match result {
        Ok((ct, body)) => {
            let mut bytes = Vec::with_capacity(64 + body.len());
            let head = match ct {
                Some(ct) => head.text("ct", ct),
                None => head,
            };
            let mut frame = Vec::with_capacity(6 + 64 + body.len());
            crate::wire::event::put_frame(&mut frame, head.bytes(), body);
            crate::wire::event::put_event_item(&mut bytes, &frame);
            bytes
        }
        Err(ending) => {
            let error = ending.add_to(
                Head::nothing()
                    .text("code", ending.code)
                    .text("message", ending.message)
                    .bool("maybe_applied", ending.maybe_applied),
            );
            head.raw("error", error.bytes()).bytes().to_vec()
        }
    }
}
