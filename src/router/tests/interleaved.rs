//! Presence however things interleave: connections that break halfway, nodes that start anew, watchers that come in the midst.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use super::super::Limits;
use super::presence::{Fold, by, list, sorted, spawn, track};
use super::support::Paper;
use crate::router::peers::{PeerHello, PeerId};
use crate::wire::message::Frame;

/// Three nodes and the connections between them, each of which carries as many frames as it is told to.
struct Mesh {
    nodes: Vec<Paper>,
    runs: u64,
    connections: BTreeMap<(usize, usize), Wire>,
    last: PeerId,
}

struct Wire {
    id: PeerId,
    /// What each of the two has still to hear; none where it has given up the connection.
    under_way: [Option<VecDeque<u8>>; 2],
}

impl Mesh {
    fn new() -> Self {
        let nodes = ["a", "b", "c"].map(Paper::new).into_iter().collect();
        Self { nodes, runs: 1, connections: BTreeMap::new(), last: 1_000 }
    }

    fn join(&mut self, i: usize, j: usize) {
        let (i, j) = (i.min(j), i.max(j));
        if i == j || self.connections.contains_key(&(i, j)) {
            return;
        }
        self.last += 1;
        let id = self.last;
        for (here, there) in [(i, j), (j, i)] {
            let hello = PeerHello {
                node: self.nodes[there].router.me().clone(),
                labels: BTreeMap::new(),
                hidden: false,
                addresses: Vec::new(),
                address: ([127, 0, 0, 1], 4470).into(),
            };
            self.nodes[here].hold(|router, now, out| router.on_peer_up(now, id, hello, out));
        }
        let under_way = [Some(VecDeque::new()), Some(VecDeque::new())];
        self.connections.insert((i, j), Wire { id, under_way });
    }

    /// One side notices that a connection is gone; the other one does later.
    fn lose(&mut self, i: usize, j: usize, side: usize) {
        let Some(wire) = self.connections.get_mut(&(i, j)) else { return };
        if wire.under_way[side].take().is_some() {
            let id = wire.id;
            let node = &mut self.nodes[[i, j][side]];
            node.hold(|router, now, out| router.on_peer_down(now, id, "connection lost", out));
        }
        if wire.under_way == [None, None] {
            self.connections.remove(&(i, j));
        }
    }

    /// Moves at most so many frames to one side. Whether there were any.
    fn carry(&mut self, i: usize, j: usize, side: usize, frames: usize) -> bool {
        let Some(wire) = self.connections.get_mut(&(i, j)) else { return false };
        let id = wire.id;
        let (from, to) = ([i, j][1 - side], [i, j][side]);
        let mut bytes = Vec::new();
        if wire.under_way[1 - side].is_some() {
            self.nodes[from].hold(|router, _, out| {
                out.take_peer(id, &mut bytes);
                router.on_peer_room(id, out);
            });
        }
        let Some(under_way) = &mut wire.under_way[side] else { return false };
        under_way.extend(bytes);
        let mut some = false;
        for _ in 0..frames {
            let rest = under_way.make_contiguous();
            let Some((frame, used)) = Frame::cut(rest, 1 << 20).expect("good frames") else {
                break;
            };
            if self.nodes[to].router.is_waiting(id) {
                self.nodes[to].work();
            }
            self.nodes[to]
                .hold(|router, now, out| router.on_message(now, id, frame, out))
                .expect("a good frame");
            under_way.drain(..used);
            some = true;
        }
        some
    }

    fn settle(&mut self) {
        loop {
            let mut some = false;
            for node in &mut self.nodes {
                node.work();
            }
            for (i, j) in [(0, 1), (0, 2), (1, 2)] {
                some |= self.carry(i, j, 0, usize::MAX) | self.carry(i, j, 1, usize::MAX);
            }
            if !some {
                return;
            }
        }
    }

    /// Another run of a node; what it had is gone without a word.
    fn restart(&mut self, i: usize) {
        let of = |key: &&(usize, usize)| key.0 == i || key.1 == i;
        let keys: Vec<(usize, usize)> = self.connections.keys().filter(of).copied().collect();
        for (a, b) in keys {
            self.lose(a, b, 0);
            self.lose(a, b, 1);
        }
        self.runs += 1;
        let name = ["a", "b", "c"][i];
        self.nodes[i] = Paper::with(name, self.runs, Limits::default());
    }
}

/// The app of a node: its processes, where each is present, and who watches.
#[derive(Default)]
struct App {
    session: u64,
    processes: Vec<Value>,
    present: BTreeMap<(String, String, String), Value>,
    watching: Vec<(Value, Value, String, Fold)>,
}

impl App {
    fn open(node: &mut Paper) -> Self {
        Self { session: node.open(), ..Self::default() }
    }

    fn hear(&mut self, node: &mut Paper) {
        for (pid, _, _, fold) in &mut self.watching {
            let flush = json!({"op": "flush", "pid": pid});
            let messages = node.ask(self.session, flush)["messages"].clone();
            fold.hear(messages.as_array().expect("messages"));
        }
    }
}

#[test]
fn however_connections_break_and_come_back_all_nodes_list_exactly_the_living_and_watchers_agree() {
    const TOPICS: [&str; 2] = ["room", "hall"];
    let rounds = std::env::var("PILLION_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let first = std::env::var("PILLION_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    for seed in first..first + rounds {
        let mut state: u64 = seed;
        let mut draw = move |bound: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).expect("31 bits") % bound
        };
        let mut mesh = Mesh::new();
        let mut apps: Vec<App> = mesh.nodes.iter_mut().map(App::open).collect();
        for _ in 0..400 {
            let (i, j) = [(0, 1), (0, 2), (1, 2)][draw(3)];
            let at = draw(3);
            let app = &mut apps[at];
            let node = &mut mesh.nodes[at];
            let session = app.session;
            let topic = TOPICS[draw(2)];
            let key = format!("{}", draw(4));
            let some = draw(8) % app.processes.len().max(1);
            let some = app.processes.get(some).cloned();
            let pid = some.as_ref().map(|pid| pid.as_str().expect("a pid").to_owned());
            let place = pid.map(|pid| (topic.to_owned(), key.clone(), pid));
            match (draw(20), some, place) {
                (0 | 1, ..) => mesh.join(i, j),
                (2, ..) => mesh.lose(i, j, draw(2)),
                (3, ..) if draw(4) == 0 => {
                    mesh.restart(at);
                    apps[at] = App::open(&mut mesh.nodes[at]);
                }
                (4, None, _) | (5, ..) => app.processes.push(spawn(node, session)),
                (6, Some(pid), _) => {
                    node.tell(session, &json!({"op": "exit", "pid": pid, "reason": "done"}));
                    app.processes.retain(|process| *process != pid);
                    app.present.retain(|(_, _, owner), _| json!(owner) != pid);
                }
                (7, ..) if app.watching.len() < 4 => {
                    let pid = spawn(node, session);
                    let watch = json!({"op": "monitor_presence", "topic": topic, "pid": pid});
                    let id = json!(format!("watch{}", app.watching.len()));
                    let mut watch = watch;
                    watch["id"] = id.clone();
                    node.tell(session, &watch);
                    app.watching.push((pid, id, topic.to_owned(), Fold::default()));
                }
                (8..=10, Some(pid), Some(place)) => {
                    let metadata = json!(draw(1000));
                    node.tell(session, &by(track(topic, &key, &metadata), &pid));
                    app.present.entry(place).or_insert(metadata);
                }
                (11, Some(pid), Some(place)) if app.present.contains_key(&place) => {
                    let metadata = json!(draw(1000));
                    let mut update = by(track(topic, &key, &metadata), &pid);
                    update["op"] = json!("update_presence");
                    node.tell(session, &update);
                    app.present.insert(place, metadata);
                }
                (12, Some(pid), Some(place)) => {
                    let untrack = json!({"op": "untrack", "topic": topic, "key": key, "pid": pid});
                    node.tell(session, &untrack);
                    app.present.remove(&place);
                }
                (13, ..) => node.hold(crate::router::Router::on_deadline),
                (14, ..) => app.hear(node),
                _ => drop(mesh.carry(i, j, draw(2), 1 + draw(4))),
            }
        }
        for (i, j) in [(0, 1), (0, 2), (1, 2)] {
            let half = mesh.connections.get(&(i, j)).is_some_and(|w| w.under_way.contains(&None));
            if half {
                mesh.lose(i, j, 0);
                mesh.lose(i, j, 1);
            }
            mesh.join(i, j);
        }
        mesh.settle();
        for topic in TOPICS {
            let expected: BTreeMap<(String, String), Value> = apps
                .iter()
                .flat_map(|app| &app.present)
                .filter(|((of, ..), _)| of == topic)
                .map(|((_, key, pid), metadata)| ((key.clone(), pid.clone()), metadata.clone()))
                .collect();
            for (node, app) in mesh.nodes.iter_mut().zip(&mut apps) {
                let rows = list(node, app.session, topic);
                let told: BTreeMap<(String, String), Value> = rows
                    .iter()
                    .map(|row| {
                        let text = |key: &str| row[key].as_str().expect("a text").to_owned();
                        ((text("key"), text("pid")), row["metadata"].clone())
                    })
                    .collect();
                assert_eq!(told, expected, "seed {seed}: {topic} at {}", node.name());
                app.hear(node);
                for (_, _, of, fold) in &app.watching {
                    if of == topic {
                        assert_eq!(fold.rows(), sorted(rows.clone()), "seed {seed}: {topic}");
                        assert!(fold.whole, "seed {seed}");
                    }
                }
            }
        }
        // Nothing is left of those that have gone.
        for (node, app) in mesh.nodes.iter_mut().zip(&apps) {
            node.close(app.session);
        }
        mesh.settle();
        for node in &mesh.nodes {
            assert_eq!(node.router.presences_kept(), [0; 4], "seed {seed}");
        }
    }
}

#[test]
fn who_begins_to_watch_while_much_is_being_told_hears_of_each_change_once() {
    for seed in 1..=8_u64 {
        let mut state = seed;
        let mut draw = move |bound: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).expect("31 bits") % bound
        };
        let mut node = Paper::new("a");
        let (app, many, other) = (node.open(), node.open(), node.open());
        // In half of the rounds more than one who does not read is told at once, in the others more than one slice tells.
        let fat = "x".repeat(if seed % 2 == 0 { 1200 } else { 10 });
        for n in 0..700 {
            node.tell(app, &track("room", &format!("{n:03}"), &json!([0, fat])));
        }
        for _ in 0..700 {
            let pid = spawn(&mut node, many);
            node.tell(many, &json!({"op": "monitor_presence", "topic": "noise", "pid": pid}));
        }
        let mut watchers: Vec<(Value, Fold)> = Vec::new();
        for n in 0..300 {
            let key = format!("{:03}", draw(900));
            match draw(10) {
                0 => {
                    let op = if draw(2) == 0 { "track" } else { "untrack" };
                    node.tell(app, &json!({"op": op, "topic": "noise", "key": "n"}));
                }
                1 if watchers.len() < 8 => {
                    let pid = spawn(&mut node, other);
                    let watch = json!({"op": "monitor_presence", "topic": "room", "pid": pid});
                    node.tell(app, &json!({"op": "track", "topic": "noise", "key": "w"}));
                    node.tell(app, &json!({"op": "untrack", "topic": "noise", "key": "w"}));
                    node.tell(app, &track("room", &key, &json!([n, fat])));
                    node.tell(other, &watch);
                    watchers.push((pid, Fold::default()));
                }
                2 | 3 => node.tell(app, &track("room", &key, &json!([n, fat]))),
                4 | 5 => {
                    node.tell(app, &json!({"op": "untrack", "topic": "room", "key": key}));
                }
                6 | 7 => {
                    let mut update = track("room", &key, &json!([n, fat]));
                    update["op"] = json!("update_presence");
                    node.tell(app, &update);
                }
                8 => node.hold(crate::router::Router::on_deadline),
                _ if !watchers.is_empty() => {
                    let some = draw(watchers.len());
                    let (pid, fold) = &mut watchers[some];
                    let receive = json!({"op": "receive", "pid": pid, "max": 1 + draw(20)});
                    let messages = node.ask(other, receive)["messages"].clone();
                    fold.hear(messages.as_array().expect("messages"));
                }
                _ => {}
            }
        }
        for (pid, fold) in &mut watchers {
            loop {
                let flush = json!({"op": "flush", "pid": pid});
                let messages = node.ask(other, flush)["messages"].clone();
                let messages = messages.as_array().expect("messages");
                if messages.is_empty() {
                    break;
                }
                fold.hear(messages);
            }
            assert!(fold.whole, "seed {seed}");
            assert_eq!(fold.rows(), sorted(list(&mut node, app, "room")), "seed {seed}");
        }
        assert!(watchers.len() > 3);
        assert_eq!(node.router.presences_kept()[3], 0);
    }
}
