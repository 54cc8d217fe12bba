//! What goes over the wires, byte by byte: golden files for every command, every event and every frame between sidecars.
//!
//! The files in `golden/` are what other implementations may be tested against. `PILLION_BLESS=1 cargo test --test wire`
//! writes them anew from what the code does now; a difference that was not meant is a broken promise to every client.

mod commands;
mod events;
mod golden;
mod manual;
mod node;
mod peers;
