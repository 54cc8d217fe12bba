//! A node on paper: a real router that says what it would write.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pillion::dialect::json::line_to_frame;
use pillion::router::peers::{PeerHello, PeerId};
use pillion::router::sessions::SessionId;
use pillion::router::shared::Frames;
use pillion::router::{Limits, Outbox, Router};
use pillion::wire::id::{Incarnation, Node};
use pillion::wire::message::{Frame, Kind, bare_frame};

/// The incarnation of every node here.
pub(crate) const RUN: u64 = 0x019b_3f0c_2a4e_5f3c;
/// The connection to the other node.
pub(crate) const PEER: PeerId = 1000;

pub(crate) struct Paper {
    pub(crate) router: Router,
    pub(crate) out: Outbox,
    pub(crate) now: Instant,
    sessions: SessionId,
}

impl Paper {
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, Limits::default())
    }

    pub(crate) fn with(name: &str, limits: Limits) -> Self {
        Self {
            router: Router::new(node(name), limits),
            out: Outbox::default(),
            now: tokio::time::Instant::now().into_std(),
            sessions: 0,
        }
    }

    /// An app connects.
    pub(crate) fn open(&mut self, operator: bool) -> SessionId {
        self.sessions += 1;
        let secret = format!("{:032x}", self.sessions);
        self.router.on_session_open(self.sessions, operator, &secret, &mut self.out);
        self.sessions
    }

    /// An app says something; the frames that it hears.
    pub(crate) fn say(&mut self, session: SessionId, line: &str) -> Vec<Vec<u8>> {
        let mut frame = Vec::new();
        line_to_frame(line.as_bytes(), &mut frame).expect(line);
        self.out.begin();
        self.router.on_command(self.now, session, &frame[4..], &mut self.out);
        self.heard(session)
    }

    /// An app says something and hears one thing.
    pub(crate) fn answer(&mut self, session: SessionId, line: &str) -> Vec<u8> {
        let mut heard = self.say(session, line);
        assert_eq!(heard.len(), 1, "{line} has {} answers", heard.len());
        heard.remove(0)
    }

    /// What an app has been told since it last looked.
    pub(crate) fn heard(&mut self, session: SessionId) -> Vec<Vec<u8>> {
        self.pass(Duration::ZERO);
        let mut frames = Frames::default();
        let _ = self.out.take_session(session, &mut frames);
        self.router.on_session_room(session, &mut self.out);
        cut(&frames.flat())
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
        while self.router.next_deadline(self.now).is_some_and(|next| next <= self.now) {
            self.router.on_deadline(self.now, &mut self.out);
        }
    }

    pub(crate) fn meet(&mut self, name: &str) {
        self.meet_and_keep(name);
        self.towards_peer();
        self.hear_peer(&bare_frame(Kind::Announced));
        self.pass(Duration::ZERO);
    }

    /// Meets it, and keeps what this node has to announce.
    pub(crate) fn meet_and_keep(&mut self, name: &str) {
        self.router.on_peer_up(self.now, PEER, hello(name), &mut self.out);
        self.pass(Duration::ZERO);
    }

    pub(crate) fn part(&mut self, reason: &str) {
        self.router.on_peer_down(self.now, PEER, reason, &mut self.out);
        self.pass(Duration::ZERO);
    }

    /// The frames on their way to the other node.
    pub(crate) fn towards_peer(&mut self) -> Vec<Vec<u8>> {
        let mut bytes = Vec::new();
        let _ = self.out.take_peer(PEER, &mut bytes);
        self.router.on_peer_room(PEER, &mut self.out);
        cut(&bytes)
    }

    /// The other node says something.
    pub(crate) fn hear_peer(&mut self, frame: &[u8]) {
        let (frame, _) = Frame::cut(frame, 1 << 20).expect("a frame").expect("a whole one");
        self.router.on_message(self.now, PEER, frame, &mut self.out).expect("a good frame");
        self.pass(Duration::ZERO);
    }
}

fn hello(name: &str) -> PeerHello {
    PeerHello {
        node: node(name),
        labels: BTreeMap::from([("role".to_owned(), "store".to_owned())]),
        hidden: false,
        addresses: vec![([192, 0, 2, 7], 4470).into()],
        address: ([192, 0, 2, 7], 50_000).into(),
    }
}

/// Carries everything that two nodes have to say to each other.
pub(crate) fn carry(one: &mut Paper, other: &mut Paper) -> Vec<Vec<u8>> {
    let mut carried = Vec::new();
    loop {
        let (there, back) = (one.towards_peer(), other.towards_peer());
        if there.is_empty() && back.is_empty() {
            return carried;
        }
        for frame in &there {
            other.hear_peer(frame);
        }
        for frame in &back {
            one.hear_peer(frame);
        }
        carried.extend(there);
        carried.extend(back);
    }
}

pub(crate) fn node(name: &str) -> Node {
    Node { name: name.parse().expect("a good name"), incarnation: Incarnation(RUN) }
}

/// Whole frames, one after the other.
fn cut(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut rest = bytes;
    while let Some(length) = rest.first_chunk::<4>() {
        let (frame, behind) = rest.split_at(4 + u32::from_be_bytes(*length) as usize);
        frames.push(frame.to_vec());
        rest = behind;
    }
    frames
}
