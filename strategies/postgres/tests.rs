//! The promises of every strategy, with a database from memory and a clock that is paused.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::Poll;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::session::Connected;
use super::*;
use crate::conformance::{Fault, Node, Place, announcement};
use crate::{Health, Report};

/// What waits to be heard on one connection.
#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    waker: Option<Waker>,
}

#[derive(Default)]
struct State {
    /// The connections, with the numbers of their making.
    open: Vec<(u64, Arc<Mutex<Queue>>)>,
    made: u64,
    fault: Option<Fault>,
    /// Everything that was said.
    said: Vec<String>,
    /// Nobody hears what is said, as behind a pooler.
    is_mute: bool,
}

impl State {
    fn say(&mut self, text: &str) {
        self.said.push(text.to_owned());
        if self.is_mute {
            return;
        }
        for (_, queue) in &self.open {
            let mut queue = queue.lock().expect("whole");
            queue.events.push_back(Event::Heard(text.to_owned()));
            queue.waker.take().into_iter().for_each(Waker::wake);
        }
    }

    fn wake_all(&self) {
        for (_, queue) in &self.open {
            queue.lock().expect("whole").waker.take().into_iter().for_each(Waker::wake);
        }
    }
}

/// A database of its own.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<State>>);

struct InMemory {
    memory: Memory,
    number: u64,
    queue: Arc<Mutex<Queue>>,
    sending: Option<(String, Pin<Box<tokio::time::Sleep>>)>,
}

impl Session for InMemory {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, String>> {
        self.queue.lock().expect("whole").waker = Some(cx.waker().clone());
        let fault = self.memory.0.lock().expect("whole").fault;
        match fault {
            Some(Fault::Error) => return Poll::Ready(Err("it closed the connection".into())),
            Some(Fault::Malformed) => return Poll::Ready(Err("unexpected message".into())),
            Some(Fault::Silent) => return Poll::Pending,
            _ => {}
        }
        if let Some((text, late)) = &mut self.sending
            && late.as_mut().poll(cx).is_ready()
        {
            let text = std::mem::take(text);
            self.sending = None;
            self.memory.0.lock().expect("whole").say(&text);
            self.queue.lock().expect("whole").events.push_back(Event::Sent);
        }
        match self.queue.lock().expect("whole").events.pop_front() {
            Some(event) => Poll::Ready(Ok(event)),
            None => Poll::Pending,
        }
    }

    fn send(&mut self, payload: &str) -> Result<(), String> {
        let is_slow = self.memory.0.lock().expect("whole").fault == Some(Fault::Slow);
        let late = Duration::from_secs(if is_slow { 7 } else { 0 });
        self.sending = Some((payload.to_owned(), Box::pin(sleep(late))));
        Ok(())
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        self.memory.0.lock().expect("whole").open.retain(|(number, _)| *number != self.number);
    }
}

impl Memory {
    fn strategy(&self, url: &str) -> Postgres {
        let memory = self.clone();
        let connect: Connect = Arc::new(move |_| {
            let memory = memory.clone();
            Box::pin(async move {
                let fault = memory.0.lock().expect("whole").fault;
                match fault {
                    Some(Fault::Error) => return Err("connection refused".into()),
                    Some(Fault::Malformed) => return Err("it cannot be read".into()),
                    Some(Fault::Silent) => std::future::pending().await,
                    Some(Fault::Slow) => sleep(Duration::from_secs(7)).await,
                    _ => {}
                }
                let queue = Arc::new(Mutex::new(Queue::default()));
                let mut state = memory.0.lock().expect("whole");
                state.made += 1;
                let number = state.made;
                state.open.push((number, Arc::clone(&queue)));
                drop(state);
                let session = InMemory { memory, number, queue, sending: None };
                let from = Some(Ipv4Addr::LOCALHOST.into());
                Ok(Connected { session: Box::new(session), from })
            })
        });
        let made = Postgres::from_url(&Url::parse(url).expect("a url")).expect("good options");
        Postgres { connect, ..made }
    }
}

impl Place for Memory {
    fn strategy(&self) -> Box<dyn Strategy> {
        Box::new(Self::strategy(self, "postgres://shop@db/shop"))
    }

    fn spoil(&self) {
        let mut state = self.0.lock().expect("whole");
        for text in ["", "hello", "{}", "[[[[", "{\"say\":\"here\"}", "\u{0}\u{1b}[2J"] {
            state.say(text);
        }
    }

    fn fault(&self, fault: Fault) -> bool {
        let mut state = self.0.lock().expect("whole");
        // Nobody is ever in an answer of a database: nodes speak for themselves.
        if matches!(fault, Fault::Empty | Fault::Partial) {
            return false;
        }
        state.fault = Some(fault);
        state.wake_all();
        true
    }

    fn mend(&self) {
        let mut state = self.0.lock().expect("whole");
        state.fault = None;
        state.wake_all();
    }

    fn hours_pass(&self) -> bool {
        true
    }
}

crate::conformance!(Ok::<_, String>(Memory::default()), start_paused = true);

fn said(memory: &Memory, say: &str, n: u16) -> usize {
    let needle = format!("{{\"say\":\"{say}\",\"node\":\"{}\"", announcement(n).node);
    memory.0.lock().expect("whole").said.iter().filter(|said| said.starts_with(&needle)).count()
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_is_answered_at_once_and_many_newcomers_once_a_second() {
    let memory = Memory::default();
    let mut old = Node::start(&memory, 1);
    old.reports("being connected", |report| report.health == Health::Well).await;
    sleep(Duration::from_secs(2)).await;
    let before = said(&memory, "here", 1);
    let started = Instant::now();
    let mut new = Node::start(&memory, 2);
    new.sees(&old).await;
    assert!(started.elapsed() <= Duration::from_millis(200), "{:?}", started.elapsed());
    assert_eq!(said(&memory, "here", 1), before + 1);
    let crowd: Vec<Node> = (3..100).map(|n| Node::start(&memory, n)).collect();
    sleep(Duration::from_secs(3)).await;
    assert!(said(&memory, "here", 1) <= before + 5);
    drop(crowd);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_says_so_and_one_that_is_killed_is_gone_after_three_heartbeats() {
    let memory = Memory::default();
    let mut node = Node::start(&memory, 1);
    let stops = Node::start(&memory, 2);
    node.sees(&stops).await;
    let gone = stops.announcement.clone();
    let started = Instant::now();
    drop(stops);
    node.forgets(&gone).await;
    assert!(started.elapsed() < Duration::from_millis(100), "{:?}", started.elapsed());
    assert_eq!(said(&memory, "bye", 2), 1);

    let message =
        Message::of(&announcement(3), vec!["127.0.0.1:40003".parse().expect("good")], HEARTBEAT);
    let text = message.text(Say::Here).expect("short");
    memory.0.lock().expect("whole").say(&text);
    let seen = |report: &Report| report.sightings.len() == 1;
    node.reports("the one that will be killed", seen).await;
    let started = Instant::now();
    node.forgets(&announcement(3)).await;
    let after = started.elapsed();
    assert!((HEARTBEAT * 3..HEARTBEAT * 5).contains(&after), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_started_again_replaces_its_earlier_run() {
    let memory = Memory::default();
    let mut node = Node::start(&memory, 1);
    node.reports("being connected", |report| report.health == Health::Well).await;
    for run in 1..=3 {
        let own = Announcement { incarnation: run, ..announcement(2) };
        let address = vec!["127.0.0.1:40002".parse().expect("an address")];
        let text = Message::of(&own, address, HEARTBEAT).text(Say::Hello).expect("short");
        memory.0.lock().expect("whole").say(&text);
        let only = |report: &Report| {
            report.sightings.iter().map(|s| s.incarnation).collect::<Vec<_>>() == [Some(run)]
        };
        node.reports("that run alone", only).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pooler_that_swallows_what_is_said_is_told_in_words() {
    let memory = Memory::default();
    memory.0.lock().expect("whole").is_mute = true;
    let mut node = Node::start(&memory, 1);
    let told = |r: &Report| matches!(&r.health, Health::Unwell(why) if why.contains("pooler"));
    node.reports("the pooler", told).await;
    memory.0.lock().expect("whole").is_mute = false;
    node.reports("itself", |report| report.health == Health::Well).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_nobody_can_dial_sees_others_and_says_so() {
    let memory = Memory::default();
    let other = Node::start(&memory, 1);
    let from = Some("10.0.0.1".parse().expect("an address"));
    let strategy = memory.strategy("postgres://shop@db/shop");
    let inner = Arc::clone(&strategy.connect);
    let connect: Connect = Arc::new(move |channel| {
        let connecting = inner(channel);
        Box::pin(async move { Ok(Connected { from, ..connecting.await? }) })
    });
    let strategy = Postgres { connect, ..strategy };
    let listen = vec!["127.0.0.1:4470".parse().expect("an address")];
    let own = Announcement { listen, ..announcement(2) };
    let (reporter, mut reports): (_, watch::Receiver<Report>) = Reporter::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { strategy.watch(&own, &reporter).await.map_err(|e| e.to_string()) });
    // What others announce on loopback is of no use from elsewhere.
    let told = |r: &Report| matches!(&r.health, Health::Unwell(why) if why.contains("no address is announced"));
    let report = reports.wait_for(told).await.expect("alive").clone();
    assert!(report.sightings.iter().flat_map(|s| &s.addresses).all(|a| !a.ip().is_loopback()));
    drop(other);
}

#[test]
fn options_that_cannot_be_meant_are_refused_in_words_without_the_password() {
    for (url, words) in [
        ("postgres://", "postgres://user@host/database"),
        ("postgres:///shop", "no host"),
        ("postgres://a:s3cret@db:port/x", "no good address"),
        ("postgres://a:s3cret@db/x?sslmode=prefer", "sslmode"),
        ("postgres://a:s3cret@db/x?sslmode=verify-ful", "did you mean `verify-full`"),
        ("postgres://a:s3cret@db/x?sslrootcert=/x", "verify-full"),
        ("postgres://a:s3cret@db/x?channel=a%20b", "`channel=a b`"),
        ("postgres://a:s3cret@db/x?heartbeat=1h", "10m"),
        ("postgres://a:s3cret@db/x?chanel=a", "did you mean `channel`"),
    ] {
        let refused = Postgres::from_url(&Url::parse(url).expect("a url")).err();
        let said = refused.map(|error| error.to_string()).unwrap_or_default();
        assert!(said.contains(words) && !said.contains("s3cret"), "{url}: {said}");
    }
}

#[test]
fn every_mesh_has_a_channel() {
    assert_eq!(default_channel("default"), "pillion_default");
    assert_eq!(default_channel("Shop-1.é"), "pillion_shop_1__");
    assert!(channel(&default_channel(&"x".repeat(255))).is_ok());
}
