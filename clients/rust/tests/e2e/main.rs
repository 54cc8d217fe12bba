//! The client against real nodes. Without a `pillion` to start every test says that it is skipped.

#![allow(unreachable_pub, reason = "a module of a test is seen by that test only")]

mod hostile;
mod leaving;
mod losing;
mod programs;
mod support;
mod talking;
mod watching;
