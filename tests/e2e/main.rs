//! What real daemons do: the built binary, real sockets, real signals, apps in several dialects and languages.
//!
//! Each test starts its own daemons in a directory of its own, on ports that the system picks, and awaits events
//! with deadlines; nothing sleeps for a fixed time and nothing measures time but for generous upper bounds.

#![allow(
    clippy::needless_pass_by_value,
    reason = "commands are written in place: `app.ask(json!({...}))`"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "real daemons live in real time: deadlines are read from the clock, polls pause between two looks"
)]
#![allow(clippy::missing_panics_doc, reason = "a test that fails panics")]
#![allow(unreachable_pub, missing_docs, reason = "a test has no public interface")]

mod calls;
#[cfg(feature = "admin")]
mod dashboard;
#[cfg(all(target_os = "linux", feature = "dns"))]
mod dns;
mod executed;
mod factories;
#[cfg(target_os = "linux")]
mod finding;
#[cfg(feature = "admin")]
mod health;
mod hosting;
mod http;
mod http_client;
mod http_manual;
#[cfg(feature = "kubernetes")]
mod issued;
#[cfg(target_os = "linux")]
#[path = "../../strategies/tests/lan/mod.rs"]
mod lan;
mod leaving;
mod links;
mod mailboxes;
mod mesh;
#[cfg(all(target_os = "linux", feature = "dns"))]
#[allow(dead_code, reason = "the strategy's own tests need more of it")]
#[path = "../../strategies/tests/dns/server.rs"]
mod name_server;
mod order;
mod presence;
mod seed_a;
mod seed_b;
mod sessions;
mod sockets;
mod support;
mod topics;
mod trust;
