//! Presence under partitions, crashes and churn: once the mesh is whole again every node lists exactly those who live,
//! and whoever has watched from the beginning says the same.

use std::collections::BTreeMap;
use std::time::Duration;

use ciborium::Value;

use crate::app::{field, text};
use crate::world::{Draw, World, rounds, seed};

const SOON: Duration = Duration::from_secs(2);
/// The backoff's cap, a dial that has just begun, and a handshake.
const HEALED: Duration = Duration::from_secs(20);
const NODES: [&str; 4] = ["a", "b", "c", "d"];
const TOPICS: [&str; 3] = ["room.1", "room.2", "machines"];
const KEYS: [&str; 3] = ["ann", "bob", "hal"];

type Command = Vec<(&'static str, Value)>;
/// Key and pid.
type Place = (String, String);

fn track(op: &'static str, topic: &str, key: &str, pid: &str, metadata: u64) -> Command {
    vec![
        ("op", op.into()),
        ("topic", topic.into()),
        ("key", key.into()),
        ("pid", pid.into()),
        ("metadata", metadata.into()),
    ]
}

fn untrack(topic: &str, key: Option<&str>, pid: &str) -> Command {
    let mut command = vec![("op", "untrack".into()), ("topic", topic.into()), ("pid", pid.into())];
    command.extend(key.map(|key| ("key", key.into())));
    command
}

fn exit(pid: &str) -> Command {
    vec![("op", "exit".into()), ("pid", pid.into()), ("reason", "done".into())]
}

fn watch(world: &mut World, host: &str) {
    for topic in TOPICS {
        world.says(host, vec![("op", "monitor_presence".into()), ("topic", topic.into())]);
    }
}

fn spawn(world: &mut World, host: &str) -> String {
    text(&world.says(host, vec![("op", "spawn".into())]), "pid").expect("a pid")
}

fn is_ok(answer: &Value) -> bool {
    text(answer, "ev").as_deref() == Some("ok")
}

/// What `host` lists under a topic: who, and what is known of each.
fn present(world: &mut World, host: &str, topic: &str) -> BTreeMap<Place, u64> {
    let answer = world.says(host, vec![("op", "presence".into()), ("topic", topic.into())]);
    let rows = field(&answer, "body").and_then(Value::as_array).expect("a list").clone();
    let known = |row: &Value| {
        let number = field(row, "metadata").and_then(Value::as_integer).expect("a number");
        u64::try_from(number).expect("a small one")
    };
    let rows = rows.iter().map(|row| {
        let place = (text(row, "key").expect("a key"), text(row, "pid").expect("a pid"));
        (place, known(row))
    });
    rows.collect()
}

/// What was told to the app of `host` that watches a topic.
fn watched(world: &World, host: &str, topic: &str) -> BTreeMap<Place, u64> {
    let app = world.app(host).expect("it runs");
    let seen = app.seen();
    seen.present.get(topic).cloned().unwrap_or_default()
}

/// What the test knows of a node: its processes, and where each is present.
#[derive(Default)]
struct Model {
    down: bool,
    processes: Vec<String>,
    present: BTreeMap<(&'static str, Place), u64>,
}

fn start(world: &mut World) {
    for node in NODES {
        world.start(node);
    }
    world.list("b", &["a"]);
    world.list("c", &["a", "b"]);
    world.list("d", &["c"]);
    world.pass(Duration::from_millis(5));
    for node in NODES {
        watch(world, node);
    }
}

fn assert_agreed(world: &mut World, models: &[Model; 4]) {
    for topic in TOPICS {
        let all = models.iter().flat_map(|model| &model.present);
        let expected: BTreeMap<Place, u64> = all
            .filter(|((of, _), _)| *of == topic)
            .map(|((_, place), known)| (place.clone(), *known))
            .collect();
        for node in NODES {
            let seen = present(world, node, topic);
            assert_eq!(seen, expected, "seed {}: {topic} at {node}", world.seed);
            let told = watched(world, node, topic);
            assert_eq!(told, expected, "seed {}: watching {topic} at {node}", world.seed);
        }
    }
}

#[test]
fn after_partitions_crashes_and_churn_all_nodes_list_exactly_those_who_live_and_watchers_say_the_same()
 {
    for round in 0..rounds(4) {
        let mut world = World::with_seed(seed() + round);
        let mut models: [Model; 4] = Default::default();
        start(&mut world);
        let mut draw = Draw::new(world.seed);
        let mut number = 0;
        for _ in 0..80 {
            let (i, j) = (draw.below(4), draw.below(4));
            let (topic, key) = (TOPICS[draw.below(3)], KEYS[draw.below(3)]);
            let model = &mut models[i];
            let process = draw.below(8) % model.processes.len().max(1);
            let process = model.processes.get(process).cloned();
            number += 1;
            match (draw.below(16), model.down, process) {
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
                (5, false, _) | (_, false, None) => {
                    model.processes.push(spawn(&mut world, NODES[i]));
                }
                (6, false, Some(pid)) => {
                    world.says(NODES[i], exit(&pid));
                    model.processes.retain(|process| *process != pid);
                    model.present.retain(|(_, (_, owner)), _| *owner != pid);
                }
                (7 | 8, false, Some(pid)) => {
                    // Several times before anybody else can look.
                    for op in ["track", "update_presence", "untrack", "track"] {
                        if op == "untrack" {
                            assert!(is_ok(&world.says(NODES[i], untrack(topic, Some(key), &pid))));
                            model.present.remove(&(topic, (key.to_owned(), pid.clone())));
                        } else if is_ok(&world.says(NODES[i], track(op, topic, key, &pid, number)))
                        {
                            model.present.insert((topic, (key.to_owned(), pid.clone())), number);
                        }
                    }
                }
                (9, false, Some(pid)) => {
                    world.says(NODES[i], untrack(topic, None, &pid));
                    model.present.retain(|(of, (_, owner)), _| *of != topic || *owner != pid);
                }
                (10 | 11, false, Some(pid)) => {
                    let place = (topic, (key.to_owned(), pid.clone()));
                    let updated = is_ok(
                        &world.says(NODES[i], track("update_presence", topic, key, &pid, number)),
                    );
                    assert_eq!(updated, model.present.contains_key(&place));
                    model.present.entry(place).and_modify(|known| *known = number);
                }
                (_, false, Some(pid)) => {
                    let place = (topic, (key.to_owned(), pid.clone()));
                    let fresh =
                        is_ok(&world.says(NODES[i], track("track", topic, key, &pid, number)));
                    assert_eq!(fresh, !model.present.contains_key(&place));
                    model.present.entry(place).or_insert(number);
                }
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
        world.pass(Duration::from_secs(7));
        world.until("full mesh", HEALED, |w| w.is_full(&NODES));
        world.pass(Duration::from_secs(1));
        assert_agreed(&mut world, &models);
        // And when one after the other has gone, nobody is left.
        for (i, node) in NODES.into_iter().enumerate() {
            for pid in std::mem::take(&mut models[i].processes) {
                world.says(node, exit(&pid));
            }
            models[i].present.clear();
        }
        world.pass(Duration::from_millis(200));
        assert_agreed(&mut world, &models);
    }
}

/// Two nodes that see each other, a process on the first, and a watcher on both.
fn pair() -> (World, String) {
    let mut world = World::of(&["a", "b"]);
    world.list("b", &["a"]);
    world.until("connection", SOON, |w| w.are_joined("a", "b"));
    for node in ["a", "b"] {
        watch(&mut world, node);
    }
    let pid = spawn(&mut world, "a");
    (world, pid)
}

#[test]
fn who_goes_at_any_moment_of_a_reconnect_is_present_nowhere_and_who_stays_everywhere() {
    // Before the connection is back, in the midst of hellos and the first announcements, and just after.
    let step = usize::try_from(400 / rounds(20).clamp(1, 400)).expect("small");
    for delay in (0..400).step_by(step) {
        for dies in [false, true] {
            let (mut world, pid) = pair();
            let stays = spawn(&mut world, "a");
            assert!(is_ok(&world.says("a", track("track", "room.1", "ann", &pid, 1))));
            assert!(is_ok(&world.says("a", track("track", "room.1", "ann", &stays, 2))));
            world.pass(Duration::from_millis(100));
            assert_eq!(present(&mut world, "b", "room.1").len(), 2);
            world.partition("a", "b");
            world.until("nodedown", Duration::from_secs(7), |w| {
                w.peers("a").is_empty() && w.peers("b").is_empty()
            });
            assert_eq!(present(&mut world, "b", "room.1"), BTreeMap::new());
            world.heal("a", "b");
            let back = world.sighting("a");
            world.sees("b", vec![back]);
            world.pass(Duration::from_millis(u64::try_from(delay).expect("small")));
            let gone = if dies { exit(&pid) } else { untrack("room.1", Some("ann"), &pid) };
            assert!(is_ok(&world.says("a", gone)));
            assert!(is_ok(&world.says("a", track("update_presence", "room.1", "ann", &stays, 3))));
            world.until("nodeup", HEALED, |w| w.are_joined("a", "b"));
            // What the other one knows when it says so.
            let first = present(&mut world, "b", "room.1");
            assert!(first.contains_key(&("ann".to_owned(), stays.clone())), "{delay} ms");
            world.pass(Duration::from_millis(200));
            let left = BTreeMap::from([(("ann".to_owned(), stays), 3)]);
            for node in ["a", "b"] {
                assert_eq!(present(&mut world, node, "room.1"), left, "{delay} ms, dies: {dies}");
                assert_eq!(watched(&world, node, "room.1"), left, "{delay} ms, dies: {dies}");
            }
        }
    }
}
