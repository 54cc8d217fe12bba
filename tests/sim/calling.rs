//! Calls while the network breaks: each ends exactly once and in time, and says truly whether it may have been applied.

use std::time::Duration;

use ciborium::Value;

use crate::app::{field, text};
use crate::world::{Draw, World, rounds, seed};

const NODES: [&str; 3] = ["a", "b", "c"];

struct Asked {
    caller: usize,
    question: u64,
    number: u64,
    deadline: Duration,
}

fn call(to: &str, number: u64, timeout_ms: u64) -> Vec<(&'static str, Value)> {
    vec![
        ("op", "call".into()),
        ("to", to.into()),
        ("timeout_ms", timeout_ms.into()),
        ("body", number.into()),
    ]
}

#[test]
fn calls_under_partitions_and_crashes_end_exactly_once_and_say_truly_whether_they_were_applied() {
    let mut codes = std::collections::BTreeSet::new();
    for round in 0..rounds(6) {
        let mut world = World::with_seed(seed() + round);
        for node in NODES {
            world.start(node);
        }
        world.list("b", &["a"]);
        world.list("c", &["a", "b"]);
        world.pass(Duration::from_millis(5));
        let register = || vec![("op", "register".into()), ("name", "server".into())];
        let global = || {
            let scope = ("scope", "global".into());
            let policy = ("on_conflict", "keep_newest".into());
            vec![("op", "register".into()), ("name", "server".into()), scope, policy]
        };
        let up = |world: &mut World, node: &str| {
            world.says(node, register());
            world.says(node, global());
            world.says(node, vec![("op", "join".into()), ("group", "servers".into())]);
        };
        for node in NODES {
            up(&mut world, node);
        }
        let mut draw = Draw::new(world.seed);
        let mut asked: Vec<Asked> = Vec::new();
        let mut down = [false; 3];
        let mut number = 0;
        for _ in 0..150 {
            let (i, j) = (draw.below(3), draw.below(3));
            match draw.below(20) {
                0 if i != j => world.partition(NODES[i], NODES[j]),
                1 if i != j => world.cut(NODES[i], NODES[j]),
                2..=4 if i != j => world.heal(NODES[i], NODES[j]),
                5 if !down[i] => {
                    world.crash(NODES[i]);
                    down[i] = true;
                    // Nobody is left to hear of these.
                    asked.retain(|asked| asked.caller != i);
                }
                _ if down[i] => {
                    world.bounce(NODES[i]);
                    world.pass(Duration::from_millis(5));
                    up(&mut world, NODES[i]);
                    down[i] = false;
                }
                _ => {
                    number += 1;
                    let to = match draw.below(4) {
                        0 => "global:server".to_owned(),
                        1 => "group:servers".to_owned(),
                        _ => format!("server@{}@sim", NODES[j]),
                    };
                    let timeout = [0, 10, 500, 8000][draw.below(4)];
                    let question = world.ask(NODES[i], call(&to, number, timeout));
                    let deadline = world.elapsed() + Duration::from_millis(timeout);
                    asked.push(Asked { caller: i, question, number, deadline });
                }
            }
            world.pass(Duration::from_millis(u64::try_from(draw.below(300)).expect("small")));
            // None that is over has not ended.
            for asked in &asked {
                let late = asked.deadline + Duration::from_millis(100) < world.elapsed();
                let ended = world.reply(NODES[asked.caller], asked.question).is_some();
                assert!(ended || !late, "seed {}: {} has no end", world.seed, asked.number);
            }
        }
        world.pass(Duration::from_secs(9));
        // Every answer was kept once: two to one question fail the app.
        for asked in &asked {
            let answer = world.reply(NODES[asked.caller], asked.question).expect("looked at");
            let executed = world.executed.lock().expect("not poisoned");
            let times = executed.get(&asked.number).copied().unwrap_or(0);
            assert!(times <= 1, "seed {}: {} was executed {times} times", world.seed, asked.number);
            let code = text(&answer, "code");
            codes.insert(code.clone().unwrap_or_else(|| "ok".to_owned()));
            match field(&answer, "maybe_applied").and_then(Value::as_bool) {
                Some(true) => {}
                Some(false) => {
                    assert_eq!(times, 0, "seed {}: {}: {answer:?}", world.seed, asked.number);
                }
                None => {
                    assert_eq!((times, field(&answer, "body")), (1, Some(&asked.number.into())));
                }
            }
        }
    }
    let codes: Vec<_> = codes.into_iter().collect();
    for code in ["exception", "noconnection", "ok", "timeout"] {
        assert!(codes.iter().any(|seen| seen == code), "{code} is not among {codes:?}");
    }
}
