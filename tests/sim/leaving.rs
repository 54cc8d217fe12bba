//! Goodbyes, and what is remembered of those who are gone.

use std::time::Duration;

use pillion::mesh::Remember;

use crate::app::Answer;
use crate::world::{Setup, World};

const SOON: Duration = Duration::from_secs(2);

#[test]
fn a_node_that_stops_says_so_and_is_not_dialled_again() {
    let mut world = World::of(&["a", "b", "c"]);
    world.list("b", &["a"]);
    world.list("c", &["a"]);
    world.until("full mesh", SOON, |w| w.is_full(&["a", "b", "c"]));
    // Kubernetes still lists b while it stops.
    let listed = world.sighting("b");
    world.sees("c", vec![listed]);
    let dials = world.dials("c");
    world.leave("b");
    let took = world.until("nodedown", SOON, |w| w.peers("a") == ["c"] && w.peers("c") == ["a"]);
    assert!(took < Duration::from_millis(200), "{took:?}");
    assert_eq!(world.events("a").last().map(String::as_str), Some("down b shutdown"));
    world.pass(Duration::from_secs(30));
    assert_eq!(world.dials("c"), dials);
    assert_eq!(world.known("c")[0].reason.as_deref(), Some("said goodbye: it stopped"));
    assert!(world.known("a").is_empty(), "hearsay of one that said goodbye ends at once");
    // The next run is another matter.
    world.bounce("b");
    world.until("full mesh", SOON, |w| w.is_full(&["a", "b", "c"]));
}

#[test]
fn hearsay_of_the_dead_expires() {
    let mut world = World::new();
    for node in ["a", "b", "c"] {
        // Without a memory of their own they know of c by what they tell each other.
        let remember = Remember { keep: Duration::ZERO, ..Remember::default() };
        world.start_as(node, Setup { remember, ..Setup::new(node) });
    }
    world.list("a", &["b"]);
    world.list("c", &["b"]);
    world.until("full mesh", SOON, |w| w.is_full(&["a", "b", "c"]));
    world.crash("c");
    world.until("nodedown", Duration::from_secs(7), |w| w.peers("a") == ["b"]);
    world.until("memory of c", SOON, |w| w.known("a").len() == 1 && w.known("b").len() == 1);
    let took = world.until("oblivion", Duration::from_secs(70), |w| {
        w.known("a").is_empty() && w.known("b").is_empty()
    });
    assert!(took > Duration::from_secs(50), "{took:?}");
    let dials = world.dials("a");
    world.pass(Duration::from_secs(30));
    assert_eq!(world.dials("a"), dials);
}

#[test]
fn a_disconnect_holds_on_both_sides_until_somebody_asks() {
    for (asker, other) in [("a", "b"), ("b", "a")] {
        let mut world = World::of(&["a", "b", "c"]);
        world.list("a", &["b", "c"]);
        world.list("b", &["a", "c"]);
        world.until("full mesh", SOON, |w| w.is_full(&["a", "b", "c"]));
        let token = world.disconnect(asker, other);
        assert_eq!(world.answered(asker, token), Answer::Result(true));
        world.until("nodedown", SOON, |w| w.peers("a") == ["c"] && w.peers("b") == ["c"]);
        for (node, peer) in [("a", "b"), ("b", "a")] {
            let last = world.events(node).last().cloned();
            assert_eq!(last, Some(format!("down {peer} disconnect")));
        }
        world.throughout("apart", Duration::from_secs(100), |w| {
            w.peers("a") == ["c"] && w.peers("b") == ["c"]
        });
        let token = world.disconnect(asker, other);
        assert_eq!(world.answered(asker, token), Answer::Result(false));
        let token = world.connect(other, &format!("{asker}@sim"));
        assert_eq!(world.answered(other, token), Answer::Result(true));
        world.until("connection", SOON, |w| w.are_joined("a", "b"));
        world.throughout("together", Duration::from_secs(10), |w| w.are_joined("a", "b"));
    }
}

#[test]
fn a_disconnect_ends_with_the_run_of_either() {
    let mut world = World::of(&["a", "b"]);
    world.list("a", &["b"]);
    world.until("connection", SOON, |w| w.are_joined("a", "b"));
    let token = world.disconnect("a", "b");
    assert_eq!(world.answered("a", token), Answer::Result(true));
    world.pass(Duration::from_secs(10));
    world.crash("a");
    world.bounce("a");
    world.until("connection", SOON, |w| w.are_joined("a", "b"));
}

#[test]
fn everybody_may_stop_at_once() {
    let mut world = World::of(&["a", "b", "c"]);
    world.list("b", &["a"]);
    world.list("c", &["a"]);
    world.until("full mesh", SOON, |w| w.is_full(&["a", "b", "c"]));
    for node in ["a", "b", "c"] {
        world.leave(node);
    }
    world.until("the end", Duration::from_secs(4), |w| {
        ["a", "b", "c"].iter().all(|node| w.has_stopped(node))
    });
}

#[test]
fn a_node_that_drains_stays_connected_and_nobody_dials_it_though_it_is_still_listed() {
    let mut world = World::of(&["a", "b", "c"]);
    world.list("b", &["a"]);
    world.list("c", &["a"]);
    world.until("full mesh", SOON, |w| w.is_full(&["a", "b", "c"]));
    let listed = world.sighting("b");
    world.sees("c", vec![listed.clone()]);
    world.drain("b");
    world.throughout("it is there", Duration::from_secs(30), |w| w.is_full(&["a", "b", "c"]));
    // A newcomer that is told of it is turned away in words, and does not try for ever.
    world.start("d");
    let a = world.sighting("a");
    world.sees("d", vec![a, listed]);
    world.until("newcomer", SOON, |w| w.is_full(&["a", "c", "d"]));
    world.until("turned away", SOON, |w| {
        let known = w.known("d");
        known.iter().any(|known| known.reason.as_deref().is_some_and(|why| why.contains("stopped")))
    });
    let dials = world.dials("d");
    world.throughout("alone", Duration::from_secs(60), |w| !w.is_joined("d", "b"));
    assert_eq!(world.dials("d"), dials);
    // It dials nobody itself.
    let (own, new) = (world.dials("b"), world.sighting("d"));
    world.sees("b", vec![new]);
    world.pass(Duration::from_secs(10));
    assert_eq!(world.dials("b"), own);
    let token = world.connect("b", "d@sim");
    assert_eq!(world.answered("b", token), Answer::Error("draining".to_owned()));
    // It is gone without a goodbye: as good as one.
    let dials = world.dials("c");
    world.crash("b");
    world.until("nodedown", Duration::from_secs(7), |w| w.peers("c") == ["a", "d"]);
    world.pass(Duration::from_secs(30));
    assert_eq!(world.dials("c"), dials);
    // The next run is another matter.
    world.bounce("b");
    world.until("full mesh", SOON * 3, |w| w.is_full(&["a", "b", "c", "d"]));
}
