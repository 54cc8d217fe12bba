//! The stock of the first article: a process with a list, which everybody in the mesh may add to and look at.
//!
//! ```text
//! cargo run -q -p pillion-client --example product_stock -- serve [NAME]
//! cargo run -q -p pillion-client --example product_stock -- add ADDRESS PRODUCT QTY
//! cargo run -q -p pillion-client --example product_stock -- status ADDRESS
//! ```

use std::time::Duration;

use pillion_client::{Client, Event, Failure, Kind, Pid, Process, Spawn};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Product {
    name: String,
    qty: u64,
}

/// `["add", from, product]` and `["status", from]`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Message {
    Add(String, Pid, Product),
    Status(String, Pid),
}

/// The same as calls, of which nobody has to say from whom: `["add", product]` and `["status"]`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Request {
    Add(String, Product),
    Status((String,)),
}

/// Handles one event after the other; the latest product comes first.
async fn handle_stock(process: Process) -> Result<(), Failure> {
    let mut stock: Vec<Product> = Vec::new();
    loop {
        let event = process.receive().await?;
        match event.kind() {
            Kind::Message => {
                let from = match event.body() {
                    Ok(Message::Add(what, from, product)) if what == "add" => {
                        add(&mut stock, product, &from);
                        from
                    }
                    Ok(Message::Status(what, from)) if what == "status" => {
                        println!("{from} checked the stock");
                        from
                    }
                    _ => continue,
                };
                process.send(&from, &stock).await?;
            }
            Kind::Call => answer(&process, &event, &mut stock).await?,
            _ => {}
        }
    }
}

async fn answer(process: &Process, call: &Event, stock: &mut Vec<Product>) -> Result<(), Failure> {
    let from = call.from_str().unwrap_or_default();
    match call.body() {
        Ok(Request::Add(what, product)) if what == "add" => add(stock, product, from),
        Ok(Request::Status((what,))) if what == "status" => println!("{from} checked the stock"),
        _ => {
            let failure = Failure::new("undef", "there are add and status");
            process.raise(call, &failure).await?;
            return Ok(());
        }
    }
    process.reply(call, &*stock).await?;
    Ok(())
}

fn add(stock: &mut Vec<Product>, product: Product, from: &str) {
    stock.insert(0, product);
    println!("{from} added a new item on stock");
}

/// Sends a message that says from whom it is, and prints what comes back.
async fn ask(client: &Client, to: &str, message: impl pillion_client::Body) -> Result<(), Failure> {
    client.send(to, message).await?;
    let wanted = |event: &Event| event.kind() == Kind::Message;
    let answer = client.receive_where_within(Duration::from_secs(5), wanted).await?;
    let answer = answer.ok_or_else(|| Failure::new("timeout", format!("{to} does not answer")))?;
    println!("{}", answer.body::<serde_json::Value>()?);
    Ok(())
}

async fn run(args: &[&str]) -> Result<(), Failure> {
    let client = Client::connect().await?;
    let me = client.pid();
    match *args {
        ["serve"] | ["serve", _] => {
            let name = args.get(1).copied().unwrap_or("product_stock");
            let process = client.spawn(Spawn::new().name(name)).await?;
            println!("registered as {name}");
            tokio::select! {
                biased;
                () = stopped() => {}
                ended = handle_stock(process) => ended?,
            }
        }
        ["add", to, name, qty] => {
            let product = Product { name: name.to_owned(), qty: qty.parse()? };
            ask(&client, to, ("add", me, product)).await?;
        }
        ["status", to] => ask(&client, to, ("status", me)).await?,
        _ => {
            let usage = "serve [NAME] | add ADDRESS PRODUCT QTY | status ADDRESS";
            return Err(Failure::new("usage", usage));
        }
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
