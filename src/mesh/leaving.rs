//! How nodes leave: this one, and those that say that they are about to.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tracing::{debug, error, info};

use super::attempts::{Attempt, Subject};
use super::{Inputs, Mesh, loud};
use crate::peer::{self, ConnId, Met};
use crate::transport::Transport;
use crate::wire::id::Node;
use crate::wire::message::Goodbye;

/// How long the goodbyes may take.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);

impl<T: Transport> Mesh<T> {
    /// A node is about to leave.
    pub(super) fn on_drains(&mut self, node: Node, now: Instant) {
        if node == self.context.me {
            info!(
                "draining: apps and other nodes are told, and nobody is dialled or let in any more"
            );
            self.draining = true;
            return self.tell_soon(now);
        }
        let holder = self.roster.holder(&node.name);
        if holder.is_none_or(|(_, incarnation)| incarnation != node.incarnation) {
            // Its connection is gone already.
            self.wanted.hearsay.goodbye(&node, now);
            return self.merge(now);
        }
        info!(node = %node.name, incarnation = %node.incarnation, "is about to leave");
        self.leaving.insert(node);
        // The others need not hear of it from us any more.
        self.tell_soon(now);
    }

    /// A connection that was up is over.
    pub(super) fn on_down(
        &mut self,
        met: &Met,
        dialled: bool,
        reason: &str,
        goodbye: Option<&Goodbye>,
        lasted: Duration,
        now: Instant,
    ) {
        let node = &met.node;
        let words = match goodbye {
            Some(goodbye) => format!("said goodbye: {} [{reason}]", peer::words(&goodbye.message)),
            None => format!("was lost: {reason}"),
        };
        let left = Attempt {
            address: met.remote,
            dialled,
            result: "left",
            failed: false,
            words,
            times: 1,
            last: now,
        };
        self.attempts.note(Subject::Node(node.name.clone()), left);
        self.context.hub.note(|notes| notes.gone(goodbye.is_some()));
        match goodbye {
            Some(goodbye) if goodbye.reason == "name_taken" => {
                error!(by = %node.name, "{}", peer::words(&goodbye.message));
            }
            _ => info!(node = %node.name, incarnation = %node.incarnation, %reason, "left"),
        }
        self.wanted.hearsay.gone(&node.name, now);
        let drained = self.leaving.remove(node);
        match goodbye.map(|goodbye| goodbye.reason.as_str()) {
            reason if drained || reason == Some("shutdown") => {
                self.wanted.hearsay.goodbye(node, now);
                self.wanted.remembered.left(&node.name);
            }
            Some("disconnect") => {
                self.wanted.unask_name(&node.name);
                self.part(node, now);
            }
            // One that we sent away is not missed.
            None if matches!(reason, "disconnect" | "name_taken") => {}
            _ => {
                let addresses = met.places.addresses.clone();
                self.wanted.hearsay.lost(&self.context.me.name, node.clone(), addresses, now);
            }
        }
        self.wanted.left(node, lasted, drained || goodbye.is_some(), now);
    }

    /// Stop listening and dialling; say goodbye; wait for the goodbyes to be out; drop the rest.
    pub(super) async fn leave(mut self, mut inputs: Inputs<T::Stream>) {
        for service in self.services.drain(..) {
            service.abort();
        }
        for (token, answer) in self.requests.give_up() {
            self.context.hub.answer_mesh(token, answer);
        }
        let strangers: Vec<ConnId> =
            self.conns.iter().filter(|(_, c)| c.met.is_none()).map(|(id, _)| *id).collect();
        for id in strangers {
            if let Some(conn) = self.conns.remove(&id) {
                conn.task.abort();
            }
        }
        for (id, conn) in &self.conns {
            // Its task says `leaving` where the connection was not up yet.
            let code = if conn.up.is_some() { "shutdown" } else { "leaving" };
            self.close(*id, code, Some("this node stops".to_owned()), true);
        }
        let deadline = Instant::now() + LEAVE_WITHIN;
        let goodbyes = async {
            loop {
                tokio::select! {
                    biased;
                    Some(_) = inputs.events.recv() => {}
                    joined = self.tasks.join_next() => match joined {
                        Some(joined) => loud(joined),
                        None => break,
                    }
                }
            }
        };
        if timeout_at(deadline, goodbyes).await.is_err() {
            debug!("some peers did not take our goodbye in time");
        }
        self.tasks.shutdown().await;
    }
}
