//! The rules of the roster one by one, and a model of two nodes that draws every interleaving.

use super::*;

fn node(name: &str, incarnation: u64) -> Node {
    Node { name: name.parse().expect("a name"), incarnation: Incarnation(incarnation) }
}

const ONE: ConnId = ConnId(1);
const TWO: ConnId = ConnId(2);

fn number(number: u64) -> Accept {
    Accept { number, holds: false }
}

fn accept(conn: ConnId, n: u64) -> Ruling {
    Ruling::Accept(conn, number(n))
}

fn accept_beside(conn: ConnId, number: u64) -> Ruling {
    Ruling::Accept(conn, Accept { number, holds: true })
}

fn senior() -> Roster {
    Roster::new(node("a@h", 10))
}

fn junior() -> Roster {
    Roster::new(node("z@h", 10))
}

/// A senior with `b@h` of incarnation 5 up on connection one.
fn senior_with_b() -> Roster {
    let mut roster = senior();
    assert_eq!(roster.hello(ONE, node("b@h", 5), None), [accept(ONE, 1)]);
    assert_eq!(roster.ready(ONE), [Ruling::Up(ONE)]);
    roster
}

/// A junior with `b@h` of incarnation 5 up on connection one.
fn junior_with_b() -> Roster {
    let mut roster = junior();
    assert_eq!(roster.hello(ONE, node("b@h", 5), None), []);
    assert_eq!(roster.accepted(ONE, number(1)), [Ruling::Take(ONE)]);
    assert_eq!(roster.ready(ONE), [Ruling::Up(ONE)]);
    roster
}

#[test]
fn the_senior_accepts_and_the_junior_waits() {
    let roster = senior_with_b();
    assert!(roster.is_up(ONE));
    assert_eq!(roster.holder(&node("b@h", 5).name), Some((ONE, Incarnation(5))));
    assert!(junior_with_b().is_up(ONE));
}

#[test]
fn the_junior_refuses_a_second_connection_beside_the_one_that_both_hold() {
    let mut senior = senior_with_b();
    assert_eq!(senior.hello(TWO, node("b@h", 5), None), [accept_beside(TWO, 2)]);
    let mut junior = junior_with_b();
    assert_eq!(junior.hello(TWO, node("b@h", 5), None), []);
    let beside = Accept { number: 2, holds: true };
    assert_eq!(junior.accepted(TWO, beside), [Ruling::Duplicate(TWO)]);
    assert!(senior.ended(TWO).is_empty() && junior.ended(TWO).is_empty());
    assert!(senior.is_up(ONE) && junior.is_up(ONE));
}

#[test]
fn a_junior_that_has_lost_the_one_takes_the_other_and_the_senior_follows() {
    let mut junior = junior_with_b();
    assert!(junior.ended(ONE).is_empty());
    assert_eq!(junior.hello(TWO, node("b@h", 5), None), []);
    assert_eq!(junior.accepted(TWO, Accept { number: 2, holds: true }), [Ruling::Take(TWO)]);
    let mut senior = senior_with_b();
    assert_eq!(senior.hello(TWO, node("b@h", 5), None), [accept_beside(TWO, 2)]);
    assert_eq!(senior.ready(TWO), [Ruling::Drop(ONE, "connection lost")]);
    assert_eq!(senior.ended(ONE), [Ruling::Up(TWO)]);
}

#[test]
fn a_duplicate_that_knows_that_it_is_one_is_refused_at_once() {
    let mut roster = senior_with_b();
    let known = Some(Incarnation(10));
    assert_eq!(roster.hello(TWO, node("b@h", 5), known), [Ruling::Duplicate(TWO)]);
}

#[test]
fn a_dying_accepted_connection_hands_its_seat_to_the_next_at_once() {
    let mut roster = senior();
    assert_eq!(roster.hello(ONE, node("b@h", 5), None), [accept(ONE, 1)]);
    assert_eq!(roster.hello(TWO, node("b@h", 5), None), [accept_beside(TWO, 2)]);
    assert!(roster.ended(ONE).is_empty());
    assert_eq!(roster.ready(TWO), [Ruling::Up(TWO)]);
}

#[test]
fn a_third_waits_until_the_second_is_decided() {
    let mut roster = senior_with_b();
    let three = ConnId(3);
    assert_eq!(roster.hello(TWO, node("b@h", 5), None), [accept_beside(TWO, 2)]);
    assert_eq!(roster.hello(three, node("b@h", 5), None), []);
    assert_eq!(roster.ended(TWO), [accept_beside(three, 3)]);
}

#[test]
fn the_junior_follows_the_latest_accept() {
    let mut roster = junior_with_b();
    assert_eq!(roster.hello(TWO, node("b@h", 5), None), []);
    assert_eq!(roster.accepted(TWO, number(2)), [Ruling::Drop(ONE, "connection lost")]);
    assert_eq!(roster.ended(ONE), [Ruling::Take(TWO)]);
    let three = ConnId(3);
    assert_eq!(roster.hello(three, node("b@h", 5), None), []);
    assert_eq!(roster.accepted(three, number(1)), [Ruling::Duplicate(three)]);
}

#[test]
fn a_younger_run_is_refused_while_the_older_lives() {
    for mut roster in [senior_with_b(), junior_with_b()] {
        let mut rulings = roster.hello(TWO, node("b@h", 6), None);
        rulings.extend(roster.accepted(TWO, number(9)));
        assert_eq!(rulings[0], Ruling::Probe(ONE));
        let rulings = roster.probed(ONE, true);
        assert_eq!(rulings[0], Ruling::NameTaken(TWO, Incarnation(5)));
    }
}

#[test]
fn a_younger_run_replaces_a_silent_older_one() {
    let mut roster = senior_with_b();
    assert_eq!(roster.hello(TWO, node("b@h", 6), None), [Ruling::Probe(ONE)]);
    assert_eq!(roster.probed(ONE, false), [Ruling::Drop(ONE, "connection lost")]);
    assert_eq!(roster.ended(ONE), [accept(TWO, 2)]);
}

#[test]
fn a_younger_run_replaces_a_dead_older_one_at_once() {
    let mut roster = senior_with_b();
    assert_eq!(roster.hello(TWO, node("b@h", 6), None), [Ruling::Probe(ONE)]);
    assert_eq!(roster.ended(ONE), [accept(TWO, 2)]);
    assert!(roster.probed(ONE, false).is_empty());
}

#[test]
fn an_older_run_evicts_a_younger_one_once_it_is_proven_alive() {
    let mut roster = senior_with_b();
    assert_eq!(roster.hello(TWO, node("b@h", 4), None), [accept_beside(TWO, 2)]);
    assert!(roster.is_up(ONE));
    assert_eq!(roster.ready(TWO), [Ruling::NameTaken(ONE, Incarnation(4))]);
    assert_eq!(roster.ended(ONE), [Ruling::Up(TWO)]);
    assert!(roster.is_up(TWO));

    let mut roster = junior_with_b();
    assert_eq!(roster.hello(TWO, node("b@h", 4), None), []);
    assert_eq!(roster.accepted(TWO, number(1)), [Ruling::NameTaken(ONE, Incarnation(4))]);
    assert_eq!(roster.ended(ONE), [Ruling::Take(TWO)]);
}

#[test]
fn an_older_run_that_dies_before_it_is_ready_evicts_nobody() {
    let mut roster = senior_with_b();
    assert_eq!(roster.hello(TWO, node("b@h", 4), None), [accept_beside(TWO, 2)]);
    assert!(roster.ended(TWO).is_empty());
    assert!(roster.is_up(ONE));
}

#[test]
fn an_heir_whose_holder_dies_first_moves_up_with_its_ready() {
    let mut roster = senior_with_b();
    assert_eq!(roster.hello(TWO, node("b@h", 4), None), [accept_beside(TWO, 2)]);
    assert!(roster.ended(ONE).is_empty());
    assert_eq!(roster.ready(TWO), [Ruling::Up(TWO)]);
}

#[test]
fn a_junior_that_accepts_is_dropped() {
    let mut roster = senior();
    assert_eq!(roster.hello(ONE, node("b@h", 5), None), [accept(ONE, 1)]);
    assert_eq!(roster.accepted(ONE, number(9)), [Ruling::Drop(ONE, "protocol")]);
}

#[test]
fn a_seat_that_nobody_wants_takes_no_memory() {
    let mut roster = senior_with_b();
    assert!(roster.ended(ONE).is_empty());
    assert!(roster.seats.is_empty() && roster.nodes.is_empty());
}

/// Two nodes, two or more connections, every interleaving of what is under way that a seed can draw.
///
/// Each connection is a FIFO both ways; the model delivers in random order between connections, breaks some,
/// and then demands that exactly one connection is up at both ends whenever one was left to choose from.
#[test]
fn of_connections_dialled_at_once_one_lives_at_both_ends() {
    for seed in 0..20_000 {
        model::round(seed);
    }
}

mod model {
    use super::*;
    use crate::backoff::Rng;
    use std::collections::BTreeSet;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Wire {
        Hello(Option<Incarnation>),
        Accept(Accept),
        Ready,
        Probe,
        Beat,
        Close,
    }

    struct Side {
        roster: Roster,
        other: Node,
        /// What is under way to this side, per connection.
        inbox: BTreeMap<ConnId, VecDeque<Wire>>,
        open: BTreeSet<ConnId>,
        up: BTreeSet<ConnId>,
        probing: BTreeSet<ConnId>,
    }

    fn side(me: Node, other: Node) -> Side {
        Side {
            roster: Roster::new(me),
            other,
            inbox: BTreeMap::new(),
            open: BTreeSet::new(),
            up: BTreeSet::new(),
            probing: BTreeSet::new(),
        }
    }

    fn dial(sides: &mut [Side; 2], conn: ConnId) {
        for at in [0, 1] {
            sides[at].open.insert(conn);
            let other = sides[at].other.name.clone();
            let known = sides[at].roster.holder(&other).map(|(_, incarnation)| incarnation);
            sides[1 - at].inbox.entry(conn).or_default().push_back(Wire::Hello(known));
        }
    }

    fn act(sides: &mut [Side; 2], at: usize, rulings: Vec<Ruling>) {
        for order in rulings {
            let (conn, wire) = match order {
                Ruling::Accept(conn, accept) => {
                    send(sides, at, conn, Wire::Accept(accept));
                    (conn, Wire::Ready)
                }
                Ruling::Take(conn) => (conn, Wire::Ready),
                Ruling::Up(conn) => {
                    sides[at].up.insert(conn);
                    assert_eq!(sides[at].up.len(), 1, "two connections are up at once");
                    continue;
                }
                Ruling::Probe(conn) => {
                    sides[at].probing.insert(conn);
                    (conn, Wire::Probe)
                }
                Ruling::Duplicate(conn) | Ruling::NameTaken(conn, _) | Ruling::Drop(conn, _) => {
                    close(sides, at, conn);
                    continue;
                }
            };
            send(sides, at, conn, wire);
        }
    }

    fn send(sides: &mut [Side; 2], at: usize, conn: ConnId, wire: Wire) {
        if sides[at].open.contains(&conn) {
            sides[1 - at].inbox.entry(conn).or_default().push_back(wire);
        }
    }

    fn close(sides: &mut [Side; 2], at: usize, conn: ConnId) {
        if sides[at].open.remove(&conn) {
            sides[1 - at].inbox.entry(conn).or_default().push_back(Wire::Close);
            sides[at].inbox.remove(&conn);
            sides[at].up.remove(&conn);
            let rulings = sides[at].roster.ended(conn);
            act(sides, at, rulings);
        }
    }

    fn deliver(sides: &mut [Side; 2], at: usize, conn: ConnId) {
        let Some(wire) = sides[at].inbox.get_mut(&conn).and_then(VecDeque::pop_front) else {
            return;
        };
        if !sides[at].open.contains(&conn) {
            return;
        }
        let rulings = if sides[at].probing.remove(&conn) {
            sides[at].roster.probed(conn, true)
        } else {
            Vec::new()
        };
        act(sides, at, rulings);
        if !sides[at].open.contains(&conn) {
            return;
        }
        let rulings = match wire {
            Wire::Hello(known) => {
                let other = sides[at].other.clone();
                sides[at].roster.hello(conn, other, known)
            }
            Wire::Accept(accept) => sides[at].roster.accepted(conn, accept),
            Wire::Ready => sides[at].roster.ready(conn),
            Wire::Probe => return send(sides, at, conn, Wire::Beat),
            Wire::Beat => return,
            Wire::Close => return close(sides, at, conn),
        };
        act(sides, at, rulings);
    }

    pub(super) fn round(seed: u64) {
        let mut rng = Rng::new(seed);
        let (a, b) = (node("a@h", 7), node("b@h", 3));
        let mut sides = [side(a.clone(), b.clone()), side(b, a)];
        let mut conns = 0;
        let mut breaks = rng.next() % 3;
        loop {
            let ready: Vec<(usize, ConnId)> = [0, 1]
                .into_iter()
                .flat_map(|at| {
                    let inbox = sides[at].inbox.iter();
                    inbox
                        .filter(|(_, q)| !q.is_empty())
                        .map(move |(c, _)| (at, *c))
                        .collect::<Vec<_>>()
                })
                .collect();
            match rng.next() % 8 {
                0 if conns < 4 => {
                    conns += 1;
                    dial(&mut sides, ConnId(conns));
                }
                1 if breaks > 0 && conns > 0 => {
                    breaks -= 1;
                    let conn = ConnId(1 + rng.next() % conns);
                    for at in [0, 1] {
                        // Nothing under way arrives; each side notices in its own time.
                        if sides[at].open.contains(&conn) {
                            sides[at].inbox.insert(conn, VecDeque::from([Wire::Close]));
                        }
                    }
                }
                _ if !ready.is_empty() => {
                    let (at, conn) = ready[usize::try_from(rng.next()).unwrap_or(0) % ready.len()];
                    deliver(&mut sides, at, conn);
                }
                _ if conns == 4 => {
                    if sides[0].up == sides[1].up && sides[0].up.len() == 1 {
                        return;
                    }
                    // Everything broke: a redial must work.
                    assert!(
                        sides[0].open.is_empty() && sides[1].open.is_empty(),
                        "stuck, seed {seed}"
                    );
                    conns += 1;
                    breaks = 0;
                    dial(&mut sides, ConnId(conns));
                }
                _ if conns > 4 => {
                    assert_eq!(sides[0].up, sides[1].up, "seed {seed}");
                    assert_eq!(sides[0].up.len(), 1, "seed {seed}");
                    return;
                }
                _ => {}
            }
        }
    }
}
