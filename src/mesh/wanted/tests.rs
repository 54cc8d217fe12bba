//! Who is dialled, when, and why not.

use pillion_strategies::Health;

use super::owners::{BELIEVED_FOR, SELF_FOR};
use super::*;
use crate::mesh::sources::LINGER;

const ID: [u8; 8] = [1; 8];

fn node(name: &str, incarnation: u64) -> Node {
    Node { name: name.parse().expect("a name"), incarnation: Incarnation(incarnation) }
}

fn at(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 4470))
}

fn wanted() -> Wanted {
    Wanted::new(node("m@h", 100), "default", false, Remember::default(), 7, Instant::now())
}

fn sighting(node: Option<(&str, u64)>, addresses: &[SocketAddr]) -> Sighting {
    Sighting {
        node: node.map(|(name, _)| name.to_owned()),
        incarnation: node.map(|(_, incarnation)| incarnation),
        addresses: addresses.to_vec(),
        ..Sighting::default()
    }
}

/// A strategy reports these, and is well.
fn see(wanted: &mut Wanted, strategy: &str, sightings: Vec<Sighting>, now: Instant) {
    wanted.report(strategy, Report { sightings, health: Health::Well, ..Report::default() }, now);
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
    wanted.begun(round.target, ConnId(1), round.addresses[0]);
    assert!(wanted.due(&nobody(), now, 9).is_empty());
    let outcome = Outcome::Failed(failure, "refused".to_owned());
    assert!(wanted.over(round.target, ConnId(1), round.addresses[0], outcome, now).is_some());
    wanted.next_due(&nobody(), now).expect("another try") - now
}

#[test]
fn a_sighting_is_dialled_at_once_at_all_its_addresses() {
    let (mut wanted, now) = (wanted(), Instant::now());
    see(&mut wanted, "mdns", vec![sighting(Some(("z@h", 1)), &[at(1), at(2)])], now);
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
    see(&mut wanted, "mdns", vec![sighting(Some(("a@h", 1)), &[at(1)])], now);
    wanted.merge(&[ID], now);
    assert!(wanted.due(&nobody(), now, 9).is_empty());
    assert_eq!(wanted.next_due(&nobody(), now), Some(now + JUNIOR_WAIT));
    assert_eq!(wanted.due(&nobody(), now + JUNIOR_WAIT, 9).len(), 1);
}

#[test]
fn one_node_seen_by_two_strategies_is_one_target_with_both_sources() {
    let (mut wanted, now) = (wanted(), Instant::now());
    see(&mut wanted, "mdns", vec![sighting(Some(("z@h", 1)), &[at(1)])], now);
    see(&mut wanted, "local", vec![sighting(Some(("z@h", 1)), &[at(2)])], now);
    let mut nameless_run = sighting(Some(("z@h", 1)), &[at(3)]);
    nameless_run.incarnation = None;
    see(&mut wanted, "kubernetes", vec![nameless_run], now);
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
    see(&mut wanted, "mdns", vec![mesh, cookie], now);
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
    see(&mut wanted, "mdns", vec![sighting(Some(("m@h", 100)), &[at(1)])], now);
    see(&mut wanted, "list", vec![sighting(None, &[at(1)])], now);
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
    see(&mut wanted, "mdns", vec![sighting(Some(("m@h", 200)), &[at(1)])], now);
    wanted.merge(&[ID], now);
    assert_eq!(wanted.due(&nobody(), now, 9).len(), 1);
}

#[test]
fn an_address_that_leads_to_somebody_connected_is_left_alone() {
    let (mut wanted, now) = (wanted(), Instant::now());
    see(&mut wanted, "list", vec![sighting(None, &[at(1), at(2)])], now);
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
fn an_address_that_a_peer_names_is_not_dialled_if_it_is_seen_there() {
    let (mut wanted, now) = (wanted(), Instant::now());
    let list = (1..=3).map(|last| sighting(None, &[at(last)])).collect();
    see(&mut wanted, "list", list, now);
    wanted.merge(&[ID], now);
    let (z, y) = (node("z@h", 1), node("y@h", 1));
    wanted.meets(&z, &[at(1), at(2)], at(1).ip(), None, &nobody(), now);
    let dialled = |wanted: &Wanted, held: &Held, now| -> BTreeSet<SocketAddr> {
        wanted.due(held, now, 9).into_iter().flat_map(|round| round.addresses).collect()
    };
    let others = BTreeSet::from([at(2), at(3)]);
    assert_eq!(dialled(&wanted, &nobody(), now), others, "the connection is not decided on yet");
    wanted.met(&z);
    let connected = held(&[("z@h", 1), ("y@h", 1)]);
    assert_eq!(dialled(&wanted, &connected, now), others);
    // Another one that claims to be there too is not believed.
    wanted.meets(&y, &[at(1)], at(1).ip(), None, &connected, now);
    assert_eq!(wanted.owner(&at(1)), Some(&z));
    wanted.met(&y);
    assert_eq!(dialled(&wanted, &nobody(), now).len(), 3, "it is gone");
    assert_eq!(dialled(&wanted, &connected, now + BELIEVED_FOR).len(), 3, "it may be mistaken");
    // It answers there: that is believed for longer.
    wanted.learn(at(1), z.clone(), now + BELIEVED_FOR);
    wanted.meets(&z, &[at(1)], at(1).ip(), Some(at(1)), &connected, now + BELIEVED_FOR);
    wanted.met(&z);
    assert_eq!(dialled(&wanted, &connected, now + BELIEVED_FOR * 3), others);
}

#[test]
fn an_address_is_dialled_once_at_a_time() {
    let (mut wanted, now) = (wanted(), Instant::now());
    let both = vec![sighting(None, &[at(1)]), sighting(None, &[at(1), at(2)])];
    see(&mut wanted, "list", both, now);
    wanted.merge(&[ID], now);
    let rounds = wanted.due(&nobody(), now, 9);
    let dialled: Vec<SocketAddr> = rounds.iter().flat_map(|r| r.addresses.clone()).collect();
    assert_eq!(dialled.len(), 2, "{dialled:?}");
    for (conn, round) in (1..).zip(&rounds) {
        for address in &round.addresses {
            wanted.begun(round.target, ConnId(conn), *address);
        }
    }
    assert!(wanted.due(&nobody(), now, 9).is_empty());
}

#[test]
fn a_node_that_is_being_met_keeps_nobody_from_an_address_that_it_is_said_to_have() {
    let (mut wanted, now) = (wanted(), Instant::now());
    let both = vec![sighting(Some(("z@h", 1)), &[at(1)]), sighting(None, &[at(1)])];
    see(&mut wanted, "list", both, now);
    wanted.merge(&[ID], now);
    // The one that is met is looked at first.
    for (key, target) in &mut wanted.targets {
        target.lot = u64::from(matches!(key, Key::Addresses(_)));
    }
    // It comes from somewhere else.
    wanted.meets(&node("z@h", 1), &[], at(9).ip(), None, &nobody(), now);
    let rounds = wanted.due(&nobody(), now, 9);
    assert_eq!(rounds.len(), 1, "else the other target is due at once, again and again");
    wanted.begun(rounds[0].target, ConnId(1), at(1));
    assert!(wanted.due(&nobody(), now, 9).is_empty());
    assert_eq!(wanted.next_due(&nobody(), now), None);
}

#[test]
fn failures_back_off_and_a_fresh_sighting_resets_them() {
    let (mut wanted, mut now) = (wanted(), Instant::now());
    see(&mut wanted, "mdns", vec![sighting(Some(("z@h", 1)), &[at(1)])], now);
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
    see(&mut wanted, "mdns", vec![sighting(Some(("z@h", 1)), &[at(1), at(2)])], now);
    wanted.merge(&[ID], now);
    assert_eq!(wanted.due(&nobody(), now, 9).len(), 1);
    see(&mut wanted, "mdns", vec![sighting(Some(("z@h", 2)), &[at(1)])], now);
    wanted.merge(&[ID], now);
    assert!(fail(&mut wanted, now, Failure::Passing) < Duration::from_millis(6));
}

#[test]
fn absence_forgets_a_target_after_a_minute_and_only_once_nothing_is_under_way() {
    let (mut wanted, mut now) = (wanted(), Instant::now());
    see(&mut wanted, "mdns", vec![sighting(Some(("z@h", 1)), &[at(1)])], now);
    wanted.merge(&[ID], now);
    let round = wanted.due(&nobody(), now, 9).remove(0);
    wanted.begun(round.target, ConnId(1), round.addresses[0]);
    see(&mut wanted, "mdns", Vec::new(), now);
    wanted.merge(&[ID], now);
    assert_eq!(wanted.known(&nobody(), now).len(), 1, "a flicker forgets nobody");
    now += LINGER;
    assert_eq!(wanted.next_expiry(), Some(now));
    wanted.expire(now);
    wanted.merge(&[ID], now);
    assert!(wanted.known(&nobody(), now).is_empty());
    wanted.over(round.target, ConnId(1), at(1), Outcome::Superfluous, now);
    wanted.merge(&[ID], now);
    assert!(wanted.targets.is_empty());
}

#[test]
fn an_explicit_disconnect_holds_until_somebody_asks_or_a_later_run_shows_up() {
    let (mut wanted, now) = (wanted(), Instant::now());
    see(&mut wanted, "mdns", vec![sighting(Some(("z@h", 1)), &[at(1)])], now);
    see(&mut wanted, "list", vec![sighting(None, &[at(1)])], now);
    wanted.learn(at(1), node("z@h", 1), now);
    wanted.part(&node("z@h", 1), now);
    wanted.merge(&[ID], now);
    assert!(wanted.due(&nobody(), now, 9).is_empty());
    assert_eq!(wanted.known(&nobody(), now).len(), 2);
    assert!(wanted.ask_name(&node("z@h", 1).name, now));
    wanted.merge(&[ID], now);
    wanted.hurry(now);
    assert_eq!(wanted.due(&nobody(), now, 9).len(), 1, "two targets, one address");
    wanted.part(&node("z@h", 1), now);
    wanted.unask_name(&node("z@h", 1).name);
    see(&mut wanted, "mdns", vec![sighting(Some(("z@h", 2)), &[at(1)])], now);
    see(&mut wanted, "list", Vec::new(), now);
    wanted.learn(at(1), node("z@h", 2), now);
    wanted.merge(&[ID], now);
    assert_eq!(wanted.due(&nobody(), now, 9).len(), 1);
}

#[test]
fn one_that_said_goodbye_is_not_dialled_though_it_is_still_listed() {
    let (mut wanted, now) = (wanted(), Instant::now());
    see(&mut wanted, "kubernetes", vec![sighting(Some(("z@h", 1)), &[at(1)])], now);
    wanted.merge(&[ID], now);
    wanted.hearsay.goodbye(&node("z@h", 1), now);
    assert!(wanted.due(&nobody(), now, 9).is_empty());
    let known = wanted.known(&nobody(), now);
    assert_eq!(known[0].reason.as_deref(), Some("said goodbye: it stopped"));
}

#[test]
fn nobody_can_ask_for_a_name_that_nobody_spoke_of() {
    let (mut wanted, now) = (wanted(), Instant::now());
    assert!(!wanted.ask_name(&node("z@h", 1).name, now));
    wanted.hearsay.told(&node("t@h", 1).name, [(node("z@h", 1), vec![at(1)])], &nobody(), now);
    wanted.merge(&[ID], now);
    assert!(wanted.ask_name(&node("z@h", 1).name, now));
}

#[test]
fn a_hidden_node_does_not_act_on_hearsay() {
    let now = Instant::now();
    let mut wanted = Wanted::new(node("m@h", 100), "default", true, Remember::default(), 7, now);
    wanted.hearsay.told(&node("t@h", 1).name, [(node("z@h", 1), vec![at(1)])], &nobody(), now);
    wanted.merge(&[ID], now);
    assert!(wanted.due(&nobody(), now, 9).is_empty());
}

#[test]
fn a_round_that_fails_differently_each_time_gives_one_sorted_reason() {
    let (mut wanted, now) = (wanted(), Instant::now());
    see(&mut wanted, "list", vec![sighting(None, &[at(1), at(2)])], now);
    wanted.merge(&[ID], now);
    let round = wanted.due(&nobody(), now, 9).remove(0);
    wanted.begun(round.target, ConnId(1), round.addresses[0]);
    wanted.begun(round.target, ConnId(2), round.addresses[1]);
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
    let many = (0..1000_u16).map(|i| {
        let [high, low] = i.to_be_bytes();
        let address = SocketAddr::from(([10, 0, high, low], 4470));
        sighting(Some((&format!("n{i:04}@h"), 1)), &[address])
    });
    see(&mut wanted, "list", many.collect(), now);
    wanted.merge(&[ID], now);
    let mut dialled = BTreeSet::new();
    for conn in 0..400 {
        for round in wanted.due(&nobody(), now, 10) {
            dialled.insert(round.target);
            wanted.begun(round.target, ConnId(conn), round.addresses[0]);
            let outcome = Outcome::Failed(Failure::Passing, "dead".to_owned());
            wanted.over(round.target, ConnId(conn), round.addresses[0], outcome, now);
        }
        now += Duration::from_millis(50);
    }
    assert_eq!(dialled.len(), 1000);
}

#[test]
fn targets_are_bounded() {
    let (mut wanted, now) = (wanted(), Instant::now());
    let many = (0..5000).map(|i| sighting(Some((&format!("n{i}@h"), 1)), &[at(1)])).collect();
    see(&mut wanted, "list", many, now);
    wanted.merge(&[ID], now);
    assert_eq!(wanted.targets.len(), TARGETS_MAX);
}

#[test]
fn a_node_that_one_strategy_lost_is_wanted_while_another_or_a_peer_reports_it() {
    let (mut wanted, mut now) = (wanted(), Instant::now());
    let minute = Duration::from_secs(60);
    see(&mut wanted, "mdns", vec![sighting(Some(("z@h", 1)), &[at(1)])], now);
    see(&mut wanted, "dns", vec![sighting(Some(("z@h", 1)), &[at(1)])], now);
    wanted.hearsay.told(&node("t@h", 1).name, [(node("z@h", 1), vec![at(1)])], &nobody(), now);
    let sources = |wanted: &mut Wanted, now: Instant| -> Vec<(String, bool)> {
        wanted.expire(now);
        wanted.merge(&[ID], now);
        let held = nobody();
        let rows: Vec<Row<'_>> = wanted.rows(&held, now).collect();
        let sources = rows.iter().flat_map(|row| row.sources);
        sources.map(|(source, p)| (source.clone(), p.reports)).collect()
    };
    let is = |source: &str, reports: bool| (source.to_owned(), reports);
    assert_eq!(
        sources(&mut wanted, now),
        [is("dns", true), is("mdns", true), is("peer t@h", true)]
    );
    see(&mut wanted, "mdns", Vec::new(), now);
    assert_eq!(sources(&mut wanted, now)[1], is("mdns", false), "it lingers");
    now += minute;
    assert_eq!(sources(&mut wanted, now), [is("dns", true), is("peer t@h", true)]);
    see(&mut wanted, "dns", Vec::new(), now);
    now += minute;
    assert_eq!(sources(&mut wanted, now), [is("peer t@h", true)]);
    wanted.hearsay.gone(&node("t@h", 1).name, now);
    assert_eq!(sources(&mut wanted, now), [is("peer t@h", false)]);
    now += minute;
    assert!(sources(&mut wanted, now).is_empty());
}

#[test]
fn one_that_is_only_remembered_is_dialled_seldom_and_at_once_when_it_is_reported() {
    let (mut wanted, mut now) = (wanted(), Instant::now());
    wanted.remembered.joined(&node("z@h", 1).name, &[at(1)], now);
    wanted.remember(&nobody(), now);
    wanted.merge(&[ID], now);
    let mut last = Duration::ZERO;
    for _ in 0..25 {
        last = fail(&mut wanted, now, Failure::Passing);
        now += last;
    }
    assert!(last >= AWAY.cap / 2, "{last:?}");
    fail(&mut wanted, now, Failure::Passing);
    assert!(wanted.due(&nobody(), now, 9).is_empty());
    see(&mut wanted, "mdns", vec![sighting(Some(("z@h", 1)), &[at(1)])], now);
    wanted.merge(&[ID], now);
    assert_eq!(wanted.due(&nobody(), now, 9).len(), 1);
}

#[test]
fn prune_needs_that_nobody_reports_a_peer_and_that_it_is_not_connected() {
    let minute = Duration::from_secs(60);
    let mut now = Instant::now();
    let remember = Remember { prune: Some(minute * 10), ..Remember::default() };
    let mut wanted = Wanted::new(node("m@h", 100), "default", false, remember, 7, now);
    let z = held(&[("z@h", 1)]);
    let look = |wanted: &mut Wanted, held: &Held, now: Instant| {
        wanted.expire(now);
        wanted.merge(&[ID], now);
        let pruned = wanted.remember(held, now);
        wanted.merge(&[ID], now);
        pruned
    };
    see(&mut wanted, "dns", vec![sighting(Some(("z@h", 1)), &[at(1)])], now);
    wanted.remembered.joined(&node("z@h", 1).name, &[at(1)], now);
    // Reported and lost: it stays, however long, and also while its strategy fails.
    now += minute * 100;
    assert!(!look(&mut wanted, &nobody(), now));
    let unwell = Report {
        sightings: vec![sighting(Some(("z@h", 1)), &[at(1)])],
        health: Health::Unwell("away".to_owned()),
        ..Report::default()
    };
    wanted.report("dns", unwell, now);
    now += minute * 100;
    assert!(!look(&mut wanted, &nobody(), now));
    // Connected, and reported by nobody: it stays.
    see(&mut wanted, "dns", Vec::new(), now);
    now += minute * 100;
    assert!(!look(&mut wanted, &z, now));
    // Neither: it goes, after its time.
    assert!(!look(&mut wanted, &nobody(), now));
    assert!(!look(&mut wanted, &nobody(), now + minute * 9));
    assert_eq!(wanted.known(&nobody(), now).len(), 1);
    assert!(look(&mut wanted, &nobody(), now + minute * 10));
    assert!(wanted.known(&nobody(), now).is_empty());
}
