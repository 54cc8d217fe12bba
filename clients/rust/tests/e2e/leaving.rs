//! Nodes that leave in order: by drain and by SIGTERM.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use pillion_client::{Client, Code, Context, Event, Failure, GenServer, Op, Reply, Spawn};
use tokio::sync::mpsc;

use crate::support::{PATIENCE, Place, two, within};

/// Counts, and tells of its beginnings and ends.
struct Counter {
    count: u64,
    told: mpsc::Sender<String>,
}

impl GenServer for Counter {
    async fn init(&mut self, _: &mut Context) -> Result<(), Failure> {
        self.count = 0;
        self.told.try_send("init".to_owned())?;
        Ok(())
    }

    async fn handle_call(&mut self, _: Event, _: &mut Context) -> Result<Reply, Failure> {
        self.count += 1;
        Ok(Reply::now(self.count))
    }

    async fn terminate(&mut self, reason: &str, _: &mut Context) {
        self.told.try_send(reason.to_owned()).ok();
    }
}

#[tokio::test]
async fn a_node_that_is_told_to_stop_is_left_without_a_call_lost_and_the_next_one_is_found() {
    let Some(place) = Place::new() else { return };
    let (a, b, caller, right) = two(&place).await;
    drop(right);
    let drained = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&drained);
    let builder = b.builder().on_drained(move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let app = builder.connect().await.unwrap();
    let (told, mut heard) = mpsc::channel(16);
    let server = app.start(Counter { count: 0, told }, Spawn::new()).await.unwrap();
    assert_eq!(within(heard.recv()).await.unwrap(), "init");
    app.serve("math")
        .function("add", |(a, b): (i64, i64)| async move {
            tokio::task::yield_now().await;
            Ok(a + b)
        })
        .start()
        .await
        .unwrap();
    crate::support::eventually("the module is known", || async {
        caller.rpc::<i64>("any", "math", "add", &(1, 2)).await.is_ok()
    })
    .await;
    let mut subscription = app.subscribe("news").await.unwrap();

    let to = server.pid();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (caller, to) = (caller.clone(), to.clone());
        calls.spawn(async move { caller.call_within::<u64>(PATIENCE, &to, ()).await });
    }
    within(calls.join_next()).await.unwrap().unwrap().unwrap();
    b.terminate();
    within(app.drained()).await;
    assert_eq!(within(heard.recv()).await.unwrap(), "shutdown");
    assert!(within(subscription.next()).await.is_none(), "its iterators end");
    assert!(within(b.ended()).await);
    let mut answered = 1;
    while let Some(done) = calls.join_next().await {
        match done.unwrap() {
            Ok(_) => answered += 1,
            // What was not given to the server by then was not handled either.
            Err(error) => assert!(
                !error.maybe_applied() && matches!(error.code(), Code::Exit | Code::NoProc),
                "{error:?}"
            ),
        }
    }
    assert!(answered >= 1);
    assert_eq!(drained.load(Ordering::Relaxed), 1);

    // Another node in its place.
    let _b = place.start("b");
    assert_eq!(within(heard.recv()).await.unwrap(), "init");
    crate::support::eventually("the server counts again", || async {
        app.call::<u64>(&server.pid(), ()).await.is_ok()
    })
    .await;
    crate::support::eventually("the module is served again", || async {
        caller.rpc::<i64>("any", "math", "add", &(1, 2)).await.is_ok()
    })
    .await;
    assert!(server.is_running());
    drop(a);
}

#[tokio::test]
async fn an_app_that_decides_for_itself_is_told_and_stays_until_it_goes() {
    let Some(place) = Place::new() else { return };
    let a = place.start("a");
    let (told, mut draining) = mpsc::channel(1);
    let builder = a.builder().on_draining(move || {
        told.try_send(()).ok();
    });
    let app = builder.connect().await.unwrap();
    app.register("app").await.unwrap();
    let operator = a.connect().await;
    operator.request(Op::new("drain")).await.unwrap();
    within(draining.recv()).await.unwrap();
    assert_eq!(app.whereis("app").await.unwrap(), Some(app.pid()), "it is served still");
    within(app.drain()).await;
    app.close().await.ok();
    assert_eq!(app.whereis("app").await.unwrap_err().code(), &Code::Closed);
}

#[tokio::test]
async fn a_client_that_is_closed_or_dropped_leaves_nothing_behind() {
    let Some(place) = Place::new() else { return };
    let a = place.start("a");
    let observer = a.connect().await;
    let app = a.connect().await;
    let other: Client = a.connect().await;
    app.register("app").await.unwrap();
    other.register("other").await.unwrap();
    let kept = other.spawn(Spawn::new().name("kept")).await.unwrap();
    for name in ["app", "other", "kept"] {
        observer.monitor(name).await.unwrap();
    }
    app.close().await.unwrap();
    drop(other);
    for _ in 0..3 {
        // Not `disconnected`: the node heard a goodbye, and waits for nobody.
        assert_eq!(within(observer.receive()).await.unwrap().reason(), Some("normal"));
    }
    assert_eq!(kept.receive().await.unwrap_err().code(), &Code::Closed);
}
