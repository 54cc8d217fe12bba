//! The shell's second session: it sees nodes come and go while a line is being typed, and fetches what the tab key
//! offers. A session of its own, because what it hears must not be in the mailbox that `flush` shows.

use std::collections::BTreeSet;

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
        let globals = Op::new("registered").text("scope", "global");
        let globals = self.connection.request(globals).await?;
        let groups = self.connection.request(Op::new("groups")).await?.to_value();
        let modules = self.connection.request(Op::new("modules")).await?.to_value();
        let groups = groups["groups"].as_array().into_iter().flatten();
        self.directory.set(Known {
            nodes: texts(&nodes.to_value()["nodes"], "node"),
            names: texts(&names.to_value()["registered"], "name"),
            globals: texts(&globals.to_value()["registered"], "name"),
            groups: groups.filter_map(|group| group.as_str().map(str::to_owned)).collect(),
            functions: functions(&modules["modules"]).into_iter().collect(),
        });
        Ok(())
    }
}

/// Every function that any node says it has, once.
fn functions(modules: &Json) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for module in modules.as_array().into_iter().flatten() {
        let name = module["module"].as_str().unwrap_or_default();
        for served in module["served"].as_array().into_iter().flatten() {
            let functions = served["functions"].as_array().into_iter().flatten();
            let functions = functions.filter_map(Json::as_str);
            found.extend(functions.map(|function| format!("{name}.{function}")));
        }
    }
    found
}

fn texts(list: &Json, key: &str) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|item| item[key].as_str().map(str::to_owned)).collect()
}
