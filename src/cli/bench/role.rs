//! What a process of the benchmark is there for: this program starts itself once per role.
//!
//! The same clients are used against the floor and against the daemons, and every role is a process of its own, so
//! that nothing is measured that an app beside a sidecar would not see.
//!
//! ```text
//! parent                       client
//!   | <-------------- {"ready"} |    connected, registered
//!   | go ---------------------> |
//!   | <--------------- {result} |
//!   | (end of input) ---------> |    exits
//! ```

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::process::Trouble;
use super::{caller, frames, publisher, relay, responder, subscriber};

/// Longest wait of a client for an answer to its set-up.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A role and all it has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Role {
    /// Sends as fast as it is let.
    Publisher(publisher::Spec),
    /// Counts what comes.
    Subscriber(subscriber::Spec),
    /// Sends one message, waits for it to come back, and again.
    Pinger(responder::PingerSpec),
    /// Calls, with some under way at a time.
    Caller(caller::Spec),
    /// Sends back what comes.
    Echo(responder::EchoSpec),
    /// One half of the floor.
    Relay(relay::Spec),
}

/// The line that a client prints when it can begin.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ready {
    /// It can.
    Ready,
}

impl Role {
    /// The argument that makes this program play the role.
    #[must_use]
    pub(super) fn argument(&self) -> String {
        serde_json::to_string(self).expect("plain data becomes JSON")
    }
}

/// Plays a role until the input ends.
///
/// # Errors
/// When the argument is no role, or what it needs fails.
pub(super) fn play(argument: &str) -> Result<(), Trouble> {
    serde_json::from_str(argument)
        .map_err(|e| Trouble::Unexpected(format!("not a role: {e}")))
        .and_then(|role| match role {
            Role::Publisher(spec) => publisher::run(&spec),
            Role::Subscriber(spec) => subscriber::run(&spec),
            Role::Pinger(spec) => responder::ping(&spec),
            Role::Caller(spec) => caller::run(&spec),
            Role::Echo(spec) => responder::echo(&spec),
            Role::Relay(spec) => relay::run(spec),
        })
}

/// Prints one line of JSON for the parent.
///
/// # Errors
/// When the parent is gone.
pub(super) fn say<T: Serialize>(value: &T) -> Result<(), Trouble> {
    let line = serde_json::to_string(value).expect("plain data becomes JSON");
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(Trouble::io("answering the parent"))
}

/// Waits for the parent's next line; `None` when it wants no more.
#[must_use]
pub(super) fn told() -> Option<String> {
    io::stdin().lock().lines().next()?.ok()
}

/// A connection to a socket that has sent its set-up commands and heard that they were done.
///
/// # Errors
/// When the socket, or one of the answers, is not what it should be.
pub(super) fn connect(
    socket: &Path,
    commands: &[serde_json::Value],
) -> Result<(UnixStream, String), Trouble> {
    let what = || format!("connecting to {}", socket.display());
    let mut stream = UnixStream::connect(socket).map_err(Trouble::io(what()))?;
    stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(Trouble::io(what()))?;
    let own = ask(&mut stream, commands)?;
    Ok((stream, own))
}

/// Sends commands and hears that each was done; gives the pid that an answer told last.
///
/// # Errors
/// When one of the answers is not what it should be.
pub(super) fn ask(
    stream: &mut UnixStream,
    commands: &[serde_json::Value],
) -> Result<String, Trouble> {
    let mut own = String::new();
    let mut buffer = Vec::new();
    for (id, command) in (1..).zip(commands) {
        let mut command = command.clone();
        command["id"] = id.into();
        let mut header = Vec::new();
        ciborium::into_writer(&command, &mut header)
            .map_err(|e| Trouble::Unexpected(e.to_string()))?;
        let mut out = Vec::new();
        frames::frame(&mut out, &header, &[]);
        // A name is free once the sidecar has seen that the last round's client is gone.
        let deadline = Instant::now() + ANSWER_WITHIN;
        let answer = loop {
            stream.write_all(&out).map_err(Trouble::io("asking"))?;
            let answer = answer(stream, &mut buffer, id)?;
            if answer["code"] != "taken" || Instant::now() > deadline {
                break answer;
            }
            thread::sleep(Duration::from_millis(5));
        };
        if answer["ev"] != "ok" {
            return Err(Trouble::Unexpected(format!("{command} was answered {answer}")));
        }
        if let Some(pid) = answer["pid"].as_str() {
            pid.clone_into(&mut own);
        }
    }
    Ok(own)
}

fn answer(
    stream: &mut UnixStream,
    buffer: &mut Vec<u8>,
    id: u64,
) -> Result<serde_json::Value, Trouble> {
    let deadline = Instant::now() + ANSWER_WITHIN;
    loop {
        while let Some(frame) = frames::cut(buffer) {
            let header: serde_json::Value = ciborium::from_reader(frame.header)
                .map_err(|e| Trouble::Unexpected(e.to_string()))?;
            let bytes = frame.bytes;
            buffer.drain(..bytes);
            if header["id"] == id {
                return Ok(header);
            }
        }
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).map_err(Trouble::io("waiting for an answer"))?;
        if read == 0 {
            return Err(Trouble::Unexpected("the socket was closed during the set-up".to_owned()));
        }
        if Instant::now() > deadline {
            return Err(Trouble::Late("an answer", ANSWER_WITHIN));
        }
        buffer.extend_from_slice(&chunk[..read]);
    }
}

/// Where a client connects and under which name it is found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Place {
    /// The socket.
    pub socket: PathBuf,
    /// The name that it registers.
    pub name: String,
}
