//! A client of Pillion for Rust: processes, messages, calls, monitors, groups, topics and presence, by the node beside the app.
//!
//! ```no_run
//! use pillion_client::{Client, Spawn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> pillion_client::Result<()> {
//! let client = Client::connect().await?;
//! let stock = client.spawn(Spawn::new().name("stock")).await?;
//! client.send("stock", &("add", "apples", 3)).await?;
//! let (what, of, n): (String, String, u64) = stock.receive().await?.body()?;
//! assert_eq!((what.as_str(), of.as_str(), n), ("add", "apples", 3));
//! client.close().await
//! # }
//! ```
//!
//! In reading order:
//!
//! - [`Client`] is the connection to the node, kept up: it connects, introduces the app, reconnects, declares again.
//! - [`Process`] is a mailbox with a pid, and whoever acts by it; a client is one.
//! - [`Event`] is what lies in a mailbox; [`Body`] what can be sent.
//! - [`GenServer`], [`Module`] and [`Task`] run the app's code in processes.
//! - [`Subscription`] and [`Watch`] are streams.
//! - [`Error`] has a [`Code`], and says whether what was asked for may have happened all the same.
//!
//! What every client does on the socket is written in `clients/README.md` of the repository; what the operations mean in its
//! `docs/semantics.md`.

mod body;
mod call;
mod caught;
mod cbor;
mod client;
mod connection;
mod declare;
mod drain;
mod error;
mod event;
mod find;
mod gen_server;
mod mailbox;
mod message;
mod op;
mod pid;
mod process;
mod program;
mod serve;
mod state;
mod task;
#[cfg(test)]
mod tests;
mod topics;
mod watch;

pub use body::{Blob, Body};
pub use call::Replies;
pub use ciborium::Value;
pub use client::{Builder, Client, Failed, Report};
pub use error::{Code, Error, Failure, Result};
pub use event::{Event, Kind};
pub use gen_server::{Context, GenServer, Reply, Server};
pub use message::CALL_TIMEOUT;
pub use op::Op;
pub use pid::Pid;
pub use process::{Process, Spawn};
pub use program::run;
pub use serve::{Args, Module, Served};
pub use task::Task;
pub use topics::{Publish, Published, Subscribe, Subscription};
pub use watch::{Change, GroupChange, NodeChange, Presence, PresenceChange, Watch};
