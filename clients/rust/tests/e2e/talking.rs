//! Messages, calls, servers, functions and tasks, on one node and between two.

use std::collections::BTreeMap;
use std::time::Duration;

use pillion_client::{Blob, Code, Context, Event, Failure, GenServer, Kind, Reply, Spawn, Value};

use crate::support::{PATIENCE, Place, code, two, within};

#[tokio::test]
async fn messages_cross_two_nodes_in_their_order_and_are_what_was_sent() {
    let Some(place) = Place::new() else { return };
    let (_a, _b, left, right) = two(&place).await;
    let stock = right.spawn(Spawn::new().name("stock")).await.unwrap();
    for n in 0..2000_u32 {
        left.send("stock@b@t", &("add", n, 2.5, [1_u8, 2])).await.unwrap();
    }
    for n in 0..2000_u32 {
        let event = within(stock.receive()).await.unwrap();
        assert_eq!(event.kind(), Kind::Message);
        assert_eq!(event.from().unwrap(), left.pid());
        let body: (String, u32, f64, [u8; 2]) = event.body().unwrap();
        assert_eq!(body, ("add".to_owned(), n, 2.5, [1, 2]));
        assert_eq!(code(event.body::<u64>()), Code::BadBody);
    }
    right.send(&left.pid(), Blob::new("text/plain", "hello")).await.unwrap();
    let event = within(left.receive()).await.unwrap();
    assert_eq!(event.content_type(), Some("text/plain"));
    assert_eq!(event.bytes(), "hello");
    assert_eq!(event.body::<Value>().unwrap(), Value::Bytes(b"hello".to_vec()));
    assert_eq!(code(left.send_confirmed("nobody", 1).await), Code::NoProc);
}

#[tokio::test]
async fn what_is_wanted_first_is_received_first_and_the_rest_stays_in_order() {
    let Some(place) = Place::new() else { return };
    let a = place.start("a");
    let client = a.connect().await;
    let me = client.pid();
    for n in 0..10 {
        client.send(&me, n).await.unwrap();
    }
    let seven = client.receive_where(|event| event.body::<u32>().is_ok_and(|n| n == 7));
    assert_eq!(within(seven).await.unwrap().body::<u32>().unwrap(), 7);
    for n in [0, 1, 2, 3, 4, 5, 6, 8, 9] {
        assert_eq!(within(client.receive()).await.unwrap().body::<u32>().unwrap(), n);
    }
    let none = client.receive_within(Duration::from_millis(10)).await.unwrap();
    assert!(none.is_none());
}

#[tokio::test]
async fn a_mailbox_that_is_not_read_is_bounded_by_its_window() {
    let Some(place) = Place::new() else { return };
    let a = place.start("a");
    let client = a.connect().await;
    let slow = client.spawn(Spawn::new()).await.unwrap();
    let pid = slow.pid();
    for n in 0..5000_u32 {
        client.send(&pid, n).await.unwrap();
    }
    client.send_confirmed(&pid, 5000_u32).await.unwrap();
    let op = pillion_client::Op::new("info").text("to", &pid).field("keys", &["message_queue_len"]);
    let info: BTreeMap<String, u64> = client.request(op).await.unwrap().body().unwrap();
    assert_eq!(info["message_queue_len"], 5001 - 256);
    for n in 0..=5000_u32 {
        assert_eq!(within(slow.receive()).await.unwrap().body::<u32>().unwrap(), n);
    }
}

/// The key-value store of the articles.
#[derive(Default)]
struct Store(BTreeMap<String, Value>, Option<Event>);

impl GenServer for Store {
    async fn handle_call(&mut self, call: Event, context: &mut Context) -> Result<Reply, Failure> {
        let (what, key): (String, String) = call.body()?;
        match what.as_str() {
            "get" => Ok(Reply::now(self.0.get(&key))),
            "parse" => Ok(Reply::now(key.parse::<u32>()?)),
            "panic" => panic!("{key}"),
            "later" => {
                self.1 = Some(call);
                Ok(Reply::later())
            }
            _ => {
                context.stop("normal");
                Ok(Reply::now("stopped"))
            }
        }
    }

    async fn handle_cast(&mut self, cast: Event, context: &mut Context) -> Result<(), Failure> {
        let (key, value): (String, Value) = cast.body()?;
        if let Some(call) = self.1.take() {
            context.reply(&call, &value).await?;
        }
        self.0.insert(key, value);
        Ok(())
    }
}

#[tokio::test]
async fn a_gen_server_answers_every_node_and_its_failure_reaches_caller_and_monitor() {
    let Some(place) = Place::new() else { return };
    let (_a, _b, left, right) = two(&place).await;
    let server = right.start(Store::default(), Spawn::new().name("store")).await.unwrap();
    let to = "store@b@t";
    left.cast(to, &("tea", 3)).await.unwrap();
    assert_eq!(left.call::<u32>(to, &("get", "tea")).await.unwrap(), 3);
    assert_eq!(left.call::<Option<u32>>(to, &("get", "milk")).await.unwrap(), None);
    let (later, ()) = tokio::join!(left.call::<u32>(to, &("later", "")), async {
        // The call is written before the cast, and so it is handled before it.
        left.cast(to, &("now", 7)).await.unwrap();
    });
    assert_eq!(later.unwrap(), 7);

    let reference = left.monitor(to).await.unwrap();
    let error = left.call::<u32>(to, &("parse", "x")).await.unwrap_err();
    assert_eq!(error.code(), &Code::Exception);
    assert_eq!(error.class(), Some("ParseIntError"));
    assert!(error.maybe_applied());
    let down = within(left.receive()).await.unwrap();
    assert_eq!((down.kind(), down.reference()), (Kind::Down, Some(reference)));
    assert!(down.reason().unwrap().starts_with("ParseIntError: invalid digit"), "{down:?}");
    assert!(!server.is_running());

    // Nothing is left of the first: the second has the name and nothing else.
    let server = right.start(Store::default(), Spawn::new().name("store")).await.unwrap();
    assert_eq!(left.call::<Option<u32>>(to, &("get", "tea")).await.unwrap(), None);
    let error = left.call::<u32>(to, &("panic", "oh no")).await.unwrap_err();
    assert_eq!((error.class(), error.reason()), (Some("panic"), Some("oh no")));
    drop(server);

    let server = right.start(Store::default(), Spawn::new().name("store")).await.unwrap();
    assert_eq!(left.call::<String>(to, &("stop", "")).await.unwrap(), "stopped");
    within(server.stop("normal")).await;
    assert_eq!(code(left.call::<u32>(to, &("get", "tea")).await), Code::NoProc);
}

#[tokio::test]
async fn functions_are_served_to_every_node_side_by_side_and_are_dropped_when_nobody_waits() {
    let Some(place) = Place::new() else { return };
    let (_a, _b, left, right) = two(&place).await;
    let (dropped, mut was_dropped) = tokio::sync::mpsc::channel::<()>(1);
    let served = right
        .serve("math")
        .function("add", |(a, b): (i64, i64)| async move { Ok(a + b) })
        .function("negate", |(a,): (i64,)| async move { Ok(-a) })
        .function("wait", move |()| {
            let dropped = dropped.clone();
            async move {
                let () = std::future::pending().await;
                drop(dropped);
                Ok(())
            }
        })
        .start()
        .await
        .unwrap();
    crate::support::eventually("the module is known", || async {
        left.rpc::<i64>("any", "math", "add", &(1, 2)).await.is_ok()
    })
    .await;
    assert_eq!(left.rpc::<i64>("b@t", "math", "negate", 7).await.unwrap(), -7);
    let error = left.rpc::<i64>("b@t", "math", "add", &(1, "two")).await.unwrap_err();
    assert_eq!((error.code(), error.class()), (&Code::Exception, Some("badarg")));
    assert_eq!(code(left.rpc::<i64>("b@t", "math", "divide", &(1, 2)).await), Code::Undef);

    let short = Duration::from_millis(200);
    assert_eq!(code(left.rpc_within::<()>(short, "b@t", "math", "wait", ()).await), Code::Timeout);
    // The module's own sender is all that is left once the future is dropped.
    drop(served.stop().await);
    assert!(within(was_dropped.recv()).await.is_none());
}

#[tokio::test]
async fn a_thousand_calls_at_once_each_get_their_own_answer() {
    let Some(place) = Place::new() else { return };
    let (_a, _b, left, right) = two(&place).await;
    let echo = right.spawn(Spawn::new().name("echo")).await.unwrap();
    tokio::spawn(async move {
        while let Ok(call) = echo.receive().await {
            echo.reply(&call, call.body::<Value>().unwrap()).await.unwrap();
        }
    });
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..1000_u32 {
        let left = left.clone();
        calls.spawn(async move { (n, left.call_within::<u32>(PATIENCE, "echo@b@t", n).await) });
    }
    while let Some(done) = calls.join_next().await {
        let (n, answer) = done.unwrap();
        assert_eq!(answer.unwrap(), n);
    }
}

#[tokio::test]
async fn an_answer_comes_in_parts_and_then_as_its_value() {
    let Some(place) = Place::new() else { return };
    let a = place.start("a");
    let (client, teller) = (a.connect().await, a.connect().await);
    teller.register("teller").await.unwrap();
    tokio::spawn(async move {
        let call = teller.receive().await.unwrap();
        for n in 0..500_u32 {
            teller.reply_part(&call, n).await.unwrap();
        }
        teller.reply(&call, "the end").await.unwrap();
    });
    let mut parts = client.call_parts::<u32>(PATIENCE, "teller", ()).await.unwrap();
    for n in 0..500 {
        assert_eq!(within(parts.next()).await.unwrap().unwrap(), n);
    }
    assert!(within(parts.next()).await.is_none());
    assert_eq!(parts.value::<String>().await.unwrap(), "the end");
}

#[tokio::test]
async fn a_task_gives_its_result_or_how_it_failed_and_its_link_says_so() {
    let Some(place) = Place::new() else { return };
    let a = place.start("a");
    let client = a.connect().await;
    client.trap_exit(true).await.unwrap();
    let task = client.task(Spawn::new(), |_| async { Ok(6 * 7) }).await.unwrap();
    assert_eq!(task.result(PATIENCE).await.unwrap(), 42);
    assert_eq!(within(client.receive()).await.unwrap().reason(), Some("normal"));

    let work = |_| async { Ok("x".parse::<u32>()?) };
    let task = client.task(Spawn::new(), work).await.unwrap();
    let error = task.result(PATIENCE).await.unwrap_err();
    assert_eq!((error.code(), error.class()), (&Code::Exception, Some("ParseIntError")));
    let exit = within(client.receive()).await.unwrap();
    assert_eq!(exit.kind(), Kind::Exit);
    assert!(exit.reason().unwrap().starts_with("ParseIntError"));

    let task = client.task(Spawn::new(), |_| std::future::pending::<Result<(), Failure>>());
    let task = task.await.unwrap();
    assert_eq!(code(task.result(Duration::from_millis(20)).await), Code::Timeout);
    within(client.receive()).await.unwrap();

    let task = client.task(Spawn::new(), |_| std::future::pending::<Result<(), Failure>>());
    let task = task.await.unwrap();
    client.kill(&task.pid(), "kill").await.unwrap();
    assert_eq!(code(task.result(PATIENCE).await), Code::Exit);
    assert_eq!(within(client.receive()).await.unwrap().reason(), Some("killed"));
}

#[tokio::test]
async fn links_monitors_names_and_timers_do_what_their_names_say() {
    let Some(place) = Place::new() else { return };
    let (_a, _b, left, right) = two(&place).await;
    let one = left.spawn(Spawn::new().trap_exit()).await.unwrap();
    let two = right.spawn(Spawn::new().name("two").label("the second")).await.unwrap();
    one.link(&two.pid()).await.unwrap();
    let reference = one.monitor("two@b@t").await.unwrap();
    let taken_back = one.monitor(&two.pid()).await.unwrap();
    one.demonitor(taken_back).await.unwrap();
    let pid = two.pid();
    two.exit("sold out").await.unwrap();
    let mut heard = [within(one.receive()).await.unwrap(), within(one.receive()).await.unwrap()];
    heard.sort_by_key(|event| event.kind().as_str());
    assert_eq!((heard[0].kind(), heard[0].reference()), (Kind::Down, Some(reference)));
    assert_eq!((heard[1].kind(), heard[1].from()), (Kind::Exit, Some(pid)));
    assert!(heard.iter().all(|event| event.reason() == Some("sold out")));
    assert_eq!(code(two.receive().await), Code::NoProc);

    one.register("first").await.unwrap();
    one.register_global("first").await.unwrap();
    assert_eq!(left.whereis("first").await.unwrap(), Some(one.pid()));
    crate::support::eventually("the other node knows the name", || async {
        right.whereis("global:first").await.unwrap().is_some()
    })
    .await;
    assert_eq!(code(right.register_global("first").await), Code::Taken);
    right.send("global:first", "by its global name").await.unwrap();
    assert_eq!(
        within(one.receive()).await.unwrap().body::<String>().unwrap(),
        "by its global name"
    );
    left.unregister("global:first").await.unwrap();
    assert_eq!(left.whereis("global:first").await.unwrap(), None);

    let hour = Duration::from_secs(3600);
    let timer = left.send_after("first", hour, "never").await.unwrap();
    assert!(left.read_timer(timer).await.unwrap().unwrap() <= hour);
    assert!(left.cancel_timer(timer).await.unwrap().is_some());
    assert_eq!(left.cancel_timer(timer).await.unwrap(), None);
    left.send_after("first", Duration::from_millis(1), "tick").await.unwrap();
    assert_eq!(within(one.receive()).await.unwrap().body::<String>().unwrap(), "tick");

    // The last handle of a process is its end.
    let pid = one.pid();
    drop(one);
    crate::support::eventually("the process has ended", || async {
        !left.alive(&pid).await.unwrap()
    })
    .await;
}
