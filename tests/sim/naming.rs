//! Two nodes of one name: of two that live the older wins, at every observer.

use std::time::Duration;

use crate::world::{Setup, World};

const SOON: Duration = Duration::from_secs(2);

/// `old` and `new` are both called `x`; `c` and `d` observe.
fn world() -> World {
    let mut world = World::of(&["c", "d"]);
    world.start_as("old", Setup::new("x"));
    world.pass(Duration::from_millis(50));
    world.start_as("new", Setup::new("x"));
    world.pass(Duration::from_millis(50));
    assert!(world.node("old").incarnation < world.node("new").incarnation);
    world.list("c", &["d"]);
    world
}

#[test]
fn the_younger_is_refused_everywhere_while_the_older_lives() {
    let mut world = world();
    world.list("old", &["c", "d"]);
    world.until("connection", SOON, |w| w.are_joined("old", "c") && w.are_joined("old", "d"));
    world.list("new", &["c", "d"]);
    world.throughout("the older", Duration::from_secs(60), |w| {
        w.are_joined("old", "c") && w.are_joined("old", "d") && w.peers("new").is_empty()
    });
    assert_eq!(world.events("c").iter().filter(|e| e.contains(" x")).count(), 1);
    let known = world.known("new");
    assert!(
        known.iter().all(|k| k.reason.as_deref().is_some_and(|r| r.contains("--name"))),
        "{known:?}"
    );
}

#[test]
fn the_older_evicts_a_younger_one_that_came_first() {
    let mut world = world();
    world.list("new", &["c", "d"]);
    world.until("connection", SOON, |w| w.are_joined("new", "c") && w.are_joined("new", "d"));
    world.list("old", &["c", "d"]);
    world.until("eviction", SOON, |w| {
        w.are_joined("old", "c") && w.are_joined("old", "d") && w.peers("new").is_empty()
    });
    world.throughout("the older", Duration::from_secs(60), |w| {
        w.are_joined("old", "c") && w.are_joined("old", "d") && w.peers("new").is_empty()
    });
    assert_eq!(
        world.events("c").iter().filter(|e| e.contains(" x")).collect::<Vec<_>>(),
        ["up x", "down x name_taken", "up x"]
    );
}

#[test]
fn two_halves_that_each_have_one_agree_when_they_meet() {
    let mut world = world();
    for (a, b) in [("c", "d"), ("old", "new"), ("old", "d"), ("new", "c")] {
        world.partition(a, b);
    }
    world.list("old", &["c", "d"]);
    world.list("new", &["c", "d"]);
    world.until("halves", SOON, |w| w.are_joined("old", "c") && w.are_joined("new", "d"));
    world.pass(Duration::from_secs(20));
    for (a, b) in [("c", "d"), ("old", "new"), ("old", "d"), ("new", "c")] {
        world.heal(a, b);
    }
    world.until("agreement", Duration::from_secs(15), |w| {
        w.is_full(&["old", "c", "d"]) && w.peers("new").is_empty()
    });
    world.throughout("agreement", Duration::from_secs(60), |w| w.is_full(&["old", "c", "d"]));
}

#[test]
fn the_younger_takes_over_when_the_older_dies() {
    let mut world = world();
    world.list("old", &["c"]);
    world.until("connection", SOON, |w| w.are_joined("old", "c"));
    world.list("new", &["c"]);
    world.pass(Duration::from_secs(3));
    assert!(world.peers("new").is_empty());
    // Silent, not closed: the probe finds out before the failure detector does.
    world.partition("old", "c");
    world.until("succession", Duration::from_secs(31), |w| w.are_joined("new", "c"));
}

#[test]
fn two_that_see_only_each_other_stay_apart() {
    let mut world = world();
    world.list("old", &["new"]);
    world.list("new", &["old"]);
    world.throughout("apart", Duration::from_secs(60), |w| {
        w.peers("old").is_empty() && w.peers("new").is_empty()
    });
    let known = world.known("new");
    assert!(known[0].reason.as_deref().is_some_and(|r| r.contains("--name")), "{known:?}");
    assert!(world.dials("new") < 20, "{} dials", world.dials("new"));
}
