//! A node on paper: its router, its outbox, its clock; and the wire between two of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::dialect::json::{frame_to_line, line_to_frame};
use crate::router::peers::{PeerHello, PeerId};
use crate::router::sessions::SessionId;
use crate::router::shared::Frames;
use crate::router::{Limits, Outbox, Router};
use crate::wire::id::{Incarnation, Node, NodeName};
use crate::wire::message::{Frame, FrameError};

pub(super) struct Paper {
    pub(super) router: Router,
    pub(super) out: Outbox,
    pub(super) now: Instant,
    inbox: BTreeMap<SessionId, Vec<Value>>,
    /// The most entries that one hold of the lock would have handled, and the most that it wrote and delivered.
    pub(super) most: (usize, usize),
    next_id: u64,
    last: u64,
}

impl Paper {
    pub(super) fn new(name: &str) -> Self {
        Self::with(name, 1, Limits::default())
    }

    pub(super) fn with(name: &str, incarnation: u64, limits: Limits) -> Self {
        let name: NodeName = format!("{name}@paper").parse().expect("a good name");
        let me = Node { name, incarnation: Incarnation(incarnation) };
        let now = tokio::time::Instant::now().into_std();
        let mut router = Router::new(me, limits);
        router.on_start(now);
        Self {
            router,
            out: Outbox::default(),
            now,
            inbox: BTreeMap::new(),
            most: (0, 0),
            next_id: 1,
            last: 0,
        }
    }

    /// What the hub does under one hold of its lock.
    pub(super) fn hold<T>(
        &mut self,
        act: impl FnOnce(&mut Router, Instant, &mut Outbox) -> T,
    ) -> T {
        self.out.begin();
        let result = act(&mut self.router, self.now, &mut self.out);
        let (handled, touched) = &mut self.most;
        *handled = self.out.handled().max(*handled);
        *touched = self.out.touched.max(*touched);
        result
    }

    pub(super) fn name(&self) -> String {
        self.router.me().name.to_string()
    }

    pub(super) fn open(&mut self) -> SessionId {
        self.open_as(true)
    }

    pub(super) fn open_as(&mut self, operator: bool) -> SessionId {
        self.last += 1;
        let last = self.last;
        self.hold(|router, _, out| router.on_session_open(last, operator, "secret", out));
        self.last
    }

    pub(super) fn close(&mut self, session: SessionId) {
        self.hold(|router, now, out| router.on_session_closed(now, session, out));
        self.work();
    }

    /// Gives a command without waiting for anything.
    pub(super) fn tell(&mut self, session: SessionId, command: &Value) {
        let mut frame = Vec::new();
        line_to_frame(command.to_string().as_bytes(), &mut frame).expect("a good line");
        self.hold(|router, now, out| router.on_command(now, session, &frame[4..], out));
        if let Some((_, to)) = self.out.rebound.take() {
            assert!(self.router.has_session(to));
        }
    }

    /// Gives a command and returns its answer.
    pub(super) fn ask(&mut self, session: SessionId, mut command: Value) -> Value {
        let id = self.next_id;
        self.next_id += 1;
        command["id"] = json!(id);
        self.tell(session, &command);
        self.work();
        self.answer(session, id).unwrap_or_else(|| panic!("no answer to {command}"))
    }

    pub(super) fn answer(&mut self, session: SessionId, id: u64) -> Option<Value> {
        self.collect(session);
        let inbox = self.inbox.entry(session).or_default();
        let at = inbox.iter().position(|event| event["id"] == id)?;
        Some(inbox.remove(at))
    }

    pub(super) fn self_pid(&mut self, session: SessionId) -> String {
        let answer = self.ask(session, json!({"op": "self"}));
        answer["pid"].as_str().expect("a pid").to_owned()
    }

    /// Everything that the app has been told since it last looked, answers to `ask` aside.
    pub(super) fn events(&mut self, session: SessionId) -> Vec<Value> {
        self.work();
        self.collect(session);
        std::mem::take(self.inbox.entry(session).or_default())
    }

    fn collect(&mut self, session: SessionId) {
        loop {
            let mut frames = Frames::default();
            self.hold(|router, _, out| {
                out.take_session(session, &mut frames);
                router.on_session_room(session, out);
            });
            self.work();
            if frames.is_empty() {
                return;
            }
            let inbox = self.inbox.entry(session).or_default();
            for frame in cut(&frames.flat()) {
                let mut line = Vec::new();
                frame_to_line(frame, &mut line);
                inbox.push(serde_json::from_slice(&line).expect("a line is JSON"));
            }
        }
    }

    /// Finishes the work that was put off.
    pub(super) fn work(&mut self) {
        while self.router.next_deadline(self.now) == Some(self.now) {
            self.hold(Router::on_deadline);
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        while self.router.next_deadline(self.now).is_some_and(|next| next <= self.now) {
            self.hold(Router::on_deadline);
        }
    }
}

impl Router {
    pub(super) fn references(&self) -> usize {
        self.refs.len()
    }

    pub(super) fn calls_kept(&self) -> [usize; 4] {
        let process = |process: &crate::router::processes::Process| {
            process.calling.len() + process.serving.len()
        };
        let peer = |peer: &crate::router::peers::Peer| peer.calls.len() + peer.serving.len();
        [
            self.calls.len() + self.gathers.len(),
            self.served.len(),
            self.processes.values().map(|found| process(found)).sum(),
            self.peers.values().map(peer).sum(),
        ]
    }

    pub(super) fn moving_kept(&self) -> (usize, usize) {
        let calls = self.calls.keys().filter(|reference| self.waits(**reference)).count();
        assert_eq!(self.moving.len(), self.moving_names.len());
        (self.moving.len(), calls)
    }

    pub(super) fn mailbox_memory(&self, pid: &str) -> usize {
        let pid: crate::wire::id::Pid = pid.parse().expect("a pid");
        self.processes.get(&pid.serial).map_or(0, |process| process.mailbox.memory())
    }
}

fn cut(frames: &[u8]) -> Vec<&[u8]> {
    let mut rest = frames;
    let mut cut = Vec::new();
    while let Some(length) = rest.first_chunk::<4>() {
        let (frame, behind) = rest.split_at(4 + u32::from_be_bytes(*length) as usize);
        cut.push(frame);
        rest = behind;
    }
    cut
}

/// Two nodes and the connection between them.
pub(super) struct Pair {
    pub(super) a: Paper,
    pub(super) b: Paper,
    connection: PeerId,
}

impl Pair {
    pub(super) fn new() -> Self {
        Self::of(Paper::new("a"), Paper::new("b"))
    }

    pub(super) fn of(a: Paper, b: Paper) -> Self {
        let mut pair = Self::apart(a, b);
        pair.join();
        pair
    }

    pub(super) fn apart(a: Paper, b: Paper) -> Self {
        Self { a, b, connection: 1_000 }
    }

    pub(super) fn join(&mut self) {
        self.join_without_work();
        self.a.work();
        self.b.work();
        self.carry();
    }

    /// The connection is accepted; what both announce is still to be told, a first slice aside.
    pub(super) fn join_without_work(&mut self) {
        self.connection += 1;
        let hello = |paper: &Paper| PeerHello {
            node: paper.router.me().clone(),
            labels: BTreeMap::new(),
            hidden: paper.router.is_hidden(),
            addresses: Vec::new(),
            address: ([127, 0, 0, 1], 4470).into(),
        };
        let (a, b) = (hello(&self.a), hello(&self.b));
        let connection = self.connection;
        self.a.hold(|router, now, out| router.on_peer_up(now, connection, b, out));
        self.b.hold(|router, now, out| router.on_peer_up(now, connection, a, out));
    }

    /// The first hears that the second has announced all that it has.
    pub(super) fn announced(&mut self) {
        let frame = crate::wire::message::bare_frame(crate::wire::message::Kind::Announced);
        let connection = self.connection;
        self.a.hold(|router, now, out| {
            let frame = Frame::read(&frame[4..]).expect("a frame");
            router.on_message(now, connection, frame, out).expect("a good frame");
        });
    }

    pub(super) fn connection(&self) -> PeerId {
        self.connection
    }

    /// Nothing is kept of any call.
    pub(super) fn assert_no_calls(&self) {
        assert_eq!(self.a.router.calls_kept(), [0; 4]);
        assert_eq!(self.b.router.calls_kept(), [0; 4]);
    }

    /// Cuts the connection; what is under way is lost.
    pub(super) fn cut(&mut self) {
        for paper in [&mut self.a, &mut self.b] {
            let connection = self.connection;
            paper.hold(|router, now, out| {
                router.on_peer_down(now, connection, "connection lost", out);
            });
            paper.work();
        }
    }

    /// Carries everything that is under way until nothing is.
    pub(super) fn carry(&mut self) {
        loop {
            let there = carry(&mut self.a, &mut self.b, self.connection);
            let back = carry(&mut self.b, &mut self.a, self.connection);
            if !there && !back {
                return;
            }
        }
    }

    /// The second hears a frame that the first never wrote.
    pub(super) fn hears(&mut self, frame: Frame<'_>) -> Result<(), FrameError> {
        let connection = self.connection;
        self.b.hold(|router, now, out| router.on_message(now, connection, frame, out))
    }

    /// Carries at most one buffer from the first to the second.
    pub(super) fn carry_once(&mut self) -> bool {
        carry(&mut self.a, &mut self.b, self.connection)
    }

    /// Asks the first node something that the second has to answer.
    pub(super) fn ask_across(&mut self, session: SessionId, mut command: Value) -> Value {
        let id = self.a.next_id;
        self.a.next_id += 1;
        command["id"] = json!(id);
        self.a.tell(session, &command);
        self.carry();
        self.a.answer(session, id).unwrap_or_else(|| panic!("no answer to {command}"))
    }
}

fn carry(from: &mut Paper, to: &mut Paper, connection: PeerId) -> bool {
    let mut bytes = Vec::new();
    let some = from.hold(|router, _, out| {
        let some = out.take_peer(connection, &mut bytes);
        router.on_peer_room(connection, out);
        some
    });
    from.work();
    let mut rest = bytes.as_slice();
    while let Some((frame, used)) = Frame::cut(rest, 1 << 20).expect("good frames") {
        if to.router.is_waiting(connection) {
            to.work();
        }
        to.hold(|router, now, out| router.on_message(now, connection, frame, out))
            .expect("a good frame");
        rest = &rest[used..];
    }
    to.work();
    some
}
