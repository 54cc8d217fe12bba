//! Who is dialled, when, and why not.

use super::*;

const ID: [u8; 8] = [1; 8];

fn node(name: &str, incarnation: u64) -> Node {
    Node { name: name.parse().expect("a name"), incarnation: Incarnation(incarnation) }
}

fn at(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 4470))
}

fn wanted() -> Wanted {
    Wanted::new(node("m@h", 100), "default", false, 7)
}

fn sighting(node: Option<(&str, u64)>, addresses: &[SocketAddr]) -> Sighting {
    Sighting {
        node: node.map(|(name, _)| name.to_owned()),
        incarnation: node.map(|(_, incarnation)| incarnation),
        addresses: addresses.to_vec(),
        ..Sighting::default()
    }
}

fn nobody() -> Held {
    Held::new()
}

fn held(nodes: &[(&str, u64)]) -> Held {
    nodes.iter().map(|(n, i)| (node(n, *i).name, Incarnation(*i))).collect()
}

/// Dials and fails the one round that is due; how long until the next.
fn fail(wanted: &mut Wanted, now: Instant, failure: Failure) -> Duration {
    let round = wanted.due(&nobody(), now, 9).remove(0);
    wanted.begun(round.target, ConnId(1));
    assert!(wanted.due(&nobody(), now, 9).is_empty());
    let outcome = Outcome::Failed(failure, "refused".to_owned());
    assert!(wanted.over(round.target, ConnId(1), round.addresses[0], outcome, now).is_some());
    wanted.next_due(&nobody(), now).expect("another try") - now
}

#[test]
fn a_sighting_is_dialled_at_once_at_all_its_addresses() {
    let (mut wanted, now) = (wanted(), Instant::now());
    wanted.report("mdns", vec![sighting(Some(("z@h", 1)), &[at(1), at(2)])]);
    wanted.merge(&[ID], now);
    let rounds = wanted.due(&nobody(), now, 9);
    assert_eq!(rounds.len(), 1);
    assert_eq!(rounds[0].addresses, [at(1), at(2)]);
    assert!(wanted.expects(rounds[0].target, &node("z@h", 1).name));
    assert!(wanted.due(&held(&[("z@h", 1)]), now, 9).is_empty());
}

#[test]
fn a_junior_waits_before_it_dials_a_senior_whose_name_it_knows() {
    let (mut wanted, now) = (wanted(), Instant::now());
    wanted.report("mdns", vec![sighting(Some(("a@h", 1)), &[at(1)])]);
    wanted.merge(&[ID], now);
    assert!(wanted.due(&nobody(), now, 9).is_empty());
    assert_eq!(wanted.next_due(&nobody(), now), Some(now + JUNIOR_WAIT));
    assert_eq!(wanted.due(&nobody(), now + JUNIOR_WAIT, 9).len(), 1);
}

#[test]
fn one_node_seen_by_two_strategies_is_one_target_with_both_sources() {
    let (mut wanted, now) = (wanted(), Instant::now());
    wanted.report("mdns", vec![sighting(Some(("z@h", 1)), &[at(1)])]);
    wanted.report("local", vec![sighting(Some(("z@h", 1)), &[at(2)])]);
    let mut nameless_run = sighting(Some(("z@h", 1)), &[at(3)]);
    nameless_run.incarnation = None;
    wanted.report("kubernetes", vec![nameless_run]);
    wanted.merge(&[ID], now);
    let known = wanted.known(&nobody(), now);
    assert_eq!(known.len(), 1);
    assert_eq!(known[0].sources, ["kubernetes", "local", "mdns"]);
    assert_eq!(known[0].addresses, [at(1), at(2), at(3)]);
}

#[test]
fn a_foreign_mesh_or_cookie_is_listed_and_never_dialled() {
    let (mut wanted, now) = (wanted(), Instant::now());
    let mut mesh = sighting(Some(("y@h", 1)), &[at(1)]);
    mesh.mesh = Some("other".to_owned());
    let mut cookie = sighting(Some(("z@h", 1)), &[at(2)]);
    cookie.ids = vec![[9; 8]];
    wanted.report("mdns", vec![mesh, cookie]);
    wanted.merge(&[ID], now);
    assert!(wanted.due(&nobody(), now, 9).is_empty());
    let known = wanted.known(&nobody(), now);
    assert!(known[0].reason.as_deref().is_some_and(|r| r.contains("mesh `other`")));
    assert!(known[1].reason.as_deref().is_some_and(|r| r.contains("another cookie")));
    // Our cookie file now holds theirs too.
    wanted.merge(&[ID, [9; 8]], now);
    assert_eq!(wanted.due(&nobody(), now, 9).len(), 1);
}

#[test]
fn self_is_skipped_by_identity() {
    let (mut wanted, now) = (wanted(), Instant::now());
    wanted.report("mdns", vec![sighting(Some(("m@h", 100)), &[at(1)])]);
    wanted.report("list", vec![sighting(None, &[at(1)])]);
    wanted.merge(&[ID], now);
    assert_eq!(wanted.due(&nobody(), now, 9).len(), 1);
    wanted.learn(at(1), node("m@h", 100), now);
    assert!(wanted.due(&nobody(), now, 9).is_empty());
    assert!(wanted.known(&nobody(), now).is_empty());
    assert_eq!(wanted.next_due(&nobody(), now), Some(now + SELF_FOR));
    assert_eq!(wanted.due(&nobody(), now + SELF_FOR, 9).len(), 1);
}

#[test]
fn another_run_of_this_nodes_name_is_dialled_to_learn_who_is_older() {
    let (mut wanted, now) = (wanted(), Instant::now());
    wanted.report("mdns", vec![sighting(Some(("m@h", 200)), &[at(1)])]);
    wanted.merge(&[ID], now);
    assert_eq!(wanted.due(&nobody(), now, 9).len(), 1);
}

#[test]
fn an_address_that_leads_to_somebody_connected_is_left_alone() {
    let (mut wanted, now) = (wanted(), Instant::now());
    wanted.report("list", vec![sighting(None, &[at(1), at(2)])]);
    wanted.merge(&[ID], now);
    assert_eq!(wanted.due(&nobody(), now, 9)[0].addresses, [at(1), at(2)]);
    wanted.learn(at(1), node("z@h", 1), now);
    let connected = held(&[("z@h", 1)]);
    assert!(wanted.due(&connected, now, 9).is_empty());
    assert!(wanted.known(&connected, now).is_empty());
    assert_eq!(wanted.due(&held(&[("z@h", 2)]), now, 9).len(), 1);
    assert_eq!(wanted.due(&nobody(), now, 9).len(), 1);
}

#[test]
fn failures_back_off_and_a_fresh_sighting_resets_them() {
    let (mut wanted, mut now) = (wanted(), Instant::now());
    wanted.report("mdns", vec![sighting(Some(("z@h", 1)), &[at(1)])]);
    wanted.merge(&[ID], now);
    let mut last = Duration::ZERO;
    for _ in 0..20 {
        last = fail(&mut wanted, now, Failure::Passing);
        now += last;
    }
    assert!(last >= PASSING.cap / 2);
    last = fail(&mut wanted, now, Failure::Cause);
    assert!(last >= CAUSE.cap / 2);
    wanted.merge(&[ID], now);
    assert!(wanted.due(&nobody(), now, 9).is_empty());
    wanted.report("mdns", vec![sighting(Some(("z@h", 1)), &[at(1), at(2)])]);
    wanted.merge(&[ID], now);
    assert_eq!(wanted.due(&nobody(), now, 9).len(), 1);
    wanted.report("mdns", vec![sighting(Some(("z@h", 2)), &[at(1)])]);
    wanted.merge(&[ID], now);
    assert!(fail(&mut wanted, now, Failure::Passing) < Duration::from_millis(6));
}

#[test]
fn absence_forgets_a_target_only_once_nothing_is_under_way() {
    let (mut wanted, now) = (wanted(), Instant::now());
    wanted.report("mdns", vec![sighting(Some(("z@h", 1)), &[at(1)])]);
    wanted.merge(&[ID], now);
    let round = wanted.due(&nobody(), now, 9).remove(0);
    wanted.begun(round.target, ConnId(1));
    wanted.report("mdns", Vec::new());
    wanted.merge(&[ID], now);
    assert!(wanted.known(&nobody(), now).is_empty());
    wanted.over(round.target, ConnId(1), at(1), Outcome::Superfluous, now);
    wanted.merge(&[ID], now);
    assert!(wanted.targets.is_empty());
}

#[test]
fn an_explicit_disconnect_holds_until_somebody_asks_or_a_later_run_shows_up() {
    let (mut wanted, now) = (wanted(), Instant::now());
    wanted.report("mdns", vec![sighting(Some(("z@h", 1)), &[at(1)])]);
    wanted.report("list", vec![sighting(None, &[at(1)])]);
    wanted.learn(at(1), node("z@h", 1), now);
    wanted.part(&node("z@h", 1), now);
    wanted.merge(&[ID], now);
    assert!(wanted.due(&nobody(), now, 9).is_empty());
    assert_eq!(wanted.known(&nobody(), now).len(), 2);
    assert!(wanted.ask_name(&node("z@h", 1).name));
    wanted.merge(&[ID], now);
    wanted.hurry(now);
    assert_eq!(wanted.due(&nobody(), now, 9).len(), 2);
    wanted.part(&node("z@h", 1), now);
    wanted.unask_name(&node("z@h", 1).name);
    wanted.report("mdns", vec![sighting(Some(("z@h", 2)), &[at(1)])]);
    wanted.report("list", Vec::new());
    wanted.learn(at(1), node("z@h", 2), now);
    wanted.merge(&[ID], now);
    assert_eq!(wanted.due(&nobody(), now, 9).len(), 1);
}

#[test]
fn one_that_said_goodbye_is_not_dialled_though_it_is_still_listed() {
    let (mut wanted, now) = (wanted(), Instant::now());
    wanted.report("kubernetes", vec![sighting(Some(("z@h", 1)), &[at(1)])]);
    wanted.merge(&[ID], now);
    wanted.hearsay.goodbye(&node("z@h", 1), now);
    assert!(wanted.due(&nobody(), now, 9).is_empty());
    let known = wanted.known(&nobody(), now);
    assert_eq!(known[0].reason.as_deref(), Some("said goodbye: it stopped"));
}

#[test]
fn nobody_can_ask_for_a_name_that_nobody_spoke_of() {
    let (mut wanted, now) = (wanted(), Instant::now());
    assert!(!wanted.ask_name(&node("z@h", 1).name));
    wanted.hearsay.told(&node("t@h", 1).name, [(node("z@h", 1), vec![at(1)])], now);
    wanted.merge(&[ID], now);
    assert!(wanted.ask_name(&node("z@h", 1).name));
}

#[test]
fn a_hidden_node_does_not_act_on_hearsay() {
    let now = Instant::now();
    let mut wanted = Wanted::new(node("m@h", 100), "default", true, 7);
    wanted.hearsay.told(&node("t@h", 1).name, [(node("z@h", 1), vec![at(1)])], now);
    wanted.merge(&[ID], now);
    assert!(wanted.due(&nobody(), now, 9).is_empty());
}

#[test]
fn a_round_that_fails_differently_each_time_gives_one_sorted_reason() {
    let (mut wanted, now) = (wanted(), Instant::now());
    wanted.report("list", vec![sighting(None, &[at(1), at(2)])]);
    wanted.merge(&[ID], now);
    let round = wanted.due(&nobody(), now, 9).remove(0);
    wanted.begun(round.target, ConnId(1));
    wanted.begun(round.target, ConnId(2));
    let failed = |why: &str| Outcome::Failed(Failure::Passing, why.to_owned());
    assert_eq!(wanted.over(round.target, ConnId(2), at(2), failed("no answer"), now), None);
    let (subject, reason) =
        wanted.over(round.target, ConnId(1), at(1), failed("refused"), now).expect("the end");
    assert_eq!(subject, "10.0.0.1:4470, 10.0.0.2:4470");
    assert_eq!(reason, "10.0.0.1:4470 refused; 10.0.0.2:4470 no answer");
}

#[test]
fn the_dead_do_not_starve_the_living() {
    let (mut wanted, mut now) = (wanted(), Instant::now());
    let many = (0..1000).map(|i| sighting(Some((&format!("n{i:04}@h"), 1)), &[at(1)])).collect();
    wanted.report("list", many);
    wanted.merge(&[ID], now);
    let mut dialled = BTreeSet::new();
    for conn in 0..400 {
        for round in wanted.due(&nobody(), now, 10) {
            dialled.insert(round.target);
            wanted.begun(round.target, ConnId(conn));
            let outcome = Outcome::Failed(Failure::Passing, "dead".to_owned());
            wanted.over(round.target, ConnId(conn), at(1), outcome, now);
        }
        now += Duration::from_millis(50);
    }
    assert_eq!(dialled.len(), 1000);
}

#[test]
fn targets_are_bounded() {
    let (mut wanted, now) = (wanted(), Instant::now());
    let many = (0..5000).map(|i| sighting(Some((&format!("n{i}@h"), 1)), &[at(1)])).collect();
    wanted.report("list", many);
    wanted.merge(&[ID], now);
    assert_eq!(wanted.targets.len(), TARGETS_MAX);
}
