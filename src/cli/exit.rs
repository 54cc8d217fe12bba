//! How commands end: exit codes as `sysexits.h` has them, and what is said on standard error.

use std::io::{self, Write as _};
use std::process::ExitCode;

use super::clean;
use crate::client::{ClientError, FindError};
use crate::config::Problems;

/// The last part of every help.
pub(super) const HELP: &str = "\
Exit codes:
  0   done; the answer is yes
  1   the answer is no: pang, not ready, not connected, no such process, nothing came, what was
      called failed
  64  the command line is wrong
  65  what was given to it is wrong, such as a body that is not JSON
  69  no node answers, or nobody who could answer the call
  70  a bug of ours, or the system refused something
  73  something cannot be made, because the name, socket or port is taken,
      or the program cannot be started
  75  not now: too busy, timed out, leaving, or the connection is lost; try again
  77  not allowed";

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Whoever read the output has gone: nothing to complain of.
    Quiet = 0,
    /// The answer is no.
    No = 1,
    /// `EX_USAGE`.
    Usage = 64,
    /// `EX_DATAERR`.
    Data = 65,
    /// `EX_UNAVAILABLE`: no daemon, or nobody who answers calls.
    NoDaemon = 69,
    /// `EX_SOFTWARE`.
    Internal = 70,
    /// `EX_CANTCREAT`.
    CannotCreate = 73,
    /// `EX_TEMPFAIL`.
    Temporary = 75,
    /// `EX_NOPERM`.
    Denied = 77,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command has no good end: an exit code, and words unless the output has said it all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How the process ends.
    pub exit: Exit,
    /// What happened, and what to do.
    pub words: String,
}

impl Failure {
    /// A failure with words for standard error.
    #[must_use]
    pub fn new(exit: Exit, words: impl Into<String>) -> Self {
        Self { exit, words: words.into() }
    }

    /// The answer is no, and the output has said so.
    #[must_use]
    pub const fn no() -> Self {
        Self { exit: Exit::No, words: String::new() }
    }

    /// Says it on standard error.
    pub(super) fn tell(&self) -> ExitCode {
        if !self.words.is_empty() {
            // There is nobody left to tell that nobody can be told.
            let _ = writeln!(io::stderr(), "pillion: {}", self.words);
        }
        self.exit.into()
    }
}

impl From<FindError> for Failure {
    fn from(error: FindError) -> Self {
        let exit = match &error {
            FindError::None { .. } => Exit::NoDaemon,
            FindError::NotOurs { .. } => Exit::Denied,
            FindError::Several(_) => Exit::Usage,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let words = error.to_string();
        match error {
            ClientError::Connect { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => Self::new(
                    Exit::Denied,
                    format!("{words}: only the user who started that node may talk to it"),
                ),
                _ => Self::new(
                    Exit::NoDaemon,
                    format!("{words}: does the node run? `pillion up` starts one"),
                ),
            },
            ClientError::Refused { code, maybe_applied, .. } => {
                let again = if maybe_applied { ": it may have happened all the same" } else { "" };
                Self::new(of_code(&code), format!("{words}{again}"))
            }
            ClientError::Lost(_) => Self::new(
                Exit::Temporary,
                format!("{words}: what was asked may have happened or not; try again"),
            ),
            ClientError::TooLarge(_) => Self::new(Exit::Data, words),
        }
    }
}

/// The exit that fits an error answer.
fn of_code(code: &str) -> Exit {
    match code {
        "noproc" | "not_found" | "exception" | "exit" => Exit::No,
        "undef" => Exit::NoDaemon,
        "badarg" | "unsupported" | "calling_self" => Exit::Usage,
        "too_large" => Exit::Data,
        "taken" | "cannot_start" => Exit::CannotCreate,
        "denied" => Exit::Denied,
        "overloaded" | "timeout" | "noconnection" | "nodedown" | "draining" => Exit::Temporary,
        _ => Exit::Internal,
    }
}

impl Failure {
    /// Why a call had no reply: whether it was carried out matters more than that it failed.
    pub(super) fn of_call(error: ClientError) -> Self {
        let ClientError::Refused { code, maybe_applied, .. } = &error else { return error.into() };
        let exit = match code.as_str() {
            "noproc" | "undef" => Exit::NoDaemon,
            code => of_code(code),
        };
        let done = if *maybe_applied {
            "it may have been carried out all the same"
        } else {
            "it was not carried out"
        };
        Self::new(exit, clean(&format!("{error}: {done}")))
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        let count = problems.0.len();
        let words = match problems.0.as_slice() {
            [one] => one.to_string(),
            _ => format!("{count} settings are wrong:\n{problems}").replace('\n', "\n  "),
        };
        Self::new(Exit::Usage, words)
    }
}

/// Writing the answer failed.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::Quiet, ""),
            _ => Self::new(Exit::Internal, format!("cannot write the answer: {error}")),
        }
    }
}
