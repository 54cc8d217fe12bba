//! `pillion version`.

use super::exit::Failure;
use super::{Globals, Output};
use crate::wire::message::PROTOCOL_MAX;

pub(super) fn run(globals: &Globals) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let output = Output { json: globals.json };
    output.say(&if output.json {
        serde_json::json!({ "version": version, "mesh_protocol": PROTOCOL_MAX }).to_string()
    } else {
        format!("pillion {version}")
    })
}
