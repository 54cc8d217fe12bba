//! What is said: by apps to their sidecar, by the sidecar to its apps, and between sidecars.
//!
//! Nothing in here does IO, keeps state or knows the time.

pub mod cbor;
pub mod command;
pub mod event;
pub mod host;
pub mod id;
pub mod message;
pub mod pod;
pub mod shown;
