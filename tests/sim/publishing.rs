//! Topics under partitions, crashes and churn: whoever has subscribed hears what a node that sees it publishes, once and
//! in order, and nobody else does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ciborium::Value;

use crate::app::{field, text};
use crate::world::{Draw, World, rounds, seed};

const SOON: Duration = Duration::from_secs(2);
const HEALED: Duration = Duration::from_secs(20);
const NODES: [&str; 4] = ["a", "b", "c", "d"];
const TOPICS: [&str; 3] = ["shop.tea", "shop.coffee", "lamp"];
const PATTERNS: [&str; 5] = ["shop.tea", "shop.*", ">", "lamp", "shop.coffee"];

fn matches(pattern: &str, topic: &str) -> bool {
    pattern == topic || pattern == ">" || (pattern == "shop.*" && topic.starts_with("shop."))
}

fn spawn(world: &mut World, host: &str) -> String {
    let answer = world.says(host, vec![("op", "spawn".into()), ("delivery", "pull".into())]);
    text(&answer, "pid").expect("a pid")
}

fn topic(op: &'static str, topic: &str, pid: &str) -> Vec<(&'static str, Value)> {
    vec![("op", op.into()), ("topic", topic.into()), ("pid", pid.into())]
}

/// Publishes with a number that only goes up, which stands in the content type: how many other nodes it went to.
fn publish(world: &mut World, host: &str, topic: &str, number: u64) -> u64 {
    let command = vec![
        ("op", "publish".into()),
        ("topic", topic.into()),
        ("ct", number.to_string().into()),
        ("report", true.into()),
    ];
    let answer = world.says(host, command);
    let nodes = field(&answer, "nodes").and_then(Value::as_integer).expect("how many nodes");
    u64::try_from(nodes).expect("a small number")
}

/// What came to a process since the last time: topic and number, in order.
fn came(world: &mut World, host: &str, pid: &str) -> Vec<(String, u64)> {
    let answer = world.says(host, vec![("op", "flush".into()), ("pid", pid.into())]);
    let events = field(&answer, "body").and_then(Value::as_array).expect("a list").clone();
    let number = |event: &Value| text(event, "ct").and_then(|ct| ct.parse().ok());
    events
        .iter()
        .map(|event| {
            (text(event, "topic").expect("a topic"), number(event).expect("it has a number"))
        })
        .collect()
}

/// What the test knows of a node.
#[derive(Default)]
struct Model {
    down: bool,
    subscribed: BTreeMap<String, BTreeSet<&'static str>>,
}

#[test]
fn under_partitions_crashes_and_churn_subscribers_hear_each_publication_once_in_order_and_in_the_end_all()
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
        let mut draw = Draw::new(world.seed);
        let mut number = 0;
        // Whose number it is.
        let mut publishers: Vec<usize> = Vec::new();
        for _ in 0..80 {
            let (i, j) = (draw.below(4), draw.below(4));
            let pattern = PATTERNS[draw.below(5)];
            let model = &mut models[i];
            let process = draw.below(8) % model.subscribed.len().max(1);
            let process = model.subscribed.keys().nth(process).cloned();
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
                    model.down = false;
                }
                (5, false, _) | (_, false, None) => {
                    let pid = spawn(&mut world, NODES[i]);
                    model.subscribed.insert(pid, BTreeSet::new());
                }
                (6..=8, false, Some(pid)) => {
                    let topics = model.subscribed.get_mut(&pid).expect("it is there");
                    // Vacant and not, several times before anybody else can look.
                    for _ in 0..=draw.below(3) {
                        if topics.insert(pattern) {
                            world.says(NODES[i], topic("subscribe", pattern, &pid));
                        } else {
                            topics.remove(pattern);
                            world.says(NODES[i], topic("unsubscribe", pattern, &pid));
                        }
                    }
                }
                (9, false, Some(pid)) => {
                    let exit = vec![("op", "exit".into()), ("pid", Value::from(pid.as_str()))];
                    world.says(NODES[i], exit);
                    model.subscribed.remove(&pid);
                }
                (_, false, Some(pid)) => {
                    for _ in 0..5 {
                        publish(&mut world, NODES[i], TOPICS[draw.below(3)], number);
                        publishers.push(i);
                        number += 1;
                    }
                    let mut last: BTreeMap<(usize, &str), u64> = BTreeMap::new();
                    for (topic, number) in came(&mut world, NODES[i], &pid) {
                        let from = publishers[usize::try_from(number).expect("small")];
                        let patterns = &models[i].subscribed[&pid];
                        let times = patterns.iter().filter(|one| matches(one, &topic)).count();
                        assert!(times > 0, "seed {}: {topic} after unsubscribe", world.seed);
                        // Each as often as it has subscribed, and never an earlier one again.
                        let topic = TOPICS.into_iter().find(|one| *one == topic).expect("known");
                        let before = last.insert((from, topic), number);
                        assert!(before <= Some(number), "seed {}: {number} again", world.seed);
                    }
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
            }
        }
        world.pass(Duration::from_secs(7));
        world.until("full mesh", HEALED, |w| w.is_full(&NODES));
        world.pass(Duration::from_secs(1));
        for (node, model) in NODES.iter().zip(&models) {
            for pid in model.subscribed.keys() {
                let _ = came(&mut world, node, pid);
            }
        }
        let mut expected: Vec<(String, u64)> = Vec::new();
        for (i, node) in NODES.into_iter().enumerate() {
            for topic in TOPICS {
                let nodes = publish(&mut world, node, topic, number);
                let wants = |model: &&Model| {
                    let mut all = model.subscribed.values().flatten();
                    all.any(|pattern| matches(pattern, topic))
                };
                let others = models.iter().enumerate().filter(|(j, _)| *j != i);
                let wanted = others.map(|(_, model)| model).filter(wants).count();
                assert_eq!(nodes, wanted as u64, "seed {}: {topic} from {node}", world.seed);
                expected.push((topic.to_owned(), number));
                number += 1;
            }
        }
        world.pass(Duration::from_secs(1));
        for (node, model) in NODES.iter().zip(&models) {
            for (pid, patterns) in &model.subscribed {
                let mut heard = came(&mut world, node, pid);
                heard.sort_by_key(|(_, number)| *number);
                let mine: Vec<(String, u64)> = expected
                    .iter()
                    .flat_map(|one| {
                        let times = patterns.iter().filter(|pattern| matches(pattern, &one.0));
                        std::iter::repeat_n(one.clone(), times.count())
                    })
                    .collect();
                assert_eq!(heard, mine, "seed {}: {pid} with {patterns:?}", world.seed);
            }
        }
    }
}

#[test]
fn from_the_first_moment_of_a_nodeup_nothing_is_published_past_a_subscriber() {
    // The other side subscribes, flaps and is started anew at every moment of a reconnect.
    let step = usize::try_from(400 / rounds(20).clamp(1, 400)).expect("small");
    for delay in (0..400).step_by(step) {
        for restarts in [false, true] {
            let mut world = World::of(&["a", "b"]);
            world.list("b", &["a"]);
            world.until("connection", SOON, |w| w.are_joined("a", "b"));
            let mut pid = spawn(&mut world, "b");
            world.says("b", topic("subscribe", "shop.*", &pid));
            world.partition("a", "b");
            world.until("nodedown", Duration::from_secs(7), |w| {
                w.peers("a").is_empty() && w.peers("b").is_empty()
            });
            if restarts {
                world.crash("b");
                world.pass(Duration::from_millis(100));
                world.bounce("b");
                world.pass(Duration::from_millis(5));
                pid = spawn(&mut world, "b");
                world.says("b", topic("subscribe", "shop.*", &pid));
            }
            world.heal("a", "b");
            let back = world.sighting("b");
            world.sees("a", vec![back]);
            for _ in 0..delay / 20 {
                world.pass(Duration::from_millis(10));
                world.says("b", topic("unsubscribe", "shop.*", &pid));
                // Where they see each other already, the answer waits until the other one knows.
                let mut subscribe = topic("subscribe", "shop.*", &pid);
                subscribe.push(("sync", true.into()));
                world.says("b", subscribe);
            }
            world.until("nodeup", HEALED, |w| w.is_joined("a", "b"));
            let nodes = publish(&mut world, "a", "shop.tea", 7);
            assert_eq!(nodes, 1, "{delay} ms, restarts: {restarts}");
            world.pass(Duration::from_millis(500));
            assert_eq!(came(&mut world, "b", &pid), [("shop.tea".to_owned(), 7)]);
        }
    }
}
