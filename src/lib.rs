//! Pillion: the sidecar that gives an app, in any language, what Erlang gives its processes.
//!
//! One binary rides beside the app. It finds the other Pillions, joins them into an authenticated full mesh, and
//! serves nodes, processes, names, links, monitors and messages over one local Unix socket.
//!
//! # The tour
//!
//! A plain synchronous state machine in the middle, tasks that only move bytes at the edges, one file that joins
//! them. The path of a message, in the order in which the modules below are best read:
//!
//! ```text
//! app -> socket -> session -> hub[router] -> peer  ==wire==>  peer -> hub[router] -> session -> app
//! ```
//!
//! 1. [`wire`]: the words. Who is who, what apps say, what they hear, what sidecars say to each other.
//! 2. [`router`]: what the words mean. Commands, messages and deadlines in, effects out, and nothing else.
//! 3. [`hub`]: the router behind one lock, and the handles that sessions and peers hold it by.
//! 4. [`socket`], [`session`], [`dialect`]: how an app comes in, and the spellings that it may choose from.
//! 5. [`frame`], [`transport`], [`tls`], [`peer`]: how two sidecars talk, and when one of them is down.
//! 6. [`mesh`]: whom to talk to. What strategies and people want against what is connected.
//! 7. [`hosting`]: programs that are processes of the node, and how they are kept up.
//! 8. `admin`: probes and metrics over HTTP; `injector`: what runs once in a Kubernetes cluster and puts sidecars into
//!    pods, no part of a node.
//! 9. [`config`], [`shutdown`], [`logging`], `issuer`, [`node`]: how all of it is set up, started and stopped in order.
//! 10. [`client`], [`cli`]: the app's side of the socket, and the program that people type.
//!
//! Ways of finding nodes are a crate of their own, `pillion_strategies`, which names nothing of this one.
//!
//! Who may name whom: `node` the edges (`socket` and `session`, `mesh` and `peer`, `hosting`, `admin`, the strategies), these the `hub`,
//! the hub the `router`, the router the `wire`. Nothing points back out.
//!
//! # Architecture invariants
//!
//! `tests/tidy.rs` checks those that text can show.
//!
//! 1. The router does no IO, awaits nothing, reads no clock and draws no randomness: time and chance are arguments.
//! 2. What came from a peer is delivered here or nowhere; it is never forwarded.
//! 3. The router never looks inside a body: what arrives as CBOR leaves as the same bytes. JSON becomes CBOR in the
//!    sending session before the lock, and CBOR becomes JSON in the receiving one after it.
//! 4. Enqueue under the lock, write outside it: effects leave in the order in which state changed. Many frames per
//!    read, one lock per batch, one out buffer per connection, no timer in the data path. Work that touches many
//!    entries goes on in slices of [`router::SLICE`].
//! 5. Every queue, table, name, frame and backoff has a named bound, in bytes where bytes are what hurts; and so has
//!    the sum of the queues. When that is full, the mailbox that holds most sheds.
//! 6. A strategy says who exists. It never connects and never disconnects: discovery adds; only the failure
//!    detector, a goodbye or an explicit disconnect removes.
//! 7. Losing a peer is the only way in which a remote process dies without saying so, and
//!    [`router::Router::on_peer_down`] the only place that ends monitors for it.
//! 8. Death is one function: names are free before anybody hears of it.
//! 9. No statics: fifty nodes fit in one process, because the simulator needs them.
//! 10. Only a wrong configuration ends the daemon. What else fails is tried again, with capped and jittered backoff.
//! 11. The sidecar never dials the app. No lock, round or barrier spans the mesh: every peer is independent.
//! 12. One thread runs a node: a hand-over between threads costs more than it gives.

pub mod wire;

pub mod router;

pub mod hub;

pub mod socket;

pub mod session;

pub mod dialect;

pub mod frame;

pub mod transport;

pub mod tls;

pub mod peer;

pub mod mesh;

pub mod hosting;

#[cfg(feature = "admin")]
pub mod admin;

pub mod config;

pub mod shutdown;

mod backoff;

pub mod logging;

#[cfg(feature = "kubernetes")]
pub mod issuer;

pub mod node;

#[cfg(feature = "injector")]
pub mod injector;

pub mod client;

pub mod cli;
