//! The same `send` or `publish` again: most apps send message after message to one address, each with the header of the
//! one before.
//!
//! What such a header means is found out by the ordinary way, which stays the only one that decides. Once a header has
//! come twice, its meaning is kept and repeated for as long as nothing has changed that it depends on
//! ([`Router::routes`] counts those changes): then a message costs a comparison, two look-ups and a copy.

use std::time::Instant;

use super::deliver::{Event, Holder, Origin};
use super::mailbox::Tag;
use super::peers::PeerId;
use super::send::Target;
use super::sessions::SessionId;
use super::shared::Shared;
use super::topics::counted::From;
use super::topics::publish::KnownTopic;
use super::topics::table::{Text, check_topic};
use super::{Outbox, Router};
use crate::wire::command::{Command, Exclude, Mode, Reach, Request};
use crate::wire::event::{self, Said};
use crate::wire::id::Address;
use crate::wire::message::{self, Kind};

/// A frame that was larger leaves no buffer behind.
const SCRATCH_BYTES_MAX: usize = 16 * 1024;
/// Longer headers are read each time, so that a session keeps little.
const START_BYTES_MAX: usize = 512;

/// What became of something that may be what was said before once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// It was, and it has been carried out.
    Done,
    /// It is, and comes again in the next hold of the lock: this one has no room for all that it takes.
    PutOff,
    /// It has to be read.
    No,
}

/// The last `send` or `publish` of a session, and what it meant.
#[derive(Debug, Default)]
pub(super) struct Last {
    /// The length of the header and the header, as they stand in the frame.
    start: Vec<u8>,
    /// The count of changes at which this was so.
    routes: u64,
    route: Option<Route>,
    /// The header of the event that it becomes; to a peer, all of the frame that comes before the body.
    lead: Vec<u8>,
    /// The topic, of a `publish`.
    known: Option<Box<KnownTopic>>,
}

#[derive(Clone, Copy, Debug)]
enum Route {
    Here { own: u64, serial: u64 },
    There { peer: PeerId, event: usize },
    Topic { own: u64 },
}

impl Router {
    /// Carries out a `send` or `publish` whose header is that of the one before it.
    ///
    /// It has no answer: whether the app reads its answers does not matter here.
    pub fn on_again(
        &mut self,
        now: Instant,
        session: SessionId,
        rest: &[u8],
        out: &mut Outbox,
    ) -> Again {
        let Some(state) = self.sessions.get_mut(&session) else { return Again::No };
        let Some(again) = &mut state.again else { return Again::No };
        if again.routes != self.routes || state.listings > 0 {
            return Again::No;
        }
        let Some(body) = rest.strip_prefix(again.start.as_slice()) else { return Again::No };
        if body.len() > self.limits.body_bytes {
            return Again::No;
        }
        match again.route {
            None => return Again::No,
            Some(Route::Topic { own }) => {
                let Some(known) = &mut again.known else { return Again::No };
                out.count(self.topics.look_up(known));
                let Some(subscriptions) = known.subscriptions() else { return Again::No };
                if subscriptions > out.left() {
                    return if out.put_off(subscriptions) { Again::PutOff } else { Again::No };
                }
                let shared = known.share(body, out);
                let said = (body, shared.as_ref());
                if !known.send(own, said, &self.peers, &self.limits, out) {
                    return Again::No;
                }
                state.commands += 1;
                self.topics.published(known.topic(), From::Here);
                if subscriptions > 0 {
                    self.publish_here(now, session, own, said, out);
                }
            }
            Some(Route::There { peer, event }) => {
                let size = again.lead.len() + body.len();
                let limit = self.limits.peer_bytes;
                let written = out.write_peer_within(peer, size, limit, |bytes| {
                    let at = bytes.len();
                    bytes.reserve(size);
                    bytes.extend_from_slice(&again.lead);
                    bytes.extend_from_slice(body);
                    message::finish(bytes, at);
                    message::finish(bytes, at + event);
                });
                if !written {
                    return Again::No;
                }
                state.commands += 1;
            }
            Some(Route::Here { own, serial }) => {
                state.commands += 1;
                let lead = std::mem::take(&mut again.lead);
                let origin = Origin::Process(Holder::Local(own));
                self.deliver(Some(now), serial, origin, Tag::Message, &lead, body, out);
                let state = self.sessions.get_mut(&session);
                if let Some(again) = state.and_then(|state| state.again.as_mut()) {
                    again.lead = lead;
                }
            }
        }
        self.clock = Some(now);
        out.count(1);
        Again::Done
    }

    /// What is published once more, to those who have subscribed here: one frame for all of them.
    fn publish_here(
        &mut self,
        now: Instant,
        session: SessionId,
        own: u64,
        (body, shared): (&[u8], Option<&Shared>),
        out: &mut Outbox,
    ) {
        let again = self.sessions.get_mut(&session).and_then(|state| state.again.as_mut());
        let Some(known) = again.and_then(|again| again.known.take()) else { return };
        let mut frame = std::mem::take(&mut self.scratch);
        frame.clear();
        let event = if let Some(shared) = shared {
            Event::Shared(shared)
        } else {
            known.put_event(body, &mut frame);
            Event::Frame(&frame)
        };
        let origin = Origin::Process(Holder::Local(own));
        self.fan_out_known(now, origin, &known, None, event, out);
        self.stall_session(now, session, known.subscriptions().unwrap_or(0), out);
        if frame.capacity() <= SCRATCH_BYTES_MAX {
            self.scratch = frame;
        }
        let again = self.sessions.get_mut(&session).and_then(|state| state.again.as_mut());
        if let Some(again) = again {
            again.known = Some(known);
        }
    }

    /// Keeps what a command means if it is a plain `send` or `publish` like the one before it.
    pub(super) fn remember(&mut self, session: SessionId, rest: &[u8], request: &Request<'_>) {
        let Request { id: None, command: Ok(command), ct: None, body, .. } = request else {
            return;
        };
        let plain = matches!(
            command,
            Command::Send { pid: None, mode: Mode::Wait, checked: false, .. }
                | Command::Publish {
                    pid: None,
                    reach: Reach::All,
                    exclude: Exclude::Nobody,
                    mode: Mode::Wait,
                    retain: false,
                    ..
                }
        );
        if !plain {
            return;
        }
        let start = &rest[..rest.len() - body.len()];
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let again = state.again.get_or_insert_default();
        if again.start != start {
            again.route = None;
            again.start.clear();
            if start.len() <= START_BYTES_MAX {
                again.start.extend_from_slice(start);
            }
            return;
        }
        let own = state.own;
        let Some(mut again) = state.again.take() else { return };
        again.routes = self.routes;
        again.lead.clear();
        let to = match command {
            Command::Publish { topic, .. } => {
                if matches!(check_topic(topic), Ok(Text::Topic)) {
                    event::put_topic_head(&mut again.lead, topic, &self.prefix, own, None);
                    let known = again.known.get_or_insert_default();
                    known.turn_here(&again.lead, topic, own);
                    again.route = Some(Route::Topic { own });
                }
                if let Some(state) = self.sessions.get_mut(&session) {
                    state.again = Some(again);
                }
                return;
            }
            Command::Send { to, .. } => to,
            _ => return,
        };
        again.known = None;
        let target = Address::parse(to).ok().and_then(|address| self.resolve(address).ok());
        again.route = match target {
            Some(Target::Here(serial)) => {
                event::put_said_head(&mut again.lead, Said::Message, &self.prefix, Some(own), None);
                Some(Route::Here { own, serial })
            }
            Some(Target::There { peer, target })
                if self.peers.get(&peer).is_some_and(|state| !state.congested) =>
            {
                message::start(&mut again.lead, Kind::Send, target.flag(), own);
                target.put(&mut again.lead);
                let event = again.lead.len();
                let mut head = std::mem::take(&mut self.scratch);
                head.clear();
                event::put_said_head(&mut head, Said::Message, &self.prefix, Some(own), None);
                event::put_frame(&mut again.lead, &head, &[]);
                self.scratch = head;
                Some(Route::There { peer, event })
            }
            Some(
                Target::There { .. } | Target::NoName(_) | Target::NoGlobal(_) | Target::Nowhere,
            )
            | None => None,
        };
        if let Some(state) = self.sessions.get_mut(&session) {
            state.again = Some(again);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::hub::PeerHello;
    use crate::router::Limits;
    use crate::router::shared::Frames;
    use crate::wire::id::{Incarnation, Node};
    use crate::wire::message::Frame;

    struct World {
        router: Router,
        out: Outbox,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            let me = node("a", 1);
            let router = Router::new(me, Limits::default());
            let mut world = Self {
                router,
                out: Outbox::default(),
                now: tokio::time::Instant::now().into_std(),
            };
            for session in 1..=3 {
                world.router.on_session_open(session, true, "secret", &mut world.out);
            }
            world
        }

        fn say(&mut self, session: SessionId, header: &serde_json::Value, body: &[u8]) {
            let mut bytes = Vec::new();
            ciborium::into_writer(header, &mut bytes).expect("plain data");
            let length = u16::try_from(bytes.len()).expect("short").to_be_bytes();
            let rest = [&length[..], &bytes, body].concat();
            self.router.on_command(self.now, session, &rest, &mut self.out);
        }

        fn send(&mut self, to: &str, body: u8) {
            self.say(1, &serde_json::json!({"op": "send", "to": to}), &[body]);
        }

        /// The bodies (or the codes of failures) that a session was told since the last time.
        fn heard(&mut self, session: SessionId) -> Vec<String> {
            let mut frames = Frames::default();
            let _ = self.out.take_session(session, &mut frames);
            let mut told = Vec::new();
            let mut rest = frames.buffer().as_slice();
            while let Some(length) = rest.first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize + 4;
                let (head, body) = event::split_frame(&rest[..length]).expect("a whole frame");
                let head: serde_json::Value = ciborium::from_reader(head).expect("a header");
                match head["ev"].as_str() {
                    Some("message") => told.push(body[0].to_string()),
                    Some("failed") => told.push(head["code"].as_str().unwrap_or("").to_owned()),
                    _ => {}
                }
                rest = &rest[length..];
            }
            told
        }

        fn peer_up(&mut self, peer: PeerId, incarnation: u64) {
            let hello = PeerHello {
                node: node("b", incarnation),
                labels: BTreeMap::new(),
                hidden: false,
                addresses: Vec::new(),
                address: "127.0.0.1:1".parse().expect("an address"),
            };
            self.router.on_peer_up(self.now, peer, hello, &mut self.out);
            let _ = self.out.take_peer(peer, &mut Vec::new());
            let announced = message::bare_frame(Kind::Announced);
            let frame = Frame::read(&announced[4..]).expect("a frame");
            self.router.on_message(self.now, peer, frame, &mut self.out).expect("a good frame");
        }

        /// The frames that wait for a peer: target and body.
        fn gone(&mut self, peer: PeerId) -> Vec<(String, u8)> {
            let mut bytes = Vec::new();
            let _ = self.out.take_peer(peer, &mut bytes);
            let mut gone = Vec::new();
            let mut rest = bytes.as_slice();
            while let Some((frame, used)) = Frame::cut(rest, 70_000).expect("good frames") {
                assert_eq!((frame.kind, frame.flags, frame.serial), (Kind::Send as u8, 1, 100));
                let (target, event) = frame.payload[2..].split_at(usize::from(frame.payload[1]));
                let (_, body) = event::split_frame(event).expect("a whole event");
                gone.push((String::from_utf8_lossy(target).into_owned(), body[0]));
                rest = &rest[used..];
            }
            gone
        }
    }

    fn node(base: &str, incarnation: u64) -> Node {
        let name = format!("{base}@h").parse().expect("a good name");
        Node { name, incarnation: Incarnation(incarnation) }
    }

    fn register(name: &str) -> serde_json::Value {
        serde_json::json!({"op": "register", "name": name})
    }

    #[test]
    fn a_repeated_send_follows_its_name_from_one_process_to_the_next() {
        let mut world = World::new();
        world.say(2, &register("stock"), &[]);
        for body in 0..4 {
            world.send("stock", body);
        }
        assert_eq!(world.heard(2), ["0", "1", "2", "3"]);
        world.say(2, &serde_json::json!({"op": "unregister", "name": "stock"}), &[]);
        world.send("stock", 4);
        assert_eq!(world.heard(1), ["noproc"]);
        world.say(3, &register("stock"), &[]);
        for body in 5..8 {
            world.send("stock", body);
        }
        assert_eq!(world.heard(2), [""; 0]);
        assert_eq!(world.heard(3), ["5", "6", "7"]);
    }

    #[test]
    fn a_repeated_send_fails_once_its_process_has_died() {
        let mut world = World::new();
        world.say(2, &register("stock"), &[]);
        for body in 0..3 {
            world.send("stock", body);
        }
        world.router.on_session_closed(world.now, 2, &mut world.out);
        world.send("stock", 3);
        assert_eq!(world.heard(1), ["noproc"]);
    }

    #[test]
    fn a_repeated_send_reaches_the_connection_that_is_there_now() {
        let mut world = World::new();
        world.peer_up(7, 1);
        for body in 0..3 {
            world.send("stock@b@h", body);
        }
        let stock = |body| ("stock".to_owned(), body);
        assert_eq!(world.gone(7), [stock(0), stock(1), stock(2)]);
        world.router.on_peer_down(world.now, 7, "connection lost", &mut world.out);
        world.send("stock@b@h", 3);
        world.peer_up(8, 2);
        for body in 4..7 {
            world.send("stock@b@h", body);
        }
        assert_eq!(world.gone(8), [stock(4), stock(5), stock(6)]);
    }

    #[test]
    fn a_body_over_the_limit_is_refused_the_third_time_too() {
        let mut world = World::new();
        world.say(2, &register("stock"), &[]);
        for body in 0..3 {
            world.send("stock", body);
        }
        let long = vec![0; Limits::default().body_bytes + 1];
        world.say(1, &serde_json::json!({"op": "send", "to": "stock"}), &long);
        assert_eq!(world.heard(1), ["too_large"]);
        assert_eq!(world.heard(2), ["0", "1", "2"]);
    }

    #[test]
    fn what_a_peer_repeats_follows_its_name_too() {
        let mut world = World::new();
        world.peer_up(7, 1);
        let hear = |world: &mut World, body: u8| {
            let mut frame = Vec::new();
            let at = message::start(&mut frame, Kind::Send, message::TARGET_NAME, 100);
            frame.extend_from_slice(b"\x00\x05stock");
            event::put_frame(&mut frame, b"\xa1\x62ev\x67message", &[body]);
            message::finish(&mut frame, at);
            let (frame, _) = Frame::cut(&frame, 70_000).expect("a good frame").expect("whole");
            world.router.on_message(world.now, 7, frame, &mut world.out).expect("a good message");
        };
        world.say(2, &register("stock"), &[]);
        hear(&mut world, 0);
        hear(&mut world, 1);
        assert_eq!(world.heard(2), ["0", "1"]);
        world.say(2, &serde_json::json!({"op": "unregister", "name": "stock"}), &[]);
        hear(&mut world, 2);
        world.say(3, &register("stock"), &[]);
        hear(&mut world, 3);
        assert_eq!(world.heard(2), [""; 0]);
        assert_eq!(world.heard(3), ["3"]);
    }
}
