//! Sends numbered messages as fast as its socket takes them, never one by one.

use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::process::Trouble;
use super::{frames, role};

/// What it writes at once, about.
const WRITE_BYTES: usize = 64 * 1024;

/// All that it has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    /// Where it connects.
    pub socket: PathBuf,
    /// Whom it sends to.
    pub to: String,
    /// Size of each body.
    pub body_bytes: usize,
    /// For how long.
    pub seconds: f64,
}

/// What it did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Published {
    /// Messages written.
    pub published: u64,
    /// What its sidecar complained of; empty when all is well.
    pub complaints: String,
}

/// Runs it.
///
/// # Errors
/// When its socket fails or the parent is gone.
pub(super) fn run(spec: &Spec) -> Result<(), Trouble> {
    let hello = serde_json::json!({"op": "hello", "version": 1, "client": "pillion bench"});
    let (mut stream, _) = role::connect(&spec.socket, &[hello])?;
    stream
        .set_write_timeout(Some(Duration::from_secs(10)))
        .map_err(Trouble::io("setting up the socket"))?;
    let (mut chunk, frame_bytes) = chunk(&spec.to, spec.body_bytes);

    role::say(&role::Ready::Ready)?;
    if role::told().is_none() {
        return Ok(());
    }
    let end = Instant::now() + Duration::from_secs_f64(spec.seconds);
    let mut published = 0;
    while Instant::now() < end {
        for frame in chunk.chunks_exact_mut(frame_bytes) {
            frames::set_number(frame, published);
            published += 1;
        }
        stream.write_all(&chunk).map_err(Trouble::io("publishing"))?;
    }

    let mut complaints = Vec::new();
    stream.set_nonblocking(true).map_err(Trouble::io("setting up the socket"))?;
    match (&stream).take(4096).read_to_end(&mut complaints) {
        Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(Trouble::io("listening")(e)),
        _ => {}
    }
    let complaints = complaints.escape_ascii().to_string();
    role::say(&Published { published, complaints })?;
    // The connection stays until the parent has heard from the subscriber.
    while role::told().is_some() {}
    Ok(())
}

/// As many equal frames as one write takes.
fn chunk(to: &str, body_bytes: usize) -> (Vec<u8>, usize) {
    let mut one = Vec::new();
    frames::frame(
        &mut one,
        &frames::header(&[("op", "send"), ("to", to)]),
        &frames::body(body_bytes),
    );
    (one.repeat(WRITE_BYTES.div_ceil(one.len())), one.len())
}
