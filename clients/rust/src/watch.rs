//! Watching: nodes that come and go, members of groups, who is present; each a stream with a process of its own.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::event::{Event, Kind};
use crate::op::Op;
use crate::pid::Pid;
use crate::process::{Process, Spawn};
use crate::state::{Role, rank};

/// What a [`Watch`] gives.
pub trait Change: Sized {
    /// Takes it out of an event; none when it is another's. `anew` says that what was known before does not hold any more.
    #[doc(hidden)]
    fn of(event: &Event, anew: bool) -> Option<Self>;
}

/// A [`Stream`] of changes. It lives through restarts of the node, and ends when the app leaves a node or is closed. Dropping
/// it ends the watching.
#[derive(Debug)]
#[must_use = "dropping it ends the watching"]
pub struct Watch<T> {
    process: Process,
    anew: bool,
    kind: PhantomData<fn() -> T>,
}

impl<T: Change> Watch<T> {
    async fn begin(by: &Process, rank: u8, name: &str, op: Op) -> Result<Self> {
        let process = by.spawn_as(Spawn::new(), Role::Iterator, false).await?;
        process.declare(rank, name, op).await?;
        Ok(Self { process, anew: true, kind: PhantomData })
    }

    /// The next change; none at the end. Cancel safe: nothing is lost.
    pub async fn next(&mut self) -> Option<T> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl<T: Change> Stream for Watch<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        loop {
            let Ok(event) = std::task::ready!(self.process.poll_receive(cx)) else {
                return Poll::Ready(None);
            };
            if event.kind() == Kind::Gap && event.reason() == Some("restarted") {
                self.anew = true;
            }
            if let Some(change) = T::of(&event, self.anew) {
                self.anew = false;
                return Poll::Ready(Some(change));
            }
        }
    }
}

/// A node has come or gone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeChange {
    /// Its name.
    pub node: String,
    /// Connected now, or lost.
    pub up: bool,
    /// Why it is lost.
    pub reason: Option<String>,
}

impl Change for NodeChange {
    fn of(event: &Event, _: bool) -> Option<Self> {
        let up = match event.kind() {
            Kind::NodeUp => true,
            Kind::NodeDown => false,
            _ => return None,
        };
        let reason = event.reason().map(str::to_owned);
        Some(Self { node: event.text("node")?.to_owned(), up, reason })
    }
}

/// Who is in a group has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupChange {
    /// The group.
    pub group: String,
    /// Who has joined; in the first one all that are there.
    pub joined: Vec<Pid>,
    /// Who has left.
    pub left: Vec<Pid>,
    /// What was known before does not hold any more: the first one, also after a restart of the node.
    pub anew: bool,
}

impl Change for GroupChange {
    fn of(event: &Event, anew: bool) -> Option<Self> {
        if event.kind() != Kind::Group {
            return None;
        }
        let pids = |key| event.field(key).unwrap_or_default();
        let group = event.text("group")?.to_owned();
        Some(Self { group, joined: pids("joined"), left: pids("left"), anew })
    }
}

/// Somebody who is present under a topic.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Presence {
    /// Under which key.
    pub key: String,
    /// The process that is present.
    pub pid: Pid,
    /// The version of what is known of it.
    #[serde(rename = "ref")]
    pub reference: u64,
    /// That of before, where what is known of it has changed.
    #[serde(default)]
    pub prev: Option<u64>,
    /// What is known of it.
    #[serde(default)]
    pub metadata: Option<ciborium::Value>,
}

/// Who is present under a topic has changed: first those who left, as they were, then those who came, as they are.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PresenceChange {
    /// Who is there no more, or was as it was.
    pub leaves: Vec<Presence>,
    /// Who is there now, or is as it is.
    pub joins: Vec<Presence>,
    /// Some of those who were there at the beginning are still to come.
    pub more: bool,
    /// What was known before does not hold any more: the first one, also after a restart of the node.
    pub anew: bool,
}

impl Change for PresenceChange {
    fn of(event: &Event, anew: bool) -> Option<Self> {
        if event.kind() != Kind::Presence {
            return None;
        }
        let who = |key| event.field(key).unwrap_or_default();
        let more = event.bool("more").unwrap_or(false);
        Some(Self { leaves: who("leaves"), joins: who("joins"), more, anew })
    }
}

impl Process {
    // ===== nodes =====

    /// Watches nodes that are connected and lost from now on.
    ///
    /// # Errors
    /// [`Code::Lost`](crate::Code::Lost).
    pub async fn watch_nodes(&self) -> Result<Watch<NodeChange>> {
        Watch::begin(self, rank::NODES, "", Op::new("monitor_nodes")).await
    }

    // ===== groups =====

    /// Joins a group, as often as it is said.
    ///
    /// # Errors
    /// [`Code::BadArg`](crate::Code::BadArg) for what can be no group's name.
    pub async fn join(&self, group: &str) -> Result<()> {
        self.declare(rank::GROUP, group, Op::new("join").text("group", group)).await
    }

    /// Takes one `join` back.
    ///
    /// # Errors
    /// [`Code::NotFound`](crate::Code::NotFound) when it is no member.
    pub async fn leave(&self, group: &str) -> Result<()> {
        let (key, name) = (self.key(), group.to_owned());
        let then: crate::state::Then =
            Box::new(move |state, _| state.undeclare(rank::GROUP, Some(key), &name, false));
        self.ask(&Op::new("leave").text("group", group), Some(then)).await.map(drop)
    }

    /// Who is in a group, in the whole mesh, as often as each has joined.
    ///
    /// # Errors
    /// [`Code::Lost`](crate::Code::Lost).
    pub async fn members(&self, group: &str) -> Result<Vec<Pid>> {
        self.asked(Op::new("members").text("group", group)).await
    }

    /// Watches a group: first all members, then every change.
    ///
    /// # Errors
    /// [`Code::BadArg`](crate::Code::BadArg) for what can be no group's name.
    pub async fn watch_group(&self, group: &str) -> Result<Watch<GroupChange>> {
        let op = Op::new("monitor_group").text("group", group);
        Watch::begin(self, rank::WATCHED_GROUP, group, op).await
    }

    // ===== presence =====

    /// From now on this process is present under a topic and key on every node, until it is untracked or ends, however it
    /// ends. `metadata` has at most 4096 bytes.
    ///
    /// # Errors
    /// [`Code::Taken`](crate::Code::Taken) when it is present there already.
    pub async fn track(
        &self,
        topic: &str,
        key: &str,
        metadata: &(impl Serialize + ?Sized),
    ) -> Result<()> {
        let op = Op::new("track").text("topic", topic).text("key", key).field("metadata", metadata);
        self.declare(rank::PRESENCE, &presence_name(topic, key), op).await
    }

    /// What is known of a presence becomes this.
    ///
    /// # Errors
    /// [`Code::NotFound`](crate::Code::NotFound) when this process is not present there.
    pub async fn update_presence(
        &self,
        topic: &str,
        key: &str,
        metadata: &(impl Serialize + ?Sized),
    ) -> Result<()> {
        let fields = |op: Op| op.text("topic", topic).text("key", key).field("metadata", metadata);
        let (by, name, track) = (self.key(), presence_name(topic, key), fields(Op::new("track")));
        let then: crate::state::Then = Box::new(move |state, _| {
            let declared = state.declarations.values_mut();
            for declared in declared.filter(|d| d.key == by && d.name == name) {
                declared.op = track.clone();
            }
        });
        self.ask(&fields(Op::new("update_presence")), Some(then)).await.map(drop)
    }

    /// This process is present under this topic and key no more. That it was not is no error.
    ///
    /// # Errors
    /// [`Code::Lost`](crate::Code::Lost).
    pub async fn untrack(&self, topic: &str, key: &str) -> Result<()> {
        let (by, name) = (self.key(), presence_name(topic, key));
        let then: crate::state::Then =
            Box::new(move |state, _| state.undeclare(rank::PRESENCE, Some(by), &name, true));
        let op = Op::new("untrack").text("topic", topic).text("key", key);
        self.ask(&op, Some(then)).await.map(drop)
    }

    /// Who is present under a topic, in the order of the keys, as this node knows it.
    ///
    /// # Errors
    /// [`Code::BadArg`](crate::Code::BadArg) for what is no topic.
    pub async fn presence(&self, topic: &str) -> Result<Vec<Presence>> {
        self.asked(Op::new("presence").text("topic", topic)).await
    }

    /// Watches who is present under a topic: first all who are there, then every change, and nothing lies between.
    ///
    /// # Errors
    /// [`Code::BadArg`](crate::Code::BadArg) for what is no topic.
    pub async fn watch_presence(&self, topic: &str) -> Result<Watch<PresenceChange>> {
        let op = Op::new("monitor_presence").text("topic", topic);
        Watch::begin(self, rank::WATCHED_PRESENCE, topic, op).await
    }
}

fn presence_name(topic: &str, key: &str) -> String {
    // A topic has no spaces.
    format!("{topic} {key}")
}
