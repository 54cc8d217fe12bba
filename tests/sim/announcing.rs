//! Global names and groups under partitions, crashes and churn: once the mesh is whole again all nodes say the same, a
//! name has one holder at most, and nothing of the dead is left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ciborium::Value;

use crate::app::{field, text};
use crate::world::{Draw, World, rounds, seed};

const SOON: Duration = Duration::from_secs(2);
/// The backoff's cap, a dial that has just begun, and a handshake.
const HEALED: Duration = Duration::from_secs(20);
const NODES: [&str; 4] = ["a", "b", "c", "d"];
const NAMES: [&str; 3] = ["stock", "till", "desk"];
const POLICIES: [&str; 4] = ["keep_oldest", "keep_newest", "notify", "kill_loser"];

type Command = Vec<(&'static str, Value)>;

fn register(name: &str, pid: &str, policy: &str) -> Command {
    vec![
        ("op", "register".into()),
        ("name", name.into()),
        ("scope", "global".into()),
        ("pid", pid.into()),
        ("on_conflict", policy.into()),
    ]
}

fn unregister(name: &str) -> Command {
    vec![("op", "unregister".into()), ("name", name.into()), ("scope", "global".into())]
}

fn exit(pid: &str) -> Command {
    vec![("op", "exit".into()), ("pid", pid.into()), ("reason", "done".into())]
}

fn group(op: &'static str, group: &str, pid: &str) -> Command {
    vec![("op", op.into()), ("group", group.into()), ("pid", pid.into())]
}

fn watch(world: &mut World, host: &str) {
    for name in NAMES {
        world.says(host, vec![("op", "monitor_group".into()), ("group", name.into())]);
    }
}

fn spawn(world: &mut World, host: &str) -> String {
    text(&world.says(host, vec![("op", "spawn".into())]), "pid").expect("a pid")
}

fn is_ok(answer: &Value) -> bool {
    text(answer, "ev").as_deref() == Some("ok")
}

fn lives(world: &mut World, host: &str, pid: &str) -> bool {
    let keys = Value::Array(vec!["status".into()]);
    is_ok(&world.says(host, vec![("op", "info".into()), ("to", pid.into()), ("keys", keys)]))
}

/// Everybody who is in a group as `host` sees it: how often each.
fn members(world: &mut World, host: &str, name: &str) -> BTreeMap<String, u64> {
    let answer = world.says(host, vec![("op", "members".into()), ("group", name.into())]);
    let mut members = BTreeMap::new();
    for pid in field(&answer, "body").and_then(Value::as_array).expect("a list") {
        *members.entry(pid.as_text().expect("a pid").to_owned()).or_default() += 1;
    }
    members
}

/// All see each other, and what was on its way has come.
fn settle(world: &mut World, nodes: &[&str]) {
    world.until("full mesh", HEALED, |w| w.is_full(nodes));
    world.pass(Duration::from_secs(1));
}

/// The node whose pid this is.
fn home(pid: &str) -> String {
    pid.trim_start_matches('<').split('@').next().unwrap_or_default().to_owned()
}

/// All nodes say the same of every name, and who has it lives.
fn assert_agreed(world: &mut World, nodes: &[&str]) {
    for name in NAMES {
        let seen: Vec<_> = nodes.iter().map(|node| world.holder(node, name)).collect();
        assert!(
            seen.iter().all(|holder| *holder == seen[0]),
            "seed {}: {name}: {seen:?}",
            world.seed
        );
        if let Some(pid) = &seen[0] {
            assert!(lives(world, &home(pid), pid), "seed {}: {name} is {pid}'s", world.seed);
        }
    }
}

/// Once the holder of a name has died, nobody has it: no claim had been forgotten anywhere.
fn assert_no_zombies(world: &mut World, nodes: &[&str]) {
    for name in NAMES {
        if let Some(pid) = world.holder(nodes[0], name) {
            let host = home(&pid);
            world.says(&host, unregister(name));
            world.pass(Duration::from_millis(200));
        }
        for node in nodes {
            let left = world.holder(node, name);
            assert_eq!(left, None, "seed {}: {name} at {node}", world.seed);
        }
    }
}

/// What the test knows of a node: its processes, and how often each is in which group.
#[derive(Default)]
struct Model {
    down: bool,
    processes: Vec<String>,
    joined: BTreeMap<(String, &'static str), u64>,
}

#[test]
fn after_partitions_crashes_and_churn_all_nodes_agree_on_names_and_groups_and_nothing_dead_is_left()
{
    for round in 0..rounds(4) {
        let mut world = World::with_seed(seed() + round);
        let mut models: [Model; 4] = Default::default();
        for node in NODES {
            world.start(node);
        }
        world.list("b", &["a"]);
        world.list("c", &["a", "b"]);
        world.list("d", &["c"]);
        world.pass(Duration::from_millis(5));
        for node in NODES {
            watch(&mut world, node);
        }
        let mut draw = Draw::new(world.seed);
        for _ in 0..60 {
            let (i, j) = (draw.below(4), draw.below(4));
            let name = NAMES[draw.below(3)];
            let model = &mut models[i];
            let process = draw.below(8);
            let process = model.processes.get(process % model.processes.len().max(1)).cloned();
            match (draw.below(14), model.down, process) {
                (0, ..) if i != j => world.partition(NODES[i], NODES[j]),
                (1, ..) if i != j => world.cut(NODES[i], NODES[j]),
                (2 | 3, ..) if i != j => world.heal(NODES[i], NODES[j]),
                (4, false, _) => {
                    world.crash(NODES[i]);
                    *model = Model { down: true, ..Model::default() };
                }
                (_, true, _) => {
                    world.bounce(NODES[i]);
                    world.pass(Duration::from_millis(5));
                    watch(&mut world, NODES[i]);
                    model.down = false;
                }
                (5, false, _) => model.processes.push(spawn(&mut world, NODES[i])),
                (6..=8, false, Some(pid)) => {
                    let policy = POLICIES[draw.below(4)];
                    // The conflict may have killed it meanwhile; and somebody else may have the name.
                    let mut command = register(name, &pid, policy);
                    command.push(("replace", (draw.below(3) == 0).into()));
                    world.says(NODES[i], command);
                }
                (9, false, _) => drop(world.says(NODES[i], unregister(name))),
                (10, false, Some(pid)) => {
                    world.says(NODES[i], exit(&pid));
                    model.processes.retain(|process| *process != pid);
                    model.joined.retain(|(process, _), _| *process != pid);
                }
                (11 | 12, false, Some(pid)) => {
                    let joined = is_ok(&world.says(NODES[i], group("join", name, &pid)));
                    *model.joined.entry((pid, name)).or_default() += u64::from(joined);
                }
                (13, false, Some(pid)) => {
                    let left = is_ok(&world.says(NODES[i], group("leave", name, &pid)));
                    *model.joined.entry((pid, name)).or_default() -= u64::from(left);
                }
                (_, false, None) => model.processes.push(spawn(&mut world, NODES[i])),
                _ => {}
            }
            world.pass(Duration::from_millis(u64::try_from(draw.below(1500)).expect("small")));
        }
        for (i, node) in NODES.into_iter().enumerate() {
            for other in &NODES[..i] {
                world.heal(node, other);
            }
            if models[i].down {
                world.bounce(node);
                world.pass(Duration::from_millis(5));
                watch(&mut world, node);
            }
        }
        // The simulated TCP does not send again: a connection that has lost a segment is dead, and found out.
        world.pass(Duration::from_secs(7));
        settle(&mut world, &NODES);
        assert_agreed(&mut world, &NODES);
        for name in NAMES {
            let mut expected = BTreeMap::new();
            for (node, model) in NODES.iter().zip(&models) {
                for ((pid, group), times) in &model.joined {
                    if *group == name && *times > 0 && lives(&mut world, node, pid) {
                        expected.insert(pid.clone(), *times);
                    }
                }
            }
            for node in NODES {
                let seen = members(&mut world, node, name);
                assert_eq!(seen, expected, "seed {}: {name} at {node}", world.seed);
                let watched = world.app(node).expect("it runs").seen().watched.get(name).cloned();
                let watched = watched.unwrap_or_default();
                assert_eq!(watched, expected, "seed {}: watching {name} at {node}", world.seed);
            }
        }
        assert_no_zombies(&mut world, &NODES);
    }
}

/// Two nodes that see each other, with a process each.
fn pair() -> (World, [String; 2]) {
    let mut world = World::of(&["a", "b"]);
    world.list("b", &["a"]);
    world.until("connection", SOON, |w| w.are_joined("a", "b"));
    let pids = [spawn(&mut world, "a"), spawn(&mut world, "b")];
    (world, pids)
}

#[test]
fn claims_of_two_islands_meet_and_both_sides_name_the_same_winner_to_both_processes() {
    for (round, policy) in
        POLICIES.iter().cycle().take(usize::try_from(rounds(8)).expect("few")).enumerate()
    {
        let mut world = World::with_seed(seed() + round as u64);
        for node in NODES {
            world.start(node);
        }
        world.list("b", &["a"]);
        world.list("c", &["a", "b"]);
        world.list("d", &["a", "c"]);
        settle(&mut world, &NODES);
        let islands = [["a", "b"], ["c", "d"]];
        for one in islands[0] {
            for other in islands[1] {
                world.partition(one, other);
            }
        }
        world.until("two islands", Duration::from_secs(7), |w| {
            w.is_full(&islands[0])
                && w.is_full(&islands[1])
                && w.peers("a").len() == 1
                && w.peers("c").len() == 1
                && w.peers("b").len() == 1
                && w.peers("d").len() == 1
        });
        // One winner in each island, both of them at work until it heals.
        let pids = [spawn(&mut world, "b"), spawn(&mut world, "d")];
        assert!(is_ok(&world.says("b", register("stock", &pids[0], policy))));
        world.pass(Duration::from_millis(50));
        assert!(is_ok(&world.says("d", register("stock", &pids[1], "keep_oldest"))));
        world.pass(Duration::from_millis(500));
        for (island, pid) in islands.iter().zip(&pids) {
            for node in island {
                assert_eq!(world.holder(node, "stock").as_ref(), Some(pid), "seed {}", world.seed);
            }
        }
        for one in islands[0] {
            for other in islands[1] {
                world.heal(one, other);
            }
        }
        settle(&mut world, &NODES);
        assert_agreed(&mut world, &NODES);
        let winner = match *policy {
            "keep_newest" => Some(pids[1].clone()),
            "notify" => None,
            _ => Some(pids[0].clone()),
        };
        assert_eq!(world.holder("a", "stock"), winner, "seed {}: {policy}", world.seed);
        for node in ["b", "d"] {
            let told = world.app(node).expect("it runs").seen().conflicts.clone();
            assert_eq!(told, [("stock".to_owned(), winner.clone())], "{node}: {policy}");
        }
        assert_eq!(lives(&mut world, "d", &pids[1]), *policy != "kill_loser");
        assert!(lives(&mut world, "b", &pids[0]));
        assert_no_zombies(&mut world, &NODES);
    }
}

fn part(world: &mut World) {
    world.partition("a", "b");
    world.until("nodedown", Duration::from_secs(7), |w| {
        w.peers("a").is_empty() && w.peers("b").is_empty()
    });
}

#[test]
fn a_name_given_back_at_any_moment_of_a_reconnect_is_nobodys_on_both_sides() {
    // Before the connection is back, in the midst of hellos and the first announcements, and just after.
    for delay in (0..400).step_by(usize::try_from(400 / rounds(20).clamp(1, 400)).expect("small")) {
        for dies in [false, true] {
            let (mut world, [pid, _]) = pair();
            world.says("a", register("stock", &pid, "keep_oldest"));
            world.pass(Duration::from_millis(100));
            assert_eq!(world.holder("b", "stock"), Some(pid.clone()));
            part(&mut world);
            world.heal("a", "b");
            let back = world.sighting("a");
            world.sees("b", vec![back]);
            world.pass(Duration::from_millis(delay));
            let gone = if dies { exit(&pid) } else { unregister("stock") };
            assert!(is_ok(&world.says("a", gone)));
            settle(&mut world, &["a", "b"]);
            assert_agreed(&mut world, &["a", "b"]);
            assert_eq!(world.holder("b", "stock"), None, "{delay} ms, dies: {dies}");
            let other = spawn(&mut world, "b");
            assert!(is_ok(&world.says("b", register("stock", &other, "keep_oldest"))));
        }
    }
}

#[test]
fn a_process_that_dies_while_its_node_is_cut_off_leaves_no_name_and_no_membership_behind() {
    let (mut world, [pid, other]) = pair();
    assert!(is_ok(&world.says("a", register("stock", &pid, "keep_oldest"))));
    assert!(is_ok(&world.says("a", group("join", "stock", &pid))));
    world.pass(Duration::from_millis(100));
    assert_eq!(world.holder("b", "stock"), Some(pid.clone()));
    // Not noticed yet: b still believes it, and is told of the end of everything with the connection.
    world.partition("a", "b");
    world.says("a", exit(&pid));
    world.pass(Duration::from_millis(100));
    assert_eq!(world.holder("b", "stock"), Some(pid));
    world.until("nodedown", Duration::from_secs(7), |w| w.peers("b").is_empty());
    assert_eq!(world.holder("b", "stock"), None);
    assert!(is_ok(&world.says("b", register("stock", &other, "keep_oldest"))));
    world.heal("a", "b");
    settle(&mut world, &["a", "b"]);
    assert_eq!(world.holder("a", "stock"), Some(other));
    assert_eq!(members(&mut world, "b", "stock"), BTreeMap::new());
    assert_no_zombies(&mut world, &["a", "b"]);
}

#[test]
fn a_node_that_was_started_anew_under_its_name_has_nothing_of_its_earlier_run() {
    for cut in [false, true] {
        let (mut world, [pid, _]) = pair();
        assert!(is_ok(&world.says("a", register("stock", &pid, "keep_oldest"))));
        assert!(is_ok(&world.says("a", group("join", "stock", &pid))));
        world.pass(Duration::from_millis(100));
        if cut {
            world.partition("a", "b");
        }
        world.crash("a");
        world.pass(Duration::from_millis(100));
        world.bounce("a");
        world.pass(Duration::from_millis(5));
        let next = spawn(&mut world, "a");
        assert_ne!(next, pid);
        assert!(is_ok(&world.says("a", register("stock", &next, "keep_oldest"))));
        world.heal("a", "b");
        let back = world.sighting("a");
        world.sees("b", vec![back]);
        settle(&mut world, &["a", "b"]);
        assert_eq!(world.holder("b", "stock"), Some(next));
        assert_eq!(members(&mut world, "b", "stock"), BTreeMap::new());
        assert_no_zombies(&mut world, &["a", "b"]);
    }
}

#[test]
fn what_changes_while_a_node_announces_all_that_it_has_is_known_everywhere_in_the_end() {
    const MANY: usize = 3000;
    let name = |n: usize| format!("name{n:04}");
    for round in 0..rounds(8) {
        let mut world = World::with_seed(seed() + round);
        world.start("a");
        world.start("b");
        world.pass(Duration::from_millis(5));
        let (one, other) = (spawn(&mut world, "a"), spawn(&mut world, "a"));
        let mut draw = Draw::new(world.seed);
        for n in 0..MANY {
            let pid = if n.is_multiple_of(2) { &one } else { &other };
            world.ask("a", register(&name(n), pid, "keep_oldest"));
            world.ask("a", group("join", &name(n), pid));
            if n % 500 == 499 {
                world.pass(Duration::from_millis(5));
            }
        }
        world.list("b", &["a"]);
        // In every millisecond until they see each other, and so in that of the announcements too: some go, some come
        // anew, and in the end one process dies with all of its own.
        let mut touched = BTreeSet::new();
        let mut left = 20;
        while left > 0 {
            left -= usize::from(world.are_joined("a", "b"));
            for _ in 0..20 {
                let n = draw.below(MANY);
                touched.insert(n);
                let pid = if n.is_multiple_of(2) { &one } else { &other };
                world.ask("a", unregister(&name(n)));
                world.ask("a", group("leave", &name(n), pid));
                if draw.below(2) == 0 {
                    world.ask("a", register(&name(n), pid, "keep_newest"));
                    world.ask("a", group("join", &name(n), pid));
                }
            }
            world.pass(Duration::from_millis(1));
        }
        world.ask("a", exit(&other));
        settle(&mut world, &["a", "b"]);
        let groups = |world: &mut World, host: &str| {
            let answer = world.says(host, vec![("op", "groups".into())]);
            field(&answer, "body").cloned().expect("a list")
        };
        let expected = groups(&mut world, "a");
        assert!(expected.as_array().is_some_and(|all| all.len() > MANY / 3));
        assert!(groups(&mut world, "b") == expected, "seed {}: other groups", world.seed);
        for n in touched {
            let expected = world.holder("a", &name(n));
            assert!(expected.as_deref().is_none_or(|pid| pid == one));
            assert_eq!(world.holder("b", &name(n)), expected, "seed {}: {n}", world.seed);
        }
    }
}
