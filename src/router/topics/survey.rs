//! Questions to several peers at once: who has subscribed, and whether everybody knows of a subscription.

use std::collections::BTreeSet;

use super::table::{PointId, Text, check_topic};
use crate::router::peers::PeerId;
use crate::router::questions::{AskedBy, Question};
use crate::router::receive::LIST_BYTES_MAX;
use crate::router::sessions::SessionId;
use crate::router::work::Work;
use crate::router::{Asker, Failure, KeptId, Outbox, Router, answer};
use crate::wire::cbor::{self, Reader, Value};
use crate::wire::event::Head;
use crate::wire::message::{Ask, Told};

/// Most subscribers that each node lists.
const LISTED_MAX: usize = 500;
/// Most questions of this kind under way.
const SURVEYS_MAX: usize = 10_000;

/// A question to several peers.
#[derive(Debug)]
pub(in crate::router) struct Survey {
    session: SessionId,
    id: KeptId,
    what: What,
    /// How many have not answered.
    left: usize,
    count: u64,
    listed: usize,
    items: Vec<u8>,
    /// Who could not be asked.
    missing: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Sync,
    Count,
    List,
}

/// A listing of topics that goes on in slices.
#[derive(Debug)]
pub(in crate::router) struct Topics {
    session: SessionId,
    id: KeptId,
    next: PointId,
    count: usize,
    items: Vec<u8>,
}

impl Router {
    /// Whether there is room for another question.
    pub(super) fn may_survey(&self) -> Result<(), Failure> {
        if self.topics.surveys.len() >= SURVEYS_MAX {
            let text = "too many questions to other nodes are under way";
            return Err(Failure::new("overloaded", text));
        }
        Ok(())
    }

    /// Answers once every peer has applied what it was told until now.
    pub(super) fn sync(&mut self, asker: &Asker<'_>, out: &mut Outbox) {
        let mut peers: Vec<PeerId> = self.connected.values().copied().collect();
        peers.retain(|peer| self.is_reachable(*peer));
        self.survey(asker, What::Sync, peers, &Ask::Ping, out);
    }

    fn survey(
        &mut self,
        asker: &Asker<'_>,
        what: What,
        peers: Vec<PeerId>,
        ask: &Ask,
        out: &mut Outbox,
    ) -> u64 {
        let number = self.number();
        let Some(id) = asker.id else { return number };
        let (session, id) = (asker.session, KeptId::keep(id));
        let survey = Survey {
            session,
            id,
            what,
            left: peers.len() + 1,
            count: 0,
            listed: 0,
            items: Vec::new(),
            missing: Vec::new(),
        };
        self.topics.surveys.insert(number, survey);
        for peer in peers {
            out.count(1);
            let by = AskedBy::Survey(number);
            self.ask_peer(asker.now, peer, by, Question::Ping, ask, None, out);
        }
        if what == What::Sync {
            self.survey_told(number, "", Some(Told::Ok(&[0xf5])), out);
        }
        number
    }

    /// How many subscriptions a message to a topic reaches, in the whole mesh.
    pub(in crate::router) fn subscribers<'a>(
        &mut self,
        asker: &mut Asker<'a>,
        topic: &'a str,
        list: bool,
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        asker.to = topic;
        if check_topic(topic).map_err(Failure::badarg)? == Text::Pattern {
            let text = format!("`{topic}` has a wildcard; `subscribers` is about one topic");
            return Err(Failure::badarg(text));
        }
        if asker.id.is_none() {
            return Ok(());
        }
        self.may_survey()?;
        let mut points = Vec::new();
        out.count(self.topics.table.collect(topic, &mut points));
        let table = &self.topics.table;
        let peers: BTreeSet<PeerId> = points
            .iter()
            .filter_map(|point| table.get(*point))
            .flat_map(super::table::Point::peers)
            .filter(|peer| self.is_reachable(*peer))
            .collect();
        let what = if list { What::List } else { What::Count };
        let ask = Ask::Subscribers { topic: topic.into(), list };
        let number = self.survey(asker, what, peers.into_iter().collect(), &ask, out);
        let ours = self.subscribers_here(topic, list, out);
        self.survey_told(number, "", Some(Told::Ok(&ours)), out);
        Ok(())
    }

    /// `[count, [{pid, topic, group?, metadata?}, ...]]`.
    pub(in crate::router) fn subscribers_here(
        &self,
        topic: &str,
        list: bool,
        out: &mut Outbox,
    ) -> Vec<u8> {
        let mut points = Vec::new();
        out.count(self.topics.table.collect(topic, &mut points));
        let (mut count, mut listed, mut items) = (0, 0, Vec::new());
        for id in points {
            let Some(point) = self.topics.table.get(id) else { continue };
            count += point.subscriptions();
            if !list {
                continue;
            }
            let plain = point.here.iter().map(|member| (member, None));
            let queued = point.queues().flat_map(|(group, queue)| {
                queue.here.iter().map(move |member| (member, Some(&**group)))
            });
            for (member, group) in plain.chain(queued) {
                if listed >= LISTED_MAX {
                    break;
                }
                let metadata = self.metadata_of(member.serial, id, group);
                for time in 0..member.times as usize {
                    if listed >= LISTED_MAX {
                        break;
                    }
                    listed += 1;
                    out.count(1);
                    let metadata = metadata.get(time).copied();
                    let pairs = 2 + usize::from(group.is_some()) + usize::from(metadata.is_some());
                    cbor::put_map(&mut items, pairs);
                    cbor::put_text(&mut items, "pid");
                    cbor::put_text(&mut items, &self.pid(member.serial).to_string());
                    cbor::put_text(&mut items, "topic");
                    cbor::put_text(&mut items, &point.text);
                    if let Some(group) = group {
                        cbor::put_text(&mut items, "group");
                        cbor::put_text(&mut items, group);
                    }
                    if let Some(metadata) = metadata {
                        cbor::put_text(&mut items, "metadata");
                        items.extend_from_slice(metadata);
                    }
                }
            }
        }
        let mut told = Vec::with_capacity(items.len() + 20);
        cbor::put_array(&mut told, 2);
        cbor::put_uint(&mut told, count);
        cbor::put_array(&mut told, listed);
        told.append(&mut items);
        told
    }

    /// What a process said with those of its subscriptions that have something to say.
    fn metadata_of(&self, serial: u64, point: PointId, group: Option<&str>) -> Vec<&[u8]> {
        let topics = self.processes.get(&serial).and_then(|process| process.topics.as_ref());
        let special = topics.and_then(|topics| topics.special.get(&point));
        let of = |one: &&super::Special| one.group.as_deref() == group;
        special.into_iter().flatten().filter(of).filter_map(|one| one.metadata.as_deref()).collect()
    }

    /// A peer (this node, when it has no name) has answered, or cannot.
    pub(in crate::router) fn survey_told(
        &mut self,
        number: u64,
        node: &str,
        told: Option<Told<'_>>,
        out: &mut Outbox,
    ) {
        let Some(survey) = self.topics.surveys.get_mut(&number) else { return };
        survey.left -= 1;
        match (survey.what, told) {
            (What::Sync, Some(_)) => {}
            (What::Count | What::List, Some(Told::Ok(item))) if survey.add(item).is_some() => {}
            _ => survey.missing.push(node.into()),
        }
        if survey.left > 0 {
            return;
        }
        let Some(survey) = self.topics.surveys.remove(&number) else { return };
        let Survey { session, id, what, count, listed, mut items, missing, .. } = survey;
        let names = || missing.iter().map(|node| &**node);
        if what == What::Sync && !missing.is_empty() {
            let text = "the process has subscribed; not every node has confirmed that it knows";
            let head = Head::error(id.id(), "timeout", text, true).texts("nodes", names());
            answer(out, session, &head, &[]);
            return;
        }
        let mut head = Head::ok(id.id());
        if what == What::Sync {
            answer(out, session, &head, &[]);
            return;
        }
        head = head.uint("count", count);
        if !missing.is_empty() {
            head = head.texts("missing", names());
        }
        if what == What::Count {
            answer(out, session, &head, &[]);
            return;
        }
        if let Err(full) = self.may_be_long(session, items.len(), out) {
            let head = Head::error(id.id(), full.code, &full.message, false);
            answer(out, session, &head, &[]);
            return;
        }
        let mut body = Vec::with_capacity(items.len() + 9);
        cbor::put_array(&mut body, listed);
        body.append(&mut items);
        answer(out, session, &head.carries("subscribers"), &body);
    }

    /// A peer is lost before it has answered: where it was to confirm something, there is nothing left to confirm.
    pub(in crate::router) fn survey_loses(&mut self, number: u64, node: &str, out: &mut Outbox) {
        let sync = self.topics.surveys.get(&number).is_some_and(|s| s.what == What::Sync);
        let told = sync.then_some(Told::Ok(&[0xf5]));
        self.survey_told(number, node, told, out);
    }

    pub(in crate::router) fn list_topics(
        &mut self,
        asker: &Asker<'_>,
        _out: &mut Outbox,
    ) -> Result<(), Failure> {
        let Some(id) = asker.id else { return Ok(()) };
        if let Some(session) = self.sessions.get_mut(&asker.session) {
            session.listings += 1;
        }
        let (session, id) = (asker.session, KeptId::keep(id));
        let topics = Topics { session, id, next: 0, count: 0, items: Vec::new() };
        self.work.push_back(Work::Topics(topics));
        Ok(())
    }

    pub(in crate::router) fn list_topics_on(
        &mut self,
        mut listing: Topics,
        out: &mut Outbox,
    ) -> Option<Topics> {
        let end = self.topics.table.end();
        while listing.next < end && listing.items.len() < LIST_BYTES_MAX {
            if !out.may_go_on() {
                return Some(listing);
            }
            out.count(1);
            let point = self.topics.table.get(listing.next);
            listing.next += 1;
            let Some(point) = point else { continue };
            let nodes: BTreeSet<PeerId> =
                point.peers().filter(|peer| self.peers.contains_key(peer)).collect();
            let local = point.subscriptions();
            if local == 0 && nodes.is_empty() {
                continue;
            }
            listing.count += 1;
            cbor::put_map(&mut listing.items, 3);
            cbor::put_text(&mut listing.items, "topic");
            cbor::put_text(&mut listing.items, &point.text);
            cbor::put_text(&mut listing.items, "local");
            cbor::put_uint(&mut listing.items, local);
            cbor::put_text(&mut listing.items, "nodes");
            cbor::put_uint(&mut listing.items, nodes.len() as u64);
        }
        let Topics { session, id, next, count, mut items } = listing;
        let mut head = Head::ok(id.id());
        if next < end {
            head = head.bool("more", true);
        }
        match self.may_be_long(session, items.len(), out) {
            Ok(()) => {
                let mut body = Vec::with_capacity(items.len() + 9);
                cbor::put_array(&mut body, count);
                body.append(&mut items);
                answer(out, session, &head.carries("topics"), &body);
            }
            Err(full) => {
                let head = Head::error(id.id(), full.code, &full.message, false);
                answer(out, session, &head, &[]);
            }
        }
        if let Some(state) = self.sessions.get_mut(&session) {
            state.listings = state.listings.saturating_sub(1);
            out.resumed.push(session);
        }
        None
    }
}

impl Survey {
    /// Adds what one node says. None when it is not what was asked for.
    fn add(&mut self, item: &[u8]) -> Option<()> {
        if !cbor::is_one_item(item) {
            return None;
        }
        let mut reader = Reader::new(item);
        if reader.items().ok()? < 2 {
            return None;
        }
        let Value::Uint(count) = reader.value().ok()? else { return None };
        let items = reader.items().ok()?;
        self.count = self.count.saturating_add(count);
        for _ in 0..items {
            let before = reader.rest();
            reader.skip().ok()?;
            if self.items.len() < LIST_BYTES_MAX {
                self.items.extend_from_slice(&before[..before.len() - reader.rest().len()]);
                self.listed += 1;
            }
        }
        Some(())
    }
}
