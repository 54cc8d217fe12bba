//! What goes wrong by itself, and that it heals by itself.

use std::time::Duration;

use crate::world::{Setup, World, rounds, seed};
use pillion::mesh::Profile;

const SOON: Duration = Duration::from_secs(2);
/// The backoff's cap, a dial that has just begun, and a handshake.
const HEALED: Duration = Duration::from_secs(8);

#[test]
fn a_partition_is_noticed_and_heals() {
    let mut world = World::of(&["a", "b"]);
    world.list("b", &["a"]);
    world.until("connection", SOON, |w| w.are_joined("a", "b"));
    for _ in 0..3 {
        world.partition("a", "b");
        let took = world.until("nodedown", Duration::from_secs(7), |w| {
            w.peers("a").is_empty() && w.peers("b").is_empty()
        });
        assert!(took > Duration::from_secs(4), "{took:?}");
        assert_eq!(world.events("a").last().map(String::as_str), Some("down b silent for 5 s"));
        world.pass(Duration::from_secs(40));
        world.heal("a", "b");
        world.until("connection", HEALED, |w| w.are_joined("a", "b"));
    }
}

#[test]
fn each_profile_has_its_own_patience() {
    for (profile, seconds) in [(Profile::Local, 2), (Profile::Lan, 5), (Profile::Wan, 15)] {
        let mut world = World::with_seed(seed());
        world.start_as("a", Setup { profile, ..Setup::new("a") });
        world.start_as("b", Setup { profile, ..Setup::new("b") });
        world.list("b", &["a"]);
        world.until("connection", SOON, |w| w.are_joined("a", "b"));
        world.throughout("connection", Duration::from_secs(60), |w| w.are_joined("a", "b"));
        world.partition("a", "b");
        let limit = Duration::from_secs(seconds);
        let took = world.until("nodedown", limit * 2, |w| w.peers("a").is_empty());
        assert!(took + Duration::from_millis(1100) > limit, "{profile:?} {took:?}");
        assert!(took < limit + Duration::from_millis(500), "{profile:?} {took:?}");
    }
}

#[test]
fn a_crash_is_noticed_and_the_next_run_is_back_at_once() {
    let mut world = World::of(&["a", "b", "c"]);
    world.list("b", &["a"]);
    world.list("c", &["a"]);
    world.until("full mesh", SOON, |w| w.is_full(&["a", "b", "c"]));
    world.crash("b");
    world.pass(Duration::from_millis(100));
    world.bounce("b");
    // Nobody waits for the old one to be silent for 5 s: the new one makes them ask.
    world.until("full mesh", SOON, |w| w.is_full(&["a", "b", "c"]));
    for node in ["a", "c"] {
        let events = world.events(node);
        let about_b: Vec<&String> = events.iter().filter(|e| e.contains(" b")).collect();
        assert_eq!(about_b, ["up b", "down b connection lost", "up b"], "{node}: {events:?}");
    }
}

#[test]
fn a_restart_behind_a_cut_that_swallowed_the_end_is_back_at_once() {
    let mut world = World::of(&["a", "b"]);
    world.list("b", &["a"]);
    world.until("connection", SOON, |w| w.are_joined("a", "b"));
    world.partition("a", "b");
    world.crash("b");
    world.pass(Duration::from_millis(100));
    world.heal("a", "b");
    world.bounce("b");
    let took = world.until("connection", SOON, |w| w.are_joined("a", "b"));
    assert!(took < Duration::from_millis(1500), "{took:?}");
    assert_eq!(world.events("a"), ["up b", "down b connection lost", "up b"]);
}

#[test]
fn a_half_open_connection_does_not_keep_the_same_run_out() {
    // b gives up on a first, because only it hears nothing; its goodbye to the connection never arrives.
    for (deaf, other) in [("a", "b"), ("b", "a")] {
        let mut world = World::of(&["a", "b"]);
        world.list("a", &["b"]);
        world.list("b", &["a"]);
        world.until("connection", SOON, |w| w.are_joined("a", "b"));
        world.cut(other, deaf);
        world.until("nodedown", HEALED, |w| w.peers(deaf).is_empty());
        world.heal("a", "b");
        world.until("connection", HEALED, |w| w.are_joined("a", "b"));
        world.throughout("connection", Duration::from_secs(20), |w| w.are_joined("a", "b"));
    }
}

#[test]
fn a_cut_between_two_does_not_cascade() {
    let nodes = ["a", "b", "c", "d"];
    let mut world = World::of(&nodes);
    for node in ["a", "b", "d"] {
        world.list(node, &["c"]);
    }
    world.until("full mesh", SOON, |w| w.is_full(&nodes));
    world.partition("a", "b");
    world.until("nodedown", HEALED, |w| w.peers("a") == ["c", "d"] && w.peers("b") == ["c", "d"]);
    world.throughout("the rest", Duration::from_secs(120), |w| {
        w.is_full(&["a", "c", "d"]) && w.is_full(&["b", "c", "d"])
    });
    for node in ["c", "d"] {
        assert_eq!(world.events(node).len(), 3, "{:?}", world.events(node));
    }
    // The peers still speak of them, so they keep trying.
    world.heal("a", "b");
    world.until("full mesh", HEALED, |w| w.is_full(&nodes));
}

#[test]
fn a_one_way_cut_between_two_parts_these_two_and_nobody_else() {
    let nodes = ["a", "b", "c"];
    let mut world = World::of(&nodes);
    for node in ["a", "b"] {
        world.list(node, &["c"]);
    }
    world.until("full mesh", SOON, |w| w.is_full(&nodes));
    // What a says does not reach b; what b says reaches a.
    world.cut("a", "b");
    world.until("nodedown", HEALED, |w| w.peers("a") == ["c"] && w.peers("b") == ["c"]);
    world.throughout("the rest", Duration::from_secs(60), |w| {
        w.is_full(&["a", "c"]) && w.is_full(&["b", "c"])
    });
    assert_eq!(world.events("c").len(), 2, "{:?}", world.events("c"));
    world.heal("a", "b");
    world.until("full mesh", HEALED, |w| w.is_full(&nodes));
}

#[test]
fn a_strategy_that_sees_nobody_any_more_cuts_nothing() {
    let mut world = World::of(&["a", "b"]);
    world.list("b", &["a"]);
    world.until("connection", SOON, |w| w.are_joined("a", "b"));
    world.sees("b", Vec::new());
    world.throughout("connection", Duration::from_secs(120), |w| w.are_joined("a", "b"));
}

#[test]
fn a_dead_peer_is_dialled_ever_less_often_and_at_once_when_it_is_seen_anew() {
    let mut world = World::of(&["a", "b"]);
    world.pass(Duration::from_millis(1));
    let mut nobody = world.sighting("b");
    (nobody.node, nobody.incarnation, nobody.addresses[0]) =
        (None, None, (nobody.addresses[0].ip(), 9).into());
    world.sees("a", vec![nobody]);
    world.pass(Duration::from_secs(1));
    let first = world.dials("a");
    assert!((5..=12).contains(&first), "{first} dials in the first second");
    world.pass(Duration::from_secs(60));
    let then = world.dials("a");
    world.pass(Duration::from_secs(60));
    let last = world.dials("a") - then;
    assert!((10..=26).contains(&last), "{last} dials in a minute");
    assert!(world.known("a")[0].reason.is_some());
    let fresh = world.sighting("b");
    world.sees("a", vec![fresh]);
    let took = world.until("connection", SOON, |w| w.are_joined("a", "b"));
    assert!(took < Duration::from_millis(500), "{took:?}");
}

#[test]
fn whatever_breaks_and_restarts_the_mesh_comes_back() {
    let nodes = ["a", "b", "c", "d"];
    for round in 0..rounds(3).min(100) {
        let mut world = World::with_seed(seed() + round);
        for node in nodes {
            world.start(node);
        }
        world.list("b", &["a"]);
        world.list("c", &["a", "b"]);
        world.list("d", &["c"]);
        // A small generator of its own: what is drawn must not depend on how the code under test draws.
        let mut state = world.seed;
        let mut draw = move |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).expect("31 bits") % below
        };
        let mut down = [false; 4];
        for _ in 0..30 {
            let (i, j) = (draw(4), draw(4));
            match draw(6) {
                0 if i != j => world.partition(nodes[i], nodes[j]),
                1 if i != j => world.cut(nodes[i], nodes[j]),
                2 | 3 if i != j => world.heal(nodes[i], nodes[j]),
                4 if !down[i] => {
                    world.crash(nodes[i]);
                    down[i] = true;
                }
                _ if down[i] => {
                    world.bounce(nodes[i]);
                    down[i] = false;
                }
                _ => {}
            }
            world.pass(Duration::from_millis(u64::try_from(draw(4000)).expect("small")));
        }
        for i in 0..4 {
            for j in 0..i {
                world.heal(nodes[i], nodes[j]);
            }
            if down[i] {
                world.bounce(nodes[i]);
            }
        }
        // The simulated TCP does not send again: a connection that has lost a segment is dead, and found out.
        world.pass(Duration::from_secs(7));
        world.until("full mesh", Duration::from_secs(20), |w| w.is_full(&nodes));
        world.throughout("full mesh", Duration::from_secs(60), |w| w.is_full(&nodes));
    }
}
