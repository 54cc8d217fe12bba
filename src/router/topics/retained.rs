//! The last value of a topic, kept by the node that published it and given to whoever subscribes later.
//!
//! It is announced as everything is that a node says of itself, so each node has the values of all and a subscriber
//! asks nobody. Of two nodes that keep a value of one topic the later one stays: the other takes its own back when it
//! hears of it. A node that is gone takes its values along.

use std::collections::BTreeSet;
use std::time::Instant;

use super::table::{PointId, Text};
use super::trie::matches;
use crate::router::announced::{Class, VALUE_BYTES_MAX};
use crate::router::deliver::Origin;
use crate::router::mailbox::Tag;
use crate::router::peers::{PeerId, is_said};
use crate::router::sessions::SessionId;
use crate::router::work::Work;
use crate::router::{Failure, Outbox, Router};
use crate::wire::event::{self, Said};

/// Most values that one node keeps, and most bytes of them.
const KEPT_MAX: usize = 1024;
const KEPT_BYTES_MAX: usize = 1024 * 1024;
/// How many values are looked at for one entry of a hold of the lock.
const LOOKED: usize = 64;
/// What a value is longer than its body: stamp, header, lengths.
const OVERHEAD_BYTES: usize = 1024;

/// Values on their way to a new subscriber.
#[derive(Debug)]
pub(in crate::router) struct Giving {
    session: SessionId,
    serial: u64,
    point: PointId,
    topics: Vec<Box<str>>,
}

/// u64 time, then the event frame; nothing behind the time where the value is cleared.
fn stamp_of(value: &[u8]) -> Option<(u64, &[u8])> {
    let (stamp, frame) = value.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*stamp), frame))
}

impl Router {
    fn kept(&self, topic: &str) -> Option<&[u8]> {
        self.announced.get(Class::Retained, topic.as_bytes())
    }

    /// Keeps what is published as the last value of its topic; a message without a body clears it.
    pub(super) fn retain(
        &mut self,
        now: Instant,
        topic: &str,
        head: &[u8],
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<(), Failure> {
        if body.len() + OVERHEAD_BYTES > VALUE_BYTES_MAX {
            let text = format!(
                "a body that is retained has at most {} bytes; this one has {}",
                VALUE_BYTES_MAX - OVERHEAD_BYTES,
                body.len()
            );
            return Err(Failure::new("too_large", text));
        }
        let old = self.kept(topic).map(<[u8]>::len);
        let stamp = self.hybrid_ms(now).to_be_bytes();
        if body.is_empty() {
            if old.is_some() || self.topics.retained.contains_key(topic) {
                // Others take theirs back when they hear of a later one, and then there is none.
                self.keep(topic, Some(&stamp), out);
                self.keep(topic, None, out);
            }
            return Ok(());
        }
        let mut value = Vec::with_capacity(14 + head.len() + body.len());
        value.extend_from_slice(&stamp);
        event::put_frame(&mut value, head, body);
        let (count, bytes) = self.topics.kept;
        if (old.is_none() && count >= KEPT_MAX)
            || bytes + value.len() - old.unwrap_or(0).min(bytes) > KEPT_BYTES_MAX
        {
            let text = format!(
                "this node retains {KEPT_MAX} values and {KEPT_BYTES_MAX} bytes at most; clear some by publishing to them with `retain` and without a body"
            );
            return Err(Failure::new("overloaded", text));
        }
        self.keep(topic, Some(&value), out);
        Ok(())
    }

    fn keep(&mut self, topic: &str, value: Option<&[u8]>, out: &mut Outbox) {
        let old = self.kept(topic).map(<[u8]>::len);
        let (count, bytes) = &mut self.topics.kept;
        *count -= usize::from(old.is_some());
        *bytes -= old.unwrap_or(0);
        *count += usize::from(value.is_some());
        *bytes += value.map_or(0, <[u8]>::len);
        self.announce(Class::Retained, topic.as_bytes(), value, out);
    }

    /// A peer keeps a value, or no longer.
    pub(in crate::router) fn on_retained(
        &mut self,
        peer: PeerId,
        key: &[u8],
        value: Option<&[u8]>,
        out: &mut Outbox,
    ) -> Option<()> {
        let topic = std::str::from_utf8(key).ok()?;
        let (stamp, frame) = match value {
            Some(value) => stamp_of(value).map(|(stamp, frame)| (Some(stamp), frame))?,
            None => (None, &[][..]),
        };
        if frame.is_empty() {
            if let Some(values) = self.topics.retained.get_mut(topic) {
                values.remove(&peer);
                if values.is_empty() {
                    self.topics.retained.remove(topic);
                }
            }
        } else {
            let (head, _) = event::split_frame(frame)?;
            if !is_said(head, Said::Message) || event::topic_of(head) != Some(topic) {
                return None;
            }
            let values = self.topics.retained.entry(topic.into()).or_default();
            values.insert(peer, value?.into());
        }
        let Some(stamp) = stamp else { return Some(()) };
        self.saw_ms(stamp);
        let ours = self.kept(topic).and_then(stamp_of).map(|(stamp, _)| stamp);
        let theirs = &self.peers.get(&peer)?.node;
        if ours.is_some_and(|ours| (ours, &self.me) < (stamp, theirs)) {
            self.keep(topic, None, out);
        }
        Some(())
    }

    /// The latest value of a topic.
    fn latest(&self, topic: &str) -> Option<&[u8]> {
        let theirs = self.topics.retained.get(topic).into_iter().flat_map(|values| values.values());
        let ours = self.kept(topic).into_iter();
        let all = theirs.map(|value| &**value).chain(ours).filter_map(stamp_of);
        all.max_by_key(|(stamp, _)| *stamp).map(|(_, frame)| frame)
    }

    /// Gives a new subscriber what was published before it came, in slices.
    pub(super) fn give_retained(
        &mut self,
        session: SessionId,
        serial: u64,
        point: PointId,
        kind: Text,
        text: &str,
        out: &mut Outbox,
    ) {
        if self.topics.kept.0 == 0 && self.topics.retained.is_empty() {
            return;
        }
        if kind == Text::Topic {
            self.give_one(serial, point, text, out);
            return;
        }
        out.count((self.topics.kept.0 + self.topics.retained.len()) / LOOKED);
        let ours =
            self.announced.keys(Class::Retained).filter_map(|key| std::str::from_utf8(key).ok());
        let theirs = self.topics.retained.keys().map(|topic| &**topic);
        let topics: BTreeSet<&str> =
            ours.chain(theirs).filter(|topic| matches(text, topic)).collect();
        let topics: Vec<Box<str>> = topics.into_iter().rev().map(Into::into).collect();
        if topics.is_empty() {
            return;
        }
        if let Some(session) = self.sessions.get_mut(&session) {
            session.listings += 1;
        }
        self.work.push_back(Work::Retained(Giving { session, serial, point, topics }));
    }

    pub(in crate::router) fn give_on(
        &mut self,
        mut giving: Giving,
        out: &mut Outbox,
    ) -> Option<Giving> {
        while let Some(topic) = giving.topics.pop() {
            if !out.may_go_on() {
                giving.topics.push(topic);
                return Some(giving);
            }
            self.give_one(giving.serial, giving.point, &topic, out);
        }
        if let Some(session) = self.sessions.get_mut(&giving.session) {
            session.listings = session.listings.saturating_sub(1);
            out.resumed.push(giving.session);
        }
        None
    }

    fn give_one(&mut self, serial: u64, point: PointId, topic: &str, out: &mut Outbox) {
        if self.topics.table.get(point).is_none_or(|point| point.here.times_of(serial) == 0) {
            return;
        }
        let Some((head, body)) = self.latest(topic).and_then(event::split_frame) else { return };
        let (mut head, body) = (head.to_vec(), body.to_vec());
        event::put_retained(&mut head);
        out.count(1);
        let origin = Origin::Lossy;
        self.deliver(self.clock, serial, origin, Tag::Topic(point), &head, &body, out);
    }
}
