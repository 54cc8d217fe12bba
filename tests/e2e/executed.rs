//! What a call says of its effect, counted where the effect is: `maybe_applied: false` means that nobody executed it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{App, DIALECTS, Daemon, Place, Value, json};

fn two_nodes() -> (Daemon, Daemon) {
    let place = Place::new();
    let (a, b) = (place.start("a", &[]), place.start("b", &[]));
    a.json().meets(&[&b]);
    b.json().meets(&[&a]);
    (a, b)
}

/// Takes everything that waits in a mailbox that is pulled, and counts the calls by their bodies.
fn execute(app: &mut App, pid: &str, executed: &mut BTreeMap<u64, u64>) -> Vec<Value> {
    let taken = app.ok(json!({"op": "flush", "pid": pid}))["messages"].take();
    let calls: Vec<Value> =
        taken.as_array().unwrap().iter().filter(|event| event["ev"] == "call").cloned().collect();
    for call in &calls {
        *executed.entry(call["body"].as_u64().unwrap()).or_default() += 1;
    }
    calls
}

/// What an error that a call ended with says: its code, and whether it may have been applied.
#[track_caller]
fn said(answer: &Value) -> (String, bool) {
    assert_eq!(answer["ev"], "error", "{answer}");
    (answer["code"].as_str().unwrap().to_owned(), answer["maybe_applied"].as_bool().unwrap())
}

/// One call to a process that only executes what it pulls, and what then happens.
struct Case {
    code: &'static str,
    maybe_applied: bool,
    executed: u64,
    /// Before the call.
    prepare: fn(&mut Scene),
    /// Once it is on its way.
    then: fn(&mut Scene),
    to: fn(&Scene) -> String,
}

struct Scene {
    server: App,
    pid: String,
    client: App,
    calls: Vec<Value>,
    executed: BTreeMap<u64, u64>,
    timeout_ms: u64,
    body: Value,
    /// The `receive` that the callee has under way.
    waiting: Option<u64>,
}

impl Scene {
    /// The callee waits for a call.
    fn waits(&mut self) {
        let waits = json!({"op": "receive", "pid": self.pid, "max": 1, "timeout_ms": 50_000});
        self.waiting = Some(self.server.begin(waits));
    }

    /// The callee executes what has come: the one call that is expected.
    fn executes(&mut self) {
        if self.waiting.is_none() {
            self.waits();
        }
        let id = self.waiting.take().unwrap();
        let taken = self.server.answer(id)["messages"].take();
        assert_eq!(taken[0]["ev"], "call", "{taken}");
        *self.executed.entry(taken[0]["body"].as_u64().unwrap()).or_default() += 1;
        self.calls.push(taken[0].clone());
    }

    /// The call has come and waits.
    fn arrives(&mut self) {
        let pid = self.pid.clone();
        crate::support::eventually("the call is in the mailbox", || {
            self.server.info(&pid, "message_queue_len") == 1
        });
    }
}

#[test]
fn g10_g11_every_kind_of_error_says_truly_whether_the_callee_may_have_executed_the_call() {
    let nothing: fn(&mut Scene) = |_| {};
    let callee: fn(&Scene) -> String = |scene| scene.pid.clone();
    let cases = [
        Case {
            code: "timeout",
            maybe_applied: true,
            executed: 1,
            prepare: |scene| {
                // It waits for the call already: whatever else is slow, it has it before the deadline.
                scene.timeout_ms = 300;
                scene.waits();
            },
            then: Scene::executes,
            to: callee,
        },
        Case {
            code: "exception",
            maybe_applied: true,
            executed: 1,
            prepare: nothing,
            then: |scene| {
                scene.executes();
                let reference = scene.calls[0]["ref"].clone();
                scene.server.ok(json!({"op": "raise", "ref": reference, "class": "E"}));
            },
            to: callee,
        },
        Case {
            code: "undef",
            maybe_applied: false,
            executed: 0,
            prepare: nothing,
            // It looks at what is asked of it and has no such function: nothing is executed.
            then: |scene| {
                scene.executes();
                scene.executed.clear();
                let reference = scene.calls[0]["ref"].clone();
                scene.server.ok(json!({"op": "raise", "ref": reference, "class": "undef"}));
            },
            to: callee,
        },
        Case {
            code: "exit",
            maybe_applied: true,
            executed: 1,
            prepare: nothing,
            then: |scene| {
                scene.executes();
                let pid = scene.pid.clone();
                scene.server.ok(json!({"op": "exit", "pid": pid, "reason": "crashed"}));
            },
            to: callee,
        },
        Case {
            code: "exit",
            maybe_applied: false,
            executed: 0,
            prepare: nothing,
            then: |scene| {
                scene.arrives();
                let pid = scene.pid.clone();
                scene.server.ok(json!({"op": "exit", "pid": pid, "reason": "crashed"}));
            },
            to: callee,
        },
        Case {
            code: "overloaded",
            maybe_applied: false,
            executed: 0,
            prepare: |scene| {
                let pid = scene.pid.clone();
                scene.server.ok(json!({"op": "flag", "pid": pid, "mailbox": {"entries": 1}}));
                scene.server.send(&pid, json!("first"));
            },
            then: nothing,
            to: callee,
        },
        Case {
            code: "noproc",
            maybe_applied: false,
            executed: 0,
            prepare: nothing,
            then: nothing,
            to: |scene| scene.pid.replace('>', "99999>"),
        },
        Case {
            code: "noconnection",
            maybe_applied: false,
            executed: 0,
            prepare: nothing,
            then: nothing,
            to: |_| "server@nobody@t".to_owned(),
        },
        Case {
            code: "calling_self",
            maybe_applied: false,
            executed: 0,
            prepare: nothing,
            then: nothing,
            to: |scene| scene.client.pid.clone(),
        },
        Case {
            code: "badarg",
            maybe_applied: false,
            executed: 0,
            prepare: nothing,
            then: nothing,
            to: |_| "not a name".to_owned(),
        },
        Case {
            code: "too_large",
            maybe_applied: false,
            executed: 0,
            prepare: |scene| scene.body = json!("x".repeat(1_100_000)),
            then: nothing,
            to: callee,
        },
    ];
    let (a, b) = two_nodes();
    for dialect in DIALECTS {
        for daemon in [&a, &b] {
            for case in &cases {
                let mut server = a.app(dialect);
                let pid = server.spawn(json!({"delivery": "pull"}));
                let mut scene = Scene {
                    server,
                    pid,
                    client: daemon.app(dialect),
                    calls: Vec::new(),
                    executed: BTreeMap::new(),
                    timeout_ms: 60_000,
                    body: json!(7),
                    waiting: None,
                };
                (case.prepare)(&mut scene);
                let id = scene.client.begin(json!({"op": "call", "to": (case.to)(&scene),
                    "timeout_ms": scene.timeout_ms, "body": scene.body}));
                (case.then)(&mut scene);
                let answer = scene.client.answer(id);
                let expected = (case.code.to_owned(), case.maybe_applied);
                assert_eq!(said(&answer), expected, "from {}: {answer}", daemon.node);
                // Nothing is executed after the call has ended.
                let pid = scene.pid.clone();
                if case.code != "exit" {
                    execute(&mut scene.server, &pid, &mut scene.executed);
                }
                let executed = scene.executed.values().sum::<u64>();
                assert_eq!(executed, case.executed, "{} from {}", case.code, daemon.node);
                scene.client.nothing();
            }
        }
    }
}

#[test]
fn g11_a_call_that_timed_out_unseen_was_not_executed_and_never_will_be() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let mut server = a.app(dialect);
        let pid = server.spawn(json!({"delivery": "pull"}));
        let mut client = a.app(dialect);
        for n in 0..20 {
            let call = json!({"op": "call", "to": pid, "timeout_ms": 5, "body": n});
            assert_eq!(said(&client.ask(call)), ("timeout".to_owned(), false));
        }
        let mut executed = BTreeMap::new();
        assert_eq!(execute(&mut server, &pid, &mut executed), Vec::<Value>::new());
    }
}

#[test]
fn g11_a_node_that_is_killed_with_calls_under_way_may_have_executed_them_all() {
    let (mut a, b) = two_nodes();
    let mut server = a.cbor();
    let mut client = b.json();
    let (pid, idle) = (server.pid.clone(), server.spawn(json!({"delivery": "pull"})));
    let long = |to: &str| json!({"op": "call", "to": to, "timeout_ms": 600_000, "body": 1});
    let handed = client.begin(long(&pid));
    let waits = client.begin(long(&idle));
    server.event_of("call");
    a.kill();
    // Of what waited over there nobody here can know more.
    for id in [handed, waits] {
        assert_eq!(said(&client.answer(id)), ("noconnection".to_owned(), true));
    }
    assert_eq!(said(&client.ask(long(&pid))), ("noconnection".to_owned(), false));
}

#[test]
fn g10_g11_of_many_calls_at_once_each_ends_once_and_none_that_was_not_applied_was_executed() {
    let (a, b) = two_nodes();
    for dialect in DIALECTS {
        let mut server = a.app(dialect);
        let mut executed = BTreeMap::new();
        let mut clients = [a.app(dialect), b.app(dialect)];
        let mut asked: Vec<BTreeMap<u64, u64>> = vec![BTreeMap::new(); 2];
        let mut codes = BTreeSet::new();
        let mut number = 0_u64;
        for round in 0..8_u64 {
            // A new callee each round, with a mailbox that is soon full.
            let spawn = json!({"delivery": "pull", "mailbox": {"entries": 24}, "name": "callee"});
            let pid = server.spawn(spawn);
            for (side, client) in clients.iter_mut().enumerate() {
                for n in 0..40_u64 {
                    number += 1;
                    let to = if n % 3 == 0 { "callee@a@t" } else { &pid };
                    let timeout = [0, 20, 60_000, 60_000][usize::try_from(n % 4).unwrap()];
                    let id = client.begin(json!({"op": "call", "to": to, "timeout_ms": timeout,
                        "body": number}));
                    asked[side].insert(id, number);
                }
                // All of them have reached the callee or have been turned away.
                client.ok(json!({"op": "info", "to": pid, "keys": ["status"]}));
                for (n, call) in execute(&mut server, &pid, &mut executed).iter().enumerate() {
                    let reference = &call["ref"];
                    server.tell(match n % 3 {
                        0 => json!({"op": "raise", "ref": reference, "class": "E"}),
                        // Some are never answered: their deadline or the callee's death ends them.
                        1 if round % 2 == 0 => continue,
                        _ => json!({"op": "reply", "ref": reference, "body": call["body"]}),
                    });
                }
            }
            server.ok(json!({"op": "exit", "pid": pid, "reason": "round"}));
            for (side, client) in clients.iter_mut().enumerate() {
                while let Some((id, number)) = asked[side].pop_first() {
                    let answer = client.answer(id);
                    let times = executed.get(&number).copied().unwrap_or(0);
                    assert!(times <= 1, "{number} was executed {times} times");
                    if answer["ev"] == "ok" {
                        assert_eq!((times, answer["body"].as_u64()), (1, Some(number)));
                        continue;
                    }
                    let (code, maybe_applied) = said(&answer);
                    assert!(maybe_applied || times == 0, "executed, and yet: {answer}");
                    codes.insert(code);
                }
                // No second answer to anything.
                client.nothing();
            }
        }
        let codes: Vec<&str> = codes.iter().map(String::as_str).collect();
        assert_eq!(codes, ["exception", "exit", "overloaded", "timeout"], "all of them happened");
    }
}

#[test]
fn g12_a_late_reply_reaches_nobody_and_the_next_call_gets_its_own() {
    let (a, b) = two_nodes();
    for dialect in DIALECTS {
        let mut server = a.app(dialect);
        for daemon in [&a, &b] {
            let mut client = daemon.app(dialect);
            let to = server.pid.clone();
            let call = |timeout: u64, body: u64| json!({"op": "call", "to": to, "timeout_ms": timeout, "body": body});
            assert_eq!(said(&client.ask(call(100, 1))).0, "timeout");
            let late = server.event_of("call");
            let id = client.begin(call(60_000, 2));
            let next = server.event_of("call");
            server.reply(&late, json!("late"));
            server.reply(&late, json!("late again"));
            server.reply(&next, json!("in time"));
            server.reply(&next, json!("twice"));
            assert_eq!(client.answer(id)["body"], "in time");
            // Whatever the server sent has passed: this answer came behind it.
            let id = client.begin(call(60_000, 3));
            let last = server.event_of("call");
            server.reply(&last, json!(3));
            assert_eq!(client.answer(id)["body"], 3);
            client.nothing();
        }
    }
}

#[test]
fn g13_a_call_to_several_nodes_has_a_result_for_each_in_order_and_a_stopped_one_delays_none() {
    let place = Place::new();
    let nodes = ["a", "b", "c"].map(|base| place.start(base, &["--profile", "wan"]));
    let [a, b, c] = &nodes;
    let mut client = a.json();
    client.meets(&[b, c]);
    let mut servers = [a.json(), b.cbor()];
    for server in &mut servers {
        server.ok(json!({"op": "register", "name": "stock"}));
    }
    c.signal(Signal::STOP);
    let asked = json!(["c@t", "b@t", "nobody@t", "a@t", "b@t"]);
    let began = Instant::now();
    let id = client.begin(json!({"op": "multi_call", "nodes": asked, "name": "stock",
        "timeout_ms": 4000, "body": "count"}));
    let [here, there] = &mut servers;
    for (server, count) in [(here, 1), (there, 2)] {
        for _ in 0..count {
            let call = server.event();
            server.reply(&call, json!(count));
        }
    }
    let results = client.answer(id)["results"].take();
    let took = began.elapsed();
    c.signal(Signal::CONT);
    let results = results.as_array().unwrap();
    let order: Vec<&Value> = results.iter().map(|result| &result["node"]).collect();
    assert_eq!(order, ["c@t", "b@t", "nobody@t", "a@t", "b@t"]);
    assert_eq!(results[0]["error"]["code"], "timeout");
    assert_eq!(results[0]["error"]["maybe_applied"], true);
    assert_eq!(results[2]["error"]["code"], "noconnection");
    assert_eq!(results[2]["error"]["maybe_applied"], false);
    assert_eq!((&results[1]["body"], &results[3]["body"]), (&json!(2), &json!(1)));
    assert_eq!(results[4]["body"], 2);
    assert!(took >= Duration::from_millis(3900) && took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn g14_a_call_sees_the_effect_of_every_cast_before_it_whatever_their_size() {
    let (a, b) = two_nodes();
    for dialect in DIALECTS {
        let mut server = a.app(dialect);
        server.ok(json!({"op": "flag", "mailbox": {"policy": "wait"}}));
        let to = server.pid.clone();
        for daemon in [&a, &b] {
            let mut client = daemon.app(dialect);
            let to = to.clone();
            let running = std::thread::spawn(move || {
                for n in 0..200_usize {
                    let filler = "x".repeat([1, 100, 70_000, 400_000][n % 4]);
                    client.tell(json!({"op": "cast", "to": to, "body": ["set", n, filler]}));
                    let seen = client
                        .ok(json!({"op": "call", "to": to, "timeout_ms": 60_000, "body": "get"}));
                    assert_eq!(seen["body"], n, "the call overtook the cast");
                }
            });
            let mut value = Value::Null;
            for _ in 0..200 {
                let cast = server.event();
                assert_eq!(cast["ev"], "cast", "{cast:.100}");
                value.clone_from(&cast["body"][1]);
                let call = server.event();
                assert_eq!(call["ev"], "call", "{call:.100}");
                server.reply(&call, value.clone());
            }
            running.join().unwrap();
        }
    }
}

#[test]
fn g15_another_process_answers_for_the_callee_and_a_second_answer_is_ignored() {
    let (a, b) = two_nodes();
    for dialect in DIALECTS {
        let mut server = a.app(dialect);
        let clerk = server.spawn(json!({}));
        let mut stranger = a.app(dialect);
        for daemon in [&a, &b] {
            let mut client = daemon.app(dialect);
            let id =
                client.begin(json!({"op": "call", "to": clerk, "timeout_ms": 60_000, "body": 1}));
            let call = server.event();
            assert_eq!((&call["ev"], &call["pid"]), (&json!("call"), &json!(clerk)));
            let reply = json!({"op": "reply", "ref": call["ref"], "body": "from another process"});
            assert_eq!(stranger.code(reply.clone()), "denied");
            // The session's own process answers, and so does a third one.
            server.ok(reply);
            server.ok(json!({"op": "raise", "ref": call["ref"], "class": "E"}));
            server.reply(&call, json!("twice"));
            assert_eq!(client.answer(id)["body"], "from another process");
            let id =
                client.begin(json!({"op": "call", "to": clerk, "timeout_ms": 60_000, "body": 2}));
            let call = server.event();
            server.reply(&call, json!(2));
            assert_eq!(client.answer(id)["body"], 2);
            client.nothing();
        }
    }
}
