//! Topics: publishing, and subscriptions as streams.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use serde::Serialize;

use crate::body::Body;
use crate::error::Result;
use crate::event::{Event, Kind};
use crate::op::Op;
use crate::process::{Process, Spawn};
use crate::state::{Role, rank};

/// How to subscribe to a topic or pattern, such as `shop.tea`, `shop.*` or `shop.>`.
#[derive(Clone, Debug)]
#[must_use = "subscribe() subscribes"]
pub struct Subscribe<'a> {
    process: &'a Process,
    topic: &'a str,
    op: Op,
}

impl Subscribe<'_> {
    /// As a member of a queue group: of all its members in the mesh one gets each message.
    pub fn group(mut self, group: &str) -> Self {
        self.op = self.op.text("group", group);
        self
    }

    /// With something that others see of it, of at most 1024 bytes.
    pub fn metadata(mut self, metadata: &(impl Serialize + ?Sized)) -> Self {
        self.op = self.op.field("metadata", metadata);
        self
    }

    /// Returns once every connected node knows of it, so that whatever is published anywhere after that arrives.
    pub fn sync(mut self) -> Self {
        self.op = self.op.bool("sync", true);
        self
    }

    /// Subscribes, by a process of the subscription's own.
    ///
    /// # Errors
    /// [`Code::BadArg`](crate::Code::BadArg) for what is no topic; [`Code::Timeout`](crate::Code::Timeout) with
    /// [`Error::nodes`](crate::Error::nodes) when a node does not confirm within 5 s. Nothing is subscribed then.
    pub async fn subscribe(self) -> Result<Subscription> {
        let process = self.process.spawn_as(Spawn::new(), Role::Iterator, false).await?;
        process.declare(rank::SUBSCRIPTION, self.topic, self.op).await?;
        Ok(Subscription { process })
    }
}

/// What is published to a topic, from now on: a [`Stream`] of [`Kind::Message`] events, and of [`Kind::Gap`] events where some
/// are missing.
///
/// It lives through restarts of the node, and ends when the app leaves a node ([`Client::drain`](crate::Client::drain)) or is
/// closed. Dropping it ends the subscription.
#[derive(Debug)]
#[must_use = "dropping it ends the subscription"]
pub struct Subscription {
    process: Process,
}

impl Subscription {
    /// The next message or gap; none at the end. Cancel safe: nothing is lost.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// The process that has subscribed.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }
}

impl Stream for Subscription {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            match std::task::ready!(self.process.poll_receive(cx)) {
                Ok(event) if matches!(event.kind(), Kind::Message | Kind::Gap) => {
                    return Poll::Ready(Some(event));
                }
                Ok(_) => {}
                Err(_) => return Poll::Ready(None),
            }
        }
    }
}

/// A message to whoever has subscribed to its topic.
#[derive(Clone, Debug)]
#[must_use = "send() publishes"]
pub struct Publish<'a> {
    process: &'a Process,
    op: Op,
}

impl Publish<'_> {
    /// The node keeps it as the topic's last value, which later subscribers get.
    pub fn retain(mut self) -> Self {
        self.op = self.op.bool("retain", true);
        self
    }

    /// To the subscriptions of this node only.
    pub fn local(mut self) -> Self {
        self.op = self.op.text("scope", "local");
        self
    }

    /// Publishes, and waits for nothing.
    ///
    /// # Errors
    /// Those of [`Process::send`].
    pub async fn send(self) -> Result<()> {
        self.process.tell(self.op).await
    }

    /// Publishes, and waits for the node's word that it has.
    ///
    /// # Errors
    /// [`Code::Overloaded`](crate::Code::Overloaded) with the nodes that it did not go to; all others have it.
    pub async fn confirm(self) -> Result<()> {
        self.process.ask(&self.op, None).await.map(drop)
    }

    /// Publishes, and gives to how many other nodes it went, and how many subscriptions of this node it was delivered to.
    ///
    /// # Errors
    /// Those of [`Publish::confirm`].
    pub async fn report(self) -> Result<Published> {
        let answer = self.process.ask(&self.op.bool("report", true), None).await?;
        let number = |key| answer.uint(key).unwrap_or(0);
        Ok(Published { nodes: number("nodes"), local: number("local") })
    }
}

/// Where a publication went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Other nodes.
    pub nodes: u64,
    /// Subscriptions of this node.
    pub local: u64,
}

impl Process {
    /// Begins a subscription: `client.subscription("shop.*").subscribe().await?`.
    pub fn subscription<'a>(&'a self, topic: &'a str) -> Subscribe<'a> {
        Subscribe { process: self, topic, op: Op::new("subscribe").text("topic", topic) }
    }

    /// Subscribes to a topic or pattern.
    ///
    /// # Errors
    /// Those of [`Subscribe::subscribe`].
    pub async fn subscribe(&self, topic: &str) -> Result<Subscription> {
        self.subscription(topic).subscribe().await
    }

    /// Begins a publication: `client.publication("shop.tea", &3).retain().confirm().await?`.
    pub fn publication(&self, topic: &str, body: impl Body) -> Publish<'_> {
        Publish { process: self, op: Op::new("publish").text("topic", topic).body(&body) }
    }

    /// Publishes, and waits for nothing.
    ///
    /// # Errors
    /// Those of [`Process::send`].
    pub async fn publish(&self, topic: &str, body: impl Body) -> Result<()> {
        self.publication(topic, body).send().await
    }
}
