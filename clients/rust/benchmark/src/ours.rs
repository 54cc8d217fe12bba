//! Over the client, as an app uses it.

use std::time::Instant;

use pillion_client::{Client, Kind, Op, Spawn};

use crate::shared::{Bytes, Count, Setup, Times, say_ready, variable};

async fn client(at: &str) -> Client {
    Client::builder().socket(variable(at)).connect().await.expect("the node answers")
}

pub async fn call(setup: &Setup) {
    let client = client("PILLION_A").await;
    let (to, body) = (format!("{}@b@bench", setup.name), Bytes(setup.body()));
    let mut times = Times::new(setup);
    loop {
        let since = Instant::now();
        let reply: Bytes = client.call(&to, &body).await.expect("a reply");
        assert_eq!(reply.0.len(), setup.size);
        if !times.took(since) {
            return;
        }
    }
}

pub async fn respond(setup: &Setup) {
    let client = client("PILLION_B").await;
    let process = client.spawn(Spawn::new().name(&setup.name)).await.expect("a process");
    say_ready();
    while let Ok(call) = process.receive().await {
        let body: Bytes = call.body().expect("bytes");
        process.reply(&call, &body).await.expect("a connection");
    }
}

pub async fn send(setup: &Setup) {
    let client = client("PILLION_A").await;
    let (to, body) = (format!("{}@b@bench", setup.name), Bytes(setup.body()));
    loop {
        // As long as there is room it is sent without a wait: others have to run too.
        for _ in 0..256 {
            client.send(&to, &body).await.expect("a connection");
        }
        tokio::task::yield_now().await;
    }
}

pub async fn receive(setup: &Setup) {
    let client = client("PILLION_B").await;
    let process = client.spawn(Spawn::new().name(&setup.name)).await.expect("a process");
    let policy = std::collections::BTreeMap::from([("policy", "wait")]);
    process.request(Op::new("flag").field("mailbox", &policy)).await.expect("a policy");
    say_ready();
    let mut count = Count::new(setup);
    loop {
        let event = process.receive().await.expect("a message");
        let body: Bytes = event.body().expect("bytes");
        assert_eq!(body.0.len(), setup.size);
        if !count.arrived(1) {
            return;
        }
    }
}

pub async fn publish(setup: &Setup) {
    let client = client("PILLION_A").await;
    let body = Bytes(setup.body());
    loop {
        for _ in 0..256 {
            client.publish(&setup.name, &body).await.expect("a connection");
        }
        tokio::task::yield_now().await;
    }
}

pub async fn subscribe(setup: &Setup) {
    let client = client("PILLION_B").await;
    let subscription = client.subscription(&setup.name).sync();
    let mut subscription = subscription.subscribe().await.expect("a subscription");
    let policy = std::collections::BTreeMap::from([("policy", "wait")]);
    let flag = Op::new("flag").field("mailbox", &policy);
    subscription.process().request(flag).await.expect("a policy");
    say_ready();
    let mut count = Count::new(setup);
    while let Some(event) = subscription.next().await {
        if event.kind() != Kind::Message {
            continue;
        }
        let body: Bytes = event.body().expect("bytes");
        assert_eq!(body.0.len(), setup.size);
        if !count.arrived(1) {
            return;
        }
    }
}
