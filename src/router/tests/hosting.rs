//! Hosted programs on paper: what the router asks of the edge, and what it makes of what the edge says.

use std::time::Duration;

use serde_json::{Value, json};

use super::support::{Pair, Paper};
use crate::router::Router;
use crate::router::hosting::{Exit, HostRequest, Start};
use crate::wire::host::{FactorySpec, Program, Restart, Shutdown, Strategy, SupervisorSpec};

impl Paper {
    /// What the edge is asked to do.
    fn requests(&mut self) -> Vec<HostRequest> {
        self.work();
        self.out.hosting.drain(..).collect()
    }

    /// The only program that is to be started.
    fn start(&mut self) -> Start {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        match requests.remove(0) {
            HostRequest::Start(start) => *start,
            other => panic!("{other:?}"),
        }
    }

    fn started(&mut self, run: u64) {
        self.hold(|router, now, out| {
            router.on_host_secret(run, &format!("{run}.secret"));
            router.on_host_started(now, run, Ok(4711), out);
        });
    }

    fn exited(&mut self, run: u64, code: i32) {
        let exit = Exit { code: Some(code), ..Exit::default() };
        self.hold(|router, now, out| router.on_host_exited(now, run, exit, out));
        self.work();
    }

    fn offer(&mut self, max_children: u32) {
        let factory = FactorySpec {
            name: "worker".to_owned(),
            program: Program { command: "worker".to_owned(), ..Program::default() },
            max_children,
            restart: Restart::Temporary,
            max_restarts: 3,
            max_seconds: 5,
            shutdown: Shutdown::default(),
        };
        self.hold(|router, now, out| router.on_factory_here(now, factory, out));
    }

    /// Hosts a program and lets it start.
    fn hosts(&mut self, app: u64, name: &str) -> u64 {
        self.tell(app, &json!({"op": "host", "name": name, "command": "x"}));
        let run = self.start().run;
        self.started(run);
        run
    }
}

#[test]
fn a_process_is_there_before_its_program_and_keeps_what_it_is_sent_until_that_connects() {
    let mut node = Paper::new("a");
    let app = node.open();
    node.tell(app, &json!({"op": "host", "id": 1, "name": "bot", "command": "x"}));
    let start = node.start();
    assert_eq!(node.ask(app, json!({"op": "whereis", "name": "bot"}))["pid"], start.pid.as_str());
    assert_eq!(node.ask(app, json!({"op": "send", "to": "bot", "body": "early"}))["ev"], "ok");
    node.started(start.run);
    assert_eq!(node.answer(app, 1).unwrap()["os_pid"], 4711);

    let connection = node.open();
    let token = format!("{}.secret", start.run);
    node.tell(connection, &json!({"op": "hello", "process": token}));
    let session = super::super::hosting::HOSTED_SESSIONS + start.run;
    let heard = node.events(session);
    assert_eq!(heard[0]["pid"], start.pid.as_str());
    assert_eq!(heard[1]["body"], "early");
    // Its connection goes, and it stays.
    node.close(session);
    assert_eq!(node.ask(app, json!({"op": "whereis", "name": "bot"}))["pid"], start.pid.as_str());
    assert_eq!(node.ask(app, json!({"op": "send", "to": "bot", "body": "later"}))["ev"], "ok");
}

#[test]
fn the_end_of_a_program_waits_for_the_end_of_its_connection_but_not_for_ever() {
    for closes in [true, false] {
        let mut node = Paper::new("a");
        let app = node.open();
        let run = node.hosts(app, "bot");
        let connection = node.open();
        node.tell(connection, &json!({"op": "hello", "process": format!("{run}.secret")}));
        node.ask(app, json!({"op": "monitor", "to": "bot"}));
        node.exited(run, 3);
        assert!(node.events(app).is_empty(), "it may have said something that is still to be read");
        if closes {
            node.close(super::super::hosting::HOSTED_SESSIONS + run);
        } else {
            node.pass(Duration::from_millis(500));
        }
        let heard = node.events(app);
        assert_eq!(heard[0]["reason"], "exit_status 3", "{heard:?}");
        // The next run.
        assert_ne!(node.start().run, run);
    }
}

#[test]
fn the_next_run_waits_until_the_last_program_is_gone() {
    let mut node = Paper::new("a");
    let app = node.open();
    let run = node.hosts(app, "bot");
    node.ask(app, json!({"op": "kill", "to": "bot", "reason": "bored"}));
    let stop = HostRequest::Stop { run, how: Shutdown::default() };
    assert_eq!(node.requests(), [stop]);
    assert!(node.ask(app, json!({"op": "whereis", "name": "bot"}))["pid"].is_null());
    node.pass(Duration::from_secs(60));
    assert!(node.requests().is_empty());
    node.exited(run, 0);
    let next = node.start();
    assert_eq!(next.name.as_deref(), Some("bot"));
}

#[test]
fn a_name_that_somebody_took_meanwhile_is_told_and_not_fatal() {
    let mut node = Paper::new("a");
    let (app, thief) = (node.open(), node.open());
    let run = node.hosts(app, "bot");
    node.ask(app, json!({"op": "kill", "to": "bot", "reason": "bored"}));
    assert_eq!(node.ask(thief, json!({"op": "register", "name": "bot"}))["ev"], "ok");
    node.requests();
    node.exited(run, 0);
    let requests = node.requests();
    let warned = requests.iter().any(
        |request| matches!(request, HostRequest::Warn(text) if text.contains("without its name")),
    );
    let HostRequest::Start(start) = requests.last().unwrap() else { panic!("{requests:?}") };
    assert!(warned && start.name.is_none(), "{requests:?}");
}

#[test]
fn a_supervisor_is_a_process_that_takes_no_part_in_talk() {
    let mut node = Paper::new("a");
    let app = node.open();
    let run = node.hosts(app, "bot");
    let tree = node.ask(app, json!({"op": "tree"}))["tree"].clone();
    let top = tree[0]["pid"].clone();
    assert_eq!(
        node.ask(app, json!({"op": "info", "to": "bot", "keys": ["parent"]}))["info"]["parent"],
        top
    );
    assert_eq!(node.ask(app, json!({"op": "call", "to": top, "body": 1}))["code"], "badarg");
    for op in ["send", "cast"] {
        assert_eq!(node.ask(app, json!({"op": op, "to": top, "body": 1}))["ev"], "ok");
    }
    // It traps exits, and only `kill` ends it; its children go with it, and it comes again.
    node.ask(app, json!({"op": "kill", "to": top, "reason": "bored"}));
    node.ask(app, json!({"op": "monitor", "to": top}));
    assert!(node.requests().is_empty());
    node.ask(app, json!({"op": "kill", "to": top, "reason": "kill"}));
    assert_eq!(node.events(app)[0]["reason"], "killed");
    assert_eq!(node.requests(), [HostRequest::Stop { run, how: Shutdown::default() }]);
    node.exited(run, 0);
    assert!(
        matches!(&node.requests()[..], [HostRequest::Rest { supervisor, .. }] if supervisor == "default")
    );
    assert_eq!(node.ask(app, json!({"op": "tree"}))["tree"][0]["state"], "failed");
    node.hold(|router, now, out| router.on_host_revived(now, "default", out));
    let next = node.start();
    assert_ne!(next.run, run);
    assert_ne!(node.ask(app, json!({"op": "tree"}))["tree"][0]["pid"], top);
}

#[test]
fn a_node_that_leaves_ends_its_supervisors_one_after_the_other_and_starts_nothing_more() {
    let mut node = Paper::new("a");
    let app = node.open();
    let run = node.hosts(app, "bot");
    node.offer(5);
    node.tell(app, &json!({"op": "spawn", "factory": "worker"}));
    let worker = node.start().run;
    node.started(worker);
    node.hold(Router::on_host_leave);
    let stop = |run| HostRequest::Stop { run, how: Shutdown::default() };
    assert_eq!(node.requests(), [stop(worker)], "the factory came last");
    for command in [
        json!({"op": "spawn", "factory": "worker"}),
        json!({"op": "host", "name": "x", "command": "x"}),
    ] {
        assert_eq!(node.ask(app, command)["code"], "overloaded");
    }
    node.exited(worker, 0);
    assert_eq!(node.requests(), [stop(run)]);
    assert!(!node.router.is_unhosted());
    node.exited(run, 0);
    assert!(node.router.is_unhosted() && node.requests().is_empty());
}

#[test]
fn what_cannot_be_started_leaves_nothing_also_when_nobody_waits_for_the_answer() {
    let mut node = Paper::new("a");
    let app = node.open();
    for waits in [true, false] {
        let mut host = json!({"op": "host", "name": "bot", "command": "x"});
        if waits {
            host["id"] = json!(70);
        }
        node.tell(app, &host);
        let run = node.start().run;
        node.hold(|router, now, out| {
            router.on_host_started(now, run, Err("cannot start bot".to_owned()), out);
        });
        let warned = [HostRequest::Warn("cannot start bot".to_owned())];
        assert_eq!(node.requests(), if waits { &[] } else { &warned[..] });
        let told = node.answer(app, 70);
        assert_eq!(told.is_some_and(|told| told["code"] == "cannot_start"), waits);
        let tree = node.ask(app, json!({"op": "tree"}))["tree"].clone();
        assert_eq!((&tree[0]["state"], &tree[0]["specs"]), (&json!("running"), &json!(0)));
    }
}

#[test]
fn what_cannot_be_hosted_leaves_no_supervisor_either() {
    let mut node = Paper::new("a");
    let app = node.open();
    for (name, code) in [("a b", "badarg"), ("default", "taken")] {
        let told = node.ask(app, json!({"op": "host", "name": name, "command": "x"}));
        assert_eq!(told["code"], code, "{told}");
    }
    assert_eq!(node.ask(app, json!({"op": "tree"}))["tree"], json!([]));
}

#[test]
fn a_start_that_waits_for_a_restart_is_answered_whatever_comes_of_that() {
    for ends in ["top", "late", "nobody"] {
        let mut node = Paper::new("a");
        let app = node.open();
        let top = SupervisorSpec { strategy: Strategy::OneForAll, ..SupervisorSpec::new("top") };
        node.hold(|router, now, out| router.on_host(now, top, Vec::new(), out));
        let host = |name: &str| json!({"op": "host", "id": 7, "name": name, "command": "x", "supervisor": "top"});
        let runs = ["x", "y"].map(|name| {
            node.tell(app, &host(name));
            let run = node.start().run;
            node.started(run);
            assert_eq!(node.answer(app, 7).unwrap()["ev"], "ok");
            run
        });
        node.exited(runs[0], 1);
        let stop = HostRequest::Stop { run: runs[1], how: Shutdown::default() };
        assert_eq!(node.requests(), [stop], "x comes again when y has ended");
        node.tell(app, &host("late"));
        assert!(node.requests().is_empty());
        node.tell(app, &json!({"op": "terminate_child", "name": ends}));
        node.exited(runs[1], 0);
        let starts = node.requests().len();
        if ends == "nobody" {
            assert_eq!(starts, 3);
            continue;
        }
        let told = node.answer(app, 7).unwrap();
        assert_eq!(told["code"], "cannot_start", "{told}");
        assert_eq!(starts, if ends == "top" { 0 } else { 2 });
        let tree = node.ask(app, json!({"op": "tree"}))["tree"].clone();
        assert_eq!(tree[0]["specs"], 2, "what was not started is not there");
    }
}

#[test]
fn a_child_of_a_factory_is_ended_by_its_pid() {
    let mut node = Paper::new("a");
    let app = node.open();
    node.offer(1);
    node.tell(app, &json!({"op": "spawn", "id": 1, "factory": "worker"}));
    let run = node.start().run;
    node.started(run);
    let pid = node.answer(app, 1).unwrap()["pid"].clone();
    assert_eq!(node.ask(app, json!({"op": "delete_child", "name": pid}))["code"], "badarg");
    node.tell(app, &json!({"op": "terminate_child", "id": 2, "name": pid}));
    assert_eq!(node.requests(), [HostRequest::Stop { run, how: Shutdown::default() }]);
    assert_eq!(node.answer(app, 2), None);
    node.exited(run, 0);
    assert_eq!(node.answer(app, 2).unwrap()["ev"], "ok");
    assert_eq!(node.ask(app, json!({"op": "tree"}))["tree"][0]["specs"], 0);
    assert_eq!(node.ask(app, json!({"op": "terminate_child", "name": pid}))["code"], "not_found");
}

/// `a` asks `b`, which offers a worker, to spawn one.
fn spawning(more: Value) -> (Pair, u64, u64) {
    let (a, mut b) = (Paper::new("a"), Paper::new("b"));
    b.offer(2);
    let mut pair = Pair::of(a, b);
    let app = pair.a.open();
    let mut spawn = json!({"op": "spawn", "id": 1, "factory": "worker", "node": "b@paper"});
    for (key, value) in more.as_object().unwrap() {
        spawn[key] = value.clone();
    }
    pair.a.tell(app, &spawn);
    pair.carry();
    let run = pair.b.start().run;
    (pair, app, run)
}

#[test]
fn a_spawn_elsewhere_sets_link_and_monitor_with_the_start_on_both_sides() {
    let (mut pair, app, run) = spawning(json!({"link": true, "monitor": true}));
    pair.a.ask(app, json!({"op": "flag", "trap_exit": true}));
    pair.b.started(run);
    // It ends at once: not even then is anything missed.
    pair.b.exited(run, 7);
    pair.carry();
    let told = pair.a.answer(app, 1).unwrap();
    let heard = pair.a.events(app);
    assert_eq!(heard.len(), 2, "{heard:?}");
    for event in &heard {
        assert_eq!(event["reason"], "exit_status 7");
    }
    assert!(heard.iter().any(|event| event["ev"] == "exit" && event["from"] == told["pid"]));
    assert!(heard.iter().any(|event| event["ev"] == "down" && event["ref"] == told["ref"]));
    assert_eq!(pair.a.router.references(), 0);
}

#[test]
fn what_is_started_after_its_spawner_has_given_up_or_died_is_ended_again() {
    for dies in [true, false] {
        let (mut pair, app, run) =
            spawning(json!({"link": true, "monitor": true, "timeout_ms": 100}));
        if dies {
            pair.a.close(app);
        } else {
            pair.a.pass(Duration::from_millis(100));
            let told = pair.a.answer(app, 1).unwrap();
            assert_eq!((&told["code"], &told["maybe_applied"]), (&json!("timeout"), &json!(true)));
        }
        pair.b.started(run);
        pair.carry();
        assert_eq!(pair.b.requests(), [HostRequest::Stop { run, how: Shutdown::default() }]);
        pair.b.exited(run, 0);
        pair.carry();
        assert_eq!(pair.a.router.references(), 0);
    }
}

#[test]
fn what_is_started_for_a_node_that_was_lost_meanwhile_is_ended_when_it_was_to_be_linked() {
    for link in [true, false] {
        let (mut pair, _, run) = spawning(json!({"link": link, "monitor": true}));
        pair.cut();
        pair.b.started(run);
        let stop = HostRequest::Stop { run, how: Shutdown::default() };
        assert_eq!(pair.b.requests(), if link { vec![stop] } else { vec![] });
        pair.b.exited(run, 0);
        assert_eq!(pair.b.router.references(), 0);
    }
}

#[test]
fn a_spawn_whose_node_is_lost_may_have_happened() {
    let (mut pair, app, _) = spawning(json!({}));
    pair.cut();
    let told = pair.a.answer(app, 1).unwrap();
    assert_eq!((&told["code"], &told["maybe_applied"]), (&json!("noconnection"), &json!(true)));
    let again = json!({"op": "spawn", "factory": "worker", "node": "any"});
    assert_eq!(pair.a.ask(app, again)["code"], "undef", "its offer is gone with it");
}
