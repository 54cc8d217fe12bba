//! Connections: dialled, accepted, met, up and over; and what the roster rules about them.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Mesh;
use super::attempts::{Attempt, Subject};
use super::listen::Inbound;
use super::roster::{Accept, Ruling};
use super::telling::Telling;
use super::wanted::{Outcome, Round, TargetId};
use crate::hub::MeshAnswer;
use crate::peer::interfaces::{Distance, distance};
use crate::peer::{self, ConnId, Ending, Ends, Met, Order, Problem, scope};
use crate::transport::Transport;

/// Most orders that wait for a connection. Half of them is kept for those that every connection gets at most once.
const ORDERS_MAX: usize = 32;
/// How much later an address is dialled than those that are nearer: a near one that answers has answered by then.
const STAGGER: Duration = Duration::from_millis(50);

/// A connection as the mesh sees it.
pub(super) struct Conn {
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) task: AbortHandle,
    pub(super) remote: SocketAddr,
    pub(super) dial: Option<(TargetId, SocketAddr)>,
    pub(super) met: Option<Box<Met>>,
    pub(super) up: Option<Instant>,
    pub(super) telling: Telling,
}

impl<T: Transport> Mesh<T> {
    pub(super) fn next_conn(&mut self) -> ConnId {
        self.conn_ids += 1;
        ConnId(self.conn_ids)
    }

    /// Dials every address of a target: the nearest at once, those that are farther away a moment later each.
    pub(super) fn dial_round(&mut self, round: Round) {
        let own = self.context.interfaces.now();
        let mut addresses: Vec<(Distance, SocketAddr)> =
            round.addresses.iter().map(|address| (distance(*address, &own), *address)).collect();
        addresses.sort_unstable();
        let (mut after, mut last) = (Duration::ZERO, None);
        for (distance, address) in addresses {
            if last.replace(distance).is_some_and(|last| last != distance) {
                after += STAGGER;
            }
            self.dial(round.target, address, after);
        }
    }

    pub(super) fn dial(&mut self, target: TargetId, address: SocketAddr, after: Duration) {
        let conn = self.next_conn();
        let (orders, heard) = mpsc::channel(ORDERS_MAX);
        let (context, transport) = (Arc::clone(&self.context), Arc::clone(&self.transport));
        let task = self.tasks.spawn(peer::dial(context, transport, conn, address, after, heard));
        self.wanted.begun(target, conn, address);
        self.window.begin(conn, Instant::now() + after);
        let dial = Some((target, address));
        self.conns.insert(
            conn,
            Conn {
                orders,
                task,
                remote: address,
                dial,
                met: None,
                up: None,
                telling: Telling::default(),
            },
        );
    }

    pub(super) fn on_inbound(&mut self, inbound: Inbound<T::Stream>) {
        let conn = self.next_conn();
        let remote = scope::canonical(inbound.remote);
        if let Some(gone) = self.strangers.enter(conn, remote, Instant::now()) {
            self.send_away(gone);
        }
        let (orders, heard) = mpsc::channel(ORDERS_MAX);
        let context = Arc::clone(&self.context);
        let ends = Ends { remote, local: inbound.local, dialled: false };
        let task = self.tasks.spawn(peer::accept(context, conn, inbound.stream, ends, heard));
        self.conns.insert(
            conn,
            Conn {
                orders,
                task,
                remote,
                dial: None,
                met: None,
                up: None,
                telling: Telling::default(),
            },
        );
    }

    /// Ends a connection that has not shown in time that it is one of us, for another one that waits.
    pub(super) fn send_away(&mut self, stranger: ConnId) {
        let Some(conn) = self.conns.remove(&stranger) else { return };
        conn.task.abort();
        if let Some(count) = self.strangers.sent_away(Instant::now()) {
            warn!(
                from = %conn.remote.ip(),
                count,
                "connections that do not show that they are of this mesh were closed for others that wait"
            );
        }
    }

    pub(super) fn dials(&self) -> usize {
        self.conns.values().filter(|conn| conn.dial.is_some() && conn.met.is_none()).count()
    }

    pub(super) fn on_hello(&mut self, id: ConnId, met: Box<Met>, now: Instant) {
        // It has shown that it is one of us; what follows is bounded by the number of nodes.
        self.strangers.leave(id);
        self.window.met(id);
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if self.draining {
            let message = "this node is about to leave: join another one".to_owned();
            return self.close(id, "leaving", Some(message), false);
        }
        let (node, known) = (met.node.clone(), met.known);
        let (places, seen) = (met.places.addresses.clone(), met.remote.ip());
        let dialled = conn.dial.map(|(_, address)| address);
        if let Some(address) = dialled {
            self.wanted.learn(address, node.clone(), now);
        }
        conn.met = Some(met);
        self.notices.well(&conn.remote.ip().to_string());
        if self.wanted.is_parted(&node, dialled.is_some(), now) {
            let message = "these two were disconnected on request".to_owned();
            return self.close(id, "parted", Some(message), false);
        }
        let rulings = self.roster.hello(id, node.clone(), known);
        self.follow(rulings);
        self.wanted.meets(&node, &places, seen, dialled, self.roster.held(), now);
        self.known_changed(now);
    }

    pub(super) fn on_up(&mut self, id: ConnId, now: Instant) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let Some(met) = &conn.met else { return };
        conn.up = Some(now);
        info!(node = %met.node.name, incarnation = %met.node.incarnation, address = %met.remote, "joined");
        let (node, address, dialled) = (met.node.clone(), conn.remote, conn.dial.is_some());
        self.wanted.met(&node);
        self.context.hub.note(|notes| notes.joining(dialled, "joined"));
        self.wanted.remembered.joined(&node.name, &met.places.addresses, now);
        let words = if dialled { "joined" } else { "dialled this node, and joined" };
        let joined = Attempt {
            address,
            dialled,
            result: "joined",
            failed: false,
            words: words.to_owned(),
            times: 1,
            last: now,
        };
        self.attempts.note(Subject::Node(node.name.clone()), joined);
        self.wanted.remembered.save();
        self.notices.well(node.name.as_str());
        for subject in self.wanted.joined(&node) {
            self.notices.well(&subject);
        }
        self.tell_soon(now);
        self.known_changed(now);
    }

    pub(super) fn on_ended(&mut self, id: ConnId, ending: &Ending, now: Instant) {
        self.strangers.leave(id);
        let slow = Problem::is_slow;
        self.window.over(id, matches!(ending, Ending::Failed(problem) if slow(problem)), now);
        let Some(conn) = self.conns.remove(&id) else { return };
        if let Some(met) = &conn.met {
            self.wanted.met(&met.node);
        }
        let lasted = conn.up.map(|up| now.saturating_duration_since(up));
        let was_up = matches!(ending, Ending::Down { .. });
        if let (Ending::Down { reason, goodbye }, Some(met)) = (ending, &conn.met) {
            let (dialled, goodbye) = (conn.dial.is_some(), goodbye.as_ref());
            self.on_down(met, dialled, reason, goodbye, lasted.unwrap_or_default(), now);
        }
        if let Ending::Failed(problem) = ending {
            self.on_failed(&conn, problem, now);
        }
        let rulings = self.roster.ended(id);
        self.follow(rulings);
        if let Some((target, address)) = conn.dial {
            let outcome = outcome(ending, lasted);
            if let Some((subject, reason)) = self.wanted.over(target, id, address, outcome, now)
                && self.notices.is_news(&subject, &reason)
            {
                info!(to = %subject, "not connected: {reason}");
            }
        }
        for token in self.requests.disconnected(id) {
            self.context.hub.answer_mesh(token, MeshAnswer::True);
        }
        if was_up {
            self.tell_soon(now);
            self.merge(now);
        } else {
            self.known_changed(now);
        }
    }

    pub(super) fn follow(&mut self, rulings: Vec<Ruling>) {
        for ruling in rulings {
            match ruling {
                Ruling::Accept(conn, Accept { number, holds }) => {
                    self.call_off_round(conn);
                    self.order(conn, Order::Accept { number, holds });
                }
                Ruling::Take(conn) => {
                    self.call_off_round(conn);
                    self.order(conn, Order::Take);
                }
                Ruling::Up(conn) => {
                    self.order(conn, Order::Up);
                }
                // Without an answer the newcomer waits until its deadline.
                Ruling::Probe(conn) => {
                    self.order(conn, Order::Probe);
                }
                Ruling::Duplicate(conn) => {
                    let message = "there is a connection between these two nodes".to_owned();
                    self.close(conn, "duplicate", Some(message), false);
                }
                Ruling::NameTaken(conn, winner) => {
                    let name = self.conns.get(&conn).and_then(|c| c.met.as_ref());
                    let name = name.map_or("of that node", |met| met.node.name.as_str());
                    let message = format!(
                        "the name {name} belongs to a node that started earlier (incarnation {winner}) and is alive: start this one with another --name"
                    );
                    self.close(conn, "name_taken", Some(message), false);
                }
                Ruling::Drop(conn, reason) => self.close(conn, reason, None, false),
            }
        }
        let mut held = self.context.held.lock().unwrap_or_else(PoisonError::into_inner);
        if *held != *self.roster.held() {
            held.clone_from(self.roster.held());
        }
    }

    /// False when the order could not be given.
    pub(super) fn order(&self, conn: ConnId, order: Order) -> bool {
        let Some(conn) = self.conns.get(&conn) else { return false };
        let once = !matches!(order, Order::Probe | Order::Send(_));
        let room = once || conn.orders.capacity() > ORDERS_MAX / 2;
        // One that has just ended says so in a moment.
        room && conn.orders.try_send(order).is_ok()
    }

    pub(super) fn close(
        &self,
        conn: ConnId,
        code: &'static str,
        message: Option<String>,
        flush: bool,
    ) {
        self.order(conn, Order::Close { code, message, flush });
    }

    /// The node that this round was after has its connection: the dials that have not met anybody yet are pointless.
    /// Those that have met somebody get their answer like any other.
    pub(super) fn call_off_round(&mut self, winner: ConnId) {
        let Some(conn) = self.conns.get(&winner) else { return };
        let (Some((target, _)), Some(met)) = (conn.dial, &conn.met) else { return };
        if !self.wanted.expects(target, &met.node.name) {
            return;
        }
        let rest: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, c)| c.met.is_none() && c.dial.is_some_and(|(t, _)| t == target))
            .map(|(id, _)| *id)
            .collect();
        let now = Instant::now();
        for id in rest {
            if let Some(conn) = self.conns.remove(&id) {
                conn.task.abort();
                self.window.over(id, false, now);
                if let Some((target, address)) = conn.dial {
                    self.wanted.over(target, id, address, Outcome::Superfluous, now);
                }
            }
        }
    }
}

fn outcome(ending: &Ending, lasted: Option<Duration>) -> Outcome {
    match ending {
        Ending::Down { .. } => Outcome::Ended(lasted.unwrap_or_default()),
        Ending::Failed(Problem::Itself | Problem::CalledOff) => Outcome::Superfluous,
        Ending::Failed(Problem::Refused(refusal) | Problem::Refusing(refusal))
            if refusal.code == "duplicate" =>
        {
            Outcome::Superfluous
        }
        Ending::Failed(problem) => Outcome::Failed(problem.failure(), problem.to_string()),
    }
}
