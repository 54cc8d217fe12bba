//! The shell's second session: it sees nodes come and go while a line is being typed, and fetches what the tab key
//! offers. A session of its own, because what it hears must not be in the mailbox that `flush` shows.

use serde_json::Value as Json;
use tokio::sync::Notify;

use super::complete::{Directory, Known};
use super::show;
use crate::cli::Globals;
use crate::cli::connection::Connection;
use crate::cli::exit::Failure;
use crate::client::{Event, Op, WINDOW};

/// The second session.
#[derive(Debug)]
pub(super) struct Watch {
    connection: Connection,
    directory: Directory,
}

impl Watch {
    /// Opens the session and knows at once who is there.
    ///
    /// # Errors
    /// [`Failure`], as of any command.
    pub(super) async fn open(globals: &Globals, directory: Directory) -> Result<Self, Failure> {
        let connection = Connection::open(globals, "shell (watch)", WINDOW).await?;
        connection.request(Op::new("monitor_nodes").bool("on", true)).await?;
        let watch = Self { connection, directory };
        watch.fetch().await?;
        Ok(watch)
    }

    /// Tells of nodes, and fetches again after each and whenever `stale` says so. Ends with the connection.
    pub(super) async fn run(&self, stale: &Notify, tell: impl Fn(&Event, &str)) {
        loop {
            tokio::select! {
                biased;
                event = self.connection.client.next_event() => match event {
                    Some(event) if matches!(event.name(), "nodeup" | "nodedown") => {
                        tell(&event, &show::event(&event.to_value()));
                    }
                    Some(_) => continue,
                    None => return,
                },
                () = stale.notified() => {}
            }
            if self.fetch().await.is_err() {
                return;
            }
        }
    }

    async fn fetch(&self) -> Result<(), Failure> {
        let nodes = self.connection.request(Op::new("nodes")).await?;
        let names = self.connection.request(Op::new("registered")).await?;
        self.directory.set(Known {
            nodes: texts(&nodes.to_value()["nodes"], "node"),
            names: texts(&names.to_value()["registered"], "name"),
        });
        Ok(())
    }
}

fn texts(list: &Json, key: &str) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|item| item[key].as_str().map(str::to_owned)).collect()
}
