//! The key-value store of the articles as a program of its own, for a supervisor: `pillion host primary_store --restart transient -- ...`

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use pillion_client::{Context, Event, Failure, GenServer, Reply};

struct Store(BTreeMap<String, i64>);

impl GenServer for Store {
    async fn init(&mut self, _: &mut Context) -> Result<(), Failure> {
        println!("registered");
        Ok(())
    }

    async fn handle_call(&mut self, call: Event, me: &mut Context) -> Result<Reply, Failure> {
        let asked: Vec<String> = call.body()?;
        match asked.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["get", key] => Ok(Reply::now(self.0.get(key).copied())),
            ["slow", value] => {
                println!("working");
                tokio::time::sleep(Duration::from_millis(300)).await;
                Ok(Reply::now(value))
            }
            ["stop", reason] => {
                me.stop(reason);
                Ok(Reply::now("ok"))
            }
            _ => Err(Failure::new("Boom", "it broke")),
        }
    }

    async fn handle_cast(&mut self, cast: Event, _: &mut Context) -> Result<(), Failure> {
        let (_, key, value): (String, String, i64) = cast.body()?;
        self.0.insert(key, value);
        Ok(())
    }

    async fn terminate(&mut self, reason: &str, _: &mut Context) {
        println!("ended: {reason}");
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let first = BTreeMap::from([("foo".to_owned(), 1)]);
    pillion_client::run(Store(first), "primary_store").await
}
