//! The router on a collecting outbox: no runtime, no sockets, time given by hand.
//!
//! Two routers are joined by carrying what is in one's lanes to the other, frame by frame.

#![allow(clippy::disallowed_methods, reason = "a test waits for real processes, in real time")]

mod announced;
mod bounds;
mod calls;
mod crowds;
mod ends;
mod hostile;
mod hosting;
mod interleaved;
mod kv;
mod life;
mod messages;
mod nodes;
mod options;
mod presence;
mod shared;
mod slices;
mod support;
mod topics;
mod waits;
