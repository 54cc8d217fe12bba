//! The two ways that a message can take, through the floor or through daemons, as the clients see them: two sockets
//! and how to write an address on the first for a process on the second.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::certificates;
use super::daemon::{Daemon, Plan};
use super::process::{Scratch, Trouble, Worker};
use super::relay::{self, Listening};
use super::role::Role;

/// Bound for the relays' start.
const RELAY_WITHIN: Duration = Duration::from_secs(10);
/// Bound for two daemons to see each other.
const MESH_WITHIN: Duration = Duration::from_secs(20);

/// The names that the benchmark's apps register.
pub(super) const SINK: &str = "sink";
/// The app that sends everything back.
pub(super) const ECHO: &str = "echo";

/// The topic of subscribers at the publisher's own node.
pub(super) const NEAR: &str = "bench.near";
/// The topic of subscribers at the other node: the floor knows beforehand where somebody listens.
pub(super) const FAR: &str = "bench.far";

/// How many nodes a message passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Nodes {
    /// Both apps are at one.
    One,
    /// Each has its own.
    Two,
}

impl Nodes {
    /// For people.
    #[must_use]
    pub(super) const fn print(self) -> &'static str {
        match self {
            Self::One => "one node",
            Self::Two => "two nodes",
        }
    }
}

/// Two nodes that messages go through, daemons or relays.
#[derive(Debug)]
pub(super) struct Pair {
    a: PathBuf,
    b: PathBuf,
    /// What follows the `@` in an address of a process at the second.
    second: String,
    ids: [u32; 2],
    keep: Keep,
}

#[derive(Debug)]
#[expect(dead_code, reason = "what is in it is kept so that the processes live")]
enum Keep {
    Relays(Box<[Worker; 2]>),
    Daemons(Box<[Daemon; 2]>),
}

impl Pair {
    /// Starts the floor.
    ///
    /// # Errors
    /// When a relay does not start.
    pub(super) fn floor(scratch: &Scratch, name: &str) -> Result<Self, Trouble> {
        let home = scratch.sub(name)?;
        certificates::make(&home)?;
        let names = ["a@bench", "b@bench"];
        let sockets = [home.join("a.sock"), home.join("b.sock")];
        let start = |own: usize, dial| -> Result<(Worker, Listening), Trouble> {
            let role = Role::Relay(relay::Spec {
                socket: sockets[own].clone(),
                name: names[own].to_owned(),
                other: Some(names[1 - own].to_owned()),
                names: vec![SINK.to_owned(), ECHO.to_owned()],
                topics: vec![FAR.to_owned()],
                dial,
                certificates: home.clone(),
            });
            let worker = Worker::start(&role.argument())?;
            let listening = worker.hear("relay", RELAY_WITHIN)?;
            Ok((worker, listening))
        };
        let (second, listening) = start(1, None)?;
        let (first, _) = start(0, listening.address)?;
        let [a, b] = sockets;
        Ok(Self {
            a,
            b,
            second: names[1].to_owned(),
            ids: [first.process.id(), second.process.id()],
            keep: Keep::Relays(Box::new([first, second])),
        })
    }

    /// Starts two daemons and waits until they see each other.
    ///
    /// # Errors
    /// When a daemon does not start or they stay apart.
    pub(super) fn daemons(scratch: &Scratch, name: &str) -> Result<Self, Trouble> {
        let home = scratch.sub(name)?;
        let mut daemons = Plan::list(&home, &["a", "b"])?.start()?;
        let (Some(b), Some(a)) = (daemons.pop(), daemons.pop()) else {
            return Err(Trouble::Unexpected("two daemons were asked for".to_owned()));
        };
        let mut first = a.control()?;
        first.connected(1, MESH_WITHIN)?;
        let mut second = b.control()?;
        second.connected(1, MESH_WITHIN)?;
        Ok(Self {
            a: a.socket().to_owned(),
            b: b.socket().to_owned(),
            second: second.node().to_owned(),
            ids: [a.id(), b.id()],
            keep: Keep::Daemons(Box::new([a, b])),
        })
    }

    /// Whether these are daemons, which know calls.
    #[must_use]
    pub(super) const fn is_daemons(&self) -> bool {
        matches!(self.keep, Keep::Daemons(_))
    }

    /// Where the app that sends connects.
    #[must_use]
    pub(super) fn enter(&self) -> &Path {
        &self.a
    }

    /// Where the app that receives connects.
    #[must_use]
    pub(super) fn leave(&self, nodes: Nodes) -> &Path {
        match nodes {
            Nodes::One => &self.a,
            Nodes::Two => &self.b,
        }
    }

    /// How the one writes the other's address.
    #[must_use]
    pub(super) fn address(&self, name: &str, nodes: Nodes) -> String {
        match nodes {
            Nodes::One => name.to_owned(),
            Nodes::Two => format!("{name}@{}", self.second),
        }
    }

    /// The processes that a message passes.
    #[must_use]
    pub(super) fn ids(&self, nodes: Nodes) -> &[u32] {
        match nodes {
            Nodes::One => &self.ids[..1],
            Nodes::Two => &self.ids,
        }
    }
}
