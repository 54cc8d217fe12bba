//! Which connection is *the* connection to a node. Decides; does nothing.
//!
//! Each name has one seat. The senior of a pair gives its own seat when it has read the junior's hello; the junior
//! gives its seat when the senior's `accept` arrives. So of two connections dialled at once exactly one lives: the
//! senior alone chooses. Where it holds one already it cannot know whether the junior still does, so it says so in
//! the `accept` of the other ("I hold one") and the junior decides; no clock is involved.
//!
//! ```text
//! the newcomer is            the senior, at hello         the junior, at accept
//! alone                      accept                       take
//! the same run               accept, "I hold one";        "I hold one" and so do I: duplicate
//!                            its ready ends the holder    else the later accept wins
//! a younger run of the name  probe the holder: alive -> name_taken, silent -> replaced
//! an older run of the name   accept; its ready            take, evict the holder
//!                            evicts the holder
//! ```

use std::collections::{BTreeMap, VecDeque};

use super::wanted::Held;
use crate::peer::ConnId;
use crate::wire::id::{Incarnation, Node, NodeName};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// Senior: send this `accept`, and `ready`.
    Accept(ConnId, Accept),
    /// Junior: the accepted connection is ours too; send `ready`.
    Take(ConnId),
    /// Both sides are ready and the seat is free: tell the hub.
    Up(ConnId),
    /// Find out whether it is alive; [`Roster::probed`] answers.
    Probe(ConnId),
    /// Close it: another connection of the same pair is the one.
    Duplicate(ConnId),
    /// Close it: its name belongs to this other run.
    NameTaken(ConnId, Incarnation),
    /// Close it without a word: the other side has given it up, or it is silent.
    Drop(ConnId, &'static str),
}

/// The senior's choice of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accept {
    /// Counts the accepts of this senior.
    pub number: u64,
    /// The senior holds another connection of the pair already: take this one only if you do not.
    pub holds: bool,
}

/// A connection that wants a seat.
#[derive(Clone, Debug)]
struct Claim {
    conn: ConnId,
    node: Node,
    /// Senior: the other side says that it holds a connection to this very run of ours.
    known: bool,
    /// The senior's accept, once there is one.
    accept: Accept,
    ready: bool,
}

#[derive(Debug)]
struct Holder {
    claim: Claim,
    up: bool,
    /// Told to close; the seat is free once it has.
    closing: bool,
}

#[derive(Debug)]
enum Contest {
    /// A younger run: whether the holder is alive decides. It was asked, or its `ready` is awaited.
    Doubt(Claim),
    /// It was accepted beside the holder: an older run, or the same one, that may have lost the holder. Its `ready`
    /// proves it, and ends the holder.
    Heir(Claim),
}

#[derive(Debug, Default)]
struct Seat {
    holder: Option<Holder>,
    contest: Option<Contest>,
    queue: VecDeque<Claim>,
}

impl Seat {
    fn holding(&self) -> Option<(ConnId, Incarnation)> {
        let holder = self.holder.as_ref().filter(|holder| !holder.closing)?;
        Some((holder.claim.conn, holder.claim.node.incarnation))
    }
}

/// Every seat.
#[derive(Debug)]
pub(crate) struct Roster {
    me: Node,
    accepts: u64,
    seats: BTreeMap<NodeName, Seat>,
    /// Who holds the seats, up or about to be: what follows from them.
    held: Held,
    /// Of every connection whose hello was good.
    nodes: BTreeMap<ConnId, Node>,
}

impl Roster {
    /// Nobody connected.
    pub(crate) fn new(me: Node) -> Self {
        Self { me, accepts: 0, seats: BTreeMap::new(), held: Held::new(), nodes: BTreeMap::new() }
    }

    /// Who holds the seat of this name, up or about to be.
    pub(crate) fn holder(&self, name: &NodeName) -> Option<(ConnId, Incarnation)> {
        self.seats.get(name)?.holding()
    }

    /// Who holds the seats, up or about to be.
    pub(crate) fn held(&self) -> &Held {
        &self.held
    }

    /// A seat may have another holder.
    fn note(&mut self, name: &NodeName) {
        match self.holder(name) {
            Some((_, run)) => drop(self.held.insert(name.clone(), run)),
            None => drop(self.held.remove(name)),
        }
    }

    /// Who is connected and told to the hub.
    pub(crate) fn up(&self) -> impl Iterator<Item = (ConnId, &Node)> {
        self.seats.values().filter_map(|seat| {
            let holder = seat.holder.as_ref().filter(|h| h.up && !h.closing)?;
            Some((holder.claim.conn, &holder.claim.node))
        })
    }

    /// Whether this connection is the one of its pair, and told to the hub.
    #[cfg(test)]
    pub(crate) fn is_up(&self, conn: ConnId) -> bool {
        self.nodes
            .get(&conn)
            .and_then(|node| self.seats.get(&node.name)?.holder.as_ref())
            .is_some_and(|holder| holder.claim.conn == conn && holder.up)
    }

    /// A good hello was read. The junior goes on waiting for `accept`.
    pub(crate) fn hello(
        &mut self,
        conn: ConnId,
        node: Node,
        known: Option<Incarnation>,
    ) -> Vec<Ruling> {
        self.nodes.insert(conn, node.clone());
        if node < self.me {
            return Vec::new();
        }
        let known = known == Some(self.me.incarnation);
        self.claim(Claim { conn, node, known, accept: Accept::default(), ready: false })
    }

    /// The senior chose this connection.
    pub(crate) fn accepted(&mut self, conn: ConnId, accept: Accept) -> Vec<Ruling> {
        let Some(node) = self.nodes.get(&conn).cloned() else { return Vec::new() };
        if self.me < node {
            // A junior has nothing to accept.
            return vec![Ruling::Drop(conn, "protocol")];
        }
        self.claim(Claim { conn, node, known: false, accept, ready: false })
    }

    fn claim(&mut self, claim: Claim) -> Vec<Ruling> {
        let name = claim.node.name.clone();
        self.seats.entry(name.clone()).or_default().queue.push_back(claim);
        self.settle(&name)
    }

    /// The other side's `ready` was read.
    pub(crate) fn ready(&mut self, conn: ConnId) -> Vec<Ruling> {
        let Some(name) = self.nodes.get(&conn).map(|node| node.name.clone()) else {
            return Vec::new();
        };
        let Some(seat) = self.seats.get_mut(&name) else { return Vec::new() };
        if let Some(Contest::Heir(claim)) = &mut seat.contest
            && claim.conn == conn
        {
            claim.ready = true;
            let rulings = evict(seat);
            self.note(&name);
            return rulings;
        }
        match &mut seat.holder {
            Some(holder) if holder.claim.conn == conn && !holder.closing => {
                holder.up = true;
                let mut rulings = vec![Ruling::Up(conn)];
                rulings.extend(self.probed(conn, true));
                rulings
            }
            _ => Vec::new(),
        }
    }

    /// The holder has shown a sign of life, or none.
    pub(crate) fn probed(&mut self, conn: ConnId, alive: bool) -> Vec<Ruling> {
        let Some(name) = self.nodes.get(&conn).map(|node| node.name.clone()) else {
            return Vec::new();
        };
        let Some(seat) = self.seats.get_mut(&name) else { return Vec::new() };
        let Some(holder) = seat.holder.as_mut().filter(|h| h.claim.conn == conn) else {
            return Vec::new();
        };
        let Some(Contest::Doubt(claim)) = seat.contest.take_if(|c| matches!(c, Contest::Doubt(_)))
        else {
            return Vec::new();
        };
        let mut rulings = Vec::new();
        if alive {
            rulings.push(Ruling::NameTaken(claim.conn, holder.claim.node.incarnation));
        } else {
            holder.closing = true;
            rulings.push(Ruling::Drop(conn, "connection lost"));
            seat.queue.push_front(claim);
        }
        rulings.extend(self.settle(&name));
        rulings
    }

    /// The connection has ended; if it was told to the hub, so was its end.
    pub(crate) fn ended(&mut self, conn: ConnId) -> Vec<Ruling> {
        let Some(node) = self.nodes.remove(&conn) else { return Vec::new() };
        let Some(seat) = self.seats.get_mut(&node.name) else { return Vec::new() };
        seat.queue.retain(|claim| claim.conn != conn);
        let contested = match &seat.contest {
            Some(Contest::Doubt(claim) | Contest::Heir(claim)) => claim.conn == conn,
            None => false,
        };
        if contested {
            seat.contest = None;
        }
        let mut rulings = Vec::new();
        if seat.holder.as_ref().is_some_and(|holder| holder.claim.conn == conn) {
            seat.holder = None;
            match seat.contest.take() {
                // Accepted already; it moves up without another word.
                Some(Contest::Heir(claim)) => {
                    if claim.ready {
                        rulings.push(Ruling::Up(claim.conn));
                    }
                    seat.holder = Some(Holder { up: claim.ready, claim, closing: false });
                }
                Some(Contest::Doubt(claim)) => seat.queue.push_front(claim),
                None => {}
            }
        }
        rulings.extend(self.settle(&node.name));
        rulings
    }

    fn settle(&mut self, name: &NodeName) -> Vec<Ruling> {
        let rulings = self.seat(name);
        self.note(name);
        rulings
    }

    /// Seats whom it can of those that wait for a seat.
    fn seat(&mut self, name: &NodeName) -> Vec<Ruling> {
        let Some(seat) = self.seats.get_mut(name) else { return Vec::new() };
        let mut rulings = Vec::new();
        while seat.contest.is_none() && !seat.holder.as_ref().is_some_and(|holder| holder.closing) {
            let Some(claim) = seat.queue.pop_front() else { break };
            let senior = self.me < claim.node;
            let conn = claim.conn;
            let Some(holder) = &mut seat.holder else {
                rulings.push(welcome(senior, conn, false, &mut self.accepts));
                seat.holder = Some(Holder { claim, up: false, closing: false });
                continue;
            };
            match claim.node.incarnation.cmp(&holder.claim.node.incarnation) {
                std::cmp::Ordering::Equal if senior && claim.known => {
                    rulings.push(Ruling::Duplicate(conn));
                }
                std::cmp::Ordering::Equal if senior => {
                    rulings.push(welcome(senior, conn, true, &mut self.accepts));
                    seat.contest = Some(Contest::Heir(claim));
                }
                std::cmp::Ordering::Equal => {
                    let later = claim.accept.number > holder.claim.accept.number;
                    if later && !claim.accept.holds {
                        holder.closing = true;
                        rulings.push(Ruling::Drop(holder.claim.conn, "connection lost"));
                        seat.queue.push_front(claim);
                    } else {
                        rulings.push(Ruling::Duplicate(conn));
                    }
                }
                std::cmp::Ordering::Greater => {
                    // One that is not up yet is judged by its `ready`, which has a deadline.
                    if holder.up {
                        rulings.push(Ruling::Probe(holder.claim.conn));
                    }
                    seat.contest = Some(Contest::Doubt(claim));
                }
                std::cmp::Ordering::Less => {
                    if senior {
                        rulings.push(welcome(senior, conn, true, &mut self.accepts));
                        seat.contest = Some(Contest::Heir(claim));
                    } else {
                        let winner = claim.node.incarnation;
                        holder.closing = true;
                        rulings.push(Ruling::NameTaken(holder.claim.conn, winner));
                        seat.queue.push_front(claim);
                    }
                }
            }
        }
        if seat.holder.is_none() && seat.contest.is_none() && seat.queue.is_empty() {
            self.seats.remove(name);
        }
        rulings
    }
}

fn welcome(senior: bool, conn: ConnId, holds: bool, accepts: &mut u64) -> Ruling {
    if senior {
        *accepts += 1;
        Ruling::Accept(conn, Accept { number: *accepts, holds })
    } else {
        Ruling::Take(conn)
    }
}

/// The heir is alive: the holder must go.
fn evict(seat: &mut Seat) -> Vec<Ruling> {
    let (Some(holder), Some(Contest::Heir(heir))) = (&mut seat.holder, &seat.contest) else {
        return Vec::new();
    };
    if holder.closing {
        return Vec::new();
    }
    holder.closing = true;
    let conn = holder.claim.conn;
    if heir.node.incarnation == holder.claim.node.incarnation {
        vec![Ruling::Drop(conn, "connection lost")]
    } else {
        vec![Ruling::NameTaken(conn, heir.node.incarnation)]
    }
}

#[cfg(test)]
mod tests;
