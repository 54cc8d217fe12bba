//! How a mesh comes together.

use std::time::Duration;

use crate::app::Answer;
use crate::world::{Setup, World, rounds};

const SOON: Duration = Duration::from_secs(2);

#[test]
fn a_list_on_one_side_is_enough() {
    let mut world = World::of(&["a", "b"]);
    world.list("b", &["a"]);
    world.until("connection", SOON, |w| w.are_joined("a", "b"));
    assert_eq!(world.events("a"), ["up b"]);
    assert_eq!(world.events("b"), ["up a"]);
    world.until("empty list of the unconnected", SOON, |w| w.known("b").is_empty());
}

#[test]
fn whom_my_peer_knows_i_get_to_know() {
    let nodes = ["a", "b", "c", "d", "e"];
    let mut world = World::of(&nodes);
    world.list("a", &["b"]);
    world.list("b", &["c"]);
    world.list("d", &["c"]);
    world.list("e", &["d"]);
    world.until("full mesh", SOON, |w| w.is_full(&nodes));
    world.throughout("full mesh", Duration::from_secs(30), |w| w.is_full(&nodes));
    for node in nodes {
        assert_eq!(world.events(node).len(), 4, "{:?}", world.events(node));
    }
}

#[test]
fn nodes_that_dial_each_other_at_once_share_one_connection() {
    let mut world = World::of(&["a", "b"]);
    world.list("a", &["b"]);
    world.list("b", &["a"]);
    for round in 0..rounds(10_000) {
        world.set_latency(Duration::from_millis(2 + round % 60));
        world.until("connection", SOON, |w| w.are_joined("a", "b"));
        // Whatever was dialled beside it is refused by now.
        world.throughout("connection", Duration::from_millis(300), |w| w.are_joined("a", "b"));
        for (node, up) in [("a", "up b"), ("b", "up a")] {
            assert_eq!(world.events(node), [up], "seed {}, round {round}", world.seed);
        }
        for node in ["a", "b"] {
            world.crash(node);
            world.bounce(node);
        }
    }
}

#[test]
fn a_slow_network_makes_no_difference_to_that() {
    let mut world = World::of(&["a", "b"]);
    world.set_latency(Duration::from_millis(900));
    world.list("a", &["b"]);
    world.list("b", &["a"]);
    for round in 0..rounds(20).min(1000) {
        world.until("connection", 5 * SOON, |w| w.are_joined("a", "b"));
        world.throughout("connection", 3 * SOON, |w| w.are_joined("a", "b"));
        for (node, up) in [("a", "up b"), ("b", "up a")] {
            assert_eq!(world.events(node), [up], "seed {}, round {round}", world.seed);
        }
        for node in ["a", "b"] {
            world.crash(node);
            world.bounce(node);
        }
    }
}

#[test]
fn many_nodes_that_start_at_once_and_all_see_each_other_share_one_connection_each() {
    let nodes = ["a", "b", "c", "d", "e", "f", "g", "h"];
    for round in 0..rounds(3).min(50) {
        let mut world = World::with_seed(crate::world::seed() + round);
        for node in nodes {
            world.start(node);
        }
        world.pass(Duration::from_millis(1));
        let all: Vec<_> = nodes.iter().map(|node| world.sighting(node)).collect();
        for node in nodes {
            world.sees(node, all.clone());
        }
        world.until("full mesh", SOON, |w| w.is_full(&nodes));
        world.throughout("full mesh", Duration::from_secs(10), |w| w.is_full(&nodes));
        for node in nodes {
            assert_eq!(world.events(node).len(), 7, "{:?}", world.events(node));
        }
    }
}

#[test]
fn a_node_does_not_connect_to_itself() {
    let mut world = World::of(&["a", "b"]);
    world.list("a", &["a", "b"]);
    world.until("connection", SOON, |w| w.are_joined("a", "b"));
    let dials = world.dials("a");
    world.pass(Duration::from_secs(50));
    assert_eq!(world.dials("a"), dials, "an address that leads to itself is left alone");
    assert_eq!(world.peers("a"), ["b"]);
    assert!(world.known("a").is_empty());
    world.pass(Duration::from_secs(20));
    assert!(world.dials("a") <= dials + 2, "and looked at again from time to time");
}

#[test]
fn hidden_nodes_are_told_to_nobody_and_follow_no_hearsay() {
    let mut world = World::of(&["a", "b"]);
    world.start_as("h", Setup { hidden: true, ..Setup::new("h") });
    world.list("h", &["a"]);
    world.list("b", &["a"]);
    world.until("both connections", SOON, |w| w.are_joined("a", "h") && w.are_joined("a", "b"));
    world.throughout("no other connection", Duration::from_secs(10), |w| {
        w.peers("h") == ["a"] && w.peers("b") == ["a"]
    });
}

#[test]
fn apps_ask_for_connections() {
    let mut world = World::of(&["a", "b", "c"]);
    world.pass(Duration::from_millis(1));
    let to = world.address("b").to_string();
    let token = world.connect("a", &to);
    assert_eq!(world.answered("a", token), Answer::Result(true));
    assert!(world.are_joined("a", "b"));
    // Again is the same.
    for to in [&to, "b@sim", "a@sim"] {
        let token = world.connect("a", to);
        assert_eq!(world.answered("a", token), Answer::Result(true), "{to}");
    }
    let token = world.connect("a", "c@sim");
    assert_eq!(world.answered("a", token), Answer::Result(false), "nobody ever spoke of c");
    let token = world.connect("a", "x y@sim");
    assert_eq!(world.answered("a", token), Answer::Error("badarg".to_owned()));
    // It leads to itself.
    let token = world.connect("a", &world.address("a").to_string());
    assert_eq!(world.answered("a", token), Answer::Result(true));
}

#[test]
fn a_connect_that_leads_nowhere_ends_and_is_forgotten() {
    let mut world = World::of(&["a", "b"]);
    world.pass(Duration::from_millis(1));
    world.partition("a", "b");
    let token = world.connect("a", &world.address("b").to_string());
    let start = world.elapsed();
    assert_eq!(world.answered("a", token), Answer::Result(false));
    let took = world.since(start);
    assert!(took >= Duration::from_secs(6) && took <= Duration::from_secs(8), "{took:?}");
    world.heal("a", "b");
    world.throughout("no connection", Duration::from_secs(20), |w| w.peers("a").is_empty());
}

#[test]
fn a_connect_that_came_true_is_kept() {
    let mut world = World::of(&["a", "b"]);
    world.pass(Duration::from_millis(1));
    let token = world.connect("a", &world.address("b").to_string());
    assert_eq!(world.answered("a", token), Answer::Result(true));
    world.crash("b");
    world.pass(Duration::from_secs(300));
    world.bounce("b");
    world.until("connection", Duration::from_secs(8), |w| w.are_joined("a", "b"));
}
