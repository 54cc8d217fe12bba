//! The same work over NATS' client for Rust, through two servers of one cluster.

use std::time::Instant;

use futures_util::StreamExt;

use crate::shared::{Bytes, Count, Setup, Times, say_ready, variable};

async fn client(at: &str) -> async_nats::Client {
    async_nats::connect(variable(at)).await.expect("the server answers")
}

fn encoded(bytes: &Bytes) -> bytes::Bytes {
    let mut out = Vec::new();
    ciborium::into_writer(bytes, &mut out).expect("a vector takes everything");
    out.into()
}

fn decoded(message: &async_nats::Message) -> Bytes {
    ciborium::from_reader(&message.payload[..]).expect("bytes")
}

pub async fn call(setup: &Setup) {
    let client = client("NATS_A").await;
    let body = Bytes(setup.body());
    // The other server has told of the subscription once somebody answers.
    while client.request(setup.name.clone(), encoded(&body)).await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let mut times = Times::new(setup);
    loop {
        let since = Instant::now();
        let reply = client.request(setup.name.clone(), encoded(&body)).await.expect("a reply");
        assert_eq!(decoded(&reply).0.len(), setup.size);
        if !times.took(since) {
            return;
        }
    }
}

pub async fn respond(setup: &Setup) {
    let client = client("NATS_B").await;
    let mut calls = client.subscribe(setup.name.clone()).await.expect("a subscription");
    client.flush().await.expect("a connection");
    say_ready();
    while let Some(call) = calls.next().await {
        let body = decoded(&call);
        if let Some(reply) = call.reply {
            client.publish(reply, encoded(&body)).await.expect("a connection");
        }
    }
}

pub async fn send(setup: &Setup) {
    let client = client("NATS_A").await;
    let body = Bytes(setup.body());
    loop {
        for _ in 0..256 {
            client.publish(setup.name.clone(), encoded(&body)).await.expect("a connection");
        }
        tokio::task::yield_now().await;
    }
}

pub async fn receive(setup: &Setup) {
    let client = client("NATS_B").await;
    let mut messages = client.subscribe(setup.name.clone()).await.expect("a subscription");
    client.flush().await.expect("a connection");
    say_ready();
    let mut count = Count::new(setup);
    while let Some(message) = messages.next().await {
        assert_eq!(decoded(&message).0.len(), setup.size);
        if !count.arrived(1) {
            return;
        }
    }
}
