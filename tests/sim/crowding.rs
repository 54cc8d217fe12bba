//! More nodes than tell each other everything.

use std::time::Duration;

use pillion::mesh::Remember;

use crate::world::{Setup, World};

/// More than a list is always sent to.
const CROWD: usize = 24;
const SOON: Duration = Duration::from_secs(5);

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("n{n}")).collect()
}

/// Nodes that remember nobody and of which all know one address.
fn crowd(names: &[&str]) -> World {
    let mut world = World::new();
    for name in names {
        let remember = Remember { keep: Duration::ZERO, ..Remember::default() };
        world.start_as(name, Setup { remember, ..Setup::new(name) });
        world.list(name, &names[..1]);
    }
    world
}

#[test]
fn a_crowd_that_has_one_address_between_them_becomes_a_full_mesh() {
    let names = names(CROWD);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut world = crowd(&names);
    world.until("full mesh", SOON, |w| w.is_full(&names));
    world.throughout("full mesh", Duration::from_secs(5), |w| w.is_full(&names));
    for name in &names {
        assert_eq!(world.events(name).len(), CROWD - 1, "{:?}", world.events(name));
    }
}

#[test]
fn two_of_a_crowd_that_were_cut_off_from_each_other_hear_of_each_other_from_the_rest() {
    let names = names(CROWD);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut world = crowd(&names);
    world.until("full mesh", SOON, |w| w.is_full(&names));
    world.pass(Duration::from_secs(3));
    world.partition("n7", "n8");
    let apart = |w: &World| !w.is_joined("n7", "n8") && !w.is_joined("n8", "n7");
    world.until("the loss", Duration::from_secs(10), apart);
    // Longer than what they themselves still know of each other.
    world.pass(Duration::from_secs(75));
    world.heal("n7", "n8");
    world.until("connection", Duration::from_secs(10), |w| w.are_joined("n7", "n8"));
    for name in names.iter().filter(|name| !["n7", "n8"].contains(name)) {
        assert_eq!(world.events(name).len(), CROWD - 1, "{name}: {:?}", world.events(name));
    }
}

#[test]
fn a_member_of_a_crowd_that_dies_is_not_reported_for_ever() {
    let names = names(CROWD);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut world = crowd(&names);
    world.until("full mesh", SOON, |w| w.is_full(&names));
    world.pass(Duration::from_secs(3));
    world.crash("n9");
    let without: Vec<&str> = names.iter().copied().filter(|name| *name != "n9").collect();
    world.until("the loss", Duration::from_secs(10), |w| w.peers("n0").len() == CROWD - 2);
    world.pass(Duration::from_secs(66));
    for name in &without {
        assert!(world.known(name).is_empty(), "{name}: {:?}", world.known(name));
        assert_eq!(world.peers(name).len(), CROWD - 2, "{name}");
    }
}

/// `PILLION_NODES=200 cargo test --test sim -- --nocapture a_crowd_dials` says what more of them do.
#[test]
fn a_crowd_dials_little_more_than_it_needs() {
    let count = std::env::var("PILLION_NODES").ok().and_then(|n| n.parse().ok()).unwrap_or(CROWD);
    let names = names(count);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let needed = count * (count - 1) / 2;
    for (how, known) in [("one address", 1), ("all addresses", count)] {
        let mut world = World::new();
        for name in &names {
            world.start(name);
        }
        for name in &names {
            world.list(name, &names[..known]);
        }
        let began = world.elapsed();
        world.until("full mesh", Duration::from_secs(30), |w| w.is_full(&names));
        let dials: u64 = names.iter().map(|name| world.dials(name)).sum();
        let took = world.since(began);
        println!(
            "{count} nodes that know {how}: full mesh after {took:?}, {dials} dials for {needed} connections"
        );
        // Each its own address, and of two that dial each other at the same moment both.
        let enough = needed as u64 * 7 / 4 + 2 * count as u64;
        assert!(dials <= enough, "{dials} dials for {needed} connections");
    }
}
