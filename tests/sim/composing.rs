//! Several strategies at once, and all that they can do wrong: the mesh keeps every healthy peer.

use std::time::Duration;

use pillion::mesh::Remember;

use crate::app::text;
use crate::world::{Setup, World, rounds, seed};

const SOON: Duration = Duration::from_secs(2);
const MINUTE: Duration = Duration::from_secs(60);
/// Longer than rumours, tombstones, what lingers and what was learned hold.
const LONG: Duration = Duration::from_secs(11 * 60);
/// The cap of the backoff, a dial that has just begun, and a handshake.
const HEALED: Duration = Duration::from_secs(8);

/// A small generator of its own: what is drawn must not depend on how the code under test draws.
fn draws(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |below| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).expect("31 bits") % below
    }
}

#[test]
fn whatever_strategies_report_a_mesh_keeps_every_healthy_peer() {
    let nodes = ["a", "b", "c", "d"];
    for round in 0..rounds(2).min(50) {
        let mut world = World::with_seed(seed() + round);
        for node in nodes {
            world.start(node);
        }
        world.pass(Duration::from_millis(1));
        let all: Vec<_> = nodes.iter().map(|node| world.sighting(node)).collect();
        for node in nodes {
            world.sees(node, all.clone());
            world.watches(node, all.clone());
        }
        world.until("full mesh", SOON, |w| w.is_full(&nodes));
        let mut draw = draws(world.seed);
        for _ in 0..40 {
            let node = nodes[draw(4)];
            match draw(8) {
                // The source fails, in one way or another; what it saw stays.
                0 => world.is_blind(node, "403 Forbidden: may not list endpointslices"),
                1 => world.is_blind(node, "timed out"),
                // It answers, and nobody is there; or not everybody.
                2 => world.sees(node, Vec::new()),
                3 => world.watches(node, Vec::new()),
                4 => world.sees(node, all[..draw(4)].to_vec()),
                5 => {
                    world.sees(node, Vec::new());
                    world.watches(node, Vec::new());
                }
                // It speaks of runs and nodes that never were, and of addresses where nobody is.
                6 => {
                    let mut wrong = all[draw(4)].clone();
                    wrong.incarnation = wrong.incarnation.map(|i| i + 1);
                    wrong.addresses[0].set_port(9);
                    world.sees(node, vec![wrong]);
                }
                // It recovers.
                _ => world.sees(node, all.clone()),
            }
            let time = Duration::from_millis(u64::try_from(draw(9000)).expect("small"));
            world.throughout("full mesh", time, |w| w.is_full(&nodes));
        }
        // All of them away, for longer than anything lapses but memory.
        for node in nodes {
            world.is_blind(node, "connection refused");
            world.sees(node, Vec::new());
        }
        world.throughout("full mesh", LONG, |w| w.is_full(&nodes));
        for node in nodes {
            let events = world.events(node);
            assert_eq!(events.len(), 3, "seed {}, {node}: {events:?}", world.seed);
        }
    }
}

#[test]
fn links_that_drop_while_strategies_flap_heal_within_the_backoff() {
    let nodes = ["a", "b", "c"];
    for round in 0..rounds(3).min(50) {
        let mut world = World::with_seed(seed() + round);
        for node in nodes {
            world.start(node);
        }
        world.pass(Duration::from_millis(1));
        let all: Vec<_> = nodes.iter().map(|node| world.sighting(node)).collect();
        for node in nodes {
            world.sees(node, all.clone());
        }
        world.until("full mesh", SOON, |w| w.is_full(&nodes));
        let mut draw = draws(world.seed);
        for _ in 0..6 {
            let (i, j) = [(0, 1), (0, 2), (1, 2)][draw(3)];
            world.partition(nodes[i], nodes[j]);
            world.until("nodedown", HEALED, |w| !w.are_joined(nodes[i], nodes[j]));
            // What sees the other side comes and goes, faster than anybody is forgotten.
            for flap in 0..draw(60) {
                let seen = if flap % 2 == 0 { Vec::new() } else { all.clone() };
                world.sees(nodes[i], seen.clone());
                world.sees(nodes[j], seen);
                world.pass(Duration::from_millis(500));
            }
            let dials = world.dials(nodes[i]) + world.dials(nodes[j]);
            world.pass(Duration::from_secs(10));
            let dials = world.dials(nodes[i]) + world.dials(nodes[j]) - dials;
            assert!(dials < 60, "seed {}: {dials} dials in ten seconds", world.seed);
            world.heal(nodes[i], nodes[j]);
            world.until("full mesh", HEALED, |w| w.is_full(&nodes));
        }
    }
}

#[test]
fn peers_that_nobody_reports_any_more_find_each_other_again_after_a_long_cut() {
    let mut world = World::of(&["a", "b"]);
    world.list("b", &["a"]);
    world.until("connection", SOON, |w| w.are_joined("a", "b"));
    // Discovery is gone, and then the network, for much longer than anything lingers.
    world.sees("b", Vec::new());
    world.pass(MINUTE * 3);
    world.partition("a", "b");
    world.until("nodedown", HEALED, |w| w.peers("a").is_empty() && w.peers("b").is_empty());
    world.pass(LONG);
    assert_eq!(world.known("a").len(), 1, "remembered");
    world.heal("a", "b");
    let took = world.until("connection", MINUTE + HEALED, |w| w.are_joined("a", "b"));
    assert!(took <= MINUTE + HEALED, "{took:?}");
}

#[test]
fn a_peer_is_pruned_when_nobody_reports_it_and_it_cannot_be_reached_and_only_then() {
    let mut world = World::new();
    let remember = Remember { prune: Some(MINUTE * 10), ..Remember::default() };
    world.start_as("a", Setup { remember, ..Setup::new("a") });
    world.start("b");
    world.list("a", &["b"]);
    world.until("connection", SOON, |w| w.are_joined("a", "b"));
    // Reachable, and reported by nobody: kept.
    world.sees("a", Vec::new());
    world.throughout("connection", LONG, |w| w.are_joined("a", "b"));
    // Reported, and not reachable: kept.
    world.list("a", &["b"]);
    world.crash("b");
    world.until("nodedown", HEALED, |w| w.peers("a").is_empty());
    world.until("memory of b", SOON, |w| !w.known("a").is_empty());
    world.throughout("b known", LONG, |w| !w.known("a").is_empty());
    // Neither.
    world.sees("a", Vec::new());
    world.throughout("b known", MINUTE * 9, |w| !w.known("a").is_empty());
    world.until("b forgotten", MINUTE * 3, |w| w.known("a").is_empty());
    let dials = world.dials("a");
    world.pass(MINUTE * 3);
    assert_eq!(world.dials("a"), dials, "nobody dials what was pruned");
}

#[test]
fn what_an_earlier_run_remembers_is_tried_before_any_strategy_has_a_word() {
    let mut world = World::of(&["a"]);
    world.pass(Duration::from_millis(1));
    let name = world.node("a").name;
    let past = vec![(name, vec![world.address("a")], MINUTE * 5)];
    let remember = Remember { past, ..Remember::default() };
    world.start_as("b", Setup { remember, ..Setup::new("b") });
    let took = world.until("connection", SOON, |w| w.are_joined("a", "b"));
    assert!(took < Duration::from_millis(500), "{took:?}");
}

#[test]
fn one_that_said_goodbye_is_not_dialled_because_it_is_remembered() {
    let mut world = World::of(&["a", "b"]);
    world.list("b", &["a"]);
    world.until("connection", SOON, |w| w.are_joined("a", "b"));
    world.sees("b", Vec::new());
    world.leave("a");
    world.until("goodbye", SOON, |w| w.peers("b").is_empty());
    world.pass(MINUTE * 2);
    let dials = world.dials("b");
    world.pass(MINUTE * 12);
    assert_eq!(world.dials("b"), dials);
}

#[test]
fn what_was_asked_for_by_disconnect_is_not_undone_by_memory() {
    let mut world = World::of(&["a", "b"]);
    world.list("b", &["a"]);
    world.until("connection", SOON, |w| w.are_joined("a", "b"));
    world.sees("b", Vec::new());
    world.disconnect("b", "a");
    world.until("nodedown", SOON, |w| w.peers("a").is_empty() && w.peers("b").is_empty());
    world.throughout("no connection", MINUTE * 5, |w| w.peers("b").is_empty());
}

#[test]
fn what_a_source_knows_of_a_node_counts_where_the_node_does_not_say_it_itself() {
    let mut world = World::of(&["a", "b", "c"]);
    world.pass(Duration::from_millis(1));
    // c says of itself what its own source knows; a's source knows less and other things.
    world.knows_itself("c", &[("role", "store")]);
    world.list("b", &["a"]);
    world.list("c", &["a"]);
    world.until("connections", SOON, |w| w.are_joined("a", "b") && w.are_joined("a", "c"));
    let wait = |role: &str, timeout_ms: u64| {
        vec![("op", "wait_for".into()), ("role", role.into()), ("timeout_ms", timeout_ms.into())]
    };
    let answer = world.says("a", wait("store", 0));
    assert_eq!(text(&answer, "ev").as_deref(), Some("ok"), "{answer:?}");
    // It is known later than it is connected: whoever waits hears of it.
    let waiting = world.ask("a", wait("worker", 60_000));
    let (mut b, mut c) = (world.sighting("b"), world.sighting("c"));
    for (sighting, role) in [(&mut b, "worker"), (&mut c, "another")] {
        sighting.labels.insert("role".to_owned(), role.to_owned());
    }
    world.watches("a", vec![b, c]);
    world.until("a worker", SOON, |w| w.reply("a", waiting).is_some());
    let answer = world.reply("a", waiting).expect("waited for");
    assert_eq!(text(&answer, "ev").as_deref(), Some("ok"), "{answer:?}");
    let answer = world.says("a", wait("another", 0));
    assert_eq!(
        text(&answer, "code").as_deref(),
        Some("timeout"),
        "c's own word counts: {answer:?}"
    );
}
