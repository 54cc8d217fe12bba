//! Apps that do what they should not, beside real nodes.

use std::time::Duration;

use pillion_client::{
    Blob, Client, Code, Context, Event, Failure, GenServer, Op, Reply, Spawn, Value,
};

use crate::support::{PATIENCE, Place, code, eventually, within};

/// How many processes the node holds for the client, but for its own.
async fn held(client: &Client) -> usize {
    let answer = client.request(Op::new("processes")).await.unwrap();
    answer.body::<Vec<Value>>().unwrap().len() - 1
}

#[tokio::test]
async fn bodies_of_every_kind_arrive_or_are_refused_in_words() {
    let Some(place) = Place::new() else { return };
    let a = place.start("a");
    let client = a.connect().await;
    let me = client.pid();
    client.send(&me, f64::NAN).await.unwrap();
    assert!(within(client.receive()).await.unwrap().body::<f64>().unwrap().is_nan());
    client.send(&me, u128::MAX).await.unwrap();
    assert_eq!(within(client.receive()).await.unwrap().body::<u128>().unwrap(), u128::MAX);
    let odd =
        Value::Map(vec![(Value::Array(vec![1.into()]), Value::Tag(12345, Box::new(2.into())))]);
    client.send(&me, &odd).await.unwrap();
    assert_eq!(within(client.receive()).await.unwrap().body::<Value>().unwrap(), odd);
    let deep = [vec![0x81; 1000], vec![1]].concat();
    client.send(&me, Blob::cbor(deep)).await.unwrap();
    assert_eq!(code(within(client.receive()).await.unwrap().body::<Value>()), Code::BadBody);
    client.send(&me, Blob::cbor(vec![0xff, 0xff])).await.unwrap();
    assert_eq!(code(within(client.receive()).await.unwrap().body::<Value>()), Code::BadBody);
    let long = Blob::new("text/plain", vec![0; 1024 * 1024 + 1]);
    assert_eq!(code(client.send_confirmed(&me, &long).await), Code::TooLarge);
    assert_eq!(code(client.send(&"x".repeat(70_000), 1).await), Code::TooLarge);
    client.send_confirmed(&me, 1).await.unwrap();
}

/// Fails wherever it is told to.
struct Bad(&'static str);

impl GenServer for Bad {
    async fn init(&mut self, _: &mut Context) -> Result<(), Failure> {
        match self.0 {
            "init fails" => Err(Failure::new("Bad", "no")),
            "init panics" => panic!("no"),
            _ => Ok(()),
        }
    }

    async fn handle_call(&mut self, call: Event, context: &mut Context) -> Result<Reply, Failure> {
        match call.body::<String>()?.as_str() {
            "self" => {
                let own = context.call_within::<u64>(Duration::from_millis(50), "bad", 1).await;
                Ok(Reply::now(own.unwrap_err().code().to_string()))
            }
            "twice" => {
                context.reply(&call, 1).await?;
                Ok(Reply::now(2))
            }
            _ => panic!("it broke"),
        }
    }

    async fn terminate(&mut self, _: &str, _: &mut Context) {
        panic!("at the end, too");
    }
}

#[tokio::test]
async fn a_server_that_panics_everywhere_ends_and_leaves_nothing_behind() {
    let Some(place) = Place::new() else { return };
    let mut a = place.start("a");
    let client = a.connect().await;
    for how in ["init fails", "init panics"] {
        let started = client.start(Bad(how), Spawn::new().name("bad")).await;
        assert_eq!(code(started), Code::Exception);
        eventually("nothing is held", || async { held(&client).await == 0 }).await;
    }
    let server = client.start(Bad("terminate"), Spawn::new().name("bad")).await.unwrap();
    assert_eq!(client.call::<u64>("bad", "twice").await.unwrap(), 1);
    let own = client.call::<String>("bad", "self").await.unwrap();
    assert!(["calling_self", "timeout"].contains(&own.as_str()), "{own}");
    assert_eq!(code(client.call::<u64>("bad", "break").await), Code::Exception);
    eventually("it has ended", || async { !server.is_running() }).await;
    eventually("nothing is held", || async { held(&client).await == 0 }).await;
    a.kill();
    drop(a);
    let _a = place.start("a");
    // Who asks while the client has not heard of the end may get no answer.
    eventually("it answers", || async { client.whereis("bad").await.is_ok() }).await;
    assert_eq!(client.whereis("bad").await.unwrap(), None);
}

#[tokio::test]
async fn many_subscriptions_live_through_a_storm_of_restarts_and_leave_when_dropped() {
    const COUNT: usize = 1000;
    let Some(place) = Place::new() else { return };
    let mut a = place.start("a");
    let client = a.builder().connect_timeout(PATIENCE).connect().await.unwrap();
    let mut all = Vec::new();
    for _ in 0..COUNT {
        all.push(client.subscribe("shop").await.unwrap());
    }
    for _ in 0..5 {
        a.kill();
        drop(a);
        a = place.start("a");
        tokio::time::sleep(Duration::from_millis(30)).await;
        // Calls that are let go of, at any time of it.
        let call = client.call_within::<u64>(Duration::from_secs(1), "nobody", 1);
        let _ = tokio::time::timeout(Duration::from_millis(5), call).await;
        all.truncate(all.len() - 10);
    }
    eventually("all are there", || async { held(&client).await == COUNT - 50 }).await;
    client.publish("shop", "here").await.unwrap();
    for subscription in &mut all {
        while within(subscription.next()).await.unwrap().body::<String>().is_err() {}
    }
    drop(all);
    eventually("none is there", || async { held(&client).await == 0 }).await;
    within(client.close()).await.unwrap();
    within(client.close()).await.unwrap();
    assert_eq!(code(client.send("nobody", 1).await), Code::Closed);
    // What lies in the mailbox can still be taken.
    let end = loop {
        if let Err(end) = within(client.receive()).await {
            break end;
        }
    };
    assert_eq!(end.code(), &Code::Closed);
}
