//! HTTP/1.1, for curl and scripts: a request becomes a command, and its answer a response.
//!
//! This is a spelling and nothing more: what a path means is the command of the same name. [`routes`] says which there
//! are, [`head`] and [`chunks`] read what an app writes, [`request`] makes commands of it, [`response`] and [`events`] write
//! what it hears. httparse reads the lines of a head. A whole HTTP library would add 150 KiB of text to every node, and
//! could not say in words what is wrong with a request.

pub mod chunks;
pub mod events;
pub mod head;
pub mod request;
pub mod response;
pub mod routes;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

/// Why a request is not carried out: a status, and what the body of the answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status of the answer.
    pub status: u16,
    /// One of the codes of the app protocol.
    pub code: &'static str,
    /// What is wrong and what to do instead.
    pub message: Cow<'static, str>,
    /// The methods that the path has, where it is the method that is wrong.
    pub allow: Option<String>,
}

impl Refusal {
    /// A request that is refused.
    #[must_use]
    pub fn new(status: u16, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, message: message.into(), allow: None }
    }

    /// A request that is not well formed.
    #[must_use]
    pub fn badarg(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, "badarg", message)
    }
}

/// The status that an error of this code is answered with; none for a code that is not known here.
#[must_use]
pub fn status_of(code: &str) -> Option<u16> {
    Some(match code {
        "badarg" | "badop" | "calling_self" => 400,
        "denied" => 403,
        "noproc" | "not_found" | "undef" => 404,
        "cancelled" | "draining" | "taken" => 409,
        "too_large" => 413,
        "cannot_start" | "exception" => 500,
        "unsupported" => 501,
        "exit" | "noconnection" => 502,
        "overloaded" => 503,
        "timeout" => 504,
        _ => return None,
    })
}
