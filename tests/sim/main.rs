//! The mesh on a simulated network: real TLS, real hellos, simulated TCP and time.
//!
//! A run repeats itself as far as timing goes: `PILLION_SEED=7 cargo test --test sim`. `PILLION_ROUNDS` makes the
//! tests that repeat themselves longer.
#![allow(unreachable_pub, missing_docs, reason = "a test has no public interface")]

mod announcing;
mod app;
mod calling;
mod composing;
mod crowding;
mod failing;
mod forming;
mod leaving;
mod naming;
mod publishing;
mod refusing;
mod tracking;
mod transport;
mod watching;
mod world;
