//! The point of sale of the first article: customers ask it for a product, and it asks the stock, which is at a central node.
//!
//! ```text
//! cargo run -q -p pillion-client --example pos -- serve [SERVER_ADDRESS]
//! cargo run -q -p pillion-client --example pos -- ask POS_ADDRESS PRODUCT
//! ```

use std::time::Duration;

use pillion_client::{Client, Event, Failure, Kind, Pid, Process, Spawn};
use serde_json::Value;

/// Serves customers side by side: each question is a call to the stock of its own, so answers are not mixed up.
async fn serve(pos: Process, server: &str) -> Result<(), Failure> {
    let mut asking = tokio::task::JoinSet::new();
    loop {
        let event = pos.receive().await?;
        while asking.try_join_next().is_some() {}
        let Ok((what, from, product)) = event.body::<(String, Pid, String)>() else { continue };
        if event.kind() != Kind::Message || what != "ask" {
            continue;
        }
        println!("{from} wants to know if get a product");
        let (pos, server) = (pos.clone(), server.to_owned());
        asking.spawn(async move {
            let answer = find(&pos, &server, &product).await;
            // A customer who has gone needs no answer.
            let _ = pos.send(&from, ("print", answer)).await;
        });
    }
}

/// What the customer is told.
async fn find(pos: &Process, server: &str, product: &str) -> Value {
    match pos.call::<Vec<Value>>(server, ("status",)).await {
        Ok(stock) => {
            let found = stock.into_iter().find(|item| item["name"] == product);
            found.unwrap_or_else(|| format!("There is no Product {product}").into())
        }
        Err(error) => format!("The stock does not answer: {}", error.code()).into(),
    }
}

async fn ask(client: &Client, pos: &str, product: &str) -> Result<(), Failure> {
    client.send(pos, ("ask", client.pid(), product)).await?;
    let print = |event: &Event| event.body::<(String, Value)>().is_ok_and(|body| body.0 == "print");
    let answer = client.receive_where_within(Duration::from_secs(10), print).await?;
    let answer = answer.ok_or_else(|| Failure::new("timeout", format!("{pos} does not answer")))?;
    match answer.body::<(String, Value)>()?.1 {
        Value::String(text) => println!("{text}"),
        product => println!("{product}"),
    }
    Ok(())
}

async fn run(args: &[&str]) -> Result<(), Failure> {
    let client = Client::connect().await?;
    match *args {
        ["serve"] | ["serve", _] => {
            let server = args.get(1).copied().unwrap_or("server@server");
            let pos = client.spawn(Spawn::new().name("pos")).await?;
            println!("registered as pos");
            tokio::select! {
                biased;
                () = stopped() => {}
                ended = serve(pos, server) => ended?,
            }
        }
        ["ask", pos, product] => ask(&client, pos, product).await?,
        _ => return Err(Failure::new("usage", "serve [SERVER_ADDRESS] | ask POS_ADDRESS PRODUCT")),
    }
    client.close().await?;
    Ok(())
}

/// Waits for ctrl-c or SIGTERM.
async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut term) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => {}
        _ = term.recv() => {}
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args).await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}: {}", failure.class, failure.reason);
            std::process::ExitCode::FAILURE
        }
    }
}
