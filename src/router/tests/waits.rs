//! Waiting until nodes are there.

use std::time::Duration;

use serde_json::json;

use super::support::Paper;
use crate::router::peers::{PeerHello, PeerId};
use crate::wire::id::{Incarnation, Node, NodeName};
use crate::wire::message::{Frame, Kind, bare_frame};

const WORKER: [(&str, &str); 1] = [("role", "worker")];

#[test]
fn an_app_waits_until_the_nodes_that_it_names_are_up() {
    let mut node = Paper::new("a");
    let app = node.open();
    node.tell(app, &json!({"op": "wait_for", "id": 1, "nodes": ["b@paper", "a@paper", "c@paper"]}));
    let b = node.meet("b", &[], false);
    assert!(node.events(app).is_empty());
    node.meet("c", &[], false);
    let heard = node.events(app);
    assert_eq!(heard, [json!({"ev": "ok", "id": 1, "nodes": ["b@paper", "a@paper", "c@paper"]})]);
    // They are there: the next one waits for nothing.
    let answer = node.ask(app, json!({"op": "wait_for", "nodes": ["b@paper"], "timeout_ms": 0}));
    assert_eq!(answer["nodes"], json!(["b@paper"]));
    node.lose(b);
    let answer = node.ask(app, json!({"op": "wait_for", "nodes": ["a@paper"]}));
    assert_eq!(answer["nodes"], json!(["a@paper"]));
    node.tell(app, &json!({"op": "wait_for", "id": 2, "nodes": ["b@paper"]}));
    assert!(node.events(app).is_empty(), "a node that was there is no node that is");
}

#[test]
fn so_many_nodes_of_a_role_are_waited_for_and_hidden_ones_do_not_count() {
    let mut node = Paper::new("a");
    let app = node.open();
    node.tell(app, &json!({"op": "wait_for", "id": 1, "role": "worker", "count": 2}));
    node.tell(app, &json!({"op": "wait_for", "id": 2, "count": 2}));
    node.meet("b", &WORKER, false);
    node.meet("c", &WORKER, true);
    assert!(node.events(app).is_empty());
    node.meet("d", &[("role", "shop")], false);
    assert_eq!(node.events(app), [json!({"ev": "ok", "id": 2, "nodes": ["b@paper", "d@paper"]})]);
    node.meet("e", &WORKER, false);
    assert_eq!(node.events(app), [json!({"ev": "ok", "id": 1, "nodes": ["b@paper", "e@paper"]})]);
}

#[test]
fn who_has_waited_long_enough_hears_who_is_missing() {
    let mut node = Paper::new("a");
    let app = node.open();
    let wait = json!({"op": "wait_for", "id": 1, "nodes": ["b@paper", "c@paper"], "role": "worker",
        "count": 3, "timeout_ms": 2000});
    node.tell(app, &wait);
    node.meet("c", &WORKER, false);
    node.pass(Duration::from_millis(1999));
    assert!(node.events(app).is_empty());
    node.pass(Duration::from_millis(1));
    let heard = node.events(app);
    assert_eq!(
        heard,
        [
            json!({"ev": "error", "id": 1, "code": "timeout", "maybe_applied": false, "nodes": ["b@paper"],
            "message": "waited 2s: b@paper is not connected, 1 of 3 nodes of role worker are connected"})
        ]
    );
    // It is over.
    node.meet("b", &[], false);
    assert!(node.events(app).is_empty());
}

#[test]
fn those_who_wait_are_bounded_and_leave_nothing_behind() {
    let mut node = Paper::new("a");
    let (app, other) = (node.open(), node.open());
    let before = node.router.next_deadline(node.now);
    for id in 0..128 {
        node.tell(app, &json!({"op": "wait_for", "id": id, "count": 1, "timeout_ms": 1_u64 << 34}));
    }
    assert_eq!(node.ask(other, json!({"op": "wait_for", "count": 1}))["code"], "overloaded");
    node.close(app);
    assert!(node.router.waits.is_empty());
    assert_eq!(node.router.next_deadline(node.now), before, "no deadline is left behind");
    node.tell(other, &json!({"op": "wait_for", "id": 1, "count": 1}));
    assert!(node.events(other).is_empty());
    for command in [
        json!({"op": "wait_for"}),
        json!({"op": "wait_for", "nodes": ["a b"]}),
        json!({"op": "wait_for", "count": 1, "timeout_ms": 1_u64 << 50}),
        json!({"op": "wait_for", "nodes": vec!["b@paper"; 257]}),
    ] {
        assert_eq!(node.ask(other, command.clone())["code"], "badarg", "{command}");
    }
}

impl Paper {
    /// Another node comes, and has announced all that it has.
    fn meet(&mut self, name: &str, labels: &[(&str, &str)], hidden: bool) -> PeerId {
        let name: NodeName = format!("{name}@paper").parse().unwrap();
        let peer = PeerId::from(name.as_str().as_bytes()[0]);
        let hello = PeerHello {
            node: Node { name, incarnation: Incarnation(1) },
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            hidden,
            addresses: Vec::new(),
            address: ([127, 0, 0, 1], 4470).into(),
        };
        self.hold(|router, now, out| router.on_peer_up(now, peer, hello, out));
        let frame = bare_frame(Kind::Announced);
        self.hold(|router, now, out| {
            let frame = Frame::read(&frame[4..]).unwrap();
            router.on_message(now, peer, frame, out).unwrap();
        });
        self.work();
        peer
    }

    fn lose(&mut self, peer: PeerId) {
        self.hold(|router, now, out| router.on_peer_down(now, peer, "connection lost", out));
        self.work();
    }
}
